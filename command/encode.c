/* command/encode.c: see command/encode.h. First the lines of text, then meta commands, then packets. */
#include "command/encode.h"

#include "base/clock.h"
#include "proto/bin.h"

static_assert((int)ENCODE_MAX >= (int)PROTO_VALUE_HEADER_MAX, "a VALUE line");
static_assert((int)ENCODE_MAX >= (int)BIN_REPLY_MAX, "an answer's head");
static_assert((int)ENCODE_STAT_MAX >= ENCODE_STAT_VALUE_MAX + BIN_HEAD_BYTES + BIN_STAT_NAME_MAX,
              "a statistic");

int64_t encode_ttl(uint32_t exptime_sec)
{
    if (exptime_sec == CLOCK_NEVER_SEC)
        return -1;
    uint32_t now = clock_now_sec();
    return exptime_sec > now ? (int64_t)(exptime_sec - now) : 0;
}

uint32_t encode_vivify_exptime(const struct request *req)
{
    bool touch_wins = meta_has(req, 'T') && req->meta.touch_after_vivify;
    return clock_exptime(touch_wins ? req->exptime : req->meta.vivify_ttl);
}

uint32_t encode_shown_exptime(const struct cache_op *op, const struct request *req)
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

enum reply encode_error_of(enum verb verb, enum cache_status status)
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

/* ---- lines ---- */

static size_t put_line(char *out, enum reply reply)
{
    size_t len;
    const char *text = reply_line(reply, &len);
    DEBUG_ASSERT(len <= ENCODE_MAX);
    memcpy(out, text, len);
    return len;
}

static size_t line_hit(char *out, const struct request *req, const char *key, uint32_t key_len,
                       const struct cache_view *v, bool *with_value)
{
    *with_value = true;
    return proto_put_value_header(out, key, key_len, v->client_flags, v->value_bytes,
                                  verb_info(req->verb)->flags & VF_RETURN_CAS, v->cas);
}

static size_t line_miss(char *out UNUSED, const struct request *req UNUSED, const char *key UNUSED,
                        uint32_t key_len UNUSED)
{
    return 0;
}

static size_t line_fixed(char *out, const struct request *req, enum reply reply)
{
    return req->noreply ? 0 : put_line(out, reply);
}

static size_t line_done(char *out, const struct request *req, const struct cache_op *op)
{
    static const enum reply stores[] = {
        [CACHE_OK] = REPLY_STORED,
        [CACHE_NOT_FOUND] = REPLY_NOT_FOUND,
        [CACHE_NOT_STORED] = REPLY_NOT_STORED,
        [CACHE_EXISTS] = REPLY_EXISTS,
    };
    enum reply error = encode_error_of(req->verb, op->status);
    bool done = op->status == CACHE_OK;
    if (error != REPLY_NONE)
        return line_fixed(out, req, error);
    switch (op->verb) {
    case CACHE_STORE:
        ASSERT(op->status < ARRAY_COUNT(stores) && stores[op->status] != REPLY_NONE);
        return line_fixed(out, req, stores[op->status]);
    case CACHE_DELETE:
        return line_fixed(out, req, done ? REPLY_DELETED : REPLY_NOT_FOUND);
    case CACHE_TOUCH:
        return line_fixed(out, req, done ? REPLY_TOUCHED : REPLY_NOT_FOUND);
    default:
        break;
    }
    ASSERT(op->verb == CACHE_ARITH);
    if (!done || req->noreply)
        return line_fixed(out, req, REPLY_NOT_FOUND);
    size_t n = proto_put_u64(out, op->number);
    memcpy(out + n, "\r\n", 2);
    return n + 2;
}

static size_t line_stat(char *out, const struct request *req UNUSED, const char *name,
                        const char *value, size_t value_bytes)
{
    int n = snprintf(out, ENCODE_STAT_MAX, "STAT %.*s %.*s\r\n", BIN_STAT_NAME_MAX, name,
                     (int)value_bytes, value);
    DEBUG_ASSERT(n > 0 && n < ENCODE_STAT_MAX);
    return (size_t)n;
}

/* ---- meta commands ---- */

static enum meta_status meta_status_of(enum cache_status status)
{
    bool done = status == CACHE_OK || status == CACHE_VIVIFIED;
    return done ? META_HD : status == CACHE_NOT_STORED ? META_NS : status == CACHE_EXISTS ? META_EX : META_NF;
}

static size_t put_me(char *out, const char *key, uint32_t key_len, const struct cache_view *v)
{
    struct meta_debug item = {
        .key = key,
        .key_len = key_len,
        .key_is_binary = v->binary_key,
        .fetched = v->fetched_before,
        .ttl_sec = encode_ttl(v->exptime_sec),
        .idle_sec = idle_of(v->time_sec),
        .cas = v->cas,
        .slab_class = v->slab_class,
        .item_bytes = v->accounted_bytes,
    };
    return proto_put_me(out, &item);
}

static size_t meta_hit(char *out, const struct request *req, const char *key, uint32_t key_len,
                       const struct cache_view *v, bool *with_value)
{
    *with_value = false;
    if (req->verb == VERB_ME)
        return put_me(out, key, key_len, v);
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
        .ttl_sec = encode_ttl(v->exptime_sec),
        .cas = v->cas,
        .key = key,
        .key_len = key_len,
    };
    return proto_put_meta_reply(out, req, &reply);
}

/* A line that tells nothing of an item except its cas. */
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
    return proto_meta_is_hidden(req, status) ? 0 : proto_put_meta_reply(out, req, &reply);
}

static size_t meta_miss(char *out, const struct request *req, const char *key UNUSED,
                        uint32_t key_len UNUSED)
{
    return req->verb == VERB_ME ? put_line(out, REPLY_EN)
                                : put_status(out, req, META_EN, 0, req->value_bytes);
}

static size_t meta_number(char *out, const struct request *req, const struct cache_op *op)
{
    char number[PROTO_U64_TEXT_MAX];
    size_t digits = proto_put_u64(number, op->number);
    bool with_value = meta_has(req, 'v');
    struct meta_reply reply = {
        .status = with_value ? META_VA : META_HD,
        .key_is_binary = req->key_is_binary,
        .value_bytes = (uint32_t)digits,
        .ttl_sec = encode_ttl(encode_shown_exptime(op, req)),
        .cas = op->view.cas,
        .key = req->key,
        .key_len = req->key_len,
    };
    if (proto_meta_is_hidden(req, reply.status))
        return 0;
    size_t n = proto_put_meta_reply(out, req, &reply);
    if (!with_value)
        return n;
    memcpy(out + n, number, digits);
    memcpy(out + n + digits, "\r\n", 2);
    return n + digits + 2;
}

static size_t meta_done(char *out, const struct request *req, const struct cache_op *op)
{
    enum reply error = encode_error_of(req->verb, op->status);
    bool done = op->status == CACHE_OK || op->status == CACHE_VIVIFIED;
    if (error != REPLY_NONE)
        return put_line(out, error);
    if (op->verb == CACHE_ARITH && done)
        return meta_number(out, req, op);
    if (op->verb == CACHE_STORE && op->status == CACHE_OK) /* append: the length of the whole value */
        return put_status(out, req, META_HD, op->view.cas, op->view.value_bytes);
    return put_status(out, req, meta_status_of(op->status), 0, req->value_bytes);
}

static size_t meta_fixed(char *out, const struct request *req UNUSED, enum reply reply)
{
    return put_line(out, reply);
}

/* ---- packets ---- */

static size_t bin_hit(char *out, const struct request *req, const char *key, uint32_t key_len,
                      const struct cache_view *v, bool *with_value)
{
    return proto_put_bin_hit(out, req, key, key_len, v->client_flags, v->value_bytes, v->cas,
                             with_value);
}

/* memcached has one reply for each command when a value was not stored, whatever the reason. */
static enum reply bin_refusal(const struct cache_op *op)
{
    return op->mode == CACHE_ADD       ? REPLY_EXISTS
           : op->mode == CACHE_REPLACE ? REPLY_NOT_FOUND
                                       : REPLY_NOT_STORED;
}

static size_t bin_done(char *out, const struct request *req, const struct cache_op *op)
{
    switch (op->status) {
    case CACHE_OK:
    case CACHE_VIVIFIED:
        if (op->verb == CACHE_ARITH)
            return proto_put_bin_number(out, req, op->number, op->view.cas);
        return proto_put_bin_done(out, req, op->verb == CACHE_STORE ? op->view.cas : 0);
    case CACHE_NOT_FOUND:
        return proto_put_bin_reply(out, req, REPLY_NOT_FOUND);
    case CACHE_EXISTS:
        return proto_put_bin_reply(out, req, REPLY_EXISTS);
    default:
        break;
    }
    if (op->verb == CACHE_STORE)
        return proto_put_bin_reply(out, req, bin_refusal(op));
    return proto_put_bin_reply(out, req, encode_error_of(req->verb, op->status));
}

static size_t bin_stat(char *out, const struct request *req, const char *name, const char *value,
                       size_t value_bytes)
{
    size_t n = proto_put_bin_stat(out, req, name, value_bytes);
    DEBUG_ASSERT(n + value_bytes <= ENCODE_STAT_MAX);
    memcpy(out + n, value, value_bytes);
    return n + value_bytes;
}

const struct encoder *encoder_of(const struct request *req)
{
    static const struct encoder encoders[DIALECT_COUNT] = {
        [DIALECT_CLASSIC] = {line_hit, line_miss, line_done, line_fixed, line_stat, NULL, true},
        [DIALECT_META] = {meta_hit, meta_miss, meta_done, meta_fixed, line_stat, NULL, true},
        [DIALECT_BINARY] = {bin_hit, proto_put_bin_miss, bin_done, proto_put_bin_reply, bin_stat,
                            proto_put_bin_stat, false},
    };
    DEBUG_ASSERT(req->dialect < DIALECT_COUNT);
    return &encoders[req->dialect];
}
