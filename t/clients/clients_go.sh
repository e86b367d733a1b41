#!/bin/bash
# gomemcache, as Debian ships its source, gets from Extant what it gets from memcached.
# row: gomemcache (Go) | golang-github-bradfitz-gomemcache-dev | text | all calls; 500 values from flash
set -u
cd "$(dirname "$0")/../.." || exit 1
. t/aid/clients_lib.sh
need go
[ -d /usr/share/gocode/src/github.com/bradfitz/gomemcache ] || skip "gomemcache isn't installed"
GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE=$TMP/gocache GOFLAGS=-p=1 timeout 600 \
    go build -o "$TMP/client" t/clients/client.go || fail "go build"
# shellcheck disable=SC2046
start_server -m 64 -I 4m $(flash_flags 64)
timeout 600 "$TMP/client" "$PORT" || fail "gomemcache"
stop_server
check "clean stop" "$SERVER_RC" 0
# shellcheck disable=SC2046
start_server -m 64 $(all_flash_flags)
from_flash "$TMP/client" "$PORT"
stop_server
check "clean stop" "$SERVER_RC" 0
finish
