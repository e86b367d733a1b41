/* stale_check.h: reads flash words that may be older values of their key, and drops those that are.
 *
 * Its queues are in items/stale.h. One check:
 *
 *   take -> which words of the tag matter (LOCK_COLUMN) -> pin and read them -> compare keys (LOCK_COLUMN)
 *                                                                    |-> drop what is stale
 *                                                                    |-> a hider that hides nothing more
 *                                                                    |   is told so; a dead one goes
 *                                                                    '-> DROP: the word itself, or again later
 *
 * A record that can't be read does not go for that: the device may give it later, and as long as it stands,
 * so do the words that it may hide. Only when it has to go, since a younger word is dropped or an item that
 * hides it has to leave memory, do those go with it that may be older than it; `evictions_same_tag` counts
 * them.
 *
 * Called by the thread that owns the worker: the maintenance thread, or the one that stops the cache.
 */
#ifndef EXTANT_STALE_CHECK_H
#define EXTANT_STALE_CHECK_H

#include "cache_step.h"

/* Begins some checks; those that need no read are decided at once, the others when the worker is polled.
 * Takes LOCK_COLUMN; never sleeps. True iff more wait. */
bool stale_step(struct cache_worker *w);

/* One bounded step of the walk over the index that finds unqueued checks: after a start with an
 * earlier process's content, and after a full queue. *at is the caller's place in it, 0 at first. True
 * iff it did something. */
bool stale_walk_step(struct cache_worker *w, uint64_t *at);

/* Runs checks until none waits or runs, or the time is over (clock_mono_ns). Waits for the devices. */
void stale_finish(struct cache_worker *w, uint64_t deadline_ns);

#endif
