/* net/netring.c: see net/netring.h. */
#include "net/netring.h"

#include <liburing.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/confine.h"

struct out {
    struct msghdr msg;
    struct iovec pieces[NETRING_PIECES_MAX];
    void *user; /* NULL once its result is known */
};

static_assert(NETRING_PIECES_MAX <= 1024, "IOV_MAX");

struct netring {
    struct io_uring ring;
    unsigned queued;
    struct out out[NETRING_DEPTH];
};

/* A sandbox may allow creating rings but not entering them. 0 or -errno. */
static int try_to_enter(struct io_uring *ring)
{
    return syscall(__NR_io_uring_enter, ring->ring_fd, 0, 0, 0, NULL, 0) < 0 ? -errno : 0;
}

struct netring *netring_create(void)
{
    struct netring *n = calloc(1, sizeof(*n));
    if (!n)
        return NULL;
    struct io_uring_params best = {.flags = IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER |
                                            IORING_SETUP_DEFER_TASKRUN},
                           plain = {.flags = IORING_SETUP_R_DISABLED};
    int rc = io_uring_queue_init_params(NETRING_DEPTH, &n->ring, &best);
    if (rc == -EINVAL)
        rc = io_uring_queue_init_params(NETRING_DEPTH, &n->ring, &plain);
    if (rc == 0) {
        static const uint8_t sends[] = {IORING_OP_SEND, IORING_OP_SENDMSG};
        rc = confine_ring(&n->ring, sends, ARRAY_COUNT(sends));
        if (rc == 0)
            rc = try_to_enter(&n->ring);
        if (rc == 0)
            return n;
        io_uring_queue_exit(&n->ring);
    }
    free(n);
    errno = -rc;
    return NULL;
}

void netring_destroy(struct netring *n)
{
    if (!n)
        return;
    io_uring_queue_exit(&n->ring);
    free(n);
}

bool netring_is_full(const struct netring *n)
{
    DEBUG_ASSERT(n->queued <= NETRING_DEPTH);
    return n->queued == NETRING_DEPTH;
}

struct iovec *netring_pieces(struct netring *n)
{
    ASSERT(!netring_is_full(n));
    return n->out[n->queued].pieces;
}

void netring_send(struct netring *n, int fd, unsigned count, void *user)
{
    const int flags = MSG_NOSIGNAL | MSG_DONTWAIT;
    struct out *o = &n->out[n->queued];
    struct io_uring_sqe *sqe = io_uring_get_sqe(&n->ring);
    ASSERT(sqe && user && count >= 1 && count <= NETRING_PIECES_MAX);
    if (count == 1) {
        io_uring_prep_send(sqe, fd, o->pieces[0].iov_base, o->pieces[0].iov_len, flags);
    } else {
        o->msg = (struct msghdr){.msg_iov = o->pieces, .msg_iovlen = count};
        io_uring_prep_sendmsg(sqe, fd, &o->msg, flags);
    }
    io_uring_sqe_set_data(sqe, o);
    o->user = user;
    n->queued++;
}

/* Hands all to the kernel; returns how many it took. */
static unsigned submit(struct netring *n)
{
    unsigned taken = 0;
    while (taken < n->queued) {
        int rc = io_uring_submit(&n->ring);
        if (rc == -EINTR)
            continue;
        if (rc <= 0)
            break;
        taken += (unsigned)rc;
    }
    return taken;
}

bool netring_run(struct netring *n, void (*fn)(void *user, int result))
{
    unsigned queued = n->queued, taken = submit(n), seen = 0;
    while (seen < taken) {
        struct io_uring_cqe *cqe;
        unsigned head, count = 0;
        io_uring_for_each_cqe(&n->ring, head, cqe)
        {
            struct out *o = io_uring_cqe_get_data(cqe);
            void *user = o->user;
            o->user = NULL;
            count++;
            fn(user, cqe->res);
        }
        io_uring_cq_advance(&n->ring, count);
        seen += count;
        /* Sends that don't wait are done when the kernel has taken them; this is for a kernel that finishes one
         * later nevertheless. */
        if (seen < taken && count == 0)
            (void)io_uring_wait_cqe(&n->ring, &cqe);
    }
    DEBUG_ASSERT(seen >= taken && taken <= queued);
    n->queued = 0;
    for (unsigned i = 0; i < queued && taken < queued; i++) {
        if (n->out[i].user)
            fn(n->out[i].user, -EAGAIN);
    }
    return taken == queued;
}
