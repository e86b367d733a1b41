/* slow_client_test.c: a client that reads slowly has its values put away for others, and read again for it. Meanwhile
 * a change is the only request of its connection under way (debug servers assert it); what can't be read again is a
 * miss; and for clients that have left nothing is read. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "t/aid/harness.h"

/* Of the values on flash, those of the crowd fill the read buffers. A slow client asks for one that is smaller than what
 * a session may have unsent, so its next request is executed; with the small ones before it, it fills the socket. */
enum { CROWD = 20, CROWD_BYTES = 1000000, ROUNDS = 3, SLOW = 60, FAR = ROUNDS + 1, SLOW_BYTES = 200000,
       SMALL_BYTES = 500, SMALL_GETS = 100, FILLING_GETS = 450, FLASH_BYTES = 128 << 20 };

static char value[CROWD_BYTES];

static uint64_t put_away(struct client *c)
{
    return client_stat_u64(c, "extant", "ext_reads_put_away");
}

static uint64_t device_reads(struct client *c)
{
    return client_stat_u64(c, "extant", "ext_device_reads");
}

/* The number of connections whose sockets are full. */
static int blocked(struct client *c)
{
    int n = 0;
    client_send(c, "stats conns\r\n");
    for (const char *line; strcmp(line = client_line(c), "END") != 0;)
        n += strstr(line, "conn_mwrite") != NULL;
    return n;
}

static void set(struct client *c, const char *name, int number, int bytes)
{
    client_printf(c, "set %s%d 0 0 %d\r\n", name, number, bytes);
    client_send_bytes(c, value, (size_t)bytes);
    client_ask(c, "\r\n", "STORED\r\n");
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

/* The numbers of slow values that are in no write buffer any more. */
static int far[FAR];

static void find_far(struct client *c)
{
    int found = 0;
    for (int i = 0; i < SLOW && found < FAR; i++) {
        char name[32];
        uint64_t before = device_reads(c);
        snprintf(name, sizeof(name), "slow%d", i);
        client_printf(c, "get %s\r\n", name);
        expect_value(c, name, SLOW_BYTES);
        client_expect(c, "END\r\n");
        if (device_reads(c) > before)
            far[found++] = i;
    }
    cr_assert_eq(found, FAR);
}

/* The small value is in memory again, if it had left it to make room for the others. */
static bool small_stays(struct client *c)
{
    uint64_t before = client_stat_u64(c, "", "get_extstore");
    client_send(c, "get small0\r\n");
    expect_value(c, "small0", SMALL_BYTES);
    client_expect(c, "END\r\n");
    if (client_stat_u64(c, "", "get_extstore") == before)
        return true;
    set(c, "small", 0, SMALL_BYTES);
    return false;
}

/* One worker; crowd0 and more, slow0 and more are on flash, small0 stays in memory. */
static struct server *with_values(struct client **c)
{
    harness_skip_if_sockets_are_large();
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "1", "-m", "64", "-I", "2m", "-o",
                                    "ext_path={dir}/flash:128m,ext_page_size=8,ext_wbuf_size=2,ext_item_age=0,ext_recache_rate=0");
    *c = client_open(s);
    memset(value, 'v', sizeof(value));
    for (int i = 0; i < SLOW; i++)
        set(*c, "slow", i, SLOW_BYTES);
    for (int i = 0; i < 2 * CROWD; i++)
        set(*c, "crowd", i, CROWD_BYTES);
    set(*c, "small", 0, SMALL_BYTES);
    cr_assert(wait_until(client_stat_u64(*c, "extant", "flash_objects") >= 2 * CROWD + SLOW, HARNESS_ANSWER_MS));
    cr_assert(wait_until(small_stays(*c), HARNESS_ANSWER_MS));
    find_far(*c);
    return s;
}

/* In one piece with the next request, which the server doesn't read once the socket is full. */
static void ask_for_much(struct client *slow, int small_gets, int number, const char *then)
{
    char line[FILLING_GETS * 8 + 200] = "get", text[100];
    for (int i = 0; i < small_gets; i++)
        strcat(line, " small0");
    snprintf(text, sizeof(text), "\r\nget slow%d\r\n%s", number, then);
    strcat(line, text);
    client_send(slow, line);
}

static void expect_small(struct client *slow, int small_gets)
{
    for (int i = 0; i < small_gets; i++)
        expect_value(slow, "small0", SMALL_BYTES);
    client_expect(slow, "END\r\n");
}

static void expect_much(struct client *slow)
{
    char name[32];
    expect_small(slow, SMALL_GETS);
    snprintf(name, sizeof(name), "slow%d", far[0]);
    expect_value(slow, name, SLOW_BYTES);
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
Test(slow_client, a_store_beside_a_value_that_is_read_again)
{
    struct client *c, *crowd[CROWD];
    struct server *s = with_values(&c);
    for (int round = 0; round < ROUNDS; round++) {
        struct client *slow = client_open(s);
        ask_for_much(slow, SMALL_GETS, far[0], "set x 0 0 5\r\nhel");
        cr_assert(wait_until(blocked(c) == 1, HARNESS_ANSWER_MS));
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
Test(slow_client, a_change_that_waits_beside_a_value_that_is_read_again)
{
    struct client *c, *first[CROWD], *more[CROWD];
    struct server *s = with_values(&c);
    for (int round = 1; round <= ROUNDS; round++) {
        char next[64];
        struct client *slow = client_open(s);
        crowd_open(s, first, 0);
        cr_assert(wait_until(client_stat_u64(c, "extant", "ext_reads_waiting") > CROWD / 2, HARNESS_ANSWER_MS));
        snprintf(next, sizeof(next), "append slow%d 0 0 1\r\nx\r\n", far[round]);
        ask_for_much(slow, SMALL_GETS, far[0], next);
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

static void expect_logged(struct client *watcher, const char *type, const char *key, const char *more)
{
    const char *line = client_line(watcher);
    cr_assert(strstr(line, type) && strstr(line, key) && strstr(line, more), "not \"%s\", \"%s\", \"%s\": %s", type, key,
              more, line);
}

/* Watchers see the lookup of a key on flash before what was done to it, and what it found. */
Test(slow_client, a_change_after_its_lookup)
{
    struct client *c;
    struct server *s = with_values(&c);
    struct client *watcher = client_open(s), *leaves = client_open(s);
    char key[4][32], want[64];
    for (int i = 0; i < 4; i++)
        snprintf(key[i], sizeof(key[i]), "key=slow%d ", far[i]);
    client_ask(watcher, "watch fetchers mutations deletions\r\n", "OK\r\n");
    client_printf(c, "set slow%d 0 0 1\r\nx\r\ndelete slow%d\r\ndelete slow%d\r\ntouch slow%d 0\r\n", far[0], far[1],
                  far[1], far[2]);
    client_expect(c, "STORED\r\nDELETED\r\nNOT_FOUND\r\nTOUCHED\r\n");
    expect_logged(watcher, "type=item_get", key[0], "status=found");
    expect_logged(watcher, "type=item_store", key[0], "status=stored");
    expect_logged(watcher, "type=item_get", key[1], "status=found");
    expect_logged(watcher, "type=deleted", key[1], "cmd=delete");
    expect_logged(watcher, "type=item_get", key[1], "status=not_found");
    expect_logged(watcher, "type=item_get", key[2], "status=found");
    /* A client leaves while the lookup waits: what it asked for is done, and watchers hear of it. */
    client_printf(leaves, "append slow%d 0 0 1 noreply\r\nx\r\n", far[3]);
    client_close(leaves);
    expect_logged(watcher, "type=item_get", key[3], "status=found");
    expect_logged(watcher, "type=item_store", key[3], "status=stored cmd=append");
    client_close(watcher);
    snprintf(want, sizeof(want), "HD s%d", SLOW_BYTES + 1);
    cr_assert(wait_until((client_printf(c, "mg slow%d s\r\n", far[3]), strcmp(client_line(c), want) == 0),
                         HARNESS_ANSWER_MS));
    client_close(c);
    server_stop(s);
}

/* Waits until this many gets have hit, and until values of the crowd and those of the gets were put away. */
static void wait_till_away(struct server *s, struct client *c, uint64_t hits, struct client **crowd)
{
    cr_assert(wait_until(client_stat_u64(c, "", "get_hits") == hits, HARNESS_ANSWER_MS)); /* none waits for its read */
    uint64_t before = put_away(c);
    crowd_open(s, crowd, 0);
    cr_assert(wait_until(put_away(c) > before + CROWD / 2, HARNESS_ANSWER_MS));
}

/* The flash loses all that was written to it. */
static void wipe_flash(const struct server *s)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/flash", server_dir(s));
    int fd = open(path, O_WRONLY);
    cr_assert_geq(fd, 0);
    cr_assert_eq(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, FLASH_BYTES), 0);
    close(fd);
}

/* Nothing of the value was sent yet, so it can still be a miss; a client in the middle of it must be cut off. */
Test(slow_client, a_value_that_can_not_be_read_again)
{
    struct client *c, *crowd[CROWD];
    struct server *s = with_values(&c);
    struct client *before = client_open(s), *amid = client_open(s);
    uint64_t hits = client_stat_u64(c, "", "get_hits");
    char next[64], want[64];
    snprintf(next, sizeof(next), "mg slow%d k v O1\r\nmn\r\n", far[1]);
    ask_for_much(before, FILLING_GETS, far[0], next);
    ask_for_much(amid, SMALL_GETS, far[2], "mn\r\n");
    wait_till_away(s, c, hits + FILLING_GETS + SMALL_GETS + 3, crowd);
    wipe_flash(s);
    expect_small(before, FILLING_GETS);
    snprintf(want, sizeof(want), "END\r\nEN kslow%d O1\r\nMN\r\n", far[1]);
    client_expect(before, want);
    expect_small(amid, SMALL_GETS);
    snprintf(want, sizeof(want), "VALUE slow%d 0 %d\r\n", far[2], SLOW_BYTES);
    client_expect(amid, want);
    ssize_t n, got = 0;
    while ((n = recv(client_fd(amid), value, sizeof(value), 0)) > 0)
        got += n;
    cr_assert_lt(got, SLOW_BYTES);
    client_close(before);
    client_close(amid);
    crowd_close(c, crowd);
    client_close(c);
    server_stop(s);
}

/* Values that were put away are not read again to find that their clients have left. */
Test(slow_client, nothing_is_read_for_clients_that_have_left)
{
    struct client *c, *crowd[CROWD];
    struct server *s = with_values(&c);
    crowd_open(s, crowd, 0);
    cr_assert(wait_until(blocked(c) == CROWD, HARNESS_ANSWER_MS));
    cr_assert_gt(put_away(c), CROWD / 2);
    uint64_t before = device_reads(c);
    crowd_close(c, crowd);
    cr_assert(wait_until(client_stat_u64(c, "", "curr_connections") == 1, HARNESS_ANSWER_MS));
    cr_assert_eq(device_reads(c), before);
    client_close(c);
    server_stop(s);
}
