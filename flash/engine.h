/* flash/engine.h: what the files of the flash engine share, and nobody else includes.
 *
 *   extstore.c     create, attach, destroy, info, reconcile
 *   flash/room.c     how much is free, and the callers waiting for room
 *   flash/numbers.c  which page of which device has which number
 *   flash/page.c     the page table: states, versions, counts, pins, free pages
 *   flash/wbuf.c     write buffers: append, flush, what to do when a write fails
 *   flash/groups.c   which records share a page, since they expire together
 *   flash/expiry.c   how many bytes of each page have expired
 *   upkeep/reclaim.c  what maintenance does with pages: rescue, evict; upkeep/choice.c: with which page next
 *   upkeep/expire.c   pages that have expired whole
 *   upkeep/probe.c    have failed devices and BAD pages recovered?
 *   flash/ring.c     reads of a worker, over flash/uring.c or flash/pread.c
 *   upkeep/tables.c   the tables in the arena at a start; upkeep/repair.c: are those of an earlier process sound?
 *   upkeep/save.c     page table to and from a checkpoint
 *   upkeep/scan.c     page table and records from what is on flash
 *   flash/record.c   bytes on flash; flash/device.c files; flash/mark.c whose they are
 *   io_thread.c      threads
 *
 * Lock order inside: LOCK_EXT_BUCKET (one bucket), LOCK_EXT_PAGE (page_lock), LOCK_IO_QUEUE
 * (notify_lock, pools), LOCK_EXTENTS (free sets, extmap). Upcalls are made with none of them held.
 */
#ifndef EXTANT_FLASH_ENGINE_H
#define EXTANT_FLASH_ENGINE_H

#include <sys/queue.h>

#include "flash/device.h"
#include "flash/pace.h"
#include "flash/mark.h"
#include "flash/record.h"
#include "space/extmap.h"
#include "io_thread.h"
#include "base/clock.h"
#include "base/lock.h"

#define EXT_NO_PAGE UINT32_MAX
#define EXT_NOTE_BYTES 320
#define EXT_ROOT_BYTES 1952u
#define EXT_COUNTER_ROOM 64
#define EXT_GROUPS_MAX 32u
#define EXT_STREAM_COUNT (EXT_BUCKET_COUNT + EXT_GROUPS_MAX)
#define EXT_EXPIRY_OCTAVES 14u
/* Buffers and pages that only reclaim and the rewrite of failed writes may take, the last buffer only
 * the rewrite: without them neither could begin, and nothing would ever become free again. */
#define EXT_RESERVED_WBUFS 2u
#define EXT_RESERVED_PAGES 1u

/* ---- what lives in the arena: fixed width, no pointers ---- */

/* A number that only rises, in one word with its complement: a damaged one is detected, and counts as the
 * largest, which does no harm here. */
typedef _Atomic(uint64_t) ext_raised;

static inline uint64_t ext_raised_of(uint32_t value)
{
    return (uint64_t)~value << 32 | value;
}
static inline uint32_t ext_raised_get(const ext_raised *at)
{
    uint64_t both = atomic_load_explicit(at, memory_order_relaxed);
    return both == ext_raised_of((uint32_t)both) ? (uint32_t)both : UINT32_MAX;
}
static inline void ext_raised_set(ext_raised *at, uint32_t value)
{
    atomic_store_explicit(at, ext_raised_of(value), memory_order_relaxed);
}
static inline void ext_raise(ext_raised *at, uint32_t value)
{
    uint64_t was = atomic_load_explicit(at, memory_order_relaxed);
    while ((uint32_t)was < value &&
           !atomic_compare_exchange_weak_explicit(at, &was, ext_raised_of(value),
                                                  memory_order_relaxed, memory_order_relaxed))
        ;
}

struct ext_page { /* 80 bytes */
    /* under page_lock; state and version are also read without */
    _Atomic(uint32_t) version; /* 0 when FREE */
    _Atomic(uint32_t) state;   /* enum ext_page_state */
    uint8_t bucket;
    uint8_t failures;             /* failed writes that ended a life, or a test, in a row */
    uint16_t bad_chunk;           /* BAD: where, in EXT_IO_CHUNK_BYTES from the page's start */
    _Atomic(uint32_t) slots_used; /* slots given to wbufs in this life */
    /* atomic */
    _Atomic(uint32_t) objects;
    _Atomic(uint32_t) refs;           /* readers, wbufs not yet written, reclaim; not persistent */
    _Atomic(uint32_t) slots_busy;     /* of these refs, wbufs; not persistent */
    _Atomic(uint32_t) retry_sec;      /* BAD: not tried before; monotonic */
    ext_raised exptime_max;           /* UINT32_MAX once a record never expires */
    ext_raised time_max;              /* youngest time_unix */
    _Atomic(uint64_t) bytes_used;     /* of live objects, by length class */
    _Atomic(uint64_t) bytes_appended; /* of all objects of this life, by length class */
    _Atomic(uint64_t) bytes_real;     /* of all objects of this life, exactly */
    _Atomic(uint32_t) order;          /* its age: a version number, of when it was opened or last stayed */
    uint32_t where;                   /* its device and its number there (flash/numbers.h) */
};
static_assert(sizeof(struct ext_page) == 80, "page table entry");
static_assert(offsetof(struct ext_page, slots_used) == 12, "page table entry");
static_assert(offsetof(struct ext_page, retry_sec) == 28, "page table entry");
static_assert(offsetof(struct ext_page, bytes_used) == 48, "page table entry");
static_assert(EXT_BUCKET_COUNT <= UINT8_MAX, "a bucket fits a byte");

/* What a restart needs of a wbuf. Which range it holds, and if that is written, says extmap. */
struct ext_wbuf_root {
    uint64_t memory; /* arena offset of wbuf_bytes */
    uint32_t version;
    uint32_t bucket;
    _Atomic(uint32_t) count;       /* entries that stand in the table */
    _Atomic(uint32_t) front_bytes; /* records end here */
};
static_assert(sizeof(struct ext_wbuf_root) == 24, "wbuf root");
static_assert(offsetof(struct ext_wbuf_root, count) == 16, "wbuf root");

enum ext_counter {
#define X(name, help) EXT_N_##name,
    EXT_COUNTER_TABLE(X) EXT_SHARED_COUNTER_TABLE(X)
#undef X
        EXT_COUNTER_COUNT
};

/* The tables of one set of devices, and the devices that they describe. */
struct ext_tables {
    uint64_t page_bytes, wbuf_bytes;
    uint32_t page_count, wbuf_count, device_count, reserved;
    struct ext_known {
        uint64_t dev, ino, bytes;
        uint64_t stamp; /* of its mark; 0: it has no mark of ours yet (flash/mark.h) */
        uint32_t since; /* the newest version of a page when it joined */
        uint32_t step;  /* not 0: the stamp that follows by it is just being written, so either may stand there */
    } devices[EXT_DEVICES_MAX];
    uint64_t pages; /* arena offsets of the tables */
    uint64_t wbufs;
    uint64_t words; /* extmap's */
    uint64_t reclaim; /* reclaim's buffer, wbuf_bytes: a start must not depend on free memory */
};

struct ext_root {
    uint64_t format; /* EXT_ROOT_FORMAT; 0: there is no flash */
    /* A start with other devices makes new tables in the place that is not in use, and then switches: a kill
     * finds the ones or the others. */
    struct ext_tables tables[2];
    _Atomic(uint32_t) current;
    uint32_t reserved;
    _Atomic(uint64_t) next_seq;
    _Atomic(uint32_t) next_version;
    _Atomic(uint32_t) flush_unix; /* ext_flush_all */
    _Atomic(uint64_t) counters[EXT_COUNTER_ROOM]; /* for stats alone, so their order may change */
};
#define EXT_ROOT_FORMAT UINT64_C(0x0731746f6f527845)
#define EXT_ROOT_OFFSET 1024u /* in the module's root; the fields of format 3 come before it */
static_assert(sizeof(struct ext_root) == EXT_ROOT_BYTES, "RESTART_MEMORY_FORMAT");
static_assert(EXT_COUNTER_COUNT <= EXT_COUNTER_ROOM, "counters of later builds have room");

/* ---- what belongs to this process ---- */

/* A wbuf; its number is also the buffer number of extmap.
 *
 *   FREE, CLEAN --take_buffer--> TAKEN --open_wbuf--> OPEN --close_wbuf--> FLUSHING --flushed--> CLEAN
 *   TAKEN --give_buffer_back--> FREE        there is no page to open it on
 *   FLUSHING --leave_unwritten--> STUCK     its write failed, and so did moving its records (stick), or the process ends
 *   STUCK --unstick--> FLUSHING             flushed or abandon at once: written after all, or moved; at the end forget,
 *                                            if what was in it is dropped
 *   FLUSHING --give_buffer_back--> FREE     abandon: its records were moved
 *   CLEAN --forget_slots--> FREE            its page is freed
 *   FREE --ext_wbuf_attach--> CLEAN, FLUSHING   at a start with attached memory, by what extmap says
 *
 *   TAKEN   holds no range, is in no list, for the moment in which it is opened.
 *   STUCK   waits for the device to recover, or for room elsewhere; it is written again with growing pauses.
 *   CLEAN   extmap has it, and gives buffers away least recently used first.
 */
enum ext_wbuf_state {
    EXT_WBUF_FREE,
    EXT_WBUF_TAKEN,
    EXT_WBUF_OPEN,
    EXT_WBUF_FLUSHING,
    EXT_WBUF_STUCK,
    EXT_WBUF_CLEAN
};

struct ext_wbuf {
    /* const after create */
    struct extstore *e;
    struct ext_wbuf_root *root;
    char *memory;
    uint32_t id;
    /* under LOCK_EXT_BUCKET while OPEN, then the flusher's */
    uint64_t slot;
    uint32_t page;
    uint32_t stream;
    uint32_t waits;                  /* for a page that has expired to be swept */
    uint32_t fill_bytes, fill_count; /* reserved so far */
    bool moved;                      /* its records were moved, it must be given back */
    uint32_t rounds;                 /* failed writes of the whole slot */
    uint32_t chunk_tries;            /* of the chunk at `written`, in this round */
    uint32_t compare_tries;          /* times that the slot was written but not found on flash, in this round */
    uint64_t written;                /* bytes of the slot that are on flash, in this round */
    uint64_t opened_ns;
    struct io_job job;
    STAILQ_ENTRY(ext_wbuf) in_backlog; /* its device's */
    /* atomic */
    _Atomic(uint32_t) state;   /* enum ext_wbuf_state; for counts and checks */
    _Atomic(uint32_t) writers; /* appends being copied; EXT_WBUF_CLOSED once no more may begin */
};
#define EXT_WBUF_CLOSED 0x80000000u

/* Appends to pages of their own: those of a bucket, or of a group (flash/groups.h). A stream has one page on each device at most, and more than one only while a device has
 * more buffers to write than its share: then the stream goes on elsewhere and comes back later. */
struct ext_stream {
    struct lock lock; /* LOCK_EXT_BUCKET */
    struct ext_wbuf *open;
    uint32_t device; /* that of the last wbuf opened */
    struct ext_stream_file {
        _Atomic(uint32_t) page; /* whose slots are given out, or EXT_NO_PAGE; also read without */
        uint32_t next_slot;     /* of that page */
    } files[EXT_DEVICES_MAX];
};

/* Which records go to which group; see flash/groups.h. */
struct ext_groups {
    /* const after create */
    uint32_t count;   /* 0: there are none */
    uint32_t buckets; /* a bit for each that has them */
    /* under lock */
    struct lock lock;               /* LOCK_EXT_BUCKET */
    uint32_t until[EXT_GROUPS_MAX]; /* unix time; 0: not used before */
    uint32_t width;
    /* atomic */
    _Atomic(uint32_t) horizon_sec; /* 0: not known yet */
};

/* What is known of when a page's records expire; see flash/expiry.h. */
struct ext_expiry {
    _Atomic(uint32_t) opened, turned; /* unix time; 0: by an earlier process */
    _Atomic(uint32_t) first;          /* expiry */
    _Atomic(uint32_t) granules[EXT_EXPIRY_OCTAVES], last[EXT_EXPIRY_OCTAVES]; /* last: expiry */
};

/* A device's pending writes. Its flushes use only its share of the threads, so that a
 * slow device does not occupy all of them. */
struct ext_backlog {
    _Atomic(uint32_t) wbufs; /* closed and not yet on flash */
    /* under notify_lock */
    uint32_t running;
    STAILQ_HEAD(, ext_wbuf) waiting; /* for their turn */
};

struct ext_notify {
    SLIST_ENTRY(ext_notify) in_list;
    void (*fn)(void *arg);
    void *arg;
};

struct ext_read_counters { /* one for each ring: written by its thread only */
#define X(name, help) _Atomic(uint64_t) name;
    EXT_READ_COUNTER_TABLE(X) EXT_SHARED_COUNTER_TABLE(X)
#undef X
};

struct ext_reclaim;
struct ext_expire;
struct ext_saved;
struct ext_scan;

enum ext_probe_kind { EXT_PROBE_WRITE, EXT_PROBE_READ, EXT_PROBE_PAGE };

struct ext_probe { /* one for each device */
    /* const after create */
    struct extstore *e;
    uint32_t device;
    /* the maintenance thread's; the job's while running is true */
    enum ext_probe_kind kind;
    uint32_t page;      /* that is tried: FREE, or BAD with a reference */
    uint32_t tries;     /* that failed, in a row */
    uint32_t turn;      /* which block is read */
    uint64_t next_ns[EXT_PROBE_PAGE + 1]; /* not before, by kind */
    struct io_job job;
    /* atomic */
    _Atomic(bool) running;
    _Atomic(uint32_t) unit; /* the FREE page that is being written to, or EXT_NO_PAGE */
};

struct extstore {
    /* const after create */
    struct ext_options opt;
    struct ext_tunables *tun;
    struct arena *arena;
    struct ext_root *root;
    struct ext_tables *tables; /* of root, those in use */
    struct ext_page *pages;
    struct ext_page_where *where;      /* device EXT_NO_DEVICE: none has this page (any more) */
    uint32_t *numbers[EXT_DEVICES_MAX]; /* of each device: the number of each of its pages */
    bool *gone;                        /* until ext_attach_done: pages whose objects are gone with their device, */
    uint32_t gone_count;               /* of this many; */
    bool is_all_gone;                  /* or all of them */
    struct ext_known known[EXT_DEVICES_MAX]; /* devices of an earlier numbering, .. */
    uint32_t known_count;
    uint32_t device_of[EXT_DEVICES_MAX]; /* .. and which device each of them is now, or EXT_NO_DEVICE */
    char note[EXT_NOTE_BYTES];         /* about devices that have changed since the last start */
    struct ext_wbuf *wbufs;
    uint32_t page_count, wbuf_count, device_count;
    uint32_t slots_per_page;
    uint64_t page_bytes, wbuf_bytes;
    uint64_t page_granules, slot_granules;
    struct ext_device devices[EXT_DEVICES_MAX];
    int device_fds[EXT_DEVICES_MAX];
    struct extmap *map;
    struct io_pool *write_pool; /* flushes, reclaim's reads, notifications */
    bool uring;                 /* the engine that rings try first */
    uint64_t ring_bytes;        /* read buffers of one ring: slots, and as much for large reads */
    struct ext_reclaim *reclaim;
    struct ext_expire *expire;
    struct ext_saved *saved; /* what a checkpoint has, while it is loaded */
    struct ext_scan *scan; /* buffers of upkeep/scan.c, until ext_attach_done */
    void (*event_fn)(void *ctx, const char *line);
    void *event_ctx;
    void (*maint_fn)(void *ctx);
    void *maint_ctx;

    struct ext_stream streams[EXT_STREAM_COUNT]; /* each under its own lock: of the buckets, then of the groups */
    struct ext_groups groups;
    struct ext_expiry *expiry; /* of each page */
    struct ext_backlog backlogs[EXT_DEVICES_MAX];
    uint32_t flushes_at_once; /* of a device; const after create */

    /* under page_lock (LOCK_EXT_PAGE) */
    struct lock page_lock;
    uint32_t *free_wbufs; /* stack of buffers that hold no range */
    uint32_t free_wbuf_count;
    uint32_t device_turn[EXT_BUCKET_COUNT]; /* round robin over the devices of a class */

    /* under notify_lock (LOCK_IO_QUEUE) */
    struct lock notify_lock;
    SLIST_HEAD(ext_notify_list, ext_notify) notify_list;
    pthread_cond_t idle_cond; /* dirty_wbufs became less */
    bool notify_queued;
    struct io_job notify_job;

    /* under pool_lock (LOCK_CONTROL) */
    struct lock pool_lock;
    struct io_pool *read_pools[EXT_DEVICES_MAX]; /* of the thread engine; made by the first ring that needs them */

    /* under rings_lock (LOCK_STATS) */
    struct lock rings_lock;
    struct ext_ring *rings;
    struct ext_read_counters retired; /* of rings that are gone */

    /* atomic */
    _Atomic(bool) notify_any;
    _Atomic(bool) attaching; /* objects are being counted: nothing may be freed for having none */
    _Atomic(bool) stopping;
    _Atomic(uint32_t) dirty_wbufs;    /* OPEN, FLUSHING or STUCK */
    _Atomic(uint32_t) flushing_wbufs; /* FLUSHING or STUCK */
    _Atomic(uint32_t) stuck_wbufs;
    _Atomic(uint32_t) evict_requests; /* ext_evict_oldest calls not yet served */
    struct pace pace;                 /* the limits of writing */
    _Atomic(uint32_t) now_unix;       /* as maintenance was told last */
    _Atomic(uint32_t) fill_sec;       /* how long the last written buffer was open and in flight */
    _Atomic(uint32_t) bad_pages;
    _Atomic(bool) is_crowded;         /* no page can be emptied for the next one without giving up objects (upkeep/reclaim.c) */
    _Atomic(uint64_t) no_page_ns;     /* since when no page could be opened; 0: one could */
    struct ext_probe probes[EXT_DEVICES_MAX]; /* upkeep/probe.h */
    uint64_t next_look_ns; /* for devices that stall; the maintenance thread's */
};

/* The three tables. */
static inline struct ext_page *ext_pages_of(const struct extstore *e, const struct ext_tables *t)
{
    return (struct ext_page *)(arena_base(e->arena) + t->pages);
}
static inline struct ext_wbuf_root *ext_wbufs_of(const struct extstore *e, const struct ext_tables *t)
{
    return (struct ext_wbuf_root *)(arena_base(e->arena) + t->wbufs);
}
static inline extmap_word *ext_words_of(const struct extstore *e, const struct ext_tables *t)
{
    return (extmap_word *)(arena_base(e->arena) + t->words);
}

static inline void ext_count(struct extstore *e, enum ext_counter n, uint64_t by)
{
    atomic_fetch_add_explicit(&e->root->counters[n], by, memory_order_relaxed);
}
/* Notes that this many bytes were sent to devices. */
static inline void ext_written(struct extstore *e, uint64_t bytes)
{
    ext_count(e, EXT_N_device_bytes_written, bytes);
    pace_spend(&e->pace, bytes);
}
static inline uint64_t ext_counted(const struct extstore *e, enum ext_counter n)
{
    return atomic_load_explicit(&e->root->counters[n], memory_order_relaxed);
}

static inline uint32_t ext_place_page(const struct extstore *e, ext_place place)
{
    return (uint32_t)(place / e->page_granules);
}
static inline uint64_t ext_place_slot(const struct extstore *e, ext_place place)
{
    return place / e->slot_granules;
}
static inline ext_place ext_slot_place(const struct extstore *e, uint64_t slot)
{
    return slot * e->slot_granules;
}
static inline uint32_t ext_slot_page(const struct extstore *e, uint64_t slot)
{
    return (uint32_t)(slot / e->slots_per_page);
}
/* The start of a slot on its device. */
static inline uint64_t ext_slot_offset(const struct extstore *e, uint64_t slot)
{
    return e->where[ext_slot_page(e, slot)].unit * e->page_bytes +
           slot % e->slots_per_page * e->wbuf_bytes;
}
/* Bytes of a slot before its first record: the mark, in the first one of a device. */
static inline uint32_t ext_slot_front(const struct extstore *e, uint64_t slot)
{
    bool is_first = slot % e->slots_per_page == 0 && e->where[ext_slot_page(e, slot)].unit == 0;
    return is_first ? EXT_MARK_BYTES : 0;
}
static inline enum ext_page_state ext_page_state_of(const struct ext_page *p)
{
    return (enum ext_page_state)atomic_load_explicit(&p->state, memory_order_acquire);
}
/* Has all that the page holds expired? A little later than promised, for clocks. */
#define EXT_EXPIRE_GRACE_SEC 2u
static inline bool ext_page_has_expired(const struct ext_page *p, uint32_t now_unix)
{
    uint32_t exptime_max = ext_raised_get(&p->exptime_max);
    return exptime_max != UINT32_MAX && exptime_max + EXT_EXPIRE_GRACE_SEC < now_unix;
}
/* Has a device the page? */
static inline bool ext_page_is_there(const struct extstore *e, uint32_t page)
{
    return e->where[page].device != EXT_NO_DEVICE;
}
static inline struct ext_device *ext_page_device(struct extstore *e, uint32_t page)
{
    ASSERT(ext_page_is_there(e, page));
    return &e->devices[e->where[page].device];
}

/* A test runs the engine's jobs (flash/device.h). */
static inline bool ext_is_stepped(const struct extstore *e)
{
    return e->opt.device_ops != NULL && e->opt.device_ops->stepped;
}

/* ext_maint_step has work. Any lock may be held. */
static inline void ext_wake_maint(struct extstore *e)
{
    if (e->maint_fn != NULL)
        e->maint_fn(e->maint_ctx);
}
#endif
