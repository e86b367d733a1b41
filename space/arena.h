/* space/arena.h: the one mapping that holds all data that must survive the
 * process: item memory (slab runs), index rows, write buffers, the flash page
 * table and the counters.
 *
 * Memory is addressed by offset from the mapping's start, never by pointer, so a
 * restart at another address finds everything where it was. Free space is an
 * `extents` set in units of 4 KiB. The set is process-private; which units are
 * in use is also kept in a bitmap inside the arena. So after an attach
 * everything that the dead process had in use stays out of reach until
 * arena_take() claims it or arena_attach_done() frees what nobody claimed, and
 * modules may attach and allocate in any order.
 *
 * The mapping reserves more address space than may be used; untouched
 * memory costs nothing, and freed memory goes back to the kernel when
 * the touched memory exceeds the used memory by more than a small slack, so RSS
 * follows use. The callers enforce limits (slab_mem and index keep -m).
 * In a file, space is reserved in the file system before it is handed out (with
 * zeroes where it can't be reserved): a full tmpfs is an -ENOSPC here, not a SIGBUS later.
 * From then on memory is short, until arena_end_shortage(): nothing is given back to the kernel but in
 * exchange for other memory, and items leave the spare to the index.
 *
 * Layout of the mapping (ARENA_FORMAT in space/arena.c):
 *
 *     0       64 KiB: header (4 KiB), then the modules' roots (12 KiB each)
 *     64 KiB  bitmap of used units, 1 bit a unit
 *     ...     bitmap of touched units, 1 bit a unit
 *     ...     allocations
 *
 * Threads: every call from any thread. Locks: LOCK_EXTENTS inside calls only.
 * No call waits. arena_alloc may call fallocate (on tmpfs: takes and zeroes
 * memory), arena_free madvise or fallocate; so call both without a lock
 * that others wait for.
 */
#ifndef EXTANT_ARENA_H
#define EXTANT_ARENA_H

#include "base/base.h"

#define ARENA_UNIT_BYTES ((uint64_t)4096)
#define ARENA_ROOT_BYTES ((uint64_t)64 * 1024) /* offset 0: the header and the modules' roots */

/* The user of a piece of memory; one counter of bytes each. */
enum arena_use {
    ARENA_USE_META,   /* roots, bitmaps, page table, directories */
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
    ARENA_ROOT_RESTART,
    ARENA_ROOT_COUNT
};
#define ARENA_ROOT_MODULE_BYTES ((uint64_t)12 * 1024)

#define ARENA_GEOMETRY_BYTES_MAX 256
#define ARENA_RESERVE_BYTES_MIN ((uint64_t)256 * 1024)

struct arena;

struct arena_options {
    uint64_t reserve_bytes;  /* address space, and size of the file if there is one (sparse);
                              * rounded up to 64 KiB */
    const char *file;        /* NULL: anonymous memory; else a file (on tmpfs) to live in */
    bool trust_file;         /* it may belong to another user, be writable by others, or be a link */
    bool overwrite;          /* data in it that is not Extant's may be lost */
    uint32_t format;         /* of what the modules keep in it: another one is not attached, .. */
    uint32_t format_oldest;  /* .. but for those from this one on, whose content the modules convert; 0: none */
    uint64_t reserve_bytes_min; /* a file of another size is attached, and stays so large, if it has as
                              * much; 0: only one of just reserve_bytes */
    const void *geometry;    /* what must be the same for an attach: compared byte for byte, */
    uint32_t geometry_bytes; /* at most ARENA_GEOMETRY_BYTES_MAX; */
    bool (*geometry_fits)(const void *found, void *wanted); /* unless there is this, which says whether
                              * content of the one can be used with the other, and may change what is wanted */
    bool lock_memory;        /* -k: touched memory stays resident */
};

/* Creates or attaches. *attached is true iff the file held a valid arena of the same format,
 * boot and geometry, which is then used as it is; otherwise the arena is empty (zeroes)
 * and, if a file was there and unfit, why[] says so in one line. If the memory can't be locked
 * (lock_memory) the arena works without, and why[] says so. Otherwise why[] is "".
 * NULL with errno and why[] set: EBUSY another process holds the file, EINVAL options, or not a
 * regular file, EPERM others could have written to it (unless trust_file), EEXIST it holds data that is not
 * Extant's (unless overwrite), ENOSPC, EACCES, ENOMEM..
 * The caller owns the arena. */
struct arena *arena_create(const struct arena_options *opt, bool *attached, char *why,
                           size_t why_bytes);
/* Would arena_create attach the file now? Then copies the geometry that its content has, geometry_bytes of it. Changes
 * nothing, and takes no lock. */
bool arena_peek(const struct arena_options *opt, void *geometry);
/* Unmaps; a file stays, valid for a later attach unless arena_discard was called. */
void arena_destroy(struct arena *a);
/* Marks the file's content as not to be attached again (clean, deliberate forgetting). */
void arena_discard(struct arena *a);

/* The mapping's start, aligned to 2 MiB; constant for the arena's life. */
char *arena_base(const struct arena *a);
/* The geometry that its content has now: what was wanted, as geometry_fits left it. */
const void *arena_geometry(const struct arena *a);
/* A module's persistent root (zeroed in a fresh arena): ARENA_ROOT_MODULE_BYTES, 4 KiB aligned. */
void *arena_root(const struct arena *a, enum arena_root_id id);

/* Allocates bytes (> 0, rounded up to units) at the lowest offset possible that is a multiple of align
 * (power of two, at least a unit). *zeroed, if asked for, is true iff the content is known to be zeroes
 * (never after an attach). 0, or -ENOSPC: no address range is long enough, or the file system is full. Does
 * not wait. */
int arena_alloc(struct arena *a, enum arena_use use, uint64_t bytes, uint64_t align,
                uint64_t *offset, bool *zeroed);
/* Gives back the whole of an allocation, or whole units of it. */
void arena_free(struct arena *a, enum arena_use use, uint64_t offset, uint64_t bytes);

/* After an attach: claims a range that the dead process had allocated. 0; -EBUSY: a part of it was
 * claimed or allocated since; -EINVAL: a part of it was not in use, or is outside. Nothing changes
 * then. Not after arena_attach_done(). */
int arena_take(struct arena *a, enum arena_use use, uint64_t offset, uint64_t bytes);
/* Ends the attach, once every module has claimed: frees unclaimed memory and returns its bytes. A
 * second call, or one without an attach, does nothing. No other thread may be in arena_take. */
uint64_t arena_attach_done(struct arena *a);

uint64_t arena_used_bytes(const struct arena *a, enum arena_use use); /* exact, allocated */
uint64_t arena_touched_bytes(const struct arena *a); /* upper bound of the mapping's RSS */
/* Of the mapping, what is in this process's memory now, as the kernel says (/proc/self/pagemap): exact up
 * to 256 MB touched, beyond from samples, in some milliseconds. arena_touched_bytes() if the kernel doesn't
 * say. */
uint64_t arena_resident_bytes(const struct arena *a);
uint64_t arena_reserve_bytes(const struct arena *a);
uint64_t arena_idle_bytes(const struct arena *a); /* touched and not used: what is there without asking the system */

/* Has the system refused memory, and the shortage not been ended? Then arena_had_bytes() says how much items and index had
 * together, idle memory included, when it last did. */
bool arena_is_short(const struct arena *a);
uint64_t arena_had_bytes(const struct arena *a);
uint64_t arena_refusals(const struct arena *a); /* allocations that failed for it, since the start */
/* While memory is short, ARENA_USE_SLAB is refused what would leave less idle memory than this. 0 when
 * a shortage begins: items may take all. */
void arena_set_spare(struct arena *a, uint64_t bytes);
/* Touched memory is not to exceed this, which the system allows the process; an allocation of ARENA_USE_SLAB or _INDEX beyond it
 * is refused as if the system did (arena_is_capped). If it does so now, memory is short from then on, and idle memory is given back. Returns by how
 * much it still does. No ceiling at first. */
uint64_t arena_set_ceiling(struct arena *a, uint64_t bytes);
bool arena_is_capped(const struct arena *a);
/* Would the system give this many bytes more? Takes them for a moment (in a file: milliseconds). */
bool arena_seek_room(struct arena *a, uint64_t bytes);
void arena_end_shortage(struct arena *a);

struct extents;
/* The free units of ARENA_UNIT_BYTES, to be read only. */
struct extents *arena_extents(struct arena *a);

#endif
