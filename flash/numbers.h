/* flash/numbers.h: which page of which device has which number, over starts with other devices.
 *
 * A record's place is made of its page's number, and its checksum covers its place. So a page keeps its number as
 * long as its device is there, whatever the order of the devices and whichever others come and go. Pages of a new
 * device, and those that a device has grown by, get the numbers that no page has any more, then new ones at the end.
 * Numbers of a device that is gone, or of its part beyond its new end, name no page until then (EXT_NO_DEVICE); what
 * the index has there is dropped at the attach. Without an earlier numbering, neighbours are on different devices.
 *
 * A device is recognised by the stamp of its mark (flash/mark.h) and by the file that it is. One that was left out
 * for a life is a new device when it comes back: its table entry is gone. One that is a copy of another, or an older
 * state of itself, can serve nothing stale: a record verifies only at the place, and in the version of its page, at
 * which it was written.
 *
 * Threads: one, while the engine is created. No locks.
 */
#ifndef EXTANT_EXT_NUMBERS_H
#define EXTANT_EXT_NUMBERS_H

#include "flash/engine.h"
#include "flash/page.h"

/* Finds the devices of an earlier numbering, e->known, among e's: e->device_of[i] is e's number of known[i],
 * EXT_NO_DEVICE if it is not there. by_file: the files' dev and ino are still what they were; else only stamps tell.
 * -ESTALE with why[]: one is there, but with another stamp, so another process has written to it. */
int ext_numbers_match(struct extstore *e, bool by_file, char *why, size_t n);

/* Numbers e's pages: was[] has the packed places of an earlier numbering, whose device i is e->device_of[i] now.
 * Fills e->where, e->page_count, e->numbers and what is gone. Pages beyond opt.place_limit get no number: their
 * devices become smaller, and e->note says so. 0, -ENOMEM, or -EUCLEAN: two numbers have one page. */
int ext_numbers_assign(struct extstore *e, const uint32_t *was, uint32_t was_count);
void ext_numbers_end(struct extstore *e);

#endif
