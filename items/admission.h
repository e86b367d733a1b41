/* items/admission.h: which objects that leave RAM are worth a write to flash, once flash is full.
 *
 * An object leaves RAM in a class: was its key known (items/ghost.h) when it came back, or only now; how often was
 * it hit in RAM (0, 1, more); and how large is it (below half of the mean of what leaves RAM, below the
 * mean, below its double, or larger). What each class has brought is counted: hits on flash
 * for the bytes written. A class is admitted while it brings ADMISSION_WORTH of the mean, or, if its key
 * was known or hit, ADMISSION_WORTH_STRICT of it: these are rarely a mistake. Where objects on flash
 * are hit once and seldom again (an object that is hit has ADMISSION_ONCE hits at most), none is better than
 * another: then a class is admitted too if ADMISSION_PAYS of its objects are hit at all, however large they
 * are. Of the others one key in ADMISSION_SAMPLE is written nevertheless, so that what they would bring stays known.
 * An eighth of the counts is forgotten with each half of a flash size that leaves RAM: less, and classes are
 * judged by chance; more, and a change in the clients' requests is noticed late.
 *
 * A set of keys that is read round and round, and is larger than flash, gets no hit at all in a
 * queue. So of the keys that are admitted only a share is taken, chosen by hash (always the same
 * keys), where a trial shows that this brings more hits:
 *
 *   STEADY --waited enough, and many keys come back too late--> SETTLING --one period--> MEASURING
 *     ^                                                                                     |
 *     +--- better: the new share stays, and the next trial comes soon ----------------------+
 *     +--- else: back to the old share, and the wait until the next trial is doubled -------+
 *   any --hits fall to less than half of what the share was kept for--> STEADY, all are taken
 *   STEADY --all are taken, and flash is hardly ever hit--> STEADY, a sixteenth is taken, trials go upwards
 *
 * A period is as many bytes as flash has, leaving RAM.
 *
 * Threads: all calls from any thread, no lock. Counts are atomic; decisions are made by one
 * thread at a time. Nothing here outlives the process: it is learnt again in a turnover.
 */
#ifndef EXTANT_ADMISSION_H
#define EXTANT_ADMISSION_H

#include "base/base.h"

#define ADMISSION_RAM_HITS 3u /* 0, 1, 2 and more */
#define ADMISSION_CLASSES (2 * ADMISSION_RAM_HITS) /* as they are kept in a record: its length tells its size */
#define ADMISSION_SIZES 4u /* of the mean: under 1/2, under 1, under 2, above */
#define ADMISSION_SAMPLE 32u
#define ADMISSION_WORTH 0.95
#define ADMISSION_WORTH_STRICT 0.3
#define ADMISSION_PAYS 0.6 /* of the objects */
#define ADMISSION_ONCE 1.25 /* hits of an object that was hit */
#define ADMISSION_SHARE_ALL 256u

enum admission_mode {
    ADMISSION_ALL,    /* everything is written */
    ADMISSION_STRICT, /* those hit twice in RAM, or known; nothing is learnt */
    ADMISSION_LEARN,
};

enum admission_trial { ADMISSION_STEADY, ADMISSION_SETTLING, ADMISSION_MEASURING };

struct admission_group { /* of a class and a size; decayed */
    _Atomic(uint64_t) bytes, objects;   /* written */
    _Atomic(uint64_t) hits, first_hits; /* first: of an object that was not hit on flash before */
};

struct admission {
    /* const after init */
    enum admission_mode mode;
    double worth, worth_strict, pays, once; /* ADMISSION_WORTH.., unless another is tried (scripts/replay.c) */
    unsigned sample;
    /* atomic */
    _Atomic(uint64_t) period_bytes;
    struct admission_group groups[ADMISSION_SIZES * ADMISSION_CLASSES];
    _Atomic(uint64_t) leaving, leaving_bytes; /* objects, for their mean; decayed */
    _Atomic(uint32_t) admitted; /* a bit for each class and size */
    _Atomic(uint32_t) share;    /* of the keys, of ADMISSION_SHARE_ALL */
    _Atomic(uint64_t) left;     /* bytes that left RAM since the last decision */
    _Atomic(uint64_t) flash_hits, misses, known, unknown; /* of this period; known: by objects that left */
    _Atomic(bool) deciding;
    /* under `deciding` */
    enum admission_trial trial;
    unsigned halves;          /* decisions are made twice a period */
    unsigned waited, wait, idle; /* periods */
    bool upwards;             /* the next trial takes more keys */
    uint32_t share_before;
    double before, kept_for;  /* hit ratio that a trial has to beat; that the share was kept for */
};

void admission_init(struct admission *a, enum admission_mode mode, uint64_t flash_bytes);
/* Flash is not what fills up, but something that holds this many bytes of objects; a period is that long. */
void admission_set_period(struct admission *a, uint64_t bytes);
/* The class of an object: known, and hits in RAM. Pure. */
static inline unsigned admission_class(bool known, unsigned ram_hits)
{
    unsigned hits = ram_hits < ADMISSION_RAM_HITS ? ram_hits : ADMISSION_RAM_HITS - 1;
    return (known ? ADMISSION_RAM_HITS : 0) + hits;
}
/* Notes the size of an object that leaves RAM, whatever becomes of it; the calls below are about such. */
void admission_leaves(struct admission *a, uint64_t object_bytes);
/* Must an object of the class that leaves RAM be written? Once flash is full. */
bool admission_wants(struct admission *a, uint64_t hash, unsigned class, uint64_t object_bytes);
/* Notes that it was written. */
void admission_written(struct admission *a, unsigned class, uint64_t object_bytes);
/* Notes a hit on flash of an object of the class, its first there or another; notes a key that was found nowhere. */
void admission_hit(struct admission *a, unsigned class, uint64_t object_bytes, bool first);
void admission_miss(struct admission *a);

#endif
