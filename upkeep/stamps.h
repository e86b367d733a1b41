/* upkeep/stamps.h: the stamps that this process puts on its devices' marks (flash/mark.h).
 *
 * A stamp is chosen, noted as the one that may follow (struct ext_known: step), written to the device, and noted as the
 * one that is there. A kill at any point leaves tables that know what the device bears.
 *
 * A write that fails is tried again for some tenths of a second. A device that takes none then counts as failed from the
 * start, with a stamp that is due: upkeep/probe.h tries to write it, and before that nothing else is written there.
 *
 * Threads: one while the engine is made; then an I/O thread for each device, which runs its probe. No locks are held.
 */
#ifndef EXTANT_EXT_STAMPS_H
#define EXTANT_EXT_STAMPS_H

#include "flash/types.h"

struct ext_device;
struct ext_known;

/* The stamp that the device gets next: a new one, noted in k, or the one that is due. */
uint64_t ext_stamp_choose(struct ext_device *d, struct ext_known *k);
/* Writes the chosen one. 0 or -errno: then it stays due. Waits for the device. */
int ext_stamp_put(struct ext_device *d, struct ext_known *k);
/* Chooses and writes stamps for the devices in the set, a bit each; known[]: one for each device of the engine. If any
 * device is in order, those that take no mark are failed, and it returns 0. Otherwise -errno with why[]. */
int ext_stamps_put(struct extstore *e, struct ext_known *known, uint32_t set, char *why, size_t n);
/* Of attached memory, before anything is written. A device that can't be written keeps its stamp: what is in memory is
 * worth more than a checkpoint's certain end. */
void ext_stamps_renew(struct extstore *e);

/* Of a device: what its mark has, and what is due (0: nothing). For a head that has to fit whatever the probe does
 * meanwhile, take the second one first. */
uint64_t ext_device_stamp_of(const struct extstore *e, unsigned device);
uint64_t ext_device_next_stamp_of(const struct extstore *e, unsigned device);

#endif
