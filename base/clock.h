/* base/clock.h: the clocks of items, statistics and time-outs.
 *
 * Three clocks, recognised by the names of their values:
 *  - rel: whole seconds since the cache's epoch, 32 bits, as items store them.
 *    The epoch is 2 seconds before the start of the process, so that 0 can mean
 *    "never" and 1 "long ago"; a restart that takes over items takes over their
 *    epoch too. This is the only clock that `debugtime` pauses and shifts.
 *  - unix: seconds since 1970, for values that leave the process.
 *  - mono: of CLOCK_MONOTONIC, for durations only.
 * Rel time follows CLOCK_MONOTONIC: setting the machine's clock never expires or
 * revives an item. The unix time of the epoch, by which records on flash count, stays with the content, however often the
 * clock is set; expiry times that clients give as unix time, and times that they are shown, count by the wall clock as it was
 * when this process began.
 *
 * Tests may simulate: then all clocks follow a time that only clock_simulate() and clock_sleep_ns()
 * move, so that a run can be repeated.
 *
 * One static state in base/clock.c, all atomics. Any thread, never sleeps, no locks.
 * clock_setup() comes before everything else, in one thread.
 */
#ifndef EXTANT_CLOCK_H
#define EXTANT_CLOCK_H

#include "base/base.h"

#define CLOCK_START_REL_SEC 2u              /* rel time when the process starts */
#define CLOCK_NEVER_SEC 0u                  /* an expiry that doesn't come */
#define CLOCK_EXPIRED_SEC 1u                /* an expiry that has always passed */
#define CLOCK_RELATIVE_MAX_SEC (60 * 60 * 24 * 30) /* expiry times above are unix times */

/* Starts a new epoch; drops shifts and pauses. */
void clock_setup(void);

/* At the last setup the machine's clock was before 1970, or after 2096, when unix times soon exceed 32
 * bits. Then unix times count from that bound: times to live stay right, but expiry times
 * given as unix time are wrong. */
bool clock_wall_is_odd(void);

/* Starts in the epoch of an earlier process: unix_epoch_sec is its
 * clock_unix_epoch_sec(), last_rel_sec a clock_now_sec() of it (0: not known), and last_wall_sec what the wall clock was at
 * that moment. Rel time goes on by what has passed since, so it doesn't matter whether the clock was set before. Time does not
 * fall behind last_rel_sec, so that no expired item lives again (the seconds of two clocks don't begin
 * together). -EINVAL, and nothing changes, if that epoch is not at least CLOCK_START_REL_SEC ago, or is so old that rel
 * time overflows within 30 years. */
int clock_setup_epoch(int64_t unix_epoch_sec, uint32_t last_rel_sec, int64_t last_wall_sec);

/* The same for an epoch of this boot, by the clock that rel time follows: mono_epoch_sec is the
 * earlier process's clock_mono_epoch_sec(). So rel time goes on even if the machine's clock was
 * set meanwhile. -EINVAL as above, by CLOCK_MONOTONIC. */
int clock_setup_boot_epoch(int64_t unix_epoch_sec, int64_t mono_epoch_sec);

/* Rel time now; never falls, except by clock_shift(). In a thread that calls clock_new_turn() it
 * stands still within each turn, so that reading it is cheap. */
uint32_t clock_now_sec(void);

/* A new turn of this thread's event loop begins: time goes on. After its first call a thread must call it
 * before each wait. */
void clock_new_turn(void);

/* Seconds since clock_setup*(), shifts included, counted from CLOCK_START_REL_SEC as
 * memcached's `uptime` is. */
uint32_t clock_uptime_sec(void);

/* Unix time of rel time 0; and rel to unix. Shifts count as if time had passed. */
int64_t clock_unix_epoch_sec(void);
/* CLOCK_MONOTONIC at rel time 0, without shifts. */
int64_t clock_mono_epoch_sec(void);
int64_t clock_rel_to_unix(uint32_t rel_sec);

/* Unix time now as the content counts it: the epoch plus rel time, so shifts show. */
int64_t clock_unix_now_sec(void);

/* The same two by the wall clock as it was when this process began: what clients are shown. */
int64_t clock_rel_to_wall(uint32_t rel_sec);
int64_t clock_wall_now_sec(void);

/* The rel time at which an item with this expiry time, as a client gives it, expires:
 * 0 never; negative at once; up to 30 days from now; otherwise at that unix time by the wall clock as it was when this process began,
 * CLOCK_EXPIRED_SEC if that is before the epoch. Times beyond the range of rel time become its last second. */
uint32_t clock_exptime(int64_t raw);

/* Wall clock with microseconds since 1970, unshifted, for log lines. */
int64_t clock_wall_us(void);

uint64_t clock_mono_ns(void);
uint64_t clock_mono_us(void);
uint64_t clock_mono_ms(void);

/* Sleeps this long, or less after a signal; simulated time jumps instead. The caller holds no lock. */
void clock_sleep_ns(uint64_t ns);

/* The time is mono_ns (not 0) from now to the next call; the wall clock shows a fixed time plus that.
 * 0: back to the machine's clocks. One thread; the first call comes before clock_setup(). */
void clock_simulate(uint64_t mono_ns);

/* `debugtime`: rel time stops, goes on (where it would be without the stop), jumps by
 * delta_sec (also while stopped; may be negative, but rel time stays at least
 * CLOCK_START_REL_SEC). Not for two threads at once. Tests use them as a fake clock. */
void clock_pause(void);
void clock_resume(void);
void clock_shift(int64_t delta_sec);

#endif
