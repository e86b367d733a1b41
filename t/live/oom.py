#!/usr/bin/env python3
"""Out of everything: allocations, address space, file descriptors, item memory, disk.

Claims: the server answers with memcached's SERVER_ERROR or closes a connection, never dies,
never gives a wrong value, keeps request and answer in step, and when there is enough again
it works as before, with its connections and memory given back. Runs on $EXTANT (else
./extant); Debian's memcached works too. scripts/failmalloc.c makes allocations fail.

  oom.py [PART...]      a line per part; exit 1 if one fails
"""

import atexit
import contextlib
import functools
import hashlib
import os
import resource
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'aid'))
import servers  # noqa: E402
from servers import PATIENCE_SECONDS, Closed, Server, is_extant, wait_for  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
BINARY = os.environ.get("EXTANT", "./extant")
MB = 1 << 20
SERVER_ERRORS = (
    b"SERVER_ERROR out of memory storing object", b"SERVER_ERROR out of memory",
    b"SERVER_ERROR Out of memory allocating new item", b"SERVER_ERROR Out of memory during read",
    b"SERVER_ERROR out of memory reading request",
    b"SERVER_ERROR out of memory writing get response",
    b"SERVER_ERROR out of memory writing stats",
    b"SERVER_ERROR out of memory processing arguments",
    b"SERVER_ERROR object too large for cache", b"SERVER_ERROR out of memory preparing response")


class Failed(Exception):
    pass


def value_of(key, size):
    head = b"%s %d " % (key, size)
    return (head + hashlib.shake_128(head).digest(max(0, size - len(head))))[:size]


class Client:
    """A client that accepts SERVER_ERROR and a closed connection, and no other failure."""

    def __init__(self, server):
        self.server = server
        self.connection = self.last = None
        self.closed = self.errors = self.hits = self.stored = 0

    def request(self, data):
        if self.connection is None:
            try:
                self.connection = servers.Client(self.server)
            except OSError as e:
                raise Closed(str(e)) from e
        self.last = data
        self.connection.send(data)

    def line(self):
        try:
            return self.connection.line()
        except TimeoutError:
            raise Failed("no answer to %r" % self.last[:100]) from None

    def drop(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def error(self, line):
        if line not in SERVER_ERRORS and line != b"ERROR Too many open connections":
            raise Failed("answer %r" % line[:200])
        self.errors += 1

    def set(self, key, size):
        self.request(b"set %s 0 0 %d\r\n%s\r\n" % (key, size, value_of(key, size)))
        line = self.line()
        if line == b"STORED":
            self.stored += 1
            return True
        self.error(line)
        return False

    def get(self, keys, sizes):
        """How many were found; a wrong value is a failure."""
        self.request(b"get %s\r\n" % b" ".join(keys))
        found = 0
        while True:
            line = self.line()
            if line == b"END":
                return found
            if not line.startswith(b"VALUE "):
                self.error(line)
                return found
            word = line.split()
            data = self.connection.exactly(int(word[3]) + 2)
            if word[1] not in keys or int(word[3]) not in sizes or \
                    data != value_of(word[1], int(word[3])) + b"\r\n":
                raise Failed("a wrong value of %s bytes for %r, it ends with %r" % (
                    word[3].decode(), word[1], data[-10:]))
            found += 1
            self.hits += 1

    def ask(self, request, end):
        """An answer that ends with one of the lines in `end`, or an error."""
        self.request(request)
        while True:
            line = self.line()
            word = line.split(b" ")
            if word[0] in end:
                return line
            if word[0] == b"VA":
                self.connection.exactly(int(word[1]) + 2)
            if line.startswith((b"SERVER_ERROR", b"ERROR Too")):
                self.error(line)
                if b"MN" not in end:  # else that is still to come
                    return line

    def attempt(self, what, *args):
        try:
            return what(*args)
        except Closed:
            self.closed += 1
            self.drop()
            return None


def works(server):
    """Everything works as if nothing had happened."""
    client = Client(server)
    try:
        for size in (1, 1000, 100000):
            key = b"works-%d" % size
            if not client.set(key, size):
                raise Failed("a set of %d bytes is still refused" % size)
            if client.get([key], {size}) != 1:
                raise Failed("a set of %d bytes isn't there" % size)
    except Closed as e:
        raise Failed("connections are still closed: %s" % e) from None
    finally:
        client.drop()


def finish(server, connections):
    if server.process.poll() is not None:
        raise Failed("it died (%s): %s" % (server.process.returncode, server.log_tail()[-800:]))
    works(server)
    end = time.monotonic() + PATIENCE_SECONDS
    while int(server.stats()["curr_connections"]) > connections:
        if time.monotonic() > end:
            raise Failed("connections leak: %s, were %d" % (
                server.stats()["curr_connections"], connections))
        time.sleep(0.02)
    code = server.stop()
    if code != 0:
        raise Failed("exit code %s" % code)


@functools.lru_cache
def shim_of():
    """failmalloc, compiled once, in a directory that is removed at the end."""
    where = tempfile.mkdtemp(prefix="extant-shim.")
    atexit.register(shutil.rmtree, where)
    os.chmod(where, 0o755)
    shim = os.path.join(where, "failmalloc.so")
    subprocess.run([os.environ.get("CC", "cc"), "-std=gnu11", "-O2", "-D_GNU_SOURCE",
                    "-fno-builtin", "-shared", "-fPIC", "-o", shim,
                    os.path.join(HERE, "..", "..", "scripts", "failmalloc.c"), "-ldl"], check=True)
    return shim


class Steered(Server):
    """A server with failmalloc in it."""

    def __init__(self, flags):
        shim = shim_of()
        super().__init__(BINARY, flags, name="oom")
        self.control = os.path.join(self.dir, "control")
        self.steer(0)
        self.environ = {"LD_PRELOAD": shim, "FAILMALLOC": self.control}

    def start(self):
        before = {k: os.environ.get(k) for k in self.environ}
        os.environ.update(self.environ)
        try:
            super().start()
        finally:
            for k, v in before.items():
                if v is None:
                    del os.environ[k]
                else:
                    os.environ[k] = v

    def steer(self, every, min_bytes=0):
        """Fails every k-th allocation from now; counts start at 0."""
        with open(self.control, "r+b" if os.path.exists(self.control) else "wb") as f:
            f.write(struct.pack("<4Q", 0, min_bytes, 0, 0))
            f.seek(0)
            f.flush()
            f.write(struct.pack("<Q", every))

    def counts(self):
        with open(self.control, "rb") as f:
            return struct.unpack("<4Q", f.read(32))[2:]


def churn(server, seconds, rounds=None):
    """New connections, sets, gets of one and of many, meta, stats; returns the client."""
    client, n = Client(server), 0
    end = time.monotonic() + seconds
    sizes = {1, 900, 3000, 40000, 300000}
    order = sorted(sizes)
    while time.monotonic() < end and (rounds is None or n < rounds):
        n += 1
        key, size = b"key-%d" % (n % 400), order[n % len(order)]
        client.attempt(client.set, key, size)
        many = [b"key-%d" % (i % 400) for i in range(n, n + 30)]
        client.attempt(client.get, many, sizes)
        client.attempt(client.ask, b"mg %s v k O123 s t\r\nmn\r\n" % key, (b"MN",))
        client.attempt(client.ask, b"ms meta-%d 3 c\r\nabc\r\n" % n, (b"HD", b"NS"))
        client.attempt(client.ask, b"ma count-%d N0 J5 v\r\nmn\r\n" % n, (b"MN",))
        if n % 5 == 0:
            client.attempt(client.ask, b"stats\r\n", (b"END",))
            client.attempt(client.ask, b"stats items\r\n", (b"END",))
        if n % 7 == 0:
            client.attempt(client.get, [b"absent-%d" % i for i in range(2000)], sizes)
        if n % 3 == 0:
            client.drop()
        if server.process.poll() is not None:
            raise Failed("it died (%s) in round %d: %s" % (
                server.process.returncode, n, server.log_tail()[-800:]))
    client.drop()
    return client


# ---- parts -------------------------------------------------------------------------------


def malloc_fails():
    """Every k-th allocation fails, for many k, with and without flash; and all of them."""
    facts = []
    for flash in (False, True):
        flags = ["-m", "32", "-c", "200", "-t", "2"]
        if flash:
            flags += ["-o", "ext_page_size=2,ext_wbuf_size=2,ext_path=@DIR@/flash:64m,"
                      "ext_item_age=0,ext_item_size=512,ext_admission=all"]  # what is stored has to stay
        with Steered(flags) as server:
            churn(server, 1, 60)
            with server.connect() as s:  # flash and -m are full: what grows from here on is no item
                for i in range(12000):
                    s.sendall(b"set fill%d 0 0 9000 noreply\r\n%s\r\n" % (i, b"f" * 9000))
                s.sendall(b"mn\r\n")
                s.recv(4)
            connections = int(server.stats()["curr_connections"])
            baseline = server.rss_kb()
            failed = closed = errors = 0
            for every in (2, 3, 5, 7, 11, 23, 50, 101, 1):  # 3: a third of them
                server.steer(every)
                client = churn(server, 0.7)
                failed += server.counts()[1]
                closed, errors = closed + client.closed, errors + client.errors
                server.steer(0)
                works(server)
            for size in (2000, 16000, 100000):
                server.steer(1, size)  # only the large ones
                client = churn(server, 0.4)
                failed += server.counts()[1]
                closed, errors = closed + client.closed, errors + client.errors
                server.steer(0)
                works(server)
            wait_for(lambda: server.rss_kb() <= baseline * 1.2 + 2048)  # freed memory goes back within seconds
            grown = (server.rss_kb() - baseline) / 1024
            facts.append("%s: %d allocations failed, %d closed, %d SERVER_ERROR, RSS +%.1f MB" % (
                "flash" if flash else "RAM", failed, closed, errors, grown))
            if server.rss_kb() > baseline * 1.2 + 2048:
                raise Failed("RSS grew by %.1f MB from %.1f" % (grown, baseline / 1024))
            finish(server, connections)
    return "; ".join(facts)


def refused_sets_leave_no_old_value():
    """A set is refused since nothing can be allocated for its request: what the key had in RAM or on flash is gone. An add
    that is refused leaves it."""
    if not is_extant(BINARY):
        return "only Extant allocates something for a request"
    flags = ["-m", "16", "-t", "1", "-o", "ext_page_size=2,ext_wbuf_size=1,ext_path=@DIR@/flash:32m,ext_item_age=0,"
             "ext_item_size=512"]
    sizes = {b"ram": 3, b"flash": 2000}
    answers = {}
    with Steered(flags) as server, contextlib.ExitStack() as stack:
        s = stack.enter_context(server.connect())
        s.settimeout(PATIENCE_SECONDS)
        lines = s.makefile("rb")

        def ask(verb, key):
            s.sendall(b"%s %s 0 0 %d\r\n%s\r\n" % (verb, key, sizes[key], b"v" * sizes[key]))
            return lines.readline().rstrip()

        def is_there(key):
            s.sendall(b"mg %s\r\n" % key)
            return lines.readline() == b"HD\r\n"
        if [ask(b"set", key) for key in sizes] != [b"STORED"] * 2:
            raise Failed("the first sets are refused")
        wait_for(lambda: server.stats()["extstore_objects_used"] == "1")
        for n, verb in enumerate((b"add", b"set")):
            holder = stack.enter_context(server.connect())
            holder.sendall(b"set held 0 0 3\r\n")  # takes the one request whose memory was kept
            wait_for(lambda: list(server.stats(b"conns").values()).count("conn_nread") > n)
            server.steer(1, 1000)
            answers[verb] = [ask(verb, key) for key in sizes]
            server.steer(0)
            left = [is_there(key) for key in sizes]
            if answers[verb] != [SERVER_ERRORS[0]] * 2 or left != [verb == b"add"] * 2:
                raise Failed("%s: %s, then there: %s" % (verb, answers[verb], left))
    return "2 adds, 2 sets refused"


def malloc_fails_at_start():
    """Every n-th allocation fails from the start on, for many n: refused or served. As another
    user, because the look-up of -u's user ends in aborts of the C library itself."""
    served = refused = 0
    holder = tempfile.mkdtemp(prefix="extant-start.")  # where another user can reach it
    os.chmod(holder, 0o755)
    binary = shutil.copy(BINARY, os.path.join(holder, os.path.basename(BINARY)))
    try:
        served, refused = start_each(binary)
    finally:
        shutil.rmtree(holder)
    return "%d refused with a line, %d served" % (refused, served)


def start_each(binary):
    served, refused, bad = 0, 0, []
    where = tempfile.mkdtemp(prefix="extant-start.")
    os.chmod(where, 0o777)
    control, path = os.path.join(where, "control"), os.path.join(where, "sock")
    other = {"user": 65534, "group": 65534, "extra_groups": []} if os.getuid() == 0 else {}
    few = list(range(1, 60)) + [80, 120, 200, 400, 800, 2000, 10000]
    try:
        for n in few if is_extant(BINARY) else few[::6]:
            with open(control, "wb") as f:
                f.write(struct.pack("<4Q", n, 0, 0, 0))
            os.chmod(control, 0o666)
            with tempfile.TemporaryFile() as log:
                p = subprocess.Popen(
                    [binary, "-s", path, "-m", "16", "-t", "2", "-a", "777", "-o",
                     "ext_page_size=2,ext_wbuf_size=2,ext_path=%s/flash:32m" % where],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                    env=dict(os.environ, LD_PRELOAD=shim_of(), FAILMALLOC=control), **other)
                answered, end = False, time.monotonic() + PATIENCE_SECONDS
                while p.poll() is None and not answered and time.monotonic() < end:
                    answered = is_there(path)
                running = p.poll() is None
                if running:
                    with open(control, "r+b") as f:  # the stop is not tested here
                        f.write(struct.pack("<Q", 0))
                    p.terminate()
                try:
                    p.wait(PATIENCE_SECONDS)
                except subprocess.TimeoutExpired:
                    p.kill()
                    p.wait()
                    bad.append("n=%d: it can't be stopped" % n)
                log.seek(0)
                text = log.read().decode("latin-1").strip()
            if p.returncode < 0:
                bad.append("n=%d: signal %d: %s" % (n, -p.returncode, text[-200:]))
            elif running and not answered:
                bad.append("n=%d: it neither serves nor ends" % n)
            elif not running and not text:
                bad.append("n=%d: it ends without a word" % n)
            served, refused = served + running, refused + (not running)
    finally:
        shutil.rmtree(where)
    if bad and is_extant(BINARY):
        raise Failed("%d of %d: %s" % (len(bad), served + refused, "; ".join(bad)))
    return served, refused


def is_there(path):
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(1)
            s.connect(path)
            s.sendall(b"version\r\n")
            return s.recv(100).startswith(b"VERSION")
    except OSError:
        time.sleep(0.005)
        return False


def address_space():
    """ulimit -v: refused with a line at the start, or run and answer with SERVER_ERROR."""
    refused, ran = 0, 0
    for limit_mb in (40, 80, 120, 160, 220, 300, 400, 600, 1000, 1500, 2000, 4000):
        server = Server(BINARY, ["-m", "64", "-t", "2"], name="space")
        command = server.binary
        wrapper = os.path.join(server.dir, "limited")
        with open(wrapper, "w") as f:
            f.write('#!/bin/sh\nulimit -v %d\nexec "%s" "$@"\n' % (
                limit_mb * 1024, os.path.abspath(command)))
        os.chmod(wrapper, 0o755)
        server.binary = wrapper
        try:
            server.start()
        except RuntimeError as e:
            code, log = server.process.returncode, server.log_tail()
            server.stop()
            if code is None or code < 0 or code > 128 or not log.strip():
                raise Failed("under %d MB: code %s, log %r: %s" % (
                    limit_mb, code, log[-300:], e)) from None
            refused += 1
            continue
        try:
            client = Client(server)
            for i in range(600):
                client.attempt(client.set, b"large-%d" % i, 200000)
            client.attempt(client.get, [b"large-%d" % i for i in range(500, 600)], {200000})
            client.drop()
            churn(server, 0.3)
            if not server.command(b"stats").endswith(b"END\r\n") or server.stop() != 0:
                raise Failed("under %d MB: it doesn't end well" % limit_mb)
            ran += 1
        finally:
            server.stop()
    if not ran:
        raise Failed("it never ran")
    return "%d refused with a line, %d ran" % (refused, ran)


def descriptors():
    """No file descriptor left: waiting without burning the CPU, others unharmed, recovery."""
    with Server(BINARY, ["-m", "16", "-c", "500"], name="fds") as server:
        connections = int(server.stats()["curr_connections"])
        pid = server.process.pid
        used = len(os.listdir("/proc/%d/fd" % pid))
        hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        client = Client(server)
        if not client.set(b"before", 1000):
            raise Failed("can't set")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 20, hard[1]))
        waiting = []
        for _ in range(60):
            s = socket.socket(socket.AF_UNIX)
            s.setblocking(False)
            try:
                s.connect(server.path)
                s.sendall(b"version\r\n")
            except OSError:
                pass
            waiting.append(s)

        def cpu():
            with open("/proc/%d/stat" % pid) as f:
                word = f.read().rsplit(")", 1)[1].split()
            return (int(word[11]) + int(word[12])) / os.sysconf("SC_CLK_TCK")
        time.sleep(0.3)
        start, begin = cpu(), time.monotonic()
        for _ in range(200):
            if client.get([b"before"], {1000}) != 1:
                raise Failed("an older connection is harmed")
        while time.monotonic() < begin + 1:
            time.sleep(0.01)
        burnt = (cpu() - start) / (time.monotonic() - begin)
        if server.process.poll() is not None:
            raise Failed("it died: %s" % server.log_tail())
        if burnt > 0.5:
            raise Failed("waiting for descriptors takes %.0f%% of a CPU" % (100 * burnt))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, hard)
        for s in waiting[:10]:
            s.close()
        answered, end = 0, time.monotonic() + PATIENCE_SECONDS
        for s in waiting[10:]:
            s.settimeout(max(0.05, end - time.monotonic()))
            try:
                answered += s.recv(100).startswith(b"VERSION")
            except OSError:
                pass
            s.close()
        if answered < 40:
            raise Failed("of 50 that waited %d were answered once there were descriptors"
                         % answered)
        client.drop()
        finish(server, connections)
        return "%.1f%% CPU while waiting, then %d of 50 answered" % (100 * burnt, answered)


def item_memory():
    """-M: the words of a full cache; freed memory can be used again, for any size."""
    with Server(BINARY, ["-m", "16", "-M"], name="full") as server:
        client, stored, refused = Client(server), [], 0
        for i in range(400):
            key = b"key-%d" % i
            if client.set(key, 100000):
                stored.append(key)
            else:
                refused += 1
        if not 80 <= len(stored) <= 170 or not refused:
            raise Failed("-m 16 took %d values of 100 KB" % len(stored))
        client.request(b"set more 0 0 100000\r\n%s\r\n" % value_of(b"more", 100000))
        if client.line() != b"SERVER_ERROR out of memory storing object":
            raise Failed("other words than memcached's")
        client.request(b"set more 0 0 100000 noreply\r\n%s\r\nversion\r\n"
                       % value_of(b"more", 100000))
        if not client.line().startswith(b"VERSION"):
            raise Failed("a quiet set that fails isn't quiet")
        client.request(b"set %s 0 0 200000\r\n%s\r\nget %s\r\n" % (
            stored[0], value_of(stored[0], 200000), stored[0]))
        if client.line() == b"STORED":  # where 100 KB were there may be room for 200
            size = 200000
        else:
            size = 0  # memcached's way: the old value must not stay
        key = stored.pop(0)
        line = client.line()
        if size and (line != b"VALUE %s 0 200000" % key or
                     client.connection.exactly(size + 7) != value_of(key, size) + b"\r\nEND\r\n"):
            raise Failed("overwritten in a full cache: %r" % line)
        if not size and line != b"END":
            raise Failed("a refused overwrite leaves the old value")
        client.request(b"ms meta 100000\r\n%s\r\n" % value_of(b"meta", 100000))
        line = client.line()
        if line not in (b"SERVER_ERROR out of memory storing object", b"HD"):
            raise Failed("ms in a full cache: %r" % line)
        if client.get(stored, {100000}) != len(stored):
            raise Failed("-M lost something")
        for key in stored[:40]:
            client.request(b"delete %s\r\n" % key)
            if client.line() != b"DELETED":
                raise Failed("can't delete")
        again = sum(client.set(b"again-%d" % i, 100000) for i in range(38))
        if again < 38:
            raise Failed("only %d of 38 fit where 40 were deleted" % again)
        client.drop()
        for key in stored[40:]:
            client.request(b"delete %s\r\n" % key)
            client.line()
        client.drop()
        finish(server, 100)
        return "%d stored, %d refused" % (len(stored), refused)


def disk_full():
    """A flash file on a file system that is too small, and one that fills meanwhile."""
    if os.getuid() != 0:
        return "skipped: not root"
    where = tempfile.mkdtemp(prefix="extant-disk.")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", where],
                      stderr=subprocess.DEVNULL).returncode != 0:
        os.rmdir(where)
        return "skipped: can't mount a tmpfs"
    try:
        flags = ["-m", "8", "-t", "2", "-o", "ext_page_size=2,ext_wbuf_size=2,"
                 "ext_path=%s/flash:64m,ext_item_age=0,ext_item_size=512" % where]
        server = Server(BINARY, flags, name="disk")
        try:
            server.start()
        except RuntimeError as e:
            code, log = server.process.returncode, server.log_tail()
            if code is None or code <= 0 or not log.strip():
                raise Failed("64 MB on 24 MB: code %s, %s" % (code, e)) from None
            return "refused with: %s" % log.strip().split("\n")[-1]
        client, slow = Client(server), 0.0
        end = time.monotonic() + PATIENCE_SECONDS
        for n in range(2):
            for i in range(4000):
                start = time.monotonic()
                client.set(b"key-%d" % i, 8000)
                slow = max(slow, time.monotonic() - start)
                if start > end:
                    raise Failed("8000 sets into a full disk don't end (one took %.1f s)" % slow)
        found = sum(client.get([b"key-%d" % i], {8000}) for i in range(4000))
        client.set(b"small", 10)
        if client.get([b"small"], {10}) != 1:
            raise Failed("RAM isn't served")
        client.drop()
        finish(server, 100)
        return "%d of 4000 found, slowest set %.2f s" % (found, slow)
    finally:
        server.stop()
        subprocess.run(["umount", where], check=False)
        os.rmdir(where)


PARTS = (malloc_fails, refused_sets_leave_no_old_value, malloc_fails_at_start, address_space, descriptors, item_memory, disk_full)


def main():
    wanted = set(sys.argv[1:])
    failures = 0
    for part in PARTS:
        if wanted and part.__name__ not in wanted:
            continue
        start = time.monotonic()
        try:
            said = part()
            print("ok   %s (%.1f s): %s" % (part.__name__, time.monotonic() - start, said),
                  flush=True)
        except Closed as e:
            failures += 1
            print("FAIL %s: a connection was closed: %s" % (part.__name__, e), flush=True)
        except (Failed, OSError, RuntimeError) as e:
            failures += 1
            print("FAIL %s (%.1f s): %s" % (part.__name__, time.monotonic() - start, e), flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
