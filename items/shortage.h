/* items/shortage.h: what the cache does while the system has no more memory for it: the file system of -e FILE is full, or a
 * control group allows no more (space/arena.h). Items leave RAM then, for flash if there is some, until the index and others
 * have memory to spare; and items and index share what there is, as if -m were no larger. It ends when the system
 * has room again. The operator reads one line when it begins, one when it is over.
 *
 * Threads: the maintenance thread, no lock held.
 */
#ifndef EXTANT_ITEMS_SHORTAGE_H
#define EXTANT_ITEMS_SHORTAGE_H

#include "items/store.h"

struct shortage {
    bool ignores_group; /* const: control groups play no part, as in a simulation */
    bool is_told;       /* a line said that it begins, none yet that it is over */
    bool is_stuck;      /* no item can leave, and still there is not enough to spare */
    uint32_t last_sec;  /* when it last was short */
    uint32_t group_sec;  /* when the control group's limit was read */
    uint32_t sought_sec; /* when the system was last asked for room */
};

/* A bounded step: makes some room, or looks for some. True: more is to be done at once. */
bool shortage_step(struct cache *c, struct shortage *s, uint32_t now_sec);
/* Is the index without memory because of it, while items could still leave? */
bool shortage_will_end(const struct cache *c, const struct shortage *s);
/* Has too little memory to spare: sparse memory is worth being emptied, however little that gains. */
bool shortage_is_pressing(const struct cache *c);

/* Of cache_memory_bytes(), what items leave to the index; 0 unless memory is short. */
uint64_t cache_memory_spare(const struct cache *c);

#endif
