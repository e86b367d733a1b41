#!/bin/bash
# php-memcache, the older of PHP's two extensions, gets from Extant what it gets from memcached.
# row: php-memcache | php-memcache | text, binary | all calls; 500 values from flash in each protocol
set -u
cd "$(dirname "$0")/../.." || exit 1
. t/aid/clients_lib.sh
need php
php -r 'exit(class_exists("Memcache") ? 0 : 1);' || skip "php-memcache isn't installed"
for protocol in text binary; do
    # shellcheck disable=SC2046
    start_server -m 64 -I 4m $(flash_flags 64)
    timeout 600 php t/clients/client_memcache.php "$PORT" $protocol || fail "php-memcache, $protocol"
    stop_server
    check "clean stop" "$SERVER_RC" 0
    # shellcheck disable=SC2046
    start_server -m 64 $(all_flash_flags)
    from_flash php t/clients/client_memcache.php "$PORT" $protocol
    stop_server
    check "clean stop" "$SERVER_RC" 0
done
finish
