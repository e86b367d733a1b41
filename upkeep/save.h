/* upkeep/save.h: the engine's part of a checkpoint: a stop after which nothing changes any more, and the page
 * table, to and from the file.
 *
 * Threads: one, after it has ended all other users of the engine.
 */
#ifndef EXTANT_EXT_SAVE_H
#define EXTANT_EXT_SAVE_H

#include "base/checkpoint.h"
#include "flash/types.h"

/* The file's layout: struct ext_saved_engine, then for each page struct ext_saved_page, then a bit for
 * each slot: is WRITTEN. A page that was being drained, or had a failed write, comes back SEALED with
 * its records, so that it is drained again; the device may have recovered by then. */
#define EXT_SAVED_MAGIC 0x32656c626154u /* "Table2" */

struct ext_saved_engine {
    uint64_t magic;
    uint64_t page_bytes, wbuf_bytes;
    uint64_t next_seq;
    uint64_t stamp; /* of the devices' marks */
    uint32_t page_count, next_version, flush_unix, reserved;
};
static_assert(sizeof(struct ext_saved_engine) == 56, "saved engine");

struct ext_saved_page {
    uint32_t version, slots_used, objects, exptime_max, time_max;
    uint8_t state, bucket;
    uint16_t reserved;
    uint64_t bytes_used, bytes_appended, bytes_real;
};
static_assert(sizeof(struct ext_saved_page) == 48, "saved page");

/* Can this be an entry of the page table? Pure. */
bool ext_saved_page_is_sound(const struct ext_saved_page *p, uint32_t slots_per_page);

/* Ends all activity: writes open wbufs and waits up to timeout_ms
 * for that, ends the I/O threads, and makes all writes durable on the devices. The caller's
 * rings and maintenance are gone. Only ext_save(), ext_objects() and ext_destroy() may follow. 0;
 * -EIO: some records could not be written and are in memory only; or a device's sync error. */
int ext_quiesce(struct extstore *e, int64_t timeout_ms);
/* Writes the page table with exact counts, and the counters that continue. After a quiesce that gave
 * 0. 0 or checkpoint_put's error. */
int ext_save(struct extstore *e, struct checkpoint_writer *w);
uint64_t ext_objects(const struct extstore *e); /* sum over all pages */
uint32_t ext_version_now(const struct extstore *e); /* the highest given to a page */

/* Fills the empty tables of a new engine from a checkpoint. 0; -ESTALE they are not of these files and
 * sizes; checkpoint_get's error. */
int ext_load_tables(struct extstore *e, struct checkpoint_reader *r);

#endif
