/* items/figures.h: what operators are shown of the cache; nothing here changes it.
 *
 * Figures are read without stopping anything, so sums over classes may be a few operations apart.
 * Any thread; list locks are taken inside, and none is held while a caller's fn runs.
 */
#ifndef EXTANT_ITEMS_FIGURES_H
#define EXTANT_ITEMS_FIGURES_H

#include "base/base.h"
#include "items/counters.h"
#include "items/item.h"

struct cache;

/* Of one slab class. */
struct cache_class_stats {
    uint64_t number, number_hot, number_warm, number_cold, number_temp;
    uint64_t age_hot, age_warm, age, mem_requested, evicted_time;
#define X(n) uint64_t n;
    CACHE_ITEM_STATS(X)
#undef X
};
void cache_class_stats(struct cache *c, unsigned cls, struct cache_class_stats *out);

/* Whole-cache figures of `stats` and `stats extant`. */
struct cache_totals {
    uint64_t curr_items, bytes; /* RAM and flash objects together */
    uint64_t ram_items, flash_objects;
    uint64_t clean_items; /* those in both, counted once in curr_items */
#define X(name, help) uint64_t name;
    CACHE_COUNTER_TABLE(X)
#undef X
    struct cache_class_stats sum; /* over all classes */
};
void cache_totals(struct cache *c, struct cache_totals *out);

/* stats sizes: the histogram of accounted sizes in 32-byte steps, NULL without track_sizes; its length. */
size_t cache_sizes(const struct cache *c, const _Atomic(uint64_t) **histogram);

/* stats cachedump: up to limit items of a class; fn gets key, value bytes, absolute expiry. */
void cache_dump_class(struct cache *c, unsigned cls, unsigned limit,
                      void (*fn)(void *ctx, const char *key, unsigned key_bytes, uint32_t value_bytes,
                                 uint32_t exptime_sec),
                      void *ctx);
#endif
