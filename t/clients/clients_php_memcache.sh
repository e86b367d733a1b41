#!/bin/bash
# php-memcache, the older of PHP's two extensions, gets from Extant what it gets from memcached.
# row: php-memcache | php-memcache | text, binary | all calls; 500 values from flash in each protocol
set -u
cd "$(dirname "$0")/../.." || exit 1
. t/aid/clients_lib.sh
. t/aid/php_lib.sh
php_rounds php-memcache Memcache t/clients/client_memcache.php
finish
