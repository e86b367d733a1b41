#!/bin/bash
# More than RAM at full speed: 4 GB of values go as fast as one client can send them into a
# server with 64 MB of memory and 6 GB of flash, first with sizes of small values from a
# table, then of 1 to 100 KB. Nothing may be evicted, every key must be read back with every
# byte right, and the process must stay within what was asked for.
#
#   scripts/big-load.sh [VALUE...]   sizes as load --value takes them
#                                    (csv:scripts/sizes-small.csv 1024-102400)
#
# Settable: EXTANT, LOAD, BYTES_MB (4096), RAM_MB (64), FLASH_MB (6144), FLASH_DIR,
# SERVER_FLAGS, CONNS (4), DEPTH (32), RSS_CONSTANT_MB (32: code, stacks, connections; what is
# asked for is -m plus the bound of the flash buffers, `stats extant` buffer_limit_bytes).
# -m also bounds the index: when RAM_MB can't index as many objects as there are (`stats
# extant` index_capacity_max), the run says so and takes what it needs; STRICT_RAM=1 doesn't.
# Exit: 0 all of it held, 1 not.
set -u
cd "$(dirname "$0")/.." || exit 1
. t/aid/clients_lib.sh
. scripts/load_lib.sh
BYTES_MB=${BYTES_MB:-4096}
RAM_MB=${RAM_MB:-64}
FLASH_MB=${FLASH_MB:-6144}
CONNS=${CONNS:-4}
DEPTH=${DEPTH:-32}
RSS_CONSTANT_MB=${RSS_CONSTANT_MB:-32}
[ $# -gt 0 ] || set -- csv:scripts/sizes-small.csv 1024-102400

start_with() { # megabytes of memory
    # shellcheck disable=SC2086
    start_server -m "$1" -o ext_path="$FLASH_DIR/big-load.flash:${FLASH_MB}m" ${SERVER_FLAGS:-}
}

big_load() { # value sizes
    local keys ram=$RAM_MB capacity buffers asked wrong
    keys=$((BYTES_MB * 1048576 / $(mean_bytes "$1")))
    start_with "$ram"
    capacity=$(stat_of index_capacity_max extant)
    echo "values of $1: $keys keys, $BYTES_MB MB into -m $ram and $FLASH_MB MB of flash"
    if [ -n "$capacity" ] && [ "$capacity" -lt "$keys" ] && [ -z "${STRICT_RAM:-}" ]; then
        ram=$((keys * 10 / 1048576 * 5 / 4 + 16))
        echo "  -m $RAM_MB indexes $capacity objects; for $keys this run takes -m $ram"
        stop_server
        start_with "$ram"
    fi

    set -- --keys "$keys" --value "$1" --conns "$CONNS" --depth "$DEPTH" --epoch 1
    run_load load --mode load "$@"
    figure "load: seconds" "$(result load seconds)"
    figure "load: MB of values" "$(($(result load value_bytes_sent) / 1000000))"
    figure "load: p99, p99.9, max (us)" "$(result load set_p99_us), $(result load set_p999_us), \
$(result load set_max_us)"
    [ "$LOAD_RC" = 0 ] && [ "$(result load stored)" = "$keys" ] || bad "not every set was stored"
    figure "evictions" "$(stat_of evictions)"
    [ "$(stat_of evictions)" = 0 ] || bad "evictions although flash has room"

    run_load verify --mode verify "$@"
    wrong=$(($(result verify wrong) + $(result verify stale)))
    figure "read back: right, wrong, missing" \
        "$(($(result verify hits) - wrong)), $wrong, $(result verify misses)"
    [ "$LOAD_RC" = 0 ] || bad "the reading client ended with $LOAD_RC"
    [ "$(result verify misses)" = 0 ] || bad "keys are missing"
    figure "read from flash" "$(stat_of get_extstore)"
    figure "evictions after reading" "$(stat_of evictions)"
    [ "$(stat_of evictions)" = 0 ] || bad "evictions while reading"
    buffers=$(stat_of buffer_limit_bytes extant)
    asked=$((ram + ${buffers:-0} / 1048576 + RSS_CONSTANT_MB))
    figure "highest RSS, bound (MB)" "$(rss_peak_mb), $asked"
    [ "$(rss_peak_mb)" -le "$asked" ] || bad "RSS beyond what was asked for"
    stop_server
    [ "$SERVER_RC" = 0 ] || bad "the server ended with $SERVER_RC"
    rm -f "$FLASH_DIR/big-load.flash"
}

for value in "$@"; do
    big_load "$value"
done
[ $BAD = 0 ]
