#!/bin/bash
# php-memcached, as it is, gets from Extant what it gets from memcached.
set -u
cd "$(dirname "$0")/../.." || exit 1
. t/aid/clients_lib.sh
need php
php -r 'exit(class_exists("Memcached") ? 0 : 1);' || skip "php-memcached isn't installed"
# shellcheck disable=SC2046
start_server -m 64 -I 4m $(flash_flags 64)
timeout 600 php t/clients/client.php "$PORT" || fail "php-memcached"
stop_server
check "clean stop" "$SERVER_RC" 0
finish
