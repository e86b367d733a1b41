/* binary_test.c: a spawned server's answers to the binary protocol, byte for byte, in RAM and with values
 * that are on flash. */
#include <criterion/criterion.h>

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include "t/aid/packets.h"

static struct server *server;
static struct client *c;

static void open_ram(void)
{
    server = server_spawn(LISTEN_UNIX, "-t", "2");
    c = client_open(server);
}

/* Everything of 64 bytes and more goes to flash at once. */
static void open_flash(void)
{
    server = server_spawn(LISTEN_UNIX, "-t", "2", "-m", "64", "-o",
                          "ext_path={dir}/flash:64m,ext_page_size=8,ext_wbuf_size=2,"
                          "ext_item_size=64,ext_item_age=0,ext_max_sleep=1000");
    c = client_open(server);
}

static void close_it(void)
{
    client_close(c);
    server_stop(server);
}

TestSuite(binary, .init = open_ram, .fini = close_it);
TestSuite(binary_flash, .init = open_flash, .fini = close_it);

#define FLAGS_EXPIRY(flags, expiry) WITH_EXTRAS(flags expiry)
#define NO_FLAGS WITH_EXTRAS("\0\0\0\0\0\0\0\0")
#define NOT_FOUND .status = 1, WITH_VALUE("Not found")
#define EXISTS .status = 2, WITH_VALUE("Data exists for key.")
#define TOO_LARGE .status = 3, WITH_VALUE("Too large.")
#define INVALID .status = 4, WITH_VALUE("Invalid arguments")
#define NOT_STORED .status = 5, WITH_VALUE("Not stored.")
#define UNKNOWN .status = 0x81, WITH_VALUE("Unknown command")
#define ONE "\0\0\0\0\0\0\0\1"
#define FIVE "\0\0\0\0\0\0\0\5"
#define MAX "\xff\xff\xff\xff\xff\xff\xff\xff"

/* Nothing else is left to be read. */
static void expect_nothing_more(void)
{
    ask(c, .opcode = OP_NOOP, .opaque = 0x70707070);
    answer(c, .opcode = OP_NOOP, .opaque = 0x70707070);
}

/* ---- each command ---- */

Test(binary, set_and_get_in_all_forms)
{
    ask(c, .opcode = OP_SET, FLAGS_EXPIRY("\1\2\3\4", "\0\0\0\0"), WITH_KEY("a"), WITH_VALUE("xyz"));
    answer(c, .opcode = OP_SET, .cas = 1);
    ask(c, .opcode = OP_GET, WITH_KEY("a"), .opaque = 0x11223344);
    answer(c, .opcode = OP_GET, WITH_EXTRAS("\1\2\3\4"), WITH_VALUE("xyz"), .opaque = 0x11223344, .cas = 1);
    ask(c, .opcode = OP_GETQ, WITH_KEY("a"));
    answer(c, .opcode = OP_GETQ, WITH_EXTRAS("\1\2\3\4"), WITH_VALUE("xyz"), .cas = 1);
    ask(c, .opcode = OP_GETK, WITH_KEY("a"));
    answer(c, .opcode = OP_GETK, WITH_EXTRAS("\1\2\3\4"), WITH_KEY("a"), WITH_VALUE("xyz"), .cas = 1);
    ask(c, .opcode = OP_GETKQ, WITH_KEY("a"));
    answer(c, .opcode = OP_GETKQ, WITH_EXTRAS("\1\2\3\4"), WITH_KEY("a"), WITH_VALUE("xyz"), .cas = 1);
    ask(c, .opcode = OP_GET, WITH_KEY("none"));
    answer(c, .opcode = OP_GET, NOT_FOUND);
    ask(c, .opcode = OP_GETK, WITH_KEY("none"));
    answer(c, .opcode = OP_GETK, .status = 1, WITH_KEY("none"));
    ask(c, .opcode = OP_GETQ, WITH_KEY("none"));
    ask(c, .opcode = OP_GETKQ, WITH_KEY("none"));
    expect_nothing_more();
}

Test(binary, stores_say_why_they_do_not_store)
{
    ask(c, .opcode = OP_ADD, NO_FLAGS, WITH_KEY("a"), WITH_VALUE("1"));
    answer(c, .opcode = OP_ADD, .cas = 1);
    ask(c, .opcode = OP_ADD, NO_FLAGS, WITH_KEY("a"), WITH_VALUE("2"));
    answer(c, .opcode = OP_ADD, EXISTS);
    ask(c, .opcode = OP_REPLACE, NO_FLAGS, WITH_KEY("b"), WITH_VALUE("2"));
    answer(c, .opcode = OP_REPLACE, NOT_FOUND);
    ask(c, .opcode = OP_APPEND, WITH_KEY("b"), WITH_VALUE("2"));
    answer(c, .opcode = OP_APPEND, NOT_STORED);
    ask(c, .opcode = OP_SET, NO_FLAGS, WITH_KEY("a"), WITH_VALUE("3"), .cas = 77);
    answer(c, .opcode = OP_SET, EXISTS);
    ask(c, .opcode = OP_SET, NO_FLAGS, WITH_KEY("b"), WITH_VALUE("3"), .cas = 77);
    answer(c, .opcode = OP_SET, NOT_FOUND);
    ask(c, .opcode = OP_REPLACE, NO_FLAGS, WITH_KEY("a"), WITH_VALUE("4"), .cas = 1);
    answer(c, .opcode = OP_REPLACE, .cas = 2);
    ask(c, .opcode = OP_PREPEND, WITH_KEY("a"), WITH_VALUE("<"), .cas = 1);
    answer(c, .opcode = OP_PREPEND, EXISTS);
    ask(c, .opcode = OP_PREPEND, WITH_KEY("a"), WITH_VALUE("<"), .cas = 2);
    answer(c, .opcode = OP_PREPEND, .cas = 3);
    ask(c, .opcode = OP_APPENDQ, WITH_KEY("a"), WITH_VALUE(">"));
    ask(c, .opcode = OP_GET, WITH_KEY("a"));
    answer(c, .opcode = OP_GET, WITH_EXTRAS("\0\0\0\0"), WITH_VALUE("<4>"), .cas = 4);
}

Test(binary, quiet_commands_are_silent_unless_they_fail)
{
    ask(c, .opcode = OP_SETQ, NO_FLAGS, WITH_KEY("a"), WITH_VALUE("1"));
    ask(c, .opcode = OP_ADDQ, NO_FLAGS, WITH_KEY("b"), WITH_VALUE("1"));
    ask(c, .opcode = OP_REPLACEQ, NO_FLAGS, WITH_KEY("b"), WITH_VALUE("2"));
    ask(c, .opcode = OP_PREPENDQ, WITH_KEY("b"), WITH_VALUE("1"));
    ask(c, .opcode = OP_INCRQ, WITH_EXTRAS(ONE FIVE "\0\0\0\0"), WITH_KEY("a"));
    ask(c, .opcode = OP_DECRQ, WITH_EXTRAS(ONE FIVE "\0\0\0\0"), WITH_KEY("b"));
    ask(c, .opcode = OP_DELETEQ, WITH_KEY("b"));
    expect_nothing_more();
    ask(c, .opcode = OP_ADDQ, NO_FLAGS, WITH_KEY("a"), WITH_VALUE("1"), .opaque = 1);
    answer(c, .opcode = OP_ADDQ, EXISTS, .opaque = 1);
    ask(c, .opcode = OP_DELETEQ, WITH_KEY("b"), .opaque = 2);
    answer(c, .opcode = OP_DELETEQ, NOT_FOUND, .opaque = 2);
    ask(c, .opcode = OP_FLUSHQ);
    ask(c, .opcode = OP_GETQ, WITH_KEY("a"));
    expect_nothing_more();
    ask(c, .opcode = OP_QUITQ);
    client_expect_closed(c);
}

Test(binary, numbers_are_made_counted_and_compared)
{
    ask(c, .opcode = OP_INCR, WITH_EXTRAS(ONE FIVE "\xff\xff\xff\xff"), WITH_KEY("n"));
    answer(c, .opcode = OP_INCR, NOT_FOUND);
    ask(c, .opcode = OP_INCR, WITH_EXTRAS(ONE FIVE "\0\0\0\0"), WITH_KEY("n"));
    answer(c, .opcode = OP_INCR, WITH_VALUE(FIVE), .cas = 1);
    ask(c, .opcode = OP_DECR, WITH_EXTRAS(ONE FIVE "\0\0\0\0"), WITH_KEY("n"));
    answer(c, .opcode = OP_DECR, WITH_VALUE("\0\0\0\0\0\0\0\4"), .cas = 2);
    ask(c, .opcode = OP_INCR, WITH_EXTRAS(ONE FIVE "\0\0\0\0"), WITH_KEY("n"), .cas = 9);
    answer(c, .opcode = OP_INCR, EXISTS);
    ask(c, .opcode = OP_INCR, WITH_EXTRAS(MAX FIVE "\0\0\0\0"), WITH_KEY("n"), .cas = 2);
    answer(c, .opcode = OP_INCR, WITH_VALUE("\0\0\0\0\0\0\0\3"), .cas = 3);
    ask(c, .opcode = OP_SET, NO_FLAGS, WITH_KEY("w"), WITH_VALUE("word"));
    answer(c, .opcode = OP_SET, .cas = 4);
    ask(c, .opcode = OP_INCR, WITH_EXTRAS(ONE FIVE "\0\0\0\0"), WITH_KEY("w"));
    answer(c, .opcode = OP_INCR, .status = 6, WITH_VALUE("Non-numeric server-side value for incr or decr"));
    struct client *t = client_open(server);
    client_ask(t, "get n\r\n", "VALUE n 0 1\r\n3\r\nEND\r\n");
    cr_assert_eq(client_stat_u64(t, "", "incr_misses"), 1);
    cr_assert_eq(client_stat_u64(t, "", "incr_hits"), 1);
    client_close(t);
}

Test(binary, large_numbers_are_made_and_go_round)
{
    ask(c, .opcode = OP_INCR, WITH_EXTRAS(ONE MAX "\0\0\0\0"), WITH_KEY("n"));
    answer(c, .opcode = OP_INCR, WITH_VALUE(MAX), .cas = 1);
    ask(c, .opcode = OP_DECR, WITH_EXTRAS(ONE FIVE "\0\0\0\0"), WITH_KEY("n"));
    answer(c, .opcode = OP_DECR, WITH_VALUE("\xff\xff\xff\xff\xff\xff\xff\xfe"), .cas = 2);
    ask(c, .opcode = OP_INCR, WITH_EXTRAS(FIVE FIVE "\0\0\0\0"), WITH_KEY("n"));
    answer(c, .opcode = OP_INCR, WITH_VALUE("\0\0\0\0\0\0\0\3"), .cas = 3);
    ask(c, .opcode = OP_DECR, WITH_EXTRAS(MAX FIVE "\0\0\0\0"), WITH_KEY("n"));
    answer(c, .opcode = OP_DECR, WITH_VALUE("\0\0\0\0\0\0\0\0"), .cas = 4);
}

Test(binary, touch_and_gat)
{
    ask(c, .opcode = OP_SET, FLAGS_EXPIRY("\0\0\0\7", "\0\0\0\0"), WITH_KEY("a"), WITH_VALUE("xyz"));
    answer(c, .opcode = OP_SET, .cas = 1);
    ask(c, .opcode = OP_TOUCH, WITH_EXTRAS("\0\0\0\144"), WITH_KEY("a"));
    answer(c, .opcode = OP_TOUCH, WITH_EXTRAS("\0\0\0\7"), .cas = 1);
    ask(c, .opcode = OP_TOUCH, WITH_EXTRAS("\0\0\0\144"), WITH_KEY("b"));
    answer(c, .opcode = OP_TOUCH, NOT_FOUND);
    ask(c, .opcode = OP_GAT, WITH_EXTRAS("\0\0\0\144"), WITH_KEY("a"));
    answer(c, .opcode = OP_GAT, WITH_EXTRAS("\0\0\0\7"), WITH_VALUE("xyz"), .cas = 1);
    ask(c, .opcode = OP_GATK, WITH_EXTRAS("\0\0\0\144"), WITH_KEY("a"));
    answer(c, .opcode = OP_GATK, WITH_EXTRAS("\0\0\0\7"), WITH_KEY("a"), WITH_VALUE("xyz"), .cas = 1);
    ask(c, .opcode = OP_GATK, WITH_EXTRAS("\0\0\0\144"), WITH_KEY("b"));
    answer(c, .opcode = OP_GATK, .status = 1, WITH_KEY("b"));
    ask(c, .opcode = OP_GATQ, WITH_EXTRAS("\0\0\0\144"), WITH_KEY("b"));
    ask(c, .opcode = OP_GATKQ, WITH_EXTRAS("\0\0\0\144"), WITH_KEY("b"));
    expect_nothing_more();
    struct client *t = client_open(server);
    client_ask(t, "mg a t\r\n", "HD t100\r\n");
    cr_assert_eq(client_stat_u64(t, "", "cmd_touch"), 7);
    cr_assert_eq(client_stat_u64(t, "", "touch_hits"), 3);
    cr_assert_eq(client_stat_u64(t, "", "touch_misses"), 4);
    cr_assert_eq(client_stat_u64(t, "", "cmd_get"), 1);
    client_close(t);
}

Test(binary, delete_compares_the_cas)
{
    ask(c, .opcode = OP_SETQ, NO_FLAGS, WITH_KEY("a"), WITH_VALUE("xyz"));
    ask(c, .opcode = OP_DELETE, WITH_KEY("a"), .cas = 2);
    answer(c, .opcode = OP_DELETE, EXISTS);
    ask(c, .opcode = OP_DELETE, WITH_KEY("a"), .cas = 1);
    answer(c, .opcode = OP_DELETE);
    ask(c, .opcode = OP_DELETE, WITH_KEY("a"));
    answer(c, .opcode = OP_DELETE, NOT_FOUND);
    struct client *t = client_open(server);
    cr_assert_eq(client_stat_u64(t, "", "delete_misses"), 1);
    cr_assert_eq(client_stat_u64(t, "", "delete_hits"), 1);
    client_close(t);
}

Test(binary, version_noop_verbosity_flush_quit)
{
    ask(c, .opcode = OP_VERSION);
    answer(c, .opcode = OP_VERSION, WITH_VALUE(MEMCACHED_LEVEL));
    ask(c, .opcode = OP_VERBOSITY, WITH_EXTRAS("\0\0\0\1"));
    answer(c, .opcode = OP_VERBOSITY);
    ask(c, .opcode = OP_SETQ, NO_FLAGS, WITH_KEY("a"), WITH_VALUE("xyz"));
    ask(c, .opcode = OP_FLUSH, WITH_EXTRAS("\0\0\0\144"));
    answer(c, .opcode = OP_FLUSH);
    ask(c, .opcode = OP_GET, WITH_KEY("a"));
    answer(c, .opcode = OP_GET, WITH_EXTRAS("\0\0\0\0"), WITH_VALUE("xyz"), .cas = 1);
    ask(c, .opcode = OP_FLUSH);
    answer(c, .opcode = OP_FLUSH);
    ask(c, .opcode = OP_GET, WITH_KEY("a"));
    answer(c, .opcode = OP_GET, NOT_FOUND);
    ask(c, .opcode = OP_QUIT, .opaque = 5);
    answer(c, .opcode = OP_QUIT, .opaque = 5);
    client_expect_closed(c);
}

/* Reads one packet's key and value into text; false: it is the last, empty one. */
static bool read_stat(char *name, char *value, size_t size)
{
    unsigned char head[24];
    client_read(c, (char *)head, sizeof(head));
    size_t key = (size_t)head[2] << 8 | head[3];
    size_t body = (size_t)head[8] << 24 | (size_t)head[9] << 16 | (size_t)head[10] << 8 | head[11];
    cr_assert_eq(head[0], 0x81);
    cr_assert_eq(head[1], OP_STAT);
    cr_assert_eq(head[7], 0);
    cr_assert(key < size && body - key < size);
    client_read(c, name, key);
    client_read(c, value, body - key);
    name[key] = value[body - key] = '\0';
    return body > 0;
}

Test(binary, stat_and_its_words)
{
    char name[2048], value[2048];
    unsigned count = 0;
    ask(c, .opcode = OP_SETQ, NO_FLAGS, WITH_KEY("p:a"), WITH_VALUE("xyz"));
    ask(c, .opcode = OP_STAT);
    bool seen = false;
    while (read_stat(name, value, sizeof(name))) {
        seen |= strcmp(name, "curr_items") == 0 && strcmp(value, "1") == 0;
        count++;
    }
    cr_assert(seen);
    cr_assert_gt(count, 80);
    static const char *const groups[] = {"settings", "items", "slabs", "sizes", "extant"};
    for (size_t i = 0; i < ARRAY_COUNT(groups); i++) {
        ask(c, .opcode = OP_STAT, .key = groups[i], .key_bytes = strlen(groups[i]));
        for (count = 0; read_stat(name, value, sizeof(name)); count++)
            ;
        cr_assert_gt(count, 0);
    }
    ask(c, .opcode = OP_STAT, WITH_KEY("detail on"));
    answer(c, .opcode = OP_STAT);
    ask(c, .opcode = OP_GETQ, WITH_KEY("p:b"));
    ask(c, .opcode = OP_STAT, WITH_KEY("detail dump"));
    answer(c, .opcode = OP_STAT, WITH_KEY("detailed"), WITH_VALUE("PREFIX p get 1 hit 0 set 0 del 0\r\nEND\r\n"));
    answer(c, .opcode = OP_STAT);
    ask(c, .opcode = OP_STAT, WITH_KEY("reset"));
    answer(c, .opcode = OP_STAT);
    ask(c, .opcode = OP_STAT, WITH_KEY("conns"));
    answer(c, .opcode = OP_STAT, NOT_FOUND);
    ask(c, .opcode = OP_STAT, WITH_KEY("s"));
    answer(c, .opcode = OP_STAT, NOT_FOUND);
}

/* ---- keys ---- */

Test(binary, a_key_may_hold_any_byte)
{
    char keys[256];
    for (unsigned i = 0; i < sizeof(keys); i++)
        keys[i] = (char)i;
    for (unsigned i = 0; i < sizeof(keys); i++) {
        char value[2] = {(char)i, 'v'};
        ask(c, .opcode = OP_SETQ, NO_FLAGS, .key = keys + i, .key_bytes = 1, .value = value, .value_bytes = 2);
    }
    for (unsigned i = 0; i < sizeof(keys); i++) {
        char value[2] = {(char)i, 'v'};
        ask(c, .opcode = OP_GETK, .key = keys + i, .key_bytes = 1);
        answer(c, .opcode = OP_GETK, WITH_EXTRAS("\0\0\0\0"), .key = keys + i, .key_bytes = 1, .value = value,
               .value_bytes = 2, .cas = i + 1);
    }
    ask(c, .opcode = OP_SETQ, NO_FLAGS, .key = keys + 6, .key_bytes = 250, WITH_VALUE("long"));
    ask(c, .opcode = OP_GET, .key = keys + 6, .key_bytes = 250);
    answer(c, .opcode = OP_GET, WITH_EXTRAS("\0\0\0\0"), WITH_VALUE("long"), .cas = 257);
}

/* An item is shown once it is in the COLD list. */
static bool cachedump_shows_one(struct client *t, char *line, size_t size)
{
    client_send(t, "stats cachedump 1 0\r\n");
    snprintf(line, size, "%s", client_line(t));
    if (strcmp(line, "END") == 0)
        return false;
    cr_assert_str_eq(client_line(t), "END");
    return true;
}

Test(binary, dumps_and_statistics_escape_such_keys)
{
    char shown[256];
    ask(c, .opcode = OP_SET, NO_FLAGS, WITH_KEY("a b\r\n\0\x80"), WITH_VALUE("v"));
    answer(c, .opcode = OP_SET, .cas = 1);
    struct client *t = client_open(server);
    client_send(t, "lru_crawler metadump all\r\n");
    const char *line = client_line(t);
    if (strcmp(line, "OK") == 0)
        line = client_line(t);
    cr_assert_eq(strncmp(line, "key=a%20b%0D%0A%00%80 exp=-1 ", 29), 0, "%s", line);
    cr_assert_str_eq(client_line(t), "END");
    client_send(t, "lru_crawler mgdump all\r\n");
    line = client_line(t);
    if (strcmp(line, "OK") == 0)
        line = client_line(t);
    cr_assert_str_eq(line, "mg YSBiDQoAgA== b");
    cr_assert_str_eq(client_line(t), "EN");
    cr_assert(wait_until(cachedump_shows_one(t, shown, sizeof(shown)), HARNESS_ANSWER_MS));
    line = shown;
    cr_assert_eq(strncmp(line, "ITEM a%20b%0D%0A%00%80 [1 b; 0 s]", 33), 0, "%s", line);
    client_ask(t, "stats detail on\r\n", "OK\r\n");
    ask(c, .opcode = OP_SET, NO_FLAGS, WITH_KEY("p\r\nq:1"), WITH_VALUE("v"));
    answer(c, .opcode = OP_SET, .cas = 2);
    client_ask(t, "stats detail dump\r\n", "PREFIX p%0D%0Aq get 0 hit 0 set 1 del 0\r\nEND\r\n");
    client_close(t);
}

/* ---- order, splits, sizes ---- */

static char big[1 << 20];

static size_t conversation(char *out)
{
    size_t n = 0;
    n += packet_put(out + n, &(struct packet){.opcode = OP_SET, NO_FLAGS, WITH_KEY("a"), WITH_VALUE("first")});
    n += packet_put(out + n, &(struct packet){.opcode = OP_GETKQ, WITH_KEY("a"), .opaque = 1});
    n += packet_put(out + n, &(struct packet){.opcode = OP_GETKQ, WITH_KEY("b"), .opaque = 2});
    n += packet_put(out + n, &(struct packet){.opcode = OP_APPENDQ, WITH_KEY("a"), WITH_VALUE("!")});
    n += packet_put(out + n, &(struct packet){.opcode = OP_GET, WITH_KEY("a"), .opaque = 3});
    n += packet_put(out + n, &(struct packet){.opcode = OP_NOOP, .opaque = 4});
    return n;
}

static void expect_conversation(uint64_t cas)
{
    answer(c, .opcode = OP_SET, .cas = cas);
    answer(c, .opcode = OP_GETKQ, WITH_EXTRAS("\0\0\0\0"), WITH_KEY("a"), WITH_VALUE("first"), .opaque = 1, .cas = cas);
    answer(c, .opcode = OP_GET, WITH_EXTRAS("\0\0\0\0"), WITH_VALUE("first!"), .opaque = 3, .cas = cas + 1);
    answer(c, .opcode = OP_NOOP, .opaque = 4);
}

Test(binary, any_split_is_the_same)
{
    char all[512];
    size_t n = conversation(all);
    for (size_t cut = 1; cut < n; cut++) {
        client_send_bytes(c, all, cut);
        client_send_bytes(c, all + cut, n - cut);
        expect_conversation(2 * cut - 1);
    }
    for (size_t i = 0; i < n; i++)
        client_send_bytes(c, all + i, 1);
    expect_conversation(2 * n - 1);
}

Test(binary, thousands_of_quiet_gets_closed_by_a_noop)
{
    enum { GETS = 20000 };
    ask(c, .opcode = OP_SETQ, NO_FLAGS, WITH_KEY("a"), WITH_VALUE("xyz"));
    char *all = malloc(GETS * 32);
    size_t n = 0;
    for (uint32_t i = 0; i < GETS; i++)
        n += packet_put(all + n, &(struct packet){.opcode = OP_GETQ, .key = i % 3 ? "b" : "a", .key_bytes = 1, .opaque = i});
    client_send_bytes(c, all, n);
    free(all);
    for (uint32_t i = 0; i < GETS; i += 3)
        answer(c, .opcode = OP_GETQ, WITH_EXTRAS("\0\0\0\0"), WITH_VALUE("xyz"), .opaque = i, .cas = 1);
    expect_nothing_more();
    struct client *t = client_open(server);
    cr_assert_gt(client_stat_u64(t, "", "conn_yields"), 100);
    cr_assert_eq(client_stat_u64(t, "", "cmd_get"), GETS);
    client_close(t);
}

Test(binary, too_large_a_value_is_refused_and_the_old_one_is_gone)
{
    ask(c, .opcode = OP_SETQ, NO_FLAGS, WITH_KEY("a"), WITH_VALUE("small"));
    ask(c, .opcode = OP_SETQ, NO_FLAGS, WITH_KEY("a"), .value = big, .value_bytes = sizeof(big), .opaque = 1);
    answer(c, .opcode = OP_SETQ, TOO_LARGE, .opaque = 1);
    ask(c, .opcode = OP_GET, WITH_KEY("a"));
    answer(c, .opcode = OP_GET, NOT_FOUND);
    ask(c, .opcode = OP_SET, NO_FLAGS, WITH_KEY("a"), .value = big, .value_bytes = sizeof(big) - 200);
    answer(c, .opcode = OP_SET, .cas = 2);
    ask(c, .opcode = OP_APPEND, WITH_KEY("a"), .value = big, .value_bytes = 1000);
    answer(c, .opcode = OP_APPEND, NOT_STORED); /* as memcached says it */
    ask(c, .opcode = OP_GET, WITH_KEY("a"));
    answer(c, .opcode = OP_GET, WITH_EXTRAS("\0\0\0\0"), .value = big, .value_bytes = sizeof(big) - 200, .cas = 2);
}

/* ---- malformed packets ---- */

Test(binary, an_unknown_opcode_is_refused_and_its_body_skipped)
{
    ask(c, .opcode = 0x55, WITH_KEY("key"), WITH_EXTRAS("12"), WITH_VALUE("value"), .opaque = 7);
    answer(c, .opcode = 0x55, UNKNOWN, .opaque = 7);
    ask(c, .opcode = OP_VERBOSITY); /* the level is missing */
    answer(c, .opcode = OP_VERBOSITY, UNKNOWN);
    ask(c, .opcode = OP_SASL_MECHS);
    answer(c, .opcode = OP_SASL_MECHS, UNKNOWN);
    ask(c, .opcode = OP_SASL_AUTH, WITH_KEY("PLAIN"), WITH_VALUE("\0u\0p"));
    answer(c, .opcode = OP_SASL_AUTH, UNKNOWN);
    ask(c, .opcode = OP_FLUSH);
    answer(c, .opcode = OP_FLUSH);
}

/* Each is answered, and ends the connection. */
static void expect_refused(const struct packet *p, bool unknown)
{
    struct client *b = client_open(server);
    struct packet refusal = {.opcode = p->opcode, .opaque = p->opaque, INVALID};
    if (unknown)
        refusal = (struct packet){.opcode = p->opcode, .opaque = p->opaque, UNKNOWN};
    packet_send(b, p);
    packet_expect(b, &refusal);
    client_expect_closed(b);
    client_close(b);
}
#define expect_invalid(...) expect_refused(&(struct packet){__VA_ARGS__}, false)
#define expect_unknown(...) expect_refused(&(struct packet){__VA_ARGS__}, true)

Test(binary, a_body_that_does_not_fit_its_opcode_closes)
{
    expect_invalid(.opcode = OP_GET);
    expect_invalid(.opcode = OP_GET, WITH_KEY("a"), WITH_EXTRAS("1234"));
    expect_invalid(.opcode = OP_GET, WITH_KEY("a"), WITH_VALUE("v"));
    expect_invalid(.opcode = OP_SET, WITH_KEY("a"), WITH_VALUE("v"));
    expect_invalid(.opcode = OP_SET, NO_FLAGS, WITH_VALUE("v"));
    expect_invalid(.opcode = OP_APPEND, WITH_KEY("a"), NO_FLAGS);
    expect_invalid(.opcode = OP_INCR, WITH_KEY("a"), WITH_EXTRAS(ONE));
    expect_invalid(.opcode = OP_DELETE, WITH_KEY("a"), WITH_EXTRAS("1234"));
    expect_invalid(.opcode = OP_TOUCH, WITH_KEY("a"));
    expect_invalid(.opcode = OP_NOOP, WITH_VALUE("v"));
    expect_invalid(.opcode = OP_VERSION, WITH_KEY("a"));
    expect_invalid(.opcode = OP_QUIT, WITH_VALUE("v"));
    expect_invalid(.opcode = OP_FLUSH, NO_FLAGS);
    expect_invalid(.opcode = OP_STAT, WITH_EXTRAS("1234"));
    expect_invalid(.opcode = OP_GET, .key = big, .key_bytes = 251);
    expect_invalid(.opcode = 0x55, .key = big, .key_bytes = 251);
}

Test(binary, another_magic_closes)
{
    ask(c, .opcode = OP_NOOP);
    answer(c, .opcode = OP_NOOP);
    client_send(c, "get a\r\n");
    client_expect_closed(c);
}

/* ---- classes of memcached's published vulnerabilities ---- */

/* CVE-2016-8704, -8705, -8706, CVE-2011-4971: lengths that contradict each other, or turn negative. */
Test(binary, lengths_that_lie_harm_nobody)
{
    expect_unknown(.opcode = OP_GET, WITH_KEY("abc"), .lies = true, .said_key = 3, .said_body = 2);
    expect_unknown(.opcode = OP_SET, WITH_EXTRAS("12345678"), WITH_KEY("abc"), .lies = true, .said_key = 3, .said_extras = 8,
                   .said_body = 10);
    expect_unknown(.opcode = OP_APPEND, WITH_KEY("abc"), .lies = true, .said_key = 3, .said_body = 0);
    expect_unknown(.opcode = OP_PREPENDQ, .key = big, .key_bytes = 0xfa, .lies = true, .said_key = 0xfa, .said_body = 0);
    expect_unknown(.opcode = OP_SASL_AUTH, WITH_KEY("PLAIN"), .lies = true, .said_key = 5, .said_body = 4);
    static const uint32_t bodies[] = {0x7fffffff, 0x80000000, 0xfffffff0, 0xffffffff};
    for (size_t i = 0; i < ARRAY_COUNT(bodies); i++) {
        struct client *b = client_open(server);
        ask(b, .opcode = OP_SET, NO_FLAGS, WITH_KEY("a"), .lies = true, .said_key = 1, .said_extras = 8,
            .said_body = bodies[i]);
        answer(b, .opcode = OP_SET, TOO_LARGE);
        /* the next bytes are the value, with any content */
        ask(b, .opcode = OP_QUIT);
        client_close(b);
        b = client_open(server);
        ask(b, .opcode = OP_APPENDQ, WITH_KEY("a"), .lies = true, .said_key = 1, .said_body = bodies[i]);
        answer(b, .opcode = OP_APPENDQ, TOO_LARGE);
        client_close(b);
    }
    /* a header that announces a large body takes no memory */
    struct client *b = client_open(server);
    ask(b, .opcode = OP_GET, .lies = true, .said_key = 0xffff, .said_extras = 0xff, .said_body = 0xffffffff);
    ask(c, .opcode = OP_NOOP);
    answer(c, .opcode = OP_NOOP);
    client_close(b);
}

/* CVE-2020-10931: more extras than any command has. */
Test(binary, long_extras_overflow_nothing)
{
    for (unsigned opcode = 0; opcode < 256; opcode++) {
        struct client *b = client_open(server);
        ask(b, .opcode = opcode, .extras = big, .extras_bytes = 255, WITH_KEY("a"));
        bool known = opcode <= OP_GATQ || (opcode >= OP_SASL_MECHS && opcode <= OP_GATKQ);
        if (known && opcode != OP_VERBOSITY)
            answer(b, .opcode = opcode, INVALID);
        else
            answer(b, .opcode = opcode, UNKNOWN);
        client_close(b);
    }
}

/* ---- which protocol is spoken ---- */

static void expect_logged(struct server *s, const char *text)
{
    char log[8192];
    FILE *f = fopen(server_log(s), "r");
    cr_assert_not_null(f);
    log[fread(log, 1, sizeof(log) - 1, f)] = '\0';
    fclose(f);
    cr_assert_not_null(strstr(log, text), "%s", log);
}

Test(protocols, auto_takes_both_ascii_and_binary_one)
{
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "1", "-B", "ascii");
    struct client *b = client_open(s);
    ask(b, .opcode = OP_NOOP);
    client_expect_closed(b);
    client_close(b);
    b = client_open(s);
    client_ask(b, "mn\r\n", "MN\r\n");
    cr_assert_eq(client_stat_u64(b, "extant", "binary_rejected"), 1);
    expect_logged(s, "speaks the binary protocol, which is refused: -B auto accepts both");
    client_close(b);
    server_stop(s);
    s = server_spawn(LISTEN_UNIX, "-t", "1", "-B", "binary");
    b = client_open(s);
    client_send(b, "version\r\n");
    client_expect_closed(b);
    expect_logged(s, "speaks the text protocol, which is refused: -B auto accepts both");
    client_close(b);
    b = client_open(s);
    ask(b, .opcode = OP_NOOP);
    answer(b, .opcode = OP_NOOP);
    client_close(b);
    server_stop(s);
}

Test(protocols, without_cas_there_is_nothing_to_compare)
{
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "1", "-C");
    struct client *b = client_open(s);
    ask(b, .opcode = OP_SET, NO_FLAGS, WITH_KEY("a"), WITH_VALUE("1"), .cas = 77);
    answer(b, .opcode = OP_SET);
    ask(b, .opcode = OP_GET, WITH_KEY("a"));
    answer(b, .opcode = OP_GET, WITH_EXTRAS("\0\0\0\0"), WITH_VALUE("1"));
    client_close(b);
    server_stop(s);
}

Test(protocols, flush_that_is_switched_off_is_denied)
{
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "1", "-F");
    struct client *b = client_open(s);
    ask(b, .opcode = OP_FLUSHQ);
    answer(b, .opcode = OP_FLUSHQ, .status = 0x20, WITH_VALUE("Auth failure."));
    client_close(b);
    server_stop(s);
}

/* ---- SASL ---- */

static struct server *guarded;

static void open_guarded(void)
{
    char path[] = "/tmp/extant-users-XXXXXX";
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, "foo:bar\nlong name:p:w\n", 22), 22);
    close(fd);
    guarded = server_spawn(LISTEN_UNIX, "-t", "1", "-S", "-Y", path);
    unlink(path);
    c = client_open(guarded);
}

static void close_guarded(void)
{
    client_close(c);
    server_stop(guarded);
}

TestSuite(sasl, .init = open_guarded, .fini = close_guarded);

#define PLAIN WITH_KEY("PLAIN")
#define AUTH_FAILURE .status = 0x20, WITH_VALUE("Auth failure.")
#define AUTHENTICATED WITH_VALUE("Authenticated")

static void again(void)
{
    client_close(c);
    c = client_open(guarded);
}

/* Either the connection may send commands, or it is closed. */
static void expect_let_in(void)
{
    ask(c, .opcode = OP_NOOP);
    answer(c, .opcode = OP_NOOP);
}

static void expect_shut_out(void)
{
    ask(c, .opcode = OP_NOOP);
    answer(c, .opcode = OP_NOOP, AUTH_FAILURE);
    client_expect_closed(c);
    again();
}

Test(sasl, plain_admits_users_of_the_file)
{
    ask(c, .opcode = OP_SASL_MECHS);
    answer(c, .opcode = OP_SASL_MECHS, WITH_VALUE("PLAIN"));
    ask(c, .opcode = OP_SASL_AUTH, PLAIN, WITH_VALUE("\0foo\0bar"));
    answer(c, .opcode = OP_SASL_AUTH, AUTHENTICATED);
    ask(c, .opcode = OP_SET, NO_FLAGS, WITH_KEY("a"), WITH_VALUE("v"));
    answer(c, .opcode = OP_SET, .cas = 1);
    again();
    ask(c, .opcode = OP_SASL_AUTH, WITH_KEY("plain"), WITH_VALUE("long name\0long name\0p:w"));
    answer(c, .opcode = OP_SASL_AUTH, AUTHENTICATED);
    expect_let_in();
}

Test(sasl, nothing_else_works_before_a_log_in)
{
    for (unsigned opcode = 0; opcode < 256; opcode++) {
        if (opcode == OP_VERSION || (opcode >= OP_SASL_MECHS && opcode <= OP_SASL_STEP))
            continue;
        ask(c, .opcode = opcode, NO_FLAGS, WITH_KEY("a"), WITH_VALUE("v"), .opaque = opcode);
        answer(c, .opcode = opcode, AUTH_FAILURE, .opaque = opcode);
        client_expect_closed(c);
        again();
    }
    ask(c, .opcode = OP_VERSION);
    answer(c, .opcode = OP_VERSION, WITH_VALUE(MEMCACHED_LEVEL));
    ask(c, .opcode = OP_GET, .key = big, .key_bytes = 251);
    answer(c, .opcode = OP_GET, AUTH_FAILURE);
    client_expect_closed(c);
    again();
    client_send(c, "set a 0 0 7\r\nfoo bar\r\n"); /* only -Y takes that */
    client_expect_closed(c);
}

Test(sasl, what_is_wrong_fails)
{
    static const struct packet wrong[] = {
        {.opcode = OP_SASL_AUTH, PLAIN, WITH_VALUE("\0foo\0baz")},
        {.opcode = OP_SASL_AUTH, PLAIN, WITH_VALUE("\0foo\0ba")},
        {.opcode = OP_SASL_AUTH, PLAIN, WITH_VALUE("\0foo\0barr")},
        {.opcode = OP_SASL_AUTH, PLAIN, WITH_VALUE("\0foo\0")},
        {.opcode = OP_SASL_AUTH, PLAIN, WITH_VALUE("\0\0bar")},
        {.opcode = OP_SASL_AUTH, PLAIN, WITH_VALUE("\0foo\0bar\0")},
        {.opcode = OP_SASL_AUTH, PLAIN, WITH_VALUE("\0foo\0bar\nlong name")},
        {.opcode = OP_SASL_AUTH, PLAIN, WITH_VALUE("foo bar")},
        {.opcode = OP_SASL_AUTH, PLAIN, WITH_VALUE("other\0foo\0bar")},
        {.opcode = OP_SASL_AUTH, WITH_KEY("CRAM-MD5"), WITH_VALUE("\0foo\0bar")},
        {.opcode = OP_SASL_AUTH, PLAIN, .value = big, .value_bytes = 17000},
        {.opcode = OP_SASL_STEP, PLAIN, WITH_VALUE("\0foo\0bar")}, /* a step without a start */
    };
    for (size_t i = 0; i < ARRAY_COUNT(wrong); i++) {
        packet_send(c, &wrong[i]);
        answer(c, .opcode = wrong[i].opcode, AUTH_FAILURE);
        expect_shut_out();
    }
    ask(c, .opcode = OP_SASL_AUTH, WITH_KEY("a mechanism of more than 32 bytes"), WITH_VALUE("\0foo\0bar"));
    answer(c, .opcode = OP_SASL_AUTH, INVALID);
    expect_shut_out();
    ask(c, .opcode = OP_SASL_AUTH, PLAIN, WITH_VALUE("\0foo\0bar"));
    answer(c, .opcode = OP_SASL_AUTH, AUTHENTICATED);
    char name[2048], value[2048];
    unsigned seen = 0;
    ask(c, .opcode = OP_STAT);
    while (read_stat(name, value, sizeof(name)))
        seen += (strcmp(name, "auth_cmds") == 0 && strcmp(value, "13") == 0) ||
                (strcmp(name, "auth_errors") == 0 && strcmp(value, "12") == 0);
    cr_assert_eq(seen, 2);
}

/* CVE-2013-7239: a client stayed logged in after a failed attempt. */
Test(sasl, each_attempt_forgets_the_last)
{
    ask(c, .opcode = OP_SASL_AUTH, PLAIN, WITH_VALUE("\0foo\0bar"));
    answer(c, .opcode = OP_SASL_AUTH, AUTHENTICATED);
    expect_let_in();
    ask(c, .opcode = OP_SASL_AUTH, PLAIN, WITH_VALUE("\0foo\0baz"));
    answer(c, .opcode = OP_SASL_AUTH, AUTH_FAILURE);
    expect_shut_out();
    ask(c, .opcode = OP_SASL_AUTH, PLAIN, WITH_VALUE("\0foo\0bar"));
    answer(c, .opcode = OP_SASL_AUTH, AUTHENTICATED);
    ask(c, .opcode = OP_SASL_STEP, PLAIN, WITH_VALUE("\0foo\0baz"));
    answer(c, .opcode = OP_SASL_STEP, AUTH_FAILURE);
    expect_shut_out();
    ask(c, .opcode = OP_SASL_AUTH, PLAIN, WITH_VALUE("\0foo\0bar"));
    answer(c, .opcode = OP_SASL_AUTH, AUTHENTICATED);
    ask(c, .opcode = OP_SASL_MECHS); /* begins a log-in, in memcached too */
    answer(c, .opcode = OP_SASL_MECHS, WITH_VALUE("PLAIN"));
    expect_shut_out();
}

Test(sasl, the_name_may_come_with_the_next_step)
{
    ask(c, .opcode = OP_SASL_AUTH, PLAIN);
    answer(c, .opcode = OP_SASL_AUTH, .status = 0x21);
    ask(c, .opcode = OP_SASL_STEP, PLAIN, WITH_VALUE("\0foo\0baz"));
    answer(c, .opcode = OP_SASL_STEP, AUTH_FAILURE);
    ask(c, .opcode = OP_SASL_STEP, PLAIN, WITH_VALUE("\0foo\0bar"));
    answer(c, .opcode = OP_SASL_STEP, AUTHENTICATED);
    expect_let_in();
    struct client *other = client_open(guarded); /* the connection has logged in */
    ask(other, .opcode = OP_NOOP);
    answer(other, .opcode = OP_NOOP, AUTH_FAILURE);
    client_close(other);
}

Test(sasl, too_many_failures_are_refused_for_a_while)
{
    for (unsigned i = 0; i < 20; i++) {
        ask(c, .opcode = OP_SASL_AUTH, PLAIN, WITH_VALUE("\0foo\0baz"));
        answer(c, .opcode = OP_SASL_AUTH, AUTH_FAILURE);
    }
    ask(c, .opcode = OP_SASL_AUTH, PLAIN, WITH_VALUE("\0foo\0bar"));
    answer(c, .opcode = OP_SASL_AUTH, AUTH_FAILURE);
    again();
    ask(c, .opcode = OP_SASL_AUTH, PLAIN, WITH_VALUE("\0foo\0bar"));
    answer(c, .opcode = OP_SASL_AUTH, AUTH_FAILURE);
    expect_logged(guarded, "log-in of unix:");
}

/* ---- flash ---- */

static void flash_one(const char *key, const char *value, size_t bytes)
{
    ask(c, .opcode = OP_SETQ, FLAGS_EXPIRY("\0\0\0\7", "\0\0\0\0"), .key = key, .key_bytes = strlen(key), .value = value,
        .value_bytes = bytes);
    expect_nothing_more();
}

static bool all_on_flash(struct client *t)
{
    return client_stat_u64(t, "extant", "ram_items") == 0;
}

Test(binary_flash, values_from_flash_in_order)
{
    char value[4000];
    struct client *t = client_open(server);
    memset(value, 'v', sizeof(value));
    flash_one("a", value, 100);
    flash_one("b", value, sizeof(value));
    flash_one("c", value, 2000);
    cr_assert(wait_until(all_on_flash(t), HARNESS_ANSWER_MS));
    uint64_t reads = client_stat_u64(t, "", "get_extstore");
    char all[512];
    size_t n = 0;
    n += packet_put(all + n, &(struct packet){.opcode = OP_GETK, WITH_KEY("b"), .opaque = 1});
    n += packet_put(all + n, &(struct packet){.opcode = OP_GETQ, WITH_KEY("none"), .opaque = 2});
    n += packet_put(all + n, &(struct packet){.opcode = OP_GETKQ, WITH_KEY("a"), .opaque = 3});
    n += packet_put(all + n, &(struct packet){.opcode = OP_TOUCH, WITH_EXTRAS("\0\0\1\0"), WITH_KEY("c"), .opaque = 4});
    n += packet_put(all + n, &(struct packet){.opcode = OP_GAT, WITH_EXTRAS("\0\0\0\0"), WITH_KEY("c"), .opaque = 5});
    n += packet_put(all + n, &(struct packet){.opcode = OP_APPEND, WITH_KEY("a"), WITH_VALUE("!"), .opaque = 6});
    n += packet_put(all + n, &(struct packet){.opcode = OP_DELETE, WITH_KEY("b"), .opaque = 7});
    n += packet_put(all + n, &(struct packet){.opcode = OP_GETKQ, WITH_KEY("b"), .opaque = 8});
    n += packet_put(all + n, &(struct packet){.opcode = OP_GETK, WITH_KEY("b"), .opaque = 9});
    n += packet_put(all + n, &(struct packet){.opcode = OP_NOOP, .opaque = 10});
    client_send_bytes(c, all, n);
    answer(c, .opcode = OP_GETK, WITH_EXTRAS("\0\0\0\7"), WITH_KEY("b"), .value = value, .value_bytes = sizeof(value),
           .opaque = 1, .cas = 2);
    answer(c, .opcode = OP_GETKQ, WITH_EXTRAS("\0\0\0\7"), WITH_KEY("a"), .value = value, .value_bytes = 100, .opaque = 3,
           .cas = 1);
    answer(c, .opcode = OP_TOUCH, WITH_EXTRAS("\0\0\0\7"), .opaque = 4, .cas = 3);
    answer(c, .opcode = OP_GAT, WITH_EXTRAS("\0\0\0\7"), .value = value, .value_bytes = 2000, .opaque = 5, .cas = 3);
    answer(c, .opcode = OP_APPEND, .opaque = 6, .cas = 4);
    answer(c, .opcode = OP_DELETE, .opaque = 7);
    answer(c, .opcode = OP_GETK, .status = 1, WITH_KEY("b"), .opaque = 9);
    answer(c, .opcode = OP_NOOP, .opaque = 10);
    cr_assert_geq(client_stat_u64(t, "", "get_extstore"), reads + 2);
    client_close(t);
}

Test(binary_flash, a_pipeline_of_quiet_gets_from_flash)
{
    enum { KEYS = 2000, VALUE = 1000 };
    char key[16], value[VALUE];
    struct client *t = client_open(server);
    for (unsigned i = 0; i < KEYS; i++) {
        memset(value, 'a' + (int)(i % 26), sizeof(value));
        snprintf(key, sizeof(key), "key%u", i);
        ask(c, .opcode = OP_SETQ, FLAGS_EXPIRY("\0\0\0\7", "\0\0\0\0"), .key = key, .key_bytes = strlen(key),
            .value = value, .value_bytes = sizeof(value));
    }
    expect_nothing_more();
    cr_assert(wait_until(all_on_flash(t), HARNESS_ANSWER_MS));
    char *all = malloc(2 * KEYS * 64);
    size_t n = 0;
    for (unsigned i = 0; i < KEYS; i++) {
        snprintf(key, sizeof(key), "key%u", i);
        n += packet_put(all + n, &(struct packet){.opcode = OP_GETKQ, .key = key, .key_bytes = strlen(key), .opaque = i});
        n += packet_put(all + n, &(struct packet){.opcode = OP_GETKQ, WITH_KEY("none"), .opaque = i});
    }
    client_send_bytes(c, all, n);
    free(all);
    for (unsigned i = 0; i < KEYS; i++) {
        memset(value, 'a' + (int)(i % 26), sizeof(value));
        snprintf(key, sizeof(key), "key%u", i);
        answer(c, .opcode = OP_GETKQ, WITH_EXTRAS("\0\0\0\7"), .key = key, .key_bytes = strlen(key), .value = value,
               .value_bytes = sizeof(value), .opaque = i, .cas = i + 1);
    }
    expect_nothing_more();
    cr_assert_geq(client_stat_u64(t, "", "get_extstore"), KEYS);
    client_close(t);
}

/* CVE-2011-4971's kin: an append to a value that is as large as one may be. */
Test(binary_flash, an_append_beyond_the_largest_value_leaves_it_alone)
{
    struct client *t = client_open(server);
    memset(big, 'x', sizeof(big));
    flash_one("a", big, sizeof(big) - 200);
    cr_assert(wait_until(all_on_flash(t), HARNESS_ANSWER_MS));
    ask(c, .opcode = OP_APPEND, WITH_KEY("a"), .value = big, .value_bytes = 1000);
    answer(c, .opcode = OP_APPEND, NOT_STORED);
    ask(c, .opcode = OP_PREPENDQ, WITH_KEY("a"), .value = big, .value_bytes = sizeof(big) - 200);
    answer(c, .opcode = OP_PREPENDQ, NOT_STORED);
    ask(c, .opcode = OP_GET, WITH_KEY("a"));
    answer(c, .opcode = OP_GET, WITH_EXTRAS("\0\0\0\7"), .value = big, .value_bytes = sizeof(big) - 200, .cas = 1);
    client_close(t);
}
