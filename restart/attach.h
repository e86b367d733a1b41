/* restart/attach.h: takes over the objects of a process that ended, or was killed between any two of its
 * stores. One caller, with no other thread in the cache; its helper threads end before it returns.
 */
#ifndef EXTANT_RESTART_ATTACH_H
#define EXTANT_RESTART_ATTACH_H

#include "cache.h"

#define CAS_SANE_MAX (UINT64_C(1) << 63) /* clients may set any cas; counting from a higher one would wrap */

/* What an attach found. */
struct attach_report {
    uint64_t ram_items, flash_objects; /* taken over */
    uint64_t expired_items;            /* RAM items dropped because their time was over */
    uint64_t dropped_items;            /* words of damaged RAM items */
    uint64_t dropped_objects;          /* words of flash objects whose page holds none */
    uint64_t gone_objects;             /* words of flash objects on devices that are gone */
    uint64_t shadow_items;             /* RAM items that may hide older values on flash */
    uint64_t lru_pieces;               /* number of pieces from which the LRUs were joined */
    uint64_t micros;
};

/* With options.attached: takes over the objects of the index. Call it after cache_set_extstore, before
 * anything else uses the cache; ends the attach of slab_mem and of the engine. 0, or -errno: start empty
 * instead. */
int cache_attach(struct cache *c, struct attach_report *out);

/* At a start, when the records of the word's shard are counted: drops the word in the slot, whose item or record is not
 * there. Before it go the flash words of its tag up to this rank, which may be older values of its key; returns how many.
 * The shard's lock is held. */
unsigned attach_drop_lost_word(struct cache *c, uint64_t hash_like, index_slot *slot, unsigned rank_max);

#endif
