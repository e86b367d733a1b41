#!/usr/bin/env python3
"""Randomised model test: a server with next to no RAM, tiny flash pages and constant reclaim
against a dictionary that knows what a cache may do and what it may not.

A cache may forget. It may never invent: an answer is the latest acknowledged value with its
flags, or a miss. It may never go back: what was once missed, deleted, flushed or expired stays
away until it is stored again. CAS tokens don't change unless the value does, and change when
it does (not asked of memcached 1.6.18, whose flash tier changes them). add, replace, cas,
delete, touch, append, incr and the meta commands must answer what fits one of the states that
the key may be in, and the model then knows more.

Several connections have pipelined batches under way at the same time. In each round every key
belongs to one connection, in the next to another, so the order of what happens to a key is
known although the server works on all of them at once. The seed is printed; --seed repeats
the same requests (the server's threads decide when it forgets which keys).

  model_test.py [--rounds 3000] [--seed N] [--server ./extant] [--flags "..."]

Exit 0: all answers agree with the model; 1: not; 77: the server has no flash tier.
"""

import argparse
import collections
import os
import random
import select
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'aid'))
import servers  # noqa: E402

ROUND_TIMEOUT_SECONDS = servers.PATIENCE_SECONDS
# The server's clock ticks once a second, ours counts from before the send to after the answer.
EXPIRY_SLACK_SECONDS = 2.5

Kept = collections.namedtuple("Kept", "value flags")


class Wrong(Exception):
    """An answer that no state of the model allows."""


class Key:
    """The knowledge about one key. kept None: certainly absent. Otherwise present or forgotten."""

    __slots__ = ("name", "kept", "cas", "old_cas", "expires", "version")

    def __init__(self, name):
        self.name = name
        self.kept = None
        self.cas = None        # token of the present value, once seen
        self.old_cas = set()   # tokens that earlier values had
        self.expires = None    # latest moment at which it may still be seen
        self.version = 0

    def absent(self):
        self.kept = None
        self.retire_cas()
        self.expires = None

    def retire_cas(self):
        if self.cas is not None:
            self.old_cas = {self.cas}
        self.cas = None

    def store(self, value, flags, ttl, now):
        if ttl < 0:
            self.absent()
            return
        self.kept = Kept(value, flags)
        self.retire_cas()
        self.touch(ttl, now)

    def touch(self, ttl, now):
        self.expires = None if ttl == 0 else now + ttl + EXPIRY_SLACK_SECONDS

    def must_be_possible(self, sent_at):
        if self.kept is None:
            raise Wrong("%s is there, but can't be" % self.name.decode())
        if self.expires is not None and sent_at > self.expires:
            raise Wrong("%s outlived its time" % self.name.decode())

    def saw(self, value, flags, sent_at):
        self.must_be_possible(sent_at)
        if value != self.kept.value:
            raise Wrong("%s: value of %d bytes %r..., wanted %d bytes %r..." % (
                self.name.decode(), len(value), value[:60], len(self.kept.value),
                self.kept.value[:60]))
        if flags is not None and flags != self.kept.flags:
            raise Wrong("%s: flags %d, wanted %d" % (self.name.decode(), flags, self.kept.flags))

    def saw_cas(self, token):
        if token in self.old_cas:
            raise Wrong("%s: CAS token %d is an earlier value's" % (self.name.decode(), token))
        if self.cas is not None and token != self.cas:
            raise Wrong("%s: CAS token %d, was %d" % (self.name.decode(), token, self.cas))
        self.cas = token


class Replies:
    """Parses what a connection received. A method raises Short when more must come."""

    class Short(Exception):
        pass

    def __init__(self):
        self.data = bytearray()
        self.at = 0

    def line(self):
        end = self.data.find(b"\r\n", self.at)
        if end < 0:
            raise self.Short
        out = bytes(self.data[self.at:end])
        self.at = end + 2
        return out

    def block(self, n):
        if len(self.data) < self.at + n + 2:
            raise self.Short
        out = bytes(self.data[self.at:self.at + n])
        if self.data[self.at + n:self.at + n + 2] != b"\r\n":
            raise Wrong("a value doesn't end with CRLF: %r" % out[-60:])
        self.at += n + 2
        return out

    def values(self):
        """Classic retrieval: [(key, flags, value, cas or None)]."""
        out = []
        while True:
            words = self.line().split(b" ")
            if words[0] == b"END":
                return out
            if words[0] != b"VALUE":
                raise Wrong("unexpected line %r" % b" ".join(words)[:100])
            out.append((words[1], int(words[2]), self.block(int(words[3])),
                        int(words[4]) if len(words) > 4 else None))

    def meta(self):
        """(status, {flag letter: text}, value or None)."""
        words = self.line().split(b" ")
        if words[0] == b"VA":
            value = self.block(int(words[1]))
            return words[0], {w[:1]: w[1:] for w in words[2:]}, value
        return words[0], {w[:1]: w[1:] for w in words[1:]}, None

    def compact(self):
        del self.data[:self.at]
        self.at = 0


class Operation:
    """A request, how to read its answer, and what the model makes of it."""

    __slots__ = ("request", "read", "judge")

    def __init__(self, request, read, judge):
        self.request = request
        self.read = read
        self.judge = judge


def expect(answer, *allowed):
    if answer not in allowed:
        raise Wrong("answered %r, one of %r fits" % (answer[:100], allowed))


class Model:
    def __init__(self, rnd, key_count, exact):
        """exact: CAS tokens are stable and read-modify-write works on flash values, as in
        Extant and unlike memcached 1.6.18."""
        self.r = rnd
        self.exact = exact
        self.keys = [Key(b"key-%05d" % i) for i in range(key_count)]
        self.numbers = [Key(b"num-%03d" % i) for i in range(key_count // 50)]
        self.noise = rnd.randbytes(1 << 20)
        self.counts = collections.Counter()
        table = [(self.get, 20), (self.gets, 6), (self.multiget, 2), (self.set, 30), (self.add, 4),
                 (self.replace, 3), (self.cas, 6), (self.delete, 4), (self.touch, 3),
                 (self.gat, 2), (self.meta_get, 6), (self.meta_set, 6), (self.meta_delete, 2)]
        if exact:
            table += [(self.append, 4), (self.arithmetic, 5), (self.number_set, 2)]
        self.verbs = [v for v, _ in table]
        self.weights = [w for _, w in table]

    def operations(self, n, mine):
        return [self.r.choices(self.verbs, self.weights)[0](mine) for _ in range(n)]

    # choices

    def pick(self, mine, keys=None):
        """A key that this connection owns in this round; a third of the picks are hot keys."""
        keys = keys or self.keys
        span = len(keys) // 20 if self.r.random() < 0.33 else len(keys)
        turn, of = mine
        return keys[self.r.randrange(span // of) * of + turn]

    def value(self, key):
        r = self.r
        kind = r.random()
        if kind < 0.05:
            n = r.randint(0, 8)
        elif kind < 0.97:
            n = int(r.lognormvariate(7, 1.2)) % 60000
        elif kind < 0.999:
            n = r.randint(10000, 100000)
        else:
            n = r.randint(300000, 900000)
        key.version += 1
        head = b"%b/%d/" % (key.name, key.version)
        at = r.randrange(len(self.noise) - 1)
        body = self.noise[at:at + n] if at + n <= len(self.noise) else self.noise[:n]
        return (head + body)[:max(n, 0)] if kind < 0.05 else head + body

    def flags(self):
        return self.r.choice((0, 0, 1, 77, 2**32 - 1))

    def ttl(self):
        return self.r.choices((0, 1, 2, 3000, -1), (80, 4, 4, 8, 2))[0]

    def saw_cas(self, key, token):
        if self.exact:
            key.saw_cas(token)
        else:
            key.cas = token

    # retrieval

    def missed(self, key):
        self.counts["miss"] += 1
        key.absent()

    def judge_values(self, keys, answer, sent_at):
        wanted = iter(keys)
        for name, flags, value, cas in answer:
            for key in wanted:
                if key.name == name:
                    break
                self.missed(key)
            else:
                raise Wrong("%r wasn't asked for here" % name)
            self.counts["hit"] += 1
            key.saw(value, flags, sent_at)
            if cas is not None:
                self.saw_cas(key, cas)
        for key in wanted:
            self.missed(key)

    def retrieve(self, verb, keys):
        return Operation(b"%b %b\r\n" % (verb, b" ".join(k.name for k in keys)), Replies.values,
                         lambda answer, sent_at, now: self.judge_values(keys, answer, sent_at))

    def get(self, mine):
        return self.retrieve(b"get", [self.pick(mine)])

    def gets(self, mine):
        return self.retrieve(b"gets", [self.pick(mine)])

    def multiget(self, mine):
        return self.retrieve(b"get", [self.pick(mine) for _ in range(self.r.randint(2, 50))])

    def gat(self, mine):
        key = self.pick(mine)
        ttl = self.r.choice((0, 2000))

        def judge(answer, sent_at, now):
            self.judge_values([key], answer, sent_at)
            if key.kept:
                key.touch(ttl, now)
        return Operation(b"gats %d %b\r\n" % (ttl, key.name), Replies.values, judge)

    def meta_get(self, mine):
        key = self.pick(mine)

        def judge(answer, sent_at, now):
            status, flags, value = answer
            if status == b"EN":
                self.missed(key)
                return
            expect(status, b"VA")
            self.counts["hit"] += 1
            key.saw(value, int(flags[b"f"]), sent_at)
            self.saw_cas(key, int(flags[b"c"]))
            if int(flags[b"s"]) != len(value):
                raise Wrong("size %r of a value of %d" % (flags[b"s"], len(value)))
            if (flags[b"t"] == b"-1") != (key.expires is None):
                raise Wrong("%s: t%s" % (key.name.decode(), flags[b"t"].decode()))
        return Operation(b"mg %b s v f c t\r\n" % key.name, Replies.meta, judge)

    # stores

    def store_request(self, verb, key, value, flags, ttl, extra=b""):
        return b"%b %b %d %d %d%b\r\n%b\r\n" % (
            verb, key.name, flags, ttl, len(value), extra, value)

    def set(self, mine):
        key = self.pick(mine)
        value, flags, ttl = self.value(key), self.flags(), self.ttl()

        def judge(answer, sent_at, now):
            if self.refused(key, answer):
                return
            expect(answer, b"STORED")
            key.store(value, flags, ttl, now)
        return Operation(self.store_request(b"set", key, value, flags, ttl), Replies.line, judge)

    def refused(self, key, answer):
        """Out of memory is an honest answer; the old value goes with it."""
        if answer != b"SERVER_ERROR out of memory storing object":
            return False
        self.counts["refused"] += 1
        key.absent()
        return True

    def add(self, mine):
        key = self.pick(mine)
        value, flags, ttl = self.value(key), self.flags(), self.ttl()

        def judge(answer, sent_at, now):
            if self.refused(key, answer):
                return
            expect(answer, b"STORED", b"NOT_STORED")
            if answer == b"STORED":
                key.store(value, flags, ttl, now)
            else:
                key.must_be_possible(sent_at)
        return Operation(self.store_request(b"add", key, value, flags, ttl), Replies.line, judge)

    def replace(self, mine):
        key = self.pick(mine)
        value, flags, ttl = self.value(key), self.flags(), self.ttl()

        def judge(answer, sent_at, now):
            if self.refused(key, answer):
                return
            expect(answer, b"STORED", b"NOT_STORED")
            if answer == b"NOT_STORED":
                key.absent()
            else:
                key.must_be_possible(sent_at)
                key.store(value, flags, ttl, now)
        return Operation(self.store_request(b"replace", key, value, flags, ttl), Replies.line,
                         judge)

    def append(self, mine):
        key = self.pick(mine)
        verb = self.r.choice((b"append", b"prepend"))
        more = self.noise[:self.r.randint(0, 200)]

        def judge(answer, sent_at, now):
            if self.refused(key, answer):
                return
            if answer == b"SERVER_ERROR object too large for cache":
                key.absent()
                return
            expect(answer, b"STORED", b"NOT_STORED")
            if answer == b"NOT_STORED":
                key.absent()
                return
            key.must_be_possible(sent_at)
            old = key.kept
            key.kept = Kept(old.value + more if verb == b"append" else more + old.value, old.flags)
            key.retire_cas()
        return Operation(self.store_request(verb, key, more, 3, 5), Replies.line, judge)

    def cas_token(self, key):
        """The token to send: the present one as far as known, an old one, or nobody's."""
        if key.cas is not None and self.r.random() < 0.8:
            return key.cas
        if key.old_cas:
            return next(iter(key.old_cas))
        return 1 << 62

    def judge_cas(self, key, token, outcome, sent_at):
        """outcome: stored, exists or missing. True iff stored."""
        # Earlier requests of the same batch may have changed the key since the token was chosen.
        if outcome == "missing":
            key.absent()
            return False
        key.must_be_possible(sent_at)
        if outcome == "stored":
            if self.exact and (key.cas not in (None, token) or token in key.old_cas):
                raise Wrong("%s: cas with token %d stored over %r" % (
                    key.name.decode(), token, key.cas))
            return True
        if self.exact and token == key.cas:
            raise Wrong("%s: cas with its own token %d says EXISTS" % (key.name.decode(), token))
        return False

    def cas(self, mine):
        key = self.pick(mine)
        value, flags, ttl = self.value(key), self.flags(), self.ttl()
        token = self.cas_token(key)
        outcomes = {b"STORED": "stored", b"EXISTS": "exists", b"NOT_FOUND": "missing"}

        def judge(answer, sent_at, now):
            if self.refused(key, answer):
                return
            expect(answer, *outcomes)
            if self.judge_cas(key, token, outcomes[answer], sent_at):
                key.store(value, flags, ttl, now)
        return Operation(self.store_request(b"cas", key, value, flags, ttl, b" %d" % token),
                         Replies.line, judge)

    def meta_set(self, mine):
        key = self.pick(mine)
        value, flags, ttl = self.value(key), self.flags(), self.ttl()

        def judge(answer, sent_at, now):
            status, out, _ = answer
            if status == b"SERVER_ERROR":
                key.absent()
                self.counts["refused"] += 1
                return
            expect(status, b"HD")
            key.store(value, flags, ttl, now)
            if key.kept:
                self.saw_cas(key, int(out[b"c"]))
        request = b"ms %b %d F%d T%d c\r\n%b\r\n" % (key.name, len(value), flags, ttl, value)
        return Operation(request, Replies.meta, judge)

    # removal and time

    def delete(self, mine):
        key = self.pick(mine)

        def judge(answer, sent_at, now):
            expect(answer, b"DELETED", b"NOT_FOUND")
            if answer == b"DELETED":
                key.must_be_possible(sent_at)
            key.absent()
        return Operation(b"delete %b\r\n" % key.name, Replies.line, judge)

    def meta_delete(self, mine):
        key = self.pick(mine)
        token = self.cas_token(key)
        outcomes = {b"HD": "stored", b"EX": "exists", b"NF": "missing"}

        def judge(answer, sent_at, now):
            expect(answer[0], *outcomes)
            if self.judge_cas(key, token, outcomes[answer[0]], sent_at):
                key.absent()
        return Operation(b"md %b C%d\r\n" % (key.name, token), Replies.meta, judge)

    def touch(self, mine):
        key = self.pick(mine)
        ttl = self.ttl()

        def judge(answer, sent_at, now):
            expect(answer, b"TOUCHED", b"NOT_FOUND")
            if answer == b"TOUCHED":
                key.must_be_possible(sent_at)
                key.touch(ttl, now)
            if answer == b"NOT_FOUND" or ttl < 0:
                key.absent()
        return Operation(b"touch %b %d\r\n" % (key.name, ttl), Replies.line, judge)

    # numbers: keys of their own, since incr and decr may pad the stored text with blanks

    def number_set(self, mine):
        key = self.pick(mine, self.numbers)
        value = b"%d" % self.r.choice((0, 1, 99, 12345, 2**64 - 1))

        def judge(answer, sent_at, now):
            if self.refused(key, answer):
                return
            expect(answer, b"STORED")
            key.store(int(value), 0, 0, now)
        return Operation(self.store_request(b"set", key, value, 0, 0), Replies.line, judge)

    def arithmetic(self, mine):
        key = self.pick(mine, self.numbers)
        up = self.r.random() < 0.5
        delta = self.r.choice((0, 1, 7, 1000, 2**63))

        def judge(answer, sent_at, now):
            if answer == b"NOT_FOUND":
                key.absent()
                return
            if answer.startswith(b"SERVER_ERROR out of memory"):
                self.counts["refused"] += 1
                return
            key.must_be_possible(sent_at)
            n = key.kept.value
            n = (n + delta) % 2**64 if up else max(0, n - delta)
            expect(answer, b"%d" % n)
            key.store(n, 0, 0, now)
        return Operation(b"%b %b %d\r\n" % (b"incr" if up else b"decr", key.name, delta),
                         Replies.line, judge)

    def flush_all(self):
        for key in self.keys + self.numbers:
            key.absent()


class Driver:
    def __init__(self, server, model, connections, batch):
        self.server = server
        self.model = model
        self.batch = batch
        self.sockets = [server.connect() for _ in range(connections)]
        for s in self.sockets:
            s.setblocking(False)
        self.rounds = 0
        self.operations = 0

    def round(self):
        """One batch on every connection, all at once, then every answer against the model."""
        of = len(self.sockets)
        batches = [self.model.operations(self.batch, ((i + self.rounds) % of, of))
                   for i in range(of)]
        self.run(batches)
        self.rounds += 1

    def run(self, batches):
        # Expiry is judged by when a batch was sent: a value seen may be as old as that.
        sent_at = time.monotonic()
        replies = self.talk([b"".join(o.request for o in b) for b in batches],
                            [len(b) for b in batches], batches)
        now = time.monotonic()
        for batch, answers in zip(batches, replies):
            for operation, answer in zip(batch, answers):
                self.operations += 1
                try:
                    operation.judge(answer, sent_at, now)
                except Wrong as e:
                    raise Wrong("%s\n  request %r\n  answer %r" % (
                        e, operation.request[:120], str(answer)[:300]))

    def talk(self, out, counts, batches):
        views = [memoryview(o) for o in out]
        replies = [Replies() for _ in out]
        answers = [[] for _ in out]
        fds = {s.fileno(): i for i, s in enumerate(self.sockets) if counts[i]}
        poll = select.poll()
        for fd in fds:
            poll.register(fd, select.POLLIN | select.POLLOUT)
        left = len(fds)
        last = time.monotonic()
        while left:
            for fd, events in poll.poll(1000):
                i = fds[fd]
                last = time.monotonic()
                if events & select.POLLOUT:
                    try:
                        views[i] = views[i][self.sockets[i].send(views[i][:262144]):]
                    except BlockingIOError:
                        pass
                    if not views[i]:
                        poll.modify(fd, select.POLLIN)
                if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                    piece = self.sockets[i].recv(262144)
                    if not piece:
                        raise Wrong("connection closed")
                    replies[i].data += piece
                    self.parse(replies[i], answers[i], batches[i])
                    if len(answers[i]) == counts[i]:
                        if replies[i].data:
                            raise Wrong("more than was asked for: %r" %
                                        bytes(replies[i].data[:200]))
                        poll.unregister(fd)
                        left -= 1
            if time.monotonic() - last > ROUND_TIMEOUT_SECONDS:
                i = next(i for i in range(len(out)) if len(answers[i]) < counts[i])
                raise Wrong("no answer within %d s; connection %d, %d bytes to send, answer %d "
                            "to %r has begun with %r" % (
                                ROUND_TIMEOUT_SECONDS, i, len(views[i]), len(answers[i]),
                                batches[i][len(answers[i])].request[:80],
                                bytes(replies[i].data[:200])))
        return answers

    @staticmethod
    def parse(replies, answers, batch):
        while len(answers) < len(batch):
            at = replies.at
            try:
                answers.append(batch[len(answers)].read(replies))
            except Replies.Short:
                replies.at = at
                break
            except Wrong as e:
                n = len(answers)
                raise Wrong("%s\n  request %r\n  before it %r: %r\n  received %r" % (
                    e, batch[n].request[:120], batch[n - 1].request[:120] if n else b"",
                    str(answers[-1])[:200] if n else "", bytes(replies.data[at:at + 300])))
        replies.compact()

    def read_all(self):
        """Every key once more, a hundred at a time."""
        every = self.model.keys
        for i in range(0, len(every), 100):
            self.run([[self.model.retrieve(b"gets", every[i:i + 100])]] +
                     [[] for _ in self.sockets[1:]])


def self_check():
    """The model must refuse wrong answers; otherwise it would prove nothing."""
    def fresh():
        model = Model(random.Random(1), 100, True)
        key = model.keys[0]
        model.pick = lambda mine, keys=None: (keys or model.keys)[0]
        key.store(b"new", 5, 0, 0)
        key.cas, key.old_cas = 9, {7}
        number = model.numbers[0]
        number.store(10, 0, 0, 0)
        return model, key

    def hit(value=b"new", flags=5, cas=None):
        return [(b"key-00000", flags, value, cas)]

    def after_delete(model, answer):
        model.delete((0, 1)).judge(b"DELETED", 0, 0)
        model.get((0, 1)).judge(answer, 0, 0)

    def after_miss(model, answer):
        model.get((0, 1)).judge([], 0, 0)
        model.get((0, 1)).judge(answer, 0, 0)

    def judged(verb):
        return lambda model, answer: getattr(model, verb)((0, 1)).judge(answer, 0, 0)

    def expired(model, answer):
        model.keys[0].touch(1, 0)
        model.get((0, 1)).judge(answer, 10, 10)

    right = ((judged("get"), hit()), (judged("get"), []), (judged("gets"), hit(cas=9)),
             (judged("add"), b"NOT_STORED"), (judged("delete"), b"DELETED"), (expired, []),
             (after_delete, []), (after_miss, []))
    wrong = ((judged("get"), hit(b"old")), (judged("get"), hit(flags=4)),
             (judged("gets"), hit(cas=7)), (judged("gets"), hit(cas=8)), (after_delete, hit()),
             (after_miss, hit()), (expired, hit()), (judged("set"), b"NOT_STORED"),
             (judged("arithmetic"), b"3"), (judged("get"), [(b"key-00001", 5, b"new", None)]))
    for allowed, cases in ((True, right), (False, wrong)):
        for i, (judge, answer) in enumerate(cases):
            try:
                judge(fresh()[0], answer)
            except Wrong:
                if allowed:
                    raise
            else:
                if not allowed:
                    raise Wrong("the model accepts wrong answer %d: %r" % (i, answer))


def parse_args():
    here = os.path.dirname(os.path.abspath(__file__))
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--server", default=os.environ.get("EXTANT", os.path.join(here, "..", "..", "extant")))
    p.add_argument("--flags", default="-m 8 -t 2 -o ext_page_size=2,ext_path=@DIR@/flash:24m,"
                   "ext_wbuf_size=2,ext_item_size=1,ext_item_age=0,ext_recache_rate=20")
    p.add_argument("--rounds", type=int, default=int(os.environ.get("MODEL_ROUNDS", 3000)))
    p.add_argument("--seed", type=int, default=int(os.environ.get("SEED", "1")))
    p.add_argument("--keys", type=int, default=20000)
    p.add_argument("--ram-only", action="store_true", help="a server without flash is meant")
    p.add_argument("--connections", type=int, default=4)
    p.add_argument("--batch", type=int, default=40)
    return p.parse_args()


def run(args, server):
    rnd = random.Random(args.seed)
    model = Model(rnd, args.keys, servers.is_extant(args.server))
    driver = Driver(server, model, args.connections, args.batch)
    flushes = 0
    while driver.rounds < args.rounds:
        driver.round()
        if driver.rounds % 1500 == 0:
            server.command(b"flush_all")
            model.flush_all()
            flushes += 1
    driver.read_all()
    stats = server.stats()
    print("%d operations, %d hits, %d misses, %d refused, %d flushes, seed %d" % (
        driver.operations, model.counts["hit"], model.counts["miss"], model.counts["refused"],
        flushes, args.seed))
    names = ("get_extstore recache_from_extstore extstore_objects_written extstore_page_evictions "
             "extstore_page_reclaims extstore_compact_rescues badcrc_from_extstore "
             "evictions").split()
    print(", ".join("%s %s" % (n, stats.get(n, "-")) for n in names))
    if not args.ram_only and int(stats.get("get_extstore", 0)) == 0:
        raise Wrong("nothing was read from flash: the test tested nothing")
    if model.exact and int(stats.get("badcrc_from_extstore", 0)) != 0:
        raise Wrong("a record on a healthy device failed its checksum")


def main():
    args = parse_args()
    self_check()
    with servers.Server(args.server, args.flags.split(), "model") as server:
        if not args.ram_only and "extstore_pages_free" not in server.stats():
            print("skipped: %s has no flash tier" % args.server)
            return 77
        try:
            run(args, server)
        except (Wrong, OSError) as e:
            print("WRONG: %s\nseed %d\n%s" % (e, args.seed, server.log_tail()))
            if server.process.poll() is not None:
                print("the server died: %s" % server.process.returncode)
            return 1
        code = server.stop()
        if code != 0:
            print("WRONG: exit code %s on SIGTERM\nseed %d" % (code, args.seed))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
