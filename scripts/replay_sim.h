/* replay_sim.h: simulated caches to compare servers with: what would a cache of this many bytes
 * have hit, and written to flash?
 *
 *   lru     one tier, all bytes: least recently used goes
 *   fifo    RAM by LRU; evicted objects are written to pages, the oldest page goes: an ideal extstore
 *   s3fifo  one tier, all bytes (S3-FIFO: a tenth for newcomers, ghosts, two bits a key)
 *   min     one tier, all bytes, with knowledge of the future: evicts the object needed last, or doesn't admit it
 *
 * Look-aside, as scripts/replay.c does: a get, and on a miss a set.
 */
#ifndef REPLAY_SIM_H
#define REPLAY_SIM_H

#include "scripts/replay_trace.h"

struct sim_sizes {
    uint64_t ram_bytes, flash_bytes, page_bytes;
};

struct sim_result {
    uint64_t gets, hits, flash_hits;
    uint64_t get_bytes, hit_bytes;
    uint64_t flash_written, rewritten;
    uint64_t second_chances; /* pages */
};

/* False: no such cache. */
bool sim_run(const char *name, const struct trace *t, const struct sim_sizes *sizes,
             struct sim_result *out);

#endif
