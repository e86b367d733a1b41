#!/bin/bash
# Every fuzzer (t/fuzz/fuzz_*.c); fails if one finds something.
#
#   t/fuzz/fuzz.sh [TARGET...]                   the same inputs each time: `make test` runs this
#   FUZZ_SECONDS=60 t/fuzz/fuzz.sh [TARGET...]   searches this long with each: `make fuzz`
#
# The first runs the kept corpus (t/fuzz/corpus/) and FUZZ_RUNS inputs made of it, from SEED (1): the code alone
# decides how it ends. A search draws another seed each time and continues with the inputs of earlier ones
# (build/fuzz/corpus/TARGET). What it finds is in build/fuzz/found/TARGET-crash-...; once the fault is mended,
# keep it in t/fuzz/corpus/TARGET under the name of the fault, and fuzz_corpus_test.c runs it too.
set -u
cd "$(dirname "$0")/../.." || exit 1

seconds=${FUZZ_SECONDS:-}
seed=${SEED:-1}
clang=${CLANG:-clang}
out=build/fuzz
mkdir -p "$out/found"

probe='int LLVMFuzzerTestOneInput(const char *d, long n) { return !d && n; }'
if ! echo "$probe" | "$clang" -fsanitize=fuzzer,address,undefined -x c - -o "$out/probe" 2>/dev/null
then
    echo "skipped: $clang can't build fuzzers (libclang-rt-14-dev)"
    exit 77
fi
make -s --no-print-directory -j"$(nproc)" CLANG="$clang" fuzzers || exit 1

# libFuzzer compares addresses too: with the same addresses it makes the same inputs each time.
fixed_addresses=()
if setarch -R true 2>/dev/null; then
    fixed_addresses=(setarch -R)
fi

if [ $# = 0 ]; then
    for source in t/fuzz/fuzz_*.c; do
        name=${source#t/fuzz/fuzz_}
        set -- "$@" "${name%.c}"
    done
fi

# New inputs go to the first folder, so it is never the kept corpus.
failed=0
for target in "$@"; do
    longest=4096
    runs=${FUZZ_RUNS:-40000}
    if [ "$target" = attach ] || [ "$target" = flash ]; then # each starts a server two or three times
        longest=240
        runs=${FUZZ_RUNS:-200}
    elif [ "$target" = auth ]; then # each takes 6 ms
        runs=${FUZZ_RUNS:-5000}
    fi
    if [ -n "$seconds" ]; then
        learnt=$out/corpus/$target
        how=(-max_total_time="$seconds" -timeout=10)
        drawn="in $seconds s"
    else
        learnt=$out/learnt/$target
        rm -rf "$learnt"
        how=(-runs="$runs" -seed="$seed" -timeout=600)
        drawn="seed $seed"
    fi
    mkdir -p "$learnt"
    dictionary=()
    [ -e "t/fuzz/corpus/$target.dict" ] && dictionary=(-dict="t/fuzz/corpus/$target.dict")
    log=$out/$target.log
    if "${fixed_addresses[@]}" "$out/bin/$target" "${how[@]}" -max_len="$longest" -verbosity=0 \
        -print_final_stats=1 "${dictionary[@]}" -artifact_prefix="$out/found/$target-" \
        "$learnt" "t/fuzz/corpus/$target" >"$log" 2>&1; then
        echo "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs, $drawn, nothing found"
    else
        failed=1
        echo "$target: FOUND something:"
        grep -E 'extant: bug|ERROR|SUMMARY|runtime error|Test unit written' "$log" | sed 's/^/    /'
    fi
done
exit $failed
