#!/usr/bin/env python3
"""t/live/compat.tsv is complete and true: it has every flag and suboption that -h names, every command of
the table in proto/proto.h, every line that `stats` and its groups show, and every meta flag; nothing that
is not there; and each test that it names exists.

EXTANT_DEBUG_BIN names the binary (it has the debug commands, too). Exit 0: all right; 1: not.
"""

import collections
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'aid'))
import servers  # noqa: E402

TOP = os.path.dirname(os.path.dirname(HERE))
BINARY = os.environ.get('EXTANT_DEBUG_BIN', os.path.join(TOP, 'extant-debug'))
GROUPS = ('settings', 'items', 'slabs', 'extstore', 'conns', 'extant', 'extents')
FAILED = []


def complain(text):
    print('not ok %s' % text)
    FAILED.append(text)


def read_table():
    table = collections.defaultdict(dict)
    with open(os.path.join(HERE, 'compat.tsv')) as f:
        for number, line in enumerate(f, 1):
            if line.startswith('#'):
                continue
            fields = line.rstrip('\n').split('\t')
            if len(fields) != 3 or not all(fields):
                complain('line %d has not three columns' % number)
                continue
            kind, name, tests = fields
            if name in table[kind]:
                complain('%s %s stands there twice' % (kind, name))
            table[kind][name] = tests.split()
    return table


def shown_by_help():
    text = subprocess.run([BINARY, '-h'], capture_output=True, text=True, timeout=servers.PATIENCE_SECONDS).stdout
    return {'flag': set(re.findall(r'^(-\w|--[\w-]+)[, =]', text, re.M)),
            'suboption': set(re.findall(r'^   - (\w+):', text, re.M))}


def shown_by_server():
    """Of `stats` and its groups, with every setting that adds lines."""
    flags = ['-m', '64', '-Z', '-o', 'ssl_chain_cert=@DIR@/server.crt,ssl_key=@DIR@/server.key,'
             'ssl_session_cache,idle_timeout=100,temporary_ttl=60,ext_path=@DIR@/flash:64m,ext_page_size=2,ext_wbuf_size=2']
    found = collections.defaultdict(set)
    server = servers.Server(BINARY, flags, 'compat')
    servers.make_cert(server.dir)
    with server:
        with server.connect() as client:
            client.sendall(b'set a 0 0 1\r\nx\r\n')
            client.recv(100)
        for group in ('',) + GROUPS:
            for name in server.stats(group.encode()):
                found[('stats ' + group).strip()].add(re.sub(r'^((items:|device:)?\d+|arena):|(?<=:run):\d+$', '', name))
    return found


def in_proto_h():
    with open(os.path.join(TOP, 'proto/proto.h')) as f:
        return set(re.findall(r'X\(VERB_\w+,\s*"(\w+)"', f.read()))


def compare(kind, there, table):
    for name in sorted(there - set(table)):
        complain('%s %s is not in the table' % (kind, name))
    for name in sorted(set(table) - there):
        complain('%s %s is in the table only' % (kind, name))


def names_in(path):
    """Tests of a file: Test(suite, NAME) in C; functions and tables in Python."""
    with open(path) as f:
        text = f.read()
    if path.endswith('.c'):
        return set(re.findall(r'^Test\(\w+, (\w+)', text, re.M))
    return set(re.findall(r'^def (\w+)', text, re.M)) | set(re.findall(r'^([A-Z_]+) = ', text, re.M))


def tests_exist(table):
    known = {}
    for kind, rows in table.items():
        for name, tests in rows.items():
            for test in tests:
                path, _, inside = test.partition(':')
                full = os.path.join(TOP, path)
                if path not in known:
                    runs = path.endswith('_test.c') or os.access(full, os.X_OK)
                    known[path] = names_in(full) if os.path.exists(full) and runs else None
                if known[path] is None:
                    complain('%s %s: %s is no test' % (kind, name, path))
                elif inside and inside not in known[path]:
                    complain('%s %s: %s has no test %s' % (kind, name, path, inside))


def main():
    table = read_table()
    for kind, there in list(shown_by_help().items()) + list(shown_by_server().items()):
        compare(kind, there, table[kind])
    commands = in_proto_h()
    for name in sorted(commands - set(table['command'])):
        complain('command %s is not in the table' % name)
    for name in table['command']:
        if name.split()[0] not in commands | {'UDP'}:
            complain('command %s is in the table only' % name)
    tests_exist(table)
    print('%d rows, %d failed' % (sum(len(rows) for rows in table.values()), len(FAILED)))
    return 1 if FAILED else 0


if __name__ == '__main__':
    sys.exit(main())
