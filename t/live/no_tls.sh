#!/bin/bash
# no_tls.sh: a build without the OpenSSL headers works, and knows nothing of TLS.
# EXTANT_NO_TLS_BIN names it; without it the test is skipped.
set -u
cd "$(dirname "$0")/../.." || exit 1
EXTANT=${EXTANT_NO_TLS_BIN:-build/notls/server}
[ -x "$EXTANT" ] || { echo "skipped: no $EXTANT"; exit 77; }
. t/aid/clients_lib.sh

user=
[ "$(id -u)" = 0 ] && user="-u root"
refusal() { # FLAGS: the message, and the exit code
    # shellcheck disable=SC2086
    "$EXTANT" $user "$@" 2>&1
    echo "$?"
}
check "-Z" "$(refusal -Z)" $'This server is not built with TLS support.\n64'
check "ssl_key" "$(refusal -o ssl_key=/x)" $'Illegal suboption "ssl_key=/x" (-h lists all)\n64'
check "notls" "$(refusal -l notls:127.0.0.1)" \
      $'\'notls\' option is valid only when SSL is enabled (-Z)\n64'
check "help" "$("$EXTANT" -h | grep -c -e ssl)" 0
check "no library" "$(ldd "$EXTANT" | grep -c -e libssl -e libcrypto)" 0

start_server
exec 3<>"/dev/tcp/127.0.0.1/$PORT"
printf 'set a 0 0 1\r\nx\r\nrefresh_certs\r\nstats settings\r\nstats\r\nget a\r\nquit\r\n' >&3
cat <&3 > "$TMP/out"
exec 3>&-
check "stored" "$(head -n 1 "$TMP/out")" $'STORED\r'
check "refresh_certs" "$(sed -n 2p "$TMP/out")" $'ERROR\r'
check "got" "$(tail -n 3 "$TMP/out" | tr -d '\r' | tr '\n' ' ')" 'VALUE a 0 1 x END '
check "no lines" "$(grep -c ssl "$TMP/out")" 0

# Plain make says what it leaves out.
check "told" "$(CC=gcc TLS='' scripts/install-deps.sh check 2>&1)" \
      "extant: no <openssl/ssl.h>: built without TLS (-Z); 'make serve' installs it"
check "and else nothing" "$(CC=gcc TLS=1 scripts/install-deps.sh check 2>&1)" ''
stop_server
check "clean stop" "$SERVER_RC" 0
finish
