/* net/conn.c: see net/conn.h. */
#include "net/conn.h"

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/clock.h"
#include "command/dump.h"
#include "command/login.h"
#include "base/log.h"
#include "proto/bin.h"
#include "proto/text.h"
#include "operator/watch.h"
#include "net/stranger.h"

enum {
    YIELD_FLUSH_BYTES = 32 * 1024,
    RAW_LOG_BYTES = 512,
    RECEIVED_MAX = 32,    /* connections that receive before all of them execute */
    LOOK_LINES_MAX = 4,   /* lines that are looked at to find one with a key */
    LOOK_BYTES_MAX = 4096, /* of a line */
    LONG_KEY_BYTES = PROTO_KEY_MAX + 50, /* of a key that is too long, enough to see that */
};

static const char *const state_names[] = {
    CONN_STATE_TABLE(ROW_TEXT)
};

static const char *const reason_names[] = {
    CONN_REASON_TABLE(ROW_TEXT)
};

const char *conn_state_name(enum conn_state state)
{
    ASSERT(state < ARRAY_COUNT(state_names));
    return state_names[state];
}

enum { /* sets of states */
    AT_PARSE = 1u << CONN_PARSE,
    AT_MWRITE = 1u << CONN_MWRITE,
    AT_INPUT = 1u << CONN_READ | 1u << CONN_NREAD | 1u << CONN_SWALLOW,
    AT_ANY = (1u << (CONN_CLOSING + 1)) - 1,
};

/* The edges of net/conn.h. */
static UNUSED bool may_become(enum conn_state from, enum conn_state to)
{
    static const uint16_t edges[] = {
        [CONN_PARSE] = AT_ANY & ~AT_PARSE,      [CONN_DUMP] = AT_PARSE,
        [CONN_READ] = AT_PARSE | AT_MWRITE,     [CONN_NREAD] = AT_PARSE | AT_MWRITE,
        [CONN_SWALLOW] = AT_PARSE | AT_MWRITE,  [CONN_IO_QUEUE] = AT_PARSE | AT_MWRITE | AT_INPUT,
        [CONN_MWRITE] = AT_PARSE,               [CONN_CLOSING] = AT_PARSE,
        [CONN_YIELD] = AT_PARSE,
    };
    return edges[from] & 1u << to;
}

static void conn_become(struct conn *c, enum conn_state state)
{
    DEBUG_ASSERT(may_become(c->state, state));
    atomic_store_explicit(&c->state, (uint8_t)state, memory_order_relaxed);
}

/* Something will call it: whatever it has to send or to execute is not forgotten. */
static UNUSED bool will_go_on(const struct conn *c)
{
    const struct session *s = &c->session;
    bool op = s->parked > 0 || s->fetching, listed = c->in_loop.is_in != 0;
    if (c->apart & CONN_DUMPING)
        return true; /* the end of the dump is told by mail */
    if (c->blocked)
        return c->interest == EV_WRITE;
    if (!reply_is_empty(&s->out) || c->closing || s->barrier || c->state == CONN_IO_QUEUE)
        return op || listed;
    return c->interest == EV_READ || listed || (c->apart & CONN_TLS); /* its handshake has lists of its own */
}

void conns_assert(const struct worker *w)
{
#ifdef EXTANT_DEBUG
    enum { LOOKED_AT_MAX = 64 };
    unsigned n = 0;
    const struct loop_conn *l;
    LIST_FOREACH(l, &w->conns, among_all) {
        ASSERT(will_go_on(CONTAINER_OF(l, struct conn, in_loop)));
        if (++n == LOOKED_AT_MAX)
            break;
    }
#else
    (void)w;
#endif
}

/* The connection waits: checks what net/conn.h says of its state. */
static void conn_assert(const struct conn *c)
{
    DEBUG_ASSERT(will_go_on(c));
#ifdef EXTANT_DEBUG
    const struct session *s = &c->session;
    switch ((enum conn_state)c->state) {
    case CONN_READ:
        ASSERT(!s->store && s->swallow_bytes == 0 && !s->barrier && c->interest == EV_READ);
        break;
    case CONN_NREAD:
        ASSERT(s->store && c->interest == EV_READ);
        break;
    case CONN_SWALLOW:
        ASSERT(s->swallow_bytes > 0 && c->interest == EV_READ);
        break;
    case CONN_MWRITE:
        ASSERT(c->blocked && c->interest == EV_WRITE);
        break;
    case CONN_IO_QUEUE:
        ASSERT(s->parked > 0 || s->out.waiting > 0);
        break;
    case CONN_YIELD:
        ASSERT(worker_has_put(&c->in_loop, CONN_YIELDING));
        break;
    case CONN_CLOSING:
        ASSERT(c->closing);
        break;
    case CONN_PARSE:
    case CONN_DUMP:
        ASSERT(!"a state in which no connection waits");
    }
#else
    (void)c;
#endif
}

static void log_event(struct conn *c, const char *reason)
{
    if (!watch_wants(WATCH_CONNEVENTS))
        return;
    const struct address *a = &c->origin.peer;
    char ip[INET6_ADDRSTRLEN] = "unix";
    if (a->family != AF_UNIX)
        inet_ntop(a->family, a->ip, ip, sizeof(ip));
    watch_connection(ip, a->port, a->family == AF_UNIX ? "local" : "tcp", reason, c->origin.fd);
}

/* ---- the buffer ---- */

static size_t buffered(const struct conn *c)
{
    DEBUG_ASSERT(c->start <= c->end && c->end <= c->buf_bytes);
    return c->end - c->start;
}

static void buffer_free(struct conn *c)
{
    struct buffer_pool *pool = &c->session.w->pool;
    if (!c->buf)
        return;
    if (c->buf_bytes == REPLY_BUFFER_BYTES) {
        pool_give(pool, c->buf);
    } else {
        free(c->buf);
        pool_discharge(pool, c->buf_bytes);
    }
    c->buf = NULL;
    c->buf_bytes = c->start = c->end = 0;
}

/* Replaces the buffer by one of this size, with the same content. */
static bool buffer_change(struct conn *c, size_t bytes)
{
    struct buffer_pool *pool = &c->session.w->pool;
    size_t have = buffered(c);
    ASSERT(have <= bytes);
    char *fresh = NULL;
    if (bytes == REPLY_BUFFER_BYTES) {
        fresh = pool_take(pool);
    } else if (pool_charge(pool, bytes)) {
        fresh = malloc(bytes);
        if (!fresh)
            pool_discharge(pool, bytes);
    }
    if (!fresh)
        return false;
    DEBUG_ASSERT(c->start <= c->end && c->end <= c->buf_bytes);
    if (have)
        memcpy(fresh, c->buf + c->start, have);
    buffer_free(c);
    c->buf = fresh;
    c->buf_bytes = (uint32_t)bytes;
    c->end = (uint32_t)have;
    return true;
}

/* Makes room for more input behind the present one. */
static bool buffer_prepare(struct conn *c)
{
    if (!c->buf || c->buf_bytes < REPLY_BUFFER_BYTES)
        return buffer_change(c, REPLY_BUFFER_BYTES);
    if (c->start > 0) {
        memmove(c->buf, c->buf + c->start, buffered(c));
        c->end -= c->start;
        c->start = 0;
    }
    return c->end < c->buf_bytes || buffer_change(c, (size_t)c->buf_bytes * 2);
}

/* Is there memory to receive more of a line that fills the buffer? */
static bool line_may_grow(const struct conn *c)
{
    const struct command_worker *w = c->session.w;
    return c->buf_bytes < CONN_LINE_BYTES_MAX &&
           atomic_load_explicit(&w->pool.bytes, memory_order_relaxed) + 2 * (uint64_t)c->buf_bytes <=
               w->reply_bytes_max;
}

/* Before waiting for input: gives back an empty buffer, and exchanges a large one that holds little. */
static void buffer_trim(struct conn *c)
{
    if (!c->buf)
        return;
    if (buffered(c) == 0)
        buffer_free(c);
    else if (buffered(c) <= CONN_SMALL_BUFFER_BYTES && c->buf_bytes > CONN_SMALL_BUFFER_BYTES)
        buffer_change(c, CONN_SMALL_BUFFER_BYTES);
}

static void consume(struct conn *c, size_t n)
{
    DEBUG_ASSERT(n <= c->end - c->start);
    c->start += (uint32_t)n;
    if (c->start == c->end)
        c->start = c->end = 0;
}

/* ---- reading ---- */

enum read_result { READ_FULL, READ_SHORT, READ_NOTHING, READ_END, READ_ERROR };

static ALWAYS_INLINE bool is_tls(const struct conn *c)
{
    return unlikely(c->apart & CONN_TLS);
}

static ALWAYS_INLINE enum read_result conn_receive(struct conn *c)
{
    struct iovec iov[2];
    int n_iov = 0;
    size_t want = 0;
    char *value;
    if (c->session.store && buffered(c) == 0) {
        size_t room = command_value_room(&c->session, &value);
        if (room > 0) {
            iov[n_iov++] = (struct iovec){value, room};
            want += room;
        }
    }
    size_t value_bytes = want;
    if (!buffer_prepare(c)) {
        stat_inc(c->session.w->stats, STAT_read_buf_oom);
        return READ_ERROR;
    }
    iov[n_iov++] = (struct iovec){c->buf + c->end, c->buf_bytes - c->end};
    want += c->buf_bytes - c->end;
    ssize_t n = is_tls(c)    ? c->worker->conn_tls->readv(c, iov, n_iov)
                : n_iov == 1 ? recv(c->origin.fd, iov[0].iov_base, iov[0].iov_len, 0)
                             : readv(c->origin.fd, iov, n_iov);
    if (n < 0)
        return may_come_later() ? READ_NOTHING : READ_ERROR;
    if (n == 0)
        return READ_END;
    stat_add(c->session.w->stats, STAT_bytes_read, (uint64_t)n);
    size_t to_value = min_u64((uint64_t)n, value_bytes);
    DEBUG_ASSERT((size_t)n <= want);
    if (to_value)
        command_value_got(&c->session, to_value);
    c->end += (uint32_t)((size_t)n - to_value);
    bool more = is_tls(c) ? c->worker->conn_tls->has_input(c) : (size_t)n == want;
    return more ? READ_FULL : READ_SHORT;
}

/* Copies the received part of a value to its item. True iff the value is complete, and stored. */
static bool take_value(struct conn *c)
{
    char *to;
    size_t room = command_value_room(&c->session, &to);
    size_t n = min_u64(room, buffered(c));
    DEBUG_ASSERT(c->session.store);
    if (n > 0) {
        memcpy(to, c->buf + c->start, n);
        command_value_got(&c->session, n);
        consume(c, n);
    }
    unsigned end_bytes = command_value_end_bytes(&c->session);
    if (n < room || buffered(c) < end_bytes)
        return false;
    bool good = end_bytes == 0 || memcmp(c->buf + c->start, "\r\n", 2) == 0;
    consume(c, end_bytes);
    command_store(&c->session, good);
    return true;
}

/* ---- executing ---- */

enum next {
    NEXT_REQUEST, /* may follow at once; never from conn_execute() */
    NEXT_INPUT, /* needs more bytes */
    NEXT_WAIT,  /* for an op, or for replies to be sent */
    NEXT_YIELD, /* it has had its share of the turn */
    NEXT_CLOSE, /* c->reason is set */
    NEXT_GONE,  /* the connection is gone, or lent to another thread */
};

static enum next close_because(struct conn *c, enum conn_reason reason)
{
    c->reason = reason;
    return NEXT_CLOSE;
}

static void watcher_closed(void *arg)
{
    struct server_counters *n = arg;
    atomic_fetch_sub_explicit(&n->curr_conns, 1, memory_order_relaxed);
}

static enum next refuse_watcher(struct conn *c, int rc)
{
    session_reply(&c->session, rc == -EMFILE ? REPLY_WATCH_TOO_MANY : REPLY_WATCH_FAILED);
    return NEXT_REQUEST;
}

static void tls_watcher_closed(void *arg UNUSED)
{
    /* the connection is still counted, and notices */
}

/* The log writes plain text; the connection stays, and encrypts it. */
static enum next tls_becomes_watcher(struct conn *c)
{
    int fd = c->worker->conn_tls->lend(c, false);
    int rc = fd < 0 ? -errno
                    : watch_add(fd, (uint32_t)c->session.handover, tls_watcher_closed, NULL);
    if (rc == 0) {
        conn_become(c, CONN_DUMP);
        return NEXT_GONE;
    }
    if (fd >= 0)
        c->worker->conn_tls->take_back(c, fd);
    return refuse_watcher(c, rc);
}

/* The log takes over the socket. */
static enum next become_watcher(struct conn *c)
{
    ASSERT(reply_is_empty(&c->session.out) && c->session.parked == 0);
    conn_await(c, 0);
    if (is_tls(c))
        return tls_becomes_watcher(c);
    int rc = watch_add(c->origin.fd, (uint32_t)c->session.handover, watcher_closed,
                       c->session.w->env->counters);
    if (rc != 0)
        return refuse_watcher(c, rc);
    worker_forget(c->worker, &c->in_loop);
    worker_unlink(c->worker, &c->in_loop);
    buffer_free(c);
    bool idle = session_close(&c->session);
    ASSERT(idle);
    free(c);
    return NEXT_GONE;
}

static void dump_over(void *arg, bool alive)
{
    struct conn *c = arg;
    worker_post_dump_over(c->worker, &c->in_loop, alive);
}

/* The socket is lent to the crawler. */
static enum next start_dump(struct conn *c)
{
    ASSERT(reply_is_empty(&c->session.out) && c->session.parked == 0);
    conn_await(c, 0);
    bool tls = is_tls(c);
    int fd = tls ? c->worker->conn_tls->lend(c, true) : c->origin.fd;
    c->apart |= CONN_DUMPING;
    conn_become(c, CONN_DUMP);
    enum reply refused = REPLY_CRAWLER_ERROR;
    if (fd >= 0)
        refused = dump_start(&c->session, fd, dump_over, c);
    if (refused == REPLY_NONE)
        return NEXT_GONE;
    if (tls && fd >= 0)
        c->worker->conn_tls->take_back(c, fd);
    c->apart &= (uint8_t)~CONN_DUMPING;
    conn_become(c, CONN_PARSE);
    session_reply(&c->session, refused);
    return NEXT_REQUEST;
}

static void log_line_of(struct conn *c, const char *line, size_t len)
{
    while (len > 0 && (line[len - 1] == '\n' || line[len - 1] == '\r'))
        len--;
    len = min_u64(len, RAW_LOG_BYTES);
    if (watch_mask_has(c->session.w->watch_mask, WATCH_RAWCMDS))
        watch_rawcmd(line, len, c->origin.fd);
    if (log_is_on(LOG_LEVEL_DEBUG))
        log_debug("<%d %.*s", c->origin.fd, (int)len, line);
}

/* -Y: only the line that logs in is understood. */
static enum next authenticate(struct conn *c)
{
    DEBUG_ASSERT(!c->session.authenticated && !c->session.is_binary);
    size_t consumed;
    uint32_t bytes;
    enum reply error;
    const char *line = c->buf + c->start;
    switch (proto_parse_auth(line, buffered(c), &consumed, &bytes, &error)) {
    case PARSE_NEED_MORE:
        return NEXT_INPUT;
    case PARSE_OK:
        if (buffered(c) < consumed + bytes + 2)
            return NEXT_INPUT;
        command_authenticate(&c->session, line + consumed, bytes,
                             memcmp(line + consumed + bytes, "\r\n", 2) == 0);
        consume(c, consumed + bytes + 2);
        return NEXT_REQUEST;
    case PARSE_ERROR:
        session_reply(&c->session, error);
        consume(c, consumed);
        return NEXT_REQUEST;
    default:
        return close_because(c, CONN_ERROR);
    }
}

/* The first byte tells which protocol is spoken, and -B says which is allowed. False: not this one; the log says what
 * would help. A client that speaks neither is served as text, and gets memcached's answers; only a TLS client is
 * refused, as it would understand none. */
static bool negotiate(struct conn *c)
{
    DEBUG_ASSERT(!c->negotiated && buffered(c) > 0);
    const struct settings *set = c->session.w->env->settings;
    enum stranger who = stranger_of(c->buf + c->start, buffered(c));
    bool is_binary = who == STRANGER_BINARY;
    c->negotiated = true;
    c->session.is_binary = is_binary;
    bool refused = who == STRANGER_TLS ||
                   (set->binding_protocol != SETTINGS_PROTOCOL_AUTO &&
                    (set->binding_protocol == SETTINGS_PROTOCOL_BINARY) != is_binary);
    if (refused || who == STRANGER_HTTP || who == STRANGER_PROXY) {
        char peer[ADDRESS_TEXT_BYTES];
        address_text(&c->origin.peer, set->socketpath, peer, sizeof(peer));
        stranger_tell(who, STRANGER_PORT_CLEAR, peer);
    }
    if (refused && is_binary)
        atomic_fetch_add_explicit(&c->session.w->env->counters->binary_rejected, 1, memory_order_relaxed);
    return !refused;
}

/* Logs what a packet asks. */
static void log_packet_of(struct conn *c, const struct request *req)
{
    char key[LOG_LINE_BYTES], line[LOG_LINE_BYTES];
    int n = snprintf(line, sizeof(line), "binary %02x %s", req->bin.opcode,
                     log_key(key, sizeof(key) - 32, req->key, req->key_len));
    log_line_of(c, line, min_u64((size_t)n, sizeof(line) - 1));
}

/* Parses the next line or packet. */
static enum parse_result parse(struct conn *c, size_t *consumed)
{
    struct request *req = &c->worker->request;
    const char *from = c->buf + c->start;
    enum parse_result result = likely(!c->session.is_binary) ? proto_parse_line(from, buffered(c), consumed, req)
                                                             : proto_parse_bin(from, buffered(c), consumed, req);
    DEBUG_ASSERT(*consumed <= buffered(c));
    return result;
}

static void log_request(struct conn *c, size_t consumed)
{
    if (likely(!log_is_on(LOG_LEVEL_DEBUG) && !watch_mask_has(c->session.w->watch_mask, WATCH_RAWCMDS)))
        return;
    if (c->session.is_binary)
        log_packet_of(c, &c->worker->request);
    else
        log_line_of(c, c->buf + c->start, consumed);
}

/* -S: the first request that is not part of the log-in ends the connection. */
static enum next refuse_stranger(struct conn *c)
{
    session_answer(&c->session, &c->worker->request, REPLY_AUTH_NEEDED);
    return close_because(c, CONN_ERROR);
}

/* A packet whose lengths contradict each other is refused in the same words with and without log-in. */
static bool has_wrong_lengths(const struct request *req)
{
    return req->error == REPLY_UNKNOWN_COMMAND && req->close_after;
}

/* Keys of the lines that come after the one that is executed. */
struct ahead {
    const char *at;          /* the first line that was not looked at; NULL: the next one */
    struct seen_key seen[3]; /* a ring: that of the next line, the one after it, and room for the present one */
    unsigned first;
};

static struct seen_key *seen_at(struct ahead *a, unsigned i)
{
    return &a->seen[(a->first + i) % ARRAY_COUNT(a->seen)];
}

/* The next packet with a key, from *at on. */
static void look_at_packet(struct conn *c, const char **at, struct seen_key *seen)
{
    const char *end = c->buf + c->end;
    seen->len = 0;
    for (unsigned i = 0; seen->len == 0 && i < LOOK_LINES_MAX && *at < end; i++) {
        const char *key;
        uint64_t bytes;
        uint32_t len = proto_peek_bin(*at, (size_t)(end - *at), &key, &bytes);
        *at = bytes == 0 || bytes > (size_t)(end - *at) ? end : *at + bytes;
        if (len > 0)
            command_look_at_key(c->session.w, key, len, seen);
    }
}

/* The next line that looks like a request, from *at on. */
static void look_at_line(struct conn *c, const char **at, struct seen_key *seen)
{
    const char *end = c->buf + c->end;
    seen->len = 0;
    for (unsigned i = 0; seen->len == 0 && i < LOOK_LINES_MAX && *at < end; i++) {
        uint32_t value_bytes;
        size_t bytes = min_u64((size_t)(end - *at), LOOK_BYTES_MAX);
        const char *newline = memchr(*at, '\n', bytes);
        command_look_ahead(c->session.w, *at, (size_t)(end - *at), &value_bytes, seen);
        *at = newline ? newline + 1 : *at + bytes;
        if (value_bytes > 0)
            *at += min_u64((size_t)(end - *at), (uint64_t)value_bytes + 2);
    }
}

static void look_at_next(struct conn *c, const char **at, struct seen_key *seen)
{
    if (unlikely(c->session.is_binary))
        look_at_packet(c, at, seen);
    else
        look_at_line(c, at, seen);
}

static void ahead_begin(struct ahead *a, struct conn *c)
{
    a->at = NULL;
    a->first = 0;
    a->seen[0].len = a->seen[1].len = a->seen[2].len = 0;
    if (c->first.len == 0)
        return;
    a->seen[0] = c->first;
    c->first.len = 0;
}

/* What was received begins with it. */
static void look_at_first(struct conn *c)
{
    const char *at = c->buf + c->start;
    look_at_next(c, &at, &c->first);
}

/* The line is parsed, and about to be executed. Meanwhile the index for the line after the next is on its way from
 * memory, and the item of the next one. Returns what is known of the line's own key. */
static struct seen_key *look_ahead(struct conn *c, struct ahead *a, size_t consumed)
{
    DEBUG_ASSERT(consumed > 0 && consumed <= buffered(c));
    const struct request *req = &c->worker->request;
    const char *line = c->buf + c->start, *next = line + consumed, *end = c->buf + c->end;
    if (unlikely(seen_at(a, 0)->len > 0 && seen_at(a, 0)->key < line)) { /* of a line that wasn't executed */
        a->first++;
        seen_at(a, 1)->len = 0;
    }
    struct seen_key *seen = seen_at(a, 0);
    if (req->value_bytes > 0)
        next += min_u64((size_t)(end - next), (uint64_t)req->value_bytes + req->value_end_bytes);
    if (next == end)
        return seen;
    if (a->at < next) {
        a->at = next;
        look_at_next(c, &a->at, seen_at(a, 1));
    }
    a->first++;
    look_at_next(c, &a->at, seen_at(a, 1));
    command_look_closer(c->session.w, seen_at(a, 0));
    return seen;
}

/* ---- long lines ---- */

/* Without spaces at its end, [from, end) ends there. */
static char *trim_spaces(const char *from, char *end)
{
    while (end > from && end[-1] == ' ')
        end--;
    return end;
}

/* Only a multiget can fill a buffer without a newline. If there is no memory for more of it, ends the line before its
 * last key, so that the others are executed. False: there is memory, or no other key; then no more is
 * kept of the last one than is needed to see that it is too long. */
static bool cut_line(struct conn *c)
{
    if (c->session.is_binary || c->start > 0 || c->end < c->buf_bytes || c->buf_bytes < REPLY_BUFFER_BYTES ||
        line_may_grow(c))
        return false;
    char *limit = c->buf + c->end, *verb = c->buf;
    while (*verb == ' ')
        verb++;
    char *keys = memchr(verb, ' ', (size_t)(limit - verb));
    ASSERT(keys != NULL); /* the parser closes all other long lines */
    char *end = trim_spaces(keys, limit), *key = end;
    while (key > keys && key[-1] != ' ')
        key--;
    if (trim_spaces(keys, key) > keys) {
        key[-1] = '\n';
        c->cut = CONN_CUT_PIECE;
        return true;
    }
    size_t bytes = min_u64((uint64_t)(end - key), LONG_KEY_BYTES);
    memmove(keys + 1, key, bytes);
    c->end = (uint32_t)(keys + 1 - c->buf) + (uint32_t)bytes;
    if (end < limit && bytes > 0)
        c->buf[c->end++] = ' ';
    return false;
}

/* The piece of `consumed` bytes was executed: the rest becomes a line of the same command, or is thrown away. */
static enum next piece_done(struct conn *c, size_t consumed, bool spoiled)
{
    const char *verb = c->worker->request.verb == VERB_GETS ? "gets " : "get ";
    size_t bytes = strlen(verb);
    ASSERT(c->cut == CONN_CUT_PIECE && consumed > bytes && consumed < buffered(c));
    c->cut = spoiled ? CONN_CUT_SPOILED : CONN_CUT_NOT;
    consume(c, spoiled ? consumed : consumed - bytes);
    if (!spoiled)
        memcpy(c->buf + c->start, verb, bytes);
    return NEXT_REQUEST;
}

/* Throws away what comes up to the next newline. True: that was there. */
static bool skip_line(struct conn *c)
{
    const char *from = c->buf + c->start, *newline = memchr(from, '\n', buffered(c));
    consume(c, newline ? (size_t)(newline + 1 - from) : buffered(c));
    if (newline)
        c->cut = CONN_CUT_NOT;
    return newline != NULL;
}

/* Executes one line or packet. */
static enum next execute_next(struct conn *c, struct ahead *ahead)
{
    struct session *s = &c->session;
    struct request *req = &c->worker->request;
    size_t consumed;
    if (unlikely(c->cut == CONN_CUT_SPOILED))
        return skip_line(c) ? NEXT_REQUEST : NEXT_INPUT;
    enum parse_result result = parse(c, &consumed);
    if (unlikely(result == PARSE_NEED_MORE) && cut_line(c))
        result = parse(c, &consumed);
    switch (result) {
    case PARSE_NEED_MORE:
        return NEXT_INPUT;
    case PARSE_CLOSE:
        return close_because(c, CONN_ERROR);
    case PARSE_ERROR:
        log_request(c, consumed);
        if (command_needs_login(s, req) && !has_wrong_lengths(req))
            return refuse_stranger(c);
        command_refuse(s, req);
        consume(c, consumed);
        return req->close_after ? close_because(c, CONN_ERROR) : NEXT_REQUEST;
    case PARSE_OK:
        if (command_needs_login(s, req))
            return refuse_stranger(c);
        break;
    }
    if (s->get_offset == 0) /* else it was logged before */
        log_request(c, consumed);
    req->more_keys = c->cut == CONN_CUT_PIECE;
    enum command_result done = command_execute(s, req, look_ahead(c, ahead, consumed));
    if (done == COMMAND_AGAIN || done == COMMAND_YIELD)
        return done == COMMAND_AGAIN ? NEXT_WAIT : NEXT_YIELD;
    if (unlikely(c->cut == CONN_CUT_PIECE))
        return piece_done(c, consumed, done == COMMAND_SPOILED);
    consume(c, consumed);
    if (likely(done == COMMAND_DONE || done == COMMAND_SPOILED))
        return NEXT_REQUEST;
    if (done == COMMAND_CLOSE)
        return close_because(c, CONN_NORMAL);
    return done == COMMAND_WATCH ? become_watcher(c) : start_dump(c);
}

/* Executes what was received, as far as possible; *budget requests at most. (As a part of conn_run it would lack registers:
 * 6 instructions more for each request of a pipeline, by scripts/callgrind_cost.py.) */
static __attribute__((noinline)) enum next conn_execute(struct conn *c, uint32_t *budget)
{
    struct session *s = &c->session;
    struct ahead ahead;
    ahead_begin(&ahead, c);
    for (;;) {
        DEBUG_ASSERT(c->state == CONN_PARSE && !c->closing);
        if (unlikely(s->broken)) { /* as in memcached: part of the replies would be of no use */
            stat_inc(s->w->stats, STAT_response_obj_oom);
            conn_close(c, CONN_ERROR);
            return NEXT_GONE;
        }
        if (s->barrier || session_is_full(s))
            return NEXT_WAIT;
        if (s->swallow_bytes > 0) {
            DEBUG_ASSERT(!s->store);
            size_t n = min_u64(s->swallow_bytes, buffered(c));
            consume(c, n);
            s->swallow_bytes -= n;
            if (s->swallow_bytes > 0)
                return NEXT_INPUT;
        }
        if (s->store) {
            if (!take_value(c))
                return NEXT_INPUT;
            continue;
        }
        if (buffered(c) == 0)
            return NEXT_INPUT;
        if (unlikely(!c->negotiated) && !negotiate(c))
            return close_because(c, CONN_ERROR);
        if (*budget == 0)
            return NEXT_YIELD;
        (*budget)--;
        enum next next = unlikely(!s->authenticated) && !s->is_binary ? authenticate(c) : execute_next(c, &ahead);
        if (next != NEXT_REQUEST)
            return next;
    }
}

/* ---- waiting ---- */

bool conn_await(struct conn *c, short want)
{
    return likely(c->interest == want) || worker_await(c->worker, &c->event, &c->interest, c->origin.fd, want,
                                                       is_tls(c) ? c->worker->conn_tls->event : conn_event, c);
}

static void set_state(struct conn *c, enum next next)
{
    DEBUG_ASSERT(next != NEXT_REQUEST && next != NEXT_GONE);
    enum conn_state state = CONN_READ;
    if (c->closing)
        state = CONN_CLOSING;
    else if (c->blocked)
        state = CONN_MWRITE;
    else if (next == NEXT_WAIT || c->session.out.waiting > 0)
        state = CONN_IO_QUEUE;
    else if (next == NEXT_YIELD)
        state = CONN_YIELD;
    else if (c->session.store)
        state = CONN_NREAD;
    else if (c->session.swallow_bytes > 0)
        state = CONN_SWALLOW;
    if (atomic_load_explicit(&c->state, memory_order_relaxed) != state)
        conn_become(c, state);
}

/* Has the client closed its socket? Then writing to it would fail. */
static bool peer_has_left(const struct conn *c)
{
    struct pollfd p = {.fd = c->origin.fd};
    return poll(&p, 1, 0) == 1 && (p.revents & (POLLERR | POLLHUP));
}

/* The next reply isn't ready. REPLY_NOT_READY: it will be. REPLY_BROKEN: its client has left, so its value isn't read
 * again. REPLY_SENT_ALL: it is ready now, and to be sent. */
static enum reply_progress conn_fetch(struct conn *c)
{
    if (!session_wants_fetch(&c->session))
        return REPLY_NOT_READY;
    if (peer_has_left(c))
        return REPLY_BROKEN;
    return session_fetch(&c->session) ? REPLY_SENT_ALL : REPLY_NOT_READY;
}

/* Sends what is ready. False: the connection is gone. */
static ALWAYS_INLINE bool conn_flush(struct conn *c)
{
    uint64_t sent = 0;
    enum reply_progress p;
    for (;;) {
        p = is_tls(c) ? c->worker->conn_tls->send(c, &sent) : reply_send(&c->session.out, c->origin.fd, &sent);
        if (likely(p != REPLY_NOT_READY) || (p = conn_fetch(c)) != REPLY_SENT_ALL)
            break;
    }
    if (sent)
        stat_add(c->session.w->stats, STAT_bytes_written, sent);
    if (unlikely(c->session.broken))
        p = REPLY_BROKEN;
    c->blocked = p == REPLY_BLOCKED;
    if (p == REPLY_BROKEN) {
        conn_close(c, CONN_ERROR);
        return false;
    }
    session_sent(&c->session, c->blocked, sent > 0);
    if (c->closing && p == REPLY_SENT_ALL) {
        conn_close(c, (enum conn_reason)c->reason);
        return false;
    }
    return true;
}

/* Into the list of those in the clear, or that of TLS connections. */
static ALWAYS_INLINE void conn_put(struct conn *c, enum conn_list clear, enum conn_list sealed)
{
    if (is_tls(c))
        c->worker->conn_tls->put(c, sealed);
    else
        worker_put(c->worker, &c->in_loop, clear);
}

/* There is no more input. The client may have closed only its half, and wait for its replies. */
static void conn_input_ended(struct conn *c, enum read_result r)
{
    DEBUG_ASSERT(r == READ_END || r == READ_ERROR);
    c->closing = true;
    c->reason = r == READ_END ? CONN_NORMAL : CONN_ERROR;
    session_put_last(&c->session);
}

void conn_run(struct conn *c, bool readable)
{
    worker_assert_mine(c->worker);
    DEBUG_ASSERT(!c->session.gone);
    conn_become(c, CONN_PARSE);
    uint32_t budget = atomic_load_explicit(&c->worker->env->settings->reqs_per_event,
                                           memory_order_relaxed);
    enum next next = NEXT_WAIT;
    for (;;) {
        if (!c->closing && !c->blocked)
            next = conn_execute(c, &budget);
        if (next == NEXT_GONE)
            return;
        if (next == NEXT_CLOSE)
            c->closing = true;
        if (next == NEXT_INPUT && readable) {
            enum read_result r = conn_receive(c);
            readable = r == READ_FULL;
            if (r == READ_FULL || r == READ_SHORT)
                continue;
            if (r == READ_END || r == READ_ERROR)
                conn_input_ended(c, r);
        }
        if (next == NEXT_YIELD && c->session.out.bytes < YIELD_FLUSH_BYTES)
            break;
        if (next == NEXT_INPUT && !c->closing && c->worker->netring) {
            if (!reply_is_empty(&c->session.out))
                conn_put(c, CONN_UNSENT, CONN_TLS_UNSENT);
            break;
        }
        if (!conn_flush(c))
            return;
        bool may_go_on = !c->closing && !c->blocked && !session_must_wait(&c->session);
        if (next != NEXT_WAIT || !may_go_on)
            break;
    }
    if (next == NEXT_YIELD && !c->closing) {
        stat_add(c->session.w->stats, STAT_conn_yields, 1);
        worker_put(c->worker, &c->in_loop, CONN_YIELDING);
    }
    set_state(c, next);
    /* an event of input that can't be read yet removes itself (conn_event) */
    short want = c->interest & EV_READ;
    if (c->blocked)
        want = EV_WRITE;
    else if (c->closing)
        want = 0;
    else if (next == NEXT_INPUT)
        want = EV_READ;
    if (unlikely(!conn_await(c, want))) {
        conn_close(c, CONN_ERROR);
        return;
    }
    conn_assert(c);
    if (next == NEXT_INPUT || c->blocked || session_is_crowded(&c->session))
        buffer_trim(c);
}

bool conn_is_deserted(const struct conn *c)
{
    bool waits = c->state == CONN_IO_QUEUE || c->state == CONN_CLOSING;
    return waits && c->session.parked > 0 && !c->in_loop.is_in && peer_has_left(c);
}

void conns_execute(struct worker *w, enum conn_list list)
{
    struct loop_conn *l;
    DEBUG_ASSERT(w->count[list] <= RECEIVED_MAX);
    STAILQ_FOREACH(l, &w->list[list], on[list])
        command_look_closer(&w->command, &conn_of(l)->first);
    for (struct conn *c; (c = conn_of(worker_take(w, list)));)
        conn_run(c, c->more);
}

/* Receives; conns_execute() does the rest. */
static ALWAYS_INLINE void conn_receive_first(struct conn *c)
{
    const enum conn_list list = is_tls(c) ? CONN_TLS_RECEIVED : CONN_RECEIVED;
    enum read_result r = conn_receive(c);
    if (r == READ_NOTHING) {
        buffer_trim(c);
        return;
    }
    if (r == READ_END || r == READ_ERROR) {
        conn_input_ended(c, r);
        conn_run(c, false);
        return;
    }
    struct worker *w = c->worker;
    c->more = r == READ_FULL;
    if (w->count[list] == 1)
        look_at_first(conn_of(STAILQ_FIRST(&w->list[list])));
    if (w->count[list] > 0)
        look_at_first(c);
    conn_put(c, CONN_RECEIVED, CONN_TLS_RECEIVED);
    if (w->count[list] >= RECEIVED_MAX)
        conns_execute(w, list);
}

void conn_event(evutil_socket_t fd UNUSED, short what, void *arg)
{
    struct conn *c = arg;
    worker_assert_mine(c->worker);
    if (what & EV_WRITE) { /* the client reads: slow, but not idle */
        atomic_store_explicit(&c->last_cmd_sec, clock_now_sec(), memory_order_relaxed);
        if (conn_flush(c) && !c->blocked)
            conn_run(c, is_tls(c) && c->worker->conn_tls->has_input(c));
        return;
    }
    if (worker_has_put(&c->in_loop, CONN_YIELDING)) /* its turn comes before the loop sleeps */
        return;
    if (session_must_wait(&c->session)) {
        conn_await(c, 0);
        return;
    }
    latency_received(&c->worker->stats->latency);
    atomic_store_explicit(&c->last_cmd_sec, clock_now_sec(), memory_order_relaxed);
    if (buffered(c) == 0 && !c->session.store)
        conn_receive_first(c);
    else
        conn_run(c, true);
}

void conn_send_rest(struct conn *c)
{
    worker_assert_mine(c->worker);
    if (!conn_flush(c))
        return;
    const struct session *s = &c->session;
    bool was_last = c->state == CONN_IO_QUEUE && !c->in_loop.is_in && s->parked == 0 && s->out.waiting == 0;
    if (!c->blocked && !was_last)
        return;
    set_state(c, NEXT_INPUT);
    if (unlikely(!conn_await(c, c->blocked ? EV_WRITE : EV_READ)))
        conn_close(c, CONN_ERROR);
    else
        conn_assert(c);
}

static void conn_was_sent(void *user, int result)
{
    struct conn *c = user;
    if (result > 0) {
        stat_add(c->session.w->stats, STAT_bytes_written, (uint64_t)result);
        reply_sent(&c->session.out, (size_t)result);
    }
    if (!reply_is_empty(&c->session.out) || c->closing) /* too much for one send, or the socket is full */
        conn_send_rest(c);
}

void conns_run_ring(struct worker *w, void (*fn)(void *user, int result))
{
    if (netring_run(w->netring, fn))
        return;
    netring_destroy(w->netring);
    w->netring = NULL;
}

void conns_send(struct worker *w)
{
    worker_assert_mine(w);
    struct conn *c = conn_of(worker_take(w, CONN_UNSENT));
    bool alone = w->count[CONN_UNSENT] == 0;
    for (; c; c = conn_of(worker_take(w, CONN_UNSENT))) {
        if (c->blocked) /* the socket's event goes on with it */
            continue;
        unsigned n = 0;
        if (w->netring && !alone)
            n = reply_pieces(&c->session.out, netring_pieces(w->netring), NETRING_PIECES_MAX);
        if (n == 0) {
            conn_send_rest(c);
            continue;
        }
        netring_send(w->netring, c->origin.fd, n, c);
        if (netring_is_full(w->netring))
            conns_run_ring(w, conn_was_sent);
    }
    if (w->netring)
        conns_run_ring(w, conn_was_sent);
}

void conn_continue(struct conn *c)
{
    worker_assert_mine(c->worker);
    if (unlikely(c->apart)) {
        if (c->apart & CONN_TLS)
            c->worker->conn_tls->go_on(c);
        return;
    }
    if (c->blocked) /* the socket's event goes on with it */
        return;
    conn_run(c, false);
}

void conn_dump_over(struct conn *c, bool alive)
{
    ASSERT(c->apart & CONN_DUMPING);
    worker_assert_mine(c->worker);
    c->apart &= (uint8_t)~CONN_DUMPING;
    if (c->apart)
        c->worker->conn_tls->dump_over(c, alive);
    else if (alive)
        conn_run(c, true);
    else
        conn_close(c, CONN_ERROR);
}

/* ---- begin and end ---- */

static void session_resumed(struct session *s)
{
    DEBUG_ASSERT(!s->gone);
    struct conn *c = CONTAINER_OF(s, struct conn, session);
    worker_put(c->worker, &c->in_loop, CONN_RESUMED);
}

static void session_peer(const struct session *s, char *out, size_t size)
{
    const struct conn *c = CONTAINER_OF(s, struct conn, session);
    address_text(&c->origin.peer, c->worker->env->settings->socketpath, out, size);
}

static void session_ended(struct session *s)
{
    struct conn *c = CONTAINER_OF(s, struct conn, session);
    DEBUG_ASSERT(c->worker->zombies > 0);
    c->worker->zombies--;
    free(c);
}

struct conn *conn_create(struct worker *w, const struct conn_origin *origin)
{
    DEBUG_ASSERT(origin->fd >= 0 && (!origin->tls || w->conn_tls));
    struct conn *c = origin->tls ? w->conn_tls->create() : calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->worker = w;
    c->origin = *origin;
    c->last_cmd_sec = clock_now_sec();
    c->reason = CONN_NORMAL;
    return c;
}

void conn_start(struct conn *c)
{
    worker_assert_mine(c->worker);
    DEBUG_ASSERT(!c->buf && !c->interest && c->state == CONN_READ);
    session_init(&c->session, &c->worker->command, c->origin.fd, session_resumed, session_ended);
    c->session.peer = session_peer;
    worker_link(c->worker, &c->in_loop);
    log_event(c, NULL);
    if (unlikely(c->apart))
        c->worker->conn_tls->start(c);
    else if (!conn_await(c, EV_READ))
        conn_close(c, CONN_ERROR);
}

void conn_close(struct conn *c, enum conn_reason reason)
{
    DEBUG_ASSERT(reason < ARRAY_COUNT(reason_names));
    worker_assert_mine(c->worker);
    DEBUG_ASSERT(!(c->apart & CONN_DUMPING));
    if (unlikely(c->apart))
        c->worker->conn_tls->end(c);
    struct server_counters *n = c->session.w->env->counters;
    log_event(c, reason_names[reason]);
    conn_await(c, 0);
    worker_forget(c->worker, &c->in_loop);
    worker_unlink(c->worker, &c->in_loop);
    buffer_free(c);
    atomic_fetch_sub_explicit(&n->curr_conns, 1, memory_order_relaxed); /* before its client sees the end */
    close(c->origin.fd);
    if (session_close(&c->session))
        free(c);
    else
        c->worker->zombies++;
}
