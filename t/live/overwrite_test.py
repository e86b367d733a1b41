#!/usr/bin/env python3
"""The newest value of an overwritten key is never lost: never replaced by an older copy, at any speed, with any
TTL, over stops, kills and starts.

Nothing is read while the keys are being overwritten: a read would resolve the very state under test.
Afterwards every key is asked for. A value is right only if it is the newest; a missing one counts as lost unless
the server itself gave up that many objects (evictions of RAM items, objects of evicted pages).
Usage: overwrite_test.py [SCENARIO...]; SEED repeats the order of keys. Exit 0: all right; 1: not.
"""

import os
import random
import select
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'aid'))
import servers  # noqa: E402
from servers import Client, expect, run_scenarios, wait_for  # noqa: E402

BINARY = os.environ.get('EXTANT', './extant')
BATCH = 200


def value_of(i, stamp, size):
    head = b'%d:%d:' % (i, stamp)
    return head + b'v' * (size - len(head))


def talk(sock, requests, answers):
    """Sends all, as fast as it is taken; how many lines or bytes came back is checked by the caller."""
    out, got, sent = memoryview(requests), [], 0
    have = 0
    while have < answers:
        r, w, _ = select.select([sock], [sock] if sent < len(out) else [], [], 60)
        if not r and not w:
            raise TimeoutError('no answer for a minute')
        if w:
            sent += sock.send(out[sent:sent + 262144])
        if r:
            piece = sock.recv(1 << 20)
            if not piece:
                raise EOFError('the server hung up')
            got.append(piece)
            have += piece.count(b'\r\n')
    return b''.join(got)


def overwrite(sock, keys, stamp, size, exptime=0):
    """Sets all of the keys; how many sets were refused."""
    refused = 0
    for at in range(0, len(keys), BATCH):
        part = keys[at:at + BATCH]
        request = b''.join(b'set key-%d 0 %d %d\r\n%s\r\n' % (i, exptime, size, value_of(i, stamp, size)) for i in part)
        refused += len(part) - talk(sock, request, len(part)).count(b'STORED\r\n')
    return refused


def count(sock, keys, stamp, size):
    """(newest, missing, other) of the keys."""
    newest = missing = 0
    for at in range(0, len(keys), BATCH):
        part = keys[at:at + BATCH]
        got = b''
        sock.sendall(b''.join(b'get key-%d\r\n' % i for i in part))
        while got.count(b'END\r\n') < len(part):
            piece = sock.recv(1 << 20)
            if not piece:
                raise EOFError('the server hung up')
            got += piece
        at_byte = 0
        for i in part:
            right = b'VALUE key-%d 0 %d\r\n%s\r\nEND\r\n' % (i, size, value_of(i, stamp, size))
            if got.startswith(right, at_byte):
                newest += 1
                at_byte += len(right)
            else:
                missing += got.startswith(b'END\r\n', at_byte)
                at_byte = got.index(b'END\r\n', at_byte) + 5
    return newest, missing, len(keys) - newest - missing


def given_up(client):
    """Objects that the server says it gave up for lack of room, and those it dropped without knowing whose."""
    stats, ours = client.stats(), client.stats(b'extant')
    return int(stats['evictions']) + int(stats['extstore_objects_evicted']), int(ours['evictions_same_tag'])


def all_newest(what, server, keys, stamp, size, refused, may_evict=0):
    client = Client(server)
    newest, missing, other = count(client.sock, keys, stamp, size)
    evicted, same_tag = given_up(client)
    detail = '%d newest, %d missing, %d older, %d evicted, %d refused' % (newest, missing, other, evicted, refused)
    expect('%s: nothing older is served' % what, other == 0, detail)
    expect('%s: what is missing was evicted' % what, missing <= evicted + refused, detail)
    expect('%s: at most %d are' % (what, may_evict), missing <= may_evict, detail)
    expect('%s: nothing went for its tag' % what, same_tag == 0, same_tag)
    client.close()


def again(server, how):
    server.process.send_signal(how)
    server.process.wait(servers.PATIENCE_SECONDS)
    if os.path.exists(server.path):
        os.unlink(server.path)
    server.start()


def full_speed(name, count_of_keys, size, rounds, shuffled):
    """Keys that take 70% of flash, set again and again."""
    with servers.Server(BINARY, ['-m', '64', '-o', 'ext_path=@DIR@/flash:256m,ext_page_size=8'], 'overwrite') as server:
        sock, keys, refused = server.connect(), list(range(count_of_keys)), 0
        for stamp in range(rounds):
            if shuffled:
                rng.shuffle(keys)
            refused = overwrite(sock, keys, stamp, size)
        all_newest(name, server, keys, rounds - 1, size, refused)


def at_full_speed():
    full_speed('1,000 bytes, one after the other', 164705, 1000, 3, False)
    full_speed('1,000 bytes, at random', 164705, 1000, 3, True)
    full_speed('4,000 bytes, at random', 41000, 4000, 4, True)


def many_times_over():
    """Keys that take 30% of flash, a random half of them again and again, until six flash sizes are written. What was
    overwritten leaves room for all that is new, though nobody reads it."""
    keys, size, newest = range(18000), 1000, {}
    flash = 'ext_path=@DIR@/flash:64m,ext_page_size=2,ext_wbuf_size=1'
    with servers.Server(BINARY, ['-m', '8', '-o', flash], 'many') as server:
        client = Client(server)
        for stamp in range(40):
            part = rng.sample(keys, len(keys) if stamp == 0 else len(keys) // 2)
            expect('no set is refused', overwrite(client.sock, part, stamp, size) == 0)
            newest.update((i, stamp) for i in part)
        missing = [len(mine) - count(client.sock, mine, stamp, size)[0] for stamp in range(40)
                   for mine in [[i for i in keys if newest[i] == stamp]]]
        expect('every newest value is there', sum(missing) == 0, (missing, given_up(client)))


def expires_under(name, flags, how):
    """Values with a TTL of 3 s go to flash; values without one overwrite them; then a stop, a start, and the
    pages of the first are freed since all in them has expired."""
    keys, size = list(range(20000)), 600
    with servers.Server(BINARY, [f.replace('@NAME@', name) for f in flags], 'expires') as server:
        client = Client(server)
        rng.shuffle(keys)
        overwrite(client.sock, keys, 0, size, 3)
        overwrite(client.sock, list(range(100000, 130000)), 0, size)  # pushes them to flash
        refused = overwrite(client.sock, keys, 1, size)
        overwrite(client.sock, list(range(200000, 230000)), 0, size)
        dead = time.monotonic() + 6
        if how:
            client.close()
            again(server, how)
            client = Client(server)
        wait_for(lambda: time.monotonic() > dead and int(client.stats(b'extant').get('objects_expired', 0)) > 0, 12)
        all_newest('TTL under, %s' % name, server, keys, 1, size, refused)


def with_ttl():
    flash = 'ext_path=@DIR@/flash:128m,ext_page_size=4,ext_wbuf_size=2'
    memory = os.path.join('/dev/shm', 'overwrite-%d' % os.getpid())
    expires_under('no stop', ['-m', '8', '-o', flash], None)
    expires_under('clean stop, ext_persist', ['-m', '8', '-o', flash + ',ext_persist'], signal.SIGTERM)
    for how in (signal.SIGKILL, signal.SIGTERM):
        try:
            expires_under('-e, signal %d' % how, ['-m', '8', '-e', memory, '-o', flash], how)
        finally:
            if os.path.exists(memory):
                os.unlink(memory)


def kills_in_between():
    """Every life overwrites all at full speed and is killed in the middle of it; what was answered counts."""
    memory = os.path.join('/dev/shm', 'overwrite-%d' % os.getpid())
    keys, size = list(range(30000)), 800
    try:
        with servers.Server(BINARY, ['-m', '8', '-e', memory, '-o', 'ext_path=@DIR@/flash:64m,ext_page_size=4,ext_wbuf_size=2'],
                            'kills') as server:
            newest = {}
            for stamp in range(6):
                sock = server.connect()
                rng.shuffle(keys)
                upto = rng.randrange(len(keys) // BATCH) * BATCH if stamp < 5 else len(keys)
                overwrite(sock, keys[:upto], stamp, size)
                newest.update((i, stamp) for i in keys[:upto])
                sock.close()
                again(server, signal.SIGKILL)
            client, wrong = Client(server), []
            for stamp in range(6):
                mine = [i for i in keys if newest.get(i) == stamp]
                found, missing, other = count(client.sock, mine, stamp, size)
                wrong += [(stamp, missing, other)] if missing or other else []
            expect('killed in mid-overwrite: every acknowledged value is there', not wrong, (wrong, given_up(client)))
    finally:
        if os.path.exists(memory):
            os.unlink(memory)


if __name__ == '__main__':
    rng = random.Random(servers.seed())
    sys.exit(run_scenarios([at_full_speed, many_times_over, with_ttl, kills_in_between]))
