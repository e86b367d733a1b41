/* server_test.c: the spawned server as its operator sees it: sockets, limits, users, stats,
 * watchers, dumps, signals and how it ends; run under TSan too. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "t/aid/harness.h"

static void stop(struct server *s, struct client *c)
{
    client_close(c);
    server_stop(s);
}

static void fill(struct client *c, unsigned keys, unsigned bytes)
{
    static char value[70000];
    memset(value, 'v', bytes);
    for (unsigned i = 0; i < keys; i++)
        client_printf(c, "set k%u 0 0 %u noreply\r\n%.*s\r\n", i, bytes, (int)bytes, value);
    client_expect_silence(c);
}

/* Sends the question, returns the lines up to END as one text. */
static const char *lines(struct client *c, const char *question)
{
    static char text[200000];
    size_t n = 0;
    client_send(c, question);
    text[0] = '\0';
    for (;;) {
        const char *line = client_line(c);
        n += (size_t)snprintf(text + n, sizeof(text) - n, "%s\n", line);
        if (strcmp(line, "END") == 0 || strcmp(line, "EN") == 0 || strcmp(line, "ERROR") == 0)
            return text;
    }
}

#define EXPECT_IN(text, part) cr_assert(strstr(text, part), "no \"%s\" in:\n%s", part, text)

/* ---- sockets ---- */

Test(server, tcp_on_a_free_port)
{
    struct server *s = server_spawn(LISTEN_TCP, "-t", "1");
    struct client *c = client_open(s);
    client_ask(c, "version\r\n", "VERSION " MEMCACHED_LEVEL "\r\n");
    char port[32];
    snprintf(port, sizeof(port), "tcp:127.0.0.1:%d", server_port(s));
    EXPECT_IN(lines(c, "stats conns\r\n"), port);
    stop(s, c);
}

Test(server, unix_socket_has_the_mode_asked_for)
{
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "1", "-a", "0750");
    struct client *c = client_open(s);
    struct stat st;
    cr_assert_eq(stat(server_socket(s), &st), 0);
    cr_assert_eq(st.st_mode & 0777, 0750);
    stop(s, c);
}

Test(server, port_in_use_is_refused_with_71)
{
    struct server *s = server_spawn(LISTEN_TCP, "-t", "1");
    char port[16], out[1000], err[4000];
    snprintf(port, sizeof(port), "%d", server_port(s));
    cr_assert_eq(server_run(out, sizeof(out), err, sizeof(err), "-u", "root", "-l", "127.0.0.1",
                            "-p", port),
                 71);
    EXPECT_IN(err, "failed to listen on TCP port");
    server_stop(s);
}

Test(server, unknown_user_is_refused_with_67)
{
    char out[1000], err[4000];
    if (geteuid() != 0)
        return;
    cr_assert_eq(server_run(out, sizeof(out), err, sizeof(err), "-u", "nobody-of-that-name"), 67);
    EXPECT_IN(err, "can't find the user nobody-of-that-name to switch to");
}

Test(server, above_maxconns_clients_are_told_and_closed)
{
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "1", "-c", "10");
    struct client *list[10];
    for (int i = 0; i < 10; i++) {
        list[i] = client_open(s);
        client_ask(list[i], "mn\r\n", "MN\r\n");
    }
    struct client *more = client_open(s);
    client_expect(more, "ERROR Too many open connections\r\n");
    client_expect_closed(more);
    client_close(more);
    cr_assert_eq(client_stat_u64(list[0], "", "rejected_connections"), 1);
    for (int i = 1; i < 10; i++)
        client_close(list[i]);
    cr_assert(wait_until(client_stat_u64(list[0], "", "curr_connections") == 1, HARNESS_ANSWER_MS));
    more = client_open(s);
    client_ask(more, "mn\r\n", "MN\r\n");
    client_close(more);
    stop(s, list[0]);
}

Test(server, without_maxconns_fast_clients_wait)
{
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "1", "-c", "10", "-o", "no_maxconns_fast");
    struct client *list[11];
    for (int i = 0; i < 11; i++)
        list[i] = client_open(s);
    client_send(list[10], "mn\r\n");
    cr_assert(wait_until(client_stat_u64(list[0], "", "listen_disabled_num") > 0, HARNESS_ANSWER_MS));
    client_close(list[9]);
    client_expect(list[10], "MN\r\n");
    for (int i = 1; i < 11; i++)
        if (i != 9)
            client_close(list[i]);
    stop(s, list[0]);
}

Test(server, idle_connections_are_closed)
{
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "1", "-o", "idle_timeout=1");
    struct client *idle = client_open(s);
    client_ask(idle, "mn\r\n", "MN\r\n");
    client_expect_closed(idle);
    client_close(idle);
    struct client *c = client_open(s);
    cr_assert_geq(client_stat_u64(c, "", "idle_kicks"), 1);
    stop(s, c);
}

Test(server, a_client_that_stops_within_a_refused_value_or_before_the_last_answer_is_idle)
{
    enum { BYTES = 250000 }; /* more than the socket takes, less than what keeps `quit` waiting */
    static char value[BYTES];
    harness_skip_if_sockets_are_large();
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "1", "-o", "idle_timeout=1");
    struct client *c = client_open(s), *refused = client_open(s), *deaf = client_open(s);
    client_printf(c, "set k 0 0 %d\r\n", BYTES);
    client_send_bytes(c, value, sizeof(value));
    client_ask(c, "\r\n", "STORED\r\n");
    client_ask(refused, "set k2 0 0 2000000\r\nxxx", "SERVER_ERROR object too large for cache\r\n");
    client_send(deaf, "get k\r\nquit\r\n");
    cr_assert(wait_until(client_stat_u64(c, "", "idle_kicks") == 2, HARNESS_ANSWER_MS));
    client_expect_closed(refused);
    client_close(refused);
    client_close(deaf);
    stop(s, c);
}

Test(server, a_slow_reader_of_a_long_answer_is_not_idle)
{
    enum { BYTES = 500000, GETS = 20, PARTS = 5 };
    static char value[BYTES], part[GETS * (BYTES + 21) / PARTS / 2];
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "1", "-o", "idle_timeout=1");
    struct client *c = client_open(s), *slow = client_open(s);
    memset(value, 'v', sizeof(value));
    client_printf(c, "set k 0 0 %d\r\n", BYTES);
    client_send_bytes(c, value, sizeof(value));
    client_ask(c, "\r\n", "STORED\r\n");
    for (int i = 0; i < GETS; i++)
        client_send(slow, "get k\r\n");
    for (int i = 0; i < PARTS; i++) {
        uint64_t second = client_stat_u64(c, "", "uptime");
        client_read(slow, part, sizeof(part));
        cr_assert(wait_until(client_stat_u64(c, "", "uptime") > second, HARNESS_ANSWER_MS));
    }
    client_read(slow, part, sizeof(part));
    client_close(slow);
    cr_assert_eq(client_stat_u64(c, "", "idle_kicks"), 0);
    stop(s, c);
}

/* Each thread has 256 KB, which 227 answers exhaust. */
Test(server, a_pipeline_longer_than_the_limit_of_buffers_is_answered)
{
    enum { REQUESTS = 2000 };
    static const char *const requests[] = {"mg none v\r\n", "get none\r\n", "get k\r\n", "set k 0 0 1\r\n1\r\n", "mg none v q\r\n"};
    static const char *const answers[] = {"EN\r\n", "END\r\n", "VALUE k 0 1\r\n1\r\nEND\r\n", "STORED\r\n", ""};
    static char all[32 * REQUESTS], want[32 * REQUESTS];
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "4", "-o", "read_buf_mem_limit=1");
    struct client *c = client_open(s);
    client_ask(c, "set k 0 0 1\r\n1\r\n", "STORED\r\n");
    for (size_t i = 0; i < ARRAY_COUNT(requests); i++) {
        all[0] = want[0] = '\0';
        for (size_t n = 0, at = 0, to = 0; n < REQUESTS; n++) {
            at += (size_t)snprintf(all + at, sizeof(all) - at, "%s", requests[i]);
            to += (size_t)snprintf(want + to, sizeof(want) - to, "%s", answers[i]);
        }
        client_send(c, all);
        client_expect(c, want);
        client_ask(c, "mn\r\n", "MN\r\n");
    }
    cr_assert_eq(client_stat_u64(c, "", "response_obj_oom"), 0);
    stop(s, c);
}

/* Requests without an answer, one in a turn: the queue stays empty, so nothing has to be sent before the next one. */
Test(server, silent_requests_do_not_use_up_the_limit_of_buffers)
{
    enum { REQUESTS = 1000 }; /* 910 answers exhaust 1 MB */
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "1", "-o", "read_buf_mem_limit=1");
    struct client *c = client_open(s), *other = client_open(s);
    for (int i = 0; i < REQUESTS; i++) {
        client_send(c, "mg none q T30\r\n");
        client_ask(other, "mn\r\n", "MN\r\n");
    }
    client_ask(c, "mn\r\n", "MN\r\n");
    client_close(other);
    stop(s, c);
}

Test(server, a_very_long_get_lets_others_in_between)
{
    enum { KEYS = 1000000, OF_A_TURN = 8192 };
    static char keys[2 * KEYS + 1];
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "1");
    struct client *c = client_open(s), *other = client_open(s);
    client_ask(c, "set k 0 0 1\r\n1\r\n", "STORED\r\n");
    for (unsigned i = 0; i < KEYS; i++)
        memcpy(keys + 2 * i, i == KEYS / 2 ? " k" : " q", 2);
    client_send(c, "get");
    client_send_bytes(c, keys, 2 * KEYS);
    client_ask(c, "\r\nget k\r\n", "VALUE k 0 1\r\n1\r\nEND\r\nVALUE k 0 1\r\n1\r\nEND\r\n");
    cr_assert_geq(client_stat_u64(other, "", "conn_yields"), KEYS / OF_A_TURN - 1);
    cr_assert_eq(client_stat_u64(other, "", "get_misses"), KEYS - 1);
    client_close(other);
    stop(s, c);
}

/* ---- users and permissions ---- */

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    cr_assert_not_null(f);
    fputs(text, f);
    fclose(f);
}

Test(server, ascii_auth_and_its_reload)
{
    char path[] = "/tmp/extant-auth-XXXXXX";
    int fd = mkstemp(path);
    close(fd);
    write_file(path, "foo:bar\nother:secret words\n");
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "1", "-Y", path);
    struct client *c = client_open(s);
    client_ask(c, "get a\r\n", "CLIENT_ERROR unauthenticated\r\n");
    client_ask(c, "set x 0 0 7\r\nfoo baz\r\n", "CLIENT_ERROR authentication failure\r\n");
    client_ask(c, "set x 0 0 6\r\nfoobar\r\n", "CLIENT_ERROR bad authentication token format\r\n");
    client_ask(c, "set x 0 0 20000\r\n", "CLIENT_ERROR auth token too long\r\n");
    client_ask(c, "set x 0 0 7\r\nfoo barXX", "CLIENT_ERROR bad command line termination\r\n");
    client_ask(c, "set x 0 0 7\r\nfoo bar\r\n", "STORED\r\n");
    client_ask(c, "get a\r\n", "END\r\n");
    client_close(c);
    c = client_open(s); /* no line end comes, and none is waited for */
    client_send_bytes(c, "\x80\x21\x00\x05", 4);
    client_expect_closed(c);
    client_close(c);
    c = client_open(s);
    client_ask(c, "set x 0 0 7\r\nfoo bar\r\n", "STORED\r\n");
    cr_assert_eq(client_stat_u64(c, "extant", "binary_rejected"), 1);
    client_close(c);
    write_file(path, "new:pass\n");
    kill(server_pid(s), SIGHUP);
    bool done = false;
    for (int64_t end = harness_now_ms() + HARNESS_ANSWER_MS; !done && harness_now_ms() < end;) {
        c = client_open(s);
        client_send(c, "set x 0 0 8\r\nnew pass\r\n");
        done = strcmp(client_line(c), "STORED") == 0;
        if (!done)
            client_close(c);
    }
    cr_assert(done, "the new user never got in");
    cr_assert_geq(client_stat_u64(c, "", "auth_errors"), 1);
    unlink(path);
    stop(s, c);
}

Test(server, switches_forbid)
{
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "1", "-F", "-X", "-W");
    struct client *c = client_open(s);
    client_ask(c, "flush_all\r\n", "CLIENT_ERROR flush_all not allowed\r\n");
    cr_assert_eq(client_stat_u64(c, "", "cmd_flush"), 1);
    client_ask(c, "stats cachedump 1 1\r\n", "CLIENT_ERROR stats cachedump not allowed\r\n");
    client_ask(c, "stats detail on\r\n", "CLIENT_ERROR stats detail not allowed\r\n");
    client_ask(c, "lru_crawler metadump all\r\n", "ERROR metadump not allowed\r\n");
    client_ask(c, "lru_crawler mgdump all\r\n", "ERROR key dump not allowed\r\n");
    client_ask(c, "watch\r\n", "CLIENT_ERROR watch commands not allowed\r\n");
    client_ask(c, "shutdown\r\n", "SERVER_ERROR: shutdown not enabled\r\n");
    stop(s, c);
}

/* ---- stats ---- */

Test(server, general_stats_are_memcacheds_in_number)
{
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "1");
    struct client *c = client_open(s);
    unsigned count = 0;
    for (const char *p = lines(c, "stats\r\n"); (p = strstr(p, "STAT ")) != NULL; p++)
        count++;
    cr_assert_eq(count, 93);
    stop(s, c);
    s = server_spawn(LISTEN_UNIX, "-t", "1", "-o", "ext_path={dir}/flash:64m,ext_page_size=8");
    c = client_open(s);
    count = 0;
    for (const char *p = lines(c, "stats\r\n"); (p = strstr(p, "STAT ")) != NULL; p++)
        count++;
    cr_assert_eq(count, 121);
    stop(s, c);
}

Test(server, stats_count_what_was_done)
{
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "2");
    struct client *c = client_open(s);
    client_ask(c, "set a 0 0 1\r\nx\r\nget a b\r\nmg a\r\nme b\r\ndelete a\r\nincr a 1\r\ntouch a 0\r\n",
               "STORED\r\nVALUE a 0 1\r\nx\r\nEND\r\nHD\r\nEN\r\nDELETED\r\nNOT_FOUND\r\nNOT_FOUND\r\n");
    static const struct {
        const char *name;
        uint64_t value;
    } want[] = {{"cmd_get", 3},     {"get_hits", 2},    {"get_misses", 1},  {"cmd_set", 1},
                {"cmd_meta", 1},    {"delete_hits", 1}, {"incr_misses", 1}, {"touch_misses", 1},
                {"total_items", 1}, {"curr_items", 0},  {"threads", 2},
                {"curr_connections", 1}};
    for (size_t i = 0; i < ARRAY_COUNT(want); i++)
        cr_assert_eq(client_stat_u64(c, "", want[i].name), want[i].value, "%s", want[i].name);
    client_ask(c, "stats reset\r\n", "RESET\r\n");
    cr_assert_eq(client_stat_u64(c, "", "cmd_get"), 0);
    stop(s, c);
}

/* After a reset, what memcached sets back to 0 is 0, or what this stats command itself has counted. */
Test(server, stats_reset_resets_the_log_too)
{
    static const char *const names[] = {"log_worker_written", "log_worker_dropped", "log_watcher_sent",
                                        "log_watcher_skipped"};
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "1");
    struct client *c = client_open(s), *w = client_open(s);
    client_ask(w, "watch fetchers\r\n", "OK\r\n");
    client_ask(c, "get a\r\n", "END\r\n");
    client_line(w);
    cr_assert(wait_until(client_stat_u64(c, "", "log_watcher_sent") > 0, HARNESS_ANSWER_MS));
    cr_assert_gt(client_stat_u64(c, "", "log_worker_written"), 0);
    client_ask(c, "stats reset\r\n", "RESET\r\n");
    for (size_t i = 0; i < ARRAY_COUNT(names); i++)
        cr_assert_eq(client_stat_u64(c, "", names[i]), 0, "%s", names[i]);
    cr_assert_eq(client_stat_u64(c, "", "log_watchers"), 1);
    client_ask(c, "get a\r\n", "END\r\n");
    client_line(w);
    cr_assert(wait_until(client_stat_u64(c, "", "log_watcher_sent") > 0, HARNESS_ANSWER_MS));
    client_close(w);
    stop(s, c);
}

Test(server, groups_of_stats)
{
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "1", "-o", "track_sizes");
    struct client *c = client_open(s);
    client_ask(c, "set a 0 0 1\r\nx\r\n", "STORED\r\n");
    EXPECT_IN(lines(c, "stats items\r\n"), "STAT items:1:number 1\n");
    EXPECT_IN(lines(c, "stats slabs\r\n"), "STAT 1:chunk_size 96\nSTAT 1:chunks_per_page 10922\n");
    EXPECT_IN(lines(c, "stats slabs\r\n"), "STAT active_slabs 1\nSTAT total_malloced 1048576\nEND");
    EXPECT_IN(lines(c, "stats settings\r\n"), "STAT num_threads 1\n");
    EXPECT_IN(lines(c, "stats s\r\n"), "STAT maxbytes 67108864\n"); /* an abbreviation */
    client_ask(c, "stats sizes\r\n", "STAT 64 1\r\nEND\r\n");
    client_ask(c, "stats extstore\r\n", "END\r\n");
    cr_assert(wait_until(strcmp(lines(c, "stats cachedump 1 10\r\n"), "END\n") != 0, HARNESS_ANSWER_MS));
    client_ask(c, "stats cachedump 1 10\r\n", "ITEM a [1 b; 0 s]\r\nEND\r\n");
    client_ask(c, "stats cachedump 1\r\n", "CLIENT_ERROR bad command line\r\n");
    client_ask(c, "stats cachedump 200 1\r\n", "CLIENT_ERROR Illegal slab id\r\n");
    stop(s, c);
}

Test(server, details_by_prefix)
{
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "1");
    struct client *c = client_open(s);
    client_ask(c, "stats detail\r\n", "CLIENT_ERROR usage: stats detail on|off|dump\r\n");
    client_ask(c, "stats detail on\r\n", "OK\r\n");
    client_ask(c, "set foo:a 0 0 1\r\nx\r\nget foo:a foo:b\r\ndelete foo:a\r\n",
               "STORED\r\nVALUE foo:a 0 1\r\nx\r\nEND\r\nDELETED\r\n");
    client_ask(c, "stats detail dump\r\n", "PREFIX foo get 2 hit 1 set 1 del 1\r\nEND\r\n");
    stop(s, c);
}

/* ---- tuning ---- */

Test(server, tuning_commands_answer)
{
    static const struct {
        const char *question, *answer;
    } asked[] = {
        {"slabs\r\n", "ERROR\r\n"},
        {"slabs reassign 1 1\r\n", "SAME src and dst class are identical\r\n"},
        {"slabs reassign 1 2\r\n", "NOSPARE source class has no spare pages\r\n"},
        {"slabs reassign 77 2\r\n", "BADCLASS invalid src or dst class id\r\n"},
        {"slabs reassign x 2\r\n", "CLIENT_ERROR bad command line format\r\n"},
        {"slabs automove 2\r\n", "OK\r\n"},
        {"slabs automove 3\r\n", "ERROR\r\n"},
        {"slabs automove ratio 0.5\r\n", "OK\r\n"},
        {"slabs automove window 2\r\n", "CLIENT_ERROR automove window too low or too high\r\n"},
        {"lru tune 10 25 0.1 2.0\r\n", "OK\r\n"},
        {"lru tune 50 40 0.1 2.0\r\n", "ERROR hot and warm pcts must not exceed 80\r\n"},
        {"lru tune 10 25 0 2.0\r\n", "ERROR hot/warm age factors must be greater than 0\r\n"},
        {"lru mode flat\r\n", "OK\r\n"},
        {"lru mode x\r\n", "ERROR\r\n"},
        {"lru temp_ttl 9\r\n", "OK\r\n"},
        {"lru_crawler sleep 2000000\r\n", "CLIENT_ERROR sleep must be one second or less\r\n"},
        {"lru_crawler tocrawl 7\r\n", "OK\r\n"},
        {"lru_crawler crawl 99\r\n", "BADCLASS invalid class id\r\n"},
        {"lru_crawler disable\r\n", "OK\r\n"},
        {"lru_crawler crawl all\r\n", "CLIENT_ERROR lru crawler disabled\r\n"},
        {"lru_crawler enable\r\n", "OK\r\n"},
        {"cache_memlimit 1\r\n", "MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\r\n"},
        {"cache_memlimit 2000000000\r\n",
         "MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes\r\n"},
        {"cache_memlimit 128\r\n", "OK\r\n"},
        {"extstore item_size 600\r\n", "OK\r\n"},
        {"extstore max_frag 0.7\r\n", "OK\r\n"},
        {"extstore drop_unread 1\r\n", "OK\r\n"},
        {"extstore free_memchunks 5 5\r\n", "OK\r\n"},
        {"extstore item_size\r\n", "ERROR\r\n"},
        {"extstore bogus 1\r\n", "ERROR\r\n"},
        {"verbosity 1\r\n", "OK\r\n"},
        {"refresh_certs\r\n", "ERROR\r\n"},
    };
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "1");
    struct client *c = client_open(s);
    for (size_t i = 0; i < ARRAY_COUNT(asked); i++)
        client_ask(c, asked[i].question, asked[i].answer);
    const char *now = lines(c, "stats settings\r\n");
    EXPECT_IN(now, "STAT maxbytes 134217728\n");
    EXPECT_IN(now, "STAT slab_automove 2\n");
    EXPECT_IN(now, "STAT hot_lru_pct 10\n");
    EXPECT_IN(now, "STAT ext_item_size 600\n");
    EXPECT_IN(now, "STAT ext_drop_unread yes\n");
    stop(s, c);
}

/* ---- watchers ---- */

Test(server, watchers_see_what_others_do)
{
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "2");
    struct client *c = client_open(s), *w = client_open(s);
    client_ask(w, "watch fetchers mutations deletions\r\n", "OK\r\n");
    client_ask(c, "set a%b 0 100 2\r\nhi\r\nget a%b\r\nmd a%b I\r\ndelete a%b\r\n",
               "STORED\r\nVALUE a%b 0 2\r\nhi\r\nEND\r\nHD\r\nDELETED\r\n");
    static const char *const want[] = {
        " type=item_get key=a%25b status=not_found clsid=0 cfd=",
        " type=item_store key=a%25b status=stored cmd=set ttl=100 clsid=1 cfd=",
        " type=item_get key=a%25b status=found clsid=1 cfd=",
        " type=item_get key=a%25b status=found clsid=1 cfd=", /* of md, which deletes nothing */
        " type=item_get key=a%25b status=found clsid=1 cfd=",
        " type=deleted key=a%25b cmd=delete clsid=1 size=2",
    };
    for (size_t i = 0; i < ARRAY_COUNT(want); i++) {
        const char *line = client_line(w);
        cr_assert_eq(strncmp(line, "ts=", 3), 0, "%s", line);
        EXPECT_IN(line, want[i]);
    }
    client_ask(c, "set a 0 -1 1\r\nx\r\nget a\r\nset b 0 0 1\r\nx\r\nflush_all\r\nget b\r\n",
               "STORED\r\nEND\r\nSTORED\r\nOK\r\nEND\r\n");
    static const char *const dead[] = {
        "key=a status=not_found ", "type=item_store key=a ", "key=a status=expired clsid=0 cfd=",
        "key=b status=not_found ", "type=item_store key=b ", "key=b status=flushed clsid=0 cfd=",
    };
    for (size_t i = 0; i < ARRAY_COUNT(dead); i++)
        EXPECT_IN(client_line(w), dead[i]);
    cr_assert_eq(client_stat_u64(c, "", "log_watchers"), 1);
    client_close(w);
    cr_assert(wait_until(client_stat_u64(c, "", "log_watchers") == 0, HARNESS_ANSWER_MS));
    cr_assert(wait_until(client_stat_u64(c, "", "curr_connections") == 1, HARNESS_ANSWER_MS));
    stop(s, c);
}

Test(server, twenty_watchers_and_no_more)
{
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "2");
    struct client *w[21];
    for (int i = 0; i < 20; i++) {
        w[i] = client_open(s);
        client_ask(w[i], "watch connevents\r\n", "OK\r\n");
    }
    w[20] = client_open(s);
    client_ask(w[20], "watch\r\n", "WATCHER_TOO_MANY log watcher limit reached\r\n");
    client_ask(w[20], "watch bogus\r\n", "ERROR\r\n");
    client_ask(w[20], "mn\r\nwatch\r\n",
               "MN\r\nERROR cannot pipeline other commands before watch\r\n");
    for (int i = 0; i < 20; i++)
        client_close(w[i]);
    stop(s, w[20]);
}

Test(server, a_watcher_that_does_not_read_loses_lines_and_is_told)
{
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "1", "-o", "watcher_logbuf_size=8");
    struct client *c = client_open(s), *w = client_open(s);
    client_ask(w, "watch fetchers\r\n", "OK\r\n");
    for (int round = 0; client_stat_u64(c, "", "log_watcher_skipped") == 0; round++) {
        cr_assert_lt(round, 1000);
        for (int i = 0; i < 500; i++)
            client_send(c, "get nothing\r\n");
        for (int i = 0; i < 500; i++)
            client_expect(c, "END\r\n");
    }
    bool told = false;
    for (int i = 0; i < 100000 && !told; i++) /* no further event is needed for that */
        told = strncmp(client_line(w), "skipped=", 8) == 0;
    cr_assert(told);
    client_close(w);
    stop(s, c);
}

/* ---- dumps ---- */

Test(server, dumps_show_every_key_and_the_connection_goes_on)
{
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "2");
    struct client *c = client_open(s);
    fill(c, 3000, 10);
    client_ask(c, "ms Zm9v 1 b F9\r\nx\r\n", "HD\r\n");
    for (int round = 0; round < 2; round++) {
        unsigned keys = 0, binary = 0;
        client_send(c, "lru_crawler metadump all\r\nmn\r\n");
        client_expect(c, "OK\r\n");
        for (const char *line; strcmp(line = client_line(c), "END") != 0; keys++) {
            cr_assert_eq(strncmp(line, "key=", 4), 0, "%s", line);
            if (strstr(line, "key=foo exp=-1 la="))
                EXPECT_IN(line, " fetch=no cls=1 size=67 flags=9 ");
        }
        client_expect(c, "MN\r\n");
        cr_assert_eq(keys, 3001);
        keys = 0;
        client_send(c, "lru_crawler mgdump all\r\n");
        client_expect(c, "OK\r\n");
        for (const char *line; strcmp(line = client_line(c), "EN") != 0; keys++) {
            cr_assert_eq(strncmp(line, "mg ", 3), 0, "%s", line);
            binary += strcmp(line, "mg Zm9v b") == 0;
        }
        cr_assert_eq(keys, 3001);
        cr_assert_eq(binary, 1);
    }
    client_ask(c, "get k5\r\nlru_crawler metadump all\r\n",
               "VALUE k5 0 10\r\nvvvvvvvvvv\r\nEND\r\n"
               "ERROR cannot pipeline other commands before metadump\r\n");
    stop(s, c);
}

Test(server, dumps_stay_whole_whatever_a_key_holds)
{
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "1", "-o", "no_lru_maintainer");
    struct client *c = client_open(s);
    /* base64 of "a\nb" and "c d"; a key with a zero byte can be given as it is */
    client_ask(c, "ms YQpi 1 b\r\nx\r\nms YyBk 1 b\r\nx\r\n", "HD\r\nHD\r\n");
    client_send_bytes(c, "set n\0l 0 0 1\r\nx\r\n", 18);
    client_expect(c, "STORED\r\n");
    client_send(c, "stats cachedump 1 0\r\n");
    client_expect(c, "ITEM n%00l [1 b; 0 s]\r\nEND\r\n"); /* memcached cuts it there */
    client_send(c, "lru_crawler mgdump all\r\n");
    client_expect(c, "OK\r\n");
    unsigned seen = 0;
    for (unsigned i = 0; i < 3; i++) {
        char line[12];
        client_read(c, line, 4);
        if (line[3] == 'n') {
            client_expect_bytes(c, "\0l\r\n", 4);
            seen |= 1;
        } else {
            client_read(c, line + 4, 7);
            line[11] = '\0';
            seen |= strcmp(line, "mg YQpi b\r\n") == 0 ? 2 : strcmp(line, "mg YyBk b\r\n") == 0 ? 4 : 0;
        }
    }
    cr_assert_eq(seen, 7);
    client_expect(c, "EN\r\n");
    stop(s, c);
}

/* The connection of the last dump is gone; the crawler may need a moment longer. */
static void dump_again(struct client *c)
{
    const char *line;
    do {
        client_send(c, "lru_crawler mgdump all\r\n");
        line = client_line(c);
    } while (strncmp(line, "BUSY", 4) == 0);
    while (strcmp(line, "EN") != 0)
        line = client_line(c);
}

Test(server, a_dump_to_a_client_that_leaves_ends)
{
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "1");
    struct client *c = client_open(s), *gone = client_open(s);
    fill(c, 20000, 10);
    client_send(gone, "lru_crawler metadump all\r\n");
    client_line(gone);
    client_close(gone);
    cr_assert(wait_until(client_stat_u64(c, "", "curr_connections") == 1, HARNESS_ANSWER_MS));
    dump_again(c);
    stop(s, c);
}

/* The dump would keep the crawler busy. */
static bool time_ends_the_dump(struct client *c)
{
    client_ask(c, "debugtime 31\r\n", "OK\r\n");
    return client_stat_u64(c, "", "curr_connections") == 1;
}

Test(server, a_dump_that_nobody_reads_ends)
{
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "2");
    struct client *c = client_open(s), *deaf = client_open(s);
    fill(c, 20000, 10);
    client_send(deaf, "lru_crawler metadump all\r\n");
    client_line(deaf);
    client_ask(c, "lru_crawler mgdump all\r\n", "BUSY currently processing crawler request\r\n");
    cr_assert(wait_until(time_ends_the_dump(c), HARNESS_ANSWER_MS));
    dump_again(c);
    client_close(deaf);
    stop(s, c);
}

/* ---- the end ---- */

Test(server, stops_at_once_with_a_dump_and_watchers_under_way)
{
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "2");
    struct client *c = client_open(s), *deaf = client_open(s), *w = client_open(s);
    fill(c, 20000, 10);
    client_ask(w, "watch fetchers\r\n", "OK\r\n");
    client_send(deaf, "lru_crawler metadump all\r\n");
    client_line(deaf);
    server_ends_well(s, SIGTERM);
    client_close(deaf);
    client_close(w);
    stop(s, c);
}

/* Asks for all connections without pause, until its own is closed. */
static void *ask_for_conns(void *arg)
{
    static const char question[] = "stats conns\r\nstats conns\r\nstats conns\r\nstats conns\r\n";
    int fd = *(int *)arg;
    char answer[65536];
    while (send(fd, question, sizeof(question) - 1, MSG_NOSIGNAL) > 0 && recv(fd, answer, sizeof(answer), 0) > 0)
        continue;
    return NULL;
}

/* A worker that has ended is still looked at by those that have not: the second waits for the end of a dump. */
Test(server, stops_while_its_workers_look_at_each_other)
{
    enum { ASKERS = 2 };
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "4"); /* the first worker had a connection of the harness */
    struct client *deaf = client_open(s), *c[ASKERS];
    pthread_t threads[ASKERS];
    int fds[ASKERS];
    for (int i = 0; i < ASKERS; i++) {
        c[i] = client_open(s);
        fds[i] = client_fd(c[i]);
    }
    fill(c[0], 20000, 10);
    client_send(deaf, "lru_crawler metadump all\r\n");
    client_line(deaf);
    for (int i = 0; i < ASKERS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, ask_for_conns, &fds[i]), 0);
    server_ends_well(s, SIGTERM);
    for (int i = 0; i < ASKERS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < ASKERS; i++)
        client_close(c[i]);
    stop(s, deaf);
}

Test(server, shutdown_command_ends_it)
{
    static const char *const how[] = {"shutdown\r\n", "shutdown graceful\r\n"};
    for (size_t i = 0; i < ARRAY_COUNT(how); i++) {
        struct server *s = server_spawn(LISTEN_UNIX, "-t", "1", "-A");
        struct client *c = client_open(s);
        client_ask(c, "shutdown now\r\n", "CLIENT_ERROR invalid shutdown mode\r\n");
        client_send(c, how[i]);
        client_expect_closed(c);
        server_ends_well(s, 0);
        stop(s, c);
    }
}

Test(server, ends_cleanly_with_flash_under_load)
{
    struct server *s =
        server_spawn(LISTEN_UNIX, "-t", "2", "-m", "16", "-o",
                     "ext_path={dir}/flash:64m,ext_page_size=8,ext_wbuf_size=2,ext_item_age=0");
    struct client *c = client_open(s), *half = client_open(s);
    fill(c, 2000, 3000);
    client_send(half, "set x 0 0 100000\r\nhalf of it");
    for (int i = 0; i < 300; i++)
        client_printf(c, "get k%d k%d k%d\r\n", i, i + 500, i + 1000);
    server_ends_well(s, SIGINT);
    client_close(half);
    stop(s, c);
}

/* The most that is read from flash for a client that has not taken it. */
Test(server, a_client_that_does_not_read_has_little_read_for_it)
{
    enum { KEYS = 60, BYTES = 500000, GETS = 100 };
    static char value[BYTES];
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "1", "-m", "16", "-o",
                                    "ext_path={dir}/flash:64m,ext_page_size=8,ext_wbuf_size=2,ext_max_sleep=120000000");
    struct client *c = client_open(s), *slow = client_open(s);
    memset(value, 'v', sizeof(value));
    for (int i = 0; i < KEYS; i++) {
        client_printf(c, "set k%d 0 0 %d noreply\r\n", i, BYTES);
        client_send_bytes(c, value, sizeof(value));
        client_send(c, "\r\n");
    }
    client_expect_silence(c);
    uint64_t before = client_stat_u64(c, "", "extstore_objects_read");
    for (int i = 0; i < GETS; i++)
        client_printf(slow, "get k%d\r\n", i % KEYS);
    cr_assert(wait_until(strstr(lines(c, "stats conns\r\n"), "conn_mwrite"), HARNESS_ANSWER_MS));
    cr_assert_lt(client_stat_u64(c, "", "extstore_objects_read") - before, 10);
    for (int i = 0; i < GETS; i++) {
        cr_assert_eq(strncmp(client_line(slow), "VALUE k", 7), 0);
        client_read(slow, value, sizeof(value));
        client_expect(slow, "\r\nEND\r\n");
    }
    client_close(slow);
    stop(s, c);
}

Test(server, pid_file_is_there_while_it_lives)
{
    struct server *s = server_spawn(LISTEN_UNIX, "-t", "1", "-P", "{dir}/pid");
    struct client *c = client_open(s);
    char path[4096], text[32] = "";
    snprintf(path, sizeof(path), "%s/pid", server_dir(s));
    struct stat st; /* as in memcached, it is written when the sockets are there */
    cr_assert(wait_until(stat(path, &st) == 0 && st.st_size > 0, HARNESS_ANSWER_MS));
    FILE *f = fopen(path, "r");
    cr_assert_not_null(f);
    cr_assert_not_null(fgets(text, sizeof(text), f));
    fclose(f);
    cr_assert_eq(atoi(text), server_pid(s));
    server_ends_well(s, SIGTERM);
    cr_assert_neq(access(path, F_OK), 0);
    stop(s, c);
}
