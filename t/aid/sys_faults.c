/* sys_faults.c: see sys_faults.h. The functions here replace the system's, as a program's own definitions do; the
 * system's are found with dlsym. They are not instrumented, because some are called before a sanitizer has
 * started. */
#include "t/aid/sys_faults.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

#define PLAIN __attribute__((no_sanitize("address", "undefined")))

/* Defines the function that replaces the system's of that name. A macro, so that a search of the tree for
 * a definition of malloc or read doesn't end here: the product calls the system's. */
#define OVERRIDE(type, name, parameters) PLAIN type name parameters

static _Thread_local unsigned armed_kinds, calls_left, failures_left;
static _Thread_local const char *failed_name, *only_name;

void sys_fail_nth(unsigned kinds, unsigned n, unsigned more)
{
    failed_name = only_name = NULL;
    calls_left = n;
    failures_left = 1 + more;
    armed_kinds = kinds;
}

void sys_fail_named(const char *name, unsigned n, unsigned more)
{
    sys_fail_nth(SYS_ALL, n, more);
    only_name = name;
}

bool sys_failed(void)
{
    armed_kinds = 0;
    return failed_name != NULL;
}

struct sys_armed sys_set_aside(void)
{
    struct sys_armed was = {armed_kinds, calls_left, failures_left};
    armed_kinds = 0;
    return was;
}

void sys_arm_again(struct sys_armed was)
{
    calls_left = was.calls_left;
    failures_left = was.failures_left;
    armed_kinds = was.kinds;
}

const char *sys_failed_name(void) { return failed_name ? failed_name : "nothing"; }

/* Is this the call that has to fail? */
PLAIN static bool fails(unsigned kind, const char *name)
{
    if (!(armed_kinds & kind) || failures_left == 0 || (only_name && strcmp(only_name, name) != 0))
        return false;
    if (calls_left > 1) {
        calls_left--;
        return false;
    }
    failures_left--;
    if (!failed_name)
        failed_name = name;
    return true;
}

/* dlsym may itself want memory before the next calloc is known. */
static char early[16 * 1024];
static size_t early_used;
/* Of each thread: what the others free meanwhile is freed. volatile: dlsym is declared never to call back. */
static _Thread_local volatile bool resolving;

PLAIN static void *early_alloc(size_t bytes)
{
    bytes = (bytes + 15) & ~(size_t)15;
    if (early_used + bytes > sizeof(early))
        abort();
    early_used += bytes;
    return early + early_used - bytes;
}

PLAIN static bool is_early(const void *p)
{
    return (const char *)p >= early && (const char *)p < early + sizeof(early);
}

#define NEXT(fn)                                                                                   \
    static __typeof__(&fn) next;                                                                   \
    if (!next) {                                                                                   \
        resolving = true;                                                                          \
        next = (__typeof__(&fn))dlsym(RTLD_NEXT, #fn);                                             \
        resolving = false;                                                                         \
    }

#define FAILS(kind, fn, err, result)                                                               \
    if (fails(kind, #fn)) {                                                                        \
        errno = (err);                                                                             \
        return result;                                                                             \
    }

/* ---- memory ---- */

OVERRIDE(void *, malloc, (size_t bytes))
{
    FAILS(SYS_MEMORY, malloc, ENOMEM, NULL)
    if (resolving)
        return early_alloc(bytes);
    NEXT(malloc)
    return next(bytes);
}

OVERRIDE(void *, calloc, (size_t n, size_t bytes))
{
    FAILS(SYS_MEMORY, calloc, ENOMEM, NULL)
    if (resolving)
        return early_alloc(n * bytes);
    NEXT(calloc)
    return next(n, bytes);
}

OVERRIDE(void, free, (void *p))
{
    if (resolving || is_early(p)) /* dlsym's: a few bytes that are never freed */
        return;
    NEXT(free)
    next(p);
}

OVERRIDE(void *, realloc, (void *p, size_t bytes))
{
    FAILS(SYS_MEMORY, realloc, ENOMEM, NULL)
    NEXT(realloc)
    return next(p, bytes);
}

OVERRIDE(void *, aligned_alloc, (size_t align, size_t bytes))
{
    FAILS(SYS_MEMORY, aligned_alloc, ENOMEM, NULL)
    NEXT(aligned_alloc)
    return next(align, bytes);
}

OVERRIDE(int, posix_memalign, (void **p, size_t align, size_t bytes))
{
    if (fails(SYS_MEMORY, "posix_memalign"))
        return ENOMEM;
    NEXT(posix_memalign)
    return next(p, align, bytes);
}

#undef strdup
OVERRIDE(char *, strdup, (const char *s))
{
    FAILS(SYS_MEMORY, strdup, ENOMEM, NULL)
    NEXT(strdup)
    return next(s);
}

OVERRIDE(void *, mmap, (void *at, size_t bytes, int prot, int flags, int fd, off_t offset))
{
    FAILS(SYS_MEMORY, mmap, ENOMEM, MAP_FAILED)
    NEXT(mmap)
    return next(at, bytes, prot, flags, fd, offset);
}

/* ---- threads ---- */

OVERRIDE(int, pthread_create, (pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *),
                         void *arg))
{
    if (fails(SYS_THREADS, "pthread_create"))
        return EAGAIN;
    NEXT(pthread_create)
    return next(thread, attr, start, arg);
}

/* ---- files ---- */

OVERRIDE(int, eventfd, (unsigned value, int flags));
OVERRIDE(int, eventfd, (unsigned value, int flags))
{
    FAILS(SYS_FILES, eventfd, EMFILE, -1)
    NEXT(eventfd)
    return next(value, flags);
}

OVERRIDE(int, socket, (int domain, int type, int protocol));
OVERRIDE(int, socket, (int domain, int type, int protocol))
{
    FAILS(SYS_FILES, socket, EMFILE, -1)
    NEXT(socket)
    return next(domain, type, protocol);
}

OVERRIDE(int, fallocate, (int fd, int mode, off_t offset, off_t bytes))
{
    FAILS(SYS_FILES, fallocate, EIO, -1)
    NEXT(fallocate)
    return next(fd, mode, offset, bytes);
}

OVERRIDE(int, ftruncate, (int fd, off_t bytes))
{
    FAILS(SYS_FILES, ftruncate, EIO, -1)
    NEXT(ftruncate)
    return next(fd, bytes);
}

OVERRIDE(int, fsync, (int fd))
{
    FAILS(SYS_FILES, fsync, EIO, -1)
    NEXT(fsync)
    return next(fd);
}

OVERRIDE(int, fstat, (int fd, struct stat *st))
{
    FAILS(SYS_FILES, fstat, EIO, -1)
    NEXT(fstat)
    return next(fd, st);
}

OVERRIDE(int, fstatvfs, (int fd, struct statvfs *st))
{
    FAILS(SYS_FILES, fstatvfs, EIO, -1)
    NEXT(fstatvfs)
    return next(fd, st);
}

OVERRIDE(int, fcntl, (int fd, int command, ...))
{
    va_list ap;
    va_start(ap, command);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    FAILS(SYS_FILES, fcntl, EIO, -1)
    NEXT(fcntl)
    return next(fd, command, arg);
}

OVERRIDE(ssize_t, pread, (int fd, void *buf, size_t bytes, off_t offset))
{
    FAILS(SYS_FILES, pread, EIO, -1)
    NEXT(pread)
    return next(fd, buf, bytes, offset);
}

OVERRIDE(ssize_t, pwrite, (int fd, const void *buf, size_t bytes, off_t offset))
{
    FAILS(SYS_FILES, pwrite, EIO, -1)
    NEXT(pwrite)
    return next(fd, buf, bytes, offset);
}

OVERRIDE(ssize_t, pwritev2, (int fd, const struct iovec *parts, int count, off_t offset, int flags))
{
    FAILS(SYS_FILES, pwritev2, EIO, -1)
    NEXT(pwritev2)
    return next(fd, parts, count, offset, flags);
}

OVERRIDE(ssize_t, read, (int fd, void *buf, size_t bytes))
{
    FAILS(SYS_FILES, read, EIO, -1)
    NEXT(read)
    return next(fd, buf, bytes);
}

OVERRIDE(ssize_t, write, (int fd, const void *buf, size_t bytes))
{
    FAILS(SYS_FILES, write, EIO, -1)
    NEXT(write)
    return next(fd, buf, bytes);
}
