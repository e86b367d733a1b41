/* sim_model.h: what the simulation's clients know: the last acknowledged state of each key, earlier ones, and the
 * one under way. The cache's answers are judged by it.
 *
 * One change of a key is under way at a time, gets of it may overlap it and each other. The model
 * is shared memory: it outlives the process whose cache it judges. One thread.
 */
#ifndef EXTANT_T_SIM_MODEL_H
#define EXTANT_T_SIM_MODEL_H

#include "cache.h"

#define SIM_KEYS_MAX 160u
#define SIM_STATES 16u /* states remembered for a key */
#define SIM_KEY_BYTES_MAX 24u

struct sim_state {
    bool exists;
    uint32_t version; /* tells the value, and is its client flags; of numbers only the flags */
    uint32_t bytes;   /* without what was joined */
    uint32_t appended, prepended;
    uint32_t exptime_sec; /* of base/clock.h; 0 never */
    uint64_t number;
    bool was_in_doubt; /* as struct sim_key's doubt, when a later state came */
};

struct sim_key {
    char name[SIM_KEY_BYTES_MAX];
    bool is_number;
    struct sim_state states[SIM_STATES]; /* state n is at n % SIM_STATES */
    uint32_t seq;                        /* of the state that was acknowledged last */
    struct sim_state next;
    bool changing; /* next has begun, and may have happened */
    bool doubt;    /* a get found nothing: the last state is lost, or could not be read just then */
    uint32_t version; /* of the youngest value that was ever begun */
};

/* What an op saw of a key. */
struct sim_sight {
    const struct cache_view *view; /* NULL: it was not there */
    uint32_t since_seq;            /* the state before the op */
    uint32_t from_sec, to_sec;     /* when it ran */
};

enum sim_verdict {
    SIM_RIGHT,
    SIM_LOST,  /* an acknowledged value is not there */
    SIM_WRONG, /* the value was never acknowledged, or should be gone */
};

static inline struct sim_state *sim_last(struct sim_key *k)
{
    return &k->states[k->seq % SIM_STATES];
}
/* The value of a key in a state, of at most size bytes; returns its length. */
uint32_t sim_value(const struct sim_key *k, const struct sim_state *s, char *value, uint32_t size);

/* A change begins; it was acknowledged; it did not take place. */
void sim_begin(struct sim_key *k, const struct sim_state *next);
void sim_ack(struct sim_key *k);
void sim_refuse(struct sim_key *k);
/* The last state became another one without an op (flush_all, or a loss that was seen). */
void sim_set(struct sim_key *k, const struct sim_state *s);

/* Could an op that ran from..to have found the key in its last state; could it have found nothing?
 */
bool sim_can_be_there(const struct sim_key *k, uint32_t from_sec);
bool sim_can_be_gone(const struct sim_key *k, uint32_t to_sec);

/* Judges what a get saw, and notes losses. */
enum sim_verdict sim_judge(struct sim_key *k, const struct sim_sight *s);
/* After a kill, with nothing under way: the same, and settles what the last state is. */
enum sim_verdict sim_settle(struct sim_key *k, const struct sim_sight *s);

#endif
