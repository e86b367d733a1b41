/* items/counters.h: every counter of the cache, in two tables. If you add one, add a row here: the enum, the memory, and
 * the lines of `stats` follow from it.
 */
#ifndef EXTANT_ITEMS_COUNTERS_H
#define EXTANT_ITEMS_COUNTERS_H

/* Per class figures of `stats items`. */
#define CACHE_ITEM_STATS(X)                                                                        \
    X(evicted) X(evicted_nonzero) X(outofmemory) X(tailrepairs) X(reclaimed) X(expired_unfetched)  \
    X(evicted_unfetched) X(evicted_active) X(crawler_reclaimed) X(crawler_items_checked)           \
    X(lrutail_reflocked) X(moves_to_cold) X(moves_to_warm) X(moves_within_lru) X(direct_reclaims)

/* What `stats extant` (and, where named so, `stats`) tells of the cache. Objects given up have exactly
 * one of the evictions_* reasons each. */
#define CACHE_COUNTER_TABLE(X)                                                                     \
    X(evictions_no_flash, "RAM items evicted with no flash configured")                            \
    X(evictions_write_wait, "RAM items evicted after ext_max_sleep without a free write buffer")   \
    X(evictions_flash_full, "RAM items evicted because no flash page could be freed in time")      \
    X(evictions_not_admitted, "RAM items evicted because flash is full and they are not worth a write") \
    X(evictions_write_limit, "RAM items evicted because of ext_write_limit or ext_daily_writes")     \
    X(evictions_short_ttl, "RAM items evicted because they would have expired before they were on flash") \
    X(evictions_device, "RAM items evicted because no device takes writes")                        \
    X(evictions_index_full, "objects given up because -m can not index more")                     \
    X(evictions_same_tag, "flash objects given up because they could not be told from older values") \
    X(memory_shortages, "times that the system had no more memory: its file system was full, or its control group") \
    X(memory_items_moved, "items moved for that: down their lists, to flash if there was some, or out")  \
    X(flushed_items, "items moved from RAM to flash")                                              \
    X(inline_flushes, "of these, by a worker that needed the memory")                              \
    X(clean_evictions, "items that left RAM without a write: they were brought back from flash, and are still there") \
    X(stale_checks, "flash objects read to see whether an overwrite made them stale")              \
    X(stale_drops, "of these, stale and dropped")                                                  \
    X(stale_overflows, "checks not queued because the queue was full")                             \
    X(tag_collisions, "flash reads that found another key's record")                               \
    X(recaches, "objects brought back to RAM because they were hit")                               \
    X(promotions, "objects brought back to RAM to be changed")                                     \
    X(write_waits, "requests parked until memory was free")                                        \
    X(write_wait_us, "microseconds that they waited")                                              \
    X(rescued_stale, "stale words found by reclaim")                                               \
    X(items_moved, "items moved to denser memory")                                                 \
    X(slab_reassign_rescues, "items that kept a place when a slab page was taken from their class") \
    X(slab_reassign_chunk_rescues, "chunks of large items that kept one")                          \
    X(slab_reassign_evictions, "items that lost it")                                               \
    X(slab_reassign_busy_items, "times a page could not be moved because items were in use")       \
    X(slabs_moved, "slab pages moved between classes")                                             \
    X(lru_maintainer_juggles, "rounds of the maintenance thread")                                  \
    X(lru_crawler_starts, "crawls started")

#endif
