/* command/command.c: see command/command.h.
 *
 * Every op that may be parked lives in a struct pending: the op, a copy of what its reply needs (its line is
 * gone by the time it is done), and the head of the reply. The pending of a get is itself an entry of the reply
 * queue, so its value is sent from where it is (item or read buffer). A change runs alone, and its reply is
 * added at the end. */
#include "command/command.h"

#include "base/clock.h"
#include "command/admin.h"
#include "command/encode.h"
#include "command/login.h"
#include "proto/meta.h"
#include "proto/text.h"
#include "operator/samples.h"
#include "operator/watch.h"

enum {
    PREFETCH_KEYS = 8,
    TURN_KEYS = 8192, /* of one get, before other connections have a turn */
};
static_assert(ENCODE_MAX + COMMAND_COPY_BYTES_MAX + 2 <= REPLY_ROOM_MAX, "a copied get");

void command_refuse(struct session *s, const struct request *req)
{
    DEBUG_ASSERT(req->error != REPLY_NONE && !s->store && s->swallow_bytes == 0);
    s->swallow_bytes = req->swallow_bytes;
    s->get_offset = 0;
    session_answer(s, req, req->error);
}

/* Where the index has this key of the request: known if it was looked at ahead, otherwise found now, into room. */
static struct index_spot *find_key(const struct session *s, const char *key, uint32_t len,
                                   struct index_spot *room)
{
    struct seen_key *seen = s->seen;
    if (seen && seen->len == len && seen->key == key) {
        DEBUG_ASSERT(seen->spot.hash == cache_hash(s->w->env->cache, key, len));
        return &seen->spot;
    }
    cache_find(s->w->cache_worker, key, len, room);
    return room;
}

/* The op of a request about one key. NULL: there is no memory, so the connection ends. */
static struct pending *make_op(struct session *s, enum cache_verb verb, const struct request *req)
{
    struct index_spot room, *spot = find_key(s, req->key, req->key_len, &room);
    struct pending *p = pending_make(s, verb, req, req->key, req->key_len, spot);
    if (!p)
        session_break(s);
    return p;
}

static bool details_wanted(const struct session *s)
{
    return atomic_load_explicit(&s->w->env->settings->detail_enabled, memory_order_relaxed);
}

/* ---- what watchers see ---- */

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

static void report_fetch(struct session *s, enum verb verb, const char *key, uint32_t key_len,
                         const struct cache_view *v, enum watch_fetch_status miss)
{
    if (details_wanted(s) && verb != VERB_MG)
        prefixes_get(s->w->env->prefixes, key, key_len, v != NULL);
    if (watch_mask_has(s->w->watch_mask, WATCH_FETCHERS))
        log_fetch(s, key, key_len, v, miss);
    struct thread_stats *stats = s->w->stats;
    if (stats->latency.measuring && stats->samples)
        samples_note(stats->samples, key, key_len, max_u64(stats->latency.stands_for, 1));
}

/* Reports a fetch to `stats detail`, watchers and samples, if one of them wants it; v NULL: a miss of this kind.
 * `stats detail` ignores meta commands. */
static ALWAYS_INLINE void note_fetch(struct session *s, enum verb verb, const char *key, uint32_t key_len,
                                     const struct cache_view *v, enum watch_fetch_status miss)
{
    if (unlikely(details_wanted(s) || watch_mask_has(s->w->watch_mask, WATCH_FETCHERS) ||
                 s->w->stats->latency.measuring))
        report_fetch(s, verb, key, key_len, v, miss);
}

/* ---- waits and latency ---- */

/* The op begins to wait for flash; then, the wait is over. */
static void park(struct pending *p)
{
    DEBUG_ASSERT(!p->parked && !p->held && !p->source.ready);
    DEBUG_ASSERT(!p->s->gone || p->op.verb != CACHE_GET);
    p->parked = true;
    p->parked_ns = clock_mono_ns();
    p->s->parked++;
}

static void end_wait(struct pending *p)
{
    DEBUG_ASSERT(p->parked);
    p->parked = false;
    p->waited_ns += clock_mono_ns() - p->parked_ns;
}

static enum latency_command latency_command_of(enum cache_verb verb)
{
    static const uint8_t commands[] = {
        [CACHE_GET] = LATENCY_GET,       [CACHE_ALLOC] = LATENCY_STORE, [CACHE_STORE] = LATENCY_STORE,
        [CACHE_DELETE] = LATENCY_DELETE, [CACHE_TOUCH] = LATENCY_TOUCH, [CACHE_ARITH] = LATENCY_ARITHMETIC,
    };
    DEBUG_ASSERT(verb < ARRAY_COUNT(commands));
    return commands[verb];
}

/* The answer of the op is known. */
static void note_latency(struct pending *p)
{
    struct latency *l = &p->s->w->stats->latency;
    enum latency_command command = latency_command_of(p->op.verb);
    bool hit = p->op.status == CACHE_OK || p->op.status == CACHE_VIVIFIED;
    if (p->op.options & CACHE_F_QUIET_STATS)
        return;
    if (p->waited_ns > 0)
        latency_waited(l, command, p->waited_ns);
    else
        latency_count(l, hit || command != LATENCY_GET ? LATENCY_RAM : LATENCY_MISS, command);
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
    if (hit) {
        if (p->req.verb == VERB_MG && meta_has(&p->req, 't'))
            p->op.view.exptime_sec = encode_shown_exptime(&p->op, &p->req);
        src->head_bytes =
            (uint32_t)encoder_of(&p->req)->hit(p->head, &p->req, p->key, p->req.key_len, v, &with_value);
    } else
        src->head_bytes =
            (uint32_t)encoder_of(&p->req)->miss(p->head, &p->req, p->key, p->req.key_len);
    if (with_value) {
        src->value = v->value;
        src->value_bytes = v->value_bytes;
        src->crlf = encoder_of(&p->req)->value_ends;
    }
    if (p->req.verb != VERB_ME)
        note_fetch(p->s, p->req.verb, p->key, p->req.key_len, hit ? v : NULL, miss_of(&p->op));
    return src->head_bytes > 0;
}

static void source_finished(struct reply_source *source)
{
    pending_free(CONTAINER_OF(source, struct pending, source));
}

/* Queues an answer that is known. A small value is copied, a larger one sent from where it is. */
static void queue_ready(struct session *s, struct pending *p)
{
    struct reply_source *src = &p->source;
    DEBUG_ASSERT(!p->parked && !p->queued);
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
        return;
    }
    pending_hold(p);
}

static void read_done(struct cache_op *op)
{
    struct pending *p = op->owner;
    struct session *s = p->s;
    DEBUG_ASSERT(op == &p->op && s->parked_bytes >= p->read_bytes);
    session_unpark(s);
    s->parked_bytes -= p->read_bytes;
    end_wait(p);
    note_latency(p);
    if (s->gone || !p->queued) {
        pending_free(p);
    } else {
        fill_source(p);
        if (p->source.value_bytes == 0) /* nothing of what was read is sent */
            cache_release(s->w->cache_worker, &p->op);
        reply_source_ready(&s->out, &p->source);
        pending_hold(p);
    }
    session_tell(s);
}

/* Runs a read op. Afterwards its answer, or a place for it, is in the queue. False: there is no memory to read
 * it from flash, and nothing was queued. */
static bool run_read(struct session *s, struct pending *p)
{
    p->op.done = read_done;
    bool done = cache_run(s->w->cache_worker, &p->op);
    if (done && unlikely(p->op.no_room)) {
        pending_free(p);
        return false;
    }
    p->read_bytes = p->op.read_bytes;
    if (done) {
        note_latency(p);
        queue_ready(s, p);
        return true;
    }
    park(p);
    s->parked_bytes += p->read_bytes;
    p->source.finished = source_finished;
    if (reply_source(&s->out, &p->source) == 0)
        p->queued = true;
    else
        session_break(s);
    return true;
}

static void answer_quick_hit(struct session *s, const struct request *req, const char *key,
                             uint32_t key_len, const struct cache_view *v, struct item *pin)
{
    struct cache_worker *cw = s->w->cache_worker;
    const struct encoder *enc = encoder_of(req);
    bool copy = v->value_bytes <= COMMAND_COPY_BYTES_MAX;
    bool with_value;
    char *to = session_room(s, ENCODE_MAX + (copy ? v->value_bytes + 2 : 0));
    if (unlikely(!to)) {
        cache_unpin(cw, pin);
        return;
    }
    size_t n = enc->hit(to, req, key, key_len, v, &with_value);
    DEBUG_ASSERT(n > 0 && n <= ENCODE_MAX);
    if (with_value && copy) {
        memcpy(to + n, v->value, v->value_bytes);
        n += v->value_bytes;
        memcpy(to + n, "\r\n", 2);
        n += enc->value_ends ? 2 : 0;
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
    if (enc->value_ends)
        session_bytes(s, "\r\n", 2);
}

/* get and mg without options that need an op: true iff answered. */
static bool try_quick(struct session *s, const struct request *req, const char *key,
                      uint32_t key_len, struct index_spot *spot)
{
    struct cache_view view;
    struct item *pin;
    switch (cache_get_quick(s->w->cache_worker, key, (uint8_t)key_len, spot, &view, &pin)) {
    case CACHE_QUICK_HIT:
        latency_count(&s->w->stats->latency, LATENCY_RAM, LATENCY_GET);
        answer_quick_hit(s, req, key, key_len, &view, pin);
        return true;
    case CACHE_QUICK_MISS: {
        latency_count(&s->w->stats->latency, LATENCY_MISS, LATENCY_GET);
        char *to = session_room(s, ENCODE_MAX);
        if (to)
            reply_commit(&s->out, encoder_of(req)->miss(to, req, key, key_len));
        note_fetch(s, req->verb, key, key_len, NULL, WATCH_FETCH_NOT_FOUND);
        return true;
    }
    case CACHE_QUICK_NEEDS_OP:
        break;
    }
    return false;
}

/* False as from run_read(). */
static bool get_one(struct session *s, struct request *req, const char *key, uint32_t key_len,
                    struct index_spot *spot)
{
    bool touch = verb_info(req->verb)->flags & VF_TOUCH;
    if (!touch && try_quick(s, req, key, key_len, spot))
        return true;
    struct pending *p = pending_make(s, CACHE_GET, req, key, key_len, spot);
    if (!p) {
        session_break(s);
        return true;
    }
    if (touch) {
        p->op.options =
            CACHE_F_TOUCH | CACHE_F_GAT | (req->without_value ? CACHE_F_NO_VALUE : 0);
        p->op.exptime_sec = clock_exptime(req->exptime);
    }
    return run_read(s, p);
}

/* Is there a key that makes the whole command fail? Asked before anything is answered. */
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

/* Keys before the wrong one count as fetched, and those on flash as reads given up. (Not all of a very long line.) */
static void count_spoiled(struct session *s, const struct request *req)
{
    struct command_worker *w = s->w;
    struct key_cursor cursor = req->keys;
    const char *key;
    uint32_t len;
    for (unsigned i = 0; i < TURN_KEYS && proto_next_key(&cursor, &key, &len) == 1; i++) {
        struct index_spot spot;
        struct cache_view view;
        struct item *pin;
        cache_find(w->cache_worker, key, len, &spot);
        switch (cache_get_quick(w->cache_worker, key, (uint8_t)len, &spot, &view, &pin)) {
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

/* get, gets, gat, gats: keys in small groups, so that their memory is prefetched together. */
static enum command_result do_get(struct session *s, struct request *req)
{
    struct command_worker *w = s->w;
    bool touch = verb_info(req->verb)->flags & VF_TOUCH;
    struct key_cursor cursor = req->keys;
    unsigned keys = 0;
    if (s->get_offset > 0) {
        DEBUG_ASSERT(s->get_offset < (size_t)(cursor.end - cursor.next));
        cursor.next += s->get_offset;
    } else if (touch && s->parked > 0) {
        s->barrier = true;
        return COMMAND_AGAIN;
    } else if (has_long_key(cursor)) {
        count_spoiled(s, req);
        session_reply(s, REPLY_GET_BAD_FORMAT);
        return COMMAND_SPOILED;
    }
    for (;;) {
        const char *key[PREFETCH_KEYS];
        uint32_t len[PREFETCH_KEYS];
        struct index_spot room[PREFETCH_KEYS], *spot[PREFETCH_KEYS];
        unsigned n = 0;
        for (; n < PREFETCH_KEYS && cursor.next < cursor.end && proto_next_key(&cursor, &key[n], &len[n]) == 1; n++)
            spot[n] = find_key(s, key[n], len[n], &room[n]);
        for (unsigned i = 0; i < n; i++) {
            if (unlikely(s->broken))
                return COMMAND_DONE;
            if (session_is_full(s)) {
                s->get_offset = (uint32_t)(key[i] - req->keys.next);
                return COMMAND_AGAIN;
            }
            if (unlikely(!reply_begin(&s->out))) {
                if (s->get_offset == 0 && keys == 0 && i == 0 && reply_is_at_limit(&s->out))
                    return COMMAND_AGAIN; /* those of earlier commands go first */
                stat_inc(w->stats, STAT_response_obj_oom);
                s->get_offset = 0;
                session_reply(s, REPLY_OOM_GET);
                return COMMAND_SPOILED;
            }
            if (unlikely(!get_one(s, req, key[i], len[i], spot[i]))) {
                s->get_offset = 0;
                s->barrier = touch && s->parked > 0;
                session_reply(s, REPLY_OOM_GET);
                return COMMAND_SPOILED;
            }
        }
        if (n < PREFETCH_KEYS)
            break;
        keys += n;
        if (unlikely(keys >= TURN_KEYS) && cursor.next < cursor.end) {
            s->get_offset = (uint32_t)(cursor.next - req->keys.next);
            return COMMAND_YIELD;
        }
        if (s->parked > 0) /* the device starts reading while the next keys are looked up */
            cache_worker_submit(w->cache_worker);
    }
    s->get_offset = 0;
    s->barrier = touch && s->parked > 0;
    if (!req->keys.whole && !req->more_keys) /* a packet needs no END */
        session_reply(s, REPLY_END);
    return COMMAND_DONE;
}

/* What flags mean to several meta commands: C and T not the same to all. */
static void set_meta_options(struct cache_op *op, const struct request *req)
{
    op->options |= CACHE_F_META | (req->key_is_binary ? CACHE_F_BINARY_KEY : 0);
    if (meta_has(req, 'C') && req->verb != VERB_MG) {
        op->options |= CACHE_F_CAS_COMPARE;
        op->cas_compare = req->cas;
    }
    if (meta_has(req, 'E')) {
        op->options |= CACHE_F_CAS_SET;
        op->cas_new = req->meta.cas_new;
    }
    if (meta_has(req, 'T') && req->verb != VERB_MS) {
        op->options |= CACHE_F_TOUCH;
        op->exptime_sec = clock_exptime(req->exptime);
    }
}

#define MG_CHANGES (META_FLAG('T') | META_FLAG('N') | META_FLAG('R') | META_FLAG('E'))

static enum command_result do_mg(struct session *s, struct request *req)
{
    bool changes = req->meta.flags & MG_CHANGES;
    if (changes && s->parked > 0) {
        s->barrier = true;
        return COMMAND_AGAIN;
    }
    struct index_spot room, *spot = find_key(s, req->key, req->key_len, &room);
    if (!changes && !meta_has(req, 'u') && try_quick(s, req, req->key, req->key_len, spot))
        return COMMAND_DONE;
    struct pending *p = pending_make(s, CACHE_GET, req, req->key, req->key_len, spot);
    if (!p) {
        session_break(s);
        return COMMAND_DONE;
    }
    struct cache_op *op = &p->op;
    op->options = (meta_has(req, 'v') ? 0 : CACHE_F_NO_VALUE) | (meta_has(req, 'u') ? CACHE_F_NOBUMP : 0);
    set_meta_options(op, req);
    if (meta_has(req, 'N')) {
        op->options |= CACHE_F_VIVIFY;
        op->vivify_exptime_sec = encode_vivify_exptime(req);
    }
    if (meta_has(req, 'R')) {
        op->options |= CACHE_F_RECACHE | (req->meta.touch_before_recache ? 0 : CACHE_F_TOUCH_LAST);
        op->recache_ttl_sec = (int64_t)clock_exptime(req->meta.recache_ttl) - clock_now_sec();
    }
    if (unlikely(!run_read(s, p)))
        session_reply(s, REPLY_OOM_GET);
    s->barrier = changes && s->parked > 0;
    return COMMAND_DONE;
}

static enum command_result do_me(struct session *s, struct request *req)
{
    stat_inc(s->w->stats, STAT_meta_cmds); /* memcached counts no others */
    struct pending *p = make_op(s, CACHE_GET, req);
    if (!p)
        return COMMAND_DONE;
    p->op.options = CACHE_F_QUIET_STATS | CACHE_F_NOBUMP | CACHE_F_NO_VALUE;
    (void)run_read(s, p); /* without the value there is always room */
    return COMMAND_DONE;
}

/* ---- changes ---- */

static const char *store_status_word(enum cache_status status)
{
    static const char *const words[] = {
        [CACHE_OK] = "stored",         [CACHE_VIVIFIED] = "stored",        [CACHE_EXISTS] = "exists",
        [CACHE_NOT_FOUND] = "not_found", [CACHE_NOT_STORED] = "not_stored", [CACHE_NON_NUMERIC] = "not_stored",
        [CACHE_TOO_LARGE] = "too_large", [CACHE_NO_MEMORY] = "no_memory",
    };
    DEBUG_ASSERT(status < ARRAY_COUNT(words));
    return words[status];
}

static void log_store(struct pending *p)
{
    static const char *const words[] = {
        [CACHE_SET] = "set",       [CACHE_ADD] = "add",         [CACHE_REPLACE] = "replace",
        [CACHE_APPEND] = "append", [CACHE_PREPEND] = "prepend", [CACHE_CAS] = "cas",
    };
    if (!watch_mask_has(p->s->w->watch_mask, WATCH_MUTATIONS))
        return;
    int64_t ttl = encode_ttl(p->op.exptime_sec);
    struct watch_item it = {.key = p->key,
                            .key_bytes = (uint8_t)p->req.key_len,
                            .ttl_sec = ttl < 0 ? 0 : ttl,
                            .slab_class = p->op.view.slab_class,
                            .value_bytes = p->req.value_bytes};
    watch_item_store(&it, store_status_word(p->op.status), words[p->op.mode], p->s->fd);
}

static void log_delete(struct pending *p)
{
    bool gone = p->op.status == CACHE_OK && !(p->op.options & CACHE_F_INVALIDATE); /* else only stale */
    if (!gone || !watch_mask_has(p->s->w->watch_mask, WATCH_DELETIONS))
        return;
    struct watch_item it = {.key = p->key,
                            .key_bytes = (uint8_t)p->req.key_len,
                            .slab_class = p->op.view.slab_class,
                            .value_bytes = p->op.view.value_bytes};
    watch_deleted(&it, p->req.verb == VERB_MD ? "md" : "delete");
}

/* Watchers hear of a change that has ended, whether or not its client is still there. */
static void log_change(struct pending *p)
{
    if (p->op.verb == CACHE_STORE)
        log_store(p);
    else if (p->op.verb == CACHE_DELETE && !p->dropping)
        log_delete(p);
}

/* Logs and answers a change that has ended. */
static void answer_change(struct session *s, struct pending *p)
{
    log_change(p);
    char *to = session_room(s, ENCODE_MAX);
    if (!to)
        return;
    size_t n = encoder_of(&p->req)->done(to, &p->req, &p->op);
    DEBUG_ASSERT(n <= ENCODE_MAX);
    reply_commit(&s->out, n);
}

/* A store that was refused: the rest of its value is discarded. */
static void refuse_store(struct session *s, struct pending *p)
{
    DEBUG_ASSERT(!s->store && p->refusal != REPLY_NONE && p->received <= p->req.value_bytes);
    s->swallow_bytes = (uint64_t)p->req.value_bytes + p->req.value_end_bytes - p->received;
    session_answer(s, &p->req, p->refusal);
}

static void change_done(struct cache_op *op);

static bool run_change(struct session *s, struct pending *p)
{
    p->op.done = change_done;
    if (cache_run(s->w->cache_worker, &p->op))
        return true;
    park(p);
    s->barrier = true;
    return false;
}

/* The op of a change has finished its present verb. True iff that was the last one, so the pending can be freed. */
static bool change_next(struct session *s, struct pending *p)
{
    struct cache_op *op = &p->op;
    if (p->dropping) {
        refuse_store(s, p);
        return true;
    }
    enum reply error = encode_error_of(p->req.verb, op->status);
    if (op->verb == CACHE_ALLOC) {
        if (error == REPLY_NONE) {
            DEBUG_ASSERT(!s->store && s->parked == 0 && p->received == 0);
            s->store = p;
            return false;
        }
        log_store(p);
        p->refusal = error;
        DEBUG_ASSERT(p->refusal != REPLY_NONE && p->received == 0);
        if (!(verb_info(p->req.verb)->flags & VF_DROP_OLD)) {
            refuse_store(s, p);
            return true;
        }
        cache_release(s->w->cache_worker, op);
        uint64_t hash = op->spot.hash;
        cache_op_init(op, CACHE_DELETE, p->key, (uint8_t)p->req.key_len, hash);
        op->options = CACHE_F_QUIET_STATS;
        op->owner = p;
        p->dropping = true;
        if (!run_change(s, p))
            return false;
        refuse_store(s, p);
        return true;
    }
    note_latency(p);
    answer_change(s, p);
    return true;
}

static void change_done(struct cache_op *op)
{
    struct pending *p = op->owner;
    struct session *s = p->s;
    DEBUG_ASSERT(op == &p->op && !p->queued && s->parked == 1 && s->barrier); /* a change is alone */
    session_unpark(s);
    end_wait(p);
    if (s->gone)
        log_change(p);
    if (s->gone || change_next(s, p))
        pending_free(p);
    session_tell(s);
}

static void start_change(struct session *s, struct pending *p)
{
    if (run_change(s, p) && change_next(s, p))
        pending_free(p);
}

/* ---- the lookup before a change ---- */

/* The lookup is done: logs it, and the change begins. */
static void change_after(struct session *s, struct pending *lookup)
{
    struct pending *change = lookup->then;
    const struct cache_op *op = &lookup->op;
    log_fetch(s, lookup->key, lookup->req.key_len, op->status == CACHE_OK ? &op->view : NULL, miss_of(op));
    pending_free(lookup);
    if (!s->gone) {
        start_change(s, change);
    } else if (run_change(s, change)) { /* it was asked for */
        log_change(change);
        pending_free(change);
    }
}

static void lookup_done(struct cache_op *op)
{
    struct pending *p = op->owner;
    struct session *s = p->s;
    DEBUG_ASSERT(op == &p->op && p->then && s->parked == 1 && s->barrier);
    session_unpark(s);
    end_wait(p);
    change_after(s, p);
    session_tell(s);
}

/* Starts a change. memcached looks up its key first, and watchers of fetchers see that; so do ours. */
static void look_and_change(struct session *s, struct pending *change)
{
    struct pending *p = NULL;
    if (watch_mask_has(s->w->watch_mask, WATCH_FETCHERS))
        p = pending_make(s, CACHE_GET, &change->req, change->key, change->req.key_len, &change->op.spot);
    if (likely(!p)) {
        start_change(s, change);
        return;
    }
    p->then = change;
    p->op.options = CACHE_F_QUIET_STATS | CACHE_F_NOBUMP | CACHE_F_NO_VALUE;
    p->op.done = lookup_done;
    if (cache_run(s->w->cache_worker, &p->op)) {
        change_after(s, p);
        return;
    }
    park(p);
    s->barrier = true;
}

static enum cache_store_mode classic_mode(enum verb verb)
{
    static const uint8_t modes[VERB_COUNT] = {
        [VERB_SET] = CACHE_SET,       [VERB_ADD] = CACHE_ADD,         [VERB_REPLACE] = CACHE_REPLACE,
        [VERB_APPEND] = CACHE_APPEND, [VERB_PREPEND] = CACHE_PREPEND, [VERB_CAS] = CACHE_CAS,
    };
    DEBUG_ASSERT(verb == VERB_SET || modes[verb] != CACHE_SET);
    return modes[verb];
}

static enum cache_store_mode meta_mode(char letter)
{
    static const uint8_t modes['Z' + 1] = {
        ['S'] = CACHE_SET, ['E'] = CACHE_ADD, ['A'] = CACHE_APPEND, ['P'] = CACHE_PREPEND, ['R'] = CACHE_REPLACE,
    };
    DEBUG_ASSERT(letter == 'S' || modes[(unsigned char)letter] != CACHE_SET);
    return modes[(unsigned char)letter];
}

/* A store that isn't `cas` in name. Without cas tokens (-C) there is nothing to compare. */
static void compare_cas(struct session *s, struct cache_op *op)
{
    if (!s->w->env->settings->use_cas)
        return;
    if (op->mode == CACHE_APPEND || op->mode == CACHE_PREPEND)
        op->options |= CACHE_F_CAS_COMPARE;
    else
        op->mode = CACHE_CAS;
}

static enum command_result do_store(struct session *s, struct request *req)
{
    struct index_spot room, *spot = find_key(s, req->key, req->key_len, &room);
    struct pending *p = pending_make(s, CACHE_ALLOC, req, req->key, req->key_len, spot);
    if (!p) {
        if (verb_info(req->verb)->flags & VF_DROP_OLD)
            cache_drop_key(s->w->cache_worker, req->key, (uint8_t)req->key_len, spot);
        s->swallow_bytes = (uint64_t)req->value_bytes + req->value_end_bytes;
        session_answer(s, req, REPLY_OOM_STORING);
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
        if (req->with_cas)
            compare_cas(s, op);
    }
    if (unlikely(details_wanted(s)) && req->verb != VERB_MS)
        prefixes_set(s->w->env->prefixes, req->key, req->key_len);
    start_change(s, p);
    return COMMAND_DONE;
}

size_t command_value_room(struct session *s, char **to)
{
    struct pending *p = s->store;
    DEBUG_ASSERT(p && !p->parked && p->op.value && p->received <= p->req.value_bytes);
    *to = p->op.value + p->received;
    return p->req.value_bytes - p->received;
}

unsigned command_value_end_bytes(const struct session *s)
{
    return s->store->req.value_end_bytes;
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
    DEBUG_ASSERT(s->parked == 0 && !p->dropping);
    ASSERT(p->received == p->req.value_bytes);
    if (!good) {
        /* memcached counts it */
        stat_class_inc(s->w->stats, p->op.view.slab_class, CSTAT_set_cmds);
        session_answer(s, &p->req, REPLY_BAD_CHUNK);
        pending_free(p);
        return;
    }
    p->op.verb = CACHE_STORE;
    look_and_change(s, p);
}

static enum command_result do_delete(struct session *s, struct request *req)
{
    struct pending *p = make_op(s, CACHE_DELETE, req);
    if (!p)
        return COMMAND_DONE;
    if (req->verb == VERB_MD) {
        set_meta_options(&p->op, req);
        if (meta_has(req, 'I'))
            p->op.options |= CACHE_F_INVALIDATE;
        if (meta_has(req, 'x')) {
            p->op.options |= CACHE_F_EMPTY;
            p->op.client_flags = req->client_flags;
        }
    }
    if (req->with_cas && s->w->env->settings->use_cas) {
        p->op.options |= CACHE_F_CAS_COMPARE;
        p->op.cas_compare = req->cas;
    }
    if (unlikely(details_wanted(s)) && req->verb != VERB_MD)
        prefixes_delete(s->w->env->prefixes, req->key, req->key_len);
    look_and_change(s, p);
    return COMMAND_DONE;
}

static enum command_result do_touch(struct session *s, struct request *req)
{
    struct pending *p = make_op(s, CACHE_TOUCH, req);
    if (!p)
        return COMMAND_DONE;
    p->op.exptime_sec = clock_exptime(req->exptime);
    look_and_change(s, p);
    return COMMAND_DONE;
}

static enum command_result do_arith(struct session *s, struct request *req)
{
    struct pending *p = make_op(s, CACHE_ARITH, req);
    if (!p)
        return COMMAND_DONE;
    struct cache_op *op = &p->op;
    op->delta = req->delta;
    if (req->verb == VERB_DECR)
        op->options = CACHE_F_DECR;
    if (req->with_cas) {
        op->options |= CACHE_F_CAS_COMPARE;
        op->cas_compare = req->cas;
    }
    if (req->makes_number) {
        op->options |= CACHE_F_VIVIFY;
        op->vivify_exptime_sec = clock_exptime(req->exptime);
        op->initial = req->initial;
    }
    if (req->verb == VERB_MA) {
        op->options = req->meta.mode == 'D' ? CACHE_F_DECR : 0;
        set_meta_options(op, req);
        if (meta_has(req, 'N')) {
            op->options |= CACHE_F_VIVIFY;
            op->vivify_exptime_sec = encode_vivify_exptime(req);
            op->initial = req->meta.initial;
        }
    }
    look_and_change(s, p);
    return COMMAND_DONE;
}

/* ---- all of them ---- */

void command_look_at_key(struct command_worker *w, const char *key, uint32_t key_len, struct seen_key *seen)
{
    seen->key = key;
    seen->len = key_len;
    cache_find(w->cache_worker, key, key_len, &seen->spot);
}

void command_look_ahead(struct command_worker *w, const char *line, size_t bytes, uint32_t *value_bytes,
                        struct seen_key *seen)
{
    const char *key;
    uint32_t len = proto_peek_key(line, bytes, &key, value_bytes);
    seen->len = 0;
    if (len > 0)
        command_look_at_key(w, key, len, seen);
}

void command_look_closer(struct command_worker *w, const struct seen_key *seen)
{
    if (seen->len > 0)
        cache_prefetch_item(w->cache_worker, &seen->spot);
}

static enum command_result execute(struct session *s, struct request *req)
{
    if (!(verb_info(req->verb)->flags & VF_KEYS) && unlikely(!reply_begin(&s->out))) {
        if (reply_is_at_limit(&s->out))
            return COMMAND_AGAIN; /* the earlier ones go first */
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
        return do_mg(s, req);
    case VERB_ME:
        return do_me(s, req);
    case VERB_MN:
        session_reply(s, REPLY_MN);
        return COMMAND_DONE;
    case VERB_VERSION:
        session_reply(s, REPLY_VERSION);
        return COMMAND_DONE;
    case VERB_SASL_MECHS:
    case VERB_SASL_AUTH:
    case VERB_SASL_STEP:
        command_sasl(s, req);
        return COMMAND_DONE;
    case VERB_QUIT:
        session_answer(s, req, REPLY_NONE); /* of some protocols it is an answer */
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

enum command_result command_execute(struct session *s, struct request *req, struct seen_key *seen)
{
    DEBUG_ASSERT(!s->barrier && !s->store && s->swallow_bytes == 0);
    DEBUG_ASSERT(!s->request && !s->gone && !s->broken && req->error == REPLY_NONE);
    s->request = req;
    s->seen = seen;
    enum command_result r = execute(s, req);
    DEBUG_ASSERT(r != COMMAND_AGAIN || session_must_wait(s));
    DEBUG_ASSERT(!s->barrier || s->parked > 0);
    DEBUG_ASSERT(s->get_offset == 0 || r == COMMAND_AGAIN || r == COMMAND_YIELD || s->broken);
    s->request = NULL;
    s->seen = NULL;
    return r;
}
