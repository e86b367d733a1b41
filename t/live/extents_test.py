#!/usr/bin/env python3
"""What is free: `stats extents` of a running server, and `extant --check` of the files that one left.

Claims: the runs of `stats extents` add up to its sums, and are those that --check prints after a stop. --check
finds no fault in what a clean stop left, and says what it found; it finds a spoiled record, a spoiled table, a
spoiled checkpoint, a file that was cut or written to, each with its exit code and its line; it changes nothing;
it says why it can't read a file.

EXTANT_DEBUG_BIN names the binary. Exit 0: all right; 1: not.
"""

import hashlib
import os
import signal
import struct
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'aid'))
import servers  # noqa: E402
from servers import expect  # noqa: E402

BINARY = os.environ.get('EXTANT_DEBUG_BIN', './extant-debug')
PAGE = 2 << 20
PAGES = 32
COUNT = 4000
REGIONS_SHOWN = 128
FLAGS = ['-m', '64', '-o', 'ext_path=@DIR@/flash:64m,ext_page_size=2,ext_wbuf_size=2,ext_persist']


def fill(server):
    with server.connect() as s:
        s.settimeout(servers.PATIENCE_SECONDS)
        for at in range(0, COUNT, 100):
            lines = []
            for i in range(at, at + 100):
                value = b'%d:' % i * (20 + i % 500)
                lines.append(b'ms k%d %d q\r\n%s\r\n' % (i, len(value), value))
            s.sendall(b''.join(lines) + b'mn\r\n')
            got = b''
            while not got.endswith(b'MN\r\n'):
                got += s.recv(1000)
            expect('sets %d' % at, got == b'MN\r\n', got)


def check(*paths):
    out = subprocess.run([BINARY, '--check'] + list(paths), capture_output=True, text=True,
                         timeout=servers.PATIENCE_SECONDS)
    return out.returncode, out.stdout


def stop(server, how=signal.SIGTERM):
    server.process.send_signal(how)
    server.process.wait(servers.PATIENCE_SECONDS)


def runs_of(stats, prefix):
    runs = []
    while prefix + 'run:%d' % len(runs) in stats:
        first, last = stats[prefix + 'run:%d' % len(runs)].split(' .. ')
        runs.append((int(first), int(last)))
    return runs


def live(server):
    stats = server.stats(b'extents')
    expect('the path', stats['device:0:path'] == server.dir + '/flash', stats['device:0:path'])
    expect('a page is the unit', stats['device:0:unit_bytes'] == str(PAGE), stats)
    expect('all pages', stats['device:0:total_units'] == str(PAGES), stats)
    expect('memory is counted in pieces of 4 KB', stats['arena:unit_bytes'] == '4096', stats)
    for prefix in ('device:0:', 'arena:'):
        runs = runs_of(stats, prefix)
        number = {name: int(stats[prefix + name]) for name in (
            'total_units', 'free_units', 'free_runs', 'largest_run', 'regions_list', 'regions_bitmap',
            'to_bitmap', 'to_list', 'memory_bytes')}
        expect(prefix + ' a free run', number['free_runs'] >= len(runs) >= 1, stats)
        expect(prefix + ' they are in order, apart, and inside',
               all(a[1] + 1 < b[0] for a, b in zip(runs, runs[1:])) and runs[-1][1] < number['total_units'] and
               all(first <= last for first, last in runs), runs)
        lengths = [last - first + 1 for first, last in runs]
        expect(prefix + ' the sum', sum(lengths) == number['free_units'], (lengths, number))
        expect(prefix + ' the longest', max(lengths) == number['largest_run'], (lengths, number))
        share = 1 - number['largest_run'] / number['free_units']
        expect(prefix + ' fragmentation', stats[prefix + 'fragmentation'] == '%.3f' % share, stats)
        regions = stats[prefix + 'region_map']
        expect(prefix + ' one letter a region',
               len(regions) == min(number['regions_list'] + number['regions_bitmap'], REGIONS_SHOWN) and
               set(regions) <= set('LB') and regions.count('B') <= number['regions_bitmap'], stats)
        expect(prefix + ' no conversion without a bitmap',
               number['to_bitmap'] - number['to_list'] == number['regions_bitmap'], number)
        expect(prefix + ' the set itself', number['memory_bytes'] > 0, number)
    expect('flash is in use', 0 < int(stats['device:0:free_units']) < PAGES, stats)


def expect_check(what, code, *lines, paths):
    got = check(*paths)
    expect(what + ': exit %d' % code, got[0] == code, got)
    for line in lines:
        expect('%s: "%s"' % (what, line), line in got[1].split('\n'), got[1])


def digests(where):
    found = {}
    for name in ('flash', 'flash.checkpoint'):
        with open(os.path.join(where, name), 'rb') as f:
            found[name] = hashlib.sha256(f.read()).hexdigest()
    return found


def flip(path, at):
    """Changes one bit; returns how to undo it."""
    with open(path, 'r+b') as f:
        f.seek(at)
        was = f.read(1)
        f.seek(at)
        f.write(bytes([was[0] ^ 1]))
    return lambda: flip(path, at)


def clean(server, path):
    before = digests(server.dir)
    code, text = check(path)
    lines = text.split('\n')
    expect('clean: exit 0', code == 0, text)
    expect('clean: it fits on a screen', len(lines) < 24, text)
    for line in ('index: %d objects, %d of them as they were written' % (COUNT, COUNT), 'no faults'):
        expect('clean: "%s"' % line, line in lines, text)
    used = [line for line in lines if line.startswith('tables: ')][0].split()[1]
    free = PAGES - int(used)
    expect('clean: free pages', '%s: %d pages of 2048 KB, %d free, the longest run has %d' % (path, PAGES, free, free)
           in lines, text)
    expect('clean: the runs', '  %s .. %d' % (used, PAGES - 1) in lines, text)
    expect('clean: nothing was changed', digests(server.dir) == before)
    return int(used)


def faults(path, used):
    undo = flip(path, 4096 + 100)
    expect_check('a spoiled record', 1, 'fault: page 0, slot 0: the record at 4096 is spoiled (an object is lost)',
                 'index: %d objects, %d of them as they were written' % (COUNT, COUNT - 1), '1 fault', paths=[path])
    undo()
    with open(path, 'rb') as f:
        f.seek(PAGE - 32)
        count = struct.unpack('<4I', f.read(16))[3]
    undo = flip(path, PAGE - 5)
    expect_check('a spoiled trailer', 1, 'fault: page 0, slot 0: its table is spoiled, for %d objects' % count,
                 'tables: %d read, 1 spoiled' % used, '1 fault', paths=[path])
    undo()
    undo = flip(path, 20)
    expect_check('a spoiled mark', 1, 'fault: %s: its mark is damaged' % path, '1 fault', paths=[path])
    undo()
    checkpoint = path + '.checkpoint'
    undo = flip(checkpoint, 5000)
    expect_check('a spoiled checkpoint', 1,
                 'fault: %s: page table and index can\'t be used (damaged)' % checkpoint,
                 'records: %d read, 0 spoiled, 0 of an earlier cache' % COUNT, '1 fault', paths=[path])
    undo()
    expect_check('all is as it was', 0, 'no faults', paths=[path])
    with open(path, 'rb') as f:
        f.seek((used - 1) * PAGE)
        rest = f.read()
    os.truncate(path, (used - 1) * PAGE)
    code, text = check(path)
    expect('a file that was cut: exit 1', code == 1, text)
    expect('a file that was cut: it says so', 'fault: %s has %d bytes, not %d: it was cut' % (
        path, (used - 1) * PAGE, PAGES * PAGE) in text.split('\n'), text)
    with open(path, 'r+b') as f:
        f.seek((used - 1) * PAGE)
        f.write(rest)
    expect_check('it is whole again', 0, 'no faults', paths=[path])


def unreadable(server, path):
    other = server.dir + '/other'
    with open(other, 'wb') as f:
        f.write(b'a letter to somebody\n' * 1000)
    expect_check('a file of somebody else', 2,
                 "can't check: %s does not belong to an Extant cache: data that is not Extant's" % other, paths=[other])
    expect_check('no file', 2, "can't check: %s/none: No such file or directory" % server.dir,
                 paths=[server.dir + '/none'])
    expect_check('no file but a folder', 2, "can't check: %s is neither a file nor a block device" % server.dir,
                 paths=[server.dir])
    expect_check('one file too many', 2, "can't check: the cache has 1 flash files, not 2: name all, in the order of ext_path", paths=[path, path])
    os.rename(path + '.checkpoint', path + '.away')
    expect_check('no checkpoint', 2, "can't check: %s.checkpoint: there is no such file, which ext_persist makes; "
                 'without it, sizes are not known' % path, paths=[path])
    os.rename(path + '.away', path + '.checkpoint')
    undo = flip(path + '.checkpoint', 100)
    code, text = check(path)
    expect('a spoiled head: exit 2', code == 2 and text.startswith("can't check: %s.checkpoint: " % path), text)
    undo()
    for arguments in (['--check'], ['-m', '64', '--check', path], ['--check=' + path, path]):
        out = subprocess.run([BINARY] + arguments, capture_output=True, text=True)
        expect('%s: exit 64' % ' '.join(arguments), out.returncode == 64 and '--check' in out.stderr, out)
    out = subprocess.run([BINARY, '--check=' + path], capture_output=True, text=True)
    expect('--check=FILE: exit 0', out.returncode == 0, out)


def main():
    with servers.Server(BINARY, FLAGS, 'extents') as server:
        path = server.dir + '/flash'
        fill(server)
        expect_check('a server runs', 2, "can't check: %s is in use by process %d" % (path, server.process.pid),
                     paths=[path])
        stop(server)
        clean(server, path)
        server.start()
        live(server)
        stop(server)
        used = clean(server, path)
        times = os.stat(path)
        faults(path, used)
        unreadable(server, path)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        server.start()  # takes it over, since nobody seems to have written to it
        stop(server, signal.SIGKILL)
        code, text = check(path)
        expect('after a kill: exit 0', code == 0, text)
        expect('after a kill: it reads the records', 'records: %d read, 0 spoiled, 0 of an earlier cache' % COUNT in
               text.split('\n') and ': of a process that was killed, generation 5' in text, text)
    print('%d failed' % len(servers.FAILED))
    return 1 if servers.FAILED else 0


sys.exit(main())
