/* restart/attach.c: takes over the objects of a process that ended, or was killed
 * between any two of its stores.
 *
 * The index decides what is there: an item lives iff a word names it, a record
 * iff a word names its place. All other state is rebuilt from that, in one
 * walk over the index, by a few threads that take shards one by one:
 *
 *   RAM words    is it a whole item, with this key's shard and tag? Then its memory and
 *                account are taken, it has one reference (the link's), it is marked MAY_HIDE_FLASH
 *                if the index has a flash word of its tag, and its links are checked
 *                but kept (lru_attach_*).
 *   flash words  counted for their page
 *
 * A shard's items are visited in memory order, not in the order of their words,
 * so each page of memory is visited once, and the data of slab_mem and lru about
 * it stays in the processor's caches.
 *
 * The item of a word is complete at any instant, because it is finished before the
 * word is stored and its memory is freed after the word is cleared. So no kill
 * makes the checks of claim fail, only damaged memory. Then the shard is walked
 * word by word, and bad words go, after the flash words of their tag that could be
 * older values of the key. A kill in between leaves the bad word, so the next attach does the same again.
 * A flash word that names no record is also what a kill leaves of a drop of several words
 * (index_make_drop_intent).
 *
 * Threads: one caller, with no other thread in the cache; its helpers end before it
 * returns. Locks: LOCK_COLUMN of the shard at work, LOCK_SLAB and LOCK_IO_QUEUE inside.
 */
#include "restart/attach.h"

#include <pthread.h>
#include <unistd.h>

#include "base/progress.h"
#include "items/lru.h"
#include "items/object.h"

#define BATCH_ITEMS 64
#define BUCKETS_PER_WALK 1024
#define THREADS_MAX 8
#define BYTES_PER_THREAD (32 * MiB) /* bytes of items and index: less is not worth a thread */
#define EXPIRED_MAX 65536           /* expired items that each thread drops; the crawler drops the rest */
#define RADIX_BITS 11
static_assert(sizeof(slab_handle) == 4 && 3 * RADIX_BITS >= 32, "three rounds sort handles");

struct found { /* a RAM word */
    uint64_t hash_like; /* stands for it in calls of index.h */
    slab_handle handle;
    uint32_t reserved;
};

struct found_list { /* grows as needed */
    struct found *at;
    size_t count, room;
};

struct attacher {
    struct attach_job *job;
    pthread_t thread;
    bool running;
    unsigned part;
    struct attach_report report;
    struct found_list expired;
    struct found_list items, spare; /* of the shard at work; spare is for sorting */
    uint64_t cas_max;
    bool has_flash;             /* the shard at work has flash words */
    uint64_t bad_words;         /* words of the shard at work that name no item */
    uint64_t bad_flash_words;   /* those that name no record */
    int error;
};

struct attach_job {
    struct cache *cache;
    struct lru_attach *lru;
    uint32_t now;
    void (*shard)(struct attacher *a, unsigned shard);
    _Atomic(unsigned) next_shard;
};

/* ---- items in order of memory ---- */

static bool found_list_reserve(struct found_list *f, size_t room)
{
    if (room <= f->room)
        return true;
    room = max_u64(room, max_u64(f->room * 2, 1024));
    struct found *at = realloc(f->at, room * sizeof(at[0]));
    if (!at)
        return false;
    f->at = at;
    f->room = room;
    return true;
}

static void found_list_add(struct attacher *a, struct found_list *f, uint64_t hash_like, slab_handle h)
{
    ASSERT(f->count <= f->room);
    if (found_list_reserve(f, f->count + 1))
        f->at[f->count++] = (struct found){.hash_like = hash_like, .handle = h};
    else
        a->error = -ENOMEM;
}

/* By handle, least digit first. */
static void sort_items(struct attacher *a)
{
    ASSERT(a->items.count <= a->items.room && a->spare.count <= a->spare.room);
    struct found_list *from = &a->items, *to = &a->spare;
    const uint32_t mask = (1u << RADIX_BITS) - 1;
    if (from->count < 2)
        return;
    if (!found_list_reserve(to, from->count)) {
        a->error = -ENOMEM;
        return;
    }
    for (unsigned shift = 0; shift < 32; shift += RADIX_BITS) {
        uint32_t start[1 << RADIX_BITS] = {0}, sum = 0;
        for (size_t i = 0; i < from->count; i++)
            start[from->at[i].handle >> shift & mask]++;
        for (unsigned d = 0; d <= mask; d++) {
            uint32_t count = start[d];
            start[d] = sum;
            sum += count;
        }
        for (size_t i = 0; i < from->count; i++)
            to->at[start[from->at[i].handle >> shift & mask]++] = from->at[i];
        ASSERT(sum == from->count && from->count <= to->room);
        to->count = from->count;
        struct found_list swap = *from;
        *from = *to;
        *to = swap;
    }
}

static void walk_shard(struct attacher *a, unsigned shard, index_visit *visit)
{
    ASSERT(shard < INDEX_SHARD_COUNT);
    uint64_t pos = 0;
    while (index_walk(a->job->cache->index, shard, &pos, BUCKETS_PER_WALK, visit, a))
        ;
}

/* ---- claim ---- */

unsigned attach_drop_lost_word(struct cache *c, uint64_t hash_like, index_slot *slot, unsigned rank_max)
{
    index_slot *slots[INDEX_MATCH_MAX];
    lock_assert_held(index_lock(c->index, hash_like));
    ASSERT(index_load(slot) != 0 && rank_max <= INDEX_RANK_MAX);
    unsigned n = index_match_flash(c->index, hash_like, slot, rank_max, slots), dropped = 0;
    for (unsigned i = 0; i < n; i++) {
        index_word w = index_load(slots[i]);
        if (!c->ext || !ext_attach_may_hold(c->ext, index_place(c->index, w), index_len(c->index, w)))
            continue;
        flash_forget(c, hash_like, slots[i], false);
        dropped++;
    }
    cache_count(c, CACHE_N_evictions_same_tag, dropped);
    index_clear(c->index, hash_like, slot);
    return dropped;
}

/* Can an item with the longest key be there? */
static bool is_in_arena(const struct cache *c, slab_handle h)
{
    uint64_t offset = (uint64_t)h << c->handle_shift;
    return h != 0 && offset <= arena_reserve_bytes(c->arena) - sizeof(struct item) - CACHE_KEY_BYTES_MAX - 12;
}

/* Does its header look like an item's? */
static bool is_plausible(struct cache *c, slab_handle h)
{
    ASSERT(is_in_arena(c, h));
    const struct item *it = item_at(c, h);
    unsigned flags = item_flags(it), known = 0;
#define X(name, bit, what) known |= ITEM_##name;
    ITEM_FLAG_TABLE(X)
#undef X
    return it->key_bytes > 0 && it->key_bytes <= CACHE_KEY_BYTES_MAX && !(flags & ~known) &&
           slab_class_of(c->slab, item_accounted_bytes(it)) == lru_class(it->lru_id);
}

/* The item is taken over: it has its memory and its account. */
static void item_claimed(struct attacher *a, slab_handle h, bool shadow)
{
    struct cache *c = a->job->cache;
    struct item *it = item_at(c, h);
    lock_assert_held(index_lock(c->index, item_hash(c, it)));
    ASSERT(it->key_bytes > 0 && lru_class(it->lru_id) <= slab_class_count(c->slab));
    if (item_refs(it) != 1)
        atomic_store_explicit(&it->refcount, 1, memory_order_relaxed);
    unsigned was = item_flags(it), flags = (was | ITEM_LINKED) & ~(unsigned)ITEM_MAY_HIDE_FLASH;
    if (shadow)
        flags |= ITEM_MAY_HIDE_FLASH;
    if (flags != was)
        atomic_store_explicit(&it->flags, (uint16_t)flags, memory_order_relaxed);
    /* The only list of a flat LRU; the item was not yet linked. */
    if (!c->config->lru_segmented && it->next == 0 && it->prev == 0)
        it->lru_id = lru_id_of(lru_class(it->lru_id), LRU_COLD);
    lru_attach_live(a->job->lru, a->part, h);
    cache_sizes_count(c, it, 1);
    uint64_t cas = item_cas(it);
    if (cas > a->cas_max && cas < CAS_SANE_MAX)
        a->cas_max = cas;
    a->report.ram_items++;
    a->report.shadow_items += shadow;
    if (a->expired.count < EXPIRED_MAX && item_death(c, it, a->job->now) != ITEM_ALIVE)
        found_list_add(a, &a->expired, 0, h);
}

/* Are there flash words that may be older values of the item's key? */
static bool item_hides_words(struct cache *c, uint64_t hash)
{
    lock_assert_held(index_lock(c->index, hash));
    index_slot *slots[INDEX_MATCH_MAX];
    bool hides = c->ext && index_match_flash(c->index, hash, NULL, INDEX_RANK_MAX, slots) > 0;
    if (hides)
        stale_note_overwrite(c, hash, 0);
    return hides;
}

static void claim_batch(struct attacher *a, const struct found *items, unsigned count)
{
    struct cache *c = a->job->cache;
    struct slab_claim claims[BATCH_ITEMS];
    uint64_t hashes[BATCH_ITEMS];
    unsigned good_count = 0;
    ASSERT(count > 0 && count <= BATCH_ITEMS);
    for (unsigned i = 0; i < count; i++) {
        slab_handle h = items[i].handle;
        if (!is_plausible(c, h))
            continue;
        const struct item *it = item_at(c, h);
        lru_attach_prefetch(a->job->lru, h);
        uint64_t hash = item_hash(c, it);
        if (!index_is_word_of(c->index, items[i].hash_like, hash))
            continue;
        if (a->has_flash)
            index_prefetch(c->index, hash);
        hashes[good_count] = hash;
        claims[good_count++] =
            (struct slab_claim){.handle = h,
                                .cls = lru_class(it->lru_id),
                                .accounted_bytes = item_accounted_bytes(it),
                                .real_bytes = max_u64(item_real_bytes(it), sizeof(struct item))};
    }
    slab_attach_items(c->slab, claims, good_count);
    a->bad_words += count - good_count;
    for (unsigned i = 0; i < good_count; i++) {
        if (claims[i].result == 0)
            item_claimed(a, claims[i].handle, a->has_flash && item_hides_words(c, hashes[i]));
        else
            a->bad_words++;
    }
}

/* The header, and the line in which the key may continue. */
static void prefetch_items(const struct cache *c, const struct found *items, size_t from,
                           size_t count)
{
    for (size_t i = from; i < count && i < from + BATCH_ITEMS; i++) {
        const char *it = (const char *)item_at(c, items[i].handle);
        __builtin_prefetch(it);
        if ((uintptr_t)it % CACHE_LINE_BYTES != 0)
            __builtin_prefetch(it + CACHE_LINE_BYTES);
    }
}

static void visit_to_claim(void *ctx, uint64_t hash_like, index_slot *slot, index_word w)
{
    struct attacher *a = ctx;
    struct cache *c = a->job->cache;
    enum index_kind kind = index_kind(c->index, w);
    ASSERT(kind != INDEX_NONE && index_load(slot) == w);
    if (kind == INDEX_RAM && !is_in_arena(c, index_handle(c->index, w))) {
        a->bad_words++;
    } else if (kind == INDEX_RAM) {
        if (index_heat(c->index, w) != 0) /* clean once: it hides its record */
            index_set_heat(c->index, hash_like, slot, 0);
        found_list_add(a, &a->items, hash_like, index_handle(c->index, w));
    } else if (kind == INDEX_FLASH) {
        a->has_flash = true;
        bool there = c->ext && ext_attach_object(c->ext, index_place(c->index, w), index_len(c->index, w));
        a->report.flash_objects += there;
        a->bad_flash_words += !there;
    }
}

/* After all records of the shard were counted. */
static void visit_to_drop_bad_flash_word(void *ctx, uint64_t hash_like, index_slot *slot, index_word w)
{
    struct attacher *a = ctx;
    struct cache *c = a->job->cache;
    if (index_kind(c->index, w) != INDEX_FLASH ||
        (c->ext && ext_attach_may_hold(c->ext, index_place(c->index, w), index_len(c->index, w))))
        return;
    bool is_gone = !c->ext || ext_attach_is_gone(c->ext, index_place(c->index, w));
    if (is_gone)
        key_departs_with_flash(c, hash_like);
    a->report.flash_objects -= attach_drop_lost_word(c, hash_like, slot, index_rank(c->index, w));
    a->report.dropped_objects += !is_gone;
    a->report.gone_objects += is_gone;
}

/* After all good items of the shard were claimed: is this the first word of one of them? */
static void visit_to_drop_bad_word(void *ctx, uint64_t hash_like, index_slot *slot, index_word w)
{
    struct attacher *a = ctx;
    struct cache *c = a->job->cache;
    if (index_kind(c->index, w) != INDEX_RAM)
        return;
    slab_handle h = index_handle(c->index, w);
    if (lru_attach_is_live(a->job->lru, h)) {
        uint64_t hash = item_hash(c, item_at(c, h));
        if (index_is_word_of(c->index, hash_like, hash) && index_find_handle(c->index, hash, h) == slot)
            return;
    }
    a->report.flash_objects -= attach_drop_lost_word(c, hash_like, slot, INDEX_RANK_MAX);
    a->report.dropped_items++;
}

static void claim_shard(struct attacher *a, unsigned shard)
{
    ASSERT(shard < INDEX_SHARD_COUNT);
    lock_assert_held(index_shard_lock(a->job->cache->index, shard));
    a->items.count = 0;
    a->bad_words = a->bad_flash_words = 0;
    a->has_flash = false;
    walk_shard(a, shard, visit_to_claim);
    if (a->bad_flash_words > 0)
        walk_shard(a, shard, visit_to_drop_bad_flash_word);
    sort_items(a);
    const struct found *items = a->items.at;
    size_t count = a->error == 0 ? a->items.count : 0;
    prefetch_items(a->job->cache, items, 0, count);
    for (size_t i = 0; i < count; i += BATCH_ITEMS) {
        prefetch_items(a->job->cache, items, i + BATCH_ITEMS, count);
        claim_batch(a, items + i, (unsigned)min_u64(count - i, BATCH_ITEMS));
    }
    if (a->bad_words > 0)
        walk_shard(a, shard, visit_to_drop_bad_word);
}

/* ---- look back ---- */

static void visit_to_look_back(void *ctx, uint64_t hash_like, index_slot *slot, index_word w)
{
    struct attacher *a = ctx;
    const struct index *ix = a->job->cache->index;
    (void)hash_like, (void)slot;
    if (index_kind(ix, w) == INDEX_RAM)
        lru_attach_look_back(a->job->lru, a->part, index_handle(ix, w));
}

static void look_back_shard(struct attacher *a, unsigned shard)
{
    lock_assert_held(index_shard_lock(a->job->cache->index, shard));
    walk_shard(a, shard, visit_to_look_back);
}

/* ---- the walks ---- */

static void *take_shards(void *arg)
{
    ASSERT(((struct attacher *)arg)->job->shard != NULL);
    struct attacher *a = arg;
    unsigned shard;
    while ((shard = atomic_fetch_add(&a->job->next_shard, 1)) < INDEX_SHARD_COUNT) {
        struct lock *lock = index_shard_lock(a->job->cache->index, shard);
        lock_take(lock);
        a->job->shard(a, shard);
        lock_release(lock);
        progress_add(1);
    }
    return NULL;
}

/* All shards, by all attachers. A thread that can't be started leaves its share to the others. */
static void walk(struct attach_job *job, struct attacher *a, unsigned count,
                 void (*shard)(struct attacher *a, unsigned shard))
{
    ASSERT(count > 0 && count <= THREADS_MAX);
    lock_assert_none_held();
    job->shard = shard;
    atomic_store(&job->next_shard, 0);
    for (unsigned i = 1; i < count; i++)
        a[i].running = pthread_create(&a[i].thread, NULL, take_shards, &a[i]) == 0;
    take_shards(&a[0]);
    for (unsigned i = 1; i < count; i++)
        if (a[i].running)
            pthread_join(a[i].thread, NULL);
}

static unsigned thread_count(const struct cache *c)
{
    uint64_t bytes =
        arena_used_bytes(c->arena, ARENA_USE_SLAB) + arena_used_bytes(c->arena, ARENA_USE_INDEX);
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    uint64_t count = min_u64(1 + bytes / BYTES_PER_THREAD, cpus > 0 ? (uint64_t)cpus : 1);
    ASSERT(count > 0);
    return (unsigned)min_u64(count, THREADS_MAX);
}

/* ---- the end ---- */

static void unlink_expired(struct cache *c, const struct attacher *a, struct attach_report *out)
{
    ASSERT(a->expired.count <= EXPIRED_MAX);
    lock_assert_none_held();
    for (size_t i = 0; i < a->expired.count; i++) {
        struct item *it = item_at(c, a->expired.at[i].handle);
        uint64_t hash = item_hash(c, it);
        struct lock *lock = index_lock(c->index, hash);
        lock_take(lock);
        bool goes = !(item_flags(it) & ITEM_MAY_HIDE_FLASH); /* otherwise after its check */
        if (goes)
            item_unlink(c, it, hash);
        lock_release(lock);
        out->expired_items += goes;
        out->ram_items -= goes;
    }
}

/* A flat LRU has only COLD; items that another mode left in other lists would never be found again. */
static void flatten(struct cache *c)
{
    ASSERT(!c->config->lru_segmented);
    static const enum lru_segment others[] = {LRU_WARM, LRU_HOT, LRU_TEMP};
    for (unsigned cls = 1; cls <= slab_class_count(c->slab); cls++) {
        for (unsigned i = 0; i < ARRAY_COUNT(others); i++) {
            uint8_t id = lru_id_of(cls, others[i]);
            while (lru_count(c->lru, id) > 0) {
                lock_take(lru_lock(c->lru, id));
                struct item *it = lru_tail_locked(c->lru, id);
                lock_release(lru_lock(c->lru, id));
                lru_move(c->lru, it, LRU_COLD);
            }
        }
    }
}

static void add_reports(struct attach_report *sum, const struct attach_report *r)
{
    sum->ram_items += r->ram_items;
    sum->flash_objects += r->flash_objects;
    sum->dropped_items += r->dropped_items;
    sum->dropped_objects += r->dropped_objects;
    sum->gone_objects += r->gone_objects;
    sum->shadow_items += r->shadow_items;
}

/* Every item's cas stays below the next new one, and the engine knows the same flush_all as
 * the cache, even if the memory says otherwise. */
static void take_numbers(struct cache *c, const struct attacher *a, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        if (a[i].cas_max > atomic_load(&c->root->cas_counter))
            atomic_store(&c->root->cas_counter, a[i].cas_max);
    }
    if (c->ext)
        ext_flush_all(c->ext, atomic_load(&c->root->flush_unix));
}

static int attach_with(struct cache *c, struct attacher *a, unsigned count,
                       struct attach_report *out)
{
    struct attach_job job = {.cache = c, .now = clock_now_sec()};
    ASSERT(count > 0 && count <= THREADS_MAX);
    job.lru = lru_attach_begin(c->lru, arena_reserve_bytes(c->arena) >> c->handle_shift, count);
    if (!job.lru)
        return -ENOMEM;
    for (unsigned i = 0; i < count; i++) {
        a[i].job = &job;
        a[i].part = i;
    }
    walk(&job, a, count, claim_shard);
    slab_attach_done(c->slab);
    lru_attach_all_known(job.lru);
    if (lru_attach_is_broken(job.lru))
        walk(&job, a, count, look_back_shard);
    int rc = lru_attach_end(job.lru, &out->lru_pieces);
    for (unsigned i = 0; i < count; i++) {
        add_reports(out, &a[i].report);
        if (a[i].error != 0)
            rc = a[i].error;
    }
    if (rc != 0)
        return rc;
    for (unsigned i = 0; i < count; i++)
        unlink_expired(c, &a[i], out);
    if (!c->config->lru_segmented)
        flatten(c);
    take_numbers(c, a, count);
    if (c->ext)
        ext_attach_done(c->ext);
    return 0;
}

int cache_attach(struct cache *c, struct attach_report *out)
{
    uint64_t start_us = clock_mono_us();
    unsigned count = thread_count(c);
    lock_assert_none_held();
    memset(out, 0, sizeof(*out));
    struct attacher *a = calloc(count, sizeof(a[0]));
    if (!a)
        return -ENOMEM;
    progress_begin("taking over the memory file", INDEX_SHARD_COUNT);
    int rc = attach_with(c, a, count, out);
    progress_end();
    for (unsigned i = 0; i < count; i++) {
        free(a[i].expired.at);
        free(a[i].items.at);
        free(a[i].spare.at);
    }
    free(a);
    out->micros = clock_mono_us() - start_us;
    return rc;
}
