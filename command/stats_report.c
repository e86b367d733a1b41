/* command/stats_report.c: see command/stats_report.h. */
#include "command/stats_report.h"

#include <event2/event.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/lock.h"
#include "base/memory.h"
#include "base/progress.h"
#include "command/encode.h"
#include "command/space.h"
#include "crawler.h"
#include "items/lru.h"
#include "maint_thread.h"
#include "operator/watch.h"

enum { STAT_NAME_MAX = 128 };

struct report {
    uint64_t written_before; /* to flash, before this process; const */
    struct lock lock;
    /* under lock: what there was at the last `stats reset` */
    struct stats_sum threads;
    struct cache_totals totals;
    struct cache_class_stats classes[SLAB_CLASS_MAX];
    struct watch_info watch;
    struct ext_info ext; /* of its counters, those in memcached's own statistics */
};

struct report *report_create(struct extstore *ext)
{
    struct ext_info info = {0};
    struct report *r = calloc(1, sizeof(*r));
    if (!r)
        return NULL;
    lock_init(&r->lock, LOCK_STATS);
    if (ext)
        ext_info(ext, &info);
    r->written_before = info.device_bytes_written;
    return r;
}

void report_destroy(struct report *r)
{
    if (!r)
        return;
    lock_destroy(&r->lock);
    free(r);
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
    DEBUG_ASSERT(n >= 0);
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
    DEBUG_ASSERT(env->thread_count > 0);
    for (unsigned i = 0; i < env->thread_count; i++)
        stats_sum_add(sum, env->thread_stats[i]);
}

/* With another thread's reset in between there may be less than there was. */
static void subtract(uint64_t *from, uint64_t then)
{
    *from -= min_u64(*from, then);
}

/* The counters of a class; gauges are left as they are. */
static void subtract_class(struct cache_class_stats *a, const struct cache_class_stats *b)
{
#define X(n) subtract(&a->n, b->n);
    CACHE_ITEM_STATS(X)
#undef X
}

static void subtract_totals(struct cache_totals *a, const struct cache_totals *b)
{
#define X(name, help) subtract(&a->name, b->name);
    CACHE_COUNTER_TABLE(X)
#undef X
    subtract_class(&a->sum, &b->sum);
}

void report_threads(const struct command_env *env, struct stats_sum *sum)
{
    lock_take(&env->report->lock);
    sum_threads(env, sum); /* after a reset that another thread has just made */
    stats_sum_subtract(sum, &env->report->threads);
    lock_release(&env->report->lock);
}

static void totals_since_reset(const struct command_env *env, struct cache_totals *totals)
{
    cache_totals(env->cache, totals);
    lock_take(&env->report->lock);
    subtract_totals(totals, &env->report->totals);
    lock_release(&env->report->lock);
}

/* `watchers` is a gauge. */
static void watch_since_reset(const struct command_env *env, struct watch_info *out)
{
    watch_info(out);
    lock_take(&env->report->lock);
    const struct watch_info *then = &env->report->watch;
    subtract(&out->worker_dropped, then->worker_dropped);
    subtract(&out->worker_written, then->worker_written);
    subtract(&out->watcher_skipped, then->watcher_skipped);
    subtract(&out->watcher_sent, then->watcher_sent);
    lock_release(&env->report->lock);
}

/* memcached resets what its flusher counts, and not what its flash engine counts. */
static void ext_since_reset(const struct command_env *env, struct ext_info *out)
{
    ext_info(env->ext, out);
    lock_take(&env->report->lock);
    const struct ext_info *then = &env->report->ext;
    subtract(&out->compact_lost, then->compact_lost);
    subtract(&out->compact_rescues, then->compact_rescues);
    subtract(&out->compact_resc_cold, then->compact_resc_cold);
    subtract(&out->compact_resc_old, then->compact_resc_old);
    subtract(&out->compact_skipped, then->compact_skipped);
    lock_release(&env->report->lock);
}

void report_class(const struct command_env *env, unsigned cls, struct cache_class_stats *out)
{
    DEBUG_ASSERT(cls > 0 && cls < SLAB_CLASS_MAX);
    cache_class_stats(env->cache, cls, out);
    lock_take(&env->report->lock);
    subtract_class(out, &env->report->classes[cls]);
    lock_release(&env->report->lock);
}

static enum reply stats_reset(struct session *s, const struct request *req UNUSED)
{
    const struct command_env *env = s->w->env;
    struct report *now = calloc(1, sizeof(*now));
    if (!now)
        return REPLY_OOM_STATS;
    sum_threads(env, &now->threads);
    cache_totals(env->cache, &now->totals);
    for (unsigned cls = 1; cls <= slab_class_count(env->slab); cls++)
        cache_class_stats(env->cache, cls, &now->classes[cls]);
    watch_info(&now->watch);
    if (env->ext)
        ext_info(env->ext, &now->ext);
    struct report *r = env->report;
    lock_take(&r->lock);
    r->threads = now->threads;
    r->totals = now->totals;
    memcpy(r->classes, now->classes, sizeof(r->classes));
    r->watch = now->watch;
    r->ext = now->ext;
    lock_release(&r->lock);
    free(now);
    struct server_counters *n = env->counters;
    _Atomic(uint64_t) *const cleared[] = {
        &n->total_conns,          &n->rejected_conns,   &n->listen_disabled_num, &n->listen_disabled_us, &n->tls_new_sessions,
        &n->tls_handshake_errors, &n->tls_proto_errors, &n->unexpected_napi_ids, &n->round_robin_fallback,
    };
    for (size_t i = 0; i < ARRAY_COUNT(cleared); i++)
        atomic_store(cleared[i], 0);
    prefixes_clear(env->prefixes);
    return REPLY_RESET;
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

int report_general(const struct command_env *env, stats_emit_fn emit, void *ctx)
{
    struct stats_snapshot *out = calloc(1, sizeof(*out));
    if (!out)
        return -ENOMEM;
    const struct settings *set = env->settings;
    report_threads(env, &out->sum);
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

static enum reply stats_general(struct session *s, const struct request *req UNUSED)
{
    return report_general(s->w->env, emit, s) == 0 ? REPLY_END : REPLY_OOM_STATS;
}

/* ---- stats: the other groups ---- */

static enum reply stats_settings(struct session *s, const struct request *req UNUSED)
{
    settings_print_stats(s->w->env->settings, emit, s);
    return REPLY_END;
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
    report_class(s->w->env, cls, &v);
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

static enum reply stats_items(struct session *s, const struct request *req UNUSED)
{
    struct stats_sum *sum = malloc(sizeof(*sum));
    if (!sum)
        return REPLY_OOM_STATS;
    report_threads(s->w->env, sum);
    unsigned count = slab_class_count(s->w->env->slab);
    for (unsigned cls = 1; cls <= count; cls++)
        emit_class_items(s, sum, cls);
    free(sum);
    return REPLY_END;
}

static enum reply stats_slabs(struct session *s, const struct request *req UNUSED)
{
    const struct command_env *env = s->w->env;
    struct stats_sum *sum = malloc(sizeof(*sum));
    if (!sum)
        return REPLY_OOM_STATS;
    report_threads(env, sum);
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
    return REPLY_END;
}

static enum reply stats_sizes(struct session *s, const struct request *req UNUSED)
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
    return REPLY_END;
}

static enum reply stats_extstore(struct session *s, const struct request *req UNUSED)
{
    struct extstore *ext = s->w->env->ext;
    unsigned count = ext ? ext_page_count(ext) : 0;
    for (unsigned page = 0; page < count; page++) {
        struct ext_page_info v;
        ext_page_info(ext, page, &v);
        if (v.device == EXT_NO_DEVICE)
            continue;
        emit_numbered(s, "", page, "version", v.state == EXT_PAGE_FREE ? 0 : v.version);
        emit_numbered(s, "", page, "bytes", v.bytes_used);
        emit_numbered(s, "", page, "bucket", v.bucket);
        emit_numbered(s, "", page, "free_bucket", v.free_bucket);
    }
    return REPLY_END;
}

static void emit_conn(void *ctx, int fd, const char *name, const char *text)
{
    char full[STAT_NAME_MAX];
    snprintf(full, sizeof(full), "%d:%s", fd, name);
    emit(ctx, full, "%s", text);
}

static enum reply stats_conns(struct session *s, const struct request *req UNUSED)
{
    s->w->env->each_conn(s->w->env->upper, emit_conn, s);
    return REPLY_END;
}

/* What the resident memory of the process is used for. */
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
    arena = min_u64(arena, *holds_arena); /* it may have grown in between */
    *holds_arena -= arena;
    out->resident_arena_bytes = arena;
    /* The allocator also counts memory that was never written to. */
    out->resident_heap_bytes = min_u64(heap->resident_bytes, anonymous);
    out->resident_program_bytes = mapped;
    out->resident_other_bytes = anonymous - out->resident_heap_bytes;
    out->heap_allocated_bytes = heap->allocated_bytes;
    out->heap_values_bytes = ext->read_copies_bytes;
    out->heap_connections_bytes = pool.bytes + pool.responses * sizeof(struct pending) +
                                  atomic_load(&env->counters->curr_conns) * env->connection_bytes +
                                  (env->tls_bytes ? env->tls_bytes() : 0);
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

/* The median and the 99th percentile of one tier and command. */
static void emit_latency(const struct command_env *env, enum latency_tier tier,
                         enum latency_command command, stats_emit_fn emit, void *ctx)
{
    static const int percents[] = {50, 99};
    struct histogram_sum sum;
    char name[64];
    report_latency(env, tier, command, &sum);
    for (size_t i = 0; i < ARRAY_COUNT(percents); i++) {
        snprintf(name, sizeof(name), "latency_%s_%s_p%d_us", latency_command_name(command),
                 latency_tier_name(tier), percents[i]);
        emit(ctx, name, "%.1f", (double)histogram_quantile_ns(&sum, percents[i] / 100.0) / 1e3);
    }
}

static void emit_requests(const struct command_env *env, stats_emit_fn emit, void *ctx)
{
    struct stats_sum *sum = malloc(sizeof(*sum));
    char name[64];
    if (sum)
        report_threads(env, sum);
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

void report_latency(const struct command_env *env, enum latency_tier tier,
                   enum latency_command command, struct histogram_sum *out)
{
    memset(out, 0, sizeof(*out));
    for (unsigned i = 0; i < env->thread_count; i++)
        histogram_sum_add(out, &env->thread_stats[i]->latency.cells[tier][command]);
}

void report_extant(const struct command_env *env, stats_emit_fn emit, void *ctx)
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
    if (env->ext)
        out.flash_lasts_days = stats_flash_lasts_days(
            ext.device_bytes_written - min_u64(ext.device_bytes_written, env->report->written_before),
            clock_uptime_sec() - CLOCK_START_REL_SEC, settings_ext_page_count(env->settings) * env->settings->ext_page_size,
            env->settings->ext_rated_writes, &out.flash_writes_per_day);
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

static enum reply stats_extant(struct session *s, const struct request *req UNUSED)
{
    report_extant(s->w->env, emit, s);
    return REPLY_END;
}

static enum reply stats_extents(struct session *s, const struct request *req UNUSED)
{
    space_emit(s->w->env, emit, s);
    return REPLY_END;
}

static void dump_item(void *ctx, const char *key, unsigned key_bytes, uint32_t value_bytes,
                      uint32_t exptime_sec)
{
    int64_t unix_sec = exptime_sec == CLOCK_NEVER_SEC ? 0 : clock_rel_to_unix(exptime_sec);
    char shown[PROTO_URI_KEY_MAX];
    int len = (int)proto_put_key(shown, key, key_bytes);
    session_printf(ctx, "ITEM %.*s [%u b; %" PRId64 " s]\r\n", len, shown, value_bytes, unix_sec);
}

static enum reply stats_cachedump(struct session *s, const struct request *req)
{
    uint32_t cls, limit;
    if (!s->w->env->settings->dump_enabled)
        return REPLY_CACHEDUMP_DENIED;
    if (req->token_count < 4)
        return REPLY_BAD_LINE;
    if (!proto_token_u32(req, 2, &cls) || !proto_token_u32(req, 3, &limit))
        return REPLY_BAD_FORMAT;
    if (cls >= SLAB_CLASS_MAX)
        return REPLY_CACHEDUMP_BAD_CLASS;
    if (cls >= 1 && cls <= slab_class_count(s->w->env->slab))
        cache_dump_class(s->w->env->cache, cls, limit, dump_item, s);
    return REPLY_END;
}

static enum reply stats_detail(struct session *s, const struct request *req)
{
    const struct command_env *env = s->w->env;
    unsigned word = req->token_count < 3 ? 0 : 2; /* memcached looks at "stats" itself then */
    bool on = proto_token_abbreviates(req, word, "on");
    if (!env->settings->dump_enabled)
        return REPLY_STATS_DETAIL_DENIED;
    if (on || proto_token_abbreviates(req, word, "off")) {
        env->settings->detail_enabled = on;
        return REPLY_OK;
    }
    if (!proto_token_abbreviates(req, word, "dump"))
        return REPLY_STATS_DETAIL_USAGE;
    size_t len;
    char *text = prefixes_dump(env->prefixes, &len);
    if (!text)
        return REPLY_OOM_STATS;
    session_block(s, "detailed", text, len);
    free(text);
    return REPLY_END;
}

/* The groups, in memcached's order: first those whose names may be abbreviated. */
static const struct {
    const char *word;
    bool may_abbreviate;
    enum reply (*answer)(struct session *s, const struct request *req);
} groups[] = {
    {"reset", true, stats_reset},
    {"detail", true, stats_detail},
    {"settings", true, stats_settings},
    {"cachedump", true, stats_cachedump},
    {"conns", true, stats_conns},
    {"extstore", true, stats_extstore},
    {"items", false, stats_items},
    {"slabs", false, stats_slabs},
    {"sizes", false, stats_sizes},
    {"extant", false, stats_extant},
    {"extents", false, stats_extents},
};

void report_answer(struct session *s, const struct request *req)
{
    enum reply reply = REPLY_ERROR;
    size_t i = 0;
    while (i < ARRAY_COUNT(groups) && !(groups[i].may_abbreviate ? proto_token_abbreviates(req, 1, groups[i].word)
                                                                 : proto_token_is(req, 1, groups[i].word)))
        i++;
    if (req->token_count == 1)
        reply = stats_general(s, req);
    else if (i < ARRAY_COUNT(groups))
        reply = groups[i].answer(s, req);
    session_reply(s, reply);
}
