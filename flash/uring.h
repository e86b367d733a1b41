/* flash/uring.h: reads through one io_uring, made and used by one thread.
 *
 * Files and one region of buffers are registered; the ring is set up for a
 * single issuer with deferred completions where the kernel has that, and
 * without elsewhere. Completions are announced on an eventfd, the caller's:
 * with deferred completions the ring's own fd does not always wake epoll.
 *
 * The caller bounds the reads in flight (depth), so neither queue overflows.
 */
#ifndef EXTANT_EXT_URING_H
#define EXTANT_EXT_URING_H

#include "base/base.h"

struct ext_uring;

/* Makes a ring and reads through it once from fd (at offset 0; any answer of the device counts): a
 * sandbox may let rings be made but not set up, or not entered, or never complete anything. Sleeps for
 * that read, at most a second. */
bool ext_uring_works(int fd);

/* fds are named by their place in the array afterwards. region (may be NULL) is what most reads go
 * to. 0 or -errno: -EPERM and -ENOSYS where io_uring is forbidden or missing, -ENOMEM .. */
int ext_uring_create(struct ext_uring **out, unsigned depth, const int *fds, unsigned fd_count,
                     char *region, uint64_t region_bytes, int event_fd);
/* No read is in flight. */
void ext_uring_destroy(struct ext_uring *u);

/* Prepares a read; it starts with the next submit. user comes back with its completion. */
void ext_uring_read(struct ext_uring *u, unsigned fd_index, char *buf, uint32_t bytes,
                    uint64_t offset, void *user);
/* Hands what is prepared to the kernel. 0, or -errno: some is left for the next call. */
int ext_uring_submit(struct ext_uring *u);
/* Lets completions that the kernel has put off arrive. This announces them: a thread that then reads the
 * eventfd before it reaps is not woken for them a second time. */
void ext_uring_arrive(struct ext_uring *u);
/* Calls fn for each completion (result: bytes or -errno) that is there, or, with wait, once there
 * is one; returns how many. fn may call ext_uring_read. */
unsigned ext_uring_reap(struct ext_uring *u, bool wait,
                        void (*fn)(void *ctx, void *user, int result), void *ctx);

#endif
