/* command/admin.c: see command/admin.h. First the answers of `stats`, then what changes something,
 * then dumps. */
#include "command/admin.h"

#include "items/debug.h"

#include <event2/event.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "command/encode.h"
#include "command/space.h"
#include "proto/base64.h"
#include "base/clock.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/memory.h"
#include "items/lru.h"
#include "maint_thread.h"
#include "operator/watch.h"

enum { VERBOSITY_MAX = 3, STAT_NAME_MAX = 128 };

struct admin {
    struct lock lock;
    /* under lock: what there was at the last `stats reset` */
    struct stats_sum threads;
    struct cache_totals totals;
    struct cache_class_stats classes[SLAB_CLASS_MAX];
    struct watch_info watch;
    struct ext_info ext; /* of its counters, those in memcached's own statistics */
};

struct admin *admin_create(void)
{
    struct admin *a = calloc(1, sizeof(*a));
    if (a)
        lock_init(&a->lock, LOCK_STATS);
    return a;
}

void admin_destroy(struct admin *a)
{
    if (!a)
        return;
    lock_destroy(&a->lock);
    free(a);
}

/* ---- stats: lines ---- */

static void emit(void *ctx, const char *name, const char *fmt, ...) PRINTF_LIKE(3, 4);

static void emit(void *ctx, const char *name, const char *fmt, ...)
{
    char value[ENCODE_STAT_VALUE_MAX];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(value, sizeof(value), fmt, ap);
    va_end(ap);
    session_stat(ctx, name, value, min_u64((size_t)n, sizeof(value) - 1));
}

static void emit_numbered(struct session *s, const char *group, unsigned n, const char *name,
                          uint64_t value)
{
    char full[STAT_NAME_MAX];
    snprintf(full, sizeof(full), "%s%u:%s", group, n, name);
    emit(s, full, "%" PRIu64, value);
}

/* ---- stats: figures since the last reset ---- */

static void sum_threads(const struct command_env *env, struct stats_sum *sum)
{
    memset(sum, 0, sizeof(*sum));
    for (unsigned i = 0; i < env->thread_count; i++)
        stats_sum_add(sum, env->thread_stats[i]);
}

/* The counters of a class; gauges are left as they are. */
static void subtract_class(struct cache_class_stats *a, const struct cache_class_stats *b)
{
#define X(n) a->n -= min_u64(a->n, b->n);
    CACHE_ITEM_STATS(X)
#undef X
}

static void subtract_totals(struct cache_totals *a, const struct cache_totals *b)
{
#define X(name, help) a->name -= min_u64(a->name, b->name);
    CACHE_COUNTER_TABLE(X)
#undef X
    subtract_class(&a->sum, &b->sum);
}

void admin_threads(const struct command_env *env, struct stats_sum *sum)
{
    sum_threads(env, sum);
    lock_take(&env->admin->lock);
    stats_sum_subtract(sum, &env->admin->threads);
    lock_release(&env->admin->lock);
}

static void totals_since_reset(const struct command_env *env, struct cache_totals *totals)
{
    cache_totals(env->cache, totals);
    lock_take(&env->admin->lock);
    subtract_totals(totals, &env->admin->totals);
    lock_release(&env->admin->lock);
}

/* `watchers` is a gauge. */
static void watch_since_reset(const struct command_env *env, struct watch_info *out)
{
    watch_info(out);
    lock_take(&env->admin->lock);
    const struct watch_info *then = &env->admin->watch;
    out->worker_dropped -= min_u64(out->worker_dropped, then->worker_dropped);
    out->worker_written -= min_u64(out->worker_written, then->worker_written);
    out->watcher_skipped -= min_u64(out->watcher_skipped, then->watcher_skipped);
    out->watcher_sent -= min_u64(out->watcher_sent, then->watcher_sent);
    lock_release(&env->admin->lock);
}

/* memcached resets what its flusher counts, and not what its flash engine counts. */
static void ext_since_reset(const struct command_env *env, struct ext_info *out)
{
    ext_info(env->ext, out);
    lock_take(&env->admin->lock);
    const struct ext_info *then = &env->admin->ext;
    out->compact_lost -= min_u64(out->compact_lost, then->compact_lost);
    out->compact_rescues -= min_u64(out->compact_rescues, then->compact_rescues);
    out->compact_resc_cold -= min_u64(out->compact_resc_cold, then->compact_resc_cold);
    out->compact_resc_old -= min_u64(out->compact_resc_old, then->compact_resc_old);
    out->compact_skipped -= min_u64(out->compact_skipped, then->compact_skipped);
    lock_release(&env->admin->lock);
}

void admin_class(const struct command_env *env, unsigned cls, struct cache_class_stats *out)
{
    cache_class_stats(env->cache, cls, out);
    lock_take(&env->admin->lock);
    subtract_class(out, &env->admin->classes[cls]);
    lock_release(&env->admin->lock);
}

static void stats_reset(struct session *s)
{
    const struct command_env *env = s->w->env;
    struct admin *now = calloc(1, sizeof(*now));
    if (!now) {
        session_reply(s, REPLY_OOM_STATS);
        return;
    }
    sum_threads(env, &now->threads);
    cache_totals(env->cache, &now->totals);
    for (unsigned cls = 1; cls <= slab_class_count(env->slab); cls++)
        cache_class_stats(env->cache, cls, &now->classes[cls]);
    watch_info(&now->watch);
    if (env->ext)
        ext_info(env->ext, &now->ext);
    struct admin *a = env->admin;
    lock_take(&a->lock);
    a->threads = now->threads;
    a->totals = now->totals;
    memcpy(a->classes, now->classes, sizeof(a->classes));
    a->watch = now->watch;
    a->ext = now->ext;
    lock_release(&a->lock);
    free(now);
    atomic_store(&env->counters->total_conns, 0);
    atomic_store(&env->counters->rejected_conns, 0);
    atomic_store(&env->counters->listen_disabled_num, 0);
    atomic_store(&env->counters->listen_disabled_us, 0);
    atomic_store(&env->counters->tls_new_sessions, 0);
    atomic_store(&env->counters->tls_handshake_errors, 0);
    atomic_store(&env->counters->tls_proto_errors, 0);
    atomic_store(&env->counters->unexpected_napi_ids, 0);
    atomic_store(&env->counters->round_robin_fallback, 0);
    prefixes_clear(env->prefixes);
    session_reply(s, REPLY_RESET);
}

/* ---- stats: general ---- */

static uint64_t timeval_us(struct timeval tv)
{
    return (uint64_t)tv.tv_sec * 1000000 + (uint64_t)tv.tv_usec;
}

static void fill_process(struct stats_snapshot *out)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    out->pid = (uint64_t)getpid();
    out->uptime = clock_uptime_sec() - CLOCK_START_REL_SEC;
    out->time = (uint64_t)clock_unix_now_sec();
    out->version = MEMCACHED_LEVEL;
    out->libevent = event_get_version();
    out->pointer_size = 8 * sizeof(void *);
    out->rusage_user_us = timeval_us(usage.ru_utime);
    out->rusage_system_us = timeval_us(usage.ru_stime);
}

static void fill_conns(const struct command_env *env, struct stats_snapshot *out)
{
    struct server_counters *n = env->counters;
    uint64_t open = atomic_load(&n->curr_conns) + atomic_load(&n->listeners);
    struct buffer_pool pool;
    struct watch_info watch;
    out->max_connections = env->settings->maxconns;
    out->curr_connections = open > 0 ? open - 1 : 0; /* memcached leaves one listener out */
    out->total_connections = atomic_load(&n->total_conns);
    out->rejected_connections = atomic_load(&n->rejected_conns);
    out->connection_structures = open;
    out->reserved_fds = env->reserved_fds;
    out->accepting_conns = atomic_load(&n->accepting);
    out->listen_disabled_num = atomic_load(&n->listen_disabled_num);
    out->time_in_listen_disabled_us = atomic_load(&n->listen_disabled_us);
    out->threads = env->thread_count;
    out->ssl_new_sessions = atomic_load(&n->tls_new_sessions);
    out->ssl_handshake_errors = atomic_load(&n->tls_handshake_errors);
    out->ssl_proto_errors = atomic_load(&n->tls_proto_errors);
    out->time_since_server_cert_refresh = clock_now_sec() - atomic_load(&n->certs_loaded_sec);
    out->unexpected_napi_ids = atomic_load(&n->unexpected_napi_ids);
    out->round_robin_fallback = atomic_load(&n->round_robin_fallback);
    env->buffer_info(env->upper, &pool);
    out->read_buf_count = pool.buffers;
    out->read_buf_bytes = pool.bytes;
    out->read_buf_bytes_free = pool.spare * REPLY_BUFFER_BYTES;
    out->response_obj_count = pool.responses;
    out->response_obj_bytes = pool.responses * sizeof(struct pending);
    watch_since_reset(env, &watch);
    out->log_worker_dropped = watch.worker_dropped;
    out->log_worker_written = watch.worker_written;
    out->log_watcher_skipped = watch.watcher_skipped;
    out->log_watcher_sent = watch.watcher_sent;
    out->log_watchers = watch.watchers;
}

static void fill_items(const struct command_env *env, struct stats_snapshot *out)
{
    struct cache_totals totals;
    struct index_info index;
    totals_since_reset(env, &totals);
    index_info(env->index, &index);
    out->limit_maxbytes = env->settings->maxbytes;
    while (((uint64_t)1 << (out->hash_power_level + 1)) <= index.slots)
        out->hash_power_level++;
    out->hash_bytes = index.bytes;
    out->slab_reassign_rescues = totals.slab_reassign_rescues;
    out->slab_reassign_chunk_rescues = totals.slab_reassign_chunk_rescues;
    out->slab_reassign_last_busy_status = maint_busy_status(env->maint);
    out->slab_reassign_busy_items = totals.slab_reassign_busy_items;
    out->slab_reassign_busy_nomem = totals.slab_reassign_evictions; /* no room to rescue them to */
    out->slab_reassign_running = maint_reassign_is_running(env->maint);
    out->slabs_moved = totals.slabs_moved;
    out->lru_crawler_running = crawler_is_running(env->crawler);
    out->lru_crawler_starts = totals.lru_crawler_starts;
    out->lru_maintainer_juggles = totals.lru_maintainer_juggles;
    out->bytes = totals.bytes;
    out->curr_items = totals.curr_items;
    out->slab_global_page_pool = slab_pages_global(env->slab);
    out->expired_unfetched = totals.sum.expired_unfetched;
    out->evicted_unfetched = totals.sum.evicted_unfetched;
    out->evicted_active = totals.sum.evicted_active;
    out->evictions = totals.sum.evicted;
    out->reclaimed = totals.sum.reclaimed;
    out->crawler_reclaimed = totals.sum.crawler_reclaimed;
    out->crawler_items_checked = totals.sum.crawler_items_checked;
    out->lrutail_reflocked = totals.sum.lrutail_reflocked;
    out->moves_to_cold = totals.sum.moves_to_cold;
    out->moves_to_warm = totals.sum.moves_to_warm;
    out->moves_within_lru = totals.sum.moves_within_lru;
    out->direct_reclaims = totals.sum.direct_reclaims;
    uint64_t capacity = index_capacity(cache_index_limit(env->settings->maxbytes));
    if (capacity)
        out->extstore_memory_pressure =
            100.0 * (double)(totals.ram_items + totals.flash_objects) / (double)capacity;
}

static void fill_flash(const struct command_env *env, struct stats_snapshot *out)
{
    struct ext_info info;
    ext_since_reset(env, &info);
#define COPY(name) out->extstore_##name = info.name
    COPY(compact_lost), COPY(compact_rescues), COPY(compact_resc_cold), COPY(compact_resc_old);
    COPY(compact_skipped), COPY(page_allocs), COPY(page_evictions), COPY(page_reclaims);
    COPY(pages_free), COPY(pages_used), COPY(objects_evicted), COPY(objects_read);
    COPY(objects_written), COPY(objects_used), COPY(bytes_evicted), COPY(bytes_written);
    COPY(bytes_read), COPY(bytes_used), COPY(bytes_fragmented), COPY(limit_maxbytes);
    COPY(io_queue);
#undef COPY
}

int admin_emit_general(const struct command_env *env, stats_emit_fn emit, void *ctx)
{
    struct stats_snapshot *out = calloc(1, sizeof(*out));
    if (!out)
        return -ENOMEM;
    const struct settings *set = env->settings;
    admin_threads(env, &out->sum);
    out->shown[SHOWN_ALWAYS] = true;
    out->shown[SHOWN_WITH_IDLE] = set->idle_timeout > 0;
    out->shown[SHOWN_WITH_FLASH] = env->ext != NULL;
    out->shown[SHOWN_WITH_REASSIGN] = set->slab_reassign;
    out->shown[SHOWN_WITH_CRAWLER] = set->lru_crawler;
    out->shown[SHOWN_WITH_MAINTAINER] = set->lru_maintainer;
    out->shown[SHOWN_WITH_SEGMENTS] = set->lru_segmented;
    out->shown[SHOWN_WITH_TLS] = set->ssl_enabled;
    out->shown[SHOWN_WITH_TLS_SESSIONS] = set->ssl_enabled && set->ssl_session_cache;
    fill_process(out);
    fill_conns(env, out);
    fill_items(env, out);
    if (env->ext)
        fill_flash(env, out);
    stats_emit_general(out, emit, ctx);
    free(out);
    return 0;
}

static void stats_general(struct session *s)
{
    session_reply(s, admin_emit_general(s->w->env, emit, s) == 0 ? REPLY_END : REPLY_OOM_STATS);
}

/* ---- stats: the other groups ---- */

static void stats_settings(struct session *s)
{
    settings_print_stats(s->w->env->settings, emit, s);
    session_reply(s, REPLY_END);
}

static void emit_class_items(struct session *s, const struct stats_sum *sum, unsigned cls)
{
    static const char *const hits[] = {
        [LRU_HOT] = "hits_to_hot", [LRU_WARM] = "hits_to_warm",
        [LRU_COLD] = "hits_to_cold", [LRU_TEMP] = "hits_to_temp",
    };
    const struct settings *set = s->w->env->settings;
    bool segmented = set->lru_segmented, maintained = set->lru_maintainer;
    struct cache_class_stats v;
    admin_class(s->w->env, cls, &v);
    if (v.number == 0)
        return;
#define LINE(name) emit_numbered(s, "items:", cls, #name, v.name)
    LINE(number);
    if (segmented) {
        LINE(number_hot), LINE(number_warm), LINE(number_cold);
        if (set->temp_lru)
            LINE(number_temp);
        LINE(age_hot), LINE(age_warm);
    }
    LINE(age), LINE(mem_requested), LINE(evicted), LINE(evicted_nonzero), LINE(evicted_time);
    LINE(outofmemory), LINE(tailrepairs), LINE(reclaimed), LINE(expired_unfetched);
    LINE(evicted_unfetched);
    if (segmented)
        LINE(evicted_active);
    LINE(crawler_reclaimed), LINE(crawler_items_checked), LINE(lrutail_reflocked);
    if (maintained) {
        LINE(moves_to_cold), LINE(moves_to_warm), LINE(moves_within_lru), LINE(direct_reclaims);
        for (unsigned seg = 0; seg < ARRAY_COUNT(hits); seg++)
            emit_numbered(s, "items:", cls, hits[seg], sum->lru_hits[lru_id_of(cls, seg)]);
    }
#undef LINE
}

static void stats_items(struct session *s)
{
    struct stats_sum *sum = malloc(sizeof(*sum));
    if (!sum) {
        session_reply(s, REPLY_OOM_STATS);
        return;
    }
    admin_threads(s->w->env, sum);
    unsigned count = slab_class_count(s->w->env->slab);
    for (unsigned cls = 1; cls <= count; cls++)
        emit_class_items(s, sum, cls);
    free(sum);
    session_reply(s, REPLY_END);
}

static void stats_slabs(struct session *s)
{
    const struct command_env *env = s->w->env;
    struct stats_sum *sum = malloc(sizeof(*sum));
    if (!sum) {
        session_reply(s, REPLY_OOM_STATS);
        return;
    }
    admin_threads(env, sum);
    unsigned active = 0, count = slab_class_count(env->slab);
    for (unsigned cls = 1; cls <= count; cls++) {
        struct slab_class_info v;
        slab_info(env->slab, cls, &v);
        if (v.total_pages == 0)
            continue;
        active++;
        emit_numbered(s, "", cls, "chunk_size", v.chunk_bytes);
        emit_numbered(s, "", cls, "chunks_per_page", v.chunks_per_page);
        emit_numbered(s, "", cls, "total_pages", v.total_pages);
        emit_numbered(s, "", cls, "total_chunks", v.total_chunks);
        emit_numbered(s, "", cls, "used_chunks", v.used_chunks);
        emit_numbered(s, "", cls, "free_chunks", v.free_chunks);
        emit_numbered(s, "", cls, "free_chunks_end", v.free_chunks_end);
        stats_emit_class(sum, cls, emit, s);
    }
    free(sum);
    emit(s, "active_slabs", "%u", active);
    emit(s, "total_malloced", "%" PRIu64, slab_taken_bytes(env->slab));
    session_reply(s, REPLY_END);
}

static void stats_sizes(struct session *s)
{
    const _Atomic(uint64_t) *sizes;
    size_t count = cache_sizes(s->w->env->cache, &sizes);
    if (!sizes)
        emit(s, "sizes_status", "disabled");
    for (size_t i = 0; sizes && i < count; i++) {
        uint64_t n = atomic_load_explicit((_Atomic(uint64_t) *)&sizes[i], memory_order_relaxed);
        char size[PROTO_U64_TEXT_MAX + 1];
        snprintf(size, sizeof(size), "%zu", i * 32);
        if (n)
            emit(s, size, "%" PRIu64, n);
    }
    session_reply(s, REPLY_END);
}

static void stats_extstore(struct session *s)
{
    struct extstore *ext = s->w->env->ext;
    unsigned count = ext ? ext_page_count(ext) : 0;
    for (unsigned page = 0; page < count; page++) {
        struct ext_page_info v;
        ext_page_info(ext, page, &v);
        emit_numbered(s, "", page, "version", v.state == EXT_PAGE_FREE ? 0 : v.version);
        emit_numbered(s, "", page, "bytes", v.bytes_used);
        emit_numbered(s, "", page, "bucket", v.bucket);
        emit_numbered(s, "", page, "free_bucket", v.free_bucket);
    }
    session_reply(s, REPLY_END);
}

static void emit_conn(void *ctx, int fd, const char *name, const char *text)
{
    char full[STAT_NAME_MAX];
    snprintf(full, sizeof(full), "%d:%s", fd, name);
    emit(ctx, full, "%s", text);
}

static void stats_conns(struct session *s)
{
    s->w->env->each_conn(s->w->env->upper, emit_conn, s);
    session_reply(s, REPLY_END);
}

/* Where the process's memory is. */
static void fill_resident(const struct command_env *env, const struct memory_heap *heap,
                          const struct ext_info *ext, struct stats_extant *out)
{
    struct memory_resident r;
    struct buffer_pool pool;
    memory_resident(&r);
    env->buffer_info(env->upper, &pool);
    uint64_t arena = arena_resident_bytes(env->arena);
    uint64_t mapped = r.file_bytes + r.shared_bytes, anonymous = r.anonymous_bytes;
    uint64_t *holds_arena = env->settings->memory_file ? &mapped : &anonymous;
    out->rss_bytes = anonymous + mapped;
    arena = min_u64(arena, *holds_arena); /* it has grown meanwhile */
    *holds_arena -= arena;
    out->resident_arena_bytes = arena;
    /* The allocator counts what nobody has written to, too. */
    out->resident_heap_bytes = min_u64(heap->resident_bytes, anonymous);
    out->resident_program_bytes = mapped;
    out->resident_other_bytes = anonymous - out->resident_heap_bytes;
    out->heap_allocated_bytes = heap->allocated_bytes;
    out->heap_values_bytes = ext->read_copies_bytes;
    out->heap_connections_bytes = pool.bytes + pool.responses * sizeof(struct pending) +
                                  atomic_load(&env->counters->curr_conns) * env->connection_bytes;
}

static void emit_ext_info(struct extstore *ext, stats_emit_fn emit, void *ctx)
{
    struct ext_info v;
    ext_info(ext, &v);
#define LINE(name) emit(ctx, "ext_" #name, "%" PRIu64, v.name)
    LINE(pages_bad), LINE(pages_lost), LINE(pages_back);
    LINE(read_errors), LINE(read_retries), LINE(read_short);
    LINE(write_errors), LINE(write_retries), LINE(write_moved), LINE(device_bytes_written), LINE(bytes_rewritten), LINE(pages_kept);
    LINE(write_mismatches);
    LINE(device_reads), LINE(buffer_hits), LINE(bad_checksums), LINE(evicted_index_full);
    LINE(reads_shared), LINE(reads_put_away), LINE(reads_waiting);
    LINE(objects_expired), LINE(objects_unread_dropped), LINE(wbufs_free), LINE(wbufs_busy);
    LINE(wbufs_stuck), LINE(page_table_bytes);
#undef LINE
    emit(ctx, "ext_degraded", "%s", v.degraded ? "yes" : "no");
    emit(ctx, "ext_degraded_why", "%s", v.degraded_why);
    emit(ctx, "ext_direct", "%s", v.direct ? "yes" : "no");
    emit(ctx, "ext_reconcile", "%" PRIu64, ext_reconcile(ext));
}

static void emit_checkpoint(const struct persist *persist, stats_emit_fn emit, void *ctx)
{
    struct persist_report v;
    persist_report(persist, &v);
    emit(ctx, "checkpoint_start", "%s", v.start);
    emit(ctx, "checkpoint_generation", "%" PRIu64, v.generation);
    emit(ctx, "checkpoint_objects", "%" PRIu64, v.objects);
    emit(ctx, "checkpoint_bytes", "%" PRIu64, v.bytes);
    emit(ctx, "checkpoint_seconds", "%.3f", (double)v.micros / 1e6);
}

/* Of one tier and command: half of the requests, and 99 of 100, took no longer than this. */
static void emit_latency(const struct command_env *env, enum latency_tier tier,
                         enum latency_command command, stats_emit_fn emit, void *ctx)
{
    struct histogram_sum sum;
    char name[64];
    admin_latency(env, tier, command, &sum);
    snprintf(name, sizeof(name), "latency_%s_%s_p50_us", latency_command_name(command),
             latency_tier_name(tier));
    emit(ctx, name, "%.1f", (double)histogram_quantile_ns(&sum, 0.5) / 1e3);
    snprintf(name, sizeof(name), "latency_%s_%s_p99_us", latency_command_name(command),
             latency_tier_name(tier));
    emit(ctx, name, "%.1f", (double)histogram_quantile_ns(&sum, 0.99) / 1e3);
}

static void emit_requests(const struct command_env *env, stats_emit_fn emit, void *ctx)
{
    struct stats_sum *sum = malloc(sizeof(*sum));
    char name[64];
    if (sum)
        admin_threads(env, sum);
    for (unsigned why = 0; sum && why < MISS_REASON_COUNT; why++) {
        snprintf(name, sizeof(name), "miss_%s", miss_reason_name(why));
        emit(ctx, name, "%" PRIu64, sum->misses[why]);
    }
    free(sum);
    emit_latency(env, LATENCY_RAM, LATENCY_GET, emit, ctx);
    emit_latency(env, LATENCY_FLASH, LATENCY_GET, emit, ctx);
    emit_latency(env, LATENCY_MISS, LATENCY_GET, emit, ctx);
    emit_latency(env, LATENCY_RAM, LATENCY_STORE, emit, ctx);
}

void admin_latency(const struct command_env *env, enum latency_tier tier,
                   enum latency_command command, struct histogram_sum *out)
{
    memset(out, 0, sizeof(*out));
    for (unsigned i = 0; i < env->thread_count; i++)
        histogram_sum_add(out, &env->thread_stats[i]->latency.cells[tier][command]);
}

void admin_emit_extant(const struct command_env *env, stats_emit_fn emit, void *ctx)
{
    struct cache_totals totals;
    struct index_info index;
    struct ext_info ext = {.engine = "none"};
    cache_totals(env->cache, &totals);
    index_info(env->index, &index);
    if (env->ext)
        ext_info(env->ext, &ext);
    uint64_t limit = env->settings->maxbytes;
    uint64_t pages = slab_pages_total(env->slab), pool = slab_pages_global(env->slab);
    uint64_t slab = (pages - min_u64(pages, pool)) * SLAB_PAGE_BYTES;
    uint64_t used = index.ram_count + index.flash_count;
    struct stats_extant out = {
        .extant_version = EXTANT_VERSION,
        .protocol_level = MEMCACHED_LEVEL,
        .io_engine = ext.engine,
        .memory_limit_bytes = limit,
        .memory_items_bytes = slab,
        .memory_index_bytes = index.bytes,
        .memory_free_bytes = limit - min_u64(limit, slab + index.bytes),
        .buffer_limit_bytes = ext.buffer_bytes,
        .buffer_used_bytes = arena_used_bytes(env->arena, ARENA_USE_BUFFER),
        .index_slots = index.slots,
        .index_used = used,
        .index_capacity_max = index_capacity(env->ext ? cache_index_limit(limit) : limit),
        .ram_items = totals.ram_items,
        .flash_objects = totals.flash_objects,
        .ram_bytes_per_flash_object =
            totals.flash_objects
                ? (double)(index.bytes + ext.page_table_bytes) / (double)max_u64(used, 1)
                : 0,
        .binary_rejected = atomic_load(&env->counters->binary_rejected),
    };
    struct memory_heap heap;
    memory_heap(&heap);
    out.allocator = heap.allocator;
    fill_resident(env, &heap, &ext, &out);
    stats_emit_extant(&out, emit, ctx);
    char progress[PROGRESS_TEXT_BYTES];
    progress_text(progress, sizeof(progress));
    emit(ctx, "progress", "%s", progress);
    emit(ctx, "arena_touched_bytes", "%" PRIu64, arena_touched_bytes(env->arena));
    emit(ctx, "slab_real_bytes", "%" PRIu64, slab_real_bytes(env->slab));
    emit(ctx, "index_tombstones", "%" PRIu64, index.tombstone_count);
    emit(ctx, "index_steps", "%" PRIu64, index.steps);
    emit(ctx, "index_displacements", "%" PRIu64, index.displacements);
    emit(ctx, "index_full_failures", "%" PRIu64, index.full_failures);
    emit(ctx, "index_tag_bits", "%u", index.tag_bits);
#define X(name, help) emit(ctx, #name, "%" PRIu64, totals.name);
    CACHE_COUNTER_TABLE(X)
#undef X
    if (env->ext)
        emit_ext_info(env->ext, emit, ctx);
    if (env->persist)
        emit_checkpoint(env->persist, emit, ctx);
    emit_requests(env, emit, ctx);
}

static void stats_extant(struct session *s)
{
    admin_emit_extant(s->w->env, emit, s);
    session_reply(s, REPLY_END);
}

static void stats_extents(struct session *s)
{
    space_emit(s->w->env, emit, s);
    session_reply(s, REPLY_END);
}

static void dump_item(void *ctx, const char *key, unsigned key_bytes, uint32_t value_bytes,
                      uint32_t exptime_sec)
{
    int64_t unix_sec = exptime_sec == CLOCK_NEVER_SEC ? 0 : clock_rel_to_unix(exptime_sec);
    char shown[PROTO_URI_KEY_MAX];
    int len = (int)proto_put_key(shown, key, key_bytes);
    session_printf(ctx, "ITEM %.*s [%u b; %" PRId64 " s]\r\n", len, shown, value_bytes, unix_sec);
}

static void stats_cachedump(struct session *s, const struct request *req)
{
    uint32_t cls, limit;
    if (!s->w->env->settings->dump_enabled) {
        session_reply(s, REPLY_CACHEDUMP_DENIED);
    } else if (req->token_count < 4) {
        session_reply(s, REPLY_BAD_LINE);
    } else if (!proto_token_u32(req, 2, &cls) || !proto_token_u32(req, 3, &limit)) {
        session_reply(s, REPLY_BAD_FORMAT);
    } else if (cls >= SLAB_CLASS_MAX) {
        session_reply(s, REPLY_CACHEDUMP_BAD_CLASS);
    } else {
        if (cls >= 1 && cls <= slab_class_count(s->w->env->slab))
            cache_dump_class(s->w->env->cache, cls, limit, dump_item, s);
        session_reply(s, REPLY_END);
    }
}

static void stats_detail(struct session *s, const struct request *req)
{
    const struct command_env *env = s->w->env;
    unsigned word = req->token_count < 3 ? 0 : 2; /* memcached looks at "stats" itself then */
    if (!env->settings->dump_enabled) {
        session_reply(s, REPLY_STATS_DETAIL_DENIED);
    } else if (proto_token_abbreviates(req, word, "on")) {
        env->settings->detail_enabled = true;
        session_reply(s, REPLY_OK);
    } else if (proto_token_abbreviates(req, word, "off")) {
        env->settings->detail_enabled = false;
        session_reply(s, REPLY_OK);
    } else if (proto_token_abbreviates(req, word, "dump")) {
        size_t len;
        char *text = prefixes_dump(env->prefixes, &len);
        if (!text) {
            session_reply(s, REPLY_OOM_STATS);
            return;
        }
        session_block(s, "detailed", text, len);
        free(text);
        session_reply(s, REPLY_END);
    } else {
        session_reply(s, REPLY_STATS_DETAIL_USAGE);
    }
}

static void do_stats(struct session *s, const struct request *req)
{
    /* abbreviations in memcached's order, then whole words */
    if (req->token_count == 1)
        stats_general(s);
    else if (proto_token_abbreviates(req, 1, "reset"))
        stats_reset(s);
    else if (proto_token_abbreviates(req, 1, "detail"))
        stats_detail(s, req);
    else if (proto_token_abbreviates(req, 1, "settings"))
        stats_settings(s);
    else if (proto_token_abbreviates(req, 1, "cachedump"))
        stats_cachedump(s, req);
    else if (proto_token_abbreviates(req, 1, "conns"))
        stats_conns(s);
    else if (proto_token_abbreviates(req, 1, "extstore"))
        stats_extstore(s);
    else if (proto_token_is(req, 1, "items"))
        stats_items(s);
    else if (proto_token_is(req, 1, "slabs"))
        stats_slabs(s);
    else if (proto_token_is(req, 1, "sizes"))
        stats_sizes(s);
    else if (proto_token_is(req, 1, "extant"))
        stats_extant(s);
    else if (proto_token_is(req, 1, "extents"))
        stats_extents(s);
    else
        session_reply(s, REPLY_ERROR);
}

/* ---- what changes something ---- */

static enum reply do_flush_all(struct session *s, const struct request *req)
{
    const struct command_env *env = s->w->env;
    stat_inc(s->w->stats, STAT_flush_cmds);
    if (!env->settings->flush_enabled)
        return REPLY_FLUSH_DENIED;
    if (req->deferred_error != REPLY_NONE)
        return req->deferred_error;
    uint32_t when = req->exptime > 0 ? clock_exptime(req->exptime) : 0;
    cache_flush_all(env->cache, when);
    env->settings->oldest_live_sec = (when ? when : clock_now_sec()) - 1;
    return REPLY_OK;
}

static enum reply do_verbosity(struct session *s, const struct request *req)
{
    uint32_t level = req->number > VERBOSITY_MAX ? VERBOSITY_MAX : req->number;
    s->w->env->settings->verbosity = level;
    log_set_level(log_level_of_verbosity((int)level));
    return REPLY_OK;
}

static enum reply do_memlimit(struct session *s, const struct request *req)
{
    const struct command_env *env = s->w->env;
    if (req->number < 8)
        return REPLY_MEMLIMIT_SMALL;
    if (req->number > 1000000000)
        return REPLY_MEMLIMIT_UNITS;
    if (cache_set_memlimit(env->cache, req->number * MiB) != 0)
        return REPLY_MEMLIMIT_BOUNDS;
    maint_wake(env->maint);
    log_info("maxbytes adjusted to %um", req->number);
    return REPLY_OK;
}

static enum command_result do_shutdown(struct session *s, const struct request *req)
{
    const struct command_env *env = s->w->env;
    if (!env->settings->shutdown_command) {
        session_reply(s, REPLY_SHUTDOWN_DENIED);
        return COMMAND_DONE;
    }
    if (req->deferred_error != REPLY_NONE) {
        session_reply(s, req->deferred_error);
        return COMMAND_DONE;
    }
    env->stop(env->upper, req->token_count == 2);
    return COMMAND_CLOSE;
}

static enum reply automove(struct settings *set, const struct request *req)
{
    double ratio;
    uint32_t number;
    if (proto_token_abbreviates(req, 2, "ratio")) {
        if (!proto_token_double(req, 3, &ratio))
            return REPLY_ERROR;
        set->slab_automove_ratio = ratio;
    } else if (proto_token_abbreviates(req, 2, "freeratio")) {
        if (!proto_token_double(req, 3, &ratio))
            return REPLY_ERROR;
        set->slab_automove_freeratio = ratio;
    } else if (proto_token_abbreviates(req, 2, "window")) {
        if (!proto_token_u32(req, 3, &number))
            return REPLY_BAD_FORMAT;
        if (number < 3 || number > 1800)
            return REPLY_AUTOMOVE_BAD_WINDOW;
        set->slab_automove_window = number;
    } else {
        if (!proto_token_u32(req, 2, &number))
            return REPLY_BAD_FORMAT;
        if (number > 2)
            return REPLY_ERROR;
        set->slab_automove = number;
    }
    return REPLY_OK;
}

static enum reply reassign(struct session *s, const struct request *req)
{
    static const enum reply replies[] = {
        [MAINT_REASSIGN_OK] = REPLY_OK,
        [MAINT_REASSIGN_BUSY] = REPLY_REASSIGN_BUSY,
        [MAINT_REASSIGN_BADCLASS] = REPLY_REASSIGN_BAD_CLASS,
        [MAINT_REASSIGN_NOSPARE] = REPLY_REASSIGN_NO_SPARE,
        [MAINT_REASSIGN_SAME] = REPLY_REASSIGN_SAME,
    };
    int32_t src, dst;
    if (!s->w->env->settings->slab_reassign)
        return REPLY_REASSIGN_DISABLED;
    if (!proto_token_i32(req, 2, &src) || !proto_token_i32(req, 3, &dst))
        return REPLY_BAD_FORMAT;
    return replies[maint_slab_reassign(s->w->env->maint, src, dst)];
}

static enum reply do_slabs(struct session *s, const struct request *req)
{
    if (req->token_count == 4 && proto_token_abbreviates(req, 1, "reassign"))
        return reassign(s, req);
    if (req->token_count >= 3 && proto_token_abbreviates(req, 1, "automove"))
        return automove(s->w->env->settings, req);
    return REPLY_ERROR;
}

static enum reply lru_tune(struct settings *set, const struct request *req)
{
    uint32_t hot, warm;
    double hot_factor, warm_factor;
    if (!proto_token_u32(req, 2, &hot) || !proto_token_u32(req, 3, &warm) ||
        !proto_token_double(req, 4, &hot_factor) || !proto_token_double(req, 5, &warm_factor))
        return REPLY_ERROR;
    if ((uint64_t)hot + warm > 80)
        return REPLY_LRU_BAD_PCT;
    if (hot_factor <= 0 || warm_factor <= 0)
        return REPLY_LRU_BAD_FACTOR;
    set->hot_lru_pct = hot;
    set->warm_lru_pct = warm;
    set->hot_max_factor = hot_factor;
    set->warm_max_factor = warm_factor;
    return REPLY_OK;
}

static enum reply do_lru(struct session *s, const struct request *req)
{
    struct settings *set = s->w->env->settings;
    int32_t ttl;
    if (req->token_count >= 6 && proto_token_abbreviates(req, 1, "tune"))
        return lru_tune(set, req);
    if (req->token_count < 3 || !set->lru_maintainer)
        return REPLY_ERROR;
    if (proto_token_abbreviates(req, 1, "mode")) {
        bool segmented = proto_token_is(req, 2, "segmented");
        if (!segmented && !proto_token_is(req, 2, "flat"))
            return REPLY_ERROR;
        set->lru_segmented = segmented;
        return REPLY_OK;
    }
    if (proto_token_abbreviates(req, 1, "temp_ttl")) {
        if (!proto_token_i32(req, 2, &ttl))
            return REPLY_ERROR;
        set->temp_lru = ttl >= 0;
        if (ttl >= 0)
            set->temporary_ttl = (uint32_t)ttl;
        return REPLY_OK;
    }
    return REPLY_ERROR;
}

/* One of the numbers that `extstore` tunes: into the settings, and the engine's copy. */
static enum reply tune_u32(const struct request *req, _Atomic(uint32_t) *setting,
                           _Atomic(uint32_t) *engine)
{
    uint32_t v;
    if (!proto_token_u32(req, 2, &v))
        return REPLY_ERROR;
    *setting = v;
    if (engine)
        *engine = v;
    return REPLY_OK;
}

/* Why it failed is said in the words that memcached has for a start with such files. */
static void do_refresh_certs(struct session *s, const struct request *req)
{
    const struct command_env *env = s->w->env;
    char why[512];
    if (!env->refresh_certs)
        session_answer(s, req, REPLY_ERROR);
    else if (env->refresh_certs(env->upper, why, sizeof(why)) == 0)
        session_answer(s, req, REPLY_OK);
    else if (!req->noreply)
        session_printf(s, "%s\r\n", why);
}

static enum reply do_extstore(struct session *s, const struct request *req)
{
    struct settings *set = s->w->env->settings;
    struct ext_tunables *tun = s->w->env->tunables;
    uint32_t number, limit;
    double real;
    enum reply reply = REPLY_ERROR;
    if (req->token_count < 3)
        return REPLY_ERROR;
    if (req->token_count > 3 && proto_token_abbreviates(req, 1, "free_memchunks")) {
        if (proto_token_u32(req, 2, &number) && proto_token_u32(req, 3, &limit) &&
            number < SLAB_CLASS_MAX)
            reply = REPLY_OK; /* long dead, still accepted */
    } else if (proto_token_abbreviates(req, 1, "item_size")) {
        reply = tune_u32(req, &set->ext_item_size, NULL);
    } else if (proto_token_abbreviates(req, 1, "item_age")) {
        reply = tune_u32(req, &set->ext_item_age, NULL);
    } else if (proto_token_abbreviates(req, 1, "low_ttl")) {
        reply = tune_u32(req, &set->ext_low_ttl, NULL);
    } else if (proto_token_abbreviates(req, 1, "recache_rate")) {
        reply = tune_u32(req, &set->ext_recache_rate, NULL);
    } else if (proto_token_abbreviates(req, 1, "compact_under")) {
        reply = tune_u32(req, &set->ext_compact_under, &tun->compact_under_pages);
    } else if (proto_token_abbreviates(req, 1, "drop_under")) {
        reply = tune_u32(req, &set->ext_drop_under, &tun->drop_under_pages);
    } else if (proto_token_abbreviates(req, 1, "max_sleep")) {
        reply = tune_u32(req, &set->ext_max_sleep, NULL);
    } else if (proto_token_abbreviates(req, 1, "max_frag")) {
        if (proto_token_double(req, 2, &real)) {
            set->ext_max_frag = real;
            tun->max_frag = real;
            reply = REPLY_OK;
        }
    } else if (proto_token_abbreviates(req, 1, "drop_unread")) {
        if (proto_token_u32(req, 2, &number)) {
            set->ext_drop_unread = number != 0;
            tun->drop_unread = number != 0;
            reply = REPLY_OK;
        }
    }
    maint_wake(s->w->env->maint);
    return reply;
}

static enum command_result do_watch(struct session *s, const struct request *req)
{
    static const char *const words[] = {
#define X(name, word) [name] = word,
        WATCH_STREAM_TABLE(X)
#undef X
    };
    uint32_t streams = req->token_count > 1 ? 0 : 1u << WATCH_FETCHERS;
    if (!s->w->env->settings->watch_enabled) {
        session_reply(s, REPLY_WATCH_DENIED);
        return COMMAND_DONE;
    }
    if (!reply_is_empty(&s->out)) {
        session_reply(s, REPLY_WATCH_PIPELINED);
        return COMMAND_DONE;
    }
    for (unsigned i = 1; i < req->token_count; i++) {
        unsigned stream = 0;
        while (stream < WATCH_STREAM_COUNT && !proto_token_abbreviates(req, i, words[stream]))
            stream++;
        if (stream == WATCH_STREAM_COUNT) {
            session_reply(s, REPLY_ERROR);
            return COMMAND_DONE;
        }
        streams |= 1u << stream;
    }
    s->handover = streams;
    return COMMAND_WATCH;
}

/* ---- lru_crawler ---- */

/* "all", "hash" or "1,5,6" as a set of classes; false: there is no such class. */
static bool parse_classes(const struct proto_token *t, bool dump, uint64_t *mask)
{
    const char *p = t->ptr, *end = t->ptr + t->len;
    if ((t->len == 3 && memcmp(p, "all", 3) == 0) ||
        (dump && t->len == 4 && memcmp(p, "hash", 4) == 0)) {
        *mask = UINT64_MAX;
        return true;
    }
    *mask = 0;
    while (p < end) {
        const char *comma = memchr(p, ',', (size_t)(end - p));
        size_t len = (size_t)((comma ? comma : end) - p);
        uint32_t cls;
        if (len == 0 || !proto_u32(p, len, &cls) || cls < 1 || cls >= SLAB_CLASS_MAX - 1)
            return false;
        *mask |= (uint64_t)1 << cls;
        p += len + (comma ? 1 : 0);
    }
    return *mask != 0;
}

static enum reply crawler_reply(enum crawler_result r)
{
    switch (r) {
    case CRAWLER_OK:
        return REPLY_OK;
    case CRAWLER_BUSY:
        return REPLY_CRAWLER_BUSY;
    case CRAWLER_DISABLED:
        return REPLY_CRAWLER_DISABLED;
    }
    return REPLY_CRAWLER_ERROR;
}

static enum reply crawl(struct session *s, const struct request *req)
{
    uint64_t mask;
    if (!s->w->env->settings->lru_crawler)
        return REPLY_CRAWLER_DISABLED;
    if (!parse_classes(&req->tokens[2], false, &mask))
        return REPLY_CRAWLER_BAD_CLASS;
    return crawler_reply(crawler_start(s->w->env->crawler, mask, CRAWLER_EXPIRE, NULL));
}

/* metadump, mgdump: REPLY_NONE if it may start. */
static enum reply prepare_dump(struct session *s, const struct request *req, enum crawler_job job)
{
    bool meta = job == CRAWLER_METADUMP;
    if (!s->w->env->settings->lru_crawler)
        return REPLY_CRAWLER_DISABLED;
    if (!s->w->env->settings->dump_enabled)
        return meta ? REPLY_METADUMP_DENIED : REPLY_MGDUMP_DENIED;
    if (!reply_is_empty(&s->out))
        return meta ? REPLY_METADUMP_PIPELINED : REPLY_MGDUMP_PIPELINED;
    if (!parse_classes(&req->tokens[2], true, &s->handover))
        return REPLY_CRAWLER_BAD_CLASS;
    s->dump_job = (uint8_t)job;
    return REPLY_NONE;
}

/* REPLY_NONE: a dump may start. */
static enum reply do_lru_crawler(struct session *s, const struct request *req)
{
    struct settings *set = s->w->env->settings;
    uint32_t number;
    if (req->token_count == 3) {
        if (proto_token_abbreviates(req, 1, "crawl"))
            return crawl(s, req);
        if (proto_token_abbreviates(req, 1, "metadump"))
            return prepare_dump(s, req, CRAWLER_METADUMP);
        if (proto_token_abbreviates(req, 1, "mgdump"))
            return prepare_dump(s, req, CRAWLER_MGDUMP);
        if (proto_token_abbreviates(req, 1, "tocrawl")) {
            if (!proto_token_u32(req, 2, &number))
                return REPLY_BAD_FORMAT;
            set->lru_crawler_tocrawl = number;
            return REPLY_OK;
        }
        if (proto_token_abbreviates(req, 1, "sleep")) {
            if (!proto_token_u32(req, 2, &number))
                return REPLY_BAD_FORMAT;
            if (number > 1000000)
                return REPLY_CRAWLER_BAD_SLEEP;
            set->lru_crawler_sleep = number;
            return REPLY_OK;
        }
    } else if (req->token_count == 2) {
        if (proto_token_abbreviates(req, 1, "enable")) {
            if (set->lru_crawler)
                return REPLY_CRAWLER_START_FAILED;
            set->lru_crawler = true;
            return REPLY_OK;
        }
        if (proto_token_abbreviates(req, 1, "disable")) {
            set->lru_crawler = false;
            return REPLY_OK;
        }
    }
    return REPLY_ERROR;
}

/* ---- debug commands ---- */

#ifdef EXTANT_DEBUG
static enum reply do_debugtime(const struct request *req)
{
    int64_t delta;
    if (proto_token_abbreviates(req, 1, "p"))
        clock_pause();
    else if (proto_token_abbreviates(req, 1, "r"))
        clock_resume();
    else if (proto_token_i64(req, 1, &delta))
        clock_shift(delta);
    else
        return REPLY_ERROR;
    return REPLY_OK;
}

static enum reply do_debugitem(struct session *s, const struct request *req)
{
    static const char *const words[] = {"lock", "unlock", "ref", "unref"};
    if (req->token_count < 3 || req->tokens[2].len > PROTO_KEY_MAX)
        return REPLY_ERROR;
    for (size_t i = 0; i < ARRAY_COUNT(words); i++)
        if (proto_token_abbreviates(req, 1, words[i]))
            return cache_debug_item(s->w->env->cache, words[i], req->tokens[2].ptr,
                                    (uint8_t)req->tokens[2].len)
                       ? REPLY_OK
                       : REPLY_MISS;
    return REPLY_ERROR;
}

/* Tries what drop_privileges forbids: ERROR if that can be done. */
static enum reply do_misbehave(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return REPLY_OK;
    close(fd);
    return REPLY_ERROR;
}
#endif

enum command_result command_admin(struct session *s, struct request *req)
{
    enum reply reply;
    switch (req->verb) {
    case VERB_STATS:
        do_stats(s, req);
        return COMMAND_DONE;
    case VERB_WATCH:
        return do_watch(s, req);
    case VERB_SHUTDOWN:
        return do_shutdown(s, req);
    case VERB_LRU_CRAWLER:
        reply = do_lru_crawler(s, req);
        if (reply == REPLY_NONE)
            return COMMAND_DUMP;
        break;
    case VERB_FLUSH_ALL:
        reply = do_flush_all(s, req);
        break;
    case VERB_VERBOSITY:
        reply = do_verbosity(s, req);
        break;
    case VERB_CACHE_MEMLIMIT:
        reply = do_memlimit(s, req);
        break;
    case VERB_SLABS:
        reply = do_slabs(s, req);
        break;
    case VERB_LRU:
        reply = do_lru(s, req);
        break;
    case VERB_EXTSTORE:
        reply = do_extstore(s, req);
        break;
    case VERB_REFRESH_CERTS:
        do_refresh_certs(s, req);
        return COMMAND_DONE;
#ifdef EXTANT_DEBUG
    case VERB_DEBUGTIME:
        reply = do_debugtime(req);
        break;
    case VERB_DEBUGITEM:
        reply = do_debugitem(s, req);
        break;
    case VERB_MISBEHAVE:
        reply = do_misbehave();
        break;
#endif
    default:
        reply = REPLY_ERROR;
    }
    session_answer(s, req, reply);
    return COMMAND_DONE;
}

/* ---- dumps ---- */

enum { DUMP_BUFFER_BYTES = 64 * 1024, DUMP_LINE_MAX = 1200, DUMP_POLL_MS = 100 };
/* There is one crawler: a client that takes nothing of its dump for this long loses it, and its connection,
 * so that others, and the hunt for what has expired, get their turn. */
enum { DUMP_PATIENCE_SEC = 30 };

/* Belongs to the crawler's thread once started. */
struct dump {
    const struct command_env *env;
    int fd;
    enum crawler_job job;
    bool broken;
    void (*over)(void *arg, bool alive);
    void *arg;
    size_t used;
    char buf[DUMP_BUFFER_BYTES];
};

/* Sends all of the buffer, waiting for the client. */
static void dump_flush(struct dump *d)
{
    size_t at = 0;
    uint32_t last_sec = clock_now_sec();
    while (!d->broken && at < d->used) {
        ssize_t n = send(d->fd, d->buf + at, d->used - at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n > 0) {
            at += (size_t)n;
            last_sec = clock_now_sec();
        } else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            struct pollfd p = {.fd = d->fd, .events = POLLOUT};
            lock_assert_none_held();
            poll(&p, 1, DUMP_POLL_MS);
            d->broken = atomic_load(&d->env->stopping) ||
                        clock_now_sec() - last_sec > DUMP_PATIENCE_SEC;
        } else if (n == 0 || errno != EINTR) {
            d->broken = true;
        }
    }
    d->used = 0;
}

static int put_metadump(char *out, size_t size, const struct cache_meta *m)
{
    char key[PROTO_URI_KEY_MAX + 1];
    key[proto_put_uri(key, m->key, m->key_bytes)] = '\0';
    int64_t exp = m->exptime_sec == CLOCK_NEVER_SEC ? -1 : clock_rel_to_unix(m->exptime_sec);
    int n = snprintf(out, size,
                     "key=%s exp=%" PRId64 " la=%" PRId64 " cas=%" PRIu64
                     " fetch=%s cls=%u size=%u flags=%u ",
                     key, exp, clock_rel_to_unix(m->time_sec), m->cas, m->fetched ? "yes" : "no",
                     m->slab_class, m->accounted_bytes, m->client_flags);
    if (m->on_flash)
        n += snprintf(out + n, size - (size_t)n, "ext_page=%u ext_offset=%u ", m->ext_page,
                      m->ext_offset);
    out[n++] = '\n';
    return n;
}

/* In base64 if it was given so, or no line could hold it; a zero byte is as good as any. */
static int put_mgdump(char *out, const struct cache_meta *m)
{
    memcpy(out, "mg ", 3);
    if (!m->binary_key && proto_key_is_word(m->key, m->key_bytes)) {
        memcpy(out + 3, m->key, m->key_bytes);
        memcpy(out + 3 + m->key_bytes, "\r\n", 2);
        return 3 + m->key_bytes + 2;
    }
    size_t n = 3 + base64_encode(out + 3, m->key, m->key_bytes);
    memcpy(out + n, " b\r\n", 4);
    return (int)n + 4;
}

static int dump_put(void *ctx, const struct cache_meta *m)
{
    struct dump *d = ctx;
    if (sizeof(d->buf) - d->used < DUMP_LINE_MAX)
        dump_flush(d);
    if (d->broken || atomic_load_explicit(&d->env->stopping, memory_order_relaxed))
        return -EPIPE;
    char *to = d->buf + d->used;
    size_t room = sizeof(d->buf) - d->used;
    d->used += (size_t)(d->job == CRAWLER_METADUMP ? put_metadump(to, room, m)
                                                   : put_mgdump(to, m));
    return 0;
}

static void dump_done(void *ctx, bool complete)
{
    struct dump *d = ctx;
    if (complete && !d->broken) {
        if (sizeof(d->buf) - d->used < DUMP_LINE_MAX)
            dump_flush(d);
        size_t len;
        const char *end = reply_line(d->job == CRAWLER_METADUMP ? REPLY_END : REPLY_EN, &len);
        memcpy(d->buf + d->used, end, len);
        d->used += len;
        dump_flush(d);
    }
    d->over(d->arg, complete && !d->broken);
    free(d);
}

enum reply command_dump(struct session *s, int fd, void (*over)(void *arg, bool alive), void *arg)
{
    struct dump *d = calloc(1, sizeof(*d));
    if (!d)
        return REPLY_CRAWLER_ERROR;
    d->env = s->w->env;
    d->fd = fd;
    d->job = (enum crawler_job)s->dump_job;
    d->over = over;
    d->arg = arg;
    const char *ok = reply_line(REPLY_OK, &d->used);
    memcpy(d->buf, ok, d->used);
    struct crawler_sink sink = {.ctx = d, .item = dump_put, .done = dump_done};
    enum crawler_result r = crawler_start(s->w->env->crawler, s->handover, d->job, &sink);
    if (r == CRAWLER_OK)
        return REPLY_NONE;
    free(d);
    return crawler_reply(r);
}
