#!/usr/bin/env python3
"""scripts/replay.c: its synthetic traces, its simulated caches and its checks are right.

The simulations are compared with caches of ten lines in Python, with values of one size; a trace is played to a
server, and each of its answers is counted.
"""

import os
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "t", "aid"))
sys.dont_write_bytecode = True

from servers import Server  # noqa: E402

REPLAY = os.path.join(ROOT, "build", "replay")
OBJECT = 335 + 56  # the value of a trace without sizes, and the overhead of a record
TRACE = [i * i % 23 + i % 7 * 100 for i in range(4000)]


def run(arguments, code=0):
    done = subprocess.run([REPLAY, *map(str, arguments)], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, check=False)
    assert done.returncode == code, done
    return dict(line.split() for line in done.stdout.decode().splitlines())


def lru(trace, room):
    held, hits = [], 0
    for key in trace:
        hits += key in held
        held = [key] + [k for k in held if k != key][:room - 1]
    return hits


def best(trace, room):
    """Belady's, with the choice not to admit a key."""
    later, following = {}, []
    for i in range(len(trace) - 1, -1, -1):
        following.append(later.get(trace[i], len(trace)))
        later[trace[i]] = i
    following.reverse()
    held, hits = {}, 0
    for i, key in enumerate(trace):
        hits += key in held
        held[key] = following[i]
        if len(held) > room:
            del held[max(held, key=held.get)]
    return hits


class Replay(unittest.TestCase):
    def setUp(self):
        self.file = tempfile.NamedTemporaryFile("w", suffix=".txt")
        self.file.write("".join("%x\n" % key for key in TRACE))
        self.file.flush()
        self.addCleanup(self.file.close)

    def simulate(self, name, objects, source=None):
        ram = objects // 4 * OBJECT
        return run(["--simulate", name, "--ram", ram, "--flash", objects * OBJECT - ram, "--page",
                    10 * OBJECT, source or self.file.name])

    def test_lru_and_min(self):
        for objects in (40, 80):
            self.assertEqual(int(self.simulate("lru", objects)["lru_hits"]), lru(TRACE, objects))
            self.assertEqual(int(self.simulate("min", objects)["min_hits"]), best(TRACE, objects))

    def test_a_loop_misses_in_fifo_and_fits_in_a_larger_one(self):
        self.assertEqual(int(self.simulate("fifo", 80, "loop:100:1000")["fifo_hits"]), 0)
        out = self.simulate("fifo", 140, "loop:100:1000")
        self.assertEqual(int(out["fifo_hits"]), 900)
        self.assertEqual(int(out["fifo_flash_written"]) % OBJECT, 0)

    def test_s3fifo_keeps_a_hot_set_through_one_hit_wonders(self):
        out = self.simulate("s3fifo,lru", 200, "onehit:200:20000")
        self.assertGreater(int(out["s3fifo_hits"]), int(out["lru_hits"]))

    def test_each_key_twice(self):
        out = run(["twice:100:10000"])
        self.assertEqual(int(out["keys"]), 100 + 9900 // 2)

    def test_a_part_of_a_trace_and_another_seed(self):
        out = run(["--skip", 1000, "--limit", 500, self.file.name])
        self.assertEqual((int(out["requests"]), int(out["keys"])), (500, len(set(TRACE[1000:1500]))))
        keys = {seed: run(["--seed", seed, "zipf:5000:5000"])["keys"] for seed in (0, 1, 2)}
        self.assertEqual(len(set(keys.values())), 3)
        self.assertEqual(run(["--seed", 1, "zipf:5000:5000"])["keys"], keys[1])

    def test_a_server_that_stops_answering_does_not_stop_the_run(self):
        """It answers half of the gets of the first connection, and then all misses."""
        path = os.path.join(tempfile.mkdtemp(), "sock")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        self.addCleanup(listener.close)
        gets = [0, 0]

        def serve():
            for connection in (0, 1):
                peer = listener.accept()[0]
                lines = peer.makefile("rb")
                for line in lines:
                    if line.startswith(b"get "):
                        gets[connection] += 1
                        if connection == 1 or gets[0] <= 8:
                            peer.sendall(b"END\r\n")
                    elif line.startswith(b"set "):
                        lines.read(int(line.split()[4]) + 2)
                        peer.sendall(b"STORED\r\n")
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        out = run(["--server", path, "--depth", 16, "--limit", 64, self.file.name])
        self.assertEqual((int(out["stalled"]), int(out["hits"])), (1, 0))
        self.assertEqual((int(out["gets"]), int(out["sets"])), (64, 64))
        self.assertGreater(gets[0], 8)

    def test_a_server_is_played_to(self):
        extant = os.environ.get("EXTANT", os.path.join(ROOT, "extant"))
        with Server(extant, ["-m", "8", "-t", "1"]) as server:
            out = run(["--server", server.path, self.file.name])
            keys = len(set(TRACE))
            self.assertEqual(int(out["gets"]), len(TRACE))
            self.assertEqual(int(out["hits"]), len(TRACE) - keys)
            self.assertEqual((int(out["wrong"]), int(out["refused"])), (0, 0))
            self.assertEqual(int(server.stats()["curr_items"]), keys)
            out = run(["--server", server.path, "--deletes", "0.1", "--overwrites", "0.1",
                       self.file.name])
            stats = server.stats()
            self.assertEqual(int(stats["delete_hits"]) + int(stats["delete_misses"]),
                             int(out["deletes"]))
            self.assertGreater(int(out["deletes"]), 300)
            server.command(b"set %016x 0 0 5\r\nwrong\r\nget %016x" % (TRACE[0], TRACE[0]))
            self.assertEqual(int(run(["--server", server.path, self.file.name], 1)["wrong"]),
                             TRACE.count(TRACE[0]))

    def test_values_that_come_from_flash_and_fill_the_socket_never_stall(self):
        """Reads that a connection starts once its answers are out are handed over in the same turn."""
        extant = os.environ.get("EXTANT", os.path.join(ROOT, "extant"))
        flags = ["-m", "4", "-t", "1", "-U", "0", "-o",
                 "ext_page_size=2,ext_wbuf_size=2,ext_path=@DIR@/flash:64m"]
        with Server(extant, flags) as server:
            done = subprocess.run([REPLAY, "--server", server.path, "--scale", "170", "zipf:1500:40000"],
                                  stdout=subprocess.PIPE, timeout=1200, check=True)
            out = dict(line.split() for line in done.stdout.decode().splitlines())
            self.assertEqual((int(out["gets"]), int(out["wrong"])), (40000, 0))
            stats = server.stats()
            self.assertGreater(int(stats["get_extstore"]), 5000)

    def test_what_is_no_trace_is_refused(self):
        run(["/nonexistent"], 2)
        run(["nosuch:10:100"], 2)
        run([], 2)


if __name__ == "__main__":
    subprocess.run(["make", "-s", "-C", ROOT, "build/replay"], check=True)
    unittest.main()
