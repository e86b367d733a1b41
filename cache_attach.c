/* cache_attach.c: takes over the objects of a process that ended, or was killed
 * between any two of its stores.
 *
 * The index decides what is there: an item lives iff a word names it, a record
 * iff a word names its place. Everything else is made anew from that, in two
 * walks over the index, by a few threads that take shards one by one:
 *
 *   claim   RAM words: is it a whole item, with this key's shard and tag? Then
 *           its memory and account are taken, it has one reference (the link's),
 *           and it is SHADOW if a flash word of its tag stands beside it.
 *           Flash words: counted for their page.
 *   look    each item's links, which are kept as they were (lru_attach_*)
 *
 * What a word names is whole at any instant, because it is finished before the
 * word is stored and its memory is freed after the word is gone; so the checks
 * of claim fail for no kill, only for broken memory. Where one fails, all flash
 * words of the tag go too: among them could be an older value of the key.
 *
 * Threads: one caller, nobody else in the cache; its helpers end before it
 * returns. Locks: LOCK_COLUMN of the shard at work, LOCK_SLAB and LOCK_IO_QUEUE inside.
 */
#include <pthread.h>
#include <unistd.h>

#include "cache_internal.h"
#include "settings.h"

#define BUCKETS_PER_BATCH 16
#define BATCH_WORDS (BUCKETS_PER_BATCH * INDEX_BUCKET_WORDS)
#define THREADS_MAX 8
#define BYTES_PER_THREAD (32 * MiB) /* of items and index: less is not worth a thread */
#define EXPIRED_MAX 65536           /* dropped by each thread; more is left to the crawler */

struct found {
    index_slot *slot;
    index_word word;
    uint64_t hash_like; /* stands for the word in calls of index.h */
    uint64_t hash;      /* of the item's key */
    bool plausible;
};

struct attacher {
    struct attach_job *job;
    pthread_t thread;
    bool running;
    unsigned part;
    struct attach_report report;
    uint64_t *doomed; /* hashes whose flash words may be older than what was lost */
    size_t doomed_count, doomed_room;
    slab_handle *expired; /* EXPIRED_MAX */
    size_t expired_count;
    bool no_memory;
    unsigned found_count;
    struct found found[BATCH_WORDS];
};

struct attach_job {
    struct cache *cache;
    struct lru_attach *lru;
    uint32_t now;
    void (*batch)(struct attacher *a);
    _Atomic(unsigned) next_shard;
};

/* ---- claim ---- */

static void doom(struct attacher *a, uint64_t hash)
{
    if (a->doomed_count == a->doomed_room) {
        size_t room = a->doomed_room ? a->doomed_room * 2 : 64;
        uint64_t *doomed = realloc(a->doomed, room * sizeof(doomed[0]));
        if (!doomed) {
            a->no_memory = true;
            return;
        }
        a->doomed = doomed;
        a->doomed_room = room;
    }
    a->doomed[a->doomed_count++] = hash;
}

/* Could this be an item, as far as its header tells? */
static bool is_plausible(struct cache *c, slab_handle h)
{
    uint64_t offset = (uint64_t)h << c->handle_shift;
    if (offset > arena_reserve_bytes(c->arena) - sizeof(struct item) - CACHE_KEY_BYTES_MAX - 12)
        return false;
    const struct item *it = item_at(c, h);
    unsigned flags = item_flags(it), known = 0;
#define X(name, bit, what) known |= ITEM_##name;
    ITEM_FLAG_TABLE(X)
#undef X
    return it->key_bytes > 0 && it->key_bytes <= CACHE_KEY_BYTES_MAX && !(flags & ~known) &&
           !(flags & ITEM_WINNER) && slab_class_of(c->slab, item_accounted_bytes(it)) == lru_class(it->lru_id);
}

/* Is the word at slot one that index.h finds for the key? *others: the flash words that it finds too. */
static bool is_found(struct cache *c, const struct found *f, index_slot *others[INDEX_MATCH_MAX],
                     unsigned *others_count)
{
    index_slot *slots[INDEX_MATCH_MAX];
    bool found = false;
    *others_count = 0;
    if (index_shard_of(c->index, f->hash) != index_shard_of(c->index, f->hash_like))
        return false;
    unsigned n = index_match(c->index, f->hash, slots);
    for (unsigned i = 0; i < n; i++) {
        found |= slots[i] == f->slot;
        if (index_kind(c->index, index_load(slots[i])) == INDEX_FLASH)
            others[(*others_count)++] = slots[i];
    }
    return found;
}

static void claim_item(struct attacher *a, const struct found *f)
{
    struct cache *c = a->job->cache;
    slab_handle h = index_handle(c->index, f->word);
    struct item *it = item_at(c, h);
    index_slot *others[INDEX_MATCH_MAX];
    unsigned others_count = 0;
    if (!f->plausible || !is_found(c, f, others, &others_count) ||
        slab_attach_item(c->slab, h, lru_class(it->lru_id), item_accounted_bytes(it),
                         max_u64(item_real_bytes(it), sizeof(struct item))) != 0) {
        index_clear(c->index, f->hash_like, f->slot);
        doom(a, f->hash_like);
        a->report.dropped_items++;
        return;
    }
    if (item_refs(it) != 1)
        atomic_store_explicit(&it->refcount, 1, memory_order_relaxed);
    unsigned was = item_flags(it), flags = (was | ITEM_LINKED) & ~(unsigned)ITEM_SHADOW;
    if (others_count > 0)
        flags |= ITEM_SHADOW;
    if (flags != was)
        atomic_store_explicit(&it->flags, (uint16_t)flags, memory_order_relaxed);
    for (unsigned i = 0; c->ext && i < others_count; i++)
        dup_enqueue(c, f->hash, index_place(c->index, index_load(others[i])));
    /* The only list of a flat LRU; the item was not yet linked. */
    if (!c->settings->lru_segmented && it->next == 0 && it->prev == 0)
        it->lru_id = lru_id_of(lru_class(it->lru_id), LRU_COLD);
    lru_attach_live(a->job->lru, h);
    cache_sizes_count(c, it, 1);
    a->report.ram_items++;
    a->report.shadow_items += others_count > 0;
    if (a->expired_count < EXPIRED_MAX && item_death(c, it, a->job->now) != ITEM_ALIVE)
        a->expired[a->expired_count++] = h;
}

static void claim_object(struct attacher *a, const struct found *f)
{
    struct cache *c = a->job->cache;
    if (c->ext && ext_attach_object(c->ext, index_place(c->index, f->word), index_len(c->index, f->word))) {
        a->report.flash_objects++;
        return;
    }
    index_clear(c->index, f->hash_like, f->slot);
    doom(a, f->hash_like);
    a->report.dropped_objects++;
}

/* Three passes, so that memory is asked for well before it is used. */
static void claim_batch(struct attacher *a)
{
    struct cache *c = a->job->cache;
    for (unsigned i = 0; i < a->found_count; i++) {
        struct found *f = &a->found[i];
        if (index_kind(c->index, f->word) != INDEX_RAM)
            continue;
        const char *it = (const char *)item_at(c, index_handle(c->index, f->word));
        __builtin_prefetch(it);
        __builtin_prefetch(it + CACHE_LINE_BYTES);
    }
    for (unsigned i = 0; i < a->found_count; i++) {
        struct found *f = &a->found[i];
        if (index_kind(c->index, f->word) != INDEX_RAM)
            continue;
        f->plausible = is_plausible(c, index_handle(c->index, f->word));
        if (!f->plausible)
            continue;
        f->hash = item_hash(c, item_at(c, index_handle(c->index, f->word)));
        index_prefetch(c->index, f->hash);
    }
    for (unsigned i = 0; i < a->found_count; i++) {
        const struct found *f = &a->found[i];
        enum index_kind kind = index_kind(c->index, f->word);
        if (kind == INDEX_RAM)
            claim_item(a, f);
        else if (kind == INDEX_FLASH)
            claim_object(a, f);
    }
}

/* ---- look ---- */

static void look_batch(struct attacher *a)
{
    struct cache *c = a->job->cache;
    slab_handle items[BATCH_WORDS];
    unsigned count = 0;
    for (unsigned i = 0; i < a->found_count; i++) {
        if (index_kind(c->index, a->found[i].word) != INDEX_RAM)
            continue;
        items[count] = index_handle(c->index, a->found[i].word);
        __builtin_prefetch(item_at(c, items[count++]));
    }
    for (unsigned i = 0; i < count; i++)
        lru_attach_prefetch(a->job->lru, items[i]);
    for (unsigned i = 0; i < count; i++)
        lru_attach_look(a->job->lru, a->part, items[i]);
}

/* ---- the walks ---- */

static void visit(void *ctx, uint64_t hash_like, index_slot *slot, index_word w)
{
    struct attacher *a = ctx;
    a->found[a->found_count++] = (struct found){.slot = slot, .word = w, .hash_like = hash_like};
}

static void *walk_shards(void *arg)
{
    struct attacher *a = arg;
    struct index *ix = a->job->cache->index;
    unsigned shard;
    while ((shard = atomic_fetch_add(&a->job->next_shard, 1)) < INDEX_SHARD_COUNT) {
        struct lock *lock = index_shard_lock(ix, shard);
        uint64_t pos = 0;
        bool more = true;
        lock_take(lock);
        while (more) {
            a->found_count = 0;
            more = index_walk(ix, shard, &pos, BUCKETS_PER_BATCH, visit, a);
            a->job->batch(a);
        }
        lock_release(lock);
    }
    return NULL;
}

/* Walks all shards with all attachers. A thread that can't be started leaves its share to the others. */
static void walk(struct attach_job *job, struct attacher *a, unsigned count,
                 void (*batch)(struct attacher *a))
{
    job->batch = batch;
    atomic_store(&job->next_shard, 0);
    for (unsigned i = 1; i < count; i++)
        a[i].running = pthread_create(&a[i].thread, NULL, walk_shards, &a[i]) == 0;
    walk_shards(&a[0]);
    for (unsigned i = 1; i < count; i++)
        if (a[i].running)
            pthread_join(a[i].thread, NULL);
}

static unsigned thread_count(const struct cache *c)
{
    uint64_t bytes = arena_used_bytes(c->arena, ARENA_USE_SLAB) + arena_used_bytes(c->arena, ARENA_USE_INDEX);
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    uint64_t count = min_u64(1 + bytes / BYTES_PER_THREAD, cpus > 0 ? (uint64_t)cpus : 1);
    return (unsigned)min_u64(count, THREADS_MAX);
}

/* ---- the end ---- */

static void forget_tag(struct cache *c, uint64_t hash)
{
    struct lock *lock = index_lock(c->index, hash);
    lock_take(lock);
    flash_forget_tag(c, hash, false);
    lock_release(lock);
}

/* Flash words that go with something lost, or whose dropping the kill cut short. */
static void forget_doomed(struct cache *c, const struct attacher *a, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        for (size_t k = 0; k < a[i].doomed_count; k++)
            forget_tag(c, a[i].doomed[k]);
    for (unsigned s = 0; s < INDEX_SHARD_COUNT; s++) {
        uint64_t hash = atomic_load(&c->root->dropping[s]);
        if (hash == 0)
            continue;
        if (index_shard_of(c->index, hash) == s)
            forget_tag(c, hash);
        atomic_store(&c->root->dropping[s], 0);
    }
}

static void unlink_expired(struct cache *c, const struct attacher *a, struct attach_report *out)
{
    for (size_t i = 0; i < a->expired_count; i++) {
        struct item *it = item_at(c, a->expired[i]);
        uint64_t hash = item_hash(c, it);
        struct lock *lock = index_lock(c->index, hash);
        lock_take(lock);
        item_unlink(c, it, hash);
        lock_release(lock);
        out->expired_items++;
        out->ram_items--;
    }
}

/* A flat LRU has only COLD; what another mode left elsewhere would never be found again. */
static void flatten(struct cache *c)
{
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
    sum->shadow_items += r->shadow_items;
}

static int attach_with(struct cache *c, struct attacher *a, unsigned count, struct attach_report *out)
{
    struct attach_job job = {.cache = c, .now = clock_now_sec()};
    job.lru = lru_attach_begin(c->lru, arena_reserve_bytes(c->arena) >> c->handle_shift, count);
    if (!job.lru)
        return -ENOMEM;
    for (unsigned i = 0; i < count; i++) {
        a[i].job = &job;
        a[i].part = i;
        a[i].expired = malloc(EXPIRED_MAX * sizeof(a[i].expired[0]));
        if (!a[i].expired) {
            lru_attach_cancel(job.lru);
            return -ENOMEM;
        }
    }
    walk(&job, a, count, claim_batch);
    slab_attach_done(c->slab);
    walk(&job, a, count, look_batch);
    int rc = lru_attach_end(job.lru, &out->lru_pieces);
    for (unsigned i = 0; i < count; i++) {
        add_reports(out, &a[i].report);
        if (a[i].no_memory)
            rc = -ENOMEM;
    }
    if (rc != 0)
        return rc;
    forget_doomed(c, a, count);
    for (unsigned i = 0; i < count; i++)
        unlink_expired(c, &a[i], out);
    if (!c->settings->lru_segmented)
        flatten(c);
    c->settings->oldest_live_sec = clock_sec_of_unix(atomic_load(&c->root->flush_unix));
    if (c->ext)
        ext_attach_done(c->ext);
    return 0;
}

int cache_attach(struct cache *c, struct attach_report *out)
{
    uint64_t start_us = clock_mono_us();
    unsigned count = thread_count(c);
    memset(out, 0, sizeof(*out));
    struct attacher *a = calloc(count, sizeof(a[0]));
    if (!a)
        return -ENOMEM;
    int rc = attach_with(c, a, count, out);
    for (unsigned i = 0; i < count; i++) {
        free(a[i].doomed);
        free(a[i].expired);
    }
    free(a);
    out->micros = clock_mono_us() - start_us;
    return rc;
}
