/* items/admission.c: see items/admission.h. */
#include "items/admission.h"

#define DECAY 8u /* of the counts, this part is forgotten at each decision */
#define FIRST_WAIT_PERIODS 1u
#define WAIT_PERIODS_MAX 64u
#define BETTER_FACTOR 1.1 /* a trial has to bring this much more, and */
#define BETTER_LEAST 0.02 /* this share of what RAM misses, at least */
#define LATE_FACTOR 2.0   /* this many more keys come back late than are hit on flash: try */
#define SHARE_MIN (ADMISSION_SHARE_ALL / 16)
#define GROUPS (ADMISSION_SIZES * ADMISSION_CLASSES)
static_assert(SHARE_MIN > 0 && ADMISSION_SHARE_ALL % SHARE_MIN == 0, "a share is a part of all");
#define IDLE_RATIO 0.01   /* flash that is hit this rarely is worth at most SHARE_MIN of the writes */

void admission_init(struct admission *a, enum admission_mode mode, uint64_t flash_bytes)
{
    ASSERT(mode <= ADMISSION_LEARN);
    memset(a, 0, sizeof(*a));
    a->mode = mode;
    a->worth = ADMISSION_WORTH;
    a->worth_strict = ADMISSION_WORTH_STRICT;
    a->pays = ADMISSION_PAYS;
    a->once = ADMISSION_ONCE;
    a->sample = ADMISSION_SAMPLE;
    admission_set_period(a, flash_bytes);
    a->wait = FIRST_WAIT_PERIODS;
    atomic_store(&a->admitted, (1u << GROUPS) - 1);
    atomic_store(&a->share, ADMISSION_SHARE_ALL);
}

static uint64_t get(const _Atomic(uint64_t) *at)
{
    return atomic_load_explicit(at, memory_order_relaxed);
}
static void add(_Atomic(uint64_t) *at, uint64_t by)
{
    atomic_fetch_add_explicit(at, by, memory_order_relaxed);
}
static uint64_t take(_Atomic(uint64_t) *at) { return atomic_exchange_explicit(at, 0, memory_order_relaxed); }

void admission_set_period(struct admission *a, uint64_t bytes)
{
    atomic_store_explicit(&a->period_bytes, max_u64(bytes, 2), memory_order_relaxed);
}

/* ---- classes ---- */

static_assert(GROUPS < 32, "a bit for each");

/* A class and a size. */
static unsigned group_of(const struct admission *a, unsigned class, uint64_t bytes)
{
    uint64_t mean = get(&a->leaving_bytes) / max_u64(get(&a->leaving), 1);
    unsigned size = bytes < mean / 2 ? 0 : bytes < mean ? 1 : bytes < 2 * mean ? 2 : 3;
    return size * ADMISSION_CLASSES + class;
}

/* Known, or hit in RAM. */
static bool is_strict(unsigned group) { return group % ADMISSION_CLASSES != 0; }

static void forget_some(_Atomic(uint64_t) *at) { add(at, -(get(at) / DECAY)); }

/* Of a group of which something was written. hit_once: objects on flash are hit once and seldom again. */
static bool is_worth(const struct admission *a, unsigned g, double mean, bool hit_once)
{
    const struct admission_group *group = &a->groups[g];
    double least = is_strict(g) ? a->worth_strict : a->worth;
    ASSERT(get(&group->bytes) > 0);
    return (double)get(&group->hits) >= least * mean * (double)get(&group->bytes) ||
           (hit_once && (double)get(&group->first_hits) >= a->pays * (double)get(&group->objects));
}

static void judge_classes(struct admission *a)
{
    ASSERT(atomic_load(&a->deciding));
    double hits = 0, first_hits = 0, written = 0;
    uint32_t admitted = 0, was = atomic_load_explicit(&a->admitted, memory_order_relaxed);
    for (unsigned g = 0; g < GROUPS; g++) {
        hits += (double)get(&a->groups[g].hits);
        first_hits += (double)get(&a->groups[g].first_hits);
        written += (double)get(&a->groups[g].bytes);
    }
    double mean = written > 0 ? hits / written : 0; /* the first write may come between the loops */
    for (unsigned g = 0; g < GROUPS; g++) {
        bool worth = get(&a->groups[g].bytes) == 0 ? was >> g & 1 : is_worth(a, g, mean, hits <= a->once * first_hits);
        admitted |= (uint32_t)worth << g;
    }
    atomic_store_explicit(&a->admitted, admitted, memory_order_relaxed);
    for (unsigned g = 0; g < GROUPS; g++) {
        forget_some(&a->groups[g].bytes);
        forget_some(&a->groups[g].objects);
        forget_some(&a->groups[g].hits);
        forget_some(&a->groups[g].first_hits);
    }
    forget_some(&a->leaving);
    forget_some(&a->leaving_bytes);
}

/* ---- the share ---- */

static void set_share(struct admission *a, uint32_t share)
{
    ASSERT(share >= SHARE_MIN && share <= ADMISSION_SHARE_ALL && atomic_load(&a->deciding));
    atomic_store_explicit(&a->share, share, memory_order_relaxed);
}

/* Steps of 3/4 and 2/3: 256, 192, 128, 96, 64 .. */
static uint32_t less(uint32_t share) { return share % 3 == 0 ? share / 3 * 2 : share / 4 * 3; }
static uint32_t more(uint32_t share) { return share % 3 == 0 ? share / 3 * 4 : share / 2 * 3; }

static void begin_trial(struct admission *a, double ratio)
{
    uint32_t share = atomic_load_explicit(&a->share, memory_order_relaxed);
    uint32_t next = a->upwards ? more(share) : share == ADMISSION_SHARE_ALL ? share / 2 : less(share);
    if (next > ADMISSION_SHARE_ALL || next < SHARE_MIN) {
        a->upwards = !a->upwards;
        return;
    }
    ASSERT(a->trial == ADMISSION_STEADY);
    a->share_before = share;
    a->before = ratio;
    a->trial = ADMISSION_SETTLING;
    set_share(a, next);
}

static void end_trial(struct admission *a, double ratio)
{
    ASSERT(a->trial == ADMISSION_MEASURING);
    a->trial = ADMISSION_STEADY;
    a->waited = 0;
    if (ratio > a->before * BETTER_FACTOR && ratio > a->before + BETTER_LEAST) {
        a->kept_for = ratio;
        a->wait = FIRST_WAIT_PERIODS;
        return;
    }
    set_share(a, a->share_before);
    a->upwards = !a->upwards && a->share_before < ADMISSION_SHARE_ALL;
    a->wait = a->wait * 2 < WAIT_PERIODS_MAX ? a->wait * 2 : WAIT_PERIODS_MAX;
}

static void judge_share(struct admission *a)
{
    double hits = (double)take(&a->flash_hits), misses = (double)take(&a->misses);
    double known = (double)take(&a->known), unknown = (double)take(&a->unknown);
    double ratio = hits + misses > 0 ? hits / (hits + misses) : 0;
    double late = known + unknown > 0 ? known / (known + unknown) : 0;
    bool some = atomic_load_explicit(&a->share, memory_order_relaxed) < ADMISSION_SHARE_ALL;
    if (a->trial == ADMISSION_STEADY && some && ratio < a->kept_for / 2) {
        set_share(a, ADMISSION_SHARE_ALL);
        a->waited = a->idle = 0;
        a->wait = FIRST_WAIT_PERIODS;
    } else if (a->trial == ADMISSION_STEADY && !some && ratio < IDLE_RATIO && ++a->idle >= 2) {
        set_share(a, SHARE_MIN);
        a->upwards = true;
        a->kept_for = 0;
        a->waited = 0;
    } else if (a->trial == ADMISSION_SETTLING) {
        a->trial = ADMISSION_MEASURING;
    } else if (a->trial == ADMISSION_MEASURING) {
        end_trial(a, ratio);
    } else if (++a->waited > a->wait && (some || late > LATE_FACTOR * ratio)) {
        begin_trial(a, ratio);
    }
}

static void decide(struct admission *a)
{
    if (atomic_exchange(&a->deciding, true))
        return;
    if (get(&a->left) >= get(&a->period_bytes) / 2) {
        atomic_store_explicit(&a->left, 0, memory_order_relaxed);
        judge_classes(a);
        if (++a->halves % 2 == 0)
            judge_share(a);
    }
    atomic_store(&a->deciding, false);
}

/* ---- asked and told ---- */

void admission_leaves(struct admission *a, uint64_t object_bytes)
{
    add(&a->leaving, 1);
    add(&a->leaving_bytes, object_bytes);
}

bool admission_wants(struct admission *a, uint64_t hash, unsigned class, uint64_t object_bytes)
{
    bool known = class >= ADMISSION_RAM_HITS;
    ASSERT(class < ADMISSION_CLASSES);
    if (a->mode == ADMISSION_ALL)
        return true;
    if (a->mode == ADMISSION_STRICT)
        return known || class % ADMISSION_RAM_HITS == ADMISSION_RAM_HITS - 1;
    add(known ? &a->known : &a->unknown, 1);
    add(&a->left, object_bytes);
    if (get(&a->left) >= get(&a->period_bytes) / 2)
        decide(a);
    if ((hash >> 12 & (ADMISSION_SHARE_ALL - 1)) >= atomic_load_explicit(&a->share, memory_order_relaxed))
        return false;
    unsigned group = group_of(a, class, object_bytes);
    return (atomic_load_explicit(&a->admitted, memory_order_relaxed) >> group & 1) != 0 ||
           (hash >> 40) % a->sample == 0;
}

void admission_written(struct admission *a, unsigned class, uint64_t object_bytes)
{
    ASSERT(class < ADMISSION_CLASSES);
    struct admission_group *group = &a->groups[group_of(a, class, object_bytes)];
    add(&group->bytes, object_bytes);
    add(&group->objects, 1);
}

void admission_hit(struct admission *a, unsigned class, uint64_t object_bytes, bool first)
{
    ASSERT(class < ADMISSION_CLASSES);
    struct admission_group *group = &a->groups[group_of(a, class, object_bytes)];
    add(&group->hits, 1);
    if (first)
        add(&group->first_hits, 1);
    add(&a->flash_hits, 1);
}

void admission_miss(struct admission *a) { add(&a->misses, 1); }
