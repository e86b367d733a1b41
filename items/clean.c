/* items/clean.c: see items/clean.h. */
#include "items/clean.h"

#include "items/debug.h"
#include "items/object.h"

#define CLEAN_HEAT 1u /* of an item's word */
#define HEAT_HIT_TWICE 3u /* of a record: that of one hit again and again */

/* The tag's words: how many are on flash, the last of these, and the first of a clean item. */
struct tag_words {
    unsigned flash_count;
    index_slot *flash, *clean;
};

static struct tag_words words_of(struct cache *c, uint64_t hash)
{
    lock_assert_held(index_lock(c->index, hash));
    struct tag_words t = {0};
    index_slot *slots[INDEX_MATCH_MAX];
    unsigned n = index_match(c->index, hash, slots);
    for (unsigned i = 0; i < n; i++) {
        index_word w = index_load(slots[i]);
        enum index_kind kind = index_kind(c->index, w);
        if (kind == INDEX_FLASH) {
            t.flash_count++;
            t.flash = slots[i];
        } else if (kind == INDEX_RAM && index_heat(c->index, w) != 0 && t.clean == NULL) {
            t.clean = slots[i];
        }
    }
    DEBUG_ASSERT(t.clean == NULL || t.flash_count <= 1);
    return t;
}

/* The slots of a clean item and of its record. False: it isn't clean. */
static bool find_clean(struct cache *c, const struct item *it, uint64_t hash, struct tag_words *t)
{
    if (likely(!(item_flags(it) & ITEM_MAY_HIDE_FLASH)) || !index_has_clean(c->index, hash))
        return false;
    *t = words_of(c, hash);
    return t->clean != NULL && t->flash_count == 1 &&
           index_handle(c->index, index_load(t->clean)) == slab_handle_of(c->slab, it);
}

bool clean_may_begin(struct cache *c, uint64_t hash)
{
    lock_assert_held(index_lock(c->index, hash));
    if (index_growth_is_held(c->index) || atomic_load_explicit(&c->index_crowded, memory_order_relaxed))
        return false;
    struct tag_words t = words_of(c, hash);
    return t.flash_count == 1 && t.clean == NULL;
}

int clean_link(struct cache *c, struct item *it, uint64_t hash, uint32_t now_sec)
{
    lock_assert_held(index_lock(c->index, hash));
    ASSERT(!(item_flags(it) & ITEM_LINKED));
    item_flag_set(it, ITEM_MAY_HIDE_FLASH);
    int rc = index_insert(c->index, hash,
                          index_make_ram(c->index, slab_handle_of(c->slab, it), CLEAN_HEAT));
    if (rc != 0)
        return rc;
    item_link(c, it, now_sec);
    struct tag_words t;
    DEBUG_ASSERT(find_clean(c, it, hash, &t));
    return 0;
}

void item_forget_copy(struct cache *c, struct item *it, uint64_t hash)
{
    struct tag_words t;
    lock_assert_held(index_lock(c->index, hash));
    if (unlikely(find_clean(c, it, hash, &t)))
        flash_forget(c, hash, t.flash, false);
}

bool item_leave_clean(struct cache *c, struct item *it, uint64_t hash)
{
    struct tag_words t;
    lock_assert_held(index_lock(c->index, hash));
    ASSERT(item_flags(it) & ITEM_LINKED);
    if (!find_clean(c, it, hash, &t))
        return false;
    if (item_flags(it) & ITEM_HIT_TWICE)
        index_set_heat(c->index, hash, t.flash, HEAT_HIT_TWICE);
    debug_held_at(c, hash, it, 0, index_place(c->index, index_load(t.flash)));
    index_clear(c->index, hash, t.clean); /* before the flag goes: a kill may come between */
    item_flag_clear(it, ITEM_MAY_HIDE_FLASH);
    item_retire(c, it);
    cache_count(c, CACHE_N_clean_evictions, 1);
    return true;
}

bool tag_is_clean(struct cache *c, uint64_t hash)
{
    return unlikely(index_has_clean(c->index, hash)) && words_of(c, hash).clean != NULL;
}
