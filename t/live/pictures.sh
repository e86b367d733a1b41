#!/bin/sh
# The pictures in docs/ are those that scripts/plot.py draws from BENCH.md. Exit 0: they are; 1: not.
exec "$(dirname "$0")/../../scripts/plot.py" --check
