#!/usr/bin/env python3
"""Lives of a server, drawn from a seed, against a model of every key: a get brings the newest acknowledged value,
or it is a miss that a counter explains; while there is room, it is never a miss.

Drawn are the flags (which change from life to life: -m, -t, -I, buffers, order, number and sizes of flash files),
what survives (-e, ext_persist, both, neither), how each life ends (SIGTERM, SIGUSR1, kill -9), and the load: all verbs
of the text and meta commands on keys of 1 to 250 bytes, some binary, with values of no byte up to the largest
that fits a write buffer and one more, around the largest slab chunk, with flags, with TTLs, delayed flush_alls, and verbs
one upon the other on one key. Nothing is read until a life's last sweep, and most lives have none: answers to verbs tell
only whether a key was there. At the end all keys are asked for value, flags and time to live.

Seeds with afflictions (--hard) draw also what machines and operators do: a clock that is wrong and set, devices that are slow,
die for a while or for good, or fill up, other sizes (-n, -f, -C, -I, pages, buffers) and files from life to life, -e and
ext_persist that come and go, starts of two at once and while the last process still ends, stopped processes.

  promises_test.py [--seeds 1-2] [--hard 1-5] [--only AFFLICTION] [--ops 1500] [--lives 4] [--roomy|--full] [--verbose]
                   [--flash DIRECTORY [--arm FAULTS]]

With the flash files on a faultfs (scripts/faultfs.c), writes may fail while a load runs: nothing more is lost then.
SEED shifts the seeds. Exit 0: all kept; 1: a promise was broken.
"""
import argparse
import base64
import os
import random
import signal
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'aid'))
import hardship  # noqa: E402
import servers  # noqa: E402
from servers import Client, Server  # noqa: E402

BINARY = os.environ.get('EXTANT', './extant')
BATCH = 64
PIPE_BYTES = 60000
FAR_TTLS = (20000, 50000, 90000)
TTL_SLACK = 4000
SHORT_TTL = 2
# Counters of objects that were given up: those that the memory file keeps, and those of a process.
LASTING = ('extstore_objects_evicted', 'extstore_compact_lost')
OF_PROCESS = ('evictions',)
OF_PROCESS_OURS = ('evictions_same_tag', 'slab_reassign_evictions')


class Value:
    __slots__ = ('data', 'flags', 'ttl', 'dies_at', 'lives_until')

    def __init__(self, data, flags, ttl):
        self.data, self.flags = data, flags
        self.touch(ttl)

    def touch(self, ttl):
        now = time.monotonic()
        self.ttl = ttl
        self.dies_at = now + ttl + 2.5 if ttl == SHORT_TTL else None
        self.lives_until = now + ttl - 1.5 if ttl == SHORT_TTL else None


class Broken(Exception):
    pass


class Refused(Exception):
    """A start that ends at once."""


class Model:
    """What each key must be: a Value, or None: certainly not there."""

    def __init__(self, rng, count, limit):
        self.rng, self.limit = rng, limit
        self.keys, self.binary = [], set()
        for i in range(count):
            key = b'%x.' % i
            dice = rng.random()
            if dice < 0.15:
                key += b'k' * (250 - len(key))
            elif dice < 0.3:
                key += b'n' * rng.randrange(240)
            elif dice < 0.4:  # as base64 at most 250 bytes
                key = bytes((key + rng.randbytes(187))[:rng.choice((9, 60, 185, 186))])
                self.binary.add(key)
            self.keys.append(key)
        self.numbers = set(self.keys[::9])
        self.now = dict.fromkeys(self.keys)
        self.lost, self.losses = 0, []
        self.unsure = set()  # keys whose object may be gone for good, for a reason that is known
        self.dark = False    # a device fails: what is on it may be a miss for now
        self.wall_off = 0    # of the clock that the process began with
        self.fill = rng.randbytes(4096)
        self.sent = 0
        self.traced, self.trace = False, {}

    def name(self, key):
        return base64.b64encode(key) if key in self.binary else key

    def length(self):
        dice = self.rng.random()
        if dice < 0.55:
            return self.rng.randrange(300)
        if dice < 0.9:
            return self.rng.randrange(300, 5000)
        if dice < 0.96:
            return self.rng.choice((0, 1, 2, 8, 15, 16, 17, 1000, 4096, 8192))
        if dice < 0.985:
            return self.rng.randrange(5000, 60000)
        edge = self.rng.choice(self.limit['edges'])
        return max(0, edge + self.rng.randrange(-700, 300))

    def data(self, key):
        if key in self.numbers:
            return b'%d' % self.rng.choice((0, 9, 99, 12345, 2**32, 2**63, 10**18))
        self.sent += 1
        unit = b'%s|%d|' % (key[:12], self.sent) + self.fill
        n = self.length()
        return (unit * (n // len(unit) + 1))[:n]

    def ttl(self):
        dice = self.rng.random()
        return 0 if dice < 0.6 else SHORT_TTL if dice < 0.66 else self.rng.choice(FAR_TTLS)

    def exptime(self, ttl):
        """As a client may give it: far ones now and then as unix time, by the clock that the process began with."""
        if ttl < 10000 or self.rng.random() < 0.7:
            return ttl
        return int(time.time()) + self.wall_off + ttl

    def has_no_room(self, key, line):
        """A value that is larger than -I is now may be refused to come to RAM; where memory has no room, any."""
        value = self.now[key]
        if line == b'SERVER_ERROR out of memory' and self.limit.get('scarce'):
            return True
        if line == b'EN' and value is not None and self.limit.get('scarce'):
            self.unsure.add(key)  # mg T: a miss, but no memory is no reason for the value to go
            return True
        refused = line == b'SERVER_ERROR object too large for cache' and value is not None and \
            len(value.data) >= self.limit['sure']
        if refused:
            self.unsure.add(key)
        return refused

    def clock_is_later(self, seconds):
        """A start finds that so much time passed."""
        for key, v in self.now.items():
            if v is None or v.ttl == 0:
                continue
            v.ttl -= seconds
            if v.ttl < TTL_SLACK // 2:
                self.now[key] = None

    def forget(self, keys=None):
        for key in self.keys if keys is None else keys:
            self.now[key] = None
        self.unsure.difference_update(self.keys if keys is None else keys)

    def there(self, key, found, what):
        """Was the key there, as a verb's answer says? Notes losses; an answer that can't be is a broken promise."""
        value, now = self.now[key], time.monotonic()
        if found:
            if not self.dark:
                self.unsure.discard(key)
            if value is None or (value.dies_at is not None and now > value.dies_at + 60):
                raise Broken('%s finds %r, which must be gone: %s' % (what, key[:40], self.trace.get(key)))
            return True
        if self.dark and value is not None:
            return False
        if key in self.unsure and value is not None and len(value.data) >= self.limit['sure']:
            return False  # larger than -I is now: it comes no more to RAM, but may still be read
        if key in self.unsure:
            self.unsure.discard(key)
        elif value is not None and (value.lives_until is None or now < value.lives_until):
            self.lost += 1
            self.losses.append((what, key[:20], len(value.data), value.ttl) + tuple(self.trace.get(key, [])[-6:]))
        self.now[key] = None
        return False


def take_expired(model, key):
    """Has the key a value with a short life? Until that is surely over, no verb whose answer depends on it is sent."""
    v = model.now[key]
    return v is not None and v.dies_at is not None


class Ops:
    """Requests for distinct keys, and what their answers mean to the model."""

    def __init__(self, model, client):
        self.m, self.c = model, client
        self.refused = 0

    def batch(self, keys):
        todo = [self.choose(key) for key in keys]
        while todo:
            part, size = [], 0
            while todo and (not part or size + len(todo[-1][0]) < PIPE_BYTES):  # otherwise either side could wait for the other
                part.append(todo.pop())
                size += len(part[-1][0])
            self.c.send(b''.join(request for request, _ in part))
            for _, answer in part:
                answer(self.c.line())

    def choose(self, key):
        request, answer = self.choose_one(key)
        if not self.m.traced:
            return request, answer

        def told(line):
            self.m.trace.setdefault(key, []).append((request.split(b'\r\n')[0][-60:], line[:20]))
            answer(line)
        return request, told

    def choose_one(self, key):
        m, rng = self.m, self.m.rng
        v = m.now[key]
        if take_expired(m, key) and time.monotonic() < v.dies_at:
            return self.store(key, 'set')
        if v is not None and v.dies_at is not None:
            m.now[key] = v = None
        number = key in m.numbers
        dice = rng.random()
        if v is None and dice < 0.7 or dice < 0.42:
            return self.store(key, rng.choice(('set', 'set', 'add' if v is None else 'replace')))
        if dice < 0.5:
            return self.store(key, rng.choice(('add', 'replace')))
        if dice < 0.62 and not number:
            return self.join(key, rng.choice((b'append', b'prepend')))
        if dice < 0.72 and number:
            return self.arith(key)
        if dice < 0.84:
            return self.touch(key)
        if dice < 0.9:
            return self.gat(key)
        return self.delete(key)

    def store(self, key, how):
        m = self.m
        v = Value(m.data(key), m.rng.choice((0, 1, 77, 2**32 - 1)), m.ttl())
        had = m.now[key]
        binary = key in m.binary
        ttl = m.exptime(v.ttl)
        if binary or m.rng.random() < 0.3:
            mode = {'set': b'', 'add': b' ME', 'replace': b' MR'}[how]
            request = b'ms %s %d F%d T%d%s%s\r\n%s\r\n' % (m.name(key), len(v.data), v.flags, ttl, mode,
                                                       b' b' if binary else b'', v.data)
        else:
            request = b'%s %s %d %d %d\r\n%s\r\n' % (how.encode(), key, v.flags, ttl, len(v.data), v.data)

        def answer(line):
            if line in (b'STORED', b'HD'):
                if how == 'add' and had is not None:
                    m.there(key, False, 'add')
                if how == 'replace':
                    m.there(key, True, 'replace')
                m.now[key] = v
                m.unsure.discard(key)
            elif line in (b'NOT_STORED', b'NS'):
                m.there(key, how == 'add', how)
            elif line.startswith(b'SERVER_ERROR'):
                self.refused += 1
                scarce = len(v.data) < m.limit['sure'] and m.limit.get('scarce')
                if scarce or m.dark and how != 'set':  # the old value may stay or go
                    m.unsure.add(key)
                    return
                if len(v.data) < m.limit['sure']:
                    raise Broken('a value of %d bytes is refused: %r' % (len(v.data), line))
                if how == 'set' or request.startswith(b'ms '):  # as memcached does it
                    m.now[key] = None
            else:
                raise Broken('%s: %r' % (how, line))
        return request, answer

    def join(self, key, verb):
        m, more = self.m, b'+' * self.m.rng.choice((0, 1, 16, 400))
        if key in m.binary:
            mode = b'MA' if verb == b'append' else b'MP'
            request = b'ms %s %d %s b\r\n%s\r\n' % (m.name(key), len(more), mode, more)
        else:
            request = b'%s %s 0 0 %d\r\n%s\r\n' % (verb, key, len(more), more)

        def answer(line):
            v = m.now[key]
            if line.startswith((b'NOT_STORED', b'NS', b'SERVER_ERROR')) and v is not None and \
                    len(v.data) + len(more) >= m.limit['sure']:
                self.refused += 1
            elif line.startswith((b'NOT_STORED', b'NS', b'SERVER_ERROR')) and v is not None and m.limit.get('scarce'):
                self.refused += 1
                m.unsure.add(key)  # with ms the old value may go
            elif line.startswith(b'SERVER_ERROR') and m.limit.get('scarce'):
                self.refused += 1
            elif line in (b'STORED', b'HD'):
                m.there(key, True, verb.decode())
                v.data = v.data + more if verb == b'append' else more + v.data
            elif line in (b'NOT_STORED', b'NS'):
                m.there(key, False, verb.decode())
            else:
                raise Broken('%r: %r' % (verb, line))
        return request, answer

    def arith(self, key):
        m, by, v = self.m, self.m.rng.randrange(1000), self.m.now[key]
        down = m.rng.random() < 0.5
        if key in m.binary:
            request = b'ma %s b v D%d%s\r\n' % (m.name(key), by, b' MD' if down else b'')
        else:
            request = b'%s %s %d\r\n' % (b'decr' if down else b'incr', key, by)

        def answer(line):
            if line in (b'NOT_FOUND', b'NF'):
                m.there(key, False, 'arith')
                return
            if line.startswith(b'SERVER_ERROR') and m.limit.get('scarce'):
                self.refused += 1
                return
            if line.startswith(b'VA '):
                line = self.c.line()
            if not line.isdigit():
                raise Broken('arith: %r' % line)
            m.there(key, True, 'arith')
            old = int(v.data)
            new = max(0, old - by) if down else (old + by) % 2**64
            if int(line) != new:
                raise Broken('%r was %d, %s%d is %r' % (key, old, '-' if down else '+', by, line))
            n = b'%d' % new
            v.data = n.ljust(len(v.data))  # never shorter than before
        return request, answer

    def touch(self, key):
        m, ttl = self.m, self.m.rng.choice((0,) + FAR_TTLS)
        request = (b'mg %s b T%d\r\n' if key in m.binary else b'touch %s %d\r\n') % (m.name(key), m.exptime(ttl))

        def answer(line):
            if m.has_no_room(key, line):
                return
            if m.there(key, line in (b'TOUCHED', b'HD'), 'touch'):
                m.now[key].touch(ttl)
            elif line not in (b'NOT_FOUND', b'EN'):
                raise Broken('touch: %r' % line)
        return request, answer

    def gat(self, key):
        m, ttl = self.m, self.m.rng.choice((0,) + FAR_TTLS)
        request = b'mg %s T%d v f%s\r\n' % (m.name(key), m.exptime(ttl), b' b' if key in m.binary else b'')

        def answer(line):
            if m.has_no_room(key, line):
                return
            if not m.there(key, line.startswith(b'VA '), 'gat'):
                return
            data = self.c.exactly(int(line.split()[1]) + 2)[:-2]
            compare(m, key, data, line)
            m.now[key].touch(ttl)
        return request, answer

    def delete(self, key):
        m = self.m
        request = b'md %s%s\r\n' % (m.name(key), b' b' if key in m.binary else b'')

        def answer(line):
            if line not in (b'HD', b'NF'):
                raise Broken('delete: %r' % line)
            m.there(key, line == b'HD', 'delete')
            m.now[key] = None
            m.unsure.discard(key)
        return request, answer


def compare(m, key, data, line):
    v = m.now[key]
    if data != v.data:
        raise Broken('%r has %d bytes %r.., not %d bytes %r..' % (key[:40], len(data), data[:40], len(v.data), v.data[:40]))
    flags = dict((t[:1], t[1:]) for t in line.split()[2:])
    if b'f' in flags and int(flags[b'f']) != v.flags:
        raise Broken('%r has flags %s, not %d' % (key[:40], flags[b'f'], v.flags))
    if b't' in flags:
        left = int(flags[b't'])
        if v.ttl == 0 and left != -1 or v.ttl > TTL_SLACK and not v.ttl - TTL_SLACK < left <= v.ttl + 1:
            raise Broken('%r lives %d s, not %d' % (key[:40], left, v.ttl))


def sweep(m, client):
    for at in range(0, len(m.keys), BATCH):
        part = m.keys[at:at + BATCH]
        client.send(b''.join(b'mg %s v f t%s\r\n' % (m.name(k), b' b' if k in m.binary else b'') for k in part))
        for key in part:
            line = client.line()
            v = m.now[key]
            if line == b'EN':
                m.there(key, False, 'sweep')
                continue
            data = client.exactly(int(line.split()[1]) + 2)[:-2]
            if v is not None and v.dies_at is not None and time.monotonic() > v.dies_at + 1:
                raise Broken('%r outlived its time' % key[:40])
            m.there(key, True, 'sweep')
            compare(m, key, data, line)


class Run:
    """One seed: the flags, lives and load that it draws."""

    def __init__(self, seed, args):
        self.seed, self.args = seed, args
        self.rng = random.Random(seed)
        rng = self.rng
        self.full = args.full or (not args.roomy and rng.random() < 0.3)
        self.survives = rng.choice(('-e', '-e', 'ext_persist', 'both', 'nothing'))
        self.wbuf = rng.choice((1, 2, 2, 4))
        self.page = rng.choice([p for p in ((2, 4) if self.full else (2, 4, 8)) if p >= self.wbuf])
        self.files = {'a': self.size(), 'b': self.size()} if rng.random() < 0.5 else {'a': self.size()}
        self.explained = 0

    def size(self):
        return self.rng.choice((24, 40)) if self.full else self.rng.choice((300, 400))

    def flags(self, life):
        rng = self.rng
        if life > 0 and rng.random() < 0.5 and not self.full:
            for name in self.files:
                self.files[name] += rng.choice((0, 0, 40))
            if rng.random() < 0.3:
                self.files.setdefault(rng.choice('bc'), self.size())
        names = list(self.files)
        if self.survives == '-e':
            rng.shuffle(names)
        where = os.path.join(self.args.flash, 'seed%d' % self.seed) if self.args.flash else '@DIR@'
        os.makedirs(where, exist_ok=True) if self.args.flash else None
        paths = ['ext_path=%s/%s:%dm' % (where, n, self.files[n]) for n in names]
        options = paths + ['ext_page_size=%d' % self.page, 'ext_wbuf_size=%d' % self.wbuf,
                           'ext_buffer_mem=%d' % (rng.choice((8, 12, 24)) * self.wbuf)]
        if rng.random() < 0.3:
            options.append('ext_ttl_groups=%d' % rng.choice((0, 2, 16)))
        if rng.random() < 0.7:  # otherwise nearly all stays in RAM: each slab class has a page, whatever -m says
            options.append('ext_item_age=%d,ext_item_size=20,hot_lru_pct=1,warm_lru_pct=1' % rng.choice((0, 0, 1, 5)))
        if rng.random() < 0.2:
            options.append('ext_recache_rate=%d' % rng.choice((1, 20)))
        if rng.random() < 0.2:
            options.append('ext_io_engine=threads')
        if rng.random() < 0.2:
            options.append('ext_threads=%d' % rng.choice((2, 4)))
        if self.survives in ('ext_persist', 'both'):
            options.append('ext_persist')
        flags = ['-m', str(rng.choice((8, 12, 16))), '-t', str(rng.choice((1, 2, 4))),
                 '-I', '512k' if self.wbuf == 1 else '1m', '-o', ','.join(options)]
        if self.survives in ('-e', 'both'):
            flags += ['-e', self.memory]
        return flags

    def load(self, m, client):
        rng, ops = self.rng, Ops(m, client)
        done = 0
        while done < self.args.ops * (2 if self.full else 1):
            hot = rng.random() < 0.3  # the same few keys again and again, one verb upon another
            pool = m.keys[:BATCH] if hot else m.keys
            ops.batch(rng.sample(pool, min(BATCH, len(pool))))
            done += BATCH
        return ops.refused

    def flush_all(self, m, client, delay):
        if client.ask(b'flush_all %d' % delay if delay else b'flush_all') != b'OK':
            raise Broken('flush_all is refused')
        for key in m.keys:
            m.now[key] = None
            if m.traced:
                m.trace.setdefault(key, []).append('flush_all %d' % delay)
        self.quiet_until = time.monotonic() + delay + 2.2

    def arm(self, words):
        if self.args.arm and words:
            with open(os.path.join(self.args.flash, '.faults'), 'w') as control:
                control.write(words)

    def counted(self, client):
        """How many objects the server says it gave up: with -e since the first life, and in this one."""
        stats, ours = client.stats(), client.stats(b'extant')
        if self.args.verbose:
            print('    ' + ' '.join('%s=%s' % (n, v) for n, v in {**stats, **ours}.items()
                                    if v != '0' and ('evict' in n or 'lost' in n or n.startswith('miss_') or 'drop' in n or 'expired' in n)))
        return (sum(int(stats.get(n, 0)) for n in LASTING),
                sum(int(stats.get(n, 0)) for n in OF_PROCESS) + sum(int(ours.get(n, 0)) for n in OF_PROCESS_OURS))

    def lives(self, server):
        rng = self.rng
        m = Model(rng, 6000 if self.full else 3000, {'sure': (480 if self.wbuf == 1 else 1000) * 1024,
                                                      'edges': [1 << 19, self.wbuf << 20, 1 << 20, 16384]})
        m.traced, counted = self.args.verbose, 0
        self.quiet_until = 0
        for life in range(self.args.lives):
            server.flags = self.flags(life)
            server.start()
            client = Client(server)
            if self.args.verbose:
                print('  life %d: %s' % (life, ' '.join(server.flags)))
                print('    ' + server.log_tail().strip().split('\n')[0][:400])
            time.sleep(max(0, self.quiet_until - time.monotonic()))
            if rng.random() < 0.3:
                sweep(m, client)
            self.arm(self.args.arm + ' arm=1' if self.args.arm else '')
            self.load(m, client)
            if rng.random() < 0.25:
                self.flush_all(m, client, rng.choice((0, 1, 2)))
                if rng.random() < 0.5:
                    time.sleep(max(0, self.quiet_until - time.monotonic()))
                    self.load(m, client)
            how = rng.choice((signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL))
            if life == self.args.lives - 1:
                time.sleep(max(0, self.quiet_until - time.monotonic()))
                sweep(m, client)
            self.arm('off')
            lasting, of_process = self.counted(client)
            self.explained += lasting - (counted if self.survives in ('-e', 'both') else 0) + of_process
            counted = lasting
            self.judge(m, life)
            for key in m.keys if m.traced else ():
                m.trace.setdefault(key, []).append('life %d ends by %s' % (life, how.name))
            client.close()
            server.process.send_signal(how)
            code = server.process.wait(servers.PATIENCE_SECONDS)
            if how != signal.SIGKILL and code != 0:
                raise Broken('it ends with %d at signal %d: %s' % (code, how, server.log_tail()))
            if os.path.exists(server.path):
                os.unlink(server.path)
            kept = self.survives in ('-e', 'both') or (self.survives == 'ext_persist' and how != signal.SIGKILL)
            for key in m.keys if not kept else ():
                m.now[key] = None
            if self.args.verbose:
                print('    ends by %s; lost %d, explained %d' % (how.name, m.lost, self.explained))
        return m

    def judge(self, m, life):
        if m.lost > self.explained:
            raise Broken('life %d: %d are missing, %d explained: %s' % (life, m.lost, self.explained, m.losses[-5:]))
        if not self.full and m.lost > 0:
            raise Broken('life %d: there is room, but %d are missing: %s' % (life, m.lost, m.losses[-5:]))

    def run(self):
        with tempfile.TemporaryDirectory(prefix='promises-', dir='/dev/shm') as tmpfs:
            self.memory = os.path.join(tmpfs, 'memory')
            server = Server(BINARY, [], 'promises')
            try:
                m = self.lives(server)
                alive = sum(v is not None for v in m.now.values())
                print('ok     seed %d (%s, %s): %d keys alive, %d missing, %d explained' % (
                    self.seed, self.survives, 'full' if self.full else 'roomy', alive, m.lost, self.explained), flush=True)
                return True
            except (Broken, servers.Closed, RuntimeError, TimeoutError) as e:
                print('not ok seed %d (%s, %s): %s\n  %s\n%s' % (self.seed, self.survives, 'full' if self.full else 'roomy', e,
                                                             ' '.join(server.flags), server.log_tail()), flush=True)
                return False
            finally:
                server.stop()


AFFLICTIONS = ('clock', 'slow', 'dies', 'sizes', 'modes', 'twins', 'fills')
IN_USE = ('in use by another process', 'another process uses it')
TOO_LARGE = ('its index is larger than -m allows', 'its items are more than -m allows')


class Hard(Run):
    """One seed with afflictions: what machines and operators do to a server, drawn as well.

    What is left after a start follows from how the lives before it ended, and from what changed: all of it, nothing, or
    all but what was on flash that is gone (then any key may be gone, `unsure`). Never half of it, and never older values."""

    def __init__(self, seed, args, can):
        super().__init__(seed, args)
        rng = self.rng
        wanted = [args.only] if args.only else [a for a in AFFLICTIONS if rng.random() < 0.4] or [rng.choice(AFFLICTIONS)]
        self.what = [a for a in wanted if can[a]]
        self.files = {n: self.size() for n in self.files}
        if 'dies' in self.what:
            self.files.setdefault('b', self.size())
        self.ever = dict(self.files)
        self.life_wbuf, self.life_page, self.item_max = self.wbuf, self.page, 0
        self.memory_ok = self.saved = False
        self.wall_saved = 0
        self.places, self.clock, self.ending, self.room = {}, None, None, None
        self.filling = rng.choice(('flash', 'checkpoint', 'memory')) if 'fills' in self.what else None
        self.strained = self.is_slow = self.is_filled = self.is_writeless = False

    def size(self):
        return self.rng.choice((24, 40)) if self.full else self.rng.choice((120, 160))

    def place(self, name):
        """The directory of a flash file: one that can fail, if it has to."""
        if name not in self.places:
            where = os.path.join(self.where, name)
            os.makedirs(where)
            room = 600 if self.filling in ('flash', 'checkpoint') else None
            needs = room is not None or 'dies' in self.what or 'slow' in self.what
            self.places[name] = hardship.Device(where, room) if needs else where
            if self.filling == 'flash':
                self.places[name].set('arm=1 sparse=1')
        place = self.places[name]
        return place if isinstance(place, str) else place.at

    def devices(self):
        return [p for p in self.places.values() if not isinstance(p, str)]

    def all_devices(self, words):
        for device in self.devices():
            device.set(words + (' arm=1 sparse=1' if self.filling == 'flash' else ''))

    def draw_mode(self, life):
        if life > 0 and 'modes' in self.what and self.rng.random() < 0.5:
            self.survives = self.rng.choice(('-e', 'ext_persist', 'both', 'both', 'nothing'))
        return self.survives

    def draw_sizes(self, life):
        """Other page and buffer sizes, and files that come and go. Returns the files of this life."""
        rng = self.rng
        if 'sizes' in self.what and life > 0 and rng.random() < 0.35:
            self.wbuf = rng.choice((1, 2, 4))
            self.page = rng.choice([p for p in ((2, 4) if self.full else (2, 4, 8)) if p >= self.wbuf])
        names = list(self.files)
        if 'sizes' in self.what and life > 0:
            dice = rng.random()
            if dice < 0.25 and len(names) > 1:
                names.remove(rng.choice([n for n in names if n != 'a']))
            elif dice < 0.5 and len(names) < 3:
                names.append('b' if 'b' not in names else 'c')
        return names

    def flags_of(self, life, names):
        rng = self.rng
        if self.survives != 'ext_persist' or 'sizes' not in self.what:
            first, rest = [], list(names)
        else:
            first, rest = ['a'], [n for n in names if n != 'a']
        if self.survives in ('-e', 'nothing') or first:
            rng.shuffle(rest)
        for n in names:
            self.ever.setdefault(n, self.size())
        options = ['ext_path=%s:%dm' % (os.path.join(self.place(n), 'flash'), self.ever[n]) for n in first + rest]
        options += ['ext_page_size=%d' % self.page, 'ext_wbuf_size=%d' % self.wbuf,
                    'ext_buffer_mem=%d' % ((8 if self.filling == 'memory' else rng.choice((8, 12, 24))) * self.wbuf)]
        for chance, option in ((.3, 'ext_ttl_groups=%d' % rng.choice((0, 2, 16))), (.8, 'ext_item_age=%d' % rng.choice((0, 0, 1, 5))),
                               (.8, 'ext_item_size=20'), (.8, 'hot_lru_pct=1,warm_lru_pct=1'), (.1, 'no_lru_maintainer'), (.2, 'ext_recache_rate=%d' % rng.choice((1, 20))), (.3, 'ext_io_engine=threads'),
                               (.2, 'ext_threads=%d' % rng.choice((2, 4))), (.2, 'ext_verify_writes')):
            if rng.random() < chance:
                options.append(option)
        if self.survives in ('ext_persist', 'both'):
            options.append('ext_persist')
        if {'slow', 'dies', 'fills'} & set(self.what):
            # what it loses is counted; where room can't come, each set of a batch waits for all of it
            options.append('ext_max_sleep=%d' % (10000 if self.filling in ('flash', 'checkpoint') else 300000))
        largest = '512k' if self.wbuf == 1 or 'sizes' in self.what and rng.random() < .2 else '1m'
        flags = ['-m', str(rng.choice((8, 12, 16))), '-t', str(rng.choice((1, 2, 4))), '-I', largest]
        if 'sizes' in self.what:
            flags += ['-n', str(rng.choice((48, 96))), '-f', rng.choice(('1.25', '1.08', '1.5'))]
            flags += rng.choice(([], ['-C']))
        if self.survives in ('-e', 'both'):
            flags += ['-e', self.memory]
        self.item_max = (512 if largest == '512k' else 1024) << 10
        return flags + ['-o', ','.join(options)]

    # ---- starts ----

    def start(self, flags):
        """A server that serves. A start that finds the files in use is made again while the last server ends."""
        count = 2 if 'twins' in self.what and self.rng.random() < 0.6 else 1
        end = time.monotonic() + servers.PATIENCE_SECONDS
        while time.monotonic() < end:
            racing = self.ending is not None and self.ending.process.poll() is None
            tried = [Server(BINARY, flags, 'promises') for _ in range(count)]
            errors = [None] * count

            def one(i):
                try:
                    tried[i].start()
                except (RuntimeError, OSError) as e:
                    errors[i] = str(e)
            threads = [threading.Thread(target=one, args=(i,)) for i in range(count)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            serve = [s for s, e in zip(tried, errors) if e is None]
            for s, e in zip(tried, errors):
                if e is not None:
                    s.stop()
                    if not any(words in e for words in IN_USE):
                        raise Refused(e)
            if len(serve) > 1:
                raise Broken('two servers use the same files')
            if serve:
                return serve[0]
            if not racing and count == 2:
                raise Broken('each of two refuses to start because of the other: %s' % errors)
        raise Broken('no start in %d s: %s' % (servers.PATIENCE_SECONDS, errors))

    def begin(self, m, life):
        """The start of a life; then the model knows what has to be there."""
        rng = self.rng
        before = (self.page, self.wbuf)
        self.draw_mode(life)
        names = self.draw_sizes(life)
        flags = self.flags_of(life, names)
        if self.clock and life > 0 and rng.random() < 0.5:
            self.clock.set(self.clock.off + rng.choice((-40 * 86400, -3600, -100, 100, 3600, 30000, 400 * 86400)))
        if 'twins' in self.what and life > 0 and self.ending is None and rng.random() < 0.4:
            self.killed_starts(flags)
        if self.full_at_start:  # it must not start, or serve; whatever it does harms nothing
            self.try_start(flags)
            self.places['a'].clear()
            self.full_at_start = False
        if self.is_filled and self.ending is None:
            self.try_start(flags)
            self.relieve(m)
        if m.dark:
            if rng.random() < 0.6:
                self.try_start(flags)
            self.all_devices('off')
            m.dark = self.is_slow = False
        try:
            server = self.start(flags)
        except Refused as e:
            if self.room and 'needs more room where -e is' in str(e):
                self.room.resize(100 + 24 * self.wbuf)  # for both the new and the old sizes of flash
            elif self.is_writeless:
                self.relieve(m)  # with no device that takes a mark
            else:
                raise Broken('it refuses to start: %s' % e) from e
            server = self.start(flags)
        if self.ending is not None:
            self.after_end(m)
        self.server = server
        if self.args.verbose:
            print('  life %d: %s%s' % (life, ' '.join(flags), '' if not self.clock else ' clock %+d' % self.clock.off))
            print('    ' + server.log_tail().strip().split('\n')[0][:600])
        self.expect(m, (self.page, self.wbuf) != before, set(self.last_names) - set(names))
        self.last_names = names
        m.wall_off = self.clock.off if self.clock else 0
        m.limit = {'sure': self.item_max - 24 * 1024, 'edges': [1 << 19, self.wbuf << 20, 1 << 20, 16384],
                   'scarce': self.filling is not None or 'dies' in self.what}
        self.memory_ok, self.saved = self.survives in ('-e', 'both'), False
        return server

    def killed_starts(self, flags):
        """Starts that are killed at some instant: before, while or after they take over what is there."""
        for _ in range(self.rng.randrange(1, 4)):
            server = Server(BINARY, flags, 'promises')
            starting = threading.Thread(target=lambda: self.start_in_vain(server))
            starting.start()
            servers.wait_for(lambda: server.process is not None)
            time.sleep(self.rng.random() ** 2 * 0.1)
            server.process.kill()
            starting.join()
            server.process = None
            server.stop()
        if '-e' not in flags:  # used up, or not yet
            self.saved, self.memory_ok = self.saved and 'maybe', False

    def start_in_vain(self, server):
        try:
            server.start()
        except (RuntimeError, OSError):
            pass

    def try_start(self, flags):
        """A start that the machine may make impossible: it changes nothing then."""
        server = Server(BINARY, flags, 'promises')
        try:
            server.start()
        except RuntimeError:
            pass
        else:
            server.process.kill()
        if self.args.verbose:
            print('    tried: ' + server.log_tail().strip()[-200:])
        serving = server.process is not None and server.process.poll() in (None, -signal.SIGKILL)
        server.stop()
        if serving and 'ext_persist' in flags[-1] and '-e' not in flags:
            self.saved = False  # it used the checkpoint up, and was killed
        if serving and '-e' not in flags:
            self.memory_ok = False

    def expect(self, m, resized, gone):
        with open(self.server.log) as f:
            log = f.read()
        memory, persist = self.survives in ('-e', 'both'), self.survives in ('ext_persist', 'both')
        moved = (self.clock.off if self.clock else 0) - self.wall_saved
        took_memory = 'items in memory and' in log
        took_checkpoint = ': took over' in log and 'objects on flash in' in log
        if memory and self.memory_ok and not took_memory and not any(words in log for words in TOO_LARGE):
            raise Broken('the memory file is not taken over: %s' % log)
        if (memory and self.memory_ok and took_memory):
            if resized or gone:
                m.unsure.update(k for k in m.keys if m.now[k] is not None)
        elif persist and self.saved and not resized and moved >= -4 and (took_checkpoint or self.saved != 'maybe'):
            if not took_checkpoint:
                raise Broken('the checkpoint is not taken over: %s' % log)
            if moved > 4:
                m.clock_is_later(moved)
            if gone:
                m.unsure.update(k for k in m.keys if m.now[k] is not None)
        else:
            nothing = 'took over 0 items in memory and 0 on flash' in log  # a memory file that a twin has just made
            if took_checkpoint or (took_memory and not nothing):
                raise Broken('this start should be empty: %s' % log)
            m.forget()
            self.counted_before = 0
        if not took_memory:
            self.counted_before = 0
        m.unsure.update(k for k in m.keys if m.now[k] is not None and len(m.now[k].data) + 400 > self.item_max)

    # ---- ends ----

    def end(self, m, life):
        rng = self.rng
        how = rng.choice((signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL, signal.SIGKILL))
        for key in m.keys if m.traced else ():
            m.trace.setdefault(key, []).append('life %d ends by %s' % (life, how.name))
        if self.filling == 'checkpoint' and rng.random() < 0.6:
            self.places['a'].fill()
            self.full_at_start = rng.random() < 0.5
        if rng.random() < 0.2:  # stopped first: nothing of it may go on when another life has begun
            self.server.process.send_signal(signal.SIGSTOP)
            self.server.process.send_signal(how)
            time.sleep(0.05)
            self.server.process.send_signal(signal.SIGCONT)
        else:
            self.server.process.send_signal(how)
        self.ending, self.ended_by, self.ended_as = self.server, how, (self.survives, self.strained)
        if 'twins' not in self.what or m.dark or self.is_writeless or self.is_filled or self.full_at_start or rng.random() < 0.4:
            self.ending.process.wait(servers.PATIENCE_SECONDS)
            self.after_end(m)

    def after_end(self, m):
        """What the last life left, as its log tells."""
        server, how, (survives, strained) = self.ending, self.ended_by, self.ended_as
        code = server.process.wait(servers.PATIENCE_SECONDS)
        self.ending = None
        with open(server.log) as f:
            log = f.read()
        if code != 0 and how != signal.SIGKILL:
            raise Broken('it ends with %d at signal %d: %s' % (code, how, log[-2000:]))
        if self.args.verbose:
            print('    ended by %s: %s' % (how.name, log.strip().split('\n')[-1][:300]))
        self.wall_saved = self.clock.off if self.clock else 0
        if survives in ('ext_persist', 'both') and how != signal.SIGKILL:
            self.saved = 'objects on flash in' in log.split('serves on')[-1]
            if not self.saved and not strained:
                raise Broken('no checkpoint: %s' % log[-2000:])
            if 'items in memory are dropped' in log:
                m.unsure.update(k for k in m.keys if m.now[k] is not None)
        if not self.full_at_start and self.filling == 'checkpoint':
            self.places['a'].clear()
        server.process = None
        server.stop()

    # ---- what happens while it serves ----

    def afflict(self, m):
        rng = self.rng
        if self.clock and rng.random() < 0.6:
            self.clock.set(self.clock.off + rng.choice((-40 * 86400, -3600, 3600, 30000, 400 * 86400)))
        if 'slow' in self.what and rng.random() < 0.8:
            self.strained = self.is_slow = True
            ms, one_in = rng.choice(((50, 2), (200, 4), (500, 8), (3000, 60)))
            self.all_devices('arm=1 seed=%d stall_ms=%d write.stall=1/%d read.stall=1/%d' % (
                rng.randrange(1000), ms, one_in, 40 * one_in))
        if 'dies' in self.what and rng.random() < 0.8:
            self.strained = True
            fault = rng.choice(('gone=1', 'gone=1', 'read.eio=1/1', 'write.eio=1/1', 'write.eio=1/1'))
            m.dark, self.is_writeless = not fault.startswith('write'), fault.startswith('write')
            for device in rng.sample(self.devices(), rng.choice((1, 1, 2))):
                device.set('arm=1 ' + fault)
        if self.filling in ('flash', 'memory') and rng.random() < 0.8:
            self.is_filled = True
            if self.filling == 'memory':  # items leave for flash then, and sets may be refused; nothing is dropped
                self.room.fill()
            else:
                self.strained = True
                for device in self.devices():
                    device.fill()

    def relieve(self, m):
        self.all_devices('off')
        m.dark = self.is_slow = self.is_filled = self.is_writeless = False
        for device in self.devices():
            device.clear()
        if self.room:
            self.room.clear()

    def lives(self, unused):
        rng = self.rng
        m = Model(rng, 4000 if self.full else 2000, {'sure': 0, 'edges': [1 << 19, self.wbuf << 20, 1 << 20, 16384]})
        m.traced, self.counted_before = self.args.verbose, 0
        self.quiet_until, self.full_at_start, self.last_names = 0, False, []
        if self.filling == 'memory':
            self.room = hardship.Room(os.path.dirname(self.memory), rng.choice((3, 8, 28, 64)) + 12 * self.wbuf)
        for life in range(self.args.lives):
            self.strained = self.filling in ('flash', 'checkpoint') or self.is_slow or self.is_writeless
            self.begin(m, life)
            last = life == self.args.lives - 1
            client = Client(self.server)
            time.sleep(max(0, self.quiet_until - time.monotonic()))
            if rng.random() < 0.3:
                sweep(m, client)
            self.load(m, client)
            if rng.random() < 0.5:
                self.settle(client)
            self.afflict(m)
            self.load(m, client)
            if rng.random() < 0.3:
                self.settle(client)
            if rng.random() < 0.3:
                sweep(m, client)
            if last or rng.random() < 0.5:
                self.relieve(m)
                if rng.random() < 0.5:
                    self.load(m, client)
            if rng.random() < 0.15:
                self.flush_all(m, client, rng.choice((0, 1, 2)))
            if last:
                time.sleep(max(0, self.quiet_until - time.monotonic()))
                sweep(m, client)
            lasting, of_process = self.counted(client)
            self.explained += lasting - self.counted_before + of_process
            self.counted_before = lasting
            self.judge(m, life)
            if self.args.verbose:
                print('    lost %d, explained %d, unsure %d, dark %d' % (m.lost, self.explained, len(m.unsure), m.dark))
            client.close()
            self.end(m, life)
        if self.ending is not None:
            self.after_end(m)
        return m

    def settle(self, client):
        """Gives items some time to leave for flash, if they do."""
        def most_are_cold():
            stats = client.stats(b'extant')
            return int(stats['flash_objects']) > int(stats['ram_items'])
        servers.wait_for(most_are_cold, 1.5)

    def judge(self, m, life):
        if m.lost > self.explained:
            raise Broken('life %d: %d are missing, %d explained: %s' % (life, m.lost, self.explained, m.losses[-5:]))
        if not self.full and not self.strained and m.lost > 0:
            raise Broken('life %d: there is room, but %d are missing: %s' % (life, m.lost, m.losses[-5:]))
        if self.strained:  # counted; what comes later is judged by itself
            self.explained -= m.lost
            m.lost = 0

    def show_figures(self):
        """All that a server counts when a promise was broken."""
        try:
            client = Client(self.server)
            for group in (b'', b'extant', b'slabs', b'items'):
                print('    %s: %s' % (group.decode(), ' '.join('%s=%s' % kv for kv in client.stats(group).items() if kv[1] != '0')))
        except (OSError, AttributeError) as e:
            print('    no figures: %s' % e)

    def run(self):
        with tempfile.TemporaryDirectory(prefix='promises-', dir='/dev/shm') as tmpfs, \
                tempfile.TemporaryDirectory(prefix='promises-', ignore_cleanup_errors=True) as where:
            os.makedirs(os.path.join(tmpfs, 'e'))
            self.memory, self.where, self.server = os.path.join(tmpfs, 'e', 'memory'), where, None
            name = 'seed %d (%s, %s, %s)' % (self.seed, '+'.join(self.what) or 'nothing that can be had here', self.survives,
                                             'full' if self.full else 'roomy')
            if 'clock' in self.what:
                self.clock = hardship.Clock(where)
                os.environ.update(self.clock.environ())
            try:
                m = self.lives(None)
                print('ok     %s: %d keys alive, %d missing, %d explained' % (
                    name, sum(v is not None for v in m.now.values()), m.lost, self.explained), flush=True)
                return True
            except (Broken, servers.Closed, RuntimeError, TimeoutError) as e:
                if self.args.verbose:
                    self.show_figures()
                print('not ok %s: %s\n%s' % (name, e, self.server and '  %s\n%s' % (
                    ' '.join(self.server.flags), self.server.log_tail())), flush=True)
                return False
            finally:
                for word in ('LD_PRELOAD', 'MOVED_CLOCK'):
                    os.environ.pop(word, None)
                self.all_devices('off')
                for server in (self.server, self.ending):
                    if server is not None and server.process is not None:
                        server.process.kill()
                        server.stop()
                for device in self.devices():
                    device.close()
                if self.room:
                    self.room.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--seeds', default='1-2')
    parser.add_argument('--ops', type=int, default=1500)
    parser.add_argument('--lives', type=int, default=4)
    parser.add_argument('--roomy', action='store_true')
    parser.add_argument('--full', action='store_true')
    parser.add_argument('--flash', help='directory of the flash files: of a faultfs, for instance')
    parser.add_argument('--arm', help='for its control file, while a load runs: "seed=1 write.eio=1/12"')
    parser.add_argument('--hard', default='1-5', help='seeds with afflictions')
    parser.add_argument('--only', choices=AFFLICTIONS)
    parser.add_argument('--verbose', action='store_true')
    args = parser.parse_args()
    hardship.own_mounts()  # so that none is left, nor a memory file, however this ends
    shift = 1000 * (servers.seed() - 1)
    can = {'sizes': True, 'modes': True, 'twins': True, 'clock': hardship.can('clock'), 'fills': hardship.can('room')}
    can['slow'] = can['dies'] = hardship.can('device')
    if not all(can.values()):
        print('not to be had here: %s' % ' '.join(a for a in can if not can[a]))
    runs = [Run(s, args) for s in seeds_of(args.seeds, shift)] + [Hard(s, args, can) for s in seeds_of(args.hard, shift)]
    failed = [r.seed for r in runs if not r.run()]
    hardship.forget_built()
    print('%d of %d seeds failed %s' % (len(failed), len(runs), failed))
    return 1 if failed else 0


def seeds_of(text, shift):
    """The numbers of "3", "1-6", or "" for none."""
    first, _, last = text.partition('-')
    return range(int(first) + shift, int(last or first) + shift + 1) if text else ()


if __name__ == '__main__':
    sys.exit(main())
