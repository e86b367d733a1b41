#!/usr/bin/env python3
"""scripts/extant-top: --once on Extant and on memcached, live at a terminal, and on nothing.

EXTANT names the binary. Exit 0: all right; 1: not.
"""

import os
import pty
import shutil
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'aid'))
import servers  # noqa: E402
from servers import expect  # noqa: E402

BINARY = os.environ.get('EXTANT', './extant')
TOP = os.path.join(HERE, '..', '..', 'scripts', 'extant-top')


def work(server):
    with server.connect() as sock:
        sock.sendall(b'set a 0 0 1\r\nx\r\nset b 0 0 1\r\nx\r\ndelete b\r\nget a a a b\r\nget none\r\nmn\r\n')
        out = b''
        while not out.endswith(b'MN\r\n'):
            out += sock.recv(65536)


def once(*args):
    return subprocess.run([TOP, '--once'] + list(args), capture_output=True, text=True, timeout=servers.PATIENCE_SECONDS)


def once_on_extant():
    with servers.Server(BINARY, ['-o', 'ext_path=@DIR@/flash:64m'], 'top') as server:
        work(server)
        run = once(server.path)
        lines = run.stdout.splitlines()
        expect('exit', run.returncode == 0, run)
        expect('serving', lines[0].startswith('Extant ') and ' connections' in lines[0], lines)
        expect('hits', lines[1] == 'hits     60.0%: 60.0% in RAM, 0.0% on flash', lines)
        expect('misses', lines[2] == 'misses   50.0% never stored, or gone long ago, 50.0% deleted', lines)
        for word in ('RAM      -m 64.0 MB: ', 'flash    0 B of 64.0 MB in 0 objects', 'network  '):
            expect(word, any(line.startswith(word) for line in lines), lines)


def once_on_memcached():
    if not shutil.which('memcached'):
        print('       no memcached here')
        return
    with servers.Server('memcached', [], 'top', tcp=True) as server:
        work(server)
        run = once('127.0.0.1:%d' % server.port)
        lines = run.stdout.splitlines()
        expect('exit', run.returncode == 0, run)
        expect('serving', lines[0].startswith('memcached 1.'), lines)
        expect('hits', lines[1] == 'hits     60.0%', lines)
        expect('misses', lines[2].startswith('misses   0.0% expired, 0.0% flushed, of 2;'), lines)
        expect('RAM', any(line.startswith('RAM ') and ' of 64.0 MB in 1 items' in line for line in lines), lines)


def at_a_terminal():
    with servers.Server(BINARY, [], 'top') as server:
        main, other = pty.openpty()
        process = subprocess.Popen([TOP, '--interval', '0.1', server.path], stdin=other, stdout=other, stderr=other)
        os.close(other)
        seen, end = b'', time.monotonic() + servers.PATIENCE_SECONDS
        while seen.count(b'network') < 3 and time.monotonic() < end:
            seen += os.read(main, 4096)
        expect('it goes on', seen.count(b'network') >= 3 and seen.count(b'Extant ') >= 3, seen)
        os.write(main, b'q')
        expect('q ends it', process.wait(servers.PATIENCE_SECONDS) == 0)
        os.close(main)


def on_nothing():
    run = once('/nonexistent/socket')
    expect('exit', run.returncode == 1 and run.stderr == 'extant-top: /nonexistent/socket: [Errno 2] No such file or directory\n',
           run)
    expect('usage', once('--interval', '0').returncode == 2)


if __name__ == '__main__':
    sys.exit(servers.run_scenarios((once_on_extant, once_on_memcached, at_a_terminal, on_nothing)))
