/* items/room.c: makes memory for items when there is none: the actions
 * at the tail of an LRU, and the allocation that needs them.
 *
 * Every removal of an item for lack of room goes through lru_pull_tail(), one item
 * a call. It holds the list's lock only to find the item and try the item's
 * column (out of order, so only by trying), then only the column. With flash, a COLD tail that is
 * worth a write (items/worth.h) is copied there and stays a hit; a clean one (items/clean.h) just leaves.
 * For lack of room one is evicted only when there is no flash, or flash could not take it within ext_max_sleep.
 */
#include "items/room.h"

#include "items/clean.h"
#include "items/debug.h"
#include "items/object.h"
#include "items/worth.h"
#include "operator/watch.h"

#define PULL_TRIES_MAX 50   /* busy tails to skip when room is required; in the end, all */
#define ALLOC_TRIES_MAX 64  /* pulls for one allocation */
#define PASSED_TRIES 16     /* of them, for one that met only hiders */
#define SHARES_TRIES_MAX 4  /* items that HOT and WARM pass on for one that goes */
#define PASSES_MAX 50       /* hiders to pass over in one list, for one pull */
#define ROOM_CHECKS_MAX 1024 /* with more checks waiting, hiders that are passed over queue none */
#define CHUNKED_BUCKET_MIN_BYTES (512 * KiB)
#define PREFETCH_VALUE_BYTES 512 /* the processor prefetches the rest */

static uint32_t unix_of(uint32_t rel_sec)
{
    int64_t unix_sec = clock_rel_to_unix(rel_sec);
    return unix_sec < 1 ? 1 : unix_sec > UINT32_MAX ? UINT32_MAX : (uint32_t)unix_sec;
}

static enum ext_bucket bucket_of(struct cache *c, const struct item *it, uint32_t exptime, uint32_t now)
{
    uint32_t low_ttl = atomic_load_explicit(&c->config->ext_low_ttl, memory_order_relaxed);
    if (exptime != 0 && (exptime <= now || exptime - now < low_ttl))
        return EXT_BUCKET_LOWTTL;
    return it->value_bytes >= CHUNKED_BUCKET_MIN_BYTES ? EXT_BUCKET_CHUNKED : EXT_BUCKET_DEFAULT;
}

static uint32_t idle_sec(const struct item *it, uint32_t now)
{
    uint32_t time_sec = atomic_load_explicit(&it->time_sec, memory_order_relaxed);
    return now > time_sec ? now - time_sec : 0;
}

static void describe(struct item *it, uint32_t now, struct watch_item *out)
{
    uint32_t exptime = atomic_load_explicit(&it->exptime_sec, memory_order_relaxed);
    memset(out, 0, sizeof(*out));
    out->key = item_key(it);
    out->key_bytes = it->key_bytes;
    out->fetched = item_flags(it) & ITEM_FETCHED;
    out->ttl_sec = exptime == 0 ? -1 : (int64_t)exptime - (int64_t)now;
    out->idle_sec = idle_sec(it, now);
    out->slab_class = lru_class(it->lru_id);
    out->value_bytes = it->value_bytes;
}

/* Copies the item to flash and swaps its word; the record keeps the class. */
static int flush_as(struct cache *c, struct item *it, uint64_t hash, unsigned class)
{
    lock_assert_held(index_lock(c->index, hash));
    ASSERT((item_flags(it) & ITEM_LINKED) && class < ADMISSION_CLASSES);
    uint32_t now = clock_now_sec();
    uint32_t exptime = atomic_load_explicit(&it->exptime_sec, memory_order_relaxed);
    enum ext_bucket bucket = bucket_of(c, it, exptime, now);
    struct ext_record_in in = {
        .hash = hash,
        .key = item_key(it),
        .value = item_value(it),
        .value_bytes = it->value_bytes,
        .key_bytes = it->key_bytes,
        .item_flags = (uint8_t)(flash_flags_of(item_flags(it)) | class << ITEM_FLASH_CLASS_SHIFT),
        .client_flags = item_client_flags(it),
        .cas = item_cas(it),
        .exptime_unix = exptime == 0 ? 0 : unix_of(exptime),
        .time_unix = unix_of(atomic_load_explicit(&it->time_sec, memory_order_relaxed)),
    };
    ext_place place;
    unsigned len_class;
    int rc = ext_append(c->ext, bucket, &in, &place, &len_class);
    if (rc != 0)
        return rc;
    if (watch_wants(WATCH_EVICTIONS)) {
        struct watch_item w;
        describe(it, now, &w);
        watch_extwrite(&w, bucket);
    }
    index_slot *slot;
    unsigned rank = index_rank_above(c->index, hash, slab_handle_of(c->slab, it), &slot);
    ASSERT(slot != NULL && rank <= INDEX_RANK_MAX); /* a linked item has a word */
    index_replace(c->index, hash, slot, index_make_flash(c->index, place, len_class, 0, rank));
    tag_end_clean(c, hash, false); /* of another item: now the tag has two records */
    debug_held_at(c, hash, it, 0, place);
    cache_count(c, CACHE_N_flushed_items, 1);
    admission_written(&c->admission, class, ext_record_bytes(it->key_bytes, it->value_bytes));
    item_retire(c, it);
    return 0;
}

int item_flush(struct cache *c, struct item *it, uint64_t hash)
{
    return item_leave_clean(c, it, hash) ? 0 : flush_as(c, it, hash, worth_class(c, it, hash));
}

/* Why an item is evicted, as a counter and as the reason of later misses. */
struct eviction {
    enum cache_counter counter;
    enum miss_reason miss;
};
#define EVICTION(why) (struct eviction){CACHE_N_evictions_##why, MISS_evicted_##why}

/* Counts an item that is evicted, by its class and the reason, and tells watchers. */
static void count_evicted(struct cache *c, struct item *it, uint64_t hash, uint32_t now, struct eviction why)
{
    cache_count(c, why.counter, 1);
    departed_note(c->departed, hash, why.miss);
    unsigned cls = lru_class(it->lru_id), flags = item_flags(it);
    class_count(c, cls, evicted);
    if (atomic_load_explicit(&it->exptime_sec, memory_order_relaxed) != 0)
        class_count(c, cls, evicted_nonzero);
    if (!(flags & ITEM_FETCHED))
        class_count(c, cls, evicted_unfetched);
    if (flags & ITEM_ACTIVE)
        class_count(c, cls, evicted_active);
    atomic_store_explicit(&c->classes[cls].evicted_time, idle_sec(it, now), memory_order_relaxed);
    if (watch_wants(WATCH_EVICTIONS)) {
        struct watch_item w;
        describe(it, now, &w);
        watch_eviction(&w);
    }
}

/* Drops the item, because it isn't worth a write to flash. LOCK_COLUMN held. */
static void item_pass_up(struct cache *c, struct item *it, uint64_t hash, uint32_t now, enum worth worth)
{
    lock_assert_held(index_lock(c->index, hash));
    ASSERT(worth != WORTH_WRITE && !(item_flags(it) & ITEM_MAY_HIDE_FLASH));
    count_evicted(c, it, hash, now,
                  worth == WORTH_TOO_SHORT  ? EVICTION(short_ttl)
                  : worth == WORTH_TOO_MUCH ? EVICTION(write_limit)
                                            : EVICTION(not_admitted));
    worth_left(c, hash, ext_record_bytes(it->key_bytes, it->value_bytes));
    item_unlink(c, it, hash);
}

/* Evicts the item for lack of room, and with it what it may hide. LOCK_COLUMN held. */
static void item_evict(struct cache *c, struct item *it, uint64_t hash, uint32_t now, int flash_error)
{
    lock_assert_held(index_lock(c->index, hash));
    ASSERT(flash_error <= 0 && c->config->evict_to_free);
    count_evicted(c, it, hash, now,
                  !c->ext                  ? EVICTION(no_flash)
                  : flash_error == -EAGAIN ? EVICTION(write_wait)
                  : flash_error != -ENOSPC ? EVICTION(device)
                                           : EVICTION(flash_full));
    cache_count(c, CACHE_N_evictions_same_tag, item_unlink_hiding(c, it, hash));
}

/* The item can't go before the words that it may hide are compared: queues that, and others go first. */
static enum room pass_over(struct cache *c, struct item *it, uint64_t hash, bool must)
{
    lock_assert_held(index_lock(c->index, hash));
    if (!must)
        stale_note_overwrite(c, hash, 0);
    else if (stale_waiting(&c->stale) < ROOM_CHECKS_MAX)
        stale_put(&c->stale, &(struct stale_check){.kind = STALE_ROOM, .hash = hash});
    cache_wake_maint(c);
    lru_move(c->lru, it, LRU_COLD);
    return ROOM_PASSED;
}

/* A dead item that may hide older values of its key goes to flash, where it hides them by its rank. */
static enum room pull_dead_hider(struct cache *c, struct item *it, uint64_t hash, enum room_mode mode)
{
    ASSERT(c->ext != NULL && (item_flags(it) & ITEM_MAY_HIDE_FLASH));
    if (item_flush(c, it, hash) == 0)
        return ROOM_MADE;
    if (mode != ROOM_LAST)
        return pass_over(c, it, hash, true);
    class_count(c, lru_class(it->lru_id), reclaimed);
    cache_count(c, CACHE_N_evictions_same_tag, item_unlink_hiding(c, it, hash));
    return ROOM_MADE;
}

/* Must room be made, by whatever goes? */
static bool is_must(enum room_mode mode) { return mode >= ROOM_EVICT; }

/* Handles a COLD tail; where room must be made, the tail of any list. LOCK_COLUMN held. */
static enum room pull_cold(struct cache *c, struct item *it, uint64_t hash, enum room_mode mode,
                           uint32_t max_age, uint32_t now)
{
    lock_assert_held(index_lock(c->index, hash));
    ASSERT(lru_segment(it->lru_id) == LRU_COLD || is_must(mode));
    ASSERT((mode != ROOM_FLUSH && mode != ROOM_AGED) || c->ext != NULL);
    if (mode == ROOM_JUGGLE) {
        if (!(item_flags(it) & ITEM_ACTIVE) || !c->config->lru_segmented)
            return ROOM_NONE;
        item_to_warm(c, it);
        return ROOM_MADE;
    }
    if (mode == ROOM_AGED && (idle_sec(it, now) < max_age || !worth_all(c)))
        return ROOM_NONE; /* nothing has to leave RAM, and an object would have to go for it, here or on flash */
    if (item_leave_clean(c, it, hash))
        return ROOM_MADE;
    int rc = 0;
    unsigned class;
    enum worth worth = c->ext ? worth_of(c, it, hash, now, &class) : WORTH_NOT;
    if (mode == ROOM_AGED && worth != WORTH_WRITE)
        return ROOM_NONE; /* flash has become full just now */
    if (c->ext && worth != WORTH_WRITE && c->config->evict_to_free) {
        item_pass_up(c, it, hash, now, worth);
        return ROOM_MADE;
    }
    if (c->ext) {
        rc = flush_as(c, it, hash, class);
        if (rc == 0) {
            if (is_must(mode))
                cache_count(c, CACHE_N_inline_flushes, 1);
            return ROOM_MADE;
        }
        bool passes = rc == -EAGAIN || rc == -ENOSPC; /* a buffer or a page will come back */
        if (!is_must(mode))
            return passes ? ROOM_WAIT : ROOM_NONE;
        if (mode == ROOM_EVICT && passes)
            return ROOM_WAIT;
    }
    if (!c->config->evict_to_free)
        return ROOM_NONE;
    if ((item_flags(it) & ITEM_MAY_HIDE_FLASH) && mode != ROOM_LAST)
        return pass_over(c, it, hash, true);
    item_evict(c, it, hash, now, rc);
    return ROOM_MADE;
}

/* HOT and WARM pass items beyond their share, or too old ones, to COLD; active ones go to WARM. */
static enum room pull_upper(struct cache *c, struct item *it, enum lru_segment seg, uint64_t limit,
                            uint32_t max_age, uint32_t now)
{
    unsigned cls = lru_class(it->lru_id);
    ASSERT(seg == lru_segment(it->lru_id) && (seg == LRU_HOT || seg == LRU_WARM));
    if (item_flags(it) & ITEM_ACTIVE) {
        item_flag_clear(it, ITEM_ACTIVE);
        if (seg == LRU_WARM)
            class_count(c, cls, moves_within_lru);
        else
            class_count(c, cls, moves_to_warm);
        lru_move(c->lru, it, LRU_WARM);
        return ROOM_MADE;
    }
    if (lru_bytes(c->lru, it->lru_id) > limit || idle_sec(it, now) > max_age) {
        class_count(c, cls, moves_to_cold);
        lru_move(c->lru, it, LRU_COLD);
        return ROOM_MADE;
    }
    return ROOM_NONE;
}

/* Tails are taken in a row, so prefetch what the next call needs; its own header was prefetched
 * by the call before. The list's lock is held. */
static void prefetch_newer(struct cache *c, const struct item *it)
{
    lock_assert_held(lru_lock(c->lru, it->lru_id));
    struct item *next = lru_newer_locked(c->lru, it);
    if (!next)
        return;
    index_prefetch(c->index, item_hash(c, next));
    prefetch_lines(item_value(next), min_u64(next->value_bytes, PREFETCH_VALUE_BYTES));
    prefetch_lines(lru_newer_locked(c->lru, next), sizeof(struct item) + CACHE_LINE_BYTES);
}

/* Finds the oldest item of a list whose column is free; it comes back with its column locked. The
 * list's lock is released. A held item can be moved, also to flash, but its memory is free only after
 * its holder releases it, so with for_room such items are skipped. NULL: none among the tries. */
static struct item *take_tail(struct cache *c, uint8_t id, unsigned tries, bool for_room, uint64_t *hash,
                              struct lock **column)
{
    struct lock *list = lru_lock(c->lru, id);
    lock_take(list);
    struct item *it = lru_tail_locked(c->lru, id);
    for (; it && tries > 0; tries--, it = lru_newer_locked(c->lru, it)) {
        *hash = item_hash(c, it);
        *column = index_lock(c->index, *hash);
        if (!lock_try(*column))
            continue;
        ASSERT((item_flags(it) & ITEM_LINKED) && it->lru_id == id);
        bool held = item_refs(it) != 1;
        if (held)
            class_count(c, lru_class(id), lrutail_reflocked);
        if (!held || !for_room) {
            prefetch_newer(c, it);
            lock_release(list);
            return it;
        }
        lock_release(*column);
    }
    lock_release(list);
    return NULL;
}

enum room lru_pull_tail(struct cache *c, unsigned cls, enum lru_segment seg, uint64_t total_bytes,
                    enum room_mode mode, uint32_t max_age_sec)
{
    const struct cache_config *s = c->config;
    uint8_t id = lru_id_of(cls, seg);
    uint64_t hash;
    struct lock *column;
    lock_assert_none_held();
    if (lru_count(c->lru, id) == 0)
        return ROOM_NONE;
    bool must = is_must(mode);
    unsigned tries = mode == ROOM_LAST ? UINT32_MAX : must ? PULL_TRIES_MAX : CACHE_PULL_TRIES;
    struct item *it = take_tail(c, id, tries, must, &hash, &column);
    if (!it)
        return ROOM_NONE;
    uint32_t now = clock_now_sec();
    enum room result;
    enum item_death death = item_death(c, it, now);
    if (death != ITEM_ALIVE)
        item_forget_copy(c, it, hash);
    if (death != ITEM_ALIVE && (item_flags(it) & ITEM_MAY_HIDE_FLASH)) {
        result = must ? pull_dead_hider(c, it, hash, mode) : pass_over(c, it, hash, false);
    } else if (death != ITEM_ALIVE) {
        class_count(c, cls, reclaimed);
        if (must)
            class_count(c, cls, direct_reclaims);
        item_unlink_dead(c, it, hash, death);
        result = ROOM_MADE;
    } else if (seg == LRU_COLD || must) {
        result = pull_cold(c, it, hash, mode, max_age_sec, now);
    } else if (seg == LRU_TEMP) {
        result = ROOM_NONE;
    } else {
        uint32_t pct = atomic_load_explicit(seg == LRU_HOT ? &s->hot_lru_pct : &s->warm_lru_pct,
                                            memory_order_relaxed);
        result = pull_upper(c, it, seg, total_bytes * pct / 100, max_age_sec, now);
    }
    lock_release(column);
    return result;
}

/* HOT and WARM pass on what is beyond their shares, a few items a call. The maintenance thread does the same, but
 * in a class of few items all of COLD may go between two of its rounds, and with it what was hit lately. */
static void keep_shares(struct cache *c, unsigned cls)
{
    const struct cache_config *s = c->config;
    const uint8_t hot = lru_id_of(cls, LRU_HOT), warm = lru_id_of(cls, LRU_WARM);
    uint64_t total = lru_shared_bytes(c->lru, cls);
    uint64_t hot_max = total * atomic_load_explicit(&s->hot_lru_pct, memory_order_relaxed) / 100;
    uint64_t warm_max = total * atomic_load_explicit(&s->warm_lru_pct, memory_order_relaxed) / 100;
    for (unsigned i = 0; i < SHARES_TRIES_MAX; i++) {
        bool moved = lru_bytes(c->lru, hot) > hot_max &&
                     lru_pull_tail(c, cls, LRU_HOT, total, ROOM_JUGGLE, UINT32_MAX) == ROOM_MADE;
        moved |= lru_bytes(c->lru, warm) > warm_max &&
                 lru_pull_tail(c, cls, LRU_WARM, total, ROOM_JUGGLE, UINT32_MAX) == ROOM_MADE;
        if (!moved)
            return;
    }
}

/* Takes an item from the list; hiders are passed over. */
static enum room pull_out(struct cache *c, unsigned cls, enum lru_segment seg, enum room_mode mode)
{
    uint64_t passes = min_u64(lru_count(c->lru, lru_id_of(cls, seg)), PASSES_MAX);
    enum room r;
    do {
        r = lru_pull_tail(c, cls, seg, 0, mode, 0);
    } while (r == ROOM_PASSED && passes-- > 1);
    return r;
}

enum room room_make(struct cache *c, unsigned cls, enum room_mode mode)
{
    static const enum lru_segment upper[] = {LRU_HOT, LRU_WARM, LRU_TEMP};
    ASSERT(cls > 0 && cls <= slab_class_count(c->slab) && is_must(mode));
    if (c->ext && c->config->lru_segmented)
        keep_shares(c, cls);
    enum room r = pull_out(c, cls, LRU_COLD, mode);
    if (r != ROOM_NONE && r != ROOM_PASSED)
        return r;
    /* COLD has nothing, or only hiders, which would stay ahead of what is moved there. A flat LRU is COLD alone, but for what
     * was elsewhere when it became flat. TEMP passes nothing on; with flash
     * its items needn't be lost, and waiting would bring no room. */
    for (unsigned i = 0; i < ARRAY_COUNT(upper); i++) {
        bool out = r == ROOM_PASSED || mode == ROOM_LAST || (c->ext && upper[i] == LRU_TEMP);
        enum room other = out ? pull_out(c, cls, upper[i], mode)
                              : lru_pull_tail(c, cls, upper[i], 0, ROOM_JUGGLE, 0);
        if (other == ROOM_MADE || other == ROOM_WAIT)
            return other;
        if (other == ROOM_PASSED && r == ROOM_NONE)
            return ROOM_MADE; /* it went to COLD: a dead one, which may go to flash from there */
    }
    return r;
}

unsigned room_fullest_class(struct cache *c)
{
    unsigned best = 0;
    uint64_t most = 0;
    for (unsigned cls = 1; cls <= slab_class_count(c->slab); cls++) {
        uint64_t bytes = lru_shared_bytes(c->lru, cls) + (c->ext ? lru_bytes(c->lru, lru_id_of(cls, LRU_TEMP)) : 0);
        if (bytes > most) {
            most = bytes;
            best = cls;
        }
    }
    ASSERT(best == 0 || most > 0);
    return best;
}

int item_alloc(struct cache *c, const char *key, unsigned key_bytes, uint32_t value_bytes,
               uint32_t client_flags, uint32_t exptime_sec, bool force, struct item **out)
{
    unsigned flags = (c->config->use_cas ? ITEM_CAS : 0) | (client_flags ? ITEM_CFLAGS : 0);
    uint64_t accounted = item_accounted_bytes_of(key_bytes, value_bytes, flags);
    uint64_t real = item_real_bytes_of(key_bytes, value_bytes, flags);
    unsigned cls = slab_class_of(c->slab, accounted);
    slab_handle h;
    lock_assert_none_held();
    ASSERT(key_bytes > 0 && key_bytes <= CACHE_KEY_BYTES_MAX);
    if (cls == 0 || (c->ext && ext_record_bytes(key_bytes, value_bytes) > ext_record_max_bytes(c->ext)))
        return -E2BIG;
    if (real < sizeof(struct item))
        real = sizeof(struct item);
    unsigned pull = cls;
    int last_tries = (int)slab_chunks_of(c->slab, accounted) * 4, tries = last_tries + ALLOC_TRIES_MAX;
    for (;;) {
        if (!c->config->lru_segmented && slab_pages_left(c->slab) == 0)
            lru_pull_tail(c, cls, LRU_COLD, 0, ROOM_JUGGLE, 0);
        int rc = slab_alloc(c->slab, cls, accounted, real, &h);
        if (rc == 0)
            break;
        if (rc == -ENOMEM)
            pull = room_fullest_class(c);
        bool last = force && tries <= last_tries;
        enum room_mode mode = last ? ROOM_LAST : force ? ROOM_FORCE : ROOM_EVICT;
        enum room r = tries <= 0 || pull == 0 ? ROOM_NONE : room_make(c, pull, mode);
        if (r == ROOM_WAIT)
            return -EAGAIN;
        if (r == ROOM_NONE && (last || !force)) {
            if (c->ext && !force)
                return -EAGAIN;
            class_count(c, cls, outofmemory);
            return -ENOMEM;
        }
        tries = r == ROOM_NONE ? last_tries : tries - (r == ROOM_PASSED ? PASSED_TRIES : 1);
    }
    struct item *it = item_at(c, h);
    ASSERT(h != 0 && slab_handle_of(c->slab, it) == h);
    it->next = it->prev = 0;
    atomic_store_explicit(&it->time_sec, clock_now_sec(), memory_order_relaxed);
    atomic_store_explicit(&it->exptime_sec, exptime_sec, memory_order_relaxed);
    it->value_bytes = value_bytes;
    it->key_bytes = (uint8_t)key_bytes;
    it->lru_id = (uint8_t)cls;
    atomic_store_explicit(&it->flags, (uint16_t)flags, memory_order_relaxed);
    atomic_store_explicit(&it->refcount, 1, memory_order_release);
    item_set_cas(it, 0);
    if (flags & ITEM_CFLAGS)
        memcpy(it->data + ((flags & ITEM_CAS) ? 8 : 0), &client_flags, sizeof(client_flags));
    memcpy(it->data + item_extra_bytes(flags), key, key_bytes);
    *out = it;
    return 0;
}
