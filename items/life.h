/* items/life.h: the cache as a whole: made over its parts and destroyed, flush_all, and -m.
 *
 * Threads: one creates, sets up and destroys it, while no other uses it; the rest says what it needs. Locks: those of the
 * parts, inside; none on entry.
 */
#ifndef EXTANT_ITEMS_LIFE_H
#define EXTANT_ITEMS_LIFE_H

#include "base/base.h"
#include "items/config.h"
#include "slab_mem.h"

struct arena;
struct cache;
struct extstore;
struct index;

struct cache_options {
    struct cache_config *config; /* outlives the cache */
    struct arena *arena;
    struct slab_mem *slab;
    struct index *index;
    bool attached;
};

/* Makes the cache over its parts. NULL with errno. The parts must outlive it. */
struct cache *cache_create(const struct cache_options *opt);
void cache_destroy(struct cache *c);
void cache_set_extstore(struct cache *c, struct extstore *ext);
/* Calls fn after each flush_all, in its thread, no lock held. Set once, before the threads start. */
void cache_set_flush_hook(struct cache *c, void (*fn)(void *ctx), void *ctx);

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
/* What items and index may have together: -m, or less while the system has no more (items/shortage.h). */
uint64_t cache_memory_bytes(const struct cache *c);

#endif
