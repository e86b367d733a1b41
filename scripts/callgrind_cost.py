#!/usr/bin/env python3
"""The cost of one request in instructions, of the server itself and with those of libraries: a get and a set of
100 bytes in memory, a get in a pipeline of 20, a get of 1000 bytes that is read from the device, and an item of 1000
bytes that the background sends to flash. Needs valgrind. The figures don't depend on other programs; two runs differ
by 0.2% at most, those of the background by 3%.

  scripts/callgrind_cost.py extant                 prints them
  scripts/callgrind_cost.py before/extant extant   of both, and how they differ
  scripts/callgrind_cost.py --functions extant     also for each function
  scripts/callgrind_cost.py --only get extant      for one kind of request
"""

import argparse
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 't', 'aid'))
from counted import cost, own  # noqa: E402

WORDS = {'get': 'get, memory', 'set': 'set, memory', 'pipeline': 'get, pipeline', 'flash': 'get, flash',
         'away': 'item to flash'}
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
            figures = own(counts, binary), sum(counts.values())
            first = first or figures
            more = [100 * (now / before - 1) for now, before in zip(figures, first)]
            print('%-13s %8.1f instructions %+6.1f%%, with libraries %8.1f %+6.1f%%  %s' % (
                text, figures[0], more[0], figures[1], more[1], binary), flush=True)
            if args.functions:
                for key in sorted(counts, key=counts.get, reverse=True)[:FUNCTIONS_SHOWN]:
                    print('  %8.1f %-40s %s' % (counts[key], key[1], os.path.basename(key[0])))
    return 0


if __name__ == '__main__':
    sys.exit(main())
