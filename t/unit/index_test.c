/* Tests of index.c against a real arena. Objects are numbered; an object's hash is mixed from its
 * number and its place on flash (or handle) is the number itself, so tests need no table of keys.
 * The source is included for the few tests of states that only a kill leaves.
 */
#include "index.c"

#include <criterion/criterion.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Under a sanitizer some tests are smaller by this factor. */
#if defined(__SANITIZE_ADDRESS__)
#define SCALE 4
#else
#define SCALE 1
#endif

#define RESERVE_BYTES (512 * MiB)
#define FLASH_1T ((uint64_t)1 << 40)
#define FLASH_16T ((uint64_t)1 << 44)

static uint64_t mix(uint64_t v)
{
    v += 0x9e3779b97f4a7c15u;
    v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9u;
    v = (v ^ v >> 27) * 0x94d049bb133111ebu;
    return v ^ v >> 31;
}

/* A sequence of random numbers below n. */
static uint64_t draw(uint64_t *rng, uint64_t n)
{
    return mix(++*rng) % n;
}

static struct arena *new_arena(uint64_t reserve_bytes, const char *file, bool *attached)
{
    char why[256];
    struct arena_options opt = {.reserve_bytes = reserve_bytes, .file = file};
    struct arena *a = arena_create(&opt, attached, why, sizeof(why));
    cr_assert_not_null(a, "%s", why);
    return a;
}

struct world {
    struct arena *arena;
    struct index *ix;
};

static struct index_options world_options(struct arena *a)
{
    return (struct index_options){.arena = a,
                                  .flash_bytes = FLASH_1T,
                                  .initial_bytes = 0,
                                  .limit_bytes = UINT64_MAX,
                                  .handle_bits = 28};
}

static struct world new_world(uint64_t flash_bytes, uint64_t initial_bytes, uint64_t limit_bytes)
{
    bool attached;
    struct world w = {.arena = new_arena(RESERVE_BYTES, NULL, &attached)};
    struct index_options opt = world_options(w.arena);
    opt.flash_bytes = flash_bytes;
    opt.initial_bytes = initial_bytes;
    opt.limit_bytes = limit_bytes;
    w.ix = index_create(&opt);
    cr_assert_not_null(w.ix);
    return w;
}

static void end_world(struct world *w)
{
    index_destroy(w->ix);
    arena_destroy(w->arena);
}

static int add(struct index *ix, uint64_t id)
{
    uint64_t hash = mix(id);
    struct lock *l = index_lock(ix, hash);
    lock_take(l);
    int rc = index_insert(ix, hash, index_make_flash(ix, id, id & 31, id & 3, 0));
    lock_release(l);
    return rc;
}

/* How many words the index has for the object, among those that match its hash. */
static unsigned count_of(struct index *ix, uint64_t id)
{
    uint64_t hash = mix(id);
    index_slot *slots[INDEX_MATCH_MAX];
    struct lock *l = index_lock(ix, hash);
    lock_take(l);
    unsigned found = 0, n = index_match(ix, hash, slots);
    for (unsigned i = 0; i < n; i++) {
        index_word w = index_load(slots[i]);
        found += index_kind(ix, w) == INDEX_FLASH && index_place(ix, w) == id &&
                 index_len(ix, w) == (id & 31) && index_heat(ix, w) == (id & 3);
    }
    index_slot *s = index_find_place(ix, hash, id);
    cr_assert((s != NULL) == (found > 0));
    lock_release(l);
    return found;
}

static void drop(struct index *ix, uint64_t id)
{
    uint64_t hash = mix(id);
    struct lock *l = index_lock(ix, hash);
    lock_take(l);
    index_slot *s = index_find_place(ix, hash, id);
    cr_assert_not_null(s);
    index_clear(ix, hash, s);
    lock_release(l);
}

static void assert_all_there(struct index *ix, uint64_t first, uint64_t end)
{
    for (uint64_t id = first; id < end; id++)
        cr_assert_eq(count_of(ix, id), 1u, "object %" PRIu64, id);
}

static struct index_info info_of(struct index *ix)
{
    struct index_info info;
    index_info(ix, &info);
    return info;
}

struct census {
    struct index *ix;
    uint8_t *seen; /* by place; NULL: only count */
    uint64_t ids, words, tombstones;
};

static void take_census(void *ctx, uint64_t hash_like, index_slot *s, index_word w)
{
    struct census *c = ctx;
    index_slot *slots[INDEX_MATCH_MAX];
    bool found = false;
    unsigned n = index_match(c->ix, hash_like, slots);
    for (unsigned i = 0; i < n; i++)
        found |= slots[i] == s;
    cr_assert(found, "a walked word is found by its hash");
    if (index_kind(c->ix, w) == INDEX_TOMBSTONE) {
        c->tombstones++;
        return;
    }
    c->words++;
    if (c->seen) {
        cr_assert_lt(index_place(c->ix, w), c->ids);
        c->seen[index_place(c->ix, w)]++;
    }
}

static void walk_all(struct index *ix, unsigned max_buckets,
                     void (*visit)(void *, uint64_t, index_slot *, index_word), void *ctx)
{
    for (unsigned s = 0; s < INDEX_SHARD_COUNT; s++) {
        uint64_t pos = 0;
        bool more = true;
        while (more) {
            struct lock *l = index_shard_lock(ix, s);
            lock_take(l);
            more = index_walk(ix, s, &pos, max_buckets, visit, ctx);
            lock_release(l);
        }
    }
}

/* ---- words --------------------------------------------------------------------------- */

Test(index, flash_word_gives_back_what_was_put_in)
{
    struct world w = new_world(FLASH_16T - 16, 0, UINT64_MAX);
    uint64_t last = ((FLASH_16T - 16) >> 4) - 1;
    index_word word = index_make_flash(w.ix, last, 31, 3, 2);
    cr_assert_eq(index_kind(w.ix, word), INDEX_FLASH);
    cr_assert_eq(index_place(w.ix, word), last);
    cr_assert_eq(index_len(w.ix, word), 31u);
    cr_assert_eq(index_heat(w.ix, word), 3u);
    cr_assert_eq(index_rank(w.ix, word), 2u);
    cr_assert_eq(info_of(w.ix).tag_bits, 14u);
    end_world(&w);
}

enum { RANKED_HANDLE = 5 };

/* Puts a flash word with the next rank among those of the hash's tag. */
static unsigned put_ranked(struct index *ix, uint64_t hash, uint64_t place)
{
    index_slot *item;
    unsigned rank = index_rank_above(ix, hash, RANKED_HANDLE, &item);
    cr_assert_eq(item, index_find_handle(ix, hash, RANKED_HANDLE));
    cr_assert_eq(index_insert(ix, hash, index_make_flash(ix, place, 1, 0, rank)), 0);
    return rank;
}

static unsigned rank_at(struct index *ix, uint64_t hash, uint64_t place)
{
    return index_rank(ix, index_load(index_find_place(ix, hash, place)));
}

static void count_word(void *ctx, uint64_t hash_like, index_slot *slot, index_word w)
{
    (void)hash_like, (void)slot, (void)w;
    ++*(uint64_t *)ctx;
}

static uint64_t words_of_shard(struct index *ix, unsigned shard)
{
    uint64_t count = 0, pos = 0;
    struct lock *l = index_shard_lock(ix, shard);
    lock_take(l);
    while (index_walk(ix, shard, &pos, 1024, count_word, &count))
        ;
    lock_release(l);
    return count;
}

/* Rows come from memory that was used before; its old content must not count as words. */
Test(index, rows_are_empty_whatever_stood_in_their_memory)
{
    struct world w = new_world(FLASH_1T, 0, UINT64_MAX);
    uint64_t offset, bytes = 64 * MiB;
    bool zeroed;
    cr_assert_eq(arena_alloc(w.arena, ARENA_USE_BUFFER, bytes, ARENA_UNIT_BYTES, &offset, &zeroed), 0);
    memset(arena_base(w.arena) + offset, 0x5a, bytes);
    arena_free(w.arena, ARENA_USE_BUFFER, offset, bytes);
    uint64_t ids = 400000;
    for (uint64_t id = 0; id < ids; id++)
        cr_assert_eq(add(w.ix, id), 0);
    assert_all_there(w.ix, 0, ids);
    struct index_info info = info_of(w.ix);
    cr_assert_eq(info.flash_count, ids);
    uint64_t seen = 0;
    for (unsigned shard = 0; shard < INDEX_SHARD_COUNT; shard++)
        seen += words_of_shard(w.ix, shard);
    cr_assert_eq(seen, ids);
    end_world(&w);
}

Test(index, rank_orders_the_flash_words_of_a_tag)
{
    struct world w = new_world(FLASH_1T, 0, UINT64_MAX);
    uint64_t hash = mix(7);
    struct lock *l = index_lock(w.ix, hash);
    lock_take(l);
    cr_assert_eq(put_ranked(w.ix, hash, 99), 0u);
    index_clear(w.ix, hash, index_find_place(w.ix, hash, 99));
    cr_assert_eq(index_insert(w.ix, hash, index_make_ram(w.ix, RANKED_HANDLE, 0)), 0); /* doesn't count */
    cr_assert_eq(index_insert(w.ix, hash, index_make_ram(w.ix, RANKED_HANDLE + 1, 0)), 0);
    for (unsigned i = 0; i <= INDEX_RANK_MAX; i++)
        cr_assert_eq(put_ranked(w.ix, hash, 100 + i), i);
    /* No rank is left: the new word shares the highest, and its order is marked as unknown. */
    cr_assert_eq(put_ranked(w.ix, hash, 104), INDEX_RANK_MAX);
    for (unsigned i = 0; i <= INDEX_RANK_MAX; i++)
        cr_assert_eq(rank_at(w.ix, hash, 100 + i), i);
    /* Two go: the others move down and keep their order. */
    index_clear(w.ix, hash, index_find_place(w.ix, hash, 100));
    index_clear(w.ix, hash, index_find_place(w.ix, hash, 102));
    cr_assert_eq(put_ranked(w.ix, hash, 105), 2u);
    cr_assert_eq(rank_at(w.ix, hash, 101), 0u);
    cr_assert_eq(rank_at(w.ix, hash, 103), 1u);
    cr_assert_eq(rank_at(w.ix, hash, 104), 1u);
    /* A tombstone has no rank. */
    index_replace(w.ix, hash, index_find_place(w.ix, hash, 105), index_make_tombstone(w.ix));
    cr_assert_eq(put_ranked(w.ix, hash, 106), 2u);
    lock_release(l);
    end_world(&w);
}

Test(index, ram_word_gives_back_what_was_put_in)
{
    struct world w = new_world(0, 0, UINT64_MAX);
    index_word word = index_make_ram(w.ix, (1u << 28) - 1, 2);
    cr_assert_eq(index_kind(w.ix, word), INDEX_RAM);
    cr_assert_eq(index_handle(w.ix, word), (1u << 28) - 1);
    cr_assert_eq(index_heat(w.ix, word), 2u);
    end_world(&w);
}

static uint32_t peek_ram(struct world *w, uint64_t hash)
{
    struct index_spot spot;
    index_find(w->ix, hash, &spot);
    return index_peek_ram(w->ix, &spot);
}

Test(index, a_peek_without_lock_finds_the_ram_word)
{
    struct world w = new_world(FLASH_1T, 0, UINT64_MAX);
    struct lock *l = index_lock(w.ix, mix(7));
    lock_take(l);
    cr_assert_eq(index_insert(w.ix, mix(7), index_make_ram(w.ix, 4711, 0)), 0);
    lock_release(l);
    cr_assert_eq(peek_ram(&w, mix(7)), 4711);
    end_world(&w);
}

Test(index, a_peek_without_lock_sees_no_flash_word_and_no_empty_slot)
{
    struct world w = new_world(FLASH_1T, 0, UINT64_MAX);
    cr_assert_eq(add(w.ix, 7), 0);
    cr_assert_eq(peek_ram(&w, mix(7)), 0);
    for (uint64_t id = 100; id < 10000; id++)
        cr_assert_eq(peek_ram(&w, mix(id)), 0);
    end_world(&w);
}

Test(index, tombstone_is_no_place_and_nothing_is_none)
{
    struct world w = new_world(FLASH_1T, 0, UINT64_MAX);
    cr_assert_eq(index_kind(w.ix, index_make_tombstone(w.ix)), INDEX_TOMBSTONE);
    cr_assert_eq(index_kind(w.ix, index_make_flash(w.ix, (FLASH_1T >> 4) - 1, 31, 3, 0)), INDEX_FLASH);
    cr_assert_eq(index_kind(w.ix, 0), INDEX_NONE);
    end_world(&w);
}

Test(index, more_flash_than_a_word_can_name_is_refused)
{
    bool attached;
    struct arena *a = new_arena(RESERVE_BYTES, NULL, &attached);
    struct index_options opt = world_options(a);
    opt.flash_bytes = FLASH_16T * 2;
    cr_assert_null(index_create(&opt));
    cr_assert_eq(errno, EINVAL);
    arena_destroy(a);
}

Test(index, attach_to_an_arena_without_index_is_refused)
{
    bool attached;
    struct arena *a = new_arena(RESERVE_BYTES, NULL, &attached);
    struct index_options opt = world_options(a);
    opt.attached = true;
    cr_assert_null(index_create(&opt));
    cr_assert_eq(errno, EUCLEAN);
    arena_destroy(a);
}

Test(index, arena_without_room_for_the_first_rows_is_refused)
{
    bool attached;
    struct arena *a = new_arena(1 * MiB, NULL, &attached);
    struct index_options opt = world_options(a);
    opt.initial_bytes = 8 * MiB;
    cr_assert_null(index_create(&opt));
    cr_assert_eq(errno, ENOSPC);
    arena_destroy(a);
}

/* ---- against a model ----------------------------------------------------------------- */

/* Random inserts, replacements between all kinds, clears and look-ups; afterwards and on the way
 * each object has exactly the word that the model has, and the counts are exact. */
static void run_model(uint64_t flash_bytes, uint64_t ids, uint64_t ops)
{
    struct world w = new_world(flash_bytes, 0, UINT64_MAX);
    index_word *model = calloc(ids, sizeof(*model));
    uint64_t rng = ids, expect[INDEX_TOMBSTONE + 1] = {0};
    for (uint64_t op = 0; op < ops; op++) {
        uint64_t id = draw(&rng, ids), hash = mix(id), what = draw(&rng, 8);
        /* Low bits of place and handle name the object, the others change. */
        uint64_t place = id | draw(&rng, 16) << 22;
        index_word fresh = what & 1 ? index_make_flash(w.ix, place, draw(&rng, 32), draw(&rng, 4), draw(&rng, 4))
                                  : index_make_ram(w.ix, (uint32_t)(place | 1u << 26), draw(&rng, 4));
        struct lock *l = index_lock(w.ix, hash);
        lock_take(l);
        index_slot *slots[INDEX_MATCH_MAX], *mine = NULL;
        unsigned n = index_match(w.ix, hash, slots);
        uint64_t tag_field = (((uint64_t)1 << info_of(w.ix).tag_bits) - 1)
                             << (info_of(w.ix).place_bits + 9);
        for (unsigned i = 0; i < n; i++) {
            if ((index_load(slots[i]) & ~tag_field) == model[id] && model[id] != 0) {
                cr_assert_null(mine, "object %" PRIu64 " stands twice", id);
                mine = slots[i];
            }
        }
        cr_assert_eq(mine != NULL, model[id] != 0, "object %" PRIu64 ", step %" PRIu64, id, op);
        if (!mine) {
            cr_assert_eq(index_insert(w.ix, hash, fresh), 0);
            expect[index_kind(w.ix, fresh)]++;
            model[id] = fresh;
        } else if (what == 7) {
            expect[index_kind(w.ix, model[id])]--;
            index_clear(w.ix, hash, mine);
            model[id] = 0;
        } else if (what > 2) {
            expect[index_kind(w.ix, model[id])]--;
            expect[index_kind(w.ix, fresh)]++;
            index_replace(w.ix, hash, mine, fresh);
            cr_assert_eq(index_load(mine) & ~tag_field, fresh);
            model[id] = fresh;
        }
        lock_release(l);
    }
    struct index_info info = info_of(w.ix);
    cr_assert_eq(info.ram_count, expect[INDEX_RAM]);
    cr_assert_eq(info.flash_count, expect[INDEX_FLASH]);
    cr_assert_eq(info.tombstone_count, 0u);
    uint64_t live = 0;
    for (uint64_t id = 0; id < ids; id++)
        live += model[id] != 0;
    cr_assert_eq(live, info.ram_count + info.flash_count);
    free(model);
    end_world(&w);
}

Test(index, random_operations_agree_with_a_model)
{
    run_model(FLASH_1T, 300000 / SCALE, 1600000 / SCALE);
}

Test(index, random_operations_agree_with_a_model_when_tags_are_shortest)
{
    run_model(FLASH_16T, 150000 / SCALE, 800000 / SCALE);
}

/* ---- growth -------------------------------------------------------------------------- */

Test(index, an_object_costs_at_most_9_7_bytes_at_every_moment_of_growth)
{
    uint64_t from = 1000000, to = 3 * from;
    struct world w = new_world(FLASH_1T, 8 * MiB, UINT64_MAX);
    double worst = 0, sum = 0;
    for (uint64_t id = 0; id < to; id++) {
        cr_assert_eq(add(w.ix, id), 0);
        if (id + 1 < from || id % 512 != 0)
            continue;
        struct index_info info = info_of(w.ix);
        double cost = (double)info.bytes / (double)(id + 1);
        worst = cost > worst ? cost : worst;
        sum += cost * 512;
        cr_assert_leq(cost, 9.7, "at %" PRIu64 " objects", id + 1);
        cr_assert_leq(arena_used_bytes(w.arena, ARENA_USE_INDEX), info.bytes);
    }
    printf("bytes an object from %" PRIu64 " to %" PRIu64 ": worst %.3f, mean %.3f\n", from, to,
           worst, sum / (double)(to - from));
    for (uint64_t id = 0; id < to; id += 3)
        cr_assert_eq(count_of(w.ix, id), 1u);
    end_world(&w);
}

Test(index, growth_neither_loses_nor_doubles)
{
    uint64_t ids = 600000 / SCALE;
    struct world w = new_world(FLASH_1T, 0, UINT64_MAX);
    for (uint64_t id = 0; id < ids; id++)
        cr_assert_eq(add(w.ix, id), 0);
    uint8_t *seen = calloc(ids, 1);
    struct census c = {.ix = w.ix, .seen = seen, .ids = ids};
    walk_all(w.ix, 1000, take_census, &c);
    for (uint64_t id = 0; id < ids; id++)
        cr_assert_eq(seen[id], 1);
    cr_assert_eq(c.words, ids);
    cr_assert_gt(info_of(w.ix).steps, 0u);
    free(seen);
    end_world(&w);
}

Test(index, large_rows_in_several_blocks_grow_too)
{
    struct world w = new_world(FLASH_1T, 64 * MiB, UINT64_MAX);
    cr_assert_lt(w.ix->block_bytes, (uint64_t)CACHE_LINE_BYTES << w.ix->group_bits);
    uint64_t id = 0;
    for (unsigned round = 0; round < 3; round++) {
        for (uint64_t end = id + 50000; id < end; id++)
            cr_assert_eq(add(w.ix, id), 0);
        for (unsigned s = 0; s < INDEX_SHARD_COUNT; s += 8) {
            lock_take(index_shard_lock(w.ix, s));
            grow(w.ix, s, 10000 + s, true);
            lock_release(index_shard_lock(w.ix, s));
        }
        assert_all_there(w.ix, 0, id);
    }
    cr_assert_gt(info_of(w.ix).bytes, 65 * MiB);
    end_world(&w);
}

Test(index, held_growth_waits_for_its_release)
{
    struct world w = new_world(FLASH_1T, 1 * MiB, UINT64_MAX);
    uint64_t id = 0;
    while (info_of(w.ix).steps == 0)
        cr_assert_eq(add(w.ix, id++), 0);
    uint64_t before = info_of(w.ix).steps;
    index_hold_growth(w.ix, true);
    for (unsigned s = 0; s < INDEX_SHARD_COUNT; s++)
        cr_assert_not(index_grow_step(w.ix, s));
    cr_assert_eq(info_of(w.ix).steps, before);
    while (info_of(w.ix).steps < before + 100) /* inserts go on growing */
        cr_assert_eq(add(w.ix, id++), 0);
    index_hold_growth(w.ix, false);
    before = info_of(w.ix).steps;
    bool more = false;
    for (unsigned s = 0; s < INDEX_SHARD_COUNT; s++)
        more |= index_grow_step(w.ix, s);
    cr_assert(more);
    cr_assert_gt(info_of(w.ix).steps, before);
    assert_all_there(w.ix, 0, id);
    end_world(&w);
}

Test(index, grow_step_ends_and_leaves_nothing_for_inserts)
{
    struct world w = new_world(FLASH_1T, 1 * MiB, UINT64_MAX);
    uint64_t id = 0;
    while (info_of(w.ix).steps == 0)
        cr_assert_eq(add(w.ix, id++), 0);
    unsigned steps = 0;
    for (unsigned s = 0; s < INDEX_SHARD_COUNT; s++) {
        while (index_grow_step(w.ix, s))
            cr_assert_lt(steps++, 10000u);
        cr_assert_not(index_grow_step(w.ix, s));
    }
    uint64_t before = info_of(w.ix).steps;
    cr_assert_gt(before, 64u);
    for (uint64_t end = id; id > end - end / 100; id--)
        drop(w.ix, id - 1);
    cr_assert_eq(info_of(w.ix).steps, before);
    assert_all_there(w.ix, 0, id);
    end_world(&w);
}

/* ---- fullness ------------------------------------------------------------------------ */

static void fill_to_the_limit(uint64_t flash_bytes, uint64_t limit)
{
    struct world w = new_world(flash_bytes, 2 * MiB, limit);
    uint64_t id = 0;
    while (add(w.ix, id) == 0)
        id++;
    struct index_info info = info_of(w.ix);
    cr_assert_eq(add(w.ix, id), -ENOSPC);
    cr_assert_leq(info.bytes, limit);
    cr_assert_eq(info.flash_count, id);
    /* With few rows a part of one is unused; with small shards the fullest is full early. */
    cr_assert_geq(id, index_capacity(limit) * 93 / 100, "%" PRIu64 " of %" PRIu64, id,
                  index_capacity(limit));
    assert_all_there(w.ix, 0, id);
    printf("%u bit tags: full at load %.4f\n", info.tag_bits, (double)id / (double)info.slots);
    index_set_limit(w.ix, limit * 2);
    uint64_t more = id + id / 4;
    for (; id < more; id++)
        cr_assert_eq(add(w.ix, id), 0);
    assert_all_there(w.ix, 0, id);
    end_world(&w);
}

Test(index, at_the_limit_inserts_fail_all_is_intact_and_a_higher_limit_helps)
{
    fill_to_the_limit(FLASH_1T, 4 * MiB);
}

Test(index, shortest_tags_fill_as_well)
{
    fill_to_the_limit(FLASH_16T, 3 * MiB);
}

Test(index, without_growth_the_load_passes_95_pct)
{
    struct world w = new_world(FLASH_1T, 2 * MiB, 0);
    uint64_t id = 0;
    while (add(w.ix, id) == 0)
        id++;
    cr_assert_geq(id * 100, info_of(w.ix).slots * 95);
    assert_all_there(w.ix, 0, id);
    end_world(&w);
}

Test(index, a_full_arena_fails_inserts_and_all_is_intact)
{
    bool attached;
    struct world w = {.arena = new_arena(3 * MiB, NULL, &attached)};
    struct index_options opt = world_options(w.arena);
    w.ix = index_create(&opt);
    cr_assert_not_null(w.ix);
    uint64_t id = 0;
    while (add(w.ix, id) == 0)
        id++;
    cr_assert_gt(id, 2 * MiB / 8);
    assert_all_there(w.ix, 0, id);
    end_world(&w);
}

Test(index, a_hash_whose_tag_is_0_matches_no_empty_slot)
{
    struct world w = new_world(FLASH_1T, 0, UINT64_MAX);
    uint64_t hash = (uint64_t)5 << (64 - SHARD_BITS) | (uint64_t)3 << w.ix->tag_bits;
    index_slot *slots[INDEX_MATCH_MAX];
    struct lock *l = index_lock(w.ix, hash);
    lock_take(l);
    cr_assert_eq(index_match(w.ix, hash, slots), 0u);
    cr_assert_eq(index_insert(w.ix, hash, index_make_flash(w.ix, 77, 0, 0, 0)), 0);
    cr_assert_eq(index_match(w.ix, hash, slots), 1u);
    cr_assert_eq(index_place(w.ix, index_load(slots[0])), 77u);
    lock_release(l);
    end_world(&w);
}

/* Where the last noted move of the shard put a word, seen from there: the other bucket of that word. */
static index_slot *bucket_that_was_left(struct index *ix, unsigned s)
{
    uint64_t at = peek(&ix->root->shard[s].moved_to);
    cr_assert_neq(at, 0u);
    uint64_t number = (at - 1) >> 3;
    index_slot *to = find_bucket(ix, s, number) + ((at - 1) & 7);
    uint64_t x = word_x(ix, group_of(ix, number), index_load(to));
    return candidate_of(ix, s, shard_state(ix, s), other_x(ix, x)).bucket;
}

/* Otherwise a kill between the two stores of a move would leave a word twice. */
Test(index, a_move_to_the_other_candidate_is_noted)
{
    struct world w = new_world(FLASH_1T, 0, 0);
    uint64_t moves = 0;
    for (uint64_t id = 0; add(w.ix, id) == 0; id++) {
        uint64_t hash = mix(id);
        unsigned s = index_shard_of(w.ix, hash);
        if (info_of(w.ix).displacements == moves)
            continue;
        moves = info_of(w.ix).displacements;
        struct lock *l = index_lock(w.ix, hash);
        lock_take(l);
        index_slot *mine = index_find_place(w.ix, hash, id), *left = bucket_that_was_left(w.ix, s);
        cr_assert(mine >= left && mine < left + INDEX_BUCKET_WORDS);
        lock_release(l);
    }
    cr_assert_gt(moves, 100u);
    end_world(&w);
}

Test(index, both_candidates_are_used)
{
    struct world w = new_world(FLASH_1T, 1 * MiB, 0);
    uint64_t ids = 100000, first = 0;
    for (uint64_t id = 0; id < ids; id++)
        cr_assert_eq(add(w.ix, id), 0);
    struct index_info info = info_of(w.ix);
    uint64_t tag_mask = ((uint64_t)1 << info.tag_bits) - 1;
    for (uint64_t id = 0; id < ids; id++) {
        struct lock *l = index_lock(w.ix, mix(id));
        lock_take(l);
        index_word word = index_load(index_find_place(w.ix, mix(id), id));
        first += (word >> (info.place_bits + 9) & tag_mask) == (mix(id) & tag_mask);
        lock_release(l);
    }
    cr_assert(first > ids / 4 && first < ids * 3 / 4, "%" PRIu64, first);
    end_world(&w);
}

Test(index, false_matches_are_as_rare_as_the_tag_promises)
{
    struct world w = new_world(FLASH_1T, 2 * MiB, UINT64_MAX);
    uint64_t ids = 1000000 / SCALE, asked = 2000000 / SCALE, matches = 0;
    for (uint64_t id = 0; id < ids; id++)
        cr_assert_eq(add(w.ix, id), 0);
    for (uint64_t id = ids; id < ids + asked; id++) {
        index_slot *slots[INDEX_MATCH_MAX];
        struct lock *l = index_lock(w.ix, mix(id));
        lock_take(l);
        matches += index_match(w.ix, mix(id), slots);
        lock_release(l);
    }
    struct index_info info = info_of(w.ix);
    /* Two buckets of words, each of a tag out of 2^T/n. */
    double load = (double)ids / (double)info.slots;
    double n = (double)info.slots / (2.0 * MiB / 8) * 8;
    double expect = 16 * load * n / (double)((uint64_t)1 << info.tag_bits);
    double rate = (double)matches / (double)asked;
    printf("false matches: %.5f a look-up, %.5f expected\n", rate, expect);
    cr_assert_leq(rate, expect * 1.3);
    end_world(&w);
}

/* ---- tombstones ---------------------------------------------------------------------- */

static void bury(struct index *ix, uint64_t id)
{
    uint64_t hash = mix(id);
    struct lock *l = index_lock(ix, hash);
    lock_take(l);
    index_slot *s = index_find_place(ix, hash, id);
    cr_assert_not_null(s);
    index_replace(ix, hash, s, index_make_tombstone(ix));
    lock_release(l);
}

Test(index, a_tombstone_is_matched_and_counted_until_cleared)
{
    struct world w = new_world(FLASH_1T, 0, UINT64_MAX);
    cr_assert_eq(add(w.ix, 5), 0);
    bury(w.ix, 5);
    cr_assert_eq(info_of(w.ix).tombstone_count, 1u);
    cr_assert_eq(info_of(w.ix).flash_count, 0u);
    index_slot *slots[INDEX_MATCH_MAX];
    lock_take(index_lock(w.ix, mix(5)));
    cr_assert_eq(index_match(w.ix, mix(5), slots), 1u);
    cr_assert_eq(index_kind(w.ix, index_load(slots[0])), INDEX_TOMBSTONE);
    index_clear(w.ix, mix(5), slots[0]);
    cr_assert_eq(index_match(w.ix, mix(5), slots), 0u);
    lock_release(index_lock(w.ix, mix(5)));
    cr_assert_eq(info_of(w.ix).tombstone_count, 0u);
    end_world(&w);
}

Test(index, tombstones_are_room_for_inserts)
{
    struct world w = new_world(FLASH_1T, 1 * MiB, 0);
    uint64_t id = 0, end;
    while (add(w.ix, id) == 0)
        id++;
    end = id;
    for (uint64_t round = 0; round < 3; round++) {
        for (uint64_t i = end - id; i < end - id + id / 2; i++)
            if (count_of(w.ix, i))
                bury(w.ix, i);
        uint64_t buried = info_of(w.ix).tombstone_count;
        cr_assert_gt(buried, 0u);
        uint64_t first = end;
        while (end < first + buried * 3 / 4)
            cr_assert_eq(add(w.ix, end++), 0);
        assert_all_there(w.ix, first, end);
        struct census c = {.ix = w.ix};
        walk_all(w.ix, 4096, take_census, &c);
        cr_assert_eq(c.tombstones, info_of(w.ix).tombstone_count);
        cr_assert_eq(c.words, info_of(w.ix).flash_count);
    }
    end_world(&w);
}

Test(index, growth_drops_tombstones)
{
    struct world w = new_world(FLASH_1T, 1 * MiB, UINT64_MAX);
    uint64_t ids = 120000;
    for (uint64_t id = 0; id < ids; id++)
        cr_assert_eq(add(w.ix, id), 0);
    for (uint64_t id = 0; id < 10000; id++)
        bury(w.ix, id);
    for (uint64_t id = ids; id < 2 * ids; id++)
        cr_assert_eq(add(w.ix, id), 0);
    cr_assert_eq(info_of(w.ix).tombstone_count, 0u);
    assert_all_there(w.ix, 10000, 2 * ids);
    end_world(&w);
}

/* ---- walking ------------------------------------------------------------------------- */

static void clear_odd(void *ctx, uint64_t hash_like, index_slot *s, index_word w)
{
    struct index *ix = ctx;
    if (index_place(ix, w) & 1)
        index_clear(ix, hash_like, s);
    else
        index_replace(ix, hash_like, s, index_make_flash(ix, index_place(ix, w), 9, 0, 0));
}

Test(index, visit_may_clear_and_replace)
{
    struct world w = new_world(FLASH_1T, 0, UINT64_MAX);
    uint64_t ids = 150000;
    for (uint64_t id = 0; id < ids; id++)
        cr_assert_eq(add(w.ix, id), 0);
    walk_all(w.ix, 3, clear_odd, w.ix);
    cr_assert_eq(info_of(w.ix).flash_count, ids / 2);
    for (uint64_t id = 0; id < ids; id++) {
        struct lock *l = index_lock(w.ix, mix(id));
        lock_take(l);
        index_slot *s = index_find_place(w.ix, mix(id), id);
        cr_assert_eq(s != NULL, id % 2 == 0);
        cr_assert(!s || index_len(w.ix, index_load(s)) == 9);
        lock_release(l);
    }
    end_world(&w);
}

Test(index, a_walk_through_a_growing_shard_still_ends)
{
    struct world w = new_world(FLASH_1T, 0, UINT64_MAX);
    uint64_t ids = 60000, id = 0, calls = 0, seen = 0;
    for (; id < ids; id++)
        cr_assert_eq(add(w.ix, id), 0);
    struct census c = {.ix = w.ix};
    for (unsigned s = 0; s < INDEX_SHARD_COUNT; s += 16) {
        uint64_t pos = 0;
        for (bool more = true; more; calls++) {
            struct lock *l = index_shard_lock(w.ix, s);
            lock_take(l);
            more = index_walk(w.ix, s, &pos, 16, take_census, &c);
            lock_release(l);
            for (uint64_t end = id + 200; id < end; id++)
                cr_assert_eq(add(w.ix, id), 0);
        }
        seen++;
    }
    cr_assert_eq(seen, 4u);
    cr_assert_gt(calls, 4 * 128 / 16);
    cr_assert_gt(c.words, ids / 16 * 9 / 10);
    end_world(&w);
}

/* ---- attach -------------------------------------------------------------------------- */

static void temp_file(char *path, size_t bytes)
{
    snprintf(path, bytes, "%s/extant-index-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    close(fd);
    unlink(path);
}

static struct world open_file(const char *path, bool *attached)
{
    struct world w = {.arena = new_arena(RESERVE_BYTES, path, attached)};
    struct index_options opt = world_options(w.arena);
    opt.attached = *attached;
    w.ix = index_create(&opt);
    cr_assert_not_null(w.ix, "%s", strerror(errno));
    if (*attached)
        arena_attach_done(w.arena);
    return w;
}

Test(index, attach_finds_everything_and_counts_it_again)
{
    char path[64];
    bool attached;
    temp_file(path, sizeof(path));
    uint64_t ids = 1500000 / SCALE;
    struct world w = open_file(path, &attached);
    cr_assert_not(attached);
    for (uint64_t id = 0; id < ids; id++)
        cr_assert_eq(add(w.ix, id), 0);
    for (uint64_t id = 0; id < 100; id++)
        bury(w.ix, id);
    struct index_info before = info_of(w.ix);
    end_world(&w);

    struct timespec t0, t1;
    clock_gettime(CLOCK_MONOTONIC, &t0);
    w = open_file(path, &attached);
    clock_gettime(CLOCK_MONOTONIC, &t1);
    cr_assert(attached);
    printf("attach: %.1f ns a word\n",
           ((double)(t1.tv_sec - t0.tv_sec) * 1e9 + (double)(t1.tv_nsec - t0.tv_nsec)) /
               (double)ids);
    struct index_info after = info_of(w.ix);
    cr_assert_eq(after.flash_count, before.flash_count);
    cr_assert_eq(after.tombstone_count, before.tombstone_count);
    cr_assert_eq(after.bytes, before.bytes);
    cr_assert_eq(after.slots, before.slots);
    assert_all_there(w.ix, 100, ids);
    for (uint64_t id = ids; id < ids + ids / 8; id++)
        cr_assert_eq(add(w.ix, id), 0);
    assert_all_there(w.ix, 100, ids + ids / 8);
    end_world(&w);
    unlink(path);
}

/* In each shard, copies a word to its other bucket as a move does, and leaves the old one. */
static void cut_moves_short(struct index *ix)
{
    for (unsigned s = 0; s < INDEX_SHARD_COUNT; s++) {
        uint64_t state = shard_state(ix, s);
        for (uint64_t number = 0; number < bucket_number(ix, INITIAL_ROWS, 0); number++) {
            index_slot *b = find_bucket(ix, s, number);
            index_word w = index_load(&b[3]);
            uint64_t x = word_x(ix, group_of(ix, number), w);
            struct candidate c = candidate_of(ix, s, state, other_x(ix, x));
            unsigned empties = bucket_empties(c.bucket);
            if (w == 0 || empties == 0)
                continue;
            unsigned slot = (unsigned)__builtin_ctz(empties);
            note_move(ix, s, c.row, c.group, slot);
            put_word(&c.bucket[slot], word_with_tag(ix, w, c.tag));
            break;
        }
    }
}

Test(index, attach_removes_the_copy_of_a_move_that_was_cut_short)
{
    char path[64];
    bool attached;
    temp_file(path, sizeof(path));
    uint64_t ids = 40000;
    struct world w = open_file(path, &attached);
    for (uint64_t id = 0; id < ids; id++)
        cr_assert_eq(add(w.ix, id), 0);
    cut_moves_short(w.ix);
    struct census c = {.ix = w.ix};
    walk_all(w.ix, 1000, take_census, &c);
    cr_assert_eq(c.words, ids + INDEX_SHARD_COUNT);
    end_world(&w);
    for (unsigned again = 0; again < 2; again++) {
        w = open_file(path, &attached);
        cr_assert(attached);
        cr_assert_eq(info_of(w.ix).flash_count, ids);
        assert_all_there(w.ix, 0, ids);
        end_world(&w);
    }
    unlink(path);
}

/* Fills every slot of shard 0 that any x leads to with words of places from `place` on. */
static uint64_t stuff_shard(struct index *ix, uint64_t place, uint64_t *rng)
{
    uint64_t state = shard_state(ix, 0);
    for (uint64_t number = 0; number < bucket_number(ix, state_rows_all(state), 0); number++) {
        uint32_t row = (uint32_t)(number >> ix->group_bits), group = group_of(ix, number);
        index_slot *b = find_bucket(ix, 0, number);
        for (unsigned i = 0, tries = 0; b && i < INDEX_BUCKET_WORDS && tries < 1000; tries++) {
            uint64_t tag = draw(rng, ix->tag_mask + 1);
            if (index_load(&b[i]) != 0) {
                i++;
            } else if (x_row(ix, state, (uint64_t)group << ix->tag_bits | tag) == row) {
                put_word(&b[i++], word_with_tag(ix, index_make_flash(ix, place++, 0, 0, 0), tag));
                bump(&ix->shard[0].counts[INDEX_FLASH], 1);
            }
        }
    }
    return place;
}

struct pick {
    struct index *ix;
    uint64_t least, left; /* places from `least` on; this many of them are cleared */
};

static void clear_picked(void *ctx, uint64_t hash_like, index_slot *s, index_word w)
{
    struct pick *p = ctx;
    if (p->left > 0 && index_place(p->ix, w) >= p->least && mix(w) % 8 == 0) {
        index_clear(p->ix, hash_like, s);
        p->left--;
    }
}

Test(index, growth_that_finds_no_room_undoes_its_step_and_goes_on_later)
{
    struct world w = new_world(FLASH_1T, 0, UINT64_MAX);
    uint64_t ids = 40000, first = 1 << 24, rng = 7, refused = 0;
    for (uint64_t id = 0; id < ids; id++)
        cr_assert_eq(add(w.ix, id), 0);
    struct lock *l = index_shard_lock(w.ix, 0);
    lock_take(l);
    cr_assert(grow(w.ix, 0, 40, true));
    uint64_t extra = stuff_shard(w.ix, first, &rng) - first;
    lock_release(l);
    while (state_is_growing(shard_state(w.ix, 0))) {
        lock_take(l);
        uint64_t before = shard_state(w.ix, 0), pos = 0;
        grow(w.ix, 0, 1, false);
        if (shard_state(w.ix, 0) == before) {
            struct pick pick = {w.ix, first, 1};
            index_walk(w.ix, 0, &pos, UINT32_MAX, clear_picked, &pick);
            cr_assert_eq(pick.left, 0u);
            refused++;
            extra--;
        }
        lock_release(l);
        struct census c = {.ix = w.ix};
        walk_all(w.ix, 1 << 20, take_census, &c);
        cr_assert_eq(c.words, ids + extra);
        cr_assert_eq(info_of(w.ix).flash_count, ids + extra);
    }
    cr_assert_gt(refused, 10u);
    assert_all_there(w.ix, 0, ids);
    end_world(&w);
}

/* What the killed process leaves for the test. */
enum { ABSENT, COMING, PRESENT, GOING };
struct testimony {
    _Atomic(uint64_t) ops;
    _Atomic(uint8_t) state[];
};

/* Inserts and clears at random, mostly inserts, until killed. */
static void live_and_die(const char *path, struct testimony *t, uint64_t ids, uint64_t rng)
{
    bool attached;
    struct world w = open_file(path, &attached);
    for (;;) {
        uint64_t id = draw(&rng, ids);
        uint8_t state = atomic_load(&t->state[id]);
        if (state == ABSENT) {
            atomic_store(&t->state[id], COMING);
            cr_assert_eq(add(w.ix, id), 0);
            atomic_store(&t->state[id], PRESENT);
        } else if (draw(&rng, 16) == 0) {
            atomic_store(&t->state[id], GOING);
            drop(w.ix, id);
            atomic_store(&t->state[id], ABSENT);
        }
        atomic_fetch_add(&t->ops, 1);
    }
}

/* Every acknowledged object is there exactly once; the one under way may be there or not. */
static void survive(const char *path, struct testimony *t, uint64_t ids, uint8_t *seen)
{
    bool attached;
    struct world w = open_file(path, &attached);
    cr_assert(attached);
    memset(seen, 0, ids);
    struct census c = {.ix = w.ix, .seen = seen, .ids = ids};
    walk_all(w.ix, 1 << 20, take_census, &c);
    unsigned under_way = 0;
    for (uint64_t id = 0; id < ids; id++) {
        uint8_t state = t->state[id];
        if (state == COMING || state == GOING) {
            under_way++;
            cr_assert_leq(seen[id], 1);
            t->state[id] = seen[id] ? PRESENT : ABSENT;
        } else {
            cr_assert_eq(seen[id], state == PRESENT, "object %" PRIu64 " seen %u times", id,
                         seen[id]);
        }
        cr_assert(id % 64 != 0 || count_of(w.ix, id) == seen[id]);
    }
    cr_assert_leq(under_way, 1u);
    cr_assert_eq(c.words, info_of(w.ix).flash_count);
    end_world(&w);
}

Test(index, a_killed_process_loses_nothing_acknowledged, .timeout = 600)
{
    char path[64];
    uint64_t ids = 400000 / SCALE, rng = 1;
    size_t bytes = sizeof(struct testimony) + ids;
    struct testimony *t = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
                               0);
    uint8_t *seen = malloc(ids);
    cr_assert(t != MAP_FAILED && seen);
    temp_file(path, sizeof(path));
    for (unsigned life = 0; life < (SCALE > 1 ? 40 : 120); life++) {
        uint64_t seed = draw(&rng, UINT64_MAX), last_op = t->ops + 1 + draw(&rng, 12000 / SCALE);
        pid_t child = fork();
        if (child == 0)
            live_and_die(path, t, ids, seed);
        while (t->ops < last_op && waitpid(child, NULL, WNOHANG) == 0)
            sched_yield();
        cr_assert_geq(t->ops, last_op, "the child ended by itself");
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        survive(path, t, ids, seen);
    }
    free(seen);
    munmap(t, bytes);
    unlink(path);
}
