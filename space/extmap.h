/* space/extmap.h: the state of every range of flash, asked before any read.
 *
 * A range is a slot of flash as long as a wbuf. Its state is one 64-bit word:
 *
 *       63          34 33   32 31       16 15        0
 *      +--------------+-------+-----------+-----------+
 *      |  generation  | state |  buffer   |   pins    |
 *      +--------------+-------+-----------+-----------+
 *
 * The words live in memory that the caller hands in (so they can survive a restart); they hold
 * no pointers, and a word of 0 is a free range that was never used. Everything else (which
 * buffer holds which range, when it was used last) is derived, and lives here.
 *
 * A buffer is a number below buffer_count that the caller gives meaning to; it holds at most one
 * range. While a range is pinned its buffer stays as it is. Pins are lock-free and are all that
 * readers need; transitions take one lock of rank LOCK_EXTENTS.
 *
 * "Least recently used" counts pins and transitions. Two threads that pin at the same instant may
 * be counted in either order, and a pin that is still under way may be counted late: the order
 * only decides which clean buffer goes first, never whether it may go.
 *
 * Limits: 65535 buffers, 65535 pins of one range at a time, 2^32 ranges. extmap_shrink() looks at
 * every buffer, so it is meant for tens to hundreds of them. Generations wrap after 2^30 lives.
 *
 * With EXTMAP_NO_LOCK defined all operations are plain loads and stores and there is no lock: one
 * thread only, to measure what the locking costs. All users are compiled with the same setting.
 */
#ifndef EXTANT_EXTMAP_H
#define EXTANT_EXTMAP_H

#include "base/base.h"

#define EXTMAP_MAX_BUFFERS 65535u
#define EXTMAP_MAX_PINS 65535u
#define EXTMAP_MAX_RANGES ((uint64_t)1 << 32)
#define EXTMAP_NO_BUFFER UINT32_MAX

#ifdef EXTMAP_NO_LOCK
typedef uint64_t extmap_word;
#else
typedef _Atomic(uint64_t) extmap_word;
#endif
static_assert(sizeof(extmap_word) == 8, "the words are shared between builds and restarts");

/*   FREE --extmap_set_delayed--> DELAYED --extmap_set_clean--> CLEAN --extmap_shrink--> WRITTEN
 *   DELAYED, CLEAN, WRITTEN --extmap_set_free--> FREE   DELAYED: what was in it went elsewhere after a failed write;
 *                                                       else its page was reclaimed
 *
 *              buffer    data in memory    data on flash    may be pinned
 *   FREE       none      no                no               no
 *   DELAYED    one       the only copy     not yet whole    yes
 *   CLEAN      one       yes               yes              yes
 *   WRITTEN    none      no                yes              no
 *
 * Leaving for WRITTEN or FREE needs 0 pins; DELAYED -> CLEAN doesn't. DELAYED never becomes
 * WRITTEN directly, so the shrinker can't take the only copy. Each life from FREE to FREE has its
 * own generation.
 */
enum extmap_state { EXTMAP_FREE, EXTMAP_DELAYED, EXTMAP_CLEAN, EXTMAP_WRITTEN, EXTMAP_STATE_COUNT };

struct extmap;

struct extmap_options {
    extmap_word *words;    /* range_count of them; outlive the map */
    uint64_t range_count;  /* 1 .. EXTMAP_MAX_RANGES */
    uint32_t buffer_count; /* 1 .. EXTMAP_MAX_BUFFERS */
};

/* One word, taken apart. */
struct extmap_range {
    enum extmap_state state;
    uint32_t buffer; /* EXTMAP_NO_BUFFER when FREE or WRITTEN */
    uint32_t pins, generation;
};

struct extmap_stats {
    uint64_t ranges[EXTMAP_STATE_COUNT];
    uint64_t shrinks;      /* buffers that extmap_shrink() gave back */
    uint64_t shrink_fails; /* calls that found none */
};

/* Makes a map of free ranges: sets all words to 0. *out belongs to the caller until
 * extmap_destroy(). -EINVAL: an option is out of its range. -ENOMEM: no memory. */
int extmap_create(const struct extmap_options *options, struct extmap **out);

/* Makes a map of words that another process (or life) left behind, killed at any instant: pins go
 * to 0, the rest is kept; clean buffers are all as old as each other. -EINVAL: an option is out
 * of its range, or the words contradict themselves (two ranges in one buffer, no such buffer, a
 * buffer where there can't be one); the words are unchanged then. -ENOMEM: no memory. */
int extmap_attach(const struct extmap_options *options, struct extmap **out);

/* The word of a range that is WRITTEN, for words that are made from a file instead of being kept in
 * memory: extmap_attach() takes them as any others. */
uint64_t extmap_written_word(void);
/* The same for one that is DELAYED, in this buffer. */
uint64_t extmap_delayed_word(uint32_t buffer);
/* Takes a word apart that no map has yet. Pure. */
struct extmap_range extmap_of_word(uint64_t word);

/* Frees the map, not the words. No other thread is inside a call. NULL is fine. */
void extmap_destroy(struct extmap *map);

/* If the range is in memory (DELAYED or CLEAN), stores its buffer and keeps it there until
 * extmap_unpin(). Lock-free, never sleeps. -ENOENT: it isn't in memory, read flash.
 * -EAGAIN: it has EXTMAP_MAX_PINS pins; an answer from flash is right if it is CLEAN. */
int extmap_pin(struct extmap *map, uint64_t range, uint32_t *buffer);

/* Ends one extmap_pin() of the range; without one it is our bug and asserted on. Lock-free. */
void extmap_unpin(struct extmap *map, uint64_t range);

/* FREE -> DELAYED: the buffer, which holds no range, begins to take the range in. Any other state
 * of the range or the buffer is our bug. */
void extmap_set_delayed(struct extmap *map, uint64_t range, uint32_t buffer);

/* DELAYED -> CLEAN: the range is on flash, whole. Another state is our bug. */
void extmap_set_clean(struct extmap *map, uint64_t range);

/* DELAYED, CLEAN or WRITTEN -> FREE. Stores the buffer that is the caller's again, or
 * EXTMAP_NO_BUFFER, if buffer isn't NULL. -EBUSY: the range is pinned, nothing changed. */
int extmap_set_free(struct extmap *map, uint64_t range, uint32_t *buffer);

/* Takes the buffer that was used least recently of all that are CLEAN and not pinned (its range
 * becomes WRITTEN) and gives it to the caller. Never a DELAYED one. -ENOENT: there is none. */
int extmap_shrink(struct extmap *map, uint32_t *buffer);

/* The word's state at this instant; other threads may change it at once. */
struct extmap_range extmap_get(const struct extmap *map, uint64_t range);

/* The range in the buffer; -ENOENT: none. For a restart that flushes DELAYED ranges. */
int extmap_buffer_range(struct extmap *map, uint32_t buffer, uint64_t *range);

void extmap_stats(struct extmap *map, struct extmap_stats *stats);

/* Checks every word, every buffer and the counts against the table above. Pins may come and go
 * meanwhile, transitions wait. */
void extmap_assert(struct extmap *map);

#endif
