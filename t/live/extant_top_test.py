#!/usr/bin/env python3
"""scripts/extant-top: --once on Extant and on memcached, with TLS and a log-in, live at a terminal of 80 by 24, on nothing.

EXTANT names the binary. Exit 0: all right; 1: not.
"""

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
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
    with servers.Server(BINARY, ['-o', 'ext_path=@DIR@/flash:64m'], 'top') as server:
        work(server)
        main, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 80, 0, 0))
        process = subprocess.Popen([TOP, '--interval', '0.1', server.path], stdin=other, stdout=other, stderr=other)
        os.close(other)
        seen, end = b'', time.monotonic() + servers.PATIENCE_SECONDS
        while seen.count(b'network') < 3 and time.monotonic() < end:
            seen += os.read(main, 4096)
        for screen in seen.decode().split('\x1b[H')[1:-1]:
            lines = [re.sub(r'\x1b\[.', '', line).strip('\r') for line in screen.split('\n')]
            expect('fits 80 by 24', len(lines) <= 24 and max(map(len, lines)) <= 80, lines)
        expect('it goes on', seen.count(b'network') >= 3 and seen.count(b'Extant ') >= 3, seen)
        os.write(main, b'q')
        expect('q ends it', process.wait(servers.PATIENCE_SECONDS) == 0)
        os.close(main)


def write(path, text):
    with open(path, 'w') as f:
        f.write(text)
    return path


def with_a_login():
    server = servers.Server(BINARY, ['-Y', '@DIR@/users'], 'top')
    users = write(os.path.join(server.dir, 'users'), 'ann:of green:gables\nbob:x\n')
    with server:
        run = once('--login', users, server.path)
        expect('logged in', run.returncode == 0 and run.stdout.startswith('Extant '), run)
        run = once('--login', write(os.path.join(server.dir, 'wrong'), 'ann:blue\n'), server.path)
        expect('refused', run.returncode == 1 and 'the log-in was refused: CLIENT_ERROR authentication failure' in run.stderr, run)
        run = once(server.path)
        expect('without', run.returncode == 1 and 'it requires a log-in (--login FILE)' in run.stderr, run)
        run = once('--login', write(os.path.join(server.dir, 'none'), 'ann\n'), server.path)
        expect('no password', run.returncode == 2 and 'is not USER:PASSWORD' in run.stderr, run)


def over_tls():
    server = servers.Server(BINARY, ['-Z', '-o', 'ssl_chain_cert=@DIR@/server.crt,ssl_key=@DIR@/server.key,'
                                     'ssl_ca_cert=@DIR@/ca.crt,ssl_verify_mode=2'], 'top', tcp=True)
    servers.make_cert(server.dir, 'ca', options=['-addext', 'basicConstraints=critical,CA:TRUE'])
    for name in ('server', 'client'):
        servers.make_cert(server.dir, name, 'ca')
    ca, crt, key = (os.path.join(server.dir, name) for name in ('ca.crt', 'client.crt', 'client.key'))
    with server:
        address = 'localhost:%d' % server.port
        run = once('--tls', '--ca', ca, '--cert', crt, '--key', key, address)
        expect('served', run.returncode == 0 and run.stdout.startswith('Extant '), run)
        run = once('--tls', '--cert', crt, '--key', key, address)
        expect('an unknown authority', run.returncode == 1 and 'certificate verify failed' in run.stderr, run)
        run = once('--tls', '--ca', ca, address)
        expect('no certificate of its own', run.returncode == 1, run)
        run = once('--ca', ca, address)
        expect('--tls is missing', run.returncode == 2 and 'need --tls' in run.stderr, run)


def on_nothing():
    run = once('/nonexistent/socket')
    expect('exit', run.returncode == 1 and run.stderr == 'extant-top: /nonexistent/socket: [Errno 2] No such file or directory\n',
           run)
    expect('usage', once('--interval', '0').returncode == 2)


if __name__ == '__main__':
    sys.exit(servers.run_scenarios((once_on_extant, once_on_memcached, at_a_terminal, with_a_login, over_tls, on_nothing)))
