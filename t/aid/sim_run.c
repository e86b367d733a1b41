/* sim_run.c: see sim_run.h. In this order: the machine, ends of a life, checks, client ops, the work of the other
 * threads, the life. */
#include "t/aid/sim_run.h"

#include <fcntl.h>
#include <stdarg.h>
#include <unistd.h>

#include "items/store.h"
#include "flash/engine.h"
#include "base/hash.h"
#include "base/log.h"
#include "maint_thread.h"
#include "operator/command_line.h"
#include "storage_config.h"
#include "t/aid/sim_tags.h"

#define OPS_MAX 16u
#define STEPS_MAX 1500u
#define NESTED_MAX 2u
#define CHECK_STEPS 200u
#define DRAIN_STEPS_MAX 20000u
#define FIRST_NS (UINT64_C(1000000) * 1000000000)
#define IMAGE_BYTES (8 * MiB)
#define MEMORY_BYTES (8 * MiB)

enum verb {
    V_GET,
    V_GAT,
    V_SET,
    V_ADD,
    V_REPLACE,
    V_APPEND,
    V_PREPEND,
    V_CAS,
    V_CAS_OTHER,
    V_DELETE,
    V_TOUCH,
    V_INCR,
    V_DECR
};
static const char *const verb_names[] = {
    "get",    "gat",   "set",  "add", "replace", "append", "prepend", "cas", "cas of another",
    "delete", "touch", "incr", "decr"};

enum op_phase {
    OP_FREE,
    OP_RUNNING,
    OP_HELD,     /* answered, the client takes its time to read */
    OP_RETURNING /* the value was put away meanwhile and is read again */
};

struct client_op {
    struct cache_op op;
    enum op_phase phase;
    enum verb verb;
    struct sim_key *key;
    uint64_t seen; /* HELD: a hash of what the value has to be until it is released */
    bool ready;    /* done() was called */
    bool away;     /* HELD: the value is put away */
    uint32_t since_seq, from_sec;
    unsigned hold; /* steps */
};

/* This process's state: each life is a process of its own. */
static struct life {
    struct sim *sim;
    struct settings settings;
    struct cache_config config;
    struct ext_tunables tunables;
    struct ext_device_ops ops;
    struct ext_callbacks callbacks; /* of the cache; the engine has ours */
    struct restart r;
    struct maint *maint;
    struct thread_stats stats;
    struct cache_worker *worker;
    struct client_op client[OPS_MAX];
    unsigned nested;
    bool in_maint, calm; /* calm: nothing happens meanwhile */
    uint64_t upcalls;
    char value[256 * KiB];
} me;

/* ---- reports ---- */

static void tell(const char *fmt, ...) PRINTF_LIKE(1, 2);
static void tell(const char *fmt, ...)
{
    char line[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    for (const char *p = line; *p; p++)
        me.sim->digest = (me.sim->digest ^ (uint8_t)*p) * UINT64_C(0x100000001b3);
    if (me.sim->trace)
        fprintf(stderr, "%u.%05" PRIu64 " %*s%s\n", me.sim->life, me.sim->step, (int)me.nested * 4,
                "", line);
}

/* What the storage has counted in this life. */
static void tell_counters(void)
{
    static const char *const cache_names[] = {
#define X(name, text) #name,
        CACHE_COUNTER_TABLE(X)
#undef X
    };
    static const char *const ext_names[] = {
#define X(name, text) #name,
        EXT_COUNTER_TABLE(X)
#undef X
    };
    for (unsigned i = 0; me.r.cache && i < ARRAY_COUNT(cache_names); i++)
        if (atomic_load(&me.r.cache->counters[i]) > 0)
            fprintf(stderr, "  cache %s %" PRIu64 "\n", cache_names[i],
                    atomic_load(&me.r.cache->counters[i]));
    for (unsigned i = 0; me.r.ext && i < ARRAY_COUNT(ext_names); i++)
        if (ext_counted(me.r.ext, i) > 0)
            fprintf(stderr, "  flash %s %" PRIu64 "\n", ext_names[i], ext_counted(me.r.ext, i));
}

_Noreturn static void fail(const char *fmt, ...) PRINTF_LIKE(1, 2);
_Noreturn static void fail(const char *fmt, ...)
{
    char line[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    fprintf(stderr, "SIM_SEED=%" PRIu64 " (%s), life %u, step %" PRIu64 ": %s\n", me.sim->seed,
            sim_profile_name(me.sim->profile), me.sim->life, me.sim->step, line);
    tell_counters();
    abort();
}

#define MUST(cond)                                                                                 \
    do {                                                                                           \
        if (!(cond))                                                                               \
            fail("not so: %s", #cond);                                                             \
    } while (0)

const char *sim_profile_name(enum sim_profile p)
{
    static const char *const names[] = {
#define X(name, text) #name,
        SIM_PROFILE_TABLE(X)
#undef X
    };
    return names[p];
}

static uint32_t draw(uint32_t bound)
{
    return sim_below(&me.sim->random, bound);
}

static bool one_in(uint32_t n)
{
    return draw(n) == 0;
}

/* ---- the machine ---- */

static uint32_t pick(uint64_t *random, const uint32_t *from, unsigned count)
{
    return from[sim_below(random, count)];
}

static void make_faults(struct sim *s, struct sim_faults *f)
{
    static const uint32_t rates[] = {0, 5, 20, 100}, seldom[] = {0, 100, 300};
    uint64_t *r = &s->random;
#define RATE pick(r, rates, ARRAY_COUNT(rates))
#define SELDOM pick(r, seldom, ARRAY_COUNT(seldom))
    f->interrupt = RATE;
    f->stall = SELDOM;
    if (s->profile == SIM_WRITES || s->profile == SIM_ALL) {
        f->write_error = RATE;
        f->write_torn_error = RATE;
        f->write_no_space = RATE;
        f->write_short = RATE;
        f->write_outage = SELDOM;
    }
    if (s->profile == SIM_READS || s->profile == SIM_ALL) {
        f->read_error = RATE;
        f->read_short = RATE;
        f->read_flip = RATE;
        f->read_outage = SELDOM;
    }
    if (s->profile == SIM_ROT || s->profile == SIM_ALL) {
        f->write_flip = RATE;
        f->write_lost = RATE;
        f->write_misdirected = RATE;
        f->read_flip = RATE;
    }
#undef RATE
#undef SELDOM
}

static void make_flash(struct sim *s)
{
    static const uint32_t slots[] = {1, 2, 4}, aligns[] = {EXT_GRANULE_BYTES, 512, 4096};
    uint64_t *r = &s->random;
    bool full = s->profile == SIM_FULL || (s->profile == SIM_ALL && sim_below(r, 4) == 0);
    s->wbuf_bytes = 16 * KiB << sim_below(r, 2);
    s->page_bytes = s->wbuf_bytes * pick(r, slots, ARRAY_COUNT(slots));
    s->value_max = (uint32_t)(full ? 3000 : s->wbuf_bytes / 8);
    s->pages[0] = (uint32_t)(full ? 5 + sim_below(r, 6) : IMAGE_BYTES / 2 / s->page_bytes);
    if (sim_below(r, 4) == 0)
        s->pages[1] = (uint32_t)(full ? 2 + sim_below(r, 4) : IMAGE_BYTES / 4 / s->page_bytes);
    s->device.count = s->pages[1] > 0 ? 2 : 1;
    for (unsigned i = 0; i < s->device.count; i++)
        s->device.bytes[i] = s->pages[i] * s->page_bytes;
    s->read_align = pick(r, aligns, ARRAY_COUNT(aligns));
    s->item_age_sec = sim_below(r, 3);
}

void sim_make(struct sim *s, uint64_t seed)
{
    s->seed = seed;
    s->profile = (enum sim_profile)(seed % SIM_PROFILE_COUNT);
    s->random = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15) | 1;
    for (unsigned i = 0; i < 4; i++)
        sim_random(&s->random);
    s->device.random = sim_random(&s->random) | 1;
    s->strict = s->profile == SIM_KILLS || s->profile == SIM_WRITES;
    s->now_ns = FIRST_NS;
    s->lives = 2 + sim_below(&s->random, 3);
    make_faults(s, &s->device.faults);
    make_flash(s);
    s->key_count = 40 + sim_below(&s->random, SIM_KEYS_MAX - 39);
    bool tags = s->profile == SIM_TAGS || s->profile == SIM_ALL;
    for (unsigned i = 0; i < s->key_count; i++) {
        struct sim_key *k = &s->keys[i];
        if (tags && i < SIM_TAGS_COUNT)
            snprintf(k->name, sizeof(k->name), "%s", sim_tags_key(i));
        else
            snprintf(k->name, sizeof(k->name), "key-%u", i);
        k->is_number = i % 8 == 7;
    }
}

uint64_t sim_image_bytes(void)
{
    return IMAGE_BYTES;
}

void sim_plan(struct sim *s)
{
    s->kill = s->life + 1 == s->lives ? SIM_KILL_NEVER
                                      : (enum sim_kill)sim_below(&s->random, SIM_KILL_COUNT);
    uint32_t bound = s->kill == SIM_KILL_AT_STEP ? STEPS_MAX / 2
                     : sim_below(&s->random, 2)  ? 8
                                                 : 80;
    s->kill_at = sim_below(&s->random, bound);
}

/* ---- how a life ends ---- */

/* Objects given up so far for a counted reason; 0 in profiles where all of them could be kept. */
static uint64_t reasons(void)
{
    const struct cache *c = me.r.cache;
    struct extstore *e = me.r.ext;
    uint64_t n = me.sim->reasons_before;
    if (me.sim->strict)
        return n;
    for (enum cache_counter i = CACHE_N_evictions_write_wait; i <= CACHE_N_evictions_same_tag; i++)
        n += atomic_load(&c->counters[i]);
    n += atomic_load(&me.stats.counters[STAT_badcrc_from_extstore]);
    n += atomic_load(&me.stats.counters[STAT_get_aborted_extstore]);
    return n + ext_counted(e, EXT_N_objects_evicted) + ext_counted(e, EXT_N_compact_lost);
}

static void take_stock(void)
{
    struct extstore *e = me.r.ext;
    struct sim *s = me.sim;
    s->reasons_before = reasons();
    if (!s->strict) /* these go on counting in the next life */
        s->reasons_before -=
            ext_counted(e, EXT_N_objects_evicted) + ext_counted(e, EXT_N_compact_lost);
    s->collisions += atomic_load(&me.r.cache->counters[CACHE_N_tag_collisions]);
    s->left_clean += atomic_load(&me.r.cache->counters[CACHE_N_clean_evictions]);
    s->written = ext_counted(e, EXT_N_objects_written);
    s->rescued = ext_counted(e, EXT_N_compact_rescues);
    s->moved = ext_counted(e, EXT_N_write_moved);
    s->evicted = ext_counted(e, EXT_N_objects_evicted);
    s->now_ns = clock_mono_ns() + 1000000 * (1 + draw(500));
}

_Noreturn static void killed(const char *where)
{
    tell("killed %s", where);
    take_stock();
    _exit(SIM_KILLED);
}

static void kill_in_write(void *ctx, uint64_t nth, void (*leave)(struct sim_device *d))
{
    struct sim *s = me.sim;
    (void)ctx;
    if (s->kill != SIM_KILL_IN_WRITE || nth < s->kill_at)
        return;
    if (one_in(3)) {
        killed("before a write");
    } else {
        leave(&s->device);
        killed("in a write");
    }
}

/* ---- checks ---- */

struct census { /* of the index */
    uint64_t ram;
    uint32_t objects[IMAGE_BYTES / (16 * KiB)];
};

static void count_word(void *ctx, uint64_t hash, index_slot *slot, index_word w)
{
    struct census *n = ctx;
    const struct index *ix = me.r.index;
    (void)hash, (void)slot;
    if (index_kind(ix, w) == INDEX_RAM)
        n->ram++;
    else if (index_kind(ix, w) == INDEX_FLASH)
        n->objects[ext_place_page(me.r.ext, index_place(ix, w))]++;
}

/* No work is half done, so every count is exact. */
static void check_counts(void)
{
    struct extstore *e = me.r.ext;
    static struct census n;
    memset(&n, 0, sizeof(n));
    for (unsigned shard = 0; shard < INDEX_SHARD_COUNT; shard++) {
        uint64_t pos = 0;
        struct lock *lock = index_shard_lock(me.r.index, shard);
        lock_take(lock);
        while (index_walk(me.r.index, shard, &pos, 1024, count_word, &n))
            ;
        lock_release(lock);
    }
    for (unsigned page = 0; page < ext_page_count(e); page++) {
        uint32_t counted = atomic_load(&e->pages[page].objects);
        if (counted != n.objects[page])
            fail("page %u counts %u objects, the index has %u", page, counted, n.objects[page]);
    }
    uint64_t listed = 0;
    for (unsigned cls = 1; cls <= slab_class_count(me.r.slab); cls++)
        for (unsigned seg = 0; seg < LRU_SEGMENT_COUNT; seg++)
            listed += lru_count(me.r.cache->lru, lru_id_of(cls, (enum lru_segment)seg));
    if (listed != n.ram)
        fail("%" PRIu64 " items are in lists, the index has %" PRIu64, listed, n.ram);
    uint64_t wrong = ext_reconcile(e);
    if (wrong != 0)
        fail("ext_reconcile says %" PRIu64, wrong);
    extmap_assert(e->map);
    if (me.sim->losses > reasons())
        fail("%" PRIu64 " objects were lost, %" PRIu64 " with a reason", me.sim->losses, reasons());
}

static void lost(const struct sim_key *k, const char *how)
{
    const struct sim_state *s = &k->states[k->seq % SIM_STATES];
    me.sim->losses++;
    tell("%s is lost: version %u, %u+%u+%u bytes, exptime %u, now %u", k->name, s->version,
         s->prepended, s->bytes, s->appended, s->exptime_sec, clock_now_sec());
    if (me.sim->losses > reasons())
        fail("%s: %s finds nothing and nothing counts it: %" PRIu64 " losses, %" PRIu64 " reasons",
             k->name, how, me.sim->losses, reasons());
}

static void judged(enum sim_verdict v, struct sim_key *k, const char *how,
                   const struct cache_op *op)
{
    const struct sim_state *s = sim_last(k);
    if (v == SIM_LOST)
        lost(k, how);
    if (v != SIM_WRONG)
        return;
    fail("%s: %s sees status %d, %u bytes, flags %u, exptime %u; it was: %s, version %u, %u+%u+%u "
         "bytes, "
         "exptime %u, number %" PRIu64 "; changing %d; now %u",
         k->name, how, (int)op->status, op->view.value_bytes, op->view.client_flags,
         op->view.exptime_sec, s->exists ? "there" : "not there", s->version, s->prepended,
         s->bytes, s->appended, s->exptime_sec, s->number, k->changing, clock_now_sec());
}

/* ---- client ops ---- */

static void finish_stage(struct client_op *o);

static void op_done(struct cache_op *op)
{
    ((struct client_op *)op->owner)->ready = true;
}

static void run_stage(struct client_op *o)
{
    o->op.done = op_done;
    o->op.owner = o;
    o->ready = false;
    if (cache_run(me.worker, &o->op))
        finish_stage(o);
}

static void init_stage(struct client_op *o, enum cache_verb verb)
{
    const char *name = o->key->name;
    cache_op_init(&o->op, verb, name, (uint8_t)strlen(name),
                  cache_hash(me.r.cache, name, strlen(name)));
}

static void end_op(struct client_op *o)
{
    cache_release(me.worker, &o->op);
    o->phase = OP_FREE;
}

static uint32_t draw_exptime(void)
{
    switch (draw(6)) {
    case 0:
        return clock_now_sec() + 1 + draw(20);
    case 1:
        return clock_now_sec() + 1000 + draw(1000);
    default:
        return 0;
    }
}

static uint32_t draw_bytes(void)
{
    uint32_t max = me.sim->value_max;
    switch (draw(8)) {
    case 0:
        return max + draw((uint32_t)me.sim->wbuf_bytes - max); /* perhaps too large */
    case 1:
    case 2:
        return draw(max);
    default:
        return draw(max / 8);
    }
}

/* What the key is after the op, if it does what it says. */
static struct sim_state state_after(struct client_op *o)
{
    struct sim_state s = *sim_last(o->key);
    switch (o->verb) {
    case V_SET:
    case V_ADD:
    case V_REPLACE:
    case V_CAS:
    case V_CAS_OTHER:
        return (struct sim_state){.exists = true,
                                  .version = o->key->version + 1,
                                  .bytes = draw_bytes(),
                                  .exptime_sec = draw_exptime(),
                                  .number = draw(2000)};
    case V_APPEND:
        s.appended += 1 + draw(3);
        break;
    case V_PREPEND:
        s.prepended += 1 + draw(3);
        break;
    case V_DELETE:
        s.exists = false;
        break;
    case V_GAT:
    case V_TOUCH:
        s.exptime_sec = draw_exptime();
        break;
    case V_INCR:
        s.number += 9;
        break;
    case V_DECR:
        s.number -= s.number < 7 ? s.number : 7;
        break;
    case V_GET:
        break;
    }
    return s;
}

static enum verb draw_verb(const struct sim_key *k)
{
    static const enum verb texts[] = {V_GET,       V_GET,    V_GET,     V_GET,    V_GET,     V_GET,
                                      V_GET,       V_GET,    V_SET,     V_SET,    V_SET,     V_SET,
                                      V_SET,       V_ADD,    V_REPLACE, V_APPEND, V_PREPEND, V_CAS,
                                      V_CAS_OTHER, V_DELETE, V_DELETE,  V_TOUCH,  V_GAT};
    static const enum verb numbers[] = {V_GET,  V_GET,  V_SET,  V_SET,  V_DELETE,
                                        V_INCR, V_INCR, V_DECR, V_TOUCH};
    if (k->changing)
        return V_GET;
    return k->is_number ? numbers[draw(ARRAY_COUNT(numbers))] : texts[draw(ARRAY_COUNT(texts))];
}

/* Stores: room for the value first. */
static void begin_alloc(struct client_op *o)
{
    const struct sim_key *k = o->key;
    const struct sim_state *last = &k->states[k->seq % SIM_STATES], *next = &k->next;
    uint64_t cas = o->op.view.cas;
    init_stage(o, CACHE_ALLOC);
    o->op.cas_compare = cas;
    o->op.client_flags = next->version;
    o->op.exptime_sec = next->exptime_sec;
    if (o->verb == V_APPEND)
        o->op.value_bytes = next->appended - last->appended;
    else if (o->verb == V_PREPEND)
        o->op.value_bytes = next->prepended - last->prepended;
    else
        o->op.value_bytes = sim_value(k, next, me.value, sizeof(me.value));
    run_stage(o);
}

static void begin_store(struct client_op *o)
{
    static const enum cache_store_mode modes[] = {
        [V_SET] = CACHE_SET,       [V_ADD] = CACHE_ADD,         [V_REPLACE] = CACHE_REPLACE,
        [V_APPEND] = CACHE_APPEND, [V_PREPEND] = CACHE_PREPEND, [V_CAS] = CACHE_CAS,
        [V_CAS_OTHER] = CACHE_CAS};
    if (o->verb == V_APPEND || o->verb == V_PREPEND) {
        memset(o->op.value, o->verb == V_APPEND ? '+' : '-', o->op.value_bytes);
    } else {
        sim_value(o->key, &o->key->next, me.value, sizeof(me.value));
        memcpy(o->op.value, me.value, o->op.value_bytes);
    }
    o->op.verb = CACHE_STORE;
    o->op.mode = modes[o->verb];
    o->op.cas_compare += o->verb == V_CAS_OTHER;
    run_stage(o);
}

static void begin_op(struct client_op *o, struct sim_key *k, enum verb verb)
{
    *o = (struct client_op){.phase = OP_RUNNING,
                            .verb = verb,
                            .key = k,
                            .since_seq = k->seq,
                            .from_sec = clock_now_sec()};
    me.sim->ops++;
    struct sim_state next = state_after(o);
    if (verb != V_GET)
        sim_begin(k, &next);
    tell("%s %s", verb_names[verb], k->name);
    switch (verb) {
    case V_GET:
    case V_GAT:
    case V_CAS:
    case V_CAS_OTHER:
        init_stage(o, CACHE_GET);
        if (verb == V_GAT)
            o->op.options = CACHE_F_TOUCH | CACHE_F_GAT;
        o->op.exptime_sec = next.exptime_sec;
        run_stage(o);
        break;
    case V_DELETE:
        init_stage(o, CACHE_DELETE);
        run_stage(o);
        break;
    case V_TOUCH:
        init_stage(o, CACHE_TOUCH);
        o->op.exptime_sec = next.exptime_sec;
        run_stage(o);
        break;
    case V_INCR:
    case V_DECR:
        init_stage(o, CACHE_ARITH);
        o->op.delta = verb == V_INCR ? 9 : 7;
        o->op.options = verb == V_DECR ? CACHE_F_DECR : 0;
        run_stage(o);
        break;
    default:
        begin_alloc(o);
    }
}

/* The change found the key, or did not. */
static void found(struct client_op *o, bool yes, bool done)
{
    struct sim_key *k = o->key;
    if (yes && !sim_can_be_there(k, o->from_sec))
        judged(SIM_WRONG, k, verb_names[o->verb], &o->op);
    bool is_lost = !yes && !sim_can_be_gone(k, clock_now_sec());
    if (done) {
        if (is_lost)
            lost(k, verb_names[o->verb]);
        sim_ack(k);
        return;
    }
    sim_refuse(k);
    if (is_lost)
        lost(k, verb_names[o->verb]);
    if (!yes)
        sim_set(k, &(struct sim_state){0});
    else
        k->doubt = false;
}

static void refused(struct client_op *o)
{
    me.sim->refused++;
    sim_refuse(o->key);
}

static void judge_store(struct client_op *o)
{
    bool joins = o->verb == V_APPEND || o->verb == V_PREPEND;
    switch (o->op.status) {
    case CACHE_OK:
        if (o->verb == V_SET)
            sim_ack(o->key);
        else if (o->verb == V_CAS_OTHER)
            judged(SIM_WRONG, o->key, "cas of another", &o->op);
        else
            found(o, o->verb != V_ADD, true);
        break;
    case CACHE_NOT_STORED:
        if (joins && sim_can_be_there(o->key, o->from_sec))
            refused(
                o); /* or there was no memory for the joined value, which gets the same answer */
        else
            found(o, o->verb == V_ADD, false);
        break;
    case CACHE_NOT_FOUND:
        found(o, false, false);
        break;
    case CACHE_EXISTS:
        if (o->verb != V_CAS_OTHER)
            judged(SIM_WRONG, o->key, "cas", &o->op);
        found(o, true, false);
        break;
    case CACHE_NO_MEMORY:
        refused(o);
        break;
    default:
        fail("%s %s: status %d", verb_names[o->verb], o->key->name, (int)o->op.status);
    }
    end_op(o);
}

static void judge_alloc(struct client_op *o)
{
    uint64_t record = ext_record_bytes((unsigned)strlen(o->key->name), o->op.value_bytes);
    if (o->op.status == CACHE_OK) {
        begin_store(o);
        return;
    }
    if (o->op.status == CACHE_TOO_LARGE)
        MUST(record > ext_record_max_bytes(me.r.ext) ||
             o->op.value_bytes > me.settings.item_size_max - 200);
    else
        MUST(o->op.status == CACHE_NO_MEMORY);
    refused(o);
    end_op(o);
}

static void judge_change(struct client_op *o)
{
    if (o->op.status == CACHE_NO_MEMORY)
        refused(o);
    else if (o->op.status == CACHE_OK)
        found(o, true, true);
    else if (o->op.status == CACHE_NOT_FOUND)
        found(o, false, false);
    else
        fail("%s %s: status %d", verb_names[o->verb], o->key->name, (int)o->op.status);
    if ((o->verb == V_INCR || o->verb == V_DECR) && o->op.status == CACHE_OK &&
        o->op.number != sim_last(o->key)->number)
        fail("%s %s says %" PRIu64 ", not %" PRIu64, verb_names[o->verb], o->key->name,
             o->op.number, sim_last(o->key)->number);
    end_op(o);
}

/* A value that a client holds must not change: its page and buffer are pinned. */
static void keep_view(struct client_op *o)
{
    o->phase = OP_HELD;
    o->hold = one_in(4) ? 5 + draw(60) : 0;
    o->seen = hash_key(o->op.view.value, o->op.view.value_bytes, 1);
    bool large;
    o->away = one_in(8) && cache_view_is_read(&o->op, &large);
    if (o->away)
        cache_put_away(&o->op);
}

/* cache_put_away_fn: others wait for the read buffers of slow clients. */
static uint64_t put_away(void *ctx, bool large)
{
    (void)ctx;
    for (unsigned i = 0; i < OPS_MAX; i++) {
        struct client_op *o = &me.client[i];
        bool is_large;
        if (o->phase != OP_HELD || o->away || !cache_view_is_read(&o->op, &is_large) ||
            is_large != large)
            continue;
        o->away = true;
        if (cache_put_away(&o->op) > 0)
            return 0;
    }
    return UINT64_MAX;
}

static void let_go(struct client_op *o)
{
    if (o->away) {
        o->away = false;
        o->ready = false;
        if (!cache_bring_back(me.worker, &o->op)) {
            o->phase = OP_RETURNING;
            return;
        }
    }
    if (o->op.view.value == NULL && o->op.view.value_bytes > 0) { /* a device that fails now */
        end_op(o);
        return;
    }
    if (hash_key(o->op.view.value, o->op.view.value_bytes, 1) != o->seen)
        fail("%s: the value changed while it was held", o->key->name);
    end_op(o);
}

static void judge_get(struct client_op *o)
{
    struct sim_key *k = o->key;
    bool hit = o->op.status == CACHE_OK;
    if (o->op.status == CACHE_NO_MEMORY && o->verb == V_GAT) {
        refused(o);
        end_op(o);
        return;
    }
    MUST(hit || o->op.status == CACHE_NOT_FOUND);
    me.sim->hits += hit;
    struct sim_sight sight = {.view = hit ? &o->op.view : NULL,
                              .since_seq = o->since_seq,
                              .from_sec = o->from_sec,
                              .to_sec = clock_now_sec()};
    if (o->verb == V_GAT && hit) {
        found(o, true, true);
        sight.since_seq = k->seq;
        sight.from_sec = 0; /* also if the new time is over already */
    } else if (o->verb != V_GET && !hit) {
        sim_refuse(k); /* nothing is changed, and what can't be read now may be there later */
        judged(sim_judge(k, &sight), k, verb_names[o->verb], &o->op);
        end_op(o);
        return;
    }
    judged(sim_judge(k, &sight), k, verb_names[o->verb], &o->op);
    if (o->verb != V_CAS && o->verb != V_CAS_OTHER) {
        if (hit)
            keep_view(o);
        else
            end_op(o);
        return;
    }
    struct cache_view view = o->op.view;
    cache_release(me.worker, &o->op);
    o->op.view = view;
    begin_alloc(o);
}

static void finish_stage(struct client_op *o)
{
    o->ready = false;
    tell("%s %s: %d", verb_names[o->verb], o->key->name, (int)o->op.status);
    switch (o->op.verb) {
    case CACHE_GET:
        judge_get(o);
        break;
    case CACHE_ALLOC:
        judge_alloc(o);
        break;
    case CACHE_STORE:
        judge_store(o);
        break;
    default:
        judge_change(o);
    }
}

/* Takes up the ops that are done. */
static void finish_ready(void)
{
    for (unsigned i = 0; i < OPS_MAX; i++) {
        struct client_op *o = &me.client[i];
        if (o->phase == OP_RUNNING && o->ready)
            finish_stage(o);
        else if (o->phase == OP_HELD && o->hold-- == 0)
            let_go(o);
        else if (o->phase == OP_RETURNING && o->ready)
            let_go(o);
    }
}

static void client_poll(void)
{
    cache_worker_submit(me.worker);
    cache_worker_poll(me.worker);
    finish_ready();
}

static struct sim_key *draw_key(void)
{
    uint32_t count = me.sim->key_count;
    return &me.sim->keys[one_in(2) ? draw(count) : draw(count / 4)];
}

static void client_begin(void)
{
    for (unsigned i = 0; i < OPS_MAX; i++) {
        if (me.client[i].phase != OP_FREE)
            continue;
        struct sim_key *k = draw_key();
        begin_op(&me.client[i], k, draw_verb(k));
        return;
    }
}

static bool clients_idle(void)
{
    for (unsigned i = 0; i < OPS_MAX; i++)
        if (me.client[i].phase != OP_FREE)
            return false;
    return true;
}

/* ---- the other threads ---- */

static bool io_step(struct io_pool *pool)
{
    unsigned ready = pool ? io_pool_ready(pool) : 0;
    if (ready == 0)
        return false;
    unsigned nth = draw(ready < 4 ? ready : 4);
    tell("job %u of %u", nth, ready);
    io_pool_step(pool, nth);
    return true;
}

static bool maint_step(void)
{
    me.in_maint = true;
    bool busy = maint_turn(me.maint);
    me.in_maint = false;
    return busy;
}

/* One step of a thread drawn at random. */
static void step(void)
{
    clock_sleep_ns(UINT64_C(1000) * draw(5000));
    switch (draw(20)) {
    case 0:
    case 1:
    case 2:
        io_step(me.r.ext->write_pool);
        break;
    case 3:
    case 4:
    case 5:
        io_step(me.r.ext->read_pools[0]);
        break;
    case 6:
    case 7:
    case 8:
        client_poll();
        break;
    case 9:
        if (!me.in_maint)
            maint_step();
        break;
    case 10:
        clock_sleep_ns(UINT64_C(1000000) * draw(one_in(20) ? 3000 : 100));
        break;
    default:
        client_begin();
    }
}

/* While one of the engine's threads waits for the device, or is in a callback. */
static void meanwhile(void *ctx)
{
    (void)ctx;
    if (me.calm || me.nested >= NESTED_MAX || !one_in(2))
        return;
    me.nested++;
    for (unsigned n = draw(6); n > 0; n--)
        step();
    me.nested--;
}

static void in_upcall(void)
{
    if (me.sim->kill == SIM_KILL_IN_UPCALL && me.upcalls++ >= me.sim->kill_at)
        killed("in an upcall");
    if (one_in(4))
        meanwhile(NULL);
}

static bool sim_is_live(void *ctx, uint64_t hash, ext_place place, unsigned *heat)
{
    in_upcall();
    bool live = me.callbacks.is_live(ctx, hash, place, heat);
    in_upcall();
    return live;
}

static bool sim_moved(void *ctx, uint64_t hash, ext_place old, ext_place new_place, unsigned len_class)
{
    in_upcall();
    bool moved = me.callbacks.moved(ctx, hash, old, new_place, len_class);
    in_upcall();
    return moved;
}

static enum ext_dropped sim_dropped(void *ctx, uint64_t hash, ext_place place, enum ext_drop_why why,
                                    uint64_t record_bytes)
{
    in_upcall(); /* not after it: the reason is counted only then */
    return me.callbacks.dropped(ctx, hash, place, why, record_bytes);
}

static bool sim_sweep(void *ctx, const struct ext_sweep *what, uint64_t *cursor, enum ext_drop_why why)
{
    in_upcall();
    return me.callbacks.sweep(ctx, what, cursor, why);
}

/* ---- a life ---- */

static void set_up_settings(const char *dir)
{
    struct sim *s = me.sim;
    static char memory[96], flash[4][128];
    char *argv[16] = {
        "extant",           "-e", memory, "-m", "8", "-I", "64k", "-f", "2.5", "-n", "48", "-o",
        "slab_chunk_max=64"};
    settings_init(&me.settings);
    snprintf(memory, sizeof(memory), "%s/memory", dir);
    MUST(settings_parse(&me.settings, 13, argv, stdout, stderr) == SETTINGS_GO_ON);
    atomic_store(&me.settings.maxbytes, MEMORY_BYTES);
    atomic_store(&me.settings.ext_page_size, s->page_bytes);
    atomic_store(&me.settings.ext_wbuf_size, s->wbuf_bytes);
    atomic_store(&me.settings.ext_buffer_mem, 9 * s->wbuf_bytes + 512 * KiB);
    atomic_store(&me.settings.ext_item_age, s->item_age_sec);
    atomic_store(&me.settings.ext_item_size, 1);
    atomic_store(&me.settings.ext_recache_rate, 3);
    me.settings.ext_file_count = s->device.count;
    for (unsigned i = 0; i < s->device.count; i++) {
        snprintf(flash[i], sizeof(flash[i]), "%s/flash%u", dir, i);
        me.settings.ext_files[i] = (struct settings_ext_file){
            .path = flash[i],
            .bytes = s->device.bytes[i],
            .bucket = (enum settings_bucket)(i == 0 ? EXT_BUCKET_DEFAULT : EXT_BUCKET_COMPACT)};
    }
    storage_config_init(&me.settings, &me.config, &me.tunables);
    atomic_store(&me.tunables.compact_under_pages, 4);
    atomic_store(&me.tunables.drop_under_pages, 2);
    atomic_store(&me.tunables.max_frag, 0.8);
    atomic_store(&me.tunables.rewrite_pct, 10);
    atomic_store(&me.tunables.stay_pct, 33);
}

static void open_storage(void)
{
    struct sim *s = me.sim;
    char why[RESTART_LINE_BYTES] = "";
    me.ops = (struct ext_device_ops){
        .ctx = &s->device, .pread = sim_pread, .pwrite = sim_pwrite, .stepped = true};
    struct restart_options opt = storage_options(&me.settings, &me.config, &me.tunables, 2);
    opt.flash.device_ops = &me.ops;
    opt.index_reach_bytes = s->profile == SIM_TAGS || s->profile == SIM_ALL ? SIM_TAGS_REACH_BYTES : 0;
    if (!s->trace)
        log_setup(open("/dev/null", O_WRONLY | O_CLOEXEC), LOG_LEVEL_ERROR, 0);
    clock_simulate(s->now_ns);
    clock_setup();
    int rc = restart_open(&opt, &me.r, why, sizeof(why));
    if (rc != 0)
        fail("%s", why);
    if (me.r.attached != (s->life > 0))
        fail("attached %d: %s", me.r.attached, me.r.line);
    if (me.r.report.dropped_items + me.r.report.dropped_objects > 0)
        fail("%s", me.r.line);
    if (!me.r.attached)
        cache_root_set_seed(me.r.cache->root, SIM_TAGS_HASH_SEED);
    struct extstore *e = me.r.ext;
    for (unsigned i = 0; i < s->device.count; i++) {
        s->device.fds[i] = e->devices[i].fd;
        e->devices[i].read_align = s->read_align;
    }
    s->device.meanwhile = meanwhile;
    s->device.kill_in_write = kill_in_write;
    s->device.writes = 0;
    me.callbacks = e->opt.callbacks;
    e->opt.callbacks.is_live = sim_is_live;
    e->opt.callbacks.moved = sim_moved;
    e->opt.callbacks.dropped = sim_dropped;
    e->opt.callbacks.sweep = sim_sweep;
    me.worker = cache_worker_create(me.r.cache, &me.stats);
    me.maint = maint_create(
        &(struct maint_options){.cache = me.r.cache, .stepped = true});
    MUST(me.worker && me.maint);
    cache_worker_set_put_away(me.worker, put_away, NULL);
}

/* Completes everything that was begun. */
static void drain(void)
{
    for (unsigned n = 0; !clients_idle(); n++) {
        if (n > DRAIN_STEPS_MAX)
            fail("ops never end");
        bool busy = io_step(me.r.ext->read_pools[0]);
        busy |= io_step(me.r.ext->write_pool);
        client_poll();
        maint_step();
        if (!busy)
            clock_sleep_ns(20000000);
    }
}

/* Until no thread has work left, and no write is missing. */
static void settle_storage(void)
{
    unsigned idle = 0;
    for (unsigned n = 0; idle < 100; n++) {
        if (n > DRAIN_STEPS_MAX)
            fail("the storage never rests");
        bool busy = io_step(me.r.ext->read_pools[0]);
        busy |= io_step(me.r.ext->write_pool);
        client_poll();
        busy |= maint_step();
        if (!busy)
            clock_sleep_ns(50000000); /* for the longest pause of a retry, times 100 */
        idle = busy || ext_sync(me.r.ext, 0) != 0 ? 0 : idle + 1;
    }
}

static struct client_op *get_and_wait(struct sim_key *k)
{
    static struct client_op o;
    o = (struct client_op){.key = k, .from_sec = clock_now_sec()};
    init_stage(&o, CACHE_GET);
    o.op.done = op_done;
    o.op.owner = &o;
    if (cache_run(me.worker, &o.op))
        return &o;
    for (unsigned n = 0; !o.ready; n++) {
        if (n > DRAIN_STEPS_MAX)
            fail("a get of %s never ends", k->name);
        io_step(me.r.ext->read_pools[0]);
        cache_worker_submit(me.worker);
        cache_worker_poll(me.worker);
        if (io_pool_ready(me.r.ext->read_pools[0]) == 0)
            clock_sleep_ns(1000000);
    }
    return &o;
}

/* Nothing is under way. Looks at some keys, and at all those whose last change was cut short by a kill. */
static void look_at_keys(bool all)
{
    bool was_calm = me.calm;
    me.calm = true;
    for (unsigned i = 0; i < me.sim->key_count; i++) {
        struct sim_key *k = &me.sim->keys[i];
        if (!all && !k->changing)
            continue;
        struct client_op *o = get_and_wait(k);
        bool hit = o->op.status == CACHE_OK;
        tell("%s is %s", k->name, hit ? "there" : "not there");
        struct sim_sight sight = {
            .view = hit ? &o->op.view : NULL, .from_sec = o->from_sec, .to_sec = clock_now_sec()};
        judged(sim_settle(k, &sight), k, "a look at all keys", &o->op);
        cache_release(me.worker, &o->op);
    }
    me.calm = was_calm;
}

static void flush_all(void)
{
    drain();
    clock_sleep_ns(UINT64_C(2000000000));
    tell("flush_all");
    cache_flush_all(me.r.cache, 0);
    for (unsigned i = 0; i < me.sim->key_count; i++)
        sim_set(&me.sim->keys[i], &(struct sim_state){0});
    clock_sleep_ns(UINT64_C(2000000000));
}

/* The device works again: everything must be as if nothing had happened. */
static void recover(void)
{
    struct ext_info info;
    sim_heal(&me.sim->device);
    settle_storage();
    check_counts();
    ext_info(me.r.ext, &info);
    uint64_t reads = me.sim->device.reads, bad = info.bad_checksums;
    look_at_keys(true);
    ext_info(me.r.ext, &info);
    /* That takes a successful read; records that are damaged for good still fail gets. */
    MUST(!info.degraded || me.sim->device.reads == reads || info.bad_checksums > bad);
    MUST(info.wbufs_stuck == 0);
    for (unsigned i = 0; i < me.sim->device.count; i++)
        MUST(!ext_device_failed(&me.r.ext->devices[i]));
    for (unsigned n = 0; n < 20; n++) {
        uint64_t before = me.sim->refused;
        struct sim_key *k = draw_key();
        begin_op(&me.client[0], k, V_SET);
        k->next.exptime_sec = 0;
        drain();
        MUST(me.sim->refused == before || k->next.bytes > me.sim->value_max);
    }
    look_at_keys(true);
    check_counts();
}

static void close_storage(void)
{
    drain();
    me.calm = true;
    int rc;
    while ((rc = ext_sync(me.r.ext, 0)) == -ETIMEDOUT ||
           (rc == 0 && io_pool_ready(me.r.ext->write_pool) > 0))
        if (!io_step(me.r.ext->write_pool))
            clock_sleep_ns(10000000);
    while (io_pool_queued(me.r.ext->read_pools[0]) > 0 || io_pool_ready(me.r.ext->write_pool) > 0) {
        io_step(me.r.ext->read_pools[0]);
        io_step(me.r.ext->write_pool);
        maint_step();
    }
    check_counts();
    take_stock();
    uint64_t now_ns = clock_mono_ns();
    maint_destroy(me.maint);
    cache_worker_destroy(me.worker);
    restart_close(&me.r, false);
    me.sim->now_ns = now_ns + 1000000;
}

_Noreturn void sim_live(struct sim *s, const char *dir)
{
    memset(&me, 0, sizeof(me));
    me.sim = s;
    s->step = 0;
    set_up_settings(dir);
    open_storage();
    check_counts();
    look_at_keys(one_in(2));
    bool last = s->life + 1 == s->lives;
    unsigned steps = s->steps > 0 ? s->steps : 60 + draw(one_in(4) ? STEPS_MAX : STEPS_MAX / 3);
    for (; s->step < steps; s->step++) {
        if (s->kill == SIM_KILL_AT_STEP && s->step >= s->kill_at)
            killed("between steps");
        step();
        if (s->step % CHECK_STEPS == 0)
            check_counts();
        if (one_in(2000))
            flush_all();
    }
    if (s->kill == SIM_KILL_AT_STEP)
        killed("at the end");
    if (last)
        recover();
    close_storage();
    _exit(SIM_ENDED);
}
