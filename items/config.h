/* items/config.h: what the operator chose for the cache.
 *
 * The storage rooms never see the table of settings (operator/settings.h): storage_config.c copies into this
 * struct what they need, at start and after each command that changes a setting. Fields are named as their
 * settings, whose help says what they mean.
 *
 * Threads: the fields of CACHE_CONFIG_LIVE change while the cache runs, so each is read when it is needed; the
 * others are const once the cache is created.
 */
#ifndef EXTANT_ITEMS_CONFIG_H
#define EXTANT_ITEMS_CONFIG_H

#include "base/base.h"

#define CACHE_CONFIG_CONST(X)                                                                      \
    X(bool, use_cas) X(bool, evict_to_free) X(bool, lru_maintainer) X(bool, slab_reassign)         \
    X(bool, track_sizes) X(uint64_t, item_size_max) X(uint32_t, ext_admission)

#define CACHE_CONFIG_LIVE(X)                                                                       \
    X(uint64_t, maxbytes)                                                                          \
    X(bool, lru_crawler) X(uint32_t, lru_crawler_sleep) X(uint32_t, lru_crawler_tocrawl)           \
    X(bool, lru_segmented) X(bool, temp_lru) X(uint32_t, temporary_ttl)                            \
    X(uint32_t, hot_lru_pct) X(uint32_t, warm_lru_pct)                                             \
    X(double, hot_max_factor) X(double, warm_max_factor)                                           \
    X(uint32_t, slab_automove) X(double, slab_automove_ratio) X(double, slab_automove_freeratio)   \
    X(uint32_t, slab_automove_window)                                                              \
    X(uint32_t, ext_item_size) X(uint32_t, ext_item_age) X(uint32_t, ext_low_ttl)                  \
    X(uint32_t, ext_recache_rate) X(uint32_t, ext_max_sleep)

struct cache_config {
    bool has_memory_file; /* -e: items change by copies, so that a kill leaves whole ones */
#define X(type, name) type name;
    CACHE_CONFIG_CONST(X)
#undef X
#define X(type, name) _Atomic(type) name;
    CACHE_CONFIG_LIVE(X)
#undef X
};

#endif
