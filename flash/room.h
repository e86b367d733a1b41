/* flash/room.h: how much of flash is free, and who waits for room.
 *
 * What frees a page or a buffer calls ext_wake_writers(); those that were told -EAGAIN or -ENOSPC by
 * ext_append, and asked to hear of it (ext_notify_writable), are called by a job of the I/O threads.
 *
 * Threads: any. Locks: notify_lock inside; waiters are called with no lock held.
 */
#ifndef EXTANT_EXT_ROOM_H
#define EXTANT_EXT_ROOM_H

#include "flash/types.h"

/* Of a new engine. */
void ext_room_init(struct extstore *e);
/* The engine goes: waiters that nobody called are forgotten. */
void ext_room_end(struct extstore *e);

/* FREE pages of the devices of this class that take writes; and pages of the class in all. */
uint64_t ext_pages_free(const struct extstore *e, enum ext_bucket device_class);
uint64_t ext_pages_total(const struct extstore *e, enum ext_bucket device_class);

/* Below this many free pages of the class something has to go. */
uint64_t ext_low_water(const struct extstore *e, enum ext_bucket device_class);
/* Has something to go before the next page can be opened, or nearly so? Any thread, cheap. */
bool ext_is_full(const struct extstore *e);
/* What the limits of writing leave of their burst (flash/pace.h): 256 all, 0 nothing; without limits 256.
 * Nothing is refused for it here but rewrites: who appends is asked to ask. Below LOW newcomers should be
 * left, below DIRE all but the best. Any thread, cheap. */
#define EXT_WRITE_LOW 128u
#define EXT_WRITE_DIRE 64u
unsigned ext_write_level(struct extstore *e);
/* Seconds that an open write buffer takes to be filled and written, as the last one did; at most 60. */
uint32_t ext_flush_sec(const struct extstore *e);

/* Right now a buffer and a page are there for an ordinary append. */
bool ext_is_writable(struct extstore *e);

/* Tells fd-less waiters: fn(arg) is called once, from an I/O thread, when an append that said
 * -EAGAIN or -ENOSPC may succeed, or at once (in the caller) if it already may. */
void ext_notify_writable(struct extstore *e, void (*fn)(void *arg), void *arg);
/* If fn(arg) still waits, calls it now, in the caller; else it was called, or is just now. */
void ext_cancel_notify(struct extstore *e, void (*fn)(void *arg), void *arg);

/* An append may succeed that did not before: wakes who waits (from an I/O thread). Any lock up to
 * LOCK_EXT_PAGE may be held. */
void ext_wake_writers(struct extstore *e);

#endif
