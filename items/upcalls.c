/* items/upcalls.c: answers the flash engine's questions (struct ext_callbacks).
 *
 * A callback gets the full hash that the record was written under. Two keys with the same 64-bit hash are
 * taken for one only where the worst effect is an early eviction; all other code compares keys.
 *
 * A word that must go and may hide older values of its key (index.h: rank) is not dropped here: stale_check.c
 * reads those first. LOCK_COLUMN is taken and released inside.
 */
#include "items/upcalls.h"

#include "items/clean.h"
#include "items/debug.h"
#include "items/object.h"
#include "items/worth.h"

/* Is a RAM item of this very hash there (so that the record is an overwritten one)? */
static bool ram_item_of(struct cache *c, uint64_t hash)
{
    lock_assert_held(index_lock(c->index, hash));
    index_slot *slots[INDEX_MATCH_MAX];
    unsigned n = index_match(c->index, hash, slots);
    for (unsigned i = 0; i < n; i++) {
        const struct item *it = item_of_word(c, index_load(slots[i]));
        if (it && item_hash(c, it) == hash)
            return true;
    }
    return false;
}

static bool cb_is_live(void *ctx, uint64_t hash, ext_place place, unsigned *heat)
{
    struct cache *c = ctx;
    struct lock *lock = index_lock(c->index, hash);
    lock_take(lock);
    index_slot *slot = index_find_place(c->index, hash, place);
    bool live = slot != NULL;
    if (live && !tag_is_clean(c, hash) && ram_item_of(c, hash)) {
        flash_forget(c, hash, slot, false);
        cache_count(c, CACHE_N_rescued_stale, 1);
        live = false;
    }
    if (live)
        *heat = index_heat(c->index, index_load(slot));
    lock_release(lock);
    return live;
}

/* A move halves the heat, so that objects that were hot once don't stay forever. */
static bool cb_moved(void *ctx, uint64_t hash, ext_place old, ext_place new_place, unsigned len_class)
{
    struct cache *c = ctx;
    struct lock *lock = index_lock(c->index, hash);
    lock_take(lock);
    index_slot *slot = index_find_place(c->index, hash, old);
    ASSERT(old != new_place);
    if (slot) {
        index_word w = index_load(slot);
        index_replace(c->index, hash, slot,
                      index_make_flash(c->index, new_place, len_class, index_heat(c->index, w) / 2,
                                       index_rank(c->index, w)));
        debug_held_at(c, hash, NULL, old, new_place);
        ext_drop(c->ext, old, index_len(c->index, w));
    }
    lock_release(lock);
    return slot != NULL;
}

/* Drops the word in the slot, at once or after the words that it may hide are compared. LOCK_COLUMN held. */
static enum ext_dropped drop_word(struct cache *c, const struct stale_check *check, index_slot *slot)
{
    lock_assert_held(index_lock(c->index, check->hash));
    if (tag_is_clean(c, check->hash)) { /* the object stays in RAM */
        flash_forget(c, check->hash, slot, false);
        return EXT_DROPPED_GONE;
    }
    if (!flash_may_hide(c, check->hash, slot)) {
        flash_depart(c, check, slot);
        return EXT_DROPPED;
    }
    if (!stale_put(&c->stale, check))
        return EXT_DROPPED_BUSY;
    cache_wake_maint(c);
    return EXT_DROPPED_LATER;
}

static enum ext_dropped cb_dropped(void *ctx, uint64_t hash, ext_place place, enum ext_drop_why why,
                                   uint64_t record_bytes)
{
    struct cache *c = ctx;
    ASSERT(why <= EXT_DROP_LOST && record_bytes <= UINT32_MAX);
    struct stale_check check = {.kind = STALE_DROP,
                                .hash = hash,
                                .is_full = true,
                                .place = place,
                                .version = ext_version_of(c->ext, place),
                                .why = (uint8_t)why,
                                .bytes = (uint32_t)record_bytes};
    struct lock *lock = index_lock(c->index, hash);
    lock_take(lock);
    index_slot *slot = index_find_place(c->index, hash, place);
    enum ext_dropped result = slot ? drop_word(c, &check, slot) : EXT_DROPPED_GONE;
    lock_release(lock);
    if (result == EXT_DROPPED && ext_drop_is_evicted(why))
        worth_left(c, hash, record_bytes);
    return result;
}

static void cb_cool(void *ctx, uint64_t hash, ext_place place)
{
    struct cache *c = ctx;
    struct lock *lock = index_lock(c->index, hash);
    lock_take(lock);
    index_slot *slot = index_find_place(c->index, hash, place);
    if (slot)
        index_set_heat(c->index, hash, slot, index_heat(c->index, index_load(slot)) / 2);
    lock_release(lock);
}

static void cb_count_checks(void *ctx, uint64_t *asked, uint64_t *ended)
{
    struct cache *c = ctx;
    *ended = atomic_load(&c->stale.ended); /* first: it never overtakes the other */
    *asked = atomic_load(&c->stale.asked);
    ASSERT(*ended <= *asked);
}

static bool cb_is_fresh(void *ctx, uint32_t exptime_unix, uint32_t time_unix)
{
    struct cache *c = ctx;
    return cache_death(c, clock_sec_of_unix(time_unix), clock_sec_of_unix(exptime_unix), 0,
                       clock_now_sec()) == ITEM_ALIVE;
}

struct sweep {
    struct cache *cache;
    const struct ext_sweep *what;
    enum ext_drop_why why;
};

/* No table gives the word's key; the words that it may hide are compared with its record, if that can be
 * read. */
static void sweep_visit(void *ctx, uint64_t hash_like, index_slot *slot, index_word w)
{
    struct sweep *s = ctx;
    struct cache *c = s->cache;
    if (index_kind(c->index, w) != INDEX_FLASH)
        return;
    ext_place place = index_place(c->index, w);
    lock_assert_held(index_lock(c->index, hash_like));
    if (!ext_sweep_has(s->what, place))
        return;
    struct stale_check check = {.kind = STALE_DROP,
                                .hash = hash_like,
                                .place = place,
                                .version = ext_version_of(c->ext, place),
                                .why = (uint8_t)s->why};
    drop_word(c, &check, slot); /* BUSY: the page is not empty then, and is swept again */
}

#define SWEEP_BUCKETS 4096

static bool cb_sweep(void *ctx, const struct ext_sweep *what, uint64_t *cursor, enum ext_drop_why why)
{
    struct cache *c = ctx;
    struct sweep s = {.cache = c, .what = what, .why = why};
    ASSERT(what->first < what->end);
    return index_walk_step(c->index, cursor, SWEEP_BUCKETS, sweep_visit, &s);
}

static uint64_t cb_hash_of(void *ctx, const char *key, unsigned key_bytes)
{
    return cache_hash(ctx, key, key_bytes);
}

struct ext_callbacks cache_ext_callbacks(struct cache *c)
{
    return (struct ext_callbacks){
        .ctx = c,
        .is_live = cb_is_live,
        .moved = cb_moved,
        .dropped = cb_dropped,
        .count_checks = cb_count_checks,
        .cool = cb_cool,
        .is_fresh = cb_is_fresh,
        .sweep = cb_sweep,
        .hash_of = cb_hash_of,
    };
}
