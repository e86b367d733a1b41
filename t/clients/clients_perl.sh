#!/bin/bash
# Cache::Memcached::Fast and Cache::Memcached, as they are, get from Extant what they get
# from memcached. One that isn't installed is left out; both missing is a skip.
# row: Cache::Memcached::Fast, Cache::Memcached | libcache-memcached-fast-perl, libcache-memcached-perl | text | all calls, with flash
set -u
cd "$(dirname "$0")/../.." || exit 1
. t/aid/clients_lib.sh
need perl
# shellcheck disable=SC2046
start_server -m 64 -I 4m $(flash_flags 64)
ran=0
for module in Cache::Memcached::Fast Cache::Memcached; do
    perl -M$module -e 1 2> /dev/null || { echo "$module isn't installed"; continue; }
    timeout 600 perl t/clients/client.pl $module "$PORT" || fail "$module"
    ran=$((ran + 1))
done
[ $ran -gt 0 ] || skip "no Perl client is installed"
stop_server
check "clean stop" "$SERVER_RC" 0
finish
