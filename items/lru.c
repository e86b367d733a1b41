/* items/lru.c: see items/lru.h. Doubly linked lists by handle; next leads towards the
 * tail (older), prev towards the head (newer). */
#include "items/lru.h"

#include <sys/mman.h>

#define JOIN_NAMED_MAX 64 /* ends of one list; more than that no kill makes */

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
    lock_assert_held(&list->lock);
    uint64_t bytes = item_accounted_bytes(it);
    uint64_t count = atomic_load_explicit(&list->count, memory_order_relaxed);
    uint64_t sum = atomic_load_explicit(&list->bytes, memory_order_relaxed);
    ASSERT(sign > 0 || count > 0);
    atomic_store_explicit(&list->count, sign > 0 ? count + 1 : count - 1, memory_order_relaxed);
    ASSERT(sign > 0 || sum >= bytes);
    atomic_store_explicit(&list->bytes, sign > 0 ? sum + bytes : sum - bytes, memory_order_relaxed);
    DEBUG_ASSERT((list->head == 0) == (list->tail == 0));
}

/* Makes an item that is in no list the head of this one. The caller counts it. */
static void join_head(struct lru *l, struct lru_list *list, struct item *it)
{
    lock_assert_held(&list->lock);
    slab_handle h = slab_handle_of(l->slab, it);
    ASSERT(&l->lists[it->lru_id] == list && lru_class(it->lru_id) != 0 && list->head != h);
    it->prev = 0;
    it->next = list->head;
    if (list->head)
        item_at(l, list->head)->prev = h;
    else
        list->tail = h;
    list->head = h;
}

/* Takes it out. The caller counts it. */
static void leave(struct lru *l, struct lru_list *list, struct item *it)
{
    lock_assert_held(&list->lock);
    slab_handle h = slab_handle_of(l->slab, it);
    ASSERT(&l->lists[it->lru_id] == list);
    DEBUG_ASSERT(!it->prev || item_at(l, it->prev)->next == h);
    DEBUG_ASSERT(!it->next || item_at(l, it->next)->prev == h);
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
}

void lru_link(struct lru *l, struct item *it)
{
    struct lru_list *list = &l->lists[it->lru_id];
    lock_take(&list->lock);
    join_head(l, list, it);
    list_count(list, it, 1);
    lock_release(&list->lock);
}

void lru_unlink(struct lru *l, struct item *it)
{
    struct lru_list *list = &l->lists[it->lru_id];
    lock_take(&list->lock);
    leave(l, list, it);
    list_count(list, it, -1);
    lock_release(&list->lock);
}

/* Makes it the youngest of its list. */
static void refresh(struct lru *l, struct item *it)
{
    struct lru_list *list = &l->lists[it->lru_id];
    lock_take(&list->lock);
    if (list->head != slab_handle_of(l->slab, it)) {
        leave(l, list, it);
        join_head(l, list, it);
    }
    lock_release(&list->lock);
}

void lru_move(struct lru *l, struct item *it, enum lru_segment to)
{
    ASSERT(to < LRU_SEGMENT_COUNT && lru_class(it->lru_id) != 0);
    if (lru_segment(it->lru_id) == to) {
        refresh(l, it);
        return;
    }
    lru_unlink(l, it);
    it->lru_id = lru_id_of(lru_class(it->lru_id), to);
    lru_link(l, it);
}

void lru_supersede(struct lru *l, struct item *old, struct item *it)
{
    struct lru_list *list = &l->lists[it->lru_id];
    if (old->lru_id != it->lru_id) {
        lru_unlink(l, old);
        lru_link(l, it);
        return;
    }
    lock_take(&list->lock);
    leave(l, list, old);
    join_head(l, list, it);
    if (unlikely(item_accounted_bytes(old) != item_accounted_bytes(it))) {
        list_count(list, old, -1);
        list_count(list, it, 1);
    }
    lock_release(&list->lock);
}

void lru_substitute(struct lru *l, struct item *old, struct item *copy)
{
    struct lru_list *list = &l->lists[old->lru_id];
    slab_handle h = slab_handle_of(l->slab, copy);
    lock_take(&list->lock);
    ASSERT(old != copy && item_accounted_bytes(old) == item_accounted_bytes(copy));
    copy->next = old->next;
    copy->prev = old->prev;
    copy->lru_id = old->lru_id;
    if (copy->prev)
        item_at(l, copy->prev)->next = h;
    else
        list->head = h;
    if (copy->next)
        item_at(l, copy->next)->prev = h;
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

struct item *lru_newer_locked(struct lru *l, const struct item *it)
{
    lock_assert_held(&l->lists[it->lru_id].lock);
    return item_at(l, it->prev);
}

struct item *lru_head_locked(struct lru *l, uint8_t lru_id)
{
    lock_assert_held(&l->lists[lru_id].lock);
    return item_at(l, l->lists[lru_id].head);
}

struct item *lru_older_locked(struct lru *l, const struct item *it)
{
    lock_assert_held(&l->lists[it->lru_id].lock);
    return item_at(l, it->next);
}

uint64_t lru_count(struct lru *l, uint8_t lru_id)
{
    return atomic_load_explicit(&l->lists[lru_id].count, memory_order_relaxed);
}

uint64_t lru_bytes(struct lru *l, uint8_t lru_id)
{
    return atomic_load_explicit(&l->lists[lru_id].bytes, memory_order_relaxed);
}

uint64_t lru_shared_bytes(struct lru *l, unsigned cls)
{
    return lru_bytes(l, lru_id_of(cls, LRU_HOT)) + lru_bytes(l, lru_id_of(cls, LRU_WARM)) +
           lru_bytes(l, lru_id_of(cls, LRU_COLD));
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

/* ---- attach --------------------------------------------------------------------------- */

/* A kill can come between any two stores of the functions above, once in each thread. So a list
 * then has only a few pieces; an end of a piece is an item whose neighbour does not name it in
 * return. These rules, in this order, find the ends that belonged together:
 *  1. a tail that names a head, or a head that names a tail (half of a link was made or undone);
 *  2. a tail and a head that name the same item which is not live any more (or not yet): it was
 * being substituted or freed;
 *  3. time. An item without neighbours was on its way to some head and goes to its list's head. */

struct end {
    slab_handle item;
    slab_handle names; /* what it says is beyond, 0 nothing */
    uint8_t lru_id;
    bool is_head;
};

struct part {
    uint64_t count[LRU_ID_COUNT], bytes[LRU_ID_COUNT];
    int64_t tails_less_heads[LRU_ID_COUNT];
    slab_handle named_max;
    struct end *ends;
    size_t end_count, end_room;
    bool no_memory;
};

struct lru_attach {
    struct lru *lru;
    uint64_t handle_count;
    _Atomic(uint64_t) *live;  /* a bit for each handle */
    _Atomic(uint64_t) *named; /* the same: a live item and this one name each other */
    size_t map_bytes;         /* of both */
    unsigned parts;
    struct part part[];
};

struct lru_attach *lru_attach_begin(struct lru *l, uint64_t handle_count, unsigned parts)
{
    struct lru_attach *a = calloc(1, sizeof(*a) + parts * sizeof(a->part[0]));
    if (!a)
        return NULL;
    a->lru = l;
    a->handle_count = handle_count;
    a->parts = parts;
    size_t words = handle_count / 64 + 1;
    a->map_bytes = 2 * words * sizeof(a->live[0]);
    a->live = mmap(NULL, a->map_bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (a->live == MAP_FAILED) {
        free(a);
        return NULL;
    }
    a->named = a->live + words;
    return a;
}

static void attach_free(struct lru_attach *a)
{
    munmap(a->live, a->map_bytes);
    for (unsigned i = 0; i < a->parts; i++)
        free(a->part[i].ends);
    free(a);
}

static void mark(_Atomic(uint64_t) *map, slab_handle h)
{
    ASSERT(h != 0);
    atomic_fetch_or_explicit(&map[h / 64], UINT64_C(1) << h % 64, memory_order_relaxed);
}

static bool is_marked(const _Atomic(uint64_t) *map, slab_handle h)
{
    return atomic_load_explicit(&map[h / 64], memory_order_relaxed) >> h % 64 & 1;
}

bool lru_attach_is_live(const struct lru_attach *a, slab_handle h)
{
    if (h == 0 || h >= a->handle_count)
        return false;
    return is_marked(a->live, h);
}

void lru_attach_prefetch(const struct lru_attach *a, slab_handle h)
{
    __builtin_prefetch(slab_ptr(a->lru->slab, item_at(a->lru, h)->next));
}

static void add_end(struct part *p, const struct end *end)
{
    if (p->end_count == p->end_room) {
        size_t room = p->end_room ? p->end_room * 2 : 64;
        struct end *ends = realloc(p->ends, room * sizeof(ends[0]));
        if (!ends) {
            p->no_memory = true;
            return;
        }
        p->ends = ends;
        p->end_room = room;
    }
    p->ends[p->end_count++] = *end;
}

/* Is there memory for an item? A broken link may lead anywhere. */
static bool is_inside(const struct lru_attach *a, slab_handle h)
{
    static_assert(sizeof(struct item) <= 2 << 4, "a handle is of 16 bytes at least: this and the next");
    return h != 0 && (uint64_t)h + 1 < a->handle_count;
}

static void add_tail(struct part *p, slab_handle h, const struct item *it)
{
    add_end(p, &(struct end){.item = h, .names = it->next, .lru_id = it->lru_id});
    p->tails_less_heads[it->lru_id]++;
}

/* Looks towards the tail only: a head without a newer neighbour is known by itself, and while a
 * list has as many of those as it has tails, there are no other heads. Whether a neighbour that
 * agrees is live is known later; it agrees with one item only. */
void lru_attach_live(struct lru_attach *a, unsigned part, slab_handle h)
{
    ASSERT(h != 0 && h < a->handle_count && part < a->parts);
    const struct item *it = item_at(a->lru, h);
    struct part *p = &a->part[part];
    uint8_t id = it->lru_id;
    mark(a->live, h);
    p->count[id]++;
    p->bytes[id] += item_accounted_bytes(it);
    const struct item *n = is_inside(a, it->next) ? item_at(a->lru, it->next) : NULL;
    if (!n || n == it || n->prev != h || n->lru_id != id) {
        add_tail(p, h, it);
    } else {
        mark(a->named, it->next);
        if (it->next > p->named_max)
            p->named_max = it->next;
    }
    if (it->prev == 0) {
        add_end(p, &(struct end){.item = h, .lru_id = id, .is_head = true});
        p->tails_less_heads[id]--;
    }
}

static bool is_known_tail(const struct lru_attach *a, slab_handle h)
{
    for (unsigned i = 0; i < a->parts; i++)
        for (size_t k = 0; k < a->part[i].end_count; k++)
            if (a->part[i].ends[k].item == h && !a->part[i].ends[k].is_head)
                return true;
    return false;
}

/* Those whose neighbour agreed, but is dead and does not name them any more: in broken memory it may
 * lie where a live item does, which was written to. */
static void find_tails_of_the_dead(struct lru_attach *a)
{
    for (uint64_t word = 0; word <= a->handle_count / 64; word++) {
        uint64_t live = atomic_load_explicit(&a->live[word], memory_order_relaxed);
        for (; live != 0; live &= live - 1) {
            slab_handle h = (slab_handle)(word * 64 + (unsigned)__builtin_ctzll(live));
            const struct item *it = item_at(a->lru, h);
            slab_handle n = it->next;
            if (is_inside(a, n) && is_marked(a->named, n) && !is_marked(a->live, n) &&
                !is_known_tail(a, h))
                add_tail(&a->part[0], h, it);
        }
    }
}

void lru_attach_all_known(struct lru_attach *a)
{
    bool lost = false;
    slab_handle max = 0;
    for (unsigned i = 0; i < a->parts; i++)
        max = a->part[i].named_max > max ? a->part[i].named_max : max;
    for (uint64_t word = 0; word <= max / 64; word++) {
        uint64_t dead = atomic_load_explicit(&a->named[word], memory_order_relaxed) &
                        ~atomic_load_explicit(&a->live[word], memory_order_relaxed);
        for (; dead != 0; dead &= dead - 1) {
            slab_handle n = (slab_handle)(word * 64 + (unsigned)__builtin_ctzll(dead));
            slab_handle h = item_at(a->lru, n)->prev;
            if (!lru_attach_is_live(a, h) || item_at(a->lru, h)->next != n)
                lost = true;
            else if (!is_known_tail(a, h))
                add_tail(&a->part[0], h, item_at(a->lru, h));
        }
    }
    if (lost)
        find_tails_of_the_dead(a);
}

bool lru_attach_is_broken(const struct lru_attach *a)
{
    for (unsigned id = 0; id < LRU_ID_COUNT; id++) {
        int64_t sum = 0;
        for (unsigned i = 0; i < a->parts; i++)
            sum += a->part[i].tails_less_heads[id];
        if (sum != 0)
            return true;
    }
    return false;
}

void lru_attach_look_back(struct lru_attach *a, unsigned part, slab_handle h)
{
    const struct item *it = item_at(a->lru, h);
    if (it->prev == 0)
        return;
    const struct item *n = lru_attach_is_live(a, it->prev) ? item_at(a->lru, it->prev) : NULL;
    if (!n || n == it || n->next != h || n->lru_id != it->lru_id)
        add_end(&a->part[part],
                &(struct end){.item = h, .names = it->prev, .lru_id = it->lru_id, .is_head = true});
}

static int by_list(const void *a, const void *b)
{
    const struct end *x = a, *y = b;
    if (x->lru_id != y->lru_id)
        return x->lru_id < y->lru_id ? -1 : 1;
    if (x->is_head != y->is_head)
        return x->is_head ? -1 : 1;
    return x->item < y->item ? -1 : x->item > y->item;
}

/* Rules 1 and 2, for the remaining ends of one list. Joined ends then have item 0. */
static void join_named(struct lru *l, struct end *heads, struct end *tails, size_t count)
{
    for (unsigned rule = 1; rule <= 2; rule++) {
        for (size_t i = 0; i < count * count; i++) {
            struct end *tail = &tails[i / count], *head = &heads[i % count];
            bool meet = rule == 1 ? tail->names == head->item || head->names == tail->item
                                  : tail->names != 0 && tail->names == head->names;
            if (tail->item == 0 || head->item == 0 || tail->item == head->item || !meet)
                continue;
            item_at(l, tail->item)->next = head->item;
            item_at(l, head->item)->prev = tail->item;
            tail->item = head->item = 0;
        }
    }
}

static size_t keep_unjoined(struct end *ends, size_t count)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++)
        if (ends[i].item != 0)
            ends[kept++] = ends[i];
    return kept;
}

struct piece {
    slab_handle head, tail;
    uint32_t time_sec;
};

static int newest_first(const void *a, const void *b)
{
    const struct piece *x = a, *y = b;
    bool x_alone = x->head == x->tail, y_alone = y->head == y->tail;
    if (x_alone != y_alone)
        return x_alone ? -1 : 1;
    return x->time_sec > y->time_sec ? -1 : x->time_sec < y->time_sec;
}

/* Rule 3: walks each piece to its tail, then puts them one after the other. items: in the list. */
static int join_by_time(struct lru *l, struct lru_list *list, const struct end *heads, size_t count,
                        uint64_t items)
{
    struct piece *pieces = malloc(count * sizeof(pieces[0]));
    if (!pieces)
        return -ENOMEM;
    uint64_t walked = 0;
    for (size_t i = 0; i < count; i++) {
        const struct item *it = slab_ptr(l->slab, heads[i].item);
        pieces[i] = (struct piece){heads[i].item, heads[i].item,
                                   atomic_load_explicit(&it->time_sec, memory_order_relaxed)};
        for (; it->next != 0 && walked <= items; it = item_at(l, it->next), walked++)
            pieces[i].tail = it->next;
        walked++;
    }
    if (walked != items) {
        free(pieces);
        return -EUCLEAN;
    }
    qsort(pieces, count, sizeof(pieces[0]), newest_first);
    for (size_t i = 0; i + 1 < count; i++) {
        item_at(l, pieces[i].tail)->next = pieces[i + 1].head;
        item_at(l, pieces[i + 1].head)->prev = pieces[i].tail;
    }
    list->head = pieces[0].head;
    list->tail = pieces[count - 1].tail;
    free(pieces);
    return 0;
}

/* Makes one list of the pieces whose heads and tails are given. */
static int join_list(struct lru *l, struct lru_list *list, struct end *heads, struct end *tails,
                     size_t count)
{
    uint64_t items = atomic_load_explicit(&list->count, memory_order_relaxed);
    if (count == 0)
        return items == 0 ? 0 : -EUCLEAN;
    for (size_t i = 0; i < count; i++) {
        item_at(l, heads[i].item)->prev = 0;
        item_at(l, tails[i].item)->next = 0;
    }
    if (count > 1 && count <= JOIN_NAMED_MAX) {
        join_named(l, heads, tails, count);
        size_t left = keep_unjoined(heads, count);
        if (left != keep_unjoined(tails, count) || left == 0)
            return -EUCLEAN;
        count = left;
    }
    if (count > 1)
        return join_by_time(l, list, heads, count, items);
    list->head = heads[0].item;
    list->tail = tails[0].item;
    return 0;
}

int lru_attach_end(struct lru_attach *a, uint64_t *pieces)
{
    struct lru *l = a->lru;
    static_assert(LRU_ID_COUNT <= 256, "an id fits a byte");
    size_t end_count = 0, at = 0;
    int rc = 0;
    for (unsigned i = 0; i < a->parts; i++) {
        end_count += a->part[i].end_count;
        if (a->part[i].no_memory)
            rc = -ENOMEM;
    }
    struct end *ends = malloc((end_count + 1) * sizeof(ends[0]));
    if (!ends)
        rc = -ENOMEM;
    for (unsigned i = 0; rc == 0 && i < a->parts; i++) {
        const struct part *p = &a->part[i];
        for (size_t k = 0; k < p->end_count; k++)
            ends[at++] = p->ends[k];
        for (unsigned id = 0; id < LRU_ID_COUNT; id++) {
            atomic_fetch_add_explicit(&l->lists[id].count, p->count[id], memory_order_relaxed);
            atomic_fetch_add_explicit(&l->lists[id].bytes, p->bytes[id], memory_order_relaxed);
        }
    }
    *pieces = 0;
    if (rc == 0)
        qsort(ends, end_count, sizeof(ends[0]), by_list);
    at = 0;
    for (unsigned id = 0; rc == 0 && id < LRU_ID_COUNT; id++) {
        size_t heads = at, tails;
        while (at < end_count && ends[at].lru_id == id && ends[at].is_head)
            at++;
        tails = at;
        while (at < end_count && ends[at].lru_id == id)
            at++;
        ASSERT(at - tails == tails - heads); /* a link is mutual or ends both ways */
        if (tails - heads > 1)
            *pieces += tails - heads;
        rc = join_list(l, &l->lists[id], &ends[heads], &ends[tails], tails - heads);
    }
    free(ends);
    attach_free(a);
    return rc;
}
