/* base/checkpoint.c: see base/checkpoint.h. */
#include "base/checkpoint.h"

#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/crc.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/lock.h"
#include "base/why.h"

#define HEAD_MAGIC UINT64_C(0x746e696f706b6843) /* "Chkpoint" */

struct block_head {
    uint32_t crc;
    uint32_t bytes;
    uint64_t number;
};
static_assert(sizeof(struct block_head) == 16, "block head");
static_assert(offsetof(struct block_head, number) == 8, "block head");

struct block {
    struct block_head head;
    char bytes[CHECKPOINT_BLOCK_BYTES];
};

struct checkpoint_writer {
    char *path, *new_path;
    int fd;
    int error;
    uint64_t token, blocks, body_bytes;
    struct block block; /* head.bytes are filled */
};

/* A thread reads and verifies one block while the caller takes from the one before. */
struct checkpoint_reader {
    /* const after open */
    int fd;
    uint64_t token, body_bytes;
    uint64_t block_count;
    bool has_thread; /* otherwise the caller reads */
    pthread_t thread;
    /* `read` and `used` say who may touch a block: the reading side fills number `read`,
     * the caller takes from number `used` while used < read */
    struct block blocks[2];
    /* under lock */
    struct lock lock; /* LOCK_IO_QUEUE */
    pthread_cond_t cond;
    uint64_t read, used;
    int read_error; /* of block number `read` */
    bool stopping;
    /* the caller's */
    int error;
    bool has_block; /* number `used` is being taken from */
    size_t taken;   /* bytes of it */
    /* the reading side's */
    off_t dropped; /* bytes of the file that were dropped from the page cache */
};

/* ---- bytes ---- */

static uint32_t block_crc(const struct block *b, uint64_t token)
{
    ASSERT(b->head.bytes <= CHECKPOINT_BLOCK_BYTES);
    uint32_t crc = crc32c(0, &token, sizeof(token));
    return crc32c(crc, (const char *)b + sizeof(b->head.crc),
                  sizeof(b->head) - sizeof(b->head.crc) + b->head.bytes);
}

/* All blocks before the last are full. */
static uint64_t block_offset(uint64_t number)
{
    return CHECKPOINT_HEAD_BYTES + number * sizeof(struct block);
}

static uint64_t blocks_of(uint64_t body_bytes)
{
    return (body_bytes + CHECKPOINT_BLOCK_BYTES - 1) / CHECKPOINT_BLOCK_BYTES;
}

/* Where a file with this body ends. */
static uint64_t end_offset(uint64_t body_bytes)
{
    return CHECKPOINT_HEAD_BYTES + blocks_of(body_bytes) * sizeof(struct block_head) + body_bytes;
}

static uint32_t head_crc(const struct checkpoint_head *h)
{
    return crc32c(0, (const char *)h + sizeof(h->crc), sizeof(*h) - sizeof(h->crc));
}

static int sync_directory_of(const char *path)
{
    char *copy = strdup(path);
    if (copy == NULL)
        return -ENOMEM;
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 ? -errno : 0;
    free(copy);
    if (fd < 0)
        return rc;
    /* Some file systems can't sync a directory, and say so. */
    if (fsync(fd) != 0 && errno != EINVAL && errno != EROFS)
        rc = -errno;
    close(fd);
    return rc;
}

/* ---- writing ---- */

static void writer_free(struct checkpoint_writer *w)
{
    if (w->fd >= 0)
        close(w->fd);
    free(w->path);
    free(w->new_path);
    free(w);
}

int checkpoint_create(const char *path, struct checkpoint_writer **out)
{
    lock_assert_none_held();
    struct checkpoint_writer *w = calloc(1, sizeof(*w));
    if (w == NULL)
        return -ENOMEM;
    w->fd = -1;
    w->path = strdup(path);
    if (w->path == NULL || asprintf(&w->new_path, "%s.new", path) < 0) {
        w->new_path = NULL;
        writer_free(w);
        return -ENOMEM;
    }
    w->token = hash_draw();
    /* Removes what a killed process left under the name. If somebody puts a file there just now, perhaps a
     * link to one of ours, it is not written to. */
    unlink(w->new_path);
    w->fd = open(w->new_path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (w->fd < 0) {
        int rc = -errno;
        writer_free(w);
        return rc;
    }
    *out = w;
    return 0;
}

static int put_block(struct checkpoint_writer *w)
{
    struct block *b = &w->block;
    ASSERT(w->error == 0 && b->head.bytes > 0);
    lock_assert_none_held();
    b->head.number = w->blocks++;
    b->head.crc = block_crc(b, w->token);
    int rc = file_write(w->fd, b, sizeof(b->head) + b->head.bytes, block_offset(b->head.number));
    w->body_bytes += b->head.bytes;
    b->head.bytes = 0;
    return rc;
}

int checkpoint_put(struct checkpoint_writer *w, const void *bytes, size_t count)
{
    const char *from = bytes;
    while (w->error == 0 && count > 0) {
        size_t part = (size_t)min_u64(count, CHECKPOINT_BLOCK_BYTES - w->block.head.bytes);
        memcpy(w->block.bytes + w->block.head.bytes, from, part);
        w->block.head.bytes += (uint32_t)part;
        ASSERT(w->block.head.bytes <= CHECKPOINT_BLOCK_BYTES);
        from += part;
        count -= part;
        if (w->block.head.bytes == CHECKPOINT_BLOCK_BYTES)
            w->error = put_block(w);
    }
    return w->error;
}

static int put_head(struct checkpoint_writer *w, struct checkpoint_head *head)
{
    ASSERT(head->state == CHECKPOINT_RUNNING || head->state == CHECKPOINT_CLEAN);
    ASSERT(head->device_count > 0 && head->device_count <= CHECKPOINT_DEVICES_MAX);
    head->format = CHECKPOINT_FORMAT;
    head->magic = HEAD_MAGIC;
    head->token = w->token;
    head->body_bytes = w->body_bytes;
    head->wall_sec = clock_wall_us() / 1000000;
    snprintf(head->version, sizeof(head->version), "%s", EXTANT_VERSION);
    head->crc = head_crc(head);
    return file_write(w->fd, head, sizeof(*head), 0);
}

int checkpoint_commit(struct checkpoint_writer *w, struct checkpoint_head *head)
{
    lock_assert_none_held();
    int rc = w->error;
    if (rc == 0 && w->block.head.bytes > 0)
        rc = put_block(w);
    if (rc == 0)
        rc = put_head(w, head);
    if (rc == 0 && fsync(w->fd) != 0)
        rc = -errno;
    if (rc == 0 && rename(w->new_path, w->path) != 0)
        rc = -errno;
    if (rc != 0) {
        checkpoint_abort(w);
        return rc;
    }
    rc = sync_directory_of(w->path);
    writer_free(w);
    return rc;
}

void checkpoint_abort(struct checkpoint_writer *w)
{
    if (w == NULL)
        return;
    unlink(w->new_path);
    writer_free(w);
}

/* ---- reading ---- */

static int open_to_read(const char *path, struct stat *st)
{
    /* A pipe or the like under this name must not block the start. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    if (fd < 0)
        return -errno;
    int rc = fstat(fd, st) != 0 ? -errno : S_ISREG(st->st_mode) ? 0 : -EINVAL;
    if (rc == 0)
        return fd;
    close(fd);
    return rc;
}

/* What is wrong with a head; NULL: nothing. */
static const char *head_fault(const struct checkpoint_head *h, ssize_t bytes)
{
    if (bytes < (ssize_t)sizeof(*h))
        return "it is cut short";
    if (h->magic != HEAD_MAGIC)
        return "it is not a checkpoint";
    if (h->format < CHECKPOINT_FORMAT_OLDEST || h->format > CHECKPOINT_FORMAT)
        return "it has another format";
    if (h->crc != head_crc(h))
        return "its head is damaged";
    if ((h->state != CHECKPOINT_RUNNING && h->state != CHECKPOINT_CLEAN) || h->device_count == 0 ||
        h->device_count > CHECKPOINT_DEVICES_MAX)
        return "its head makes no sense";
    return NULL;
}

int checkpoint_read_head(const char *path, struct checkpoint_head *head,
                         char why[CHECKPOINT_WHY_BYTES])
{
    struct stat st;
    int fd = open_to_read(path, &st);
    ssize_t n = fd < 0 ? fd : file_read(fd, head, sizeof(*head), 0);
    if (fd >= 0)
        close(fd);
    if (n < 0)
        return why_say(why, CHECKPOINT_WHY_BYTES, (int)n, "it can't be read (%s)", strerror((int)-n));
    const char *fault = head_fault(head, n);
    if (fault == NULL && head->state == CHECKPOINT_CLEAN) {
        uint64_t bytes = end_offset(head->body_bytes);
        if (head->body_bytes > (uint64_t)st.st_size || (uint64_t)st.st_size != bytes)
            fault =
                (uint64_t)st.st_size < max_u64(bytes, head->body_bytes) ? "it is cut short" : "it is longer than it should be";
    }
    return fault == NULL ? 0 : why_say(why, CHECKPOINT_WHY_BYTES, -EBADMSG, "%s", fault);
}

/* Reads block number n, which is the next in the file. 0; -EBADMSG it does not verify; -errno. */
static int read_block(struct checkpoint_reader *r, uint64_t n)
{
    struct block *b = &r->blocks[n % 2];
    ASSERT(n < r->block_count);
    size_t bytes =
        (size_t)min_u64(r->body_bytes - n * CHECKPOINT_BLOCK_BYTES, CHECKPOINT_BLOCK_BYTES);
    ssize_t got = file_read(r->fd, b, sizeof(b->head) + bytes, block_offset(n));
    if (got < 0)
        return (int)got;
    if ((size_t)got != sizeof(b->head) + bytes || b->head.bytes != bytes || b->head.number != n ||
        b->head.crc != block_crc(b, r->token))
        return -EBADMSG;
    /* It is read only once, so other data in the page cache is worth more. */
    off_t at = (off_t)block_offset(n + 1);
    if (at > r->dropped + 64 * (off_t)CHECKPOINT_BLOCK_BYTES) {
        (void)posix_fadvise(r->fd, r->dropped, at - r->dropped, POSIX_FADV_DONTNEED);
        r->dropped = at;
    }
    return 0;
}

static void *read_ahead(void *arg)
{
    struct checkpoint_reader *r = arg;
    pthread_setname_np(pthread_self(), "checkpoint");
    lock_take(&r->lock);
    while (!r->stopping && r->read_error == 0 && r->read < r->block_count) {
        if (r->read - r->used == ARRAY_COUNT(r->blocks)) {
            lock_wait(&r->lock, &r->cond, -1);
            continue;
        }
        uint64_t n = r->read;
        ASSERT(r->used <= n && n - r->used < ARRAY_COUNT(r->blocks));
        lock_release(&r->lock);
        int rc = read_block(r, n);
        lock_take(&r->lock);
        r->read_error = rc;
        r->read += rc == 0;
        pthread_cond_broadcast(&r->cond);
    }
    lock_release(&r->lock);
    return NULL;
}

int checkpoint_open(const char *path, const struct checkpoint_head *head,
                    struct checkpoint_reader **out)
{
    lock_assert_none_held();
    ASSERT(head->state == CHECKPOINT_CLEAN);
    struct checkpoint_head found;
    struct stat st;
    int fd = open_to_read(path, &st);
    if (fd < 0)
        return fd;
    ssize_t n = file_read(fd, &found, sizeof(found), 0);
    struct checkpoint_reader *r = NULL;
    int rc = n < 0 ? (int)n : 0;
    if (rc == 0 && (n != (ssize_t)sizeof(found) || memcmp(&found, head, sizeof(found)) != 0))
        rc = -ESTALE;
    if (rc == 0 && (r = calloc(1, sizeof(*r))) == NULL)
        rc = -ENOMEM;
    if (rc != 0) {
        close(fd);
        return rc;
    }
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    r->fd = fd;
    r->token = head->token;
    r->body_bytes = head->body_bytes;
    r->block_count = blocks_of(head->body_bytes);
    lock_init(&r->lock, LOCK_IO_QUEUE);
    lock_cond_init(&r->cond);
    r->has_thread = r->block_count > 1 && pthread_create(&r->thread, NULL, read_ahead, r) == 0;
    *out = r;
    return 0;
}

static struct block *block_at(struct checkpoint_reader *r) { return &r->blocks[r->used % 2]; }

/* Frees the block that the caller took from and waits for the next one. 0; -EBADMSG: it does
 * not verify, or there is none; -errno. */
static int next_block(struct checkpoint_reader *r)
{
    int rc = 0;
    ASSERT(!r->has_block || r->taken == block_at(r)->head.bytes);
    lock_take(&r->lock);
    r->used += r->has_block;
    ASSERT(r->used <= r->read || !r->has_thread);
    r->has_block = false;
    r->taken = 0;
    pthread_cond_broadcast(&r->cond);
    while (r->has_thread && r->used == r->read && r->read_error == 0 && r->read < r->block_count)
        lock_wait(&r->lock, &r->cond, -1);
    if (r->used == r->block_count)
        rc = -EBADMSG;
    else if (r->used == r->read)
        rc = r->read_error;
    lock_release(&r->lock);
    if (rc == 0 && !r->has_thread) {
        rc = read_block(r, r->used);
        r->read = r->used + 1;
    }
    r->has_block = rc == 0;
    return rc;
}

int checkpoint_get(struct checkpoint_reader *r, void *bytes, size_t count)
{
    char *to = bytes;
    while (r->error == 0 && count > 0) {
        if ((!r->has_block || r->taken == block_at(r)->head.bytes) &&
            (r->error = next_block(r)) != 0)
            break;
        size_t part = (size_t)min_u64(count, block_at(r)->head.bytes - r->taken);
        ASSERT(part > 0);
        memcpy(to, block_at(r)->bytes + r->taken, part);
        r->taken += part;
        to += part;
        count -= part;
    }
    return r->error;
}

/* Was everything taken? */
static bool is_at_end(const struct checkpoint_reader *r)
{
    return r->block_count == 0 || (r->has_block && r->used + 1 == r->block_count &&
                                   r->taken == r->blocks[r->used % 2].head.bytes);
}

int checkpoint_close(struct checkpoint_reader *r)
{
    if (r == NULL)
        return 0;
    char more;
    int rc = r->error;
    lock_assert_none_held();
    lock_take(&r->lock);
    r->stopping = true;
    pthread_cond_broadcast(&r->cond);
    lock_release(&r->lock);
    if (r->has_thread)
        pthread_join(r->thread, NULL);
    if (rc == 0 && (!is_at_end(r) || file_read(r->fd, &more, 1, end_offset(r->body_bytes)) != 0))
        rc = -EBADMSG;
    pthread_cond_destroy(&r->cond);
    lock_destroy(&r->lock);
    close(r->fd);
    free(r);
    return rc;
}

int checkpoint_remove(const char *path)
{
    struct checkpoint_head head = {0};
    struct stat st;
    int fd = open_to_read(path, &st);
    if (fd == -ENOENT || fd == -ENOTDIR || fd == -EINVAL || fd == -ELOOP)
        return 0;
    if (fd < 0)
        return fd;
    ssize_t n = file_read(fd, &head, sizeof(head), 0);
    close(fd);
    if (n < (ssize_t)sizeof(head) || head.magic != HEAD_MAGIC)
        return 0;
    if (unlink(path) != 0 && errno != ENOENT)
        return -errno;
    return sync_directory_of(path);
}
