#!/bin/bash
# Django's cache and its sessions, on pymemcache and on pylibmc: stored, moved to flash, read back in a process
# of their own; the cache's other calls answer as with memcached.
# row: Django cache and sessions | python3-django | text (pymemcache, pylibmc) | all calls of the cache; 450 values and 50 sessions from flash
set -u
cd "$(dirname "$0")/../.." || exit 1
. t/aid/clients_lib.sh
ran=0
for client in pymemcache pylibmc; do
    { python=$(python_with django) && "$python" -c "import $client" 2> /dev/null; } || continue
    # shellcheck disable=SC2046
    start_server -m 64 $(all_flash_flags)
    timeout 600 "$python" t/apps/django_app.py "$client" "$PORT" calls || fail "$client calls"
    from_flash "$python" t/apps/django_app.py "$client" "$PORT"
    stop_server
    check "clean stop" "$SERVER_RC" 0
    ran=$((ran + 1))
done
[ $ran -gt 0 ] || skip "python3-django or its memcached clients aren't installed"
finish
