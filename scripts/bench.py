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
import json
import os
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MIB = 1 << 20
GIB = 1 << 30
START_SECONDS = 20        # a server answers within
SETTLE_SECONDS = 120      # values are on flash within, after a load
MISS_SHARE_MAX = 0.01     # more than that and a row about hits isn't one
VALUE_1K = 1024
KEY_BYTES = 20
MARK_BEGIN = "<!-- table -->"
MARK_END = "<!-- end of table -->"


class BenchError(Exception):
    """A row that could not be measured, and why."""


class Skip(Exception):
    """A row that this machine can't have, and why."""


# ---- rows: what is promised ------------------------------------------------------------


class Row:
    """One line of the table. `must` and `aim` bound the ratio; `low` says from which side."""

    def __init__(self, name, title, unit, must, aim, low=True, against="memcached"):
        self.name = name
        self.title = title
        self.unit = unit
        self.must = must
        self.aim = aim
        self.low = low
        self.against = against


ROWS = [
    Row("ram_get", "RAM get, 50 connections, one request at a time: CPU per op", "us", 0.80, 0.70),
    Row("ram_get_pipe", "RAM get, pipeline 32: CPU per op", "us", 0.65, 0.50),
    Row("ram_set_pipe", "RAM set 100 B, pipeline 32: CPU per op", "us", 0.70, 0.50),
    Row("ram_overhead", "RAM bytes per 120-byte value with 20-byte key beyond key+value", "B",
        0.60, 0.40),
    Row("flash_cpu", "Flash get of 1 KB, data 6x the memory limit, uniform, 50 connections: "
        "CPU per op", "us", 0.55, 0.42),
    Row("flash_rate50", "the same: gets per second at 50 connections", "/s", 1.2, 1.4, low=False),
    Row("flash_rate200", "the same: gets per second at 200 connections", "/s", 1.6, 2.0, low=False),
    Row("flash_p99", "the same: p99 latency at 50 connections", "us", 0.60, 0.45),
    Row("flash_p50", "one connection, flash get p50", "us", 0.90, 0.80),
    Row("flash_fio", "flash gets per second, 50 connections, against fio random 4 KB reads of the "
        "same file (io_uring, O_DIRECT, depth 50, one core)", "/s", 0.75, 0.95, low=False,
        against="fio"),
    Row("flash_sets", "flash get p99.9 while 100 MB/s of sets flow to flash, against no sets", "us",
        3, 1.5, against="no sets"),
    Row("ram_busy", "RAM get p99.9 while other connections saturate flash, against idle flash",
        "us", 2, 1.15, against="idle"),
    Row("flash_ram", "RAM per flash object, all-in", "B", 0.10, 0.08),
    Row("load_lost", "1 KB values at full speed into 64 MB RAM: values lost", "values", 0, 0),
    Row("load_time", "the same: seconds to all-on-flash, against fio writing the same bytes", "s",
        2, 1.2, against="fio"),
    Row("load_written", "bytes written to flash per byte of values, no reclaim", "", 1.15, 1.05,
        against="value bytes"),
    Row("multiget", "multiget of 100 flash keys: time, against one flash get", "us", 4, 2.5,
        against="one get"),
    Row("many", "CPU per flash get at many objects of 50 bytes against 1/50 of them", "us", 1.3,
        1.1, against="few"),
    Row("workers", "two workers against one (mixed, 95:5): requests per second", "/s", 1.7, 1.9,
        low=False, against="one worker"),
    Row("nolock", "cost of the extent map's locking: CPU per flash get against a build without",
        "us", 1.01, 1.005, against="no lock"),
    Row("memcaslap", "check: the first row as memcaslap sees it", "us", None, None),
]
ROW_BY_NAME = {row.name: row for row in ROWS}

# What a name of BENCH_ROWS may stand for beside itself.
GROUPS = {
    "ram": ["ram_get", "ram_get_pipe", "ram_set_pipe", "ram_overhead", "memcaslap"],
    "flash_get": ["flash_cpu", "flash_rate50", "flash_rate200", "flash_p99", "flash_p50"],
    "flash": ["flash_cpu", "flash_rate50", "flash_rate200", "flash_p99", "flash_p50", "flash_fio",
              "flash_sets", "ram_busy", "flash_ram", "multiget"],
    "load": ["load_lost", "load_time", "load_written"],
    "extents": [],
}


def wanted_rows(text):
    """The row names of BENCH_ROWS, and whether the extents table is wanted; all if empty."""
    if not text:
        return {row.name for row in ROWS}, True
    names = set()
    for name in re.split(r"[\s,]+", text.strip()):
        if name in ROW_BY_NAME:
            names.add(name)
        elif name in GROUPS:
            names.update(GROUPS[name])
        else:
            raise SystemExit("bench: no row %s; there are: %s" %
                             (name, ", ".join(list(ROW_BY_NAME) + list(GROUPS))))
    return names, "extents" in text


# ---- arithmetic ------------------------------------------------------------------------


def verdict(row, value):
    """PASS, PASS (aim) or FALL-SHORT for a median ratio; "" for a row without a bound."""
    if row.must is None:
        return ""
    if row.low:
        return "FALL-SHORT" if value > row.must else "PASS (aim)" if value <= row.aim else "PASS"
    return "FALL-SHORT" if value < row.must else "PASS (aim)" if value >= row.aim else "PASS"


class Result:
    """What was measured for one row: pairs (left, right), or why there is nothing."""

    def __init__(self, row, pairs=(), failed=None, skipped=None):
        self.row = row
        self.pairs = list(pairs)
        self.failed = failed
        self.skipped = skipped
        if not self.pairs and not failed and not skipped:
            self.failed = "no measurement"
        if any(not isinstance(v, (int, float)) or v != v for p in self.pairs for v in p):
            self.failed = "not a number"
        elif row.name != "load_lost" and any(left <= 0 or right <= 0 for left, right in self.pairs):
            self.failed = "a measurement of zero"

    def ratios(self):
        if self.row.name == "load_lost":
            return [right for _, right in self.pairs]
        return [right / left for left, right in self.pairs]

    def ratio(self):
        """The value that is judged: the worst for losses, else the median ratio."""
        return max(self.ratios()) if self.row.name == "load_lost" else \
            statistics.median(self.ratios())

    def cells(self):
        """left, right, ratio, must, aim, verdict as text."""
        row = self.row
        bounds = ["-" if v is None else "%g" % v for v in (row.must, row.aim)]
        if self.failed or self.skipped:
            return ["-", "-", "-"] + bounds + [
                "FAILED: %s" % self.failed if self.failed else self.skipped]
        left = statistics.median(p[0] for p in self.pairs)
        right = statistics.median(p[1] for p in self.pairs)
        ratios = self.ratios()
        if row.name == "load_lost":
            spread = "%d" % self.ratio()
        elif len(ratios) == 1:
            spread = figure(ratios[0])
        else:
            spread = "%s (%s..%s)" % tuple(figure(v) for v in (
                self.ratio(), min(ratios), max(ratios)))
        base = with_unit(left, row.unit)
        if row.against != "memcached":
            base = "%s: %s" % (row.against, base)
        return [base, with_unit(right, row.unit), spread] + bounds + [verdict(row, self.ratio())]


def figure(value):
    """Three significant digits, four just above 1 where a per cent counts."""
    return "%.3f" % value if value < 10 else "%.3g" % value


def with_unit(value, unit):
    if unit == "/s":
        return "{:,.0f}/s".format(value)
    if unit == "values" or (unit == "" and value >= 1000):
        return "{:,.0f}".format(value)
    if unit == "us" and value >= 1000:
        return "%.3g ms" % (value / 1000)
    return ("%.3g %s" % (value, unit)).strip()


def table(results):
    lines = ["| row | memcached | Extant | ratio: median (min..max) | must | aim | |",
             "|---|---|---|---|---|---|---|"]
    for r in results:
        lines.append("| %s | %s |" % (r.row.title, " | ".join(r.cells())))
    return "\n".join(lines)


def parse_kv(text):
    """The load generator's --kv output as numbers."""
    out = {}
    for line in text.splitlines():
        name, sep, value = line.partition("=")
        if sep:
            with contextlib.suppress(ValueError):
                out[name] = float(value)
    return out


def fio_figures(text, side):
    """(operations per second, seconds) of one fio job's JSON."""
    start = text.find("{")
    if start < 0:
        raise BenchError("fio: no JSON")
    job = json.loads(text[start:])["jobs"][0]
    if job.get("error"):
        raise BenchError("fio: error %d" % job["error"])
    return float(job[side]["iops"]), job[side]["runtime"] / 1000.0


def parse_stats(reply):
    """Lines "STAT name value" as a dict of text."""
    out = {}
    for line in reply.split("\r\n"):
        word = line.split(" ", 2)
        if word[0] == "STAT" and len(word) == 3:
            out[word[1]] = word[2]
    return out


def memcached_header_bytes(slabs, largest_chunk):
    """Bytes of slab pages in classes too small for values: what headers take in memcached."""
    total = 0
    for name, chunk in slabs.items():
        if name.endswith(":chunk_size") and int(chunk) <= largest_chunk:
            total += int(slabs[name.replace("chunk_size", "total_pages")]) * MIB
    return total


# ---- machine ---------------------------------------------------------------------------


def cpu_seconds(pid):
    """User + system time of a process so far, all its threads, also those that ended."""
    return time.clock_gettime((~pid << 3) | 2)  # CPUCLOCK_SCHED of another process


def io_bytes(pid):
    """(read, written) bytes that the process caused on block devices."""
    with open("/proc/%d/io" % pid) as f:
        io = dict(line.split(": ") for line in f.read().splitlines())
    return int(io["read_bytes"]), int(io["write_bytes"])


def rss_bytes(pid):
    with open("/proc/%d/statm" % pid) as f:
        return int(f.read().split()[1]) * resource.getpagesize()


def pinned(cores, fifo=False):
    """For Popen's preexec_fn: these cores only; fifo: ahead of every other client there."""
    def set_up():
        os.sched_setaffinity(0, cores)
        if fifo:
            with contextlib.suppress(OSError):
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    return set_up


class Cores:
    """Who runs where: one core for the server, one for clients; the rest where asked for."""

    def __init__(self):
        all_cores = sorted(os.sched_getaffinity(0))
        self.count = len(all_cores)
        self.server = {all_cores[0]}
        self.client = {all_cores[1 % self.count]}
        self.servers = set(all_cores[:2])
        self.clients = [{c} for c in all_cores[2:4]]


class Cgroup:
    """A memory cgroup that charges page cache, of version 1 or 2; path None if there is none."""

    def __init__(self, name, limit_bytes):
        self.path = None
        for base, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
                            ("/sys/fs/cgroup", "memory.max")):
            path = os.path.join(base, "extant-bench-%d-%s" % (os.getpid(), name))
            try:
                if base == "/sys/fs/cgroup":
                    with open(os.path.join(base, "cgroup.subtree_control"), "r+") as f:
                        if "memory" not in f.read():
                            f.write("+memory")
                os.mkdir(path)
            except OSError:
                continue
            try:
                with open(os.path.join(path, limit), "w") as f:
                    f.write("%d" % limit_bytes)
                self.path = path
                return
            except OSError:
                os.rmdir(path)

    def join(self):
        """Called in the child: this process and what it becomes belong to the group."""
        if self.path:
            with open(os.path.join(self.path, "cgroup.procs"), "w") as f:
                f.write("%d" % os.getpid())

    def usage(self):
        for name in ("memory.usage_in_bytes", "memory.current"):
            with contextlib.suppress(OSError, TypeError):
                with open(os.path.join(self.path, name)) as f:
                    return int(f.read())
        return 0

    def remove(self):
        end = time.monotonic() + 5
        while self.path and time.monotonic() < end:
            try:
                os.rmdir(self.path)
                self.path = None
            except OSError:
                time.sleep(0.05)


def drop_caches():
    """Without a cgroup the next best: the page cache is cold at the start of a run."""
    os.sync()
    with contextlib.suppress(OSError):
        with open("/proc/sys/vm/drop_caches", "w") as f:
            f.write("3")


def machine_line(directory):
    model = "?"
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    with open("/proc/meminfo") as f:
        memory = int(f.readline().split()[1]) / 1024 / 1024
    mount = subprocess.run(["df", "--output=source,fstype", directory], capture_output=True,
                           text=True, check=False).stdout.split()[-2:]
    return "%s, %d cores, %.0f GB RAM, Linux %s, flash files on %s" % (
        model, os.cpu_count(), memory, os.uname().release, " ".join(mount))


def version_of(binary):
    out = subprocess.run([binary, "-V"], capture_output=True, text=True, check=False)
    return (out.stdout + out.stderr).strip().splitlines()[-1]


# ---- servers and clients ---------------------------------------------------------------


class Server:
    """One server process, pinned, in a memory cgroup if limit_bytes is given.

    Its flash file and the cgroup go with it. Use as a context manager.
    """

    def __init__(self, bench, binary, name, flags, flash_bytes=0, flash_options="",
                 limit_bytes=0, cores=None):
        self.bench = bench
        self.name = name
        self.flash = os.path.join(bench.dir, "%s-%d.flash" % (name, os.getpid()))
        self.cgroup = Cgroup(name, limit_bytes) if limit_bytes else None
        self.cores = cores or bench.cores.server
        self.command = [binary, "-l", "127.0.0.1", "-U", "0", "-c", "2048"] + flags
        if os.getuid() == 0:
            self.command += ["-u", "root"]
        if flash_bytes:
            self.command += ["-o", "ext_path=%s:%dm%s" % (
                self.flash, flash_bytes // MIB, flash_options)]
        self.process = None
        self.port = None

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc):
        self.stop()

    def start(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        pin = pinned(self.cores)

        def set_up():
            pin()
            if self.cgroup:
                self.cgroup.join()
        self.log = open(os.path.join(self.bench.dir, self.name + ".log"), "w+b")
        self.process = subprocess.Popen(
            self.command + ["-p", str(self.port)], stdin=subprocess.DEVNULL, stdout=self.log,
            stderr=self.log, preexec_fn=set_up)
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            self.check_alive()
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            time.sleep(0.01)
        raise BenchError("%s doesn't answer" % self.name)

    def check_alive(self):
        code = self.process.poll()
        if code is not None:
            self.log.seek(0)
            tail = self.log.read()[-300:].decode("latin-1").strip().replace("\n", "; ")
            why = signal.Signals(-code).name if code < 0 else "exit %d" % code
            raise BenchError("%s died (%s): %s" % (self.name, why, tail))

    def cpu(self):
        self.check_alive()
        return cpu_seconds(self.process.pid)

    def io(self):
        return io_bytes(self.process.pid)

    def stats(self, what=""):
        with socket.create_connection(("127.0.0.1", self.port), 20) as s:
            s.settimeout(20)
            s.sendall(b"stats %s\r\n" % what.encode() if what else b"stats\r\n")
            reply = b""
            while not reply.endswith((b"END\r\n", b"ERROR\r\n")):
                piece = s.recv(65536)
                if not piece:
                    break
                reply += piece
        return parse_stats(reply.decode("latin-1"))

    def stat(self, name, what=""):
        stats = self.stats(what)
        if name not in stats:
            raise BenchError("%s has no stat %s" % (self.name, name))
        return float(stats[name])

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.cgroup:
            self.cgroup.remove()
        with contextlib.suppress(OSError):
            os.unlink(self.flash)


class Client:
    """A run of the load generator under way; done() checks it and gives its figures."""

    def __init__(self, bench, server, options, cores=None, fifo=False):
        self.server = server
        command = [bench.load, "--server", "127.0.0.1:%d" % server.port, "--kv",
                   "--key-size", str(KEY_BYTES)]
        for name, value in options.items():
            command += ["--" + name] if value is True else ["--" + name, str(value)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=pinned(cores or bench.cores.client, fifo))

    def done(self):
        out, err = self.process.communicate()
        self.server.check_alive()
        if self.process.returncode != 0:
            raise BenchError("load: exit %d: %s" % (self.process.returncode, err.strip()[-200:]))
        return parse_kv(out)


class Bench:
    """Sizes, places and the figures gathered so far."""

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
        """The load generator once, to its end."""
        return Client(self, server, {k.replace("_", "-"): v for k, v in options.items()}).done()

    def fill(self, server, **options):
        """Every key once; all of them stored."""
        keys = self.run(server, mode="load", **options)
        if keys["stored"] != options["keys"]:
            raise BenchError("%s stored %d of %d" % (server.name, keys["stored"], options["keys"]))
        return keys

    def measure(self, server, **options):
        """One timed run: its figures, and cpu_us, reads and read_bytes of the server per hit
        or set."""
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
        r["read_bytes_per_get"] = (server.io()[0] - read) / done
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
            if self.wants("memcaslap"):
                self.record("memcaslap", [(self.memcaslap(a), self.memcaslap(b))
                                          for _ in range(self.pairs)])

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
        """Waits until so many objects are on flash, or no more come for a while; returns how
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
            same = dict(keys=keys, value=VALUE_1K, get_ratio=1)
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
                                  statistics.median(p[i]["read_bytes_per_get"] for p in pairs)
                                  for i in (0, 1)))
        if self.wants("flash_rate200"):
            self.record("flash_rate200", self.column(self.pairs_of(a, b, conns=200, **same), "rate"))
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
        pairs = []
        for i in range(self.pairs):
            size = os.stat(b.flash).st_blocks * 512
            iops, _ = self.fio(b.flash, "read", rw="randread", bs="4k", iodepth=50, allow_file_create=0,
                               size=min(size, 6 * self.limit), runtime=self.seconds, time_based=1)
            pairs.append((iops, self.measure(b, seed=i + 1, conns=50, **same)["rate"]))
        self.record("flash_fio", pairs)

    def multiget(self, b, same):
        pairs = [(self.measure(b, conns=1, seed=i + 1, **same)["get_p50_us"],
                  self.measure(b, conns=1, seed=i + 1, multiget=100, **same)["get_p50_us"])
                 for i in range(self.pairs)]
        self.record("multiget", pairs)

    def disturbed(self, server, quiet, loud):
        """p99.9 of the quiet load alone, and while the loud one runs: one pair. The quiet
        client goes before the loud one on their core, so what is seen is the server."""
        alone = Client(self, server, quiet, fifo=True).done()
        other = Client(self, server, loud)
        time.sleep(0.5)
        beside = Client(self, server, quiet, fifo=True).done()
        return (alone["get_p999_us"], beside["get_p999_us"]), other.done()

    def ram_busy(self, b, same):
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
        lost, times, written = [], [], []
        for i in range(2 if self.quick else 3):
            times.append((self.fio_write(), None))
            with self.flash_server(self.extant, "extant", 64, file_bytes) as s:
                seconds, w = self.load_once(s, keys)
                times[-1] = (times[-1][0], seconds)
                written.append((self.load_bytes, w))
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
        self.notes.append("Full-speed load: %.1f GB of values." % (self.load_bytes / GIB))

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
                            end_fsync=1)[1]
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)

    # -- the rest -----------------------------------------------------------------------

    def many(self):
        few = self.many_keys // 50
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
            same = dict(value=50, conns=50, get_ratio=1)
            pairs = [(self.measure(a, keys=few, seed=i + 1, **same)["cpu_us"],
                      self.measure(b, keys=self.many_keys, seed=i + 1, **same)["cpu_us"])
                     for i in range(self.pairs)]
            self.record("many", pairs)
            self.notes.append("Objects: %s against %s." % (
                with_unit(self.many_keys, ""), with_unit(few, "")))

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

    def nolock_row(self):
        if not self.nolock or not os.access(self.nolock, os.X_OK):
            raise BenchError("no build without locks")
        keys = self.limit // VALUE_1K
        self.need_space(4 * GIB)
        with self.flash_server(self.nolock, "nolock", 100, 2 * GIB) as a, \
                self.flash_server(self.extant, "extant", 100, 2 * GIB) as b:
            for s in (a, b):
                self.fill_flash(s, keys)
            pairs = self.pairs_of(a, b, count=2 * self.pairs, keys=keys, value=VALUE_1K, conns=50,
                                  get_ratio=1)
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
        """Runs the parts that are wanted; what goes wrong in one fails its rows only."""
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
        self.each((("ram_get", "ram_get_pipe", "ram_set_pipe", "memcaslap"), self.ram),
                  (("ram_overhead",), self.ram_overhead),
                  (tuple(GROUPS["flash"]), self.flash),
                  (tuple(GROUPS["load"]), self.load_rows),
                  (("many",), self.many),
                  (("workers",), self.workers),
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
    return 1 if broken else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
