/* upkeep/tables.h: at a start, the engine's tables in the arena: new ones, or those of an earlier process.
 *
 * Three tables belong together (struct ext_tables): pages, roots of write buffers, and extmap's words; reclaim's buffer
 * comes with them. With attached memory they stay where they are if devices and sizes are what they were. Otherwise
 * a second set is filled from the first, and one store switches to it: a kill finds the one or the other.
 *
 * Threads: one, in ext_create. No locks. May write marks.
 */
#ifndef EXTANT_EXT_TABLES_H
#define EXTANT_EXT_TABLES_H

#include "flash/types.h"

/* Numbers e's pages, and opens or makes the tables, with all that needs them: e->pages, e->map, e->wbufs, the free
 * pages of each device. 0, or -errno with why[]; -ESTALE: what the arena or the checkpoint holds can't be used. */
int ext_tables_open(struct extstore *e, char *why, size_t n);

/* There may be objects; ext_attach_done is to come. */
bool ext_is_taken_over(const struct extstore *e);

/* Bytes of page table and words, for figures. */
uint64_t ext_tables_bytes(const struct extstore *e);

/* A start without flash on attached memory: a later one must not look for flash in it. */
void ext_forget(struct arena *arena);

#endif
