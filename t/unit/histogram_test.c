/* base/histogram.h: every duration is in one bucket, bounds rise, sums and quantiles are right. */
#include "base/histogram.h"

#include <criterion/criterion.h>

Test(histogram, a_duration_is_below_its_bound_and_not_below_the_one_before)
{
    for (uint64_t ns = 0; ns < 40000000000; ns += ns / 13 + 1) {
        unsigned b = histogram_bucket(ns);
        if (b < HISTOGRAM_BUCKETS - 1)
            cr_assert_lt(ns, histogram_bound_ns(b));
        if (b > 0)
            cr_assert_geq(ns, histogram_bound_ns(b - 1));
    }
    cr_assert_eq(histogram_bucket(UINT64_MAX), HISTOGRAM_BUCKETS - 1);
}

Test(histogram, every_fourth_bound_is_a_power_of_two_of_microseconds)
{
    for (unsigned i = 0; i < HISTOGRAM_OCTAVES; i++)
        cr_assert_eq(histogram_bound_ns(4 * i + 3), (uint64_t)1000 << i);
}

Test(histogram, bounds_rise_by_a_quarter_at_most)
{
    for (unsigned b = 4; b < HISTOGRAM_BUCKETS; b++) {
        cr_assert_gt(histogram_bound_ns(b), histogram_bound_ns(b - 1));
        cr_assert_leq(4 * histogram_bound_ns(b), 5 * histogram_bound_ns(b - 1));
    }
}

Test(histogram, sums_and_quantiles)
{
    static struct histogram a, b;
    struct histogram_sum sum = {{0}, 0, 0};
    cr_assert_eq(histogram_quantile_ns(&sum, 0.5), 0);
    histogram_add(&a, 10000, 98);
    histogram_add_shared(&b, 1000000);
    histogram_add_shared(&b, 3000000);
    histogram_sum_add(&sum, &a);
    histogram_sum_add(&sum, &b);
    cr_assert_eq(sum.count, 100);
    cr_assert_eq(sum.sum_ns, 98 * 10000 + 4000000);
    cr_assert_eq(histogram_quantile_ns(&sum, 0.5), histogram_bound_ns(histogram_bucket(10000)));
    cr_assert_eq(histogram_quantile_ns(&sum, 0.98), histogram_bound_ns(histogram_bucket(1000000)));
    cr_assert_eq(histogram_quantile_ns(&sum, 1), histogram_bound_ns(histogram_bucket(3000000)));
}
