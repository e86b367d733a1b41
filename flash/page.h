/* flash/page.h: the page table: the state of each page, and when it becomes free.
 *
 * The states and their edges are drawn in flash/types.h; this file makes them.
 * A page becomes free at the last of: ext_drop of its last object, unpin of
 * its last reader, the end of the writing of its last wbuf, or its seal. That call
 * frees it at once, so no scan is needed and no page is forgotten: each
 * decrement is followed by a check of the other counters (all sequentially
 * consistent), and the decision is repeated under page_lock.
 *
 * Why objects == 0 and refs == 0 is final: a pin is taken only through a live
 * place (objects > 0, and the LOCK_COLUMN that keeps it live held), and a
 * sealed page gets no new objects.
 *
 * Threads: any. Locks: page_lock and LOCK_EXTENTS inside.
 */
#ifndef EXTANT_EXT_PAGE_H
#define EXTANT_EXT_PAGE_H

#include "flash/types.h"

struct ext_page;

#define EXT_NOWHERE UINT32_MAX
#define EXT_WHERE_UNIT_BITS 28u
#define EXT_UNITS_MAX ((UINT32_C(1) << EXT_WHERE_UNIT_BITS) - 1) /* pages of a device */

/* A page's device and its number there, as tables keep it. */
static inline uint32_t ext_where_pack(struct ext_page_where at)
{
    return at.device == EXT_NO_DEVICE ? EXT_NOWHERE : at.device << EXT_WHERE_UNIT_BITS | at.unit;
}
static inline struct ext_page_where ext_where_unpack(uint32_t packed)
{
    return packed == EXT_NOWHERE
               ? (struct ext_page_where){EXT_NO_DEVICE, 0}
               : (struct ext_page_where){packed >> EXT_WHERE_UNIT_BITS, packed & EXT_UNITS_MAX};
}

/* Fills where[], one for each page of all devices: neighbours are on different devices. Pure. */
void ext_number_pages(struct ext_page_where *where, const uint32_t *device_pages, uint32_t device_count);

/* FREE -> OPEN: takes the lowest free page of a device of the bucket's class (round robin over its
 * devices), else of class default. reserve: may take the last ones. 0 and *page; -ENOSPC; -EIO:
 * every device that could do is failed. */
int ext_page_open(struct extstore *e, enum ext_bucket bucket, bool reserve, uint32_t *page);
/* The same, but only a page of a device of the class that has less to write than its share, and none of the devices
 * whose bits are set in `not_on`; -EBUSY: there is none. */
int ext_page_open_elsewhere(struct extstore *e, enum ext_bucket bucket, enum ext_bucket device_class, uint32_t not_on,
                            uint32_t *page);
/* With this many more, would the device have at least its share of the buffers to write? */
bool ext_device_is_busy(const struct extstore *e, uint32_t device, uint32_t more);
/* OPEN -> SEALED (or FREE at once). Nothing if it is BAD. */
void ext_page_seal(struct extstore *e, uint32_t page);
/* SEALED -> DRAINING, with a reference for the caller. False: it is not SEALED (nor BAD, which
 * stays). */
bool ext_page_drain(struct extstore *e, uint32_t page);
/* DRAINING -> SEALED, and the youngest page. The caller keeps its reference. */
void ext_page_stay(struct extstore *e, uint32_t page);
/* Any but FREE -> BAD: a write failed this many bytes from the page's start. True iff it was not
 * BAD before. */
bool ext_page_fail(struct extstore *e, uint32_t page, uint64_t offset);

/* A BAD page of the device that holds nothing, the one that has waited longest for its turn, with a
 * reference for the caller, who tries to write to it; or EXT_NO_PAGE. Due ones only, or any. */
uint32_t ext_page_retry_begin(struct extstore *e, uint32_t device, bool any);
/* The end of that. ok: BAD -> FREE, and all BAD pages of the device are due at once; else the page
 * waits twice as long as last time. Returns the seconds that it waits now (0 if ok). */
uint32_t ext_page_retry_end(struct extstore *e, uint32_t page, bool ok);
/* The device is back: its BAD pages are due. */
void ext_page_retry_all(struct extstore *e, uint32_t device);

/* Counts one more object, for which a wbuf that is not yet written has room. Any number of threads. */
void ext_page_add_object(struct extstore *e, uint32_t page, uint64_t record_bytes,
                         unsigned len_class, uint32_t exptime_unix, uint32_t time_unix);
/* Bytes of the live objects: what was written, scaled by the live share of it by length class (a
 * drop knows no more than the class). Exact while all or none live; never more than was written. */
uint64_t ext_page_live_bytes(const struct ext_page *p);
/* Pins the page of a live place so that it is not reused; with LOCK_COLUMN held (the lock that
 * keeps the place live). Given back by ext_unpin, or by the read that takes it over. */
void ext_pin(struct extstore *e, ext_place place);
void ext_unpin(struct extstore *e, ext_place place);
/* The same by the page's number. */
void ext_page_pin(struct extstore *e, uint32_t page);
void ext_page_unpin(struct extstore *e, uint32_t page);
/* The object at place is not referred to any more. Exactly once for each ext_append that gave 0. */
void ext_drop(struct extstore *e, ext_place place, unsigned len_class);

/* SEALED or DRAINING, no object, no reference -> FREE; else nothing. */
void ext_page_try_free(struct extstore *e, uint32_t page);

/* Checks what the page's state promises; page_lock held. */
void ext_page_assert(struct extstore *e, uint32_t page);

#endif
