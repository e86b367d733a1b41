"""debian-index.py PORT SERVER_PID FILE: the client's half of debian-index.sh.

Stores the stanzas of FILE with pymemcache, reads all back (every tenth alone, the others a
hundred at a time), compares byte for byte and prints what happened. Exit 1 if a value is
wrong or missing.
"""

import sys
import time

from pymemcache.client.base import Client


def read_stanzas(path):
    """(key, stanza) in the order of the list."""
    with open(path, "rb") as f:
        for stanza in f.read().split(b"\n\n"):
            stanza = stanza.strip(b"\n")
            for line in stanza.split(b"\n"):
                if line.startswith(b"Package: "):
                    yield line[9:].strip(), stanza
                    break


def rss_kb(pid, field):
    with open("/proc/%s/status" % pid) as f:
        for line in f:
            if line.startswith(field):
                return int(line.split()[1])
    return 0


def read_back(client, keys):
    """(key, value or None) of each key."""
    alone = keys[::10]
    for key in alone:
        yield key, client.get(key)
    rest = [k for i, k in enumerate(keys) if i % 10]
    for i in range(0, len(rest), 100):
        got = client.get_many(rest[i:i + 100])
        for key in rest[i:i + 100]:
            yield key, got.get(key)


def main():
    port, pid, path = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    client = Client(("127.0.0.1", port), timeout=60, default_noreply=False)
    last = {}
    stored = 0
    start = time.monotonic()
    for key, stanza in read_stanzas(path):
        if client.set(key, stanza) is not True:
            print("not stored: %r" % key)
            return 1
        last[key] = stanza
        stored += 1
    seconds = time.monotonic() - start
    size = sum(map(len, last.values()))
    print("stored  %d stanzas of %d packages, %.1f MB, in %.1f s" % (
        stored, len(last), size / 1e6, seconds))

    start = time.monotonic()
    wrong, missing = [], []
    for key, value in read_back(client, list(last)):
        if value is None:
            missing.append(key)
        elif value != last[key]:
            wrong.append(key)
    seconds = time.monotonic() - start
    print("read    %d packages in %.1f s: %d right, %d wrong, %d missing" % (
        len(last), seconds, len(last) - len(wrong) - len(missing), len(wrong), len(missing)))
    for what, keys in (("wrong", wrong), ("missing", missing)):
        if keys:
            print("%s: %s" % (what, b" ".join(keys[:10]).decode("latin-1")))

    stats = {k.decode(): v for k, v in client.stats().items()}
    for name in ("get_extstore", "evictions", "extstore_objects_written", "extstore_objects_used",
                 "extstore_page_evictions", "badcrc_from_extstore", "limit_maxbytes"):
        value = stats.get(name, b"-")
        print("%-26s %s" % (name, value.decode() if isinstance(value, bytes) else value))
    print("%-26s %.1f MB (highest %.1f MB)" % (
        "server's memory (RSS)", rss_kb(pid, "VmRSS:") / 1024, rss_kb(pid, "VmHWM:") / 1024))

    from_flash = int(stats.get("get_extstore", 0))
    if not last:
        print("no stanza found: nothing was tested")
        return 1
    if size > 2 * int(stats["limit_maxbytes"]) and from_flash < len(last) / 2:
        print("less than half was read from flash")
        return 1
    return 1 if wrong or missing else 0


sys.exit(main())
