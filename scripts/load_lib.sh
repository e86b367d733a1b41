# load_lib.sh: sourced by the scripts that run scripts/load.c against a server of their own.
# Needs t/aid/clients_lib.sh sourced first.

LOAD=${LOAD:-build/load}
if [ ! -x "$LOAD" ]; then
    LOAD=$TMP/load
    ${CC:-cc} -std=gnu11 -O2 scripts/load.c -o "$LOAD" -levent_core -lm || exit 1
fi
FLASH_DIR=${FLASH_DIR:-$TMP}

# run_load WHAT OPTIONS: runs the generator against the server; its key=value lines go to
# $TMP/WHAT.run, its exit code to LOAD_RC
run_load() {
    local what=$1; shift
    "$LOAD" --server "127.0.0.1:$PORT" --kv "$@" > "$TMP/$what.run" 2> "$TMP/$what.err"
    LOAD_RC=$?
    [ -s "$TMP/$what.err" ] && cat "$TMP/$what.err" >&2
    return 0
}
# result WHAT NAME: one figure of a run, as a whole number
result() { sed -n "s/^$2=\([^.]*\).*/\1/p" "$TMP/$1.run"; }

# mean_bytes VALUE: the mean size of --value VALUE
mean_bytes() {
    case $1 in
        csv:*)
            awk -F, '$2 > 0 { n += $2; s += $1 * $2 } END { printf "%d\n", s / n }' "${1#csv:}"
            ;;
        *-*) echo $(((${1%-*} + ${1#*-}) / 2)) ;;
        *) echo "$1" ;;
    esac
}
rss_peak_mb() { awk '/^VmHWM:/ { print int($2 / 1024) + 1 }' "/proc/$SERVER_PID/status"; }

# figure NAME VALUE: a line of the report
figure() { printf '  %-34s %s\n' "$1" "$2"; }
BAD=0
# bad WHAT: notes a failed check and continues; the script's exit code tells
bad() { echo "  WRONG: $*"; BAD=$((BAD + 1)); }
