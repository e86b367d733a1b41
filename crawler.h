/* crawler.h: the thread that walks over all objects: to free expired ones,
 * or to list them (metadump, mgdump).
 *
 * It walks the index, not the LRUs, a bounded piece at a time, and holds a
 * column's lock only for that piece. It reads the flash objects of a dump
 * through a ring of its own. One job at a time. A dump's sink may block:
 * that delays only this thread.
 *
 * Threads: requests from any thread. Lock: LOCK_CONTROL inside.
 */
#ifndef EXTANT_CRAWLER_H
#define EXTANT_CRAWLER_H

#include "cache_run.h"

/* One item as metadump shows it. Those on flash cost a read each. */
struct cache_meta {
    char key[CACHE_KEY_BYTES_MAX];
    uint8_t key_bytes;
    uint32_t exptime_sec, time_sec, value_bytes, client_flags, accounted_bytes;
    uint64_t cas;
    bool fetched, binary_key, on_flash;
    uint8_t slab_class;
    uint32_t ext_page, ext_offset;
};

enum crawler_job { CRAWLER_EXPIRE, CRAWLER_METADUMP, CRAWLER_MGDUMP };
enum crawler_result {
    CRAWLER_OK,
    CRAWLER_BUSY,       /* a job is running */
    CRAWLER_DISABLED,   /* lru_crawler is off */
};

/* Where a dump goes. Called in the crawler's thread, no lock held; both may block. */
struct crawler_sink {
    void *ctx;
    int (*item)(void *ctx, const struct cache_meta *m); /* 0, or negative: stop (the client is gone) */
    void (*done)(void *ctx, bool complete);             /* exactly once, the last call */
};

struct crawler;

/* Starts the thread (idle). NULL with errno. */
struct crawler *crawler_create(struct cache *c);
/* Stops a running job (and calls its sink's done) and the thread. */
void crawler_destroy(struct crawler *cr);
/* Starts a job over the classes whose bits (1 << id) are set; a crawl of crawler_tidy ends for it. For dumps, after
 * CRAWLER_OK the sink belongs to the crawler. */
enum crawler_result crawler_start(struct crawler *cr, uint64_t class_mask, enum crawler_job job,
                                  const struct crawler_sink *sink);
/* Frees what has expired in all classes, unless a job is running or lru_crawler is off. */
void crawler_tidy(struct crawler *cr);
bool crawler_is_running(const struct crawler *cr);

#endif
