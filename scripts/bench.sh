#!/bin/bash
# Measures Extant beside Debian's memcached and prints one table (BENCH.md tells how to
# read it). Installs what it needs; `make bench` calls it. Under 15 minutes in all.
#
#   BENCH_QUICK=1        small sizes and few pairs: does it work, not how fast is it
#   BENCH_ROWS=a,b       only these rows (scripts/bench.py --list names them)
#   BENCH_DIR=data/bench where the flash files go: 20 GB free, on the device to measure
#   BENCH_SAVE=1         the table also replaces the one in BENCH.md
#   EXTANT=./extant      the server to measure; memcached itself must come out at 1.0
set -eu
cd "$(dirname "$0")/.."
scripts/install-deps.sh bench
make --no-print-directory -j"$(nproc)" build/load build/bench_extents
if [ -e server.c ]; then
    make --no-print-directory -j"$(nproc)" extant build/extant-nolock
fi
exec python3 scripts/bench.py "$@"
