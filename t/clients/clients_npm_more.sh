#!/bin/bash
# npm's memcache-plus, memcache-client and memcache, unmodified, get from Extant what they get from memcached.
# row: memcache-plus, memcache-client, memcache (node) | npm memcache-plus, memcache-client, memcache | text | all calls; 500 values from flash
set -u
cd "$(dirname "$0")/../.." || exit 1
. t/aid/clients_lib.sh
need node
for package in memcache-plus memcache-client memcache; do
    [ -d t/clients/node_modules/$package ] || skip "npm's $package isn't installed (npm ci in t/clients)"
    # shellcheck disable=SC2046
    start_server -m 64 -I 4m $(flash_flags 64)
    timeout 600 node t/clients/client_more.js $package "$PORT" || fail "npm $package"
    stop_server
    check "clean stop" "$SERVER_RC" 0
    # shellcheck disable=SC2046
    start_server -m 64 $(all_flash_flags)
    from_flash node t/clients/client_more.js $package "$PORT"
    stop_server
    check "clean stop" "$SERVER_RC" 0
done
finish
