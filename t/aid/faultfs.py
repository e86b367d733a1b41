"""Directories on faultfs (scripts/faultfs.c), whose reads and writes fail or stall when told to."""

import os
import shutil
import subprocess
import sys
import tempfile
import time

from servers import PATIENCE_SECONDS

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts", "faultfs.c")


def skip(why):
    print("skipped: " + why)
    sys.exit(77)


def build(directory):
    """Compiles faultfs; the program. Ends the test as skipped where FUSE or its library is missing."""
    program = os.path.join(directory, "faultfs")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK) or not shutil.which("fusermount3") or not shutil.which("pkg-config"):
        skip("no /dev/fuse, fusermount3 or pkg-config")
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True, check=False)
    if flags.returncode != 0:
        skip("libfuse3-dev is missing")
    subprocess.run([os.environ.get("CC", "cc"), "-std=gnu11", "-O2", "-D_GNU_SOURCE", SOURCE, "-o", program]
                   + flags.stdout.split(), check=True)
    return program


class Mount:
    """faultfs on a directory of its own."""

    def __init__(self, program, where=None):
        self.temporary = None if where else tempfile.mkdtemp(prefix="extant-faultfs.")
        where = where or self.temporary
        self.back = os.path.join(where, "back")
        self.point = os.path.join(where, "mount")
        os.makedirs(self.back, exist_ok=True)
        os.makedirs(self.point, exist_ok=True)
        self.process = subprocess.Popen([program, self.back, self.point])
        self.control = os.path.join(self.point, ".faults")
        end = time.monotonic() + 10
        while not os.path.exists(self.control):
            if self.process.poll() is not None or time.monotonic() > end:
                self.close()
                print("skipped: FUSE can't mount here")
                sys.exit(77)
            time.sleep(0.01)

    def set(self, words):
        with open(self.control, "w") as f:
            f.write(words)

    def counts(self):
        with open(self.control) as f:
            return {name: int(n) for name, n in (line.split() for line in f)}

    def close(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.temporary:
            shutil.rmtree(self.temporary, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.set("off")
        self.close()
