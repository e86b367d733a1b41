#!/usr/bin/env python3
"""What the charts start, in a container as theirs: arguments word for word, user 11211 without capabilities, a
read-only root, a volume, no io_uring, 1.2 times -m of memory, the server as process 1. Our values for Loki's and
Mimir's charts are put in as the charts do it.

EXTANT names the binary. Exit 0: all right; 1: not; 77: no root, bubblewrap or memory control group here.
"""

import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'aid'))
import cgroup  # noqa: E402
import servers  # noqa: E402
from servers import expect, wait_for  # noqa: E402

BINARY = os.path.abspath(os.environ.get('EXTANT', './extant'))
VALUES = os.path.join(HERE, '..', '..', 'packaging', 'kubernetes')
VOLUME = '/mnt'  # the charts' /data
UID = 11211
MB = 1 << 20

# Connects to the port of the first argument, sends the second, prints what comes back.
CLIENT = r'''
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 60) as s:
    s.sendall(sys.argv[2].encode().decode("unicode_escape").encode())
    while piece := s.recv(65536):
        sys.stdout.write(piece.decode())
'''


def no_io_uring():
    """A seccomp filter as container runtimes have it: the three calls of io_uring are not permitted."""
    steps = [(0x20, 0, 0, 0)]  # load the call's number
    for number in (425, 426, 427):
        steps += [(0x15, 0, 1, number), (0x06, 0, 0, 0x00050001)]  # equal: EPERM
    steps += [(0x06, 0, 0, 0x7fff0000)]
    f = tempfile.TemporaryFile()
    f.write(b''.join(struct.pack('=HBBI', *step) for step in steps))
    f.seek(0)
    return f


class Pod:
    """One container, running in a group of its own. Its volume outlives it."""

    def __init__(self, volume, args, limit_mb):
        self.log = volume + '.log'
        self.group = cgroup.Group(limit_mb * MB)
        with no_io_uring() as filter_, open(self.log, 'wb') as log:
            self.process = subprocess.Popen(
                ['sh', '-c', 'echo $$ >"%s/cgroup.procs" && exec "$@"' % self.group.path, 'sh',
                 'bwrap', '--unshare-pid', '--unshare-ipc', '--unshare-net', '--as-pid-1', '--die-with-parent',
                 '--seccomp', str(filter_.fileno()), '--ro-bind', '/', '/', '--dev', '/dev', '--proc', '/proc',
                 '--bind', volume, VOLUME, '--cap-add', 'ALL',
                 'setpriv', '--reuid', str(UID), '--regid', str(UID), '--clear-groups', '--no-new-privs',
                 '--inh-caps=-all', '--bounding-set=-all', BINARY, *args],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(filter_.fileno(),))
        self.inner = None
        children = '/proc/%d/task/%d/children' % (self.process.pid, self.process.pid)

        def serves():
            if self.process.poll() is not None:
                return True
            with open(children) as f:
                pids = f.read().split()
            self.inner = pids[0] if pids else None
            return ' serves on ' in self.text()
        wait_for(serves)

    def text(self):
        with open(self.log) as f:
            return f.read()

    def ask(self, request, port=11211):
        done = subprocess.run(['nsenter', '-t', self.inner, '-n', sys.executable, '-c', CLIENT, str(port), request],
                              capture_output=True, text=True, timeout=servers.PATIENCE_SECONDS)
        return (done.stdout + done.stderr).replace('\r', '')

    def stop(self):
        """As the kubelet does it: SIGTERM to process 1. The exit code and the log."""
        kills = self.group.kills()
        if self.process.poll() is None and self.inner:
            os.kill(int(self.inner), signal.SIGTERM)
        code = self.process.wait(servers.PATIENCE_SECONDS)
        self.group.__exit__()
        return code, kills, self.text()


def value_of(name, key):
    with open(os.path.join(VALUES, name + '-values.yaml')) as f:
        return re.search(r'^  %s: ([^ #\n]+)' % key, f.read(), re.M).group(1)


def chart(memory, extended, item='5m', connections=16384):
    return ['-m %s' % memory, '--extended=' + extended, '-I ' + item, '-c %s' % connections, '-v', '-u 11211']


def our_values(name, words):
    more = value_of(name, 'extraExtendedOptions').replace('/data', VOLUME).replace(':90g', ':1g')
    memory = value_of(name, 'allocatedMemory')
    return chart(memory, '%s,%s' % (words, more), value_of(name, 'maxItemMemory') + 'm', value_of(name, 'connectionLimit'))


FLASH = 'ext_path=%s/file:1G' % VOLUME
KEEPS = True
STARTS = (
    ('Loki', 8192, False, chart(8192, 'modern,track_sizes')),
    ('Loki, persistence', 8192, False, chart(8192, 'modern,track_sizes,%s,ext_wbuf_size=16' % FLASH, connections=1024)),
    ('Loki, older', 8192, False, chart(8192, 'modern,track_sizes,' + FLASH, connections=1024)),
    ('Mimir, flash', 8192, False, chart(8192, 'modern,%s,ext_wbuf_size=8,ext_threads=10,ext_max_sleep=10000,'
                                        'slab_automove_freeratio=0.10,ext_recache_rate=0' % FLASH)),
    ('jsonnet-libs', 1024, False, ['-m 1024', '-I 5m', '-c 1024', '-v', '--extended=track_sizes']),
    ('Bitnami', 256, False, ['-m 256 ', '-o', '', '-o', 'modern,']),
    ('one argument each', 64, False, ['-m 64', '-c 1024']),
    ('memcached with a memory file', 256, KEEPS, ['-m 256', '--memory-file=%s/memory_file' % VOLUME]),
    ('our values for Loki', int(value_of('loki', 'allocatedMemory')), KEEPS,
     our_values('loki', 'modern,track_sizes,%s,ext_wbuf_size=16' % FLASH)),
    ('our values for Mimir', int(value_of('mimir', 'allocatedMemory')), KEEPS, our_values('mimir', 'modern')),
)


def a_start_of_each_chart():
    for name, memory, keeps, args in STARTS:
        with tempfile.TemporaryDirectory(prefix='extant-charts.') as d:
            volume = os.path.join(d, 'data')
            os.mkdir(volume)
            os.chown(volume, 0, UID)  # as fsGroup leaves it
            os.chmod(volume, 0o2775)
            os.chmod(d, 0o755)
            # 1.2 times, rounded as the charts do it; a small one has room for the program.
            limit = max((memory * 12 + 5) // 10, memory + 48)
            for start in range(2 if keeps else 1):
                pod = Pod(volume, args, limit)
                expect(name + ': it serves', pod.inner and 'VERSION 1.6.' in pod.ask('version\\r\\nquit\\r\\n'), pod.text())
                if start == 0:
                    said = pod.ask('set kept 0 0 5\\r\\nhello\\r\\nquit\\r\\n')
                    expect(name + ': it stores', said == 'STORED\n', said)
                said = pod.ask('get kept\\r\\nquit\\r\\n')
                expect('%s: it answers, start %d' % (name, start), said == 'VALUE kept 0 5\nhello\nEND\n', said + pod.text())
                if 'http=' in ' '.join(args):
                    for path in ('readyz', 'healthz', 'metrics'):
                        said = pod.ask('GET /%s HTTP/1.0\\r\\n\\r\\n' % path, 9151)
                        expect('%s: /%s' % (name, path), ' 200 ' in said.split('\n')[0], said[:200])
                code, kills, log = pod.stop()
                expect(name + ': it stops in order', code == 0 and 'stopped by SIGTERM' in log, (code, log))
                expect(name + ': nothing was killed', kills == 0, kills)
                expect(name + ': the limit of memory is enough', 'control group' not in log, log)
                expect(name + ': threads instead of io_uring', 'ext_path' not in ' '.join(args) or '(threads)' in log, log)
                subprocess.run(['chmod', '-R', 'g+rw', volume], check=True)  # as fsGroup leaves them
                if 'memory-file' in ' '.join(args):
                    os.chmod(volume + '/memory_file', 0o600)  # with -e others may not write to it


def main():
    if os.getuid() != 0:
        print('skipped: only root makes such containers')
        return 77
    for tool in ('bwrap', 'setpriv', 'nsenter'):
        if not shutil.which(tool):
            print('skipped: there is no ' + tool)
            return 77
    probe = subprocess.run(['bwrap', '--unshare-pid', '--unshare-net', '--ro-bind', '/', '/', '--dev', '/dev', '--proc', '/proc',
                            '--cap-add', 'ALL', 'true'], capture_output=True, text=True)
    if probe.returncode != 0:
        print('skipped: ' + probe.stderr.strip())
        return 77
    try:
        return servers.run_scenarios((a_start_of_each_chart,))
    except cgroup.NoGroup as why:
        print('skipped: %s' % why)
        return 77


if __name__ == '__main__':
    sys.exit(main())
