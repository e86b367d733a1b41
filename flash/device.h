/* flash/device.h: one file (or block device) that holds pages, and nothing about their content.
 *
 * A device is all pages: no header and no trailer, except the mark at the start of its first page
 * (flash/mark.h). It is opened without truncation, locked against a second process, refused if it
 * holds foreign data, created and sized if it is missing, and read and written past the
 * kernel's page cache (O_DIRECT) where the file system allows it.
 *
 * Health: a device counts, each in a row, pages that failed to be written, reads that failed, and records
 * that did not verify. At EXT_DEVICE_FAILED_AFTER pages it is `failed`: no page of it is opened
 * until a write to it succeeds again. Reads are always tried. upkeep/probe.h finds out when it
 * recovers. This file also reports faults to the operator: a line for each kind of fault, and a few
 * words for `stats`.
 *
 * Threads: open and close by one thread; everything else by any. No locks. The transfer functions
 * wait for the device, and ext_device_say for the log, so their callers hold no lock.
 */
#ifndef EXTANT_EXT_DEVICE_H
#define EXTANT_EXT_DEVICE_H

#include <sys/types.h>

#include "flash/record.h"
#include "flash/types.h"
#include "space/extents.h"
#include "base/histogram.h"
#include "base/log.h"

/* Transfers of flush and reclaim: at most, and multiples of. */
#define EXT_IO_CHUNK_BYTES ((uint64_t)512 * KiB)
#define EXT_IO_ALIGN_BYTES EXT_SLOT_BLOCK_BYTES
#define EXT_DEVICE_FAILED_AFTER 3u   /* pages */
#define EXT_DEVICE_READS_FAIL_AT 8u  /* reads */
#define EXT_DEVICE_WRONG_BYTES_AT 8u /* records */
#define EXT_DEVICE_WRONG_BYTES_NS UINT64_C(5000000000) /* forgotten this long after the last bad record */
#define EXT_DEVICE_STALLS_NS UINT64_C(5000000000) /* it stalls when it has answered nothing for this long */
#define EXT_FAULT_LINE_NS UINT64_C(10000000000) /* at most one line of each kind in this time */

/* Faults and recoveries of a device, each with its line in the log.
 *    kind        level      its words */
#define EXT_FAULT_TABLE(X)                                                                         \
    X(READ, LOG_LEVEL_WARNING, "read error")                                                       \
    X(SHORT_READ, LOG_LEVEL_WARNING, "short read")                                                 \
    X(CHECKSUM, LOG_LEVEL_WARNING, "bad checksum")                                                 \
    X(WRITE, LOG_LEVEL_WARNING, "write error")                                                     \
    X(MISMATCH, LOG_LEVEL_WARNING, "bytes on flash are not those that were written")               \
    X(PAGE_BAD, LOG_LEVEL_WARNING, "page given up")                                                \
    X(STALLS, LOG_LEVEL_WARNING, "device stalls")                                                  \
    X(FAILED, LOG_LEVEL_ERROR, "device failed")                                                    \
    X(BACK, LOG_LEVEL_NOTICE, "device is back")                                                    \
    X(PAGE_TRIED, LOG_LEVEL_NOTICE, "page tried again")
enum ext_fault {
#define X(name, level, text) EXT_FAULT_##name,
    EXT_FAULT_TABLE(X)
#undef X
        EXT_FAULT_COUNT
};

/* The system calls below the engine; a test puts its own here to inject faults. Both return bytes
 * (0: end of file or device) or -errno, like the calls they stand for. Any thread, may sleep.
 * stepped: the engine starts no threads; its jobs run when the test calls io_pool_step(). */
struct ext_device_ops {
    void *ctx;
    ssize_t (*pread)(void *ctx, int fd, void *buf, size_t bytes, off_t offset);
    ssize_t (*pwrite)(void *ctx, int fd, const void *buf, size_t bytes, off_t offset);
    bool stepped;
};

/* A device's load in one direction: successful transfers, each from the call or the submission to
 * the kernel until all its bytes are there. */
struct ext_device_load {
    struct histogram latency;
    _Atomic(uint64_t) bytes;
};

struct ext_device {
    /* const after open */
    int fd;
    char *path;
    uint64_t bytes; /* bytes in use: pages * page_bytes */
    uint32_t page_count;
    uint32_t read_align; /* offsets, lengths and memory of reads are multiples of this */
    bool direct;         /* O_DIRECT */
    enum ext_bucket free_bucket;
    uint64_t dev, ino; /* identity, to refuse the same file twice */
    _Atomic(uint64_t) stamp;      /* of its mark; 0: it has none. Only upkeep/stamps.h changes these two */
    _Atomic(uint64_t) next_stamp; /* chosen, not yet written; with `failed` it is due; 0: there is none */
    const struct ext_device_ops *ops;
    struct extents *free; /* FREE pages; unit: a page's number on this device */
    /* atomic */
    _Atomic(uint32_t) write_failures; /* in a row: pages */
    _Atomic(uint32_t) read_failures;  /* in a row: reads after their retries */
    _Atomic(uint32_t) wrong_bytes;    /* in a row: records */
    _Atomic(uint64_t) wrong_bytes_ns; /* when the last of these was */
    _Atomic(int) write_error, read_error; /* -errno of the last that failed */
    _Atomic(bool) failed;
    _Atomic(uint32_t) transfers;     /* of I/O threads: under way */
    _Atomic(uint64_t) answer_ns;     /* when the last of these ended, or the first began */
    bool said_stalls;                /* the maintenance thread's: the log says so */
    struct ext_device_load reads, writes; /* of I/O threads, and of rings that are gone */
    struct ext_said {
        _Atomic(uint64_t) at_ns;    /* of the last line; 0: none so far */
        _Atomic(uint32_t) left_out; /* since then */
        struct log_site site;
    } said[EXT_FAULT_COUNT];
};

struct ext_io_counts { /* events of a transfer; the caller adds them to its counters */
    uint64_t bytes, short_transfers;
};

/* The identity of a file, under any name. False: there is no such file (yet). */
bool ext_device_identity(const char *path, uint64_t *dev, uint64_t *ino);

/* Opens, locks and sizes. 0, or -errno with one line in why[] that says what is wrong and how to
 * mend it: -EBUSY locked or claimed by another process, -EEXIST it holds foreign
 * data, -EACCES, -EROFS, -ENOSPC, -EINVAL too small. */
int ext_device_open(struct ext_device *d, const struct ext_device_options *opt, uint64_t page_bytes,
                    const struct ext_device_ops *ops, char *why, size_t why_bytes);
void ext_device_close(struct ext_device *d);

/* Reads or writes all of [offset, offset + bytes), in chunks of at most EXT_IO_CHUNK_BYTES: short
 * transfers are continued, EINTR repeated. 0 or -errno (-ENODATA: end of file). Waits. */
int ext_device_read(struct ext_device *d, void *buf, uint64_t bytes, uint64_t offset,
                    struct ext_io_counts *counts);
int ext_device_write(struct ext_device *d, const void *buf, uint64_t bytes, uint64_t offset,
                     struct ext_io_counts *counts);

/* Health accounts: after a read with all its retries (rc: 0 or -errno), after a record was
 * verified, after a page could not be written. All but the second may log. */
void ext_device_read_result(struct ext_device *d, int rc);
void ext_device_bytes_result(struct ext_device *d, bool ok);
void ext_device_page_failed(struct ext_device *d, int rc);
/* At a start its mark can't be written: it is failed from now on. Logs. */
void ext_device_put_off(struct ext_device *d, int rc);
/* A write succeeded. True iff the device was failed. */
bool ext_device_write_ok(struct ext_device *d);

static inline bool ext_device_failed(const struct ext_device *d)
{
    return atomic_load_explicit(&d->failed, memory_order_relaxed);
}
static inline bool ext_device_reads_fail(const struct ext_device *d)
{
    return atomic_load_explicit(&d->read_failures, memory_order_relaxed) >=
           EXT_DEVICE_READS_FAIL_AT;
}
/* Appends the device's faults to the text (why_add, "; " between them). */
void ext_device_why(const struct ext_device *d, char *text, size_t room);

/* A line in the log, unless one of this kind was just written (then the next one counts it):
 * file, kind, offset, the text of error rc (-errno; 0: none), the reaction. */
void ext_device_say(struct ext_device *d, enum ext_fault kind, uint64_t offset, int rc,
                    const char *done);

#endif
