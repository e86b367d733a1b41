/* maint_thread.c: see maint_thread.h. Each step is a function (m, now) -> did
 * it do something; the order of the table is the order of urgency.
 *
 * A step does a bounded amount of work and never waits for a device. It begins and ends with no lock held; what it
 * remembers between turns is in struct maint, which only this thread uses, except for the fields under the lock and the
 * atomic ones. */
#include "maint_thread.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>

#include "cache_step.h"
#include "items/debug.h"
#include "items/object.h"
#include "items/room.h"
#include "items/shortage.h"
#include "items/worth.h"
#include "stale_check.h"
#include "base/log.h"
#include "base/memory.h"
#include "operator/watch.h"

#define SLEEP_MAX_MS 50
#define SLEEP_BUSY_MS 1
#define FLUSH_ITEMS_PER_STEP 512
#define JUGGLES_PER_STEP 500
#define EXT_STEPS_PER_TURN 16
#define INDEX_SHARDS_PER_STEP 4
#define SPARSE_MAX_PCT 60
#define RUN_ITEMS_PER_STEP 256
#define CRAWL_INTERVAL_SEC 60
#define TRIM_INTERVAL_SEC 2

/* `automove`'s memory of a class. */
struct class_window {
    uint64_t evicted_before;
    double age_sum;      /* of the samples in the window */
    uint32_t evicting, samples;
};

struct maint {
    /* const after init */
    struct cache *cache;
    struct crawler *crawler;
    bool stepped;
    pthread_t thread; /* unless stepped */
    /* under lock (LOCK_CONTROL) */
    struct lock lock;
    bool reassign_wanted;
    int reassign_src, reassign_dst;
    /* atomic */
    _Atomic(bool) stop, reassign_running;
    _Atomic(const char *) busy_status; /* why the last page could not be moved at once */
    _Atomic(int) started; /* 0 not yet, 1 runs, else -errno */
    /* the maintenance thread's own */
    struct thread_stats stats;
    struct cache_worker *worker;
    unsigned index_shard;
    uint64_t stale_walk; /* where it is, 0: nowhere */
    unsigned move_src, move_dst; /* page move under way; move_src 0: none */
    uint64_t move_evicted;
    unsigned move_tries;
    bool run_open;
    uint64_t run;
    uint32_t run_pos;
    struct shortage shortage;
    uint64_t index_charged; /* bytes of the index that slab's limit was told of */
    uint32_t last_crawl_sec, last_automove_sec, last_trim_sec;
    bool gave_page; /* from the automover's last step: more may follow at once */
    uint64_t juggle_next_ms;
    struct class_window windows[SLAB_CLASS_MAX];
};

/* ---- LRU shares ---- */

static bool juggle_class(struct maint *m, unsigned cls, uint32_t now)
{
    ASSERT(cls > 0 && cls < SLAB_CLASS_MAX);
    struct cache *c = m->cache;
    const struct cache_config *s = m->cache->config;
    uint64_t total = 0;
    uint32_t hot_age = 0, warm_age = 0;
    bool did = false;
    for (unsigned i = 0; s->temp_lru && i < JUGGLES_PER_STEP; i++) {
        if (lru_pull_tail(c, cls, LRU_TEMP, 0, ROOM_JUGGLE, 0) != ROOM_MADE)
            break;
        did = true;
    }
    if (s->lru_segmented) {
        uint32_t cold_age = lru_tail_age_sec(c->lru, lru_id_of(cls, LRU_COLD), now);
        total = lru_shared_bytes(c->lru, cls);
        hot_age = (uint32_t)bounded_u64(cold_age * atomic_load(&s->hot_max_factor), UINT32_MAX);
        warm_age = (uint32_t)bounded_u64(cold_age * atomic_load(&s->warm_max_factor), UINT32_MAX);
    }
    /* A segment without work is not visited again; items that others give it can wait. */
    bool hot = true, warm = true, cold = true;
    for (unsigned i = 0; i < JUGGLES_PER_STEP && (hot || warm || cold); i++) {
        hot = hot && lru_pull_tail(c, cls, LRU_HOT, total, ROOM_JUGGLE, hot_age) == ROOM_MADE;
        warm = warm && lru_pull_tail(c, cls, LRU_WARM, total, ROOM_JUGGLE, warm_age) == ROOM_MADE;
        cold = cold && lru_pull_tail(c, cls, LRU_COLD, total, ROOM_JUGGLE, 0) == ROOM_MADE;
        did |= hot || warm || cold;
    }
    return did;
}

static bool step_juggle(struct maint *m, uint32_t now)
{
    struct cache *c = m->cache;
    bool did = false;
    uint64_t now_ms = clock_mono_ms();
    if (!c->config->lru_maintainer || now_ms < m->juggle_next_ms)
        return false;
    for (unsigned cls = 1; cls <= slab_class_count(c->slab); cls++)
        did |= juggle_class(m, cls, now);
    cache_count(c, CACHE_N_lru_maintainer_juggles, 1);
    m->juggle_next_ms = now_ms + (did ? SLEEP_BUSY_MS : SLEEP_MAX_MS);
    return false; /* has its own pace */
}

/* ---- flushing ahead of need ---- */

/* The class other than `not` with the most pages, two at least; 0: there is none. */
static unsigned class_with_most_pages(struct cache *c, unsigned not)
{
    unsigned best = 0;
    uint64_t most = 1;
    for (unsigned cls = slab_class_count(c->slab); cls >= 1; cls--) {
        struct slab_class_info info;
        slab_info(c->slab, cls, &info);
        if (cls != not && info.total_pages > most) {
            most = info.total_pages;
            best = cls;
        }
    }
    return best;
}

/* Moves cold items of a class to flash until it can spare a page; then the page goes to the pool, if
 * allowed. True iff something moved. */
static bool flush_page_of(struct maint *m, unsigned cls, bool may_move)
{
    ASSERT(cls >= 1 && cls <= slab_class_count(m->cache->slab));
    struct cache *c = m->cache;
    struct slab_class_info info;
    bool did = false;
    for (unsigned i = 0; i < FLUSH_ITEMS_PER_STEP; i++) {
        slab_info(c->slab, cls, &info);
        if (info.free_chunks >= info.chunks_per_page)
            return (may_move && slab_page_move(c->slab, cls, 0) == 0) || did;
        enum room r = lru_pull_tail(c, cls, LRU_COLD, 0, ROOM_FLUSH, 0);
        if ((r == ROOM_NONE || r == ROOM_PASSED) && lru_pull_tail(c, cls, LRU_HOT, 0, ROOM_JUGGLE, 0) != ROOM_MADE &&
            lru_pull_tail(c, cls, LRU_WARM, 0, ROOM_JUGGLE, 0) != ROOM_MADE)
            return did;
        if (r == ROOM_WAIT)
            return did;
        did = true;
    }
    return did;
}

static bool step_flush_ahead(struct maint *m, uint32_t now UNUSED)
{
    struct cache *c = m->cache;
    if (!c->ext)
        return false;
    double ratio = atomic_load(&c->config->slab_automove_freeratio);
    uint64_t target = max_u64(2, bounded_u64((double)(slab_limit_bytes(c->slab) / SLAB_PAGE_BYTES) * ratio, UINT64_MAX));
    if (slab_pages_left(c->slab) >= target)
        return false;
    if (atomic_load(&c->config->slab_automove) > 0) {
        unsigned cls = class_with_most_pages(c, 0);
        return cls != 0 && flush_page_of(m, cls, true);
    }
    bool did = false; /* the operator moves pages: each class keeps its own, and a page's worth of room */
    for (unsigned cls = 1; cls <= slab_class_count(c->slab); cls++)
        did |= flush_page_of(m, cls, false);
    return did;
}

/* Moves items idle for ext_item_age to flash even if there is room; only those worth it (ext_item_size). */
static bool step_flush_aged(struct maint *m, uint32_t now UNUSED)
{
    struct cache *c = m->cache;
    uint32_t age = atomic_load(&c->config->ext_item_age);
    bool did = false;
    if (!c->ext || age == UINT32_MAX)
        return false;
    unsigned first = slab_class_of(c->slab, atomic_load(&c->config->ext_item_size));
    for (unsigned cls = slab_class_count(c->slab); cls >= first && cls >= 1; cls--) {
        for (unsigned i = 0; i < FLUSH_ITEMS_PER_STEP; i++) {
            if (lru_pull_tail(c, cls, LRU_COLD, 0, ROOM_AGED, age) != ROOM_MADE)
                break;
            did = true;
        }
    }
    return did;
}

/* ---- the index and -m ---- */

static bool step_index(struct maint *m, uint32_t now UNUSED)
{
    ASSERT(m->index_shard < INDEX_SHARD_COUNT);
    struct cache *c = m->cache;
    bool did = false;
    for (unsigned i = 0; i < INDEX_SHARDS_PER_STEP; i++) {
        did |= index_grow_step(c->index, m->index_shard);
        m->index_shard = (m->index_shard + 1) % INDEX_SHARD_COUNT;
    }
    if (!c->ext)
        return did;
    uint64_t limit = cache_memory_bytes(c);
    uint64_t bytes = cache_memory_spare(c) + round_up(arena_used_bytes(c->arena, ARENA_USE_INDEX), SLAB_PAGE_BYTES);
    if (bytes + limit != m->index_charged) {
        m->index_charged = bytes + limit;
        index_set_limit(c->index, cache_index_limit(limit));
    }
    uint64_t excess = slab_set_limit(c->slab, limit > bytes ? limit - bytes : SLAB_PAGE_BYTES);
    if (excess > 0) {
        unsigned cls = class_with_most_pages(c, 0);
        did |= cls != 0 && flush_page_of(m, cls, true);
    }
    if (atomic_exchange(&c->index_full, false) && !shortage_will_end(c, &m->shortage)) {
        worth_index_full(c);
        ext_evict_oldest(c->ext);
        did = true;
    }
    did |= worth_begin_ghosts(c);
    if (atomic_load_explicit(&c->index_crowded, memory_order_relaxed))
        worth_index_look(c, index_capacity(cache_index_limit(limit)));
    return did;
}

static bool step_shortage(struct maint *m, uint32_t now)
{
    return shortage_step(m->cache, &m->shortage, now);
}

/* ---- slab pages between classes ---- */

static void page_busy(struct maint *m, const char *status)
{
    ASSERT(status != NULL && m->move_src != 0);
    cache_count(m->cache, CACHE_N_slab_reassign_busy_items, 1);
    atomic_store(&m->busy_status, status);
}

static bool step_page_move(struct maint *m, uint32_t now UNUSED)
{
    struct cache *c = m->cache;
    struct slab_class_info info;
    if (m->move_src == 0) {
        lock_take(&m->lock);
        if (m->reassign_wanted) {
            m->move_src = (unsigned)m->reassign_src;
            m->move_dst = (unsigned)m->reassign_dst;
            m->move_evicted = 0;
            m->move_tries = 0;
            m->reassign_wanted = false;
        }
        lock_release(&m->lock);
        if (m->move_src == 0)
            return false;
    }
    ASSERT(m->move_src <= slab_class_count(c->slab) && m->move_dst <= slab_class_count(c->slab));
    const char *held = debug_holds_of(c, m->move_src);
    if (held) {
        page_busy(m, held);
        return true;
    }
    for (unsigned i = 0; i < FLUSH_ITEMS_PER_STEP; i++) {
        slab_info(c->slab, m->move_src, &info);
        if (info.free_chunks >= info.chunks_per_page || info.total_pages < 2)
            break;
        enum room r = room_make(c, m->move_src, ROOM_EVICT);
        if (r == ROOM_MADE) {
            m->move_evicted++;
            atomic_store(&m->busy_status, "from_lru");
            continue;
        }
        if (++m->move_tries < 1000) {
            page_busy(m, "busy_active");
            return r == ROOM_WAIT;
        }
        break; /* given up: the items are held */
    }
    slab_info(c->slab, m->move_src, &info);
    if (info.free_chunks < info.chunks_per_page && info.total_pages >= 2 && m->move_tries < 1000)
        return true;
    /* The page's share of the items that remain in the class. */
    uint64_t kept = info.total_chunks ? info.used_chunks * info.chunks_per_page / info.total_chunks : 0;
    uint64_t kept_chained = info.total_chunks ? info.chained_chunks * info.chunks_per_page / info.total_chunks : 0;
    if (slab_page_move(c->slab, m->move_src, m->move_dst) == 0) {
        char line[96];
        cache_count(c, CACHE_N_slabs_moved, 1);
        cache_count(c, CACHE_N_slab_reassign_evictions, m->move_evicted);
        cache_count(c, CACHE_N_slab_reassign_rescues, kept - kept_chained);
        cache_count(c, CACHE_N_slab_reassign_chunk_rescues, kept_chained);
        snprintf(line, sizeof(line), "type=slab_move src=%u dst=%u state=done", m->move_src, m->move_dst);
        watch_sysevent(line);
    }
    m->move_src = 0;
    atomic_store(&m->reassign_running, false);
    return true;
}

enum maint_reassign maint_slab_reassign(struct maint *m, int src, int dst)
{
    lock_assert_none_held();
    struct cache *c = m->cache;
    int count = (int)slab_class_count(c->slab);
    struct slab_class_info info;
    if (atomic_load(&m->reassign_running))
        return MAINT_REASSIGN_BUSY;
    if (src == dst)
        return MAINT_REASSIGN_SAME;
    if (src == -1) {
        src = (int)class_with_most_pages(c, (unsigned)dst);
        if (src == 0)
            return MAINT_REASSIGN_BADCLASS; /* memcached's word when none has two pages */
    }
    if (src < 0 || src > count || dst < 0 || dst > count)
        return MAINT_REASSIGN_BADCLASS;
    if (src == 0) {
        if (slab_pages_global(c->slab) == 0)
            return MAINT_REASSIGN_NOSPARE;
        return slab_page_move(c->slab, 0, (unsigned)dst) == 0 ? MAINT_REASSIGN_OK : MAINT_REASSIGN_NOSPARE;
    }
    slab_info(c->slab, (unsigned)src, &info);
    if (info.total_pages < 2)
        return MAINT_REASSIGN_NOSPARE;
    lock_take(&m->lock);
    bool busy = atomic_exchange(&m->reassign_running, true);
    if (!busy) {
        m->reassign_src = src;
        m->reassign_dst = dst;
        m->reassign_wanted = true;
    }
    lock_release(&m->lock);
    if (!busy)
        maint_wake(m);
    return busy ? MAINT_REASSIGN_BUSY : MAINT_REASSIGN_OK;
}

bool maint_reassign_is_running(const struct maint *m) { return atomic_load(&m->reassign_running); }

const char *maint_busy_status(const struct maint *m) { return atomic_load(&m->busy_status); }

/* A class with two and a half pages of free chunks gives one to the pool. */
static bool give_free_page(struct maint *m)
{
    struct cache *c = m->cache;
    for (unsigned cls = 1; cls <= slab_class_count(c->slab); cls++) {
        struct slab_class_info info;
        slab_info(c->slab, cls, &info);
        if (info.total_pages >= 2 && info.free_chunks > info.chunks_per_page * 5 / 2)
            return maint_slab_reassign(m, (int)cls, 0) == MAINT_REASSIGN_OK;
    }
    return false;
}

/* memcached's automover: free pages go to the pool one after the other; and once a second the class
 * whose items live longest gives one to a class that evicts and whose items live less than `ratio` of
 * that. */
static bool step_automove(struct maint *m, uint32_t now)
{
    struct cache *c = m->cache;
    const struct cache_config *s = m->cache->config;
    unsigned oldest = 0, youngest = 0;
    double oldest_age = -1, youngest_age = -1;
    bool same_second = now == m->last_automove_sec;
    if ((same_second && !m->gave_page) || !s->slab_reassign || atomic_load(&s->slab_automove) == 0)
        return false;
    if (same_second && atomic_load(&m->reassign_running))
        return true; /* the last one is on its way */
    m->last_automove_sec = now;
    m->gave_page = give_free_page(m);
    if (m->gave_page || same_second)
        return m->gave_page;
    uint32_t window = atomic_load(&s->slab_automove_window);
    for (unsigned cls = 1; cls <= slab_class_count(c->slab); cls++) {
        struct class_window *w = &m->windows[cls];
        struct slab_class_info info;
        slab_info(c->slab, cls, &info);
        uint64_t evicted = atomic_load(&c->classes[cls].evicted);
        w->evicting += evicted > w->evicted_before;
        w->evicted_before = evicted;
        w->age_sum += lru_tail_age_sec(c->lru, lru_id_of(cls, LRU_COLD), now);
        w->samples++;
        if (w->samples < window)
            continue;
        ASSERT(w->samples > 0 && w->evicting <= w->samples);
        double age = w->age_sum / w->samples;
        if (info.total_pages > 2 && age > oldest_age) {
            oldest_age = age;
            oldest = cls;
        }
        if (w->evicting > window / 2 && (youngest == 0 || age < youngest_age)) {
            youngest_age = age;
            youngest = cls;
        }
        w->age_sum = 0;
        w->samples = w->evicting = 0;
    }
    if (youngest != 0 && oldest != 0 && youngest != oldest &&
        youngest_age < oldest_age * atomic_load(&s->slab_automove_ratio)) {
        if (slab_pages_global(c->slab) > 0)
            slab_page_move(c->slab, 0, youngest);
        else
            maint_slab_reassign(m, (int)oldest, (int)youngest);
    }
    return false;
}

/* ---- sparse memory ---- */

/* The chunk may be an item that is still being filled. Its fields are trusted only after the index,
 * under the lock of the hash that they give, names this chunk. */
__attribute__((no_sanitize("thread", "address"))) static uint64_t hash_of_chunk(struct cache *c,
                                                                                struct item *it)
{
    char key[256];
    unsigned n = it->key_bytes;
    const char *from = it->data + item_extra_bytes(item_flags(it));
    for (unsigned i = 0; i < n; i++)
        key[i] = from[i];
    return cache_hash(c, key, n);
}

static void move_chunk(struct maint *m, slab_handle h)
{
    struct cache *c = m->cache;
    struct item *it = item_at(c, h);
    uint64_t hash = hash_of_chunk(c, it);
    struct lock *lock = index_lock(c->index, hash);
    index_slot *slots[INDEX_MATCH_MAX];
    slab_handle to;
    lock_take(lock);
    unsigned n = index_match(c->index, hash, slots);
    for (unsigned i = 0; i < n; i++) {
        index_word w = index_load(slots[i]);
        if (index_kind(c->index, w) != INDEX_RAM || index_handle(c->index, w) != h || item_refs(it) != 1 ||
            item_hash(c, it) != hash) /* the chunk may have another item by now */
            continue;
        uint64_t real = max_u64(item_real_bytes(it), sizeof(struct item));
        ASSERT(item_flags(it) & ITEM_LINKED);
        if (slab_alloc_real(c->slab, real, &to) != 0)
            break;
        struct item *copy = item_at(c, to);
        /* Neighbours may change its links until lru_substitute locks the list. */
        const size_t links = offsetof(struct item, time_sec);
        ASSERT(real >= links && to != h);
        memcpy((char *)copy + links, (const char *)it + links, real - links);
        lru_substitute(c->lru, it, copy);
        index_replace(c->index, hash, slots[i], index_make_ram(c->index, to, index_heat(c->index, w)));
        slab_free(c->slab, h, 0, 0, real);
        cache_count(c, CACHE_N_items_moved, 1);
        break;
    }
    lock_release(lock);
}

static bool step_sparse(struct maint *m, uint32_t now UNUSED)
{
    struct cache *c = m->cache;
    slab_handle h;
    if (!m->run_open) {
        if (!slab_sparse_run(c->slab, shortage_is_pressing(c) ? 100 : SPARSE_MAX_PCT, &m->run))
            return false;
        m->run_open = true;
        m->run_pos = 0;
    }
    for (unsigned i = 0; i < RUN_ITEMS_PER_STEP; i++) {
        if (!slab_run_next(c->slab, m->run, &m->run_pos, &h)) {
            slab_run_done(c->slab, m->run);
            m->run_open = false;
            return true;
        }
        move_chunk(m, h);
    }
    return true;
}

/* ---- the rest ---- */

static bool step_overwritten(struct maint *m, uint32_t now UNUSED)
{
    bool walked = stale_walk_step(m->worker, &m->stale_walk);
    return stale_step(m->worker) || walked;
}

static bool step_extstore(struct maint *m, uint32_t now)
{
    if (!m->cache->ext)
        return false;
    bool more = true;
    cache_flush_planned(m->cache, now);
    for (unsigned i = 0; i < EXT_STEPS_PER_TURN && more; i++)
        more = ext_maint_step(m->cache->ext, (uint32_t)clock_rel_to_unix(now));
    return more;
}

static bool step_crawl(struct maint *m, uint32_t now)
{
    if (!m->crawler || now - m->last_crawl_sec < CRAWL_INTERVAL_SEC)
        return false;
    m->last_crawl_sec = now;
    crawler_tidy(m->crawler);
    return false;
}

static bool step_trim(struct maint *m, uint32_t now)
{
    if (now - m->last_trim_sec >= TRIM_INTERVAL_SEC && !m->stepped) {
        m->last_trim_sec = now;
        memory_trim();
    }
    return false;
}

static bool (*const steps[])(struct maint *m, uint32_t now) = {
    step_extstore, step_shortage, step_flush_ahead, step_index, step_overwritten, step_juggle,
    step_page_move, step_flush_aged, step_automove, step_sparse,      step_crawl, step_trim,
};

static void maint_sleep(struct maint *m, int timeout_ms)
{
    struct pollfd fds[] = {
        {.fd = m->cache->maint_fd, .events = POLLIN},
        {.fd = cache_worker_wake_fd(m->worker), .events = POLLIN},
        {.fd = cache_worker_ring_fd(m->worker), .events = POLLIN}, /* -1 without flash: ignored */
    };
    eventfd_t drained;
    lock_assert_none_held();
    cache_worker_submit(m->worker);
    poll(fds, ARRAY_COUNT(fds), timeout_ms);
    (void)eventfd_read(m->cache->maint_fd, &drained); /* nothing there is fine too */
    cache_worker_poll(m->worker);
}

/* The thread's state before its first turn. */
static int maint_begin(struct maint *m)
{
    ASSERT(m->worker == NULL);
    m->worker = cache_worker_create(m->cache, &m->stats);
    m->last_crawl_sec = clock_now_sec();
    return m->worker != NULL ? 0 : errno != 0 ? -errno : -ENOMEM;
}

static void maint_end(struct maint *m)
{
    ASSERT(m->worker != NULL);
    if (m->run_open)
        slab_run_done(m->cache->slab, m->run);
    cache_worker_give_up(m->worker);
    while (cache_worker_parked(m->worker) > 0)
        maint_sleep(m, SLEEP_BUSY_MS);
    cache_worker_destroy(m->worker);
}

static bool run_steps(struct maint *m)
{
    lock_assert_none_held();
    uint32_t now = clock_now_sec();
    bool busy = false;
    for (size_t i = 0; i < ARRAY_COUNT(steps); i++) {
        busy |= steps[i](m, now);
        lock_assert_none_held();
    }
    return busy;
}

static void *maint_main(void *arg)
{
    struct maint *m = arg;
    int rc = maint_begin(m);
    atomic_store_explicit(&m->started, rc != 0 ? rc : 1, memory_order_release);
    if (rc != 0)
        return NULL;
    while (!atomic_load_explicit(&m->stop, memory_order_acquire))
        maint_sleep(m, run_steps(m) ? SLEEP_BUSY_MS : SLEEP_MAX_MS);
    maint_end(m);
    return NULL;
}

bool maint_turn(struct maint *m)
{
    ASSERT(m->stepped);
    bool busy = run_steps(m);
    maint_sleep(m, 0);
    return busy || cache_worker_parked(m->worker) > 0;
}

struct maint *maint_create(const struct maint_options *opt)
{
    ASSERT(opt->cache != NULL);
    struct maint *m = aligned_alloc(CACHE_LINE_BYTES, round_up(sizeof(*m), CACHE_LINE_BYTES));
    if (!m)
        return NULL;
    memset(m, 0, sizeof(*m));
    m->cache = opt->cache;
    m->crawler = opt->crawler;
    m->stepped = m->shortage.ignores_group = opt->stepped;
    atomic_init(&m->busy_status, "none");
    lock_init(&m->lock, LOCK_CONTROL);
    int rc = m->stepped ? maint_begin(m) : -pthread_create(&m->thread, NULL, maint_main, m);
    if (rc == 0 && !m->stepped && (rc = lock_await_start(&m->started)) != 0)
        pthread_join(m->thread, NULL);
    if (rc != 0) {
        lock_destroy(&m->lock);
        free(m);
        errno = -rc;
        return NULL;
    }
    if (!m->stepped)
        pthread_setname_np(m->thread, "ex-maint");
    return m;
}

void maint_destroy(struct maint *m)
{
    if (m->stepped) {
        maint_end(m);
    } else {
        atomic_store_explicit(&m->stop, true, memory_order_release);
        maint_wake(m);
        pthread_join(m->thread, NULL);
    }
    lock_destroy(&m->lock);
    free(m);
}

void maint_wake(struct maint *m)
{
    cache_wake_maint(m->cache);
}
