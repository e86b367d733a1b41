/* flash/uring.c: see flash/uring.h. */
#include "flash/uring.h"

#include <liburing.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/confine.h"

enum { PROBE_BYTES = 4096, PROBE_MS = 1000 };

struct ext_uring {
    struct io_uring ring;
    char *region;
    uint64_t region_bytes; /* 0: not registered */
};

/* From the best set-up to the one that every kernel with io_uring has, since confine_ring can. */
static const unsigned setups[] = {
    IORING_SETUP_CQSIZE | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SINGLE_ISSUER |
        IORING_SETUP_DEFER_TASKRUN,
    IORING_SETUP_CQSIZE | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_COOP_TASKRUN,
    IORING_SETUP_CQSIZE,
};

static int ring_init(struct io_uring *ring, unsigned depth)
{
    int rc = -EINVAL;
    for (size_t i = 0; i < ARRAY_COUNT(setups) && rc == -EINVAL; i++) {
        struct io_uring_params p = {.flags = setups[i] | IORING_SETUP_R_DISABLED,
                                    .cq_entries = 2 * depth};
        rc = io_uring_queue_init_params(depth, ring, &p);
    }
    return rc;
}

int ext_uring_create(struct ext_uring **out, unsigned depth, const int *fds, unsigned fd_count,
                     char *region, uint64_t region_bytes, int event_fd)
{
    ASSERT(depth > 0 && fd_count > 0 && event_fd >= 0);
    struct ext_uring *u = calloc(1, sizeof(*u));
    if (u == NULL)
        return -ENOMEM;
    int rc = ring_init(&u->ring, depth);
    if (rc != 0) {
        free(u);
        return rc;
    }
    rc = io_uring_register_files(&u->ring, fds, fd_count);
    if (rc == 0)
        rc = io_uring_register_eventfd(&u->ring, event_fd);
    if (rc != 0) {
        ext_uring_destroy(u);
        return rc;
    }
    if (region != NULL) {
        struct iovec iov = {region, region_bytes};
        /* Refused when memory may not be locked; then the kernel pins pages for each read. */
        if (io_uring_register_buffers(&u->ring, &iov, 1) == 0) {
            u->region = region;
            u->region_bytes = region_bytes;
        }
    }
    static const uint8_t reads[] = {IORING_OP_READ, IORING_OP_READ_FIXED};
    rc = confine_ring(&u->ring, reads, ARRAY_COUNT(reads));
    if (rc != 0) {
        ext_uring_destroy(u);
        return rc;
    }
    *out = u;
    return 0;
}

static void note_result(void *ctx, void *user, int result)
{
    *(bool *)ctx = user == ctx && result != -EPERM && result != -EACCES && result != -EINVAL &&
                   result != -ENOSYS && result != -EOPNOTSUPP;
}

/* Waits for the eventfd, like a worker. */
static bool probe_read(struct ext_uring *u, char *buf, uint32_t bytes, int event_fd)
{
    bool works = false;
    ext_uring_read(u, 0, buf, bytes, 0, &works);
    if (ext_uring_submit(u) != 0)
        return false;
    for (uint64_t end = clock_mono_ms() + PROBE_MS, now; (now = clock_mono_ms()) < end;) {
        ext_uring_arrive(u);
        struct pollfd p = {.fd = event_fd, .events = POLLIN};
        if (poll(&p, 1, (int)(end - now)) == 1)
            return ext_uring_reap(u, false, note_result, &works) == 1 && works;
    }
    return false;
}

bool ext_uring_works(int fd)
{
    static char buf[PROBE_BYTES] __attribute__((aligned(PROBE_BYTES))); /* outlives a read that hangs */
    int event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    struct ext_uring *u;
    if (event_fd < 0)
        return false;
    bool works = false;
    if (ext_uring_create(&u, 8, &fd, 1, NULL, 0, event_fd) == 0) {
        works = probe_read(u, buf, sizeof(buf), event_fd);
        ext_uring_destroy(u);
    }
    close(event_fd);
    return works;
}

void ext_uring_destroy(struct ext_uring *u)
{
    if (u == NULL)
        return;
    io_uring_queue_exit(&u->ring);
    free(u);
}

void ext_uring_read(struct ext_uring *u, unsigned fd_index, char *buf, uint32_t bytes,
                    uint64_t offset, void *user)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    ASSERT(sqe != NULL); /* at most depth reads are under way */
    if (u->region_bytes != 0 && buf >= u->region && buf + bytes <= u->region + u->region_bytes)
        io_uring_prep_read_fixed(sqe, (int)fd_index, buf, bytes, offset, 0);
    else
        io_uring_prep_read(sqe, (int)fd_index, buf, bytes, offset);
    io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
    io_uring_sqe_set_data(sqe, user);
}

int ext_uring_submit(struct ext_uring *u)
{
    while (io_uring_sq_ready(&u->ring) > 0) {
        int rc = io_uring_submit(&u->ring);
        if (rc == -EINTR)
            continue;
        if (rc <= 0)
            return rc == 0 ? -EAGAIN : rc;
    }
    return 0;
}

void ext_uring_arrive(struct ext_uring *u)
{
    if (IO_URING_READ_ONCE(*u->ring.sq.kflags) & IORING_SQ_TASKRUN)
        (void)io_uring_get_events(&u->ring);
}

unsigned ext_uring_reap(struct ext_uring *u, bool wait,
                        void (*fn)(void *ctx, void *user, int result), void *ctx)
{
    struct io_uring_cqe *cqe;
    if (wait)
        (void)io_uring_wait_cqe(&u->ring, &cqe); /* a signal ends it early; the caller loops */
    unsigned n = 0;
    /* When there is none left, the peek lets deferred ones arrive, if there are. */
    while (io_uring_peek_cqe(&u->ring, &cqe) == 0) {
        void *user = io_uring_cqe_get_data(cqe);
        int result = cqe->res;
        io_uring_cqe_seen(&u->ring, cqe);
        fn(ctx, user, result);
        n++;
    }
    return n;
}
