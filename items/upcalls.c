/* items/upcalls.c: the flash engine's questions answered (struct ext_callbacks),
 * and the checks that find out which flash words an overwrite made stale.
 *
 * A callback gets the full hash that the record was written under. Two keys of
 * one 64-bit hash are taken for the same only where that can cost no more than
 * an early eviction while flash is full; everything else compares keys.
 */
#include "items/store.h"
#include "operator/settings.h"

#define DUP_STEP_MAX 64   /* checks started in one step */
#define DUP_TRIES_MAX 100 /* while the device does not read; then a look-up that meets both settles it */

/* ---- checks of overwritten words ---- */

/* Tells those who don't take the lock. */
static void dup_note_count(struct cache *c)
{
    atomic_store_explicit(&c->dup_any, c->dup_count > 0, memory_order_relaxed);
    atomic_store_explicit(&c->dup_full, c->dup_count == CACHE_DUP_QUEUE_MAX, memory_order_relaxed);
}

static void dup_push(struct cache *c, const struct dup_check *d)
{
    lock_take(&c->dup_lock);
    if (c->dup_count < CACHE_DUP_QUEUE_MAX) {
        c->dups[(c->dup_head + c->dup_count++) % CACHE_DUP_QUEUE_MAX] = *d;
        dup_note_count(c);
    } else {
        cache_count(c, CACHE_N_dup_overflows, 1);
    }
    lock_release(&c->dup_lock);
}

bool dup_is_full(const struct cache *c) { return atomic_load_explicit(&c->dup_full, memory_order_relaxed); }

void dup_enqueue(struct cache *c, uint64_t hash, ext_place place)
{
    struct dup_check d = {.hash = hash, .place = place, .seq_bound = ext_seq_now(c->ext)};
    dup_push(c, &d);
}

static bool dup_dequeue(struct cache *c, struct dup_check *out)
{
    bool got = false;
    lock_take(&c->dup_lock);
    if (c->dup_count > 0) {
        *out = c->dups[c->dup_head];
        c->dup_head = (c->dup_head + 1) % CACHE_DUP_QUEUE_MAX;
        c->dup_count--;
        dup_note_count(c);
        got = true;
    }
    lock_release(&c->dup_lock);
    return got;
}

struct dup_read {
    struct ext_read rd;
    struct cache_worker *worker;
    struct dup_check check;
    uint8_t len_class;
};

/* If no unread word of the tag is left, the item that hid them is not SHADOW any more. */
static void clear_shadow(struct cache *c, uint64_t hash)
{
    index_slot *slots[INDEX_MATCH_MAX];
    unsigned n = index_match(c->index, hash, slots);
    struct item *it = NULL;
    for (unsigned i = 0; i < n; i++) {
        index_word w = index_load(slots[i]);
        enum index_kind kind = index_kind(c->index, w);
        if (kind == INDEX_FLASH)
            return;
        if (kind == INDEX_RAM && item_hash(c, item_at(c, index_handle(c->index, w))) == hash)
            it = item_at(c, index_handle(c->index, w));
    }
    if (it)
        item_flag_clear(it, ITEM_SHADOW);
}

/* True: settled. False: the record is being read once more. */
static bool dup_judge(struct dup_read *d)
{
    struct cache *c = d->worker->cache;
    struct ext_record rec;
    int rc = ext_read_record(&d->rd, NULL, 0, &rec);
    if (rc == -EBADMSG && ext_read_again(&d->rd))
        return false;
    /* Older than the overwrite and of the same key: stale. With wrong bytes it is of no use to anyone,
     * and as long as it stands beside the new value, nobody could tell which is younger. */
    bool stale = rc == -EBADMSG || (rc == 0 && rec.seq < d->check.seq_bound &&
                                    cache_hash(c, rec.key, rec.key_bytes) == d->check.hash);
    bool settled = rc == 0 || rc == -EBADMSG;
    struct lock *lock = index_lock(c->index, d->check.hash);
    lock_take(lock);
    index_slot *slot = index_find_place(c->index, d->check.hash, d->check.place);
    if (slot && stale) {
        flash_forget(c, d->check.hash, slot, false);
        cache_count(c, CACHE_N_dup_drops, 1);
    }
    if (settled)
        clear_shadow(c, d->check.hash);
    lock_release(lock);
    if (!settled && ++d->check.tries < DUP_TRIES_MAX)
        dup_push(c, &d->check);
    ext_read_finish(&d->rd);
    free(d);
    return true;
}

static void dup_read_done(struct ext_read *rd)
{
    struct dup_read *d = (struct dup_read *)((char *)rd - offsetof(struct dup_read, rd));
    struct cache_worker *w = d->worker;
    if (dup_judge(d))
        w->parked--;
}

bool dup_step(struct cache_worker *w)
{
    struct cache *c = w->cache;
    struct dup_check check;
    if (!w->ring)
        return false;
    for (unsigned i = 0; i < DUP_STEP_MAX && w->parked < DUP_STEP_MAX; i++) {
        if (!atomic_load_explicit(&c->dup_any, memory_order_relaxed) || !dup_dequeue(c, &check))
            break;
        struct lock *lock = index_lock(c->index, check.hash);
        lock_take(lock);
        index_slot *slot = index_find_place(c->index, check.hash, check.place);
        unsigned len_class = 0;
        if (slot) {
            len_class = index_len(c->index, index_load(slot));
            ext_pin(c->ext, check.place);
        }
        lock_release(lock);
        if (!slot)
            continue;
        struct dup_read *d = calloc(1, sizeof(*d));
        if (!d) {
            ext_unpin(c->ext, check.place);
            continue;
        }
        cache_count(c, CACHE_N_dup_checks, 1);
        d->worker = w;
        d->check = check;
        d->rd.done = dup_read_done;
        ext_read_start(w->ring, &d->rd, check.place, len_class);
        if (d->rd.state != EXT_READ_DONE || !dup_judge(d))
            w->parked++;
    }
    return atomic_load_explicit(&c->dup_any, memory_order_relaxed);
}

/* ---- the engine's questions ---- */

/* Is a RAM item of this very hash there (so that the record is an overwritten one)? */
static bool ram_item_of(struct cache *c, uint64_t hash)
{
    index_slot *slots[INDEX_MATCH_MAX];
    unsigned n = index_match(c->index, hash, slots);
    for (unsigned i = 0; i < n; i++) {
        index_word w = index_load(slots[i]);
        if (index_kind(c->index, w) == INDEX_RAM && item_hash(c, item_at(c, index_handle(c->index, w))) == hash)
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
    if (live && ram_item_of(c, hash)) {
        flash_forget(c, hash, slot, false);
        cache_count(c, CACHE_N_rescued_stale, 1);
        live = false;
    }
    if (live)
        *heat = index_heat(c->index, index_load(slot));
    lock_release(lock);
    return live;
}

/* Heat is halved by a move, so that what was hot once does not stay for ever. */
static bool cb_moved(void *ctx, uint64_t hash, ext_place old, ext_place neu, unsigned len_class)
{
    struct cache *c = ctx;
    struct lock *lock = index_lock(c->index, hash);
    lock_take(lock);
    index_slot *slot = index_find_place(c->index, hash, old);
    if (slot) {
        index_word w = index_load(slot);
        index_replace(c->index, hash, slot,
                      index_make_flash(c->index, neu, len_class, index_heat(c->index, w) / 2));
        debug_held_at(c, hash, NULL, old, neu);
        ext_drop(c->ext, old, index_len(c->index, w));
    }
    lock_release(lock);
    return slot != NULL;
}

/* Other words of the tag may be older values of the same key, which this one hid. They go as well:
 * an innocent one among them (one in 2^tag_bits / 16) is evicted early, nothing stale comes back. */
static bool cb_dropped(void *ctx, uint64_t hash, ext_place place, bool evicted)
{
    struct cache *c = ctx;
    struct lock *lock = index_lock(c->index, hash);
    lock_take(lock);
    index_slot *slot = index_find_place(c->index, hash, place);
    if (slot) {
        cache_count(c, CACHE_N_evictions_same_tag, flash_forget_tag(c, hash, evicted) - 1);
        departed_note(c->departed, hash, evicted ? MISS_evicted_from_flash : MISS_expired);
    }
    lock_release(lock);
    return slot != NULL;
}

static bool cb_is_fresh(void *ctx, uint32_t exptime_unix, uint32_t time_unix)
{
    struct cache *c = ctx;
    return cache_death(c, clock_sec_of_unix(time_unix), clock_sec_of_unix(exptime_unix), 0,
                       clock_now_sec()) == ITEM_ALIVE;
}

struct sweep {
    struct cache *cache;
    ext_place first, end;
    bool evicted;
};

static void sweep_visit(void *ctx, uint64_t hash, index_slot *slot, index_word w)
{
    struct sweep *s = ctx;
    struct cache *c = s->cache;
    (void)slot;
    if (index_kind(c->index, w) != INDEX_FLASH)
        return;
    ext_place place = index_place(c->index, w);
    if (place >= s->first && place < s->end)
        cache_count(c, CACHE_N_evictions_same_tag, flash_forget_tag(c, hash, s->evicted) - 1); /* as in cb_dropped */
}

#define SWEEP_BUCKETS 4096

static bool cb_sweep(void *ctx, ext_place first, uint64_t count, uint64_t *cursor, bool evicted)
{
    struct cache *c = ctx;
    struct sweep s = {.cache = c, .first = first, .end = first + count, .evicted = evicted};
    unsigned shard = (unsigned)(*cursor >> 56);
    uint64_t pos = *cursor & (((uint64_t)1 << 56) - 1);
    struct lock *lock = index_shard_lock(c->index, shard);
    lock_take(lock);
    bool more = index_walk(c->index, shard, &pos, SWEEP_BUCKETS, sweep_visit, &s);
    lock_release(lock);
    if (!more) {
        shard++;
        pos = 0;
    }
    *cursor = (uint64_t)shard << 56 | pos;
    return shard < INDEX_SHARD_COUNT;
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
        .is_fresh = cb_is_fresh,
        .sweep = cb_sweep,
        .hash_of = cb_hash_of,
    };
}
