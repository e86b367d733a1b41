/* items/object.c: see items/object.h. Links and unlinks change a word and its counts; the words' rank
 * (index.h) decides the order of drops. */
#include "items/object.h"

#include <sys/eventfd.h>

#include "base/hash.h"
#include "items/lru.h"

uint64_t cache_hash(const struct cache *c, const char *key, size_t key_bytes)
{
    return hash_key(key, key_bytes, c->root->hash_seed);
}

uint64_t item_hash(const struct cache *c, const struct item *it)
{
    return cache_hash(c, item_key(it), it->key_bytes);
}

uint64_t cache_next_cas(struct cache *c)
{
    return atomic_fetch_add_explicit(&c->root->cas_counter, 1, memory_order_relaxed) + 1;
}

enum item_death cache_death(const struct cache *c, uint32_t time_sec, uint32_t exptime_sec, uint64_t cas,
                            uint32_t now_sec)
{
    if (exptime_sec != 0 && exptime_sec <= now_sec)
        return ITEM_EXPIRED;
    uint32_t flush_unix = atomic_load_explicit(&c->root->flush_unix, memory_order_relaxed);
    if (unlikely(flush_unix != 0)) {
        uint32_t flush_sec = clock_sec_of_unix(flush_unix);
        if (flush_sec <= now_sec &&
            (time_sec <= flush_sec ||
             (cas != 0 && cas < atomic_load_explicit(&c->root->flush_cas, memory_order_relaxed))))
            return ITEM_FLUSHED;
    }
    uint32_t planned_unix = atomic_load_explicit(&c->root->planned_unix, memory_order_relaxed);
    if (unlikely(planned_unix != 0)) {
        uint32_t planned_sec = clock_sec_of_unix(planned_unix);
        if (planned_sec <= now_sec && time_sec <= planned_sec)
            return ITEM_FLUSHED;
    }
    return ITEM_ALIVE;
}

void cache_sizes_count(struct cache *c, const struct item *it, int sign)
{
    ASSERT(sign == 1 || sign == -1);
    if (!c->sizes)
        return;
    size_t i = (item_accounted_bytes(it) + 31) / 32;
    if (i < c->sizes_count)
        atomic_fetch_add_explicit(&c->sizes[i], (uint64_t)(int64_t)sign, memory_order_relaxed);
}

void item_unref(struct cache *c, struct item *it)
{
    uint16_t was = atomic_fetch_sub_explicit(&it->refcount, 1, memory_order_acq_rel);
    ASSERT(was != 0);
    if (was != 1)
        return;
    ASSERT(!(item_flags(it) & ITEM_LINKED) && lru_class(it->lru_id) != 0);
    slab_free(c->slab, slab_handle_of(c->slab, it), lru_class(it->lru_id), item_accounted_bytes(it),
              item_real_bytes(it));
}

/* The slot of a linked item's word. */
static index_slot *item_slot(struct cache *c, const struct item *it, uint64_t hash)
{
    index_slot *slot = index_find_handle(c->index, hash, slab_handle_of(c->slab, it));
    ASSERT(slot != NULL); /* a linked item has a word */
    return slot;
}

void tag_end_clean(struct cache *c, uint64_t hash, bool is_gone)
{
    lock_assert_held(index_lock(c->index, hash));
    if (likely(!index_has_clean(c->index, hash)))
        return;
    index_slot *slots[INDEX_MATCH_MAX];
    unsigned n = index_match(c->index, hash, slots);
    for (unsigned i = 0; i < n; i++) {
        index_word w = index_load(slots[i]);
        struct item *it = item_of_word(c, w);
        if (!it || index_heat(c->index, w) == 0)
            continue;
        index_set_heat(c->index, hash, slots[i], 0);
        if (is_gone)
            item_flag_clear(it, ITEM_MAY_HIDE_FLASH);
        else
            stale_note_overwrite(c, item_hash(c, it), 0);
    }
}

void flash_forget(struct cache *c, uint64_t hash, index_slot *slot, bool evicted)
{
    lock_assert_held(index_lock(c->index, hash));
    index_word w = index_load(slot);
    ASSERT(c->ext != NULL && index_kind(c->index, w) == INDEX_FLASH);
    if (evicted)
        index_replace(c->index, hash, slot, index_make_tombstone(c->index));
    else
        index_clear(c->index, hash, slot);
    ext_drop(c->ext, index_place(c->index, w), index_len(c->index, w));
    tag_end_clean(c, hash, true);
}

/* The hash under which a key is noted if only its word is known. */
static uint64_t gone_hash(const struct cache *c, uint64_t hash)
{
    uint64_t common = index_common_hash(c->index, hash);
    return hash_key(&common, sizeof(common), MISS_flash_gone);
}

void key_departs_with_flash(struct cache *c, uint64_t hash_like)
{
    lock_assert_held(index_lock(c->index, hash_like));
    departed_note(c->departed, gone_hash(c, hash_like), MISS_flash_gone);
    atomic_store_explicit(&c->lost_flash, true, memory_order_relaxed);
}

enum miss_reason key_departed_why(const struct cache *c, uint64_t hash)
{
    enum miss_reason why = departed_find(c->departed, hash);
    if (why != MISS_never_stored || !atomic_load_explicit(&c->lost_flash, memory_order_relaxed))
        return why;
    return departed_find(c->departed, gone_hash(c, hash));
}

void flash_depart(struct cache *c, const struct stale_check *check, index_slot *slot)
{
    lock_assert_held(index_lock(c->index, check->hash));
    ASSERT(check->kind == STALE_DROP && check->why <= EXT_DROP_LOST);
    bool evicted = ext_drop_is_evicted(check->why);
    flash_forget(c, check->hash, slot, evicted);
    if (check->is_full)
        departed_note(c->departed, check->hash, evicted ? MISS_evicted_from_flash : MISS_expired);
}

bool flash_may_hide(struct cache *c, uint64_t hash, const index_slot *slot)
{
    index_slot *slots[INDEX_MATCH_MAX];
    DEBUG_ASSERT(index_kind(c->index, index_load(slot)) == INDEX_FLASH);
    return index_match_flash(c->index, hash, slot, index_rank(c->index, index_load(slot)), slots) > 0;
}

unsigned flash_forget_ranks_begin(struct cache *c, uint64_t hash, unsigned rank_max, const index_slot *but,
                          index_slot **intent)
{
    index_slot *slots[INDEX_MATCH_MAX];
    unsigned count = index_match_flash(c->index, hash, but, rank_max, slots);
    *intent = count > 0 ? slots[0] : NULL;
    if (*intent) {
        index_word w = index_load(*intent);
        index_replace(c->index, hash, *intent, index_make_drop_intent(c->index, rank_max));
        ext_drop(c->ext, index_place(c->index, w), index_len(c->index, w));
        tag_end_clean(c, hash, true);
    }
    for (unsigned i = 1; i < count; i++)
        flash_forget(c, hash, slots[i], false);
    return count;
}

unsigned flash_forget_ranks(struct cache *c, uint64_t hash, unsigned rank_max)
{
    index_slot *intent;
    unsigned count = flash_forget_ranks_begin(c, hash, rank_max, NULL, &intent);
    if (intent)
        index_clear(c->index, hash, intent);
    return count;
}

void stale_note_overwrite(struct cache *c, uint64_t hash, uint64_t bytes)
{
    struct stale_check check = {.kind = STALE_OVERWRITE,
                                .hash = hash,
                                .is_full = true,
                                .seq_bound = ext_seq_now(c->ext),
                                .bytes = (uint32_t)min_u64(bytes, UINT32_MAX)};
    if (!stale_put(&c->stale, &check))
        cache_count(c, CACHE_N_stale_overflows, 1);
}

/* It has left its LRU. */
static void retired(struct cache *c, struct item *it)
{
    ASSERT(item_flags(it) & ITEM_LINKED);
    item_flag_clear(it, ITEM_LINKED);
    cache_sizes_count(c, it, -1);
    item_unref(c, it);
}

void item_retire(struct cache *c, struct item *it)
{
    lock_assert_held(index_lock(c->index, item_hash(c, it)));
    lru_unlink(c->lru, it);
    retired(c, it);
}

void item_unlink(struct cache *c, struct item *it, uint64_t hash)
{
    lock_assert_held(index_lock(c->index, hash));
    ASSERT((item_flags(it) & (ITEM_LINKED | ITEM_MAY_HIDE_FLASH)) == ITEM_LINKED);
    index_clear(c->index, hash, item_slot(c, it, hash));
    item_retire(c, it);
}

void item_unlink_dead(struct cache *c, struct item *it, uint64_t hash, enum item_death death)
{
    ASSERT(death != ITEM_ALIVE);
    if (!(item_flags(it) & ITEM_FETCHED))
        class_count(c, lru_class(it->lru_id), expired_unfetched);
    departed_note(c->departed, hash, death == ITEM_FLUSHED ? MISS_flushed : MISS_expired);
    item_unlink(c, it, hash);
}

unsigned item_unlink_hiding(struct cache *c, struct item *it, uint64_t hash)
{
    lock_assert_held(index_lock(c->index, hash));
    unsigned gone = 0;
    if (item_flags(it) & ITEM_MAY_HIDE_FLASH) /* before the word that hides them: a kill may come between */
        gone = flash_forget_ranks(c, hash, INDEX_RANK_MAX);
    item_flag_clear(it, ITEM_MAY_HIDE_FLASH);
    item_unlink(c, it, hash);
    return gone;
}

void item_to_warm(struct cache *c, struct item *it)
{
    ASSERT(item_flags(it) & ITEM_LINKED);
    item_flag_clear(it, ITEM_ACTIVE);
    class_count(c, lru_class(it->lru_id), moves_to_warm);
    lru_move(c->lru, it, LRU_WARM);
}

static uint8_t first_lru(const struct cache *c, unsigned cls, uint32_t exptime_sec, uint32_t now)
{
    const struct cache_config *s = c->config;
    if (!s->lru_segmented)
        return lru_id_of(cls, LRU_COLD);
    if (s->temp_lru && exptime_sec > now && exptime_sec - now <= s->temporary_ttl)
        return lru_id_of(cls, LRU_TEMP);
    return lru_id_of(cls, LRU_HOT);
}

/* It is about to join the LRU that new items go to. */
static void begin_link(struct cache *c, struct item *it, uint32_t now)
{
    ASSERT(!(item_flags(it) & ITEM_LINKED));
    lock_assert_held(index_lock(c->index, item_hash(c, it)));
    ASSERT(item_refs(it) > 0 && it->next == 0 && it->prev == 0);
    it->lru_id = first_lru(c, lru_class(it->lru_id), atomic_load(&it->exptime_sec), now);
    atomic_store_explicit(&it->time_sec, now, memory_order_relaxed);
    item_flag_set(it, ITEM_LINKED);
    cache_sizes_count(c, it, 1);
}

void item_link(struct cache *c, struct item *it, uint32_t now)
{
    begin_link(c, it, now);
    lru_link(c->lru, it);
}

void item_supersede(struct cache *c, struct item *old, struct item *it, uint32_t now)
{
    DEBUG_ASSERT(index_lock(c->index, item_hash(c, old)) == index_lock(c->index, item_hash(c, it)));
    begin_link(c, it, now);
    lru_supersede(c->lru, old, it);
    retired(c, old);
}

static_assert((ITEM_FLASH_FETCHED | ITEM_FLASH_TOKEN_SENT | ITEM_FLASH_STALE | ITEM_FLASH_BINARY_KEY) <
                  1 << ITEM_FLASH_CLASS_SHIFT,
              "flags and class don't overlap");
static_assert(ADMISSION_CLASSES << ITEM_FLASH_CLASS_SHIFT <= 256, "a class fits above the flags");

uint8_t flash_flags_of(unsigned flags)
{
    return (uint8_t)(((flags & ITEM_FETCHED) ? ITEM_FLASH_FETCHED : 0) |
                     ((flags & ITEM_TOKEN_SENT) ? ITEM_FLASH_TOKEN_SENT : 0) |
                     ((flags & ITEM_STALE) ? ITEM_FLASH_STALE : 0) |
                     ((flags & ITEM_BINARY_KEY) ? ITEM_FLASH_BINARY_KEY : 0));
}

unsigned item_flags_of(uint8_t f)
{
    return ((f & ITEM_FLASH_FETCHED) ? ITEM_FETCHED : 0u) |
           ((f & ITEM_FLASH_TOKEN_SENT) ? ITEM_TOKEN_SENT : 0u) |
           ((f & ITEM_FLASH_STALE) ? ITEM_STALE : 0u) |
           ((f & ITEM_FLASH_BINARY_KEY) ? ITEM_BINARY_KEY : 0u);
}

void cache_wake_maint(struct cache *c)
{
    (void)eventfd_write(c->maint_fd, 1); /* a full counter wakes as well */
}
