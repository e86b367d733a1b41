/* ext_aid.h: shared by the tests of the flash engine: an engine on files in a directory of its own, a model of
 * the index (an array; object n has hash n), and a device that fails on demand.
 *
 * The model's callbacks take its lock (LOCK_COLUMN), as the cache's do, so tests may run several
 * threads. Helpers fail the running test on any error.
 */
#ifndef EXTANT_T_EXT_AID_H
#define EXTANT_T_EXT_AID_H

#include "flash/device.h"
#include "extstore.h"
#include "base/lock.h"

struct aid_object { /* under aid.lock; in memory that outlives a killed child */
    bool present;
    bool changing; /* a process that dies now leaves this object undefined */
    uint8_t len_class;
    uint8_t heat;
    uint32_t gen; /* which value it has; 0: never stored */
    uint32_t value_bytes;
    uint32_t exptime_unix, time_unix;
    ext_place place;
    uint64_t seq; /* of the record that was read last */
};

struct aid_faults {                  /* all atomic, changed while the engine runs */
    _Atomic(int) write_errno;        /* every write fails with it, unless 0 */
    _Atomic(uint32_t) write_skip;    /* this many writes pass before failures count */
    _Atomic(uint32_t) write_fail;    /* this many writes fail with EIO, then they pass */
    _Atomic(uint32_t) write_flip;    /* this many writes store a wrong bit and report success */
    _Atomic(uint32_t) write_lose;    /* this many writes store nothing and report success */
    _Atomic(int) write_errno_fd;     /* writes to this fd fail with EIO, unless 0 */
    _Atomic(uint32_t) write_one_in;  /* one write in this many fails with EIO, unless 0 */
    _Atomic(uint32_t) write_chance;  /* each write fails at random, one in this many, unless 0 */
    _Atomic(int) write_chance_errno; /* with this; 0: it is cut short */
    _Atomic(uint64_t) write_bad;     /* a bad sector: writes that cover it fail, unless 0 */
    _Atomic(uint64_t) read_bad_end;  /* reads that begin before this byte fail */
    _Atomic(uint32_t) read_chance;   /* each read fails with EIO at random, one in this many, unless 0 */
    _Atomic(uint32_t) flip_chance;   /* each read has a wrong bit at random, one in this many, unless 0 */
    _Atomic(uint32_t) read_fail;     /* this many reads fail with EIO, then they pass */
    _Atomic(int) read_errno;         /* every read fails with it, unless 0 */
    _Atomic(uint32_t) short_one_in;  /* one transfer in this many is cut short, unless 0 */
    _Atomic(uint32_t) eintr_one_in;  /* one transfer in this many is interrupted, unless 0 */
    _Atomic(bool) stall_writes;      /* writes wait until this is false */
    _Atomic(int) stall_fd;           /* writes to this fd wait until this is another fd, unless 0 */
    _Atomic(int) read_stall_fd;      /* the same for reads */
    _Atomic(uint32_t) stalled;       /* of these, those that wait now */
    _Atomic(uint64_t) writes, reads; /* seen */
    _Atomic(uint64_t) refused;       /* writes that failed with write_errno */
    _Atomic(uint32_t) goes;          /* this many objects are deleted just before they would be moved */
    _Atomic(uint32_t) turn;
};

struct aid {
    char dir[64];
    struct arena *arena;
    struct extstore *ext;
    struct ext_tunables tun;
    struct ext_options opt;
    struct ext_device_ops ops;
    struct aid_faults faults;
    char *paths[EXT_DEVICES_MAX];
    struct lock lock; /* LOCK_COLUMN */
    struct aid_object *objects;
    uint32_t object_count;
    _Atomic(uint64_t) evicted, dropped, moved, sweeps;
    _Atomic(uint32_t) now_unix;
    _Atomic(uint64_t) events;
};

/* An aid with options filled in for one file of `pages` pages of page_bytes, wbuf_bytes each wbuf;
 * the test may change a->opt and then calls aid_start. */
struct aid *aid_new(uint32_t pages, uint64_t page_bytes, uint64_t wbuf_bytes);
void aid_add_device(struct aid *a, uint32_t pages, enum ext_bucket free_bucket);
void aid_use_faults(struct aid *a); /* before aid_start: puts a->faults below the engine */
void aid_start(struct aid *a);
/* As after kill -9: the arena file stays as it is, and a new engine attaches. */
void aid_restart(struct aid *a);
/* Only the attaching: after a child that had the engine was killed. */
void aid_attach(struct aid *a);
void aid_arena_file(struct aid *a); /* before aid_start: the arena lives in a file */
void aid_free(struct aid *a);       /* with checks: reconcile, counts */
void aid_forget(struct aid *a);     /* the same, if there is no engine */

/* The value of object id in generation gen, into buf. */
void aid_value(char *buf, uint32_t id, uint32_t gen, uint32_t value_bytes);
unsigned aid_key(char *buf, uint32_t id);

/* Stores a new generation: append, then link, under the lock. 0 or the append's error. */
int aid_set(struct aid *a, uint32_t id, uint32_t value_bytes, enum ext_bucket bucket);
void aid_set_wait(struct aid *a, uint32_t id, uint32_t value_bytes, enum ext_bucket bucket);
void aid_delete(struct aid *a, uint32_t id);
/* Reads and verifies; looks up again when the record has moved. 0 right; -ENOENT the model has
 * none; -errno of the read; a wrong value fails the test. */
int aid_get(struct aid *a, struct ext_ring *ring, uint32_t id);
/* Waits for a read. */
void aid_await(struct ext_ring *ring, struct ext_read *r);
void aid_sync(struct aid *a);
bool aid_step(struct aid *a); /* one step of maintenance; true iff there is more to do */
/* Steps maintenance until it has nothing to do (and waits for its reads). */
void aid_maintain(struct aid *a);
struct ext_info aid_info(struct aid *a);
/* Polls cond every millisecond; fails the test after 10 s. */
#define AID_WAIT_FOR(cond)                                                                         \
    do {                                                                                           \
        unsigned aid_tries = 0;                                                                    \
        while (!(cond)) {                                                                          \
            cr_assert_lt(++aid_tries, 100000u, "never came: " #cond);                               \
            aid_nap();                                                                             \
        }                                                                                          \
    } while (0)
void aid_nap(void);
/* The model's objects, and bytes by class, must equal the engine's counts. */
void aid_check_counts(struct aid *a);

#endif
