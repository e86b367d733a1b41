/* proto/bin.c: see proto/bin.h. Every length of a packet is checked before the bytes that it measures are
 * read. */
#include "proto/bin.h"

enum { OPCODES = 0x25, OPCODE_TOUCH = 0x1c };

struct opcode {
    bool known;
    uint8_t verb;   /* enum verb */
    uint8_t extras; /* bytes */
    uint8_t shape;  /* enum bin_shape */
};

static const struct opcode opcodes[OPCODES] = {
#define X(opcode, verb, extras, shape) [opcode] = {true, verb, extras, shape},
    BIN_TABLE(X)
#undef X
};

static_assert(BIN_HEAD_BYTES == 24, "the head of a packet");

static uint16_t read_u16(const char *p)
{
    const unsigned char *b = (const unsigned char *)p;
    return (uint16_t)(b[0] << 8 | b[1]);
}

static uint32_t read_u32(const char *p)
{
    return (uint32_t)read_u16(p) << 16 | read_u16(p + 2);
}

static uint64_t read_u64(const char *p)
{
    return (uint64_t)read_u32(p) << 32 | read_u32(p + 4);
}

static void write_u16(char *p, uint32_t v)
{
    p[0] = (char)(v >> 8);
    p[1] = (char)v;
}

static void write_u32(char *p, uint32_t v)
{
    write_u16(p, v >> 16);
    write_u16(p + 2, v);
}

static void write_u64(char *p, uint64_t v)
{
    write_u32(p, (uint32_t)(v >> 32));
    write_u32(p + 4, (uint32_t)v);
}

/* ---- requests ---- */

/* Seconds as an unsigned 32-bit number, which cannot say "at once". */
static int32_t exptime_of(uint32_t raw)
{
    return raw > INT32_MAX ? INT32_MAX : (int32_t)raw;
}

static enum parse_result fail(struct request *req, enum reply error, bool close_after)
{
    DEBUG_ASSERT(error != REPLY_NONE);
    req->error = error;
    req->close_after = close_after;
    return PARSE_ERROR;
}

static void add_token(struct request *req, const char *p, size_t len)
{
    DEBUG_ASSERT(req->token_count < PROTO_TOKENS_MAX);
    req->tokens[req->token_count++] = (struct proto_token){p, (uint32_t)len};
}

/* The key of a stat becomes the words of `stats`. memcached accepts prefixes of some and only whole words of
 * others, and has fewer than in the text protocol. */
static enum reply parse_stat(struct request *req)
{
    static const struct {
        const char *key, *word, *argument;
        bool whole;
    } known[] = {
        {"reset", "reset", NULL, false},        {"settings", "settings", NULL, false},
        {"detail dump", "detail", "dump", false}, {"detail on", "detail", "on", false},
        {"detail off", "detail", "off", false}, {"items", "items", NULL, true},
        {"slabs", "slabs", NULL, true},         {"sizes", "sizes", NULL, true},
        {"extant", "extant", NULL, true},
    };
    add_token(req, "stats", 5);
    if (req->key_len == 0)
        return REPLY_NONE;
    for (size_t i = 0; i < ARRAY_COUNT(known); i++) {
        size_t len = strlen(known[i].key);
        if (req->key_len < len || memcmp(req->key, known[i].key, len) != 0 || (known[i].whole && req->key_len > len))
            continue;
        add_token(req, known[i].word, strlen(known[i].word));
        if (known[i].argument)
            add_token(req, known[i].argument, strlen(known[i].argument));
        return REPLY_NONE;
    }
    return REPLY_NOT_FOUND;
}

/* Extras of the opcode's length, or none; has_shape() has checked it. */
static void parse_extras(struct request *req, const char *extras, size_t bytes)
{
    DEBUG_ASSERT(bytes == 0 || bytes == opcodes[req->bin.opcode].extras);
    switch (req->verb) {
    case VERB_SET:
    case VERB_ADD:
    case VERB_REPLACE:
        req->client_flags = read_u32(extras);
        req->exptime = exptime_of(read_u32(extras + 4));
        break;
    case VERB_INCR:
    case VERB_DECR:
        req->delta = read_u64(extras);
        req->initial = read_u64(extras + 8);
        req->makes_number = read_u32(extras + 16) != BIN_NO_INITIAL;
        req->exptime = exptime_of(read_u32(extras + 16));
        break;
    case VERB_GAT:
        req->exptime = exptime_of(read_u32(extras));
        break;
    case VERB_FLUSH_ALL:
        req->exptime = bytes > 0 ? exptime_of(read_u32(extras)) : 0;
        break;
    case VERB_VERBOSITY:
        req->number = read_u32(extras);
        break;
    default:
        break;
    }
}

static bool has_shape(const struct opcode *op, size_t extras, size_t key, uint32_t value)
{
    if (extras != op->extras && !(extras == 0 && (op->shape & BIN_EXTRAS_MAY)))
        return false;
    if (key > 0 ? !(op->shape & BIN_KEY) : (op->shape & BIN_KEY) && !(op->shape & BIN_KEY_MAY))
        return false;
    return value == 0 || (op->shape & BIN_VALUE);
}

/* A log-in's whole body is parsed at once; a body that is too long for that is skipped. */
static enum parse_result parse_login(struct request *req, const char *value, uint32_t value_bytes,
                                     size_t left, size_t *consumed)
{
    DEBUG_ASSERT(req->token_count == 0);
    if (value_bytes > PROTO_AUTH_MAX) {
        req->swallow_bytes = value_bytes;
        return PARSE_OK;
    }
    if (left < value_bytes) {
        *consumed = 0;
        return PARSE_NEED_MORE;
    }
    *consumed += value_bytes;
    add_token(req, value, value_bytes);
    return PARSE_OK;
}

static enum parse_result parse_packet(const char *buf, size_t len, size_t *consumed, struct request *req)
{
    *consumed = 0;
    if (len > 0 && (unsigned char)buf[0] != BIN_MAGIC_ASK)
        return PARSE_CLOSE;
    if (len < BIN_HEAD_BYTES)
        return PARSE_NEED_MORE;
    size_t key_bytes = read_u16(buf + 2), extras_bytes = (unsigned char)buf[4];
    uint32_t body_bytes = read_u32(buf + 8);
    size_t head_bytes = BIN_HEAD_BYTES + extras_bytes + key_bytes;
    if (len < head_bytes)
        return PARSE_NEED_MORE;
    proto_request_clear(req);
    req->dialect = DIALECT_BINARY;
    req->value_end_bytes = 0;
    req->bin.opcode = (uint8_t)buf[1];
    memcpy(&req->bin.opaque, buf + 12, sizeof(req->bin.opaque));
    *consumed = head_bytes;
    if (extras_bytes + key_bytes > body_bytes)
        return fail(req, REPLY_UNKNOWN_COMMAND, true);
    uint32_t value_bytes = body_bytes - (uint32_t)(extras_bytes + key_bytes);
    const struct opcode *op = req->bin.opcode < OPCODES ? &opcodes[req->bin.opcode] : NULL;
    if (op && op->known)
        req->verb = (enum verb)op->verb;
    if (key_bytes > PROTO_KEY_MAX)
        return fail(req, REPLY_BAD_ARGUMENTS, true);
    bool fits = req->verb != VERB_UNKNOWN && has_shape(op, extras_bytes, key_bytes, value_bytes);
    if (req->verb == VERB_UNKNOWN || (!fits && (op->shape & BIN_ELSE_UNKNOWN))) {
        req->swallow_bytes = value_bytes;
        return fail(req, REPLY_UNKNOWN_COMMAND, false);
    }
    req->noreply = op->shape & BIN_QUIET;
    if (!fits)
        return fail(req, REPLY_BAD_ARGUMENTS, true);
    req->key = buf + BIN_HEAD_BYTES + extras_bytes;
    req->key_len = (uint32_t)key_bytes;
    req->cas = read_u64(buf + 16);
    req->with_cas = req->cas != 0;
    req->without_value = req->bin.opcode == OPCODE_TOUCH;
    parse_extras(req, buf + BIN_HEAD_BYTES, extras_bytes);

    unsigned flags = verb_info(req->verb)->flags;
    if (verb_info(req->verb)->verb_class == CLASS_LOGIN)
        return parse_login(req, buf + head_bytes, value_bytes, len - head_bytes, consumed);
    if (flags & VF_KEYS)
        req->keys = (struct key_cursor){req->key, req->key + key_bytes, true};
    if (value_bytes > PROTO_VALUE_MAX) {
        req->swallow_bytes = value_bytes;
        return fail(req, REPLY_TOO_LARGE, false);
    }
    req->value_bytes = value_bytes;
    enum reply error = req->verb == VERB_STATS ? parse_stat(req) : REPLY_NONE;
    return error == REPLY_NONE ? PARSE_OK : fail(req, error, false);
}

enum parse_result proto_parse_bin(const char *buf, size_t len, size_t *consumed,
                                  struct request *req)
{
    enum parse_result result = parse_packet(buf, len, consumed, req);
    DEBUG_ASSERT(*consumed <= len && (*consumed == 0) == (result == PARSE_NEED_MORE || result == PARSE_CLOSE));
    if (*consumed > 0) {
        DEBUG_ASSERT((result == PARSE_ERROR) == (req->error != REPLY_NONE));
        proto_request_assert(req, buf, *consumed);
    }
    return result;
}

uint32_t proto_peek_bin(const char *buf, size_t len, const char **key, uint64_t *packet_bytes)
{
    *packet_bytes = 0;
    if (len < BIN_HEAD_BYTES || (unsigned char)buf[0] != BIN_MAGIC_ASK)
        return 0;
    uint32_t key_bytes = read_u16(buf + 2), extras_bytes = (unsigned char)buf[4];
    *packet_bytes = BIN_HEAD_BYTES + (uint64_t)read_u32(buf + 8);
    if (key_bytes > PROTO_KEY_MAX || len < BIN_HEAD_BYTES + extras_bytes + key_bytes)
        return 0;
    *key = buf + BIN_HEAD_BYTES + extras_bytes;
    DEBUG_ASSERT(*key + key_bytes <= buf + len);
    return key_bytes;
}

/* ---- answers ---- */

/* Status and text of a fixed reply in this protocol. */
static enum bin_status status_of(enum reply reply, const char **text)
{
    static const struct {
        const char *text;
        enum bin_status status;
    } known[REPLY_COUNT] = {
        [REPLY_NONE] = {"", BIN_OK},
        [REPLY_STORED] = {"", BIN_OK},
        [REPLY_DELETED] = {"", BIN_OK},
        [REPLY_TOUCHED] = {"", BIN_OK},
        [REPLY_OK] = {"", BIN_OK},
        [REPLY_END] = {"", BIN_OK},
        [REPLY_RESET] = {"", BIN_OK},
        [REPLY_MN] = {"", BIN_OK},
        [REPLY_VERSION] = {MEMCACHED_LEVEL, BIN_OK},
        [REPLY_SASL_MECHS] = {"PLAIN", BIN_OK},
        [REPLY_SASL_DONE] = {"Authenticated", BIN_OK},
        [REPLY_SASL_CONTINUE] = {"", BIN_AUTH_CONTINUE},
        [REPLY_NOT_FOUND] = {"Not found", BIN_NOT_FOUND},
        [REPLY_EXISTS] = {"Data exists for key.", BIN_EXISTS},
        [REPLY_TOO_LARGE] = {"Too large.", BIN_TOO_LARGE},
        [REPLY_NOT_STORED] = {"Not stored.", BIN_NOT_STORED},
        [REPLY_NON_NUMERIC] = {"Non-numeric server-side value for incr or decr", BIN_NON_NUMERIC},
        [REPLY_AUTH_FAILED] = {"Auth failure.", BIN_AUTH_ERROR},
        [REPLY_AUTH_NEEDED] = {"Auth failure.", BIN_AUTH_ERROR},
        [REPLY_FLUSH_DENIED] = {"Auth failure.", BIN_AUTH_ERROR},
        [REPLY_STATS_DETAIL_DENIED] = {"Auth failure.", BIN_AUTH_ERROR},
        [REPLY_UNKNOWN_COMMAND] = {"Unknown command", BIN_UNKNOWN_COMMAND},
        [REPLY_ERROR] = {"Unknown command", BIN_UNKNOWN_COMMAND},
        [REPLY_OOM_STORING] = {"Out of memory allocating item", BIN_NO_MEMORY},
        [REPLY_OOM] = {"Out of memory incrementing value", BIN_NO_MEMORY},
        [REPLY_OOM_NEW_ITEM] = {"Out of memory allocating new item", BIN_NO_MEMORY},
        [REPLY_OOM_GET] = {"Out of memory", BIN_NO_MEMORY},
        [REPLY_OOM_STATS] = {"Out of memory generating stats", BIN_NO_MEMORY},
    };
    ASSERT(reply < REPLY_COUNT);
    *text = known[reply].text ? known[reply].text : "Invalid arguments";
    return known[reply].text ? known[reply].status : BIN_INVALID;
}

static size_t put_head(char *out, const struct request *req, enum bin_status status,
                       size_t extras_bytes, size_t key_bytes, size_t value_bytes, uint64_t cas)
{
    DEBUG_ASSERT(extras_bytes <= UINT8_MAX && key_bytes <= UINT16_MAX);
    out[0] = (char)BIN_MAGIC_ANSWER;
    out[1] = (char)req->bin.opcode;
    write_u16(out + 2, (uint32_t)key_bytes);
    out[4] = (char)extras_bytes;
    out[5] = 0;
    write_u16(out + 6, (uint32_t)status);
    write_u32(out + 8, (uint32_t)(extras_bytes + key_bytes + value_bytes));
    memcpy(out + 12, &req->bin.opaque, sizeof(req->bin.opaque));
    write_u64(out + 16, cas);
    return BIN_HEAD_BYTES;
}

size_t proto_put_bin_reply(char *out, const struct request *req, enum reply reply)
{
    const char *text;
    enum bin_status status = status_of(reply, &text);
    if (status == BIN_OK && req->noreply)
        return 0;
    size_t len = strlen(text), n = put_head(out, req, status, 0, 0, len, 0);
    DEBUG_ASSERT(n + len <= BIN_REPLY_MAX);
    memcpy(out + n, text, len);
    return n + len;
}

/* getk, getkq, gatk, gatkq */
static bool wants_key(const struct request *req)
{
    uint8_t op = req->bin.opcode;
    return op == 0x0c || op == 0x0d || op == 0x23 || op == 0x24;
}

size_t proto_put_bin_hit(char *out, const struct request *req, const char *key, uint32_t key_len,
                         uint32_t client_flags, uint32_t value_bytes, uint64_t cas,
                         bool *with_value)
{
    DEBUG_ASSERT(key_len > 0 && key_len <= PROTO_KEY_MAX);
    *with_value = req->bin.opcode != OPCODE_TOUCH;
    size_t key_bytes = wants_key(req) ? key_len : 0;
    size_t n = put_head(out, req, BIN_OK, BIN_FLAGS_BYTES, key_bytes, *with_value ? value_bytes : 0,
                        cas);
    DEBUG_ASSERT(n + BIN_FLAGS_BYTES + key_bytes <= BIN_REPLY_MAX);
    write_u32(out + n, client_flags);
    memcpy(out + n + BIN_FLAGS_BYTES, key, key_bytes);
    return n + BIN_FLAGS_BYTES + key_bytes;
}

size_t proto_put_bin_miss(char *out, const struct request *req, const char *key, uint32_t key_len)
{
    DEBUG_ASSERT(key_len > 0 && key_len <= PROTO_KEY_MAX);
    if (req->noreply)
        return 0;
    if (!wants_key(req))
        return proto_put_bin_reply(out, req, REPLY_NOT_FOUND);
    size_t n = put_head(out, req, BIN_NOT_FOUND, 0, key_len, 0, 0);
    DEBUG_ASSERT(n + key_len <= BIN_REPLY_MAX);
    memcpy(out + n, key, key_len);
    return n + key_len;
}

size_t proto_put_bin_done(char *out, const struct request *req, uint64_t cas)
{
    return req->noreply ? 0 : put_head(out, req, BIN_OK, 0, 0, 0, cas);
}

size_t proto_put_bin_number(char *out, const struct request *req, uint64_t number, uint64_t cas)
{
    if (req->noreply)
        return 0;
    size_t n = put_head(out, req, BIN_OK, 0, 0, sizeof(number), cas);
    write_u64(out + n, number);
    return n + sizeof(number);
}

size_t proto_put_bin_stat(char *out, const struct request *req, const char *name,
                          size_t value_bytes)
{
    size_t len = min_u64(strlen(name), BIN_STAT_NAME_MAX);
    size_t n = put_head(out, req, BIN_OK, 0, len, value_bytes, 0);
    memcpy(out + n, name, len);
    return n + len;
}
