#!/bin/bash
# nginx's memcached_pass: pages are stored by their URI, move to flash, and nginx sends them from there, 32 at a
# time; a missing key is nginx's 404, and a stop of the server its 502.
# row: nginx memcached_pass | nginx-core | text | 300 pages from flash, 32 at once; 404 and 502
# row: nginx memc module | libnginx-mod-http-memc | text | PUT, POST, GET and DELETE of 100 pages, read from flash
set -u
cd "$(dirname "$0")/../.." || exit 1
. t/aid/clients_lib.sh
PATH=$PATH:/usr/sbin
need nginx
need curl
nginx -V 2>&1 | grep -q -- --without-http_memcached_module && skip "this nginx has no memcached_pass"
python=$(python_with socket) || skip "python3 isn't installed"
# shellcheck disable=SC2046
start_server -m 64 $(all_flash_flags)
WEB=$TMP/web
memc=/usr/lib/nginx/modules/ngx_http_memc_module.so
[ -f $memc ] || { echo "the memc module isn't installed"; memc=; }
cat > "$TMP/nginx.conf" << CONF
${memc:+load_module $memc;}
daemon off;
master_process off;
pid $TMP/nginx.pid;
error_log $TMP/nginx.log;
events {}
http {
    access_log off;
    client_body_temp_path $TMP/body;
    proxy_temp_path $TMP/proxy;
    fastcgi_temp_path $TMP/fastcgi;
    uwsgi_temp_path $TMP/uwsgi;
    scgi_temp_path $TMP/scgi;
    upstream cache { server 127.0.0.1:$PORT; keepalive 8; }
    server {
        listen unix:$WEB;
        location / {
            set \$memcached_key "\$uri";
            memcached_pass cache;
            memcached_read_timeout 120s;
            default_type text/html;
        }
        ${memc:+location /memc/ { client_body_buffer_size 1m; memc_read_timeout 120s; set \$memc_key \$uri; memc_pass cache; \}}
    }
}
CONF
nginx -c "$TMP/nginx.conf" -p "$TMP" 2> "$TMP/err" &
WEB_PID=$!
trap 'kill $WEB_PID 2> /dev/null; stop_server; rm -rf "$TMP"' EXIT
ask() { curl -s -m 120 --unix-socket "$WEB" "$@"; }
code_of() { ask -o /dev/null -w '%{http_code}' "http://web$1"; }
wait_for '[ "$(code_of /none)" = 404 ]'

mkdir "$TMP/pages"
"$python" - "$PORT" "$TMP/pages" << 'CODE' || fail "storing the pages"
import random, socket, sys
rnd = random.Random(4)
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
answers = s.makefile("rb")
for i in range(300):
    page = rnd.randbytes(rnd.choice((0, 1, 500, 4000, 60000, 300000)[: 6 if i % 20 == 0 else 4]))
    with open("%s/%d" % (sys.argv[2], i), "wb") as f:
        f.write(page)
    s.sendall(b"set /page/%d 0 0 %d\r\n%s\r\n" % (i, len(page), page))
    assert answers.readline() == b"STORED\r\n", i
CODE
if is_extant; then
    wait_for '[ "$(stat_of ram_items extant)" = 0 ]'
    before=$(stat_of get_extstore)
fi
mkdir "$TMP/got"
ask --parallel --parallel-max 32 -o "$TMP/got/#1" "http://web/page/[0-299]" 2> /dev/null || fail "curl"
check "all pages are what was stored" "$(diff -rq "$TMP/pages" "$TMP/got" 2>&1 | head -n 3)" ""
if is_extant; then
    check "from flash" "$(($(stat_of get_extstore) - before))" 300
fi
check "what is not there" "$(code_of /page/300)" 404
if [ -n "$memc" ]; then
    mkdir "$TMP/memc" "$TMP/memc-got"
    for i in $(seq 100); do
        head -c $((i * 3000)) /dev/urandom > "$TMP/memc/$i"
    done
    ask -T "$TMP/memc/{$(seq -s, 100)}" http://web/memc/ 2> /dev/null || fail "PUT"
    ask -d x http://web/memc/1 > /dev/null # add: the key is there
    if is_extant; then
        wait_for '[ "$(stat_of ram_items extant)" = 0 ]'
        before=$(stat_of get_extstore)
    fi
    ask --parallel --parallel-max 32 -o "$TMP/memc-got/#1" "http://web/memc/[1-100]" 2> /dev/null || fail "curl"
    check "memc: all are what was stored" "$(diff -rq "$TMP/memc" "$TMP/memc-got" 2>&1 | head -n 3)" ""
    if is_extant; then
        check "memc: from flash" "$(($(stat_of get_extstore) - before))" 100
    fi
    check "DELETE" "$(ask -o /dev/null -w '%{http_code}' -X DELETE http://web/memc/100)" 200
    check "is gone" "$(code_of /memc/100)" 404
fi
stop_server
check "clean stop" "$SERVER_RC" 0
check "without a server" "$(code_of /page/1)" 502
finish
