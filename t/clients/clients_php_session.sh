#!/bin/bash
# PHP's session handler with its factory settings (binary protocol, locking): 8 requests at once of one
# session are all answered, and none of 160 is lost; a session that is on flash comes back whole.
# One setting is not the factory's: a request waits for the lock for longer than the 0.75 s that a busy machine may
# need for those before it.
# row: PHP sessions | php-memcached | binary | locking: 160 requests of one session, 8 at once, none lost; from flash
set -u
cd "$(dirname "$0")/../.." || exit 1
. t/aid/clients_lib.sh
need php
need curl
php -r 'exit(class_exists("Memcached") ? 0 : 1);' || skip "php-memcached isn't installed"
check "factory settings" \
    "$(php -r 'echo ini_get("memcached.sess_binary_protocol"), ini_get("memcached.sess_locking");')" 11
# shellcheck disable=SC2046
start_server -m 64 $(all_flash_flags)
WEB_PORT=$(php -r '$s = stream_socket_server("tcp://127.0.0.1:0"); echo explode(":", stream_socket_get_name($s, false))[1];')
PHP_CLI_SERVER_WORKERS=8 setsid php -d session.save_handler=memcached -d session.save_path="127.0.0.1:$PORT" \
    -d session.use_strict_mode=0 -d memcached.sess_lock_retries=800 -S "127.0.0.1:$WEB_PORT" -t t/clients > "$TMP/php.log" 2>&1 &
WEB_PID=$! # of its workers' group, too
trap 'kill -- -$WEB_PID 2> /dev/null; stop_server; rm -rf "$TMP"' EXIT
URL=http://127.0.0.1:$WEB_PORT/client_session.php
ask() { curl -s -m 120 -b "PHPSESSID=$1" -o /dev/null -w '%{http_code}\n' "$URL"; }
wait_for 'curl -s -o /dev/null -m 5 http://127.0.0.1:$WEB_PORT/none'

for _ in $(seq 20); do
    for _ in 1 2 3 4 5 6 7 8; do ask onesession >> "$TMP/codes" & asking+=($!); done
    wait "${asking[@]}"
    asking=()
done
check "answered with 200" "$(grep -c '^200$' "$TMP/codes") of $(wc -l < "$TMP/codes")" "160 of 160"
if is_extant; then
    wait_for '[ "$(stat_of ram_items extant)" = 0 ]'
    before=$(stat_of get_extstore)
fi
check "none of them is lost" "$(curl -s -m 120 -b PHPSESSID=onesession "$URL")" 161
if is_extant; then
    check "the session was read from flash" "$(($(stat_of get_extstore) > before))" 1
fi
stop_server
check "clean stop" "$SERVER_RC" 0
finish
