#!/usr/bin/env python3
"""Do the tests notice? Plants the faults of scripts/mutants_list.py into a copy of the tree, one at a time,
and runs the tests that must fail then.

  mutants.py [--only TEXT[,TEXT...]] [--jobs N]   plants them all, or those whose name or file has a TEXT
  mutants.py --check                              only looks whether each can still be planted; make test does that

A mutant is killed when one of its tests fails, crashes or hangs, in the debug build or, if it survives there,
with ASan. One that survives is a hole in the tests, unless the list argues why it changes nothing that can
be seen ("equivalent"). An old text that is gone, or is there twice, is an error: the list moves with the code.

The copy is build/mutants/tree ($MUTANTS_TREE, for two runs at once), with its own build folder; a compiler
cache makes the second run quick.
Exit 0: each was killed or argued; 1: some survived; 2: the list or the tests don't fit the tree.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from mutants_list import MUTANTS  # noqa: E402

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
TREE = os.environ.get("MUTANTS_TREE", os.path.join(ROOT, "build", "mutants", "tree"))
LONGEST_SECONDS = 900  # for a test without any mutant
SERVERS = {"debug": "./extant-debug", "asan": "build/extant-asan"}  # the quick build first, then one that sees more
HANGS = 20, 60  # with one it hangs after this many times as long, and these seconds more


class Unfit(Exception):
    """A mutant that can't be planted or built, or a test that fails without it."""


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def check():
    """The list's errors, as lines."""
    wrong, names = [], set()
    for m in MUTANTS:
        if m.name in names:
            wrong.append("%s: there are two of this name" % m.name)
        names.add(m.name)
        path = os.path.join(ROOT, m.file)
        count = read(path).count(m.old) if os.path.exists(path) else -1
        if count != 1:
            wrong.append("%s: %s %s" % (m.name, m.file, "is gone" if count < 0 else
                                        "has its old text %d times" % count))
        if m.old == m.new:
            wrong.append("%s: changes nothing" % m.name)
        if not m.tests and not m.equivalent:
            wrong.append("%s: neither tests nor a reason" % m.name)
        for test in m.tests:
            program, _, pattern = test.partition(":")
            source = os.path.join(ROOT, "t/unit/%s.c" % program)
            if not os.path.exists(source):
                wrong.append("%s: no test program %s" % (m.name, program))
            elif pattern and not set("*[") & set(pattern) and \
                    "(%s)" % pattern.replace("/", ", ") not in read(source) and \
                    "(%s," % pattern.replace("/", ", ") not in read(source):
                wrong.append("%s: no test %s" % (m.name, test))
    return wrong


def copy_tree():
    """The files under version control as they are in the working tree; what didn't change stays untouched."""
    files = subprocess.run(["git", "-C", ROOT, "ls-files"], check=True, capture_output=True,
                           text=True).stdout.split("\n")
    for name in filter(None, files):
        source, target = os.path.join(ROOT, name), os.path.join(TREE, name)
        if not os.path.isfile(source):
            continue
        if os.path.exists(target) and read_bytes(source) == read_bytes(target):
            continue
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copyfile(source, target)
        shutil.copymode(source, target)


def read_bytes(path):
    with open(path, "rb") as f:
        return f.read()


def build(programs, variant, jobs):
    """The programs, and the server for those that spawn one. What the compiler says if it fails."""
    targets = ["build/%s/t/unit/%s" % (variant, p) for p in sorted(programs)]
    if any("harness.h" in read(os.path.join(ROOT, "t/unit/%s.c" % p)) for p in programs):
        targets.append(SERVERS[variant])
    made = subprocess.run(["make", "-s", "-C", TREE, "-j%d" % jobs] + targets, capture_output=True, text=True,
                          env=dict(os.environ, CCACHE_NOHASHDIR="1"))
    return None if made.returncode == 0 else made.stderr[-2000:]


def fails(test, variant, seconds):
    """How a test failed; None: it passed."""
    program, _, pattern = test.partition(":")
    command = ["build/%s/t/unit/%s" % (variant, program), "--jobs", "2", "--fail-fast"]
    command += ["--filter", pattern] if pattern else []
    with open(os.path.join(TREE, "output"), "wb") as out:
        try:
            code = subprocess.run(command, cwd=TREE, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                  timeout=seconds,
                                  env=dict(os.environ, SIM_SEEDS="60", EXTANT_BIN=SERVERS[variant])).returncode
        except subprocess.TimeoutExpired:
            return "hangs"
    text = read_bytes(os.path.join(TREE, "output"))
    if b"Tested: \x1b[0;34m0\x1b" in text or b"Tested: 0 " in text:
        raise Unfit("%s runs nothing" % test)
    return None if code == 0 else "fails"


def programs_of(tests):
    return {test.partition(":")[0] for test in tests}


def try_all(tests):
    """Runs the tests without any mutant: {test: seconds until it counts as hanging}, those that pass."""
    limits = {}
    for test in tests:
        start = time.monotonic()
        how = fails(test, "debug", LONGEST_SECONDS)
        if how:
            print("UNFIT     %s %s without any mutant" % (test, how), flush=True)
        else:
            limits[test] = (time.monotonic() - start) * HANGS[0] + HANGS[1]
    return limits


def plant(m, limits, jobs):
    """What killed it: the test and how; None: it survived."""
    tests = [t for t in m.tests if t in limits]
    path = os.path.join(TREE, m.file)
    whole = read(path)
    try:
        with open(path, "w", encoding="utf-8") as f:
            f.write(whole.replace(m.old, m.new))
        for variant in SERVERS:
            error = build(programs_of(tests), variant, jobs)
            if error:
                raise Unfit("doesn't compile: %s" % error)
            for test in tests:
                how = fails(test, variant, limits[test])
                if how:
                    return "%s %s (%s)" % (test, how, variant)
        return None
    finally:
        with open(path, "w", encoding="utf-8") as f:
            f.write(whole)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--only", default="", metavar="TEXT[,TEXT...]")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    wrong = check()
    for line in wrong:
        print(line)
    if wrong or args.check:
        print("%d mutants, %d of them don't fit the tree" % (len(MUTANTS), len(wrong)))
        return 2 if wrong else 0
    picked = [m for m in MUTANTS if any(t in m.name or t in m.file for t in args.only.split(","))]
    copy_tree()
    tests = sorted({t for m in picked if not m.equivalent for t in m.tests})
    print("%d mutants; first %d tests without any" % (len(picked), len(tests)), flush=True)
    error = build(programs_of(tests), "debug", args.jobs)
    if error:
        print(error)
        return 2
    limits = try_all(tests)
    killed, survived, unfit, argued = 0, [], len(tests) - len(limits), 0
    for m in picked:
        start = time.monotonic()
        if m.equivalent:
            argued += 1
            print("argued    %s: %s" % (m.name, m.equivalent), flush=True)
            continue
        try:
            how = plant(m, limits, args.jobs)
        except Unfit as e:
            unfit += 1
            print("UNFIT     %s (%s): %s" % (m.name, m.file, e), flush=True)
            continue
        killed += how is not None
        if how is None:
            survived.append(m.name)
        print("%s  %s (%s): %s, %.0f s" % ("killed  " if how else "SURVIVED", m.name, m.file,
                                           how or "passed " + " ".join(m.tests),
                                           time.monotonic() - start), flush=True)
    print("%d mutants: %d killed, %d survived, %d argued equivalent, %d unfit" % (
        len(picked), killed, len(survived), argued, unfit))
    return 2 if unfit else 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
