/* upkeep/scan.h: rebuilds the page table and finds the records of flash files from their bytes alone.
 *
 * Threads: one, between ext_create with scan and ext_attach_done. No locks.
 */
#ifndef EXTANT_EXT_SCAN_H
#define EXTANT_EXT_SCAN_H

#include "flash/types.h"

/* A record as found. */
struct ext_scanned {
    uint64_t hash; /* as it was appended */
    ext_place place;
    unsigned len_class;
    int unread;      /* 0; else why the record is not known: -EBADMSG (wrong bytes), -EIO ..; then all below
                      * is 0 */
    const char *key; /* valid until the next call */
    uint8_t key_bytes;
    uint64_t cas, seq;
    uint32_t exptime_unix, time_unix;
};
typedef void ext_scan_visit(void *ctx, const struct ext_scanned *rec);
/* Reads a page's tables and the headers of its records, in the order of appending, and calls visit
 * for each record that a table names; it is read if its checksum is right, or of a long one the header.
 * visit calls ext_attach_object for those to keep. A slot whose table can't be read is
 * searched for records, and counted. 0 or -ENOMEM. Waits for the device. */
int ext_scan_page(struct extstore *e, unsigned page, ext_scan_visit *visit, void *ctx);
/* The one at a place that visit was given; its hash and len_class are not filled in. 0; -EBADMSG,
 * -EIO .. */
int ext_scan_record(struct extstore *e, ext_place place, struct ext_scanned *out);

/* Numbers the pages of a new engine as the trailers on flash say. Pages without one, and those of times before their
 * device joined the cache (opt.since), get the numbers that are left. 0 or -ENOMEM. */
int ext_scan_numbers(struct extstore *e);
/* After it, fills the empty tables of a new engine from the trailers on flash: slots found are WRITTEN in SEALED
 * pages. 0 or -ENOMEM. */
int ext_scan_tables(struct extstore *e);
/* Frees the buffers of these functions. */
void ext_scan_end(struct extstore *e);

#endif
