/* items/ghost.h: remembers keys that left the cache some time ago: 16 bits a key, in the arena.
 *
 * A table of sets of four entries; an entry is 12 bits of the key's hash and 4 bits of time. Time
 * counts the bytes of remembered objects: a window of window_bytes has GHOST_AGES steps, and an entry is
 * known for that many steps. Old entries are cleared as time advances, a few sets with each key, so
 * that no age comes up twice. A full set forgets its oldest entry.
 *
 * About one unknown key in a thousand (4 / 4095) is taken for a known one.
 *
 * Threads: ghost_add and ghost_has from any thread, no lock: entries are atomic, and two
 * threads that change one set at once lose an entry at most. A killed process leaves a valid table.
 */
#ifndef EXTANT_GHOST_H
#define EXTANT_GHOST_H

#include "base/base.h"

#define GHOST_WAYS 4u
#define GHOST_AGES 14u
#define GHOST_BYTES_MIN ((uint64_t)4096) /* of entries */

/* In the arena, in front of the entries; all zeroes is an empty table. */
struct ghost_root {
    _Atomic(uint64_t) bytes; /* time: bytes of all objects ever remembered */
    _Atomic(uint64_t) swept; /* sets ever checked for old entries */
    uint64_t reserved[6];
};
static_assert(sizeof(struct ghost_root) == CACHE_LINE_BYTES, "the sets are aligned");

struct ghost {
    struct ghost_root *root;
    _Atomic(uint16_t) *entries;
    uint64_t sets;       /* a power of two */
    uint64_t step_bytes; /* one age */
};

/* Memory for at least this many keys: a power of two, at least a page of 4 KiB, and the root. */
uint64_t ghost_memory_bytes(uint64_t keys);
/* Over memory of ghost_memory_bytes(), which is zeroes or was used for the same before. window_bytes
 * > 0: a key is known until this many bytes were remembered after it. */
void ghost_init(struct ghost *g, void *memory, uint64_t memory_bytes, uint64_t window_bytes);
/* Remembers a key whose object of this many bytes left. */
void ghost_add(struct ghost *g, uint64_t hash, uint64_t object_bytes);
bool ghost_has(const struct ghost *g, uint64_t hash);

#endif
