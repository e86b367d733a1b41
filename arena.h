/* arena.h: the one mapping that holds everything which must survive the
 * process: item memory (slab runs), index rows, write buffers, the flash page
 * table and the counters.
 *
 * Memory is named by offset from the mapping's start, never by pointer, so a
 * restart at another address finds everything where it was. Free space is an
 * `extents` set in units of 4 KiB; the set itself is process-private and is
 * rebuilt by arena_take() after an attach.
 *
 * The mapping reserves more address space than may be used; what is never
 * touched costs nothing, and what is freed is given back to the kernel when
 * the touched memory exceeds what is in use by more than a small slack, so RSS
 * follows use. Limits are the callers' business (slab_mem and index keep -m).
 *
 * Threads: every call from any thread. Locks: LOCK_EXTENTS inside calls only.
 * No call does I/O; arena_free may call madvise.
 */
#ifndef EXTANT_ARENA_H
#define EXTANT_ARENA_H

#include "base.h"

#define ARENA_UNIT_BYTES ((uint64_t)4096)
#define ARENA_ROOT_BYTES ((uint64_t)64 * 1024) /* offset 0: struct arena_root and the modules' roots */

/* Who uses a piece of memory; one counter of bytes each. */
enum arena_use {
    ARENA_USE_META,   /* roots, page table, directories */
    ARENA_USE_SLAB,   /* item memory */
    ARENA_USE_INDEX,  /* index rows */
    ARENA_USE_BUFFER, /* wbufs and read buffers */
    ARENA_USE_COUNT
};

/* Modules' persistent roots inside the first 64 KiB, each of a fixed size. */
enum arena_root_id {
    ARENA_ROOT_CACHE,
    ARENA_ROOT_SLAB,
    ARENA_ROOT_INDEX,
    ARENA_ROOT_EXTSTORE,
    ARENA_ROOT_SPARE,
    ARENA_ROOT_COUNT
};
#define ARENA_ROOT_MODULE_BYTES ((uint64_t)12 * 1024)

struct arena;

struct arena_options {
    uint64_t reserve_bytes; /* address space, and size of the file if there is one (sparse) */
    const char *file;       /* NULL: anonymous memory; else a file (on tmpfs) to live in */
    const void *geometry;   /* what must be the same for an attach: compared byte for byte */
    uint32_t geometry_bytes; /* at most 256 */
    bool huge_pages;        /* ask for transparent huge pages */
    bool lock_memory;       /* -k */
};

/* Creates or attaches. *attached is true iff the file held a valid arena of the same format,
 * build, boot and geometry, which is then used as it is; otherwise the arena is empty (zeroes)
 * and, if a file was there and unfit, why[] says so in one line. NULL with errno and why[] set:
 * EBUSY another process holds the file, ENOSPC, EACCES, ENOMEM.. The caller owns the arena. */
struct arena *arena_create(const struct arena_options *opt, bool *attached, char *why,
                           size_t why_bytes);
/* Unmaps; a file stays (its content is valid for a later attach) unless arena_discard was called. */
void arena_destroy(struct arena *a);
/* Marks the file's content as not to be attached again (clean, deliberate forgetting). */
void arena_discard(struct arena *a);

/* The mapping's start; constant for the arena's life. */
char *arena_base(const struct arena *a);
/* A module's persistent root (zeroed in a fresh arena), ARENA_ROOT_MODULE_BYTES long, 64-byte aligned. */
void *arena_root(const struct arena *a, enum arena_root_id id);

/* Allocates bytes (rounded up to units) at an offset that is a multiple of align (power of two,
 * at least a unit). Content is undefined unless fresh; *zeroed, if asked for, tells whether it is
 * known to be zeroes. 0, or -ENOSPC (no address range long enough). Does not wait. */
int arena_alloc(struct arena *a, enum arena_use use, uint64_t bytes, uint64_t align,
                uint64_t *offset, bool *zeroed);
void arena_free(struct arena *a, enum arena_use use, uint64_t offset, uint64_t bytes);
/* After an attach: claims a range that is known to be in use. 0 or -EBUSY (claimed twice). */
int arena_take(struct arena *a, enum arena_use use, uint64_t offset, uint64_t bytes);

uint64_t arena_used_bytes(const struct arena *a, enum arena_use use); /* exact, allocated */
uint64_t arena_touched_bytes(const struct arena *a); /* upper bound of the mapping's RSS */
uint64_t arena_reserve_bytes(const struct arena *a);

struct extents;
/* The free set, for stats, text save and reconcile (read only use). */
struct extents *arena_extents(struct arena *a);

#endif
