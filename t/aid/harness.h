/* harness.h: spawns a memcached-like server and talks to it byte for byte.
 *
 * For Criterion tests of the protocol. Every server has its own directory, in
 * which its socket, log and flash files live, so tests pass beside each other.
 * Nothing here sleeps for a fixed time: it waits for what it needs, and gives up only after a time that nothing
 * but a hang takes, even on a busy machine. Any error fails the running
 * test at the caller's line, with the bytes in question and the end of the server's log.
 *
 * The binary is $EXTANT_BIN, else the sanitizer build that matches the test's
 * own (build/extant-asan or build/extant-tsan), else ./extant-debug. Servers
 * die with the test that started them. One thread per server and per client.
 */
#ifndef EXTANT_T_HARNESS_H
#define EXTANT_T_HARNESS_H

#include <sys/types.h>

#include "base/base.h"

enum {
    HARNESS_START_MS = 120000,  /* from exec to the first accepted connection */
    HARNESS_ANSWER_MS = 120000, /* longest wait for bytes of an answer */
    HARNESS_STOP_MS = 120000,   /* from SIGTERM to the end of the process */
};

enum server_listen {
    LISTEN_UNIX, /* -s DIR/socket */
    LISTEN_TCP,  /* -l 127.0.0.1 -p -1 */
};

struct server; /* a spawned process, alive or ended */
struct client; /* one connection to it */

/* ---- servers ---- */

/* A server that accepts. args end with NULL and come after those of the listener (and
 * `-u root` for root); "{dir}" in one becomes the server's directory. Never NULL. */
#define server_spawn(listen, ...)                                                                  \
    server_spawn_at(__FILE__, __LINE__, listen,                                                    \
                    (const char *const[]){__VA_ARGS__ __VA_OPT__(, ) NULL})
struct server *server_spawn_at(const char *file, int line, enum server_listen listen,
                               const char *const *args);

/* Starts an ended one again: same arguments, same directory. */
#define server_again(s) server_again_at(__FILE__, __LINE__, s)
void server_again_at(const char *file, int line, struct server *s);

const char *server_dir(const struct server *s);
const char *server_socket(const struct server *s); /* path; "" for LISTEN_TCP */
const char *server_log(const struct server *s);    /* path of what it printed */
int server_port(const struct server *s);           /* 0 for LISTEN_UNIX */
pid_t server_pid(const struct server *s);

/* Sends the signal (0: none, something else ends it) and waits for the end. It must exit with status 0, else the test
 * fails with what the server printed. */
#define server_ends_well(s, sig) server_ends_well_at(__FILE__, __LINE__, s, sig)
void server_ends_well_at(const char *file, int line, struct server *s, int sig);

void server_kill9(struct server *s); /* ended on return */

/* Ends it if it lives (SIGTERM; must then exit with status 0), removes its directory,
 * frees it. */
#define server_stop(s) server_stop_at(__FILE__, __LINE__, s)
void server_stop_at(const char *file, int line, struct server *s);

/* Runs the binary with just these arguments until it ends by itself. Returns the exit
 * code (128 + signal if killed); out and err receive what it printed, cut to size. */
#define server_run(out, out_size, err, err_size, ...)                                              \
    server_run_at(__FILE__, __LINE__, out, out_size, err, err_size,                                \
                  (const char *const[]){__VA_ARGS__ __VA_OPT__(, ) NULL})
int server_run_at(const char *file, int line, char *out, size_t out_size, char *err,
                  size_t err_size, const char *const *args);

/* ---- clients ---- */

#define client_open(s) client_open_at(__FILE__, __LINE__, s)
struct client *client_open_at(const char *file, int line, struct server *s);
void client_close(struct client *c); /* also a client whose server has ended */
int client_fd(const struct client *c);

#define client_send(c, text) client_send_at(__FILE__, __LINE__, c, text, strlen(text))
#define client_send_bytes(c, bytes, len) client_send_at(__FILE__, __LINE__, c, bytes, len)
void client_send_at(const char *file, int line, struct client *c, const void *bytes, size_t len);

#define client_printf(c, ...) client_printf_at(__FILE__, __LINE__, c, __VA_ARGS__)
void client_printf_at(const char *file, int line, struct client *c, const char *fmt, ...)
    PRINTF_LIKE(4, 5);

/* The next bytes are exactly these. */
#define client_expect(c, text) client_expect_at(__FILE__, __LINE__, c, text, strlen(text))
#define client_expect_bytes(c, bytes, len) client_expect_at(__FILE__, __LINE__, c, bytes, len)
void client_expect_at(const char *file, int line, struct client *c, const void *bytes, size_t len);

/* Sends one text, expects the other. */
#define client_ask(c, question, answer)                                                            \
    do {                                                                                           \
        client_send_at(__FILE__, __LINE__, c, question, strlen(question));                         \
        client_expect_at(__FILE__, __LINE__, c, answer, strlen(answer));                           \
    } while (0)

/* The next line without its line end; good until the next call on this client. */
#define client_line(c) client_line_at(__FILE__, __LINE__, c)
const char *client_line_at(const char *file, int line, struct client *c);

/* Reads exactly len bytes into buf. */
#define client_read(c, buf, len) client_read_at(__FILE__, __LINE__, c, buf, len)
void client_read_at(const char *file, int line, struct client *c, void *buf, size_t len);

/* The server closes this connection, and sends nothing more before. */
#define client_expect_closed(c) client_expect_closed_at(__FILE__, __LINE__, c)
void client_expect_closed_at(const char *file, int line, struct client *c);

/* There is nothing to read: asks `mn`, and MN is the next answer. */
#define client_expect_silence(c) client_ask(c, "mn\r\n", "MN\r\n")

/* Value of one line of `stats [group]` ("" for the general ones) as text into buf;
 * false if there is no such line. */
#define client_stat(c, group, name, buf, size)                                                     \
    client_stat_at(__FILE__, __LINE__, c, group, name, buf, size)
bool client_stat_at(const char *file, int line, struct client *c, const char *group,
                    const char *name, char *buf, size_t size);

/* The same as a number; the test fails if there is no such line. */
#define client_stat_u64(c, group, name) client_stat_u64_at(__FILE__, __LINE__, c, group, name)
uint64_t client_stat_u64_at(const char *file, int line, struct client *c, const char *group,
                            const char *name);

/* ---- waiting ---- */

/* Waits until the expression holds (checked each 2 ms); false after timeout_ms. */
#define wait_until(expression, timeout_ms)                                                         \
    ({                                                                                             \
        int64_t wait_end_ms_ = harness_now_ms() + (timeout_ms);                                    \
        bool wait_ok_;                                                                             \
        while (!(wait_ok_ = (expression)) && harness_now_ms() < wait_end_ms_)                      \
            harness_pause();                                                                       \
        wait_ok_;                                                                                  \
    })

/* Skips the test on a machine whose unix sockets take more than by default: some values are just larger than a socket. */
void harness_skip_if_sockets_are_large(void);
int64_t harness_now_ms(void); /* monotonic */
void harness_pause(void);     /* between two checks: 2 ms */

#endif
