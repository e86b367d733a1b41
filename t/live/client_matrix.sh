#!/bin/bash
# README's table of clients and applications is what their tests say of themselves.
set -u
cd "$(dirname "$0")/../.." || exit 1
scripts/client-matrix.py check
