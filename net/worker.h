/* net/worker.h: the threads that serve connections, each with its own event loop, flash ring, buffers
 * and counters; connections are dealt out to them in turn and stay with one thread for life.
 *
 * A loop's turn: sockets and completions that are ready; connections that had used up their share
 * of the turn before; then everything queued for flash is handed to the kernel at once, and replies
 * that became ready are sent.
 *
 * Threads: workers_* by the thread that created the set, but for what says otherwise. Lock:
 * LOCK_CONN, one for each worker: its mailbox and its list of connections.
 */
#ifndef EXTANT_WORKER_H
#define EXTANT_WORKER_H

#include "command/command.h"
#include "net/conn.h"
#include "base/lock.h"
#include "net/netring.h"

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
        struct conn *head, *tail;
        unsigned count;
    } list[CONN_LISTS];
    struct netring *netring; /* NULL: replies are sent one by one */
    unsigned zombies; /* closed connections with parked ops */
    struct request request; /* the line being executed */
    struct udp_worker *udp; /* NULL without -U; const once the thread runs */
    struct tls_worker *tls; /* NULL without -Z; const once the thread runs */
    /* atomic */
    _Atomic(bool) stop;
    _Atomic(int) started; /* 0 not yet, 1 runs, else -errno */
    /* under lock */
    struct lock lock;
    struct conn *mail_head, *mail_tail;
    struct conn *conns;
};

struct workers {
    struct command_env *env;
    struct worker *list;
    unsigned count, next;
    unsigned napi_count; /* workers that a receive queue is known for: the first ones */
};

/* Starts env->thread_count threads, whose counters are env->thread_stats. 0 or -errno (nothing
 * left). */
int workers_start(struct workers *set, struct command_env *env);
/* Closes all connections, ends the threads. */
void workers_stop(struct workers *set);
/* Gives a connection to the next worker. 0 or -ENOMEM (the socket is still the caller's). */
int workers_add(struct workers *set, const struct conn_origin *origin);

/* Calls fn for each line of `stats conns` about clients; holds no lock meanwhile. Any thread. */
void workers_each_conn(struct workers *set,
                       void (*fn)(void *ctx, int fd, const char *name, const char *text),
                       void *ctx);
/* Sums the figures of the buffer pools. Any thread. */
void workers_buffer_info(struct workers *set, struct buffer_pool *sum);

/* ---- for net/conn.c, in the worker's thread unless said ---- */

void worker_link(struct worker *w, struct conn *c);   /* into the list */
void worker_unlink(struct worker *w, struct conn *c);
/* At the end of a list, unless it is there; the first of a list, out of it, or NULL; out of all. */
void worker_put(struct worker *w, struct conn *c, enum conn_list list);
struct conn *worker_take(struct worker *w, enum conn_list list);
void worker_forget(struct worker *w, struct conn *c);
/* From any thread: conn_dump_over(c, alive) in the worker's. */
void worker_post_dump_over(struct worker *w, struct conn *c, bool alive);

#endif
