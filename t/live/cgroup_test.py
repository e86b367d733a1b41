#!/usr/bin/env python3
"""In a memory control group of a given size the server isn't killed and nothing fails, under loads that killed
earlier builds. Each scenario has a group and a server of its own.

EXTANT names the binary. Exit 0: all right; 1: not; 77: no group can be made here.
"""

import os
import random
import select
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'aid'))
import cgroup  # noqa: E402
import servers  # noqa: E402
from servers import expect  # noqa: E402

BINARY = os.environ.get('EXTANT', './extant')
MB = 1 << 20
MAX_SLEEP = 60000000  # us: a slow device must not decide
READS_MAX = 60  # multigets of a reader: they cost the client more time than the server


class Load:
    """Writers go through all keys once; readers get stored keys, ten at a time."""

    def __init__(self, server, keys, size, batch=10):
        self.server, self.keys, self.size, self.batch = server, keys, size, batch
        self.body = random.Random(1).randbytes(size - 8)
        self.next, self.lock = 0, threading.Lock()
        self.stored, self.writing = [], True
        self.errors, self.hits = [], 0

    def value(self, i):
        return b'%08d' % i + self.body

    def connect(self):
        s = self.server.connect()
        s.settimeout(servers.PATIENCE_SECONDS)
        return s, s.makefile('rb')

    def write(self):
        s, f = self.connect()
        while True:
            with self.lock:
                i, self.next = self.next, self.next + 1
            if i >= self.keys:
                break
            s.sendall(b'set key-%d 0 0 %d\r\n' % (i, self.size) + self.value(i) + b'\r\n')
            answer = f.readline()
            if answer != b'STORED\r\n':
                self.errors.append(answer)
            with self.lock:
                self.stored.append(i)
        s.close()

    def read(self, seed):
        s, f = self.connect()
        draw = random.Random(seed)
        rounds = 0
        while self.writing and rounds < READS_MAX:
            with self.lock:
                wanted = [draw.choice(self.stored) for _ in range(self.batch)] if self.stored else []
            if not wanted:
                time.sleep(0.01)
                continue
            rounds += 1
            s.sendall(b'get ' + b' '.join(b'key-%d' % i for i in wanted) + b'\r\n')
            while True:
                line = f.readline()
                if line == b'END\r\n':
                    break
                word = line.split()
                if len(word) != 4 or word[0] != b'VALUE':
                    self.errors.append(line)
                    return
                value = f.read(self.size + 2)
                if value[:-2] != self.value(int(word[1][4:])):
                    self.errors.append(b'a wrong value')
                    return
                self.hits += 1
        s.close()

    def guarded(self, work, *args):
        try:
            work(*args)
        except OSError as e:
            self.errors.append(str(e))

    def run(self, writers, readers):
        w = [threading.Thread(target=self.guarded, args=(self.write,)) for _ in range(writers)]
        r = [threading.Thread(target=self.guarded, args=(self.read, i)) for i in range(readers)]
        for t in w + r:
            t.start()
        for t in w:
            t.join()
        self.writing = False
        for t in r:
            t.join()


def tell(group, server, what):
    peak = group.peak()
    print('# %s; peak of the group %s MB, RSS %d MB' % (
        what, '?' if peak is None else peak // MB, server.rss_kb() // 1024), flush=True)


def loaded(limit_mb, flags, keys, size):
    with cgroup.Group(limit_mb * MB) as group:
        with group.put(servers.Server(BINARY, flags, 'cgroup', tcp=True)) as server:
            load = Load(server, keys, size)
            load.run(8, 8)
            expect('no error', not load.errors, load.errors[:3])
            expect('readers had hits', load.hits > 0, load.hits)
            expect('it lives', server.process.poll() is None)
            s = server.stats()
            expect('nothing was evicted', s['evictions'] == '0', s['evictions'])
            tell(group, server, '%d x %d KB, %d hits' % (keys, size // 1024, load.hits))
            expect('0 kills', group.kills() == 0, group.kills())
            with open(server.log) as f:
                expect('no warning', 'control group' not in f.read())


def chunks_of_a_log_store():
    """4 GB of 1.5 MB values, -m 1024 in 1228 MB."""
    loaded(1228, ['-m', '1024', '-I', '5m', '-c', '1024', '-o',
                  'ext_path=@DIR@/flash:6g,ext_wbuf_size=8,ext_max_sleep=%d' % MAX_SLEEP], 2730, 1536 * 1024)


def values_of_200_kb():
    """-m 256, 40 MB of buffers (8 and a 32nd of -m), threads and connections in 312 MB."""
    loaded(312, ['-m', '256', '-c', '1024', '-o',
                 'ext_path=@DIR@/flash:2g,ext_max_sleep=%d' % MAX_SLEEP], 7000, 200 * 1024)


def values_of_16_mb():
    """-m 256 and its buffers (16 MB each) in 512 MB."""
    loaded(512, ['-m', '256', '-I', '16m', '-c', '1024', '-o',
                 'ext_path=@DIR@/flash:2g,ext_page_size=64,ext_wbuf_size=16,ext_max_sleep=%d' % MAX_SLEEP],
           80, 16 * MB - 64 * 1024)


def many_connections():
    """10,000, of which 1,000 ask for 1 MB at once and read slowly: each gets all of it."""
    count, asking, size, values = 10000, 1000, 1000000, 200
    if not servers.has_descriptors(count + 200):
        return
    flags = ['-m', '64', '-I', '2m', '-c', str(count + 200), '-o', 'ext_path=@DIR@/flash:512m,ext_page_size=16,'
             'ext_max_sleep=%d' % MAX_SLEEP]
    with cgroup.Group(256 * MB) as group:
        with group.put(servers.Server(BINARY, flags, 'cgroup', tcp=True)) as server:
            load = Load(server, values, size)
            load.run(2, 0)
            sockets = [server.connect() for _ in range(count)]
            poll, left = select.poll(), {}
            for i, s in enumerate(sockets[:asking]):
                number = i * 7 % values
                s.sendall(b'get key-%d\r\n' % number)
                s.setblocking(False)
                want = b'VALUE key-%d 0 %d\r\n' % (number, size) + load.value(number) + b'\r\nEND\r\n'
                left[s.fileno()] = (s, want, 0)
                poll.register(s, select.POLLIN)
            wrong = 0
            while left:
                ready = poll.poll(1000 * servers.PATIENCE_SECONDS)
                if not ready:
                    break
                for fd, _ in ready:
                    s, want, at = left[fd]
                    piece = s.recv(32768)
                    if not piece or want[at:at + len(piece)] != piece:
                        wrong += 1
                        piece = want[at:]
                    at += len(piece)
                    left[fd] = (s, want, at)
                    if at >= len(want):
                        poll.unregister(fd)
                        del left[fd]
                time.sleep(0.002)
            expect('every one of them got its value', not left and wrong == 0, (len(left), wrong))
            late = sockets[-1]
            late.settimeout(servers.PATIENCE_SECONDS)
            late.sendall(b'get key-3\r\n')
            want = b'VALUE key-3 0 %d\r\n' % size + load.value(3) + b'\r\nEND\r\n'
            got = b''
            while len(got) < len(want):
                got += late.recv(1 << 20)
            expect('and one more', got == want)
            tell(group, server, '%d connections' % count)
            expect('0 kills', group.kills() == 0, group.kills())
            for s in sockets:
                s.close()


def a_limit_that_is_too_low_is_told_of():
    """One warning, with what would fit."""
    for memory, limit_mb, words in ((64, 1000, None), (2048, 1000, 'would fit'),
                                    (64, 24, 'a larger limit is needed')):
        with cgroup.Group(limit_mb * MB) as group:
            flags = ['-m', str(memory), '-c', '1024', '-o', 'ext_path=@DIR@/flash:256m']
            with group.put(servers.Server(BINARY, flags, 'cgroup')) as server:
                with open(server.log) as f:
                    lines = [line for line in f if 'control group' in line]
                expect('-m %d in %d MB' % (memory, limit_mb),
                       len(lines) == (words is not None) and all(words in line for line in lines), lines)


SCENARIOS = (a_limit_that_is_too_low_is_told_of, chunks_of_a_log_store, values_of_200_kb, values_of_16_mb,
             many_connections)

if __name__ == '__main__':
    try:
        cgroup.Group(64 * MB).__exit__()
    except cgroup.NoGroup as e:
        print('skipped: %s' % e)
        sys.exit(77)
    sys.exit(servers.run_scenarios(SCENARIOS))
