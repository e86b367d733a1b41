/* upkeep/save.h: the engine's part of a checkpoint: a stop after which nothing changes any more, and the page
 * table, to and from the file.
 *
 * Threads: one, after it has ended all other users of the engine.
 */
#ifndef EXTANT_EXT_SAVE_H
#define EXTANT_EXT_SAVE_H

#include "base/checkpoint.h"
#include "flash/types.h"

/* The file's layout: struct ext_saved_engine, then for each device struct ext_saved_device, for each page struct
 * ext_saved_page, then a bit for each slot: 1 if it is WRITTEN. A page that was being drained, or had a failed write, comes
 * back SEALED with its records, so that it is drained again; the device may have recovered by then. */
#define EXT_SAVED_MAGIC 0x33656c626154u /* "Table3" */
/* Before: no devices, pages of EXT_SAVED_PAGE_2_BYTES, one stamp for all, numbers went round the devices. */
#define EXT_SAVED_MAGIC_2 0x32656c626154u /* "Table2" */

struct ext_saved_engine {
    uint64_t magic;
    uint64_t page_bytes, wbuf_bytes;
    uint64_t next_seq;
    uint64_t stamp_2; /* of the marks of all devices; only Table2 */
    uint32_t page_count, next_version, flush_unix, device_count;
};
static_assert(sizeof(struct ext_saved_engine) == 56, "saved engine");
static_assert(offsetof(struct ext_saved_engine, stamp_2) == 32, "saved engine");
static_assert(offsetof(struct ext_saved_engine, flush_unix) == 48, "saved engine");

struct ext_saved_device {
    uint64_t bytes;
    uint64_t stamp; /* of its mark */
    uint32_t since; /* it joined when this was the newest version of a page */
    uint32_t reserved;
};
static_assert(sizeof(struct ext_saved_device) == 24, "saved device");

struct ext_saved_page {
    uint32_t version, slots_used, objects, exptime_max, time_max;
    uint8_t state, bucket;
    uint16_t reserved;
    uint64_t bytes_used, bytes_appended, bytes_real;
    uint32_t where; /* flash/numbers.h */
    uint32_t reserved_too;
};
#define EXT_SAVED_PAGE_2_BYTES offsetof(struct ext_saved_page, where)
static_assert(offsetof(struct ext_saved_page, state) == 20, "saved page");
static_assert(offsetof(struct ext_saved_page, bytes_used) == 24, "saved page");
static_assert(sizeof(struct ext_saved_page) == 56 && EXT_SAVED_PAGE_2_BYTES == 48, "saved page");

/* Everything before the slots, of either layout. */
struct ext_saved {
    struct ext_saved_engine engine;
    struct ext_saved_device devices[EXT_DEVICES_MAX]; /* Table2: no bytes */
    struct ext_saved_page *pages; /* engine.page_count; Table2: where is not filled in */
};
/* Reads it. 0; -EUCLEAN: it makes no sense; -ENOMEM; checkpoint_get's error. In any case ext_saved_free() is to follow. */
int ext_saved_get(struct checkpoint_reader *r, struct ext_saved *out);
void ext_saved_free(struct ext_saved *saved);

/* Can this be an entry of the page table? Pure. */
bool ext_saved_page_is_sound(const struct ext_saved_page *p, uint32_t slots_per_page);

/* Ends all activity: writes open wbufs and waits up to timeout_ms
 * for that, ends the I/O threads, and makes all writes durable on the devices. The caller's
 * rings and maintenance are gone. Only ext_save(), ext_objects() and ext_destroy() may follow. 0;
 * -EIO: some records could not be written and are in memory only; or a device's sync error. */
int ext_quiesce(struct extstore *e, int64_t timeout_ms);
/* Did the last quiesce leave records in memory? */
bool ext_has_unwritten(const struct extstore *e);
/* After a quiesce that left records in memory, and after the words of what was not written (ext_is_unwritten) are gone: gives its
 * buffers up, and makes the rest durable. 0; -EBUSY; a device's sync error. */
int ext_quiesce_without(struct extstore *e);
/* Writes the page table with exact counts, and the counters that continue. After a quiesce that gave
 * 0. 0 or checkpoint_put's error. */
int ext_save(struct extstore *e, struct checkpoint_writer *w);
uint64_t ext_objects(const struct extstore *e); /* sum over all pages */
uint32_t ext_version_now(const struct extstore *e); /* the highest given to a page */

/* Numbers the pages of a new engine as a checkpoint has them; devices may be others. 0; -ESTALE with why[]: it is
 * of no use with these files and sizes; -ENOMEM. */
int ext_load_numbers(struct extstore *e, struct checkpoint_reader *r, char *why, size_t n);
/* After it, fills the engine's empty tables, but for what pages hold: ext_attach_object counts that. 0; -ESTALE;
 * checkpoint_get's error. */
int ext_load_tables(struct extstore *e, struct checkpoint_reader *r);
void ext_load_end(struct extstore *e); /* frees what these two keep; once more is harmless */
/* The version of a page that was the newest when the device joined the cache. */
uint32_t ext_device_since(const struct extstore *e, unsigned device);
/* The stamp of the mark on a file or device that nobody has opened; 0: there is none. Reads it. */
uint64_t ext_device_stamp(const char *path);

#endif
