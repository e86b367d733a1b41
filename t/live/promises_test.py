#!/usr/bin/env python3
"""Lives of a server, drawn from a seed, against a model of every key: a get brings the newest acknowledged value,
or it is a miss that a counter explains; while there is room, it is never a miss.

Drawn are the flags (which change from life to life: -m, -t, -I, buffers, order, number and sizes of flash files),
what survives (-e, ext_persist, both, neither), how each life ends (SIGTERM, SIGUSR1, kill -9), and the load: all verbs
of the text and meta commands on keys of 1 to 250 bytes, some binary, with values of no byte up to the largest
that fits a write buffer and one more, around the largest slab chunk, with flags, with TTLs, delayed flush_alls, and verbs
one upon the other on one key. Nothing is read until a life's last sweep, and most lives have none: answers to verbs tell
only whether a key was there. At the end all keys are asked for value, flags and time to live.

  promises_test.py [--seeds 1-6] [--ops 3000] [--lives 4] [--roomy|--full] [--verbose] [--flash DIRECTORY [--arm FAULTS]]

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
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'aid'))
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

    def there(self, key, found, what):
        """Was the key there, as a verb's answer says? Notes losses; an answer that can't be is a broken promise."""
        value, now = self.now[key], time.monotonic()
        if found:
            if value is None or (value.dies_at is not None and now > value.dies_at + 60):
                raise Broken('%s finds %r, which must be gone: %s' % (what, key[:40], self.trace.get(key)))
            return True
        if value is not None and (value.lives_until is None or now < value.lives_until):
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
        if binary or m.rng.random() < 0.3:
            mode = {'set': b'', 'add': b' ME', 'replace': b' MR'}[how]
            request = b'ms %s %d F%d T%d%s%s\r\n%s\r\n' % (m.name(key), len(v.data), v.flags, v.ttl, mode,
                                                       b' b' if binary else b'', v.data)
        else:
            request = b'%s %s %d %d %d\r\n%s\r\n' % (how.encode(), key, v.flags, v.ttl, len(v.data), v.data)

        def answer(line):
            if line in (b'STORED', b'HD'):
                if how == 'add' and had is not None:
                    m.there(key, False, 'add')
                if how == 'replace':
                    m.there(key, True, 'replace')
                m.now[key] = v
            elif line in (b'NOT_STORED', b'NS'):
                m.there(key, how == 'add', how)
            elif line.startswith(b'SERVER_ERROR'):
                self.refused += 1
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
            if line.startswith(b'VA '):
                line = self.c.line()
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
        request = (b'mg %s b T%d\r\n' if key in m.binary else b'touch %s %d\r\n') % (m.name(key), ttl)

        def answer(line):
            if m.there(key, line in (b'TOUCHED', b'HD'), 'touch'):
                m.now[key].touch(ttl)
            elif line not in (b'NOT_FOUND', b'EN'):
                raise Broken('touch: %r' % line)
        return request, answer

    def gat(self, key):
        m, ttl = self.m, self.m.rng.choice((0,) + FAR_TTLS)
        request = b'mg %s T%d v f%s\r\n' % (m.name(key), ttl, b' b' if key in m.binary else b'')

        def answer(line):
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
        if v.ttl == 0 and left != -1 or v.ttl in FAR_TTLS and not v.ttl - TTL_SLACK < left <= v.ttl:
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
        if rng.random() < 0.3:
            options.append('ext_item_age=%d' % rng.choice((0, 1, 5)))
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


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--seeds', default='1-6')
    parser.add_argument('--ops', type=int, default=3000)
    parser.add_argument('--lives', type=int, default=4)
    parser.add_argument('--roomy', action='store_true')
    parser.add_argument('--full', action='store_true')
    parser.add_argument('--flash', help='directory of the flash files: of a faultfs, for instance')
    parser.add_argument('--arm', help='for its control file, while a load runs: "seed=1 write.eio=1/12"')
    parser.add_argument('--verbose', action='store_true')
    args = parser.parse_args()
    first, _, last = args.seeds.partition('-')
    shift = 1000 * (servers.seed() - 1)
    seeds = range(int(first) + shift, int(last or first) + shift + 1)
    failed = [s for s in seeds if not Run(s, args).run()]
    print('%d of %d seeds failed %s' % (len(failed), len(seeds), failed))
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
