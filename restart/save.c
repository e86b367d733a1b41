/* restart/save.c: see restart/save.h.
 *
 * The scan reads the records of the youngest page first. The first record of a key gets a word;
 * when another one follows, the higher seq wins. The index does not know the key of a word, so
 * the scan looks it up in `memo`, a table of recent records, and if it is not there, on
 * flash. A dead record hides older ones of its key like a live one, so it gets a word too,
 * marked by its heat, until the scan ends.
 *
 * A record that can't be read gets a word as well: it may be the youngest of its key, and readable later. Where
 * two words could not be compared, both stay, with equal ranks, so that every look-up compares their records.
 * Until then such a pair is a miss, never the older value. What is of no use (dead, or wrong bytes)
 * stays too if other words have its tag, since it may hide one of them.
 *
 * Once a shard of the index is full, it accepts no further key: otherwise an older value could be
 * stored after the younger one was refused.
 *
 * One thread; it takes locks only because the functions that it calls require them. */
#include "restart/save.h"

#include "cache_run.h"
#include "items/clean.h"
#include "items/object.h"
#include "items/room.h"
#include "restart/attach.h"
#include "stale_check.h"
#include "base/log.h"
#include "base/progress.h"

#define WAIT_NS UINT64_C(200000)             /* for a buffer or a page */
#define STALL_NS (UINT64_C(10) * 1000000000) /* nothing moved for this long: nothing will */
#define MEMO_SHARE 8 /* of -m, which holds no items yet */
#define MEMO_BYTES_MAX (256 * MiB)
#define DEAD_HEAT 1                      /* of words, while a scan runs */
#define WRONG_HEAT 2
static_assert(DEAD_HEAT != WRONG_HEAT && WRONG_HEAT < 4, "heats of a word, other than none");

/* ---- numbers ---- */

void cache_numbers(const struct cache *c, struct cache_numbers *out)
{
    *out = (struct cache_numbers){.hash_seed = c->root->hash_seed,
                                  .cas_counter = atomic_load(&c->root->cas_counter),
                                  .flush_cas = atomic_load(&c->root->flush_cas),
                                  .flush_unix = atomic_load(&c->root->flush_unix),
                                  .planned_unix = atomic_load(&c->root->planned_unix)};
}

void cache_set_numbers(struct cache *c, const struct cache_numbers *n)
{
    cache_root_set_seed(c->root, n->hash_seed);
    cache_root_flush_begin(c->root);
    atomic_store(&c->root->cas_counter, n->cas_counter);
    atomic_store(&c->root->flush_cas, n->flush_cas);
    atomic_store(&c->root->flush_unix, n->flush_unix);
    atomic_store(&c->root->planned_unix, n->planned_unix);
    cache_root_flush_end(c->root);
}

/* ---- items to flash ---- */

struct mover {
    struct cache *cache;
    struct cache_worker *worker; /* for checks of overwritten values; NULL: no memory for one */
    struct cache_moved *out;
    uint32_t now_sec;
    int blocked; /* flash's answer to the item at which the walk must continue */
};

static void move_item(void *ctx, uint64_t hash_like, index_slot *slot, index_word w)
{
    struct mover *m = ctx;
    struct cache *c = m->cache;
    struct item *it = item_of_word(c, w);
    if (m->blocked != 0 || !it)
        return;
    uint64_t hash = item_hash(c, it);
    lock_assert_held(index_lock(c->index, hash));
    ASSERT(index_is_word_of(c->index, hash_like, hash) && index_load(slot) == w);
    /* A dead one that may hide older values of its key hides them from flash as well. */
    if (item_death(c, it, m->now_sec) != ITEM_ALIVE)
        item_forget_copy(c, it, hash);
    if (item_death(c, it, m->now_sec) != ITEM_ALIVE && !(item_flags(it) & ITEM_MAY_HIDE_FLASH)) {
        item_unlink(c, it, hash);
        m->out->dead++;
        return;
    }
    m->blocked = item_flush(c, it, hash);
    m->out->moved += m->blocked == 0;
}

/* Reclaim may wait for checks of overwritten values, which the maintenance thread no longer runs. */
static void run_checks(struct cache_worker *w)
{
    if (!w)
        return;
    stale_step(w);
    cache_worker_submit(w);
    cache_worker_poll(w);
}

/* Lets the engine work until it may accept a record again. 0, or -errno if it won't. */
static int wait_for_flash(const struct mover *m, int error, uint64_t deadline_ns, uint64_t stall_ns)
{
    lock_assert_none_held();
    ASSERT(error < 0);
    struct cache *c = m->cache;
    if (error != -EAGAIN && error != -ENOSPC)
        return error;
    uint64_t now = clock_mono_ns();
    if (now >= deadline_ns)
        return -ETIMEDOUT;
    /* A device that has a write stalls, and may go on. */
    if (now >= stall_ns && !ext_is_writing(c->ext))
        return error == -ENOSPC ? -ENOSPC : -EIO;
    run_checks(m->worker);
    if (error == -EAGAIN || !ext_maint_step(c->ext, (uint32_t)clock_unix_now_sec()))
        clock_sleep_ns(WAIT_NS);
    return 0;
}

static int move_shard(struct mover *m, unsigned shard, uint64_t deadline_ns)
{
    ASSERT(shard < INDEX_SHARD_COUNT);
    lock_assert_none_held();
    struct cache *c = m->cache;
    uint64_t pos = 0, stall_ns = clock_mono_ns() + STALL_NS;
    for (bool more = true; more;) {
        uint64_t at = pos, moved = m->out->moved;
        m->blocked = 0;
        struct lock *lock = index_shard_lock(c->index, shard);
        lock_take(lock);
        /* One bucket: the walk continues after the words that it has seen. */
        more = index_walk(c->index, shard, &pos, 1, move_item, m);
        lock_release(lock);
        if (m->out->moved != moved) {
            stall_ns = clock_mono_ns() + STALL_NS;
            progress_add(m->out->moved - moved);
        }
        if (m->blocked == 0)
            continue;
        int rc = wait_for_flash(m, m->blocked, deadline_ns, stall_ns);
        if (rc != 0)
            return rc;
        pos = at;
        more = true;
    }
    return 0;
}

/* It finishes the reads that it starts. */
static void finish_reads(struct cache_worker *w)
{
    lock_assert_none_held();
    while (cache_worker_parked(w) > 0) {
        cache_worker_submit(w);
        cache_worker_poll(w);
        clock_sleep_ns(WAIT_NS);
    }
}

int cache_move_to_flash(struct cache *c, struct cache_worker *w, uint64_t deadline_ns,
                        struct cache_moved *out)
{
    struct mover m = {.cache = c, .worker = w, .out = out, .now_sec = clock_now_sec()};
    struct index_info info;
    int rc = 0;
    lock_assert_none_held();
    ASSERT(c->ext != NULL && (!w || cache_worker_parked(w) == 0));
    memset(out, 0, sizeof(*out));
    index_info(c->index, &info);
    progress_begin("moving items to flash", info.ram_count);
    for (unsigned s = 0; rc == 0 && s < INDEX_SHARD_COUNT; s++)
        rc = clock_mono_ns() >= deadline_ns ? -ETIMEDOUT : move_shard(&m, s, deadline_ns);
    if (w) {
        stale_finish(w, deadline_ns);
        finish_reads(w);
    }
    progress_end();
    index_info(c->index, &info);
    out->left = info.ram_count;
    return out->left == 0 ? 0 : rc;
}

static void drop_item(void *ctx, uint64_t hash_like, index_slot *slot, index_word w)
{
    struct mover *m = ctx;
    struct cache *c = m->cache;
    (void)hash_like, (void)slot;
    struct item *it = item_of_word(c, w);
    if (!it || item_leave_clean(c, it, item_hash(c, it)))
        return;
    cache_count(c, CACHE_N_evictions_same_tag, item_unlink_hiding(c, it, item_hash(c, it)));
    m->out->dead++;
}

static void visit_to_drop_unwritten(void *ctx, uint64_t hash_like, index_slot *slot, index_word w)
{
    struct mover *m = ctx;
    struct cache *c = m->cache;
    (void)slot;
    lock_assert_held(index_lock(c->index, hash_like));
    if (index_kind(c->index, w) != INDEX_FLASH || !ext_is_unwritten(c->ext, index_place(c->index, w)))
        return;
    /* With it what may be older values of its key. */
    m->out->dead += flash_forget_ranks(c, hash_like, index_rank(c->index, w));
}

uint64_t cache_drop_unwritten(struct cache *c)
{
    ASSERT(c->ext != NULL);
    struct cache_moved out = {0};
    struct mover m = {.cache = c, .out = &out};
    index_walk_all(c->index, visit_to_drop_unwritten, &m);
    return out.dead;
}

struct loaded {
    struct cache *cache;
    uint64_t gone, strange;
};

static void visit_to_count(void *ctx, uint64_t hash_like, index_slot *slot, index_word w)
{
    struct loaded *l = ctx;
    struct cache *c = l->cache;
    (void)hash_like, (void)slot;
    if (index_kind(c->index, w) != INDEX_FLASH)
        return;
    if (ext_attach_is_gone(c->ext, index_place(c->index, w)))
        l->gone++;
    else if (!ext_attach_object(c->ext, index_place(c->index, w), index_len(c->index, w)))
        l->strange++;
}

static void visit_to_drop_gone(void *ctx, uint64_t hash_like, index_slot *slot, index_word w)
{
    struct loaded *l = ctx;
    struct cache *c = l->cache;
    lock_assert_held(index_lock(c->index, hash_like));
    if (index_kind(c->index, w) != INDEX_FLASH || !ext_attach_is_gone(c->ext, index_place(c->index, w)))
        return;
    key_departs_with_flash(c, hash_like);
    (void)attach_drop_lost_word(c, hash_like, slot, index_rank(c->index, w));
}

int cache_count_loaded(struct cache *c, uint64_t *gone)
{
    ASSERT(c->ext != NULL);
    struct loaded l = {.cache = c};
    index_walk_all(c->index, visit_to_count, &l);
    *gone = l.gone;
    if (l.strange > 0)
        return -EUCLEAN;
    if (l.gone > 0)
        index_walk_all(c->index, visit_to_drop_gone, &l);
    return 0;
}

static void visit_to_check(void *ctx, uint64_t hash_like, index_slot *slot, index_word w)
{
    struct mover *m = ctx;
    struct cache *c = m->cache;
    (void)hash_like, (void)slot;
    const struct item *it = item_of_word(c, w);
    if (it && (item_flags(it) & ITEM_MAY_HIDE_FLASH) && index_heat(c->index, w) == 0) /* with heat: clean */
        stale_note_overwrite(c, item_hash(c, it), 0);
}

uint64_t cache_drop_items(struct cache *c, struct cache_worker *w)
{
    ASSERT(c->ext != NULL && (!w || cache_worker_parked(w) == 0));
    struct cache_moved out = {0};
    struct mover m = {.cache = c, .out = &out};
    if (w) { /* drops older values, and no other words of their tags */
        index_walk_all(c->index, visit_to_check, &m);
        stale_finish(w, clock_mono_ns() + STALL_NS);
        finish_reads(w);
    }
    index_walk_all(c->index, drop_item, &m);
    return out.dead;
}

/* ---- scan ---- */

struct memo {
    uint64_t hash, seq, place;
};

struct scanner {
    struct cache *cache;
    struct cache_scan_report *out;
    struct memo *memo;
    uint64_t memo_mask;
    uint32_t now_sec;
    bool full[INDEX_SHARD_COUNT];
};

static struct memo *memo_of(struct scanner *s, uint64_t hash)
{
    return &s->memo[hash & s->memo_mask];
}

/* Does the word at this place belong to rec's key, and what is its seq? False also if that can't be known
 * now. */
static bool is_same_key(struct scanner *s, const struct ext_scanned *rec, ext_place place,
                        uint64_t *seq)
{
    lock_assert_none_held(); /* it reads */
    ASSERT(rec->unread == 0);
    const struct memo *m = memo_of(s, rec->hash);
    if (m->hash == rec->hash && m->place == place) {
        *seq = m->seq;
        return true;
    }
    struct ext_scanned other;
    s->out->compared++;
    if (ext_scan_record(s->cache->ext, place, &other) != 0)
        return false;
    *seq = other.seq;
    return other.key_bytes == rec->key_bytes && memcmp(other.key, rec->key, rec->key_bytes) == 0;
}

/* The place and seq of the word of rec's key. False: it has none. No lock held. */
static bool find_word(struct scanner *s, const struct ext_scanned *rec, ext_place *place,
                      uint64_t *seq)
{
    ASSERT(rec->unread == 0 && rec->key_bytes > 0);
    struct index *ix = s->cache->index;
    index_slot *slots[INDEX_MATCH_MAX];
    ext_place places[INDEX_MATCH_MAX];
    struct lock *lock = index_lock(ix, rec->hash);
    lock_take(lock);
    unsigned found = index_match_flash(ix, rec->hash, NULL, INDEX_RANK_MAX, slots);
    for (unsigned i = 0; i < found; i++)
        places[i] = index_place(ix, index_load(slots[i]));
    lock_release(lock);
    for (unsigned i = 0; i < found; i++) {
        *place = places[i];
        if (is_same_key(s, rec, places[i], seq))
            return true;
    }
    return false;
}

/* The mark of rec's word. */
static unsigned heat_of(struct scanner *s, const struct ext_scanned *rec)
{
    if (rec->unread != 0)
        return rec->unread == -EBADMSG ? WRONG_HEAT : 0;
    enum item_death d = cache_death(s->cache, clock_sec_of_unix(rec->time_unix),
                                    clock_sec_of_unix(rec->exptime_unix), rec->cas, s->now_sec);
    return d == ITEM_ALIVE ? 0 : DEAD_HEAT;
}

/* Stores rec's word, in place of the one at `old` (if replaces). */
static void put_record(struct scanner *s, const struct ext_scanned *rec, bool replaces,
                       ext_place old)
{
    lock_assert_none_held();
    struct cache *c = s->cache;
    index_word w = index_make_flash(c->index, rec->place, rec->len_class, heat_of(s, rec), 0);
    unsigned shard = index_shard_of(c->index, rec->hash);
    struct lock *lock = index_lock(c->index, rec->hash);
    int rc = 0;
    lock_take(lock);
    if (replaces) {
        index_slot *slot = index_find_place(c->index, rec->hash, old);
        ASSERT(slot != NULL); /* find_word has seen it, and there is no other thread */
        unsigned old_len = index_len(c->index, index_load(slot));
        index_replace(c->index, rec->hash, slot, w);
        ext_drop(c->ext, old, old_len);
        s->out->older++;
    } else {
        rc = s->full[shard] ? -ENOSPC : index_insert(c->index, rec->hash, w);
    }
    lock_release(lock);
    if (rc != 0) {
        s->full[shard] = true;
        s->out->no_room++;
        return;
    }
    bool counted = ext_attach_object(c->ext, rec->place, rec->len_class);
    ASSERT(counted); /* it was just read from an existing page */
    if (rec->unread == 0)
        *memo_of(s, rec->hash) = (struct memo){rec->hash, rec->seq, rec->place};
}

static void visit_record(void *ctx, const struct ext_scanned *rec)
{
    struct scanner *s = ctx;
    ext_place old = 0;
    uint64_t seq = 0;
    if (rec->unread != 0) {
        s->out->unread++;
        put_record(s, rec, false, 0);
        return;
    }
    s->out->records++;
    if (cache_hash(s->cache, rec->key, rec->key_bytes) != rec->hash) {
        s->out->foreign++;
        return;
    }
    if (rec->cas > atomic_load(&s->cache->root->cas_counter) && rec->cas < CAS_SANE_MAX)
        atomic_store(&s->cache->root->cas_counter, rec->cas);
    bool there = find_word(s, rec, &old, &seq);
    if (there && rec->seq <= seq)
        s->out->older++;
    else
        put_record(s, rec, there, old);
}

/* Takes the scan's marks off the words, or drops them. */
static void visit_to_end(void *ctx, uint64_t hash_like, index_slot *slot, index_word w)
{
    struct scanner *s = ctx;
    struct cache *c = s->cache;
    lock_assert_held(index_lock(c->index, hash_like));
    if (index_kind(c->index, w) != INDEX_FLASH)
        return;
    unsigned heat = index_heat(c->index, w);
    ASSERT(heat <= WRONG_HEAT);
    if (heat != 0 && !flash_may_hide(c, hash_like, slot)) {
        flash_forget(c, hash_like, slot, false);
        s->out->dead += heat == DEAD_HEAT;
        return;
    }
    if (heat != 0)
        index_set_heat(c->index, hash_like, slot, 0);
    s->out->kept++;
}

struct page_age {
    uint32_t page, version;
};

static int by_age(const void *a, const void *b)
{
    int32_t diff =
        (int32_t)(((const struct page_age *)b)->version - ((const struct page_age *)a)->version);
    return diff < 0 ? -1 : diff > 0;
}

static int scan_pages(struct scanner *s, struct page_age *ages)
{
    lock_assert_none_held();
    struct extstore *e = s->cache->ext;
    unsigned count = 0;
    for (unsigned page = 0; page < ext_page_count(e); page++) {
        struct ext_page_info info;
        ext_page_info(e, page, &info);
        if (info.state != EXT_PAGE_FREE)
            ages[count++] = (struct page_age){page, info.version};
    }
    qsort(ages, count, sizeof(ages[0]), by_age);
    int rc = 0;
    progress_begin("reading what is on flash", count);
    for (unsigned i = 0; rc == 0 && i < count; i++) {
        rc = ext_scan_page(e, ages[i].page, visit_record, s);
        progress_add(1);
    }
    progress_end();
    return rc;
}

int cache_scan(struct cache *c, struct cache_scan_report *out)
{
    struct scanner *s = calloc(1, sizeof(*s));
    struct page_age *ages = calloc(ext_page_count(c->ext), sizeof(ages[0]));
    uint64_t bytes = min_u64(max_u64(c->config->maxbytes / MEMO_SHARE, MiB), MEMO_BYTES_MAX);
    uint64_t entries = UINT64_C(1) << (63 - __builtin_clzll(bytes / sizeof(struct memo)));
    ASSERT(entries > 0 && entries * sizeof(struct memo) <= MEMO_BYTES_MAX);
    int rc = -ENOMEM;
    memset(out, 0, sizeof(*out));
    if (s && ages && (s->memo = calloc(entries, sizeof(s->memo[0]))) != NULL) {
        s->cache = c;
        s->out = out;
        s->memo_mask = entries - 1;
        s->now_sec = clock_now_sec();
        rc = scan_pages(s, ages);
    }
    if (rc == 0)
        index_walk_all(c->index, visit_to_end, s);
    if (s)
        free(s->memo);
    free(s);
    free(ages);
    return rc;
}
