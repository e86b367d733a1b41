#!/usr/bin/env python3
"""Clients that misbehave: the server's memory stays bounded and other clients don't notice.

Each part starts a server of its own ($EXTANT, else ./extant; memcached works too), lets
many clients misbehave in one way, and meanwhile a process of its own asks `version` and
gets a small value. Claims of every part: the server lives, the prober meets no error (its
p99 is printed, and is a claim with --p99), RSS stays under the part's bound, and when the bad
clients are gone their connections are too and every answer is right. SIGTERM then ends it with code 0.

  bad_clients.py [--connections N] [--p99 MS] [PART...]   prints a line per part; exit 1 if one fails
"""

import argparse
import multiprocessing
import os
import select
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'aid'))
from servers import PATIENCE_SECONDS, Server, has_descriptors, is_extant  # noqa: E402

IDLE_BYTES = 1024       # RSS of a connection that waits
MB = 1 << 20
REJECTED = b"ERROR Too many open connections\r\n"


def prober(server, stop, out):
    took, errors = [], []
    try:
        s = server.connect()
        s.settimeout(PATIENCE_SECONDS)
        while not stop.is_set():
            for request, end in ((b"version\r\n", b"\r\n"),
                                 (b"get small\r\n", b"VALUE small 0 5\r\nsmall\r\nEND\r\n")):
                start = time.perf_counter()
                s.sendall(request)
                got = b""
                while not got.endswith(end) and not got.endswith(b"END\r\n"):
                    piece = s.recv(4096)
                    if not piece:
                        raise OSError("closed after %r" % got)
                    got += piece
                took.append((time.perf_counter() - start) * 1e3)
                if not got.endswith(end) or b"ERROR" in got:
                    errors.append(repr(got))
            time.sleep(0.001)
    except OSError as e:
        errors.append(str(e))
    took.sort()
    out.send((took, errors))


class Failed(Exception):
    pass


class Part:
    """A server with a prober beside it."""

    def __init__(self, binary, args, name, flags, tcp=False):
        self.name = name
        self.p99_ms = args.p99
        self.server = Server(binary, flags, name=name, tcp=tcp)
        self.facts = []
        self.baseline = self.rss = 0

    def __enter__(self):
        self.server.start()
        self.say(b"set small 0 0 5\r\nsmall\r\n", b"STORED\r\n")
        self.connections = int(self.server.stats()["curr_connections"])
        self.stop = multiprocessing.Event()
        self.pipe, child = multiprocessing.Pipe(False)
        self.process = multiprocessing.Process(
            target=prober, args=(self.server, self.stop, child), daemon=True)
        self.process.start()
        time.sleep(0.1)
        self.baseline = self.server.rss_kb() * 1024
        return self

    def __exit__(self, kind, value, trace):
        try:
            self.stop.set()
            took, errors = self.pipe.recv() if self.pipe.poll(2 * PATIENCE_SECONDS) else ([], ["no answer"])
            self.process.kill()
            self.process.join()
            if kind is None:
                self.finish(took, errors)
        finally:
            self.server.stop()

    def finish(self, took, errors):
        if errors or not took:
            raise Failed("the prober met: %s" % (errors or "nothing"))
        p99 = took[int(len(took) * .99)]
        self.facts.append("others p50 %.2f p99 %.2f max %.1f ms of %d" % (
            took[len(took) // 2], p99, took[-1], len(took)))
        if p99 > self.p99_ms:
            raise Failed("p99 of other clients is %.0f ms" % p99)
        # The connections are gone, and it still works.
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            now = int(self.server.stats()["curr_connections"])
            if now <= self.connections:
                break
            if time.monotonic() > end:
                raise Failed("%d connections are left" % (now - self.connections))
            time.sleep(0.02)
        self.say(b"set after 0 0 5\r\nfresh\r\nget after\r\n",
                 b"STORED\r\nVALUE after 0 5\r\nfresh\r\nEND\r\n")
        code = self.server.stop()
        if code != 0:
            raise Failed("exit code %s" % code)

    def say(self, request, answer):
        with self.server.connect() as s:
            s.settimeout(PATIENCE_SECONDS)
            s.sendall(request)
            got = b""
            while len(got) < len(answer):
                piece = s.recv(65536)
                if not piece:
                    break
                got += piece
            if got != answer:
                raise Failed("%r was answered with %r" % (request[:80], got[:200]))

    def grown(self):
        return max(0, self.server.rss_kb() * 1024 - self.baseline)

    def bound(self, what, limit):
        grown = self.grown()
        self.facts.append("%s: RSS +%.1f MB" % (what, grown / MB))
        if grown > limit:
            raise Failed("%s: RSS grew by %.1f MB, bound %.1f" % (what, grown / MB, limit / MB))

    def open(self, count, blocking=True):
        out = []
        for _ in range(count):
            s = self.server.connect()
            s.settimeout(PATIENCE_SECONDS)
            s.setblocking(blocking)
            out.append(s)
        return out

    def wait_stat(self, name, ready, what):
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            value = int(self.server.stats()[name])
            if ready(value):
                return value
            if time.monotonic() > end:
                raise Failed("%s: %s is %d" % (what, name, value))
            time.sleep(0.02)

    def wait_grown(self, at_most):
        """What the server grew by, once that is at most this, or when patience ends: freed memory takes a while."""
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            grown = self.grown()
            if grown <= at_most or time.monotonic() > end:
                return grown
            time.sleep(0.05)


def close_all(sockets, reset=False):
    for s in sockets:
        if reset and s.family != socket.AF_UNIX:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()


def readable(s, timeout_ms):
    poll = select.poll()
    poll.register(s, select.POLLIN)
    return bool(poll.poll(timeout_ms))


def pour(sockets, payload, each, seconds):
    """Sends payload over and over on every socket, reading nothing, until each took `each`
    bytes, or for half a second none took any, or time is over. Returns what was taken."""
    left = {s.fileno(): (s, each) for s in sockets}
    total, end, last = 0, time.monotonic() + seconds, time.monotonic()
    view = memoryview(payload * max(1, (1 << 18) // len(payload)))
    rest = {}
    while left and time.monotonic() < end and time.monotonic() - last < 0.5:
        poll = select.poll()
        for fd in left:
            poll.register(fd, select.POLLOUT)
        for fd, _ in poll.poll(100):
            s, n = left[fd]
            try:
                piece = rest.get(fd) or view
                sent = s.send(piece)
            except BlockingIOError:
                continue
            except OSError:
                del left[fd]
                continue
            rest[fd] = piece[sent:] if sent < len(piece) else view
            total += sent
            last = time.monotonic()
            if n <= sent:
                del left[fd]
            else:
                left[fd] = (s, n - sent)
    return total


# ---- the parts -------------------------------------------------------------------------


def beyond_maxconns(binary, args):
    """3,000 connects where 200 are allowed: told so and closed, the 200 go on working."""
    with Part(binary, args, "maxconns", ["-c", "200", "-m", "16"]) as p:
        good = p.open(150)
        extra = p.open(3000)
        told, waiting, poll = 0, {s.fileno(): s for s in extra}, select.poll()
        for fd in waiting:
            poll.register(fd, select.POLLIN)
        end = time.monotonic() + PATIENCE_SECONDS
        while told < 2900 and time.monotonic() < end:  # fewer than 100 of them got in
            for fd, _ in poll.poll(1000):
                poll.unregister(fd)
                try:
                    told += waiting[fd].recv(100) == REJECTED and waiting[fd].recv(1) == b""
                except ConnectionResetError:
                    pass
        for s in good:
            s.sendall(b"version\r\n")
        for s in good:
            if not s.recv(100).startswith(b"VERSION "):
                raise Failed("a connection from before was harmed")
        close_all(extra)
        counted = 0
        end = time.monotonic() + PATIENCE_SECONDS
        while counted < told and time.monotonic() < end:
            try:
                counted = int(p.server.stats()["rejected_connections"])
            except KeyError:
                time.sleep(0.02)
        p.facts.append("%d of 3000 told and closed, %d counted" % (told, counted))
        if told < 2900 or counted < told:
            raise Failed("%d were told, %d counted" % (told, counted))
        p.bound("full", 16 * MB)
        close_all(good)
        p.wait_stat("curr_connections", lambda n: n < 50, "after closing")
    return p


def idle(binary, args):
    """Ten thousand that wait: at most 1 KiB each; half as much again after each was served once."""
    count = args.connections
    with Part(binary, args, "idle", ["-c", str(count + 100), "-m", "16"]) as p:
        before = p.grown()
        sockets = p.open(count)
        p.wait_stat("curr_connections", lambda n: n >= count, "accept")
        fresh = (p.grown() - before) / count
        for s in sockets:
            s.sendall(b"get small\r\n")
        for s in sockets:
            if s.recv(100) != b"VALUE small 0 5\r\nsmall\r\nEND\r\n":
                raise Failed("one of many got a wrong answer")
        settled = IDLE_BYTES * 3 // 2
        served = (p.wait_grown(before + settled * count) - before) / count
        p.facts.append("%d connections: %.0f B each, %.0f B once served" % (count, fresh, served))
        if fresh > IDLE_BYTES:
            raise Failed("%.0f bytes an idle connection" % fresh)
        if served > settled:
            raise Failed("%.0f bytes a connection that was served and waits" % served)
        close_all(sockets)
    return p


def half_sets(binary, args):
    """Sets that stop in the middle: thousands of small ones, then more large than -m holds."""
    count = args.connections
    with Part(binary, args, "half-sets", ["-c", str(count + 2100), "-m", "64", "-I", "1m"]) as p:
        sockets = p.open(count)
        for i, s in enumerate(sockets):
            s.sendall(b"set half-%d 0 0 1000\r\n" % i + b"h" * 500)
        p.wait_stat("curr_connections", lambda n: n >= count, "accept")
        p.say(b"get half-1\r\n", b"END\r\n")
        p.bound("%d half sets" % count, count * 8192 + 16 * MB)
        p.facts.append("%.0f B each" % (p.grown() / count))
        close_all(sockets[::2])
        for s in sockets[1::2]:
            s.sendall(b"h" * 500 + b"\r\n")
        for s in sockets[1::2]:
            if s.recv(100) != b"STORED\r\n":
                raise Failed("a set that was finished late was refused")
        close_all(sockets[1::2])
        large = p.open(400)
        refused = 0
        for i, s in enumerate(large):
            s.sendall(b"set large-%d 0 0 800000\r\n" % i + b"l" * 50000)
        p.wait_stat("curr_connections", lambda n: n >= 400, "accept")
        time.sleep(0.3)
        for s in large:
            if readable(s, 0):
                answer = s.recv(200)
                refused += answer.startswith(b"SERVER_ERROR out of memory storing object\r\n")
        p.bound("400 half sets of 800 KB", 64 * MB + 400 * 70000 + 32 * MB)
        p.facts.append("%d refused" % refused)
        close_all(large)
        p.wait_stat("curr_connections", lambda n: n < 50, "after closing")
        # What they held is free again.
        value = b"v" * 800000
        p.say(b"set whole 0 0 800000\r\n%s\r\nget whole\r\n" % value,
              b"STORED\r\nVALUE whole 0 800000\r\n%s\r\nEND\r\n" % value)
    return p


def drip(binary, args):
    """Requests that come one byte at a time, on 300 connections at once."""
    with Part(binary, args, "drip", ["-c", "500", "-m", "16"]) as p:
        sockets = p.open(300)
        text = b"set drip-%03d 0 0 5\r\ndrops\r\nget drip-%03d\r\n"
        requests = [text % (i, i) for i in range(len(sockets))]
        for n in range(len(requests[0])):
            for s, request in zip(sockets, requests):
                s.sendall(request[n:n + 1])
            time.sleep(0.05)
        for i, s in enumerate(sockets):
            want = b"STORED\r\nVALUE drip-%03d 0 5\r\ndrops\r\nEND\r\n" % i
            got = b""
            while len(got) < len(want):
                piece = s.recv(1000)
                if not piece:
                    break
                got += piece
            if got != want:
                raise Failed("got %r" % got)
        p.bound("300 slow ones", 16 * MB)
        close_all(sockets)
    return p


def never_read(binary, args):
    """Readers of large values that never read; from RAM, and from flash if there is some."""
    flags = ["-c", "500", "-m", "64", "-I", "1m"]
    if is_extant(binary):
        flags += ["-o", "ext_page_size=8,ext_wbuf_size=2,ext_path=@DIR@/flash:256m,ext_item_age=0"]
    with Part(binary, args, "never-read", flags) as p:
        value = b"v" * 500000
        for i in range(20):
            p.say(b"set big-%d 0 0 500000\r\n%s\r\n" % (i, value), b"STORED\r\n")
        time.sleep(0.5)
        p.baseline = p.server.rss_kb() * 1024
        sockets = p.open(100, blocking=False)
        request = b"".join(b"get big-%d\r\n" % (i % 20) for i in range(1000))
        taken = pour(sockets, request, 1 * MB, 5)
        time.sleep(0.5)
        p.facts.append("100 connections x 500 KB values, %.1f MB of gets taken" % (taken / MB))
        p.bound("unread", 128 * MB)
        p.say(b"get big-3\r\n", b"VALUE big-3 0 500000\r\n%s\r\nEND\r\n" % value)
        p.say(b"set big-3 0 0 500000\r\n%s\r\n" % value, b"STORED\r\n")
        close_all(sockets)
    return p


def pipelined(binary, args):
    """Up to 200 MB of pipelined requests of each kind, answers never read."""
    with Part(binary, args, "pipelined", ["-c", "500", "-m", "32"]) as p:
        for what, request in (
                ("get misses", b"get nothing-here\r\n"), ("get hits", b"get small\r\n"),
                ("mg misses", b"mg nothing v k O123\r\n"), ("versions", b"version\r\n"),
                ("errors", b"nonsense\r\n"), ("stats", b"stats\r\n"),
                ("sets", b"set p 0 0 100\r\n" + b"p" * 100 + b"\r\n"),
                ("quiet sets", b"set q 0 0 100 noreply\r\n" + b"q" * 100 + b"\r\n")):
            sockets = p.open(10, blocking=False)
            taken = pour(sockets, request, 20 * MB, 3)
            p.bound("%.0f MB of %s" % (taken / MB, what), 96 * MB)
            close_all(sockets)
        # A reader that comes back gets every answer, in order.
        (s,) = p.open(1)
        request = b"mg nothing k O1\r\nmn\r\n"
        s.sendall(request)
        answer = b""
        while not answer.endswith(b"MN\r\n"):
            answer += s.recv(100)
        s.setblocking(False)
        sent = pour([s], request, 2 * MB, 3)
        cut = request[-(-sent % len(request)):] if sent % len(request) else b""
        got, want = b"", -(-sent // len(request)) * len(answer)
        while len(got) < want:
            poll = select.poll()
            poll.register(s, select.POLLIN | (select.POLLOUT if cut else 0))
            for _, events in poll.poll(1000 * PATIENCE_SECONDS) or [(0, 0)]:
                if not events:
                    raise Failed("%d bytes of answers, wanted %d" % (len(got), want))
                if events & select.POLLIN:
                    piece = s.recv(1 << 16)
                    if not piece:
                        raise Failed("closed a slow reader")
                    got += piece
                if events & select.POLLOUT:
                    cut = cut[s.send(cut):]
        if got != answer * (want // len(answer)):
            raise Failed("%d bytes of answers, and not the right ones" % len(got))
        close_all([s])
    return p


def gigabyte(binary, args):
    """1 GB of requests in a row, half of it sets, half of it gets of long keys, all answered."""
    with Part(binary, args, "gigabyte", ["-c", "100", "-m", "32"]) as p:
        keys = [b"%0250d" % i for i in range(60)]
        gets = b"get " + b" ".join(keys) + b"\r\n"
        sets = b"set g 0 0 8000 noreply\r\n" + b"g" * 8000 + b"\r\n"
        (s,) = p.open(1, blocking=False)
        batch = memoryview((gets + sets * (len(gets) // len(sets) + 1)) * 16)
        rounds = (1 << 30) // len(batch) + 1
        want, got, sent = rounds * 16 * len(b"END\r\n"), 0, 0
        last = time.monotonic()
        while got < want:
            poll = select.poll()
            poll.register(s, select.POLLIN | (select.POLLOUT if sent < rounds * len(batch) else 0))
            for _, events in poll.poll(1000):
                last = time.monotonic()
                if events & select.POLLIN:
                    piece = s.recv(1 << 16)
                    if not piece or piece.strip(b"END\r\n"):
                        raise Failed("after %d bytes: %r" % (sent, piece[:100]))
                    got += len(piece)
                if events & select.POLLOUT:
                    at = sent % len(batch)
                    sent += s.send(batch[at:at + (1 << 20)])
            if time.monotonic() - last > PATIENCE_SECONDS:
                raise Failed("stuck after %d bytes" % sent)
        p.bound("%.0f MB taken and answered" % (sent / MB), 16 * MB + 32 * MB)
        close_all([s])
    return p


def endless_line(binary, args):
    """Lines without an end: closed at once, or (get) taken with memory that is given back."""
    with Part(binary, args, "endless", ["-c", "500", "-m", "16"]) as p:
        for what, start, more, bound in (("no command", b"", b"x" * 64, 16 * MB),
                                         ("set", b"set ", b"k" * 64, 16 * MB),
                                         ("mg", b"mg key ", b"O" * 64, 16 * MB),
                                         ("get", b"get ", b"key-%d " % 7 * 64, 160 * MB)):
            sockets = p.open(4, blocking=False)
            for s in sockets:
                s.send(start + b"-")
            taken = pour(sockets, more, 8 * MB, 4)
            p.bound("%s: %.1f MB taken" % (what, taken / MB), bound)
            close_all(sockets)
        p.wait_stat("curr_connections", lambda n: n < 20, "after closing")
        p.bound("afterwards", 96 * MB)
    return p


def resets(binary, args):
    """5,000 connections that ask and reset without waiting, some in the middle of a value."""
    with Part(binary, args, "resets", ["-c", "1000", "-m", "16"], tcp=True) as p:
        for i in range(0, 5000, 100):
            sockets = p.open(100)
            for n, s in enumerate(sockets):
                s.sendall((b"get small\r\n" * 50, b"set r 0 0 100000\r\nrrr", b"get sm",
                           b"stats\r\nversion\r\nwatch\r\n")[n % 4])
            close_all(sockets, reset=n % 2 == 0)
        p.wait_stat("curr_connections", lambda n: n < 50, "after resets")
        p.bound("5000 resets", 16 * MB)
        p.say(b"get r\r\n", b"END\r\n")
    return p


PARTS = {f.__name__: f for f in (beyond_maxconns, idle, half_sets, drip, never_read, pipelined,
                                 gigabyte, endless_line, resets)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--connections", type=int, default=10000)
    parser.add_argument("--p99", type=float, default=float("inf"), metavar="MS",
                        help="fail if others wait longer than that")
    parser.add_argument("parts", nargs="*", metavar="PART", help=" ".join(PARTS))
    args = parser.parse_args()
    binary = os.environ.get("EXTANT", "./extant")
    descriptors = {"beyond_maxconns": 3400, "idle": args.connections + 200, "half_sets": args.connections + 2300}
    failures = 0
    for name in args.parts or PARTS:
        start, part = time.monotonic(), None
        if not has_descriptors(descriptors.get(name, 0)):
            continue
        try:
            part = PARTS[name](binary, args)
            print("ok   %s (%.1f s): %s" % (name, time.monotonic() - start,
                                            "; ".join(part.facts)), flush=True)
        except (Failed, OSError, RuntimeError) as e:
            failures += 1
            print("FAIL %s (%.1f s): %s" % (name, time.monotonic() - start, e), flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
