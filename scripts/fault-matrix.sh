#!/bin/bash
# A real server on a faulty device: the cost of each fault at each rate. Builds faultfs and
# runs scripts/fault-matrix.py on it; see there for the cells, the columns and the musts.
#
#   scripts/fault-matrix.sh [--quick] [--seed N] [--only TEXT] [--objects N] [SERVER]
#
# SERVER is ./extant unless named; memcached works too (the reference). Needs root or
# fusermount3, and /dev/fuse. Exit: 0 every must is met, 1 one is not, 77 no FUSE here.
# INSTALL=0: don't install missing packages (scripts/faultfs.packages), skip instead.
set -u
cd "$(dirname "$0")/.." || exit 1

skip() { echo "skipped: $*"; exit 77; }

has_all() { pkg-config --exists fuse3 2>/dev/null && command -v fusermount3 >/dev/null; }
if ! has_all && [ "${INSTALL:-1}" = 1 ] && command -v apt-get >/dev/null; then
    root=()
    [ "$(id -u)" = 0 ] || root=(sudo -n)
    mapfile -t packages <scripts/faultfs.packages
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 \
        install --no-install-recommends "${packages[@]}" </dev/null >/dev/null 2>&1
fi
has_all || skip "libfuse3-dev, fuse3 or pkg-config is missing"
[ -r /dev/fuse ] && [ -w /dev/fuse ] || skip "/dev/fuse isn't there for us"

dir=$(mktemp -d "${TMPDIR:-/tmp}/extant-faults.XXXXXX") || exit 1
matrix=
trap '[ -z "$matrix" ] || kill "$matrix" 2>/dev/null; wait; rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM
# shellcheck disable=SC2046
${CC:-cc} -std=gnu11 -O2 -Wall -Wextra -D_GNU_SOURCE scripts/faultfs.c -o "$dir/faultfs" \
    $(pkg-config --cflags --libs fuse3) || exit 1
python3 scripts/fault-matrix.py --faultfs "$dir/faultfs" --dir "$dir" "$@" &
matrix=$!
wait $matrix
status=$?
matrix=
exit $status
