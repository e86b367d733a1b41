/* command/session.c: see command/session.h. */
#include "command/session.h"

#include <stdarg.h>

#include "base/clock.h"
#include "operator/watch.h"

enum { SPARE_MAX = 64 };

/* ---- pendings ---- */

struct pending *pending_make(struct session *s, enum cache_verb verb, const struct request *req,
                             const char *key, uint32_t key_len, const struct index_spot *spot)
{
    struct command_worker *w = s->w;
    struct pending *p = w->spare;
    DEBUG_ASSERT(key_len > 0 && key_len <= PROTO_KEY_MAX && !s->gone);
    DEBUG_ASSERT((p != NULL) == (w->spare_count > 0));
    if (p) {
        w->spare = p->next;
        w->spare_count--;
    } else {
        p = malloc(sizeof(*p));
        if (!p)
            return NULL;
    }
    pool_count_response(&w->pool, 1);
    p->source = (struct reply_source){.ready = false};
    p->s = s;
    p->next = NULL;
    p->received = 0;
    p->read_bytes = p->waited_ns = 0;
    p->then = NULL;
    p->parked = p->queued = p->dropping = p->held = false;
    p->refusal = REPLY_NONE;
    memcpy(p->key, key, key_len);
    if (verb_info(req->verb)->verb_class == CLASS_META) {
        proto_request_copy(&p->req, req);
        if (meta_has(req, 'O')) {
            DEBUG_ASSERT(req->meta.opaque.len <= sizeof(p->opaque));
            memcpy(p->opaque, req->meta.opaque.ptr, req->meta.opaque.len);
            p->req.meta.opaque.ptr = p->opaque;
        }
    } else {
        p->req.verb = req->verb;
        p->req.noreply = req->noreply;
        p->req.dialect = req->dialect;
        p->req.bin = req->bin;
        p->req.exptime = req->exptime;
        p->req.value_bytes = req->value_bytes;
        p->req.value_end_bytes = req->value_end_bytes;
    }
    p->req.key = p->key;
    p->req.key_len = key_len;
    cache_op_init(&p->op, verb, p->key, (uint8_t)key_len, spot->hash);
    p->op.spot = *spot;
    p->op.owner = p;
    return p;
}

static void value_forget(struct pending *p)
{
    if (p->held)
        TAILQ_REMOVE(&p->s->w->values, p, among_values);
    p->held = false;
}

void pending_hold(struct pending *p)
{
    bool large;
    if (p->source.value_bytes == 0 || !cache_view_is_read(&p->op, &large))
        return;
    DEBUG_ASSERT(!p->held && !p->parked && p->source.ready);
    p->held = true;
    p->held_ms = clock_mono_ms();
    TAILQ_INSERT_TAIL(&p->s->w->values, p, among_values);
}

void pending_free(struct pending *p)
{
    struct command_worker *w = p->s->w;
    DEBUG_ASSERT(!p->parked);
    value_forget(p);
    pool_count_response(&w->pool, -1);
    cache_release(w->cache_worker, &p->op);
    if (w->spare_count >= SPARE_MAX) {
        free(p);
        return;
    }
    p->next = w->spare;
    w->spare = p;
    w->spare_count++;
}

/* cache_put_away_fn: puts away the value that has waited longest among those that can't be sent now. */
static uint64_t put_values_away(void *ctx, bool want_large)
{
    struct command_worker *w = ctx;
    uint64_t now = clock_mono_ms(), again_ms = UINT64_MAX;
    for (struct pending *p = TAILQ_FIRST(&w->values), *next; p; p = next) {
        struct session *s = p->s;
        uint64_t since = s->blocked_ms;
        bool large;
        next = TAILQ_NEXT(p, among_values);
        if (since == 0) {
            if (reply_is_ready(&s->out)) /* about to be sent */
                continue;
            since = p->held_ms;
        }
        if (!cache_view_is_read(&p->op, &large) || large != want_large)
            continue;
        if (now - since < SESSION_PATIENCE_MS) {
            again_ms = min_u64(again_ms, SESSION_PATIENCE_MS - (now - since));
            continue;
        }
        DEBUG_ASSERT(p->queued || p->source.ready);
        value_forget(p);
        reply_source_put_away(&s->out, &p->source);
        if (cache_put_away(&p->op) > 0)
            return 0;
    }
    return again_ms == UINT64_MAX ? UINT64_MAX : again_ms * 1000;
}

void command_worker_init(struct command_worker *w, const struct command_env *env,
                         struct cache_worker *cache_worker, struct thread_stats *stats,
                         uint64_t buffer_limit_bytes)
{
    *w = (struct command_worker){.env = env,
                                 .cache_worker = cache_worker,
                                 .stats = stats,
                                 .reply_bytes_max =
                                     max_u64(SESSION_ALL_BYTES_MAX / env->thread_count, MiB),
                                 .watch_mask = watch_mask()};
    TAILQ_INIT(&w->values);
    cache_worker_set_put_away(cache_worker, put_values_away, w);
    pool_init(&w->pool, buffer_limit_bytes);
}

void command_worker_drain(struct command_worker *w)
{
    DEBUG_ASSERT(TAILQ_EMPTY(&w->values));
    for (struct pending *p = w->spare, *next; p; p = next) {
        next = p->next;
        free(p);
    }
    w->spare = NULL;
    w->spare_count = 0;
    pool_drain(&w->pool);
}

/* ---- sessions ---- */

static void unpin(void *ctx, void *holder)
{
    struct command_worker *w = ctx;
    cache_unpin(w->cache_worker, holder);
}

void session_init(struct session *s, struct command_worker *w, int fd,
                  void (*resumed)(struct session *s), void (*ended)(struct session *s))
{
    *s = (struct session){.w = w,
                          .fd = fd,
                          .resumed = resumed,
                          .ended = ended,
                          .authenticated = w->env->auth == NULL};
    reply_init(&s->out, &w->pool, unpin, w);
}

static bool has_ops(const struct session *s)
{
    return s->parked > 0 || s->fetching;
}

static void abandon(struct reply_source *source)
{
    cache_abandon(&CONTAINER_OF(source, struct pending, source)->op);
}

static void put_last(struct reply_source *source)
{
    cache_put_last(&CONTAINER_OF(source, struct pending, source)->op);
}

void session_put_last(struct session *s)
{
    DEBUG_ASSERT(!s->gone);
    reply_each_waiting(&s->out, put_last);
}

bool session_close(struct session *s)
{
    ASSERT(!s->gone && !s->request);
    s->gone = true;
    reply_each_waiting(&s->out, abandon);
    reply_drop(&s->out);
    if (s->store)
        pending_free(s->store);
    s->store = NULL;
    return !has_ops(s);
}

void session_unpark(struct session *s)
{
    ASSERT(s->parked > 0);
    DEBUG_ASSERT(!s->store);
    s->parked--;
    if (s->parked == 0)
        s->barrier = false;
}

void session_tell(struct session *s)
{
    if (!s->gone)
        s->resumed(s);
    else if (!has_ops(s))
        s->ended(s);
}

/* ---- values put away ---- */

void session_sent(struct session *s, bool blocked, bool progress)
{
    DEBUG_ASSERT(!s->gone);
    if (likely(!blocked)) {
        s->blocked_ms = 0;
        return;
    }
    if (progress || s->blocked_ms == 0)
        s->blocked_ms = clock_mono_ms();
    cache_nudge(s->w->cache_worker); /* ops that wait for a read buffer may soon have this one's */
}

/* The value is back, or can't be read any more. Then it is a miss; but if a part of it was sent, nothing more is. */
static void value_returned(struct session *s, struct pending *p)
{
    struct reply_source *src = &p->source;
    src->value = p->op.view.value;
    if (src->value == NULL) {
        src->value_bytes = 0;
        src->crlf = false;
        if (reply_has_begun(&s->out, src)) {
            src->away = true; /* it is finished when the queue is dropped */
            session_break(s);
            return;
        }
        src->head_bytes = (uint32_t)encoder_of(&p->req)->miss(p->head, &p->req, p->key, p->req.key_len);
    }
    reply_source_ready(&s->out, &p->source);
    pending_hold(p);
}

static void fetch_done(struct cache_op *op)
{
    struct pending *p = op->owner;
    struct session *s = p->s;
    DEBUG_ASSERT(p->parked && s->fetching);
    s->fetching = false;
    p->parked = false;
    if (s->gone)
        pending_free(p);
    else
        value_returned(s, p);
    session_tell(s);
}

bool session_fetch(struct session *s)
{
    struct reply_source *source = reply_source_wanted(&s->out);
    if (!source)
        return false;
    struct pending *p = CONTAINER_OF(source, struct pending, source);
    DEBUG_ASSERT(p->s == s && !source->ready && !s->fetching);
    p->op.done = fetch_done;
    if (cache_bring_back(s->w->cache_worker, &p->op)) {
        value_returned(s, p);
        return source->ready;
    }
    DEBUG_ASSERT(!p->parked && !p->held);
    p->parked = s->fetching = true;
    return false;
}

/* ---- answers ---- */

void session_break(struct session *s)
{
    s->broken = true;
    reply_fail(&s->out);
}

void session_bytes(struct session *s, const void *p, size_t n)
{
    if (reply_bytes(&s->out, p, n) != 0)
        session_break(s);
}

void session_answer(struct session *s, const struct request *req, enum reply reply)
{
    char *to = session_room(s, ENCODE_MAX);
    if (!to)
        return;
    size_t n = encoder_of(req)->fixed(to, req, reply);
    DEBUG_ASSERT(n <= ENCODE_MAX);
    reply_commit(&s->out, n);
}

void session_reply(struct session *s, enum reply reply)
{
    if (s->request && s->request->dialect == DIALECT_BINARY) {
        session_answer(s, s->request, reply);
        return;
    }
    size_t len;
    const char *text = reply_line(reply, &len);
    if (reply_text(&s->out, text, len) != 0)
        session_break(s);
}

void session_block(struct session *s, const char *name, const char *text, size_t bytes)
{
    static const char end[] = "END\r\n";
    const struct encoder *enc = encoder_of(s->request);
    if (!enc->block) {
        session_bytes(s, text, bytes);
        return;
    }
    char *to = session_room(s, ENCODE_MAX);
    if (!to)
        return;
    reply_commit(&s->out, enc->block(to, s->request, name, bytes + sizeof(end) - 1));
    session_bytes(s, text, bytes);
    session_bytes(s, end, sizeof(end) - 1);
}

void session_stat(struct session *s, const char *name, const char *value, size_t value_bytes)
{
    DEBUG_ASSERT(s->request && value_bytes <= ENCODE_STAT_VALUE_MAX);
    char *to = session_room(s, ENCODE_STAT_MAX);
    if (!to)
        return;
    size_t n = encoder_of(s->request)->stat(to, s->request, name, value, value_bytes);
    DEBUG_ASSERT(n < ENCODE_STAT_MAX);
    reply_commit(&s->out, n);
}

void session_printf(struct session *s, const char *fmt, ...)
{
    char *to = session_room(s, REPLY_ROOM_MAX);
    if (!to)
        return;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(to, REPLY_ROOM_MAX, fmt, ap);
    va_end(ap);
    ASSERT(n >= 0 && n < REPLY_ROOM_MAX);
    reply_commit(&s->out, (size_t)n);
}
