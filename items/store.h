/* items/store.h: what cache.c, restart/attach.c, items/room.c, items/upcalls.c, crawler.c and
 * maint_thread.c share, and nobody else includes.
 *
 * Invariants (all under the LOCK_COLUMN of the key's hash):
 *  - a key has at most one RAM word; an item is LINKED exactly while a word names it, and it is then
 *    on the LRU that its lru_id names and holds one reference for it;
 *  - a RAM item, alive or dead, hides every flash word of its key;
 *  - of several flash words of one key the one with the highest record seq counts, and none has a higher
 *    rank; the others are leftovers of overwrites, dropped as soon as a read has shown whose they are;
 *  - a flash word goes only if it is known to be an older value, or if nothing of its tag may be older
 *    (flash_may_hide); else stale_check.c compares those first. So dropping never brings an older value
 *    back, takes no younger one along, and leaves other keys alone;
 *  - an item that was linked while a same-tag flash word stood unread is MAY_HIDE_FLASH: those words may be
 *    its own older values, so it stays linked, dead or alive, until they are compared; or it goes to
 *    flash, where it hides them by its rank.
 */
#ifndef EXTANT_CACHE_INTERNAL_H
#define EXTANT_CACHE_INTERNAL_H

#include "cache.h"
#include "base/clock.h"
#include "base/lock.h"
#include "items/admission.h"
#include "items/ghost.h"
#include "items/lru.h"
#include "items/stale.h"
#include "operator/departed.h"

#define CACHE_PULL_TRIES 5
/* Memory for the reasons why keys went: this part of -m, within these bounds. */
#define DEPARTED_SHARE 256
#define DEPARTED_BYTES_MIN (64 * KiB)
#define DEPARTED_BYTES_MAX (4 * MiB)

/* Persistent root, in the arena. */
struct cache_root {
    uint64_t hash_seed;
    uint64_t hash_seed_check;          /* cache_check_of(hash_seed, 0) */
    _Atomic(uint64_t) flush_check;     /* of the three below; counts only while nobody changes them */
    _Atomic(uint32_t) flush_changers;  /* threads that do */
    uint32_t reserved;
    _Atomic(uint64_t) cas_counter;
    _Atomic(uint64_t) flush_cas;       /* items with a lower cas are dead, once flush_sec has come */
    _Atomic(uint32_t) flush_unix;      /* items last touched at or before are dead from then on; 0 none */
    _Atomic(uint32_t) planned_unix;    /* the same of a flush_all with a delay; 0 none */
    _Atomic(uint64_t) total_items;     /* of earlier processes on this arena */
    uint64_t ghost_offset, ghost_bytes; /* 0 bytes: none yet */
};
static_assert(sizeof(struct cache_root) == 80, "RESTART_MEMORY_FORMAT");

/* Checks of numbers on which all objects hang, and which nothing else would tell to be damaged. */
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
    } while (check != cache_root_flush_check(r)); /* another changed them meanwhile */
    atomic_fetch_sub(&r->flush_changers, 1);
}
/* Could an earlier process have left this? A kill may have come in the midst of a flush_all. */
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
    struct settings *settings;
    struct arena *arena;
    struct slab_mem *slab;
    struct index *index;
    struct extstore *ext;
    struct lru *lru;
    struct departed *departed; /* NULL: there was no memory for it */
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
    struct stale_queue stale;
    struct ghost ghost;         /* no entries: there was no memory for it */
    struct admission admission; /* with flash */
#ifdef EXTANT_DEBUG
    struct cache_holds holds;
#endif
};

/* items/debug.c: what debugitem holds went to flash (it) or was moved there (it NULL); LOCK_COLUMN held.
 * And why a class can't give a page; NULL: it can. */
#ifdef EXTANT_DEBUG
void debug_held_at(struct cache *c, uint64_t hash, const struct item *it, ext_place from, ext_place to);
const char *debug_holds_of(struct cache *c, unsigned cls);
#else
static inline void debug_held_at(struct cache *c, uint64_t hash, const struct item *it, ext_place from,
                                 ext_place to)
{
    (void)c, (void)hash, (void)it, (void)from, (void)to;
}
static inline const char *debug_holds_of(struct cache *c, unsigned cls)
{
    (void)c, (void)cls;
    return NULL;
}
#endif

struct cache_read {
    struct ext_read rd;
    struct cache_op *op;
    struct cache_read *next;
    struct ext_record rec;
    ext_place place;
    uint8_t len_class;
    uint8_t verdict; /* enum read_verdict */
    bool was_hit;    /* a get has hit it on flash before this op */
    bool is_view;    /* AWAY: the op's view is to come from it */
};
enum read_verdict {
    READ_WANTED,
    READ_RUNNING,
    READ_MATCH,  /* the key's record */
    READ_OTHER,  /* an intact record of another key */
    READ_BAD,    /* wrong bytes, also when read again */
    READ_FAILED, /* the device did not give them */
    READ_AWAY,   /* its buffer was given up for others; the page is still pinned */
};

struct cache_worker {
    struct cache *cache;
    struct thread_stats *stats;
    struct ext_ring *ring;
    int wake_fd;
    unsigned parked;
    uint32_t recache_counter;
    struct cache_read *reads_free; /* kept for the next requests */
    unsigned reads_free_count;
    struct cache_op *wait_head, *wait_tail; /* parked for memory */
    bool notify_armed;                      /* the engine will wake us */
    _Atomic(int) wake_refs;                 /* notifications under way */
    cache_relief_fn relieve;                /* gives read buffers up when others wait for them */
    void *relieve_ctx;
    uint64_t relief_due_us; /* to be asked again; 0: when something happens */
};

static inline void cache_count(struct cache *c, enum cache_counter n, uint64_t by)
{
    atomic_fetch_add_explicit(&c->counters[n], by, memory_order_relaxed);
}
#define class_count(c, cls, field)                                                                 \
    atomic_fetch_add_explicit(&(c)->classes[cls].field, 1, memory_order_relaxed)

static inline struct item *item_at(const struct cache *c, uint32_t handle)
{
    return (struct item *)(c->base + ((uint64_t)handle << c->handle_shift));
}

enum item_death { ITEM_ALIVE, ITEM_EXPIRED, ITEM_FLUSHED };
/* Is an object with these times dead now? Pure. */
enum item_death cache_death(const struct cache *c, uint32_t time_sec, uint32_t exptime_sec, uint64_t cas,
                            uint32_t now_sec);
static inline enum item_death item_death(const struct cache *c, const struct item *it, uint32_t now)
{
    return cache_death(c, atomic_load_explicit(&it->time_sec, memory_order_relaxed),
                       atomic_load_explicit(&it->exptime_sec, memory_order_relaxed), item_cas(it), now);
}

static inline void item_flag_set(struct item *it, unsigned bits)
{
    atomic_fetch_or_explicit(&it->flags, (uint16_t)bits, memory_order_relaxed);
}
static inline void item_flag_clear(struct item *it, unsigned bits)
{
    atomic_fetch_and_explicit(&it->flags, (uint16_t)~bits, memory_order_relaxed);
}
static inline void item_ref(struct item *it)
{
    uint16_t was = atomic_fetch_add_explicit(&it->refcount, 1, memory_order_relaxed);
    ASSERT(was != 0 && was < UINT16_MAX);
}
static inline unsigned item_refs(const struct item *it)
{
    return atomic_load_explicit(&it->refcount, memory_order_acquire);
}
/* Drops one reference; the last one frees the memory. Any lock up to LOCK_LRU may be held. */
void item_unref(struct cache *c, struct item *it);

/* Counts an item in or out of the histogram of `stats sizes`. */
void cache_sizes_count(struct cache *c, const struct item *it, int sign);
uint64_t item_hash(const struct cache *c, const struct item *it);
uint64_t cache_next_cas(struct cache *c);
/* What `stats settings` shows of the last flush_all. */
uint32_t cache_oldest_live_sec(const struct cache *c);
/* Tells the engine of a flush_all whose time has come. By the maintenance thread, with flash. */
void cache_flush_planned(struct cache *c, uint32_t now_sec);
/* Wakes the maintenance thread. Any thread, any lock held. */
void cache_wake_maint(struct cache *c);

/* cache.c: the verbs. */
enum step {
    STEP_DONE,  /* finished, for good or bad */
    STEP_READ,  /* reads were noted in op->reads: start them, run again when all are there */
    STEP_WAIT,  /* no memory now: run again when the engine has made room */
    STEP_AGAIN, /* something was allocated, or has changed: run again at once */
};
/* Counts one get, gat or mg. */
void count_get(struct cache_worker *w, const struct cache_op *op, bool hit, unsigned cls,
               enum lru_segment seg);
/* Frees the item that the op allocated, or unpins the one that it shows. */
void op_item_free(struct cache *c, struct cache_op *op);
/* A zeroed read, cheap; NULL: no memory. */
struct cache_read *cache_read_new(struct cache_worker *w);
/* Runs the op's verb once, from the start. */
enum step cache_step(struct cache_worker *w, struct cache_op *op);

/* cache.c: links and unlinks; LOCK_COLUMN of hash held. */
/* Unlinks for good: word, LRU, reference. The item is not MAY_HIDE_FLASH. */
void item_unlink(struct cache *c, struct item *it, uint64_t hash);
/* The same for one that may hide words which can't be compared any more: they go first. How many. */
unsigned item_unlink_hiding(struct cache *c, struct item *it, uint64_t hash);
/* The slot of a linked item's word. */
index_slot *item_slot(struct cache *c, const struct item *it, uint64_t hash);
/* Forgets a flash object: the word goes (a tombstone stays if evicted), the engine is told. */
void flash_forget(struct cache *c, uint64_t hash, index_slot *slot, bool evicted);
/* The same for what reclaim gives up, which a later miss can then say. */
void flash_depart(struct cache *c, const struct stale_check *check, index_slot *slot);
/* May another flash word of the tag be an older value of this one's key? */
bool flash_may_hide(struct cache *c, uint64_t hash, const index_slot *slot);
/* Forgets every flash word of the tag whose rank is at most this, but the one in the slot (or NULL). How
 * many. For when it can't be read whose they are. */
unsigned flash_forget_ranks(struct cache *c, uint64_t hash, unsigned rank_max, const index_slot *but);
/* Asks for a check: the key of this hash was stored again, and flash words of its tag, of about
 * this many bytes, stand unread. */
void stale_note_overwrite(struct cache *c, uint64_t hash, uint64_t bytes);

/* items/room.c */
enum room {
    ROOM_MADE,   /* something moved or went: try again */
    ROOM_NONE,   /* nothing there that could go */
    ROOM_WAIT,   /* only a write buffer or a free page is missing: wait for the engine */
};
enum room_mode {
    ROOM_JUGGLE, /* move between segments by their limits; never evict */
    ROOM_FLUSH,  /* COLD tails go to flash, or stay */
    ROOM_EVICT,  /* COLD tails go: to flash if there is one, else away */
    ROOM_FORCE,  /* as EVICT, but do not wait for the flash */
};
/* Looks at the tail of one LRU and does the one thing that is due there. No lock held. */
enum room room_pull(struct cache *c, unsigned cls, enum lru_segment seg, uint64_t total_bytes,
                    enum room_mode mode, uint32_t max_age_sec);
/* Makes room for one more chunk of a class. No lock held. */
enum room room_make(struct cache *c, unsigned cls, bool force);
/* Allocates and fills the header of an unlinked item with one reference. 0; -E2BIG; -ENOMEM: nothing
 * can be evicted; -EAGAIN: wait for the engine (only if !force). No lock held. */
int item_alloc(struct cache *c, const char *key, unsigned key_bytes, uint32_t value_bytes,
               uint32_t client_flags, uint32_t exptime_sec, bool force, struct item **out);
/* Copies an item to flash and swaps its word. LOCK_COLUMN held, item linked. 0 or ext_append's error. */
int item_flush(struct cache *c, struct item *it, uint64_t hash);

/* Item flags <-> record flags. */
uint8_t flash_flags_of(unsigned item_flags);
unsigned item_flags_of(uint8_t flash_flags);

/* The record's times on this process's clock. */
static inline uint32_t clock_sec_of_unix(uint32_t unix_sec)
{
    if (unix_sec == 0)
        return 0;
    int64_t rel = (int64_t)unix_sec - clock_unix_epoch_sec();
    return rel < 1 ? 1 : rel > UINT32_MAX ? UINT32_MAX : (uint32_t)rel;
}
static inline uint32_t record_exptime_sec(const struct ext_record *r)
{
    return clock_sec_of_unix(r->exptime_unix);
}
static inline uint32_t record_time_sec(const struct ext_record *r)
{
    return clock_sec_of_unix(r->time_unix);
}

#endif
