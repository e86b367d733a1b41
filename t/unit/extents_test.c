/* extents_test.c: a set of extents, checked against an array with one flag for each unit. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>

#include "space/extents.h"

static struct extents *make(uint64_t start, uint64_t count, uint32_t region, bool all_used,
                            enum extents_mode mode)
{
    struct extents_options o = {.start_unit = start,
                                .unit_count = count,
                                .region_units = region,
                                .all_used = all_used,
                                .mode = mode};
    struct extents *set = NULL;
    cr_assert_eq(extents_create(&o, &set), 0);
    return set;
}

static struct extents *make_free(uint64_t count)
{
    return make(0, count, 64, false, EXTENTS_HYBRID);
}

static uint64_t rng_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state * UINT64_C(0x2545F4914F6CDD1D) >> 16;
}

/* ---- the model ---- */

struct model {
    uint64_t start, count;
    bool *free;
};

static struct model model_make(uint64_t start, uint64_t count, bool all_free)
{
    struct model m = {start, count, malloc(count * sizeof(bool))};
    memset(m.free, all_free, count * sizeof(bool));
    return m;
}

static bool model_all(const struct model *m, uint64_t at, uint64_t len, bool free)
{
    for (uint64_t i = at; i < at + len; i++)
        if (m->free[i] != free)
            return false;
    return true;
}

/* The lowest fit by brute force; count if there is none. */
static uint64_t model_fit(const struct model *m, uint64_t len, uint64_t align)
{
    uint64_t run = 0;
    for (uint64_t i = 0; i < m->count; i++) {
        run = m->free[i] ? run + 1 : 0;
        if (run < len)
            continue;
        uint64_t at = i + 1 - len;
        if ((m->start + at) % align == 0)
            return at;
    }
    return m->count;
}

static void model_set(struct model *m, uint64_t at, uint64_t len, bool free)
{
    memset(m->free + at, free, len * sizeof(bool));
}

/* Every unit, every run and the sums. */
static void model_compare(const struct model *m, struct extents *set)
{
    uint64_t free = 0, largest = 0, at = 0;
    struct extents_range run;
    extents_assert(set);
    while (at < m->count) {
        uint64_t end = at;
        while (end < m->count && m->free[end] == m->free[at])
            end++;
        if (m->free[at]) {
            cr_assert_eq(extents_find(set, m->start + at, &run), 0);
            cr_assert_eq(run.start, m->start + at);
            cr_assert_eq(run.len, end - at);
            free += end - at;
            largest = max_u64(largest, end - at);
        } else {
            cr_assert_not(extents_is_free(set, m->start + at));
            cr_assert_not(extents_is_free(set, m->start + end - 1));
            if (end == m->count)
                cr_assert_eq(extents_find(set, m->start + at, &run), -ENOENT);
        }
        at = end;
    }
    cr_assert_eq(extents_free_count(set), free);
    cr_assert_eq(extents_largest(set), largest);
    extents_assert(set);
}

struct workload {
    uint64_t seed, start, count;
    uint32_t region, max_nodes;
    enum extents_mode mode;
    uint64_t max_len; /* the longest allocation, take or free */
    int steps;
};

/* Random alloc, free and take, with odds that change so that the set fills and empties. */
static struct extents_stats run_workload(const struct workload *w)
{
    struct extents_options o = {.start_unit = w->start,
                                .unit_count = w->count,
                                .region_units = w->region,
                                .max_nodes = w->max_nodes,
                                .mode = w->mode};
    struct extents *set = NULL;
    cr_assert_eq(extents_create(&o, &set), 0);
    struct model m = model_make(w->start, w->count, true);
    uint64_t rng = w->seed * 2654435761u + 1, start;
    for (int step = 0; step < w->steps; step++) {
        bool filling = step / (w->steps / 6 + 1) % 2 == 0;
        uint64_t what = rng_next(&rng) % 8, len = 1 + rng_next(&rng) % w->max_len;
        uint64_t at = rng_next(&rng) % w->count;
        if (what < (filling ? 4u : 1u)) {
            uint64_t align = rng_next(&rng) % 3 ? 1 : (uint64_t)1 << rng_next(&rng) % 7;
            uint64_t fit = model_fit(&m, len, align);
            int rc = extents_alloc(set, len, align, &start);
            cr_assert_eq(rc, fit == w->count ? -ENOSPC : 0);
            if (rc == 0) {
                cr_assert_eq(start, w->start + fit, "step %d: %" PRIu64 " not %" PRIu64, step,
                             start, w->start + fit);
                model_set(&m, fit, len, false);
            }
        } else if (what < 5) {
            len = min_u64(len, w->count - at);
            bool fits = model_all(&m, at, len, true);
            cr_assert_eq(extents_take(set, w->start + at, len), fits ? 0 : -EBUSY);
            if (fits)
                model_set(&m, at, len, false);
        } else {
            len = min_u64(len, w->count - at);
            bool used = model_all(&m, at, len, false);
            cr_assert_eq(extents_try_free(set, w->start + at, len), used ? 0 : -EINVAL);
            if (used) {
                model_set(&m, at, len, true);
            } else {
                /* Hit something in any case: free the used run around `at`. */
                uint64_t end = at;
                while (end < w->count && !m.free[end] && end - at < len)
                    end++;
                if (end > at) {
                    extents_free(set, w->start + at, end - at);
                    model_set(&m, at, end - at, true);
                }
            }
        }
        if (step % 97 == 0)
            model_compare(&m, set);
    }
    model_compare(&m, set);
    struct extents_stats s;
    extents_stats(set, &s);
    free(m.free);
    extents_destroy(set);
    return s;
}

Test(extents, random_work_agrees_with_a_plain_bitmap_in_every_mode_and_region_size)
{
    static const uint32_t regions[] = {64, 256, 1024, 65536};
    static const uint64_t max_lens[] = {1, 3, 17, 200};
    uint64_t seed = 1;
    for (int mode = EXTENTS_HYBRID; mode <= EXTENTS_BITMAP_ONLY; mode++)
        for (size_t r = 0; r < ARRAY_COUNT(regions); r++)
            for (size_t l = 0; l < ARRAY_COUNT(max_lens); l++, seed++)
                run_workload(&(struct workload){.seed = seed,
                                                .start = seed * 37 % 129,
                                                .count = 3001,
                                                .region = regions[r],
                                                .mode = (enum extents_mode)mode,
                                                .max_len = max_lens[l],
                                                .steps = 2500});
}

Test(extents, random_work_converts_regions_both_ways)
{
    struct extents_stats s = run_workload(&(struct workload){
        .seed = 99, .count = 5000, .region = 1024, .max_len = 5, .steps = 12000});
    cr_assert_gt(s.to_bitmap_count, 0);
    cr_assert_gt(s.to_list_count, 0);
}

Test(extents, a_set_with_too_few_nodes_goes_on_with_bitmaps)
{
    struct extents_stats s = run_workload(&(struct workload){.seed = 5,
                                                             .count = 4000,
                                                             .region = 256,
                                                             .max_nodes = 3,
                                                             .mode = EXTENTS_LIST_ONLY,
                                                             .max_len = 40,
                                                             .steps = 4000});
    cr_assert_leq(s.nodes_used, 3);
    cr_assert_gt(s.regions_bitmap, 0);
}

/* ---- fragmentation from alternate units to whole ---- */

Test(extents, lowest_fit_equals_the_model_at_every_fragmentation)
{
    const uint64_t count = 3 * 4096 + 77;
    for (uint64_t run = 1; run <= 4096; run *= 2) {
        struct extents *set = make(7, count, 4096, true, EXTENTS_HYBRID);
        struct model m = model_make(7, count, false);
        for (uint64_t at = 0; at + run <= count; at += run + 1) {
            extents_free(set, 7 + at, run);
            model_set(&m, at, run, true);
        }
        model_compare(&m, set);
        uint64_t rng = run, start;
        for (int i = 0; i < 150; i++) {
            uint64_t len = 1 + rng_next(&rng) % (run + 2);
            uint64_t align = (uint64_t)1 << rng_next(&rng) % 4;
            uint64_t fit = model_fit(&m, len, align);
            int rc = extents_alloc(set, len, align, &start);
            cr_assert_eq(rc, fit == count ? -ENOSPC : 0);
            if (rc == 0) {
                cr_assert_eq(start, 7 + fit);
                model_set(&m, fit, len, false);
            }
        }
        model_compare(&m, set);
        free(m.free);
        extents_destroy(set);
    }
}

/* ---- representation ---- */

static void free_every(struct extents *set, uint64_t count, uint64_t run, uint64_t gap)
{
    for (uint64_t at = 0; at + run <= count; at += run + gap)
        extents_free(set, at, run);
}

Test(extents, alternate_units_make_a_bitmap)
{
    struct extents *set = make(0, 32768, 32768, true, EXTENTS_HYBRID);
    struct extents_stats s;
    free_every(set, 32768, 1, 1);
    extents_stats(set, &s);
    cr_assert_eq(s.regions_bitmap, 1);
    cr_assert_eq(s.nodes_used, 0);
    cr_assert_eq(s.free_runs, 16384);
    extents_destroy(set);
}

Test(extents, a_bitmap_whose_runs_grow_long_becomes_a_list)
{
    struct extents *set = make(0, 32768, 32768, true, EXTENTS_HYBRID);
    struct extents_stats s;
    free_every(set, 32768, 1, 1);
    for (uint64_t at = 1; at < 32768; at += 2)
        if (at % 256 != 255)
            extents_free(set, at, 1);
    extents_stats(set, &s);
    cr_assert_eq(s.regions_list, 1);
    cr_assert_eq(s.to_list_count, 1);
    cr_assert_eq(s.free_runs, 128);
    extents_assert(set);
    extents_destroy(set);
}

Test(extents, runs_of_64_stay_a_list_and_runs_of_63_do_not)
{
    for (uint64_t run = 63; run <= 64; run++) {
        struct extents *set = make(0, 32768, 32768, true, EXTENTS_HYBRID);
        struct extents_stats s;
        free_every(set, 32768, run, 1);
        extents_stats(set, &s);
        cr_assert_eq(s.regions_list, run == 64);
        extents_destroy(set);
    }
}

Test(extents, a_region_at_the_border_does_not_flap)
{
    struct extents *set = make(0, 32768, 32768, true, EXTENTS_HYBRID);
    struct extents_stats before, after;
    free_every(set, 32768, 64, 1);
    uint64_t start;
    cr_assert_eq(extents_alloc(set, 1, 1, &start), 0); /* the average falls below 64 */
    extents_stats(set, &before);
    cr_assert_eq(before.regions_bitmap, 1);
    for (int i = 0; i < 1000; i++) {
        extents_free(set, start, 1);
        cr_assert_eq(extents_alloc(set, 1, 1, &start), 0);
    }
    extents_stats(set, &after);
    cr_assert_eq(after.to_bitmap_count, before.to_bitmap_count);
    cr_assert_eq(after.to_list_count, before.to_list_count);
    extents_destroy(set);
}

Test(extents, a_nearly_full_region_is_a_list_and_does_not_flap_over_its_last_units)
{
    struct extents *set = make(0, 32768, 32768, true, EXTENTS_HYBRID);
    struct extents_stats s;
    uint64_t start;
    for (int i = 0; i < 1000; i++) {
        extents_free(set, 5, 1);
        extents_free(set, 700, 2);
        cr_assert_eq(extents_alloc(set, 2, 1, &start), 0);
        cr_assert_eq(extents_alloc(set, 1, 1, &start), 0);
    }
    extents_stats(set, &s);
    cr_assert_eq(s.regions_list, 1);
    cr_assert_eq(s.to_bitmap_count + s.to_list_count, 0);
    extents_destroy(set);
}

Test(extents, a_list_keeps_its_nodes_filled_when_one_is_split_beside_a_small_one)
{
    struct extents *set = make(0, 4096, 4096, true, EXTENTS_LIST_ONLY);
    for (uint64_t i = 0; i < 39; i++) /* three full nodes */
        extents_free(set, 4 * i, 1);
    for (uint64_t i = 0; i < 11; i++)
        cr_assert_eq(extents_take(set, 4 * i, 1), 0);
    extents_assert(set);
    extents_free(set, 4 * 24 + 2, 1); /* into the upper half of the second */
    extents_assert(set); /* counts what neighbours hold together */
    extents_destroy(set);
}

Test(extents, a_whole_set_of_16_million_units_costs_few_bytes)
{
    struct extents *set = make(0, 16 << 20, 0, false, EXTENTS_HYBRID);
    struct extents_stats s;
    extents_stats(set, &s);
    cr_assert_eq(s.nodes_used, 512);
    cr_assert_lt(s.bytes_used, 256 * KiB);
    extents_destroy(set);
}

/* ---- allocation ---- */

Test(extents, alloc_takes_the_lowest_run_that_is_long_enough_not_the_best)
{
    struct extents *set = make(0, 1000, 64, true, EXTENTS_HYBRID);
    uint64_t start;
    extents_free(set, 10, 2);
    extents_free(set, 50, 9);
    extents_free(set, 90, 3);
    cr_assert_eq(extents_alloc(set, 3, 1, &start), 0);
    cr_assert_eq(start, 50);
    cr_assert_eq(extents_alloc(set, 3, 1, &start), 0);
    cr_assert_eq(start, 53);
    cr_assert_eq(extents_alloc(set, 1, 1, &start), 0);
    cr_assert_eq(start, 10);
    extents_destroy(set);
}

Test(extents, a_run_may_cross_regions_and_be_longer_than_one)
{
    struct extents *set = make(0, 1000, 64, true, EXTENTS_HYBRID);
    uint64_t start;
    extents_free(set, 60, 500);
    cr_assert_eq(extents_largest(set), 500);
    cr_assert_eq(extents_alloc(set, 501, 1, &start), -ENOSPC);
    cr_assert_eq(extents_alloc(set, 500, 1, &start), 0);
    cr_assert_eq(start, 60);
    cr_assert_eq(extents_free_count(set), 0);
    extents_assert(set);
    extents_destroy(set);
}

Test(extents, the_whole_set_is_one_run)
{
    struct extents *set = make(3, 1000, 64, false, EXTENTS_HYBRID);
    uint64_t start;
    cr_assert_eq(extents_alloc(set, 1000, 1, &start), 0);
    cr_assert_eq(start, 3);
    cr_assert_eq(extents_alloc(set, 1, 1, &start), -ENOSPC);
    extents_free(set, 3, 1000);
    cr_assert_eq(extents_largest(set), 1000);
    cr_assert_eq(extents_free_count(set), 1000);
    extents_destroy(set);
}

Test(extents, alignment_counts_from_unit_zero_not_from_the_sets_start)
{
    struct extents *set = make(5, 1000, 64, false, EXTENTS_HYBRID);
    uint64_t start;
    cr_assert_eq(extents_alloc(set, 3, 256, &start), 0);
    cr_assert_eq(start, 256);
    cr_assert_eq(extents_alloc(set, 1, 256, &start), 0);
    cr_assert_eq(start, 512);
    cr_assert_eq(extents_alloc(set, 1, 1, &start), 0);
    cr_assert_eq(start, 5);
    cr_assert_eq(extents_alloc(set, 1, 1024, &start), -ENOSPC);
    extents_destroy(set);
}

Test(extents, freed_neighbours_become_one_run)
{
    struct extents *set = make(0, 300, 64, true, EXTENTS_HYBRID);
    struct extents_range run;
    extents_free(set, 100, 10);
    extents_free(set, 120, 10);
    extents_free(set, 110, 10);
    cr_assert_eq(extents_find(set, 0, &run), 0);
    cr_assert_eq(run.start, 100);
    cr_assert_eq(run.len, 30);
    extents_destroy(set);
}

Test(extents, find_gives_the_rest_of_the_run_it_starts_in)
{
    struct extents *set = make(1000, 300, 64, true, EXTENTS_HYBRID);
    struct extents_range run;
    extents_free(set, 1050, 100);
    cr_assert_eq(extents_find(set, 1070, &run), 0);
    cr_assert_eq(run.start, 1070);
    cr_assert_eq(run.len, 80);
    cr_assert_eq(extents_find(set, 0, &run), 0);
    cr_assert_eq(run.start, 1050);
    cr_assert_eq(extents_find(set, 1150, &run), -ENOENT);
    cr_assert_eq(extents_find(set, 5000, &run), -ENOENT);
    extents_destroy(set);
}

Test(extents, take_refuses_what_is_not_all_free_and_changes_nothing)
{
    struct extents *set = make_free(1000);
    cr_assert_eq(extents_take(set, 100, 200), 0);
    cr_assert_eq(extents_take(set, 50, 51), -EBUSY);
    cr_assert_eq(extents_take(set, 299, 100), -EBUSY);
    cr_assert_eq(extents_free_count(set), 800);
    cr_assert_eq(extents_take(set, 990, 11), -EINVAL);
    cr_assert_eq(extents_take(set, 1000, 1), -EINVAL);
    cr_assert_eq(extents_take(set, 0, UINT64_MAX), -EINVAL);
    cr_assert_eq(extents_take(set, 0, 0), -EINVAL);
    cr_assert_eq(extents_take(set, 300, 700), 0);
    extents_destroy(set);
}

Test(extents, try_free_refuses_what_is_not_all_used_and_changes_nothing)
{
    struct extents *set = make_free(1000);
    cr_assert_eq(extents_take(set, 100, 200), 0);
    cr_assert_eq(extents_try_free(set, 99, 10), -EINVAL);
    cr_assert_eq(extents_try_free(set, 200, 101), -EINVAL);
    cr_assert_eq(extents_try_free(set, 900, 101), -EINVAL);
    cr_assert_eq(extents_try_free(set, 100, 0), -EINVAL);
    cr_assert_eq(extents_free_count(set), 800);
    cr_assert_eq(extents_try_free(set, 100, 200), 0);
    extents_destroy(set);
}

Test(extents, a_double_free_is_a_bug, .signal = SIGABRT)
{
    struct extents *set = make_free(100);
    extents_free(set, 10, 1);
}

Test(extents, options_out_of_range_are_refused)
{
    static const struct extents_options bad[] = {
        {.unit_count = 0},
        {.unit_count = EXTENTS_MAX_UNITS + 1},
        {.unit_count = 10, .region_units = 100},
        {.unit_count = 10, .region_units = 32},
        {.unit_count = 10, .region_units = 131072},
        {.unit_count = 10, .start_unit = UINT64_MAX},
    };
    struct extents *set;
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        cr_assert_eq(extents_create(&bad[i], &set), -EINVAL);
}

/* ---- threads ---- */

struct churner {
    struct extents *set;
    _Atomic(uint8_t) *owner; /* by unit: 1 while some thread has it */
    uint64_t seed;
    pthread_t thread;
};

static void *churn(void *arg)
{
    struct churner *c = arg;
    uint64_t rng = c->seed, start;
    for (int i = 0; i < 3000; i++) {
        uint64_t len = 1 + rng_next(&rng) % 150;
        while (extents_alloc(c->set, len, 1, &start) != 0)
            sched_yield();
        for (uint64_t u = start; u < start + len; u++)
            cr_assert_eq(atomic_fetch_add(&c->owner[u], 1), 0);
        for (uint64_t u = start; u < start + len; u++)
            atomic_fetch_sub(&c->owner[u], 1);
        extents_free(c->set, start, len);
    }
    return NULL;
}

Test(extents, threads_never_get_the_same_unit_and_all_comes_back)
{
    static _Atomic(uint8_t) owner[256];
    struct extents *set = make(0, 256, 64, false, EXTENTS_HYBRID);
    struct churner c[4];
    for (int i = 0; i < 4; i++) {
        c[i] = (struct churner){.set = set, .owner = owner, .seed = 77 + (uint64_t)i};
        pthread_create(&c[i].thread, NULL, churn, &c[i]);
    }
    for (int i = 0; i < 4; i++)
        pthread_join(c[i].thread, NULL);
    cr_assert_eq(extents_largest(set), 256);
    extents_assert(set);
    extents_destroy(set);
}

/* ---- text ---- */

Test(extents, save_writes_one_line_for_each_run)
{
    struct extents *set = make(10, 300, 64, true, EXTENTS_HYBRID);
    char *text = NULL;
    size_t bytes;
    FILE *f = open_memstream(&text, &bytes);
    extents_free(set, 10, 1);
    extents_free(set, 70, 100);
    extents_free(set, 309, 1);
    cr_assert_eq(extents_save(set, f), 0);
    fclose(f);
    cr_assert_str_eq(text, "10 .. 10\n70 .. 169\n309 .. 309\n");
    free(text);
    extents_destroy(set);
}

/* ---- reconcile ---- */

struct faults {
    size_t count;
    struct {
        enum extents_fault fault;
        struct extents_range range;
    } seen[8];
};

static void note_fault(void *ctx, enum extents_fault fault, struct extents_range range)
{
    struct faults *f = ctx;
    cr_assert_lt(f->count, ARRAY_COUNT(f->seen));
    f->seen[f->count].fault = fault;
    f->seen[f->count++].range = range;
}

Test(extents, reconcile_finds_nothing_when_used_and_free_agree)
{
    struct extents *set = make(10, 500, 64, false, EXTENTS_HYBRID);
    static const struct extents_range used[] = {{10, 5}, {100, 200}, {300, 1}, {509, 1}};
    struct extents_reconciled r;
    struct faults f = {0};
    for (size_t i = 0; i < ARRAY_COUNT(used); i++)
        cr_assert_eq(extents_take(set, used[i].start, used[i].len), 0);
    cr_assert_eq(extents_reconcile(set, used, ARRAY_COUNT(used), note_fault, &f, &r), 0);
    cr_assert_eq(f.count, 0);
    for (int i = 0; i < EXTENTS_FAULT_COUNT; i++)
        cr_assert_eq(r.units[i], 0);
    extents_destroy(set);
}

Test(extents, reconcile_names_every_planted_fault)
{
    struct extents *set = make(10, 500, 64, false, EXTENTS_HYBRID);
    static const struct extents_range used[] = {
        {5, 10},   /* 5 units before the set */
        {100, 20}, /* 110 .. 119 are free, too */
        {190, 20}, /* 200 .. 209 named again */
        {200, 20}, {500, 12}, /* 2 units behind the set */
    };
    static const struct {
        enum extents_fault fault;
        struct extents_range range;
    } expected[] = {
        {EXTENTS_OUTSIDE, {5, 5}}, {EXTENTS_LOST, {50, 3}},      {EXTENTS_BOTH, {110, 10}},
        {EXTENTS_TWICE, {200, 10}}, {EXTENTS_OUTSIDE, {510, 2}},
    };
    struct extents_reconciled r;
    struct faults f = {0};
    cr_assert_eq(extents_take(set, 10, 5), 0);
    cr_assert_eq(extents_take(set, 50, 3), 0); /* lost: neither set has it */
    cr_assert_eq(extents_take(set, 100, 10), 0);
    cr_assert_eq(extents_take(set, 190, 30), 0);
    cr_assert_eq(extents_take(set, 500, 10), 0);
    cr_assert_eq(extents_reconcile(set, used, ARRAY_COUNT(used), note_fault, &f, &r), 0);
    cr_assert_eq(f.count, ARRAY_COUNT(expected));
    for (size_t i = 0; i < ARRAY_COUNT(expected); i++) {
        cr_assert_eq(f.seen[i].fault, expected[i].fault, "%zu", i);
        cr_assert_eq(f.seen[i].range.start, expected[i].range.start, "%zu", i);
        cr_assert_eq(f.seen[i].range.len, expected[i].range.len, "%zu", i);
    }
    cr_assert_eq(r.units[EXTENTS_LOST], 3);
    cr_assert_eq(r.units[EXTENTS_BOTH], 10);
    cr_assert_eq(r.units[EXTENTS_TWICE], 10);
    cr_assert_eq(r.units[EXTENTS_OUTSIDE], 7);
    cr_assert_eq(r.ranges[EXTENTS_OUTSIDE], 2);
    extents_destroy(set);
}

Test(extents, reconcile_refuses_ranges_out_of_order)
{
    struct extents *set = make_free(100);
    static const struct extents_range unsorted[] = {{5, 1}, {4, 1}}, empty[] = {{5, 0}},
                                      wraps[] = {{5, UINT64_MAX}};
    struct extents_reconciled r;
    cr_assert_eq(extents_reconcile(set, unsorted, 2, NULL, NULL, &r), -EINVAL);
    cr_assert_eq(extents_reconcile(set, empty, 1, NULL, NULL, &r), -EINVAL);
    cr_assert_eq(extents_reconcile(set, wraps, 1, NULL, NULL, &r), -EINVAL);
    extents_destroy(set);
}
