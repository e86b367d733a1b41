/* sim_model.c: see sim_model.h. */
#include "t/aid/sim_model.h"

#include "base/hash.h"

#define VALUE_MAX (256u * KiB)

static void fill(char *to, uint32_t bytes, uint64_t x)
{
    for (uint32_t i = 0; i < bytes; i += sizeof(x)) {
        x = x * UINT64_C(0x9e3779b97f4a7c15) + 1;
        memcpy(to + i, &x, min_u64(sizeof(x), bytes - i));
    }
}

uint32_t sim_value(const struct sim_key *k, const struct sim_state *s, char *value, uint32_t size)
{
    if (k->is_number)
        return (uint32_t)snprintf(value, size, "%" PRIu64, s->number);
    uint32_t bytes = s->prepended + s->bytes + s->appended;
    ASSERT(bytes <= size);
    memset(value, '-', s->prepended);
    fill(value + s->prepended, s->bytes, hash_key(k->name, strlen(k->name), s->version));
    memset(value + s->prepended + s->bytes, '+', s->appended);
    return bytes;
}

void sim_begin(struct sim_key *k, const struct sim_state *next)
{
    ASSERT(!k->changing);
    k->next = *next;
    if (k->version < next->version)
        k->version = next->version;
    k->changing = true;
}

void sim_set(struct sim_key *k, const struct sim_state *s)
{
    struct sim_state copy = *s;
    copy.was_in_doubt = false;
    sim_last(k)->was_in_doubt = k->doubt;
    k->states[++k->seq % SIM_STATES] = copy;
    k->doubt = false;
}

void sim_ack(struct sim_key *k)
{
    ASSERT(k->changing);
    sim_set(k, &k->next);
    k->changing = false;
}

void sim_refuse(struct sim_key *k)
{
    ASSERT(k->changing);
    k->changing = false;
}

static bool there(const struct sim_state *s, uint32_t from_sec)
{
    return s->exists && (s->exptime_sec == 0 || from_sec < s->exptime_sec);
}

static bool gone(const struct sim_state *s, uint32_t to_sec)
{
    return !s->exists || (s->exptime_sec != 0 && s->exptime_sec <= to_sec);
}

bool sim_can_be_there(const struct sim_key *k, uint32_t from_sec)
{
    return there(&k->states[k->seq % SIM_STATES], from_sec);
}

bool sim_can_be_gone(const struct sim_key *k, uint32_t to_sec)
{
    return k->doubt || gone(&k->states[k->seq % SIM_STATES], to_sec);
}

/* A number that was counted down is padded with spaces to its old length. */
static bool same_value(const struct sim_key *k, const struct sim_state *s,
                       const struct cache_view *v)
{
    static char value[VALUE_MAX];
    uint32_t bytes = sim_value(k, s, value, sizeof(value));
    while (k->is_number && bytes < v->value_bytes && bytes < 24)
        value[bytes++] = ' ';
    return v->value_bytes == bytes && memcmp(v->value, value, bytes) == 0;
}

static bool fits(const struct sim_key *k, const struct sim_state *s, const struct sim_sight *sight)
{
    const struct cache_view *v = sight->view;
    if (v == NULL) /* a get that began before a value was lost, or found again, may return the earlier state */
        return s->was_in_doubt || gone(s, sight->to_sec);
    return there(s, sight->from_sec) && v->client_flags == s->version &&
           v->exptime_sec == s->exptime_sec && same_value(k, s, v);
}

enum sim_verdict sim_judge(struct sim_key *k, const struct sim_sight *s)
{
    uint32_t span = k->seq - s->since_seq;
    if (span >= SIM_STATES)
        return SIM_RIGHT; /* too long ago to be remembered */
    bool alone = span == 0 && !k->changing;
    for (uint32_t i = 0; i <= span; i++) {
        if (!fits(k, &k->states[(k->seq - i) % SIM_STATES], s))
            continue;
        if (alone && s->view != NULL)
            k->doubt = false;
        return SIM_RIGHT;
    }
    if (k->changing && fits(k, &k->next, s))
        return SIM_RIGHT;
    if (s->view != NULL)
        return SIM_WRONG;
    bool known = k->doubt; /* counted already */
    k->doubt = true;
    return known ? SIM_RIGHT : SIM_LOST;
}

enum sim_verdict sim_settle(struct sim_key *k, const struct sim_sight *s)
{
    if (k->changing) {
        bool happened = fits(k, &k->next, s);
        bool before = fits(k, sim_last(k), s);
        /* The key is gone in any case; after the change nothing can come back. */
        if (happened || (!before && s->view == NULL && k->doubt))
            sim_ack(k);
        else
            sim_refuse(k);
    }
    return sim_judge(
        k, &(struct sim_sight){
               .view = s->view, .since_seq = k->seq, .from_sec = s->from_sec, .to_sec = s->to_sec});
}
