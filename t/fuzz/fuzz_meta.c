/* fuzz_meta.c: the flags of meta commands. The bytes are not a line but say how to build one: a
 * command, then flags from the table with arguments of any bytes, so that most lines get as far as
 * the arguments. Checked against what the line was built from: a flag is known iff it was given,
 * plain numbers are those of strtoull, and a reply echoes flags in the request's order.
 */
#include "proto/meta.h"
#include "proto/text.h"
#include "t/fuzz/fuzz.h"

enum { ARGUMENT_MAX = 48, LINE_MAX_BYTES = 2048 };

static const struct flag {
    char letter;
    enum meta_arg arg;
    bool echo;
} flags[] = {
#define X(letter, arg, echo, what) {letter, arg, echo},
    META_FLAG_TABLE(X)
#undef X
};

struct built {
    char text[LINE_MAX_BYTES];
    size_t len;
    uint64_t given, doubled; /* META_FLAG of known letters */
    bool strange;            /* a token that is not of the table, or none at all */
    char echo[PROTO_META_TOKENS_MAX + 64];
    unsigned echo_count, count;
    struct number {
        bool is_plain; /* decimal digits; as memcached, the parser takes more than that */
        uint64_t v;
    } cas, initial; /* of C and J */
};

static void put(struct built *b, const char *text, size_t len)
{
    ASSERT(b->len + len <= sizeof(b->text));
    memcpy(b->text + b->len, text, len);
    b->len += len;
}

/* An argument as the byte wants it: none, a number, or any bytes that keep the token one token. */
static size_t make_argument(struct fuzz_input *in, char *arg)
{
    unsigned kind = (unsigned)fuzz_number(in, 1);
    if (kind < 32)
        return 0;
    if (kind < 128)
        return (size_t)snprintf(arg, ARGUMENT_MAX, "%" PRIu64, fuzz_number(in, kind % 9));
    size_t len = kind % (ARGUMENT_MAX - 1), kept = 0;
    fuzz_take(in, arg, len);
    for (size_t i = 0; i < len; i++)
        if (arg[i] != ' ' && arg[i] != '\n' && arg[i] != '\r' && arg[i] != '\0')
            arg[kept++] = arg[i];
    return kept;
}

static struct number number_of(const char *arg, size_t len)
{
    char text[ARGUMENT_MAX + 1];
    memcpy(text, arg, len);
    text[len] = '\0';
    errno = 0;
    struct number n = {.v = strtoull(text, NULL, 10)};
    n.is_plain = len > 0 && strspn(text, "0123456789") == len && errno == 0;
    return n;
}

static const struct flag *find_flag(char letter)
{
    for (unsigned i = 0; i < ARRAY_COUNT(flags); i++)
        if (flags[i].letter == letter)
            return &flags[i];
    return NULL;
}

static void add_flag(struct fuzz_input *in, struct built *b)
{
    char arg[ARGUMENT_MAX];
    unsigned which = (unsigned)fuzz_number(in, 1);
    /* Mostly one of the table, else any byte. */
    char letter = flags[which % ARRAY_COUNT(flags)].letter;
    if (which >= 200)
        letter = (char)fuzz_number(in, 1);
    if (strchr(" \r\n", letter)) /* and NUL */
        letter = '!';
    size_t len = make_argument(in, arg);
    put(b, " ", 1);
    put(b, &letter, 1);
    put(b, arg, len);
    b->count++;
    const struct flag *flag = find_flag(letter);
    if (!flag) {
        b->strange = true;
        return;
    }
    b->doubled |= b->given & META_FLAG(letter);
    b->given |= META_FLAG(letter);
    if (flag->echo)
        b->echo[b->echo_count++] = letter;
    if (letter == 'C')
        b->cas = number_of(arg, len);
    else if (letter == 'J')
        b->initial = number_of(arg, len);
}

static void build(struct fuzz_input *in, struct built *b)
{
    static const char *const starts[] = {"mg key", "ms key 7", "md key", "ma key",
                                         "mg Zm9v", "ms Zm9v 7", "md Zm9vYg==", "ma Zm9vYmE="};
    const char *start = starts[fuzz_number(in, 1) % ARRAY_COUNT(starts)];
    memset(b, 0, sizeof(*b));
    put(b, start, strlen(start));
    while (in->size > 0 && b->count < PROTO_META_TOKENS_MAX)
        add_flag(in, b);
    put(b, "\r\n", 2);
}

/* The echoed flags that the reply shows, in order. Values have no spaces, so tokens tell. */
static void check_reply(const struct request *req, const struct built *b, const char *out, size_t len)
{
    ASSERT(len >= 4 && len <= PROTO_META_REPLY_MAX && memcmp(out + len - 2, "\r\n", 2) == 0);
    ASSERT(!memchr(out, '\n', len - 1));
    struct proto_token tokens[PROTO_META_TOKENS_MAX + 8];
    unsigned n = proto_tokenize(out, out + len - 2, tokens, ARRAY_COUNT(tokens)), at = 0;
    for (unsigned i = 1; i < n; i++) {
        char c = *tokens[i].ptr;
        if (tokens[i].len == 1 && (c == 'b' || c == 'Z' || c == 'X' || c == 'W'))
            continue;
        if (i == 1 && out[0] == 'V')
            continue; /* VA's number */
        while (at < b->echo_count && b->echo[at] != c)
            at++;
        ASSERT(at < b->echo_count);
        at++;
        if (c == 'O')
            ASSERT(tokens[i].len == req->meta.opaque.len &&
                   memcmp(tokens[i].ptr, req->meta.opaque.ptr, tokens[i].len) == 0);
    }
}

static void check_accepted(const struct request *req, const struct built *b)
{
    ASSERT(!b->strange && b->doubled == 0 && req->meta.flags == b->given);
    ASSERT(req->meta.echo_count == b->echo_count);
    ASSERT(memcmp(req->meta.echo, b->echo, b->echo_count) == 0);
    if (b->cas.is_plain)
        ASSERT(req->cas == b->cas.v);
    if (b->initial.is_plain)
        ASSERT(req->meta.initial == b->initial.v);
    for (unsigned status = 0; status < META_STATUS_COUNT; status++) {
        char out[PROTO_META_REPLY_MAX];
        struct meta_reply reply = {.status = status,
                                   .key_is_binary = req->key_is_binary,
                                   .token_sent = status & 1,
                                   .stale = status & 2,
                                   .won = status & 4,
                                   .ttl_sec = -1,
                                   .value_bytes = 12,
                                   .key = req->key,
                                   .key_len = req->key_len};
        check_reply(req, b, out, proto_put_meta_reply(out, req, &reply));
    }
}

FUZZ_TARGET(meta)
{
    struct fuzz_input in = {data, size};
    struct built b;
    struct request req;
    size_t consumed;
    build(&in, &b);
    char *line = fuzz_copy(b.text, b.len);
    enum parse_result result = proto_parse_line(line, b.len, &consumed, &req);
    ASSERT(result == PARSE_OK || result == PARSE_ERROR);
    ASSERT(consumed == b.len || memchr(b.text, '\n', b.len - 1));
    if (result == PARSE_OK && consumed == b.len)
        check_accepted(&req, &b);
    else if (result == PARSE_ERROR)
        ASSERT(req.error != REPLY_NONE && req.error < REPLY_COUNT);
    free(line);
    return 0;
}
