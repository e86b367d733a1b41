/* net/tls_conn.h: a connection whose bytes go through TLS: where it differs from one in the clear. net/conn.c
 * serves both kinds, and calls this (struct conn_tls) where they differ.
 *
 * Requests and replies go in batches as in the clear (net/conn.h), in lists of their own: when the first
 * connection enters one, an event is queued behind those of the ready sockets, and serves all. Sealed bytes go
 * out at once. If the socket doesn't take all of it, the rest is kept, at most one record for each connection;
 * until that is sent, nothing more is sealed for it or read from it.
 *
 * Stages:
 *   silent   accepted, nothing received; costs a struct
 *   greeting in its handshake; costs what OpenSSL needs for one (tens of KB)
 *   open     like any connection, with a stream in place of the socket
 *   lent     a watcher or a dump writes into a pair of sockets, and what comes out of it is sent
 *
 *   conn_start --begin_silent--> SILENT --begin--> GREETING --go_on--> OPEN --lend--> LENT
 *   LENT --relay_end--> OPEN   the dump has ended, and all of it is sent
 *   LENT --take_back--> OPEN   the dump or the watcher didn't start
 *   each -> gone               end, by conn_close
 *
 * Handshakes cost much more than requests, and strangers can begin them. So a turn of the loop takes only a few
 * steps of them (the rest wait for the next turn, between other clients' requests); a worker has at most
 * TLS_GREETING_MAX under way, and closes the oldest when others wait; and a silent client or a handshake is
 * closed after TLS_GREETING_SEC.
 *
 * Threads: all in the worker's. No locks.
 */
#ifndef EXTANT_TLS_CONN_H
#define EXTANT_TLS_CONN_H

#include "net/conn.h"
#include "net/tls.h"

#define TLS_GREETING_SEC 10u
#define TLS_GREETING_MAX 256u
#define TLS_STEPS_OF_A_TURN 4u

enum tls_stage { TLS_SILENT, TLS_GREETING, TLS_OPEN, TLS_LENT };

struct tls_conn {
    struct conn conn; /* first: conn_create() and free() take it for a struct conn */
    struct tls_stream *stream; /* NULL while silent */
    enum tls_stage stage;
    bool more;         /* the stream may have input that the socket's event doesn't tell of */
    uint32_t since_sec; /* silent, greeting: in this stage */
    TAILQ_ENTRY(tls_conn) in_stage; /* silent, greeting: in the worker's list of the stage */
    bool is_ready;
    TAILQ_ENTRY(tls_conn) in_ready;
    const char *unsent; /* sealed, and not sent: in a buffer of the worker for the time of a call, then in kept */
    size_t unsent_bytes;
    char *kept; /* NULL: none; counted to the pool, and if that is full, the connection is closed */
    size_t kept_bytes;
    /* lent; -1: none */
    bool watching; /* to a watcher; else to a dump */
    int lent_fd;   /* of a dump: the end that it writes into */
    int relay_fd; /* the end that is read here */
    struct event relay_event;
    short relay_interest; /* as conn.interest */
};

TAILQ_HEAD(tls_list, tls_conn); /* the oldest first */

struct tls_worker {
    struct worker *worker;
    struct tls *tls;
    struct tls_list list[2]; /* by stage: TLS_SILENT, TLS_GREETING */
    unsigned count[2];       /* of those in list */
    /* of these, those whose socket is ready: the handshakes come first, since they make room */
    struct tls_list ready[2];
    struct event timer;
    struct event batch; /* the lists CONN_TLS_RECEIVED and CONN_TLS_UNSENT wait for it */
    bool batch_is_due;
    size_t gather_bytes; /* ssl_wbuf_size, or a record's */
    size_t many_used;
    /* for the time of a call */
    char gathered[TLS_RECORD_BYTES];    /* what one record is made of */
    char one[TLS_SEALED_BYTES_MAX];     /* what one connection sends */
    char many[4 * TLS_SEALED_BYTES_MAX]; /* what many send with one call */
};

/* For command_env; those of a connection only if c->apart has CONN_TLS. */
extern const struct conn_tls tls_conn_calls;

#endif
