#!/usr/bin/env python3
"""TLS, as clients and operators meet it: every ssl_ setting, listeners with and without, certificates
that are replaced, values from flash, replies longer than a record, dumps and watchers, and clients that
begin a handshake and don't end it.

EXTANT_DEBUG_BIN names the server; names of scenarios as arguments run only these. Exit 77: no TLS here.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'aid'))
import servers  # noqa: E402
from servers import Server, expect, make_cert, wait_for  # noqa: E402

TOP = os.path.dirname(os.path.dirname(HERE))
BINARY = os.environ.get('EXTANT_DEBUG_BIN', os.path.join(TOP, 'extant-debug'))
CERT = 'ssl_chain_cert=@DIR@/server.crt,ssl_key=@DIR@/server.key'
LIMIT = 256  # TLS_GREETING_MAX
PATIENCE = 10  # TLS_GREETING_SEC


class TlsServer(Server):
    """With a CA and a certificate of the server in its directory; its own commands go in the clear."""

    def __init__(self, options='', flags=(), name='tls', listen='notls:127.0.0.1:0'):
        more = ',' + options if options else ''
        super().__init__(BINARY, ['-Z', '-o', CERT + more, *flags], name, tcp=True)
        make_cert(self.dir, 'ca', options=['-addext', 'basicConstraints=critical,CA:TRUE'])
        make_cert(self.dir, 'server', 'ca')
        self.listen = listen

    def start(self):
        # Two free ports: the first stays TLS, the second is for Server's own words.
        with socket.socket() as a, socket.socket() as b:
            a.bind(('127.0.0.1', 0))
            b.bind(('127.0.0.1', 0))
            self.tls_port, clear_port = a.getsockname()[1], b.getsockname()[1]
        self.flags += ['-l', '127.0.0.1:%d,notls:127.0.0.1:%d' % (self.tls_port, clear_port)]
        super().start()
        self.port = clear_port

    def context(self, client=None):
        context = ssl.create_default_context(cafile=os.path.join(self.dir, 'ca.crt'))
        if client:
            context.load_cert_chain(*(os.path.join(self.dir, client + e) for e in ('.crt', '.key')))
        return context

    def tls(self, context=None, port=None, session=None):
        raw = socket.create_connection(('127.0.0.1', port or self.tls_port), timeout=120)
        try:
            return (context or self.context()).wrap_socket(raw, server_hostname='localhost',
                                                           session=session)
        except BaseException:
            raw.close()
            raise


def read_until(sock, end):
    out = b''
    while not out.endswith(end):
        piece = sock.recv(1 << 16)
        if not piece:
            break
        out += piece
    return out


def ask(sock, request, end=b'END\r\n'):
    sock.sendall(request)
    return read_until(sock, end)


def clear(server, request, end=b'END\r\n'):
    with server.connect() as s:
        s.settimeout(120)
        return ask(s, request, end)


def refused(make, *args, **more):
    """What a client learns when its handshake fails; with TLS 1.3 possibly only when it reads."""
    try:
        with make(*args, **more) as s:
            s.sendall(b'version\r\n')
            return '' if s.recv(100) else 'closed'
    except (ssl.SSLError, OSError) as e:
        return str(e)


def value_of(i, size):
    return (b'%08d' % i) * (size // 8) + b'x' * (size % 8)


def conversation():
    """Both versions; the lines of stats."""
    with TlsServer() as server:
        for version, name in ((ssl.TLSVersion.TLSv1_2, 'TLSv1.2'), (ssl.TLSVersion.TLSv1_3, 'TLSv1.3')):
            context = server.context()
            context.minimum_version = context.maximum_version = version
            with server.tls(context) as s:
                expect('the version', s.version() == name, s.version())
                out = ask(s, b'set a 0 0 3\r\nabc\r\nget a\r\nmg a v\r\nincr a 1\r\nmn\r\n', b'MN\r\n')
                expect('answers', out == b'STORED\r\nVALUE a 0 3\r\nabc\r\nEND\r\nVA 3\r\nabc\r\n'
                       b'CLIENT_ERROR cannot increment or decrement non-numeric value\r\nMN\r\n', out)
                s.sendall(b'quit\r\n')
                expect('the end', s.recv(1) == b'')
        stats = server.stats()
        expect('no sessions without their cache', 'ssl_new_sessions' not in stats)
        expect('no errors', stats['ssl_handshake_errors'] == stats['ssl_proto_errors'] == '0')
        expect('fresh', int(stats['time_since_server_cert_refresh']) <= int(stats['uptime']) + 2, stats)
        settings = server.stats(b'settings')
        expect('settings', settings['ssl_enabled'] == 'yes' and
               settings['ssl_chain_cert'] == os.path.join(server.dir, 'server.crt') and
               settings['ssl_min_version'] == 'tlsv1.2', settings)


def long_replies_keep_their_order():
    """From memory and from flash, longer than a record and shorter, to a client that reads late."""
    flags = ['-m', '64', '-t', '2']
    options = ('ext_path=@DIR@/flash:256m,ext_page_size=8,ext_wbuf_size=2,ext_item_size=100,'
               'ext_item_age=0,ext_recache_rate=0')
    sizes = (10, 1000, 3000, 16384, 16385, 40000, 200000, 700000)
    with TlsServer(options, flags) as server, server.tls() as s:
        for i in range(64):
            value = value_of(i, sizes[i % len(sizes)])
            got = ask(s, b'set k%d 5 0 %d\r\n%s\r\n' % (i, len(value), value), b'\r\n')
            expect('stored', got == b'STORED\r\n', got)
        large = sum(1 for i in range(64) if sizes[i % len(sizes)] >= 1000)
        expect('on flash', wait_for(
            lambda: int(server.stats()['extstore_objects_used']) >= large), server.stats())
        wanted = b''
        for i in range(64):
            value = value_of(i, sizes[i % len(sizes)])
            wanted += b'VALUE k%d 5 %d\r\n%s\r\nEND\r\n' % (i, len(value), value)
        for round_ in range(3):
            s.sendall(b''.join(b'get k%d\r\n' % i for i in range(64)))
            if round_ == 1:  # let the socket fill up
                wait_for(lambda: 'conn_mwrite' in str(server.stats(b'conns')), 20)
            got = b''
            while len(got) < len(wanted):
                piece = s.recv(65536)
                if not piece:
                    break
                got += piece
            expect('round %d' % round_, got == wanted, '%d of %d' % (len(got), len(wanted)))
        expect('read from flash', int(server.stats()['get_extstore']) >= large)


def thousands_in_a_pipeline():
    with TlsServer(flags=['-R', '5']) as server, server.tls() as s:
        ask(s, b'set a 0 0 5\r\nhello\r\n', b'\r\n')
        n = 5000
        got = ask(s, b'get a\r\n' * n + b'mn\r\n', b'MN\r\n')
        expect('all of them', got == b'VALUE a 0 5\r\nhello\r\nEND\r\n' * n + b'MN\r\n', len(got))
        expect('others had their turn', int(server.stats()['conn_yields']) > 0)
        got = ask(s, b'gets' + b' a' * 3000 + b'\r\n')
        expect('a long line', got.count(b'VALUE a') == 3000, got.count(b'VALUE a'))


def records_are_filled():
    """ssl_wbuf_size: how much is encrypted at once."""
    for kilobytes, most in ((1, 1024), (16, 16384), (64, 16384)):
        with TlsServer('ssl_wbuf_size=%d' % kilobytes) as server, \
                socket.create_connection(('127.0.0.1', server.tls_port)) as raw:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = server.context().wrap_bio(incoming, outgoing, server_hostname='localhost')
            seen = []

            def pump(call, *args):
                while True:
                    try:
                        result = call(*args)
                        raw.sendall(outgoing.read())
                        return result
                    except ssl.SSLWantReadError:
                        raw.sendall(outgoing.read())
                        head = raw.recv(5, socket.MSG_WAITALL)
                        body = raw.recv(int.from_bytes(head[3:], 'big'), socket.MSG_WAITALL)
                        seen.append(len(body))
                        incoming.write(head + body)

            pump(tls.do_handshake)
            for i in range(40):
                pump(tls.write, b'set k%02d 0 0 %d\r\n%s\r\n' % (i, 50 * i, b'v' * (50 * i)))
                pump(tls.read, 100)
            seen.clear()
            pump(tls.write, b'get' + b''.join(b' k%02d' % i for i in range(40)) + b'\r\n')
            got = b''
            while not got.endswith(b'END\r\n'):
                got += pump(tls.read, 1 << 16)
            longest = max(seen) - 17  # a tag, and the type of what is in it
            expect('%d KB' % kilobytes, most - 40 <= longest <= most, (kilobytes, seen))
            shown = server.stats(b'settings')['ssl_wbuf_size']
            expect('shown', shown == str(kilobytes * 1024), shown)


def listeners():
    with TlsServer('ssl_ca_cert=@DIR@/ca.crt') as server:
        make_cert(server.dir, 'client', 'ca', 'client')
        make_cert(server.dir, 'stranger')
        ports = []
        for _ in range(2):
            with socket.socket() as s:
                s.bind(('127.0.0.1', 0))
                ports.append(s.getsockname()[1])
        server.flags[-1] += ',mtls:127.0.0.1:%d,btls:127.0.0.1:%d' % tuple(ports)
        mutual, basic = ports
        restart_with_same_flags(server)
        expect('without', server.command(b'get a') == b'END\r\n')
        for port in (server.tls_port, basic):
            with server.tls(port=port) as s:
                expect('no certificate is needed', ask(s, b'get a\r\n') == b'END\r\n')
        expect('one is needed', refused(server.tls, port=mutual) != '')
        with server.tls(server.context('client'), mutual) as s:
            expect('a good one', ask(s, b'get a\r\n') == b'END\r\n')
        expect('not any', refused(server.tls, server.context('stranger'), mutual) != '')
        expect('counted', wait_for(lambda: server.stats()['ssl_handshake_errors'] == '2'), server.stats())
        expect('told', wait_for(lambda: server.log_tail().count('handshake with tcp:127.0.0.1:') == 2),
               server.log_tail())


def restart_with_same_flags(server):
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(20)
    Server.start(server)
    server.port = int(re.search(r'notls:127.0.0.1:(\d+)', server.flags[-1]).group(1))


def clients_are_verified():
    """ssl_verify_mode 0 to 3."""
    for mode, bits, needs in ((0, '0', False), (1, '1', False), (2, '3', True), (3, '7', True)):
        with TlsServer('ssl_ca_cert=@DIR@/ca.crt,ssl_verify_mode=%d' % mode) as server:
            make_cert(server.dir, 'client', 'ca', 'client')
            make_cert(server.dir, 'stranger')
            expect('shown', server.stats(b'settings')['ssl_verify_mode'] == bits)
            expect('mode %d, none' % mode, (refused(server.tls) != '') == needs)
            good, bad = server.context('client'), server.context('stranger')
            expect('mode %d, good' % mode, refused(server.tls, good) == '')
            expect('mode %d, bad' % mode, (refused(server.tls, bad) != '') == (mode > 0))


def versions_and_ciphers():
    def speaks(server, version, ciphers=None):
        context = server.context()
        context.minimum_version = context.maximum_version = version
        if ciphers:
            context.set_ciphers(ciphers)
        return refused(server.tls, context) == ''
    v12, v13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
    with TlsServer('ssl_min_version=3') as server:
        expect('1.3 at least', not speaks(server, v12) and speaks(server, v13))
    with TlsServer('ssl_max_version=2') as server:
        expect('1.2 at most', speaks(server, v12) and not speaks(server, v13))
    with TlsServer('ssl_ciphers=ECDHE-ECDSA-AES128-GCM-SHA256') as server:
        expect('one cipher', speaks(server, v12, 'ECDHE-ECDSA-AES128-GCM-SHA256') and
               not speaks(server, v12, 'ECDHE-ECDSA-AES256-GCM-SHA384'))


def serial_of(sock):
    return sock.getpeercert()['serialNumber']


def certificates_are_replaced():
    with TlsServer() as server:
        old_connection = server.tls()
        old = serial_of(old_connection)
        make_cert(server.dir, 'server', 'ca')
        with server.tls() as s:
            expect('not by itself', serial_of(s) == old)
        expect('OK', server.command(b'refresh_certs') == b'OK\r\n')
        with server.tls() as s:
            second = serial_of(s)
            expect('a new one', second != old)
        os.rename(server.dir + '/server.crt', server.dir + '/away')
        failed = clear(server, b'refresh_certs\r\nmn\r\n', b'MN\r\n')
        expect('why not', failed.startswith(
            b'Error loading the certificate chain: %s/server.crt : error:80000002:system library::'
            b'No such file or directory\r\nMN\r\n' % server.dir.encode()), failed)
        with server.tls() as s:
            expect('the old one stays', serial_of(s) == second)
        os.rename(server.dir + '/away', server.dir + '/server.crt')
        make_cert(server.dir, 'other', 'ca')
        os.replace(server.dir + '/other.key', server.dir + '/server.key')
        failed = clear(server, b'refresh_certs\r\nmn\r\n', b'MN\r\n')
        expect('a key of another', failed.startswith(b'Error loading the key: '), failed)
        os.replace(server.dir + '/other.crt', server.dir + '/server.crt')
        server.process.send_signal(signal.SIGHUP)

        def is_third():
            with server.tls() as s:
                return serial_of(s) not in (old, second)
        expect('by a signal too', wait_for(is_third), server.log_tail())
        expect('an older connection goes on', ask(old_connection, b'get a\r\n') == b'END\r\n')
        old_connection.close()


def keys_of_each_kind():
    def key(server, *arguments):
        subprocess.run(['openssl', 'pkey', '-in', server.dir + '/server.key', *arguments],
                       check=True, capture_output=True, timeout=120)

    def start(options, change):
        server = TlsServer(options)
        change(server)
        try:
            with server:
                with server.tls() as s:
                    return ask(s, b'get a\r\n').decode()
        except RuntimeError as e:
            return str(e)
    der = start('ssl_keyformat=DER,ssl_key=@DIR@/server.der', lambda s: key(
        s, '-outform', 'DER', '-out', s.dir + '/server.der'))
    expect('DER', der == 'END\r\n', der)

    def join(server):
        with open(server.dir + '/server.key') as k, open(server.dir + '/server.crt', 'a') as c:
            c.write(k.read())
    both = start('', lambda s: (join(s), s.flags.__setitem__(
        2, 'ssl_chain_cert=@DIR@/server.crt')))
    expect('in the chain', both == 'END\r\n', both)
    locked = start('ssl_key=@DIR@/locked.key', lambda s: key(
        s, '-aes128', '-passout', 'pass:secret', '-out', s.dir + '/locked.key'))
    expect('with a passphrase', "didn't start: 64" in locked and 'Error loading the key' in locked,
           locked)
    none = start('ssl_ca_cert=@DIR@/none.crt', lambda s: None)
    expect('no CA', "didn't start: 64" in none and 'Error loading the CA certificate' in none, none)
    cipher = start('ssl_ciphers=zork', lambda s: None)
    expect('no such cipher', 'Error setting the provided cipher(s): zork' in cipher, cipher)


def sessions_are_resumed():
    for cache in (False, True):
        with TlsServer('ssl_session_cache' if cache else '') as server:
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                context = server.context()
                context.minimum_version = context.maximum_version = version
                with server.tls(context) as s:
                    ask(s, b'get a\r\n')
                    session = s.session
                with server.tls(context, session=session) as s:
                    expect('answered', ask(s, b'get a\r\n') == b'END\r\n')
                    expect('resumed', s.session_reused == cache, (version, cache))
            stats = server.stats()
            expect('counted', ('ssl_new_sessions' in stats) == cache)
            if cache:
                expect('both', int(stats['ssl_new_sessions']) >= 2, stats['ssl_new_sessions'])


def allocated(server):
    """heap_connections_bytes, heap_allocated_bytes, bytes of memory."""
    s = server.stats(b'extant')
    return int(s['heap_connections_bytes']), int(s['heap_allocated_bytes']), server.rss_kb() * 1024


def connections_are_counted():
    """heap_connections_bytes contains what OpenSSL allocates for a connection, and it is freed."""
    count = 200
    with TlsServer(flags=['-t', '2', '-c', '1000']) as server:
        with server.tls() as s:
            ask(s, b'get a\r\n')
        counted, allocated_before, _ = allocated(server)
        clients = [server.tls() for _ in range(count)]
        for s in clients:
            ask(s, b'get a\r\n')
        more, allocated_now, _ = [(now - then) / count for now, then in zip(
            allocated(server), (counted, allocated_before, 0))]
        print('       %d bytes for each of %d idle connections, of %d that were allocated' % (
            more, count, allocated_now))
        expect('most of it', 'asan' in BINARY or allocated_now * 0.7 < more < allocated_now * 1.05 + 4096, (more, allocated_now))
        for s in clients:
            s.close()
        expect('given back', wait_for(lambda: allocated(server)[0] < counted + 10 * more),
               (counted, allocated(server)))


def clients_that_do_not_read():
    """400 ask for 1 MB each, from flash, and don't read it: a record's bytes are kept for each, others are
    served, and those that read later get every byte. Afterwards all of it is freed."""
    size, values, count = 1000000, 100, 400
    flags = ['-m', '64', '-t', '2', '-I', '2m', '-c', '1000',
             '-o', 'ext_path=@DIR@/flash:512m,ext_page_size=16,ext_item_age=0']
    with TlsServer(flags=flags) as server, server.tls() as honest:
        for i in range(values):
            ask(honest, b'set big%d 0 0 %d\r\n%s\r\n' % (i, size, value_of(i, size)), b'\r\n')
        expect('on flash', wait_for(lambda: int(server.stats(b'extant')['flash_objects']) >= values),
               server.stats(b'extant'))
        ask(honest, b'get big0\r\n')
        idle = [server.tls() for _ in range(count)]
        for s in idle:
            ask(s, b'get none\r\n')
        counted, _, before = allocated(server)
        for i, s in enumerate(idle):
            s.sendall(b'get big%d\r\n' % (i % values))
        expect('all have asked', wait_for(lambda: int(server.stats()['get_hits']) >= count // 2))
        for i in range(0, values, 10):
            expect('others are served', ask(honest, b'get big%d\r\n' % i) ==
                   b'VALUE big%d 0 %d\r\n%s\r\nEND\r\n' % (i, size, value_of(i, size)), i)
        now_counted, _, now = allocated(server)
        print('       %d clients x 1 MB unread: RSS +%.1f MB, +%.1f MB counted' % (
            count, (now - before) / 1e6, (now_counted - counted) / 1e6))
        bound = 2 * (size + 100000) + count * 24576 + 8e6  # a value for each thread, a record for each client
        expect('memory', now - before < bound or 'asan' in BINARY, (now - before, bound))
        expect('counted', now_counted - counted < count * 24576 + 4e6, now_counted - counted)
        for i in range(0, count, 40):
            expect('a client that reads late gets everything', read_until(idle[i], b'END\r\n') ==
                   b'VALUE big%d 0 %d\r\n%s\r\nEND\r\n' % (i % values, size, value_of(i % values, size)), i)
        for s in idle:
            s.close()
        expect('nothing is left', wait_for(lambda: allocated(server)[0] < counted), allocated(server))


def keys_are_updated():
    """A client that asks for new keys in the middle of a pipeline gets all replies, and an answer to that."""
    value = value_of(7, 5000)
    with TlsServer() as server:
        clear(server, b'set a 0 0 5000\r\n' + value + b'\r\n', b'\r\n')
        client = subprocess.Popen(
            ['openssl', 's_client', '-connect', '127.0.0.1:%d' % server.tls_port, '-msg',
             '-CAfile', os.path.join(server.dir, 'ca.crt')],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            os.set_blocking(client.stdout.fileno(), False)
            shown = bytearray()

            def has_shown(what, times):
                shown.extend(client.stdout.read() or b'')
                return shown.count(what) >= times
            for i in range(1, 4):
                client.stdin.write(b'get a\n')
                client.stdin.flush()
                expect('a value', wait_for(lambda: has_shown(b'END\r\n', i)), bytes(shown[-300:]))
                client.stdin.write(b'K\n')
                client.stdin.flush()
                expect('asked for new keys', wait_for(lambda: has_shown(b'>>> TLS 1.3, Handshake [length 0005], KeyUpdate', i)),
                       bytes(shown[-300:]))
            client.stdin.write(b'get a\n')
            client.stdin.flush()
            expect('a value at the end', wait_for(lambda: has_shown(b'END\r\n', 4)), bytes(shown[-300:]))
            expect('its keys are new, too', shown.count(b'<<< TLS 1.3, Handshake [length 0005], KeyUpdate') == 3,
                   shown.count(b'KeyUpdate'))
        finally:
            client.kill()
            client.wait()
            client.stdin.close()
            client.stdout.close()


def stops_in_the_middle_of_replies():
    """Pieces of pipelines, so that most turns end with replies that the next one would send. Freed memory is
    filled (jemalloc), so that its use ends the process."""
    request = (b'get ' + b' '.join(b'k%d' % i for i in range(60)) + b'\r\n') * 39
    environ = dict(os.environ)

    def ask_on(sock, answered):
        with contextlib.suppress(OSError):
            while True:
                sock.sendall(request)
                if not sock.recv(1 << 16):
                    return
                answered.set()

    for i in range(8):
        os.environ['MALLOC_CONF'] = 'junk:true'
        try:
            server = TlsServer(flags=['-t', '1', '-R', '20'], name='tls-stop')
            server.start()
        finally:
            os.environ.clear()
            os.environ.update(environ)
        socks = [server.tls() for _ in range(8)]
        answered = [threading.Event() for _ in socks]
        threads = [threading.Thread(target=ask_on, args=each) for each in zip(socks, answered)]
        for t in threads:
            t.start()
        all_answered = all(e.wait(120) for e in answered)
        code = server.stop()
        for t in threads:
            t.join()
        for s in socks:
            s.close()
        expect('answers, stop %d' % i, all_answered)
        expect('stop %d' % i, code == 0, code)


def kernel_tls_is_no_hindrance():
    with TlsServer('ssl_kernel_tls') as server, server.tls() as s:
        value = value_of(1, 100000)
        ask(s, b'set a 0 0 100000\r\n' + value + b'\r\n', b'\r\n')
        expect('a value', ask(s, b'get a\r\n') == b'VALUE a 0 100000\r\n' + value + b'\r\nEND\r\n')
        expect('shown', server.stats(b'settings')['ssl_kernel_tls'] == 'yes')
        has_it = os.path.exists('/proc/net/tls_stat')
        expect('told when it is missing', ('this kernel has no TLS' in server.log_tail()) != has_it,
               server.log_tail())


KERNEL_WITH_TLS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/tls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#define OVERRIDE(type, name, args) type name args

/* A kernel that has TLS, for sending, and doesn't encrypt. */
OVERRIDE(int, setsockopt, (int fd, int level, int name, const void *value, socklen_t len))
{
    int (*real)(int, int, int, const void *, socklen_t) = dlsym(RTLD_NEXT, "setsockopt");
    if (level == IPPROTO_TCP && name == TCP_ULP)
        return 0;
    if (level == 282) /* SOL_TLS */
        return name == TLS_TX ? 0 : -1;
    return real(fd, level, name, value, len);
}
"""


@contextlib.contextmanager
def preloaded(library):
    os.environ['LD_PRELOAD'] = library
    try:
        yield
    finally:
        del os.environ['LD_PRELOAD']


def kernel_tls_is_given_the_clear_bytes():
    """Where the kernel makes the records, it gets the replies as they are: whole, in order."""
    if 'asan' in BINARY or not shutil.which('cc'):
        print('       skipped: no compiler, or a server that bears no preloaded library')
        return
    value = value_of(3, 50000)
    server = TlsServer('ssl_kernel_tls')
    source, shim = (os.path.join(server.dir, 'kernel.' + end) for end in ('c', 'so'))
    with open(source, 'w') as f:
        f.write(KERNEL_WITH_TLS)
    subprocess.run(['cc', '-shared', '-fPIC', '-o', shim, source], check=True, timeout=120)
    with preloaded(shim), server:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = server.context().wrap_bio(incoming, outgoing, server_hostname='localhost')
        with socket.create_connection(('127.0.0.1', server.tls_port), timeout=120) as s:
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    s.sendall(outgoing.read())
                    incoming.write(s.recv(1 << 16))
            tls.write(b'set a 0 0 50000\r\n' + value + b'\r\nget a\r\nget b\r\n')
            s.sendall(outgoing.read())
            got = read_until(s, b'END\r\nEND\r\n')
            expect('in the clear', got == b'STORED\r\nVALUE a 0 50000\r\n' + value + b'\r\nEND\r\nEND\r\n', got[:100])


def hello_of(server):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = server.context().wrap_bio(incoming, outgoing, server_hostname='localhost')
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def stalled_handshakes_are_bounded():
    """One worker: clients that stop in the middle cost no more than TLS_GREETING_MAX of them, keep nobody
    out, and are closed in time; so are those that say nothing."""
    if not servers.has_descriptors(2100):
        return
    with TlsServer(flags=['-t', '1', '-c', '2000']) as server:
        hello = hello_of(server)
        with server.tls() as s:
            ask(s, b'get a\r\n')
        before = server.rss_kb()
        stalled = []
        for i in range(2 * LIMIT):
            s = socket.create_connection(('127.0.0.1', server.tls_port))
            s.sendall(hello if i % 2 else hello[:100])
            stalled.append(s)
        silent = [socket.create_connection(('127.0.0.1', server.tls_port)) for _ in range(100)]
        with server.tls() as s:  # the oldest give way
            expect('served nevertheless', ask(s, b'get a\r\n') == b'END\r\n')
        expect('in the clear, too', server.command(b'get a') == b'END\r\n')
        grown = server.rss_kb() - before
        expect('memory', grown < LIMIT * 128 or 'asan' in BINARY, '%d KB for %d handshakes' % (grown, LIMIT))
        print('       %d KB for %d stalled handshakes and 100 silent clients' % (grown, 2 * LIMIT))
        server.command(b'debugtime %d' % (PATIENCE + 2))

        def is_closed(sock):
            sock.settimeout(120)
            try:
                while sock.recv(65536):
                    pass
            except ConnectionResetError:
                pass
            except TimeoutError:
                return False
            return True
        expect('closed', all(is_closed(s) for s in stalled + silent))
        expect('counted', wait_for(lambda: int(server.stats()['ssl_handshake_errors']) == 2 * LIMIT),
               server.stats()['ssl_handshake_errors'])
        expect('nobody is left', wait_for(
            lambda: int(server.stats()['curr_connections']) <= 3, 20), server.stats())


def dumps_and_watchers():
    with TlsServer() as server, server.tls() as s:
        n = 5000
        for i in range(0, n, 500):
            s.sendall(b''.join(b'set key%05d 0 0 1 noreply\r\nx\r\n' % k for k in range(i, i + 500)))
        ask(s, b'mn\r\n', b'MN\r\n')
        got = ask(s, b'lru_crawler metadump all\r\n')
        expect('a dump', got.count(b'key=key') == n, got[-200:])
        expect('and on', ask(s, b'get key00001\r\n') == b'VALUE key00001 0 1\r\nx\r\nEND\r\n')
        s.sendall(b'lru_crawler mgdump all\r\nget key00002\r\n')
        got = read_until(s, b'x\r\nEND\r\n')
        expect('another, with a request behind', got.count(b'mg key') == n, got[-200:])
        with server.tls() as watcher:
            expect('watching', ask(watcher, b'watch fetchers\r\n', b'OK\r\n') == b'OK\r\n')
            expect('a state', 'conn_watch' in str(server.stats(b'conns')), server.stats(b'conns'))
            ask(s, b'get key00003\r\n')
            line = read_until(watcher, b'\n')
            expect('a line', b'type=item_get key=key00003 status=found' in line, line)
        expect('it is gone', wait_for(lambda: server.stats()['log_watchers'] == '0'))
        gone = server.tls()
        gone.sendall(b'lru_crawler metadump all\r\n')
        gone.close()
        expect('a dump without reader', wait_for(
            lambda: ask(s, b'lru_crawler metadump all\r\n', b'\r\n')[:4] != b'BUSY'))
        expect('all are counted out', wait_for(
            lambda: int(server.stats()['curr_connections']) <= 4, 20), server.stats())


def with_dropped_privileges():
    """All that TLS needs of the kernel is allowed: handshakes, new certificates, dumps, watchers."""
    with TlsServer('drop_privileges,ssl_kernel_tls') as server, server.tls() as s:
        value = value_of(1, 50000)
        got = ask(s, b'set a 0 0 50000\r\n' + value + b'\r\nget a\r\n')
        expect('a value', got == b'STORED\r\nVALUE a 0 50000\r\n' + value + b'\r\nEND\r\n', len(got))
        expect('certificates', ask(s, b'refresh_certs\r\n', b'\r\n') == b'OK\r\n')
        got = ask(s, b'lru_crawler metadump all\r\n')
        expect('a dump', got.count(b'key=a ') == 1, got)
        with server.tls() as watcher:
            expect('a watcher', ask(watcher, b'watch fetchers\r\n', b'OK\r\n') == b'OK\r\n')
            ask(s, b'get a\r\n')
            expect('its line', b'key=a ' in read_until(watcher, b'\n'))
        expect('alive', server.process.poll() is None, server.log_tail())


def broken_records():
    """A client that sends rubbish after its handshake: counted, closed, nobody else notices."""
    with TlsServer() as server, server.tls() as other:
        s = server.tls()
        ask(s, b'get a\r\n')
        raw = socket.socket(fileno=s.detach())
        raw.sendall(b'\x17\x03\x03\x00\x20' + b'z' * 32)
        raw.settimeout(120)
        end = b'x'
        while end:
            try:
                end = raw.recv(4096)
            except ConnectionResetError:
                end = b''
        raw.close()
        expect('counted', server.stats()['ssl_proto_errors'] == '1', server.stats())
        expect('the other', ask(other, b'get a\r\n') == b'END\r\n')


def log_of(server):
    with open(server.log, encoding='latin-1') as f:
        return f.read()


def strangers_are_told_of():
    """One line each: the peer, what it seems to be, what helps. What memcached answers is answered."""
    hello = b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03' + b'r' * 20
    clear_port = (
        (hello, b'', 'speaks TLS to a port without TLS: it needs -Z'),
        (b'GET / HTTP/1.1\r\n', b'', 'speaks HTTP: this is not a web server'),
        (b'PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\nmn\r\nquit\r\n', b'ERROR\r\nMN\r\n',
         'sends a header of the PROXY protocol'),
        (b'\r\n\r\n\0\r\nQUIT\nquit\r\n', None, 'sends a header of the PROXY protocol'))
    tls_port = (
        (b'get a\r\n', b'', 'speaks without TLS to a port that requires it: -l notls:ADDRESS'),
        (b'\x80\x0a' + b'\0' * 22, b'', 'speaks the binary protocol without TLS'),
        (b'GET / HTTP/1.1\r\n\r\n', b'', 'speaks HTTP, without TLS'),
        (b'PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n' + hello, b'', 'sends a header of the PROXY protocol'))

    def meets(server, port, cases):
        for request, answer, told in cases:
            with socket.create_connection(('127.0.0.1', port)) as s:
                s.settimeout(120)
                name = re.compile(r'tcp:127.0.0.1:%d\b' % s.getsockname()[1])
                s.sendall(request)
                got = b''
                try:
                    while piece := s.recv(1000):
                        got += piece
                except ConnectionResetError:
                    pass
                expect('answer to %r' % request[:20], answer is None or got == answer, got)
            lines = [line for line in log_of(server).split('\n') if name.search(line)]
            expect('told of %r' % request[:20], len(lines) == 1 and told in lines[0], lines)

    with TlsServer() as server:
        meets(server, server.port, clear_port)
        meets(server, server.tls_port, tls_port)
        expect('counted', server.stats()['ssl_handshake_errors'] == '4', server.stats())
        for _ in range(100):
            with socket.create_connection(('127.0.0.1', server.port)) as s:
                s.sendall(b'GET / HTTP/1.1\r\n')
                s.recv(10)
        lines = log_of(server).count('speaks HTTP: this')
        expect('not more than a few', 2 <= lines <= 30, lines)
    with Server(BINARY, ['-B', 'ascii'], 'ascii', tcp=True) as server:
        meets(server, server.port, [
            (b'\x80\x0a' + b'\0' * 22, b'', 'speaks the binary protocol, which is refused: -B auto')])
    with Server(BINARY, ['-B', 'binary'], 'binary', tcp=True) as server:
        meets(server, server.port, [
            (b'get a\r\n', b'', 'speaks the text protocol, which is refused: -B auto')])


def main():
    shown = subprocess.run([BINARY, '-h'], capture_output=True, text=True, timeout=120).stdout
    if '--enable-ssl' not in shown:
        print('built without TLS')
        return 77
    return servers.run_scenarios([
        conversation, long_replies_keep_their_order, thousands_in_a_pipeline, records_are_filled,
        listeners, clients_are_verified, versions_and_ciphers, certificates_are_replaced,
        keys_of_each_kind, keys_are_updated, sessions_are_resumed, kernel_tls_is_no_hindrance,
        stops_in_the_middle_of_replies,
        kernel_tls_is_given_the_clear_bytes,
        connections_are_counted, clients_that_do_not_read, stalled_handshakes_are_bounded,
        dumps_and_watchers, with_dropped_privileges, broken_records,
        strangers_are_told_of])


if __name__ == '__main__':
    sys.exit(main())
