#!/usr/bin/env python3
"""Prints the table of clients and applications that the tests run, as README shows it.

client-matrix.py         the table
client-matrix.py check   is README's the same? Exit 1 and the difference if not

Each test in t/clients and t/apps has a line "# row: client | where it comes from | protocol | what the test does"
for each row; this adds the test's name. In README the table stands between two comments.
"""

import difflib
import glob
import os
import sys

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
BEGIN, END = "<!-- scripts/client-matrix.py -->\n", "<!-- end -->\n"


def rows():
    for test in sorted(glob.glob("t/apps/*") + glob.glob("t/clients/*")):
        if not os.path.isfile(test) or not os.access(test, os.X_OK):
            continue
        with open(test, encoding="utf-8") as f:
            found = [line[len("# row: "):].split("|") for line in f if line.startswith("# row: ")]
        if not found:
            sys.exit("client-matrix: %s has no \"# row:\"" % test)
        for cells in found:
            if len(cells) != 4:
                sys.exit("client-matrix: %s has a row of %d cells" % (test, len(cells)))
            yield [cell.strip() for cell in cells] + ["`%s`" % test]


def table():
    head = ["client", "from", "protocol", "tested", "by"]
    lines = [head, ["---"] * len(head), *sorted(rows(), key=lambda row: row[0].lower())]
    return ["| %s |\n" % " | ".join(line) for line in lines]


def main():
    os.chdir(TOP)
    if sys.argv[1:] != ["check"]:
        sys.stdout.writelines(table())
        return
    with open("README.md", encoding="utf-8") as f:
        text = f.readlines()
    shown = text[text.index(BEGIN) + 1:text.index(END)]
    if shown != table():
        sys.stdout.writelines(difflib.unified_diff(shown, table(), "README.md", "scripts/client-matrix.py"))
        sys.exit(1)
    print("ok: %d rows" % (len(shown) - 2))


main()
