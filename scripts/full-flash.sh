#!/bin/bash
# Full flash: three times what the flash holds is written once, key after key, then every key
# is read. No set may fail or wait longer than ext_max_sleep (plus SLACK_MS), the remaining values must
# be right byte by byte, the oldest must have been evicted first, and the counters must add up: every
# miss of the client is a miss of the server and has one reason, and every page is in one place.
#
#   scripts/full-flash.sh [VALUE]    sizes as load --value takes them (512-20480)
#
# Settable: EXTANT, LOAD, FLASH_MB (1024), TIMES (3), RAM_MB (64), FLASH_DIR, SERVER_FLAGS,
# MAX_SLEEP_US (1000000), SLACK_MS (250), CONNS (4), DEPTH (8). Exit: 0 all of it held, 1 not.
set -u
cd "$(dirname "$0")/.." || exit 1
. t/aid/clients_lib.sh
. scripts/load_lib.sh
VALUE=${1:-512-20480}
FLASH_MB=${FLASH_MB:-1024}
MAX_SLEEP_US=${MAX_SLEEP_US:-1000000}
keys=$((FLASH_MB * ${TIMES:-3} * 1048576 / $(mean_bytes "$VALUE")))

# shellcheck disable=SC2086
start_server -m "${RAM_MB:-64}" -o ext_path="$FLASH_DIR/full-flash.flash:${FLASH_MB}m" \
    -o ext_max_sleep="$MAX_SLEEP_US" ${SERVER_FLAGS:-}
pages=$(stats_lines extstore | grep -c ':version ')
echo "$keys keys with values of $VALUE, ${TIMES:-3} times the flash of $FLASH_MB MB ($pages pages)"

run_load load --mode load --keys "$keys" --value "$VALUE" --conns "${CONNS:-4}" \
    --depth "${DEPTH:-8}" --epoch 1
mb_sent=$(($(result load value_bytes_sent) / 1000000))
figure "load: seconds, MB of values" "$(result load seconds), $mb_sent"
figure "load: p99, p99.9, max (us)" "$(result load set_p99_us), $(result load set_p999_us), \
$(result load set_max_us)"
[ "$LOAD_RC" = 0 ] && [ "$(result load stored)" = "$keys" ] || bad "not every set was stored"
limit_us=$((MAX_SLEEP_US + ${SLACK_MS:-250} * 1000))
[ "$(result load set_max_us)" -le $limit_us ] || bad "a set stalled"

misses_before=$(stat_of get_misses)
run_load verify --mode verify --keys "$keys" --value "$VALUE" --conns "${CONNS:-4}" \
    --depth "${DEPTH:-8}" --epoch 1
hits=$(result verify hits)
misses=$(result verify misses)
wrong=$(($(result verify wrong) + $(result verify stale)))
figure "read back: right, wrong, gone" "$((hits - wrong)), $wrong, $misses"
[ "$LOAD_RC" = 0 ] || bad "the reading client ended with $LOAD_RC"
survived=$(sed -n 's/^survived_by_decile=//p' "$TMP/verify.run")
figure "survived, oldest to youngest tenth" "$survived"
# Oldest first: no tenth may keep more than a younger one, plus or minus 3%, and
# the youngest is all there.
echo "$survived" | awk -F, '{
    for (i = 2; i <= NF; i++) if ($(i - 1) > $i + 0.03) exit 1
    if ($NF < 0.99 || $1 > 0.03) exit 1
}' || bad "the oldest didn't go first"
[ "$hits" -gt $((keys / ${TIMES:-3} * 7 / 10)) ] ||
    bad "less than 70% of what the flash holds is left"

evictions=$(stat_of evictions)
dropped=$(stat_of extstore_objects_evicted)
figure "get_misses: server, client" "$(($(stat_of get_misses) - misses_before)), $misses"
[ $(($(stat_of get_misses) - misses_before)) = "$misses" ] || bad "misses aren't counted right"
figure "gone: evicted from flash, from RAM" "$dropped, $evictions"
figure "badcrc_from_extstore" "$(stat_of badcrc_from_extstore)"
[ "$(stat_of badcrc_from_extstore)" = 0 ] || bad "records failed their checksum"
if is_extant; then
    neighbours=$(stat_of evictions_same_tag extant)
    figure "evicted with a same-tag one" "$neighbours"
    [ $((dropped + evictions + neighbours)) = "$misses" ] || bad "misses without exactly one reason"
    reasons=0
    for name in no_flash write_wait flash_full device index_full; do
        n=$(stat_of evictions_$name extant)
        figure "  evictions_$name" "${n:--}"
        reasons=$((reasons + ${n:-0}))
    done
    [ $reasons = "$evictions" ] || bad "evictions have $reasons reasons"
    [ "$(stat_of curr_items)" = "$hits" ] || bad "curr_items $(stat_of curr_items), readable $hits"
fi
free=$(stat_of extstore_pages_free)
used=$(stat_of extstore_pages_used)
figure "pages free, used, in all" "$free, $used, $pages"
[ $((free + used)) = "$pages" ] || bad "pages are lost or in two places"
[ "$(stat_of extstore_bytes_used)" -le $((FLASH_MB * 1048576)) ] ||
    bad "bytes_used beyond the flash"
stop_server
[ "$SERVER_RC" = 0 ] || bad "the server ended with $SERVER_RC"
rm -f "$FLASH_DIR/full-flash.flash"
[ $BAD = 0 ]
