"""A memory control group for one test, which starts a server in it; version 1 or 2."""

import os
import tempfile
import time


class NoGroup(Exception):
    """No group can be made here: not root, or the hierarchy is read-only or absent."""


def candidates():
    """Directories below which a group may be made: beside or below our own, then at the top."""
    with open('/proc/self/cgroup') as f:
        for line in f:
            _, controllers, path = line.rstrip('\n').split(':', 2)
            if controllers == '':
                for top in ('/sys/fs/cgroup', '/sys/fs/cgroup/unified'):
                    yield top + os.path.dirname(path), 2
                    yield top, 2
            elif 'memory' in controllers.split(','):
                yield '/sys/fs/cgroup/memory' + path, 1
                yield '/sys/fs/cgroup/memory', 1


class Group:
    def __init__(self, limit_bytes):
        name = 'extant-test-%d-%d' % (os.getpid(), time.monotonic_ns())
        for where, version in candidates():
            self.path, self.version = os.path.join(where, name), version
            try:
                os.mkdir(self.path)
            except OSError:
                continue
            try:
                self.write('memory.max' if version == 2 else 'memory.limit_in_bytes', limit_bytes)
                return
            except OSError:
                os.rmdir(self.path)
        raise NoGroup('no memory control group can be made')

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        end = time.monotonic() + 10
        while True:
            try:
                os.rmdir(self.path)
                return
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)

    def write(self, name, value):
        with open(os.path.join(self.path, name), 'w') as f:
            f.write(str(value))

    def read(self, name):
        with open(os.path.join(self.path, name)) as f:
            return f.read()

    def kills(self):
        text = self.read('memory.events' if self.version == 2 else 'memory.oom_control')
        return next(int(line.split()[1]) for line in text.splitlines()
                    if line.split()[0] == 'oom_kill')

    def peak(self):
        """Bytes; None where the kernel doesn't say."""
        try:
            return int(self.read('memory.peak' if self.version == 2 else 'memory.max_usage_in_bytes'))
        except OSError:
            return None

    def put(self, server):
        """The server (servers.Server, not started) will run in the group."""
        wrapper = os.path.join(server.dir, 'in-group')
        with open(wrapper, 'w') as f:
            f.write('#!/bin/sh\necho $$ >"%s/cgroup.procs" && exec "%s" "$@"\n' % (
                self.path, os.path.abspath(server.binary)))
        os.chmod(wrapper, 0o755)
        server.binary = wrapper
        return server
