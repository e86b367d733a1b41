#!/bin/bash
# Apache's mod_socache_memcache: mod_ssl keeps its TLS sessions there. Clients that come back resume them, when
# the sessions have moved to flash, and when Apache was stopped and started in between.
# row: Apache mod_socache_memcache | apache2-bin | text | TLS sessions resumed from flash, also by another Apache
set -u
cd "$(dirname "$0")/../.." || exit 1
. t/aid/clients_lib.sh
PATH=$PATH:/usr/sbin
need apache2
need openssl
MODULES=/usr/lib/apache2/modules
[ -e $MODULES/mod_socache_memcache.so ] || skip "mod_socache_memcache isn't installed"
python=$(python_with socket) || skip "python3 isn't installed"
# shellcheck disable=SC2046
start_server -m 64 $(all_flash_flags)
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3 -subj /CN=localhost \
    -out "$TMP/crt" -keyout "$TMP/key" 2> /dev/null || fail "openssl req"
WEB_PORT=$("$python" -c 'import socket
with socket.create_server(("127.0.0.1", 0)) as s: print(s.getsockname()[1])')
mkdir "$TMP/pages"
echo hello > "$TMP/pages/index.html"
cat > "$TMP/apache.conf" << CONF
ServerName localhost
ServerRoot $TMP
PidFile $TMP/apache.pid
DefaultRuntimeDir $TMP
ErrorLog $TMP/apache.log
Mutex file:$TMP
Listen 127.0.0.1:$WEB_PORT
LoadModule mpm_event_module $MODULES/mod_mpm_event.so
LoadModule authz_core_module $MODULES/mod_authz_core.so
LoadModule socache_memcache_module $MODULES/mod_socache_memcache.so
LoadModule ssl_module $MODULES/mod_ssl.so
User www-data
Group www-data
DocumentRoot $TMP/pages
SSLSessionCache memcache:127.0.0.1:$PORT
SSLEngine on
SSLProtocol TLSv1.2
SSLSessionTickets off
SSLCertificateFile $TMP/crt
SSLCertificateKeyFile $TMP/key
CONF
chmod 755 "$TMP" # www-data reads the page
WEB_PID=
stop_web() { [ -z "$WEB_PID" ] || { kill "$WEB_PID" 2> /dev/null; wait "$WEB_PID" 2> /dev/null; WEB_PID=; }; }
trap 'stop_web; stop_server; rm -rf "$TMP"' EXIT
# The answer's first line of openssl's report: New or Reused; the session goes to, or comes from, a file.
connect() { openssl s_client -connect "127.0.0.1:$WEB_PORT" -tls1_2 "$@" < /dev/null 2> /dev/null |
    grep -oE '^(New|Reused), TLS' | head -n 1; }
start_web() {
    apache2 -f "$TMP/apache.conf" -DFOREGROUND 2> "$TMP/err" &
    WEB_PID=$!
    wait_for '[ -n "$(connect)" ] || ! kill -0 $WEB_PID 2> /dev/null'
    kill -0 $WEB_PID 2> /dev/null || { cat "$TMP/err" "$TMP/apache.log" >&2; fail "apache2 didn't start"; }
}
resumed() { local n=0; for i in $(seq 10); do
    [ "$(connect -sess_in "$TMP/session$i")" = "Reused, TLS" ] && n=$((n + 1)); done; echo $n; }

start_web
for i in $(seq 10); do
    check "a new session" "$(connect -sess_out "$TMP/session$i")" "New, TLS"
done
if is_extant; then
    wait_for '[ "$(stat_of ram_items extant)" = 0 ]'
    before=$(stat_of get_extstore)
fi
check "sessions are resumed" "$(resumed)" 10
if is_extant; then
    check "from flash" "$(($(stat_of get_extstore) - before))" 10
fi
stop_web
start_web
check "by another Apache" "$(resumed)" 10
printf 'flush_all\r\nquit\r\n' > "/dev/tcp/127.0.0.1/$PORT"
wait_for '[ "$(stat_of cmd_flush)" = 1 ]'
check "what was flushed isn't" "$(resumed)" 0
stop_web
stop_server
check "clean stop" "$SERVER_RC" 0
finish
