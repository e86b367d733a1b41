/* maint_thread.h: the thread that keeps resources free: LRU shares, flushing ahead of
 * need, reclaim of flash pages, growth of the index, slab pages between
 * classes, sparse memory, and crawler runs.
 *
 * It goes round a table of steps (maint_thread.c), each bounded, none of which
 * waits for a device; then it sleeps until its ring, a wake-up or the clock
 * has something for it.
 *
 * Threads: requests from any thread. Lock: LOCK_CONTROL inside.
 */
#ifndef EXTANT_MAINT_THREAD_H
#define EXTANT_MAINT_THREAD_H

#include "cache_run.h"
#include "crawler.h"

struct maint;

struct maint_options {
    struct cache *cache;
    struct crawler *crawler; /* started now and then to find expired items; may be NULL */
    bool stepped;            /* tests: no thread; the caller runs its turns */
};

/* Starts the thread. NULL with errno. */
struct maint *maint_create(const struct maint_options *opt);
void maint_destroy(struct maint *m);
/* With stepped: one round through the table of steps. True iff it should be called again soon. */
bool maint_turn(struct maint *m);
/* Wakes the thread, because there is work. */
void maint_wake(struct maint *m);

/* Answers to `slabs reassign`. */
enum maint_reassign {
    MAINT_REASSIGN_OK,
    MAINT_REASSIGN_BUSY,     /* with another one */
    MAINT_REASSIGN_BADCLASS, /* no class has such a number, or none has two pages */
    MAINT_REASSIGN_NOSPARE,  /* the source has no page to give */
    MAINT_REASSIGN_SAME,     /* source and destination are the same */
};
/* Moves one slab page from src (-1: the class with the most) to dst (0: the global pool), soon. */
enum maint_reassign maint_slab_reassign(struct maint *m, int src, int dst);
bool maint_reassign_is_running(const struct maint *m);
/* Why it last had to wait for a page, in memcached's words. */
const char *maint_busy_status(const struct maint *m);

#endif
