#!/bin/bash
# Each fault in scripts/mutants_list.py can still be planted: its old text is in its file exactly once, and its
# tests exist. Planting them all takes half an hour: scripts/mutants.py, on request.
set -u
cd "$(dirname "$0")/../.." || exit 1
exec python3 scripts/mutants.py --check
