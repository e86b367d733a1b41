#!/usr/bin/env python3
"""Draws docs/*.svg from the measured tables of BENCH.md; no other input, so the same table gives the same bytes.

plot.py            write the pictures
plot.py --check    exit 1 if one of them is not what BENCH.md says

Bars are ratios Extant / memcached: shorter is better, the line at 1 is memcached with the same flags and limits.
"""

import os
import re
import sys
from html import escape

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..')
WIDTH, LEFT, RIGHT, BAR, GAP, HEAD = 760, 240, 210, 18, 10, 62
SHOWN = 1.2  # the axis' end


def cells(line):
    return [cell.strip() for cell in line.strip().strip('|').split(' | ')]


def table(*head):
    """The rows of the first table of BENCH.md whose header begins with these cells, the header first."""
    with open(os.path.join(TOP, 'BENCH.md')) as f:
        lines = f.read().split('\n')
    for i, line in enumerate(lines):
        if line.startswith('| ') and cells(line)[:len(head)] == list(head):
            rows = [cells(line)]
            for row in lines[i + 2:]:
                if not row.startswith('| '):
                    break
                rows.append(cells(row))
            return rows
    raise SystemExit('BENCH.md has no table with the columns %s' % ', '.join(head))


def first_number(text):
    return float(re.match(r'\d*\.?\d+', text).group(0))


def last_number(text):
    """Of a range A..B the larger, so a picture shows the worse run."""
    return float(text.split('..')[-1])


def cost_rows(rows):
    """Name, ratio, both values; of the rows in which less is better and memcached is the other."""
    names = (('RAM get, 50 connections', 'RAM get, one at a time: CPU'), ('RAM get, pipeline 32', 'RAM get, 32 pipelined: CPU'),
             ('RAM set 100 B, pipeline 32', 'RAM set, 32 pipelined: CPU'), ('RAM bytes per 120-byte', 'RAM beside a value of 120 bytes'),
             ('Flash get of 1 KB', 'flash get of 1 KB: CPU'), ('the same: p99 latency at 50', 'flash get, 50 clients: p99'),
             ('one connection, flash get p50', 'flash get, 1 client: p50'), ('RAM per flash object', 'RAM for an object on flash'))
    for start, name in names:
        row = next((r for r in rows if r[0].startswith(start) and len(r) >= 4), None)
        if row:
            yield name, first_number(row[3]), '%s, %s' % (row[1], row[2])


def trace_rows(rows, what):
    """Name, the ratio beside the column that begins with this, and that column."""
    column = next(i for i, cell in enumerate(rows[0]) if cell.startswith(what))
    for row in rows[1:]:
        yield row[0], last_number(row[column + 1]), row[column]


def picture(title, note, rows):
    rows = list(rows)
    assert rows, title
    height, span = HEAD + len(rows) * (BAR + GAP) + 14, WIDTH - LEFT - RIGHT
    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" '
           'font-family="system-ui, sans-serif" font-size="13">' % (WIDTH, height, WIDTH, height),
           '<title>%s</title>' % escape(title), '<rect width="%d" height="%d" fill="#fff"/>' % (WIDTH, height),
           '<text x="16" y="24" font-size="15" font-weight="600" fill="#222">%s</text>' % escape(title),
           '<text x="16" y="44" fill="#666">%s</text>' % escape(note)]
    for i, (name, ratio, values) in enumerate(rows):
        y = HEAD + i * (BAR + GAP)
        out += ['<text x="%d" y="%d" text-anchor="end" fill="#222">%s</text>' % (LEFT - 10, y + 14, escape(name)),
                '<rect x="%d" y="%d" width="%.1f" height="%d" fill="#e6e6e6"/>' % (LEFT, y, span / SHOWN, BAR),
                '<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>' % (
                    LEFT, y, span * min(ratio, SHOWN) / SHOWN, BAR, '#2a6f97' if ratio <= 1 else '#b5622d'),
                '<text x="%d" y="%d" fill="#222">%.2f<tspan fill="#666" dx="8">%s</tspan></text>' % (
                    WIDTH - RIGHT - 18, y + 14, ratio, escape(values))]
    x = LEFT + span / SHOWN
    out += ['<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#222" stroke-dasharray="2 3"/>' % (x, HEAD - 6, x, height - 12), '</svg>']
    return '\n'.join(out) + '\n'


def pictures():
    traces = table('trace', 'misses: extstore, Extant')
    yield 'costs.svg', picture('What one operation costs', 'Extant / memcached; the line: memcached. Both values: memcached, Extant.',
                               cost_rows(table('row', 'memcached', 'Extant')[1:]))
    yield 'misses.svg', picture('Misses on traces', 'Extant / memcached with extstore, cache of 10% of the footprint. Both shares: extstore, Extant.',
                                trace_rows(traces, 'misses'))
    yield 'flash-writes.svg', picture('Bytes written to flash on the same traces', 'Extant / memcached with extstore. MB written: extstore, Extant.',
                                      trace_rows(traces, 'flash MB'))


def main():
    check, wrong = sys.argv[1:] == ['--check'], 0
    if sys.argv[1:] and not check:
        sys.exit(__doc__)
    for name, text in pictures():
        path = os.path.join(TOP, 'docs', name)
        if not check:
            with open(path, 'w') as f:
                f.write(text)
        elif not os.path.exists(path) or open(path).read() != text:
            print('docs/%s is not what BENCH.md says: run scripts/plot.py' % name)
            wrong += 1
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
