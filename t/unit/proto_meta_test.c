/* proto_meta_test.c: meta commands in, their requests and reply lines out; base64. Each test
 * holds one claim; texts are compared byte for byte. */
#include <criterion/criterion.h>

#include "proto/base64.h"
#include "proto/meta.h"
#include "proto/text.h"

static struct request req;
static size_t consumed;

static enum parse_result parse(const char *line)
{
    return proto_parse_line(line, strlen(line), &consumed, &req);
}

static void expect_ok(const char *line, enum verb verb)
{
    cr_assert_eq(parse(line), PARSE_OK, "not accepted: %s", line);
    cr_assert_eq(req.verb, verb, "wrong verb: %s", line);
}

static void expect_error(const char *line, const char *text, uint64_t swallow)
{
    size_t len;
    cr_assert_eq(parse(line), PARSE_ERROR, "not refused: %s", line);
    const char *reply = reply_line(req.error, &len);
    cr_assert_eq(len, strlen(text) + 2, "%s -> %s", line, reply);
    cr_assert_eq(memcmp(reply, text, len - 2), 0, "%s -> %s", line, reply);
    cr_assert_eq(req.swallow_bytes, swallow, "%s", line);
    cr_assert_not(req.noreply);
}

static const char bad_format[] = "CLIENT_ERROR bad command line format";

/* A line with %K replaced by a key of n bytes. */
static const char *with_key(const char *line, size_t n)
{
    static char text[4096];
    const char *mark = strstr(line, "%K");
    size_t before = (size_t)(mark - line);
    memcpy(text, line, before);
    memset(text + before, 'k', n);
    strcpy(text + before + n, mark + 2);
    return text;
}

static bool key_is(const char *key)
{
    return req.key_len == strlen(key) && memcmp(req.key, key, req.key_len) == 0;
}

static void expect_reply(const struct meta_reply *reply, const char *text)
{
    char out[PROTO_META_REPLY_MAX + 1];
    size_t len = proto_put_meta_reply(out, &req, reply);
    out[len] = '\0';
    cr_assert_str_eq(out, text);
}

/* A reply with a value for every flag. */
static struct meta_reply full_reply(enum meta_status status)
{
    return (struct meta_reply){.status = status,
                               .hit_before = true,
                               .value_bytes = 5,
                               .client_flags = 7,
                               .idle_sec = 9,
                               .ttl_sec = 60,
                               .cas = 11,
                               .key = "foo",
                               .key_len = 3};
}

/* ---- the common part ---- */

Test(parse, a_key_and_no_flags)
{
    expect_ok("mg foo\r\n", VERB_MG);
    cr_assert(key_is("foo"));
    cr_assert_eq(req.meta.flags, 0);
    cr_assert_eq(req.meta.echo_count, 0);
}

Test(parse, mn_ignores_what_follows)
{
    expect_ok("mn\r\n", VERB_MN);
    expect_ok("mn $ foo v v\r\n", VERB_MN);
}

Test(parse, every_flag_of_the_table_is_accepted_by_every_command)
{
    static const char *const starts[] = {"mg k", "ms k 1", "md k", "ma k"};
    static const struct {
        char letter;
        enum meta_arg arg;
    } flags[] = {
#define X(letter, arg, echo, help) {letter, arg},
        META_FLAG_TABLE(X)
#undef X
    };
    for (unsigned s = 0; s < ARRAY_COUNT(starts); s++)
        for (unsigned f = 0; f < ARRAY_COUNT(flags); f++) {
            if (flags[f].letter == 'b' || flags[f].letter == 'M')
                continue;
            char line[64];
            snprintf(line, sizeof(line), "%s %c%s\r\n", starts[s], flags[f].letter,
                     flags[f].arg == META_ARG_NONE ? "" : "1");
            cr_assert_eq(parse(line), PARSE_OK, "%s", line);
            cr_assert_eq(req.meta.flags, META_FLAG(flags[f].letter), "%s", line);
        }
}

Test(parse, an_argument_of_a_flag_without_one_is_ignored)
{
    expect_ok("mg foo v123 kxyz\r\n", VERB_MG);
    cr_assert(meta_has(&req, 'v') && meta_has(&req, 'k'));
}

Test(parse, all_arguments)
{
    expect_ok("ms foo 10 T30 N60 R90 F8 C1 E2 J3 D4\r\n", VERB_MS);
    cr_assert_eq(req.value_bytes, 10);
    cr_assert_eq(req.exptime, 30);
    cr_assert_eq(req.meta.vivify_ttl, 60);
    cr_assert_eq(req.meta.recache_ttl, 90);
    cr_assert_eq(req.client_flags, 8);
    cr_assert_eq(req.cas, 1);
    cr_assert_eq(req.meta.cas_new, 2);
    cr_assert_eq(req.meta.initial, 3);
    cr_assert_eq(req.delta, 4);
}

Test(parse, nothing_is_left_of_the_request_before)
{
    expect_ok("ms foo 10 T30 N60 F8 C1 E2 J3 D4 k O1 MA\r\n", VERB_MS);
    expect_ok("ma foo\r\n", VERB_MA);
    cr_assert_eq(req.value_bytes, 0);
    cr_assert_eq(req.exptime, 0);
    cr_assert_eq(req.meta.vivify_ttl, 0);
    cr_assert_eq(req.client_flags, 0);
    cr_assert_eq(req.cas, 0);
    cr_assert_eq(req.meta.cas_new, 0);
    cr_assert_eq(req.meta.initial, 0);
    cr_assert_eq(req.delta, 1);
    cr_assert_eq(req.meta.mode, 'I');
    cr_assert_eq(req.meta.echo_count, 0);
    cr_assert_eq(req.meta.opaque.len, 0);
}

Test(parse, noreply_is_not_a_word_of_meta_commands)
{
    expect_error("mg k noreply\r\n", "CLIENT_ERROR invalid flag", 0);
    cr_assert_not(req.noreply);
}

Test(parse, negative_ttls)
{
    expect_ok("mg k T-1 N-2 R-3\r\n", VERB_MG);
    cr_assert_eq(req.exptime, -1);
    cr_assert_eq(req.meta.vivify_ttl, -2);
    cr_assert_eq(req.meta.recache_ttl, -3);
}

/* ---- errors ---- */

Test(error, unknown_flag)
{
    expect_error("mg k z\r\n", "CLIENT_ERROR invalid flag", 0);
    expect_error("mg k S100\r\n", "CLIENT_ERROR invalid flag", 0);
    expect_error("mg k 5\r\n", "CLIENT_ERROR invalid flag", 0);
    expect_error("md k ^\r\n", "CLIENT_ERROR invalid flag", 0);
}

Test(error, a_flag_that_cannot_be_one_is_badly_formatted)
{
    expect_error("mg k $\r\n", bad_format, 0);
    expect_error("mg k v {\r\n", bad_format, 0);
    expect_error("mg k \xff\r\n", bad_format, 0);
    expect_error("ms k 5 -\r\n", bad_format, 0);
    expect_error("ma k @\r\n", bad_format, 0);
    expect_error("me k $\r\n", bad_format, 0);
}

Test(error, duplicate_flag)
{
    expect_error("mg k v v\r\n", "CLIENT_ERROR duplicate flag", 0);
    expect_error("mg k T1 v T2\r\n", "CLIENT_ERROR duplicate flag", 0);
}

Test(error, the_first_of_unknown_and_duplicate_wins)
{
    expect_error("mg k v z v\r\n", "CLIENT_ERROR invalid flag", 0);
    expect_error("mg k v v z\r\n", "CLIENT_ERROR duplicate flag", 0);
}

Test(error, bad_argument)
{
    static const char *const flags[] = {"T", "Tx", "N", "Nx", "R1x", "Cx", "E", "E-1",
                                        "T9223372036854775808"};
    for (unsigned i = 0; i < ARRAY_COUNT(flags); i++) {
        char line[64];
        snprintf(line, sizeof(line), "mg k %s v\r\n", flags[i]);
        expect_error(line, "CLIENT_ERROR bad token in command line format", 0);
    }
}

Test(error, bad_numbers_of_ma_have_their_own_words_elsewhere)
{
    expect_error("mg k Jx\r\n", "CLIENT_ERROR invalid numeric initial value", 0);
    expect_error("ms k 5 D-1\r\n", "CLIENT_ERROR invalid numeric delta value", 7);
}

Test(error, bad_client_flags_are_badly_formatted)
{
    expect_error("mg k Fx\r\n", bad_format, 0);
}

Test(error, of_bad_arguments_the_last_is_told)
{
    expect_error("mg !! b Tx\r\n", "CLIENT_ERROR bad token in command line format", 0);
    expect_error("mg !! Tx b\r\n", "CLIENT_ERROR error decoding key", 0);
}

Test(error, unknown_flags_win_over_bad_arguments)
{
    expect_error("mg k Tx z\r\n", "CLIENT_ERROR invalid flag", 0);
}

Test(error, twenty_tokens_are_enough)
{
    expect_ok("mg Zm9v b c f h l q s t u v x C1 D1 E1 F1 I J1 L\r\n", VERB_MG);
    expect_error("mg Zm9v b c f h l q s t u v x C1 D1 E1 F1 I J1 L P\r\n",
                 "CLIENT_ERROR options flags are too long", 0);
}

Test(error, a_long_key)
{
    expect_ok(with_key("mg %K v\r\n", 250), VERB_MG);
    expect_error(with_key("mg %K v\r\n", 251), bad_format, 0);
    expect_error(with_key("md %K\r\n", 251), bad_format, 0);
    expect_error(with_key("me %K\r\n", 251), bad_format, 0);
}

Test(error, a_long_key_is_told_before_bad_flags)
{
    expect_error(with_key("mg %K z\r\n", 251), bad_format, 0);
}

Test(opaque, is_kept_with_its_letter)
{
    expect_ok("mg k Oabc\r\n", VERB_MG);
    cr_assert_eq(req.meta.opaque.len, 4);
    cr_assert_eq(memcmp(req.meta.opaque.ptr, "Oabc", 4), 0);
}

Test(opaque, may_have_31_bytes_of_payload)
{
    expect_ok("mg k O1234567890123456789012345678901\r\n", VERB_MG);
    expect_error("mg k O12345678901234567890123456789012\r\n",
                 "CLIENT_ERROR opaque token too long", 0);
}

/* ---- base64 keys ---- */

Test(binary_key, is_decoded)
{
    expect_ok("mg AAEC/w== b\r\n", VERB_MG);
    cr_assert(req.key_is_binary);
    cr_assert_eq(req.key_len, 4);
    cr_assert_eq(memcmp(req.key, "\0\1\2\xff", 4), 0);
}

Test(binary_key, without_the_flag_is_a_plain_key)
{
    expect_ok("mg AAEC/w== v\r\n", VERB_MG);
    cr_assert_not(req.key_is_binary);
    cr_assert(key_is("AAEC/w=="));
}

Test(binary_key, that_is_no_base64)
{
    expect_error("mg !! b\r\n", "CLIENT_ERROR error decoding key", 0);
    expect_error("mg abc b\r\n", "CLIENT_ERROR error decoding key", 0);
    expect_error("mg A=== b\r\n", "CLIENT_ERROR error decoding key", 0);
}

Test(binary_key, survives_a_copy_of_the_request)
{
    struct request copy;
    expect_ok("mg Zm9v b\r\n", VERB_MG);
    proto_request_copy(&copy, &req);
    memset(&req, 0, sizeof(req));
    cr_assert_eq(copy.key, copy.key_buf);
    cr_assert_eq(memcmp(copy.key, "foo", 3), 0);
}

Test(binary_key, of_250_letters)
{
    char line[300] = "mg ";
    memset(line + 3, 'A', 248);
    strcpy(line + 251, " b\r\n");
    expect_ok(line, VERB_MG);
    cr_assert_eq(req.key_len, 186);
}

/* ---- ms ---- */

Test(ms, length)
{
    expect_ok("ms k 2147483645\r\n", VERB_MS);
    cr_assert_eq(req.value_bytes, 2147483645u);
    expect_error("ms k\r\n", bad_format, 0);
    expect_error("ms k x\r\n", bad_format, 0);
    expect_error("ms k -1\r\n", bad_format, 0);
    expect_error("ms k 2147483646\r\n", bad_format, 0);
    expect_error("ms k T0 5\r\n", bad_format, 0);
}

Test(ms, errors_after_the_length_swallow_the_body)
{
    expect_error("ms k 5 z\r\n", "CLIENT_ERROR invalid flag", 7);
    expect_error("ms k 5 c c\r\n", "CLIENT_ERROR duplicate flag", 7);
    expect_error("ms k 5 Tx\r\n", "CLIENT_ERROR bad token in command line format", 7);
    expect_error("ms k 5 Fx\r\n", bad_format, 7);
    expect_error("ms ! 5 b\r\n", "CLIENT_ERROR error decoding key", 7);
    expect_error("ms k 5 O12345678901234567890123456789012\r\n",
                 "CLIENT_ERROR opaque token too long", 7);
    expect_error(with_key("ms %K 5\r\n", 251), bad_format, 7);
}

Test(ms, modes)
{
    expect_ok("ms k 1\r\n", VERB_MS);
    cr_assert_eq(req.meta.mode, 'S');
    static const char modes[] = "SEAPR";
    for (const char *m = modes; *m; m++) {
        char line[32];
        snprintf(line, sizeof(line), "ms k 1 M%c\r\n", *m);
        expect_ok(line, VERB_MS);
        cr_assert_eq(req.meta.mode, *m);
    }
}

Test(ms, only_the_first_letter_of_the_mode_counts)
{
    expect_ok("ms k 1 MAx\r\n", VERB_MS);
    cr_assert_eq(req.meta.mode, 'A');
}

Test(ms, bad_modes)
{
    expect_error("ms k 1 Mx\r\n", "CLIENT_ERROR invalid mode for ms M token", 3);
    expect_error("ms k 1 Ms\r\n", "CLIENT_ERROR invalid mode for ms M token", 3);
    expect_error("ms k 1 M\r\n", "CLIENT_ERROR invalid mode for ms M token", 3);
    expect_error("ms k 1 M T0\r\n", "CLIENT_ERROR invalid mode for ms M token", 3);
    expect_error("ms k 1 MI\r\n", "CLIENT_ERROR invalid mode for ms M token", 3);
}

Test(ms, a_refused_value_drops_the_old_one)
{
    cr_assert(verb_info(VERB_MS)->flags & VF_DROP_OLD);
    cr_assert(verb_info(VERB_SET)->flags & VF_DROP_OLD);
    cr_assert_not(verb_info(VERB_ADD)->flags & VF_DROP_OLD);
}

/* ---- ma ---- */

Test(ma, defaults)
{
    expect_ok("ma k\r\n", VERB_MA);
    cr_assert_eq(req.delta, 1);
    cr_assert_eq(req.meta.initial, 0);
    cr_assert_eq(req.meta.mode, 'I');
}

Test(ma, modes)
{
    expect_ok("ma k MI\r\n", VERB_MA);
    cr_assert_eq(req.meta.mode, 'I');
    expect_ok("ma k M+\r\n", VERB_MA);
    cr_assert_eq(req.meta.mode, 'I');
    expect_ok("ma k MD\r\n", VERB_MA);
    cr_assert_eq(req.meta.mode, 'D');
    expect_ok("ma k M-\r\n", VERB_MA);
    cr_assert_eq(req.meta.mode, 'D');
    expect_error("ma k Md\r\n", "CLIENT_ERROR invalid mode for ma M token", 0);
    expect_error("ma k M\r\n", "CLIENT_ERROR invalid mode for ma M token", 0);
}

Test(ma, has_one_error_for_all_flags)
{
    static const char error[] = "CLIENT_ERROR invalid or duplicate flag";
    expect_error("ma k z\r\n", error, 0);
    expect_error("ma k v v\r\n", error, 0);
    expect_error("ma k Dx\r\n", error, 0);
    expect_error("ma k Jx\r\n", error, 0);
    expect_error("ma k Tx\r\n", error, 0);
    expect_error("ma ! b\r\n", error, 0);
    expect_error(with_key("ma %K\r\n", 251), error, 0);
    expect_error("ma k b c f h l q s t u v x C1 D1 E1 F1 I J1 L P\r\n", error, 0);
}

Test(ma, tells_a_long_opaque)
{
    expect_error("ma k O12345678901234567890123456789012\r\n",
                 "CLIENT_ERROR opaque token too long", 0);
}

Test(mode, means_nothing_to_mg_and_md)
{
    expect_ok("mg k Mx\r\n", VERB_MG);
    cr_assert_eq(req.meta.mode, '\0');
    expect_ok("md k Mx\r\n", VERB_MD);
}

/* ---- me ---- */

Test(me, takes_any_flags)
{
    expect_ok("me k z z Tx\r\n", VERB_ME);
    cr_assert(key_is("k"));
}

Test(me, base64_key)
{
    expect_ok("me Zm9v b\r\n", VERB_ME);
    cr_assert(req.key_is_binary);
    cr_assert(key_is("foo"));
    expect_error("me ! b\r\n", bad_format, 0);
}

Test(me, line)
{
    char out[PROTO_META_REPLY_MAX + 1];
    struct meta_debug item = {.key = "foo",
                              .key_len = 3,
                              .ttl_sec = -1,
                              .idle_sec = 2,
                              .cas = 3,
                              .slab_class = 1,
                              .item_bytes = 63};
    out[proto_put_me(out, &item)] = '\0';
    cr_assert_str_eq(out, "ME foo exp=-1 la=2 cas=3 fetch=no cls=1 size=63\r\n");
    item.key_is_binary = true;
    item.fetched = true;
    item.ttl_sec = 100;
    out[proto_put_me(out, &item)] = '\0';
    cr_assert_str_eq(out, "ME Zm9v exp=100 la=2 cas=3 fetch=yes cls=1 size=63\r\n");
}

Test(me, the_longest_line_fits)
{
    char key[PROTO_KEY_MAX] = "", out[PROTO_META_REPLY_MAX];
    struct meta_debug item = {.key = key,
                              .key_len = sizeof(key),
                              .key_is_binary = true,
                              .fetched = true,
                              .ttl_sec = INT64_MAX,
                              .idle_sec = UINT64_MAX,
                              .cas = UINT64_MAX,
                              .slab_class = UINT32_MAX,
                              .item_bytes = UINT64_MAX};
    cr_assert_leq(proto_put_me(out, &item), sizeof(out));
}

/* ---- replies ---- */

Test(reply, mg_hit_answers_in_request_order)
{
    struct meta_reply r = full_reply(META_VA);
    expect_ok("mg foo s v t c f l h O9 k\r\n", VERB_MG);
    expect_reply(&r, "VA 5 s5 t60 c11 f7 l9 h1 O9 kfoo\r\n");
    expect_ok("mg foo k O9 h l f c t s\r\n", VERB_MG);
    r.status = META_HD;
    expect_reply(&r, "HD kfoo O9 h1 l9 f7 c11 t60 s5\r\n");
}

Test(reply, without_flags)
{
    struct meta_reply r = full_reply(META_HD);
    expect_ok("mg foo\r\n", VERB_MG);
    expect_reply(&r, "HD\r\n");
    r.status = META_VA;
    expect_reply(&r, "VA 5\r\n");
}

Test(reply, flags_that_are_no_question_are_not_echoed)
{
    struct meta_reply r = full_reply(META_HD);
    expect_ok("mg foo T30 q u N5 R5 P1 L2 E3 C4 t\r\n", VERB_MG);
    expect_reply(&r, "HD t60\r\n");
}

Test(reply, no_expiry_is_minus_one)
{
    struct meta_reply r = full_reply(META_HD);
    r.ttl_sec = -1;
    expect_ok("mg foo t\r\n", VERB_MG);
    expect_reply(&r, "HD t-1\r\n");
}

Test(reply, mg_miss_answers_opaque_and_key)
{
    struct meta_reply r = full_reply(META_EN);
    expect_ok("mg foo s v O9 t k c\r\n", VERB_MG);
    expect_reply(&r, "EN O9 kfoo\r\n");
}

Test(reply, binary_key)
{
    struct meta_reply r = full_reply(META_EN);
    r.key_is_binary = true;
    expect_ok("mg Zm9v b k O1\r\n", VERB_MG);
    expect_reply(&r, "EN kZm9v b O1\r\n");
}

Test(reply, won_stale_and_sent_come_last)
{
    struct meta_reply r = full_reply(META_HD);
    r.token_sent = true;
    r.stale = true;
    expect_ok("mg foo c\r\n", VERB_MG);
    expect_reply(&r, "HD c11 Z X\r\n");
    r.token_sent = false;
    r.won = true;
    expect_reply(&r, "HD c11 X W\r\n");
}

Test(reply, ms_answers_opaque_key_cas_and_size_whatever_happened)
{
    struct meta_reply r = full_reply(META_HD);
    expect_ok("ms foo 5 t k O1 s c f\r\n", VERB_MS);
    expect_reply(&r, "HD kfoo O1 s5 c11\r\n");
    r.status = META_EX;
    r.cas = 0;
    expect_reply(&r, "EX kfoo O1 s5 c0\r\n");
    r.status = META_NS;
    expect_reply(&r, "NS kfoo O1 s5 c0\r\n");
    r.status = META_NF;
    expect_reply(&r, "NF kfoo O1 s5 c0\r\n");
}

Test(reply, md_answers_opaque_and_key)
{
    struct meta_reply r = full_reply(META_HD);
    expect_ok("md foo c t O1 k\r\n", VERB_MD);
    expect_reply(&r, "HD O1 kfoo\r\n");
    r.status = META_NF;
    expect_reply(&r, "NF O1 kfoo\r\n");
}

Test(reply, ma_answers_cas_and_ttl_too_if_done)
{
    struct meta_reply r = full_reply(META_VA);
    expect_ok("ma foo v s c t O1 k\r\n", VERB_MA);
    expect_reply(&r, "VA 5 c11 t60 O1 kfoo\r\n");
    r.status = META_NF;
    expect_reply(&r, "NF O1 kfoo\r\n");
    r.status = META_EX;
    expect_reply(&r, "EX O1 kfoo\r\n");
}

Test(reply, the_longest_fits)
{
    char key[PROTO_KEY_MAX] = "", out[PROTO_META_REPLY_MAX];
    expect_ok("mg k v s t c f l h k O123456789012345678901234567890\r\n", VERB_MG);
    struct meta_reply r = {.status = META_VA,
                           .key_is_binary = true,
                           .token_sent = true,
                           .stale = true,
                           .won = true,
                           .value_bytes = UINT32_MAX,
                           .client_flags = UINT32_MAX,
                           .idle_sec = UINT32_MAX,
                           .ttl_sec = INT64_MAX,
                           .cas = UINT64_MAX,
                           .key = key,
                           .key_len = sizeof(key)};
    cr_assert_leq(proto_put_meta_reply(out, &req, &r), sizeof(out));
}

static void expect_hidden(const char *line, const char *hidden)
{
    static const char names[META_STATUS_COUNT][3] = {"HD", "VA", "EN", "NF", "NS", "EX"};
    cr_assert_eq(parse(line), PARSE_OK);
    for (unsigned s = 0; s < META_STATUS_COUNT; s++)
        cr_assert_eq(proto_meta_is_hidden(&req, s), strstr(hidden, names[s]) != NULL, "%s %s", line,
                     names[s]);
}

Test(quiet, what_q_hides)
{
    expect_hidden("mg k q\r\n", "EN");
    expect_hidden("ms k 1 q\r\n", "HD");
    expect_hidden("md k q\r\n", "HD");
    expect_hidden("ma k q\r\n", "HD VA");
    expect_hidden("mg k v\r\n", "");
}

/* ---- base64 ---- */

Test(base64, encodes_with_padding)
{
    static const char *const pairs[][2] = {{"f", "Zg=="},       {"fo", "Zm8="},
                                           {"foo", "Zm9v"},     {"foob", "Zm9vYg=="},
                                           {"fooba", "Zm9vYmE="}, {"foobar", "Zm9vYmFy"}};
    for (unsigned i = 0; i < ARRAY_COUNT(pairs); i++) {
        char out[16];
        size_t len = base64_encode(out, pairs[i][0], strlen(pairs[i][0]));
        cr_assert_eq(len, BASE64_TEXT_BYTES(strlen(pairs[i][0])));
        cr_assert_eq(len, strlen(pairs[i][1]));
        cr_assert_eq(memcmp(out, pairs[i][1], len), 0);
    }
}

Test(base64, gives_back_all_bytes)
{
    unsigned char in[256];
    char text[BASE64_TEXT_BYTES(256)], out[258];
    for (unsigned i = 0; i < sizeof(in); i++)
        in[i] = (unsigned char)(i * 7);
    for (size_t len = 1; len <= sizeof(in); len++) {
        size_t text_len = base64_encode(text, in, len);
        cr_assert_eq(base64_decode(out, sizeof(out), text, text_len), len);
        cr_assert_eq(memcmp(in, out, len), 0);
    }
}

Test(base64, skips_what_is_not_of_the_alphabet)
{
    char out[16];
    cr_assert_eq(base64_decode(out, sizeof(out), "Z-m\n9v", 6), 3);
    cr_assert_eq(memcmp(out, "foo", 3), 0);
}

Test(base64, stops_after_padding)
{
    char out[16];
    cr_assert_eq(base64_decode(out, sizeof(out), "Zm8=Zm9v", 8), 2);
}

Test(base64, refuses)
{
    char out[16];
    cr_assert_eq(base64_decode(out, sizeof(out), "", 0), 0);
    cr_assert_eq(base64_decode(out, sizeof(out), "Zm9", 3), 0);
    cr_assert_eq(base64_decode(out, sizeof(out), "Z===", 4), 0);
    cr_assert_eq(base64_decode(out, 2, "Zm9v", 4), 0);
}
