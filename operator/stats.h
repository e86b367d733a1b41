/* operator/stats.h: the counters of threads, and the lines of `stats` in memcached's order.
 *
 * Each thread owns one struct thread_stats and is the only one that writes it;
 * others read it at any time with relaxed atomics, so a sum over threads may be
 * a few events behind but never torn, and no counter costs a lock or a locked
 * instruction. The caller reads figures that threads don't count (items, memory, flash)
 * from their modules and puts them into a stats_snapshot.
 *
 * `stats reset` does not touch the threads' counters: the caller keeps the sums of
 * that moment and subtracts them from later ones.
 *
 * No state here, no locks, never sleeps.
 */
#ifndef EXTANT_STATS_H
#define EXTANT_STATS_H

#include "base/base.h"
#include "operator/departed.h"
#include "operator/latency.h"

struct samples;

enum {
    STATS_CLASS_COUNT = 64, /* slab class ids 0..63 */
    STATS_SEGMENT_COUNT = 4,
    STATS_LRU_COUNT = STATS_CLASS_COUNT * STATS_SEGMENT_COUNT, /* lru id: class | segment << 6 */
};

/* Counters of a thread. name, what it counts */
#define STATS_COUNTER_TABLE(X)                                                                     \
    X(get_cmds, "keys asked for")                                                                  \
    X(touch_cmds, "keys touched")                                                                  \
    X(meta_cmds, "meta commands")                                                                  \
    X(flush_cmds, "flush_all commands")                                                            \
    X(get_misses, "keys asked for and not there")                                                  \
    X(get_expired, "of the misses: expired")                                                       \
    X(get_flushed, "of the misses: flushed")                                                       \
    X(get_extstore, "keys read from flash")                                                        \
    X(get_aborted_extstore, "reads of flash given up")                                             \
    X(get_oom_extstore, "reads of flash that found no memory")                                     \
    X(recache_from_extstore, "items brought back to memory")                                       \
    X(miss_from_extstore, "reads of flash that found the object gone")                             \
    X(badcrc_from_extstore, "reads of flash with a wrong checksum")                                \
    X(delete_misses, "deletes of what was not there")                                              \
    X(incr_misses, "")                                                                             \
    X(decr_misses, "")                                                                             \
    X(cas_misses, "")                                                                              \
    X(touch_misses, "")                                                                            \
    X(store_too_large, "values larger than -I")                                                    \
    X(store_no_memory, "values for which no memory was found")                                     \
    X(total_items, "items linked")                                                                 \
    X(auth_cmds, "log-ins tried")                                                                  \
    X(auth_errors, "log-ins refused")                                                              \
    X(idle_kicks, "connections closed for being idle")                                             \
    X(bytes_read, "bytes received")                                                                \
    X(bytes_written, "bytes sent")                                                                 \
    X(conn_yields, "times that a connection had used up its turn (-R)")                            \
    X(read_buf_oom, "read buffers not had")                                                        \
    X(response_obj_oom, "responses not had")                                                       \
    X(lru_bumps_dropped, "hits that did not move their item")
enum stat_id {
#define X(name, help) STAT_##name,
    STATS_COUNTER_TABLE(X)
#undef X
        STAT_COUNT
};

/* Counters of a thread and slab class, in the order of `stats slabs`. name, name there */
#define STATS_CLASS_TABLE(X)                                                                       \
    X(set_cmds, "cmd_set")                                                                         \
    X(delete_hits, "delete_hits")                                                                  \
    X(incr_hits, "incr_hits")                                                                      \
    X(decr_hits, "decr_hits")                                                                      \
    X(cas_hits, "cas_hits")                                                                        \
    X(cas_badval, "cas_badval")                                                                    \
    X(touch_hits, "touch_hits")
enum class_stat {
#define X(name, text) CSTAT_##name,
    STATS_CLASS_TABLE(X)
#undef X
        CSTAT_COUNT
};

/* Zeroed by its owner before use; written by its owner only. */
struct thread_stats {
    _Atomic(uint64_t) counters[STAT_COUNT];
    _Atomic(uint64_t) classes[STATS_CLASS_COUNT][CSTAT_COUNT];
    _Atomic(uint64_t) lru_hits[STATS_LRU_COUNT]; /* get hits, by lru id */
    _Atomic(uint64_t) misses[MISS_REASON_COUNT]; /* together STAT_get_misses */
    struct latency latency;
    struct samples *samples; /* of requested keys; NULL: not wanted. Const once threads run */
} CACHE_ALIGNED;

/* The owner's increment: a plain load, add and store. */
static inline void stat_own_add(_Atomic(uint64_t) *counter, uint64_t n)
{
    uint64_t v = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, v + n, memory_order_relaxed);
}
static inline void stat_add(struct thread_stats *t, enum stat_id id, uint64_t n)
{
    DEBUG_ASSERT(id < STAT_COUNT);
    stat_own_add(&t->counters[id], n);
}
static inline void stat_inc(struct thread_stats *t, enum stat_id id)
{
    DEBUG_ASSERT(id < STAT_COUNT);
    stat_own_add(&t->counters[id], 1);
}
static inline void stat_class_inc(struct thread_stats *t, unsigned cls, enum class_stat id)
{
    DEBUG_ASSERT(cls < STATS_CLASS_COUNT && id < CSTAT_COUNT);
    stat_own_add(&t->classes[cls][id], 1);
}
/* Counts a get that found nothing, and its reason. */
static inline void stat_miss(struct thread_stats *t, enum miss_reason why)
{
    DEBUG_ASSERT(why < MISS_REASON_COUNT);
    stat_inc(t, STAT_get_misses);
    stat_own_add(&t->misses[why], 1);
}
static inline void stat_lru_hit(struct thread_stats *t, uint8_t lru_id)
{
    stat_own_add(&t->lru_hits[lru_id], 1);
}

/* The sums over several threads. */
struct stats_sum {
    uint64_t counters[STAT_COUNT];
    uint64_t classes[STATS_CLASS_COUNT][CSTAT_COUNT];
    uint64_t lru_hits[STATS_LRU_COUNT];
    uint64_t misses[MISS_REASON_COUNT];
};

/* Adds the thread's present counts. Any thread. */
void stats_sum_add(struct stats_sum *sum, const struct thread_stats *t);
/* Subtracts the sums of a reset. Counters only grow, so no result is negative. */
void stats_sum_subtract(struct stats_sum *sum, const struct stats_sum *base);

uint64_t stats_sum_class_total(const struct stats_sum *sum, enum class_stat id);
uint64_t stats_sum_get_hits(const struct stats_sum *sum);                    /* of all classes */
uint64_t stats_sum_class_get_hits(const struct stats_sum *sum, unsigned cls); /* of all segments */

/* ---- `stats` ---- */

/* When a line is shown. */
enum stats_when {
    SHOWN_ALWAYS,
    SHOWN_WITH_IDLE,       /* idle_timeout is set */
    SHOWN_WITH_FLASH,      /* ext_path */
    SHOWN_WITH_REASSIGN,   /* slab_reassign */
    SHOWN_WITH_CRAWLER,    /* lru_crawler */
    SHOWN_WITH_MAINTAINER, /* lru_maintainer_thread */
    SHOWN_WITH_SEGMENTS,   /* lru_segmented */
    SHOWN_WITH_TLS,        /* -Z */
    SHOWN_WITH_TLS_SESSIONS, /* -Z and ssl_session_cache */
    SHOWN_COUNT
};

/* Every line of `stats`, in order. kind: COUNTER and CLASS are sums over the threads' counters
 * named in the fourth column, HITS is get_hits; the others are filled in by the caller: GAUGE a
 * number, TEXT, TIME microseconds shown as seconds, PERCENT with two decimals.
 * kind, name, shown, counter */
#define STATS_GENERAL_TABLE(X)                                                                     \
    X(GAUGE, pid, ALWAYS, 0)                                                                       \
    X(GAUGE, uptime, ALWAYS, 0)                                                                    \
    X(GAUGE, time, ALWAYS, 0)                                                                      \
    X(TEXT, version, ALWAYS, 0)                                                                    \
    X(TEXT, libevent, ALWAYS, 0)                                                                   \
    X(GAUGE, pointer_size, ALWAYS, 0)                                                              \
    X(TIME, rusage_user, ALWAYS, 0)                                                                \
    X(TIME, rusage_system, ALWAYS, 0)                                                              \
    X(GAUGE, max_connections, ALWAYS, 0)                                                           \
    X(GAUGE, curr_connections, ALWAYS, 0)                                                          \
    X(GAUGE, total_connections, ALWAYS, 0)                                                         \
    X(GAUGE, rejected_connections, ALWAYS, 0)                                                      \
    X(GAUGE, connection_structures, ALWAYS, 0)                                                     \
    X(COUNTER, response_obj_oom, ALWAYS, STAT_response_obj_oom)                                    \
    X(GAUGE, response_obj_count, ALWAYS, 0)                                                        \
    X(GAUGE, response_obj_bytes, ALWAYS, 0)                                                        \
    X(GAUGE, read_buf_count, ALWAYS, 0)                                                            \
    X(GAUGE, read_buf_bytes, ALWAYS, 0)                                                            \
    X(GAUGE, read_buf_bytes_free, ALWAYS, 0)                                                       \
    X(COUNTER, read_buf_oom, ALWAYS, STAT_read_buf_oom)                                            \
    X(GAUGE, reserved_fds, ALWAYS, 0)                                                              \
    X(COUNTER, cmd_get, ALWAYS, STAT_get_cmds)                                                     \
    X(CLASS, cmd_set, ALWAYS, CSTAT_set_cmds)                                                      \
    X(COUNTER, cmd_flush, ALWAYS, STAT_flush_cmds)                                                 \
    X(COUNTER, cmd_touch, ALWAYS, STAT_touch_cmds)                                                 \
    X(COUNTER, cmd_meta, ALWAYS, STAT_meta_cmds)                                                   \
    X(HITS, get_hits, ALWAYS, 0)                                                                   \
    X(COUNTER, get_misses, ALWAYS, STAT_get_misses)                                                \
    X(COUNTER, get_expired, ALWAYS, STAT_get_expired)                                              \
    X(COUNTER, get_flushed, ALWAYS, STAT_get_flushed)                                              \
    X(COUNTER, get_extstore, WITH_FLASH, STAT_get_extstore)                                        \
    X(COUNTER, get_aborted_extstore, WITH_FLASH, STAT_get_aborted_extstore)                        \
    X(COUNTER, get_oom_extstore, WITH_FLASH, STAT_get_oom_extstore)                                \
    X(COUNTER, recache_from_extstore, WITH_FLASH, STAT_recache_from_extstore)                      \
    X(COUNTER, miss_from_extstore, WITH_FLASH, STAT_miss_from_extstore)                            \
    X(COUNTER, badcrc_from_extstore, WITH_FLASH, STAT_badcrc_from_extstore)                        \
    X(COUNTER, delete_misses, ALWAYS, STAT_delete_misses)                                          \
    X(CLASS, delete_hits, ALWAYS, CSTAT_delete_hits)                                               \
    X(COUNTER, incr_misses, ALWAYS, STAT_incr_misses)                                              \
    X(CLASS, incr_hits, ALWAYS, CSTAT_incr_hits)                                                   \
    X(COUNTER, decr_misses, ALWAYS, STAT_decr_misses)                                              \
    X(CLASS, decr_hits, ALWAYS, CSTAT_decr_hits)                                                   \
    X(COUNTER, cas_misses, ALWAYS, STAT_cas_misses)                                                \
    X(CLASS, cas_hits, ALWAYS, CSTAT_cas_hits)                                                     \
    X(CLASS, cas_badval, ALWAYS, CSTAT_cas_badval)                                                 \
    X(CLASS, touch_hits, ALWAYS, CSTAT_touch_hits)                                                 \
    X(COUNTER, touch_misses, ALWAYS, STAT_touch_misses)                                            \
    X(COUNTER, store_too_large, ALWAYS, STAT_store_too_large)                                      \
    X(COUNTER, store_no_memory, ALWAYS, STAT_store_no_memory)                                      \
    X(COUNTER, auth_cmds, ALWAYS, STAT_auth_cmds)                                                  \
    X(COUNTER, auth_errors, ALWAYS, STAT_auth_errors)                                              \
    X(COUNTER, idle_kicks, WITH_IDLE, STAT_idle_kicks)                                             \
    X(COUNTER, bytes_read, ALWAYS, STAT_bytes_read)                                                \
    X(COUNTER, bytes_written, ALWAYS, STAT_bytes_written)                                          \
    X(GAUGE, limit_maxbytes, ALWAYS, 0)                                                            \
    X(GAUGE, accepting_conns, ALWAYS, 0)                                                           \
    X(GAUGE, listen_disabled_num, ALWAYS, 0)                                                       \
    X(GAUGE, time_in_listen_disabled_us, ALWAYS, 0)                                                \
    X(GAUGE, threads, ALWAYS, 0)                                                                   \
    X(COUNTER, conn_yields, ALWAYS, STAT_conn_yields)                                              \
    X(GAUGE, hash_power_level, ALWAYS, 0)                                                          \
    X(GAUGE, hash_bytes, ALWAYS, 0)                                                                \
    X(GAUGE, hash_is_expanding, ALWAYS, 0)                                                         \
    X(GAUGE, slab_reassign_rescues, WITH_REASSIGN, 0)                                              \
    X(GAUGE, slab_reassign_chunk_rescues, WITH_REASSIGN, 0)                                        \
    X(GAUGE, slab_reassign_inline_reclaim, WITH_REASSIGN, 0)                                       \
    X(GAUGE, slab_reassign_busy_items, WITH_REASSIGN, 0)                                           \
    X(GAUGE, slab_reassign_busy_deletes, WITH_REASSIGN, 0)                                         \
    X(GAUGE, slab_reassign_busy_nomem, WITH_REASSIGN, 0)                                           \
    X(TEXT, slab_reassign_last_busy_status, WITH_REASSIGN, 0)                                      \
    X(GAUGE, slab_reassign_running, WITH_REASSIGN, 0)                                              \
    X(GAUGE, slabs_moved, WITH_REASSIGN, 0)                                                        \
    X(GAUGE, lru_crawler_running, WITH_CRAWLER, 0)                                                 \
    X(GAUGE, lru_crawler_starts, WITH_CRAWLER, 0)                                                  \
    X(GAUGE, lru_maintainer_juggles, WITH_MAINTAINER, 0)                                           \
    X(GAUGE, malloc_fails, ALWAYS, 0)                                                              \
    X(GAUGE, log_worker_dropped, ALWAYS, 0)                                                        \
    X(GAUGE, log_worker_written, ALWAYS, 0)                                                        \
    X(GAUGE, log_watcher_skipped, ALWAYS, 0)                                                       \
    X(GAUGE, log_watcher_sent, ALWAYS, 0)                                                          \
    X(GAUGE, log_watchers, ALWAYS, 0)                                                              \
    X(PERCENT, extstore_memory_pressure, WITH_FLASH, 0)                                            \
    X(GAUGE, extstore_compact_lost, WITH_FLASH, 0)                                                 \
    X(GAUGE, extstore_compact_rescues, WITH_FLASH, 0)                                              \
    X(GAUGE, extstore_compact_resc_cold, WITH_FLASH, 0)                                            \
    X(GAUGE, extstore_compact_resc_old, WITH_FLASH, 0)                                             \
    X(GAUGE, extstore_compact_skipped, WITH_FLASH, 0)                                              \
    X(GAUGE, extstore_page_allocs, WITH_FLASH, 0)                                                  \
    X(GAUGE, extstore_page_evictions, WITH_FLASH, 0)                                               \
    X(GAUGE, extstore_page_reclaims, WITH_FLASH, 0)                                                \
    X(GAUGE, extstore_pages_free, WITH_FLASH, 0)                                                   \
    X(GAUGE, extstore_pages_used, WITH_FLASH, 0)                                                   \
    X(GAUGE, extstore_objects_evicted, WITH_FLASH, 0)                                              \
    X(GAUGE, extstore_objects_read, WITH_FLASH, 0)                                                 \
    X(GAUGE, extstore_objects_written, WITH_FLASH, 0)                                              \
    X(GAUGE, extstore_objects_used, WITH_FLASH, 0)                                                 \
    X(GAUGE, extstore_bytes_evicted, WITH_FLASH, 0)                                                \
    X(GAUGE, extstore_bytes_written, WITH_FLASH, 0)                                                \
    X(GAUGE, extstore_bytes_read, WITH_FLASH, 0)                                                   \
    X(GAUGE, extstore_bytes_used, WITH_FLASH, 0)                                                   \
    X(GAUGE, extstore_bytes_fragmented, WITH_FLASH, 0)                                             \
    X(GAUGE, extstore_limit_maxbytes, WITH_FLASH, 0)                                               \
    X(GAUGE, extstore_io_queue, WITH_FLASH, 0)                                                     \
    X(GAUGE, ssl_new_sessions, WITH_TLS_SESSIONS, 0)                                               \
    X(GAUGE, ssl_handshake_errors, WITH_TLS, 0)                                                    \
    X(GAUGE, ssl_proto_errors, WITH_TLS, 0)                                                        \
    X(GAUGE, time_since_server_cert_refresh, WITH_TLS, 0)                                          \
    X(GAUGE, unexpected_napi_ids, ALWAYS, 0)                                                       \
    X(GAUGE, round_robin_fallback, ALWAYS, 0)                                                      \
    X(GAUGE, bytes, ALWAYS, 0)                                                                     \
    X(GAUGE, curr_items, ALWAYS, 0)                                                                \
    X(COUNTER, total_items, ALWAYS, STAT_total_items)                                              \
    X(GAUGE, slab_global_page_pool, ALWAYS, 0)                                                     \
    X(GAUGE, expired_unfetched, ALWAYS, 0)                                                         \
    X(GAUGE, evicted_unfetched, ALWAYS, 0)                                                         \
    X(GAUGE, evicted_active, WITH_SEGMENTS, 0)                                                     \
    X(GAUGE, evictions, ALWAYS, 0)                                                                 \
    X(GAUGE, reclaimed, ALWAYS, 0)                                                                 \
    X(GAUGE, crawler_reclaimed, ALWAYS, 0)                                                         \
    X(GAUGE, crawler_items_checked, ALWAYS, 0)                                                     \
    X(GAUGE, lrutail_reflocked, ALWAYS, 0)                                                         \
    X(GAUGE, moves_to_cold, WITH_SEGMENTS, 0)                                                      \
    X(GAUGE, moves_to_warm, WITH_SEGMENTS, 0)                                                      \
    X(GAUGE, moves_within_lru, WITH_SEGMENTS, 0)                                                   \
    X(GAUGE, direct_reclaims, WITH_SEGMENTS, 0)                                                    \
    X(COUNTER, lru_bumps_dropped, WITH_SEGMENTS, STAT_lru_bumps_dropped)

#define STATS_FIELD_COUNTER(name)
#define STATS_FIELD_CLASS(name)
#define STATS_FIELD_HITS(name)
#define STATS_FIELD_GAUGE(name) uint64_t name;
#define STATS_FIELD_TIME(name) uint64_t name##_us;
#define STATS_FIELD_TEXT(name) const char *name;
#define STATS_FIELD_PERCENT(name) double name;

/* The values of `stats`. Zero it, fill it, emit it. */
struct stats_snapshot {
    struct stats_sum sum; /* of the worker threads */
    bool shown[SHOWN_COUNT]; /* by enum stats_when; SHOWN_ALWAYS needs no setting */
#define X(kind, name, when, id) STATS_FIELD_##kind(name)
    STATS_GENERAL_TABLE(X)
#undef X
};

/* One line: name, and the value as printf formats it. */
typedef void (*stats_emit_fn)(void *ctx, const char *name, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Passes the lines of `stats` to emit, in order. */
void stats_emit_general(const struct stats_snapshot *s, stats_emit_fn emit, void *ctx);

/* The lines of a class that threads count, as in `stats slabs`: "N:get_hits" ... */
void stats_emit_class(const struct stats_sum *sum, unsigned cls, stats_emit_fn emit, void *ctx);

/* ---- `stats extant` ---- */

/* Our own lines, in order; modules add their own tables after them. REAL is shown with
 * two decimals. kind, name, help */
#define STATS_EXTANT_TABLE(X)                                                                      \
    X(TEXT, extant_version, "version of this server")                                              \
    X(TEXT, protocol_level, "memcached whose answers it gives")                                    \
    X(TEXT, io_engine, "how flash is read and written: io_uring, threads or none")                    \
    X(GAUGE, rss_bytes, "memory of the process")                                                   \
    X(GAUGE, resident_arena_bytes, "of it: items, index, flash buffers and tables")                \
    X(GAUGE, resident_heap_bytes, "of it: what the allocator holds")                               \
    X(GAUGE, resident_program_bytes, "of it: program and libraries")                               \
    X(GAUGE, resident_other_bytes, "the rest: stacks, rings of the kernel")                        \
    X(TEXT, allocator, "behind malloc")                                                            \
    X(GAUGE, heap_allocated_bytes, "in use, of what the allocator holds")                          \
    X(GAUGE, heap_values_bytes, "of it: large values read from flash and not yet sent")            \
    X(GAUGE, heap_connections_bytes, "of it: connections, their read and reply buffers, all that OpenSSL has")           \
    X(GAUGE, memory_limit_bytes, "bound for items and index (-m)")                                 \
    X(GAUGE, memory_items_bytes, "of it, held by slab pages")                                      \
    X(GAUGE, memory_index_bytes, "of it, held by the index")                                       \
    X(GAUGE, memory_free_bytes, "of it, free")                                                     \
    X(GAUGE, buffer_limit_bytes, "bound for write and read buffers of flash")                      \
    X(GAUGE, buffer_used_bytes, "of it, used")                                                     \
    X(GAUGE, index_slots, "objects that the index has room for")                                   \
    X(GAUGE, index_used, "objects in it")                                                          \
    X(GAUGE, index_capacity_max, "objects that -m can index")                                      \
    X(GAUGE, ram_items, "objects in memory")                                                       \
    X(GAUGE, flash_objects, "objects on flash")                                                    \
    X(REAL, ram_bytes_per_flash_object, "memory that an object on flash costs")                    \
    X(REAL, flash_writes_per_day, "how often flash is written through in a day, at the rate since the start") \
    X(GAUGE, flash_lasts_days, "how long it lasts at that rate, as rated by ext_rated_writes; at most 36500; 0 without flash") \
    X(GAUGE, binary_rejected, "connections closed because they spoke the binary protocol under -B ascii")

#define STATS_FIELD_REAL(name) double name;
struct stats_extant {
#define X(kind, name, help) STATS_FIELD_##kind(name)
    STATS_EXTANT_TABLE(X)
#undef X
};

/* How long flash of this size lasts in days, if `written` bytes in `seconds` are its rate and it is rated for this many
 * writes of its whole size a day over five years; at most STATS_FLASH_LASTS_MAX_DAYS. *per_day: those of that rate. */
#define STATS_FLASH_LASTS_MAX_DAYS 36500u
uint64_t stats_flash_lasts_days(uint64_t written, uint64_t seconds, uint64_t flash_bytes, double rated, double *per_day);

void stats_emit_extant(const struct stats_extant *s, stats_emit_fn emit, void *ctx);

#endif
