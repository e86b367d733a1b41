/* upkeep/choice.c: see upkeep/choice.h. */
#include "upkeep/choice.h"

#include "flash/engine.h"
#include "flash/expiry.h"
#include "flash/page.h"

#define AVOID_NS UINT64_C(5000000000) /* an unreadable page is left alone this long */

int ext_choice_init(struct ext_choice *c, struct extstore *e)
{
    ASSERT(e->page_count > 0);
    c->e = e;
    c->avoid_until_ns = calloc(e->page_count, sizeof(*c->avoid_until_ns));
    return c->avoid_until_ns != NULL ? 0 : -ENOMEM;
}

void ext_choice_end(struct ext_choice *c) { free(c->avoid_until_ns); }

void ext_choice_avoid(struct ext_choice *c, uint32_t page)
{
    ASSERT(page < c->e->page_count);
    c->avoid_until_ns[page] = clock_mono_ns() + AVOID_NS;
}

/* Could a job begin with this page? DRAINING ones remain from an abandoned job. */
static bool is_candidate(const struct ext_choice *c, uint32_t page)
{
    const struct ext_page *p = &c->e->pages[page];
    enum ext_page_state s = ext_page_state_of(p);
    if (c->avoid_until_ns[page] != 0 && clock_mono_ns() < c->avoid_until_ns[page])
        return false;
    return (s == EXT_PAGE_SEALED || s == EXT_PAGE_DRAINING || s == EXT_PAGE_BAD) &&
           atomic_load(&p->slots_busy) == 0 && atomic_load(&p->objects) > 0;
}

static double live_ratio(const struct ext_page *p)
{
    uint64_t appended = atomic_load_explicit(&p->bytes_appended, memory_order_relaxed);
    uint64_t used = atomic_load_explicit(&p->bytes_used, memory_order_relaxed);
    return appended == 0 ? 1.0 : (double)used / (double)appended;
}

/* Pages of a failed device can't be used again now, so nothing is given up for them; but a full one
 * may lose one page, since it takes a free page to find out that the device is back. */
static bool device_takes_part(const struct extstore *e, uint32_t page)
{
    ASSERT(e->where[page].device < e->device_count);
    const struct ext_device *d = &e->devices[e->where[page].device];
    return !ext_device_failed(d) ||
           (extents_free_count(d->free) == 0 && atomic_load(&e->stuck_wbufs) == 0);
}

static bool page_is_of(const struct extstore *e, uint32_t page, enum ext_bucket device_class)
{
    return ext_page_is_there(e, page) && e->devices[e->where[page].device].free_bucket == device_class &&
           device_takes_part(e, page);
}

uint32_t ext_choose_fragmented(const struct ext_choice *c, enum ext_bucket device_class, double below, bool urgent)
{
    lock_assert_none_held();
    ASSERT(device_class < EXT_BUCKET_COUNT);
    struct extstore *e = c->e;
    uint32_t best = EXT_NO_PAGE;
    double best_ratio = below;
    for (uint32_t i = 0; i < e->page_count; i++) {
        if (!page_is_of(e, i, device_class) || !is_candidate(c, i) ||
            (e->pages[i].bucket == EXT_BUCKET_LOWTTL && !urgent))
            continue;
        double ratio = live_ratio(&e->pages[i]);
        if (ratio < best_ratio) {
            best_ratio = ratio;
            best = i;
        }
    }
    return best;
}

/* The part of the page's bytes that has not expired, as an estimate. */
static double fresh_ratio(const struct extstore *e, uint32_t page)
{
    uint64_t real = atomic_load_explicit(&e->pages[page].bytes_real, memory_order_relaxed);
    uint64_t expired = min_u64(ext_expiry_bytes(e, page), real);
    return real == 0 ? 1.0 : (double)(real - expired) / (double)real;
}

uint32_t ext_choose_roomy(const struct ext_choice *c, enum ext_bucket device_class, double below)
{
    lock_assert_none_held();
    ASSERT(device_class < EXT_BUCKET_COUNT);
    struct extstore *e = c->e;
    uint32_t best = EXT_NO_PAGE, pages = 0;
    double best_ratio = below, alive = 0;
    for (uint32_t i = 0; i < e->page_count; i++) {
        if (!page_is_of(e, i, device_class))
            continue;
        pages++;
        if (ext_page_state_of(&e->pages[i]) == EXT_PAGE_FREE)
            continue;
        double fresh = fresh_ratio(e, i), ratio = live_ratio(&e->pages[i]) * fresh;
        alive += (double)ext_page_live_bytes(&e->pages[i]) * fresh;
        if (ratio < best_ratio && is_candidate(c, i)) {
            best_ratio = ratio;
            best = i;
        }
    }
    return alive < CHOICE_ROOMY * (double)pages * (double)e->page_bytes ? best : EXT_NO_PAGE;
}

/* Rescue takes records of this page to bucket compact. */
static bool goes_to_compact(const struct ext_page *p)
{
    return p->bucket == EXT_BUCKET_DEFAULT || p->bucket == EXT_BUCKET_CHUNKED;
}

/* Pages age by this; one from a checkpoint or a scan has none yet. */
static uint32_t order_of(const struct ext_page *p)
{
    uint32_t order = atomic_load_explicit(&p->order, memory_order_relaxed);
    return order != 0 ? order : atomic_load(&p->version);
}

uint32_t ext_choose_oldest(const struct ext_choice *c, enum ext_bucket device_class, enum ext_choice_of which)
{
    lock_assert_none_held();
    ASSERT(device_class < EXT_BUCKET_COUNT && which <= EXT_OF_ANY_CLASS);
    struct extstore *e = c->e;
    uint32_t best = EXT_NO_PAGE, newest = atomic_load(&e->root->next_version);
    uint32_t best_age = 0;
    for (uint32_t i = 0; i < e->page_count; i++) {
        if ((which != EXT_OF_ANY_CLASS && !page_is_of(e, i, device_class)) || !is_candidate(c, i) ||
            (which == EXT_OF_CLASS_TO_COMPACT && !goes_to_compact(&e->pages[i])))
            continue;
        uint32_t age = newest - order_of(&e->pages[i]); /* right across a wrap */
        if (best == EXT_NO_PAGE || age > best_age) {
            best = i;
            best_age = age;
        }
    }
    return best;
}

uint32_t ext_choose_bad(const struct ext_choice *c)
{
    struct extstore *e = c->e;
    for (uint32_t i = 0; atomic_load(&e->bad_pages) > 0 && i < e->page_count; i++) {
        if (ext_page_state_of(&e->pages[i]) == EXT_PAGE_BAD && is_candidate(c, i))
            return i;
    }
    return EXT_NO_PAGE;
}

bool ext_choice_may_come(const struct ext_choice *c)
{
    struct extstore *e = c->e;
    for (uint32_t i = 0; i < e->page_count; i++) {
        const struct ext_page *p = &e->pages[i];
        if (ext_page_state_of(p) == EXT_PAGE_SEALED && atomic_load(&p->objects) > 0 &&
            atomic_load(&p->slots_busy) > 0)
            return true;
    }
    return false;
}
