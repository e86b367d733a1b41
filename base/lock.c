/* base/lock.c: the parts of base/lock.h that are not inline, and the debug build's
 * book-keeping: each thread keeps the stack of the locks that it holds. */
#include "base/lock.h"

#include <time.h>

void lock_init(struct lock *l, enum lock_rank rank)
{
    ASSERT(rank < LOCK_RANK_COUNT);
    int rc = pthread_mutex_init(&l->mutex, NULL);
    ASSERT(rc == 0);
#ifdef EXTANT_DEBUG
    l->rank = rank;
    atomic_store(&l->owner, 0);
#endif
}

void lock_destroy(struct lock *l)
{
    int rc = pthread_mutex_destroy(&l->mutex);
    ASSERT(rc == 0);
}

#ifdef EXTANT_DEBUG
static const char *const rank_names[LOCK_RANK_COUNT] = {
#define X(name, what) #name,
    LOCK_TABLE(X)
#undef X
};

#define HELD_MAX 16
static _Thread_local const struct lock *held[HELD_MAX];
static _Thread_local int held_count;

static uintptr_t self_id(void) { return (uintptr_t)&held_count; }

void lock_debug_check(const struct lock *l)
{
    for (int i = 0; i < held_count; i++) {
        if (held[i]->rank < l->rank)
            continue;
        fprintf(stderr, "extant: lock order: %s wanted while %s is held\n",
                rank_names[l->rank], rank_names[held[i]->rank]);
        abort();
    }
}

void lock_debug_acquire(struct lock *l)
{
    ASSERT(held_count < HELD_MAX && l->rank < LOCK_RANK_COUNT);
    ASSERT(atomic_load_explicit(&l->owner, memory_order_relaxed) == 0);
    held[held_count++] = l;
    atomic_store_explicit(&l->owner, self_id(), memory_order_relaxed);
}

void lock_debug_release(struct lock *l)
{
    ASSERT(lock_debug_is_held(l));
    atomic_store_explicit(&l->owner, 0, memory_order_relaxed);
    for (int i = held_count - 1; i >= 0; i--) {
        if (held[i] != l)
            continue;
        memmove(&held[i], &held[i + 1], (size_t)(held_count - 1 - i) * sizeof(held[0]));
        held_count--;
        return;
    }
    ASSERT(!"released a lock that this thread does not hold");
}

bool lock_debug_is_held(const struct lock *l)
{
    return atomic_load_explicit(&l->owner, memory_order_relaxed) == self_id();
}

bool lock_debug_none_held(void) { return held_count == 0; }
#endif

void lock_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    int rc = pthread_cond_init(cond, &attr);
    ASSERT(rc == 0);
    pthread_condattr_destroy(&attr);
}

int lock_await_start(_Atomic(int) *started)
{
    lock_assert_none_held();
    int state;
    while ((state = atomic_load_explicit(started, memory_order_acquire)) == 0)
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    ASSERT(state == 1 || state < 0);
    return state == 1 ? 0 : state;
}

bool lock_wait(struct lock *l, pthread_cond_t *cond, int64_t timeout_ms)
{
    lock_assert_held(l);
    int rc;
    lock_debug_release(l);
    lock_assert_none_held();
    if (timeout_ms < 0) {
        rc = pthread_cond_wait(cond, &l->mutex);
    } else {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        t.tv_sec += timeout_ms / 1000;
        t.tv_nsec += (timeout_ms % 1000) * 1000000;
        if (t.tv_nsec >= 1000000000) {
            t.tv_sec++;
            t.tv_nsec -= 1000000000;
        }
        rc = pthread_cond_timedwait(cond, &l->mutex, &t);
    }
    lock_debug_acquire(l);
    return rc != ETIMEDOUT;
}
