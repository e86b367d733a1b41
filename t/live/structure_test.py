#!/usr/bin/env python3
"""The house rules of the source tree, read from the tree itself.

The floors are the table in ARCHITECTURE.md. A room is a folder, or a file at the top with its header.
  up        a file includes only headers of its own room and of floors below it
  circle    no module (X.c with X.h) includes itself through others
  header    every .c has the .h of its name, and includes it
  long      a function is at most 70 lines long, or the comment above it says why: "Long: ..."
  global    what a file keeps at file scope and can change is static (BY_NAME: libraries look for these)
  floor     every file stands on a floor, and every floor has a file
  settings  only KNOW_SETTINGS know the operator's settings; storage sees what storage_config.c hands out
  name      a function that a comment or a document names, as `name()` or between back-ticks, exists
  uncalled  a function of a header is called by the product, or is one of TEST_DOORS
  hidden    a function of a header is called by another file, or by a test; otherwise it is static in its own
  edge      the function that a drawing of states (DRAWINGS) names on an edge goes to the edge's state, and each function
            that goes to a state is on an edge to it
  asserts   per 1000 lines of a room, at least as many assertions as ASSERTS says: it is raised, never lowered

Exit 0: all right; 1: not.
"""

import os
import re
import sys

BY_NAME = ('malloc_conf',)
KNOW_SETTINGS = ('operator', 'command', 'net', 'server', 'storage_config')  # rooms
# For tests that choose the order of events, or check a whole structure.
TEST_DOORS = ('clock_simulate', 'io_pool_ready', 'io_pool_step', 'maint_turn', 'extmap_assert')
# ASSERT, DEBUG_ASSERT, static_assert, lock_assert_.., worker_assert_mine: what was reached. Replace an assertion
# that no longer holds by one that does.
ASSERTS = {'proto': 30, 'operator': 30, 'command': 30, 'net': 31,
           'base': 30, 'space': 33, 'flash': 33, 'upkeep': 36, 'items': 35, 'restart': 35, 'top level': 30}
# The file that draws them, the prefix of the states' names, the folders that go to them, and how.
DRAWINGS = (
    ('flash/types.h', 'EXT_PAGE_', ('flash', 'upkeep', 'extstore'), r'\bstate(?:, | = )EXT_PAGE_([A-Z]+)'),
    ('flash/engine.h', 'EXT_WBUF_', ('flash', 'upkeep', 'extstore'), r'\bstate(?:, | = )EXT_WBUF_([A-Z]+)'),
    ('upkeep/reclaim.h', '', ('upkeep',), r'\bphase = ([A-Z]+);'),
    ('net/conn.h', 'CONN_', ('net',), r'(?:conn_become\(c, |\bstate = )CONN_([A-Z_]+)'),
    ('net/tls_conn.h', 'TLS_', ('net',), r'(?:\bstage = |list_add\([^;]*)TLS_([A-Z]+)'),
    ('cache_run.c', 'OP_', ('cache_run',), r'\bstate = OP_([A-Z]+)'),
    ('space/extmap.h', 'EXTMAP_', ('space',), r'(?:move_range|word_store)\([^;]*EXTMAP_([A-Z]+)'),
)
FUNCTION_LINES_MAX = 70
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..')
OUTSIDE = ('t', 'scripts', 'build')  # folders that are not the product
DOCUMENTS = ('ARCHITECTURE.md', 'HACKING.md')


def read(path):
    with open(os.path.join(ROOT, path), encoding='utf-8') as f:
        return f.read()


def floors():
    """Room -> number, from the table whose head is | floor | rooms | ..."""
    found = {}
    table = read('ARCHITECTURE.md').partition('| floor | rooms |')[2]
    for line in table.split('\n')[2:]:
        if not line.startswith('|'):
            break
        number, rooms = line.split('|')[1:3]
        for room in re.findall(r'[\w/.]+', rooms):
            found[room.rstrip('/').removesuffix('.c').removesuffix('.h')] = int(number)
    return found


def product_files():
    files = []
    for name in sorted(os.listdir(ROOT)):
        path = os.path.join(ROOT, name)
        if os.path.isdir(path) and not name.startswith('.') and name not in OUTSIDE:
            files += [name + '/' + n for n in sorted(os.listdir(path))]
        else:
            files.append(name)
    return [f for f in files if f.endswith(('.c', '.h'))]


def texts_of_tools():
    """Tests and scripts, in one text."""
    found = []
    for top in ('t', 'scripts'):
        for folder, _, names in os.walk(os.path.join(ROOT, top)):
            found += [os.path.join(folder, n) for n in names if n.endswith(('.c', '.h', '.py', '.sh'))]
    return ' '.join(read(path) for path in sorted(found))


def room_of(path):
    return path.split('/')[0] if '/' in path else path[:-2]


def includes_of(text):
    return re.findall(r'^#include "([^"]+)"', text, re.M)


# ---- the checks: a line for each place that breaks a rule ----


def wrong_floors(texts, floor):
    rooms = {room_of(path) for path in texts}
    for room in sorted(rooms - set(floor)):
        yield 'floor %s stands on none' % room
    for room in sorted(set(floor) - rooms):
        yield 'floor %s has no file' % room


def arrows_up(texts, floor):
    for path, text in texts.items():
        mine = room_of(path)
        for header in includes_of(text):
            other = room_of(header)
            if other != mine and floor.get(other, 0) >= floor.get(mine, 99):
                yield 'up %s includes %s' % (path, header)


def circles(texts):
    """Tarjan's components of the modules' graph; one line for each of several modules."""
    graph = {}
    for path, text in texts.items():
        graph.setdefault(path[:-2], set()).update(h[:-2] for h in includes_of(text))
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            at = stack.index(node)
            if len(stack) - at > 1:
                found.append('circle ' + ' '.join(sorted(stack[at:])))
            del stack[at:]

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def without_header(texts):
    for path, text in texts.items():
        header = path[:-2] + '.h'
        if path.endswith('.c') and path != 'server.c' and header not in includes_of(text):
            yield 'header %s has none' % path if header not in texts else \
                'header %s does not include its own' % path


def long_functions(texts):
    for path, text in texts.items():
        lines = text.split('\n')
        for start, line in enumerate(lines):
            if line != '{':
                continue
            end = lines.index('}', start)
            first = start  # up to the empty line or the end of what comes before
            while first > 0 and lines[first - 1] not in ('', '}') and not lines[first - 1].endswith((';', '*/')):
                first -= 1
            if end - first + 1 <= FUNCTION_LINES_MAX:
                continue
            above = []
            while first > 0 and lines[first - 1].strip() and lines[first - 1] != '}':
                first -= 1
                above.append(lines[first])
            if 'Long:' in ' '.join(above):
                continue
            name = re.findall(r'(\w+)\(', '\n'.join(lines[max(0, start - 4):start]))
            yield 'long %s %s' % (path, name[0] if name else 'line %d' % start)


def knows_settings(texts):
    for path, text in texts.items():
        if room_of(path) not in KNOW_SETTINGS and \
                ('operator/settings.h' in includes_of(text) or 'struct settings' in text):
            yield 'settings %s' % path


def statements(text):
    """The statements at file scope, without comments, strings and the insides of braces."""
    text = re.sub(r'/\*.*?\*/|//[^\n]*', ' ', text, flags=re.S)
    text = re.sub(r'"(\\.|[^"\\])*"|\'(\\.|[^\'\\])*\'', '""', text)
    text = re.sub(r'^[ \t]*#(\\\n|[^\n])*', '', text, flags=re.M)
    out, depth = '', 0
    for piece in re.split(r'([{};])', text):
        if piece == '{':
            depth += 1
            out += ' {} ' if depth == 1 else ''
        elif piece == '}':
            depth -= 1
            if depth == 0 and '=' not in out and re.search(r'\)[^;{]*\{\} $', out):
                out = ''  # the end of a function
        elif depth == 0 and piece == ';':
            yield ' '.join(out.split())
            out = ''
        elif depth == 0:
            out += piece


def globals_of(texts):
    for path, text in texts.items():
        for s in statements(text):
            head = s.split('=')[0]
            if not re.match(r'(extern |_Atomic|_Thread_local |volatile |unsigned |struct \w+ |enum \w+ |const )*'
                            r'\w+[\w\s*{}()]*[\s*]\w+\s*(\[[^]]*\])*\s*(\{\})?\s*$', head):
                continue
            if re.match(r'(static|typedef|_Static_assert|static_assert)\b|(struct|enum|union)( \w+)?( \{\})?( [A-Z_]+)?$', head):
                continue
            if '(' in head and '_Atomic(' not in head or re.search(r'\bconst\b[^*]*$', head.replace('const char', 'char')):
                continue
            name = re.findall(r'\w+', re.sub(r'\[.*', '', head))[-1]
            if name not in BY_NAME:
                yield 'global %s %s' % (path, name)


COMMENT = re.compile(r'/\*.*?\*/|//[^\n]*', re.S)


def wrong_names(texts, documents, tools):
    """Names with an underscore between back-ticks are those of functions, types, settings, counters or tests."""
    code = ' '.join(COMMENT.sub(' ', text) for text in texts.values())
    called, words = set(re.findall(r'\b(\w+)\(', code)), set(re.findall(r'\w+', code + tools))
    for path, text in texts.items():
        for name in re.findall(r'\b([a-z_]\w+)\(\)', ' '.join(COMMENT.findall(text))):
            if name not in called:
                yield 'name %s() in %s' % (name, path)
    for path, text in documents.items():
        for name in re.findall(r'\b([a-z]\w+)\(\)', text):
            if name not in called:
                yield 'name %s() in %s' % (name, path)
        for name in re.findall(r'`([a-z]+_\w+)`', text):
            if name not in words:
                yield 'name %s in %s' % (name, path)


def uncalled(texts):
    """A function is called if its name occurs at one more place than its declaration and its definition."""
    codes = {path: re.sub(r'"(\\.|[^"\\])*"', '""', COMMENT.sub(' ', text)) for path, text in texts.items()}
    places = {}
    for code in codes.values():
        for word in re.findall(r'\b[a-z]\w+\b', code):
            places[word] = places.get(word, 0) + 1
    for path, code in codes.items():
        if not path.endswith('.h'):
            continue
        for inline, name in re.findall(r'^(static )?(?!typedef|return|extern)\w[\w *]*?\b([a-z]\w+)\([^;{}]*\)[^;{}]*[;{]', code, re.M):
            if places[name] <= (1 if inline else 2) and name not in TEST_DOORS:
                yield 'uncalled %s %s' % (path, name)


def hidden(texts, tools):
    """A function that only its own .c and .h name, and no test, is static in that file; unless the header itself uses it."""
    codes = {path: set(re.findall(r'\w+', COMMENT.sub(' ', text))) for path, text in texts.items()}
    in_tools = set(re.findall(r'\w+', tools))
    for path, text in texts.items():
        code = COMMENT.sub(' ', text)
        for name in re.findall(r'^(?!typedef|return|static|extern)\w[\w *]*?\b([a-z]\w+)\([^;{}]*\)[^;{}]*;', code, re.M) \
                if path.endswith('.h') else ():
            outside = any(name in words for other, words in codes.items() if other[:-2] != path[:-2])
            if not outside and name not in in_tools and len(re.findall(r'\b%s\b' % name, code)) == 1:
                yield 'hidden %s %s' % (path, name)


def bodies(text):
    """The functions of a file, name and body."""
    lines = text.split('\n')
    for start, line in enumerate(lines):
        if line != '{':
            continue
        head = ' '.join(lines[max(0, start - 4):start]).rpartition(';')[2].rpartition('}')[2]
        name = re.search(r'(\w+)\(', COMMENT.sub(' ', head))
        if name:
            yield name.group(1), COMMENT.sub(' ', '\n'.join(lines[start:lines.index('}', start) + 1]))


def wrong_edges(texts, drawings):
    for drawing, prefix, rooms, store in drawings:
        drawn, named, goes = set(), set(), set()
        for comment in COMMENT.findall(texts.get(drawing, '')):
            for function, states in re.findall(r'--(\w+)--> ([A-Z_]+(?:, [A-Z_]+)*)', comment):
                drawn |= {(function, state) for state in states.split(', ')}
        for path, text in texts.items():
            if path.endswith('.c') and room_of(path) in rooms:
                for name, body in bodies(text):
                    goes |= {(name, state) for state in re.findall(store, body)}
                    named |= {(name, state) for state in re.findall(r'\b%s([A-Z_]+)\b' % prefix, body)}
        for name, state in sorted(drawn - named):
            yield 'edge %s draws %s to %s, and it does not go there' % (drawing, name, state)
        for name, state in sorted(goes - drawn):
            yield 'edge %s does not draw %s to %s' % (drawing, name, state)


def too_few_asserts(texts):
    lines, found = {}, {}
    for path, text in texts.items():
        room = room_of(path) if '/' in path else 'top level'
        lines[room] = lines.get(room, 0) + text.count('\n')
        found[room] = found.get(room, 0) + len(re.findall(r'^.*(?:ASSERT|static_assert|lock_assert|worker_assert_mine).*$', text, re.M))
    for room, wanted in ASSERTS.items():
        reached = 1000 * found.get(room, 0) // max(lines.get(room, 0), 1)
        if reached < wanted and room in lines:
            yield 'asserts %s has %d per 1000 lines, not %d' % (room, reached, wanted)


def broken_rules(texts, floor, documents, tools, drawings):
    return {line for lines in (wrong_floors(texts, floor), arrows_up(texts, floor), circles(texts),
                               without_header(texts), long_functions(texts), globals_of(texts),
                               wrong_names(texts, documents, tools), knows_settings(texts), uncalled(texts), hidden(texts, tools),
                               wrong_edges(texts, drawings), too_few_asserts(texts))
            for line in lines}


def self_check():
    """A small tree in which every rule is broken."""
    body = '{\n' + '    x();\n' * 70 + '}\n'
    texts = {
        'low/a.h': '#include "high/b.h"\nextern int told;\nstruct s {\n    int x;\n} ALIGNED;\n',
        'low/a.c': '#include "low/a.h"\nstatic int mine;\nconst char *const names[] = {"a"};\nint count = 1;\n'
                   'int f(int x)\n{\n    int y;\n    return f(y);\n}\n',
        'high/b.h': '#include "low/a.h"\nint f(int x);\ntypedef int number;\n',
        'high/b.c': '#include "high/b.h"\nvoid far(void)\n' + body + '\n/* Long: a case a verb. */\nvoid well(void)\n' + body,
        'low/e.h': '/* f() is called, go() is not. */\nvoid alone(\n    int x);\nstatic inline int quick(void)\n{\n}\n', 'low/e.c': '#include "low/e.h"\n/* set_up() and f(). */\n',
        'high/c.c': '#include "operator/settings.h"\nstruct s table[4];\nstatic_assert(1, "");\n', 'd.c': '#include "d.h"\n', 'd.h': '', 'base/f.h': '\n' * 99,
    }
    texts['low/a.h'] += '/* A --f--> B, C\n * B --g--> A */\n'
    texts['low/e.c'] += 'int g(void)\n{\n    state = A;\n    state = C;\n}\n'
    drawings = (('low/a.h', '', ('low',), r'state = ([A-Z]+);'),)
    found = broken_rules(texts, {'base': 0, 'low': 1, 'high': 2, 'none': 3}, {'D.md': '`no_such`, `f`, gone(), far(), `a_tool`'},
                         'a_tool', drawings)
    wanted = {'floor d stands on none', 'floor none has no file', 'up low/a.h includes high/b.h',
              'circle high/b low/a', 'header high/c.c has none', 'long high/b.c far', 'global low/a.h told',
              'global low/a.c count', 'global high/c.c table', 'name go() in low/e.h', 'name set_up() in low/e.c',
              'name no_such in D.md', 'name gone() in D.md', 'settings high/c.c', 'uncalled low/e.h alone',
              'uncalled low/e.h quick', 'hidden low/e.h alone', 'edge low/a.h does not draw g to C',
              'edge low/a.h draws f to B, and it does not go there', 'edge low/a.h draws f to C, and it does not go there', 'asserts base has 0 per 1000 lines, not %d' % ASSERTS['base'],
              'asserts top level has 0 per 1000 lines, not %d' % ASSERTS['top level']}
    if found != wanted:
        raise SystemExit('the test is wrong: %s' % sorted(found ^ wanted))


def main():
    self_check()
    texts = {path: read(path) for path in product_files()}
    floor = floors()
    if not floor:
        print('no table of floors in ARCHITECTURE.md')
        return 1
    found = broken_rules(texts, floor, {path: read(path) for path in DOCUMENTS}, texts_of_tools(), DRAWINGS)
    for line in sorted(found):
        print('not allowed: ' + line)
    print('%d files, %d rules broken' % (len(texts), len(found)))
    return 1 if found else 0


if __name__ == '__main__':
    sys.exit(main())
