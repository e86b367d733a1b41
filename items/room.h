/* items/room.h: makes memory for items when there is none. Any thread. No lock is held on entry, except for
 * item_flush(). */
#ifndef EXTANT_ITEMS_ROOM_H
#define EXTANT_ITEMS_ROOM_H

#include "items/lru.h"
#include "items/store.h"

enum room {
    ROOM_MADE,   /* an item moved or left: try again */
    ROOM_NONE,   /* no item could go */
    ROOM_WAIT,   /* only a write buffer or a free page is missing: wait for the engine */
    ROOM_PASSED, /* the item hides what must be compared first: it waits at the head of COLD, others are next */
};
enum room_mode {
    ROOM_JUGGLE, /* move between segments by their limits; never evict */
    ROOM_AGED,   /* COLD tails that are old enough go to flash if nothing has to be given up for that, or stay */
    ROOM_FLUSH,  /* COLD tails go to flash, or stay; what isn't worth a write goes away */
    ROOM_EVICT,  /* COLD tails go to flash if there is one, otherwise away */
    ROOM_FORCE,  /* as EVICT, but do not wait for the flash */
    ROOM_LAST,   /* as FORCE, also what hides words that could not be compared; these go with it */
};
/* Handles the tail of one LRU: does the one action that is due. max_age_sec: for JUGGLE, how long HOT and WARM keep an
 * item; for AGED, how long it must have been idle. No lock held. */
enum room lru_pull_tail(struct cache *c, unsigned cls, enum lru_segment seg, uint64_t total_bytes,
                    enum room_mode mode, uint32_t max_age_sec);
/* Makes room for one more chunk of a class, as EVICT, FORCE or LAST. No lock held. */
enum room room_make(struct cache *c, unsigned cls, enum room_mode mode);
/* The class with the most memory in its lists, to make room in when the arena itself is full; 0: all are empty. */
unsigned room_fullest_class(struct cache *c);
/* Allocates and fills the header of an unlinked item with one reference. 0; -E2BIG; -ENOMEM: nothing
 * can be evicted; -EAGAIN: wait for the engine (only if !force). No lock held. */
int item_alloc(struct cache *c, const char *key, unsigned key_bytes, uint32_t value_bytes,
               uint32_t client_flags, uint32_t exptime_sec, bool force, struct item **out);
/* Copies an item to flash and swaps its word; a clean one (items/clean.h) just leaves. LOCK_COLUMN held, item linked.
 * 0 or ext_append's error. */
int item_flush(struct cache *c, struct item *it, uint64_t hash);

#endif
