/* upkeep/expire.c: see upkeep/expire.h. */
#include "upkeep/expire.h"

#include "flash/engine.h"
#include "flash/groups.h"
#include "flash/page.h"
#include "flash/room.h"
#include "flash/wbuf.h"

#define PART_OF_FLASH 256u /* a walk begins when this part of all pages has expired */

struct ext_expire {
    struct extstore *e;
    bool running;
    uint32_t looked_unix; /* pages were looked at in this second, */
    uint32_t looked_flush_unix; /* after this flush_all */
    bool *pages;          /* of the walk, each with a reference */
    uint32_t now_unix;    /* when it began */
    uint64_t objects;     /* that were in them when it began */
    uint64_t cursor;
};

struct ext_expire *ext_expire_create(struct extstore *e)
{
    struct ext_expire *x = calloc(1, sizeof(*x));
    if (x == NULL)
        return NULL;
    ASSERT(e->page_count > 0);
    x->e = e;
    x->pages = calloc(e->page_count, sizeof(*x->pages));
    if (x->pages != NULL)
        return x;
    free(x);
    return NULL;
}

void ext_expire_destroy(struct ext_expire *x)
{
    if (x == NULL)
        return;
    for (uint32_t i = 0; x->running && i < x->e->page_count; i++) {
        if (!x->pages[i])
            continue;
        uint32_t refs = atomic_fetch_sub(&x->e->pages[i].refs, 1);
        ASSERT(refs > 0); /* the walk's. Still DRAINING or BAD: a later process goes on with it */
    }
    free(x->pages);
    free(x);
}

bool ext_expire_is_running(const struct ext_expire *x) { return x->running; }

static bool is_dead(const struct extstore *e, const struct ext_page *p, uint32_t now_unix)
{
    if (ext_page_state_of(p) == EXT_PAGE_FREE || atomic_load(&p->objects) == 0)
        return false;
    if (ext_page_has_expired(p, now_unix))
        return true;
    uint32_t time_max = ext_raised_get(&p->time_max);
    uint32_t flush = atomic_load_explicit(&e->root->flush_unix, memory_order_relaxed);
    /* Of the flush's own second the caller knows more (cas); such a page is left to rescue. */
    return flush != 0 && flush <= now_unix && time_max < flush;
}

/* Ends the stream's page if everything in it has expired. */
static void end_expired(struct extstore *e, unsigned stream, uint32_t now_unix)
{
    ASSERT(stream < EXT_STREAM_COUNT);
    for (uint32_t d = 0; d < e->device_count; d++) {
        uint32_t page = ext_stream_page(e, stream, d);
        if (page != EXT_NO_PAGE && atomic_load(&e->pages[page].objects) > 0 &&
            ext_page_has_expired(&e->pages[page], now_unix)) {
            ext_wbuf_end_stream(e, stream);
            return;
        }
    }
}

static void end_groups(struct extstore *e, uint32_t now_unix)
{
    if (ext_groups_are_on(e))
        end_expired(e, EXT_BUCKET_LOWTTL, now_unix);
    for (unsigned i = 0; i < e->groups.count; i++)
        end_expired(e, EXT_BUCKET_COUNT + i, now_unix);
}

static bool is_short(const struct extstore *e)
{
    for (unsigned c = 0; c < EXT_BUCKET_COUNT; c++) {
        if (ext_pages_total(e, (enum ext_bucket)c) > 0 &&
            ext_pages_free(e, (enum ext_bucket)c) < ext_low_water(e, (enum ext_bucket)c))
            return true;
    }
    return false;
}

/* A line for watchers, for each page of the walk. */
static void tell(const struct ext_expire *x, const char *what)
{
    struct extstore *e = x->e;
    char line[96];
    for (uint32_t i = 0; e->event_fn != NULL && i < e->page_count; i++) {
        if (!x->pages[i])
            continue;
        snprintf(line, sizeof(line), "type=%s id=%" PRIu32 " version=%" PRIu32, what, i,
                 atomic_load(&e->pages[i].version));
        e->event_fn(e->event_ctx, line);
    }
}

static void begin(struct ext_expire *x, uint32_t now_unix, uint32_t busy)
{
    struct extstore *e = x->e;
    uint32_t dead = 0;
    ASSERT(!x->running && (busy == EXT_NO_PAGE || busy < e->page_count));
    for (uint32_t i = 0; i < e->page_count; i++)
        dead += i != busy && is_dead(e, &e->pages[i], now_unix);
    if (dead == 0 || (dead < e->page_count / PART_OF_FLASH && !is_short(e)))
        return;
    end_groups(e, now_unix);
    x->objects = x->cursor = 0;
    x->now_unix = now_unix;
    for (uint32_t i = 0; i < e->page_count; i++) {
        x->pages[i] = i != busy && ext_page_is_there(e, i) && is_dead(e, &e->pages[i], now_unix) && ext_page_drain(e, i);
        x->running |= x->pages[i];
        x->objects += x->pages[i] ? atomic_load(&e->pages[i].objects) : 0;
    }
    tell(x, "compact_start");
}

static void end(struct ext_expire *x)
{
    struct extstore *e = x->e;
    uint64_t left = 0;
    ASSERT(x->running);
    for (uint32_t i = 0; i < e->page_count; i++)
        left += x->pages[i] ? atomic_load(&e->pages[i].objects) : 0;
    ext_count(e, EXT_N_objects_expired, x->objects - min_u64(left, x->objects));
    tell(x, "compact_end");
    for (uint32_t i = 0; i < e->page_count; i++) {
        if (x->pages[i])
            ext_page_unpin(e, i);
    }
    x->running = false;
}

/* A page may get another record after its choice: one that is BAD, or ended, may still have a buffer that is being
 * filled. Then not all of it is dead any more, and the rest stays. */
static bool is_taken(const void *arg, uint32_t page)
{
    const struct ext_expire *x = arg;
    ASSERT(x->running && page < x->e->page_count);
    return x->pages[page] && is_dead(x->e, &x->e->pages[page], x->now_unix);
}

bool ext_expire_step(struct ext_expire *x, uint32_t now_unix, uint32_t page)
{
    struct extstore *e = x->e;
    const struct ext_callbacks *cb = &e->opt.callbacks;
    lock_assert_none_held();
    uint32_t flush_unix = atomic_load_explicit(&e->root->flush_unix, memory_order_relaxed);
    if (!x->running && (x->looked_unix != now_unix || x->looked_flush_unix != flush_unix)) {
        x->looked_unix = now_unix;
        x->looked_flush_unix = flush_unix;
        begin(x, now_unix, page);
    }
    if (!x->running)
        return false;
    struct ext_sweep s = {
        .end = e->page_count * e->page_granules, .takes = is_taken, .arg = x, .page_granules = e->page_granules};
    if (!cb->sweep(cb->ctx, &s, &x->cursor, EXT_DROP_EXPIRED))
        end(x);
    return true;
}
