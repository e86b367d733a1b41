#!/usr/bin/env python3
"""The packaged unit under systemd itself, booted in a container: this machine's files below an overlay, with a network
of its own. Most of what docs/OPERATIONS.md says of the unit is typed here: the cache is kept over restart and kill, over
a stop with ext_persist; the confinement lets everything work that the settings may ask for.

EXTANT names the binary. Exit 0: all right; 1: not; 77: no root, or no container can be booted here.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'aid'))
import cgroup  # noqa: E402
import servers  # noqa: E402
from servers import expect, wait_for  # noqa: E402

BINARY = os.path.abspath(os.environ.get('EXTANT', './extant'))
PACKAGING = os.path.join(HERE, '..', '..', 'packaging')
CONF = '/etc/extant.conf'
MEMORY = '/dev/shm/extant/memory'

# Requests are the arguments; prints what comes back. It tries again while nobody listens.
CLIENT = r'''
import socket, sys, time
end = time.monotonic() + 60
while True:
    try:
        s = socket.create_connection(("127.0.0.1", 11211), 60)
        break
    except ConnectionRefusedError:
        if time.monotonic() > end:
            sys.exit("refused")
        time.sleep(0.02)
s.sendall(("\r\n".join(sys.argv[1:]) + "\r\nquit\r\n").encode())
out = b""
while piece := s.recv(65536):
    out += piece
sys.stdout.write(out.decode().replace("\r\n", "\n"))
'''

TARGET = '''[Unit]
Description=All that this test needs of a boot
Requires=basic.target
After=basic.target
AllowIsolate=yes
'''


def give_up(why):
    print('skipped: ' + why)
    sys.exit(77)


class Container:
    """The booted system. self.root is its root as seen from here."""

    def __init__(self):
        self.process = None
        self.leader = None

    def lay(self):
        """The files: this machine's, the unit and what belongs to it; nothing that this machine has enabled."""
        self.dir = tempfile.mkdtemp(prefix='extant-systemd.')
        self.over = os.path.join(self.dir, 'over')
        self.root = os.path.join(self.over, 'root')
        self.state = os.path.join(self.dir, 'state')  # on this machine's disk: flash wants direct I/O
        self.log = os.path.join(self.dir, 'boot.log')
        try:
            self.group = cgroup.Group(4 << 30)  # systemd in the container makes those of its units below it
        except cgroup.NoGroup:
            self.group = None
        os.mkdir(self.over)
        os.mkdir(self.state, 0o755)
        subprocess.run(['mount', '-t', 'tmpfs', 'tmpfs', self.over], check=True)
        for name in ('upper', 'work', 'root'):
            os.mkdir(os.path.join(self.over, name))
        subprocess.run(['mount', '-t', 'overlay', 'overlay', '-o', 'lowerdir=/,upperdir=%s/upper,workdir=%s/work' % (
            self.over, self.over), self.root], check=True)
        for name in os.listdir(self.root + '/etc/systemd/system'):
            if name.endswith(('.wants', '.requires')):
                shutil.rmtree(self.root + '/etc/systemd/system/' + name)
        shutil.rmtree(self.root + '/var/lib/extant', ignore_errors=True)
        self.write('/etc/machine-id', '0123456789abcdef0123456789abcdef\n')
        self.write('/etc/systemd/system/extant-test.target', TARGET)
        os.makedirs(self.root + '/usr/local/lib/systemd/system', exist_ok=True)
        shutil.copy(BINARY, self.root + '/usr/local/bin/extant')
        with open(PACKAGING + '/systemd/extant.service') as f:
            unit = f.read().replace('@BINDIR@', '/usr/local/bin').replace('@SYSCONFDIR@', '/etc')
        self.write('/usr/local/lib/systemd/system/extant.service', unit)
        for source, target in (('systemd/extant.socket', '/usr/local/lib/systemd/system/extant.socket'),
                               ('extant.sysusers', '/usr/lib/sysusers.d/extant.conf'),
                               ('extant.tmpfiles', '/usr/lib/tmpfiles.d/extant.conf')):
            shutil.copy(os.path.join(PACKAGING, source), self.root + target)
        with open(PACKAGING + '/extant.conf') as f:
            self.conf = f.read().replace('flash:1g', 'flash:64m')
        self.write(CONF, self.conf)

    def boot(self):
        join = ['sh', '-c', 'echo $$ >"%s/cgroup.procs" && exec "$@"' % self.group.path, 'sh'] if self.group else []
        with open(self.log, 'wb') as log:
            self.process = subprocess.Popen(
                [*join, 'systemd-nspawn', '--quiet', '--boot', '--directory=' + self.root, '--machine=extant-%d' % os.getpid(),
                 '--register=no', '--keep-unit', '--private-network', '--console=pipe', '--capability=CAP_IPC_LOCK',
                 '--rlimit=RLIMIT_MEMLOCK=infinity', '--bind=%s:/var/lib/extant' % self.state,
                 '--bind=%s:/ssd' % self.dir, 'systemd.unit=extant-test.target'],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        children = '/proc/%d/task/%d/children' % (self.process.pid, self.process.pid)

        def is_up():
            if self.process.poll() is not None:
                return True
            with open(children) as f:
                pids = f.read().split()
            self.leader = pids[0] if pids else None
            return self.leader and self.run('systemctl', 'is-active', 'extant-test.target').stdout == 'active\n'
        return wait_for(is_up, 60) and self.process.poll() is None

    def run(self, *command):
        return subprocess.run(['nsenter', '-t', self.leader, '-m', '-r', '-u', '-i', '-n', '-p', '--', *command],
                              capture_output=True, text=True, timeout=servers.PATIENCE_SECONDS)

    def systemctl(self, *words):
        done = self.run('systemctl', *words)
        return done.returncode == 0, done.stdout + done.stderr

    def ask(self, *requests):
        done = self.run('python3', '-c', CLIENT, *requests)
        return done.stdout + done.stderr

    def show(self, name):
        return self.run('systemctl', 'show', '-P', name, 'extant').stdout.strip()

    def pid(self):
        return int(self.show('MainPID'))

    def journal(self):
        return self.run('journalctl', '-u', 'extant', '-o', 'cat', '--no-pager').stdout

    def has_logged(self, pattern):
        """The journal's daemon takes lines when it comes to it."""
        return wait_for(lambda: re.search(pattern, self.journal()), 30)

    def read(self, path):
        return self.run('cat', path).stdout

    def write(self, path, text):
        with open(self.root + path, 'w') as f:
            f.write(text)

    def restart(self, extra='', conf=None):
        """With these lines added to the settings."""
        self.write(CONF, (self.conf if conf is None else conf) + extra)
        self.run('systemctl', 'reset-failed', 'extant')
        return self.systemctl('restart', 'extant')

    def is_empty_group(self):
        """Removes the groups that systemd made below ours; one that a process is still leaving is tried again."""
        for at, names, _ in os.walk(self.group.path, topdown=False):
            for name in names:
                try:
                    os.rmdir(os.path.join(at, name))
                except OSError:
                    return False
        return True

    def tell_leader(self, how):
        """Sends systemd in the container a signal, unless it is gone already."""
        if self.leader:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(self.leader), how)

    def end(self):
        if self.process is not None:
            if self.process.poll() is None:
                self.tell_leader(signal.SIGRTMIN + 4)  # power off
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.tell_leader(signal.SIGKILL)  # without systemd-nspawn it would go on
                self.process.kill()
                self.process.wait()
        for path in (self.root, self.over):
            subprocess.run(['umount', '-l', path], stderr=subprocess.DEVNULL)
        if self.group:
            wait_for(self.is_empty_group, 30)
            self.group.__exit__()
        shutil.rmtree(self.dir, ignore_errors=True)


BOX = Container()
SET = ('set kept 0 0 5', 'hello')
KEPT = 'VALUE kept 0 5\nhello\nEND\n'


def it_starts_confined():
    started = BOX.systemctl('start', 'extant')
    expect('it starts', started[0], started[1] + BOX.journal())
    expect('systemd is told', BOX.show('StatusText') == 'serving on tcp:127.0.0.1:11211', BOX.show('StatusText'))
    status = BOX.read('/proc/%d/status' % BOX.pid())
    expect('no capability', set(re.findall(r'^Cap\w+:\s+(\w+)$', status, re.M)) == {'0' * 16}, status)
    expect('it serves', BOX.ask(*SET) == 'STORED\n')
    lines = BOX.ask('stats extant').splitlines()
    expect('io_uring is allowed', 'STAT io_engine io_uring' in lines, [line for line in lines if 'io_' in line])


def restart_and_kill_keep_the_cache():
    expect('it restarts', BOX.restart()[0], BOX.journal())
    expect('after a restart', BOX.ask('get kept') == KEPT, BOX.journal())
    before = BOX.pid()
    BOX.run('kill', '-9', str(before))
    expect('systemd starts it again', wait_for(lambda: BOX.pid() not in (0, before)))
    expect('after a kill', BOX.ask('get kept') == KEPT, BOX.journal())


def every_setting_that_needs_a_right_works():
    expect('drop_privileges', BOX.restart('-o drop_privileges\n')[0], BOX.journal())
    expect('it serves', BOX.ask('get kept') == KEPT, BOX.journal())
    expect('-k', BOX.restart('-k\n')[0], BOX.journal())
    if re.search(r'^Max locked memory +unlimited ', BOX.read('/proc/%d/limits' % BOX.pid()), re.M):
        locked = re.search(r'^VmLck:\s+(\d+)', BOX.read('/proc/%d/status' % BOX.pid()), re.M)
        expect('memory is locked', locked and int(locked.group(1)) > 0, BOX.journal())
    else:  # this machine doesn't let root raise the limit
        expect('it says so', BOX.has_logged('-k: memory is not locked: '), BOX.journal())
    expect('-d and -u are no harm', BOX.restart('-d\n-u extant\n')[0], BOX.journal())
    expect('it serves', BOX.ask('get kept') == KEPT, BOX.journal())


def a_log_is_rotated():
    BOX.write('/etc/logrotate.d/extant-test', '/var/log/extant/*.log {\n  size 1\n  rotate 2\n  su extant extant\n  postrotate\n'
              '    systemctl reload extant\n  endscript\n}\n')
    expect('it starts', BOX.restart('logfile /var/log/extant/extant.log\n')[0], BOX.journal())
    first = BOX.read('/var/log/extant/extant.log')
    expect('it logs there, with the time', re.match(r'(.*\n)*\d{4}-\d\d-\d\dT[\d:]+Z extant .* serves on tcp:127.0.0.1:11211',
                                                    first), first)
    if shutil.which('logrotate') or os.path.exists('/usr/sbin/logrotate'):
        done = BOX.run('logrotate', '/etc/logrotate.d/extant-test')
        expect('logrotate', done.returncode == 0, done.stderr)
        expect('the old lines', BOX.read('/var/log/extant/extant.log.1').startswith(first))
        BOX.systemctl('restart', 'extant')
        expect('new lines go to a new file', ' serves on ' in BOX.read('/var/log/extant/extant.log'))


def a_wrong_setting_ends_it_once():
    started, said = BOX.restart('threads = many\n')
    expect('it fails', not started)
    expect('the journal has the line', BOX.has_logged(r'extant.conf:\d+: .*-t many'), BOX.journal())
    expect('with the code of a wrong setting', BOX.show('ExecMainStatus') == '78', BOX.show('ExecMainStatus'))
    expect('systemd does not try again', BOX.show('SubState') == 'failed', BOX.show('SubState'))
    expect('it starts with the old settings', BOX.restart()[0], BOX.journal())
    expect('and has the cache', BOX.ask('get kept') == KEPT, BOX.journal())


def the_settings_of_memcached_serve():
    """Debian's memcached.conf without what the unit has."""
    started = BOX.restart('', '-m 64\n-p 11211\n-l 127.0.0.1\n')
    expect('it starts', started[0], BOX.journal())
    expect('it serves', BOX.ask(*SET) == 'STORED\n')
    expect('back', BOX.restart()[0])


def flash_elsewhere_needs_a_line():
    with tempfile.TemporaryDirectory(dir=BOX.dir) as d:
        os.chmod(BOX.dir, 0o755)
        BOX.run('chown', 'extant', '/ssd/' + os.path.basename(d))
        flash = '-o ext_path=/ssd/%s/flash:64m\n' % os.path.basename(d)
        expect('refused', not BOX.restart(flash)[0])
        expect('the line says why', BOX.has_logged('Read-only file system'), BOX.journal())
        os.makedirs(BOX.root + '/etc/systemd/system/extant.service.d')
        BOX.write('/etc/systemd/system/extant.service.d/flash.conf', '[Service]\nReadWritePaths=/ssd\n')
        BOX.systemctl('daemon-reload')
        expect('accepted', BOX.restart(flash)[0], BOX.journal())
        expect('it has the cache', BOX.ask('get kept') == KEPT, BOX.journal())
        expect('and again without', BOX.restart()[0], BOX.journal())


def a_stop_with_ext_persist_outlives_the_memory():
    persist = '-o ext_persist\n'
    conf = BOX.conf.replace('\n-e ' + MEMORY, '\n# ') + persist
    expect('it starts', BOX.restart('', conf)[0], BOX.journal())
    expect('it stores', BOX.ask(*SET) == 'STORED\n')
    expect('it stops', BOX.systemctl('stop', 'extant')[0])
    expect('in order', BOX.show('Result') == 'success' and BOX.show('ExecMainStatus') == '0', BOX.journal())
    expect('it starts again', BOX.systemctl('start', 'extant')[0])
    expect('the value is there', BOX.ask('get kept') == KEPT, BOX.journal())


def a_memory_limit_is_heeded():
    """MemoryMax=. With control groups of version 1 the container's systemd must be let to the memory controller."""
    if BOX.group and BOX.group.version == 1:
        BOX.run('mount', '-o', 'remount,bind,rw', '/sys/fs/cgroup/memory')
        BOX.systemctl('daemon-reexec')
    os.makedirs(BOX.root + '/etc/systemd/system/extant.service.d', exist_ok=True)

    def limit(mb, conf):
        BOX.write('/etc/systemd/system/extant.service.d/limit.conf', '[Service]\nMemoryMax=%s\n' % mb)
        BOX.systemctl('daemon-reload')
        expect('it starts with %s' % mb, BOX.restart('', conf)[0], BOX.journal())

    limit('60M', BOX.conf)
    own = '/system.slice/extant.service/'
    if str(60 << 20) not in BOX.read('/sys/fs/cgroup/memory' + own + 'memory.limit_in_bytes') + BOX.read(
            '/sys/fs/cgroup' + own + 'memory.max'):
        print('       the container has no memory control group')
    else:
        said = 'the control group allows 60 MB, but -m 64 takes up to '
        expect('it says what would fit', BOX.has_logged(said), BOX.journal())
        fits = re.findall(said + r'.*: -m (\d+) would fit', BOX.journal())
        expect('a number', len(fits) == 1 and int(fits[0]) < 60, BOX.journal())
        conf = BOX.conf.replace('-m 64', '-m ' + fits[0]).replace(MEMORY, MEMORY + '.small')
        limit('60M', conf)
        expect('with that, nothing', 'allows 60 MB, but -m %s ' % fits[0] not in BOX.journal(), BOX.journal())
        before = BOX.pid()
        for first in range(0, 8000, 500):
            BOX.ask(*(line for i in range(first, first + 500) for line in ('set k%d 0 0 2000 noreply' % i, 'v' * 2000)))
        expect('nothing is killed', BOX.pid() == before and BOX.ask('get k7999').startswith('VALUE k7999 0 2000\n'),
               BOX.journal())
    limit('infinity', BOX.conf)


def with_the_socket_nobody_is_refused():
    expect('it starts', BOX.restart()[0], BOX.journal())
    BOX.ask(*SET)
    for words in (('stop', 'extant'), ('start', 'extant.socket')):
        expect(' '.join(words), BOX.systemctl(*words)[0])
    expect('a client starts it', BOX.ask('get kept') == KEPT, BOX.journal())
    expect('by the socket', BOX.has_logged('passed by the service manager'), BOX.journal())
    first = BOX.pid()
    expect('restart', BOX.systemctl('restart', 'extant')[0])
    expect('another process, the same cache', BOX.ask('get kept') == KEPT and BOX.pid() != first)
    BOX.systemctl('stop', 'extant.socket', 'extant')


def main():
    if os.getuid() != 0:
        give_up('only root boots a container')
    for tool in ('systemd-nspawn', 'nsenter', 'unshare'):
        if not shutil.which(tool):
            give_up('there is no ' + tool)
    if os.environ.get('IN_OWN_MOUNTS') != '1':
        os.environ['IN_OWN_MOUNTS'] = '1'
        unshare = ['unshare', '--mount', '--propagation', 'private']
        tried = subprocess.run([*unshare, 'true'], capture_output=True, text=True)
        if tried.returncode != 0:  # in a container without the right to it, in a chroot
            give_up('no mounts of our own: ' + tried.stderr.strip())
        os.execvp('unshare', [*unshare, sys.executable, *sys.argv])
    try:
        try:
            BOX.lay()
        except subprocess.CalledProcessError as failed:
            give_up('no overlay: %s' % failed)
        if not BOX.boot():
            with open(BOX.log) as f:
                give_up('no container boots here: ' + f.read()[-300:].strip())
        if BOX.run('unshare', '--user', 'true').returncode != 0:
            give_up('no user namespaces, which PrivateUsers= needs')
        for program in ('systemd-sysusers', 'systemd-tmpfiles'):
            BOX.run(program, *(['--create'] if program == 'systemd-tmpfiles' else []), 'extant.conf')
        return servers.run_scenarios((
            it_starts_confined, restart_and_kill_keep_the_cache, every_setting_that_needs_a_right_works,
            a_log_is_rotated, a_wrong_setting_ends_it_once, the_settings_of_memcached_serve, flash_elsewhere_needs_a_line,
            a_stop_with_ext_persist_outlives_the_memory, a_memory_limit_is_heeded, with_the_socket_nobody_is_refused))
    finally:
        BOX.end()


if __name__ == '__main__':
    sys.exit(main())
