/* lru.c: see lru.h. Doubly linked lists by handle; next leads towards the
 * tail (older), prev towards the head (newer). */
#include "lru.h"

struct lru_list {
    struct lock lock;
    /* under lock */
    slab_handle head, tail;
    /* written under lock, read without */
    _Atomic(uint64_t) count, bytes;
} CACHE_ALIGNED;

struct lru {
    /* const after init */
    struct slab_mem *slab;
    /* each under its own lock */
    struct lru_list lists[LRU_ID_COUNT];
};

static struct item *item_at(const struct lru *l, slab_handle h)
{
    return h ? slab_ptr(l->slab, h) : NULL;
}

struct lru *lru_create(struct slab_mem *slab)
{
    struct lru *l = aligned_alloc(CACHE_LINE_BYTES, sizeof(*l));
    if (!l)
        return NULL;
    memset(l, 0, sizeof(*l));
    l->slab = slab;
    for (unsigned i = 0; i < LRU_ID_COUNT; i++)
        lock_init(&l->lists[i].lock, LOCK_LRU);
    return l;
}

void lru_destroy(struct lru *l)
{
    for (unsigned i = 0; i < LRU_ID_COUNT; i++)
        lock_destroy(&l->lists[i].lock);
    free(l);
}

struct lock *lru_lock(struct lru *l, uint8_t lru_id) { return &l->lists[lru_id].lock; }

static void list_count(struct lru_list *list, const struct item *it, int sign)
{
    uint64_t bytes = item_accounted_bytes(it);
    uint64_t count = atomic_load_explicit(&list->count, memory_order_relaxed);
    uint64_t sum = atomic_load_explicit(&list->bytes, memory_order_relaxed);
    ASSERT(sign > 0 || count > 0);
    atomic_store_explicit(&list->count, sign > 0 ? count + 1 : count - 1, memory_order_relaxed);
    atomic_store_explicit(&list->bytes, sign > 0 ? sum + bytes : sum - bytes, memory_order_relaxed);
}

static void link_locked(struct lru *l, struct lru_list *list, struct item *it)
{
    slab_handle h = slab_handle_of(l->slab, it);
    it->prev = 0;
    it->next = list->head;
    if (list->head)
        item_at(l, list->head)->prev = h;
    else
        list->tail = h;
    list->head = h;
    list_count(list, it, 1);
}

static void unlink_locked(struct lru *l, struct lru_list *list, struct item *it)
{
    slab_handle h = slab_handle_of(l->slab, it);
    if (it->prev)
        item_at(l, it->prev)->next = it->next;
    else {
        ASSERT(list->head == h);
        list->head = it->next;
    }
    if (it->next)
        item_at(l, it->next)->prev = it->prev;
    else {
        ASSERT(list->tail == h);
        list->tail = it->prev;
    }
    it->next = it->prev = 0;
    list_count(list, it, -1);
}

void lru_link(struct lru *l, struct item *it)
{
    struct lru_list *list = &l->lists[it->lru_id];
    lock_take(&list->lock);
    link_locked(l, list, it);
    lock_release(&list->lock);
}

void lru_unlink(struct lru *l, struct item *it)
{
    struct lru_list *list = &l->lists[it->lru_id];
    lock_take(&list->lock);
    unlink_locked(l, list, it);
    lock_release(&list->lock);
}

void lru_move(struct lru *l, struct item *it, enum lru_segment to)
{
    lru_unlink(l, it);
    it->lru_id = lru_id_of(lru_class(it->lru_id), to);
    lru_link(l, it);
}

void lru_substitute(struct lru *l, struct item *old, struct item *neu)
{
    struct lru_list *list = &l->lists[old->lru_id];
    slab_handle h = slab_handle_of(l->slab, neu);
    lock_take(&list->lock);
    neu->next = old->next;
    neu->prev = old->prev;
    neu->lru_id = old->lru_id;
    if (neu->prev)
        item_at(l, neu->prev)->next = h;
    else
        list->head = h;
    if (neu->next)
        item_at(l, neu->next)->prev = h;
    else
        list->tail = h;
    old->next = old->prev = 0;
    lock_release(&list->lock);
}

struct item *lru_tail_locked(struct lru *l, uint8_t lru_id)
{
    lock_assert_held(&l->lists[lru_id].lock);
    return item_at(l, l->lists[lru_id].tail);
}

struct item *lru_newer_locked(struct lru *l, const struct item *it) { return item_at(l, it->prev); }

struct item *lru_head_locked(struct lru *l, uint8_t lru_id)
{
    lock_assert_held(&l->lists[lru_id].lock);
    return item_at(l, l->lists[lru_id].head);
}

struct item *lru_older_locked(struct lru *l, const struct item *it) { return item_at(l, it->next); }

uint64_t lru_count(struct lru *l, uint8_t lru_id)
{
    return atomic_load_explicit(&l->lists[lru_id].count, memory_order_relaxed);
}

uint64_t lru_bytes(struct lru *l, uint8_t lru_id)
{
    return atomic_load_explicit(&l->lists[lru_id].bytes, memory_order_relaxed);
}

void lru_adjust(struct lru *l, const struct item *it, int64_t delta_bytes)
{
    struct lru_list *list = &l->lists[it->lru_id];
    lock_take(&list->lock);
    uint64_t sum = atomic_load_explicit(&list->bytes, memory_order_relaxed);
    atomic_store_explicit(&list->bytes, sum + (uint64_t)delta_bytes, memory_order_relaxed);
    lock_release(&list->lock);
}

uint32_t lru_tail_age_sec(struct lru *l, uint8_t lru_id, uint32_t now_sec)
{
    struct lru_list *list = &l->lists[lru_id];
    lock_take(&list->lock);
    struct item *it = item_at(l, list->tail);
    uint32_t then = it ? atomic_load_explicit(&it->time_sec, memory_order_relaxed) : now_sec;
    lock_release(&list->lock);
    return then < now_sec ? now_sec - then : 0;
}

static int by_time(const void *a, const void *b, void *ctx)
{
    const struct lru *l = ctx;
    const struct item *x = item_at(l, *(const slab_handle *)a), *y = item_at(l, *(const slab_handle *)b);
    uint32_t tx = atomic_load_explicit(&x->time_sec, memory_order_relaxed);
    uint32_t ty = atomic_load_explicit(&y->time_sec, memory_order_relaxed);
    return tx < ty ? -1 : tx > ty;
}

void lru_attach(struct lru *l, slab_handle *items, size_t count)
{
    qsort_r(items, count, sizeof(items[0]), by_time, l);
    for (size_t i = 0; i < count; i++)
        lru_link(l, item_at(l, items[i]));
}
