/* base/clock.h: rel time, its epoch, exptimes and debugtime. */
#include "base/clock.h"

#include <criterion/criterion.h>
#include <time.h>

enum { SECOND_NS = 1000000000 };

TestSuite(clock, .init = clock_setup);
/* Only go_on() moves its clocks. */
static uint64_t simulated_ns;
static void go_on(uint64_t ns)
{
    clock_simulate(simulated_ns += ns);
}
static void simulate(void)
{
    go_on(100 * (uint64_t)SECOND_NS);
    clock_setup();
}
TestSuite(clock_simulated, .init = simulate);

Test(clock_simulated, stands_still_within_a_turn_but_for_debugtime)
{
    clock_new_turn();
    uint32_t begin = clock_now_sec();
    go_on(SECOND_NS);
    cr_assert_eq(clock_now_sec(), begin);
    clock_new_turn();
    cr_assert_eq(clock_now_sec(), begin + 1);
    clock_shift(50);
    cr_assert_eq(clock_now_sec(), begin + 51);
}

Test(clock_simulated, starts_at_two)
{
    cr_assert_eq(clock_now_sec(), CLOCK_START_REL_SEC);
}

Test(clock_simulated, uptime_starts_at_two)
{
    cr_assert_eq(clock_uptime_sec(), 2);
}

Test(clock, rel_zero_is_two_seconds_before_the_start)
{
    time_t before = time(NULL);
    clock_setup();
    time_t after = time(NULL);
    cr_assert(clock_rel_to_unix(2) >= before - 1 && clock_rel_to_unix(2) <= after + 1);
}

Test(clock, unix_now_is_the_wall_clock)
{
    time_t before = time(NULL);
    int64_t now = clock_unix_now_sec();
    time_t after = time(NULL);
    cr_assert(now >= before - 1 && now <= after + 1);
}

Test(clock, a_second_never_begins_before_one_of_the_wall_clock)
{
    time_t end = time(NULL) + 3;
    for (time_t wall; (wall = time(NULL)) < end;) {
        int64_t rel = clock_rel_to_unix(clock_now_sec());
        cr_assert(rel <= (int64_t)time(NULL) && rel >= (int64_t)wall - 1);
    }
}

Test(clock, shift_moves_rel_time)
{
    clock_pause();
    uint32_t before = clock_now_sec();
    clock_shift(100);
    cr_assert_eq(clock_now_sec(), before + 100);
    clock_shift(-40);
    cr_assert_eq(clock_now_sec(), before + 60);
}

Test(clock, shifts_show_in_unix_time)
{
    clock_shift(1000);
    time_t before = time(NULL);
    int64_t now = clock_unix_now_sec() - 1000;
    time_t after = time(NULL);
    cr_assert(now >= before - 1 && now <= after + 1);
}

Test(clock, never_before_its_start)
{
    clock_shift(-1000);
    cr_assert_eq(clock_now_sec(), CLOCK_START_REL_SEC);
}

Test(clock_simulated, pause_stops_it_and_resume_catches_up)
{
    clock_pause();
    uint32_t before = clock_now_sec();
    go_on(2 * (uint64_t)SECOND_NS);
    cr_assert_eq(clock_now_sec(), before);
    clock_resume();
    cr_assert_eq(clock_now_sec(), before + 2);
}

Test(clock_simulated, pause_twice_is_pause)
{
    clock_pause();
    clock_pause();
    go_on(SECOND_NS);
    clock_resume();
    cr_assert_eq(clock_now_sec(), CLOCK_START_REL_SEC + 1);
}

Test(clock_simulated, setup_drops_shift_and_pause)
{
    clock_pause();
    clock_shift(500);
    clock_setup();
    go_on(SECOND_NS);
    cr_assert_eq(clock_now_sec(), CLOCK_START_REL_SEC + 1);
}

Test(clock, exptime_zero_is_never)
{
    cr_assert_eq(clock_exptime(0), CLOCK_NEVER_SEC);
}

Test(clock, exptime_negative_is_expired)
{
    cr_assert_eq(clock_exptime(-1), CLOCK_EXPIRED_SEC);
    cr_assert_eq(clock_exptime(INT64_MIN), CLOCK_EXPIRED_SEC);
}

Test(clock, exptime_small_is_relative)
{
    clock_pause();
    cr_assert_eq(clock_exptime(10), clock_now_sec() + 10);
}

Test(clock, exptime_thirty_days_is_still_relative)
{
    clock_pause();
    cr_assert_eq(clock_exptime(60 * 60 * 24 * 30), clock_now_sec() + 60 * 60 * 24 * 30);
}

Test(clock, exptime_above_thirty_days_is_unix_time_and_past)
{
    cr_assert_eq(clock_exptime(60 * 60 * 24 * 30 + 1), CLOCK_EXPIRED_SEC);
}

Test(clock, exptime_unix_time_ahead)
{
    cr_assert_eq(clock_exptime(clock_unix_epoch_sec() + 5000), 5000);
}

Test(clock, exptime_at_the_epoch_is_expired)
{
    cr_assert_eq(clock_exptime(clock_unix_epoch_sec()), CLOCK_EXPIRED_SEC);
}

Test(clock, exptime_beyond_the_end_of_time)
{
    cr_assert_eq(clock_exptime(INT64_MAX), UINT32_MAX);
}

Test(clock, expired_is_before_any_now)
{
    clock_shift(-1000000);
    cr_assert_lt(CLOCK_EXPIRED_SEC, clock_now_sec());
}

Test(clock, an_earlier_epoch_goes_on)
{
    int64_t epoch = (int64_t)time(NULL) - 1000;
    cr_assert_eq(clock_setup_epoch(epoch, 0, 0), 0);
    cr_assert_leq(llabs((int64_t)clock_now_sec() - 1000), 1);
    cr_assert_eq(clock_unix_epoch_sec(), epoch);
    cr_assert_leq(clock_uptime_sec() - 2, 1);
}

Test(clock, an_earlier_epoch_goes_on_where_it_was)
{
    cr_assert_eq(clock_setup_epoch((int64_t)time(NULL) - 1000, 1005, (int64_t)time(NULL)), 0);
    cr_assert_geq(clock_now_sec(), 1005);
    cr_assert_leq(clock_now_sec(), 1006);
    cr_assert_eq(clock_setup_epoch((int64_t)time(NULL) - 1000, UINT32_MAX, (int64_t)time(NULL)), -EINVAL);
}

Test(clock, an_epoch_ahead_is_refused)
{
    int64_t before = clock_unix_epoch_sec();
    cr_assert_eq(clock_setup_epoch((int64_t)time(NULL) + 100, 0, 0), -EINVAL);
    cr_assert_eq(clock_unix_epoch_sec(), before);
}

Test(clock, an_epoch_a_century_ago_is_refused)
{
    cr_assert_eq(clock_setup_epoch((int64_t)time(NULL) - (int64_t)UINT32_MAX, 0, 0), -EINVAL);
}

Test(clock, an_epoch_of_this_boot_goes_on_by_the_monotonic_clock)
{
    int64_t mono = clock_mono_epoch_sec(), unix_epoch = 1000; /* the wall clock was far off at that time */
    cr_assert_eq(clock_setup_boot_epoch(unix_epoch, mono - 500), 0);
    cr_assert_leq(llabs((int64_t)clock_now_sec() - 502), 1);
    cr_assert_eq(clock_unix_epoch_sec(), unix_epoch);
    cr_assert_eq(clock_mono_epoch_sec(), mono - 500);
}

/* The clock was wrong when the content's first process began, and was set since: by a day, by years, either way. */
Test(clock, a_clock_that_was_set_neither_ages_nor_rejuvenates)
{
    static const int64_t off[] = {-50LL * 365 * 86400, -86400, 86400, 50LL * 365 * 86400};
    for (unsigned i = 0; i < ARRAY_COUNT(off); i++) {
        int64_t wall = (int64_t)time(NULL), epoch = wall - 500 + off[i];
        cr_assert_eq(clock_setup_epoch(epoch, 480, wall - 20), 0);
        cr_assert_leq(llabs((int64_t)clock_now_sec() - 500), 1);
        cr_assert_eq(clock_unix_epoch_sec(), epoch);
        cr_assert_leq(llabs(clock_wall_now_sec() - wall), 1);
        cr_assert_leq(llabs((int64_t)clock_exptime(wall + 5000) - clock_now_sec() - 5000), 1);
        cr_assert_eq(clock_setup_boot_epoch(epoch, clock_mono_epoch_sec()), 0);
        cr_assert_eq(clock_unix_epoch_sec(), epoch);
        cr_assert_leq(llabs(clock_wall_now_sec() - wall), 1);
        cr_assert_leq(llabs((int64_t)clock_exptime(wall + 5000) - clock_now_sec() - 5000), 1);
        cr_assert_eq(clock_exptime(wall - 5000), CLOCK_EXPIRED_SEC);
    }
}

Test(clock, an_epoch_of_this_boot_ahead_is_refused)
{
    cr_assert_eq(clock_setup_boot_epoch(1000, clock_mono_epoch_sec() + 100), -EINVAL);
}

Test(clock, epochs_that_are_no_times_are_refused)
{
    clock_setup();
    int64_t unix_epoch = clock_unix_epoch_sec(), mono = clock_mono_epoch_sec();
    cr_assert_eq(clock_setup_epoch(INT64_MIN, 0, 0), -EINVAL);
    cr_assert_eq(clock_setup_epoch(INT64_MIN, 5, INT64_MIN), -EINVAL);
    cr_assert_eq(clock_setup_epoch(INT64_MAX, UINT32_MAX, INT64_MAX), -EINVAL);
    cr_assert_eq(clock_setup_boot_epoch(unix_epoch, INT64_MIN), -EINVAL);
    cr_assert_eq(clock_setup_boot_epoch(unix_epoch, INT64_MAX), -EINVAL);
    cr_assert_eq(clock_setup_boot_epoch(INT64_MIN, mono - 500), -EINVAL);
    cr_assert_eq(clock_setup_boot_epoch(INT64_MAX, mono - 500), -EINVAL);
    cr_assert_eq(clock_unix_epoch_sec(), unix_epoch);
}

Test(clock, mono_units_agree)
{
    uint64_t ms = clock_mono_ms(), us = clock_mono_us(), ns = clock_mono_ns();
    cr_assert_leq(us / 1000 - ms, 1000);
    cr_assert_leq(ns / 1000 - us, 1000000);
}

Test(clock, wall_us_is_the_wall_clock)
{
    cr_assert_leq(llabs(clock_wall_us() / 1000000 - (int64_t)time(NULL)), 1);
}

Test(clock, simulated_time_moves_only_when_told)
{
    clock_simulate(UINT64_C(5000000000));
    clock_setup();
    cr_assert_eq(clock_now_sec(), CLOCK_START_REL_SEC);
    cr_assert_eq(clock_mono_ns(), UINT64_C(5000000000));
    int64_t unix_sec = clock_unix_now_sec();
    clock_sleep_ns(UINT64_C(2500000000));
    cr_assert_eq(clock_mono_ns(), UINT64_C(7500000000));
    cr_assert_eq(clock_now_sec(), CLOCK_START_REL_SEC + 2);
    cr_assert_eq(clock_unix_now_sec(), unix_sec + 2);
}
