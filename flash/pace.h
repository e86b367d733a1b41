/* flash/pace.h: how much may be written to the devices: a bound by the second, and one by the day.
 *
 * Two buckets of bytes fill with time and are emptied by what devices are given, whatever it is for.
 * A rate of so many bytes a second has a burst of PACE_BURST_SEC seconds, or of four write buffers. A
 * budget by the day fills at 23/24 of its rate, with a burst of 1/24 of the day: so no 24 hours,
 * wherever they begin, see more than the budget.
 *
 * Nothing here stops a write. Who would write asks for the level first, and leaves what is worth least
 * the sooner the lower it is: from PACE_LOW on newcomers that were never hit, from PACE_DIRE on all but
 * the hottest, at 0 everything. What is under way then is a debt, which is remembered up to one burst.
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
    uint64_t rate, burst;     /* const: bytes a second, bytes; 0: no bound */
    _Atomic(int64_t) left;    /* bytes; below 0 a debt */
    _Atomic(uint64_t) filled_ns;
};

struct pace {
    struct pace_bucket second, day;
};

/* Bounds in bytes, 0: none. */
void pace_init(struct pace *p, uint64_t bytes_per_sec, uint64_t bytes_per_day, uint64_t wbuf_bytes,
               uint64_t now_ns);
/* Devices were given so many bytes. */
void pace_spend(struct pace *p, uint64_t bytes);
/* 0 .. PACE_FULL: what is left of the burst, of the bound that is nearer. */
unsigned pace_level(struct pace *p, uint64_t now_ns);

#endif
