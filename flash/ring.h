/* flash/ring.h: the reads of one worker: buffers, waiting, retries; the verbs are in extstore.h.
 *
 * A read needs a buffer and a place among the reads in flight. Small ones (most) take a slot of a
 * region set aside at creation and registered with the kernel; larger ones take memory of their
 * own, within a bound for the ring. A read that finds neither waits in a queue, first come first
 * served, so memory is bounded and no read fails for want of it. The bound lets one large read
 * through when none is under way, however large it is.
 *
 *   ext_read_start -> [waiting] -> in flight -> (short? retry?) -> completed -> done()
 *                \-> copied from a wbuf: DONE at once, or by way of [waiting] -> completed
 *
 * Threads: everything by the ring's own thread, so there are no locks.
 */
#ifndef EXTANT_EXT_RING_H
#define EXTANT_EXT_RING_H

#include "flash/engine.h"

#define EXT_RING_SLOT_BYTES ((uint64_t)16 * KiB)
#define EXT_RING_SLOTS_MIN 4u
#define EXT_RING_SLOTS_MAX 256u
#define EXT_RING_DEPTH_MIN 128u
#define EXT_RING_DEPTH_MAX 4096u
#define EXT_READ_TRIES 3u /* the first and two more */
#define EXT_READ_INTERRUPTS_MAX 100u

/* Adds up the counters of all rings, present and past. rings_lock inside. */
void ext_ring_counters(struct extstore *e, struct ext_info *info);
/* Adds what present rings have read from a device. rings_lock inside. */
void ext_ring_loads(struct extstore *e, unsigned device, struct histogram_sum *latency, uint64_t *bytes);

#endif
