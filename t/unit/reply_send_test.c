/* reply_send_test.c: what a reply queue sends, in which pieces, and what it keeps. */
#include "command/reply.h"

#include <criterion/criterion.h>
#include <sys/socket.h>
#include <unistd.h>

static struct buffer_pool pool;
static struct reply_queue q;
static int mine, theirs;
static unsigned released, finished;

static void release(void *ctx UNUSED, void *holder UNUSED)
{
    released++;
}

static void on_finished(struct reply_source *s UNUSED)
{
    finished++;
}

static void setup(void)
{
    int fd[2];
    cr_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd) == 0);
    mine = fd[0];
    theirs = fd[1];
    pool_init(&pool, 0);
    reply_init(&q, &pool, release, NULL);
}

static void teardown(void)
{
    reply_drop(&q);
    pool_drain(&pool);
}

TestSuite(reply_send, .init = setup, .fini = teardown, .timeout = 600);

static void add(const char *text)
{
    cr_assert(reply_bytes(&q, text, strlen(text)) == 0);
}

static void add_value(const char *text)
{
    cr_assert(reply_value(&q, text, strlen(text), &q) == 0);
}

static void make_ready(struct reply_source *s, const char *head, const char *value)
{
    s->head = head;
    s->head_bytes = (uint32_t)strlen(head);
    s->value = value;
    s->value_bytes = (uint32_t)strlen(value);
    s->crlf = true;
    reply_source_ready(&q, s);
}

static enum reply_progress send_all(void)
{
    uint64_t sent = 0;
    return reply_send(&q, mine, &sent);
}

static void expect_received(const char *text)
{
    char got[256];
    ssize_t n = read(theirs, got, sizeof(got));
    cr_assert(n == (ssize_t)strlen(text) && memcmp(got, text, (size_t)n) == 0);
}

Test(reply_send, text_that_was_added_piece_by_piece_is_one_piece)
{
    struct iovec pieces[8];
    add("STORED\r\n");
    add("END\r\n");
    cr_assert(reply_pieces(&q, pieces, 8) == 1);
    cr_assert(pieces[0].iov_len == 13 && memcmp(pieces[0].iov_base, "STORED\r\nEND\r\n", 13) == 0);
}

Test(reply_send, a_value_is_sent_from_where_it_is)
{
    static const char value[] = "value";
    struct iovec pieces[8];
    add("head ");
    add_value(value);
    add(" end");
    cr_assert(reply_pieces(&q, pieces, 8) == 3);
    cr_assert(pieces[1].iov_base == value);
}

Test(reply_send, pieces_end_before_a_source_that_is_not_ready)
{
    struct reply_source s = {.finished = on_finished};
    struct iovec pieces[8];
    add("before");
    reply_source(&q, &s);
    add("behind");
    cr_assert(reply_pieces(&q, pieces, 8) == 1);
    cr_assert(pieces[0].iov_len == 6);
    make_ready(&s, "", "");
    send_all();
}

Test(reply_send, pieces_are_never_more_than_asked_for)
{
    struct iovec pieces[5];
    for (int i = 0; i < 20; i++)
        add_value("v");
    unsigned n = reply_pieces(&q, pieces, 5);
    cr_assert(n >= 3 && n <= 5);
}

Test(reply_send, what_was_sent_is_released)
{
    add_value("one");
    add_value("two");
    reply_sent(&q, 5);
    cr_assert(released == 1);
    reply_sent(&q, 1);
    cr_assert(released == 2 && reply_is_empty(&q));
}

Test(reply_send, after_a_part_was_sent_the_pieces_are_the_rest)
{
    struct iovec pieces[8];
    add_value("one");
    add_value("two");
    reply_sent(&q, 4);
    cr_assert(reply_pieces(&q, pieces, 8) == 1);
    cr_assert(pieces[0].iov_len == 2 && memcmp(pieces[0].iov_base, "wo", 2) == 0);
}

Test(reply_send, a_source_is_finished_once_it_is_sent)
{
    struct reply_source s = {.finished = on_finished};
    reply_source(&q, &s);
    make_ready(&s, "VALUE k 0 1\r\n", "v");
    cr_assert(send_all() == REPLY_SENT_ALL && finished == 1);
    expect_received("VALUE k 0 1\r\nv\r\n");
}

Test(reply_send, what_is_behind_a_source_waits_for_it)
{
    struct reply_source s = {.finished = on_finished};
    add("before ");
    reply_source(&q, &s);
    add(" behind");
    cr_assert(send_all() == REPLY_NOT_READY);
    expect_received("before ");
    make_ready(&s, "head ", "value");
    cr_assert(send_all() == REPLY_SENT_ALL);
    expect_received("head value\r\n behind");
}

Test(reply_send, an_entry_without_bytes_is_nothing_to_send_and_goes)
{
    struct iovec pieces[8];
    cr_assert(reply_room(&q, 10) != NULL);
    reply_commit(&q, 0);
    cr_assert(reply_pieces(&q, pieces, 8) == 0);
    cr_assert(send_all() == REPLY_SENT_ALL && reply_is_empty(&q));
}

Test(reply_send, many_pieces_are_sent_in_their_order)
{
    char expected[201] = "";
    static const char letters[] = "abcdefghij";
    for (int i = 0; i < 200; i++) {
        reply_value(&q, letters + i % 10, 1, &q);
        expected[i] = letters[i % 10];
    }
    cr_assert(send_all() == REPLY_SENT_ALL && released == 200);
    expect_received(expected);
}

Test(reply_send, a_socket_without_room_blocks_and_loses_nothing)
{
    static char big[1 << 20];
    uint64_t sent = 0, received = 0;
    reply_value(&q, big, sizeof(big), &q);
    while (reply_send(&q, mine, &sent) == REPLY_BLOCKED) {
        char part[65536];
        ssize_t n = read(theirs, part, sizeof(part));
        cr_assert(n > 0);
        received += (uint64_t)n;
    }
    cr_assert(sent == sizeof(big) && received < sizeof(big) && released == 1);
}

Test(reply_send, a_peer_that_is_gone_breaks_it)
{
    close(theirs);
    add("to nobody");
    cr_assert(send_all() == REPLY_BROKEN);
}

Test(reply_send, a_queue_that_was_emptied_holds_no_buffer)
{
    add("text");
    send_all();
    cr_assert(atomic_load(&pool.spare) == atomic_load(&pool.buffers));
}
