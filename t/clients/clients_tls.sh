#!/bin/bash
# With TLS: pymemcache with a tls_context, and a session of openssl s_client; both with values that are
# on flash. Both check the server's certificate.
# row: pymemcache, openssl s_client over TLS | python3-pymemcache, openssl | text | certificates are checked; 500 values from flash
set -u
cd "$(dirname "$0")/../.." || exit 1
. t/aid/clients_lib.sh
need openssl
"$EXTANT" -h | grep -q -e --enable-ssl || skip "built without TLS"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout "$TMP/key" -out "$TMP/cert" \
    2> "$TMP/err" || fail "no certificate"
start_tls() { # FLAGS; a port in the clear beside, for stat_of
    start_server "$@" -Z -o "ssl_chain_cert=$TMP/cert,ssl_key=$TMP/key" -l notls:127.0.0.1:0
    CLEAR_PORT=$(sed -n 's/^TCP INET: *//p' "$TMP/ports" | sed -n 2p)
}

if python=$(python_with pymemcache); then
    export TLS_CA=$TMP/cert
    # shellcheck disable=SC2046
    start_tls -m 64 -I 4m $(flash_flags 64)
    timeout 600 "$python" t/clients/client.py pymemcache "$PORT" || fail "pymemcache"
    stop_server
    check "clean stop" "$SERVER_RC" 0
    # shellcheck disable=SC2046
    start_tls -m 64 $(all_flash_flags)
    from_flash "$python" t/clients/client.py pymemcache "$PORT"
    stop_server
    check "clean stop" "$SERVER_RC" 0
else
    echo "pymemcache isn't installed"
fi

# shellcheck disable=SC2046
start_tls -m 64 $(all_flash_flags)
# talk [FLAGS]: sends its input to the server, up to quit; prints the answers without \r
talk() {
    timeout 60 openssl s_client -quiet -connect "127.0.0.1:$PORT" -servername localhost \
        -CAfile "$TMP/cert" -verify_return_error "$@" 2> "$TMP/err" | tr -d '\r'
}

for version in -tls1_2 -tls1_3; do
    check "a session, $version" \
        "$(printf 'set a 5 0 3\r\nabc\r\nget a\r\ndelete a\r\nget a\r\nquit\r\n' | talk $version)" \
        $'STORED\nVALUE a 5 3\nabc\nEND\nDELETED\nEND'
done

value=$(printf '%5000s' x | tr ' ' v)
for i in $(seq 50); do printf 'set f%d 0 0 5000 noreply\r\n%s\r\n' "$i" "$value"; done > "$TMP/in"
printf 'mn\r\nquit\r\n' >> "$TMP/in"
check "stored" "$(talk < "$TMP/in")" "MN"
is_extant && wait_for '[ "$(stat_of ram_items extant)" = 0 ]'
read=$(stat_of get_extstore)
for i in $(seq 50); do printf 'VALUE f%d 0 5000\n%s\nEND\n' "$i" "$value"; done > "$TMP/wanted"
{ for i in $(seq 50); do printf 'get f%d\r\n' "$i"; done; printf 'quit\r\n'; } | talk > "$TMP/got"
check "what comes back" "$(cmp "$TMP/got" "$TMP/wanted" 2>&1)" ""
is_extant && check "from flash" "$(($(stat_of get_extstore) - read))" 50
check "no errors" "$(stat_of ssl_handshake_errors) $(stat_of ssl_proto_errors)" "0 0"
stop_server
check "clean stop" "$SERVER_RC" 0
finish
