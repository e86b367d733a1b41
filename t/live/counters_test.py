#!/usr/bin/env python3
"""Every counter of `stats`, `stats items`, `stats slabs` and `stats conns` moves when memcached's would: each row
has an action and how much it moves which counters, exactly or at least.
Counters of flash that take more to move are in debug_test.py and the tests of the modules.

EXTANT_DEBUG_BIN names the binary (the clock is moved by debugtime). Exit 0: all right; 1: not.
"""

import os
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'aid'))
import servers  # noqa: E402
from servers import expect, wait_for  # noqa: E402

BINARY = os.environ.get('EXTANT_DEBUG_BIN', './extant-debug')


class AtLeast(int):
    """Figures that the row doesn't name may grow."""


class Client(servers.Client):
    ask = servers.Client.lines


def moved(what, before, after, wanted):
    for name, by in wanted.items():
        delta = int(after.get(name, 0)) - int(before.get(name, 0))
        ok = delta >= by if isinstance(by, AtLeast) else delta == by
        expect('%s: %s' % (what, name), ok, 'moved by %d, not %d' % (delta, by))


def names(text, by=1):
    return {name: by for name in text.split()}


def server_with(*flags):
    return servers.Server(BINARY, list(flags), 'counters')


# Each action, and which lines of `stats` it moves by how much.
COMMANDS = (
    ('a store', [b'set a 0 0 1\r\nx'], names('cmd_set total_items curr_items')),
    ('a hit', [b'get a'], names('cmd_get get_hits')),
    ('a hit and a miss', [b'get a none'], {'cmd_get': 2, 'get_hits': 1, 'get_misses': 1}),
    ('meta gets', [b'mg a v', b'mg none v'], {'cmd_get': 2, 'get_hits': 1, 'get_misses': 1}),
    ('touches', [b'touch a 0', b'touch none 0'], {'cmd_touch': 2, 'touch_hits': 1, 'touch_misses': 1}),
    ('get and touch', [b'gat 0 a', b'gat 0 none'],
     {'cmd_touch': 2, 'touch_hits': 1, 'touch_misses': 1, 'get_hits': 0}),
    ('a number', [b'set n 0 0 1\r\n5', b'incr n 1', b'decr n 1', b'incr none 1', b'decr none 1'],
     {'incr_hits': 1, 'incr_misses': 1, 'decr_hits': 1, 'decr_misses': 1, 'cmd_set': 1}),
    ('cas', [b'cas none 0 0 1 7\r\nx', b'ms c 1 E100\r\nx', b'cas c 0 0 1 7\r\ny', b'cas c 0 0 1 100\r\nz'],
     {'cas_misses': 1, 'cas_badval': 1, 'cas_hits': 1, 'cmd_set': 4}),
    ('deletes', [b'delete c', b'delete c', b'md n', b'md n'],
     {'delete_hits': 2, 'delete_misses': 2, 'curr_items': -2}),
    ('what has expired', [b'set e 0 -1 1\r\nx', b'get e'],
     {'get_expired': 1, 'get_misses': 1, 'cmd_get': 1, 'curr_items': 0}),
    # All that is stored goes here, so that nothing expired is left for the maintenance thread to take later.
    ('what was flushed', [b'set f 0 0 1\r\nx', b'delete a', b'flush_all', b'get f'],
     {'get_flushed': 1, 'get_misses': 1, 'cmd_flush': 1}),
    ('a value too large', [b'set big 0 0 2000000\r\n' + b'x' * 2000000],
     {'store_too_large': 1, 'cmd_set': 0, 'bytes_read': AtLeast(2000000)}),
    ('answers', [b'set v 0 0 5000\r\n' + b'x' * 5000] + [b'get v'] * 10,
     {'bytes_written': AtLeast(50000), 'bytes': AtLeast(5000)}),
    ('more than -R requests at once', [b'get none'] * 100, {'conn_yields': AtLeast(1)}),
)


def commands():
    with server_with('-t', '1') as server:
        c = Client(server)
        for what, requests, wanted in COMMANDS:
            before = c.stats()
            c.ask(*requests)
            moved(what, before, c.stats(), wanted)
        # By class: the same, in `stats slabs` and `stats items`.
        c.ask(b'delete a')
        before, items = c.stats(b'slabs'), c.stats(b'items')
        c.ask(b'set a 0 0 1\r\n1', b'get a', b'incr a 1', b'decr a 1', b'touch a 0', b'ms a 1 E9\r\n1',
              b'cas a 0 0 1 8\r\n1', b'cas a 0 0 1 9\r\n1', b'set b 0 0 1\r\n1', b'delete b')
        moved('a class', before, c.stats(b'slabs'),
              {'1:get_hits': 1, '1:cmd_set': 5, '1:incr_hits': 1, '1:decr_hits': 1, '1:touch_hits': 1,
               '1:cas_badval': 1, '1:cas_hits': 1, '1:delete_hits': 1, '1:used_chunks': 1,
               '1:free_chunks': AtLeast(-1)})
        moved('items of a class', items, c.stats(b'items'), {'items:1:number': 1, 'items:1:mem_requested': AtLeast(50)})
        shape = c.stats(b'slabs')
        expect('a class\'s shape', (shape['1:chunk_size'], shape['1:chunks_per_page'], shape['1:free_chunks_end'],
                                    int(shape['1:total_chunks'])) == ('96', '10922', '0', 10922 * int(shape['1:total_pages'])), shape)
        expect('pages', int(shape['active_slabs']) >= 1 and int(shape['total_malloced']) % (1 << 20) == 0, shape)
        begin = int(time.time())
        s = c.stats()
        expect('what the process is', s['pid'] == str(server.process.pid) and s['threads'] == '1' and
               s['pointer_size'] == '64' and s['version'] == '1.6.45' and s['libevent'] and
               begin - 1 <= int(s['time']) <= time.time() + 1 and s['max_connections'] == '1024' and
               s['limit_maxbytes'] == str(64 << 20) and s['hash_is_expanding'] == '0', s)
        expect('its use of the processor', all('.' in s[n] and len(s[n].split('.')[1]) == 6
                                               for n in ('rusage_user', 'rusage_system')), s)
        c.ask(b'debugtime 100')
        moved('time', s, c.stats(), {'uptime': AtLeast(100), 'time': AtLeast(100)})
        c.ask(b'stats reset')
        after = c.stats()
        zero = ('cmd_get cmd_set get_hits get_misses get_expired get_flushed delete_hits delete_misses incr_hits '
                'decr_hits cas_hits cas_misses cas_badval touch_hits touch_misses store_too_large conn_yields '
                'total_items evictions cmd_meta').split()
        expect('stats reset', all(int(after[n]) <= (1 if n == 'cmd_meta' else 0) for n in zero),
               {n: after[n] for n in zero})


def connections():
    with server_with('-t', '1', '-c', '6') as server:
        c = Client(server)
        before, others = c.stats(), [server.connect() for _ in range(2)]
        expect('two more', wait_for(lambda: int(c.stats()['curr_connections']) == int(before['curr_connections']) + 2))
        moved('connections', before, c.stats(), {'total_connections': 2, 'connection_structures': AtLeast(0)})
        others += [server.connect() for _ in range(10)]
        expect('too many', wait_for(lambda: int(c.stats()['rejected_connections']) >= 1), c.stats())
        expect('descriptors set aside', int(c.stats()['reserved_fds']) > 0)
        conns = c.stats(b'conns')
        for field in ('addr', 'state', 'secs_since_last_cmd', 'listen_addr'):
            expect('stats conns: ' + field, any(k.endswith(':' + field) for k in conns), conns)
        expect('this one is executing', 'conn_parse_cmd' in conns.values() and 'conn_listening' in conns.values(), conns)
        for o in others:
            o.close()
        expect('all others have gone', wait_for(lambda: c.stats()['curr_connections'] == before['curr_connections']), c.stats())
        half = server.connect()
        half.sendall(b'set half 0 0 10\r\n123')
        expect('a pending response', wait_for(lambda: c.stats()['response_obj_count'] == '1') and
               int(c.stats()['response_obj_bytes']) > 0, c.stats())
        half.sendall(b'4567890\r\n')
        expect('and made', wait_for(lambda: c.stats()['response_obj_count'] == '0'), c.stats())
        half.close()
    with server_with('-t', '4') as server:
        c, others = Client(server), [server.connect() for _ in range(9)]
        expect('all are accepted', wait_for(lambda: int(c.stats()['curr_connections']) == 10), c.stats())

        def descriptors():
            return [int(k.split(':')[0]) for k in c.stats(b'conns') if k.endswith(':addr')]
        expect('connections of all threads are listed', wait_for(lambda: len(descriptors()) >= 11), descriptors())
        expect('by descriptor', descriptors() == sorted(descriptors()), descriptors())
        for o in others:
            o.close()
    with server_with('-t', '1', '-c', '5', '-o', 'no_maxconns_fast') as server:
        c = Client(server)
        others = [server.connect() for _ in range(8)]
        expect('listening stops', wait_for(lambda: int(c.stats()['listen_disabled_num']) >= 1 and
                                           c.stats()['accepting_conns'] == '0'), c.stats())
        for o in others:
            o.close()
        expect('and goes on', wait_for(lambda: c.stats()['accepting_conns'] == '1'))
        expect('the time is counted', int(c.stats()['time_in_listen_disabled_us']) > 0)
    with server_with('-t', '1', '-o', 'idle_timeout=100') as server:
        c, idle = Client(server), Client(server)
        idle.ask(b'version')
        for _ in range(3):
            c.ask(b'debugtime 60')
        expect('an idle one is closed', wait_for(lambda: int(c.stats()['idle_kicks']) == 1), c.stats())


def authentication():
    with tempfile.NamedTemporaryFile('w', prefix='extant-users-') as users:
        users.write('user:pass\n')
        users.flush()
        with server_with('-t', '1', '-Y', users.name) as server:
            c = Client(server)
            c.sock.sendall(b'set x 0 0 9\r\nuser wron\r\n')
            expect('a wrong one', c.file.readline().startswith(b'CLIENT_ERROR'))
            c.sock.sendall(b'set x 0 0 9\r\nuser pass\r\n')
            expect('the right one', c.file.readline() == b'STORED\r\n')
            s = c.stats()
            expect('both are counted', (s['auth_cmds'], s['auth_errors']) == ('2', '1'), s)


def memory():
    with server_with('-t', '1', '-m', '8', '-o', 'slab_automove=0,no_lru_crawler') as server:
        c = Client(server)
        before = c.stats()
        c.ask(*[b'set k%d 0 0 9000\r\n%s' % (i, b'x' * 9000) for i in range(1500)])
        for i in range(1400, 1500):
            c.ask(b'get k%d' % i, b'get k%d' % i, b'get k%d' % i)
        c.ask(*[b'set l%d 0 0 9000\r\n%s' % (i, b'x' * 9000) for i in range(1500)])
        wait_for(lambda: int(c.stats()['moves_to_warm']) > 0 and
                 int(c.stats()['lru_maintainer_juggles']) > int(before['lru_maintainer_juggles']))
        moved('a full class', before, c.stats(),
              dict(names('evictions evicted_unfetched moves_to_cold', AtLeast(100)),
                   moves_to_warm=AtLeast(1), lru_maintainer_juggles=AtLeast(1)))
        wait_for(lambda: any(v != '0' for k, v in c.stats(b'items').items() if k.endswith('number_cold')))
        items = c.stats(b'items')
        cls = [k.split(':')[1] for k in items if k.endswith(':evicted') and items[k] != '0'][0]
        for name in ('evicted', 'evicted_unfetched', 'moves_to_cold', 'moves_to_warm', 'number_hot', 'number_cold'):
            expect('items: ' + name, int(items['items:%s:%s' % (cls, name)]) > 0, items)
        expect('hits by segment', sum(int(items['items:%s:hits_to_%s' % (cls, s)])
                                      for s in ('hot', 'warm', 'cold', 'temp')) >= 300, items)
        before = c.stats()

        def store_through(i):  # the hundred in WARM are wanted, and the class is stored through
            c.ask(*[b'get k%d' % (1400 + k) for k in range(100) for _ in range(3)])
            c.ask(*[b'set m%d-%d 0 0 9000\r\n%s' % (i, k, b'x' * 9000) for k in range(1000)])

        def is_gone_round():  # the thread that does it may have been late, and some of them evicted
            c.ask(*[b'add k%d 0 0 9000\r\n%s' % (i, b'x' * 9000) for i in range(1400, 1500)])
            store_through(8)
            return int(c.stats()['moves_within_lru']) > int(before['moves_within_lru'])

        for i in range(8):
            store_through(i)
        c.ask(b'lru tune 5 1 0.01 0.01')
        expect('WARM is gone round', wait_for(is_gone_round), c.stats(b'items'))
        c.ask(b'lru tune 20 40 0.2 2.0')
        c.ask(*[b'set l%d 0 0 9000\r\n%s' % (i, b'x' * 9000) for i in range(1500)])
        wait_for(lambda: any(v != '0' for k, v in c.stats(b'items').items() if k.endswith('number_cold')))
        c.ask(b'debugtime 50')
        items = c.stats(b'items')
        expect('ages', all(int(items['items:%s:%s' % (cls, n)]) >= 40 for n in ('age', 'age_hot')), items)
        before = c.stats()
        c.ask(*[b'set t%d 0 10 9000\r\n%s' % (i, b'x' * 9000) for i in range(1500)])
        expect('nonzero', int(c.stats(b'items')['items:%s:evicted_nonzero' % cls]) > 0)
        c.ask(b'debugtime 20')
        c.ask(*[b'set u%d 0 0 9000\r\n%s' % (i, b'x' * 9000) for i in range(1500)])
        moved('dead tails', before, c.stats(), names('reclaimed expired_unfetched', AtLeast(1)))
        items = c.stats(b'items')
        for name in ('reclaimed', 'expired_unfetched'):
            expect('items: ' + name, int(items['items:%s:%s' % (cls, name)]) > 0, items)
        before = c.stats()
        c.ask(b'slabs reassign %s 0' % cls.encode())
        expect('a page moves', wait_for(lambda: int(c.stats()['slabs_moved']) == int(before['slabs_moved']) + 1))
        moved('for that', before, c.stats(), {'slab_global_page_pool': 1, 'slab_reassign_busy_nomem': AtLeast(1)})
        before = c.stats()
        c.ask(*[b'delete u%d' % i for i in range(1200, 1500)])
        c.ask(b'slabs reassign %s 0' % cls.encode())
        wait_for(lambda: int(c.stats()['slabs_moved']) > int(before['slabs_moved']))
        moved('with room', before, c.stats(), {'slab_reassign_rescues': AtLeast(1)})
    with server_with('-t', '1', '-m', '8', '-M') as server:
        c = Client(server)
        before = c.stats()
        c.ask(*[b'set k%d 0 0 9000\r\n%s' % (i, b'x' * 9000) for i in range(1500)])
        moved('-M', before, c.stats(), {'store_no_memory': AtLeast(1), 'evictions': 0})
        items = c.stats(b'items')
        expect('items: outofmemory', any(v != '0' for k, v in items.items() if k.endswith(':outofmemory')), items)
    with server_with('-t', '1', '-m', '64') as server:
        c = Client(server)
        before = c.stats()
        c.ask(*[b'set k%d 0 0 1\r\nx' % i for i in range(150000)])
        expect('the index grows', wait_for(lambda: int(c.stats()['hash_power_level']) > int(before['hash_power_level'])))
        moved('it', before, c.stats(), {'hash_bytes': AtLeast(1)})


def crawling():
    with server_with('-t', '1', '-o', 'no_lru_maintainer') as server:
        c = Client(server)
        c.ask(b'set stays 0 0 1\r\nx', *[b'set k%d 0 10 1\r\nx' % i for i in range(1000)])
        c.ask(b'debugtime 20')
        before = c.stats()
        c.ask(b'lru_crawler crawl all')
        expect('it ends', wait_for(lambda: int(c.stats()['crawler_reclaimed']) >= 1000 and
                                   c.stats()['lru_crawler_running'] == '0'), c.stats())
        items = c.stats(b'items')
        expect('by class', all(int(items['items:1:' + n]) >= 1000 for n in ('crawler_reclaimed', 'crawler_items_checked')), items)
        moved('a crawl', before, c.stats(), {'crawler_reclaimed': 1000, 'crawler_items_checked': AtLeast(1000),
                                             'lru_crawler_starts': AtLeast(1), 'curr_items': -1000})


def a_dump_ends_the_crawl_of_the_server():
    """Each minute the server looks for what has expired. That is never what a client's request is refused for."""
    with server_with('-t', '1', '-m', '64') as server:
        c, count = Client(server), 150000
        c.ask(*[b'set k%d 0 0 1\r\nx' % i for i in range(count)])
        c.ask(b'lru_crawler sleep 1000000')  # it pauses after each 1,024 buckets
        for what, request, end in (('metadump', b'lru_crawler metadump all', b'END'), ('mgdump', b'lru_crawler mgdump all', b'EN'),
                                   ('a crawl', b'lru_crawler crawl all', b'OK')):
            c.ask(b'debugtime 61')
            expect('it crawls', wait_for(lambda: c.stats()['lru_crawler_running'] == '1'), c.stats())
            c.send(request + b'\r\n')
            lines = [c.line()]
            while lines[-1] != end and lines[0] == b'OK':
                lines.append(c.line())
            expect(what, len(lines) == (1 if end == b'OK' else count + 2), lines[:2])
            if end != b'OK':
                expect('the crawl has ended', wait_for(lambda: c.stats()['lru_crawler_running'] == '0'), c.stats())


def dumps_while_the_index_grows():
    """Right after many sets the index still grows; a dump names each key once all the same."""
    with server_with('-t', '1', '-m', '512') as server:
        c, stored = Client(server), 0
        for step in range(20):
            upto = stored + 9000 + 1500 * step
            c.send(b''.join(b'set key%d 0 0 1 noreply\r\nz\r\n' % n for n in range(stored, upto)))
            c.ask(b'version')
            stored = upto
            first = servers.Client.ask(c, b'lru_crawler metadump hash')
            if first != b'OK':
                expect('a dump begins', False, first)
                break
            keys = [line.split()[0] for line in iter(c.line, b'END') if line.startswith(b'key=')]
            expect('each key once', len(keys) == len(set(keys)) == stored, (stored, len(keys), len(set(keys))))
            wait_for(lambda: c.stats()['lru_crawler_running'] == '0')


def logs():
    with server_with('-t', '1') as server:
        c, w = Client(server), Client(server)
        before = c.stats()
        w.sock.sendall(b'watch fetchers\r\n')
        w.file.readline()
        c.ask(b'get a', b'get b')
        w.file.readline(), w.file.readline()
        moved('a watcher', before, c.stats(), {'log_watchers': 1, 'log_worker_written': 2, 'log_watcher_sent': 2,
                                               'log_worker_dropped': 0, 'log_watcher_skipped': 0})


def held_items():
    with server_with('-t', '1', '-m', '8') as server:
        c = Client(server)
        c.ask(b'set k0 0 0 9000\r\n%s' % (b'x' * 9000), b'debugitem ref k0')
        c.ask(*[b'set l%d 0 0 9000\r\n%s' % (i, b'x' * 9000) for i in range(1500)])
        expect('a held tail is passed over', int(c.stats()['lrutail_reflocked']) > 0)
        items = c.stats(b'items')
        expect('items: lrutail_reflocked', any(v != '0' for k, v in items.items() if k.endswith('lrutail_reflocked')))


def flash():
    flags = 'ext_path=@DIR@/flash:64m,ext_page_size=8,ext_wbuf_size=2,ext_item_age=0,ext_item_size=512,' \
        'ext_recache_rate=0,ext_max_frag=0.9,ext_admission=all'  # full flash turns nothing away
    with server_with('-t', '1', '-m', '64', '-o', flags) as server:
        c = Client(server)

        def flushed():
            return wait_for(lambda: all(v == '0' or int(k.split(':')[1]) < 3 for k, v in c.stats(b'items').items()
                                        if k.endswith(':number')))

        before = c.stats()
        expect('the size', before['extstore_limit_maxbytes'] == str(64 << 20) and before['extstore_pages_free'] == '8' and
               before['extstore_io_queue'] == '0', before)
        c.ask(*[b'set k%d 0 0 10000\r\n%s' % (i, b'x' * 10000) for i in range(1000)])
        flushed()
        after = c.stats()
        moved('writing', before, after,
              {'extstore_objects_written': 1000, 'extstore_objects_used': 1000, 'extstore_bytes_written': AtLeast(10000000),
               'extstore_bytes_used': AtLeast(10000000), 'extstore_page_allocs': 2, 'extstore_pages_used': 2,
               'extstore_pages_free': -2, 'curr_items': 1000})
        expect('memory for the index', 0 < float(after['extstore_memory_pressure']) < 1)
        c.ask(b'get k1 k2')
        moved('reading', after, c.stats(), {'get_extstore': 2, 'extstore_objects_read': 2, 'get_hits': 2,
                                            'extstore_bytes_read': AtLeast(20000)})
        before = c.stats()
        c.ask(*[b'delete k%d' % i for i in range(500)])
        moved('deleting', before, c.stats(), {'extstore_objects_used': -500, 'extstore_bytes_fragmented': AtLeast(4000000)})
        before = c.stats()
        c.ask(b'extstore recache_rate 1')
        for _ in range(3):
            c.ask(b'get k900')
        moved('a recache', before, c.stats(), {'recache_from_extstore': 1, 'curr_items': 0})
        c.ask(b'extstore recache_rate 0', b'extstore compact_under 7')
        before = c.stats()
        expect('compaction', wait_for(lambda: int(c.stats()['extstore_compact_rescues']) > 0 and
                                      int(c.stats()['extstore_page_reclaims']) > int(before['extstore_page_reclaims'])))
        moved('it', before, c.stats(), {'extstore_compact_lost': 0, 'extstore_compact_skipped': 0})
        c.ask(b'extstore max_frag 0')
        c.ask(*[b'set l%d 0 0 10000\r\n%s' % (i, b'x' * 10000) for i in range(14000)])  # more than memory and flash hold
        after = c.stats()
        moved('eviction', before, after, names('extstore_page_evictions extstore_objects_evicted extstore_bytes_evicted',
                                               AtLeast(1)))
        expect('no item went from memory', after['evictions'] == '0', c.stats(b'extant'))
        c.ask(b'get l0'), c.ask(b'get l0')
        moved('what went', after, c.stats(), {'miss_from_extstore': 1, 'get_misses': 2})
        before = c.stats()
        expect('stats reset', c.ask(b'stats reset')[0] == b'RESET')
        after = c.stats()
        compaction = ['extstore_compact_' + name for name in ('lost', 'rescues', 'resc_cold', 'resc_old', 'skipped')]
        expect('it sets back what memcached does', int(before['extstore_compact_rescues']) > 0 and
               all(after[name] == '0' for name in compaction), [after[name] for name in compaction])
        expect('and nothing else of flash', after['extstore_objects_written'] == before['extstore_objects_written'])
        with open(os.path.join(server.dir, 'flash'), 'r+b') as device:
            for page in range(8):
                device.seek(page << 23)
                device.write(b'\xa5' * (8 << 20))
        for i in range(0, 14000, 50):
            c.ask(b'mg l%d v' % i)
        expect('wrong bytes are a miss', int(c.stats()['badcrc_from_extstore']) > 0)


def own():
    """`stats extant`: what no memcached has."""
    with server_with('-t', '1', '-m', '8') as server:
        c = Client(server)
        c.ask(*[b'set k%d 0 0 9000\r\n%s' % (i, b'x' * 9000) for i in range(1500)])
        s = c.stats(b'extant')
        expect('evictions by reason', int(s['evictions_no_flash']) == int(c.stats()['evictions']) > 0 and
               all(s['evictions_' + n] == '0' for n in ('write_wait', 'flash_full', 'device', 'index_full', 'same_tag')), s)
        expect('no flash, no figures of it', s['io_engine'] == 'none' and 'ext_pages_bad' not in s)
        cls = [k.split(':')[1] for k in c.stats(b'items')][0].encode()
        c.ask(b'slabs reassign %s 0' % cls)
        expect('a page moves', wait_for(lambda: int(c.stats(b'extant')['slabs_moved']) == 1))
        expect('items went for it', int(c.stats(b'extant')['slab_reassign_evictions']) > 0)
        c.ask(*[b'delete k%d' % i for i in range(1500) if i % 4])
    flags = 'ext_path=@DIR@/flash:64m,ext_page_size=8,ext_wbuf_size=2,ext_item_age=0,ext_item_size=0,ext_recache_rate=0,ext_persist'
    with server_with('-t', '1', '-m', '64', '-o', flags) as server:
        c = Client(server)

        def all_flushed(n):
            return wait_for(lambda: int(c.stats(b'extant')['flash_objects']) == n)

        c.ask(*[b'set k%d 0 0 2\r\n10' % i for i in range(1000)])
        expect('all go to flash', all_flushed(1000))
        s = c.stats(b'extant')
        expect('memory adds up', int(s['memory_items_bytes']) + int(s['memory_index_bytes']) + int(s['memory_free_bytes']) ==
               int(s['memory_limit_bytes']) == 64 << 20, s)
        expect('versions', s['protocol_level'] == '1.6.45' and s['extant_version'].count('.') == 2, s)
        # 64 bits: 10 of fixed fields, 36 that number the 16 bytes of the 1 TB that devices may grow to, the tag
        expect('the index', int(s['index_used']) == int(s['ram_items']) + int(s['flash_objects']) == 1000 and
               1000 < int(s['index_slots']) < int(s['index_capacity_max']) and int(s['index_tag_bits']) == 18 and
               int(s['index_full_failures']) == 0 and int(s['index_displacements']) >= 0 and int(s['index_steps']) >= 0, s)
        expect('buffers', 0 < int(s['buffer_used_bytes']) <= int(s['buffer_limit_bytes']), s)
        expect('memory in use', 0 < int(s['arena_touched_bytes']) and int(s['slab_real_bytes']) >= 0 and
               int(s['rss_bytes']) > 1 << 20 and float(s['ram_bytes_per_flash_object']) > 0, s)
        expect('flushes', int(s['flushed_items']) == 1000 and 0 <= int(s['inline_flushes']) <= 1000, s)
        expect('writes', int(s['ext_device_bytes_written']) >= 0 and s['ext_write_errors'] == '0' and
               s['ext_degraded'] == 'no' and s['ext_degraded_why'] == 'none' and s['ext_direct'] in ('yes', 'no') and
               s['io_engine'] in ('io_uring', 'threads'), s)
        for name in ('ext_pages_bad ext_pages_lost ext_pages_back ext_read_errors ext_read_retries ext_write_retries '
                     'ext_write_moved ext_write_mismatches ext_bad_checksums ext_evicted_index_full ext_objects_unread_dropped ext_wbufs_stuck '
                     'ext_reconcile write_wait_us stale_overflows rescued_stale').split():
            expect(name + ' is 0', s[name] == '0', s[name])
        expect('wbufs', int(s['ext_wbufs_free']) + int(s['ext_wbufs_busy']) >= 4 and int(s['ext_page_table_bytes']) > 0, s)
        before = s
        c.ask(*[b'get k%d' % i for i in range(100)])
        moved('reads of what is still in a buffer', before, c.stats(b'extant'), {'ext_buffer_hits': 100, 'ext_device_reads': 0})
        c.ask(*[b'incr k%d 1' % i for i in range(100)])
        moved('a change of what is on flash', before, c.stats(b'extant'), {'promotions': 100})
        all_flushed(1000)
        c.ask(*[b'set k%d 0 0 2\r\n11' % i for i in range(100)])
        expect('overwritten words are looked after', wait_for(lambda: int(c.stats(b'extant')['stale_checks']) >= 100 and
                                                              int(c.stats(b'extant')['stale_drops']) >= 100), c.stats(b'extant'))
        for name in ('tag_collisions', 'recaches', 'write_waits', 'index_tombstones', 'items_moved', 'ext_read_short',
                     'ext_objects_expired'):
            expect(name, int(c.stats(b'extant')[name]) >= 0)
        s = c.stats(b'extant')
        expect('the checkpoint', s['checkpoint_objects'] == s['checkpoint_bytes'] == '0' and
               float(s['checkpoint_seconds']) >= 0 and int(s['checkpoint_generation']) >= 0 and s['checkpoint_start'], s)


def main():
    return servers.run_scenarios((commands, connections, authentication, memory, crawling, a_dump_ends_the_crawl_of_the_server,
                                  dumps_while_the_index_grows, logs,
                                  held_items, flash, own))


if __name__ == '__main__':
    sys.exit(main())
