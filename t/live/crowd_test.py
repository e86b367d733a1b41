#!/usr/bin/env python3
"""Many clients at once that ask for much and read nothing: RSS stays within what README promises. Multigets that are
too long for the memory that is left are executed in pieces; their answers are the same.

EXTANT names the binary. Exit 0: all right; 1: not; 77: it was built without TLS.
"""

import os
import random
import ssl
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from tls_test import TlsServer  # noqa: E402
import servers  # noqa: E402
from servers import Client, expect, wait_for  # noqa: E402

BINARY = os.environ.get('EXTANT', './extant')
MB = 1 << 20
KEYS = 2000
PLAIN, TLS = 800, 200
BUFFERS = 24 * MB
# README, "Sizing" and "TLS": the program; replies and requests; a connection, and what one has in progress beyond that
PROGRAM, REQUESTS, CONNECTION, TLS_CONNECTION, IN_PROGRESS, TLS_RECORD = 8 * MB, 16 * MB, 1 << 10, 15 << 10, 32 << 10, 16 << 10


def server_with(*args, **more):
    server = TlsServer(*args, **more)
    server.binary = BINARY
    return server


def value_of(i):
    return b'%06d' % i + b'v' * (40 + i * 7 % 120)


def answer_of(i):
    value = value_of(i)
    return b'VALUE k%d 0 %d\r\n%s\r\n' % (i, len(value), value)


def fill(server):
    client = Client(server)
    for i in range(KEYS):
        assert client.set(b'k%d' % i, value_of(i))
    client.close()


def line_of(keys, verb=b'get'):
    return verb + b''.join(b' k%d' % i for i in keys) + b'\r\n'


class Deaf:
    """A client that sends what the server takes, and reads only when it is told to."""

    def __init__(self, sock, data):
        self.sock = sock
        self.data = memoryview(data)
        self.sent = 0
        sock.setblocking(False)

    def push(self):
        """How many bytes the server took now."""
        start = self.sent
        while self.sent < len(self.data):
            try:
                self.sent += self.sock.send(self.data[self.sent:self.sent + 16384])
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError, BlockingIOError):
                break
        return self.sent - start

    def read(self, want):
        """Sends the rest and reads: true if it is what is wanted."""
        at, end = 0, time.monotonic() + 120
        while at < len(want):
            moved = self.push()
            try:
                piece = self.sock.recv(1 << 16)
                if not piece or piece != want[at:at + len(piece)]:
                    return False
                at += len(piece)
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError, BlockingIOError):
                if not moved:
                    time.sleep(0.001)
                if time.monotonic() > end:
                    return False
        return self.sent == len(self.data)


def push_all(server, crowd):
    """All send until the server takes no more of it, or a minute has passed; the highest RSS meanwhile."""
    peak, quiet, taken, end = 0, 0, 0, time.monotonic() + 60
    while quiet < 20 and time.monotonic() < end:
        moved = sum(deaf.push() for deaf in crowd)
        before, taken = taken, int(server.stats()['bytes_read'])
        quiet = 0 if moved > 0 or taken - before > 10000 else quiet + 1  # more than the questions about it
        time.sleep(0.05)
        peak = max(peak, server.rss_kb() * 1024)
    return peak


def long_lines_that_nobody_reads():
    """200 connections, 40 of them TLS, each with a get of 100,000 keys: the lines alone are 109 MB."""
    line = line_of([i % KEYS for i in range(100000)])
    with server_with(flags=['-m', '64', '-t', '2', '-c', '1000']) as server:
        fill(server)
        before, context = server.rss_kb() * 1024, server.context()
        crowd = [Deaf(server.tls(context) if i % 5 == 0 else server.connect(), line) for i in range(200)]
        grown = push_all(server, crowd) - before
        bound = REQUESTS + 160 * (CONNECTION + IN_PROGRESS) + 40 * (TLS_CONNECTION + TLS_RECORD + IN_PROGRESS)
        print('# 200 long lines: RSS %+.1f MB, at most %.1f MB' % (grown / MB, bound / MB), flush=True)
        expect('RSS grows by what was promised', grown <= bound * 1.03 + 2 * MB, (grown / MB, bound / MB))
        for deaf in crowd:
            deaf.sock.close()


def conversation(i, rng, long_line):
    """What client i says, and the answer."""
    if i % 4 == 3:  # many small ones
        keys = [rng.randrange(KEYS) for _ in range(3000)]
        said = b''.join(b'get k%d\r\nset own%d 0 0 3\r\nabc\r\n' % (k, i) for k in keys)
        return said, b''.join(answer_of(k) + b'END\r\nSTORED\r\n' for k in keys)
    if i % 4 == 2:  # large values, in RAM and on flash
        keys = [rng.randrange(40) for _ in range(50)]
        said = b''.join(b'get big%d\r\n' % k for k in keys)
        return said, b''.join(b'VALUE big%d 0 200000\r\n%s\r\nEND\r\n' % (k, b'%05d' % k * 40000) for k in keys)
    return long_line


def a_crowd_that_does_not_read():
    """1,000 connections, 200 of them TLS, with mixed traffic; half of them a get of 100,000 keys."""
    rng = random.Random(servers.seed())
    keys = [rng.randrange(KEYS) for _ in range(100000)]
    long_line = line_of(keys), b''.join(answer_of(i) for i in keys) + b'END\r\n'
    if not servers.has_descriptors(2100):
        return
    flags = ['-m', '64', '-t', '2', '-c', '2000', '-o', 'ext_path=@DIR@/flash:256m,ext_page_size=8']
    with server_with('ext_buffer_mem=%d' % (BUFFERS // MB), flags) as server:
        fill(server)
        client = Client(server)
        for i in range(300):
            assert client.set(b'fill%d' % i, b'f' * 250000)
        for i in range(40):
            assert client.set(b'big%d' % i, b'%05d' % i * 40000)
        crowd, context = [], server.context()
        for i in range(PLAIN + TLS):
            said, answer = conversation(i, rng, long_line)
            sock = server.tls(context) if i % 5 == 0 else server.connect()
            crowd.append((Deaf(sock, said), answer))
        expect('all are there', wait_for(lambda: int(server.stats()['curr_connections']) > PLAIN + TLS))
        peak = push_all(server, [deaf for deaf, _ in crowd])
        print('# sent %.1f of %.1f MB' % (sum(d.sent for d, _ in crowd) / MB, sum(len(d.data) for d, _ in crowd) / MB), flush=True)
        settings, own = server.stats(b'settings'), server.stats(b'extant')
        promised = (int(settings['maxbytes']) + BUFFERS + PROGRAM + REQUESTS +
                    PLAIN * (CONNECTION + IN_PROGRESS) + TLS * (TLS_CONNECTION + TLS_RECORD + IN_PROGRESS))
        print('# %d connections: RSS at most %.1f MB, promised %.1f MB, connections %.1f MB' % (
            PLAIN + TLS, peak / MB, promised / MB, int(own['heap_connections_bytes']) / MB), flush=True)
        expect('RSS stays under what was promised', peak <= promised * 1.03, (peak / MB, promised / MB, own))
        named = sum(int(own['resident_%s_bytes' % name]) for name in ('arena', 'heap', 'program'))
        expect('and all of it has a name', named > 0.97 * int(own['rss_bytes']), own)
        for i in range(0, PLAIN + TLS, 90):
            expect('others are served', client.get(b'k%d' % i) == value_of(i))
        for i in (0, 1, 2, 3, 5, 405, 600, 790, 891, 997):
            deaf, answer = crowd[i]
            expect('a client that reads late gets everything: %d' % i, deaf.read(answer), deaf.sent)
        for deaf, _ in crowd:
            deaf.sock.close()
        client.close()


def random_line(rng, count):
    """A line with keys and spaces of all kinds; its keys."""
    keys, parts = [], [b'get' if rng.random() < 0.5 else b'get  ']
    for _ in range(count):
        kind = rng.random()
        if kind < 0.7:
            keys.append(rng.randrange(KEYS))
            parts.append(b'k%d' % keys[-1])
        elif kind < 0.95:
            parts.append(b'none%d' % rng.randrange(10**9))
        else:
            parts.append(b'n' * rng.randrange(1, 251))
        if rng.random() < 0.001:
            parts.append(b' ' * rng.randrange(30000))
    return b' '.join(parts) + b' ' * rng.choice((0, 1, 1000, 20000)) + b'\r\n', keys


def long_lines_in_pieces():
    """-t 16 leaves a worker 1 MB: lines of some MB are answered as they come, and what follows is in step."""
    rng = random.Random(servers.seed())
    with server_with(flags=['-m', '64', '-t', '16', '-c', '100']) as server:
        fill(server)
        for tls in (False, True):
            for round_ in range(6):
                sock = server.tls() if tls else server.connect()
                said, answer = b'', b''
                for _ in range(2):
                    line, keys = random_line(rng, 60000)
                    said += line + b'mn\r\nget k1\r\n'
                    answer += b''.join(answer_of(i) for i in keys) + b'END\r\nMN\r\n' + answer_of(1) + b'END\r\n'
                expect('%s, round %d' % ('TLS' if tls else 'clear', round_), Deaf(sock, said).read(answer))
                sock.close()


def errors_in_long_lines():
    """A key that is too long ends the answer; nothing of the rest of its line is taken for a command."""
    with server_with(flags=['-m', '64', '-t', '16', '-c', '100']) as server:
        fill(server)
        keys = [i % KEYS for i in range(200000)]
        error = b'CLIENT_ERROR bad command line format\r\n\r\n'
        for at, bytes_ in ((0, 251), (100000, 251), (100000, 3000000), (199999, 300)):
            bad = b'x' * bytes_
            line = line_of(keys[:at])[:-2] + b' ' + bad + line_of(keys[at:])[3:]
            sock = server.connect()
            sock.settimeout(120)
            deaf = Deaf(sock, line + b'get k1\r\nmn\r\n')
            got, end = b'', time.monotonic() + 120
            while not got.endswith(b'MN\r\n') and time.monotonic() < end:
                deaf.push()
                try:
                    piece = sock.recv(1 << 16)
                    expect('it is still there', piece)
                    got += piece
                except BlockingIOError:
                    time.sleep(0.001)
            tail = error + answer_of(1) + b'END\r\nMN\r\n'
            expect('%d keys before the bad one: in step' % at, got.endswith(tail), got[-200:])
            before = got[:-len(tail)]
            all_before = b''.join(answer_of(i) for i in keys[:at])
            expect('%d keys before the bad one: answered from the first on' % at, all_before.startswith(before),
                   len(before))
            sock.close()


SCENARIOS = (long_lines_in_pieces, errors_in_long_lines, long_lines_that_nobody_reads, a_crowd_that_does_not_read)

if __name__ == '__main__':
    if '--enable-ssl' not in subprocess.run([BINARY, '-h'], capture_output=True, text=True, timeout=120).stdout:
        print('built without TLS')
        sys.exit(77)
    sys.exit(servers.run_scenarios(SCENARIOS))
