#!/bin/bash
# The npm package memjs, which speaks the binary protocol, gets from Extant what it gets from memcached.
# row: memjs | npm memjs | binary | all calls; 500 values from flash; SASL
set -u
cd "$(dirname "$0")/../.." || exit 1
. t/aid/clients_lib.sh
need node
[ -d t/clients/node_modules/memjs ] || skip "memjs isn't installed (npm ci in t/clients)"
# shellcheck disable=SC2046
start_server -m 64 -I 4m $(flash_flags 64)
timeout 600 node t/clients/client_memjs.js "$PORT" || fail "memjs"
stop_server
check "clean stop" "$SERVER_RC" 0
# shellcheck disable=SC2046
start_server -m 64 $(all_flash_flags)
from_flash node t/clients/client_memjs.js "$PORT"
stop_server
check "clean stop" "$SERVER_RC" 0
if is_extant; then
    printf 'someone:a word\n' > "$TMP/users"
    start_server -m 64 -I 4m -S -Y "$TMP/users"
    SASL_USER=someone SASL_PASSWORD='a word' timeout 600 node t/clients/client_memjs.js "$PORT" ||
        fail "memjs with SASL"
    stop_server
    check "clean stop" "$SERVER_RC" 0
fi
finish
