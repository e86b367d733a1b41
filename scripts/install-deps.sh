#!/bin/bash
# Installs what Extant needs (Debian 12).
#
#   install-deps.sh build [PACKAGE...]   compiler and libraries, enough for `make` and `make serve`; and these
#   install-deps.sh test    those, the test tools and the memcached clients that tests use
#   install-deps.sh bench   those of build, and what `make bench` compares with and measures with
#   install-deps.sh check   installs nothing: one line and exit 1 if `make` can't work
#
# Quiet and quick when nothing is missing. Packages come from apt-get, as root or
# through sudo; node packages from npm into t/clients/.
set -eu
cd "$(dirname "$0")/.."

build_packages=(gcc libc6-dev libevent-dev liburing-dev libjemalloc-dev libxxhash-dev libisal-dev
                libblkid-dev libssl-dev)
test_packages=(clang libcriterion-dev procps memcached libmemcached-tools php-cli php-memcached
               openssl python3 python3-pymemcache perl libcache-memcached-fast-perl nodejs npm)

# Packages that are needed only if their command isn't installed in another way.
declare -A command_of=([gcc]=gcc [clang]=clang [procps]=ps [memcached]=memcached [openssl]=openssl
                       [pkg-config]=pkg-config [libmemcached-tools]=memccapable [php-cli]=php [nodejs]=node [npm]=npm)

# The packages of tools that few tests need are in NAME.packages beside those tests.
more_packages()
{
    cat /dev/null scripts/*.packages t/*/*.packages 2>/dev/null | sed 's/#.*//' | tr -s ' \n' '\n'
}

missing() # packages of the arguments that are not there, one a line
{
    local package command installed
    installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' 2>/dev/null |
                sed -n 's/^installed //p')
    for package in $(printf '%s\n' "$@" | sort -u); do
        command=${command_of[$package]:-}
        if [ -n "$command" ] && command -v "$command" >/dev/null 2>&1; then
            continue
        fi
        grep -qxF -- "$package" <<<"$installed" || echo "$package"
    done
}

as_root()
{
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

# Installs the packages named. Services of theirs are not started: memcached's would
# take the port that `make serve` wants.
apt_install()
{
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "install-deps: no apt-get here; install by hand: $*" >&2
        exit 1
    fi
    if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null 2>&1; then
        echo "install-deps: neither root nor sudo; as root: apt-get install $*" >&2
        exit 1
    fi
    echo "install-deps: installing $*"
    local policy=/usr/sbin/policy-rc.d log
    log=$(mktemp)
    if [ ! -e "$policy" ]; then
        trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
    fi
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -y
               -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300)
    if ! { as_root "${apt[@]}" update &&
           as_root "${apt[@]}" install --no-install-recommends "$@"; } </dev/null >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        echo "install-deps: apt-get could not install: $*" >&2
        rm -f "$log"
        exit 1
    fi
    rm -f "$log"
}

install_packages()
{
    local wanted
    mapfile -t wanted < <(missing "$@")
    if [ ${#wanted[@]} -gt 0 ]; then
        apt_install "${wanted[@]}"
    fi
}

# Node clients. Without npm or a network the tests that need them say that they skip.
install_node_clients()
{
    [ -e t/clients/package-lock.json ] || return 0
    [ t/clients/node_modules/.package-lock.json -nt t/clients/package-lock.json ] && return 0
    command -v npm >/dev/null 2>&1 || return 0
    echo 'install-deps: npm ci in t/clients'
    if ! (cd t/clients && npm ci --silent --no-audit --no-fund </dev/null); then
        echo 'install-deps: npm ci failed; tests of node clients will skip' >&2
        return 0
    fi
    touch t/clients/node_modules/.package-lock.json
}

# Can $CC find every header? Works without dpkg, so also where packages have other names.
check()
{
    local cc=${CC:-gcc} header lacking=
    if ! command -v "$cc" >/dev/null 2>&1; then
        echo "extant: no compiler ($cc): 'make serve' or 'make test' installs what is missing" >&2
        exit 1
    fi
    for header in stdio.h event2/event.h event2/thread.h liburing.h jemalloc/jemalloc.h \
                  xxhash.h isa-l/crc.h; do
        echo "#include <$header>" | "$cc" -E -x c - >/dev/null 2>&1 || lacking+=" <$header>"
    done
    # Not needed: the Makefile leaves out the parts that use it.
    if [ -z "${TLS:-}" ]; then
        echo "extant: no <openssl/ssl.h>: built without TLS (-Z); 'make serve' installs it" >&2
    fi
    if [ -n "$lacking" ]; then
        echo "extant: missing$lacking: 'make serve' or 'make test' installs what is missing" >&2
        exit 1
    fi
}

case ${1:-} in
build)
    install_packages "${build_packages[@]}" "${@:2}"
    ;;
test)
    mapfile -t more < <(more_packages)
    install_packages "${build_packages[@]}" "${test_packages[@]}" "${more[@]}"
    install_node_clients
    ;;
bench)
    # shellcheck disable=SC2046
    install_packages "${build_packages[@]}" $(sed 's/#.*//' scripts/bench.packages)
    ;;
check)
    check
    ;;
*)
    echo 'usage: install-deps.sh build [PACKAGE...]|test|bench|check' >&2
    exit 2
    ;;
esac
