/* cache_test.c: the verbs over RAM and flash, without a server. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include "flash/engine.h"
#include "items/shortage.h"
#include "items/store.h"
#include "items/worth.h"
#include "stale_check.h"
#include "t/aid/cache_fixture.h"
#include "t/aid/sim_tags.h"

static struct fixture f;
static char value[1 << 20];

static void open_ram(void) { fixture_open(&f, 64, 0); }
static void open_flash(void) { fixture_open(&f, 64, 160); }
static void close_it(void) { fixture_close(&f); }

TestSuite(cache_ram, .init = open_ram, .fini = close_it);
TestSuite(cache_flash, .init = open_flash, .fini = close_it);

#define STATUS(call, want) cr_assert_eq((call), (want), #call)

static uint64_t flash_count(void)
{
    struct index_info info;
    index_info(f.index, &info);
    return info.flash_count;
}
static uint64_t ram_count(void)
{
    struct index_info info;
    index_info(f.index, &info);
    return info.ram_count;
}

Test(cache_ram, set_then_get_gives_the_value)
{
    STATUS(fixture_set(&f, "k", "v1"), CACHE_OK);
    STATUS(fixture_get(&f, "k", value, sizeof(value), NULL), CACHE_OK);
    cr_assert_str_eq(value, "v1");
    STATUS(fixture_get(&f, "other", value, sizeof(value), NULL), CACHE_NOT_FOUND);
}

Test(cache_ram, modes_know_whether_the_key_is_there)
{
    STATUS(fixture_store(&f, CACHE_REPLACE, "k", "a", 1, 0, 0, 0), CACHE_NOT_STORED);
    STATUS(fixture_store(&f, CACHE_APPEND, "k", "a", 1, 0, 0, 0), CACHE_NOT_STORED);
    STATUS(fixture_store(&f, CACHE_CAS, "k", "a", 1, 0, 0, 5), CACHE_NOT_FOUND);
    STATUS(fixture_store(&f, CACHE_ADD, "k", "a", 1, 7, 0, 0), CACHE_OK);
    STATUS(fixture_store(&f, CACHE_ADD, "k", "b", 1, 0, 0, 0), CACHE_NOT_STORED);
    STATUS(fixture_store(&f, CACHE_APPEND, "k", "bc", 2, 0, 0, 0), CACHE_OK);
    STATUS(fixture_store(&f, CACHE_PREPEND, "k", "x", 1, 0, 0, 0), CACHE_OK);
    struct cache_view view;
    STATUS(fixture_get(&f, "k", value, sizeof(value), &view), CACHE_OK);
    cr_assert_str_eq(value, "xabc");
    cr_assert_eq(view.client_flags, 7);
    STATUS(fixture_store(&f, CACHE_CAS, "k", "z", 1, 0, 0, view.cas + 1), CACHE_EXISTS);
    STATUS(fixture_store(&f, CACHE_CAS, "k", "z", 1, 0, 0, view.cas), CACHE_OK);
    STATUS(fixture_get(&f, "k", value, sizeof(value), &view), CACHE_OK);
    cr_assert_str_eq(value, "z");
}

Test(cache_ram, deleted_once)
{
    fixture_set(&f, "k", "v");
    STATUS(fixture_delete(&f, "k"), CACHE_OK);
    STATUS(fixture_delete(&f, "k"), CACHE_NOT_FOUND);
    cr_assert_eq(ram_count(), 0);
}

Test(cache_ram, numbers_count_up_and_down)
{
    uint64_t n;
    fixture_set(&f, "n", "10");
    STATUS(fixture_arith(&f, "n", false, 5, &n), CACHE_OK);
    cr_assert_eq(n, 15);
    STATUS(fixture_arith(&f, "n", false, 990, &n), CACHE_OK);
    cr_assert_eq(n, 1005);
    STATUS(fixture_arith(&f, "n", true, 1000, &n), CACHE_OK);
    cr_assert_eq(n, 5);
    STATUS(fixture_get(&f, "n", value, sizeof(value), NULL), CACHE_OK);
    cr_assert_str_eq(value, "5   ");
    STATUS(fixture_arith(&f, "n", true, 50, &n), CACHE_OK);
    cr_assert_eq(n, 0);
    fixture_set(&f, "t", "text");
    STATUS(fixture_arith(&f, "t", false, 1, &n), CACHE_NON_NUMERIC);
    STATUS(fixture_arith(&f, "none", false, 1, &n), CACHE_NOT_FOUND);
}

Test(cache_ram, expired_is_a_miss_and_its_memory_comes_back)
{
    fixture_store(&f, CACHE_SET, "k", "v", 1, 0, clock_exptime(100), 0);
    STATUS(fixture_get(&f, "k", value, sizeof(value), NULL), CACHE_OK);
    clock_shift(101);
    STATUS(fixture_get(&f, "k", value, sizeof(value), NULL), CACHE_NOT_FOUND);
    cr_assert_eq(ram_count(), 0);
}

Test(cache_ram, flush_all_kills_what_is_there_and_not_what_comes)
{
    fixture_set(&f, "old", "v");
    cache_flush_all(f.cache, 0);
    fixture_set(&f, "new", "v");
    STATUS(fixture_get(&f, "old", value, sizeof(value), NULL), CACHE_NOT_FOUND);
    STATUS(fixture_get(&f, "new", value, sizeof(value), NULL), CACHE_OK);
}

Test(cache_ram, full_memory_evicts_the_oldest)
{
    char key[32];
    memset(value, 'x', 100 * 1024);
    for (int i = 0; i < 2000; i++) {
        snprintf(key, sizeof(key), "key-%d", i);
        STATUS(fixture_store(&f, CACHE_SET, key, value, 100 * 1024, 0, 0, 0), CACHE_OK);
    }
    STATUS(fixture_get(&f, "key-0", value, sizeof(value), NULL), CACHE_NOT_FOUND);
    STATUS(fixture_get(&f, "key-1999", value, sizeof(value), NULL), CACHE_OK);
    cr_assert_gt(fixture_counter(&f, CACHE_N_evictions_no_flash), 1000);
}

/* ---- flash ---- */

Test(cache, the_index_leaves_room_for_items)
{
    cr_assert_eq(cache_index_limit(1 * MiB), 0);
    cr_assert_eq(cache_index_limit(2 * MiB), 0);
    cr_assert_eq(cache_index_limit(8 * MiB), 6 * MiB);
    cr_assert_eq(cache_index_limit(1 * GiB), GiB / 16 * 15);
}

Test(cache_flash, what_was_flushed_is_read_back)
{
    struct cache_view view;
    STATUS(fixture_store(&f, CACHE_SET, "k", "hello", 5, 42, 0, 0), CACHE_OK);
    fixture_flush(&f);
    cr_assert_eq(flash_count(), 1);
    cr_assert_eq(ram_count(), 0);
    STATUS(fixture_get(&f, "k", value, sizeof(value), &view), CACHE_OK);
    cr_assert_str_eq(value, "hello");
    cr_assert_eq(view.client_flags, 42);
    cr_assert(view.on_flash);
}

Test(cache_flash, verbs_that_change_bring_it_back_to_ram)
{
    uint64_t n;
    struct cache_view view, view2;
    fixture_set(&f, "n", "41");
    fixture_set(&f, "a", "one");
    fixture_set(&f, "t", "touched");
    fixture_get(&f, "t", value, sizeof(value), &view);
    fixture_flush(&f);
    STATUS(fixture_arith(&f, "n", false, 1, &n), CACHE_OK);
    cr_assert_eq(n, 42);
    STATUS(fixture_store(&f, CACHE_APPEND, "a", "two", 3, 0, 0, 0), CACHE_OK);
    STATUS(fixture_get(&f, "a", value, sizeof(value), NULL), CACHE_OK);
    cr_assert_str_eq(value, "onetwo");
    STATUS(fixture_touch(&f, "t", clock_exptime(50)), CACHE_OK);
    STATUS(fixture_get(&f, "t", value, sizeof(value), &view2), CACHE_OK);
    cr_assert_str_eq(value, "touched");
    cr_assert_eq(view.cas, view2.cas);
    cr_assert_eq(flash_count(), 0);
    cr_assert_eq(ram_count(), 3);
    clock_shift(51);
    STATUS(fixture_get(&f, "t", value, sizeof(value), NULL), CACHE_NOT_FOUND);
}

Test(cache_flash, add_and_delete_are_exact)
{
    fixture_set(&f, "k", "v");
    fixture_flush(&f);
    STATUS(fixture_store(&f, CACHE_ADD, "k", "w", 1, 0, 0, 0), CACHE_NOT_STORED);
    STATUS(fixture_delete(&f, "k"), CACHE_OK);
    STATUS(fixture_delete(&f, "k"), CACHE_NOT_FOUND);
    cr_assert_eq(flash_count(), 0);
    struct ext_info info;
    ext_info(f.ext, &info);
    cr_assert_eq(info.objects_used, 0);
    cr_assert_eq(info.bytes_used, 0);
    STATUS(fixture_store(&f, CACHE_ADD, "k", "w", 1, 0, 0, 0), CACHE_OK);
}

Test(cache_flash, an_overwrite_never_shows_the_old_value_again)
{
    fixture_set(&f, "k", "old");
    fixture_flush(&f);
    fixture_set(&f, "k", "new");
    STATUS(fixture_get(&f, "k", value, sizeof(value), NULL), CACHE_OK);
    cr_assert_str_eq(value, "new");
    /* both on flash, the old one not yet checked */
    fixture_flush(&f);
    cr_assert_eq(flash_count(), 2);
    STATUS(fixture_get(&f, "k", value, sizeof(value), NULL), CACHE_OK);
    cr_assert_str_eq(value, "new");
    cr_assert_eq(flash_count(), 1, "the look-up that met both settled it");
    fixture_settle(&f);
    cr_assert_eq(flash_count(), 1);
    STATUS(fixture_delete(&f, "k"), CACHE_OK);
    STATUS(fixture_get(&f, "k", value, sizeof(value), NULL), CACHE_NOT_FOUND);
}

Test(cache_flash, the_check_drops_the_overwritten_record)
{
    fixture_set(&f, "k", "old");
    fixture_flush(&f);
    fixture_set(&f, "k", "new");
    cr_assert_eq(flash_count(), 1);
    fixture_settle(&f);
    cr_assert_eq(flash_count(), 0);
    cr_assert_eq(fixture_counter(&f, CACHE_N_stale_drops), 1);
    STATUS(fixture_get(&f, "k", value, sizeof(value), NULL), CACHE_OK);
    cr_assert_str_eq(value, "new");
}

Test(cache_flash, an_expired_overwrite_does_not_uncover_the_old_value)
{
    fixture_set(&f, "k", "old");
    fixture_flush(&f);
    fixture_store(&f, CACHE_SET, "k", "new", 3, 0, clock_exptime(10), 0);
    clock_shift(11);
    STATUS(fixture_get(&f, "k", value, sizeof(value), NULL), CACHE_NOT_FOUND);
    STATUS(fixture_get(&f, "k", value, sizeof(value), NULL), CACHE_NOT_FOUND);
    cr_assert_eq(flash_count(), 0);
}

Test(cache_flash, deleting_an_unchecked_overwrite_deletes_both)
{
    fixture_set(&f, "k", "old");
    fixture_flush(&f);
    fixture_set(&f, "k", "new");
    STATUS(fixture_delete(&f, "k"), CACHE_OK);
    STATUS(fixture_get(&f, "k", value, sizeof(value), NULL), CACHE_NOT_FOUND);
    cr_assert_eq(flash_count(), 0);
}

Test(cache_flash, flush_all_reaches_flash)
{
    fixture_set(&f, "k", "v");
    fixture_flush(&f);
    cache_flush_all(f.cache, 0);
    STATUS(fixture_get(&f, "k", value, sizeof(value), NULL), CACHE_NOT_FOUND);
    STATUS(fixture_store(&f, CACHE_ADD, "k", "w", 1, 0, 0, 0), CACHE_OK);
}

/* As memcached does it: without cas, all of the second goes. */
Test(cache_flash, flush_all_without_cas_takes_its_second_along)
{
    f.config.use_cas = false;
    fixture_set(&f, "on flash", "v");
    fixture_flush(&f);
    fixture_set(&f, "in ram", "v");
    cache_flush_all(f.cache, 0);
    STATUS(fixture_get(&f, "on flash", value, sizeof(value), NULL), CACHE_NOT_FOUND);
    STATUS(fixture_get(&f, "in ram", value, sizeof(value), NULL), CACHE_NOT_FOUND);
    clock_shift(1);
    fixture_set(&f, "after", "v");
    STATUS(fixture_get(&f, "after", value, sizeof(value), NULL), CACHE_OK);
}

Test(cache_flash, what_was_flushed_stays_so_when_another_flush_is_planned)
{
    fixture_set(&f, "on flash", "v");
    fixture_flush(&f);
    fixture_set(&f, "in ram", "v");
    cache_flush_all(f.cache, 0);
    cache_flush_all(f.cache, clock_exptime(100));
    STATUS(fixture_get(&f, "on flash", value, sizeof(value), NULL), CACHE_NOT_FOUND);
    STATUS(fixture_get(&f, "in ram", value, sizeof(value), NULL), CACHE_NOT_FOUND);
}

Test(cache_flash, a_planned_flush_comes_and_stays_when_the_next_is_planned)
{
    fixture_set(&f, "on flash", "v");
    fixture_flush(&f);
    fixture_set(&f, "in ram", "v");
    cache_flush_all(f.cache, clock_exptime(100));
    STATUS(fixture_get(&f, "on flash", value, sizeof(value), NULL), CACHE_OK);
    STATUS(fixture_get(&f, "in ram", value, sizeof(value), NULL), CACHE_OK);
    clock_shift(101);
    fixture_set(&f, "after", "v");
    cache_flush_all(f.cache, clock_exptime(100));
    STATUS(fixture_get(&f, "on flash", value, sizeof(value), NULL), CACHE_NOT_FOUND);
    STATUS(fixture_get(&f, "in ram", value, sizeof(value), NULL), CACHE_NOT_FOUND);
    STATUS(fixture_get(&f, "after", value, sizeof(value), NULL), CACHE_OK);
    clock_shift(101);
    STATUS(fixture_get(&f, "after", value, sizeof(value), NULL), CACHE_NOT_FOUND);
}

Test(cache_flash, a_planned_flush_frees_the_pages_when_it_has_come)
{
    char key[32];
    memset(value, 'x', 8000);
    for (int i = 0; i < 1000; i++) {
        snprintf(key, sizeof(key), "key-%d", i);
        STATUS(fixture_store(&f, CACHE_SET, key, value, 8000, 0, 0, 0), CACHE_OK);
    }
    fixture_flush(&f);
    cr_assert_eq(ext_sync(f.ext, 120000), 0);
    cache_flush_all(f.cache, clock_exptime(100));
    cache_flush_planned(f.cache, clock_now_sec());
    clock_shift(101);
    cache_flush_planned(f.cache, clock_now_sec());
    while (flash_count() > 0)
        fixture_turn(&f);
    struct ext_info info;
    ext_info(f.ext, &info);
    cr_assert_eq(info.objects_expired, 1000);
}

Test(cache_flash, recache_brings_an_active_object_back_with_its_cas)
{
    struct cache_view before, after;
    atomic_store(&f.config.ext_recache_rate, 1);
    fixture_set(&f, "k", "v");
    fixture_get(&f, "k", value, sizeof(value), &before);
    fixture_flush(&f);
    for (int i = 0; i < 3; i++)
        STATUS(fixture_get(&f, "k", value, sizeof(value), &after), CACHE_OK);
    cr_assert_eq(ram_count(), 1);
    cr_assert_eq(flash_count(), 1);
    STATUS(fixture_get(&f, "k", value, sizeof(value), &after), CACHE_OK);
    cr_assert(!after.on_flash);
    cr_assert_eq(before.cas, after.cas);
}

/* ---- overwrites that the checks don't keep up with ---- */

Test(cache_flash, a_key_overwritten_again_and_again_does_not_fill_its_buckets)
{
    char text[32];
    for (unsigned i = 0; i < 3 * INDEX_MATCH_MAX; i++) {
        snprintf(text, sizeof(text), "value %u", i);
        STATUS(fixture_set(&f, "k", text), CACHE_OK);
        fixture_flush(&f);
    }
    STATUS(fixture_get(&f, "k", value, sizeof(value), NULL), CACHE_OK);
    cr_assert_str_eq(value, text);
    cr_assert_eq(flash_count(), 1);
}

Test(cache_flash, a_set_reads_what_the_full_queue_of_checks_would_forget)
{
    fixture_set(&f, "k", "old");
    fixture_flush(&f);
    for (unsigned i = 0; i < STALE_CHECKS_MAX; i++)
        stale_note_overwrite(f.cache, 1, 0);
    STATUS(fixture_set(&f, "k", "new"), CACHE_OK);
    cr_assert_eq(flash_count(), 0);
    cr_assert_eq(fixture_counter(&f, CACHE_N_stale_overflows), 0);
    fixture_settle(&f);
    STATUS(fixture_get(&f, "k", value, sizeof(value), NULL), CACHE_OK);
    cr_assert_str_eq(value, "new");
}

Test(cache_flash, nothing_is_dropped_while_flash_has_room)
{
    char key[32];
    memset(value, 'x', 2000);
    for (int i = 0; i < 20000; i++) {
        snprintf(key, sizeof(key), "key-%d", i);
        memcpy(value, key, strlen(key));
        STATUS(fixture_store(&f, CACHE_SET, key, value, 2000, 0, 0, 0), CACHE_OK);
        if (i % 3 == 0)
            fixture_flush(&f);
    }
    for (int i = 0; i < 20000; i++) {
        snprintf(key, sizeof(key), "key-%d", i);
        STATUS(fixture_get(&f, key, value, sizeof(value), NULL), CACHE_OK);
        cr_assert(memcmp(value, key, strlen(key)) == 0);
    }
    cr_assert_eq(ext_reconcile(f.ext), 0);
}

static void store_temporary(void)
{
    f.config.temp_lru = true;
    STATUS(fixture_store(&f, CACHE_SET, "k", "value", 5, 0, clock_now_sec() + f.config.temporary_ttl, 0), CACHE_OK);
    cr_assert_eq(lru_count(f.cache->lru, lru_id_of(1, LRU_TEMP)), 1);
}

Test(cache_flash, room_is_made_in_the_list_of_short_lived_items_without_waiting)
{
    store_temporary();
    cr_assert_eq(room_make(f.cache, 1, ROOM_EVICT), ROOM_MADE);
    cr_assert_eq(flash_count(), 1);
    STATUS(fixture_get(&f, "k", value, sizeof(value), NULL), CACHE_OK);
    cr_assert_str_eq(value, "value");
}

Test(cache_ram, room_is_made_in_all_lists_when_the_lru_has_become_flat)
{
    fixture_set(&f, "k", "value");
    cr_assert_eq(lru_count(f.cache->lru, lru_id_of(1, LRU_HOT)), 1);
    f.config.lru_segmented = false;
    cr_assert_eq(room_make(f.cache, 1, ROOM_EVICT), ROOM_MADE);
    cr_assert_eq(room_make(f.cache, 1, ROOM_EVICT), ROOM_MADE);
    STATUS(fixture_get(&f, "k", value, sizeof(value), NULL), CACHE_NOT_FOUND);
}

Test(cache_ram, short_lived_items_make_no_room_where_they_would_be_lost)
{
    store_temporary();
    cr_assert_eq(room_make(f.cache, 1, ROOM_EVICT), ROOM_NONE);
    STATUS(fixture_get(&f, "k", value, sizeof(value), NULL), CACHE_OK);
}

/* Damage to stored records on the device, which only reads see. */
/* Flips every bit of the first bytes of flash; a second call restores them. */
static void spoil_flash(uint64_t bytes)
{
    char path[96];
    snprintf(path, sizeof(path), "%s/flash", f.dir);
    int fd = open(path, O_RDWR);
    cr_assert_geq(fd, 0);
    for (uint64_t at = 0; at < bytes; at += sizeof(value)) {
        cr_assert_eq(pread(fd, value, sizeof(value), (off_t)at), sizeof(value));
        for (size_t i = 0; i < sizeof(value); i++)
            value[i] = (char)~value[i];
        cr_assert_eq(pwrite(fd, value, sizeof(value), (off_t)at), sizeof(value));
    }
    close(fd);
}

/* 40 MB: the first of it has left the write buffers, which hold 32. */
#define MANY 5000u

static void set_many(unsigned count, const char *stamp)
{
    char key[32];
    memset(value, 'x', 8000);
    for (unsigned i = 0; i < count; i++) {
        snprintf(key, sizeof(key), "key-%u", i);
        snprintf(value, 64, "%s %s", key, stamp);
        STATUS(fixture_store(&f, CACHE_SET, key, value, 8000, 0, 0, 0), CACHE_OK);
    }
    fixture_flush(&f);
}

Test(cache_flash, evictions_for_a_full_index_are_counted_as_such)
{
    struct cache_totals totals;
    struct ext_info info;
    set_many(MANY, "x");
    cr_assert_eq(ext_sync(f.ext, 120000), 0);
    ext_evict_oldest(f.ext);
    do {
        fixture_turn(&f);
        ext_info(f.ext, &info);
    } while (info.page_evictions == 0);
    cache_totals(f.cache, &totals);
    cr_assert_gt(totals.evictions_index_full, 0);
    cr_assert_eq(totals.evictions_index_full, MANY - flash_count());
}

static void note_done(struct cache_op *op) { *(bool *)op->owner = true; }

static bool has_wake(void)
{
    struct pollfd p = {.fd = cache_worker_wake_fd(f.worker), .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

/* What lacks memory though write buffers are free is tried again after a while, not without a pause. */
Test(cache_flash, an_op_that_no_write_buffer_helps_waits_without_spinning)
{
    struct cache_op op;
    bool done = false;
    arena_set_ceiling(f.arena, 1);
    cache_op_init(&op, CACHE_ALLOC, "k", 1, cache_hash(f.cache, "k", 1));
    op.value_bytes = 10;
    op.done = note_done;
    op.owner = &done;
    cr_assert(!cache_run(f.worker, &op), "there is memory");
    for (unsigned i = 0; i < 10; i++) {
        cache_worker_poll(f.worker);
        int64_t us = cache_worker_timeout_us(f.worker);
        cr_assert(!done && !has_wake());
        cr_assert(us >= 0 && us <= 1000, "%" PRId64, us);
    }
    arena_set_ceiling(f.arena, UINT64_MAX);
    cache_worker_poll(f.worker);
    cr_assert(done);
    STATUS(op.status, CACHE_OK);
    cache_release(f.worker, &op);
}

static struct shortage shortage = {.ignores_group = true};

static void make_room(struct fixture *fx) { shortage_step(fx->cache, &shortage, clock_now_sec()); }

/* What is kept for the index is no more than what items have, however little there is: else no set would succeed. */
Test(cache_flash, items_have_their_part_of_what_little_memory_there_is)
{
    char key[32];
    arena_set_ceiling(f.arena, arena_touched_bytes(f.arena) + 300 * KiB);
    f.idle = make_room;
    memset(value, 'v', 1000);
    for (unsigned i = 0; i < 2000; i++) {
        snprintf(key, sizeof(key), "key-%u", i);
        STATUS(fixture_store(&f, CACHE_SET, key, value, 1000, 0, 0, 0), CACHE_OK);
        fixture_turn(&f);
    }
    cr_assert(arena_is_short(f.arena));
    cr_assert_geq(flash_count(), 1400u);
    f.idle = NULL;
    arena_set_ceiling(f.arena, UINT64_MAX);
}

Test(cache_flash, recache_does_not_bring_back_what_was_overwritten_during_the_read)
{
    struct cache_op op;
    bool done = false;
    set_many(MANY, "old");
    for (int i = 0; i < 3; i++)
        STATUS(fixture_get(&f, "key-0", value, sizeof(value), NULL), CACHE_OK);
    atomic_store(&f.config.ext_recache_rate, 1);
    cache_op_init(&op, CACHE_GET, "key-0", 5, cache_hash(f.cache, "key-0", 5));
    op.done = note_done;
    op.owner = &done;
    cr_assert(!cache_run(f.worker, &op), "it is on the device");
    fixture_set(&f, "key-0", "new");
    fixture_flush(&f);
    while (!done)
        fixture_turn(&f);
    STATUS(op.status, CACHE_OK);
    cache_release(f.worker, &op);
    fixture_settle(&f);
    STATUS(fixture_get(&f, "key-0", value, sizeof(value), NULL), CACHE_OK);
    cr_assert_str_eq(value, "new");
}

Test(cache_flash, an_unreadable_old_record_does_not_take_the_new_value_with_it)
{
    char key[32], want[64];
    set_many(MANY, "old");
    fixture_settle(&f);
    cr_assert_eq(ext_sync(f.ext, 120000), 0);
    spoil_flash(8 * MiB);
    set_many(MANY, "new");
    fixture_settle(&f);
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(key, sizeof(key), "key-%u", i);
        snprintf(want, sizeof(want), "%s new", key);
        STATUS(fixture_get(&f, key, value, sizeof(value), NULL), CACHE_OK);
        cr_assert_eq(strncmp(value, want, strlen(want)), 0);
    }
    cr_assert_eq(flash_count() + ram_count(), MANY);
}

static unsigned count_hits(void)
{
    char key[32];
    unsigned hits = 0;
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(key, sizeof(key), "key-%u", i);
        hits += fixture_get(&f, key, value, sizeof(value), NULL) == CACHE_OK;
    }
    return hits;
}

Test(cache_flash, wrong_bytes_are_a_miss_until_the_device_tells_the_truth)
{
    set_many(MANY, "old");
    cr_assert_eq(ext_sync(f.ext, 120000), 0);
    spoil_flash(8 * MiB);
    cr_assert_lt(count_hits(), MANY - 500);
    spoil_flash(8 * MiB);
    cr_assert_eq(count_hits(), MANY);
    cr_assert_eq(ext_reconcile(f.ext), 0);
}

Test(cache_flash, wrong_bytes_are_forgotten_when_the_cache_is_filled_again)
{
    set_many(MANY, "old");
    cr_assert_eq(ext_sync(f.ext, 120000), 0);
    spoil_flash(8 * MiB);
    cr_assert_lt(count_hits(), MANY - 500);
    set_many(MANY, "new");
    fixture_settle(&f);
    cr_assert_eq(count_hits(), MANY);
    cr_assert_eq(flash_count() + ram_count(), MANY);
    cr_assert_eq(ext_reconcile(f.ext), 0);
}

/* ---- keys that the index can't tell apart ---- */

static void open_tags(void) { fixture_open_tags(&f, 64, 160); }

TestSuite(cache_tags, .init = open_tags, .fini = close_it);

Test(cache_tags, deleting_an_overwritten_key_leaves_another_of_the_same_tag)
{
    const char *one = sim_tags_key(0), *other = sim_tags_key(1);
    fixture_set(&f, one, "old");
    fixture_set(&f, other, "innocent");
    fixture_flush(&f);
    fixture_set(&f, one, "new");
    STATUS(fixture_delete(&f, one), CACHE_OK);
    cr_assert_eq(fixture_counter(&f, CACHE_N_tag_collisions), 1);
    STATUS(fixture_get(&f, other, value, sizeof(value), NULL), CACHE_OK);
    cr_assert_str_eq(value, "innocent");
    STATUS(fixture_get(&f, one, value, sizeof(value), NULL), CACHE_NOT_FOUND);
    cr_assert_eq(flash_count(), 1);
}

Test(cache_tags, an_expired_key_leaves_another_of_the_same_tag)
{
    const char *one = sim_tags_key(0), *other = sim_tags_key(1);
    fixture_set(&f, other, "innocent");
    fixture_flush(&f);
    fixture_store(&f, CACHE_SET, one, "x", 1, 0, CLOCK_EXPIRED_SEC, 0);
    STATUS(fixture_get(&f, one, value, sizeof(value), NULL), CACHE_NOT_FOUND);
    cr_assert_eq(ram_count(), 0);
    STATUS(fixture_get(&f, other, value, sizeof(value), NULL), CACHE_OK);
    cr_assert_str_eq(value, "innocent");
    cr_assert_eq(fixture_counter(&f, CACHE_N_evictions_same_tag), 0);
}

/* ---- dropping one of several words of a tag ---- */

static uint64_t hash_of(const char *key) { return cache_hash(f.cache, key, strlen(key)); }

/* Places of the flash words of the key's tag, by rank; how many. */
static unsigned places_of(const char *key, ext_place places[INDEX_MATCH_MAX])
{
    index_slot *slots[INDEX_MATCH_MAX];
    uint64_t hash = hash_of(key);
    struct lock *lock = index_lock(f.index, hash);
    unsigned count = 0;
    lock_take(lock);
    unsigned n = index_match(f.index, hash, slots);
    for (unsigned rank = 0; rank <= INDEX_RANK_MAX; rank++)
        for (unsigned i = 0; i < n; i++) {
            index_word w = index_load(slots[i]);
            if (index_kind(f.index, w) == INDEX_FLASH && index_rank(f.index, w) == rank)
                places[count++] = index_place(f.index, w);
        }
    lock_release(lock);
    return count;
}

static enum ext_dropped drop(const char *key, ext_place place)
{
    struct ext_callbacks cb = cache_ext_callbacks(f.cache);
    return cb.dropped(cb.ctx, hash_of(key), place, EXT_DROP_EVICTED, 64);
}

static uint64_t evicted(void)
{
    struct ext_info info;
    ext_info(f.ext, &info);
    return info.objects_evicted;
}

/* By the pages' own count. */
static uint64_t on_flash(void)
{
    struct ext_info info;
    ext_info(f.ext, &info);
    return info.objects_used;
}

static void store_on_flash(const char *key, const char *text)
{
    STATUS(fixture_set(&f, key, text), CACHE_OK);
    fixture_flush(&f);
}

#define IS(key, text)                                                                              \
    do {                                                                                           \
        STATUS(fixture_get(&f, key, value, sizeof(value), NULL), CACHE_OK);                        \
        cr_assert_str_eq(value, text);                                                             \
    } while (0)

/* k has two values on flash: where, the older first; synced: not in a write buffer any more. */
static void two_values(ext_place places[INDEX_MATCH_MAX], bool synced)
{
    store_on_flash("k", "old");
    store_on_flash("k", "new");
    if (synced)
        cr_assert_eq(ext_sync(f.ext, 10000), 0);
    cr_assert_eq(places_of("k", places), 2);
}

static uint64_t copies_bytes(void)
{
    struct ext_info info;
    ext_info(f.ext, &info);
    return info.read_copies_bytes;
}

/* While a value waits for its client, what was read besides it would hold a buffer that nobody could give back. */
Test(cache_flash, a_get_that_has_read_two_values_keeps_one)
{
    enum { BYTES = 20000 };
    ext_place places[INDEX_MATCH_MAX];
    struct cache_op op;
    memset(value, 'o', BYTES);
    for (unsigned i = 0; i < 2; i++) {
        STATUS(fixture_store(&f, CACHE_SET, "k", value, BYTES, 0, 0, 0), CACHE_OK);
        fixture_flush(&f);
        memset(value, 'n', BYTES);
    }
    cr_assert_eq(places_of("k", places), 2);
    cache_op_init(&op, CACHE_GET, "k", 1, hash_of("k"));
    fixture_run(&f, &op);
    STATUS(op.status, CACHE_OK);
    cr_assert_eq(memcmp(op.view.value, value, BYTES), 0);
    cr_assert(copies_bytes() >= BYTES && copies_bytes() < 2 * BYTES, "%" PRIu64, copies_bytes());
    cache_put_away(&op);
    cr_assert_eq(copies_bytes(), 0);
    cache_release(f.worker, &op);
}

Test(cache_flash, dropping_the_older_of_two_values_leaves_the_younger)
{
    ext_place places[INDEX_MATCH_MAX];
    two_values(places, false);
    cr_assert_eq(drop("k", places[0]), EXT_DROPPED);
    cr_assert_eq(flash_count(), 1);
    IS("k", "new");
    fixture_settle(&f);
    IS("k", "new");
    cr_assert_eq(fixture_counter(&f, CACHE_N_evictions_same_tag), 0);
}

Test(cache_flash, dropping_the_younger_of_two_values_drops_the_older_first)
{
    ext_place places[INDEX_MATCH_MAX];
    two_values(places, false);
    cr_assert_eq(drop("k", places[1]), EXT_DROPPED_LATER);
    cr_assert_eq(evicted(), 0);
    fixture_settle(&f);
    cr_assert_eq(evicted(), 1);
    cr_assert_eq(flash_count(), 0);
    STATUS(fixture_get(&f, "k", value, sizeof(value), NULL), CACHE_NOT_FOUND);
    cr_assert_eq(fixture_counter(&f, CACHE_N_evictions_same_tag), 0);
    cr_assert_eq(ext_reconcile(f.ext), 0);
}

/* Writes k's record with this value to another page, as a rescue does. Where it is then. */
static ext_place rescue(const char *text, ext_place old)
{
    struct ext_callbacks cb = cache_ext_callbacks(f.cache);
    struct ext_record_in in = {.hash = hash_of("k"), .key = "k", .key_bytes = 1, .value = text,
                               .value_bytes = (uint32_t)strlen(text), .time_unix = 1};
    ext_place moved;
    unsigned len_class;
    cr_assert_eq(ext_append(f.ext, EXT_BUCKET_COMPACT, &in, &moved, &len_class), 0);
    cr_assert(cb.moved(cb.ctx, in.hash, old, moved, len_class));
    return moved;
}

/* A rescue writes the older value behind the younger one, so places don't tell the order. */
Test(cache_flash, a_rescued_older_value_stays_the_older)
{
    ext_place places[INDEX_MATCH_MAX], moved;
    store_on_flash("k", "old");
    store_on_flash("k", "new");
    cr_assert_eq(places_of("k", places), 2);
    moved = rescue("old", places[0]);
    cr_assert_eq(places_of("k", places), 2);
    cr_assert_eq(places[0], moved);
    cr_assert_eq(drop("k", moved), EXT_DROPPED);
    IS("k", "new");
    /* The check finds the moved record as well. */
    store_on_flash("k", "newer");
    cr_assert_eq(places_of("k", places), 2);
    cr_assert_eq(drop("k", places[1]), EXT_DROPPED_LATER);
    fixture_settle(&f);
    cr_assert_eq(flash_count(), 0);
    cr_assert_eq(on_flash(), 0); /* neither the old nor the new place is counted */
}

Test(cache_flash, a_rescued_younger_value_stays_the_younger)
{
    ext_place places[INDEX_MATCH_MAX], moved;
    two_values(places, false);
    moved = rescue("new", places[1]);
    cr_assert_eq(on_flash(), 2);
    cr_assert_eq(places_of("k", places), 2);
    cr_assert_eq(places[1], moved);
    cr_assert_eq(drop("k", places[0]), EXT_DROPPED);
    fixture_settle(&f);
    cr_assert_eq(flash_count(), 1);
    IS("k", "new");
}

/* Keys n and n + 1 can't be told apart, not even by their lengths. */
static unsigned pair_of_one_length(void)
{
    unsigned n = 0;
    while (strlen(sim_tags_key(n)) != strlen(sim_tags_key(n + 1)))
        n += 2;
    return n;
}

Test(cache_tags, dropping_one_leaves_another_key_of_the_tag)
{
    const char *one = sim_tags_key(pair_of_one_length()), *other = sim_tags_key(pair_of_one_length() + 1);
    ext_place places[INDEX_MATCH_MAX];
    store_on_flash(other, "innocent");
    store_on_flash(one, "old");
    store_on_flash(one, "new");
    cr_assert_eq(places_of(one, places), 3);
    cr_assert_eq(drop(one, places[2]), EXT_DROPPED_LATER);
    fixture_settle(&f);
    cr_assert_eq(flash_count(), 1);
    IS(other, "innocent");
    STATUS(fixture_get(&f, one, value, sizeof(value), NULL), CACHE_NOT_FOUND);
    cr_assert_eq(fixture_counter(&f, CACHE_N_evictions_same_tag), 0);
    cr_assert_eq(evicted(), 1);
}

/* Stores the pair again and again until the younger one is at the place. */
static void fill_place_again(const char *key, ext_place place)
{
    ext_place places[INDEX_MATCH_MAX] = {0};
    for (unsigned i = 0; places[1] != place; i++) {
        cr_assert_lt(i, 200u, "no page was used again");
        if (i > 0) {
            STATUS(fixture_delete(&f, key), CACHE_OK);
            cr_assert_eq(ext_sync(f.ext, 10000), 0);
        }
        store_on_flash(key, "next");
        store_on_flash(key, "last");
        cr_assert_eq(places_of(key, places), 2);
    }
}

/* The record is gone, and its page has been reused, before the check for it runs. */
Test(cache_flash, a_delayed_drop_leaves_a_newer_record_at_its_place)
{
    ext_place places[INDEX_MATCH_MAX];
    two_values(places, false);
    cr_assert_eq(drop("k", places[1]), EXT_DROPPED_LATER);
    STATUS(fixture_delete(&f, "k"), CACHE_OK);
    cr_assert_eq(ext_sync(f.ext, 10000), 0);
    fill_place_again("k", places[1]);
    fixture_settle(&f);
    IS("k", "last");
    cr_assert_eq(flash_count(), 1);
    cr_assert_eq(evicted(), 0);
    cr_assert_eq(ext_reconcile(f.ext), 0);
}

/* With many values of one tag the ranks run out; then the records are read to find the order. */
Test(cache_tags, values_without_a_rank_of_their_own_are_told_apart)
{
    const char *one = sim_tags_key(0), *other = sim_tags_key(1);
    ext_place places[INDEX_MATCH_MAX];
    char text[16];
    for (unsigned i = 0; i < 3; i++) {
        snprintf(text, sizeof(text), "one %u", i);
        store_on_flash(one, text);
        snprintf(text, sizeof(text), "other %u", i);
        store_on_flash(other, text);
    }
    unsigned n = places_of(one, places);
    cr_assert_geq(n, 4);
    for (unsigned i = 0; i < n; i++) /* the oldest one's page, then the next .. goes */
        if (i + 2 < n)
            cr_assert_neq(drop(one, places[i]), EXT_DROPPED_BUSY);
    fixture_settle(&f);
    IS(one, "one 2");
    IS(other, "other 2");
    cr_assert_eq(fixture_counter(&f, CACHE_N_evictions_same_tag), 0);
}

Test(cache_flash, a_lost_check_is_found_by_the_walk)
{
    struct stale_check lost;
    uint64_t at = 0;
    store_on_flash("k", "old");
    store_on_flash("k", "new");
    while (stale_take(&f.cache->stale, &lost))
        stale_end(&f.cache->stale, &lost, false);
    fixture_settle(&f);
    cr_assert_eq(flash_count(), 2);
    atomic_store(&f.cache->stale.walk_wanted, true);
    while (stale_walk_step(f.worker, &at))
        ;
    fixture_settle(&f);
    cr_assert_eq(flash_count(), 1);
    IS("k", "new");
}

/* Forgets the queued checks, as if their queue had been full. */
static void lose_checks(void)
{
    struct stale_check lost;
    while (stale_take(&f.cache->stale, &lost))
        stale_end(&f.cache->stale, &lost, false);
}

Test(cache_flash, the_walk_finds_an_overwritten_record_under_its_item)
{
    uint64_t at = 0;
    store_on_flash("k", "old");
    STATUS(fixture_set(&f, "k", "new"), CACHE_OK);
    lose_checks();
    atomic_store(&f.cache->stale.walk_wanted, true);
    while (stale_walk_step(f.worker, &at))
        ;
    fixture_settle(&f);
    cr_assert_eq(flash_count(), 0);
    IS("k", "new");
}

/* A check that drops one word reads only words that it may hide; the item still hides younger ones. */
Test(cache_tags, an_item_goes_on_hiding_what_a_check_has_not_read)
{
    const char *one = sim_tags_key(0), *other = sim_tags_key(1);
    ext_place places[INDEX_MATCH_MAX];
    store_on_flash(one, "oldest");
    store_on_flash(other, "other");
    store_on_flash(one, "old");
    STATUS(fixture_set(&f, one, "new"), CACHE_OK);
    lose_checks();
    cr_assert_eq(places_of(one, places), 3);
    cr_assert_eq(drop(one, places[1]), EXT_DROPPED_LATER); /* reads it and older ones */
    fixture_settle(&f);
    cr_assert_eq(flash_count(), 1);
    IS(one, "new");
    STATUS(fixture_delete(&f, one), CACHE_OK);
    STATUS(fixture_get(&f, one, value, sizeof(value), NULL), CACHE_NOT_FOUND);
    STATUS(fixture_get(&f, other, value, sizeof(value), NULL), CACHE_NOT_FOUND);
}

static char *guarded[2]; /* pages of the index */
static void *volatile first_store;

static void on_store(int sig, siginfo_t *info, void *context)
{
    (void)sig, (void)context;
    first_store = first_store ? first_store : info->si_addr;
    for (unsigned i = 0; i < ARRAY_COUNT(guarded); i++)
        mprotect(guarded[i], 4096, PROT_READ | PROT_WRITE);
}

/* A kill between the two stores must not leave the older value without the word that hides it. */
Test(cache_flash, hidden_words_go_before_the_word_that_hides_them)
{
    index_slot *slots[INDEX_MATCH_MAX], *ram = NULL, *flash = NULL;
    uint64_t hash = cache_hash(f.cache, "k", 1);
    store_on_flash("k", "old");
    STATUS(fixture_set(&f, "k", "new"), CACHE_OK);
    lock_take(index_lock(f.index, hash));
    for (unsigned i = index_match(f.index, hash, slots); i-- > 0;)
        *(index_kind(f.index, index_load(slots[i])) == INDEX_RAM ? &ram : &flash) = slots[i];
    cr_assert(ram && flash);
    struct item *it = item_at(f.cache, index_handle(f.index, index_load(ram)));
    struct sigaction action = {.sa_sigaction = on_store, .sa_flags = SA_SIGINFO};
    cr_assert_eq(sigaction(SIGSEGV, &action, NULL), 0);
    guarded[0] = (char *)round_down((uintptr_t)ram, 4096);
    guarded[1] = (char *)round_down((uintptr_t)flash, 4096);
    for (unsigned i = 0; i < ARRAY_COUNT(guarded); i++)
        cr_assert_eq(mprotect(guarded[i], 4096, PROT_READ), 0);
    cr_assert_eq(item_unlink_hiding(f.cache, it, hash), 1u);
    cr_assert_eq(first_store, (void *)flash);
    lock_release(index_lock(f.index, hash));
    STATUS(fixture_get(&f, "k", value, sizeof(value), NULL), CACHE_NOT_FOUND);
}

Test(cache_flash, what_has_expired_or_was_flushed_is_not_worth_rescuing)
{
    const struct ext_callbacks cb = cache_ext_callbacks(f.cache);
    uint32_t now = (uint32_t)clock_unix_now_sec();
    cr_assert(cb.is_fresh(cb.ctx, 0, now));
    cr_assert(cb.is_fresh(cb.ctx, now + 100, now));
    cr_assert_not(cb.is_fresh(cb.ctx, now - 1, now - 10));
}

/* Memory is wanted while a dead item still hides an older value: the item goes to flash. */
Test(cache_flash, a_dead_item_hides_the_older_value_from_flash_too)
{
    store_on_flash("k", "old");
    fixture_store(&f, CACHE_SET, "k", "x", 1, 0, CLOCK_EXPIRED_SEC, 0);
    for (unsigned cls = 1; ram_count() > 0 && cls <= slab_class_count(f.slab); cls++)
        while (room_make(f.cache, cls, ROOM_EVICT) == ROOM_MADE)
            ;
    cr_assert_eq(ram_count(), 0);
    cr_assert_eq(flash_count(), 2);
    STATUS(fixture_get(&f, "k", value, sizeof(value), NULL), CACHE_NOT_FOUND);
    fixture_settle(&f);
    STATUS(fixture_get(&f, "k", value, sizeof(value), NULL), CACHE_NOT_FOUND);
    cr_assert_eq(flash_count(), 0);
}

Test(cache_flash, a_dead_item_is_replaced_without_reading_what_it_hides)
{
    store_on_flash("k", "old");
    fixture_store(&f, CACHE_SET, "k", "x", 1, 0, CLOCK_EXPIRED_SEC, 0);
    STATUS(fixture_set(&f, "k", "new"), CACHE_OK);
    cr_assert_eq(ram_count(), 1);
    cr_assert_eq(flash_count(), 1);
    IS("k", "new");
    STATUS(fixture_delete(&f, "k"), CACHE_OK);
    STATUS(fixture_get(&f, "k", value, sizeof(value), NULL), CACHE_NOT_FOUND);
    cr_assert_eq(flash_count(), 0);
}

/* ---- several words, and one can't be read ---- */

/* Damages the record at the place, on flash and in a buffer that still holds it. */
static void spoil_place(ext_place place)
{
    struct extstore *e = f.ext;
    char path[96], bytes[EXT_GRANULE_BYTES];
    uint64_t slot = ext_place_slot(e, place), in_slot = (place - ext_slot_place(e, slot)) * EXT_GRANULE_BYTES;
    snprintf(path, sizeof(path), "%s/flash", f.dir);
    int fd = open(path, O_RDWR);
    cr_assert_geq(fd, 0);
    memset(bytes, 0xa5, sizeof(bytes));
    cr_assert_eq(pwrite(fd, bytes, sizeof(bytes), (off_t)(ext_slot_offset(e, slot) + in_slot)), sizeof(bytes));
    close(fd);
    for (uint32_t i = 0; i < e->wbuf_count; i++)
        if (e->wbufs[i].slot == slot)
            memcpy(e->wbufs[i].memory + in_slot, bytes, sizeof(bytes));
}

Test(cache_flash, an_unreadable_younger_value_does_not_uncover_the_older)
{
    store_on_flash("k", "old");
    cr_assert_eq(ext_sync(f.ext, 10000), 0);
    ext_place places[INDEX_MATCH_MAX];
    store_on_flash("k", "new");
    cr_assert_eq(ext_sync(f.ext, 10000), 0);
    cr_assert_eq(places_of("k", places), 2);
    spoil_place(places[1]);
    STATUS(fixture_get(&f, "k", value, sizeof(value), NULL), CACHE_NOT_FOUND);
    cr_assert_eq(flash_count(), 2, "a get leaves what it can't read");
    STATUS(fixture_store(&f, CACHE_ADD, "k", "add", 3, 0, 0, 0), CACHE_NO_MEMORY);
    STATUS(fixture_get(&f, "k", value, sizeof(value), NULL), CACHE_NOT_FOUND);
    STATUS(fixture_set(&f, "k", "set"), CACHE_OK);
    IS("k", "set");
    STATUS(fixture_delete(&f, "k"), CACHE_OK);
    STATUS(fixture_get(&f, "k", value, sizeof(value), NULL), CACHE_NOT_FOUND);
    cr_assert_eq(flash_count(), 0);
}

Test(cache_flash, an_unreadable_older_value_does_not_hide_the_younger)
{
    ext_place places[INDEX_MATCH_MAX];
    two_values(places, true);
    spoil_place(places[0]);
    IS("k", "new");
    /* It goes with the younger one, since it may be the same key's. */
    cr_assert_eq(drop("k", places[1]), EXT_DROPPED_LATER);
    fixture_settle(&f);
    cr_assert_eq(flash_count(), 0);
    cr_assert_eq(fixture_counter(&f, CACHE_N_evictions_same_tag), 1);
}

/* ---- sets that would be refused ---- */

/* Fills the buckets of the key's shard, which can't grow, with words that no look-up meets. */
static void fill_shard(const char *key)
{
    struct lock *lock = index_lock(f.index, hash_of(key));
    unsigned shard = index_shard_of(f.index, hash_of(key)), refused = 0;
    index_set_limit(f.index, 0);
    lock_take(lock);
    for (uint64_t n = 0; refused < 10000; n++) {
        uint64_t hash = cache_hash(f.cache, (const char *)&n, sizeof(n));
        if (index_shard_of(f.index, hash) == shard &&
            index_insert(f.index, hash, index_make_ram(f.index, 1, 0)) != 0)
            refused++;
    }
    lock_release(lock);
}

/* A set that finds the index full takes the place of the old value, which it has not read; one of a key that isn't there is
 * refused, and the key still isn't there. Other stores that are refused leave the old value. */
Test(cache_flash, a_refused_set_leaves_no_old_value)
{
    char other[32];
    store_on_flash("k", "old");
    cr_assert_eq(ext_sync(f.ext, 10000), 0);
    atomic_store(&f.config.ext_max_sleep, 0);
    fill_shard("k");
    for (unsigned i = 0; i == 0 || index_shard_of(f.index, hash_of(other)) != index_shard_of(f.index, hash_of("k")); i++)
        snprintf(other, sizeof(other), "other-%u", i);
    STATUS(fixture_store(&f, CACHE_ADD, other, "new", 3, 0, 0, 0), CACHE_NO_MEMORY);
    STATUS(fixture_set(&f, other, "new"), CACHE_NO_MEMORY);
    STATUS(fixture_get(&f, other, value, sizeof(value), NULL), CACHE_NOT_FOUND);
    STATUS(fixture_store(&f, CACHE_ADD, "k", "new", 3, 0, 0, 0), CACHE_NOT_STORED);
    IS("k", "old");
    STATUS(fixture_set(&f, "k", "new"), CACHE_OK);
    IS("k", "new");
    cr_assert_eq(flash_count(), 0);
    STATUS(fixture_delete(&f, "k"), CACHE_OK);
    STATUS(fixture_get(&f, "k", value, sizeof(value), NULL), CACHE_NOT_FOUND);
    cr_assert_eq(ext_reconcile(f.ext), 0);
}

/* Turns over the first bytes of the record at the place, wherever they are; once more, and it is readable. */
static void turn_place(ext_place place)
{
    struct extstore *e = f.ext;
    char path[96], bytes[EXT_GRANULE_BYTES];
    uint64_t slot = ext_place_slot(e, place), in_slot = (place - ext_slot_place(e, slot)) * EXT_GRANULE_BYTES;
    off_t at = (off_t)(ext_slot_offset(e, slot) + in_slot);
    snprintf(path, sizeof(path), "%s/flash", f.dir);
    int fd = open(path, O_RDWR);
    cr_assert_geq(fd, 0);
    cr_assert_eq(pread(fd, bytes, sizeof(bytes), at), sizeof(bytes));
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (char)~bytes[i];
    cr_assert_eq(pwrite(fd, bytes, sizeof(bytes), at), sizeof(bytes));
    close(fd);
    for (uint32_t i = 0; i < e->wbuf_count; i++)
        for (size_t k = 0; k < sizeof(bytes) && e->wbufs[i].slot == slot; k++)
            e->wbufs[i].memory[in_slot + k] = (char)~e->wbufs[i].memory[in_slot + k];
}

/* The key has an old value and a new one on flash; those of the mask (1: old, 2: new) can't be read for a while.
 * What a set stores in that time is the newest from then on. */
static void set_while_unreadable(unsigned mask, bool flush_before, bool flush_after)
{
    ext_place places[INDEX_MATCH_MAX];
    two_values(places, true);
    for (unsigned i = 0; i < 2; i++)
        if (mask & 1u << i)
            turn_place(places[i]);
    if (mask & 2)
        STATUS(fixture_get(&f, "k", value, sizeof(value), NULL), CACHE_NOT_FOUND);
    else
        IS("k", "new");
    STATUS(fixture_set(&f, "k", "newest"), CACHE_OK);
    IS("k", "newest");
    if (flush_before)
        fixture_flush(&f);
    IS("k", "newest");
    fixture_settle(&f);
    IS("k", "newest");
    for (unsigned i = 0; i < 2; i++)
        if (mask & 1u << i)
            turn_place(places[i]);
    IS("k", "newest");
    if (flush_after)
        fixture_flush(&f);
    IS("k", "newest");
    atomic_store(&f.cache->stale.walk_wanted, true);
    for (uint64_t at = 0; stale_walk_step(f.worker, &at);)
        ;
    fixture_settle(&f);
    IS("k", "newest");
    cr_assert_eq(flash_count() + ram_count(), 1);
    STATUS(fixture_delete(&f, "k"), CACHE_OK);
    STATUS(fixture_get(&f, "k", value, sizeof(value), NULL), CACHE_NOT_FOUND);
    cr_assert_eq(flash_count() + ram_count(), 0);
    cr_assert_eq(ext_reconcile(f.ext), 0);
}

Test(cache_flash, a_set_while_values_cannot_be_read_stays_the_newest)
{
    for (unsigned mask = 1; mask <= 3; mask++)
        for (unsigned when = 0; when < 4; when++)
            set_while_unreadable(mask, when & 1, when & 2);
}

Test(cache_flash, a_miss_while_the_newest_cannot_be_read_ends_when_it_can)
{
    ext_place places[INDEX_MATCH_MAX];
    two_values(places, true);
    turn_place(places[1]);
    for (unsigned i = 0; i < 5; i++) {
        STATUS(fixture_get(&f, "k", value, sizeof(value), NULL), CACHE_NOT_FOUND);
        fixture_settle(&f);
    }
    turn_place(places[1]);
    IS("k", "new");
    cr_assert_eq(flash_count(), 1);
}

Test(cache_flash, a_delete_while_the_newest_cannot_be_read_is_final)
{
    ext_place places[INDEX_MATCH_MAX];
    two_values(places, true);
    turn_place(places[1]);
    STATUS(fixture_delete(&f, "k"), CACHE_NOT_FOUND);
    turn_place(places[1]);
    STATUS(fixture_get(&f, "k", value, sizeof(value), NULL), CACHE_NOT_FOUND);
    cr_assert_eq(flash_count(), 0);
}

/* A verb with its options, and what it answers about a key whose value can't be read now. */
struct unread_answer {
    const char *name;
    enum cache_verb verb;
    enum cache_store_mode mode;
    uint32_t options;
    enum cache_status status;
};

static const struct unread_answer unread_answers[] = {
    {"get", CACHE_GET, 0, 0, CACHE_NOT_FOUND},
    {"gat", CACHE_GET, 0, CACHE_F_TOUCH | CACHE_F_GAT, CACHE_NOT_FOUND},
    {"mg T", CACHE_GET, 0, CACHE_F_META | CACHE_F_TOUCH, CACHE_NOT_FOUND},
    {"mg R", CACHE_GET, 0, CACHE_F_META | CACHE_F_RECACHE, CACHE_NOT_FOUND},
    {"mg N", CACHE_GET, 0, CACHE_F_META | CACHE_F_VIVIFY, CACHE_NOT_FOUND},
    {"touch", CACHE_TOUCH, 0, 0, CACHE_NOT_FOUND},
    {"incr", CACHE_ARITH, 0, 0, CACHE_NOT_FOUND},
    {"decr", CACHE_ARITH, 0, CACHE_F_DECR, CACHE_NOT_FOUND},
    {"ma N", CACHE_ARITH, 0, CACHE_F_META | CACHE_F_VIVIFY, CACHE_NO_MEMORY},
    {"add", CACHE_STORE, CACHE_ADD, 0, CACHE_NO_MEMORY},
    {"replace", CACHE_STORE, CACHE_REPLACE, 0, CACHE_NOT_STORED},
    {"append", CACHE_STORE, CACHE_APPEND, 0, CACHE_NOT_STORED},
    {"prepend", CACHE_STORE, CACHE_PREPEND, 0, CACHE_NOT_STORED},
    {"ms MA N", CACHE_STORE, CACHE_APPEND, CACHE_F_META | CACHE_F_VIVIFY, CACHE_NO_MEMORY},
    {"cas", CACHE_STORE, CACHE_CAS, 0, CACHE_NOT_FOUND},
    {"ms C", CACHE_STORE, CACHE_SET, CACHE_F_META | CACHE_F_CAS_COMPARE, CACHE_NOT_FOUND},
    {"ms C I", CACHE_STORE, CACHE_SET, CACHE_F_META | CACHE_F_CAS_COMPARE | CACHE_F_INVALIDATE, CACHE_NOT_FOUND},
};

/* A store's value is "7". */
static enum cache_status run_with(const struct unread_answer *u, const char *key)
{
    struct cache_op op;
    cache_op_init(&op, u->verb == CACHE_STORE ? CACHE_ALLOC : u->verb, key, (uint8_t)strlen(key), hash_of(key));
    op.value_bytes = 1;
    op.options = u->options;
    op.delta = op.initial = op.cas_compare = 1;
    op.recache_ttl_sec = 30;
    if (u->verb == CACHE_STORE) {
        fixture_run(&f, &op);
        cr_assert_eq(op.status, CACHE_OK, "%s", u->name);
        op.value[0] = '7';
        op.verb = CACHE_STORE;
        op.mode = u->mode;
    }
    fixture_run(&f, &op);
    enum cache_status status = op.status;
    cache_release(f.worker, &op);
    return status;
}

/* Only a delete and a set may end the life of a value that was acknowledged. */
Test(cache_flash, a_value_that_cannot_be_read_for_a_while_outlives_every_verb_but_delete_and_set)
{
    ext_place places[INDEX_MATCH_MAX];
    for (unsigned values = 1; values <= 2; values++) {
        for (unsigned i = 0; i < values; i++)
            store_on_flash("k", i + 1 < values ? "4" : "5");
        lose_checks();
        cr_assert_eq(ext_sync(f.ext, 10000), 0);
        for (unsigned i = 0; i < ARRAY_COUNT(unread_answers); i++) {
            const struct unread_answer *u = &unread_answers[i];
            uint64_t misses = f.stats.counters[STAT_get_misses], unreadable = f.stats.misses[MISS_unreadable];
            cr_assert_eq(places_of("k", places), values, "%s", u->name);
            turn_place(places[values - 1]);
            enum cache_status status = run_with(u, "k");
            cr_assert_eq(status, u->status, "%s: %d", u->name, (int)status);
            cr_assert_eq(f.stats.misses[MISS_unreadable] - unreadable, f.stats.counters[STAT_get_misses] - misses);
            turn_place(places[values - 1]);
            cr_assert_eq(flash_count() + ram_count(), values, "%s", u->name);
        }
        IS("k", "5");
        STATUS(fixture_delete(&f, "k"), CACHE_OK);
        cr_assert_eq(flash_count() + ram_count(), 0);
    }
    cr_assert_eq(ext_reconcile(f.ext), 0);
}

/* As the maintenance thread does: reclaim waits for checks. */
static void run_checks(struct fixture *fx) { stale_step(fx->worker); }

static _Atomic(bool) reads_fail;

static ssize_t read_or_fail(void *ctx UNUSED, int fd, void *buf, size_t bytes, off_t offset)
{
    ssize_t n = atomic_load(&reads_fail) ? -1 : pread(fd, buf, bytes, offset);
    return n >= 0 ? n : atomic_load(&reads_fail) ? -EIO : -errno;
}

static ssize_t write_device(void *ctx UNUSED, int fd, const void *buf, size_t bytes, off_t offset)
{
    ssize_t n = pwrite(fd, buf, bytes, offset);
    return n < 0 ? -errno : n;
}

static void open_failing(void)
{
    const struct ext_device_ops ops = {.pread = read_or_fail, .pwrite = write_device};
    fixture_open_ops(&f, 64, 160, &ops);
}
TestSuite(cache_unread, .init = open_failing, .fini = close_it);

/* All that was stored before leaves the write buffers, so that it has to be read. */
static void fill_buffers(const char *prefix)
{
    char key[32];
    memset(value, 'f', sizeof(value));
    cr_assert_eq(ext_sync(f.ext, 120000), 0);
    for (unsigned i = 0; i < 48; i++) {
        snprintf(key, sizeof(key), "%s-%u", prefix, i);
        STATUS(fixture_store(&f, CACHE_SET, key, value, 1000000, 0, 0, 0), CACHE_OK);
        fixture_flush(&f);
    }
    cr_assert_eq(ext_sync(f.ext, 120000), 0);
}

Test(cache_unread, a_device_that_fails_for_a_while_loses_nothing)
{
    char key[32];
    for (unsigned i = 0; i < ARRAY_COUNT(unread_answers); i++) {
        snprintf(key, sizeof(key), "k%u", i);
        store_on_flash(key, "5");
    }
    fill_buffers("fill");
    reads_fail = true;
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < ARRAY_COUNT(unread_answers); i++) {
            const struct unread_answer *u = &unread_answers[i];
            snprintf(key, sizeof(key), "k%u", i);
            enum cache_status status = run_with(u, key);
            cr_assert_eq(status, u->status, "%s: %d", u->name, (int)status);
        }
        fixture_settle(&f);
    }
    reads_fail = false;
    for (unsigned i = 0; i < ARRAY_COUNT(unread_answers); i++) {
        snprintf(key, sizeof(key), "k%u", i);
        IS(key, "5");
    }
    cr_assert_eq(ext_reconcile(f.ext), 0);
}

/* Reads fail for good. What can't be read leaves all the same, when its room is needed; what is stored and read from
 * memory meanwhile is right, and no key fills its buckets. */
Test(cache_unread, what_can_never_be_read_leaves_in_the_end)
{
    char key[32], text[32], prefix[16];
    for (unsigned i = 0; i < 1000; i++) {
        snprintf(key, sizeof(key), "k%u", i);
        STATUS(fixture_set(&f, key, "5"), CACHE_OK);
    }
    fixture_flush(&f);
    fill_buffers("fill");
    uint64_t before = flash_count();
    f.idle = run_checks;
    reads_fail = true;
    for (unsigned round = 0; round < 8; round++) {
        for (unsigned i = 0; i < ARRAY_COUNT(unread_answers); i++) {
            snprintf(key, sizeof(key), "k%u", i);
            STATUS(fixture_set(&f, key, "5"), CACHE_OK);
            fixture_flush(&f);
            run_with(&unread_answers[i], key);
            fixture_flush(&f);
        }
        snprintf(text, sizeof(text), "round %u", round);
        STATUS(fixture_set(&f, "k999", text), CACHE_OK);
        IS("k999", text);
        snprintf(prefix, sizeof(prefix), "fill %u", round);
        fill_buffers(prefix);
    }
    for (unsigned i = 100; i < 999; i++) {
        ext_place places[INDEX_MATCH_MAX];
        snprintf(key, sizeof(key), "k%u", i);
        cr_assert_eq(places_of(key, places), 0, "%s", key);
    }
    for (unsigned i = 0; i < ARRAY_COUNT(unread_answers); i++) {
        ext_place places[INDEX_MATCH_MAX];
        snprintf(key, sizeof(key), "k%u", i);
        cr_assert_leq(places_of(key, places), 8u, "%s", key);
    }
    cr_assert_lt(flash_count(), before);
    cr_assert_eq(ext_reconcile(f.ext), 0);
}

/* The key's own value can be read, but not another word of its tag, older or younger: that may be another key's. */
Test(cache_tags, a_value_that_cannot_be_read_outlives_what_is_done_to_another_key_of_its_tag)
{
    const char *one = sim_tags_key(0), *other = sim_tags_key(1);
    ext_place places[INDEX_MATCH_MAX];
    for (unsigned younger = 0; younger < 2; younger++) {
        for (unsigned i = 0; i < ARRAY_COUNT(unread_answers); i++) {
            const struct unread_answer *u = &unread_answers[i];
            store_on_flash(younger ? one : other, younger ? "5" : "innocent");
            store_on_flash(younger ? other : one, younger ? "innocent" : "5");
            cr_assert_eq(ext_sync(f.ext, 10000), 0);
            cr_assert_eq(places_of(one, places), 2, "%s", u->name);
            turn_place(places[younger]);
            enum cache_status status = run_with(u, one);
            if (younger)
                cr_assert_eq(status, u->status, "%s: %d", u->name, (int)status);
            else
                cr_assert(status == CACHE_OK || status == CACHE_NOT_STORED || status == CACHE_EXISTS, "%s: %d",
                          u->name, (int)status);
            turn_place(places[younger]);
            IS(other, "innocent");
            if (younger)
                IS(one, "5");
            STATUS(fixture_delete(&f, one), CACHE_OK);
            IS(other, "innocent");
            STATUS(fixture_delete(&f, other), CACHE_OK);
            cr_assert_eq(flash_count() + ram_count(), 0);
        }
    }
    cr_assert_eq(ext_reconcile(f.ext), 0);
}

/* A dead item hides a word that can't be read, and that may be another key's: it goes on hiding it. */
Test(cache_tags, a_value_that_cannot_be_read_outlives_an_expired_key_of_its_tag)
{
    const char *one = sim_tags_key(0), *other = sim_tags_key(1);
    ext_place places[INDEX_MATCH_MAX];
    for (unsigned i = 0; i < ARRAY_COUNT(unread_answers); i++) {
        const struct unread_answer *u = &unread_answers[i];
        bool makes = u->status == CACHE_NO_MEMORY || (u->options & CACHE_F_VIVIFY);
        store_on_flash(other, "innocent");
        cr_assert_eq(ext_sync(f.ext, 10000), 0);
        cr_assert_eq(places_of(one, places), 1);
        STATUS(fixture_store(&f, CACHE_SET, one, "x", 1, 0, CLOCK_EXPIRED_SEC, 0), CACHE_OK);
        turn_place(places[0]);
        uint64_t expired = f.stats.counters[STAT_get_expired];
        enum cache_status status = run_with(u, one);
        if (makes)
            cr_assert(status == CACHE_OK || status == CACHE_VIVIFIED, "%s: %d", u->name, (int)status);
        else
            cr_assert_eq(status, u->status, "%s: %d", u->name, (int)status);
        cr_assert_eq(f.stats.counters[STAT_get_expired], expired + 1, "%s", u->name);
        turn_place(places[0]);
        IS(other, "innocent");
        STATUS(fixture_delete(&f, one), makes ? CACHE_OK : CACHE_NOT_FOUND);
        IS(other, "innocent");
        STATUS(fixture_delete(&f, other), CACHE_OK);
        cr_assert_eq(flash_count() + ram_count(), 0);
    }
    cr_assert_eq(fixture_counter(&f, CACHE_N_evictions_same_tag), 0);
    cr_assert_eq(ext_reconcile(f.ext), 0);
}

/* While the check reads the older one, a rescue moves it: the record at its new place has not been read. */
Test(cache_flash, a_drop_waits_for_what_a_rescue_has_moved_meanwhile)
{
    struct ext_callbacks cb = cache_ext_callbacks(f.cache);
    ext_place places[INDEX_MATCH_MAX];
    struct ext_append a;
    set_many(MANY, "old"); /* so that the first records are on the device alone */
    fixture_settle(&f);
    store_on_flash("key-0", "new");
    cr_assert_eq(ext_sync(f.ext, 120000), 0);
    cr_assert_eq(places_of("key-0", places), 2);
    cr_assert_eq(drop("key-0", places[1]), EXT_DROPPED_LATER);
    stale_step(f.worker);
    cr_assert_gt(cache_worker_parked(f.worker), 0, "it is being read");
    struct ext_record_in in = {.hash = hash_of("key-0"), .key = "key-0", .key_bytes = 5, .value = "old",
                               .value_bytes = 3, .time_unix = 1};
    cr_assert_eq(ext_append_begin(f.ext, EXT_BUCKET_COMPACT, &in, 1, false, &a), 0);
    ext_place moved = a.place;
    cr_assert(cb.moved(cb.ctx, in.hash, places[0], moved, a.len_class));
    ext_append_end(&a);
    fixture_settle(&f);
    STATUS(fixture_get(&f, "key-0", value, sizeof(value), NULL), CACHE_NOT_FOUND);
    cr_assert_eq(places_of("key-0", places), 0);
}

static void open_little_ram(void) { fixture_open(&f, 8, 160); }
TestSuite(cache_dead_device, .init = open_little_ram, .fini = close_it);

/* From now on neither reads nor writes reach the device. */
static void device_dies(void)
{
    char path[96];
    snprintf(path, sizeof(path), "%s/flash", f.dir);
    cr_assert_eq(truncate(path, 0), 0);
    int nothing = open("/", O_PATH | O_CLOEXEC);
    cr_assert_geq(nothing, 0);
    cr_assert_geq(dup2(nothing, f.ext->devices[0].fd), 0);
    close(nothing);
}

/* Old values of all keys are on flash, and can't be read any more. */
static void fill_then_die(void)
{
    set_many(MANY, "old");
    fixture_settle(&f);
    cr_assert_eq(ext_sync(f.ext, 120000), 0);
    device_dies();
    atomic_store(&f.config.ext_max_sleep, 1000);
}

/* Items that hide unreadable records can't go to flash; others must find room all the same. */
Test(cache_dead_device, items_that_hide_unreadable_records_do_not_fill_memory)
{
    char key[32];
    fill_then_die();
    for (unsigned i = 0; i < 6000; i++) { /* until no buffer takes more */
        snprintf(key, sizeof(key), "fill-%u", i);
        fixture_store(&f, CACHE_SET, key, value, 8000, 0, 0, 0);
    }
    f.cache->stale.behind_bytes = UINT64_MAX; /* otherwise sets would read before they store */
    strcpy(value, "new");
    for (unsigned i = 0; i < 2000; i++) { /* soon memory holds nothing but hiders, and no check runs */
        snprintf(key, sizeof(key), "key-%u", i);
        STATUS(fixture_store(&f, CACHE_SET, key, value, 8000, 0, 0, 0), CACHE_OK);
    }
    cr_assert_gt(fixture_counter(&f, CACHE_N_evictions_same_tag), 100, "the last resort");
    fixture_settle(&f);
    for (unsigned i = 0; i < 1500; i++) {
        snprintf(key, sizeof(key), "more-%u", i);
        STATUS(fixture_store(&f, CACHE_SET, key, value, 8000, 0, 0, 0), CACHE_OK);
    }
    for (unsigned i = 0; i < 2000; i++) { /* the values that remain are the newest */
        snprintf(key, sizeof(key), "key-%u", i);
        if (fixture_get(&f, key, value, sizeof(value), NULL) == CACHE_OK)
            cr_assert_str_eq(value, "new");
    }
    cr_assert_gt(fixture_counter(&f, CACHE_N_evictions_device) +
                     fixture_counter(&f, CACHE_N_evictions_write_wait), 1000);
    cr_assert_eq(ext_reconcile(f.ext), 0);
}

/* Dead items that hide what can't be read are no better. */
Test(cache_dead_device, dead_items_that_hide_what_cannot_be_read_leave_room_for_sets)
{
    char key[32];
    fill_then_die();
    f.cache->stale.behind_bytes = UINT64_MAX;
    for (unsigned i = 0; i < 6000; i++) { /* until no buffer takes more */
        snprintf(key, sizeof(key), "fill-%u", i);
        STATUS(fixture_store(&f, CACHE_SET, key, value, 8000, 0, 0, 0), CACHE_OK);
    }
    for (unsigned i = 0; i < 2000; i++) {
        snprintf(key, sizeof(key), "key-%u", i);
        STATUS(fixture_store(&f, CACHE_SET, key, value, 8000, 0, CLOCK_EXPIRED_SEC, 0), CACHE_OK);
    }
    for (unsigned i = 0; i < 2000; i++) {
        snprintf(key, sizeof(key), "key-%u", i);
        STATUS(fixture_get(&f, key, value, sizeof(value), NULL), CACHE_NOT_FOUND);
    }
    cr_assert_eq(ext_reconcile(f.ext), 0);
}

/* An item that is being sent is held and stays in memory. All but a few items of COLD are held; a set finds one of
 * the others. */
Test(cache_ram, items_that_are_held_leave_room_for_sets_while_there_is_another)
{
    enum { HELD_MAX = 4000 };
    static struct cache_op held[HELD_MAX];
    static char keys[HELD_MAX][16];
    unsigned count = 0;
    memset(value, 'x', 20000);
    for (unsigned i = 0; i < HELD_MAX; i++) {
        snprintf(keys[i], sizeof(keys[i]), "key-%u", i);
        STATUS(fixture_store(&f, CACHE_SET, keys[i], value, 20000, 0, 0, 0), CACHE_OK);
    }
    for (unsigned i = 0; i < HELD_MAX - 20; i++) {
        cache_op_init(&held[count], CACHE_GET, keys[i], (uint8_t)strlen(keys[i]), hash_of(keys[i]));
        held[count].options = CACHE_F_NOBUMP;
        fixture_run(&f, &held[count]);
        count += held[count].status == CACHE_OK;
    }
    cr_assert_gt(count, 1000);
    for (unsigned i = 0; i < 10; i++) {
        char key[32];
        snprintf(key, sizeof(key), "more-%u", i);
        STATUS(fixture_store(&f, CACHE_SET, key, value, 20000, 0, 0, 0), CACHE_OK);
    }
    while (count > 0)
        cache_release(f.worker, &held[--count]);
}

/* Moves what is in HOT and WARM to COLD. */
static void all_to_cold(void)
{
    for (unsigned cls = 1; cls <= slab_class_count(f.slab); cls++)
        while (lru_pull_tail(f.cache, cls, LRU_HOT, 0, ROOM_JUGGLE, 0) == ROOM_MADE ||
               lru_pull_tail(f.cache, cls, LRU_WARM, 0, ROOM_JUGGLE, 0) == ROOM_MADE)
            ;
}

/* COLD is full of items that can't leave memory, so each set evicts items of HOT. No check runs meanwhile, and
 * none is needed. */
Test(cache_dead_device, a_cold_list_of_hiders_leaves_room_for_sets)
{
    enum { HIDERS = 150 };
    char key[32];
    fill_then_die();
    for (unsigned i = 0; i < 6000; i++) { /* until no buffer takes more */
        snprintf(key, sizeof(key), "fill-%u", i);
        fixture_store(&f, CACHE_SET, key, value, 8000, 0, 0, 0);
    }
    while (ram_count() > 0) { /* some may have to wait a little */
        for (unsigned cls = 1; cls <= slab_class_count(f.slab); cls++)
            room_make(f.cache, cls, ROOM_FORCE);
    }
    for (unsigned i = 0; i < HIDERS; i++) {
        snprintf(key, sizeof(key), "key-%u", i);
        STATUS(fixture_store(&f, CACHE_SET, key, value, 8000, 0, 0, 0), CACHE_OK);
    }
    all_to_cold();
    for (unsigned i = 0; i < 3000; i++) {
        snprintf(key, sizeof(key), "more-%u", i);
        STATUS(fixture_store(&f, CACHE_SET, key, value, 8000, 0, 0, 0), CACHE_OK);
    }
    for (unsigned i = 0; i < HIDERS; i++) {
        snprintf(key, sizeof(key), "key-%u", i);
        STATUS(fixture_get(&f, key, value, sizeof(value), NULL), CACHE_OK);
    }
    cr_assert_eq(fixture_counter(&f, CACHE_N_evictions_same_tag), 0);
}

/* ---- shares of the segments ---- */

Test(cache_room, hot_keeps_to_its_share_without_the_maintenance_thread)
{
    fixture_open(&f, 8, 64);
    memset(value, 'h', 16000);
    unsigned cls = 0, beyond = 0;
    for (unsigned i = 0; i < 1500; i++) {
        char key[32];
        snprintf(key, sizeof(key), "h%u", i);
        STATUS(fixture_store(&f, CACHE_SET, key, value, 16000, 0, 0, 0), CACHE_OK);
        cls = cls ? cls : slab_class_of(f.cache->slab, item_accounted_bytes_of(2, 16000, ITEM_CAS));
        uint64_t hot = lru_bytes(f.cache->lru, lru_id_of(cls, LRU_HOT));
        uint64_t all = hot + lru_bytes(f.cache->lru, lru_id_of(cls, LRU_COLD));
        beyond += i > 1000 && hot * 100 > all * 25;
    }
    cr_assert(f.config.lru_segmented);
    cr_assert_eq(f.config.hot_lru_pct, 20);
    cr_assert_eq(beyond, 0, "%u times", beyond);
    fixture_close(&f);
}

/* ---- what is worth a write to flash ---- */

/* On a slow device nothing is evicted because it waited; only its worth counts. */
static void open_small(void)
{
    fixture_open(&f, 8, 24);
    f.idle = run_checks;
    atomic_store(&f.config.ext_max_sleep, 600u * 1000 * 1000);
}
TestSuite(cache_worth, .init = open_small, .fini = close_it);

enum { WORTH_VALUE = 16000, FLASH_HOLDS = 24 * 1024 * 1024 / (WORTH_VALUE + 64) };

static void store_range(unsigned first, unsigned count)
{
    memset(value, 'w', WORTH_VALUE);
    for (unsigned i = first; i < first + count; i++) {
        char key[32];
        snprintf(key, sizeof(key), "w%u", i);
        STATUS(fixture_store(&f, CACHE_SET, key, value, WORTH_VALUE, 0, 0, 0), CACHE_OK);
        worth_begin_ghosts(f.cache); /* as the maintenance thread would, */
        fixture_turn(&f);            /* which also sees that flash becomes full */
    }
}

static unsigned hits_of_range(unsigned first, unsigned count)
{
    unsigned hits = 0;
    for (unsigned i = first; i < first + count; i++) {
        char key[32];
        snprintf(key, sizeof(key), "w%u", i);
        hits += fixture_get(&f, key, value, sizeof(value), NULL) == CACHE_OK;
    }
    return hits;
}

Test(cache_worth, while_flash_has_room_nothing_is_passed_up)
{
    f.cache->admission.mode = ADMISSION_STRICT;
    store_range(0, FLASH_HOLDS * 3 / 4);
    cr_assert_eq(hits_of_range(0, FLASH_HOLDS * 3 / 4), FLASH_HOLDS * 3 / 4);
    cr_assert_eq(fixture_counter(&f, CACHE_N_evictions_not_admitted), 0);
}

Test(cache_worth, strict_writes_what_came_back_and_not_what_came_once)
{
    f.cache->admission.mode = ADMISSION_STRICT;
    store_range(0, 3 * FLASH_HOLDS);
    uint64_t passed = fixture_counter(&f, CACHE_N_evictions_not_admitted);
    uint64_t flushed = fixture_counter(&f, CACHE_N_flushed_items);
    cr_assert_gt(passed, FLASH_HOLDS);
    cr_assert_eq(hits_of_range(0, 200), 200, "what was there first is there still");
    store_range(2 * FLASH_HOLDS + 500, 300); /* passed up, and now back */
    store_range(10 * FLASH_HOLDS, 1200);
    /* 4 KiB of ghosts have forgotten one in six of a thousand younger keys. */
    cr_assert_geq(fixture_counter(&f, CACHE_N_flushed_items) - flushed, 220);
    cr_assert_gt(hits_of_range(2 * FLASH_HOLDS + 500, 300), 220);
}

Test(cache_worth, a_key_that_was_deleted_on_flash_is_known)
{
    f.cache->admission.mode = ADMISSION_STRICT;
    store_range(0, FLASH_HOLDS * 3 / 4);
    char key[32];
    for (unsigned i = 0; i < 100; i++) {
        snprintf(key, sizeof(key), "w%u", i);
        STATUS(fixture_delete(&f, key), CACHE_OK);
    }
    store_range(FLASH_HOLDS, FLASH_HOLDS / 2);
    store_range(0, 100);
    store_range(3 * FLASH_HOLDS, 600);
    cr_assert_gt(hits_of_range(0, 100), 85);
}

/* Sums over all classes of the hits on flash, and of those that were an object's first. */
static void flash_hits_are(uint64_t hits, uint64_t first_hits)
{
    for (unsigned g = 0; g < ARRAY_COUNT(f.cache->admission.groups); g++) {
        hits -= atomic_load(&f.cache->admission.groups[g].hits);
        first_hits -= atomic_load(&f.cache->admission.groups[g].first_hits);
    }
    cr_assert_eq(hits, 0u);
    cr_assert_eq(first_hits, 0u);
}

Test(cache_worth, only_one_hit_of_an_object_is_its_first)
{
    atomic_store(&f.config.ext_recache_rate, 0);
    STATUS(fixture_set(&f, "k", "value"), CACHE_OK);
    fixture_flush(&f);
    for (unsigned i = 0; i < 6; i++) {
        struct cache_op op;
        cache_op_init(&op, CACHE_GET, "k", 1, cache_hash(f.cache, "k", 1));
        op.options = CACHE_F_META | (i < 3 ? CACHE_F_NOBUMP : 0);
        fixture_run(&f, &op);
        STATUS(op.status, CACHE_OK);
        cache_release(f.worker, &op);
        flash_hits_are(i + 1, i < 3 ? 0 : 1);
    }
}

/* Ghosts take at most a byte for each object on flash, however large objects are; but never less than 4 KiB. */
static void ghosts_for(unsigned value_bytes, uint64_t at_least)
{
    struct ext_info info;
    char key[32];
    memset(value, 'w', value_bytes);
    for (unsigned i = 0; i < 24 * MiB * 3 / 4 / (value_bytes + 60); i++) {
        snprintf(key, sizeof(key), "g%u", i);
        STATUS(fixture_store(&f, CACHE_SET, key, value, value_bytes, 0, 0, 0), CACHE_OK);
    }
    fixture_flush(&f);
    fixture_turn(&f);
    ext_info(f.ext, &info);
    uint64_t bytes = f.cache->root->ghost_bytes - sizeof(struct ghost_root);
    cr_assert(atomic_load(&f.cache->ghost_is_there));
    cr_assert_geq(bytes, at_least);
    cr_assert(bytes == GHOST_BYTES_MIN || bytes <= info.objects_used, "%" PRIu64 " bytes for %" PRIu64 " objects",
              bytes, info.objects_used);
    cr_assert_eq(bytes, f.cache->ghost.sets * GHOST_WAYS * sizeof(uint16_t));
}

Test(cache_worth, ghosts_of_small_objects) { ghosts_for(200, 32768); }
Test(cache_worth, ghosts_of_objects_of_2_kb) { ghosts_for(2000, 8192); }
Test(cache_worth, ghosts_of_large_objects) { ghosts_for(100000, GHOST_BYTES_MIN); }

Test(cache_worth, a_crowded_index_counts_as_full_flash)
{
    f.cache->admission.mode = ADMISSION_STRICT;
    store_range(0, FLASH_HOLDS / 2);
    cr_assert_eq(fixture_counter(&f, CACHE_N_evictions_not_admitted), 0);
    atomic_store(&f.cache->index_crowded, true);
    uint64_t flushed = fixture_counter(&f, CACHE_N_flushed_items);
    store_range(FLASH_HOLDS, 300);
    uint64_t passed = fixture_counter(&f, CACHE_N_evictions_not_admitted);
    cr_assert_geq(passed, 295); /* ghosts keep 12 bits of a hash: a newcomer may be taken for a known key, and is written then */
    cr_assert_eq(passed + fixture_counter(&f, CACHE_N_flushed_items) - flushed, 300);
}

/* Sends COLD items to flash before RAM needs their memory, as the maintenance thread does with ext_item_age. */
static void flush_aged(uint32_t age)
{
    all_to_cold();
    for (unsigned cls = 1; cls <= slab_class_count(f.slab); cls++) {
        enum room r;
        while ((r = lru_pull_tail(f.cache, cls, LRU_COLD, 0, ROOM_AGED, age)) != ROOM_NONE)
            if (r == ROOM_WAIT)
                fixture_turn(&f);
    }
}

static uint64_t all_gone(void)
{
    struct ext_info info;
    ext_info(f.ext, &info);
    return fixture_counter(&f, CACHE_N_evictions_not_admitted) + fixture_counter(&f, CACHE_N_evictions_short_ttl) +
           fixture_counter(&f, CACHE_N_evictions_write_limit) + info.objects_evicted;
}

/* Nothing has to leave RAM, so nothing is given up for it, neither there nor on flash. */
Test(cache_worth, what_goes_to_flash_early_is_never_given_up)
{
    static const enum admission_mode modes[] = {ADMISSION_STRICT, ADMISSION_LEARN, ADMISSION_ALL};
    store_range(0, 3 * FLASH_HOLDS);
    cr_assert(ext_is_full(f.ext));
    for (unsigned i = 0; i < ARRAY_COUNT(modes); i++) {
        f.cache->admission.mode = modes[i];
        store_range(10000 * (i + 1), 100);
        cr_assert_eq(hits_of_range(10000 * (i + 1), 100), 100);
        uint64_t gone = all_gone(), flushed = fixture_counter(&f, CACHE_N_flushed_items);
        flush_aged(0);
        for (unsigned turn = 0; turn < 100; turn++)
            fixture_turn(&f);
        cr_assert_eq(all_gone(), gone);
        cr_assert_eq(fixture_counter(&f, CACHE_N_flushed_items), flushed);
        cr_assert_eq(hits_of_range(10000 * (i + 1), 100), 100);
    }
}

Test(cache_worth, what_goes_to_flash_early_keeps_to_the_limits_of_writing)
{
    store_range(0, 300);
    pace_init(&f.ext->pace, 1, 0, 25 * MiB, 0);
    pace_spend(&f.ext->pace, 160 * MiB);
    uint64_t gone = all_gone(), flushed = fixture_counter(&f, CACHE_N_flushed_items);
    flush_aged(0);
    cr_assert_eq(all_gone(), gone);
    cr_assert_eq(fixture_counter(&f, CACHE_N_flushed_items), flushed);
    cr_assert_eq(hits_of_range(0, 300), 300);
}

Test(cache_worth, all_writes_all)
{
    f.cache->admission.mode = ADMISSION_ALL;
    store_range(0, 3 * FLASH_HOLDS);
    cr_assert_eq(fixture_counter(&f, CACHE_N_evictions_not_admitted), 0);
    cr_assert_eq(hits_of_range(3 * FLASH_HOLDS - 500, 500), 500);
    cr_assert_eq(hits_of_range(0, 200), 0);
}

Test(cache_worth, what_expires_before_it_could_be_on_flash_is_not_written)
{
    store_range(0, 2 * FLASH_HOLDS);
    uint64_t before = fixture_counter(&f, CACHE_N_evictions_short_ttl);
    memset(value, 'w', WORTH_VALUE);
    for (unsigned i = 0; i < 1000; i++) {
        char key[32];
        snprintf(key, sizeof(key), "t%u", i);
        atomic_store(&f.ext->fill_sec, 100); /* as the last buffer had taken */
        STATUS(fixture_store(&f, CACHE_SET, key, value, WORTH_VALUE, 0, clock_now_sec() + 50, 0), CACHE_OK);
    }
    cr_assert_gt(fixture_counter(&f, CACHE_N_evictions_short_ttl) - before, 100);
}

/* The write limit is reached: items that were never hit go first, then all that were not hit twice. */
Test(cache_worth, what_may_not_be_written_goes_by_its_worth)
{
    pace_init(&f.ext->pace, 1, 0, 25 * MiB, 0); /* only its burst of 100 MB */
    pace_spend(&f.ext->pace, 60 * MiB);
    store_range(0, 1000);
    uint64_t shed = fixture_counter(&f, CACHE_N_evictions_write_limit);
    cr_assert_gt(shed, 100, "newcomers");
    store_range(1000, 200);
    for (unsigned i = 0; i < 3; i++)
        cr_assert_eq(hits_of_range(1000, 200), 200);
    store_range(2000, 1000);
    cr_assert_eq(hits_of_range(1000, 200), 200, "hit twice: written");
    pace_spend(&f.ext->pace, 100 * MiB);
    uint64_t flushed = fixture_counter(&f, CACHE_N_flushed_items);
    store_range(3000, 1000);
    cr_assert_eq(fixture_counter(&f, CACHE_N_flushed_items), flushed, "nothing");
}
