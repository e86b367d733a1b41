#!/bin/bash
# pymemcache, python-memcached, pylibmc in both protocols and bmemcached, unmodified, do what they do with
# memcached. A missing one is left out; without any the test is skipped.
# row: pymemcache, python-memcached | python3-pymemcache, python3-memcache | text | all calls; 500 values from flash
# row: pylibmc | python3-pylibmc | text, binary | all calls; 500 values from flash in each protocol
# row: bmemcached | python3-binary-memcached | binary | all calls; 500 values from flash; SASL
set -u
cd "$(dirname "$0")/../.." || exit 1
. t/aid/clients_lib.sh
ran=0
for client in pymemcache memcache pylibmc pylibmc-binary bmemcached; do
    python=$(python_with "${client%-binary}") || { echo "$client isn't installed"; continue; }
    # shellcheck disable=SC2046
    start_server -m 64 -I 4m $(flash_flags 64)
    timeout 600 "$python" t/clients/client.py "$client" "$PORT" || fail "$client"
    stop_server
    check "clean stop" "$SERVER_RC" 0
    # shellcheck disable=SC2046
    start_server -m 64 $(all_flash_flags)
    from_flash "$python" t/clients/client.py "$client" "$PORT"
    stop_server
    check "clean stop" "$SERVER_RC" 0
    ran=$((ran + 1))
done
[ $ran -gt 0 ] || skip "no Python client is installed"
if is_extant && python=$(python_with bmemcached); then
    printf 'someone:a word\n' > "$TMP/users"
    start_server -m 64 -I 4m -S -Y "$TMP/users"
    SASL_USER=someone SASL_PASSWORD='a word' timeout 600 "$python" t/clients/client.py bmemcached "$PORT" ||
        fail "bmemcached with SASL"
    stop_server
    check "clean stop" "$SERVER_RC" 0
fi
finish
