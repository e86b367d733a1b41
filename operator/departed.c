/* operator/departed.c: see operator/departed.h. An entry is in one of WAYS neighbouring places. */
#include "operator/departed.h"

enum { WAYS = 4 };

struct departed {
    uint64_t mask;
    _Atomic(uint32_t) entries[];
};

struct departed *departed_create(uint64_t bytes_max)
{
    uint64_t count = 1024;
    while (count * 2 * sizeof(uint32_t) <= bytes_max)
        count *= 2;
    struct departed *d = calloc(1, sizeof(*d) + count * sizeof(d->entries[0]));
    DEBUG_ASSERT(count % WAYS == 0 && (count & (count - 1)) == 0);
    if (d)
        d->mask = count - 1;
    return d;
}

void departed_destroy(struct departed *d)
{
    free(d);
}

/* The bits of the hash that its place doesn't imply. */
static uint32_t tag_of(uint64_t hash)
{
    return (uint32_t)(hash >> 32) & ~UINT32_C(15);
}

static uint32_t entry_at(const struct departed *d, uint64_t at)
{
    DEBUG_ASSERT(at <= d->mask);
    return atomic_load_explicit((_Atomic(uint32_t) *)&d->entries[at], memory_order_relaxed);
}

static bool is_of(uint32_t entry, uint32_t tag)
{
    return entry != 0 && (entry & ~UINT32_C(15)) == tag;
}

void departed_note(struct departed *d, uint64_t hash, enum miss_reason reason)
{
    DEBUG_ASSERT(reason != MISS_never_stored && reason < MISS_REASON_COUNT);
    if (!d)
        return;
    uint64_t first = hash & d->mask & ~(uint64_t)(WAYS - 1);
    uint64_t to = first + (hash >> 30 & (WAYS - 1)); /* if all are taken */
    uint32_t tag = tag_of(hash);
    for (uint64_t at = first; at < first + WAYS; at++)
        if (entry_at(d, at) == 0)
            to = at;
    for (uint64_t at = first; at < first + WAYS; at++)
        if (is_of(entry_at(d, at), tag))
            to = at;
    DEBUG_ASSERT(to >= first && to < first + WAYS && to <= d->mask);
    atomic_store_explicit(&d->entries[to], tag | (uint32_t)reason, memory_order_relaxed);
}

enum miss_reason departed_find(const struct departed *d, uint64_t hash)
{
    if (!d)
        return MISS_never_stored;
    uint64_t first = hash & d->mask & ~(uint64_t)(WAYS - 1);
    for (uint64_t at = first; at < first + WAYS; at++)
        if (is_of(entry_at(d, at), tag_of(hash)))
            return (enum miss_reason)(entry_at(d, at) & 15);
    return MISS_never_stored;
}

const char *miss_reason_name(enum miss_reason reason)
{
    static const char *const names[] = {
#define X(name, help) #name,
        MISS_TABLE(X)
#undef X
    };
    ASSERT(reason < MISS_REASON_COUNT);
    return names[reason];
}
