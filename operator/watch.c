/* operator/watch.c: see operator/watch.h.
 *
 * A logging thread appends a record (header, line) to `staging` under LOCK_WATCH. The watch thread swaps
 * the buffer for its empty one and works on it alone: it copies each line into the ring of every watcher of
 * its stream, and sends as much as the sockets accept. Watchers belong to the thread; new ones wait in
 * `incoming` under the lock until it fetches them. */
#include "operator/watch.h"

#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/lock.h"
#include "proto/proto.h"

enum { LINE_MAX_BYTES = 4096, PREFIX_BYTES = 80, SKIPPED_LINE_BYTES = 40 };

struct record {
    uint16_t bytes;
    uint16_t streams;
};
static_assert(WATCH_STREAM_COUNT <= 16, "streams of a record");
static_assert(LINE_MAX_BYTES + PREFIX_BYTES <= UINT16_MAX, "bytes of a record");

struct watcher {
    /* const */
    int fd;
    uint32_t streams;
    void (*closed)(void *arg);
    void *arg;
    /* the watch thread's: a ring */
    char *buf;
    size_t head, used;
    uint64_t skipped;
    bool broken;
};

struct staging {
    char *buf;
    size_t used;
};

static struct {
    /* const from watch_start to watch_stop */
    struct watch_options opt;
    pthread_t thread;
    int wake_fd;
    /* atomic */
    _Atomic(uint32_t) mask;
    _Atomic(bool) stop;
    _Atomic(uint64_t) worker_dropped, worker_written, watcher_skipped, watcher_sent;
    _Atomic(uint64_t) watcher_count;
    /* under lock */
    struct lock lock;
    bool started;
    uint64_t gid;
    struct staging staging;
    struct watcher *incoming[WATCH_WATCHERS_MAX];
    unsigned incoming_count;
    unsigned reserved; /* number of watchers, including incoming ones */
    uint32_t streams_of[WATCH_WATCHERS_MAX]; /* of each slot taken, for the mask */
    /* the watch thread's */
    struct staging drained;
    struct watcher *watchers[WATCH_WATCHERS_MAX];
    unsigned count;
} watch;

static void add_one(_Atomic(uint64_t) *n)
{
    atomic_fetch_add_explicit(n, 1, memory_order_relaxed);
}

const _Atomic(uint32_t) *watch_mask(void)
{
    return &watch.mask;
}

bool watch_wants(enum watch_stream stream)
{
    return watch_mask_has(&watch.mask, stream);
}

static void wake(void)
{
    (void)eventfd_write(watch.wake_fd, 1); /* a full counter wakes as well */
}

/* ---- lines in ---- */

static void log_text(enum watch_stream stream, const char *fmt, ...) PRINTF_LIKE(2, 3);

static void log_text(enum watch_stream stream, const char *fmt, ...)
{
    char line[LINE_MAX_BYTES];
    va_list ap;
    if (!watch_wants(stream))
        return;
    va_start(ap, fmt);
    int rc = vsnprintf(line, sizeof(line) - 1, fmt, ap);
    va_end(ap);
    if (rc < 0)
        return;
    size_t len = min_u64((uint64_t)rc, sizeof(line) - 2);
    line[len++] = '\n';

    int64_t us = clock_wall_us();
    char prefix[PREFIX_BYTES];
    bool first = false;
    lock_take(&watch.lock);
    int prefix_len = snprintf(prefix, sizeof(prefix), "ts=%" PRId64 ".%d gid=%" PRIu64 " ",
                              us / 1000000, (int)(us % 1000000), watch.gid + 1);
    DEBUG_ASSERT(prefix_len > 0 && prefix_len < PREFIX_BYTES && watch.staging.used <= watch.opt.staging_bytes);
    struct record rec = {.bytes = (uint16_t)((size_t)prefix_len + len),
                         .streams = (uint16_t)(1u << stream)};
    struct staging *s = &watch.staging;
    if (s->used + sizeof(rec) + rec.bytes > watch.opt.staging_bytes) {
        add_one(&watch.worker_dropped);
    } else {
        first = s->used == 0;
        watch.gid++;
        memcpy(s->buf + s->used, &rec, sizeof(rec));
        memcpy(s->buf + s->used + sizeof(rec), prefix, (size_t)prefix_len);
        memcpy(s->buf + s->used + sizeof(rec) + (size_t)prefix_len, line, len);
        s->used += sizeof(rec) + rec.bytes;
        add_one(&watch.worker_written);
    }
    lock_release(&watch.lock);
    if (first)
        wake();
}

struct key_text {
    char text[PROTO_URI_KEY_MAX + 1];
};

static const char *key_text(struct key_text *out, const struct watch_item *it)
{
    out->text[proto_put_uri(out->text, it->key, it->key_bytes)] = '\0';
    return out->text;
}

void watch_item_get(const struct watch_item *it, enum watch_fetch_status status, int fd)
{
    static const char *const words[] = {
        WATCH_FETCH_TABLE(ROW_TEXT)
    };
    struct key_text key;
    log_text(WATCH_FETCHERS, "type=item_get key=%s status=%s clsid=%u cfd=%d size=%u",
             key_text(&key, it), words[status], it->slab_class, fd, it->value_bytes);
}

void watch_item_store(const struct watch_item *it, const char *status, const char *cmd, int fd)
{
    struct key_text key;
    log_text(WATCH_MUTATIONS,
             "type=item_store key=%s status=%s cmd=%s ttl=%" PRId64 " clsid=%u cfd=%d size=%u",
             key_text(&key, it), status, cmd, it->ttl_sec, it->slab_class, fd, it->value_bytes);
}

void watch_deleted(const struct watch_item *it, const char *cmd)
{
    struct key_text key;
    log_text(WATCH_DELETIONS, "type=deleted key=%s cmd=%s clsid=%u size=%u", key_text(&key, it),
             cmd, it->slab_class, it->value_bytes);
}

void watch_eviction(const struct watch_item *it)
{
    struct key_text key;
    log_text(WATCH_EVICTIONS,
             "type=eviction key=%s fetch=%s ttl=%" PRId64 " la=%u clsid=%u size=%u",
             key_text(&key, it), it->fetched ? "yes" : "no", it->ttl_sec, it->idle_sec,
             it->slab_class, it->value_bytes);
}

void watch_extwrite(const struct watch_item *it, unsigned bucket)
{
    struct key_text key;
    log_text(WATCH_EVICTIONS,
             "type=extwrite key=%s fetch=%s ttl=%" PRId64 " la=%u clsid=%u bucket=%u",
             key_text(&key, it), it->fetched ? "yes" : "no", it->ttl_sec, it->idle_sec,
             it->slab_class, bucket);
}

void watch_connection(const char *ip, unsigned port, const char *transport, const char *reason,
                      int fd)
{
    if (reason)
        log_text(WATCH_CONNEVENTS, "type=conn_close rip=%s rport=%u transport=%s reason=%s cfd=%d",
                 ip, port, transport, reason, fd);
    else
        log_text(WATCH_CONNEVENTS, "type=conn_new rip=%s rport=%u transport=%s cfd=%d", ip, port,
                 transport, fd);
}

void watch_sysevent(const char *line)
{
    log_text(WATCH_SYSEVENTS, "%s", line);
}

void watch_rawcmd(const char *line, size_t len, int fd)
{
    log_text(WATCH_RAWCMDS, "<%d %.*s", fd, (int)len, line);
}

/* ---- lines out: the watch thread ---- */

static void ring_put(struct watcher *w, const char *p, size_t len)
{
    size_t cap = watch.opt.watcher_bytes, at = (w->head + w->used) % cap;
    size_t first = min_u64(len, cap - at);
    DEBUG_ASSERT(w->head < cap && w->used <= cap && len <= cap - w->used);
    memcpy(w->buf + at, p, first);
    memcpy(w->buf, p + first, len - first);
    w->used += len;
}

static void put_skipped(struct watcher *w)
{
    char text[SKIPPED_LINE_BYTES];
    DEBUG_ASSERT(w->skipped > 0);
    int n = snprintf(text, sizeof(text), "skipped=%" PRIu64 "\n", w->skipped);
    ring_put(w, text, (size_t)n);
    w->skipped = 0;
}

static void watcher_offer(struct watcher *w, const char *line, size_t len)
{
    DEBUG_ASSERT(len > 0 && w->used <= watch.opt.watcher_bytes);
    size_t room = watch.opt.watcher_bytes - w->used;
    if (room < len + (w->skipped ? SKIPPED_LINE_BYTES : 0)) {
        w->skipped++;
        add_one(&watch.watcher_skipped);
        return;
    }
    if (w->skipped)
        put_skipped(w);
    ring_put(w, line, len);
    add_one(&watch.watcher_sent);
}

/* A watcher that has read everything learns at once how many lines it missed, not with the next line. */
static void watcher_send(struct watcher *w)
{
    while (w->used > 0 || w->skipped > 0) {
        if (w->used == 0)
            put_skipped(w);
        size_t piece = min_u64(w->used, watch.opt.watcher_bytes - w->head);
        ssize_t n = send(w->fd, w->buf + w->head, piece, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            w->broken = errno != EAGAIN && errno != EWOULDBLOCK;
            return;
        }
        DEBUG_ASSERT((size_t)n <= piece);
        w->head = (w->head + (size_t)n) % watch.opt.watcher_bytes;
        w->used -= (size_t)n;
    }
}

/* Discards a watcher's input and notices that it went away. */
static void watcher_listen(struct watcher *w)
{
    char waste[512];
    ssize_t n = recv(w->fd, waste, sizeof(waste), MSG_DONTWAIT);
    if (n == 0 || (n < 0 && !may_come_later()))
        w->broken = true;
}

static void update_mask(void)
{
    lock_assert_held(&watch.lock);
    DEBUG_ASSERT(watch.reserved <= WATCH_WATCHERS_MAX && watch.incoming_count <= watch.reserved);
    uint32_t mask = 0;
    for (unsigned i = 0; i < watch.reserved; i++)
        mask |= watch.streams_of[i];
    atomic_store_explicit(&watch.mask, mask, memory_order_relaxed);
    atomic_store_explicit(&watch.watcher_count, watch.reserved, memory_order_relaxed);
}

static void watcher_close(struct watcher *w)
{
    unsigned slot = 0;
    lock_take(&watch.lock);
    while (slot < watch.reserved && watch.streams_of[slot] != w->streams)
        slot++;
    ASSERT(slot < watch.reserved);
    watch.streams_of[slot] = watch.streams_of[--watch.reserved];
    update_mask();
    lock_release(&watch.lock);
    close(w->fd);
    w->closed(w->arg);
    free(w->buf);
    free(w);
}

static void fetch_staging(void)
{
    lock_take(&watch.lock);
    DEBUG_ASSERT(watch.drained.used == 0 && watch.count + watch.incoming_count <= WATCH_WATCHERS_MAX);
    struct staging full = watch.staging;
    watch.staging = watch.drained;
    watch.drained = full;
    for (unsigned i = 0; i < watch.incoming_count; i++)
        watch.watchers[watch.count++] = watch.incoming[i];
    watch.incoming_count = 0;
    lock_release(&watch.lock);
}

static void distribute(void)
{
    struct staging *s = &watch.drained;
    for (size_t at = 0; at < s->used;) {
        struct record rec;
        memcpy(&rec, s->buf + at, sizeof(rec));
        const char *line = s->buf + at + sizeof(rec);
        DEBUG_ASSERT(rec.streams != 0 && at + sizeof(rec) + rec.bytes <= s->used);
        for (unsigned i = 0; i < watch.count; i++)
            if (watch.watchers[i]->streams & rec.streams)
                watcher_offer(watch.watchers[i], line, rec.bytes);
        at += sizeof(rec) + rec.bytes;
    }
    s->used = 0;
}

static void *watch_main(void *arg UNUSED)
{
    struct pollfd fds[WATCH_WATCHERS_MAX + 1];
    while (!atomic_load_explicit(&watch.stop, memory_order_acquire)) {
        fds[0] = (struct pollfd){.fd = watch.wake_fd, .events = POLLIN};
        for (unsigned i = 0; i < watch.count; i++)
            fds[i + 1] = (struct pollfd){
                .fd = watch.watchers[i]->fd,
                .events = (short)(POLLIN | (watch.watchers[i]->used > 0 ? POLLOUT : 0))};
        unsigned polled = watch.count;
        lock_assert_none_held();
        if (poll(fds, polled + 1, -1) < 0)
            continue;
        for (unsigned i = 0; i < polled; i++)
            if (fds[i + 1].revents & (POLLIN | POLLHUP | POLLERR))
                watcher_listen(watch.watchers[i]);
        if (fds[0].revents) {
            eventfd_t n;
            (void)eventfd_read(watch.wake_fd, &n);
            fetch_staging();
            distribute();
        }
        unsigned kept = 0;
        for (unsigned i = 0; i < watch.count; i++) {
            struct watcher *w = watch.watchers[i];
            if (!w->broken)
                watcher_send(w);
            if (w->broken)
                watcher_close(w);
            else
                watch.watchers[kept++] = w;
        }
        watch.count = kept;
    }
    fetch_staging();
    for (unsigned i = 0; i < watch.count; i++)
        watcher_close(watch.watchers[i]);
    watch.count = 0;
    return NULL;
}

/* ---- start, stop, watchers ---- */

int watch_start(const struct watch_options *opt)
{
    ASSERT(!watch.started);
    watch.opt = *opt;
    watch.opt.watcher_bytes = max_u64(opt->watcher_bytes, 2 * LINE_MAX_BYTES);
    watch.opt.staging_bytes = max_u64(opt->staging_bytes, 2 * LINE_MAX_BYTES);
    watch.stop = false;
    watch.staging = (struct staging){malloc(watch.opt.staging_bytes), 0};
    watch.drained = (struct staging){malloc(watch.opt.staging_bytes), 0};
    watch.wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    int err = watch.wake_fd < 0 ? -errno : -ENOMEM;
    if (watch.staging.buf && watch.drained.buf && watch.wake_fd >= 0) {
        lock_init(&watch.lock, LOCK_WATCH);
        watch.started = true;
        err = -pthread_create(&watch.thread, NULL, watch_main, NULL);
        if (err == 0)
            return 0;
        watch.started = false;
        lock_destroy(&watch.lock);
    }
    if (watch.wake_fd >= 0)
        close(watch.wake_fd);
    free(watch.staging.buf);
    free(watch.drained.buf);
    return err;
}

void watch_stop(void)
{
    lock_assert_none_held(); /* it waits for the thread */
    if (!watch.started)
        return;
    atomic_store_explicit(&watch.stop, true, memory_order_release);
    wake();
    pthread_join(watch.thread, NULL);
    watch.started = false;
    lock_destroy(&watch.lock);
    close(watch.wake_fd);
    free(watch.staging.buf);
    free(watch.drained.buf);
}

int watch_add(int fd, uint32_t streams, void (*closed)(void *arg), void *arg)
{
    ASSERT(streams < 1u << WATCH_STREAM_COUNT);
    if (!watch.started)
        return -ESHUTDOWN;
    DEBUG_ASSERT(fd >= 0 && closed);
    struct watcher *w = calloc(1, sizeof(*w));
    char *buf = malloc(watch.opt.watcher_bytes);
    int err = -ENOMEM;
    if (w && buf) {
        *w = (struct watcher){
            .fd = fd, .streams = streams, .closed = closed, .arg = arg, .buf = buf};
        ring_put(w, "OK\r\n", 4);
        lock_take(&watch.lock);
        if (watch.reserved == WATCH_WATCHERS_MAX) {
            err = -EMFILE;
        } else {
            watch.streams_of[watch.reserved++] = streams;
            watch.incoming[watch.incoming_count++] = w;
            update_mask();
            err = 0;
        }
        lock_release(&watch.lock);
    }
    if (err) {
        free(buf);
        free(w);
    } else {
        wake();
    }
    return err;
}

void watch_info(struct watch_info *out)
{
    out->worker_dropped = atomic_load_explicit(&watch.worker_dropped, memory_order_relaxed);
    out->worker_written = atomic_load_explicit(&watch.worker_written, memory_order_relaxed);
    out->watcher_skipped = atomic_load_explicit(&watch.watcher_skipped, memory_order_relaxed);
    out->watcher_sent = atomic_load_explicit(&watch.watcher_sent, memory_order_relaxed);
    out->watchers = atomic_load_explicit(&watch.watcher_count, memory_order_relaxed);
}
