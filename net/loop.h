/* net/loop.h: one worker's event loop: what a connection needs of the thread that serves it. net/worker.h has the
 * thread itself, and describes a turn of its loop.
 *
 * Here a connection is the struct loop_conn inside it. It is in the list of all connections of this
 * worker from worker_link() to worker_unlink(), and in between in any of the lists of enum conn_list.
 *
 * Threads: the worker's own, except where stated. Lock: LOCK_CONN, one for each worker: its mailbox and its list
 * of connections, which only this thread changes.
 */
#ifndef EXTANT_LOOP_H
#define EXTANT_LOOP_H

#include <event2/event.h>
#include <event2/event_struct.h>
#include <pthread.h>
#include <sys/queue.h>

#include "base/lock.h"
#include "command/command.h"
#include "net/netring.h"

/* Lists in which the worker keeps connections for later. */
enum conn_list {
    CONN_RECEIVED, /* has input, which is executed once all connections have received */
    CONN_RESUMED,  /* has something to send or to execute at the end of this turn */
    CONN_UNSENT,   /* its replies go out with those of others at the end of this turn */
    CONN_YIELDING, /* has had its share, and goes on in the next turn */
    CONN_TLS_RECEIVED, /* as CONN_RECEIVED and CONN_UNSENT; see net/tls_conn.h */
    CONN_TLS_UNSENT,
    CONN_LISTS,
};

enum loop_mail { MAIL_NEW, MAIL_DUMP_SENT, MAIL_DUMP_BROKEN };

struct loop_conn {
    /* owned by the worker's thread */
    uint8_t is_in; /* a bit for each of enum conn_list */
    STAILQ_ENTRY(loop_conn) on[CONN_LISTS];
    /* under the worker's LOCK_CONN */
    LIST_ENTRY(loop_conn) among_all;
    STAILQ_ENTRY(loop_conn) in_mailbox;
    enum loop_mail mail; /* the sender's, until it is posted */
};
static_assert(CONN_LISTS <= 8, "bits of is_in");
STAILQ_HEAD(loop_queue, loop_conn);

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
    struct event mail_event, ring_event, wake_event, cache_timer, idle_timer, watch_event; /* fd < 0: unused */
    bool cache_timer_on;
    int watch_fd; /* a timer for clients that leave while their values are read; < 0: not made */
    bool is_watching; /* it is set */
    bool reaped;     /* in this turn */
    bool more_reads; /* are completed than were answered */
    struct loop_queue list[CONN_LISTS];
    unsigned count[CONN_LISTS]; /* of those in list */
    struct netring *netring; /* NULL: replies are sent one by one */
    unsigned zombies; /* closed connections with parked ops */
    struct request request; /* the line being executed */
    struct udp_worker *udp; /* NULL without -U; const once the thread runs */
    struct tls_worker *tls; /* NULL without -Z; const once the thread runs */
    const struct conn_tls *conn_tls; /* with -Z: the calls of TLS connections; const before the thread runs */
    /* atomic */
    _Atomic(bool) stop;
    _Atomic(int) started; /* 0 not yet, 1 runs, else -errno */
    /* under lock */
    struct lock lock;
    struct loop_queue mailbox;
    LIST_HEAD(, loop_conn) conns;
};

/* Before anything else: the lists are empty. */
void worker_init_lists(struct worker *w);
/* Adds it to the list of connections; removes it. */
void worker_link(struct worker *w, struct loop_conn *c);
void worker_unlink(struct worker *w, struct loop_conn *c);
/* Appends it to a list, unless it is in there. */
void worker_put(struct worker *w, struct loop_conn *c, enum conn_list list);
/* Removes the first of a list and returns it, or NULL. */
struct loop_conn *worker_take(struct worker *w, enum conn_list list);
/* Removes it from all lists of enum conn_list. */
void worker_forget(struct worker *w, struct loop_conn *c);
static inline bool worker_has_put(const struct loop_conn *c, enum conn_list list)
{
    return c->is_in & 1u << list;
}

/* Debug builds: worker_enter() says that this thread is the worker's, worker_assert_mine() checks it. */
#ifdef EXTANT_DEBUG
void worker_enter(const struct worker *w);
void worker_assert_mine(const struct worker *w);
#else
static inline void worker_enter(const struct worker *w UNUSED) {}
static inline void worker_assert_mine(const struct worker *w UNUSED) {}
#endif

/* From now on ev waits for EV_READ, EV_WRITE or, with want 0, for nothing at this descriptor, and calls fn(fd, what, arg).
 * *interest: what it waits for at present, 0 at first. False: no memory, so it waits for nothing; never if want is 0. */
bool worker_await(struct worker *w, struct event *ev, short *interest, int fd, short want, event_callback_fn fn, void *arg);

/* From any thread: puts c, with c->mail set, into the mailbox, which the worker reads in a turn of its loop. */
void worker_post(struct worker *w, struct loop_conn *c);
/* From any thread: the worker's thread will call conn_dump_over(c, alive). */
void worker_post_dump_over(struct worker *w, struct loop_conn *c, bool alive);
/* From any thread: wakes the worker. */
void worker_wake(struct worker *w);

#endif
