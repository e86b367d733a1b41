#!/usr/bin/env python3
"""Sums up gcov's results: coverage.py OBJECT_DIR [FILE...]

A line for each top-level source: lines that were run, lines there are, per cent; worst first. Then
the total. For each FILE also the numbers of the lines that nothing ran.
"""

import glob
import json
import os
import subprocess
import sys


def counts_of(directory):
    """{file: {line: times}} over all objects, for sources of the top level."""
    files = {}
    objects = sorted(glob.glob(os.path.join(directory, "*.gcno")))
    if not objects:
        sys.exit("coverage: nothing in %s" % directory)
    out = subprocess.run(["gcov", "--json-format", "--stdout"] + objects, check=True,
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    for document in out.decode().splitlines():
        for file in json.loads(document)["files"]:
            name = os.path.normpath(file["file"])
            if "/" in name:
                continue
            lines = files.setdefault(name, {})
            for line in file["lines"]:
                n = line["line_number"]
                lines[n] = lines.get(n, 0) + line["count"]
    return files


def ranges(numbers):
    runs = []
    for n in sorted(numbers):
        if runs and runs[-1][1] == n - 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return " ".join("%d" % a if a == b else "%d-%d" % (a, b) for a, b in runs)


def main():
    files = counts_of(sys.argv[1])
    rows = []
    for name, lines in files.items():
        run = sum(1 for count in lines.values() if count > 0)
        rows.append((run / len(lines), name, run, len(lines)))
    for share, name, run, there in sorted(rows):
        print("%5.1f%%  %5d of %5d  %s" % (100 * share, run, there, name))
        if name in sys.argv[2:]:
            print("        not run: %s" % ranges(n for n, c in lines_not_run(files[name])))
    run, there = sum(r[2] for r in rows), sum(r[3] for r in rows)
    print("%5.1f%%  %5d of %5d  lines in all" % (100 * run / there, run, there))


def lines_not_run(lines):
    return [(n, c) for n, c in lines.items() if c == 0]


if __name__ == "__main__":
    main()
