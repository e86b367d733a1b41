/* flash/device.c: see flash/device.h. */
#include "flash/device.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <linux/stat.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/lock.h"
#include "base/why.h"
#include "flash/mark.h"

static ssize_t system_pread(void *ctx, int fd, void *buf, size_t bytes, off_t offset)
{
    (void)ctx;
    ssize_t n = pread(fd, buf, bytes, offset);
    return n < 0 ? -errno : n;
}

static ssize_t system_pwrite(void *ctx, int fd, const void *buf, size_t bytes, off_t offset)
{
    (void)ctx;
    ssize_t n = pwrite(fd, buf, bytes, offset);
    return n < 0 ? -errno : n;
}

static const struct ext_device_ops system_ops = {.pread = system_pread, .pwrite = system_pwrite};

#define CLAIM_TRIES 400u
#define CLAIM_PAUSE_NS 5000000L

static bool is_block_device(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISBLK(st.st_mode);
}

/* Below /dev a name that is not there is a device that is missing: a file made there, or where a link points that leads there,
 * would be memory. */
static bool is_missing_device(const char *path)
{
    struct stat st;
    char target[PATH_MAX];
    if (stat(path, &st) == 0 || errno != ENOENT)
        return false;
    ssize_t n = readlink(path, target, sizeof(target) - 1);
    target[n > 0 ? n : 0] = '\0';
    const char *name = n > 0 ? target : path;
    return strncmp(name, "/dev/", 5) == 0 && strncmp(name, "/dev/shm/", 9) != 0;
}

/* A block device is claimed for this process alone (O_EXCL): the kernel refuses one that is mounted,
 * or in use by RAID, LVM, swap or another process, by whatever node. One that a killed process had
 * open is free some milliseconds later (see lock_file), so it is tried for 2 s. Anything else is
 * made if it is not there. A descriptor, or -errno. */
static int open_claimed(const char *path)
{
    const struct timespec pause = {.tv_nsec = CLAIM_PAUSE_NS};
    if (is_missing_device(path))
        return -ENODEV;
    for (unsigned tries = 0;;) {
        int flags = is_block_device(path) ? O_EXCL : O_CREAT;
        int fd = open(path, O_RDWR | O_CLOEXEC | flags, 0600);
        if (fd >= 0 || (errno != EINTR && (errno != EBUSY || ++tries == CLAIM_TRIES)))
            return fd < 0 ? -errno : fd;
        if (errno == EBUSY)
            nanosleep(&pause, NULL);
    }
}

/* One process at a time; taken before anything is changed. It is a lock of the process, not of the open
 * file: an io_uring of a killed process keeps its files open for some milliseconds after the
 * process is gone, and a restart must not be refused for that. In return, no other code in
 * this process may open and close the file. */
static int lock_file(int fd)
{
    struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_SETLK, &fl) == 0)
        return 0;
    return errno == EACCES || errno == EAGAIN ? -EBUSY : -errno;
}

/* Makes sure that the file has `bytes` bytes with room behind them. */
static int size_file(int fd, const struct stat *st, uint64_t bytes)
{
    if (S_ISBLK(st->st_mode)) {
        uint64_t have = 0;
        if (ioctl(fd, BLKGETSIZE64, &have) != 0)
            return -errno;
        return have < bytes ? -ENOSPC : 0;
    }
    /* Checked first: fallocate would take all free space before it fails. A tmpfs
     * without a limit reports no blocks at all. */
    struct statvfs fs;
    uint64_t have = (uint64_t)st->st_blocks * 512;
    /* Skip a needless fallocate: it would change the file's time, by which a
     * checkpoint detects writes. */
    if ((uint64_t)st->st_size >= bytes && have >= bytes)
        return 0;
    if (fstatvfs(fd, &fs) == 0 && fs.f_blocks > 0 && bytes > have &&
        bytes - have > (uint64_t)fs.f_bavail * fs.f_frsize)
        return -ENOSPC;
    int rc;
    do {
        rc = fallocate(fd, 0, 0, (off_t)bytes);
    } while (rc != 0 && errno == EINTR);
    if (rc == 0)
        return 0;
    if (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL)
        return -errno;
    if ((uint64_t)st->st_size >= bytes)
        return 0;
    return ftruncate(fd, (off_t)bytes) == 0 ? 0 : -errno;
}

/* The alignment that reads need with O_DIRECT, and whether they work at all: some file systems
 * take the flag and refuse the read. */
static bool direct_works(int fd, uint32_t *align)
{
    struct statx sx;
    *align = EXT_IO_ALIGN_BYTES;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) == 0 && (sx.stx_mask & STATX_DIOALIGN)) {
        uint32_t want = sx.stx_dio_mem_align > sx.stx_dio_offset_align ? sx.stx_dio_mem_align
                                                                       : sx.stx_dio_offset_align;
        if (want == 0 || want > EXT_IO_ALIGN_BYTES)
            return false;
        *align = want < 512 ? 512 : want;
    }
    void *block = aligned_alloc(EXT_IO_ALIGN_BYTES, EXT_IO_ALIGN_BYTES);
    if (block == NULL)
        return false;
    ssize_t n = pread(fd, block, *align, 0);
    free(block);
    return n == (ssize_t)*align;
}

static void identity_of(const struct stat *st, uint64_t *dev, uint64_t *ino)
{
    bool block = S_ISBLK(st->st_mode);
    *dev = block ? (uint64_t)st->st_rdev : (uint64_t)st->st_dev;
    *ino = block ? 0 : (uint64_t)st->st_ino;
}

bool ext_device_identity(const char *path, uint64_t *dev, uint64_t *ino)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return false;
    identity_of(&st, dev, ino);
    return true;
}

static int say(char *why, size_t why_bytes, int rc, const char *path, const char *what)
{
    return why_say(why, why_bytes, rc, "%s: %s (%s)", path, what, strerror(-rc));
}

/* In memcached's words, and then why. */
static int say_not_open(char *why, size_t why_bytes, int rc, const char *path, const char *what)
{
    return why_say(why, why_bytes, rc, "failed to open file: %s: %s (%s)", path, what, strerror(-rc));
}

static int open_and_lock(struct ext_device *d, struct stat *st, char *why, size_t n)
{
    d->fd = open_claimed(d->path);
    if (d->fd == -EBUSY)
        return say_not_open(why, n, d->fd, d->path, "is mounted, or in use by another process");
    if (d->fd == -EROFS || d->fd == -EACCES || d->fd == -EPERM)
        return say_not_open(why, n, d->fd, d->path, "can't be opened for writing");
    if (d->fd < 0) {
        snprintf(why, n, "failed to open file: %s: %s", d->path, strerror(-d->fd));
        return d->fd;
    }
    if (fstat(d->fd, st) != 0)
        return say(why, n, -errno, d->path, "can't be examined");
    if (!S_ISREG(st->st_mode) && !S_ISBLK(st->st_mode)) {
        snprintf(why, n, "%s is neither a file nor a block device", d->path);
        return -EINVAL;
    }
    int rc = lock_file(d->fd);
    if (rc == -EBUSY)
        return say_not_open(why, n, rc, d->path, "is in use by another process");
    if (rc != 0)
        return say(why, n, rc, d->path, "can't be locked");
    return 0;
}

#define OLD_SLOTS_MAX 64u /* slots' ends, at multiples of a megabyte, where trailers may stand */
static_assert(EXT_MARK_BYTES == EXT_SLOT_BLOCK_BYTES, "a mark is a block of its slot");

/* Builds that wrote no mark left pages too: is there a slot's trailer where one may be? */
static bool has_pages(int fd)
{
    for (unsigned i = 1; i <= OLD_SLOTS_MAX; i++) {
        struct ext_trailer t;
        if (pread(fd, &t, sizeof(t), (off_t)(i * MiB - sizeof(t))) == (ssize_t)sizeof(t) &&
            t.magic == EXT_TRAILER_MAGIC && t.version != 0 && t.reserved == 0)
            return true;
    }
    return false;
}

/* Refuses to overwrite foreign data, unless ext_format allows it. */
static int check_content(struct ext_device *d, bool format, char *why, size_t n)
{
    struct ext_mark_found found;
    int rc = ext_mark_look(d->fd, &found);
    if (rc != 0)
        return say(why, n, rc, d->path, "can't be examined");
    d->stamp = found.stamp;
    if (found.what[0] == '\0' || has_pages(d->fd))
        return 0;
    if (!format)
        return why_say(why, n, -EEXIST,
                       "%s holds %s; -o ext_format=%s overwrites it, and all that is on it is lost", d->path,
                       found.what, d->path);
    if ((rc = ext_mark_wipe(d->fd)) != 0)
        return say(why, n, rc, d->path, "can't be written");
    log_notice("flash %s: held %s, which is gone now, since ext_format names it", d->path,
               found.what);
    return 0;
}

/* Turns O_DIRECT on for the open and locked file, if it works there. */
static void try_direct(struct ext_device *d)
{
    d->direct = false;
    d->read_align = EXT_GRANULE_BYTES;
    int flags = fcntl(d->fd, F_GETFL);
    if (flags < 0 || fcntl(d->fd, F_SETFL, flags | O_DIRECT) != 0)
        return;
    uint32_t align;
    if (direct_works(d->fd, &align)) {
        d->direct = true;
        d->read_align = align;
    } else if (fcntl(d->fd, F_SETFL, flags) != 0) {
        d->read_align = EXT_IO_ALIGN_BYTES; /* stays direct; be as careful as can be */
    }
}

int ext_device_open(struct ext_device *d, const struct ext_device_options *opt, uint64_t page_bytes,
                    const struct ext_device_ops *ops, char *why, size_t why_bytes)
{
    ASSERT(page_bytes > 0 && page_bytes % EXT_IO_ALIGN_BYTES == 0 && opt->free_bucket < EXT_BUCKET_COUNT);
    memset(d, 0, sizeof(*d));
    d->fd = -1;
    d->free_bucket = opt->free_bucket;
    d->ops = ops != NULL ? ops : &system_ops;
    if (opt->bytes / page_bytes == 0 || opt->bytes / page_bytes > UINT32_MAX / 2)
        return why_say(why, why_bytes, -EINVAL, "%s: %" PRIu64 " bytes hold no page of %" PRIu64 " bytes", opt->path,
                       opt->bytes, page_bytes);
    d->page_count = (uint32_t)(opt->bytes / page_bytes);
    d->bytes = d->page_count * page_bytes;
    d->path = strdup(opt->path);
    if (d->path == NULL)
        return say(why, why_bytes, -ENOMEM, opt->path, "no memory");

    struct stat st;
    int rc = open_and_lock(d, &st, why, why_bytes);
    if (rc == 0)
        rc = check_content(d, opt->format, why, why_bytes);
    if (rc != 0)
        goto fail;
    rc = size_file(d->fd, &st, d->bytes);
    if (rc == -ENOSPC || rc == -EFBIG) {
        snprintf(why, why_bytes, "%s: no room for %" PRIu64 " bytes (%s)", d->path, d->bytes,
                 strerror(-rc));
        goto fail;
    }
    if (rc != 0) {
        say(why, why_bytes, rc, d->path, "can't be sized");
        goto fail;
    }
    identity_of(&st, &d->dev, &d->ino);
    try_direct(d);

    struct extents_options eo = {.unit_count = d->page_count, .all_used = true};
    rc = extents_create(&eo, &d->free);
    if (rc != 0) {
        say(why, why_bytes, rc, d->path, "no memory for the free set");
        goto fail;
    }
    return 0;
fail:
    ext_device_close(d);
    return rc;
}

void ext_device_close(struct ext_device *d)
{
    if (d->fd >= 0)
        close(d->fd);
    d->fd = -1;
    extents_destroy(d->free);
    d->free = NULL;
    free(d->path);
    d->path = NULL;
}

/* One transfer helper for both directions; exactly one of in and out is set. Progress is kept to
 * whole blocks, since direct I/O can't go on in the middle of one. */
static int transfer(struct ext_device *d, char *in, const char *out, uint64_t bytes,
                    uint64_t offset, struct ext_io_counts *counts)
{
    ASSERT(bytes % EXT_IO_ALIGN_BYTES == 0 && offset % EXT_IO_ALIGN_BYTES == 0);
    ASSERT(offset + bytes <= d->bytes && (in != NULL) != (out != NULL));
    lock_assert_none_held();
    uint64_t done = 0;
    unsigned stuck = 0;
    while (done < bytes) {
        size_t want = (size_t)min_u64(bytes - done, EXT_IO_CHUNK_BYTES);
        off_t at = (off_t)(offset + done);
        uint64_t start_ns = clock_mono_ns();
        if (atomic_load(&d->transfers) == 0)
            atomic_store(&d->answer_ns, start_ns); /* before it is counted, else an old time would look like a stall */
        atomic_fetch_add(&d->transfers, 1);
        ssize_t n = in != NULL ? d->ops->pread(d->ops->ctx, d->fd, in + done, want, at)
                               : d->ops->pwrite(d->ops->ctx, d->fd, out + done, want, at);
        atomic_store(&d->answer_ns, clock_mono_ns());
        atomic_fetch_sub(&d->transfers, 1);
        if (n == -EINTR && ++stuck < 1000)
            continue;
        if (n < 0)
            return (int)n;
        if ((size_t)n > want)
            return -EIO;
        if ((size_t)n < want) {
            counts->short_transfers++;
            n = (ssize_t)round_down((uint64_t)n, EXT_IO_ALIGN_BYTES);
            /* Repeated transfers of less than a block mean the end of the file, or a full file system. */
            if (n == 0 && ++stuck >= 8)
                return in != NULL ? -ENODATA : -ENOSPC;
        }
        if (n > 0) {
            struct ext_device_load *load = in != NULL ? &d->reads : &d->writes;
            histogram_add_shared(&load->latency, clock_mono_ns() - start_ns);
            atomic_fetch_add_explicit(&load->bytes, (uint64_t)n, memory_order_relaxed);
            stuck = 0;
        }
        done += (uint64_t)n;
        counts->bytes += (uint64_t)n;
        ASSERT(done <= bytes);
    }
    return 0;
}

int ext_device_read(struct ext_device *d, void *buf, uint64_t bytes, uint64_t offset,
                    struct ext_io_counts *counts)
{
    return transfer(d, buf, NULL, bytes, offset, counts);
}

int ext_device_write(struct ext_device *d, const void *buf, uint64_t bytes, uint64_t offset,
                     struct ext_io_counts *counts)
{
    return transfer(d, NULL, buf, bytes, offset, counts);
}

/* ---- health ---- */

void ext_device_read_result(struct ext_device *d, int rc)
{
    ASSERT(rc <= 0);
    if (rc != 0) {
        atomic_store_explicit(&d->read_error, rc, memory_order_relaxed);
        if (atomic_fetch_add(&d->read_failures, 1) + 1 == EXT_DEVICE_READS_FAIL_AT)
            ext_device_say(d, EXT_FAULT_FAILED, 0, rc,
                           "reads fail; they are still tried, and one each second besides");
    } else if (atomic_load_explicit(&d->read_failures, memory_order_relaxed) != 0 &&
               atomic_exchange(&d->read_failures, 0) >= EXT_DEVICE_READS_FAIL_AT) {
        ext_device_say(d, EXT_FAULT_BACK, 0, 0, "it is read again");
    }
}

void ext_device_bytes_result(struct ext_device *d, bool ok)
{
    if (!ok) {
        atomic_fetch_add_explicit(&d->wrong_bytes, 1, memory_order_relaxed);
        atomic_store_explicit(&d->wrong_bytes_ns, clock_mono_ns(), memory_order_relaxed);
    } else if (atomic_load_explicit(&d->wrong_bytes, memory_order_relaxed) != 0) {
        atomic_store_explicit(&d->wrong_bytes, 0, memory_order_relaxed);
    }
}

void ext_device_page_failed(struct ext_device *d, int rc)
{
    ASSERT(rc < 0);
    atomic_store_explicit(&d->write_error, rc, memory_order_relaxed);
    if (atomic_fetch_add(&d->write_failures, 1) + 1 >= EXT_DEVICE_FAILED_AFTER &&
        !atomic_exchange(&d->failed, true))
        ext_device_say(d, EXT_FAULT_FAILED, 0, rc,
                       "writes fail; unwritten records are kept in memory, new objects go "
                       "elsewhere, and the device is tried again until it is back");
}

void ext_device_put_off(struct ext_device *d, int rc)
{
    ASSERT(rc < 0 && atomic_load(&d->next_stamp) != 0);
    atomic_store_explicit(&d->write_error, rc, memory_order_relaxed);
    atomic_store_explicit(&d->write_failures, EXT_DEVICE_FAILED_AFTER, memory_order_relaxed);
    atomic_store(&d->failed, true);
    ext_device_say(d, EXT_FAULT_FAILED, 0, rc,
                   "its mark can't be written, so nothing else is; that is tried again until it is back");
}

bool ext_device_write_ok(struct ext_device *d)
{
    if (atomic_load_explicit(&d->write_failures, memory_order_relaxed) != 0)
        atomic_store_explicit(&d->write_failures, 0, memory_order_relaxed);
    if (!ext_device_failed(d) || !atomic_exchange(&d->failed, false))
        return false;
    ext_device_say(d, EXT_FAULT_BACK, 0, 0, "it is written again");
    return true;
}

static bool has_wrong_bytes(const struct ext_device *d)
{
    uint64_t last = atomic_load_explicit(&d->wrong_bytes_ns, memory_order_relaxed);
    return atomic_load_explicit(&d->wrong_bytes, memory_order_relaxed) >=
               EXT_DEVICE_WRONG_BYTES_AT &&
           clock_mono_ns() < last + EXT_DEVICE_WRONG_BYTES_NS;
}

void ext_device_why(const struct ext_device *d, char *text, size_t room)
{
    if (ext_device_failed(d))
        why_add(text, room, "; ", "%s: writes fail (%s)", d->path,
                strerror(-atomic_load_explicit(&d->write_error, memory_order_relaxed)));
    if (ext_device_reads_fail(d))
        why_add(text, room, "; ", "%s: reads fail (%s)", d->path,
                strerror(-atomic_load_explicit(&d->read_error, memory_order_relaxed)));
    if (has_wrong_bytes(d))
        why_add(text, room, "; ", "%s: reads bring wrong bytes", d->path);
}

/* ---- the log ---- */

static bool may_say(struct ext_said *s, uint32_t *left_out)
{
    uint64_t now = clock_mono_ns(), last = atomic_load(&s->at_ns);
    if ((last != 0 && now - last < EXT_FAULT_LINE_NS) ||
        !atomic_compare_exchange_strong(&s->at_ns, &last, now)) {
        atomic_fetch_add(&s->left_out, 1);
        return false;
    }
    *left_out = atomic_exchange(&s->left_out, 0);
    return true;
}

void ext_device_say(struct ext_device *d, enum ext_fault kind, uint64_t offset, int rc,
                    const char *done)
{
    static const struct {
        enum log_level level;
        const char *text;
    } kinds[] = {
#define X(name, level, text) {level, text},
        EXT_FAULT_TABLE(X)
#undef X
    };
    uint32_t left_out;
    ASSERT(kind < EXT_FAULT_COUNT);
    if (!log_is_on(kinds[kind].level) || !may_say(&d->said[kind], &left_out))
        return;
    char at[64] = "", error[96] = "", more[64] = "";
    if (kind != EXT_FAULT_FAILED && kind != EXT_FAULT_BACK && kind != EXT_FAULT_STALLS)
        snprintf(at, sizeof(at), " at offset %" PRIu64, offset);
    if (rc != 0)
        snprintf(error, sizeof(error), " (%s)", strerror(-rc));
    if (left_out > 0)
        snprintf(more, sizeof(more), " (%" PRIu32 " more like this since the last line)", left_out);
    log_line(&d->said[kind].site, kinds[kind].level, "flash %s: %s%s%s: %s%s", d->path,
             kinds[kind].text, at, error, done, more);
}
