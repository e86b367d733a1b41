/* base/histogram.c: see base/histogram.h. */
#include "base/histogram.h"

static_assert(HISTOGRAM_BUCKETS % 4 == 0, "four buckets to an octave");
static_assert(HISTOGRAM_BUCKETS / 4 + 1 + 2 < 64, "bounds of the last octave fit");

uint64_t histogram_bound_ns(unsigned bucket)
{
    ASSERT(bucket < HISTOGRAM_BUCKETS);
    if (bucket < 4)
        return (bucket + 1) * (uint64_t)HISTOGRAM_UNIT_NS;
    unsigned octave = bucket / 4 + 1;
    return ((uint64_t)(4 + bucket % 4 + 1) << (octave - 2)) * HISTOGRAM_UNIT_NS;
}

void histogram_sum_add(struct histogram_sum *sum, const struct histogram *h)
{
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        uint64_t n = atomic_load_explicit(&h->buckets[i], memory_order_relaxed);
        sum->buckets[i] += n;
        sum->count += n;
    }
    sum->sum_ns += atomic_load_explicit(&h->sum_ns, memory_order_relaxed);
}

uint64_t histogram_quantile_ns(const struct histogram_sum *sum, double q)
{
    ASSERT(q >= 0 && q <= 1);
    if (sum->count == 0)
        return 0;
    uint64_t below = 0, wanted = (uint64_t)(q * (double)sum->count);
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        below += sum->buckets[i];
        if (below > wanted || below == sum->count)
            return histogram_bound_ns(i);
    }
    return histogram_bound_ns(HISTOGRAM_BUCKETS - 1);
}
