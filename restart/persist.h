/* restart/persist.h: -o ext_persist: a cache that goes on after a reboot.
 *
 * Clean stop (persist_end): RAM items go to flash, buffers are written and the devices synced, then
 * page table, index and numbers are put into a checkpoint beside the first flash file
 * (base/checkpoint.h).
 *
 * Start, before anything listens:
 *
 *   LOAD   the checkpoint is CLEAN and of these flash files as they are now: it is read back.
 *   SCAN   it isn't, ext_persist=scan, and its head still tells the hash seed: index and page table
 *          are made anew from the tables in the pages (cache_scan).
 *   EMPTY  else; the log says why, in one line.
 *
 * A checkpoint is used once: before the first write to flash (persist_begin) a head in state
 * RUNNING has replaced it, synced. So after a kill or a power cut nothing old comes back, unless a
 * scan is asked for. A start with flash but without ext_persist removes a checkpoint that it finds,
 * and the flash files' times of change give away who else wrote to them.
 *
 * With -e FILE what is in memory wins, where it fits; the checkpoint is then used up all the same.
 *
 * Serving begins when all is read: nothing has to be reconciled with what clients did meanwhile.
 *
 * What a scan may bring back, since it leaves nothing on flash: a value that was deleted; and an
 * older value of a key whose latest one is not on flash, because it was still in RAM when the power
 * went, or because its page was evicted and used again. Never: two values at once, what had
 * expired, what a flush_all covered (it is noted in the head), values of a cache that was in the
 * files before.
 *
 * Limits: the first flash file must be a regular file (beside a device node nothing lasts); its
 * file system needs room for 10 bytes an object. A stop may take PERSIST_STOP_SEC for items; what
 * is left then is dropped, and the log says so. Block devices other than the first path are known
 * by their size only.
 *
 * Threads: one, at start and at stop; the flush_all hook any. No locks from outside.
 */
#ifndef EXTANT_PERSIST_H
#define EXTANT_PERSIST_H

#include "base/base.h"
#include "restart/save.h"
#include "extstore.h"
#include "index.h"
#include "operator/settings.h"

#define PERSIST_STOP_SEC 60
#define PERSIST_LINE_BYTES 360

struct persist;

/* What a start made of the checkpoint; for stats. */
struct persist_report {
    const char *start; /* "off", "empty", "memory", "checkpoint" or "scan" */
    uint64_t generation, objects, bytes, micros;
};

/* Reads the head, if there is a checkpoint, and decides. With flash in the settings, which outlive
 * it. NULL: no memory. */
struct persist *persist_create(struct settings *s);
void persist_destroy(struct persist *p); /* NULL is fine */

/* Before the parts of an empty arena are made: has the clock go on in the epoch of what will be
 * taken over. */
void persist_set_clock(struct persist *p);
/* Tells the engine where its page table comes from. 0, or -EAGAIN as persist_take_over. */
int persist_fill_options(struct persist *p, struct ext_options *opt);
/* The parts were made with these options; fills them. 0; -EAGAIN: what was found can't be used:
 * make all parts anew and call again, the plan is another one now; -errno with why[]. */
int persist_take_over(struct persist *p, struct index *ix, struct cache *c, struct extstore *e,
                      char *why, size_t why_bytes);
/* What was found can't be used, for this reason: the next attempt takes the next best plan. True
 * iff there was one to give up. */
bool persist_give_up(struct persist *p, const char *reason);
/* All parts are there, nothing was written to flash yet; attached: they hold what -e kept. Uses the
 * checkpoint up. 0, or -errno with why[]: don't start; an old checkpoint would stay valid, or none
 * could ever be written. */
int persist_begin(struct persist *p, struct cache *c, struct extstore *e, bool attached, char *why,
                  size_t why_bytes);
/* A line for the log: what was taken over, or why not; "" without ext_persist. Until
 * persist_destroy. */
const char *persist_line(const struct persist *p);
void persist_report(const struct persist *p, struct persist_report *out);

/* Makes at once what the clean stop would make: before the process gives up the right to make rings. By
 * the thread that will stop it. */
void persist_prepare_end(struct persist *p);
/* Gives it back, used or not; before the engine and the cache go. */
void persist_release(struct persist *p);

/* The clean stop. All other users of the parts are gone; afterwards they are only taken apart.
 * Tells in the log what it did, or why it couldn't. Waits for the devices. True: the next start finds a
 * checkpoint, of *objects. */
bool persist_end(struct persist *p, struct index *ix, struct cache *c, struct extstore *e, uint64_t *objects);

#endif
