/* flash/expiry.c: see flash/expiry.h. */
#include "flash/expiry.h"

#include "flash/engine.h"

#define FIRST_SHIFT 4u /* the first octave ends at 16 s, the last at 2^17 s: one and a half days */

int ext_expiry_init(struct extstore *e)
{
    ASSERT(e->page_count > 0 && e->expiry == NULL);
    e->expiry = calloc(e->page_count, sizeof(*e->expiry));
    return e->expiry == NULL ? -ENOMEM : 0;
}

void ext_expiry_end(struct extstore *e)
{
    free(e->expiry);
}

uint64_t ext_expiry_table_bytes(const struct extstore *e)
{
    return e->page_count * sizeof(*e->expiry);
}

static uint32_t get(const _Atomic(uint32_t) *at)
{
    return atomic_load_explicit(at, memory_order_relaxed);
}
static void set(_Atomic(uint32_t) *at, uint32_t value)
{
    atomic_store_explicit(at, value, memory_order_relaxed);
}

void ext_expiry_begin(struct extstore *e, uint32_t page)
{
    ASSERT(page < e->page_count);
    struct ext_expiry *x = &e->expiry[page];
    set(&x->opened, get(&e->now_unix));
    set(&x->turned, get(&e->now_unix));
    set(&x->first, UINT32_MAX);
    for (unsigned i = 0; i < EXT_EXPIRY_OCTAVES; i++) {
        set(&x->granules[i], 0);
        set(&x->last[i], 0);
    }
}

void ext_expiry_stay(struct extstore *e, uint32_t page)
{
    ASSERT(page < e->page_count);
    set(&e->expiry[page].turned, get(&e->now_unix));
}

static void raise_to(_Atomic(uint32_t) *at, uint32_t value)
{
    uint32_t was = get(at);
    while (was < value && !atomic_compare_exchange_weak(at, &was, value))
        ;
}

/* The end of an octave, in seconds after the page was opened. */
static uint64_t end_of(unsigned octave) { return UINT64_C(1) << (FIRST_SHIFT + octave); }

void ext_expiry_add(struct extstore *e, uint32_t page, uint32_t exptime_unix, uint64_t record_bytes)
{
    ASSERT(page < e->page_count && record_bytes % EXT_GRANULE_BYTES == 0);
    struct ext_expiry *x = &e->expiry[page];
    if (exptime_unix == 0)
        return;
    uint32_t first = get(&x->first), opened = get(&x->opened);
    while (exptime_unix < first && !atomic_compare_exchange_weak(&x->first, &first, exptime_unix))
        ;
    uint64_t left = exptime_unix > opened ? exptime_unix - opened : 0;
    for (unsigned i = 0; i < EXT_EXPIRY_OCTAVES; i++) {
        if (left <= end_of(i)) {
            raise_to(&x->last[i], exptime_unix);
            atomic_fetch_add_explicit(&x->granules[i], (uint32_t)(record_bytes / EXT_GRANULE_BYTES),
                                      memory_order_relaxed);
            return;
        }
    }
}

uint32_t ext_expiry_age_sec(const struct extstore *e, uint32_t page)
{
    ASSERT(page < e->page_count);
    uint32_t since = get(&e->expiry[page].turned), now = get(&e->now_unix);
    if (since == 0)
        since = ext_raised_get(&e->pages[page].time_max);
    return now > since ? now - since : 0;
}

/* Granules of an octave that have expired: its bytes expire evenly between the later of its start and `first`, and
 * its last expiry. */
static uint64_t expired_of(uint64_t granules, uint64_t start, uint64_t first, uint64_t last, uint64_t now)
{
    start = max_u64(start, first);
    if (now >= last)
        return granules;
    return now <= start ? 0 : granules * (now - start) / (last - start);
}

uint64_t ext_expiry_bytes(const struct extstore *e, uint32_t page)
{
    ASSERT(page < e->page_count);
    const struct ext_expiry *x = &e->expiry[page];
    const struct ext_page *p = &e->pages[page];
    uint32_t now = get(&e->now_unix), last = ext_raised_get(&p->exptime_max), opened = get(&x->opened);
    uint64_t real = atomic_load_explicit(&p->bytes_real, memory_order_relaxed), granules = 0;
    if (last <= now)
        return real;
    if (get(&x->first) > now)
        return 0;
    for (unsigned i = 0; opened != 0 && i < EXT_EXPIRY_OCTAVES; i++)
        granules += expired_of(get(&x->granules[i]), i == 0 ? 0 : opened + end_of(i - 1), get(&x->first),
                               get(&x->last[i]), now);
    return min_u64(granules * EXT_GRANULE_BYTES, real);
}
