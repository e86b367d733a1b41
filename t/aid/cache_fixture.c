#include "t/aid/cache_fixture.h"

#include "items/worth.h"
#include "stale_check.h"

#include <poll.h>
#include <unistd.h>

#include "t/aid/sim_tags.h"

#define RESERVE_BYTES (4 * GiB)

static void must(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "fixture: %s: %s\n", what, strerror(errno));
    abort();
}

static void open_flash(struct fixture *f, unsigned flash_mb)
{
    char why[256], path[96];
    strcpy(f->dir, "/tmp/extant-cache-test-XXXXXX");
    must(mkdtemp(f->dir) != NULL, "mkdtemp");
    snprintf(path, sizeof(path), "%s/flash", f->dir);
    atomic_store(&f->tunables.compact_under_pages, 2);
    atomic_store(&f->tunables.drop_under_pages, 2);
    atomic_store(&f->tunables.max_frag, 0.8);
    atomic_store(&f->tunables.rewrite_pct, 10);
    atomic_store(&f->tunables.stay_pct, 33);
    struct ext_options opt = {
        .arena = f->arena,
        .devices = {{.path = path, .bytes = flash_mb * MiB, .free_bucket = EXT_BUCKET_DEFAULT}},
        .device_count = 1,
        .page_bytes = 2 * MiB,
        .wbuf_bytes = 2 * MiB,
        .buffer_bytes = 32 * MiB,
        .io_threads = 1,
        .io_depth = 1,
        .ttl_groups = 16,
        .engine = EXT_ENGINE_AUTO,
        .device_ops = f->device_ops.pwrite ? &f->device_ops : NULL,
        .callbacks = cache_ext_callbacks(f->cache),
    };
    f->ext = ext_create(&opt, &f->tunables, why, sizeof(why));
    if (!f->ext)
        fprintf(stderr, "%s\n", why);
    must(f->ext != NULL, "ext_create");
    cache_set_extstore(f->cache, f->ext);
}

static void open_all(struct fixture *f, unsigned memory_mb, unsigned flash_mb, bool short_tags,
                     const struct ext_device_ops *ops)
{
    bool attached;
    char why[256];
    memset(f, 0, sizeof(*f));
    if (ops)
        f->device_ops = *ops;
    settings_init(&f->settings);
    clock_setup();
    atomic_store(&f->settings.maxbytes, memory_mb * MiB);
    atomic_store(&f->settings.ext_page_size, 2 * MiB);
    storage_config_init(&f->settings, &f->config, &f->tunables);
    struct arena_options ao = {.reserve_bytes = RESERVE_BYTES, .geometry = "test", .geometry_bytes = 4};
    f->arena = arena_create(&ao, &attached, why, sizeof(why));
    must(f->arena != NULL, "arena_create");
    struct slab_options so = {
        .arena = f->arena,
        .limit_bytes = memory_mb * MiB,
        .factor = 1.25,
        .min_chunk_bytes = 96,
        .chunk_max_bytes = 512 * 1024,
        .item_max_bytes = MiB,
    };
    f->slab = slab_create(&so);
    must(f->slab != NULL, "slab_create");
    struct index_options io = {
        .arena = f->arena,
        .flash_bytes = short_tags ? SIM_TAGS_REACH_BYTES : flash_mb * MiB,
        .initial_bytes = short_tags ? 0 : MiB,
        .limit_bytes = GiB,
        .handle_bits = 32,
    };
    f->index = index_create(&io);
    must(f->index != NULL, "index_create");
    struct cache_options co = {
        .config = &f->config, .arena = f->arena, .slab = f->slab, .index = f->index};
    f->cache = cache_create(&co);
    must(f->cache != NULL, "cache_create");
    if (short_tags)
        cache_root_set_seed(f->cache->root, SIM_TAGS_HASH_SEED);
    if (flash_mb > 0)
        open_flash(f, flash_mb);
    f->worker = cache_worker_create(f->cache, &f->stats);
    must(f->worker != NULL, "cache_worker_create");
}

void fixture_open(struct fixture *f, unsigned memory_mb, unsigned flash_mb)
{
    open_all(f, memory_mb, flash_mb, false, NULL);
}

void fixture_open_ops(struct fixture *f, unsigned memory_mb, unsigned flash_mb, const struct ext_device_ops *ops)
{
    open_all(f, memory_mb, flash_mb, false, ops);
}

void fixture_open_tags(struct fixture *f, unsigned memory_mb, unsigned flash_mb)
{
    open_all(f, memory_mb, flash_mb, true, NULL);
}

void fixture_close(struct fixture *f)
{
    char path[96];
    f->idle = NULL;
    while (cache_worker_parked(f->worker) > 0) /* checks that idle() began */
        fixture_turn(f);
    cache_worker_destroy(f->worker);
    if (f->ext) {
        ext_destroy(f->ext, false);
        snprintf(path, sizeof(path), "%s/flash", f->dir);
        unlink(path);
        rmdir(f->dir);
    }
    cache_destroy(f->cache);
    index_destroy(f->index);
    slab_destroy(f->slab);
    arena_destroy(f->arena);
    settings_free(&f->settings);
}

void fixture_turn(struct fixture *f)
{
    struct pollfd fds[2] = {{.fd = cache_worker_wake_fd(f->worker), .events = POLLIN},
                            {.fd = cache_worker_ring_fd(f->worker), .events = POLLIN}};
    cache_worker_submit(f->worker);
    bool more = f->ext && ext_maint_step(f->ext, (uint32_t)clock_unix_now_sec());
    worth_begin_ghosts(f->cache);
    if (f->idle)
        f->idle(f);
    poll(fds, fds[1].fd >= 0 ? 2 : 1, more || f->idle ? 0 : 1);
    cache_worker_poll(f->worker);
}

static void op_done(struct cache_op *op) { *(bool *)op->owner = true; }

void fixture_run(struct fixture *f, struct cache_op *op)
{
    bool done = false;
    op->done = op_done;
    op->owner = &done;
    if (cache_run(f->worker, op))
        return;
    while (!done)
        fixture_turn(f);
}

enum cache_status fixture_store(struct fixture *f, enum cache_store_mode mode, const char *key,
                                const char *value, size_t value_bytes, uint32_t client_flags,
                                uint32_t exptime_sec, uint64_t cas)
{
    struct cache_op op;
    cache_op_init(&op, CACHE_ALLOC, key, (uint8_t)strlen(key), cache_hash(f->cache, key, strlen(key)));
    op.value_bytes = (uint32_t)value_bytes;
    op.client_flags = client_flags;
    op.exptime_sec = exptime_sec;
    fixture_run(f, &op);
    if (op.status == CACHE_OK) {
        memcpy(op.value, value, value_bytes);
        op.verb = CACHE_STORE;
        op.mode = mode;
        op.cas_compare = cas;
        fixture_run(f, &op);
    }
    enum cache_status status = op.status;
    cache_release(f->worker, &op);
    return status;
}

enum cache_status fixture_get(struct fixture *f, const char *key, char *value, size_t size,
                              struct cache_view *view)
{
    struct cache_op op;
    cache_op_init(&op, CACHE_GET, key, (uint8_t)strlen(key), cache_hash(f->cache, key, strlen(key)));
    fixture_run(f, &op);
    if (op.status == CACHE_OK && value) {
        must(op.view.value_bytes < size, "value fits");
        memcpy(value, op.view.value, op.view.value_bytes);
        value[op.view.value_bytes] = '\0';
    }
    if (view)
        *view = op.view;
    enum cache_status status = op.status;
    cache_release(f->worker, &op);
    return status;
}

static enum cache_status simple(struct fixture *f, struct cache_op *op)
{
    fixture_run(f, op);
    enum cache_status status = op->status;
    cache_release(f->worker, op);
    return status;
}

enum cache_status fixture_delete(struct fixture *f, const char *key)
{
    struct cache_op op;
    cache_op_init(&op, CACHE_DELETE, key, (uint8_t)strlen(key), cache_hash(f->cache, key, strlen(key)));
    return simple(f, &op);
}

enum cache_status fixture_touch(struct fixture *f, const char *key, uint32_t exptime_sec)
{
    struct cache_op op;
    cache_op_init(&op, CACHE_TOUCH, key, (uint8_t)strlen(key), cache_hash(f->cache, key, strlen(key)));
    op.exptime_sec = exptime_sec;
    return simple(f, &op);
}

enum cache_status fixture_arith(struct fixture *f, const char *key, bool decr, uint64_t delta,
                                uint64_t *number)
{
    struct cache_op op;
    cache_op_init(&op, CACHE_ARITH, key, (uint8_t)strlen(key), cache_hash(f->cache, key, strlen(key)));
    op.delta = delta;
    op.options = decr ? CACHE_F_DECR : 0;
    enum cache_status status = simple(f, &op);
    *number = op.number;
    return status;
}

void fixture_flush(struct fixture *f)
{
    for (unsigned cls = 1; cls <= slab_class_count(f->slab); cls++) {
        while (lru_pull_tail(f->cache, cls, LRU_HOT, 0, ROOM_JUGGLE, 0) == ROOM_MADE ||
               lru_pull_tail(f->cache, cls, LRU_WARM, 0, ROOM_JUGGLE, 0) == ROOM_MADE)
            ;
        enum room r;
        while ((r = lru_pull_tail(f->cache, cls, LRU_COLD, 0, ROOM_FLUSH, 0)) != ROOM_NONE)
            if (r == ROOM_WAIT) {
                stale_step(f->worker); /* no page goes before the checks have ended */
                fixture_turn(f);
            }
    }
}

void fixture_settle(struct fixture *f)
{
    while (stale_step(f->worker) || cache_worker_parked(f->worker) > 0)
        fixture_turn(f);
}

uint64_t fixture_counter(struct fixture *f, enum cache_counter n)
{
    return atomic_load(&f->cache->counters[n]);
}
