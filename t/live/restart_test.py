#!/usr/bin/env python3
"""-e FILE as memcached's operators use it: SIGUSR1, start again, items are back; and the refusals.

Follows memcached's t/restart.t where that can be told from outside: values of every size up to -I,
items of several chunks, a TTL that runs out meanwhile, a watcher at the time of the stop. Then the refusals of a
second process, of another size and of a damaged file. Exit 0: all right; 1: not.
"""

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'aid'))
import servers  # noqa: E402
from servers import Client  # noqa: E402

BINARY = os.environ.get('EXTANT', './extant')
FAILED = []


def expect(what, condition, detail=''):
    print('%s %s%s' % ('ok    ' if condition else 'not ok', what, '' if condition else ': %s' % (detail,)))
    if not condition:
        FAILED.append(what)


def again(server, how=signal.SIGUSR1):
    """Ends the server and starts it again on the same file; returns what it logged."""
    server.process.send_signal(how)
    status = server.process.wait(servers.PATIENCE_SECONDS)
    expect('it ends with status 0 after signal %d' % how, status == 0 or how == signal.SIGKILL, status)
    if os.path.exists(server.path):
        os.unlink(server.path)
    server.start()
    return open(server.log).read()


def comes_back(memory, flags, name):
    with servers.Server(BINARY, ['-m', '128', '-I', '2m', '-e', memory] + flags, 'restart') as server:
        c = Client(server)
        sizes = [2 ** i for i in range(1, 20)] + [1000000, 1900000]
        for n in sizes:
            c.set(b'foo%d' % n, b'x' * n)
        for i in range(21):
            c.set(b'chunk%d' % i, b'c' * (768000 + 50 * i))
        c.ask(b'delete chunk20')
        for i in range(20000):
            c.sock.sendall(b'set z%d 0 0 0 noreply\r\n\r\n' % i)
        for i in range(20000):
            c.sock.sendall(b'delete z%d noreply\r\n' % i)
        c.set(b'gone', b'bo', 1)
        c.set(b'stays', b'mo', 1000)
        c.set(b'n', b'41')
        started = time.monotonic()
        cas = int(c.ask(b'mg stays c').split()[1][1:])
        watcher = Client(server)
        expect('%s: a watcher is there' % name, watcher.ask(b'watch fetchers mutations') == b'OK')
        while time.monotonic() < started + 2.1:  # items that expire between two processes expire by the clock
            time.sleep(0.05)
        log = again(server)
        c = Client(server)
        expect('%s: it says what it took over' % name, 'took over' in log, log)
        for n in sizes:
            expect('%s: %d bytes are back' % (name, n), c.get(b'foo%d' % n) == b'x' * n)
        expect('%s: chunked items are back' % name,
               all(c.get(b'chunk%d' % i) == b'c' * (768000 + 50 * i) for i in range(20)))
        expect('%s: a deleted one is not' % name, c.get(b'chunk20') is None)
        expect('%s: nor any of the small ones' % name, c.get(b'z1') is None and c.get(b'z19999') is None)
        expect('%s: what expired is gone' % name, c.get(b'gone') is None)
        expect('%s: what did not is there' % name, c.get(b'stays') == b'mo')
        ttl = int(c.ask(b'mg stays t').split()[1][1:])
        expect('%s: its time went on' % name, 900 < ttl <= 998, ttl)
        expect('%s: cas is the same' % name, c.ask(b'mg stays c') == b'HD c%d' % cas)
        expect('%s: incr goes on' % name, c.ask(b'incr n 1') == b'42')
        c.set(b'stays', b'new')
        expect('%s: cas goes on' % name, int(c.ask(b'mg stays c').split()[1][1:]) > cas)
        expect('%s: as many items as before' % name,
               int(c.stats()['curr_items']) == len(sizes) + 20 + 2, c.stats()['curr_items'])
        for how in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
            c.set(b'key%d' % how, b'value')
            again(server, how)
            c = Client(server)
            expect('%s: signal %d keeps everything as well' % (name, how),
                   c.get(b'key%d' % how) == b'value' and c.get(b'foo1024') == b'x' * 1024)
        if flags:
            return
        refusals(server, memory)


def refusals(server, memory):
    command = server.process.args[:1] + (['-u', 'root'] if os.getuid() == 0 else []) + \
        ['-s', server.path + '2', '-m', '128', '-I', '2m', '-e', memory]
    second = subprocess.run(command, capture_output=True, timeout=servers.PATIENCE_SECONDS)
    expect('a second process is refused', second.returncode not in (0, -6, -11), second.returncode)
    expect('in one line that says why', re.fullmatch(rb'[^\n]*another process uses it\n', second.stderr),
           second.stderr)
    expect('the first does not mind', Client(server).get(b'foo1024') == b'x' * 1024)


def memcacheds_metadata(memory):
    """FILE.meta says that FILE holds memcached's items; Extant writes none."""
    with servers.Server(BINARY, ['-e', memory], 'restart') as server:
        command = server.process.args
    open(memory + '.meta', 'w').close()
    refused = subprocess.run(command, capture_output=True, timeout=servers.PATIENCE_SECONDS)
    expect('an empty FILE.meta is refused', refused.returncode not in (0, -6, -11), refused.returncode)
    expect('in memcached\'s words', b'[restart] Failed to read a tag from metadata file\n' in refused.stderr,
           refused.stderr)
    with open(memory + '.meta', 'w') as meta:
        meta.write('Tmain\nKversion 1\n')
    with servers.Server(BINARY, ['-e', memory], 'restart') as server:
        expect('memcached\'s own is dropped', Client(server).get(b'key') is None and
               not os.path.exists(memory + '.meta'))
    os.unlink(memory)


def starts_empty(memory, name, spoil, flags):
    with servers.Server(BINARY, ['-m', '64', '-e', memory], 'restart') as server:
        Client(server).set(b'key', b'value')
        server.process.terminate()
        server.process.wait(servers.PATIENCE_SECONDS)
    spoil(memory)
    with servers.Server(BINARY, flags + ['-e', memory], 'restart') as server:
        c, log = Client(server), open(server.log).read()
        expect('%s starts empty' % name, c.get(b'key') is None)
        expect('%s is told in one line' % name, len(re.findall('starts empty: ', log)) == 1, log)
        expect('%s: and then it works' % name, c.set(b'key', b'value') and c.get(b'key') == b'value')
    os.unlink(memory)


def pid_in(path):
    try:
        with open(path) as f:
            return int(f.read())
    except (OSError, ValueError):
        return 0


def a_successors_names_stay():
    """When the first server ends, socket and pid file already belong to its successor."""
    with servers.Server(BINARY, ['-P', '@DIR@/pid'], 'first') as first:
        pid_file = os.path.join(first.dir, 'pid')
        expect('the first wrote its pid', servers.wait_for(lambda: pid_in(pid_file) == first.process.pid))
        with servers.Server(BINARY, ['-P', pid_file], 'second') as second:
            second.process.terminate()
            second.process.wait(servers.PATIENCE_SECONDS)
            second.path = first.path
            second.start()
            expect('the second wrote its pid', servers.wait_for(lambda: pid_in(pid_file) == second.process.pid))
            first.process.terminate()
            first.process.wait(servers.PATIENCE_SECONDS)
            expect('the pid file is still the second\'s', pid_in(pid_file) == second.process.pid)
            expect('its socket is there', os.path.exists(first.path) and Client(second).set(b'key', b'value'))
            second.process.terminate()
            second.process.wait(servers.PATIENCE_SECONDS)
            expect('its own socket and pid file it removes',
                   not os.path.exists(first.path) and not os.path.exists(pid_file))


def refused_start(flags):
    command = [BINARY] + (['-u', 'root'] if os.getuid() == 0 else []) + ['-p', '0', '-U', '0'] + flags
    run = subprocess.run(command, capture_output=True, timeout=servers.PATIENCE_SECONDS)
    expect('%s ends at once' % ' '.join(flags), run.returncode not in (0, -6, -11), run.returncode)
    return run.stderr.decode()


def memory_files_that_others_could_write(memory):
    open(memory, 'w').close()
    os.chmod(memory, 0o600)
    with servers.Server(BINARY, ['-e', memory], 'restart') as server:
        log = open(server.log).read()
        expect('an empty -e file is told in one line', log.count('memory file') == 1 and
               'memory file %s starts empty: it has no bytes\n' % memory in log, log)
        Client(server).set(b'key', b'value')
    os.chmod(memory, 0o666)
    said = refused_start(['-e', memory])
    expect('a file that others may write to is refused', re.fullmatch(
        r'[^\n]*others may write to it \(mode 0666\); -o trust_memory_file accepts it\n', said), said)
    with servers.Server(BINARY, ['-e', memory, '-o', 'trust_memory_file'], 'restart') as server:
        expect('unless trust_memory_file is set', Client(server).get(b'key') == b'value')
    os.unlink(memory)


def other_sizes(memory):
    """Killed and started with another -m and -I: everything is there, and soon no more than the new -m in RAM."""
    flash = ['-o', 'ext_path=@DIR@/flash:256m,ext_page_size=4,ext_wbuf_size=4', '-e', memory]
    with servers.Server(BINARY, ['-m', '96', '-I', '2m'] + flash, 'restart') as server:
        c = Client(server)
        values = {b'item%d' % i: b'%d.' % i * (i % 7000 + 1) for i in range(4000)}
        values[b'large'] = b'L' * 1900000
        expect('all are stored', all([c.set(key, value) for key, value in values.items()]))
        for sizes in (['-m', '24', '-I', '2m'], ['-m', '128', '-I', '3m']):
            server.flags[:4] = sizes
            log = again(server, signal.SIGKILL)
            c = Client(server)
            kept = sum(c.get(key) == value for key, value in values.items())
            expect('with %s all are kept' % ' '.join(sizes), kept == len(values), (kept, log))
            expect('and -m bounds RAM', servers.wait_for(lambda: int(c.stats(b'extant')['slab_real_bytes']) <=
                                                         int(sizes[1]) << 20))
        server.flags[:4] = ['-m', '64', '-I', '512k']
        again(server, signal.SIGKILL)
        c = Client(server)
        kept = sum(c.get(key) == value for key, value in values.items())
        expect('a smaller -I keeps what fits', kept >= len(values) - 1, kept)
    os.unlink(memory)


def limited_files(memory):
    """ulimit -f: the file has less room for -m to grow; the limit doesn't end the process."""
    was = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 30, was[1]))
    try:
        with servers.Server(BINARY, ['-m', '64', '-e', memory], 'restart') as server:
            expect('a limit of 3 GB makes a file of 2 GB', os.path.getsize(memory) == 2 << 30, os.path.getsize(memory))
            Client(server).set(b'key', b'value')
            log = again(server, signal.SIGKILL)
            expect('which is taken over', Client(server).get(b'key') == b'value', log)
            expect('and nothing is said to start empty', 'starts empty' not in log, log)
        os.unlink(memory)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100 << 20, was[1]))
        said = refused_start(['-m', '64', '-e', memory])
        expect('one of 100 MB is told', said == 'memory file %s: File too large\n' % memory, said)
        expect('and leaves no file', not os.path.exists(memory))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, was)


def another_boot(path):
    with open(path, 'r+b') as f:
        f.seek(40)  # boot_id in space/arena.c's header
        f.write(b'x')


def main():
    where = tempfile.mkdtemp(prefix='extant-restart-', dir='/dev/shm' if os.access('/dev/shm', os.W_OK) else None)
    try:
        comes_back(os.path.join(where, 'ram'), [], 'without flash')
        comes_back(os.path.join(where, 'both'),
                   ['-o', 'ext_path=@DIR@/flash:512m,ext_page_size=16,ext_wbuf_size=4,ext_item_age=0'], 'with flash')
        memory = os.path.join(where, 'memory')
        memcacheds_metadata(memory)
        a_successors_names_stay()
        memory_files_that_others_could_write(memory)
        other_sizes(memory)
        limited_files(memory)
        starts_empty(memory, 'a boot before', another_boot, ['-m', '64'])
        starts_empty(memory, 'a cut file', lambda path: os.truncate(path, 100000), ['-m', '64'])
        starts_empty(memory, 'some other file', lambda path: open(path, 'w').write('x' * 100000),
                     ['-m', '64', '-o', 'ext_format=' + memory])
        with open(memory, 'w') as f:
            f.write('root:x:0:0:')
        os.chmod(memory, 0o600)
        said = refused_start(['-m', '64', '-e', memory])
        expect('foreign data is refused', said == "memory file %s holds data that is not Extant's; -o ext_format=%s "
               'overwrites it, and all that is in it is lost\n' % (memory, memory), said)
        with open(memory) as f:
            expect('and stays', f.read() == 'root:x:0:0:')
    finally:
        shutil.rmtree(where, ignore_errors=True)
    print('%d failed' % len(FAILED))
    return 1 if FAILED else 0


if __name__ == '__main__':
    sys.exit(main())
