/* net/tls.h: TLS, by OpenSSL.
 *
 * struct tls is one for each server: certificate, key and rules. A stream is one connection's side
 * of it: bytes in the clear on this side, records on the other. It receives from the socket itself, and
 * makes its handshake there. Afterwards it gives what is to be sent to its owner as sealed bytes, so that those
 * of many connections can go out with one call (net/netring.h). The socket stays its owner's, and
 * non-blocking; no call here waits for it.
 *
 * tls_refresh() reads the files again and replaces certificates and key at once, or changes nothing. Open streams
 * keep the old ones.
 *
 * Threads: a stream belongs to one thread; calls of struct tls by any. Lock: LOCK_TLS, for the time
 * of one assignment.
 *
 * Where the OpenSSL headers are missing, neither net/tls.c nor its one user net/tls_conn.c is built, and -Z is refused
 * (operator/command_line.c).
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

/* Reads the ssl_ settings, and keeps pointers to them and to the counters. NULL, with
 * a line in why[]. */
struct tls *tls_create(const struct settings *s, struct server_counters *n, char *why,
                       size_t why_bytes);
void tls_destroy(struct tls *t); /* no stream is left; NULL is allowed */
/* 0, or -EINVAL with a line in why[]. Reads files. */
int tls_refresh(struct tls *t, char *why, size_t why_bytes);
/* Bytes that the library has in use, for streams and otherwise; approximate while other threads run. Any thread. */
uint64_t tls_bytes(void);

/* ---- streams ---- */

/* NULL: no memory. */
struct tls_stream *tls_open(struct tls *t, int fd, enum settings_tls mode);
/* Until it is TLS_OK, before anything else. If it is broken, the reason goes to why[]; "" if the client has only
 * disconnected. Counts handshake errors. */
enum tls_result tls_handshake(struct tls_stream *s, char *why, size_t why_bytes);
/* Reads what has arrived of one record. Counts protocol errors. At an error it sends the client an alert at once, so all
 * sealed bytes must have been sent before. */
enum tls_result tls_read(struct tls_stream *s, void *to, size_t room, size_t *got);
/* Makes what the socket has to be given for n bytes (1 to TLS_RECORD_BYTES): *sealed bytes at to, where there is room for
 * TLS_SEALED_BYTES_MAX. All of it has to be sent, in the order of these calls. False: the stream is broken. */
bool tls_seal(struct tls_stream *s, const void *p, size_t n, char *to, size_t *sealed);
/* Does it hold input that it has not yet returned? */
bool tls_has_input(const struct tls_stream *s);
/* Tells the client that the stream ends, if the socket takes that. all_sent: all sealed bytes were sent. */
void tls_close(struct tls_stream *s, bool all_sent);

#endif
