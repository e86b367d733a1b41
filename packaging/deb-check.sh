#!/bin/bash
# deb-check.sh: installs the package of `make deb` in a fresh chroot of Debian 12, runs it as its unit would,
# upgrades it with the cache kept, removes and purges it, and looks for leftovers. As root; needs
# debootstrap and a mirror (MIRROR, http://deb.debian.org/debian).
set -eu
cd "$(dirname "$0")/.."
deb=$(ls build/deb/extant_*.deb)
mirror=${MIRROR:-http://deb.debian.org/debian}
root=$(mktemp -d /tmp/extant-deb.XXXXXX)
chmod 755 "$root"
clean_up()
{
    [ -z "${server:-}" ] || kill "$server" 2>/dev/null || true
    umount "$root/var/lib/extant" "$root/dev/shm" "$root/proc" 2>/dev/null || true
    rm -rf --one-file-system "$root"
}
trap clean_up EXIT
inside() { chroot "$root" env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 "$@"; }
say() { echo "deb-check: $*"; }
fail() { say "FAILED: $*"; exit 1; }

debootstrap --variant=minbase --include=ca-certificates bookworm "$root" "$mirror" >"$root.log" 2>&1 ||
    { tail -n 20 "$root.log"; fail debootstrap; }
rm -f "$root.log"
mount -t proc proc "$root/proc"
mkdir -p "$root/dev/shm"
mount -t tmpfs tmpfs "$root/dev/shm"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
cp "$deb" "$root/one.deb"

inside apt-get -qq -y --no-install-recommends install /one.deb python3-minimal >/dev/null
inside dpkg -s extant | grep -q '^Status: install ok installed' || fail 'it is not installed'
inside id extant >/dev/null || fail 'there is no user extant'
[ "$(inside stat -c '%U %a' /dev/shm/extant)" = 'extant 700' ] || fail '/dev/shm/extant is not there for extant'
inside install -d -o extant -m 700 /var/lib/extant # systemd's StateDirectory=
inside extant --config /etc/extant.conf --check-config
say 'installed'

start_server()
{
    chroot "$root" extant -u extant --config /etc/extant.conf & # the unit has User=extant instead
    server=$!
    until ask mn >/dev/null 2>&1; do kill -0 "$server" || fail 'it does not start'; sleep 0.05; done
}
stop_server() { kill "$server"; wait "$server" || fail "it stops with $?"; server=; }
ask() # sends a line, prints the first line of the answer
{
    exec 9<>/dev/tcp/127.0.0.1/11211 || return 1
    printf '%b\r\n' "$1" >&9
    IFS= read -r -t 20 line <&9
    exec 9>&-
    printf '%s\n' "${line%$'\r'}"
}

start_server
[ "$(ask 'set kept 0 0 5\r\nhello')" = STORED ] || fail 'it does not store'
stop_server

mkdir "$root/two"
dpkg-deb -R "$deb" "$root/two/tree"
sed -i 's/^Version: .*/&+next/' "$root/two/tree/DEBIAN/control"
dpkg-deb -b "$root/two/tree" "$root/two.deb" >/dev/null
echo '# kept by the upgrade' >>"$root/etc/extant.conf"
inside apt-get -qq -y install /two.deb >/dev/null
grep -q 'kept by the upgrade' "$root/etc/extant.conf" || fail 'the upgrade lost extant.conf'
start_server
[ "$(ask 'get kept')" = 'VALUE kept 0 5' ] || fail 'the upgrade lost the cache'
stop_server
say 'upgraded, the cache is kept'

inside apt-get -qq -y remove extant >/dev/null
if [ ! -e "$root/etc/extant.conf" ] || [ -e "$root/usr/bin/extant" ]; then
    fail 'remove leaves the wrong things'
fi
mount --bind "$root/var/lib/extant" "$root/var/lib/extant" # as where flash is a disk of its own
inside apt-get -qq -y purge extant >/dev/null || fail 'purge fails where a disk is mounted'
umount "$root/var/lib/extant"
rmdir "$root/var/lib/extant" || fail 'flash is left on the disk'
left=$(find "$root" -mindepth 1 -xdev \( -name '*extant*' \) -not -path "$root/one.deb" -not -path "$root/two*" \
            -not -path "$root/var/log/*" -not -path "$root/var/cache/*" -not -path "$root/proc/*")
[ -z "$left" ] || fail "left behind: $left"
say 'removed and purged, nothing is left'
