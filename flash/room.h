/* flash/room.h: the free part of flash, and the threads that wait for room.
 *
 * Code that frees a page or a buffer calls ext_wake_writers(); a job of the I/O threads then calls the
 * waiters that got -EAGAIN or -ENOSPC from ext_append and registered with ext_notify_writable.
 *
 * Threads: any. Locks: notify_lock inside; waiters are called with no lock held.
 */
#ifndef EXTANT_EXT_ROOM_H
#define EXTANT_EXT_ROOM_H

#include "flash/types.h"

/* Of a new engine. */
void ext_room_init(struct extstore *e);
/* The engine is destroyed: remaining waiters are dropped. */
void ext_room_end(struct extstore *e);

/* FREE pages of the devices of this class that take writes; and pages of the class in all. */
uint64_t ext_pages_free(const struct extstore *e, enum ext_bucket device_class);
uint64_t ext_pages_total(const struct extstore *e, enum ext_bucket device_class);

/* Below this many free pages of the class, a page has to go. */
uint64_t ext_low_water(const struct extstore *e, enum ext_bucket device_class);
/* Must objects go before the next page can be opened, or soon? Not where pages can be emptied that overwrites and deletes
 * have left half empty. Any thread, cheap. */
bool ext_is_full(const struct extstore *e);
/* The rest of the burst of the write limits (flash/pace.h): 256 all, 0 nothing; without limits 256.
 * Here only rewrites are refused for it; callers that append should check it. Below LOW newcomers should be
 * left out, below DIRE all but the best. Any thread, cheap. */
#define EXT_WRITE_LOW 128u
#define EXT_WRITE_DIRE 64u
unsigned ext_write_level(struct extstore *e);
/* Seconds from opening a write buffer until it is written, as for the last one; at most 60. */
uint32_t ext_flush_sec(const struct extstore *e);

/* Right now a buffer and a page are there for an ordinary append. */
bool ext_is_writable(struct extstore *e);

/* Tells fd-less waiters: fn(arg) is called once, from an I/O thread, when an append that said
 * -EAGAIN or -ENOSPC may succeed, or at once (in the caller) if it already may. */
void ext_notify_writable(struct extstore *e, void (*fn)(void *arg), void *arg);
/* If fn(arg) still waits, calls it now, in the caller; otherwise it was already called, or is being called. */
void ext_cancel_notify(struct extstore *e, void (*fn)(void *arg), void *arg);

/* An append may succeed that did not before: wakes waiters (from an I/O thread). Any lock up to
 * LOCK_EXT_PAGE may be held. */
void ext_wake_writers(struct extstore *e);

#endif
