#!/bin/bash
# Debian's package index through Extant: every stanza of the Packages lists that apt has here
# (key: the field Package, value: the stanza) is stored with pymemcache in a server with 16 MB
# of memory and 1 GB of flash, then read back and compared byte for byte. Of a package that is
# listed twice the last stanza counts.
#
#   scripts/debian-index.sh [LIST...]     default: what `apt-get update` left in
#                                         /var/lib/apt/lists, or `apt-cache dumpavail`
#
# EXTANT: the server (./extant); RAM_MB (16), FLASH_MB (1024); FLASH_DIR: where the flash file
# goes (a temporary directory). Exit: 0 every value right, 1 not, 77 something isn't there.
set -u
LISTS=("$@")
cd "$(dirname "$0")/.." || exit 1
. t/aid/clients_lib.sh
python=$(python_with pymemcache) || skip "python3-pymemcache isn't installed"
FLASH_DIR=${FLASH_DIR:-$TMP}
FLASH_MB=${FLASH_MB:-1024}

stanzas() {
    local list
    for list in "${LISTS[@]}"; do
        case $list in
            *.lz4 | *.xz | *.gz | *.zst | *.bz2) /usr/lib/apt/apt-helper cat-file "$list" ;;
            *) cat "$list" ;;
        esac || exit 1
        echo
    done
}
if [ ${#LISTS[@]} = 0 ]; then
    shopt -s nullglob
    LISTS=(/var/lib/apt/lists/*_main_binary-*_Packages*)
    shopt -u nullglob
fi
if [ ${#LISTS[@]} = 0 ]; then
    stanzas() { apt-cache dumpavail; }
    echo "no Packages list in /var/lib/apt/lists: using apt-cache dumpavail (try apt-get update)"
else
    printf 'list: %s\n' "${LISTS[@]##*/}"
fi

start_server -m "${RAM_MB:-16}" -o ext_path="$FLASH_DIR/debian-index.flash:${FLASH_MB}m"
stanzas > "$TMP/stanzas" || fail "reading the Packages lists"
"$python" scripts/debian-index.py "$PORT" "$SERVER_PID" "$TMP/stanzas"
result=$?
stop_server
rm -f "$FLASH_DIR/debian-index.flash"
[ $result != 0 ] || [ "$SERVER_RC" = 0 ] || fail "the server ended with $SERVER_RC"
exit $result
