#!/usr/bin/env python3
"""Memory that was promised: which allocator it is, where each byte is.

EXTANT names the binary. Exit 0: all right; 1: not.
"""

import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'aid'))
import servers  # noqa: E402
from servers import Client, expect  # noqa: E402

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
    """A release build once lost it to the linker, which drops what nothing names."""
    linked = subprocess.run(['ldd', BINARY], capture_output=True, text=True, timeout=30).stdout
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


SCENARIOS = (the_allocator_is_linked, where_each_byte_is)

if __name__ == '__main__':
    sys.exit(servers.run_scenarios(SCENARIOS))
