/* cache.h: what a key-value cache does, for RAM and flash objects alike.
 *
 * The command layer fills a struct cache_op (which verb, which key, which
 * options) and calls cache_run(). Either the answer is there at once, or the
 * op is parked (a read from flash, or waiting for memory) and op->done is
 * called later, in the same thread, from cache_worker_poll(). The op must not
 * move in memory meanwhile. A parked op never holds a lock.
 *
 * Results that point at a value (op->view) stay valid until cache_release().
 *
 * Verbs and memcached's commands:
 *   CACHE_GET     get gets mg, gat/gats/mg T (CACHE_F_TOUCH), mg N (VIVIFY), mg R (RECACHE)
 *   CACHE_ALLOC   the room for a value that is about to be received
 *   CACHE_STORE   set add replace append prepend cas ms: links the item of CACHE_ALLOC
 *   CACHE_DELETE  delete md
 *   CACHE_TOUCH   touch
 *   CACHE_ARITH   incr decr ma
 * Counting of everything about items (cmd_get, get_hits, per-class hits ...) is done here, once
 * for each op, in the worker's own counters. Commands, connections and bytes are counted above.
 *
 * Threads: a struct cache_worker belongs to one thread. struct cache calls
 * say what they need. Locks inside: LOCK_COLUMN and later; none on entry.
 */
#ifndef EXTANT_CACHE_H
#define EXTANT_CACHE_H

#include "cache_op.h"
#include "extstore.h"
#include "index.h"
#include "items/figures.h"
#include "items/life.h"
#include "operator/stats.h"

struct cache_worker;

/* The hot path of get: RAM hit or certain miss, without an op. *pin must be given to cache_unpin. */
enum cache_quick { CACHE_QUICK_HIT, CACHE_QUICK_MISS, CACHE_QUICK_NEEDS_OP };
enum cache_quick cache_get_quick(struct cache_worker *w, const char *key, uint8_t key_bytes,
                                 struct index_spot *spot, struct cache_view *view, struct item **pin);
void cache_unpin(struct cache_worker *w, struct item *pin);
/* Finds where the index has a key's words, and prefetches them; and, once these had time to arrive, its item. */
void cache_find(struct cache_worker *w, const char *key, size_t key_bytes, struct index_spot *spot);
/* A set is refused, and there is no memory for an op that deletes the old value: that goes, and with it all flash words of
 * the key's tag, since none is read. It needs no memory. No lock held. */
void cache_drop_key(struct cache_worker *w, const char *key, uint8_t key_bytes, const struct index_spot *spot);
void cache_prefetch_item(struct cache_worker *w, const struct index_spot *spot);

#endif
