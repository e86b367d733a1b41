/* command/session.c: see command/session.h. */
#include "command/session.h"

#include <stdarg.h>

#include "operator/watch.h"

enum { SPARE_MAX = 64 };

/* ---- pendings ---- */

struct pending *pending_make(struct session *s, enum cache_verb verb, const struct request *req,
                             const char *key, uint32_t key_len, uint64_t hash)
{
    struct command_worker *w = s->w;
    struct pending *p = w->spare;
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
    p->parked = p->queued = p->lookup = p->dropping = false;
    p->refusal = REPLY_NONE;
    memcpy(p->key, key, key_len);
    if (verb_info(req->verb)->verb_class == CLASS_META) {
        proto_request_copy(&p->req, req);
        if (meta_has(req, 'O')) {
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
    cache_op_init(&p->op, verb, p->key, (uint8_t)key_len, hash);
    p->op.owner = p;
    return p;
}

void pending_free(struct pending *p)
{
    struct command_worker *w = p->s->w;
    w->read_bytes -= p->read_bytes;
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

void command_worker_init(struct command_worker *w, const struct command_env *env,
                         struct cache_worker *cache_worker, struct thread_stats *stats,
                         uint64_t buffer_limit_bytes)
{
    *w = (struct command_worker){.env = env,
                                 .cache_worker = cache_worker,
                                 .stats = stats,
                                 .read_bytes_max = max_u64(env->settings->ext_buffer_mem / env->thread_count,
                                                           WORKER_READ_BYTES_MIN),
                                 .watch_mask = watch_mask()};
    pool_init(&w->pool, buffer_limit_bytes);
}

void command_worker_drain(struct command_worker *w)
{
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

bool session_close(struct session *s)
{
    ASSERT(!s->gone);
    s->gone = true;
    reply_drop(&s->out);
    if (s->store && !s->store->parked) {
        pending_free(s->store);
        s->store = NULL;
    }
    return s->parked == 0;
}

static void detach_source(struct reply_source *source)
{
    struct pending *p = (struct pending *)((char *)source - offsetof(struct pending, source));
    if (source->value_bytes > 0 && cache_detach(&p->op) == 0)
        source->value = p->op.view.value;
}

void session_detach(struct session *s)
{
    reply_each_ready(&s->out, detach_source);
}

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
    char *to = reply_room(&s->out, ENCODE_MAX);
    if (to)
        reply_commit(&s->out, encoder_of(req)->fixed(to, req, reply));
    else
        session_break(s);
}

void session_reply(struct session *s, enum reply reply)
{
    static const struct request line = {.dialect = DIALECT_CLASSIC};
    bool is_line = !s->request || s->request->dialect != DIALECT_BINARY;
    session_answer(s, is_line ? &line : s->request, reply);
}

void session_block(struct session *s, const char *name, const char *text, size_t bytes)
{
    static const char end[] = "END\r\n";
    const struct encoder *enc = encoder_of(s->request);
    if (!enc->block) {
        session_bytes(s, text, bytes);
        return;
    }
    char *to = reply_room(&s->out, ENCODE_MAX);
    if (!to) {
        session_break(s);
        return;
    }
    reply_commit(&s->out, enc->block(to, s->request, name, bytes + sizeof(end) - 1));
    session_bytes(s, text, bytes);
    session_bytes(s, end, sizeof(end) - 1);
}

void session_stat(struct session *s, const char *name, const char *value, size_t value_bytes)
{
    char *to = reply_room(&s->out, ENCODE_STAT_MAX);
    if (to)
        reply_commit(&s->out, encoder_of(s->request)->stat(to, s->request, name, value, value_bytes));
    else
        session_break(s);
}

void session_printf(struct session *s, const char *fmt, ...)
{
    char *to = reply_room(&s->out, REPLY_ROOM_MAX);
    if (!to) {
        session_break(s);
        return;
    }
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(to, REPLY_ROOM_MAX, fmt, ap);
    va_end(ap);
    ASSERT(n >= 0 && n < REPLY_ROOM_MAX);
    reply_commit(&s->out, (size_t)n);
}
