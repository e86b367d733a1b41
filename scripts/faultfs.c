/* faultfs: one directory, passed through FUSE 3, with faults on demand.
 *
 *   faultfs [-o fuse options] DIRECTORY MOUNTPOINT      (stays in the foreground)
 *   build: cc faultfs.c -o faultfs $(pkg-config --cflags --libs fuse3)
 *
 * Reads and writes of regular files under MOUNTPOINT can be made to fail; everything else is passed
 * through. io_uring and O_DIRECT see the faults like pread does: they are below the system call.
 * Nothing is injected until armed. MOUNTPOINT/.faults is the control file: writes to it
 * change faults at once, also for requests that are stalling; reads give the counts.
 *
 * Words of a write to .faults, separated by white space; one bad word and the write is EINVAL and
 * nothing is changed:
 *   arm=0|1         inject the set faults (0 at start)
 *   seed=N          the sequence of decisions; same seed, same order of requests: same faults
 *   by=op|place     what decides: the number of the request (a retry is a new draw), or its
 *                   offset in units of 4096 (a retry meets the same fault: a bad sector)
 *   read.FAULT=1/N  rate of a fault, N of 1 is always; =0 is never. Likewise write.FAULT
 *   stall_ms=N      how long a stall lasts (100)
 *   gone=0|1        while armed, every read, write, fsync, truncate, fallocate, open: EIO
 *   sparse=0|1      while armed, no room can be reserved: fallocate is EOPNOTSUPP
 *   off             all rates, gone and sparse to 0 (seed, by and stall_ms stay), arm=0
 *   reset           all counts to 0, requests numbered from 0 again
 *
 * Faults: eio; short (about half is done, the rest is not); enospc (writes); flip (one bit is
 * wrong in the answer of a read, or in what a write leaves on the device); misdirect (another
 * place of the file is read or written); lost (a write is acknowledged, not done); stall (done
 * right, but late). At most one of them hits a request, in this order, but for stall, which may
 * join any.
 *
 * Threads: libfuse's, up to WORKERS. One mutex guards all state; not held over I/O or a stall.
 * Limits: no links, no extended attributes, names are the directory's; .faults hides such a file.
 */
#define FUSE_USE_VERSION 312
#include <errno.h>
#include <fcntl.h>
#include <dirent.h>
#include <fuse.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#define CONTROL "/.faults"
#define PLACE_BYTES 4096
#define WORKERS 256               /* this many requests can stall while .faults still answers */
#define REQUEST_BYTES (1u << 20)  /* the largest read or write the kernel hands over */

/* Order: the first that hits a request is taken. */
#define FAULT_TABLE(X)                                                                             \
    X(EIO, "eio")                                                                                  \
    X(SHORT, "short")                                                                              \
    X(ENOSPC, "enospc")                                                                            \
    X(FLIP, "flip")                                                                                \
    X(MISDIRECT, "misdirect")                                                                      \
    X(LOST, "lost")                                                                                \
    X(STALL, "stall")
enum fault {
#define X(name, text) FAULT_##name,
    FAULT_TABLE(X)
#undef X
        FAULT_COUNT,
    FAULT_NONE = FAULT_COUNT
};
static const char *const fault_names[] = {
#define X(name, text) text,
    FAULT_TABLE(X)
#undef X
};
enum way { WAY_READ, WAY_WRITE, WAY_COUNT };
static const char *const way_names[] = {"read", "write"};

/* What .faults sets. */
struct plan {
    bool arm, gone, sparse, by_place;
    uint64_t seed, stall_ms;
    uint64_t one_in[WAY_COUNT][FAULT_COUNT]; /* 0 never */
};

static int root_fd; /* const after start */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed; /* the plan was: stalls look again */
/* under lock */
static struct plan plan = {.seed = 1, .stall_ms = 100};
static uint64_t plan_number;
static uint64_t requests[WAY_COUNT];
static uint64_t hits[WAY_COUNT][FAULT_COUNT];
static uint64_t gone_hits;

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* Waits `ms`, or until .faults is written to. Called with lock held; gives it up meanwhile. */
static void stall(uint64_t ms)
{
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += (time_t)(ms / 1000);
    end.tv_nsec += (long)(ms % 1000) * 1000000;
    if (end.tv_nsec >= 1000000000) {
        end.tv_sec++;
        end.tv_nsec -= 1000000000;
    }
    uint64_t number = plan_number;
    while (number == plan_number && pthread_cond_timedwait(&changed, &lock, &end) == 0)
        ;
}

/* Counts the request and decides its fault; stalls inside. *dice is for details. */
static enum fault draw(enum way way, off_t offset, uint64_t *dice)
{
    enum fault fault = FAULT_NONE;
    pthread_mutex_lock(&lock);
    uint64_t number = requests[way]++;
    if (plan.by_place)
        number = (uint64_t)offset / PLACE_BYTES;
    *dice = mix(mix(plan.seed) ^ mix(number * 2 + way));
    bool stalls = false;
    for (int f = 0; plan.arm && f < FAULT_COUNT; f++) {
        uint64_t one_in = plan.one_in[way][f];
        if (one_in == 0 || mix(*dice + (uint64_t)f) % one_in != 0)
            continue;
        if (f == FAULT_STALL)
            stalls = true;
        else if (fault == FAULT_NONE)
            fault = (enum fault)f;
        else
            continue;
        hits[way][f]++;
    }
    if (plan.arm && plan.gone) {
        gone_hits++;
        fault = FAULT_EIO;
    }
    if (stalls)
        stall(plan.stall_ms);
    pthread_mutex_unlock(&lock);
    return fault;
}

/* 0, or -EIO while the device is gone: for requests other than reads and writes. */
static int gone(void)
{
    pthread_mutex_lock(&lock);
    bool is_gone = plan.arm && plan.gone;
    gone_hits += is_gone;
    pthread_mutex_unlock(&lock);
    return is_gone ? -EIO : 0;
}

static bool is_sparse(void)
{
    pthread_mutex_lock(&lock);
    bool sparse = plan.arm && plan.sparse;
    pthread_mutex_unlock(&lock);
    return sparse;
}

/* The length of a short transfer: whole blocks if it has any. */
static size_t half(size_t size)
{
    if (size <= PLACE_BYTES)
        return (size + 1) / 2;
    size_t blocks = size / 2 / PLACE_BYTES;
    return blocks > 0 ? blocks * PLACE_BYTES : PLACE_BYTES;
}

/* Another place of the same file, as aligned as the right one. */
static off_t elsewhere(int fd, off_t offset, size_t size, uint64_t dice)
{
    struct stat st;
    uint64_t places = 1;
    if (fstat(fd, &st) == 0 && (uint64_t)st.st_size > size)
        places = ((uint64_t)st.st_size - size) / PLACE_BYTES + 1;
    off_t other = (off_t)(mix(dice) % places * PLACE_BYTES) + offset % PLACE_BYTES;
    return other == offset ? offset + PLACE_BYTES : other;
}

/* ---- the control file ---------------------------------------------------------------- */

static bool parse_number(const char *text, uint64_t *out)
{
    char *end;
    errno = 0;
    *out = strtoull(text, &end, 10);
    return *text >= '0' && *text <= '9' && *end == 0 && errno == 0;
}

static bool parse_bool(const char *text, bool *out)
{
    *out = text[0] == '1';
    return (text[0] == '0' || text[0] == '1') && text[1] == 0;
}

static bool parse_rate(struct plan *p, char *word, const char *value)
{
    for (int w = 0; w < WAY_COUNT; w++) {
        size_t n = strlen(way_names[w]);
        if (strncmp(word, way_names[w], n) != 0 || word[n] != '.')
            continue;
        for (int f = 0; f < FAULT_COUNT; f++) {
            if (strcmp(word + n + 1, fault_names[f]) != 0)
                continue;
            if (w == WAY_READ && (f == FAULT_ENOSPC || f == FAULT_LOST))
                return false;
            if (strcmp(value, "0") == 0) {
                p->one_in[w][f] = 0;
                return true;
            }
            return strncmp(value, "1/", 2) == 0 && parse_number(value + 2, &p->one_in[w][f]) &&
                   p->one_in[w][f] > 0;
        }
    }
    return false;
}

static bool parse_word(struct plan *p, bool *reset, char *word)
{
    if (strcmp(word, "reset") == 0) {
        *reset = true;
        return true;
    }
    if (strcmp(word, "off") == 0) {
        memset(p->one_in, 0, sizeof p->one_in);
        p->arm = p->gone = p->sparse = false;
        return true;
    }
    char *value = strchr(word, '=');
    if (value == NULL)
        return false;
    *value++ = 0;
    if (strcmp(word, "arm") == 0)
        return parse_bool(value, &p->arm);
    if (strcmp(word, "gone") == 0)
        return parse_bool(value, &p->gone);
    if (strcmp(word, "sparse") == 0)
        return parse_bool(value, &p->sparse);
    if (strcmp(word, "seed") == 0)
        return parse_number(value, &p->seed);
    if (strcmp(word, "stall_ms") == 0)
        return parse_number(value, &p->stall_ms);
    if (strcmp(word, "by") == 0) {
        p->by_place = strcmp(value, "place") == 0;
        return p->by_place || strcmp(value, "op") == 0;
    }
    return parse_rate(p, word, value);
}

static int control_write(const char *data, size_t size)
{
    char text[4096], *save = NULL;
    if (size >= sizeof text)
        return -EINVAL;
    memcpy(text, data, size);
    text[size] = 0;
    bool reset = false, ok = true;
    pthread_mutex_lock(&lock);
    struct plan next = plan;
    char *word = strtok_r(text, " \t\n", &save);
    for (; ok && word != NULL; word = strtok_r(NULL, " \t\n", &save))
        ok = parse_word(&next, &reset, word);
    if (ok) {
        plan = next;
        plan_number++;
        if (reset) {
            memset(requests, 0, sizeof requests);
            memset(hits, 0, sizeof hits);
            gone_hits = 0;
        }
        pthread_cond_broadcast(&changed);
    }
    pthread_mutex_unlock(&lock);
    return ok ? (int)size : -EINVAL;
}

static int control_read(char *out, size_t size, off_t offset)
{
    char text[4096];
    size_t n = 0;
    pthread_mutex_lock(&lock);
    n += (size_t)snprintf(text + n, sizeof text - n, "armed %d\ngone %llu\n", plan.arm,
                          (unsigned long long)gone_hits);
    for (int w = 0; w < WAY_COUNT; w++) {
        n += (size_t)snprintf(text + n, sizeof text - n, "%ss %llu\n", way_names[w],
                              (unsigned long long)requests[w]);
        for (int f = 0; f < FAULT_COUNT; f++)
            n += (size_t)snprintf(text + n, sizeof text - n, "%s.%s %llu\n", way_names[w],
                                  fault_names[f], (unsigned long long)hits[w][f]);
    }
    pthread_mutex_unlock(&lock);
    if ((size_t)offset >= n)
        return 0;
    if (size > n - (size_t)offset)
        size = n - (size_t)offset;
    memcpy(out, text + offset, size);
    return (int)size;
}

static bool is_control(const char *path)
{
    return path != NULL && strcmp(path, CONTROL) == 0;
}

/* ---- reads and writes ------------------------------------------------------------------ */

static int do_read(const char *path, char *out, size_t size, off_t offset,
                   struct fuse_file_info *fi)
{
    (void)path;
    if (fi->fh == 0)
        return control_read(out, size, offset);
    int fd = (int)fi->fh;
    uint64_t dice;
    enum fault fault = draw(WAY_READ, offset, &dice);
    if (fault == FAULT_EIO)
        return -EIO;
    if (fault == FAULT_SHORT)
        size = half(size);
    if (fault == FAULT_MISDIRECT)
        offset = elsewhere(fd, offset, size, dice);
    ssize_t n = pread(fd, out, size, offset);
    if (n < 0)
        return -errno;
    if (fault == FAULT_FLIP && n > 0)
        out[mix(dice) % (uint64_t)n] ^= (char)(1 << dice % 8);
    return (int)n;
}

static int do_write(const char *path, const char *data, size_t size, off_t offset,
                    struct fuse_file_info *fi)
{
    (void)path;
    if (fi->fh == 0)
        return control_write(data, size);
    int fd = (int)fi->fh;
    uint64_t dice;
    char *spoilt = NULL;
    enum fault fault = draw(WAY_WRITE, offset, &dice);
    switch (fault) {
    case FAULT_EIO:
        return -EIO;
    case FAULT_ENOSPC:
        return -ENOSPC;
    case FAULT_LOST:
        return (int)size;
    case FAULT_SHORT:
        size = half(size);
        break;
    case FAULT_MISDIRECT:
        offset = elsewhere(fd, offset, size, dice);
        break;
    case FAULT_FLIP:
        spoilt = size > 0 ? malloc(size) : NULL;
        if (spoilt != NULL) {
            memcpy(spoilt, data, size);
            spoilt[mix(dice) % size] ^= (char)(1 << dice % 8);
        }
        break;
    default:
        break;
    }
    ssize_t n = pwrite(fd, spoilt != NULL ? spoilt : data, size, offset);
    int result = n < 0 ? -errno : (int)n;
    free(spoilt);
    return result;
}

/* ---- passed through -------------------------------------------------------------------- */

static const char *below(const char *path)
{
    return path[1] == 0 ? "." : path + 1;
}

static int result_of(int r)
{
    return r < 0 ? -errno : 0;
}

static int do_open_with(const char *path, int flags, mode_t mode, struct fuse_file_info *fi)
{
    fi->direct_io = 1;
    fi->fh = 0;
    if (is_control(path))
        return 0;
    int r = gone();
    if (r < 0)
        return r;
    int fd = openat(root_fd, below(path), (flags & ~(O_DIRECT | O_APPEND)) | O_CLOEXEC, mode);
    if (fd < 0)
        return -errno;
    fi->fh = (uint64_t)fd; /* never 0: standard input is open */
    return 0;
}

static int do_open(const char *path, struct fuse_file_info *fi)
{
    return do_open_with(path, fi->flags & ~O_CREAT, 0, fi);
}

static int do_create(const char *path, mode_t mode, struct fuse_file_info *fi)
{
    return do_open_with(path, fi->flags | O_CREAT, mode, fi);
}

static int do_release(const char *path, struct fuse_file_info *fi)
{
    (void)path;
    return fi->fh == 0 ? 0 : result_of(close((int)fi->fh));
}

static int do_getattr(const char *path, struct stat *st, struct fuse_file_info *fi)
{
    if (fi != NULL && fi->fh != 0)
        return result_of(fstat((int)fi->fh, st));
    if (is_control(path) || path == NULL) {
        memset(st, 0, sizeof *st);
        st->st_mode = S_IFREG | 0600;
        st->st_nlink = 1;
        st->st_uid = getuid();
        st->st_gid = getgid();
        return 0;
    }
    return result_of(fstatat(root_fd, below(path), st, AT_SYMLINK_NOFOLLOW));
}

static int do_truncate(const char *path, off_t size, struct fuse_file_info *fi)
{
    if (is_control(path) || (fi != NULL && fi->fh == 0))
        return 0; /* echo >.faults */
    int r = gone();
    if (r < 0)
        return r;
    if (fi != NULL)
        return result_of(ftruncate((int)fi->fh, size));
    int fd = openat(root_fd, below(path), O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    r = result_of(ftruncate(fd, size));
    close(fd);
    return r;
}

static int do_fallocate(const char *path, int mode, off_t offset, off_t bytes,
                        struct fuse_file_info *fi)
{
    (void)path;
    int r = gone();
    if (r < 0 || fi->fh == 0)
        return r;
    return is_sparse() ? -EOPNOTSUPP : result_of(fallocate((int)fi->fh, mode, offset, bytes));
}

static int do_fsync(const char *path, int data_only, struct fuse_file_info *fi)
{
    (void)path;
    int r = gone();
    if (r < 0 || fi->fh == 0)
        return r;
    return result_of(data_only ? fdatasync((int)fi->fh) : fsync((int)fi->fh));
}

static int do_unlink(const char *path)
{
    return result_of(unlinkat(root_fd, below(path), 0));
}

static int do_mkdir(const char *path, mode_t mode)
{
    return result_of(mkdirat(root_fd, below(path), mode));
}

static int do_rmdir(const char *path)
{
    return result_of(unlinkat(root_fd, below(path), AT_REMOVEDIR));
}

static int do_rename(const char *from, const char *to, unsigned flags)
{
    return result_of(renameat2(root_fd, below(from), root_fd, below(to), flags));
}

static int do_chmod(const char *path, mode_t mode, struct fuse_file_info *fi)
{
    (void)fi;
    return result_of(fchmodat(root_fd, below(path), mode, 0));
}

static int do_chown(const char *path, uid_t uid, gid_t gid, struct fuse_file_info *fi)
{
    (void)fi;
    return result_of(fchownat(root_fd, below(path), uid, gid, AT_SYMLINK_NOFOLLOW));
}

static int do_utimens(const char *path, const struct timespec times[2], struct fuse_file_info *fi)
{
    (void)fi;
    return result_of(utimensat(root_fd, below(path), times, AT_SYMLINK_NOFOLLOW));
}

static int do_statfs(const char *path, struct statvfs *st)
{
    (void)path;
    return result_of(fstatvfs(root_fd, st));
}

static int do_readdir(const char *path, void *buffer, fuse_fill_dir_t fill, off_t offset,
                      struct fuse_file_info *fi, enum fuse_readdir_flags flags)
{
    (void)offset;
    (void)fi;
    (void)flags;
    int fd = openat(root_fd, below(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    DIR *dir = fdopendir(fd);
    if (dir == NULL) {
        close(fd);
        return -ENOMEM;
    }
    const struct dirent *entry;
    while ((entry = readdir(dir)) != NULL)
        if (fill(buffer, entry->d_name, NULL, 0, 0) != 0)
            break;
    closedir(dir);
    return 0;
}

static void *do_init(struct fuse_conn_info *conn, struct fuse_config *config)
{
    conn->max_write = REQUEST_BYTES;
    conn->max_background = WORKERS / 2; /* to the kernel a ring's requests are "background" */
    conn->congestion_threshold = WORKERS / 2;
    config->nullpath_ok = 1;
    config->hard_remove = 1;
    config->attr_timeout = config->entry_timeout = 0; /* the directory may be changed below us */
    return NULL;
}

static const struct fuse_operations operations = {
    .init = do_init,
    .getattr = do_getattr,
    .open = do_open,
    .create = do_create,
    .read = do_read,
    .write = do_write,
    .release = do_release,
    .truncate = do_truncate,
    .fallocate = do_fallocate,
    .fsync = do_fsync,
    .unlink = do_unlink,
    .mkdir = do_mkdir,
    .rmdir = do_rmdir,
    .rename = do_rename,
    .chmod = do_chmod,
    .chown = do_chown,
    .utimens = do_utimens,
    .statfs = do_statfs,
    .readdir = do_readdir,
};

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: faultfs [-o options] DIRECTORY MOUNTPOINT\n");
        return 2;
    }
    root_fd = open(argv[argc - 2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root_fd <= 0) {
        fprintf(stderr, "faultfs: %s: %s\n", argv[argc - 2], strerror(errno));
        return 1;
    }
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&changed, &attr);
    char threads[64], foreground[] = "-f";
    snprintf(threads, sizeof threads, "-omax_threads=%d,max_idle_threads=16", WORKERS);
    char **args = calloc((size_t)argc + 2, sizeof *args);
    if (args == NULL)
        return 1;
    int n = 0;
    for (int i = 0; i < argc; i++)
        if (i != argc - 2)
            args[n++] = argv[i];
    args[n++] = threads;
    args[n++] = foreground;
    int result = fuse_main(n, args, &operations, NULL);
    free(args);
    return result;
}
