/* net/stranger.c: see net/stranger.h. */
#include "net/stranger.h"

#include "base/log.h"
#include "proto/bin.h"

/* How version 2 of the PROXY header begins; version 1 is text. */
#define PROXY_2 "\r\n\r\n\0\r\nQUIT\n"

static bool begins(const char *first, size_t bytes, const char *word, size_t len)
{
    return bytes >= len && memcmp(first, word, len) == 0;
}

enum stranger stranger_of(const char *first, size_t bytes)
{
    static const char *const methods[] = {"GET ",    "POST ",    "HEAD ",  "PUT ",  "DELETE ",
                                          "OPTIONS ", "CONNECT ", "TRACE ", "PATCH ", "PRI * "};
    if (bytes == 0)
        return STRANGER_TEXT;
    if ((unsigned char)first[0] == BIN_MAGIC_ASK)
        return STRANGER_BINARY;
    if (first[0] == 0x16 && (bytes < 2 || first[1] == 3)) /* a record of a handshake, SSL 3 or later */
        return STRANGER_TLS;
    if (begins(first, bytes, "PROXY ", 6) || begins(first, bytes, PROXY_2, sizeof(PROXY_2) - 1))
        return STRANGER_PROXY;
    for (size_t i = 0; i < ARRAY_COUNT(methods); i++) {
        if (begins(first, bytes, methods[i], strlen(methods[i])))
            return STRANGER_HTTP;
    }
    return STRANGER_TEXT;
}

void stranger_tell(enum stranger who, enum stranger_port port, const char *peer)
{
    static const char *const texts[][STRANGERS] = {
        [STRANGER_PORT_CLEAR] =
            {[STRANGER_TEXT] = "speaks the text protocol, which is refused: -B auto accepts both (if clients log in, "
                              "-Y without -S accepts this one)",
             [STRANGER_BINARY] = "speaks the binary protocol, which is refused: -B auto accepts both (if clients log in, "
                                "-Y with -S accepts this one)",
             [STRANGER_TLS] = "speaks TLS to a port without TLS: it needs -Z, and a port without the "
                              "prefix notls:",
             [STRANGER_HTTP] = "speaks HTTP: this is not a web server",
             [STRANGER_PROXY] = "sends a header of the PROXY protocol, which is not supported: turn it "
                                "off in the proxy (send-proxy)"},
        [STRANGER_PORT_TLS] =
            {[STRANGER_TEXT] = "speaks without TLS to a port that requires it: -l notls:ADDRESS opens "
                               "one that doesn't",
             [STRANGER_BINARY] = "speaks the binary protocol without TLS to a port that requires it: -l "
                                 "notls:ADDRESS opens one that doesn't",
             [STRANGER_TLS] = "speaks an old version of TLS",
             [STRANGER_HTTP] = "speaks HTTP, without TLS: this is not a web server",
             [STRANGER_PROXY] = "sends a header of the PROXY protocol before its handshake, which is "
                                "not supported: turn it off in the proxy (send-proxy)"},
    };
    static struct log_site sites[ARRAY_COUNT(texts)][STRANGERS];
    ASSERT(port < ARRAY_COUNT(texts) && who < STRANGERS);
    DEBUG_ASSERT(texts[port][who]);
    if (log_is_on(LOG_LEVEL_WARNING))
        log_line(&sites[port][who], LOG_LEVEL_WARNING, "client %s %s", peer, texts[port][who]);
}
