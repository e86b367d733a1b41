/* flash/ring.h: the reads of one worker: buffers, waiting, retries.
 *
 * A read needs a buffer and a place among the reads in flight. Small ones (most) take a slot of a
 * region set aside at creation and registered with the kernel; larger ones take memory of their
 * own (struct ext_copy), within a bound for the ring, and share it with all reads of the same place
 * while it is there. A read that finds no buffer waits in a queue, one for small and one for large,
 * first come first served, so memory is bounded and no read fails for lack of it. The bound admits a single
 * large read of any size when there is no other. If there are several devices, each has an equal share of places in flight,
 * slots and memory. Reads begin in the order in which they were started, whatever their devices; those of a device that
 * has its share under way are passed over. So reads of one that is slow or stalls delay no read of another, and while all
 * answer, the buffers are with the oldest reads: a client's values are sent in order, so a buffer of a later one would not
 * come back before the earlier ones have been read. (A value larger than its device's share waits until others have given
 * memory back; large ones of other devices wait behind it.) Neither small nor large reads take all places in flight of a
 * device: an eighth is left to the other kind.
 *
 * A buffer is held until ext_read_finish(), for a value until its client has taken it. If
 * others wait, the owner is asked to put such values away (ext_ring_set_free_buffers). An op that holds one
 * read while it waits for another (holds_others) could wait for itself: such reads are first in line, and
 * exceed the bound when no read of their device that is under way could give memory back.
 *
 *   ext_read_start -> [waiting] -> in flight -> (short? retry?) -> completed -> done()
 *                \-> copied from a wbuf: DONE at once, or by way of [waiting] -> completed
 *
 * Threads: only the ring's own thread, so there are no locks.
 */
#ifndef EXTANT_EXT_RING_H
#define EXTANT_EXT_RING_H

#include "flash/types.h"

#define EXT_RING_SLOT_BYTES ((uint64_t)16 * KiB)
#define EXT_RING_SLOTS_MIN 4u
#define EXT_RING_SLOTS_MAX 256u
#define EXT_RING_DEPTH_MIN 128u
#define EXT_RING_DEPTH_MAX 4096u
#define EXT_READ_TRIES 3u /* the first and two more */
#define EXT_READ_INTERRUPTS_MAX 100u

/* Rings: one per worker thread, created, used and destroyed by that thread. */
struct ext_ring *ext_ring_create(struct extstore *e);
/* Waits for reads in flight and runs their done(); buffers are gone then, so the caller has nothing
 * left to finish but pins (ext_unpin) of reads that it has not finished. */
void ext_ring_destroy(struct ext_ring *ring);
/* Readable when completions wait; for the event loop. The ring's, until it is destroyed. */
int ext_ring_fd(const struct ext_ring *ring);
/* Starts a read. The caller has pinned the place with ext_pin, always; the read takes that pin over
 * and ext_read_finish gives it back. If the range is still in memory and a read buffer is free,
 * copies the record and sets state DONE at once (done is not called); else state QUEUED and done is
 * called later. Holds no lock, or LOCK_COLUMN. */
void ext_read_start(struct ext_ring *ring, struct ext_read *r, ext_place place, unsigned len_class);
/* Hands everything queued since the last call to the kernel: once per event-loop turn. */
void ext_ring_submit(struct ext_ring *ring);
/* Runs done() of each completed read; returns how many. Call when the fd is readable. */
unsigned ext_ring_reap(struct ext_ring *ring);
/* The same for at most `max` of them, so that their replies go out before the rest is handled.
 * *more: there is a rest, which the fd does not show: call it again before waiting. */
unsigned ext_ring_reap_some(struct ext_ring *ring, unsigned max, bool *more);
/* Reads queued or in flight. */
unsigned ext_ring_pending(const struct ext_ring *ring);
/* Verifies the bytes (checksum with place and version, lengths, key if key != NULL). 0 and *out
 * pointing into r's buffer; -EBADMSG wrong bytes; -ENOENT another key's record (intact); r->result
 * if that was an error. */
int ext_read_record(const struct ext_read *r, const char *key, unsigned key_bytes,
                    struct ext_record *out);
/* The record did not verify: a device or a bus may be right the second time. True: the same
 * read is QUEUED again, pin and buffer kept, and done comes later. False: it was read
 * EXT_READ_AGAIN_MAX times more already, or its bytes never left memory. */
#define EXT_READ_AGAIN_MAX 2
bool ext_read_again(struct ext_read *r);
/* Nobody wants it any more: if it waits for its turn, it ends with -ECANCELED; done() comes later, as for any other, after
 * ext_ring_submit(). */
void ext_read_cancel(struct ext_read *r);
/* Its client has probably left: if it waits for its turn, it begins when no other of its device and size waits, or when
 * many have begun before it: the client may have closed only its half. */
void ext_read_put_last(struct ext_read *r);
/* The ring ends soon: what waits, and what is started from now on, ends with -ECANCELED; nothing is tried again. What is
 * with the device goes on. */
void ext_ring_give_up(struct ext_ring *ring);
/* Gives buffer and page pin back. Call once for each started read, after DONE. */
void ext_read_finish(struct ext_read *r);
/* Gives the buffer of a DONE read back, and keeps its page pinned: ext_read_start() with the same place
 * brings the same bytes again, the first time before reads that were started since, and takes the pin over. The bytes
 * that this sets free: 0 if others share the copy. */
uint64_t ext_read_put_away(struct ext_read *r);
/* Is it one of the large reads, which have a bound of their own? Of a DONE read. */
bool ext_read_is_large(const struct ext_read *r);
/* Reads wait for buffers, and all may be held by reads that are DONE. fn is asked to give some back, in the
 * ring's thread, from ext_ring_submit() and ext_ring_reap*(): true if it did. large: of large ones. */
void ext_ring_set_free_buffers(struct ext_ring *ring, bool (*fn)(void *ctx, bool large), void *ctx);
/* More may be given back now: if reads wait, the fd becomes readable, and fn is called again. */
void ext_ring_nudge(struct ext_ring *ring);

/* Adds the counters of all rings, present and past. rings_lock inside. */
void ext_ring_counters(struct extstore *e, struct ext_info *info);
/* For how long has the device answered nothing, neither to a ring nor to the I/O threads, although it had something to do?
 * 0: it answers, or has nothing to do. rings_lock inside. */
uint64_t ext_silent_ns(struct extstore *e, unsigned device);
/* Adds what present rings have read from a device. rings_lock inside. */
void ext_ring_loads(struct extstore *e, unsigned device, struct histogram_sum *latency, uint64_t *bytes);

#endif
