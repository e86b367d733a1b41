/* restart_test.c: the next process takes over the content of -e after a stop or a kill, and
 * refuses content that does not fit with a line. First processes that stop in order, then states that only a kill
 * leaves (made by hand), then real kills under load. run under TSan for the threads that walk the
 * index. */
#include "restart/restart.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/hash.h"
#include "flash/engine.h"
#include "maint_thread.h"
#include "operator/command_line.h"
#include "stale_check.h"
#include "t/aid/life.h"

/* ---- lives ---- */

static char dir[64], memory_file[96], flash_file[96], why[RESTART_LINE_BYTES];

static void dir_make(void)
{
    const char *base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(dir, sizeof(dir), "%s/restart_test.XXXXXX", base);
    cr_assert_not_null(mkdtemp(dir));
    snprintf(memory_file, sizeof(memory_file), "%s/memory", dir);
    snprintf(flash_file, sizeof(flash_file), "%s/flash", dir);
    clock_setup();
}

static void dir_remove(void)
{
    unlink(memory_file);
    unlink(flash_file);
    rmdir(dir);
}

TestSuite(restart, .init = dir_make, .fini = dir_remove, .timeout = 600);

/* Opens with -e and more arguments, as given by split words; 0 or restart_open's error. */
static int life_try(struct life *l, const char *words)
{
    char all[512];
    snprintf(all, sizeof(all), "-e %s %s", memory_file, words);
    life_parse_words(l, all);
    int rc = life_begin(l, 4, NULL, why, sizeof(why));
    if (rc == 0)
        life_add_worker(l);
    return rc;
}

static void life_open(struct life *l, const char *words)
{
    cr_assert_eq(life_try(l, words), 0, "%s", why);
}

/* Ends without cleaning up: nothing is flushed, items stay linked, as after a kill between two ops.
 */
static void life_end(struct life *l)
{
    cache_worker_destroy(l->f.worker);
    restart_close(&l->r, false);
    settings_free(&l->f.settings);
}

static void life_again(struct life *l, const char *words)
{
    life_end(l);
    clock_setup();
    life_open(l, words);
    cr_assert(l->r.attached, "%s", l->r.line);
}

/* "-o ext_path=.." for a flash of this many MB in pages of 2 MB. */
static const char *with_flash(const char *words, unsigned mb)
{
    static char text[400];
    snprintf(text, sizeof(text),
             "%s -o ext_path=%s:%um,ext_page_size=2,ext_wbuf_size=2,ext_buffer_mem=24", words,
             flash_file, mb);
    return text;
}

static const char *value_of(struct life *l, const char *key)
{
    static char value[4096];
    return fixture_get(&l->f, key, value, sizeof(value), NULL) == CACHE_OK ? value : "(none)";
}

/* Moves the item to flash and has the open wbuf stay open. */
static void to_flash(struct life *l, const char *key)
{
    struct cache *c = l->f.cache;
    uint64_t hash = cache_hash(c, key, strlen(key));
    index_slot *slots[INDEX_MATCH_MAX];
    struct lock *lock = index_lock(c->index, hash);
    lock_take(lock);
    unsigned n = index_match(c->index, hash, slots);
    for (unsigned i = 0; i < n; i++) {
        index_word w = index_load(slots[i]);
        if (index_kind(c->index, w) == INDEX_RAM) {
            cr_assert_eq(item_flush(c, item_at(c, index_handle(c->index, w)), hash), 0);
            break;
        }
    }
    lock_release(lock);
}

static struct item *item_of(struct life *l, const char *key)
{
    struct cache *c = l->f.cache;
    uint64_t hash = cache_hash(c, key, strlen(key));
    index_slot *slots[INDEX_MATCH_MAX];
    struct item *it = NULL;
    struct lock *lock = index_lock(c->index, hash);
    lock_take(lock);
    unsigned n = index_match(c->index, hash, slots);
    for (unsigned i = 0; i < n; i++) {
        index_word w = index_load(slots[i]);
        if (index_kind(c->index, w) == INDEX_RAM)
            it = item_at(c, index_handle(c->index, w));
    }
    lock_release(lock);
    cr_assert_not_null(it, "no item %s", key);
    return it;
}

static unsigned flash_words_of(struct life *l, const char *key)
{
    struct cache *c = l->f.cache;
    uint64_t hash = cache_hash(c, key, strlen(key));
    index_slot *slots[INDEX_MATCH_MAX];
    struct lock *lock = index_lock(c->index, hash);
    unsigned count = 0;
    lock_take(lock);
    unsigned n = index_match(c->index, hash, slots);
    for (unsigned i = 0; i < n; i++)
        count += index_kind(c->index, index_load(slots[i])) == INDEX_FLASH;
    lock_release(lock);
    return count;
}

/* ---- what comes back ---- */

Test(restart, a_new_file_starts_empty_and_says_nothing)
{
    struct life l;
    life_open(&l, "-m 64");
    cr_assert(!l.r.attached);
    cr_assert_str_empty(l.r.line);
    life_end(&l);
}

Test(restart, an_item_comes_back_with_all_that_it_has)
{
    struct life l;
    struct cache_view before, after;
    char value[64];
    life_open(&l, "-m 64");
    uint32_t exptime = clock_now_sec() + 1000;
    fixture_store(&l.f, CACHE_SET, "key", "value", 5, 77, exptime, 0);
    fixture_get(&l.f, "key", NULL, 0, &before);
    life_again(&l, "-m 64");
    cr_assert_eq(fixture_get(&l.f, "key", value, sizeof(value), &after), CACHE_OK);
    cr_assert_str_eq(value, "value");
    cr_assert_eq(after.client_flags, 77);
    cr_assert_eq(after.exptime_sec, exptime);
    cr_assert_eq(after.cas, before.cas);
    life_end(&l);
}

Test(restart, items_of_every_size_come_back)
{
    struct life l;
    static char big[900000];
    life_open(&l, "-m 64");
    for (unsigned bytes = 0, i = 0; bytes < sizeof(big); bytes = bytes * 2 + 1, i++) {
        char key[16];
        snprintf(key, sizeof(key), "k%u", i);
        memset(big, (int)('a' + i), bytes);
        cr_assert_eq(fixture_store(&l.f, CACHE_SET, key, big, bytes, 0, 0, 0), CACHE_OK);
    }
    life_again(&l, "-m 64");
    for (unsigned bytes = 0, i = 0; bytes < sizeof(big); bytes = bytes * 2 + 1, i++) {
        static char got[sizeof(big)];
        char key[16];
        struct cache_view v;
        snprintf(key, sizeof(key), "k%u", i);
        memset(big, (int)('a' + i), bytes);
        cr_assert_eq(fixture_get(&l.f, key, got, sizeof(got), &v), CACHE_OK, "%s", key);
        cr_assert_eq(v.value_bytes, bytes);
        cr_assert_eq(memcmp(got, big, bytes), 0);
    }
    life_end(&l);
}

Test(restart, what_was_deleted_stays_deleted)
{
    struct life l;
    life_open(&l, "-m 64");
    fixture_set(&l.f, "key", "value");
    fixture_delete(&l.f, "key");
    life_again(&l, "-m 64");
    cr_assert_str_eq(value_of(&l, "key"), "(none)");
    cr_assert_eq(l.r.report.ram_items, 0);
    life_end(&l);
}

Test(restart, what_has_expired_is_gone)
{
    struct life l;
    life_open(&l, "-m 64");
    fixture_store(&l.f, CACHE_SET, "old", "x", 1, 0, clock_now_sec(), 0);
    fixture_store(&l.f, CACHE_SET, "new", "x", 1, 0, clock_now_sec() + 1000, 0);
    life_again(&l, "-m 64");
    cr_assert_eq(l.r.report.expired_items, 1);
    cr_assert_eq(l.r.report.ram_items, 1);
    cr_assert_str_eq(value_of(&l, "old"), "(none)");
    cr_assert_str_eq(value_of(&l, "new"), "x");
    life_end(&l);
}

Test(restart, what_was_flushed_stays_flushed)
{
    struct life l;
    life_open(&l, "-m 64");
    fixture_set(&l.f, "key", "value");
    cache_flush_all(l.f.cache, 0);
    fixture_set(&l.f, "after", "value");
    life_again(&l, "-m 64");
    cr_assert_str_eq(value_of(&l, "key"), "(none)");
    cr_assert_str_eq(value_of(&l, "after"), "value");
    life_end(&l);
}

Test(restart, the_clock_goes_on)
{
    struct life l;
    cr_assert_eq(
        clock_setup_boot_epoch(clock_unix_epoch_sec() - 5000, clock_mono_epoch_sec() - 5000), 0);
    int64_t epoch = clock_unix_epoch_sec();
    uint32_t before = clock_now_sec();
    life_open(&l, "-m 64");
    life_again(&l, "-m 64");
    cr_assert_eq(clock_unix_epoch_sec(), epoch);
    cr_assert_leq(clock_now_sec() - before, 10);
    life_end(&l);
}

Test(restart, cas_goes_on)
{
    struct life l;
    struct cache_view before, after;
    life_open(&l, "-m 64");
    fixture_set(&l.f, "one", "x");
    fixture_get(&l.f, "one", NULL, 0, &before);
    life_again(&l, "-m 64");
    fixture_set(&l.f, "two", "x");
    fixture_get(&l.f, "two", NULL, 0, &after);
    cr_assert_gt(after.cas, before.cas);
    life_end(&l);
}

Test(restart, the_account_is_the_same_as_before)
{
    struct life l;
    struct cache_totals before, after;
    char key[16], value[600];
    life_open(&l, "-m 64");
    memset(value, 'v', sizeof(value));
    for (unsigned i = 0; i < 3000; i++) {
        snprintf(key, sizeof(key), "k%u", i);
        fixture_store(&l.f, CACHE_SET, key, value, i % sizeof(value), i % 2, 0, 0);
    }
    cache_totals(l.f.cache, &before);
    uint64_t used = arena_used_bytes(l.f.arena, ARENA_USE_SLAB);
    life_again(&l, "-m 64");
    cache_totals(l.f.cache, &after);
    cr_assert_eq(after.curr_items, before.curr_items);
    cr_assert_eq(after.bytes, before.bytes);
    cr_assert_leq(arena_used_bytes(l.f.arena, ARENA_USE_SLAB), used);
    for (unsigned i = 0; i < 3000; i++) {
        snprintf(key, sizeof(key), "k%u", i);
        cr_assert_eq(fixture_delete(&l.f, key), CACHE_OK);
    }
    cache_totals(l.f.cache, &after);
    cr_assert_eq(after.bytes, 0);
    life_end(&l);
}

/* Keys of a list from the newest to the oldest, joined. */
static void order_of(struct life *l, uint8_t lru_id, char *text, size_t size)
{
    struct lru *lru = l->f.cache->lru;
    size_t at = 0;
    text[0] = '\0';
    lock_take(lru_lock(lru, lru_id));
    for (struct item *it = lru_head_locked(lru, lru_id); it; it = lru_older_locked(lru, it)) {
        cr_assert_lt(at + it->key_bytes + 2, size, "the list ends");
        memcpy(text + at, item_key(it), it->key_bytes);
        at += it->key_bytes;
        text[at++] = ' ';
        text[at] = '\0';
    }
    lock_release(lru_lock(lru, lru_id));
}

Test(restart, every_lru_keeps_its_order)
{
    struct life l;
    static char before[4][40000], after[40000];
    char key[16];
    life_open(&l, "-m 64");
    for (unsigned i = 0; i < 2000; i++) {
        snprintf(key, sizeof(key), "k%04u", i);
        fixture_set(&l.f, key, "value");
    }
    for (unsigned i = 0; i < 2000; i++) {
        snprintf(key, sizeof(key), "k%04u", i * 7919 % 2000);
        uint64_t hash = cache_hash(l.f.cache, key, strlen(key));
        struct item *it = item_of(&l, key);
        lock_take(index_lock(l.f.index, hash));
        lru_move(l.f.cache->lru, it, (enum lru_segment)(i % 3));
        lock_release(index_lock(l.f.index, hash));
    }
    unsigned cls = lru_class(item_of(&l, "k0000")->lru_id);
    for (unsigned seg = 0; seg < 4; seg++)
        order_of(&l, lru_id_of(cls, (enum lru_segment)seg), before[seg], sizeof(before[seg]));
    life_again(&l, "-m 64");
    cr_assert_eq(l.r.report.lru_pieces, 0);
    for (unsigned seg = 0; seg < 4; seg++) {
        order_of(&l, lru_id_of(cls, (enum lru_segment)seg), after, sizeof(after));
        cr_assert_str_eq(after, before[seg]);
    }
    life_end(&l);
}

/* Large enough for several threads, which TSan watches. */
Test(restart, a_large_cache_is_taken_over_by_threads)
{
    struct life l;
    char key[16], value[2048];
    memset(value, 'v', sizeof(value) - 1);
    value[sizeof(value) - 1] = '\0';
    life_open(&l, "-m 128");
    for (unsigned i = 0; i < 40000; i++) {
        snprintf(key, sizeof(key), "%06u", i);
        memcpy(value, key, 6);
        fixture_set(&l.f, key, value);
    }
    life_again(&l, "-m 128");
    cr_assert_eq(l.r.report.ram_items, 40000);
    cr_assert_eq(l.r.report.lru_pieces, 0);
    for (unsigned i = 0; i < 40000; i += 7) {
        snprintf(key, sizeof(key), "%06u", i);
        cr_assert_eq(memcmp(value_of(&l, key), key, 6), 0);
    }
    life_end(&l);
}

Test(restart, a_flat_lru_finds_what_segments_held)
{
    struct life l;
    char order[256];
    life_open(&l, "-m 64");
    fixture_set(&l.f, "a", "value");
    fixture_set(&l.f, "b", "value");
    life_again(&l, "-m 64 -o no_lru_maintainer");
    order_of(&l, lru_id_of(lru_class(item_of(&l, "a")->lru_id), LRU_COLD), order, sizeof(order));
    cr_assert_str_eq(order, "b a ");
    life_end(&l);
}

/* ---- what does not fit ---- */

static void expect_empty(const char *words, const char *reason)
{
    struct life l;
    clock_setup();
    life_open(&l, words);
    cr_assert(!l.r.attached);
    cr_assert_not_null(strstr(l.r.line, reason), "%s", l.r.line);
    cr_assert_null(strchr(l.r.line, '\n'));
    cr_assert_str_eq(value_of(&l, "key"), "(none)");
    fixture_set(&l.f, "fresh", "start");
    cr_assert_str_eq(value_of(&l, "fresh"), "start");
    life_end(&l);
}

static void leave_one_item(const char *words)
{
    struct life l;
    life_open(&l, words);
    fixture_set(&l.f, "key", "value");
    life_end(&l);
}

Test(restart, other_threads_limits_and_tunables_keep_the_cache)
{
    static const char more[] = ",ext_item_age=7,ext_item_size=100,ext_threads=2,ext_max_frag=0.5,"
                               "ext_compact_under=3,hot_lru_pct=30,slab_automove=0,idle_timeout=9";
    char words[512];
    struct life l;
    life_open(&l, with_flash("-m 64 -t 4 -c 1024", 64));
    fixture_set(&l.f, "flash", "one");
    to_flash(&l, "flash");
    fixture_set(&l.f, "ram", "two");
    snprintf(words, sizeof(words), "%s%s", with_flash("-m 64 -t 7 -c 99 -R 5 -b 9", 64), more);
    life_again(&l, words);
    cr_assert_str_eq(value_of(&l, "flash"), "one");
    cr_assert_str_eq(value_of(&l, "ram"), "two");
    life_end(&l);
}

/* Each of these takes over what the one before left. */
static void expect_kept(const char *const words[], size_t count, bool flash)
{
    struct life l;
    life_open(&l, flash ? with_flash(words[0], 64) : words[0]);
    fixture_set(&l.f, "first", "one");
    if (flash)
        to_flash(&l, "first");
    fixture_set(&l.f, "ram", "two");
    for (size_t i = 1; i < count; i++) {
        char key[32];
        life_again(&l, flash ? with_flash(words[i], 64) : words[i]);
        cr_assert_str_eq(value_of(&l, "first"), "one", "%s", words[i]);
        cr_assert_str_eq(value_of(&l, "ram"), "two", "%s", words[i]);
        snprintf(key, sizeof(key), "key%zu", i);
        fixture_set(&l.f, key, "new");
        cr_assert_str_eq(value_of(&l, key), "new", "%s", words[i]);
    }
    life_end(&l);
}

Test(restart, another_size_keeps_the_cache)
{
    static const char *const words[] = {"-m 64", "-m 65", "-m 160", "-m 32", "-m 64", "-m 64 -I 2m", "-m 40 -I 1m", "-m 512",
                                        "-m 4096", "-m 64"};
    expect_kept(words, ARRAY_COUNT(words), false);
    unlink(memory_file);
    expect_kept(words, ARRAY_COUNT(words), true);
}

Test(restart, a_size_that_the_file_has_no_room_for_starts_empty)
{
    leave_one_item("-m 64");
    expect_empty("-m 8192", "it was made for another -m");
}

Test(restart, memory_may_grow_past_what_small_handles_reach)
{
    static const char *const words[] = {"-m 40960", "-m 45056", "-m 49152", "-m 40960"};
    expect_kept(words, ARRAY_COUNT(words), false);
    unlink(memory_file);
    expect_kept(words, ARRAY_COUNT(words), true);
}

static void fill(struct life *l, unsigned count)
{
    static char value[64 * KiB];
    char key[16];
    for (unsigned i = 0; i < count; i++) {
        snprintf(key, sizeof(key), "fill%u", i);
        cr_assert_eq(fixture_store(&l->f, CACHE_SET, key, value, sizeof(value), 0, 0, 0), CACHE_OK);
    }
}

Test(restart, more_items_than_a_smaller_size_allows_start_empty)
{
    struct life l;
    life_open(&l, "-m 64");
    fill(&l, 500);
    life_end(&l);
    expect_empty("-m 16", "its items are more than -m allows");
}

Test(restart, slab_classes_of_a_file_stay)
{
    static const char *const words[] = {"-m 64 -f 1.25", "-m 64 -f 1.3", "-m 64 -n 100", "-m 64 -o slab_chunk_max=256",
                                        "-m 64 -o slab_sizes=200-4000"};
    expect_kept(words, ARRAY_COUNT(words), false);
    unlink(memory_file);
    leave_one_item("-m 64 -o slab_sizes=200-4000");
    expect_empty("-m 64", "it was made with other settings");
}

/* An item from a life without cas has the cas 0 until it changes; any change gives it one, so no change is missed. */
Test(restart, items_without_cas_get_one_with_their_first_change)
{
    struct life l;
    life_open(&l, "-m 64 -C");
    fixture_set(&l.f, "number", "41");
    life_again(&l, "-m 64");
    cr_assert_str_eq(value_of(&l, "number"), "41");
    uint64_t number;
    cr_assert_eq(item_cas(item_of(&l, "number")), 0);
    cr_assert_eq(fixture_arith(&l.f, "number", false, 1, &number), CACHE_OK);
    cr_assert_eq(number, 42);
    cr_assert_neq(item_cas(item_of(&l, "number")), 0);
    life_end(&l);
}

Test(restart, flash_comes_and_goes_without_the_items_of_memory)
{
    struct life l;
    char key[16];
    life_open(&l, "-m 64");
    fixture_set(&l.f, "ram", "value");
    for (unsigned i = 0; i < 6; i++) {
        life_again(&l, i % 2 == 0 ? with_flash("-m 64", 64) : "-m 64");
        cr_assert_str_eq(value_of(&l, "ram"), "value");
        if (i % 2 == 0) {
            snprintf(key, sizeof(key), "flash%u", i);
            cr_assert_str_eq(value_of(&l, "flash0"), "(none)");
            fixture_set(&l.f, key, "value");
            to_flash(&l, key);
            cr_assert_str_eq(value_of(&l, key), "value");
            cr_assert_eq(ext_reconcile(l.f.ext), 0);
        } else {
            cr_assert_str_eq(value_of(&l, key), "(none)");
        }
    }
    life_end(&l);
}

Test(restart, a_cut_file_starts_empty)
{
    leave_one_item("-m 64");
    cr_assert_eq(truncate(memory_file, 1 << 20), 0);
    expect_empty("-m 64", "it was cut off");
}

static void write_text(const char *path, const char *text)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

Test(restart, any_other_file_starts_empty_if_it_may)
{
    char words[128];
    write_text(memory_file, "hello");
    snprintf(words, sizeof(words), "-m 64 -o ext_format=%s", memory_file);
    expect_empty(words, "it is not a memory file");
}

/* memcached's own file is known by its metadata beside it, and nobody needs it any more. */
Test(restart, a_memory_file_of_memcached_starts_empty)
{
    char meta[128];
    snprintf(meta, sizeof(meta), "%s.meta", memory_file);
    write_text(memory_file, "items of memcached");
    write_text(meta, "Tversion 1\n");
    expect_empty("-m 64", "it is not a memory file");
    cr_assert_eq(access(meta, F_OK), -1);
}

/* Overwrites bytes of the file. */
static void damage(uint64_t offset, const void *bytes, size_t count)
{
    int fd = open(memory_file, O_RDWR);
    cr_assert_eq(pwrite(fd, bytes, count, (off_t)offset), (ssize_t)count);
    close(fd);
}

static uint64_t root_offset(enum arena_root_id id)
{
    return 4096 + (uint64_t)id * ARENA_ROOT_MODULE_BYTES;
}

Test(restart, each_damaged_root_starts_empty)
{
    static const struct {
        enum arena_root_id id;
        const char *reason;
    } roots[] = {{ARENA_ROOT_SLAB, "its item memory can't be used"},
                 {ARENA_ROOT_INDEX, "its index can't be used"},
                 {ARENA_ROOT_RESTART, "its making was interrupted"}};
    for (unsigned i = 0; i < ARRAY_COUNT(roots); i++) {
        leave_one_item("-m 64");
        damage(root_offset(roots[i].id), "damaged!", 8);
        expect_empty("-m 64", roots[i].reason);
        unlink(memory_file);
    }
}

Test(restart, a_clock_from_the_future_starts_empty)
{
    leave_one_item("-m 64");
    int64_t epochs[2] = {0, clock_mono_epoch_sec() + 100000};
    damage(root_offset(ARENA_ROOT_RESTART) + 8, epochs, sizeof(epochs));
    expect_empty("-m 64", "its clock can't go on");
}

/* What a cache with an object in RAM, one in an unflushed buffer and one in a written slot leaves;
 * `spoil` changes it in memory, just before the process ends. */
static void leave_damaged(void (*spoil)(struct life *l))
{
    struct life l;
    unlink(memory_file);
    unlink(flash_file);
    life_open(&l, with_flash("-m 64", 64));
    fixture_set(&l.f, "written", "one");
    to_flash(&l, "written");
    cr_assert_eq(ext_sync(l.f.ext, 20000), 0);
    fixture_set(&l.f, "buffered", "two");
    to_flash(&l, "buffered");
    fixture_set(&l.f, "key", "three");
    spoil(&l);
    life_end(&l);
    clock_setup();
}

static struct ext_wbuf *open_wbuf(struct life *l)
{
    return l->f.ext->streams[EXT_BUCKET_DEFAULT].open;
}

static struct ext_entry *open_entry(struct life *l)
{
    return ext_entry_at(open_wbuf(l)->memory + l->f.ext->wbuf_bytes, 0);
}

static struct ext_page *open_page(struct life *l)
{
    return &l->f.ext->pages[open_wbuf(l)->page];
}

/* The first field of shard s in the index's root (index.c). */
static _Atomic(uint64_t) *shard_state(struct life *l, unsigned s)
{
    return (_Atomic(uint64_t) *)((char *)arena_root(l->f.arena, ARENA_ROOT_INDEX) + 192 + 64 * s);
}

static void spoil_granule(struct life *l) { open_entry(l)->granule = 0x7ffffff; }
static void spoil_length(struct life *l) { open_entry(l)->record_bytes = 8; }
static void spoil_long(struct life *l) { open_entry(l)->record_bytes += 16; }
static void spoil_entry_hash(struct life *l) { open_entry(l)->hash ^= 1; }
static void spoil_count(struct life *l) { atomic_store(&open_wbuf(l)->root->count, 100000000); }
static void spoil_front(struct life *l) { atomic_store(&open_wbuf(l)->root->front_bytes, UINT32_MAX); }
static void spoil_bucket(struct life *l) { open_wbuf(l)->root->bucket = 99; }
static void spoil_wbuf_version(struct life *l) { open_wbuf(l)->root->version++; }
static void spoil_page_version(struct life *l) { atomic_store(&open_page(l)->version, 0); }
static void spoil_bad_chunk(struct life *l) { open_page(l)->bad_chunk = UINT16_MAX; }
static void spoil_page_bucket(struct life *l) { open_page(l)->bucket = 77; }
static void spoil_page_state(struct life *l) { atomic_store(&open_page(l)->state, 9); }
static void spoil_slots_used(struct life *l) { atomic_store(&open_page(l)->slots_used, 9999); }
static void spoil_next_version(struct life *l) { atomic_store(&l->f.ext->root->next_version, 0); }
static void spoil_stamp(struct life *l) { l->f.ext->tables->devices[0].stamp ^= 1; }
static void spoil_reclaim(struct life *l) { l->f.ext->tables->reclaim = l->f.ext->tables->pages; }
static void spoil_growing(struct life *l)
{
    atomic_store(shard_state(l, 5), atomic_load(shard_state(l, 5)) | 1u << 20 | UINT64_C(30) << 22);
}
static void spoil_rows(struct life *l) { atomic_store(shard_state(l, 5), 3); }
static void spoil_seed(struct life *l) { l->f.cache->root->hash_seed ^= 4; }
static void spoil_flush(struct life *l) { atomic_store(&l->f.cache->root->flush_unix, 1); }
static void spoil_planned(struct life *l) { atomic_store(&l->f.cache->root->planned_unix, 1); }
static void spoil_flush_cas(struct life *l) { atomic_store(&l->f.cache->root->flush_cas, 1); }
static void spoil_epoch(struct life *l)
{
    int64_t *root = arena_root(l->f.arena, ARENA_ROOT_RESTART);
    root[1] += 3600; /* within what a clock may be off */
}

Test(restart, each_damaged_number_starts_empty)
{
    static const char table[] = "the page table kept in memory is damaged",
                      buffers[] = "the write buffers kept in memory are damaged",
                      index[] = "its index can't be used", cache[] = "its cache can't be used";
    static const struct {
        void (*spoil)(struct life *l);
        const char *reason;
    } cases[] = {{spoil_granule, buffers},
                 {spoil_length, buffers},
                 {spoil_long, buffers},
                 {spoil_entry_hash, buffers},
                 {spoil_count, buffers},
                 {spoil_front, buffers},
                 {spoil_bucket, buffers},
                 {spoil_wbuf_version, buffers},
                 {spoil_page_version, buffers},
                 {spoil_bad_chunk, table},
                 {spoil_page_bucket, table},
                 {spoil_page_state, table},
                 {spoil_slots_used, table},
                 {spoil_next_version, table},
                 {spoil_stamp, "was written to by another process since"},
                 {spoil_reclaim, "the tables kept in memory overlap"},
                 {spoil_growing, index},
                 {spoil_rows, index},
                 {spoil_seed, cache},
                 {spoil_flush, cache},
                 {spoil_planned, cache},
                 {spoil_flush_cas, cache},
                 {spoil_epoch, "its clock can't go on"}};
    for (unsigned i = 0; i < ARRAY_COUNT(cases); i++) {
        leave_damaged(cases[i].spoil);
        expect_empty(with_flash("-m 64", 64), cases[i].reason);
    }
}

static void spoil_times(struct life *l)
{
    for (uint32_t i = 0; i < l->f.ext->page_count; i++) {
        atomic_store(&l->f.ext->pages[i].exptime_max, 1);
        atomic_store(&l->f.ext->pages[i].time_max, 1);
    }
}
static void spoil_counts(struct life *l)
{
    struct ext_page *p = open_page(l);
    atomic_store(&p->refs, 77);
    atomic_store(&p->objects, 77);
    atomic_store(&p->slots_busy, 77);
    atomic_store(&p->bytes_used, 77);
    atomic_store(&p->bytes_appended, 0);
    atomic_store(&p->bytes_real, UINT64_MAX);
    atomic_store(&p->retry_sec, UINT32_MAX);
    p->failures = UINT8_MAX;
}
static void spoil_seq(struct life *l) { atomic_store(&l->f.ext->root->next_seq, 0); }
static void spoil_cas(struct life *l) { atomic_store(&l->f.cache->root->cas_counter, 0); }
static void spoil_engines_flush(struct life *l)
{
    atomic_store(&l->f.ext->root->flush_unix, UINT32_MAX);
}
static void spoil_counters(struct life *l)
{
    memset((void *)l->f.ext->root->counters, 0xaa, sizeof(l->f.ext->root->counters));
}

/* Damage without loss: the wrong number is detected or rebuilt. */
Test(restart, other_damaged_numbers_cost_nothing)
{
    static void (*const spoils[])(struct life *) = {spoil_times, spoil_counts, spoil_seq, spoil_cas,
                                                    spoil_engines_flush, spoil_counters};
    for (unsigned i = 0; i < ARRAY_COUNT(spoils); i++) {
        struct life l;
        leave_damaged(spoils[i]);
        life_open(&l, with_flash("-m 64", 64));
        cr_assert(l.r.attached, "%u: %s", i, l.r.line);
        cr_assert_eq(ext_sync(l.f.ext, 20000), 0);
        for (unsigned step = 0; step < 100; step++)
            ext_maint_step(l.f.ext, (uint32_t)clock_unix_now_sec());
        cr_assert_str_eq(value_of(&l, "written"), "one", "%u", i);
        cr_assert_str_eq(value_of(&l, "buffered"), "two", "%u", i);
        cr_assert_str_eq(value_of(&l, "key"), "three", "%u", i);
        uint64_t old_cas = item_cas(item_of(&l, "key"));
        fixture_set(&l.f, "key", "four");
        cr_assert_gt(item_cas(item_of(&l, "key")), old_cas, "%u", i);
        /* The younger of two values on flash is known, though the older one's seq is from before. */
        fixture_set(&l.f, "buffered", "young");
        to_flash(&l, "buffered");
        cr_assert_str_eq(value_of(&l, "buffered"), "young", "%u", i);
        cr_assert_eq(ext_reconcile(l.f.ext), 0);
        life_end(&l);
    }
}

Test(restart, another_flash_file_is_a_new_device)
{
    char other[128];
    snprintf(other, sizeof(other), "%s.other", flash_file);
    struct life l;
    life_open(&l, with_flash("-m 64", 64));
    fixture_set(&l.f, "ram", "value");
    fixture_set(&l.f, "flash", "value");
    to_flash(&l, "flash");
    cr_assert_eq(ext_sync(l.f.ext, 20000), 0);
    life_end(&l);
    cr_assert_eq(rename(flash_file, other),
                 0); /* its inode stays in use, so the new file has another */
    life_open(&l, with_flash("-m 64", 64));
    cr_assert(l.r.attached);
    cr_assert_not_null(strstr(l.r.line, "is new, 1 file is gone"), "%s", l.r.line);
    cr_assert_eq(l.r.report.gone_objects, 1);
    cr_assert_str_eq(value_of(&l, "ram"), "value");
    cr_assert_str_eq(value_of(&l, "flash"), "(none)");
    cr_assert_str_eq(value_of(&l, "never"), "(none)");
    cr_assert_eq(l.f.stats.misses[MISS_flash_gone], 1);
    cr_assert_eq(l.f.stats.misses[MISS_never_stored], 1);
    fixture_set(&l.f, "flash", "young");
    to_flash(&l, "flash");
    life_end(&l);
    cr_assert_eq(rename(other, flash_file), 0); /* comes back, without what it held */
    life_open(&l, with_flash("-m 64", 64));
    cr_assert_str_eq(value_of(&l, "ram"), "value");
    cr_assert_str_eq(value_of(&l, "flash"), "(none)");
    cr_assert_eq(ext_reconcile(l.f.ext), 0);
    life_end(&l);
}

/* A process that used the flash file, but not the memory file, and was killed at once. */
static void use_flash_elsewhere(const char *words)
{
    char kept[sizeof(memory_file)];
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0) {
        struct life l;
        strcpy(kept, memory_file);
        strcat(memory_file, ".other");
        life_open(&l, words);
        unlink(memory_file);
        _exit(0);
    }
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert_eq(status, 0);
}

Test(restart, flash_that_another_process_used_since_starts_empty)
{
    char words[3][400];
    snprintf(words[0], sizeof(words[0]), "%s", with_flash("-m 64", 64));
    snprintf(words[1], sizeof(words[1]), "%s", with_flash("-m 64", 32)); /* of another size */
    snprintf(words[2], sizeof(words[2]),
             "-m 64 -o ext_path=%s:64m,ext_page_size=4,ext_wbuf_size=4,ext_persist", flash_file);
    for (unsigned i = 0; i < ARRAY_COUNT(words); i++) {
        struct life l;
        char checkpoint[128];
        life_open(&l, words[0]);
        fixture_set(&l.f, "key", "value");
        to_flash(&l, "key");
        cr_assert_eq(ext_sync(l.f.ext, 20000), 0);
        life_end(&l);
        use_flash_elsewhere(words[i]);
        expect_empty(words[0], "was written to by another process since");
        unlink(memory_file);
        snprintf(checkpoint, sizeof(checkpoint), "%s.checkpoint", flash_file);
        unlink(checkpoint);
    }
}

/* Killed between the marks of two devices. */
Test(restart, one_device_of_two_with_another_mark_is_enough_to_start_empty)
{
    char words[400], second[128], block[EXT_MARK_BYTES];
    snprintf(second, sizeof(second), "%s.second", flash_file);
    snprintf(words, sizeof(words),
             "-m 64 -o ext_path=%s:16m,ext_path=%s:16m,ext_page_size=2,ext_wbuf_size=2,"
             "ext_buffer_mem=24",
             flash_file, second);
    for (unsigned i = 0; i < 2; i++) {
        leave_one_item(words);
        int fd = open(i == 0 ? flash_file : second, O_RDWR);
        ext_mark_fill(block, hash_draw());
        cr_assert_eq(pwrite(fd, block, sizeof(block), 0), (ssize_t)sizeof(block));
        close(fd);
        expect_empty(words, "was written to by another process since");
        unlink(memory_file);
    }
    unlink(second);
}

/* The mark survives writes of its slot in every way: a restart after them attaches, and makes another. */
Test(restart, the_mark_outlives_the_records_beside_it)
{
    struct life l;
    const char *words = with_flash("-m 64", 64);
    life_open(&l, words);
    uint64_t before = 0;
    for (unsigned i = 0; i < 3; i++) {
        struct ext_mark_found found;
        uint64_t stamp = l.f.ext->tables->devices[0].stamp;
        cr_assert_neq(stamp, before);
        before = stamp;
        fixture_set(&l.f, "key", "value");
        to_flash(&l, "key");
        cr_assert_eq(ext_sync(l.f.ext, 20000), 0);
        cr_assert_eq(ext_mark_look(l.f.ext->devices[0].fd, &found), 0);
        cr_assert_eq(found.stamp, stamp);
        life_again(&l, words);
        cr_assert_str_eq(value_of(&l, "key"), "value");
    }
    life_end(&l);
}

Test(restart, a_second_process_is_refused)
{
    struct life first, second;
    life_open(&first, "-m 64");
    cr_assert_eq(life_try(&second, "-m 64"), -EBUSY);
    cr_assert_not_null(strstr(why, "another process uses it"), "%s", why);
    fixture_set(&first.f, "key", "value");
    cr_assert_str_eq(value_of(&first, "key"), "value");
    life_end(&first);
}

Test(restart, without_a_file_nothing_is_kept_and_nothing_said)
{
    for (unsigned i = 0; i < 2; i++) {
        struct settings s;
        char *argv[] = {"extant", "-m", "64"};
        struct restart r;
        cr_assert_eq(settings_parse(&s, 3, argv, stdout, stderr), SETTINGS_GO_ON);
        struct cache_config config;
        struct ext_tunables tunables;
        storage_config_init(&s, &config, &tunables);
        struct restart_options opt = storage_options(&s, &config, &tunables, 1);
        cr_assert_eq(restart_open(&opt, &r, why, sizeof(why)), 0, "%s", why);
        cr_assert(!r.attached);
        cr_assert_str_empty(r.line);
        restart_close(&r, true);
        settings_free(&s);
    }
}

/* ---- flash ---- */

Test(restart, objects_on_flash_are_readable_at_once)
{
    struct life l;
    char key[16], value[3000];
    memset(value, 'v', sizeof(value) - 1);
    value[sizeof(value) - 1] = '\0';
    const char *words = with_flash("-m 64", 64);
    life_open(&l, words);
    for (unsigned i = 0; i < 4000; i++) { /* 12 MB: some wbufs are written, one is open */
        snprintf(key, sizeof(key), "k%u", i);
        memcpy(value, key, strlen(key));
        fixture_set(&l.f, key, value);
        to_flash(&l, key);
    }
    struct ext_info before, after;
    ext_info(l.f.ext, &before);
    life_again(&l, words);
    ext_info(l.f.ext, &after);
    cr_assert_eq(l.r.report.flash_objects, 4000);
    cr_assert_eq(after.objects_used, before.objects_used);
    cr_assert_eq(after.bytes_used, before.bytes_used);
    for (unsigned i = 0; i < 4000; i++) {
        snprintf(key, sizeof(key), "k%u", i);
        memset(value, 'v', 8);
        memcpy(value, key, strlen(key));
        const char *got = value_of(&l, key);
        cr_assert_eq(memcmp(got, key, strlen(key)), 0, "%s: %.20s", key, got);
    }
    cr_assert_eq(ext_sync(l.f.ext, 20000), 0);
    cr_assert_eq(ext_reconcile(l.f.ext), 0);
    life_end(&l);
}

/* The memory's file system has no byte left, and the process is killed: the next one needs none. */
Test(restart, a_full_file_system_is_enough_to_start_again)
{
    char memory_dir[sizeof(memory_file)], filler[2 * sizeof(memory_file)];
    snprintf(memory_dir, sizeof(memory_dir), "%s", memory_file);
    if (mkdir(memory_dir, 0700) != 0 || unshare(CLONE_NEWNS) != 0 ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("tmpfs", memory_dir, "tmpfs", 0, "size=64m") != 0) {
        rmdir(memory_dir);
        cr_skip_test("no right to mount a small tmpfs");
    }
    snprintf(filler, sizeof(filler), "%s/filler", memory_dir);
    strcat(memory_file, "/memory");
    const char *words = with_flash("-m 8", 64);
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0) {
        struct life l;
        life_open(&l, words);
        fixture_set(&l.f, "flash", "one");
        to_flash(&l, "flash");
        fixture_set(&l.f, "ram", "two");
        int fd = open(filler, O_RDWR | O_CREAT, 0600);
        char piece[4096] = "x";
        while (write(fd, piece, sizeof(piece)) > 0)
            ;
        _exit(errno == ENOSPC ? 0 : 1);
    }
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert_eq(status, 0);
    struct life l;
    life_open(&l, words);
    cr_assert(l.r.attached, "%s", l.r.line);
    cr_assert_str_eq(value_of(&l, "flash"), "one");
    cr_assert_str_eq(value_of(&l, "ram"), "two");
    life_end(&l);
    unlink(filler);
    unlink(memory_file);
    umount(memory_dir);
    rmdir(memory_dir);
}

Test(restart, an_overwritten_value_on_flash_does_not_come_back)
{
    struct life l;
    const char *words = with_flash("-m 64", 64);
    life_open(&l, words);
    fixture_set(&l.f, "key", "one");
    to_flash(&l, "key");
    fixture_set(&l.f, "key", "two");
    cr_assert_eq(flash_words_of(&l, "key"), 1, "not yet checked");
    life_again(&l, words);
    cr_assert_eq(l.r.report.shadow_items, 1);
    cr_assert_str_eq(value_of(&l, "key"), "two");
    fixture_delete(&l.f, "key");
    cr_assert_str_eq(value_of(&l, "key"), "(none)");
    cr_assert_eq(flash_words_of(&l, "key"), 0);
    life_end(&l);
}

Test(restart, lost_checks_of_overwritten_values_are_found_again)
{
    struct life l;
    const char *words = with_flash("-m 64", 64);
    life_open(&l, words);
    fixture_set(&l.f, "key", "one");
    to_flash(&l, "key");
    fixture_set(&l.f, "key", "two");
    life_again(&l, words);
    fixture_settle(&l.f);
    cr_assert_eq(flash_words_of(&l, "key"), 0);
    cr_assert(!(item_flags(item_of(&l, "key")) & ITEM_MAY_HIDE_FLASH));
    cr_assert_str_eq(value_of(&l, "key"), "two");
    life_end(&l);
}

Test(restart, of_two_values_on_flash_the_younger_counts)
{
    struct life l;
    const char *words = with_flash("-m 64", 64);
    life_open(&l, words);
    fixture_set(&l.f, "key", "one");
    to_flash(&l, "key");
    fixture_set(&l.f, "key", "two");
    to_flash(&l, "key");
    cr_assert_eq(flash_words_of(&l, "key"), 2);
    life_again(&l, words);
    cr_assert_str_eq(value_of(&l, "key"), "two");
    cr_assert_eq(flash_words_of(&l, "key"), 1);
    life_end(&l);
}

Test(restart, the_order_of_two_values_on_flash_is_known_after_a_kill)
{
    struct life l;
    const char *words = with_flash("-m 64", 64);
    life_open(&l, words);
    fixture_set(&l.f, "key", "one");
    to_flash(&l, "key");
    fixture_set(&l.f, "key", "two");
    to_flash(&l, "key");
    life_again(&l, words);
    /* The queue of checks is gone; the walk finds the pair. */
    uint64_t at = 0;
    while (stale_walk_step(l.f.worker, &at))
        ;
    fixture_settle(&l.f);
    cr_assert_eq(flash_words_of(&l, "key"), 1);
    cr_assert_str_eq(value_of(&l, "key"), "two");
    life_end(&l);
}

/* Nothing tells of a damaged rank; but the records do, and every pair is compared after a start. */
Test(restart, a_damaged_rank_does_not_matter_once_the_records_are_compared)
{
    for (unsigned read_first = 0; read_first < 2; read_first++) {
        struct life l;
        char words[512];
        snprintf(words, sizeof(words), "%s", with_flash("-m 64", 64));
        unlink(memory_file);
        unlink(flash_file);
        life_open(&l, words);
        uint64_t hash = cache_hash(l.f.cache, "key", 3), at = 0;
        fixture_set(&l.f, "key", "old");
        to_flash(&l, "key");
        fixture_set(&l.f, "key", "new");
        to_flash(&l, "key");
        index_slot *slots[INDEX_MATCH_MAX];
        lock_take(index_lock(l.f.index, hash));
        cr_assert_eq(index_match(l.f.index, hash, slots), 2);
        for (unsigned i = 0; i < 2; i++) { /* the other way round */
            index_word w = index_load(slots[i]);
            index_replace(l.f.index, hash, slots[i],
                          index_make_flash(l.f.index, index_place(l.f.index, w), index_len(l.f.index, w), 0,
                                           1 - index_rank(l.f.index, w)));
        }
        lock_release(index_lock(l.f.index, hash));
        life_again(&l, words);
        if (read_first)
            cr_assert_str_eq(value_of(&l, "key"), "new");
        while (stale_walk_step(l.f.worker, &at))
            ;
        fixture_settle(&l.f);
        cr_assert_eq(flash_words_of(&l, "key"), 1);
        cr_assert_str_eq(value_of(&l, "key"), "new");
        life_end(&l);
    }
}

Test(restart, a_word_whose_page_holds_nothing_is_dropped)
{
    struct life l;
    const char *words = with_flash("-m 64", 64);
    life_open(&l, words);
    uint64_t hash = cache_hash(l.f.cache, "key", 3);
    lock_take(index_lock(l.f.index, hash));
    cr_assert_eq(
        index_insert(l.f.index, hash, index_make_flash(l.f.index, 2 * MiB / 16 * 20, 3, 0, 0)), 0);
    lock_release(index_lock(l.f.index, hash));
    life_again(&l, words);
    cr_assert_eq(l.r.report.dropped_objects, 1);
    cr_assert_eq(flash_words_of(&l, "key"), 0);
    life_end(&l);
}

/* ---- damage, and kills in the start that finds it ---- */

/* The next store to this part of the memory file kills the process that attaches. */
static struct {
    struct life *life;
    uint64_t offset;
    bool armed;
} trap;

static void on_trap(int sig)
{
    (void)sig;
    kill(getpid(), SIGKILL);
}

/* The cache opens one when the memory is mapped, and before objects are taken over. The system's, for all. */
#define OVERRIDE(type, name, parameters) type name parameters
OVERRIDE(int, eventfd, (unsigned value, int flags))
{
    if (trap.armed) {
        char *at = arena_base(trap.life->r.arena) + round_down(trap.offset, 4096);
        trap.armed = false;
        if (mprotect(at, 4096, PROT_READ) != 0 || signal(SIGSEGV, on_trap) == SIG_ERR)
            _exit(1);
    }
    return (int)syscall(SYS_eventfd2, value, flags);
}

/* A process that starts and is killed when it stores there. */
static void start_killed_at(const char *words, uint64_t offset)
{
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0) {
        struct life l;
        trap.life = &l;
        trap.offset = offset;
        trap.armed = true;
        clock_setup();
        _exit(life_try(&l, words) == 0 ? 0 : 2);
    }
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "it ended with %x", status);
}

/* Stores "old" of a key, then "new", so that their words are on different pages of the memory file. */
static const char *two_values(struct life *l, bool new_to_flash, index_slot **old, index_slot **neu)
{
    static char key[16];
    for (unsigned i = 0; i < 200; i++) {
        index_slot *slots[INDEX_MATCH_MAX];
        snprintf(key, sizeof(key), "key%u", i);
        uint64_t hash = cache_hash(l->f.cache, key, strlen(key));
        fixture_set(&l->f, key, "old");
        to_flash(l, key);
        fixture_set(&l->f, key, "new");
        if (new_to_flash)
            to_flash(l, key);
        lock_take(index_lock(l->f.index, hash));
        unsigned n = index_match(l->f.index, hash, slots);
        lock_release(index_lock(l->f.index, hash));
        cr_assert_eq(n, 2);
        index_word w = index_load(slots[0]);
        bool first_is_old = index_kind(l->f.index, w) == INDEX_FLASH && index_rank(l->f.index, w) == 0;
        *old = slots[!first_is_old];
        *neu = slots[first_is_old];
        if ((uintptr_t)*old / 4096 != (uintptr_t)*neu / 4096)
            return key;
    }
    cr_assert_fail("all words are on one page");
    return NULL;
}

/* The youngest value's word or item is damaged, so it is lost; the older value must not be served for it, even
 * if the starts that find this are killed before they have dropped the one word, and then the other. */
static void start_over_damage(bool on_flash, bool kill_again)
{
    struct life l;
    char words[512];
    index_slot *old, *neu;
    snprintf(words, sizeof(words), "%s", with_flash("-m 64", 64));
    life_open(&l, words);
    const char *key = two_values(&l, on_flash, &old, &neu);
    uint64_t hash = cache_hash(l.f.cache, key, strlen(key));
    lock_take(index_lock(l.f.index, hash));
    if (on_flash) /* its page holds nothing */
        index_replace(l.f.index, hash, neu, index_make_flash(l.f.index, 2 * MiB / 16 * 20, 3, 0, 1));
    lock_release(index_lock(l.f.index, hash));
    if (!on_flash)
        item_of(&l, key)->key_bytes = 200;
    uint64_t old_at = (uint64_t)((char *)old - arena_base(l.f.arena));
    uint64_t new_at = (uint64_t)((char *)neu - arena_base(l.f.arena));
    life_end(&l);
    start_killed_at(words, old_at);
    start_killed_at(words, kill_again ? old_at : new_at);
    clock_setup();
    life_open(&l, words);
    cr_assert(l.r.attached, "%s", l.r.line);
    cr_assert_str_eq(value_of(&l, key), "(none)");
    cr_assert_eq(flash_words_of(&l, key), 0);
    cr_assert_eq(ext_reconcile(l.f.ext), 0);
    life_end(&l);
}

Test(restart, a_lost_record_uncovers_no_older_value_even_if_starts_are_killed) { start_over_damage(true, false); }
Test(restart, a_lost_record_uncovers_nothing_if_starts_are_killed_at_one_place) { start_over_damage(true, true); }
Test(restart, a_lost_item_uncovers_no_older_value_even_if_starts_are_killed) { start_over_damage(false, false); }
Test(restart, a_lost_item_uncovers_nothing_if_starts_are_killed_at_one_place) { start_over_damage(false, true); }

/* ---- what only a kill leaves, by hand ---- */

Test(restart, references_of_dead_clients_are_forgotten)
{
    struct life l;
    life_open(&l, "-m 64");
    fixture_set(&l.f, "key", "value");
    atomic_store(&item_of(&l, "key")->refcount, 7);
    life_again(&l, "-m 64");
    cr_assert_eq(item_refs(item_of(&l, "key")), 1);
    life_end(&l);
}

Test(restart, a_word_is_enough_to_be_linked)
{
    struct life l;
    life_open(&l, "-m 64");
    fixture_set(&l.f, "key", "value");
    item_flag_clear(item_of(&l, "key"), ITEM_LINKED);
    life_again(&l, "-m 64");
    cr_assert_str_eq(value_of(&l, "key"), "value");
    cr_assert_eq(fixture_delete(&l.f, "key"), CACHE_OK);
    life_end(&l);
}

Test(restart, memory_of_an_item_that_was_being_received_is_free_again)
{
    struct life l;
    struct cache_op op;
    struct cache_totals t;
    life_open(&l, "-m 64");
    cache_op_init(&op, CACHE_ALLOC, "key", 3, cache_hash(l.f.cache, "key", 3));
    op.value_bytes = 100000;
    fixture_run(&l.f, &op);
    cr_assert_eq(op.status, CACHE_OK);
    life_again(&l, "-m 64");
    cache_totals(l.f.cache, &t);
    cr_assert_eq(t.bytes, 0);
    cr_assert_eq(slab_real_bytes(l.f.slab), 0);
    life_end(&l);
}

Test(restart, a_word_that_names_no_item_is_dropped_and_its_neighbours_stay)
{
    struct life l;
    life_open(&l, "-m 64");
    fixture_set(&l.f, "a", "value");
    fixture_set(&l.f, "b", "value");
    fixture_set(&l.f, "c", "value");
    item_of(&l, "b")->key_bytes = 200;
    life_again(&l, "-m 64");
    cr_assert_eq(l.r.report.dropped_items, 1);
    cr_assert_str_eq(value_of(&l, "a"), "value");
    cr_assert_str_eq(value_of(&l, "b"), "(none)");
    cr_assert_str_eq(value_of(&l, "c"), "value");
    life_end(&l);
}

static void count_items(struct life *l, uint64_t curr, uint64_t clean)
{
    struct cache_totals t;
    cache_totals(l->f.cache, &t);
    cr_assert_eq(t.curr_items, curr);
    cr_assert_eq(t.clean_items, clean);
}

/* Killed while the object is in RAM and on flash: it is there once, and no old value comes back. */
Test(restart, an_item_that_was_clean_hides_its_record)
{
    struct life l;
    const char *words = with_flash("-m 64", 64);
    life_open(&l, words);
    atomic_store(&l.f.config.ext_recache_rate, 1);
    static const char *const keys[] = {"a", "b", "c"};
    for (unsigned i = 0; i < 3; i++)
        fixture_set(&l.f, keys[i], "old");
    fixture_flush(&l.f);
    for (unsigned i = 0; i < 9; i++)
        cr_assert_str_eq(value_of(&l, keys[i / 3]), "old");
    count_items(&l, 3, 3);
    life_again(&l, words);
    cr_assert_eq(l.r.report.ram_items, 3);
    cr_assert_eq(l.r.report.shadow_items, 3);
    count_items(&l, 6, 0); /* until checks have compared them */
    cr_assert_eq(fixture_delete(&l.f, "a"), CACHE_OK);
    fixture_set(&l.f, "b", "new");
    life_again(&l, words);
    fixture_settle(&l.f);
    count_items(&l, 2, 0);
    cr_assert_str_eq(value_of(&l, "a"), "(none)");
    cr_assert_str_eq(value_of(&l, "b"), "new");
    cr_assert_str_eq(value_of(&l, "c"), "old");
    fixture_flush(&l.f);
    life_again(&l, words);
    fixture_settle(&l.f);
    count_items(&l, 2, 0);
    cr_assert_eq(l.r.report.flash_objects, 2);
    cr_assert_str_eq(value_of(&l, "b"), "new");
    cr_assert_str_eq(value_of(&l, "c"), "old");
    cr_assert_eq(fixture_delete(&l.f, "c"), CACHE_OK);
    cr_assert_str_eq(value_of(&l, "c"), "(none)");
    cr_assert_eq(ext_reconcile(l.f.ext), 0);
    life_end(&l);
}

/* It could never be found again, neither by its key nor when memory is wanted. */
Test(restart, an_item_whose_word_has_another_tag_is_dropped)
{
    struct life l;
    struct cache_totals t;
    life_open(&l, "-m 64");
    fixture_set(&l.f, "a", "value");
    fixture_set(&l.f, "b", "value");
    uint64_t a = cache_hash(l.f.cache, "a", 1), stray = a ^ 0x123;
    uint32_t handle = slab_handle_of(l.f.slab, item_of(&l, "a"));
    index_slot *slots[INDEX_MATCH_MAX];
    lock_take(index_lock(l.f.index, a));
    cr_assert_eq(index_match(l.f.index, a, slots), 1);
    index_clear(l.f.index, a, slots[0]);
    cr_assert_eq(index_insert(l.f.index, stray, index_make_ram(l.f.index, handle, 0)), 0);
    lock_release(index_lock(l.f.index, a));
    life_again(&l, "-m 64");
    cr_assert_eq(l.r.report.dropped_items, 1);
    cr_assert_eq(l.r.report.ram_items, 1);
    cache_totals(l.f.cache, &t);
    cr_assert_eq(t.curr_items, 1);
    cr_assert_str_eq(value_of(&l, "a"), "(none)");
    cr_assert_str_eq(value_of(&l, "b"), "value");
    cr_assert_eq(fixture_delete(&l.f, "b"), CACHE_OK);
    cr_assert_eq(slab_real_bytes(l.f.slab), 0);
    life_end(&l);
}

/* Damaged memory may hold any handle, also one outside of the arena and that of its root. */
Test(restart, words_with_handles_of_no_item_are_dropped)
{
    struct life l;
    life_open(&l, "-m 64");
    fixture_set(&l.f, "b", "value");
    unsigned shift = slab_handle_shift(l.f.slab);
    uint64_t units = arena_reserve_bytes(l.f.arena) >> shift;
    const uint32_t handles[] = {0, 1, (uint32_t)units - 1, (uint32_t)units, (uint32_t)units + 1000};
    index_slot *slots[INDEX_MATCH_MAX];
    for (uint64_t i = 0; i < ARRAY_COUNT(handles); i++) {
        uint64_t hash = i * 0x0123456789abcdef + 0x40;
        lock_take(index_lock(l.f.index, hash));
        cr_assert_eq(index_insert(l.f.index, hash, index_make_ram(l.f.index, handles[i] + (handles[i] == 0), 0)), 0);
        cr_assert_eq(index_match(l.f.index, hash, slots), 1);
        index_word w = index_load(slots[0]);
        if (handles[i] == 0) /* the index itself makes no such word */
            atomic_store(slots[0], w - 1);
        lock_release(index_lock(l.f.index, hash));
    }
    life_again(&l, "-m 64");
    cr_assert_eq(l.r.report.dropped_items, ARRAY_COUNT(handles));
    cr_assert_eq(l.r.report.ram_items, 1);
    cr_assert_str_eq(value_of(&l, "b"), "value");
    life_end(&l);
}

Test(restart, two_words_of_one_item_are_one_item)
{
    struct life l;
    struct cache_totals t;
    life_open(&l, "-m 64");
    fixture_set(&l.f, "key", "value");
    uint64_t hash = cache_hash(l.f.cache, "key", 3);
    lock_take(index_lock(l.f.index, hash));
    index_slot *slots[INDEX_MATCH_MAX];
    cr_assert_eq(index_match(l.f.index, hash, slots), 1);
    index_word w = index_load(slots[0]);
    cr_assert_eq(
        index_insert(l.f.index, hash, index_make_ram(l.f.index, index_handle(l.f.index, w), 0)),
        0);
    lock_release(index_lock(l.f.index, hash));
    life_again(&l, "-m 64");
    cache_totals(l.f.cache, &t);
    cr_assert_eq(t.curr_items, 1);
    cr_assert_str_eq(value_of(&l, "key"), "value");
    life_end(&l);
}

/* Runs a list of five items, newest first "e d c b a", through one broken state; returns its order
 * after. */
static const char *order_after(void (*breaking)(struct life *l), uint64_t *pieces)
{
    static char order[256];
    struct life l;
    life_open(&l, "-m 64 -o no_lru_maintainer");
    for (const char *key = "a\0b\0c\0d\0e\0"; *key; key += 2)
        fixture_set(&l.f, key, "value");
    uint8_t id = item_of(&l, "a")->lru_id;
    order_of(&l, id, order, sizeof(order));
    cr_assert_str_eq(order, "e d c b a ");
    breaking(&l);
    life_again(&l, "-m 64 -o no_lru_maintainer");
    *pieces = l.r.report.lru_pieces;
    order_of(&l, id, order, sizeof(order));
    cr_assert_eq(lru_count(l.f.cache->lru, id), strlen(order) / 2);
    for (const char *key = "a\0b\0c\0d\0e\0"; *key;
         key += 2) /* links are whole: each can be unlinked */
        fixture_delete(&l.f, key);
    cr_assert_eq(lru_count(l.f.cache->lru, id), 0);
    life_end(&l);
    return order;
}

static void unlink_half_done(struct life *l)
{
    item_of(l, "d")->next = item_of(l, "c")->next;
}

static void unlink_but_for_its_own_links(struct life *l)
{
    item_of(l, "d")->next = item_of(l, "c")->next;
    item_of(l, "b")->prev = item_of(l, "c")->prev;
}

static void unlink_and_nothing_more(struct life *l)
{
    unlink_but_for_its_own_links(l);
    item_of(l, "c")->next = item_of(l, "c")->prev = 0;
}

static void link_half_done(struct life *l)
{
    unlink_and_nothing_more(l);
    item_of(l, "c")->next = slab_handle_of(l->f.slab, item_of(l, "e"));
}

/* The handle of memory that is free. */
static slab_handle dead_handle(struct life *l)
{
    fixture_set(&l->f, "dead", "value");
    slab_handle h = slab_handle_of(l->f.slab, item_of(l, "dead"));
    fixture_delete(&l->f, "dead");
    return h;
}

static void substitute_half_done(struct life *l)
{
    item_of(l, "d")->next = dead_handle(l);
}

static void substitute_done_but_for_the_word(struct life *l)
{
    item_of(l, "d")->next = item_of(l, "b")->prev = dead_handle(l);
    item_of(l, "c")->next = item_of(l, "c")->prev = 0;
}

/* The neighbours and the parts that are not live yet agree. */
static void substitute_linked_but_for_the_word(struct life *l)
{
    substitute_done_but_for_the_word(l);
    struct item *d = item_of(l, "d"), *dead = slab_ptr(l->f.slab, d->next);
    dead->prev = slab_handle_of(l->f.slab, d);
    dead->next = slab_handle_of(l->f.slab, item_of(l, "b"));
    dead->lru_id = d->lru_id;
}

/* c has the word of the one that it takes over from, which has left one of its neighbours. */
static void supersede_half_done(struct life *l)
{
    unlink_and_nothing_more(l);
    item_of(l, "b")->prev = dead_handle(l);
}

static void head_substituted_but_for_the_word(struct life *l)
{
    item_of(l, "d")->prev = dead_handle(l);
    item_of(l, "e")->next = item_of(l, "e")->prev = 0;
}

static void nothing_known_but_time(struct life *l)
{
    item_of(l, "d")->next = item_of(l, "c")->prev = 0;
    for (const char *key = "c\0b\0a\0"; *key; key += 2)
        item_of(l, key)->time_sec = 1;
}

Test(restart, broken_lists_become_whole_again)
{
    static const struct {
        void (*breaking)(struct life *l);
        const char *order;
        uint64_t pieces;
    } states[] = {
        {unlink_half_done, "e d c b a ", 2},
        {unlink_but_for_its_own_links, "c e d b a ", 2},
        {unlink_and_nothing_more, "c e d b a ", 2},
        {link_half_done, "c e d b a ", 2},
        {substitute_half_done, "e d c b a ", 2},
        {substitute_done_but_for_the_word, "c e d b a ", 3},
        {substitute_linked_but_for_the_word, "c e d b a ", 3},
        {supersede_half_done, "c e d b a ", 3},
        {head_substituted_but_for_the_word, "e d c b a ", 2},
        {nothing_known_but_time, "e d c b a ", 2},
    };
    for (unsigned i = 0; i < ARRAY_COUNT(states); i++) {
        uint64_t pieces;
        const char *order = order_after(states[i].breaking, &pieces);
        cr_assert_str_eq(order, states[i].order, "state %u: %s", i, order);
        cr_assert_eq(pieces, states[i].pieces, "state %u", i);
        unlink(memory_file);
    }
}

/* ---- changes under -e ---- */

Test(restart, incr_looks_the_same_in_a_copy)
{
    struct life l;
    struct cache_view before, after;
    uint64_t number;
    char value[16];
    life_open(&l, "-m 64");
    fixture_store(&l.f, CACHE_SET, "n", "10", 2, 5, 0, 0);
    fixture_get(&l.f, "n", NULL, 0, &before);
    struct item *was = item_of(&l, "n");
    cr_assert_eq(fixture_arith(&l.f, "n", true, 1, &number), CACHE_OK);
    cr_assert_eq(number, 9);
    cr_assert_neq(item_of(&l, "n"), was);
    fixture_get(&l.f, "n", value, sizeof(value), &after);
    cr_assert_str_eq(value, "9 ");
    cr_assert_eq(after.client_flags, 5);
    cr_assert_eq(after.cas, before.cas + 1);
    cr_assert_eq(lru_count(l.f.cache->lru, item_of(&l, "n")->lru_id), 1);
    life_end(&l);
}

Test(restart, md_i_marks_a_copy)
{
    struct life l;
    struct cache_view v;
    struct cache_op op;
    life_open(&l, "-m 64");
    fixture_set(&l.f, "key", "value");
    struct item *was = item_of(&l, "key");
    cache_op_init(&op, CACHE_DELETE, "key", 3, cache_hash(l.f.cache, "key", 3));
    op.options = CACHE_F_META | CACHE_F_INVALIDATE;
    fixture_run(&l.f, &op);
    cr_assert_eq(op.status, CACHE_OK);
    cache_release(l.f.worker, &op);
    cr_assert_neq(item_of(&l, "key"), was);
    life_again(&l, "-m 64");
    cr_assert_eq(fixture_get(&l.f, "key", NULL, 0, &v), CACHE_OK);
    cr_assert(v.stale);
    cr_assert_eq(v.value_bytes, 5);
    life_end(&l);
}

/* Items of a life with the other setting of -C: a copy in the form of new items takes their place. */
static void changes_items_of(const char *before, const char *after, bool have_cas)
{
    struct life l;
    struct cache_view v;
    struct cache_op op;
    uint64_t number;
    life_open(&l, before);
    fixture_set(&l.f, "number", "41");
    fixture_set(&l.f, "long", "100");
    cr_assert_eq(fixture_store(&l.f, CACHE_SET, "key", "value", 5, 7, 0, 0), CACHE_OK);
    life_again(&l, after);
    cr_assert_eq(fixture_arith(&l.f, "number", false, 1, &number), CACHE_OK);
    cr_assert_eq(number, 42);
    cr_assert_eq(fixture_arith(&l.f, "long", true, 1, &number), CACHE_OK);
    cr_assert_eq(number, 99);
    cache_op_init(&op, CACHE_DELETE, "key", 3, cache_hash(l.f.cache, "key", 3));
    op.options = CACHE_F_META | CACHE_F_INVALIDATE;
    fixture_run(&l.f, &op);
    cr_assert_eq(op.status, CACHE_OK);
    cache_release(l.f.worker, &op);
    for (unsigned i = 0; i < 2; i++) {
        cr_assert_str_eq(value_of(&l, "number"), "42");
        cr_assert_str_eq(value_of(&l, "long"), "99 "); /* as long as it was, as always */
        cr_assert_eq(fixture_get(&l.f, "key", NULL, 0, &v), CACHE_OK);
        cr_assert(v.stale && v.value_bytes == 5 && v.client_flags == 7);
        cr_assert_eq(item_cas(item_of(&l, "key")) != 0, have_cas);
        life_again(&l, after);
    }
    life_end(&l);
}

Test(restart, items_with_cas_change_in_a_life_without)
{
    changes_items_of("-m 64", "-m 64 -C", false);
}

Test(restart, items_without_cas_change_in_a_life_with_it)
{
    changes_items_of("-m 64 -C", "-m 64", true);
}

/* By its cas a flush_all knows what was stored before it in the same second; an item without one has only its time. */
Test(restart, items_without_cas_do_not_outlive_a_flush_all_by_being_used)
{
    struct life l;
    struct cache_view v;
    life_open(&l, "-m 64 -C");
    fixture_set(&l.f, "got", "value");
    fixture_set(&l.f, "added", "value");
    life_again(&l, "-m 64");
    clock_shift(10);
    for (unsigned i = 0; i < 4; i++)
        cr_assert_eq(fixture_get(&l.f, "got", NULL, 0, &v), CACHE_OK);
    cr_assert_eq(fixture_store(&l.f, CACHE_ADD, "added", "x", 1, 0, 0, 0), CACHE_NOT_STORED);
    cache_flush_all(l.f.cache, 0);
    fixture_set(&l.f, "after", "value");
    cr_assert_str_eq(value_of(&l, "got"), "(none)");
    cr_assert_str_eq(value_of(&l, "added"), "(none)");
    cr_assert_str_eq(value_of(&l, "after"), "value");
    life_end(&l);
}

/* ---- kills under load ---- */

#define LOAD_THREADS 3
#define LOAD_KEYS 300 /* of each thread; the last tenth are numbers */
#define LOAD_VALUE_MAX 6000
#define LOAD_FAR_SEC 1000000

struct state { /* of a key, as a client knows it */
    bool exists, stale;
    uint32_t version; /* of the value; 0 for numbers */
    uint32_t appended;
    uint32_t exptime_sec;
    uint64_t number;
};

/* What happened to a key, in memory that outlives the process. `next` counts from before the op
 * until `acked` holds it: an op that was begun may have happened; one that was answered must have.
 */
struct history {
    struct state acked, next;
    _Atomic(int) phase; /* 0 quiet, 1 begun, 2 answered */
};

struct load {
    _Atomic(bool) running;
    uint64_t seed;
    struct history keys[LOAD_THREADS][LOAD_KEYS];
    _Atomic(uint64_t) ops;
};

struct load_thread {
    struct life *life;
    struct load *load;
    unsigned id;
    struct fixture f;
    uint64_t random;
    pthread_t thread;
};

static uint32_t random_below(uint64_t *state, uint32_t bound)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (uint32_t)((*state >> 20) % bound);
}

static bool is_number(unsigned key) { return key >= LOAD_KEYS - LOAD_KEYS / 10; }

/* The bytes that a key has in a state; each value tells its key and version all along. */
static size_t value_in(unsigned thread, unsigned key, const struct state *s, char *value)
{
    if (is_number(key))
        return (size_t)sprintf(value, "%" PRIu64, s->number);
    uint64_t random = (s->version * 1000 + key) * 2654435761u + thread + 1;
    size_t bytes = 30 + random_below(&random, LOAD_VALUE_MAX);
    for (size_t at = 0; at < bytes; at += 16)
        sprintf(value + at, "%u.%03u.%010u;", thread % 10, key, s->version);
    memset(value + bytes, '+', s->appended);
    return bytes + s->appended;
}

/* Does a number that was counted down keep the length it had? Then spaces follow. */
static bool same_value(unsigned thread, unsigned key, const struct state *s,
                       const struct cache_view *v)
{
    static _Thread_local char value[LOAD_VALUE_MAX + 4096];
    size_t bytes = value_in(thread, key, s, value);
    if (is_number(key))
        while (bytes < v->value_bytes && bytes < 30)
            value[bytes++] = ' ';
    return v->value_bytes == bytes && memcmp(v->value, value, bytes) == 0;
}

static bool is_in(unsigned thread, unsigned key, const struct state *s, enum cache_status status,
                  const struct cache_view *v)
{
    if (!s->exists)
        return status == CACHE_NOT_FOUND;
    return status == CACHE_OK && same_value(thread, key, s, v) && v->client_flags == s->version &&
           v->exptime_sec == s->exptime_sec && v->stale == s->stale;
}

static enum cache_status load_store(struct load_thread *t, unsigned key, enum cache_store_mode mode,
                                    const char *name, const struct state *s)
{
    static _Thread_local char value[LOAD_VALUE_MAX + 4096];
    if (mode == CACHE_APPEND)
        return fixture_store(&t->f, mode, name, "+", 1, s->version, 0, 0);
    size_t bytes = value_in(t->id, key, s, value);
    uint64_t cas = 0;
    if (mode == CACHE_CAS) {
        struct cache_view v;
        if (fixture_get(&t->f, name, NULL, 0, &v) != CACHE_OK)
            return CACHE_NOT_FOUND;
        cas = v.cas;
    }
    return fixture_store(&t->f, mode, name, value, bytes, s->version, 0, cas);
}

static enum cache_status load_invalidate(struct load_thread *t, const char *name)
{
    struct cache_op op;
    cache_op_init(&op, CACHE_DELETE, name, (uint8_t)strlen(name),
                  cache_hash(t->f.cache, name, strlen(name)));
    op.options = CACHE_F_META | CACHE_F_INVALIDATE;
    fixture_run(&t->f, &op);
    enum cache_status status = op.status;
    cache_release(t->f.worker, &op);
    return status;
}

static void load_one(struct load_thread *t)
{
    unsigned key = random_below(&t->random, LOAD_KEYS);
    struct history *h = &t->load->keys[t->id][key];
    struct state s = h->acked;
    char name[32];
    enum cache_status status = CACHE_OK;
    uint64_t number;
    snprintf(name, sizeof(name), "thread%u:key%u", t->id, key);
    enum { SET, DELETE, TOUCH, APPEND, CAS, STALE, INCR, DECR } what;
    uint32_t dice = random_below(&t->random, 100);
    if (is_number(key))
        what = !s.exists || dice < 5 ? SET : dice < 10 ? DELETE : dice < 60 ? INCR : DECR;
    else
        what = !s.exists || dice < 40 ? SET
               : dice < 55            ? DELETE
               : dice < 70            ? TOUCH
               : dice < 80            ? APPEND
               : dice < 90            ? CAS
                                      : STALE;
    switch (what) {
    case SET:
    case CAS:
        s = (struct state){.exists = true, .version = is_number(key) ? 0 : s.version + 1,
                           .number = is_number(key) ? 95 + random_below(&t->random, 1000) : 0};
        break;
    case DELETE:
        s.exists = false;
        break;
    case TOUCH:
        s.exptime_sec = LOAD_FAR_SEC + random_below(&t->random, 1000);
        break;
    case APPEND: /* as memcached: a new item, with the old one's expiry and flags, not stale */
        s.appended++;
        s.stale = false;
        break;
    case STALE:
        s.stale = true;
        break;
    case INCR:
        s.number += 7;
        break;
    case DECR:
        s.number -= s.number < 3 ? s.number : 3;
        break;
    }
    h->next = s;
    atomic_store(&h->phase, 1);
    if (what == SET || what == CAS || what == APPEND)
        status = load_store(t, key,
                            what == SET   ? CACHE_SET
                            : what == CAS ? CACHE_CAS
                                          : CACHE_APPEND,
                            name, &s);
    else if (what == DELETE)
        status = fixture_delete(&t->f, name);
    else if (what == TOUCH)
        status = fixture_touch(&t->f, name, s.exptime_sec);
    else if (what == STALE)
        status = load_invalidate(t, name);
    else
        status = fixture_arith(&t->f, name, what == DECR, what == DECR ? 3 : 7, &number);
    if (status != CACHE_OK) {
        fprintf(stderr, "op %d on %s: status %d\n", (int)what, name, (int)status);
        abort();
    }
    atomic_store(&h->phase, 2);
    h->acked = s;
    atomic_store(&h->phase, 0);
    atomic_fetch_add(&t->load->ops, 1);
}

static void *load_thread(void *arg)
{
    struct load_thread *t = arg;
    t->f = t->life->f;
    t->f.ext = NULL; /* reclaim is the maintenance thread's */
    t->f.worker = cache_worker_create(t->f.cache, &t->f.stats);
    for (;;)
        load_one(t);
    return NULL;
}

/* The process that will be killed. */
static _Noreturn void load_run(struct load *load, const char *words)
{
    static struct load_thread threads[LOAD_THREADS];
    struct life l;
    clock_setup();
    if (life_try(&l, words) != 0) {
        fprintf(stderr, "%s\n", why);
        abort();
    }
    struct maint_options mo = {.cache = l.r.cache};
    if (!maint_create(&mo))
        abort();
    for (unsigned i = 0; i < LOAD_THREADS; i++) {
        threads[i] = (struct load_thread){.life = &l, .load = load, .id = i,
                                          .random = load->seed * 977 + i * 31 + 1};
        pthread_create(&threads[i].thread, NULL, load_thread, &threads[i]);
    }
    atomic_store(&load->running, true);
    for (;;)
        pause();
}

static void pause_ms(unsigned ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

/* Takes over the content, compares each key with its history, continues from there. */
static void load_check(struct load *load, const char *words, unsigned cycle)
{
    struct life l;
    char name[32];
    clock_setup();
    life_open(&l, words);
    cr_assert(l.r.attached, "%s", l.r.line);
    cr_assert_eq(l.r.report.dropped_items + l.r.report.dropped_objects, 0, "%s", l.r.line);
    for (unsigned thread = 0; thread < LOAD_THREADS; thread++) {
        for (unsigned key = 0; key < LOAD_KEYS; key++) {
            struct history *h = &load->keys[thread][key];
            struct cache_op op;
            int phase = atomic_load(&h->phase);
            snprintf(name, sizeof(name), "thread%u:key%u", thread, key);
            cache_op_init(&op, CACHE_GET, name, (uint8_t)strlen(name),
                          cache_hash(l.f.cache, name, strlen(name)));
            fixture_run(&l.f, &op);
            bool before = is_in(thread, key, &h->acked, op.status, &op.view);
            bool after = is_in(thread, key, &h->next, op.status, &op.view);
            cr_assert(phase == 0   ? before
                      : phase == 2 ? after
                                   : before || after,
                      "cycle %u, %s, phase %d: status %d, value %.*s (%u), flags %u, exptime %u, "
                      "stale %d; "
                      "acked: exists %d version %u appended %u number %" PRIu64
                      "; next: %d %u %u %" PRIu64,
                      cycle, name, phase, (int)op.status, op.status == CACHE_OK ? 16 : 0,
                      op.view.value, op.view.value_bytes, op.view.client_flags, op.view.exptime_sec,
                      op.view.stale, h->acked.exists, h->acked.version, h->acked.appended,
                      h->acked.number, h->next.exists, h->next.version, h->next.appended,
                      h->next.number);
            if (phase == 2 || (phase == 1 && !before))
                h->acked = h->next;
            atomic_store(&h->phase, 0);
            cache_release(l.f.worker, &op);
        }
    }
    struct cache_totals t;
    cache_totals(l.f.cache, &t);
    if (l.f.ext) {
        fixture_settle(&l.f);
        cr_assert_eq(ext_sync(l.f.ext, 20000), 0);
        cr_assert_eq(ext_reconcile(l.f.ext), 0);
    }
    life_end(&l);
}

static void kill_under_load(const char *words, unsigned cycles, uint64_t seed)
{
    struct load *load =
        mmap(NULL, sizeof(*load), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(load, MAP_FAILED);
    uint64_t random = seed;
    for (unsigned cycle = 0; cycle < cycles; cycle++) {
        load->seed = seed + cycle;
        atomic_store(&load->running, false);
        pid_t pid = fork();
        cr_assert_geq(pid, 0);
        if (pid == 0)
            load_run(load, words);
        int status = 0;
        while (!atomic_load(&load->running) && waitpid(pid, &status, WNOHANG) == 0)
            pause_ms(1);
        pause_ms(random_below(&random, 60));
        kill(pid, SIGKILL);
        if (waitpid(pid, &status, 0) == pid)
            cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "status %x", status);
        load_check(load, words, cycle);
    }
    cr_assert_gt(atomic_load(&load->ops), cycles);
    munmap(load, sizeof(*load));
}

Test(restart, kills_under_load_lose_nothing)
{
    kill_under_load("-m 64", 15, 20260101);
}

Test(restart, kills_under_load_with_flash_lose_nothing)
{
    kill_under_load(with_flash("-m 4 -I 512k -o ext_item_age=0,ext_item_size=1", 128), 15,
                    20260102);
}

Test(restart, kills_under_load_with_a_flat_lru_lose_nothing)
{
    kill_under_load("-m 64 -o no_lru_maintainer", 5, 20260103);
}

/* ---- a kill at each change of a key's words ---- */

/* A process does one operation and is stopped after each instruction. Each time that the words of the key's two
 * buckets have changed, its memory is copied: what a process that starts with the copy serves has to be the
 * value before the operation or the one after it. Nothing is written to flash meanwhile. */
struct kill_case {
    const char *name;
    void (*prepare)(struct life *l);
    void (*operate)(struct life *l);
    const char *before, *after;
    bool may_lose; /* what can't be read is dropped and counted, so nothing may be left */
};

#define KILL_KEY "k"
/* Exit code of the traced run: the number of changes, or one of the last two. */
enum { KILL_CHANGES_MAX = 64, KILL_STEPS = 400, PAGE_BYTES = 4096, KILL_FORBIDDEN = 254, KILL_BROKEN = 255 };

static void set_on_flash(struct life *l, const char *value)
{
    fixture_set(&l->f, KILL_KEY, value);
    to_flash(l, KILL_KEY);
}

/* Reclaim gives up the word of this rank. */
static void drop_rank(struct life *l, unsigned rank)
{
    struct cache *c = l->f.cache;
    struct ext_callbacks cb = cache_ext_callbacks(c);
    uint64_t hash = cache_hash(c, KILL_KEY, strlen(KILL_KEY));
    index_slot *slots[INDEX_MATCH_MAX];
    index_word word = 0;
    struct lock *lock = index_lock(c->index, hash);
    lock_take(lock);
    unsigned n = index_match(c->index, hash, slots);
    for (unsigned i = 0; i < n; i++) {
        index_word w = index_load(slots[i]);
        if (index_kind(c->index, w) == INDEX_FLASH && index_rank(c->index, w) == rank)
            word = w;
    }
    lock_release(lock);
    cb.dropped(cb.ctx, hash, index_place(c->index, word), EXT_DROP_EVICTED, 64);
}

static void prepare_two_on_flash(struct life *l)
{
    set_on_flash(l, "old");
    set_on_flash(l, "new");
}

static void prepare_many_on_flash(struct life *l)
{
    static const char *const values[] = {"1", "2", "old", "new"};
    for (unsigned i = 0; i < ARRAY_COUNT(values); i++)
        set_on_flash(l, values[i]);
}

static void prepare_hidden(struct life *l)
{
    prepare_two_on_flash(l);
    fixture_set(&l->f, KILL_KEY, "newest");
}

/* The ranks of the words are 1 and more, up to the highest; a flush has to bring all of them down. */
static void prepare_many_hidden(struct life *l)
{
    prepare_many_on_flash(l);
    drop_rank(l, 0);
    fixture_set(&l->f, KILL_KEY, "newest");
}

static void prepare_dead_hider(struct life *l)
{
    prepare_two_on_flash(l);
    fixture_store(&l->f, CACHE_SET, KILL_KEY, "dead", 4, 0, CLOCK_EXPIRED_SEC, 0);
}

static void prepare_dead_on_flash(struct life *l)
{
    set_on_flash(l, "old");
    fixture_store(&l->f, CACHE_SET, KILL_KEY, "dead", 4, 0, CLOCK_EXPIRED_SEC, 0);
    to_flash(l, KILL_KEY);
}

/* Bytes in the memory file that were inverted, so that their records can't be read until the next process
 * starts. */
static struct spoiled {
    off_t at[INDEX_MATCH_MAX];
    unsigned count;
} *spoiled;

static char *buffered(struct life *l, ext_place place)
{
    struct extstore *e = l->f.ext;
    uint64_t slot = ext_place_slot(e, place);
    for (uint32_t i = 0; i < e->wbuf_count; i++)
        if (e->wbufs[i].slot == slot)
            return e->wbufs[i].memory + (place - ext_slot_place(e, slot)) * EXT_GRANULE_BYTES;
    return NULL;
}

/* Gives the key's flash words the same rank, as the oldest of many values have, and makes all of them unreadable.
 * With turn, they also change places. */
static void tie_and_spoil(struct life *l, bool turn)
{
    struct cache *c = l->f.cache;
    uint64_t hash = cache_hash(c, KILL_KEY, strlen(KILL_KEY));
    index_slot *slots[INDEX_MATCH_MAX];
    index_word words[INDEX_MATCH_MAX];
    struct lock *lock = index_lock(c->index, hash);
    lock_take(lock);
    unsigned n = index_match(c->index, hash, slots);
    for (unsigned i = 0; i < n; i++)
        words[i] = index_load(slots[i]);
    for (unsigned i = 0; i < n; i++) {
        index_word w = words[turn ? n - 1 - i : i];
        index_replace(c->index, hash, slots[i],
                      index_make_flash(c->index, index_place(c->index, w), index_len(c->index, w), 0, 1));
        char *record = buffered(l, index_place(c->index, w));
        record[4] ^= 1;
        spoiled->at[spoiled->count++] = record + 4 - arena_base(c->arena);
    }
    lock_release(lock);
}

static void prepare_unreadable(struct life *l)
{
    prepare_two_on_flash(l);
    tie_and_spoil(l, false);
}

static void prepare_unreadable_turned(struct life *l)
{
    prepare_two_on_flash(l);
    tie_and_spoil(l, true);
}

static void operate_set(struct life *l) { fixture_set(&l->f, KILL_KEY, "set"); }
static void operate_delete(struct life *l) { fixture_delete(&l->f, KILL_KEY); }
static void operate_touch(struct life *l) { fixture_touch(&l->f, KILL_KEY, clock_now_sec() + 1000); }
static void operate_get(struct life *l) { fixture_get(&l->f, KILL_KEY, NULL, 0, NULL); }
static void operate_flush(struct life *l) { to_flash(l, KILL_KEY); }
static void operate_check(struct life *l) { fixture_settle(&l->f); }
static void operate_append(struct life *l)
{
    fixture_store(&l->f, CACHE_APPEND, KILL_KEY, "+", 1, 0, 0, 0);
}

static void operate_unlink(struct life *l)
{
    struct cache *c = l->f.cache;
    uint64_t hash = cache_hash(c, KILL_KEY, strlen(KILL_KEY));
    struct item *it = item_of(l, KILL_KEY);
    struct lock *lock = index_lock(c->index, hash);
    lock_take(lock);
    item_unlink_hiding(c, it, hash);
    lock_release(lock);
}

static void operate_drop_younger(struct life *l)
{
    drop_rank(l, 1);
    fixture_settle(&l->f);
}

static void operate_drop_youngest(struct life *l)
{
    drop_rank(l, INDEX_RANK_MAX);
    fixture_settle(&l->f);
}

#define NOTHING "(none)"
static const struct kill_case kill_cases[] = {
    {"set over four on flash", prepare_many_on_flash, operate_set, "new", "set", false},
    {"set over a hider", prepare_hidden, operate_set, "newest", "set", false},
    {"append to one on flash", prepare_two_on_flash, operate_append, "new", "new+", false},
    {"delete of four on flash", prepare_many_on_flash, operate_delete, "new", NOTHING, false},
    {"delete of a hider", prepare_hidden, operate_delete, "newest", NOTHING, false},
    {"get of a dead hider", prepare_dead_hider, operate_get, NOTHING, NOTHING, false},
    {"touch of one on flash", prepare_two_on_flash, operate_touch, "new", "new", false},
    {"flush that brings ranks down", prepare_many_hidden, operate_flush, "newest", "newest", false},
    {"flush of a dead hider", prepare_dead_hider, operate_flush, NOTHING, NOTHING, false},
    {"check under a hider", prepare_hidden, operate_check, "newest", "newest", false},
    {"check of four on flash", prepare_many_on_flash, operate_check, "new", "new", false},
    {"drop of the younger of two", prepare_two_on_flash, operate_drop_younger, "new", NOTHING, false},
    {"drop of the youngest of four", prepare_many_on_flash, operate_drop_youngest, "new", NOTHING, false},
    {"drop of a dead one", prepare_dead_on_flash, operate_drop_younger, NOTHING, NOTHING, false},
    {"unlink of a hider", prepare_hidden, operate_unlink, "newest", NOTHING, true},
};

static const struct kill_case unreadable_cases[] = {
    {"delete of two that can't be read", prepare_unreadable, operate_delete, "new", NOTHING, true},
    {"delete of two that can't be read, turned", prepare_unreadable_turned, operate_delete, "new", NOTHING, true},
    {"drop of one of two that can't be read", prepare_unreadable, operate_drop_younger, "new", NOTHING, true},
    {"drop of one of two that can't be read, turned", prepare_unreadable_turned, operate_drop_younger, "new",
     NOTHING, true},
};

static void words_of(struct life *l, uint64_t hash, index_word words[INDEX_MATCH_MAX])
{
    index_slot *slots[INDEX_MATCH_MAX];
    unsigned n = index_match(l->f.index, hash, slots);
    memset(words, 0, INDEX_MATCH_MAX * sizeof(words[0]));
    for (unsigned i = 0; i < n; i++)
        words[i] = index_load(slots[i]);
}

static void copy_name(char name[128], const char *file, unsigned nth)
{
    snprintf(name, 128, "%s.%u", file, nth);
}

/* An existing copy is overwritten in place. */
static bool copy_file(const char *from, const char *to)
{
    pid_t pid;
    int status;
    const char *const argv[] = {"cp", "--sparse=always", from, to, NULL};
    return posix_spawnp(&pid, "cp", NULL, NULL, (char *const *)argv, environ) == 0 &&
           waitpid(pid, &status, 0) == pid && status == 0;
}

/* The child can't write to the pages of the key's two buckets: a store there faults, the handler opens them and
 * stops the child, which is then stepped over the store. Stepping the whole operation takes ten times as long. */
static struct {
    void *page[2];
    bool is_open;
} guard;

static void guard_set(bool is_open)
{
    guard.is_open = is_open;
    for (unsigned i = 0; i < ARRAY_COUNT(guard.page); i++)
        syscall(SYS_mprotect, guard.page[i], PAGE_BYTES, is_open ? PROT_READ | PROT_WRITE : PROT_READ);
}

/* A store to the pages, or the tracer that closes them again. */
static void on_guard(int sig)
{
    (void)sig;
    if (guard.is_open) {
        guard_set(false);
        return;
    }
    guard_set(true);
    syscall(SYS_kill, getpid(), SIGSTOP);
}

static void guard_buckets(struct life *l)
{
    struct index_spot spot;
    index_find(l->f.index, cache_hash(l->f.cache, KILL_KEY, strlen(KILL_KEY)), &spot);
    for (unsigned i = 0; i < ARRAY_COUNT(guard.page); i++)
        guard.page[i] = (void *)((uintptr_t)spot.bucket[i] & ~(uintptr_t)(PAGE_BYTES - 1));
    sigaction(SIGSEGV, &(struct sigaction){.sa_handler = on_guard, .sa_flags = SA_NODEFER}, NULL);
    guard_set(false);
}

/* Steps the child out of the handler and over the store that it faulted at, and on, with a copy of the memory
 * file at each change of the key's words. False: it failed. */
static bool step_over_store(struct life *l, pid_t child, index_word words[INDEX_MATCH_MAX], unsigned *changes)
{
    uint64_t hash = cache_hash(l->f.cache, KILL_KEY, strlen(KILL_KEY));
    index_word now[INDEX_MATCH_MAX];
    char name[128];
    int status;
    for (unsigned step = 0; step < KILL_STEPS; step++) {
        if (ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) != 0 || waitpid(child, &status, 0) != child ||
            !WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP)
            return false;
        words_of(l, hash, now);
        if (memcmp(words, now, sizeof(now)) == 0)
            continue;
        memcpy(words, now, sizeof(now));
        copy_name(name, memory_file, ++*changes);
        if (*changes > KILL_CHANGES_MAX || !copy_file(memory_file, name))
            return false;
    }
    return true;
}

/* Runs the stopped child to its end and copies its memory at each change. Returns the number of changes, or
 * KILL_BROKEN. */
static int run_to_end(struct life *l, pid_t child)
{
    uint64_t hash = cache_hash(l->f.cache, KILL_KEY, strlen(KILL_KEY));
    index_word words[INDEX_MATCH_MAX], last[INDEX_MATCH_MAX];
    unsigned changes = 0;
    int status, sig = 0;
    lock_take(index_lock(l->f.index, hash)); /* belongs to this process and ends with it */
    words_of(l, hash, words);
    while (ptrace(PTRACE_CONT, child, NULL, sig) == 0 && waitpid(child, &status, 0) == child) {
        words_of(l, hash, last);
        if (memcmp(words, last, sizeof(last)) != 0)
            break; /* a store that wasn't seen */
        if (WIFEXITED(status))
            return WEXITSTATUS(status) == 0 ? (int)changes : KILL_BROKEN;
        if (!WIFSTOPPED(status))
            break;
        sig = WSTOPSIG(status);
        if (sig == SIGSTOP) {
            if (!step_over_store(l, child, words, &changes))
                break;
            sig = SIGSEGV; /* closes the pages */
        }
    }
    return KILL_BROKEN;
}

/* The two take turns, so one processor for both is faster. */
static void stay_on_one_processor(void)
{
    cpu_set_t set;
    int cpu = sched_getcpu();
    CPU_ZERO(&set);
    CPU_SET(cpu < 0 ? 0 : cpu, &set);
    sched_setaffinity(0, sizeof(set), &set);
}

/* The process that does the operation. Its memory is shared with the child that continues it. */
static _Noreturn void kill_run(const struct kill_case *k, const char *words)
{
    struct life l;
    clock_setup();
    if (life_try(&l, words) != 0)
        _exit(KILL_BROKEN);
    k->prepare(&l);
    stay_on_one_processor();
    pid_t child = fork();
    if (child == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
            _exit(KILL_FORBIDDEN);
        guard_buckets(&l);
        raise(SIGSTOP);
        k->operate(&l);
        _exit(0);
    }
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child)
        _exit(KILL_BROKEN);
    if (WIFEXITED(status))
        _exit(WEXITSTATUS(status));
    _exit(run_to_end(&l, child));
}

/* Restores the bytes: the next process can read them. */
static void repair_spoiled(void)
{
    int fd = open(memory_file, O_RDWR);
    cr_assert_geq(fd, 0);
    for (unsigned i = 0; i < spoiled->count; i++) {
        char byte;
        cr_assert_eq(pread(fd, &byte, 1, spoiled->at[i]), 1);
        byte ^= 1;
        cr_assert_eq(pwrite(fd, &byte, 1, spoiled->at[i]), 1);
    }
    close(fd);
}

/* What the next process serves, at once and after it has compared all records. */
static void kill_check(const struct kill_case *k, const char *words, unsigned nth)
{
    struct life l;
    char name[128], first[64];
    uint64_t at = 0;
    copy_name(name, memory_file, nth);
    cr_assert_eq(rename(name, memory_file), 0);
    repair_spoiled();
    copy_name(name, flash_file, 0);
    cr_assert(copy_file(name, flash_file));
    clock_setup();
    life_open(&l, words);
    cr_assert(l.r.attached, "%s", l.r.line);
    snprintf(first, sizeof(first), "%s", value_of(&l, KILL_KEY));
    cr_assert(strcmp(first, k->after) == 0 || strcmp(first, k->before) == 0 ||
                  (k->may_lose && strcmp(first, NOTHING) == 0),
              "%s, killed at change %u: \"%s\" is served", k->name, nth, first);
    while (stale_walk_step(l.f.worker, &at))
        ;
    fixture_settle(&l.f);
    cr_assert_str_eq(value_of(&l, KILL_KEY), first, "%s, change %u, after the checks", k->name, nth);
    if (!k->may_lose)
        cr_assert_eq(fixture_counter(&l.f, CACHE_N_evictions_same_tag), 0);
    cr_assert_eq(ext_reconcile(l.f.ext), 0);
    life_end(&l);
}

static void run_kill_cases(const struct kill_case *cases, unsigned count)
{
    char words[512];
    snprintf(words, sizeof(words), "%s", with_flash("-m 64", 64));
    spoiled = mmap(NULL, sizeof(*spoiled), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert(spoiled != MAP_FAILED);
    for (unsigned i = 0; i < count; i++) {
        const struct kill_case *k = &cases[i];
        unlink(memory_file);
        unlink(flash_file);
        spoiled->count = 0;
        pid_t pid = fork();
        cr_assert_geq(pid, 0);
        if (pid == 0)
            kill_run(k, words);
        int status;
        cr_assert_eq(waitpid(pid, &status, 0), pid);
        cr_assert(WIFEXITED(status), "%s: status %x", k->name, status);
        unsigned changes = WEXITSTATUS(status);
        if (changes == KILL_FORBIDDEN)
            cr_skip_test("no process may be traced here");
        cr_assert(changes > 0 && changes <= KILL_CHANGES_MAX, "%s: %u changes", k->name, changes);
        char name[128];
        copy_name(name, flash_file, 0);
        cr_assert(copy_file(flash_file, name));
        for (unsigned nth = 1; nth <= changes; nth++)
            kill_check(k, words, nth);
        unlink(name);
    }
}

Test(restart, a_kill_at_any_change_of_a_word_serves_the_value_before_or_after)
{
    run_kill_cases(kill_cases, ARRAY_COUNT(kill_cases));
}

Test(restart, a_kill_between_drops_of_what_cannot_be_read_serves_nothing_older)
{
    run_kill_cases(unreadable_cases, ARRAY_COUNT(unreadable_cases));
}
