/* upkeep/save.h: the engine's part of a checkpoint: a stop after which nothing changes any more, and the page
 * table, to and from the file.
 *
 * Threads: one, that has ended all others that use the engine.
 */
#ifndef EXTANT_EXT_SAVE_H
#define EXTANT_EXT_SAVE_H

#include "base/checkpoint.h"
#include "flash/types.h"

/* Ends all that goes on inside: writes what open wbufs hold and waits up to timeout_ms
 * for it, ends the I/O threads, and has the devices make all that was written durable. The caller's
 * rings and maintenance are gone. Only ext_save(), ext_objects() and ext_destroy() may follow. 0;
 * -EIO: some records could not be written and are in memory only; or a device's sync error. */
int ext_quiesce(struct extstore *e, int64_t timeout_ms);
/* Puts the page table, exact counts included, and the numbers that go on. After a quiesce that gave
 * 0. 0 or checkpoint_put's error. */
int ext_save(struct extstore *e, struct checkpoint_writer *w);
uint64_t ext_objects(const struct extstore *e); /* sum over all pages */
uint32_t ext_version_now(const struct extstore *e); /* the highest given to a page */

/* Fills the empty tables of a new engine from a checkpoint. 0; -ESTALE they are not of these files and
 * sizes; checkpoint_get's error. */
int ext_load_tables(struct extstore *e, struct checkpoint_reader *r);

#endif
