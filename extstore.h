/* extstore.h: the flash engine: opaque records in pages of files.
 *
 * It knows records (key, value, a few numbers, all checksummed), pages, wbufs
 * and devices. It does not know the index, the LRU or connections: who still
 * refers to a record is told by ext_drop() and asked through ext_callbacks.
 *
 * Place: 40 bits, file-independent: page * (page_bytes / 16) + offset / 16.
 *
 * Page life, one enum; each edge is made by the one function of flash/page.c named on it:
 *
 *   FREE --ext_page_open--> OPEN --ext_page_seal--> SEALED --ext_page_drain--> DRAINING
 *    ^                                                |                            |
 *    +------------------- page_free ------------------+----------------------------+
 *    |
 *    +-- ext_page_retry_end (holds nothing, and a test write succeeded) -- BAD
 *
 *   OPEN, SEALED, DRAINING --ext_page_fail (write error that retries do not cure)--> BAD
 *
 *   FREE      no object, no reader, not in use; may be opened.
 *   OPEN      a bucket appends to it through wbufs. Never reclaimed.
 *   SEALED    full. Objects only become fewer. objects == 0 and no reader: freed at once.
 *   DRAINING  reclaim moves or drops what is left; freed when objects == 0 and no reader.
 *   BAD       like DRAINING, but not FREE when empty: what was written stays readable until dropped
 *             or moved; then it is tried again (upkeep/probe.h), after 1 s, twice as long after each
 *             failure, up to 64 s; at once when no free page is left or the device came back.
 *
 * The object count of a page is exact: one for each ext_append not yet
 * followed by its ext_drop. A place held by the index is therefore always a
 * record of that page's present life; readers pin the page (refs), so a page
 * is not reused under them. A page's version (32 bits, from one counter) goes
 * into each record's checksum together with its place, so a stale, misdirected
 * or torn read never verifies.
 *
 * Threads: ext_append/ext_drop/ext_read_* from any thread; an ext_ring belongs
 * to one thread. Locks inside: LOCK_EXT_BUCKET, LOCK_EXT_PAGE, LOCK_IO_QUEUE,
 * LOCK_EXTENTS. ext_append and ext_drop never wait and do no I/O, so they may
 * be called with LOCK_COLUMN held.
 */
#ifndef EXTANT_EXTSTORE_H
#define EXTANT_EXTSTORE_H

#include "space/arena.h"
#include "base/base.h"
#include "base/histogram.h"
#include "base/checkpoint.h"

#define EXT_GRANULE_BYTES 16
#define EXT_DEVICES_MAX 16
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

struct ext_device_options {
    const char *path;
    uint64_t bytes;
    enum ext_bucket free_bucket; /* whose pages it holds first (device class) */
    bool format; /* what others have put there may be overwritten */
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

enum ext_dropped {
    EXT_DROPPED_GONE,  /* it was not there any more */
    EXT_DROPPED,       /* it was, and is not now */
    EXT_DROPPED_LATER, /* it will go by itself: something else has to be read first */
    EXT_DROPPED_BUSY,  /* too many of those: ask again */
};

/* Upcalls. Called by an I/O thread or by the thread in ext_maint_step; no extstore lock is held, so
 * they may take LOCK_COLUMN; they must not wait or do I/O. `hash` is what ext_append was given. */
struct ext_callbacks {
    void *ctx;
    /* Does anything still refer to this place? heat: 0..3 hits since written. exptime/flush_all are
     * the caller's to judge: return false also for expired objects (after unlinking them and
     * calling ext_drop itself). */
    bool (*is_live)(void *ctx, uint64_t hash, ext_place place, unsigned *heat);
    /* The same bytes now stand at neu: swap if `old` is still referred to. True iff swapped (then
     * the callee has called ext_drop(old)); false: the caller drops neu. */
    bool (*moved)(void *ctx, uint64_t hash, ext_place old, ext_place neu, unsigned len_class);
    /* The page is being given up: forget the object of record_bytes if it is still there (and ext_drop
     * it). What DROP_LATER promises, the callee does by itself, and says ext_count_dropped. */
    enum ext_dropped (*dropped)(void *ctx, uint64_t hash, ext_place place, enum ext_drop_why why,
                                uint64_t record_bytes);
    /* How many checks for overwritten objects, and drops put off, were ever asked for, and how many have
     * ended. Until those that were asked for have ended, pages hold less than is counted, and reclaim
     * gives up nothing that lives. May be NULL: there are none. */
    void (*settling)(void *ctx, uint64_t *asked, uint64_t *ended);
    /* The object's page stays for another round: takes its heat down by half. May be NULL: no page stays. */
    void (*cool)(void *ctx, uint64_t hash, ext_place place);
    /* Is a record that was just read for rescue to be kept (not expired, not flushed)? */
    bool (*is_fresh)(void *ctx, uint32_t exptime_unix, uint32_t time_unix);
    /* For objects of a page whose tables cannot be read: sweep everything that refers into
     * [first, first+count) granules; bounded work per call through *cursor (start at 0); returns
     * true while there is more. What it leaves, since it can't go at once, it drops later and says so by
     * ext_count_dropped. */
    bool (*sweep)(void *ctx, ext_place first, uint64_t count, uint64_t *cursor, enum ext_drop_why why);
    /* The hash that a record of this key was appended with: for those of a slot whose table can't
     * be read, but their records can. Pure. May be NULL: then they are swept. */
    uint64_t (*hash_of)(void *ctx, const char *key, unsigned key_bytes);
};

enum ext_engine { EXT_ENGINE_AUTO, EXT_ENGINE_URING, EXT_ENGINE_THREADS };

struct ext_options {
    struct arena *arena;
    bool attached; /* the arena holds page table and wbufs of an earlier process */
    /* Else the page table may come from a checkpoint, as ext_save() put it there, or be put
     * together from the tables in the pages. Both end with ext_attach_done(), as an attach does. */
    struct checkpoint_reader *saved;
    bool scan;
    uint32_t version_floor; /* pages get versions above this one */
    struct ext_device_options devices[EXT_DEVICES_MAX];
    unsigned device_count;
    uint64_t page_bytes, wbuf_bytes;
    unsigned wbuf_count;   /* buffers in all; 0: a default that fits buffer_bytes */
    uint64_t buffer_bytes; /* bound for wbufs and read buffers together */
    unsigned io_threads, io_depth;
    unsigned ring_count; /* rings that will be made: shares the memory for reads; 0: 4 */
    enum ext_engine engine;
    uint64_t write_limit_bytes_per_sec, write_limit_bytes_per_day; /* given to devices; 0: none */
    bool verify_writes; /* what was written is read back before the buffer is given up */
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
    _Atomic(uint32_t) rewrite_pct; /* of a page that is evicted: at most so much is written again */
    _Atomic(uint32_t) stay_pct;    /* a page of which so much was hit stays for another round; 0: none does */
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
    struct ext_read *next;
    uint64_t start_ns;
    uint32_t io_done, tries;
    uint32_t again; /* times that ext_read_again was granted */
    uint16_t slot; /* registered buffer slot, or none */
};

/* Opens, locks (fcntl) and sizes the devices, starts I/O threads. NULL, with one line in why[]
 * that says what is wrong and what would be right. With attached or saved, errno ESTALE: what the
 * arena or the checkpoint holds is not of these files and sizes; start with a fresh arena. */
struct extstore *ext_create(const struct ext_options *opt, struct ext_tunables *tun, char *why,
                            size_t why_bytes);
/* Stops I/O threads; with flush, all open wbufs are written first (waits for the device). */
void ext_destroy(struct extstore *e, bool flush);

/* Length classes: record bytes <-> 5 bits. ext_len_bytes is the upper end of the class. */
unsigned ext_len_class(uint64_t record_bytes);
uint64_t ext_len_bytes(unsigned len_class);
/* Bytes of a record on flash, rounded to granules. */
uint64_t ext_record_bytes(unsigned key_bytes, uint64_t value_bytes);
uint64_t ext_record_max_bytes(const struct extstore *e);

/* Appends a record to a bucket: reserves room in an open wbuf, copies and checksums outside any
 * lock of the engine, commits. At return the place is readable. Counts the object as live. Never
 * waits. Hold the LOCK_COLUMN of the hash from before the call until the place is in the index (or
 * dropped): the engine may move a record as soon as it is written, and then asks callbacks.moved
 * for it. 0; -EAGAIN: every wbuf is being written (try when ext_notify_writable says so); -ENOSPC:
 * no free page (reclaim must run first); -E2BIG; -EIO: no device takes writes. */
int ext_append(struct extstore *e, enum ext_bucket bucket, const struct ext_record_in *in,
               ext_place *place, unsigned *len_class);
/* The object at place is not referred to any more. Exactly once for each ext_append that gave 0. */
void ext_drop(struct extstore *e, ext_place place, unsigned len_class);

/* Has something to go before the next page can be opened, or nearly so? Any thread, cheap. */
bool ext_is_full(const struct extstore *e);
/* What the limits of writing leave of their burst (flash/pace.h): 256 all, 0 nothing; without limits 256.
 * Nothing is refused for it here but rewrites: who appends is asked to ask. Below LOW newcomers should be
 * left, below DIRE all but the best. Any thread, cheap. */
#define EXT_WRITE_LOW 128u
#define EXT_WRITE_DIRE 64u
unsigned ext_write_level(struct extstore *e);
/* Seconds that an open write buffer takes to be filled and written, as the last one did; at most 60. */
uint32_t ext_flush_sec(const struct extstore *e);

/* An object went that `dropped` or `sweep` had put off. */
void ext_count_dropped(struct extstore *e, enum ext_drop_why why, uint64_t record_bytes);

/* Where a place is: page number, and bytes from the page's start. Pure. */
unsigned ext_page_of(const struct extstore *e, ext_place place);
uint64_t ext_place_offset(const struct extstore *e, ext_place place);

/* A bound: every record appended so far has a lower seq, every later one has not. */
uint64_t ext_seq_now(const struct extstore *e);

/* Tells fd-less waiters: fn(arg) is called once, from an I/O thread, when an append that said
 * -EAGAIN or -ENOSPC may succeed, or at once (in the caller) if it already may. */
void ext_notify_writable(struct extstore *e, void (*fn)(void *arg), void *arg);
/* If fn(arg) still waits, calls it now, in the caller; else it was called, or is just now. */
void ext_cancel_notify(struct extstore *e, void (*fn)(void *arg), void *arg);

/* Rings: one per worker thread, created, used and destroyed by that thread. */
struct ext_ring *ext_ring_create(struct extstore *e);
/* Waits for reads in flight and runs their done(); buffers are gone then, so the caller has nothing
 * left to finish but pins (ext_unpin) of reads that it has not finished. */
void ext_ring_destroy(struct ext_ring *ring);
/* Readable when completions wait; for the event loop. The ring's, until it is destroyed. */
int ext_ring_fd(const struct ext_ring *ring);
/* Starts a read. The caller has pinned the place with ext_pin, always; the read takes that pin over
 * and ext_read_finish gives it back. If the range is still in memory and a read buffer is free,
 * copies the record and sets state DONE at once (done is not called); else state QUEUED and done is
 * called later. Holds no lock, or LOCK_COLUMN. */
void ext_read_start(struct ext_ring *ring, struct ext_read *r, ext_place place, unsigned len_class);
/* Pins the page of a live place so that it is not reused; with LOCK_COLUMN held (the lock that
 * keeps the place live). Given back by ext_unpin, or by the read that takes it over. */
void ext_pin(struct extstore *e, ext_place place);
void ext_unpin(struct extstore *e, ext_place place);
/* Hands everything queued since the last call to the kernel: once per event-loop turn. */
void ext_ring_submit(struct ext_ring *ring);
/* Runs done() of each completed read; returns how many. Call when the fd is readable. */
unsigned ext_ring_reap(struct ext_ring *ring);
/* The same for at most `max` of them, so that what they lead to goes out before the rest is looked at.
 * *more: there is a rest, of which the fd does not tell: to be called again before waiting for it. */
unsigned ext_ring_reap_some(struct ext_ring *ring, unsigned max, bool *more);
/* Reads queued or in flight. */
unsigned ext_ring_pending(const struct ext_ring *ring);
/* Verifies the bytes (checksum with place and version, lengths, key if key != NULL). 0 and *out
 * pointing into r's buffer; -EBADMSG wrong bytes; -ENOENT another key's record (intact); r->result
 * if that was an error. */
int ext_read_record(const struct ext_read *r, const char *key, unsigned key_bytes,
                    struct ext_record *out);
/* The record did not verify: a device or a bus may tell the truth the second time. True: the same
 * read is QUEUED again, pin and buffer kept, and done comes later. False: it was read
 * EXT_READ_AGAIN_MAX times more already, or its bytes never left memory. */
#define EXT_READ_AGAIN_MAX 2
bool ext_read_again(struct ext_read *r);
/* Gives buffer and page pin back. Call once for each started read, after DONE. */
void ext_read_finish(struct ext_read *r);
/* Gives the buffer of a DONE read back, and keeps its page pinned: ext_read_start() with the same place
 * brings the same bytes again, and takes the pin over. The bytes that this sets free: 0 if others share
 * the copy. */
uint64_t ext_read_put_away(struct ext_read *r);
/* Is it one of the large reads, which have a bound of their own? Of a DONE read. */
bool ext_read_is_large(const struct ext_read *r);
/* Reads wait for buffers, and all may be held by reads that are DONE. fn is asked to give some back, in the
 * ring's thread, from ext_ring_submit() and ext_ring_reap*(): true if it did. large: of large ones. */
void ext_ring_set_relief(struct ext_ring *ring, bool (*fn)(void *ctx, bool large), void *ctx);
/* There may be more to give back: if reads wait, the fd becomes readable, and fn is asked again. */
void ext_ring_nudge(struct ext_ring *ring);

/* Maintenance, called by the maintenance thread: one bounded step of what is most urgent: start or
 * go on with the rescue, eviction or expiry of one page (upkeep/reclaim.h says which). Reads for it
 * are done by I/O threads; no step waits for a device. Pages without objects need no step, they are
 * freed at once. An open wbuf is left open however old it is: closing it early would waste the rest
 * of its slot, and reads are served from it. Returns true iff there is more to do now; else call
 * again after some milliseconds, or when the hook of ext_set_maint_hook says so. */
bool ext_maint_step(struct extstore *e, uint32_t now_unix);
/* Objects stored at or before this unix time are dead (flush_all): pages wholly before it may be
 * freed. */
void ext_flush_all(struct extstore *e, uint32_t time_unix);
/* The index is full (-m): the oldest page has to go whatever flash has free. */
void ext_evict_oldest(struct extstore *e);
/* Writes out what open wbufs hold, waits up to timeout_ms. 0, -ETIMEDOUT, -EIO. */
int ext_sync(struct extstore *e, int64_t timeout_ms);

struct ext_info {
    /* memcached's names without the prefix extstore_ */
    uint64_t compact_lost, compact_rescues, compact_resc_cold, compact_resc_old, compact_skipped;
    uint64_t page_allocs, page_evictions, page_reclaims, pages_free, pages_used;
    uint64_t objects_evicted, objects_read, objects_written, objects_used;
    uint64_t bytes_evicted, bytes_written, bytes_read, bytes_used, bytes_fragmented;
    uint64_t limit_maxbytes, io_queue;
    /* ours */
    uint64_t pages_bad, read_errors, read_retries, read_short, write_errors, write_retries,
        write_moved, write_mismatches;
    uint64_t device_bytes_written, device_reads, buffer_hits, bad_checksums, pages_lost;
    uint64_t evicted_index_full, wbufs_free, wbufs_busy, buffer_bytes, page_table_bytes;
    uint64_t bytes_rewritten, pages_kept;
    uint64_t objects_expired, objects_unread_dropped, wbufs_stuck, pages_back;
    uint64_t reads_shared;      /* served from what was read for another request that still waits */
    uint64_t reads_put_away;    /* values that were given up for others, to be read again */
    uint64_t reads_waiting;     /* now, for a buffer */
    uint64_t read_copies_bytes; /* now, of large reads; small ones are in buffer_bytes */
    /* Some page is BAD, a device refuses writes or reads or brings wrong bytes, something waits to
     * be written for it, or no page can be opened. */
    bool degraded;
    char degraded_why[EXT_WHY_BYTES]; /* which of these, with file and error; "none" */
    bool direct;        /* every device goes past the page cache (O_DIRECT) */
    const char *engine; /* "io_uring" or "threads" */
};
void ext_info(struct extstore *e, struct ext_info *out);
struct ext_page_info {
    enum ext_page_state state;
    uint32_t version; /* of its present life: later lives of any page have higher ones */
    unsigned device;
    uint64_t bytes_used, objects;
    enum ext_bucket bucket, free_bucket;
};
/* One device: what it is, and what it was asked for. path is the engine's. */
struct ext_device_info {
    const char *path;
    uint64_t bytes, bytes_read, bytes_written;
    bool failed;
    struct histogram_sum reads, writes; /* latency */
};
unsigned ext_device_count(const struct extstore *e);
void ext_device_info(struct extstore *e, unsigned device, struct ext_device_info *out);
unsigned ext_page_count(const struct extstore *e);
void ext_page_info(struct extstore *e, unsigned page, struct ext_page_info *out);
/* 0 if every page and every write buffer is in exactly one place; else how many are not. */
uint64_t ext_reconcile(struct extstore *e);
/* Calls fn for each event of reclaim that `watch sysevents` shows, with memcached's fields already
 * formatted ("type=compact_start id=3 version=7"). Set once before threads start. */
void ext_set_event_hook(struct extstore *e, void (*fn)(void *ctx, const char *line), void *ctx);
/* Calls fn (from an I/O thread or an appending one, any lock may be held: it must only wake the
 * maintenance thread) when ext_maint_step has work again before its usual time. Set once. */
void ext_set_maint_hook(struct extstore *e, void (*fn)(void *ctx), void *ctx);

/* Restart: after ext_create with attached, call ext_attach_object for each flash object that the
 * index holds, then ext_attach_done, before any other call. Counts are made anew from that, so what
 * was half-done when the former process was killed is put right. False: no record can be there (the
 * page is free or the place out of range): forget the object. */
bool ext_attach_object(struct extstore *e, ext_place place, unsigned len_class);
void ext_attach_done(struct extstore *e);

/* Puts a new stamp on every device (flash/mark.h): what others know of their content is outdated
 * from now on. A fresh engine and one that goes on with attached memory need no call; one from a
 * checkpoint or a scan does, before anything is written to flash. 0, or -errno with why[]: start
 * nothing. Waits for the devices. */
int ext_begin_life(struct extstore *e, char *why, size_t why_bytes);

/* Checkpoint. Ends all that goes on inside: writes what open wbufs hold and waits up to timeout_ms
 * for it, ends the I/O threads, and has the devices make all that was written durable. The caller's
 * rings and maintenance are gone. Only ext_save(), ext_objects() and ext_destroy() may follow. 0;
 * -EIO: some records could not be written and are in memory only; or a device's sync error. */
int ext_quiesce(struct extstore *e, int64_t timeout_ms);
/* Puts the page table, exact counts included, and the numbers that go on. After a quiesce that gave
 * 0. 0 or checkpoint_put's error. */
int ext_save(struct extstore *e, struct checkpoint_writer *w);
uint64_t ext_objects(const struct extstore *e); /* sum over all pages */
uint32_t ext_version_now(const struct extstore *e); /* the highest given to a page */

/* Scan (upkeep/scan.c): between ext_create with scan and ext_attach_done. */
struct ext_scanned {
    uint64_t hash; /* as it was appended */
    ext_place place;
    unsigned len_class;
    const char *key; /* valid until the next call */
    uint8_t key_bytes;
    uint64_t cas, seq;
    uint32_t exptime_unix, time_unix;
};
/* Reads a page's tables and the headers of its records, in the order of appending, and calls visit
 * for each record that is sound: checksum, or of a long one the header alone. visit calls
 * ext_attach_object for those that are to be kept. What can't be read is passed over, and counted.
 * 0 or -ENOMEM. Waits for the device. */
int ext_scan_page(struct extstore *e, unsigned page,
                  void (*visit)(void *ctx, const struct ext_scanned *rec), void *ctx);
/* The one at a place that visit was given; its hash and len_class are not filled in. 0; -EBADMSG,
 * -EIO .. */
int ext_scan_record(struct extstore *e, ext_place place, struct ext_scanned *out);

#endif
