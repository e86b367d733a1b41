/* flash/groups.c: see flash/groups.h. */
#include "flash/groups.h"

#include "flash/engine.h"
#include "flash/expiry.h"
#include "flash/room.h"

#define WIDTH_ONE 65536u
#define WIDTH_MIN (WIDTH_ONE / 16)
#define WIDTH_MAX (WIDTH_ONE * 8)
#define WIDER_PART 128u   /* of the width, at a record for which no group is left */
#define NARROWER_PART 2048u /* of the width, at a record while a quarter of the groups is left */
#define FEW_WBUFS 10u     /* of so few, half are for groups; of more, all but a fixed number */
#define OTHER_WBUFS 6u
#define GROUPS_MIN 6u     /* fewer, in a cache of few pages, cost more misses than they save */
#define HORIZON_MAX_SEC (60u * 60 * 24 * 365)

/* Has the bucket pages of its own devices, or none that could go elsewhere? */
static bool is_grouped(const struct extstore *e, unsigned bucket)
{
    return bucket == EXT_BUCKET_DEFAULT || ext_pages_total(e, (enum ext_bucket)bucket) == 0;
}

void ext_groups_init(struct extstore *e)
{
    lock_init(&e->groups.lock, LOCK_EXT_BUCKET);
    e->groups.width = WIDTH_ONE;
}

void ext_groups_size(struct extstore *e)
{
    struct ext_groups *g = &e->groups;
    ASSERT(e->page_count > 0 && e->wbuf_count > EXT_RESERVED_WBUFS && g->count == 0);
    uint64_t pages = ext_pages_total(e, EXT_BUCKET_DEFAULT) / EXT_GROUP_PAGES;
    uint32_t few = (e->wbuf_count - EXT_RESERVED_WBUFS) / 2;
    uint64_t wbufs = e->wbuf_count <= FEW_WBUFS ? few : e->wbuf_count - OTHER_WBUFS;
    g->count = (uint32_t)min_u64(min_u64(e->opt.ttl_groups, EXT_GROUPS_MAX), min_u64(pages, wbufs));
    if (g->count < GROUPS_MIN)
        g->count = 0;
    for (unsigned b = 0; b < EXT_BUCKET_COUNT; b++)
        g->buckets |= (is_grouped(e, b) ? 1u : 0u) << b;
}

void ext_groups_end(struct extstore *e)
{
    lock_destroy(&e->groups.lock);
}

static bool has_groups(const struct extstore *e, enum ext_bucket bucket)
{
    return e->groups.count > 0 && (e->groups.buckets >> bucket & 1) != 0;
}

bool ext_groups_are_on(const struct extstore *e) { return has_groups(e, EXT_BUCKET_LOWTTL); }

enum ext_bucket ext_stream_bucket(const struct extstore *e, unsigned stream)
{
    ASSERT(stream < EXT_STREAM_COUNT);
    if (stream < EXT_BUCKET_COUNT)
        return (enum ext_bucket)stream;
    return ext_groups_are_on(e) ? EXT_BUCKET_LOWTTL : EXT_BUCKET_DEFAULT;
}

/* The whole square root. */
static uint32_t root_of(uint64_t x)
{
    uint64_t root = 0;
    for (uint64_t bit = UINT64_C(1) << 31; bit > 0; bit >>= 1) {
        if ((root | bit) * (root | bit) <= x)
            root |= bit;
    }
    return (uint32_t)root;
}

/* How many seconds earlier than its group may a record expire? */
static uint32_t tolerance_of(const struct ext_groups *g, uint32_t left_sec, uint32_t horizon_sec)
{
    uint64_t mean = root_of((uint64_t)left_sec * horizon_sec);
    return (uint32_t)max_u64(1, min_u64(mean * g->width / WIDTH_ONE / g->count, HORIZON_MAX_SEC));
}

/* The group for a record, or g->count if there is none. */
static uint32_t choose_group(struct ext_groups *g, uint32_t exptime, uint32_t now, uint32_t horizon, bool *ends)
{
    lock_assert_held(&g->lock);
    uint32_t best = g->count, idle = g->count, used = 0, tolerance = tolerance_of(g, exptime - now, horizon);
    for (uint32_t i = 0; i < g->count; i++) {
        if (g->until[i] <= now) {
            idle = i;
            continue;
        }
        used++;
        if (g->until[i] >= exptime && (best == g->count || g->until[i] < g->until[best]))
            best = i;
    }
    if (used < g->count - g->count / 4)
        g->width = (uint32_t)max_u64(WIDTH_MIN, g->width - g->width / NARROWER_PART);
    if (best < g->count && g->until[best] - exptime <= tolerance)
        return best;
    if (idle == g->count) {
        g->width = (uint32_t)min_u64(WIDTH_MAX, g->width + g->width / WIDER_PART);
        return best;
    }
    *ends = g->until[idle] != 0;
    g->until[idle] = (uint32_t)min_u64(((uint64_t)exptime / tolerance + 1) * tolerance, UINT32_MAX - 1);
    return idle;
}

unsigned ext_group_stream(struct extstore *e, enum ext_bucket bucket, uint32_t exptime_unix, bool *ends)
{
    struct ext_groups *g = &e->groups;
    uint32_t now = atomic_load_explicit(&e->now_unix, memory_order_relaxed);
    uint32_t horizon = atomic_load_explicit(&g->horizon_sec, memory_order_relaxed);
    ASSERT(bucket < EXT_BUCKET_COUNT);
    *ends = false;
    if (exptime_unix == 0 || horizon == 0 || !has_groups(e, bucket))
        return bucket;
    exptime_unix = (uint32_t)max_u64(exptime_unix, (uint64_t)now + 1);
    if (exptime_unix - now > horizon)
        return bucket;
    lock_take(&g->lock);
    uint32_t group = choose_group(g, exptime_unix, now, horizon, ends);
    lock_release(&g->lock);
    return group < g->count ? EXT_BUCKET_COUNT + group : bucket;
}

/* ---- maintenance ---- */

/* How long does a page live? By the oldest one in the queue; while flash is not full, as it will be then. */
static void measure_horizon(struct extstore *e)
{
    uint32_t oldest = EXT_NO_PAGE, best_age = 0, newest = atomic_load(&e->root->next_version);
    uint64_t used = 0, total = 0;
    for (uint32_t i = 0; i < e->page_count; i++) {
        const struct ext_page *p = &e->pages[i];
        enum ext_page_state s = ext_page_state_of(p);
        if (!ext_page_is_there(e, i) || e->devices[e->where[i].device].free_bucket != EXT_BUCKET_DEFAULT)
            continue;
        total++;
        used += s != EXT_PAGE_FREE;
        if (s == EXT_PAGE_FREE || s == EXT_PAGE_OPEN || p->bucket == EXT_BUCKET_LOWTTL)
            continue;
        uint32_t order = atomic_load_explicit(&p->order, memory_order_relaxed);
        uint32_t age = newest - (order != 0 ? order : atomic_load(&p->version));
        if (oldest == EXT_NO_PAGE || age > best_age) {
            oldest = i;
            best_age = age;
        }
    }
    if (oldest == EXT_NO_PAGE)
        return; /* as it was */
    uint64_t sec = (uint64_t)ext_expiry_age_sec(e, oldest) * total / used;
    atomic_store_explicit(&e->groups.horizon_sec, (uint32_t)max_u64(1, min_u64(sec, HORIZON_MAX_SEC)),
                          memory_order_relaxed);
}

void ext_groups_step(struct extstore *e, uint32_t now_unix)
{
    if (atomic_exchange_explicit(&e->now_unix, now_unix, memory_order_relaxed) == now_unix || e->groups.count == 0)
        return;
    measure_horizon(e);
}
