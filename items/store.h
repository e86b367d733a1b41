/* items/store.h: struct cache, which the rooms from items up to maintenance share; no others
 * see inside.
 *
 * Invariants (all under the LOCK_COLUMN of the key's hash):
 *  - a key has at most one RAM word; an item is LINKED exactly while a word names it, and it is then
 *    on the LRU that its lru_id names and holds one reference for it;
 *  - a RAM item, alive or dead, hides every flash word of its key;
 *  - of several flash words of one key the one with the highest record seq counts, and none has a higher
 *    rank; the others are leftovers of overwrites, dropped as soon as a read has shown their key;
 *  - a flash word goes only if it is known to be an older value, or if nothing of its tag may be older
 *    (flash_may_hide); otherwise stale_check.c compares those first. So a drop never brings an older value
 *    back, never removes a younger one, and leaves other keys alone;
 *  - an item that was linked while a same-tag flash word was unread is MAY_HIDE_FLASH: those words may be
 *    its own older values, so it stays linked, dead or alive, until they are compared; or it goes to
 *    flash, where it hides them by its rank;
 *  - a clean item (items/clean.h) is MAY_HIDE_FLASH, and the one flash word of its tag is its own record.
 */
#ifndef EXTANT_ITEMS_STORE_H
#define EXTANT_ITEMS_STORE_H

#include "base/clock.h"
#include "base/lock.h"
#include "extstore.h"
#include "index.h"
#include "items/config.h"
#include "items/counters.h"
#include "items/item.h"
#include "items/admission.h"
#include "items/ghost.h"
#include "items/lru.h"
#include "items/stale.h"
#include "operator/departed.h"
#include "operator/stats.h"
#include "slab_mem.h"
#include "space/arena.h"

static_assert(CACHE_KEY_BYTES_MAX == EXT_RECORD_KEY_MAX, "a key that items may have is one that records may have");

#define CACHE_PULL_TRIES 5
/* Memory for the reasons why keys left: this part of -m, within these bounds. */
#define DEPARTED_SHARE 256
#define DEPARTED_BYTES_MIN (64 * KiB)
#define DEPARTED_BYTES_MAX (4 * MiB)

/* Persistent root, in the arena. */
struct cache_root {
    uint64_t hash_seed;
    uint64_t hash_seed_check;          /* cache_check_of(hash_seed, 0) */
    _Atomic(uint64_t) flush_check;     /* of the three below; valid only while no thread changes them */
    _Atomic(uint32_t) flush_changers;  /* threads that change them */
    uint32_t reserved;
    _Atomic(uint64_t) cas_counter;
    _Atomic(uint64_t) flush_cas;       /* items with a lower cas are dead, once flush_sec has come */
    _Atomic(uint32_t) flush_unix;      /* items last touched at or before are dead from then on; 0 none */
    _Atomic(uint32_t) planned_unix;    /* the time of a planned flush_all; 0 none */
    _Atomic(uint64_t) total_items;     /* of earlier processes on this arena */
    uint64_t ghost_offset, ghost_bytes; /* 0 bytes: none yet */
};
static_assert(sizeof(struct cache_root) == 80, "RESTART_MEMORY_FORMAT");
static_assert(offsetof(struct cache_root, flush_check) == 16, "RESTART_MEMORY_FORMAT");
static_assert(offsetof(struct cache_root, cas_counter) == 32, "RESTART_MEMORY_FORMAT");
static_assert(offsetof(struct cache_root, ghost_offset) == 64, "RESTART_MEMORY_FORMAT");
static_assert(sizeof(struct cache_root) <= ARENA_ROOT_MODULE_BYTES, "the root has room");

/* Checksums of numbers that all objects depend on, whose damage nothing else would detect. */
static inline uint64_t cache_check_of(uint64_t a, uint64_t b)
{
    uint64_t x = (a ^ UINT64_C(0x9e3779b97f4a7c15)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = ((x ^ x >> 29) + b) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 32;
}
static inline void cache_root_set_seed(struct cache_root *r, uint64_t seed)
{
    r->hash_seed = seed;
    r->hash_seed_check = cache_check_of(seed, 0);
}
static inline uint64_t cache_root_flush_check(const struct cache_root *r)
{
    return cache_check_of(atomic_load(&r->flush_cas), (uint64_t)atomic_load(&r->flush_unix) << 32 |
                                                          atomic_load(&r->planned_unix));
}
/* Around each change of flush_cas, flush_unix and planned_unix; any number of threads. */
static inline void cache_root_flush_begin(struct cache_root *r)
{
    atomic_fetch_add(&r->flush_changers, 1);
}
static inline void cache_root_flush_end(struct cache_root *r)
{
    uint64_t check;
    do {
        check = cache_root_flush_check(r);
        atomic_store(&r->flush_check, check);
    } while (check != cache_root_flush_check(r)); /* another thread changed them meanwhile */
    uint32_t changers = atomic_fetch_sub(&r->flush_changers, 1);
    ASSERT(changers > 0);
}
/* Could an earlier process have left this? A kill may have interrupted a flush_all. */
static inline bool cache_root_is_sound(const struct cache_root *r)
{
    return r->hash_seed_check == cache_check_of(r->hash_seed, 0) &&
           (atomic_load(&r->flush_changers) != 0 ||
            atomic_load(&r->flush_check) == cache_root_flush_check(r));
}

enum cache_counter {
#define X(name, help) CACHE_N_##name,
    CACHE_COUNTER_TABLE(X)
#undef X
        CACHE_COUNTER_COUNT
};

struct class_counters {
#define X(n) _Atomic(uint64_t) n;
    CACHE_ITEM_STATS(X)
#undef X
    _Atomic(uint64_t) evicted_time;
};

#ifdef EXTANT_DEBUG
struct cache_holds {
    _Atomic(uint32_t) refs[SLAB_CLASS_MAX], locks[SLAB_CLASS_MAX];
    /* what was reffed last, under its LOCK_COLUMN; a held item may be on flash meanwhile */
    uint64_t hash;
    struct item *item;
    bool on_flash;
    ext_place place;
};
#endif

struct cache {
    /* const after init */
    struct cache_config *config; /* its owner changes live fields */
    struct arena *arena;
    struct slab_mem *slab;
    struct index *index;
    struct extstore *ext;
    struct lru *lru;
    struct departed *departed; /* NULL: there was no memory for it */
    _Atomic(bool) lost_flash;  /* objects were on flash that was gone at the start */
    char *base;
    unsigned handle_shift;
    struct cache_root *root;
    _Atomic(uint64_t) *sizes; /* histogram in 32-byte steps, or NULL */
    size_t sizes_count;
    /* atomic */
    _Atomic(uint64_t) counters[CACHE_COUNTER_COUNT];
    struct class_counters classes[SLAB_CLASS_MAX];
    void (*flush_hook)(void *ctx); /* const once threads run; or NULL */
    void *flush_ctx;
    int maint_fd; /* eventfd, const: readable wakes the maintenance thread */
    uint32_t planned_told; /* the maintenance thread's: planned_unix that the engine knows of */
    _Atomic(bool) index_full; /* an insert found no room: maintenance has to drop a page */
    _Atomic(bool) index_crowded; /* pages go for it: until an eighth of it is free, objects must be worth a place */
    struct stale_queue stale;
    struct ghost ghost;         /* const once it is there */
    _Atomic(bool) ghost_is_there; /* written by the maintenance thread */
    struct admission admission; /* with flash */
#ifdef EXTANT_DEBUG
    struct cache_holds holds;
#endif
};

static inline void cache_count(struct cache *c, enum cache_counter n, uint64_t by)
{
    atomic_fetch_add_explicit(&c->counters[n], by, memory_order_relaxed);
}
#define class_count(c, cls, field)                                                                 \
    atomic_fetch_add_explicit(&(c)->classes[cls].field, 1, memory_order_relaxed)

static inline struct item *item_at(const struct cache *c, uint32_t handle)
{
    DEBUG_ASSERT(handle != 0 && (uint64_t)handle << c->handle_shift < arena_reserve_bytes(c->arena));
    return (struct item *)(c->base + ((uint64_t)handle << c->handle_shift));
}

#endif
