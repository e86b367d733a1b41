/* cache_lookup.c: see cache_lookup.h. First the item in RAM, then the words on flash; of these, what could not be read
 * comes last, since it matters only for what may be older. */
#include "cache_lookup.h"

#include "items/clean.h"

static struct cache_read *fact_of(struct cache_op *op, ext_place place)
{
    for (struct cache_read *r = op->reads; r; r = r->next)
        if (r->place == place)
            return r;
    return NULL;
}

/* Every verb that finds a dead item counts it, not only a get, as in memcached. */
static void count_death(struct cache_worker *w, struct cache_op *op, enum item_death d)
{
    bool expired = d == ITEM_EXPIRED;
    ASSERT(d != ITEM_ALIVE);
    op->met_expired |= expired;
    op->met_flushed |= !expired;
    departed_note(w->cache->departed, op->spot.hash, expired ? MISS_expired : MISS_flushed);
    stat_inc(w->stats, expired ? STAT_get_expired : STAT_get_flushed);
}

unsigned unreadable_count(const struct cache_op *op)
{
    unsigned n = 0;
    for (const struct cache_read *r = op->reads; r; r = r->next)
        n += is_unreadable(r);
    return n;
}

/* Records that could not be read or verified stay: the device may return them later, and they may be other
 * keys'. Only a delete drops them, since no value may come back after it, and a set that meets so many that
 * they would fill the key's buckets. */
static bool drops_unreadable(const struct cache_op *op)
{
    return op->verb == CACHE_DELETE || (op_sets(op) && unreadable_count(op) > UNREAD_MAX);
}

/* Drops the unreadable words of the op's tag, and all words that they may hide. Useless records
 * are not counted. */
static void forget_unreadable(struct cache *c, struct cache_op *op, unsigned rank_max)
{
    lock_assert_held(index_lock(c->index, op->spot.hash));
    ASSERT(rank_max <= INDEX_RANK_MAX);
    unsigned unreadable = unreadable_count(op), gone = flash_forget_ranks(c, op->spot.hash, rank_max);
    cache_count(c, CACHE_N_evictions_same_tag, gone > unreadable ? gone - unreadable : 0);
}

bool lookup_hidden(struct cache *c, struct cache_op *op, struct lookup *l)
{
    lock_assert_held(index_lock(c->index, op->spot.hash));
    ASSERT(l->hider != NULL);
    index_slot *slots[INDEX_MATCH_MAX];
    unsigned n = index_match_at(c->index, &op->spot, slots);
    int unreadable_rank = -1;
    l->unread_count = 0;
    for (unsigned i = 0; i < n; i++) {
        index_word word = index_load(slots[i]);
        if (index_kind(c->index, word) != INDEX_FLASH)
            continue;
        const struct cache_read *r = fact_of(op, index_place(c->index, word));
        int rank = (int)index_rank(c->index, word);
        if (!r)
            l->unread[l->unread_count++] = slots[i];
        else if (r->verdict == READ_MATCH)
            flash_forget(c, op->spot.hash, slots[i], false);
        else if (is_unreadable(r) && rank > unreadable_rank)
            unreadable_rank = rank;
    }
    if (l->unread_count > 0 || (unreadable_rank >= 0 && !drops_unreadable(op)))
        return false;
    if (unreadable_rank >= 0)
        forget_unreadable(c, op, (unsigned)unreadable_rank);
    item_flag_clear(l->hider, ITEM_MAY_HIDE_FLASH);
    return true;
}

void lookup_count_hider(struct cache_worker *w, struct cache_op *op, enum item_death d)
{
    if (!op->met_expired && !op->met_flushed)
        count_death(w, op, d);
}

/* Finds the key's RAM item in the n slots of its tag. A dead one is dropped, but one that may hide older values stays
 * until those can be read (l->unread) or an item takes its place. True: a live one, or one that stays. The words of
 * other slots may be dropped; none moves. */
static bool lookup_in_ram(struct cache_worker *w, struct cache_op *op, struct lookup *l, uint32_t now,
                          index_slot *const *slots, unsigned n)
{
    struct cache *c = w->cache;
    lock_assert_held(index_lock(c->index, op->spot.hash));
    struct item *it = NULL;
    for (unsigned i = 0; i < n && !it; i++) {
        struct item *candidate = item_of_word(c, index_load(slots[i]));
        if (!candidate || !item_has_key(candidate, op->key, op->key_bytes))
            continue;
        it = candidate;
        l->it_slot = slots[i];
    }
    if (!it)
        return false;
    enum item_death d = item_death(c, it, now);
    if (d == ITEM_ALIVE) {
        l->it = it;
        return true;
    }
    l->hider = it;
    item_forget_copy(c, it, op->spot.hash);
    if ((item_flags(it) & ITEM_MAY_HIDE_FLASH) && !lookup_hidden(c, op, l)) {
        if (l->unread_count == 0)
            lookup_count_hider(w, op, d);
        return true;
    }
    l->hider = NULL;
    if (op->verb == CACHE_STORE && !c->config->lru_segmented)
        class_count(c, lru_class(it->lru_id), reclaimed); /* a flat LRU's tail, to memcached */
    else
        count_death(w, op, d);
    item_unlink(c, it, op->spot.hash);
    return false;
}

/* An unreadable word may be the key's youngest; older ones are then no answer. Where it is dropped, that is done
 * once all else is known, together with the words that it may hide. */
static void lookup_unreadable(struct cache *c, struct cache_op *op, struct lookup *l, int rank)
{
    lock_assert_held(index_lock(c->index, op->spot.hash));
    ASSERT(rank >= 0 && rank <= INDEX_RANK_MAX && !l->it);
    bool is_younger = l->match && (int)index_rank(c->index, index_load(l->match_slot)) > rank;
    l->failed = !is_younger;
    if (l->unread_count > 0 || !drops_unreadable(op))
        return;
    l->failed = false;
    forget_unreadable(c, op, (unsigned)rank);
    l->is_sole = true;
    if (!is_younger)
        l->match = NULL;
}

/* Counts a dead record like a dead item and drops it; but one that may hide unreadable words stays. */
static void lookup_check_death(struct cache_worker *w, struct cache_op *op, struct lookup *l, uint32_t now)
{
    struct cache *c = w->cache;
    lock_assert_held(index_lock(c->index, op->spot.hash));
    ASSERT(l->match && l->unread_count == 0);
    const struct ext_record *r = &l->match->rec;
    enum item_death d = cache_death(c, record_time_sec(r), record_exptime_sec(r), r->cas, now);
    if (d == ITEM_ALIVE)
        return;
    count_death(w, op, d);
    if (l->is_sole)
        flash_forget(c, op->spot.hash, l->match_slot, false);
    l->match = NULL;
}

void cache_lookup(struct cache_worker *w, struct cache_op *op, struct lookup *l, uint32_t now)
{
    struct cache *c = w->cache;
    lock_assert_held(index_lock(c->index, op->spot.hash));
    index_slot *slots[INDEX_MATCH_MAX];
    int unreadable_rank = -1;
    memset(l, 0, offsetof(struct lookup, unread));
    l->unread_count = 0;
    l->failed = l->is_sole = false;
    unsigned n = index_match_at(c->index, &op->spot, slots);
    if (lookup_in_ram(w, op, l, now, slots, n))
        return;
    for (unsigned i = 0; i < n; i++) {
        index_word word = index_load(slots[i]);
        enum index_kind kind = index_kind(c->index, word);
        if (kind == INDEX_TOMBSTONE)
            l->tombstone = slots[i];
        if (kind != INDEX_FLASH)
            continue;
        struct cache_read *r = fact_of(op, index_place(c->index, word));
        if (!r) {
            l->unread[l->unread_count++] = slots[i];
        } else if (is_unreadable(r)) {
            int rank = (int)index_rank(c->index, word);
            unreadable_rank = rank > unreadable_rank ? rank : unreadable_rank;
        } else if (r->verdict == READ_MATCH) {
            if (l->match && l->match->rec.seq > r->rec.seq) {
                flash_forget(c, op->spot.hash, slots[i], false);
                continue;
            }
            if (l->match)
                flash_forget(c, op->spot.hash, l->match_slot, false);
            l->match = r;
            l->match_slot = slots[i];
        }
    }
    l->is_sole = unreadable_rank < 0;
    if (!l->is_sole)
        lookup_unreadable(c, op, l, unreadable_rank);
    if (l->match && !l->failed && l->unread_count == 0)
        lookup_check_death(w, op, l, now);
}
