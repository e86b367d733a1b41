/* flash/pread.c: see flash/pread.h. */
#include "flash/pread.h"

#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "flash/engine.h"

struct pread_job {
    struct io_job job;
    struct ext_pread *pread;
    struct pread_job *next; /* free list, or list of completions */
    struct ext_device *device;
    char *buf;
    uint64_t offset;
    void *user;
    uint32_t bytes;
    int result;
};

struct ext_pread {
    /* const after create */
    struct extstore *e;
    int event_fd;
    struct pread_job *reads;
    /* owned by the ring's thread */
    struct pread_job *free;
    /* atomic: pushed by the pool's threads, taken whole by the ring's */
    _Atomic(struct pread_job *) completed;
    _Atomic(uint32_t) completing; /* pool threads that may still touch it */
    _Atomic(bool) given_up;
};

static void read_run(struct io_job *job)
{
    struct pread_job *r = CONTAINER_OF(job, struct pread_job, job);
    struct ext_pread *t = r->pread;
    const struct ext_device_ops *ops = r->device->ops;
    ssize_t n = -EINTR;
    while (n == -EINTR)
        n = atomic_load(&t->given_up) ? -ECANCELED
                                      : ops->pread(ops->ctx, r->device->fd, r->buf, r->bytes, (off_t)r->offset);
    r->result = n > (ssize_t)r->bytes ? -EIO : (int)n;
    atomic_fetch_add(&t->completing, 1);
    r->next = atomic_load(&t->completed);
    while (!atomic_compare_exchange_weak(&t->completed, &r->next, r))
        ;
    (void)eventfd_write(t->event_fd, 1); /* fails only when it is readable anyway */
    atomic_fetch_sub(&t->completing, 1);
}

int ext_pread_create(struct ext_pread **out, unsigned depth, struct extstore *e, int event_fd)
{
    ASSERT(depth > 0 && event_fd >= 0);
    struct ext_pread *t = calloc(1, sizeof(*t));
    if (t == NULL)
        return -ENOMEM;
    t->reads = calloc(depth, sizeof(*t->reads));
    if (t->reads == NULL) {
        free(t);
        return -ENOMEM;
    }
    t->e = e;
    t->event_fd = event_fd;
    for (unsigned i = 0; i < depth; i++) {
        t->reads[i].pread = t;
        t->reads[i].job.run = read_run;
        t->reads[i].next = t->free;
        t->free = &t->reads[i];
    }
    *out = t;
    return 0;
}

void ext_pread_destroy(struct ext_pread *t)
{
    if (t == NULL)
        return;
    while (atomic_load(&t->completing) != 0) /* a few instructions after the last completion */
        sched_yield();
    free(t->reads);
    free(t);
}

void ext_pread_give_up(struct ext_pread *t)
{
    atomic_store(&t->given_up, true);
}

void ext_pread_read(struct ext_pread *t, unsigned device, char *buf, uint32_t bytes, uint64_t offset,
                   void *user)
{
    struct pread_job *r = t->free;
    ASSERT(r != NULL); /* at most depth reads are under way */
    ASSERT(bytes > 0 && buf != NULL && user != NULL);
    t->free = r->next;
    r->device = &t->e->devices[device];
    r->buf = buf;
    r->bytes = bytes;
    r->offset = offset;
    r->user = user;
    io_pool_submit(t->e->read_pools[ext_is_stepped(t->e) ? 0 : device], &r->job);
}

unsigned ext_pread_reap(struct ext_pread *t, bool wait, void (*fn)(void *ctx, void *user, int result),
                       void *ctx)
{
    struct pread_job *list = atomic_exchange(&t->completed, NULL);
    while (wait && list == NULL) {
        struct pollfd p = {.fd = t->event_fd, .events = POLLIN};
        (void)poll(&p, 1, 100);
        list = atomic_exchange(&t->completed, NULL);
    }
    struct pread_job *in_order = NULL;
    while (list != NULL) {
        struct pread_job *next = list->next;
        list->next = in_order;
        in_order = list;
        list = next;
    }
    unsigned n = 0;
    while (in_order != NULL) {
        struct pread_job *r = in_order;
        in_order = r->next;
        void *user = r->user;
        int result = r->result;
        r->next = t->free;
        t->free = r;
        fn(ctx, user, result);
        n++;
    }
    return n;
}
