#!/usr/bin/env python3
"""A connection in the clear costs the same whether the server has TLS or not: not one instruction more
for a get or a set. Counted by callgrind in the worker's thread, as the difference between few and many
requests.

EXTANT names the server. With names of other servers as arguments, prints what each needs, first of all
without TLS. Exit 77: no valgrind, or no TLS.
"""

import glob
import os
import re
import shutil
import socket
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'aid'))
from servers import Server, make_cert  # noqa: E402

TOP = os.path.dirname(os.path.dirname(HERE))
BINARY = os.environ.get('EXTANT', os.path.join(TOP, 'extant'))
REQUESTS = {'get': (b'get key\r\n', b'VALUE key 0 100\r\n' + b'v' * 100 + b'\r\nEND\r\n'),
            'set': (b'set key 0 0 100\r\n' + b'v' * 100 + b'\r\n', b'STORED\r\n')}
FEW, MANY = 200, 700
ROUNDS = 4


class Counted(Server):
    """Under callgrind, one worker, nothing in the background."""

    def __init__(self, binary, tls):
        flags = ['-t', '1', '-m', '8', '-o', 'no_lru_crawler,no_lru_maintainer']
        if tls:
            flags += ['-Z', '-o', 'ssl_chain_cert=@DIR@/server.crt,ssl_key=@DIR@/server.key']
        super().__init__(binary, flags, 'cost', tcp=True)
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
        for _ in range(3000):
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


def instructions(binary, tls, word, count):
    request, answer = REQUESTS[word]
    server = Counted(binary, tls)
    try:
        server.start()
        with server.connect() as s:
            stored = REQUESTS['set']
            for ask, want in [stored] + [(request, answer)] * count:
                s.sendall(ask)
                got = b''
                while len(got) < len(want):
                    got += s.recv(4096)
                assert got == want, got
        server.process.terminate()
        server.process.wait(60)
        return of_worker(server.out, binary)
    finally:
        server.stop()


def of_worker(out, binary):
    """What the program itself (not libraries and kernel) needed in the thread that serves connections."""
    for path in glob.glob(out + '-*'):
        text = subprocess.run(['callgrind_annotate', '--threshold=100', path], capture_output=True,
                              text=True, check=True, timeout=120).stdout
        if ':conn_event' not in text:
            continue
        own = re.findall(r'^ *([\d,]+) .*\[%s\]$' % re.escape(os.path.realpath(binary)), text, re.M)
        return sum(int(n.replace(',', '')) for n in own)
    raise AssertionError('no thread serves connections')


def each(binary, tls, word):
    few, many = (instructions(binary, tls, word, n) for n in (FEW, MANY))
    return (many - few) / (MANY - FEW)


def main():
    if not shutil.which('valgrind'):
        print('skipped: no valgrind')
        return 77
    if sys.argv[1:]:
        for word in REQUESTS:
            for binary in sys.argv[1:]:
                print('%s without TLS, %s: %.2f instructions' % (word, binary, each(binary, False, word)))
        return 0
    shown = subprocess.run([BINARY, '-h'], capture_output=True, text=True, timeout=30).stdout
    if '--enable-ssl' not in shown:
        print('skipped: built without TLS')
        return 77
    failed = False
    for word in REQUESTS:
        without, beside = [], []
        for _ in range(ROUNDS):  # turns of the loop for the clock's sake come in between, now and then
            without.append(each(BINARY, False, word))
            beside.append(each(BINARY, True, word))
            more = min(beside) - min(without)
            if more < 1:
                break
        failed = failed or more >= 1
        print('%s %s: %.2f instructions without -Z, %.2f on a notls: port beside TLS' % (
            'not ok' if more >= 1 else 'ok    ', word, min(without), min(beside)))
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
