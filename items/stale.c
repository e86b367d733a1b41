/* items/stale.c: see items/stale.h. */
#include "items/stale.h"

#define BEHIND_SHARE 32               /* of flash: one part in this many may wait to be compared */
#define BEHIND_BYTES_MIN ((uint64_t)1 * MiB)

static int ring_init(struct stale_ring *r, uint32_t limit)
{
    r->limit = limit;
    r->size = limit + STALE_RUNNING_MAX;
    r->head = r->count = 0;
    r->at = calloc(r->size, sizeof(r->at[0]));
    return r->at ? 0 : -ENOMEM;
}

int stale_init(struct stale_queue *q)
{
    memset(q, 0, sizeof(*q));
    lock_init(&q->lock, LOCK_IO_QUEUE);
    q->behind_bytes = UINT64_MAX;
    int rc = ring_init(&q->checks, STALE_CHECKS_MAX);
    return rc != 0 ? rc : ring_init(&q->drops, STALE_DROPS_MAX);
}

void stale_free(struct stale_queue *q)
{
    lock_destroy(&q->lock);
    free(q->checks.at);
    free(q->drops.at);
}

void stale_set_flash(struct stale_queue *q, uint64_t flash_bytes)
{
    q->behind_bytes = max_u64(flash_bytes / BEHIND_SHARE, BEHIND_BYTES_MIN);
}

/* Updates the values that are read without the lock. The lock is held. */
static void publish(struct stale_queue *q)
{
    lock_assert_held(&q->lock);
    bool is_behind = q->checks.count >= q->checks.limit ||
                     atomic_load_explicit(&q->bytes, memory_order_relaxed) > q->behind_bytes;
    atomic_store_explicit(&q->waiting, q->checks.count + q->drops.count, memory_order_relaxed);
    atomic_store_explicit(&q->is_behind, is_behind, memory_order_relaxed);
}

static bool ring_put(struct stale_ring *r, const struct stale_check *check, uint32_t limit)
{
    ASSERT(r->count <= r->size && r->head < r->size && limit <= r->size);
    if (r->count >= limit)
        return false;
    r->at[(r->head + r->count++) % r->size] = *check;
    return true;
}

static bool put(struct stale_queue *q, const struct stale_check *check, bool again)
{
    lock_assert_held(&q->lock);
    ASSERT(check->kind <= STALE_DROP);
    bool is_drop = check->kind == STALE_DROP;
    struct stale_ring *r = is_drop ? &q->drops : &q->checks;
    bool done = ring_put(r, check, again ? r->size : r->limit);
    if (done && !is_drop)
        atomic_fetch_add_explicit(&q->bytes, check->bytes, memory_order_relaxed);
    if (done)
        atomic_fetch_add(&q->asked, 1);
    else if (!is_drop)
        atomic_store_explicit(&q->walk_wanted, true, memory_order_relaxed);
    publish(q);
    return done;
}

bool stale_put(struct stale_queue *q, const struct stale_check *check)
{
    lock_take(&q->lock);
    bool done = put(q, check, false);
    lock_release(&q->lock);
    return done;
}

bool stale_take(struct stale_queue *q, struct stale_check *out)
{
    if (stale_waiting(q) == 0)
        return false;
    lock_take(&q->lock);
    struct stale_ring *r = q->drops.count > 0 ? &q->drops : &q->checks;
    bool got = r->count > 0;
    if (got) {
        *out = r->at[r->head];
        r->head = (r->head + 1) % r->size;
        r->count--;
        uint64_t bytes = out->kind == STALE_DROP ? 0 : out->bytes;
        ASSERT((out->kind == STALE_DROP) == (r == &q->drops));
        uint64_t bytes_before = atomic_fetch_sub_explicit(&q->bytes, bytes, memory_order_relaxed);
        ASSERT(bytes_before >= bytes);
        publish(q);
    }
    lock_release(&q->lock);
    return got;
}

void stale_end(struct stale_queue *q, const struct stale_check *check, bool again)
{
    lock_take(&q->lock);
    uint64_t ended = atomic_fetch_add(&q->ended, 1);
    ASSERT(ended < atomic_load(&q->asked));
    if (again) {
        bool done = put(q, check, true);
        ASSERT(done || check->kind != STALE_DROP); /* reclaim waits for it */
    }
    lock_release(&q->lock);
}
