/* operator/latency.h: the time that requests spend in the server, by tier and command.
 *
 * Answers from memory are measured by turns of the worker's loop: from receiving the first of the turn's
 * requests until the kernel has the replies, which go out together. A clock costs more than a look-up, so
 * under load one turn in LATENCY_GAP (in fewer, if turns have many commands), chosen at random, is measured
 * and stands for the others; a worker with fewer than LATENCY_QUIET turns a second measures all of them.
 * Waits for flash are measured each time, from start to end.
 *
 * One struct latency for each worker, in its thread_stats: zeroed, written by its thread only, read
 * by any (the cells are histograms). No locks, never sleeps.
 */
#ifndef EXTANT_LATENCY_H
#define EXTANT_LATENCY_H

#include "base/histogram.h"

enum { LATENCY_GAP = 32, LATENCY_QUIET = 1000 };

/*    tier, its name in labels */
#define LATENCY_TIER_TABLE(X)                                                                      \
    X(LATENCY_RAM, "ram")      /* answered from memory, or without looking further */              \
    X(LATENCY_FLASH, "flash")  /* waited for flash: a read, or room for a write */                 \
    X(LATENCY_MISS, "miss")    /* nothing was found */
/*    command, its name in labels */
#define LATENCY_COMMAND_TABLE(X)                                                                   \
    X(LATENCY_GET, "get")                                                                          \
    X(LATENCY_STORE, "store")                                                                      \
    X(LATENCY_DELETE, "delete")                                                                    \
    X(LATENCY_TOUCH, "touch")                                                                      \
    X(LATENCY_ARITHMETIC, "arithmetic")
enum latency_tier {
    LATENCY_TIER_TABLE(ROW_NAME)
        LATENCY_TIERS
};
enum latency_command {
    LATENCY_COMMAND_TABLE(ROW_NAME)
        LATENCY_COMMANDS
};

struct latency {
    struct histogram cells[LATENCY_TIERS][LATENCY_COMMANDS];
    /* the owner's */
    bool measuring;    /* this turn */
    uint32_t skip;     /* turns until the next one that is measured */
    uint32_t stands_for; /* number of turns that this one stands for */
    uint32_t random;
    uint64_t began_ns; /* of the turn that is measured; 0: nothing received yet */
    uint64_t before_ns; /* of the one measured before */
    uint32_t counts[LATENCY_TIERS][LATENCY_COMMANDS]; /* in this turn */
};

/* The turn begins, before its wait; it has received its first request; all its replies are sent. */
static inline void latency_turn(struct latency *l)
{
    if (likely(l->skip > 0))
        l->skip--;
    else
        l->measuring = true;
}
void latency_turn_received(struct latency *l);
void latency_turn_measured(struct latency *l);
static inline void latency_received(struct latency *l)
{
    if (unlikely(l->measuring && l->began_ns == 0))
        latency_turn_received(l);
}
static inline void latency_sent(struct latency *l)
{
    if (unlikely(l->measuring))
        latency_turn_measured(l);
}

/* A command of this turn was answered without a wait. */
static inline void latency_count(struct latency *l, enum latency_tier tier, enum latency_command command)
{
    DEBUG_ASSERT(tier < LATENCY_TIERS && command < LATENCY_COMMANDS);
    if (unlikely(l->measuring))
        l->counts[tier][command]++;
}
/* A command that waited for flash was answered. */
static inline void latency_waited(struct latency *l, enum latency_command command, uint64_t ns)
{
    histogram_add(&l->cells[LATENCY_FLASH][command], ns, 1);
}

const char *latency_tier_name(enum latency_tier tier);
const char *latency_command_name(enum latency_command command);

#endif
