/* misses_test.c: what flash did to an item is the reason that its get misses: a slow device, a full one, a
 * dead one; and memory without room for what is read. Every miss has one reason, so they add up to get_misses. The
 * other reasons: t/live/http_test.py. */
#include <criterion/criterion.h>
#include <sched.h>
#include <unistd.h>

#include "flash/page.h"
#include "t/aid/cache_fixture.h"
#include "t/aid/sys_faults.h"

enum { VALUE_BYTES = 8000, SETS = 6000 };

static struct fixture f;
static char value[VALUE_BYTES + 1];
static _Atomic(bool) is_stalled;

static ssize_t read_device(void *ctx UNUSED, int fd, void *buf, size_t bytes, off_t offset)
{
    ssize_t n = pread(fd, buf, bytes, offset);
    return n < 0 ? -errno : n;
}

/* Takes as long as the test says. */
static ssize_t write_device(void *ctx UNUSED, int fd, const void *buf, size_t bytes, off_t offset)
{
    while (atomic_load(&is_stalled))
        sched_yield();
    ssize_t n = pwrite(fd, buf, bytes, offset);
    return n < 0 ? -errno : n;
}

static ssize_t fail_to_write(void *ctx UNUSED, int fd UNUSED, const void *buf UNUSED, size_t bytes UNUSED,
                             off_t offset UNUSED)
{
    return -EIO;
}

static void open_it(ssize_t (*write)(void *, int, const void *, size_t, off_t))
{
    const struct ext_device_ops ops = {.pread = read_device, .pwrite = write};
    fixture_open_ops(&f, 8, 64, &ops);
    atomic_store(&f.config.ext_max_sleep, 1000);
}

/* Stores more than memory and write buffers hold; asks for all of it. */
static void store_and_ask(void)
{
    char key[32];
    for (unsigned i = 0; i < SETS; i++) {
        snprintf(key, sizeof(key), "key-%u", i);
        fixture_store(&f, CACHE_SET, key, value, VALUE_BYTES, 0, 0, 0);
    }
    for (unsigned i = 0; i < SETS; i++) {
        snprintf(key, sizeof(key), "key-%u", i);
        fixture_get(&f, key, value, sizeof(value), NULL);
    }
}

static uint64_t misses(enum miss_reason why) { return atomic_load(&f.stats.misses[why]); }

static uint64_t all_misses(void)
{
    uint64_t sum = 0;
    for (enum miss_reason why = 0; why < MISS_REASON_COUNT; why++)
        sum += misses(why);
    cr_assert_eq(sum, atomic_load(&f.stats.counters[STAT_get_misses]));
    return sum;
}

/* The items evicted for this reason miss for this reason, except those that the table of departed keys has no
 * room for; all reasons add up. */
static void expect(enum miss_reason why, enum cache_counter counter)
{
    uint64_t all = all_misses();
    cr_assert_gt(misses(why), 1000, "%" PRIu64 " of %" PRIu64, misses(why), all);
    uint64_t gone = fixture_counter(&f, counter);
    cr_assert(misses(why) <= gone && misses(why) * 100 > gone * 90, "%" PRIu64 " of %" PRIu64, misses(why), gone);
}

Test(misses, of_a_device_that_is_too_slow)
{
    open_it(write_device);
    atomic_store(&is_stalled, true);
    store_and_ask();
    expect(MISS_evicted_write_wait, CACHE_N_evictions_write_wait);
    atomic_store(&is_stalled, false);
    fixture_close(&f);
}

Test(misses, of_flash_without_a_page_to_free)
{
    uint32_t page;
    open_it(write_device);
    while (ext_page_open(f.ext, EXT_BUCKET_DEFAULT, true, &page) == 0)
        ;
    store_and_ask();
    expect(MISS_evicted_flash_full, CACHE_N_evictions_flash_full);
    fixture_close(&f);
}

Test(misses, of_a_device_that_takes_no_writes)
{
    open_it(fail_to_write);
    store_and_ask();
    expect(MISS_evicted_device, CACHE_N_evictions_device);
    fixture_close(&f);
}

/* Asks for a key on flash, while the nth allocation and all after it fail, for n = 1, 2 .. until there was enough.
 * A miss for lack of memory has that reason, is counted once, and the value is there as soon as there is memory. */
Test(misses, of_a_read_without_memory)
{
    enum { BYTES = 100000, KEYS = 3 };
    static char large[BYTES + 1];
    enum cache_status status = CACHE_NO_MEMORY;
    unsigned starved = 0;
    open_it(write_device);
    for (unsigned i = 0; i < KEYS; i++) { /* read into memory of their own, as they are large */
        char key[16];
        snprintf(key, sizeof(key), "key-%u", i);
        memset(large, 'a' + (int)i, BYTES);
        cr_assert_eq(fixture_store(&f, CACHE_SET, key, large, BYTES, 0, 0, 0), CACHE_OK);
    }
    fixture_flush(&f);
    for (unsigned n = 1; status != CACHE_OK; n++) {
        uint64_t oom = atomic_load(&f.stats.counters[STAT_get_oom_extstore]);
        sys_fail_nth(SYS_MEMORY, n, 1000);
        status = fixture_get(&f, "key-1", large, sizeof(large), NULL);
        bool failed = sys_failed();
        cr_assert(status == CACHE_OK || (failed && status == CACHE_NO_MEMORY), "%u: %d", n, (int)status);
        starved += status == CACHE_NO_MEMORY;
        cr_assert_eq(misses(MISS_no_memory), starved);
        cr_assert_eq(all_misses(), starved);
        cr_assert_eq(atomic_load(&f.stats.counters[STAT_get_cmds]), n);
        cr_assert_eq(atomic_load(&f.stats.counters[STAT_get_oom_extstore]), oom + (status != CACHE_OK));
    }
    cr_assert_geq(starved, 2u);
    cr_assert(large[0] == 'b' && large[BYTES - 1] == 'b');
    fixture_close(&f);
}

/* The key has more values on flash than a set leaves unread. None of them can be read for lack of memory, from the nth
 * allocation on: neither a set nor the delete that follows a refused one may leave an old value. */
static void end_old_values(enum cache_verb verb)
{
    enum { OLD = 4, BYTES = 100000 }; /* read into memory of their own, as they are large */
    static char old[BYTES];
    unsigned failed = 0;
    open_it(write_device);
    for (unsigned n = 1; n == 1 || failed == n - 1; n++) {
        struct cache_op op;
        enum cache_status status;
        for (unsigned i = 0; i < OLD; i++) {
            cr_assert_eq(fixture_store(&f, CACHE_SET, "k", old, BYTES, 0, 0, 0), CACHE_OK);
            fixture_flush(&f);
        }
        cache_op_init(&op, CACHE_ALLOC, "k", 1, cache_hash(f.cache, "k", 1));
        op.value_bytes = 3;
        op.options = CACHE_F_QUIET_STATS;
        fixture_run(&f, &op);
        memcpy(op.value, "new", 3);
        op.verb = verb;
        sys_fail_nth(SYS_MEMORY, n, 1000);
        fixture_run(&f, &op);
        failed += sys_failed();
        status = op.status;
        cr_assert(status == CACHE_OK || (verb == CACHE_DELETE && status == CACHE_NOT_FOUND), "%u: %d", n, (int)status);
        cache_release(f.worker, &op);
        status = fixture_get(&f, "k", value, sizeof(value), NULL);
        cr_assert_eq(status, verb == CACHE_DELETE ? CACHE_NOT_FOUND : CACHE_OK, "%u: %d", n, (int)status);
        cr_assert(status != CACHE_OK || strcmp(value, "new") == 0, "%u: %s", n, value);
    }
    cr_assert_geq(failed, 1u);
    cr_assert_eq(ext_reconcile(f.ext), 0);
    fixture_close(&f);
}

Test(misses, a_set_without_memory_to_read_leaves_no_old_value) { end_old_values(CACHE_STORE); }

Test(misses, the_delete_after_a_refused_set_leaves_no_old_value_either) { end_old_values(CACHE_DELETE); }
