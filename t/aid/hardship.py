"""What a machine does to a server: a wrong clock, a slow or dying device, a full file system. Tests of promises draw them.

Each needs something of the machine (a compiler, FUSE, mounts); can() tells whether it is there. Whatever is mounted
or started is ended by close(), which is safe to call twice.
"""

import ctypes
import os
import shutil
import struct
import subprocess
import tempfile

import faultfs
from faultfs import unmount

HERE = os.path.dirname(os.path.abspath(__file__))
BUILT = {}  # source -> program, or None if it can't be built here


def build(source, *options):
    """Compiles one of our sources once; its program, or None."""
    if source not in BUILT:
        BUILT[source] = None
        if shutil.which('cc'):
            out = os.path.join(tempfile.mkdtemp(prefix='hardship-'), 'built')
            if subprocess.run(['cc', '-std=gnu11', '-O2', '-D_GNU_SOURCE', '-o', out, os.path.join(HERE, source), *options],
                              capture_output=True).returncode == 0:
                BUILT[source] = out
    return BUILT[source]


def forget_built():
    for program in filter(None, BUILT.values()):
        shutil.rmtree(os.path.dirname(program), ignore_errors=True)
    BUILT.clear()


def faultfs_program():
    """Or None."""
    flags = subprocess.run(['pkg-config', '--cflags', '--libs', 'fuse3'], capture_output=True, text=True) \
        if shutil.which('pkg-config') else None
    if flags is None or flags.returncode != 0 or not os.path.exists('/dev/fuse'):
        return None
    return build('../../scripts/faultfs.c', *flags.stdout.split())


def own_mounts():
    """From here on this process and those that it starts see mounts that end with the last of them, however they end; and
    /dev/shm is an empty tmpfs of theirs. False, and nothing is changed: this machine doesn't let us. Before any thread."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_namespace, private = 0x00020000, 1 << 14 | 1 << 18  # CLONE_NEWNS; MS_REC | MS_PRIVATE
    if libc.unshare(new_namespace) != 0 or libc.mount(None, b'/', None, private, None) != 0:
        return False
    return libc.mount(b'tmpfs', b'/dev/shm', b'tmpfs', 0, None) == 0


class Room:
    """A tmpfs of a given size; close() ends it."""

    def __init__(self, where, megabytes):
        self.at = where
        os.makedirs(where, exist_ok=True)
        subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=%dm' % megabytes, 'tmpfs', where], check=True)

    def resize(self, megabytes):
        subprocess.run(['mount', '-o', 'remount,size=%dm' % megabytes, self.at], check=True)

    def fill(self, name='filler'):
        """Takes all room that is left."""
        fill(os.path.join(self.at, name), (1 << 20, 4096))

    def clear(self, name='filler'):
        path = os.path.join(self.at, name)
        if os.path.exists(path):
            os.unlink(path)

    def left(self):
        st = os.statvfs(self.at)
        return st.f_bavail * st.f_bsize

    def close(self):
        unmount(self.at)


def fill(path, sizes):
    """Writes a file, in pieces of these sizes one after the other, until there is no room for it."""
    with open(path, 'wb', buffering=0) as f:
        for size in sizes:
            try:
                while f.write(bytes(size)) == size:
                    pass
            except OSError:
                pass


class Clock:
    """The wall clock of servers that are started with environ(): off by this many seconds."""

    def __init__(self, where):
        self.library = build('../../scripts/movedclock.c', '-shared', '-fPIC')
        self.file = os.path.join(where, 'clock')
        self.off = 0
        with open(self.file, 'wb') as f:
            f.write(struct.pack('q', 0))

    def set(self, seconds):
        self.off = seconds
        with open(self.file, 'r+b') as f:
            f.write(struct.pack('q', seconds))

    def environ(self):
        return {'LD_PRELOAD': self.library, 'MOVED_CLOCK': self.file}


class Device(faultfs.Mount):
    """A directory that fails on demand: faultfs over a directory, which may be a small file system of its own."""

    def __init__(self, where, megabytes=None):
        self.small = os.path.join(where, 'back') if megabytes is not None else None
        if self.small:
            os.makedirs(self.small)
            subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=%dm' % megabytes, 'tmpfs', self.small], check=True)
        super().__init__(faultfs_program(), where)
        self.at = self.point

    def fill(self):
        """Takes all room that is left on its file system."""
        fill(os.path.join(self.back, 'filler'), (1 << 20, 4096))

    def clear(self):
        if os.path.exists(os.path.join(self.back, 'filler')):
            os.unlink(os.path.join(self.back, 'filler'))

    def close(self):
        super().close()
        if self.small:
            unmount(self.small)


def can(what):
    """Does this machine let us have a 'clock', a 'device', 'room' that ends?"""
    if what == 'clock':
        return build('../../scripts/movedclock.c', '-shared', '-fPIC') is not None
    if faultfs_program() is None:
        return False
    where = tempfile.mkdtemp(prefix='hardship-')
    try:
        Device(where, 4 if what == 'room' else None).close()
        return True
    except (OSError, subprocess.CalledProcessError):
        return False
    finally:
        shutil.rmtree(where, ignore_errors=True)
