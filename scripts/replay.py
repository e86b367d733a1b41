#!/usr/bin/env python3
"""Real traces, played to Extant and to memcached with extstore, with the same RAM and flash.

  replay.py [--ram MB] [--percent 10,1] [--data DIR] [--only TRACE,..] [--servers extant,memcached]
            [--repeat N] [--save FILE] [--extant-options ...] [--policy LIST] [--list]
                                                              needs build/replay and extant (make)

A cache has 5% of its bytes as RAM (-m) and 95% as flash, and is 10% or 1% of the trace's footprint:
values are scaled so that this comes out with --ram MB of RAM. Clients look aside: a get, and on a
miss a set. Each trace is played to each server alone, from empty, one after the other, and to
simulated caches of the same size (scripts/replay_sim.h). Traces: every *.txt.xz of --data, in lines
of `id [size]`, and the generated adversaries (--list). A line a trace: misses, bytes
missed and bytes written to flash, as ratios to extstore's; write amplification (bytes given to the device for each
byte of a record's first writing); hits from RAM and from flash; evictions; CPU a request.

memcached's flash bytes are its extstore_bytes_written, Extant's all that it gave to devices (with
tables, alignment and rewrites). memcached loses what it has no time to flush, so both are played at --rate, which
gives it the time; evictions show what it lost nevertheless.
Short of memory (-m 4) memcached now and then breaks off in an answer; such a connection is given up after some seconds
(`stalled`, with --verbose), and what it still had to answer counts as missed.
--repeat N plays each trace N times to Extant: the smallest and the largest result; medians at the end are of means.
--save FILE keeps memcached's results and simulations for the next run: they don't change with Extant.
"""

import argparse
import glob
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path.insert(0, os.path.join(ROOT, "t", "aid"))
from servers import Server  # noqa: E402

MIB = 1 << 20
EXTRA = 56  # replay_trace.h: TRACE_RECORD_EXTRA_BYTES
MAX_VALUE = 400000
NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?$")
# Generated traces: the trace, and further arguments for replay. Their number of keys suits a cache of 10% of
# the footprint.
ADVERSARIES = {
    "loop": ("loop:4000:24000", ["of-cache", "1.2"]),
    "twice": ("twice:900:30000", ["of-cache", "4"]),
    "onehit": ("onehit:6000:120000", []),
    "scan": ("scan:20000:120000", []),
    "shift": ("shift:20000:160000", []),
    "zipf": ("zipf:30000:200000", []),
    "changes": ("zipf:30000:200000", ["--deletes", "0.05", "--overwrites", "0.07"]),
    "ttl": ("zipf:30000:200000", ["--ttl-share", "0.6", "--ttl", "8"]),
}
SIMULATED = ("lru", "fifo", "s3fifo", "min")


def replay(source, arguments):
    run = subprocess.run([os.path.join(ROOT, "build/replay"), *map(str, arguments), source],
                         stdout=subprocess.PIPE, check=False)
    if run.returncode not in (0, 1):
        raise RuntimeError("replay %s: exit %d" % (source, run.returncode))
    return {k: float(v) for k, v in (line.split() for line in run.stdout.decode().splitlines())}


class Case:
    """One trace at one size: how replay is called, and how large the cache is."""

    def __init__(self, args, name, source, extra, percent):
        self.name, self.source, self.percent, self.args = name, source, percent, args
        share = percent / 100
        if extra[:1] == ["of-cache"]:  # the footprint in caches
            share = 1 / float(extra[1])
            extra = []
        self.ram = args.ram * MIB
        flash = self.ram * 19
        self.flash = flash - flash % (2 * MIB)
        self.call = [*extra, "--max-value", MAX_VALUE]
        for option in ("skip", "limit", "seed"):
            if getattr(args, option):
                self.call += ["--" + option, getattr(args, option)]
        if args.sizes:
            self.call += ["--sizes", args.sizes]
        target, scale = (self.ram + self.flash) / share, 1.0
        for _ in range(6):  # values are cut at MAX_VALUE, so not quite linear
            seen = replay(source, [*self.call, "--scale", scale])
            extras = seen["keys"] * EXTRA
            scale *= (target - extras) / (seen["footprint_bytes"] - extras)
        self.call += ["--scale", scale]
        self.requests, self.keys = seen["requests"], seen["keys"]
        self.reaches = seen["footprint_bytes"] > 0.9 * target

    def id(self):
        part = ["%s %d" % (o, getattr(self.args, o)) for o in ("skip", "seed") if getattr(self.args, o)]
        return " ".join(["%s %g%% %d MB" % (self.name, self.percent, self.args.ram), *part])

    def simulate(self):
        return replay(self.source, [*self.call, "--simulate", ",".join(SIMULATED), "--ram", self.ram,
                                    "--flash", self.flash, "--page", 2 * MIB])

    def flags(self, kind):
        options = "ext_page_size=2,ext_wbuf_size=2,ext_item_size=512,ext_path=@DIR@/flash:%dm" % (
            self.flash // MIB)
        if kind == "extant" and self.args.extant_options:
            options += "," + self.args.extant_options
        return ["-m", str(self.args.ram), "-t", "2", "-U", "0", "-o", options]

    def serve(self, kind):
        binary = self.args.extant if kind == "extant" else self.args.memcached
        with Server(binary, self.flags(kind), kind) as server:
            out = replay(self.source, [*self.call, "--server", server.path, "--depth", self.args.depth,
                                       "--rate", self.args.rate * MIB])
            stats = server.stats()
            if kind == "extant":
                stats.update(server.stats(b"extant"))
            out["stats"] = {k: v for k, v in stats.items() if NUMBER.match(v)}
        return out


def figures(case, run):
    """The columns of one run."""
    s = {k: float(v) for k, v in run["stats"].items()}
    written = s.get("ext_device_bytes_written", s["extstore_bytes_written"])
    # memcached counts reads that it begins, Extant those that hit.
    flash_hits = s["get_extstore"] - (0 if "ext_device_reads" in s else s["miss_from_extstore"])
    first = s["extstore_bytes_written"] - s.get("ext_bytes_rewritten", 0)
    return {
        "misses": (run["gets"] - run["hits"]) / run["gets"],
        "byte_misses": 1 - run["hit_bytes"] / run["get_bytes"],
        "flash_bytes": written,
        "wa": written / first if first > 0 else 1.0,
        "ram_hits": (run["hits"] - flash_hits) / run["gets"],
        "flash_hits": flash_hits / run["gets"],
        "reads": s.get("ext_device_reads", s["extstore_objects_read"]),
        "evictions": {k: int(v) for k, v in sorted(s.items())
                      if v and (k.startswith("evictions") or k == "extstore_objects_evicted")},
        "cpu_us": (s["rusage_user"] + s["rusage_system"]) * 1e6 / case.requests,
        "expired": s.get("ext_expired_bytes", 0) / case.flash,  # at the end
        "wrong": run["wrong"], "refused": run["refused"], "stalled": run.get("stalled", 0), "seconds": run["seconds"],
    }


def measure(args, case, kept):
    known = kept.setdefault(case.id(), {})
    if "simulated" not in known:
        known["simulated"] = case.simulate()
    out = {"simulated": {n: 1 - known["simulated"][n + "_hits"] / known["simulated"][n + "_gets"]
                         for n in SIMULATED}}
    for kind in args.servers.split(","):
        if kind == "memcached":
            known[kind] = known.get(kind) or case.serve(kind)
            out[kind] = figures(case, known[kind])
            continue
        out["runs"] = [figures(case, case.serve(kind)) for _ in range(args.repeat)]
        if any(run["wrong"] for run in out["runs"]):
            raise RuntimeError("%s: wrong values" % case.id())
        out[kind] = {k: statistics.mean(run[k] for run in out["runs"]) for k in SHOWN}
    return out


SHOWN = ("misses", "byte_misses", "flash_bytes", "wa", "ram_hits", "flash_hits", "cpu_us", "expired")
HEAD = ("| trace | misses: extstore, Extant | ratio | bytes missed, ratio | flash MB: extstore, Extant | ratio | WA "
        "| RAM, flash hits | us a request | LRU, FIFO, S3-FIFO, MIN |\n|---|---|---|---|---|---|---|---|---|---|")


def spread(form, values):
    least, most = form % min(values), form % max(values)
    return least if least == most else least + ".." + most


def row(case, out):
    e, m, s = out.get("extant"), out.get("memcached"), out["simulated"]
    if not (e and m):
        return "| %s | %s |" % (case.id(), json.dumps(e or m))
    out["ratio"] = e["misses"] / m["misses"]
    out["flash_ratio"] = e["flash_bytes"] / max(m["flash_bytes"], 1)
    runs = out["runs"]
    ratio = {n: spread("%.3f", [run[n] / max(m[n], 1e-9) for run in runs])
             for n in ("misses", "byte_misses", "flash_bytes")}
    return "| %s | %.4f, %s | %s | %s | %.0f, %s | %s | %s | %.3f, %.3f | %.1f, %.1f | %s |" % (
        case.id(), m["misses"], spread("%.4f", [run["misses"] for run in runs]), ratio["misses"],
        ratio["byte_misses"], m["flash_bytes"] / MIB, spread("%.0f", [run["flash_bytes"] / MIB for run in runs]),
        ratio["flash_bytes"], spread("%.2f", [run["wa"] for run in runs]), e["ram_hits"], e["flash_hits"],
        m["cpu_us"], e["cpu_us"], ", ".join("%.4f" % s[n] for n in SIMULATED))


def medians(rows):
    for percent in sorted({c.percent for c, _ in rows}, reverse=True):
        some = [(c, o) for c, o in rows if c.percent == percent and "ratio" in o]
        for what, chosen in (("traces", [o for c, o in some if c.name not in ADVERSARIES]),
                             ("all", [o for _, o in some])):
            if chosen:
                print("median of %d %s at %g%%: misses %.3f, flash bytes %.3f, WA %.2f; worst %.3f, %.3f"
                      % (len(chosen), what, percent,
                         statistics.median(o["ratio"] for o in chosen),
                         statistics.median(o["flash_ratio"] for o in chosen),
                         statistics.median(o["extant"]["wa"] for o in chosen),
                         max(o["ratio"] for o in chosen), max(o["flash_ratio"] for o in chosen)))


def simulate_policy(args, traces):
    """Extant's own policy with other numbers, against a page FIFO: a line a trace, and the means."""
    rows = []
    for name in (args.only.split(",") if args.only else traces):
        case = Case(args, name, *traces[name], float(args.percent.split(",")[0]))
        if name == "ttl":
            continue  # without a clock
        out = replay(case.source, [*case.call, "--simulate", "fifo,extant", "--policy", args.policy, "--ram",
                                   case.ram, "--flash", case.flash, "--page", 2 * MIB])
        miss = {n: out[n + "_gets"] - out[n + "_hits"] for n in ("fifo", "extant")}
        written = out["extant_flash_written"]
        rows.append((miss["extant"] / miss["fifo"], written / max(out["fifo_flash_written"], 1),
                     written / max(written - out.get("extant_rewritten", 0), 1)))
        print("%-20s misses %.3f, flash bytes %.3f of a page FIFO's, WA %.2f" % (name, *rows[-1]))
    print("mean of %d: misses %.3f, flash bytes %.3f, WA %.2f" % (
        len(rows), *(statistics.mean(r[i] for r in rows) for i in range(3))))


def sources(args):
    out = {}
    for path in sorted(glob.glob(os.path.join(args.data, "*.txt*")) if args.data else []):
        out[os.path.basename(path).split(".")[0]] = (path, [])
    out.update(ADVERSARIES)
    return out


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--ram", type=int, default=8)
    p.add_argument("--percent", default="10,1")
    p.add_argument("--data")
    p.add_argument("--only")
    p.add_argument("--limit", type=int, default=0, help="requests of each trace")
    p.add_argument("--skip", type=int, default=0, help="requests of each trace that are passed over first")
    p.add_argument("--seed", type=int, default=0, help="of generated traces")
    p.add_argument("--rate", type=float, default=100, help="MB of values set in a second, 0: any")
    p.add_argument("--depth", type=int, default=16)
    p.add_argument("--servers", default="memcached,extant")
    p.add_argument("--extant", default=os.path.join(ROOT, "extant"))
    p.add_argument("--memcached", default="memcached")
    p.add_argument("--extant-options", default="")
    p.add_argument("--repeat", type=int, default=1)
    p.add_argument("--dir", default=os.path.join(ROOT, "build"))
    p.add_argument("--save")
    p.add_argument("--policy", help="only simulate Extant's policy, with these numbers changed: keep=0,.. or ''")
    p.add_argument("--verbose", action="store_true", help="all figures of each run, too")
    p.add_argument("--list", action="store_true")
    args = p.parse_args()
    sizes = os.path.join(args.data or "", "kv-sizes.csv")
    args.sizes = sizes if args.data and os.path.exists(sizes) else None
    return args


def main():
    args = arguments()
    traces = sources(args)
    if args.list:
        for name, (source, extra) in traces.items():
            print(name, source, *extra)
        return 0
    if args.policy is not None:
        simulate_policy(args, traces)
        return 0
    tempfile.tempdir = args.dir
    kept = {}
    if args.save and os.path.exists(args.save):
        with open(args.save, encoding="ascii") as f:
            kept = json.load(f)
    rows = []
    print(HEAD, flush=True)
    for percent in (float(x) for x in args.percent.split(",")):
        for name in (args.only.split(",") if args.only else traces):
            case = Case(args, name, *traces[name], percent)
            if not case.reaches:
                print("| %s | values would be larger than %d bytes |" % (case.id(), MAX_VALUE))
                continue
            out = measure(args, case, kept)
            rows.append((case, out))
            print(row(case, out), flush=True)
            if args.verbose:
                print(json.dumps(out))
            if args.save:
                with open(args.save, "w", encoding="ascii") as f:
                    json.dump(kept, f)
    medians(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
