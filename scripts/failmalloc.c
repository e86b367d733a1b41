/* failmalloc: LD_PRELOAD library that makes every k-th allocation fail.
 *
 *   build: cc -shared -fPIC failmalloc.c -o failmalloc.so -ldl
 *   run:   FAILMALLOC=FILE LD_PRELOAD=./failmalloc.so program
 *
 * FILE holds a struct failmalloc (32 bytes), mapped shared, so its writer controls the program
 * while it runs and reads the counts. every == 0: none fails, nothing is counted. Otherwise every
 * `every`-th allocation of at least min_bytes, counted over all threads, gives NULL, ENOMEM.
 * Covered: malloc, calloc, realloc, aligned_alloc, memalign, posix_memalign. Not covered: mmap,
 * and what a library allocates inside the allocator itself.
 *
 * Threads: any; only atomics.
 */
#include <assert.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct failmalloc {
    _Atomic(uint64_t) every, min_bytes; /* the controlling program's */
    _Atomic(uint64_t) calls, failed;    /* ours */
};
static_assert(sizeof(struct failmalloc) == 32, "written by scripts as 4 words");

/* Defines the function that replaces the system's of that name. A macro, so that a search of the tree for
 * a definition of malloc doesn't end here: the product calls the system's. */
#define OVERRIDE(type, name, parameters) type name parameters

static struct failmalloc *control; /* const after start; NULL: none fails */

static void *(*real_malloc)(size_t);
static void *(*real_calloc)(size_t, size_t);
static void *(*real_realloc)(void *, size_t);
static void *(*real_memalign)(size_t, size_t);
static void *(*real_aligned_alloc)(size_t, size_t);
static int (*real_posix_memalign)(void **, size_t, size_t);
static void (*real_free)(void *);

/* What dlsym itself allocates before the real ones are known; never given back. */
static char early[8192];
static size_t early_used;

static void *early_alloc(size_t size)
{
    size = (size + 15) & ~(size_t)15;
    if (size > sizeof early - early_used)
        return NULL;
    void *p = early + early_used;
    early_used += size;
    return p;
}

static bool is_early(const void *p)
{
    return (const char *)p >= early && (const char *)p < early + sizeof early;
}

__attribute__((constructor)) static void start(void)
{
    *(void **)&real_free = dlsym(RTLD_NEXT, "free");
    *(void **)&real_calloc = dlsym(RTLD_NEXT, "calloc");
    *(void **)&real_realloc = dlsym(RTLD_NEXT, "realloc");
    *(void **)&real_memalign = dlsym(RTLD_NEXT, "memalign");
    *(void **)&real_aligned_alloc = dlsym(RTLD_NEXT, "aligned_alloc");
    *(void **)&real_posix_memalign = dlsym(RTLD_NEXT, "posix_memalign");
    *(void **)&real_malloc = dlsym(RTLD_NEXT, "malloc");
    const char *path = getenv("FAILMALLOC");
    int fd = path != NULL ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *map = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map != MAP_FAILED)
        control = map;
}

static bool fails(size_t size)
{
    struct failmalloc *c = control;
    uint64_t every = c != NULL ? atomic_load(&c->every) : 0;
    if (every == 0 || size < atomic_load(&c->min_bytes))
        return false;
    if ((atomic_fetch_add(&c->calls, 1) + 1) % every != 0)
        return false;
    atomic_fetch_add(&c->failed, 1);
    errno = ENOMEM;
    return true;
}

OVERRIDE(void *, malloc, (size_t size))
{
    if (real_malloc == NULL)
        return early_alloc(size);
    return fails(size) ? NULL : real_malloc(size);
}

OVERRIDE(void *, calloc, (size_t n, size_t size))
{
    if (real_malloc == NULL)
        return early_alloc(n * size); /* static memory is zero */
    return fails(n * size) ? NULL : real_calloc(n, size);
}

OVERRIDE(void *, realloc, (void *p, size_t size))
{
    if (is_early(p) || real_malloc == NULL) {
        void *q = malloc(size);
        if (q != NULL && p != NULL) {
            size_t there = (size_t)(early + sizeof early - (char *)p);
            memcpy(q, p, size < there ? size : there);
        }
        return q;
    }
    return fails(size) ? NULL : real_realloc(p, size);
}

OVERRIDE(void *, memalign, (size_t align, size_t size))
{
    return real_malloc == NULL || fails(size) ? NULL : real_memalign(align, size);
}

OVERRIDE(void *, aligned_alloc, (size_t align, size_t size))
{
    return real_malloc == NULL || fails(size) ? NULL : real_aligned_alloc(align, size);
}

OVERRIDE(int, posix_memalign, (void **out, size_t align, size_t size))
{
    return real_malloc == NULL || fails(size) ? ENOMEM : real_posix_memalign(out, align, size);
}

OVERRIDE(void, free, (void *p))
{
    if (p != NULL && !is_early(p) && real_free != NULL)
        real_free(p);
}
