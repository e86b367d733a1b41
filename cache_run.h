/* cache_run.h: how an op gets what its verb lacks: records through the worker's ring, memory by waiting.
 *
 * A struct cache_worker belongs to one thread, which creates, uses and destroys it. An op that is run is
 * either done at once or parked, and done() is called later, in the same thread, from cache_worker_poll()
 * or cache_worker_reap(). The op must not move in memory meanwhile. A parked op holds no lock. Locks inside:
 * LOCK_COLUMN and later; none on entry.
 */
#ifndef EXTANT_CACHE_RUN_H
#define EXTANT_CACHE_RUN_H

#include "cache.h"

/* A worker's handle; created, used and destroyed in its thread. stats: the thread's counters, kept by
 * the caller. */
struct cache_worker *cache_worker_create(struct cache *c, struct thread_stats *stats);
void cache_worker_destroy(struct cache_worker *w);
/* Two descriptors for the event loop: reads completed / memory or wake-up. Either may be -1. */
int cache_worker_ring_fd(const struct cache_worker *w);
int cache_worker_wake_fd(const struct cache_worker *w);
/* Call when one of them is readable, or the time-out below has passed: completes parked ops. */
void cache_worker_poll(struct cache_worker *w);
/* Cheaper, and enough, when it is only the first of them. It handles a few reads at a time: true if more are
 * completed, which the descriptor does not show; then call it again before waiting. */
bool cache_worker_reap(struct cache_worker *w);
/* Call once at the end of each event-loop turn: hands queued reads to the kernel. */
void cache_worker_submit(struct cache_worker *w);
/* Microseconds until cache_worker_poll must be called at the latest; -1 no need. */
int64_t cache_worker_timeout_us(const struct cache_worker *w);
unsigned cache_worker_parked(const struct cache_worker *w);

void cache_op_init(struct cache_op *op, enum cache_verb verb, const char *key, uint8_t key_bytes,
                   uint64_t hash);
/* True: done, results are in op. False: parked, op->done(op) comes later. Every op that was run to its
 * end needs one cache_release (also after a miss: cheap). */
bool cache_run(struct cache_worker *w, struct cache_op *op);
/* Gives back what the result holds (pinned item, read buffers) and, after CACHE_ALLOC that was not
 * stored, the item. */
void cache_release(struct cache_worker *w, struct cache_op *op);
/* The client of a parked op has left: if it is a get, its reads that haven't begun don't, and it ends soon, with
 * op->done. What changes objects goes on, a get with CACHE_F_TOUCH or _VIVIFY too. */
void cache_abandon(struct cache_op *op);
/* The client of a parked op has probably left: its reads that haven't begun do so after those of others. */
void cache_put_last(struct cache_op *op);
/* The worker ends: ops that wait for reads that haven't begun end soon, with CACHE_NO_MEMORY and nothing changed; but a
 * plain set is stored, and gives up the flash words of its key's tag for it. */
void cache_worker_give_up(struct cache_worker *w);
void cache_worker_set_put_away(struct cache_worker *w, cache_put_away_fn fn, void *ctx);
void cache_nudge(struct cache_worker *w);
/* Does the view's value stand in a read buffer, and in a large one? */
bool cache_view_is_read(const struct cache_op *op, bool *large);
/* Gives up the buffers of a finished op; view.value is then NULL. Returns the bytes that this frees: 0 if
 * others share them. Only if cache_view_is_read(). */
uint64_t cache_put_away(struct cache_op *op);
/* Reads the same bytes again. True: view.value is there; false: op->done(op) comes later. If view.value is
 * then NULL, it can no longer be read. */
bool cache_bring_back(struct cache_worker *w, struct cache_op *op);
#endif
