#!/usr/bin/env python3
"""A connection in the clear costs the same whether the server has TLS or not: not one instruction more
for a get or a set. Counted by callgrind in the worker's thread, as the difference between few and many
requests.

EXTANT names the server. Exit 77: no valgrind, or no TLS. To compare servers: scripts/callgrind_cost.py.
"""

import os
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'aid'))
from counted import Least  # noqa: E402

TOP = os.path.dirname(os.path.dirname(HERE))
BINARY = os.environ.get('EXTANT', os.path.join(TOP, 'extant'))
WORDS = ('get', 'set')
ROUNDS = 16  # one is enough on an idle machine
NOISE = 1  # instructions: less than a comparison and a jump, more than what comes in between in every round


def main():
    if not shutil.which('valgrind'):
        print('skipped: no valgrind')
        return 77
    shown = subprocess.run([BINARY, '-h'], capture_output=True, text=True, timeout=120).stdout
    if '--enable-ssl' not in shown:
        print('skipped: built without TLS')
        return 77
    failed = False
    for word in WORDS:
        plain, tls = Least(BINARY, word), Least(BINARY, word, tls=True)
        for _ in range(ROUNDS):
            without, beside = plain.round(), tls.round()
            more = beside - without
            if abs(more) < NOISE:
                break
        failed = failed or more >= NOISE
        print('%s %s: %.2f instructions without -Z, %.2f on a notls: port beside TLS' % (
            'not ok' if more >= NOISE else 'ok    ', word, without, beside))
        if more >= NOISE:
            print(''.join('    %+.2f %s\n' % dearer for dearer in tls.dearer_than(plain)[:10]), end='')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
