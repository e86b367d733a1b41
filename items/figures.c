/* items/figures.c: see items/figures.h. */
#include "items/figures.h"

#include "items/lru.h"
#include "items/object.h"

struct dump_row {
    char key[CACHE_KEY_BYTES_MAX];
    uint8_t key_bytes;
    uint32_t value_bytes, exptime_sec;
};
#define DUMP_ROWS_MAX 20000u /* more than memcached's 2 MB of text can hold */

void cache_dump_class(struct cache *c, unsigned cls, unsigned limit,
                      void (*fn)(void *ctx, const char *key, unsigned key_bytes, uint32_t value_bytes,
                                 uint32_t exptime_sec),
                      void *ctx)
{
    ASSERT(cls < SLAB_CLASS_MAX);
    lock_assert_none_held();
    unsigned count = 0, max = limit == 0 || limit > DUMP_ROWS_MAX ? DUMP_ROWS_MAX : limit;
    uint32_t now = clock_now_sec();
    uint8_t id = lru_id_of(cls, LRU_COLD);
    struct dump_row *rows = malloc(max * sizeof(rows[0]));
    if (!rows)
        return;
    lock_take(lru_lock(c->lru, id));
    for (struct item *it = lru_head_locked(c->lru, id); it && count < max; it = lru_older_locked(c->lru, it)) {
        if (item_death(c, it, now) != ITEM_ALIVE || (item_flags(it) & ITEM_BINARY_KEY))
            continue; /* memcached doesn't show keys given in base64 */
        struct dump_row *row = &rows[count++];
        memcpy(row->key, item_key(it), it->key_bytes);
        row->key_bytes = it->key_bytes;
        row->value_bytes = it->value_bytes;
        row->exptime_sec = atomic_load_explicit(&it->exptime_sec, memory_order_relaxed);
    }
    lock_release(lru_lock(c->lru, id));
    for (unsigned i = 0; i < count; i++)
        fn(ctx, rows[i].key, rows[i].key_bytes, rows[i].value_bytes, rows[i].exptime_sec);
    free(rows);
}

void cache_class_stats(struct cache *c, unsigned cls, struct cache_class_stats *out)
{
    uint32_t now = clock_now_sec();
    struct slab_class_info info;
    memset(out, 0, sizeof(*out));
    out->number_hot = lru_count(c->lru, lru_id_of(cls, LRU_HOT));
    out->number_warm = lru_count(c->lru, lru_id_of(cls, LRU_WARM));
    out->number_cold = lru_count(c->lru, lru_id_of(cls, LRU_COLD));
    out->number_temp = lru_count(c->lru, lru_id_of(cls, LRU_TEMP));
    out->number = out->number_hot + out->number_warm + out->number_cold + out->number_temp;
    out->age_hot = lru_tail_age_sec(c->lru, lru_id_of(cls, LRU_HOT), now);
    out->age_warm = lru_tail_age_sec(c->lru, lru_id_of(cls, LRU_WARM), now);
    out->age = lru_tail_age_sec(c->lru, lru_id_of(cls, LRU_COLD), now);
    ASSERT(cls > 0 && cls < SLAB_CLASS_MAX);
    slab_info(c->slab, cls, &info);
    out->mem_requested = info.mem_requested;
    out->evicted_time = atomic_load(&c->classes[cls].evicted_time);
#define X(n) out->n = atomic_load_explicit(&c->classes[cls].n, memory_order_relaxed);
    CACHE_ITEM_STATS(X)
#undef X
}

void cache_totals(struct cache *c, struct cache_totals *out)
{
    struct index_info ix;
    memset(out, 0, sizeof(*out));
    index_info(c->index, &ix);
    out->ram_items = ix.ram_count;
    out->flash_objects = ix.flash_count;
    out->curr_items = ix.ram_count + ix.flash_count - ix.clean_count;
    out->clean_items = ix.clean_count;
    for (unsigned cls = 1; cls <= slab_class_count(c->slab); cls++) {
        struct cache_class_stats s;
        cache_class_stats(c, cls, &s);
        out->sum.number += s.number;
        out->sum.mem_requested += s.mem_requested;
#define X(n) out->sum.n += s.n;
        CACHE_ITEM_STATS(X)
#undef X
    }
    out->bytes = out->sum.mem_requested;
#define X(n, help) out->n = atomic_load_explicit(&c->counters[CACHE_N_##n], memory_order_relaxed);
    CACHE_COUNTER_TABLE(X)
#undef X
    if (c->ext) {
        struct ext_info info;
        ext_info(c->ext, &info);
        out->bytes += info.bytes_used;
        out->evictions_index_full = info.evicted_index_full; /* the engine drops them */
    }
}

size_t cache_sizes(const struct cache *c, const _Atomic(uint64_t) **histogram)
{
    *histogram = c->sizes;
    return c->sizes_count;
}
