/* flash/room.c: see flash/room.h. */
#include "flash/room.h"

#include "flash/engine.h"

#define FLUSH_SEC_MAX 60u
#define SMALL_PAGES 16u       /* with so few, none can be spared: objects go when a page is needed */

/* ---- how much is free ---- */

uint64_t ext_pages_free(const struct extstore *e, enum ext_bucket device_class)
{
    ASSERT(device_class < EXT_BUCKET_COUNT);
    uint64_t n = 0;
    for (uint32_t i = 0; i < e->device_count; i++) {
        const struct ext_device *d = &e->devices[i];
        if (d->free_bucket == device_class && !ext_device_failed(d))
            n += extents_free_count(d->free);
    }
    return n;
}

uint64_t ext_pages_total(const struct extstore *e, enum ext_bucket device_class)
{
    ASSERT(device_class < EXT_BUCKET_COUNT);
    uint64_t n = 0;
    for (uint32_t i = 0; i < e->device_count; i++)
        n += e->devices[i].free_bucket == device_class ? e->devices[i].page_count : 0;
    return n;
}

uint64_t ext_low_water(const struct extstore *e, enum ext_bucket device_class)
{
    ASSERT(device_class < EXT_BUCKET_COUNT);
    uint64_t total = ext_pages_total(e, device_class);
    uint64_t margin = 1 + min_u64(total / 64, 8);
    if (device_class != EXT_BUCKET_DEFAULT)
        return margin;
    return EXT_RESERVED_PAGES + (total < SMALL_PAGES ? 0 : margin);
}

bool ext_is_full(const struct extstore *e)
{
    if (!atomic_load_explicit(&e->is_crowded, memory_order_relaxed) ||
        ext_pages_free(e, EXT_BUCKET_DEFAULT) > ext_low_water(e, EXT_BUCKET_DEFAULT))
        return false;
    for (unsigned c = EXT_BUCKET_DEFAULT + 1; c < EXT_BUCKET_COUNT; c++)
        if (ext_pages_free(e, (enum ext_bucket)c) > 0)
            return false;
    return true;
}

static_assert(EXT_WRITE_LOW == PACE_LOW && EXT_WRITE_DIRE == PACE_DIRE, "the same levels");

unsigned ext_write_level(struct extstore *e)
{
    if (e->pace.second.rate == 0 && e->pace.day.rate == 0)
        return PACE_FULL;
    return pace_level(&e->pace, clock_mono_ns());
}

uint32_t ext_flush_sec(const struct extstore *e)
{
    return (uint32_t)min_u64(atomic_load_explicit(&e->fill_sec, memory_order_relaxed), FLUSH_SEC_MAX);
}

/* ---- callers waiting for room ---- */

bool ext_is_writable(struct extstore *e)
{
    if (atomic_load(&e->dirty_wbufs) + EXT_RESERVED_WBUFS >= e->wbuf_count)
        return false;
    for (uint32_t i = 0; i < e->device_count; i++) {
        uint32_t page = atomic_load(&e->streams[EXT_BUCKET_DEFAULT].files[i].page);
        if (page != EXT_NO_PAGE && ext_page_state_of(&e->pages[page]) == EXT_PAGE_OPEN &&
            atomic_load(&e->pages[page].slots_used) < e->slots_per_page &&
            !ext_device_failed(ext_page_device(e, page)))
            return true;
    }
    return ext_pages_free(e, EXT_BUCKET_DEFAULT) > EXT_RESERVED_PAGES;
}

static void notify_run(struct io_job *job)
{
    struct extstore *e = CONTAINER_OF(job, struct extstore, notify_job);
    lock_take(&e->notify_lock);
    e->notify_queued = false;
    struct ext_notify_list list = SLIST_HEAD_INITIALIZER(list);
    struct ext_notify *n;
    ASSERT(atomic_load(&e->notify_any) || SLIST_EMPTY(&e->notify_list));
    if (ext_is_writable(e)) {
        list = e->notify_list;
        SLIST_INIT(&e->notify_list);
        atomic_store(&e->notify_any, false);
    }
    lock_release(&e->notify_lock);
    while ((n = SLIST_FIRST(&list)) != NULL) {
        SLIST_REMOVE_HEAD(&list, in_list);
        n->fn(n->arg);
        free(n);
    }
}

void ext_wake_writers(struct extstore *e)
{
    if (!atomic_load(&e->notify_any))
        return;
    lock_take(&e->notify_lock);
    bool submit = !SLIST_EMPTY(&e->notify_list) && !e->notify_queued;
    e->notify_queued |= submit;
    lock_release(&e->notify_lock);
    if (submit)
        io_pool_submit(e->write_pool, &e->notify_job);
}

void ext_notify_writable(struct extstore *e, void (*fn)(void *arg), void *arg)
{
    struct ext_notify *n = malloc(sizeof(*n));
    if (n == NULL) { /* the waiter tries again, and comes back here */
        fn(arg);
        return;
    }
    *n = (struct ext_notify){.fn = fn, .arg = arg};
    lock_take(&e->notify_lock);
    SLIST_INSERT_HEAD(&e->notify_list, n, in_list);
    atomic_store(&e->notify_any, true);
    lock_release(&e->notify_lock);
    /* Buffers freed before notify_any was set woke no thread. */
    if (ext_is_writable(e))
        ext_cancel_notify(e, fn, arg);
}

void ext_cancel_notify(struct extstore *e, void (*fn)(void *arg), void *arg)
{
    lock_take(&e->notify_lock);
    struct ext_notify *n = SLIST_FIRST(&e->notify_list);
    while (n != NULL && (n->fn != fn || n->arg != arg))
        n = SLIST_NEXT(n, in_list);
    if (n != NULL)
        SLIST_REMOVE(&e->notify_list, n, ext_notify, in_list);
    lock_release(&e->notify_lock);
    if (n != NULL)
        fn(arg);
    free(n);
}

void ext_room_init(struct extstore *e)
{
    lock_init(&e->notify_lock, LOCK_IO_QUEUE);
    e->notify_job.run = notify_run;
}

void ext_room_end(struct extstore *e)
{
    struct ext_notify *n;
    while ((n = SLIST_FIRST(&e->notify_list)) != NULL) {
        SLIST_REMOVE_HEAD(&e->notify_list, in_list);
        free(n);
    }
    lock_destroy(&e->notify_lock);
}
