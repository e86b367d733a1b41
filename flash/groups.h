/* flash/groups.h: pages by the time at which their records expire, so that a page expires as a whole.
 *
 * A group is a stream of appends (struct ext_stream) with a page of its own: it takes records that expire up to
 * its `until`, and not much earlier. When that has come, everything in its page is dead, and the page is free
 * whole, full or not. A record joins the group with the earliest `until` that suits it; if that is later than the
 * tolerance allows, a group that is not in use begins for it. The tolerance is
 *
 *     width * sqrt(time to live left * horizon) / groups
 *
 * which is coarser for what lives longer, since dead bytes are compared with all of flash, but less than in
 * proportion. `width` adapts: it shrinks while groups are left over and grows when all are in use; then a record
 * joins the group with the next later `until`, or goes to its bucket if there is none. The horizon is the time that
 * a page lives in the queue: what expires after that goes to its bucket, because its page goes first.
 *
 * An open page is on the average half empty, and an open group needs a write buffer: so there is a group for
 * each EXT_GROUP_PAGES pages at most, and half of few write buffers stay for others.
 *
 * Buckets with devices of their own have no groups. Pages of groups are of bucket lowttl; or of default, if bucket
 * lowttl has devices. A restart ends the groups: their pages stay as they are.
 *
 * Threads: any, but for ext_groups_step. Locks: the one of the groups inside, with no other held of its rank.
 */
#ifndef EXTANT_EXT_GROUPS_H
#define EXTANT_EXT_GROUPS_H

#include "flash/types.h"

#define EXT_GROUP_PAGES 8u

/* Of a new engine; and when its pages and write buffers are known. */
void ext_groups_init(struct extstore *e);
void ext_groups_size(struct extstore *e);
void ext_groups_end(struct extstore *e);

/* Are there groups? Then no record stays in bucket lowttl for long, unless that has devices. */
bool ext_groups_are_on(const struct extstore *e);
/* The stream for a record of the bucket that expires at that time (0: never): a bucket's number, or a group's. *ends:
 * the group begins, and what it had open before has expired. */
unsigned ext_group_stream(struct extstore *e, enum ext_bucket bucket, uint32_t exptime_unix, bool *ends);
/* What its pages are of. */
enum ext_bucket ext_stream_bucket(const struct extstore *e, unsigned stream);

/* By the maintenance thread: tells the time, and measures the horizon once a second. */
void ext_groups_step(struct extstore *e, uint32_t now_unix);

#endif
