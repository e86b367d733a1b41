/* protocol_test.c: a spawned server's answers to the text and meta protocol, byte for byte, and the
 * order in which they come. */
#include <criterion/criterion.h>

#include <sys/socket.h>

#include "t/aid/harness.h"

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

TestSuite(protocol, .init = open_ram, .fini = close_it);
TestSuite(protocol_flash, .init = open_flash, .fini = close_it);

#define KEY_250                                                                                    \
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890"  \
    "1234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901"  \
    "23456789012345678901234567890123456789012345678901234567890123456789"

/* ---- classic ---- */

Test(protocol, set_get_gets_delete)
{
    client_ask(c, "set a 5 0 3\r\nabc\r\n", "STORED\r\n");
    client_ask(c, "get a\r\n", "VALUE a 5 3\r\nabc\r\nEND\r\n");
    client_ask(c, "gets a\r\n", "VALUE a 5 3 1\r\nabc\r\nEND\r\n");
    client_ask(c, "delete a\r\n", "DELETED\r\n");
    client_ask(c, "delete a\r\n", "NOT_FOUND\r\n");
    client_ask(c, "get a\r\n", "END\r\n");
}

Test(protocol, bare_newline_ends_a_line)
{
    client_ask(c, "set a 0 0 1\nx\r\n", "STORED\r\n");
    client_ask(c, "get a\n", "VALUE a 0 1\r\nx\r\nEND\r\n");
}

Test(protocol, empty_value_and_longest_key)
{
    client_ask(c, "set " KEY_250 " 0 0 0\r\n\r\n", "STORED\r\n");
    client_ask(c, "get " KEY_250 "\r\n", "VALUE " KEY_250 " 0 0\r\n\r\nEND\r\n");
    client_ask(c, "get " KEY_250 "x\r\n", "CLIENT_ERROR bad command line format\r\n\r\n");
    client_ask(c, "set " KEY_250 "x 0 0 1\r\ny\r\n", "CLIENT_ERROR bad command line format\r\n");
    client_expect_silence(c);
}

Test(protocol, long_key_in_a_multiget_spoils_all_of_it)
{
    client_ask(c, "set a 0 0 1\r\nx\r\n", "STORED\r\n");
    client_ask(c, "get a " KEY_250 "x a\r\n", "CLIENT_ERROR bad command line format\r\n\r\n");
}

Test(protocol, add_replace_append_prepend)
{
    client_ask(c, "replace a 0 0 1\r\nx\r\n", "NOT_STORED\r\n");
    client_ask(c, "append a 0 0 1\r\nx\r\n", "NOT_STORED\r\n");
    client_ask(c, "add a 3 0 1\r\nx\r\n", "STORED\r\n");
    client_ask(c, "add a 0 0 1\r\ny\r\n", "NOT_STORED\r\n");
    client_ask(c, "append a 9 0 2\r\nyz\r\n", "STORED\r\n");
    client_ask(c, "prepend a 9 0 1\r\nw\r\n", "STORED\r\n");
    client_ask(c, "get a\r\n", "VALUE a 3 4\r\nwxyz\r\nEND\r\n");
    client_ask(c, "replace a 4 0 1\r\nr\r\n", "STORED\r\n");
    client_ask(c, "get a\r\n", "VALUE a 4 1\r\nr\r\nEND\r\n");
}

Test(protocol, cas)
{
    client_ask(c, "cas a 0 0 1 1\r\nx\r\n", "NOT_FOUND\r\n");
    client_ask(c, "set a 0 0 1\r\nx\r\n", "STORED\r\n");
    client_ask(c, "gets a\r\n", "VALUE a 0 1 1\r\nx\r\nEND\r\n");
    client_ask(c, "cas a 0 0 1 9\r\ny\r\n", "EXISTS\r\n");
    client_ask(c, "cas a 0 0 1 1\r\ny\r\n", "STORED\r\n");
    client_ask(c, "get a\r\n", "VALUE a 0 1\r\ny\r\nEND\r\n");
}

Test(protocol, incr_decr)
{
    client_ask(c, "incr n 1\r\n", "NOT_FOUND\r\n");
    client_ask(c, "set n 0 0 2\r\n10\r\n", "STORED\r\n");
    client_ask(c, "decr n 1\r\n", "9\r\n");
    client_ask(c, "get n\r\n", "VALUE n 0 2\r\n9 \r\nEND\r\n");
    client_ask(c, "incr n 18446744073709551615\r\n", "8\r\n");
    client_ask(c, "decr n 100\r\n", "0\r\n");
    client_ask(c, "incr n x\r\n", "CLIENT_ERROR invalid numeric delta argument\r\n");
    client_ask(c, "set n 0 0 1\r\nx\r\n", "STORED\r\n");
    client_ask(c, "incr n 1\r\n",
               "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n");
}

Test(protocol, incr_and_decr_of_large_numbers)
{
    client_ask(c, "set n 0 0 20\r\n18446744073709551615\r\n", "STORED\r\n");
    client_ask(c, "incr n 0\r\n", "18446744073709551615\r\n");
    client_ask(c, "incr n 3\r\n", "2\r\n"); /* round and on, as in memcached */
    client_ask(c, "decr n 18446744073709551615\r\n", "0\r\n");
    client_ask(c, "set n 0 0 19\r\n9223372036854775807\r\n", "STORED\r\n");
    client_ask(c, "incr n 1\r\n", "9223372036854775808\r\n");
    client_ask(c, "decr n 1\r\n", "9223372036854775807\r\n");
    client_ask(c, "ma n D9223372036854775808 v\r\n", "VA 20\r\n18446744073709551615\r\n");
    client_ask(c, "set n 0 0 20\r\n18446744073709551616\r\n", "STORED\r\n");
    client_ask(c, "incr n 1\r\n", "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n");
}

Test(protocol, incr_of_a_value_of_several_chunks_is_no_number)
{
    enum { BYTES = 700 * 1024 };
    static char value[BYTES + 1];
    memset(value, ' ', BYTES);
    value[0] = '5';
    client_printf(c, "set n 0 0 %d\r\n%s\r\n", BYTES, value);
    client_expect(c, "STORED\r\n");
    client_ask(c, "incr n 1\r\n",
               "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n");
    client_ask(c, "ma n C99\r\n",
               "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n");
    client_ask(c, "mg n s\r\n", "HD s716800\r\n");
    value[400 * 1024] = '\0'; /* one chunk */
    client_printf(c, "set n 0 0 %d\r\n%s\r\n", 400 * 1024, value);
    client_expect(c, "STORED\r\n");
    client_ask(c, "incr n 1\r\n", "6\r\n");
}

Test(protocol, a_refused_number_leaves_the_item_as_it_is)
{
    client_ask(c, "debugtime p\r\n", "OK\r\n"); /* no second ends between two lines */
    client_ask(c, "set n 7 100 1\r\n5\r\n", "STORED\r\n");
    client_ask(c, "touch n 4294967295\r\n", "CLIENT_ERROR invalid exptime argument\r\n");
    client_ask(c, "gat +5 n\r\n", "CLIENT_ERROR invalid exptime argument\r\n");
    client_ask(c, "incr n +5\r\n", "CLIENT_ERROR invalid numeric delta argument\r\n");
    client_ask(c, "decr n 5\t\r\n", "CLIENT_ERROR invalid numeric delta argument\r\n");
    client_ask(c, "cas n 0 0 1 +1\r\n6\r\n", "CLIENT_ERROR bad command line format\r\n");
    client_ask(c, "mg n T4294967296 v\r\n", "CLIENT_ERROR bad token in command line format\r\n");
    client_ask(c, "ms n 1 F4294967296\r\n6\r\n", "CLIENT_ERROR bad command line format\r\n");
    client_ask(c, "ma n D+1\r\n", "CLIENT_ERROR invalid or duplicate flag\r\n");
    client_ask(c, "md n C5\t\r\n", "CLIENT_ERROR bad token in command line format\r\n");
    client_ask(c, "mg n v f t c\r\n", "VA 1 f7 t100 c1\r\n5\r\n");
}

Test(protocol, touch_and_gat)
{
    client_ask(c, "debugtime p\r\n", "OK\r\n"); /* no second ends between two lines */
    client_ask(c, "set a 0 100 1\r\nx\r\n", "STORED\r\n");
    client_ask(c, "touch a 200\r\n", "TOUCHED\r\n");
    client_ask(c, "touch b 200\r\n", "NOT_FOUND\r\n");
    client_ask(c, "mg a t\r\n", "HD t200\r\n");
    client_ask(c, "gat 300 a b\r\n", "VALUE a 0 1\r\nx\r\nEND\r\n");
    client_ask(c, "gats 400 a\r\n", "VALUE a 0 1 1\r\nx\r\nEND\r\n");
    client_ask(c, "mg a t\r\n", "HD t400\r\n");
    client_ask(c, "gat x a\r\n", "CLIENT_ERROR invalid exptime argument\r\n");
    client_ask(c, "touch a -1\r\n", "TOUCHED\r\n");
    client_ask(c, "get a\r\n", "END\r\n");
}

Test(protocol, noreply_is_silent)
{
    client_send(c, "set a 0 0 1 noreply\r\nx\r\nadd a 0 0 1 noreply\r\ny\r\nincr a 1 noreply\r\n"
                   "touch a 0 noreply\r\ndelete b noreply\r\nverbosity 0 noreply\r\n"
                   "flush_all 1000 noreply\r\nset a 0 0 2000000 noreply\r\n");
    static char waste[2000002];
    memset(waste, 'w', sizeof(waste));
    memcpy(waste + 2000000, "\r\n", 2);
    client_send_bytes(c, waste, sizeof(waste));
    client_expect_silence(c);
}

Test(protocol, errors_of_the_command_line)
{
    static const char *const bad[] = {"get\r\n",       "set a 0 0\r\n",  "a\r\n",
                                      "touch a\r\n",   "incr a\r\n",     "set a 0 0 -1\r\n",
                                      "verbosity\r\n", "set a 0 0 2147483647\r\n"};
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        client_ask(c, bad[i], "CLIENT_ERROR bad command line format\r\n");
    client_ask(c, "bogus\r\n", "ERROR\r\n");
    client_ask(c, "stats bogus\r\n", "ERROR\r\n");
    client_ask(c, "set a 0 x 1\r\ny\r\n", "CLIENT_ERROR bad command line format\r\n");
    client_expect_silence(c);
}

Test(protocol, bad_chunk_takes_two_bytes_more)
{
    client_ask(c, "set a 0 0 3\r\nabcdefgh\r\n", "CLIENT_ERROR bad data chunk\r\nERROR\r\n");
    client_ask(c, "get a\r\n", "END\r\n");
}

Test(protocol, too_large_is_swallowed_and_the_old_value_goes)
{
    static char value[1100002];
    memset(value, 'v', sizeof(value));
    memcpy(value + 1100000, "\r\n", 2);
    client_ask(c, "set a 0 0 1\r\nx\r\n", "STORED\r\n");
    client_send(c, "set a 0 0 1100000\r\n");
    client_send_bytes(c, value, sizeof(value));
    client_expect(c, "SERVER_ERROR object too large for cache\r\n");
    client_ask(c, "get a\r\n", "END\r\n");
    client_ask(c, "set a 0 0 1\r\nx\r\n", "STORED\r\n");
    client_send(c, "add a 0 0 1100000\r\n");
    client_send_bytes(c, value, sizeof(value));
    client_expect(c, "SERVER_ERROR object too large for cache\r\n");
    client_ask(c, "get a\r\n", "VALUE a 0 1\r\nx\r\nEND\r\n");
}

Test(protocol, values_of_every_size_come_back)
{
    static char value[1000000], back[1000000];
    for (size_t i = 0; i < sizeof(value); i++)
        value[i] = (char)(i * 7 + i / 251);
    static const size_t sizes[] = {1,     511,   512,   1023,   1024,  1025,
                                   16000, 16384, 40000, 524288, 999999};
    for (size_t i = 0; i < ARRAY_COUNT(sizes); i++) {
        client_printf(c, "set v%zu 0 0 %zu\r\n", i, sizes[i]);
        client_send_bytes(c, value, sizes[i]);
        client_ask(c, "\r\n", "STORED\r\n");
    }
    for (size_t i = 0; i < ARRAY_COUNT(sizes); i++) {
        char head[64];
        client_printf(c, "get v%zu\r\n", i);
        snprintf(head, sizeof(head), "VALUE v%zu 0 %zu\r\n", i, sizes[i]);
        client_expect(c, head);
        client_read(c, back, sizes[i]);
        cr_assert_arr_eq(back, value, sizes[i]);
        client_expect(c, "\r\nEND\r\n");
    }
}

Test(protocol, multiget_of_5000_keys)
{
    enum { KEYS = 5000 };
    static char line[KEYS * 12 + 16];
    for (int i = 0; i < KEYS; i += 2)
        client_printf(c, "set key%d %d 0 6 noreply\r\n%06d\r\n", i, i, i);
    client_expect_silence(c);
    size_t n = 3;
    memcpy(line, "get", 3);
    for (int i = 0; i < KEYS; i++)
        n += (size_t)sprintf(line + n, " key%d", i);
    memcpy(line + n, "\r\n", 3);
    client_send(c, line);
    for (int i = 0; i < KEYS; i += 2) {
        char want[64];
        snprintf(want, sizeof(want), "VALUE key%d %d 6\r\n%06d\r\n", i, i, i);
        client_expect(c, want);
    }
    client_expect(c, "END\r\n");
}

static const char conversation[] = "set a 1 0 5\r\nhello\r\nget a\r\nms b 2 T0 c\r\nhi\r\n"
                                   "mg b v\r\n"
                                   "bogus\r\nset a 0 0 2\r\nxyz\r\nincr q 1\r\nmn\r\nget a b\r\n";
static const char answers[] = "STORED\r\nVALUE a 1 5\r\nhello\r\nEND\r\nHD c2\r\nVA 2\r\nhi\r\n"
                              "ERROR\r\nCLIENT_ERROR bad data chunk\r\n"
                              "CLIENT_ERROR bad command line format\r\nNOT_FOUND\r\nMN\r\n"
                              "VALUE a 1 5\r\nhello\r\nVALUE b 0 2\r\nhi\r\nEND\r\n";

Test(protocol, pipelined_requests_are_answered_in_order)
{
    client_ask(c, conversation, answers);
}

Test(protocol, byte_by_byte_is_the_same)
{
    for (size_t i = 0; i < sizeof(conversation) - 1; i++)
        client_send_bytes(c, conversation + i, 1);
    client_expect(c, answers);
}

/* What was looked up ahead for a line's key is never used for another line (debug builds check it), whatever
 * comes between: errors, values that look like lines, keys of other forms. */
Test(protocol, pipelines_of_mixed_lines)
{
    static const char lines[] = "set b 0 0 2\r\nxx\r\n"
                                "get a\r\nnonsense\r\nget b a b\r\n"
                                "set c 0 0 7\r\nget b\r\n\r\n"
                                "mg Yg== b v k\r\nget c\r\nmg b v k\r\n"
                                "set d 0 0 x\r\nset  e 0 0 0\r\n\r\nget  e\r\n"
                                "gat 0 b\r\ndelete b\r\nget b\r\nget c\r\n";
    static const char replies[] = "STORED\r\n"
                                  "END\r\nERROR\r\nVALUE b 0 2\r\nxx\r\nVALUE b 0 2\r\nxx\r\nEND\r\n"
                                  "STORED\r\n"
                                  "VA 2 kb\r\nxx\r\nVALUE c 0 7\r\nget b\r\n\r\nEND\r\nVA 2 kb\r\nxx\r\n"
                                  "CLIENT_ERROR bad command line format\r\nSTORED\r\nVALUE e 0 0\r\n\r\nEND\r\n"
                                  "VALUE b 0 2\r\nxx\r\nEND\r\nDELETED\r\nEND\r\n"
                                  "VALUE c 0 7\r\nget b\r\n\r\nEND\r\n";
    for (int i = 0; i < 3; i++)
        client_ask(c, lines, replies);
}

Test(protocol, ten_thousand_pipelined_gets)
{
    client_ask(c, "set a 0 0 3\r\nabc\r\n", "STORED\r\n");
    static char all[10000 * 7 + 1];
    for (int i = 0; i < 10000; i++)
        memcpy(all + i * 7, "get a\r\n", 7);
    client_send(c, all);
    for (int i = 0; i < 10000; i++)
        client_expect(c, "VALUE a 0 3\r\nabc\r\nEND\r\n");
    cr_assert_gt(client_stat_u64(c, "", "conn_yields"), 100);
}

Test(protocol, line_of_2049_bytes_without_end_closes)
{
    char line[2050];
    memset(line, 'x', sizeof(line));
    client_send_bytes(c, line, 2049);
    client_expect_closed(c);
}

Test(protocol, long_get_line_is_no_error)
{
    static char line[140000];
    size_t n = (size_t)sprintf(line, "get");
    while (n < sizeof(line) - 20)
        n += (size_t)sprintf(line + n, " nothing%zu", n);
    client_send(c, line);
    client_ask(c, "\r\n", "END\r\n");
}

Test(protocol, http_closes)
{
    client_send(c, "GET / HTTP/1.1\r\n");
    client_expect_closed(c);
}

Test(protocol, quit_sends_what_came_before)
{
    client_send(c, "set a 0 0 1\r\nx\r\nget a\r\nquit\r\nget a\r\n");
    client_expect(c, "STORED\r\nVALUE a 0 1\r\nx\r\nEND\r\n");
    client_expect_closed(c);
}

Test(protocol, version_and_verbosity)
{
    client_ask(c, "version\r\n", "VERSION " MEMCACHED_LEVEL "\r\n");
    client_ask(c, "verbosity 1\r\n", "OK\r\n");
    client_ask(c, "verbosity x\r\n", "CLIENT_ERROR bad command line format\r\n");
}

Test(protocol, flush_all_now_and_later)
{
    client_ask(c, "set a 0 0 1\r\nx\r\n", "STORED\r\n");
    client_ask(c, "flush_all x\r\n", "CLIENT_ERROR invalid exptime argument\r\n");
    client_ask(c, "flush_all 100\r\n", "OK\r\n");
    client_ask(c, "get a\r\n", "VALUE a 0 1\r\nx\r\nEND\r\n");
    client_ask(c, "flush_all\r\n", "OK\r\n");
    client_ask(c, "get a\r\n", "END\r\n");
}

/* ---- meta ---- */

Test(protocol, what_is_stored_after_a_flush_lives_though_another_came_in_this_second)
{
    client_ask(c, "debugtime p\r\n", "OK\r\n");
    client_ask(c, "set a 0 0 1\r\nx\r\nflush_all 1\r\nget a\r\n", "STORED\r\nOK\r\nEND\r\n");
    client_ask(c, "set a 0 0 1\r\ny\r\nget a\r\n", "STORED\r\nEND\r\n");
    client_ask(c, "flush_all\r\nset a 0 0 1\r\nz\r\nget a\r\n",
               "OK\r\nSTORED\r\nVALUE a 0 1\r\nz\r\nEND\r\n");
}

Test(protocol, meta_get_flags)
{
    client_ask(c, "debugtime p\r\n", "OK\r\n"); /* no second ends between two lines */
    client_ask(c, "mg a v\r\n", "EN\r\n");
    client_ask(c, "mg a v q\r\n", "");
    client_ask(c, "set a 7 100 2\r\nhi\r\n", "STORED\r\n");
    client_ask(c, "mg a\r\n", "HD\r\n");
    client_ask(c, "mg a s v k t f Oab c\r\n", "VA 2 s2 ka t100 f7 Oab c1\r\nhi\r\n");
    client_ask(c, "mg a v C1\r\n", "HD\r\n");
    client_ask(c, "mg a v C2\r\n", "VA 2\r\nhi\r\n");
    client_ask(c, "mg b k Oz\r\n", "EN kb Oz\r\n");
}

Test(protocol, meta_get_hit_before_and_idle)
{
    client_ask(c, "debugtime p\r\n", "OK\r\n"); /* no second ends between two lines */
    client_ask(c, "ms a 1\r\nx\r\n", "HD\r\n");
    client_ask(c, "mg a h u\r\n", "HD h0\r\n");
    client_ask(c, "mg a h l\r\n", "HD h0 l0\r\n");
    client_ask(c, "mg a h l\r\n", "HD h1 l0\r\n");
}

Test(protocol, meta_get_vivify_one_wins)
{
    client_ask(c, "debugtime p\r\n", "OK\r\n"); /* no second ends between two lines */
    client_ask(c, "mg a N30 v t\r\n", "VA 0 t30 W\r\n\r\n");
    client_ask(c, "mg a N30 v t\r\n", "VA 0 t30 Z\r\n\r\n");
    client_ask(c, "ms a 1\r\nx\r\n", "HD\r\n");
    client_ask(c, "mg a N30 v\r\n", "VA 1\r\nx\r\n");
}

Test(protocol, meta_stale_and_recache_tokens)
{
    client_ask(c, "debugtime p\r\n", "OK\r\n"); /* no second ends between two lines */
    client_ask(c, "ms a 2 T300\r\nhi\r\n", "HD\r\n");
    client_ask(c, "md a I T30\r\n", "HD\r\n");
    client_ask(c, "mg a v t\r\n", "VA 2 t30 X W\r\nhi\r\n");
    client_ask(c, "mg a v t\r\n", "VA 2 t30 Z X\r\nhi\r\n");
    client_ask(c, "ms a 2 T20\r\nho\r\n", "HD\r\n");
    client_ask(c, "mg a R30 v\r\n", "VA 2 W\r\nho\r\n");
    client_ask(c, "mg a R30 v\r\n", "VA 2 Z\r\nho\r\n");
}

Test(protocol, meta_set_modes_and_cas)
{
    client_ask(c, "debugtime p\r\n", "OK\r\n"); /* no second ends between two lines */
    client_ask(c, "ms a 2 c k Oq\r\nhi\r\n", "HD c1 ka Oq\r\n");
    client_ask(c, "ms a 2 ME\r\nho\r\n", "NS\r\n");
    client_ask(c, "ms a 2 MR\r\nho\r\n", "HD\r\n");
    client_ask(c, "ms a 1 MA\r\n!\r\n", "HD\r\n");
    client_ask(c, "ms a 1 MP\r\n>\r\n", "HD\r\n");
    client_ask(c, "mg a v\r\n", "VA 4\r\n>ho!\r\n");
    client_ask(c, "ms a 2 MA s\r\n??\r\n", "HD s6\r\n"); /* of the whole */
    client_ask(c, "ms a 1 MP s\r\n<\r\n", "HD s7\r\n");
    client_ask(c, "ms a 1 C99 c\r\nx\r\n", "EX c0\r\n");
    client_ask(c, "ms b 1 C99\r\nx\r\n", "NF\r\n");
    client_ask(c, "ms a 1 E500\r\nx\r\n", "HD\r\n");
    client_ask(c, "mg a c\r\n", "HD c500\r\n");
    client_ask(c, "ms a 1 I C400\r\ny\r\n", "HD\r\n");
    client_ask(c, "mg a v\r\n", "VA 1 X W\r\ny\r\n");
    client_ask(c, "ms c 1 MA N60\r\nx\r\n", "HD\r\n");
    client_ask(c, "mg c t v\r\n", "VA 1 t60\r\nx\r\n");
    client_ask(c, "ms a 1 q\r\nx\r\n", "");
    client_ask(c, "ms a 1 MX\r\nx\r\n", "CLIENT_ERROR invalid mode for ms M token\r\n");
    client_ask(c, "ms a S1\r\nget a\r\n",
               "CLIENT_ERROR bad command line format\r\nVALUE a 0 1\r\nx\r\nEND\r\n");
}

Test(protocol, meta_bad_chunk_is_told_even_with_q)
{
    client_ask(c, "ms a 1 q\r\nxyz", "CLIENT_ERROR bad data chunk\r\n");
    client_expect_silence(c);
}

Test(protocol, meta_delete)
{
    client_ask(c, "md a\r\n", "NF\r\n");
    client_ask(c, "ms a 2 c F5\r\nhi\r\n", "HD c1\r\n");
    client_ask(c, "md a C9\r\n", "EX\r\n");
    client_ask(c, "md a x\r\n", "HD\r\n");
    client_ask(c, "mg a v f\r\n", "VA 0 f0\r\n\r\n");
    client_ask(c, "md a k Oz\r\n", "HD ka Oz\r\n");
    client_ask(c, "md a q\r\nms a 1\r\nx\r\nmd a q\r\n", "NF\r\nHD\r\n");
    client_expect_silence(c);
}

Test(protocol, meta_arithmetic)
{
    client_ask(c, "debugtime p\r\n", "OK\r\n"); /* no second ends between two lines */
    client_ask(c, "ma n\r\n", "NF\r\n");
    client_ask(c, "ma n N90 J13 v t\r\n", "VA 2 t90\r\n13\r\n");
    client_ask(c, "ma n v\r\n", "VA 2\r\n14\r\n");
    client_ask(c, "ma n D6 v k Oz\r\n", "VA 2 kn Oz\r\n20\r\n");
    client_ask(c, "ma n MD D15 v\r\n", "VA 1\r\n5\r\n");
    client_ask(c, "ma n M- D15\r\n", "HD\r\n");
    client_ask(c, "ma n q\r\n", "");
    client_ask(c, "ma n MQ\r\n", "CLIENT_ERROR invalid mode for ma M token\r\n");
    client_ask(c, "ma n Dx\r\n", "CLIENT_ERROR invalid or duplicate flag\r\n");
    client_ask(c, "set n 0 0 1\r\nx\r\n", "STORED\r\n");
    client_ask(c, "ma n\r\n", "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n");
}

Test(protocol, meta_base64_keys)
{
    client_ask(c, "ms Zm9v 3 b\r\nabc\r\n", "HD\r\n");
    client_ask(c, "mg Zm9v b k v\r\n", "VA 3 kZm9v b\r\nabc\r\n");
    client_ask(c, "get foo\r\n", "VALUE foo 0 3\r\nabc\r\nEND\r\n");
    client_ask(c, "ms ! 1 b\r\nx\r\n", "CLIENT_ERROR error decoding key\r\n");
    client_expect_silence(c);
}

Test(protocol, meta_debug)
{
    client_ask(c, "me a\r\n", "EN\r\n");
    client_ask(c, "ms a 2\r\nhi\r\n", "HD\r\n");
    client_ask(c, "me a\r\n", "ME a exp=-1 la=0 cas=1 fetch=no cls=1 size=62\r\n");
}

/* ---- flash ---- */

static bool all_on_flash(unsigned objects)
{
    return client_stat_u64(c, "extant", "flash_objects") == objects;
}

static void fill(unsigned keys, unsigned bytes)
{
    char value[5000];
    for (unsigned i = 0; i < keys; i++) {
        memset(value, 'a' + (int)(i % 26), bytes);
        client_printf(c, "set k%u %u 0 %u noreply\r\n%.*s\r\n", i, i, bytes, (int)bytes, value);
    }
    client_expect_silence(c);
    cr_assert(wait_until(all_on_flash(keys), HARNESS_ANSWER_MS), "values did not reach flash");
}

static void expect_hit(unsigned i, unsigned bytes)
{
    char value[5000], want[5100];
    memset(value, 'a' + (int)(i % 26), bytes);
    snprintf(want, sizeof(want), "VALUE k%u %u %u\r\n%.*s\r\n", i, i, bytes, (int)bytes, value);
    client_expect(c, want);
}

Test(protocol_flash, multiget_from_flash_is_in_order)
{
    enum { KEYS = 1000 };
    static char line[KEYS * 8 + 16];
    fill(KEYS, 3000);
    size_t n = (size_t)sprintf(line, "get");
    for (unsigned i = 0; i < KEYS; i++)
        n += (size_t)sprintf(line + n, " k%u", i);
    sprintf(line + n, "\r\nmn\r\n");
    client_send(c, line);
    for (unsigned i = 0; i < KEYS; i++)
        expect_hit(i, 3000);
    client_expect(c, "END\r\nMN\r\n");
    cr_assert_geq(client_stat_u64(c, "", "get_extstore"), KEYS);
}

Test(protocol_flash, reads_and_changes_of_one_client_keep_their_order)
{
    fill(200, 500);
    for (unsigned i = 0; i < 200; i++)
        client_printf(c, "get k%u\r\nset k%u 0 0 1\r\n%u\r\nget k%u\r\ndelete k%u\r\nmg k%u q\r\n",
                      i, i, i % 10, i, i, i);
    for (unsigned i = 0; i < 200; i++) {
        char want[80];
        expect_hit(i, 500);
        snprintf(want, sizeof(want), "END\r\nSTORED\r\nVALUE k%u 0 1\r\n%u\r\nEND\r\nDELETED\r\n",
                 i, i % 10);
        client_expect(c, want);
    }
    client_expect_silence(c);
}

/* The lines for watchers show the order in which requests were executed. "r" is in RAM, so it is executed at once
 * if nothing holds it back; the control shows that it overtakes a read of flash. */
static void expect_done_in_order(const char *requests, const char *first, const char *second)
{
    char key[64];
    struct client *w = client_open(server);
    client_ask(w, "watch fetchers\r\n", "OK\r\n");
    client_printf(c, "%smn\r\n", requests);
    while (strcmp(client_line(c), "MN") != 0)
        ;
    snprintf(key, sizeof(key), " key=%s ", first);
    const char *line = client_line(w);
    cr_assert(strstr(line, key), "%s: not first: %s", requests, line);
    snprintf(key, sizeof(key), " key=%s ", second);
    line = client_line(w);
    cr_assert(strstr(line, key), "%s: not second: %s", requests, line);
    client_close(w);
}

Test(protocol_flash, what_changes_on_reading_keeps_its_place_among_parked_gets)
{
    static const char *const pairs[][2] = {
        {"gets %s", "gat 100 r"}, {"get %s", "gats 100 r"}, {"gat 100 %s", "get r"},
        {"mg %s v", "mg r T100 v"}, {"mg %s v", "mg r N100 v"}, {"mg %s v", "mg r R1 v"},
        {"mg %s v", "mg r E500 v"}, {"mg %s T100 v", "mg r v"}, {"mg %s N100 v", "mg r v"},
    };
    char requests[80], key[8];
    fill(6000, 3000); /* more than the buffers hold, so the first keys are read from the device */
    client_ask(c, "set r 0 0 1\r\nx\r\n", "STORED\r\n");
    expect_done_in_order("get k20\r\nget r\r\n", "r", "k20"); /* the control */
    for (unsigned i = 0; i < ARRAY_COUNT(pairs); i++) {
        snprintf(key, sizeof(key), "k%u", i);
        int n = snprintf(requests, sizeof(requests), pairs[i][0], key);
        snprintf(requests + n, sizeof(requests) - (size_t)n, "\r\n%s\r\n", pairs[i][1]);
        expect_done_in_order(requests, key, "r");
    }
}

Test(protocol_flash, all_verbs_work_on_flash_values)
{
    client_ask(c, "set n 3 0 70\r\n00000000000000000000000000000000000000000000000000"
                  "00000000000000000007\r\n", "STORED\r\n");
    char ten[101];
    memset(ten, 'x', 100);
    ten[100] = 0;
    client_printf(c, "set s 4 500 100\r\n%s\r\n", ten);
    client_expect(c, "STORED\r\n");
    cr_assert(wait_until(all_on_flash(2), HARNESS_ANSWER_MS));
    client_ask(c, "debugtime p\r\n", "OK\r\n"); /* no second ends between two lines */
    client_ask(c, "mg s f s c\r\n", "HD f4 s100 c2\r\n");
    client_ask(c, "add s 0 0 1\r\ny\r\n", "NOT_STORED\r\n");
    client_ask(c, "cas s 0 0 1 99\r\ny\r\n", "EXISTS\r\n");
    client_ask(c, "append s 0 0 2\r\nyz\r\n", "STORED\r\n");
    client_ask(c, "mg s s f\r\n", "HD s102 f4\r\n");
    client_ask(c, "touch s 900\r\n", "TOUCHED\r\n");
    client_ask(c, "mg s t\r\n", "HD t900\r\n");
    client_ask(c, "incr n 1\r\n", "8\r\n");
    client_ask(c, "delete s\r\n", "DELETED\r\n");
    client_ask(c, "get s\r\n", "END\r\n");
}

Test(protocol_flash, client_that_never_reads_stays_bounded)
{
    fill(500, 4000);
    struct client *deaf = client_open(server);
    static char many[64 * 1024];
    size_t n = 0;
    for (unsigned i = 0; n < sizeof(many) - 16; i++)
        n += (size_t)sprintf(many + n, "get k%u\r\n", i % 500);
    /* as much as the server takes: it stops reading when its replies are not read */
    uint64_t sent = 0;
    while (sent < 64 * MiB) {
        ssize_t w = send(client_fd(deaf), many, n, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (w < 0) {
            cr_assert_eq(errno, EAGAIN);
            break;
        }
        sent += (uint64_t)w;
    }
    cr_assert_lt(sent, 64 * MiB, "the server reads without end");
    cr_assert_lt(client_stat_u64(c, "", "read_buf_bytes"), 4 * MiB);
    client_send(c, "get k1\r\n");
    expect_hit(1, 4000);
    client_expect(c, "END\r\n");
    client_close(deaf);
}

Test(protocol_flash, client_that_leaves_while_its_reads_are_under_way)
{
    fill(500, 4000);
    for (int round = 0; round < 20; round++) {
        struct client *gone = client_open(server);
        for (unsigned i = 0; i < 100; i++)
            client_printf(gone, "get k%u k%u\r\n", i, i + 200);
        client_close(gone);
    }
    cr_assert(wait_until(client_stat_u64(c, "", "curr_connections") == 1, HARNESS_ANSWER_MS));
}
