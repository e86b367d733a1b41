#!/bin/bash
# spymemcached in both protocols gets from Extant what it gets from memcached.
# row: spymemcached (Java) | libspymemcached-java | text, binary | all calls; 500 values from flash in each protocol
set -u
cd "$(dirname "$0")/../.." || exit 1
. t/aid/clients_lib.sh
need javac
jar=/usr/share/java/spymemcached.jar
[ -f $jar ] || skip "spymemcached isn't installed"
javac -cp $jar -d "$TMP" t/clients/Client.java || fail "javac"
client="java -Xmx256m -cp $jar:$TMP Client"
for protocol in text binary; do
    # shellcheck disable=SC2046
    start_server -m 64 -I 4m $(flash_flags 64)
    # shellcheck disable=SC2086
    timeout 600 $client "$PORT" $protocol || fail "spymemcached, $protocol"
    stop_server
    check "clean stop" "$SERVER_RC" 0
    # shellcheck disable=SC2046
    start_server -m 64 $(all_flash_flags)
    # shellcheck disable=SC2086
    from_flash $client "$PORT" $protocol
    stop_server
    check "clean stop" "$SERVER_RC" 0
done
finish
