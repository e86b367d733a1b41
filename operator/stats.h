/* operator/stats.h: the counters of threads, and their sums. command/stats_report.h shows them, with the figures that
 * threads don't count.
 *
 * Each thread owns one struct thread_stats and is the only one that writes it;
 * others read it at any time with relaxed atomics, so a sum over threads may be
 * a few events behind but never torn, and no counter costs a lock or a locked
 * instruction.
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

static inline void stat_add(struct thread_stats *t, enum stat_id id, uint64_t n)
{
    DEBUG_ASSERT(id < STAT_COUNT);
    add_own(&t->counters[id], (int64_t)n);
}
static inline void stat_inc(struct thread_stats *t, enum stat_id id)
{
    DEBUG_ASSERT(id < STAT_COUNT);
    add_own(&t->counters[id], 1);
}
static inline void stat_class_inc(struct thread_stats *t, unsigned cls, enum class_stat id)
{
    DEBUG_ASSERT(cls < STATS_CLASS_COUNT && id < CSTAT_COUNT);
    add_own(&t->classes[cls][id], 1);
}
/* Counts a get that found nothing, and its reason. */
static inline void stat_miss(struct thread_stats *t, enum miss_reason why)
{
    DEBUG_ASSERT(why < MISS_REASON_COUNT);
    stat_inc(t, STAT_get_misses);
    add_own(&t->misses[why], 1);
}
static inline void stat_lru_hit(struct thread_stats *t, uint8_t lru_id)
{
    add_own(&t->lru_hits[lru_id], 1);
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

/* ---- lines ---- */

/* One line: name, and the value as printf formats it. */
typedef void (*stats_emit_fn)(void *ctx, const char *name, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* The lines of a class that threads count, as in `stats slabs`: "N:get_hits" ... */
void stats_emit_class(const struct stats_sum *sum, unsigned cls, stats_emit_fn emit, void *ctx);

/* How long flash of this size lasts in days, if `written` bytes in `seconds` are its rate and it is rated for this many
 * writes of its whole size a day over five years; at most STATS_FLASH_LASTS_MAX_DAYS. *per_day: those of that rate. */
#define STATS_FLASH_LASTS_MAX_DAYS 36500u
uint64_t stats_flash_lasts_days(uint64_t written, uint64_t seconds, uint64_t flash_bytes, double rated, double *per_day);

#endif
