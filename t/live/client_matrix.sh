#!/bin/bash
# README's table of clients and applications consists of the rows in their tests.
set -u
cd "$(dirname "$0")/../.." || exit 1
scripts/client-matrix.py check
