#!/bin/bash
# The load generator notices faults: it reads back what it wrote, and a wrong byte, a stale version, a missing
# key, a closed connection or a silent server makes it fail.
set -u
cd "$(dirname "$0")/../.." || exit 1
. t/aid/clients_lib.sh

LOAD=${LOAD:-build/load}
if [ ! -x "$LOAD" ]; then
    LOAD=$TMP/load
    ${CC:-cc} -std=gnu11 -O2 scripts/load.c -o "$LOAD" -levent_core -lm || exit 1
fi
start_server
load() { "$LOAD" --server "127.0.0.1:$PORT" --kv "$@" > "$TMP/out" 2> "$TMP/err"; RC=$?; }
field() { sed -n "s/^$1=//p" "$TMP/out"; }
raw() { # sends the lines given, waits for as many reply lines as $1 says
    local want=$1 line; shift
    exec 9<> "/dev/tcp/127.0.0.1/$PORT" || fail "connect"
    printf "$@" >&9
    while [ "$want" -gt 0 ]; do read -r -t 120 line <&9 || fail "no reply to raw"; want=$((want - 1)); done
    exec 9>&-
}

load --mode load --keys 2000 --value 0-3000 --client-flags --epoch 7 --depth 10 --conns 3
check "load: every key once" "$RC $(field stored) $(field errors)" "0 2000 0"
load --mode verify --keys 2000 --value 0-3000 --client-flags --epoch 7 --no-miss --multiget 50
check "verify: every value right" "$RC $(field hits) $(field wrong) $(field stale)" "0 2000 0 0"
load --mode verify --keys 2000 --value 0-3000 --epoch 7
check "verify: wrong client flags are found" "$RC $(field wrong)" "1 2000"
load --mode verify --keys 2000 --value 0-3000 --client-flags --epoch 8
check "verify: another epoch is stale" "$RC" "1"
load --mode verify --keys 2001 --value 0-3000 --client-flags --no-miss
check "verify: a missing key is a failure under --no-miss" "$RC $(field misses)" "4 1"
load --mode verify --keys 2001 --value 0-3000 --client-flags
check "verify: a missing key is counted" "$RC $(field misses)" "0 1"


load --binary --mode load --keys 2000 --value 0-3000 --client-flags --epoch 9 --depth 10 --conns 3
check "binary load: every key once" "$RC $(field stored) $(field errors)" "0 2000 0"
load --mode verify --keys 2000 --value 0-3000 --client-flags --epoch 9 --no-miss --multiget 50
check "read back in text" "$RC $(field hits) $(field wrong)" "0 2000 0"
load --binary --mode verify --keys 2000 --value 0-3000 --client-flags --epoch 9 --no-miss --multiget 50
check "binary verify, many keys at once" "$RC $(field hits) $(field wrong)" "0 2000 0"
load --binary --mode verify --keys 2001 --value 0-3000 --epoch 9
check "binary verify: wrong client flags, a missing key" "$RC $(field wrong) $(field misses)" "1 2000 1"
load --binary --mode mix --keys 500 --prefix b --value 10-400 --ops 20000 --get-ratio 0.6 --conns 5 --depth 7 --multiget 3
check "binary mix: right" "$RC $(field requests) $(field wrong) $(field stale) $(field errors)" "0 20000 0 0 0"
load --binary --mode load --keys 1 --value 2000000
check "binary: an error is a failure" "$RC $(field errors)" "3 1"

load --mode load --keys 1 --value 64 --prefix w --key-size 8
raw 1 'append w0000000 0 0 1\r\nx\r\n'
load --mode verify --keys 1 --value 64 --prefix w --key-size 8
check "verify: a longer value is wrong" "$RC $(field wrong)" "1 1"
load --mode load --keys 2 --value 64 --prefix w --key-size 8
raw 1 'set w0000000 0 0 64\r\n%064d\r\n' 5
load --mode verify --keys 2 --value 64 --prefix w --key-size 8
check "verify: other bytes are wrong" "$RC $(field wrong) $(field hits)" "1 1 2"

for dist in uniform seq zipf zipf:1.3; do
    load --mode mix --keys 500 --prefix "${dist:0:1}${dist:5:1}" --value 10-400 --dist $dist --ops 20000 --get-ratio 0.6 \
        --conns 5 --depth 7 --multiget 3
    check "mix, $dist: right" "$RC $(field requests) $(field wrong) $(field stale) $(field errors)" \
        "0 20000 0 0 0"
done
load --mode mix --keys 1000 --prefix r --value csv:scripts/sizes-small.csv --rate 2000 --seconds 1 --conns 3
check "mix, rate: right" "$RC" 0
n=$(field requests)
[ "$n" -ge 1500 ] && [ "$n" -le 2010 ] || fail "rate 2000 for 1 s gave $n requests"
load --mode load --keys 1 --value 2000000
check "an error reply is a failure" "$RC $(field errors)" "3 1"
stop_server
load --mode verify --keys 10
check "no server is a failure" "$RC" 3

# Servers that lie, a few lines of Python each: the loader must notice.
lying_server() { # $1: python expression for the reply to a command line in `line`
    python3 - "$TMP/lie.port" "$1" 3>&- <<'PY' &
import socket, sys
s = socket.socket()
s.bind(("127.0.0.1", 0))
s.listen(5)
open(sys.argv[1] + ".new", "w").write(str(s.getsockname()[1]))
import os
os.rename(sys.argv[1] + ".new", sys.argv[1])
c, _ = s.accept()
f = c.makefile("rwb", 0)
store = {}
while True:
    line = f.readline().decode()
    if not line:
        break
    word = line.split()
    if word[0] == "set":
        first = word[1] not in store
        old = store.get(word[1], b"")
        body = f.read(int(word[4]) + 2)
        store.setdefault(word[1], body[:-2])
        latest = body[:-2]
        reply = b"STORED\r\n"
    else:
        v = store.get(word[1])
        reply = b"END\r\n" if v is None else b"VALUE %s 0 %d\r\n%s\r\nEND\r\n" % (word[1].encode(), len(v), v)
    reply = eval(sys.argv[2])
    if reply is None:
        c.close()
        break
    f.write(reply)
PY
    LIAR=$!
    wait_for "test -s $TMP/lie.port"
    PORT=$(cat "$TMP/lie.port")
}
try_liar() { # name, reply expression, wanted exit code
    rm -f "$TMP/lie.port"
    lying_server "$2"
    load --mode mix --keys 3 --value 100 --ops 200 --conns 1 --depth 1 --timeout 1 --get-ratio 0.5
    kill "$LIAR" 2> /dev/null
    wait "$LIAR" 2> /dev/null
    check "$1" "$RC" "$3"
}
try_liar "a server that keeps the first version for ever is stale" 'reply' 1
try_liar "a flipped bit is found" 'reply[:60] + bytes([reply[60] ^ 1]) + reply[61:] if len(reply) > 90 else reply' 1
try_liar "another key in the reply breaks the run" 'reply.replace(b"VALUE k", b"VALUE z")' 3
try_liar "a closed connection is a failure" 'None if word[0] == "get" else reply' 3
try_liar "a server that stays silent is a failure" 'b""' 3
try_liar "a set that isn'\''t answered with STORED breaks the run" 'reply.replace(b"STORED", b"OK")' 3
finish
