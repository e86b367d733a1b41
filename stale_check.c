/* stale_check.c: see stale_check.h. */
#include "stale_check.h"

#include "cache_run.h"

#define TRIES_MAX 3 /* of a check that met an unreadable record */
#define WALK_BUCKETS 1024
#define WALK_QUEUE_MAX (STALE_CHECKS_MAX / 2) /* fuller than this, the walk waits */
#define FINISH_PAUSE_NS UINT64_C(100000)

enum verdict {
    UNREAD,
    READABLE,
    WRONG,      /* not what was written, also when read again */
    UNREADABLE, /* the device does not give it now */
};

struct compared { /* a word that was read */
    struct ext_read rd;
    struct running *running;
    struct ext_record rec;
    ext_place place;
    uint64_t hash; /* of its key */
    uint8_t len_class;
    uint8_t verdict;
    bool stale;
};

struct running {
    struct stale_check check;
    struct cache_worker *worker;
    unsigned count, pending;
    bool starved; /* a read found no memory, or was given up: nothing is known of the record */
    struct compared words[];
};

/* ---- which words matter ---- */

struct tag { /* the words of the check's tag, under LOCK_COLUMN */
    index_slot *slots[INDEX_MATCH_MAX];
    unsigned count, flash_count;
    unsigned top_rank, top_count; /* the highest rank of flash words, and how many have it */
    bool has_ram;
    index_slot *victim; /* DROP */
    unsigned victim_rank;
    bool victim_ties; /* another word has its rank */
};

static void look_at_tag(struct cache *c, const struct stale_check *check, struct tag *t)
{
    lock_assert_held(index_lock(c->index, check->hash));
    memset(t, 0, sizeof(*t));
    t->count = index_match(c->index, check->hash, t->slots);
    if (check->kind == STALE_DROP)
        t->victim = index_find_place(c->index, check->hash, check->place);
    if (t->victim && ext_version_of(c->ext, check->place) != check->version)
        t->victim = NULL; /* a later life of the page: another word */
    if (t->victim)
        t->victim_rank = index_rank(c->index, index_load(t->victim));
    for (unsigned i = 0; i < t->count; i++) {
        index_word w = index_load(t->slots[i]);
        enum index_kind kind = index_kind(c->index, w);
        t->has_ram |= kind == INDEX_RAM;
        if (kind != INDEX_FLASH)
            continue;
        unsigned rank = index_rank(c->index, w);
        t->flash_count++;
        t->top_count = rank > t->top_rank || t->top_count == 0 ? 1 : t->top_count + (rank == t->top_rank);
        t->top_rank = max_u64(t->top_rank, rank);
        t->victim_ties |= t->victim && t->slots[i] != t->victim && rank == t->victim_rank;
    }
}

/* Has the flash word in the slot to be read for the check? */
static bool is_wanted(struct cache *c, const struct stale_check *check, const struct tag *t,
                      const index_slot *slot)
{
    lock_assert_held(index_lock(c->index, check->hash));
    unsigned rank = index_rank(c->index, index_load(slot));
    if (check->kind == STALE_DROP)
        return slot == t->victim ? !check->is_full || t->victim_ties : rank <= t->victim_rank;
    if (t->has_ram)
        return true;
    if (t->flash_count < 2)
        return false;
    /* The youngest can't be what was overwritten; but a walk has to know which key is its. */
    return check->kind != STALE_OVERWRITE || rank < t->top_rank || t->top_count > 1;
}

/* ---- comparing ---- */

static bool same_key(const struct ext_record *a, const struct ext_record *b)
{
    return a->key_bytes == b->key_bytes && memcmp(a->key, b->key, a->key_bytes) == 0;
}

/* Does a RAM item of the tag have this key? It is younger than any record of it, alive or dead. */
static bool ram_has_key(struct cache *c, const struct tag *t, const struct ext_record *rec)
{
    for (unsigned i = 0; i < t->count; i++) {
        const struct item *it = item_of_word(c, index_load(t->slots[i]));
        if (it && item_has_key(it, rec->key, rec->key_bytes))
            return true;
    }
    return false;
}

static struct compared *word_at(struct running *r, ext_place place)
{
    for (unsigned i = 0; i < r->count; i++)
        if (r->words[i].place == place)
            return &r->words[i];
    return NULL;
}

static bool is_stale(struct cache *c, struct running *r, const struct tag *t, const struct compared *m)
{
    lock_assert_held(index_lock(c->index, r->check.hash));
    const struct stale_check *check = &r->check;
    if (check->kind == STALE_OVERWRITE && m->hash == check->hash && m->rec.seq < check->seq_bound)
        return true;
    if (ram_has_key(c, t, &m->rec))
        return true;
    for (unsigned i = 0; i < r->count; i++) {
        const struct compared *o = &r->words[i];
        if (o != m && o->verdict == READABLE && o->rec.seq > m->rec.seq && same_key(&o->rec, &m->rec) &&
            index_find_place(c->index, check->hash, o->place))
            return true;
    }
    if (check->kind != STALE_DROP || !t->victim || m->place == check->place)
        return false;
    /* Older than the word that goes; if that was read, the loop has compared the two. */
    return !word_at(r, check->place) && check->is_full && m->hash == check->hash;
}

/* The words that were read as stale go, older ones first or not: what is youngest stays. */
static void drop_stale(struct cache *c, struct running *r, const struct tag *t)
{
    lock_assert_held(index_lock(c->index, r->check.hash));
    for (unsigned i = 0; i < r->count; i++) {
        struct compared *m = &r->words[i];
        m->stale = m->verdict == READABLE && index_find_place(c->index, r->check.hash, m->place) &&
                   is_stale(c, r, t, m);
    }
    for (unsigned i = 0; i < r->count; i++) {
        struct compared *m = &r->words[i];
        if (!m->stale || (r->check.kind == STALE_DROP && m->place == r->check.place))
            continue;
        flash_forget(c, r->check.hash, index_find_place(c->index, r->check.hash, m->place), false);
        cache_count(c, CACHE_N_stale_drops, 1);
    }
}

/* With no flash word of the tag left that nobody has read, its RAM items hide none. Dead ones were kept
 * only for that. */
static void end_hiding(struct cache *c, struct running *r, const struct tag *t)
{
    lock_assert_held(index_lock(c->index, r->check.hash));
    for (unsigned i = 0; i < t->count; i++) {
        index_word w = index_load(t->slots[i]);
        if (index_kind(c->index, w) != INDEX_FLASH)
            continue;
        const struct compared *m = word_at(r, index_place(c->index, w));
        if (!m || m->verdict != READABLE)
            return;
    }
    for (unsigned i = 0; i < t->count; i++) {
        struct item *it = item_of_word(c, index_load(t->slots[i]));
        if (!it || !(item_flags(it) & ITEM_MAY_HIDE_FLASH))
            continue;
        uint64_t hash = item_hash(c, it);
        if (!index_is_word_of(c->index, r->check.hash, hash))
            continue;
        item_flag_clear(it, ITEM_MAY_HIDE_FLASH);
        if (item_death(c, it, clock_now_sec()) == ITEM_ALIVE)
            continue;
        class_count(c, lru_class(it->lru_id), reclaimed);
        item_unlink(c, it, hash);
    }
}

/* The victim goes, if all that it may hide has been checked. True: the check is over. */
static bool drop_victim(struct cache *c, struct running *r)
{
    lock_assert_held(index_lock(c->index, r->check.hash));
    ASSERT(r->check.kind == STALE_DROP);
    struct stale_check *check = &r->check;
    struct tag t;
    look_at_tag(c, check, &t);
    if (!t.victim)
        return true;
    bool unread = false;
    int unreadable_rank = -1; /* the highest */
    for (unsigned i = 0; i < t.count; i++) {
        index_word w = index_load(t.slots[i]);
        if (index_kind(c->index, w) != INDEX_FLASH || index_rank(c->index, w) > t.victim_rank)
            continue;
        const struct compared *m = word_at(r, index_place(c->index, w));
        unread |= !m && t.slots[i] != t.victim;
        int rank = (int)index_rank(c->index, w);
        if (m && m->verdict != READABLE && rank > unreadable_rank)
            unreadable_rank = rank;
    }
    if (unread || (unreadable_rank >= 0 && ++check->tries < TRIES_MAX))
        return false;
    index_slot *intent = NULL;
    if (unreadable_rank >= 0) /* whose older values it hides, nobody can tell */
        cache_count(c, CACHE_N_evictions_same_tag,
                    flash_forget_ranks_begin(c, check->hash, (unsigned)unreadable_rank, t.victim, &intent));
    flash_depart(c, check, t.victim);
    if (intent)
        index_clear(c->index, check->hash, intent);
    ext_count_dropped(c->ext, check->why, check->bytes);
    return true;
}

/* Wrong bytes are of no use to anyone; but they stay as long as they may hide something. */
static void drop_wrong(struct cache *c, struct running *r)
{
    lock_assert_held(index_lock(c->index, r->check.hash));
    for (unsigned i = 0; i < r->count; i++) {
        index_slot *slot = r->words[i].verdict == WRONG
                               ? index_find_place(c->index, r->check.hash, r->words[i].place)
                               : NULL;
        if (!slot || flash_may_hide(c, r->check.hash, slot))
            continue;
        flash_forget(c, r->check.hash, slot, false);
        cache_count(c, CACHE_N_stale_drops, 1);
    }
}

/* An item has to leave memory, and what it hides can't be read: so that goes, with all that it may hide. */
static void drop_unreadable(struct cache *c, struct running *r)
{
    lock_assert_held(index_lock(c->index, r->check.hash));
    ASSERT(r->check.kind == STALE_ROOM);
    int rank = -1; /* the highest */
    struct tag t;
    look_at_tag(c, &r->check, &t);
    for (unsigned i = 0; i < t.count && t.has_ram; i++) {
        index_word w = index_load(t.slots[i]);
        if (index_kind(c->index, w) != INDEX_FLASH)
            continue;
        const struct compared *m = word_at(r, index_place(c->index, w));
        if (m && m->verdict != READABLE && (int)index_rank(c->index, w) > rank)
            rank = (int)index_rank(c->index, w);
    }
    if (rank >= 0)
        cache_count(c, CACHE_N_evictions_same_tag, flash_forget_ranks(c, r->check.hash, (unsigned)rank));
}

/* Of a check that is no DROP: what becomes of what is not readable. True: it is over. */
static bool decide_check(struct cache *c, struct running *r)
{
    ASSERT(r->check.kind != STALE_DROP && r->pending == 0);
    bool over = true;
    drop_wrong(c, r);
    for (unsigned i = 0; i < r->count; i++)
        over &= r->words[i].verdict != UNREADABLE;
    over = over || ++r->check.tries >= TRIES_MAX;
    if (over && r->check.kind == STALE_ROOM)
        drop_unreadable(c, r);
    return over;
}

/* All reads of it are done: decides. True: the check is over. */
static bool decide(struct cache *c, struct running *r)
{
    struct lock *lock = index_lock(c->index, r->check.hash);
    bool over = true;
    if (r->starved)
        return false;
    lock_take(lock);
    struct tag t;
    look_at_tag(c, &r->check, &t);
    drop_stale(c, r, &t);
    if (r->check.kind == STALE_DROP)
        over = drop_victim(c, r);
    else
        over = decide_check(c, r);
    look_at_tag(c, &r->check, &t);
    end_hiding(c, r, &t);
    lock_release(lock);
    return over;
}

static void end_check(struct running *r)
{
    ASSERT(r->pending == 0 && r->worker->parked > 0);
    struct cache *c = r->worker->cache;
    bool over = decide(c, r);
    for (unsigned i = 0; i < r->count; i++)
        ext_read_finish(&r->words[i].rd);
    stale_end(&c->stale, &r->check, !over);
    r->worker->parked--;
    free(r);
}

/* ---- reading ---- */

/* True: it is known what the record is. False: it is being read once more. */
static bool judge(struct compared *m)
{
    struct cache *c = m->running->worker->cache;
    ASSERT(m->verdict == UNREAD && m->running->pending > 0);
    int rc = ext_read_record(&m->rd, NULL, 0, &m->rec);
    if (rc == -EBADMSG && ext_read_again(&m->rd))
        return false;
    m->running->starved |= rc == -ENOMEM || rc == -ECANCELED;
    m->verdict = rc == 0 ? READABLE : rc == -EBADMSG ? WRONG : UNREADABLE;
    if (rc == 0)
        m->hash = cache_hash(c, m->rec.key, m->rec.key_bytes);
    return true;
}

static void check_read_done(struct ext_read *rd)
{
    struct compared *m = CONTAINER_OF(rd, struct compared, rd);
    if (judge(m) && --m->running->pending == 0)
        end_check(m->running);
}

/* Pins the words that matter. NULL: no memory. */
static struct running *begin(struct cache *c, const struct stale_check *check)
{
    struct lock *lock = index_lock(c->index, check->hash);
    struct running *r = calloc(1, sizeof(*r) + INDEX_MATCH_MAX * sizeof(r->words[0]));
    if (!r)
        return NULL;
    r->check = *check;
    lock_take(lock);
    struct tag t;
    look_at_tag(c, check, &t);
    for (unsigned i = 0; i < t.count && (check->kind != STALE_DROP || t.victim); i++) {
        index_word w = index_load(t.slots[i]);
        if (index_kind(c->index, w) != INDEX_FLASH || !is_wanted(c, check, &t, t.slots[i]))
            continue;
        ASSERT(r->count < INDEX_MATCH_MAX);
        struct compared *m = &r->words[r->count++];
        m->running = r;
        m->place = index_place(c->index, w);
        m->len_class = (uint8_t)index_len(c->index, w);
        ext_pin(c->ext, m->place);
    }
    lock_release(lock);
    return r;
}

static void start(struct cache_worker *w, struct running *r)
{
    lock_assert_none_held();
    cache_count(w->cache, CACHE_N_stale_checks, r->count);
    r->worker = w;
    r->pending = r->count + 1; /* so that none ends it while the others are being started */
    w->parked++;
    for (unsigned i = 0; i < r->count; i++) {
        struct compared *m = &r->words[i];
        m->rd.done = check_read_done;
        m->rd.holds_others = r->count > 1;
        ext_read_start(w->ring, &m->rd, m->place, m->len_class);
        if (m->rd.state == EXT_READ_DONE && judge(m))
            r->pending--;
    }
    if (--r->pending == 0)
        end_check(r);
}

bool stale_step(struct cache_worker *w)
{
    lock_assert_none_held();
    struct cache *c = w->cache;
    struct stale_check check;
    if (!w->ring)
        return false;
    for (unsigned i = 0; i < STALE_RUNNING_MAX && w->parked < STALE_RUNNING_MAX; i++) {
        if (!stale_take(&c->stale, &check))
            break;
        struct running *r = begin(c, &check);
        if (!r) {
            stale_end(&c->stale, &check, true);
            break;
        }
        start(w, r);
    }
    return stale_waiting(&c->stale) > 0;
}

/* ---- what nobody has queued ---- */

static void visit_to_queue(void *ctx, uint64_t hash_like, index_slot *slot, index_word w)
{
    struct cache *c = ctx;
    const struct item *it = item_of_word(c, w);
    bool may_hide = index_kind(c->index, w) == INDEX_FLASH && flash_may_hide(c, hash_like, slot);
    if (it)
        may_hide = index_heat(c->index, w) == 0 && /* a clean item hides its own record, and no other */
                   item_flags(it) & ITEM_MAY_HIDE_FLASH;
    if (may_hide)
        stale_put(&c->stale, &(struct stale_check){.kind = STALE_TAG, .hash = hash_like});
}

bool stale_walk_step(struct cache_worker *w, uint64_t *at)
{
    struct cache *c = w->cache;
    if (*at == 0) {
        if (!atomic_load_explicit(&c->stale.walk_wanted, memory_order_relaxed) || !w->ring)
            return false;
        atomic_store_explicit(&c->stale.walk_wanted, false, memory_order_relaxed);
        *at = 1; /* one more than the index's cursor */
    }
    if (stale_waiting(&c->stale) > WALK_QUEUE_MAX)
        return false;
    uint64_t cursor = *at - 1;
    *at = index_walk_step(c->index, &cursor, WALK_BUCKETS, visit_to_queue, c) ? cursor + 1 : 0;
    return true;
}

void stale_finish(struct cache_worker *w, uint64_t deadline_ns)
{
    while (stale_is_busy(&w->cache->stale) && clock_mono_ns() < deadline_ns) {
        stale_step(w);
        cache_worker_submit(w);
        cache_worker_poll(w);
        if (w->parked > 0)
            clock_sleep_ns(FINISH_PAUSE_NS);
    }
}
