/* io_thread.c: see io_thread.h. Two queues under one lock: `ready` in the order of submission, `timed` sorted by the time
 * of start; the latter is short (write buffers whose write failed). A job is in one of them from its submission until a
 * thread takes it; after that the pool doesn't touch it. */
#include "io_thread.h"

#include "base/clock.h"
#include "base/lock.h"

TAILQ_HEAD(job_queue, io_job);

struct io_pool {
    /* const after create */
    unsigned thread_count;
    char name[16];
    pthread_t threads[IO_THREADS_MAX];
    /* under lock */
    struct lock lock; /* LOCK_IO_QUEUE */
    pthread_cond_t cond;
    struct job_queue ready, timed; /* timed: by start_ns */
    unsigned running;     /* threads inside a run() */
    bool stopping;
    /* atomic */
    _Atomic(uint64_t) queued;
};

static void push_timed(struct io_pool *pool, struct io_job *job)
{
    lock_assert_held(&pool->lock);
    struct io_job *later = TAILQ_FIRST(&pool->timed);
    while (later != NULL && later->start_ns <= job->start_ns)
        later = TAILQ_NEXT(later, in_queue);
    if (later != NULL)
        TAILQ_INSERT_BEFORE(later, job, in_queue);
    else
        TAILQ_INSERT_TAIL(&pool->timed, job, in_queue);
}

/* Takes the next job that may start, or sets *wait_ms until the first timed one may (-1: none). */
static struct io_job *pop(struct io_pool *pool, int64_t *wait_ms)
{
    lock_assert_held(&pool->lock);
    *wait_ms = -1;
    struct io_job *job = TAILQ_FIRST(&pool->timed);
    if (job != NULL) {
        uint64_t now = clock_mono_ns();
        if (pool->stopping || job->start_ns <= now) {
            TAILQ_REMOVE(&pool->timed, job, in_queue);
            return job;
        }
        *wait_ms = (int64_t)((job->start_ns - now) / 1000000) + 1;
    }
    job = TAILQ_FIRST(&pool->ready);
    if (job != NULL)
        TAILQ_REMOVE(&pool->ready, job, in_queue);
    return job;
}

/* Runs a job that was taken out of the queue. The lock is held, but not meanwhile. */
static void run_job(struct io_pool *pool, struct io_job *job)
{
    lock_assert_held(&pool->lock);
    ASSERT(job->run != NULL);
    pool->running++;
    lock_release(&pool->lock);
    atomic_fetch_sub_explicit(&pool->queued, 1, memory_order_relaxed);
    job->run(job);
    lock_take(&pool->lock);
    ASSERT(pool->running > 0);
    pool->running--;
}

static void *thread_main(void *arg)
{
    struct io_pool *pool = arg;
    pthread_setname_np(pthread_self(), pool->name);
    lock_take(&pool->lock);
    for (;;) {
        int64_t wait_ms;
        struct io_job *job = pop(pool, &wait_ms);
        if (job == NULL) {
            if (pool->stopping && pool->running == 0)
                break;
            lock_wait(&pool->lock, &pool->cond, wait_ms);
            continue;
        }
        run_job(pool, job);
    }
    pthread_cond_broadcast(&pool->cond); /* the others may leave too */
    lock_release(&pool->lock);
    return NULL;
}

struct io_pool *io_pool_create(unsigned threads, const char *name)
{
    ASSERT(threads <= IO_THREADS_MAX);
    struct io_pool *pool = calloc(1, sizeof(*pool));
    if (pool == NULL)
        return NULL;
    snprintf(pool->name, sizeof(pool->name), "%s", name);
    TAILQ_INIT(&pool->ready);
    TAILQ_INIT(&pool->timed);
    lock_init(&pool->lock, LOCK_IO_QUEUE);
    lock_cond_init(&pool->cond);
    for (; pool->thread_count < threads; pool->thread_count++) {
        int rc = pthread_create(&pool->threads[pool->thread_count], NULL, thread_main, pool);
        if (rc != 0) {
            io_pool_destroy(pool);
            errno = rc;
            return NULL;
        }
    }
    return pool;
}

void io_pool_destroy(struct io_pool *pool)
{
    if (pool == NULL)
        return;
    lock_take(&pool->lock);
    pool->stopping = true;
    pthread_cond_broadcast(&pool->cond);
    struct io_job *job;
    int64_t wait_ms;
    while (pool->thread_count == 0 && (job = pop(pool, &wait_ms)) != NULL)
        run_job(pool, job);
    lock_release(&pool->lock);
    for (unsigned i = 0; i < pool->thread_count; i++)
        pthread_join(pool->threads[i], NULL);
    ASSERT(TAILQ_EMPTY(&pool->ready) && TAILQ_EMPTY(&pool->timed) && pool->running == 0);
    ASSERT(atomic_load(&pool->queued) == 0);
    pthread_cond_destroy(&pool->cond);
    lock_destroy(&pool->lock);
    free(pool);
}

void io_pool_submit(struct io_pool *pool, struct io_job *job)
{
    io_pool_submit_after(pool, job, 0);
}

void io_pool_submit_after(struct io_pool *pool, struct io_job *job, uint64_t delay_ns)
{
    job->start_ns = delay_ns == 0 ? 0 : clock_mono_ns() + delay_ns;
    atomic_fetch_add_explicit(&pool->queued, 1, memory_order_relaxed);
    lock_take(&pool->lock);
    if (delay_ns == 0)
        TAILQ_INSERT_TAIL(&pool->ready, job, in_queue);
    else
        push_timed(pool, job);
    pthread_cond_signal(&pool->cond);
    lock_release(&pool->lock);
}

uint64_t io_pool_queued(const struct io_pool *pool)
{
    return atomic_load_explicit(&pool->queued, memory_order_relaxed);
}

/* Moves timed jobs whose time has come to the end of the queue. */
static void queue_due(struct io_pool *pool)
{
    lock_assert_held(&pool->lock);
    uint64_t now = clock_mono_ns();
    struct io_job *job;
    while ((job = TAILQ_FIRST(&pool->timed)) != NULL && job->start_ns <= now) {
        TAILQ_REMOVE(&pool->timed, job, in_queue);
        TAILQ_INSERT_TAIL(&pool->ready, job, in_queue);
    }
}

unsigned io_pool_ready(struct io_pool *pool)
{
    unsigned n = 0;
    struct io_job *job;
    lock_take(&pool->lock);
    queue_due(pool);
    TAILQ_FOREACH(job, &pool->ready, in_queue)
        n++;
    lock_release(&pool->lock);
    return n;
}

void io_pool_step(struct io_pool *pool, unsigned nth)
{
    ASSERT(pool->thread_count == 0);
    lock_take(&pool->lock);
    queue_due(pool);
    struct io_job *job = TAILQ_FIRST(&pool->ready);
    for (; nth > 0 && job != NULL; nth--)
        job = TAILQ_NEXT(job, in_queue);
    ASSERT(job != NULL);
    TAILQ_REMOVE(&pool->ready, job, in_queue);
    run_job(pool, job);
    lock_release(&pool->lock);
}
