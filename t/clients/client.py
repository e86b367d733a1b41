"""One program for the Python clients: client.py pymemcache|memcache|pylibmc|pylibmc-binary|bmemcached PORT
[store|read]. The last two speak the binary protocol. With SASL_USER and SASL_PASSWORD bmemcached logs in.
With TLS_CA, a file, pymemcache speaks TLS and checks the server's certificate.

Each client is wrapped in one small set of calls; a call that it doesn't have is None and is
skipped. Any answer that differs from memcached's fails with an assertion.
"""

import os
import random
import ssl
import sys
import time

ABSENT = object()


def wait_until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "gave up waiting"
        time.sleep(0.02)


class Pymemcache:
    def __init__(self, port):
        from pymemcache.client.base import Client
        ca = os.environ.get("TLS_CA")
        tls_context = ssl.create_default_context(cafile=ca) if ca else None
        self.c = c = Client(("127.0.0.1", port), timeout=120, default_noreply=False, tls_context=tls_context)
        self.set = lambda k, v, ttl=0: c.set(k, v, expire=ttl)
        self.get = c.get
        self.add, self.replace = c.add, c.replace
        self.append, self.prepend = c.append, c.prepend
        self.incr = lambda k, n: c.incr(k, n)
        self.decr = lambda k, n: c.decr(k, n)
        self.missing_incr = None
        self.delete = c.delete
        self.touch = lambda k, ttl: c.touch(k, ttl)
        self.gets = c.gets
        self.cas = lambda k, v, token: c.cas(k, v, token)
        self.stored, self.exists = True, False
        self.get_many, self.set_many = c.get_many, c.set_many
        self.gat = lambda k, ttl: c.gat(k, ttl) if hasattr(c, "gat") else ABSENT
        self.stats = lambda: {k.decode(): v for k, v in c.stats().items()}
        self.flush = c.flush_all
        self.version = lambda: c.version().decode()
        self.set_quiet = lambda k, v: c.set(k, v, noreply=True)


class PythonMemcache:
    def __init__(self, port):
        import memcache
        self.c = c = memcache.Client(["127.0.0.1:%d" % port], cache_cas=True,
                                     server_max_value_length=4 << 20, socket_timeout=120)
        self.set = lambda k, v, ttl=0: bool(c.set(k, v, time=ttl))
        self.get = c.get
        self.add = lambda k, v: bool(c.add(k, v))
        self.replace = lambda k, v: bool(c.replace(k, v))
        self.append = lambda k, v: bool(c.append(k, v))
        self.prepend = lambda k, v: bool(c.prepend(k, v))
        self.incr, self.decr = c.incr, c.decr
        self.delete = lambda k: self.was_there(k) and bool(c.delete(k))
        self.touch = lambda k, ttl: bool(c.touch(k, ttl))
        self.gets = self.cas = None
        self.get_many = c.get_multi
        self.set_many = lambda d: c.set_multi(d)
        self.gat = lambda k, ttl: ABSENT
        self.stats = lambda: c.get_stats()[0][1]
        self.flush = c.flush_all
        self.version = None
        self.set_quiet = lambda k, v: c.set(k, v, noreply=True)

    def was_there(self, key):
        return self.c.get(key) is not None  # its delete says yes to a miss too


class Pylibmc:
    def __init__(self, port, binary=False):
        import pylibmc
        self.c = c = pylibmc.Client(["127.0.0.1:%d" % port], binary=binary,
                                    behaviors={"cas": True, "receive_timeout": 120000000,
                                               "send_timeout": 120000000, "_poll_timeout": 120000})

        def asks(method):  # in binary, some misses are exceptions
            def ask(*args, **kw):
                try:
                    return method(*args, **kw)
                except (pylibmc.NotFound, pylibmc.DataExists):
                    return False
            return ask

        self.set = lambda k, v, ttl=0: c.set(k, v, time=ttl)
        self.get = c.get
        self.add, self.replace = asks(c.add), asks(c.replace)
        self.append, self.prepend = c.append, c.prepend
        self.incr, self.decr = c.incr, c.decr
        self.delete = asks(c.delete)
        self.touch = asks(c.touch)
        self.gets = c.gets
        self.cas = asks(c.cas)
        self.stored, self.exists = True, False
        self.get_many, self.set_many = c.get_multi, c.set_multi
        self.gat = lambda k, ttl: ABSENT
        self.stats = lambda: {self.text(k): v for k, v in c.get_stats()[0][1].items()}
        self.flush = c.flush_all
        self.version = None
        self.set_quiet = None

    @staticmethod
    def text(key):
        return key.decode() if isinstance(key, bytes) else key


class Bmemcached:
    def __init__(self, port):
        import bmemcached
        self.c = c = bmemcached.Client(("127.0.0.1:%d" % port,), os.environ.get("SASL_USER"),
                                       os.environ.get("SASL_PASSWORD"), compression=None, socket_timeout=120)
        self.set = lambda k, v, ttl=0: c.set(k, v, time=ttl)
        self.get = c.get
        self.add, self.replace = c.add, c.replace
        self.append = self.prepend = None
        self.incr, self.decr = c.incr, c.decr
        self.delete = lambda k: c.get(k) is not None and c.delete(k)  # it says yes to a miss too
        self.touch = None
        self.gets = c.gets
        self.cas = lambda k, v, token: c.cas(k, v, token)
        self.stored, self.exists = True, False
        self.get_many, self.set_many = c.get_multi, c.set_multi
        self.gat = lambda k, ttl: ABSENT
        self.stats = lambda: {k if isinstance(k, str) else k.decode(): v
                              for k, v in list(c.stats().values())[0].items()}
        self.flush = c.flush_all
        self.version = None
        self.set_quiet = None


CLIENTS = {"pymemcache": Pymemcache, "memcache": PythonMemcache, "pylibmc": Pylibmc,
           "pylibmc-binary": lambda port: Pylibmc(port, binary=True), "bmemcached": Bmemcached}


def check_basics(c):
    assert c.set("a", b"one") and c.get("a") == b"one"
    assert c.get("missing") is None
    assert not c.add("a", b"x") and c.add("b", b"two") and c.get("b") == b"two"
    assert not c.replace("missing", b"x") and c.replace("b", b"three")
    if c.append:
        assert c.append("b", b"!") and c.prepend("b", b">") and c.get("b") == b">three!"
    assert c.delete("b") and not c.delete("b") and c.get("b") is None
    assert c.set("empty", b"") and c.get("empty") == b""
    noise = bytes(range(256)) * 3
    assert c.set("noise", noise) and c.get("noise") == noise


def check_numbers(c):
    assert c.set("n", b"10")
    assert c.incr("n", 5) == 15 and c.decr("n", 20) == 0 and c.incr("n", 7) == 7
    assert c.set("n", b"18446744073709551615") and c.incr("n", 1) == 0


def check_cas(c):
    if c.gets is None:
        return
    assert c.set("c", b"one")
    value, token = c.gets("c")
    assert value == b"one" and token
    assert c.cas("c", b"two", token) == c.stored and c.get("c") == b"two"
    assert c.cas("c", b"three", token) == c.exists and c.get("c") == b"two"


def check_expiry(c):
    assert c.set("brief", b"x", 1)
    wait_until(lambda: c.get("brief") is None)
    if not c.touch:
        return
    wait_until(lambda: c.set("later", b"x", 1) and c.touch("later", 1000))  # again, if a second has passed in between
    assert c.set("gone", b"x", 1)
    wait_until(lambda: c.get("gone") is None)
    assert c.get("later") == b"x"
    assert not c.touch("missing", 5)
    got = c.gat("later", 2000)
    assert got is ABSENT or got == b"x"


def check_many(c, rnd):
    values = {"many-%04d" % i: rnd.randbytes(rnd.randint(1, 3000)) for i in range(1000)}
    c.set_many(values)
    asked = list(values) + ["never-%d" % i for i in range(50)]
    assert c.get_many(asked) == values


def check_big(c, rnd):
    for size in (500000, 1 << 20, (1 << 20) - 200, 3000000):
        value = rnd.randbytes(size)
        assert c.set("big", value), size
        assert c.get("big") == value, size
    for i in range(24):  # more than fits beside each other: these come back from flash
        assert c.set("large-%d" % i, b"%04d" % i * 200000)
    kept = sum(c.get("large-%d" % i) == b"%04d" % i * 200000 for i in range(24))
    assert kept >= 12, kept


def check_admin(c):
    stats = c.stats()
    assert int(stats["curr_items"]) > 0 and int(stats["cmd_set"]) > 0
    if c.version:
        assert c.version().count(".") == 2
    if c.set_quiet:
        c.set_quiet("quiet", b"x")
        assert c.get("quiet") == b"x"
    c.flush()
    assert c.get("a") is None and c.get("noise") is None
    assert c.set("a", b"after") and c.get("a") == b"after"


def through_flash(c, phase):
    """500 values, stored or read; the test waits in between until they are on flash."""
    rnd = random.Random(2)
    for i in range(500):
        value = rnd.randbytes(rnd.randint(300, 5000))
        assert (c.set("flash-%d" % i, value) if phase == "store" else c.get("flash-%d" % i) == value), i


def main():
    c = CLIENTS[sys.argv[1]](int(sys.argv[2]))
    if len(sys.argv) > 3:
        through_flash(c, sys.argv[3])
        return
    rnd = random.Random(1)
    check_basics(c)
    check_numbers(c)
    check_cas(c)
    check_expiry(c)
    check_many(c, rnd)
    check_big(c, rnd)
    check_admin(c)
    print("%s: all answers as from memcached" % sys.argv[1])


main()
