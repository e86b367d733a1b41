#!/usr/bin/env python3
"""Other settings at a restart: what of the cache stays, printed as a table.

One row per setting and kind of stop. Each row fills a cache, stops it, starts it with the change, and then with the
first settings again. After both starts every key is read: a value is there as it was stored last, or it is a miss;
the table says how many are in memory, on flash, and missing. Only the objects of missing devices are lost; a
device that comes back serves nothing. Exit 0: all right; 1: not.

grow_test.py [SCENARIO ...]
"""

import os
import re
import shutil
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'aid'))
import servers  # noqa: E402
from servers import Client, expect  # noqa: E402

BINARY = os.environ.get('EXTANT', './extant')
KEYS = 2500
SIZES = 'ext_page_size=2,ext_wbuf_size=1,ext_item_size=400'
MODES = {'-e, kill -9': ('-e', signal.SIGKILL), '-e, SIGTERM': ('-e', signal.SIGTERM),
         'ext_persist': ('ext_persist', signal.SIGTERM), 'scan, kill -9': ('ext_persist=scan', signal.SIGKILL)}


def value_of(i, generation):
    text = b'%d:%d;' % (i, generation)
    return text * ((400 + i * 37 % 16000) // len(text) + 1)


class Cache:
    """A server whose settings change from start to start, and what clients stored last."""

    def __init__(self, mode, **settings):
        self.mode, self.how = MODES[mode]
        self.server = servers.Server(BINARY, (), 'grow')
        self.generations = {}
        self.was = settings
        self.start(**settings)

    def start(self, devices=('a:20m', 'b:20m'), sizes=SIZES, memory=8, flags=()):
        options = ','.join(['ext_path=@DIR@/%s' % d for d in devices] + ([sizes] if devices else []))
        if self.mode != '-e' and devices:
            options += ',' + self.mode
        self.server.flags = ['-m', str(memory)] + (['-o', options] if options else []) + list(flags) + \
            (['-e', '@DIR@/memory'] if self.mode == '-e' else [])
        self.server.start()
        self.client = Client(self.server)

    def stop(self):
        if self.how == signal.SIGKILL and self.mode != '-e':  # a scan finds what is on flash; so put all there
            self.end_process(signal.SIGTERM)
            self.server.start()
            self.client = Client(self.server)
        self.end_process(self.how)

    def end_process(self, how):
        self.client.close()
        self.server.process.send_signal(how)
        status = self.server.process.wait(servers.PATIENCE_SECONDS)
        expect('it stops', status == 0 or how == signal.SIGKILL, (status, self.server.log_tail()))
        if os.path.exists(self.server.path):
            os.unlink(self.server.path)

    def store(self, keys, generation):
        for i in keys:
            value = value_of(i, generation)
            self.client.send(b'set key%d %d 0 %d noreply\r\n%s\r\n' % (i, i % 1000, len(value), value))
            self.generations[i] = generation
        self.client.ask(b'mn')

    def count(self, what):
        """How many keys are there, as they were stored last. Anything else except a miss is a failure."""
        found, wrong = 0, []
        keys = sorted(self.generations)
        for at in range(0, len(keys), 50):
            some = keys[at:at + 50]
            self.client.send(b'get ' + b' '.join(b'key%d' % i for i in some) + b'\r\n')
            while True:
                line = self.client.line()
                if line == b'END':
                    break
                word = line.split()
                i = int(word[1][3:])
                value = self.client.file.read(int(word[3]) + 2)[:-2]
                if value == value_of(i, self.generations[i]) and int(word[2]) == i % 1000:
                    found += 1
                else:
                    wrong.append((i, value[:20], self.generations[i]))
        expect('%s: no wrong value' % what, not wrong, wrong[:3])
        return found

    def said(self):
        with open(self.server.log) as log:
            return ' '.join(line.strip() for line in log if re.search('took over|starts? empty|starting empty', line))

    def taken(self):
        """(items in memory, objects on flash) that the log says were taken over."""
        said = self.said()
        memory = re.search(r'took over (\d+) items in memory and (\d+) on flash', said)
        if memory:
            return int(memory.group(1)), int(memory.group(2))
        flash = re.search(r'took over (\d+) objects', said)
        return (0, int(flash.group(1))) if flash else (0, 0)

    def reconciles(self, what):
        """Counts of pages and objects agree with what is there."""
        stats = self.client.stats()
        if 'extstore_pages_free' not in stats:
            return
        pages = int(stats['extstore_pages_free']) + int(stats['extstore_pages_used'])
        given = re.search(r'page_size=(\d+)', ' '.join(self.server.flags))
        limit = int(stats['extstore_limit_maxbytes'])
        expect('%s: pages add up' % what, pages * (int(given.group(1)) << 20) == limit if given else limit % pages == 0,
               stats)

    def end(self):
        self.client.close()
        self.server.stop()


def row(name, mode, change, back, **base):
    """change, back: settings, and what has to stay: 'all', 'memory', 'some' (a part of what is on flash) or 'none'."""
    cache = Cache(mode, **base)
    try:
        cache.store(range(KEYS), 1)
        cache.store(range(0, KEYS, 3), 2)
        before = cache.count(name)
        cells = []
        for settings, stays in (change, back):
            what = '%s, %s' % (name, mode)
            cache.stop()
            cache.start(**dict(base, **settings))
            memory, flash = cache.taken()
            found = cache.count(what)
            cache.reconciles(what)
            expect('%s: %s stays' % (what, stays), {
                'all': found == before, 'none': found == 0, 'some': 0 < found < before,
                'most': 0.99 * before <= found <= before,
                'memory': memory > 0 and flash == 0 and found == memory}[stays],
                (found, before, cache.said(), cache.server.log_tail()[-600:]))
            cells.append('%-6s %5d + %5d = %5d of %5d' % (stays, memory, flash, found, before))
            cache.store(range(0, KEYS, 2), 3)  # and goes on
            before = cache.count(what)
        print('%-34s %-14s | %s | %s' % (name, mode, *cells), flush=True)
    finally:
        cache.end()


ALL = tuple(MODES)
CLEAN = ('-e, kill -9', '-e, SIGTERM', 'ext_persist')


def rows(name, change, back=({}, 'all'), modes=CLEAN, **base):
    for mode in modes:
        row(name, mode, change, back, **base)


def tunables():
    rows('-t 8, -c, -R, -b', ({'flags': ['-t', '8', '-c', '100', '-R', '5', '-b', '99']}, 'all'))
    rows('-m 64 and back', ({'memory': 64}, 'all'))
    rows('-m 40960 to 49000 and back', ({'memory': 49000}, 'all'), memory=40960)
    rows('-I 512k', ({'flags': ['-I', '512k']}, 'all'))
    rows('ext_io_depth, ext_threads', ({'sizes': SIZES + ',ext_io_depth=8,ext_threads=2'}, 'all'))


def buffers():
    rows('ext_buffer_mem 64 and back', ({'sizes': SIZES + ',ext_buffer_mem=64'}, 'all'))
    rows('ext_buffer_mem 8 and back', ({'sizes': SIZES + ',ext_buffer_mem=8'}, 'all'))


def items():
    rows('-C', ({'flags': ['-C']}, 'all'))
    rows('-f 2, -n 100', ({'flags': ['-f', '2', '-n', '100']}, 'all'))


def devices():
    rows('one device more', ({'devices': ('a:20m', 'b:20m', 'c:20m')}, 'all'), ({}, 'some'))
    rows('one device more', ({'devices': ('a:20m', 'b:20m', 'c:20m')}, 'all'), ({}, 'none'), ALL[3:])
    rows('one device less', ({'devices': ('a:20m',)}, 'some'))
    rows('the first device less', ({'devices': ('b:20m',)}, 'some'), modes=CLEAN[:2])
    rows('a larger device', ({'devices': ('a:24m', 'b:20m')}, 'all'), ({}, 'most'))
    rows('a larger device', ({'devices': ('a:24m', 'b:20m')}, 'all'), ({}, 'none'), ALL[3:])
    rows('a smaller device', ({'devices': ('a:4m', 'b:20m')}, 'some'))
    rows('a smaller device', ({'devices': ('a:4m', 'b:20m')}, 'none'), modes=ALL[3:])
    rows('devices in another order', ({'devices': ('b:20m', 'a:20m')}, 'all'), modes=CLEAN[:2])
    rows('another device class', ({'devices': ('a:20m', 'b:20m:compact')}, 'all'), modes=CLEAN[:2])


def pages():
    other = 'ext_page_size=4,ext_wbuf_size=1,ext_item_size=400'
    rows('ext_page_size 4', ({'sizes': other}, 'memory'), ({}, 'memory'), CLEAN[:2])
    rows('ext_page_size 4', ({'sizes': other}, 'none'), ({}, 'none'), CLEAN[2:])
    rows('ext_wbuf_size 2', ({'sizes': SIZES.replace('wbuf_size=1', 'wbuf_size=2')}, 'memory'), ({}, 'memory'),
         CLEAN[:2])
    rows('no flash any more', ({'devices': (), 'memory': 32}, 'memory'), ({}, 'most'), CLEAN[:2])
    rows('flash for the first time', ({'devices': ('a:20m', 'b:20m')}, 'all'), ({}, 'memory'), CLEAN[:2],
         devices=(), memory=32)


def default_sizes():
    """Sizes that nobody gave stay those that flash was made with, where the other settings allow it."""
    none, small, large = 'ext_item_size=400', ('a:20m', 'b:20m'), ('a:64m', 'b:64m')
    rows('no sizes, files 20m to 64m', ({'devices': large}, 'all'), ({}, 'most'), CLEAN[:2], sizes=none)
    rows('no sizes, files 20m to 64m', ({'devices': large}, 'all'), ({'devices': large}, 'all'), ALL[2:], sizes=none)
    rows('no sizes, files 64m to 48m', ({'devices': ('a:48m', 'b:48m')}, 'all'), sizes=none, devices=large,
         modes=CLEAN[2:])
    rows('no sizes, -m 8 to 512', ({'memory': 512}, 'all'), sizes=none)
    rows('no sizes, -I 8m to 1m', ({'flags': ['-I', '1m']}, 'all'), devices=large, sizes=none, memory=16, flags=['-I', '8m'])
    rows('no sizes, -I 1m to 8m', ({'flags': ['-I', '8m']}, 'memory'), ({}, 'all'), CLEAN[:2], devices=large, sizes=none,
         memory=16)
    rows('no sizes, -I 1m to 8m', ({'flags': ['-I', '8m']}, 'none'), ({}, 'all'), CLEAN[2:], devices=large, sizes=none,
         memory=16)
    rows('ext_page_size 4 to 8', ({'sizes': 'ext_page_size=8,' + none}, 'memory'), ({}, 'memory'), CLEAN[:2],
         sizes='ext_page_size=4,' + none)


def what_is_said_of_sizes():
    """One line tells which sizes stay, and why others can't."""
    made = 'ext_page_size=2,ext_wbuf_size=2,ext_item_size=400'
    cases = (({}, 'flash: pages of 2 MB and write buffers of 2 MB stay as its content was made '
              'with them; the defaults are 4 MB and 2 MB now'),
             ({'flags': ['-I', '8m']}, "flash: pages of 2 MB and write buffers of 2 MB, which its content was made with, "
              "can't stay: items of -I need larger write buffers"),
             ({'sizes': 'ext_page_size=8'}, 'with another ext_page_size'))
    for mode in CLEAN[1:]:
        for change, line in cases:
            cache = Cache(mode, sizes=made, memory=16)
            try:
                cache.store(range(100), 1)
                cache.stop()
                cache.start(**dict({'sizes': 'ext_item_size=400', 'memory': 16}, **change))
                log = cache.server.log_tail()
                expect('%s: %s is said once' % (mode, line), log.count(line) == 1 and log.count('stay') <= 2, log)
            finally:
                cache.end()


def sizes_of_what_is_used():
    """A memory file from before the flash was used otherwise doesn't decide on the sizes: the checkpoint is what can be taken."""
    server = servers.Server(BINARY, (), 'grow')
    steps = ((b'old', ['-e', '@DIR@/memory'], 'ext_page_size=8,ext_wbuf_size=4'),
             (b'new', [], 'ext_page_size=2,ext_wbuf_size=2,ext_persist'),
             (None, ['-e', '@DIR@/memory'], 'ext_persist'),
             (None, ['-e', '@DIR@/memory'], 'ext_persist'))
    try:
        for value, flags, options in steps:
            server.flags = ['-m', '16', '-o', 'ext_path=@DIR@/flash:64m,' + options] + flags
            server.start()
            client = Client(server)
            for i in range(200):
                if value:
                    expect('%d is set' % i, client.set(b'key%d' % i, value * 300))
                else:
                    expect('%d is the last' % i, client.get(b'key%d' % i) == b'new' * 300, server.log_tail())
            client.close()
            server.process.send_signal(signal.SIGTERM)
            expect('it stops', server.process.wait(servers.PATIENCE_SECONDS) == 0, server.log_tail())
    finally:
        server.stop()


def a_device_comes_back():
    """With what it had when it was left out, or as an older copy of itself, a device serves nothing old."""
    for mode in ALL:
        cache = Cache(mode)
        try:
            cache.store(range(KEYS), 1)
            cache.stop()
            for name in ('a', 'b'):
                shutil.copy(os.path.join(cache.server.dir, name), os.path.join(cache.server.dir, name + '.old'))
            cache.start(devices=('a:20m',))
            cache.store(range(KEYS // 2), 2)
            cache.client.delete([b'key%d' % i for i in range(KEYS // 2, KEYS // 2 + 500)])
            for i in range(KEYS // 2, KEYS // 2 + 500):
                cache.generations[i] = 0  # no value is right
            cache.count('%s: without it' % mode)
            cache.stop()
            cache.start()
            cache.count('%s: it is back' % mode)
            cache.store(range(0, KEYS // 4), 3)
            cache.stop()
            if mode == '-e, SIGTERM':
                os.replace(os.path.join(cache.server.dir, 'b.old'), os.path.join(cache.server.dir, 'b'))
                cache.start(devices=('a:20m', 'b:20m'))
                cache.count('%s: as an older copy' % mode)
                cache.stop()
            cache.start(devices=('a:20m', 'a.old:20m', 'b:20m'))
            found = cache.count('%s: with a copy beside it' % mode)
            expect('%s: something is there' % mode, found > 0, cache.said())
        finally:
            cache.end()


def a_device_goes():
    """Misses of what was on a file that is gone say so."""
    for mode in CLEAN:
        cache = Cache(mode)
        try:
            cache.store(range(KEYS), 1)
            cache.stop()
            cache.start(devices=('a:20m',))
            found, why = cache.count(mode), cache.server.stats(b'extant')
            expect('%s: some are gone' % mode, found < KEYS, (found, cache.said()))
            expect('%s: they say so' % mode, int(why['miss_flash_gone']) >= 0.9 * (KEYS - found),
                   (KEYS - found, {name: n for name, n in why.items() if name.startswith('miss_') and n != '0'}, cache.said()))
        finally:
            cache.end()


def a_device_moves():
    """A file that was copied elsewhere while nothing ran is the same device."""
    for mode in CLEAN:
        cache = Cache(mode)
        try:
            cache.store(range(KEYS), 1)
            cache.stop()
            os.rename(os.path.join(cache.server.dir, 'b'), os.path.join(cache.server.dir, 'b.gone'))
            shutil.copy(os.path.join(cache.server.dir, 'b.gone'), os.path.join(cache.server.dir, 'elsewhere'))
            cache.start(devices=('elsewhere:20m', 'a:20m') if mode != 'ext_persist' else ('a:20m', 'elsewhere:20m'))
            found = cache.count(mode)
            expect('%s: all is there' % mode, found == KEYS, (found, cache.said()))
        finally:
            cache.end()


if __name__ == '__main__':
    sys.exit(servers.run_scenarios((tunables, buffers, items, devices, pages, default_sizes, what_is_said_of_sizes, sizes_of_what_is_used,
                                    a_device_comes_back, a_device_goes, a_device_moves)))
