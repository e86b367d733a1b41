/* items/life.c: see items/life.h. */
#include "items/life.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include "base/hash.h"
#include "items/object.h"
#include "items/worth.h"

/* The numbers of an earlier process, or new ones. 0, or -EUCLEAN: they are damaged. */
static int take_root(struct cache *c, bool attached)
{
    struct cache_root *root = c->root;
    if (attached && !cache_root_is_sound(root))
        return -EUCLEAN;
    if (!attached && root->hash_seed == 0)
        cache_root_set_seed(root, hash_draw());
    atomic_store(&root->flush_changers, 0);
    cache_root_flush_begin(root);
    cache_root_flush_end(root);
    return 0;
}

struct cache *cache_create(const struct cache_options *opt)
{
    struct cache *c = aligned_alloc(CACHE_LINE_BYTES, round_up(sizeof(*c), CACHE_LINE_BYTES));
    if (!c)
        return NULL;
    memset(c, 0, sizeof(*c));
    c->config = opt->config;
    ASSERT(opt->config != NULL && opt->slab != NULL && opt->index != NULL);
    c->arena = opt->arena;
    c->slab = opt->slab;
    c->index = opt->index;
    uint64_t share = opt->config->maxbytes / DEPARTED_SHARE;
    c->departed = departed_create(min_u64(max_u64(share, DEPARTED_BYTES_MIN), DEPARTED_BYTES_MAX));
    c->base = arena_base(opt->arena);
    c->handle_shift = slab_handle_shift(opt->slab);
    c->root = arena_root(opt->arena, ARENA_ROOT_CACHE);
    c->maint_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    c->lru = lru_create(opt->slab);
    int rc = stale_init(&c->stale);
    if (rc != 0 || !c->lru || c->maint_fd < 0)
        goto fail;
    if (opt->config->track_sizes) {
        c->sizes_count = opt->config->item_size_max / 32 + 8;
        c->sizes = calloc(c->sizes_count, sizeof(c->sizes[0]));
        if (!c->sizes)
            goto fail;
    }
    rc = take_root(c, opt->attached);
    if (rc == 0)
        return c;
fail:
    cache_destroy(c);
    errno = rc != 0 ? -rc : ENOMEM;
    return NULL;
}

void cache_destroy(struct cache *c)
{
    if (c->lru)
        lru_destroy(c->lru);
    stale_free(&c->stale);
    if (c->maint_fd >= 0)
        close(c->maint_fd);
    free(c->sizes);
    departed_destroy(c->departed);
    free(c);
}

/* The engine's hook: it has work for ext_maint_step before the usual time. Any thread, any lock. */
static void wake_for_engine(void *ctx) { cache_wake_maint(ctx); }

void cache_set_extstore(struct cache *c, struct extstore *ext)
{
    c->ext = ext;
    if (!ext)
        return;
    struct ext_info info;
    ext_info(ext, &info);
    stale_set_flash(&c->stale, info.limit_maxbytes);
    atomic_store(&c->stale.walk_wanted, true); /* nothing of the former process waits any more */
    ext_set_maint_hook(ext, wake_for_engine, c);
    worth_open(c, info.limit_maxbytes);
}

static void raise_flush(struct cache *c, uint32_t flush_unix)
{
    ASSERT(atomic_load(&c->root->flush_changers) > 0); /* by the caller */
    if (atomic_load(&c->root->flush_unix) < flush_unix)
        atomic_store(&c->root->flush_unix, flush_unix);
}

/* The planned flush_all, if its time has come; else 0. */
static uint32_t planned_and_come(const struct cache *c, uint32_t now)
{
    uint32_t planned_unix = atomic_load(&c->root->planned_unix);
    return planned_unix != 0 && clock_sec_of_unix(planned_unix) <= now ? planned_unix : 0;
}

void cache_flush_all(struct cache *c, uint32_t when_sec)
{
    /* memcached's rule: items stored before this second are dead by time, items stored
     * in this second by their cas. Unlike there, flushed items stay dead when another flush is planned:
     * they may be on flash for long. Without cas (-C) nothing tells what was stored earlier in this second: all of it goes,
     * also what is stored later in it. */
    uint32_t now = clock_now_sec();
    uint32_t limit = when_sec != 0 ? when_sec - 1 : c->config->use_cas ? now - 1 : now;
    uint32_t limit_unix = (uint32_t)clock_rel_to_unix(limit);
    cache_root_flush_begin(c->root);
    raise_flush(c, planned_and_come(c, now));
    if (limit <= now) {
        uint32_t most_unix = (uint32_t)clock_rel_to_unix(limit > now - 1 ? limit : now - 1);
        atomic_store(&c->root->flush_cas, cache_next_cas(c));
        raise_flush(c, limit_unix);
        if (atomic_load(&c->root->flush_unix) > most_unix) /* by time; the cas says the rest */
            atomic_store(&c->root->flush_unix, most_unix);
    }
    atomic_store(&c->root->planned_unix, limit <= now ? 0 : limit_unix);
    cache_root_flush_end(c->root);
    if (c->ext && limit <= now)
        ext_flush_all(c->ext, limit_unix);
    if (c->flush_hook)
        c->flush_hook(c->flush_ctx);
}

void cache_set_flush_hook(struct cache *c, void (*fn)(void *ctx), void *ctx)
{
    c->flush_ctx = ctx;
    c->flush_hook = fn;
}

uint32_t cache_oldest_live_sec(const struct cache *c)
{
    uint32_t planned_unix = atomic_load(&c->root->planned_unix);
    return clock_sec_of_unix(planned_unix != 0 ? planned_unix : atomic_load(&c->root->flush_unix));
}

void cache_flush_planned(struct cache *c, uint32_t now)
{
    uint32_t planned_unix = planned_and_come(c, now);
    if (planned_unix == c->planned_told)
        return;
    c->planned_told = planned_unix;
    if (planned_unix != 0)
        ext_flush_all(c->ext, planned_unix);
}

int cache_set_memlimit(struct cache *c, uint64_t bytes)
{
    if (bytes > arena_reserve_bytes(c->arena) / 2)
        return -ENOMEM;
    slab_set_limit(c->slab, bytes); /* with flash, maintenance takes the index off it */
    return 0;
}

uint64_t cache_memory_bytes(const struct cache *c)
{
    uint64_t limit = atomic_load_explicit(&c->config->maxbytes, memory_order_relaxed);
    return arena_is_short(c->arena) ? min_u64(limit, arena_had_bytes(c->arena)) : limit;
}
