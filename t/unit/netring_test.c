/* netring_test.c: sends through a ring on pairs of sockets. Where io_uring is forbidden the tests
 * are skipped. */
#include "net/netring.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAIRS 3

static struct netring *ring;
static int mine[PAIRS], theirs[PAIRS];
static int results[PAIRS]; /* by the number of the pair, which is the send's user */
static unsigned result_count;

static void setup(void)
{
    ring = netring_create();
    if (!ring)
        cr_skip_test("no io_uring");
    for (int i = 0; i < PAIRS; i++) {
        int fd[2];
        cr_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd) == 0);
        mine[i] = fd[0];
        theirs[i] = fd[1];
    }
}

static void teardown(void)
{
    netring_destroy(ring);
}

TestSuite(netring, .init = setup, .fini = teardown, .timeout = 600);

static void note(void *user, int result)
{
    int i = (int)((char *)user - (char *)results) / (int)sizeof(int);
    results[i] = result;
    result_count++;
}

static void queue(int pair, const char *text)
{
    netring_pieces(ring)[0] = (struct iovec){(void *)(uintptr_t)text, strlen(text)};
    netring_send(ring, mine[pair], 1, &results[pair]);
}

static void expect_received(int pair, const char *text)
{
    char got[64];
    ssize_t n = read(theirs[pair], got, sizeof(got));
    cr_assert(n == (ssize_t)strlen(text) && memcmp(got, text, (size_t)n) == 0);
}

/* Until the kernel takes no more. */
static void fill_socket(int pair)
{
    char junk[4096] = {0};
    while (send(mine[pair], junk, sizeof(junk), MSG_DONTWAIT) > 0)
        ;
}

Test(netring, each_send_has_its_result)
{
    queue(0, "one");
    queue(1, "seven");
    cr_assert(netring_run(ring, note));
    cr_assert(result_count == 2 && results[0] == 3 && results[1] == 5);
}

Test(netring, the_bytes_are_there_when_run_returns)
{
    queue(0, "one");
    queue(2, "two");
    netring_run(ring, note);
    expect_received(0, "one");
    expect_received(2, "two");
}

Test(netring, pieces_are_sent_in_their_order)
{
    struct iovec *pieces = netring_pieces(ring);
    char digits[] = "01234567";
    for (unsigned i = 0; i < NETRING_PIECES_MAX; i++)
        pieces[i] = (struct iovec){digits + i, 1};
    netring_send(ring, mine[0], NETRING_PIECES_MAX, &results[0]);
    netring_run(ring, note);
    expect_received(0, digits);
}

Test(netring, nothing_queued_is_nothing_done)
{
    cr_assert(netring_run(ring, note));
    cr_assert(result_count == 0);
}

Test(netring, a_full_socket_does_not_wait)
{
    fill_socket(0);
    queue(0, "no room");
    queue(1, "room");
    cr_assert(netring_run(ring, note));
    cr_assert(results[0] == -EAGAIN && results[1] == 4);
}

Test(netring, a_full_socket_does_not_wait_where_it_may_block)
{
    fill_socket(0);
    int flags = fcntl(mine[0], F_GETFL);
    cr_assert(fcntl(mine[0], F_SETFL, flags & ~O_NONBLOCK) == 0);
    queue(0, "no room");
    netring_run(ring, note);
    cr_assert(results[0] == -EAGAIN);
}

Test(netring, a_peer_that_is_gone_is_an_error_and_no_signal)
{
    close(theirs[0]);
    queue(0, "to nobody");
    queue(1, "room");
    cr_assert(netring_run(ring, note));
    cr_assert(results[0] == -EPIPE && results[1] == 4);
}

Test(netring, a_descriptor_that_is_none_is_an_error)
{
    close(mine[0]);
    queue(0, "nowhere");
    queue(1, "room");
    cr_assert(netring_run(ring, note));
    cr_assert(results[0] == -EBADF && results[1] == 4);
}

Test(netring, it_is_full_after_its_depth_and_empty_after_a_run)
{
    for (unsigned i = 0; i < NETRING_DEPTH; i++) {
        cr_assert(!netring_is_full(ring));
        queue(0, "x");
    }
    cr_assert(netring_is_full(ring));
    cr_assert(netring_run(ring, note));
    cr_assert(result_count == NETRING_DEPTH && !netring_is_full(ring));
}

Test(netring, runs_follow_each_other)
{
    for (unsigned round = 0; round < 3 * NETRING_DEPTH; round++) {
        queue(0, "one");
        netring_run(ring, note);
        expect_received(0, "one");
    }
    cr_assert(result_count == 3 * NETRING_DEPTH);
}
