/* Admission: learns from hits on flash what to write there. */
#include <criterion/criterion.h>

#include "items/admission.h"

#define FLASH 100000u
#define OBJECT 100u

static struct admission a;
static uint64_t seed;

static uint64_t next_hash(void)
{
    seed += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t x = seed;
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* Objects of the class and of this size leave RAM; each one that is written is hit this many times. Returns how
 * many were written. */
static unsigned leave_sized(unsigned class, unsigned objects, unsigned hits, uint64_t bytes)
{
    unsigned written = 0;
    for (unsigned i = 0; i < objects; i++) {
        admission_leaves(&a, bytes);
        if (!admission_wants(&a, next_hash(), class, bytes))
            continue;
        written++;
        admission_written(&a, class, bytes);
        for (unsigned k = 0; k < hits; k++)
            admission_hit(&a, class, bytes, k == 0);
    }
    return written;
}

static unsigned leave(unsigned class, unsigned objects, unsigned hits)
{
    return leave_sized(class, objects, hits, OBJECT);
}

Test(admission, all_takes_all)
{
    admission_init(&a, ADMISSION_ALL, FLASH);
    cr_assert_eq(leave(admission_class(false, 0), 1000, 0), 1000);
}

Test(admission, strict_takes_the_known_and_the_hit)
{
    admission_init(&a, ADMISSION_STRICT, FLASH);
    cr_assert_eq(leave(admission_class(false, 0), 1000, 9), 0);
    cr_assert_eq(leave(admission_class(false, 1), 1000, 9), 0);
    cr_assert_eq(leave(admission_class(false, 2), 1000, 0), 1000);
    cr_assert_eq(leave(admission_class(false, 7), 1000, 0), 1000);
    cr_assert_eq(leave(admission_class(true, 0), 1000, 0), 1000);
}

Test(admission, a_class_that_brings_nothing_is_only_sampled)
{
    unsigned once = admission_class(false, 0), known = admission_class(true, 0);
    admission_init(&a, ADMISSION_LEARN, FLASH);
    for (unsigned i = 0; i < 100; i++) {
        leave(once, 100, 0);
        leave(known, 100, 1);
    }
    cr_assert_eq(leave(known, 1000, 1), 1000);
    unsigned sampled = 0;
    for (unsigned i = 0; i < 64; i++) {
        sampled += leave(once, 100, 0);
        leave(known, 100, 1);
    }
    cr_assert(sampled > 120 && sampled < 300, "%u", sampled);
}

Test(admission, a_class_comes_back_when_its_sample_is_hit)
{
    unsigned once = admission_class(false, 0), known = admission_class(true, 0);
    admission_init(&a, ADMISSION_LEARN, FLASH);
    for (unsigned i = 0; i < 100; i++) {
        leave(once, 100, 0);
        leave(known, 100, 1);
    }
    for (unsigned i = 0; i < 100; i++) {
        leave(once, 100, 3);
        leave(known, 100, 1);
    }
    cr_assert_eq(leave(once, 500, 3), 500);
}

Test(admission, classes_that_are_hit_alike_are_all_taken)
{
    admission_init(&a, ADMISSION_LEARN, FLASH);
    for (unsigned i = 0; i < 50; i++) {
        for (unsigned c = 0; c < ADMISSION_CLASSES; c++)
            cr_assert_eq(leave(c, 50, 1), 50);
    }
}

/* Small objects and large ones, of which every second is hit once: for their bytes the small ones bring ten times as
 * much. */
Test(admission, large_objects_that_bring_little_for_their_bytes_are_only_sampled)
{
    unsigned once = admission_class(false, 0);
    admission_init(&a, ADMISSION_LEARN, 10 * FLASH); /* enough for chance to play no part */
    for (unsigned i = 0; i < 1000; i++) {
        for (unsigned k = 0; k < 10; k++) {
            leave_sized(once, 5, k % 2, OBJECT);
            leave_sized(once, 5, k % 2, 10 * OBJECT);
        }
    }
    cr_assert_eq(leave_sized(once, 500, 1, OBJECT), 500);
    unsigned large = 0;
    for (unsigned i = 0; i < 64; i++) {
        for (unsigned k = 0; k < 10; k++) {
            leave_sized(once, 5, k % 2, OBJECT);
            large += leave_sized(once, 5, k % 2, 10 * OBJECT);
        }
    }
    cr_assert(large > 60 && large < 160, "%u", large);
    for (unsigned i = 0; i < 1000; i++) { /* now these get as many hits for their bytes */
        leave_sized(once, 50, 1, OBJECT);
        leave_sized(once, 50, 10, 10 * OBJECT);
    }
    cr_assert_eq(leave_sized(once, 100, 10, 10 * OBJECT), 100);
}

/* All are hit exactly once, so each write that is not made is a miss. */
Test(admission, where_each_object_is_hit_once_large_ones_are_written_as_well)
{
    unsigned once = admission_class(false, 0);
    admission_init(&a, ADMISSION_LEARN, 10 * FLASH); /* enough for chance to play no part */
    for (unsigned i = 0; i < 1000; i++) {
        leave_sized(once, 100, 1, OBJECT);
        cr_assert_eq(leave_sized(once, 100, 1, 10 * OBJECT), 100, "%u", i);
    }
    for (unsigned i = 0; i < 1000; i++) { /* from now on small ones are hit again and again */
        leave_sized(once, 100, 10, OBJECT);
        leave_sized(once, 100, 1, 10 * OBJECT);
    }
    cr_assert_lt(leave_sized(once, 640, 1, 10 * OBJECT), 60);
}

Test(admission, where_objects_are_hit_once_those_of_a_class_that_is_seldom_hit_are_only_sampled)
{
    unsigned once = admission_class(false, 0), hit = admission_class(false, 1);
    admission_init(&a, ADMISSION_LEARN, 10 * FLASH);
    for (unsigned i = 0; i < 1000; i++) {
        leave(hit, 100, 1);
        for (unsigned k = 0; k < 10; k++)
            leave(once, 10, k % 2);
    }
    cr_assert_lt(leave(once, 640, 1), 60);
    cr_assert_eq(leave(hit, 640, 1), 640);
}

/* A class that was hit in RAM is given up only on clearer evidence. */
Test(admission, an_object_hit_in_ram_is_given_up_later_than_one_never_hit)
{
    admission_init(&a, ADMISSION_LEARN, FLASH);
    for (unsigned i = 0; i < 100; i++) {
        leave(admission_class(true, 2), 60, 2);
        leave(admission_class(false, 0), 30, i % 2);
        leave(admission_class(false, 1), 30, i % 2);
    }
    cr_assert_lt(leave(admission_class(false, 0), 320, 0), 60);
    cr_assert_eq(leave(admission_class(false, 1), 320, 0), 320);
}

/* A loop: all keys are known, and none is hit until few enough are admitted to fit. */
static void turn_of_a_loop(uint32_t fits)
{
    uint64_t first = 42;
    for (unsigned i = 0; i < 2 * FLASH / OBJECT; i++) {
        seed = first + i * 977;
        bool hit = a.trial != ADMISSION_SETTLING && atomic_load(&a.share) <= fits;
        admission_leaves(&a, OBJECT);
        bool wants = admission_wants(&a, next_hash(), admission_class(true, 0), OBJECT);
        if (wants)
            admission_written(&a, admission_class(true, 0), OBJECT);
        if (wants && hit)
            admission_hit(&a, admission_class(true, 0), OBJECT, true);
        else
            admission_miss(&a);
    }
}

Test(admission, a_loop_ends_with_a_share_that_fits)
{
    admission_init(&a, ADMISSION_LEARN, FLASH);
    for (unsigned i = 0; i < 20; i++)
        turn_of_a_loop(160);
    uint32_t share = atomic_load(&a.share);
    cr_assert(share >= 96 && share <= 192, "%u", share);
}

Test(admission, a_share_that_brings_nothing_is_given_up_and_tried_less_often)
{
    admission_init(&a, ADMISSION_LEARN, FLASH);
    unsigned changes = 0;
    uint32_t was = atomic_load(&a.share);
    for (unsigned i = 0; i < 60; i++) {
        turn_of_a_loop(0);
        changes += atomic_load(&a.share) != was;
        was = atomic_load(&a.share);
    }
    cr_assert_geq(changes, 2);
    cr_assert_leq(changes, 24);
    cr_assert_geq(a.wait, 16);
}

/* Pure recency: what leaves RAM is never asked for again. */
Test(admission, flash_that_is_never_hit_is_written_no_more_than_a_sixteenth)
{
    admission_init(&a, ADMISSION_LEARN, FLASH);
    for (unsigned i = 0; i < 10; i++) {
        leave(admission_class(false, 1), 1000, 0);
        for (unsigned k = 0; k < 1000; k++)
            admission_miss(&a);
    }
    unsigned written = leave(admission_class(false, 1), 3200, 0);
    cr_assert(written > 100 && written <= 300, "%u", written);
}

Test(admission, without_hits_all_is_admitted_again)
{
    admission_init(&a, ADMISSION_LEARN, FLASH);
    for (unsigned i = 0; i < 20; i++)
        turn_of_a_loop(160);
    cr_assert_lt(atomic_load(&a.share), ADMISSION_SHARE_ALL);
    for (unsigned i = 0; i < 3 && atomic_load(&a.share) < ADMISSION_SHARE_ALL; i++)
        turn_of_a_loop(0);
    cr_assert_eq(atomic_load(&a.share), ADMISSION_SHARE_ALL);
}
