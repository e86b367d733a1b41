# clients_lib.sh: sourced by the client tests: starts a server, checks, stops it.
#
# EXTANT names the server binary (default ./extant); Debian's memcached works too, it
# takes the same flags. start_server sets PORT, SOCK and SERVER_PID; the directory TMP
# and the server are removed however the test ends. Nothing here sleeps for a
# fixed time: wait_for polls a condition.

EXTANT=${EXTANT:-./extant}
TMP=$(mktemp -d "${TMPDIR:-/tmp}/extant-test.XXXXXX") || exit 1
SERVER_PID=
CHECKS=0
trap 'stop_server; rm -rf "$TMP"' EXIT
trap 'exit 1' INT TERM

fail() { echo "FAIL: $*" >&2; exit 1; }
skip() { echo "skipped: $*"; exit 77; }
need() { command -v "$1" > /dev/null || skip "$1 isn't installed"; }

# check NAME GOT WANTED
check() {
    CHECKS=$((CHECKS + 1))
    [ "$2" = "$3" ] && return
    [ -s "$TMP/err" ] && tail -n 5 "$TMP/err" >&2
    fail "$1: got '$2', wanted '$3'"
}
finish() { echo "ok: $CHECKS checks"; exit 0; }

# wait_for COMMAND [SECONDS]: polls until the command succeeds; only a hang reaches the limit
wait_for() {
    local end=$((SECONDS + ${2:-120}))
    until eval "$1"; do
        [ $SECONDS -lt $end ] || fail "gave up waiting for: $1"
        sleep 0.02
    done
}

is_extant() { case $(basename "$EXTANT") in extant*) return 0 ;; *) return 1 ;; esac; }

# Flags that only Extant and memcached with extstore know, for a tiny flash file. A slow disk evicts nothing.
flash_flags() { # megabytes
    if is_extant; then
        echo "-o ext_page_size=4,ext_path=$TMP/flash:${1}m,ext_wbuf_size=4,ext_item_age=1,ext_max_sleep=120000000"
    fi
}

# Flags with which every stored value is on flash within a moment.
all_flash_flags() {
    if is_extant; then
        echo "-o ext_page_size=4,ext_path=$TMP/allflash:64m,ext_wbuf_size=4,ext_item_age=0,ext_item_size=0,ext_recache_rate=0,ext_max_sleep=120000000"
    fi
}

# from_flash PROGRAM..: runs it with "store", which stores 500 values, and, once all are on flash, with
# "read", which reads and checks them all.
from_flash() {
    local before
    timeout 600 "$@" store || fail "$* store"
    if is_extant; then
        wait_for '[ "$(stat_of ram_items extant)" = 0 ]'
        before=$(stat_of get_extstore)
    fi
    timeout 600 "$@" read || fail "$* read"
    if is_extant; then
        check "$*: all were read from flash" "$(($(stat_of get_extstore) - before >= 500))" 1
    fi
}

# start_server [FLAGS]: on a TCP port of its own choice
start_server() {
    local user=
    [ "$(id -u)" = 0 ] && user="-u root"
    rm -f "$TMP/ports"
    # shellcheck disable=SC2086
    MEMCACHED_PORT_FILENAME=$TMP/ports "$EXTANT" $user -l 127.0.0.1 -p -1 -U 0 "$@" \
        > "$TMP/server.log" 2>&1 &
    SERVER_PID=$!
    wait_for "test -s $TMP/ports || ! kill -0 $SERVER_PID 2> /dev/null"
    PORT=$(sed -n 's/^TCP INET: *//p' "$TMP/ports" 2> /dev/null | head -n 1)
    [ -n "$PORT" ] || { cat "$TMP/server.log" >&2; fail "$EXTANT didn't start"; }
}

# stop_server: SIGTERM, and the exit code goes to SERVER_RC
stop_server() {
    [ -n "$SERVER_PID" ] || return 0
    kill -TERM "$SERVER_PID" 2> /dev/null
    wait "$SERVER_PID" 2> /dev/null
    SERVER_RC=$?
    SERVER_PID=
}

# stats_lines [SECTION]: "name value" of each line of `stats`, through bash's own TCP
stats_lines() {
    local word name value
    exec 8<> "/dev/tcp/127.0.0.1/${CLEAR_PORT:-$PORT}" || return 1
    printf 'stats%s\r\nquit\r\n' "${1:+ $1}" >&8
    while read -r word name value <&8; do
        [ "$word" = STAT ] && echo "$name ${value%$'\r'}"
        [ "$word" = $'END\r' ] && break
    done
    exec 8>&-
}
# stat_of NAME [SECTION]: its value; empty if there is no such line. Asked of CLEAR_PORT if that is set.
stat_of() { stats_lines "${2:-}" | sed -n "s/^$1 //p"; }

# python_with MODULE: an interpreter that can import it (Debian's packages belong to
# /usr/bin/python3, which need not be the first one on PATH); fails if there is none
python_with() {
    local python
    for python in ${PYTHON:-} /usr/bin/python3 python3; do
        "$python" -c "import $1" 2> /dev/null && { echo "$python"; return 0; }
    done
    return 1
}
