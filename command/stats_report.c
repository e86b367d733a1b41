/* command/stats_report.c: see command/stats_report.h. */
#include "command/stats_report.h"

#include <event2/event.h>
#include <stdarg.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/lock.h"
#include "base/progress.h"
#include "command/encode.h"
#include "command/space.h"
#include "crawler.h"
#include "items/lru.h"
#include "maint_thread.h"

enum { STAT_NAME_MAX = 128 };

static_assert(SLAB_CLASS_MAX <= STATS_CLASS_COUNT, "threads count for every class");

struct report {
    uint64_t written_before; /* to flash, before this process; const */
    struct lock lock;
    /* under lock: the figures at the last `stats reset` */
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
    DEBUG_ASSERT(strlen(group) + strlen(name) + 12 < STAT_NAME_MAX);
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

/* After another thread's reset in between the figure may be lower. */
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

void report_threads(const struct command_env *env, struct stats_sum *sum)
{
    lock_assert_none_held();
    lock_take(&env->report->lock);
    sum_threads(env, sum); /* after a reset that another thread has just made */
    stats_sum_subtract(sum, &env->report->threads);
    lock_release(&env->report->lock);
}

/* What the cache, the log and flash have counted since then. memcached resets the counters of its flusher, but not those of
 * its flash engine; `watchers` is a gauge. */
static void grown_since_reset(const struct command_env *env, struct report_figures *f)
{
    lock_assert_none_held();
    cache_totals(env->cache, &f->totals);
    watch_info(&f->watch);
    if (env->ext)
        ext_info(env->ext, &f->ext);
    const struct report *then = env->report;
    lock_take(&env->report->lock);
#define X(name, help) subtract(&f->totals.name, then->totals.name);
    CACHE_COUNTER_TABLE(X)
#undef X
    subtract_class(&f->totals.sum, &then->totals.sum);
    subtract(&f->watch.worker_dropped, then->watch.worker_dropped);
    subtract(&f->watch.worker_written, then->watch.worker_written);
    subtract(&f->watch.watcher_skipped, then->watch.watcher_skipped);
    subtract(&f->watch.watcher_sent, then->watch.watcher_sent);
    subtract(&f->ext.compact_lost, then->ext.compact_lost);
    subtract(&f->ext.compact_rescues, then->ext.compact_rescues);
    subtract(&f->ext.compact_resc_cold, then->ext.compact_resc_cold);
    subtract(&f->ext.compact_resc_old, then->ext.compact_resc_old);
    subtract(&f->ext.compact_skipped, then->ext.compact_skipped);
    lock_release(&env->report->lock);
}

void report_class(const struct command_env *env, unsigned cls, struct cache_class_stats *out)
{
    lock_assert_none_held();
    DEBUG_ASSERT(cls > 0 && cls < SLAB_CLASS_MAX);
    cache_class_stats(env->cache, cls, out);
    lock_take(&env->report->lock);
    subtract_class(out, &env->report->classes[cls]);
    lock_release(&env->report->lock);
}

static enum reply stats_reset(struct session *s, const struct request *req UNUSED)
{
    lock_assert_none_held();
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

/* When a line is shown. */
#define SHOWN_ALWAYS true
#define SHOWN_WITH_IDLE (f->settings->idle_timeout > 0)
#define SHOWN_WITH_FLASH f->has_flash
#define SHOWN_WITH_REASSIGN f->settings->slab_reassign
#define SHOWN_WITH_CRAWLER f->settings->lru_crawler
#define SHOWN_WITH_MAINTAINER f->settings->lru_maintainer
#define SHOWN_WITH_SEGMENTS f->settings->lru_segmented
#define SHOWN_WITH_TLS f->settings->ssl_enabled
#define SHOWN_WITH_TLS_SESSIONS (f->settings->ssl_enabled && f->settings->ssl_session_cache)

/* Every line of `stats`, in memcached's order; TIME is shown in seconds. memcached leaves one listener out of
 * curr_connections. kind, name, shown, value */
#define GENERAL_TABLE(X)                                                                           \
    X(GAUGE, pid, ALWAYS, f->pid)                                                                  \
    X(GAUGE, uptime, ALWAYS, f->uptime_sec)                                                        \
    X(GAUGE, time, ALWAYS, f->unix_sec)                                                            \
    X(TEXT, version, ALWAYS, MEMCACHED_LEVEL)                                                      \
    X(TEXT, libevent, ALWAYS, event_get_version())                                                 \
    X(GAUGE, pointer_size, ALWAYS, 8 * sizeof(void *))                                             \
    X(TIME, rusage_user, ALWAYS, f->usage.ru_utime)                                                \
    X(TIME, rusage_system, ALWAYS, f->usage.ru_stime)                                              \
    X(GAUGE, max_connections, ALWAYS, f->settings->maxconns)                                       \
    X(GAUGE, curr_connections, ALWAYS, f->open_conns - (f->open_conns > 0))                        \
    X(GAUGE, total_connections, ALWAYS, f->counters->total_conns)                                  \
    X(GAUGE, rejected_connections, ALWAYS, f->counters->rejected_conns)                            \
    X(GAUGE, connection_structures, ALWAYS, f->open_conns)                                         \
    X(GAUGE, response_obj_oom, ALWAYS, f->sum.counters[STAT_response_obj_oom])                     \
    X(GAUGE, response_obj_count, ALWAYS, f->pool.responses)                                        \
    X(GAUGE, response_obj_bytes, ALWAYS, f->pool.responses * sizeof(struct pending))               \
    X(GAUGE, read_buf_count, ALWAYS, f->pool.buffers)                                              \
    X(GAUGE, read_buf_bytes, ALWAYS, f->pool.bytes)                                                \
    X(GAUGE, read_buf_bytes_free, ALWAYS, f->pool.spare * REPLY_BUFFER_BYTES)                      \
    X(GAUGE, read_buf_oom, ALWAYS, f->sum.counters[STAT_read_buf_oom])                             \
    X(GAUGE, reserved_fds, ALWAYS, f->reserved_fds)                                                \
    X(GAUGE, cmd_get, ALWAYS, f->sum.counters[STAT_get_cmds])                                      \
    X(GAUGE, cmd_set, ALWAYS, stats_sum_class_total(&f->sum, CSTAT_set_cmds))                      \
    X(GAUGE, cmd_flush, ALWAYS, f->sum.counters[STAT_flush_cmds])                                  \
    X(GAUGE, cmd_touch, ALWAYS, f->sum.counters[STAT_touch_cmds])                                  \
    X(GAUGE, cmd_meta, ALWAYS, f->sum.counters[STAT_meta_cmds])                                    \
    X(GAUGE, get_hits, ALWAYS, stats_sum_get_hits(&f->sum))                                        \
    X(GAUGE, get_misses, ALWAYS, f->sum.counters[STAT_get_misses])                                 \
    X(GAUGE, get_expired, ALWAYS, f->sum.counters[STAT_get_expired])                               \
    X(GAUGE, get_flushed, ALWAYS, f->sum.counters[STAT_get_flushed])                               \
    X(GAUGE, get_extstore, WITH_FLASH, f->sum.counters[STAT_get_extstore])                         \
    X(GAUGE, get_aborted_extstore, WITH_FLASH, f->sum.counters[STAT_get_aborted_extstore])         \
    X(GAUGE, get_oom_extstore, WITH_FLASH, f->sum.counters[STAT_get_oom_extstore])                 \
    X(GAUGE, recache_from_extstore, WITH_FLASH, f->sum.counters[STAT_recache_from_extstore])       \
    X(GAUGE, miss_from_extstore, WITH_FLASH, f->sum.counters[STAT_miss_from_extstore])             \
    X(GAUGE, badcrc_from_extstore, WITH_FLASH, f->sum.counters[STAT_badcrc_from_extstore])         \
    X(GAUGE, delete_misses, ALWAYS, f->sum.counters[STAT_delete_misses])                           \
    X(GAUGE, delete_hits, ALWAYS, stats_sum_class_total(&f->sum, CSTAT_delete_hits))               \
    X(GAUGE, incr_misses, ALWAYS, f->sum.counters[STAT_incr_misses])                               \
    X(GAUGE, incr_hits, ALWAYS, stats_sum_class_total(&f->sum, CSTAT_incr_hits))                   \
    X(GAUGE, decr_misses, ALWAYS, f->sum.counters[STAT_decr_misses])                               \
    X(GAUGE, decr_hits, ALWAYS, stats_sum_class_total(&f->sum, CSTAT_decr_hits))                   \
    X(GAUGE, cas_misses, ALWAYS, f->sum.counters[STAT_cas_misses])                                 \
    X(GAUGE, cas_hits, ALWAYS, stats_sum_class_total(&f->sum, CSTAT_cas_hits))                     \
    X(GAUGE, cas_badval, ALWAYS, stats_sum_class_total(&f->sum, CSTAT_cas_badval))                 \
    X(GAUGE, touch_hits, ALWAYS, stats_sum_class_total(&f->sum, CSTAT_touch_hits))                 \
    X(GAUGE, touch_misses, ALWAYS, f->sum.counters[STAT_touch_misses])                             \
    X(GAUGE, store_too_large, ALWAYS, f->sum.counters[STAT_store_too_large])                       \
    X(GAUGE, store_no_memory, ALWAYS, f->sum.counters[STAT_store_no_memory])                       \
    X(GAUGE, auth_cmds, ALWAYS, f->sum.counters[STAT_auth_cmds])                                   \
    X(GAUGE, auth_errors, ALWAYS, f->sum.counters[STAT_auth_errors])                               \
    X(GAUGE, idle_kicks, WITH_IDLE, f->sum.counters[STAT_idle_kicks])                              \
    X(GAUGE, bytes_read, ALWAYS, f->sum.counters[STAT_bytes_read])                                 \
    X(GAUGE, bytes_written, ALWAYS, f->sum.counters[STAT_bytes_written])                           \
    X(GAUGE, limit_maxbytes, ALWAYS, f->settings->maxbytes)                                        \
    X(GAUGE, accepting_conns, ALWAYS, f->counters->accepting)                                      \
    X(GAUGE, listen_disabled_num, ALWAYS, f->counters->listen_disabled_num)                        \
    X(GAUGE, time_in_listen_disabled_us, ALWAYS, f->counters->listen_disabled_us)                  \
    X(GAUGE, threads, ALWAYS, f->thread_count)                                                     \
    X(GAUGE, conn_yields, ALWAYS, f->sum.counters[STAT_conn_yields])                               \
    X(GAUGE, hash_power_level, ALWAYS, f->hash_power_level)                                        \
    X(GAUGE, hash_bytes, ALWAYS, f->index.bytes)                                                   \
    X(GAUGE, hash_is_expanding, ALWAYS, 0)                                                         \
    X(GAUGE, slab_reassign_rescues, WITH_REASSIGN, f->totals.slab_reassign_rescues)                \
    X(GAUGE, slab_reassign_chunk_rescues, WITH_REASSIGN, f->totals.slab_reassign_chunk_rescues)    \
    X(GAUGE, slab_reassign_inline_reclaim, WITH_REASSIGN, 0)                                       \
    X(GAUGE, slab_reassign_busy_items, WITH_REASSIGN, f->totals.slab_reassign_busy_items)          \
    X(GAUGE, slab_reassign_busy_deletes, WITH_REASSIGN, 0)                                         \
    X(GAUGE, slab_reassign_busy_nomem, WITH_REASSIGN, f->totals.slab_reassign_evictions)           \
    X(TEXT, slab_reassign_last_busy_status, WITH_REASSIGN, f->busy_status)                         \
    X(GAUGE, slab_reassign_running, WITH_REASSIGN, f->is_reassigning)                              \
    X(GAUGE, slabs_moved, WITH_REASSIGN, f->totals.slabs_moved)                                    \
    X(GAUGE, lru_crawler_running, WITH_CRAWLER, f->is_crawling)                                    \
    X(GAUGE, lru_crawler_starts, WITH_CRAWLER, f->totals.lru_crawler_starts)                       \
    X(GAUGE, lru_maintainer_juggles, WITH_MAINTAINER, f->totals.lru_maintainer_juggles)            \
    X(GAUGE, malloc_fails, ALWAYS, 0)                                                              \
    X(GAUGE, log_worker_dropped, ALWAYS, f->watch.worker_dropped)                                  \
    X(GAUGE, log_worker_written, ALWAYS, f->watch.worker_written)                                  \
    X(GAUGE, log_watcher_skipped, ALWAYS, f->watch.watcher_skipped)                                \
    X(GAUGE, log_watcher_sent, ALWAYS, f->watch.watcher_sent)                                      \
    X(GAUGE, log_watchers, ALWAYS, f->watch.watchers)                                              \
    X(REAL, extstore_memory_pressure, WITH_FLASH, f->memory_pressure)                              \
    X(GAUGE, extstore_compact_lost, WITH_FLASH, f->ext.compact_lost)                               \
    X(GAUGE, extstore_compact_rescues, WITH_FLASH, f->ext.compact_rescues)                         \
    X(GAUGE, extstore_compact_resc_cold, WITH_FLASH, f->ext.compact_resc_cold)                     \
    X(GAUGE, extstore_compact_resc_old, WITH_FLASH, f->ext.compact_resc_old)                       \
    X(GAUGE, extstore_compact_skipped, WITH_FLASH, f->ext.compact_skipped)                         \
    X(GAUGE, extstore_page_allocs, WITH_FLASH, f->ext.page_allocs)                                 \
    X(GAUGE, extstore_page_evictions, WITH_FLASH, f->ext.page_evictions)                           \
    X(GAUGE, extstore_page_reclaims, WITH_FLASH, f->ext.page_reclaims)                             \
    X(GAUGE, extstore_pages_free, WITH_FLASH, f->ext.pages_free)                                   \
    X(GAUGE, extstore_pages_used, WITH_FLASH, f->ext.pages_used)                                   \
    X(GAUGE, extstore_objects_evicted, WITH_FLASH, f->ext.objects_evicted)                         \
    X(GAUGE, extstore_objects_read, WITH_FLASH, f->ext.objects_read)                               \
    X(GAUGE, extstore_objects_written, WITH_FLASH, f->ext.objects_written)                         \
    X(GAUGE, extstore_objects_used, WITH_FLASH, f->ext.objects_used)                               \
    X(GAUGE, extstore_bytes_evicted, WITH_FLASH, f->ext.bytes_evicted)                             \
    X(GAUGE, extstore_bytes_written, WITH_FLASH, f->ext.bytes_written)                             \
    X(GAUGE, extstore_bytes_read, WITH_FLASH, f->ext.bytes_read)                                   \
    X(GAUGE, extstore_bytes_used, WITH_FLASH, f->ext.bytes_used)                                   \
    X(GAUGE, extstore_bytes_fragmented, WITH_FLASH, f->ext.bytes_fragmented)                       \
    X(GAUGE, extstore_limit_maxbytes, WITH_FLASH, f->ext.limit_maxbytes)                           \
    X(GAUGE, extstore_io_queue, WITH_FLASH, f->ext.io_queue)                                       \
    X(GAUGE, ssl_new_sessions, WITH_TLS_SESSIONS, f->counters->tls_new_sessions)                   \
    X(GAUGE, ssl_handshake_errors, WITH_TLS, f->counters->tls_handshake_errors)                    \
    X(GAUGE, ssl_proto_errors, WITH_TLS, f->counters->tls_proto_errors)                            \
    X(GAUGE, time_since_server_cert_refresh, WITH_TLS, clock_now_sec() - f->counters->certs_loaded_sec)\
    X(GAUGE, unexpected_napi_ids, ALWAYS, f->counters->unexpected_napi_ids)                        \
    X(GAUGE, round_robin_fallback, ALWAYS, f->counters->round_robin_fallback)                      \
    X(GAUGE, bytes, ALWAYS, f->totals.bytes)                                                       \
    X(GAUGE, curr_items, ALWAYS, f->totals.curr_items)                                             \
    X(GAUGE, total_items, ALWAYS, f->sum.counters[STAT_total_items])                               \
    X(GAUGE, slab_global_page_pool, ALWAYS, f->pages_global)                                       \
    X(GAUGE, expired_unfetched, ALWAYS, f->totals.sum.expired_unfetched)                           \
    X(GAUGE, evicted_unfetched, ALWAYS, f->totals.sum.evicted_unfetched)                           \
    X(GAUGE, evicted_active, WITH_SEGMENTS, f->totals.sum.evicted_active)                          \
    X(GAUGE, evictions, ALWAYS, f->totals.sum.evicted)                                             \
    X(GAUGE, reclaimed, ALWAYS, f->totals.sum.reclaimed)                                           \
    X(GAUGE, crawler_reclaimed, ALWAYS, f->totals.sum.crawler_reclaimed)                           \
    X(GAUGE, crawler_items_checked, ALWAYS, f->totals.sum.crawler_items_checked)                   \
    X(GAUGE, lrutail_reflocked, ALWAYS, f->totals.sum.lrutail_reflocked)                           \
    X(GAUGE, moves_to_cold, WITH_SEGMENTS, f->totals.sum.moves_to_cold)                            \
    X(GAUGE, moves_to_warm, WITH_SEGMENTS, f->totals.sum.moves_to_warm)                            \
    X(GAUGE, moves_within_lru, WITH_SEGMENTS, f->totals.sum.moves_within_lru)                      \
    X(GAUGE, direct_reclaims, WITH_SEGMENTS, f->totals.sum.direct_reclaims)                        \
    X(GAUGE, lru_bumps_dropped, WITH_SEGMENTS, f->sum.counters[STAT_lru_bumps_dropped])

#define EMIT_GAUGE(name, v) emit(ctx, #name, "%" PRIu64, (uint64_t)(v))
#define EMIT_TIME(name, v) emit(ctx, #name, "%ld.%06ld", (long)(v).tv_sec, (long)(v).tv_usec)
#define EMIT_TEXT(name, v) emit(ctx, #name, "%s", v)
#define EMIT_REAL(name, v) emit(ctx, #name, "%.2f", v)

void report_emit_general(const struct report_figures *f, stats_emit_fn emit, void *ctx)
{
    DEBUG_ASSERT(f->settings && f->counters && f->busy_status);
#define X(kind, name, when, value)                                                                 \
    if (SHOWN_##when)                                                                              \
        EMIT_##kind(name, value);
    GENERAL_TABLE(X)
#undef X
}

void report_emit_extant(const struct report_figures *f, stats_emit_fn emit, void *ctx)
{
    DEBUG_ASSERT(f->settings && f->counters && f->ext.engine);
#define X(kind, name, value, help) EMIT_##kind(name, value);
    REPORT_EXTANT_TABLE(X)
#undef X
}

/* What both have: the caller has read totals, watch, sum and ext, as they are or as they have grown since a reset. */
static void read_figures(const struct command_env *env, struct report_figures *f)
{
    DEBUG_ASSERT(env->thread_count > 0 && env->report);
    struct server_counters *n = env->counters;
    f->settings = env->settings;
    f->counters = n;
    f->has_flash = env->ext != NULL;
    f->pid = (uint64_t)getpid();
    f->uptime_sec = clock_uptime_sec() - CLOCK_START_REL_SEC;
    f->unix_sec = (uint64_t)clock_wall_now_sec();
    f->open_conns = atomic_load(&n->curr_conns) + atomic_load(&n->listeners);
    f->reserved_fds = env->reserved_fds;
    f->thread_count = env->thread_count;
    f->busy_status = maint_busy_status(env->maint);
    f->is_reassigning = maint_reassign_is_running(env->maint);
    f->is_crawling = crawler_is_running(env->crawler);
    f->pages_global = slab_pages_global(env->slab);
    getrusage(RUSAGE_SELF, &f->usage);
    env->buffer_info(env->upper, &f->pool);
    index_info(env->index, &f->index);
}

void report_general(const struct command_env *env, stats_emit_fn emit, void *ctx)
{
    struct report_figures f = {.ext = {.engine = "none"}};
    uint64_t capacity = index_capacity(cache_index_limit(env->settings->maxbytes));
    report_threads(env, &f.sum);
    grown_since_reset(env, &f);
    read_figures(env, &f);
    while (((uint64_t)1 << (f.hash_power_level + 1)) <= f.index.slots)
        f.hash_power_level++;
    if (capacity)
        f.memory_pressure = 100.0 * (double)(f.totals.ram_items + f.totals.flash_objects) / (double)capacity;
    report_emit_general(&f, emit, ctx);
}

/* ---- stats: the other groups ---- */

static enum reply stats_settings(struct session *s, const struct request *req UNUSED)
{
    settings_print_stats(s->w->env->settings, emit, s);
    return REPLY_END;
}

static void emit_class_items(struct session *s, const struct stats_sum *sum, unsigned cls)
{
    DEBUG_ASSERT(cls > 0 && cls < SLAB_CLASS_MAX);
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
    struct stats_sum sum;
    report_threads(s->w->env, &sum);
    unsigned count = slab_class_count(s->w->env->slab);
    for (unsigned cls = 1; cls <= count; cls++)
        emit_class_items(s, &sum, cls);
    return REPLY_END;
}

static enum reply stats_slabs(struct session *s, const struct request *req UNUSED)
{
    const struct command_env *env = s->w->env;
    struct stats_sum sum;
    report_threads(env, &sum);
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
        stats_emit_class(&sum, cls, emit, s);
    }
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
    DEBUG_ASSERT(fd >= 0);
    char full[STAT_NAME_MAX];
    snprintf(full, sizeof(full), "%d:%s", fd, name);
    emit(ctx, full, "%s", text);
}

static enum reply stats_conns(struct session *s, const struct request *req UNUSED)
{
    lock_assert_none_held();
    s->w->env->each_conn(s->w->env->upper, emit_conn, s);
    return REPLY_END;
}

/* The uses of the resident memory of the process. */
static void read_resident(const struct command_env *env, struct report_figures *f)
{
    struct memory_resident r;
    memory_resident(&r);
    uint64_t mapped = r.file_bytes + r.shared_bytes, anonymous = r.anonymous_bytes;
    uint64_t *holds_arena = env->settings->memory_file ? &mapped : &anonymous;
    f->resident.rss = anonymous + mapped;
    f->resident.arena = min_u64(arena_resident_bytes(env->arena), *holds_arena); /* it may have grown in between */
    *holds_arena -= f->resident.arena;
    /* The allocator also counts memory that was never written to. */
    f->resident.heap = min_u64(f->heap.resident_bytes, anonymous);
    f->resident.program = mapped;
    f->resident.other = anonymous - f->resident.heap;
    DEBUG_ASSERT(f->resident.rss == f->resident.arena + f->resident.heap + f->resident.program + f->resident.other);
    f->conns_bytes = f->pool.bytes + f->pool.responses * sizeof(struct pending) +
                     atomic_load(&env->counters->curr_conns) * env->connection_bytes +
                     (env->tls_bytes ? env->tls_bytes() : 0);
}

static void emit_ext_info(struct extstore *ext, stats_emit_fn emit, void *ctx)
{
    struct ext_info v;
    ext_info(ext, &v);
#define X(kind, name, help) emit(ctx, "ext_" #name, "%" PRIu64, v.name);
    REPORT_FLASH_TABLE(X)
#undef X
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
    struct stats_sum sum;
    char name[64];
    report_threads(env, &sum);
    for (unsigned why = 0; why < MISS_REASON_COUNT; why++) {
        snprintf(name, sizeof(name), "miss_%s", miss_reason_name(why));
        emit(ctx, name, "%" PRIu64, sum.misses[why]);
    }
    emit_latency(env, LATENCY_RAM, LATENCY_GET, emit, ctx);
    emit_latency(env, LATENCY_FLASH, LATENCY_GET, emit, ctx);
    emit_latency(env, LATENCY_MISS, LATENCY_GET, emit, ctx);
    emit_latency(env, LATENCY_RAM, LATENCY_STORE, emit, ctx);
}

void report_latency(const struct command_env *env, enum latency_tier tier,
                   enum latency_command command, struct histogram_sum *out)
{
    DEBUG_ASSERT(tier < LATENCY_TIERS && command < LATENCY_COMMANDS);
    memset(out, 0, sizeof(*out));
    for (unsigned i = 0; i < env->thread_count; i++)
        histogram_sum_add(out, &env->thread_stats[i]->latency.cells[tier][command]);
}

void report_extant(const struct command_env *env, stats_emit_fn emit, void *ctx)
{
    struct report_figures f = {.ext = {.engine = "none"}};
    const struct settings *set = env->settings;
    cache_totals(env->cache, &f.totals);
    if (env->ext)
        ext_info(env->ext, &f.ext);
    read_figures(env, &f);
    memory_heap(&f.heap);
    read_resident(env, &f);
    uint64_t pages = slab_pages_total(env->slab), used = f.index.ram_count + f.index.flash_count;
    f.items_bytes = (pages - min_u64(pages, f.pages_global)) * SLAB_PAGE_BYTES;
    f.buffer_used_bytes = arena_used_bytes(env->arena, ARENA_USE_BUFFER);
    f.index_capacity_max = index_capacity(env->ext ? cache_index_limit(set->maxbytes) : set->maxbytes);
    f.memory_is_short = arena_is_short(env->arena);
    f.memory_available_bytes = cache_memory_bytes(env->cache);
    f.memory_refusals = arena_refusals(env->arena);
    if (f.totals.flash_objects)
        f.bytes_per_flash_object = (double)(f.index.bytes + f.ext.page_table_bytes) / (double)max_u64(used, 1);
    if (env->ext)
        f.lasts_days = stats_flash_lasts_days(
            f.ext.device_bytes_written - min_u64(f.ext.device_bytes_written, env->report->written_before), f.uptime_sec,
            settings_ext_page_count(set) * set->ext_page_size, set->ext_rated_writes, &f.writes_per_day);
    report_emit_extant(&f, emit, ctx);
    char progress[PROGRESS_TEXT_BYTES];
    progress_text(progress, sizeof(progress));
    emit(ctx, "progress", "%s", progress);
    emit(ctx, "arena_touched_bytes", "%" PRIu64, arena_touched_bytes(env->arena));
    emit(ctx, "slab_real_bytes", "%" PRIu64, slab_real_bytes(env->slab));
    emit(ctx, "index_tombstones", "%" PRIu64, f.index.tombstone_count);
    emit(ctx, "index_steps", "%" PRIu64, f.index.steps);
    emit(ctx, "index_displacements", "%" PRIu64, f.index.displacements);
    emit(ctx, "index_full_failures", "%" PRIu64, f.index.full_failures);
    emit(ctx, "index_tag_bits", "%u", f.index.tag_bits);
#define X(name, help) emit(ctx, #name, "%" PRIu64, f.totals.name);
    CACHE_COUNTER_TABLE(X)
#undef X
    if (env->ext)
        emit_ext_info(env->ext, emit, ctx);
    if (env->persist)
        emit_checkpoint(env->persist, emit, ctx);
    emit_requests(env, emit, ctx);
}

static void dump_item(void *ctx, const char *key, unsigned key_bytes, uint32_t value_bytes,
                      uint32_t exptime_sec)
{
    DEBUG_ASSERT(key_bytes > 0 && key_bytes <= PROTO_KEY_MAX);
    int64_t unix_sec = exptime_sec == CLOCK_NEVER_SEC ? 0 : clock_rel_to_wall(exptime_sec);
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
    enum reply (*answer)(struct session *s, const struct request *req); /* NULL: these lines, and END */
    void (*lines)(const struct command_env *env, stats_emit_fn emit, void *ctx);
} groups[] = {
    {"reset", true, stats_reset, NULL},
    {"detail", true, stats_detail, NULL},
    {"settings", true, stats_settings, NULL},
    {"cachedump", true, stats_cachedump, NULL},
    {"conns", true, stats_conns, NULL},
    {"extstore", true, stats_extstore, NULL},
    {"items", false, stats_items, NULL},
    {"slabs", false, stats_slabs, NULL},
    {"sizes", false, stats_sizes, NULL},
    {"extant", false, NULL, report_extant},
    {"extents", false, NULL, space_emit},
};

void report_answer(struct session *s, const struct request *req)
{
    DEBUG_ASSERT(req->verb == VERB_STATS && req->token_count > 0);
    enum reply reply = REPLY_END;
    size_t i = 0;
    while (i < ARRAY_COUNT(groups) && !(groups[i].may_abbreviate ? proto_token_abbreviates(req, 1, groups[i].word)
                                                                 : proto_token_is(req, 1, groups[i].word)))
        i++;
    if (req->token_count == 1)
        report_general(s->w->env, emit, s);
    else if (i == ARRAY_COUNT(groups))
        reply = REPLY_ERROR;
    else if (groups[i].answer)
        reply = groups[i].answer(s, req);
    else
        groups[i].lines(s->w->env, emit, s);
    session_reply(s, reply);
}
