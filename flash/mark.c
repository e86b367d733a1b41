/* flash/mark.c: see flash/mark.h. The mark comes first, then signatures of foreign data. */
#include "flash/mark.h"

#include <blkid/blkid.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/crc.h"
#include "base/file.h"

#define LOOK_BYTES (1 * MiB) /* of a file: if all are zero, it counts as empty */
#define WIPES_MAX 64u        /* signatures on one device */

struct mark {
    char magic[8];
    uint32_t crc; /* over all that follows */
    uint32_t format;
    uint64_t stamp;
    char text[128]; /* for people */
    char zeroes[EXT_MARK_BYTES - 152];
};
static_assert(sizeof(struct mark) == EXT_MARK_BYTES, "mark layout");
static_assert(offsetof(struct mark, crc) == 8, "mark layout");
static_assert(offsetof(struct mark, stamp) == 16, "mark layout");
static_assert(offsetof(struct mark, text) == 24, "mark layout");

static const char magic[8] = "ExtFlash";
static const char text[] = "\nFlash of an Extant cache: pages of records, of no use to others.\n";
static_assert(sizeof(text) <= sizeof(((struct mark *)0)->text), "the text fits");

static uint32_t mark_crc(const struct mark *m)
{
    size_t skip = offsetof(struct mark, format);
    return crc32c(0, (const char *)m + skip, sizeof(*m) - skip);
}

void ext_mark_fill(char block[EXT_MARK_BYTES], uint64_t stamp)
{
    ASSERT(stamp != 0);
    struct mark m = {.format = EXT_MARK_FORMAT, .stamp = stamp};
    memcpy(m.magic, magic, sizeof(magic));
    memcpy(m.text, text, sizeof(text));
    m.crc = mark_crc(&m);
    memcpy(block, &m, sizeof(m));
}

static ssize_t write_block(int fd, char *block, int flags)
{
    struct iovec part = {block, EXT_MARK_BYTES};
    ssize_t n;
    do {
        n = flags != 0 ? pwritev2(fd, &part, 1, 0, flags) : pwrite(fd, block, EXT_MARK_BYTES, 0);
    } while (n < 0 && errno == EINTR);
    return n;
}

int ext_mark_write(int fd, uint64_t stamp)
{
    char *block = aligned_alloc(EXT_MARK_BYTES, EXT_MARK_BYTES); /* the file may be O_DIRECT */
    if (block == NULL)
        return -ENOMEM;
    ext_mark_fill(block, stamp);
    /* Syncs this block alone, where the file system can: without O_DIRECT the page cache may hold much of the file. */
    ssize_t n = write_block(fd, block, RWF_DSYNC);
    bool is_synced = n >= 0;
    if (n < 0 && (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL))
        n = write_block(fd, block, 0);
    int rc = n < 0 ? -errno : n != (ssize_t)EXT_MARK_BYTES ? -EIO : 0;
    free(block);
    return rc != 0 || is_synced ? rc : file_sync(fd);
}

uint64_t ext_mark_next_stamp(uint64_t stamp, uint32_t step)
{
    uint64_t hash = (stamp ^ step) * UINT64_C(0x9e3779b97f4a7c15);
    hash = (hash ^ hash >> 32) * UINT64_C(0xbf58476d1ce4e5b9);
    hash ^= hash >> 29;
    return hash != 0 ? hash : 1;
}

/* ---- what is there ---- */

/* Reads from the start, with zeroes for what lies beyond the end. 0 or -errno. */
static int read_front(int fd, void *into, size_t bytes)
{
    ssize_t n = file_read(fd, into, bytes, 0);
    if (n < 0)
        return (int)n;
    memset((char *)into + n, 0, bytes - (size_t)n);
    return 0;
}

/* 1: it has bytes other than zero; 0 or -errno. */
static int has_data(int fd)
{
    char *bytes = calloc(1, LOOK_BYTES);
    if (bytes == NULL)
        return -ENOMEM;
    int rc = read_front(fd, bytes, LOOK_BYTES);
    for (size_t i = 0; rc == 0 && i < LOOK_BYTES; i++)
        rc = bytes[i] != 0;
    free(bytes);
    return rc;
}

static blkid_probe new_probe(int fd)
{
    blkid_probe p = blkid_new_probe();
    if (p == NULL)
        return NULL;
    if (blkid_probe_set_device(p, fd, 0, 0) == 0 && blkid_probe_enable_superblocks(p, 1) == 0 &&
        blkid_probe_set_superblocks_flags(p, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_USAGE |
                                                 BLKID_SUBLKS_LABEL | BLKID_SUBLKS_MAGIC) == 0 &&
        blkid_probe_enable_partitions(p, 1) == 0 &&
        blkid_probe_set_partitions_flags(p, BLKID_PARTS_MAGIC) == 0)
        return p;
    blkid_free_probe(p);
    return NULL;
}

static const char *value_of(blkid_probe p, const char *name)
{
    const char *value;
    return blkid_probe_lookup_value(p, name, &value, NULL) == 0 ? value : NULL;
}

/* Words for what libblkid found. */
static void name_found(blkid_probe p, char *what, size_t n)
{
    const char *type = value_of(p, "TYPE"), *usage = value_of(p, "USAGE");
    const char *label = value_of(p, "LABEL"), *table = value_of(p, "PTTYPE");
    if (type != NULL && label != NULL)
        snprintf(what, n, "%s (%s, label \"%.32s\")", type, usage != NULL ? usage : "other", label);
    else if (type != NULL)
        snprintf(what, n, "%s (%s)", type, usage != NULL ? usage : "other");
    else if (table != NULL)
        snprintf(what, n, "a partition table (%s)", table);
    else
        snprintf(what, n, "a signature that is not Extant's");
}

/* A file system, a partition table, a part of LVM or RAID, swap ... 0 or -errno. */
static int find_signature(int fd, char *what, size_t n)
{
    blkid_probe p = new_probe(fd);
    if (p == NULL)
        return -EIO;
    int found = blkid_do_safeprobe(p);
    if (found == 0)
        name_found(p, what, n);
    else if (found == -2)
        snprintf(what, n, "more than one signature (blkid and wipefs show them)");
    blkid_free_probe(p);
    return found == -1 ? -EIO : 0;
}

int ext_mark_look(int fd, struct ext_mark_found *out)
{
    struct mark m;
    struct stat st;
    memset(out, 0, sizeof(*out));
    if (fstat(fd, &st) != 0)
        return -errno;
    int rc = read_front(fd, &m, sizeof(m));
    if (rc != 0)
        return rc;
    if (memcmp(m.magic, magic, sizeof(magic)) == 0) {
        out->ours = true;
        out->stamp = m.crc == mark_crc(&m) && m.format == EXT_MARK_FORMAT ? m.stamp : 0;
        return 0;
    }
    if (S_ISREG(st.st_mode) && st.st_size == 0)
        return 0;
    rc = find_signature(fd, out->what, sizeof(out->what));
    if (rc == 0 && out->what[0] == '\0' && S_ISREG(st.st_mode) && (rc = has_data(fd)) > 0) {
        snprintf(out->what, sizeof(out->what), "data that is not Extant's");
        rc = 0;
    }
    return rc;
}

int ext_mark_wipe(int fd)
{
    static const char zeroes[EXT_MARK_BYTES];
    blkid_probe p = new_probe(fd);
    if (p == NULL)
        return -EIO;
    int rc = 0;
    for (unsigned i = 0; rc == 0 && i < WIPES_MAX && blkid_do_probe(p) == 0; i++)
        rc = blkid_do_wipe(p, 0) == 0 ? 0 : -EIO;
    blkid_free_probe(p);
    if (rc == 0)
        rc = file_write(fd, zeroes, sizeof(zeroes), 0);
    return rc != 0 ? rc : file_sync(fd);
}
