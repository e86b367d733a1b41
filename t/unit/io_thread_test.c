/* io_thread_test.c: jobs run once each, in order, timed ones not early, none is left behind at the
 * end. Run under TSan too. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <time.h>

#include "io_thread.h"

#include "base/clock.h"

TestSuite(io_thread, .timeout = 600);

struct counting {
    struct io_job job;
    _Atomic(unsigned) runs;
    unsigned order;
    uint64_t ran_ns;
    struct io_pool *pool;
    unsigned again;
};

static _Atomic(unsigned) next_order;

static void run_counting(struct io_job *job)
{
    struct counting *c = (struct counting *)job;
    c->order = atomic_fetch_add(&next_order, 1);
    c->ran_ns = clock_mono_ns();
    atomic_fetch_add(&c->runs, 1);
    if (c->again > 0) {
        c->again--;
        io_pool_submit(c->pool, job);
    }
}

static void nap(void)
{
    struct timespec ts = {0, 1000000};
    nanosleep(&ts, NULL);
}

Test(io_thread, one_thread_runs_jobs_in_the_order_of_submission)
{
    struct counting jobs[100] = {0};
    struct io_pool *pool = io_pool_create(1, "test");
    cr_assert_not_null(pool);
    for (unsigned i = 0; i < 100; i++) {
        jobs[i].job.run = run_counting;
        io_pool_submit(pool, &jobs[i].job);
    }
    io_pool_destroy(pool);
    for (unsigned i = 0; i < 100; i++) {
        cr_assert_eq(jobs[i].runs, 1);
        cr_assert_eq(jobs[i].order, i);
    }
}

Test(io_thread, a_job_may_submit_itself_again_even_while_the_pool_ends)
{
    struct io_pool *pool = io_pool_create(4, "test");
    struct counting jobs[8] = {0};
    for (unsigned i = 0; i < 8; i++) {
        jobs[i] = (struct counting){.job = {.run = run_counting}, .pool = pool, .again = 500};
        io_pool_submit(pool, &jobs[i].job);
    }
    io_pool_destroy(pool);
    for (unsigned i = 0; i < 8; i++)
        cr_assert_eq(jobs[i].runs, 501);
}

Test(io_thread, a_timed_job_waits_and_others_overtake_it)
{
    struct io_pool *pool = io_pool_create(1, "test");
    struct counting late = {.job = {.run = run_counting}}, later = late, now = late;
    uint64_t start = clock_mono_ns();
    io_pool_submit_after(pool, &later.job, 60000000);
    io_pool_submit_after(pool, &late.job, 30000000);
    io_pool_submit(pool, &now.job);
    while (later.runs == 0)
        nap();
    cr_assert_eq(now.order, 0);
    cr_assert_eq(late.order, 1);
    cr_assert_eq(later.order, 2);
    cr_assert_geq(late.ran_ns - start, 30000000);
    cr_assert_geq(later.ran_ns - start, 60000000);
    cr_assert_eq(io_pool_queued(pool), 0);
    io_pool_destroy(pool);
}

Test(io_thread, the_end_of_a_pool_does_not_wait_for_timed_jobs_but_runs_them)
{
    struct io_pool *pool = io_pool_create(2, "test");
    struct counting late = {.job = {.run = run_counting}};
    uint64_t start = clock_mono_ns();
    io_pool_submit_after(pool, &late.job, UINT64_C(3600) * 1000000000);
    cr_assert_eq(io_pool_queued(pool), 1);
    io_pool_destroy(pool);
    cr_assert_eq(late.runs, 1);
    cr_assert_lt(clock_mono_ns() - start, UINT64_C(600) * 1000000000);
}

struct submitter {
    struct io_pool *pool;
    struct counting jobs[500];
};

static void *submit_many(void *arg)
{
    struct submitter *s = arg;
    for (unsigned i = 0; i < ARRAY_COUNT(s->jobs); i++) {
        s->jobs[i].job.run = run_counting;
        if (i % 10 == 0)
            io_pool_submit_after(s->pool, &s->jobs[i].job, 1000 * i);
        else
            io_pool_submit(s->pool, &s->jobs[i].job);
    }
    return NULL;
}

Test(io_thread, jobs_of_many_threads_run_once_each)
{
    struct io_pool *pool = io_pool_create(3, "test");
    struct submitter *s = calloc(4, sizeof(*s));
    pthread_t threads[4];
    for (unsigned i = 0; i < 4; i++) {
        s[i].pool = pool;
        pthread_create(&threads[i], NULL, submit_many, &s[i]);
    }
    for (unsigned i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    io_pool_destroy(pool);
    for (unsigned i = 0; i < 4; i++) {
        for (unsigned k = 0; k < ARRAY_COUNT(s[i].jobs); k++)
            cr_assert_eq(s[i].jobs[k].runs, 1);
    }
    cr_assert_eq(next_order, 4 * ARRAY_COUNT(s->jobs));
    free(s);
}

Test(io_thread, a_pool_that_does_not_exist_is_destroyed_without_harm)
{
    io_pool_destroy(NULL);
}

/* ---- pools of no threads ---- */

struct noting {
    struct io_job job;
    unsigned id;
};

static char notes[8];
static unsigned note_count;

static void note_run(struct io_job *job)
{
    notes[note_count++] = (char)('a' + ((struct noting *)job)->id);
}

Test(io_thread, without_threads_the_caller_says_which_job_runs)
{
    struct noting jobs[3];
    struct io_pool *pool = io_pool_create(0, "test");
    cr_assert_not_null(pool);
    for (unsigned i = 0; i < 3; i++) {
        jobs[i] = (struct noting){.job.run = note_run, .id = i};
        io_pool_submit(pool, &jobs[i].job);
    }
    cr_assert_eq(io_pool_ready(pool), 3);
    io_pool_step(pool, 1);
    io_pool_step(pool, 1);
    io_pool_submit(pool, &jobs[1].job);
    io_pool_step(pool, 0);
    io_pool_step(pool, 0);
    cr_assert_str_eq(notes, "bcab");
    cr_assert_eq(io_pool_queued(pool), 0);
    io_pool_destroy(pool);
}

Test(io_thread, without_threads_a_timed_job_is_ready_when_its_time_has_come)
{
    struct noting late = {.job.run = note_run};
    clock_simulate(1000);
    struct io_pool *pool = io_pool_create(0, "test");
    io_pool_submit_after(pool, &late.job, 500);
    clock_sleep_ns(499);
    cr_assert_eq(io_pool_ready(pool), 0);
    clock_sleep_ns(1);
    cr_assert_eq(io_pool_ready(pool), 1);
    io_pool_step(pool, 0);
    cr_assert_str_eq(notes, "a");
    io_pool_destroy(pool);
}

Test(io_thread, without_threads_the_end_runs_what_is_queued)
{
    struct noting now = {.job.run = note_run}, late = {.job.run = note_run, .id = 1};
    struct io_pool *pool = io_pool_create(0, "test");
    io_pool_submit_after(pool, &late.job, UINT64_C(3600) * 1000000000);
    io_pool_submit(pool, &now.job);
    io_pool_destroy(pool);
    cr_assert_eq(note_count, 2);
}
