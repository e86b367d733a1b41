#!/bin/bash
# `make deb`: builds the Debian package of what git has of this tree, in build/deb, and has lintian look
# at it. Needs build-essential, debhelper, lintian, python3 and the libraries of scripts/install-deps.sh build.
set -eu
cd "$(dirname "$0")/.."
for tool in dpkg-buildpackage dh lintian; do
    command -v "$tool" >/dev/null || { echo "deb: no $tool: apt-get install build-essential debhelper lintian python3" >&2; exit 1; }
done
version=$(sed -n '1s/.*(\(.*\)).*/\1/p' debian/changelog)
out=build/deb
rm -rf "$out"
mkdir -p "$out/extant-$version"
git ls-files -z | xargs -0 cp --parents -t "$out/extant-$version"
(cd "$out/extant-$version" && dpkg-buildpackage -us -uc -b -j"$(nproc)")
# Clients wait in systemd's socket while the package is upgraded.
if dpkg-deb -I "$out"/extant_"$version"_*.deb preinst 2>/dev/null | grep -q 'stop.*extant\.socket'; then
    echo 'deb: an upgrade would stop extant.socket' >&2
    exit 1
fi
lintian --fail-on error,warning --no-cfg "$out"/extant_*.changes
echo "deb: $(ls "$out"/extant_*.deb)"
