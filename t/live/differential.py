#!/usr/bin/env python3
"""Differential test: the same conversations with Debian's memcached and the server under test.

Exchanges (one request each, valid or broken) are generated in batches; a batch is sent
pipelined to both servers, cut at random bytes, differently for each. A meta get of a key
that is never there, with the exchange's number as opaque, follows every exchange and so
delimits its answer; a get of a value that no other batch has ends the batch.
Answers must be equal byte for byte. Where they can't be, a rule of MASKS says what is
forgiven and why; everything else is a difference, is printed with the seed, and fails.

CAS tokens are only required to correspond one to one between the two servers, since the versions take new ones at
different moments; `cas` requests send each server its own token.
From time to time the counters of `stats` that both versions count alike are compared too.

  differential.py --sut ./extant --count 100000 --seed 7
  differential.py --binary              the same conversations in the binary protocol, beside text
  differential.py --fixed FILE          the exchanges of FILE, whole and byte by byte
  differential.py --plant 25            falsify 25 answers: each must be noticed

Exit 0: no difference (under --plant: every fault found); 1 otherwise.
"""

import argparse
import ast
import base64
import collections
import errno
import os
import random
import re
import select
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'aid'))
import binary_exchanges as binary  # noqa: E402
import servers  # noqa: E402

SENTINEL = b"mg never O.%d\r\n"
ANSWER_END = re.compile(rb"EN O\.(\d+)\r\n")
# No number that is counted up or down reaches 2^63 (see NOT_GENERATED): the largest that one starts from, the
# largest that is added, and how many additions the rest has room for. What is subtracted may be any number.
LARGEST_START = 2**62
LARGEST_DELTA = 2**40
MOST_EXCHANGES = (2**63 - 1 - LARGEST_START) // LARGEST_DELTA
MAX_U64 = 2**64 - 1
# Each server's clock moves once a second, in whole seconds, so a reading of it is less than two seconds old; a
# difference of two readings is off by less than two, and two such differences differ by less than four.
CLOCK_SECONDS = 4
ANSWER_TIMEOUT_SECONDS = servers.PATIENCE_SECONDS  # in which nothing is sent or received
PIECES_MAX = 30000
BAD_FORMAT = b"CLIENT_ERROR bad command line format\r\n"

# Counters that 1.6.18 and 1.6.45 count alike and that no background thread moves. (1.6.18 counts no
# delete_misses for md with another cas, 1.6.45 does.)
COUNTERS = (
    "cmd_get cmd_set cmd_flush cmd_touch get_hits get_misses delete_hits cmd_meta "
    "incr_misses incr_hits decr_misses decr_hits cas_misses cas_hits cas_badval touch_hits "
    "touch_misses store_too_large").split()

# Requests that are not generated, because the versions execute them differently, so that the state of the servers
# would differ afterwards. 1.6.45's side of each is tested by
# the protocol tests.
NOT_GENERATED = (
    ("byte 0x80 first", "it enters the binary protocol: see --binary"),
    ("NUL inside a line", "1.6.18 ends the line there, 1.6.45 takes it as a byte"),
    ("more tokens than a classic command has", "ERROR in 1.6.18, ignored in 1.6.45"),
    ("delete KEY WORD, WORD not 0", "usage error in 1.6.18, ignored in 1.6.45"),
    ("E of ms, md, ma; x of md; C of mg", "not known to 1.6.18"),
    ("ms with a size above -I and a good body", "swallowed alike, but counted differently"),
    ("numbers of 2^63 and above in incr and decr", "1.6.18 then looks for a minus sign beyond the end of the "
     "value: what it answers depends on its memory; protocol_test.c and binary_test.c have them"),
    ("watch", "refused or not depending on unsent data; has a test of its own"),
    ("an over-long key in get, gets, gat", "1.6.18 drops earlier answers of the pipeline; the "
     "fixed conversation has it unpipelined"),
    ("reading or appending to a number that incr or decr changed", "they rewrite in place and pad "
     "with blanks unless an answer still being sent holds the item: with pipelining that is "
     "chance; the fixed conversation has it unpipelined"),
    ("flush_all with a delay that lets time pass", "asks for waiting; has a test of its own"),
    ("flush_all 0 0 0 0", "ERROR in 1.6.18; 1.6.45 flushes"),
    ("cas without its last number", "1.6.45 swallows a body, 1.6.18 doesn't"),
    ("ms MA and MP with N", "1.6.45 makes the item, 1.6.18 doesn't know it"),
    ("mg b N, ms b MA and MP", "the item keeps a base64 key in base64; memcached forgets what it was, "
     "and sends raw bytes, which may be line ends"),
    ("ma T where the number may grow", "memcached sets the TTL of the item that it has just replaced"),
    ("numbers with a plus sign or a tab, or too large for 32 bits", "taken by 1.6.18, refused by 1.6.45; "
     "those of set are the same"),
    ("mg with too long an opaque", "memcached counts it as a miss if it is one"),
)

# ---- masks: what may differ, each with its reason -------------------------------------

Mask = collections.namedtuple("Mask", "name reason applies")


def first_word(request):
    words = request.split(None, 1)
    return words[0] if words else b""


def request_line(request):
    return request.split(b"\n", 1)[0].rstrip(b"\r")


MIN_TOKENS = {
    b"get": 2, b"gets": 2, b"gat": 3, b"gats": 3, b"set": 5, b"add": 5, b"replace": 5,
    b"append": 5, b"prepend": 5, b"cas": 6, b"incr": 3, b"decr": 3, b"touch": 3, b"delete": 2,
    b"mg": 2, b"ms": 3, b"md": 2, b"ma": 2, b"me": 2, b"verbosity": 2, b"slabs": 2, b"lru": 2,
    b"lru_crawler": 2, b"extstore": 2, b"cache_memlimit": 2,
}


def too_short(request, ref, sut):
    line = request_line(request)
    words = line.split()
    short = len(line) < 3 or not words or len(words) < MIN_TOKENS.get(words[0], 0)
    errors = (b"ERROR\r\n", BAD_FORMAT)
    if request == b"mn\n":
        return (ref, sut) == (b"MN\r\n", BAD_FORMAT)
    if not short:
        return False
    # 1.6.18 answers `gat 0` with END; a body sent with it is a line of its own to both.
    return all(a in errors or a == b"END\r\n" or
               a.replace(b"ERROR\r\n", b"").replace(b"CLIENT_", b"") in
               (b"", b"bad command line format\r\n") for a in (ref, sut))


def refused_body(request, ref, sut):
    line, _, body = request.partition(b"\n")
    if first_word(line) not in (b"set", b"add", b"replace", b"append", b"prepend", b"cas", b"ms"):
        return False
    return bool(body) and b"ERROR" in sut and ref == sut + b"ERROR\r\n"


def rest_is_short(request, ref, sut):
    line, _, body = request.partition(b"\n")
    words = line.split()
    place = {b"ms": 2}.get(first_word(line), 4)
    if first_word(line) not in (b"set", b"add", b"replace", b"append", b"prepend", b"cas", b"ms") \
            or len(words) <= place:
        return False
    said = int(words[place]) + 2 if words[place].isdigit() and b"bad data chunk" in sut else 0
    return len(body[said:]) < 4 and ref.endswith(b"\r\nERROR\r\n") and \
        sut == ref[:-len(b"ERROR\r\n")] + BAD_FORMAT


def is_number(text, low, high):
    return re.fullmatch(rb"-?\d+", text) is not None and low <= int(text) <= high


def is_base64(text):
    try:
        return len(base64.b64decode(text, validate=True)) > 0
    except ValueError:
        return False


def flag_error(flag, key):
    """The error that 1.6.45 reports for a single meta flag; None: no error."""
    letter, arg = flag[:1], flag[1:]
    if letter == b"b":
        return None if is_base64(key) else b"CLIENT_ERROR error decoding key\r\n"
    if letter in b"TNR":
        good, error = is_number(arg, -2**31, 2**31 - 1), b"bad token in command line format"
    elif letter in b"CE":
        good, error = is_number(arg, 0, 2**64 - 1), b"bad token in command line format"
    elif letter in b"DJ":
        good, error = is_number(arg, 0, 2**64 - 1), b"invalid numeric value"
    elif letter == b"F":
        good, error = is_number(arg, 0, 2**32 - 1), b"bad command line format"
    else:
        return None
    return None if good else b"CLIENT_ERROR %b\r\n" % error


def flags_error(words, first):
    """The error that 1.6.45 reports for a meta command (except ma); None: no error."""
    if len(words[1]) > 250:
        return BAD_FORMAT
    if len(words) > 20:
        return b"CLIENT_ERROR options flags are too long\r\n"
    error, seen = None, set()
    for flag in words[first:]:
        letter = flag[:1]
        if letter in seen:
            return b"CLIENT_ERROR duplicate flag\r\n"
        if letter not in b"NTRlOPLkstcfvhuqxFCEMJDIb":
            return b"CLIENT_ERROR invalid flag\r\n"
        seen.add(letter)
        error = flag_error(flag, words[1]) or error
    return error


def late_error(words, first):
    """Checks that come after all flags: mode, then opaque."""
    modes = {b"ms": b"EAPRS", b"ma": b"ID+-"}.get(words[0])
    for flag in words[first:]:
        if flag[:1] == b"M" and modes and (flag[1:2] == b"" or flag[1:2] not in modes):
            return b"CLIENT_ERROR invalid mode for %b M token\r\n" % words[0]
    if any(flag[:1] == b"O" and len(flag) > 32 for flag in words[first:]):
        return b"CLIENT_ERROR opaque token too long\r\n"
    return None


def meta_error(request, ref, sut):
    """Both refuse a meta command, and the tested server in the words of 1.6.45."""
    line, _, body = request.partition(b"\n")
    words = line.split()
    first = {b"mg": 2, b"ms": 3, b"md": 2, b"ma": 2}.get(first_word(line))
    if not first or len(words) < first or b"ERROR" not in ref:
        return False
    if any(not re.match(rb"[A-z0-9]", w) for w in words[first:23]):
        rest = b"" if not body else BAD_FORMAT if len(body) < 4 else b"ERROR\r\n"
        return sut == BAD_FORMAT + rest
    error = flags_error(words, first)
    if error and words[0] == b"ma":
        error = b"CLIENT_ERROR invalid or duplicate flag\r\n"
    return sut == (error or late_error(words, first))


def hidden_vivify(request, ref, sut):
    words = request.split()
    return words[:1] == [b"ma"] and b"q" in words[2:] and sut == b"" and \
        any(w[:1] == b"N" for w in words[2:]) and ref[:2] in (b"HD", b"VA")


def stats_answer(request, ref, sut):
    """Same framing; other tests check names and values."""
    if first_word(request) != b"stats":
        return False

    def frame(answer):
        return [l for l in answer.split(b"\r\n") if not l.startswith((b"STAT ", b"ITEM "))]

    return frame(ref) == frame(sut)


def unordered_prefixes(request, ref, sut):
    return (request.startswith(b"stats detail dump") and
            sorted(ref.split(b"\r\n")) == sorted(sut.split(b"\r\n")))


def long_key(request, ref, sut):
    return (first_word(request) in (b"get", b"gets", b"gat", b"gats") and
            any(len(w) > 250 for w in request.split()) and
            ref.endswith(BAD_FORMAT) and sut == ref + b"\r\n")


def told(word, *pairs):
    """Answers that the two versions word differently, exactly these."""
    def applies(request, ref, sut):
        return first_word(request) == word and any(
            ref == a and sut in ((b,) if isinstance(b, bytes) else b) for a, b in pairs)
    return applies


MASKS = (
    Mask("version", "names the release",
         lambda q, a, b: first_word(q) == b"version" and
         all(re.fullmatch(rb"VERSION \d+\.\d+\.\d+\r\n", x) for x in (a, b))),
    Mask("stats", "pids, times, sizes and the set of counters differ; COUNTERS are compared",
         stats_answer),
    Mask("prefix order", "stats detail dump walks a hash table", unordered_prefixes),
    Mask("too short", "1.6.45 calls a line with too few bytes or words badly formatted, "
         "1.6.18 an ERROR (gat without a key: END)", too_short),
    Mask("refused body", "1.6.45 swallows the body of a refused store, 1.6.18 runs it as a "
         "command", refused_body),
    Mask("short rest", "the rest of a body that is too long is a line of its own; if shorter than "
         "4 bytes, badly formatted in 1.6.45, ERROR in 1.6.18", rest_is_short),
    Mask("meta error", "1.6.45 words many refusals of meta commands in its own way, and checks in "
         "another order; meta_error() says which", meta_error),
    Mask("hidden ma", "1.6.18 doesn't hide the answer of ma q N when it makes the item",
         hidden_vivify),
    Mask("leading space", "1.6.45 looks for a data command at the first byte only",
         lambda q, a, b: q[:1] == b" " and b == b"ERROR\r\n"),
    Mask("long key", "1.6.45 sends a stray empty line after the error of an over-long key",
         long_key),
    Mask("shutdown", "the error got its proper class after 1.6.18",
         told(b"shutdown", (b"ERROR: shutdown not enabled\r\n",
                            b"SERVER_ERROR: shutdown not enabled\r\n"))),
    Mask("refresh_certs", "1.6.18 has a text of its own for builds without TLS",
         told(b"refresh_certs", (b"Error TLS not enabled\r\n", b"ERROR\r\n"))),
    Mask("crawler start", "1.6.18 refuses to enable a crawler that runs",
         told(b"lru_crawler", (b"ERROR failed to start lru crawler thread\r\n", b"OK\r\n"))),
    Mask("busy", "whether a crawl or page move is under way depends on a thread",
         lambda q, a, b: first_word(q) in (b"lru_crawler", b"slabs") and
         all(x.split(b" ")[0].strip() in (b"OK", b"BUSY", b"NOSPARE", b"NOTSTARTED")
             for x in (a, b))),
)

# Tokens of answer lines that differ by nature; the rest of the line must be equal.
TOKEN_REASONS = {
    "t": "seconds left: may differ by CLOCK_SECONDS and the seconds that passed between the servers",
    "l": "seconds since access: depends on when the LRU thread last looked",
    "la": "as l, in me",
    "size": "in me: size of the item's header",
    "exp": "in me: 1.6.18 says how long ago it was, so a negative number; and as t",
    "cas": "CAS tokens (gets, meta c, me): must correspond one to one",
}


class CasMap:
    """CAS tokens of the two servers, which must correspond one to one."""

    def __init__(self):
        self.to_sut = {}
        self.to_ref = {}

    def agree(self, ref, sut):
        if ref == b"0" or sut == b"0":
            return ref == sut
        return self.to_sut.setdefault(ref, sut) == sut and self.to_ref.setdefault(sut, ref) == ref


META_STATUS = (b"HD", b"VA", b"EN", b"NF", b"NS", b"EX")
NUMBER = re.compile(rb"-?\d+")


def times_agree(ref, sut, seconds):
    """Are these the same time, told by servers that were asked within this many seconds?"""
    return abs(abs(int(ref)) - abs(int(sut))) < CLOCK_SECONDS + seconds


def tokens_agree(status, i, ref, sut, cas, seconds):
    if ref == sut:
        return not (status in META_STATUS and ref[:1] == b"c" and ref[1:].isdigit()) or \
            cas.agree(ref[1:], sut[1:])
    if status == b"VALUE":
        return i == 4 and ref.isdigit() and sut.isdigit() and cas.agree(ref, sut)
    if status == b"ME":
        name, _, _ = ref.partition(b"=")
        if not sut.startswith(name + b"="):
            return False
        a, b = ref[len(name) + 1:], sut[len(name) + 1:]
        if not (NUMBER.fullmatch(a) and NUMBER.fullmatch(b)):
            return False
        if name == b"cas":
            return cas.agree(a, b)
        return name in (b"la", b"size") or (name == b"exp" and times_agree(a, b, seconds))
    if ref[:1] != sut[:1] or not (NUMBER.fullmatch(ref[1:]) and NUMBER.fullmatch(sut[1:])):
        return False
    if ref[:1] == b"c":
        return cas.agree(ref[1:], sut[1:])
    if ref[:1] == b"t":
        return times_agree(ref[1:], sut[1:], seconds) and b"-1" not in (ref[1:], sut[1:])
    return ref[:1] == b"l"


def blocks(answer):
    """Splits an answer into (header words, data) per line; data of VALUE and VA only."""
    at = 0
    while at < len(answer):
        end = answer.find(b"\r\n", at)
        if end < 0:
            yield [answer[at:]], None
            return
        words = answer[at:end].split(b" ")
        at = end + 2
        length = None
        if words[0] == b"VALUE" and len(words) in (4, 5) and words[3].isdigit():
            length = int(words[3])
        elif words[0] == b"VA" and len(words) > 1 and words[1].isdigit():
            length = int(words[1])
        if length is None:
            yield words, None
        else:
            yield words, answer[at:at + length + 2]
            at += length + 2


def lines_agree(ref, sut, cas, seconds):
    if ref == sut and b" c" not in ref and not ref.startswith(b"VALUE"):
        return True
    a, b = list(blocks(ref)), list(blocks(sut))
    if len(a) != len(b):
        return False
    for (ref_words, ref_data), (sut_words, sut_data) in zip(a, b):
        if ref_data != sut_data or len(ref_words) != len(sut_words):
            return False
        status = ref_words[0]
        if status not in META_STATUS + (b"VALUE", b"ME"):
            if ref_words != sut_words:
                return False
            continue
        for i, (x, y) in enumerate(zip(ref_words, sut_words)):
            if not tokens_agree(status, i, x, y, cas, seconds):
                return False
    return True


def agree(request, ref, sut, cas, used, seconds):
    """True iff the answers are equal or a rule forgives the difference (counted in used). A time that is told
    may be off by these seconds."""
    if lines_agree(ref, sut, cas, seconds):
        return True
    for mask in MASKS:
        if mask.applies(request, ref, sut):
            used[mask.name] += 1
            return True
    return False


# ---- the conversation generator -------------------------------------------------------


class CasToken:
    """Stands in a request for the server's own CAS token of a key."""

    def __init__(self, key):
        self.key = key


def weighted(table):
    names, weights = zip(*table)
    cumulative = []
    for w in weights:
        cumulative.append(w + (cumulative[-1] if cumulative else 0))
    return names, cumulative


class Generator:
    """Exchanges from a seeded random source. An exchange is bytes, or a list of bytes and
    CasTokens."""

    def __init__(self, rnd):
        self.r = rnd
        self.text_keys = [b"k%d" % i for i in range(24)] + [b"p:%d" % i for i in range(4)] + \
            [b"L" * 250, b"M" * 249, "schlüssel".encode(), b"\x01\x02ctl"]
        self.number_keys = [b"n%d" % i for i in range(8)]
        self.wordy_key = b"never-a-number"
        self.cas_keys = [b"c%d" % i for i in range(8)]
        self.base64_keys = [base64.b64encode(k) for k in (b"binary \x00 key", b"b2", b"\xff" * 40)]
        self.names, self.weights = weighted((
            (self.store, 20), (self.get, 14), (self.gets, 4), (self.gat, 4), (self.touch, 3),
            (self.delete, 5), (self.arithmetic, 7), (self.cas, 5), (self.meta_get, 12),
            (self.meta_set, 9), (self.meta_delete, 4), (self.meta_arithmetic, 6),
            (self.meta_debug, 1), (self.broken, 10), (self.admin, 2), (self.flush, 0.1),
            (self.number, 3), (self.big, 0.05), (self.many, 0.2)))

    def exchange(self):
        return self.r.choices(self.names, cum_weights=self.weights)[0]()

    # small choices

    def key(self):
        return self.r.choice(self.text_keys)

    def exptime(self):
        return self.r.choice((b"0", b"0", b"0", b"0", b"-1", b"100", b"3600", b"2592000",
                              b"2592001", b"%d" % (int(time.time()) + 5000)))

    def body(self):
        r = self.r
        kind = r.random()
        if kind < 0.1:
            return b""
        if kind < 0.2:
            return b"%d" % r.choice((0, 1, 9, 99, 12345, 2**64 - 1, 2**64))
        if kind < 0.3:
            return r.choice((b"\r\n", b"END\r\n", b"VALUE k1 0 1\r\nx\r\n", b"a\r\nb", b"\n", b"\r",
                             b"get k1\r\n", b" ", b"\x80\x00\xff"))
        if kind < 0.9:
            return b"%x" % r.getrandbits(4 * r.randint(1, 120))
        return r.choice((b"abc", b"\xe4\xf6", b"01234567")) * r.randint(1, 700)

    def noreply(self):
        return b" noreply" if self.r.random() < 0.1 else b""

    def line_end(self):
        return b"\n" if self.r.random() < 0.1 else b"\r\n"

    # classic commands

    def store(self):
        r = self.r
        verb = r.choice((b"set", b"set", b"set", b"add", b"replace", b"append", b"prepend"))
        flags = r.choice((b"0", b"0", b"1", b"42", b"65535", b"4294967295"))
        body = self.body()
        return b"%b %b %b %b %d%b%b%b\r\n" % (verb, self.key(), flags, self.exptime(), len(body),
                                             self.noreply(), self.line_end(), body)

    def number(self):
        if self.r.random() < 0.1:
            verb = self.r.choice((b"set", b"append"))
            return b"%b %b 3 0 5\r\nwords\r\n" % (verb, self.wordy_key)
        value = b"%d" % self.r.choice((0, 1, 10, 99, 1000, 2**32, LARGEST_START))
        return b"set %b 0 0 %d\r\n%b\r\n" % (self.r.choice(self.number_keys), len(value), value)

    def get(self):
        n = self.r.choice((1, 1, 1, 1, 2, 3, 10))
        return b"get %b%b" % (b" ".join(self.key() for _ in range(n)), self.line_end())

    def gets(self):
        n = self.r.choice((1, 1, 2, 5))
        return b"gets %b\r\n" % b" ".join(self.r.choice(self.cas_keys) for _ in range(n))

    def gat(self):
        n = self.r.choice((1, 1, 2, 5))
        return b"%b %b %b\r\n" % (self.r.choice((b"gat", b"gats")), self.exptime(),
                                  b" ".join(self.key() for _ in range(n)))

    def touch(self):
        return b"touch %b %b%b\r\n" % (self.key(), self.exptime(), self.noreply())

    def delete(self):
        return b"delete %b%b\r\n" % (self.key(), self.r.choice((b"", b"", b"", b" 0", b" noreply")))

    def arithmetic(self):
        r = self.r
        key = r.choice(self.number_keys) if r.random() < 0.9 else self.wordy_key
        verb = r.choice((b"incr", b"decr"))
        return b"%b %b %d%b\r\n" % (verb, key, self.delta(verb == b"decr"), self.noreply())

    def delta(self, is_decr):
        return self.r.choice((0, 1, 1, 10, MAX_U64 if is_decr else LARGEST_DELTA, 99999))

    def initial(self):
        return self.r.choice((0, 5, LARGEST_START))

    def cas(self):
        r = self.r
        key = r.choice(self.cas_keys)
        body = self.body()
        if r.random() < 0.3:
            return b"set %b 7 0 %d\r\n%b\r\n" % (key, len(body), body)
        if r.random() < 0.1:
            return b"delete %b\r\n" % key
        return [b"cas %b 3 0 %d " % (key, len(body)), CasToken(key),
                b"%b\r\n%b\r\n" % (self.noreply(), body)]

    # meta commands

    def opaque(self):
        return b"O" + b"%x" % self.r.getrandbits(4 * self.r.randint(1, 31))

    def flags(self, table, most):
        chosen = self.r.sample(table, self.r.randint(0, min(most, len(table))))
        return b"".join(b" " + (f() if callable(f) else f) for f in chosen)

    def meta_key(self):
        if self.r.random() < 0.15:
            return self.r.choice(self.base64_keys), b" b"
        return self.key(), b""

    def meta_get(self):
        key, b64 = self.meta_key()
        r = self.r
        table = [b"v", b"v", b"c", b"f", b"h", b"k", b"l", self.opaque, b"q", b"s", b"t", b"u",
                 lambda: r.choice((b"T0", b"T1000", b"T100000")),
                 lambda: r.choice((b"R30", b"R50000")), b"N500", b"P5", b"L5"]
        flags = self.flags(table, 8)
        if b64:
            flags = flags.replace(b" N500", b"")
        if flags.count(b" v") > 1 and r.random() < 0.9:
            flags = flags.replace(b" v", b"", 1)
        return b"mg %b%b%b%b" % (key, b64, flags, self.line_end())

    def meta_set(self):
        key, b64 = self.meta_key()
        r = self.r
        body = self.body()
        modes = (b"ME", b"MA", b"MP", b"MR", b"MS", b"Me", b"Ma", b"Mp", b"Mr", b"Ms")
        table = [b"c", lambda: b"F%d" % r.choice((0, 1, 65535, 2**32 - 1)), b"k", self.opaque, b"q",
                 lambda: r.choice((b"T0", b"T1000", b"T-1")), lambda: r.choice(modes), b"N500",
                 b"I"]
        head = b"ms %b %d%b" % (key, len(body), b64)
        if r.random() < 0.15:
            key = r.choice(self.cas_keys)
            return [b"ms %b %d%b C" % (key, len(body), self.flags([b"c", b"k", b"I"], 3)),
                    CasToken(key), b"\r\n%b\r\n" % body]
        flags = self.flags(table, 5)
        if re.search(rb" M[AaPp]", flags):
            flags = flags.replace(b" N500", b"")
            if b64:
                flags = re.sub(rb" M.", b"", flags)
        return b"%b%b\r\n%b\r\n" % (head, flags, body)

    def meta_delete(self):
        key, b64 = self.meta_key()
        r = self.r
        if r.random() < 0.2:
            key = r.choice(self.cas_keys)
            return [b"md %b%b C" % (key, self.flags([b"q", b"k", self.opaque], 2)),
                    CasToken(key), b"\r\n"]
        table = [b"q", b"k", self.opaque, b"I", lambda: r.choice((b"T30000", b"T0"))]
        return b"md %b%b%b\r\n" % (key, b64, self.flags(table, 4))

    def meta_arithmetic(self):
        r = self.r
        key = r.choice(self.number_keys) if r.random() < 0.9 else self.wordy_key
        table = [b"N500", lambda: b"J%d" % self.initial(),
                 lambda: b"D%d" % r.choice((0, 1, 3, LARGEST_DELTA)),
                 lambda: r.choice((b"MI", b"MD", b"M+", b"M-", b"Mi", b"MX")),
                 b"q", b"t", b"c", b"v", b"k", self.opaque, lambda: r.choice((b"T0", b"T9000"))]
        flags = self.flags(table, 6)
        if not re.search(rb" M[D-]", flags):
            flags = re.sub(rb" T\d+", b"", flags)
        else:
            flags = flags.replace(b" D%d" % LARGEST_DELTA, b" D%d" % MAX_U64)
        return b"ma %b%b\r\n" % (key, flags)

    def meta_debug(self):
        return b"me %b\r\n" % self.key()

    # what isn't an everyday request

    def broken(self):
        r = self.r
        key = self.key()
        long_key = b"X" * r.choice((251, 252, 300, 1000))
        kind = r.randrange(8)
        if kind == 0:  # body longer or shorter than said; the rest is read as garbage words
            body = b"w" * r.randint(3, 20)
            said = len(body) + r.choice((-2, -1))
            return b"set %b 0 0 %d\r\n%b\r\n" % (key, said, body)
        if kind == 1:  # too many or too few words in a row
            return r.choice(self.SHORT) + r.choice((b"\r\n", b"\n"))
        if kind == 2:
            return r.choice(self.BAD_LINES).replace(b"KEY", key) + b"\r\n"
        if kind == 3:
            return r.choice(self.BAD_STORES).replace(b"KEY", key) + b"\r\nzz\r\n"
        if kind == 4:
            verb = r.choice((b"incr %b 1", b"delete %b", b"touch %b 0", b"mg %b v", b"md %b",
                             b"ma %b", b"me %b"))
            return verb % long_key + b"\r\n"
        if kind == 5:
            word = bytes(r.choice(b"abcdefgmsnXYZ019_-") for _ in range(r.randint(4, 12)))
            return word + r.choice((b"", b" " + key, b" 1 2 3")) + b"\r\n"
        if kind == 6:
            spaces = b" " * r.randint(1, 4)
            line = r.choice((b"get KEY", b"get KEY KEY", b"incr never-a-number 1", b"touch KEY 0",
                             b"mg KEY v t"))
            return (line.replace(b" ", spaces).replace(b"KEY", key) +
                    r.choice((b"", b" ", b"  ")) + b"\r\n")
        return b"mg %b %b\r\n" % (key, b" ".join(
            r.choice((b"v", b"v", b"t", b"!", b"Tabc", b"Nx", b"O" + b"o" * 31, b"R", b"w",
                      b"v" * 30)) for _ in range(r.randint(1, 25))))

    SHORT = (b"", b" ", b"a", b"ab", b"mn", b"get", b"gets", b"gat", b"gat 0", b"set", b"set a",
             b"set a 0 0", b"incr", b"incr a", b"touch", b"touch a", b"delete",
             b"mg", b"ms", b"ms a", b"md", b"ma", b"me", b"verbosity", b"slabs", b"lru",
             b"lru_crawler",
             b"cache_memlimit", b"extstore")
    BAD_LINES = (
        b"incr KEY abc", b"incr KEY -1", b"decr KEY 18446744073709551616", b"incr KEY 1x",
        b"touch KEY abc", b"gat abc KEY", b"flush_all abc", b"GET KEY",
        b"Set KEY",
        b"verbosity x", b"cache_memlimit abc", b"cache_memlimit 3", b"slabs reassign", b"slabs x",
        b"slabs reassign 1 1", b"slabs reassign 1 400", b"slabs automove 7", b"slabs automove x",
        b"lru x", b"lru tune", b"lru tune 90 90 1 1", b"lru tune 10 25 0 1", b"lru mode x",
        b"lru temp_ttl", b"lru_crawler x", b"lru_crawler sleep", b"lru_crawler sleep 99999999",
        b"lru_crawler tocrawl x", b"lru_crawler crawl 400", b"lru_crawler crawl x",
        b"stats detail", b"stats detail x", b"stats x", b"stats cachedump", b"stats cachedump 1",
        b"stats cachedump 400 1", b"stats cachedump x 1", b"shutdown", b"shutdown x",
        b"refresh_certs", b"extstore x 1", b"misbehave", b"debugtime p",
        b"ms KEY abc", b"ms KEY -1", b"ms KEY 2147483647",
        b"md KEY !", b"md KEY q q", b"ma KEY !", b"ma KEY Dx", b"ma KEY Nx v", b"ma KEY MX",
        b"mg bad%base64 b", b"md * b", b"mg YQ b v", b"md KEY O" + b"o" * 32)
    BAD_STORES = (
        b"set KEY abc 0 2", b"set KEY 0 abc 2", b"set KEY -1 0 2", b"set KEY 0 0 abc",
        b"set KEY 0 0 -1", b"set KEY 0 0 2147483647", b"set KEY 0 0 4294967295",
        b"cas KEY 0 0 2 abc", b"cas KEY abc 0 2 5", b"add KEY 0 0 -5",
        b"replace KEY 0 99999999999 2",
        b"set " + b"Y" * 251 + b" 0 0 2", b"ms KEY 2 !", b"ms KEY 2 Tabc", b"ms KEY 2 MX",
        b"ms KEY 2 MX q", b"ms KEY 2 q q", b"ms " + b"Y" * 251 + b" 2", b"ms KEY 2 b",
        b"ms KEY 2 Fx", b"ms KEY 2 C", b"ms KEY 2 O" + b"o" * 40)

    def admin(self):
        return self.r.choice((
            b"version", b"verbosity 0", b"verbosity 0 noreply", b"stats", b"stats settings",
            b"stats items", b"stats slabs", b"stats sizes", b"stats conns", b"stats detail on",
            b"stats detail off", b"stats detail dump", b"lru mode segmented",
            b"lru tune 20 40 0.2 2.0", b"lru temp_ttl -1", b"lru_crawler enable", b"lru_crawler sleep 100",
            b"mn",
            b"lru_crawler tocrawl 0", b"slabs automove 1", b"cache_memlimit 64",
            b"mn foo")) + b"\r\n"

    def flush(self):
        return self.r.choice((b"flush_all", b"flush_all noreply", b"flush_all 0", b"flush_all -1",
                              b"flush_all 0 noreply", b"flush_all 9999\r\nflush_all")) + b"\r\n"

    def big(self):
        size = self.r.choice((20000, 100000, 300000, 524288, 600000, 900000, 1048576, 1200000))
        body = b"%08x" % self.r.getrandbits(32) * (size // 8)
        head = b"set big%d 5 0 %d\r\n" % (self.r.randrange(3), len(body))
        return head + body + b"\r\nget big0 big1 big2\r\n"

    def many(self):
        return b"get %b\r\n" % b" ".join(self.key() for _ in range(self.r.choice((100, 300, 1000))))

    def closing(self):
        """A last exchange of a connection: the server must close, saying nothing."""
        return self.r.choice((b"quit\r\n", b"quit\n", b"GET / HTTP/1.1\r\n", b"z" * 2100,
                              b" " * 101 + b"get " + b"z" * 2100, b"set " + b"z" * 3000))


# ---- talking to both ------------------------------------------------------------------


class Side:
    """One server's end of a conversation: its connections and what it answered."""

    def __init__(self, server, connections):
        self.server = server
        self.count = connections
        self.sockets = [None] * connections
        self.tokens = {}

    def socket(self, i):
        if self.sockets[i] is None:
            self.sockets[i] = self.server.connect()
            self.sockets[i].setblocking(False)
        return self.sockets[i]

    def drop(self, i=None):
        for j in range(self.count) if i is None else (i,):
            if self.sockets[j] is not None:
                self.sockets[j].close()
                self.sockets[j] = None

    def render(self, exchange):
        if isinstance(exchange, bytes):
            return exchange
        return b"".join(self.tokens.get(p.key, b"1") if isinstance(p, CasToken) else p
                        for p in exchange)

    def learn_tokens(self, answer):
        for key, token in re.findall(rb"VALUE (c\d) \d+ \d+ (\d+)\r\n", answer):
            self.tokens[key] = token


def cuts(rnd, data, style):
    """Pieces of data: whole, at a few random bytes, or every byte (of a large value a few bytes each)."""
    if style == "whole":
        return [data]
    if style == "bytes":
        each = 1 + len(data) // PIECES_MAX
        return [data[i:i + each] for i in range(0, len(data), each)]
    n = min(len(data), rnd.randint(1, 12))
    at = sorted(rnd.randrange(len(data) + 1) for _ in range(n))
    return [p for p in (data[a:b] for a, b in zip([0] + at, at + [len(data)])) if p]


def talk(sides, i, pieces, end_marks):
    """Sends each side its pieces, reads until its answer ends with its mark (None: until it
    closes). Returns the answers and whether each side closed."""
    answers = [bytearray(), bytearray()]
    closed = [False, False]
    queue = [collections.deque(p) for p in pieces]
    fds = {sides[s].socket(i).fileno(): s for s in (0, 1)}
    poll = select.poll()
    for fd, s in fds.items():
        poll.register(fd, select.POLLIN | select.POLLOUT)

    def done(s):
        if closed[s]:
            return True
        return end_marks[s] is not None and not queue[s] and answers[s].endswith(end_marks[s])

    end = time.monotonic() + ANSWER_TIMEOUT_SECONDS
    while not (done(0) and done(1)):
        if time.monotonic() > end:
            print("neither sent nor received anything for %g s; memcached is %s, the tested one %s" % (
                ANSWER_TIMEOUT_SECONDS, *("done" if done(s) else "silent" for s in (0, 1))), flush=True)
            break
        for fd, events in poll.poll(200):
            end = time.monotonic() + ANSWER_TIMEOUT_SECONDS
            s = fds[fd]
            sock = sides[s].socket(i)
            try:
                if events & select.POLLOUT and queue[s]:
                    piece = queue[s].popleft()
                    sent = sock.send(piece)
                    if sent < len(piece):
                        queue[s].appendleft(piece[sent:])
                if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                    got = sock.recv(262144)
                    if not got:
                        closed[s] = True
                    answers[s] += got
            except OSError as e:
                if e.errno in (errno.EAGAIN, errno.EINTR):
                    continue
                closed[s] = True
            if closed[s]:
                queue[s].clear()
                poll.unregister(fd)
            elif not queue[s]:
                poll.modify(fd, select.POLLIN)
    return [bytes(a) for a in answers], closed


class Difference(Exception):
    pass


class Differential:
    counters = COUNTERS

    def __init__(self, args, ref, sut):
        self.args = args
        self.rnd = random.Random(args.seed)
        self.generator = Generator(self.rnd)
        self.sides = (Side(ref, args.connections), Side(sut, args.connections))
        self.cas = CasMap()
        self.used = collections.Counter()
        self.verbs = collections.Counter()
        self.by_verb = collections.Counter()
        self.batch_number = 0
        self.exchanges = 0
        self.differences = 0
        self.plant = None
        self.took = self.longest = 0  # seconds, of this batch and of any since both were empty

    def talk(self, i, pieces, end_marks):
        start = time.monotonic()
        told = talk(self.sides, i, pieces, end_marks)
        self.took = time.monotonic() - start
        self.longest = max(self.longest, self.took)
        return told

    def report(self, what, request, ref, sut, before=()):
        verb = first_word(request)[:20] if request else what.encode()
        self.differences += 1
        self.by_verb[verb] += 1
        if self.args.quiet or self.by_verb[verb] > self.args.examples:
            return
        print("DIFFERENCE %d (%s), seed %d, batch %d" % (
            self.differences, what, self.args.seed, self.batch_number))
        for b in before:
            print("   before: %r" % b[:160])
        print("  request: %r" % request[:300])
        print("  %s: %r" % ("memcached".rjust(9), ref[:600]))
        print("  %s: %r" % ("tested".rjust(9), sut[:600]), flush=True)

    def resync(self):
        """After a difference: both empty, new connections, nothing known."""
        for side in self.sides:
            side.drop()
            side.tokens = {}
            side.server.command(b"flush_all")
        self.cas = CasMap()
        self.longest = 0

    def run_batch(self, exchanges, style):
        self.batch_number += 1
        i = self.rnd.randrange(self.args.connections)
        mark = b"%016x" % self.rnd.getrandbits(64)
        tail = b"set end-of-batch 0 0 16\r\n%b\r\nget end-of-batch\r\n" % mark
        end = b"VALUE end-of-batch 0 16\r\n%b\r\nEND\r\n" % mark
        rendered = [[side.render(x) for x in exchanges] for side in self.sides]
        streams = [b"".join(x + SENTINEL % n for n, x in enumerate(r)) + tail for r in rendered]
        pieces = [cuts(self.rnd, stream, style) for stream in streams]
        answers, closed = self.talk(i, pieces, [end, end])
        if self.plant is not None:
            answers[1] = self.plant(answers[1])
        ok = self.compare(rendered[0], answers, closed)
        for side, answer in zip(self.sides, answers):
            side.learn_tokens(answer)
        self.exchanges += len(exchanges)
        for x in rendered[0]:
            self.verbs[first_word(x)[:12]] += 1
        if not ok:
            self.resync()
        return ok

    def compare(self, requests, answers, closed):
        if answers[0] == answers[1] and self.cas_unmoved(answers[0]) and not any(closed):
            return True
        # An exchange whose sentinel was eaten (as part of a body) has no answer of its own;
        # what it got stands before the next sentinel that was answered.
        ref, sut = (dict(self.split(a)) for a in answers)
        for n, request in enumerate(requests + [b""]):
            a, b = ref.get(n), sut.get(n)
            if a is None and b is None:
                continue
            # the one server may have given a time early in its batch, and the other late; so with telling it
            if a is None or b is None or not agree(request, a, b, self.cas, self.used,
                                                   self.longest + self.took):
                a, b = (x if x is not None else b"(not by itself) " + self.answer_after(y, n)
                        for x, y in ((a, ref), (b, sut)))
                self.report("answers differ", request, a, b, requests[max(0, n - 2):n])
                return False
        if any(closed):
            self.report("closed within a batch", b"", answers[0][-300:], answers[1][-300:])
            return False
        return True

    @staticmethod
    def answer_after(answers, n):
        later = [m for m in answers if m > n]
        return b"%d: %b" % (min(later) - n, answers[min(later)]) if later else b"none"

    @staticmethod
    def split(answer):
        """(exchange number, its answer) in order; the tail has the number after the last."""
        parts = ANSWER_END.split(answer)
        last = -1
        for answer_text, number in zip(parts[::2], parts[1::2]):
            last = int(number)
            yield last, answer_text
        yield last + 1, parts[-1]

    def cas_unmoved(self, answer):
        """True while all tokens of equal answers are known to be the same on both sides."""
        tokens = re.findall(rb"VALUE \S+ \d+ \d+ (\d+)\r\n", answer)
        return all(self.cas.agree(t, t) for t in tokens)

    def run_closing(self):
        i = self.rnd.randrange(self.args.connections)
        request = self.generator.closing()
        answers, closed = self.talk(i, [cuts(self.rnd, request, "some") for _ in (0, 1)],
                               [None, None])
        for side in self.sides:
            side.drop(i)
        self.exchanges += 1
        if closed != [True, True] or answers[0] != answers[1]:
            self.report("closing differs", request, b"%r closed=%r" % (answers[0], closed[0]),
                        b"%r closed=%r" % (answers[1], closed[1]))
            self.resync()

    def compare_counters(self, base):
        """COUNTERS must have moved alike since base; returns the new base."""
        now = [side.server.stats() for side in self.sides]
        for name in self.counters:
            moved = [int(n.get(name, 0)) - int(b.get(name, 0)) for n, b in zip(now, base)]
            if moved[0] != moved[1]:
                self.report("counter " + name, b"stats " + name.encode(), b"%d" % moved[0],
                            b"%d" % moved[1])
        return now

    def run(self):
        base = [side.server.stats() for side in self.sides]
        seen = 0
        while self.exchanges < self.args.count and self.differences < self.args.max_differences:
            n = min(self.rnd.choice((1, 10, 100, 200, 300)), self.args.count - self.exchanges)
            style = self.rnd.choices(("some", "whole", "bytes"), (80, 12, 8))[0]
            batch = [self.generator.exchange() for _ in range(n)]
            batch.append(b"gets " + b" ".join(self.generator.cas_keys) + b"\r\n")
            if style == "bytes" and sum(len(self.sides[0].render(x)) for x in batch) > 40000:
                style = "some"
            self.run_batch(batch, style)
            if self.rnd.random() < 0.05:
                self.run_closing()
            if self.batch_number % 20 == 0:
                if self.differences == seen:
                    base = self.compare_counters(base)
                else:
                    base = [side.server.stats() for side in self.sides]
                seen = self.differences
        if self.differences == seen:
            self.compare_counters(base)

    def run_fixed(self, path):
        """The exchanges of a file, pipelined in several cuts, then one at a time. Lines that
        start with "! " are for one at a time only."""
        with open(path, encoding="latin-1") as f:
            lines = [l.rstrip("\n") for l in f if l.strip() and not l.startswith("#")]

        def parse(line):
            return ast.literal_eval('b"%s"' % line.replace('"', '\\"'))

        pipelined = [parse(l) for l in lines if not l.startswith("! ")]
        for style in ("whole", "bytes", "some"):
            self.resync()
            self.run_batch(list(pipelined), style)
        self.resync()
        for line in lines:
            self.run_batch([parse(line[2:] if line.startswith("! ") else line)], "whole")

    def run_planted(self, faults):
        """Falsifies one byte of the tested side's answer per batch; returns how many of the falsified batches
        were noticed."""
        found = 0
        self.args.quiet = True
        for _ in range(faults):
            self.plant = self.falsify
            batch = [self.generator.exchange() for _ in range(50)]
            before = self.differences
            self.run_batch(batch, "some")
            found += self.differences > before
            self.plant = None
        return found

    def falsify(self, answer):
        """Changes a letter where no mask forgives it: in a status word or a value."""
        spots = [m.start() for m in re.finditer(
            rb"(?<=\n)(?:STORED|NOT_STORED|DELETED|TOUCHED|NOT_FOUND|EXISTS|HD|NF|EN|NS)(?=\r| )|"
            rb"(?<=\r\n)[0-9a-f]{8,}(?=\r\n)", answer)]
        at = self.rnd.choice(spots)
        return answer[:at] + bytes([answer[at] ^ 1]) + answer[at + 1:]


class BinaryDifferential(Differential):
    """The same conversations in packets. A noop with its own number follows each exchange; every third
    batch is one of text, so that each protocol meets what the other has stored."""

    # memcached counts values that are too large for lines only
    counters = tuple(name for name in COUNTERS if name != "store_too_large")

    def __init__(self, args, ref, sut):
        super().__init__(args, ref, sut)
        self.translator = binary.Translator(self.generator, self.rnd)
        self.by_protocol = [Side(ref, args.connections), Side(sut, args.connections)], list(self.sides)

    def run_batch(self, exchanges, style):
        in_text = self.plant is None and self.batch_number % 3 == 2
        self.sides = self.by_protocol[in_text]
        if in_text:
            return super().run_batch(exchanges, style)
        return self.run_packets([self.translator.exchange() for _ in exchanges[1:]] +
                                [[binary.Packet(binary.OP["getk"], k) for k in self.generator.cas_keys]], style)

    def run_packets(self, exchanges, style):
        self.batch_number += 1
        i = self.rnd.randrange(self.args.connections)
        first = self.rnd.getrandbits(31)
        noop = binary.Packet(binary.OP["noop"])

        def stream(side):
            return b"".join(b"".join(p.render(first + n, side.tokens) for p in exchange) + noop.render(first + n, {})
                            for n, exchange in enumerate(exchanges))

        last = first + len(exchanges) - 1
        end = binary.HEAD.pack(binary.ANSWER, noop.op, 0, 0, 0, 0, 0, last, 0)
        answers, closed = self.talk(i, [cuts(self.rnd, stream(s), style) for s in self.sides], [end, end])
        if self.plant is not None:
            answers[1] = self.plant(answers[1])
        ok = self.compare_packets(exchanges, first, answers, closed)
        for side, answer in zip(self.sides, answers):
            for packet in binary.split(answer)[0]:
                if packet.op == binary.OP["getk"] and packet.status == 0:
                    side.tokens[packet.key] = b"%d" % packet.cas
        for of_text, side in zip(self.by_protocol[True], self.sides):
            of_text.tokens = side.tokens
        self.exchanges += len(exchanges)
        if not ok:
            self.resync()
        return ok

    def compare_packets(self, exchanges, first, answers, closed):
        told = []
        for answer in answers:
            packets, rest = binary.split(answer)
            by_exchange = collections.defaultdict(list)
            for packet in packets:
                by_exchange[packet.opaque - first].append(packet)
            told.append((by_exchange, rest))
        for n, exchange in enumerate(exchanges):
            a, b = told[0][0].pop(n, []), told[1][0].pop(n, [])
            if not a or not b or not binary.agree(a, b, self.cas):
                asked = b"".join(p.render(first + n, {}) for p in exchange)
                self.report("packets differ", asked, repr(a[:5]).encode(), repr(b[:5]).encode())
                return False
        if any(closed) or told[0][0] or told[1][0] or told[0][1] != told[1][1]:
            self.report("closed within a batch", b"", answers[0][-300:], answers[1][-300:])
            return False
        return True

    def run_closing(self):
        self.sides = self.by_protocol[False]
        i = self.rnd.randrange(self.args.connections)
        request = self.translator.closing().render(7, {})
        answers, closed = self.talk(i, [cuts(self.rnd, request, "some") for _ in (0, 1)], [None, None])
        for side in self.sides:
            side.drop(i)
        self.exchanges += 1
        if closed != [True, True] or answers[0] != answers[1]:
            self.report("closing differs", request, b"%r closed=%r" % (answers[0], closed[0]),
                        b"%r closed=%r" % (answers[1], closed[1]))
            self.resync()

    def resync(self):
        self.sides = self.by_protocol[True]
        super().resync()
        for side in self.by_protocol[False]:
            side.drop()
            side.tokens = {}

    def falsify(self, answer):
        """Another bit in a status, an opaque, a value or a key, but not in what `stat` tells."""
        packets, at, spots = binary.split(answer)[0], 0, []
        for p in packets:
            size = binary.HEAD.size + len(p.extras) + len(p.key) + len(p.value)
            if p.op not in (binary.OP["stat"], binary.OP["version"]):
                spots += [at + 7, at + 15] + list(range(at + binary.HEAD.size, at + size))
            at += size
        spot = self.rnd.choice(spots)
        return answer[:spot] + bytes([answer[spot] ^ 1 << self.rnd.randrange(8)]) + answer[spot + 1:]


def parse_args():
    here = os.path.dirname(os.path.abspath(__file__))
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--ref", default="/usr/bin/memcached", help="the oracle")
    p.add_argument("--sut", default=os.environ.get("EXTANT", os.path.join(here, "..", "..", "extant")))
    p.add_argument("--sut-flags", default="", help="more flags for the server under test; "
                   "@DIR@ is its directory")
    p.add_argument("--count", type=int, default=20000)
    p.add_argument("--seed", type=int, default=int(os.environ.get("SEED", "1")))
    p.add_argument("--connections", type=int, default=3)
    p.add_argument("--max-differences", type=int, default=50)
    p.add_argument("--examples", type=int, default=2, help="shown per command")
    p.add_argument("--binary", action="store_true", help="in the binary protocol")
    p.add_argument("--fixed", metavar="FILE")
    p.add_argument("--plant", type=int, metavar="N", help="falsify N answers; all must be found")
    p.add_argument("--quiet", action="store_true")
    args = p.parse_args()
    if args.count > MOST_EXCHANGES:
        p.error("--count: at most %d, or a number could grow to 2^63" % MOST_EXCHANGES)
    return args


def main():
    args = parse_args()
    flags = ["-m", "64", "-t", "1", "-o", "no_hashexpand"]
    start = time.monotonic()
    with servers.Server(args.ref, flags, "ref") as ref, \
            servers.Server(args.sut, flags + args.sut_flags.split(), "sut") as sut:
        test = (BinaryDifferential if args.binary else Differential)(args, ref, sut)
        if args.plant:
            found = test.run_planted(args.plant)
            print("planted %d faults, found %d, seed %d" % (args.plant, found, args.seed))
            return 0 if found == args.plant else 1
        if args.fixed:
            test.run_fixed(args.fixed)
        else:
            test.run()
        if "ext_path" in args.sut_flags:
            counts = sut.stats()
            print("read from flash %s, written to it %s" % (
                counts["get_extstore"], counts["extstore_objects_written"]))
            if not args.fixed and int(counts["get_extstore"]) < args.count / 1000:
                print("flash was hardly used")
                test.differences += 1
        for name, server in (("memcached", ref), ("tested server", sut)):
            if server.process.poll() is not None:
                print("%s died: %s\n%s" % (name, server.process.returncode, server.log_tail()))
                test.differences += 1
    print("%d exchanges in %.1f s, %d differences, seed %d" % (
        test.exchanges, time.monotonic() - start, test.differences, args.seed))
    print("masks used: %s" % (", ".join("%s %d" % x for x in sorted(test.used.items())) or "none"))
    if test.differences:
        print("differences by command: %s" % ", ".join(
            "%s %d" % (v.decode("latin-1"), n) for v, n in test.by_verb.most_common()))
    return 1 if test.differences else 0


if __name__ == "__main__":
    sys.exit(main())
