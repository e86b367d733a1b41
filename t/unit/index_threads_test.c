/* Threads that share an index, each with objects of its own; meant for TSan. */
#include "index.h"

#include <criterion/criterion.h>
#include <pthread.h>

#define RESERVE_BYTES (256 * MiB)

static uint64_t mix(uint64_t v)
{
    v += 0x9e3779b97f4a7c15u;
    v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9u;
    v = (v ^ v >> 27) * 0x94d049bb133111ebu;
    return v ^ v >> 31;
}

struct world {
    struct arena *arena;
    struct index *ix;
};

static struct world new_world(void)
{
    char why[256];
    bool attached;
    struct arena_options arena_opt = {.reserve_bytes = RESERVE_BYTES};
    struct world w = {.arena = arena_create(&arena_opt, &attached, why, sizeof(why))};
    cr_assert_not_null(w.arena, "%s", why);
    struct index_options opt = {.arena = w.arena,
                                .flash_bytes = 1024 * GiB,
                                .limit_bytes = UINT64_MAX,
                                .handle_bits = 28};
    w.ix = index_create(&opt);
    cr_assert_not_null(w.ix);
    return w;
}

static bool has(struct index *ix, uint64_t id)
{
    struct lock *l = index_lock(ix, mix(id));
    lock_take(l);
    bool found = index_find_place(ix, mix(id), id) != NULL;
    lock_release(l);
    return found;
}

/* Each object is inserted, found, and every third replaced, found and cleared. */
static void run_one(struct index *ix, uint64_t id)
{
    uint64_t hash = mix(id);
    struct lock *l = index_lock(ix, hash);
    index_prefetch(ix, hash);
    lock_take(l);
    cr_assert_eq(index_insert(ix, hash, index_make_flash(ix, id, 1, 1, 0)), 0);
    lock_release(l);
    cr_assert(has(ix, id));
    if (id % 3 != 0)
        return;
    lock_take(l);
    index_slot *slots[INDEX_MATCH_MAX], *s = index_find_place(ix, hash, id);
    index_replace(ix, hash, s, index_make_ram(ix, (uint32_t)id + 1, 0));
    cr_assert_geq(index_match(ix, hash, slots), 1u);
    index_clear(ix, hash, s);
    lock_release(l);
    cr_assert_not(has(ix, id));
}

#define THREADS 3

struct worker {
    struct index *ix;
    uint64_t first, ids;
    _Atomic(bool) *stop;
};

static void *work(void *arg)
{
    struct worker *w = arg;
    for (uint64_t id = w->first; id < w->first + w->ids; id++)
        run_one(w->ix, id);
    return NULL;
}

static void count_words(void *ctx, uint64_t hash_like, index_slot *s, index_word w)
{
    (void)hash_like, (void)s, (void)w;
    ++*(uint64_t *)ctx;
}

static void *maintain(void *arg)
{
    struct worker *w = arg;
    uint64_t words = 0, random = 1;
    while (!atomic_load(w->stop)) {
        unsigned shard = (unsigned)(mix(++random) % INDEX_SHARD_COUNT);
        uint64_t pos = 0;
        index_grow_step(w->ix, shard);
        struct lock *l = index_shard_lock(w->ix, shard);
        lock_take(l);
        index_walk(w->ix, shard, &pos, 64, count_words, &words);
        lock_release(l);
        for (unsigned i = 0; i < 100; i++)
            index_prefetch(w->ix, mix(++random));
        struct index_info info;
        index_info(w->ix, &info);
        cr_assert_leq(info.bytes, RESERVE_BYTES);
    }
    return NULL;
}

Test(index_threads, each_finds_what_it_put_in)
{
    struct world w = new_world();
    uint64_t each = 60000;
    _Atomic(bool) stop = false;
    struct worker workers[THREADS + 1];
    pthread_t threads[THREADS + 1];
    for (unsigned i = 0; i <= THREADS; i++) {
        workers[i] = (struct worker){w.ix, i * each, each, &stop};
        cr_assert_eq(pthread_create(&threads[i], NULL, i < THREADS ? work : maintain, &workers[i]),
                     0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    atomic_store(&stop, true);
    pthread_join(threads[THREADS], NULL);
    uint64_t live = 0;
    for (uint64_t id = 0; id < THREADS * each; id++) {
        live += id % 3 != 0;
        cr_assert_eq(has(w.ix, id), id % 3 != 0);
    }
    struct index_info info;
    index_info(w.ix, &info);
    cr_assert_eq(info.flash_count, live);
    cr_assert_eq(info.ram_count, 0u);
    index_destroy(w.ix);
    arena_destroy(w.arena);
}
