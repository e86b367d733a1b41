#!/bin/bash
# Unmodified php-memcached gets from Extant what it gets from memcached.
# row: php-memcached | php-memcached | text, binary | all calls; 500 values from flash in each protocol; SASL
set -u
cd "$(dirname "$0")/../.." || exit 1
. t/aid/clients_lib.sh
. t/aid/php_lib.sh
php_rounds php-memcached Memcached t/clients/client.php
if is_extant; then
    printf 'someone:a word\n' > "$TMP/users"
    start_server -m 64 -I 4m -S -Y "$TMP/users"
    SASL_USER=someone SASL_PASSWORD='a word' timeout 600 php t/clients/client.php "$PORT" binary ||
        fail "php-memcached with SASL"
    SASL_USER=someone SASL_PASSWORD=another timeout 600 php t/clients/client.php "$PORT" binary \
        > "$TMP/out" 2>&1 && fail "a wrong password was let in"
    stop_server
    check "clean stop" "$SERVER_RC" 0
fi
finish
