#!/bin/bash
# Every fuzzer (t/fuzz/fuzz_*.c) for a while, from the kept corpus on; fails if one finds something.
#
#   t/fuzz/fuzz.sh [TARGET...]
#
# FUZZ_SECONDS is the time for each (default 8; `make fuzz` takes 60). What a target learns stays in
# build/fuzz/corpus/TARGET for the next time; what it finds is build/fuzz/found/TARGET-crash-...; put
set -u
cd "$(dirname "$0")/../.." || exit 1

seconds=${FUZZ_SECONDS:-8}
clang=${CLANG:-clang}
out=build/fuzz
mkdir -p "$out/found"

probe='int LLVMFuzzerTestOneInput(const char *d, long n) { return !d && n; }'
if ! echo "$probe" | "$clang" -fsanitize=fuzzer,address,undefined -x c - -o "$out/probe" 2>/dev/null
then
    echo "skipped: $clang can't build fuzzers (libclang-rt-14-dev)"
    exit 77
fi
make --no-print-directory CLANG="$clang" fuzzers || exit 1

if [ $# = 0 ]; then
    for source in t/fuzz/fuzz_*.c; do
        name=${source#t/fuzz/fuzz_}
        set -- "$@" "${name%.c}"
    done
fi

failed=0
for target in "$@"; do
    mkdir -p "$out/corpus/$target" "t/fuzz/corpus/$target"
    longest=4096
    dictionary=()
    [ "$target" = attach ] && longest=240
    [ -e "t/fuzz/corpus/$target.dict" ] && dictionary=(-dict="t/fuzz/corpus/$target.dict")
    log=$out/$target.log
    if "$out/$target" -max_total_time="$seconds" -max_len="$longest" -timeout=10 -verbosity=0 \
        -print_final_stats=1 "${dictionary[@]}" -artifact_prefix="$out/found/$target-" \
        "$out/corpus/$target" "t/fuzz/corpus/$target" >"$log" 2>&1; then
        echo "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs, nothing found"
    else
        failed=1
        echo "$target: FOUND something:"
        grep -E 'extant: bug|ERROR|SUMMARY|runtime error|Test unit written' "$log" | sed 's/^/    /'
    fi
done
exit $failed
