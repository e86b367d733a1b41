/* fuzz_proto.c: any bytes through the protocol parsers. Checked, besides what the sanitizers
 * see: pointers lead into the line, nothing is longer than promised, and a line that arrives
 * in two parts, split anywhere, gives the same request as in one.
 */
#include "proto/meta.h"
#include "proto/text.h"
#include "t/fuzz/fuzz.h"

enum { SPLIT_EVERYWHERE_BYTES = 256, LINES_MAX = 64 };

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

static void check_keys(const struct request *req, const char *buf, size_t len)
{
    struct key_cursor cursor = req->keys;
    const char *key, *last = buf;
    uint32_t key_len;
    int rc, count = 0;
    while ((rc = proto_next_key(&cursor, &key, &key_len)) == 1) {
        check_inside(key, key_len, buf, len);
        ASSERT(key > last && key_len >= 1 && key_len <= PROTO_KEY_MAX);
        ASSERT(!memchr(key, ' ', key_len) && !memchr(key, '\n', key_len));
        last = key;
        count++;
    }
    ASSERT(rc == -1 || count > 0);
}

static void check_meta(const struct request *req, const char *buf, size_t len)
{
    char out[PROTO_META_REPLY_MAX];
    ASSERT(req->meta.echo_count <= PROTO_META_TOKENS_MAX);
    ASSERT(req->meta.opaque.len <= PROTO_OPAQUE_MAX);
    if (req->meta.opaque.len > 0)
        check_inside(req->meta.opaque.ptr, req->meta.opaque.len, buf, len);
    for (unsigned status = 0; status < META_STATUS_COUNT; status++) {
        struct meta_reply reply = {.status = status,
                                   .key_is_binary = req->key_is_binary,
                                   .token_sent = true,
                                   .stale = true,
                                   .won = true,
                                   .value_bytes = UINT32_MAX,
                                   .client_flags = UINT32_MAX,
                                   .idle_sec = UINT32_MAX,
                                   .ttl_sec = INT64_MAX,
                                   .cas = UINT64_MAX,
                                   .key = req->key,
                                   .key_len = req->key_len};
        size_t reply_len = proto_put_meta_reply(out, req, &reply);
        ASSERT(reply_len <= sizeof(out) && memcmp(out + reply_len - 2, "\r\n", 2) == 0);
        proto_meta_is_hidden(req, status);
    }
}

static void check_request(const struct parsed *p, const char *buf, size_t len)
{
    const struct request *req = &p->req;
    ASSERT(p->consumed > 0 && p->consumed <= len && buf[p->consumed - 1] == '\n');
    ASSERT(!memchr(buf, '\n', p->consumed - 1));
    for (unsigned i = 0; i < req->token_count; i++) {
        check_inside(req->tokens[i].ptr, req->tokens[i].len, buf, p->consumed);
        ASSERT(req->tokens[i].len > 0);
    }
    if (p->result == PARSE_ERROR) {
        ASSERT(req->error != REPLY_NONE && req->error < REPLY_COUNT);
        ASSERT(req->swallow_bytes <= (uint64_t)PROTO_VALUE_MAX + 2);
        return;
    }
    ASSERT(req->error == REPLY_NONE && req->swallow_bytes == 0 && req->verb < VERB_COUNT);
    ASSERT(req->value_bytes <= PROTO_VALUE_MAX);
    const struct verb_info *info = verb_info(req->verb);
    if (info->flags & VF_KEYS) {
        check_keys(req, buf, p->consumed);
        return;
    }
    if (info->verb_class != CLASS_ADMIN && req->verb != VERB_MN) {
        ASSERT(req->key_len >= 1 && req->key_len <= PROTO_KEY_MAX);
        if (req->key_is_binary)
            ASSERT(req->key == req->key_buf);
        else
            check_inside(req->key, req->key_len, buf, p->consumed);
    }
    if (info->verb_class == CLASS_META)
        check_meta(req, buf, p->consumed);
}

static bool same_bytes(const char *a, size_t a_len, const char *b, size_t b_len)
{
    return a_len == b_len && (a_len == 0 || memcmp(a, b, a_len) == 0);
}

static void check_same(const struct parsed *a, const char *a_buf, const struct parsed *b,
                       const char *b_buf)
{
    const struct request *x = &a->req, *y = &b->req;
    ASSERT(a->result == b->result && a->consumed == b->consumed);
    if (!is_set(a))
        return;
    ASSERT(x->verb == y->verb && x->error == y->error && x->deferred_error == y->deferred_error);
    ASSERT(x->noreply == y->noreply && x->key_is_binary == y->key_is_binary);
    ASSERT(x->swallow_bytes == y->swallow_bytes && x->value_bytes == y->value_bytes);
    ASSERT(x->client_flags == y->client_flags && x->exptime == y->exptime);
    ASSERT(x->number == y->number && x->cas == y->cas && x->delta == y->delta);
    ASSERT(same_bytes(x->key, x->key_len, y->key, y->key_len));
    ASSERT(x->token_count == y->token_count && x->meta.flags == y->meta.flags);
    for (unsigned i = 0; i < x->token_count; i++)
        ASSERT(x->tokens[i].len == y->tokens[i].len &&
               x->tokens[i].ptr - a_buf == y->tokens[i].ptr - b_buf);
}

static void check_split(const struct parsed *whole, const char *data, size_t split)
{
    struct parsed part;
    char *buf = fuzz_copy(data, split);
    part.result = proto_parse_line(buf, split, &part.consumed, &part.req);
    if (memchr(buf, '\n', split)) {
        check_same(whole, data, &part, buf);
    } else {
        ASSERT(part.consumed == 0);
        ASSERT(part.result == PARSE_NEED_MORE ||
               (part.result == PARSE_CLOSE && split > PROTO_LINE_MAX));
    }
    free(buf);
}

static void check_auth(const char *data, size_t size)
{
    size_t consumed;
    uint32_t bytes;
    enum reply error;
    enum parse_result result = proto_parse_auth(data, size, &consumed, &bytes, &error);
    ASSERT(consumed <= size && (result == PARSE_OK || result == PARSE_ERROR) == (consumed > 0));
    ASSERT(result != PARSE_OK || bytes <= PROTO_AUTH_MAX);
}

/* One line at the start of data; returns how many bytes it took, 0 at the end. */
static size_t one_line(const char *data, size_t size)
{
    struct parsed whole;
    char *buf = fuzz_copy(data, size);
    whole.result = proto_parse_line(buf, size, &whole.consumed, &whole.req);
    if (is_set(&whole))
        check_request(&whole, buf, size);
    else
        ASSERT(whole.result == PARSE_CLOSE || whole.consumed == 0);
    size_t used = whole.consumed;
    check_auth(buf, size);

    size_t last = used ? used : size;
    size_t step = last > SPLIT_EVERYWHERE_BYTES ? last / SPLIT_EVERYWHERE_BYTES : 1;
    for (size_t split = 0; split < last; split += step)
        check_split(&whole, buf, split);
    check_split(&whole, buf, last - (last > 0));
    check_split(&whole, buf, last);
    free(buf);
    return is_set(&whole) ? used : 0;
}

FUZZ_TARGET(proto)
{
    const char *p = (const char *)data;
    for (unsigned lines = 0; size > 0 && lines < LINES_MAX; lines++) {
        size_t used = one_line(p, size);
        if (used == 0)
            break;
        p += used;
        size -= used;
    }
    return 0;
}
