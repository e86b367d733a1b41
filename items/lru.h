/* items/lru.h: the segmented LRU lists. Others decide when an item moves.
 *
 * One list for each slab class and segment (HOT, WARM, COLD, TEMP); an item's
 * lru_id is class | segment << 6. A list is linked by slab handles through the
 * items themselves, so it lives in the arena; heads and tails are
 * process-private and are found again after an attach (lru_attach_begin).
 *
 * Locks: each list has a LOCK_LRU. An item's links, and the list that its
 * lru_id names, change only under the list's lock; lru_id itself changes only
 * with LOCK_COLUMN of the item's key held as well. So a thread that holds the column
 * may read lru_id, and a thread that holds the list's lock sees a consistent list.
 */
#ifndef EXTANT_LRU_H
#define EXTANT_LRU_H

#include "base/base.h"
#include "items/item.h"
#include "base/lock.h"
#include "slab_mem.h"

/*      name  bits  memcached's name in stats */
#define LRU_SEGMENT_TABLE(X)                                                                       \
    X(HOT, 0, "hot")                                                                               \
    X(WARM, 1, "warm")                                                                             \
    X(COLD, 2, "cold")                                                                             \
    X(TEMP, 3, "temp")
enum lru_segment {
#define X(name, bits, text) LRU_##name = bits,
    LRU_SEGMENT_TABLE(X)
#undef X
        LRU_SEGMENT_COUNT
};
#define LRU_ID_COUNT (SLAB_CLASS_MAX * LRU_SEGMENT_COUNT)

static_assert(SLAB_CLASS_MAX <= 64 && LRU_SEGMENT_COUNT <= 4, "class and segment share a byte");

static inline uint8_t lru_id_of(unsigned cls, enum lru_segment seg)
{
    DEBUG_ASSERT(cls < SLAB_CLASS_MAX && seg < LRU_SEGMENT_COUNT);
    return (uint8_t)(cls | (unsigned)seg << 6);
}
static inline unsigned lru_class(uint8_t lru_id) { return lru_id & 63u; }
static inline enum lru_segment lru_segment(uint8_t lru_id)
{
    return (enum lru_segment)(lru_id >> 6);
}

struct lru;

struct lru *lru_create(struct slab_mem *slab); /* NULL: no memory */
void lru_destroy(struct lru *l);

/* The list's lock; the caller takes and releases it around the *_locked calls. */
struct lock *lru_lock(struct lru *l, uint8_t lru_id);

/* Puts the item at the head of the list that its lru_id names; takes the list's lock itself. */
void lru_link(struct lru *l, struct item *it);
void lru_unlink(struct lru *l, struct item *it);
/* The item moves to the head of this segment of its class. Takes the locks of both lists, one after the other.
 * LOCK_COLUMN held. */
void lru_move(struct lru *l, struct item *it, enum lru_segment to);
/* lru_unlink(old) and lru_link(it), with one taking of the lock if both are of one list. LOCK_COLUMN held. */
void lru_supersede(struct lru *l, struct item *old, struct item *it);
/* An item that was copied from `old` to `copy` takes its place in the list. LOCK_COLUMN held. */
void lru_substitute(struct lru *l, struct item *old, struct item *copy);

/* With the list's lock held. */
struct item *lru_tail_locked(struct lru *l, uint8_t lru_id);
/* Towards the head; NULL at the head. */
struct item *lru_newer_locked(struct lru *l, const struct item *it);
struct item *lru_head_locked(struct lru *l, uint8_t lru_id);
/* Towards the tail; NULL at the tail. */
struct item *lru_older_locked(struct lru *l, const struct item *it);

uint64_t lru_count(struct lru *l, uint8_t lru_id); /* items */
uint64_t lru_bytes(struct lru *l, uint8_t lru_id); /* accounted bytes */
uint64_t lru_shared_bytes(struct lru *l, unsigned cls); /* of HOT, WARM and COLD, which share a class */
/* Age in seconds of the tail, 0 when empty. */
uint32_t lru_tail_age_sec(struct lru *l, uint8_t lru_id, uint32_t now_sec);

/* After an attach: the links that another process left when it was killed are kept wherever both
 * ends agree; the few pieces that this gives are joined in their old order as far as it is
 * known.
 *
 *   lru_attach_begin
 *   lru_attach_live(h) for every live item, lru_id and links as they were left
 *   lru_attach_all_known, once
 *   if lru_attach_is_broken: lru_attach_look_back(h) for every live item
 *   lru_attach_end
 *
 * live and look_back: any threads, each with a `part` (0 .. parts - 1) of its own. No other use of l
 * until the end. Until then no thread writes links of items, or the lru_id of an item with links. */
struct lru_attach;
/* NULL: no memory. */
struct lru_attach *lru_attach_begin(struct lru *l, uint64_t handle_count, unsigned parts);
void lru_attach_live(struct lru_attach *a, unsigned part, slab_handle h);
void lru_attach_all_known(struct lru_attach *a);
/* Is another walk needed, with lru_attach_look_back(h) for every live item, because a list is
 * broken? */
bool lru_attach_is_broken(const struct lru_attach *a);
void lru_attach_look_back(struct lru_attach *a, unsigned part, slab_handle h);
/* Is it one that lru_attach_live() named? */
bool lru_attach_is_live(const struct lru_attach *a, slab_handle h);
/* Hints that lru_attach_live(h) follows soon; the item itself should already be cached. */
void lru_attach_prefetch(const struct lru_attach *a, slab_handle h);
/* Frees a. 0 and how many pieces were joined; -ENOMEM; -EUCLEAN: links go round in a circle. */
int lru_attach_end(struct lru_attach *a, uint64_t *pieces);

#endif
