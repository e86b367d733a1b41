#!/usr/bin/env python3
"""Kills a server under load, again and again, and checks everything that it had acknowledged.

Clients (processes, each with keys of its own) store, change and delete values that tell their key and
version, and remember what was answered. The server runs with -e, with and without flash. At a random
instant it gets SIGKILL (now and then SIGTERM or SIGUSR1; now and then while it is still starting), is
started again, and every client compares each of its keys with its history: what was answered must be
there; what was sent but not answered may have happened or not, in the order in which it was sent.

With flash, each start may have another device more or less, larger or smaller ones, in another order, and other
buffers. A key that is missing after a device went or became smaller may have been on it; it must not be an older
value, and without such a change nothing is missing.

A third part of the cycles, "nearly full", only overwrites: all keys, 70% of a small flash, with and without
TTL, at full speed, and nothing is read for four lives in a row, since a read would settle which of two values
is the older. Missing keys then count as lost, minus those that the server says it evicted.

Prints what was found in one line:
  lost          acknowledged, and not there
  stale         an older value than the acknowledged one
  wrong         anything else that no history explains: bytes, flags, expiry
  brought back  deleted, flushed or expired, and there again
All of them must be 0. One seed gives one sequence of operations and delays.

  torture.py [--cycles 30] [--seed N] [--server ./extant] [--clients 6] [--keys 500] [--keep]
"""
import argparse
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 't', 'aid'))
import servers  # noqa: E402
from servers import PATIENCE_SECONDS  # noqa: E402

MISSING = None
SHARED_KEYS = 8
BATCH_MAX = 12
FAR_TTLS = (10000, 20000, 30000, 40000)  # they differ by far more than the time a run takes
TTL_SLACK = 3000
SHORT_TTLS = (2, 3, 5)
EXPIRY_SLACK = 1.5  # clocks count whole seconds
START_SECONDS = PATIENCE_SECONDS
SWEEPERS, SWEEPER_KEYS = 2, 30000
NEARLY_FULL = 'nearly full'


class State:
    """The state of a key: a value or a number."""

    __slots__ = ('version', 'length', 'appended', 'number', 'ttl', 'stale', 'gone_after', 'sure_until')

    def __init__(self, version=0, length=0, number=None):
        self.version, self.length, self.number = version, length, number
        self.appended, self.ttl, self.stale = 0, 0, False
        self.gone_after = self.sure_until = None  # of a short life, by time.monotonic()

    def copy(self):
        s = State(self.version, self.length, self.number)
        s.appended, s.ttl, s.stale = self.appended, self.ttl, self.stale
        s.gone_after, s.sure_until = self.gone_after, self.sure_until
        return s

    def bytes_of(self, key):
        if self.number is not None:
            return b'%d' % self.number
        unit = b'%s=%d;' % (key, self.version)
        return (unit * (self.length // len(unit) + 1))[:self.length] + b'+' * self.appended


def connect(path):
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            return servers.Client(path)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.005)


class Client:
    def __init__(self, number, seed, path, keys):
        self.random = random.Random('%d/%d' % (seed, number))
        self.path = path
        self.keys = [b'client%d/key%d' % (number, i) for i in range(keys)]
        self.numbers = frozenset(self.keys[-keys // 8:])
        self.acked = dict.fromkeys(self.keys, MISSING)  # key -> State or MISSING
        self.newest = dict.fromkeys(self.keys, 0)       # highest version ever sent
        self.pending = []                               # (key, State or MISSING) sent, not answered
        self.shared_acked = [0] * SHARED_KEYS
        self.shared_pending = [0] * SHARED_KEYS
        self.operations = self.refusals = 0

    # ---- load ----

    def length(self):
        dice = self.random.random()
        if dice < 0.6:
            return self.random.randrange(20, 1000)
        if dice < 0.98:
            return self.random.randrange(1000, 9000)
        return self.random.randrange(9000, 100000)

    def store(self, key, old, conn, verb=b'set'):
        self.newest[key] += 1
        s = State(self.newest[key], self.length())
        if key in self.numbers:
            s = State(0, 0, self.random.randrange(90, 1000))
        s.ttl = self.random.choice((0, 0, 0) + FAR_TTLS)
        if key not in self.numbers and self.random.random() < 0.03:
            s.ttl = self.random.choice(SHORT_TTLS)
            s.sure_until = time.monotonic() + s.ttl - 1 - EXPIRY_SLACK
        value, cas = s.bytes_of(key), b''
        if verb == b'cas':
            conn.send(b'mg %s c\r\n' % key)
            m = re.fullmatch(rb'HD c(\d+)(?: [WXZ])*', conn.line())
            if not m:
                return None
            cas = b' ' + m.group(1)
        return s, b'%s %s %d %d %d%s\r\n%s\r\n' % (verb, key, s.version, s.ttl, len(value), cas, value), b'STORED'

    def choose(self, conn, used):
        """One operation: key, the state after it, bytes to send, the answer that means it was done."""
        key = self.random.choice(self.keys)
        while key in used:
            key = self.random.choice(self.keys)
        old, dice = self.acked[key], self.random.random()
        if old is not MISSING and old.gone_after is not None:
            old = MISSING  # it may expire at any moment: only what makes a new one is predictable
        if old is MISSING or dice < 0.35:
            return (key,) + self.store(key, old, conn)
        if dice < 0.50:
            return key, MISSING, b'delete %s\r\n' % key, b'DELETED'
        s = old.copy()
        if dice < 0.58:
            s.ttl = self.random.choice(FAR_TTLS)
            return key, s, b'touch %s %d\r\n' % (key, s.ttl), b'TOUCHED'
        if s.number is not None:
            if dice < 0.85:
                s.number += 7
                return key, s, b'incr %s 7\r\n' % key, b'%d' % s.number
            s.number = max(0, s.number - 3)
            return key, s, b'decr %s 3\r\n' % key, b'%d' % s.number
        if dice < 0.70:
            s.appended += 1
            s.stale = False
            return key, s, b'append %s 0 0 1\r\n+\r\n' % key, b'STORED'
        if dice < 0.80:
            stored = self.store(key, old, conn, b'cas')
            return (key,) + (stored or self.store(key, old, conn))
        if dice < 0.88:
            s.stale = True
            return key, s, b'md %s I\r\n' % key, b'HD'
        return key, s, b'touch %s %d\r\n' % (key, s.ttl), b'TOUCHED'

    def one_batch(self, conn):
        batch, used = [], set()
        for _ in range(self.random.randrange(1, BATCH_MAX)):
            op = self.choose(conn, used)
            used.add(op[0])
            batch.append(op)
        shared = self.random.randrange(SHARED_KEYS)
        self.pending = [(op[0], op[1]) for op in batch]
        self.shared_pending[shared] = 1
        conn.send(b''.join(op[2] for op in batch) + b'incr shared%d 1\r\n' % shared)
        refused = []
        for key, state, _, good in batch:
            line = conn.line()
            if line == b'SERVER_ERROR out of memory' or line == b'SERVER_ERROR out of memory storing object':
                refused.append((key, self.acked[key]))
                self.acked[key] = MISSING
                self.pending.pop(0)
                continue
            if line != good:
                raise RuntimeError('%s: answered %s, not %s' % (key, line, good))
            if state is not MISSING and state.sure_until is not None and state.gone_after is None:
                state.gone_after = time.monotonic() + state.ttl + EXPIRY_SLACK
            self.acked[key] = state
            self.pending.pop(0)
            self.operations += 1
        if not conn.line().isdigit():
            raise RuntimeError('incr of a shared key failed')
        self.shared_acked[shared] += 1
        self.shared_pending[shared] = 0
        self.operations += 1
        for key, old in refused:
            self.take_refused(conn, key, old)
        if self.random.random() < 0.3:
            self.read_some(conn)

    def take_refused(self, conn, key, old):
        """A change refused for lack of memory leaves what was there, or nothing."""
        self.refusals += 1
        conn.send(b'mg %s v f t s k\r\n' % key)
        found = self.found(conn)
        what = self.judge(key, found, [old, MISSING])
        if what:
            raise RuntimeError('%s after a refusal: %s' % (key, what[1]))
        self.acked[key] = MISSING if found is MISSING else old

    def read_some(self, conn):
        """Hits move objects between memory and flash; every value read is checked as well."""
        keys = self.random.sample(self.keys, 5)
        conn.send(b''.join(b'mg %s v f t s k\r\n' % k for k in keys))
        for key in keys:
            found = self.found(conn)
            what = self.judge(key, found, [self.acked[key]])
            if what:
                raise RuntimeError('%s while running: %s' % (key, what[1]))

    def load(self, seconds):
        """Until the connection breaks (True) or the time is over (False)."""
        end = time.monotonic() + seconds
        conn = connect(self.path)
        try:
            while time.monotonic() < end:
                self.one_batch(conn)
            conn.close()
            return False
        except OSError:
            return True

    # ---- check ----

    @staticmethod
    def found(conn):
        """What mg shows: MISSING or (value, flags, ttl, stale)."""
        head = conn.line().split()
        if head[0] == b'EN':
            return MISSING
        if head[0] != b'VA':
            raise RuntimeError('mg: %s' % head)
        value = conn.exactly(int(head[1]) + 2)[:-2]
        flags = {f[:1]: f[1:] for f in head[2:]}
        return value, int(flags[b'f']), int(flags[b't']), b'X' in flags

    def matches(self, key, found, state):
        if state is MISSING:
            return found is MISSING
        if found is MISSING:
            return state.sure_until is not None and time.monotonic() > state.sure_until
        if state.gone_after is not None and time.monotonic() > state.gone_after:
            return False
        value, flags, ttl, stale = found
        if state.number is not None:
            value = value.rstrip(b' ')
        wanted = state.bytes_of(key)
        if value != wanted or flags != state.version or stale != state.stale:
            return False
        if state.ttl == 0:
            return ttl == -1
        return state.ttl - TTL_SLACK <= ttl <= state.ttl

    def judge(self, key, found, allowed):
        """None, or (kind, text) of the error."""
        if any(self.matches(key, found, s) for s in allowed):
            return None
        s = allowed[-1]
        if found is MISSING:
            return 'lost', '%s: version %d is not there' % (key, s.version)
        value, flags, ttl, stale = found
        text = '%s: found %s.. (%d bytes) flags %d ttl %d stale %d' % (key, value[:30], len(value), flags, ttl, stale)
        if s is MISSING or (s.gone_after is not None and time.monotonic() > s.gone_after):
            return 'brought back', text
        text += ', wanted version %d number %s (%d bytes) ttl %d stale %d' % (
            s.version, s.number, len(s.bytes_of(key)), s.ttl, s.stale)
        if s.number is None and flags < min(a.version for a in allowed if a is not MISSING):
            return 'stale', text
        return 'wrong', text

    def check(self, shrunk=False):
        """Compares every key and adopts the values found. Returns (kind, text) of each error. shrunk: what is missing
        may have been on a device that is gone."""
        conn = connect(self.path)
        actual = {}
        for at in range(0, len(self.keys), 100):
            part = self.keys[at:at + 100]
            conn.send(b''.join(b'mg %s v f t s k\r\n' % k for k in part))
            for key in part:
                actual[key] = self.found(conn)
        conn.close()
        wrong = []
        after = dict(self.pending)
        for key in self.keys:
            allowed = [self.acked[key]] + ([after[key]] if key in after else [])
            what = self.judge(key, actual[key], allowed)
            if what and not (shrunk and what[0] == 'lost'):
                wrong.append(what)
        wrong += [] if shrunk else self.check_order(actual)
        for key, state in self.pending:
            if self.matches(key, actual[key], state):
                self.acked[key] = state
        for key in self.keys:
            if actual[key] is MISSING:
                self.acked[key] = MISSING
            elif self.acked[key] is not MISSING and self.acked[key].sure_until is not None:
                s = self.acked[key]
                s.gone_after = s.gone_after or time.monotonic() + s.ttl + EXPIRY_SLACK
        self.pending = []
        return wrong

    def check_order(self, actual):
        """Of the unanswered requests, a first part was executed and the rest was not."""
        happened = [self.matches(key, actual[key], state) for key, state in self.pending]
        surely_not = [not self.matches(key, actual[key], state) and self.matches(key, actual[key], self.acked[key])
                      for key, state in self.pending]
        for i, missing in enumerate(surely_not):
            for k in range(i + 1, len(happened)):
                same = self.matches(self.pending[k][0], actual[self.pending[k][0]], self.acked[self.pending[k][0]])
                if missing and happened[k] and not same:
                    return [('wrong', '%s happened, the earlier %s did not' % (self.pending[k][0], self.pending[i][0]))]
        return []

    def flushed(self):
        self.acked = dict.fromkeys(self.keys, MISSING)
        self.pending = []

    def all_missing(self):
        """How many keys that should be there are there, and how many not."""
        conn = connect(self.path)
        there = gone = 0
        for at in range(0, len(self.keys), 100):
            part = [k for k in self.keys[at:at + 100]
                    if self.acked[k] is not MISSING and self.acked[k].gone_after is None]
            conn.send(b''.join(b'mg %s t\r\n' % k for k in part))
            for _ in part:
                if conn.line().startswith(b'HD'):
                    there += 1
                else:
                    gone += 1
        conn.close()
        return there, gone


class Sweeper:
    """Overwrites its keys and never reads them but in check(), which looks only each CHECK_EVERY times."""

    CHECK_EVERY = 4
    BATCH = 200
    LENGTHS = (100, 400, 700, 1000, 1300)

    def __init__(self, number, seed, path, keys):
        self.random = random.Random('%d/sweeper%d' % (seed, number))
        self.path = path
        self.keys = [b'sweeper%d/%d' % (number, i) for i in range(keys)]
        self.acked = [0] * keys            # version; 0: none
        self.pending = {}                  # number of key -> versions sent since, not answered
        self.newest = self.operations = self.refusals = self.checks = self.missing = 0

    def value(self, i, version):
        unit = b'%s=%d;' % (self.keys[i], version)
        length = self.LENGTHS[(i * 7 + version * 3) % len(self.LENGTHS)]
        return (unit * (length // len(unit) + 1))[:length]

    @staticmethod
    def ttl(i, version):
        dice = (i * 31 + version * 17) % 100
        return 2 if dice < 5 else 20000 if dice < 30 else 0

    def one_batch(self, conn, batch):
        self.newest += 1
        version, request = self.newest, []
        for i in batch:
            value = self.value(i, version)
            request.append(b'set %s 0 %d %d\r\n%s\r\n' % (self.keys[i], self.ttl(i, version), len(value), value))
            self.pending.setdefault(i, []).append(version)
        conn.send(b''.join(request))
        for i in batch:
            if conn.line() == b'STORED':
                self.acked[i] = version
                self.operations += 1
            else:
                self.acked[i] = 0
                self.refusals += 1
            del self.pending[i]

    def load(self, seconds):
        end = time.monotonic() + seconds
        conn = connect(self.path)
        try:
            while time.monotonic() < end:
                self.one_batch(conn, self.random.sample(range(len(self.keys)), self.BATCH))
            conn.close()
            return False
        except OSError:
            return True

    def look(self, conn, i, before):
        """One answer to a get. None, or the error; a miss is counted."""
        line = conn.line()
        if line == b'END':
            versions = [self.acked[i]] + before.get(i, [])
            if self.acked[i] and not any(self.ttl(i, v) == 2 for v in versions):
                self.missing += 1
            self.acked[i] = 0
            return None
        value = conn.exactly(int(line.split()[3]) + 2)[:-2]
        conn.line()
        for version in [self.acked[i]] + before.get(i, []):
            if version and value == self.value(i, version):
                self.acked[i] = version
                return None
        if not self.acked[i]:
            return None  # refused, or never answered: the key may hold either
        return 'stale', '%s: found %s.., wanted version %d' % (self.keys[i], value[:40], self.acked[i])

    def check(self, _=False):
        """An unanswered set stays uncertain until the next one of its key is answered."""
        self.checks += 1
        self.missing = 0
        if self.checks % self.CHECK_EVERY:
            return []
        before, self.pending, wrong = self.pending, {}, []
        conn = connect(self.path)
        for at in range(0, len(self.keys), self.BATCH):
            part = range(at, min(at + self.BATCH, len(self.keys)))
            conn.send(b''.join(b'get %s\r\n' % self.keys[i] for i in part))
            wrong += [w for w in [self.look(conn, i, before) for i in part] if w]
        conn.close()
        return wrong + [('lost', '%s: %d keys are missing' % (self.keys[0], self.missing))] * (self.missing > 0)

    def flushed(self):
        self.acked = [0] * len(self.keys)
        self.pending = {}


def client_main(number, seed, path, keys, pipe, kind):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    client = kind(number, seed, path, keys)
    while True:
        what, *args = pipe.recv()
        try:
            if what == 'load':
                answer = client.load(*args)
            elif what == 'check':
                answer = client.check(*args)
            elif what == 'flushed':
                answer = client.flushed()
            elif what == 'all_missing':
                answer = client.all_missing()
            elif what == 'shared':
                answer = (client.shared_acked, client.shared_pending)
                client.shared_acked = [0] * SHARED_KEYS
                client.shared_pending = [0] * SHARED_KEYS
            elif what == 'missing':
                answer = client.missing
            elif what == 'operations':
                answer = client.operations, client.refusals
            else:
                return
        except Exception as e:  # told to the parent, which ends the run
            answer = e
        pipe.send(answer)


class Torture:
    def __init__(self, args):
        self.args = args
        self.random = random.Random('%d/parent' % args.seed)
        self.dir = tempfile.mkdtemp(prefix='extant-torture-')
        memory = '/dev/shm' if os.access('/dev/shm', os.W_OK) else self.dir
        self.memory_dir = tempfile.mkdtemp(prefix='extant-torture-', dir=memory)
        self.path = os.path.join(self.dir, 'socket')
        self.log = open(os.path.join(self.dir, 'log'), 'ab')
        self.found = {'lost': 0, 'stale': 0, 'wrong': 0, 'brought back': 0}
        self.texts = []
        self.checked = self.kills = self.flushes = self.early_kills = 0
        self.slowest_start = self.slowest_stop = 0.0
        self.operations = self.refusals = self.evicted_ram = self.missing = 0
        self.server = None
        self.shared = [0] * SHARED_KEYS
        self.pipes = []
        self.devices = {'flash': 1024}  # MB
        self.shrunk, self.grown, self.shrinks = False, 0, 0

    # ---- server ----

    def command(self, flash):
        if flash == NEARLY_FULL:
            return self.command(False)[:-2] + [
                '-m', '16', '-o', 'ext_path=%s:64m,ext_page_size=4,ext_wbuf_size=2,ext_item_age=1'
                % os.path.join(self.dir, 'small')]
        cmd = [self.args.server, '-s', self.path, '-t', '3', '-e', os.path.join(self.memory_dir, 'memory')]
        if os.geteuid() == 0:
            cmd += ['-u', 'root']
        if not flash:
            return cmd + ['-m', '512']
        paths = ['ext_path=%s:%dm' % (os.path.join(self.dir, name), size) for name, size in self.devices.items()]
        self.random.shuffle(paths)
        return cmd + ['-m', '32', '-o', ','.join(paths) + ',ext_page_size=8,ext_wbuf_size=2,ext_item_size=64,'
                      'ext_item_age=1,ext_buffer_mem=%d' % self.random.choice((48, 48, 48, 24, 96))]

    def change_devices(self, may_shrink):
        """Another set of devices, for the next start."""
        was = self.devices
        self.devices = {'flash': self.random.choice((1024, 1024, 1200, 400))}
        for name in ('second', 'third'):
            if self.random.random() < (0.5 if name == 'second' else 0.2):
                self.devices[name] = self.random.choice((200, 320))
        if not may_shrink:
            self.devices = {name: max(self.devices.get(name, 0), was.get(name, 0)) for name in {**was, **self.devices}}
        self.shrunk = any(self.devices.get(name, 0) < size for name, size in was.items())
        self.shrinks += self.shrunk
        self.grown += any(was.get(name, 0) < size for name, size in self.devices.items())

    def start(self, flash):
        """Starts the server; now and then kills it while it is starting, and starts it again."""
        while True:
            if os.path.exists(self.path):
                os.unlink(self.path)
            begin = time.monotonic()
            self.server = subprocess.Popen(self.command(flash), stdout=self.log, stderr=self.log,
                                           stdin=subprocess.DEVNULL)
            if self.random.random() < 0.15:
                time.sleep(self.random.random() * 0.06)
                self.server.kill()
                self.server.wait()
                self.early_kills += 1
                continue
            while True:
                try:
                    servers.Client(self.path).close()
                    break
                except OSError:
                    if self.server.poll() is not None:
                        self.fail('the server ended with status %d' % self.server.returncode)
                    if time.monotonic() - begin > START_SECONDS:
                        self.fail('the server does not start')
                    time.sleep(0.002)
            self.slowest_start = max(self.slowest_start, time.monotonic() - begin)
            return

    def end_server(self, how):
        begin = time.monotonic()
        self.server.send_signal(how)
        try:
            status = self.server.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.server.send_signal(signal.SIGABRT if self.args.keep else signal.SIGKILL)
            self.fail('the server does not stop')
        self.slowest_stop = max(self.slowest_stop, time.monotonic() - begin)
        if status not in (0, -how):
            self.fail('the server ended with status %d' % status)

    def fail(self, why):
        raise SystemExit('torture: %s; seed %d, log in %s' % (why, self.args.seed, self.dir))

    # ---- clients ----

    def all(self, *what):
        for pipe in self.pipes:
            pipe.send(what)

    def answers(self):
        result = []
        for pipe in self.pipes:
            answer = pipe.recv()
            if isinstance(answer, Exception):
                if self.server and self.server.poll() is None:
                    self.server.kill()
                self.args.keep = True
                self.fail('client: %s: %s' % (type(answer).__name__, answer))
            result.append(answer)
        return result

    def start_clients(self, kind, count, keys):
        self.pipes = []
        for i in range(count):
            ours, theirs = multiprocessing.Pipe()
            process = multiprocessing.Process(target=client_main, daemon=True,
                                              args=(i, self.args.seed, self.path, keys, theirs, kind))
            process.start()
            theirs.close()
            self.pipes.append(ours)

    # ---- a cycle ----

    def tell(self, found):
        for kind, text in found:
            self.found[kind] += 1
            self.texts.append('%s: %s' % (kind, text))

    def stats(self, *names, group=b''):
        conn = connect(self.path)
        conn.send(b'stats%s\r\n' % group)
        values = {}
        while (line := conn.line()) != b'END':
            _, name, value = line.split(b' ', 2)
            values[name.decode()] = value.decode()
        conn.close()
        return [int(values.get(n, 0)) for n in names]

    def store_shared(self):
        conn = connect(self.path)
        for i in range(SHARED_KEYS):
            conn.send(b'set shared%d 0 0 1\r\n0\r\n' % i)
            if conn.line() != b'STORED':
                self.fail('a shared key is refused')
        conn.close()
        self.shared = [0] * SHARED_KEYS

    def check_shared(self):
        """Each shared key holds all increments that were answered, and some of those that were not."""
        self.all('shared')
        answers = self.answers()
        conn = connect(self.path)
        for i in range(SHARED_KEYS):
            conn.send(b'get shared%d\r\n' % i)
            line = conn.line()
            if line == b'END':
                if not self.shrunk:
                    self.tell([('lost', 'shared%d' % i)])
                conn.send(b'add shared%d 0 0 1\r\n0\r\n' % i)
                conn.line()
                self.shared[i] = 0
                continue
            value = int(conn.exactly(int(line.split()[3]) + 2))
            conn.line()
            least = self.shared[i] + sum(a[0][i] for a in answers)
            most = least + sum(a[1][i] for a in answers)
            if value < least:
                self.tell([('stale', 'shared%d: %d, at least %d were answered' % (i, value, least))])
            elif value > most:
                self.tell([('wrong', 'shared%d: %d, at most %d were sent' % (i, value, most))])
            self.shared[i] = value
        conn.close()

    def cycle(self, flash):
        flush = self.random.random() < 0.15
        seconds = 0.05 + self.random.random() * self.args.seconds
        how = self.random.choices((signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1), (10, 1, 1))[0]
        if flush:
            self.all('load', seconds)
            self.answers()
            self.flush(how, flash)
            return
        self.all('load', 60)
        time.sleep(seconds)
        self.end_server(how)
        if False in self.answers():
            self.fail('a client did not notice the end')
        self.kills += 1
        if flash and self.random.random() < 0.5:
            self.change_devices(self.random.random() < 0.3)
        self.start(flash)
        self.check_shared()
        self.all('check', self.shrunk)
        self.shrunk = False
        for found in self.answers():
            self.tell(found)
        self.checked += self.args.keys * self.args.clients
        evictions, = self.stats('evictions')
        if evictions:
            self.fail('%d evictions: the sizes of this run are wrong' % evictions)

    def given_up(self):
        """Values that this life evicted, from RAM and with pages of flash; the latter count over all lives."""
        ram, flash = self.stats('evictions', 'extstore_objects_evicted')
        self.evicted_ram += ram
        return flash

    def overwrite_cycle(self):
        """Everything is overwritten and nothing read."""
        self.all('load', 60)
        time.sleep(0.1 + self.random.random() * self.args.seconds * 2)
        self.given_up()
        self.end_server(self.random.choices((signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1), (10, 1, 1))[0])
        if False in self.answers():
            self.fail('a client did not notice the end')
        self.kills += 1
        self.start(NEARLY_FULL)
        self.all('check')
        found = [w for answer in self.answers() for w in answer]
        self.all('missing')
        missing, evicted = sum(self.answers()), self.given_up() + self.evicted_ram
        self.missing += missing
        if self.missing <= evicted:  # each of them may be one of those
            found = [w for w in found if w[0] != 'lost']
        self.tell(found)
        self.checked += SWEEPER_KEYS * SWEEPERS // Sweeper.CHECK_EVERY
        same_tag, = self.stats('evictions_same_tag', group=b' extant')
        if same_tag:
            self.tell([('lost', '%d values dropped for their tag' % same_tag)])

    def count_operations(self):
        self.all('operations')
        for operations, refusals in self.answers():
            self.operations += operations
            self.refusals += refusals
        self.all('end')

    def overwrite(self, cycles):
        self.start_clients(Sweeper, SWEEPERS, SWEEPER_KEYS)
        self.start(NEARLY_FULL)
        for _ in range(cycles):
            self.overwrite_cycle()
            if self.texts:
                break
        self.end_server(signal.SIGTERM)
        self.count_operations()

    def empty(self):
        """Of the lives before, what had not gone to flash is still there."""
        conn = connect(self.path)
        conn.send(b'flush_all\r\n')
        if conn.line() != b'OK':
            self.fail('flush_all is refused')
        conn.close()

    def flush(self, how, flash):
        """flush_all, killed before or after its answer: all is there, or nothing."""
        conn = connect(self.path)
        conn.send(b'flush_all\r\n')
        answered = self.random.random() < 0.5
        if answered and conn.line() != b'OK':
            self.fail('flush_all is refused')
        self.end_server(how)
        conn.close()
        self.kills += 1
        self.flushes += 1
        self.start(flash)
        self.all('all_missing')
        answers = self.answers()
        there, gone = sum(a[0] for a in answers), sum(a[1] for a in answers)
        self.checked += there + gone
        self.all('shared')
        self.answers()
        if answered and there:
            self.tell([('brought back', 'after flush_all')] * there)
        elif there and gone:
            self.tell([('wrong', 'flush_all by halves: %d there, %d gone' % (there, gone))])
        if there:
            self.check_shared_unchanged()
            return
        self.all('flushed')
        self.answers()
        self.store_shared()

    def check_shared_unchanged(self):
        """The increments before an unanswered flush_all that did not happen are taken as they are."""
        conn = connect(self.path)
        for i in range(SHARED_KEYS):
            conn.send(b'incr shared%d 0\r\n' % i)
            line = conn.line()
            self.shared[i] = int(line) if line.isdigit() else 0
        conn.close()

    def run(self):
        begin = time.monotonic()
        third = self.args.cycles // 3
        self.overwrite(third)
        self.start_clients(Client, self.args.clients, self.args.keys)
        for flash, cycles in ((True, self.args.cycles - 2 * third), (False, third)):
            if self.texts:
                break
            self.start(flash)
            self.empty()
            self.all('flushed')
            self.answers()
            self.store_shared()
            for _ in range(cycles):
                self.cycle(flash)
                if self.texts:
                    break
            self.end_server(signal.SIGTERM)
            self.all('shared')
            self.answers()
        self.count_operations()
        for text in self.texts[:20]:
            print('torture: ' + text)
        print('torture: seed %d: %d kills (%d of them while starting, %d around flush_all), '
              '%d operations acknowledged, %d refused, %d keys checked, slowest start %d ms, slowest stop %d ms, %.0f s'
              % (self.args.seed, self.kills + self.early_kills, self.early_kills, self.flushes, self.operations, self.refusals,
                 self.checked, self.slowest_start * 1000, self.slowest_stop * 1000, time.monotonic() - begin))
        print('torture: %d starts with more flash, %d with less' % (self.grown, self.shrinks))
        print('torture: %d lost, %d stale, %d wrong, %d brought back'
              % tuple(self.found[k] for k in ('lost', 'stale', 'wrong', 'brought back')))
        return not self.texts

    def clean(self, good):
        self.log.close()
        shutil.rmtree(self.memory_dir, ignore_errors=True)
        if good and not self.args.keep:
            shutil.rmtree(self.dir, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--cycles', type=int, default=30)
    parser.add_argument('--seed', type=int, default=int(os.environ.get('SEED', '1')))
    parser.add_argument('--server', default=os.environ.get('EXTANT', './extant'))
    parser.add_argument('--clients', type=int, default=6)
    parser.add_argument('--keys', type=int, default=500, help='of each client')
    parser.add_argument('--seconds', type=float, default=0.8, help='longest load before a kill')
    parser.add_argument('--keep', action='store_true', help='keep the log')
    args = parser.parse_args()
    torture, good = Torture(args), False
    try:
        good = torture.run()
    finally:
        if torture.server and torture.server.poll() is None:
            torture.server.kill()
        torture.clean(good)
    sys.exit(0 if good else 1)


if __name__ == '__main__':
    main()
