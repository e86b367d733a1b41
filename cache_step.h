/* cache_step.h: what cache.c and cache_run.c share: a verb runs under the key's LOCK_COLUMN and says what
 * it lacks.
 *
 * cache_step() takes and releases the lock. It never waits: cache_run.c reads the records and waits for the
 * memory that a verb lacks. A verb never trusts what it saw before a read: it runs
 * again from the start.
 */
#ifndef EXTANT_CACHE_STEP_H
#define EXTANT_CACHE_STEP_H

#include "cache_op.h"
#include "items/lru.h"
#include "items/object.h"

struct cache_read {
    struct ext_read rd;
    struct cache_op *op;
    struct cache_read *next;
    struct ext_record rec;
    ext_place place;
    uint8_t len_class;
    uint8_t verdict; /* enum read_verdict */
    bool was_hit;    /* a get has hit it on flash before this op */
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
    STAILQ_HEAD(op_queue, cache_op) waiting; /* parked for memory */
    bool notify_armed;                      /* the engine will wake us */
    _Atomic(int) wake_refs;                 /* notifications under way */
    cache_put_away_fn put_value_away; /* gives read buffers up when others wait for them */
    void *put_away_ctx;
    uint64_t put_away_due_us; /* to be asked again; 0: when something happens */
    uint64_t retry_due_us;    /* ops that no free write buffer helps are tried again; 0: there are none */
};

enum step {
    STEP_DONE,  /* finished, for good or bad */
    STEP_READ,  /* reads were noted in op->reads: start them, run again when all are there */
    STEP_WAIT,  /* no memory now: run again when the engine has made room, or a little later */
    STEP_ALLOC, /* an item as op->need says: cache_step() gets it once the lock is released */
    STEP_AGAIN, /* something was allocated, or has changed: run again at once */
};
/* Counts one get, gat or mg. */
void count_get(struct cache_worker *w, const struct cache_op *op, bool hit, unsigned cls,
               enum lru_segment seg);
/* Frees the item that the op allocated, or unpins the one that it shows. */
void op_item_free(struct cache *c, struct cache_op *op);
/* A zeroed read, cheap; NULL: no memory. */
struct cache_read *cache_read_new(struct cache_worker *w);
/* Which flash words of the key's tag are its older values isn't known, and the op must leave none of those: all of them
 * go. Returns their number. No lock held. */
unsigned cache_drop_tag(struct cache_worker *w, struct cache_op *op);
/* Runs the op's verb once, from the start. */
enum step cache_step(struct cache_worker *w, struct cache_op *op);

#endif
