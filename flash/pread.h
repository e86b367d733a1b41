/* flash/pread.h: the same as flash/uring.h, done by threads with pread: for where io_uring is forbidden.
 *
 * Each read is a job of its device's pool, so that one that stalls delays no other; its completion goes back over a lock-free list, announced on the
 * caller's eventfd. Used by one thread; the pool's threads only complete.
 */
#ifndef EXTANT_EXT_PREAD_H
#define EXTANT_EXT_PREAD_H

#include "flash/device.h"
#include "io_thread.h"

struct ext_pread;

/* The engine and its read_pools outlive it. 0 or -ENOMEM. */
int ext_pread_create(struct ext_pread **out, unsigned depth, struct extstore *e, int event_fd);
/* No read is in flight. */
void ext_pread_destroy(struct ext_pread *t);

/* Starts a read at once; at most depth are under way. One system call: may come back short. */
void ext_pread_read(struct ext_pread *t, unsigned device, char *buf, uint32_t bytes, uint64_t offset,
                   void *user);
/* Reads that no thread has begun yet end with -ECANCELED. */
void ext_pread_give_up(struct ext_pread *t);
/* Calls fn for each completion that is there; returns how many. With wait and none there, first
 * sleeps until there is one. fn may call ext_pread_read. */
unsigned ext_pread_reap(struct ext_pread *t, bool wait, void (*fn)(void *ctx, void *user, int result),
                       void *ctx);

#endif
