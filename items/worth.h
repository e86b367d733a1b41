/* items/worth.h: is an item that leaves RAM worth a write to flash? This file passes the cache's facts to
 * items/admission.h and items/ghost.h, which decide.
 *
 * While flash has room and the index free places (ext_is_full, index_crowded), everything is written.
 * After that an object is written if its class has earned it (admission.h), and if it will not have expired by the
 * time it is on flash (ext_flush_sec). Full or not, the limits of writing are kept (flash/pace.h): the less they
 * leave, the more an object must have shown. What may hide older values of its key on flash is always written,
 * since it hides them there by its rank.
 *
 * The class is kept in the record, so that a hit on flash is counted for it. A key's ghost is made
 * when its object is not written, is deleted, or goes with its page.
 *
 * Threads: any. LOCK_COLUMN may be held, and none is taken; but worth_begin_ghosts, _index_full and _index_look are for the
 * maintenance thread with no lock held.
 */
#ifndef EXTANT_ITEMS_WORTH_H
#define EXTANT_ITEMS_WORTH_H

#include "items/store.h"

void worth_open(struct cache *c, uint64_t flash_bytes); /* once, when the engine is there */

/* Gets memory for the ghosts once flash is half full, or objects have to be worth a write: only then it is known how
 * many objects fit flash. Half a byte to a byte for each that is there, but at least 4 KiB and at most this part of -m.
 * A kept arena has them, unless they are too many by then. Before that, and without memory, no key is known. The
 * maintenance thread, no lock. True: it did. */
#define WORTH_SHARE_OF_MEMORY 64u
bool worth_begin_ghosts(struct cache *c);

/* An insert into the index found no room: from now on objects must be worth a place in it. */
void worth_index_full(struct cache *c);
/* Ends that once an eighth of the index, which can hold this many objects, is free. */
void worth_index_look(struct cache *c, uint64_t capacity);

enum worth { WORTH_WRITE, WORTH_NOT, WORTH_TOO_SHORT, WORTH_TOO_MUCH };
/* Decides about an item that leaves RAM, and counts it. *class: for the record. LOCK_COLUMN held. */
enum worth worth_of(struct cache *c, const struct item *it, uint64_t hash, uint32_t now, unsigned *class);
/* Would any item be written now? Otherwise none leaves RAM before it has to. */
bool worth_all(const struct cache *c);
/* The class without a decision. */
unsigned worth_class(struct cache *c, const struct item *it, uint64_t hash);
/* Notes that the key's object of this many bytes was dropped as not worth more. */
void worth_left(struct cache *c, uint64_t hash, uint64_t object_bytes);
/* Notes a hit on a record, its first or another; notes a key that was found nowhere. */
void worth_hit(struct cache *c, const struct ext_record *r, bool first);
static inline void worth_miss(struct cache *c)
{
    if (c->ext)
        admission_miss(&c->admission);
}

#endif
