/* load_hist.h: a log-linear latency histogram for the load generator.
 *
 * Nanoseconds go to buckets of 1/64 of their octave, so a reported quantile is
 * at most 1.6% above the true one; minimum, maximum and sum are exact. Values
 * up to 2^42 ns (73 minutes) have buckets of their own, longer ones share the last.
 * No locks: the load generator has one thread.
 */
#ifndef LOAD_HIST_H
#define LOAD_HIST_H

#include <stdint.h>

#define HIST_SUB_BITS 6
#define HIST_SUB_COUNT (1u << HIST_SUB_BITS)
#define HIST_MAX_BITS 42
#define HIST_BUCKET_COUNT ((HIST_MAX_BITS - HIST_SUB_BITS + 1) * HIST_SUB_COUNT)

struct hist {
    uint64_t buckets[HIST_BUCKET_COUNT];
    uint64_t count;
    uint64_t sum_ns;
    uint64_t max_ns;
};

/* The bucket of a duration: exact below 64 ns, then 64 buckets an octave. */
static inline uint32_t hist_bucket_of(uint64_t ns)
{
    if (ns >> HIST_MAX_BITS)
        return HIST_BUCKET_COUNT - 1;
    if (ns < HIST_SUB_COUNT)
        return (uint32_t)ns;
    uint32_t shift = 63 - (uint32_t)__builtin_clzll(ns) - HIST_SUB_BITS;
    return (shift + 1) * HIST_SUB_COUNT + (uint32_t)(ns >> shift) - HIST_SUB_COUNT;
}

/* The largest duration that falls into the bucket. */
static inline uint64_t hist_bucket_top_ns(uint32_t bucket)
{
    if (bucket < HIST_SUB_COUNT)
        return bucket;
    uint32_t shift = bucket / HIST_SUB_COUNT - 1;
    uint64_t lead = HIST_SUB_COUNT + bucket % HIST_SUB_COUNT;
    return ((lead + 1) << shift) - 1;
}

static inline void hist_add(struct hist *h, uint64_t ns)
{
    h->buckets[hist_bucket_of(ns)]++;
    h->count++;
    h->sum_ns += ns;
    if (ns > h->max_ns)
        h->max_ns = ns;
}

/* The duration that share (0..1) of the entries do not exceed; 0 when empty. */
static inline uint64_t hist_quantile_ns(const struct hist *h, double share)
{
    uint64_t want = (uint64_t)(share * (double)h->count + 0.999999);
    uint64_t seen = 0;

    for (uint32_t i = 0; i < HIST_BUCKET_COUNT; i++) {
        seen += h->buckets[i];
        if (seen >= want && seen > 0) {
            uint64_t top = hist_bucket_top_ns(i);
            return top < h->max_ns ? top : h->max_ns;
        }
    }
    return 0;
}

#endif
