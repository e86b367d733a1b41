/* cache_lookup.h: what the index and the records that an op has read say about its key.
 *
 * A key may have one item in RAM and several words on flash, of which only a read tells whether they are the key's. The
 * look-up decides between what is known, and on the way drops what is no longer of use: dead items and records, and values
 * that are known to be overwritten. items/store.h says what must stay, since it may hide something.
 *
 * Threads: the worker's. The caller holds the LOCK_COLUMN of the op's hash, from the look-up to the last use of its result.
 */
#ifndef EXTANT_CACHE_LOOKUP_H
#define EXTANT_CACHE_LOOKUP_H

#include "cache_step.h"

/* A set may leave this many same-tag flash words unread; with more, it reads them first, and drops those that can't
 * be read. */
enum { UNREAD_MAX = 3 };
static_assert(UNREAD_MAX < INDEX_MATCH_MAX, "a tag can have more");

/* What the index says about a key, under its lock. Slots are valid until an insert. */
struct lookup {
    struct item *it;      /* alive RAM item, or NULL */
    struct item *hider;   /* dead RAM item of the key that still may hide what is unread, or NULL */
    index_slot *it_slot;  /* of either */
    struct cache_read *match; /* read record of the key, alive or dead, with the highest seq */
    index_slot *match_slot;
    index_slot *tombstone;
    index_slot *unread[INDEX_MATCH_MAX]; /* flash words that were not read yet */
    unsigned unread_count;
    bool failed;  /* a word that can't be read now stays; it may be the key's youngest, and match an older one */
    bool is_sole; /* all other words of the tag were read: what was found hides nothing */
};

/* Fills l. Dead RAM items are unlinked, records that lost against a younger one are dropped. With a live RAM item no
 * flash word is checked. */
void cache_lookup(struct cache_worker *w, struct cache_op *op, struct lookup *l, uint32_t now);
/* l->hider hides flash words. Drops those that were read and are the key's; those of other keys stay.
 * Unread ones are put into l->unread. True: none is left that it may hide. */
bool lookup_hidden(struct cache *c, struct cache_op *op, struct lookup *l);
/* Counts a dead item that stays linked, once for each op, which may meet it again. */
void lookup_count_hider(struct cache_worker *w, struct cache_op *op, enum item_death d);

/* Does the op store only over a value with the cas that it names? */
static inline bool store_is_cas(const struct cache_op *op)
{
    return op->mode == CACHE_CAS ||
           ((op->options & CACHE_F_CAS_COMPARE) && (op->mode == CACHE_SET || op->mode == CACHE_REPLACE));
}
/* Does the op replace the key's value, whatever that is? */
static inline bool op_sets(const struct cache_op *op)
{
    return op->verb == CACHE_STORE && op->mode == CACHE_SET && !store_is_cas(op);
}
/* Is the key's old value gone when the op ends, even if the op is refused? So it is after a set, and after the delete
 * of a set that was refused. */
static inline bool op_ends_old_value(const struct cache_op *op)
{
    return op_sets(op) || (op->verb == CACHE_DELETE && (op->options & CACHE_F_QUIET_STATS));
}
static inline bool is_unreadable(const struct cache_read *r)
{
    return r->verdict == READ_BAD || r->verdict == READ_FAILED;
}
/* Records that the op could not read; each has been counted. */
unsigned unreadable_count(const struct cache_op *op);

#endif
