/* slab_mem.h: memory for items, as memcached's operators know it and cheaper.
 *
 * Two layers:
 *  - What is reported and limited is memcached's: slab classes (factor, -n,
 *    slab_sizes), pages of 1 MB that belong to a class, chunks per page, a
 *    global pool of pages. An item of N accounted bytes takes one chunk of the
 *    smallest class that fits; above slab_chunk_max it takes as many chunks of
 *    the largest class as it needs. A class whose chunks are all used gets a
 *    page while pages are left, else the caller must make room in that class.
 *  - What is really used is finer: an item header is half of memcached's, so
 *    real memory comes in runs of fine size steps (16 bytes, then 1/8 of an
 *    octave; extents for what is above 64 KiB), taken from the arena. Real use
 *    stays below what is accounted; sparse runs are emptied by moving items
 *    (slab_sparse_run), so RSS follows.
 * Large items are contiguous in the arena (address space is plentiful), so
 * there is no chunk chain to walk; the accounting is still memcached's.
 *
 * Handles: item memory is named by arena offset >> handle_shift (32 bits).
 * Threads: any. Lock: one LOCK_SLAB inside calls. No I/O, no waiting.
 * Accounted use is not persistent: it is rebuilt by slab_attach_item() calls.
 */
#ifndef EXTANT_SLAB_MEM_H
#define EXTANT_SLAB_MEM_H

#include "arena.h"
#include "base.h"

#define SLAB_PAGE_BYTES ((uint64_t)1024 * 1024)
#define SLAB_CLASS_MAX 64 /* ids 1..63; 0 names the global page pool */

typedef uint32_t slab_handle; /* arena offset >> shift; 0 is none */

struct slab_mem;

struct slab_options {
    struct arena *arena;
    uint64_t limit_bytes;         /* -m */
    double factor;                /* -f */
    uint32_t min_chunk_bytes;     /* -n plus memcached's item header of 48: first class 96 by default */
    uint32_t chunk_max_bytes;     /* slab_chunk_max */
    uint64_t item_max_bytes;      /* -I */
    const uint32_t *slab_sizes;   /* -o slab_sizes, ends with 0, or NULL */
    bool attached;                /* the arena's content is from an earlier process */
};

struct slab_class_info {
    uint32_t chunk_bytes, chunks_per_page;
    uint64_t total_pages, total_chunks, used_chunks, free_chunks, free_chunks_end;
    uint64_t mem_requested; /* accounted bytes */
};

struct slab_mem *slab_create(const struct slab_options *opt);
void slab_destroy(struct slab_mem *sm);

unsigned slab_class_count(const struct slab_mem *sm); /* highest class id */
uint32_t slab_chunk_bytes(const struct slab_mem *sm, unsigned cls);
/* Class for an item of so many accounted bytes; 0 if larger than item_max_bytes. Pure. */
unsigned slab_class_of(const struct slab_mem *sm, uint64_t accounted_bytes);
/* Number of chunks such an item occupies in its class (1 up to slab_chunk_max). Pure. */
uint32_t slab_chunks_of(const struct slab_mem *sm, uint64_t accounted_bytes);

static inline void *slab_ptr_at(char *base, unsigned shift, slab_handle h)
{
    return base + ((uint64_t)h << shift);
}
unsigned slab_handle_shift(const struct slab_mem *sm); /* constant; 4 up to 64 GiB */
void *slab_ptr(const struct slab_mem *sm, slab_handle h);
slab_handle slab_handle_of(const struct slab_mem *sm, const void *ptr);

/* Takes a chunk's worth of account in cls and real_bytes of memory, aligned to 16.
 * 0; -ENOSPC: the class is full and there is no page for it (make room in this class: evict or
 * flush one of its items, then try again); -ENOMEM: the arena itself has no room (make room in
 * any class). The memory's content is undefined. */
int slab_alloc(struct slab_mem *sm, unsigned cls, uint64_t accounted_bytes, uint64_t real_bytes,
               slab_handle *h);
/* The same without taking account: for moving an item to denser memory (account stays with it). */
int slab_alloc_real(struct slab_mem *sm, uint64_t real_bytes, slab_handle *h);
void slab_free(struct slab_mem *sm, slab_handle h, unsigned cls, uint64_t accounted_bytes,
               uint64_t real_bytes);
void slab_free_real(struct slab_mem *sm, slab_handle h, uint64_t real_bytes);
/* An item's accounted size changes inside its chunk (incr, in-place meta changes). */
void slab_adjust(struct slab_mem *sm, unsigned cls, int64_t accounted_delta_bytes);
/* After an attach: the item at h is live; takes its memory and account. 0, -EINVAL (no such chunk:
 * the item must be dropped), -EBUSY (chunk already taken). slab_attach_done() frees all the rest. */
int slab_attach_item(struct slab_mem *sm, slab_handle h, unsigned cls, uint64_t accounted_bytes,
                     uint64_t real_bytes);
void slab_attach_done(struct slab_mem *sm);

/* Sparse runs. Fills *run with a run that is less than max_used_pct full and whose chunks would fit
 * into other runs of its size; false if there is none worth it. Chunks of that run are not handed
 * out again until slab_run_done. slab_run_next iterates its live chunks. */
bool slab_sparse_run(struct slab_mem *sm, unsigned max_used_pct, uint64_t *run);
bool slab_run_next(struct slab_mem *sm, uint64_t run, uint32_t *pos, slab_handle *h);
void slab_run_done(struct slab_mem *sm, uint64_t run);

/* Pages (the accounted layer). */
void slab_info(struct slab_mem *sm, unsigned cls, struct slab_class_info *out);
uint64_t slab_limit_bytes(struct slab_mem *sm);
uint64_t slab_pages_total(struct slab_mem *sm);        /* assigned to classes + global pool */
uint64_t slab_pages_global(struct slab_mem *sm);       /* in the global pool */
uint64_t slab_pages_left(struct slab_mem *sm);         /* that may still be taken: pool + not yet allocated */
uint64_t slab_real_bytes(struct slab_mem *sm);         /* real memory held by runs and large items */
/* -m changes, or the index takes a part of it: pages beyond the new limit are released from the
 * global pool at once; returns how many pages classes hold too many (the caller empties pages and
 * gives them to class 0). */
uint64_t slab_set_limit(struct slab_mem *sm, uint64_t limit_bytes);
/* Takes an empty page's worth (chunks_per_page free chunks) from src and gives it to dst (0 = global
 * pool). 0; -ENOSPC src has fewer free chunks than a page holds; -EINVAL class ids; -ENOENT src has
 * no page to spare (memcached: at most one page). */
int slab_page_move(struct slab_mem *sm, unsigned src, unsigned dst);

#endif
