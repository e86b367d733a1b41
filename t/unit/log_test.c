/* base/log.h: levels, prefixes, escapes, rate limit. */
#include "base/log.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int fd;
static char text[65536];

/* What was printed so far. */
static const char *printed(void)
{
    ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
    cr_assert_geq(n, 0);
    text[n] = '\0';
    return text;
}

static int line_count(void)
{
    int n = 0;
    for (const char *p = printed(); (p = strchr(p, '\n')) != NULL; p++)
        n++;
    return n;
}

static void setup(void)
{
    fd = memfd_create("log", MFD_CLOEXEC);
    cr_assert_geq(fd, 0);
    cr_assert_geq(fcntl(fd, F_SETFL, O_APPEND), 0);
    log_setup(fd, LOG_LEVEL_NOTICE, 1);
}

static void teardown(void)
{
    close(fd);
}

TestSuite(log, .init = setup, .fini = teardown);

Test(log, journal_prefix_is_the_priority)
{
    log_error("a %d", 1);
    log_warning("b");
    log_notice("c");
    cr_assert_str_eq(printed(), "<3>a 1\n<4>b\n<5>c\n");
}

Test(log, lines_below_the_level_are_left_out)
{
    log_info("a");
    log_debug("b");
    cr_assert_str_eq(printed(), "");
}

Test(log, level_can_be_raised)
{
    log_set_level(LOG_LEVEL_DEBUG);
    log_info("a");
    log_debug("b");
    cr_assert_str_eq(printed(), "<6>a\n<7>b\n");
}

Test(log, verbosity_words)
{
    cr_assert_eq(log_level_of_verbosity(0), LOG_LEVEL_NOTICE);
    cr_assert_eq(log_level_of_verbosity(1), LOG_LEVEL_INFO);
    cr_assert_eq(log_level_of_verbosity(2), LOG_LEVEL_DEBUG);
    cr_assert_eq(log_level_of_verbosity(9), LOG_LEVEL_DEBUG);
}

Test(log, elsewhere_time_and_level)
{
    log_setup(fd, LOG_LEVEL_NOTICE, 0);
    log_warning("full");
    int y, mo, d, h, mi, s, end = 0;
    cr_assert_eq(sscanf(printed(), "%4d-%2d-%2dT%2d:%2d:%2dZ warning: full\n%n", &y, &mo, &d, &h,
                        &mi, &s, &end),
                 6);
    cr_assert_eq((size_t)end, strlen(text));
}

Test(log, a_notice_needs_no_word)
{
    log_setup(fd, LOG_LEVEL_NOTICE, 0);
    log_notice("started");
    cr_assert_str_eq(printed() + strlen("2026-01-01T00:00:00Z "), "started\n");
}

Test(log, journal_is_found_by_its_inode)
{
    struct stat st;
    char stream[64];
    cr_assert_eq(fstat(fd, &st), 0);
    snprintf(stream, sizeof(stream), "%llu:%llu", (unsigned long long)st.st_dev,
             (unsigned long long)st.st_ino);
    setenv("JOURNAL_STREAM", stream, 1);
    log_setup(fd, LOG_LEVEL_NOTICE, -1);
    log_notice("x");
    cr_assert_str_eq(printed(), "<5>x\n");
}

Test(log, another_journal_is_not_ours)
{
    setenv("JOURNAL_STREAM", "1:2", 1);
    log_setup(fd, LOG_LEVEL_NOTICE, -1);
    log_notice("x");
    cr_assert_neq(printed()[0], '<');
}

Test(log, control_characters_can_not_make_lines)
{
    log_notice("a\r\nb\tc\x7f");
    cr_assert_str_eq(printed(), "<5>a\\x0d\\x0ab\\x09c\\x7f\n");
}

Test(log, long_lines_are_cut)
{
    char big[3000];
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    log_notice("%s", big);
    size_t len = strlen(printed());
    cr_assert_leq(len, LOG_LINE_BYTES);
    cr_assert_str_eq(text + len - 5, "x...\n");
}

Test(log, one_place_prints_no_more_than_its_burst)
{
    for (int i = 0; i < 1000; i++)
        log_notice("again");
    cr_assert_eq(line_count(), LOG_BURST);
}

Test(log, another_place_has_its_own_burst)
{
    for (int i = 0; i < 1000; i++)
        log_notice("again");
    log_notice("other");
    cr_assert_eq(line_count(), LOG_BURST + 1);
}

Test(log, suppressed_lines_are_counted_later)
{
    struct log_site site = {0};
    for (int i = 0; i < LOG_BURST + 7; i++)
        log_line(&site, LOG_LEVEL_NOTICE, "x");
    atomic_fetch_sub(&site.window_start_ms, LOG_WINDOW_SEC * 1000); /* as if time had passed */
    cr_assert_eq(line_count(), LOG_BURST);
    size_t before = strlen(text);
    log_line(&site, LOG_LEVEL_NOTICE, "y");
    cr_assert_str_eq(printed() + before, "<5>y (7 more like this left out)\n");
}

Test(log, a_rare_place_prints_one_line_a_minute)
{
    struct log_site site = {.is_rare = true};
    for (int i = 0; i < 8; i++)
        log_line(&site, LOG_LEVEL_NOTICE, "x");
    atomic_fetch_sub(&site.window_start_ms, LOG_WINDOW_SEC * 1000); /* as if time had passed */
    log_line(&site, LOG_LEVEL_NOTICE, "y");
    cr_assert_str_eq(printed(), "<5>x\n");
    atomic_fetch_sub(&site.window_start_ms, LOG_RARE_SEC * 1000);
    log_line(&site, LOG_LEVEL_NOTICE, "y");
    cr_assert_str_eq(printed(), "<5>x\n<5>y (8 more like this left out)\n");
}

Test(log, keeps_errno)
{
    errno = EXDEV;
    log_notice("x");
    cr_assert_eq(errno, EXDEV);
}

static void *print_some(void *arg)
{
    struct log_site *site = arg;
    for (int i = 0; i < 100; i++)
        log_line(site, LOG_LEVEL_NOTICE, "0123456789");
    return NULL;
}

Test(log, lines_of_threads_do_not_mix)
{
    pthread_t t[4];
    struct log_site sites[4] = {0};
    for (int i = 0; i < 4; i++)
        cr_assert_eq(pthread_create(&t[i], NULL, print_some, &sites[i]), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    cr_assert_eq(line_count(), 4 * LOG_BURST);
    for (const char *p = text; *p != '\0'; p = strchr(p, '\n') + 1)
        cr_assert_eq(strncmp(p, "<5>0123456789\n", 14), 0);
}

Test(log, key_bytes_are_escaped)
{
    char out[64];
    cr_assert_str_eq(log_key(out, sizeof(out), "a b\\\n\xff\0z", 8),
                     "a\\x20b\\x5c\\x0a\\xff\\x00z");
}

Test(log, key_that_fits_exactly_is_whole)
{
    char out[8];
    cr_assert_str_eq(log_key(out, sizeof(out), "1234567", 7), "1234567");
}

Test(log, key_too_long_is_cut)
{
    char out[8];
    cr_assert_str_eq(log_key(out, sizeof(out), "12345678", 8), "1234...");
}
