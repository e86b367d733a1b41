/* harness.c: see harness.h. Not a test itself; linked to every test program. */
#include "t/aid/harness.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    ARGS_MAX = 64,
    SHOWN_BYTES = 400,     /* of an answer that differs */
    LOG_TAIL_BYTES = 32768, /* of the server's log when a test fails: a sanitizer's report is long */
};

struct server {
    struct server *next; /* in servers */
    enum server_listen listen;
    pid_t pid; /* 0 once ended and waited for */
    int port;
    char dir[96];
    char socket[108];
    char log[108];
    char port_file[108];
    char *argv[ARGS_MAX];
};

struct client {
    struct client *next; /* in clients */
    int fd;
    const struct server *server;
    char *buf; /* received, but not read by the test yet: buf[start..end) */
    size_t start, end, size;
};

/* What the running test has open. A failing test leaves it open; end_all() cleans up. */
static struct server *servers;
static struct client *clients;

void harness_skip_if_sockets_are_large(void)
{
    enum { USUAL_BYTES = 212992 };
    FILE *f = fopen("/proc/sys/net/core/wmem_default", "r");
    int bytes = 0;
    cr_assert(f && fscanf(f, "%d", &bytes) == 1);
    fclose(f);
    if (bytes > USUAL_BYTES)
        cr_skip_test("net.core.wmem_default is above %d: a socket takes what should fill it", USUAL_BYTES);
}

int64_t harness_now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

void harness_pause(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
}

/* ---- failing ---- */

static void print_log_tail(const struct server *s)
{
    FILE *f = s ? fopen(s->log, "r") : NULL;
    if (f == NULL)
        return;
    if (fseek(f, -LOG_TAIL_BYTES, SEEK_END) != 0)
        rewind(f);
    char tail[LOG_TAIL_BYTES];
    size_t len = fread(tail, 1, sizeof(tail), f);
    fclose(f);
    if (len > 0)
        fprintf(stderr, "---- the server printed:\n%.*s\n----\n", (int)len, tail);
}

/* Fails the running test; does not return. */
static void fail(const char *file, int line, const struct server *s, const char *fmt, ...)
    PRINTF_LIKE(4, 5);
static void fail(const char *file, int line, const struct server *s, const char *fmt, ...)
{
    char what[4096];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    print_log_tail(s);
    fprintf(stderr, "%s:%d: %s\n", file, line, what);
    struct criterion_assert_stats stats = {
        .passed = 0, .file = file, .line = (unsigned)line, .message = what};
    criterion_send_assert(&stats);
    criterion_abort_test();
    abort();
}

/* Bytes as a C string would show them, at most SHOWN_BYTES of them. */
static const char *shown(char *out, size_t size, const char *bytes, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len && i < SHOWN_BYTES && n + 8 < size; i++) {
        unsigned char ch = (unsigned char)bytes[i];
        if (ch == '\r')
            n += (size_t)snprintf(out + n, size - n, "\\r");
        else if (ch == '\n')
            n += (size_t)snprintf(out + n, size - n, "\\n");
        else if (ch < 32 || ch > 126 || ch == '\\')
            n += (size_t)snprintf(out + n, size - n, "\\x%02x", ch);
        else
            out[n++] = (char)ch;
    }
    snprintf(out + n, size - n, "%s", len > SHOWN_BYTES ? "..." : "");
    return out;
}

/* ---- servers ---- */

static const char *binary(void)
{
    const char *path = getenv("EXTANT_BIN");
    if (path != NULL)
        return path;
#ifdef __SANITIZE_THREAD__
    if (access("build/extant-tsan", X_OK) == 0)
        return "build/extant-tsan";
#endif
    return access("build/extant-asan", X_OK) == 0 ? "build/extant-asan" : "./extant-debug";
}

/* A copy of the argument with {dir} filled in. */
static char *filled(const char *arg, const char *dir)
{
    const char *mark = strstr(arg, "{dir}");
    char *out = NULL;
    int n = mark == NULL
                ? asprintf(&out, "%s", arg)
                : asprintf(&out, "%.*s%s%s", (int)(mark - arg), arg, dir, mark + strlen("{dir}"));
    ASSERT(n >= 0);
    if (strstr(out, "{dir}") == NULL)
        return out;
    char *more = filled(out, dir);
    free(out);
    return more;
}

/* Forks and execs; the child's output goes to the descriptors; it dies with its parent. */
static pid_t spawn(char *const *argv, int out_fd, int err_fd, const char *port_file)
{
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(127);
    int null_fd = open("/dev/null", O_RDONLY);
    if (null_fd < 0 || dup2(null_fd, 0) < 0 || dup2(out_fd, 1) < 0 || dup2(err_fd, 2) < 0)
        _exit(127);
    if (port_file != NULL)
        setenv("MEMCACHED_PORT_FILENAME", port_file, 1);
    close_range(3, ~0U, 0);
    execv(argv[0], argv);
    fprintf(stderr, "can't run %s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

/* True iff the process has ended, whose status is then in *status. */
static bool has_ended(struct server *s, int *status)
{
    if (s->pid == 0)
        return true;
    if (waitpid(s->pid, status, WNOHANG) != s->pid)
        return false;
    s->pid = 0;
    return true;
}

static int read_port(const struct server *s)
{
    int port = 0;
    char text[64];
    FILE *f = fopen(s->port_file, "r");
    while (f != NULL && port == 0 && fgets(text, sizeof(text), f) != NULL) {
        if (strchr(text, '\n') == NULL || sscanf(text, "TCP INET: %d", &port) != 1)
            port = 0;
    }
    if (f != NULL)
        fclose(f);
    return port;
}

/* A connected socket, or -errno. */
static int try_connect(struct server *s)
{
    union {
        struct sockaddr any;
        struct sockaddr_un un;
        struct sockaddr_in in;
    } addr = {0};
    socklen_t len;
    if (s->listen == LISTEN_UNIX) {
        addr.un.sun_family = AF_UNIX;
        snprintf(addr.un.sun_path, sizeof(addr.un.sun_path), "%s", s->socket);
        len = sizeof(addr.un);
    } else {
        if (s->port == 0)
            s->port = read_port(s);
        if (s->port == 0)
            return -ENOENT;
        addr.in.sin_family = AF_INET;
        addr.in.sin_port = htons((uint16_t)s->port);
        addr.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        len = sizeof(addr.in);
    }
    int fd = socket(addr.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, &addr.any, len) != 0) {
        int rc = -errno;
        close(fd);
        return rc;
    }
    return fd;
}

/* Ends a connection that has said nothing, and waits until the server has closed it: it is no longer counted then. */
static void end_probe(int fd)
{
    char byte;
    shutdown(fd, SHUT_WR);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    while (poll(&p, 1, HARNESS_ANSWER_MS) > 0 && read(fd, &byte, 1) > 0)
        ;
    close(fd);
}

void server_again_at(const char *file, int line, struct server *s)
{
    if (s->pid != 0)
        fail(file, line, s, "the server still runs");
    s->port = 0;
    unlink(s->port_file);
    unlink(s->socket);
    int log_fd = open(s->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_fd < 0)
        fail(file, line, s, "%s: %s", s->log, strerror(errno));
    s->pid = spawn(s->argv, log_fd, log_fd, s->listen == LISTEN_TCP ? s->port_file : NULL);
    close(log_fd);
    if (s->pid < 0)
        fail(file, line, s, "fork: %s", strerror(errno));
    int fd = -1, status = 0;
    bool ended = false;
    bool accepted = wait_until((ended = has_ended(s, &status)) || (fd = try_connect(s)) >= 0,
                               HARNESS_START_MS);
    if (ended)
        fail(file, line, s, "%s ended at once, wait status 0x%x", s->argv[0], (unsigned)status);
    if (!accepted) {
        server_kill9(s);
        fail(file, line, s, "%s accepts nothing after %d ms", s->argv[0], HARNESS_START_MS);
    }
    end_probe(fd);
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *walk)
{
    (void)st, (void)type, (void)walk;
    return remove(path);
}

/* At exit of a test: no server and no directory of it stays. */
static void end_all(void)
{
    for (struct server *s = servers; s != NULL; s = s->next) {
        server_kill9(s);
        nftw(s->dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    }
}

struct server *server_spawn_at(const char *file, int line, enum server_listen listen,
                               const char *const *args)
{
    static bool registered;
    struct server *s = calloc(1, sizeof(*s));
    ASSERT(s != NULL);
    if (!registered)
        atexit(end_all);
    registered = true;
    const char *tmp = getenv("TMPDIR");
    s->listen = listen;
    if (snprintf(s->dir, sizeof(s->dir), "%s/extant-test-XXXXXX", tmp ? tmp : "/tmp") >=
            (int)sizeof(s->dir) ||
        mkdtemp(s->dir) == NULL)
        fail(file, line, NULL, "mkdtemp %s: %s", s->dir, strerror(errno));
    s->next = servers;
    servers = s;
    if (listen == LISTEN_UNIX)
        snprintf(s->socket, sizeof(s->socket), "%s/socket", s->dir);
    snprintf(s->log, sizeof(s->log), "%s/log", s->dir);
    snprintf(s->port_file, sizeof(s->port_file), "%s/ports", s->dir);

    const char *first[8] = {binary()};
    size_t n = 1, out = 0;
    if (geteuid() == 0) {
        first[n++] = "-u";
        first[n++] = "root";
    }
    if (listen == LISTEN_UNIX) {
        first[n++] = "-s";
        first[n++] = s->socket;
    } else {
        first[n++] = "-l";
        first[n++] = "127.0.0.1";
        first[n++] = "-p";
        first[n++] = "-1";
    }
    for (size_t i = 0; i < n; i++)
        s->argv[out++] = filled(first[i], s->dir);
    for (size_t i = 0; args[i] != NULL; i++) {
        ASSERT(out < ARGS_MAX - 1);
        s->argv[out++] = filled(args[i], s->dir);
    }
    server_again_at(file, line, s);
    return s;
}

const char *server_dir(const struct server *s) { return s->dir; }
const char *server_socket(const struct server *s) { return s->socket; }
const char *server_log(const struct server *s) { return s->log; }
int server_port(const struct server *s) { return s->port; }
pid_t server_pid(const struct server *s) { return s->pid; }

void server_kill9(struct server *s)
{
    if (s->pid == 0)
        return;
    kill(s->pid, SIGKILL);
    while (waitpid(s->pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    s->pid = 0;
}

void server_ends_well_at(const char *file, int line, struct server *s, int sig)
{
    int status = 0;
    if (s->pid == 0)
        fail(file, line, s, "the server has ended already");
    if (sig != 0 && kill(s->pid, sig) != 0)
        fail(file, line, s, "kill: %s", strerror(errno));
    if (!wait_until(has_ended(s, &status), HARNESS_STOP_MS)) {
        server_kill9(s);
        fail(file, line, s, "the server still ran after %d ms", HARNESS_STOP_MS);
    }
    if (status != 0)
        fail(file, line, s, "ended after signal %d with wait status 0x%x", sig, (unsigned)status);
}

void server_stop_at(const char *file, int line, struct server *s)
{
    if (s->pid != 0)
        server_ends_well_at(file, line, s, SIGTERM);
    nftw(s->dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    struct server **at = &servers;
    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    for (size_t i = 0; s->argv[i] != NULL; i++)
        free(s->argv[i]);
    free(s);
}

/* Reads back what was printed into a temporary file, NUL-terminated, and closes it. */
static void take_output(int fd, char *buf, size_t size)
{
    ssize_t n = size > 0 ? pread(fd, buf, size - 1, 0) : 0;
    if (size > 0)
        buf[n > 0 ? n : 0] = '\0';
    close(fd);
}

int server_run_at(const char *file, int line, char *out, size_t out_size, char *err,
                  size_t err_size, const char *const *args)
{
    char *argv[ARGS_MAX] = {filled(binary(), "")};
    for (size_t i = 0; args[i] != NULL; i++) {
        ASSERT(i + 2 < ARGS_MAX);
        argv[i + 1] = filled(args[i], "");
    }
    int out_fd = memfd_create("out", MFD_CLOEXEC);
    int err_fd = memfd_create("err", MFD_CLOEXEC);
    if (out_fd < 0 || err_fd < 0)
        fail(file, line, NULL, "memfd_create: %s", strerror(errno));
    struct server s = {.pid = spawn(argv, out_fd, err_fd, NULL)};
    if (s.pid < 0)
        fail(file, line, NULL, "fork: %s", strerror(errno));
    int status = 0;
    bool ended = wait_until(has_ended(&s, &status), HARNESS_START_MS);
    if (!ended)
        server_kill9(&s);
    take_output(out_fd, out, out_size);
    take_output(err_fd, err, err_size);
    for (size_t i = 0; argv[i] != NULL; i++)
        free(argv[i]);
    if (!ended)
        fail(file, line, NULL, "%s still ran after %d ms", binary(), HARNESS_START_MS);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* ---- clients ---- */

struct client *client_open_at(const char *file, int line, struct server *s)
{
    int fd = try_connect(s);
    if (fd < 0)
        fail(file, line, s, "connect: %s", strerror(-fd));
    struct client *c = calloc(1, sizeof(*c));
    ASSERT(c != NULL);
    c->fd = fd;
    c->server = s;
    c->next = clients;
    clients = c;
    return c;
}

void client_close(struct client *c)
{
    struct client **at = &clients;
    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    close(c->fd);
    free(c->buf);
    free(c);
}

int client_fd(const struct client *c) { return c->fd; }

/* Reads more into the buffer; the count, 0 at end of stream, -errno. */
static ssize_t fill(struct client *c)
{
    if (c->start == c->end)
        c->start = c->end = 0;
    if (c->size - c->end < 4096) {
        c->size = 2 * c->size + 16384;
        c->buf = realloc(c->buf, c->size);
        ASSERT(c->buf != NULL);
    }
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    int ready = poll(&p, 1, HARNESS_ANSWER_MS);
    if (ready <= 0)
        return ready == 0 ? -ETIMEDOUT : -errno;
    ssize_t n = recv(c->fd, c->buf + c->end, c->size - c->end, 0);
    if (n < 0)
        return -errno;
    c->end += (size_t)n;
    return n;
}

/* Sends all; reads answers while the server takes no more, so that neither waits for the other. */
void client_send_at(const char *file, int line, struct client *c, const void *bytes, size_t len)
{
    size_t sent = 0;
    while (sent < len) {
        ssize_t n = send(c->fd, (const char *)bytes + sent, len - sent,
                         MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n >= 0) {
            sent += (size_t)n;
            continue;
        }
        if (errno != EAGAIN)
            fail(file, line, c->server, "send: %s", strerror(errno));
        struct pollfd p = {.fd = c->fd, .events = POLLIN | POLLOUT};
        if (poll(&p, 1, HARNESS_ANSWER_MS) <= 0)
            fail(file, line, c->server, "the server took only %zu of %zu bytes", sent, len);
        if ((p.revents & POLLIN) && fill(c) <= 0)
            fail(file, line, c->server, "closed after %zu of %zu bytes sent", sent, len);
    }
}

void client_printf_at(const char *file, int line, struct client *c, const char *fmt, ...)
{
    char *text = NULL;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&text, fmt, ap);
    va_end(ap);
    ASSERT(n >= 0);
    client_send_at(file, line, c, text, (size_t)n);
    free(text);
}

void client_expect_at(const char *file, int line, struct client *c, const void *bytes, size_t len)
{
    const char *want = bytes;
    size_t same = 0;
    ssize_t n = 1;
    for (;;) {
        size_t have = c->end - c->start;
        while (same < have && same < len && c->buf[c->start + same] == want[same])
            same++;
        if (same == len) {
            c->start += len;
            return;
        }
        if (same < have || n <= 0)
            break;
        n = fill(c);
    }
    char w[4 * SHOWN_BYTES + 16], g[4 * SHOWN_BYTES + 16];
    size_t from = same > 60 ? same - 60 : 0;
    const char *why = n == 0 ? " (then closed)" : n < 0 ? strerror((int)-n) : "";
    shown(w, sizeof(w), want + from, len - from);
    shown(g, sizeof(g), c->buf ? c->buf + c->start + from : "", c->end - c->start - from);
    fail(file, line, c->server,
         "answer differs at byte %zu; shown from byte %zu\n  want: %s\n  got:  %s %s", same, from,
         w, g, why);
}

const char *client_line_at(const char *file, int line, struct client *c)
{
    size_t seen = 0;
    for (;;) {
        char *nl = c->end > c->start + seen
                       ? memchr(c->buf + c->start + seen, '\n', c->end - c->start - seen)
                       : NULL;
        if (nl != NULL) {
            char *text = c->buf + c->start;
            c->start = (size_t)(nl - c->buf) + 1;
            if (nl > text && nl[-1] == '\r')
                nl--;
            *nl = '\0';
            return text;
        }
        seen = c->end - c->start;
        ssize_t n = fill(c);
        if (n <= 0)
            fail(file, line, c->server, "no line: %s", n == 0 ? "closed" : strerror((int)-n));
    }
}

void client_read_at(const char *file, int line, struct client *c, void *buf, size_t len)
{
    size_t done = 0;
    while (done < len) {
        size_t n = (size_t)min_u64(c->end - c->start, len - done);
        if (n > 0)
            memcpy((char *)buf + done, c->buf + c->start, n);
        c->start += n;
        done += n;
        ssize_t more = done < len ? fill(c) : 1;
        if (more <= 0)
            fail(file, line, c->server, "only %zu of %zu bytes came: %s", done, len,
                 more == 0 ? "closed" : strerror((int)-more));
    }
}

void client_expect_closed_at(const char *file, int line, struct client *c)
{
    ssize_t n = c->end > c->start ? 1 : fill(c);
    if (n == 0 || n == -ECONNRESET || n == -EPIPE)
        return;
    char g[4 * SHOWN_BYTES + 16];
    shown(g, sizeof(g), c->buf + c->start, c->end - c->start);
    fail(file, line, c->server, "want: closed\n  got:  %s", n > 0 ? g : strerror((int)-n));
}

bool client_stat_at(const char *file, int line, struct client *c, const char *group,
                    const char *name, char *buf, size_t size)
{
    bool found = false;
    size_t name_len = strlen(name);
    client_printf_at(file, line, c, "stats%s%s\r\n", *group ? " " : "", group);
    for (;;) {
        const char *text = client_line_at(file, line, c);
        if (strcmp(text, "END") == 0)
            return found;
        if (strncmp(text, "STAT ", 5) != 0)
            fail(file, line, c->server, "stats %s answered: %s", group, text);
        if (!found && strncmp(text + 5, name, name_len) == 0 && text[5 + name_len] == ' ') {
            snprintf(buf, size, "%s", text + 5 + name_len + 1);
            found = true;
        }
    }
}

uint64_t client_stat_u64_at(const char *file, int line, struct client *c, const char *group,
                            const char *name)
{
    char text[256], *end;
    if (!client_stat_at(file, line, c, group, name, text, sizeof(text)))
        fail(file, line, c->server, "stats %s has no %s", group, name);
    errno = 0;
    uint64_t v = strtoull(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0')
        fail(file, line, c->server, "stats %s: %s is no number: %s", group, name, text);
    return v;
}
