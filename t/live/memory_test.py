#!/usr/bin/env python3
"""Memory: which allocator is in use, where each byte is, and that it stays bounded.

EXTANT names the binary. Exit 0: all right; 1: not.
"""

import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'aid'))
import servers  # noqa: E402
from servers import Client, expect, wait_for  # noqa: E402

BINARY = os.environ.get('EXTANT', './extant')
MB = 1 << 20


def value_of(number, size):
    word = b'%07d-' % number
    return (word * (size // len(word) + 1))[:size]


def server_with(*flags, **more):
    return servers.Server(BINARY, list(flags), 'memory', **more)


def figures(server):
    return {name: int(value) if value.isdigit() else value
            for name, value in server.stats(b'extant').items()}


def the_allocator_is_linked():
    """The linker once dropped it from a release build, because nothing names it."""
    linked = subprocess.run(['ldd', BINARY], capture_output=True, text=True, timeout=120).stdout
    expect('ldd names it', 'libjemalloc' in linked, linked)
    with server_with('-m', '16') as server:
        s = server.stats(b'extant')
        expect('it is the one in use', s['allocator'].startswith('jemalloc '), s['allocator'])


def check_sum(what, server):
    s = figures(server)
    rss = s['rss_bytes']
    named = s['resident_arena_bytes'] + s['resident_heap_bytes'] + s['resident_program_bytes']
    expect('%s: the sum is rss_bytes' % what, named + s['resident_other_bytes'] == rss, s)
    real = server.rss_kb() * 1024
    expect('%s: rss_bytes is what the kernel says' % what, abs(rss - real) < 0.03 * real, (rss, real))
    expect('%s: 97%% of it has a name' % what, named > 0.97 * rss, s)
    expect('%s: in use is what is held, or less' % what,
           0 < s['heap_connections_bytes'] < s['heap_allocated_bytes'], s)
    return s


def where_each_byte_is():
    flash = 'ext_path=@DIR@/flash:256m,ext_page_size=8,ext_wbuf_size=2'
    for name, flags in (('RAM', ()), ('flash', ('-o', flash)),
                        ('-e', ('-e', '/dev/shm/extant-memory-%d' % os.getpid(), '-o', flash))):
        try:
            with server_with('-m', '64', '-t', '2', *flags) as server:
                client = Client(server)
                for i in range(1000):
                    client.set(b'k%d' % i, value_of(i, 100000))
                s = check_sum(name + ', full', server)
                expect(name + ': items are most of it', s['resident_arena_bytes'] > 50 * MB, s)
                client.close()
        finally:
            if flags and flags[0] == '-e':
                os.unlink(flags[1])


def fill_flash(server, count, size):
    """Values 0..count-1, all on flash afterwards."""
    client = Client(server)
    for i in range(count):
        assert client.set(b'big%d' % i, value_of(i, size))
    client.close()
    expect('all are on flash', wait_for(lambda: int(server.stats(b'extant')['flash_objects']) >= count),
           server.stats(b'extant'))


def read_value(sock, number, size, pace=None):
    """The answer to a get, slowly with pace: bytes a read. True: as it should be."""
    want = b'VALUE big%d 0 %d\r\n%s\r\nEND\r\n' % (number, size, value_of(number, size))
    got = bytearray()
    while len(got) < len(want):
        piece = sock.recv(pace or 1 << 20)
        if not piece:
            return False
        got += piece
    return got == want


def clients_that_do_not_read():
    """400 of them ask for 1 MB each: memory stays where it was, others are served at once, and those that read
    later get every byte. When they disconnect, what they used is freed."""
    size, values, count = 1000000, 200, 400
    flags = ('-m', '64', '-t', '2', '-I', '2m', '-c', '1000', '-o', 'ext_path=@DIR@/flash:512m,ext_page_size=16,'
             'ext_item_age=0')
    for tcp in (False, True):
        name = 'TCP' if tcp else 'unix'
        with server_with(*flags, tcp=tcp) as server:
            fill_flash(server, values, size)
            Client(server).get(b'big0')
            before = server.rss_kb() * 1024
            deaf = [server.connect() for _ in range(count)]
            for i, s in enumerate(deaf):
                s.settimeout(120)
                s.sendall(b'get big%d\r\n' % (i * 7 % values))
            expect(name + ': all have asked', wait_for(lambda: int(server.stats()['get_hits']) >= count // 2))
            fresh = Client(server)
            for i in range(0, values, 20):
                expect(name + ': others are served', fresh.get(b'big%d' % i) == value_of(i, size))
            s = figures(server)
            bound = 2 * (size + 100000) + 8 * MB  # a value for each thread; connections, allocator
            grown = s['rss_bytes'] - before
            expect(name + ': it takes what README says', grown < bound, (grown / MB, s))
            expect(name + ': values are counted', s['heap_values_bytes'] <= 2 * (size + 100000), s)
            if not tcp:  # whose kernel takes a megabyte for each
                expect(name + ': they are put away, not refused', s['ext_reads_put_away'] > 0, s)
            print('# %s: %d clients x 1 MB unread: RSS +%.1f MB' % (name, count, grown / MB), flush=True)
            for i in range(0, count, 40):
                expect(name + ': a client that reads late gets everything', read_value(deaf[i], i * 7 % values, size), i)
            for s in deaf:
                s.close()
            fresh.close()
            expect(name + ': RSS is back within seconds',
                   wait_for(lambda: server.rss_kb() * 1024 < before * 1.05 + MB),
                   (before, server.rss_kb() * 1024))
            print('# %s: after they left: RSS %+.1f MB' % (
                name, (server.rss_kb() * 1024 - before) / MB), flush=True)


def one_copy_is_shared():
    """100 clients that want the same 1 MB at once cost one copy for each thread, and a few reads."""
    size, count = 1000000, 100
    with server_with('-m', '64', '-t', '2', '-I', '2m', '-o', 'ext_path=@DIR@/flash:256m,ext_page_size=16,'
                     'ext_item_age=0,ext_recache_rate=0') as server:
        fill_flash(server, 40, size)
        before = figures(server)
        clients = [server.connect() for _ in range(count)]
        for s in clients:
            s.settimeout(120)
            s.sendall(b'get big5\r\n')
        expect('all get it', all(read_value(s, 5, size) for s in clients))
        after = figures(server)
        reads = after['ext_device_reads'] - before['ext_device_reads']
        shared = after['ext_reads_shared'] - before['ext_reads_shared']
        expect('most of it was shared', shared > count // 2 and reads + shared >= 2, (reads, shared))
        print('# %d gets: %d reads of the device, %d shared' % (count, reads, shared), flush=True)
        for s in clients:
            s.close()


def large_objects_are_changed_in_little_memory():
    """Values of which one fits into -m: with -e a change is made in a copy, and there was no room for two."""
    size, count = 3900000, 20
    memory = '/dev/shm/extant-memory-%d' % os.getpid()
    try:
        with server_with('-m', '8', '-t', '2', '-I', '4m', '-e', memory, '-o',
                         'ext_path=@DIR@/flash:512m,ext_page_size=16,ext_item_age=0') as server:
            fill_flash(server, count, size)
            client = Client(server)
            before = figures(server)
            for i in range(count):
                for request, answer in ((b'md big%d I T300', b'HD'), (b'md big%d I', b'HD'),
                                        (b'touch big%d 500', b'TOUCHED'), (b'mg big%d s T400', b'HD s%d X W' % size),
                                        (b'ms big%d 1 MA\r\ny', b'HD'), (b'mg big%d s', b'HD s%d' % (size + 1)),
                                        (b'md big%d x', b'HD'), (b'mg big%d s', b'HD s0')):
                    said = client.ask(request % i)
                    expect((request % i).decode(), said == answer, said)
            after = figures(server)
            written = after['ext_device_bytes_written'] - before['ext_device_bytes_written']
            expect('not written over and over', written < 8 * count * size, written)
            print('# %d objects of 3.9 MB changed 6 times in 8 MB: %d MB written' % (count, written / MB),
                  flush=True)
            client.close()
    finally:
        if os.path.exists(memory):
            os.unlink(memory)


def outside_of_arena(server):
    s = figures(server)
    return s['rss_bytes'] - s['arena_touched_bytes']


def bursts_give_their_memory_back():
    """Three bursts of 1,500 connections that ask for much, half of which never read, and a soak in between: RSS is
    back within 20% of what it was after the first keys were stored. What the arena has touched is left out: on a slow
    disk values stay in memory for longer, and take more of what -m allows."""
    if not servers.has_descriptors(4100):
        return
    flags = ('-m', '64', '-t', '2', '-c', '4000', '-o', 'ext_path=@DIR@/flash:256m,ext_item_age=0')
    with server_with(*flags) as server:
        fill_flash(server, 300, 100000)
        client = Client(server)
        for i in range(300):
            client.get(b'big%d' % i)
        before, outside = server.rss_kb() * 1024, outside_of_arena(server)
        for burst in range(3):
            crowd = []
            for i in range(1500):
                s = server.connect()
                s.settimeout(120)
                s.sendall(b'get big%d\r\nget big%d nothing\r\nset half%d 0 0 20000\r\n%s' % (
                    i % 300, (i + burst) % 300, i, b'x' * 5000))
                crowd.append(s)
            expect('burst %d: all are there' % burst,
                   wait_for(lambda: int(server.stats()['curr_connections']) > 1500))
            for i in range(0, 1500, 2):
                got = b''
                while got.count(b'\r\nEND\r\n') < 2:  # a set that finds no memory is answered before its value is there
                    piece = crowd[i].recv(1 << 20)
                    expect('burst %d: client %d is served' % (burst, i), piece, got[-100:])
                    got += piece
            for s in crowd:
                s.close()
            expect('burst %d: all are gone' % burst,
                   wait_for(lambda: int(server.stats()['curr_connections']) < 10))
            for i in range(3000):  # the soak: values of all sizes come and go
                client.set(b'soak%d' % (i % 100), b'y' * (i * 37 % 60000))
            client.ask(b'get big1 big2')
            client.close()
            client = Client(server)
        back = wait_for(lambda: outside_of_arena(server) < outside + before * 0.2 + MB)
        now = figures(server)
        expect('RSS is back within 20%', back, (before, outside, now))
        print('# 3 bursts of 1500 connections: RSS %+.1f%%, without the arena %+.1f MB' % (
            100 * (now['rss_bytes'] / before - 1), (outside_of_arena(server) - outside) / MB), flush=True)


SCENARIOS = (bursts_give_their_memory_back, the_allocator_is_linked, where_each_byte_is, clients_that_do_not_read, one_copy_is_shared,
             large_objects_are_changed_in_little_memory)

if __name__ == '__main__':
    sys.exit(servers.run_scenarios(SCENARIOS))
