#!/bin/bash
# Perl's clients, unmodified, get from Extant what they get from memcached. A missing one is left out; without any
# the test is skipped.
# row: Cache::Memcached::Fast, Cache::Memcached | libcache-memcached-fast-perl, libcache-memcached-perl | text | all calls, with flash
# row: Cache::Memcached::Fast::Safe | libcache-memcached-fast-safe-perl | text | all calls, with flash
# row: Memcached::libmemcached | libmemcached-libmemcached-perl | text, binary | 500 values from flash in each protocol
# row: AnyEvent::Memcached | libanyevent-memcached-perl | text | 500 values from flash
set -u
cd "$(dirname "$0")/../.." || exit 1
. t/aid/clients_lib.sh
need perl
# shellcheck disable=SC2046
start_server -m 64 -I 4m $(flash_flags 64)
ran=0
for module in Cache::Memcached::Fast Cache::Memcached::Fast::Safe Cache::Memcached; do
    perl -M$module -e 1 2> /dev/null || { echo "$module isn't installed"; continue; }
    timeout 600 perl t/clients/client.pl $module "$PORT" || fail "$module"
    ran=$((ran + 1))
done
stop_server
check "clean stop" "$SERVER_RC" 0
for client in "Memcached::libmemcached text" "Memcached::libmemcached binary" "AnyEvent::Memcached text"; do
    module=${client% *} protocol=${client#* }
    perl -M"$module" -e 1 2> /dev/null || { echo "$module isn't installed"; continue; }
    # shellcheck disable=SC2046
    start_server -m 64 -I 4m $(flash_flags 64)
    timeout 600 perl t/clients/client_more.pl "$module" "$PORT" "$protocol" || fail "$client"
    stop_server
    check "clean stop" "$SERVER_RC" 0
    # shellcheck disable=SC2046
    start_server -m 64 $(all_flash_flags)
    from_flash perl t/clients/client_more.pl "$module" "$PORT" "$protocol"
    stop_server
    check "clean stop" "$SERVER_RC" 0
    ran=$((ran + 1))
done
[ $ran -gt 0 ] || skip "no Perl client is installed"
finish
