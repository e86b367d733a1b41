#!/usr/bin/env python3
"""--http: /metrics has memcached_exporter's names and ours, clean under promtool; why gets miss adds up to
get_misses; /healthz and /readyz tell what they should; dashboard and alerts name only existing metrics.

EXTANT_DEBUG_BIN names the binary. Exit 0: all right; 1: not.
"""

import http.client
import json
import os
import re
import resource
import socket
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'aid'))
import servers  # noqa: E402
from servers import expect, wait_for  # noqa: E402

BINARY = os.environ.get('EXTANT_DEBUG_BIN', './extant-debug')
TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..')
FLASH = 'ext_path=@DIR@/flash:8m,ext_page_size=2,ext_wbuf_size=2'

# memcached_exporter's names; those of slab classes without memcached_slab_.
EXPORTER = '''
up uptime_seconds time_seconds version process_user_cpu_seconds_total process_system_cpu_seconds_total
read_bytes_total written_bytes_total current_connections max_connections connections_total
connections_rejected_total connections_yielded_total connections_listener_disabled_total current_bytes
limit_bytes commands_total items_total items_evicted_total items_reclaimed_total current_items
item_too_large_total item_no_memory_total lru_crawler_enabled lru_crawler_sleep lru_crawler_to_crawl
lru_crawler_maintainer_thread lru_crawler_hot_percent lru_crawler_warm_percent lru_crawler_hot_max_factor
lru_crawler_warm_max_factor lru_crawler_starts_total lru_crawler_reclaimed_total
lru_crawler_items_checked_total lru_crawler_moves_to_cold_total lru_crawler_moves_to_warm_total
lru_crawler_moves_within_lru_total direct_reclaims_total malloced_bytes accepting_connections
extstore_compact_lost_total extstore_compact_rescued_total extstore_compact_skipped_total
extstore_pages_allocated_total extstore_pages_evicted_total extstore_pages_reclaimed_total
extstore_pages_free extstore_pages_used extstore_objects_evicted_total extstore_objects_read_total
extstore_objects_written_total extstore_objects_used extstore_bytes_evicted_total
extstore_bytes_written_total extstore_bytes_read_total extstore_bytes_used extstore_bytes_fragmented
extstore_bytes_limit extstore_io_queue_depth
'''.split()
EXPORTER_SLAB = '''
current_items items_age_seconds items_crawler_reclaimed_total items_evicted_total
items_evicted_nonzero_total items_evicted_time_seconds items_evicted_unfetched_total
items_expired_unfetched_total items_outofmemory_total items_reclaimed_total hot_items warm_items cold_items
temporary_items hot_age_seconds warm_age_seconds mem_requested_bytes chunk_size_bytes chunks_per_page
current_pages current_chunks chunks_used chunks_free chunks_free_end items_tailrepairs_total
items_moves_to_cold items_moves_to_warm items_moves_within_lru lru_hits_total commands_total
'''.split()


class Web(servers.Server):
    """A server with --http on a port of its own choice."""

    def __init__(self, flags, options):
        more = ['-o', ','.join(options)] if options else []
        super().__init__(BINARY, list(flags) + ['--http', '127.0.0.1:0'] + more, 'http')

    def web_port(self):
        with open(self.log) as f:
            return int(re.search(r'http: .* on tcp:127\.0\.0\.1:(\d+)', f.read()).group(1))

    def ask(self, path, method='GET', headers=None):
        """Status, headers, body."""
        conn = http.client.HTTPConnection('127.0.0.1', self.web_port(), timeout=servers.PATIENCE_SECONDS)
        try:
            conn.request(method, path, headers=headers or {})
            answer = conn.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read().decode()
        finally:
            conn.close()

    def metrics(self):
        """Value by name with labels."""
        found = {}
        for line in self.ask('/metrics')[2].splitlines():
            if not line.startswith('#'):
                name, value = line.rsplit(' ', 1)
                expect('one %s' % name, name not in found)
                found[name] = float(value)
        return found


class Talk:
    def __init__(self, server):
        self.sock = server.connect()
        self.sock.settimeout(servers.PATIENCE_SECONDS)
        self.file = self.sock.makefile('rb')

    def __call__(self, *requests):
        for i in range(0, len(requests), 100):
            self.sock.sendall(b''.join(r + b'\r\n' for r in requests[i:i + 100]) + b'mn\r\n')
            for line in iter(self.file.readline, b'MN\r\n'):
                assert line, 'closed'

    def store(self, count, size, prefix=b'k'):
        self(*(b'set %s%d 0 0 %d noreply\r\n%s' % (prefix, i, size, b'x' * size) for i in range(count)))


def families(text):
    return set(re.findall(r'^# TYPE (\S+) ', text, re.M))


def metrics_are_clean_and_have_the_names_of_the_exporter():
    with Web(['-m', '64'], [FLASH]) as server:
        talk = Talk(server)
        talk.store(4000, 3000)
        talk.store(10, 100, b's')
        talk(*(b'get k%d' % i for i in range(4200)), b'incr none 1', b'touch none 0', b'delete k1')
        status, headers, text = server.ask('/metrics')
        expect('status', status == 200, status)
        expect('type', headers['Content-Type'] == 'text/plain; version=0.0.4; charset=utf-8', headers)
        run = subprocess.run(['promtool', 'check', 'metrics'], input=text, text=True, capture_output=True)
        expect('promtool', run.returncode == 0 and not run.stdout + run.stderr, run.stdout + run.stderr)
        there = families(text)
        wanted = {'memcached_' + n for n in EXPORTER} | {'memcached_slab_' + n for n in EXPORTER_SLAB}
        expect('names of memcached_exporter', wanted <= there, wanted - there)
        unshown = {n for n, value in server.stats(b'extant').items() if n.startswith('ext_') and value.isdigit() and
                   n != 'ext_reconcile' and not {'extant_' + n, 'extant_' + n + '_total'} & there}
        expect('figures of flash', not unshown, unshown)
        same_as_stats(server)


def same_as_stats(server):
    stats, metrics = server.stats(), server.metrics()
    for line, name in (('get_hits', 'memcached_commands_total{command="get",status="hit"}'),
                       ('get_misses', 'memcached_commands_total{command="get",status="miss"}'),
                       ('delete_hits', 'memcached_commands_total{command="delete",status="hit"}'),
                       ('cmd_set', 'memcached_commands_total{command="set",status="hit"}'),
                       ('curr_items', 'memcached_current_items'), ('limit_maxbytes', 'memcached_limit_bytes'),
                       ('extstore_objects_used', 'memcached_extstore_objects_used'),
                       ('extstore_pages_used', 'memcached_extstore_pages_used')):
        expect('%s as in stats' % name, metrics[name] == float(stats[line]), (metrics[name], stats[line]))
    slabs, items = server.stats(b'slabs'), server.stats(b'items')
    classes = [k.split(':')[0] for k in slabs if k.endswith(':chunk_size')]
    expect('classes', len(classes) > 1, classes)
    for cls in classes:
        for command, status, line in (('get', 'hit', 'get_hits'), ('delete', 'hit', 'delete_hits'),
                                      ('touch', 'hit', 'touch_hits'), ('set', 'hit', 'cmd_set'),
                                      ('cas', 'badval', 'cas_badval')):
            name = 'memcached_slab_commands_total{slab="%s",command="%s",status="%s"}' % (cls, command, status)
            expect(name, metrics[name] == float(slabs['%s:%s' % (cls, line)]), metrics[name])
        for lru in ('hot', 'warm', 'cold'):
            name = 'memcached_slab_lru_hits_total{slab="%s",lru="%s"}' % (cls, lru)
            shown = items.get('items:%s:hits_to_%s' % (cls, lru))
            expect(name, shown is None or metrics[name] == float(shown), (metrics[name], shown))
    tiers = sum(metrics['extant_hits_total{tier="%s"}' % t] for t in ('ram', 'flash'))
    expect('hits by tier', tiers == float(stats['get_hits']), (tiers, stats['get_hits']))
    pages = sum(v for k, v in metrics.items() if k.startswith('extant_flash_pages{'))
    expect('pages by state', pages == 4, pages)


def misses(server):
    """By reason, from both sources; and that they add up."""
    by_metric = {re.search('"(.*)"', k).group(1): int(v) for k, v in server.metrics().items()
                 if k.startswith('extant_misses_total{')}
    by_stat = {k[5:]: int(v) for k, v in server.stats(b'extant').items() if k.startswith('miss_')}
    total = int(server.stats()['get_misses'])
    expect('metrics and stats agree', by_metric == by_stat, (by_metric, by_stat))
    expect('misses add up', sum(by_stat.values()) == total, (by_stat, total))
    return by_stat


def every_miss_has_its_reason():
    with Web(['-m', '64'], []) as server:
        talk = Talk(server)
        talk(b'set d 0 0 1\r\nx', b'set e 0 5 1\r\nx', b'set f 0 0 1\r\nx', b'set g 0 5 1\r\nx')
        talk(b'get none', b'delete d', b'get d', b'mg d v', b'gets none nix')
        talk(b'debugtime p', b'debugtime 10', b'get e', b'get e', b'gat 0 e')
        talk(b'flush_all', b'get f', b'get f')
        expect('reasons', misses(server) == dict(zero(server), never_stored=3, deleted=2, expired=2, flushed=2),
               misses(server))
        talk(b'set d 0 0 1\r\nx', b'get d', b'delete d', b'set d 0 -1 1\r\nx', b'get d')
        expect('the last reason', misses(server)['expired'] == 3, misses(server))
        talk(b'stats reset')
        expect('reset', misses(server) == zero(server), misses(server))


def without_descriptors_it_waits():
    """If there is no descriptor for a visitor, the log says so, and the visitor is answered later; the thread doesn't spin."""
    with Web((), ()) as server:
        pid = server.process.pid
        limit = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        open_ones = max(int(name) for name in os.listdir('/proc/%d/fd' % pid)) + 1
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_ones, limit[1]))
        with socket.create_connection(('127.0.0.1', server.web_port())) as s:
            s.settimeout(servers.PATIENCE_SECONDS)
            s.sendall(b'GET /healthz HTTP/1.0\r\n\r\n')

            def told():
                with open(server.log) as f:
                    return f.read()

            def turns():
                """How often the thread went to sleep; each try is one of these."""
                for task in os.listdir('/proc/%d/task' % pid):
                    with open('/proc/%d/task/%s/status' % (pid, task)) as f:
                        status = f.read()
                    if re.search(r'^Name:\s+extant-http$', status, re.M):
                        return int(re.search(r'^voluntary_ctxt_switches:\s+(\d+)', status, re.M).group(1))
                return 0
            expect('it is told', wait_for(lambda: 'http: accept(): Too many open files' in told()), server.log_tail())
            before = turns()
            expect('it is tried again', wait_for(lambda: turns() > before + 20), turns() - before)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)
            expect('then it is answered', s.recv(1000).startswith(b'HTTP/1.0 200 OK'))
            expect('in one line', told().count('http: accept()') == 1, told())


def page_and_extant_top_know_every_reason():
    with Web(['-m', '64'], []) as server:
        for name in ('net/status.html', 'scripts/extant-top'):
            with open(os.path.join(TOP, name)) as f:
                text = f.read()
            missing = [r for r in zero(server) if not re.search(r"\b%s'?: '" % r, text)]
            expect(name, not missing, missing)


def zero(server):
    return {k[5:]: 0 for k in server.stats(b'extant') if k.startswith('miss_')}


def misses_of_what_was_evicted_say_from_where():
    with Web(['-m', '2'], []) as server:
        talk = Talk(server)
        talk.store(2000, 4000)
        talk(*(b'get k%d' % i for i in range(2000)))
        found = misses(server)
        gone = int(server.stats()['evictions'])
        expect('evicted from RAM', found['evicted_no_flash'] > 0.98 * gone and gone > 1000, (found, gone))
    with Web(['-m', '8'], [FLASH + ',ext_admission=all']) as server:
        talk = Talk(server)
        talk.store(6000, 4000)
        talk(*(b'get k%d' % i for i in range(6000)))
        found = misses(server)
        expect('evicted from flash', found['evicted_from_flash'] > 1000, found)
        known = sum(v for k, v in found.items() if k.startswith('evicted'))
        expect('nearly all are known', known > 0.98 * int(server.stats()['get_misses']), found)


def misses_of_what_the_device_does_not_give_say_so():
    with Web(['-m', '8'], ['ext_path=@DIR@/flash:64m,ext_page_size=2,ext_wbuf_size=2']) as server:
        talk = Talk(server)
        talk.store(8000, 3000)
        expect('on flash', wait_for(lambda: int(server.stats(b'extant')['ext_wbufs_busy']) <= 1))
        os.truncate(os.path.join(server.dir, 'flash'), 0)
        talk(*(b'get k%d' % i for i in range(0, 4000, 10)))
        found = misses(server)
        expect('unreadable', found == dict(zero(server), unreadable=found['unreadable']) and found['unreadable'] > 100,
               found)


def latency_is_measured():
    name = 'extant_request_duration_seconds_count{tier="%s",command="%s"}'
    with Web(['-m', '8'], ['ext_path=@DIR@/flash:64m,ext_page_size=2,ext_wbuf_size=2']) as server:
        talk = Talk(server)
        talk.store(12000, 3000)

        def measured(tier, command, request):
            def once():
                talk(*[request] * 20)
                return server.metrics().get(name % (tier, command), 0) > 0
            expect('%s %s' % (tier, command), wait_for(once), server.metrics())

        measured('ram', 'get', b'get k11999')
        measured('miss', 'get', b'get none')
        measured('ram', 'store', b'set a 0 0 1\r\nx')
        measured('ram', 'delete', b'delete a')
        measured('ram', 'touch', b'touch k11999 0')
        measured('ram', 'arithmetic', b'incr none 1')
        before = server.metrics()
        talk(*(b'get k%d' % i for i in range(0, 12000, 7)))
        after = server.metrics()
        reads = after['extant_hits_total{tier="flash"}'] - before['extant_hits_total{tier="flash"}']
        waits = after.get(name % ('flash', 'get'), 0) - before.get(name % ('flash', 'get'), 0)
        expect('waits for flash are all measured', 0 < waits <= reads, (waits, reads))
        device = [k for k in after if k.startswith('extant_device_read_duration_seconds_count')]
        expect('reads of the device', after[device[0]] > 0, (device, after[device[0]]))
        written = [v for k, v in after.items() if k.startswith('extant_device_written_bytes_total')]
        expect('bytes written', written == [after['extant_ext_device_bytes_written_total']], written)
        expect('write amplification', 0.8 < after['extant_write_amplification_ratio'] < 3,
               after['extant_write_amplification_ratio'])


def answers_of_every_path():
    with Web(['-m', '64'], ['drop_privileges']) as server:
        for path, status, body in (('/healthz', 200, 'ok\n'), ('/readyz', 200, 'ready\n'),
                                   ('/nothing', 404, None), ('/metrics?x=1', 200, None),
                                   ('/status.json', 200, None), ('/', 200, None)):
            got = server.ask(path)
            expect(path, got[0] == status and (body is None or got[2] == body), got)
        expect('HEAD', server.ask('/metrics', 'HEAD')[0::2] == (200, ''), server.ask('/metrics', 'HEAD'))
        expect('POST', server.ask('/metrics', 'POST')[0] >= 400)
        expect('large headers', server.ask('/healthz', headers={'X': 'y' * 20000})[0] >= 400)
        page = server.ask('/')
        expect('nothing from elsewhere', not re.search(r'(src|href)\s*=|https?://|@import|url\(', page[2]), page[2])
        expect('CSP', "default-src 'none'" in page[1]['Content-Security-Policy'], page[1])


def the_life_of_flash_is_told():
    with Web(['-m', '8'], ['ext_path=@DIR@/flash:64m,ext_page_size=2,ext_wbuf_size=2,ext_rated_writes=0.5']) as server:
        stats = server.stats(b'extant')
        expect('unwritten', stats['flash_writes_per_day'] == '0.00' and stats['flash_lasts_days'] == '36500', stats)
        Talk(server).store(8000, 3000)
        expect('on flash', wait_for(lambda: int(server.stats(b'extant')['ext_device_bytes_written']) > 8 << 20))
        stats = server.stats(b'extant')
        daily, days = float(stats['flash_writes_per_day']), int(stats['flash_lasts_days'])
        expect('written', daily > 0 and abs(days - 5 * 365 * 0.5 / daily) <= 1, (daily, days))
        seconds = server.metrics()['extant_flash_lasts_seconds']
        expect('as a metric', seconds % 86400 == 0 and abs(seconds / 86400 - days) <= 1, (seconds, days))
        expect('for the page', json.loads(server.ask('/status.json')[2])['rated_writes'] == 0.5)
    with Web(['-m', '8'], []) as server:
        stats = server.stats(b'extant')
        expect('no flash', stats['flash_writes_per_day'] == '0.00' and stats['flash_lasts_days'] == '0', stats)


def the_life_of_flash_counts_from_the_start():
    """What an earlier process wrote is no part of this one's rate."""
    flags = ['-m', '8', '-e', '@DIR@/memory']
    with Web(flags, ['ext_path=@DIR@/flash:64m,ext_page_size=2,ext_wbuf_size=2']) as server:
        Talk(server).store(8000, 3000)
        expect('on flash', wait_for(lambda: int(server.stats(b'extant')['ext_device_bytes_written']) > 8 << 20))
        before = int(server.stats(b'extant')['ext_device_bytes_written'])
        server.process.terminate()
        server.process.wait(servers.PATIENCE_SECONDS)
        server.start()
        seconds = max(int(server.stats()['uptime']), 1)
        stats = server.stats(b'extant')
        here = float(stats['flash_writes_per_day']) * (64 << 20) / 86400 * seconds
        expect('of this process', here <= int(stats['ext_device_bytes_written']) - before + 1e4, (here, before, stats))


def idle_connections_do_no_harm():
    with Web(['-m', '64', '-c', '64'], ['drop_privileges']) as server:
        address, idle = ('127.0.0.1', server.web_port()), []
        descriptors = '/proc/%d/fd' % server.process.pid
        talk = Talk(server)
        before = len(os.listdir(descriptors))
        for i in range(1000):
            sock = socket.create_connection(address, servers.PATIENCE_SECONDS)
            if i % 3 == 0:
                sock.sendall(b'GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n')
            idle.append(sock)
            if i % 100 == 99:
                expect('served among %d idle ones' % i, server.ask('/healthz')[0] == 200)
        expect('no more than 64 stay', wait_for(lambda: len(os.listdir(descriptors)) <= before + 64),
               len(os.listdir(descriptors)) - before)
        idle[0].settimeout(servers.PATIENCE_SECONDS)
        while idle[0].recv(65536):
            pass # the oldest was ended
        talk(b'set a 0 0 1\r\nx')
        for sock in idle:
            sock.close()
        expect('all are gone', wait_for(lambda: server.ask('/healthz')[0] == 200 and
                                        len(os.listdir(descriptors)) <= before + 2),
               len(os.listdir(descriptors)) - before)


def a_key_cannot_break_out_of_the_page():
    with Web(['-m', '64'], []) as server:
        talk = Talk(server)
        for _ in range(200):
            talk(b'get </script><b>"\\\x80\xff')
        found = wait_for(lambda: talk(b'get </script><b>"\\\x80\xff') or
                         json.loads(server.ask('/status.json')[2])['keys'])
        expect('the key is sampled', found)
        text = server.ask('/status.json')[2]
        name = json.loads(text)['keys'][0]['name']
        expect('the key', name == '</script><b>"\\x5c\\x80\\xff' or name == '</script><b>"\\\\x80\\xff', name)
        expect('no tag', '</script' not in text, text[:300])


def a_port_in_use_and_a_bad_address_are_refused():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        s.listen(1)
        port = s.getsockname()[1]
        for value, code, why in ((str(port), 71, "--http: can't listen on 127.0.0.1:%d: Address already in use" % port),
                                 ('host:', 64, 'http=host: is not PORT or ADDR:PORT'),
                                 ('1.2.3.4:70000', 64, 'http=1.2.3.4:70000 is not PORT or ADDR:PORT'),
                                 ('', 64, 'http needs an address, ie: http=127.0.0.1:9150'),
                                 (':9150', 64, 'http=:9150 is not PORT or ADDR:PORT')):
            flags = ['-u', 'root'] if os.getuid() == 0 else []
            run = subprocess.run([BINARY, '-p', '0', '-s', '/nonexistent/s', '-o', 'http=' + value] + flags,
                                 capture_output=True, text=True, timeout=servers.PATIENCE_SECONDS)
            expect(value, run.returncode == code and why in run.stderr, (run.returncode, run.stderr))


def the_address_may_come_from_a_file_or_an_option():
    for line in ('http 0', '--http=[::1]:0', 'http = localhost:0', '-o http=127.0.0.1:0'):
        with tempfile.NamedTemporaryFile('w') as f:
            f.write(line + '\n')
            f.flush()
            with servers.Server(BINARY, ['--config', f.name], 'http') as server:
                with open(server.log) as log:
                    text = log.read()
                expect(line, re.search(r'http: metrics and status on tcp6?:', text), text)


def dashboard_and_alerts_name_what_is_there():
    with Web(['-m', '64'], [FLASH]) as server:
        Talk(server).store(3000, 3000)
        there = families(server.ask('/metrics')[2])
    with open(os.path.join(TOP, 'packaging/grafana/extant.json')) as f:
        panels = json.dumps(json.load(f))
    rules = os.path.join(TOP, 'packaging/prometheus/alerts.yml')
    run = subprocess.run(['promtool', 'check', 'rules', rules], capture_output=True, text=True)
    expect('promtool check rules', run.returncode == 0, run.stdout + run.stderr)
    with open(rules) as f:
        text = panels + f.read()
    used = set(re.findall(r'\b((?:memcached|extant)_[a-z_]+)', text))
    unknown = {n for n in used if re.sub('_(bucket|sum|count)$', '', n) not in there and n not in there}
    expect('metrics of dashboard and alerts', len(used) > 25 and not unknown, unknown)
    run = subprocess.run(['promtool', 'test', 'rules', os.path.join(TOP, 'packaging/prometheus/alerts_test.yml')],
                         capture_output=True, text=True)
    expect('promtool test rules', run.returncode == 0, run.stdout + run.stderr)


if __name__ == '__main__':
    sys.exit(servers.run_scenarios((
        metrics_are_clean_and_have_the_names_of_the_exporter,
        every_miss_has_its_reason,
        the_life_of_flash_is_told,
        the_life_of_flash_counts_from_the_start,
        idle_connections_do_no_harm,
        without_descriptors_it_waits,
        page_and_extant_top_know_every_reason,
        misses_of_what_was_evicted_say_from_where,
        misses_of_what_the_device_does_not_give_say_so,
        latency_is_measured,
        answers_of_every_path,
        a_key_cannot_break_out_of_the_page,
        a_port_in_use_and_a_bad_address_are_refused,
        the_address_may_come_from_a_file_or_an_option,
        dashboard_and_alerts_name_what_is_there)))
