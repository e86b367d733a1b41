"""The rows of the bench's table: promises, measurements and verdicts.

Pure: no process, file or clock is touched here, so t/live/bench_test.py can check each sum.
"""

import contextlib
import json
import re
import statistics

MIB = 1 << 20


class BenchError(Exception):
    """A row that could not be measured, and why."""


class Skip(Exception):
    """A row that this machine can't measure, and why."""


# ---- rows: the promises ------------------------------------------------------------


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
    Row("tls_get", "RAM get with TLS, 50 connections, one request at a time: CPU per op", "us", 0.75,
        0.60),
    Row("tls_set", "RAM set 100 B with TLS, 50 connections, one request at a time: CPU per op", "us", 0.75,
        0.60),
    Row("bin_get", "binary get, 50 connections, one request at a time: CPU per op", "us", 0.75, 0.70),
    Row("bin_get_pipe", "binary get, pipeline 32: CPU per op", "us", 0.75, 0.50),
    Row("bin_set", "binary set 100 B, 50 connections, one request at a time: CPU per op", "us", 0.75, 0.70),
    Row("bin_set_pipe", "binary set 100 B, pipeline 32: CPU per op", "us", 0.75, 0.50),
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
    Row("overwrite_lost", "keys of 70% of flash, set six times over at full speed: newest values lost",
        "values", 0, 0),
    Row("load_time", "the load: seconds to all-on-flash, against fio writing the same bytes", "s",
        2, 1.2, against="fio"),
    Row("load_written", "bytes written to flash per byte of values, no reclaim", "MB", 1.15, 1.05,
        against="value bytes"),
    Row("multiget", "multiget of 100 flash keys: time, against one flash get", "us", 4, 2.5,
        against="one get"),
    Row("many", "CPU per flash get at 50 million objects of 50 bytes against 1 million", "us", 1.3,
        1.1, against="few"),
    Row("workers", "two workers against one (mixed, 95:5): requests per second", "/s", 1.7, 1.9,
        low=False, against="one worker"),
    Row("scraped", "RAM get p99 while /metrics is scraped ten times a second, against not at all", "us",
        1.3, 1.05, against="not scraped"),
    Row("nolock", "cost of the extent map's locking: CPU per flash get against a build without",
        "us", 1.01, 1.005, against="no lock"),
    Row("memcaslap", "check: the first row as memcaslap sees it", "us", None, None),
]
ROW_BY_NAME = {row.name: row for row in ROWS}
LOSSES = ("load_lost", "overwrite_lost")  # counts that should be zero

# Names in BENCH_ROWS that stand for several rows.
GROUPS = {
    "ram": ["ram_get", "ram_get_pipe", "ram_set_pipe", "tls_get", "tls_set", "ram_overhead", "memcaslap"],
    "binary": ["bin_get", "bin_get_pipe", "bin_set", "bin_set_pipe"],
    "flash_get": ["flash_cpu", "flash_rate50", "flash_rate200", "flash_p99", "flash_p50"],
    "flash": ["flash_cpu", "flash_rate50", "flash_rate200", "flash_p99", "flash_p50", "flash_fio",
              "flash_sets", "ram_busy", "flash_ram", "multiget"],
    "load": ["load_lost", "load_time", "load_written"],
    "overwrite": ["overwrite_lost"],
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
    """The measurements of one row: pairs (left, right), or why there are none."""

    def __init__(self, row, pairs=(), failed=None, skipped=None):
        self.row = row
        self.pairs = list(pairs)
        self.failed = failed
        self.skipped = skipped
        if not self.pairs and not failed and not skipped:
            self.failed = "no measurement"
        if any(not isinstance(v, (int, float)) or v != v for p in self.pairs for v in p):
            self.failed = "not a number"
        elif row.name not in LOSSES and any(left <= 0 or right <= 0 for left, right in self.pairs):
            self.failed = "a measurement of zero"

    def ratios(self):
        if self.row.name in LOSSES:
            return [right for _, right in self.pairs]
        return [right / left for left, right in self.pairs]

    def ratio(self):
        """The value that is judged: the worst for losses, else the median ratio."""
        return max(self.ratios()) if self.row.name in LOSSES else \
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
        if row.name in LOSSES:
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
    if unit in ("values", "MB", "objects"):
        return "{:,.0f} {}".format(value, unit)
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
    """Operations per second, seconds and p99 in us of one fio job's JSON."""
    start = text.find("{")
    if start < 0:
        raise BenchError("fio: no JSON")
    job = json.loads(text[start:])["jobs"][0]
    if job.get("error"):
        raise BenchError("fio: error %d" % job["error"])
    return {"rate": float(job[side]["iops"]), "seconds": job[side]["runtime"] / 1000.0,
            "p99_us": job[side]["clat_ns"].get("percentile", {}).get("99.000000", 0) / 1000.0}


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
