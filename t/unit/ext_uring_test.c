/* flash/uring.h: rings that can't be created, and reads of one that can. */
#include "flash/uring.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "net/netring.h"

static int event_fd;

static int zeros(void)
{
    static int fd = -1;
    return fd >= 0 ? fd : (fd = open("/dev/zero", O_RDONLY | O_CLOEXEC));
}

static void setup(void)
{
    if (!ext_uring_works(zeros()))
        cr_skip_test("no io_uring here");
    event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    cr_assert_geq(event_fd, 0);
}

TestSuite(ext_uring, .init = setup);

static int descriptor_count(void)
{
    int n = 0;
    for (int fd = 0; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

Test(ext_uring, no_descriptor_no_ring)
{
    struct ext_uring *u;
    struct rlimit limit, none;
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    none = (struct rlimit){.rlim_cur = 0, .rlim_max = limit.rlim_max};
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
    int rc = ext_uring_create(&u, 8, &event_fd, 1, NULL, 0, event_fd);
    bool works = ext_uring_works(zeros());
    struct netring *n = netring_create();
    int err = errno;
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0); /* a failing assertion needs file descriptors */
    cr_assert_eq(rc, -EMFILE);
    cr_assert(!works);
    cr_assert_null(n);
    cr_assert_eq(err, EMFILE);
}

Test(ext_uring, a_file_that_is_not_open_is_refused_and_nothing_is_left)
{
    struct ext_uring *u;
    int before = descriptor_count(), closed = 250;
    cr_assert_eq(ext_uring_create(&u, 8, &closed, 1, NULL, 0, event_fd), -EBADF);
    cr_assert_eq(ext_uring_create(&u, 8, &event_fd, 1, NULL, 0, closed), -EBADF);
    cr_assert_eq(descriptor_count(), before);
}

static int last_result;
static void *last_user;

static void remember(void *ctx UNUSED, void *user, int result)
{
    last_user = user;
    last_result = result;
}

static int read_through(struct ext_uring *u, char *buf, uint32_t bytes, uint64_t offset)
{
    ext_uring_read(u, 0, buf, bytes, offset, buf);
    cr_assert_eq(ext_uring_submit(u), 0);
    while (ext_uring_reap(u, true, remember, NULL) == 0)
        ;
    cr_assert_eq(last_user, buf);
    return last_result;
}

Test(ext_uring, reads_into_its_region_and_elsewhere)
{
    static char text[4096], region[8192], other[4096];
    int fd = memfd_create("text", MFD_CLOEXEC);
    memset(text, 'x', sizeof(text));
    cr_assert_eq(write(fd, text, sizeof(text)), (ssize_t)sizeof(text));
    struct ext_uring *u;
    cr_assert_eq(ext_uring_create(&u, 8, &fd, 1, region, sizeof(region), event_fd), 0);
    cr_assert_eq(read_through(u, region + 100, 4096, 0), 4096);
    cr_assert_eq(memcmp(region + 100, text, 4096), 0);
    cr_assert_eq(read_through(u, other, 4096, 4000), 96);
    cr_assert_eq(memcmp(other, text, 96), 0);
    cr_assert_eq(read_through(u, other, 4096, 8192), 0);
    ext_uring_destroy(u);
    ext_uring_destroy(NULL);
    close(fd);
}
