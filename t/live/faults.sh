#!/bin/bash
# A real server whose flash file is on a failing device: the quick part of the fault matrix.
# 0 wrong, nothing acknowledged lost to failing writes, 95% of hits under failing reads,
# others unharmed by stalls, recovery without a restart. Skips where FUSE can't mount.
set -u
cd "$(dirname "$0")/../.." || exit 1
exec env INSTALL="${INSTALL:-0}" scripts/fault-matrix.sh --quick "$@" "${EXTANT:-./extant}"
