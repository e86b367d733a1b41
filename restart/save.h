/* restart/save.h: the cache's part of a stop and a start with a checkpoint: moves items to flash before it,
 * restores counters after it; without a checkpoint, rebuilds the index from flash. No other thread uses the
 * cache meanwhile, and there is flash.
 */
#ifndef EXTANT_RESTART_SAVE_H
#define EXTANT_RESTART_SAVE_H

#include "cache.h"

/* The counters that survive a stop, beside index and pages. */
struct cache_numbers {
    uint64_t hash_seed, cas_counter, flush_cas;
    uint32_t flush_unix, planned_unix;
};
void cache_numbers(const struct cache *c, struct cache_numbers *out);
/* Call it before anything is stored. */
void cache_set_numbers(struct cache *c, const struct cache_numbers *n);

/* Moves all items from RAM to flash, making room there as usual; dead items are dropped. 0: none is left;
 * -ETIMEDOUT: the time is over (clock_mono_ns() > deadline_ns); -ENOSPC: flash gets no more free
 * pages; -EIO: no device accepts writes. Remaining items stay as they were. Waits for the devices. The worker
 * belongs to this thread and has no parked op, before and after; NULL: there was no memory for one. */
struct cache_moved {
    uint64_t moved, dead, left;
};
int cache_move_to_flash(struct cache *c, struct cache_worker *w, uint64_t deadline_ns,
                        struct cache_moved *out);
/* Drops what is in memory only, in buffers that flash did not take, together with what may be older values of the same
 * keys. After ext_quiesce(). Returns their number. */
uint64_t cache_drop_unwritten(struct cache *c);
/* Drops the remaining items, together with the older values that they hide. Returns their number. */
uint64_t cache_drop_items(struct cache *c, struct cache_worker *w);

/* After a load of the index, before ext_attach_done: counts what each page holds, and drops the words of objects on flash
 * that is gone, with what may be an older value of theirs; *gone: how many there were. 0, or -EUCLEAN: a word names a
 * place that holds nothing. */
int cache_count_loaded(struct cache *c, uint64_t *gone);

/* Fills the empty index from the records on flash, before ext_attach_done: of each key the record with the
 * highest seq, unless it is dead; and those that can't be read or compared now. Log lines tell its progress.
 * 0 or -ENOMEM. */
struct cache_scan_report {
    uint64_t records;   /* that were read */
    uint64_t unread;    /* that could not be */
    uint64_t kept;
    uint64_t older;     /* than another of the same key */
    uint64_t dead;      /* expired or flushed */
    uint64_t foreign;   /* of an earlier cache in the same files */
    uint64_t no_room;   /* the index is full */
    uint64_t compared;  /* reads to find the younger of two */
};
int cache_scan(struct cache *c, struct cache_scan_report *out);
#endif
