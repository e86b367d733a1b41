/* sim_tags.h: names of keys that an index with short tags can't tell apart: pairs that have shard, group and tag
 * in common, found by trying many names. One thread. */
#ifndef EXTANT_T_SIM_TAGS_H
#define EXTANT_T_SIM_TAGS_H

#include "base/base.h"

#define SIM_TAGS_COUNT 32u /* keys 2n and 2n + 1 are a pair */

/* The index is made for this much flash, with the smallest size, and never grows; the cache has this
 * hash seed. */
#define SIM_TAGS_REACH_BYTES (8 * (GiB << 10))
#define SIM_TAGS_HASH_SEED UINT64_C(0x5eed)

/* The i-th name. Never freed. */
const char *sim_tags_key(unsigned i);

#endif
