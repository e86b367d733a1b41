/* Pace: limits on writes per second and per day, for any pattern of demand. */
#include <criterion/criterion.h>

#include "flash/pace.h"

#define SEC UINT64_C(1000000000)
#define MB UINT64_C(1000000)

/* Writes pieces of a MB whenever the level allows one. Bytes in all. */
static uint64_t write_for(struct pace *p, uint64_t from_ns, uint64_t seconds, uint64_t step_ns)
{
    uint64_t written = 0;
    for (uint64_t now = from_ns; now < from_ns + seconds * SEC; now += step_ns) {
        if (pace_level(p, now) == 0)
            continue;
        pace_spend(p, MB);
        written += MB;
    }
    return written;
}

Test(pace, without_bounds_all_may_be_written)
{
    struct pace p;
    pace_init(&p, 0, 0, MB, 0);
    cr_assert_eq(write_for(&p, 0, 10, SEC / 1000), 10000 * MB);
}

Test(pace, a_rate_holds_after_its_burst)
{
    struct pace p;
    pace_init(&p, 2 * MB, 0, MB, SEC);
    uint64_t burst = write_for(&p, SEC, 1, SEC / 1000);
    cr_assert(burst >= 20 * MB && burst <= 24 * MB, "%" PRIu64, burst);
    uint64_t after = write_for(&p, 2 * SEC, 100, SEC / 1000);
    cr_assert(after >= 190 * MB && after <= 210 * MB, "%" PRIu64, after);
}

Test(pace, the_level_falls_before_it_is_0)
{
    struct pace p;
    pace_init(&p, 10 * MB, 0, MB, 0);
    cr_assert_eq(pace_level(&p, 0), PACE_FULL);
    pace_spend(&p, 60 * MB);
    unsigned level = pace_level(&p, 0);
    cr_assert(level < PACE_LOW && level > PACE_DIRE, "%u", level);
    pace_spend(&p, 39 * MB);
    cr_assert_leq(pace_level(&p, 0), PACE_DIRE);
    pace_spend(&p, 5 * MB);
    cr_assert_eq(pace_level(&p, 0), 0);
}

Test(pace, a_debt_is_paid_and_is_at_most_a_burst)
{
    struct pace p;
    pace_init(&p, 10 * MB, 0, MB, 0);
    for (unsigned i = 0; i < 100; i++)
        pace_spend(&p, 100 * MB);
    cr_assert_eq(pace_level(&p, 9 * SEC), 0);
    cr_assert_gt(pace_level(&p, 11 * SEC), 0);
}

Test(pace, no_day_sees_more_than_its_budget)
{
    struct pace p;
    uint64_t budget = 24000 * MB;
    pace_init(&p, 0, budget, MB, 0);
    uint64_t now = 0, day[3];
    for (unsigned i = 0; i < 3; i++, now += 86400 * SEC)
        day[i] = write_for(&p, now, 86400, SEC / 2);
    for (unsigned i = 0; i < 3; i++)
        cr_assert(day[i] <= budget + 2 * MB && day[i] >= budget * 9 / 10, "day %u: %" PRIu64, i, day[i]);
    write_for(&p, now, 3600, SEC / 2);
    now += 7200 * SEC; /* an hour of rest saves no more than the burst */
    cr_assert_leq(write_for(&p, now, 60, SEC / 100), budget / 24 + 30 * MB);
}

Test(pace, the_nearer_bound_counts)
{
    struct pace p;
    pace_init(&p, 1000 * MB, 24 * MB, MB, 0);
    pace_spend(&p, MB);
    cr_assert_eq(pace_level(&p, SEC), 0);
}
