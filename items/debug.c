/* items/debug.c: see items/debug.h. */
#include "items/debug.h"

#include "items/object.h"

#ifdef EXTANT_DEBUG

/* The key's item, or NULL; *place: that of the first word of its tag on flash, if it has no item. */
static struct item *find(struct cache *c, uint64_t hash, const char *key, uint8_t key_bytes,
                         bool *on_flash, ext_place *place)
{
    index_slot *slots[INDEX_MATCH_MAX];
    unsigned n = index_match(c->index, hash, slots);
    *on_flash = false;
    for (unsigned i = 0; i < n; i++) {
        index_word word = index_load(slots[i]);
        if (index_kind(c->index, word) == INDEX_FLASH && !*on_flash) {
            *on_flash = true;
            *place = index_place(c->index, word);
        }
        struct item *it = item_of_word(c, word);
        if (it && item_has_key(it, key, key_bytes)) {
            *on_flash = false;
            return it;
        }
    }
    return NULL;
}

static void unhold_item(struct cache *c, struct item *it)
{
    struct cache_holds *h = &c->holds;
    atomic_fetch_sub(&h->refs[lru_class(it->lru_id)], 1);
    if (h->item == it)
        h->item = NULL;
    item_unref(c, it);
}

static bool unhold_reffed(struct cache *c)
{
    struct cache_holds *h = &c->holds;
    struct lock *lock = index_lock(c->index, h->hash);
    lock_take(lock);
    bool held = h->item || h->on_flash;
    if (h->item)
        unhold_item(c, h->item);
    if (h->on_flash)
        ext_unpin(c->ext, h->place);
    h->on_flash = false;
    lock_release(lock);
    return held;
}

static void hold(struct cache *c, uint64_t hash, struct item *it, bool on_flash, ext_place place)
{
    struct cache_holds *h = &c->holds;
    h->hash = hash;
    h->item = it;
    h->on_flash = on_flash;
    h->place = place;
    if (on_flash)
        ext_pin(c->ext, place);
    if (!it)
        return;
    item_ref(it);
    atomic_fetch_add(&h->refs[lru_class(it->lru_id)], 1);
}

bool cache_debug_item(struct cache *c, const char *what, const char *key, uint8_t key_bytes)
{
    static const char reffed[] = "reffed";
    struct cache_holds *h = &c->holds;
    if (strcmp(what, "unref") == 0 && key_bytes == sizeof(reffed) - 1 && memcmp(key, reffed, key_bytes) == 0)
        return unhold_reffed(c);
    uint64_t hash = cache_hash(c, key, key_bytes);
    struct lock *lock = index_lock(c->index, hash);
    bool on_flash;
    ext_place place = 0;
    lock_take(lock);
    struct item *it = find(c, hash, key, key_bytes, &on_flash, &place);
    unsigned cls = it ? lru_class(it->lru_id) : 0;
    if (strcmp(what, "lock") == 0)
        atomic_fetch_add(&h->locks[cls], 1);
    else if (strcmp(what, "unlock") == 0 && atomic_load(&h->locks[cls]) > 0)
        atomic_fetch_sub(&h->locks[cls], 1);
    else if (strcmp(what, "ref") == 0 && (it || on_flash))
        hold(c, hash, it, on_flash, place);
    else if (strcmp(what, "unref") == 0 && it && item_refs(it) > 1)
        unhold_item(c, it);
    lock_release(lock);
    return it || on_flash;
}

void debug_held_at(struct cache *c, uint64_t hash, const struct item *it, ext_place from, ext_place to)
{
    struct cache_holds *h = &c->holds;
    bool held = it ? h->item == it : h->on_flash && h->hash == hash && h->place == from;
    if (!held)
        return;
    if (h->on_flash)
        ext_unpin(c->ext, h->place);
    ext_pin(c->ext, to);
    h->on_flash = true;
    h->place = to;
}

const char *debug_holds_of(struct cache *c, unsigned cls)
{
    if (atomic_load(&c->holds.locks[cls]) > 0)
        return "locked";
    return atomic_load(&c->holds.refs[cls]) > 0 ? "busy_floating" : NULL;
}

#endif
