#!/usr/bin/env python3
"""How soon a server answers after kill -9: many small objects with -e, killed, started again.

  attach.py [--objects 10000000] [--value 50] [--ram MB...]   needs build/load (make build/load)

For each --ram one run, with flash for the rest: most objects on flash (default: just what the
index needs), or most in RAM. Printed: from exec to the first answer, and how much of it was the
attach as the server tells it. Both must be within 200 ms plus 1 s per 10 million objects. Then
every object is read back, right and none missing, unless --no-verify.
Exit: 0 all of it held, 1 not. The memory file is in --shm (/dev/shm), the flash file in --dir.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path.insert(0, os.path.join(ROOT, "t", "aid"))
from servers import Server  # noqa: E402

RECORD_BYTES = 80  # of an object on flash beside its value: key, header, rounding, table
MIB = 1 << 20


def generator(server, args, mode):
    run = subprocess.run(
        [os.path.join(ROOT, "build/load"), "--unix", server.path, "--mode", mode, "--kv",
         "--keys", str(args.objects), "--value", str(args.value), "--conns", "4", "--depth", "64",
         "--epoch", "1", "--no-miss", "--timeout", "120"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if run.returncode != 0:
        raise RuntimeError("%s: %s" % (mode, run.stdout.decode("latin-1")[-500:]))


def one(args, ram):
    memory = os.path.join(args.shm, "extant-attach-%d" % os.getpid())
    directory = tempfile.mkdtemp(prefix="extant-attach.", dir=args.dir)
    flash_mb = args.objects * (args.value + RECORD_BYTES) * 5 // 4 // MIB + 512
    server = Server(args.server, ["-m", str(ram), "-t", "2", "-e", memory, "-o",
                                  "ext_path=%s/flash:%dm" % (directory, flash_mb)], name="attach")
    try:
        server.start()
        generator(server, args, "load")
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        start = time.monotonic()
        server.start()
        server.command(b"mn\r\nget key-of-nobody")
        answer_ms = (time.monotonic() - start) * 1000
        told = re.search(r"took over (\d+) items in memory and (\d+) on flash in (\d+) ms",
                         server.log_tail())
        if not told:
            raise RuntimeError("nothing was taken over: " + server.log_tail())
        in_ram, on_flash, attach_ms = (int(n) for n in told.groups())
        bound_ms = 200 + (in_ram + on_flash) * 1000 / 1e7
        held = max(answer_ms, attach_ms) <= bound_ms
        print("-m %d: %d objects in RAM, %d on flash: first answer after %d ms, attach %d ms of it; "
              "bound %d ms%s" % (ram, in_ram, on_flash, answer_ms, attach_ms, bound_ms,
                                 "" if held else ": TOO SLOW"), flush=True)
        if not args.no_verify:
            generator(server, args, "verify")
            print("-m %d: all %d read back" % (ram, args.objects), flush=True)
        return held
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)
        for name in (memory, memory + ".meta"):
            if os.path.exists(name):
                os.unlink(name)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--objects", type=int, default=10_000_000)
    p.add_argument("--value", type=int, default=50)
    p.add_argument("--ram", type=int, action="append", help="-m of a run; repeatable")
    p.add_argument("--server", default=os.path.join(ROOT, "extant"))
    p.add_argument("--shm", default="/dev/shm")
    p.add_argument("--dir", default=None)
    p.add_argument("--no-verify", action="store_true")
    args = p.parse_args()
    on_flash = args.objects * 10 // MIB * 5 // 4 + 32
    in_ram = args.objects * (args.value + 130) // MIB
    return 0 if all([one(args, ram) for ram in args.ram or (on_flash, in_ram)]) else 1


if __name__ == "__main__":
    sys.exit(main())
