/* net/stranger.h: what first bytes seem to be. */
#include <criterion/criterion.h>

#include "net/stranger.h"

#define IS(who, text) cr_assert_eq(stranger_of(text, sizeof(text) - 1), who, "%s", #text)

Test(stranger, text_of_memcached_is_none)
{
    IS(STRANGER_TEXT, "");
    IS(STRANGER_TEXT, "get a\r\n");
    IS(STRANGER_TEXT, "GET\r\n");
    IS(STRANGER_TEXT, "GETS a\r\n");
    IS(STRANGER_TEXT, "\r\n");
    IS(STRANGER_TEXT, "\x17\x03\x03");
    IS(STRANGER_TEXT, "PROXYX");
    IS(STRANGER_TEXT, "\r\n\r\n\0\r\nQUIT");
}

Test(stranger, known_ones)
{
    IS(STRANGER_BINARY, "\x80");
    IS(STRANGER_BINARY, "\x80\x0a\0\0");
    IS(STRANGER_TLS, "\x16");
    IS(STRANGER_TLS, "\x16\x03\x01\x02\x00\x01");
    IS(STRANGER_TEXT, "\x16\x02");
    IS(STRANGER_HTTP, "GET / HTTP/1.1\r\n");
    IS(STRANGER_HTTP, "POST /x HTTP/1.0\r\n");
    IS(STRANGER_HTTP, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    IS(STRANGER_PROXY, "PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n");
    IS(STRANGER_PROXY, "\r\n\r\n\0\r\nQUIT\n\x21\x11");
}
