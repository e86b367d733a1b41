#!/usr/bin/python3
"""Several servers as one cache, as docs/CLUSTER.md describes it: behind nutcracker, and through clients that
spread the keys themselves (pylibmc with ketama, pymemcache's HashClient).

Each scenario has three servers with -e and flash. All values are stored and on flash; one server is killed;
while it is dead its keys fail and the others' do not; it starts again on its port, and every value is there,
the last one that was acknowledged: none is lost, none is stale.
"""
# row: nutcracker (twemproxy) | nutcracker | text | ketama over three servers, one killed and back: 0 lost, 0 wrong
# row: pylibmc with ketama, pymemcache HashClient | python3-pylibmc, python3-pymemcache | text | the same without a proxy

import importlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "aid"))
import servers  # noqa: E402
from servers import expect, wait_for  # noqa: E402

BINARY = os.environ.get("EXTANT", "./extant")
KEYS = 3000
VICTIM = 1


class Ring:
    """Three servers; their memory files outlive them."""

    def __init__(self):
        tmpfs = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.memory = tempfile.mkdtemp(prefix="extant-cluster.", dir=tmpfs)
        self.servers = [servers.Server(BINARY, ["-m", "32", "-e", os.path.join(self.memory, str(i)), "-o",
                                                "ext_path=@DIR@/flash:32m,ext_page_size=1,ext_wbuf_size=1,"
                                                "ext_item_age=0,ext_item_size=0,ext_recache_rate=0"],
                                       "cluster%d" % i, tcp=True) for i in range(3)]

    def __enter__(self):
        for server in self.servers:
            server.start()
        return self

    def __exit__(self, *exc):
        for server in self.servers:
            server.stop()
        shutil.rmtree(self.memory)

    def addresses(self):
        return [("127.0.0.1", server.port) for server in self.servers]

    def are_on_flash(self):
        return all(server.stats(b"extant")["ram_items"] == "0" for server in self.servers)

    def read_from_flash(self):
        return sum(int(server.stats()["get_extstore"]) for server in self.servers)

    def kill(self):
        process = self.servers[VICTIM].process
        process.kill()
        process.wait()

    def start_again(self):
        server = self.servers[VICTIM]
        server.flags += ["-p", str(server.port)]
        server.start()


def value_of(i, round_number):
    return ("%d-%d-" % (i, round_number) * 120).encode()


def go_through(get, set_, name):
    """The scenario. get(i) and set_(i, value) raise what the client raises when a server doesn't answer."""
    with Ring() as ring:
        get, set_ = get(ring), set_(ring)
        latest = {i: value_of(i, 0) for i in range(KEYS)}
        expect(name + ": all are stored", all(set_(i, value) for i, value in latest.items()))
        spread = [int(server.stats()["curr_items"]) for server in ring.servers]
        expect(name + ": each server has a share", min(spread) > KEYS / 10 and sum(spread) == KEYS, spread)
        wait_for(ring.are_on_flash)
        expect(name + ": all are right", all(get(i) == value for i, value in latest.items()))
        expect(name + ": they came from flash", ring.read_from_flash() == KEYS, ring.read_from_flash())
        victims = spread[VICTIM]

        ring.kill()
        wrong = failed = 0
        for i in range(KEYS):
            try:
                wrong += get(i) != latest[i]
            except Exception:
                failed += 1
        expect(name + ": only the dead server's keys fail", (wrong, failed) == (0, victims),
               "%d wrong, %d failed of %d" % (wrong, failed, victims))
        for i in range(0, KEYS, 3):
            try:
                if set_(i, value_of(i, 1)):
                    latest[i] = value_of(i, 1)
            except Exception:
                pass
        ring.start_again()

        def answers():
            try:
                return [get(i) for i in range(30)]
            except Exception:
                return None
        wait_for(answers)
        lost = wrong = 0
        for i, value in latest.items():
            got = get(i)
            lost += got is None
            wrong += got is not None and got != value
        print("%s: %d keys on %s; killed and back: %d lost, %d wrong" % (name, KEYS, spread, lost, wrong))
        expect(name + ": none is lost or wrong", (lost, wrong) == (0, 0), (lost, wrong))
        expect(name + ": again all answer", all(set_(i, value_of(i, 2)) for i in range(KEYS)))


def behind_nutcracker():
    if not shutil.which("nutcracker", path=os.environ["PATH"] + ":/usr/sbin"):
        return False
    from pymemcache.client.base import Client
    proxy = []

    def begin(ring):
        with socket.create_server(("127.0.0.1", 0)) as free, socket.create_server(("127.0.0.1", 0)) as free2:
            port, stats_port = free.getsockname()[1], free2.getsockname()[1]
        conf = os.path.join(ring.memory, "nutcracker.yml")
        with open(conf, "w") as f:
            f.write("extant:\n  listen: 127.0.0.1:%d\n  hash: fnv1a_64\n  distribution: ketama\n"
                    "  auto_eject_hosts: false\n  servers:\n" % port)
            f.writelines("   - %s:%d:1 node%d\n" % (*address, i) for i, address in enumerate(ring.addresses()))
        log = os.path.join(ring.memory, "log")
        proxy.append(subprocess.Popen(["nutcracker", "-c", conf, "-o", log, "-s", str(stats_port), "-a",
                                       "127.0.0.1", "-p", os.path.join(ring.memory, "pid")],
                                      env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin"}))

        def listens():
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return True
            except OSError:
                return proxy[0].poll() is not None
        wait_for(listens)
        client = Client(("127.0.0.1", port), timeout=servers.PATIENCE_SECONDS, default_noreply=False)
        proxy.append(client)
        return lambda i: client.get("key-%d" % i)

    try:
        go_through(begin, lambda ring: lambda i, value: proxy[1].set("key-%d" % i, value), "nutcracker")
    finally:
        if proxy:
            proxy[0].terminate()
            proxy[0].wait()
    return True


def ketama_in_pylibmc():
    try:
        pylibmc = importlib.import_module("pylibmc")
    except ImportError:
        return False
    made = []

    def begin(ring):
        made.append(pylibmc.Client(["%s:%d" % address for address in ring.addresses()], behaviors={
            "ketama": True, "tcp_nodelay": True, "receive_timeout": int(servers.PATIENCE_SECONDS * 1e6),
            "retry_timeout": 1}))
        return lambda i: made[0].get("key-%d" % i)
    go_through(begin, lambda ring: lambda i, value: made[0].set("key-%d" % i, value), "pylibmc, ketama")
    return True


def rendezvous_in_pymemcache():
    try:
        hash_client = importlib.import_module("pymemcache.client.hash").HashClient
    except ImportError:
        return False
    made = []

    def begin(ring):
        made.append(hash_client(ring.addresses(), timeout=servers.PATIENCE_SECONDS, retry_attempts=1 << 30,
                                retry_timeout=0, dead_timeout=0))
        return lambda i: made[0].get("key-%d" % i)
    go_through(begin, lambda ring: lambda i, value: made[0].set("key-%d" % i, value, noreply=False),
               "pymemcache HashClient")
    return True


def main():
    ran = 0
    for scenario in (behind_nutcracker, ketama_in_pylibmc, rendezvous_in_pymemcache):
        try:
            ran += scenario()
        except ImportError as missing:
            print(missing)
    if servers.FAILED:
        sys.exit(1)
    if not ran:
        print("neither nutcracker nor a client is installed")
        sys.exit(77)
    print("ok: %d ways" % ran)


main()
