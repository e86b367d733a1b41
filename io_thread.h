/* io_thread.h: a few threads that run jobs which may wait for a device.
 *
 * A job is embedded in the object that it works on and belongs to the pool from
 * io_pool_submit() until its run() is called; run() may submit it again, or
 * free it. Jobs start in the order of submission; those with a time start when
 * it has come. There is no limit on the queue: each submitter has a fixed
 * number of jobs (a wbuf, a reclaim, a ring's slots), so the sum is bounded.
 *
 * Threads: any thread may submit, also with locks held (up to LOCK_IO_QUEUE,
 * the one lock in here). run() is called with no lock held and may sleep.
 *
 * A pool of no threads is for tests that choose the order of events: jobs run inside io_pool_step().
 */
#ifndef EXTANT_IO_THREAD_H
#define EXTANT_IO_THREAD_H

#include <sys/queue.h>

#include "base/base.h"

#define IO_THREADS_MAX 64u

struct io_pool;

struct io_job {
    void (*run)(struct io_job *job);
    /* the pool's */
    TAILQ_ENTRY(io_job) in_queue;
    uint64_t start_ns; /* monotonic; 0: at once */
};

/* Starts `threads` threads (0 .. IO_THREADS_MAX) named `name` (15 characters). NULL with errno. */
struct io_pool *io_pool_create(unsigned threads, const char *name);

/* Runs queued jobs, timed ones at once, and the jobs that these submit; then joins. NULL is fine. */
void io_pool_destroy(struct io_pool *pool);

void io_pool_submit(struct io_pool *pool, struct io_job *job);
/* The same, not before delay_ns from now; sooner only when the pool is being destroyed. */
void io_pool_submit_after(struct io_pool *pool, struct io_job *job, uint64_t delay_ns);

/* Jobs that are queued and not yet started. */
uint64_t io_pool_queued(const struct io_pool *pool);

/* For pools of no threads: jobs whose time has come; and runs the nth of these (from 0) in the caller.
 * A run() may itself call io_pool_step, which plays a second thread. */
unsigned io_pool_ready(struct io_pool *pool);
void io_pool_step(struct io_pool *pool, unsigned nth);

#endif
