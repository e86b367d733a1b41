/* load.c: load generator and checker for memcached servers (text protocol; --binary: binary).
 *
 * One thread, one libevent loop, any number of connections, each with up to
 * --depth requests under way. Modes:
 *   load    set every key once, as fast as the server takes it (or at --rate)
 *   verify  get every key once; counts hits, misses and wrong values
 *   mix     gets and sets, keys by Zipf, uniform or in sequence, until --ops or --seconds
 *
 * Every value read is checked byte for byte (load_gen.h). Its stamp is the epoch
 * of the run that wrote it and a version per key. In mix mode no key has two sets
 * under way at once, so versions have one order, and a get must answer a version
 * between the last one acknowledged when it was sent and the last one sent: an
 * older one is counted as stale. A miss is never wrong, a cache may forget; it is
 * counted, and --no-miss makes it a failure. Two runs at the same time need
 * different --prefix.
 *
 * With --rate, latency counts from the moment a request was due, not from the
 * moment it could be sent, so a stalled server doesn't hide its stall. Requests
 * due within --warmup don't enter the latencies; they count in everything else.
 *
 * Exit: 0 all right; 1 wrong or stale values; 2 usage; 3 connection lost, protocol
 * broken, error replies, or no progress for --timeout; 4 misses under --no-miss.
 *
 * Build: cc -O2 scripts/load.c -levent_core -lm, with -DEXTANT_TLS -lssl -lcrypto for --tls
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include <arpa/inet.h>
#include <event2/event.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "load_gen.h"
#include "load_hist.h"
#include "load_tls.h"

#define KEY_MAX_BYTES 250
#define PREFIX_MAX_BYTES 64
#define READ_ROOM_BYTES (64u << 10)    /* free input space before each read() */
#define SEND_AHEAD_BYTES (256u << 10)  /* no new request while more than this is unsent */
#define BUSY_KEY_TRIES 8               /* draws until a key without a set under way is found */
#define MULTIGET_MAX 10000
#define DECILES 10
#define PACE_TICK_NS 1000000u
#define NS_PER_SEC 1000000000ull

enum mode { MODE_LOAD, MODE_VERIFY, MODE_MIX };
enum dist { DIST_SEQ, DIST_UNIFORM, DIST_ZIPF };
enum report { REPORT_HUMAN, REPORT_JSON, REPORT_KV };

struct options {
    const char *host;
    const char *port;
    const char *unix_path;
    enum mode mode;
    enum dist dist;
    enum report report;
    double zipf_s;
    double get_ratio;
    double seconds;   /* 0: no limit */
    double warmup;    /* seconds whose requests stay out of the latencies */
    double rate;      /* requests per second, 0: as fast as it goes */
    double timeout_seconds;
    uint64_t ops;     /* requests, 0: no limit */
    uint64_t keys;
    uint64_t first_key;
    uint64_t seed;
    uint32_t epoch;   /* verify: the only epoch accepted, 0: any */
    uint32_t connections;
    uint32_t depth;
    uint32_t key_bytes;
    uint32_t multiget;
    int32_t exptime;
    bool client_flags;
    bool no_miss;
    bool tls;
    bool binary;
    char prefix[PREFIX_MAX_BYTES + 1];
    struct sizes sizes;
};

/* One request under way. Its keys lie in the connection's key ring, in order. */
struct request {
    uint64_t due_ns;
    uint32_t key_count;
    bool is_set;
};

struct asked_key {
    uint64_t id;
    uint32_t least_version; /* acknowledged when the get was sent */
};

struct load;

struct connection {
    struct load *load;
    struct event *readable;
    struct event *writable;
    struct rng rng;
    uint64_t next_seq;
    char *in;
    size_t in_room, in_len, in_need; /* need: bytes before parsing can go on */
    char *out;
    size_t out_room, out_len, out_sent;
    struct request *requests; /* ring of depth */
    struct asked_key *asked;  /* ring of depth * multiget */
    uint32_t request_head, request_count;
    uint32_t asked_head, asked_count;
    uint32_t asked_done; /* keys of the first request that were answered or missed */
    int fd;
    void *tls; /* NULL: in the clear */
    bool want_write;
};

struct counters {
    uint64_t gets, hits, misses, sets, stored, errors, wrong, stale, busy_to_get;
    uint64_t value_bytes_read, value_bytes_sent, bytes_received, bytes_transmitted;
    uint64_t decile_keys[DECILES], decile_hits[DECILES];
};

struct load {
    struct options opt;
    struct event_base *base;
    struct event *pace;
    struct event *watchdog;
    struct connection *conns;
    struct zipf zipf;
    struct shuffle shuffle;
    uint32_t *versions; /* per key, mix only: version << 1 | a set is under way */
    uint64_t issued;    /* requests (mix), keys (load, verify) */
    uint64_t answered;  /* requests */
    uint64_t under_way;
    uint64_t start_ns, end_ns, now_ns;
    uint64_t measured_from_ns; /* end of the warm-up */
    uint64_t answered_at_last_check, last_progress_ns;
    uint32_t pace_next_conn;
    bool broken;
    struct counters count;
    struct hist get_hist, set_hist;
    char first_error[160];
};

static uint64_t clock_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

static void die_usage(const char *what)
{
    fprintf(stderr, "load: %s (--help lists the options)\n", what);
    exit(2);
}

static void *need_memory(void *p)
{
    if (!p) {
        fprintf(stderr, "load: out of memory\n");
        exit(3);
    }
    return p;
}

/* Remembers the first error, for the summary. */
static void note_error(struct load *l, const char *what, const char *text, size_t len)
{
    if (l->first_error[0])
        return;
    int shown = len > 100 ? 100 : (int)len;
    snprintf(l->first_error, sizeof(l->first_error), "%s%.*s", what, shown, text);
    for (char *p = l->first_error; *p; p++)
        if ((unsigned char)*p < ' ' || (unsigned char)*p > '~')
            *p = '.';
}

static void stop_broken(struct load *l, const char *what)
{
    note_error(l, what, "", 0);
    l->broken = true;
    event_base_loopbreak(l->base);
}

/* ---- keys ---- */

static char *put_key(const struct options *o, char *to, uint64_t id)
{
    size_t prefix = strlen(o->prefix);

    memcpy(to, o->prefix, prefix);
    for (char *p = to + o->key_bytes; p > to + prefix; id /= 10)
        *--p = (char)('0' + id % 10);
    return to + o->key_bytes;
}

static bool parse_key(const struct options *o, const char *from, size_t len, uint64_t *id)
{
    size_t prefix = strlen(o->prefix);

    if (len != o->key_bytes || memcmp(from, o->prefix, prefix) != 0)
        return false;
    *id = 0;
    for (size_t i = prefix; i < len; i++) {
        if (from[i] < '0' || from[i] > '9')
            return false;
        *id = *id * 10 + (uint64_t)(from[i] - '0');
    }
    return true;
}

static uint32_t flags_of_key(const struct options *o, uint64_t id)
{
    return o->client_flags ? (uint32_t)(mix64(id) & 0xffff) | 1 : 0;
}

/* The next key of a connection in mix mode. */
static uint64_t draw_key(struct connection *c)
{
    struct load *l = c->load;
    const struct options *o = &l->opt;

    switch (o->dist) {
    case DIST_ZIPF:
        return o->first_key + shuffle_at(&l->shuffle, zipf_draw(&l->zipf, &c->rng));
    case DIST_UNIFORM:
        return o->first_key + rng_below(&c->rng, o->keys);
    case DIST_SEQ:
        break;
    }
    uint64_t i = c->next_seq++ % o->keys;
    return o->first_key + i;
}

/* Key i of a load or verify run: in order, or each once in a shuffled order. */
static uint64_t ordered_key(const struct load *l, uint64_t i)
{
    return l->opt.first_key + (l->opt.dist == DIST_SEQ ? i : shuffle_at(&l->shuffle, i));
}

/* ---- output ---- */

static char *out_reserve(struct connection *c, size_t bytes)
{
    if (c->out_sent == c->out_len)
        c->out_sent = c->out_len = 0;
    if (c->out_len + bytes > c->out_room) {
        memmove(c->out, c->out + c->out_sent, c->out_len - c->out_sent);
        c->out_len -= c->out_sent;
        c->out_sent = 0;
        if (c->out_len + bytes > c->out_room) {
            c->out_room = (c->out_len + bytes) * 2;
            c->out = need_memory(realloc(c->out, c->out_room));
        }
    }
    return c->out + c->out_len;
}

static void ask(struct connection *c, uint64_t id, uint32_t least_version)
{
    uint32_t ring = c->load->opt.depth * c->load->opt.multiget;
    struct asked_key *a = &c->asked[(c->asked_head + c->asked_count++) % ring];

    a->id = id;
    a->least_version = least_version;
}

static void push_request(struct connection *c, bool is_set, uint32_t key_count, uint64_t due_ns)
{
    struct request *r = &c->requests[(c->request_head + c->request_count++) % c->load->opt.depth];

    r->is_set = is_set;
    r->key_count = key_count;
    r->due_ns = due_ns;
    c->load->under_way++;
}

/* ---- packets of the binary protocol ---- */

enum { HEAD_BYTES = 24, STORE_EXTRAS_BYTES = 8, FLAGS_BYTES = 4 };
enum { OP_SET = 0x01, OP_NOOP = 0x0a, OP_GETK = 0x0c, OP_GETKQ = 0x0d };
enum { STATUS_OK = 0, STATUS_NOT_FOUND = 1 };

static void put_number(char *to, uint64_t v, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        to[i] = (char)(v >> (8 * (bytes - 1 - i)));
}

static uint64_t take_number(const char *from, unsigned bytes)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < bytes; i++)
        v = v << 8 | (unsigned char)from[i];
    return v;
}

/* Head and key of a packet; extras and value are put, or follow. Returns where the value goes. */
static char *put_packet(const struct options *o, char *p, unsigned opcode, const uint64_t *id,
                        unsigned extras_bytes, uint32_t value_bytes)
{
    char *key = p + HEAD_BYTES + extras_bytes;
    char *end = id ? put_key(o, key, *id) : key;

    memset(p, 0, HEAD_BYTES + extras_bytes);
    put_number(p, 0x80, 1);
    put_number(p + 1, opcode, 1);
    put_number(p + 2, (uint64_t)(end - key), 2);
    put_number(p + 4, extras_bytes, 1);
    put_number(p + 8, (uint64_t)(end - key) + extras_bytes + value_bytes, 4);
    return end;
}

static char *put_set_packet(const struct options *o, char *p, uint64_t id, uint32_t bytes)
{
    char *end = put_packet(o, p, OP_SET, &id, STORE_EXTRAS_BYTES, bytes);
    put_number(p + HEAD_BYTES, flags_of_key(o, id), 4);
    put_number(p + HEAD_BYTES + 4, (uint32_t)o->exptime, 4);
    return end;
}

/* ---- requests ---- */

static void send_set(struct connection *c, uint64_t id, uint64_t due_ns)
{
    struct load *l = c->load;
    const struct options *o = &l->opt;
    uint32_t bytes = sizes_of_key(&o->sizes, id);
    uint32_t version = 1;
    char *start = out_reserve(c, KEY_MAX_BYTES + 64 + (size_t)bytes + 2);
    char *p = start;

    if (l->versions) {
        uint32_t *v = &l->versions[id - o->first_key];
        version = (*v >> 1) + 1;
        *v = version << 1 | 1;
    }
    if (o->binary) {
        p = put_set_packet(o, p, id, bytes);
    } else {
        memcpy(p, "set ", 4);
        p = put_key(o, p + 4, id);
        p += sprintf(p, " %u %d %u\r\n", flags_of_key(o, id), o->exptime, bytes);
    }
    value_write(p, bytes, id, (uint64_t)o->epoch << 32 | version);
    memcpy(p + bytes, "\r\n", 2);
    c->out_len += (size_t)(p + bytes + (o->binary ? 0 : 2) - start);
    ask(c, id, 0);
    push_request(c, true, 1, due_ns);
    l->count.sets++;
    l->count.value_bytes_sent += bytes;
}

/* A get of count keys. */
static void send_get(struct connection *c, const uint64_t *ids, uint32_t count, uint64_t due_ns)
{
    struct load *l = c->load;
    bool binary = l->opt.binary;
    char *start = out_reserve(c, 64 + (size_t)count * (KEY_MAX_BYTES + HEAD_BYTES));
    char *p = start;

    if (!binary) {
        memcpy(p, "get", 3);
        p += 3;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (binary) {
            p = put_packet(&l->opt, p, count == 1 ? OP_GETK : OP_GETKQ, &ids[i], 0, 0);
        } else {
            *p++ = ' ';
            p = put_key(&l->opt, p, ids[i]);
        }
        uint32_t v = l->versions ? l->versions[ids[i] - l->opt.first_key] : 0;
        ask(c, ids[i], (v >> 1) - (v & 1));
    }
    if (binary && count > 1) {
        p = put_packet(&l->opt, p, OP_NOOP, NULL, 0, 0);
    } else if (!binary) {
        memcpy(p, "\r\n", 2);
        p += 2;
    }
    c->out_len += (size_t)(p - start);
    push_request(c, false, count, due_ns);
    l->count.gets += count;
}

static bool more_to_issue(const struct load *l)
{
    const struct options *o = &l->opt;

    if (o->seconds > 0 && l->now_ns - l->start_ns >= (uint64_t)(o->seconds * 1e9))
        return false;
    if (o->mode != MODE_MIX && l->issued >= o->keys)
        return false;
    return !(o->mode == MODE_MIX && o->ops && l->issued >= o->ops);
}

static bool set_under_way(const struct load *l, uint64_t id)
{
    return l->versions[id - l->opt.first_key] & 1;
}

static void issue_mix(struct connection *c, uint64_t due_ns)
{
    struct load *l = c->load;
    uint64_t ids[MULTIGET_MAX];
    uint64_t id = draw_key(c);
    bool want_get = rng_unit(&c->rng) < l->opt.get_ratio;

    l->issued++;
    if (!want_get) {
        for (int i = 0; i < BUSY_KEY_TRIES && set_under_way(l, id); i++)
            id = draw_key(c);
        if (!set_under_way(l, id)) {
            send_set(c, id, due_ns);
            return;
        }
        l->count.busy_to_get++;
    }
    ids[0] = id;
    for (uint32_t i = 1; i < l->opt.multiget; i++)
        ids[i] = draw_key(c);
    send_get(c, ids, l->opt.multiget, due_ns);
}

static void issue_one(struct connection *c, uint64_t due_ns)
{
    struct load *l = c->load;
    uint64_t ids[MULTIGET_MAX];
    uint32_t n = 0;

    if (l->opt.mode == MODE_MIX) {
        issue_mix(c, due_ns);
        return;
    }
    if (l->opt.mode == MODE_LOAD) {
        send_set(c, ordered_key(l, l->issued++), due_ns);
        return;
    }
    while (n < l->opt.multiget && l->issued < l->opt.keys)
        ids[n++] = ordered_key(l, l->issued++);
    send_get(c, ids, n, due_ns);
}

static void flush_out(struct connection *c)
{
    while (c->out_sent < c->out_len) {
        ssize_t n = wire_send(c->fd, c->tls, c->out + c->out_sent, c->out_len - c->out_sent);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0) {
            stop_broken(c->load, "send failed");
            return;
        }
        c->out_sent += (size_t)n;
        c->load->count.bytes_transmitted += (uint64_t)n;
    }
    bool want = c->out_sent < c->out_len;
    if (want != c->want_write) {
        if (want)
            event_add(c->writable, NULL);
        else
            event_del(c->writable);
        c->want_write = want;
    }
}

static bool has_room(const struct connection *c)
{
    return c->request_count < c->load->opt.depth && c->out_len - c->out_sent < SEND_AHEAD_BYTES;
}

/* When the next request is due. Requests within the pace timer's own
 * coarseness count as due now. */
static uint64_t next_due_ns(const struct load *l)
{
    const struct options *o = &l->opt;
    uint64_t requests = o->mode == MODE_VERIFY ? l->issued / o->multiget : l->issued;

    if (o->rate <= 0)
        return l->now_ns;
    uint64_t due_ns = l->start_ns + (uint64_t)((double)requests * 1e9 / o->rate);
    return due_ns < l->now_ns && l->now_ns - due_ns < 2 * PACE_TICK_NS ? l->now_ns : due_ns;
}

/* Keeps depth requests under way, or sends the due ones under --rate. */
static void fill(struct connection *c)
{
    struct load *l = c->load;

    while (has_room(c) && more_to_issue(l)) {
        uint64_t due_ns = next_due_ns(l);
        if (due_ns > l->now_ns)
            break;
        issue_one(c, due_ns);
    }
}

static void stop_if_done(struct load *l)
{
    if (l->under_way == 0 && !more_to_issue(l))
        event_base_loopbreak(l->base);
}

/* ---- replies ---- */

static void check_value(struct connection *c, const struct asked_key *asked, const char *value,
                        uint32_t bytes, uint64_t flags)
{
    struct load *l = c->load;
    const struct options *o = &l->opt;
    uint64_t stamp;

    l->count.hits++;
    l->count.value_bytes_read += bytes;
    l->count.decile_hits[(asked->id - o->first_key) * DECILES / o->keys]++;
    if (bytes != sizes_of_key(&o->sizes, asked->id) || flags != flags_of_key(o, asked->id) ||
        !value_check(value, bytes, asked->id, &stamp)) {
        l->count.wrong++;
        note_error(l, "wrong value: ", value, bytes);
        return;
    }
    if (bytes < STAMP_BYTES)
        return;
    uint32_t epoch = (uint32_t)(stamp >> 32), version = (uint32_t)stamp;
    bool stale = false;
    if (o->mode == MODE_VERIFY) {
        stale = o->epoch != 0 && epoch != o->epoch;
    } else if (epoch == o->epoch) {
        uint32_t sent = l->versions[asked->id - o->first_key] >> 1;
        stale = version < asked->least_version || version > sent;
    } else {
        stale = asked->least_version > 0;
    }
    if (stale) {
        l->count.stale++;
        note_error(l, "stale value", "", 0);
    }
}

static struct request *first_request(struct connection *c)
{
    return &c->requests[c->request_head % c->load->opt.depth];
}

static struct asked_key *first_asked(struct connection *c)
{
    return &c->asked[c->asked_head % (c->load->opt.depth * c->load->opt.multiget)];
}

static void pass_over_asked(struct connection *c, bool hit)
{
    struct load *l = c->load;
    uint64_t id = first_asked(c)->id;

    if (!first_request(c)->is_set) {
        l->count.decile_keys[(id - l->opt.first_key) * DECILES / l->opt.keys]++;
        l->count.misses += hit ? 0 : 1;
    }
    c->asked_head++;
    c->asked_count--;
    c->asked_done++;
}

/* The first request is answered: its latency counts and its place is free. */
static void finish_request(struct connection *c)
{
    struct load *l = c->load;
    struct request *r = first_request(c);
    struct hist *h = r->is_set ? &l->set_hist : &l->get_hist;

    if (r->is_set && l->versions)
        l->versions[first_asked(c)->id - l->opt.first_key] &= ~1u;
    if (r->due_ns >= l->measured_from_ns)
        hist_add(h, l->now_ns > r->due_ns ? l->now_ns - r->due_ns : 0);
    while (c->asked_done < r->key_count)
        pass_over_asked(c, false);
    c->asked_done = 0;
    c->request_head++;
    c->request_count--;
    l->answered++;
    l->under_way--;
}

/* "VALUE key flags bytes [cas]" without its line end; 0 or -EPROTO. */
static int parse_value_line(const char *line, size_t len, const char **key, size_t *key_len,
                            uint64_t *flags, uint32_t *bytes)
{
    const char *end = line + len, *p = line + 6;
    uint64_t numbers[2];

    *key = p;
    p = memchr(p, ' ', (size_t)(end - p));
    if (!p)
        return -EPROTO;
    *key_len = (size_t)(p - *key);
    for (int i = 0; i < 2; i++) {
        const char *digits = ++p;
        numbers[i] = 0;
        for (; p < end && *p >= '0' && *p <= '9'; p++)
            numbers[i] = numbers[i] * 10 + (uint64_t)(*p - '0');
        if (p == digits || (p < end && *p != ' '))
            return -EPROTO;
        if (i == 0 && p == end)
            return -EPROTO;
    }
    if (numbers[1] > UINT32_MAX)
        return -EPROTO;
    *flags = numbers[0];
    *bytes = (uint32_t)numbers[1];
    return 0;
}

static bool is_line(const char *line, size_t len, const char *text)
{
    return len == strlen(text) && memcmp(line, text, len) == 0;
}

static bool starts_with(const char *line, size_t len, const char *text)
{
    return len >= strlen(text) && memcmp(line, text, strlen(text)) == 0;
}

static void error_reply(struct connection *c, const char *line, size_t len)
{
    c->load->count.errors++;
    note_error(c->load, "reply: ", line, len);
    finish_request(c);
}

/* Takes one VALUE block at the start of from. Bytes used, 0 when more input is
 * needed (*need says how much), -EPROTO when it can't be an answer to the request. */
static ssize_t take_value(struct connection *c, const char *from, size_t line_len, size_t len,
                          size_t *need)
{
    struct request *r = first_request(c);
    const char *key;
    size_t key_len;
    uint64_t flags, id;
    uint32_t bytes;

    if (r->is_set || parse_value_line(from, line_len, &key, &key_len, &flags, &bytes) != 0)
        return -EPROTO;
    size_t head = line_len + 2;
    if (len < head + bytes + 2) {
        *need = head + bytes + 2;
        return 0;
    }
    if (memcmp(from + head + bytes, "\r\n", 2) != 0 ||
        !parse_key(&c->load->opt, key, key_len, &id))
        return -EPROTO;
    while (c->asked_done < r->key_count && first_asked(c)->id != id)
        pass_over_asked(c, false);
    if (c->asked_done == r->key_count)
        return -EPROTO; /* a key that wasn't asked for, or out of order */
    check_value(c, first_asked(c), from + head, bytes, flags);
    pass_over_asked(c, true);
    return (ssize_t)(head + bytes + 2);
}

/* The hit of a getk or getkq. 0 or -EPROTO. */
static int take_hit(struct connection *c, const char *from, size_t key_len, size_t value_bytes)
{
    struct request *r = first_request(c);
    const char *key = from + HEAD_BYTES + FLAGS_BYTES;
    uint64_t id;

    if (r->is_set || !parse_key(&c->load->opt, key, key_len, &id))
        return -EPROTO;
    while (c->asked_done < r->key_count && first_asked(c)->id != id)
        pass_over_asked(c, false);
    if (c->asked_done == r->key_count)
        return -EPROTO;
    check_value(c, first_asked(c), key + key_len, (uint32_t)value_bytes,
                take_number(from + HEAD_BYTES, FLAGS_BYTES));
    pass_over_asked(c, true);
    return 0;
}

/* Takes one packet. As take_value(). */
static ssize_t take_packet(struct connection *c, const char *from, size_t len, size_t *need)
{
    if (len < HEAD_BYTES) {
        *need = HEAD_BYTES;
        return 0;
    }
    size_t key_len = take_number(from + 2, 2), extras = take_number(from + 4, 1);
    size_t body = take_number(from + 8, 4), bytes = HEAD_BYTES + body;
    unsigned opcode = (unsigned char)from[1], status = (unsigned)take_number(from + 6, 2);
    if ((unsigned char)from[0] != 0x81 || key_len + extras > body || c->request_count == 0)
        return -EPROTO;
    if (len < bytes) {
        *need = bytes;
        return 0;
    }
    bool is_get = opcode == OP_GETK || opcode == OP_GETKQ;
    if (is_get && status == STATUS_OK) {
        if (extras != FLAGS_BYTES || take_hit(c, from, key_len, body - extras - key_len) != 0)
            return -EPROTO;
    } else if (status != STATUS_OK && !(is_get && status == STATUS_NOT_FOUND)) {
        error_reply(c, from + HEAD_BYTES, body);
        return (ssize_t)bytes;
    }
    if (opcode == OP_SET && first_request(c)->is_set) {
        c->load->count.stored++;
        finish_request(c);
    } else if ((opcode == OP_GETK || opcode == OP_NOOP) && !first_request(c)->is_set) {
        finish_request(c);
    } else if (opcode != OP_GETKQ) {
        return -EPROTO;
    }
    return (ssize_t)bytes;
}

/* Takes one line, or a VALUE line with its data. As take_value(). */
static ssize_t take_reply(struct connection *c, const char *from, size_t len, size_t *need)
{
    const char *nl = memchr(from, '\n', len);

    if (!nl) {
        *need = len + 1;
        return 0;
    }
    size_t line_len = (size_t)(nl - from);
    if (line_len == 0 || nl[-1] != '\r' || c->request_count == 0)
        return -EPROTO;
    line_len--;
    if (line_len > 6 && memcmp(from, "VALUE ", 6) == 0)
        return take_value(c, from, line_len, len, need);

    bool is_set = first_request(c)->is_set;
    if (is_set && is_line(from, line_len, "STORED")) {
        c->load->count.stored++;
        finish_request(c);
    } else if (!is_set && is_line(from, line_len, "END")) {
        finish_request(c);
    } else if (starts_with(from, line_len, "SERVER_ERROR") ||
               starts_with(from, line_len, "CLIENT_ERROR") ||
               starts_with(from, line_len, "ERROR")) {
        error_reply(c, from, line_len);
    } else {
        return -EPROTO;
    }
    return (ssize_t)(nl + 1 - from);
}

static void take_input(struct connection *c)
{
    size_t at = 0;

    c->in_need = 0;
    while (at < c->in_len) {
        size_t need = 0;
        ssize_t used = c->load->opt.binary ? take_packet(c, c->in + at, c->in_len - at, &need)
                                           : take_reply(c, c->in + at, c->in_len - at, &need);
        if (used < 0) {
            note_error(c->load, "unexpected reply: ", c->in + at, c->in_len - at);
            stop_broken(c->load, "unexpected reply");
            return;
        }
        if (used == 0) {
            c->in_need = need;
            break;
        }
        at += (size_t)used;
    }
    memmove(c->in, c->in + at, c->in_len - at);
    c->in_len -= at;
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    struct connection *c = arg;
    struct load *l = c->load;
    size_t want = c->in_len + READ_ROOM_BYTES;

    (void)what;
    if (want < c->in_need)
        want = c->in_need;
    if (want > c->in_room) {
        c->in = need_memory(realloc(c->in, want));
        c->in_room = want;
    }
    ssize_t n = wire_recv(fd, c->tls, c->in + c->in_len, c->in_room - c->in_len);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        note_error(l, "connection closed; last bytes: ", c->in, c->in_len);
        stop_broken(l, "connection closed");
        return;
    }
    l->now_ns = clock_ns();
    l->count.bytes_received += (uint64_t)n;
    c->in_len += (size_t)n;
    if (c->in_len >= c->in_need)
        take_input(c);
    if (l->broken)
        return;
    fill(c);
    flush_out(c);
    stop_if_done(l);
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
    struct connection *c = arg;

    (void)fd;
    (void)what;
    c->load->now_ns = clock_ns();
    flush_out(c);
    fill(c);
    flush_out(c);
}

/* With --rate: sends due requests, round the connections; a request without room keeps
 * its due time and goes out after a reply or at a later tick. */
static void on_pace(evutil_socket_t fd, short what, void *arg)
{
    struct load *l = arg;
    const struct options *o = &l->opt;
    uint32_t full = 0;

    (void)fd;
    (void)what;
    l->now_ns = clock_ns();
    while (full < o->connections && more_to_issue(l)) {
        uint64_t due_ns = next_due_ns(l);
        if (due_ns > l->now_ns)
            break;
        struct connection *c = &l->conns[l->pace_next_conn++ % o->connections];
        if (!has_room(c)) {
            full++;
            continue;
        }
        full = 0;
        issue_one(c, due_ns);
    }
    for (uint32_t i = 0; i < o->connections; i++)
        if (l->conns[i].out_sent < l->conns[i].out_len && !l->conns[i].want_write)
            flush_out(&l->conns[i]);
    stop_if_done(l);
}

static void on_watchdog(evutil_socket_t fd, short what, void *arg)
{
    struct load *l = arg;

    (void)fd;
    (void)what;
    l->now_ns = clock_ns();
    if (l->answered != l->answered_at_last_check || l->under_way == 0) {
        l->answered_at_last_check = l->answered;
        l->last_progress_ns = l->now_ns;
    } else if ((double)(l->now_ns - l->last_progress_ns) > l->opt.timeout_seconds * 1e9) {
        stop_broken(l, "no reply within the timeout");
    }
    stop_if_done(l);
}

/* ---- set-up ---- */

static int connect_unix(const char *path)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    if (fd < 0 || strlen(path) >= sizeof(a.sun_path))
        return -1;
    strcpy(a.sun_path, path);
    return connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0 ? fd : -1;
}

static int connect_tcp(const char *host, const char *port)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list, *a;
    int fd = -1, one = 1;

    if (getaddrinfo(host, port, &hints, &list) != 0)
        return -1;
    for (a = list; a; a = a->ai_next) {
        fd = socket(a->ai_family, a->ai_socktype, a->ai_protocol);
        if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) == 0)
            break;
        if (fd >= 0)
            close(fd);
        fd = -1;
    }
    freeaddrinfo(list);
    if (fd >= 0)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return fd;
}

static void open_connection(struct load *l, uint32_t i)
{
    struct connection *c = &l->conns[i];
    const struct options *o = &l->opt;

    c->load = l;
    c->fd = o->unix_path ? connect_unix(o->unix_path) : connect_tcp(o->host, o->port);
    if (c->fd >= 0 && o->tls)
        c->tls = tls_connect(c->fd);
    if (c->fd < 0 || evutil_make_socket_nonblocking(c->fd) != 0) {
        fprintf(stderr, "load: connection %u of %u: %s\n", i + 1, o->connections, strerror(errno));
        exit(3);
    }
    rng_seed(&c->rng, mix64(o->seed) + i);
    c->next_seq = (uint64_t)((unsigned __int128)o->keys * i / o->connections);
    c->requests = need_memory(calloc(o->depth, sizeof(*c->requests)));
    c->asked = need_memory(calloc((size_t)o->depth * o->multiget, sizeof(*c->asked)));
    c->readable = need_memory(event_new(l->base, c->fd, EV_READ | EV_PERSIST, on_readable, c));
    c->writable = need_memory(event_new(l->base, c->fd, EV_WRITE | EV_PERSIST, on_writable, c));
    event_add(c->readable, NULL);
}

static void close_connection(struct connection *c)
{
    event_free(c->readable);
    event_free(c->writable);
    close(c->fd);
    free(c->requests);
    free(c->asked);
    free(c->in);
    free(c->out);
}

static void run(struct load *l)
{
    const struct options *o = &l->opt;
    struct timeval every_tick = { 0, PACE_TICK_NS / 1000 }, every_quarter = { 0, 250000 };

    l->base = need_memory(event_base_new());
    l->conns = need_memory(calloc(o->connections, sizeof(*l->conns)));
    if (o->mode == MODE_MIX)
        l->versions = need_memory(calloc(o->keys, sizeof(*l->versions)));
    if (o->dist == DIST_ZIPF)
        zipf_setup(&l->zipf, o->keys, o->zipf_s);
    shuffle_setup(&l->shuffle, o->keys);
    for (uint32_t i = 0; i < o->connections; i++)
        open_connection(l, i);
    l->pace = need_memory(event_new(l->base, -1, EV_PERSIST, on_pace, l));
    l->watchdog = need_memory(event_new(l->base, -1, EV_PERSIST, on_watchdog, l));
    event_add(l->watchdog, &every_quarter);
    if (o->rate > 0)
        event_add(l->pace, &every_tick);

    l->start_ns = l->now_ns = l->last_progress_ns = clock_ns();
    l->measured_from_ns = l->start_ns + (uint64_t)(o->warmup * 1e9);
    for (uint32_t i = 0; o->rate <= 0 && i < o->connections; i++) {
        fill(&l->conns[i]);
        flush_out(&l->conns[i]);
    }
    event_base_dispatch(l->base);
    l->end_ns = clock_ns();

    event_free(l->pace);
    event_free(l->watchdog);
    for (uint32_t i = 0; i < o->connections; i++)
        close_connection(&l->conns[i]);
    free(l->conns);
    free(l->versions);
    event_base_free(l->base);
}

/* ---- report ---- */

struct result {
    const char *name;
    double value;
    bool whole; /* a count, printed without decimals */
};

static size_t collect_hist(struct result *r, const struct hist *h, const char *const names[6])
{
    static const double shares[] = { 0.5, 0.9, 0.99, 0.999 };
    size_t n = 0;

    for (; n < 4; n++)
        r[n] = (struct result){ names[n], (double)hist_quantile_ns(h, shares[n]) / 1e3, false };
    r[n++] = (struct result){ names[4], (double)h->max_ns / 1e3, false };
    r[n++] = (struct result){
        names[5], h->count ? (double)h->sum_ns / (double)h->count / 1e3 : 0, false };
    return n;
}

static size_t collect(const struct load *l, struct result *r)
{
    static const char *const get_names[] = { "get_p50_us", "get_p90_us",  "get_p99_us",
                                             "get_p999_us", "get_max_us", "get_mean_us" };
    static const char *const set_names[] = { "set_p50_us", "set_p90_us",  "set_p99_us",
                                             "set_p999_us", "set_max_us", "set_mean_us" };
    const struct counters *k = &l->count;
    double seconds = (double)(l->end_ns - l->start_ns) / 1e9;
    size_t n = 0;

    r[n++] = (struct result){ "seconds", seconds, false };
    r[n++] = (struct result){ "requests", (double)l->answered, true };
    r[n++] = (struct result){ "requests_per_second", (double)l->answered / seconds, true };
    r[n++] = (struct result){ "gets", (double)k->gets, true };
    r[n++] = (struct result){ "hits", (double)k->hits, true };
    r[n++] = (struct result){ "misses", (double)k->misses, true };
    r[n++] = (struct result){ "wrong", (double)k->wrong, true };
    r[n++] = (struct result){ "stale", (double)k->stale, true };
    r[n++] = (struct result){ "sets", (double)k->sets, true };
    r[n++] = (struct result){ "stored", (double)k->stored, true };
    r[n++] = (struct result){ "errors", (double)k->errors, true };
    r[n++] = (struct result){ "measured", (double)(l->get_hist.count + l->set_hist.count), true };
    r[n++] = (struct result){ "busy_to_get", (double)k->busy_to_get, true };
    r[n++] = (struct result){ "value_bytes_read", (double)k->value_bytes_read, true };
    r[n++] = (struct result){ "value_bytes_sent", (double)k->value_bytes_sent, true };
    r[n++] = (struct result){ "bytes_received", (double)k->bytes_received, true };
    r[n++] = (struct result){ "bytes_transmitted", (double)k->bytes_transmitted, true };
    n += collect_hist(r + n, &l->get_hist, get_names);
    n += collect_hist(r + n, &l->set_hist, set_names);
    return n;
}

static void print_machine(const struct load *l, const struct result *r, size_t n)
{
    bool json = l->opt.report == REPORT_JSON;
    const char *before = json ? "{" : "";

    for (size_t i = 0; i < n; i++) {
        printf(json ? "%s\"%s\": %.*f" : "%s%s=%.*f\n", before, r[i].name, r[i].whole ? 0 : 3,
               r[i].value);
        before = json ? ", " : "";
    }
    if (l->opt.mode == MODE_VERIFY) {
        printf(json ? ", \"survived_by_decile\": [" : "survived_by_decile=");
        for (int i = 0; i < DECILES; i++)
            printf("%s%.4f", i ? "," : "",
                   l->count.decile_keys[i]
                       ? (double)l->count.decile_hits[i] / (double)l->count.decile_keys[i]
                       : 0);
        printf(json ? "]" : "\n");
    }
    if (json)
        printf(", \"broken\": %s}\n", l->broken ? "true" : "false");
    else
        printf("broken=%d\n", l->broken);
}

static void print_hist(const char *name, const struct hist *h)
{
    if (h->count)
        printf("  %-4s p50 %.1f us, p90 %.1f us, p99 %.1f us, p99.9 %.1f us, max %.1f us\n", name,
               (double)hist_quantile_ns(h, 0.5) / 1e3, (double)hist_quantile_ns(h, 0.9) / 1e3,
               (double)hist_quantile_ns(h, 0.99) / 1e3, (double)hist_quantile_ns(h, 0.999) / 1e3,
               (double)h->max_ns / 1e3);
}

static void print_human(const struct load *l)
{
    static const char *const mode_names[] = { "load", "verify", "mix" };
    const struct counters *k = &l->count;
    double seconds = (double)(l->end_ns - l->start_ns) / 1e9;

    printf("%s: %" PRIu64 " requests in %.2f s, %.0f a second, seed %" PRIu64 ", epoch %u\n",
           mode_names[l->opt.mode], l->answered, seconds, (double)l->answered / seconds,
           l->opt.seed, l->opt.epoch);
    if (k->sets)
        printf("  sets %" PRIu64 ", stored %" PRIu64 ", %.1f MB of values\n", k->sets, k->stored,
               (double)k->value_bytes_sent / 1e6);
    if (k->gets)
        printf("  gets %" PRIu64 ", hits %" PRIu64 ", misses %" PRIu64 ", %.1f MB of values\n",
               k->gets, k->hits, k->misses, (double)k->value_bytes_read / 1e6);
    printf("  wrong %" PRIu64 ", stale %" PRIu64 ", errors %" PRIu64 "\n", k->wrong, k->stale,
           k->errors);
    print_hist("get", &l->get_hist);
    print_hist("set", &l->set_hist);
    if (l->opt.mode == MODE_VERIFY && k->misses) {
        printf("  survived, by tenth of the keys, first to last:");
        for (int i = 0; i < DECILES; i++)
            printf(" %.1f%%", k->decile_keys[i] ? 100.0 * (double)k->decile_hits[i] /
                                                      (double)k->decile_keys[i]
                                                : 0);
        printf("\n");
    }
}

/* ---- options ---- */

static const struct option long_options[] = {
    { "server", required_argument, NULL, 's' },
    { "unix", required_argument, NULL, 'u' },
    { "mode", required_argument, NULL, 'm' },
    { "conns", required_argument, NULL, 'c' },
    { "depth", required_argument, NULL, 'd' },
    { "get-ratio", required_argument, NULL, 'g' },
    { "dist", required_argument, NULL, 'D' },
    { "keys", required_argument, NULL, 'k' },
    { "first-key", required_argument, NULL, 'f' },
    { "key-size", required_argument, NULL, 'K' },
    { "prefix", required_argument, NULL, 'p' },
    { "value", required_argument, NULL, 'v' },
    { "ops", required_argument, NULL, 'n' },
    { "seconds", required_argument, NULL, 't' },
    { "warmup", required_argument, NULL, 'W' },
    { "rate", required_argument, NULL, 'r' },
    { "multiget", required_argument, NULL, 'M' },
    { "exptime", required_argument, NULL, 'e' },
    { "seed", required_argument, NULL, 'S' },
    { "epoch", required_argument, NULL, 'E' },
    { "timeout", required_argument, NULL, 'T' },
    { "client-flags", no_argument, NULL, 'F' },
    { "binary", no_argument, NULL, 'B' },
    { "no-miss", no_argument, NULL, 'N' },
    { "tls", no_argument, NULL, 'L' },
    { "json", no_argument, NULL, 'j' },
    { "kv", no_argument, NULL, 'V' },
    { "help", no_argument, NULL, 'h' },
    { NULL, 0, NULL, 0 },
};

static const char help_text[] =
    "load: load generator and checker for memcached servers\n"
    "  --server HOST:PORT   (127.0.0.1:11211)  --unix PATH  instead of TCP\n"
    "  --mode M             load (set every key once), verify (get every key once), mix (default)\n"
    "  --conns N            connections (50)   --depth N  requests under way on each (1)\n"
    "  --get-ratio R        share of gets in mix (0.9)\n"
    "  --dist D             uniform, seq, zipf or zipf:S (mix: uniform; load, verify: seq;\n"
    "                       there anything but seq means each key once, in shuffled order)\n"
    "  --keys N             number of keys (100000)   --first-key N  first key id (0)\n"
    "  --key-size B         key length (20)   --prefix P  start of every key (\"k\")\n"
    "  --value SIZE         bytes: N, A-B, or csv:FILE with lines value_bytes,weight (100)\n"
    "  --ops N --seconds S  end of mix, whichever comes first (10 s if neither)\n"
    "  --warmup S           latencies leave out the requests of the first S seconds (0)\n"
    "  --rate R             requests a second in all; latency counts from when they were due\n"
    "  --multiget N         keys per get (1)   --exptime S   --client-flags  flags by key\n"
    "  --binary             the binary protocol: set, getk, and getkq with a noop for many keys\n"
    "  --seed N             key choice (1)     --epoch N  stamp of the values (from the clock);\n"
    "                       verify accepts only this one if given\n"
    "  --timeout S          fail after this long without an answer (30)\n"
    "  --no-miss            a miss is a failure (exit 4)\n"
    "  --tls                the server's certificate is not checked\n"
    "  --json | --kv        machine-readable summary on stdout\n"
    "Exit: 0 right, 1 wrong or stale values, 2 usage, 3 broken or error replies, 4 misses\n";

static uint64_t number(const char *name, const char *text, uint64_t min, uint64_t max)
{
    char *end, what[96];

    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (errno || end == text || *end || *text == '-' || v < min || v > max) {
        snprintf(what, sizeof(what), "--%s must be %" PRIu64 " to %" PRIu64, name, min, max);
        die_usage(what);
    }
    return v;
}

static double fraction(const char *name, const char *text, double max)
{
    char *end, what[96];
    double v = strtod(text, &end);

    if (end == text || *end || !(v >= 0) || v > max) {
        snprintf(what, sizeof(what), "--%s must be 0 to %g", name, max);
        die_usage(what);
    }
    return v;
}

static void parse_value_sizes(struct options *o, const char *text)
{
    unsigned long long a, b;
    char rest;

    if (strncmp(text, "csv:", 4) == 0) {
        int err = sizes_read_csv(&o->sizes, text + 4);
        if (err) {
            fprintf(stderr, "load: %s: %s\n", text + 4,
                    err == -EINVAL ? "no line value_bytes,weight" : strerror(-err));
            exit(2);
        }
        return;
    }
    int n = sscanf(text, "%llu-%llu%c", &a, &b, &rest);
    if (n == 1 && !strchr(text, '-'))
        b = a;
    else if (n != 2)
        die_usage("--value must be N, A-B or csv:FILE");
    if (a > b || b > (1u << 30))
        die_usage("--value must be at most 1073741824 bytes, smaller first");
    o->sizes.min_bytes = (uint32_t)a;
    o->sizes.max_bytes = (uint32_t)b;
}

static void parse_server(struct options *o, char *text)
{
    char *colon = strrchr(text, ':');

    if (!colon || colon == text || !colon[1])
        die_usage("--server must be HOST:PORT");
    *colon = 0;
    o->host = text;
    o->port = colon + 1;
}

static enum mode parse_mode(const char *text)
{
    if (strcmp(text, "load") == 0)
        return MODE_LOAD;
    if (strcmp(text, "verify") == 0)
        return MODE_VERIFY;
    if (strcmp(text, "mix") != 0)
        die_usage("--mode must be load, verify or mix");
    return MODE_MIX;
}

static enum dist parse_dist(struct options *o, const char *text)
{
    if (strcmp(text, "seq") == 0)
        return DIST_SEQ;
    if (strcmp(text, "uniform") == 0)
        return DIST_UNIFORM;
    if (strncmp(text, "zipf", 4) != 0 || (text[4] && text[4] != ':'))
        die_usage("--dist must be seq, uniform, zipf or zipf:S");
    if (text[4])
        o->zipf_s = fraction("dist zipf", text + 5, 10);
    if (o->zipf_s <= 0)
        die_usage("the exponent of zipf must be above 0");
    return DIST_ZIPF;
}

static void check_options(struct options *o)
{
    size_t digits = 1;

    for (uint64_t last = o->first_key + o->keys - 1; last >= 10; last /= 10)
        digits++;
    if (strlen(o->prefix) + digits > o->key_bytes)
        die_usage("--key-size is too small for the prefix and the highest key");
    if (o->mode == MODE_MIX && o->ops == 0 && o->seconds == 0)
        o->seconds = 10;
}

static void parse_options(struct options *o, int argc, char **argv)
{
    bool dist_given = false, epoch_given = false;
    int ch;

    while ((ch = getopt_long(argc, argv, "h", long_options, NULL)) != -1) {
        switch (ch) {
        case 's': parse_server(o, optarg); break;
        case 'u': o->unix_path = optarg; break;
        case 'm': o->mode = parse_mode(optarg); break;
        case 'c': o->connections = (uint32_t)number("conns", optarg, 1, 1000000); break;
        case 'd': o->depth = (uint32_t)number("depth", optarg, 1, 100000); break;
        case 'g': o->get_ratio = fraction("get-ratio", optarg, 1); break;
        case 'D': o->dist = parse_dist(o, optarg); dist_given = true; break;
        case 'k': o->keys = number("keys", optarg, 1, 1000000000000ull); break;
        case 'f': o->first_key = number("first-key", optarg, 0, 1000000000000ull); break;
        case 'K': o->key_bytes = (uint32_t)number("key-size", optarg, 1, KEY_MAX_BYTES); break;
        case 'p':
            if (strlen(optarg) > PREFIX_MAX_BYTES)
                die_usage("--prefix is too long");
            strcpy(o->prefix, optarg);
            break;
        case 'v': parse_value_sizes(o, optarg); break;
        case 'n': o->ops = number("ops", optarg, 1, UINT64_MAX - 1); break;
        case 't': o->seconds = fraction("seconds", optarg, 1e7); break;
        case 'W': o->warmup = fraction("warmup", optarg, 1e7); break;
        case 'r': o->rate = fraction("rate", optarg, 1e9); break;
        case 'M': o->multiget = (uint32_t)number("multiget", optarg, 1, MULTIGET_MAX); break;
        case 'e': o->exptime = (int32_t)number("exptime", optarg, 0, INT32_MAX); break;
        case 'S': o->seed = number("seed", optarg, 0, UINT64_MAX - 1); break;
        case 'E':
            o->epoch = (uint32_t)number("epoch", optarg, 1, UINT32_MAX);
            epoch_given = true;
            break;
        case 'T': o->timeout_seconds = fraction("timeout", optarg, 1e7); break;
        case 'F': o->client_flags = true; break;
        case 'B': o->binary = true; break;
        case 'N': o->no_miss = true; break;
        case 'L': o->tls = true; break;
        case 'j': o->report = REPORT_JSON; break;
        case 'V': o->report = REPORT_KV; break;
        case 'h': fputs(help_text, stdout); exit(0);
        default: exit(2);
        }
    }
    if (optind < argc)
        die_usage("options only, no other arguments");
    if (!dist_given)
        o->dist = o->mode == MODE_MIX ? DIST_UNIFORM : DIST_SEQ;
    if (!epoch_given && o->mode != MODE_VERIFY)
        o->epoch = (uint32_t)(time(NULL) ^ (clock_ns() >> 10)) | 1;
    check_options(o);
}

int main(int argc, char **argv)
{
    static struct load load = {
        .opt = { .host = "127.0.0.1", .port = "11211", .mode = MODE_MIX, .zipf_s = 0.99,
                 .get_ratio = 0.9, .timeout_seconds = 30, .keys = 100000, .seed = 1,
                 .connections = 50, .depth = 1, .key_bytes = 20, .multiget = 1, .prefix = "k",
                 .sizes = { .min_bytes = 100, .max_bytes = 100 } },
    };
    struct result results[64];

    signal(SIGPIPE, SIG_IGN);
    parse_options(&load.opt, argc, argv);
    run(&load);
    if (load.opt.report == REPORT_HUMAN)
        print_human(&load);
    else
        print_machine(&load, results, collect(&load, results));
    if (load.first_error[0])
        fprintf(stderr, "load: %s\n", load.first_error);
    if (load.count.wrong || load.count.stale)
        return 1;
    if (load.broken || load.count.errors)
        return 3;
    return load.opt.no_miss && load.count.misses ? 4 : 0;
}
