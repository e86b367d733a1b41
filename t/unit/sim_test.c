/* sim_test.c: the whole storage, simulated: one seed, one run. See sim_run.h for what a run is.
 *
 * A failure prints its seed. SIM_SEED=n runs only that seed and prints each step; SIM_SEEDS=n runs
 * n of each profile instead of the usual number, from seed SIM_FIRST=n on. Of the tests that
 * kill a run everywhere, SIM_KILL_AT=n makes only that kill. */
#include <criterion/criterion.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "t/aid/sim_run.h"

#define SEEDS_OF_EACH 300u
#define LIFE_SEC_MAX 600u /* a life takes milliseconds; one that hangs is a failure */

static char dir[64];

static void dir_make(void)
{
    const char *base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(dir, sizeof(dir), "%s/sim_test.XXXXXX", base);
    cr_assert_not_null(mkdtemp(dir));
}

static void unlink_in_dir(const char *name)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    unlink(path);
}

static void dir_remove(void)
{
    unlink_in_dir("memory");
    unlink_in_dir("flash0");
    unlink_in_dir("flash1");
    rmdir(dir);
}

TestSuite(sim, .init = dir_make, .fini = dir_remove, .timeout = 600);

static uint64_t number_of(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 10) : otherwise;
}

static void *shared_memory(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(p, MAP_FAILED);
    return p;
}

static struct sim *sim_new(uint64_t seed)
{
    struct sim *s = shared_memory(sizeof(*s));
    s->device.image = shared_memory(sim_image_bytes());
    sim_make(s, seed);
    s->trace = getenv("SIM_SEED") != NULL;
    unlink_in_dir("memory");
    return s;
}

static void sim_free(struct sim *s)
{
    munmap(s->device.image, sim_image_bytes());
    munmap(s, sizeof(*s));
}

/* One life in a process of its own. True: it was killed, as planned. */
static bool sim_one_life(struct sim *s)
{
    int status = 0;
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0) {
        alarm(LIFE_SEC_MAX);
        sim_live(s, dir);
    }
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    bool as_planned = WIFEXITED(status) &&
                      (WEXITSTATUS(status) == SIM_ENDED || WEXITSTATUS(status) == SIM_KILLED);
    cr_assert(as_planned,
              "SIM_SEED=%" PRIu64 " (%s): life %u of %u, step %" PRIu64
              ", ended with status %x; SIM_KILL_AT=%" PRIu64,
              s->seed, sim_profile_name(s->profile), s->life, s->lives, s->step, status,
              s->kill_at);
    return WEXITSTATUS(status) == SIM_KILLED;
}

struct sums {
    uint64_t runs, lives, ops, hits, refused, losses, collisions, written, rescued, moved, evicted,
        left_clean, injected, writes;
};

static void sim_run(struct sim *s, struct sums *sum)
{
    for (s->life = 0; s->life < s->lives; s->life++) {
        sim_plan(s);
        sim_one_life(s);
        sum->lives++;
        sum->writes += s->device.writes;
    }
    sum->runs++;
    sum->ops += s->ops;
    sum->hits += s->hits;
    sum->refused += s->refused;
    sum->losses += s->losses;
    sum->collisions += s->collisions;
    sum->written += s->written;
    sum->rescued += s->rescued;
    sum->moved += s->moved;
    sum->evicted += s->evicted;
    sum->left_clean += s->left_clean;
    sum->injected += s->device.injected;
}

static struct sums sim_profile(enum sim_profile p)
{
    struct sums sum = {0};
    uint64_t only = number_of("SIM_SEED", UINT64_MAX);
    uint64_t first = number_of("SIM_FIRST", 0), count = number_of("SIM_SEEDS", SEEDS_OF_EACH);
    for (uint64_t i = first; i < first + count; i++) {
        uint64_t seed = only != UINT64_MAX ? only : i * SIM_PROFILE_COUNT + p;
        if (seed % SIM_PROFILE_COUNT != p)
            break;
        struct sim *s = sim_new(seed);
        sim_run(s, &sum);
        sim_free(s);
        if (only != UINT64_MAX)
            break;
    }
    fprintf(stderr,
            "%s: %" PRIu64 " runs, %" PRIu64 " lives, %" PRIu64 " ops, %" PRIu64 " hits, %" PRIu64
            " refused, %" PRIu64 " lost; %" PRIu64 " device writes, %" PRIu64
            " faults; records: %" PRIu64 " written, %" PRIu64 " rescued, %" PRIu64
            " moved, %" PRIu64 " evicted, %" PRIu64 " left RAM clean, %" PRIu64 " tag collisions\n",
            sim_profile_name(p), sum.runs, sum.lives, sum.ops, sum.hits, sum.refused, sum.losses,
            sum.writes, sum.injected, sum.written, sum.rescued, sum.moved, sum.evicted,
            sum.left_clean, sum.collisions);
    return sum;
}

/* Two lives of a seed, the first one killed at the nth write or upcall. False: there are not so
 * many. */
static bool killed_at(uint64_t seed, enum sim_kill kill, uint64_t nth)
{
    struct sim *s = sim_new(seed);
    s->lives = 2;
    s->steps = 800;
    s->kill = kill;
    s->kill_at = nth;
    bool killed = sim_one_life(s);
    s->life = 1;
    s->kill = SIM_KILL_NEVER;
    sim_one_life(s);
    sim_free(s);
    return killed;
}

/* Kills a few runs of a profile at each write or upcall there is; returns how many kills that were.
 */
static uint64_t kill_everywhere(enum sim_profile p, enum sim_kill kill, unsigned runs)
{
    uint64_t sum = 0, only = number_of("SIM_SEED", UINT64_MAX), at = number_of("SIM_KILL_AT", 0);
    for (uint64_t seed = p; seed < p + runs * SIM_PROFILE_COUNT; seed += SIM_PROFILE_COUNT)
        for (uint64_t n = at; only == UINT64_MAX || (seed == only && n == at); n++, sum++)
            if (!killed_at(seed, kill, n))
                break;
    return sum;
}

Test(sim, a_kill_in_any_write_of_a_run_loses_nothing)
{
    cr_assert_gt(kill_everywhere(SIM_WRITES, SIM_KILL_IN_WRITE, 6), 40);
}

Test(sim, a_kill_in_any_upcall_of_a_run_costs_counted_misses)
{
    cr_assert_gt(kill_everywhere(SIM_FULL, SIM_KILL_IN_UPCALL, 3), 40);
}

Test(sim, the_same_seed_is_the_same_run)
{
    struct sums sum = {0};
    for (uint64_t seed = 1000; seed < 1000 + 2 * SIM_PROFILE_COUNT; seed++) {
        uint64_t digest[2];
        for (unsigned i = 0; i < 2; i++) {
            struct sim *s = sim_new(seed);
            sim_run(s, &sum);
            digest[i] = s->digest;
            sim_free(s);
        }
        cr_assert_eq(digest[0], digest[1], "seed %" PRIu64, seed);
    }
}

Test(sim, kills_alone_lose_nothing)
{
    sim_profile(SIM_KILLS);
}

Test(sim, failing_writes_lose_nothing)
{
    sim_profile(SIM_WRITES);
}

Test(sim, failing_reads_cost_counted_misses)
{
    sim_profile(SIM_READS);
}

Test(sim, rot_costs_counted_misses)
{
    sim_profile(SIM_ROT);
}

Test(sim, full_flash_costs_counted_misses)
{
    sim_profile(SIM_FULL);
}

Test(sim, same_tags_cost_counted_misses)
{
    sim_profile(SIM_TAGS);
}

Test(sim, everything_at_once)
{
    sim_profile(SIM_ALL);
}
