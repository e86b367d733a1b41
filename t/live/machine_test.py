#!/usr/bin/env python3
"""What machines do between and within the lives of a server: two disks whose files have one inode number, a clock that is set,
a start while a slow stop ends. Each scenario failed once; t/live/promises_test.py draws the like.

Exit 0: all kept; 1: not. A scenario for which this machine lacks something (FUSE, a compiler) says so.
"""
import os
import signal
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'aid'))
import hardship  # noqa: E402
from servers import Client, Server, expect, run_scenarios, wait_for  # noqa: E402

BINARY = os.environ.get('EXTANT', './extant')
DAY = 86400


def ends(server, how=signal.SIGTERM):
    server.process.send_signal(how)
    expect('it ends', server.process.wait() in (0, -how), server.log_tail())


def lines(server, word):
    with open(server.log) as f:
        return [line for line in f if word in line]


def devices(where, *names):
    """A device for each name, or None and a line."""
    if not hardship.can('device'):
        print('skipped: no FUSE')
        return None
    out = []
    for name in names:
        os.makedirs(os.path.join(where, name))
        out.append(hardship.Device(os.path.join(where, name)))
    return out


def files_of_one_inode_number():
    """Each disk's first file has the same number."""
    for mode in ('ext_persist', 'ext_persist=scan'):
        with tempfile.TemporaryDirectory(prefix='machine-', ignore_cleanup_errors=True) as where:
            both = devices(where, 'a', 'b')
            if both is None:
                return
            paths = [os.path.join(d.at, 'flash') for d in both]
            flags = ['-m', '16', '-o', ','.join('ext_path=%s:32m' % p for p in paths) +
                     ',ext_page_size=2,ext_wbuf_size=2,' + mode]
            server = Server(BINARY, flags, 'machine')
            try:
                server.start()
                client = Client(server)
                client.fill(b'k', 5000, b'x' * 1000)
                ends(server)
                expect('the files have one number', os.stat(paths[0]).st_ino == os.stat(paths[1]).st_ino)
                os.utime(paths[1], ns=(0, os.stat(paths[0]).st_mtime_ns))  # one time would hide it
                server.start()  # empty, or scanned: a file was written to
                Client(server).fill(b'k', 5000, b'y' * 1000)
                ends(server)
                server.start()
                client = Client(server)
                expect('%s: all is there' % mode, all(client.get(b'k%d' % i) == b'y' * 1000 for i in range(0, 5000, 7)),
                       server.log_tail())
                client.close()
                server.process.kill()
                server.process.wait()
                server.flags = [f.replace('ext_path=%s:32m,' % paths[1], '') for f in flags]
                server.start()  # half of the flash is gone: a scan would find older values
                expect('%s: no scan of a part' % mode, not lines(server, 'scan took over'), server.log_tail())
                expect('%s: it is empty' % mode, Client(server).get(b'k1') is None)
            finally:
                server.stop()
                for device in both:
                    device.close()


def a_start_while_a_slow_stop_ends():
    """The start reads the old checkpoint and waits for the device; the stop writes a new one meanwhile and ends."""
    for mode in ('ext_persist', 'ext_persist=scan'):
        with tempfile.TemporaryDirectory(prefix='machine-', ignore_cleanup_errors=True) as where:
            one = devices(where, 'a')
            if one is None:
                return
            device = one[0]
            flags = ['-m', '16', '-o', 'ext_path=%s/flash:64m,%s' % (device.at, mode)]
            first, second = (Server(BINARY, flags, 'machine') for _ in range(2))
            try:
                first.start()
                client = Client(first)
                client.fill(b'k', 1000, b'x' * 1000)
                client.set(b'deleted', b'old')
                ends(first)
                first.start()
                client = Client(first)
                client.set(b'k1', b'new')
                client.delete([b'deleted'])
                client.close()
                device.set('arm=1 reset read.stall=1/1 stall_ms=60000')
                starting = threading.Thread(target=second.start)
                starting.start()

                def a_read_stalls():
                    with open(device.control) as f:
                        return 'read.stall 0\n' not in f.read()
                expect('a read stalls', wait_for(a_read_stalls))
                ends(first)
                device.set('off')
                starting.join()
                client = Client(second)
                expect('%s: the newest value is there' % mode, client.get(b'k1') == b'new', second.log_tail())
                expect('%s: the others too' % mode, client.get(b'k999') == b'x' * 1000)
                expect('%s: the deleted one is not' % mode, client.get(b'deleted') is None)
            finally:
                device.set('off')
                first.stop()
                second.stop()
                device.close()


def ttl_of(client, key):
    answer = client.ask(b'mg %s t' % key)
    return int(answer.split(b't')[1]) if answer.startswith(b'HD t') else answer


def the_clock_is_set():
    """While a server runs: after the restart, all live as long as they should. Between two lives, by what the clock says."""
    if not hardship.can('clock'):
        print('skipped: no compiler')
        return
    for mode, memory in (('ext_persist', False), ('ext_item_age=0', True)):
        for begins, then in ((-DAY, 0), (DAY, 0), (0, 3 * DAY), (-20000 * DAY, 0)):
            with tempfile.TemporaryDirectory(prefix='machine-', dir='/dev/shm') as where:
                clock = hardship.Clock(where)
                clock.set(begins)
                flags = ['-m', '16', '-o', 'ext_path=@DIR@/flash:64m,' + mode] + (['-e', where + '/memory'] if memory else [])
                server = Server(BINARY, flags, 'machine')
                os.environ.update(clock.environ())
                try:
                    server.start()
                    client = Client(server)
                    client.set(b'ttl', b'x', 5000)
                    client.set(b'never', b'x')
                    clock.set(then)
                    ends(server)
                    server.start()
                    client = Client(server)
                    name = '%s, %+d days to %+d' % (mode, begins // DAY, then // DAY)
                    expect('%s: one without a time is there' % name, ttl_of(client, b'never') == -1, server.log_tail())
                    expect('%s: one with 5000 s has them' % name, ttl_of(client, b'ttl') in range(4900, 5001),
                           ttl_of(client, b'ttl'))
                    client.set(b'until', b'x', int(time.time()) + then + 7000)
                    expect('%s: unix times count by the clock of now' % name, ttl_of(client, b'until') in range(6900, 7002),
                           ttl_of(client, b'until'))
                    expect('%s: and are shown so' % name, abs(int(client.stats()['time']) - time.time() - then) < 100)
                    client.close()
                    clock.set(then + 3000)
                    ends(server)
                    server.start()
                    client = Client(server)
                    left = ttl_of(client, b'ttl'), ttl_of(client, b'until')
                    if memory:  # of one boot: the machine knows better how much time passed
                        expect('%s: no time passed' % name, left[0] in range(4900, 5001) and left[1] in range(6900, 7002), left)
                    client.close()
                finally:
                    for word in clock.environ():
                        os.environ.pop(word)
                    server.stop()


if __name__ == '__main__':
    code = run_scenarios((files_of_one_inode_number, a_start_while_a_slow_stop_ends, the_clock_is_set))
    hardship.forget_built()
    sys.exit(code)
