/* net/listener.c: see net/listener.h. */
#include "net/listener.h"

#include <event2/event_struct.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/own_file.h"
#include "base/passed.h"
#include "base/why.h"
#include "net/udp.h"

enum { LISTENERS_MAX = 128, ACCEPTS_PER_EVENT = 64, RETRY_US = 10000 };

struct listener {
    int fd;
    struct address local;
    enum settings_tls tls;
    struct event event;
    struct listeners *set;
};

struct listeners {
    struct listener_options opt;
    struct listener list[LISTENERS_MAX];
    unsigned count;
    uint64_t max_clients;
    struct own_file unix_file; /* to be removed at the end, if it is still ours */
    bool accepting;
    struct event retry; /* while nothing is accepted because there is no room */
    uint64_t stopped_us;
};

/* Adds the socket to the set and listens. 0, or -errno and the socket is closed. */
static int add_listener(struct listeners *l, int fd, enum settings_tls tls)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);
    int err = 0;
    if (l->count == LISTENERS_MAX)
        err = -EMFILE;
    else if (listen(fd, (int)l->opt.settings->backlog) < 0 ||
             getsockname(fd, (struct sockaddr *)&ss, &len) < 0)
        err = -errno;
    if (err) {
        close(fd);
        return err;
    }
    DEBUG_ASSERT(!l->accepting);
    struct listener *one = &l->list[l->count++];
    one->fd = fd;
    one->set = l;
    one->tls = tls;
    address_of(&one->local, (struct sockaddr *)&ss);
    return 0;
}

/* ---- TCP ---- */

/* How much of a reply the kernel buffers beyond the client's window. Without a limit, a client that doesn't read
 * costs up to 4 MB (tcp_wmem), which counts as our memory in a control group. Accepted sockets inherit it from
 * the listening one. */
enum { UNSENT_BYTES_MAX = 128 * 1024 };

static void set_stream_options(int fd)
{
    int on = 1, unsent = UNSENT_BYTES_MAX;
    struct linger no_linger = {0, 0};
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &no_linger, sizeof(no_linger));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof(unsent));
}

/* Before bind(). */
static void set_options(int fd, const struct addrinfo *ai, uint32_t mark)
{
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (ai->ai_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
    set_stream_options(fd);
    if (mark && setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) < 0)
        log_warning("sock_cookie_id: %s", strerror(errno));
}

/* memcached's words, and the address. */
static void cannot_listen(char *why, size_t why_bytes, const char *host, int port, const char *reason)
{
    snprintf(why, why_bytes, "failed to listen on TCP port %d: %s (address %s)", port, reason,
             *host ? host : "*");
}

/* Listens on every address of the name. It may skip those in use, as long as one is free. */
static int open_tcp(struct listeners *l, const char *host, int port, enum settings_tls tls, char *why,
                    size_t why_bytes)
{
    struct addrinfo *list = address_resolve(host, port, SOCK_STREAM, why, why_bytes);
    if (!list)
        return -EINVAL;
    unsigned before = l->count;
    int err = -EADDRNOTAVAIL;
    cannot_listen(why, why_bytes, host, port, "no address");
    for (struct addrinfo *ai = list; ai; ai = ai->ai_next) {
        int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd < 0) { /* an address family that this machine doesn't have */
            cannot_listen(why, why_bytes, host, port, strerror(errno));
            continue;
        }
        set_options(fd, ai, l->opt.settings->sock_cookie_id);
        if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0) {
            err = -errno;
            cannot_listen(why, why_bytes, host, port, strerror(-err));
            close(fd);
            if (err == -EADDRINUSE || err == -EADDRNOTAVAIL)
                continue;
            break;
        }
        err = add_listener(l, fd, tls);
        if (err) {
            cannot_listen(why, why_bytes, host, port, strerror(-err));
            if (err != -EADDRINUSE)
                break;
        }
    }
    freeaddrinfo(list);
    return l->count > before ? 0 : err;
}

/* ---- unix ---- */

static int open_unix(struct listeners *l, const char *path, uint32_t mode, char *why,
                     size_t why_bytes)
{
    DEBUG_ASSERT(l->count == 0); /* the only one */
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct stat st;
    if (strlen(path) >= sizeof(addr.sun_path))
        return why_say(why, why_bytes, -ENAMETOOLONG, "failed to listen on UNIX socket: the path has more than %zu bytes: %s",
                       sizeof(addr.sun_path) - 1, path);
    strcpy(addr.sun_path, path);
    bool exists = lstat(path, &st) == 0;
    if (exists && S_ISSOCK(st.st_mode))
        unlink(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return why_say(why, why_bytes, -errno, "socket(): %s", strerror(errno));
    mode_t old = umask((mode_t)(~mode & 0777));
    int rc = bind(fd, (struct sockaddr *)&addr, sizeof(addr));
    int err = errno;
    umask(old);
    if (rc < 0) {
        close(fd);
        return why_say(why, why_bytes, -err, "failed to listen on UNIX socket: bind(): %s (path %s)",
                       exists && !S_ISSOCK(st.st_mode) ? "it exists and is not a socket" : strerror(err), path);
    }
    own_file_note(&l->unix_file, path);
    rc = add_listener(l, fd, SETTINGS_TLS_NONE);
    return rc ? why_say(why, why_bytes, rc, "failed to listen on UNIX socket: %s", strerror(-rc)) : 0;
}

/* ---- all of them ---- */

/* `TCP INET: 11211` for each, into a file that appears when it is complete. */
static void write_port_file(const struct listeners *l)
{
    const char *path = getenv("MEMCACHED_PORT_FILENAME");
    char tmp[PATH_MAX];
    if (!path || snprintf(tmp, sizeof(tmp), "%s.lck", path) >= (int)sizeof(tmp))
        return;
    FILE *f = fopen(tmp, "we");
    if (!f) {
        log_warning("failed to open \"%s\": %s", tmp, strerror(errno));
        return;
    }
    for (unsigned i = 0; i < l->count; i++) {
        const struct address *a = &l->list[i].local;
        if (a->family != AF_UNIX)
            fprintf(f, "TCP %s: %u\n", a->family == AF_INET ? "INET" : "INET6", a->port);
    }
    if (l->opt.udp)
        udp_print_ports(l->opt.udp, f);
    if (fclose(f) != 0 || rename(tmp, path) < 0) {
        log_warning("failed to write \"%s\": %s", path, strerror(errno));
        unlink(tmp);
    }
}

/* Takes the sockets that the service manager passes, instead of those of -l, -p and -s. */
static int take_passed(struct listeners *l, char *why, size_t why_bytes)
{
    const struct settings *s = l->opt.settings;
    for (unsigned i = 0; i < passed_sockets(); i++) {
        int fd = PASSED_FD_FIRST + (int)i, type = 0;
        struct sockaddr_storage ss;
        socklen_t len = sizeof(type), name_len = sizeof(ss);
        if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_STREAM ||
            getsockname(fd, (struct sockaddr *)&ss, &name_len) < 0)
            return why_say(why, why_bytes, -ENOTSOCK, "descriptor %d, passed by the service manager, is no stream socket", fd);
        bool unix_one = ss.ss_family == AF_UNIX;
        if (!unix_one)
            set_stream_options(fd);
        bool tls = s->ssl_enabled && !unix_one;
        int err = add_listener(l, fd, tls ? SETTINGS_TLS_DEFAULT : SETTINGS_TLS_NONE);
        if (err)
            return why_say(why, why_bytes, err, "a socket passed by the service manager: %s", strerror(-err));
    }
    log_notice("listening on %u socket%s passed by the service manager", l->count, l->count == 1 ? "" : "s");
    return 0;
}

static int open_all(struct listeners *l, char *why, size_t why_bytes)
{
    const struct settings *s = l->opt.settings;
    if (passed_sockets() > 0)
        return take_passed(l, why, why_bytes);
    if (s->socketpath)
        return open_unix(l, s->socketpath, s->access_mask, why, why_bytes);
    if (s->listen_count == 0) {
        enum settings_tls tls = s->ssl_enabled ? SETTINGS_TLS_DEFAULT : SETTINGS_TLS_NONE;
        return s->port == 0 ? 0 : open_tcp(l, "", s->port, tls, why, why_bytes);
    }
    for (unsigned i = 0; i < s->listen_count; i++) {
        const struct settings_listen *one = &s->listen[i];
        int port = one->port == SETTINGS_PORT_DEFAULT ? s->port : one->port;
        int err = port == 0 ? 0 : open_tcp(l, one->host, port, one->tls, why, why_bytes);
        if (err)
            return err;
    }
    return 0;
}

static void retry_accepting(evutil_socket_t fd, short what, void *arg);
static void accept_ready(evutil_socket_t fd, short what, void *arg);

/* Adds and removes each event once. The loop keeps the memory, so later none of them can fail. */
static bool reserve_events(struct listeners *l)
{
    DEBUG_ASSERT(!l->accepting);
    struct timeval later = {1, 0};
    if (evtimer_add(&l->retry, &later) != 0)
        return false;
    event_del(&l->retry);
    for (unsigned i = 0; i < l->count; i++) {
        struct listener *one = &l->list[i];
        event_assign(&one->event, l->opt.base, one->fd, EV_READ | EV_PERSIST, accept_ready, one);
        if (event_add(&one->event, NULL) != 0)
            return false;
        event_del(&one->event);
    }
    return true;
}

struct listeners *listeners_open(const struct listener_options *opt, char *why, size_t why_bytes)
{
    ASSERT(opt->settings && opt->base && opt->counters);
    struct listeners *l = calloc(1, sizeof(*l));
    if (!l) {
        snprintf(why, why_bytes, "listening: %s", strerror(ENOMEM));
        return NULL;
    }
    l->opt = *opt;
    evtimer_assign(&l->retry, opt->base, retry_accepting, l);
    int err = open_all(l, why, why_bytes);
    if (!err && !reserve_events(l))
        err = why_say(why, why_bytes, -ENOMEM, "listening: %s", strerror(ENOMEM));
    if (err) {
        listeners_close(l);
        errno = -err;
        return NULL;
    }
    /* memcached counts a UDP socket once for each worker that reads it */
    unsigned count = l->count + (opt->udp ? udp_count(opt->udp) * opt->settings->num_threads : 0);
    atomic_store(&opt->counters->listeners, count);
    atomic_fetch_add(&opt->counters->total_conns, count);
    write_port_file(l);
    return l;
}

void listeners_close(struct listeners *l)
{
    if (!l)
        return;
    own_file_remove(&l->unix_file);
    for (unsigned i = 0; i < l->count; i++) {
        if (l->accepting)
            event_del(&l->list[i].event);
        close(l->list[i].fd);
    }
    if (event_initialized(&l->retry))
        event_del(&l->retry);
    free(l);
}

/* ---- accepting ---- */

static void start_accepting(struct listeners *l);

static bool is_full(const struct listeners *l)
{
    DEBUG_ASSERT(l->max_clients > 0);
    return atomic_load_explicit(&l->opt.counters->curr_conns, memory_order_relaxed) >=
           l->max_clients;
}

static void stop_accepting(struct listeners *l)
{
    struct timeval retry = {0, RETRY_US};
    if (!l->accepting)
        return;
    DEBUG_ASSERT(l->count > 0);
    l->accepting = false;
    l->stopped_us = clock_mono_us();
    for (unsigned i = 0; i < l->count; i++)
        event_del(&l->list[i].event);
    atomic_fetch_add(&l->opt.counters->listen_disabled_num, 1);
    atomic_store(&l->opt.counters->accepting, false);
    evtimer_add(&l->retry, &retry);
}

static void retry_accepting(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
    struct listeners *l = arg;
    struct timeval retry = {0, RETRY_US};
    uint64_t now = clock_mono_us();
    DEBUG_ASSERT(!l->accepting && now >= l->stopped_us);
    atomic_fetch_add(&l->opt.counters->listen_disabled_us, now - l->stopped_us);
    l->stopped_us = now;
    if (is_full(l))
        evtimer_add(&l->retry, &retry);
    else
        start_accepting(l);
}

/* The line is sent in the clear only: a TLS client would not understand it. */
static void reject(struct listeners *l, int fd, enum settings_tls tls)
{
    DEBUG_ASSERT(fd >= 0 && l->accepting);
    size_t len;
    const char *line = reply_line(REPLY_TOO_MANY_CONNS, &len);
    if (tls == SETTINGS_TLS_NONE) {
        ssize_t rc = send(fd, line, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        (void)rc; /* the socket is closed in any case */
    }
    atomic_fetch_add_explicit(&l->opt.counters->rejected_conns, 1, memory_order_relaxed);
    /* Listening sockets close with a reset, which could overtake the line. */
    struct linger off = {0, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &off, sizeof(off));
    close(fd);
}

/* Accepts one connection. False: none is left, or accepting has stopped. */
static bool accept_one(struct listener *one)
{
    struct listeners *l = one->set;
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);
    if (!l->opt.settings->maxconns_fast && is_full(l)) {
        stop_accepting(l);
        return false;
    }
    int fd = accept4(one->fd, (struct sockaddr *)&ss, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            log_warning_rarely("accept(): %s", strerror(errno));
            stop_accepting(l);
            return false;
        }
        return errno == EINTR || errno == ECONNABORTED;
    }
    if (is_full(l)) {
        reject(l, fd, one->tls);
        return true;
    }
    struct conn_origin origin = {.fd = fd, .tls = (uint8_t)one->tls, .local = one->local};
    address_of(&origin.peer, (struct sockaddr *)&ss);
    len = sizeof(ss);
    if (one->local.family != AF_UNIX && getsockname(fd, (struct sockaddr *)&ss, &len) == 0)
        address_of(&origin.local, (struct sockaddr *)&ss);
    atomic_fetch_add_explicit(&l->opt.counters->curr_conns, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&l->opt.counters->total_conns, 1, memory_order_relaxed);
    DEBUG_ASSERT(l->accepting);
    if (l->opt.accepted(l->opt.ctx, &origin) != 0) {
        atomic_fetch_sub_explicit(&l->opt.counters->curr_conns, 1, memory_order_relaxed);
        close(fd);
    }
    return true;
}

static void accept_ready(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
    for (unsigned i = 0; i < ACCEPTS_PER_EVENT && accept_one(arg); i++)
        ;
}

static void start_accepting(struct listeners *l)
{
    DEBUG_ASSERT(!l->accepting);
    l->accepting = true;
    for (unsigned i = 0; i < l->count; i++) {
        struct listener *one = &l->list[i];
        event_add(&one->event, NULL); /* reserve_events() */
    }
    atomic_store(&l->opt.counters->accepting, true);
}

void listeners_set_limit(struct listeners *l, uint64_t max_clients)
{
    ASSERT(max_clients > 0);
    l->max_clients = max_clients;
}

void listeners_accept(struct listeners *l)
{
    ASSERT(l->max_clients > 0);
    start_accepting(l);
}

bool listeners_text(const struct listeners *l, char *out, size_t size)
{
    ASSERT(size > 0);
    static const uint8_t every_address[16] = {0};
    char text[ADDRESS_TEXT_BYTES];
    bool to_all = false;
    size_t at = 0;
    snprintf(out, size, "nowhere");
    for (unsigned i = 0; i < l->count && at < size; i++) {
        const struct address *a = &l->list[i].local;
        to_all = to_all ||
                 (a->family != AF_UNIX && memcmp(a->ip, every_address, sizeof(every_address)) == 0);
        address_text(a, l->opt.settings->socketpath, text, sizeof(text));
        at += (size_t)snprintf(out + at, size - at, "%s%s", i > 0 ? ", " : "", text);
    }
    return to_all;
}

void listeners_each(struct listeners *l,
                    void (*fn)(void *ctx, int fd, const char *name, const char *text), void *ctx)
{
    char text[ADDRESS_TEXT_BYTES];
    for (unsigned i = 0; i < l->count; i++) {
        address_text(&l->list[i].local, l->unix_file.path, text, sizeof(text));
        fn(ctx, l->list[i].fd, "addr", text);
        fn(ctx, l->list[i].fd, "state", "conn_listening");
        snprintf(text, sizeof(text), "%u", clock_uptime_sec());
        fn(ctx, l->list[i].fd, "secs_since_last_cmd", text);
    }
}
