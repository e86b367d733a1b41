#!/usr/bin/env python3
"""What each flag and suboption changes, seen from outside: one scenario each, on a server of its own.
How they are parsed and refused is in settings_test.c; some have a test elsewhere (t/live/compat.tsv).

EXTANT names the binary. Exit 0: all right; 1: not.
"""

import os
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'aid'))
import servers  # noqa: E402
from servers import expect, wait_for  # noqa: E402

BINARY = os.environ.get('EXTANT', './extant')
ROOT = ['-u', 'root'] if os.getuid() == 0 else []


class Client(servers.Client):
    ask = servers.Client.lines


def server_with(*flags, **more):
    return servers.Server(BINARY, list(flags), 'flags', **more)


def proc(server, name):
    with open('/proc/%d/%s' % (server.process.pid, name)) as f:
        return f.read()


def words_that_print():
    for flags, first in ((['-h'], b'extant '), (['--help'], b'extant '), (['-V'], b'extant '),
                         (['--version'], b'extant '), (['-i'], b'')):
        run = subprocess.run([BINARY] + flags, capture_output=True, timeout=servers.PATIENCE_SECONDS)
        expect('%s: exit 0, on standard output' % flags[0],
               run.returncode == 0 and run.stdout.startswith(first) and not run.stderr, run)


def defaults_of_the_help():
    """Each "(default: ...)" of a suboption is what `stats settings` says."""
    text = subprocess.run([BINARY, '-h'], capture_output=True, text=True, timeout=servers.PATIENCE_SECONDS).stdout
    told = {name: ' '.join(more.split()) for name, more in re.findall(r'^   - (\w+):((?:.*\n)(?: {8}.*\n)*)', text, re.M)}
    with server_with('-o', 'ext_path=@DIR@/flash:8g') as server:
        client = Client(server)
        shown = client.stats(b'settings')
        client.close()
    compared = 0
    for name, value in sorted(shown.items()):
        more = told.get(name)
        if more is None or name == 'ext_max_sleep':  # servers.Server sets that
            continue
        if value in ('yes', 'no'):
            expect('%s is %s' % (name, value), more.endswith('(default)') == (value == 'yes'), more)
        else:
            default = re.search(r'\(default: ([\w.]+)[^()]*\)$', more)
            if default is None or name in ('ssl_min_version', 'ssl_keyformat'):
                continue
            scales = [value] + [float(value) / scale for scale in (1, 1 << 10, 1 << 20) if value[0].isdigit()]
            expect('%s is %s' % (name, value), any(str(s) == default[1] or default[1][0].isdigit() and not isinstance(s, str)
                                                   and s == float(default[1]) for s in scales), more)
        compared += 1
    expect('most of them', compared > 25, compared)


def daemon():
    where = tempfile.mkdtemp(prefix='extant-flags-')
    try:
        path, pid_file = where + '/sock', where + '/pid'
        run = subprocess.run([BINARY] + ROOT + ['-d', '-s', path, '-P', pid_file], timeout=servers.PATIENCE_SECONDS)
        expect('-d: the parent ends with 0', run.returncode == 0)
        expect('-P: the daemon tells its pid', wait_for(lambda: os.path.exists(pid_file) and open(pid_file).read().strip()))
        pid = int(open(pid_file).read())
        with socket.socket(socket.AF_UNIX) as s:
            expect('it answers', wait_for(lambda: s.connect_ex(path) in (0, 106)))
            s.sendall(b'version\r\n')
            expect('and speaks', s.recv(100) == b'VERSION 1.6.45\r\n')
        expect('it leads a session of its own', os.getsid(pid) != os.getsid(0))
        os.kill(pid, signal.SIGTERM)
        expect('it ends, and its pid file with it', wait_for(lambda: not os.path.exists(pid_file)))
    finally:
        shutil.rmtree(where, ignore_errors=True)


def limits_and_memory():
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    with server_with('-r') as server:
        line = [x for x in proc(server, 'limits').splitlines() if x.startswith('Max core')][0]
        expect('-r raises the limit of core files', line.split()[4] == line.split()[5], line)
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] == resource.RLIM_INFINITY or os.getuid() == 0:
        with server_with('-k', '-m', '64') as server:
            kb = [int(x.split()[1]) for x in proc(server, 'status').splitlines() if x.startswith('VmLck')][0]
            expect('-k locks what is used', 0 < kb and server.rss_kb() < 200 << 10, (kb, server.rss_kb()))
    with server_with('-L') as server:
        expect('-L asks for huge pages', ' hg' in proc(server, 'smaps'))


def verbosity():
    with server_with('-vv') as server:
        Client(server).ask(b'get some_key')
        expect('-vv tells what is asked', wait_for(lambda: 'get some_key' in server.log_tail()), server.log_tail())
    with server_with() as server:
        c = Client(server)
        c.ask(b'get some_key')
        expect('without -v it is silent', 'some_key' not in server.log_tail())
        c.ask(b'verbosity 2')
        c.ask(b'get other_key')
        expect('verbosity 2 does the same', wait_for(lambda: 'other_key' in server.log_tail()))


def sizes(server, value):
    c = Client(server)
    c.ask(b'set k 0 0 %d\r\n%s' % (value, b'x' * value))
    return max(int(v) for k, v in server.stats(b'slabs').items() if k.endswith('chunk_size'))


def slab_classes():
    for flags, value, chunk in (([], 200, 304), (['-f', '2'], 200, 384), (['-n', '200'], 50, 248),
                                (['-o', 'slab_sizes=100-200-1000'], 200, 1000),
                                (['-o', 'slab_chunk_max=64'], 300000, 65536),
                                (['-o', 'no_chunked_items'], 600000, 616944)):
        with server_with(*flags) as server:
            got = sizes(server, value)
            expect('%s: chunks of %d' % (' '.join(flags) or 'the defaults', chunk), got == chunk, got)


def items():
    with server_with('-C') as server:
        c = Client(server)
        c.ask(b'set k 0 0 1\r\nx')
        expect('-C: no cas', c.ask(b'gets k')[0] == b'VALUE k 0 1 0', c.ask(b'gets k'))
    with server_with('-D', '/') as server:
        c = Client(server)
        c.ask(b'set users/1 0 0 1\r\nx')
        expect('-D counts by that prefix', c.ask(b'stats detail dump')[0] == b'PREFIX users get 0 hit 0 set 1 del 0')
    with server_with('-I', '2m') as server:
        c = Client(server)
        expect('-I 2m', c.ask(b'set k 0 0 1500000\r\n' + b'x' * 1500000) == [b'STORED'])
    with server_with('-o', 'track_sizes') as server:
        c = Client(server)
        c.ask(b'set k 0 0 100\r\n' + b'x' * 100)
        expect('track_sizes', c.ask(b'stats sizes') == [b'STAT 160 1', b'END'], c.ask(b'stats sizes'))
    with server_with('-o', 'temporary_ttl=60') as server:
        c = Client(server)
        c.ask(b'set k 0 30 1\r\nx')
        expect('temporary_ttl', server.stats(b'items')['items:1:number_temp'] == '1')
    with server_with('-o', 'no_modern') as server:
        s = server.stats(b'settings')
        expect('no_modern: a flat LRU without threads', (s['lru_segmented'], s['lru_crawler'], s['lru_maintainer_thread'],
                                                          s['hash_algorithm']) == ('no', 'no', 'no', 'jenkins'), s)
        expect('so its lines are gone', 'lru_maintainer_juggles' not in server.stats())
        c = Client(server)
        expect('and nothing moves', c.ask(b'slabs reassign 1 2') == [b'CLIENT_ERROR slab reassignment disabled'] and
               c.ask(b'lru_crawler crawl all') == [b'CLIENT_ERROR lru crawler disabled'])
    with server_with('-o', 'no_slab_reassign,no_slab_automove,no_lru_crawler,hashpower=18,no_hashexpand') as server:
        c = Client(server)
        expect('no_slab_reassign', c.ask(b'slabs reassign 1 2') == [b'CLIENT_ERROR slab reassignment disabled'])
        expect('no_lru_crawler', c.ask(b'lru_crawler crawl all') == [b'CLIENT_ERROR lru crawler disabled'])
        expect('hashpower', server.stats()['hash_power_level'] == '18', server.stats()['hash_power_level'])
    with server_with('-o', 'no_modern,modern,slab_reassign,lru_crawler,lru_maintainer,maxconns_fast') as server:
        s = server.stats(b'settings')
        expect('modern and the words for the defaults', (s['slab_reassign'], s['lru_crawler'], s['maxconns_fast']) ==
               ('yes', 'yes', 'yes'), s)


def workers():
    with server_with('-t', '7') as server:
        names = os.listdir('/proc/%d/task' % server.process.pid)
        comms = [open('/proc/%d/task/%s/comm' % (server.process.pid, t)).read() for t in names]
        expect('-t 7', server.stats()['threads'] == '7' and sum('work' in x for x in comms) == 7, comms)
    with server_with('-t', '1', '-R', '1') as server:
        c = Client(server)
        c.ask(b'\r\n'.join([b'get a'] * 100))
        expect('-R 1', int(server.stats()['conn_yields']) > 20)
    with server_with('-N', '2', '-b', '77', tcp=True) as server:
        server.connect().close()
        expect('-N with a connection that has no queue', int(server.stats()['round_robin_fallback']) >= 1)
        expect('-b', server.stats(b'settings')['tcp_backlog'] == '77')


def udp_ask(sock, request, number):
    """The datagrams of one answer put together, in order."""
    sock.send(struct.pack('>HHHH', number, 0, 1, 0) + request)
    parts, total = {}, 1
    while len(parts) < total:
        data = sock.recv(65536)
        got, seq, total, zero = struct.unpack('>HHHH', data[:8])
        assert got == number and zero == 0 and len(data) <= 1400 and seq < total, data[:20]
        parts[seq] = data[8:]
    return b''.join(parts[i] for i in range(total))


def udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    with server_with('-U', str(port), tcp=True) as server, \
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(servers.PATIENCE_SECONDS)
        s.connect(('127.0.0.1', port))
        expect('set', udp_ask(s, b'set k 3 0 5\r\nhello\r\n', 1) == b'STORED\r\n')
        expect('get', udp_ask(s, b'get k\r\n', 2) == b'VALUE k 3 5\r\nhello\r\nEND\r\n')
        expect('two requests in one datagram have an answer each',
               (udp_ask(s, b'get k\r\nget none\r\n', 65535), s.recv(100)) ==
               (b'VALUE k 3 5\r\nhello\r\nEND\r\n', struct.pack('>HHHH', 65535, 0, 1, 0) + b'END\r\n'))
        expect('a large value', udp_ask(s, b'set big 0 0 1000\r\n' + b'b' * 1000 + b'\r\n', 3) == b'STORED\r\n')
        keys = b'get' + b' big' * 30
        expect('an answer in many datagrams', udp_ask(s, keys + b'\r\n', 4) ==
               (b'VALUE big 0 1000\r\n' + b'b' * 1000 + b'\r\n') * 30 + b'END\r\n')
        expect('an error', udp_ask(s, b'nonsense\r\n', 5) == b'ERROR\r\n')
        expect('meta', udp_ask(s, b'mg k v f\r\n', 6) == b'VA 5 f3\r\nhello\r\n')
        head = struct.Struct('>BBHBBHIIQ')
        get = head.pack(0x80, 0x0c, 1, 0, 0, 0, 1, 77, 0) + b'k'
        hit = head.pack(0x81, 0x0c, 1, 4, 0, 0, 10, 77, 1) + b'\0\0\0\3k' + b'hello'
        expect('each datagram tells its protocol', udp_ask(s, get, 9) == hit)
        noop = head.pack(0x80, 0x0a, 0, 0, 0, 0, 0, 78, 0)
        expect('packets in one datagram have an answer each', (udp_ask(s, get + noop, 10), s.recv(100)) ==
               (hit, struct.pack('>HHHH', 10, 0, 1, 0) + head.pack(0x81, 0x0a, 0, 0, 0, 0, 0, 78, 0)))
        bad = head.pack(0x80, 0x00, 0, 0, 0, 0, 0, 79, 0)
        expect('nothing is read behind a packet with wrong lengths', udp_ask(s, bad + noop, 11)[6:8] == b'\0\4')
        s.send(struct.pack('>HHHH', 7, 0, 2, 0) + b'get k\r\n')
        s.send(b'short')
        expect('parts of requests, and datagrams without a header, are ignored', udp_ask(s, b'get none\r\n', 8) == b'END\r\n')
        conns = server.stats(b'conns')
        expect('stats conns knows it', any(v.startswith('udp:') for v in conns.values()), conns)
    with server_with(tcp=True) as server:
        expect('it is off by default', server.stats(b'settings')['udpport'] == '0' and
               not any('udp' in v for v in server.stats(b'conns').values()))


def udp_memory():
    """The memory of a long answer is given back after it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    with server_with('-U', str(port), '-m', '64', '-t', '1', tcp=True) as server, \
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(servers.PATIENCE_SECONDS)
        s.connect(('127.0.0.1', port))
        client = servers.Client(server)
        client.set(b'big', b'b' * 1000000)
        before = server.rss_kb()
        s.send(struct.pack('>HHHH', 1, 0, 1, 0) + b'get' + b' big' * 31 + b'\r\n')
        s.recv(65536)
        expect('it took memory', server.rss_kb(peak=True) > before + 30000, (before, server.rss_kb(peak=True)))
        expect('which is given back', wait_for(lambda: server.rss_kb() < before + 8000), (before, server.rss_kb()))
        s.send(struct.pack('>HHHH', 2, 0, 1, 0) + b'get' + b' big' * 40 + b'\r\nmn\r\n')
        answer = b''
        while answer[:2] != b'\0\2':
            answer = s.recv(65536)
        expect('there is a limit', answer[8:] == b'SERVER_ERROR out of memory writing get response\r\n', answer)
        s.send(struct.pack('>HHHH', 3, 0, 1, 0) + b'get none\r\n')
        expect('then it goes on', s.recv(65536)[8:] == b'END\r\n')


def udp_of_others():
    """A peer that isn't on loopback gets one datagram of answers to one request, and no command about the server."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect(('192.0.2.1', 9))  # nothing is sent
        except OSError:
            print('skipped: no address but loopback')
            return
        address = s.getsockname()[0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind((address, 0))
        port = s.getsockname()[1]
    with server_with('-U', str(port), '-l', address, tcp=True) as server, \
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(servers.PATIENCE_SECONDS)
        s.connect((address, port))
        client = servers.Client(server)
        client.set(b'k', b'v' * 1000)
        client.set(b'big', b'b' * 100000)
        hit = b'VALUE k 0 1000\r\n' + b'v' * 1000 + b'\r\nEND\r\n'
        too_long = b'SERVER_ERROR answer too long for UDP\r\n'
        for n, (request, answers) in enumerate((
                (b'get k\r\n', (hit,)), (b'version\r\n', (b'VERSION 1.6.45\r\n',)), (b'stats\r\n', (b'ERROR\r\n',)),
                (b'flush_all\r\n', (b'ERROR\r\n',)), (b'get big\r\n', (too_long,)),
                (b'get k\r\nget k\r\nmn\r\n', (hit, too_long, b'MN\r\n')),
                (b'get big\r\n' * 40 + b'mn\r\n', (too_long,) * 30 + (b'MN\r\n',)),
                (b'get' + b' big' * 400 + b'\r\n', (b'SERVER_ERROR out of memory writing get response\r\n',)))):
            s.send(struct.pack('>HHHH', n, 0, 1, 0) + request)
            for answer in answers:
                got = s.recv(65536)
                expect('%r' % request[:20], got == struct.pack('>HHHH', n, 0, 1, 0) + answer, got[:60])
        s.send(struct.pack('>HHHH', 100, 0, 1, 0) + b'mn\r\n')
        expect('and nothing more', s.recv(65536) == struct.pack('>HHHH', 100, 0, 1, 0) + b'MN\r\n')


def listening():
    with tempfile.NamedTemporaryFile(prefix='extant-ports-') as ports:
        env = dict(os.environ, MEMCACHED_PORT_FILENAME=ports.name)
        p = subprocess.Popen([BINARY] + ROOT + ['-l', '127.0.0.1,127.0.0.2', '-p', '-1'], env=env,
                             stderr=subprocess.DEVNULL)
        try:
            def lines():
                return open(ports.name).read().splitlines()
            expect('-l with two addresses, -p -1', wait_for(lambda: len(lines()) == 2) and
                   all(x.startswith('TCP INET: ') for x in lines()), lines())
            for host, line in zip(('127.0.0.1', '127.0.0.2'), lines()):
                with socket.create_connection((host, int(line.split()[-1]))) as s:
                    s.sendall(b'version\r\n')
                    expect(host, s.recv(100) == b'VERSION 1.6.45\r\n')
        finally:
            p.terminate()
            expect('it stops', p.wait(servers.PATIENCE_SECONDS) == 0)


def main():
    return servers.run_scenarios((words_that_print, defaults_of_the_help, daemon, limits_and_memory, verbosity, slab_classes,
                                  items, workers, udp, udp_memory, udp_of_others, listening))


if __name__ == '__main__':
    sys.exit(main())
