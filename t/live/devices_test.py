#!/usr/bin/env python3
"""Data on a device is not overwritten: file systems, swap, partition tables, mounted and used ones.

Each refusal is one line that names what was found, and leaves every byte as it was; -o ext_format overwrites it,
once. Then a flash file that another server wrote to while the one with -e was stopped: its content counts no
more. Block devices are loop devices; where none can be made, that part is skipped. Exit 0: all right; 1: not.
"""

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'aid'))
import servers  # noqa: E402
from servers import wait_for, expect  # noqa: E402

BINARY = os.environ.get('EXTANT', './extant')
MB = 1 << 20
OPTIONS = 'ext_page_size=4,ext_wbuf_size=2,ext_buffer_mem=16'


@contextlib.contextmanager
def directory():
    where = tempfile.mkdtemp(prefix='extant-devices-')
    try:
        yield where
    finally:
        shutil.rmtree(where, ignore_errors=True)


def make_file(path, megabytes=32):
    with open(path, 'wb') as f:
        f.truncate(megabytes * MB)
    return path


def digest(path):
    with open(path, 'rb') as f:
        return hashlib.sha256(f.read()).hexdigest()


def flash(path, more=''):
    return ['-m', '64', '-o', 'ext_path=%s:32m,%s%s' % (path, OPTIONS, more)]


def refused(name, path, what):
    """The start is refused in one line with this text, and no byte is changed."""
    before = digest(path)
    command = [BINARY] + (['-u', 'root'] if os.getuid() == 0 else []) + ['-p', '0', '-U', '0'] + flash(path)
    run = subprocess.run(command, capture_output=True, timeout=120)
    said = run.stderr.decode()
    expect('%s: it ends at once' % name, run.returncode not in (0, -6, -11), run.returncode)
    expect('%s: one line' % name, said.count('\n') == 1, said)
    expect('%s: says what' % name, re.search(what, said), said)
    expect('%s: nothing is changed' % name, digest(path) == before)


def works(name, path, more=''):
    with servers.Server(BINARY, flash(path, more), 'devices') as server:
        expect('%s: it works' % name, server.command(b'set key 0 0 5 noreply\r\nvalue\r\nget key') ==
               b'VALUE key 0 5\r\nvalue\r\nEND\r\n')


def holds(what, path):
    return r'%s holds %s; -o ext_format=%s overwrites it, and all that is on it is lost' % (path, what, path)


def files_of_others():
    with directory() as where:
        path = os.path.join(where, 'file')
        make_file(path)
        with open(path, 'r+b') as f:
            f.write(b'memories')
        refused('a text', path, holds("data that is not Extant's", path))
        for tool, args, what in (('mkfs.ext4', ['-q', '-F', '-L', 'photos'],
                                  r'ext4 \(filesystem, label "photos"\)'),
                                 ('mkswap', [], r'swap \(other\)')):
            if not shutil.which(tool, path=os.environ.get('PATH', '') + ':/usr/sbin:/sbin'):
                print('skipped: no %s' % tool)
                continue
            subprocess.run([tool] + args + [make_file(path)], check=True, capture_output=True,
                           env=dict(os.environ, PATH=os.environ.get('PATH', '') + ':/usr/sbin:/sbin'))
            refused(tool, path, holds(what, path))
        works('ext_format insists', path, ',ext_format=' + path)
        works('and once is enough', path)


def files_of_nobody():
    with directory() as where:
        path = os.path.join(where, 'file')
        open(path, 'w').close()
        works('an empty file', path)
        works('the same again', path)
        works('a file that was only given a size', make_file(path))
        os.unlink(path)
        works('none', path)
        expect('it is for its owner only', os.stat(path).st_mode & 0o7777 == 0o600)


@contextlib.contextmanager
def loop_device(backing):
    """A block device on a file, or None."""
    run = subprocess.run(['/usr/sbin/losetup', '-f', '--show', backing], capture_output=True) \
        if os.path.exists('/usr/sbin/losetup') and os.getuid() == 0 else None
    if run is None or run.returncode != 0:
        print('skipped: no loop devices here')
        yield None
        return
    device = run.stdout.decode().strip()
    try:
        yield device
    finally:
        subprocess.run(['/usr/sbin/losetup', '-d', device], check=False)


def block_devices():
    with directory() as where, loop_device(make_file(os.path.join(where, 'disk'))) as device:
        if device is None:
            return
        works('a bare device', device)
        works('the same again', device)
        subprocess.run(['dd', 'if=/dev/zero', 'of=' + device, 'bs=1M', 'count=32'], check=True, capture_output=True)
        # the io_uring of the server that ended may hold the device for some milliseconds more
        expect('a file system can be made', wait_for(lambda: subprocess.run(
            ['/usr/sbin/mkfs.ext4', '-q', '-F', device], capture_output=True).returncode == 0))
        refused('a file system', device, holds(r'ext4 \(filesystem\)', device))
        mount = os.path.join(where, 'mount')
        os.mkdir(mount)
        subprocess.run(['mount', device, mount], check=True)
        try:
            command = [BINARY, '-u', 'root', '-p', '0', '-U', '0'] + flash(device, ',ext_format=' + device)
            run = subprocess.run(command, capture_output=True, timeout=120)
            expect('a mounted one is refused, even with ext_format', run.returncode not in (0, -6, -11) and
                   re.fullmatch(r'failed to open file: %s: is mounted, or in use by another process '
                                r'\(Device or resource busy\)\n' % device, run.stderr.decode()), run.stderr)
        finally:
            subprocess.run(['umount', mount], check=True)
        works('ext_format insists', device, ',ext_format=' + device)
        node = os.path.join(where, 'node')
        os.mknod(node, 0o600 | 0o060000, os.stat(device).st_rdev)
        with servers.Server(BINARY, flash(device), 'devices'):
            command = [BINARY, '-u', 'root', '-p', '0', '-U', '0'] + flash(node)
            run = subprocess.run(command, capture_output=True, timeout=120)
            expect('one in use through another node is refused', run.returncode not in (0, -6, -11) and
                   b'in use by another process' in run.stderr, run.stderr)


def fill(server, value, keys):
    with server.connect() as s:
        s.sendall(b''.join(b'set k%d 0 0 %d noreply\r\n%s\r\n' % (i, len(value), value) for i in range(keys)))
        s.sendall(b'mn\r\n')
        answer = b''
        while not answer.endswith(b'MN\r\n'):
            answer += s.recv(65536)
        return answer == b'MN\r\n'


def values_of(server, keys):
    with server.connect() as s:
        file, found = s.makefile('rb'), []
        for first in range(0, keys, 50):
            s.sendall(b'get ' + b' '.join(b'k%d' % i for i in range(first, first + 50)) + b'\r\n')
            line = file.readline()
            while line != b'END\r\n':
                found.append(file.read(int(line.split()[3]) + 2)[:1])
                line = file.readline()
        return found


def flash_that_another_server_used():
    """A server with -e is killed; one without -e on the same flash is killed while it writes; then again one with
    -e."""
    where = tempfile.mkdtemp(prefix='extant-devices-', dir='/dev/shm' if os.access('/dev/shm', os.W_OK) else None)
    keys = 12000
    try:
        options = ['-m', '8', '-o', 'ext_path=%s/flash:64m,ext_item_age=0,%s' % (where, OPTIONS)]
        with servers.Server(BINARY, options + ['-e', where + '/memory'], 'first') as first:
            expect('the first fills it', fill(first, b'a' * 2000, keys))
            first.process.send_signal(signal.SIGKILL)
            first.process.wait(60)
        with servers.Server(BINARY, options, 'second') as second:
            expect('the second fills it', fill(second, b'b' * 2000, keys))
            second.process.send_signal(signal.SIGKILL)
            second.process.wait(60)
        with servers.Server(BINARY, options + ['-e', where + '/memory'], 'third') as third:
            log = open(third.log).read()
            expect('the third says why it is empty', log.count('starts empty: flash: %s/flash was written to by another '
                   'process since' % where) == 1, log)
            expect('and is empty', values_of(third, keys) == [])
            expect('it is filled', fill(third, b'c' * 2000, keys))
            third.process.send_signal(signal.SIGKILL)
            third.process.wait(60)
            os.unlink(third.path)
            third.start()
            found = values_of(third, keys)
            expect('and keeps that', len(found) > keys / 2 and set(found) == {b'c'}, len(found))
    finally:
        shutil.rmtree(where, ignore_errors=True)


if __name__ == '__main__':
    sys.exit(servers.run_scenarios([files_of_others, files_of_nobody, block_devices,
                                    flash_that_another_server_used]))
