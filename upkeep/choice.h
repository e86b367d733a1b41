/* upkeep/choice.h: which page reclaim works on next.
 *
 * Pages that could be emptied are SEALED, DRAINING (of a job that ended early) or BAD, have objects, and no write to them is
 * under way. A page that could not be read is left alone for a while. Nothing here changes a page: what is chosen may
 * have changed when the job begins, so ext_page_drain() looks again.
 *
 * Threads: the maintenance thread; no lock held.
 */
#ifndef EXTANT_EXT_CHOICE_H
#define EXTANT_EXT_CHOICE_H

#include "flash/types.h"

struct ext_choice {
    struct extstore *e;
    uint64_t *avoid_until_ns; /* of each page */
};

/* 0 or -ENOMEM. */
int ext_choice_init(struct ext_choice *c, struct extstore *e);
void ext_choice_end(struct ext_choice *c);
/* Leaves the page alone for five seconds. */
void ext_choice_avoid(struct ext_choice *c, uint32_t page);

/* Each returns a page's number, or EXT_NO_PAGE. Of devices of the class that take part: */
/* the page with the least left of what was appended, if that is less than this part of it. Pages of bucket lowttl are
 * left to expire, unless it is urgent; */
uint32_t ext_choose_fragmented(const struct ext_choice *c, enum ext_bucket device_class, double below, bool urgent);
/* the page with the least left, not counting what has expired, if that is less than this part and objects that are alive
 * take less than CHOICE_ROOMY of the class; */
#define CHOICE_ROOMY 0.65
uint32_t ext_choose_roomy(const struct ext_choice *c, enum ext_bucket device_class, double below);
/* the oldest: any, or one whose records a rescue takes to bucket compact; or one of any device and class. */
enum ext_choice_of { EXT_OF_CLASS, EXT_OF_CLASS_TO_COMPACT, EXT_OF_ANY_CLASS };
uint32_t ext_choose_oldest(const struct ext_choice *c, enum ext_bucket device_class, enum ext_choice_of which);
/* A BAD page with objects. */
uint32_t ext_choose_bad(const struct ext_choice *c);
/* Could a page go as soon as its last writes are done? */
bool ext_choice_may_come(const struct ext_choice *c);

#endif
