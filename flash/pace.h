/* flash/pace.h: limits on bytes written to the devices, per second and per day.
 *
 * Two buckets of bytes fill with time; every write to a device empties them, for any purpose.
 * The rate per second has a burst of PACE_BURST_SEC seconds, or of four write buffers. The
 * daily budget fills at 23/24 of its rate, with a burst of 1/24 of the day, so no 24 hours,
 * beginning at any time, exceed the budget.
 *
 * Nothing here stops a write. Callers read the level before they write, and the lower it is, the more they
 * leave out: below PACE_LOW newcomers that were never hit, below PACE_DIRE everything but the hottest, at 0
 * everything. Writes that are then under way become a debt, remembered up to one burst.
 *
 * Any thread; no lock.
 */
#ifndef EXTANT_FLASH_PACE_H
#define EXTANT_FLASH_PACE_H

#include "base/base.h"

#define PACE_BURST_SEC 10u
#define PACE_FULL 256u
#define PACE_LOW 128u
#define PACE_DIRE 64u

struct pace_bucket {
    uint64_t rate, burst;     /* const: bytes a second, bytes; 0: no limit */
    _Atomic(int64_t) left;    /* bytes; below 0 a debt */
    _Atomic(uint64_t) filled_ns;
};

struct pace {
    struct pace_bucket second, day;
};

/* Limits in bytes, 0: none. */
void pace_init(struct pace *p, uint64_t bytes_per_sec, uint64_t bytes_per_day, uint64_t wbuf_bytes,
               uint64_t now_ns);
/* Notes that this many bytes were sent to devices. */
void pace_spend(struct pace *p, uint64_t bytes);
/* 0 .. PACE_FULL: the rest of the burst, of the tighter limit. */
unsigned pace_level(struct pace *p, uint64_t now_ns);

#endif
