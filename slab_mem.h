/* slab_mem.h: memory for items, reported as memcached reports it, but used more sparingly.
 *
 * Two layers:
 *  - Limits and reports are memcached's: slab classes (factor, -n,
 *    slab_sizes), pages of 1 MB that belong to a class, chunks per page, a
 *    global pool of pages. An item of N accounted bytes takes one chunk of the
 *    smallest class that fits; above slab_chunk_max it takes as many chunks of
 *    the largest class as it needs. A class whose chunks are all used gets a
 *    page while pages are left; otherwise the caller must make room in that class.
 *    A class without any page always gets one, even beyond the limit.
 *  - Allocation itself is finer: an item header is half of memcached's, and
 *    real memory comes in runs of fine size steps (16 bytes, then 1/8 of an
 *    octave; whole units of the arena above 64 KiB). Real use stays
 *    below the account, and never exceeds the limit (or the pages that
 *    classes have, if that is more) by more than 1/32: allocations beyond
 *    that fail with -ENOMEM, except that a size without any run gets one. Sparse runs are
 *    emptied by moving items (slab_sparse_run), so RSS follows.
 * Large items are contiguous in the arena (address space is plentiful), so
 * there is no chunk chain to walk; the accounting is still memcached's.
 *
 * Handles: a handle is an arena offset >> handle_shift (32 bits).
 * Threads: any. Lock: one LOCK_SLAB inside calls, never during calls to
 * the arena, so no madvise or similar happens under it. No I/O, no waiting.
 * The account is not persistent: slab_attach_items() calls rebuild it. The arena
 * keeps which memory is a run and of which size.
 *
 * Limits: a class that uses one page or less may hold one run too many
 * (64 KiB to 1 MiB) of each of its few size steps.
 */
#ifndef EXTANT_SLAB_MEM_H
#define EXTANT_SLAB_MEM_H

#include "space/arena.h"
#include "base/base.h"

#define SLAB_PAGE_BYTES ((uint64_t)1024 * 1024)
#define SLAB_CLASS_MAX 64                    /* ids 1..63; 0 names the global page pool */
#define SLAB_RUN_CHUNK_MAX ((uint64_t)65536) /* real sizes above come straight from the arena */

typedef uint32_t slab_handle; /* arena offset >> shift; 0 is none */

struct slab_mem;

struct slab_options {
    struct arena *arena;
    uint64_t limit_bytes;       /* -m */
    double factor;              /* -f, > 1 */
    uint32_t min_chunk_bytes;   /* -n plus memcached's item header of 48: 96 by default */
    uint32_t chunk_max_bytes;   /* slab_chunk_max, at most SLAB_PAGE_BYTES */
    uint64_t item_max_bytes;    /* -I */
    const uint32_t *slab_sizes; /* -o slab_sizes, ascending, ends with 0, or NULL */
    bool attached;              /* the arena's content is from an earlier process with the same
                                 * factor, sizes and maxima (part of the arena's geometry) */
};

struct slab_class_info {
    uint32_t chunk_bytes, chunks_per_page;
    uint64_t total_pages, total_chunks, used_chunks, free_chunks, free_chunks_end;
    uint64_t chained_chunks; /* the part of used_chunks in items that take several */
    uint64_t mem_requested; /* accounted bytes */
};

/* NULL with errno: ENOMEM, ENOSPC (arena), EINVAL (options, or the attached content isn't ours).
 * The arena must outlive it. With attached, slab_attach_items() for every live item and then
 * slab_attach_done() come before anything that allocates or frees. */
struct slab_mem *slab_create(const struct slab_options *opt);
/* Frees the process's private memory; the arena keeps runs and items. NULL is fine. */
void slab_destroy(struct slab_mem *sm);

unsigned slab_class_count(const struct slab_mem *sm); /* highest class id */
/* The class for an item of this many accounted bytes; 0 if larger than item_max_bytes. Pure. */
unsigned slab_class_of(const struct slab_mem *sm, uint64_t accounted_bytes);
/* Number of chunks such an item occupies in its class (1 up to slab_chunk_max). Pure. */
uint32_t slab_chunks_of(const struct slab_mem *sm, uint64_t accounted_bytes);

unsigned slab_handle_shift(const struct slab_mem *sm); /* constant; 4 up to 64 GiB */
void *slab_ptr(const struct slab_mem *sm, slab_handle h);
slab_handle slab_handle_of(const struct slab_mem *sm, const void *ptr);

/* Takes a chunk's worth of account in cls and real_bytes of memory, aligned to 16.
 * 0; -ENOSPC: the class is full and there is no page for it (make room in this class: evict or
 * flush one of its items, then try again); -ENOMEM: no room for real_bytes in the arena or under
 * the limit (make room in any class, best in this one). Nothing is taken then. The memory's content
 * is undefined. Takes LOCK_SLAB. */
int slab_alloc(struct slab_mem *sm, unsigned cls, uint64_t accounted_bytes, uint64_t real_bytes,
               slab_handle *h);
/* The same without taking account: for moving an item to denser memory (account stays with it). */
int slab_alloc_real(struct slab_mem *sm, uint64_t real_bytes, slab_handle *h);
/* Frees an item. cls and accounted_bytes are its present account. real_bytes may be less
 * than was allocated (an item that shrank in place), unless that was more than
 * SLAB_RUN_CHUNK_MAX: then it must need the same number of 4 KiB units. With cls 0 the account stays, as after
 * slab_alloc_real(). Takes LOCK_SLAB. */
void slab_free(struct slab_mem *sm, slab_handle h, unsigned cls, uint64_t accounted_bytes,
               uint64_t real_bytes);
/* After an attach: these items are live. Each gets its memory and account; slab_attach_done() frees the
 * rest. arena_attach_done() frees large items' memory that nobody claims. The lock is taken once;
 * the call is fastest in the order of handles. */
struct slab_claim {
    slab_handle handle;
    unsigned cls;
    uint64_t accounted_bytes, real_bytes;
    int result; /* 0, -EINVAL (no such chunk: the item must be dropped), -EBUSY (chunk already taken) */
};
void slab_attach_items(struct slab_mem *sm, struct slab_claim *claims, unsigned count);
void slab_attach_done(struct slab_mem *sm);

/* Sparse runs. Fills *run with a run that is less than max_used_pct full and whose chunks would fit
 * into other runs of its size; false if none is worth it (less than 1/32 of the memory held
 * by runs could be gained; with max_used_pct 100 each run is). Chunks of that run are not handed out again until slab_run_done, and the run
 * stays mapped until then. slab_run_next gives its live chunks one by one, from *pos = 0 on; a chunk
 * may already be freed by its owner, or not yet be filled: the caller must recognise a
 * live item by other means (the index word that leads to it). slab_run_done frees the run if it is
 * empty, and puts it back into use otherwise. */
bool slab_sparse_run(struct slab_mem *sm, unsigned max_used_pct, uint64_t *run);
bool slab_run_next(struct slab_mem *sm, uint64_t run, uint32_t *pos, slab_handle *h);
void slab_run_done(struct slab_mem *sm, uint64_t run);
/* Gives the memory of runs without a live chunk back to the arena, those kept for later included. Returns the bytes. */
uint64_t slab_give_back(struct slab_mem *sm);

/* Pages (the accounted layer). */
void slab_info(struct slab_mem *sm, unsigned cls, struct slab_class_info *out);
uint64_t slab_limit_bytes(struct slab_mem *sm);
uint64_t slab_pages_total(struct slab_mem *sm);  /* assigned to classes + global pool */
uint64_t slab_taken_bytes(struct slab_mem *sm);  /* everything that counts against the limit */
uint64_t slab_pages_global(struct slab_mem *sm); /* in the global pool */
uint64_t slab_pages_left(struct slab_mem *sm);   /* pool + what the limit still allows */
uint64_t slab_real_bytes(struct slab_mem *sm);   /* real memory held by runs and large items */
/* Moves all pages that the limit still allows to the global pool. */
void slab_fill_pool(struct slab_mem *sm);
/* Counts this many bytes against the limit as if pages took them. For tests that need a full cache. */
void slab_claim_bytes(struct slab_mem *sm, uint64_t bytes);
/* -m changes, or the index takes a part of it: pages beyond the new limit are released from the
 * global pool at once; returns how many pages too many the classes hold (the caller empties pages and
 * gives them to class 0). */
uint64_t slab_set_limit(struct slab_mem *sm, uint64_t limit_bytes);
/* Takes an empty page's worth (chunks_per_page free chunks) from src and gives it to dst (0 =
 * global pool, from which it is released at once while there is more than the limit). src 0: from
 * the pool.
 * 0; -ENOSPC src has fewer free chunks than a page holds (or the pool is empty); -EINVAL class ids,
 * or the same one twice; -ENOENT src has no page to spare (memcached: at most one page). */
int slab_page_move(struct slab_mem *sm, unsigned src, unsigned dst);

#endif
