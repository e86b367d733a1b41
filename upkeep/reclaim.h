/* upkeep/reclaim.h: makes free pages when objects don't go by themselves.
 *
 * It works on one page at a time, in small steps of the maintenance thread. In order of urgency:
 *
 *   EVICT    the index is full (ext_evict_oldest), or free pages are below the low-water mark and
 *            no page is fragmented (nor is there room on other devices): the oldest page. Its tables
 *            are read first, to LOOK how much of it was hit:
 *     STAY   stay_pct of it and more: it stays as the youngest page, each heat is halved, and nothing is
 *            rewritten. Some in a row may; then one goes even if it is hot. Its version stays, so its records do.
 *     EVICT  else: the hottest are written again, up to rewrite_pct of a page, the rest is dropped and counted.
 *            If it is the index that is full, nothing is written again: what was hit stays where it is, its heat halved,
 *            and the rest goes.
 *   RESCUE   free pages of the class are below the low-water mark, and a page is less than half full, or, while what is alive
 *            takes less than CHOICE_ROOMY of the class, less full than max_frag, without what has expired in it.
 *            How much has expired is an estimate: if two such pages in a row had to be copied nearly whole, others
 *            are taken for full until some pages have gone.
 *            Or they are below compact_under: the page with the least left of what
 *            was appended, if that is under max_frag. Live records are appended again to bucket
 *            compact (cold ones that were rescued before to coldcompact, where such devices are),
 *            with their old seq. Above the low-water mark pages of bucket lowttl are left to
 *            expire. With drop_unread and free pages below drop_under also the oldest page, less
 *            what was never hit.
 *   Pages whose records are all past their exptime or before a flush_all: upkeep/expire.h.
 *   BAD      pages with objects: as RESCUE, when there is room; else they take part like others,
 *            since an empty one is tried again, and may be of use.
 *
 * The phases of a job; after each step assert_job() checks what its phase promises:
 *
 *   IDLE, RECORDS --go_on_reading--> READING     the table of the next slot; to rescue from it, the whole slot
 *   READING --after_read--> RECORDS              a few of its records in each step, then the next slot
 *   READING --table_failed--> WALKING            its table is wrong, but all of it was read: looks for the records
 *   READING, WALKING, FINISHING --start_sweep--> SWEEPING   the index for places of the slot, or of the page: what can't
 *                                                be read, and what no table names
 *   IDLE, RECORDS, WALKING, SWEEPING --begin_slot--> FINISHING   there is no further slot
 *   READING, RECORDS, WALKING, SWEEPING, FINISHING --end_job--> IDLE   the page is empty, or stays, or can't be read
 *                                                now; or a sweep of all of it has ended
 *
 * A rescue of a page that can't be read ends, and the page is left alone for a while; after some of
 * those in a row the oldest page goes instead, so that writers get on.
 *
 * A read continues where it failed; a record that does not verify is read again by itself twice,
 * because the read may be at fault. A walk looks for records at each granule: each tells its key, its
 * length and, by its checksum, whether it is one.
 *
 * An object that may hide an older value of its key goes a little later (EXT_DROPPED_LATER): the job goes on
 * without it, and waits for it at its end. EVICT begins only after the checks of overwritten values that were
 * queued when it was wanted, because they may empty pages.
 *
 * A step that finds no wbuf, no leave to write or a read under way ends, and the next one goes on at the
 * same record: waiting loses nothing. With no page left at all the job turns to
 * EVICT, so that it always ends; the reserved page and wbuf (flash/engine.h) are there for it.
 *
 * Threads: the maintenance thread, except the reads, which are jobs of the I/O threads. Upcalls
 * and reads are made with no lock held.
 */
#ifndef EXTANT_EXT_RECLAIM_H
#define EXTANT_EXT_RECLAIM_H

#include "flash/types.h"

struct ext_reclaim;

/* One bounded step of the most urgent work, by the maintenance thread; never waits for a device. Pages without objects
 * need no step, they are freed at once. An open wbuf stays open at any age: closing it early would waste the rest of
 * its slot, and reads are served from it. True: there is more to do now; else call again after some milliseconds, or
 * when the hook of ext_set_maint_hook says so. */
bool ext_maint_step(struct extstore *e, uint32_t now_unix);
/* Objects stored at or before this unix time are dead (flush_all): pages wholly before it may be
 * freed. */
void ext_flush_all(struct extstore *e, uint32_t time_unix);
/* The index is full (-m): the oldest page has to go even if flash has free pages. */
void ext_evict_oldest(struct extstore *e);
/* An object that `dropped` or `sweep` had put off is gone. */
void ext_count_dropped(struct extstore *e, enum ext_drop_why why, uint64_t record_bytes);

/* NULL: no memory. Its buffer is the one of e->tables. */
struct ext_reclaim *ext_reclaim_create(struct extstore *e);
/* The I/O threads are gone. NULL is fine. */
void ext_reclaim_destroy(struct ext_reclaim *r);

#endif
