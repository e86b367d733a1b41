#!/usr/bin/env python3
"""Flash that stalls: a device takes a read or a write and doesn't answer.

A stop waits only for what the device has by then, whatever waits behind it, and a second signal ends it. One of three
devices that stalls delays no get of what is on the others. Clients that leave take their reads along, and those that have
probably left are served last. What a stop with ext_persist can't write is dropped; the rest stays.

The flash files are on a faultfs (scripts/faultfs.c), whose stalls last until they are told to end. Skips where FUSE can't
mount. Exit 0: all right; 1: not.
"""

import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'aid'))
import faultfs  # noqa: E402
import servers  # noqa: E402
from servers import Client, Server, expect, wait_for  # noqa: E402

BINARY = os.environ.get('EXTANT', './extant')
DIRECTORY = tempfile.mkdtemp(prefix='extant-stalls.')
FOR_EVER = 'arm=1 stall_ms=3600000 '
VALUE = b'x' * 8000
ENGINES = ('auto', 'threads')  # auto: io_uring where the kernel allows it


def flags(mounts, engine='auto', more='', megabytes=64):
    paths = ','.join('ext_path=%s/flash:%dm' % (m.point, megabytes) for m in mounts)
    return ['-m', '16', '-t', '2', '-o', 'ext_page_size=2,ext_wbuf_size=1,ext_item_size=512,ext_item_age=0,ext_threads=2,'
            'ext_io_engine=%s,%s%s' % (engine, paths, more)]


@contextlib.contextmanager
def serving(mounts, engine='auto', more='', tcp=False):
    """A server whose mounts end their stalls before it is stopped."""
    server = Server(BINARY, flags(mounts, engine, more), name='stalls', tcp=tcp)
    with server:
        try:
            yield server
        finally:
            for m in mounts:
                m.set('off')


def fill(server, count, prefix=b'k'):
    """Values, all of which are on the device when it returns."""
    client = Client(server)
    client.fill(prefix, count, VALUE)
    on_flash = wait_for(lambda: int(client.stats()['extstore_objects_used']) >= count - 400)
    expect('values are on flash', on_flash, client.stats().get('extstore_objects_used'))
    wait_for(lambda: client.stats(b'extant')['ext_wbufs_busy'] in ('0', '1'))
    return client


def states(client):
    """Of all connections."""
    return [text for name, text in client.stats(b'conns').items() if name.endswith(':state')]


def ask_many(server, keys):
    """A connection for each get."""
    asked = []
    for key in keys:
        s = server.connect()
        s.sendall(b'get %s\r\n' % key)
        asked.append(s)
    return asked


def has_value(sock):
    """Reads the whole answer to a get."""
    sock.settimeout(servers.PATIENCE_SECONDS)
    out = b''
    while not out.endswith(b'END\r\n'):
        piece = sock.recv(65536)
        if not piece:
            return False
        out += piece
    return out.startswith(b'VALUE')


def close_all(sockets):
    for s in sockets:
        s.close()


def stop_and_poke(server, mount):
    """SIGTERM. Then what the device has ends, again and again, while what comes after that stalls. The exit code, and how
    many reads and writes came in the meantime."""
    before = mount.counts()
    server.process.send_signal(signal.SIGTERM)
    seed = iter(range(2, 1 << 30))

    def ended():
        if server.process.poll() is not None:
            return True
        mount.set('seed=%d' % next(seed)) # stalls that are under way end; the next ones don't
        return False
    ends = wait_for(ended)
    code = server.process.poll()
    after = mount.counts()
    return code if ends else 'none', after['reads'] - before['reads'], after['writes'] - before['writes']


def a_stop_waits_only_for_writes_under_way():
    with faultfs.Mount(PROGRAM) as mount, serving([mount]) as server:
        client = fill(server, 2500)
        mount.set(FOR_EVER + 'write.stall=1/1')
        for i in range(1200):
            client.send(b'set new%d 0 0 8000 noreply\r\n%s\r\n' % (i, VALUE))
            if client.stats(b'extant')['ext_wbufs_free'] == '2': # all but those in reserve are on their way
                break
        code, _, writes = stop_and_poke(server, mount)
        expect('it stops', code == 0, code)
        expect('no write begins after that', writes <= 2, writes)


def a_stop_waits_only_for_reads_under_way(engine):
    with faultfs.Mount(PROGRAM) as mount, serving([mount], engine) as server:
        fill(server, 2500)
        mount.set(FOR_EVER + 'read.stall=1/1 reset')
        asked = ask_many(server, [b'k%d' % i for i in range(400)])
        wait_for(lambda: int(server.stats(b'extant')['ext_reads_waiting']) > 100)
        code, reads, _ = stop_and_poke(server, mount)
        close_all(asked)
        expect('%s: it stops' % engine, code == 0, code)
        expect('%s: no read begins after that' % engine, reads <= 16, reads)


def stops_wait_only_for_reads_under_way():
    for engine in ENGINES:
        a_stop_waits_only_for_reads_under_way(engine)


def a_second_signal_ends_a_stop():
    with faultfs.Mount(PROGRAM) as mount, serving([mount]) as server:
        fill(server, 2500)
        mount.set(FOR_EVER + 'read.stall=1/1 reset')
        asked = ask_many(server, [b'k1'])
        wait_for(lambda: mount.counts()['reads'] > 0)
        server.process.send_signal(signal.SIGTERM)

        def ended():
            server.process.send_signal(signal.SIGTERM)
            return 'ends at once' in server.log_tail()
        expect('the second signal is heard', wait_for(ended), server.log_tail())
        mount.set('off') # a process doesn't end before its last call of the system does
        close_all(asked)
        code = server.process.wait(servers.PATIENCE_SECONDS)
        expect('its exit code tells', code == 128 + signal.SIGTERM, code)


def is_answered(sock, key):
    sock.sendall(b'get %s\r\n' % key)
    try:
        return has_value(sock)
    except TimeoutError:
        return False


def one_device_stalls(engine):
    with contextlib.ExitStack() as stack:
        mounts = [stack.enter_context(faultfs.Mount(PROGRAM)) for _ in range(3)]
        server = stack.enter_context(serving(mounts, engine))
        client = fill(server, 6000)
        slow, quick = [], []
        mounts[0].set('reset')
        for i in range(0, 4000, 13): # whose read reaches the first device?
            before = mounts[0].counts()['reads']
            client.get(b'k%d' % i)
            (slow if mounts[0].counts()['reads'] > before else quick).append(b'k%d' % i)
        expect('%s: values are on all' % engine, len(slow) > 40 and len(quick) > 40, (len(slow), len(quick)))
        mounts[0].set(FOR_EVER + 'read.stall=1/1')
        asked = ask_many(server, slow[:40] * 5)
        expect('%s: reads wait' % engine,
               wait_for(lambda: int(server.stats(b'extant')['ext_reads_waiting']) > 20), server.stats(b'extant'))
        for n in range(4): # two connections of each worker
            with server.connect() as s:
                answered = all(is_answered(s, key) for key in quick[n::4][:10])
                expect('%s: others are answered' % engine, answered)
                if not answered:
                    break
        mounts[0].set('off')
        answers = sum(map(has_value, asked))
        expect('%s: and those of the slow one, once it answers' % engine, answers == len(asked), answers)
        close_all(asked)


def one_device_of_three_stalls():
    for engine in ENGINES:
        one_device_stalls(engine)


def ttl_of(client, key):
    """-1: it never expires."""
    client.send(b'mg %s t\r\n' % key)
    return int(client.line().split()[1][1:])


def clients_that_leave_take_their_reads_along():
    with faultfs.Mount(PROGRAM) as mount, serving([mount]) as server:
        client = fill(server, 2500)
        connections = int(client.stats()['curr_connections'])
        mount.set(FOR_EVER + 'read.stall=1/1 reset')
        asked = ask_many(server, [b'k%d' % i for i in range(500)])
        wait_for(lambda: int(client.stats(b'extant')['ext_reads_waiting']) > 100)
        close_all(asked)
        with_touch = [server.connect() for _ in range(8)]
        for i, s in enumerate(with_touch):
            s.sendall(b'gat 1000 k%d\r\n' % (1000 + i))
        wait_for(lambda: states(client).count('conn_io_queue') >= len(with_touch))
        close_all(with_touch)
        expect('their connections are closed while the device stalls',
               wait_for(lambda: int(client.stats()['curr_connections']) <= connections), client.stats()['curr_connections'])
        expect('only touches wait for a turn', wait_for(lambda: int(client.stats(b'extant')['ext_reads_waiting']) <= 8),
               client.stats(b'extant')['ext_reads_waiting'])
        before = mount.counts()['reads']
        mount.set('off')
        expect('another client is answered', client.get(b'k700') == VALUE)
        reads = mount.counts()['reads'] - before
        expect('and nothing is read for those that left', reads <= 40, reads)
        expect('but what they wanted to be touched is',
               wait_for(lambda: all(0 < ttl_of(client, b'k%d' % (1000 + i)) <= 1000 for i in range(len(with_touch)))),
               [ttl_of(client, b'k%d' % (1000 + i)) for i in range(len(with_touch))])


def watchers_hear_of_changes_whose_clients_left():
    """A change that was asked for is done, though its client leaves while it waits; and watchers see it."""
    with faultfs.Mount(PROGRAM) as mount, serving([mount]) as server:
        client, watcher = fill(server, 2500), Client(server)
        expect('it watches', watcher.ask(b'watch mutations deletions') == b'OK')
        connections = int(client.stats()['curr_connections'])
        mount.set(FOR_EVER + 'read.stall=1/1 reset')
        asked = [server.connect() for _ in range(2)]
        asked[0].sendall(b'append k1 0 0 1\r\nx\r\n')
        asked[1].sendall(b'delete k2\r\n')
        expect('they wait', wait_for(lambda: states(client).count('conn_io_queue') == 2), states(client))
        close_all(asked)
        expect('their connections are closed',
               wait_for(lambda: int(client.stats()['curr_connections']) <= connections), client.stats()['curr_connections'])
        mount.set('off')
        told = sorted(b' '.join(watcher.line().split()[2:5]) for _ in range(2))
        expect('watchers see both', told == [b'type=deleted key=k2 cmd=delete', b'type=item_store key=k1 status=stored'], told)
        expect('both are done', client.get(b'k1') == VALUE + b'x' and client.get(b'k2') is None)


def half_closed_clients_are_served_last():
    with faultfs.Mount(PROGRAM) as mount, serving([mount], tcp=True) as server:
        client = fill(server, 2500)
        mount.set(FOR_EVER + 'read.stall=1/1 reset')
        half = ask_many(server, [b'k%d' % i for i in range(500)])
        wait_for(lambda: int(client.stats(b'extant')['ext_reads_waiting']) > 100)
        for s in half:
            s.shutdown(socket.SHUT_WR)
        wait_for(lambda: int(client.stats(b'extant')['ext_reads_waiting']) > 100 and
                 states(client).count('conn_closing') >= 500)
        live = ask_many(server, [b'k%d' % i for i in range(900, 904)])
        wait_for(lambda: states(client).count('conn_io_queue') >= len(live))
        before = mount.counts()['reads']
        seed = iter(range(2, 1 << 30))
        answered = []
        for s in live:
            s.setblocking(False)

        def all_answered():
            mount.set('seed=%d' % next(seed))
            for s in live:
                with contextlib.suppress(BlockingIOError):
                    if s not in answered and s.recv(1):
                        answered.append(s)
            return len(answered) == len(live)
        expect('others are answered', wait_for(all_answered), len(answered))
        reads = mount.counts()['reads'] - before
        expect('before those that may have left', reads < 400, reads)
        mount.set('off')
        values = sum(map(has_value, half))
        expect('who closed only one half gets its value', values == len(half), values)
        close_all(half + live)


def what_a_stop_cannot_write_is_dropped_and_the_rest_stays():
    first = os.path.join(DIRECTORY, 'first') # with the checkpoint beside it; of a class that takes none of these values
    with faultfs.Mount(PROGRAM) as mount:
        options = flags([mount], more=',ext_persist')
        options[-1] = options[-1].replace('ext_path=', 'ext_path=%s:32m:coldcompact,ext_path=' % first, 1)
        with Server(BINARY, options, name='stalls') as server:
            fill(server, 2000)
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(servers.PATIENCE_SECONDS)
            server.start()
            client = Client(server)
            there = sum(client.get(b'k%d' % i) == VALUE for i in range(2000))
            expect('a clean stop keeps all', there == 2000, there)
            mount.set('arm=1 write.eio=1/1')
            client.fill(b'k', 300, b'y' * 8000)
            wait_for(lambda: client.stats(b'extant')['ext_wbufs_stuck'] != '0')
            server.process.send_signal(signal.SIGTERM)
            code = server.process.wait(servers.PATIENCE_SECONDS)
            log = server.log_tail()
            expect('it says what is dropped', code == 0 and 'are dropped, since flash did not take' in log, log)
            mount.set('off')
            server.start()
            client = Client(server)
            values = [client.get(b'k%d' % i) for i in range(2000)]
            old = sum(v == VALUE for v in values[:300])
            kept = sum(v == VALUE for v in values[300:])
            expect('no older value comes back', old == 0, old)
            expect('what was on flash stays', kept == 1700, (kept, server.log_tail()))


def a_device_that_stalls_is_named():
    for way in ('read', 'write'):
        with faultfs.Mount(PROGRAM) as mount, serving([mount]) as server:
            client = fill(server, 2500)
            mount.set(FOR_EVER + '%s.stall=1/1' % way)
            asked = ask_many(server, [b'k1']) if way == 'read' else []
            if way == 'write':
                client.fill(b'new', 300, VALUE)
            wait_for(lambda: client.stats(b'extant')['ext_degraded'] == 'yes')
            why = client.stats(b'extant')['ext_degraded_why']
            expect('%s: stats name it' % way, why.startswith(mount.point + '/flash: no answer for '), why)
            expect('%s: so does the log' % way, wait_for(lambda: 'device stalls: it has not answered' in server.log_tail()),
                   server.log_tail())
            mount.set('off')
            expect('%s: and when it answers' % way,
                   wait_for(lambda: 'device is back: it answers again' in server.log_tail()), server.log_tail())
            expect('%s: all is well' % way, wait_for(lambda: client.stats(b'extant')['ext_degraded'] == 'no'),
                   client.stats(b'extant')['ext_degraded_why'])
            close_all(asked)


def a_flush_all_that_is_noted_on_a_disk_that_stalls_stops_nobody():
    with faultfs.Mount(PROGRAM) as mount, serving([mount], more=',ext_persist=scan') as server:
        clients = [Client(server) for _ in range(4)] # two of each worker
        mount.set(FOR_EVER + 'write.stall=1/1')
        for client in clients:
            client.set(b'small', b'value')
            client.send(b'flush_all\r\n')
        for n, client in enumerate(clients):
            expect('it is answered', client.line() == b'OK', n)
        expect('the log says that it is not noted', 'a flush_all is not noted yet' in server.log_tail(), server.log_tail())
        expect('nothing is there', clients[0].get(b'small') is None)
        mount.set('off')
        expect('the next one is noted', clients[0].ask(b'flush_all') == b'OK')
        expect('and the server stops in order', server.stop() == 0)


if __name__ == '__main__':
    try:
        PROGRAM = faultfs.build(DIRECTORY)
        sys.exit(servers.run_scenarios([
            a_stop_waits_only_for_writes_under_way,
            stops_wait_only_for_reads_under_way,
            a_second_signal_ends_a_stop,
            one_device_of_three_stalls,
            clients_that_leave_take_their_reads_along, watchers_hear_of_changes_whose_clients_left,
            half_closed_clients_are_served_last,
            a_device_that_stalls_is_named,
            a_flush_all_that_is_noted_on_a_disk_that_stalls_stops_nobody,
            what_a_stop_cannot_write_is_dropped_and_the_rest_stays,
        ]))
    finally:
        shutil.rmtree(DIRECTORY, ignore_errors=True)
