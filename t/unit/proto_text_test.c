/* proto_text_test.c: lines in, requests out; numbers, tokens, keys and reply lines of
 * proto/proto.h. Each test holds one claim; texts are compared byte for byte. */
#include <criterion/criterion.h>

#include "proto/text.h"
#include "t/fuzz/fuzz.h"

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

/* ---- framing ---- */

Test(framing, nothing_needs_more)
{
    cr_assert_eq(parse(""), PARSE_NEED_MORE);
}

Test(framing, half_a_line_needs_more_and_consumes_nothing)
{
    cr_assert_eq(parse("get foo\r"), PARSE_NEED_MORE);
    cr_assert_eq(consumed, 0);
}

Test(framing, consumes_one_line_of_many)
{
    expect_ok("get a\r\nget b\r\n", VERB_GET);
    cr_assert_eq(consumed, 7);
}

Test(framing, a_bare_newline_ends_a_line)
{
    expect_ok("delete foo\n", VERB_DELETE);
    cr_assert(key_is("foo"));
    cr_assert_eq(consumed, 11);
}

Test(framing, only_one_carriage_return_belongs_to_the_end)
{
    expect_ok("delete foo\r\r\n", VERB_DELETE);
    cr_assert(key_is("foo\r"));
}

Test(framing, a_line_below_four_bytes_is_badly_formatted)
{
    expect_error("\r\n", bad_format, 0);
    expect_error("\n", bad_format, 0);
    expect_error("mn\n", bad_format, 0);
    expect_ok("mn\r\n", VERB_MN);
}

static enum parse_result parse_filled(const char *start, size_t len)
{
    char *buf = malloc(len);
    memset(buf, 'x', len);
    memcpy(buf, start, strlen(start));
    enum parse_result result = proto_parse_line(buf, len, &consumed, &req);
    free(buf);
    return result;
}

Test(framing, a_2048_byte_start_may_go_on)
{
    cr_assert_eq(parse_filled("set ", 2048), PARSE_NEED_MORE);
}

Test(framing, more_than_2048_bytes_without_newline_close)
{
    cr_assert_eq(parse_filled("set ", 2049), PARSE_CLOSE);
    cr_assert_eq(parse_filled("gat 0 ", 2049), PARSE_CLOSE);
    cr_assert_eq(parse_filled("get\t", 2049), PARSE_CLOSE);
}

Test(framing, a_get_may_be_of_any_length)
{
    cr_assert_eq(parse_filled("get ", 200000), PARSE_NEED_MORE);
    cr_assert_eq(parse_filled("gets ", 200000), PARSE_NEED_MORE);
}

Test(framing, a_long_get_may_follow_100_spaces_but_not_101)
{
    char start[128];
    snprintf(start, sizeof(start), "%100sget ", "");
    cr_assert_eq(parse_filled(start, 2049), PARSE_NEED_MORE);
    snprintf(start, sizeof(start), "%101sget ", "");
    cr_assert_eq(parse_filled(start, 2049), PARSE_CLOSE);
}

Test(framing, spaces_without_end_close)
{
    char start[2050];
    memset(start, ' ', sizeof(start));
    cr_assert_eq(proto_parse_line(start, sizeof(start), &consumed, &req), PARSE_CLOSE);
}

Test(framing, zero_bytes_are_part_of_the_line)
{
    cr_assert_eq(proto_parse_line("delete a\0b\r\n", 12, &consumed, &req), PARSE_OK);
    cr_assert_eq(req.key_len, 3);
    cr_assert_eq(memcmp(req.key, "a\0b", 3), 0);
}

/* ---- unknown commands ---- */

Test(unknown, answers_error)
{
    expect_error("foo\r\n", "ERROR", 0);
    expect_error("GET foo\r\n", "ERROR", 0);
    expect_error("getx foo\r\n", "ERROR", 0);
    expect_error("    \r\n", "ERROR", 0);
    cr_assert_eq(req.verb, VERB_UNKNOWN);
}

Test(unknown, noreply_silences_it)
{
    expect_error("foo noreply\r\n", "ERROR", 0);
    cr_assert(req.noreply);
}

Test(unknown, http_closes)
{
    cr_assert_eq(parse("GET / HTTP/1.1\r\n"), PARSE_CLOSE);
    cr_assert_eq(parse("POST /x HTTP/1.0\n"), PARSE_CLOSE);
    cr_assert_eq(parse("HTTP/1.1\r\n"), PARSE_CLOSE);
    expect_error("GET / http/1.1\r\n", "ERROR", 0);
    expect_error("GET HTTP/1.1 /\r\n", "ERROR", 0);
}

Test(unknown, an_abbreviated_command_is_not_known)
{
    expect_error("slab\r\n", "ERROR", 0);
    expect_error("verb 1\r\n", "ERROR", 0);
}

Test(unknown, leading_spaces_hide_all_but_the_late_commands)
{
    expect_error(" get foo\r\n", "ERROR", 0);
    expect_error("  stats\r\n", "ERROR", 0);
    expect_ok("  verbosity 1\r\n", VERB_VERBOSITY);
}

Test(unknown, debug_commands_depend_on_the_build)
{
#ifdef EXTANT_DEBUG
    expect_ok("debugtime 10\r\n", VERB_DEBUGTIME);
    expect_ok("debugitem lock foo\r\n", VERB_DEBUGITEM);
    expect_ok("misbehave\r\n", VERB_MISBEHAVE);
#else
    expect_error("debugtime 10\r\n", "ERROR", 0);
    expect_error("debugitem lock foo\r\n", "ERROR", 0);
    expect_error("misbehave\r\n", "ERROR", 0);
#endif
}

Test(table, every_command_is_found_by_its_word)
{
    for (unsigned v = 0; v < VERB_COUNT; v++) {
        const struct verb_info *info = verb_info(v);
        if (info->verb_class == CLASS_LOGIN) /* it has no word */
            continue;
        enum verb found = verb_find(info->word, info->word_len);
#ifndef EXTANT_DEBUG
        if (info->flags & VF_DEBUG) {
            cr_assert_eq(found, VERB_UNKNOWN);
            continue;
        }
#endif
        cr_assert_eq(found, v, "%s", info->word);
    }
}

Test(table, too_few_tokens_are_badly_formatted)
{
    static const char *const words[] = {"get", "gets", "gat", "gats", "set", "add", "replace",
                                        "append", "prepend", "cas", "delete", "incr", "decr",
                                        "touch", "mg", "ms", "md", "ma", "me"};
    for (unsigned i = 0; i < ARRAY_COUNT(words); i++) {
        enum verb verb = verb_find(words[i], strlen(words[i]));
        char line[64];
        strcpy(line, words[i]);
        for (unsigned tokens = 1; tokens < verb_info(verb)->min_tokens; tokens++) {
            char with_end[72];
            snprintf(with_end, sizeof(with_end), "%s  \r\n", line);
            expect_error(with_end, bad_format, 0);
            cr_assert_eq(req.verb, verb);
            cr_assert_not(req.noreply);
            strcat(line, " 1");
        }
    }
}

/* ---- get ---- */

static void expect_keys(const char *const *keys)
{
    const char *key;
    uint32_t len;
    for (; *keys; keys++) {
        cr_assert_eq(proto_next_key(&req.keys, &key, &len), 1);
        cr_assert_eq(len, strlen(*keys));
        cr_assert_eq(memcmp(key, *keys, len), 0);
    }
    cr_assert_eq(proto_next_key(&req.keys, &key, &len), 0);
    cr_assert_eq(proto_next_key(&req.keys, &key, &len), 0);
}

Test(get, one_key)
{
    expect_ok("get foo\r\n", VERB_GET);
    expect_keys((const char *[]){"foo", NULL});
}

Test(get, several_keys_and_spaces)
{
    expect_ok("gets  a bb   ccc \n", VERB_GETS);
    expect_keys((const char *[]){"a", "bb", "ccc", NULL});
}

Test(get, noreply_is_a_key)
{
    expect_ok("get noreply\r\n", VERB_GET);
    cr_assert_not(req.noreply);
    expect_keys((const char *[]){"noreply", NULL});
}

Test(get, a_tab_does_not_separate)
{
    expect_ok("get a\tb\r\n", VERB_GET);
    expect_keys((const char *[]){"a\tb", NULL});
}

Test(get, a_key_of_250_bytes_is_a_key)
{
    const char *key;
    uint32_t len;
    expect_ok(with_key("get %K\r\n", 250), VERB_GET);
    cr_assert_eq(proto_next_key(&req.keys, &key, &len), 1);
    cr_assert_eq(len, 250);
}

Test(get, a_key_of_251_bytes_ends_it)
{
    const char *key;
    uint32_t len;
    expect_ok(with_key("get a %K b\r\n", 251), VERB_GET);
    cr_assert_eq(proto_next_key(&req.keys, &key, &len), 1);
    cr_assert_eq(proto_next_key(&req.keys, &key, &len), -1);
}

Test(get, the_answer_to_a_long_key_has_a_stray_line_end)
{
    size_t len;
    const char *line = reply_line(REPLY_GET_BAD_FORMAT, &len);
    cr_assert_str_eq(line, "CLIENT_ERROR bad command line format\r\n\r\n");
    cr_assert_eq(len, 40);
}

Test(get, thousands_of_keys)
{
    enum { KEYS = 20000 };
    char *buf = malloc(KEYS * 10 + 16), *p = buf;
    p += sprintf(p, "get");
    for (int i = 0; i < KEYS; i++)
        p += sprintf(p, " key%d", i);
    p += sprintf(p, "\r\n");
    cr_assert_eq(proto_parse_line(buf, (size_t)(p - buf), &consumed, &req), PARSE_OK);
    cr_assert_eq(consumed, (size_t)(p - buf));
    const char *key;
    uint32_t len;
    int count = 0;
    while (proto_next_key(&req.keys, &key, &len) == 1)
        count++;
    cr_assert_eq(count, KEYS);
    free(buf);
}

Test(gat, exptime_then_keys)
{
    expect_ok("gat -1 a b\r\n", VERB_GAT);
    cr_assert_eq(req.exptime, -1);
    expect_keys((const char *[]){"a", "b", NULL});
    expect_ok("gats 100 a\r\n", VERB_GATS);
    cr_assert_eq(req.exptime, 100);
}

Test(gat, bad_exptime)
{
    expect_error("gat x a\r\n", "CLIENT_ERROR invalid exptime argument", 0);
    expect_error("gats 99999999999 a\r\n", "CLIENT_ERROR invalid exptime argument", 0);
}

/* ---- stores ---- */

Test(set, all_arguments)
{
    expect_ok("set foo 12 34 56\r\n", VERB_SET);
    cr_assert(key_is("foo"));
    cr_assert_eq(req.client_flags, 12);
    cr_assert_eq(req.exptime, 34);
    cr_assert_eq(req.value_bytes, 56);
    cr_assert_not(req.noreply);
}

Test(set, every_store_command)
{
    expect_ok("add k 0 0 1\r\n", VERB_ADD);
    expect_ok("replace k 0 0 1\r\n", VERB_REPLACE);
    expect_ok("append k 0 0 1\r\n", VERB_APPEND);
    expect_ok("prepend k 0 0 1\r\n", VERB_PREPEND);
    cr_assert(verb_info(VERB_PREPEND)->flags & VF_VALUE);
}

Test(set, noreply_is_the_last_token_whatever_is_before)
{
    expect_ok("set k 0 0 1 noreply\r\n", VERB_SET);
    cr_assert(req.noreply);
    expect_ok("set k 0 0 1 foo noreply\r\n", VERB_SET);
    cr_assert(req.noreply);
    expect_ok("set k 0 0 1 noreply foo\r\n", VERB_SET);
    cr_assert_not(req.noreply);
    expect_ok("set k 0 0 1 norepl\r\n", VERB_SET);
    cr_assert_not(req.noreply);
}

Test(set, nothing_is_left_of_the_request_before)
{
    expect_ok("cas k 7 8 9 10 noreply\r\n", VERB_CAS);
    expect_ok("delete k\r\n", VERB_DELETE);
    cr_assert_eq(req.client_flags, 0);
    cr_assert_eq(req.exptime, 0);
    cr_assert_eq(req.value_bytes, 0);
    cr_assert_eq(req.cas, 0);
    cr_assert_not(req.noreply);
}

Test(set, empty_values_and_the_largest_length)
{
    expect_ok("set k 0 0 0\r\n", VERB_SET);
    cr_assert_eq(req.value_bytes, 0);
    expect_ok("set k 0 0 2147483645\r\n", VERB_SET);
    cr_assert_eq(req.value_bytes, 2147483645u);
}

Test(set, impossible_lengths_swallow_nothing)
{
    expect_error("set k 0 0 -1\r\n", bad_format, 0);
    expect_error("set k 0 0 2147483646\r\n", bad_format, 0);
    expect_error("set k 0 0 2147483647\r\n", bad_format, 0);
    expect_error("set k 0 0 4294967295\r\n", bad_format, 0);
    expect_error("set k 0 0 x\r\n", bad_format, 0);
    expect_error("set k 0 0 +1\r\n", bad_format, 0);
    expect_error("set k 0 0 1x\r\n", bad_format, 0);
}

Test(set, an_impossible_length_is_told_in_spite_of_noreply)
{
    expect_error("set k 0 0 -1 noreply\r\n", bad_format, 0);
    cr_assert_not(req.noreply);
}

Test(set, bad_flags_or_exptime_swallow_the_body)
{
    expect_error("set k x 0 5\r\n", bad_format, 7);
    expect_error("set k -1 0 5\r\n", bad_format, 7);
    expect_error("set k 0 x 0\r\n", bad_format, 2);
    expect_error("set k 0 1.5 5\r\n", bad_format, 7);
    expect_error("set k 18446744073709551616 0 5\r\n", bad_format, 7);
}

Test(set, bad_flags_with_noreply_are_silent)
{
    expect_error("set k x 0 5 noreply\r\n", bad_format, 7);
    cr_assert(req.noreply);
}

Test(set, flags_are_cut_to_32_bits)
{
    expect_ok("set k 4294967301 0 1\r\n", VERB_SET);
    cr_assert_eq(req.client_flags, 5);
    expect_ok("set k 18446744073709551615 0 1\r\n", VERB_SET);
    cr_assert_eq(req.client_flags, UINT32_MAX);
}

Test(set, exptime_is_cut_to_32_bits)
{
    expect_ok("set k 0 3000000000 1\r\n", VERB_SET);
    cr_assert_eq(req.exptime, -1294967296);
    expect_ok("set k 0 -1 1\r\n", VERB_SET);
    cr_assert_eq(req.exptime, -1);
}

Test(set, a_long_key_swallows_the_body)
{
    expect_ok(with_key("set %K 0 0 5\r\n", 250), VERB_SET);
    cr_assert_eq(req.key_len, 250);
    expect_error(with_key("set %K 0 0 5\r\n", 251), bad_format, 7);
}

Test(cas, takes_one_number_more)
{
    expect_ok("cas k 1 2 3 18446744073709551615\r\n", VERB_CAS);
    cr_assert_eq(req.cas, UINT64_MAX);
    cr_assert_eq(req.value_bytes, 3);
}

Test(cas, without_its_number_swallows_the_body)
{
    expect_error("cas k 0 0 5\r\n", bad_format, 7);
    expect_error("cas k 0 0 5 x\r\n", bad_format, 7);
    expect_error("cas k 0 0 5 -1\r\n", bad_format, 7);
}

Test(cas, noreply_in_its_place_is_silent)
{
    expect_error("cas k 0 0 5 noreply\r\n", bad_format, 7);
    cr_assert(req.noreply);
}

/* ---- delete, incr, touch ---- */

Test(delete, a_key)
{
    expect_ok("delete foo\r\n", VERB_DELETE);
    cr_assert(key_is("foo"));
}

Test(delete, what_memccapable_and_memcached_accept)
{
    expect_ok("delete k 0\r\n", VERB_DELETE);
    cr_assert_not(req.noreply);
    expect_ok("delete k 10 noreply\r\n", VERB_DELETE);
    cr_assert(req.noreply);
    expect_ok("delete k noreply\r\n", VERB_DELETE);
    cr_assert(req.noreply);
    expect_ok("delete a b c d\r\n", VERB_DELETE);
}

Test(delete, four_words_too_many_are_refused)
{
    expect_error("delete a b c d e\r\n", "ERROR", 0);
}

Test(delete, the_key_noreply_is_deleted_silently)
{
    expect_ok("delete noreply\r\n", VERB_DELETE);
    cr_assert(req.noreply);
    cr_assert(key_is("noreply"));
}

Test(delete, a_long_key)
{
    expect_error(with_key("delete %K\r\n", 251), bad_format, 0);
}

Test(incr, delta)
{
    expect_ok("incr k 18446744073709551615\r\n", VERB_INCR);
    cr_assert_eq(req.delta, UINT64_MAX);
    expect_ok("decr k 5 noreply\r\n", VERB_DECR);
    cr_assert_eq(req.delta, 5);
    cr_assert(req.noreply);
}

Test(incr, bad_delta)
{
    expect_error("incr k x\r\n", "CLIENT_ERROR invalid numeric delta argument", 0);
    expect_error("incr k -1\r\n", "CLIENT_ERROR invalid numeric delta argument", 0);
    expect_error("decr k 1x\r\n", "CLIENT_ERROR invalid numeric delta argument", 0);
    expect_error("decr k 18446744073709551616\r\n",
                 "CLIENT_ERROR invalid numeric delta argument", 0);
}

/* A NUL in the line: the words of the classic commands that take a number beside the key. */
static enum parse_result parse_with_nul(const char *line, const char *nul)
{
    char text[128];
    size_t len = strlen(line), at = (size_t)(strstr(line, nul) - line);
    memcpy(text, line, len);
    text[at] = '\0';
    return proto_parse_line(text, len, &consumed, &req);
}

Test(numbers, but_for_those_of_set_are_digits_and_fit)
{
    static const char *const bad[] = {"+5", "5\t", "\t5", "5\v", "5x", "0x5", "-", "",
                                      "18446744073709551616", "99999999999999999999999"};
    for (unsigned i = 0; i < ARRAY_COUNT(bad); i++) {
        char line[128];
        if (*bad[i] != '\0' && bad[i][0] != '-') { /* an own meaning each */
            snprintf(line, sizeof(line), "touch k %s\r\n", bad[i]);
            expect_error(line, "CLIENT_ERROR invalid exptime argument", 0);
            snprintf(line, sizeof(line), "gat %s k\r\n", bad[i]);
            expect_error(line, "CLIENT_ERROR invalid exptime argument", 0);
            snprintf(line, sizeof(line), "incr k %s\r\n", bad[i]);
            expect_error(line, "CLIENT_ERROR invalid numeric delta argument", 0);
            snprintf(line, sizeof(line), "decr k %s\r\n", bad[i]);
            expect_error(line, "CLIENT_ERROR invalid numeric delta argument", 0);
            snprintf(line, sizeof(line), "cas k 0 0 1 %s\r\n", bad[i]);
            expect_error(line, bad_format, 3);
        }
        if (strchr(bad[i], ' '))
            continue;
        static const struct {
            const char *flag, *error;
        } flags[] = {
            {"T", "CLIENT_ERROR bad token in command line format"},
            {"N", "CLIENT_ERROR bad token in command line format"},
            {"R", "CLIENT_ERROR bad token in command line format"},
            {"C", "CLIENT_ERROR bad token in command line format"},
            {"E", "CLIENT_ERROR bad token in command line format"},
            {"D", "CLIENT_ERROR invalid numeric delta value"},
            {"J", "CLIENT_ERROR invalid numeric initial value"},
            {"F", "CLIENT_ERROR bad command line format"},
        };
        for (unsigned f = 0; f < ARRAY_COUNT(flags); f++) {
            if (strcmp(bad[i], "-") == 0 && strchr("TNR", *flags[f].flag))
                continue;
            snprintf(line, sizeof(line), "mg k %s%s\r\n", flags[f].flag, bad[i]);
            expect_error(line, flags[f].error, 0);
        }
    }
}

Test(numbers, of_32_bits_do_not_wrap)
{
    expect_error("touch k 2147483648\r\n", "CLIENT_ERROR invalid exptime argument", 0);
    expect_error("touch k 4294967295\r\n", "CLIENT_ERROR invalid exptime argument", 0);
    expect_error("gat 4294967296 k\r\n", "CLIENT_ERROR invalid exptime argument", 0);
    expect_error("mg k T2147483648\r\n", "CLIENT_ERROR bad token in command line format", 0);
    expect_error("mg k N4294967297\r\n", "CLIENT_ERROR bad token in command line format", 0);
    expect_error("mg k R-2147483649\r\n", "CLIENT_ERROR bad token in command line format", 0);
    expect_error("ms k 1 F4294967296\r\n", bad_format, 3);
    expect_ok("touch k 2147483647\r\n", VERB_TOUCH);
    expect_ok("touch k -2147483648\r\n", VERB_TOUCH);
    expect_ok("ms k 1 F4294967295 T-2147483648\r\n", VERB_MS);
}

Test(numbers, do_not_end_at_a_zero_byte)
{
    cr_assert_eq(parse_with_nul("touch k 5?\r\n", "?"), PARSE_ERROR);
    cr_assert_eq(req.error, REPLY_BAD_EXPTIME);
    cr_assert_eq(parse_with_nul("incr k 5?7\r\n", "?"), PARSE_ERROR);
    cr_assert_eq(req.error, REPLY_BAD_DELTA);
    cr_assert_eq(parse_with_nul("mg k T5?\r\n", "?"), PARSE_ERROR);
    cr_assert_eq(req.error, REPLY_META_BAD_TOKEN);
}

Test(incr, a_long_key_is_told_before_a_bad_delta)
{
    expect_error(with_key("incr %K x\r\n", 251), bad_format, 0);
}

Test(touch, exptime)
{
    expect_ok("touch k 100\r\n", VERB_TOUCH);
    cr_assert_eq(req.exptime, 100);
    expect_ok("touch k -5 noreply\r\n", VERB_TOUCH);
    cr_assert_eq(req.exptime, -5);
    cr_assert(req.noreply);
}

Test(touch, bad_exptime)
{
    expect_error("touch k x\r\n", "CLIENT_ERROR invalid exptime argument", 0);
    expect_error("touch k noreply\r\n", "CLIENT_ERROR invalid exptime argument", 0);
    cr_assert(req.noreply);
}

/* ---- admin ---- */

Test(admin, stats_keeps_its_tokens)
{
    expect_ok("stats detail  dump\r\n", VERB_STATS);
    cr_assert_eq(req.token_count, 3);
    cr_assert(proto_token_is(&req, 1, "detail"));
    cr_assert(proto_token_is(&req, 2, "dump"));
    cr_assert_not(proto_token_is(&req, 3, "dump"));
}

Test(admin, stats_version_and_watch_know_no_noreply)
{
    expect_ok("stats noreply\r\n", VERB_STATS);
    cr_assert_not(req.noreply);
    expect_ok("version noreply\r\n", VERB_VERSION);
    cr_assert_not(req.noreply);
    expect_ok("watch noreply\r\n", VERB_WATCH);
    cr_assert_not(req.noreply);
}

Test(admin, quit_ignores_its_arguments)
{
    expect_ok("quit now\r\n", VERB_QUIT);
}

Test(admin, a_token_abbreviates_the_words_that_begin_with_it)
{
    expect_ok("stats s\r\n", VERB_STATS);
    cr_assert(proto_token_abbreviates(&req, 1, "settings"));
    cr_assert_not(proto_token_abbreviates(&req, 1, "reset"));
    cr_assert_not(proto_token_abbreviates(&req, 2, "settings"));
    expect_ok("stats settingsx\r\n", VERB_STATS);
    cr_assert_not(proto_token_abbreviates(&req, 1, "settings"));
}

Test(admin, only_23_tokens_count)
{
    expect_ok("watch 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24\r\n",
              VERB_WATCH);
    cr_assert_eq(req.token_count, 23);
    cr_assert(proto_token_is(&req, 22, "22"));
}

Test(admin, verbosity)
{
    expect_ok("verbosity 3\r\n", VERB_VERBOSITY);
    cr_assert_eq(req.number, 3);
    expect_error("verbosity\r\n", bad_format, 0);
    expect_error("verbosity x\r\n", bad_format, 0);
    expect_error("verbosity noreply\r\n", bad_format, 0);
    cr_assert(req.noreply);
}

Test(admin, cache_memlimit)
{
    expect_ok("cache_memlimit 64\r\n", VERB_CACHE_MEMLIMIT);
    cr_assert_eq(req.number, 64);
    expect_error("cache_memlimit\r\n", "ERROR", 0);
    expect_error("cache_memlimit 64m\r\n", "ERROR", 0);
}

Test(admin, flush_all)
{
    expect_ok("flush_all\r\n", VERB_FLUSH_ALL);
    cr_assert_eq(req.exptime, 0);
    expect_ok("flush_all 10\r\n", VERB_FLUSH_ALL);
    cr_assert_eq(req.exptime, 10);
    expect_ok("flush_all -1 noreply\r\n", VERB_FLUSH_ALL);
    cr_assert_eq(req.exptime, -1);
    cr_assert(req.noreply);
    expect_ok("flush_all noreply\r\n", VERB_FLUSH_ALL);
    cr_assert(req.noreply);
    cr_assert_eq(req.deferred_error, REPLY_NONE);
}

Test(admin, a_bad_delay_is_told_only_if_flush_all_is_allowed)
{
    expect_ok("flush_all x\r\n", VERB_FLUSH_ALL);
    cr_assert_eq(req.deferred_error, REPLY_BAD_EXPTIME);
}

Test(admin, shutdown_modes)
{
    expect_ok("shutdown\r\n", VERB_SHUTDOWN);
    cr_assert_eq(req.deferred_error, REPLY_NONE);
    expect_ok("shutdown graceful\r\n", VERB_SHUTDOWN);
    cr_assert_eq(req.deferred_error, REPLY_NONE);
    cr_assert_eq(req.token_count, 2);
    expect_ok("shutdown now\r\n", VERB_SHUTDOWN);
    cr_assert_eq(req.deferred_error, REPLY_SHUTDOWN_BAD_MODE);
    expect_ok("shutdown graceful now\r\n", VERB_SHUTDOWN);
    cr_assert_eq(req.deferred_error, REPLY_SHUTDOWN_BAD_MODE);
}

Test(admin, late_commands_take_noreply)
{
    expect_ok("slabs automove 1 noreply\r\n", VERB_SLABS);
    cr_assert(req.noreply);
    expect_ok("lru_crawler enable\r\n", VERB_LRU_CRAWLER);
    cr_assert_not(req.noreply);
    expect_ok("lru mode flat\r\n", VERB_LRU);
    expect_ok("extstore max_frag 0.5\r\n", VERB_EXTSTORE);
    expect_ok("refresh_certs\r\n", VERB_REFRESH_CERTS);
}

Test(admin, numbers_of_tokens)
{
    uint32_t u;
    int32_t i;
    int64_t l;
    double d;
    expect_ok("slabs reassign -1 7 0.25 x\r\n", VERB_SLABS);
    cr_assert(proto_token_i32(&req, 2, &i) && i == -1);
    cr_assert_not(proto_token_u32(&req, 2, &u));
    cr_assert(proto_token_i64(&req, 2, &l) && l == -1);
    cr_assert(proto_token_u32(&req, 3, &u) && u == 7);
    cr_assert(proto_token_double(&req, 4, &d) && d == 0.25);
    cr_assert_not(proto_token_double(&req, 5, &d));
    cr_assert_not(proto_token_u32(&req, 6, &u));
}

/* ---- authentication ---- */

static uint32_t auth_bytes;
static enum reply auth_error;

static enum parse_result parse_auth(const char *line)
{
    return proto_parse_auth(line, strlen(line), &consumed, &auth_bytes, &auth_error);
}

Test(auth, a_set_opens)
{
    cr_assert_eq(parse_auth("set k 0 0 9\r\nuser pass\r\n"), PARSE_OK);
    cr_assert_eq(auth_bytes, 9);
    cr_assert_eq(consumed, 13);
}

Test(auth, anything_else_is_unauthenticated)
{
    cr_assert_eq(parse_auth("get k\r\n"), PARSE_ERROR);
    cr_assert_eq(auth_error, REPLY_AUTH_NEEDED);
    cr_assert_eq(parse_auth("set k 0 0 x\r\n"), PARSE_ERROR);
    cr_assert_eq(auth_error, REPLY_AUTH_NEEDED);
    cr_assert_eq(parse_auth("\r\n"), PARSE_ERROR);
    cr_assert_eq(auth_error, REPLY_AUTH_NEEDED);
}

Test(auth, at_most_16384_bytes)
{
    cr_assert_eq(parse_auth("set k 0 0 16384\r\n"), PARSE_OK);
    cr_assert_eq(parse_auth("set k 0 0 16385\r\n"), PARSE_ERROR);
    cr_assert_eq(auth_error, REPLY_AUTH_TOO_LONG);
}

Test(auth, a_long_start_without_newline_closes)
{
    char buf[2049];
    memset(buf, 'x', sizeof(buf));
    cr_assert_eq(proto_parse_auth(buf, 2048, &consumed, &auth_bytes, &auth_error),
                 PARSE_NEED_MORE);
    cr_assert_eq(proto_parse_auth(buf, 2049, &consumed, &auth_bytes, &auth_error), PARSE_CLOSE);
}

/* ---- numbers ---- */

#define STRICT(type, fn, text, value)                                                              \
    do {                                                                                           \
        type v_;                                                                                   \
        cr_assert(fn(text, strlen(text), &v_), "%s", text);                                        \
        cr_assert_eq(v_, (type)(value), "%s", text);                                               \
    } while (0)
#define REFUSED(type, fn, text)                                                                    \
    do {                                                                                           \
        type v_;                                                                                   \
        cr_assert_not(fn(text, strlen(text), &v_), "%s", text);                                    \
    } while (0)

Test(strict, bounds)
{
    STRICT(uint32_t, proto_u32, "4294967295", UINT32_MAX);
    REFUSED(uint32_t, proto_u32, "4294967296");
    STRICT(int32_t, proto_i32, "2147483647", INT32_MAX);
    REFUSED(int32_t, proto_i32, "2147483648");
    STRICT(int32_t, proto_i32, "-2147483648", INT32_MIN);
    REFUSED(int32_t, proto_i32, "-2147483649");
    STRICT(uint64_t, proto_u64, "18446744073709551615", UINT64_MAX);
    REFUSED(uint64_t, proto_u64, "18446744073709551616");
    STRICT(int64_t, proto_i64, "9223372036854775807", INT64_MAX);
    REFUSED(int64_t, proto_i64, "9223372036854775808");
    STRICT(int64_t, proto_i64, "-9223372036854775808", INT64_MIN);
    REFUSED(int64_t, proto_i64, "-9223372036854775809");
}

Test(strict, only_digits)
{
    REFUSED(uint32_t, proto_u32, "-1");
    REFUSED(uint32_t, proto_u32, "+1");
    REFUSED(uint32_t, proto_u32, " 1");
    REFUSED(uint32_t, proto_u32, "1 ");
    REFUSED(int32_t, proto_i32, "--1");
    REFUSED(int32_t, proto_i32, "1-");
    REFUSED(uint32_t, proto_u32, "\xb1");
}

Test(strict, length_is_bounded)
{
    STRICT(uint32_t, proto_u32, "00000000001", 1);
    REFUSED(uint32_t, proto_u32, "000000000001");
    STRICT(uint64_t, proto_u64, "0000000000000000000001", 1);
    REFUSED(uint64_t, proto_u64, "00000000000000000000001");
}

Test(strict, nothing_is_zero)
{
    STRICT(uint32_t, proto_u32, "", 0);
    STRICT(int32_t, proto_i32, "-", 0);
}

Test(lenient, white_space_and_sign_may_come_first)
{
    STRICT(uint64_t, proto_lenient_u64, "+5", 5);
    STRICT(uint64_t, proto_lenient_u64, "\t 5", 5);
    STRICT(int32_t, proto_lenient_i32, "-5", -5);
    REFUSED(int32_t, proto_lenient_i32, "- 5");
    REFUSED(int32_t, proto_lenient_i32, "+-5");
    REFUSED(int32_t, proto_lenient_i32, "");
    REFUSED(int32_t, proto_lenient_i32, "-");
}

Test(lenient, white_space_or_a_zero_byte_ends_it)
{
    uint64_t v;
    STRICT(uint64_t, proto_lenient_u64, "5\tx", 5);
    cr_assert(proto_lenient_u64("5\0x", 3, &v) && v == 5);
    REFUSED(uint64_t, proto_lenient_u64, "5x");
}

Test(lenient, negative_unsigned)
{
    REFUSED(uint64_t, proto_lenient_u64, "-1");
    STRICT(uint64_t, proto_lenient_u64, "-0", 0);
    STRICT(uint64_t, proto_lenient_u64, "-18446744073709551615", 1);
}

Test(lenient, out_of_64_bits)
{
    REFUSED(uint64_t, proto_lenient_u64, "18446744073709551616");
    REFUSED(int32_t, proto_lenient_i32, "9223372036854775808");
    STRICT(int32_t, proto_lenient_i32, "9223372036854775807", -1);
    STRICT(int32_t, proto_lenient_i32, "-9223372036854775808", 0);
    REFUSED(int32_t, proto_lenient_i32, "-9223372036854775809");
    STRICT(uint32_t, proto_lenient_u32, "4294967296", 0);
}

/* ---- writing ---- */

Test(write, u64)
{
    static const uint64_t values[] = {0, 9, 10, 99, 100, 4294967295u, UINT64_MAX};
    for (unsigned i = 0; i < ARRAY_COUNT(values); i++) {
        char expected[32], out[PROTO_U64_TEXT_MAX];
        int len = sprintf(expected, "%" PRIu64, values[i]);
        cr_assert_eq(proto_put_u64(out, values[i]), (size_t)len);
        cr_assert_eq(memcmp(out, expected, (size_t)len), 0);
    }
}

Test(write, value_header)
{
    char out[PROTO_VALUE_HEADER_MAX];
    size_t len = proto_put_value_header(out, "foo", 3, 5, 12, false, 99);
    cr_assert_eq(len, 16);
    cr_assert_eq(memcmp(out, "VALUE foo 5 12\r\n", 16), 0);
    len = proto_put_value_header(out, "foo", 3, 0, 0, true, 99);
    cr_assert_eq(len, 18);
    cr_assert_eq(memcmp(out, "VALUE foo 0 0 99\r\n", 18), 0);
}

Test(write, the_longest_value_header_fits)
{
    char key[PROTO_KEY_MAX], out[PROTO_VALUE_HEADER_MAX];
    memset(key, 'k', sizeof(key));
    cr_assert_leq(proto_put_value_header(out, key, sizeof(key), UINT32_MAX, UINT32_MAX, true,
                                         UINT64_MAX),
                  sizeof(out));
}

Test(write, uri)
{
    char out[64];
    size_t len = proto_put_uri(out, "a-Z.0_~ %/\xff", 11);
    cr_assert_eq(len, 19);
    cr_assert_eq(memcmp(out, "a-Z.0_~%20%25%2F%FF", 19), 0);
}

Test(write, no_reply_is_no_bytes)
{
    size_t len = 1;
    reply_line(REPLY_NONE, &len);
    cr_assert_eq(len, 0);
}

Test(write, version)
{
    size_t len;
    cr_assert_str_eq(reply_line(REPLY_VERSION, &len), "VERSION 1.6.45\r\n");
}

/* ---- generated lines ---- */

static uint32_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

Test(generated, lines_keep_what_the_fuzzer_checks)
{
    static const char *const pieces[] = {
        "get ",   "gets ",     "gat 0 ",  "set ",       "cas ",    "delete ", "incr ", "touch ",
        "mg ",    "ms ",       "md ",     "ma ",        "me ",     "mn",      "stats", "flush_all ",
        "key ",   "Zm9v ",     "0 ",      "1 ",         "-1 ",     "99999 ",  "noreply", "b ",
        "k ",     "O123 ",     "T0 ",     "MS ",        "MA ",     "v ",      "q ",    "c s t f ",
        "\r\n",   "\n",        "\r\n",    "\r\n",       " ",       "\x80",    "HTTP/1.1", "\t",
        "4294967296 ", "18446744073709551616 ", "verbosity 1", "shutdown graceful", "slabs ", "!",
    };
    uint64_t state = 20240601;
    for (int round = 0; round < 20000; round++) {
        char line[1024];
        size_t len = 0;
        for (unsigned n = 1 + next_random(&state) % 12; n > 0; n--) {
            const char *piece = pieces[next_random(&state) % ARRAY_COUNT(pieces)];
            size_t piece_len = strlen(piece);
            memcpy(line + len, piece, piece_len);
            len += piece_len;
        }
        fuzz_proto((const uint8_t *)line, len);
    }
}

/* ---- a guess at the key ---- */

static void expect_peek(const char *line, const char *want)
{
    const char *key = "";
    uint32_t value_bytes, len = proto_peek_key(line, strlen(line), &key, &value_bytes);
    cr_assert(len == strlen(want) && memcmp(key, want, len) == 0, "%s: %.*s", line, (int)len, key);
}

Test(peek_key, is_the_second_word)
{
    expect_peek("get key\r\n", "key");
    expect_peek("set key 0 0 5\r\nvalue\r\n", "key");
    expect_peek("mg key v\r\n", "key");
    expect_peek("get one two\r\n", "one");
}

Test(peek_key, of_a_line_that_is_cut_off_is_what_is_there)
{
    expect_peek("get ke", "ke");
    expect_peek("get ", "");
    expect_peek("get", "");
    expect_peek("", "");
}

Test(peek_key, is_none_where_no_command_begins)
{
    expect_peek("END\r\n", "");
    expect_peek(" key\r\n", "");
    expect_peek("a_long_first_word key\r\n", "");
}

Test(peek_key, is_never_longer_than_a_key)
{
    const char *key;
    uint32_t value_bytes;
    char line[400];
    memset(line, 'k', sizeof(line));
    memcpy(line, "get ", 4);
    cr_assert_eq(proto_peek_key(line, sizeof(line), &key, &value_bytes), PROTO_KEY_MAX);
}

static void expect_value(const char *line, uint32_t want)
{
    const char *key;
    uint32_t value_bytes;
    proto_peek_key(line, strlen(line), &key, &value_bytes);
    cr_assert_eq(value_bytes, want, "%s: %u", line, value_bytes);
}

Test(peek_key, tells_how_long_a_value_follows)
{
    expect_value("set key 0 0 5\r\nvalue\r\n", 5);
    expect_value("set key 4294967295 -1 1048576 noreply\r\n", 1048576);
    expect_value("cas key 1 2 33 77\r\n", 33);
    expect_value("ms key 12 T0 c\r\n", 12);
    expect_value("ms key 12\n", 12);
    expect_value("prepend key  0  0  9\r\n", 9);
}

Test(peek_key, knows_no_value_where_none_follows_or_the_line_is_cut_off)
{
    expect_value("get key 0 0 5\r\n", 0);
    expect_value("stats key 0 0 5\r\n", 0);
    expect_value("set key 0 0 5", 0);
    expect_value("set key 0 0", 0);
    expect_value("set key", 0);
    expect_value("set key 0 0 -5\r\n", 0);
    expect_value("set key 0 0 99999999999\r\n", 0);
    expect_value("ms key S12\r\n", 0);
}
