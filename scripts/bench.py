#!/usr/bin/env python3
"""Extant beside Debian's memcached, one table. scripts/bench.sh builds, installs and calls this.

A row is measured in pairs, A B A B: memcached (or what else the row compares with), then
Extant, with the same client, flags and memory limit. Each pair gives one ratio; the row
shows their median (min..max) and is judged by the median. Server on one core, client on
another. CPU is what the kernel charged to the server process: user + system, every thread.

Flash rows run in a memory cgroup of their own each, smaller than the data, because it
also charges the page cache: memcached reads flash through that cache, and free memory would
make a RAM cache of it. The lines below the table tell how much each server read from the
device for one get.

A row that can't be measured (a server died, a value was wrong, no space) is FAILED, never
left out, and the exit code is then 1. FALL-SHORT is a result, not a failure.
"""

import contextlib
import datetime
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

from bench_host import (Client, Cores, Server, KEY_BYTES, drop_caches, machine_line, pinned,
                        rss_bytes, version_of)
from bench_table import (GROUPS, MIB, ROWS, ROW_BY_NAME, BenchError, Result, Skip, figure,
                         fio_figures, memcached_header_bytes, table, wanted_rows, with_unit)

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
GIB = 1 << 30
SETTLE_SECONDS = 120      # longest wait until the values of a load are on flash
MISS_SHARE_MAX = 0.01     # with more misses, a row about hits means nothing
FLASH_READ_BYTES_MIN = 256  # with fewer bytes read from the device for each get, a row about flash means nothing
VALUE_1K = 1024
MARK_BEGIN = "<!-- table -->"
MARK_END = "<!-- end of table -->"


class Bench:
    """Sizes, directories and the results so far."""

    def __init__(self, extant, memcached, rows, quick, directory, load, nolock=None):
        self.extant = extant
        self.memcached = memcached
        self.rows = rows
        self.quick = quick
        self.dir = directory
        self.load = load
        self.nolock = nolock
        self.cores = Cores()
        self.results = {}
        self.notes = []
        self.pairs = 2 if quick else 5
        self.seconds = 1 if quick else 3
        self.warmup = 0.2 if quick else 0.5
        self.ram_keys = 100000 if quick else 1000000
        self.overhead_keys = 300000 if quick else 1500000
        self.limit = (128 if quick else 256) * MIB
        self.load_bytes = 512 * MIB if quick else 4 * GIB
        self.many_keys = 1000000 if quick else 50000000

    def wants(self, *names):
        return any(name in self.rows for name in names)

    def say(self, text):
        print("bench: " + text, file=sys.stderr, flush=True)

    def record(self, name, pairs):
        if self.wants(name):
            self.results[name] = Result(ROW_BY_NAME[name], pairs)
            self.say("%s: %s" % (name, "  ".join(self.results[name].cells())))

    def need_space(self, bytes_needed):
        free = shutil.disk_usage(self.dir).free
        if free < bytes_needed + GIB:
            raise BenchError("needs %.0f GB free in %s, there are %.0f" % (
                (bytes_needed + GIB) / GIB, self.dir, free / GIB))

    # -- one run ------------------------------------------------------------------------

    def run(self, server, **options):
        """Runs the load generator once, to its end."""
        return Client(self, server, {k.replace("_", "-"): v for k, v in options.items()}).done()

    def fill(self, server, **options):
        """Sets every key once; all must be stored."""
        keys = self.run(server, mode="load", **options)
        if keys["stored"] != options["keys"]:
            raise BenchError("%s stored %d of %d" % (server.name, keys["stored"], options["keys"]))
        return keys

    def measure(self, server, flash=False, **options):
        """One timed run: its figures, and the server's cpu_us and read_bytes for each hit or
        set, and their rate. With flash, hits that memory served are refused."""
        options.setdefault("seconds", self.seconds)
        options.setdefault("warmup", self.warmup)
        if server.cgroup and not server.cgroup.path:
            drop_caches()
        cpu, (read, _) = server.cpu(), server.io()
        r = self.run(server, mode="mix", **options)
        done = r["hits"] + r["stored"]
        if done < 1:
            raise BenchError("%s: nothing was answered" % server.name)
        if r["misses"] > MISS_SHARE_MAX * r["gets"]:
            raise BenchError("%s: %.1f%% of the gets missed" % (
                server.name, 100 * r["misses"] / r["gets"]))
        r["cpu_us"] = (server.cpu() - cpu) * 1e6 / done
        r["read_bytes"] = (server.io()[0] - read) / done
        if flash and r["read_bytes"] < FLASH_READ_BYTES_MIN:
            raise BenchError("%s read %d bytes from flash for a get: memory served it" % (
                server.name, r["read_bytes"]))
        r["rate"] = done / r["seconds"]
        return r

    def pairs_of(self, left, right, count=None, **options):
        """A B A B: [(figures of left, figures of right)]."""
        return [(self.measure(left, seed=i + 1, **options),
                 self.measure(right, seed=i + 1, **options)) for i in range(count or self.pairs)]

    @staticmethod
    def column(pairs, name):
        return [(a[name], b[name]) for a, b in pairs]

    def fio(self, path, side, **options):
        command = ["fio", "--name=bench", "--filename=" + path, "--ioengine=io_uring",
                   "--direct=1", "--output-format=json"]
        command += ["--%s=%s" % item for item in options.items()]
        out = subprocess.run(command, capture_output=True, text=True, check=False,
                             preexec_fn=pinned(self.cores.server))
        if out.returncode != 0:
            raise BenchError("fio: %s" % (out.stdout + out.stderr).strip()[-200:])
        return fio_figures(out.stdout, side)

    # -- RAM ----------------------------------------------------------------------------

    def ram(self):
        flags = ["-m", "1024", "-t", "1"]
        keys, value = self.ram_keys, 100
        with Server(self, self.memcached, "memcached", flags) as a, \
                Server(self, self.extant, "extant", flags) as b:
            for s in (a, b):
                self.fill(s, keys=keys, value=value, conns=10, depth=32)
            if self.wants("ram_get"):
                pairs = self.pairs_of(a, b, keys=keys, value=value, conns=50, get_ratio=1)
                self.record("ram_get", self.column(pairs, "cpu_us"))
            if self.wants("ram_get_pipe"):
                pairs = self.pairs_of(a, b, keys=keys, value=value, conns=50, depth=32, get_ratio=1)
                self.record("ram_get_pipe", self.column(pairs, "cpu_us"))
            if self.wants("ram_set_pipe"):
                pairs = self.pairs_of(a, b, keys=keys, value=value, conns=50, depth=32, get_ratio=0)
                self.record("ram_set_pipe", self.column(pairs, "cpu_us"))
            for name, depth, get_ratio in (("bin_get", 1, 1), ("bin_get_pipe", 32, 1),
                                           ("bin_set", 1, 0), ("bin_set_pipe", 32, 0)):
                if self.wants(name):
                    pairs = self.pairs_of(a, b, keys=keys, value=value, conns=50, depth=depth,
                                          get_ratio=get_ratio, binary=True)
                    self.record(name, self.column(pairs, "cpu_us"))
            if self.wants("memcaslap"):
                self.record("memcaslap", [(self.memcaslap(a), self.memcaslap(b))
                                          for _ in range(self.pairs)])

    def tls(self):
        """The same gets as in ram_get, and sets, through TLS 1.3 with the ciphers that both choose."""
        for binary in (self.memcached, self.extant):
            shown = subprocess.run([binary, "-h"], capture_output=True, text=True, check=False)
            if "--enable-ssl" not in shown.stdout:
                raise Skip("%s has no TLS" % binary)
        crt, key = (os.path.join(self.dir, "tls-%d.%s" % (os.getpid(), end)) for end in ("crt", "key"))
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3",
                        "-subj", "/CN=localhost", "-out", crt, "-keyout", key],
                       check=True, capture_output=True)
        flags = ["-m", "1024", "-t", "1", "-Z", "-o", "ssl_chain_cert=%s,ssl_key=%s" % (crt, key)]
        keys, value = self.ram_keys, 100
        try:
            with Server(self, self.memcached, "memcached", flags) as a, \
                    Server(self, self.extant, "extant", flags) as b:
                for s in (a, b):
                    self.fill(s, tls=True, keys=keys, value=value, conns=10, depth=32)
                for name, get_ratio in (("tls_get", 1), ("tls_set", 0)):
                    if self.wants(name):
                        pairs = self.pairs_of(a, b, tls=True, keys=keys, value=value, conns=50,
                                              get_ratio=get_ratio)
                        self.record(name, self.column(pairs, "cpu_us"))
        finally:
            for path in (crt, key):
                os.unlink(path)

    def memcaslap(self, server):
        """CPU per get with libmemcached's own load generator; it sets its keys first, which
        is less than a hundredth of what it does."""
        config = os.path.join(self.dir, "memcaslap.cfg")
        with open(config, "w") as f:
            f.write("key\n%d %d 1\nvalue\n100 100 1\ncmd\n0 0\n1 1\n" % (KEY_BYTES, KEY_BYTES))
        cpu = server.cpu()
        out = subprocess.run(
            ["memcaslap", "-s", "127.0.0.1:%d" % server.port, "-T", "1", "-c", "50", "-w", "1k",
             "-F", config, "-t", "%ds" % self.seconds], capture_output=True, text=True,
            check=False, preexec_fn=pinned(self.cores.client))
        ops = re.search(r"Ops: (\d+)", out.stdout)
        if not ops or int(ops.group(1)) == 0:
            raise BenchError("memcaslap: %s" % (out.stdout + out.stderr).strip()[-200:])
        return (server.cpu() - cpu) * 1e6 / int(ops.group(1))

    def ram_overhead(self):
        """Growth of the resident memory by many items, less their keys and values."""
        pair = []
        for binary, name in ((self.memcached, "memcached"), (self.extant, "extant")):
            with Server(self, binary, name, ["-m", "1024", "-t", "1"]) as s:
                # Connections and their buffers are there before.
                self.fill(s, keys=1000, value=120, conns=10, depth=32, prefix="w")
                before = rss_bytes(s.process.pid)
                self.fill(s, keys=self.overhead_keys, value=120, conns=10, depth=32)
                grown = rss_bytes(s.process.pid) - before
                if s.stat("evictions") > 0:
                    raise BenchError("%s evicted" % name)
                pair.append(grown / self.overhead_keys - KEY_BYTES - 120)
        self.record("ram_overhead", [tuple(pair)])

    # -- flash --------------------------------------------------------------------------

    def flash_server(self, binary, name, megabytes, file_bytes, limit=None, options=""):
        return Server(self, binary, name, ["-m", str(megabytes), "-t", "1"],
                      flash_bytes=file_bytes, limit_bytes=limit or self.limit,
                      flash_options=",ext_item_age=0,ext_threads=32" + options)

    def settle(self, server, objects):
        """Waits until this many objects are on flash, or no more come for a while; returns how
        many are."""
        end = time.monotonic() + SETTLE_SECONDS
        seen, seen_at = -1, time.monotonic()
        while time.monotonic() < end:
            server.check_alive()
            used = server.stat("extstore_objects_used")
            if used >= objects:
                return used
            if used != seen:
                seen, seen_at = used, time.monotonic()
            elif time.monotonic() - seen_at > 3:
                break
            time.sleep(0.02)
        return seen

    def fill_flash(self, server, keys):
        """Every value on flash. memcached drops what it can't flush in time, so slower again
        when some are missing."""
        for rate in (60000, 30000, 15000):
            self.fill(server, keys=keys, value=VALUE_1K, conns=10, depth=32, rate=rate)
            on_flash = self.settle(server, keys)
            self.say("%s: %d of %d values on flash, set at %s" % (
                server.name, on_flash, keys, with_unit(rate, "/s")))
            if on_flash >= (1 - MISS_SHARE_MAX / 2) * keys:
                return
        raise BenchError("%s lost %d of %d values set at %s" % (
            server.name, keys - on_flash, keys, with_unit(rate, "/s")))

    def flash(self):
        keys = 6 * self.limit // VALUE_1K
        file_bytes = (3 if self.quick else 6) * GIB
        megabytes = self.limit * 7 // 10 // MIB
        self.need_space(2 * file_bytes)
        with self.flash_server(self.memcached, "memcached", megabytes, file_bytes) as a, \
                self.flash_server(self.extant, "extant", megabytes, file_bytes) as b:
            if not a.cgroup.path:
                self.notes.append("No memory cgroup could be made here: the page cache was "
                                  "dropped before each run, but it warms up during the run.")
            for s in (a, b):
                self.fill_flash(s, keys)
            same = dict(flash=True, keys=keys, value=VALUE_1K, get_ratio=1)
            self.each(
                (("flash_ram",), lambda: self.flash_ram(a, b)),
                (tuple(GROUPS["flash_get"]), lambda: self.flash_get(a, b, same)),
                (("flash_fio",), lambda: self.flash_fio(b, same)),
                (("multiget",), lambda: self.multiget(b, same)),
                (("ram_busy",), lambda: self.ram_busy(b, same)),
                (("flash_sets",), lambda: self.flash_sets(b, same)))

    def flash_get(self, a, b, same):
        if self.wants("flash_cpu", "flash_rate50", "flash_p99"):
            pairs = self.pairs_of(a, b, conns=50, **same)
            self.record("flash_cpu", self.column(pairs, "cpu_us"))
            self.record("flash_rate50", self.column(pairs, "rate"))
            self.record("flash_p99", self.column(pairs, "get_p99_us"))
            self.notes.append("Read from the device for one flash get at 50 connections: memcached "
                              "%.0f bytes, Extant %.0f." % tuple(
                                  statistics.median(p[i]["read_bytes"] for p in pairs)
                                  for i in (0, 1)))
        if self.wants("flash_rate200"):
            self.record("flash_rate200", self.column(self.pairs_of(a, b, conns=200, **same),
                                                     "rate"))
        if self.wants("flash_p50"):
            self.record("flash_p50", self.column(self.pairs_of(a, b, conns=1, **same),
                                                 "get_p50_us"))

    def flash_ram(self, a, b):
        """memcached: pages of classes that hold headers, and the hash table; Extant says it."""
        def of_memcached(s):
            header = memcached_header_bytes(s.stats("slabs"), 512)
            return (header + s.stat("hash_bytes")) / s.stat("extstore_objects_used")
        mine = of_memcached(b) if is_memcached(self.extant) else \
            b.stat("ram_bytes_per_flash_object", "extant")
        self.record("flash_ram", [(of_memcached(a), mine)])

    def flash_fio(self, b, same):
        pairs, p99 = [], []
        for i in range(self.pairs):
            device = self.fio(b.flash, "read", rw="randread", bs="4k", iodepth=50,
                              allow_file_create=0, size=6 * self.limit, runtime=self.seconds,
                              time_based=1)
            pairs.append((device["rate"],
                          self.measure(b, seed=i + 1, conns=50, **same)["rate"]))
            p99.append(device["p99_us"])
        self.notes.append("The device alone (fio, depth 50): p99 %s." % with_unit(
            statistics.median(p99), "us"))
        self.record("flash_fio", pairs)

    def multiget(self, b, same):
        pairs = [(self.measure(b, conns=1, seed=i + 1, **same)["get_p50_us"],
                  self.measure(b, conns=1, seed=i + 1, multiget=100, **same)["get_p50_us"])
                 for i in range(self.pairs)]
        # The lower bound on this machine: 100 reads given to the device at once.
        rate = self.fio(b.flash, "read", rw="randread", bs="4k", iodepth=100, allow_file_create=0,
                        size=6 * self.limit, runtime=self.seconds, time_based=1)["rate"]
        least = 100e6 / rate
        self.notes.append("Multiget: the device alone (fio, depth 100) needs %s for 100 reads, %s "
                          "times one get." % (with_unit(least, "us"), figure(
                              least / statistics.median(p[0] for p in pairs))))
        self.record("multiget", pairs)

    def disturbed(self, server, quiet, loud):
        """p99.9 of the quiet load alone, and while the loud one runs: one pair. The quiet
        client runs before the loud one on their core, so the server is what is measured."""
        alone = Client(self, server, quiet, fifo=True).done()
        other = Client(self, server, loud)
        time.sleep(0.5)
        beside = Client(self, server, quiet, fifo=True).done()
        return (alone["get_p999_us"], beside["get_p999_us"]), other.done()

    def ram_busy(self, b, same):
        # Small values stay in RAM.
        small = {"prefix": "r", "keys": 50000, "value": 100}
        self.fill(b, conns=10, depth=32, **small)
        quiet = dict(small, mode="mix", **{"get-ratio": 1, "conns": 10, "rate": 5000,
                                           "seconds": self.seconds, "warmup": self.warmup})
        loud = {"mode": "mix", "keys": same["keys"], "value": VALUE_1K, "get-ratio": 1,
                "conns": 50, "seconds": self.seconds + 1}
        pairs, rates = [], []
        for _ in range(self.pairs):
            pair, other = self.disturbed(b, quiet, loud)
            pairs.append(pair)
            rates.append(other["requests_per_second"])
        self.notes.append("RAM gets beside %s flash gets." % with_unit(
            statistics.median(rates), "/s"))
        self.record("ram_busy", pairs)

    def flash_sets(self, b, same):
        quiet = {"mode": "mix", "keys": same["keys"], "value": VALUE_1K, "get-ratio": 1,
                 "conns": 50, "rate": 5000, "seconds": self.seconds, "warmup": self.warmup}
        value, wanted = 4096, 100e6
        loud = {"mode": "load", "prefix": "s", "value": value, "conns": 10, "depth": 8,
                "rate": int(wanted / value),
                "keys": int(wanted / value * (self.seconds + 1))}
        pairs, reached = [], []
        for _ in range(self.pairs):
            pair, other = self.disturbed(b, quiet, loud)
            pairs.append(pair)
            reached.append(other["value_bytes_sent"] / other["seconds"])
        self.notes.append("Sets beside flash gets: %.0f MB/s of 4 KB values." % (
            statistics.median(reached) / 1e6))
        self.record("flash_sets", pairs)

    # -- loads --------------------------------------------------------------------------

    def load_rows(self):
        keys = self.load_bytes // VALUE_1K
        file_bytes = 3 * self.load_bytes // 2
        self.need_space(2 * file_bytes)
        lost, times, written, busy = [], [], [], []
        for i in range(2 if self.quick else 3):
            times.append((self.fio_write(), None))
            with self.flash_server(self.extant, "extant", 64, file_bytes) as s:
                seconds, w = self.load_once(s, keys)
                times[-1] = (times[-1][0], seconds)
                busy.append(s.cpu())
                written.append((self.load_bytes / MIB, w / MIB))
                if i == 0 and self.wants("load_lost"):
                    r = self.run(s, mode="verify", keys=keys, value=VALUE_1K, conns=50,
                                 multiget=20)
                    mine = r["misses"]
                elif self.wants("load_lost"):
                    mine = keys - s.stat("curr_items")
                lost.append(mine if self.wants("load_lost") else 0)
        theirs = 0
        if self.wants("load_lost"):
            with self.flash_server(self.memcached, "memcached", 64, file_bytes) as s:
                self.load_once(s, keys)
                theirs = keys - s.stat("curr_items")
        self.record("load_lost", [(theirs, mine) for mine in lost])
        self.record("load_time", times)
        self.record("load_written", written)
        into_ram = self.load_into_ram(keys)
        self.notes.append("Full-speed load: %.1f GB of values; the server's core was busy for "
                          "%.2g s of it. The same into RAM, no flash, takes %.2g s, %s times fio's "
                          "writing: client and server need that for the sets alone." % (
                              self.load_bytes / GIB, statistics.median(busy), into_ram,
                              figure(into_ram / statistics.median(t[0] for t in times))))

    def overwrite_rows(self):
        """Nothing is read before the end: a read would drop what an overwrite left behind."""
        file_bytes = 256 * MIB
        keys = file_bytes * 7 // 10 // 1088  # a record of a 1,000-byte value
        lost = []
        for binary, name in ((self.memcached, "memcached"), (self.extant, "extant")):
            with Server(self, binary, name, ["-m", "64", "-t", "1", "-o", "ext_page_size=8"],
                        flash_bytes=file_bytes) as s:
                for _ in range(3 if self.quick else 6):
                    self.fill(s, keys=keys, value=1000, conns=1, depth=200)
                lost.append(self.run(s, mode="verify", keys=keys, value=1000, conns=50)["misses"])
        self.record("overwrite_lost", [tuple(lost)])

    def load_into_ram(self, keys):
        """Seconds that client and server need for the same number of sets when nothing goes to flash."""
        part = keys // 4
        with Server(self, self.extant, "extant", ["-m", "2048", "-t", "1"]) as s:
            for _ in range(2):  # the second time, in memory that was touched before
                r = self.fill(s, keys=part, value=VALUE_1K, conns=10, depth=50)
            return 4 * r["seconds"]

    def load_once(self, server, keys):
        """Seconds from the first set to the last value on flash, and bytes written to the
        device."""
        start = time.monotonic()
        self.fill(server, keys=keys, value=VALUE_1K, conns=10, depth=50)
        sent = time.monotonic()
        on_flash = self.settle(server, keys)
        seconds = time.monotonic() - start
        self.say("%s: sent in %.1f s, %d of %d on flash after %.1f s" % (
            server.name, sent - start, on_flash, keys, seconds))
        return seconds, server.io()[1]

    def fio_write(self):
        path = os.path.join(self.dir, "fio-%d.dat" % os.getpid())
        try:
            return self.fio(path, "write", rw="write", bs="1m", iodepth=8, size=self.load_bytes,
                            end_fsync=1)["seconds"]
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)

    # -- the rest -----------------------------------------------------------------------

    def many(self):
        few = self.many_keys // (5 if self.quick else 50)
        record_bytes = 160
        options = ",ext_item_size=10"
        limit = self.many_keys * 14 + 512 * MIB
        file_bytes = (self.many_keys * record_bytes // MIB // 64 + 4) * 64 * MIB
        self.need_space(file_bytes + GIB)
        megabytes = limit // MIB - 256
        with self.flash_server(self.extant, "few", megabytes, GIB, limit, options) as a, \
                self.flash_server(self.extant, "many", megabytes, file_bytes, limit, options) as b:
            for s, keys in ((a, few), (b, self.many_keys)):
                self.fill(s, keys=keys, value=50, conns=20, depth=100)
                self.settle(s, keys)
                # Others take their place in the write buffers, so that gets go to flash.
                self.fill(s, keys=65536, value=VALUE_1K, conns=20, depth=10, prefix="z")
                self.settle(s, keys + 65536)
            same = dict(flash=True, value=50, conns=50, get_ratio=1)
            pairs = [(self.measure(a, keys=few, seed=i + 1, **same)["cpu_us"],
                      self.measure(b, keys=self.many_keys, seed=i + 1, **same)["cpu_us"])
                     for i in range(self.pairs)]
            self.record("many", pairs)
            self.notes.append("Small values: %s against %s." % (
                with_unit(self.many_keys, "objects"), with_unit(few, "objects")))

    def workers(self):
        if self.cores.count < 4:
            raise Skip("needs 4 cores")
        keys, value = self.ram_keys, 100
        with Server(self, self.extant, "one", ["-m", "1024", "-t", "1"]) as a, \
                Server(self, self.extant, "two", ["-m", "1024", "-t", "2"],
                       cores=self.cores.servers) as b:
            for s in (a, b):
                self.fill(s, keys=keys, value=value, conns=10, depth=32)
            pairs = []
            for i in range(self.pairs):
                pairs.append(tuple(sum(c.done()["requests_per_second"] for c in [
                    Client(self, s, {"mode": "mix", "keys": keys // 2, "value": value,
                                     "first-key": keys // 2 * half, "get-ratio": 0.95,
                                     "conns": 50, "depth": 4, "seed": i + 1,
                                     "seconds": self.seconds}, cores=cores)
                    for half, cores in enumerate(self.cores.clients)]) for s in (a, b)))
            self.record("workers", pairs)

    def scraped(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        small = {"keys": 50000, "value": 100}
        quiet = dict(small, mode="mix", **{"get-ratio": 1, "conns": 10, "rate": 5000,
                                           "seconds": self.seconds, "warmup": self.warmup})
        with Server(self, self.extant, "extant", ["-m", "256", "-t", "1", "-o", "http=%d" % port]) as b:
            self.fill(b, conns=10, depth=32, **small)
            pairs, times = [], []
            for _ in range(self.pairs):
                alone = Client(self, b, quiet).done()["get_p99_us"]
                client, begin = Client(self, b, quiet), time.monotonic()
                while time.monotonic() < begin + self.seconds:
                    at = time.monotonic()
                    with urllib.request.urlopen("http://127.0.0.1:%d/metrics" % port, timeout=20) as page:
                        if b"extant_misses_total" not in page.read():
                            raise BenchError("no metrics")
                    times.append(time.monotonic() - at)
                    time.sleep(max(0, at + 0.1 - time.monotonic()))
                pairs.append((alone, client.done()["get_p99_us"]))
            self.notes.append("A scrape takes %.1f ms." % (1e3 * statistics.median(times)))
            self.record("scraped", pairs)

    def nolock_row(self):
        if not self.nolock or not os.access(self.nolock, os.X_OK):
            raise BenchError("no build without locks")
        keys = self.limit // VALUE_1K
        self.need_space(4 * GIB)
        with self.flash_server(self.nolock, "nolock", 100, 2 * GIB) as a, \
                self.flash_server(self.extant, "extant", 100, 2 * GIB) as b:
            for s in (a, b):
                self.fill_flash(s, keys)
            # Two runs differ by more than a per cent, so it takes many short pairs and their median. With
            # many requests on each connection the server never sleeps, which would cost more.
            pairs = self.pairs_of(a, b, count=self.pairs if self.quick else 12 * self.pairs,
                                  flash=True, keys=keys, value=VALUE_1K, conns=50, depth=8,
                                  get_ratio=1, seconds=0.5, warmup=0.1)
            self.record("nolock", self.column(pairs, "cpu_us"))

    def extents(self):
        binary = os.path.join(ROOT, "build/bench_extents")
        out = subprocess.run([binary] + (["-m", "5"] if self.quick else []), capture_output=True,
                             text=True, check=False, preexec_fn=pinned(self.cores.server))
        if out.returncode != 0:
            raise BenchError("bench_extents: exit %d" % out.returncode)
        return out.stdout.rstrip()

    # -- all ----------------------------------------------------------------------------

    def each(self, *parts):
        """Runs the requested parts; a failure in one fails only its rows."""
        for names, measure in parts:
            if not self.wants(*names):
                continue
            begin = time.monotonic()
            outcome = {}
            try:
                measure()
            except Skip as why:
                outcome = {"skipped": str(why)}
            except (BenchError, OSError, subprocess.SubprocessError, KeyError) as why:
                outcome = {"failed": str(why) or type(why).__name__}
            for name in names:
                if name in self.rows and name not in self.results:
                    self.results[name] = Result(ROW_BY_NAME[name], **(
                        outcome or {"failed": "not measured"}))
                    self.say("%s: %s" % (name, outcome))
            self.say("%s: %.0f s" % (names[0], time.monotonic() - begin))

    def measure_all(self):
        self.each((("ram_get", "ram_get_pipe", "ram_set_pipe", *GROUPS["binary"], "memcaslap"), self.ram),
                  (("tls_get", "tls_set"), self.tls),
                  (("ram_overhead",), self.ram_overhead),
                  (tuple(GROUPS["flash"]), self.flash),
                  (tuple(GROUPS["load"]), self.load_rows),
                  (tuple(GROUPS["overwrite"]), self.overwrite_rows),
                  (("many",), self.many),
                  (("workers",), self.workers),
                  (("scraped",), self.scraped),
                  (("nolock",), self.nolock_row))
        return [self.results[row.name] for row in ROWS if row.name in self.results]


def is_memcached(binary):
    return os.path.basename(binary).startswith("memcached")


def save(text):
    """Puts the table between the marks of BENCH.md."""
    path = os.path.join(ROOT, "BENCH.md")
    with open(path) as f:
        old = f.read()
    begin, end = old.index(MARK_BEGIN) + len(MARK_BEGIN), old.index(MARK_END)
    with open(path + ".new", "w") as f:
        f.write(old[:begin] + "\n" + text + "\n" + old[end:])
    os.rename(path + ".new", path)


def main():
    if "--list" in sys.argv:
        for row in ROWS:
            print("%-14s %s" % (row.name, row.title))
        print("groups: " + ", ".join(GROUPS))
        return 0
    rows, extents_wanted = wanted_rows(os.environ.get("BENCH_ROWS", ""))
    quick = os.environ.get("BENCH_QUICK", "") not in ("", "0")
    directory = os.environ.get("BENCH_DIR") or os.path.join(ROOT, "data/bench")
    os.makedirs(directory, exist_ok=True)
    extant = os.environ.get("EXTANT") or os.path.join(ROOT, "extant")
    memcached = shutil.which("memcached") or "memcached"
    for binary in (extant, memcached):
        if not shutil.which(binary):
            raise SystemExit("bench: no %s" % binary)
    bench = Bench(shutil.which(extant), memcached, rows, quick, directory,
                  os.path.join(ROOT, "build/load"), os.path.join(ROOT, "build/extant-nolock"))
    begin = time.monotonic()
    results = bench.measure_all()
    broken = [r for r in results if r.failed]
    text = [table(results), ""] if results else []
    text += ["%s%s. %s beside %s. %d pairs of %d s. %.0f minutes in all." % (
        "Quick run, small sizes: not to be quoted. " if quick else "",
        datetime.date.today().isoformat(), version_of(bench.extant), version_of(memcached),
        bench.pairs, bench.seconds, (time.monotonic() - begin) / 60),
        "Machine: %s." % machine_line(directory)] + bench.notes
    if extents_wanted:
        try:
            text += ["", "```", bench.extents(), "```"]
        except (BenchError, OSError) as why:
            broken.append(why)
            text += ["", "extents: FAILED: %s" % why]
    print("\n".join(text))
    if os.environ.get("BENCH_SAVE", "") not in ("", "0"):
        save("\n".join(text))
        subprocess.run([os.path.join(ROOT, "scripts/plot.py")], check=True)  # the pictures are drawn from it
    return 1 if broken else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
