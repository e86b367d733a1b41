#!/bin/bash
# dalli, the client of Rails, unmodified, gets from Extant what it gets from memcached.
# row: dalli | ruby-dalli | binary | all calls; 500 values from flash; SASL
set -u
cd "$(dirname "$0")/../.." || exit 1
. t/aid/clients_lib.sh
RUBY=
for ruby in /usr/bin/ruby ruby; do
    "$ruby" -e 'require "dalli"' 2> /dev/null && { RUBY=$ruby; break; }
done
[ -n "$RUBY" ] || skip "dalli isn't installed"
# shellcheck disable=SC2046
start_server -m 64 -I 4m $(flash_flags 64)
timeout 600 "$RUBY" t/clients/client.rb "$PORT" || fail "dalli"
stop_server
check "clean stop" "$SERVER_RC" 0
# shellcheck disable=SC2046
start_server -m 64 $(all_flash_flags)
from_flash "$RUBY" t/clients/client.rb "$PORT"
stop_server
check "clean stop" "$SERVER_RC" 0
if is_extant; then
    printf 'someone:a word\n' > "$TMP/users"
    start_server -m 64 -I 4m -S -Y "$TMP/users"
    SASL_USER=someone SASL_PASSWORD='a word' timeout 600 "$RUBY" t/clients/client.rb "$PORT" || fail "dalli with SASL"
    SASL_USER=someone SASL_PASSWORD=another timeout 600 "$RUBY" t/clients/client.rb "$PORT" store > "$TMP/out" 2>&1 &&
        fail "a wrong password was let in"
    stop_server
    check "clean stop" "$SERVER_RC" 0
fi
finish
