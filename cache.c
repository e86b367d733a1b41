/* cache.c: the verbs. cache_step() takes the key's LOCK_COLUMN, looks the key up, runs the one function
 * of the verb and releases the lock. The verb finishes the op or says what it lacks: records to read
 * (STEP_READ), an item (STEP_ALLOC, got as soon as the lock is released), memory to wait for (STEP_WAIT).
 * cache_run.c gets those, and runs the verb again from the start; so a verb never trusts what it saw
 * before, and a get is read down one path: cache_run -> cache_step -> cache_lookup -> (flash) queue_reads,
 * start_reads ... op_read_done -> step_get_read.
 *
 * It owns nothing: what an op has (its item, its reads) is the op's until cache_release(), the rest is the cache's, with
 * what is always true of it in items/store.h. Nothing waits here, and no item is allocated under the lock.
 *
 * Threads: the worker's. Every function that takes a struct lookup runs under the lock. Without it run CACHE_ALLOC, which
 * touches no key's words, and step_get_read(), which answers a plain get from the record alone.
 */
#include "cache.h"

#include "cache_lookup.h"
#include "items/clean.h"
#include "items/room.h"
#include "items/worth.h"
#include "proto/proto.h"
#include "operator/watch.h"

/* Of an item that will be needed: header, key, and the beginning of the value. */
enum { PREFETCH_ITEM_BYTES = 192 };

/* ---- what an answer shows ---- */

static void view_item(struct cache_view *v, struct item *it)
{
    unsigned flags = item_flags(it);
    DEBUG_ASSERT(item_refs(it) > 0);
    v->value = item_value(it);
    v->value_bytes = it->value_bytes;
    v->client_flags = item_client_flags(it);
    v->cas = item_cas(it);
    v->exptime_sec = atomic_load_explicit(&it->exptime_sec, memory_order_relaxed);
    v->exptime_before_sec = v->exptime_sec;
    v->time_sec = atomic_load_explicit(&it->time_sec, memory_order_relaxed);
    v->slab_class = (uint8_t)lru_class(it->lru_id);
    v->fetched_before = flags & ITEM_FETCHED;
    v->stale = flags & ITEM_STALE;
    v->token_sent = flags & ITEM_TOKEN_SENT;
    v->won = false;
    v->binary_key = flags & ITEM_BINARY_KEY;
    v->on_flash = false;
    v->accounted_bytes = (uint32_t)item_accounted_bytes(it);
}

static void view_record(struct cache *c, struct cache_op *op, const struct cache_read *read)
{
    ASSERT(read->verdict == READ_MATCH && c->ext != NULL);
    const struct ext_record *r = &read->rec;
    struct cache_view *v = &op->view;
    unsigned flags = item_flags_of(r->item_flags);
    unsigned extra = (c->config->use_cas ? ITEM_CAS : 0) | (r->client_flags ? ITEM_CFLAGS : 0);
    v->value = r->value;
    v->value_bytes = r->value_bytes;
    v->client_flags = r->client_flags;
    v->cas = r->cas;
    v->exptime_sec = v->exptime_before_sec = record_exptime_sec(r);
    v->time_sec = record_time_sec(r);
    v->fetched_before = (flags & ITEM_FETCHED) || read->was_hit;
    v->stale = flags & ITEM_STALE;
    v->token_sent = flags & ITEM_TOKEN_SENT;
    v->won = false;
    v->binary_key = flags & ITEM_BINARY_KEY;
    v->on_flash = true;
    v->accounted_bytes = (uint32_t)item_accounted_bytes_of(r->key_bytes, r->value_bytes, extra);
    v->slab_class = (uint8_t)slab_class_of(c->slab, v->accounted_bytes);
    op->view_from_read = true;
}

/* The item is used now. If it has no cas although others have (it is from a life with -C), its time alone tells a flush_all of
 * this second that it is older: then it keeps that. */
static void item_used(const struct cache *c, struct item *it, uint32_t now)
{
    if (!c->config->use_cas || likely(item_cas(it) != 0))
        atomic_store_explicit(&it->time_sec, now, memory_order_relaxed);
}

/* A hit moves an item as memcached's segmented LRU does: the first marks it fetched, the second
 * active; active in COLD goes to WARM. Flat mode keeps strict recency. LOCK_COLUMN held. */
FLATTEN static void item_bump(struct cache *c, struct item *it, uint32_t now)
{
    lock_assert_held(index_lock(c->index, item_hash(c, it)));
    ASSERT(item_flags(it) & ITEM_LINKED);
    unsigned flags = item_flags(it);
    if (!c->config->lru_segmented) {
        item_flag_set(it, flags & ITEM_FETCHED ? ITEM_HIT_TWICE : ITEM_FETCHED);
        if (atomic_load_explicit(&it->time_sec, memory_order_relaxed) + 60 < now ||
            !(flags & ITEM_FETCHED))
            item_used(c, it, now);
        lru_move(c->lru, it, LRU_COLD);
        return;
    }
    if (flags & ITEM_ACTIVE)
        return;
    if (!(flags & ITEM_FETCHED)) {
        item_flag_set(it, ITEM_FETCHED);
        return;
    }
    if (!(flags & ITEM_HIT_TWICE))
        item_flag_set(it, ITEM_HIT_TWICE);
    item_flag_set(it, ITEM_ACTIVE);
    item_used(c, it, now);
    if (lru_segment(it->lru_id) == LRU_COLD)
        item_to_warm(c, it);
}

/* A verb that uses an item without fetching it (add, incr in place) only makes it younger; an active one
 * leaves COLD. LOCK_COLUMN held. */
static void item_freshen(struct cache *c, struct item *it, uint32_t now)
{
    lock_assert_held(index_lock(c->index, item_hash(c, it)));
    ASSERT(item_flags(it) & ITEM_LINKED);
    if (!c->config->lru_segmented) {
        if (atomic_load_explicit(&it->time_sec, memory_order_relaxed) + 60 < now)
            item_used(c, it, now);
        lru_move(c->lru, it, LRU_COLD);
        return;
    }
    item_used(c, it, now);
    if (lru_segment(it->lru_id) == LRU_COLD && (item_flags(it) & ITEM_ACTIVE))
        item_to_warm(c, it);
}

/* With slab_automove 0 the operator divides the memory. A value of several chunks is then read from
 * flash only if its class has or can get them, as in memcached; otherwise no class is checked. */
static bool has_room_for(struct cache *c, const struct cache_op *op, unsigned len_class)
{
    if (likely(atomic_load_explicit(&c->config->slab_automove, memory_order_relaxed) > 0) ||
        op->verb != CACHE_GET || (op->options & CACHE_F_NO_VALUE) || len_class == 0)
        return true;
    uint64_t bytes_min = ext_len_bytes(len_class - 1);
    uint32_t chunks = slab_chunks_of(c->slab, bytes_min);
    if (chunks == 1)
        return true;
    struct slab_class_info info;
    slab_info(c->slab, slab_class_count(c->slab), &info);
    return (info.total_pages + slab_pages_left(c->slab)) * info.chunks_per_page >= chunks;
}

/* Queues a read of every unread word: pins the pages while the lock still keeps them alive. */
static enum step queue_reads(struct cache_worker *w, struct cache_op *op, struct lookup *l)
{
    struct cache *c = w->cache;
    lock_assert_held(index_lock(c->index, op->spot.hash));
    ASSERT(c->ext != NULL && l->unread_count > 0 && l->unread_count <= INDEX_MATCH_MAX);
    for (unsigned i = 0; i < l->unread_count; i++) {
        if (has_room_for(c, op, index_len(c->index, index_load(l->unread[i]))))
            continue;
        stat_inc(w->stats, STAT_get_oom_extstore);
        op->no_room = true;
        op->status = CACHE_NO_MEMORY;
        return STEP_DONE;
    }
    for (unsigned i = 0; i < l->unread_count; i++) {
        index_word word = index_load(l->unread[i]);
        struct cache_read *r = cache_read_new(w);
        if (!r) {
            op->starved = true; /* which ends the op */
            return STEP_AGAIN;
        }
        r->op = op;
        r->place = index_place(c->index, word);
        r->len_class = (uint8_t)index_len(c->index, word);
        r->verdict = READ_WANTED;
        r->next = op->reads;
        op->reads = r;
        op->read_count++;
        op->read_bytes += ext_len_bytes(r->len_class);
        ext_pin(c->ext, r->place);
        unsigned heat = index_heat(c->index, word);
        r->was_hit = heat > 0;
        if (heat < 3 && op->verb == CACHE_GET && !(op->options & CACHE_F_NOBUMP))
            index_set_heat(c->index, op->spot.hash, l->unread[i], heat + 1);
    }
    return STEP_READ;
}

/* ---- linking and promotion ---- */

/* Replaces the key's present object, if any, by a new item. 0 or -ENOSPC (index full; nothing changed). */
static int item_store(struct cache *c, struct cache_op *op, struct lookup *l, struct item *it, uint32_t now)
{
    lock_assert_held(index_lock(c->index, op->spot.hash));
    DEBUG_ASSERT(!(item_flags(it) & ITEM_LINKED) && (l->it == NULL || l->match == NULL));
    index_word word = index_make_ram(c->index, slab_handle_of(c->slab, it), 0);
    struct item *old = l->it ? l->it : l->hider;
    bool hides = old ? item_flags(old) & ITEM_MAY_HIDE_FLASH : l->unread_count > 0 || !l->is_sole;
    uint64_t hidden_bytes = 0;
    for (unsigned i = 0; i < l->unread_count; i++) /* before an insert makes the slots invalid */
        hidden_bytes += ext_len_bytes(index_len(c->index, index_load(l->unread[i])));
    if (old || l->match || l->unread_count > 0)
        item_flag_set(it, ITEM_KNOWN);
    if (hides) /* before the word is stored: a killed process leaves the flag */
        item_flag_set(it, ITEM_MAY_HIDE_FLASH);
    if (l->hider)
        lookup_count_hider(op->worker, op, item_death(c, l->hider, now));
    if (old) {
        index_replace(c->index, op->spot.hash, l->it_slot, word);
        item_supersede(c, old, it, now);
        l->it = l->hider = NULL;
    } else if (l->match) {
        index_word old = index_load(l->match_slot);
        index_replace(c->index, op->spot.hash, l->match_slot, word);
        ext_drop(c->ext, index_place(c->index, old), index_len(c->index, old));
        l->match = NULL;
    } else {
        int rc = index_insert(c->index, op->spot.hash, word);
        if (rc != 0) {
            item_flag_clear(it, ITEM_MAY_HIDE_FLASH);
            atomic_store_explicit(&c->index_full, true, memory_order_relaxed);
            return rc;
        }
    }
    if (hidden_bytes > 0 || (!old && !l->is_sole))
        stale_note_overwrite(c, op->spot.hash, hidden_bytes);
    if (!old)
        item_link(c, it, now);
    return 0;
}

/* Frees the item that the op allocated and does not need any more. */
void op_item_free(struct cache *c, struct cache_op *op)
{
    if (!op->item)
        return;
    item_unref(c, op->item);
    op->item = NULL;
}

/* Allocates the item of op->need, with no lock held. STEP_AGAIN: it is there. */
static enum step op_alloc(struct cache_worker *w, struct cache_op *op, struct item **to)
{
    const struct op_need *n = &op->need;
    uint64_t max_us = atomic_load_explicit(&w->cache->config->ext_max_sleep, memory_order_relaxed);
    bool force = !w->cache->ext ||
                 (op->wait_start_us != 0 && clock_mono_us() - op->wait_start_us >= max_us);
    switch (item_alloc(w->cache, n->key, n->key_bytes, n->value_bytes, n->client_flags, n->exptime_sec,
                       force, to)) {
    case 0:
        return STEP_AGAIN;
    case -EAGAIN:
        return STEP_WAIT;
    case -E2BIG:
        op->status = CACHE_TOO_LARGE;
        return STEP_DONE;
    default:
        op->status = CACHE_NO_MEMORY;
        return STEP_DONE;
    }
}

/* Says which item the verb needs, and frees the one that it has. cache_step() allocates it, outside the
 * lock. */
static enum step need_item(struct cache *c, struct cache_op *op, struct op_need need)
{
    lock_assert_held(index_lock(c->index, op->spot.hash));
    op_item_free(c, op);
    op->need = need;
    return STEP_ALLOC;
}

static struct op_need need_of(const struct cache_op *op, uint32_t value_bytes, uint32_t client_flags,
                              uint32_t exptime_sec)
{
    return (struct op_need){op->key, op->key_bytes, value_bytes, client_flags, exptime_sec};
}

/* Changes an item that is not linked. */
typedef void (*change_fn)(struct cache *c, struct cache_op *op, struct item *it);

/* The item gets the found record's value and state; it was allocated for it and matches in size. */
static void item_fill(const struct lookup *l, struct item *it)
{
    const struct ext_record *r = &l->match->rec;
    memcpy(item_value(it), r->value, r->value_bytes);
    item_set_cas(it, r->cas);
    atomic_store_explicit(&it->exptime_sec, record_exptime_sec(r), memory_order_relaxed);
    item_flag_set(it, item_flags_of(r->item_flags) | (l->match->was_hit ? ITEM_FETCHED : 0) | ITEM_KNOWN);
}

/* The record becomes a RAM item again, op->item, in the same state. Nothing is unread: it could be younger.
 * change, if not NULL, is made to the item before it is linked. LOCK_COLUMN held. */
static void promote(struct cache *c, struct cache_op *op, struct lookup *l, change_fn change)
{
    const struct ext_record *r = &l->match->rec;
    struct item *it = op->item;
    ASSERT(l->unread_count == 0);
    lock_assert_held(index_lock(c->index, op->spot.hash));
    ASSERT(it->value_bytes == r->value_bytes && it->key_bytes == r->key_bytes && !(item_flags(it) & ITEM_LINKED));
    item_fill(l, it);
    if (!l->is_sole)
        item_flag_set(it, ITEM_MAY_HIDE_FLASH);
    if (change)
        change(c, op, it);
    uint32_t time_sec = record_time_sec(r);
    index_slot *slot = l->match_slot;
    index_word old = index_load(slot);
    index_replace(c->index, op->spot.hash, slot, index_make_ram(c->index, slab_handle_of(c->slab, it), 0));
    ext_drop(c->ext, index_place(c->index, old), index_len(c->index, old));
    if (!l->is_sole)
        stale_note_overwrite(c, op->spot.hash, 0);
    item_link(c, it, clock_now_sec());
    atomic_store_explicit(&it->time_sec, time_sec, memory_order_relaxed);
    op->item = NULL;
    l->it = it;
    l->it_slot = slot;
    l->match = NULL;
}

/* The same, but the record stays: as long as the item is clean (items/clean.h), it can leave without a write. False: there is
 * no room in the index. Slots are invalid then. LOCK_COLUMN held. */
static bool promote_clean(struct cache *c, struct cache_op *op, struct lookup *l)
{
    struct item *it = op->item;
    ASSERT(l->unread_count == 0 && l->is_sole);
    item_fill(l, it);
    if (clean_link(c, it, op->spot.hash, clock_now_sec()) != 0)
        return false;
    atomic_store_explicit(&it->time_sec, record_time_sec(&l->match->rec), memory_order_relaxed);
    op->item = NULL;
    l->it = it;
    return true;
}

static bool item_fits_record(const struct item *it, const struct ext_record *r)
{
    return it->value_bytes == r->value_bytes && it->key_bytes == r->key_bytes &&
           !(item_flags(it) & ITEM_CFLAGS) == !r->client_flags &&
           (!r->client_flags || item_client_flags(it) == r->client_flags);
}

/* For verbs that change an object: brings the found record to RAM, with a change if not NULL. STEP_DONE:
 * l->it is in RAM, or nothing was found (l->it NULL). */
static enum step want_ram_changed(struct cache *c, struct cache_op *op, struct lookup *l, change_fn change)
{
    if (l->it || !l->match)
        return STEP_DONE;
    const struct ext_record *r = &l->match->rec;
    if (!op->item || !item_fits_record(op->item, r))
        return need_item(c, op,
                         (struct op_need){r->key, r->key_bytes, r->value_bytes, r->client_flags, 0});
    promote(c, op, l, change);
    cache_count(c, CACHE_N_promotions, 1);
    return STEP_DONE;
}

static enum step want_ram(struct cache *c, struct cache_op *op, struct lookup *l)
{
    return want_ram_changed(c, op, l, NULL);
}

static void hold(struct cache_op *op, struct item *it)
{
    item_ref(it);
    ASSERT(op->item == NULL);
    op->item = it;
}

/* ---- changes of more than one field ---- */

/* With -e a process may be killed between any two stores, and what it leaves is taken over. So changes that
 * need more than one store are made in a copy, which then takes the item's place by one store of its word. */
static bool changes_copies(const struct cache *c) { return c->config->has_memory_file; }

/* Items have a cas or not, as -C was when they were made. One from a life with the other setting doesn't have the form of
 * new ones; it gets that with its first change. */
static bool has_form_of_new(const struct cache *c, const struct item *it)
{
    return c->config->use_cas == ((item_flags(it) & ITEM_CAS) != 0);
}

/* STEP_DONE: op->item is a copy of it, in the form of a new item, not linked. */
static enum step want_copy(struct cache *c, struct cache_op *op, struct item *it)
{
    lock_assert_held(index_lock(c->index, op->spot.hash));
    struct item *copy = op->item;
    uint32_t client_flags = item_client_flags(it);
    if (!(copy && copy->value_bytes == it->value_bytes && item_client_flags(copy) == client_flags))
        return need_item(c, op, need_of(op, it->value_bytes, client_flags, 0));
    ASSERT(has_form_of_new(c, copy));
    memcpy(item_value(copy), item_value(it), it->value_bytes);
    item_set_cas(copy, item_cas(it));
    item_flag_set(copy, item_flags(it) & ~(unsigned)(ITEM_LINKED | ITEM_CAS | ITEM_CFLAGS));
    atomic_store(&copy->exptime_sec, atomic_load(&it->exptime_sec));
    atomic_store(&copy->time_sec, atomic_load(&it->time_sec));
    return STEP_DONE;
}

/* The copy in op->item takes the item's place, in the LRU too; l->it is the copy then. */
static void swap_copy(struct cache *c, struct cache_op *op, struct lookup *l, uint32_t now)
{
    struct item *copy = op->item, *old = l->it;
    lock_assert_held(index_lock(c->index, op->spot.hash));
    ASSERT(copy != NULL && old != NULL && copy != old && copy->value_bytes == old->value_bytes);
    op->item = NULL;
    if (!has_form_of_new(c, old)) { /* the copy may be of another class */
        int rc = item_store(c, op, l, copy, now);
        ASSERT(rc == 0); /* replaces a RAM word */
        l->it = copy;
        return;
    }
    item_flag_set(copy, ITEM_LINKED);
    index_replace(c->index, op->spot.hash, l->it_slot,
                  index_make_ram(c->index, slab_handle_of(c->slab, copy), 0));
    lru_substitute(c->lru, old, copy);
    item_flag_clear(old, ITEM_LINKED);
    item_unref(c, old);
    l->it = copy;
}

/* ---- CACHE_GET ---- */

static enum miss_reason miss_reason(const struct cache_worker *w, const struct cache_op *op)
{
    if (op->starved)
        return MISS_no_memory;
    if (op->met_flushed || op->met_expired)
        return op->met_flushed ? MISS_flushed : MISS_expired;
    return unreadable_count(op) > 0 ? MISS_unreadable : key_departed_why(w->cache, op->spot.hash);
}

void count_get(struct cache_worker *w, const struct cache_op *op, bool hit, unsigned cls,
                      enum lru_segment seg)
{
    if (op->options & CACHE_F_QUIET_STATS)
        return;
    /* As in memcached, a touch isn't counted as a get; a miss of mg T is. */
    if ((op->options & CACHE_F_GAT) || (hit && (op->options & CACHE_F_TOUCH))) {
        stat_inc(w->stats, STAT_touch_cmds);
        if (hit)
            stat_class_inc(w->stats, cls, CSTAT_touch_hits);
        else
            stat_inc(w->stats, STAT_touch_misses);
        return;
    }
    stat_inc(w->stats, STAT_get_cmds);
    if (hit)
        stat_lru_hit(w->stats, lru_id_of(cls, seg));
    else
        stat_miss(w->stats, miss_reason(w, op));
    if (!hit)
        worth_miss(w->cache);
}

static enum step get_miss(struct cache_worker *w, struct cache_op *op, struct lookup *l, uint32_t now)
{
    struct cache *c = w->cache;
    lock_assert_held(index_lock(c->index, op->spot.hash));
    ASSERT(l->it == NULL);
    if (l->tombstone && !(op->options & CACHE_F_QUIET_STATS)) {
        stat_inc(w->stats, STAT_miss_from_extstore);
        index_clear(c->index, op->spot.hash, l->tombstone);
        l->tombstone = NULL;
        if (departed_find(c->departed, op->spot.hash) == MISS_never_stored)
            departed_note(c->departed, op->spot.hash, MISS_evicted_from_flash);
    }
    op->status = CACHE_NOT_FOUND;
    if (!(op->options & CACHE_F_VIVIFY)) {
        op_item_free(c, op);
        count_get(w, op, false, 0, 0);
        return STEP_DONE;
    }
    struct item *it = op->item;
    if (!(it && it->value_bytes == 0 && !(item_flags(it) & ITEM_CFLAGS)))
        return need_item(c, op, need_of(op, 0, 0, op->vivify_exptime_sec));
    item_set_cas(it, op->options & CACHE_F_CAS_SET ? op->cas_new : cache_next_cas(c));
    atomic_store_explicit(&it->exptime_sec, op->vivify_exptime_sec, memory_order_relaxed);
    item_flag_set(it, ITEM_TOKEN_SENT | ((op->options & CACHE_F_BINARY_KEY) ? ITEM_BINARY_KEY : 0));
    if (item_store(c, op, l, it, now) != 0)
        return STEP_WAIT;
    op->item = NULL;
    stat_inc(w->stats, STAT_total_items);
    count_get(w, op, true, lru_class(it->lru_id), lru_segment(it->lru_id)); /* memcached's idea */
    op->status = CACHE_VIVIFIED;
    view_item(&op->view, it);
    op->view.exptime_before_sec = 0;
    op->view.won = true;
    op->view.token_sent = false; /* this request got it */
    if (!(op->options & CACHE_F_NOBUMP))
        item_bump(c, it, now);
    hold(op, it);
    return STEP_DONE;
}

/* Does an mg win the right to recache, of an object with these flags and this exptime? */
static bool get_wins(const struct cache_op *op, unsigned flags, uint32_t exptime, uint32_t now)
{
    bool is_late = (op->options & CACHE_F_RECACHE) && exptime != 0 &&
                   (int64_t)exptime - (int64_t)now < op->recache_ttl_sec;
    return !(flags & ITEM_TOKEN_SENT) && ((flags & ITEM_STALE) || is_late);
}

/* The stale and recache logic of mg. LOCK_COLUMN held. */
static void get_meta_token(struct cache *c, struct cache_op *op, struct item *it, uint32_t now)
{
    bool old = op->options & CACHE_F_TOUCH_LAST;
    op->view.won = get_wins(op, item_flags(it), old ? op->view.exptime_before_sec : op->view.exptime_sec, now);
    if (!op->view.won)
        return;
    item_forget_copy(c, it, op->spot.hash);
    item_flag_set(it, ITEM_TOKEN_SENT);
}

/* Would this get change the record, so that it has to come to RAM? */
static bool get_changes_record(const struct cache_op *op, const struct ext_record *r, uint32_t now)
{
    return (op->options & CACHE_F_TOUCH) ||
           ((op->options & CACHE_F_META) &&
            get_wins(op, item_flags_of(r->item_flags), record_exptime_sec(r), now));
}

static void get_hit_item(struct cache_worker *w, struct cache_op *op, struct item *it, uint32_t now)
{
    struct cache *c = w->cache;
    lock_assert_held(index_lock(c->index, op->spot.hash));
    view_item(&op->view, it);
    count_get(w, op, true, lru_class(it->lru_id), lru_segment(it->lru_id));
    if (op->options & CACHE_F_TOUCH) {
        item_forget_copy(c, it, op->spot.hash);
        atomic_store_explicit(&it->exptime_sec, op->exptime_sec, memory_order_relaxed);
        op->view.exptime_sec = op->exptime_sec;
    }
    if ((op->options & CACHE_F_META) && !(op->options & CACHE_F_QUIET_STATS))
        get_meta_token(c, op, it, now);
    if (!(op->options & (CACHE_F_NOBUMP | CACHE_F_QUIET_STATS)))
        item_bump(c, it, now);
    op_item_free(c, op);
    hold(op, it);
    op->status = CACHE_OK;
}

/* Brings a hit record back to RAM now and then: ext_recache_rate. It never waits. */
static void get_recache(struct cache_worker *w, struct cache_op *op, struct cache_read *r)
{
    struct cache *c = w->cache;
    lock_assert_none_held();
    ASSERT(r->verdict == READ_MATCH);
    uint32_t rate = atomic_load_explicit(&c->config->ext_recache_rate, memory_order_relaxed);
    if (rate == 0 || (op->options & (CACHE_F_NOBUMP | CACHE_F_QUIET_STATS)) || ++w->recache_counter % rate != 0)
        return;
    struct lock *lock = index_lock(c->index, op->spot.hash);
    lock_take(lock);
    index_slot *slot = index_find_place(c->index, op->spot.hash, r->place);
    bool active = slot && index_heat(c->index, index_load(slot)) >= 2;
    lock_release(lock);
    if (!active)
        return;
    struct item *it;
    const struct ext_record *rec = &r->rec;
    if (item_alloc(c, rec->key, rec->key_bytes, rec->value_bytes, rec->client_flags, 0, false, &it) != 0)
        return;
    struct item *kept = op->item;
    op->item = it;
    lock_take(lock);
    struct lookup l;
    cache_lookup(w, op, &l, clock_now_sec());
    /* A value stored meanwhile may already be on flash; don't read it for this. */
    if (!l.it && !l.hider && l.match == r && l.unread_count == 0 && l.is_sole) {
        bool clean = clean_may_begin(c, op->spot.hash);
        if (clean ? promote_clean(c, op, &l) : (promote(c, op, &l, NULL), true)) {
            item_flag_set(l.it, ITEM_FETCHED);
            cache_count(c, CACHE_N_recaches, 1);
            stat_inc(w->stats, STAT_recache_from_extstore);
        }
    }
    lock_release(lock);
    op_item_free(c, op);
    op->item = kept;
}

/* One that leaves no mark (queue_reads) isn't the first: the next would be it again. */
static void note_flash_hit(struct cache *c, const struct cache_op *op, const struct cache_read *r)
{
    worth_hit(c, &r->rec, !r->was_hit && !(op->options & CACHE_F_NOBUMP));
}

/* Answers a plain get after its reads without the index: the record that the word named when
 * the read began is a right answer for a get that was under way all the time. */
static enum step step_get_read(struct cache_worker *w, struct cache_op *op, uint32_t now)
{
    struct cache *c = w->cache;
    lock_assert_none_held();
    ASSERT(op->reads != NULL && op->read_pending == 0);
    struct cache_read *best = NULL;
    for (struct cache_read *r = op->reads; r; r = r->next) {
        if (is_unreadable(r))
            return STEP_AGAIN; /* it may have moved meanwhile */
        if (r->verdict == READ_MATCH && best)
            return STEP_AGAIN; /* two of one key: decide under the lock */
        if (r->verdict == READ_MATCH)
            best = r;
    }
    if (!best) {
        op->status = CACHE_NOT_FOUND;
        count_get(w, op, false, 0, 0);
        return STEP_DONE;
    }
    const struct ext_record *rec = &best->rec;
    if (cache_death(c, record_time_sec(rec), record_exptime_sec(rec), rec->cas, now) != ITEM_ALIVE ||
        get_changes_record(op, rec, now))
        return STEP_AGAIN;
    view_record(c, op, best);
    count_get(w, op, true, op->view.slab_class, LRU_COLD);
    stat_inc(w->stats, STAT_get_extstore);
    note_flash_hit(c, op, best);
    op->status = CACHE_OK;
    get_recache(w, op, best);
    return STEP_DONE;
}

static enum step step_get(struct cache_worker *w, struct cache_op *op, struct lookup *l, uint32_t now)
{
    struct cache *c = w->cache;
    bool from_flash = !l->it;
    if (!l->it && !l->match)
        return get_miss(w, op, l, now);
    if (!l->it && get_changes_record(op, &l->match->rec, now)) {
        enum step s = want_ram(c, op, l);
        if (s != STEP_DONE)
            return s;
    }
    if (from_flash)
        stat_inc(w->stats, STAT_get_extstore);
    if (l->it) {
        get_hit_item(w, op, l->it, now);
        return STEP_DONE;
    }
    op_item_free(c, op);
    view_record(c, op, l->match);
    count_get(w, op, true, op->view.slab_class, LRU_COLD);
    note_flash_hit(c, op, l->match);
    op->status = CACHE_OK;
    return STEP_DONE;
}

enum cache_quick cache_get_quick(struct cache_worker *w, const char *key, uint8_t key_bytes,
                                 struct index_spot *spot, struct cache_view *view, struct item **pin)
{
    struct cache *c = w->cache;
    index_slot *slots[INDEX_MATCH_MAX];
    struct lock *lock = index_lock(c->index, spot->hash);
    enum cache_quick result = CACHE_QUICK_MISS;
    uint32_t now = clock_now_sec();
    lock_take(lock);
    unsigned n = index_match_at(c->index, spot, slots);
    for (unsigned i = 0; i < n; i++) {
        struct item *it = item_of_word(c, index_load(slots[i]));
        if (!it)
            result = CACHE_QUICK_NEEDS_OP;
        if (!it || !item_has_key(it, key, key_bytes))
            continue;
        if (unlikely(item_death(c, it, now) != ITEM_ALIVE ||
                     (item_flags(it) & (ITEM_STALE | ITEM_TOKEN_SENT)))) {
            result = CACHE_QUICK_NEEDS_OP; /* the op decides who wins the right to recache */
            break;
        }
        view_item(view, it);
        stat_inc(w->stats, STAT_get_cmds);
        stat_lru_hit(w->stats, it->lru_id);
        item_bump(c, it, now);
        item_ref(it);
        *pin = it;
        lock_release(lock);
        return CACHE_QUICK_HIT;
    }
    lock_release(lock);
    if (result == CACHE_QUICK_MISS) {
        stat_inc(w->stats, STAT_get_cmds);
        stat_miss(w->stats, key_departed_why(c, spot->hash));
        worth_miss(c);
    }
    return result;
}

void cache_unpin(struct cache_worker *w, struct item *pin) { item_unref(w->cache, pin); }

void cache_find(struct cache_worker *w, const char *key, size_t key_bytes, struct index_spot *spot)
{
    index_find(w->cache->index, cache_hash(w->cache, key, key_bytes), spot);
}

void cache_prefetch_item(struct cache_worker *w, const struct index_spot *spot)
{
    uint32_t handle = index_peek_ram(w->cache->index, spot);
    if (handle == 0)
        return;
    prefetch_lines(item_at(w->cache, handle), PREFETCH_ITEM_BYTES);
}

/* ---- CACHE_ALLOC, CACHE_STORE ---- */

static enum step step_alloc(struct cache_worker *w, struct cache_op *op)
{
    DEBUG_ASSERT(op->item == NULL);
    op->need = need_of(op, op->value_bytes, op->client_flags, op->exptime_sec);
    enum step s = op_alloc(w, op, &op->item);
    if (s == STEP_AGAIN) {
        op->value = item_value(op->item);
        op->view.slab_class = (uint8_t)lru_class(op->item->lru_id);
        op->status = CACHE_OK;
        return STEP_DONE;
    }
    if (s == STEP_DONE)
        stat_inc(w->stats, op->status == CACHE_TOO_LARGE ? STAT_store_too_large : STAT_store_no_memory);
    return s;
}

/* Does the verb have to know for certain whether the key exists? Otherwise unread words are left
 * to the checks, unless these fall behind: then an overwritten key would leave more and more words
 * behind, until its two buckets are full of them. */
static bool store_needs_facts(const struct cache *c, const struct cache_op *op, const struct lookup *l)
{
    return op->mode != CACHE_SET || (op->options & CACHE_F_CAS_COMPARE) || l->unread_count > UNREAD_MAX ||
           stale_is_behind(&c->stale);
}

static uint64_t op_cas(struct cache *c, const struct cache_op *op)
{
    return op->options & CACHE_F_CAS_SET ? op->cas_new : cache_next_cas(c);
}

static enum step store_link(struct cache_worker *w, struct cache_op *op, struct lookup *l, uint32_t now)
{
    struct cache *c = w->cache;
    lock_assert_held(index_lock(c->index, op->spot.hash));
    DEBUG_ASSERT(op->item != NULL);
    struct item *it = op->item;
    item_set_cas(it, op_cas(c, op));
    if (op->options & CACHE_F_BINARY_KEY)
        item_flag_set(it, ITEM_BINARY_KEY);
    if (item_store(c, op, l, it, now) != 0)
        return STEP_WAIT;
    op->item = NULL;
    stat_inc(w->stats, STAT_total_items);
    op->status = CACHE_OK;
    view_item(&op->view, it);
    hold(op, it);
    return STEP_DONE;
}

/* append and prepend: a new item of both values. The part that the client sent stays in op->item until the
 * joined item is there, which needs the old value's size. */
static enum step store_join(struct cache_worker *w, struct cache_op *op, struct lookup *l, uint32_t now)
{
    struct cache *c = w->cache;
    struct item *part = op->item, *joined = op->joined;
    ASSERT(part != NULL && (l->it || l->match));
    const struct ext_record *r = l->it ? NULL : &l->match->rec;
    uint32_t old_bytes = l->it ? l->it->value_bytes : r->value_bytes;
    uint32_t old_flags = l->it ? item_client_flags(l->it) : r->client_flags;
    uint64_t sum = (uint64_t)old_bytes + part->value_bytes;
    if (sum > UINT32_MAX) {
        op->status = CACHE_TOO_LARGE;
        return STEP_DONE;
    }
    if (!(joined && joined->value_bytes == sum && item_client_flags(joined) == old_flags)) {
        if (joined)
            item_unref(c, joined);
        op->joined = NULL;
        op->need = need_of(op, (uint32_t)sum, old_flags, 0);
        return STEP_ALLOC;
    }
    bool append = op->mode == CACHE_APPEND;
    char *to = item_value(joined);
    memcpy(append ? to : to + part->value_bytes, l->it ? item_value(l->it) : r->value, old_bytes);
    memcpy(append ? to + old_bytes : to, item_value(part), part->value_bytes);
    atomic_store_explicit(&joined->exptime_sec,
                          l->it ? atomic_load(&l->it->exptime_sec) : record_exptime_sec(r),
                          memory_order_relaxed);
    op->item = joined;
    op->joined = NULL;
    enum step s = store_link(w, op, l, now);
    if (s == STEP_WAIT) { /* the index is full: both stay for the next try */
        op->joined = joined;
        op->item = part;
        return s;
    }
    item_unref(c, part);
    return s;
}

/* The key's present object, in RAM or on flash. */
struct existing {
    bool there;
    uint64_t cas;
    unsigned slab_class;
};

static struct existing existing_of(struct cache *c, const struct cache_op *op, const struct lookup *l)
{
    if (l->it)
        return (struct existing){true, item_cas(l->it), lru_class(l->it->lru_id)};
    if (!l->match)
        return (struct existing){0};
    const struct ext_record *r = &l->match->rec;
    return (struct existing){true, r->cas,
                             slab_class_of(c->slab, item_accounted_bytes_of(op->key_bytes, r->value_bytes, 0))};
}

/* An older value than the one here: it is stored, but stale; TTL and token stay. */
static void store_as_stale(const struct cache_op *op, const struct lookup *l)
{
    ASSERT(l->it || l->match);
    unsigned flags = l->it ? item_flags(l->it) : item_flags_of(l->match->rec.item_flags);
    uint32_t exptime = l->it ? atomic_load(&l->it->exptime_sec) : record_exptime_sec(&l->match->rec);
    atomic_store(&op->item->exptime_sec, exptime);
    item_flag_set(op->item, ITEM_STALE | (flags & ITEM_TOKEN_SENT));
}

static enum step store_cas(struct cache_worker *w, struct cache_op *op, struct lookup *l, uint32_t now)
{
    struct existing old = existing_of(w->cache, op, l);
    if (!old.there) {
        stat_inc(w->stats, STAT_cas_misses);
        op->status = CACHE_NOT_FOUND;
        return STEP_DONE;
    }
    bool same = old.cas == op->cas_compare && old.cas != 0;
    if (!same && (op->options & CACHE_F_INVALIDATE) && op->cas_compare != 0 && op->cas_compare < old.cas) {
        store_as_stale(op, l);
        same = true;
    }
    if (!same) {
        stat_class_inc(w->stats, old.slab_class, CSTAT_cas_badval);
        op->status = CACHE_EXISTS;
        return STEP_DONE;
    }
    enum step s = store_link(w, op, l, now);
    if (s == STEP_DONE)
        stat_class_inc(w->stats, old.slab_class, CSTAT_cas_hits);
    return s;
}

/* Does the mode allow a store, given the key's present object or its absence? If not, op->status says so. */
static bool store_may(struct cache *c, struct cache_op *op, const struct lookup *l, uint32_t now)
{
    bool there = l->it || l->match;
    if (op->mode == CACHE_SET)
        return true;
    if (op->mode == CACHE_ADD && l->it)
        item_freshen(c, l->it, now);
    if (op->mode == CACHE_ADD ? !there : there)
        return true;
    op->status = CACHE_NOT_STORED;
    return false;
}

static enum step store_as(struct cache_worker *w, struct cache_op *op, struct lookup *l, uint32_t now)
{
    bool joins = op->mode == CACHE_APPEND || op->mode == CACHE_PREPEND;
    struct existing old = existing_of(w->cache, op, l);
    if (store_is_cas(op))
        return store_cas(w, op, l, now);
    if (joins && !old.there && (op->options & CACHE_F_VIVIFY)) {
        atomic_store(&op->item->exptime_sec, op->vivify_exptime_sec);
        return store_link(w, op, l, now);
    }
    if (!store_may(w->cache, op, l, now))
        return STEP_DONE;
    if (!joins)
        return store_link(w, op, l, now);
    if ((op->options & CACHE_F_CAS_COMPARE) && op->cas_compare != 0 && old.cas != op->cas_compare) {
        op->status = CACHE_EXISTS;
        return STEP_DONE;
    }
    return store_join(w, op, l, now);
}

static enum step step_store(struct cache_worker *w, struct cache_op *op, struct lookup *l, uint32_t now)
{
    ASSERT(op->item);
    if (!op->counted)
        stat_class_inc(w->stats, lru_class(op->item->lru_id), CSTAT_set_cmds);
    op->counted = true;
    enum step s = store_as(w, op, l, now);
    if (s == STEP_DONE && op->status != CACHE_OK)
        op_item_free(w->cache, op);
    return s;
}

/* ---- CACHE_DELETE ---- */

/* md I: the item stays, marked stale, under a new cas. */
static void delete_mark_stale(struct cache *c, struct cache_op *op, struct item *it)
{
    if (op->options & CACHE_F_TOUCH)
        atomic_store(&it->exptime_sec, op->exptime_sec);
    item_flag_set(it, ITEM_STALE);
    item_flag_clear(it, ITEM_TOKEN_SENT);
    item_set_cas(it, op_cas(c, op));
}

/* md x: the item is replaced by an empty one, new but for its cas. op->item was allocated empty. */
static void delete_empty(struct cache *c, struct cache_op *op, struct lookup *l, uint32_t now)
{
    lock_assert_held(index_lock(c->index, op->spot.hash));
    ASSERT((l->it || l->match) && op->item->value_bytes == 0);
    struct item *fresh = op->item, *old = l->it;
    unsigned flags = old ? item_flags(old) : item_flags_of(l->match->rec.item_flags);
    uint64_t cas = old ? item_cas(old) : l->match->rec.cas;
    atomic_store(&fresh->exptime_sec, op->exptime_sec);
    item_flag_set(fresh, flags & ITEM_BINARY_KEY);
    if (op->options & CACHE_F_INVALIDATE)
        delete_mark_stale(c, op, fresh);
    else
        item_set_cas(fresh, op->options & CACHE_F_CAS_SET ? op->cas_new : cas);
    int rc = item_store(c, op, l, fresh, now);
    ASSERT(rc == 0); /* it replaces a word: needs no room in the index */
    op->item = NULL;
}

/* md I and md x: the item stays, marked stale or emptied. A record from flash is changed before it is
 * linked, so that there is room for at least one of the two; an empty one doesn't need its value. */
static enum step delete_keep(struct cache_worker *w, struct cache_op *op, struct lookup *l, uint32_t now)
{
    struct cache *c = w->cache;
    lock_assert_held(index_lock(c->index, op->spot.hash));
    bool empties = op->options & CACHE_F_EMPTY, came = !l->it && !empties;
    enum step s = STEP_DONE;
    if (came)
        s = want_ram_changed(c, op, l, delete_mark_stale);
    else if (!empties && changes_copies(c))
        s = want_copy(c, op, l->it);
    else if (empties && !(op->item && op->item->value_bytes == 0 &&
                          item_client_flags(op->item) == op->client_flags))
        s = need_item(c, op, need_of(op, 0, op->client_flags, 0));
    if (s != STEP_DONE)
        return s;
    op->status = CACHE_OK;
    if (came)
        return STEP_DONE;
    if (!(op->options & CACHE_F_INVALIDATE)) /* memcached does not count an item that it marks stale */
        stat_class_inc(w->stats, lru_class(op->item->lru_id), CSTAT_delete_hits);
    if (empties) {
        delete_empty(c, op, l, now);
    } else if (changes_copies(c)) {
        delete_mark_stale(c, op, op->item);
        swap_copy(c, op, l, now);
    } else {
        delete_mark_stale(c, op, l->it);
    }
    return STEP_DONE;
}

static enum step delete_all(struct cache_worker *w, struct cache_op *op, struct lookup *l)
{
    struct cache *c = w->cache;
    lock_assert_held(index_lock(c->index, op->spot.hash));
    ASSERT(l->it || l->match);
    if (l->it && (item_flags(l->it) & ITEM_MAY_HIDE_FLASH)) {
        l->hider = l->it;
        lookup_hidden(c, op, l);
        if (l->unread_count > 0)
            return queue_reads(w, op, l);
    }
    if (l->it) {
        view_item(&op->view, l->it);
        op->view.value = NULL;
        item_unlink(c, l->it, op->spot.hash);
    } else {
        view_record(c, op, l->match);
        flash_forget(c, op->spot.hash, l->match_slot, false);
    }
    departed_note(c->departed, op->spot.hash, MISS_deleted);
    worth_left(c, op->spot.hash, ext_record_bytes(op->key_bytes, op->view.value_bytes));
    if (!(op->options & CACHE_F_QUIET_STATS))
        stat_class_inc(w->stats, op->view.slab_class, CSTAT_delete_hits);
    op->status = CACHE_OK;
    return STEP_DONE;
}

static enum step step_delete(struct cache_worker *w, struct cache_op *op, struct lookup *l, uint32_t now)
{
    struct existing old = existing_of(w->cache, op, l);
    enum step s = STEP_DONE;
    if (!old.there) {
        op->status = CACHE_NOT_FOUND;
        if (!(op->options & CACHE_F_QUIET_STATS))
            stat_inc(w->stats, STAT_delete_misses);
    } else if ((op->options & CACHE_F_CAS_COMPARE) && old.cas != op->cas_compare) {
        op->status = CACHE_EXISTS;
        if (op->options & CACHE_F_META) /* as memcached counts it */
            stat_inc(w->stats, STAT_delete_misses);
    } else if (op->options & (CACHE_F_INVALIDATE | CACHE_F_EMPTY)) {
        s = delete_keep(w, op, l, now);
    } else {
        s = delete_all(w, op, l);
    }
    if (s == STEP_DONE)
        op_item_free(w->cache, op);
    return s;
}

/* ---- CACHE_TOUCH ---- */

static enum step step_touch(struct cache_worker *w, struct cache_op *op, struct lookup *l, uint32_t now)
{
    struct cache *c = w->cache;
    enum step s = want_ram(c, op, l);
    if (s != STEP_DONE)
        return s;
    stat_inc(w->stats, STAT_touch_cmds);
    if (l->it) {
        stat_class_inc(w->stats, lru_class(l->it->lru_id), CSTAT_touch_hits);
        atomic_store(&l->it->exptime_sec, op->exptime_sec);
        item_bump(c, l->it, now);
        op->status = CACHE_OK;
    } else {
        stat_inc(w->stats, STAT_touch_misses);
        op->status = CACHE_NOT_FOUND;
    }
    op_item_free(c, op);
    return STEP_DONE;
}

/* ---- CACHE_ARITH ---- */

#define NUMBER_DIGITS_MAX 20
static_assert(UINT64_MAX / 10000000000 / 1000000000 < 10, "the largest number has this many digits");

/* To memcached, an empty value is not a number, nor is one of several chunks, whatever its first bytes. */
static bool may_be_number(struct cache *c, const struct item *it)
{
    return it->value_bytes > 0 && slab_chunks_of(c->slab, item_accounted_bytes(it)) == 1;
}

static void arith_in_place(struct cache *c, struct cache_op *op, struct item *it, const char *digits,
                           unsigned len)
{
    ASSERT(len > 0 && len <= it->value_bytes && len <= NUMBER_DIGITS_MAX);
    char *v = item_value(it);
    memcpy(v, digits, len);
    memset(v + len, ' ', it->value_bytes - len);
    item_set_cas(it, op_cas(c, op));
}

static enum step arith_miss(struct cache_worker *w, struct cache_op *op, struct lookup *l, uint32_t now)
{
    if (!(op->options & CACHE_F_VIVIFY)) {
        op->status = CACHE_NOT_FOUND;
        stat_inc(w->stats, op->options & CACHE_F_DECR ? STAT_decr_misses : STAT_incr_misses);
        return STEP_DONE;
    }
    char digits[NUMBER_DIGITS_MAX + 4];
    unsigned len = (unsigned)snprintf(digits, sizeof(digits), "%" PRIu64, op->initial);
    if (!(op->item && op->item->value_bytes == len && !(item_flags(op->item) & ITEM_CFLAGS)))
        return need_item(w->cache, op, need_of(op, len, 0, op->vivify_exptime_sec));
    memcpy(item_value(op->item), digits, len);
    atomic_store(&op->item->exptime_sec, op->vivify_exptime_sec);
    enum step s = store_link(w, op, l, now);
    if (s == STEP_DONE) {
        op->number = op->initial;
        op->status = CACHE_VIVIFIED;
        op->view.exptime_before_sec = 0;
    }
    return s;
}

/* Reads the old number and makes the new one. False: op->status says why not. */
static bool arith_number(struct cache *c, struct cache_op *op, struct item *it)
{
    uint64_t number;
    if ((op->options & CACHE_F_CAS_COMPARE) && op->cas_compare != 0 && may_be_number(c, it) &&
        item_cas(it) != op->cas_compare) {
        op->status = CACHE_EXISTS;
        return false;
    }
    /* Text after a space does no harm, not even words that were appended to a padded number. */
    if (!may_be_number(c, it) || !proto_lenient_u64(item_value(it), it->value_bytes, &number)) {
        op->status = CACHE_NON_NUMERIC;
        return false;
    }
    if (!(op->options & CACHE_F_DECR))
        op->number = number + op->delta;
    else
        op->number = number < op->delta ? 0 : number - op->delta;
    return true;
}

/* The new number is longer, or somebody still reads the old one: a new item takes its place. */
static enum step arith_replace(struct cache *c, struct cache_op *op, struct lookup *l, const char *digits,
                               unsigned len, uint32_t now)
{
    struct item *old = l->it, *fresh = op->item;
    lock_assert_held(index_lock(c->index, op->spot.hash));
    ASSERT(old != NULL && len <= NUMBER_DIGITS_MAX);
    uint32_t client_flags = item_client_flags(old);
    if (!(fresh && fresh->value_bytes == len && item_client_flags(fresh) == client_flags))
        return need_item(c, op, need_of(op, len, client_flags, 0));
    memcpy(item_value(fresh), digits, len);
    atomic_store(&fresh->exptime_sec,
                 op->options & CACHE_F_TOUCH ? op->exptime_sec : atomic_load(&old->exptime_sec));
    item_flag_set(fresh, item_flags(old) & ITEM_BINARY_KEY); /* for the rest, memcached's new item is new */
    item_set_cas(fresh, op_cas(c, op));
    int rc = item_store(c, op, l, fresh, now);
    ASSERT(rc == 0); /* replaces a RAM word */
    op->item = NULL;
    l->it = fresh;
    return STEP_DONE;
}

/* Writes the new number; l->it is then the item that holds it. */
static enum step arith_write(struct cache *c, struct cache_op *op, struct lookup *l, uint32_t now)
{
    lock_assert_held(index_lock(c->index, op->spot.hash));
    ASSERT(l->it != NULL);
    char digits[NUMBER_DIGITS_MAX + 4];
    unsigned len = (unsigned)snprintf(digits, sizeof(digits), "%" PRIu64, op->number);
    if (len > l->it->value_bytes || item_refs(l->it) != 1)
        return arith_replace(c, op, l, digits, len, now);
    bool copies = changes_copies(c) || !has_form_of_new(c, l->it);
    enum step s = copies ? want_copy(c, op, l->it) : STEP_DONE;
    if (s != STEP_DONE)
        return s;
    struct item *it = copies ? op->item : l->it;
    arith_in_place(c, op, it, digits, len);
    if (op->options & CACHE_F_TOUCH)
        atomic_store(&it->exptime_sec, op->exptime_sec);
    if (copies)
        swap_copy(c, op, l, now);
    item_freshen(c, l->it, now);
    return STEP_DONE;
}

static enum step arith_hit(struct cache_worker *w, struct cache_op *op, struct lookup *l, uint32_t now)
{
    uint32_t exptime_before = atomic_load(&l->it->exptime_sec);
    if (!arith_number(w->cache, op, l->it))
        return STEP_DONE;
    enum step s = arith_write(w->cache, op, l, now);
    if (s != STEP_DONE)
        return s;
    stat_class_inc(w->stats, lru_class(l->it->lru_id),
                   op->options & CACHE_F_DECR ? CSTAT_decr_hits : CSTAT_incr_hits);
    view_item(&op->view, l->it);
    op->view.value = NULL;
    op->view.exptime_before_sec = exptime_before;
    op->status = CACHE_OK;
    return STEP_DONE;
}

static enum step step_arith(struct cache_worker *w, struct cache_op *op, struct lookup *l, uint32_t now)
{
    enum step s = want_ram(w->cache, op, l);
    if (s == STEP_DONE)
        s = l->it ? arith_hit(w, op, l, now) : arith_miss(w, op, l, now);
    if (s == STEP_DONE && op->status != CACHE_VIVIFIED)
        op_item_free(w->cache, op);
    return s;
}

/* ---- a step ---- */

/* Does the op make an object of a key that isn't there, and only then? */
static bool op_needs_absence(const struct cache_op *op)
{
    return (op->options & CACHE_F_VIVIFY) || (op->verb == CACHE_STORE && op->mode == CACHE_ADD);
}

/* Whether the key is there can't be told now, so nothing may take its place. A get is a miss, as any get of what can't
 * be read. */
static enum step refuse(struct cache_worker *w, struct cache_op *op)
{
    bool gets = op->verb == CACHE_GET;
    op->status = gets ? CACHE_NOT_FOUND : CACHE_NO_MEMORY;
    if (gets)
        count_get(w, op, false, 0, 0);
    else
        stat_inc(w->stats, STAT_store_no_memory);
    op_item_free(w->cache, op);
    return STEP_DONE;
}

/* Runs the verb on the look-up's result, or queues reads of the records that it has to know. LOCK_COLUMN
 * held. */
static enum step run_verb(struct cache_worker *w, struct cache_op *op, struct lookup *l, uint32_t now)
{
    static enum step (*const verbs[])(struct cache_worker *, struct cache_op *, struct lookup *, uint32_t) = {
        [CACHE_GET] = step_get,       [CACHE_STORE] = step_store, [CACHE_DELETE] = step_delete,
        [CACHE_TOUCH] = step_touch,   [CACHE_ARITH] = step_arith,
    };
    bool unread = !l->it && l->unread_count > 0;
    lock_assert_held(index_lock(w->cache->index, op->spot.hash));
    DEBUG_ASSERT((size_t)op->verb < ARRAY_COUNT(verbs) && verbs[op->verb] != NULL);
    if (l->it && op->verb != CACHE_GET) /* it may change */
        item_forget_copy(w->cache, l->it, op->spot.hash);
    if (unread && (op->verb != CACHE_STORE || store_needs_facts(w->cache, op, l))) {
        op->read_hidden |= l->hider != NULL;
        return queue_reads(w, op, l);
    }
    if (unlikely(l->failed) && !op_sets(op)) {
        l->match = NULL;
        if (op_needs_absence(op))
            return refuse(w, op);
    }
    return verbs[op->verb](w, op, l, now);
}

/* Allocates the item that the verb needs. The item of both values is not the client's part of it. */
static enum step get_memory(struct cache_worker *w, struct cache_op *op)
{
    lock_assert_none_held();
    bool joins = op->item != NULL;
    enum step s = op_alloc(w, op, joins ? &op->joined : &op->item);
    if (joins && s == STEP_DONE)
        op->status = CACHE_NOT_STORED; /* as memcached: no memory for the joined value */
    if (joins && s == STEP_DONE)
        op_item_free(w->cache, op);
    return s;
}

unsigned cache_drop_tag(struct cache_worker *w, struct cache_op *op)
{
    struct cache *c = w->cache;
    struct lock *lock = index_lock(c->index, op->spot.hash);
    DEBUG_ASSERT(op_ends_old_value(op));
    lock_assert_none_held();
    lock_take(lock);
    unsigned gone = flash_forget_ranks(c, op->spot.hash, INDEX_RANK_MAX);
    lock_release(lock);
    cache_count(c, CACHE_N_evictions_same_tag, gone);
    return gone;
}

void cache_drop_key(struct cache_worker *w, const char *key, uint8_t key_bytes, const struct index_spot *spot)
{
    struct cache *c = w->cache;
    struct lock *lock = index_lock(c->index, spot->hash);
    struct cache_op op = {.verb = CACHE_DELETE,
                          .options = CACHE_F_QUIET_STATS,
                          .key = key,
                          .key_bytes = key_bytes,
                          .spot = *spot,
                          .worker = w};
    struct lookup l;
    lock_assert_none_held();
    lock_take(lock);
    unsigned gone = flash_forget_ranks(c, spot->hash, INDEX_RANK_MAX); /* first, since an item may hide some */
    cache_lookup(w, &op, &l, clock_now_sec());
    DEBUG_ASSERT(l.unread_count == 0 && !l.match);
    if (l.it)
        (void)item_unlink_hiding(c, l.it, spot->hash);
    lock_release(lock);
    if (gone > 0 || l.it)
        departed_note(c->departed, spot->hash, MISS_deleted);
    cache_count(c, CACHE_N_evictions_same_tag, gone);
}

enum step cache_step(struct cache_worker *w, struct cache_op *op)
{
    lock_assert_none_held();
    struct lock *lock = index_lock(w->cache->index, op->spot.hash);
    uint32_t now = clock_now_sec();
    struct lookup l;
    if (op->verb == CACHE_ALLOC)
        return step_alloc(w, op);
    if (op->verb == CACHE_GET && op->read_count > 0 && op->attempts == 1 && !op->read_hidden &&
        !(op->options & CACHE_F_VIVIFY)) {
        enum step s = step_get_read(w, op, now);
        if (s != STEP_AGAIN)
            return s;
    }
    lock_take(lock);
    cache_lookup(w, op, &l, now);
    enum step s = run_verb(w, op, &l, now);
    lock_release(lock);
    return s == STEP_ALLOC ? get_memory(w, op) : s;
}
