#!/bin/bash
# The unmodified npm package memcached gets from Extant what it gets from memcached.
# row: memcached (node) | npm memcached | text | all calls, with flash
set -u
cd "$(dirname "$0")/../.." || exit 1
. t/aid/clients_lib.sh
need node
[ -d t/clients/node_modules/memcached ] ||
    skip "npm's memcached isn't installed (npm ci in t/clients)"
# shellcheck disable=SC2046
start_server -m 64 -I 4m $(flash_flags 64)
timeout 600 node t/clients/client.js "$PORT" || fail "npm memcached"
stop_server
check "clean stop" "$SERVER_RC" 0
finish
