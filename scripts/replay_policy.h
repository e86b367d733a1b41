/* replay_policy.h: Extant's own policy, simulated with its own modules (items/ghost.h,
 * items/admission.h), so that a constant can be tried in a second: scripts/replay.c, --policy. */
#ifndef REPLAY_POLICY_H
#define REPLAY_POLICY_H

#include "scripts/replay_sim.h"

struct policy {
    int admit;          /* enum admission_mode */
    double worth, strict, pays; /* of a class: of the mean, of the mean, of its objects */
    double once;        /* hits of an object that was hit, up to which `pays` counts */
    unsigned sample;
    double keep;        /* of an evicted page, at most this share is written again */
    double second;      /* hot share of a page from which on it stays; above 1: never */
    unsigned hot;       /* hits since the last look that make a record hot */
    double ghost_keys;  /* entries for each key that fits flash */
    double window;      /* of the ghost, in flash sizes */
    double slab_mb;     /* RAM of each slab class: a page, as in servers with so little; 0: one LRU of all RAM */
    bool evicted_known; /* keys of evicted pages enter the ghost */
    bool verbose;
};

/* "keep=0.1,second=0.5,..." over the defaults. Ends the program if it makes no sense. */
void policy_parse(struct policy *p, char *text);
void policy_run(const struct policy *p, const struct trace *t, const struct sim_sizes *sizes,
                struct sim_result *out);

#endif
