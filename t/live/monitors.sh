#!/bin/bash
# Unmodified monitoring tools read Extant as they read memcached, and get the right numbers:
# memcached-tool, damemtop, munin's and collectd's memcached plugins, netdata's, and what
# prometheus's memcached_exporter needs of an answer. A tool that isn't installed is left out and named; without
# any of them the test is skipped. EXTANT=/usr/bin/memcached passes too.
set -u
cd "$(dirname "$0")/../.." || exit 1
. t/aid/clients_lib.sh
need python3

TOOLS=${MEMCACHED_SCRIPTS:-/usr/share/memcached/scripts}
MUNIN=${MUNIN_PLUGINS:-/usr/share/munin/plugins}
RAN=

ran() { RAN="$RAN $1"; }
absent() { echo "left out: $1 isn't installed"; }

# 200 keys of 100 bytes, 150 hits, 30 misses, 10 deletes: what the tools are to find.
fill() {
    local i
    exec 9<> "/dev/tcp/127.0.0.1/$PORT" || fail "connect"
    for i in $(seq 200); do printf 'set key%d 5 0 100 noreply\r\n%0100d\r\n' "$i" "$i"; done >&9
    for i in $(seq 150); do printf 'get key%d\r\n' "$i"; done >&9
    for i in $(seq 30); do printf 'get missing%d\r\n' "$i"; done >&9
    for i in $(seq 10); do printf 'delete key%d noreply\r\n' "$i"; done >&9
    printf 'incr missing 1\r\ntouch key100 0\r\nversion\r\n' >&9
    while read -r -t 10 line <&9; do
        case $line in VERSION*) exec 9>&-; return ;; esac
    done
    fail "no answer to the filling"
}

memcached_tool() {
    local tool=$TOOLS/memcached-tool out
    [ -f "$tool" ] && command -v perl > /dev/null || { absent memcached-tool; return; }
    ran memcached-tool
    tool() { timeout 300 perl "$tool" "127.0.0.1:$PORT" "$@" 2> "$TMP/err" | tr -d "\r"; }
    # class, chunk size, age, pages, items
    out=$(tool display | awk '$1 ~ /^[0-9]+$/ { print $1, $2, $5 }')
    check "memcached-tool display" "$out" "4 192B 190"
    check "memcached-tool stats" "$(tool stats | awk '$1 == "get_hits" { print $2 }')" 150
    check "memcached-tool settings" "$(tool settings | awk '$1 == "maxconns" { print $2 }')" 1024
    tool sizes > "$TMP/out"
    check "memcached-tool sizes" "$(grep -c 'sizes_status *disabled\|^ *[0-9]' "$TMP/out" | sed 's/^[1-9].*/some/')" some
    check "memcached-tool keys" "$(tool keys | grep -c '^key=key[0-9]* exp=-1 .* cls=4 ')" 190
    tool dump > "$TMP/out"
    check "memcached-tool dump, keys" "$(grep -c '^add key[0-9]* 5 0 100' "$TMP/out")" 190
    check "memcached-tool dump, a value" "$(grep -A1 '^add key77 ' "$TMP/out" | tail -n 1)" \
        "$(printf '%0100d' 77)"
}

damemtop() {
    local tool=$TOOLS/damemtop module
    for module in AnyEvent YAML Term::ReadKey; do
        perl -M$module -e 1 2> /dev/null || { absent "damemtop ($module)"; return; }
    done
    [ -f "$tool" ] || { absent damemtop; return; }
    ran damemtop
    mkdir -p "$TMP/.damemtop" # it ignores its --config
    cat > "$TMP/.damemtop/damemtop.yaml" <<END
delay: 1
mode: t
top_mode:
    sort_column: "hostname"
    sort_order: "asc"
    columns:
        - hostname
        - all_version
        - all_fill_rate
        - hit_rate
        - evictions
        - bytes_written
        - curr_items
        - "2:get_hits"
servers:
    - 127.0.0.1:$PORT
END
    # It wants a terminal, and shows figures from the second round on.
    timeout 300 env HOME="$TMP" python3 - "$tool" "$PORT" > "$TMP/top" 2> "$TMP/err" <<'END' ||
import fcntl, os, pty, re, select, signal, struct, sys, termios, time
tool, port = sys.argv[1:]
pid, fd = pty.fork()
if pid == 0:
    os.environ["TERM"] = "vt100"
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
    os.execvp("perl", ["perl", tool])
seen, end, ok = b"", time.monotonic() + 120, False
row = re.compile(rb"127\.0\.0\.1:" + port.encode() + rb"\s+1\.\d+\.\d+\s")
while time.monotonic() < end and not ok:
    if select.select([fd], [], [], 0.5)[0]:
        try:
            seen += os.read(fd, 65536)
        except OSError:
            break
    ok = len(row.findall(seen)) >= 2
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)
sys.stdout.write(seen.decode("latin-1"))
sys.exit(0 if ok else 1)
END
        { cat "$TMP/top" >&2; fail "damemtop shows no row"; }
    CHECKS=$((CHECKS + 1))
}

munin() {
    local plugin=$MUNIN/memcached_ name out
    [ -f "$plugin" ] && perl -MCache::Memcached -e 1 2> /dev/null || { absent munin; return; }
    ran munin
    for name in rates bytes counters; do ln -sf "$plugin" "$TMP/memcached_$name"; done
    value() { # plugin, field
        host=127.0.0.1 port=$PORT timeout 300 perl "$TMP/memcached_$1" 2> "$TMP/err" |
            sed -n "s/^$2.value //p"
    }
    check "munin get_hits" "$(value rates memcache_cache_hits)" "$(stat_of get_hits)"
    check "munin get_misses" "$(value rates memcache_cache_misses)" "$(stat_of get_misses)"
    check "munin cmd_set" "$(value rates memcache_cmd_set)" 200
    check "munin curr_items" "$(value counters memcache_curr_items)" 190
    check "munin bytes" "$(value counters memcache_bytes_allocated)" "$(stat_of bytes)"
    out=$(value bytes memcache_bytes_read)
    [ "${out:-0}" -gt 20000 ] || fail "munin bytes_read: '$out'"
    for name in rates bytes counters; do
        host=127.0.0.1 port=$PORT perl "$TMP/memcached_$name" config > "$TMP/out" 2> "$TMP/err"
        check "munin $name config" "$(grep -c '^graph_title' "$TMP/out")" 1
    done
}

collectd_plugin() {
    local db=/usr/share/collectd/types.db pid dir
    { command -v collectd && [ -f "$db" ]; } > /dev/null || { absent collectd; return; }
    ran collectd
    cat > "$TMP/collectd.conf" <<END
Hostname "test"
Interval 1
BaseDir "$TMP"
PIDFile "$TMP/collectd.pid"
TypesDB "$db"
LoadPlugin csv
LoadPlugin memcached
<Plugin csv>
  DataDir "$TMP/csv"
</Plugin>
<Plugin memcached>
  <Instance "it">
    Host "127.0.0.1"
    Port "$PORT"
  </Instance>
</Plugin>
END
    collectd -f -C "$TMP/collectd.conf" > "$TMP/collectd.log" 2>&1 &
    pid=$!
    dir=$TMP/csv/test/memcached-it
    wait_for "ls $dir/memcached_items-current-* 2> /dev/null && ls $dir/df-cache-* 2> /dev/null" > "$TMP/out"
    # Series of rates have a line from the second reading on.
    wait_for "[ \$(ls $dir | wc -l) -ge 24 ]"
    check "collectd curr_items" \
        "$(tail -n 1 "$dir"/memcached_items-current-* | cut -d, -f2 | cut -d. -f1)" 190
    kill "$pid"
    wait "$pid" 2> /dev/null
}

netdata() {
    local plugin=/usr/lib/netdata/plugins.d/python.d.plugin pid
    [ -f "$plugin" ] || { absent netdata; return; }
    ran netdata
    mkdir -p "$TMP/nd/python.d" "$TMP/nd/lib"; : > "$TMP/nd/out"
    printf 'it:\n  host: 127.0.0.1\n  port: %s\n' "$PORT" > "$TMP/nd/python.d/memcached.conf"
    printf 'enabled: yes\n' > "$TMP/nd/python.d.conf"
    NETDATA_USER_CONFIG_DIR=$TMP/nd NETDATA_STOCK_CONFIG_DIR=/usr/lib/netdata/conf.d \
        NETDATA_PLUGINS_DIR=/usr/lib/netdata/plugins.d NETDATA_LIB_DIR=$TMP/nd/lib \
        python3 "$plugin" 1 memcached debug nolock > "$TMP/nd/out" 2> "$TMP/err" &
    pid=$!
    # The last chart has its first value.
    wait_for "grep -q \"^SET 'cmd_touch'\" $TMP/nd/out || ! kill -0 $pid 2> /dev/null"
    kill "$pid" 2> /dev/null
    wait "$pid" 2> /dev/null
    check "netdata's check" "$(grep -c 'check success' "$TMP/err")" 1
    value() { sed -n "s/^SET '$1' = //p" "$TMP/nd/out" | head -n 1; }
    check "netdata's charts" "$(grep -c '^CHART memcached_it' "$TMP/nd/out")" 14
    check "netdata get_hits" "$(value get_hits)" "$(stat_of get_hits)"
    check "netdata curr_items" "$(value curr_items)" 190
    check "netdata avail and used" $(($(value avail) + $(value used))) "$(stat_of limit_maxbytes)"
}

# memcached_exporter v0.11 to v0.16: which lines it requires, and the formats that make it fail.
exporter() {
    ran "memcached_exporter's needs"
    timeout 300 python3 - "$PORT" "$(is_extant && echo flash)" > "$TMP/out" 2> "$TMP/err" <<'END' ||
import re, socket, sys
flash = sys.argv[2] == "flash"
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
s.settimeout(120)

def ask(what):
    s.sendall(what + b"\r\n")
    out = b""
    while not out.endswith(b"END\r\n"):
        piece = s.recv(65536)
        assert piece and not out.endswith(b"ERROR\r\n"), (what, out[-80:])
        out += piece
    lines = out.decode().split("\r\n")[:-2]
    for l in lines:
        assert re.fullmatch(r"STAT \S+ .+", l), (what, l)
    return dict(l.split(" ", 2)[1:] for l in lines)

names = lambda text: re.sub(
    r"(\S*)\{(\S+?)\}(\S*)",
    lambda m: " ".join(m[1] + w + m[3] for w in m[2].split(",")), text).split()
general = ask(b"stats")
for n in names("version uptime time pid {get,delete,incr,decr,cas,touch}_{hits,misses} cas_badval "
               "cmd_flush cmd_set cmd_get cmd_touch rusage_user rusage_system bytes limit_maxbytes "
               "curr_items total_items bytes_read bytes_written curr_connections total_connections "
               "rejected_connections connection_structures threads conn_yields listen_disabled_num "
               "evictions reclaimed store_too_large store_no_memory lru_crawler_starts direct_reclaims "
               "crawler_items_checked crawler_reclaimed moves_to_cold moves_to_warm moves_within_lru "
               "accepting_conns unexpected_napi_ids round_robin_fallback auth_cmds auth_errors "
               .replace("{get,delete,incr,decr,cas,touch}_{hits,misses}",
                        "{get,delete,incr,decr,cas,touch}_hits {get,delete,incr,decr,cas,touch}_misses")):
    assert n in general, n
for n, v in general.items():
    assert ":" not in n, n
    assert n in ("version", "libevent", "slab_reassign_last_busy_status") or re.fullmatch(r"-?\d+(\.\d+)?", v), (n, v)
for n in ("rusage_user", "rusage_system"):
    assert re.fullmatch(r"\d+\.\d{6}", general[n]), general[n]
if flash:
    for n in names("extstore_{compact_lost,compact_rescues,compact_skipped,page_allocs,page_evictions,"
                   "page_reclaims,pages_free,pages_used,objects_evicted,objects_read,objects_written,"
                   "objects_used,bytes_evicted,bytes_written,bytes_read,bytes_used,bytes_fragmented,"
                   "io_queue,limit_maxbytes} get_extstore miss_from_extstore badcrc_from_extstore "
                   "recache_from_extstore get_aborted_extstore get_oom_extstore "
                   "extstore_memory_pressure"):
        assert n in general, n
items = ask(b"stats items")
for n in names("number age number_{hot,warm,cold} age_{hot,warm} hits_to_{hot,warm,cold,temp} evicted "
               "evicted_nonzero evicted_time evicted_unfetched expired_unfetched outofmemory reclaimed "
               "crawler_reclaimed tailrepairs mem_requested moves_to_cold moves_to_warm "
               "moves_within_lru"):
    assert "items:4:" + n in items, n
slabs = ask(b"stats slabs")
for n in names("chunk_size chunks_per_page total_pages total_chunks used_chunks free_chunks "
               "free_chunks_end cmd_set {get,delete,incr,decr,cas,touch}_hits cas_badval"):
    assert "4:" + n in slabs, n
assert "total_malloced" in slabs and "active_slabs" in slabs
settings = ask(b"stats settings")
for n in names("maxconns lru_crawler_sleep lru_crawler_tocrawl hot_lru_pct warm_lru_pct "
               "hot_max_factor warm_max_factor"):
    float(settings[n])
for n in ("lru_crawler", "lru_maintainer_thread", "detail_enabled", "cas_enabled"):
    assert settings[n] in ("yes", "no"), n
END
        { cat "$TMP/err" >&2; fail "the exporter would give up"; }
    CHECKS=$((CHECKS + 1))
}

# shellcheck disable=SC2046
start_server -m 64 $(flash_flags 64 | sed 's/,ext_item_age=1//')
fill
memcached_tool
damemtop
munin
collectd_plugin
netdata
exporter
stop_server
check "clean stop" "$SERVER_RC" 0
[ "$RAN" != " memcached_exporter's needs" ] || skip "no monitoring tool is installed"
echo "ran:$RAN"
finish
