/* space/extents.h: the free units of one space (pages of a flash device, 4 KiB units of the arena).
 *
 * A set covers the units start .. start + count - 1; each is free or used. Free units are kept
 * in regions of (usually) 32768 units. A region is a list of extents where its space is whole
 * and a bitmap where it is broken:
 *
 *     LIST --(average free run < EXTENTS_TO_BITMAP_BELOW)--> BITMAP
 *     LIST <--(average free run > EXTENTS_TO_LIST_ABOVE)---- BITMAP
 *
 * The band between the two keeps a region from flapping. One thing is added to that rule: a
 * region with so few runs that one node of the list holds them (13, and back below 7) is a list
 * whatever their length, since one node is smaller and faster than any bitmap.
 *
 * Promises:
 *  - an allocation gets the lowest run that is long enough, whole or its low end; runs go on
 *    across the borders of regions, so a run may be as long as the set;
 *  - a free run is coalesced with both its neighbours at once;
 *  - all memory is mapped at creation (what is never touched costs nothing); no later call
 *    allocates;
 *  - any thread may call anything; one lock of rank LOCK_EXTENTS is taken inside each call.
 *
 * Limits: at most 2^40 units. An aligned allocation tries the runs that are long enough one by
 * one, so it is slow where there are many such runs and none holds an aligned start. Memory that a
 * region's bitmap or nodes once touched stays mapped and is reused, never given back.
 */
#ifndef EXTANT_EXTENTS_H
#define EXTANT_EXTENTS_H

#include "base/base.h"

#define EXTENTS_REGION_UNITS 32768u  /* default region: what one 4 KiB bitmap covers */
#define EXTENTS_REGION_MIN_UNITS 64u /* one word of a bitmap */
#define EXTENTS_REGION_MAX_UNITS 65536u
#define EXTENTS_MAX_UNITS ((uint64_t)1 << 40)
#define EXTENTS_TO_BITMAP_BELOW 64u /* units of average free run */
#define EXTENTS_TO_LIST_ABOVE 128u

struct extents;

enum extents_mode {
    EXTENTS_HYBRID,      /* the rule above */
    EXTENTS_LIST_ONLY,   /* for measurements: never a bitmap while nodes last */
    EXTENTS_BITMAP_ONLY, /* for measurements: never a list */
};

struct extents_options {
    uint64_t start_unit;   /* at most UINT64_MAX / 4 */
    uint64_t unit_count;   /* 1 .. EXTENTS_MAX_UNITS */
    uint32_t region_units; /* power of two, EXTENTS_REGION_MIN_UNITS .. _MAX_UNITS; 0: default */
    uint32_t max_nodes;    /* nodes of 13 extents for all lists; 0: as many as the rule can ever
                            * need. With fewer, a region that finds none becomes a bitmap. */
    bool all_used;         /* at creation all units are used, else all are free */
    enum extents_mode mode;
};

struct extents_range {
    uint64_t start, len; /* units */
};

struct extents_stats {
    uint64_t total_units, free_units;
    uint64_t free_runs; /* a run that crosses a region's border counts once in each region */
    uint64_t regions_list, regions_bitmap;
    uint64_t nodes_used, nodes_max;
    uint64_t bytes_used;     /* what the present state needs */
    uint64_t bytes_reserved; /* address space set aside at creation */
    uint64_t to_bitmap_count, to_list_count; /* conversions since creation */
};

/* The faults that extents_reconcile() can find in a range of units. */
enum extents_fault {
    EXTENTS_LOST,    /* neither free nor used */
    EXTENTS_BOTH,    /* free and used */
    EXTENTS_TWICE,   /* used by two ranges */
    EXTENTS_OUTSIDE, /* used, but not of this set */
    EXTENTS_FAULT_COUNT
};

struct extents_reconciled {
    uint64_t ranges[EXTENTS_FAULT_COUNT]; /* by enum extents_fault */
    uint64_t units[EXTENTS_FAULT_COUNT];
};

/* Runs in the thread that reconciles, under the set's lock: it may log and count, and must not
 * call into any set of extents, sleep or do I/O that can. */
typedef void extents_fault_fn(void *ctx, enum extents_fault fault, struct extents_range range);

/* Makes a set; *out belongs to the caller until extents_destroy().
 * -EINVAL: an option is out of its range. -ENOMEM: no address space. */
int extents_create(const struct extents_options *options, struct extents **out);

/* Gives all memory back. No other thread is inside a call. NULL is fine. */
void extents_destroy(struct extents *set);

/* Takes the lowest `len` (>= 1) free units in a row whose start is a multiple of `align` (a power
 * of two, 1: any), and stores the start. Never sleeps. -ENOSPC: there is no such run now. */
int extents_alloc(struct extents *set, uint64_t len, uint64_t align, uint64_t *start);

/* Gives len (>= 1) used units back. A unit that is free already, or is
 * not of this set, is our bug and asserted on. Never sleeps. */
void extents_free(struct extents *set, uint64_t start, uint64_t len);

/* The same for tools and input from outside: -EINVAL, and nothing changed, if len is 0, a unit is
 * free already or not of this set. */
int extents_try_free(struct extents *set, uint64_t start, uint64_t len);

/* Takes these units, as a restart does for used ones. -EBUSY: one of them isn't free;
 * -EINVAL: len is 0 or one is not of this set; nothing is changed then. Never sleeps. */
int extents_take(struct extents *set, uint64_t start, uint64_t len);

/* True iff the unit is of this set and free. */
bool extents_is_free(struct extents *set, uint64_t unit);

/* The lowest run of free units at or after `unit` (the rest of the run, if `unit` is inside one),
 * whole, across regions. -ENOENT: there is none. */
int extents_find(struct extents *set, uint64_t unit, struct extents_range *run);

/* Units free now; reads one atomic, takes no lock. */
uint64_t extents_free_count(const struct extents *set);

/* Length of the longest free run, 0 if none. May look through every region whose longest run
 * isn't known at the time (about a microsecond each). */
uint64_t extents_largest(struct extents *set);

void extents_stats(struct extents *set, struct extents_stats *stats);

/* How the regions are kept, one character each from the lowest on: 'L' a list, 'B' a bitmap. As many as
 * `room` has place for with a zero at the end; returns how many regions there are. */
uint64_t extents_region_map(struct extents *set, char *text, size_t room);

/* Writes the free runs, lowest first, one line each: "start .. end", both decimal, both units of
 * the run. Not under the lock: runs that change meanwhile may be in the old or the new state;
 * lines are in order and don't overlap in any case. -EIO: the stream failed. */
int extents_save(struct extents *set, FILE *out);

/* Compares the set with the ranges that their users say they use, sorted by start. Each
 * range that is wrong is given to report (may be NULL) in order of address within its fault, and
 * counted in *result. 0: everything was checked, with or without faults. -EINVAL: not sorted, a length
 * is 0 or a range wraps. The state stands still meanwhile (the lock is held). */
int extents_reconcile(struct extents *set, const struct extents_range *used, size_t used_count,
                      extents_fault_fn *report, void *ctx, struct extents_reconciled *result);

/* Checks every invariant of the set; walks all of it. For tests and `extant --check`. */
void extents_assert(struct extents *set);

#endif
