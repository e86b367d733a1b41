/* items/ghost.h: which keys left the cache a while ago: 16 bits a key, in the arena.
 *
 * A table of sets of four entries; an entry is 12 bits of the key's hash and 4 bits of time. Time is
 * the bytes of what is remembered: a window of so many bytes has GHOST_AGES steps, and an entry is
 * known for as many. Entries too old are emptied while time goes on, a few sets with each key, so
 * that no age is met a second time. A set that is full forgets its oldest.
 *
 * A key is taken for a known one wrongly in about one case of a thousand (4 / 4095).
 *
 * Threads: ghost_add and ghost_has from any thread, no lock: entries are atomic, and what two
 * threads do to one set at once costs an entry at most. A killed process leaves a valid table.
 */
#ifndef EXTANT_GHOST_H
#define EXTANT_GHOST_H

#include "base/base.h"

#define GHOST_WAYS 4u
#define GHOST_AGES 14u

/* In the arena, in front of the entries; all zeroes is an empty table. */
struct ghost_root {
    _Atomic(uint64_t) bytes; /* time: bytes of all that was ever remembered */
    _Atomic(uint64_t) swept; /* sets looked at for old entries, ever */
    uint64_t reserved[6];
};
static_assert(sizeof(struct ghost_root) == CACHE_LINE_BYTES, "the sets are aligned");

struct ghost {
    struct ghost_root *root;
    _Atomic(uint16_t) *entries;
    uint64_t sets;       /* a power of two */
    uint64_t step_bytes; /* one age */
};

/* Memory for at least so many keys: a power of two, at least a page of 4 KiB, and the root. */
uint64_t ghost_memory_bytes(uint64_t keys);
/* Over memory of ghost_memory_bytes(), which is zeroes or was used for the same before. window_bytes
 * > 0: a key is known until so many bytes were remembered after it. */
void ghost_init(struct ghost *g, void *memory, uint64_t memory_bytes, uint64_t window_bytes);
/* Remembers a key whose object of so many bytes left. */
void ghost_add(struct ghost *g, uint64_t hash, uint64_t object_bytes);
bool ghost_has(const struct ghost *g, uint64_t hash);
/* How many entries are in use; walks the table. */
uint64_t ghost_count(const struct ghost *g);

#endif
