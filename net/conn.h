/* net/conn.h: one client's connection: bytes in, requests to command/command.h, replies out.
 *
 * States, as `stats conns` names them (CONN_STATE_TABLE), and what a connection waits for in each. conn_assert() checks
 * in debug builds what is true in each:
 *   read      the next request, or the rest of it; no value is incomplete; an idle connection holds no buffer
 *   parse     nothing: its requests are being executed; only within conn_run(), never between two events
 *   nread     the rest of a value, which is read straight into its item (session.store)
 *   swallow   the rest of a refused value, which is thrown away (session.swallow_bytes)
 *   mwrite    the client: the socket is full until it reads; nothing more is read from it
 *   io_queue  flash: an op is parked, or a reply in the queue isn't ready
 *   yield     its next turn: it has had `-R` requests, and others come first; it is in CONN_YIELDING
 *   dump      the end of a dump that the crawler writes into the socket, or (TLS) of a watcher
 *   closing   the last replies to be sent, then it closes
 *
 * Edges, and the function on each; conn_become() checks them in debug builds:
 *   all but PARSE --conn_run--> PARSE        conn_event and conns_execute call it for input, conn_event for room in the
 *                                            socket, conn_continue for a turn or an op that is done, conn_dump_over for
 *                                            a dump that has ended
 *   PARSE --set_state--> READ, NREAD, SWALLOW, MWRITE, IO_QUEUE, YIELD, CLOSING   conn_run has to wait, by what
 *                                            conn_execute (enum next) and conn_flush returned
 *   PARSE --start_dump--> DUMP               and back, if it is refused: DUMP --start_dump--> PARSE
 *   PARSE --tls_becomes_watcher--> DUMP
 *   READ, NREAD, SWALLOW, IO_QUEUE --set_state--> MWRITE   conn_send_rest: replies that were left for the end of the
 *                                            turn meet a full socket
 *   IO_QUEUE --set_state--> READ, NREAD, SWALLOW   conn_send_rest: a value that was put away was there at once
 *   each but DUMP -> gone                    conn_close; PARSE -> gone also become_watcher
 *
 * A socket that is ready is read once, and again only after a read that got all there was room for. Buffers are
 * borrowed from the worker's pool while they hold something.
 *
 * In a turn of the loop many connections are ready. First all receive, then all execute, so that the memory that
 * their requests need is prefetched in between (command_look_ahead; a single ready connection doesn't look ahead, as it
 * would only wait). A connection that has answered everything leaves its replies in the queue, and at the end of
 * the turn those of all connections go out with one call (net/netring.h).
 *
 * Threads: all calls in the worker's thread, except where stated. Any thread reads what `stats conns` shows, with the
 * worker's LOCK_CONN held (a connection is in the worker's list until it closes).
 */
#ifndef EXTANT_CONN_H
#define EXTANT_CONN_H

#include <event2/event.h>
#include <event2/event_struct.h>

#include "command/command.h"
#include "net/address.h"
#include "net/loop.h"

#define CONN_SMALL_BUFFER_BYTES 2048u /* for a line that is partly received */
/* The longest multiget that is executed as one. A longer one is executed in pieces, and so is one for which the worker
 * has no memory left (SESSION_ALL_BYTES_MAX): its keys are answered as they come. So a key that is too long spoils only
 * what comes after it, where memcached answers nothing but the error. */
#define CONN_LINE_BYTES_MAX (64u * 1024 * 1024)

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
    CONN_STATE_TABLE(ROW_NAME)
};

/* Why it ended, in memcached's words. */
#define CONN_REASON_TABLE(X)                                                                       \
    X(CONN_ERROR, "error")                                                                         \
    X(CONN_NORMAL, "normal")                                                                       \
    X(CONN_IDLE, "idle_timeout")                                                                   \
    X(CONN_SHUTDOWN, "shutdown")
enum conn_reason {
    CONN_REASON_TABLE(ROW_NAME)
};

/* How a connection differs from most. */
enum conn_apart {
    CONN_DUMPING = 1, /* a dump has its socket */
    CONN_TLS = 2,     /* it is the first part of a struct tls_conn */
};

/* What is in the buffer of a connection's present line. */
enum conn_cut {
    CONN_CUT_NOT,     /* its beginning */
    CONN_CUT_PIECE,   /* first a piece that is executed as a line of its own; then the rest */
    CONN_CUT_SPOILED, /* the rest, which is thrown away: the answer has ended with an error */
};

/* What an accepted socket brings along. */
struct conn_origin {
    int fd;
    uint8_t tls; /* enum settings_tls */
    struct address peer, local;
};

struct conn {
    struct session session;
    struct loop_conn in_loop; /* its place in the worker's lists; see conn_of() */
    /* const */
    struct worker *worker;
    struct conn_origin origin;
    /* owned by the worker's thread */
    struct event event;
    short interest; /* what event waits for; 0: not added */
    char *buf;      /* received and not yet executed: [start, end) */
    uint32_t buf_bytes, start, end;
    bool negotiated; /* the first byte has told which protocol is spoken */
    bool closing;  /* send what is there, then close */
    bool blocked;  /* the socket takes nothing more */
    uint8_t apart; /* bits of enum conn_apart */
    bool more;     /* received: there may be more input */
    uint8_t cut;   /* enum conn_cut: of a multiget that is executed in pieces */
    uint8_t reason; /* enum conn_reason, why closing */
    struct seen_key first; /* received: what command_look_ahead() told of the first line */
    /* read by others for stats */
    _Atomic(uint8_t) state;         /* enum conn_state */
    _Atomic(uint32_t) last_cmd_sec; /* clock */
};

static inline struct conn *conn_of(struct loop_conn *l)
{
    return l ? CONTAINER_OF(l, struct conn, in_loop) : NULL;
}

/* The calls of a connection whose bytes are encrypted (net/tls_conn.h). All in the worker's thread, except create. */
struct conn_tls {
    /* For a worker whose loop is made and not running. NULL: no memory. */
    struct tls_worker *(*worker_create)(struct worker *w, struct tls *tls);
    void (*worker_destroy)(struct tls_worker *t); /* no connection is left */
    struct conn *(*create)(void); /* calloc'ed, in place of a struct conn; NULL: no memory */
    void (*start)(struct conn *c);
    void (*go_on)(struct conn *c); /* as conn_continue() */
    void (*end)(struct conn *c);   /* before the socket is closed */
    void (*event)(evutil_socket_t fd, short what, void *arg);
    /* As readv() on a socket that doesn't wait. */
    ssize_t (*readv)(struct conn *c, const struct iovec *iov, int count);
    /* Is there input now, even if the socket has none? */
    bool (*has_input)(const struct conn *c);
    /* Into CONN_TLS_RECEIVED or CONN_TLS_UNSENT. */
    void (*put)(struct conn *c, enum conn_list list);
    enum reply_progress (*send)(struct conn *c, uint64_t *sent); /* as reply_send() */
    /* Returns a non-blocking socket; what is written to it goes to the client. -1 with errno. A watcher owns it
     * (and ends when the connection does); that of a dump stays the connection's. */
    int (*lend)(struct conn *c, bool to_dump);
    /* The dump or watcher didn't start: closes the socket. */
    void (*take_back)(struct conn *c, int lent_fd);
    /* The dump has ended; not alive: it could not send everything. */
    void (*dump_over)(struct conn *c, bool alive);
};

/* A connection for an accepted, non-blocking socket, which it owns from now on. NULL: no memory
 * (the socket is still the caller's). Any thread. */
struct conn *conn_create(struct worker *w, const struct conn_origin *origin);
/* Adds it to the worker's list; it waits for input. */
void conn_start(struct conn *c);
/* Does it wait for flash although its client has closed the socket? Without input nothing else tells. */
bool conn_is_deserted(const struct conn *c);
/* Ends it now; its memory is freed once the last parked op is done. Not while dumping. */
void conn_close(struct conn *c, enum conn_reason reason);
/* It may go on: its turn has come, or an op is done. */
void conn_continue(struct conn *c);
/* Executes what the connections in the list have received: CONN_RECEIVED or CONN_TLS_RECEIVED. */
void conns_execute(struct worker *w, enum conn_list list);
/* Sends the replies of the connections in CONN_UNSENT. */
void conns_send(struct worker *w);
/* Debug builds, at the end of a turn: each connection waits for an event, an op or its next turn (some are looked at). */
void conns_assert(const struct worker *w);
/* A dump into its socket has ended; alive: it sent everything. */
void conn_dump_over(struct conn *c, bool alive);

/* ---- for net/tls_conn.c ---- */

/* Receives (if it may), executes, sends, until it has to wait for something, or is closed. */
void conn_run(struct conn *c, bool readable);
/* Sends what is left to be sent of a connection that waits for input. */
void conn_send_rest(struct conn *c);
/* An event's callback: its socket is ready. */
void conn_event(evutil_socket_t fd, short what, void *conn);
/* Hands what the ring holds to the kernel; fn as for netring_run(). Without memory there for it the ring goes,
 * and everybody's replies are sent one by one from then on. */
void conns_run_ring(struct worker *w, void (*fn)(void *user, int result));
/* Waits for EV_READ, EV_WRITE or nothing. False: no memory to wait for it, so the connection has to be closed; never
 * if want is 0. */
bool conn_await(struct conn *c, short want);

const char *conn_state_name(enum conn_state state);

#endif
