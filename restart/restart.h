/* restart/restart.h: makes the storage (arena, slab_mem, index, cache, extstore) from
 * the settings, and decides whether it starts with what an earlier process left
 * in the file of -e or empty.
 *
 * The order, each step relying on those before it:
 *
 *   arena     the file's header fits: same format, boot, geometry
 *   clock     goes on in the epoch of the first process on this content
 *   slab      claims its runs; which chunks live is told by the index, below
 *   index     claims its rows, undoes what a kill left half moved
 *   cache     hash seed, cas and flush_all from its root
 *   extstore  same devices: page table and unflushed wbufs; nothing is written or
 *             freed yet
 *   attach    (cache_attach) walks the index: live items, LRUs, objects of each
 *             page; then slab and engine free the rest, wbufs are flushed again
 *   arena     frees what nobody claimed
 *
 * Without -e, or where it does not fit, with flash: what restart/persist.h found beside the flash files is
 * taken over. In any case persist_begin() comes last, before the first write to flash.
 *
 * Whatever does not fit on the way ends in an empty start and one line that says
 * why. Only what an empty start would not cure is an error: a file in use by
 * another process, no permission, no memory, unfit flash files.
 *
 * Threads: one, before any other uses the parts; restart_close() after all others
 * have ended. cache_attach uses threads of its own inside.
 */
#ifndef EXTANT_RESTART_H
#define EXTANT_RESTART_H

#include "space/arena.h"
#include "base/base.h"
#include "restart/attach.h"
#include "extstore.h"
#include "index.h"
#include "restart/persist.h"
#include "operator/settings.h"
#include "slab_mem.h"

#define RESTART_LINE_BYTES 800
/* The format of what all modules keep in a file of -e, whatever the version of the program: a build
 * takes over what one with the same number left. A change of anything that lives in the arena (roots,
 * items, index words, page table, write buffers), or of what it means, needs a new number. Where a
 * struct can change unnoticed its size is asserted beside it. Checkpoints: CHECKPOINT_FORMAT. */
#define RESTART_MEMORY_FORMAT 3u

struct restart_options {
    struct settings *settings;             /* outlives the parts; the cache reads live values */
    struct ext_tunables *tunables;         /* of the engine, filled by the caller; outlives it */
    unsigned ring_count;                   /* threads that will read flash through a ring */
    const struct ext_device_ops *device_ops; /* tests: see flash/device.h; else NULL */
    uint64_t index_reach_bytes; /* tests: the index is made as for so much flash; else 0 */
};

struct restart {
    struct arena *arena;
    struct slab_mem *slab;
    struct index *index;
    struct cache *cache;
    struct extstore *ext;           /* NULL without flash */
    bool attached;                  /* with the objects of an earlier process */
    struct attach_report report;    /* zero unless attached */
    struct persist *persist;        /* NULL without flash */
    bool is_saved;                  /* after restart_close() */
    uint64_t saved_objects;
    char line[RESTART_LINE_BYTES];  /* to be logged: what was taken over, or why not; else "" */
};

/* Makes everything in *out. clock_setup() was called. 0, or -errno and one line in why[]; *out is
 * then empty and nothing is left open. May read and write files, takes no lock from outside. */
int restart_open(const struct restart_options *opt, struct restart *out, char *why,
                 size_t why_bytes);

/* Takes it all apart; with flush, what is in write buffers goes to flash first, and with ext_persist
 * all else as well. With -e the content stays in the file for the next process; without, it is gone, unless
 * a checkpoint was written: then r->is_saved, and r->saved_objects is how many it names. */
void restart_close(struct restart *r, bool flush);

#endif
