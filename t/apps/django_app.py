"""What a Django site asks of its cache: django_app.py pymemcache|pylibmc PORT calls|store|read.

store leaves 450 values and 50 sessions; read finds and checks them, through another process.
"""

import random
import sys

import django
from django.conf import settings

BACKENDS = {"pymemcache": "PyMemcacheCache", "pylibmc": "PyLibMCCache"}


def values():
    """The same in both processes: of all kinds that are pickled, beside plain text and numbers."""
    rnd = random.Random(3)
    for i in range(450):
        text = "".join(rnd.choices("abcäöü\u20ac", k=rnd.randint(200, 2000)))
        yield "page:%d" % i, [text, {"title": text[:50], "n": i}, (text,), i * 10 ** 20, text.encode()][i % 5]


def check_calls(cache):
    cache.clear()
    assert cache.get("none") is None and cache.get("none", 7) == 7
    assert cache.add("a", "one") and not cache.add("a", "two") and cache.get("a") == "one"
    cache.set("n", 41)
    assert cache.incr("n") == 42 and cache.decr("n", 2) == 40
    try:
        cache.incr("none")
        raise AssertionError("incr of what is not there")
    except ValueError:
        pass
    many = {"many%d" % i: {"i": i, "pad": "x" * 900} for i in range(300)}
    assert cache.set_many(many) == [] and cache.get_many([*many, "none"]) == many
    assert cache.delete("a") and not cache.delete("a")
    cache.set("later", "x", 1)
    assert cache.touch("later", 1000) and not cache.touch("none", 10)
    assert cache.get_or_set("made", lambda: "just now", 100) == "just now"
    cache.set("versioned", 1, version=2)
    assert cache.get("versioned") is None and cache.get("versioned", version=2) == 1
    assert cache.incr_version("versioned", version=2) == 3
    cache.set("void", None)
    assert cache.get("void", 7) is None
    cache.delete_many(many)
    assert cache.get_many(list(many)) == {}
    cache.clear()
    assert cache.get("n") is None


def store(cache, session_store):
    for key, value in values():
        cache.set(key, value, None)
    keys = []
    for i in range(50):
        session = session_store()
        session["user"], session["cart"] = i, ["thing %d" % n for n in range(i * 10)]
        session.create()
        keys.append(session.session_key)
    cache.set("session-keys", keys, None)


def read(cache, session_store):
    for key, value in values():
        assert cache.get(key) == value, key
    for i, key in enumerate(cache.get("session-keys")):
        session = session_store(key)
        assert session["user"] == i and session["cart"] == ["thing %d" % n for n in range(i * 10)], i
    assert not session_store().exists("s" * 32)


def main():
    client, port, phase = sys.argv[1], sys.argv[2], sys.argv[3]
    settings.configure(
        SECRET_KEY="of a test", SESSION_ENGINE="django.contrib.sessions.backends.cache",
        CACHES={"default": {"BACKEND": "django.core.cache.backends.memcached." + BACKENDS[client],
                            "LOCATION": "127.0.0.1:" + port}})
    django.setup()
    from django.contrib.sessions.backends.cache import SessionStore
    from django.core.cache import cache
    if phase == "calls":
        check_calls(cache)
    else:
        {"store": store, "read": read}[phase](cache, SessionStore)


main()
