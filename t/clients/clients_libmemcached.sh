#!/bin/bash
# libmemcached's command line tools work unmodified in both protocols, and memccapable passes 27 of 27 in
# each.
# row: libmemcached (memcat, memcp, memccapable ..) | libmemcached-tools | text, binary | every tool; memccapable 27 of 27 in each protocol
set -u
cd "$(dirname "$0")/../.." || exit 1
. t/aid/clients_lib.sh
for tool in memccp memccat memcstat memcrm memctouch memcexist memcping memcflush memccapable; do
    need $tool
done
EXTANT=$(readlink -f "$EXTANT")
cd "$TMP" || exit 1
noise() { python3 -c 'import random, sys; sys.stdout.buffer.write(random.Random(int(sys.argv[2])).randbytes(int(sys.argv[1])))' "$1" "${2:-1}"; }

# memccat ends its output with a newline of its own, if the file doesn't.
check_file() {
    # shellcheck disable=SC2086
    memccat $S --file=got "$1" || fail "memccat $1"
    head -c "$(stat -c %s "$1")" got | cmp -s - "$1" || fail "memccat $1: other bytes"
    rm -f got
    CHECKS=$((CHECKS + 1))
}

# --binary is libmemcached's MEMCACHED_BEHAVIOR_BINARY_PROTOCOL.
run_tools() {
    S="--servers=127.0.0.1:$PORT ${1:-}"
    noise 100000 > one
    noise 1000000 > two
    printf 'text\n' > three
    : > empty

    memcping "--servers=127.0.0.1:$PORT" || fail "memcping" # it knows lines only
    memccp $S one two three empty || fail "memccp"
    check "memcexist: there" "$(memcexist $S one three > out 2>&1; echo $?)" 0
    check "memcexist: not there" "$(memcexist $S absent > out 2>&1; echo $?)" 1
    for f in one two three empty; do check_file $f; done
    check "memccat: absent" "$(memccat $S absent > out 2>&1; echo $?)" 1
    memccp $S --add --expire=1000 three > out 2>&1 && fail "memccp --add over an existing key"
    cp three four
    memccp $S --add four || fail "memccp --add"
    printf 'other\n' > three
    memccp $S --replace three || fail "memccp --replace"
    check "replaced" "$(memccat $S three | head -n 1)" other
    memctouch $S --expire=1000 three || fail "memctouch"
    check "memctouch: absent" "$(memctouch $S --expire=10 absent > out 2>&1; echo $?)" 1
    memccp $S --expire=1 four || fail "memccp --expire"
    wait_for "! memcexist $S four > out 2>&1"
    memcrm $S three || fail "memcrm"
    check "memcrm: gone" "$(memcexist $S three > out 2>&1; echo $?)" 1
    memcstat $S > stats || fail "memcstat"
    grep -q 'cmd_set: [1-9]' stats || fail "memcstat shows no cmd_set"
    grep -q 'curr_items: [1-9]' stats || fail "memcstat: $(grep curr_items stats)"
    memcflush $S || fail "memcflush"
    check "memcflush: empty" "$(memcexist $S one > out 2>&1; echo $?)" 1
}

# shellcheck disable=SC2046
start_server -m 64 -I 4m $(flash_flags 64)
# shellcheck disable=SC2086
for protocol in "" --binary; do
    run_tools $protocol
done
for protocol in -a -b; do
    memccapable -h 127.0.0.1 -p "$PORT" $protocol -t 120 > capable 2>&1 || { cat capable; fail "memccapable $protocol"; }
    check "memccapable $protocol" "$(grep -c '\[pass\]' capable) of $(grep -c '\[' capable)" "27 of 27"
done
stop_server
check "clean stop" "$SERVER_RC" 0

if is_extant; then
    # shellcheck disable=SC2046
    start_server -m 64 $(all_flash_flags)
    for i in $(seq 200); do noise $((i * 37)) "$i" > "flash-$i"; done
    for protocol in "" --binary; do
        S="--servers=127.0.0.1:$PORT $protocol"
        # shellcheck disable=SC2086
        memccp $S flash-* || fail "memccp $protocol"
        wait_for '[ "$(stat_of ram_items extant)" = 0 ]'
        before=$(stat_of get_extstore)
        for i in $(seq 200); do check_file "flash-$i"; done
        check "$protocol from flash" "$(($(stat_of get_extstore) - before >= 200))" 1
    done
    stop_server
    check "clean stop" "$SERVER_RC" 0
fi
finish
