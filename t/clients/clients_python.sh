#!/bin/bash
# pymemcache, python-memcached and pylibmc, as they are, do what they do with memcached.
# Each that isn't installed is skipped; all missing is a skip of the test.
set -u
cd "$(dirname "$0")/../.." || exit 1
. t/aid/clients_lib.sh
ran=0
# shellcheck disable=SC2046
start_server -m 64 -I 4m $(flash_flags 64)
for client in pymemcache memcache pylibmc; do
    python=$(python_with "$client") || { echo "$client isn't installed"; continue; }
    timeout 600 "$python" t/clients/client.py "$client" "$PORT" || fail "$client"
    ran=$((ran + 1))
done
[ $ran -gt 0 ] || skip "no Python client is installed"
stop_server
check "clean stop" "$SERVER_RC" 0
finish
