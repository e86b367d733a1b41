/* extstore.h: the flash engine: opaque records in pages of files.
 *
 * It knows records (key, value, a few numbers, all checksummed), pages, wbufs
 * and devices. It does not know the index, the LRU or connections: ext_drop() says that
 * a record is no longer referred to, and ext_callbacks ask whether it still is.
 *
 * The life of a page is drawn in flash/types.h, with all types. The contract of each part is in its header,
 * all of which are included here: users of the engine include only this file.
 *
 * Place: 40 bits, file-independent: page * (page_bytes / 16) + offset / 16.
 *
 * Threads: ext_append/ext_drop/ext_read_* from any thread; an ext_ring belongs
 * to one thread. Locks inside: LOCK_EXT_BUCKET, LOCK_EXT_PAGE, LOCK_IO_QUEUE,
 * LOCK_EXTENTS. ext_append and ext_drop never wait and do no I/O, so they may
 * be called with LOCK_COLUMN held.
 */
#ifndef EXTANT_EXTSTORE_H
#define EXTANT_EXTSTORE_H

#include "flash/page.h"
#include "flash/record.h"
#include "flash/ring.h"
#include "flash/room.h"
#include "flash/types.h"
#include "flash/wbuf.h"
#include "upkeep/reclaim.h"
#include "upkeep/save.h"
#include "upkeep/scan.h"
#include "upkeep/tables.h"

/* Opens, locks (fcntl) and sizes the devices, starts I/O threads. NULL, with one line in why[]
 * that says what is wrong and what would be right. With attached or saved, errno ESTALE: what the
 * arena or the checkpoint holds is not of these files and sizes; start with a fresh arena. */
struct extstore *ext_create(const struct ext_options *opt, struct ext_tunables *tun, char *why,
                            size_t why_bytes);
/* Stops I/O threads; with flush, all open wbufs are written first, as far as the device takes them in EXT_DESTROY_MS. No
 * write begins after that, and the one that is under way is waited for; what isn't written stays in the arena. */
#define EXT_DESTROY_MS 10000
void ext_destroy(struct extstore *e, bool flush);

/* The page that a place is in, and how many bytes from its start. Pure. */
unsigned ext_page_of(const struct extstore *e, ext_place place, uint64_t *offset);
/* The version of the page that a place is in; while a word refers to the place, it stays the same. No lock. */
uint32_t ext_version_of(const struct extstore *e, ext_place place);

/* A bound: every record appended so far has a lower seq, every later one has not. */
uint64_t ext_seq_now(const struct extstore *e);

void ext_info(struct extstore *e, struct ext_info *out);
unsigned ext_device_count(const struct extstore *e);
void ext_device_info(struct extstore *e, unsigned device, struct ext_device_info *out);
/* The free pages of a device, to be read only; unit: a page's number on the device. The engine's. */
struct extents;
struct extents *ext_device_extents(struct extstore *e, unsigned device);
unsigned ext_page_count(const struct extstore *e);
void ext_page_info(struct extstore *e, unsigned page, struct ext_page_info *out);
/* 0 if every page and every write buffer is in exactly one place; else how many are not. */
uint64_t ext_reconcile(struct extstore *e);
/* Calls fn for each event of reclaim that `watch sysevents` shows, with memcached's fields already
 * formatted ("type=compact_start id=3 version=7"). Set once before threads start. */
void ext_set_event_hook(struct extstore *e, void (*fn)(void *ctx, const char *line), void *ctx);
/* Calls fn (from an I/O thread or an appending one, any lock may be held: it must only wake the
 * maintenance thread) when ext_maint_step has work again before its usual time. Set once. */
void ext_set_maint_hook(struct extstore *e, void (*fn)(void *ctx), void *ctx);

/* Devices may be more, fewer, larger, smaller or in another order than they were (flash/numbers.h).
 *
 * Restart: after ext_create with attached, call ext_attach_object for each flash object that the
 * index holds, then ext_attach_done, before any other call. Counts are rebuilt from that, which
 * repairs what the former process left half done when it was killed. False: no record can be there (the
 * page is free or the place out of range): forget the object. */
bool ext_attach_object(struct extstore *e, ext_place place, unsigned len_class);
/* Would that be true? Counts nothing. */
bool ext_attach_may_hold(struct extstore *e, ext_place place, unsigned len_class);
/* Does it refer to a page that is gone with its device, or all that was on flash? Until ext_attach_done. */
bool ext_attach_is_gone(const struct extstore *e, ext_place place);
/* Which devices have changed since the last start, in a few words for the log; or "". */
const char *ext_attach_note(const struct extstore *e);
/* With attached memory it writes a new stamp to every device first (flash/mark.h): what others know of their content is
 * outdated from then on, and the memory isn't, whenever the process is killed. Waits for the devices. */
void ext_attach_done(struct extstore *e);

/* Puts new stamps on the devices. A fresh engine and one that goes on with attached memory have done so; one from a
 * checkpoint or a scan needs both calls, before anything is written to flash: the first tells which ones, in the devices'
 * order, the second writes them. 0; -errno with why[]: no device takes one; start nothing. A device that takes none
 * while others do is failed (upkeep/stamps.h). Waits for the devices. */
void ext_choose_stamps(struct extstore *e, uint64_t *stamps);
int ext_begin_life(struct extstore *e, char *why, size_t why_bytes);

#endif
