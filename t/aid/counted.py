"""The cost of requests in instructions, counted by callgrind in the worker's thread: the difference between a
run with few requests and one with many, so the server's start and end cancel out. The kernel's are not counted.
The same in the other threads for items that they send to flash.
"""

import glob
import os
import re
import socket
import subprocess

from servers import PATIENCE_SECONDS, Client, Server, end_probe, make_cert

FEW, MANY = 200, 700
PIPELINE = 20
VALUE = b'v' * 100
FLASH_VALUE = b'v' * 1000
AWAY_FEW, AWAY_MANY = 12288, 24576  # items that go to flash
FLASH_KEYS = 24576  # more than fits into memory and write buffers with FLASH
STORED = b'STORED\r\n'
FLASH = ['-o', 'ext_path=@DIR@/flash:256m,ext_page_size=2,ext_wbuf_size=2,ext_item_age=0,ext_item_size=512,'
               'ext_recache_rate=0,ext_buffer_mem=12']


class Counted(Server):
    """A server under callgrind, without background work except what flash
    needs. One worker; with flash two, the first of
    which stores, so that the other does nothing but get."""

    def __init__(self, binary, tls=False, flash=False, megabytes=8):
        flags = ['-t', '2' if flash else '1', '-m', '%d' % megabytes,
                 '-o', 'no_lru_crawler' if flash else 'no_lru_crawler,no_lru_maintainer']
        if tls:
            flags += ['-Z', '-o', 'ssl_chain_cert=@DIR@/server.crt,ssl_key=@DIR@/server.key']
        super().__init__(binary, flags + (FLASH if flash else []), 'cost', tcp=True)
        make_cert(self.dir)
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            self.number = s.getsockname()[1]
        self.flags += ['-l', '%s127.0.0.1:%d' % ('notls:' if tls else '', self.number)]
        self.out = os.path.join(self.dir, 'out')
        self.binary = 'valgrind'
        self.flags = ['--tool=callgrind', '--separate-threads=yes', '--callgrind-out-file=' + self.out,
                      '--quiet', binary] + (['-u', 'root'] if os.getuid() == 0 else []) + self.flags

    def start(self):
        """Like the base class, but valgrind's arguments come first, and the port is known."""
        with open(self.log, 'wb') as log:
            self.process = subprocess.Popen([self.binary] + [f.replace('@DIR@', self.dir)
                                                             for f in self.flags],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        for _ in range(int(PATIENCE_SECONDS / 0.02)):
            if self.process.poll() is not None:
                raise RuntimeError(self.log_tail())
            try:
                self.port = self.number
                end_probe(self.connect())
                return
            except OSError:
                self.process_wait(0.02)
        raise RuntimeError('it does not answer')

    def process_wait(self, seconds):
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass


def exchange(s, request, answer):
    s.sendall(request)
    got = b''
    while len(got) < len(answer):
        piece = s.recv(65536)
        assert piece, got
        got += piece
    assert got == answer, got


def store_request(key, value):
    return b'set %s 0 0 %d\r\n%s\r\n' % (key, len(value), value)


def get_answer(key, value):
    return b'VALUE %s 0 %d\r\n%s\r\nEND\r\n' % (key, len(value), value)


def in_memory(word, server, count):
    """The same key again and again."""
    store = store_request(b'key', VALUE), STORED
    ask = store if word == 'set' else (b'get key\r\n', get_answer(b'key', VALUE))
    with server.connect() as s:
        for request, answer in [store] + [ask] * count:
            exchange(s, request, answer)


def in_pipelines(server, count):
    """PIPELINE different keys with each write."""
    keys = [b'key-%06d' % i for i in range(PIPELINE)]
    with server.connect() as s:
        for key in keys:
            exchange(s, store_request(key, VALUE), STORED)
        request = b''.join(b'get %s\r\n' % key for key in keys)
        answer = b''.join(get_answer(key, VALUE) for key in keys)
        for _ in range(count // PIPELINE):
            exchange(s, request, answer)


def flash_hits(server):
    return int(server.stats()['get_extstore'])


def on_flash(server, count):
    """Different keys, the oldest first: each is read from flash."""
    keys = [b'key-%06d' % i for i in range(FLASH_KEYS)]
    with server.connect() as storing, server.connect() as getting:  # one after the other: two workers
        for key in keys:
            exchange(storing, store_request(key, FLASH_VALUE), STORED)
        before = flash_hits(server)
        for key in keys[:count]:
            exchange(getting, b'get %s\r\n' % key, get_answer(key, FLASH_VALUE))
        assert flash_hits(server) - before == count, 'not all of them came from flash'
        reads = int(Client(server).stats(b'extant')['ext_device_reads'])
        assert reads >= count, 'only %d of %d were read from the device' % (reads, count)


def to_flash(server, count):
    """Stores different keys, in bursts, and then lets all of them leave memory."""
    keys = [b'key-%06d' % i for i in range(count)]
    with server.connect() as s:
        exchange(s, b'extstore item_age 1000000\r\n', b'OK\r\n')
        for i in range(0, count, PIPELINE):
            some = keys[i:i + PIPELINE]
            exchange(s, b''.join(store_request(key, FLASH_VALUE) for key in some), STORED * len(some))
        exchange(s, b'extstore item_age 0\r\n', b'OK\r\n')
        for _ in range(int(PATIENCE_SECONDS / 0.2)):
            if int(Client(server).stats(b'extant')['flash_objects']) == count:
                return
            server.process_wait(0.2)
    raise RuntimeError('not all of them went to flash')


def run(binary, word, count, tls=False):
    """A server's life with this many requests: {(object, function): instructions} of the worker's thread, or
    ('away') of those that serve no connection."""
    server = Counted(binary, tls, flash=word in ('flash', 'away'), megabytes=64 if word == 'away' else 8)
    try:
        server.start()
        if word == 'flash':
            on_flash(server, count)
        elif word == 'away':
            to_flash(server, count)
        elif word == 'pipeline':
            in_pipelines(server, count)
        else:
            in_memory(word, server, count)
        server.process.terminate()
        server.process.wait(PATIENCE_SECONDS)
        threads = [by_function(path) for path in glob.glob(server.out + '-*')]
        serving = [counts for counts in threads if any(name.startswith('conn_event') for _, name in counts)]
        if word == 'away':
            return merged(counts for counts in threads if counts not in serving)
        return min(serving, key=lambda counts: sum(counts.values()))  # the thread that stores has more to do
    finally:
        server.stop()


def merged(all_counts):
    out = {}
    for counts in all_counts:
        for key, n in counts.items():
            out[key] = out.get(key, 0) + n
    return out


def by_function(path):
    """Reads what callgrind wrote of one thread: {(object, function): instructions}, without those of callees.
    Inlined functions count to those that they are in."""
    names, counts = {}, {}
    current = {'ob': '', 'fn': ''}
    after_call = False
    with open(path, encoding='latin-1') as f:
        for line in f:
            named = re.match(r'(c?(?:ob|fn|fi|fe|fl))=\((\d+)\)(?: (.*))?$', line)
            if named:
                kind, number, name = named.groups()
                space = 'ob' if kind.endswith('ob') else 'fn' if kind.endswith('fn') else 'file'
                if name:
                    names[space, number] = name
                if kind in current:
                    current[kind] = names[space, number]
            elif line.startswith('calls='):
                after_call = True
            elif line[0] in '+-*0123456789':
                if not after_call:
                    key = current['ob'], current['fn']
                    counts[key] = counts.get(key, 0) + int(line.split()[1])
                after_call = False
    return counts


def cost(binary, word, tls=False):
    """The cost of one get or set in memory, or one get from flash, in the worker's thread, or of one item that goes
    to flash, in the others: {(object, function): instructions}."""
    less, more = (AWAY_FEW, AWAY_MANY) if word == 'away' else (FEW, MANY)
    few, many = (run(binary, word, n, tls) for n in (less, more))
    return {key: (many[key] - few.get(key, 0)) / (more - less) for key in many}


def own(counts, binary):
    """The program's own part of them, without libraries."""
    return sum(n for (ob, _), n in counts.items() if ob == os.path.realpath(binary))


class Least:
    """The program's part of the cost of one get or set in memory, better known with each round. What comes in between
    (turns of the loop for the clock's sake, more of them on a busy machine) only adds to a function's count, so the
    least of all rounds is kept, of each function."""

    def __init__(self, binary, word, tls=False):
        self.binary, self.word, self.tls = binary, word, tls
        self.least = {FEW: None, MANY: None}

    def round(self):
        for count, before in self.least.items():
            now = run(self.binary, self.word, count, self.tls)
            self.least[count] = now if before is None else {key: min(n, now[key]) for key, n in before.items()
                                                            if key in now}
        return own(self.by_function(), self.binary)

    def by_function(self):
        few, many = self.least[FEW], self.least[MANY]
        return {key: (n - few.get(key, 0)) / (MANY - FEW) for key, n in many.items()}

    def dearer_than(self, other):
        """The functions that cost more here, the dearest first: [(more instructions, name)]."""
        mine, theirs = self.by_function(), other.by_function()
        return sorted(((n - theirs.get(key, 0), key[1]) for key, n in mine.items() if n > theirs.get(key, 0)), reverse=True)
