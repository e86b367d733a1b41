/* proto/text.c: see proto/text.h. A line is split once; classic commands are read here, meta
 * commands by proto/meta.c; administrative commands keep their tokens for the command layer,
 * which checks permissions. */
#include "proto/text.h"

#include "proto/meta.h"

enum { SHORTEST_LINE = 4, AUTH_TOKENS = 5 };

static bool is_long_get(const char *buf, size_t len)
{
    size_t i = 0;
    while (i < len && buf[i] == ' ')
        i++;
    if (i > PROTO_LEADING_SPACES_MAX)
        return false;
    return (len - i >= 4 && memcmp(buf + i, "get ", 4) == 0) ||
           (len - i >= 5 && memcmp(buf + i, "gets ", 5) == 0);
}

static bool token_equals(const struct proto_token *t, const char *word, size_t len)
{
    return t->len == len && memcmp(t->ptr, word, len) == 0;
}

static bool last_token_is_noreply(const struct request *req)
{
    return req->token_count > 0 && token_equals(&req->tokens[req->token_count - 1], "noreply", 7);
}

/* get K.., gets K.., gat E K.., gats E K..: p is what follows the command. */
static enum reply parse_get(struct request *req, unsigned flags, const char *p, const char *end)
{
    struct proto_token first;
    req->keys = (struct key_cursor){p, end, false};
    if (flags & VF_TOUCH) {
        if (proto_tokenize(p, end, &first, 1) == 0)
            return REPLY_BAD_FORMAT;
        req->keys.next = first.ptr + first.len;
    }
    for (p = req->keys.next; p < end && *p == ' ';)
        p++;
    if (p == end)
        return REPLY_BAD_FORMAT;
    if ((flags & VF_TOUCH) && !proto_i32(first.ptr, first.len, &req->exptime))
        return REPLY_BAD_EXPTIME;
    return REPLY_NONE;
}

/* set|add|replace|append|prepend K FLAGS EXP BYTES, and cas with one more */
static enum reply parse_store(struct request *req)
{
    const struct proto_token *t = req->tokens;
    int32_t bytes;
    DEBUG_ASSERT(req->token_count > 4);
    if (!proto_i32(t[4].ptr, t[4].len, &bytes) || bytes < 0 || bytes > PROTO_VALUE_MAX) {
        req->noreply = false; /* memcached hasn't seen it yet */
        return REPLY_BAD_FORMAT;
    }
    req->value_bytes = (uint32_t)bytes;
    bool good = req->key_len <= PROTO_KEY_MAX &&
                proto_lenient_u32(t[2].ptr, t[2].len, &req->client_flags) &&
                proto_lenient_i32(t[3].ptr, t[3].len, &req->exptime);
    if (good && req->verb == VERB_CAS)
        good = req->token_count > 5 && proto_u64(t[5].ptr, t[5].len, &req->cas);
    if (good)
        return REPLY_NONE;
    req->swallow_bytes = (uint64_t)bytes + 2;
    return REPLY_BAD_FORMAT;
}

static enum reply parse_classic(struct request *req, unsigned flags)
{
    DEBUG_ASSERT(req->token_count >= verb_info(req->verb)->min_tokens);
    req->key = req->tokens[1].ptr;
    req->key_len = req->tokens[1].len;
    if (flags & VF_VALUE)
        return parse_store(req);
    if (req->key_len > PROTO_KEY_MAX)
        return REPLY_BAD_FORMAT;
    const struct proto_token *arg = &req->tokens[2];
    switch (req->verb) {
    case VERB_DELETE:
        /* memcached ignores what follows the key; but four words are more than a typing error,
         * and memccapable expects a refusal */
        return req->token_count > 5 ? REPLY_ERROR : REPLY_NONE;
    case VERB_TOUCH:
        return proto_i32(arg->ptr, arg->len, &req->exptime) ? REPLY_NONE : REPLY_BAD_EXPTIME;
    default:
        ASSERT(req->verb == VERB_INCR || req->verb == VERB_DECR);
        return proto_u64(arg->ptr, arg->len, &req->delta) ? REPLY_NONE : REPLY_BAD_DELTA;
    }
}

/* The arguments that don't depend on settings; the rest stays in tokens[]. */
static enum reply parse_admin(struct request *req)
{
    DEBUG_ASSERT(verb_info(req->verb)->verb_class == CLASS_ADMIN);
    switch (req->verb) {
    case VERB_VERBOSITY:
        return proto_token_u32(req, 1, &req->number) ? REPLY_NONE : REPLY_BAD_FORMAT;
    case VERB_CACHE_MEMLIMIT:
        return proto_token_u32(req, 1, &req->number) ? REPLY_NONE : REPLY_ERROR;
    case VERB_FLUSH_ALL:
        if (req->token_count != (req->noreply ? 2 : 1) && !proto_token_i32(req, 1, &req->exptime))
            req->deferred_error = REPLY_BAD_EXPTIME;
        return REPLY_NONE;
    case VERB_SHUTDOWN:
        if (req->token_count > 2 ||
            (req->token_count == 2 && !proto_token_abbreviates(req, 1, "graceful")))
            req->deferred_error = REPLY_SHUTDOWN_BAD_MODE;
        return REPLY_NONE;
    default:
        return REPLY_NONE;
    }
}

/* The command that the line begins with; *tokenised if the tokens are set. memcached looks
 * for the late commands only if no other fits, in a line that it has already split, so
 * only these may follow spaces. */
static enum verb find_verb(struct request *req, const char *line, const char *end,
                           size_t *word_len, bool *tokenised)
{
    const char *p = line;
    while (p < end && *p != ' ')
        p++;
    *word_len = (size_t)(p - line);
    *tokenised = false;
    enum verb verb = verb_find(line, *word_len);
    if (verb != VERB_UNKNOWN)
        return verb;

    *tokenised = true;
    req->token_count = (uint8_t)proto_tokenize(line, end, req->tokens, PROTO_TOKENS_MAX);
    if (req->token_count == 0)
        return VERB_UNKNOWN;
    verb = verb_find(req->tokens[0].ptr, req->tokens[0].len);
    if (verb != VERB_UNKNOWN && !(verb_info(verb)->flags & VF_LATE))
        return VERB_UNKNOWN;
    return verb;
}

static enum parse_result fail(struct request *req, enum reply error)
{
    DEBUG_ASSERT(error != REPLY_NONE);
    req->error = error;
    return PARSE_ERROR;
}

static enum parse_result parse_unknown(struct request *req)
{
    DEBUG_ASSERT(req->verb == VERB_UNKNOWN);
    if (req->token_count > 0) {
        const struct proto_token *last = &req->tokens[req->token_count - 1];
        if (last->len >= 5 && memcmp(last->ptr, "HTTP/", 5) == 0)
            return PARSE_CLOSE;
    }
    req->noreply = last_token_is_noreply(req);
    return fail(req, REPLY_ERROR);
}

/* The line of `consumed` bytes at buf; end is where its line end begins. */
static ALWAYS_INLINE enum parse_result parse_line(const char *buf, const char *end, size_t consumed,
                                                  struct request *req)
{
    proto_request_clear(req);
    if (consumed < SHORTEST_LINE)
        return fail(req, REPLY_BAD_FORMAT);

    size_t word_len;
    bool tokenised;
    req->verb = find_verb(req, buf, end, &word_len, &tokenised);
    if (req->verb == VERB_UNKNOWN)
        return parse_unknown(req);
    const struct verb_info *info = verb_info(req->verb);

    enum reply error;
    if (info->flags & VF_KEYS) {
        error = parse_get(req, info->flags, buf + word_len, end);
    } else if (info->verb_class == CLASS_META) {
        req->dialect = DIALECT_META;
        error = proto_meta_parse(req, buf, end);
    } else {
        if (!tokenised)
            req->token_count = (uint8_t)proto_tokenize(buf, end, req->tokens, PROTO_TOKENS_MAX);
        if (req->token_count < info->min_tokens)
            return fail(req, REPLY_BAD_FORMAT);
        req->noreply = (info->flags & VF_NOREPLY) && last_token_is_noreply(req);
        error = info->verb_class == CLASS_ADMIN ? parse_admin(req)
                                                : parse_classic(req, info->flags);
    }
    return error == REPLY_NONE ? PARSE_OK : fail(req, error);
}

/* Where the line at buf ends, before its \r\n; *consumed includes that. False: it is not complete. */
static ALWAYS_INLINE bool find_line(const char *buf, size_t len, const char **end, size_t *consumed)
{
    *consumed = 0;
    *end = len > 0 ? memchr(buf, '\n', len) : NULL;
    if (!*end)
        return false;
    *consumed = (size_t)(*end + 1 - buf);
    DEBUG_ASSERT(*consumed <= len);
    if (*end > buf && (*end)[-1] == '\r')
        (*end)--;
    return true;
}

enum parse_result proto_parse_line(const char *buf, size_t len, size_t *consumed,
                                   struct request *req)
{
    const char *end;
    if (!find_line(buf, len, &end, consumed))
        return len > PROTO_LINE_MAX && !is_long_get(buf, len) ? PARSE_CLOSE : PARSE_NEED_MORE;
    enum parse_result result = parse_line(buf, end, *consumed, req);
    DEBUG_ASSERT((result == PARSE_ERROR) == (req->error != REPLY_NONE) || result == PARSE_CLOSE);
    if (result != PARSE_CLOSE)
        proto_request_assert(req, buf, *consumed);
    return result;
}

enum parse_result proto_parse_auth(const char *buf, size_t len, size_t *consumed,
                                   uint32_t *value_bytes, enum reply *error)
{
    const char *end;
    if (!find_line(buf, len, &end, consumed))
        return len > PROTO_LINE_MAX ? PARSE_CLOSE : PARSE_NEED_MORE;

    struct proto_token tokens[AUTH_TOKENS];
    if (proto_tokenize(buf, end, tokens, AUTH_TOKENS) < AUTH_TOKENS ||
        !token_equals(&tokens[0], "set", 3) ||
        !proto_u32(tokens[4].ptr, tokens[4].len, value_bytes)) {
        *error = REPLY_AUTH_NEEDED;
        return PARSE_ERROR;
    }
    if (*value_bytes > PROTO_AUTH_MAX) {
        *error = REPLY_AUTH_TOO_LONG;
        return PARSE_ERROR;
    }
    return PARSE_OK;
}

/* The words between the key and the length of the value; 0: no value follows. */
static unsigned words_before_length(const char *word, size_t len)
{
    DEBUG_ASSERT(len > 0);
    enum verb verb = verb_find(word, len);
    if (verb == VERB_UNKNOWN || !(verb_info(verb)->flags & VF_VALUE))
        return 0;
    return verb_info(verb)->verb_class == CLASS_META ? 1 : 3;
}

/* The number that is the nth word from p on; 0 if it isn't one, or the buffer ends in it. */
static uint32_t peek_number(const unsigned char *p, const unsigned char *end, unsigned nth)
{
    uint32_t n = 0;
    for (; nth > 0; nth--) {
        while (p < end && *p > ' ')
            p++;
        while (p < end && *p == ' ')
            p++;
    }
    while (p < end && *p >= '0' && *p <= '9' && n < UINT32_MAX / 100)
        n = n * 10 + (uint32_t)(*p++ - '0');
    return p < end && *p <= ' ' ? n : 0;
}

uint32_t proto_peek_key(const char *buf, size_t len, const char **key, uint32_t *value_bytes)
{
    enum { VERB_MAX = 8 };
    const unsigned char *verb = (const unsigned char *)buf, *p = verb, *end = p + len;
    const unsigned char *verb_end = p + min_u64(len, VERB_MAX + 1);
    *value_bytes = 0;
    while (p < verb_end && *p > ' ')
        p++;
    if (p == verb_end || *p != ' ' || p == verb)
        return 0;
    unsigned words = words_before_length(buf, (size_t)(p - verb));
    const unsigned char *word = ++p, *word_end = p + min_u64((size_t)(end - p), PROTO_KEY_MAX);
    while (p < word_end && *p > ' ')
        p++;
    if (words > 0)
        *value_bytes = peek_number(p, end, words);
    DEBUG_ASSERT(p <= end && p - word <= PROTO_KEY_MAX);
    *key = (const char *)word;
    return (uint32_t)(p - word);
}
