/* upkeep/repair.h: can what an earlier process left in attached memory be true? And what a kill cut short is put right.
 *
 * A kill may fall between any two stores, and memory may be damaged. A kill leaves only states that are repaired here
 * or that ext_attach_done repairs; all others are refused, so that nothing of the engine runs on them.
 *
 * Threads: one, in ext_create; no readers, and nothing is counted yet. No locks.
 */
#ifndef EXTANT_EXT_REPAIR_H
#define EXTANT_EXT_REPAIR_H

#include "flash/types.h"

/* The page table: DRAINING pages are SEALED again, and counts start from 0. 0, or -ESTALE: it is damaged. */
int ext_repair_pages(struct extstore *e);

/* Is what the map says about the slots possible, and what unflushed buffers hold? */
bool ext_buffers_are_sound(struct extstore *e);

/* Frees the ranges of FREE pages that a killed process had not come to. */
void ext_repair_ranges(struct extstore *e);

#endif
