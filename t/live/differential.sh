#!/bin/bash
# Same requests, same answers: Debian's memcached and the server under test, byte for byte.
# First the test tests itself (memcached against memcached, planted faults), then come the
# fixed conversation and 100,000 random exchanges (COUNT=, SEED=), and fewer with flash, twice. All that
# once more in the binary protocol, but for the fixed conversation.
set -u
cd "$(dirname "$0")/../.." || exit 1
EXTANT=${EXTANT:-./extant}
COUNT=${COUNT:-100000}
SEED=${SEED:-1}
REF=${REF:-/usr/bin/memcached}
[ -x "$REF" ] || { echo "skipped: $REF isn't there"; exit 77; }
diff_test() { python3 t/live/differential.py --ref "$REF" "$@" || exit 1; }

diff_test --sut "$REF" --count 3000 --seed "$SEED"
diff_test --sut "$REF" --plant 25 --seed "$SEED"
diff_test --sut "$EXTANT" --fixed t/live/conversation.txt --seed "$SEED"
diff_test --sut "$EXTANT" --count "$COUNT" --seed "$SEED"
diff_test --binary --sut "$REF" --count 3000 --seed "$SEED"
diff_test --binary --sut "$REF" --plant 25 --seed "$SEED"
diff_test --binary --sut "$EXTANT" --count "$COUNT" --seed "$SEED"
case $(basename "$EXTANT") in
    extant*)
        # Tiny pages and no minimum size: items idle for a second go to flash. The second time, half of the
        # second hits are brought back to RAM.
        for more in "" ,ext_recache_rate=2; do
            for protocol in "" --binary; do
                # shellcheck disable=SC2086
                diff_test $protocol --sut "$EXTANT" --count $((COUNT / 5)) --seed "$SEED" --sut-flags \
                    "-o ext_page_size=2,ext_path=@DIR@/flash:64m,ext_wbuf_size=2,ext_item_age=0,ext_item_size=1$more"
            done
        done ;;
esac
