/* ext_device.h: one file (or block device) that holds pages, and nothing about what is in them.
 *
 * A device is all pages: no header, no trailer. It is opened without truncation, locked against a
 * second process, created and sized if it is missing, and read and written past the kernel's page
 * cache (O_DIRECT) where the file system allows it.
 *
 * Health: a device counts write failures in a row. At EXT_DEVICE_FAILED_AFTER it is `failed`: no
 * page of it is opened until a write to it succeeds again. Reads are always tried.
 *
 * Threads: open and close by one thread; everything else by any. No locks. The transfer functions
 * wait for the device, so their callers hold no lock.
 */
#ifndef EXTANT_EXT_DEVICE_H
#define EXTANT_EXT_DEVICE_H

#include <sys/types.h>

#include "ext_record.h"
#include "extents.h"
#include "extstore.h"

/* Transfers of flush and reclaim: at most, and multiples of. */
#define EXT_IO_CHUNK_BYTES ((uint64_t)256 * KiB)
#define EXT_IO_ALIGN_BYTES EXT_SLOT_BLOCK_BYTES
#define EXT_DEVICE_FAILED_AFTER 3u

/* The system calls below the engine; a test puts its own here to inject faults. Both return bytes
 * (0: end of file or device) or -errno, like the calls they stand for. Any thread, may sleep.
 * stepped: the engine starts no threads; its jobs run when the test calls io_pool_step(). */
struct ext_device_ops {
    void *ctx;
    ssize_t (*pread)(void *ctx, int fd, void *buf, size_t bytes, off_t offset);
    ssize_t (*pwrite)(void *ctx, int fd, const void *buf, size_t bytes, off_t offset);
    bool stepped;
};

struct ext_device {
    /* const after open */
    int fd;
    char *path;
    uint64_t bytes; /* what is used: pages * page_bytes */
    uint32_t page_count;
    uint32_t read_align; /* offsets, lengths and memory of reads are multiples of this */
    bool direct;         /* O_DIRECT */
    enum ext_bucket free_bucket;
    uint64_t dev, ino; /* identity, to refuse the same file twice */
    const struct ext_device_ops *ops;
    struct extents *free; /* FREE pages; unit: a page's number on this device */
    /* atomic */
    _Atomic(uint32_t) write_failures; /* in a row */
    _Atomic(uint32_t) read_failures;  /* in a row */
    _Atomic(bool) failed;
};

struct ext_io_counts { /* what a transfer met; the caller adds them to its counters */
    uint64_t bytes, retries, short_transfers;
};

/* What makes a file itself, whatever it is called. False: there is no such file (yet). */
bool ext_device_identity(const char *path, uint64_t *dev, uint64_t *ino);

/* Opens, locks and sizes. 0, or -errno with one line in why[] that says what is wrong and what
 * would be right: -EBUSY locked by another process, -EACCES, -EROFS, -ENOSPC, -EINVAL too small. */
int ext_device_open(struct ext_device *d, const struct ext_device_options *opt, uint64_t page_bytes,
                    const struct ext_device_ops *ops, char *why, size_t why_bytes);
void ext_device_close(struct ext_device *d);

/* Reads or writes all of [offset, offset + bytes), in chunks of at most EXT_IO_CHUNK_BYTES: short
 * transfers are continued, EINTR repeated. 0 or -errno (-ENODATA: end of file). Waits. */
int ext_device_read(struct ext_device *d, void *buf, uint64_t bytes, uint64_t offset,
                    struct ext_io_counts *counts);
int ext_device_write(struct ext_device *d, const void *buf, uint64_t bytes, uint64_t offset,
                     struct ext_io_counts *counts);

/* Book-keeping of health after a whole transfer. */
void ext_device_read_result(struct ext_device *d, bool ok);
static inline bool ext_device_failed(const struct ext_device *d)
{
    return atomic_load_explicit(&d->failed, memory_order_relaxed);
}
/* True while the last reads all failed, or the device is failed for writing. */
bool ext_device_degraded(const struct ext_device *d);

#endif
