/* extmap_test.c: the state of ranges of flash: transitions, pins, the shrinker, and attaching to the words that
 * another process left. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include "space/extmap.h"

#define RANGES 64
#define BUFFERS 8

struct fixture {
    extmap_word words[RANGES];
    struct extmap_options options;
    struct extmap *map;
};

static struct fixture *fresh(void)
{
    struct fixture *f = calloc(1, sizeof(*f));
    f->options = (struct extmap_options){f->words, RANGES, BUFFERS};
    memset(f->words, 0xFF, sizeof(f->words)); /* create must not rely on the old content */
    cr_assert_eq(extmap_create(&f->options, &f->map), 0);
    return f;
}

static void done(struct fixture *f)
{
    extmap_assert(f->map);
    extmap_destroy(f->map);
    free(f);
}

static void make_clean(struct extmap *map, uint64_t range, uint32_t buffer)
{
    extmap_set_delayed(map, range, buffer);
    extmap_set_clean(map, range);
}

static uint64_t rng_next(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s * UINT64_C(0x2545F4914F6CDD1D) >> 16;
}

Test(extmap, a_new_map_is_all_free)
{
    struct fixture *f = fresh();
    struct extmap_stats s;
    extmap_stats(f->map, &s);
    cr_assert_eq(s.ranges[EXTMAP_FREE], RANGES);
    cr_assert_eq(extmap_get(f->map, 5).state, EXTMAP_FREE);
    cr_assert_eq(extmap_get(f->map, 5).buffer, EXTMAP_NO_BUFFER);
    done(f);
}

Test(extmap, a_range_goes_once_around)
{
    struct fixture *f = fresh();
    uint32_t buffer = 99;
    extmap_set_delayed(f->map, 7, 3);
    extmap_assert(f->map);
    cr_assert_eq(extmap_get(f->map, 7).state, EXTMAP_DELAYED);
    cr_assert_eq(extmap_get(f->map, 7).buffer, 3);
    extmap_set_clean(f->map, 7);
    extmap_assert(f->map);
    cr_assert_eq(extmap_get(f->map, 7).state, EXTMAP_CLEAN);
    cr_assert_eq(extmap_shrink(f->map, &buffer), 0);
    extmap_assert(f->map);
    cr_assert_eq(buffer, 3);
    cr_assert_eq(extmap_get(f->map, 7).state, EXTMAP_WRITTEN);
    cr_assert_eq(extmap_set_free(f->map, 7, &buffer), 0);
    cr_assert_eq(buffer, EXTMAP_NO_BUFFER);
    cr_assert_eq(extmap_get(f->map, 7).state, EXTMAP_FREE);
    done(f);
}

Test(extmap, delayed_and_clean_ranges_may_be_freed_and_give_their_buffer_back)
{
    struct fixture *f = fresh();
    uint32_t buffer;
    extmap_set_delayed(f->map, 1, 4);
    cr_assert_eq(extmap_set_free(f->map, 1, &buffer), 0);
    cr_assert_eq(buffer, 4);
    make_clean(f->map, 2, 4);
    cr_assert_eq(extmap_set_free(f->map, 2, NULL), 0);
    extmap_set_delayed(f->map, 3, 4);
    done(f);
}

Test(extmap, each_life_has_its_own_generation)
{
    struct fixture *f = fresh();
    extmap_set_delayed(f->map, 1, 0);
    uint32_t first = extmap_get(f->map, 1).generation;
    cr_assert_eq(extmap_set_free(f->map, 1, NULL), 0);
    extmap_set_delayed(f->map, 1, 0);
    cr_assert_eq(extmap_get(f->map, 1).generation, first + 1);
    done(f);
}

Test(extmap, only_what_is_in_memory_can_be_pinned)
{
    struct fixture *f = fresh();
    uint32_t buffer;
    cr_assert_eq(extmap_pin(f->map, 9, &buffer), -ENOENT);
    extmap_set_delayed(f->map, 9, 6);
    cr_assert_eq(extmap_pin(f->map, 9, &buffer), 0);
    cr_assert_eq(buffer, 6);
    extmap_set_clean(f->map, 9);
    cr_assert_eq(extmap_pin(f->map, 9, &buffer), 0);
    cr_assert_eq(extmap_get(f->map, 9).pins, 2);
    extmap_unpin(f->map, 9);
    extmap_unpin(f->map, 9);
    cr_assert_eq(extmap_shrink(f->map, &buffer), 0);
    cr_assert_eq(extmap_pin(f->map, 9, &buffer), -ENOENT);
    done(f);
}

Test(extmap, a_pinned_buffer_is_not_given_away)
{
    struct fixture *f = fresh();
    uint32_t buffer;
    make_clean(f->map, 9, 6);
    cr_assert_eq(extmap_pin(f->map, 9, &buffer), 0);
    cr_assert_eq(extmap_set_free(f->map, 9, NULL), -EBUSY);
    cr_assert_eq(extmap_shrink(f->map, &buffer), -ENOENT);
    cr_assert_eq(extmap_get(f->map, 9).state, EXTMAP_CLEAN);
    extmap_unpin(f->map, 9);
    cr_assert_eq(extmap_shrink(f->map, &buffer), 0);
    done(f);
}

Test(extmap, pins_end_at_their_limit_and_leave_the_buffer_number_alone)
{
    struct fixture *f = fresh();
    uint32_t buffer;
    make_clean(f->map, 9, 6);
    for (uint32_t i = 0; i < EXTMAP_MAX_PINS; i++)
        cr_assert_eq(extmap_pin(f->map, 9, &buffer), 0);
    cr_assert_eq(extmap_pin(f->map, 9, &buffer), -EAGAIN);
    cr_assert_eq(extmap_get(f->map, 9).buffer, 6);
    for (uint32_t i = 0; i < EXTMAP_MAX_PINS; i++)
        extmap_unpin(f->map, 9);
    done(f);
}

Test(extmap, unpin_without_pin_is_a_bug, .signal = SIGABRT)
{
    struct fixture *f = fresh();
    make_clean(f->map, 9, 6);
    extmap_unpin(f->map, 9);
}

Test(extmap, a_buffer_for_two_ranges_is_a_bug, .signal = SIGABRT)
{
    struct fixture *f = fresh();
    extmap_set_delayed(f->map, 1, 2);
    extmap_set_delayed(f->map, 2, 2);
}

Test(extmap, shrink_gives_the_least_recently_used_first)
{
    struct fixture *f = fresh();
    uint32_t buffer;
    for (uint32_t b = 0; b < 5; b++)
        make_clean(f->map, 10 + b, b);
    static const uint64_t uses[] = {12, 10, 14, 12}; /* leaves 11, 13, 10, 14, 12 */
    for (size_t i = 0; i < ARRAY_COUNT(uses); i++) {
        cr_assert_eq(extmap_pin(f->map, uses[i], &buffer), 0);
        extmap_unpin(f->map, uses[i]);
    }
    static const uint32_t expected[] = {1, 3, 0, 4, 2};
    for (size_t i = 0; i < ARRAY_COUNT(expected); i++) {
        cr_assert_eq(extmap_shrink(f->map, &buffer), 0);
        cr_assert_eq(buffer, expected[i]);
    }
    cr_assert_eq(extmap_shrink(f->map, &buffer), -ENOENT);
    done(f);
}

Test(extmap, shrink_never_takes_a_delayed_buffer)
{
    struct fixture *f = fresh();
    struct extmap_stats s;
    uint32_t buffer;
    extmap_set_delayed(f->map, 1, 0);
    make_clean(f->map, 2, 1);
    extmap_set_delayed(f->map, 3, 2);
    cr_assert_eq(extmap_shrink(f->map, &buffer), 0);
    cr_assert_eq(buffer, 1);
    cr_assert_eq(extmap_shrink(f->map, &buffer), -ENOENT);
    extmap_stats(f->map, &s);
    cr_assert_eq(s.ranges[EXTMAP_DELAYED], 2);
    cr_assert_eq(s.ranges[EXTMAP_WRITTEN], 1);
    cr_assert_eq(s.shrinks, 1);
    cr_assert_eq(s.shrink_fails, 1);
    done(f);
}

Test(extmap, shrink_passes_over_a_pinned_buffer)
{
    struct fixture *f = fresh();
    uint32_t buffer;
    make_clean(f->map, 1, 0);
    cr_assert_eq(extmap_pin(f->map, 1, &buffer), 0);
    make_clean(f->map, 2, 1); /* used later than 1 */
    cr_assert_eq(extmap_shrink(f->map, &buffer), 0);
    cr_assert_eq(buffer, 1);
    extmap_unpin(f->map, 1);
    done(f);
}

/* ---- another life ---- */

Test(extmap, attach_keeps_states_and_buffers_and_forgets_pins)
{
    struct fixture *f = fresh();
    struct extmap_stats s;
    uint32_t buffer;
    uint64_t range;
    extmap_set_delayed(f->map, 1, 0);
    make_clean(f->map, 3, 2);
    cr_assert_eq(extmap_shrink(f->map, &buffer), 0);
    cr_assert_eq(buffer, 2);
    make_clean(f->map, 2, 1);
    cr_assert_eq(extmap_pin(f->map, 1, &buffer), 0);
    cr_assert_eq(extmap_pin(f->map, 2, &buffer), 0);
    extmap_destroy(f->map); /* only the words are left */
    cr_assert_eq(extmap_attach(&f->options, &f->map), 0);
    extmap_stats(f->map, &s);
    cr_assert_eq(s.ranges[EXTMAP_FREE], RANGES - 3);
    cr_assert_eq(s.ranges[EXTMAP_DELAYED], 1);
    cr_assert_eq(s.ranges[EXTMAP_CLEAN], 1);
    cr_assert_eq(s.ranges[EXTMAP_WRITTEN], 1);
    cr_assert_eq(extmap_get(f->map, 1).pins, 0);
    cr_assert_eq(extmap_buffer_range(f->map, 0, &range), 0);
    cr_assert_eq(range, 1);
    cr_assert_eq(extmap_buffer_range(f->map, 2, &range), -ENOENT);
    cr_assert_eq(extmap_shrink(f->map, &buffer), 0);
    cr_assert_eq(buffer, 1);
    done(f);
}

Test(extmap, attach_refuses_words_that_contradict_themselves)
{
    static const uint64_t bad[] = {
        UINT64_C(1) << 32 | BUFFERS << 16,      /* no such buffer */
        UINT64_C(1) << 32 | 1 << 16,            /* the buffer of range 5, too */
        UINT64_C(3) << 32 | 4 << 16,            /* written, with a buffer */
        UINT64_C(9) << 34 | UINT64_C(1) << 16,  /* free, with a buffer */
    };
    struct fixture *f = fresh();
    struct extmap *other;
    make_clean(f->map, 5, 1);
    extmap_destroy(f->map);
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        f->words[20] = bad[i];
        cr_assert_eq(extmap_attach(&f->options, &other), -EINVAL, "%zu", i);
        cr_assert_eq(f->words[20], bad[i]);
    }
    free(f);
}

Test(extmap, options_out_of_range_are_refused)
{
    struct fixture *f = fresh();
    struct extmap *other;
    const struct extmap_options bad[] = {
        {NULL, RANGES, BUFFERS},
        {f->words, 0, BUFFERS},
        {f->words, RANGES, 0},
        {f->words, RANGES, EXTMAP_MAX_BUFFERS + 1},
    };
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        cr_assert_eq(extmap_create(&bad[i], &other), -EINVAL);
    done(f);
}

/* ---- random work against a model ---- */

Test(extmap, random_work_agrees_with_a_model)
{
    struct fixture *f = fresh();
    struct {
        enum extmap_state state;
        uint32_t buffer, pins;
    } m[RANGES] = {{0}};
    uint64_t owner[BUFFERS], rng = 31, held;
    for (int b = 0; b < BUFFERS; b++)
        owner[b] = RANGES;
    for (int step = 0; step < 50000; step++) {
        uint64_t r = rng_next(&rng) % RANGES;
        uint32_t b = (uint32_t)(rng_next(&rng) % BUFFERS), got = 0;
        bool in_memory = m[r].state == EXTMAP_DELAYED || m[r].state == EXTMAP_CLEAN;
        switch (rng_next(&rng) % 6) {
        case 0:
            if (m[r].state != EXTMAP_FREE || owner[b] != RANGES)
                break;
            extmap_set_delayed(f->map, r, b);
            m[r].state = EXTMAP_DELAYED;
            m[r].buffer = b;
            owner[b] = r;
            break;
        case 1:
            if (m[r].state != EXTMAP_DELAYED)
                break;
            extmap_set_clean(f->map, r);
            m[r].state = EXTMAP_CLEAN;
            break;
        case 2:
            if (m[r].state == EXTMAP_FREE)
                break;
            cr_assert_eq(extmap_set_free(f->map, r, NULL), m[r].pins ? -EBUSY : 0);
            if (m[r].pins)
                break;
            if (in_memory)
                owner[m[r].buffer] = RANGES;
            m[r].state = EXTMAP_FREE;
            break;
        case 3:
            cr_assert_eq(extmap_pin(f->map, r, &got), in_memory ? 0 : -ENOENT);
            cr_assert(!in_memory || got == m[r].buffer);
            m[r].pins += in_memory;
            break;
        case 4:
            if (m[r].pins == 0)
                break;
            extmap_unpin(f->map, r);
            m[r].pins--;
            break;
        case 5:
            held = 0;
            for (int i = 0; i < RANGES; i++)
                held += m[i].state == EXTMAP_CLEAN && m[i].pins == 0;
            cr_assert_eq(extmap_shrink(f->map, &got), held ? 0 : -ENOENT);
            if (!held)
                break;
            r = owner[got];
            cr_assert(m[r].state == EXTMAP_CLEAN && m[r].pins == 0);
            m[r].state = EXTMAP_WRITTEN;
            owner[got] = RANGES;
            break;
        }
        cr_assert_eq(extmap_get(f->map, r).state, m[r].state);
        if (step % 500 == 0)
            extmap_assert(f->map);
    }
    done(f);
}

/* ---- threads ---- */

struct life {
    struct fixture *f;
    uint64_t (*contents)[16]; /* by buffer: all 16 words name the range it holds */
    _Atomic(bool) *stop;
    uint64_t seed;
    pthread_t thread;
};

static void *read_pinned(void *arg)
{
    struct life *l = arg;
    uint64_t rng = l->seed;
    while (!atomic_load(l->stop)) {
        uint64_t range = rng_next(&rng) % RANGES;
        uint32_t buffer;
        if (extmap_pin(l->f->map, range, &buffer) != 0)
            continue;
        for (int i = 0; i < 16; i++)
            cr_assert_eq(l->contents[buffer][i], range);
        extmap_unpin(l->f->map, range);
        sched_yield();
    }
    return NULL;
}

/* Fills buffers with one range after the other, and shrinks for each new one. */
static void write_lives(struct life *l, int lives)
{
    uint32_t spare[BUFFERS], spare_count = 0;
    for (uint32_t b = 0; b < BUFFERS; b++)
        spare[spare_count++] = b;
    for (int n = 0; n < lives; n++) {
        uint64_t range = (uint64_t)n % RANGES;
        while (spare_count == 0)
            if (extmap_shrink(l->f->map, &spare[0]) == 0)
                spare_count = 1;
            else
                sched_yield();
        uint32_t buffer = spare[--spare_count], back = EXTMAP_NO_BUFFER;
        while (extmap_get(l->f->map, range).state != EXTMAP_FREE &&
               extmap_set_free(l->f->map, range, &back) != 0)
            sched_yield();
        if (back != EXTMAP_NO_BUFFER)
            spare[spare_count++] = back;
        for (int i = 0; i < 16; i++)
            l->contents[buffer][i] = range;
        extmap_set_delayed(l->f->map, range, buffer);
        if (n % 3 == 0)
            sched_yield();
        extmap_set_clean(l->f->map, range);
        if (n % 256 == 0)
            extmap_assert(l->f->map);
    }
}

Test(extmap, readers_with_a_pin_never_see_a_buffer_change)
{
    static uint64_t contents[BUFFERS][16];
    static _Atomic(bool) stop;
    struct fixture *f = fresh();
    struct life reader[3], writer = {.f = f, .contents = contents};
    for (uint64_t i = 0; i < 3; i++) {
        reader[i] = (struct life){f, contents, &stop, 100 + i, 0};
        pthread_create(&reader[i].thread, NULL, read_pinned, &reader[i]);
    }
    write_lives(&writer, 3000);
    atomic_store(&stop, true);
    for (int i = 0; i < 3; i++)
        pthread_join(reader[i].thread, NULL);
    for (uint64_t r = 0; r < RANGES; r++)
        cr_assert_eq(extmap_get(f->map, r).pins, 0);
    done(f);
}
