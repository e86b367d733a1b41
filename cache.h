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

#include "base/base.h"
#include "cache_op.h"
#include "extstore.h"
#include "index.h"
#include "items/config.h"
#include "items/figures.h"
#include "items/item.h"
#include "operator/stats.h"
#include "slab_mem.h"

struct cache_worker;

struct cache_options {
    struct cache_config *config; /* outlives the cache */
    struct arena *arena;
    struct slab_mem *slab;
    struct index *index;
    struct extstore *ext;      /* NULL without flash; may be set later by cache_set_extstore */
    bool attached;
};

/* Makes the cache over its parts. NULL with errno. The parts must outlive it. */
struct cache *cache_create(const struct cache_options *opt);
void cache_destroy(struct cache *c);
void cache_set_extstore(struct cache *c, struct extstore *ext);
/* Calls fn after each flush_all, in its thread, no lock held. Set once, before the threads start. */
void cache_set_flush_hook(struct cache *c, void (*fn)(void *ctx), void *ctx);

uint64_t cache_hash(const struct cache *c, const char *key, size_t key_bytes);

/* The hot path of get: RAM hit or certain miss, without an op. *pin must be given to cache_unpin. */
enum cache_quick { CACHE_QUICK_HIT, CACHE_QUICK_MISS, CACHE_QUICK_NEEDS_OP };
enum cache_quick cache_get_quick(struct cache_worker *w, const char *key, uint8_t key_bytes,
                                 struct index_spot *spot, struct cache_view *view, struct item **pin);
void cache_unpin(struct cache_worker *w, struct item *pin);
/* Finds where the index has a key's words, and prefetches them; and, once these had time to arrive, its item. */
void cache_find(struct cache_worker *w, const char *key, size_t key_bytes, struct index_spot *spot);
void cache_prefetch_item(struct cache_worker *w, const struct index_spot *spot);

/* With flash the index may take all of -m except a share for items. */
#define CACHE_ITEMS_SHARE 16 /* one part in this many, at least two pages */
static inline uint64_t cache_index_limit(uint64_t memory_bytes)
{
    uint64_t items = max_u64(memory_bytes / CACHE_ITEMS_SHARE, 2 * SLAB_PAGE_BYTES);
    return memory_bytes > items ? memory_bytes - items : 0;
}

/* flush_all: everything stored before `when` (clock seconds; 0 = now) is dead from then on. */
void cache_flush_all(struct cache *c, uint32_t when_sec);
/* The time of the last flush_all, for `stats settings`. */
uint32_t cache_oldest_live_sec(const struct cache *c);
/* Tells the engine of a flush_all whose time has come. By the maintenance thread, with flash. */
void cache_flush_planned(struct cache *c, uint32_t now_sec);
/* cache_memlimit: new -m in bytes. 0, or -ENOMEM: more than the address space that was reserved at start. */
int cache_set_memlimit(struct cache *c, uint64_t bytes);

#endif
