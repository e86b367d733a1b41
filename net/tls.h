/* net/tls.h: TLS, as a table of calls, so that what uses it needs no library to be built.
 *
 * struct tls is one for each server: certificate, key and rules. A stream is one connection's side
 * of it: bytes in the clear on this side, records on the other. It receives from the socket itself, and
 * makes its handshake there. What it sends afterwards it gives to its owner as sealed bytes, so that
 * many connections' can go out with one call (net/netring.h). The socket stays its owner's, and
 * non-blocking; no call here waits for it.
 *
 * tls_refresh() reads the files again and puts what they say in the place of the old at once, or
 * changes nothing. Streams keep what they were opened with.
 *
 * Threads: a stream belongs to one thread; calls of struct tls by any. Lock: LOCK_TLS, for the time
 * of one assignment.
 *
 * Where the OpenSSL headers are missing, net/tls.c isn't built, nothing calls tls_create(), and
 * -Z is refused (operator/settings.c).
 */
#ifndef EXTANT_TLS_H
#define EXTANT_TLS_H

#include "command/command.h"
#include "operator/settings.h"

#define TLS_RECORD_BYTES 16384u /* the most that one record carries */
#define TLS_SEALED_BYTES_MAX (TLS_RECORD_BYTES + 8192u) /* of what seal() makes of one record's bytes */
#define TLS_WHY_BYTES 512u

enum tls_result {
    TLS_OK,
    TLS_WANT_READ,  /* again when the socket is readable */
    TLS_WANT_WRITE, /* again when it is writable; only a handshake */
    TLS_END,        /* the client has ended it */
    TLS_BROKEN,     /* nothing more comes or goes */
};

struct tls_stream;
struct tls;

struct tls_ops {
    /* NULL: no memory. */
    struct tls_stream *(*open)(struct tls *t, int fd, enum settings_tls mode);
    /* Until it is TLS_OK, before anything else. Why it is broken goes to why[], "" if the client has
     * just left. Counts handshake errors. */
    enum tls_result (*handshake)(struct tls_stream *s, char *why, size_t why_bytes);
    /* What there is of one record. Counts protocol errors. Why it breaks off it tells the client at once,
     * so all that was sealed before must be sent. */
    enum tls_result (*read)(struct tls_stream *s, void *to, size_t room, size_t *got);
    /* Makes what the socket has to be given for n bytes (1 to TLS_RECORD_BYTES): *sealed bytes at to, where
     * there is room for TLS_SEALED_BYTES_MAX. All of it has to be sent, in the order of these calls. False: the
     * stream is broken. */
    bool (*seal)(struct tls_stream *s, const void *p, size_t n, char *to, size_t *sealed);
    /* Has more from the socket than it has given away? */
    bool (*has_input)(const struct tls_stream *s);
    /* Tells the client that this is the end, if the socket takes it, and all_sent: all that was sealed is
     * sent. */
    void (*close)(struct tls_stream *s, bool all_sent);
};

struct tls {
    const struct tls_ops *ops;
};

/* By the ssl_ settings, which it looks at as long as it lives, as it does at the counters. NULL, with
 * a line in why[]. */
struct tls *tls_create(const struct settings *s, struct server_counters *n, char *why,
                       size_t why_bytes);
void tls_destroy(struct tls *t); /* no stream is left; NULL is allowed */
/* 0, or -EINVAL with a line in why[]. Reads files. */
int tls_refresh(struct tls *t, char *why, size_t why_bytes);
/* What the library has in use, for streams and otherwise; approximate while others run. Any thread. */
uint64_t tls_bytes(void);

#endif
