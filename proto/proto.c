/* proto/proto.c: tables, tokens, numbers and reply lines of proto/proto.h. */
#include "proto/proto.h"

/* This many bytes are compared one by one before memchr is worth its call. */
enum { SHORT_TOKEN_BYTES = 16 };
enum { SAFE_DIGITS = 19 }; /* this many digits can't exceed 64 bits */

static const struct verb_info verb_infos[VERB_COUNT] = {
#define X(name, word, min, class, flags) {word, sizeof(word) - 1, min, class, flags},
    VERB_TABLE(X)
#undef X
};

static_assert(VERB_COUNT <= UINT8_MAX, "a verb fits struct opcode of proto/bin.c");
static_assert('z' - 'A' < 64, "META_FLAG fits a word");

static const struct {
    const char *line;
    size_t len;
} reply_lines[REPLY_COUNT] = {
#define X(name, text) [name] = {text "\r\n", sizeof(text "\r\n") - 1},
    REPLY_TABLE(X)
#undef X
};

const struct verb_info *verb_info(enum verb verb)
{
    ASSERT(verb < VERB_COUNT);
    return &verb_infos[verb];
}

enum verb verb_find(const char *word, size_t len)
{
    if (len == 0)
        return VERB_UNKNOWN;
    for (unsigned v = 0; v < VERB_COUNT; v++) {
        const struct verb_info *info = &verb_infos[v];
        if (info->word_len != len || info->word[0] != word[0] || memcmp(info->word, word, len) != 0)
            continue;
#ifndef EXTANT_DEBUG
        if (info->flags & VF_DEBUG)
            return VERB_UNKNOWN;
#endif
        return (enum verb)v;
    }
    return VERB_UNKNOWN;
}

const char *reply_line(enum reply reply, size_t *len)
{
    ASSERT(reply < REPLY_COUNT);
    *len = reply == REPLY_NONE ? 0 : reply_lines[reply].len;
    return reply_lines[reply].line;
}

void proto_request_clear(struct request *req)
{
    memset(req, 0, offsetof(struct request, meta));
    req->meta.flags = 0;
    req->verb = VERB_UNKNOWN;
    req->value_end_bytes = 2;
}

#ifdef EXTANT_DEBUG
static bool is_within(const char *p, size_t len, const char *from, const char *end)
{
    return p >= from && len <= (size_t)(end - from) && (size_t)(p - from) <= (size_t)(end - from) - len;
}

void proto_request_assert(const struct request *req, const char *buf, size_t consumed)
{
    const char *end = buf + consumed;
    bool is_packet = req->dialect == DIALECT_BINARY;
    ASSERT(req->verb <= VERB_UNKNOWN && req->dialect < DIALECT_COUNT);
    ASSERT(req->error < REPLY_COUNT && req->deferred_error < REPLY_COUNT);
    ASSERT(req->token_count <= PROTO_TOKENS_MAX);
    ASSERT(req->value_end_bytes == (is_packet ? 0 : 2));
    for (unsigned i = 0; !is_packet && i < req->token_count; i++)
        ASSERT(req->tokens[i].len > 0 && is_within(req->tokens[i].ptr, req->tokens[i].len, buf, end));
    if (req->error != REPLY_NONE)
        return;
    const struct verb_info *info = verb_info(req->verb);
    ASSERT(req->key_len <= PROTO_KEY_MAX && req->value_bytes <= PROTO_VALUE_MAX);
    ASSERT(req->key_len == 0 || req->key == req->key_buf || is_within(req->key, req->key_len, buf, end));
    ASSERT(req->value_bytes == 0 || (info->flags & VF_VALUE));
    ASSERT(!req->close_after && (req->swallow_bytes == 0 || info->verb_class == CLASS_LOGIN));
    ASSERT((info->verb_class == CLASS_META && !is_packet) == (req->dialect == DIALECT_META));
    if (info->flags & VF_KEYS)
        ASSERT(is_within(req->keys.next, (size_t)(req->keys.end - req->keys.next), buf, end));
    else if (is_packet || info->verb_class != CLASS_ADMIN)
        ASSERT(req->key_len > 0 || req->verb == VERB_MN || info->verb_class >= CLASS_ADMIN);
    if (req->dialect == DIALECT_META) {
        ASSERT(req->meta.echo_count <= PROTO_META_TOKENS_MAX && req->meta.opaque.len <= PROTO_OPAQUE_MAX);
        ASSERT((req->meta.mode != '\0') == (req->verb == VERB_MS || req->verb == VERB_MA));
    }
}
#endif

void proto_request_copy(struct request *dst, const struct request *src)
{
    *dst = *src;
    if (src->key == src->key_buf)
        dst->key = dst->key_buf;
}

/* End of the token that starts at p: the next space, or end. */
static inline const char *token_end(const char *p, const char *end)
{
    DEBUG_ASSERT(p <= end);
    const char *stop = end - p > SHORT_TOKEN_BYTES ? p + SHORT_TOKEN_BYTES : end;
    while (p < stop && *p != ' ')
        p++;
    if (p < stop || p == end)
        return p;
    p = memchr(p, ' ', (size_t)(end - p));
    return p ? p : end;
}

static inline const char *skip_spaces(const char *p, const char *end)
{
    while (p < end && *p == ' ')
        p++;
    return p;
}

int proto_next_key(struct key_cursor *cursor, const char **key, uint32_t *len)
{
    DEBUG_ASSERT(cursor->next <= cursor->end);
    if (unlikely(cursor->whole)) {
        *key = cursor->next;
        *len = (uint32_t)(cursor->end - cursor->next);
        cursor->next = cursor->end;
        return *len > 0;
    }
    const char *p = skip_spaces(cursor->next, cursor->end);
    if (p == cursor->end) {
        cursor->next = p;
        return 0;
    }
    const char *stop = token_end(p, cursor->end);
    DEBUG_ASSERT(stop > p && stop <= cursor->end);
    cursor->next = stop;
    if (stop - p > PROTO_KEY_MAX)
        return -1;
    *key = p;
    *len = (uint32_t)(stop - p);
    return 1;
}

unsigned proto_tokenize(const char *p, const char *end, struct proto_token *tokens, unsigned max)
{
    unsigned count = 0;
    DEBUG_ASSERT(p <= end);
    for (p = skip_spaces(p, end); p < end && count < max; count++) {
        const char *stop = token_end(p, end);
        DEBUG_ASSERT(stop > p);
        tokens[count] = (struct proto_token){p, (uint32_t)(stop - p)};
        p = stop == end ? end : skip_spaces(stop + 1, end);
    }
    return count;
}

bool proto_token_is(const struct request *req, unsigned i, const char *word)
{
    return i < req->token_count && strlen(word) == req->tokens[i].len &&
           memcmp(req->tokens[i].ptr, word, req->tokens[i].len) == 0;
}

bool proto_token_abbreviates(const struct request *req, unsigned i, const char *word)
{
    return i < req->token_count && req->tokens[i].len <= strlen(word) &&
           memcmp(req->tokens[i].ptr, word, req->tokens[i].len) == 0;
}

bool proto_token_u32(const struct request *req, unsigned i, uint32_t *out)
{
    return i < req->token_count && proto_u32(req->tokens[i].ptr, req->tokens[i].len, out);
}

bool proto_token_i32(const struct request *req, unsigned i, int32_t *out)
{
    return i < req->token_count && proto_i32(req->tokens[i].ptr, req->tokens[i].len, out);
}

bool proto_token_i64(const struct request *req, unsigned i, int64_t *out)
{
    return i < req->token_count && proto_i64(req->tokens[i].ptr, req->tokens[i].len, out);
}

static inline bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

bool proto_token_double(const struct request *req, unsigned i, double *out)
{
    char text[32];
    if (i >= req->token_count || req->tokens[i].len >= sizeof(text))
        return false;
    memcpy(text, req->tokens[i].ptr, req->tokens[i].len);
    text[req->tokens[i].len] = '\0';
    char *stop;
    errno = 0;
    double d = strtod(text, &stop);
    if (errno == ERANGE || stop == text || (*stop != '\0' && !is_space(*stop)))
        return false;
    *out = d;
    return true;
}

/* All len bytes as a decimal number of at most `limit`. */
static inline bool digits_u64(const char *p, size_t len, uint64_t limit, uint64_t *out)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < len; i++) {
        unsigned digit = (unsigned)(unsigned char)p[i] - '0';
        if (digit > 9 || (i >= SAFE_DIGITS && sum > (UINT64_MAX - digit) / 10))
            return false;
        sum = sum * 10 + digit;
    }
    *out = sum;
    return sum <= limit;
}

bool proto_u32(const char *p, size_t len, uint32_t *out)
{
    uint64_t v;
    if (len > 11 || !digits_u64(p, len, UINT32_MAX, &v))
        return false;
    *out = (uint32_t)v;
    return true;
}

bool proto_u64(const char *p, size_t len, uint64_t *out)
{
    return len <= 22 && digits_u64(p, len, UINT64_MAX, out);
}

bool proto_i32(const char *p, size_t len, int32_t *out)
{
    int64_t v;
    if (len > 11 || !proto_i64(p, len, &v) || v < INT32_MIN || v > INT32_MAX)
        return false;
    *out = (int32_t)v;
    return true;
}

bool proto_i64(const char *p, size_t len, int64_t *out)
{
    uint64_t v;
    if (len > 22)
        return false;
    bool negative = len > 0 && p[0] == '-';
    uint64_t limit = (uint64_t)INT64_MAX + negative;
    if (!digits_u64(p + negative, len - negative, limit, &v))
        return false;
    *out = negative ? (int64_t)(0 - v) : (int64_t)v;
    return true;
}

/* White space, sign, digits, and an end as lenient numbers allow it. */
static bool lenient_number(const char *p, size_t len, bool *negative, uint64_t *magnitude)
{
    const char *end = p + len;
    if (len == 1 && *p >= '0' && *p <= '9') { /* as flags and times mostly are */
        *negative = false;
        *magnitude = (uint64_t)(*p - '0');
        return true;
    }
    while (p < end && is_space(*p))
        p++;
    *negative = p < end && *p == '-';
    if (p < end && (*p == '-' || *p == '+'))
        p++;
    const char *digits = p;
    while (p < end && *p >= '0' && *p <= '9')
        p++;
    if (p == digits || (p < end && *p != '\0' && !is_space(*p)))
        return false;
    return digits_u64(digits, (size_t)(p - digits), UINT64_MAX, magnitude);
}

bool proto_lenient_u64(const char *p, size_t len, uint64_t *out)
{
    bool negative;
    uint64_t v;
    if (!lenient_number(p, len, &negative, &v))
        return false;
    if (negative) {
        v = 0 - v;
        if (v > INT64_MAX)
            return false;
    }
    *out = v;
    return true;
}

bool proto_lenient_u32(const char *p, size_t len, uint32_t *out)
{
    uint64_t v;
    if (!proto_lenient_u64(p, len, &v))
        return false;
    *out = (uint32_t)v;
    return true;
}

bool proto_lenient_i32(const char *p, size_t len, int32_t *out)
{
    bool negative;
    uint64_t v;
    if (!lenient_number(p, len, &negative, &v) || v > (uint64_t)INT64_MAX + negative)
        return false;
    *out = (int32_t)(uint32_t)(negative ? 0 - v : v);
    return true;
}

size_t proto_put_u64(char *out, uint64_t v)
{
    char text[PROTO_U64_TEXT_MAX];
    char *p = text + sizeof(text);
    if (v < 10) {
        *out = (char)('0' + v);
        return 1;
    }
    do {
        *--p = (char)('0' + v % 10);
        v /= 10;
    } while (v != 0);
    size_t len = (size_t)(text + sizeof(text) - p);
    DEBUG_ASSERT(len > 0 && len <= PROTO_U64_TEXT_MAX);
    memcpy(out, p, len);
    return len;
}

size_t proto_put_value_header(char *out, const char *key, size_t key_len, uint32_t client_flags,
                              uint32_t value_bytes, bool with_cas, uint64_t cas)
{
    ASSERT(key_len <= PROTO_KEY_MAX);
    char *p = out;
    memcpy(p, "VALUE ", 6);
    p += 6;
    memcpy(p, key, key_len);
    p += key_len;
    *p++ = ' ';
    p += proto_put_u64(p, client_flags);
    *p++ = ' ';
    p += proto_put_u64(p, value_bytes);
    if (with_cas) {
        *p++ = ' ';
        p += proto_put_u64(p, cas);
    }
    *p++ = '\r';
    *p++ = '\n';
    DEBUG_ASSERT(p <= out + PROTO_VALUE_HEADER_MAX);
    return (size_t)(p - out);
}

size_t proto_put_uri(char *out, const char *key, size_t key_len)
{
    static const char hex[] = "0123456789ABCDEF";
    char *p = out;
    DEBUG_ASSERT(key_len <= PROTO_KEY_MAX);
    for (size_t i = 0; i < key_len; i++) {
        unsigned char c = (unsigned char)key[i];
        if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
            c == '-' || c == '.' || c == '_' || c == '~') {
            *p++ = (char)c;
        } else {
            *p++ = '%';
            *p++ = hex[c >> 4];
            *p++ = hex[c & 15];
        }
    }
    return (size_t)(p - out);
}

bool proto_key_is_word(const char *key, size_t key_len)
{
    return !memchr(key, ' ', key_len) && !memchr(key, '\n', key_len);
}

size_t proto_put_key(char *out, const char *key, size_t key_len)
{
    for (size_t i = 0; i < key_len; i++)
        if ((unsigned char)key[i] <= ' ' || key[i] == 0x7f)
            return proto_put_uri(out, key, key_len);
    memcpy(out, key, key_len);
    return key_len;
}
