/* command/command.c: see command/command.h.
 *
 * Every op that may be parked lives in a struct pending: the op, a copy of what its reply needs
 * (the line it came in is gone when it is done), and the head of the reply. A get's pending stands
 * in the reply queue itself as a source, so its value is sent from where it is (item or read
 * buffer). What changes something is alone while it runs; its reply is simply added at the end. */
#include "command/command.h"

#include <stdarg.h>

#include "base/clock.h"
#include "command/admin.h"
#include "proto/meta.h"
#include "proto/text.h"
#include "operator/watch.h"

enum { SPARE_MAX = 64, PREFETCH_KEYS = 8 };
static_assert(PROTO_VALUE_HEADER_MAX + COMMAND_COPY_BYTES_MAX + 2 <= REPLY_ROOM_MAX,
              "a copied get");
static_assert(PROTO_META_REPLY_MAX + COMMAND_COPY_BYTES_MAX + 2 <= REPLY_ROOM_MAX, "a copied mg");

struct pending {
    struct cache_op op;
    struct reply_source source; /* reads */
    struct session *s;
    struct pending *next; /* free list */
    uint32_t received;    /* stores: bytes of the value that are there */
    uint64_t read_bytes;  /* gets: counted in the worker's */
    bool parked;
    bool queued;          /* stands in the reply queue */
    bool lookup;          /* only for watchers: does the key of a change exist? */
    bool dropping;        /* a refused store removes the old value */
    enum reply refusal;   /* why it was refused */
    struct request req;   /* key leads to `key`, opaque to `opaque`; tokens are not kept */
    char key[PROTO_KEY_MAX];
    char opaque[PROTO_OPAQUE_MAX];
    char head[PROTO_META_REPLY_MAX];
};
static_assert((int)PROTO_META_REPLY_MAX >= (int)PROTO_VALUE_HEADER_MAX, "head of a pending reply");

/* ---- pendings ---- */

static struct pending *pending_make(struct session *s, enum cache_verb verb,
                                    const struct request *req, const char *key, uint32_t key_len,
                                    uint64_t hash)
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
    p->read_bytes = 0;
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
        p->req.exptime = req->exptime;
        p->req.value_bytes = req->value_bytes;
    }
    p->req.key = p->key;
    p->req.key_len = key_len;
    cache_op_init(&p->op, verb, p->key, (uint8_t)key_len, hash);
    p->op.owner = p;
    return p;
}

static void pending_free(struct pending *p)
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

size_t command_response_bytes(void)
{
    return sizeof(struct pending);
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
                          .authenticated = w->env->auth == NULL && !session_is_binary(w->env)};
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

/* There was no memory for a reply: nothing is said after it, the connection closes. */
static void session_break(struct session *s)
{
    s->broken = true;
    reply_fail(&s->out);
}

void session_bytes(struct session *s, const void *p, size_t n)
{
    if (reply_bytes(&s->out, p, n) != 0)
        session_break(s);
}

void session_reply(struct session *s, enum reply reply)
{
    size_t len;
    const char *text = reply_line(reply, &len);
    session_bytes(s, text, len);
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

static void reply_unless(struct session *s, bool silent, enum reply reply)
{
    if (!silent)
        session_reply(s, reply);
}

void command_refuse(struct session *s, const struct request *req)
{
    s->swallow_bytes = req->swallow_bytes;
    s->get_offset = 0;
    reply_unless(s, req->noreply, req->error);
}

static bool details_wanted(const struct session *s)
{
    return atomic_load_explicit(&s->w->env->settings->detail_enabled, memory_order_relaxed);
}

/* ---- what a reply says ---- */

static int64_t ttl_of(uint32_t exptime_sec)
{
    if (exptime_sec == CLOCK_NEVER_SEC)
        return -1;
    uint32_t now = clock_now_sec();
    return exptime_sec > now ? (int64_t)(exptime_sec - now) : 0;
}

/* N as the exptime of an item that is made: T has the last word if it comes last. */
static uint32_t vivify_exptime(const struct request *req)
{
    bool touch_wins = meta_has(req, 'T') && req->meta.touch_after_vivify;
    return clock_exptime(touch_wins ? req->exptime : req->meta.vivify_ttl);
}

/* The exptime that t shows: that of its place among the flags. */
static uint32_t shown_exptime(const struct cache_op *op, const struct request *req)
{
    const struct meta_args *m = &req->meta;
    bool touched = m->flags_before_t & META_FLAG('T');
    bool made = op->status == CACHE_VIVIFIED && (m->flags_before_t & META_FLAG('N'));
    if (touched && made)
        return op->vivify_exptime_sec;
    if (touched)
        return op->exptime_sec;
    return made ? clock_exptime(m->vivify_ttl) : op->view.exptime_before_sec;
}

static uint32_t idle_of(uint32_t time_sec)
{
    uint32_t now = clock_now_sec();
    return now > time_sec ? now - time_sec : 0;
}

/* The line of a get or mg that hit; *with_value: value and \r\n follow. */
static size_t put_hit(char *out, const struct request *req, const char *key, uint32_t key_len,
                      const struct cache_view *v, bool *with_value)
{
    if (req->verb != VERB_MG) {
        *with_value = true;
        return proto_put_value_header(out, key, key_len, v->client_flags, v->value_bytes,
                                      verb_info(req->verb)->flags & VF_RETURN_CAS, v->cas);
    }
    *with_value = meta_has(req, 'v') && !(meta_has(req, 'C') && req->cas == v->cas);
    struct meta_reply reply = {
        .status = *with_value ? META_VA : META_HD,
        .hit_before = v->fetched_before,
        .key_is_binary = v->binary_key,
        .token_sent = v->token_sent,
        .stale = v->stale,
        .won = v->won,
        .value_bytes = v->value_bytes,
        .client_flags = v->client_flags,
        .idle_sec = idle_of(v->time_sec),
        .ttl_sec = ttl_of(v->exptime_sec),
        .cas = v->cas,
        .key = key,
        .key_len = key_len,
    };
    return proto_put_meta_reply(out, req, &reply);
}

/* A meta line that tells nothing of an item but its cas. */
static size_t put_status(char *out, const struct request *req, enum meta_status status,
                         uint64_t cas, uint32_t value_bytes)
{
    struct meta_reply reply = {
        .status = status,
        .key_is_binary = req->key_is_binary,
        .cas = cas,
        .ttl_sec = -1,
        .value_bytes = value_bytes,
        .key = req->key,
        .key_len = req->key_len,
    };
    return proto_put_meta_reply(out, req, &reply);
}

static size_t put_me(char *out, const struct request *req, const struct cache_view *v)
{
    struct meta_debug item = {
        .key = req->key,
        .key_len = req->key_len,
        .key_is_binary = v->binary_key,
        .fetched = v->fetched_before,
        .ttl_sec = ttl_of(v->exptime_sec),
        .idle_sec = idle_of(v->time_sec),
        .cas = v->cas,
        .slab_class = v->slab_class,
        .item_bytes = v->accounted_bytes,
    };
    return proto_put_me(out, &item);
}

/* The line of a get, mg or me that found nothing; may be empty. */
static size_t put_miss(char *out, const struct request *req)
{
    if (req->verb == VERB_MG && !proto_meta_is_hidden(req, META_EN))
        return put_status(out, req, META_EN, 0, req->value_bytes);
    if (req->verb == VERB_ME) {
        size_t len;
        const char *text = reply_line(REPLY_EN, &len);
        memcpy(out, text, len);
        return len;
    }
    return 0;
}

static void log_fetch(struct session *s, const char *key, uint32_t key_len,
                      const struct cache_view *v, enum watch_fetch_status miss)
{
    struct watch_item it = {.key = key, .key_bytes = (uint8_t)key_len};
    if (v) {
        it.slab_class = v->slab_class;
        it.value_bytes = v->value_bytes;
    }
    watch_item_get(&it, v ? WATCH_FETCH_FOUND : miss, s->fd);
}

static enum watch_fetch_status miss_of(const struct cache_op *op)
{
    return op->met_flushed   ? WATCH_FETCH_FLUSHED
           : op->met_expired ? WATCH_FETCH_EXPIRED
                             : WATCH_FETCH_NOT_FOUND;
}

/* What details and watchers want to know about a fetch; v NULL: a miss of this kind. Details know no
 * meta commands. */
static void note_fetch(struct session *s, enum verb verb, const char *key, uint32_t key_len,
                       const struct cache_view *v, enum watch_fetch_status miss)
{
    if (unlikely(details_wanted(s)) && verb != VERB_MG)
        prefixes_get(s->w->env->prefixes, key, key_len, v != NULL);
    if (watch_mask_has(s->w->watch_mask, WATCH_FETCHERS))
        log_fetch(s, key, key_len, v, miss);
}

/* ---- reads ---- */

/* Head and value of a source from a finished op; true if there is anything to send. */
static bool fill_source(struct pending *p)
{
    struct reply_source *src = &p->source;
    const struct cache_view *v = &p->op.view;
    bool hit = p->op.status == CACHE_OK || p->op.status == CACHE_VIVIFIED;
    bool with_value = false;
    src->head = p->head;
    if (hit && p->req.verb == VERB_ME)
        src->head_bytes = (uint32_t)put_me(p->head, &p->req, v);
    else if (hit) {
        if (p->req.verb == VERB_MG && meta_has(&p->req, 't'))
            p->op.view.exptime_sec = shown_exptime(&p->op, &p->req);
        src->head_bytes =
            (uint32_t)put_hit(p->head, &p->req, p->key, p->req.key_len, v, &with_value);
    } else
        src->head_bytes = (uint32_t)put_miss(p->head, &p->req);
    if (with_value) {
        src->value = v->value;
        src->value_bytes = v->value_bytes;
        src->crlf = true;
    }
    if (p->req.verb != VERB_ME)
        note_fetch(p->s, p->req.verb, p->key, p->req.key_len, hit ? v : NULL, miss_of(&p->op));
    return src->head_bytes > 0;
}

static void source_finished(struct reply_source *source)
{
    pending_free((struct pending *)((char *)source - offsetof(struct pending, source)));
}

/* An answer that is known: small ones are copied, others are sent from where they are. */
static void queue_ready(struct session *s, struct pending *p)
{
    struct reply_source *src = &p->source;
    if (!fill_source(p)) {
        pending_free(p);
        return;
    }
    if (src->value_bytes <= COMMAND_COPY_BYTES_MAX) {
        session_bytes(s, src->head, src->head_bytes);
        session_bytes(s, src->value, src->value_bytes);
        if (src->crlf)
            session_bytes(s, "\r\n", 2);
        pending_free(p);
        return;
    }
    src->ready = true;
    src->finished = source_finished;
    if (reply_source(&s->out, src) != 0) {
        session_break(s);
        pending_free(p);
    }
}

/* After the last parked op of a session: what waited for that may go on. */
static void unpark(struct session *s)
{
    ASSERT(s->parked > 0);
    s->parked--;
    if (s->parked == 0)
        s->barrier = false;
}

static void tell(struct session *s)
{
    if (!s->gone)
        s->resumed(s);
    else if (s->parked == 0)
        s->ended(s);
}

static void log_lookup(struct pending *p)
{
    log_fetch(p->s, p->key, p->req.key_len, p->op.status == CACHE_OK ? &p->op.view : NULL,
              miss_of(&p->op));
}

static void read_done(struct cache_op *op)
{
    struct pending *p = op->owner;
    struct session *s = p->s;
    unpark(s);
    s->parked_bytes -= p->read_bytes;
    p->parked = false;
    if (s->gone || !p->queued) {
        if (p->lookup)
            log_lookup(p);
        pending_free(p);
    } else {
        fill_source(p);
        reply_source_ready(&s->out, &p->source);
    }
    tell(s);
}

/* Runs a read op; its answer is in the queue, or has its place there. False: there is no memory to read
 * it from flash, and nothing is said yet. */
static bool run_read(struct session *s, struct pending *p)
{
    p->op.done = read_done;
    bool done = cache_run(s->w->cache_worker, &p->op);
    if (done && unlikely(p->op.no_room)) {
        pending_free(p);
        return false;
    }
    p->read_bytes = p->op.read_bytes;
    s->w->read_bytes += p->read_bytes;
    if (done) {
        queue_ready(s, p);
        return true;
    }
    p->parked = true;
    s->parked++;
    s->parked_bytes += p->read_bytes;
    p->source.finished = source_finished;
    if (reply_source(&s->out, &p->source) == 0)
        p->queued = true;
    else
        session_break(s);
    return true;
}

/* memcached looks up a key before it changes it, and its watchers of fetchers see that; ours do,
 * too, while there are any. */
static void show_lookup(struct session *s, const struct request *req, uint64_t hash)
{
    if (!watch_mask_has(s->w->watch_mask, WATCH_FETCHERS))
        return;
    struct pending *p = pending_make(s, CACHE_GET, req, req->key, req->key_len, hash);
    if (!p)
        return;
    p->lookup = true;
    p->op.options = CACHE_F_QUIET_STATS | CACHE_F_NOBUMP | CACHE_F_NO_VALUE;
    p->op.done = read_done;
    if (cache_run(s->w->cache_worker, &p->op)) {
        log_lookup(p);
        pending_free(p);
        return;
    }
    p->parked = true;
    s->parked++;
    s->barrier = true;
}

static void answer_quick_hit(struct session *s, const struct request *req, const char *key,
                             uint32_t key_len, const struct cache_view *v, struct item *pin)
{
    struct cache_worker *cw = s->w->cache_worker;
    bool copy = v->value_bytes <= COMMAND_COPY_BYTES_MAX;
    bool with_value;
    char *to = reply_room(&s->out, PROTO_META_REPLY_MAX + (copy ? v->value_bytes + 2 : 0));
    if (unlikely(!to)) {
        session_break(s);
        cache_unpin(cw, pin);
        return;
    }
    size_t n = put_hit(to, req, key, key_len, v, &with_value);
    if (with_value && copy) {
        memcpy(to + n, v->value, v->value_bytes);
        n += v->value_bytes;
        memcpy(to + n, "\r\n", 2);
        n += 2;
    }
    reply_commit(&s->out, n);
    note_fetch(s, req->verb, key, key_len, v, WATCH_FETCH_FOUND);
    if (!with_value || copy) {
        cache_unpin(cw, pin);
        return;
    }
    if (reply_value(&s->out, v->value, v->value_bytes, pin) != 0) {
        cache_unpin(cw, pin);
        session_break(s);
    }
    session_bytes(s, "\r\n", 2);
}

/* get and mg without options that need an op: true iff answered. */
static bool try_quick(struct session *s, const struct request *req, const char *key,
                      uint32_t key_len, uint64_t hash)
{
    struct cache_view view;
    struct item *pin;
    switch (cache_get_quick(s->w->cache_worker, key, (uint8_t)key_len, hash, &view, &pin)) {
    case CACHE_QUICK_HIT:
        answer_quick_hit(s, req, key, key_len, &view, pin);
        return true;
    case CACHE_QUICK_MISS: {
        char *to = reply_room(&s->out, PROTO_META_REPLY_MAX);
        if (to)
            reply_commit(&s->out, put_miss(to, req));
        else
            session_break(s);
        note_fetch(s, req->verb, key, key_len, NULL, WATCH_FETCH_NOT_FOUND);
        return true;
    }
    case CACHE_QUICK_NEEDS_OP:
        break;
    }
    return false;
}

/* False as of run_read(). */
static bool get_one(struct session *s, struct request *req, const char *key, uint32_t key_len,
                    uint64_t hash)
{
    bool touch = verb_info(req->verb)->flags & VF_TOUCH;
    if (!touch && try_quick(s, req, key, key_len, hash))
        return true;
    struct pending *p = pending_make(s, CACHE_GET, req, key, key_len, hash);
    if (!p) {
        session_break(s);
        return true;
    }
    if (touch) {
        p->op.options = CACHE_F_TOUCH | CACHE_F_GAT;
        p->op.exptime_sec = clock_exptime(req->exptime);
    }
    return run_read(s, p);
}

/* Before anything is answered: is there a key that spoils the whole command? */
static bool has_long_key(struct key_cursor cursor)
{
    const char *key;
    uint32_t len;
    int rc;
    if (cursor.end - cursor.next <= PROTO_KEY_MAX)
        return false;
    while ((rc = proto_next_key(&cursor, &key, &len)) == 1)
        ;
    return rc < 0;
}

/* The keys before the one that spoils the command count as if they had been fetched, and what would have
 * been read of flash for them as given up. */
static void count_spoiled(struct session *s, const struct request *req)
{
    struct command_worker *w = s->w;
    struct key_cursor cursor = req->keys;
    const char *key;
    uint32_t len;
    while (proto_next_key(&cursor, &key, &len) == 1) {
        uint64_t hash = cache_hash(w->env->cache, key, len);
        struct cache_view view;
        struct item *pin;
        switch (cache_get_quick(w->cache_worker, key, (uint8_t)len, hash, &view, &pin)) {
        case CACHE_QUICK_HIT:
            note_fetch(s, req->verb, key, len, &view, WATCH_FETCH_FOUND);
            cache_unpin(w->cache_worker, pin);
            break;
        case CACHE_QUICK_MISS:
            note_fetch(s, req->verb, key, len, NULL, WATCH_FETCH_NOT_FOUND);
            break;
        case CACHE_QUICK_NEEDS_OP:
            stat_inc(w->stats, STAT_get_cmds);
            stat_inc(w->stats, STAT_get_aborted_extstore);
            break;
        }
    }
}

/* get, gets, gat, gats: keys in small groups, so that memory is fetched ahead. */
static enum command_result do_get(struct session *s, struct request *req)
{
    struct command_worker *w = s->w;
    bool touch = verb_info(req->verb)->flags & VF_TOUCH;
    struct key_cursor cursor = req->keys;
    if (s->get_offset > 0) {
        cursor.next += s->get_offset;
    } else if (touch && s->parked > 0) {
        s->barrier = true;
        return COMMAND_AGAIN;
    } else if (has_long_key(cursor)) {
        count_spoiled(s, req);
        session_reply(s, REPLY_GET_BAD_FORMAT);
        return COMMAND_DONE;
    }
    for (;;) {
        const char *key[PREFETCH_KEYS];
        uint32_t len[PREFETCH_KEYS];
        uint64_t hash[PREFETCH_KEYS];
        unsigned n = 0;
        while (n < PREFETCH_KEYS && proto_next_key(&cursor, &key[n], &len[n]) == 1) {
            hash[n] = cache_hash(w->env->cache, key[n], len[n]);
            if (n > 0)
                cache_prefetch(w->cache_worker, hash[n]);
            n++;
        }
        for (unsigned i = 0; i < n; i++) {
            if (unlikely(s->broken))
                return COMMAND_DONE;
            if (session_is_full(s)) {
                s->get_offset = (uint32_t)(key[i] - req->keys.next);
                return COMMAND_AGAIN;
            }
            if (unlikely(!reply_begin(&s->out))) {
                stat_inc(w->stats, STAT_response_obj_oom);
                s->get_offset = 0;
                session_reply(s, REPLY_OOM_GET);
                return COMMAND_DONE;
            }
            if (unlikely(!get_one(s, req, key[i], len[i], hash[i]))) {
                s->get_offset = 0;
                s->barrier = touch && s->parked > 0;
                session_reply(s, REPLY_OOM_GET);
                return COMMAND_DONE;
            }
        }
        if (n < PREFETCH_KEYS)
            break;
        if (s->parked > 0) /* the device begins while the next keys are looked up */
            cache_worker_submit(w->cache_worker);
    }
    s->get_offset = 0;
    s->barrier = touch && s->parked > 0;
    session_reply(s, REPLY_END);
    return COMMAND_DONE;
}

#define MG_CHANGES (META_FLAG('T') | META_FLAG('N') | META_FLAG('R') | META_FLAG('E'))

static enum command_result do_mg(struct session *s, struct request *req)
{
    bool changes = req->meta.flags & MG_CHANGES;
    if (changes && s->parked > 0) {
        s->barrier = true;
        return COMMAND_AGAIN;
    }
    uint64_t hash = cache_hash(s->w->env->cache, req->key, req->key_len);
    if (!changes && !meta_has(req, 'u') && try_quick(s, req, req->key, req->key_len, hash))
        return COMMAND_DONE;
    struct pending *p = pending_make(s, CACHE_GET, req, req->key, req->key_len, hash);
    if (!p) {
        session_break(s);
        return COMMAND_DONE;
    }
    struct cache_op *op = &p->op;
    op->options = CACHE_F_META | (meta_has(req, 'v') ? 0 : CACHE_F_NO_VALUE) |
                  (meta_has(req, 'u') ? CACHE_F_NOBUMP : 0) |
                  (req->key_is_binary ? CACHE_F_BINARY_KEY : 0);
    if (meta_has(req, 'T')) {
        op->options |= CACHE_F_TOUCH;
        op->exptime_sec = clock_exptime(req->exptime);
    }
    if (meta_has(req, 'N')) {
        op->options |= CACHE_F_VIVIFY;
        op->vivify_exptime_sec = vivify_exptime(req);
    }
    if (meta_has(req, 'R')) {
        op->options |= CACHE_F_RECACHE | (req->meta.touch_before_recache ? 0 : CACHE_F_TOUCH_LAST);
        op->recache_ttl_sec = (int64_t)clock_exptime(req->meta.recache_ttl) - clock_now_sec();
    }
    if (meta_has(req, 'E')) {
        op->options |= CACHE_F_CAS_SET;
        op->cas_new = req->meta.cas_new;
    }
    if (unlikely(!run_read(s, p)))
        session_reply(s, REPLY_OOM_GET);
    s->barrier = changes && s->parked > 0;
    return COMMAND_DONE;
}

static enum command_result do_me(struct session *s, struct request *req)
{
    uint64_t hash = cache_hash(s->w->env->cache, req->key, req->key_len);
    struct pending *p = pending_make(s, CACHE_GET, req, req->key, req->key_len, hash);
    if (!p) {
        session_break(s);
        return COMMAND_DONE;
    }
    p->op.options = CACHE_F_QUIET_STATS | CACHE_F_NOBUMP | CACHE_F_NO_VALUE;
    (void)run_read(s, p); /* without the value there is always room */
    return COMMAND_DONE;
}

/* ---- changes ---- */

static void answer_meta(struct session *s, const struct request *req, enum meta_status status,
                        uint64_t cas, uint32_t value_bytes)
{
    if (proto_meta_is_hidden(req, status))
        return;
    char *to = reply_room(&s->out, PROTO_META_REPLY_MAX);
    if (!to) {
        session_break(s);
        return;
    }
    reply_commit(&s->out, put_status(to, req, status, cas, value_bytes));
}

static enum meta_status meta_status_of(enum cache_status status)
{
    switch (status) {
    case CACHE_OK:
    case CACHE_VIVIFIED:
        return META_HD;
    case CACHE_NOT_STORED:
        return META_NS;
    case CACHE_EXISTS:
        return META_EX;
    default:
        return META_NF;
    }
}

/* The error line of a status that has one for every command; REPLY_NONE if not. */
static enum reply error_of(enum verb verb, enum cache_status status)
{
    switch (status) {
    case CACHE_TOO_LARGE:
        return REPLY_TOO_LARGE;
    case CACHE_NON_NUMERIC:
        return REPLY_NON_NUMERIC;
    case CACHE_NO_MEMORY:
        if (verb_info(verb)->flags & VF_VALUE)
            return REPLY_OOM_STORING;
        return verb == VERB_MA ? REPLY_OOM_NEW_ITEM : REPLY_OOM;
    default:
        return REPLY_NONE;
    }
}

static const char *store_status_word(enum cache_status status)
{
    switch (status) {
    case CACHE_OK:
    case CACHE_VIVIFIED:
        return "stored";
    case CACHE_EXISTS:
        return "exists";
    case CACHE_NOT_FOUND:
        return "not_found";
    case CACHE_TOO_LARGE:
        return "too_large";
    case CACHE_NO_MEMORY:
        return "no_memory";
    default:
        return "not_stored";
    }
}

static void log_store(struct pending *p)
{
    static const char *const words[] = {
        [CACHE_SET] = "set",       [CACHE_ADD] = "add",         [CACHE_REPLACE] = "replace",
        [CACHE_APPEND] = "append", [CACHE_PREPEND] = "prepend", [CACHE_CAS] = "cas",
    };
    if (!watch_mask_has(p->s->w->watch_mask, WATCH_MUTATIONS))
        return;
    int64_t ttl = ttl_of(p->op.exptime_sec);
    struct watch_item it = {.key = p->key,
                            .key_bytes = (uint8_t)p->req.key_len,
                            .ttl_sec = ttl < 0 ? 0 : ttl,
                            .slab_class = p->op.view.slab_class,
                            .value_bytes = p->req.value_bytes};
    watch_item_store(&it, store_status_word(p->op.status), words[p->op.mode], p->s->fd);
}

static void answer_store(struct session *s, struct pending *p)
{
    static const enum reply replies[] = {
        [CACHE_OK] = REPLY_STORED,
        [CACHE_NOT_FOUND] = REPLY_NOT_FOUND,
        [CACHE_NOT_STORED] = REPLY_NOT_STORED,
        [CACHE_EXISTS] = REPLY_EXISTS,
    };
    log_store(p);
    bool done = p->op.status == CACHE_OK;
    if (p->req.verb == VERB_MS) /* what was joined is told as a whole */
        answer_meta(s, &p->req, meta_status_of(p->op.status), done ? p->op.view.cas : 0,
                    done ? p->op.view.value_bytes : p->req.value_bytes);
    else
        reply_unless(s, p->req.noreply, replies[p->op.status]);
}

static void answer_delete(struct session *s, struct pending *p)
{
    bool done = p->op.status == CACHE_OK;
    bool gone = done && !(p->op.options & CACHE_F_INVALIDATE); /* else it was only marked stale */
    if (gone && watch_mask_has(s->w->watch_mask, WATCH_DELETIONS)) {
        struct watch_item it = {.key = p->key,
                                .key_bytes = (uint8_t)p->req.key_len,
                                .slab_class = p->op.view.slab_class,
                                .value_bytes = p->op.view.value_bytes};
        watch_deleted(&it, p->req.verb == VERB_MD ? "md" : "delete");
    }
    if (p->req.verb == VERB_MD)
        answer_meta(s, &p->req, meta_status_of(p->op.status), 0, p->req.value_bytes);
    else
        reply_unless(s, p->req.noreply, done ? REPLY_DELETED : REPLY_NOT_FOUND);
}

static void answer_arith(struct session *s, struct pending *p)
{
    char number[PROTO_U64_TEXT_MAX + 2];
    bool done = p->op.status == CACHE_OK || p->op.status == CACHE_VIVIFIED;
    size_t len = done ? proto_put_u64(number, p->op.number) : 0;
    memcpy(number + len, "\r\n", 2);
    if (p->req.verb != VERB_MA) {
        if (!done)
            reply_unless(s, p->req.noreply, REPLY_NOT_FOUND);
        else if (!p->req.noreply)
            session_bytes(s, number, len + 2);
        return;
    }
    if (!done) {
        answer_meta(s, &p->req, meta_status_of(p->op.status), 0, p->req.value_bytes);
        return;
    }
    bool with_value = meta_has(&p->req, 'v');
    struct meta_reply reply = {
        .status = with_value ? META_VA : META_HD,
        .key_is_binary = p->req.key_is_binary,
        .value_bytes = (uint32_t)len,
        .ttl_sec = ttl_of(shown_exptime(&p->op, &p->req)),
        .cas = p->op.view.cas,
        .key = p->key,
        .key_len = p->req.key_len,
    };
    if (proto_meta_is_hidden(&p->req, reply.status))
        return;
    session_bytes(s, p->head, proto_put_meta_reply(p->head, &p->req, &reply));
    if (with_value)
        session_bytes(s, number, len + 2);
}

/* A store that was refused: the rest of its value is thrown away. */
static void refuse_store(struct session *s, struct pending *p)
{
    s->swallow_bytes = (uint64_t)p->req.value_bytes + 2 - p->received;
    reply_unless(s, p->req.noreply, p->refusal);
}

static void change_done(struct cache_op *op);

static bool run_change(struct session *s, struct pending *p)
{
    p->op.done = change_done;
    if (cache_run(s->w->cache_worker, &p->op))
        return true;
    p->parked = true;
    s->parked++;
    s->barrier = true;
    return false;
}

/* An op that changes something is through with its present verb: true iff it is through in all, and
 * the pending can go. */
static bool change_next(struct session *s, struct pending *p)
{
    struct cache_op *op = &p->op;
    if (p->dropping) {
        refuse_store(s, p);
        return true;
    }
    enum reply error = error_of(p->req.verb, op->status);
    if (op->verb == CACHE_ALLOC) {
        if (error == REPLY_NONE) {
            s->store = p;
            return false;
        }
        log_store(p);
        p->refusal = error;
        if (!(verb_info(p->req.verb)->flags & VF_DROP_OLD)) {
            refuse_store(s, p);
            return true;
        }
        cache_release(s->w->cache_worker, op);
        uint64_t hash = op->hash;
        cache_op_init(op, CACHE_DELETE, p->key, (uint8_t)p->req.key_len, hash);
        op->options = CACHE_F_QUIET_STATS;
        op->owner = p;
        p->dropping = true;
        if (!run_change(s, p))
            return false;
        refuse_store(s, p);
        return true;
    }
    if (error != REPLY_NONE) {
        if (op->verb == CACHE_STORE)
            log_store(p);
        reply_unless(s, p->req.noreply, error);
        return true;
    }
    switch (op->verb) {
    case CACHE_STORE:
        answer_store(s, p);
        break;
    case CACHE_DELETE:
        answer_delete(s, p);
        break;
    case CACHE_TOUCH:
        reply_unless(s, p->req.noreply, op->status == CACHE_OK ? REPLY_TOUCHED : REPLY_NOT_FOUND);
        break;
    case CACHE_ARITH:
        answer_arith(s, p);
        break;
    default:
        ASSERT(!"a change");
    }
    return true;
}

static void change_done(struct cache_op *op)
{
    struct pending *p = op->owner;
    struct session *s = p->s;
    unpark(s);
    p->parked = false;
    if (s->gone || change_next(s, p))
        pending_free(p);
    tell(s);
}

static enum command_result start_change(struct session *s, struct pending *p)
{
    if (run_change(s, p) && change_next(s, p))
        pending_free(p);
    return COMMAND_DONE;
}

static enum cache_store_mode classic_mode(enum verb verb)
{
    switch (verb) {
    case VERB_ADD:
        return CACHE_ADD;
    case VERB_REPLACE:
        return CACHE_REPLACE;
    case VERB_APPEND:
        return CACHE_APPEND;
    case VERB_PREPEND:
        return CACHE_PREPEND;
    case VERB_CAS:
        return CACHE_CAS;
    default:
        return CACHE_SET;
    }
}

static enum cache_store_mode meta_mode(char mode)
{
    switch (mode) {
    case 'E':
        return CACHE_ADD;
    case 'A':
        return CACHE_APPEND;
    case 'P':
        return CACHE_PREPEND;
    case 'R':
        return CACHE_REPLACE;
    default:
        return CACHE_SET;
    }
}

/* The options that ms, md and ma have in common. */
static void set_meta_options(struct cache_op *op, const struct request *req)
{
    op->options |= CACHE_F_META | (req->key_is_binary ? CACHE_F_BINARY_KEY : 0);
    if (meta_has(req, 'C')) {
        op->options |= CACHE_F_CAS_COMPARE;
        op->cas_compare = req->cas;
    }
    if (meta_has(req, 'E')) {
        op->options |= CACHE_F_CAS_SET;
        op->cas_new = req->meta.cas_new;
    }
}

static enum command_result do_store(struct session *s, struct request *req)
{
    uint64_t hash = cache_hash(s->w->env->cache, req->key, req->key_len);
    struct pending *p = pending_make(s, CACHE_ALLOC, req, req->key, req->key_len, hash);
    if (!p) {
        s->swallow_bytes = (uint64_t)req->value_bytes + 2;
        reply_unless(s, req->noreply, REPLY_OOM_STORING);
        return COMMAND_DONE;
    }
    struct cache_op *op = &p->op;
    op->client_flags = req->client_flags;
    op->value_bytes = req->value_bytes;
    op->exptime_sec = clock_exptime(req->exptime);
    if (req->verb == VERB_MS) {
        op->mode = meta_mode(req->meta.mode);
        set_meta_options(op, req);
        if (meta_has(req, 'I'))
            op->options |= CACHE_F_INVALIDATE;
        if (meta_has(req, 'N') && (op->mode == CACHE_APPEND || op->mode == CACHE_PREPEND)) {
            op->options |= CACHE_F_VIVIFY;
            op->vivify_exptime_sec = clock_exptime(req->meta.vivify_ttl);
        }
    } else {
        op->mode = classic_mode(req->verb);
        op->cas_compare = req->cas;
    }
    if (unlikely(details_wanted(s)) && req->verb != VERB_MS)
        prefixes_set(s->w->env->prefixes, req->key, req->key_len);
    return start_change(s, p);
}

size_t command_value_room(struct session *s, char **to)
{
    struct pending *p = s->store;
    *to = p->op.value + p->received;
    return p->req.value_bytes - p->received;
}

void command_value_got(struct session *s, size_t n)
{
    struct pending *p = s->store;
    ASSERT(n <= p->req.value_bytes - p->received);
    p->received += (uint32_t)n;
}

void command_store(struct session *s, bool good)
{
    struct pending *p = s->store;
    s->store = NULL;
    ASSERT(p->received == p->req.value_bytes);
    if (!good) {
        /* memcached counts it */
        stat_class_inc(s->w->stats, p->op.view.slab_class, CSTAT_set_cmds);
        reply_unless(s, p->req.noreply, REPLY_BAD_CHUNK);
        pending_free(p);
        return;
    }
    show_lookup(s, &p->req, p->op.hash);
    p->op.verb = CACHE_STORE;
    start_change(s, p);
}

static enum command_result do_delete(struct session *s, struct request *req)
{
    uint64_t hash = cache_hash(s->w->env->cache, req->key, req->key_len);
    struct pending *p = pending_make(s, CACHE_DELETE, req, req->key, req->key_len, hash);
    if (!p) {
        session_break(s);
        return COMMAND_DONE;
    }
    if (req->verb == VERB_MD) {
        set_meta_options(&p->op, req);
        if (meta_has(req, 'I'))
            p->op.options |= CACHE_F_INVALIDATE;
        if (meta_has(req, 'x')) {
            p->op.options |= CACHE_F_EMPTY;
            p->op.client_flags = req->client_flags;
        }
        if (meta_has(req, 'T')) {
            p->op.options |= CACHE_F_TOUCH;
            p->op.exptime_sec = clock_exptime(req->exptime);
        }
    }
    if (unlikely(details_wanted(s)) && req->verb != VERB_MD)
        prefixes_delete(s->w->env->prefixes, req->key, req->key_len);
    show_lookup(s, &p->req, hash);
    return start_change(s, p);
}

static enum command_result do_touch(struct session *s, struct request *req)
{
    uint64_t hash = cache_hash(s->w->env->cache, req->key, req->key_len);
    struct pending *p = pending_make(s, CACHE_TOUCH, req, req->key, req->key_len, hash);
    if (!p) {
        session_break(s);
        return COMMAND_DONE;
    }
    p->op.exptime_sec = clock_exptime(req->exptime);
    show_lookup(s, &p->req, hash);
    return start_change(s, p);
}

static enum command_result do_arith(struct session *s, struct request *req)
{
    uint64_t hash = cache_hash(s->w->env->cache, req->key, req->key_len);
    struct pending *p = pending_make(s, CACHE_ARITH, req, req->key, req->key_len, hash);
    if (!p) {
        session_break(s);
        return COMMAND_DONE;
    }
    struct cache_op *op = &p->op;
    op->delta = req->delta;
    if (req->verb == VERB_DECR)
        op->options = CACHE_F_DECR;
    if (req->verb == VERB_MA) {
        op->options = req->meta.mode == 'D' ? CACHE_F_DECR : 0;
        set_meta_options(op, req);
        if (meta_has(req, 'N')) {
            op->options |= CACHE_F_VIVIFY;
            op->vivify_exptime_sec = vivify_exptime(req);
            op->initial = req->meta.initial;
        }
        if (meta_has(req, 'T')) {
            op->options |= CACHE_F_TOUCH;
            op->exptime_sec = clock_exptime(req->exptime);
        }
    }
    show_lookup(s, &p->req, hash);
    return start_change(s, p);
}

/* ---- all of them ---- */

uint64_t command_look_ahead(struct command_worker *w, const char *line, size_t bytes,
                            uint32_t *value_bytes)
{
    const char *key;
    uint32_t len = proto_peek_key(line, bytes, &key, value_bytes);
    if (len == 0)
        return 0;
    uint64_t hash = cache_hash(w->env->cache, key, len);
    cache_prefetch(w->cache_worker, hash);
    return hash;
}

void command_look_closer(struct command_worker *w, uint64_t seen)
{
    if (seen != 0)
        cache_prefetch_item(w->cache_worker, seen);
}

enum command_result command_execute(struct session *s, struct request *req)
{
    DEBUG_ASSERT(!s->barrier && !s->store && s->swallow_bytes == 0);
    if (!(verb_info(req->verb)->flags & VF_KEYS) && unlikely(!reply_begin(&s->out))) {
        s->broken = true;
        return COMMAND_DONE;
    }
    switch (req->verb) {
    case VERB_GET:
    case VERB_GETS:
    case VERB_GAT:
    case VERB_GATS:
        return do_get(s, req);
    case VERB_MG:
    case VERB_ME:
    case VERB_MN:
        if (req->verb == VERB_MG)
            return do_mg(s, req);
        if (req->verb == VERB_ME) {
            stat_inc(s->w->stats, STAT_meta_cmds); /* memcached counts no others */
            return do_me(s, req);
        }
        session_reply(s, REPLY_MN);
        return COMMAND_DONE;
    case VERB_VERSION:
        session_reply(s, REPLY_VERSION);
        return COMMAND_DONE;
    case VERB_QUIT:
        return COMMAND_CLOSE;
    default:
        break;
    }
    if (s->parked > 0) {
        s->barrier = true;
        return COMMAND_AGAIN;
    }
    switch (req->verb) {
    case VERB_SET:
    case VERB_ADD:
    case VERB_REPLACE:
    case VERB_APPEND:
    case VERB_PREPEND:
    case VERB_CAS:
    case VERB_MS:
        return do_store(s, req);
    case VERB_DELETE:
    case VERB_MD:
        return do_delete(s, req);
    case VERB_TOUCH:
        return do_touch(s, req);
    case VERB_INCR:
    case VERB_DECR:
    case VERB_MA:
        return do_arith(s, req);
    default:
        return command_admin(s, req);
    }
}

void command_authenticate(struct session *s, const char *value, size_t bytes, bool good_end)
{
    if (!good_end) {
        session_reply(s, REPLY_AUTH_BAD_END);
        return;
    }
    if (!memchr(value, ' ', bytes)) {
        session_reply(s, REPLY_AUTH_BAD_FORMAT);
        return;
    }
    stat_inc(s->w->stats, STAT_auth_cmds);
    if (!auth_check(s->w->env->auth, value, bytes)) {
        stat_inc(s->w->stats, STAT_auth_errors);
        session_reply(s, REPLY_AUTH_FAILED);
    } else {
        s->authenticated = true;
        session_reply(s, REPLY_STORED);
    }
}
