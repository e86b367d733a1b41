#!/bin/bash
# memcaslap verifies what it reads, and that what has expired is gone.
# row: memcaslap | libmemcached-tools | text | verifies what it reads, expired values are gone
set -u
cd "$(dirname "$0")/../.." || exit 1
. t/aid/clients_lib.sh
need memcaslap
# shellcheck disable=SC2046
start_server -m 64 $(flash_flags 256)

# key sizes, value sizes with weights, 3 of 10 commands a set
cat > "$TMP/load.cnf" <<'CNF'
key
16 32 1
value
20 200 0.5
1000 4000 0.4
10000 60000 0.1
cmd
0 0.3
1 0.7
CNF
slap() { # name, more options
    local name=$1; shift
    timeout 600 memcaslap -s "127.0.0.1:$PORT" -F "$TMP/load.cnf" -T 1 -c 8 -w 1k "$@" \
        > "$TMP/slap" 2>&1 || { tail -n 20 "$TMP/slap"; fail "$name"; }
    grep -Eq '^Run time' "$TMP/slap" || { tail -n 20 "$TMP/slap"; fail "$name: no result"; }
}
count() { sed -n "s/^$1: *\([0-9]*\).*/\1/p" "$TMP/slap" | tail -n 1; }

slap "verify all" -x 30000 -v 1
check "verify: misses of verified values" "$(count verify_misses)" 0
check "verify: wrong values" "$(count verify_failed)" 0
slap "multiget" -x 20000 -v 0.2 -d 50
check "multiget: wrong values" "$(count verify_failed)" 0
slap "expiry" -t 5s -v 0.2 -e 0.1
check "expiry: outlived their time" "$(count expired_get)" 0
check "expiry: wrong values" "$(count verify_failed)" 0
stop_server
check "clean stop" "$SERVER_RC" 0
finish
