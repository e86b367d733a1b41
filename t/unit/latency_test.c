/* operator/latency.h: rare turns are all measured, frequent ones are sampled without bias, and what
 * waited for flash is measured each time. */
#include "operator/latency.h"

#include <criterion/criterion.h>

#include "base/clock.h"

static struct latency l;
static uint64_t now_ns = 1000000000;

static void turn(unsigned gets, uint64_t took_ns, uint64_t idle_ns)
{
    latency_turn(&l);
    latency_received(&l);
    for (unsigned i = 0; i < gets; i++)
        latency_count(&l, LATENCY_RAM, LATENCY_GET);
    clock_simulate(now_ns += took_ns);
    latency_sent(&l);
    clock_simulate(now_ns += idle_ns);
}

static void setup(void)
{
    clock_simulate(now_ns);
    clock_setup();
}

static uint64_t count_of(enum latency_tier tier, enum latency_command command)
{
    struct histogram_sum sum = {{0}, 0, 0};
    histogram_sum_add(&sum, &l.cells[tier][command]);
    return sum.count;
}

Test(latency, rare_turns_are_all_measured, .init = setup)
{
    for (unsigned i = 0; i < 100; i++)
        turn(3, 20000, 5000000);
    cr_assert_eq(count_of(LATENCY_RAM, LATENCY_GET), 300);
    cr_assert_eq(l.cells[LATENCY_RAM][LATENCY_GET].sum_ns, 300 * 20000);
    cr_assert_eq(l.cells[LATENCY_RAM][LATENCY_GET].buckets[histogram_bucket(20000)], 300);
}

Test(latency, a_sample_of_frequent_turns_stands_for_all, .init = setup)
{
    enum { TURNS = 200000 };
    unsigned measured = 0;
    for (unsigned i = 0; i < TURNS; i++) {
        uint64_t before = count_of(LATENCY_RAM, LATENCY_GET);
        turn(i % 2 ? 1 : 3, 20000, 0); /* a pattern of which a fixed gap would see half */
        measured += count_of(LATENCY_RAM, LATENCY_GET) != before;
    }
    uint64_t seen = count_of(LATENCY_RAM, LATENCY_GET);
    cr_assert_lt(measured, TURNS / LATENCY_GAP * 11 / 10);
    cr_assert_gt(measured, TURNS / LATENCY_GAP * 9 / 10);
    cr_assert(seen > TURNS * 2 * 0.93 && seen < TURNS * 2 * 1.07, "%lu", (unsigned long)seen);
}

Test(latency, turns_with_many_commands_are_measured_more_often, .init = setup)
{
    enum { TURNS = 20000 };
    unsigned measured = 0;
    for (unsigned i = 0; i < TURNS; i++) {
        uint64_t before = count_of(LATENCY_RAM, LATENCY_GET);
        turn(64, 20000, 0);
        measured += count_of(LATENCY_RAM, LATENCY_GET) != before;
    }
    uint64_t seen = count_of(LATENCY_RAM, LATENCY_GET);
    cr_assert(measured > TURNS / 2.2 && measured < TURNS / 1.8, "%u", measured);
    cr_assert(seen > TURNS * 64 * 0.98 && seen < TURNS * 64 * 1.02, "%lu", (unsigned long)seen);
}

Test(latency, a_turn_without_requests_is_none, .init = setup)
{
    latency_turn(&l);
    latency_sent(&l);
    cr_assert_not(l.measuring);
    turn(1, 1000, 0);
    cr_assert_eq(count_of(LATENCY_RAM, LATENCY_GET), 1);
}

Test(latency, what_waited_is_measured_each_time, .init = setup)
{
    for (unsigned i = 0; i < 10; i++)
        latency_waited(&l, LATENCY_STORE, 100000);
    cr_assert_eq(count_of(LATENCY_FLASH, LATENCY_STORE), 10);
}

Test(latency, names)
{
    cr_assert_str_eq(latency_tier_name(LATENCY_MISS), "miss");
    cr_assert_str_eq(latency_command_name(LATENCY_ARITHMETIC), "arithmetic");
}
