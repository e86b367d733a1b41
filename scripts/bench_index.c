/* bench_index.c: the cost of a look-up and an insert of index.c, and bytes for each object as it grows.
 *
 * Build and run, from the top of the tree:
 *   gcc -std=gnu11 -O3 -march=x86-64-v2 -D_GNU_SOURCE -I. -pthread -o build/bench_index \
 *       scripts/bench_index.c index.c space/arena.c space/extents.c base/lock.c -lm && build/bench_index
 *
 * One thread, its CPU time. Look-ups are of random objects: one after the other, and in batches of
 * 16 that are prefetched first, as a worker does with a pipeline of gets.
 */
#include <sys/mman.h>
#include <time.h>

#include "index.h"

#define LOOKUPS 4000000u
#define BATCH 16u

static uint64_t mix(uint64_t v)
{
    v += 0x9e3779b97f4a7c15u;
    v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9u;
    v = (v ^ v >> 27) * 0x94d049bb133111ebu;
    return v ^ v >> 31;
}

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static unsigned look_up(struct index *ix, uint64_t hash)
{
    index_slot *slots[INDEX_MATCH_MAX];
    struct lock *l = index_lock(ix, hash);
    lock_take(l);
    unsigned n = index_match(ix, hash, slots);
    lock_release(l);
    return n;
}

static void measure_lookups(struct index *ix, uint64_t objects)
{
    uint64_t found = 0, missed = 0, hashes[BATCH];
    double t0 = now_ns();
    for (uint64_t i = 0; i < LOOKUPS; i++)
        found += look_up(ix, mix(mix(i) % objects));
    double t1 = now_ns();
    for (uint64_t i = 0; i < LOOKUPS; i += BATCH) {
        for (unsigned k = 0; k < BATCH; k++)
            index_prefetch(ix, hashes[k] = mix(mix(i + k) % objects));
        for (unsigned k = 0; k < BATCH; k++)
            found += look_up(ix, hashes[k]);
    }
    double t2 = now_ns();
    for (uint64_t i = 0; i < LOOKUPS; i++)
        missed += look_up(ix, mix(objects + i));
    double t3 = now_ns();
    printf("%9" PRIu64 " objects: hit %5.1f ns, hit prefetched %5.1f ns, miss %5.1f ns; "
           "%.5f false matches a look-up\n",
           objects, (t1 - t0) / LOOKUPS, (t2 - t1) / LOOKUPS, (t3 - t2) / LOOKUPS,
           (double)missed / LOOKUPS);
    ASSERT(found >= 2 * (uint64_t)LOOKUPS);
}

int main(void)
{
    const uint64_t marks[] = {1000000, 3000000, 10000000};
    char why[256];
    bool attached;
    struct arena_options arena_opt = {.reserve_bytes = 1 * GiB};
    struct arena *arena = arena_create(&arena_opt, &attached, why, sizeof(why));
    if (!arena) {
        fprintf(stderr, "bench_index: %s\n", why);
        return 1;
    }
    madvise(arena_base(arena), arena_reserve_bytes(arena), MADV_HUGEPAGE); /* as -L */
    struct index_options opt = {.arena = arena,
                                .flash_bytes = 1024 * GiB,
                                .initial_bytes = 8 * MiB,
                                .limit_bytes = UINT64_MAX,
                                .handle_bits = 28};
    struct index *ix = index_create(&opt);
    ASSERT(ix != NULL);
    uint64_t id = 0;
    for (unsigned m = 0; m < ARRAY_COUNT(marks); m++) {
        uint64_t first = id, samples = 0;
        double worst = 0, sum = 0, slowest = 0, start = now_ns(), before = start;
        for (; id < marks[m]; id++) {
            uint64_t hash = mix(id);
            struct lock *l = index_lock(ix, hash);
            lock_take(l);
            int rc = index_insert(ix, hash, index_make_flash(ix, id, 1, 0, 0));
            lock_release(l);
            ASSERT(rc == 0);
            if (id % 256 != 0)
                continue;
            struct index_info info;
            index_info(ix, &info);
            double cost = (double)info.bytes / (double)(id + 1), now = now_ns();
            worst = id >= marks[0] && cost > worst ? cost : worst;
            slowest = now - before > slowest ? now - before : slowest;
            before = now;
            if (id >= marks[0]) {
                sum += cost;
                samples++;
            }
        }
        double ns = (now_ns() - start) / (double)(id - first);
        struct index_info info;
        index_info(ix, &info);
        printf("%9" PRIu64 " objects: insert %.1f ns (slowest 256: %.0f us); bytes an object now "
               "%.3f, worst %.3f, mean %.3f\n",
               id, ns, slowest / 1e3, (double)info.bytes / (double)id, worst,
               samples ? sum / (double)samples : 0);
        measure_lookups(ix, id);
    }
    index_destroy(ix);
    arena_destroy(arena);
    return 0;
}
