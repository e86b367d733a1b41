#!/usr/bin/env python3
"""A whole server, built with ASan and UBSan, under bytes that no client would send.

Several connections send the kept request lines, changed, cut, repeated and split anywhere, with
values that are too short, too long or missing; some send packets with wrong lengths; some never read, some
disconnect in the middle. Meanwhile an ordinary client must get its answers, and at the end the server must stop
cleanly without a report from a sanitizer. Alternately with and without flash.

SEED chooses other inputs (timing differs anyway), FUZZ_SERVER_ROUNDS more or fewer (default 6000).
The last bytes of each connection go to build/fuzz/found/ when something is wrong.
"""

import glob
import os
import random
import select
import signal
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'aid'))
import servers  # noqa: E402

BINARY = os.environ.get("EXTANT_ASAN_BIN", "build/extant-asan")
ROUNDS = int(os.environ.get("FUZZ_SERVER_ROUNDS", "6000"))
SEED = servers.seed()
CONNECTIONS = 12
KEEP_BYTES = 16 * 1024

NUMBERS = [b"0", b"1", b"-1", b"2", b"250", b"251", b"2047", b"65536", b"1048576", b"2147483647",
           b"2147483648", b"4294967295", b"4294967296", b"18446744073709551615",
           b"18446744073709551616", b"1e9", b"0x10", b""]
KEYS = [b"a", b"b", b"key", b"k" * 250, b"k" * 251, b"Zm9v", b"\x01\xff", b"a" * 9000]
FLASHED = [b"set f%d 0 0 9000\r\n" % n + b"v" * 9000 + b"\r\n" for n in range(8)]


def kept_lines():
    lines = []
    for path in sorted(glob.glob("t/fuzz/corpus/proto/*")):
        with open(path, "rb") as f:
            lines += [line for line in f.read().splitlines(True) if line.strip()]
    return [line for line in lines if not line.startswith(b"shutdown")]


def packet(rng, opcode, key=b"", extras=b"", value=b""):
    """A packet of the binary protocol, in which any length may be wrong."""
    lengths = [len(key), len(extras), len(key) + len(extras) + len(value)]
    if rng.randrange(12) == 0:
        i = rng.randrange(3)
        lengths[i] = rng.choice((0, 1, 250, 251, 0x7fff, 0xffff)) & (0xff if i == 1 else 0xffff)
        if i == 2:
            lengths[i] = rng.choice((0, 1, 8, 24, 70000, 0x7fffffff, 0x80000000, 0xffffffff))
    cas = rng.choice((0, 0, 0, 1, 2**64 - 1))
    return struct.pack(">BBHBBHIIQ", 0x80 if rng.randrange(200) else 0x81, opcode, lengths[0],
                       lengths[1], 0, 0, lengths[2], rng.getrandbits(32), cas) + extras + key + value


def packets(rng):
    parts = []
    for _ in range(rng.randrange(1, 30)):
        key = rng.choice(KEYS[:4] + [b"a b\r\n\0", b"f1", b"f2", b"f3"])
        kind = rng.randrange(9)
        if kind < 2:
            value = bytes([rng.randrange(256)]) * rng.choice((0, 1, 7, 100, 2000, 20000))
            parts.append(packet(rng, rng.choice((1, 2, 3, 0x11, 0x12, 0x13)), key, bytes(8), value))
        elif kind == 2:
            parts.append(packet(rng, rng.choice((0xe, 0xf, 0x19, 0x1a)), key, b"", b"x" * rng.choice((0, 1, 9000))))
        elif kind < 5:
            parts.append(packet(rng, rng.choice((0, 9, 0xc, 0xd, 4, 0x14)), key))
        elif kind == 5:
            parts.append(packet(rng, rng.choice((0x1c, 0x1d, 0x1e, 0x23, 0x24)), key, bytes(4)))
        elif kind == 6:
            parts.append(packet(rng, rng.choice((5, 6, 0x15, 0x16)), rng.choice((b"n", key)), bytes(7) + b"\1" + bytes(12)))
        elif kind == 7:
            parts.append(packet(rng, 0x10, rng.choice((b"", b"items", b"settings", b"detail dump", b"slabs", b"no"))))
        else:
            parts.append(packet(rng, rng.randrange(256), rng.choice((b"", key)), bytes(rng.choice((0, 4, 8, 20, 255)))))
    return b"".join(parts)


def changed(rng, line):
    """A line with some of its tokens or bytes replaced."""
    kind = rng.randrange(8)
    tokens = line.split(b" ")
    if kind < 3:
        tokens[rng.randrange(len(tokens))] = rng.choice(NUMBERS + KEYS)
        line = b" ".join(tokens)
    elif kind == 3:
        tokens.insert(rng.randrange(len(tokens) + 1), rng.choice(NUMBERS + KEYS + tokens))
        line = b" ".join(tokens)
    elif kind == 4 and line:
        at = rng.randrange(len(line))
        line = line[:at] + bytes([rng.randrange(256)]) + line[at + 1:]
    elif kind == 5:
        line = line[:rng.randrange(len(line) + 1)]
    elif kind == 6:
        line = line.rstrip(b"\r\n") + rng.choice([b"\n", b"\r\n", b"\r", b"", b"\0\r\n"])
    return line


def store(rng):
    """A store whose value may be of another length than it says."""
    size = rng.choice([0, 1, 7, 100, 2000, 20000])
    key = rng.choice(KEYS)
    value = bytes([rng.randrange(256)]) * max(0, size + rng.choice([0, 0, 0, 0, -1, 1, 5]))
    end = rng.choice([b"\r\n"] * 6 + [b"\n", b"", b"xx"])
    if rng.randrange(2):
        flags = b" ".join(rng.sample([b"T0", b"F5", b"c", b"q", b"k", b"O1", b"I", b"MA", b"MP",
                                      b"ME", b"MR", b"C1", b"E9", b"b", b"N60"], rng.randrange(5)))
        return b"ms %s %d %s\r\n%s%s" % (key, size, flags, value, end)
    verb = rng.choice([b"set", b"add", b"replace", b"append", b"prepend", b"cas"])
    cas = b" 1" if verb == b"cas" else b""
    return b"%s %s 0 %s %d%s\r\n%s%s" % (verb, key, rng.choice(NUMBERS), size, cas, value, end)


def batch(rng, lines):
    parts = []
    for _ in range(rng.randrange(1, 12)):
        kind = rng.randrange(10)
        if kind < 3:
            parts.append(store(rng))
        elif kind == 3:
            parts.append(rng.choice(FLASHED))
        elif kind == 4:
            parts.append(b"get " + b" ".join(rng.choice(KEYS[:6]) for _ in range(rng.randrange(40))) +
                         b"\r\n")
        elif kind == 5:
            parts.append(rng.choice(lines))
        else:
            parts.append(changed(rng, rng.choice(lines)))
    if rng.randrange(30) == 0:
        parts.append(b"mn\r\n" * 500)
    return b"".join(parts)


class Rogue:
    """One connection: queues bytes, sends them in pieces of any size, reads or does not."""

    def __init__(self, server, rng, lines):
        self.server, self.rng, self.lines = server, rng, lines
        self.sent = b""
        self.connect()

    def connect(self):
        self.sock = self.server.connect()
        self.sock.setblocking(False)
        self.queue = b""
        self.batches = self.rng.randrange(1, 40)
        self.reads = self.rng.randrange(5) > 0
        self.in_packets = self.rng.randrange(3) == 0

    def step(self):
        try:
            if self.reads:
                while self.sock.recv(1 << 16):
                    pass
                raise ConnectionError("closed by the server")
        except BlockingIOError:
            pass
        except OSError:
            return self.again()
        if not self.queue:
            if self.batches == 0:
                return self.again()
            self.batches -= 1
            self.queue = packets(self.rng) if self.in_packets else batch(self.rng, self.lines)
        size = self.rng.choice([1, 3, 20, 500, 2048, 100000])
        try:
            n = self.sock.send(self.queue[:size])
        except BlockingIOError:
            if not self.reads and self.rng.randrange(20) == 0:
                self.again()
            return None
        except OSError:
            return self.again()
        self.sent = (self.sent + self.queue[:n])[-KEEP_BYTES:]
        self.queue = self.queue[n:]
        return None

    def again(self):
        self.sock.close()
        self.connect()


def ask(sock, request, end):
    """The ordinary client: one request, its whole answer."""
    sock.sendall(request)
    answer = b""
    deadline = time.monotonic() + servers.PATIENCE_SECONDS
    while not answer.endswith(end):
        if not select.select([sock], [], [], max(0, deadline - time.monotonic()))[0]:
            raise RuntimeError("no answer to %r, only %r" % (request, answer))
        data = sock.recv(1 << 16)
        if not data:
            raise RuntimeError("the connection of the ordinary client was closed")
        answer += data
    return answer


def run(flags, rounds, rng):
    lines = kept_lines()
    with servers.Server(BINARY, flags, name="fuzz") as server:
        rogues = [Rogue(server, rng, lines) for _ in range(CONNECTIONS)]
        try:
            good = server.connect()
            for number in range(rounds):
                for _ in range(40):
                    rng.choice(rogues).step()
                value = b"%d" % number
                ask(good, b"version\r\n", b"\r\n")
                # Others may flush or change it at any time, but a present value must be whole.
                ask(good, b"ms mine %d c\r\n%s\r\n" % (len(value), value), b"\r\n")
                got = ask(good, b"mg mine v k\r\n", b"\r\n")
                if got.startswith(b"VA") and b" kmine" not in got:
                    raise RuntimeError("mg answers %r" % got)
            ask(good, b"stats\r\n", b"END\r\n")
            for rogue in rogues:
                rogue.sock.close()
            good.close()
            server.process.send_signal(signal.SIGTERM)
            status = server.process.wait(servers.PATIENCE_SECONDS)
            with open(server.log, "rb") as f:
                log = f.read()
            if status != 0 or b"Sanitizer" in log or b"runtime error" in log:
                raise RuntimeError("exit status %s\n%s" % (status, log[-8000:].decode("utf-8", "replace")))
        except Exception:
            os.makedirs("build/fuzz/found", exist_ok=True)
            for n, rogue in enumerate(rogues):
                with open("build/fuzz/found/server-%d-%d" % (SEED, n), "wb") as f:
                    f.write(rogue.sent)
            with open(server.log, "rb") as f:
                sys.stderr.write(f.read()[-8000:].decode("utf-8", "replace"))
            raise


def main():
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
    if not os.access(BINARY, os.X_OK):
        print("skipped: no %s" % BINARY)
        return 77
    rng = random.Random(SEED)
    flash = ["-m", "32", "-o", "ext_path=@DIR@/flash:64m,ext_page_size=2,ext_wbuf_size=2,ext_item_age=0"]
    for name, flags in (("without flash", ["-m", "32"]), ("with flash", flash)):
        run(flags, ROUNDS // 2, rng)
        print("%s: %d rounds" % (name, ROUNDS // 2), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
