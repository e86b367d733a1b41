/* flash/types.h: the words of the flash engine: a place, a page's life, a record, a read, the engine's
 * options and callbacks, and its figures. Its functions only read their arguments.
 *
 * Page life, one enum. On each edge the function that makes it; those of flash/page.c check the state that they
 * lead to in debug builds (ext_page_assert).
 *
 *   FREE --page_begin--> OPEN --ext_page_seal--> SEALED --ext_page_drain--> DRAINING
 *   SEALED, DRAINING --page_free--> FREE              by whichever call finds it empty: ext_page_try_free
 *   DRAINING --ext_page_stay--> SEALED                worth another round
 *   OPEN, SEALED, DRAINING --ext_page_fail--> BAD     a write error in spite of retries
 *   BAD --page_free--> FREE                           ext_page_retry_end: empty, and a test write succeeded
 *
 * At a start, before there are readers:
 *   FREE --page_from--> OPEN, SEALED                  from a checkpoint
 *   FREE --scan_page_table--> SEALED                  from the slots' trailers
 *   DRAINING --ext_repair_pages--> SEALED             with attached memory
 *
 *   FREE      no object, no reader, not in use; may be opened.
 *   OPEN      a bucket appends to it through wbufs. Never reclaimed.
 *   SEALED    full. Objects only become fewer. objects == 0 and no reader: freed at once.
 *   DRAINING  reclaim moves or drops what is left; freed when objects == 0 and no reader.
 *   BAD       like DRAINING, but not FREE when empty: its records stay readable until dropped
 *             or moved; then it is tried again (upkeep/probe.h), after 1 s, twice as long after each
 *             failure, up to 64 s; at once when no free page is left or the device came back.
 *
 * The object count of a page is exact: one for each ext_append not yet
 * followed by its ext_drop. A place held by the index is therefore always a
 * record of that page's present life; readers pin the page (refs), so a page
 * is not reused under them. A page's version (32 bits, from one counter) goes
 * into each record's checksum together with its place, so a stale, misdirected
 * or torn read never verifies.
 */
#ifndef EXTANT_EXT_TYPES_H
#define EXTANT_EXT_TYPES_H

#include <sys/queue.h>

#include "space/arena.h"
#include "base/base.h"
#include "base/histogram.h"
#include "base/checkpoint.h"

#define EXT_GRANULE_BYTES 16
#define EXT_DEVICES_MAX 16
#define EXT_PAGE_BYTES_MAX ((uint64_t)4 * GiB)
#define EXT_NO_DEVICE UINT32_MAX
#define EXT_PAGES_MIN 4u      /* of class default: one in use, one reserved, and two to move between */
#define EXT_WBUF_MIN_COUNT 4u
#define EXT_BUFFERS_MIN (EXT_WBUF_MIN_COUNT + 1) /* of wbuf_bytes, in buffer_bytes: one is reclaim's */
#define EXT_LEN_CLASSES 32
#define EXT_WHY_BYTES 256

typedef uint64_t ext_place;

/* Buckets: what a page is for. The order is memcached's (stats show the number). */
#define EXT_BUCKET_TABLE(X)                                                                        \
    X(DEFAULT, "default")                                                                          \
    X(COMPACT, "compact")                                                                          \
    X(CHUNKED, "chunked")                                                                          \
    X(LOWTTL, "lowttl")                                                                            \
    X(COLDCOMPACT, "coldcompact")                                                                  \
    X(OLD, "old")
enum ext_bucket {
#define X(name, text) EXT_BUCKET_##name,
    EXT_BUCKET_TABLE(X)
#undef X
        EXT_BUCKET_COUNT
};

enum ext_page_state {
    EXT_PAGE_FREE,
    EXT_PAGE_OPEN,
    EXT_PAGE_SEALED,
    EXT_PAGE_DRAINING,
    EXT_PAGE_BAD
};

struct extstore;
struct ext_ring;

struct ext_page_where { /* page number -> device */
    uint32_t device;
    uint32_t unit; /* number on the device */
};

struct ext_device_options {
    const char *path;
    uint64_t bytes;
    enum ext_bucket free_bucket; /* whose pages it holds first (device class) */
    bool format; /* foreign data in it may be overwritten */
};

/* Why reclaim gives an object up. */
enum ext_drop_why {
    EXT_DROP_EVICTED,    /* for lack of room on flash */
    EXT_DROP_INDEX_FULL, /* for lack of room in the index */
    EXT_DROP_UNREAD,     /* by drop_unread */
    EXT_DROP_EXPIRED,    /* or flushed */
    EXT_DROP_LOST,       /* can't be read */
};
/* Of these a tombstone stays. */
static inline bool ext_drop_is_evicted(enum ext_drop_why why) { return why <= EXT_DROP_UNREAD; }

static_assert(EXT_DROP_EVICTED < EXT_DROP_UNREAD && EXT_DROP_UNREAD < EXT_DROP_EXPIRED, "evicted ones come first");

enum ext_dropped {
    EXT_DROPPED_GONE,  /* it was not there any more */
    EXT_DROPPED,       /* it was, and is not now */
    EXT_DROPPED_LATER, /* it is dropped later: other records have to be read first */
    EXT_DROPPED_BUSY,  /* too many of those: ask again */
};

/* Places to sweep: from first to before end, and with `takes` only those of pages that it says yes to. It is asked with the
 * word's LOCK_COLUMN held: so what it sees of a page includes the record that the word names. */
struct ext_sweep {
    ext_place first, end;
    bool (*takes)(const void *arg, uint32_t page);
    const void *arg;
    uint64_t page_granules;
};
static inline bool ext_sweep_has(const struct ext_sweep *s, ext_place place)
{
    return place >= s->first && place < s->end &&
           (s->takes == NULL || s->takes(s->arg, (uint32_t)(place / s->page_granules)));
}

/* Upcalls, all of them there. Called by an I/O thread or by the thread in ext_maint_step; no extstore lock is held, so
 * they may take LOCK_COLUMN; they must not wait or do I/O. `hash` is what ext_append was given. */
struct ext_callbacks {
    void *ctx;
    /* Does anything still refer to this place? heat: 0..3 hits since written. exptime/flush_all are
     * the caller's to judge: return false also for expired objects (after unlinking them and
     * calling ext_drop itself). */
    bool (*is_live)(void *ctx, uint64_t hash, ext_place place, unsigned *heat);
    /* The same bytes now stand at new_place: swap if `old` is still referred to. True iff swapped (then
     * the callee has called ext_drop(old)); false: the caller drops new_place. */
    bool (*moved)(void *ctx, uint64_t hash, ext_place old, ext_place new_place, unsigned len_class);
    /* The page is being given up: forget the object of record_bytes if it is still there (and ext_drop
     * it). After DROP_LATER the callee drops it itself, and calls ext_count_dropped. */
    enum ext_dropped (*dropped)(void *ctx, uint64_t hash, ext_place place, enum ext_drop_why why,
                                uint64_t record_bytes);
    /* How many checks for overwritten objects, and drops put off, were ever asked for, and how many have
     * ended. Until those that were asked for have ended, pages hold less than is counted, and reclaim
     * gives up nothing that lives. */
    void (*count_checks)(void *ctx, uint64_t *asked, uint64_t *ended);
    /* The object's page stays for another round: takes its heat down by half. */
    void (*cool)(void *ctx, uint64_t hash, ext_place place);
    /* Is a record that was just read for rescue to be kept (not expired, not flushed)? */
    bool (*is_fresh)(void *ctx, uint32_t exptime_unix, uint32_t time_unix);
    /* For objects of pages whose tables cannot be read, or need not: sweep everything that refers to what
     * ext_sweep_has; bounded work per call through *cursor (start at 0); returns
     * true while there is more. What it leaves, since it can't go at once, it drops later and says so by
     * ext_count_dropped. */
    bool (*sweep)(void *ctx, const struct ext_sweep *what, uint64_t *cursor, enum ext_drop_why why);
    /* The hash that a record of this key was appended with: for those of a slot whose table can't
     * be read, but their records can. Pure. */
    uint64_t (*hash_of)(void *ctx, const char *key, unsigned key_bytes);
};

enum ext_engine { EXT_ENGINE_AUTO, EXT_ENGINE_URING, EXT_ENGINE_THREADS };

struct ext_options {
    struct arena *arena;
    bool attached; /* the arena holds page table and wbufs of an earlier process */
    /* Else the page table may come from a checkpoint, as ext_save() put it there, or be put
     * together from the tables in the pages. Both end with ext_attach_done(), as an attach does. */
    struct checkpoint_reader *saved;
    /* Of a checkpoint of format 1, whose page table doesn't tell: how many devices it had, the bytes of each, and which
     * of devices[] it is now (EXT_NO_DEVICE: none). */
    uint32_t saved_count, saved_device[EXT_DEVICES_MAX];
    uint64_t saved_bytes[EXT_DEVICES_MAX];
    bool scan;
    /* Or NULL. Once all devices are open and locked, and nothing is written yet: is what these options say of their content
     * still so? stamps: of their marks, 0 where there is none. False: ext_create fails with ESTALE. */
    bool (*is_current)(void *ctx, const uint64_t *stamps);
    void *current_ctx;
    uint32_t version_floor; /* pages get versions above this one */
    /* With scan: what stands on a device from times up to this version is older than its joining the cache. */
    uint32_t since[EXT_DEVICES_MAX];
    uint64_t place_limit;   /* places are below this one, since no word can name others; 0: any */
    struct ext_device_options devices[EXT_DEVICES_MAX];
    unsigned device_count;
    uint64_t page_bytes, wbuf_bytes;
    unsigned wbuf_count;   /* buffers in all; 0: a default that fits buffer_bytes */
    uint64_t buffer_bytes; /* bound for wbufs and read buffers together */
    unsigned io_threads, io_depth;
    unsigned ring_count; /* rings that will be made: shares the memory for reads; 0: 4 */
    enum ext_engine engine;
    unsigned ttl_groups; /* at most, for records by the time at which they expire; 0: none */
    uint64_t write_limit_bytes_per_sec, write_limit_bytes_per_day; /* given to devices; 0: none */
    bool verify_writes; /* each write is read back before its buffer is freed */
    struct ext_callbacks callbacks;
    /* Test hook: replaces the system's pread/pwrite of the thread engine and of flushes
     * (see flash/device.h); NULL in production. */
    const struct ext_device_ops *device_ops;
};

/* Live-tunable; read by maintenance. Written by the command layer. */
struct ext_tunables {
    _Atomic(uint32_t) compact_under_pages, drop_under_pages;
    _Atomic(double) max_frag;
    _Atomic(bool) drop_unread;
    _Atomic(uint32_t) rewrite_pct; /* at most this share of an evicted page is written again */
    _Atomic(uint32_t) stay_pct;    /* a page with this share hit stays for another round; 0: none does */
};

/* What is put into a record. The key and value are copied before return. */
struct ext_record_in {
    uint64_t hash;
    const char *key;
    const char *value;
    uint32_t value_bytes;
    uint8_t key_bytes;
    uint8_t item_flags; /* the cache's own: stale, token sent, fetched, ... opaque here */
    uint32_t client_flags;
    uint64_t cas;
    uint32_t exptime_unix; /* 0 never */
    uint32_t time_unix;    /* when it was stored (for flush_all) */
};

/* A verified record, pointing into a read buffer. */
struct ext_record {
    const char *key, *value;
    uint32_t value_bytes;
    uint8_t key_bytes, item_flags;
    uint32_t client_flags;
    uint64_t cas;
    uint64_t seq; /* the later of two records of one key has the higher seq; kept by rescue */
    uint32_t exptime_unix, time_unix;
};

enum ext_read_state {
    EXT_READ_IDLE,
    EXT_READ_QUEUED, /* on the ring, or waiting for a buffer */
    EXT_READ_DONE,   /* result is valid */
};

/* One read; embedded in the caller's request. Between ext_read_start and ext_read_finish it belongs
 * to the ring and must not move in memory. */
struct ext_read {
    /* caller's */
    void (*done)(struct ext_read *r); /* called by ext_ring_reap; never from ext_read_start */
    void *owner;
    bool holds_others; /* its owner holds other reads until this one is done: it may not wait for them */
    /* engine's */
    ext_place place;
    uint32_t len_class;
    enum ext_read_state state;
    int result;       /* 0: bytes are there (not yet verified); -errno: I/O error after retries */
    bool from_buffer; /* served from a wbuf, no I/O */
    char *buffer;     /* holds the record at buffer + skip */
    uint32_t skip, buffer_bytes;
    uint32_t page, version;
    struct ext_ring *ring;
    struct ext_copy *copy; /* a large one: where the bytes are, maybe with others */
    TAILQ_ENTRY(ext_read) in_queue; /* or among the followers of its copy */
    uint64_t start_ns;
    uint32_t io_done, tries;
    uint32_t again; /* times that ext_read_again was granted */
    uint16_t slot; /* registered buffer slot, or none */
    bool waits; /* for its turn to begin */
    uint64_t order; /* its place among others that wait; 0: none yet */
    bool was_away;  /* it was put away before */
    bool later; /* after those of other clients */
};

/* The engine's counters, in the arena.
 *        counter              what it counts */
#define EXT_COUNTER_TABLE(X)                                                                       \
    X(compact_lost, "live records that reclaim could not read")                                    \
    X(compact_rescues, "records moved by reclaim")                                                 \
    X(compact_resc_cold, "of these, to bucket coldcompact")                                        \
    X(compact_resc_old, "of these, to bucket old")                                                 \
    X(compact_skipped, "records that drop_unread left behind")                                     \
    X(page_allocs, "pages opened")                                                                 \
    X(pages_kept, "pages that stayed for another round, since they were hit")                      \
    X(bytes_rewritten, "bytes of records moved by reclaim")                                        \
    X(page_evictions, "pages given up with live objects for lack of room")                         \
    X(page_reclaims, "pages freed")                                                                \
    X(objects_evicted, "objects dropped with their page")                                          \
    X(bytes_evicted, "of these, bytes")                                            \
    X(objects_written, "records appended")                                                         \
    X(bytes_written, "of these, bytes")                                                            \
    X(objects_read_reclaim, "records read by reclaim")                                             \
    X(bytes_read_reclaim, "bytes read by reclaim")                                                 \
    X(write_errors, "writes of a slot that failed after their retries")                            \
    X(write_retries, "writes tried again")                                                         \
    X(write_moved, "records moved away from a failed write")                                       \
    X(write_mismatches, "slots that were not on flash as they were written")                       \
    X(device_bytes_written, "bytes given to devices")                                              \
    X(pages_lost, "pages retired after write errors")                                              \
    X(pages_back, "of these, used again after a test write")                                       \
    X(evicted_index_full, "objects dropped because the index is full")                             \
    X(objects_expired, "objects dropped by reclaim as expired or flushed")                         \
    X(objects_unread_dropped, "objects dropped by drop_unread")

/* The counters of a ring, kept by its thread alone. */
#define EXT_READ_COUNTER_TABLE(X)                                                                  \
    X(objects_read, "records read for clients")                                                    \
    X(bytes_read, "bytes read for clients")                                                        \
    X(device_reads, "reads given to devices")                                                      \
    X(buffer_hits, "records copied out of a write buffer")                                         \
    X(reads_shared, "reads served from what was read for another request that still waits")       \
    X(reads_put_away, "values that were given up for others, to be read again")

/* Both have these, and they are shown as one. */
#define EXT_SHARED_COUNTER_TABLE(X)                                                                \
    X(read_errors, "reads that failed for good")                                                   \
    X(read_retries, "reads tried again")                                                           \
    X(read_short, "short transfers continued")                                                     \
    X(bad_checksums, "records or tables that did not verify")

struct ext_info {
#define X(name, help) uint64_t name;
    EXT_COUNTER_TABLE(X) EXT_READ_COUNTER_TABLE(X) EXT_SHARED_COUNTER_TABLE(X)
#undef X
    uint64_t pages_free, pages_used, pages_bad, objects_used, bytes_used, bytes_fragmented;
    uint64_t expired_bytes; /* in pages that are in use, about (flash/expiry.h) */
    uint64_t limit_maxbytes, io_queue, wbufs_free, wbufs_busy, wbufs_stuck, buffer_bytes, page_table_bytes;
    uint64_t reads_waiting;     /* now, for a buffer */
    uint64_t read_copies_bytes; /* now, of large reads; small ones are in buffer_bytes */
    /* Some page is BAD, a device refuses writes or reads or brings wrong bytes, something waits to
     * be written for it, or no page can be opened. */
    bool degraded;
    char degraded_why[EXT_WHY_BYTES]; /* which of these, with file and error; "none" */
    bool direct;        /* every device goes past the page cache (O_DIRECT) */
    const char *engine; /* "io_uring" or "threads" */
};
struct ext_page_info {
    enum ext_page_state state;
    uint32_t version; /* of its present life: later lives of any page have higher ones */
    unsigned device; /* EXT_NO_DEVICE: none has this page, and nothing below tells anything */
    uint64_t bytes_used, objects;
    enum ext_bucket bucket, free_bucket;
};
/* One device: what it is, and what it was asked for. path is the engine's. */
struct ext_device_info {
    const char *path;
    uint64_t bytes, bytes_read, bytes_written;
    bool failed;
    bool direct; /* O_DIRECT */
    struct histogram_sum reads, writes; /* latency */
};

#endif
