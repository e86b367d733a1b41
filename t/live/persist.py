#!/usr/bin/env python3
"""-o ext_persist on a real server: each kind of clean stop, and kill -9, then the next start.

Claims: after SIGTERM, SIGINT, SIGUSR1 and `shutdown` every value, flags, TTL, cas and stale mark
is back, whether it was in memory or on flash; each start says in one line what it took over, or why it took
nothing; after kill -9 the cache is empty, or, with ext_persist=scan, holds the latest value that
reached flash. Runs on $EXTANT (else ./extant).
"""

import os
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'aid'))
from servers import PATIENCE_SECONDS, Server  # noqa: E402

BINARY = os.environ.get("EXTANT", "./extant")
COUNT = 3000


class Failed(Exception):
    pass


def claim(ok, what):
    if not ok:
        raise Failed(what)


def ask(s, request, end):
    s.sendall(request)
    out = bytearray()
    while not out.endswith(end):
        piece = s.recv(1 << 20)
        if not piece:
            raise Failed("closed after %r" % bytes(out[-200:]))
        out += piece
    return bytes(out)


def value_of(i, round_):
    return (b"%d:%d:" % (round_, i)) * (1 + i * 13 % 90)


def fill(server, round_):
    with server.connect() as s:
        s.settimeout(PATIENCE_SECONDS)
        for at in range(0, COUNT, 100):
            lines = []
            for i in range(at, at + 100):
                value = value_of(i, round_)
                ttl = b"T%d " % (1000 + i) if i % 2 else b""
                lines.append(b"ms k%d %d F%d %sE%d q\r\n%s\r\n" % (
                    i, len(value), i * 3, ttl, 10 ** 6 * round_ + i + 1, value))
            ask(s, b"".join(lines) + b"mn\r\n", b"MN\r\n")
        for i in range(0, COUNT, 100):
            claim(ask(s, b"md k%d I T600\r\n" % i, b"\r\n") == b"HD\r\n", "invalidate k%d" % i)
        claim(ask(s, b"delete k1\r\n", b"\r\n") == b"DELETED\r\n", "delete")


def check(server, round_):
    with server.connect() as s:
        s.settimeout(PATIENCE_SECONDS)
        for i in range(COUNT):
            answer = ask(s, b"mg k%d s v f t c\r\nmn\r\n" % i, b"MN\r\n")[:-4]
            if i == 1:
                claim(answer == b"EN\r\n", "what was deleted came back: %r" % answer)
                continue
            value = value_of(i, round_)
            head, _, rest = answer.partition(b"\r\n")
            words = head.split(b" ")
            claim(words[0] == b"VA", "k%d: %r" % (i, answer[:80]))
            claim(rest == value + b"\r\n", "k%d has another value: %r" % (i, rest[:40]))
            claim(words[3] == b"f%d" % (i * 3), "k%d: flags %r" % (i, words))
            if i % 100 == 0:
                claim(b"W" in words[6:] and b"X" in words[6:], "k%d is not stale: %r" % (i, words))
                continue
            claim(words[5] == b"c%d" % (10 ** 6 * round_ + i + 1), "k%d: cas %r" % (i, words))
            ttl = int(words[4][1:])
            claim(ttl == -1 if i % 2 == 0 else 900 + i <= ttl <= 1000 + i, "k%d: ttl %d" % (i, ttl))


def start_line(server, word):
    with open(server.log, "rb") as f:
        lines = [x for x in f.read().decode("latin-1").split("\n") if "flash.checkpoint: " in x]
    claim(len(lines) == 1 and word in lines[0], "%r is not told in one line: %r" % (word, lines))


def stop(server, how):
    if how == "shutdown":
        with server.connect() as s:
            s.sendall(b"shutdown\r\n")
    else:
        server.process.send_signal(how)
    claim(server.process.wait(PATIENCE_SECONDS) in (0, -signal.SIGKILL), "exit code %r" % server.process.returncode)


def flags(how, memory):
    return ["-m", memory, "-A", "-t", "2", "-o",
            "ext_path=@DIR@/flash:64m,ext_page_size=2,ext_wbuf_size=2,ext_buffer_mem=24," + how]


def clean_stops(memory):
    with Server(BINARY, flags("ext_persist", memory), name="persist") as server:
        start_line(server, "starting empty: there is none yet")
        for round_, how in enumerate([signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, "shutdown"]):
            fill(server, round_ + 1)
            stop(server, how)
            server.start()
            start_line(server, "took over")
            stats = server.stats(b"extant")
            claim(stats["checkpoint_start"] == "checkpoint", "%r" % stats["checkpoint_start"])
            claim(stats["checkpoint_generation"] == str(5 * round_ + 3), stats["checkpoint_generation"])
            claim(int(stats["checkpoint_objects"]) >= COUNT - 1, stats["checkpoint_objects"])
            claim(int(stats["ext_reconcile"]) == 0, "ext_reconcile")
            check(server, round_ + 1)
            stop(server, signal.SIGTERM)  # nothing was set: it is the same again
            server.start()
            check_marked(server, round_ + 1)
            stop(server, signal.SIGKILL)
            server.start()
            start_line(server, "starting empty: the last process did not stop in order")
            claim(int(server.stats()["curr_items"]) == 0, "items after a kill")
            claim(server.stats(b"extant")["checkpoint_start"] == "empty", "checkpoint_start")


def check_marked(server, round_):
    """Values only: mg has marked what it showed."""
    with server.connect() as s:
        s.settimeout(PATIENCE_SECONDS)
        for i in range(2, COUNT, 7):
            value = value_of(i, round_)
            answer = ask(s, b"get k%d\r\n" % i, b"END\r\n")
            claim(answer == b"VALUE k%d %d %d\r\n%s\r\nEND\r\n" % (i, i * 3, len(value), value),
                  "k%d: %r" % (i, answer[:80]))


def scan():
    with Server(BINARY, flags("ext_persist=scan", "64"), name="persist") as server:
        fill(server, 1)
        stop(server, signal.SIGTERM)
        server.start()
        start_line(server, "took over")
        check_marked(server, 1)
        stop(server, signal.SIGKILL)
        server.start()
        with open(server.log, "rb") as f:
            claim(b"scan took over %d objects" % (COUNT - 1) in f.read(), "the scan does not say what it found")
        claim(server.stats(b"extant")["checkpoint_start"] == "scan", "checkpoint_start")
        check(server, 1)


def main():
    for name, part in [("clean stops", lambda: clean_stops("64")), ("scan", scan)]:
        try:
            part()
        except Failed as e:
            print("persist: %s: %s" % (name, e))
            return 1
        print("persist: %s: ok" % name)
    return 0


sys.exit(main())
