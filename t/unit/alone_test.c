/* alone_test.c: a change is the only request of its connection under way, whatever is beside it: an earlier value that is
 * read again, the lookup that watchers see. Debug servers assert it. */
#include <criterion/criterion.h>
#include <signal.h>

#include "t/aid/harness.h"

/* Of the values on flash, those of the crowd fill the read buffers. A slow client asks for one that is smaller than what
 * a session may have unsent, so its next request is executed; with the small ones before it, it fills the socket. */
enum { CROWD = 20, CROWD_BYTES = 1000000, ROUNDS = 3, SLOW = 30, SLOW_BYTES = 200000, SMALL_BYTES = 500, SMALL_GETS = 100 };

static char value[CROWD_BYTES];

static uint64_t put_away(struct client *c)
{
    return client_stat_u64(c, "extant", "ext_reads_put_away");
}

/* Is a connection's socket full? */
static bool is_blocked(struct client *c)
{
    bool found = false;
    client_send(c, "stats conns\r\n");
    for (const char *line; strcmp(line = client_line(c), "END") != 0;)
        found |= strstr(line, "conn_mwrite") != NULL;
    return found;
}

static void set(struct client *c, const char *name, int number, int bytes)
{
    client_printf(c, "set %s%d 0 0 %d\r\n", name, number, bytes);
    client_send_bytes(c, value, (size_t)bytes);
    client_ask(c, "\r\n", "STORED\r\n");
}

/* One worker; crowd0 and more, slow0 and more are on flash, small0 stays in memory. */
static struct server *with_values(struct client **c)
{
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "1", "-m", "64", "-I", "2m", "-o",
                                    "ext_path={dir}/flash:128m,ext_page_size=8,ext_wbuf_size=2,ext_item_age=0,ext_recache_rate=0");
    *c = client_open(s);
    memset(value, 'v', sizeof(value));
    for (int i = 0; i < SLOW; i++) /* no write buffer has the first of them any more */
        set(*c, "slow", i, SLOW_BYTES);
    for (int i = 0; i < 2 * CROWD; i++)
        set(*c, "crowd", i, CROWD_BYTES);
    set(*c, "small", 0, SMALL_BYTES);
    cr_assert(wait_until(client_stat_u64(*c, "extant", "flash_objects") >= 2 * CROWD + SLOW, HARNESS_ANSWER_MS));
    return s;
}

static void expect_value(struct client *c, const char *name, int bytes)
{
    static char got[CROWD_BYTES];
    char line[64];
    snprintf(line, sizeof(line), "VALUE %s 0 %d\r\n", name, bytes);
    client_expect(c, line);
    client_read(c, got, (size_t)bytes);
    cr_assert_eq(memcmp(got, value, (size_t)bytes), 0);
    client_expect(c, "\r\n");
}

/* In one piece with the next request, which the server doesn't read once the socket is full. */
static void ask_for_much(struct client *slow, const char *next)
{
    char line[SMALL_GETS * 8 + 100] = "get";
    for (int i = 0; i < SMALL_GETS; i++)
        strcat(line, " small0");
    strcat(line, "\r\nget slow0\r\n");
    strcat(line, next);
    client_send(slow, line);
}

static void expect_much(struct client *slow)
{
    for (int i = 0; i < SMALL_GETS; i++)
        expect_value(slow, "small0", SMALL_BYTES);
    client_expect(slow, "END\r\n");
    expect_value(slow, "slow0", SLOW_BYTES);
    client_expect(slow, "END\r\n");
}

/* Each asks for a value of its own, from this number on, and reads nothing. */
static void crowd_open(struct server *s, struct client **crowd, int number)
{
    for (int i = 0; i < CROWD; i++) {
        crowd[i] = client_open(s);
        client_printf(crowd[i], "get crowd%d\r\n", number + i);
    }
}

/* Until nothing is read for them any more. */
static void crowd_close(struct client *c, struct client **crowd)
{
    for (int i = 0; i < CROWD; i++)
        client_close(crowd[i]);
    cr_assert(wait_until(client_stat_u64(c, "extant", "ext_reads_waiting") == 0, HARNESS_ANSWER_MS));
}

/* The value of a set arrives while that of an earlier get is read again. */
Test(alone, a_store_beside_a_value_that_is_read_again)
{
    struct client *c, *crowd[CROWD];
    struct server *s = with_values(&c);
    for (int round = 0; round < ROUNDS; round++) {
        struct client *slow = client_open(s);
        ask_for_much(slow, "set x 0 0 5\r\nhel");
        cr_assert(wait_until(is_blocked(c), HARNESS_ANSWER_MS));
        uint64_t before = put_away(c);
        crowd_open(s, crowd, 0);
        cr_assert(wait_until(put_away(c) > before + 5, HARNESS_ANSWER_MS));
        client_send(slow, "lo\r\n");
        expect_much(slow);
        client_expect(slow, "STORED\r\n");
        client_ask(c, "get x\r\n", "VALUE x 0 5\r\nhello\r\nEND\r\n");
        client_close(slow);
        crowd_close(c, crowd);
    }
    client_close(c);
    server_stop(s);
}

/* An append waits for a read buffer in a queue of many, and so does the value of the get before it. */
Test(alone, a_change_that_waits_beside_a_value_that_is_read_again)
{
    struct client *c, *first[CROWD], *more[CROWD];
    struct server *s = with_values(&c);
    for (int round = 1; round <= ROUNDS; round++) {
        char next[64];
        struct client *slow = client_open(s);
        crowd_open(s, first, 0);
        cr_assert(wait_until(client_stat_u64(c, "extant", "ext_reads_waiting") > CROWD / 2, HARNESS_ANSWER_MS));
        snprintf(next, sizeof(next), "append slow%d 0 0 1\r\nx\r\n", round);
        ask_for_much(slow, next);
        client_expect_silence(c);
        uint64_t before = put_away(c);
        crowd_open(s, more, CROWD);
        cr_assert(wait_until(put_away(c) > before + CROWD + 2, HARNESS_ANSWER_MS));
        expect_much(slow);
        client_expect(slow, "STORED\r\n");
        client_close(slow);
        crowd_close(c, first);
        crowd_close(c, more);
    }
    client_close(c);
    server_stop(s);
}

static void expect_logged(struct client *watcher, const char *type, const char *more)
{
    const char *line = client_line(watcher);
    cr_assert(strstr(line, type) && strstr(line, more), "\"%s\" and \"%s\" are not in: %s", type, more, line);
}

/* Watchers see the lookup of a key on flash before what was done to it, and what it found. */
Test(alone, a_change_after_its_lookup)
{
    struct client *c;
    struct server *s = with_values(&c);
    struct client *watcher = client_open(s);
    client_ask(watcher, "watch fetchers mutations deletions\r\n", "OK\r\n");
    client_ask(c, "set slow0 0 0 1\r\nx\r\ndelete slow1\r\ndelete slow1\r\ntouch slow2 0\r\n",
               "STORED\r\nDELETED\r\nNOT_FOUND\r\nTOUCHED\r\n");
    expect_logged(watcher, "type=item_get key=slow0 ", "status=found");
    expect_logged(watcher, "type=item_store key=slow0 ", "status=stored");
    expect_logged(watcher, "type=item_get key=slow1 ", "status=found");
    expect_logged(watcher, "type=deleted key=slow1 ", "cmd=delete");
    expect_logged(watcher, "type=item_get key=slow1 ", "status=not_found");
    expect_logged(watcher, "type=item_get key=slow2 ", "status=found");
    /* A client leaves while the lookup waits: what it asked for is done. */
    struct client *leaves = client_open(s);
    client_send(leaves, "append slow3 0 0 1 noreply\r\nx\r\n");
    client_close(leaves);
    expect_logged(watcher, "type=item_get key=slow3 ", "status=found");
    client_close(watcher);
    char want[64];
    snprintf(want, sizeof(want), "HD s%d", SLOW_BYTES + 1);
    cr_assert(wait_until((client_send(c, "mg slow3 s\r\n"), strcmp(client_line(c), want) == 0), HARNESS_ANSWER_MS));
    client_close(c);
    server_stop(s);
}
