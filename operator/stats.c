/* operator/stats.c: see operator/stats.h. */
#include "operator/stats.h"

static const char *const class_names[] = {
    STATS_CLASS_TABLE(ROW_TEXT)
};

static void add(uint64_t *to, const _Atomic(uint64_t) *counters, size_t count)
{
    for (size_t i = 0; i < count; i++)
        to[i] += atomic_load_explicit(&counters[i], memory_order_relaxed);
}

void stats_sum_add(struct stats_sum *sum, const struct thread_stats *t)
{
    add(sum->counters, t->counters, STAT_COUNT);
    for (unsigned cls = 0; cls < STATS_CLASS_COUNT; cls++)
        add(sum->classes[cls], t->classes[cls], CSTAT_COUNT);
    add(sum->lru_hits, t->lru_hits, STATS_LRU_COUNT);
    add(sum->misses, t->misses, MISS_REASON_COUNT);
}

static void subtract(uint64_t *from, const uint64_t *base, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        DEBUG_ASSERT(from[i] >= base[i]); /* they only grow */
        from[i] -= base[i];
    }
}

void stats_sum_subtract(struct stats_sum *sum, const struct stats_sum *base)
{
    subtract(sum->counters, base->counters, STAT_COUNT);
    for (unsigned cls = 0; cls < STATS_CLASS_COUNT; cls++)
        subtract(sum->classes[cls], base->classes[cls], CSTAT_COUNT);
    subtract(sum->lru_hits, base->lru_hits, STATS_LRU_COUNT);
    subtract(sum->misses, base->misses, MISS_REASON_COUNT);
}

uint64_t stats_sum_class_total(const struct stats_sum *sum, enum class_stat id)
{
    uint64_t n = 0;
    for (unsigned cls = 0; cls < STATS_CLASS_COUNT; cls++)
        n += sum->classes[cls][id];
    return n;
}

uint64_t stats_sum_class_get_hits(const struct stats_sum *sum, unsigned cls)
{
    uint64_t n = 0;
    ASSERT(cls < STATS_CLASS_COUNT);
    for (unsigned segment = 0; segment < STATS_SEGMENT_COUNT; segment++)
        n += sum->lru_hits[cls + segment * STATS_CLASS_COUNT];
    return n;
}

uint64_t stats_sum_get_hits(const struct stats_sum *sum)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < STATS_LRU_COUNT; i++)
        n += sum->lru_hits[i];
    return n;
}

void stats_emit_class(const struct stats_sum *sum, unsigned cls, stats_emit_fn emit, void *ctx)
{
    char name[32];
    snprintf(name, sizeof(name), "%u:get_hits", cls);
    emit(ctx, name, "%" PRIu64, stats_sum_class_get_hits(sum, cls));
    for (unsigned i = 0; i < CSTAT_COUNT; i++) {
        snprintf(name, sizeof(name), "%u:%s", cls, class_names[i]);
        emit(ctx, name, "%" PRIu64, sum->classes[cls][i]);
    }
}

uint64_t stats_flash_lasts_days(uint64_t written, uint64_t seconds, uint64_t flash_bytes, double rated, double *per_day)
{
    DEBUG_ASSERT(flash_bytes > 0);
    *per_day = (double)written / (double)max_u64(seconds, 1) * 86400 / (double)flash_bytes;
    double days = *per_day > 0 ? 5 * 365 * rated / *per_day : STATS_FLASH_LASTS_MAX_DAYS;
    return days < STATS_FLASH_LASTS_MAX_DAYS ? (uint64_t)days : STATS_FLASH_LASTS_MAX_DAYS;
}
