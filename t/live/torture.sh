#!/bin/bash
# Thirty kills under load, with flash and without: nothing acknowledged is lost, stale, wrong or back.
# SEED=N (1) draws another run. More, and other sizes: make torture, scripts/torture.py --help.
set -u
cd "$(dirname "$0")/../.." || exit 1
exec python3 scripts/torture.py --cycles 30 --server "${EXTANT:-./extant}" "$@"
