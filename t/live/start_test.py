#!/usr/bin/env python3
"""Starting in places that lack something, as sandboxes, containers and service managers make them; and
what is logged about it. One scenario each, on servers of its own.

EXTANT names the binary. Exit 0: all right; 1: not.
"""

import ctypes
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

BINARY = os.path.abspath(os.environ.get('EXTANT', './extant'))
ROOT = ['-u', 'root'] if os.getuid() == 0 else []
IO_URING_ENTER, IO_URING_REGISTER = 426, 427


class Started:
    """A server on a unix socket, in surroundings of its own."""

    def __init__(self, flags=(), prefix=(), before=None, root=ROOT, listen=True, env=None, binary=BINARY):
        self.dir = tempfile.mkdtemp(prefix='extant-start-')
        self.path, self.log = self.dir + '/sock', self.dir + '/log'
        flags = [f.replace('@DIR@', self.dir) for f in flags]
        if listen:
            flags = ['-s', self.path] + flags
        with open(self.log, 'wb') as log:
            self.process = subprocess.Popen(list(prefix) + [binary] + root + flags, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, preexec_fn=before, env=env)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stop()
        shutil.rmtree(self.dir, ignore_errors=True)

    def answers(self):
        def try_it():
            try:
                with self.connect() as s:
                    s.sendall(b'version\r\n')
                    return s.recv(100).startswith(b'VERSION')
            except OSError:
                return self.process.poll() is not None
        return wait_for(try_it) and self.process.poll() is None

    def connect(self):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(120)
        s.connect(self.path)
        return s

    def ask(self, request, end=b'END\r\n'):
        with self.connect() as s:
            s.sendall(request)
            out = b''
            while not out.endswith(end):
                piece = s.recv(65536)
                if not piece:
                    break
                out += piece
            return out

    def stats(self, group=''):
        text = self.ask(b'stats %s\r\n' % group.encode()).decode('latin-1')
        return dict(re.findall(r'^STAT (\S+) (.*?)\r$', text, re.M))

    def text(self):
        with open(self.log, errors='replace') as f:
            return f.read()

    def stop(self, sig=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return 'hung'


def run(*args):
    return subprocess.run([BINARY] + list(args), capture_output=True, text=True, timeout=120)


def deny(call):
    """For a child: this system call is EPERM from now on, as a container's filter has it."""
    def load():
        libc = ctypes.CDLL(None, use_errno=True)
        steps = ((0x20, 0, 0, 0), (0x15, 0, 1, call), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7fff0000))
        code = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *step) for step in steps))
        program = struct.pack('HxxxxxxQ', len(steps), ctypes.addressof(code))
        if libc.prctl(38, 1, 0, 0, 0) != 0 or libc.prctl(22, 2, program, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), 'prctl')
    return load


def io_uring_denied_in_part():
    value = b'v' * 1000
    for name, call in (('io_uring_register', IO_URING_REGISTER), ('io_uring_enter', IO_URING_ENTER)):
        flags = ['-t', '2', '-m', '64', '-o', 'ext_path=@DIR@/flash:64m,ext_page_size=2,ext_wbuf_size=2,'
                 'ext_item_age=0,ext_item_size=64,ext_max_sleep=1000,ext_buffer_mem=10']
        with Started(flags, before=deny(call)) as s:
            expect('%s denied: it serves' % name, s.answers(), s.text())
            expect('%s denied: the engine that reads is told' % name,
                   s.stats('extant')['io_engine'] == 'threads', s.stats('extant')['io_engine'])
            with s.connect() as c:
                for i in range(20000):
                    c.sendall(b'set k%d 0 0 1000 noreply\r\n%s\r\n' % (i, value))
                c.sendall(b'mn\r\n')
                c.recv(10)
            expect('%s denied: all goes to flash' % name,
                   wait_for(lambda: int(s.stats('extant')['ram_items']) == 0))
            expect('%s denied: gets come from flash' % name,
                   s.ask(b'get k1\r\n') == b'VALUE k1 0 1000\r\n' + value + b'\r\nEND\r\n')
            expect('%s denied: they were read' % name, int(s.stats('extant')['ext_device_reads']) > 0)
            expect('%s denied: it ends' % name, s.stop() == 0)


def standard_files_closed():
    with Started(['-vv'], prefix=['sh', '-c', 'exec "$0" "$@" <&- >&- 2>&-']) as s:
        expect('it serves with 0, 1 and 2 closed', s.answers())
        names = [os.readlink('/proc/%d/fd/%d' % (s.process.pid, fd)) for fd in range(3)]
        expect('they are open on /dev/null', names == ['/dev/null'] * 3, names)
        expect('log lines harm nobody', s.ask(b'get a\r\n') == b'END\r\n')
        expect('it ends', s.stop() == 0)


def user_namespace():
    prefix = ['unshare', '--user', '--map-root-user']
    if subprocess.run(prefix + ['true'], capture_output=True).returncode != 0:
        print('skipped: no user namespaces here')
        return
    with Started([], prefix=prefix, root=['-u', 'root']) as s:
        expect('it serves where setgroups is denied', s.answers(), s.text())
        expect('and says so', 'failed to drop supplementary groups' in s.text(), s.text())


def few_descriptors():
    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (150, 150))
    with Started(['-t', '2', '-c', '150'], before=limit) as s:
        expect('it serves', s.answers(), s.text())
        expect('it says that -c is more than it can have', 'the limit of open files (150)' in s.text(), s.text())
        clients, told = [], 0
        for _ in range(200):
            c = s.connect()
            try:
                c.sendall(b'mn\r\n')
            except BrokenPipeError:
                pass  # told, and closed, already
            answer = c.recv(100)
            if answer == b'MN\r\n':
                clients.append(c)
            else:
                told += answer == b'ERROR Too many open connections\r\n'
                c.close()
        expect('each is served or told at once', len(clients) + told == 200, (len(clients), told))
        expect('most descriptors are for clients', len(clients) > 80, len(clients))
        for c in clients:
            c.close()
        expect('there is room again', wait_for(lambda: s.ask(b'mn\r\n', b'\r\n') == b'MN\r\n'))
        expect('accepting never stopped', s.stats()['listen_disabled_num'] == '0')

    if not servers.has_descriptors(2000):
        return

    def low():
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 2000))
    addresses = ','.join('127.0.0.%d' % n for n in range(1, 31))
    flags = ['-p', '-1', '-U', '-1', '-l', addresses, '-c', '1000', '-t', '4', '--http', '127.0.0.1:0']
    with Started(flags, before=low, listen=False) as s:
        expect('many addresses', wait_for(lambda: ' serves on ' in s.text()), s.text())
        expect('are not taken from the clients', 'the limit of open files' not in s.text(), s.text())


def ports():
    where = tempfile.mkdtemp(prefix='extant-start-')
    env = dict(os.environ, MEMCACHED_PORT_FILENAME=where + '/ports')
    try:
        with Started(['-l', '127.0.0.1:0,127.0.0.1:0'], listen=False, env=env) as s:
            def lines():
                try:
                    return open(where + '/ports').read().splitlines()
                except OSError:
                    return []
            expect('port 0 is any free one', wait_for(lambda: len(lines()) == 2), s.text())
            for line in lines():
                with socket.create_connection(('127.0.0.1', int(line.split()[-1]))) as c:
                    c.sendall(b'version\r\n')
                    expect(line, c.recv(100) == b'VERSION 1.6.45\r\n')
    finally:
        shutil.rmtree(where)
    for listen in ('', ',', '[]'):
        out = run(*ROOT, '-l', listen)
        expect('-l "%s" is refused' % listen, out.returncode == 64 and out.stderr.startswith('-l "'), out)


def exit_codes():
    with tempfile.TemporaryDirectory(prefix='extant-start-') as where, socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with open(where + '/conf', 'w') as f:
            f.write('-m 64\n-t none\n')
        with open(where + '/users', 'w') as f:
            f.write('nonsense\n')
        os.mkdir(where + '/dir')
        for code, says, flags in (
                (0, 'the configuration is valid', ['--check-config', '-m', '64']),
                (64, 'Illegal suboption "nope"', ['-o', 'nope']),
                (64, "invalid option -- 'z'", ['-z']),
                (64, 'ext_path', ['-o', 'ext_path=/x']),
                (78, where + '/conf:2: Number of threads must be greater than 0', ['--config', where + '/conf']),
                (78, where + '/users', ROOT + ['-s', where + '/s', '-Y', where + '/users']),
                (71, where + '/nothing', ROOT + ['-s', where + '/s', '-Y', where + '/nothing']),
                (71, where + '/nothing', ['--config', where + '/nothing']),
                (71, where + '/dir', ROOT + ['-s', where + '/s', '-o', 'ext_path=%s/dir:64m' % where]),
                (71, where + '/dir/x/log', ROOT + ['-s', where + '/s', '--logfile', where + '/dir/x/log']),
                (71, '127.0.0.1', ROOT + ['-l', '127.0.0.1', '-p', port]),
                (71, port, ROOT + ['-l', '127.0.0.1:' + port]),
                (71, 'no.such.host.invalid', ROOT + ['-l', 'no.such.host.invalid'])):
            out = run(*flags)
            expect('%s: exit %d' % (' '.join(flags), code), out.returncode == code, out)
            expect('%s: it says "%s"' % (' '.join(flags), says), says in out.stdout + out.stderr, out)
        if os.getuid() == 0:
            out = run('-u', 'nobody-at-all', '-s', where + '/s')
            expect('an unknown user: exit 67, and named', out.returncode == 67 and 'nobody-at-all' in out.stderr, out)


def log_file():
    with Started(['--logfile', '@DIR@/log1', '-vv']) as s:
        path = s.dir + '/log1'
        expect('it serves', s.answers())
        expect('lines go to the log file', wait_for(lambda: 'version' in open(path).read()))
        os.rename(path, path + '.old')
        s.process.send_signal(signal.SIGHUP)
        expect('SIGHUP reopens it', wait_for(lambda: os.path.exists(path)))
        s.ask(b'get something_new\r\n')
        expect('and lines go there', wait_for(lambda: 'something_new' in open(path).read()))
        expect('nobody else reads it', os.stat(path).st_mode & 0o137 == 0)


def start_and_stop_lines():
    flash = ['-o', 'ext_path=@DIR@/a:64m,ext_path=@DIR@/b:64m,ext_page_size=2,ext_wbuf_size=2']
    numbers = r'\d+ items and \d+ objects on flash'
    shm = tempfile.mkdtemp(prefix='extant-start-', dir='/dev/shm')
    try:
        for flags, survives, stopped, sig in (
                ([], 'nothing: each start is empty', r'nothing is kept \(1 items, 0 objects on flash\)', 'SIGTERM'),
                (flash, 'nothing: each start is empty', r'nothing is kept \(1 items, 0 objects on flash\)', 'SIGINT'),
                (flash + ['-o', 'ext_persist'], 'a clean stop, and a reboot after it',
                 r'1 objects stay on flash, in \S+/a', 'SIGUSR1'),
                (['-e', shm + '/mem'], 'any end of the process, but no reboot', numbers + ' stay, in ' + shm + '/mem',
                 'SIGTERM')):
            with Started(['-m', '64'] + flags) as s:
                expect('%s: it serves' % flags, s.answers(), s.text())
                has_flash = r'flash \S+/a 64 MB \+ \S+/b 64 MB \((io_uring|threads)\), -m can index \d+ objects' \
                    if flash[1] in flags else 'no flash'
                line = r'extant [\d.]+ serves on unix:\S+/sock; 64 MB of memory; %s; the cache survives %s\n' % (
                    has_flash, survives)
                expect('%s: one line says what it is' % flags, len(re.findall(line, s.text())) == 1, s.text())
                s.ask(b'set a 0 0 1000\r\n%s\r\n' % (b'x' * 1000), b'STORED\r\n')
                expect('%s: it ends' % flags, s.stop(getattr(signal, sig)) == 0)
                line = r'stopped by %s in \d+\.\d s: %s\n' % (sig, stopped)
                expect('%s: one line says what is kept' % flags, len(re.findall(line, s.text())) == 1, s.text())
    finally:
        shutil.rmtree(shm)


def warnings():
    to_all, root = 'everybody who reaches this machine', 'running as root'
    not_tmpfs, no_flash = 'is not on tmpfs', 'has no effect without flash'
    where = tempfile.mkdtemp(prefix='extant-start-')
    shm = tempfile.mkdtemp(prefix='extant-start-', dir='/dev/shm')
    on_disk = subprocess.run(['stat', '-f', '-c', '%T', where], capture_output=True, text=True).stdout.strip() != 'tmpfs'
    with open(where + '/users', 'w') as f:
        f.write('a:b\n')
    try:
        for flags, says in ((['-p', '-1'], {to_all}),
                            (['-p', '-1', '-Y', where + '/users'], set()),
                            (['-l', '127.0.0.1', '-p', '-1'], set()),
                            (['-l', '*:0'], {to_all}),
                            (['-s', where + '/s', '-o', 'ext_item_age=5'], {no_flash}),
                            (['-s', where + '/s', '-e', where + '/mem'], {not_tmpfs} if on_disk else set()),
                            (['-s', where + '/s', '-e', shm + '/mem'], set())):
            with Started(flags, listen=False) as s:
                expect('%s: it serves' % flags, wait_for(lambda: ' serves on ' in s.text()), s.text())
                expect('%s: it ends' % flags, s.stop() == 0)
                told = {w for w in (to_all, root, not_tmpfs, no_flash) if w in s.text()}
                expect('%s: warnings' % flags, told == says | ({root} if ROOT else set()), s.text())
    finally:
        shutil.rmtree(where)
        shutil.rmtree(shm)


def small_memory_file():
    """A container's /dev/shm is often smaller than -m."""
    with tempfile.TemporaryDirectory(prefix='extant-start-', dir='/dev/shm') as where:
        mount = ('unshare', '-m', 'sh', '-c', 'mount -t tmpfs -o size=16m none "$0" && exec "$@"', where)
        if os.getuid() != 0 or subprocess.run(mount + ('true',), capture_output=True).returncode != 0:
            print('skipped: no file system can be mounted here')
            return
        told = 'its file system has room for 16 MB, less than -m %d: beyond that items are evicted'
        for m, warns in ((64, True), (16, False)):
            with Started(['-m', str(m), '-e', where + '/memory'], prefix=mount) as s:
                expect('-m %d serves' % m, s.answers(), s.text())
                expect('-m %d: it is told' % m, (told % m in s.text()) == warns, s.text())
        told = 'room for 16 MB, less than -m 8 and %d MB of flash buffers: beyond'
        for buffers, warns in ((10, True), (8, False)):
            flash = 'ext_path=%s.flash:16m,ext_page_size=2,ext_wbuf_size=1,ext_buffer_mem=%d' % (where, buffers)
            with Started(['-m', '8', '-e', where + '/memory', '-o', flash], prefix=mount) as s:
                expect('with flash it serves', s.answers(), s.text())
                expect('-m 8, ext_buffer_mem=%d: it is told' % buffers, (told % buffers in s.text()) == warns, s.text())
            os.unlink(where + '.flash')


def flash_without_direct_io():
    """The kernel would keep what is read, in memory that no option bounds."""
    with tempfile.TemporaryDirectory(prefix='extant-start-') as where:
        mount = ('unshare', '-m', 'sh', '-c', 'mount -t ramfs none "$0" && exec "$@"', where + '/ram')
        os.mkdir(where + '/ram')
        if os.getuid() != 0 or subprocess.run(mount + ('true',), capture_output=True).returncode != 0:
            print('skipped: no file system can be mounted here')
            return
        paths = [where + '/ram/a', where + '/b']
        with Started(['-s', where + '/s', '-o', ','.join('ext_path=%s:64m' % p for p in paths)], listen=False,
                     prefix=mount) as s:
            expect('it serves', wait_for(lambda: ' serves on ' in s.text()), s.text())
            expect('it ends', s.stop() == 0)
            for path, warns in zip(paths, (True, False)):
                told = 'warning: flash %s: its file system has no direct I/O' % path in s.text()
                expect('%s: it is told' % path, told == warns, s.text())


def service_manager():
    """sd_notify: what systemd hears of a server with much to keep."""
    with tempfile.TemporaryDirectory(prefix='extant-start-') as where, \
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(where + '/notify')
        manager.settimeout(120)
        env = dict(os.environ, NOTIFY_SOCKET=where + '/notify')
        flags = ['-d', '-m', '64', '-o', 'drop_privileges', '-o', 'ext_path=%s/flash:64m,ext_persist' % where]

        def heard(until):
            out = []
            while not out or not out[-1].startswith(until):
                out.append(manager.recv(1000).decode())
            return out
        for start in ('first', 'second'):
            with Started(flags, env=env) as s:
                ready = heard('READY=1')[-1].split('\n')
                expect('%s: it is ready' % start, ready == [
                    'READY=1', 'MAINPID=%d' % s.process.pid, 'STATUS=serving on unix:%s' % s.path], ready)
                expect('%s: -d is passed over' % start, s.answers() and '-d is not needed' in s.text(), s.text())
                if start == 'second':
                    progress = s.stats('extant')['progress']
                    expect('it tells what it did', re.fullmatch(r'reading the checkpoint: done in \d+\.\d{3} s', progress),
                           progress)
                    expect('it has what it had', s.ask(b'mg k5 s\r\n', b'\r\n') == b'HD s100\r\n')
                else:
                    expect('it did nothing yet', s.stats('extant')['progress'] == 'none')
                with s.connect() as c:
                    for i in range(2000):
                        c.sendall(b'set k%d 0 0 100 noreply\r\n%s\r\n' % (i, b'x' * 100))
                    c.sendall(b'mn\r\n')
                    c.recv(10)
                s.process.send_signal(signal.SIGTERM)
                told = heard('STATUS=writing the checkpoint')
                expect('%s: it tells that it stops, and how' % start, told == [
                    'STOPPING=1\nSTATUS=stopping',
                    'STATUS=moving items to flash\nEXTEND_TIMEOUT_USEC=60000000',
                    'STATUS=writing the checkpoint\nEXTEND_TIMEOUT_USEC=60000000'], told)
                expect('%s: it ends' % start, s.stop() == 0, s.text())


CLOCK = r"""
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#define OVERRIDE(type, name, args) type name args
OVERRIDE(int, clock_gettime, (clockid_t id, struct timespec *ts))
{
    int rc = (int)syscall(SYS_clock_gettime, id, ts);
    if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)
        ts->tv_sec += atoll(getenv("CLOCK_MOVED_BY"));
    return rc;
}
"""


def large_memory():
    """From 16 to 32 GB the arena reserves exactly the 64 GB that handles of 16 bytes reach."""
    for m in ('16g', '24g', '32g'):
        for more in ([], ['-e', '@DIR@/memory'], ['-o', 'ext_path=@DIR@/flash:64m']):
            with Started(['-m', m] + more) as s:
                serves = s.answers()
                expect('-m %s %s serves' % (m, ' '.join(more)), serves, s.text())
                expect('and keeps a value', serves and s.ask(b'set a 0 0 1 noreply\r\nx\r\nget a\r\n') ==
                       b'VALUE a 0 1\r\nx\r\nEND\r\n')


def odd_clocks():
    with tempfile.TemporaryDirectory(prefix='extant-start-') as where:
        with open(where + '/clock.c', 'w') as f:
            f.write(CLOCK)
        if not shutil.which('cc') or subprocess.run(
                ['cc', '-shared', '-fPIC', '-o', where + '/clock.so', where + '/clock.c']).returncode != 0:
            print('skipped: no compiler')
            return
        flags = ['-t', '1', '-m', '64', '-o', 'ext_path=@DIR@/flash:64m,ext_page_size=2,ext_wbuf_size=2,'
                 'ext_item_age=0,ext_item_size=64,ext_max_sleep=1000']
        for name, seconds, odd in (('2200', 5500000000, True), ('2106', 2600000000, True), ('2090', 2000000000, False),
                                   ('1970', -1790000000, False), ('1900', -4000000000, True)):
            env = dict(os.environ, LD_PRELOAD=where + '/clock.so', CLOCK_MOVED_BY=str(seconds))
            with Started(flags, env=env) as s:
                expect('%s: it serves' % name, s.answers(), s.text())
                told = "the machine's clock is before 1970 or after 2096" in s.text()
                expect('%s: it says so' % name, told == odd, s.text())
                s.ask(b'set ttl 1 1000 100\r\n%s\r\nset never 2 0 100\r\n%s\r\nset gone 0 -1 1\r\nx\r\n' %
                      (b'v' * 100, b'w' * 100), b'STORED\r\nSTORED\r\nSTORED\r\n')
                expect('%s: values go to flash' % name,
                       wait_for(lambda: s.stats('extant')['flash_objects'] == '2'), s.stats('extant'))
                answer = s.ask(b'get gone\r\nmg ttl t v\r\nmg never t v\r\nmn\r\n', b'MN\r\n')
                expect('%s: and live as long as they should' % name, re.fullmatch(
                    rb'END\r\nVA 100 t(1000|99\d)\r\nv{100}\r\nVA 100 t-1\r\nw{100}\r\nMN\r\n', answer), answer)
                expect('%s: flush_all' % name, s.ask(b'flush_all\r\nget ttl never\r\n') == b'OK\r\nEND\r\n')
                s.ask(b'set again 0 60 1\r\nx\r\n', b'STORED\r\n')
                expect('%s: and after it' % name, wait_for(
                    lambda: s.ask(b'set again 0 60 1\r\nx\r\nget again\r\n').endswith(b'\r\nx\r\nEND\r\n'), 5))
                expect('%s: it ends' % name, s.stop() == 0)


def main():
    return servers.run_scenarios((io_uring_denied_in_part, standard_files_closed, user_namespace, few_descriptors,
                                  ports, exit_codes, log_file, large_memory, small_memory_file, flash_without_direct_io,
                                  odd_clocks,
                                  start_and_stop_lines, warnings, service_manager))


if __name__ == '__main__':
    sys.exit(main())
