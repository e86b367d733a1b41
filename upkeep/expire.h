/* upkeep/expire.h: frees pages in which everything has expired, or is older than a flush_all.
 *
 * Nothing is read for this: one walk over the index (ext_callbacks.sweep) drops what refers to any of these pages,
 * however many they are; they are free at its end. As a walk costs the same for one page as for all, it
 * begins when a part of flash has expired, or when free pages are short. Pages are looked at once a second.
 *
 * What the walk misses (a word that moves meanwhile, a drop that has to wait for others) is left to the next one.
 *
 * Threads: the maintenance thread, no lock held.
 */
#ifndef EXTANT_EXT_EXPIRE_H
#define EXTANT_EXT_EXPIRE_H

#include "flash/types.h"

struct ext_expire;

/* NULL with errno. */
struct ext_expire *ext_expire_create(struct extstore *e);
/* NULL is fine. */
void ext_expire_destroy(struct ext_expire *x);

/* A bounded step; true iff there is more to do now. page: in use by reclaim, or EXT_NO_PAGE. */
bool ext_expire_step(struct ext_expire *x, uint32_t now_unix, uint32_t page);
/* Is a walk under way? Then pages will be free soon. */
bool ext_expire_is_running(const struct ext_expire *x);

#endif
