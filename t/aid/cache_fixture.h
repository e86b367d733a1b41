/* cache_fixture.h: a whole cache without a server, for tests: arena, slab, index, cache, one worker,
 * and flash if wanted; and synchronous wrappers around ops. One thread. */
#ifndef EXTANT_T_CACHE_FIXTURE_H
#define EXTANT_T_CACHE_FIXTURE_H

#include "cache_run.h"
#include "cache_step.h"
#include "flash/device.h"
#include "items/object.h"
#include "items/room.h"
#include "items/upcalls.h"
#include "storage_config.h"

struct fixture {
    struct settings settings; /* of tests that parse a command line */
    struct cache_config config;
    struct arena *arena;
    struct slab_mem *slab;
    struct index *index;
    struct cache *cache;
    struct extstore *ext;
    struct ext_tunables tunables;
    struct thread_stats stats;
    struct cache_worker *worker;
    char dir[64];
    struct ext_device_ops device_ops; /* of fixture_open_ops() */
    void (*idle)(struct fixture *f); /* does what the other threads would do; NULL: they exist */
};

/* memory_mb of -m; flash_mb 0: none. */
void fixture_open(struct fixture *f, unsigned memory_mb, unsigned flash_mb);
/* The same with an index whose tags are so short that it can't tell the keys of sim_tags.h apart. */
void fixture_open_tags(struct fixture *f, unsigned memory_mb, unsigned flash_mb);
/* The same, with these functions for reads and writes of the device. */
void fixture_open_ops(struct fixture *f, unsigned memory_mb, unsigned flash_mb, const struct ext_device_ops *ops);
void fixture_close(struct fixture *f);

/* One turn of an event loop: ring, reclaim, waits. */
void fixture_turn(struct fixture *f);
/* Runs the op to its end, driving the ring, reclaim and waits. */
void fixture_run(struct fixture *f, struct cache_op *op);
enum cache_status fixture_store(struct fixture *f, enum cache_store_mode mode, const char *key,
                                const char *value, size_t value_bytes, uint32_t client_flags,
                                uint32_t exptime_sec, uint64_t cas);
static inline enum cache_status fixture_set(struct fixture *f, const char *key, const char *value)
{
    return fixture_store(f, CACHE_SET, key, value, strlen(value), 0, 0, 0);
}
/* Copies the value (ended by NUL) and returns the status; view may be NULL. */
enum cache_status fixture_get(struct fixture *f, const char *key, char *value, size_t size,
                              struct cache_view *view);
enum cache_status fixture_delete(struct fixture *f, const char *key);
enum cache_status fixture_touch(struct fixture *f, const char *key, uint32_t exptime_sec);
enum cache_status fixture_arith(struct fixture *f, const char *key, bool decr, uint64_t delta,
                                uint64_t *number);
/* Moves every RAM item that can go to flash. */
void fixture_flush(struct fixture *f);
/* Runs queued checks of overwritten words until none is left. */
void fixture_settle(struct fixture *f);
uint64_t fixture_counter(struct fixture *f, enum cache_counter n);

#endif
