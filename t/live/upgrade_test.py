#!/usr/bin/env python3
"""An upgrade, and a device added, with clients that go on meanwhile: OPERATIONS.md's recipes.

The listening socket belongs to the service manager (here: to this test), as with extant.socket. So while one process
stops and the next one starts, connections wait and none is refused. A client whose connection ends asks once more, on
a new one, as client libraries do. Each client checks every answer: what was stored is there, in the version that it
stored last. At the end all keys are read once more.

Counted, and all must be 0: failed requests (not answered on a second connection either), refused connections, lost
objects, wrong values. $EXTANT_OLD: the build to upgrade from; otherwise it is the same build. Exit 0: all right; 1: not.
"""

import os
import random
import socket
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'aid'))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import servers  # noqa: E402
import service_test  # noqa: E402
from servers import expect  # noqa: E402

NEW = service_test.BINARY
OLD = os.environ.get('EXTANT_OLD', NEW)
CLIENTS, KEYS = 4, 300


class Failed(Exception):
    pass


class Client(threading.Thread):
    def __init__(self, number, address):
        super().__init__()
        self.random = random.Random('%d/%d' % (SEED, number))
        self.number, self.address = number, address
        self.versions = {}
        self.counts = dict.fromkeys(('requests', 'repeated', 'failed', 'refused', 'lost', 'wrong'), 0)
        self.ends = threading.Event()
        self.file = None

    def connect(self):
        try:
            sock = socket.create_connection(self.address, timeout=servers.PATIENCE_SECONDS)
        except ConnectionRefusedError:
            self.counts['refused'] += 1
            raise
        self.file = sock.makefile('rwb')
        sock.close()  # the file keeps it

    def once(self, request):
        if self.file is None:
            self.connect()
        self.file.write(request)
        self.file.flush()
        line = self.file.readline()
        if not line.endswith(b'\r\n'):
            raise ConnectionError('ended')
        if not line.startswith(b'VALUE '):
            return line[:-2], None
        value = self.file.read(int(line.split()[3]) + 2)
        if self.file.readline() != b'END\r\n':
            raise ConnectionError('ended')
        return line[:-2], value[:-2]

    def ask(self, request):
        self.counts['requests'] += 1
        for attempt in range(2):
            try:
                return self.once(request)
            except OSError:
                self.file = None
                self.counts['repeated' if attempt == 0 else 'failed'] += 1
        raise Failed

    def value_of(self, key):
        text = b'%s/%d;' % (key, self.versions[key])
        return text * (1 + self.versions[key] * 97 % 400)

    def read(self, key):
        line, value = self.ask(b'get %s\r\n' % key)
        if line == b'END':
            self.counts['lost'] += 1
        elif value != self.value_of(key):
            self.counts['wrong'] += 1

    def step(self):
        key = b'client%d-%d' % (self.number, self.random.randrange(KEYS))
        if key in self.versions and self.random.random() < 0.5:
            self.read(key)
            return
        self.versions[key] = self.versions.get(key, self.random.randrange(1000)) + 1
        value = self.value_of(key)
        line, _ = self.ask(b'set %s 0 0 %d\r\n%s\r\n' % (key, len(value), value))
        self.counts['wrong'] += line != b'STORED'

    def run(self):
        try:
            while not self.ends.is_set():
                self.step()
        except Failed:
            pass

    def finish(self):
        self.ends.set()
        self.join()
        if self.counts['failed'] == 0:
            for key in self.versions:
                self.read(key)


def busy(clients, requests):
    """Until each client has made this many more requests, or failed."""
    goals = [c.counts['requests'] + requests for c in clients]
    expect('clients go on', servers.wait_for(
        lambda: all(c.counts['requests'] >= g or not c.is_alive() for c, g in zip(clients, goals))))


def across(name, flags_of_lives):
    """One process after the other with clients that run from the first to the last."""
    with tempfile.TemporaryDirectory(prefix='extant-upgrade-') as where, service_test.listener() as tcp:
        pause = 0.0
        clients = [Client(i, tcp.getsockname()) for i in range(CLIENTS)]
        for life, flags in enumerate(flags_of_lives):
            service_test.BINARY = OLD if life == 0 else NEW
            process = service_test.start([f.replace('@DIR@', where) for f in flags], (tcp.fileno(),))
            for client in clients:
                if life == 0:
                    client.start()
            busy(clients, 400)
            if life + 1 < len(flags_of_lives):
                begin = time.monotonic()
                code, log = service_test.end(process)
                pause = max(pause, time.monotonic() - begin)
                expect('%s: it stops' % name, code == 0, log)
        for client in clients:
            client.finish()
        sums = {what: sum(c.counts[what] for c in clients) for what in clients[0].counts}
        for what in ('failed', 'refused', 'lost', 'wrong'):
            expect('%s: %s' % (name, what), sums[what] == 0, sums)
        expect('%s: the last process took over' % name, service_test.end(process)[0] == 0)
        print('%s: %d starts, %s; longest stop %d ms' % (
            name, len(flags_of_lives), ', '.join('%d %s' % (v, k) for k, v in sums.items()), pause * 1000), flush=True)


SIZES = ',ext_page_size=2,ext_wbuf_size=1,ext_item_size=400'
ONE = 'ext_path=@DIR@/one:64m' + SIZES
TWO = 'ext_path=@DIR@/one:64m,ext_path=@DIR@/two:64m' + SIZES
LARGER = 'ext_path=@DIR@/one:96m' + SIZES
MEMORY = ['-m', '8', '-e', '@DIR@/memory', '-o']


def an_upgrade_with_a_memory_file():
    across('upgrade, -e', [MEMORY + [ONE]] * 4)


def an_upgrade_with_a_checkpoint():
    across('upgrade, ext_persist', [['-m', '8', '-o', ONE + ',ext_persist']] * 4)


def a_device_is_added():
    across('one more device, -e', [MEMORY + [ONE], MEMORY + [TWO], MEMORY + [TWO]])
    across('one more device, ext_persist', [['-m', '8', '-o', o + ',ext_persist'] for o in (ONE, TWO, TWO)])


def a_device_grows():
    across('a larger device, -e', [MEMORY + [ONE], MEMORY + [LARGER], MEMORY + [LARGER]])
    across('a larger device, ext_persist', [['-m', '8', '-o', o + ',ext_persist'] for o in (ONE, LARGER, LARGER)])


if __name__ == '__main__':
    SEED = servers.seed()
    sys.exit(servers.run_scenarios((an_upgrade_with_a_memory_file, an_upgrade_with_a_checkpoint, a_device_is_added,
                                    a_device_grows)))
