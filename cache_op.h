/* cache_op.h: one operation on the cache: verb, key, options and result.
 *
 * The command layer fills it, cache.h and cache_run.h say how it is run. Plain data, owned by the caller;
 * between cache_run() and its end it must not move in memory.
 */
#ifndef EXTANT_CACHE_OP_H
#define EXTANT_CACHE_OP_H

#include <sys/queue.h>

#include "base/base.h"
#include "index.h"
#include "items/item.h"

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
    CACHE_F_QUIET_STATS = 1 << 13, /* don't count: me, and the delete after a refused set */
    CACHE_F_TOUCH_LAST = 1 << 14, /* RECACHE looks at the exptime before TOUCH, not at the new one */
};

/* The item's facts for the answer; value bytes in one piece. */
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

/* The item that a verb lacks. */
struct op_need {
    const char *key;
    uint8_t key_bytes;
    uint32_t value_bytes, client_flags, exptime_sec;
};

struct cache_op {
    /* set by the caller before cache_run (cache_op_init zeroes all) */
    enum cache_verb verb;
    enum cache_store_mode mode;
    uint32_t options; /* enum cache_option */
    const char *key;  /* must stay valid until the op is done */
    uint8_t key_bytes;
    struct index_spot spot; /* the key's cache_hash(), with its place from cache_find(); cache_op_init leaves the place to the first look-up */
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
    struct cache_view view;      /* GET: the item; STORE/ARITH/...: cas, exptime, flags, sizes of the item now */
    uint64_t number;             /* CACHE_ARITH: the new value */
    bool no_room;                /* GET: memory for the value isn't there (slab_automove 0); CACHE_NO_MEMORY */
    bool met_expired, met_flushed; /* the key was there, but its time was over */
    char *value;                 /* CACHE_ALLOC: where the caller puts value_bytes bytes */

    /* the cache's own */
    struct item *item;           /* CACHE_ALLOC's item until stored; a pinned item for view */
    struct item *joined;         /* append and prepend: the item of both values */
    struct op_need need;         /* of the verb that asked for memory */
    struct cache_read *reads;    /* the records read for flash words of the tag */
    struct cache_worker *worker;
    STAILQ_ENTRY(cache_op) in_waiting;
    uint64_t wait_start_us;
    uint64_t read_bytes;         /* the most that its reads hold, until cache_release; for the caller's bounds */
    uint16_t read_count, read_pending;
    uint16_t attempts;
    bool read_hidden; /* the reads are of words that a dead RAM item hides: no answer */
    bool starved; /* a read found no memory or was given up, so its record is unknown */
    bool dropped_tag; /* it gave up the flash words of its tag, since it may not leave an old value */
    bool unwanted; /* a get whose client has left: it ends without an answer, and counts as nothing */
    uint8_t state;
    bool view_from_read;
    bool counted; /* CACHE_STORE: cmd_set is counted once, however often the op is run */
};

/* A view's flash read stays in memory until cache_release, and others may wait for that memory:
 * then the worker's fn is called to put a value away. 0: it did; otherwise the microseconds after which to
 * call it again, UINT64_MAX: after cache_nudge(). large: values of more than some KB. Called from
 * cache_worker_poll, _reap and _submit. */
typedef uint64_t (*cache_put_away_fn)(void *ctx, bool large);

#endif
