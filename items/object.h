/* items/object.h: how an object, in RAM or on flash, is added, removed and found.
 *
 * Unless stated, the caller holds LOCK_COLUMN of the key's hash; nothing here sleeps or does I/O.
 */
#ifndef EXTANT_ITEMS_OBJECT_H
#define EXTANT_ITEMS_OBJECT_H

#include "items/store.h"

/* ---- times: pure, no lock ---- */

/* The record's times on this process's clock. */
static inline uint32_t clock_sec_of_unix(uint32_t unix_sec)
{
    if (unix_sec == 0)
        return 0;
    int64_t rel = (int64_t)unix_sec - clock_unix_epoch_sec();
    return rel < 1 ? 1 : rel > UINT32_MAX ? UINT32_MAX : (uint32_t)rel;
}
static inline uint32_t record_exptime_sec(const struct ext_record *r)
{
    return clock_sec_of_unix(r->exptime_unix);
}
static inline uint32_t record_time_sec(const struct ext_record *r)
{
    return clock_sec_of_unix(r->time_unix);
}

enum item_death { ITEM_ALIVE, ITEM_EXPIRED, ITEM_FLUSHED };
/* Is an object with these times dead now? Pure. */
enum item_death cache_death(const struct cache *c, uint32_t time_sec, uint32_t exptime_sec, uint64_t cas,
                            uint32_t now_sec);
static inline enum item_death item_death(const struct cache *c, const struct item *it, uint32_t now)
{
    uint32_t exptime_sec = atomic_load_explicit(&it->exptime_sec, memory_order_relaxed);
    if (likely(atomic_load_explicit(&c->root->flush_unix, memory_order_relaxed) == 0 &&
               atomic_load_explicit(&c->root->planned_unix, memory_order_relaxed) == 0))
        return exptime_sec != 0 && exptime_sec <= now ? ITEM_EXPIRED : ITEM_ALIVE;
    return cache_death(c, atomic_load_explicit(&it->time_sec, memory_order_relaxed), exptime_sec, item_cas(it), now);
}

/* ---- an item in RAM ---- */

/* The item that the word names; NULL: it isn't a word of one. */
static inline struct item *item_of_word(const struct cache *c, index_word w)
{
    return index_kind(c->index, w) == INDEX_RAM ? item_at(c, index_handle(c->index, w)) : NULL;
}

static inline void item_flag_set(struct item *it, unsigned bits)
{
    atomic_fetch_or_explicit(&it->flags, (uint16_t)bits, memory_order_relaxed);
}
static inline void item_flag_clear(struct item *it, unsigned bits)
{
    atomic_fetch_and_explicit(&it->flags, (uint16_t)~bits, memory_order_relaxed);
}
static inline void item_ref(struct item *it)
{
    uint16_t was = atomic_fetch_add_explicit(&it->refcount, 1, memory_order_relaxed);
    ASSERT(was != 0 && was < UINT16_MAX);
}
static inline unsigned item_refs(const struct item *it)
{
    return atomic_load_explicit(&it->refcount, memory_order_acquire);
}
/* Drops one reference; the last one frees the memory. Any lock up to LOCK_LRU may be held. */
void item_unref(struct cache *c, struct item *it);

/* Counts an item in or out of the histogram of `stats sizes`. */
void cache_sizes_count(struct cache *c, const struct item *it, int sign);
/* The hash of an item's key. Pure, no lock. */
uint64_t item_hash(const struct cache *c, const struct item *it);
uint64_t cache_next_cas(struct cache *c);
/* Wakes the maintenance thread. Any thread, any lock held. */
void cache_wake_maint(struct cache *c);

/* The word is in place: the item is on the LRU that new items go to. The caller's reference becomes the
 * link's. */
void item_link(struct cache *c, struct item *it, uint32_t now_sec);
/* Takes the item off its LRU and drops the link's reference; the caller handles its word. */
void item_retire(struct cache *c, struct item *it);
/* Both at once: the new item has taken over the old one's word. */
void item_supersede(struct cache *c, struct item *old, struct item *it, uint32_t now_sec);
/* Unlinks for good: word, LRU, reference. The item is not MAY_HIDE_FLASH. */
void item_unlink(struct cache *c, struct item *it, uint64_t hash);
/* The same for a dead one that a thread of ours meets: counted, and the reason is noted for later misses. */
void item_unlink_dead(struct cache *c, struct item *it, uint64_t hash, enum item_death death);
/* The same for an item that may hide words which can no longer be compared: drops those first; returns
 * their number. */
unsigned item_unlink_hiding(struct cache *c, struct item *it, uint64_t hash);
/* An active item leaves COLD or HOT; it is not active then. */
void item_to_warm(struct cache *c, struct item *it);

/* ---- an object on flash ---- */

/* The flash word of the tag has gone (is_gone), or another came: an item of the tag is clean (items/clean.h) no longer. */
void tag_end_clean(struct cache *c, uint64_t hash, bool is_gone);
/* Forgets a flash object: removes the word (leaving a tombstone if evicted) and tells the engine. */
void flash_forget(struct cache *c, uint64_t hash, index_slot *slot, bool evicted);
/* A word is dropped at a start because it names flash that is gone; hash_like is that of a walk over the index. No other lock. */
void key_departs_with_flash(struct cache *c, uint64_t hash_like);
/* Why the key of this hash is not there; also for words that key_departs_with_flash() was told of. No lock needed. */
enum miss_reason key_departed_why(const struct cache *c, uint64_t hash);
/* The same for objects that reclaim gives up; a later miss can then give the reason. */
void flash_depart(struct cache *c, const struct stale_check *check, index_slot *slot);
/* May another flash word of the tag be an older value of this one's key? */
bool flash_may_hide(struct cache *c, uint64_t hash, const index_slot *slot);
/* Forgets every flash word of the tag whose rank is at most this; returns their number. For words whose records
 * can't be read: which of two of one rank is the younger is not known, so a kill between two drops could
 * leave the older one. Therefore the first becomes a drop intent (index.h), which goes last. */
unsigned flash_forget_ranks(struct cache *c, uint64_t hash, unsigned rank_max);
/* The same, except for the word in the slot `but`, and the intent stays in the slot *intent (NULL: there was no word to
 * forget), for the caller to clear when that word is gone too, before the lock is released. */
unsigned flash_forget_ranks_begin(struct cache *c, uint64_t hash, unsigned rank_max, const index_slot *but,
                          index_slot **intent);
/* Queues a check: the key of this hash was stored again, and flash words of its tag, of about
 * this many bytes, are unread. */
void stale_note_overwrite(struct cache *c, uint64_t hash, uint64_t bytes);

/* Item flags <-> record flags. */
uint8_t flash_flags_of(unsigned item_flags);
unsigned item_flags_of(uint8_t flash_flags);

#endif
