/* restart/persist.h: -o ext_persist: a cache that goes on after a reboot.
 *
 * Clean stop (persist_end): RAM items go to flash, buffers are written and the devices synced, then
 * page table, index and counters are written to a checkpoint beside the first flash file
 * (base/checkpoint.h).
 *
 * Start, before anything listens:
 *
 *   LOAD   the checkpoint is CLEAN and belongs to these flash files as they are now: read it.
 *   SCAN   otherwise, if ext_persist=scan and its head still has the hash seed: rebuild index and page
 *          table from the tables in the pages (cache_scan).
 *   EMPTY  otherwise; the log says why, in one line.
 *
 * A checkpoint is used once: before the first write to flash (persist_begin) a head in state
 * RUNNING replaces it and is synced. So after a kill or a power cut no old value comes back, unless the
 * operator asks for a scan. A start with flash but without ext_persist removes a checkpoint that it finds.
 * Where a start doesn't see the checkpoint, because it names another file first, stamps tell: every start renews those of all
 * its devices (flash/mark.h), and the head has those that it was made with. If one of them is missing and a device bears one that
 * the head doesn't know, another process has used the cache since, and neither a load nor a scan is right. The
 * flash files' times of change reveal other writers.
 *
 * With -e FILE the memory file wins if it fits; the checkpoint is used up nevertheless.
 *
 * Serving begins after everything is read, so nothing has to be reconciled with clients' changes.
 *
 * A scan may bring back a deleted value, because a delete leaves nothing on flash; and an
 * older value of a key whose latest one is not on flash, because it was still in RAM at the power
 * cut, or because its page was evicted and used again. Once a start found a part of the flash gone, a later scan
 * takes only what was written since, as the latest values of the rest may have been there. It never brings back two values of a key,
 * expired values, values that a flush_all covered (the head notes it), or values of an earlier cache in
 * the same files.
 *
 * Limits: the first flash file must be a regular file (a file beside a device node doesn't last); its
 * file system needs room for 10 bytes an object. A stop may take PERSIST_STOP_SEC for items; the rest
 * is dropped, and the log says so. A process that names none of a checkpoint's files leaves no trace on them. Block devices are recognised only by the
 * mark on them; by their size, where a checkpoint of format 1 is loaded.
 *
 * Threads: one, at start and at stop; the flush_all hook runs in any. Callers hold no locks.
 */
#ifndef EXTANT_PERSIST_H
#define EXTANT_PERSIST_H

#include "base/base.h"
#include "restart/save.h"
#include "extstore.h"
#include "index.h"

#define PERSIST_STOP_SEC 60
#define PERSIST_LINE_BYTES 360

struct persist;

enum persist_mode { PERSIST_OFF, PERSIST_ON, PERSIST_SCAN };

struct persist_options {
    enum persist_mode mode;
    const char *memory_file; /* of -e, or NULL */
    const struct ext_options *flash; /* has devices */
};

/* How the blocks of a checkpoint of this format are to be read, beyond their own format numbers: of this build. Pure. */
uint64_t persist_layout(uint32_t format);

/* How the start used the checkpoint; for stats. */
struct persist_report {
    const char *start; /* "off", "empty", "memory", "checkpoint" or "scan" */
    uint64_t generation, objects, bytes, micros;
};

/* The sizes of the flash whose content persist_create() would decide to take over, if it got options with these sizes.
 * False: none. */
bool persist_found_sizes(const struct persist_options *opt, uint64_t *page_bytes, uint64_t *wbuf_bytes);
/* Reads the head, if there is a checkpoint, and decides. The options are copied, their texts are not. NULL:
 * no memory. */
struct persist *persist_create(const struct persist_options *opt);
void persist_destroy(struct persist *p); /* NULL is fine */

/* Before the parts of an empty arena are created: continues the clock in the epoch of the content to
 * be taken over. */
void persist_set_clock(struct persist *p);
/* How the index has to be laid out, so that the rows of the checkpoint fit. False: as it likes. */
bool persist_index_geometry(const struct persist *p, struct index_geometry *out);
/* Tells the engine where its page table comes from. 0, or -EAGAIN as persist_take_over. */
int persist_fill_options(struct persist *p, struct ext_options *opt);
/* Fills the parts, which were created with these options. 0; -EAGAIN: the content can't be used;
 * create all parts again and call again, with another plan; -errno with why[]. */
int persist_take_over(struct persist *p, struct index *ix, struct cache *c, struct extstore *e,
                      char *why, size_t why_bytes);
/* The content can't be used, for this reason: the next attempt takes the next best plan. True
 * iff there was a plan to give up. */
bool persist_give_up(struct persist *p, const char *reason);
/* Uses the checkpoint up, once all parts are there and before the first write to flash; attached: they hold
 * the content of -e. 0, or -errno with why[]: don't start; an old checkpoint would stay valid, or none
 * could ever be written. */
int persist_begin(struct persist *p, struct cache *c, struct extstore *e, bool attached, char *why,
                  size_t why_bytes);
/* -EAGAIN of ext_create's: another process used the cache between the decision and the lock of the files. With no part
 * there any more, persist_look_again() decides again by what that process left; otherwise it does nothing. */
bool persist_is_overtaken(const struct persist *p);
void persist_look_again(struct persist *p);
/* A line for the log: what was taken over, or why not; "" without ext_persist. Valid until
 * persist_destroy. */
const char *persist_line(const struct persist *p);
void persist_report(const struct persist *p, struct persist_report *out);

/* Creates the worker of the clean stop early, before the process drops the privilege to create rings. Call
 * it in the thread that will stop the process. */
void persist_prepare_end(struct persist *p);
/* Frees it, used or not; call it before the engine and the cache are destroyed. */
void persist_release(struct persist *p);

/* The clean stop. All other users of the parts are gone; afterwards the parts may only be destroyed.
 * Logs what it did, or why it couldn't. Waits for the devices. True: the next start finds a
 * checkpoint with *objects objects. */
bool persist_end(struct persist *p, struct index *ix, struct cache *c, struct extstore *e, uint64_t *objects);

#endif
