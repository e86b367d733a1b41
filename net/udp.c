/* net/udp.c: see net/udp.h. An endpoint is one socket in one worker: a session whose answers are taken
 * from its queue after each command and cut into datagrams. */
#include "net/udp.h"

#include <arpa/inet.h>
#include <event2/event_struct.h>
#include <event2/event.h>
#include <fcntl.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/address.h"
#include "base/log.h"
#include "proto/bin.h"
#include "proto/text.h"

enum {
    SOCKETS_MAX = 128,
    SEND_BUFFER_BYTES = 8 * 1024 * 1024,
    DATAGRAMS_PER_EVENT = 32,
    REPLY_KEPT_BYTES = 64 * 1024, /* a longer answer's memory is freed after it */
};

struct udp_sockets {
    unsigned count;
    struct {
        int fd;
        struct address local;
    } list[SOCKETS_MAX];
};

struct endpoint {
    struct session session;
    struct udp_worker *of;
    struct event event;
    int fd;
    struct address local;
    _Atomic(uint32_t) last_cmd_sec; /* read by others for stats */
    /* the present datagram */
    struct sockaddr_storage peer;
    socklen_t peer_bytes;
    bool trusted;         /* a loopback peer */
    uint8_t request_id[2];
    size_t remote_left;   /* bytes that another peer may still get */
    const char *at, *end; /* the part that was not executed yet */
};

struct udp_worker {
    struct command_worker *command;
    struct request *request;
    char *datagram; /* UDP_REQUEST_BYTES_MAX */
    char *reply;    /* of one command */
    size_t reply_bytes, reply_room;
    unsigned count;
    struct endpoint *ends;
};

/* ---- sockets ---- */

static int open_address(struct udp_sockets *u, const struct addrinfo *ai, uint32_t mark)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);
    int on = 1, room = SEND_BUFFER_BYTES;
    if (u->count == SOCKETS_MAX)
        return -EMFILE;
    int fd = socket(ai->ai_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (ai->ai_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)); /* as much as the system allows */
    if (mark)
        setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark));
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 ||
        getsockname(fd, (struct sockaddr *)&ss, &len) < 0) {
        int err = -errno;
        close(fd);
        return err;
    }
    u->list[u->count].fd = fd;
    address_of(&u->list[u->count].local, (struct sockaddr *)&ss);
    u->count++;
    return 0;
}

static int open_host(struct udp_sockets *u, const char *host, int port, uint32_t mark, char *why,
                     size_t why_bytes)
{
    struct addrinfo *list = address_resolve(host, port, SOCK_DGRAM, why, why_bytes);
    if (!list)
        return -EINVAL;
    unsigned before = u->count;
    int err = -EADDRNOTAVAIL;
    for (struct addrinfo *ai = list; ai; ai = ai->ai_next) {
        int one = open_address(u, ai, mark);
        if (one != 0 && one != -EAFNOSUPPORT)
            err = one;
    }
    freeaddrinfo(list);
    if (u->count > before)
        return 0;
    snprintf(why, why_bytes, "failed to listen on UDP port %d: %s", port, strerror(-err));
    return err;
}

struct udp_sockets *udp_open(const struct settings *s, char *why, size_t why_bytes)
{
    DEBUG_ASSERT(s->udpport != 0 && !s->auth_file && s->ext_file_count == 0); /* checked by operator/settings_check.c */
    struct udp_sockets *u = calloc(1, sizeof(*u));
    if (!u) {
        snprintf(why, why_bytes, "UDP: %s", strerror(errno));
        return NULL;
    }
    int err = 0;
    if (s->listen_count == 0)
        err = open_host(u, "", s->udpport, s->sock_cookie_id, why, why_bytes);
    for (unsigned i = 0; !err && i < s->listen_count; i++) {
        int port = s->listen[i].port == SETTINGS_PORT_DEFAULT ? s->udpport : s->listen[i].port;
        err = open_host(u, s->listen[i].host, port, s->sock_cookie_id, why, why_bytes);
    }
    if (!err)
        return u;
    udp_close(u);
    errno = -err;
    return NULL;
}

void udp_close(struct udp_sockets *u)
{
    if (!u)
        return;
    for (unsigned i = 0; i < u->count; i++)
        close(u->list[i].fd);
    free(u);
}

unsigned udp_count(const struct udp_sockets *u)
{
    return u->count;
}

void udp_print_ports(const struct udp_sockets *u, FILE *out)
{
    for (unsigned i = 0; i < u->count; i++)
        fprintf(out, "UDP %s: %u\n", u->list[i].local.family == AF_INET ? "INET" : "INET6",
                u->list[i].local.port);
}

/* ---- answers ---- */

static void put_u16(char *to, unsigned v)
{
    to[0] = (char)(v >> 8);
    to[1] = (char)v;
}

static void send_datagrams(struct endpoint *e, const char *reply, size_t bytes)
{
    const size_t room = UDP_DATAGRAM_BYTES - UDP_HEAD_BYTES;
    size_t total = (bytes + room - 1) / room;
    ASSERT(bytes > 0 && total <= UINT16_MAX);
    char head[UDP_HEAD_BYTES] = {0};
    memcpy(head, e->request_id, sizeof(e->request_id));
    put_u16(head + 4, (unsigned)total);
    for (size_t i = 0; i < total; i++) {
        size_t at = i * room, n = min_u64(room, bytes - at);
        struct iovec iov[2] = {{head, sizeof(head)}, {(void *)(uintptr_t)(reply + at), n}};
        struct msghdr msg = {.msg_name = &e->peer,
                             .msg_namelen = e->peer_bytes,
                             .msg_iov = iov,
                             .msg_iovlen = 2};
        put_u16(head + 2, (unsigned)i);
        ssize_t sent = sendmsg(e->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent > 0)
            stat_add(e->of->command->stats, STAT_bytes_written, (uint64_t)sent);
    }
}

/* Moves the session's answers from its queue to the reply. False: too much, or no memory. */
static bool collect(struct endpoint *e)
{
    DEBUG_ASSERT(e->session.parked == 0 && e->of->reply_bytes <= e->of->reply_room);
    struct udp_worker *w = e->of;
    size_t need = w->reply_bytes + e->session.out.bytes;
    if (need > UDP_REPLY_BYTES_MAX)
        return false;
    if (need > w->reply_room) {
        size_t room = max_u64(need, 2 * w->reply_room);
        char *bigger = realloc(w->reply, room);
        if (!bigger)
            return false;
        w->reply = bigger;
        w->reply_room = room;
    }
    reply_take(&e->session.out, w->reply + w->reply_bytes);
    w->reply_bytes = need;
    return true;
}

/* The answer to one command, as much of it as this peer may get. */
static void answer(struct endpoint *e, const char *reply, size_t bytes)
{
    char too_long[BIN_REPLY_MAX] = UDP_TOO_LONG_LINE;
    DEBUG_ASSERT(bytes <= UDP_REPLY_BYTES_MAX);
    if (bytes == 0)
        return;
    if (!e->trusted) {
        size_t cost = bytes + UDP_HEAD_BYTES;
        if (cost > e->remote_left) {
            reply = too_long;
            bytes = e->session.is_binary ? proto_put_bin_reply(too_long, e->of->request, REPLY_TOO_LARGE)
                                         : strlen(too_long);
            cost = bytes + UDP_HEAD_BYTES;
        }
        if (cost > e->remote_left)
            return;
        e->remote_left -= cost;
    }
    send_datagrams(e, reply, bytes);
}

/* ---- requests ---- */

static void never_parked(struct session *s UNUSED)
{
    ASSERT(!"an op of UDP was parked");
}

static void session_begin(struct endpoint *e)
{
    session_init(&e->session, e->of->command, e->fd, never_parked, never_parked);
}

/* Drops an incomplete value, and answers that can't be sent. */
static void session_again(struct endpoint *e)
{
    DEBUG_ASSERT(e->session.parked == 0);
    bool idle = session_close(&e->session);
    ASSERT(idle);
    session_begin(e);
}

static bool may_execute(const struct endpoint *e, const struct request *req)
{
    return e->trusted || verb_info(req->verb)->verb_class != CLASS_ADMIN ||
           req->verb == VERB_VERSION;
}

enum next { NEXT_COMMAND, NEXT_DATAGRAM };

/* The value behind a store's line, and its end. */
static enum next take_value(struct endpoint *e)
{
    struct session *s = &e->session;
    char *to;
    size_t room = command_value_room(s, &to);
    unsigned end_bytes = command_value_end_bytes(s);
    DEBUG_ASSERT(e->at <= e->end);
    if ((size_t)(e->end - e->at) < room + end_bytes)
        return NEXT_DATAGRAM;
    memcpy(to, e->at, room);
    command_value_got(s, room);
    bool good = end_bytes == 0 || memcmp(e->at + room, "\r\n", 2) == 0;
    e->at += room + end_bytes;
    command_store(s, good);
    return NEXT_COMMAND;
}

/* Executes a parsed line; its answer is in the queue. */
static enum next execute(struct endpoint *e, struct request *req)
{
    struct session *s = &e->session;
    if (!may_execute(e, req)) {
        session_answer(s, req, REPLY_ERROR);
        return NEXT_COMMAND;
    }
    for (;;) {
        switch (command_execute(s, req, NULL)) {
        case COMMAND_DONE:
        case COMMAND_SPOILED:
            return s->store ? take_value(e) : NEXT_COMMAND;
        case COMMAND_AGAIN: /* a long answer: taking its first part makes room */
            ASSERT(s->parked == 0);
            if (!collect(e))
                return NEXT_DATAGRAM;
            continue;
        case COMMAND_YIELD:
            continue;
        case COMMAND_CLOSE:
            return NEXT_DATAGRAM;
        case COMMAND_WATCH:
        case COMMAND_DUMP: /* these need a connection */
            session_reply(s, REPLY_ERROR);
            return NEXT_COMMAND;
        }
    }
}

static enum next one_command(struct endpoint *e)
{
    struct session *s = &e->session;
    struct request *req = e->of->request;
    size_t consumed;
    enum next next = NEXT_COMMAND;
    size_t left = (size_t)(e->end - e->at);
    DEBUG_ASSERT(left > 0 && !s->store && s->swallow_bytes == 0);
    switch (s->is_binary ? proto_parse_bin(e->at, left, &consumed, req)
                         : proto_parse_line(e->at, left, &consumed, req)) {
    case PARSE_OK:
        e->at += consumed;
        next = execute(e, req);
        break;
    case PARSE_ERROR:
        e->at += consumed;
        command_refuse(s, req);
        if (req->close_after)
            e->at = e->end;
        break;
    default: /* incomplete, or what would close a connection */
        return NEXT_DATAGRAM;
    }
    if (s->swallow_bytes > 0) {
        e->at += min_u64(s->swallow_bytes, (uint64_t)(e->end - e->at));
        s->swallow_bytes = 0;
    }
    return next;
}

static void answer_without_memory(struct endpoint *e)
{
    char packet[BIN_REPLY_MAX];
    size_t bytes = proto_put_bin_reply(packet, e->of->request, REPLY_OOM_GET);
    const char *line = e->session.is_binary ? packet : reply_line(REPLY_OOM_GET, &bytes);
    answer(e, line, bytes);
}

static void run_datagram(struct endpoint *e)
{
    struct udp_worker *w = e->of;
    struct session *s = &e->session;
    enum next next = NEXT_COMMAND;
    DEBUG_ASSERT(e->at < e->end && w->reply_bytes == 0);
    while (next == NEXT_COMMAND && e->at < e->end) {
        next = one_command(e);
        if (s->broken || !collect(e)) {
            answer_without_memory(e);
            next = NEXT_DATAGRAM;
        } else {
            answer(e, w->reply, w->reply_bytes);
        }
        w->reply_bytes = 0;
    }
    if (s->store || s->broken || s->get_offset > 0 || !reply_is_empty(&s->out))
        session_again(e);
    if (w->reply_room > REPLY_KEPT_BYTES) {
        free(w->reply);
        w->reply = NULL;
        w->reply_room = 0;
    }
}

static bool is_loopback(const struct sockaddr_storage *ss)
{
    if (ss->ss_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)ss)->sin_addr.s_addr) >> 24 == 127;
    return ss->ss_family == AF_INET6 &&
           IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)ss)->sin6_addr);
}

/* The first byte of each datagram tells its protocol. False: -B doesn't allow it. */
static bool negotiate(struct endpoint *e)
{
    const struct settings *set = e->session.w->env->settings;
    bool is_binary = (unsigned char)*e->at == BIN_MAGIC_ASK;
    e->session.is_binary = is_binary;
    return set->binding_protocol == SETTINGS_PROTOCOL_AUTO ||
           (set->binding_protocol == SETTINGS_PROTOCOL_BINARY) == is_binary;
}

/* False: nothing is there. */
static bool receive(struct endpoint *e)
{
    const unsigned char *d = (const unsigned char *)e->of->datagram;
    e->peer_bytes = sizeof(e->peer);
    ssize_t n = recvfrom(e->fd, e->of->datagram, UDP_REQUEST_BYTES_MAX, MSG_DONTWAIT,
                         (struct sockaddr *)&e->peer, &e->peer_bytes);
    if (n < 0)
        return false;
    stat_add(e->of->command->stats, STAT_bytes_read, (uint64_t)n);
    DEBUG_ASSERT(n <= UDP_REQUEST_BYTES_MAX);
    if (n <= UDP_HEAD_BYTES || d[4] != 0 || d[5] != 1)
        return true; /* no request, or a part of one */
    memcpy(e->request_id, d, sizeof(e->request_id));
    e->trusted = is_loopback(&e->peer);
    e->remote_left = UDP_DATAGRAM_BYTES;
    e->at = e->of->datagram + UDP_HEAD_BYTES;
    e->end = e->of->datagram + n;
    if (!negotiate(e))
        return true;
    atomic_store_explicit(&e->last_cmd_sec, clock_now_sec(), memory_order_relaxed);
    run_datagram(e);
    return true;
}

static void datagram_ready(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
    for (unsigned i = 0; i < DATAGRAMS_PER_EVENT && receive(arg); i++)
        ;
}

/* ---- begin and end ---- */

struct udp_worker *udp_start(struct udp_sockets *u, struct event_base *base,
                             struct command_worker *command, struct request *request)
{
    DEBUG_ASSERT(u->count > 0 && u->count <= SOCKETS_MAX);
    struct udp_worker *w = calloc(1, sizeof(*w));
    if (!w)
        return NULL;
    w->command = command;
    w->request = request;
    w->datagram = malloc(UDP_REQUEST_BYTES_MAX);
    w->ends = calloc(u->count, sizeof(*w->ends));
    int err = w->datagram && w->ends ? 0 : ENOMEM;
    for (unsigned i = 0; i < u->count && !err; i++) {
        struct endpoint *e = &w->ends[i];
        e->of = w;
        e->local = u->list[i].local;
        e->last_cmd_sec = clock_now_sec();
        e->fd = fcntl(u->list[i].fd, F_DUPFD_CLOEXEC, 0);
        if (e->fd < 0) {
            err = errno;
            break;
        }
        session_begin(e);
        event_assign(&e->event, base, e->fd, EV_READ | EV_PERSIST, datagram_ready, e);
        err = event_add(&e->event, NULL) == 0 ? 0 : ENOMEM;
        w->count++;
    }
    if (!err)
        return w;
    udp_stop(w);
    errno = err;
    return NULL;
}

void udp_stop(struct udp_worker *w)
{
    if (!w)
        return;
    for (unsigned i = 0; i < w->count; i++) {
        struct endpoint *e = &w->ends[i];
        event_del(&e->event);
        bool idle = session_close(&e->session);
        ASSERT(idle);
        close(e->fd);
    }
    free(w->ends);
    free(w->datagram);
    free(w->reply);
    free(w);
}

void udp_each(struct udp_worker *w,
              void (*fn)(void *ctx, int fd, const char *name, const char *text), void *ctx)
{
    char text[160], address[160];
    for (unsigned i = 0; i < w->count; i++) {
        struct endpoint *e = &w->ends[i];
        uint32_t now = clock_now_sec();
        uint32_t last = atomic_load_explicit(&e->last_cmd_sec, memory_order_relaxed);
        fn(ctx, e->fd, "UDP", "UDP");
        address_text(&e->local, NULL, address, sizeof(address));
        snprintf(text, sizeof(text), "udp%s", address + 3); /* for "tcp" */
        fn(ctx, e->fd, "addr", text);
        fn(ctx, e->fd, "state", "conn_read");
        snprintf(text, sizeof(text), "%u", now > last ? now - last : 0);
        fn(ctx, e->fd, "secs_since_last_cmd", text);
    }
}
