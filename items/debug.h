/* items/debug.h: debugitem, by which a test holds an item as a slow reader would, and keeps the page mover from its class.
 * Only in debug builds.
 *
 * What is held may go to flash and be moved there: then the page that it is on is held. One object at a time is
 * remembered as "reffed". Lock: LOCK_COLUMN of the key. Two debugging clients at once are not supported.
 */
#ifndef EXTANT_ITEMS_DEBUG_H
#define EXTANT_ITEMS_DEBUG_H

#include "extstore.h"
#include "items/store.h"

/* debugitem (debug build only): lock|unlock|ref|unref. True if the key was found. */
bool cache_debug_item(struct cache *c, const char *what, const char *key, uint8_t key_bytes);

/* What debugitem holds went to flash (it) or was moved there (it NULL); LOCK_COLUMN held.
 * And why a class can't give a page; NULL: it can. */
#ifdef EXTANT_DEBUG
void debug_held_at(struct cache *c, uint64_t hash, const struct item *it, ext_place from, ext_place to);
const char *debug_holds_of(struct cache *c, unsigned cls);
#else
static inline void debug_held_at(struct cache *c, uint64_t hash, const struct item *it, ext_place from,
                                 ext_place to)
{
    (void)c, (void)hash, (void)it, (void)from, (void)to;
}
static inline const char *debug_holds_of(struct cache *c, unsigned cls)
{
    (void)c, (void)cls;
    return NULL;
}
#endif

#endif
