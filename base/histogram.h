/* base/histogram.h: counts events by their duration.
 *
 * Buckets are log-linear: four to an octave, from 250 ns to 33 s, so a quantile is right within a
 * quarter. Below 1 us they are 250 ns wide; the last one takes all longer ones. Every fourth bound
 * is a power of two of microseconds: the bounds that a scrape shows (HISTOGRAM_OCTAVES of them).
 *
 * A histogram is zeroed by its owner. With one writing thread histogram_add() costs no locked
 * instruction; several threads use histogram_add_shared(). Any thread may read at any time, into a struct
 * histogram_sum, and may miss the last few events. No locks, never sleeps.
 */
#ifndef EXTANT_HISTOGRAM_H
#define EXTANT_HISTOGRAM_H

#include "base/base.h"

enum { HISTOGRAM_OCTAVES = 26, HISTOGRAM_BUCKETS = HISTOGRAM_OCTAVES * 4, HISTOGRAM_UNIT_NS = 250 };

struct histogram {
    _Atomic(uint64_t) buckets[HISTOGRAM_BUCKETS];
    _Atomic(uint64_t) sum_ns;
};

/* The bucket of a duration. Pure. */
static inline unsigned histogram_bucket(uint64_t ns)
{
    uint64_t units = ns / HISTOGRAM_UNIT_NS;
    if (units < 4)
        return (unsigned)units;
    unsigned octave = 63 - (unsigned)__builtin_clzll(units);
    unsigned bucket = (octave - 1) * 4 + (unsigned)((units >> (octave - 2)) & 3);
    return bucket < HISTOGRAM_BUCKETS ? bucket : HISTOGRAM_BUCKETS - 1;
}
/* Durations of the bucket are below this. Pure. */
uint64_t histogram_bound_ns(unsigned bucket);

/* Adds `count` events that took ns each. Only the owner may call the first. */
static inline void histogram_add(struct histogram *h, uint64_t ns, uint64_t count)
{
    add_own(&h->buckets[histogram_bucket(ns)], (int64_t)count);
    add_own(&h->sum_ns, (int64_t)(ns * count));
}
static inline void histogram_add_shared(struct histogram *h, uint64_t ns)
{
    atomic_fetch_add_explicit(&h->buckets[histogram_bucket(ns)], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum_ns, ns, memory_order_relaxed);
}

/* The sum of one or several histograms. Zero it first. */
struct histogram_sum {
    uint64_t buckets[HISTOGRAM_BUCKETS];
    uint64_t sum_ns, count;
};
void histogram_sum_add(struct histogram_sum *sum, const struct histogram *h);
/* The duration that a share q (0 to 1) of the events stayed below, in ns: the bound of its bucket; 0
 * without events. */
uint64_t histogram_quantile_ns(const struct histogram_sum *sum, double q);

#endif
