/* scarcity_test.c: everything that needs memory, files and threads is created with each of these failing in
 * turn: it is refused (with a line, where one is promised), nothing leaks, and the next try works. */
#include <criterion/criterion.h>
#include <event2/event.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "operator/auth.h"
#include "base/checkpoint.h"
#include "command/stats_report.h"
#include "crawler.h"
#include "io_thread.h"
#include "net/listener.h"
#include "operator/command_line.h"
#include "operator/prefix.h"
#include "restart/restart.h"
#include "net/udp.h"
#include "t/aid/cache_fixture.h"
#include "t/aid/sys_faults.h"

enum { CALLS_MAX = 3000 };

static char dir[64], file[96], flash[96], why[RESTART_LINE_BYTES];

static void make_dir(void)
{
    const char *base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(dir, sizeof(dir), "%s/scarcity_test.XXXXXX", base);
    cr_assert_not_null(mkdtemp(dir));
    snprintf(file, sizeof(file), "%s/file", dir);
    snprintf(flash, sizeof(flash), "%s/flash", dir);
    clock_setup();
}

static void remove_dir(void)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    cr_assert_eq(system(command), 0);
}

TestSuite(scarcity, .init = make_dir, .fini = remove_dir, .timeout = 600);

/* Creates something and destroys it; tells whether it worked. Calls sys_failed() between the two. */
typedef bool attempt_fn(void *ctx);

/* The 1st, 2nd, 3rd .. call fails, and `more` after it, until there is none left to fail. */
static void each_call_fails_and_more(unsigned kinds, unsigned more, attempt_fn *attempt, void *ctx)
{
    for (unsigned n = 1;; n++) {
        cr_assert_lt(n, (unsigned)CALLS_MAX);
        why[0] = '\0';
        sys_fail_nth(kinds, n, more);
        bool ok = attempt(ctx);
        if (!sys_failed()) {
            cr_assert(ok, "does not work at all: %s", why);
            break;
        }
    }
    sys_fail_nth(0, 0, 0);
    cr_assert(attempt(ctx), "not in order after it: %s", why);
}

static void each_call_fails(unsigned kinds, attempt_fn *attempt, void *ctx)
{
    each_call_fails_and_more(kinds, 0, attempt, ctx);
    each_call_fails_and_more(kinds, CALLS_MAX, attempt, ctx);
}

/* ---- storage ---- */

struct storage {
    char words[400];
    bool leave_one; /* there is content to take over each time */
    bool flush;     /* the end writes it out */
};

static int storage_open(const struct storage *s, struct fixture *f, struct restart *r)
{
    char text[512], *argv[24], *at = text;
    int argc = 0;
    snprintf(text, sizeof(text), "extant %s", s->words);
    for (char *word; argc < 24 && (word = strsep(&at, " ")) != NULL;)
        if (*word)
            argv[argc++] = word;
    struct sys_armed armed = sys_set_aside();
    cr_assert_eq(settings_parse(&f->settings, argc, argv, stdout, stderr), SETTINGS_GO_ON);
    storage_config_init(&f->settings, &f->config, &f->tunables);
    struct restart_options opt = storage_options(&f->settings, &f->config, &f->tunables, 2);
    sys_arm_again(armed);
    return restart_open(&opt, r, why, sizeof(why));
}

static void fixture_over(struct fixture *f, struct restart *r)
{
    f->arena = r->arena;
    f->slab = r->slab;
    f->index = r->index;
    f->cache = r->cache;
    f->ext = r->ext;
    f->worker = cache_worker_create(r->cache, &f->stats);
}

static void leave_one_item(const struct storage *s)
{
    struct fixture f = {0};
    struct restart r;
    clock_setup();
    unlink(file);
    cr_assert_eq(storage_open(s, &f, &r), 0, "%s", why);
    fixture_over(&f, &r);
    cr_assert_eq(fixture_set(&f, "key", "value"), CACHE_OK);
    cache_worker_destroy(f.worker);
    restart_close(&r, false);
    settings_free(&f.settings);
}

static bool try_storage(void *ctx)
{
    const struct storage *s = ctx;
    struct fixture f = {0};
    struct restart r = {0};
    char value[16];
    if (s->leave_one) {
        /* Only what follows is to fail: disarms meanwhile. */
        struct sys_armed armed = sys_set_aside();
        leave_one_item(s);
        sys_arm_again(armed);
    }
    clock_setup();
    int rc = storage_open(s, &f, &r);
    if (rc == 0) {
        fixture_over(&f, &r);
        rc = f.worker ? 0 : -ENOMEM;
    }
    bool failed = sys_failed();
    if (rc != 0)
        cr_assert(failed, "%s", why);
    if (f.worker) {
        cr_assert_eq(fixture_set(&f, "other", "value"), CACHE_OK, "after %s", sys_failed_name());
        cr_assert_eq(fixture_get(&f, "other", value, sizeof(value), NULL), CACHE_OK);
        if (s->leave_one && r.attached)
            cr_assert_eq(fixture_get(&f, "key", value, sizeof(value), NULL), CACHE_OK);
        cache_worker_destroy(f.worker);
    }
    if (f.cache)
        restart_close(&r, s->flush);
    settings_free(&f.settings);
    return rc == 0;
}

static void all_of_storage_fails(struct storage *s)
{
    each_call_fails_and_more(SYS_ALL, 0, try_storage, s);
}

Test(scarcity, of_a_start_in_memory)
{
    struct storage s = {.words = "-m 16 -o track_sizes"};
    all_of_storage_fails(&s);
}

Test(scarcity, of_a_start_with_a_memory_file)
{
    struct storage s = {0};
    snprintf(s.words, sizeof(s.words), "-m 16 -e %s", file);
    all_of_storage_fails(&s);
}

Test(scarcity, of_a_start_that_takes_over_a_memory_file)
{
    struct storage s = {.leave_one = true};
    snprintf(s.words, sizeof(s.words), "-m 16 -e %s", file);
    all_of_storage_fails(&s);
}

/* ---- starts where one write fails, or several in a row ---- */

struct start {
    struct storage s;
    struct fixture f;
    struct restart r;
};

/* Opens it, while the calls n to n + more of this name fail. */
static int start_failing(struct start *t, const char *name, unsigned n, unsigned more)
{
    clock_setup();
    memset(&t->f, 0, sizeof(t->f));
    memset(&t->r, 0, sizeof(t->r));
    sys_fail_named(name, n, more);
    int rc = storage_open(&t->s, &t->f, &t->r);
    (void)sys_failed();
    if (rc == 0)
        fixture_over(&t->f, &t->r);
    else
        settings_free(&t->f.settings);
    return rc;
}

static void start_well(struct start *t)
{
    cr_assert_eq(start_failing(t, "", 0, 0), 0, "%s", why);
}

static void stop(struct start *t, bool clean)
{
    if (t->f.worker)
        cache_worker_destroy(t->f.worker);
    restart_close(&t->r, clean);
    settings_free(&t->f.settings);
}

static bool is_degraded(struct start *t)
{
    struct ext_info info;
    ext_info(t->r.ext, &info);
    if (info.degraded)
        cr_assert_not_null(strstr(info.degraded_why, "flash2: writes fail (Input/output error)"), "%s", info.degraded_why);
    return info.degraded;
}

static const char *how_it_started(struct start *t)
{
    static struct persist_report r;
    persist_report(t->r.persist, &r);
    return r.start;
}

static void put_many(struct start *t, const char *value)
{
    char key[16];
    for (unsigned i = 0; i < 300; i++) {
        snprintf(key, sizeof(key), "key%u", i);
        cr_assert_eq(fixture_set(&t->f, key, value), CACHE_OK);
    }
}

static void assert_many(struct start *t, const char *value, const char *what)
{
    char key[16], got[40];
    for (unsigned i = 0; i < 300; i++) {
        snprintf(key, sizeof(key), "key%u", i);
        cr_assert_eq(fixture_get(&t->f, key, got, sizeof(got), NULL), CACHE_OK, "%s: %s", what, key);
        cr_assert_str_eq(got, value, "%s: %s", what, key);
    }
}

enum { MARK_TRIES = 5 };

static void on_two_devices(struct start *t, const char *memory, const char *more)
{
    snprintf(t->s.words, sizeof(t->s.words),
             "-m 64 %s -o ext_path=%s:16m,ext_path=%s2:16m,ext_page_size=2,ext_wbuf_size=1,ext_buffer_mem=16%s", memory,
             flash, flash, more);
}

/* One of two devices takes no mark: the other serves, and the one is back as soon as it takes it, or at a later start.
 * Nothing is lost meanwhile, however the process ends. */
Test(scarcity, of_a_device_for_its_mark)
{
    char with_memory[120];
    snprintf(with_memory, sizeof(with_memory), "-e %s", file);
    const struct {
        const char *what, *memory, *more;
        bool has_content; /* a clean stop before */
        bool ends_well;
    } cases[] = {
        {"fresh", "", ",ext_persist", false, true},
        {"fresh, scan", "", ",ext_persist=scan", false, true},
        {"fresh, -e, stop", with_memory, "", false, true},
        {"fresh, -e, kill", with_memory, "", false, false},
        {"checkpoint", "", ",ext_persist", true, true},
        {"checkpoint, -e gone, kill", with_memory, ",ext_persist", true, false},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        for (unsigned back = 0; back < 2; back++) { /* while it serves */
            struct start t;
            on_two_devices(&t, cases[i].memory, cases[i].more);
            remove_dir();
            cr_assert_eq(mkdir(dir, 0700), 0);
            if (cases[i].has_content) {
                start_well(&t);
                put_many(&t, "old");
                stop(&t, true);
                unlink(file);
            }
            cr_assert_eq(start_failing(&t, "pwritev2", 2, MARK_TRIES - 1), 0, "%s: %s", cases[i].what, why);
            cr_assert(is_degraded(&t), "%s", cases[i].what);
            if (cases[i].has_content) {
                cr_assert_str_eq(how_it_started(&t), "checkpoint", "%s", cases[i].what);
                assert_many(&t, "old", cases[i].what);
            }
            put_many(&t, "new");
            while (back && is_degraded(&t)) {
                fixture_turn(&t.f);
                clock_sleep_ns(1000000);
            }
            stop(&t, cases[i].ends_well);
            start_well(&t);
            cr_assert_not(is_degraded(&t), "%s", cases[i].what);
            assert_many(&t, "new", cases[i].what);
            stop(&t, true);
        }
    }
}

/* Nothing is on a device that took no mark, so the memory file stays, whatever becomes of the device. */
Test(scarcity, of_a_device_for_its_mark_and_then_it_has_anothers)
{
    struct start t, other;
    char with_memory[120];
    snprintf(with_memory, sizeof(with_memory), "-e %s", file);
    on_two_devices(&t, with_memory, "");
    cr_assert_eq(start_failing(&t, "pwritev2", 2, MARK_TRIES - 1), 0, "%s", why);
    put_many(&t, "new");
    stop(&t, false);
    snprintf(other.s.words, sizeof(other.s.words),
             "-m 64 -o ext_path=%s2:16m,ext_page_size=2,ext_wbuf_size=1,ext_buffer_mem=16", flash);
    start_well(&other);
    stop(&other, true);
    start_well(&t);
    cr_assert_not(is_degraded(&t));
    assert_many(&t, "new", "with a device that another cache used");
    stop(&t, true);
    start_well(&t);
    assert_many(&t, "new", "and once more");
    stop(&t, true);
}

Test(scarcity, of_every_device_for_its_mark)
{
    struct start t;
    char expected[200];
    snprintf(t.s.words, sizeof(t.s.words), "-m 64 -o ext_path=%s:16m,ext_page_size=2,ext_wbuf_size=1,ext_buffer_mem=16", flash);
    snprintf(expected, sizeof(expected), "%s: can't be written (Input/output error)", flash);
    cr_assert_eq(start_failing(&t, "pwritev2", 1, MARK_TRIES - 1), -EIO);
    cr_assert_str_eq(why, expected);
    cr_assert_eq(start_failing(&t, "pwritev2", 1, MARK_TRIES - 2), 0, "%s", why);
    stop(&t, true);
    on_two_devices(&t, "", "");
    cr_assert_eq(start_failing(&t, "pwritev2", 1, 2 * MARK_TRIES - 1), -EIO);
    cr_assert_str_eq(why, expected);
}

/* The first write of the checkpoint, at its sync. */
Test(scarcity, of_a_disk_for_the_first_checkpoint)
{
    struct start t;
    char expected[200];
    snprintf(t.s.words, sizeof(t.s.words),
             "-m 64 -o ext_path=%s:16m,ext_page_size=2,ext_wbuf_size=1,ext_buffer_mem=16,ext_persist", flash);
    snprintf(expected, sizeof(expected), "ext_persist: %s.checkpoint can't be written (Input/output error)", flash);
    cr_assert_eq(start_failing(&t, "fsync", 1, 4), -EIO);
    cr_assert_str_eq(why, expected);
    cr_assert_eq(start_failing(&t, "fsync", 1, 3), 0, "%s", why);
    put_many(&t, "new");
    stop(&t, true);
    cr_assert_eq(start_failing(&t, "fsync", 1, 3), 0, "%s", why);
    assert_many(&t, "new", "after it");
    stop(&t, true);
}

static void with_flash(struct storage *s, const char *more)
{
    snprintf(s->words, sizeof(s->words),
             "-m 16 %s%s -o ext_path=%s:8m,ext_page_size=2,ext_wbuf_size=2,ext_buffer_mem=16,"
             "ext_threads=1%s",
             s->leave_one ? "-e " : "", s->leave_one ? file : "", flash, more);
}

Test(scarcity, of_a_start_with_flash_by_threads)
{
    struct storage s = {0};
    with_flash(&s, ",ext_io_engine=threads");
    all_of_storage_fails(&s);
}

Test(scarcity, of_a_start_with_flash_by_any_engine)
{
    struct storage s = {0};
    with_flash(&s, "");
    all_of_storage_fails(&s);
}

Test(scarcity, of_a_start_that_takes_over_memory_and_flash)
{
    struct storage s = {.leave_one = true};
    with_flash(&s, ",ext_io_engine=threads");
    all_of_storage_fails(&s);
}

/* ---- other parts ---- */

static bool try_command_line(void *ctx)
{
    char words[] = "extant -p 1 -l localhost:1,127.0.0.1 -s /s -P /p -u nobody -Y /y -e /e -o "
                   "ext_path=/a:64m,ext_path=/b:64m:compact,slab_sizes=100-200,hash_algorithm=xxh3";
    char *argv[24], *at = words;
    int argc = 0;
    (void)ctx;
    for (char *word; (word = strsep(&at, " ")) != NULL;)
        argv[argc++] = word;
    struct settings s;
    int rc = settings_parse(&s, argc, argv, stdout, stderr);
    bool failed = sys_failed();
    cr_assert(failed || rc == SETTINGS_GO_ON);
    settings_free(&s);
    return rc == SETTINGS_GO_ON;
}

Test(scarcity, of_a_command_line) { each_call_fails(SYS_ALL, try_command_line, NULL); }

static bool try_auth(void *ctx)
{
    (void)ctx;
    struct auth *a = auth_create(file);
    bool reloaded = a && auth_reload(a) == 0, failed = sys_failed();
    cr_assert(failed || (a && reloaded));
    if (a)
        cr_assert(auth_log_in(a, "", "user", 4, "word", 4), "a reload that fails forgets nothing");
    auth_destroy(a);
    return a && reloaded;
}

Test(scarcity, of_the_users)
{
    int fd = open(file, O_WRONLY | O_CREAT, 0600);
    cr_assert_eq(write(fd, "user:word\n", 10), 10);
    close(fd);
    each_call_fails(SYS_ALL, try_auth, NULL);
}

static bool try_pool(void *ctx)
{
    (void)ctx;
    struct io_pool *pool = io_pool_create(3, "scarce");
    bool failed = sys_failed();
    cr_assert(failed || pool);
    io_pool_destroy(pool);
    return pool != NULL;
}

Test(scarcity, of_io_threads) { each_call_fails(SYS_ALL, try_pool, NULL); }

static bool try_listeners(void *ctx)
{
    struct settings s;
    char socket_name[128];
    snprintf(socket_name, sizeof(socket_name), "%s/socket", dir);
    char *argv[] = {(char *)"extant", (char *)"-s", socket_name};
    char *inet[] = {(char *)"extant", (char *)"-p", (char *)"-1", (char *)"-l", (char *)"127.0.0.1"};
    bool by_name = *(bool *)ctx;
    struct sys_armed armed = sys_set_aside();
    cr_assert_eq(settings_parse(&s, by_name ? 3 : 5, by_name ? argv : inet, stdout, stderr),
                 SETTINGS_GO_ON);
    struct event_base *base = event_base_new();
    struct server_counters counters = {0};
    sys_arm_again(armed);
    struct listener_options opt = {.settings = &s, .base = base, .counters = &counters};
    struct listeners *l = listeners_open(&opt, why, sizeof(why));
    bool failed = sys_failed();
    cr_assert(failed || l, "%s", why);
    cr_assert(l || why[0], "refused without a line after %s", sys_failed_name());
    if (l) {
        listeners_set_limit(l, 10);
        listeners_close(l);
    }
    event_base_free(base);
    settings_free(&s);
    return l != NULL;
}

Test(scarcity, of_sockets_with_a_name)
{
    bool by_name = true;
    each_call_fails(SYS_ALL, try_listeners, &by_name);
}

Test(scarcity, of_sockets_with_a_number)
{
    bool by_name = false;
    each_call_fails(SYS_ALL, try_listeners, &by_name);
}

static bool try_crawler(void *ctx)
{
    struct fixture *f = ctx;
    struct crawler *cr = crawler_create(f->cache);
    bool failed = sys_failed();
    cr_assert(failed || cr);
    if (cr)
        crawler_destroy(cr);
    return cr != NULL;
}

Test(scarcity, of_the_crawler)
{
    struct fixture f;
    fixture_open(&f, 16, 0);
    each_call_fails(SYS_ALL, try_crawler, &f);
    fixture_close(&f);
}

static bool try_small_parts(void *ctx)
{
    (void)ctx;
    struct prefixes *p = prefixes_create(':');
    bool noted = p != NULL;
    if (p) {
        prefixes_get(p, "a:key", 5, true);
        prefixes_destroy(p);
    }
    struct report *report = report_create(NULL);
    if (report)
        report_destroy(report);
    bool failed = sys_failed();
    cr_assert(failed || (noted && report));
    return noted && report;
}

Test(scarcity, of_what_commands_need) { each_call_fails(SYS_ALL, try_small_parts, NULL); }

static bool try_checkpoint(void *ctx)
{
    (void)ctx;
    static const char body[300000];
    struct checkpoint_head head = {.state = CHECKPOINT_CLEAN, .device_count = 1};
    char misfit[CHECKPOINT_WHY_BYTES], part[1000];
    struct checkpoint_writer *w = NULL;
    struct checkpoint_reader *r = NULL;
    bool written = checkpoint_create(file, &w) == 0;
    if (written) {
        bool put = checkpoint_put(w, body, sizeof(body)) == 0;
        if (put)
            written = checkpoint_commit(w, &head) == 0;
        else
            checkpoint_abort(w);
        written &= put;
    }
    bool read = checkpoint_read_head(file, &head, misfit) == 0 &&
                checkpoint_open(file, &head, &r) == 0 &&
                checkpoint_get(r, part, sizeof(part)) == 0;
    bool failed = sys_failed();
    cr_assert(failed || (written && read));
    checkpoint_close(r);
    checkpoint_remove(file);
    return written && read;
}

Test(scarcity, of_a_checkpoint) { each_call_fails(SYS_ALL, try_checkpoint, NULL); }

/* The nth call of the commit fails; its result, and what failed. */
static int commit_failing(unsigned n, uint64_t generation, const char **failed)
{
    struct checkpoint_head head = {
        .state = CHECKPOINT_CLEAN, .device_count = 1, .generation = generation};
    struct checkpoint_writer *w = NULL;
    cr_assert_eq(checkpoint_create(file, &w), 0);
    cr_assert_eq(checkpoint_put(w, "body", 4), 0);
    sys_fail_nth(SYS_FILES, n, 0);
    int rc = checkpoint_commit(w, &head);
    *failed = sys_failed() ? sys_failed_name() : NULL;
    return rc;
}

/* Its content and its name are brought to the disk, in this order: no kill in between leaves the name of
 * something that isn't there. */
Test(scarcity, of_a_disk_for_a_checkpoint)
{
    unsigned syncs = 0;
    const char *failed;
    cr_assert_eq(commit_failing(CALLS_MAX, 1, &failed), 0);
    for (unsigned n = 1; commit_failing(n, 2, &failed), failed; n++) {
        struct checkpoint_head head;
        if (strcmp(failed, "fsync") != 0)
            continue;
        cr_assert_eq(checkpoint_read_head(file, &head, why), 0);
        cr_assert_eq(head.generation, syncs == 0 ? 1u : 2u);
        syncs++;
    }
    cr_assert_eq(syncs, 2u);
}
