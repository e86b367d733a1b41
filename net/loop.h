/* net/loop.h: one worker's event loop: what a connection needs of the thread that serves it. The thread
 * itself, and what a turn of its loop is, has net/worker.h.
 *
 * A connection is known here by the struct loop_conn inside it: it is in the list of all connections of this
 * worker from worker_link() to worker_unlink(), and meanwhile in any of the lists of enum conn_list.
 *
 * Threads: the worker's own, but where said. Lock: LOCK_CONN, one for each worker: its mailbox and its list
 * of connections, which only this thread changes.
 */
#ifndef EXTANT_LOOP_H
#define EXTANT_LOOP_H

#include <event2/event.h>
#include <event2/event_struct.h>
#include <pthread.h>

#include "base/lock.h"
#include "command/command.h"
#include "net/netring.h"

/* Lists in which the worker keeps connections for later. */
enum conn_list {
    CONN_RECEIVED, /* has input that waits to be executed, at the latest when all was received */
    CONN_RESUMED,  /* has something to send or to go on with: at the end of this turn */
    CONN_UNSENT,   /* its replies go out with those of others: at the end of this turn */
    CONN_YIELDING, /* has had its share: in the next turn */
    CONN_TLS_RECEIVED, /* as CONN_RECEIVED and CONN_UNSENT; see net/tls_conn.h */
    CONN_TLS_UNSENT,
    CONN_LISTS,
};

enum loop_mail { MAIL_NEW, MAIL_DUMP_SENT, MAIL_DUMP_BROKEN };

struct loop_conn {
    /* owned by the worker's thread */
    struct {
        bool is_in;
        struct loop_conn *next;
    } list[CONN_LISTS];
    /* under the worker's LOCK_CONN */
    struct loop_conn *prev, *next;
    struct loop_conn *next_mail;
    enum loop_mail mail; /* the sender's, until it is posted */
};

struct conn_tls;

struct worker {
    /* const once the thread runs */
    struct command_env *env;
    struct event_base *base;
    pthread_t thread;
    unsigned number;
    unsigned napi_id; /* -N: the receive queue whose connections come here; the acceptor's, 0 none yet */
    int mail_fd;
    struct thread_stats *stats;
    /* owned by the thread */
    struct command_worker command;
    struct cache_worker *cache_worker;
    struct event mail_event, ring_event, wake_event, cache_timer, idle_timer; /* fd < 0: unused */
    bool cache_timer_on;
    bool reaped;     /* in this turn */
    bool more_reads; /* are completed than were dealt with */
    struct {
        struct loop_conn *head, *tail;
        unsigned count;
    } list[CONN_LISTS];
    struct netring *netring; /* NULL: replies are sent one by one */
    unsigned zombies; /* closed connections with parked ops */
    struct request request; /* the line being executed */
    struct udp_worker *udp; /* NULL without -U; const once the thread runs */
    struct tls_worker *tls; /* NULL without -Z; const once the thread runs */
    const struct conn_tls *conn_tls; /* with -Z: how TLS connections go; const before the thread runs */
    /* atomic */
    _Atomic(bool) stop;
    _Atomic(int) started; /* 0 not yet, 1 runs, else -errno */
    /* under lock */
    struct lock lock;
    struct loop_conn *mail_head, *mail_tail;
    struct loop_conn *conns;
};

/* Into the list of connections, and out of it. */
void worker_link(struct worker *w, struct loop_conn *c);
void worker_unlink(struct worker *w, struct loop_conn *c);
/* At the end of a list, unless it is there; the first of a list, out of it, or NULL; out of all. */
void worker_put(struct worker *w, struct loop_conn *c, enum conn_list list);
struct loop_conn *worker_take(struct worker *w, enum conn_list list);
void worker_forget(struct worker *w, struct loop_conn *c);

/* From any thread: c with c->mail into the mailbox, which the worker reads in a turn of its loop. */
void worker_post(struct worker *w, struct loop_conn *c);
/* From any thread: conn_dump_over(c, alive) in the worker's. */
void worker_post_dump_over(struct worker *w, struct loop_conn *c, bool alive);
/* From any thread: ends the worker's wait, if it waits. */
void worker_wake(struct worker *w);

#endif
