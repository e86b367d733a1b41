# php_lib.sh: sourced by the tests of PHP's two extensions, after clients_lib.sh.

# php_rounds EXTENSION CLASS PROGRAM: all calls, and 500 values from flash, in each protocol.
php_rounds() {
    local protocol
    need php
    php -r "exit(class_exists('$2') ? 0 : 1);" || skip "$1 isn't installed"
    for protocol in text binary; do
        # shellcheck disable=SC2046
        start_server -m 64 -I 4m $(flash_flags 64)
        timeout 600 php "$3" "$PORT" $protocol || fail "$1, $protocol"
        stop_server
        check "clean stop" "$SERVER_RC" 0
        # shellcheck disable=SC2046
        start_server -m 64 $(all_flash_flags)
        from_flash php "$3" "$PORT" $protocol
        stop_server
        check "clean stop" "$SERVER_RC" 0
    done
}
