#!/usr/bin/env python3
"""Memory that can't be had: the file system of -e FILE is too small or fills up, a control group allows less than -m, -m is
lowered. Items leave for flash then and the index grows in their place; nothing acknowledged is dropped while flash has room.

Values are read only after all writes: a read in between would bring items back and settle what is to be found out.

EXTANT names the binary. Exit 0: all kept; 1: not; 77: nothing can be mounted here.
"""
import os
import random
import signal
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'aid'))
import cgroup  # noqa: E402
import hardship  # noqa: E402
import servers  # noqa: E402
from servers import Client, Server, expect, run_scenarios, wait_for  # noqa: E402

BINARY = os.environ.get('EXTANT', './extant')
MB = 1 << 20
PIPE_BYTES = 100000
READ_ONE_OF = 7
GIVEN_UP = ('evictions', 'extstore_objects_evicted', 'extstore_compact_lost')
GIVEN_UP_OURS = ('evictions_same_tag', 'evictions_index_full')
FILL = random.Random(1).randbytes(512 << 10)
BEGINS, ENDS = 'memory is short', 'memory is no longer short'


class Load:
    """Objects whose value follows from key and round; what was acknowledged is known."""

    def __init__(self, server):
        self.server, self.stored = server, {}

    @staticmethod
    def value(i, generation, size):
        return (b'%d.%d|' % (i, generation) + FILL[i % 1000:i % 1000 + size])[:size]

    def write(self, first, count, size, generation=0):
        """size: bytes, or a function of the object's number."""
        client = Client(self.server)
        part, room = {}, PIPE_BYTES
        for i in range(first, first + count):
            part[i] = max(size(i) if callable(size) else size, 10)
            room -= part[i] + 40
            if room <= 0 or i == first + count - 1:  # with more on the way, each side could wait for the other
                self.answers(client, part, generation)
                part, room = {}, PIPE_BYTES
        client.close()

    def answers(self, client, sizes, generation):
        client.send(b''.join(b'set k%d 0 0 %d\r\n%s\r\n' % (i, n, self.value(i, generation, n)) for i, n in sizes.items()))
        for i, n in sizes.items():
            line = client.line()
            expect('a set is stored', line == b'STORED', (i, n, line))
            if line == b'STORED':
                self.stored[i] = (generation, n)

    def check(self, what):
        """Each object is there, and is the newest: all are counted, and one of a few is read."""
        client, missing, wrong = Client(self.server), [], []
        s, ours = client.stats(), client.stats(b'extant')
        given_up = {n: v for d, names in ((s, GIVEN_UP), (ours, GIVEN_UP_OURS)) for n in names
                    for v in (d.get(n, '0'),) if v != '0'}
        expect('%s: nothing was given up' % what, not given_up, given_up)
        there = int(ours['ram_items']) + int(ours['flash_objects'])
        expect('%s: all are there' % what, there >= len(self.stored), '%d of %d' % (there, len(self.stored)))
        numbers = sorted(self.stored)[::READ_ONE_OF]
        for at in range(0, len(numbers), 2000):
            part = numbers[at:at + 2000]
            client.send(b'get ' + b' '.join(b'k%d' % i for i in part) + b'\r\n')
            found = {}
            while (line := client.line()) != b'END':
                _, key, _, n = line.split()
                found[int(key[1:])] = client.exactly(int(n) + 2)[:-2]
            missing += [i for i in part if i not in found]
            wrong += [i for i in part if i in found and found[i] != self.value(i, *self.stored[i])]
        expect('%s: all of %d are found' % (what, len(numbers)), not missing, '%d are missing: %s' % (len(missing), missing[:5]))
        expect('%s: all are the newest' % what, not wrong, '%d are wrong: %s' % (len(wrong), wrong[:5]))
        print('# %s: %d objects, %s in RAM; index %s KB, items %s KB; %s' % (
            what, there, ours['ram_items'], int(ours['memory_index_bytes']) >> 10, int(ours['slab_real_bytes']) >> 10,
            ' '.join('%s=%s' % (n, v) for n, v in ours.items() if n.startswith(('memory_sh', 'write_wait')))), flush=True)
        client.close()


class Place:
    """A tmpfs for -e and a directory for flash, and servers on them, one after the other."""

    def __init__(self, megabytes):
        self.where = tempfile.mkdtemp(prefix='shortage-')
        self.room = hardship.Room(os.path.join(self.where, 'e'), megabytes) if megabytes else None

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.room:
            self.room.close()
        servers.shutil.rmtree(self.where, ignore_errors=True)

    def server(self, memory=64, options='', flash='1g', more=()):
        flags = ['-m', str(memory), '-t', '2', *more, '-o',
                 'ext_path=%s/flash:%s,ext_page_size=4,ext_wbuf_size=2,ext_buffer_mem=10%s' % (self.where, flash, options)]
        if self.room:
            flags += ['-e', os.path.join(self.room.at, 'memory')]
        return Server(BINARY, flags, 'shortage')


def log_lines(server, words):
    with open(server.log) as f:
        return [line for line in f if words in line]


def ends(server, how):
    server.process.send_signal(how)
    expect('it ends', server.process.wait(servers.PATIENCE_SECONDS) in (0, -how), server.log_tail())


def mixed(i):
    """10 bytes to 500 KB."""
    dice = i * 2654435761 % 1000
    return 10 if dice < 400 else 100 + dice if dice < 930 else 4000 + 6 * dice if dice < 997 else 130000 if dice < 999 else 500000


def a_memory_file_with_less_room_than_m():
    for _ in range(3):  # parts of the index are refused memory while others get some: in which order, differs
        with Place(15) as place, place.server() as server:
            load = Load(server)
            load.write(0, 150000, 20)
            expect('a line says that it begins', len(log_lines(server, BEGINS)) == 1, server.log_tail())
            s = {n: int(v) for n, v in server.stats(b'extant').items() if n.startswith('memory_')}
            expect('it is counted', s['memory_shortages'] == 1 and s['memory_refusals'] > 0 and s['memory_items_moved'] > 0, s)
            expect('it is short', s['memory_is_short'] == 1 and s['memory_available_bytes'] < 15 * MB < s['memory_limit_bytes'], s)
            load.check('tmpfs of 15 MB, -m 64')


def values_of_all_sizes():
    with Place(24) as place, place.server() as server:
        load = Load(server)
        load.write(0, 60000, mixed)
        load.write(0, 20000, lambda i: mixed(i + 7), generation=1)
        load.check('10 bytes to 500 KB')


def the_file_system_fills_up_and_has_room_again():
    with Place(60) as place, place.server(32) as server:
        load = Load(server)
        load.write(0, 40000, 100)
        s = server.stats(b'extant')
        expect('it begins with room', s['memory_is_short'] == '0' and s['memory_available_bytes'] == s['memory_limit_bytes'], s)
        place.room.fill()
        load.write(40000, 80000, 60)
        expect('it is short', server.stats(b'extant')['memory_is_short'] == '1')
        place.room.clear()
        expect('that ends', wait_for(lambda: log_lines(server, ENDS)), server.log_tail())
        short = int(server.stats(b'extant')['slab_real_bytes'])
        load.write(120000, 100000, 150)
        s = server.stats(b'extant')
        expect('it takes the room', int(s['slab_real_bytes']) > max(short, 16 * MB), (short, s['slab_real_bytes']))
        expect('a line each', (len(log_lines(server, BEGINS)), len(log_lines(server, ENDS))) == (1, 1), server.log_tail())
        load.check('another file fills the tmpfs')


def lives_on_a_full_file_system():
    """Killed and stopped while it is full; the next start has as much room, or more."""
    with Place(20) as place:
        load, at = Load(None), 0
        for how, room, options in ((signal.SIGKILL, 20, ''), (signal.SIGKILL, 24, ''), (signal.SIGTERM, 24, ',ext_persist'),
                                   (signal.SIGUSR1, 24, ',ext_persist'), (signal.SIGKILL, 40, '')):
            place.room.resize(room)
            with place.server(options=options) as server:
                load.server = server
                taken = log_lines(server, 'took over')
                expect('what was there is taken over', at == 0 or taken, server.log_tail())
                load.write(at, 30000, lambda i: 20 + mixed(i) % 1000)
                load.write(at // 2, 10000, 30, generation=at + 1)
                at += 30000
                ends(server, how)
        with place.server() as server:
            load.server = server
            load.check('five lives on a full tmpfs')


def other_sizes_need_room_beside_what_is_there():
    with Place(20) as place:
        load = Load(None)
        with place.server() as server:
            load.server = server
            load.write(0, 40000, 100)
            ends(server, signal.SIGKILL)
        other = place.server(options=',ext_page_size=8')
        try:
            other.start()
            expect('it is refused', False, other.log_tail())
        except RuntimeError as e:
            expect('it says what to do', 'needs more room where -e is' in str(e), e)
        other.stop()
        with place.server() as server:
            load.server = server
            load.check('a start that was refused')
            ends(server, signal.SIGKILL)
        place.room.resize(40)
        with place.server(options=',ext_page_size=8') as server:
            expect('with more room it serves', log_lines(server, 'serves on'), server.log_tail())


def m_is_lowered_and_raised():
    """The index needs more of -m than items leave it."""
    for megabytes in (None, 26):
        with Place(megabytes) as place, place.server(48) as server:
            load, client = Load(server), Client(server)
            load.write(0, 60000, 100)
            expect('lowered', client.ask(b'cache_memlimit 10') == b'OK')
            load.write(60000, 120000, 40)
            expect('raised', client.ask(b'cache_memlimit 64') == b'OK')
            load.write(180000, 60000, 200)
            expect('lowered again', client.ask(b'cache_memlimit 12') == b'OK')
            load.write(100000, 50000, 90, generation=1)
            load.check('-m 48, 10, 64, 12 %s' % ('on the heap' if megabytes is None else 'on a small tmpfs'))


def a_control_group_allows_less_than_m():
    """The kernel would kill a process that takes more. The limit is lowered while it serves, and raised."""
    for megabytes in (None, 200):
        try:
            group = cgroup.Group(96 * MB)
        except cgroup.NoGroup as why:
            print('skipped: %s' % why)
            return
        name = 'memory.max' if group.version == 2 else 'memory.limit_in_bytes'
        with group, Place(megabytes) as place, group.put(place.server(256)) as server:
            load = Load(server)
            load.write(0, 60000, 1500)
            load.write(60000, 60000, 30)
            expect('it lives', server.process.poll() is None)
            expect('it is short', server.stats(b'extant')['memory_is_short'] == '1')
            expect('the line says why', 'the control group' in ''.join(log_lines(server, BEGINS)), server.log_tail())
            if group.version == 2:  # version 1 refuses a limit below what is used
                group.write(name, 60 * MB)
            load.write(100000, 60000, 300)
            group.write(name, 256 * MB)
            expect('that ends', wait_for(lambda: log_lines(server, ENDS)), server.log_tail())
            load.write(160000, 40000, 1000)
            load.check('a group of 96 MB, -m 256, %s' % ('on the heap' if megabytes is None else 'with -e'))
            expect('nothing was killed', group.kills() == 0)


def without_flash_items_are_evicted_and_sets_go_on():
    with Place(12) as place, Server(BINARY, ['-m', '64', '-e', os.path.join(place.room.at, 'memory')], 'shortage') as server:
        load = Load(server)
        load.write(0, 200000, 30)
        client = Client(server)
        expect('the newest are there', all(client.get(b'k%d' % i) == load.value(i, 0, 30) for i in range(199000, 200000)))
        expect('the eldest are evicted', int(client.stats()['evictions']) > 10000)


SCENARIOS = (a_memory_file_with_less_room_than_m, values_of_all_sizes, the_file_system_fills_up_and_has_room_again,
             lives_on_a_full_file_system, other_sizes_need_room_beside_what_is_there, m_is_lowered_and_raised,
             a_control_group_allows_less_than_m, without_flash_items_are_evicted_and_sets_go_on)

if __name__ == '__main__':
    if not hardship.own_mounts():
        print('skipped: nothing can be mounted here')
        sys.exit(77)
    sys.exit(run_scenarios(SCENARIOS))
