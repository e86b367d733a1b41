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
#include "extstore.h"
#include "index.h"
#include "items/item.h"
#include "operator/settings.h"
#include "slab_mem.h"
#include "operator/stats.h"

#define CACHE_KEY_BYTES_MAX 250

struct cache;
struct cache_worker;
struct cache_op;

enum cache_verb { CACHE_GET, CACHE_ALLOC, CACHE_STORE, CACHE_DELETE, CACHE_TOUCH, CACHE_ARITH };

enum cache_store_mode {
    CACHE_SET,
    CACHE_ADD,
    CACHE_REPLACE,
    CACHE_APPEND,
    CACHE_PREPEND,
    CACHE_CAS, /* classic cas: NOT_FOUND on a miss; compares op->cas_compare */
};

enum cache_status {
    CACHE_OK,         /* hit, stored, deleted, touched, counted */
    CACHE_NOT_FOUND,  /* miss */
    CACHE_NOT_STORED, /* add: there; replace/append/prepend: not there */
    CACHE_EXISTS,     /* cas does not match */
    CACHE_NON_NUMERIC,
    CACHE_TOO_LARGE,  /* "object too large for cache" (the old value is gone then, as in memcached) */
    CACHE_NO_MEMORY,  /* "out of memory storing object" */
    CACHE_VIVIFIED,   /* CACHE_GET/ARITH with VIVIFY on a miss: an empty/initial item was made */
};

/* Options. */
enum cache_option {
    CACHE_F_TOUCH = 1 << 0,       /* set exptime to op->exptime_sec */
    CACHE_F_NOBUMP = 1 << 1,      /* mg without any of h l t touching: (mg u) no LRU movement, no fetched mark */
    CACHE_F_VIVIFY = 1 << 2,      /* make an item on a miss, expiring at op->vivify_exptime_sec */
    CACHE_F_RECACHE = 1 << 3,     /* win if the TTL left is below op->recache_ttl_sec */
    CACHE_F_CAS_COMPARE = 1 << 4, /* only if the item's cas equals op->cas_compare */
    CACHE_F_CAS_SET = 1 << 5,     /* the new cas is op->cas_new (E flag) */
    CACHE_F_INVALIDATE = 1 << 6,  /* ms I: store as stale if cas_compare is lower; md I: mark stale */
    CACHE_F_EMPTY = 1 << 7,       /* md x: an empty item with op's client flags and exptime takes its place */
    CACHE_F_DECR = 1 << 8,        /* CACHE_ARITH subtracts */
    CACHE_F_NO_VALUE = 1 << 9,    /* CACHE_GET: the value's bytes are not needed (mg without v) */
    CACHE_F_GAT = 1 << 10,        /* gat, gats: count as a touch, a miss too */
    CACHE_F_META = 1 << 11,       /* the request is a meta command (stale and token logic applies) */
    CACHE_F_BINARY_KEY = 1 << 12, /* the key came in base64 */
    CACHE_F_QUIET_STATS = 1 << 13, /* without counting: me, the value that a refused set drops */
    CACHE_F_TOUCH_LAST = 1 << 14, /* RECACHE looks at the exptime before TOUCH, not at the new one */
};

/* What the answer may tell about the item; value bytes in one piece. */
struct cache_view {
    const char *value;    /* NULL with CACHE_F_NO_VALUE on flash or when there is none */
    uint32_t value_bytes;
    uint32_t client_flags;
    uint64_t cas;
    uint32_t exptime_sec; /* clock seconds, 0 never */
    uint32_t exptime_before_sec; /* the same before this op; 0 if it made the item */
    uint32_t time_sec;    /* last access before this op */
    uint8_t slab_class;
    bool fetched_before;  /* was hit before this op (mg h, me fetch) */
    bool stale, won, token_sent; /* mg X, W, Z */
    bool binary_key;      /* the stored key was given in base64 */
    bool on_flash;
    uint32_t accounted_bytes; /* memcached's item size (mg s is value_bytes; me size is this) */
};

struct cache_read; /* internal */

struct cache_op {
    /* set by the caller before cache_run (cache_op_init zeroes all) */
    enum cache_verb verb;
    enum cache_store_mode mode;
    uint32_t options; /* enum cache_option */
    const char *key;  /* must stay valid until the op is done */
    uint8_t key_bytes;
    uint64_t hash;    /* cache_hash() */
    uint32_t exptime_sec;        /* clock seconds, as clock_exptime() gives; 0 never */
    uint32_t vivify_exptime_sec;
    int64_t recache_ttl_sec;
    uint64_t cas_compare, cas_new;
    uint32_t client_flags;
    uint32_t value_bytes;        /* CACHE_ALLOC: size of the value */
    uint64_t delta, initial;     /* CACHE_ARITH */
    void (*done)(struct cache_op *op); /* called if cache_run returned false */
    void *owner;

    /* results */
    enum cache_status status;
    struct cache_view view;      /* GET: the item; STORE/ARITH/...: cas, exptime, flags, sizes of what now is there */
    uint64_t number;             /* CACHE_ARITH: the new value */
    bool no_room;                /* GET: memory for the value isn't there (slab_automove 0); CACHE_NO_MEMORY */
    bool met_expired, met_flushed; /* the key was there, but its time was over */
    char *value;                 /* CACHE_ALLOC: where the caller puts value_bytes bytes */

    /* the cache's own */
    struct item *item;           /* CACHE_ALLOC's item until stored; a pinned item for view */
    struct item *joined;         /* append and prepend: the item of both values */
    struct cache_read *reads;    /* what was read of the flash words of the tag */
    struct cache_worker *worker;
    struct cache_op *wait_next;
    uint64_t wait_start_us;
    uint64_t read_bytes;         /* the most that its reads hold, until cache_release; for the caller's bounds */
    uint16_t read_count, read_pending;
    uint16_t attempts;
    bool read_hidden; /* reads are of what a dead RAM item hides: no answer */
    bool starved; /* a read found no memory: what the record says is not known */
    uint8_t state;
    bool view_from_read;
    bool counted; /* CACHE_STORE: cmd_set is counted once, however often the op is run */
};

struct cache_options {
    struct settings *settings; /* limits, LRU percentages, ext_* (live values are read from it) */
    struct arena *arena;
    struct slab_mem *slab;
    struct index *index;
    struct extstore *ext;      /* NULL without flash; may be set later by cache_set_extstore */
    bool attached;
};

/* What an attach found. */
struct attach_report {
    uint64_t ram_items, flash_objects; /* taken over */
    uint64_t expired_items;            /* RAM items dropped because their time was over */
    uint64_t dropped_items;            /* words of RAM items that were not whole */
    uint64_t dropped_objects;          /* words of flash objects whose page holds none */
    uint64_t shadow_items;             /* RAM items that may hide older values on flash */
    uint64_t lru_pieces;               /* pieces that LRUs had to be joined from */
    uint64_t micros;
};

/* Makes the cache over its parts. NULL with errno. The parts must outlive it. */
struct cache *cache_create(const struct cache_options *opt);
void cache_destroy(struct cache *c);
void cache_set_extstore(struct cache *c, struct extstore *ext);
/* With options.attached: takes over what the index names. After cache_set_extstore, before anything else
 * uses the cache; ends the attach of slab_mem and of the engine. 0, or -errno: start empty instead. */
int cache_attach(struct cache *c, struct attach_report *out);
/* ---- for a checkpoint: nobody else uses the cache; with flash ---- */

/* What goes on over a stop, beside index and pages. */
struct cache_numbers {
    uint64_t hash_seed, cas_counter, flush_cas;
    uint32_t flush_unix, planned_unix;
};
void cache_numbers(const struct cache *c, struct cache_numbers *out);
/* Before anything is stored. */
void cache_set_numbers(struct cache *c, const struct cache_numbers *n);

/* Moves all items from RAM to flash, making room there as usual; what is dead goes. 0: none is left;
 * -ETIMEDOUT: the time is over (clock_mono_ns() > deadline_ns); -ENOSPC: flash gets no free page any
 * more; -EIO: no device takes writes. What is left stays as it was. Waits for the devices. The worker is
 * of this thread, nothing of it is parked, before and after; NULL: there was no memory for one. */
struct cache_moved {
    uint64_t moved, dead, left;
};
int cache_move_to_flash(struct cache *c, struct cache_worker *w, uint64_t deadline_ns,
                        struct cache_moved *out);
/* Drops the items that are left, together with the older values that they hide. How many. */
uint64_t cache_drop_items(struct cache *c, struct cache_worker *w);

/* Fills the empty index from the records on flash, before ext_attach_done: of each key the one with the
 * highest seq, unless it is dead. Log lines tell how far it is. 0 or -ENOMEM. */
struct cache_scan_report {
    uint64_t records;   /* sound ones that were met */
    uint64_t kept;
    uint64_t older;     /* than another of the same key */
    uint64_t dead;      /* expired or flushed */
    uint64_t foreign;   /* of an earlier cache in the same files */
    uint64_t no_room;   /* the index is full */
    uint64_t compared;  /* reads to see which of two is younger */
};
int cache_scan(struct cache *c, struct cache_scan_report *out);
/* Calls fn after each flush_all, in its thread, no lock held. Set once, before the threads start. */
void cache_set_flush_hook(struct cache *c, void (*fn)(void *ctx), void *ctx);

/* The callbacks to give to ext_create (ctx = the cache). */
struct ext_callbacks cache_ext_callbacks(struct cache *c);

uint64_t cache_hash(const struct cache *c, const char *key, size_t key_bytes);

/* A worker's handle; created, used and destroyed in its thread. stats: the thread's counters, kept by
 * the caller. */
struct cache_worker *cache_worker_create(struct cache *c, struct thread_stats *stats);
void cache_worker_destroy(struct cache_worker *w);
/* Two descriptors for the event loop: reads completed / memory or wake-up. Either may be -1. */
int cache_worker_ring_fd(const struct cache_worker *w);
int cache_worker_wake_fd(const struct cache_worker *w);
/* Call when one of them is readable, or the time-out below has passed: completes parked ops. */
void cache_worker_poll(struct cache_worker *w);
/* Cheaper, and enough, when it is only the first of them. A few reads at a time: true if more are
 * completed, of which the descriptor does not tell; then it is to be called again before waiting. */
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
/* What was read from flash for a view is in memory until cache_release, and others may wait for that memory:
 * then the worker's fn is asked to put something away. 0: it did; else the microseconds after which it is
 * to be asked again, UINT64_MAX: when cache_nudge() says so. large: values of more than some KB. Called from
 * cache_worker_poll, _reap and _submit. */
typedef uint64_t (*cache_relief_fn)(void *ctx, bool large);
void cache_worker_set_relief(struct cache_worker *w, cache_relief_fn fn, void *ctx);
void cache_nudge(struct cache_worker *w);
/* Does the view's value stand in a read buffer, and in a large one? */
bool cache_view_is_read(const struct cache_op *op, bool *large);
/* Gives the buffers of a finished op up; view.value is NULL then. The bytes that this sets free: 0 if others
 * share them. Only for ops of which cache_view_is_read(). */
uint64_t cache_put_away(struct cache_op *op);
/* Reads the value again, the same bytes: true: view.value is there; false: op->done(op) comes later. NULL
 * then: it can't be read any more. */
bool cache_bring_back(struct cache_worker *w, struct cache_op *op);
/* For a connection that goes away while its op is parked: the op ends as soon as it can, done is still
 * called (exactly once), after which the caller releases it. */

/* The hot path of get: RAM hit or certain miss, without an op. *pin must be given to cache_unpin. */
enum cache_quick { CACHE_QUICK_HIT, CACHE_QUICK_MISS, CACHE_QUICK_NEEDS_OP };
enum cache_quick cache_get_quick(struct cache_worker *w, const char *key, uint8_t key_bytes,
                                 uint64_t hash, struct cache_view *view, struct item **pin);
void cache_unpin(struct cache_worker *w, struct item *pin);
/* Hints that a key will be asked for: fetch its words of the index; and, once these had the time to
 * arrive, its item. */
void cache_prefetch(struct cache_worker *w, uint64_t hash);
void cache_prefetch_item(struct cache_worker *w, uint64_t hash);

/* With flash the index may take so much of -m: all but a share for items. */
#define CACHE_ITEMS_SHARE 16 /* one part in so many, at least two pages */
static inline uint64_t cache_index_limit(uint64_t memory_bytes)
{
    uint64_t items = max_u64(memory_bytes / CACHE_ITEMS_SHARE, 2 * SLAB_PAGE_BYTES);
    return memory_bytes > items ? memory_bytes - items : 0;
}

/* flush_all: everything stored before `when` (clock seconds; 0 = now) is dead from then on. */
void cache_flush_all(struct cache *c, uint32_t when_sec);
/* cache_memlimit: new -m in bytes. 0, or -ENOMEM: more than the address space that was reserved at start. */
int cache_set_memlimit(struct cache *c, uint64_t bytes);

/* Admin views; each visits in bounded pieces and holds no lock while fn runs. */
/* stats cachedump: up to limit items of a class; fn gets key, value bytes, absolute expiry. */
void cache_dump_class(struct cache *c, unsigned cls, unsigned limit,
                      void (*fn)(void *ctx, const char *key, unsigned key_bytes, uint32_t value_bytes,
                                 uint32_t exptime_sec),
                      void *ctx);
/* One item as metadump shows it. On flash objects cost a read each and come from the caller's ring. */
struct cache_meta {
    char key[CACHE_KEY_BYTES_MAX];
    uint8_t key_bytes;
    uint32_t exptime_sec, time_sec, value_bytes, client_flags, accounted_bytes;
    uint64_t cas;
    bool fetched, binary_key, on_flash;
    uint8_t slab_class;
    uint32_t ext_page, ext_offset;
};

/* Per class figures of `stats items`. */
#define CACHE_ITEM_STATS(X)                                                                        \
    X(evicted) X(evicted_nonzero) X(outofmemory) X(tailrepairs) X(reclaimed) X(expired_unfetched)  \
    X(evicted_unfetched) X(evicted_active) X(crawler_reclaimed) X(crawler_items_checked)           \
    X(lrutail_reflocked) X(moves_to_cold) X(moves_to_warm) X(moves_within_lru) X(direct_reclaims)
struct cache_class_stats {
    uint64_t number, number_hot, number_warm, number_cold, number_temp;
    uint64_t age_hot, age_warm, age, mem_requested, evicted_time;
#define X(n) uint64_t n;
    CACHE_ITEM_STATS(X)
#undef X
};
void cache_class_stats(struct cache *c, unsigned cls, struct cache_class_stats *out);

/* What `stats extant` (and, where named so, `stats`) tells of the cache. Objects given up have exactly
 * one of the evictions_* reasons each. */
#define CACHE_COUNTER_TABLE(X)                                                                     \
    X(evictions_no_flash, "RAM items evicted with no flash configured")                            \
    X(evictions_write_wait, "RAM items evicted after ext_max_sleep without a free write buffer")   \
    X(evictions_flash_full, "RAM items evicted because no flash page could be freed in time")      \
    X(evictions_not_admitted, "RAM items evicted because flash is full and they are not worth a write") \
    X(evictions_write_limit, "RAM items evicted because of ext_write_limit or ext_daily_writes")     \
    X(evictions_short_ttl, "RAM items evicted because they would have expired before they were on flash") \
    X(evictions_device, "RAM items evicted because no device takes writes")                        \
    X(evictions_index_full, "objects given up because -m can not index more")                     \
    X(evictions_same_tag, "flash objects given up because one that can't be read may have hidden them") \
    X(flushed_items, "items moved from RAM to flash")                                              \
    X(inline_flushes, "of these, by a worker that needed the memory")                              \
    X(stale_checks, "flash objects read to see whether an overwrite made them stale")              \
    X(stale_drops, "of these, stale and dropped")                                                  \
    X(stale_overflows, "checks not queued because the queue was full")                             \
    X(tag_collisions, "flash reads that found another key's record")                               \
    X(recaches, "objects brought back to RAM because they were hit")                               \
    X(promotions, "objects brought back to RAM to be changed")                                     \
    X(write_waits, "requests parked until memory was free")                                        \
    X(write_wait_us, "microseconds that they waited")                                              \
    X(rescued_stale, "stale words found by reclaim")                                               \
    X(items_moved, "items moved to denser memory")                                                 \
    X(slab_reassign_rescues, "items that kept a place when a slab page was taken from their class") \
    X(slab_reassign_chunk_rescues, "chunks of large items that kept one")                          \
    X(slab_reassign_evictions, "items that lost it")                                               \
    X(slab_reassign_busy_items, "times a page could not be moved because items were in use")       \
    X(slabs_moved, "slab pages moved between classes")                                             \
    X(lru_maintainer_juggles, "rounds of the maintenance thread")                                  \
    X(lru_crawler_starts, "crawls started")
/* Whole-cache figures of `stats` and `stats extant`. */
struct cache_totals {
    uint64_t curr_items, bytes; /* RAM and flash objects together */
    uint64_t ram_items, flash_objects;
#define X(name, help) uint64_t name;
    CACHE_COUNTER_TABLE(X)
#undef X
    struct cache_class_stats sum; /* over all classes */
};
void cache_totals(struct cache *c, struct cache_totals *out);

/* stats sizes: the histogram of accounted sizes in 32-byte steps, NULL without track_sizes; its length. */
size_t cache_sizes(const struct cache *c, const _Atomic(uint64_t) **histogram);

/* debugitem (debug build only): lock|unlock|ref|unref. True if the key was found. */
bool cache_debug_item(struct cache *c, const char *what, const char *key, uint8_t key_bytes);

#endif
