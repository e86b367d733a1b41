#!/bin/bash
# Postfix's memcache table: 200 look-ups fill it from the table behind it, as Postfix does; the entries move to
# flash, and the same look-ups find them there without that table.
# row: Postfix memcache tables | postfix | text | 200 look-ups from flash; the table behind it
set -u
cd "$(dirname "$0")/../.." || exit 1
. t/aid/clients_lib.sh
PATH=$PATH:/usr/sbin
need postmap
postconf -m 2> /dev/null | grep -qx memcache || skip "this Postfix has no memcache tables"
# shellcheck disable=SC2046
start_server -m 64 $(all_flash_flags)
mkdir "$TMP/postfix"
echo 'compatibility_level = 3.6' > "$TMP/postfix/main.cf"
for i in $(seq 200); do echo "user$i@example.com"; done > "$TMP/users"
sed 's/\(user\(.*\)@.*\)/\1 mailbox\2@mail.example.com/' "$TMP/users" > "$TMP/aliases"
table() { # EXTRA LINE..: the configuration of a table
    printf '%s\n' "memcache = inet:127.0.0.1:$PORT" 'key_format = aliases:%s' 'ttl = 1000' 'timeout = 120' "$@"
}
table "backup = texthash:$TMP/aliases" > "$TMP/filling"
table > "$TMP/alone"
# Prints "key value" for each user that the table knows.
look_up() { postmap -c "$TMP/postfix" -q - "memcache:$TMP/$1" < "$TMP/users" 2>> "$TMP/err" | tr '\t' ' '; }

check "nothing is there" "$(look_up alone | wc -l)" 0
check "from the table behind it" "$(look_up filling)" "$(cat "$TMP/aliases")"
if is_extant; then
    wait_for '[ "$(stat_of ram_items extant)" = 0 ]'
    before=$(stat_of get_extstore)
fi
check "all entries are stored" "$(look_up alone)" "$(cat "$TMP/aliases")"
if is_extant; then
    check "and were read from flash" "$(($(stat_of get_extstore) - before))" 200
fi
stop_server
check "clean stop" "$SERVER_RC" 0
finish
