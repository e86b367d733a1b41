/* operator/departed.h: the last keys to leave are known with their reasons; others are not. */
#include "operator/departed.h"

#include <criterion/criterion.h>
#include <malloc.h>

#include "base/hash.h"

static uint64_t hash_of(uint64_t n)
{
    return hash_key(&n, sizeof(n), 7);
}

Test(departed, the_last_reason_counts)
{
    struct departed *d = departed_create(4096);
    cr_assert_eq(departed_find(d, hash_of(1)), MISS_never_stored);
    departed_note(d, hash_of(1), MISS_deleted);
    cr_assert_eq(departed_find(d, hash_of(1)), MISS_deleted);
    departed_note(d, hash_of(1), MISS_evicted_from_flash);
    cr_assert_eq(departed_find(d, hash_of(1)), MISS_evicted_from_flash);
    cr_assert_eq(departed_find(d, hash_of(2)), MISS_never_stored);
    departed_destroy(d);
}

Test(departed, as_many_as_half_the_table_are_nearly_all_known)
{
    struct departed *d = departed_create(64 * KiB);
    unsigned known = 0, wrong = 0;
    for (uint64_t i = 0; i < 8192; i++)
        departed_note(d, hash_of(i), MISS_expired);
    for (uint64_t i = 0; i < 8192; i++)
        known += departed_find(d, hash_of(i)) == MISS_expired;
    for (uint64_t i = 100000; i < 200000; i++)
        wrong += departed_find(d, hash_of(i)) != MISS_never_stored;
    cr_assert_gt(known, 8192 * 8 / 10);
    cr_assert_leq(wrong, 1);
    departed_destroy(d);
}

Test(departed, the_size_stays_within_the_bound)
{
    struct departed *d = departed_create(100000);
    cr_assert_gt(malloc_usable_size(d), 65536);
    cr_assert_lt(malloc_usable_size(d), 65536 + 64);
    departed_destroy(d);
}

Test(departed, without_a_table_nothing_is_known)
{
    departed_note(NULL, 1, MISS_deleted);
    cr_assert_eq(departed_find(NULL, 1), MISS_never_stored);
}

Test(departed, reasons_have_names)
{
    cr_assert_str_eq(miss_reason_name(MISS_never_stored), "never_stored");
    cr_assert_str_eq(miss_reason_name(MISS_no_memory), "no_memory");
}
