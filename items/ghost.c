/* items/ghost.c: see items/ghost.h. */
#include "items/ghost.h"

#define AGE_COUNT 16u /* that 4 bits tell apart */

static_assert(GHOST_AGES + 2 == AGE_COUNT, "one age is being written, one is being emptied");

uint64_t ghost_memory_bytes(uint64_t keys)
{
    uint64_t bytes = GHOST_BYTES_MIN;
    while (bytes < keys * sizeof(uint16_t))
        bytes *= 2;
    return sizeof(struct ghost_root) + bytes;
}

void ghost_init(struct ghost *g, void *memory, uint64_t memory_bytes, uint64_t window_bytes)
{
    uint64_t entry_bytes = memory_bytes - sizeof(struct ghost_root);
    ASSERT(window_bytes > 0 && entry_bytes >= GHOST_BYTES_MIN && (entry_bytes & (entry_bytes - 1)) == 0);
    g->root = memory;
    g->entries = (_Atomic(uint16_t) *)((char *)memory + sizeof(struct ghost_root));
    g->sets = entry_bytes / sizeof(uint16_t) / GHOST_WAYS;
    g->step_bytes = max_u64(window_bytes / GHOST_AGES, 1);
    ASSERT(g->sets > 0 && (g->sets & (g->sets - 1)) == 0);
}

static unsigned age_at(const struct ghost *g, uint64_t bytes)
{
    return (unsigned)(bytes / g->step_bytes % AGE_COUNT);
}

/* The upper bits choose the set, others are the tag; 0 is no tag. */
static uint16_t tag_of(uint64_t hash)
{
    uint16_t tag = (uint16_t)(hash >> 20 & 0xfff);
    return tag != 0 ? tag : 1;
}

static _Atomic(uint16_t) *set_of(const struct ghost *g, uint64_t hash)
{
    return g->entries + (hash >> 32 & (g->sets - 1)) * GHOST_WAYS;
}

/* Empties the entries of sets [first, end) that are older than GHOST_AGES when `steps` ages have passed since age
 * `before`; otherwise they would seem young again once the ages wrap around. */
static void empty_old(struct ghost *g, uint64_t first, uint64_t end, unsigned before, uint64_t steps)
{
    ASSERT(first <= end && end - first <= g->sets && before < AGE_COUNT);
    for (uint64_t set = first; set < end; set++) {
        _Atomic(uint16_t) *e = g->entries + (set & (g->sets - 1)) * GHOST_WAYS;
        for (unsigned i = 0; i < GHOST_WAYS; i++) {
            uint16_t old = atomic_load_explicit(&e[i], memory_order_relaxed);
            if (old != 0 && (before + AGE_COUNT - old % AGE_COUNT) % AGE_COUNT + steps > GHOST_AGES)
                atomic_store_explicit(&e[i], 0, memory_order_relaxed);
        }
    }
}

/* The whole table is checked once in each age for entries that would look new in the next. */
static void sweep(struct ghost *g, uint64_t was_bytes, uint64_t now_bytes)
{
    if (was_bytes > now_bytes) /* of a damaged memory file: they went round */
        return;
    uint64_t steps = now_bytes / g->step_bytes - was_bytes / g->step_bytes;
    if (steps > 1) /* an object larger than an age */
        empty_old(g, 0, g->sets, age_at(g, was_bytes), min_u64(steps, AGE_COUNT));
    double share = (double)(now_bytes % g->step_bytes) / (double)g->step_bytes;
    uint64_t due = now_bytes / g->step_bytes * g->sets + (uint64_t)(share * (double)g->sets);
    uint64_t at = atomic_exchange_explicit(&g->root->swept, due, memory_order_relaxed);
    if (at < due && due - at <= g->sets)
        empty_old(g, at, due, age_at(g, now_bytes), 0);
}

void ghost_add(struct ghost *g, uint64_t hash, uint64_t object_bytes)
{
    uint64_t was = atomic_fetch_add_explicit(&g->root->bytes, object_bytes, memory_order_relaxed);
    uint64_t now = was + object_bytes;
    unsigned age = age_at(g, now), oldest = 0, oldest_by = 0;
    uint16_t tag = tag_of(hash);
    _Atomic(uint16_t) *e = set_of(g, hash);
    sweep(g, was, now);
    for (unsigned k = 0; k < GHOST_WAYS; k++) { /* among entries of equal age, any goes */
        unsigned i = (k + (unsigned)(hash >> 16)) % GHOST_WAYS;
        uint16_t old = atomic_load_explicit(&e[i], memory_order_relaxed);
        unsigned by = old == 0 ? AGE_COUNT : (age + AGE_COUNT - old % AGE_COUNT) % AGE_COUNT;
        if (old >> 4 == tag)
            by = AGE_COUNT + 1; /* its own entry */
        if (by >= oldest_by) {
            oldest = i;
            oldest_by = by;
        }
    }
    atomic_store_explicit(&e[oldest], (uint16_t)(tag << 4 | age), memory_order_relaxed);
}

bool ghost_has(const struct ghost *g, uint64_t hash)
{
    uint64_t now = atomic_load_explicit(&g->root->bytes, memory_order_relaxed);
    uint16_t tag = tag_of(hash);
    _Atomic(uint16_t) *e = set_of(g, hash);
    for (unsigned i = 0; i < GHOST_WAYS; i++) {
        uint16_t old = atomic_load_explicit(&e[i], memory_order_relaxed);
        if (old >> 4 == tag)
            return (age_at(g, now) + AGE_COUNT - old % AGE_COUNT) % AGE_COUNT <= GHOST_AGES;
    }
    return false;
}
