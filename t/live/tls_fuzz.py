#!/usr/bin/env python3
"""Bytes before, inside and after a TLS handshake that no client would send: the server closes, counts and
goes on. A fixed seed; EXTANT_ASAN_BIN names the server, arguments are a seed and a number of rounds. Exit
77: no TLS here.

Each round is one connection. Its bytes are those of a good client, whose flights are changed on the way: bits
flipped, pieces cut out, doubled, swapped, split anywhere, put into records of wrong lengths and types; or garbage
in place of them.
"""

import os
import random
import socket
import ssl
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'aid'))
from servers import PATIENCE_SECONDS, Server, make_cert, wait_for  # noqa: E402

TOP = os.path.dirname(os.path.dirname(HERE))
BINARY = os.environ.get('EXTANT_ASAN_BIN', os.path.join(TOP, 'build/extant-asan'))
REQUEST = b'set k 0 0 3\r\nabc\r\nget k\r\nquit\r\n'


def bend(rnd, data):
    """One thing is wrong with it."""
    out = bytearray(data)
    if not out:
        return b''
    at = rnd.randrange(len(out))
    to = min(len(out), at + rnd.choice((1, 2, 5, 40, 300)))
    kind = rnd.randrange(9)
    if kind == 0:
        out[at] ^= 1 << rnd.randrange(8)
    elif kind == 1:
        out[at:to] = rnd.randbytes(to - at)
    elif kind == 2:
        del out[at:to]
    elif kind == 3:
        out[at:at] = out[at:to] * rnd.choice((1, 3, 50))
    elif kind == 4:
        del out[at:]
    elif kind == 5:  # the record's length
        out[3:5] = rnd.choice((b'\0\0', b'\xff\xff', b'\x40\x00', b'\x41\x01', rnd.randbytes(2)))
    elif kind == 6:  # its type and version
        out[0:3] = rnd.choice((b'\x14\x03\x03', b'\x15\x03\x03', b'\x17\x03\x03', b'\x18\x03\x03',
                               b'\x16\x03\x00', b'\x16\x02\x00', rnd.randbytes(3)))
    elif kind == 7:  # one of another sort before it
        out[0:0] = rnd.choice((b'\x15\x03\x03\x00\x02\x01\x00', b'\x15\x03\x03\x00\x02\x02\x28',
                               b'\x14\x03\x03\x00\x01\x01', b'\x17\x03\x03\x00\x00',
                               b'\x16\x03\x03\x00\x00' * 40))
    else:  # lengths inside the message
        for _ in range(4):
            out[rnd.randrange(len(out))] = rnd.choice((0, 0xff, 0x7f, 0x80))
    return bytes(out)


def rubbish(rnd):
    first = rnd.choice((b'\x16', b'\x16\x03', b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc', b'\x80\x2e\x01\x03',
                        b'get a\r\n', b'PROXY ', b'\x80', b'\0', b''))
    return first + rnd.randbytes(rnd.choice((0, 1, 4, 11, 600, 20000)))


def send(rnd, sock, data):
    """Sends in pieces of any size; what the server no longer takes is dropped."""
    while data:
        n = rnd.choice((1, 3, 5, 6, 100, 1 << 16))
        sock.sendall(data[:n])
        data = data[n:]


def talk(rnd, port, context, bent):
    """Whether the conversation came to its good end. bent: the flight that is bent, or None."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname='localhost')
    flight, got, greeted = 0, b'', False
    with socket.create_connection(('127.0.0.1', port)) as sock:
        sock.settimeout(PATIENCE_SECONDS)
        while True:
            try:
                if not greeted:
                    tls.do_handshake()
                    tls.write(REQUEST)
                    greeted = True
                while piece := tls.read(4096):
                    got += piece
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                return False
            data = outgoing.read()
            is_flight = bool(data)
            if is_flight and flight == bent:
                data = bend(rnd, data)  # perhaps to nothing
            flight += is_flight
            if got.endswith(b'END\r\n'):
                return True
            send(rnd, sock, data)
            if flight > (bent if bent is not None else 9):
                sock.shutdown(socket.SHUT_WR)  # what was cut off doesn't come
            piece = sock.recv(65536)
            if not piece:
                return False
            incoming.write(piece)


def main():
    shown = subprocess.run([BINARY, '-h'], capture_output=True, text=True, timeout=PATIENCE_SECONDS).stdout
    if '--enable-ssl' not in shown:
        print('skipped: built without TLS')
        return 77
    seed = int(sys.argv[1]) if sys.argv[1:] else 1
    rounds = int(sys.argv[2]) if sys.argv[2:] else 1500
    rnd = random.Random(seed)
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    server = Server(BINARY, ['-t', '2', '-Z', '-o', 'ssl_chain_cert=@DIR@/server.crt,ssl_key=@DIR@/'
                             'server.key,ssl_session_cache,ssl_verify_mode=1,ssl_ca_cert=@DIR@/server.crt',
                             '-l', '127.0.0.1:%d,notls:127.0.0.1:0' % port], 'tls-fuzz', tcp=True)
    cert = make_cert(server.dir)
    contexts = []
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cafile=cert[0])
        context.load_cert_chain(*cert)
        context.minimum_version = context.maximum_version = version
        contexts.append(context)
    counts = {'good': 0, 'ended': 0, 'rubbish': 0}
    with server:
        with open(server.dir + '/ports') as f:
            server.port = [int(line.split(':')[1]) for line in f if line.startswith('TCP')][-1]
        for i in range(rounds):
            context = contexts[i % 2]
            try:
                if rnd.randrange(4) == 0:
                    counts['rubbish'] += 1
                    with socket.create_connection(('127.0.0.1', port)) as sock:
                        send(rnd, sock, rubbish(rnd))
                else:
                    good = talk(rnd, port, context, rnd.randrange(3))
                    counts['good' if good else 'ended'] += 1
            except TimeoutError:
                print('not ok: it waits in round %d, seed %d' % (i, seed))
                return 1
            except OSError:
                counts['ended'] += 1
            if i % 100 == 0 and not talk(rnd, port, context, None):
                print('not ok: a good client is not served in round %d, seed %d' % (i, seed))
                return 1
        stats = server.stats()
        gone = wait_for(lambda: int(server.stats()['curr_connections']) <= 3)  # two listeners, and this one
        errors = int(stats['ssl_handshake_errors']) + int(stats['ssl_proto_errors'])
        print('%d rounds, seed %d: %s, %d errors counted' % (rounds, seed, counts, errors))
        code = server.process.poll()
        if code is not None or not gone or errors < rounds // 4 or counts['good'] == 0:
            print('not ok: exit code %s, connections %s' % (code, stats['curr_connections']))
            return 1
        if server.stop() != 0:
            print('not ok: no clean stop')
            return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
