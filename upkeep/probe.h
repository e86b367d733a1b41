/* upkeep/probe.h: test writes and reads: have failed devices and BAD pages recovered?
 *
 * Nothing else finds out when there is no traffic, or no page to write to. For each device one
 * probe at a time, of the most important kind that is due:
 *
 *   WRITE  the device is failed: a block of zeroes to a FREE page, or to a BAD one that holds
 *          nothing; after 50 ms, twice as long after each failure, up to 0.8 s. Success: its pages
 *          are opened again. If it took no mark at the start, that is what is written. (Wbufs that are stuck try as well; with no such page only they do.)
 *   READ   reads fail: a block of the device is read, each time another, once a second.
 *   PAGE   a BAD page that holds nothing: zeroes to where its write failed. When: see flash/types.h;
 *          if free pages are short (below reclaim's low-water mark), failures are 0.1 s apart.
 *
 * Threads: the maintenance thread begins probes, an I/O thread runs them. Locks: page_lock inside.
 */
#ifndef EXTANT_EXT_PROBE_H
#define EXTANT_EXT_PROBE_H

#include "flash/types.h"

void ext_probe_init(struct extstore *e);

/* Begins due probes, and never waits; says in the log which devices stall. Called with each ext_maint_step. */
void ext_probe_step(struct extstore *e);

/* Is a BAD page being tried now, so that it may be free in a moment? Maintenance thread only. */
bool ext_probe_tries_page(const struct extstore *e);

#endif
