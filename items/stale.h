/* items/stale.h: queues of comparisons: flash words that may be older values of their key.
 *
 * A flash word has only a tag, not its key. So no word is dropped for its tag alone: stale_check.c reads the
 * record and compares its key, and until then the word stays. The index's rank (index.h) gives the order of
 * the words of one tag without a read. So for any two words of one key:
 *  - dropping the older one never affects the younger one;
 *  - before the younger one goes, for any reason, every word of its tag that may be older is compared,
 *    and goes first if it has the same key. This is a STALE_DROP.
 *
 * Two queues. Drops are few, come from reclaim, and run first. Checks only save room and time:
 * a drop, a delete or a get would find the same words. So a check that is lost, in a
 * full queue or with the process, costs only room on flash; stale_walk_step finds it again.
 *
 * Any thread. The lock inside is LOCK_IO_QUEUE.
 */
#ifndef EXTANT_ITEMS_STALE_H
#define EXTANT_ITEMS_STALE_H

#include "base/base.h"
#include "base/lock.h"
#include "extstore.h"

#define STALE_CHECKS_MAX 65536u
#define STALE_DROPS_MAX 4096u
/* Queued again because they could not be compared now; never more than run at a time. */
#define STALE_RUNNING_MAX 64u

enum stale_kind {
    STALE_OVERWRITE, /* the key of this hash was stored again: records of it with a lower seq go */
    STALE_TAG,       /* a walk found uncompared words of this tag */
    STALE_ROOM,      /* an item has to leave memory: unreadable words that it hides go as well */
    STALE_DROP,      /* the word at `place` has to go; those that it may hide are compared first */
};

struct stale_check {
    uint64_t hash;       /* of the key, or with !is_full one that stands for it in calls of index.h */
    union {
        uint64_t seq_bound; /* OVERWRITE */
        uint32_t version;   /* DROP: of the page of `place`, which may be reused before the check runs */
    };
    ext_place place;     /* DROP */
    uint32_t bytes;      /* OVERWRITE: what it may free; DROP: of the record, for the counters */
    uint8_t kind;        /* enum stale_kind */
    uint8_t why;         /* DROP: enum ext_drop_why */
    uint8_t tries;       /* number of tries that met an unreadable record */
    bool is_full;        /* hash is the key's full hash, so records of this hash are of this key */
};

struct stale_ring { /* under the queue's lock */
    struct stale_check *at;
    uint32_t limit, size, head, count;
};

struct stale_queue {
    struct lock lock; /* LOCK_IO_QUEUE */
    struct stale_ring checks, drops;
    uint64_t behind_bytes; /* const: with more than this to be freed, sets compare for themselves */
    /* atomic; written under the lock */
    _Atomic(uint64_t) bytes;   /* that the checks may free */
    _Atomic(uint32_t) waiting; /* in both rings */
    _Atomic(uint64_t) asked, ended; /* ever: put, and decided or given up */
    _Atomic(bool) is_behind;
    _Atomic(bool) walk_wanted; /* a check was not queued: a walk must find it */
};

/* 0 or -ENOMEM. */
int stale_init(struct stale_queue *q);
void stale_free(struct stale_queue *q); /* also after a failed init */
/* Sets the size of flash: checks may wait for a small part of it. Before threads run. */
void stale_set_flash(struct stale_queue *q, uint64_t flash_bytes);

/* Queues one. False: no room; for checks walk_wanted is then set, so that a walk finds it. */
bool stale_put(struct stale_queue *q, const struct stale_check *check);
/* Takes the next, drops first; at most STALE_RUNNING_MAX may be taken and not ended. False: none. */
bool stale_take(struct stale_queue *q, struct stale_check *out);
/* Ends a check that was taken; again: it could not be decided, and is queued once more. */
void stale_end(struct stale_queue *q, const struct stale_check *check, bool again);

static inline uint32_t stale_waiting(const struct stale_queue *q)
{
    return atomic_load_explicit(&q->waiting, memory_order_relaxed);
}
/* Does anything wait or run? */
static inline bool stale_is_busy(const struct stale_queue *q)
{
    return atomic_load(&q->ended) != atomic_load(&q->asked);
}
/* Too many wait: a set compares before it stores. */
static inline bool stale_is_behind(const struct stale_queue *q)
{
    return atomic_load_explicit(&q->is_behind, memory_order_relaxed);
}

#endif
