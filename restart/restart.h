/* restart/restart.h: creates the storage (arena, slab_mem, index, cache, extstore) from
 * its options, and decides whether it starts empty or with the content that an earlier
 * process left in the file of -e.
 *
 * The order, each step relying on those before it:
 *
 *   arena     the file's header fits: same format, boot, geometry
 *   clock     goes on in the epoch of the first process on this content
 *   slab      claims its runs; the index, below, tells which chunks are live
 *   index     claims its rows, undoes what a kill left half moved
 *   cache     hash seed, cas and flush_all from its root
 *   extstore  same devices: page table and unflushed wbufs; nothing is written or
 *             freed yet
 *   attach    (cache_attach) walks the index: live items, LRUs, objects of each
 *             page; then slab and engine free the rest, wbufs are flushed again
 *   arena     frees unclaimed memory
 *
 * Without -e, or if its file does not fit, a start with flash takes over what restart/persist.h found
 * beside the flash files. In any case persist_begin() comes last, before the first write to flash.
 *
 * Content that does not fit leads to an empty start and one line that says
 * why. Only what an empty start would not help is an error: a file in use by
 * another process, no permission, no memory, unusable flash files.
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
#include "slab_mem.h"

#define RESTART_LINE_BYTES 800
/* The format of all modules' data in a file of -e, independent of the program's version: a build
 * takes over the content of builds with the same number. A change of anything that lives in the arena (roots,
 * items, index words, page table, write buffers), or of its meaning, needs a new number. If a
 * struct could change unnoticed, its size is asserted beside it. Checkpoints: CHECKPOINT_FORMAT. */
#define RESTART_MEMORY_FORMAT 4u
#define RESTART_MEMORY_FORMAT_OLDEST 3u /* from this one on they are converted */

/* Texts and what config and tunables point to outlive the parts; their owner may change them meanwhile. */
struct restart_options {
    struct cache_config *config;
    struct ext_tunables *tunables; /* of the engine */
    const char *memory_file;       /* -e, or NULL */
    bool trust_memory_file, lock_memory;
    bool overwrite_memory_file;    /* ext_format names it: foreign data in it may be lost */
    uint32_t hashpower;            /* hashpower_init; 0: the index grows from its smallest size */
    enum persist_mode persist;
    struct slab_options slab;      /* restart_open() adds the arena */
    struct ext_options flash;      /* no device: no flash. restart_open() adds the arena and what depends on it */
    bool asks_for_sizes;           /* see restart_open() */
    uint64_t index_reach_bytes;    /* tests: the index is made as for this much flash; otherwise 0 */
};

/* Of flash pages and write buffers. */
struct restart_sizes {
    uint64_t page_bytes, wbuf_bytes;
};

/* With flash: the sizes that the content was made with which restart_open() with these options, but for the sizes, would
 * take over: of the memory file, otherwise of the checkpoint. False: there is none. Changes nothing; reads files. Call
 * it before restart_open(). */
bool restart_found_sizes(const struct restart_options *o, struct restart_sizes *out);

struct restart {
    struct arena *arena;
    struct slab_mem *slab;
    struct index *index;
    struct cache *cache;
    struct extstore *ext;           /* NULL without flash */
    bool in_file;                   /* -e: the arena outlives the process */
    bool attached;                  /* with the objects of an earlier process */
    bool keeps_classes;             /* its slab classes are not those of the options */
    struct attach_report report;    /* zero unless attached */
    struct persist *persist;        /* NULL without flash */
    bool is_saved;                  /* after restart_close() */
    uint64_t saved_objects;
    char line[RESTART_LINE_BYTES];  /* for the log: what was taken over, or why not; or "" */
};

/* Creates everything in *out, after clock_setup(). 0, or -errno and one line in why[]; then *out is
 * empty and nothing is left open. -ERESTART, if opt->asks_for_sizes: what restart_found_sizes() found can't be used or was
 * overtaken by another process, and a checkpoint can that was made with other sizes; ask for them and call again, whether
 * they are used or not. May read and write files; the caller holds no lock. */
int restart_open(const struct restart_options *opt, struct restart *out, char *why,
                 size_t why_bytes);

/* Destroys the parts; with flush, write buffers go to flash first (with -e for EXT_DESTROY_MS at most, as the file keeps
 * the rest; with neither this nor ext_persist not at all), and with ext_persist the items too. With -e the content stays in the file for the next process; otherwise it is gone, unless
 * a checkpoint was written: then r->is_saved is true and r->saved_objects its number of objects. */
void restart_close(struct restart *r, bool flush);

#endif
