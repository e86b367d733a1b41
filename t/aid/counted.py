"""What requests cost in instructions, counted by callgrind in the worker's thread: the difference between a
run with few and one with many, so that start and end of a server are not in it. Only the program's own
instructions count, not those of libraries and of the kernel.
"""

import glob
import os
import re
import socket
import subprocess

from servers import PATIENCE_SECONDS, Server, make_cert

FEW, MANY = 200, 700
VALUE = b'v' * 100
FLASH_VALUE = b'v' * 1000
FLASH_KEYS = 8192  # more than the memory of FLASH holds
STORED = b'STORED\r\n'
FLASH = ['-o', 'ext_path=@DIR@/flash:256m,ext_page_size=2,ext_wbuf_size=2,ext_item_age=0,ext_item_size=512,'
               'ext_recache_rate=0']


class Counted(Server):
    """Under callgrind, one worker, nothing in the background (but what flash needs)."""

    def __init__(self, binary, tls=False, flash=False):
        flags = ['-t', '1', '-m', '8', '-o', 'no_lru_crawler' if flash else 'no_lru_crawler,no_lru_maintainer']
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
        """As the others, but valgrind's own arguments come first, and the port is known."""
        with open(self.log, 'wb') as log:
            self.process = subprocess.Popen([self.binary] + [f.replace('@DIR@', self.dir)
                                                             for f in self.flags],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        for _ in range(int(PATIENCE_SECONDS / 0.02)):
            if self.process.poll() is not None:
                raise RuntimeError(self.log_tail())
            try:
                self.port = self.number
                self.connect().close()
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


def flash_hits(server):
    return int(server.stats()['get_extstore'])


def on_flash(server, count):
    """Different keys, the oldest first: each is read from flash."""
    keys = [b'key-%06d' % i for i in range(FLASH_KEYS)]
    with server.connect() as s:
        for key in keys:
            exchange(s, store_request(key, FLASH_VALUE), STORED)
        before = flash_hits(server)
        for key in keys[:count]:
            exchange(s, b'get %s\r\n' % key, get_answer(key, FLASH_VALUE))
        assert flash_hits(server) - before == count, 'not all of them came from flash'


def run(binary, word, count, tls=False):
    """A server's life with this many requests: its profile, as callgrind_annotate prints it."""
    server = Counted(binary, tls, flash=word == 'flash')
    try:
        server.start()
        if word == 'flash':
            on_flash(server, count)
        else:
            in_memory(word, server, count)
        server.process.terminate()
        server.process.wait(PATIENCE_SECONDS)
        for path in glob.glob(server.out + '-*'):
            text = subprocess.run(['callgrind_annotate', '--threshold=100', path], capture_output=True,
                                  text=True, check=True, timeout=PATIENCE_SECONDS).stdout
            if ':conn_event' in text:
                return text
        raise AssertionError('no thread serves connections')
    finally:
        server.stop()


def by_function(text, binary):
    """Instructions by function of the program itself."""
    counts = {}
    for number, name in re.findall(r'^ *([\d,]+) .*?:([\w.\']+)(?: \[\d+\])? \[%s\]$' % re.escape(
            os.path.realpath(binary)), text, re.M):
        counts[name] = counts.get(name, 0) + int(number.replace(',', ''))
    return counts


def cost(binary, word, tls=False):
    """What one get or set in memory, or one get from flash, needs: {function: instructions}."""
    few, many = (by_function(run(binary, word, n, tls), binary) for n in (FEW, MANY))
    return {name: (many[name] - few.get(name, 0)) / (MANY - FEW) for name in many}


def instructions(binary, word, tls=False):
    return sum(cost(binary, word, tls).values())
