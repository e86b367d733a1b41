#!/usr/bin/env python3
"""scripts/size.py against a server: the flash that it computes holds all objects with little room left over, and
the index takes no more than it says. What docs/OPERATIONS.md shows of it is what it prints, and nonsense is refused."""

import json
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "aid"))
import servers  # noqa: E402
from servers import expect, wait_for  # noqa: E402

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
BINARY = os.environ.get("EXTANT", os.path.join(TOP, "extant"))


def sized(objects, value):
    out = subprocess.run([os.path.join(TOP, "scripts/size.py"), "--objects", str(objects), "--value", str(value),
                          "--key", "12", "--page", "1", "--wbuf", "1", "--json"],
                         check=True, capture_output=True, text=True)
    return json.loads(out.stdout)


def holds(objects, value):
    size = sized(objects, value)
    flags = ["-m", str(size["memory_mb"]), "-o", "ext_path=@DIR@/flash:%dm,ext_page_size=1,ext_wbuf_size=1,"
             "ext_item_age=0,ext_item_size=0,ext_recache_rate=0" % (size["flash_bytes"] >> 20)]
    with servers.Server(BINARY, flags, "size") as server:
        client = servers.Client(server)
        for first in range(0, objects, 1000):
            client.send(b"".join(b"set key-%08d 0 0 %d noreply\r\n%s\r\n" % (i, value, b"v" * value)
                                 for i in range(first, min(first + 1000, objects))))
        client.ask(b"mn")
        wait_for(lambda: client.stats(b"extant")["ram_items"] == "0")
        stats, own = client.stats(), client.stats(b"extant")
        name = "%d objects of %d bytes" % (objects, value)
        expect(name + ": all are there", stats["curr_items"] == str(objects), stats["curr_items"])
        expect(name + ": none was evicted", stats["evictions"] == "0", stats["evictions"])
        expect(name + ": RAM for an object", float(own["ram_bytes_per_flash_object"]) <= 10 or objects < 100000,
               own["ram_bytes_per_flash_object"])
        free = int(stats["extstore_pages_free"])
        pages = size["flash_bytes"] >> 20
        expect(name + ": not much too large", free <= 8 + pages * 0.05, "%d pages of %d are free" % (free, pages))
        print("%s: %d pages, %d free" % (name, pages, free))
        client.close()


def small_values():
    holds(200000, 100)


def values_of_a_kilobyte():
    holds(60000, 1000)


def values_of_100_kilobytes():
    holds(600, 100000)


def run(arguments):
    done = subprocess.run([os.path.join(TOP, "scripts/size.py"), *arguments.split()], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def what_the_manual_shows():
    with open(os.path.join(TOP, "docs/OPERATIONS.md")) as f:
        manual = f.read()
    example = re.search(r"^\$ scripts/size\.py (.*)\n((?:.*\n)*?)```", manual, re.M)
    expect("the example prints what stands below it", run(example[1])[1] == example[2], run(example[1])[1])
    for row, arguments in (
            (r"\| 20 million \| 1 KB \| 2% ", "--objects 20m --value 1k --hot 2% --device 480g --sets 2000"),
            (r"\| 1 billion \| 200 bytes \| 0\.1% ", "--objects 1g --value 200 --hot 0.1% --device 1t --sets 10000"),
            (r"\| 100,000 \| 1 MB .*?\| 1% ",
             "--objects 100k --value 1m --wbuf 8 --hot 1% --device 240g --dwpd 0.3 --sets 20")):
        shown = re.search(row + r"\| (\d+) \| ([\d.]+) GB \| (\d+) GB \|.*\| \**([\d.]+) years\**", manual)
        size = json.loads(run(arguments + " --json")[1])
        now = ("%d" % size["memory_mb"], "%.1f" % (size["total_mb"] / 1024), "%d" % round(size["flash_bytes"] / (1 << 30)),
               "%.*f" % (0 if size["years"] > 1 else 1, size["years"]))
        expect("the row of " + arguments, shown and shown.groups() == now, now)


def nonsense():
    for arguments in ("--objects abc --value 1", "--objects 0 --value 10", "--objects -5 --value 10", "--objects 9 --value 1kb",
                      "--objects nan --value 10", "--objects 9 --value inf", "--objects 9 --value 9 --hot 2",
                      "--objects 9 --value 9 --overwritten 101%", "--objects 9 --value 9 --page 0",
                      "--objects 9 --value 9 --wbuf 3", "--objects 9 --value 9 --page 2 --wbuf 4",
                      "--objects 1m --value 2m", "--objects 1g --value 10k", "--objects 9 --value 9 --dwpd 0"):
        code, out = run(arguments)
        expect("refused: " + arguments, code in (1, 2) and out.splitlines()[-1].startswith("size.py: ")
               and "Traceback" not in out, out)


sys.exit(servers.run_scenarios((what_the_manual_shows, nonsense, small_values, values_of_a_kilobyte, values_of_100_kilobytes)))
