#!/usr/bin/env python3
"""scripts/size.py against a server: the flash that it computes holds all objects with little room left over, and
the index takes no more than it says."""

import json
import os
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


sys.exit(servers.run_scenarios((small_values, values_of_a_kilobyte, values_of_100_kilobytes)))
