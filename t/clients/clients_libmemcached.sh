#!/bin/bash
# libmemcached's command line tools work as they are, and memccapable passes 27 of 27.
set -u
cd "$(dirname "$0")/../.." || exit 1
. t/aid/clients_lib.sh
for tool in memccp memccat memcstat memcrm memctouch memcexist memcping memcflush memccapable; do
    need $tool
done
# shellcheck disable=SC2046
start_server -m 64 -I 4m $(flash_flags 64)
S=--servers=127.0.0.1:$PORT

cd "$TMP" || exit 1
noise() { python3 -c 'import random, sys; sys.stdout.buffer.write(random.Random(1).randbytes(int(sys.argv[1])))' "$1"; }
noise 100000 > one
noise 1000000 > two
printf 'text\n' > three
: > empty

memcping $S || fail "memcping"
memccp $S one two three empty || fail "memccp"
check "memcexist: there" "$(memcexist $S one three > out 2>&1; echo $?)" 0
check "memcexist: not there" "$(memcexist $S absent > out 2>&1; echo $?)" 1
for f in one two three empty; do
    memccat $S --file=got $f || fail "memccat $f"
    # memccat ends its output with a newline of its own, if the file doesn't
    head -c "$(stat -c %s $f)" got | cmp -s - $f || fail "memccat $f: other bytes"
    rm -f got
done
CHECKS=$((CHECKS + 5))
check "memccat: absent" "$(memccat $S absent > out 2>&1; echo $?)" 1
memccp $S --add --expire=1000 three > out 2>&1 && fail "memccp --add over an existing key"
cp three four
memccp $S --add four || fail "memccp --add"
printf 'other\n' > three
memccp $S --replace three || fail "memccp --replace"
check "replaced" "$(memccat $S three | head -n 1)" other
memctouch $S --expire=1000 three || fail "memctouch"
check "memctouch: absent" "$(memctouch $S --expire=10 absent > out 2>&1; echo $?)" 1
memccp $S --expire=1 four || fail "memccp --expire"
wait_for "! memcexist $S four > out 2>&1"
memcrm $S three || fail "memcrm"
check "memcrm: gone" "$(memcexist $S three > out 2>&1; echo $?)" 1
memcstat $S > stats || fail "memcstat"
grep -q 'cmd_set: [1-9]' stats || fail "memcstat shows no cmd_set"
grep -q 'curr_items: [1-9]' stats || fail "memcstat: $(grep curr_items stats)"
memcflush $S || fail "memcflush"
check "memcflush: empty" "$(memcexist $S one > out 2>&1; echo $?)" 1

memccapable -h 127.0.0.1 -p "$PORT" -a -t 20 > capable 2>&1 || { cat capable; fail "memccapable"; }
check "memccapable -a" "$(grep -c '\[pass\]' capable) of $(grep -c '\[' capable)" "27 of 27"
stop_server
check "clean stop" "$SERVER_RC" 0
finish
