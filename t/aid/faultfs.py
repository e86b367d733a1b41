"""Directories on faultfs (scripts/faultfs.c), whose reads and writes fail or stall when told to.

A mount ends with close(), whatever waits in it: a server that still has files there gets errors from then on.
"""

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import time

from servers import PATIENCE_SECONDS

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts", "faultfs.c")


def skip(why):
    print("skipped: %s" % why)
    sys.exit(77)


def unmount(path):
    """Lazily, as something may still wait in it. No harm if nothing is mounted there."""
    if ctypes.CDLL(None, use_errno=True).umount2(os.fsencode(path), 2) != 0 and os.getuid() != 0:
        subprocess.run(["fusermount3", "-uz", path], stderr=subprocess.DEVNULL, check=False)


class CantMount(OSError):
    """faultfs doesn't run on this machine."""


def build(directory):
    """Compiles faultfs; the program. Ends the test as skipped where FUSE or its library is missing, or nothing can be mounted."""
    program = os.path.join(directory, "faultfs")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK) or not shutil.which("fusermount3") or not shutil.which("pkg-config"):
        skip("no /dev/fuse, fusermount3 or pkg-config")
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True, check=False)
    if flags.returncode != 0:
        skip("libfuse3-dev is missing")
    subprocess.run([os.environ.get("CC", "cc"), "-std=gnu11", "-O2", "-D_GNU_SOURCE", SOURCE, "-o", program]
                   + flags.stdout.split(), check=True)
    try:
        Mount(program).close()
    except CantMount as why:
        skip(why)
    return program


class Mount:
    """faultfs on a directory of its own: self.point shows what self.back holds. CantMount if that fails."""

    def __init__(self, program, where=None):
        self.temporary = None if where else tempfile.mkdtemp(prefix="extant-faultfs.")
        where = where or self.temporary
        self.back = os.path.join(where, "back")
        self.point = os.path.join(where, "mount")
        os.makedirs(self.back, exist_ok=True)
        os.makedirs(self.point, exist_ok=True)
        self.process = subprocess.Popen([program, self.back, self.point])
        self.control = os.path.join(self.point, ".faults")
        end = time.monotonic() + PATIENCE_SECONDS
        while not os.path.exists(self.control):
            if self.process.poll() is not None or time.monotonic() > end:
                self.close()
                raise CantMount("FUSE can't mount here")
            time.sleep(0.01)

    def set(self, words):
        with open(self.control, "w") as f:
            f.write(words)

    def counts(self):
        with open(self.control) as f:
            return {name: int(n) for name, n in (line.split() for line in f)}

    def close(self):
        if self.process.poll() is None:
            if os.path.exists(self.control):
                with contextlib.suppress(OSError):
                    self.set("off")  # it waits for its stalls before it ends
            self.process.terminate()
            try:
                self.process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        unmount(self.point)
        if self.temporary:
            shutil.rmtree(self.temporary, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()
