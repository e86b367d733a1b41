/* command/space.h: the lines of `stats extents`: which pages of flash and which memory of the arena are free.
 *
 * For each device, "device:N:", and for the arena, "arena:":
 *
 *   path             of the device only
 *   unit_bytes       what the numbers of the runs count: a page, or a piece of memory
 *   total_units, free_units
 *   free_runs        one that crosses the border of a region counts once in each
 *   largest_run      units of the longest free run
 *   fragmentation    0 if all that is free is one run, near 1 if it is many short ones
 *   regions_list, regions_bitmap, region_map    how the set keeps its regions; the map is a letter for each of
 *                    the first SPACE_REGIONS_MAX, L or B
 *   to_bitmap, to_list    conversions since the start
 *   memory_bytes     what the set needs now
 *   run:N            the first SPACE_RUNS_MAX free runs, "FIRST .. LAST"
 *
 * The numbers of a set are read one after the other, so they may not belong to the same moment.
 */
#ifndef EXTANT_COMMAND_SPACE_H
#define EXTANT_COMMAND_SPACE_H

#include "command/session.h"
#include "operator/stats.h"

#define SPACE_RUNS_MAX 32u
#define SPACE_REGIONS_MAX 128u /* of region_map */

/* Any thread; takes LOCK_EXTENTS, for a moment each time. */
void space_emit(const struct command_env *env, stats_emit_fn emit, void *ctx);

#endif
