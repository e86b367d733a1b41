/* net/worker.h: the threads that serve connections, each with its own event loop, flash ring, buffers
 * and counters (net/loop.h); connections are dealt out to them in turn (with -N, by the card's receive queue) and stay
 * with one thread for life.
 *
 * A turn of the loop: first the sockets and completions that are ready, then the connections that had used up their
 * share of the turn before. Then everything queued for flash goes to the kernel at once, and replies
 * that are ready are sent.
 *
 * Threads: workers_* by the thread that created the set, except where stated. Lock:
 * LOCK_CONN, one for each worker: its mailbox and its list of connections.
 */
#ifndef EXTANT_WORKER_H
#define EXTANT_WORKER_H

#include "command/command.h"
#include "net/conn.h"
#include "net/loop.h"

struct workers {
    struct command_env *env;
    struct worker *list;
    unsigned count, next;
    unsigned napi_count; /* the first workers, whose receive queue is known */
};

/* Starts env->thread_count threads, whose counters are env->thread_stats. 0 or -errno (nothing
 * left). */
int workers_start(struct workers *set, struct command_env *env);
/* Closes all connections and ends the threads. */
void workers_stop(struct workers *set);
/* Gives a connection to the next worker. 0 or -ENOMEM (the socket is still the caller's). */
int workers_add(struct workers *set, const struct conn_origin *origin);

/* Calls fn for each line of `stats conns` about clients, by descriptor; holds no lock meanwhile. Any thread. */
void workers_each_conn(struct workers *set,
                       void (*fn)(void *ctx, int fd, const char *name, const char *text),
                       void *ctx);
/* Sums the figures of the buffer pools. Any thread. */
void workers_buffer_info(struct workers *set, struct buffer_pool *sum);

#endif
