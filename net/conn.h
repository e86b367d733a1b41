/* net/conn.h: one client's connection: bytes in, requests to command/command.h, replies out.
 *
 * States, as `stats conns` names them (see CONN_STATE_TABLE); each is left by what it waits for:
 *   read      the next request, or more of it; an idle connection holds no buffer
 *   parse     nothing: its requests are being executed
 *   nread     the rest of a value, read straight into the item
 *   swallow   the rest of a refused value, thrown away
 *   mwrite    the client to read its replies (socket full); nothing more is read from it
 *   io_queue  flash: nothing can be executed before an op is done
 *   yield     its turn: it has had `-R` requests, others come first
 *   dump      a dump that the crawler writes into the socket
 *   closing   replies on their way to be sent, then it closes
 *
 * One read() for one readiness, no second one after a short read. Buffers are borrowed from the
 * worker's pool while there is something in them.
 *
 * In a turn of the loop many connections are ready. First all receive, then all execute, so that
 * the memory that their requests need is fetched meanwhile (command_look_ahead); and a connection
 * that has answered all it has received leaves its replies in the queue, until at the end of the
 * turn those of all go out with one call (net/netring.h).
 *
 * Threads: all calls in the worker's thread, but where said. What `stats conns` shows is read by
 * any, with the worker's LOCK_CONN held (a connection is in the worker's list until it closes).
 */
#ifndef EXTANT_CONN_H
#define EXTANT_CONN_H

#include <event2/event.h>
#include <event2/event_struct.h>
#include <netinet/in.h>

#include "command/command.h"

#define CONN_SMALL_BUFFER_BYTES 2048u /* a half-received line is kept in so much */
#define CONN_LINE_BYTES_MAX (64u * 1024 * 1024) /* the longest multiget */

/*      state          name in stats */
#define CONN_STATE_TABLE(X)                                                                        \
    X(CONN_READ, "conn_read")                                                                      \
    X(CONN_NREAD, "conn_nread")                                                                    \
    X(CONN_SWALLOW, "conn_swallow")                                                                \
    X(CONN_MWRITE, "conn_mwrite")                                                                  \
    X(CONN_IO_QUEUE, "conn_io_queue")                                                              \
    X(CONN_PARSE, "conn_parse_cmd")                                                                \
    X(CONN_YIELD, "conn_new_cmd")                                                                  \
    X(CONN_DUMP, "conn_watch")                                                                     \
    X(CONN_CLOSING, "conn_closing")
enum conn_state {
#define X(name, text) name,
    CONN_STATE_TABLE(X)
#undef X
};

/* How it came to its end, in memcached's words. */
#define CONN_REASON_TABLE(X)                                                                       \
    X(CONN_ERROR, "error")                                                                         \
    X(CONN_NORMAL, "normal")                                                                       \
    X(CONN_IDLE, "idle_timeout")                                                                   \
    X(CONN_SHUTDOWN, "shutdown")
enum conn_reason {
#define X(name, text) name,
    CONN_REASON_TABLE(X)
#undef X
};

#define CONN_ADDRESS_BYTES 160u /* for conn_address_text(); a long path is cut */

/* An address in little space. */
struct conn_address {
    sa_family_t family; /* AF_INET, AF_INET6, AF_UNIX (no more is known) */
    uint16_t port;      /* host order */
    uint8_t ip[16];
};

/* Lists in which the worker keeps connections for later. */
enum conn_list {
    CONN_RECEIVED, /* has input that waits to be executed, at the latest when all was received */
    CONN_RESUMED,  /* has something to send or to go on with: at the end of this turn */
    CONN_UNSENT,   /* its replies go out with those of others: at the end of this turn */
    CONN_YIELDING, /* has had its share: in the next turn */
    CONN_LISTS,
};

struct worker;

/* Why a connection goes other ways than most. */
enum conn_apart {
    CONN_DUMPING = 1, /* a dump has its socket */
    CONN_TLS = 2,     /* it is the first part of a struct tls_conn */
};

/* What an accepted socket brings along. */
struct conn_origin {
    int fd;
    uint8_t tls; /* enum settings_tls */
    struct conn_address peer, local;
};

struct conn {
    struct session session;
    /* const */
    struct worker *worker;
    struct conn_origin origin;
    /* owned by the worker's thread */
    struct event event;
    short interest; /* what event waits for; 0: not added */
    char *buf;      /* received and not dealt with: [start, end) */
    uint32_t buf_bytes, start, end;
    bool negotiated; /* the first byte has told which protocol is spoken */
    bool closing;  /* send what is there, then close */
    bool blocked;  /* the socket takes nothing more */
    uint8_t apart; /* bits of enum conn_apart; most connections have none */
    bool more;     /* CONN_RECEIVED: there may be more input */
    uint8_t reason; /* enum conn_reason, why closing */
    struct {
        bool is_in;
        struct conn *next;
    } list[CONN_LISTS];
    uint64_t seen; /* CONN_RECEIVED: what command_look_ahead() gave for the first line */
    /* read by others for stats */
    _Atomic(uint8_t) state;         /* enum conn_state */
    _Atomic(uint32_t) last_cmd_sec; /* clock */
    /* under the worker's LOCK_CONN */
    struct conn *prev, *next;
    struct conn *next_mail;
    enum { MAIL_NEW, MAIL_DUMP_SENT, MAIL_DUMP_BROKEN } mail;
};

/* A connection for an accepted, non-blocking socket, which it owns from now on. NULL: no memory
 * (the socket is still the caller's). Any thread. */
struct conn *conn_create(struct worker *w, const struct conn_origin *origin);
/* It enters the worker's list and waits for input. */
void conn_start(struct conn *c);
/* Ends it now; the memory goes when the last parked op is done. Not while dumping. */
void conn_close(struct conn *c, enum conn_reason reason);
/* It may go on: its turn, or an op is done. */
void conn_continue(struct conn *c);
/* Executes what those in CONN_RECEIVED have received. */
void conns_execute(struct worker *w);
/* Sends the replies of all in CONN_UNSENT. */
void conns_send(struct worker *w);
/* A dump into its socket is over. */
void conn_dump_over(struct conn *c, bool alive);

/* ---- for net/tls_conn.c ---- */

/* Receives (if it may), executes, sends, until it has to wait for something, or is closed. */
void conn_run_tls(struct conn *c, bool readable);
/* Sends what is ready. False: the connection is gone. */
bool conn_flush_tls(struct conn *c);
/* Waits for EV_READ, EV_WRITE or nothing, with tls_conn_event(). False: no memory for that. */
bool conn_await_tls(struct conn *c, short want);

/* "tcp:127.0.0.1:11211", "tcp6:[::1]:11211", "unix:PATH" into out. */
void conn_address_text(const struct conn_address *a, const char *unix_path, char *out, size_t size);
void conn_address_of(struct conn_address *out, const struct sockaddr *sa);
const char *conn_state_name(enum conn_state state);

#endif
