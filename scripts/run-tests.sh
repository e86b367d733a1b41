#!/bin/bash
# Runs tests, two at a time, and sums them up; `make test` calls it.
#
#   run-tests.sh [compile] PROGRAM_OR_SCRIPT...
#
# A Criterion program counts as many tests as it holds, a script counts as one; exit
# status 77 of a script is a skip. "compile" is the claim that everything builds, with
# gcc and with clang. The output of each goes to build/test-logs; of one that fails the
# tail is shown. The last line is "N passed, N failed" (", N skipped" if there are any).
# Settable: TEST_JOBS (2), TEST_TIMEOUT seconds for one program or script (1800; only a hang takes that long).
set -u
cd "$(dirname "$0")/.."

jobs=${TEST_JOBS:-2}
limit=${TEST_TIMEOUT:-1800}
logs=build/test-logs
rm -rf "$logs"
mkdir -p "$logs"

export NODE_PATH=$PWD/t/clients/node_modules
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1:abort_on_error=0:exitcode=99}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
export TSAN_OPTIONS=${TSAN_OPTIONS:-halt_on_error=1:second_deadlock_stack=1}

# TSan can't map its shadow under some kernels' address randomisation; containers may
# forbid to turn that off.
unrandomised=()
if setarch -R true 2>/dev/null; then
    unrandomised=(setarch -R)
fi

name_of() # build/asan/t/unit/x_test -> asan-t-x_test, t/y.sh -> t-y.sh
{
    local name=${1#build/}
    echo "${name//\//-}"
}

# Runs one; leaves "status seconds" in NAME.result and the output in NAME.log.
run_one()
{
    local test=$1 name start=$SECONDS status=0
    name=$(name_of "$test")
    local run=()
    case $test in
    compile) run=(make --no-print-directory compiled) ;;
    build/tsan/*) run=("${unrandomised[@]}" "$test") ;;
    build/*) run=("$test" --jobs 2) ;;
    *) run=("./$test") ;;
    esac
    timeout -k 10 "$limit" "${run[@]}" </dev/null >"$logs/$name.log" 2>&1 &
    trap "kill $!" TERM
    wait $! || status=$?
    echo "$status $((SECONDS - start))" >"$logs/$name.result"
}

passed=0 failed=0 skipped=0

# Counts a test that has ended and prints its line.
report()
{
    local test=$1 name status seconds synthesis ok=1 bad=0 word=ok
    name=$(name_of "$test")
    read -r status seconds <"$logs/$name.result"
    case $test in
    build/*)
        synthesis=$(sed 's/\x1b\[[0-9;]*m//g' "$logs/$name.log" | grep 'Synthesis: ' | tail -n 1)
        ok=$(grep -oE 'Passing: [0-9]+' <<<"$synthesis" | grep -oE '[0-9]+' || echo 0)
        bad=$(grep -oE '(Failing|Crashing): [0-9]+' <<<"$synthesis" | grep -oE '[0-9]+' |
              awk '{ n += $1 } END { print n + 0 }')
        ;;
    esac
    if [ "$status" = 77 ] && [[ $test != build/* ]]; then
        skipped=$((skipped + 1))
        printf 'skip  %s: %s\n' "$test" "$(tail -n 1 "$logs/$name.log")"
        return
    fi
    if [ "$status" != 0 ]; then
        word=FAIL
        [[ $test == build/* ]] || ok=0
        [ "$bad" -gt 0 ] || bad=1
    elif [ "$bad" -gt 0 ] || { [[ $test == build/* ]] && [ "$ok" = 0 ]; }; then
        word=FAIL # ended well, yet says otherwise or ran nothing
        [ "$bad" -gt 0 ] || bad=1
    fi
    passed=$((passed + ok))
    failed=$((failed + bad))
    printf '%-5s %s (%d passed, %d failed, %d s)\n' "$word" "$test" "$ok" "$bad" "$seconds"
    if [ "$word" = FAIL ]; then
        [ "$status" = 124 ] && echo "      killed after $limit s"
        echo "      status $status, the end of $logs/$name.log:"
        tail -n 40 "$logs/$name.log" | sed 's/^/      | /'
    fi
}

# Keeps $jobs running; reports each as it ends.
declare -A running=() # by process id
trap 'kill "${!running[@]}" 2>/dev/null; exit 130' INT TERM
reap_one()
{
    local pid
    wait -n -p pid "${!running[@]}" || true
    report "${running[$pid]}"
    unset "running[$pid]"
}
for test in "$@"; do
    if [ "$test" = compile ]; then # alone, before the others: it may use every core
        run_one "$test"
        report "$test"
        continue
    fi
    while [ ${#running[@]} -ge "$jobs" ]; do
        reap_one
    done
    run_one "$test" &
    running[$!]=$test
done
while [ ${#running[@]} -gt 0 ]; do
    reap_one
done

if [ "$skipped" -gt 0 ]; then
    echo "$passed passed, $failed failed, $skipped skipped"
else
    echo "$passed passed, $failed failed"
fi
[ "$failed" = 0 ]
