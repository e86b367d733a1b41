/* base/lock.h: every lock class of Extant, ranked in one table.
 *
 * The order of the table is the lock order: a thread may take a lock only if
 * it holds none of the same or a later class. One exception, named where
 * it happens: lock_try() may be called out of order (it never waits), so
 * after a failed try the caller must go on without the lock.
 * No lock is held over I/O, over a sleep, or over a call into the network.
 * Debug builds check the order and lock_assert_held(); release builds compile
 * to a plain mutex.
 */
#ifndef EXTANT_LOCK_H
#define EXTANT_LOCK_H

#include <pthread.h>

#include "base/base.h"

/*      rank name        what it protects */
#define LOCK_TABLE(X)                                                                              \
    X(LOCK_CONTROL, "start, stop and admin requests to the maintenance thread")                    \
    X(LOCK_CONN, "the queue of new connections of a worker, and its list of connections")          \
    X(LOCK_TLS, "which certificates new TLS connections get")                                      \
    X(LOCK_COLUMN, "an index column: its words, and the items that they lead to")                   \
    X(LOCK_LRU, "one LRU of one slab class: links, heads, tails and counts")                       \
    X(LOCK_SLAB, "slab classes, runs and free chunks")                                             \
    X(LOCK_EXT_BUCKET, "a flash bucket's open page and open wbufs")                                \
    X(LOCK_EXT_PAGE, "the flash page table: states, versions, free pages")                         \
    X(LOCK_IO_QUEUE, "an I/O thread's queue")                                                      \
    X(LOCK_EXTENTS, "one set of extents")                                                          \
    X(LOCK_WATCH, "watchers and their log buffers")                                                \
    X(LOCK_STATS, "counters that are not a thread's own; prefix details")

enum lock_rank {
    LOCK_TABLE(ROW_NAME)
        LOCK_RANK_COUNT
};

struct lock {
    pthread_mutex_t mutex;
#ifdef EXTANT_DEBUG
    enum lock_rank rank;
    _Atomic(uintptr_t) owner; /* id of the holding thread, 0 when free */
#endif
};

void lock_init(struct lock *l, enum lock_rank rank);
void lock_destroy(struct lock *l);

#ifdef EXTANT_DEBUG
void lock_debug_acquire(struct lock *l);     /* after the mutex is ours */
void lock_debug_check(const struct lock *l); /* before waiting for it */
void lock_debug_release(struct lock *l);
bool lock_debug_is_held(const struct lock *l);
#define lock_assert_held(l) ASSERT(lock_debug_is_held(l))
/* True iff the calling thread holds no lock at all: asserted before I/O and sleep. */
bool lock_debug_none_held(void);
#define lock_assert_none_held() ASSERT(lock_debug_none_held())
#else
#define lock_assert_held(l) ((void)sizeof(l)) /* not evaluated */
#define lock_assert_none_held() ((void)0)
#define lock_debug_acquire(l) ((void)0)
#define lock_debug_check(l) ((void)0)
#define lock_debug_release(l) ((void)0)
#endif

/* Waits until the lock is free, takes it. The caller holds no lock of its rank or later. */
static inline void lock_take(struct lock *l)
{
    lock_debug_check(l);
    int rc = pthread_mutex_lock(&l->mutex);
    ASSERT(rc == 0);
    lock_debug_acquire(l);
}

/* Takes the lock if it is free right now; true iff taken. Any order. Never waits. */
static inline bool lock_try(struct lock *l)
{
    if (pthread_mutex_trylock(&l->mutex) != 0)
        return false;
    lock_debug_acquire(l);
    return true;
}

static inline void lock_release(struct lock *l)
{
    lock_debug_release(l);
    int rc = pthread_mutex_unlock(&l->mutex);
    ASSERT(rc == 0);
}

/* Waits for the condition (spurious wake-ups happen); holds l on entry and on return.
 * timeout_ms < 0 waits without bound. Returns false on a time-out. Holds no other lock. */
bool lock_wait(struct lock *l, pthread_cond_t *cond, int64_t timeout_ms);

/* A condition variable that counts on the monotonic clock, as lock_wait needs it. */
void lock_cond_init(pthread_cond_t *cond);

/* Call after creating a thread: waits until it is ready to run. The thread stores
 * 1 when it is, or the -errno with which it ends. Returns 0 or that. */
int lock_await_start(_Atomic(int) *started);

#endif
