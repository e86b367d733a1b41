/* proto/meta.c: see proto/meta.h. The order of the checks is memcached's, because only the
 * first error (or, among bad arguments, the last) is answered. */
#include "proto/meta.h"

#include "proto/base64.h"

enum { FLAG_KNOWN = 1, FLAG_ECHO = 2 };

static const struct {
    uint8_t bits;
    uint8_t arg; /* enum meta_arg */
} meta_flags['z' + 1] = {
#define X(letter, arg, echo, help) [letter] = {FLAG_KNOWN | ((echo) ? FLAG_ECHO : 0), arg},
    META_FLAG_TABLE(X)
#undef X
};

/* Reads the argument of flag c; REPLY_NONE or the error. A missing argument is not a number. */
static enum reply parse_argument(struct request *req, char c, const char *p, size_t len)
{
    struct meta_args *m = &req->meta;
    bool some = len > 0;
    switch (c) {
    case 'T':
        return some && proto_i32(p, len, &req->exptime) ? REPLY_NONE : REPLY_META_BAD_TOKEN;
    case 'N':
        return some && proto_i32(p, len, &m->vivify_ttl) ? REPLY_NONE : REPLY_META_BAD_TOKEN;
    case 'R':
        return some && proto_i32(p, len, &m->recache_ttl) ? REPLY_NONE : REPLY_META_BAD_TOKEN;
    case 'C':
        return some && proto_u64(p, len, &req->cas) ? REPLY_NONE : REPLY_META_BAD_TOKEN;
    case 'E':
        return some && proto_u64(p, len, &m->cas_new) ? REPLY_NONE : REPLY_META_BAD_TOKEN;
    case 'D':
        return some && proto_u64(p, len, &req->delta) ? REPLY_NONE : REPLY_META_BAD_DELTA;
    case 'J':
        return some && proto_u64(p, len, &m->initial) ? REPLY_NONE : REPLY_META_BAD_INITIAL;
    case 'F':
        return some && proto_u32(p, len, &req->client_flags) ? REPLY_NONE : REPLY_BAD_FORMAT;
    case 'M':
        m->mode = len > 0 ? *p : ' '; /* no letter is a bad mode, a zero byte is no mode */
        return REPLY_NONE;
    case 'O':
        DEBUG_ASSERT(p[-1] == 'O');
        m->opaque.ptr = p - 1;
        m->opaque.len = (uint32_t)len + 1;
        return REPLY_NONE;
    default:
        return REPLY_NONE;
    }
}

static enum reply decode_key(struct request *req)
{
    DEBUG_ASSERT(req->key_len <= PROTO_KEY_MAX && !req->key_is_binary);
    size_t len = base64_decode(req->key_buf, sizeof(req->key_buf), req->key, req->key_len);
    if (len == 0)
        return REPLY_META_BAD_KEY;
    DEBUG_ASSERT(len <= PROTO_KEY_MAX);
    req->key = req->key_buf;
    req->key_len = (uint32_t)len;
    req->key_is_binary = true;
    return REPLY_NONE;
}

static enum reply parse_flags(struct request *req, unsigned first)
{
    struct meta_args *m = &req->meta;
    enum reply error = REPLY_NONE;
    for (unsigned i = first; i < req->token_count; i++) {
        const char *p = req->tokens[i].ptr;
        unsigned char c = (unsigned char)*p;
        unsigned bits = c <= 'z' ? meta_flags[c].bits : 0;
        if (!(bits & FLAG_KNOWN))
            return REPLY_META_INVALID_FLAG;
        if (m->flags & META_FLAG(c))
            return REPLY_META_DUPLICATE_FLAG;
        if (c == 't')
            m->flags_before_t = m->flags;
        else if (c == 'R')
            m->touch_before_recache = m->flags & META_FLAG('T');
        else if (c == 'T')
            m->touch_after_vivify = m->flags & META_FLAG('N');
        m->flags |= META_FLAG(c);
        DEBUG_ASSERT(m->echo_count < sizeof(m->echo)); /* no flag comes twice */
        if (bits & FLAG_ECHO)
            m->echo[m->echo_count++] = (char)c;
        if (c == 'b') {
            enum reply bad = decode_key(req);
            error = bad != REPLY_NONE ? bad : error;
        } else if (meta_flags[c].arg != META_ARG_NONE) {
            enum reply bad = parse_argument(req, (char)c, p + 1, req->tokens[i].len - 1);
            error = bad != REPLY_NONE ? bad : error;
        }
    }
    return error;
}

/* Replaces the letter of M by the one that struct meta_args documents; false if there is none. */
static bool normalise_mode(struct meta_args *m, enum verb verb)
{
    if (verb == VERB_MS) {
        m->mode = m->mode ? m->mode : 'S';
        return memchr("SEAPR", m->mode, 5) != NULL;
    }
    switch (m->mode) {
    case '\0':
    case 'I':
    case '+':
        m->mode = 'I';
        return true;
    case 'D':
    case '-':
        m->mode = 'D';
        return true;
    default:
        return false;
    }
}

/* The checks that follow once the line is known to have a key (and ms a length). */
static enum reply parse_after_key(struct request *req, unsigned first)
{
    if (req->key_len > PROTO_KEY_MAX)
        return REPLY_BAD_FORMAT;
    if (req->verb == VERB_ME) /* only its flag b counts */
        return proto_token_is(req, 2, "b") && decode_key(req) != REPLY_NONE ? REPLY_BAD_FORMAT
                                                                           : REPLY_NONE;
    if (req->token_count > PROTO_META_TOKENS_MAX)
        return REPLY_META_TOO_MANY_FLAGS;

    enum reply error = parse_flags(req, first);
    if (error != REPLY_NONE)
        return error;
    if (req->verb == VERB_MS || req->verb == VERB_MA) {
        if (!normalise_mode(&req->meta, req->verb))
            return req->verb == VERB_MS ? REPLY_MS_BAD_MODE : REPLY_MA_BAD_MODE;
    } else {
        req->meta.mode = '\0';
    }
    if (req->meta.opaque.len > PROTO_OPAQUE_MAX)
        return REPLY_META_BAD_OPAQUE;
    return REPLY_NONE;
}

enum reply proto_meta_parse(struct request *req, const char *line, const char *end)
{
    req->meta = (struct meta_args){0};
    if (req->verb == VERB_MN)
        return REPLY_NONE;
    DEBUG_ASSERT(verb_info(req->verb)->verb_class == CLASS_META);

    unsigned first = verb_info(req->verb)->min_tokens;
    req->token_count = (uint8_t)proto_tokenize(line, end, req->tokens, PROTO_TOKENS_MAX);
    if (req->token_count < first)
        return REPLY_BAD_FORMAT;
    for (unsigned i = first; i < req->token_count; i++) {
        /* memcached's tokeniser gives up here, before any flag is looked at */
        char c = *req->tokens[i].ptr;
        if (!(c >= 'A' && c <= 'z') && !(c >= '0' && c <= '9'))
            return REPLY_BAD_FORMAT;
    }
    req->key = req->tokens[1].ptr;
    req->key_len = req->tokens[1].len;
    req->delta = 1;
    if (req->verb == VERB_MS) {
        int32_t bytes;
        if (!proto_i32(req->tokens[2].ptr, req->tokens[2].len, &bytes) || bytes < 0 ||
            bytes > PROTO_VALUE_MAX)
            return REPLY_BAD_FORMAT;
        req->value_bytes = (uint32_t)bytes;
    }

    enum reply error = parse_after_key(req, first);
    if (error == REPLY_NONE)
        return REPLY_NONE;
    if (req->verb == VERB_MS)
        req->swallow_bytes = (uint64_t)req->value_bytes + 2;
    if (req->verb == VERB_MA && error != REPLY_MA_BAD_MODE && error != REPLY_META_BAD_OPAQUE)
        return REPLY_MA_BAD_FLAG;
    return error;
}

/* ---- replies ---- */

static const char status_words[META_STATUS_COUNT][2] = {
    [META_HD] = {'H', 'D'}, [META_VA] = {'V', 'A'}, [META_EN] = {'E', 'N'},
    [META_NF] = {'N', 'F'}, [META_NS] = {'N', 'S'}, [META_EX] = {'E', 'X'},
};

#define ECHO_ALWAYS (META_FLAG('O') | META_FLAG('k'))
#define ECHO_MG                                                                                    \
    (ECHO_ALWAYS | META_FLAG('s') | META_FLAG('t') | META_FLAG('c') | META_FLAG('f') |             \
     META_FLAG('l') | META_FLAG('h'))
#define ECHO_MS (ECHO_ALWAYS | META_FLAG('c') | META_FLAG('s'))
#define ECHO_MA (ECHO_ALWAYS | META_FLAG('c') | META_FLAG('t'))

static uint64_t echoed_flags(enum verb verb, enum meta_status status)
{
    bool done = status == META_HD || status == META_VA;
    if (verb == VERB_MS)
        return ECHO_MS;
    if (verb == VERB_MG && done)
        return ECHO_MG;
    if (verb == VERB_MA && done)
        return ECHO_MA;
    return ECHO_ALWAYS;
}

static char *put_key(char *p, const char *key, size_t key_len, bool is_binary)
{
    ASSERT(key_len <= PROTO_KEY_MAX);
    if (is_binary)
        return p + base64_encode(p, key, key_len);
    memcpy(p, key, key_len);
    return p + key_len;
}

static char *put_ttl(char *p, int64_t ttl_sec)
{
    if (ttl_sec >= 0)
        return p + proto_put_u64(p, (uint64_t)ttl_sec);
    memcpy(p, "-1", 2);
    return p + 2;
}

/* One flag after its space. */
static char *put_flag(char *p, char c, const struct request *req, const struct meta_reply *reply)
{
    if (c == 'O') {
        DEBUG_ASSERT(req->meta.opaque.len <= PROTO_OPAQUE_MAX);
        memcpy(p, req->meta.opaque.ptr, req->meta.opaque.len);
        return p + req->meta.opaque.len;
    }
    *p++ = c;
    switch (c) {
    case 's':
        return p + proto_put_u64(p, reply->value_bytes);
    case 't':
        return put_ttl(p, reply->ttl_sec);
    case 'c':
        return p + proto_put_u64(p, reply->cas);
    case 'f':
        return p + proto_put_u64(p, reply->client_flags);
    case 'l':
        return p + proto_put_u64(p, reply->idle_sec);
    case 'h':
        *p++ = reply->hit_before ? '1' : '0';
        return p;
    default:
        ASSERT(c == 'k');
        p = put_key(p, reply->key, reply->key_len, reply->key_is_binary);
        if (reply->key_is_binary) {
            *p++ = ' ';
            *p++ = 'b';
        }
        return p;
    }
}

size_t proto_put_meta_reply(char *out, const struct request *req, const struct meta_reply *reply)
{
    ASSERT(reply->status < META_STATUS_COUNT);
    char *p = out;
    memcpy(p, status_words[reply->status], 2);
    p += 2;
    if (reply->status == META_VA) {
        *p++ = ' ';
        p += proto_put_u64(p, reply->value_bytes);
    }
    uint64_t echoed = echoed_flags(req->verb, reply->status);
    for (unsigned i = 0; i < req->meta.echo_count; i++) {
        char c = req->meta.echo[i];
        if (echoed & META_FLAG(c)) {
            *p++ = ' ';
            p = put_flag(p, c, req, reply);
        }
    }
    if (reply->token_sent) {
        memcpy(p, " Z", 2);
        p += 2;
    }
    if (reply->stale) {
        memcpy(p, " X", 2);
        p += 2;
    }
    if (reply->won) {
        memcpy(p, " W", 2);
        p += 2;
    }
    memcpy(p, "\r\n", 2);
    DEBUG_ASSERT(p + 2 <= out + PROTO_META_REPLY_MAX);
    return (size_t)(p + 2 - out);
}

bool proto_meta_is_hidden(const struct request *req, enum meta_status status)
{
    if (!meta_has(req, 'q'))
        return false;
    switch (req->verb) {
    case VERB_MG:
        return status == META_EN;
    case VERB_MS:
    case VERB_MD:
        return status == META_HD;
    case VERB_MA:
        return status == META_HD || status == META_VA;
    default:
        return false;
    }
}

size_t proto_put_me(char *out, const struct meta_debug *item)
{
    DEBUG_ASSERT(item->key_len > 0);
    memcpy(out, "ME ", 3);
    char *p = put_key(out + 3, item->key, item->key_len, item->key_is_binary);
    memcpy(p, " exp=", 5);
    p = put_ttl(p + 5, item->ttl_sec);
    p += snprintf(p, (size_t)(out + PROTO_META_REPLY_MAX - p),
                  " la=%" PRIu64 " cas=%" PRIu64 " fetch=%s cls=%u size=%" PRIu64 "\r\n",
                  item->idle_sec, item->cas, item->fetched ? "yes" : "no", item->slab_class,
                  item->item_bytes);
    ASSERT(p < out + PROTO_META_REPLY_MAX);
    return (size_t)(p - out);
}
