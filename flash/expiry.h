/* flash/expiry.h: how many bytes of each page have expired.
 *
 * For each page it keeps the bytes appended by time to live, in octaves from 16 seconds on, the last expiry of each, the
 * first of all, and when the page was opened. Within an octave bytes expire evenly up to its last expiry. What lives
 * longer than the last octave counts when all of the page has expired; so do records of an earlier process, of which
 * nothing else is known.
 * Records that were deleted or overwritten count too: until their page is free they take the same room.
 *
 * Threads: any, no locks; all atomic, in the process's memory.
 */
#ifndef EXTANT_EXT_EXPIRY_H
#define EXTANT_EXT_EXPIRY_H

#include "flash/types.h"

/* 0 or -ENOMEM. The engine knows its pages. */
int ext_expiry_init(struct extstore *e);
void ext_expiry_end(struct extstore *e);
uint64_t ext_expiry_table_bytes(const struct extstore *e);

/* A page is opened. Its state is not OPEN yet. */
void ext_expiry_begin(struct extstore *e, uint32_t page);
/* It stays for another round. */
void ext_expiry_stay(struct extstore *e, uint32_t page);
/* A record is appended to it. */
void ext_expiry_add(struct extstore *e, uint32_t page, uint32_t exptime_unix, uint64_t record_bytes);

/* Seconds since it was opened or last stayed; of pages of an earlier process since its youngest record was stored. */
uint32_t ext_expiry_age_sec(const struct extstore *e, uint32_t page);
/* Expired bytes in the page, which is not FREE. An estimate; exact if none or all have expired. */
uint64_t ext_expiry_bytes(const struct extstore *e, uint32_t page);

#endif
