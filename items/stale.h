/* items/stale.h: what waits to be compared: flash words that may be older values of their key.
 *
 * A flash word does not tell its key, only a tag. So nothing here is dropped for its tag alone: the record is
 * read and its key compared (stale_check.c), and until then the word stays. The order of the words of one tag
 * is known without a read: the index's rank (index.h). From it follows, for any two words of one key, that
 *  - dropping the older one never concerns the younger one;
 *  - before the younger one goes, for whatever reason, every word of its tag that may be older is compared,
 *    and goes first if it is of the same key. That is a STALE_DROP.
 *
 * Two queues. Drops are few, are asked for by reclaim, and come first. Checks are for room and speed
 * only: what they would find is found as well by a drop, a delete or a get. So a check that is lost, in a
 * full queue or with the process, costs room on flash and nothing else; stale_walk_step finds it again.
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
/* Set back once they could not be compared now; there are never more of those than run at a time. */
#define STALE_RUNNING_MAX 64u

enum stale_kind {
    STALE_OVERWRITE, /* the key of this hash was stored again: records of it with a lower seq go */
    STALE_TAG,       /* a walk found words of this tag that nobody has compared */
    STALE_ROOM,      /* an item has to leave memory: what it hides and nobody can read goes as well */
    STALE_DROP,      /* the word at `place` has to go; those that it may hide are compared first */
};

struct stale_check {
    uint64_t hash;       /* of the key, or with !is_full one that stands for it in calls of index.h */
    uint64_t seq_bound;  /* OVERWRITE */
    ext_place place;     /* DROP */
    uint32_t bytes;      /* OVERWRITE: what it may free; DROP: of the record, for the counters */
    uint8_t kind;        /* enum stale_kind */
    uint8_t why;         /* DROP: enum ext_drop_why */
    uint8_t tries;       /* that met an unreadable record */
    bool is_full;        /* hash is all of the key's, so records of this hash are of this key */
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
    _Atomic(bool) walk_wanted; /* a check was not queued: somebody has to look for it */
};

/* 0 or -ENOMEM. */
int stale_init(struct stale_queue *q);
void stale_free(struct stale_queue *q); /* also after a failed init */
/* How much flash there is: what may wait is a small part of it. Before threads run. */
void stale_set_flash(struct stale_queue *q, uint64_t flash_bytes);

/* Queues one. False: no room; for checks then walk_wanted is set, so that it comes another way. */
bool stale_put(struct stale_queue *q, const struct stale_check *check);
/* Takes the next, drops first; at most STALE_RUNNING_MAX may be taken and not ended. False: none. */
bool stale_take(struct stale_queue *q, struct stale_check *out);
/* One that was taken has ended; again: it could not be decided, and is queued once more. */
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
/* More waits than may: a set compares before it stores. */
static inline bool stale_is_behind(const struct stale_queue *q)
{
    return atomic_load_explicit(&q->is_behind, memory_order_relaxed);
}

#endif
