/* ext_device_test.c: a flash file is opened, locked and sized, or refused with a line that says why;
 * transfers are completed on a device that returns less than was asked for. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "flash/device.h"
#include "t/aid/sys_faults.h"

enum { PAGE_BYTES = 64 * 1024, PAGES = 4, BLOCK = 4096 };

static char dir[64], file[96], why[256];
static struct ext_device d;

static void make_dir(void)
{
    strcpy(dir, "/tmp/ext_device_test.XXXXXX");
    cr_assert_not_null(mkdtemp(dir));
    snprintf(file, sizeof(file), "%s/flash", dir);
}

static void remove_dir(void)
{
    unlink(file);
    rmdir(dir);
}

TestSuite(device, .init = make_dir, .fini = remove_dir, .timeout = 600);

static int open_bytes(const char *path, uint64_t bytes, const struct ext_device_ops *ops)
{
    struct ext_device_options opt = {.path = path, .bytes = bytes};
    why[0] = '\0';
    return ext_device_open(&d, &opt, PAGE_BYTES, ops, why, sizeof(why));
}

static int open_file(const struct ext_device_ops *ops)
{
    return open_bytes(file, PAGES * PAGE_BYTES, ops);
}

static void refused(int rc, int expected, const char *word)
{
    cr_assert_eq(rc, expected, "%d, not %d: %s", rc, expected, why);
    cr_assert_not_null(strstr(why, word), "%s", why);
    cr_assert_eq(d.fd, -1);
    cr_assert_null(d.free);
}

/* ---- open ---- */

Test(device, a_new_file_has_its_whole_size)
{
    struct stat st;
    cr_assert_eq(open_bytes(file, PAGES * PAGE_BYTES + 100, NULL), 0, "%s", why);
    cr_assert_eq(d.page_count, PAGES);
    cr_assert_eq(stat(file, &st), 0);
    cr_assert_eq(st.st_size, PAGES * PAGE_BYTES);
    cr_assert_geq((uint64_t)st.st_blocks * 512, (uint64_t)PAGES * PAGE_BYTES);
    ext_device_close(&d);
}

Test(device, less_than_a_page_is_refused)
{
    refused(open_bytes(file, PAGE_BYTES - 1, NULL), -EINVAL, "hold no page");
}

Test(device, more_pages_than_can_be_numbered_are_refused)
{
    refused(open_bytes(file, UINT64_MAX, NULL), -EINVAL, "hold no page");
}

Test(device, a_directory_that_is_not_there_is_refused)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/none/flash", dir);
    refused(open_bytes(path, PAGES * PAGE_BYTES, NULL), -ENOENT, "none/flash: No such file or directory");
    cr_assert_eq(strncmp(why, "failed to open file: /", 22), 0, "%s", why); /* memcached's words */
}

Test(device, what_is_no_file_is_refused)
{
    refused(open_bytes("/dev/null", PAGES * PAGE_BYTES, NULL), -EINVAL, "neither a file nor");
    static const char missing[] = "/dev/extant-test-no-such-device";
    refused(open_bytes(missing, PAGES * PAGE_BYTES, NULL), -ENODEV, "No such device");
    cr_assert_neq(access(missing, F_OK), 0);
    char link[4096];
    snprintf(link, sizeof(link), "%s/link", dir);
    cr_assert_eq(symlink(missing, link), 0);
    refused(open_bytes(link, PAGES * PAGE_BYTES, NULL), -ENODEV, "No such device");
    cr_assert_neq(access(missing, F_OK), 0);
    refused(open_bytes(dir, PAGES * PAGE_BYTES, NULL), -EISDIR, ": Is a directory");
}

Test(device, more_than_the_disk_has_is_refused_at_once)
{
    struct stat st;
    refused(open_bytes(file, UINT64_C(1) << 45, NULL), -ENOSPC, "no room for");
    cr_assert_eq(stat(file, &st), 0);
    cr_assert_eq(st.st_size, 0, "the disk was filled first");
}

Test(device, a_file_in_use_by_another_process_is_refused)
{
    int ready[2];
    cr_assert_eq(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        bool good = open_file(NULL) == 0;
        if (write(ready[1], &good, 1) != 1)
            _exit(1);
        pause();
    }
    bool good = false;
    cr_assert_eq(read(ready[0], &good, 1), 1);
    cr_assert(good);
    refused(open_file(NULL), -EBUSY, "in use by another process");
    cr_assert_eq(strncmp(why, "failed to open file: /", 22), 0, "%s", why);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    cr_assert_eq(open_file(NULL), 0, "%s", why);
    ext_device_close(&d);
}

/* Each system call that an open makes fails once. */
Test(device, a_call_that_fails_is_told)
{
    for (unsigned n = 1;; n++) {
        sys_fail_nth(SYS_ALL, n, 0);
        int rc = open_file(NULL);
        bool failed = sys_failed();
        if (rc == 0)
            ext_device_close(&d);
        else
            cr_assert(failed && why[0] != '\0', "%s: %s", sys_failed_name(), why);
        if (!failed)
            break;
        unlink(file);
    }
    cr_assert_eq(open_file(NULL), 0, "%s", why);
    ext_device_close(&d);
}

Test(device, one_file_is_the_same_by_two_names)
{
    uint64_t dev, ino, other_dev, other_ino;
    char other[128];
    snprintf(other, sizeof(other), "%s/other", dir);
    cr_assert_not(ext_device_identity(file, &dev, &ino));
    cr_assert_eq(open_file(NULL), 0);
    cr_assert_eq(link(file, other), 0);
    cr_assert(ext_device_identity(file, &dev, &ino));
    cr_assert(ext_device_identity(other, &other_dev, &other_ino));
    cr_assert(dev == other_dev && ino == other_ino);
    cr_assert(d.dev == dev && d.ino == ino);
    unlink(other);
    ext_device_close(&d);
}

/* ---- transfers ---- */

struct script { /* results of the device, one after the other; after a 0 it transfers all that is asked for */
    ssize_t answers[16];
    unsigned at, calls;
};

static ssize_t answer(struct script *s, size_t bytes)
{
    s->calls++;
    ssize_t a = s->at < ARRAY_COUNT(s->answers) ? s->answers[s->at] : 0;
    if (a == 0)
        return (ssize_t)bytes;
    s->at++;
    return a == INT32_MIN ? 0 : a;
}
#define NOTHING INT32_MIN /* the call returns 0 */

static ssize_t scripted_read(void *ctx, int fd, void *buf, size_t bytes, off_t offset)
{
    (void)fd, (void)offset;
    ssize_t n = answer(ctx, bytes);
    if (n > 0 && (size_t)n <= bytes)
        memset(buf, 'x', (size_t)n);
    return n;
}

static ssize_t scripted_write(void *ctx, int fd, const void *buf, size_t bytes, off_t offset)
{
    (void)fd, (void)buf, (void)offset;
    return answer(ctx, bytes);
}

static struct ext_io_counts counts;

/* Reads and writes two blocks on such a device; both must return rc. */
static void transfers(struct script script, int rc, uint64_t short_transfers)
{
    static char buf[2 * BLOCK];
    struct script s = script;
    struct ext_device_ops ops = {&s, scripted_read, scripted_write, false};
    cr_assert_eq(open_file(&ops), 0, "%s", why);
    for (int is_read = 0; is_read < 2; is_read++) {
        s = script;
        counts = (struct ext_io_counts){0};
        memset(buf, 0, sizeof(buf));
        int got = is_read ? ext_device_read(&d, buf, sizeof(buf), BLOCK, &counts)
                          : ext_device_write(&d, buf, sizeof(buf), BLOCK, &counts);
        int wanted = rc == -ENODATA && !is_read ? -ENOSPC : rc;
        cr_assert_eq(got, wanted, "%s: %d", is_read ? "read" : "write", got);
        cr_assert_eq(counts.short_transfers, short_transfers);
        if (rc == 0)
            cr_assert_eq(counts.bytes, sizeof(buf));
        if (rc == 0 && is_read)
            for (size_t i = 0; i < sizeof(buf); i++)
                cr_assert_eq(buf[i], 'x');
    }
    ext_device_close(&d);
}

Test(device, a_short_transfer_goes_on_at_the_last_whole_block)
{
    transfers((struct script){.answers = {BLOCK + 100}}, 0, 1);
}

Test(device, less_than_a_block_is_no_progress_but_may_pass)
{
    transfers((struct script){.answers = {100, NOTHING, 200}}, 0, 3);
}

Test(device, repeated_empty_transfers_are_an_error)
{
    transfers((struct script){.answers = {NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING,
                                          NOTHING, NOTHING}},
              -ENODATA, 8);
}

Test(device, an_interrupted_call_is_made_again)
{
    transfers((struct script){.answers = {-EINTR, -EINTR, BLOCK, -EINTR}}, 0, 1);
}

Test(device, an_error_is_handed_on)
{
    transfers((struct script){.answers = {BLOCK, -EIO}}, -EIO, 1);
}

Test(device, more_than_was_asked_for_is_an_error)
{
    transfers((struct script){.answers = {3 * BLOCK}}, -EIO, 0);
}

static ssize_t always_interrupted(void *ctx, int fd, void *buf, size_t bytes, off_t offset)
{
    (void)fd, (void)buf, (void)bytes, (void)offset;
    ++*(unsigned *)ctx;
    return -EINTR;
}

Test(device, interrupted_for_ever_is_an_error)
{
    unsigned calls = 0;
    static char buf[BLOCK];
    struct ext_device_ops ops = {&calls, always_interrupted, scripted_write, false};
    cr_assert_eq(open_file(&ops), 0);
    cr_assert_eq(ext_device_read(&d, buf, BLOCK, 0, &counts), -EINTR);
    cr_assert_leq(calls, 1000u);
    ext_device_close(&d);
}

Test(device, real_transfers_return_what_was_written)
{
    static _Alignas(BLOCK) char out[PAGE_BYTES], in[PAGE_BYTES];
    for (size_t i = 0; i < sizeof(out); i++)
        out[i] = (char)(i * 7 + i / 251);
    cr_assert_eq(open_file(NULL), 0);
    cr_assert_eq(ext_device_write(&d, out, sizeof(out), 2 * PAGE_BYTES, &counts), 0);
    cr_assert_eq(ext_device_read(&d, in, sizeof(in), 2 * PAGE_BYTES, &counts), 0);
    cr_assert_arr_eq(in, out, sizeof(in));
    ext_device_close(&d);
}

Test(device, a_file_cut_off_while_open_is_the_end_for_reads)
{
    static _Alignas(BLOCK) char in[BLOCK];
    cr_assert_eq(open_file(NULL), 0);
    cr_assert_eq(truncate(file, PAGE_BYTES), 0);
    cr_assert_eq(ext_device_read(&d, in, sizeof(in), 2 * PAGE_BYTES, &counts), -ENODATA);
    ext_device_close(&d);
}
