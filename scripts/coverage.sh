#!/bin/bash
# Line coverage of the server's sources: builds with --coverage into build/cov, runs the module tests
# and the short scripts, prints a line for each file and the total. About four minutes on two cores.
#
#   scripts/coverage.sh            all of it
#   scripts/coverage.sh -u FILE..  also the line numbers of FILE (say space/arena.c) that nothing ran;
#                                  adds to what ran before, and runs nothing again
# Settable: COVERAGE_TESTS="build/cov/t/unit/x_test t/y.py" runs only these; COVERAGE_TIMEOUT seconds for
# one of them (240). A test that fails is named, and what it covered counts. The coverage of a killed process
# is lost, because gcov writes at exit.
set -u
cd "$(dirname "$0")/.." || exit 1
cov=build/cov

report() { python3 scripts/coverage.py "$cov" "$@"; }

if [ "${1:-}" = -u ]; then
    shift
    report "$@"
    exit
fi

make --no-print-directory -k -j"$(nproc)" coverage-build || exit 1
find "$cov" -name '*.gcda' -delete
cp "$cov/server" "$cov/extant" # tests know by the name what they talk to
EXTANT=$PWD/$cov/extant
export EXTANT EXTANT_DEBUG_BIN=$EXTANT EXTANT_ASAN_BIN=$EXTANT EXTANT_TSAN_BIN=$EXTANT
export MODEL_SECONDS=10 FUZZ_SERVER_SECONDS=10 NODE_PATH=$PWD/t/clients/node_modules

scripts=(t/live/security_test.py t/live/bad_clients.py t/live/model_test.py t/live/differential.sh t/live/restart_test.py
         t/live/oom.py t/live/fuzz_server.py t/clients/clients_php.sh t/clients/clients_perl.sh t/clients/clients_python.sh)
read -r -a tests <<<"${COVERAGE_TESTS:-$(echo "$cov"/t/unit/*_test) ${scripts[*]}}"

run_one()
{
    local start=$SECONDS status=0 run=("$1")
    [[ $1 == t/* ]] && run=("./$1")
    [[ $1 == */*_test ]] && run+=(--jobs 2)
    timeout -k 5 "${COVERAGE_TIMEOUT:-240}" "${run[@]}" </dev/null >"$cov/log-$(basename "$1")" 2>&1 ||
        status=$?
    case $status in
    0) ;;
    77) echo "skipped $1" ;;
    *) echo "status $status of $1 after $((SECONDS - start)) s: $cov/log-$(basename "$1")" ;;
    esac
}
export -f run_one
export cov
printf '%s\n' "${tests[@]}" | while read -r test; do [ -e "$test" ] && echo "$test"; done |
    xargs -P 2 -I{} bash -c 'run_one "$1"' run_one {}
report
