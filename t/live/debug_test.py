#!/usr/bin/env python3
"""Scenarios that need a held item, a moved clock or memory that is full from the start (debugitem, debugtime and
T_MEMD_INITIAL_MALLOC of the debug build), and other scenarios of memory and flash as `stats` shows
them. Each function is one scenario on a server of its own.

Exit 0: all right; 1: not.
"""

import os
import re
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'aid'))
import servers  # noqa: E402
from servers import expect, wait_for  # noqa: E402

BINARY = os.environ.get('EXTANT_DEBUG_BIN', './extant-debug')
SMALL_FLASH = 'ext_page_size=8,ext_wbuf_size=2,ext_item_size=512,ext_item_age=0,slab_automove=0,' \
    'ext_admission=all,'  # full flash turns nothing away: what is stored has to go there


class Client(servers.Client):
    def stat(self, name, group=b''):
        value = self.stats(group).get(name, '0')
        return float(value) if '.' in value else int(value)

    def flushed(self):
        """RAM holds only items that are too small for flash, or flash is full: then what is left has time."""
        def is_empty():
            items = self.stats(b'items')
            return all(v == '0' or int(k.split(':')[1]) < 3
                       for k, v in items.items() if k.endswith(':number'))
        return wait_for(lambda: is_empty() or self.stat('extstore_pages_free') < 2)


def debug_server(*flags):
    return servers.Server(BINARY, list(flags) + ['-o', 'relaxed_privileges'], 'debug')


def a_held_item_keeps_the_page_mover_waiting():
    with debug_server('-m', '12', '-o', 'slab_automove=0,no_lru_crawler') as server:
        c = Client(server)
        while c.stat('evictions') == 0:
            c.fill(b'k%d-' % c.stat('total_items'), 100, b'x' * 9000)
        last = b'k%d-99' % (c.stat('total_items') - 100)
        cls = max((int(k.split(':')[0]) for k in server.stats(b'slabs') if ':total_pages' in k))
        for verb, undo, status in (('lock', 'unlock', 'locked'), ('ref', 'unref', 'busy_floating')):
            before, busy = c.stat('slabs_moved'), c.stat('slab_reassign_busy_items')
            expect('%s finds it' % verb, c.ask(b'debugitem %s %s' % (verb.encode(), last)) == b'OK')
            expect('%s of what is not there' % verb, c.ask(b'debugitem %s none' % verb.encode()) == b'MISS')
            c.ask(b'debugitem %s none' % undo.encode())
            expect('a page is asked for', c.ask(b'slabs reassign %d 0' % cls) == b'OK')
            expect('%s: it waits' % verb,
                   wait_for(lambda: c.stat('slab_reassign_busy_items') > busy + 20))
            expect('%s: and says so' % verb, c.stat('slab_reassign_running') == 1 and
                   server.stats()['slab_reassign_last_busy_status'] == status)
            expect('%s: no page has moved' % verb, c.stat('slabs_moved') == before)
            expect('%s finds it' % undo, c.ask(b'debugitem %s %s' % (undo.encode(), last)) == b'OK')
            expect('%s: it goes on' % undo, wait_for(lambda: c.stat('slabs_moved') == before + 1))
        expect('a held one is told before it is moved', c.stat('slab_global_page_pool') == 2)


def a_held_item_goes_to_flash_and_its_rescue_is_told():
    with debug_server('-m', '64', '-o', SMALL_FLASH + 'ext_path=@DIR@/flash:64m,ext_max_frag=0.9') as server:
        c, watcher = Client(server), Client(server)
        expect('watching', watcher.ask(b'watch sysevents') == b'OK')
        c.ask(b'set held 5 0 4000\r\n' + b'v' * 4000)
        c.ask(b'debugitem ref held')
        expect('a held item is flushed as others are', c.flushed())
        c.fill(b'k', 2500, b'x' * 20000)
        c.flushed()
        expect('nothing went for that', c.stat('evictions') == 0 and c.stat('extstore_page_evictions') == 0)
        expect('nearly all pages are used', c.stat('extstore_pages_free') < 2)
        c.delete(b'k%d' % i for i in range(2500) if i % 2)
        c.ask(b'extstore compact_under 7')
        seen = 0
        while seen == 0:
            found = re.search(rb'rescues_realloc=(\d+)', watcher.file.readline())
            seen = int(found[1]) if found else 0
        expect('a rescue of a locked item is counted', seen > 0)
        expect('deleted ones are no skips', c.stat('extstore_compact_skipped') == 0)
        expect('it is let go', c.ask(b'debugitem unref reffed') == b'OK')
        expect('once', c.ask(b'debugitem unref reffed') == b'MISS')
        expect('it is still right', c.ask(b'mg held f s') == b'HD f5 s4000')


def memory_can_be_full_from_the_start():
    os.environ['T_MEMD_INITIAL_MALLOC'] = str(64 * 1024 * 1024 - 1024 * 1024 - 1)
    try:
        with debug_server('-m', '64', '-M') as server:
            c = Client(server)
            expect('it is claimed', c.stat('total_malloced', b'slabs') == 63 * 1024 * 1024 - 1)
            stored = [c.set(b'k%d' % i, b'x' * 400000) for i in range(3)]
            expect('then one page is left', stored == [True, True, False], stored)
    finally:
        del os.environ['T_MEMD_INITIAL_MALLOC']


def chunks_of_large_items_are_counted_apart():
    with debug_server('-m', '12', '-o', 'slab_automove=0,slab_chunk_max=16') as server:
        c = Client(server)
        while c.stat('evictions') == 0:
            c.fill(b'k%d-' % c.stat('total_items'), 20, b'x' * 30000)
        count = c.stat('total_items')
        c.delete(b'k%d-%d' % (i // 20 * 20, i % 20) for i in range(count - 40, count))
        cls = max((int(k.split(':')[0]) for k in server.stats(b'slabs') if ':total_pages' in k))
        c.ask(b'slabs reassign %d 0' % cls)
        expect('a page moves', wait_for(lambda: c.stat('slabs_moved') == 1))
        expect('its chunks are rescues of chunks', c.stat('slab_reassign_chunk_rescues') > 40)
        expect('and of nothing else', c.stat('slab_reassign_rescues') == 0)


def all_pages_are_in_the_pool_with_flash():
    with debug_server('-m', '64', '-o', 'ext_path=@DIR@/flash:64m') as server:
        c = Client(server)
        expect('all of them, but for the index', 60 <= c.stat('slab_global_page_pool') <= 64)
        expect('items hold none', c.stat('memory_items_bytes', b'extant') == 0)
        c.set(b'k', b'x')
        pool = c.stat('slab_global_page_pool')
        expect('a class takes its first', 59 <= pool <= 63, pool)
        expect('the operator gives it more', c.ask(b'slabs reassign 0 3') == b'OK' and
               c.stat('3:total_pages', b'slabs') in (0, 1) and c.stat('slab_global_page_pool') == pool - 1)
    with debug_server('-m', '64') as server:
        expect('without flash it is empty', Client(server).stat('slab_global_page_pool') == 0)


def a_key_that_spoils_a_get_counts_what_it_stopped():
    with debug_server('-m', '64', '-o', SMALL_FLASH + 'ext_path=@DIR@/flash:64m') as server:
        c = Client(server)
        c.fill(b'k', 3, b'x' * 5000)
        c.flushed()
        gets = c.stat('cmd_get')
        answer = c.ask(b'get k0 k1 k2 none ' + b'l' * 300)
        expect('it is refused', answer == b'CLIENT_ERROR bad command line format', answer)
        c.file.readline()
        expect('three reads are given up', c.stat('get_aborted_extstore') == 3)
        expect('four keys were asked for', c.stat('cmd_get') == gets + 4)
        expect('the next get has its answer', c.ask(b'mg k1 s') == b'HD s5000')


def a_class_without_memory_reads_no_large_value():
    """slab_automove 0: the operator divides the memory, for values read from flash as well."""
    with debug_server('-m', '64', '-I', '4m', '-o', 'ext_page_size=8,ext_wbuf_size=8,ext_item_size=512,'
                      'ext_item_age=0,ext_path=@DIR@/flash:64m,slab_automove=0') as server:
        c = Client(server)
        c.set(b'big', b'x' * 3000000)
        c.set(b'small', b'x' * 5000)
        c.flushed()
        source = 0
        while source >= 0:
            answer = c.ask(b'slabs reassign %d 1' % source)
            if not answer.startswith(b'NOSPARE'):
                continue
            pages = {int(k.split(':')[0]): int(v) for k, v in server.stats(b'slabs').items()
                     if ':total_pages' in k}
            source = max([cls for cls, n in pages.items() if cls >= 3 and n > 1], default=-1)
        oom = b'SERVER_ERROR out of memory writing get response'
        expect('get says so, and no END', c.ask(b'get big') == oom and c.ask(b'mn') == b'MN')
        expect('mg says so', c.ask(b'mg big v') == oom)
        expect('it is counted', c.stat('get_oom_extstore') == 2)
        expect('without the value there is an answer', c.ask(b'mg big s') == b'HD s3000000')
        expect('a small value is read', c.ask(b'get small').startswith(b'VALUE small 0 5000'))
        c.file.readline(), c.file.readline()
        c.ask(b'slabs automove 1')
        expect('Extant moves pages: it is read', c.ask(b'mg big v').startswith(b'VA 3000000'))


def without_compaction_the_oldest_page_goes_as_it_is():
    with debug_server('-m', '64', '-o', SMALL_FLASH + 'ext_path=@DIR@/flash:64m,ext_max_frag=0,'
                      'ext_recache_rate=0') as server:
        c = Client(server)
        c.ask(b'extstore compact_under 0')
        c.set(b'first', b'x' * 20000)
        c.flushed()
        c.ask(b'mg first'), c.ask(b'mg first s')
        c.fill(b'k', 8000, b'x' * 20000)  # more than memory and flash hold
        c.flushed()
        expect('pages went', c.stat('extstore_page_evictions') > 0)
        expect('no item was evicted', c.stat('evictions') == 0, c.stats(b'extant'))
        expect('nothing was written again', c.stat('extstore_compact_rescues') == 0)
        expect('so what was hit went too', c.ask(b'mg first') == b'EN')
        expect('which counts as a miss of flash, once', c.stat('miss_from_extstore') == 1)
        c.ask(b'mg first')
        expect('and no more', c.stat('miss_from_extstore') == 1)


def tiers_take_what_the_default_files_have_no_room_for():
    with debug_server('-m', '128', '-o', SMALL_FLASH +
                      'ext_path=@DIR@/a:64m,ext_path=@DIR@/b:64m:coldcompact,'
                      'ext_path=@DIR@/c:64m:old,ext_max_frag=0.9') as server:
        c = Client(server)

        def free_of(bucket):
            pages = server.stats(b'extstore')
            return sum(1 for k, v in pages.items() if k.endswith(':version') and v == '0' and
                       pages[k.replace('version', 'free_bucket')] == str(bucket))

        c.fill(b'hot', 500, b'h' * 20000)
        c.fill(b'cold', 500, b'c' * 20000)
        c.flushed()
        expect('they are empty', (free_of(4), free_of(5)) == (8, 8))
        for i in range(500):
            c.ask(b'mg hot%d' % i)
        c.fill(b'more', 5000, b'x' * 20000)
        c.flushed()
        expect('what was never hit goes to coldcompact', c.stat('extstore_compact_resc_cold') > 100)
        expect('what was goes to old', c.stat('extstore_compact_resc_old') > 100)
        expect('in pages of theirs', wait_for(lambda: free_of(4) < 8 and free_of(5) < 8))
        expect('no item was evicted', c.stat('evictions') == 0)


def factors_of_ages_may_be_huge():
    """An age limit beyond 32 bits is none: items don't leave HOT at once."""
    with debug_server('-m', '64') as server:
        c = Client(server)
        expect('it is taken', c.ask(b'lru tune 20 40 4294967296 4294967296') == b'OK')
        c.fill(b'k', 3000, b'v' * 1000)
        for _ in range(5):
            c.ask(b'debugtime 10')
            before = c.stat('lru_maintainer_juggles')
            expect('ages are looked at', wait_for(lambda: c.stat('lru_maintainer_juggles') > before + 5))
        hot = [int(v) for k, v in server.stats(b'items').items() if k.endswith(':number_hot')]
        expect('a fifth stays in HOT', sum(hot) > 300, hot)


def a_value_that_was_put_away_is_fetched_during_a_store():
    """Clients that read nothing hold large values from flash, and each has begun a set. The values are put away. When
    the clients read, theirs are read again, and the rest of the set arrives meanwhile."""
    size, values, clients = 240000, 160, 300
    with debug_server('-m', '64', '-t', '1', '-I', '2m', '-o', 'ext_path=@DIR@/flash:256m,ext_page_size=16,'
                      'ext_item_age=0,ext_recache_rate=0,ext_io_engine=threads') as server:
        c = Client(server)
        c.fill(b'k', values, b'v' * size)
        expect('all but the last is on flash', wait_for(lambda: c.stat('flash_objects', b'extant') >= values - 1))
        want = b'VALUE k%d 0 %d\r\n' + b'v' * size + b'\r\nEND\r\nSTORED\r\n'
        deaf = [server.connect() for _ in range(clients)]
        for i, s in enumerate(deaf):
            s.settimeout(servers.PATIENCE_SECONDS)
            s.sendall(b'get k%d\r\nset x 0 0 5\r\n' % (i % values))
        expect('values are put away', wait_for(lambda: c.stat('ext_reads_put_away', b'extant') >= clients // 2))
        late = []

        def read(i, s):
            s.sendall(b'hello\r\n')
            got = b''
            while len(got) < len(want % (i % values, size)):
                piece = s.recv(1 << 16)
                if not piece:
                    break
                got += piece
            late.append(got == want % (i % values, size))
        threads = [threading.Thread(target=read, args=each) for each in enumerate(deaf)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        expect('each gets its value, then its answer', len(late) == clients and all(late), (len(late), sum(late)))
        for s in deaf:
            s.close()


def main():
    return servers.run_scenarios((a_held_item_keeps_the_page_mover_waiting,
                                  a_held_item_goes_to_flash_and_its_rescue_is_told,
                                  memory_can_be_full_from_the_start, chunks_of_large_items_are_counted_apart,
                                  all_pages_are_in_the_pool_with_flash,
                                  a_key_that_spoils_a_get_counts_what_it_stopped,
                                  a_class_without_memory_reads_no_large_value,
                                  without_compaction_the_oldest_page_goes_as_it_is,
                                  tiers_take_what_the_default_files_have_no_room_for,
                                  factors_of_ages_may_be_huge,
                                  a_value_that_was_put_away_is_fetched_during_a_store))


if __name__ == '__main__':
    sys.exit(main())
