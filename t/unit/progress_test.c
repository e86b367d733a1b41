/* progress_test.c: base/progress.h and base/notify.h: which reports about long work go out, when, and to
 * whom. */
#include "base/progress.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/notify.h"

#define SEC UINT64_C(1000000000)

static int manager, log_fd; /* what the service manager and the log hear */
static uint64_t now = 1000 * SEC;

static void setup(void)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    socklen_t len = sizeof(a.sun_family); /* the kernel chooses a name */
    manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    cr_assert_eq(bind(manager, (struct sockaddr *)&a, len), 0);
    len = sizeof(a);
    cr_assert_eq(getsockname(manager, (struct sockaddr *)&a, &len), 0);
    char name[sizeof(a.sun_path) + 1] = "@";
    memcpy(name + 1, a.sun_path + 1, len - offsetof(struct sockaddr_un, sun_path) - 1);
    setenv("NOTIFY_SOCKET", name, 1);
    cr_assert(notify_open());
    int ends[2];
    cr_assert_eq(pipe2(ends, O_NONBLOCK), 0);
    log_fd = ends[0];
    log_setup(ends[1], LOG_LEVEL_NOTICE, 0);
    clock_simulate(now);
    clock_setup();
}

TestSuite(progress, .init = setup);

static void after(uint64_t ns)
{
    clock_simulate(now += ns);
}

static const char *text(void)
{
    static char out[PROGRESS_TEXT_BYTES];
    progress_text(out, sizeof(out));
    return out;
}

/* The next datagram, "" if there is none. */
static const char *told(void)
{
    static char out[512];
    ssize_t n = recv(manager, out, sizeof(out) - 1, 0);
    out[n > 0 ? n : 0] = '\0';
    return out;
}

/* Lines that the log has got since the last call. */
static unsigned lines(const char *containing)
{
    static char out[4096];
    unsigned count = 0;
    ssize_t n = read(log_fd, out, sizeof(out) - 1);
    out[n > 0 ? n : 0] = '\0';
    for (const char *p = out; (p = strstr(p, containing)) != NULL; p++)
        count++;
    return count;
}

Test(progress, tells_percent_and_seconds_left)
{
    cr_assert_str_eq(text(), "none");
    progress_begin("reading it", 200);
    cr_assert_str_eq(text(), "reading it: 0 s so far");
    cr_assert_str_eq(told(), "STATUS=reading it\nEXTEND_TIMEOUT_USEC=60000000");
    after(10 * SEC);
    progress_add(50);
    cr_assert_str_eq(text(), "reading it: 25%, 30 s left");
    cr_assert_str_eq(told(), "STATUS=reading it: 25%, 30 s left\nEXTEND_TIMEOUT_USEC=60000000");
    cr_assert_eq(lines("reading it: 25%, 30 s left\n"), 1);
    progress_add(150);
    progress_end();
    cr_assert_str_eq(text(), "reading it: done in 10.000 s");
    after(SEC);
    cr_assert_str_eq(text(), "reading it: done in 10.000 s");
}

Test(progress, short_work_is_silent_and_long_work_no_chatter)
{
    progress_begin("work", 1000);
    told();
    after(SEC / 2);
    progress_add(1);
    cr_assert_eq(lines("work"), 0);
    cr_assert_str_eq(told(), "");
    for (unsigned i = 0; i < 100; i++) { /* ten seconds: one line after the first, one each five */
        after(SEC / 10);
        progress_add(1);
    }
    cr_assert_eq(lines("work"), 2);
    progress_end();
}

Test(progress, more_than_was_thought_is_still_all)
{
    progress_begin("work", 10);
    after(SEC);
    progress_add(11);
    cr_assert_str_eq(text(), "work: 100%, 0 s left");
    progress_begin("of unknown size", 0);
    after(3 * SEC);
    progress_add(5);
    cr_assert_str_eq(text(), "of unknown size: 3 s so far");
    progress_end();
}

Test(progress, without_a_manager_nothing_is_sent)
{
    unsetenv("NOTIFY_SOCKET");
    cr_assert_not(notify_open());
    setenv("NOTIFY_SOCKET", "relative", 1);
    cr_assert_not(notify_open());
}
