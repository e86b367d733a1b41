/* operator/samples.h: frequent keys are found among keys that are requested once. */
#include "operator/samples.h"

#include <criterion/criterion.h>

static struct sample_table keys, prefixes;

static void note(struct samples *s, uint64_t times, const char *fmt, unsigned n)
{
    char key[64];
    int len = snprintf(key, sizeof(key), fmt, n);
    samples_note(s, key, (size_t)len, times);
}

Test(samples, hot_keys_come_first_with_their_share)
{
    struct samples *s = samples_create(':');
    for (unsigned i = 0; i < 10000; i++) {
        note(s, 1, i % 4 == 0 ? "user:hot" : "user:%u", i);
        if (i % 10 == 0)
            note(s, 1, "plain", 0);
    }
    samples_read(s, &keys, &prefixes);
    sample_table_sort(&keys);
    sample_table_sort(&prefixes);
    cr_assert_eq(keys.total, 11000);
    cr_assert_eq(keys.entries[0].bytes, 8);
    cr_assert_arr_eq(keys.entries[0].key, "user:hot", 8);
    cr_assert_leq(sample_weight(&keys.entries[0]), 2500);
    cr_assert_gt(sample_weight(&keys.entries[0]), 2300);
    cr_assert_arr_eq(keys.entries[1].key, "plain", 5);
    cr_assert_lt(sample_weight(&keys.entries[2]), 200, "rare keys show almost nothing");
    cr_assert_eq(prefixes.count, 2);
    cr_assert_arr_eq(prefixes.entries[0].key, "user", 4);
    cr_assert_eq(sample_weight(&prefixes.entries[0]), 10000);
    cr_assert_eq(prefixes.entries[1].bytes, 0, "keys without a prefix are counted together");
    samples_destroy(s);
}

Test(samples, of_a_busy_turn_some_are_noted_and_stand_for_all)
{
    struct samples *s = samples_create(':');
    for (unsigned i = 0; i < 20000; i++)
        note(s, 2, "a:b", 0);
    samples_read(s, &keys, &prefixes);
    cr_assert(keys.total > 36000 && keys.total < 44000, "%lu", (unsigned long)keys.total);
    samples_destroy(s);
}

Test(samples, several_workers_are_read_as_one)
{
    struct samples *a = samples_create(':'), *b = samples_create(':');
    note(a, 1, "x:1", 0);
    note(b, 1, "x:1", 0);
    note(b, 1, "y:1", 0);
    samples_read(a, &keys, &prefixes);
    samples_read(b, &keys, &prefixes);
    sample_table_sort(&keys);
    cr_assert_eq(keys.count, 2);
    cr_assert_eq(sample_weight(&keys.entries[0]), 2);
    cr_assert_eq(keys.total, 3);
    samples_destroy(a);
    samples_destroy(b);
}

Test(samples, age_makes_old_ones_go)
{
    struct samples *s = samples_create(':');
    for (unsigned i = 0; i < 4; i++)
        note(s, 1, "four", 0);
    note(s, 1, "one", 0);
    samples_age(s);
    samples_read(s, &keys, &prefixes);
    cr_assert_eq(keys.count, 1);
    cr_assert_eq(sample_weight(&keys.entries[0]), 2);
    cr_assert_eq(keys.total, 2);
    samples_destroy(s);
}
