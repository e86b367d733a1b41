/* flash/ring.h: the reads of one worker: buffers, waiting, retries; the verbs are in extstore.h.
 *
 * A read needs a buffer and a place among the reads in flight. Small ones (most) take a slot of a
 * region set aside at creation and registered with the kernel; larger ones take memory of their
 * own (struct ext_copy), within a bound for the ring, and share it with all that want the same place
 * while it is there. A read that finds no buffer waits in a queue, one for small and one for large,
 * first come first served, so memory is bounded and no read fails for want of it. The bound lets one
 * large read through when there is no other, however large it is.
 *
 * A buffer is held until ext_read_finish(), which for a value is when its client has taken it. Where
 * others wait, the owner is asked to put such values away (ext_ring_set_relief). An op that holds one
 * read while it waits for another (holds_others) would wait for itself: such are first in line, and
 * pass the bound when nothing on its way could give memory back.
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
