/* net/tls_conn.c: see net/tls_conn.h. */
#include "net/tls_conn.h"

#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "net/stranger.h"
#include "net/loop.h"

enum {
    GATHER_MAX = 64,
    PEEK_BYTES = 16,
    CROWDED_US = 20000,    /* until the next look for room, when TLS_GREETING_MAX are under way */
    TICK_SEC = 1,
    OLD_SEC = 1, /* a handshake that others need not wait for */
    RELAY_PIECES_MAX = 4
};

static struct tls_conn *of(struct conn *c)
{
    DEBUG_ASSERT(c->apart & CONN_TLS);
    return (struct tls_conn *)c;
}

static struct tls_worker *worker_of(const struct tls_conn *t)
{
    return t->conn.worker->tls;
}

/* ---- connections before the end of their handshake ---- */

static void list_add(struct tls_worker *w, struct tls_conn *t, enum tls_stage stage)
{
    DEBUG_ASSERT(stage <= TLS_GREETING && !t->is_ready);
    t->stage = stage;
    t->since_sec = clock_now_sec();
    TAILQ_INSERT_TAIL(&w->list[stage], t, in_stage);
    w->count[stage]++;
}

static void list_remove(struct tls_worker *w, struct tls_conn *t)
{
    DEBUG_ASSERT(t->stage <= TLS_GREETING && w->count[t->stage] > 0 && !t->is_ready);
    TAILQ_REMOVE(&w->list[t->stage], t, in_stage);
    w->count[t->stage]--;
}

static void set_timer(struct tls_worker *w, bool crowded)
{
    struct timeval now = {0, 0}, soon = {0, CROWDED_US}, tick = {TICK_SEC, 0};
    if (!TAILQ_EMPTY(&w->ready[TLS_SILENT]) || !TAILQ_EMPTY(&w->ready[TLS_GREETING]))
        evtimer_add(&w->timer, crowded ? &soon : &now);
    else if (w->count[TLS_SILENT] + w->count[TLS_GREETING] > 0)
        evtimer_add(&w->timer, &tick);
}

static void ready_add(struct tls_worker *w, struct tls_conn *t)
{
    DEBUG_ASSERT(t->stage <= TLS_GREETING);
    if (!t->is_ready)
        TAILQ_INSERT_TAIL(&w->ready[t->stage], t, in_ready);
    t->is_ready = true;
}

static void ready_remove(struct tls_worker *w, struct tls_conn *t)
{
    DEBUG_ASSERT(!t->is_ready || t->stage <= TLS_GREETING);
    if (t->is_ready)
        TAILQ_REMOVE(&w->ready[t->stage], t, in_ready);
    t->is_ready = false;
}

/* One that OpenSSL didn't count. */
static void count_failure(const struct tls_conn *t)
{
    struct server_counters *n = t->conn.session.w->env->counters;
    atomic_fetch_add_explicit(&n->tls_handshake_errors, 1, memory_order_relaxed);
}

static void peer_text(const struct tls_conn *t, char *out, size_t size)
{
    address_text(&t->conn.origin.peer, NULL, out, size);
}

/* A list of TLS connections, and the event that serves it. */
static void put_in_batch(struct conn *c, enum conn_list list)
{
    DEBUG_ASSERT(list == CONN_TLS_RECEIVED || list == CONN_TLS_UNSENT);
    struct tls_worker *w = c->worker->tls;
    worker_put(c->worker, &c->in_loop, list);
    if (w->batch_is_due)
        return;
    w->batch_is_due = true;
    event_active(&w->batch, EV_TIMEOUT, 0);
}

/* Waits for the socket; if there is no memory for that, closes it. */
static void await(struct tls_conn *t, short what)
{
    if (!conn_await(&t->conn, what))
        conn_close(&t->conn, CONN_ERROR);
}

/* ---- the handshake ---- */

/* The first bytes are here: true iff they may be the beginning of a handshake. */
static bool is_tls(struct tls_conn *t)
{
    DEBUG_ASSERT(t->stage == TLS_SILENT && !t->stream);
    char first[PEEK_BYTES], peer[ADDRESS_TEXT_BYTES];
    ssize_t n = recv(t->conn.origin.fd, first, sizeof(first), MSG_PEEK | MSG_DONTWAIT);
    if (n <= 0) { /* it has left */
        conn_close(&t->conn, n == 0 ? CONN_NORMAL : CONN_ERROR);
        return false;
    }
    enum stranger who = stranger_of(first, (size_t)n);
    if (who == STRANGER_TLS)
        return true;
    peer_text(t, peer, sizeof(peer));
    stranger_tell(who, STRANGER_PORT_TLS, peer);
    count_failure(t);
    conn_close(&t->conn, CONN_ERROR);
    return false;
}

/* Is there room for one more handshake? The oldest goes if it is old enough. */
static bool make_room(struct tls_worker *w)
{
    struct tls_conn *oldest = TAILQ_FIRST(&w->list[TLS_GREETING]);
    if (w->count[TLS_GREETING] < TLS_GREETING_MAX)
        return true;
    if (clock_now_sec() - oldest->since_sec <= OLD_SEC)
        return false;
    log_info("TLS: a handshake gives way to others");
    count_failure(oldest);
    conn_close(&oldest->conn, CONN_ERROR);
    return true;
}

/* Moves it from silent to greeting; false: it is closed. */
static bool begin(struct tls_worker *w, struct tls_conn *t)
{
    if (!is_tls(t))
        return false;
    t->stream = tls_open(w->tls, t->conn.origin.fd, t->conn.origin.tls);
    if (!t->stream) {
        stat_inc(t->conn.session.w->stats, STAT_read_buf_oom);
        conn_close(&t->conn, CONN_ERROR);
        return false;
    }
    ready_remove(w, t);
    list_remove(w, t);
    list_add(w, t, TLS_GREETING);
    return true;
}

static void go_on(struct tls_worker *w, struct tls_conn *t)
{
    DEBUG_ASSERT(t->stage == TLS_GREETING && t->stream && !t->is_ready);
    char why[TLS_WHY_BYTES], peer[ADDRESS_TEXT_BYTES];
    switch (tls_handshake(t->stream, why, sizeof(why))) {
    case TLS_WANT_READ:
        await(t, EV_READ);
        return;
    case TLS_WANT_WRITE:
        await(t, EV_WRITE);
        return;
    case TLS_OK:
        list_remove(w, t);
        t->stage = TLS_OPEN;
        t->more = true;
        conn_run(&t->conn, true);
        return;
    default:
        peer_text(t, peer, sizeof(peer));
        if (*why)
            log_warning("TLS handshake with %s failed: %s", peer, why);
        conn_close(&t->conn, CONN_ERROR);
    }
}

/* Serves a few of those that are ready. True: the others wait for room. */
static bool take_steps(struct tls_worker *w)
{
    for (unsigned i = 0; i < TLS_STEPS_OF_A_TURN; i++) {
        struct tls_conn *t = TAILQ_FIRST(&w->ready[TLS_GREETING]);
        if (t) {
            ready_remove(w, t);
            go_on(w, t);
            continue;
        }
        t = TAILQ_FIRST(&w->ready[TLS_SILENT]);
        if (!t)
            return false;
        if (!make_room(w))
            return true;
        if (begin(w, t))
            go_on(w, t);
    }
    return false;
}

static void close_late(struct tls_list *l)
{
    uint32_t now = clock_now_sec();
    for (struct tls_conn *t; (t = TAILQ_FIRST(l)) && now - t->since_sec > TLS_GREETING_SEC;) {
        char peer[ADDRESS_TEXT_BYTES];
        peer_text(t, peer, sizeof(peer));
        if (t->stage == TLS_GREETING)
            count_failure(t);
        log_info("TLS: no handshake with %s within %u s", peer, TLS_GREETING_SEC);
        conn_close(&t->conn, CONN_IDLE);
    }
}

static void timer_due(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
    struct tls_worker *w = arg;
    bool crowded = take_steps(w);
    close_late(&w->list[TLS_SILENT]);
    close_late(&w->list[TLS_GREETING]);
    set_timer(w, crowded);
}

/* ---- sealing and sending ---- */

static void free_kept(struct tls_conn *t)
{
    if (!t->kept)
        return;
    free(t->kept);
    pool_discharge(&t->conn.session.w->pool, t->kept_bytes);
    t->kept = NULL;
}

/* Copies unsent bytes out of the worker's buffer, which others need. False: no memory. */
static bool keep_unsent(struct tls_conn *t)
{
    DEBUG_ASSERT(t->unsent_bytes > 0 && t->unsent_bytes <= TLS_SEALED_BYTES_MAX);
    struct buffer_pool *pool = &t->conn.session.w->pool;
    if (t->kept)
        return true;
    if (!pool_charge(pool, t->unsent_bytes))
        return false;
    t->kept = malloc(t->unsent_bytes);
    if (!t->kept) {
        pool_discharge(pool, t->unsent_bytes);
        return false;
    }
    t->kept_bytes = t->unsent_bytes;
    t->unsent = memcpy(t->kept, t->unsent, t->unsent_bytes);
    return true;
}

static void note_sent(struct tls_conn *t, size_t bytes)
{
    ASSERT(bytes <= t->unsent_bytes);
    t->unsent += bytes;
    t->unsent_bytes -= bytes;
    if (t->unsent_bytes == 0)
        free_kept(t);
}

/* REPLY_SENT_ALL: nothing is unsent. */
static enum reply_progress send_unsent(struct tls_conn *t)
{
    while (t->unsent_bytes > 0) {
        ssize_t n = send(t->conn.origin.fd, t->unsent, t->unsent_bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0)
            note_sent(t, (size_t)n);
        else if (n < 0 && errno != EINTR)
            return may_come_later() && keep_unsent(t) ? REPLY_BLOCKED : REPLY_BROKEN;
    }
    return REPLY_SENT_ALL;
}

/* p becomes what is unsent, at to. */
static bool seal(struct tls_conn *t, const char *p, size_t n, char *to)
{
    ASSERT(t->unsent_bytes == 0);
    t->unsent = to;
    if (tls_seal(t->stream, p, n, to, &t->unsent_bytes))
        return true;
    t->unsent_bytes = 0;
    return false;
}

/* The bytes of the next record: a long piece in place, or short ones put together. */
static size_t gather(struct tls_worker *w, const struct iovec *iov, unsigned count, const char **at)
{
    DEBUG_ASSERT(count > 0 && w->gather_bytes > 0 && w->gather_bytes <= TLS_RECORD_BYTES);
    size_t bytes = 0;
    *at = iov[0].iov_base;
    if (count == 1 || iov[0].iov_len >= w->gather_bytes)
        return min_u64(iov[0].iov_len, w->gather_bytes);
    for (unsigned i = 0; i < count && bytes < w->gather_bytes; i++) {
        size_t n = min_u64(iov[i].iov_len, w->gather_bytes - bytes);
        memcpy(w->gathered + bytes, iov[i].iov_base, n);
        bytes += n;
    }
    *at = w->gathered;
    return bytes;
}

enum sealed { SEALED, SEALED_NOTHING, SEALED_BROKEN };

/* Seals one record of the replies that can be sent into `to`, as unsent; *sent grows by its bytes. */
static enum sealed seal_next(struct tls_conn *t, char *to, uint64_t *sent)
{
    struct reply_queue *out = &t->conn.session.out;
    struct iovec iov[GATHER_MAX];
    const char *at;
    unsigned count = reply_pieces(out, iov, GATHER_MAX);
    if (count == 0) { /* what is there may be empty */
        reply_sent(out, 0);
        return SEALED_NOTHING;
    }
    size_t bytes = gather(worker_of(t), iov, count, &at);
    if (!seal(t, at, bytes, to))
        return SEALED_BROKEN;
    *sent += bytes;
    reply_sent(out, bytes);
    return SEALED;
}

/* ---- lent: output of the pair goes to the client ---- */

static void relay_ready(evutil_socket_t fd, short what, void *arg);

/* As conn_await(), for the pair. */
static bool relay_await(struct tls_conn *t, short want)
{
    return worker_await(t->conn.worker, &t->relay_event, &t->relay_interest, t->relay_fd, want, relay_ready, t);
}

static void relay_close(struct tls_conn *t)
{
    if (t->relay_fd < 0)
        return;
    relay_await(t, 0);
    close(t->relay_fd);
    t->relay_fd = -1;
}

/* The client is gone, or can't be served. The writer learns it from the pair; when it is a dump, the
 * connection ends with it (tls_conn_dump_over). */
static void relay_fail(struct tls_conn *t)
{
    relay_close(t);
    conn_await(&t->conn, 0);
    if (!(t->conn.apart & CONN_DUMPING))
        conn_close(&t->conn, CONN_NORMAL);
}

/* Nothing more comes out of the pair. */
static void relay_end(struct tls_conn *t)
{
    if (t->watching) { /* the watcher was closed */
        relay_fail(t);
        return;
    }
    ASSERT(!(t->conn.apart & CONN_DUMPING)); /* till then its end is held open here */
    relay_close(t);
    t->stage = TLS_OPEN;
    t->more = true;
    conn_run(&t->conn, true);
}

/* Sends what is in the pair. */
static void relay(struct tls_conn *t)
{
    DEBUG_ASSERT(t->stage == TLS_LENT && t->relay_fd >= 0);
    struct tls_worker *w = worker_of(t);
    for (unsigned i = 0; i < RELAY_PIECES_MAX; i++) {
        enum reply_progress p = send_unsent(t);
        if (p == REPLY_BLOCKED && relay_await(t, 0) && conn_await(&t->conn, EV_WRITE))
            return;
        if (p != REPLY_SENT_ALL) {
            relay_fail(t);
            return;
        }
        ssize_t n = recv(t->relay_fd, w->gathered, w->gather_bytes, MSG_DONTWAIT);
        if (n < 0 && may_come_later())
            break;
        if (n == 0) {
            relay_end(t);
            return;
        }
        if (n < 0 || !seal(t, w->gathered, (size_t)n, w->one)) {
            relay_fail(t);
            return;
        }
        stat_add(t->conn.session.w->stats, STAT_bytes_written, (uint64_t)n);
    }
    if (t->unsent_bytes > 0) { /* others first */
        if (!keep_unsent(t) || !relay_await(t, 0) || !conn_await(&t->conn, EV_WRITE))
            relay_fail(t);
        return;
    }
    /* a dump's client may have sent its next requests: these stay in the socket till then */
    if (!relay_await(t, EV_READ) || !conn_await(&t->conn, t->watching ? EV_READ : 0))
        relay_fail(t);
}

static void relay_ready(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
    relay(arg);
}

/* Discards what a watcher sends, and notices when it disconnects. */
static void relay_listen(struct tls_conn *t)
{
    DEBUG_ASSERT(t->stage == TLS_LENT);
    struct tls_worker *w = worker_of(t);
    size_t got;
    enum tls_result r = tls_read(t->stream, w->gathered, w->gather_bytes, &got);
    if (r == TLS_END || r == TLS_BROKEN)
        relay_fail(t);
}

static void take_back(struct conn *c, int lent_fd)
{
    struct tls_conn *t = of(c);
    relay_close(t);
    DEBUG_ASSERT(t->stage == TLS_LENT && lent_fd >= 0);
    close(lent_fd);
    t->lent_fd = -1;
    t->stage = TLS_OPEN;
    t->more = true;
}

static int lend(struct conn *c, bool to_dump)
{
    struct tls_conn *t = of(c);
    int pair[2];
    ASSERT(t->stage == TLS_OPEN && t->relay_fd < 0);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0)
        return -1;
    t->relay_fd = pair[1];
    t->relay_interest = 0;
    t->watching = !to_dump;
    t->lent_fd = to_dump ? pair[0] : -1;
    t->stage = TLS_LENT;
    if (relay_await(t, EV_READ) && conn_await(c, t->watching ? EV_READ : 0))
        return pair[0];
    take_back(c, pair[0]);
    errno = ENOMEM;
    return -1;
}

static void lent_dump_over(struct conn *c, bool alive)
{
    DEBUG_ASSERT(of(c)->stage == TLS_LENT && !of(c)->watching && of(c)->lent_fd >= 0);
    struct tls_conn *t = of(c);
    close(t->lent_fd);
    t->lent_fd = -1;
    if (!alive || t->relay_fd < 0)
        conn_close(c, CONN_ERROR);
    else if (t->relay_interest) /* otherwise the client reads slowly, and the event of its socket continues */
        relay(t);
}

/* ---- open: in place of the socket's calls ---- */

static ssize_t stream_readv(struct conn *c, const struct iovec *iov, int count)
{
    DEBUG_ASSERT(of(c)->stage == TLS_OPEN && count > 0);
    struct tls_conn *t = of(c);
    size_t total = 0, at = 0;
    enum tls_result r = TLS_OK;
    t->more = false;
    for (int i = 0; i < count;) {
        size_t got = 0;
        r = tls_read(t->stream, (char *)iov[i].iov_base + at, iov[i].iov_len - at, &got);
        if (r != TLS_OK)
            break;
        total += got;
        at += got;
        t->more = got == TLS_RECORD_BYTES || tls_has_input(t->stream);
        if (at == iov[i].iov_len) {
            i++;
            at = 0;
        }
        if (!t->more)
            break;
    }
    if (r == TLS_WANT_READ)
        t->more = false;
    if (total > 0)
        return (ssize_t)total;
    if (r == TLS_END)
        return 0;
    errno = r == TLS_WANT_READ ? EAGAIN : ECONNRESET; /* it never has to send first */
    return -1;
}

static bool stream_has_input(const struct conn *c)
{
    return ((const struct tls_conn *)c)->more;
}

static enum reply_progress stream_send(struct conn *c, uint64_t *sent)
{
    struct tls_conn *t = of(c);
    for (;;) {
        enum reply_progress p = send_unsent(t);
        if (p != REPLY_SENT_ALL)
            return p;
        switch (seal_next(t, worker_of(t)->one, sent)) {
        case SEALED:
            break;
        case SEALED_NOTHING:
            return reply_is_empty(&c->session.out) ? REPLY_SENT_ALL : REPLY_NOT_READY;
        case SEALED_BROKEN:
            return REPLY_BROKEN;
        }
    }
}

/* ---- open: replies of many go out together ---- */

static void was_sent(void *user, int result)
{
    struct tls_conn *t = user;
    struct conn *c = &t->conn;
    if (result > 0)
        note_sent(t, (size_t)result);
    if (t->unsent_bytes > 0 && !keep_unsent(t))
        conn_close(c, CONN_ERROR);
    else if (t->unsent_bytes > 0 || !reply_is_empty(&c->session.out) || c->closing)
        conn_send_rest(c);
}

static void send_many(struct tls_worker *w)
{
    DEBUG_ASSERT(w->many_used > 0 && w->worker->netring);
    conns_run_ring(w->worker, was_sent);
    w->many_used = 0;
}

/* True iff it has bytes to be sent with those of the others. */
static bool join_many(struct tls_worker *w, struct tls_conn *t)
{
    uint64_t sent = 0;
    struct netring *ring = w->worker->netring;
    DEBUG_ASSERT(w->many_used + TLS_SEALED_BYTES_MAX <= sizeof(w->many));
    if (!ring || seal_next(t, w->many + w->many_used, &sent) != SEALED)
        return false;
    stat_add(t->conn.session.w->stats, STAT_bytes_written, sent);
    *netring_pieces(ring) = (struct iovec){(char *)t->unsent, t->unsent_bytes};
    netring_send(ring, t->conn.origin.fd, 1, t);
    w->many_used += t->unsent_bytes;
    if (netring_is_full(ring) || sizeof(w->many) - w->many_used < TLS_SEALED_BYTES_MAX)
        send_many(w);
    return true;
}

/* Executes all that was received, and sends all that waits to be sent. */
static void batch_due(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
    struct tls_worker *w = arg;
    DEBUG_ASSERT(w->batch_is_due && w->many_used == 0);
    conns_execute(w->worker, CONN_TLS_RECEIVED);
    struct conn *c = conn_of(worker_take(w->worker, CONN_TLS_UNSENT));
    bool alone = w->worker->count[CONN_TLS_UNSENT] == 0;
    for (; c; c = conn_of(worker_take(w->worker, CONN_TLS_UNSENT))) {
        if (c->blocked) /* the socket's event goes on with it */
            continue;
        if (alone || !join_many(w, of(c)))
            conn_send_rest(c);
    }
    if (w->many_used > 0)
        send_many(w);
    w->batch_is_due = false;
    DEBUG_ASSERT(w->worker->count[CONN_TLS_RECEIVED] + w->worker->count[CONN_TLS_UNSENT] == 0);
}

/* ---- events ---- */

static void socket_ready(evutil_socket_t fd, short what, void *arg)
{
    struct tls_conn *t = arg;
    if (likely(t->stage == TLS_OPEN)) {
        conn_event(fd, what, arg);
        return;
    }
    atomic_store_explicit(&t->conn.last_cmd_sec, clock_now_sec(), memory_order_relaxed);
    switch (t->stage) {
    case TLS_SILENT:
    case TLS_GREETING:
        await(t, 0);
        ready_add(worker_of(t), t);
        set_timer(worker_of(t), false);
        break;
    case TLS_OPEN:
        break;
    case TLS_LENT:
        if (what & EV_WRITE)
            relay(t);
        else
            relay_listen(t);
        break;
    }
}

static void continue_open(struct conn *c)
{
    struct tls_conn *t = of(c);
    if (c->apart & CONN_DUMPING)
        return;
    if (!c->blocked) /* otherwise the socket's event continues */
        conn_run(c, t->more);
}

/* ---- begin and end ---- */

static struct conn *calloc_tls_conn(void)
{
    struct tls_conn *t = calloc(1, sizeof(*t));
    if (!t)
        return NULL;
    t->conn.apart = CONN_TLS;
    t->lent_fd = t->relay_fd = -1;
    return &t->conn;
}

static void begin_silent(struct conn *c)
{
    DEBUG_ASSERT(!of(c)->stream && !of(c)->is_ready);
    struct tls_conn *t = of(c);
    list_add(worker_of(t), t, TLS_SILENT);
    set_timer(worker_of(t), false);
    await(t, EV_READ);
}

static void end(struct conn *c)
{
    struct tls_conn *t = of(c);
    struct tls_worker *w = worker_of(t);
    ASSERT(!(c->apart & CONN_DUMPING));
    ready_remove(w, t);
    if (t->stage == TLS_SILENT || t->stage == TLS_GREETING)
        list_remove(w, t);
    if (t->lent_fd >= 0)
        close(t->lent_fd);
    relay_close(t);
    if (t->stream)
        tls_close(t->stream, t->unsent_bytes == 0);
    t->stream = NULL;
    t->unsent_bytes = 0;
    free_kept(t);
}

static struct tls_worker *worker_create(struct worker *w, struct tls *tls)
{
    struct tls_worker *t = calloc(1, sizeof(*t));
    if (!t)
        return NULL;
    t->worker = w;
    t->tls = tls;
    for (size_t i = 0; i < ARRAY_COUNT(t->list); i++) {
        TAILQ_INIT(&t->list[i]);
        TAILQ_INIT(&t->ready[i]);
    }
    t->gather_bytes = min_u64(w->env->settings->ssl_wbuf_size, TLS_RECORD_BYTES);
    event_assign(&t->batch, w->base, -1, 0, batch_due, t);
    evtimer_assign(&t->timer, w->base, timer_due, t);
    struct timeval soon = {0, 0}; /* so that the loop has memory for it whenever it is needed */
    if (evtimer_add(&t->timer, &soon) != 0) {
        free(t);
        return NULL;
    }
    return t;
}

static void worker_destroy(struct tls_worker *t)
{
    DEBUG_ASSERT(t->count[TLS_SILENT] + t->count[TLS_GREETING] == 0 && t->many_used == 0);
    event_del(&t->batch); /* due, if the last turn had replies; the loop is freed after this */
    evtimer_del(&t->timer);
    free(t);
}

const struct conn_tls tls_conn_calls = {
    .worker_create = worker_create,
    .worker_destroy = worker_destroy,
    .create = calloc_tls_conn,
    .start = begin_silent,
    .go_on = continue_open,
    .end = end,
    .event = socket_ready,
    .readv = stream_readv,
    .has_input = stream_has_input,
    .put = put_in_batch,
    .send = stream_send,
    .lend = lend,
    .take_back = take_back,
    .dump_over = lent_dump_over,
};
