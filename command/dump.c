/* command/dump.c: see command/dump.h. */
#include "command/dump.h"

#include <poll.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/lock.h"
#include "proto/base64.h"

enum { DUMP_BUFFER_BYTES = 64 * 1024, DUMP_LINE_MAX = 1200, DUMP_POLL_MS = 100 };
/* There is one crawler, which others need too: a client that reads nothing for this long loses its dump and its
 * connection. */
enum { DUMP_PATIENCE_SEC = 30 };

/* Belongs to the crawler's thread once started. */
struct dump {
    const struct command_env *env;
    int fd;
    enum crawler_job job;
    bool broken;
    void (*over)(void *arg, bool alive);
    void *arg;
    size_t used;
    char buf[DUMP_BUFFER_BYTES];
};

/* Sends all of the buffer, waiting for the client. */
static void dump_flush(struct dump *d)
{
    DEBUG_ASSERT(d->used <= sizeof(d->buf));
    size_t at = 0;
    uint32_t last_sec = clock_now_sec();
    while (!d->broken && at < d->used) {
        ssize_t n = send(d->fd, d->buf + at, d->used - at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n > 0) {
            at += (size_t)n;
            last_sec = clock_now_sec();
        } else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            struct pollfd p = {.fd = d->fd, .events = POLLOUT};
            lock_assert_none_held();
            poll(&p, 1, DUMP_POLL_MS);
            d->broken = atomic_load(&d->env->stopping) ||
                        clock_now_sec() - last_sec > DUMP_PATIENCE_SEC;
        } else if (n == 0 || errno != EINTR) {
            d->broken = true;
        }
    }
    d->used = 0;
}

static int put_metadump(char *out, size_t size, const struct cache_meta *m)
{
    char key[PROTO_URI_KEY_MAX + 1];
    key[proto_put_uri(key, m->key, m->key_bytes)] = '\0';
    int64_t exp = m->exptime_sec == CLOCK_NEVER_SEC ? -1 : clock_rel_to_wall(m->exptime_sec);
    int n = snprintf(out, size,
                     "key=%s exp=%" PRId64 " la=%" PRId64 " cas=%" PRIu64
                     " fetch=%s cls=%u size=%u flags=%u ",
                     key, exp, clock_rel_to_wall(m->time_sec), m->cas, m->fetched ? "yes" : "no",
                     m->slab_class, m->accounted_bytes, m->client_flags);
    if (m->on_flash)
        n += snprintf(out + n, size - (size_t)n, "ext_page=%u ext_offset=%u ", m->ext_page,
                      m->ext_offset);
    out[n++] = '\n';
    return n;
}

/* The key is in base64 if the client gave it so, or if a line could not hold it. */
static int put_mgdump(char *out, const struct cache_meta *m)
{
    memcpy(out, "mg ", 3);
    if (!m->binary_key && proto_key_is_word(m->key, m->key_bytes)) {
        memcpy(out + 3, m->key, m->key_bytes);
        memcpy(out + 3 + m->key_bytes, "\r\n", 2);
        return 3 + m->key_bytes + 2;
    }
    size_t n = 3 + base64_encode(out + 3, m->key, m->key_bytes);
    memcpy(out + n, " b\r\n", 4);
    return (int)n + 4;
}

static_assert(DUMP_LINE_MAX > PROTO_URI_KEY_MAX + 300, "a line of metadump");

static int dump_put(void *ctx, const struct cache_meta *m)
{
    struct dump *d = ctx;
    if (sizeof(d->buf) - d->used < DUMP_LINE_MAX)
        dump_flush(d);
    if (d->broken || atomic_load_explicit(&d->env->stopping, memory_order_relaxed))
        return -EPIPE;
    char *to = d->buf + d->used;
    size_t room = sizeof(d->buf) - d->used;
    DEBUG_ASSERT(room >= DUMP_LINE_MAX && m->key_bytes > 0);
    d->used += (size_t)(d->job == CRAWLER_METADUMP ? put_metadump(to, room, m)
                                                   : put_mgdump(to, m));
    return 0;
}

static void dump_done(void *ctx, bool complete)
{
    lock_assert_none_held(); /* it may wait for the client */
    struct dump *d = ctx;
    if (complete && !d->broken) {
        if (sizeof(d->buf) - d->used < DUMP_LINE_MAX)
            dump_flush(d);
        size_t len;
        const char *end = reply_line(d->job == CRAWLER_METADUMP ? REPLY_END : REPLY_EN, &len);
        memcpy(d->buf + d->used, end, len);
        d->used += len;
        dump_flush(d);
    }
    d->over(d->arg, complete && !d->broken);
    free(d);
}

enum reply dump_refusal(enum crawler_result r)
{
    static const enum reply replies[] = {
        [CRAWLER_OK] = REPLY_OK, [CRAWLER_BUSY] = REPLY_CRAWLER_BUSY, [CRAWLER_DISABLED] = REPLY_CRAWLER_DISABLED};
    ASSERT(r < ARRAY_COUNT(replies));
    return replies[r];
}

enum reply dump_start(struct session *s, int fd, void (*over)(void *arg, bool alive), void *arg)
{
    DEBUG_ASSERT(fd >= 0 && over && reply_is_empty(&s->out));
    struct dump *d = calloc(1, sizeof(*d));
    if (!d)
        return REPLY_CRAWLER_ERROR;
    d->env = s->w->env;
    d->fd = fd;
    d->job = (enum crawler_job)s->dump_job;
    d->over = over;
    d->arg = arg;
    const char *ok = reply_line(REPLY_OK, &d->used);
    memcpy(d->buf, ok, d->used);
    struct crawler_sink sink = {.ctx = d, .item = dump_put, .done = dump_done};
    enum crawler_result r = crawler_start(s->w->env->crawler, s->handover, d->job, &sink);
    if (r == CRAWLER_OK)
        return REPLY_NONE;
    free(d);
    return dump_refusal(r);
}
