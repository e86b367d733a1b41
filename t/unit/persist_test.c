/* persist_test.c: the next start takes over what a clean stop left beside the flash files,
 * once, and refuses torn, foreign or old content with a line: whole lives of a storage
 * (restart/restart.h), with and without -e; then scans of flash that no checkpoint belongs to. */
#include "restart/persist.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checkpoint.h"
#include "base/crc.h"
#include "flash/device.h"
#include "flash/engine.h"
#include "base/hash.h"
#include "flash/mark.h"
#include "restart/check.h"
#include "restart/restart.h"
#include "t/aid/files.h"
#include "t/aid/life.h"
#include "upkeep/save.h"

static char dir[64], flash_file[96], check_file[112], memory_file[96], why[RESTART_LINE_BYTES];

static void dir_make(void)
{
    const char *base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(dir, sizeof(dir), "%s/persist_test.XXXXXX", base);
    cr_assert_not_null(mkdtemp(dir));
    snprintf(flash_file, sizeof(flash_file), "%s/flash", dir);
    snprintf(check_file, sizeof(check_file), "%s.checkpoint", flash_file);
    snprintf(memory_file, sizeof(memory_file), "%s/memory", dir);
    clock_setup();
}

static void dir_remove(void)
{
    char path[160];
    unlink(flash_file);
    unlink(check_file);
    unlink(memory_file);
    snprintf(path, sizeof(path), "%s.new", check_file);
    unlink(path);
    snprintf(path, sizeof(path), "%s.old", flash_file);
    unlink(path);
    rmdir(dir);
}

/* ---- lives ---- */

TestSuite(persist, .init = dir_make, .fini = dir_remove, .timeout = 600);

#define FLASH "ext_page_size=2,ext_wbuf_size=2,ext_buffer_mem=24"

static const struct ext_device_ops *device_ops; /* of the next life */

static int life_try(struct life *l, const char *words)
{
    clock_setup();
    life_parse_words(l, words);
    int rc = life_begin(l, 4, device_ops, why, sizeof(why));
    if (rc == 0)
        life_add_worker(l);
    return rc;
}

/* Arguments with a flash of this many MB and these further options of -o. */
static const char *with(unsigned mb, const char *more)
{
    static char text[600];
    snprintf(text, sizeof(text), "-m 64 -o ext_path=%s:%um,%s", flash_file, mb, more);
    return text;
}

static void life_open_with(struct life *l, const char *words)
{
    cr_assert_eq(life_try(l, words), 0, "%s", why);
}

static void life_open(struct life *l) { life_open_with(l, with(32, FLASH ",ext_persist")); }

static void life_scan(struct life *l) { life_open_with(l, with(32, FLASH ",ext_persist=scan")); }

static void life_end(struct life *l, bool clean)
{
    cache_worker_destroy(l->f.worker);
    restart_close(&l->r, clean);
    settings_free(&l->f.settings);
}

static void life_stop(struct life *l) { life_end(l, true); }
static void life_kill(struct life *l) { life_end(l, false); }

static struct persist_report report_of(struct life *l)
{
    struct persist_report r;
    persist_report(l->r.persist, &r);
    return r;
}

#define assert_start(l, how) cr_assert_str_eq(report_of(l).start, how, "%s", (l)->r.line)
#define assert_empty(l, reason)                                                                    \
    do {                                                                                           \
        assert_start(l, "empty");                                                                  \
        cr_assert_not_null(strstr((l)->r.line, "starting empty: "), "%s", (l)->r.line);            \
        cr_assert_not_null(strstr((l)->r.line, reason), "%s", (l)->r.line);                        \
        cr_assert_null(strchr((l)->r.line, '\n'));                                                 \
    } while (0)

static const char *value_of(struct life *l, const char *key)
{
    static char value[1 << 20];
    return fixture_get(&l->f, key, value, sizeof(value), NULL) == CACHE_OK ? value : "(none)";
}

static const char *numbered(const char *what, unsigned i)
{
    static char text[8][64];
    static unsigned turn;
    char *to = text[turn++ % 8];
    snprintf(to, sizeof(text[0]), "%s%u", what, i);
    return to;
}

/* Everything goes to flash, and there out of the buffers: a kill keeps it. */
static void all_to_disk(struct life *l)
{
    fixture_flush(&l->f);
    cr_assert_eq(ext_sync(l->f.ext, -1), 0);
}

static void set(struct life *l, const char *key, const char *value)
{
    cr_assert_eq(fixture_set(&l->f, key, value), CACHE_OK, "%s", key);
}

static uint64_t ram_items(struct life *l)
{
    struct index_info info;
    index_info(l->f.index, &info);
    return info.ram_count;
}

Test(persist, items_of_ram_and_flash_come_back_with_all_that_belongs_to_them)
{
    struct life l;
    struct cache_view before[3000], view;
    char value[2048];
    life_open(&l);
    assert_empty(&l, "there is none yet");
    for (unsigned i = 0; i < 3000; i++) {
        size_t bytes = i * 7 % 1500;
        memset(value, 'a' + (int)(i % 26), bytes);
        cr_assert_eq(fixture_store(&l.f, CACHE_SET, numbered("key", i), value, bytes, i * 77,
                                   i % 3 ? 0 : 1000 + i, 0),
                     CACHE_OK);
        if (i == 1500)
            fixture_flush(&l.f);
        cr_assert_eq(fixture_get(&l.f, numbered("key", i), NULL, 0, &before[i]), CACHE_OK);
    }
    cr_assert_gt(ram_items(&l), 0);
    life_stop(&l);
    life_open(&l);
    assert_start(&l, "checkpoint");
    cr_assert_eq(ram_items(&l), 0);
    for (unsigned i = 0; i < 3000; i++) {
        cr_assert_eq(fixture_get(&l.f, numbered("key", i), value, sizeof(value), &view), CACHE_OK,
                     "%u", i);
        cr_assert_eq(view.value_bytes, i * 7 % 1500);
        for (unsigned k = 0; k < view.value_bytes; k++)
            cr_assert_eq(value[k], 'a' + (int)(i % 26));
        cr_assert_eq(view.client_flags, i * 77);
        cr_assert_eq(view.cas, before[i].cas);
        cr_assert_eq(view.exptime_sec, before[i].exptime_sec);
        cr_assert_eq(view.time_sec, before[i].time_sec);
        cr_assert(view.fetched_before);
    }
    cr_assert_eq(report_of(&l).objects, 3000);
    life_kill(&l);
}

Test(persist, stale_and_won_marks_come_back)
{
    struct life l;
    struct cache_op op;
    life_open(&l);
    set(&l, "key", "value");
    cache_op_init(&op, CACHE_DELETE, "key", 3, cache_hash(l.f.cache, "key", 3));
    op.options = CACHE_F_INVALIDATE | CACHE_F_META;
    fixture_run(&l.f, &op);
    cr_assert_eq(op.status, CACHE_OK);
    cache_release(l.f.worker, &op);
    life_stop(&l);
    life_open(&l);
    cache_op_init(&op, CACHE_GET, "key", 3, cache_hash(l.f.cache, "key", 3));
    op.options = CACHE_F_META;
    fixture_run(&l.f, &op);
    cr_assert_eq(op.status, CACHE_OK);
    cr_assert(op.view.stale);
    cr_assert(op.view.won);
    cache_release(l.f.worker, &op);
    life_stop(&l);
    life_open(&l);
    cache_op_init(&op, CACHE_GET, "key", 3, cache_hash(l.f.cache, "key", 3));
    op.options = CACHE_F_META;
    fixture_run(&l.f, &op);
    cr_assert(op.view.stale);
    cr_assert(op.view.token_sent);
    cr_assert_not(op.view.won);
    cache_release(l.f.worker, &op);
    life_kill(&l);
}

Test(persist, time_passes_while_nothing_runs)
{
    struct life l;
    clock_simulate(UINT64_C(1000) * 1000000000);
    life_open(&l);
    cr_assert_eq(fixture_store(&l.f, CACHE_SET, "short", "x", 1, 0, clock_exptime(100), 0),
                 CACHE_OK);
    cr_assert_eq(fixture_store(&l.f, CACHE_SET, "long", "x", 1, 0, clock_exptime(10000), 0),
                 CACHE_OK);
    set(&l, "ever", "x");
    int64_t long_unix = clock_unix_now_sec() + 10000;
    life_stop(&l);
    clock_simulate(UINT64_C(1500) * 1000000000);
    life_open(&l);
    assert_start(&l, "checkpoint");
    cr_assert_str_eq(value_of(&l, "short"), "(none)");
    cr_assert_str_eq(value_of(&l, "long"), "x");
    cr_assert_str_eq(value_of(&l, "ever"), "x");
    struct cache_view view;
    cr_assert_eq(fixture_get(&l.f, "long", NULL, 0, &view), CACHE_OK);
    cr_assert_eq(clock_rel_to_unix(view.exptime_sec), long_unix);
    life_kill(&l);
}

Test(persist, a_clock_that_was_set_back_is_refused)
{
    struct life l;
    clock_simulate(UINT64_C(5000) * 1000000000);
    life_open(&l);
    set(&l, "key", "value");
    life_stop(&l);
    clock_simulate(UINT64_C(4000) * 1000000000);
    life_open(&l);
    assert_empty(&l, "clock");
    cr_assert_str_eq(value_of(&l, "key"), "(none)");
    life_kill(&l);
}

Test(persist, what_was_deleted_or_overwritten_stays_so)
{
    struct life l;
    life_open(&l);
    for (unsigned i = 0; i < 300; i++)
        set(&l, numbered("key", i), "old");
    fixture_flush(&l.f);
    for (unsigned i = 0; i < 300; i++) {
        if (i % 3 == 0)
            set(&l, numbered("key", i), "new");
        else if (i % 3 == 1)
            cr_assert_eq(fixture_delete(&l.f, numbered("key", i)), CACHE_OK);
    }
    life_stop(&l);
    for (unsigned turn = 0; turn < 2; turn++) {
        life_open(&l);
        for (unsigned i = 0; i < 300; i++)
            cr_assert_str_eq(value_of(&l, numbered("key", i)), i % 3 == 0   ? "new"
                                                               : i % 3 == 1 ? "(none)"
                                                                            : "old");
        life_stop(&l);
    }
}

Test(persist, a_flush_all_covers_what_was_before_it_and_nothing_after)
{
    struct life l;
    clock_simulate(UINT64_C(1000) * 1000000000);
    life_open(&l);
    set(&l, "before", "x");
    fixture_flush(&l.f);
    set(&l, "before too", "x");
    clock_simulate(UINT64_C(1010) * 1000000000);
    cache_flush_all(l.f.cache, 0);
    clock_simulate(UINT64_C(1020) * 1000000000);
    set(&l, "after", "x");
    life_stop(&l);
    clock_simulate(UINT64_C(1100) * 1000000000);
    life_open(&l);
    cr_assert_str_eq(value_of(&l, "before"), "(none)");
    cr_assert_str_eq(value_of(&l, "before too"), "(none)");
    cr_assert_str_eq(value_of(&l, "after"), "x");
    life_kill(&l);
}

Test(persist, a_planned_flush_all_comes_in_the_next_life_and_the_one_before_stays)
{
    struct life l;
    clock_simulate(UINT64_C(1000) * 1000000000);
    life_open(&l);
    set(&l, "before", "x");
    clock_simulate(UINT64_C(1010) * 1000000000);
    cache_flush_all(l.f.cache, 0);
    clock_simulate(UINT64_C(1020) * 1000000000);
    set(&l, "between", "x");
    cache_flush_all(l.f.cache, clock_exptime(100));
    life_stop(&l);
    clock_simulate(UINT64_C(1050) * 1000000000);
    life_open(&l);
    cr_assert_str_eq(value_of(&l, "before"), "(none)");
    cr_assert_str_eq(value_of(&l, "between"), "x");
    clock_simulate(UINT64_C(1200) * 1000000000);
    cr_assert_str_eq(value_of(&l, "between"), "(none)");
    life_kill(&l);
}

Test(persist, cas_numbers_go_on)
{
    struct life l;
    struct cache_view before, after;
    life_open(&l);
    set(&l, "key", "value");
    cr_assert_eq(fixture_get(&l.f, "key", NULL, 0, &before), CACHE_OK);
    life_stop(&l);
    life_open(&l);
    cr_assert_eq(fixture_store(&l.f, CACHE_CAS, "key", "next", 4, 0, 0, before.cas), CACHE_OK);
    cr_assert_eq(fixture_get(&l.f, "key", NULL, 0, &after), CACHE_OK);
    cr_assert_gt(after.cas, before.cas);
    life_kill(&l);
}

Test(persist, many_lives_in_a_row)
{
    struct life l;
    for (unsigned turn = 0; turn < 8; turn++) {
        life_open(&l);
        cr_assert_eq(report_of(&l).generation, 2 * turn + 1);
        for (unsigned i = 0; i < turn * 100; i++)
            cr_assert_str_eq(value_of(&l, numbered("key", i)), numbered("value", i),
                             "%u in life %u", i, turn);
        for (unsigned i = turn * 100; i < (turn + 1) * 100; i++)
            set(&l, numbered("key", i), numbered("value", i));
        life_stop(&l);
    }
}

Test(persist, an_index_that_grows_just_then_comes_back_whole)
{
    struct life l;
    struct index_info info;
    unsigned count = 90000;
    life_open(&l);
    for (unsigned i = 0; i < count; i++)
        set(&l, numbered("key", i), numbered("value", i));
    index_info(l.f.index, &info);
    cr_assert_gt(info.steps, 0);
    life_stop(&l);
    life_open(&l);
    assert_start(&l, "checkpoint");
    for (unsigned i = 0; i < count; i++)
        cr_assert_str_eq(value_of(&l, numbered("key", i)), numbered("value", i));
    for (unsigned i = count; i < count + 30000; i++)
        set(&l, numbered("key", i), numbered("value", i));
    for (unsigned i = 0; i < count + 30000; i += 17)
        cr_assert_str_eq(value_of(&l, numbered("key", i)), numbered("value", i));
    cr_assert_eq(ext_reconcile(l.f.ext), 0);
    life_stop(&l);
}

Test(persist, a_full_flash_gives_its_oldest_pages_for_the_items_of_ram)
{
    struct life l;
    static char value[16000];
    memset(value, 'v', sizeof(value));
    life_open_with(&l, with(16, FLASH ",ext_persist"));
    unsigned count = 1300; /* 20 MB */
    for (unsigned i = 0; i < count; i++)
        cr_assert_eq(
            fixture_store(&l.f, CACHE_SET, numbered("key", i), value, sizeof(value), 0, 0, 0),
            CACHE_OK);
    fixture_flush(&l.f);
    for (unsigned i = count; i < count + 200; i++)
        cr_assert_eq(
            fixture_store(&l.f, CACHE_SET, numbered("key", i), value, sizeof(value), 0, 0, 0),
            CACHE_OK);
    life_stop(&l);
    life_open_with(&l, with(16, FLASH ",ext_persist"));
    assert_start(&l, "checkpoint");
    for (unsigned i = count; i < count + 200; i++)
        cr_assert_neq(strcmp(value_of(&l, numbered("key", i)), "(none)"), 0, "%u", i);
    cr_assert_eq(ext_reconcile(l.f.ext), 0);
    life_stop(&l);
}

Test(persist, pages_are_reclaimed_and_reused_over_many_lives)
{
    struct life l;
    static char value[16000];
    memset(value, 'v', sizeof(value));
    for (unsigned turn = 0; turn < 8; turn++) {
        life_open_with(&l, with(32, FLASH ",ext_persist"));
        for (unsigned i = 0; i < 600; i++) {
            snprintf(value, 20, "%u:%u", turn, i);
            cr_assert_eq(
                fixture_store(&l.f, CACHE_SET, numbered("key", i), value, 15000 + i, 0, 0, 0),
                CACHE_OK);
        }
        life_stop(&l);
        life_open_with(&l, with(32, FLASH ",ext_persist"));
        assert_start(&l, "checkpoint");
        unsigned hits = 0;
        for (unsigned i = 0; i < 600; i++) {
            const char *got = value_of(&l, numbered("key", i));
            if (strcmp(got, "(none)") == 0)
                continue;
            hits++;
            snprintf(value, 20, "%u:%u", turn, i);
            cr_assert_str_eq(got, value, "an older value in life %u", turn);
        }
        cr_assert_gt(hits, 500);
        life_stop(&l);
    }
}

Test(persist, a_kill_after_a_clean_start_leaves_nothing_to_take_over)
{
    struct life l;
    life_open(&l);
    set(&l, "key", "old");
    life_stop(&l);
    life_open(&l);
    assert_start(&l, "checkpoint");
    life_kill(&l);
    life_open(&l);
    assert_empty(&l, "did not stop in order");
    cr_assert_str_eq(value_of(&l, "key"), "(none)");
    life_kill(&l);
}

/* The flash file's mark and time, of which a start that was killed early would have changed neither. */
struct untouched {
    char mark[EXT_MARK_BYTES];
    struct timespec times[2];
};

static void untouched_take(struct untouched *u)
{
    struct stat st;
    int fd = open(flash_file, O_RDONLY);
    cr_assert_eq(fstat(fd, &st), 0);
    cr_assert_eq(pread(fd, u->mark, sizeof(u->mark), 0), (ssize_t)sizeof(u->mark));
    close(fd);
    u->times[0] = u->times[1] = st.st_mtim;
}

static void untouched_put(const struct untouched *u)
{
    int fd = open(flash_file, O_WRONLY);
    cr_assert_eq(pwrite(fd, u->mark, sizeof(u->mark), 0), (ssize_t)sizeof(u->mark));
    close(fd);
    cr_assert_eq(utimensat(AT_FDCWD, flash_file, u->times, 0), 0);
}

Test(persist, a_kill_while_it_starts_leaves_the_checkpoint)
{
    struct life l;
    struct untouched u;
    size_t bytes;
    life_open(&l);
    set(&l, "key", "value");
    life_stop(&l);
    char *kept = slurp(check_file, &bytes);
    untouched_take(&u);
    life_open(&l);
    life_kill(&l);
    /* Killed before persist_begin, it would have written nothing. */
    spill(check_file, kept, bytes);
    untouched_put(&u);
    life_open(&l);
    assert_start(&l, "checkpoint");
    cr_assert_str_eq(value_of(&l, "key"), "value");
    life_kill(&l);
    free(kept);
}

Test(persist, a_start_without_it_invalidates_the_checkpoint)
{
    struct life l;
    life_open(&l);
    set(&l, "key", "old");
    life_stop(&l);
    life_open_with(&l, with(32, FLASH));
    cr_assert_str_eq(report_of(&l).start, "off");
    cr_assert_eq(file_size(check_file), -1);
    life_kill(&l);
    life_open(&l);
    assert_empty(&l, "there is none yet");
    life_kill(&l);
}

Test(persist, flash_that_was_written_to_since_is_refused)
{
    struct life l;
    size_t bytes;
    life_open(&l);
    set(&l, "key", "old");
    life_stop(&l);
    char *kept = slurp(check_file, &bytes);
    life_open(&l);
    set(&l, "key", "new");
    life_stop(&l);
    spill(check_file, kept, bytes); /* a backup of the checkpoint, but not of the flash */
    life_open(&l);
    assert_empty(&l, "was written to since");
    cr_assert_str_eq(value_of(&l, "key"), "(none)");
    life_kill(&l);
    free(kept);
}

/* The same, where the times tell nothing. */
Test(persist, flash_with_another_mark_is_refused)
{
    struct life l;
    struct untouched u;
    life_open(&l);
    set(&l, "key", "old");
    life_stop(&l);
    untouched_take(&u);
    ext_mark_fill(u.mark, hash_draw());
    untouched_put(&u);
    life_open(&l);
    assert_empty(&l, "written to by another process since");
    cr_assert_str_eq(value_of(&l, "key"), "(none)");
    life_kill(&l);
}

Test(persist, another_flash_file_is_refused)
{
    struct life l;
    char old[112];
    struct timespec times[2];
    struct stat st;
    size_t bytes;
    life_open(&l);
    set(&l, "key", "value");
    life_stop(&l);
    snprintf(old, sizeof(old), "%s.old", flash_file);
    cr_assert_eq(rename(flash_file, old), 0);
    char *all = slurp(old, &bytes);
    spill(flash_file, all, bytes);
    free(all);
    cr_assert_eq(stat(old, &st), 0);
    times[0] = times[1] = st.st_mtim;
    cr_assert_eq(utimensat(AT_FDCWD, flash_file, times, 0), 0);
    life_open(&l);
    assert_empty(&l, "is another file now");
    life_kill(&l);
}

Test(persist, other_sizes_of_device_and_index_keep_the_cache)
{
    struct life l;
    life_open(&l);
    set(&l, "key", "value");
    for (unsigned i = 0; i < 6; i++) {
        static const unsigned mb[] = {24, 40, 32};
        life_stop(&l);
        life_open_with(&l, i == 3 ? with(32, FLASH ",ext_persist,hashpower=20") : with(mb[i % 3], FLASH ",ext_persist"));
        assert_start(&l, "checkpoint");
        cr_assert_str_eq(value_of(&l, "key"), "value", "%u", i);
        cr_assert_eq(ext_reconcile(l.f.ext), 0);
    }
    life_kill(&l);
}

Test(persist, other_sizes_of_pages_are_refused)
{
    const char *other[] = {
        "ext_page_size=4,ext_wbuf_size=2,ext_buffer_mem=24,ext_persist",
        "ext_page_size=4,ext_wbuf_size=4,ext_buffer_mem=40,ext_persist",
    };
    const char *reasons[] = {"another ext_page_size", "another ext_page_size"};
    struct life l;
    for (unsigned i = 0; i < ARRAY_COUNT(other); i++) {
        life_open(&l);
        set(&l, "key", "value");
        life_stop(&l);
        life_open_with(&l, with(32, other[i]));
        assert_empty(&l, reasons[i]);
        cr_assert_str_eq(value_of(&l, "key"), "(none)");
        set(&l, "fresh", "value");
        cr_assert_str_eq(value_of(&l, "fresh"), "value");
        life_kill(&l);
    }
}

Test(persist, an_index_larger_than_m_is_refused)
{
    struct life l;
    char words[300];
    life_open(&l);
    for (unsigned i = 0; i < 300000; i++) {
        set(&l, numbered("key", i), "v");
        if (i % 30000 == 0)
            fixture_flush(&l.f);
    }
    life_stop(&l);
    snprintf(words, sizeof(words), "-m 4 -o ext_path=%s:32m," FLASH ",ext_persist", flash_file);
    life_open_with(&l, words);
    assert_empty(&l, "larger than -m allows");
    life_kill(&l);
}

Test(persist, every_damage_ends_in_an_empty_start)
{
    struct life l;
    size_t bytes;
    life_open(&l);
    for (unsigned i = 0; i < 500; i++)
        set(&l, numbered("key", i), numbered("value", i));
    life_stop(&l);
    char *good = slurp(check_file, &bytes);
    struct untouched u;
    untouched_take(&u);
    size_t step = bytes / 20;
    for (unsigned turn = 0; turn < 2; turn++) {
        for (size_t at = 0; at < bytes; at += at < 700 ? 97 : step) {
            spill(check_file, good, turn == 0 ? bytes : at);
            if (turn == 0)
                flip(check_file, (off_t)at);
            untouched_put(&u);
            life_open(&l);
            assert_empty(&l, "starting empty: it");
            cr_assert_str_eq(value_of(&l, "key1"), "(none)");
            cr_assert_eq(ext_objects(l.f.ext), 0);
            life_kill(&l);
        }
    }
    spill(check_file, good, bytes);
    untouched_put(&u);
    life_open(&l);
    assert_start(&l, "checkpoint");
    cr_assert_str_eq(value_of(&l, "key1"), "value1");
    life_kill(&l);
    free(good);
}

Test(persist, a_checkpoint_of_another_layout_is_refused)
{
    struct life l;
    struct checkpoint_head head;
    struct checkpoint_writer *w;
    char fault[CHECKPOINT_WHY_BYTES];
    life_open(&l);
    life_stop(&l);
    cr_assert_eq(checkpoint_read_head(check_file, &head, fault), 0);
    head.layout++;
    cr_assert_eq(checkpoint_create(check_file, &w), 0);
    cr_assert_eq(checkpoint_commit(w, &head), 0);
    life_open(&l);
    assert_empty(&l, "another build");
    life_kill(&l);
}

/* Blocks that verify, but that no stop writes. */
Test(persist, a_checkpoint_without_sense_is_refused)
{
    struct life l;
    struct checkpoint_head head;
    struct checkpoint_reader *r;
    char fault[CHECKPOINT_WHY_BYTES];
    life_open(&l);
    for (unsigned i = 0; i < 200; i++)
        set(&l, numbered("key", i), "value");
    life_stop(&l);
    cr_assert_eq(checkpoint_read_head(check_file, &head, fault), 0);
    cr_assert_eq(checkpoint_open(check_file, &head, &r), 0);
    char *body = malloc(head.body_bytes);
    cr_assert_eq(checkpoint_get(r, body, head.body_bytes), 0);
    cr_assert_eq(checkpoint_close(r), 0);
    for (size_t at = 0; at < head.body_bytes; at += at < 1100 ? 8 : 40009) {
        struct checkpoint_writer *w;
        struct checkpoint_head again = head;
        char was = body[at];
        body[at] = (char)(was ^ 0x41);
        cr_assert_eq(checkpoint_create(check_file, &w), 0);
        cr_assert_eq(checkpoint_put(w, body, head.body_bytes), 0);
        body[at] = was;
        again.devices[0].mtime_sec = 0;
        struct stat st;
        cr_assert_eq(stat(flash_file, &st), 0);
        again.devices[0].mtime_sec = st.st_mtim.tv_sec;
        again.devices[0].mtime_nsec = (uint32_t)st.st_mtim.tv_nsec;
        cr_assert_eq(checkpoint_commit(w, &again), 0);
        life_open(&l); /* whatever the outcome, it lives */
        life_kill(&l);
    }
    free(body);
}

/* Makes a checkpoint of 200 objects, has `change` change its head and body, and opens the next life. */
static void open_changed(struct life *l, void (*change)(struct checkpoint_head *head, char *body))
{
    struct checkpoint_head head;
    struct checkpoint_reader *r;
    struct checkpoint_writer *w;
    struct stat st;
    char fault[CHECKPOINT_WHY_BYTES];
    unlink(check_file);
    unlink(flash_file);
    life_open(l);
    for (unsigned i = 0; i < 200; i++)
        set(l, numbered("key", i), "value");
    life_stop(l);
    cr_assert_eq(checkpoint_read_head(check_file, &head, fault), 0);
    cr_assert_eq(checkpoint_open(check_file, &head, &r), 0);
    char *body = malloc(head.body_bytes);
    cr_assert_eq(checkpoint_get(r, body, head.body_bytes), 0);
    cr_assert_eq(checkpoint_close(r), 0);
    change(&head, body);
    cr_assert_eq(stat(flash_file, &st), 0);
    head.devices[0].mtime_sec = st.st_mtim.tv_sec;
    head.devices[0].mtime_nsec = (uint32_t)st.st_mtim.tv_nsec;
    cr_assert_eq(checkpoint_create(check_file, &w), 0);
    cr_assert_eq(checkpoint_put(w, body, head.body_bytes), 0);
    cr_assert_eq(checkpoint_commit(w, &head), 0);
    free(body);
    life_open(l);
}

static void change_nothing(struct checkpoint_head *head, char *body) { (void)head, (void)body; }

static void count_in_head(struct checkpoint_head *head, char *body)
{
    (void)body;
    head->objects++;
}

static void count_in_page(struct checkpoint_head *head, char *body)
{
    struct ext_saved_page *first =
        (struct ext_saved_page *)(body + sizeof(struct ext_saved_engine) + sizeof(struct ext_saved_device));
    (void)head;
    cr_assert_eq(first->objects, 200);
    first->objects++;
}

/* Words, page table and head have to agree on the number of objects; otherwise counts would stay wrong. */
Test(persist, a_checkpoint_whose_parts_count_differently_is_refused)
{
    struct life l;
    struct cache_totals t;
    open_changed(&l, change_nothing);
    assert_start(&l, "checkpoint");
    cache_totals(l.f.cache, &t);
    cr_assert_eq(t.curr_items, 200, "right after the start");
    cr_assert_eq(ext_objects(l.f.ext), 200);
    life_kill(&l);
    open_changed(&l, count_in_head);
    assert_empty(&l, "its index makes no sense");
    life_kill(&l);
    open_changed(&l, count_in_page); /* a page's count is made from the words */
    assert_start(&l, "checkpoint");
    cr_assert_eq(ext_objects(l.f.ext), 200);
    cr_assert_eq(ext_reconcile(l.f.ext), 0);
    life_kill(&l);
}

/* Says of the index's first shard that it has grown as far as this many buckets: rows 8, growing, done. */
static void growth_in_index(struct checkpoint_head *head, char *body)
{
    struct ext_saved_engine engine;
    memcpy(&engine, body, sizeof(engine));
    uint64_t slots = engine.page_count * (engine.page_bytes / engine.wbuf_bytes), state;
    size_t at = sizeof(engine) + engine.device_count * sizeof(struct ext_saved_device) +
                engine.page_count * sizeof(struct ext_saved_page) + (slots + 7) / 8;
    memcpy(&state, body + at, sizeof(state));
    cr_assert_eq(state, 8);
    state |= UINT64_C(1) << 20 | ((UINT64_C(8) << head->index_group_bits) - 1) << 22;
    memcpy(body + at, &state, sizeof(state));
}

/* The rows that it says it has grown to aren't there. */
Test(persist, an_index_without_the_rows_that_it_has_grown_to_is_refused)
{
    struct life l;
    open_changed(&l, growth_in_index);
    assert_empty(&l, "its index makes no sense");
    for (unsigned i = 0; i < 2000; i++)
        set(&l, numbered("key", i), "value");
    life_kill(&l);
}

Test(persist, a_place_that_cannot_be_written_refuses_the_start)
{
    struct life l;
    char path[160];
    snprintf(path, sizeof(path), "%s.new", check_file);
    cr_assert_eq(mkdir(path, 0700), 0);
    cr_assert_neq(life_try(&l, with(32, FLASH ",ext_persist")), 0);
    cr_assert_not_null(strstr(why, "can't be written"), "%s", why);
    rmdir(path);
}

/* ---- flash that fails ---- */

static _Atomic(bool) flash_fails;

static ssize_t failing_pread(void *ctx, int fd, void *buf, size_t bytes, off_t offset)
{
    (void)ctx;
    ssize_t n = pread(fd, buf, bytes, offset);
    return n < 0 ? -errno : n;
}

static ssize_t failing_pwrite(void *ctx, int fd, const void *buf, size_t bytes, off_t offset)
{
    (void)ctx;
    if (atomic_load(&flash_fails))
        return -EIO;
    ssize_t n = pwrite(fd, buf, bytes, offset);
    return n < 0 ? -errno : n;
}

static const struct ext_device_ops failing_ops = {.pread = failing_pread, .pwrite = failing_pwrite};

/* What is in RAM or in a buffer then is gone, and nothing older of its keys comes back. */
Test(persist, a_flash_that_fails_at_the_stop_keeps_what_it_took_before)
{
    struct life l;
    device_ops = &failing_ops;
    life_open(&l);
    set(&l, "key", "old");
    set(&l, "buffered", "old");
    set(&l, "other", "value");
    all_to_disk(&l);
    set(&l, "buffered", "new");
    fixture_flush(&l.f);
    set(&l, "key", "new");
    atomic_store(&flash_fails, true);
    life_stop(&l);
    atomic_store(&flash_fails, false);
    life_open(&l);
    cr_assert_str_eq(report_of(&l).start, "checkpoint", "%s", l.r.line);
    cr_assert_str_eq(value_of(&l, "key"), "(none)");
    cr_assert_str_eq(value_of(&l, "buffered"), "(none)");
    cr_assert_str_eq(value_of(&l, "other"), "value");
    life_kill(&l);
}

/* ---- with -e ---- */

static const char *with_memory(const char *more)
{
    static char text[700];
    snprintf(text, sizeof(text), "-e %s %s", memory_file, with(32, more));
    return text;
}

Test(persist, what_e_keeps_wins_and_the_checkpoint_is_used_up)
{
    struct life l;
    life_open_with(&l, with_memory(FLASH ",ext_persist"));
    set(&l, "key", "value");
    life_stop(&l);
    life_open_with(&l, with_memory(FLASH ",ext_persist"));
    cr_assert(l.r.attached);
    assert_start(&l, "memory");
    cr_assert_str_eq(value_of(&l, "key"), "value");
    set(&l, "key", "new");
    life_kill(&l);
    unlink(memory_file);
    life_open_with(&l, with_memory(FLASH ",ext_persist"));
    assert_empty(&l, "did not stop in order");
    life_kill(&l);
}

/* A process that continued from the checkpoint has made the memory file worthless, even if it was killed. */
Test(persist, memory_from_before_a_checkpoint_was_loaded_is_not_taken_over)
{
    struct life l;
    life_open_with(&l, with_memory(FLASH ",ext_persist"));
    set(&l, "key", "old");
    life_stop(&l);
    char kept[160];
    snprintf(kept, sizeof(kept), "%s.kept", memory_file);
    cr_assert_eq(rename(memory_file, kept), 0);
    life_open_with(&l, with_memory(FLASH ",ext_persist"));
    assert_start(&l, "checkpoint");
    cr_assert_str_eq(value_of(&l, "key"), "old");
    set(&l, "key", "new");
    life_kill(&l);
    cr_assert_eq(rename(kept, memory_file), 0);
    life_open_with(&l, with_memory(FLASH ",ext_persist"));
    cr_assert(!l.r.attached);
    cr_assert_not_null(strstr(l.r.line, "was written to by another process since"), "%s", l.r.line);
    cr_assert_str_eq(value_of(&l, "key"), "(none)");
    life_kill(&l);
}

Test(persist, when_the_memory_is_gone_the_checkpoint_is_there)
{
    struct life l;
    life_open_with(&l, with_memory(FLASH ",ext_persist"));
    for (unsigned i = 0; i < 1000; i++)
        set(&l, numbered("key", i), numbered("value", i));
    life_stop(&l);
    unlink(memory_file);
    life_open_with(&l, with_memory(FLASH ",ext_persist"));
    assert_start(&l, "checkpoint");
    for (unsigned i = 0; i < 1000; i++)
        cr_assert_str_eq(value_of(&l, numbered("key", i)), numbered("value", i));
    life_kill(&l); /* and now the memory holds all of it */
    life_open_with(&l, with_memory(FLASH ",ext_persist"));
    cr_assert(l.r.attached);
    for (unsigned i = 0; i < 1000; i++)
        cr_assert_str_eq(value_of(&l, numbered("key", i)), numbered("value", i));
    life_kill(&l);
}

Test(persist, when_the_memory_file_is_too_small_for_m_the_checkpoint_is_there)
{
    struct life l;
    char words[700];
    for (unsigned mb = 64; mb <= 8192; mb *= 128) {
        snprintf(words, sizeof(words), "-m %u -e %s -o ext_path=%s:32m," FLASH ",ext_persist", mb, memory_file, flash_file);
        life_open_with(&l, words);
        assert_start(&l, mb == 64 ? "empty" : "checkpoint");
        for (unsigned i = 0; i < 1000 && mb == 64; i++)
            set(&l, numbered("key", i), numbered("value", i));
        life_stop(&l);
    }
    life_open_with(&l, words);
    cr_assert(l.r.attached);
    for (unsigned i = 0; i < 1000; i++)
        cr_assert_str_eq(value_of(&l, numbered("key", i)), numbered("value", i));
    life_kill(&l);
}

/* ---- lives that know nothing of a checkpoint ---- */

/* The same flash file under any path, with its time of change put back: then it tells what a block device does, whose
 * time is of its node. */
static struct timespec time_of(const char *path)
{
    struct stat st;
    cr_assert_eq(stat(path, &st), 0);
    return st.st_mtim;
}

static void put_time_back(const char *path, struct timespec was)
{
    const struct timespec times[2] = {was, was};
    cr_assert_eq(utimensat(AT_FDCWD, path, times, 0), 0);
}

/* Words for flash on these files, NULL: no more, in this order. */
static const char *files(const char *mode, const char *memory, const char *a, const char *b, const char *c)
{
    static char text[900];
    size_t used = (size_t)snprintf(text, sizeof(text), "-m 64 %s -o ", memory);
    const char *all[] = {a, b, c};
    for (unsigned i = 0; i < ARRAY_COUNT(all); i++)
        if (all[i] != NULL)
            used += (size_t)snprintf(text + used, sizeof(text) - used, "ext_path=%s:32m,", all[i]);
    snprintf(text + used, sizeof(text) - used, "%s%s", FLASH, mode);
    return text;
}

Test(persist, the_line_of_a_start_names_devices_that_are_new_gone_or_of_another_size)
{
    struct life l;
    char second[112], third[112], want[300];
    snprintf(second, sizeof(second), "%s.old", flash_file);
    snprintf(third, sizeof(third), "%s.third", flash_file);
    life_open_with(&l, files(",ext_persist", "", flash_file, second, NULL));
    set(&l, "key", "value");
    life_stop(&l);
    life_open_with(&l, files(",ext_persist", "", flash_file, second, third));
    snprintf(want, sizeof(want), "flash: %s is new; checkpoint ", third);
    cr_assert_not_null(strstr(l.r.line, want), "%s", l.r.line);
    cr_assert_str_eq(value_of(&l, "key"), "value");
    life_stop(&l);
    life_open_with(&l, files(",ext_persist", "", flash_file, second, third));
    cr_assert_null(strstr(l.r.line, "flash: "), "%s", l.r.line);
    life_stop(&l);
    life_open_with(&l, files(",ext_persist", "", flash_file, third, NULL));
    cr_assert_not_null(strstr(l.r.line, "flash: 1 file is gone; checkpoint "), "%s", l.r.line);
    life_stop(&l);
    unlink(second);
    unlink(third);
}

struct other_life {
    const char *mode;          /* of all lives */
    const char *mode_between;  /* of the life between */
    bool clean;                /* the first life stops in order */
    unsigned between;          /* files of the life between, as bits: 1 the first, 2 the second */
    const char *said;
};

/* A life attached to the memory file names another file first, so the checkpoint beside the first one stays as it is. It
 * deletes a key and overwrites another, and writes nothing to the files that it knew before. Then memory is lost. */
static void live_between(const struct other_life *o)
{
    struct life l;
    char memory[128], second[112], third[112], third_check[160];
    snprintf(memory, sizeof(memory), "-e %s", memory_file);
    snprintf(second, sizeof(second), "%s.old", flash_file);
    snprintf(third, sizeof(third), "%s.third", flash_file);
    snprintf(third_check, sizeof(third_check), "%s.checkpoint", third);
    life_open_with(&l, files(o->mode, memory, flash_file, second, NULL));
    set(&l, "deleted", "old");
    set(&l, "overwritten", "old");
    all_to_disk(&l);
    life_end(&l, o->clean);
    struct timespec times[2] = {time_of(flash_file), time_of(second)};
    life_open_with(&l, files(o->mode_between, memory, third, o->between & 1 ? flash_file : second,
                             o->between == 3 ? second : NULL));
    cr_assert(l.r.attached, "%s", l.r.line);
    (void)fixture_delete(&l.f, "deleted"); /* gone, if its file is */
    set(&l, "overwritten", "new");
    life_kill(&l);
    unlink(memory_file);
    put_time_back(flash_file, times[0]);
    put_time_back(second, times[1]);
    life_open_with(&l, files(o->mode, memory, flash_file, second, NULL));
    cr_assert_str_eq(value_of(&l, "deleted"), "(none)", "%s", l.r.line);
    cr_assert_str_eq(value_of(&l, "overwritten"), "(none)", "%s", l.r.line);
    assert_empty(&l, o->said);
    life_kill(&l);
    unlink(third);
    unlink(third_check);
}

Test(persist, a_checkpoint_is_outdated_by_a_life_that_named_another_file_first)
{
    live_between(&(struct other_life){",ext_persist", ",ext_persist", true, 3, "was written to by another process since"});
}

Test(persist, a_checkpoint_is_outdated_by_a_life_without_checkpoints)
{
    live_between(&(struct other_life){",ext_persist", "", true, 3, "was written to by another process since"});
}

Test(persist, a_checkpoint_is_outdated_by_a_life_without_its_first_file)
{
    live_between(&(struct other_life){",ext_persist", ",ext_persist", true, 2, "was written to by another process since"});
}

Test(persist, a_checkpoint_is_outdated_by_a_life_without_its_second_file)
{
    live_between(&(struct other_life){",ext_persist", ",ext_persist", true, 1, "was written to by another process since"});
}

/* A start writes new marks; a kill at any point of that leaves memory that fits the flash. */
Test(persist, a_kill_while_marks_are_written_keeps_what_e_has)
{
    struct life l;
    char memory[128], second[112];
    snprintf(memory, sizeof(memory), "-e %s", memory_file);
    snprintf(second, sizeof(second), "%s.old", flash_file);
    for (unsigned point = 0; point < 4; point++) {
        life_open_with(&l, files("", memory, flash_file, second, NULL));
        cr_assert_eq(l.r.attached, point > 0, "%u: %s", point, l.r.line);
        set(&l, numbered("key", point), "value");
        all_to_disk(&l);
        /* As the next start would be killed: before the mark is written, after it, and before `step` is cleared. */
        for (unsigned i = 0; i < 1 + point % 2; i++) {
            struct ext_known *k = &l.f.ext->tables->devices[i];
            uint64_t next = ext_mark_next_stamp(k->stamp, k->step = 77 + i);
            if (point > 0)
                cr_assert_eq(ext_mark_write(l.f.ext->devices[i].fd, next), 0);
            if (point > 2)
                k->stamp = next;
        }
        life_kill(&l);
    }
    life_open_with(&l, files("", memory, flash_file, second, NULL));
    cr_assert(l.r.attached, "%s", l.r.line);
    for (unsigned point = 0; point < 4; point++)
        cr_assert_str_eq(value_of(&l, numbered("key", point)), "value");
    cr_assert_eq(l.f.ext->tables->devices[0].step, 0);
    /* Any other mark is another process's. */
    cr_assert_eq(ext_mark_write(l.f.ext->devices[1].fd, ext_mark_next_stamp(l.f.ext->tables->devices[1].stamp, 99)), 0);
    life_kill(&l);
    life_open_with(&l, files("", memory, flash_file, second, NULL));
    cr_assert(!l.r.attached);
    life_kill(&l);
}

/* With its holes, of which a memory file has much. */
static void copy_file(const char *from, const char *to)
{
    char command[400];
    snprintf(command, sizeof(command), "cp --sparse=always %s %s", from, to);
    cr_assert_eq(system(command), 0);
}

/* Of a copy of the memory file only one is the cache. */
Test(persist, memory_from_before_another_attached_life_is_not_taken_over)
{
    struct life l;
    char kept[160];
    snprintf(kept, sizeof(kept), "%s.kept", memory_file);
    life_open_with(&l, with_memory(FLASH));
    set(&l, "key", "old");
    all_to_disk(&l);
    life_kill(&l);
    copy_file(memory_file, kept);
    life_open_with(&l, with_memory(FLASH));
    cr_assert(l.r.attached);
    cr_assert_eq(fixture_delete(&l.f, "key"), CACHE_OK);
    life_kill(&l);
    cr_assert_eq(rename(kept, memory_file), 0);
    life_open_with(&l, with_memory(FLASH));
    cr_assert(!l.r.attached);
    cr_assert_not_null(strstr(l.r.line, "was written to by another process since"), "%s", l.r.line);
    cr_assert_str_eq(value_of(&l, "key"), "(none)");
    life_kill(&l);
}

Test(persist, no_scan_after_a_life_that_named_another_file_first)
{
    live_between(&(struct other_life){",ext_persist=scan", ",ext_persist=scan", false, 3,
                                      "no scan, since another process used the flash"});
    live_between(&(struct other_life){",ext_persist=scan", ",ext_persist=scan", true, 2,
                                      "no scan, since another process used the flash"});
}

/* ---- scans ---- */

Test(persist, a_scan_finds_what_is_on_flash)
{
    struct life l;
    struct cache_view before[2000], view;
    life_scan(&l);
    for (unsigned i = 0; i < 2000; i++) {
        cr_assert_eq(fixture_store(&l.f, CACHE_SET, numbered("key", i), numbered("value", i),
                                   strlen(numbered("value", i)), i, i % 2 ? 0 : 5000, 0),
                     CACHE_OK);
        cr_assert_eq(fixture_get(&l.f, numbered("key", i), NULL, 0, &before[i]), CACHE_OK);
    }
    all_to_disk(&l);
    life_kill(&l);
    life_scan(&l);
    assert_start(&l, "scan");
    cr_assert_eq(report_of(&l).objects, 2000);
    cr_assert_eq(ext_objects(l.f.ext), 2000);
    for (unsigned i = 0; i < 2000; i++) {
        cr_assert_str_eq(value_of(&l, numbered("key", i)), numbered("value", i));
        cr_assert_eq(fixture_get(&l.f, numbered("key", i), NULL, 0, &view), CACHE_OK);
        cr_assert_eq(view.client_flags, i);
        cr_assert_eq(view.cas, before[i].cas);
        cr_assert_eq(view.exptime_sec, before[i].exptime_sec);
    }
    cr_assert_eq(ext_reconcile(l.f.ext), 0);
    life_stop(&l);
    life_scan(&l);
    assert_start(&l, "checkpoint");
    cr_assert_str_eq(value_of(&l, "key7"), "value7");
    life_kill(&l);
}

/* The newest values may be on the one that is gone. */
Test(persist, flash_with_a_block_device_that_is_not_there_is_not_scanned)
{
    struct life l;
    struct checkpoint_head head;
    struct checkpoint_writer *w;
    char fault[CHECKPOINT_WHY_BYTES];
    life_scan(&l);
    set(&l, "key", "old");
    all_to_disk(&l);
    life_kill(&l);
    cr_assert_eq(checkpoint_read_head(check_file, &head, fault), 0);
    head.device_count = 2;
    head.devices[1] = (struct checkpoint_device){.ino = 0}; /* of no bytes, so that sizes tell nothing */
    head.stamps[1] = head.stamps[0] + 1;
    cr_assert_eq(checkpoint_create(check_file, &w), 0);
    cr_assert_eq(checkpoint_commit(w, &head), 0);
    life_scan(&l);
    assert_empty(&l, "a part of the flash is gone");
    life_kill(&l);
}

/* A start without the second file lost the latest values. After a kill, a scan of the first file must not find the older
 * ones; what was written after the loss it finds. By checkpoint, and attached to the memory file. */
static void lose_second_file(const char *memory, const char *sizes)
{
    struct life l;
    char second[112], both[700], one[700];
    unsigned found = 0, lost = 0;
    snprintf(second, sizeof(second), "%s.old", flash_file);
    snprintf(both, sizeof(both), "-m 64 %s -o ext_path=%s:32m,ext_path=%s:32m,%s,ext_persist=scan", memory,
             flash_file, second, sizes);
    snprintf(one, sizeof(one), "-m 64 %s -o ext_path=%s:32m,%s,ext_persist=scan", memory, flash_file, sizes);
    life_open_with(&l, both);
    static char filler[16000];
    memset(filler, 'f', sizeof(filler) - 1);
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < 400; i++) {
            set(&l, numbered("key", round == 0 ? i : 399 - i), round == 0 ? "old" : "new");
            set(&l, numbered("filler", i), filler);
            if (i % 50 == 49)
                all_to_disk(&l);
        }
    }
    /* Where a page has more slots, the file that stays has one that is not full. */
    const struct ext_stream *b = &l.f.ext->streams[EXT_BUCKET_DEFAULT];
    for (unsigned i = 0; l.f.ext->slots_per_page > 1 && i < 400; i++) {
        if (b->device == 0 && b->files[0].next_slot > 0 && b->files[0].next_slot + 1 < l.f.ext->slots_per_page)
            break;
        cr_assert_lt(i, 399);
        set(&l, numbered("filler", i), filler);
        all_to_disk(&l);
    }
    life_stop(&l);
    cr_assert_eq(unlink(second), 0);
    life_open_with(&l, one);
    assert_start(&l, *memory ? "memory" : "checkpoint");
    for (unsigned i = 0; i < 400; i++)
        lost += strcmp(value_of(&l, numbered("key", i)), "(none)") == 0;
    cr_assert_gt(lost, 0);
    set(&l, "after", "value");
    all_to_disk(&l);
    life_kill(&l);
    unlink(memory_file);
    life_open_with(&l, one);
    assert_start(&l, "scan");
    cr_assert_str_eq(value_of(&l, "after"), "value");
    for (unsigned i = 0; i < 400; i++)
        found += strcmp(value_of(&l, numbered("key", i)), "old") == 0;
    cr_assert_eq(found, 0, "%u of %u", found, lost);
    life_kill(&l);
}

Test(persist, a_scan_after_a_file_was_lost_finds_no_older_values_checkpoint) { lose_second_file("", FLASH); }

Test(persist, a_scan_after_a_file_was_lost_finds_no_older_values_memory)
{
    char words[128];
    snprintf(words, sizeof(words), "-e %s", memory_file);
    lose_second_file(words, FLASH);
}

/* The page that was open at the loss has room for more. But a scan takes nothing from it, so what is written goes to another. */
Test(persist, a_page_that_was_open_when_a_file_was_lost_is_not_continued)
{
    char words[128];
    const char *sizes = "ext_page_size=4,ext_wbuf_size=1,ext_buffer_mem=24";
    lose_second_file("", sizes);
    unlink(flash_file);
    unlink(check_file);
    snprintf(words, sizeof(words), "-e %s", memory_file);
    lose_second_file(words, sizes);
}

/* What the checkpoint names may have been deleted by the processes that use the flash between decision and lock. */
Test(persist, a_start_that_is_overtaken_each_time_takes_nothing)
{
    struct life l;
    life_open(&l);
    set(&l, "key", "value");
    life_stop(&l);
    life_parse_words(&l, with(32, FLASH ",ext_persist=scan"));
    struct restart_options o = storage_options(&l.f.settings, &l.f.config, &l.f.tunables, 4);
    const struct persist_options po = {.mode = o.persist, .flash = &o.flash};
    struct persist *p = persist_create(&po);
    cr_assert_not_null(p);
    unsigned looks = 0;
    for (bool is_current = false; !is_current; looks++) {
        struct ext_options opt = o.flash;
        const uint64_t stamps[EXT_DEVICES_MAX] = {looks + 1};
        cr_assert_lt(looks, 1000);
        cr_assert_eq(persist_fill_options(p, &opt), 0);
        is_current = opt.is_current(opt.current_ctx, stamps);
        cr_assert(!is_current || (opt.saved == NULL && !opt.scan), "taken over after %u looks", looks);
        persist_look_again(p);
    }
    cr_assert_gt(looks, 1);
    persist_destroy(p);
    settings_free(&l.f.settings);
}

Test(persist, of_many_values_of_a_key_a_scan_takes_the_latest)
{
    struct life l;
    life_open_with(&l, with(128, FLASH ",ext_persist=scan"));
    for (unsigned round = 0; round < 30; round++) {
        for (unsigned i = 0; i < 200; i++)
            if (round % (i % 7 + 1) == 0)
                set(&l, numbered("key", i), numbered("", round));
        fixture_settle(&l.f); /* as the maintenance thread would */
        all_to_disk(&l);
    }
    life_kill(&l);
    life_open_with(&l, with(128, FLASH ",ext_persist=scan"));
    assert_start(&l, "scan");
    cr_assert_eq(ext_objects(l.f.ext), 200);
    for (unsigned i = 0; i < 200; i++)
        cr_assert_str_eq(value_of(&l, numbered("key", i)),
                         numbered("", 29 / (i % 7 + 1) * (i % 7 + 1)), "key%u", i);
    life_kill(&l);
}

/* Values stored after a scan are younger than all that the scan found. */
Test(persist, the_order_of_values_goes_on_after_a_scan)
{
    struct life l;
    life_open_with(&l, with(128, FLASH ",ext_persist=scan"));
    for (unsigned i = 0; i < 1000; i++)
        set(&l, numbered("other", i), "value");
    all_to_disk(&l);
    for (unsigned i = 0; i < 200; i++)
        set(&l, numbered("key", i), "old");
    all_to_disk(&l);
    life_kill(&l);
    life_open_with(&l, with(128, FLASH ",ext_persist=scan"));
    assert_start(&l, "scan");
    for (unsigned i = 0; i < 200; i++)
        set(&l, numbered("key", i), "new");
    all_to_disk(&l); /* both are on flash, and nothing has compared them */
    for (unsigned i = 0; i < 200; i++)
        cr_assert_str_eq(value_of(&l, numbered("key", i)), "new", "key%u", i);
    life_kill(&l);
}

Test(persist, a_scan_goes_by_the_order_of_values_also_where_pages_were_moved)
{
    struct life l;
    static char value[16000];
    memset(value, 'v', sizeof(value));
    unsigned latest[400];
    life_open_with(&l, with(16, FLASH ",ext_persist=scan"));
    for (unsigned n = 0; n < 4000; n++) {
        unsigned i = n * 7919 % 400;
        latest[i] = n;
        snprintf(value, 20, "%u", n);
        cr_assert_eq(fixture_store(&l.f, CACHE_SET, numbered("key", i), value, 8000, 0, 0, 0),
                     CACHE_OK);
        if (n % 100 == 99)
            all_to_disk(&l);
    }
    life_kill(&l);
    life_open_with(&l, with(16, FLASH ",ext_persist=scan"));
    assert_start(&l, "scan");
    unsigned hits = 0;
    for (unsigned i = 0; i < 400; i++) {
        const char *got = value_of(&l, numbered("key", i));
        if (strcmp(got, "(none)") == 0)
            continue;
        hits++;
        cr_assert_eq(strtoul(got, NULL, 10), latest[i], "key%u", i);
    }
    cr_assert_eq(hits, 400);
    life_kill(&l);
}

Test(persist, a_dead_value_hides_the_older_ones_from_a_scan)
{
    struct life l;
    clock_simulate(UINT64_C(1000) * 1000000000);
    life_scan(&l);
    set(&l, "key", "old");
    set(&l, "other", "x");
    all_to_disk(&l);
    cr_assert_eq(fixture_store(&l.f, CACHE_SET, "key", "short", 5, 0, clock_exptime(100), 0),
                 CACHE_OK);
    all_to_disk(&l);
    life_kill(&l);
    clock_simulate(UINT64_C(2000) * 1000000000);
    life_scan(&l);
    cr_assert_str_eq(value_of(&l, "key"), "(none)");
    cr_assert_str_eq(value_of(&l, "other"), "x");
    cr_assert_eq(report_of(&l).objects, 1);
    life_kill(&l);
}

/* A process that was killed has opened pages since its head was written: their versions never come
 * again, or records of two lives of a page could not be told apart. */
Test(persist, versions_of_a_killed_process_do_not_come_again)
{
    static const char *const how[] = {FLASH ",ext_persist", FLASH ",ext_persist=scan"};
    for (unsigned i = 0; i < ARRAY_COUNT(how); i++) {
        struct life l;
        unlink(check_file);
        unlink(flash_file);
        life_open_with(&l, with(32, how[i]));
        uint32_t first = ext_version_now(l.f.ext);
        for (unsigned page = 0; page < 3; page++) { /* each sync ends a slot, and so a page */
            set(&l, numbered("key", page), "value");
            all_to_disk(&l);
        }
        uint32_t last = ext_version_now(l.f.ext);
        cr_assert_eq(last, first + 3);
        cr_assert_eq(truncate(flash_file, 0), 0, "nothing on flash tells of them");
        life_kill(&l);
        life_open_with(&l, with(32, how[i]));
        cr_assert_gt(ext_version_now(l.f.ext), last, "%s", how[i]);
        life_kill(&l);
    }
}

/* Of a page that was filled, freed and begun again, the first slots are of its present life. */
Test(persist, a_scan_takes_the_latest_life_of_a_page_not_its_last_slot)
{
    static const char two_slots[] = "ext_page_size=4,ext_wbuf_size=2,ext_buffer_mem=24,ext_persist=scan";
    struct life l;
    struct ext_page_info info;
    life_open_with(&l, with(32, two_slots));
    for (unsigned slot = 0; slot < 2; slot++) {
        set(&l, numbered("old", slot), "value");
        all_to_disk(&l);
    }
    ext_page_info(l.f.ext, 0, &info);
    uint32_t old_version = info.version;
    cr_assert_eq(info.objects, 2);
    for (unsigned slot = 0; slot < 2; slot++)
        cr_assert_eq(fixture_delete(&l.f, numbered("old", slot)), CACHE_OK);
    ext_page_info(l.f.ext, 0, &info);
    cr_assert_eq(info.state, EXT_PAGE_FREE);
    set(&l, "new", "value");
    all_to_disk(&l);
    ext_page_info(l.f.ext, 0, &info);
    cr_assert_gt(info.version, old_version, "it is the same page");
    cr_assert_eq(info.objects, 1);
    life_kill(&l);
    life_open_with(&l, with(32, two_slots));
    assert_start(&l, "scan");
    cr_assert_str_eq(value_of(&l, "new"), "value");
    cr_assert_str_eq(value_of(&l, "old0"), "(none)", "its slot was written again");
    cr_assert_str_eq(value_of(&l, "old1"), "(none)", "of an earlier life");
    cr_assert_eq(report_of(&l).objects, 1);
    life_kill(&l);
}

/* The device wrote a slot to the place of another. */
Test(persist, a_scan_passes_over_a_slot_that_stands_at_anothers_place)
{
    static const char two_slots[] = "ext_page_size=4,ext_wbuf_size=2,ext_buffer_mem=24,ext_persist=scan";
    struct life l;
    char *slot = malloc(2 * MiB);
    life_open_with(&l, with(32, two_slots));
    for (unsigned i = 0; i < 2; i++) {
        set(&l, numbered("key", i), "value");
        all_to_disk(&l);
    }
    life_kill(&l);
    int fd = open(flash_file, O_RDWR);
    cr_assert_eq(pread(fd, slot, 2 * MiB, 2 * MiB), (ssize_t)(2 * MiB));
    cr_assert_eq(pwrite(fd, slot, 2 * MiB, 4 * MiB), (ssize_t)(2 * MiB)); /* another page */
    close(fd);
    free(slot);
    life_open_with(&l, with(32, two_slots));
    assert_start(&l, "scan");
    cr_assert_eq(report_of(&l).objects, 2);
    struct ext_page_info info;
    ext_page_info(l.f.ext, 1, &info);
    cr_assert_eq(info.state, EXT_PAGE_FREE, "nothing of page 1 stands there");
    life_kill(&l);
}

Test(persist, a_scan_knows_of_flush_all)
{
    struct life l;
    clock_simulate(UINT64_C(1000) * 1000000000);
    life_scan(&l);
    set(&l, "before", "x");
    all_to_disk(&l);
    clock_simulate(UINT64_C(1010) * 1000000000);
    cache_flush_all(l.f.cache, 0);
    clock_simulate(UINT64_C(1020) * 1000000000);
    set(&l, "after", "x");
    all_to_disk(&l);
    life_kill(&l);
    life_scan(&l);
    assert_start(&l, "scan");
    cr_assert_str_eq(value_of(&l, "before"), "(none)");
    cr_assert_str_eq(value_of(&l, "after"), "x");
    life_kill(&l);
}

Test(persist, a_scan_does_not_take_what_an_earlier_cache_left)
{
    struct life l;
    life_open(&l);
    for (unsigned i = 0; i < 1000; i++)
        set(&l, numbered("old", i), "x");
    all_to_disk(&l);
    life_kill(&l);
    life_open(&l); /* not a scan: empty, another seed */
    assert_empty(&l, "did not stop in order");
    set(&l, "new", "x");
    all_to_disk(&l);
    life_kill(&l);
    life_scan(&l);
    assert_start(&l, "scan");
    cr_assert_str_eq(value_of(&l, "new"), "x");
    cr_assert_str_eq(value_of(&l, "old1"), "(none)");
    cr_assert_eq(report_of(&l).objects, 1);
    life_kill(&l);
}

Test(persist, a_scan_reads_long_values_by_their_heads)
{
    struct life l;
    static char value[900000];
    struct ext_info info;
    life_scan(&l);
    for (unsigned i = 0; i < 20; i++) {
        memset(value, 'a' + (int)i, sizeof(value) - 1);
        cr_assert_eq(
            fixture_store(&l.f, CACHE_SET, numbered("key", i), value, sizeof(value) - 1, 0, 0, 0),
            CACHE_OK);
    }
    all_to_disk(&l);
    life_kill(&l);
    life_scan(&l);
    ext_info(l.f.ext, &info);
    cr_assert_lt(info.bytes_read, 2 * MiB);
    for (unsigned i = 0; i < 20; i++) {
        memset(value, 'a' + (int)i, sizeof(value) - 1);
        cr_assert_str_eq(value_of(&l, numbered("key", i)), value);
    }
    life_kill(&l);
}

Test(persist, a_scan_passes_over_what_is_damaged)
{
    struct life l;
    life_scan(&l);
    for (unsigned i = 0; i < 1000; i++)
        set(&l, numbered("key", i), numbered("value", i));
    all_to_disk(&l);
    life_kill(&l);
    flip(flash_file, EXT_MARK_BYTES + 15 * 64 + 40); /* the key of one record of the first slot */
    flip(flash_file, EXT_MARK_BYTES + 20 * 64 + 47); /* the value of another */
    life_scan(&l);
    assert_start(&l, "scan");
    cr_assert_eq(report_of(&l).objects, 998);
    for (unsigned i = 0; i < 1000; i++) {
        const char *got = value_of(&l, numbered("key", i));
        cr_assert(strcmp(got, "(none)") == 0 || strcmp(got, numbered("value", i)) == 0);
    }
    all_to_disk(&l);
    life_kill(&l);
    flip(flash_file, 2 * MiB - 100); /* its table, but records are found without */
    life_scan(&l);
    cr_assert_eq(report_of(&l).objects, 998);
    set(&l, "key", "value");
    cr_assert_str_eq(value_of(&l, "key"), "value");
    life_kill(&l);
}

/* Numbers that clients were given for items that only RAM held are not given again: a cas with one of them would
 * overwrite what it never saw. */
Test(persist, cas_numbers_of_a_killed_process_do_not_come_again_after_a_scan)
{
    struct life l;
    struct cache_view seen, after;
    life_scan(&l);
    set(&l, "disk", "value");
    all_to_disk(&l);
    for (unsigned i = 0; i < 1000; i++)
        set(&l, "ram", numbered("", i));
    cr_assert_eq(fixture_get(&l.f, "ram", NULL, 0, &seen), CACHE_OK);
    life_kill(&l);
    life_scan(&l);
    assert_start(&l, "scan");
    for (unsigned i = 0; i < 1000; i++) {
        set(&l, "ram", "another");
        cr_assert_eq(fixture_get(&l.f, "ram", NULL, 0, &after), CACHE_OK);
        cr_assert_gt(after.cas, seen.cas);
    }
    cr_assert_eq(fixture_store(&l.f, CACHE_CAS, "ram", "x", 1, 0, 0, seen.cas), CACHE_EXISTS);
    life_kill(&l);
}

/* Reads that touch these bytes of the file fail, after the first few. */
static struct {
    _Atomic(bool) on;
    off_t start, end;
    _Atomic(unsigned) good; /* this many more succeed */
} bad_range;

static ssize_t range_pread(void *ctx, int fd, void *buf, size_t bytes, off_t offset)
{
    if (atomic_load(&bad_range.on) && offset < bad_range.end && offset + (off_t)bytes > bad_range.start &&
        (atomic_load(&bad_range.good) == 0 || atomic_fetch_sub(&bad_range.good, 1) == 0))
        return -EIO;
    return failing_pread(ctx, fd, buf, bytes, offset);
}

static const struct ext_device_ops range_ops = {.pread = range_pread, .pwrite = failing_pwrite};

/* The first record of this slot can't be read for now; its table can. */
static void break_slot(struct life *l, unsigned slot, unsigned good_reads)
{
    bad_range.start = (off_t)ext_slot_offset(l->f.ext, slot) + (slot == 0 ? (off_t)EXT_MARK_BYTES : 0);
    bad_range.end = bad_range.start + 40;
    atomic_store(&bad_range.good, good_reads);
    atomic_store(&bad_range.on, true);
}

static void mend_slot(void) { atomic_store(&bad_range.on, false); }

/* It can be read again, and stays the newest. */
static void new_value_comes_back(struct life *l)
{
    mend_slot();
    cr_assert_str_eq(value_of(l, "key"), "new");
    fixture_settle(&l->f);
    cr_assert_str_eq(value_of(l, "key"), "new");
    life_kill(l);
}

Test(persist, a_value_that_a_scan_cannot_read_hides_the_older_one_and_comes_back)
{
    struct life l;
    device_ops = &range_ops;
    life_scan(&l);
    set(&l, "key", "old");
    set(&l, "other", "x");
    all_to_disk(&l);
    set(&l, "key", "new");
    all_to_disk(&l);
    break_slot(&l, 1, 0);
    life_kill(&l);
    life_scan(&l);
    assert_start(&l, "scan");
    cr_assert_not_null(strstr(l.r.line, " 1 could not be read"), "%s", l.r.line);
    cr_assert_eq(ext_reconcile(l.f.ext), 0);
    cr_assert_str_eq(value_of(&l, "key"), "(none)", "not the older one");
    cr_assert_str_eq(value_of(&l, "other"), "x");
    new_value_comes_back(&l);
}

/* Stores an old value of 20 keys in one slot and a new one in the next of the page, and one more after both. Then something
 * happens to the table of the second slot. Each new value is found by its own checksum. */
static void lose_table(void (*lose)(off_t slot_end))
{
    struct life l;
    const char *words = with(64, "ext_page_size=4,ext_wbuf_size=1,ext_buffer_mem=24,ext_persist=scan");
    unlink(flash_file);
    unlink(check_file);
    device_ops = &range_ops;
    life_open_with(&l, words);
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < 20; i++)
            set(&l, numbered(round == 2 ? "last" : "key", i), round == 0 ? "old" : "new");
        all_to_disk(&l);
    }
    cr_assert_eq(l.f.ext->pages[0].slots_used, 3);
    life_kill(&l);
    lose(2 * MiB);
    life_open_with(&l, words);
    mend_slot();
    assert_start(&l, "scan");
    for (unsigned i = 0; i < 20; i++) {
        cr_assert_str_eq(value_of(&l, numbered("key", i)), "new", "%u", i);
        cr_assert_str_eq(value_of(&l, numbered("last", i)), "new", "%u", i);
    }
    cr_assert_eq(ext_objects(l.f.ext), 40);
    cr_assert_eq(ext_reconcile(l.f.ext), 0);
    for (unsigned i = 0; i < 20; i++) {
        (void)fixture_delete(&l.f, numbered("key", i));
        (void)fixture_delete(&l.f, numbered("last", i));
    }
    cr_assert_eq(ext_objects(l.f.ext), 0);
    life_kill(&l);
}

static void flip_entry(off_t slot_end) { flip(flash_file, slot_end - 40); }
static void flip_trailer(off_t slot_end) { flip(flash_file, slot_end - 30); }
static void break_trailer(off_t slot_end)
{
    bad_range.start = slot_end - 32;
    bad_range.end = slot_end;
    atomic_store(&bad_range.good, 0);
    atomic_store(&bad_range.on, true);
}

Test(persist, of_a_table_that_a_scan_cannot_read_the_records_are_found)
{
    lose_table(flip_entry);
    lose_table(flip_trailer);
    lose_table(break_trailer);
}

static off_t trailer_byte;
static void flip_trailer_byte(off_t slot_end) { flip(flash_file, slot_end - (off_t)sizeof(struct ext_trailer) + trailer_byte); }
static void flip_first_trailer_byte(off_t slot_end) { flip_trailer_byte(slot_end - (off_t)MiB); }

/* A trailer with a wrong version or number doesn't take the rest of its page away either. */
Test(persist, no_byte_of_a_trailer_takes_more_than_its_table_away)
{
    for (trailer_byte = 0; trailer_byte < (off_t)sizeof(struct ext_trailer); trailer_byte++) {
        lose_table(flip_trailer_byte);
        lose_table(flip_first_trailer_byte);
    }
}

/* The only slot of a page's last life is known by its version, whatever byte of the trailer is wrong. */
static void lose_only_trailer(bool has_earlier_life)
{
    static const char two_slots[] = "ext_page_size=4,ext_wbuf_size=2,ext_buffer_mem=24,ext_persist=scan";
    struct life l;
    unlink(flash_file);
    unlink(check_file);
    life_open_with(&l, with(32, two_slots));
    for (unsigned slot = 0; slot < 2 && has_earlier_life; slot++) {
        set(&l, numbered("old", slot), "value");
        all_to_disk(&l);
    }
    for (unsigned slot = 0; slot < 2 && has_earlier_life; slot++)
        cr_assert_eq(fixture_delete(&l.f, numbered("old", slot)), CACHE_OK);
    set(&l, "new", "value");
    all_to_disk(&l);
    cr_assert_eq(l.f.ext->pages[0].objects, 1, "it is the same page");
    life_kill(&l);
    flip_trailer_byte(2 * MiB);
    life_open_with(&l, with(32, two_slots));
    assert_start(&l, "scan");
    cr_assert_str_eq(value_of(&l, "old1"), "(none)", "of an earlier life; byte %d", (int)trailer_byte);
    bool is_in_slot = trailer_byte >= (off_t)offsetof(struct ext_trailer, slot) &&
                      trailer_byte < (off_t)offsetof(struct ext_trailer, front_bytes);
    if (!is_in_slot || has_earlier_life) { /* else nothing tells the page's number, so it may be a miss */
        cr_assert_str_eq(value_of(&l, "new"), "value", "byte %d", (int)trailer_byte);
        cr_assert_eq(report_of(&l).objects, 1);
    }
    life_kill(&l);
}

Test(persist, no_byte_of_the_only_trailer_of_a_life_brings_the_earlier_one_back)
{
    for (trailer_byte = 0; trailer_byte < (off_t)sizeof(struct ext_trailer); trailer_byte++) {
        lose_only_trailer(true);
        lose_only_trailer(false);
    }
}

/* The first slot's table is damaged and its record can't be read: its trailer alone tells of the page's last life. */
Test(persist, a_life_that_a_scan_cannot_read_hides_the_earlier_one_of_its_page)
{
    static const char two_slots[] = "ext_page_size=4,ext_wbuf_size=2,ext_buffer_mem=24,ext_persist=scan";
    struct life l;
    device_ops = &range_ops;
    life_open_with(&l, with(32, two_slots));
    for (unsigned slot = 0; slot < 2; slot++) {
        set(&l, numbered("old", slot), "value");
        all_to_disk(&l);
    }
    for (unsigned slot = 0; slot < 2; slot++)
        cr_assert_eq(fixture_delete(&l.f, numbered("old", slot)), CACHE_OK);
    set(&l, "new", "value");
    all_to_disk(&l);
    cr_assert_eq(l.f.ext->pages[0].objects, 1, "it is the same page");
    break_slot(&l, 0, 0);
    life_kill(&l);
    flip_entry(2 * MiB);
    life_open_with(&l, with(32, two_slots));
    mend_slot();
    assert_start(&l, "scan");
    cr_assert_str_eq(value_of(&l, "old1"), "(none)", "of an earlier life");
    cr_assert_eq(report_of(&l).objects, 0);
    life_kill(&l);
}

/* With it, page versions would soon go round, and old pages would count as younger than new ones. */
Test(persist, a_version_that_no_process_reached_is_no_trailers)
{
    struct life l;
    struct ext_trailer t;
    char *slot = malloc(2 * MiB);
    life_scan(&l);
    for (unsigned page = 0; page < 2; page++) {
        for (unsigned i = 0; i < 20; i++)
            set(&l, numbered(page == 0 ? "first" : "second", i), "v");
        all_to_disk(&l);
    }
    life_kill(&l);
    int fd = open(flash_file, O_RDWR);
    cr_assert_eq(pread(fd, slot, 2 * MiB, 2 * MiB), (ssize_t)(2 * MiB));
    memcpy(&t, slot + 2 * MiB - sizeof(t), sizeof(t));
    cr_assert(t.magic == EXT_TRAILER_MAGIC && t.slot == 1);
    ext_trailer_write(slot, 2 * MiB, 1, t.version + INT32_MAX, t.count, t.front_bytes);
    cr_assert_eq(pwrite(fd, slot, 2 * MiB, 2 * MiB), (ssize_t)(2 * MiB));
    close(fd);
    free(slot);
    life_scan(&l);
    assert_start(&l, "scan");
    for (unsigned page = 0; page < 4; page++) {
        set(&l, numbered("new", page), "v");
        all_to_disk(&l);
    }
    cr_assert_lt(ext_version_now(l.f.ext) - t.version, UINT32_C(1) << 30);
    cr_assert_str_eq(value_of(&l, "first7"), "v");
    cr_assert_str_eq(value_of(&l, "new3"), "v");
    for (unsigned i = 0; i < 20; i++) /* the first page becomes free */
        cr_assert_eq(fixture_delete(&l.f, numbered("first", i)), CACHE_OK);
    life_kill(&l);
}

Test(persist, what_is_stored_over_a_value_that_a_scan_could_not_read_is_the_newest)
{
    struct life l;
    device_ops = &range_ops;
    life_scan(&l);
    set(&l, "key", "old");
    all_to_disk(&l);
    for (unsigned i = 0; i < 100; i++) /* sequence numbers that nobody reads */
        set(&l, "filler", numbered("", i));
    set(&l, "key", "new");
    all_to_disk(&l);
    break_slot(&l, 1, 0);
    life_kill(&l);
    life_scan(&l);
    set(&l, "key", "newest");
    all_to_disk(&l);
    mend_slot();
    cr_assert_str_eq(value_of(&l, "key"), "newest");
    fixture_settle(&l.f);
    cr_assert_str_eq(value_of(&l, "key"), "newest");
    life_kill(&l);
    life_scan(&l);
    cr_assert_str_eq(value_of(&l, "key"), "newest");
    life_kill(&l);
}

/* A key that puts another one out of the scan's memory of recent records (with -m 64: 2^18 of them). */
static const char *neighbour_of(struct life *l, const char *key)
{
    uint64_t hash = cache_hash(l->f.cache, key, strlen(key));
    for (unsigned i = 0;; i++) {
        const char *name = numbered("near", i);
        if (((cache_hash(l->f.cache, name, strlen(name)) ^ hash) & ((1u << 18) - 1)) == 0)
            return name;
    }
}

/* An old value in a young page, as a rescue leaves it. */
static void append_old(struct life *l, const char *key, const char *value, uint64_t seq)
{
    struct ext_append a;
    struct ext_record_in in = {.hash = cache_hash(l->f.cache, key, strlen(key)),
                               .key = key,
                               .key_bytes = (uint8_t)strlen(key),
                               .value = value,
                               .value_bytes = (uint32_t)strlen(value),
                               .time_unix = (uint32_t)clock_unix_now_sec()};
    cr_assert_eq(ext_append_begin(l->f.ext, EXT_BUCKET_DEFAULT, &in, seq, true, &a), 0);
    ext_page_add_object(l->f.ext, ext_place_page(l->f.ext, a.place), 64, a.len_class, 0, in.time_unix);
    ext_append_end(&a);
}

/* The scan met the older one first, and can't read it again when it has to compare the younger. */
Test(persist, a_younger_value_stays_when_a_scan_cannot_compare_it)
{
    struct life l;
    device_ops = &range_ops;
    life_scan(&l);
    set(&l, "filler", "x");
    set(&l, "key", "new");
    all_to_disk(&l);
    append_old(&l, "key", "old", 1);
    append_old(&l, neighbour_of(&l, "key"), "x", 3);
    cr_assert_eq(ext_sync(l.f.ext, -1), 0);
    break_slot(&l, 1, 1);
    life_kill(&l);
    life_scan(&l);
    assert_start(&l, "scan");
    cr_assert_str_eq(value_of(&l, "key"), "(none)", "for now");
    new_value_comes_back(&l);
}

/* It is dead, so of no use; but the older value beside it is not known to be another key's. */
Test(persist, a_dead_value_that_a_scan_cannot_compare_goes_on_hiding)
{
    struct life l;
    device_ops = &range_ops;
    clock_simulate(UINT64_C(1000) * 1000000000);
    life_scan(&l);
    set(&l, "key", "old");
    all_to_disk(&l);
    cr_assert_eq(fixture_store(&l.f, CACHE_SET, "key", "short", 5, 0, clock_exptime(100), 0), CACHE_OK);
    fixture_flush(&l.f);
    set(&l, neighbour_of(&l, "key"), "x");
    all_to_disk(&l);
    break_slot(&l, 1, 1);
    life_kill(&l);
    clock_simulate(UINT64_C(2000) * 1000000000);
    life_scan(&l);
    assert_start(&l, "scan");
    mend_slot();
    cr_assert_str_eq(value_of(&l, "key"), "(none)");
    cr_assert_str_eq(value_of(&l, "key"), "(none)");
    life_kill(&l);
}

Test(persist, wrong_bytes_hide_the_older_value_from_a_scan_and_are_dropped_alone)
{
    struct life l;
    life_scan(&l);
    set(&l, "key", "old");
    all_to_disk(&l);
    set(&l, "key", "new");
    set(&l, "alone", "x");
    all_to_disk(&l);
    off_t slot = (off_t)ext_slot_offset(l.f.ext, 1);
    life_kill(&l);
    flip(flash_file, slot + 40);
    flip(flash_file, slot + 48 + 40);
    life_scan(&l);
    cr_assert_eq(report_of(&l).objects, 2, "the pair of key");
    cr_assert_str_eq(value_of(&l, "key"), "(none)");
    cr_assert_str_eq(value_of(&l, "alone"), "(none)");
    set(&l, "key", "newest");
    all_to_disk(&l);
    fixture_settle(&l.f);
    cr_assert_str_eq(value_of(&l, "key"), "newest");
    cr_assert_eq(ext_objects(l.f.ext), 1);
    life_kill(&l);
}

Test(persist, a_damaged_checkpoint_with_a_whole_head_leads_to_a_scan)
{
    struct life l;
    life_scan(&l);
    for (unsigned i = 0; i < 1000; i++)
        set(&l, numbered("key", i), numbered("value", i));
    life_stop(&l);
    flip(check_file, file_size(check_file) / 2);
    life_scan(&l);
    assert_start(&l, "scan");
    for (unsigned i = 0; i < 1000; i++)
        cr_assert_str_eq(value_of(&l, numbered("key", i)), numbered("value", i));
    life_kill(&l);
}

Test(persist, a_scan_that_finds_more_than_m_can_index_keeps_what_fits)
{
    struct life l;
    char words[300];
    life_open_with(&l, with(64, FLASH ",ext_persist=scan"));
    for (unsigned i = 0; i < 300000; i++) {
        set(&l, numbered("key", i), "v");
        if (i % 30000 == 29999)
            all_to_disk(&l);
    }
    life_kill(&l);
    snprintf(words, sizeof(words), "-m 4 -o ext_path=%s:64m," FLASH ",ext_persist=scan",
             flash_file);
    life_open_with(&l, words);
    assert_start(&l, "scan");
    cr_assert_gt(report_of(&l).objects, 100000);
    cr_assert_lt(report_of(&l).objects, 280000);
    unsigned hits = 0;
    for (unsigned i = 0; i < 300000; i += 100)
        hits += strcmp(value_of(&l, numbered("key", i)), "v") == 0;
    cr_assert_gt(hits, 1000);
    life_kill(&l);
}

/* ---- hostile content ---- */

/* A checkpoint, or a memory file, whose fields say what no build wrote, with checksums that verify. Each start serves,
 * or is empty with one line; nothing aborts. The draws are always the same. */

enum { HOSTILE_KEYS = 300, TWO_FILES = 2, HOSTILE_USED_BYTES = 4 << 20 };
static char second_file[112];
static uint64_t hostile_state = 20261127;
static char hostile_case[160]; /* for a debugger */
static unsigned hostile_found; /* values in the life before */

static uint64_t hostile_draw(void)
{
    hostile_state ^= hostile_state << 13;
    hostile_state ^= hostile_state >> 7;
    hostile_state ^= hostile_state << 17;
    return hostile_state;
}

/* A value for a field of this many bytes, of what it is now. */
static uint64_t hostile_value(uint64_t now, unsigned bytes)
{
    uint64_t top = UINT64_C(1) << (bytes * 8 - 1);
    const uint64_t values[] = {0, 1, now + 1, now - 1, now ^ top, top - 1, UINT64_MAX, now << 1, now ^ UINT64_C(1) << hostile_draw() % (bytes * 8),
                               hostile_draw(), hostile_draw() % 1024, UINT32_MAX};
    return values[hostile_draw() % ARRAY_COUNT(values)];
}

struct hostile_file { /* as it was left, so that each life finds it so */
    const char *path;
    char *bytes; /* of its pages in use */
    struct timespec time;
};

static void file_take(struct hostile_file *f, const char *path)
{
    int fd = open(path, O_RDONLY);
    f->path = path;
    f->time = time_of(path);
    f->bytes = malloc(HOSTILE_USED_BYTES);
    cr_assert_eq(pread(fd, f->bytes, HOSTILE_USED_BYTES, 0), HOSTILE_USED_BYTES);
    close(fd);
}

static void file_put(const struct hostile_file *f)
{
    int fd = open(f->path, O_WRONLY);
    cr_assert_eq(pwrite(fd, f->bytes, HOSTILE_USED_BYTES, 0), HOSTILE_USED_BYTES);
    close(fd);
    put_time_back(f->path, f->time);
}

static const char *two_files(const char *memory, const char *mode)
{
    static char text[700];
    snprintf(text, sizeof(text),
             "-m 64 %s -o ext_path=%s:16m,ext_path=%s:16m,ext_page_size=2,ext_wbuf_size=1,ext_buffer_mem=16%s", memory,
             flash_file, second_file, mode);
    return text;
}

static void store_hostile_sample(struct life *l)
{
    static char filler[60000];
    memset(filler, 'f', sizeof(filler) - 1);
    for (unsigned i = 0; i < HOSTILE_KEYS; i++)
        set(l, numbered("key", i), i % 10 == 0 ? filler : numbered("value", i));
}

/* Whatever it took over: every verb works, and the books balance. */
static void use_hostile_life(struct life *l)
{
    cr_assert_null(strchr(l->r.line, '\n'), "%s", l->r.line);
    hostile_found = 0;
    for (unsigned i = 0; i < HOSTILE_KEYS; i++) {
        const char *value = value_of(l, numbered("key", i));
        hostile_found += strcmp(value, "(none)") != 0;
        cr_assert(strcmp(value, "(none)") == 0 || i % 10 == 0 || strcmp(value, numbered("value", i)) == 0, "%s: %s",
                  hostile_case, value);
        if (i % 3 == 0)
            (void)fixture_delete(&l->f, numbered("key", i));
        else if (i % 3 == 1)
            (void)fixture_set(&l->f, numbered("key", i), numbered("value", i));
    }
    fixture_flush(&l->f);
    (void)ext_sync(l->f.ext, -1);
    for (unsigned i = 0; i < 40 && ext_maint_step(l->f.ext, (uint32_t)clock_unix_now_sec()); i++)
        fixture_turn(&l->f);
    struct ext_info info;
    ext_info(l->f.ext, &info);
    life_kill(l);
}

/* Writes a checkpoint file with this head and body, each with the checksum that it needs. */
static void write_hostile(struct checkpoint_head head, const char *body, uint64_t body_bytes)
{
    int fd = open(check_file, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    head.crc = crc32c(0, (const char *)&head + sizeof(head.crc), sizeof(head) - sizeof(head.crc));
    cr_assert_eq(pwrite(fd, &head, sizeof(head), 0), (ssize_t)sizeof(head));
    off_t at = sizeof(head);
    for (uint64_t done = 0, number = 0; done < body_bytes; number++) {
        struct {
            uint32_t crc, bytes;
            uint64_t number;
        } block = {.bytes = (uint32_t)min_u64(body_bytes - done, CHECKPOINT_BLOCK_BYTES), .number = number};
        block.crc = crc32c(crc32c(0, &head.token, sizeof(head.token)), &block.bytes, sizeof(block) - sizeof(block.crc));
        block.crc = crc32c(block.crc, body + done, block.bytes);
        cr_assert_eq(pwrite(fd, &block, sizeof(block), at), (ssize_t)sizeof(block));
        cr_assert_eq(pwrite(fd, body + done, block.bytes, at + (off_t)sizeof(block)), (ssize_t)block.bytes);
        at += (off_t)(sizeof(block) + block.bytes);
        done += block.bytes;
    }
    close(fd);
}

struct hostile_sample {
    struct checkpoint_head head;
    char *body;
    struct hostile_file files[TWO_FILES];
};

/* What --check and a start make of it. */
static void start_hostile(const struct hostile_sample *s, const struct checkpoint_head *head, const char *mode)
{
    const char *const paths[] = {flash_file, second_file};
    struct life l;
    char *said = NULL;
    size_t bytes;
    write_hostile(*head, s->body, head->state == CHECKPOINT_CLEAN ? s->head.body_bytes : 0);
    for (unsigned i = 0; i < TWO_FILES; i++)
        file_put(&s->files[i]);
    FILE *out = open_memstream(&said, &bytes);
    int code = check_files(paths, TWO_FILES, out);
    fclose(out);
    cr_assert(code >= CHECK_CLEAN && code <= CHECK_UNREADABLE);
    free(said);
    int rc = life_try(&l, two_files("", mode));
    cr_assert_eq(rc, 0, "%s: %s", hostile_case, why);
    use_hostile_life(&l);
}

static void free_hostile_sample(struct hostile_sample *s)
{
    for (unsigned i = 0; i < TWO_FILES; i++)
        free(s->files[i].bytes);
    free(s->body);
}

static void make_hostile_sample(struct hostile_sample *s)
{
    struct life l;
    struct checkpoint_reader *r;
    char fault[CHECKPOINT_WHY_BYTES];
    snprintf(second_file, sizeof(second_file), "%s.old", flash_file);
    life_open_with(&l, two_files("", ",ext_persist"));
    store_hostile_sample(&l);
    life_stop(&l);
    cr_assert_eq(checkpoint_read_head(check_file, &s->head, fault), 0, "%s", fault);
    cr_assert_eq(checkpoint_open(check_file, &s->head, &r), 0);
    s->body = malloc(s->head.body_bytes);
    cr_assert_eq(checkpoint_get(r, s->body, s->head.body_bytes), 0);
    cr_assert_eq(checkpoint_close(r), 0);
    file_take(&s->files[0], flash_file);
    file_take(&s->files[1], second_file);
    start_hostile(s, &s->head, ",ext_persist");
    cr_assert_gt(hostile_found, 290);
}

Test(persist, no_head_of_a_checkpoint_stops_a_start)
{
    struct hostile_sample s;
    make_hostile_sample(&s);
    const size_t first = offsetof(struct checkpoint_head, layout), end = offsetof(struct checkpoint_head, unused);
    for (size_t at = first; at < end; at += 4) {
        bool is_array = at >= offsetof(struct checkpoint_head, devices);
        size_t in_array = (at - offsetof(struct checkpoint_head, devices)) % sizeof(struct checkpoint_device);
        if (is_array && at > offsetof(struct checkpoint_head, devices) + 2 * sizeof(struct checkpoint_device) && in_array != 0)
            continue; /* of devices that there aren't */
        struct checkpoint_head head = s.head;
        uint64_t wide = at % 8 == 0 && hostile_draw() % 2 ? 8 : 4, now = 0;
        memcpy(&now, (char *)&head + at, wide);
        uint64_t value = hostile_value(now, (unsigned)wide);
        memcpy((char *)&head + at, &value, wide);
        if (hostile_draw() % 4 == 0)
            head.state = CHECKPOINT_RUNNING;
        snprintf(hostile_case, sizeof(hostile_case), "head, byte %zu: %" PRIx64, at, value);
        start_hostile(&s, &head, hostile_draw() % 2 ? ",ext_persist=scan" : ",ext_persist");
    }
    free_hostile_sample(&s);
}

Test(persist, no_tables_of_a_checkpoint_stop_a_start)
{
    struct hostile_sample s;
    struct ext_saved_engine engine;
    make_hostile_sample(&s);
    memcpy(&engine, s.body, sizeof(engine));
    cr_assert_eq(engine.device_count, TWO_FILES);
    size_t pages = sizeof(engine) + TWO_FILES * sizeof(struct ext_saved_device);
    size_t slots = pages + engine.page_count * sizeof(struct ext_saved_page);
    size_t index = slots + (engine.page_count * 2 + 7) / 8;
    for (unsigned turn = 0; turn < 220; turn++) {
        size_t at = turn < 14    ? turn * 4
                    : turn < 26  ? sizeof(engine) + (turn - 14) * 4
                    : turn < 120 ? pages + (turn % 2 * sizeof(struct ext_saved_page)) + (turn - 26) / 2 % 14 * 4
                    : turn < 130 ? slots + turn % ((engine.page_count * 2 + 7) / 8)
                    : turn < 150 ? index + (turn - 130) * 4
                                 : index + hostile_draw() % (s.head.body_bytes - index - 8);
        uint64_t wide = hostile_draw() % 3 == 0 ? 8 : hostile_draw() % 3 == 0 ? 1 : 4, kept = 0;
        for (unsigned tries = 0; turn >= 150 && s.body[at] == 0 && tries < 1000000; tries++)
            at = index + hostile_draw() % (s.head.body_bytes - index - 8); /* most is empty */
        memcpy(&kept, s.body + at, wide);
        uint64_t value = hostile_value(kept, (unsigned)wide);
        memcpy(s.body + at, &value, wide);
        snprintf(hostile_case, sizeof(hostile_case), "body, byte %zu: %" PRIx64, at, value);
        start_hostile(&s, &s.head, ",ext_persist");
        memcpy(s.body + at, &kept, wide);
    }
    start_hostile(&s, &s.head, ",ext_persist");
    cr_assert_gt(hostile_found, 290);
    free_hostile_sample(&s);
}

/* Where the fields of a memory file lie that an attach goes by. */
struct hostile_range {
    uint64_t at, bytes;
};

static unsigned memory_ranges(struct life *l, struct hostile_range *out)
{
    struct extstore *e = l->f.ext;
    uint64_t pages = e->tables->pages, wbufs = e->tables->wbufs, words = e->tables->words;
    unsigned n = 0;
    out[n++] = (struct hostile_range){8, 340}; /* the header */
    for (unsigned root = 0; root < ARENA_ROOT_COUNT; root++)
        out[n++] = (struct hostile_range){
            (uint64_t)((char *)arena_root(l->f.arena, (enum arena_root_id)root) - (char *)arena_base(l->f.arena)), 2048};
    out[n++] = (struct hostile_range){(uint64_t)((char *)e->root - (char *)arena_base(l->f.arena)), 700};
    out[n++] = (struct hostile_range){pages, 4 * sizeof(struct ext_page)};
    out[n++] = (struct hostile_range){wbufs, 3 * sizeof(struct ext_wbuf_root)};
    out[n++] = (struct hostile_range){words, 64};
    return n;
}

Test(persist, no_field_of_a_memory_file_stops_a_start)
{
    struct life l;
    struct hostile_range ranges[ARENA_ROOT_COUNT + 8];
    struct hostile_file flash[TWO_FILES];
    char memory[128], kept[160];
    snprintf(second_file, sizeof(second_file), "%s.old", flash_file);
    snprintf(memory, sizeof(memory), "-e %s", memory_file);
    snprintf(kept, sizeof(kept), "%s.kept", memory_file);
    life_open_with(&l, two_files(memory, ""));
    store_hostile_sample(&l);
    all_to_disk(&l);
    for (unsigned i = 0; i < 40; i++) /* a buffer that is not written, and items in RAM */
        set(&l, numbered("key", i), i % 10 == 0 ? "ram" : numbered("value", i));
    fixture_flush(&l.f);
    for (unsigned i = 40; i < 60; i++)
        set(&l, numbered("key", i), i % 10 == 0 ? "ram" : numbered("value", i));
    unsigned count = memory_ranges(&l, ranges), served = 0;
    life_kill(&l);
    copy_file(memory_file, kept);
    file_take(&flash[0], flash_file);
    file_take(&flash[1], second_file);
    for (unsigned turn = 0; turn < 160; turn++) {
        const struct hostile_range *r = &ranges[turn % count];
        uint64_t at = r->at + hostile_draw() % (r->bytes / 4) * 4, now = 0;
        unsigned wide = at % 8 == 0 && hostile_draw() % 2 ? 8 : 4;
        copy_file(kept, memory_file);
        for (unsigned i = 0; i < TWO_FILES; i++)
            file_put(&flash[i]);
        int fd = open(memory_file, O_RDWR);
        for (unsigned tries = 0; tries < 100 && now == 0; tries++) { /* most words are zero */
            at = r->at + hostile_draw() % (r->bytes / 4) * 4;
            wide = at % 8 == 0 && hostile_draw() % 2 ? 8 : 4;
            cr_assert_eq(pread(fd, &now, wide, (off_t)at), (ssize_t)wide);
        }
        uint64_t value = hostile_value(now, wide);
        cr_assert_eq(pwrite(fd, &value, wide, (off_t)at), (ssize_t)wide);
        close(fd);
        snprintf(hostile_case, sizeof(hostile_case), "memory, byte %" PRIu64 ": %" PRIx64, at, value);
        cr_assert_eq(life_try(&l, two_files(memory, "")), 0, "%s: %s", hostile_case, why);
        served += l.r.attached;
        use_hostile_life(&l);
    }
    cr_assert_gt(served, 20);
    for (unsigned i = 0; i < TWO_FILES; i++)
        free(flash[i].bytes);
    unlink(kept);
}
