/* net/netring.h: sends on many sockets with one call into the kernel.
 *
 * An io_uring of its own for each user, apart from the one that reads flash. A send never waits: it
 * takes what the socket has room for, as send() with MSG_DONTWAIT does, and has its result by the
 * time netring_run() returns. So its bytes and its descriptor must stay valid only
 * until then.
 *
 * Without io_uring (old kernel, forbidden) there is no ring, and its user sends one by one. If the kernel
 * runs out of memory for it, the ring ends the same way.
 *
 * Threads: all calls by the thread that created the ring. No locks.
 */
#ifndef EXTANT_NETRING_H
#define EXTANT_NETRING_H

#include <sys/uio.h>

#include "base/base.h"

#define NETRING_DEPTH 128u    /* sends in one run */
#define NETRING_PIECES_MAX 8u /* of one send */

struct netring;

/* NULL with errno: -EPERM, ENOSYS where io_uring is forbidden or missing, ENOMEM. */
struct netring *netring_create(void);
void netring_destroy(struct netring *n); /* NULL is allowed */

/* Run it before the next send. */
bool netring_is_full(const struct netring *n);
/* Where the next send's pieces go, NETRING_PIECES_MAX of them. Not full. */
struct iovec *netring_pieces(struct netring *n);
/* Queues a send of the first `count` (>= 1) of these pieces. */
void netring_send(struct netring *n, int fd, unsigned count, void *user);
/* Sends all that is queued and calls fn once for each: bytes sent, or -errno (-EAGAIN: the socket
 * has no room, or the kernel no memory; nothing was sent). fn may close descriptors, and queue
 * nothing. False: the ring can no longer be used. */
bool netring_run(struct netring *n, void (*fn)(void *user, int result));

#endif
