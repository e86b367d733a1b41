#!/usr/bin/env python3
"""The effects of a faulty device: one server for each cell, its flash file on faultfs.

Started by scripts/fault-matrix.sh. In each cell a fresh server gets more objects than its
RAM and write buffers hold, in three passes of overwrites (same order, same sizes, so that a
stale page holds the same keys at the same places) and some deletes. Every value names its
key and version and is its own checksum; acknowledged values are remembered. Then all is
read back with the fault armed, again after it is gone, and again after one more pass.

  write faults are armed while loading and reading, read faults while reading;
  stall: some reads or writes take STALL_MS, while a prober asks other connections for
         `version` and for a value in RAM;
  gone:  the device fails every call for a while and comes back; truncated, removed: what
         an operator's rm or a stray `>` does to the file of a running server.

Columns: injected of requests; hits of the acknowledged objects while armed; wrong (other
bytes, an older version, a deleted object); errors (refused or broken requests); lost:
acknowledged, and not there after the fault is gone; evicted: of the server's own account.

Musts (each breach is printed, exit 1): the server lives, 0 wrong, no broken connection;
loading doesn't take LOAD_SECONDS, nor does a pass after the fault, of which nothing is lost;
writes that fail or are short up to 1 in 4, and with ext_verify_writes those that silently store a wrong bit or
nothing: 0 lost; reads that fail, are short or wrong up to
1 in 5: 95% of hits; without --quick, the prober's p99 stays under a third of a stall; small values in RAM are
served while the device is gone; when it is back, loading and reading lose nothing.
Goals that are not musts are printed as notes.
"""

import argparse
import hashlib
import multiprocessing
import os
import re
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "t", "aid"))
import servers  # noqa: E402
from faultfs import CantMount, Mount, skip  # noqa: E402
from servers import PATIENCE_SECONDS, Server, is_extant  # noqa: E402

VALUE_BYTES = 8000
PASSES = 3
BATCH = 10
LOAD_SECONDS = PATIENCE_SECONDS  # for all passes, which need much less
STALL_MS = 300
READ_FAULTS = ("eio", "short", "flip", "misdirect")
WRITE_FAULTS = ("eio", "short", "enospc", "flip", "misdirect", "lost")
DETECTED = ("eio", "short", "enospc")  # the writer learns of it
COUNTERS = re.compile(r"err|retr|short|bad|degrad|write_m|lost|crc|evictions_", re.I)


def make_value(key, version):
    head = b"%s %d " % (key, version)
    return head + hashlib.shake_128(head).digest(VALUE_BYTES - len(head))


class Client(servers.Client):
    def get(self, keys):
        """{key: value} of the hits, and how many error lines came."""
        self.send(b"".join(b"get %s\r\n" % k for k in keys))
        hits, errors = {}, 0
        for key in keys:
            while True:
                line = self.line()
                if line == b"END":
                    break
                if not line.startswith(b"VALUE "):
                    errors += 1
                    break
                word = line.split()
                data = self.exactly(int(word[3]) + 2)
                hits[word[1]] = data[:-2] if word[1] == key and data[-2:] == b"\r\n" else b""
        return hits, errors


class History:
    """What was acknowledged. A failed request leaves either state possible."""

    def __init__(self, count):
        self.keys = [b"object-%06d" % i for i in range(count)]
        self.acked = {}    # key -> version, 0 deleted
        self.unsure = {}   # key -> versions that may be there too; 0: gone
        self.version = 0
        self.errors = 0
        self.refusals = set()
        self.wrong_shown = 0

    def _note(self, key, version, ok, line):
        if ok:
            self.acked[key] = version
            self.unsure.pop(key, None)
        else:
            self.errors += 1
            self.refusals.add(line)
            self.unsure.setdefault(key, {0}).add(version)

    def store(self, client, keys, pace=None, seconds=LOAD_SECONDS):
        """Stores a new version under every key; False if time was over before."""
        self.version += 1
        end = time.monotonic() + seconds
        for i in range(0, len(keys), BATCH):
            part = keys[i:i + BATCH]
            start = time.monotonic()
            if start > end:
                return False
            client.send(b"".join(
                b"set %s 0 0 %d\r\n%s\r\n" % (k, VALUE_BYTES, make_value(k, self.version))
                for k in part))
            for key in part:
                line = client.line()
                self._note(key, self.version, line == b"STORED", line)
            if pace:
                left = start + len(part) * VALUE_BYTES / pace - time.monotonic()
                time.sleep(max(0, left))
        return True

    def delete(self, client, keys):
        client.send(b"".join(b"delete %s\r\n" % k for k in keys))
        for key in keys:
            line = client.line()
            self._note(key, 0, line in (b"DELETED", b"NOT_FOUND"), line)

    def sure(self):
        return [k for k in self.keys if self.acked.get(k) and k not in self.unsure]

    def verify(self, client, keys=None, seconds=PATIENCE_SECONDS):
        """(tried, hits, wrong, errors, keys of sure misses)"""
        tried = hits = wrong = errors = 0
        missing, end = [], time.monotonic() + seconds
        keys = self.keys if keys is None else keys
        for i in range(0, len(keys), 20):
            if time.monotonic() > end:
                break
            part = keys[i:i + 20]
            found, bad = client.get(part)
            errors += bad
            for key in part:
                allowed = {self.acked.get(key, 0)} | self.unsure.get(key, set())
                is_sure = bool(self.acked.get(key)) and key not in self.unsure
                tried += is_sure
                if key not in found:
                    if is_sure:
                        missing.append(key)
                    continue
                value = found[key]
                word = value.split(b" ", 2)
                version = int(word[1]) if len(word) == 3 and word[1].isdigit() else -1
                if version in allowed - {0} and value == make_value(key, version):
                    hits += is_sure
                else:
                    wrong += 1
                    self.wrong_shown += 1
                    if self.wrong_shown <= 3:
                        print("    WRONG: %s may be version %s: got %d bytes of %s version %d" % (
                            key.decode(), sorted(allowed), len(value),
                            word[0][:40].decode("latin-1"), version))
        return tried, hits, wrong, errors, missing


def probe(server, stop, out):
    """In a process of its own: how long `version` and a RAM get take elsewhere."""
    took = {"version": [], "get": []}
    errors = 0
    try:
        client = Client(server)
        while not stop.is_set():
            start = time.perf_counter()
            client.send(b"version\r\n")
            client.line()
            middle = time.perf_counter()
            found, _ = client.get([b"in-ram"])
            took["version"].append(middle - start)
            took["get"].append(time.perf_counter() - middle)
            errors += found.get(b"in-ram") != b"yes"
            time.sleep(0.002)
    except OSError:
        errors += 1
    result = {"errors": errors}
    for name, times in took.items():
        times.sort()
        result[name] = (times[len(times) // 2] * 1e3, times[int(len(times) * .99)] * 1e3,
                        times[-1] * 1e3) if times else (0, 1e9, 1e9)
    out.send(result)


class Probe:
    def __init__(self, server):
        self.stop = multiprocessing.Event()
        self.pipe, child = multiprocessing.Pipe(False)
        self.process = multiprocessing.Process(target=probe, args=(server, self.stop, child))
        self.process.start()

    def result(self):
        self.stop.set()
        out = self.pipe.recv() if self.pipe.poll(30) else None
        if out is None:
            self.process.kill()
        self.process.join()
        return out or {"errors": 1, "version": (0, 1e9, 1e9), "get": (0, 1e9, 1e9)}


class Matrix:
    def __init__(self, args):
        self.args = args
        self.breaches, self.notes = [], []

    # ---- the server under test

    def server(self, mount, options=""):
        # item_age 0: idle items go to flash, so that reads come from there.
        flags = ["-m", str(self.args.memory), "-t", "2", "-o",
                 "ext_page_size=2,ext_wbuf_size=2,ext_path=%s/flash:%dm,ext_item_size=512,"
                 "ext_item_age=0,ext_threads=4,ext_compact_under=4%s"
                 % (mount.point, self.args.flash, options)]
        return Server(self.args.server, flags, name="faults")

    def stats(self, server):
        out = server.stats()
        if is_extant(self.args.server):
            out.update({"extant:" + k: v for k, v in server.stats(b"extant").items()})
        return out

    @staticmethod
    def degraded(stats):
        """Is the server degraded? None if it doesn't say."""
        named = [v for k, v in stats.items() if "degraded" in k and "reason" not in k]
        return None if not named else any(v not in ("0", "no", "", "none", "ok") for v in named)

    def settle(self, server):
        """Until the big values have gone to flash, or nothing moves any more."""
        last, since = None, time.monotonic()
        end = since + 5
        while time.monotonic() < end:
            stats = server.stats()
            now = stats.get("extstore_objects_written")
            if now != last:
                last, since = now, time.monotonic()
            elif time.monotonic() - since > 0.4:
                return
            time.sleep(0.05)

    def recovered(self, server, history, client):
        """Whether the server stops saying degraded under light traffic."""
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            state = self.degraded(self.stats(server))
            if not state or time.monotonic() > end:
                return state
            history.store(client, history.keys[:5 * BATCH])
            history.verify(client, history.keys[-5 * BATCH:])
            time.sleep(0.05)

    def load(self, history, client, passes=PASSES):
        start = time.monotonic()
        for _ in range(passes):
            if not history.store(client, history.keys, self.args.pace * 1e6,
                                 start + LOAD_SECONDS - time.monotonic()):
                return False
        history.delete(client, history.keys[7::20])
        return True

    # ---- the verdicts

    def must(self, cell, ok, what):
        if not ok:
            self.breaches.append("%s: %s" % (cell, what))

    def must_be_quick(self, cell, p99_ms):
        """With --quick only a note, because other tests may keep the machine busy."""
        claim = self.note if self.args.quick else self.must
        claim(cell, p99_ms < STALL_MS / 3, "p99 of others is %.0f ms" % p99_ms)

    def note(self, cell, ok, what):
        if not ok:
            self.notes.append("%s: %s" % (cell, what))

    def counters(self, before, after):
        out = []
        for name in sorted(after):
            if not COUNTERS.search(name) or name == "time" or "io_depth" in name:
                continue
            if after[name] != before.get(name) and after[name] != "0":
                out.append("%s=%s" % (name.replace("extant:", ""), after[name]))
        return " ".join(out)

    def row(self, cell, injected, requests, tried, hits, wrong, errors, lost, evicted, alive,
            degraded, counters):
        print("%-22s %6d/%-6d %6d/%-6d %5d %6d %6d %7s %5s %-9s %s" % (
            cell, injected, requests, hits, tried, wrong, errors, lost, evicted,
            "yes" if alive else "NO", degraded, counters), flush=True)

    def header(self):
        print("%-22s %13s %13s %5s %6s %6s %7s %5s %-9s %s" % (
            "fault", "injected/of", "hits/of", "wrong", "errors", "lost", "evicted", "alive",
            "degraded", "the server's own counters"))

    @staticmethod
    def show_latency(latency):
        """Prints the prober's figures, returns the worse p99 in ms."""
        for what in ("version", "get"):
            print("    meanwhile %-7s p50 %.2f p99 %.2f max %.2f ms" % ((what,) + latency[what]))
        return max(latency[what][1] for what in ("version", "get"))

    @staticmethod
    def evictions(stats):
        return sum(int(stats.get(k, 0)) for k in ("evictions", "extstore_objects_evicted"))

    # ---- cells

    def run_cell(self, cell, body, options=""):
        where = os.path.join(self.args.dir, "cell")
        try:
            mount = Mount(self.args.faultfs, where)
        except CantMount as why:
            skip(why)
        try:
            with self.server(mount, options) as server:
                client = Client(server)
                client.send(b"set in-ram 0 0 3\r\nyes\r\n")
                client.line()
                mount.set("seed=%d stall_ms=%d" % (self.args.seed, STALL_MS))
                try:
                    body(server, client, mount, History(self.args.objects))
                except OSError as e:
                    self.must(cell, False, "connection broken: %s; %s" % (
                        e, server.log_tail()[-300:]))
                    print("%-22s BROKEN: %s" % (cell, e), flush=True)
                self.must(cell, server.process.poll() is None, "the server died: %s"
                          % server.log_tail()[-1500:])
                mount.set("off")
                client.close()
                lines = server.log_tail().count("\n")
                self.note(cell, lines < 30, "%d+ lines in the log" % lines)
                code = server.stop()
                self.must(cell, code == 0, "exit code %s" % code)
        finally:
            mount.close()
            for name in os.listdir(mount.back):
                os.unlink(os.path.join(mount.back, name))

    def plain(self, way, fault, one_in, verified=False):
        """verified: with ext_verify_writes, which notices writes that fail silently."""
        cell = "%s %s %s%s" % (way, fault, "always" if one_in == 1 else "1/%d" % one_in,
                               ", verified" if verified else "")
        if self.args.only and self.args.only not in cell:
            return

        def body(server, client, mount, history):
            before = self.stats(server)
            arm = "arm=1 %s.%s=1/%d reset" % (way, fault, one_in)
            if way == "write":
                mount.set(arm)
            loaded = self.load(history, client)
            self.settle(server)
            if way == "read":
                mount.set(arm)
            tried, hits, wrong, errors, _ = history.verify(client)
            armed = self.stats(server)
            counts = mount.counts()
            mount.set("off")
            injected, requests = counts["%s.%s" % (way, fault)], counts[way + "s"]
            _, _, wrong2, errors2, missing = history.verify(client)
            after = self.stats(server)
            was, still = self.degraded(armed), self.recovered(server, history, client)
            # A device that works again takes and keeps everything.
            again = history.store(client, history.keys, self.args.pace * 1e6)
            self.settle(server)
            final = history.verify(client)
            wrong = max(wrong, wrong2, final[2])
            evicted = self.evictions(after) - self.evictions(before)
            shown = "-" if was is None else ("yes" if was else "no") + ("/STILL" if still else "")
            self.row(cell, injected, requests, tried, hits, wrong,
                     errors + errors2 + history.errors, len(missing), evicted, True, shown,
                     self.counters(before, after))
            for line in sorted(history.refusals)[:3]:
                print("    refused with: %s" % line.decode("latin-1"))
            self.must(cell, wrong == 0, "%d wrong values" % wrong)
            self.must(cell, loaded, "loading took over %d s" % LOAD_SECONDS)
            self.must(cell, not still, "still degraded when the fault is gone")
            self.must(cell, again, "loading after the fault took over %d s: %d of %d"
                      % (LOAD_SECONDS, sum(v == history.version for v in history.acked.values()),
                         len(history.keys)))
            self.must(cell, not final[4], "%d lost of what was stored after the fault"
                      % len(final[4]))
            self.must(cell, errors + errors2 == 0, "%d gets answered with an error"
                      % (errors + errors2))
            self.must(cell, injected or one_in > 20, "no fault was injected")
            self.must(cell, tried, "nothing was acknowledged")
            if way == "write" and (fault in DETECTED or verified):
                if one_in >= 4:
                    self.must(cell, not missing, "%d acknowledged objects lost" % len(missing))
                else:
                    self.note(cell, was is not False, "not shown as degraded")
                    self.note(cell, len(missing) <= evicted,
                              "%d lost, but %d counted as evicted" % (len(missing), evicted))
            if way == "read":
                if one_in >= 5:
                    self.must(cell, hits >= 0.95 * tried, "%.1f%% of hits" % (100 * hits / tried))
                else:
                    self.note(cell, was is not False or fault == "misdirect",
                              "not shown as degraded")
                self.note(cell, not missing, "%d objects gone for good, of faulty reads"
                          % len(missing))
        self.run_cell(cell, body, ",ext_verify_writes" if verified else "")

    def stall(self, way, one_in):
        cell = "%s stall %s" % (way, "always" if one_in == 1 else "1/%d" % one_in)
        if self.args.only and self.args.only not in cell:
            return

        def body(server, client, mount, history):
            before = self.stats(server)
            arm = "arm=1 %s.stall=1/%d reset" % (way, one_in)
            seconds = 2
            tally = [0, 0, 0, 0]

            def reader(part):
                mine = Client(server)
                for i in range(0, len(part), 20):
                    if time.monotonic() > end:
                        break
                    for n, x in enumerate(history.verify(mine, part[i:i + 20])[:4]):
                        tally[n] += x
                mine.close()
            if way == "read":
                self.load(history, client, 1)
                self.settle(server)
                mount.set(arm)
            else:
                mount.set(arm)
            prober = Probe(server)
            end = time.monotonic() + seconds
            if way == "read":
                readers = [threading.Thread(target=reader, args=(history.keys[i::8],))
                           for i in range(8)]
                for r in readers:
                    r.start()
                for r in readers:
                    r.join()
            else:
                while time.monotonic() < end:
                    for i in range(0, len(history.keys), 50):
                        if time.monotonic() < end:
                            history.store(client, history.keys[i:i + 50], self.args.pace * 1e6)
            latency = prober.result()
            counts = mount.counts()
            mount.set("off")
            _, hits, wrong, errors, missing = history.verify(client)
            after = self.stats(server)
            evicted = self.evictions(after) - self.evictions(before)
            if way == "write":
                tally[:2] = [hits + len(missing), hits]
            wrong += tally[2]
            self.row(cell, counts[way + ".stall"], counts[way + "s"], tally[0], tally[1], wrong,
                     tally[3] + errors + history.errors, len(missing), evicted, True, "-",
                     self.counters(before, after))
            worst = self.show_latency(latency)
            self.must(cell, wrong == 0, "%d wrong values" % wrong)
            self.must(cell, latency["errors"] == 0, "the prober met %d errors" % latency["errors"])
            self.must_be_quick(cell, worst)
            self.note(cell, len(missing) <= evicted, "%d lost, but %d counted as evicted"
                      % (len(missing), evicted))
            self.note(cell, not missing, "%d lost" % len(missing))
        self.run_cell(cell, body)

    def outage(self, kind):
        cell = "device " + kind
        if self.args.only and self.args.only not in cell:
            return

        def body(server, client, mount, history):
            before = self.stats(server)
            self.load(history, client, 1)
            self.settle(server)
            file = os.path.join(mount.point, "flash")
            mount.set("reset")
            if kind == "gone":
                mount.set("arm=1 gone=1")
            elif kind == "truncated":
                os.truncate(file, 0)
            else:
                os.unlink(file)
            prober = Probe(server)
            tried, hits, wrong, errors, _ = history.verify(client)
            small = {b"small-%d" % i: b"%d" % i for i in range(200)}
            client.send(b"".join(b"set %s 0 0 %d\r\n%s\r\n" % (k, len(v), v)
                                 for k, v in small.items()))
            kept = sum(client.line() == b"STORED" for _ in small)
            found, _ = client.get(list(small))
            wrong += sum(found.get(k, v) != v for k, v in small.items())
            again = History(0)
            again.keys = [b"meanwhile-%06d" % i for i in range(200)]
            again.store(client, again.keys)
            wrong += again.verify(client)[2]
            during = self.stats(server)
            latency = prober.result()
            counts = mount.counts()
            mount.set("off")
            back = history.verify(client)
            was, still = self.degraded(during), self.recovered(server, history, client)
            history.store(client, history.keys, self.args.pace * 1e6)
            self.settle(server)
            final = history.verify(client)
            wrong += back[2] + final[2] + again.verify(client)[2]
            after = self.stats(server)
            shown = "-" if was is None else ("yes" if was else "no") + ("/STILL" if still else "")
            self.row(cell, counts["gone"], counts["reads"] + counts["writes"], tried, hits, wrong,
                     errors + back[3] + history.errors, len(final[4]),
                     self.evictions(after) - self.evictions(before), True, shown,
                     self.counters(before, after))
            print("    when it is back: hits %d/%d at once; loaded again: %d/%d" % (
                back[1], back[0], final[1], final[0]))
            worst = self.show_latency(latency)
            for line in sorted(again.refusals | history.refusals)[:3]:
                print("    refused with: %s" % line.decode("latin-1"))
            self.must(cell, wrong == 0, "%d wrong values" % wrong)
            self.must(cell, kept == len(found) == len(small), "of %d small values %d were stored, "
                      "%d found" % (len(small), kept, len(found)))
            self.must(cell, latency["errors"] == 0, "the prober met %d errors" % latency["errors"])
            self.must_be_quick(cell, worst)
            self.must(cell, not still, "it stays degraded")
            self.must(cell, not final[4], "%d lost of what was stored afterwards" % len(final[4]))
            if kind == "gone":
                self.note(cell, was is not False, "not shown as degraded")
            if kind != "truncated":
                self.note(cell, back[1] == back[0], "%d of %d back" % (back[1], back[0]))
        self.run_cell(cell, body)

    def run(self):
        start = time.monotonic()
        print("%s: %d objects of %d B, %d MB RAM, %d MB flash, %d passes, seed %d" % (
            self.args.server, self.args.objects, VALUE_BYTES, self.args.memory, self.args.flash,
            PASSES, self.args.seed))
        self.header()
        rates = (5, 1) if self.args.quick else (5, 100, 1)
        for fault in READ_FAULTS:
            for one_in in rates[:1] if self.args.quick and fault != "eio" else rates:
                self.plain("read", fault, one_in)
        for fault in WRITE_FAULTS:
            if fault in DETECTED:
                self.plain("write", fault, 4)
            for one_in in (() if self.args.quick and fault == "short" else
                           rates[:1] if self.args.quick and fault != "eio" else rates):
                self.plain("write", fault, one_in)
            if fault in ("flip", "lost"):  # a misdirected write also damages other data
                self.plain("write", fault, 5, verified=True)
        for way in ("read", "write"):
            for one_in in (5,) if self.args.quick else rates:
                self.stall(way, one_in)
        for kind in ("gone", "truncated", "removed"):
            self.outage(kind)
        for line in self.notes:
            print("note: " + line)
        for line in self.breaches:
            print("BREACH: " + line)
        print("%d musts broken, %d notes, %.0f s" % (
            len(self.breaches), len(self.notes), time.monotonic() - start))
        return 1 if self.breaches else 0


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--faultfs", required=True)
    p.add_argument("--dir", required=True)
    p.add_argument("--quick", action="store_true", help="fewer rates, fewer objects")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--only", help="cells whose name contains this")
    p.add_argument("--objects", type=int)
    p.add_argument("--memory", type=int, default=8)
    p.add_argument("--flash", type=int, default=128)
    p.add_argument("--pace", type=float, default=100, help="MB/s of sets")
    p.add_argument("server", nargs="?", default=os.environ.get("EXTANT", "./extant"))
    args = p.parse_args()
    if args.objects is None:
        args.objects = 4000 if args.quick else 6000
    return Matrix(args).run()


if __name__ == "__main__":
    sys.exit(main())
