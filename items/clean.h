/* items/clean.h: a clean item was brought back from flash, and its record stayed there: so it leaves RAM without a write.
 *
 * Always true, under LOCK_COLUMN of the key's hash, while an item is clean:
 *  - its word has heat (index.h counts such words), and the item is MAY_HIDE_FLASH;
 *  - exactly one flash word has its tag, and that is its record's: the same value, flags, cas and expiry. So the
 *    place need not be kept, and the record may be moved on flash.
 * An item that changes, goes or is dead drops its record first (item_forget_copy). If the record goes (flash_forget), or
 * another flash word of the tag comes (flush_as), the item is clean no longer: tag_end_clean() in items/object.c. A
 * dump ends it as well, since it shows each key once. After a kill no item is clean: an attach makes it MAY_HIDE_FLASH
 * as any other, and a check drops the record.
 *
 * Any thread; LOCK_COLUMN held. Nothing here sleeps or does I/O.
 */
#ifndef EXTANT_ITEMS_CLEAN_H
#define EXTANT_ITEMS_CLEAN_H

#include "items/store.h"

/* Can an item of this hash, whose record was found on flash, be clean? Otherwise the record is dropped. */
bool clean_may_begin(struct cache *c, uint64_t hash);
/* Links an item that was filled from the only flash record of its tag. 0; -ENOSPC: no room in the index, nothing changed.
 * Makes slots invalid. */
int clean_link(struct cache *c, struct item *it, uint64_t hash, uint32_t now_sec);
/* Before a change of the item, or before it goes for good: drops the record of a clean one, which then hides nothing. */
void item_forget_copy(struct cache *c, struct item *it, uint64_t hash);
/* A clean item leaves RAM: its record is the object again. False: it isn't clean. */
bool item_leave_clean(struct cache *c, struct item *it, uint64_t hash);

/* Is there a clean item of the tag? Then its flash word is the item's record. */
bool tag_is_clean(struct cache *c, uint64_t hash);

#endif
