/* crawler.c: see crawler.h. A job is: for each shard, for each piece of
 * PIECE_BUCKETS buckets: under the shard's lock note the objects (and unlink
 * expired ones), then, without the lock, read those on flash and pass all to the sink.
 *
 * It owns the thread, its worker and the one piece at work. The page of a noted object on flash is pinned until the object
 * is read. While has_job is true, the job doesn't change, so the thread reads it without the lock; it alone ends a job.
 * next waits only while the crawl of crawler_tidy is at work, which then ends at its next piece. */
#include "crawler.h"

#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#include "cache_step.h"
#include "items/clean.h"
#include "items/object.h"
#include "base/log.h"
#include "operator/watch.h"

#define PIECE_BUCKETS 16
#define PAUSE_BUCKETS 1024u /* walked between two pauses of lru_crawler_sleep */
#define PIECE_OBJECTS (PIECE_BUCKETS * INDEX_BUCKET_WORDS)

struct job {
    enum crawler_job what;
    uint64_t class_mask;
    struct crawler_sink sink; /* of a dump */
};

struct crawler {
    /* const after init */
    struct cache *cache;
    pthread_t thread;
    /* under lock (LOCK_CONTROL) */
    struct lock lock;
    pthread_cond_t wake;
    bool stop, has_job, has_next;
    bool is_tidy; /* the job is that of crawler_tidy */
    struct job job, next;
    /* atomic */
    _Atomic(bool) running;
    _Atomic(bool) stopping; /* the job ends at its next piece */
    _Atomic(int) started; /* 0 not yet, 1 runs, else -errno */
    /* the crawler thread's own */
    struct thread_stats stats;
    struct cache_worker *worker;
    uint64_t checked[SLAB_CLASS_MAX];
};

/* One noted object of a piece. */
struct noted {
    struct cache_meta meta;
    struct ext_read rd;
    struct piece *piece;
    bool is_read;
    bool show; /* meta tells of it */
};

struct piece {
    struct crawler *cr;
    uint32_t now;
    unsigned count, reading;
    struct noted objects[PIECE_OBJECTS];
};

static void note_item(struct piece *p, struct item *it)
{
    struct cache_meta *m = &p->objects[p->count].meta;
    unsigned flags = item_flags(it);
    ASSERT(p->count < PIECE_OBJECTS && (flags & ITEM_LINKED));
    memset(&p->objects[p->count], 0, sizeof(p->objects[0]));
    memcpy(m->key, item_key(it), it->key_bytes);
    m->key_bytes = it->key_bytes;
    m->exptime_sec = atomic_load_explicit(&it->exptime_sec, memory_order_relaxed);
    m->time_sec = atomic_load_explicit(&it->time_sec, memory_order_relaxed);
    m->value_bytes = it->value_bytes;
    m->client_flags = item_client_flags(it);
    m->accounted_bytes = (uint32_t)item_accounted_bytes(it);
    m->cas = item_cas(it);
    m->fetched = flags & ITEM_FETCHED;
    m->binary_key = flags & ITEM_BINARY_KEY;
    m->slab_class = (uint8_t)lru_class(it->lru_id);
    p->objects[p->count++].show = true;
}

static void visit(void *ctx, uint64_t hash_like, index_slot *slot, index_word w)
{
    struct piece *p = ctx;
    struct crawler *cr = p->cr;
    struct cache *c = cr->cache;
    switch (index_kind(c->index, w)) {
    case INDEX_RAM: {
        struct item *it = item_at(c, index_handle(c->index, w));
        unsigned cls = lru_class(it->lru_id);
        ASSERT(cls > 0 && cls < SLAB_CLASS_MAX);
        uint32_t tocrawl = atomic_load_explicit(&c->config->lru_crawler_tocrawl, memory_order_relaxed);
        if (!(cr->job.class_mask >> cls & 1) || (tocrawl != 0 && cr->checked[cls] >= tocrawl))
            return;
        cr->checked[cls]++;
        class_count(c, cls, crawler_items_checked);
        enum item_death death = item_death(c, it, p->now);
        if (death != ITEM_ALIVE) {
            uint64_t hash = item_hash(c, it);
            if (item_refs(it) != 1)
                return;
            item_forget_copy(c, it, hash);
            if (item_flags(it) & ITEM_MAY_HIDE_FLASH) { /* dropped after its check */
                stale_note_overwrite(c, hash, 0);
                cache_wake_maint(c);
                return;
            }
            class_count(c, cls, crawler_reclaimed);
            item_unlink_dead(c, it, hash, death);
        } else if (cr->job.what != CRAWLER_EXPIRE) {
            item_forget_copy(c, it, item_hash(c, it)); /* which comes later, and is the same object */
            note_item(p, it);
        }
        return;
    }
    case INDEX_FLASH:
        if (cr->job.what == CRAWLER_EXPIRE || !c->ext)
            return;
        if (tag_is_clean(c, hash_like)) { /* its item comes later */
            flash_forget(c, hash_like, slot, false);
            return;
        }
        ASSERT(p->count < PIECE_OBJECTS); /* a word is visited once */
        struct noted *n = &p->objects[p->count++];
        memset(n, 0, sizeof(*n));
        n->rd.place = index_place(c->index, w);
        n->rd.len_class = index_len(c->index, w);
        n->is_read = true;
        ext_pin(c->ext, n->rd.place);
        return;
    default:
        return;
    }
}

/* Fills the meta of a read record. False: nothing to show. */
static bool meta_of_record(struct crawler *cr, struct noted *n, uint32_t now)
{
    struct cache *c = cr->cache;
    struct cache_meta *m = &n->meta;
    struct ext_record r;
    if (ext_read_record(&n->rd, NULL, 0, &r) != 0)
        return false;
    if (cache_death(c, record_time_sec(&r), record_exptime_sec(&r), r.cas, now) != ITEM_ALIVE)
        return false;
    unsigned flags = item_flags_of(r.item_flags);
    unsigned extra = (c->config->use_cas ? ITEM_CAS : 0) | (r.client_flags ? ITEM_CFLAGS : 0);
    memcpy(m->key, r.key, r.key_bytes);
    m->key_bytes = r.key_bytes;
    m->exptime_sec = record_exptime_sec(&r);
    m->time_sec = record_time_sec(&r);
    m->value_bytes = r.value_bytes;
    m->client_flags = r.client_flags;
    m->accounted_bytes = (uint32_t)item_accounted_bytes_of(r.key_bytes, r.value_bytes, extra);
    m->cas = r.cas;
    m->fetched = flags & ITEM_FETCHED;
    m->binary_key = flags & ITEM_BINARY_KEY;
    m->on_flash = true;
    m->slab_class = (uint8_t)slab_class_of(c->slab, m->accounted_bytes);
    uint64_t offset;
    m->ext_page = ext_page_of(c->ext, n->rd.place, &offset);
    m->ext_offset = (uint32_t)offset;
    return cr->job.class_mask >> m->slab_class & 1;
}

/* Copies from the record what a dump shows and gives its buffer back: otherwise a piece of large values would
 * take as much memory as all of them together. */
static void take_record(struct noted *n)
{
    ASSERT(n->is_read && n->rd.state == EXT_READ_DONE);
    n->show = meta_of_record(n->piece->cr, n, n->piece->now);
    ext_read_finish(&n->rd);
}

static void noted_read_done(struct ext_read *rd)
{
    struct noted *n = rd->owner;
    ASSERT(n->is_read && n->piece->reading > 0);
    n->piece->reading--;
    take_record(n);
}

/* Reads the piece's flash objects and waits for them; this thread has nothing else to do. */
static void read_piece(struct crawler *cr, struct piece *p)
{
    struct cache_worker *w = cr->worker;
    lock_assert_none_held();
    ASSERT(p->count <= PIECE_OBJECTS);
    for (unsigned i = 0; i < p->count; i++) {
        struct noted *n = &p->objects[i];
        if (!n->is_read)
            continue;
        n->piece = p;
        n->rd.done = noted_read_done;
        n->rd.owner = n;
        ext_read_start(w->ring, &n->rd, n->rd.place, n->rd.len_class);
        if (n->rd.state == EXT_READ_DONE)
            take_record(n);
        else
            p->reading++;
    }
    while (p->reading > 0) {
        struct pollfd fd = {.fd = ext_ring_fd(w->ring), .events = POLLIN};
        if (atomic_load_explicit(&cr->stopping, memory_order_relaxed))
            ext_ring_give_up(w->ring);
        ext_ring_submit(w->ring);
        poll(&fd, 1, 1000);
        ext_ring_reap(w->ring);
    }
}

/* False: the sink takes no more. */
static bool hand_on(struct crawler *cr, const struct piece *p)
{
    lock_assert_none_held();
    ASSERT(p->reading == 0 && cr->job.what != CRAWLER_EXPIRE);
    for (unsigned i = 0; i < p->count; i++) {
        const struct noted *n = &p->objects[i];
        if (n->show && cr->job.sink.item(cr->job.sink.ctx, &n->meta) < 0)
            return false;
    }
    return true;
}

static bool crawl(struct crawler *cr, struct piece *p)
{
    lock_assert_none_held();
    struct cache *c = cr->cache;
    unsigned walked = 0; /* buckets since the last pause */
    memset(cr->checked, 0, sizeof(cr->checked));
    p->cr = cr;
    for (unsigned shard = 0; shard < INDEX_SHARD_COUNT; shard++) {
        uint64_t pos = 0;
        bool more = true;
        while (more) {
            if (atomic_load_explicit(&cr->stopping, memory_order_relaxed))
                return false;
            p->count = 0;
            p->reading = 0;
            p->now = clock_now_sec();
            struct lock *lock = index_shard_lock(c->index, shard);
            lock_take(lock);
            more = index_walk(c->index, shard, &pos, PIECE_BUCKETS, visit, p);
            lock_release(lock);
            if (cr->job.what != CRAWLER_EXPIRE) {
                if (cr->worker->ring)
                    read_piece(cr, p);
                if (!hand_on(cr, p))
                    return false;
            } else if ((walked += PIECE_BUCKETS) >= PAUSE_BUCKETS) {
                walked = 0;
                uint32_t pause_us =
                    atomic_load_explicit(&c->config->lru_crawler_sleep, memory_order_relaxed);
                if (pause_us != 0)
                    usleep(pause_us);
            }
        }
    }
    return true;
}

/* The lock is held, as for end_job. */
static void begin_job(struct crawler *cr, const struct job *job)
{
    ASSERT(!cr->has_job && !cr->has_next);
    lock_assert_held(&cr->lock);
    cr->job = *job;
    cr->has_job = true;
    atomic_store(&cr->running, true);
    cache_count(cr->cache, CACHE_N_lru_crawler_starts, 1);
    pthread_cond_signal(&cr->wake);
}

/* The one that waited for it begins. */
static void end_job(struct crawler *cr)
{
    ASSERT(cr->has_job && (cr->is_tidy || !cr->has_next));
    lock_assert_held(&cr->lock);
    bool has_next = cr->has_next;
    cr->has_job = cr->has_next = cr->is_tidy = false;
    atomic_store(&cr->stopping, cr->stop);
    if (has_next)
        begin_job(cr, &cr->next);
    else
        atomic_store(&cr->running, false);
}

static void *crawler_main(void *arg)
{
    struct crawler *cr = arg;
    struct piece *p = malloc(sizeof(*p));
    cr->worker = p ? cache_worker_create(cr->cache, &cr->stats) : NULL;
    if (!cr->worker) {
        int err = p && errno ? -errno : -ENOMEM;
        free(p);
        atomic_store_explicit(&cr->started, err, memory_order_release);
        return NULL;
    }
    atomic_store_explicit(&cr->started, 1, memory_order_release);
    lock_take(&cr->lock);
    while (!cr->stop) {
        if (!cr->has_job) {
            lock_wait(&cr->lock, &cr->wake, -1);
            continue;
        }
        lock_release(&cr->lock);
        ASSERT(atomic_load(&cr->running));
        struct crawler_sink sink = cr->job.sink;
        bool dump = cr->job.what != CRAWLER_EXPIRE;
        index_hold_growth(cr->cache->index, dump); /* a dump names each key once */
        bool complete = crawl(cr, p);
        index_hold_growth(cr->cache->index, false);
        cache_wake_maint(cr->cache);
        lock_take(&cr->lock);
        end_job(cr);
        if (!dump)
            continue;
        lock_release(&cr->lock); /* after this callback, the next dump may be requested */
        sink.done(sink.ctx, complete);
        lock_take(&cr->lock);
    }
    if (cr->has_job && cr->job.what != CRAWLER_EXPIRE)
        cr->job.sink.done(cr->job.sink.ctx, false);
    lock_release(&cr->lock);
    cache_worker_destroy(cr->worker);
    free(p);
    return NULL;
}

struct crawler *crawler_create(struct cache *c)
{
    struct crawler *cr = aligned_alloc(CACHE_LINE_BYTES, round_up(sizeof(*cr), CACHE_LINE_BYTES));
    if (!cr)
        return NULL;
    memset(cr, 0, sizeof(*cr));
    cr->cache = c;
    lock_init(&cr->lock, LOCK_CONTROL);
    lock_cond_init(&cr->wake);
    int rc = -pthread_create(&cr->thread, NULL, crawler_main, cr);
    if (rc == 0 && (rc = lock_await_start(&cr->started)) != 0)
        pthread_join(cr->thread, NULL);
    if (rc != 0) {
        pthread_cond_destroy(&cr->wake);
        lock_destroy(&cr->lock);
        free(cr);
        errno = -rc;
        return NULL;
    }
    pthread_setname_np(cr->thread, "ex-crawler");
    return cr;
}

void crawler_destroy(struct crawler *cr)
{
    lock_take(&cr->lock);
    cr->stop = true;
    atomic_store(&cr->stopping, true);
    pthread_cond_signal(&cr->wake);
    lock_release(&cr->lock);
    pthread_join(cr->thread, NULL);
    pthread_cond_destroy(&cr->wake);
    lock_destroy(&cr->lock);
    free(cr);
}

enum crawler_result crawler_start(struct crawler *cr, uint64_t class_mask, enum crawler_job job,
                                  const struct crawler_sink *sink)
{
    enum crawler_result result = CRAWLER_BUSY;
    struct job wanted = {.what = job, .class_mask = class_mask};
    ASSERT(class_mask != 0 && (sink != NULL) == (job != CRAWLER_EXPIRE));
    if (!atomic_load_explicit(&cr->cache->config->lru_crawler, memory_order_relaxed))
        return CRAWLER_DISABLED;
    if (sink)
        wanted.sink = *sink;
    lock_take(&cr->lock);
    if (!cr->has_job) {
        begin_job(cr, &wanted);
        result = CRAWLER_OK;
    } else if (cr->is_tidy && !cr->has_next) {
        cr->next = wanted;
        cr->has_next = true;
        atomic_store(&cr->stopping, true);
        result = CRAWLER_OK;
    }
    lock_release(&cr->lock);
    return result;
}

void crawler_tidy(struct crawler *cr)
{
    if (!atomic_load_explicit(&cr->cache->config->lru_crawler, memory_order_relaxed))
        return;
    lock_take(&cr->lock);
    if (!cr->has_job) {
        begin_job(cr, &(struct job){.what = CRAWLER_EXPIRE, .class_mask = ~(uint64_t)0});
        cr->is_tidy = true;
    }
    lock_release(&cr->lock);
}

bool crawler_is_running(const struct crawler *cr) { return atomic_load(&cr->running); }
