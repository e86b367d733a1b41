#!/usr/bin/env python3
"""What one request costs, in instructions of the server itself: a get and a set of 100 bytes in memory, and a
get of 1000 bytes from flash. Needs valgrind; a time of day and other programs don't change the figures.

  scripts/callgrind_cost.py extant              the figures
  scripts/callgrind_cost.py before/extant extant   the figures of both, and how they differ
  scripts/callgrind_cost.py --functions extant  and which functions need how many
  scripts/callgrind_cost.py --only get extant   of one kind of request
"""

import argparse
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 't', 'aid'))
from counted import cost  # noqa: E402

WORDS = {'get': 'get, memory', 'set': 'set, memory', 'flash': 'get, flash'}
FUNCTIONS_SHOWN = 40


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--functions', action='store_true')
    parser.add_argument('--only', choices=sorted(WORDS))
    parser.add_argument('binary', nargs='+', type=os.path.realpath)
    args = parser.parse_args()
    for word, text in WORDS.items():
        if args.only not in (None, word):
            continue
        first = None
        for binary in args.binary:
            counts = cost(binary, word)
            total = sum(counts.values())
            first = first or total
            print('%-12s %8.1f instructions %+6.1f%%  %s' % (text, total, 100 * (total / first - 1), binary))
            if args.functions:
                for name in sorted(counts, key=counts.get, reverse=True)[:FUNCTIONS_SHOWN]:
                    print('  %8.1f %s' % (counts[name], name))
    return 0


if __name__ == '__main__':
    sys.exit(main())
