#!/usr/bin/env python3
"""One regression test for each class of memcached's published vulnerabilities that can apply
to a server of the text protocol.

Every part names its vulnerabilities. Claims: the server lives, answers with memcached's
words, keeps request and answer in step (a `version` sent behind every request comes back
right after its answer), and nobody gets what is withheld from him. Runs on $EXTANT (else
./extant); Debian's memcached passes too, but for what it doesn't claim: see `extant_only`.

  security_test.py [PART...]       a line per part; exit 1 if one fails
"""

import base64
import math
import os
import pwd
import random
import re
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'aid'))
from servers import PATIENCE_SECONDS, Server, is_extant, seed  # noqa: E402

BINARY = os.environ.get("EXTANT", "./extant")
DEBUG_BINARY = os.environ.get("EXTANT_DEBUG_BIN", "./extant-debug")
BAD_LINE = b"CLIENT_ERROR bad command line format\r\n"
BAD_CHUNK = b"CLIENT_ERROR bad data chunk\r\n"
BAD_KEY = b"CLIENT_ERROR error decoding key\r\n"
ERROR = b"ERROR\r\n"
UNAUTHENTICATED = b"CLIENT_ERROR unauthenticated\r\n"
FAILURE = b"CLIENT_ERROR authentication failure\r\n"
CLOSED = object()


class Failed(Exception):
    pass


def extant_only():
    return is_extant(BINARY)


def read_until(s, end, limit=64 << 20):
    """What came, up to and with `end`; (bytes, False) if the connection closed before."""
    out = bytearray()
    while out.find(end, max(0, len(out) - 65536 - len(end))) < 0:
        piece = s.recv(65536)
        if not piece:
            return bytes(out), False
        out += piece
        if len(out) > limit:
            raise Failed("no end of answers after %d bytes" % len(out))
    return bytes(out), True


def ask(server, request, before=b""):
    """The answer to request, CLOSED if the connection was closed without one."""
    with server.connect() as s:
        s.settimeout(PATIENCE_SECONDS)
        try:
            s.sendall(before + request + b"version\r\n")
            out, whole = read_until(s, b"VERSION ")
        except (BrokenPipeError, ConnectionResetError):
            return CLOSED
        except socket.timeout:
            raise Failed("%r: no answer" % request[:80]) from None
    if whole:
        return out[:out.index(b"VERSION ")]
    return out or CLOSED


def ask_to_end(server, request):
    """The answers to request and an end of file behind it, until the server closes too."""
    with server.connect() as s:
        s.settimeout(PATIENCE_SECONDS)
        out = b""
        try:
            s.sendall(request)
            s.shutdown(socket.SHUT_WR)
            while True:
                piece = s.recv(65536)
                if not piece:
                    return out
                out += piece
        except (BrokenPipeError, ConnectionResetError):
            return out
        except socket.timeout:
            raise Failed("%r: not closed at its end" % request[:80]) from None


def closes(server, request):
    """Whether a request that never ends gets its connection closed (nothing is appended)."""
    with server.connect() as s:
        s.settimeout(PATIENCE_SECONDS)
        try:
            s.sendall(request)
            while True:
                if not s.recv(65536):
                    return True
        except (BrokenPipeError, ConnectionResetError):
            return True
        except socket.timeout:
            return False


def expect(server, request, *allowed):
    got = ask(server, request)
    if server.process.poll() is not None:
        raise Failed("%r killed it (%s): %s" % (request[:100], server.process.returncode,
                                                server.log_tail()[-500:]))
    if got not in allowed:
        raise Failed("%r: got %r, allowed %s" % (
            request[:100], "close" if got is CLOSED else got[:200],
            ["close" if a is CLOSED else a[:100] for a in allowed]))


def alive(server):
    if server.process.poll() is not None:
        raise Failed("it died (%s): %s" % (server.process.returncode, server.log_tail()[-500:]))
    expect(server, b"set alive 0 0 3\r\nyes\r\nget alive\r\n",
           b"STORED\r\nVALUE alive 0 3\r\nyes\r\nEND\r\n")


def clean_stop(server):
    alive(server)
    code = server.stop()
    if code != 0:
        raise Failed("exit code %s after SIGTERM" % code)


# ---- parts -------------------------------------------------------------------------------


def lengths():
    """Sizes and numbers out of range or signed. CVE-2009-2415, CVE-2011-4971, CVE-2016-8704, -8705, -8706,
    CVE-2017-9951, CVE-2020-10931: there in the binary protocol, here wherever text has them."""
    with Server(BINARY, ["-m", "16"]) as server:
        data = b"payload\r\n"
        expect(server, b"set k 0 0 7\r\n" + data, b"STORED\r\n")
        for size in (b"-1", b"-7", b"2147483647", b"2147483646", b"4294967295", b"-2147483648",
                     b"18446744073709551615", b"9" * 30, b"0x10", b"1e3", b"7;", b"7-"):
            expect(server, b"set k 0 0 %s\r\n%s" % (size, data), BAD_LINE + ERROR)
            expect(server, b"append k 0 0 %s\r\n%s" % (size, data), BAD_LINE + ERROR)
            expect(server, b"cas k 0 0 %s 1\r\n%s" % (size, data), BAD_LINE + ERROR)
            expect(server, b"set k 0 0 %s noreply\r\n%s" % (size, data), ERROR, BAD_LINE + ERROR)
            expect(server, b"ms k %s\r\n%s" % (size, data), BAD_LINE + ERROR, BAD_CHUNK + ERROR,
                   BAD_CHUNK, BAD_LINE)
        for size in (b"4294967296", b"4294967303", b"8589934592", b"-4294967289"):
            # cut to 32 bits these are 0 and 7
            expect(server, b"set wide 0 0 %s\r\n%s" % (size, data), BAD_LINE + ERROR,
                   BAD_CHUNK + ERROR, *(() if extant_only() else (b"STORED\r\n",)))
        if extant_only():
            expect(server, b"get wide\r\n", b"END\r\n")
        # The largest size that is a size is swallowed without being kept.
        with server.connect() as s:
            s.settimeout(PATIENCE_SECONDS)
            s.sendall(b"set large 0 0 2147483645\r\n" + bytes(8 << 20))
        expect(server, b"set large 0 0 2000000\r\n" + bytes(2000000) + b"\r\nget large\r\n",
               b"SERVER_ERROR object too large for cache\r\nEND\r\n")
        for words in (b"set k -1 0 7", b"set k 99999999999999999999 0 7", b"set k 0 x 7",
                      b"set k 0 99999999999999999999 7", b"cas k 0 0 7 -1",
                      b"cas k 0 0 7 99999999999999999999"):
            expect(server, words + b"\r\n" + data, BAD_LINE + ERROR, BAD_LINE)
        for what in (b"incr k -1", b"decr k 99999999999999999999", b"incr k x"):
            expect(server, what + b"\r\n", b"CLIENT_ERROR invalid numeric delta argument\r\n")
        for what in (b"touch k x", b"gat x k", b"flush_all x", b"flush_all 99999999999999999999",
                     b"touch k 99999999999999999999"):
            expect(server, what + b"\r\n", b"CLIENT_ERROR invalid exptime argument\r\n")
        for flag in (b"T99999999999999999999", b"C-1", b"F99999999999999999999", b"Tx"):
            expect(server, b"ms k 7 %s\r\n%s" % (flag, data), BAD_LINE,
                   b"CLIENT_ERROR bad token in command line format\r\n")
        long_key = b"K" * 251
        for form in (b"get %s", b"gets a %s", b"delete %s", b"touch %s 0", b"incr %s 1",
                     b"gat 0 %s", b"mg %s v", b"md %s", b"ma %s", b"me %s"):
            # the stray empty line is memcached's own
            expect(server, form % long_key + b"\r\n", BAD_LINE, BAD_LINE + b"\r\n",
                   *((b"CLIENT_ERROR invalid or duplicate flag\r\n",) if form[:2] == b"ma" else ()))
        expect(server, b"set %s 0 0 7\r\n%s" % (long_key, data), BAD_LINE + ERROR, BAD_LINE)
        expect(server, b"get k\r\n", b"VALUE k 0 7\r\npayload\r\nEND\r\n", b"END\r\n")
        clean_stop(server)


def long_lines():
    """Lines that never end, or are very long. CVE-2020-22570, CVE-2023-46852."""
    with Server(BINARY, ["-m", "16"]) as server:
        for start in (b"x", b"set ", b"mg k ", b"stats ", b" ", b"\0", b"gat 0 ", b"set k 0 0 7 "):
            if not closes(server, start + b"x" * 4096):
                raise Failed("%r without an end isn't closed" % start)
        if not closes(server, b" " * 4096):
            raise Failed("spaces without an end aren't closed")
        expect(server, b"x" * 2040 + b"\r\n", ERROR)
        for count in (10, 1000, 65000):
            expect(server, b"get" + b" a" * count + b"\r\n", b"END\r\n")
            expect(server, b"gets" + b" a" * count + b"\r\n", b"END\r\n")
        expect(server, b"gets" + b" a" * 5000 + b" " + b"K" * 251 + b"\r\n", BAD_LINE,
               BAD_LINE + b"\r\n")
        expect(server, b"mg k " + b"v " * 30 + b"\r\n",
               b"CLIENT_ERROR options flags are too long\r\n")
        expect(server, b"mg k O%s\r\n" % (b"o" * 32), b"CLIENT_ERROR opaque token too long\r\n")
        expect(server, b"mg k O%s\r\n" % (b"o" * 31), b"EN\r\n", b"EN O%s\r\n" % (b"o" * 31))
        # A line cut anywhere is the same line.
        line = b"get " + b" ".join(b"key-%d" % i for i in range(300)) + b"\r\n"
        for cut in (1, 3, 4, 5, 2047, 2048, 2049, len(line) - 2, len(line) - 1):
            with server.connect() as s:
                s.settimeout(PATIENCE_SECONDS)
                s.sendall(line[:cut])
                time.sleep(0.005)
                s.sendall(line[cut:])
                if read_until(s, b"\r\n")[0] != b"END\r\n":
                    raise Failed("cut at %d" % cut)
        clean_stop(server)


def refcounts():
    """Many references to one item at once, and references lost on errors. CVE-2018-1000127,
    and 1.6.45's leak on a wrong `ms`."""
    with Server(BINARY, ["-m", "16"]) as server:
        expect(server, b"set one 0 0 5\r\nvalue\r\n", b"STORED\r\n")
        count = 70000
        hit = b"VALUE one 0 5\r\nvalue\r\n"
        overflow = b"SERVER_ERROR refcount overflow during fetch\r\n"
        got = ask(server, b"get" + b" one" * count + b"\r\n")
        hits = 0 if got is CLOSED else got.count(hit)
        end = b"" if got is CLOSED else got[hits * len(hit):]
        if hits < 50000 or got[:hits * len(hit)] != hit * hits or end not in (
                b"END\r\n", overflow, b"SERVER_ERROR out of memory writing get response\r\n"):
            raise Failed("multiget of one key: %d hits, then %r" % (hits, end[:100]))
        with server.connect() as s:  # not read until all is sent
            s.settimeout(PATIENCE_SECONDS)
            s.setblocking(False)
            request, sent = memoryview(b"mg one v\r\n" * count), 0
            try:
                while sent < len(request):
                    sent += s.send(request[sent:sent + 65536])
            except BlockingIOError:
                pass
            expect(server, b"delete one\r\nset one 0 0 5\r\nother\r\nget one\r\n",
                   b"DELETED\r\nSTORED\r\nVALUE one 0 5\r\nother\r\nEND\r\n")
        expect(server, b"get one\r\n", b"VALUE one 0 5\r\nother\r\nEND\r\n")
        # More than -m in bodies of requests that fail: nothing may stay behind.
        body = b"b" * 100000 + b"\r\n"
        for i in range(300):
            for form in (b"ms leak 100000 Mx\r\n", b"ms leak 100000 I I\r\n"):
                got = ask(server, form + body)
                if got is CLOSED or not got.startswith(b"CLIENT_ERROR "):
                    raise Failed("%r: %r" % (form, got))
        for i in range(50):
            expect(server, b"cas one 0 0 100000 77\r\n" + body, b"EXISTS\r\n")
            expect(server, b"add one 0 0 100000\r\n" + body, b"NOT_STORED\r\n")
            expect(server, b"set one 0 0 99999\r\n" + body, BAD_CHUNK, BAD_CHUNK + ERROR,
                   BAD_CHUNK + BAD_LINE)
            expect(server, b"set one 0 0 5\r\nother\r\n", b"STORED\r\n")
        for i in range(20):
            with server.connect() as s:
                s.sendall(b"set half 0 0 800000\r\n" + body)
        evicted = int(server.stats()["evictions"])
        expect(server, b"set whole 0 0 100000\r\n" + body, b"STORED\r\n")
        if int(server.stats()["evictions"]) != evicted or evicted > 5:
            raise Failed("%d evictions: failed requests hold memory" % evicted)
        clean_stop(server)


def log_of_keys():
    """What clients send, printed at -vv: formats and escape codes. CVE-2013-0179,
    CVE-2013-7291."""
    keys = [b"%n%n%n%n", b"%s%s%s%s%s", b"%99999999d", b"\x1b[31mred", b"\x07bell", b"\x9b2J",
            b"\xff\xfe", b"a\tb", b"x" * 250, b"%" * 250, b"\x1b]0;title\x07"]
    with Server(BINARY, ["-m", "16", "-vv"]) as server:
        for key in keys:
            expect(server, b"set %s 0 0 1\r\nv\r\nget %s\r\ndelete %s\r\n" % (key, key, key),
                   b"STORED\r\nVALUE %s 0 1\r\nv\r\nEND\r\nDELETED\r\n" % key)
            expect(server, b"mg %s v\r\n" % key, b"EN\r\n")
            got = ask(server, key + b" not a command\r\n")
            if got is not CLOSED and got not in (ERROR, BAD_LINE):
                raise Failed("%r as a command: %r" % (key, got[:100]))
        secret = base64.b64encode(b"\x1b[2J\0\n\r%n")
        expect(server, b"ms %s 1 b\r\nv\r\nmg %s b k v\r\n" % (secret, secret),
               b"HD\r\nVA 1 k%s b\r\nv\r\n" % secret)
        with server.connect() as watcher:
            watcher.settimeout(PATIENCE_SECONDS)
            watcher.sendall(b"watch fetchers mutations\r\n")
            read_until(watcher, b"OK\r\n")
            expect(server, b"get \x1b[31m%n\r\n", b"END\r\n")
            line, _ = read_until(watcher, b"key=")
            line += read_until(watcher, b"\n")[0] if b"\n" not in line.split(b"key=")[1] else b""
            if b"\x1b" in line:
                raise Failed("an escape code in a watcher's line: %r" % line)
        alive(server)
        with open(server.log, "rb") as f:
            log = f.read()
        bad = re.search(rb"[^\n\t\x20-\x7e]", log)
        if bad and extant_only():
            raise Failed("raw byte in the log: %r" % log[max(0, bad.start() - 40):bad.end() + 40])
        clean_stop(server)


def start_with_auth(directory, content):
    """A started server with that auth file, or None if it refused to start with a line."""
    path = os.path.join(directory, "auth")
    with open(path, "wb") as f:
        f.write(content)
    server = Server(BINARY, ["-m", "16", "-Y", path], name="auth")
    try:
        server.start()
        return server
    except RuntimeError as e:
        code, log = server.process.returncode, server.log_tail()
        server.stop()
        if code is None or code <= 0 or not log.strip():
            raise Failed("auth file %r: exit code %s, log %r: %s" % (
                content[:40], code, log[-300:], e)) from None
        return None


def login(credentials):
    return b"set auth 0 0 %d\r\n%s\r\n" % (len(credentials), credentials)


def auth_file():
    """Odd auth files, at the start and at SIGHUP. CVE-2021-37519; 1.6.4x's reload race."""
    with Server(BINARY, ["-m", "16"], name="dir") as holder:
        odd = (b"", b"\n", b"\n\n\n", b":", b":\n", b"user", b"user\n", b"user:", b":pass\n",
               b"user:pass", b"user:pass\r\n", b"\0\0\0", b"user\0:pass\n", b"a:b\n" * 8,
               b"a:b\n" * 1000, b"u" * 300 + b":p\n", b"u:" + b"p" * 300 + b"\n",
               b"x" * 70000, b"u:" + b"p" * 70000, b"user:pass\n" + b"x" * 300 + b"\n",
               b"#comment\nuser:pass\n", b"\xff\xfe:\xff\n", b"user:pass:more\n", b" : \n",
               bytes(range(256)) * 40)
        refused = 0
        for content in odd:
            server = start_with_auth(holder.dir, content)
            if server is None:
                refused += 1
                continue
            try:
                for guess in (b"", b" ", b"  ", b"nobody nothing", b"\0 \0", b":", b"user",
                              b"user ", b" pass", b"user wrong", b"u p" * 50):
                    if b"STORED" in ask_to_end(server, login(guess)):
                        raise Failed("auth file %r lets %r in" % (content[:40], guess))
                if server.process.poll() is not None:
                    raise Failed("auth file %r killed it" % content[:40])
                if server.stop() != 0:
                    raise Failed("auth file %r: bad end" % content[:40])
            finally:
                server.stop()
        # Reloading: a bad file must not open the door, a good one must work again.
        server = start_with_auth(holder.dir, b"user:pass\n")
        if server is None:
            raise Failed("a good auth file is refused")
        try:
            path = os.path.join(holder.dir, "auth")
            if ask_to_end(server, login(b"user pass")) != b"STORED\r\n":
                raise Failed("the right password is refused")
            for content in odd:
                with open(path, "wb") as f:
                    f.write(content)
                server.process.send_signal(1)
                if b"STORED" in ask_to_end(server, login(b"nobody nothing")):
                    raise Failed("reloading %r lets nobody in" % content[:40])
            with open(path, "wb") as f:
                f.write(b"other:word\n")
            server.process.send_signal(1)
            end = time.monotonic() + PATIENCE_SECONDS
            while ask_to_end(server, login(b"other word")) != b"STORED\r\n":
                if time.monotonic() > end:
                    raise Failed("a good file isn't taken after bad ones")
                time.sleep(0.02)
            if ask_to_end(server, login(b"user pass")) != FAILURE:
                raise Failed("the old password is still good")
            os.unlink(path)
            server.process.send_signal(1)
            time.sleep(0.1)
            if b"STORED" in ask_to_end(server, login(b"nobody nothing")):
                raise Failed("without its file it lets nobody in")
            if server.stop() != 0:
                raise Failed("bad end")
        finally:
            server.stop()


def auth_first():
    """Nothing is revealed before authentication. CVE-2013-7239, CVE-2026-47783; and 1.6.4x's crash
    on empty lines with auth on."""
    with Server(BINARY, ["-m", "16"], name="dir") as holder:
        server = start_with_auth(holder.dir, b"user:pass\nsecond:word\n")
        try:
            good = login(b"user pass")
            for line in (b"get k", b"gets k", b"gat 0 k", b"mg k v", b"me k", b"mn", b"stats",
                         b"stats conns", b"stats settings", b"stats cachedump 1 0", b"version",
                         b"lru_crawler metadump all", b"lru_crawler mgdump all", b"flush_all",
                         b"watch fetchers", b"delete k", b"incr k 1", b"shutdown",
                         b"cache_memlimit 1024", b"verbosity 2", b"extstore item_age 0",
                         b"slabs reassign 1 2", b"md k", b"ma k", b"refresh_certs",
                         b"stats detail dump", b"debugtime p", b"misbehave", b"touch k 0"):
                got = ask_to_end(server, line + b"\r\nversion\r\n")
                if got not in (UNAUTHENTICATED, UNAUTHENTICATED * 2):
                    raise Failed("%r without authentication: %r" % (line, got[:100]))
            for guess in (b"", b" ", b"user", b"user ", b"user pas", b"user passs", b"use pass",
                          b"user word", b"second pass", b"user  pass", b" user pass", b"user:pass",
                          b"USER PASS", b"user\0 pass\0", b"user pass\0", b"user pass "):
                if guess in (b"user  pass", b" user pass", b"user pass\0") and not extant_only():
                    continue  # memcached skips spaces and stops at NUL
                if b"STORED" in ask_to_end(server, login(guess)):
                    raise Failed("%r is let in" % guess)
            got = ask_to_end(server, b"set a 0 0 70000\r\n")
            if got != b"CLIENT_ERROR auth token too long\r\n":
                raise Failed("a long token: %r" % got)
            for odd in (b"set auth 0 0 -1\r\n", b"set auth 0 0 4294967295\r\n", b"set\r\n",
                        b"set auth\r\n", b"set auth 0 0 x\r\n", b"\n", b"\r\n", b"\n\n\n\n",
                        b"\r\n\r\n", b" \r\n", b" " * 500 + b"\r\n", b"\0\n", b"s", b"se\n",
                        b"ms auth 9\r\nuser pass\r\n", b"add auth 0 0 9\r\nuser pass\r\n",
                        b"set auth 0 0 9\r\nuser passXX"):
                got = ask_to_end(server, odd)
                if b"STORED" in got or (got and not got.startswith((b"CLIENT_ERROR ", ERROR))):
                    raise Failed("%r without authentication: %r" % (odd, got))
                if server.process.poll() is not None:
                    raise Failed("%r killed it: %s" % (odd, server.log_tail()))
            if not closes(server, b"x" * 70000) or not closes(server, b"set " + b"k" * 70000):
                raise Failed("an endless first line isn't closed")
            got = ask_to_end(server, good + b"set k 0 0 1\r\nv\r\nget k\r\nget auth\r\n")
            if got != b"STORED\r\nSTORED\r\nVALUE k 0 1\r\nv\r\nEND\r\nEND\r\n":
                raise Failed("with authentication: %r" % got)
            # One connection's login is not another's.
            got = ask_to_end(server, b"get k\r\n")
            if got != UNAUTHENTICATED:
                raise Failed("a second connection: %r" % got)
            if server.stop() != 0:
                raise Failed("bad end")
        finally:
            server.stop()


def few_arguments():
    """Commands with none or too few arguments, or ones that mean nothing. CVE-2019-11596
    (`lru`), 31d8e62d2 (`extstore`)."""
    error = (b"lru|lru tune|lru tune 1|lru tune 1 2 3|lru mode|lru mode x|lru temp_ttl|"
             b"lru temp_ttl x|lru x|extstore|extstore item_size|extstore x|extstore x 1|"
             b"extstore free_memchunks|extstore free_memchunks 1|slabs|slabs reassign|"
             b"slabs reassign 1|slabs automove|slabs x|stats x|stats maps|stats malloc|"
             b"lru_crawler|lru_crawler crawl|lru_crawler metadump|lru_crawler mgdump|"
             b"lru_crawler sleep|lru_crawler tocrawl|lru_crawler x|watch bogus|verbosity|"
             b"cache_memlimit|cache_memlimit x|cache_memlimit -1|touch|touch k|gat|gats|incr|"
             b"incr k|decr|delete|ms|mg|md|ma|set|set k|add|cas|append k 0 0|get|gets|quitx|"
             b"misbehave|debugtime|auth|STATS|Get k").split(b"|")
    words = {
        b"me": BAD_LINE, b"stats cachedump": b"CLIENT_ERROR bad command line\r\n",
        b"stats cachedump 1": b"CLIENT_ERROR bad command line\r\n",
        b"stats cachedump 300 0": b"CLIENT_ERROR Illegal slab id\r\n",
        b"stats cachedump x y": BAD_LINE, b"stats cachedump -1 1": BAD_LINE,
        b"stats detail": b"CLIENT_ERROR usage: stats detail on|off|dump\r\n",
        b"stats detail x": b"CLIENT_ERROR usage: stats detail on|off|dump\r\n",
        b"slabs reassign x y": BAD_LINE, b"slabs automove x": BAD_LINE,
        b"slabs reassign 999 -999": b"BADCLASS invalid src or dst class id\r\n",
        b"lru_crawler crawl x": b"BADCLASS invalid class id\r\n",
        b"lru_crawler crawl 999": b"BADCLASS invalid class id\r\n",
        b"lru_crawler metadump x": b"BADCLASS invalid class id\r\n",
        b"lru_crawler sleep -1": BAD_LINE, b"verbosity x": BAD_LINE, b"mn": b"MN\r\n",
        b"stats extstore": b"END\r\n", b"me k": b"EN\r\n", b"get a\0b": b"END\r\n",
    }
    for flags in ([], ["-o", "ext_page_size=2,ext_wbuf_size=2,ext_path=@DIR@/flash:32m"]):
        with Server(BINARY, ["-m", "16"] + flags) as server:
            for line in error:
                # 1.6.18 says ERROR to too few words, later ones often the other
                expect(server, line + b"\r\n", ERROR, BAD_LINE)
                ask(server, line + b" noreply\r\n")
            for line, answer in words.items():
                if not (flags and line == b"stats extstore"):
                    expect(server, line + b"\r\n", answer)
            for line in (b"shutdown", b"shutdown x"):
                expect(server, line + b"\r\n", b"SERVER_ERROR: shutdown not enabled\r\n",
                       b"ERROR: shutdown not enabled\r\n")
            clean_stop(server)


def empty_lines():
    """Lines of nothing: bare LF, spaces, NUL. CVE-2023-46853; 1.6.45's overrun on spaces."""
    with Server(BINARY, ["-m", "16"]) as server:
        nothing = (ERROR, BAD_LINE)
        for line in (b"\n", b"\r\n", b" \r\n", b" \n", b"  \r\n", b"    \r\n", b" " * 99 + b"\n",
                     b" " * 100 + b"\r\n", b" " * 101 + b"\r\n", b" " * 1000 + b"\r\n",
                     b" " * 2000 + b"\n", b"\r\r\n", b"\t\r\n", b"\0\r\n", b"\0" * 9 + b"\r\n",
                     b"a\n", b"ab\n", b"abc\n"):
            expect(server, line, *nothing)
        expect(server, b"\n\n\n", ERROR * 3, BAD_LINE * 3)
        expect(server, b"\r\n\r\n", ERROR * 2, BAD_LINE * 2)
        expect(server, b"mn\n", b"MN\r\n", BAD_LINE)
        expect(server, b"get k\n", b"END\r\n")
        expect(server, b"mg k\nmg k v\n", b"EN\r\nEN\r\n")
        expect(server, b"get  k   k \r\n", b"END\r\n")
        expect(server, b" " * 100 + b"get k\r\n", b"END\r\n", ERROR)
        expect(server, b"set k 0 0 2\nab\r\nget k\n", b"STORED\r\nVALUE k 0 2\r\nab\r\nEND\r\n")
        clean_stop(server)


def leaks():
    """Nothing of the process's memory or files is revealed. CVE-2009-1255 (`stats maps`)."""
    with Server(BINARY, ["-m", "16"]) as server:
        for line in (b"stats maps", b"stats malloc", b"stats map", b"stats mem", b"stats /etc"):
            expect(server, line + b"\r\n", ERROR)
        answer = b"".join(server.command(b"stats" + w)
                          for w in (b"", b" settings", b" items", b" slabs", b" sizes"))
        if re.search(rb"0x[0-9a-f]{6,}|[0-9a-f]{8,}-[0-9a-f]{8,} r|\[heap\]|\.so", answer):
            raise Failed("stats shows addresses")
        # A value is exactly what was stored, never what the memory held before.
        for size in (1, 7, 95, 500, 5000, 100000):
            expect(server, b"set s 0 0 %d\r\n%s\r\n" % (size, b"S" * size), b"STORED\r\n")
            expect(server, b"delete s\r\n", b"DELETED\r\n")
            expect(server, b"set s 0 0 0\r\n\r\nget s\r\n", b"STORED\r\nVALUE s 0 0\r\n\r\nEND\r\n")
            with server.connect() as s:
                s.sendall(b"set t 0 0 %d\r\nT" % size)  # cut off: must never be readable
            expect(server, b"get t\r\n", b"END\r\n")
        clean_stop(server)


def long_addresses():
    """Addresses that fill a sockaddr_un to the last byte are shown in full. CVE-2019-15026."""
    server = Server(BINARY, ["-m", "16"])
    longest = server.path = server.dir + "/" + "p" * (106 - len(server.dir))
    with server:
        for own in (None, b"\0" + b"a" * 107, (server.dir + "/" + "c" * (106 - len(server.dir))).encode()):
            with socket.socket(socket.AF_UNIX) as s:
                if own is not None:
                    s.bind(own)
                s.connect(longest)
                s.sendall(b"stats conns\r\n")
                answer = read_until(s, b"END\r\n")[0]
            addresses = re.findall(rb"STAT \d+:(?:listen_)?addr ([^\r]*)\r\n", answer)
            if len(addresses) < 3 or set(addresses) - {b"unix:" + longest.encode()}:
                raise Failed("stats conns of %r: %r" % (own, addresses))
        clean_stop(server)


def broken_base64():
    """Keys that are not base64, or decode to something odd. CVE-2020-22570 (meta)."""
    with Server(BINARY, ["-m", "16"]) as server:
        for key in (b"!!!!", b"A", b"AA", b"AAA", b"=", b"====", b"A===", b"AA==x",
                    b"\x80\xff\xfe\x81", b"AAAA" * 50 + b"A", b"-_-_"):
            for form in (b"mg %s b v", b"md %s b", b"ma %s b"):
                expect(server, form % key + b"\r\n", BAD_KEY,
                       *((b"CLIENT_ERROR invalid or duplicate flag\r\n",)
                         if form.startswith(b"ma") or not extant_only() else ()))
            expect(server, b"ms %s 7 b\r\npayload\r\n" % key, BAD_KEY)
            expect(server, b"me %s b\r\n" % key, BAD_KEY, BAD_LINE, b"EN\r\n")
        expect(server, b"mg %s b v\r\n" % (b"A" * 248), b"EN\r\n")
        for size in (252, 300, 400, 1000):
            expect(server, b"mg %s b v\r\n" % (b"A" * size), BAD_LINE, BAD_KEY)
            expect(server, b"ms %s 7 b\r\npayload\r\n" % (b"A" * size), BAD_LINE + ERROR, BAD_KEY,
                   BAD_LINE)
        for raw in (b"\0", b"\r\n", b" ", b"a b\r\nEND\r\n", bytes(range(180))):
            key = base64.b64encode(raw)
            expect(server, b"ms %s 7 b\r\npayload\r\n" % key, b"HD\r\n")
            expect(server, b"mg %s b k v\r\n" % key, b"VA 7 k%s b\r\npayload\r\n" % key)
        # A key that holds a line end must not break the lines of a dump.
        with server.connect() as s:
            s.settimeout(PATIENCE_SECONDS)
            s.sendall(b"lru_crawler metadump all\r\n")
            dump, _ = read_until(s, b"END\r\n")
        lines = [line for line in dump.split(b"\n") if line.startswith(b"key=")]
        if extant_only() and len(lines) != 5:
            raise Failed("a dump of 5 keys has %d lines: %r" % (len(lines), dump))
        clean_stop(server)


def dumps_forbidden():
    """-X, -W and -F apply to every form of the commands."""
    with Server(BINARY, ["-m", "16", "-X", "-W", "-F"]) as server:
        expect(server, b"set secret 0 0 5\r\nvalue\r\n", b"STORED\r\n")
        for line in (b"lru_crawler metadump all", b"lru_crawler metadump hash",
                     b"lru_crawler metadump 1", b"lru_crawler mgdump all",
                     b"lru_crawler mgdump hash", b"stats cachedump 1 0", b"stats cached 1 0",
                     b"stats detail on", b"stats detail dump", b"watch fetchers", b"watch"):
            if b"detail" in line and not extant_only():
                continue
            got = ask(server, line + b"\r\n")
            if got is CLOSED or b"secret" in got or b"OK" in got:
                raise Failed("%r: %r" % (line, got))
        expect(server, b"flush_all\r\nget secret\r\n", b"CLIENT_ERROR flush_all not allowed\r\n"
               b"VALUE secret 0 5\r\nvalue\r\nEND\r\n")
        clean_stop(server)


def no_udp():
    """No UDP beside flash, nor unasked. CVE-2018-1000115 (amplification), CVE-2022-48571."""
    with Server(BINARY, ["-m", "16"], name="udp") as holder:
        command = [BINARY] + (["-u", "root"] if os.getuid() == 0 else []) + [
            "-U", "21211", "-m", "16", "-o",
            "ext_page_size=2,ext_wbuf_size=2,ext_path=%s/flash:32m" % holder.dir]
        try:
            run = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            raise Failed("-U beside flash is taken") from None
        if run.returncode <= 0 or b"UDP" not in run.stdout:
            raise Failed("-U beside flash: %s %r" % (run.returncode, run.stdout[-200:]))
    with Server(BINARY, ["-m", "16"], name="udp", tcp=True) as server:
        sockets = set()
        for fd in os.listdir("/proc/%d/fd" % server.process.pid):
            try:
                link = os.readlink("/proc/%d/fd/%s" % (server.process.pid, fd))
            except OSError:
                continue
            sockets.add(link)
        for table in ("udp", "udp6"):
            try:
                with open("/proc/net/" + table) as f:
                    for line in f.readlines()[1:]:
                        if "socket:[%s]" % line.split()[9] in sockets:
                            raise Failed("a UDP socket is open")
            except FileNotFoundError:
                pass
        clean_stop(server)


def binary_protocol():
    """The binary protocol's lengths, in any mixture: an answer or none, and the server lives on.
    CVE-2011-4971, CVE-2016-8704 and on. t/unit/binary_test.c knows the answers."""
    with Server(BINARY, ["-m", "16"]) as server:
        for opcode in (0x00, 0x01, 0x0e, 0x19, 0x20, 0x21, 0xff):
            for key, extra, body in ((0, 0, 0), (0xffff, 0, 0), (0, 0xff, 0xffffffff),
                                     (10, 8, 5), (250, 0, 0x80000000), (1, 20, 0)):
                head = bytes([0x80, opcode]) + key.to_bytes(2, "big") + bytes([extra, 0, 0, 0]) + \
                    body.to_bytes(4, "big") + bytes(12)
                with server.connect() as s:
                    got = b""
                    try:
                        s.sendall(head + b"x" * 300)
                        s.shutdown(socket.SHUT_WR)
                        while chunk := s.recv(1000):
                            got += chunk
                    except (ConnectionResetError, BrokenPipeError):
                        pass
                    if got and got[0] != 0x81:
                        raise Failed("no answer of that protocol: %r" % got)
        expect(server, b"get \x80\r\n", b"END\r\n")
        clean_stop(server)


def privileges():
    """-u: root's privileges are given up for good."""
    if os.getuid() != 0:
        return "skipped: not root"
    user = pwd.getpwnam("nobody")
    server = Server(BINARY, ["-m", "16", "-u", "nobody"], name="user", tcp=True)
    os.chmod(server.dir, 0o777)
    with server:
        with open("/proc/%d/status" % server.process.pid) as f:
            status = dict(line.rstrip("\n").split(":", 1) for line in f if ":" in line)
        uids, gids = status["Uid"].split(), status["Gid"].split()
        if set(uids) != {str(user.pw_uid)} or set(gids) != {str(user.pw_gid)}:
            raise Failed("uids %s, gids %s" % (uids, gids))
        if status["CapEff"].strip("0\t ") or status["CapPrm"].strip("0\t "):
            raise Failed("capabilities are left")
        groups = status["Groups"].split()
        if "0" in groups and extant_only():
            raise Failed("root's groups are kept: %s" % groups)
        clean_stop(server)
    run = subprocess.run([BINARY, "-p", "0", "-s", "/nonexistent/x"], stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE_SECONDS)
    if run.returncode == 0 or run.returncode < 0:
        raise Failed("as root without -u: %s" % run.returncode)
    return None


def each_thread(server):
    """What /proc says of each thread of the server."""
    tasks = "/proc/%d/task" % server.process.pid
    for task in os.listdir(tasks):
        with open("%s/%s/status" % (tasks, task)) as f:
            yield dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


def fill(server, count, size):
    with server.connect() as s:
        s.settimeout(PATIENCE_SECONDS)
        s.sendall(b"".join(b"set key-%d 0 0 %d noreply\r\n%0*d\r\n" % (i, size, size, i)
                           for i in range(count)) + b"mn\r\n")
        read_until(s, b"MN\r\n")


def has_all(server, count, size):
    with server.connect() as s:
        s.settimeout(PATIENCE_SECONDS)
        for i in range(count):
            s.sendall(b"get key-%d\r\n" % i)
            if read_until(s, b"END\r\n")[0] != b"VALUE key-%d 0 %d\r\n%0*d\r\nEND\r\n" % (
                    i, size, size, i):
                return False
    return True


def drop_privileges():
    """-o drop_privileges: a server does all of its work, from start to stop, with every thread under the
    filter."""
    if not extant_only():
        return "skipped: Debian's memcached is built without"
    flash = ["-m", "16", "-o", "ext_page_size=2,ext_wbuf_size=2,ext_path=@DIR@/flash:64m"]
    mine = "/dev/shm/extant-security-%d" % os.getpid()
    count, size = 4000, 7000
    try:
        for flags, tcp in (
                (["-m", "64"], False),
                (["-m", "64"], True),
                (["-m", "64", "-U", "-1", "-l", "127.0.0.1"], True),
                (["-m", "64", "-e", mine], False),
                (flash, False),
                (flash + ["-o", "ext_io_engine=threads,ext_threads=2"], True),
                (flash + ["-e", mine + "-flash", "-P", "@DIR@/pid"], False)):
            with Server(BINARY, flags + ["-o", "drop_privileges"], name="drop", tcp=tcp) as server:
                if server.stats(b"settings")["drop_privileges"] != "yes":
                    raise Failed("stats settings doesn't tell")
                if not all(t["Seccomp"] == "2" and t["NoNewPrivs"] == "1"
                           for t in each_thread(server)):
                    raise Failed("%s: a thread without the filter" % flags)
                fill(server, count, size)
                if not has_all(server, count, size):
                    raise Failed("%s: a miss" % flags)
                for what in (b"items", b"slabs", b"conns", b"extant", b"extstore", b"settings"):
                    server.stats(what)
                for line in (b"lru_crawler metadump all", b"flush_all", b"lru_crawler crawl all"):
                    server.command(line)
                with server.connect() as watcher:
                    watcher.settimeout(PATIENCE_SECONDS)
                    watcher.sendall(b"watch mutations\r\n")
                    read_until(watcher, b"OK\r\n")
                    server.command(b"delete key-1\r\nset key-2 0 0 1\r\n2\r\nmn\r\nstats")
                    read_until(watcher, b"key=key-2")
                pid_file = os.path.join(server.dir, "pid")
                process, had_pid_file = server.process, os.path.exists(pid_file)
                process.send_signal(15)
                if process.wait(PATIENCE_SECONDS) != 0:
                    raise Failed("%s: %s at its stop: %s" % (flags, process.returncode,
                                                             server.log_tail()))
                if os.path.exists(server.path) or os.path.exists(pid_file) or \
                        had_pid_file != ("-P" in flags):
                    raise Failed("%s: files are left" % flags)
    finally:
        for name in (mine, mine + "-flash"):
            for more in ("", ".meta"):
                if os.path.exists(name + more):
                    os.unlink(name + more)
    return None


def drop_privileges_lasting():
    """-o drop_privileges with ext_persist, an auth file and SIGHUP: files that are opened late."""
    if not extant_only():
        return "skipped: Debian's memcached is built without"
    with Server(BINARY, ["-m", "16"], name="dir") as holder:
        auth = os.path.join(holder.dir, "auth")
        flags = ["-m", "16", "-Y", auth, "-o",
                 "ext_page_size=2,ext_wbuf_size=2,ext_path=%s/flash:64m,ext_persist,"
                 "drop_privileges" % holder.dir]
        for round, password in enumerate((b"first", b"second")):
            with open(auth, "wb") as f:
                f.write(b"user:nobody-knows\n")
            with Server(BINARY, flags, name="drop") as server:
                with open(auth, "wb") as f:
                    f.write(b"user:%s\n" % password)
                server.process.send_signal(1)
                end = time.monotonic() + PATIENCE_SECONDS
                while ask_to_end(server, login(b"user " + password)) != b"STORED\r\n":
                    if time.monotonic() > end:
                        raise Failed("SIGHUP is not heard: " + server.log_tail())
                got = ask_to_end(server, login(b"user " + password) + (
                    b"set kept 0 0 5\r\nvalue\r\n" if round == 0 else b"get kept\r\n"))
                if got != b"STORED\r\n" + (b"STORED\r\n" if round == 0 else
                                         b"VALUE kept 0 5\r\nvalue\r\nEND\r\n"):
                    raise Failed("round %d: %r: %s" % (round, got, server.log_tail()))
                code = server.stop()
                if code != 0:
                    raise Failed("exit code %s" % code)


def misbehaviour():
    """-o drop_privileges: a call that only an intruder makes ends the process, with a line, and the next process
    takes over what -e kept. Without the option the call works."""
    if not extant_only():
        return "skipped: Debian's memcached is built without"
    memory = "/dev/shm/extant-security-%d" % os.getpid()
    flags = ["-m", "16", "-e", memory]
    try:
        with Server(DEBUG_BINARY, flags, name="free") as server:
            if ask(server, b"debugtime r\r\n") != b"OK\r\n":
                return "skipped: %s is no debug build" % DEBUG_BINARY
            expect(server, b"misbehave\r\n", ERROR)
        for more in ("drop_privileges", "drop_privileges,relaxed_privileges"):
            with Server(DEBUG_BINARY, flags + ["-o", more], name="drop") as server:
                expect(server, b"set kept 0 0 5\r\nvalue\r\n", b"STORED\r\n")
                got = ask(server, b"misbehave\r\n")
                code = server.process.wait(PATIENCE_SECONDS)
                if got is not CLOSED or code != -31:
                    raise Failed("%s: %r, exit code %s" % (more, got, code))
                if "is forbidden" not in server.log_tail():
                    raise Failed("no line says why: %r" % server.log_tail())
            with Server(DEBUG_BINARY, flags + ["-o", more], name="again") as server:
                expect(server, b"get kept\r\n", b"VALUE kept 0 5\r\nvalue\r\nEND\r\n")
    finally:
        for name in (memory, memory + ".meta"):
            if os.path.exists(name):
                os.unlink(name)
    return None


FIRST_WORD_OF_XXH3 = 0xbe4ba423396cfeb8  # of its published secret


def flood_key(i):
    """Keys of 32 bytes that all have one XXH3, if the seed is 0."""
    return FIRST_WORD_OF_XXH3.to_bytes(8, "little") + i.to_bytes(8, "little") + b"k" * 16


def plain_key(i):
    return b"another key, random %012d" % i


def cpu_seconds(server):
    with open("/proc/%d/stat" % server.process.pid) as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def million(server, key_of, count):
    """CPU seconds for setting and getting this many keys."""
    before = cpu_seconds(server)
    with server.connect() as s:
        s.settimeout(PATIENCE_SECONDS)
        for verb, rest, answer in ((b"ms", b" 1 b q\r\nv\r\n", b"MN\r\n"),
                                   (b"mg", b" b\r\n", b"HD\r\n" * 1000 + b"MN\r\n")):
            for start in range(0, count, 1000):
                s.sendall(b"".join(verb + b" " + base64.b64encode(key_of(i)) + rest
                                   for i in range(start, start + 1000)) + b"mn\r\n")
                got, _ = read_until(s, b"MN\r\n")
                if got.replace(b" b", b"") != answer:
                    raise Failed("%s of %r: %r" % (verb, key_of(start), got[:100]))
    return cpu_seconds(server) - before


def hash_flood():
    """A million keys that collide under a known seed cost no more than others: the seed is
    drawn at each start. (A third more is accepted: the clock of CPU time is coarse. On a busy machine a run may cost
    more than its requests; so the least of several runs counts.)"""
    if not extant_only():
        return "skipped: memcached's seed is known"
    count, costs = 1000000, [math.inf, math.inf]
    for _ in range(5):
        for which, key_of in enumerate((plain_key, flood_key)):
            with Server(BINARY, ["-m", "256"], name="flood") as server:
                costs[which] = min(costs[which], million(server, key_of, count))
                if server.stats()["curr_items"] != str(count):
                    raise Failed("%s items" % server.stats()["curr_items"])
                clean_stop(server)
        if costs[1] <= costs[0] * 4 / 3 + 0.1:
            break
    else:
        raise Failed("%.2f s of CPU for keys that collide, %.2f s for others" % tuple(costs[::-1]))
    return "%d keys set and got: %.2f s of CPU, others %.2f s" % (count, costs[1], costs[0])


GARBAGE_ROUNDS = 3000


def garbage():
    """Seeded noise made of the protocol's own words, cut and split anyhow."""
    rng = random.Random(seed())
    words = [b"get", b"set", b"ms", b"mg", b"md", b"ma", b"me", b"mn", b"cas", b"stats", b"lru",
             b"slabs", b"extstore", b"lru_crawler", b"metadump", b"all", b"b", b"k", b"v", b"q",
             b"0", b"1", b"-1", b"4294967295", b"noreply", b"key", b"S100", b"T-1", b"I", b"C1",
             b"\r\n", b"\r\n", b"\n", b"\0", b"\x80", b" ", b"O" * 40, b"x" * 251, b"%n", b"=",
             b"verbosity", b"incr", b"touch", b"gat", b"append", b"tune", b"automove", b"2"]
    flash = "ext_page_size=2,ext_wbuf_size=2,ext_path=@DIR@/flash:32m,ext_item_age=0"
    with Server(BINARY, ["-m", "16", "-o", flash]) as server:
        for number in range(GARBAGE_ROUNDS):
            noise = b"".join(rng.choice(words) + rng.choice((b" ", b" ", b" ", b"\r\n", b""))
                             for _ in range(rng.randrange(1, 200)))
            noise = noise.replace(b"verbosity", b"version") if number > 0 else noise
            with server.connect() as s:
                s.setblocking(False)
                try:
                    while noise:
                        cut = rng.randrange(1, len(noise) + 1)
                        s.send(noise[:cut])
                        noise = noise[cut:]
                        s.recv(65536)
                except OSError:
                    pass
            if server.process.poll() is not None:
                raise Failed("round %d killed it: %s" % (number, server.log_tail()[-800:]))
        clean_stop(server)
    return "%d rounds" % GARBAGE_ROUNDS


PARTS = (lengths, long_lines, refcounts, log_of_keys, auth_file, auth_first, few_arguments,
         empty_lines, leaks, long_addresses, broken_base64, dumps_forbidden, no_udp, binary_protocol, privileges,
         drop_privileges, drop_privileges_lasting, misbehaviour, hash_flood, garbage)


def main():
    wanted = set(sys.argv[1:])
    failures = 0
    for part in PARTS:
        if wanted and part.__name__ not in wanted:
            continue
        start = time.monotonic()
        try:
            said = part()
            print("ok   %s (%.1f s)%s" % (part.__name__, time.monotonic() - start,
                                          ": " + said if said else ""), flush=True)
        except (Failed, OSError, RuntimeError) as e:
            failures += 1
            print("FAIL %s (%.1f s): %s" % (part.__name__, time.monotonic() - start, e), flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
