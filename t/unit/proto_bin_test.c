/* proto_bin_test.c: packets in, requests out, and the packets that answer them, byte for byte. What the fuzzer
 * checks for arbitrary bytes isn't repeated here (t/fuzz/fuzz_bin.c). */
#include <criterion/criterion.h>

#include "proto/bin.h"
#include "t/aid/packets.h"

static char buf[1024];
static size_t len, consumed;
static struct request req;

static enum parse_result parse(const struct packet *p)
{
    len = packet_put(buf, p);
    return proto_parse_bin(buf, len, &consumed, &req);
}
#define PARSE(...) parse(&(struct packet){__VA_ARGS__})

static void expect_bytes(const char *got, size_t got_len, const struct packet *wanted)
{
    char bytes[1024];
    struct packet answer = *wanted;
    answer.magic = 0x81;
    size_t n = packet_put(bytes, &answer);
    cr_assert_eq(got_len, n);
    cr_assert_arr_eq(got, bytes, n);
}
#define EXPECT(...) expect_bytes(out, n, &(struct packet){__VA_ARGS__})

Test(bin, each_opcode_is_its_verb_and_its_shape)
{
    static const struct {
        enum verb verb;
        bool quiet;
    } wanted[256] = {
#define X(opcode, verb, extras, shape) [opcode] = {verb, (shape) & BIN_QUIET},
        BIN_TABLE(X)
#undef X
    };
    static const unsigned extras[256] = {
#define X(opcode, verb, extras, shape) [opcode] = extras,
        BIN_TABLE(X)
#undef X
    };
    static const unsigned shapes[256] = {
#define X(opcode, verb, extras, shape) [opcode] = (shape) | 1u << 15,
        BIN_TABLE(X)
#undef X
    };
    static const char zeros[32];
    for (unsigned i = 0; i < 256; i++) {
        struct packet p = {.opcode = i, .extras = zeros, .extras_bytes = extras[i], .opaque = 0x01020304};
        if (shapes[i] & BIN_KEY)
            p.key = "k", p.key_bytes = 1;
        if (!shapes[i]) {
            cr_assert_eq(parse(&p), PARSE_ERROR);
            cr_assert_eq(req.error, REPLY_UNKNOWN_COMMAND);
            cr_assert_not(req.close_after);
            continue;
        }
        bool is_stat = wanted[i].verb == VERB_STATS; /* k is nothing that it tells */
        cr_assert_eq(parse(&p), is_stat ? PARSE_ERROR : PARSE_OK, "%x", i);
        cr_assert_eq(req.verb, wanted[i].verb);
        cr_assert_eq(req.noreply, wanted[i].quiet);
        cr_assert_eq(req.bin.opcode, i);
        cr_assert_eq(memcmp(&req.bin.opaque, "\1\2\3\4", 4), 0);
        p.extras_bytes++;
        cr_assert_eq(parse(&p), PARSE_ERROR);
        bool unknown = shapes[i] & BIN_ELSE_UNKNOWN;
        cr_assert_eq(req.error, unknown ? REPLY_UNKNOWN_COMMAND : REPLY_BAD_ARGUMENTS);
        cr_assert_eq(req.close_after, !unknown);
    }
}

Test(bin, numbers_are_in_network_order)
{
    cr_assert_eq(PARSE(.opcode = OP_SET, WITH_EXTRAS("\1\2\3\4\0\0\1\2"), WITH_KEY("key"), WITH_VALUE("value"),
                       .cas = 0x0102030405060708),
                 PARSE_OK);
    cr_assert_eq(req.client_flags, 0x01020304);
    cr_assert_eq(req.exptime, 0x0102);
    cr_assert_eq(req.cas, 0x0102030405060708);
    cr_assert(req.with_cas);
    cr_assert_eq(req.value_bytes, 5);
    cr_assert_eq(consumed, 24 + 8 + 3);
    cr_assert_eq(PARSE(.opcode = OP_INCR, WITH_EXTRAS("\1\2\3\4\5\6\7\10\0\0\0\0\0\0\0\11\0\0\0\12"), WITH_KEY("n")),
                 PARSE_OK);
    cr_assert_eq(req.delta, 0x0102030405060708);
    cr_assert_eq(req.initial, 9);
    cr_assert_eq(req.exptime, 10);
    cr_assert(req.makes_number);
    cr_assert_eq(PARSE(.opcode = OP_INCR, WITH_EXTRAS("\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\11\xff\xff\xff\xff"), WITH_KEY("n")),
                 PARSE_OK);
    cr_assert_not(req.makes_number);
    cr_assert_eq(PARSE(.opcode = OP_TOUCH, WITH_EXTRAS("\xff\xff\xff\xff"), WITH_KEY("n")), PARSE_OK);
    cr_assert_eq(req.exptime, INT32_MAX); /* there is no "at once" in it */
    cr_assert(req.without_value);
    cr_assert_eq(PARSE(.opcode = OP_FLUSH, WITH_EXTRAS("\0\0\0\7")), PARSE_OK);
    cr_assert_eq(req.exptime, 7);
    cr_assert_eq(PARSE(.opcode = OP_VERBOSITY, WITH_EXTRAS("\0\0\0\2")), PARSE_OK);
    cr_assert_eq(req.number, 2);
}

Test(bin, a_key_is_one_key_whatever_is_in_it)
{
    cr_assert_eq(PARSE(.opcode = OP_GETK, WITH_KEY("a b\r\n\0c")), PARSE_OK);
    const char *key;
    uint32_t key_len;
    cr_assert_eq(proto_next_key(&req.keys, &key, &key_len), 1);
    cr_assert_eq(key_len, 7);
    cr_assert_arr_eq(key, "a b\r\n\0c", 7);
    cr_assert_eq(proto_next_key(&req.keys, &key, &key_len), 0);
}

Test(bin, the_words_of_stat)
{
    cr_assert_eq(PARSE(.opcode = OP_STAT), PARSE_OK);
    cr_assert_eq(req.token_count, 1);
    cr_assert_eq(PARSE(.opcode = OP_STAT, WITH_KEY("detail dump")), PARSE_OK);
    cr_assert(proto_token_is(&req, 1, "detail") && proto_token_is(&req, 2, "dump"));
    cr_assert_eq(PARSE(.opcode = OP_STAT, WITH_KEY("settings and more")), PARSE_OK);
    cr_assert(proto_token_is(&req, 1, "settings"));
    static const char *const none[] = {"s", "itemsx", "cachedump 1 1", "detail", "detail x", "conns", "extstore"};
    for (size_t i = 0; i < ARRAY_COUNT(none); i++) {
        cr_assert_eq(PARSE(.opcode = OP_STAT, .key = none[i], .key_bytes = strlen(none[i])), PARSE_ERROR);
        cr_assert_eq(req.error, REPLY_NOT_FOUND);
        cr_assert_not(req.close_after);
    }
}

Test(bin, a_log_in_is_looked_at_when_it_is_all_there)
{
    cr_assert_eq(PARSE(.opcode = OP_SASL_AUTH, WITH_KEY("PLAIN"), WITH_VALUE("\0u\0p")), PARSE_OK);
    cr_assert_eq(consumed, len);
    cr_assert_eq(req.tokens[0].len, 4);
    cr_assert_arr_eq(req.tokens[0].ptr, "\0u\0p", 4);
    cr_assert_eq(proto_parse_bin(buf, len - 1, &consumed, &req), PARSE_NEED_MORE);
    cr_assert_eq(consumed, 0);
}

Test(bin, what_comes_next_is_seen_before_it_is_parsed)
{
    const char *key;
    uint64_t bytes;
    len = packet_put(buf, &(struct packet){.opcode = OP_SET, WITH_EXTRAS("12345678"), WITH_KEY("key"), WITH_VALUE("v")});
    cr_assert_eq(proto_peek_bin(buf, len, &key, &bytes), 3);
    cr_assert_eq(key, buf + 32);
    cr_assert_eq(bytes, len);
    cr_assert_eq(proto_peek_bin(buf, 34, &key, &bytes), 0);
    cr_assert_eq(bytes, len);
    cr_assert_eq(proto_peek_bin(buf, 23, &key, &bytes), 0);
    cr_assert_eq(bytes, 0);
}

Test(bin, answers)
{
    char out[1024];
    bool with_value;
    PARSE(.opcode = OP_GETK, WITH_KEY("k"), .opaque = 7);
    size_t n = proto_put_bin_hit(out, &req, "k", 1, 0x01020304, 3, 9, &with_value);
    cr_assert(with_value);
    memcpy(out + n, "abc", 3);
    n += 3;
    EXPECT(.opcode = OP_GETK, WITH_EXTRAS("\1\2\3\4"), WITH_KEY("k"), WITH_VALUE("abc"), .opaque = 7, .cas = 9);
    n = proto_put_bin_miss(out, &req, "k", 1);
    EXPECT(.opcode = OP_GETK, .status = 1, WITH_KEY("k"), .opaque = 7);
    n = proto_put_bin_stat(out, &req, "name", 0);
    EXPECT(.opcode = OP_GETK, WITH_KEY("name"), .opaque = 7);
    PARSE(.opcode = OP_INCR, WITH_EXTRAS("\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\1\0\0\0\0"), WITH_KEY("k"));
    n = proto_put_bin_number(out, &req, 258, 9);
    EXPECT(.opcode = OP_INCR, WITH_VALUE("\0\0\0\0\0\0\1\2"), .cas = 9);
    n = proto_put_bin_reply(out, &req, REPLY_NON_NUMERIC);
    EXPECT(.opcode = OP_INCR, .status = 6, WITH_VALUE("Non-numeric server-side value for incr or decr"));
    PARSE(.opcode = OP_SETQ, WITH_EXTRAS("12345678"), WITH_KEY("k"));
    cr_assert_eq(proto_put_bin_done(out, &req, 9), 0);
    cr_assert_eq(proto_put_bin_reply(out, &req, REPLY_STORED), 0);
    n = proto_put_bin_reply(out, &req, REPLY_EXISTS);
    EXPECT(.opcode = OP_SETQ, .status = 2, WITH_VALUE("Data exists for key."));
    n = proto_put_bin_reply(out, &req, REPLY_BAD_CHUNK); /* of no packet: what has no status is invalid */
    EXPECT(.opcode = OP_SETQ, .status = 4, WITH_VALUE("Invalid arguments"));
}
