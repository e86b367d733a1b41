"""Exchanges of the text protocol translated to the binary one, and its answers compared.

Translator.exchange() draws an exchange from the text generator, and returns the packets that ask the same
(or, where a line has no counterpart, other packets: quiet forms, odd keys, unknown commands). A packet's cas may
be a token that stands for a value of each server's own. Written from the protocol, not from any server.
"""

import re
import struct
import time

HEAD = struct.Struct(">BBHBBHIIQ")
ASK, ANSWER = 0x80, 0x81
OP = dict(get=0x00, set=0x01, add=0x02, replace=0x03, delete=0x04, incr=0x05, decr=0x06, quit=0x07,
          flush=0x08, getq=0x09, noop=0x0a, version=0x0b, getk=0x0c, getkq=0x0d, append=0x0e,
          prepend=0x0f, stat=0x10, setq=0x11, addq=0x12, replaceq=0x13, deleteq=0x14, incrq=0x15,
          decrq=0x16, quitq=0x17, flushq=0x18, appendq=0x19, prependq=0x1a, touch=0x1c, gat=0x1d,
          gatq=0x1e, gatk=0x23, gatkq=0x24)
NAMES = {number: name for name, number in OP.items()}
LONG_AGO = 1000000000  # for "at once": the protocol's expiry has no sign

# How many bytes of extras each command takes, and whether it takes a key.
SHAPES = {"get": ((0,), True), "set": ((8,), True), "incr": ((20,), True), "touch": ((4,), True),
          "flush": ((0, 4), False), "noop": ((0,), False), "stat": ((0,), None)}
SHAPE_OF = {name: SHAPES[like] for like, names in (
    ("get", "get getq getk getkq delete deleteq append appendq prepend prependq"),
    ("set", "set setq add addq replace replaceq"), ("incr", "incr incrq decr decrq"),
    ("touch", "touch gat gatq gatk gatkq"), ("flush", "flush flushq"), ("noop", "noop version quit quitq"),
    ("stat", "stat")) for name in names.split()}

# Not generated, because the servers differ, on purpose:
NOT_GENERATED = (
    ("verbosity", "memcached doesn't know it, and passes over too many bytes then"),
    ("an unknown command with extras or key", "memcached passes over their bytes twice"),
    ("touch, gat, stat with a value", "memcached takes the value for the next packet; Extant refuses"),
    ("a body of 2 GB and more", "memcached takes it for negative, and the value for packets"),
    ("SASL", "has tests of its own, with the answers of memcached over its sasldb"),
    ("stat reset", "the counters are compared"),
    ("stat sizes_enable", "long gone; 1.6.18 doesn't even end its answer"),
)


class Packet:
    def __init__(self, op, key=b"", extras=b"", value=b"", cas=0):
        self.op, self.key, self.extras, self.value, self.cas = op, key, extras, value, cas

    def render(self, opaque, tokens):
        cas = self.cas
        if not isinstance(cas, int):
            cas = int(tokens.get(cas.key, b"1"))
        return HEAD.pack(ASK, self.op, len(self.key), len(self.extras), 0, 0,
                         len(self.key) + len(self.extras) + len(self.value), opaque, cas) + \
            self.extras + self.key + self.value


class Answer:
    """One packet of an answer."""

    def __init__(self, raw):
        _, self.op, key, extras, _, self.status, _, self.opaque, self.cas = HEAD.unpack_from(raw)
        self.extras = raw[24:24 + extras]
        self.key = raw[24 + extras:24 + extras + key]
        self.value = raw[24 + extras + key:]

    def __repr__(self):
        return "%s status=%#x extras=%r key=%r value=%r cas=%d" % (
            NAMES.get(self.op, "%#x" % self.op), self.status, self.extras, self.key[:60],
            self.value[:200], self.cas)


def split(stream):
    """The packets of a stream of answers, and the rest of it."""
    at, found = 0, []
    while at + 24 <= len(stream) and stream[at] == ANSWER:
        end = at + 24 + int.from_bytes(stream[at + 8:at + 12], "big")
        if end > len(stream):
            break
        found.append(Answer(stream[at:end]))
        at = end
    return found, stream[at:]


def same_stats(a, b):
    """What `stat` tells differs by nature (`items` may have nothing to tell with all on flash); how it ends,
    and prefixes, do not."""
    ends = [[(p.op, p.status, p.opaque) for p in x if not p.key] for x in (a, b)]
    prefixes = [sorted(p.value.split(b"\r\n")) for x in (a, b) for p in x if p.key == b"detailed"]
    return ends[0] == ends[1] and prefixes[::2] == prefixes[1::2]


def agree(a, b, cas):
    """Are these lists of packets the same answer? cas is a CasMap."""
    if any(x.op == OP["stat"] and x.status == 0 for x in a):
        return same_stats(a, b)
    if len(a) != len(b):
        return False
    for x, y in zip(a, b):
        if (x.op, x.status, x.opaque, x.extras, x.key) != (y.op, y.status, y.opaque, y.extras, y.key):
            return False
        if x.value != y.value and not (x.op == OP["version"] and
                                       re.fullmatch(rb"\d+\.\d+\.\d+", y.value)):
            return False
        if not cas.agree(b"%d" % x.cas, b"%d" % y.cas):
            return False
    return True


class Translator:
    def __init__(self, generator, rnd):
        self.g, self.r = generator, rnd
        self.odd_keys = [b"a b", b"\r\n", b"\x00", b"\x00\xff\x80 x", b"get k1\r\n", b" " * 250]

    def exchange(self):
        while True:
            drawn = self.g.exchange()
            parts = drawn if isinstance(drawn, list) else [drawn]
            token = next((p for p in parts if not isinstance(p, bytes)), None)
            text = b"".join(p if isinstance(p, bytes) else b"1" for p in parts)
            packets = self.translate(text, token)
            if packets:
                return packets

    def translate(self, text, token):
        line, _, rest = text.partition(b"\n")
        words = line.split()
        if not words:
            return self.odd()
        verb = words[0].decode("latin-1")
        if verb in ("set", "add", "replace", "append", "prepend", "cas") and len(words) >= 5:
            return self.store(verb, words, rest, token)
        if verb in ("get", "gets", "gat", "gats", "mg", "me") and len(words) > 1:
            keys = words[2:] if verb.startswith("gat") else words[1:2] if verb[0] == "m" else words[1:]
            return [self.get(k, words[1] if verb.startswith("gat") else None, verb == "gets")
                    for k in keys if self.is_good(k)]
        simple = {"touch": self.touch, "delete": self.delete, "md": self.delete, "incr": self.count,
                  "decr": self.count, "ma": self.count, "stats": self.stat}.get(verb)
        if simple and (verb == "stats" or len(words) > 1 and self.is_good(words[1])):
            return simple(verb, words, token)
        if verb == "ms" and len(words) > 2 and self.is_good(words[1]):
            return self.store(self.r.choice(("set", "add", "replace", "append", "prepend")),
                              [b"", words[1], b"5", b"0"], rest, token)
        if verb == "flush_all":
            return [Packet(OP[self.r.choice(("flush", "flushq"))],
                           extras=self.r.choice((b"", b"\0\0\0\0")))]
        if verb == "version":
            return [Packet(OP["version"])]
        if verb == "mn":
            return [Packet(OP["noop"])]
        return self.odd()

    @staticmethod
    def is_good(key):
        return 1 <= len(key) <= 250

    def key(self, key):
        return self.r.choice(self.odd_keys) if self.r.random() < 0.1 and key[:1] in b"kpL" else key

    def quiet(self, name, chance=0.3):
        return OP[name + "q"] if self.r.random() < chance else OP[name]

    @staticmethod
    def expiry(word):
        try:
            seconds = int(word)
        except ValueError:
            seconds = 0
        return struct.pack(">I", LONG_AGO if seconds < 0 else min(seconds, 2**31))

    def store(self, verb, words, rest, token):
        key, body = words[1], rest[:-2]
        if not self.is_good(key) or not re.fullmatch(rb"\d+", words[2]):
            return self.odd()
        if verb == "cas":
            verb = self.r.choice(("set", "set", "replace", "add", "append", "prepend"))
        cas = token if token else 0 if self.r.random() < 0.97 else 12345678
        if verb in ("append", "prepend"):
            if key in self.g.number_keys:
                return self.odd()
            return [Packet(self.quiet(verb), self.key(key), b"", body, cas)]
        flags = struct.pack(">I", int(words[2]) % 2**32)
        if body.endswith(b"get big0 big1 big2"):  # `big` is two exchanges in one
            body = body[:-len(b"\r\nget big0 big1 big2")]
            return [Packet(OP["set"], key, flags + b"\0\0\0\0", body)] + \
                [Packet(OP["getk"], b"big%d" % i) for i in range(3)]
        key = key if key in self.g.number_keys or token else self.key(key)
        return [Packet(self.quiet(verb), key, flags + self.expiry(words[3]), body, cas)]

    def get(self, key, expiry, with_key):
        if key in self.g.number_keys:  # their padding differs by chance
            key = b"k1"
        if expiry is not None:
            return Packet(OP[self.r.choice(("gat", "gatq", "gatk", "gatkq", "touch"))], self.key(key),
                          self.expiry(expiry))
        name = "getk" if with_key else self.r.choice(("get", "getq", "getk", "getkq"))
        return Packet(OP[name], key if with_key else self.key(key))

    def touch(self, verb, words, token):
        return [Packet(OP["touch"], self.key(words[1]), self.expiry(words[2] if len(words) > 2 else 0))]

    def delete(self, verb, words, token):
        return [Packet(self.quiet("delete"), self.key(words[1]), cas=token or 0)]

    def count(self, verb, words, token):
        r = self.r
        key = words[1] if words[1] in self.g.number_keys else self.g.wordy_key
        name = r.choice(("incr", "decr"))
        expiry = r.choice((0xffffffff, 0xffffffff, 0, 1000, LONG_AGO))
        extras = struct.pack(">QQI", self.g.delta(name == "decr"), self.g.initial(), expiry)
        return [Packet(self.quiet(name), key, extras,
                       cas=0 if r.random() < 0.95 else 12345678)]

    def stat(self, verb, words, token):
        key = b" ".join(words[1:])
        if re.search(rb"cachedump|conns|extstore|sizes_", key) and self.r.random() < 0.5:
            key = b"settings"
        return [Packet(OP["stat"], key)]

    def odd(self):
        r = self.r
        kind = r.randrange(8)
        if kind == 0:  # unknown
            return [Packet(r.choice((0x1f, 0x25, 0x2f, 0x40, 0x7f, 0x81, 0xff)), value=b"x" * r.randrange(9))]
        if kind == 1:  # nobody may log in to it
            return [Packet(0x20) if r.random() < 0.5 else Packet(r.choice((0x21, 0x22)), b"PLAIN", value=b"\0u\0p")]
        if kind == 2:
            return [Packet(OP["setq"], r.choice(self.odd_keys), b"\0\0\0\1\0\0\0\0", b"%x" % r.getrandbits(99))]
        if kind == 3:
            return [Packet(OP[r.choice(("get", "getq", "getk", "getkq"))], r.choice(self.odd_keys))]
        if kind == 4:
            return [Packet(self.quiet("delete"), r.choice(self.odd_keys))]
        if kind == 5:
            return [Packet(OP["stat"], r.choice((b"foo", b"s", b"itemsx", b"detail", b"detail x",
                                                 b"cachedump 1 1", b"conns", b"detail dump")))]
        if kind == 6:  # a multiget as clients send it
            return [Packet(OP["getkq"], self.g.key()) for _ in range(r.choice((10, 50)))] + [Packet(OP["noop"])]
        return [Packet(OP["setq"], b"k3", b"\0\0\0\0" + struct.pack(">I", int(time.time()) + 5000), b"later")]

    def misshapen(self):
        """Any command with extras that it doesn't take, without its key, or with a key that it doesn't take."""
        while True:
            name = self.r.choice(list(OP))
            lengths, has_key = SHAPE_OF[name]
            extras, key = bytes(self.r.choice((0, 1, 4, 7, 8, 19, 20))), self.r.choice((b"", b"a", b"k" * 250))
            if len(extras) not in lengths or (has_key is not None and has_key != bool(key)):
                return Packet(OP[name], key, extras)

    def closing(self):
        """A packet after whose answer both servers close. None has a value: what isn't read when a connection
        closes can cost the answer."""
        r = self.r
        if r.random() < 0.7:
            return self.misshapen()
        return r.choice((
            Packet(OP["quit"]), Packet(OP["quitq"]), Packet(OP["get"]), Packet(OP["get"], b"a", b"1234"),
            Packet(OP["set"], b"a"), Packet(OP["set"], b"", b"12345678"), Packet(OP["setq"], b"a", b"1234"),
            Packet(OP["delete"], b"a", b"1234"), Packet(OP["incr"], b"a", b"1234"),
            Packet(OP["append"], b"a", b"1234"), Packet(OP["touch"], b"a"), Packet(OP["gatkq"], b"a"),
            Packet(OP["noop"], b"a"), Packet(OP["version"], b"a"), Packet(OP["quit"], extras=b"1"),
            Packet(OP["flush"], extras=b"12345678"), Packet(OP["stat"], extras=b"1234"),
            Packet(OP["get"], b"k" * 251), Packet(OP["set"], b"k" * 300, b"12345678"),
            Packet(0x20, b"a"), Packet(0x21)))
