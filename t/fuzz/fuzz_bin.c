/* fuzz_bin.c: any bytes through the parser of binary packets. Checked, besides what the sanitizers see:
 * pointers lead into the packet, nothing is longer than promised, a packet that arrives in two parts, split
 * anywhere, gives the same request as in one, and answers keep to the room that they are given. */
#include "proto/bin.h"
#include "t/fuzz/fuzz.h"

enum { SPLIT_EVERYWHERE_BYTES = 256, PACKETS_MAX = 64 };

struct parsed {
    enum parse_result result;
    size_t consumed;
    struct request req;
};

static bool is_set(const struct parsed *p)
{
    return p->result == PARSE_OK || p->result == PARSE_ERROR;
}

static void check_inside(const char *ptr, size_t len, const char *buf, size_t buf_len)
{
    ASSERT(ptr >= buf && len <= buf_len && (size_t)(ptr - buf) <= buf_len - len);
}

static void check_answers(const struct request *req)
{
    static const char key[PROTO_KEY_MAX] = "key";
    char *out = malloc(BIN_REPLY_MAX);
    bool with_value;
    ASSERT(out);
    for (unsigned reply = 0; reply < REPLY_COUNT; reply++)
        ASSERT(proto_put_bin_reply(out, req, (enum reply)reply) <= BIN_REPLY_MAX);
    ASSERT(proto_put_bin_hit(out, req, key, sizeof(key), UINT32_MAX, UINT32_MAX / 2, UINT64_MAX,
                             &with_value) <= BIN_REPLY_MAX);
    ASSERT(proto_put_bin_miss(out, req, key, sizeof(key)) <= BIN_REPLY_MAX);
    ASSERT(proto_put_bin_done(out, req, 1) <= BIN_HEAD_BYTES);
    ASSERT(proto_put_bin_number(out, req, 1, 2) <= BIN_HEAD_BYTES + 8);
    free(out);
}

static void check_request(const struct parsed *p, const char *buf, size_t len)
{
    const struct request *req = &p->req;
    ASSERT(p->consumed >= BIN_HEAD_BYTES && p->consumed <= len);
    ASSERT(req->dialect == DIALECT_BINARY && req->value_end_bytes == 0);
    check_answers(req);
    if (p->result == PARSE_ERROR) {
        ASSERT(req->error != REPLY_NONE);
        return;
    }
    ASSERT(req->error == REPLY_NONE && req->verb < VERB_COUNT && !req->close_after);
    ASSERT(req->value_bytes <= PROTO_VALUE_MAX && req->key_len <= PROTO_KEY_MAX);
    ASSERT(req->exptime >= 0);
    const struct verb_info *info = verb_info(req->verb);
    ASSERT((req->value_bytes == 0 && req->swallow_bytes == 0) || (info->flags & VF_VALUE) ||
           info->verb_class == CLASS_LOGIN);
    check_inside(req->key, req->key_len, buf, p->consumed);
    if (info->flags & VF_KEYS) {
        struct key_cursor cursor = req->keys;
        const char *key;
        uint32_t key_len;
        ASSERT(proto_next_key(&cursor, &key, &key_len) == 1);
        ASSERT(key == req->key && key_len == req->key_len);
        ASSERT(proto_next_key(&cursor, &key, &key_len) == 0);
    }
    if (info->verb_class == CLASS_LOGIN && req->token_count > 0)
        check_inside(req->tokens[0].ptr, req->tokens[0].len, buf, p->consumed);
}

static void check_same(const struct parsed *a, const struct parsed *b)
{
    const struct request *x = &a->req, *y = &b->req;
    ASSERT(a->result == b->result && a->consumed == b->consumed);
    if (!is_set(a))
        return;
    ASSERT(x->verb == y->verb && x->error == y->error && x->noreply == y->noreply);
    ASSERT(x->swallow_bytes == y->swallow_bytes && x->value_bytes == y->value_bytes);
    ASSERT(x->client_flags == y->client_flags && x->exptime == y->exptime && x->cas == y->cas);
    ASSERT(x->delta == y->delta && x->initial == y->initial && x->makes_number == y->makes_number);
    ASSERT(x->key_len == y->key_len && x->token_count == y->token_count);
    ASSERT(x->bin.opcode == y->bin.opcode && x->bin.opaque == y->bin.opaque);
    ASSERT(a->result == PARSE_ERROR || x->key_len == 0 || memcmp(x->key, y->key, x->key_len) == 0);
}

/* A part of a packet gives the same result as all of it, or needs more. */
static void check_split(const struct parsed *whole, const char *data, size_t split)
{
    struct parsed part;
    char *buf = fuzz_copy(data, split);
    part.result = proto_parse_bin(buf, split, &part.consumed, &part.req);
    if (part.result == PARSE_NEED_MORE)
        ASSERT(part.consumed == 0 && (split < whole->consumed || !is_set(whole)));
    else
        check_same(whole, &part);
    free(buf);
}

static void check_peek(const struct parsed *whole, const char *buf, size_t size)
{
    const char *key;
    uint64_t packet_bytes;
    uint32_t len = proto_peek_bin(buf, size, &key, &packet_bytes);
    if (len > 0)
        check_inside(key, len, buf, size);
    if (whole->result == PARSE_OK)
        ASSERT(len == whole->req.key_len && packet_bytes >= whole->consumed);
}

/* One packet at the start of data; returns how many bytes it took, 0 at the end. */
static size_t one_packet(const char *data, size_t size)
{
    struct parsed whole;
    char *buf = fuzz_copy(data, size);
    whole.result = proto_parse_bin(buf, size, &whole.consumed, &whole.req);
    if (is_set(&whole))
        check_request(&whole, buf, size);
    else
        ASSERT(whole.consumed == 0);
    check_peek(&whole, buf, size);
    size_t used = is_set(&whole) ? whole.consumed : 0;
    size_t last = used ? used : size;
    size_t step = last > SPLIT_EVERYWHERE_BYTES ? last / SPLIT_EVERYWHERE_BYTES : 1;
    for (size_t split = 0; split < last; split += step)
        check_split(&whole, buf, split);
    check_split(&whole, buf, last);
    free(buf);
    return used;
}

FUZZ_TARGET(bin)
{
    const char *p = (const char *)data;
    for (unsigned packets = 0; size > 0 && packets < PACKETS_MAX; packets++) {
        size_t used = one_packet(p, size);
        if (used == 0)
            break;
        p += used;
        size -= used;
    }
    return 0;
}
