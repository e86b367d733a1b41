/* command/reply.c: see command/reply.h. */
#include "command/reply.h"

#include <sys/socket.h>

enum { GATHER_MAX = 64, SOURCE_PIECES_MAX = 3, FIRST_CAPACITY = 8 };

/* A buffer of the pool with the text of replies. It is freed once no entry points into it and it isn't being
 * filled. */
struct chunk {
    uint32_t used;
    uint32_t entries;
    char data[];
};
#define CHUNK_BYTES (REPLY_BUFFER_BYTES - sizeof(struct chunk))
static_assert(REPLY_ROOM_MAX <= REPLY_BUFFER_BYTES / 4, "room in a chunk");

/* ---- the pool ---- */

struct spare {
    struct spare *next;
};

static uint64_t get(const _Atomic(uint64_t) *n)
{
    return atomic_load_explicit((_Atomic(uint64_t) *)n, memory_order_relaxed);
}

void pool_init(struct buffer_pool *p, uint64_t limit_bytes)
{
    memset(p, 0, sizeof(*p));
    p->limit_bytes = limit_bytes;
}

void pool_drain(struct buffer_pool *p)
{
    for (struct spare *s = p->spare_list, *next; s; s = next) {
        next = s->next;
        free(s);
        add_own(&p->bytes, -(int64_t)REPLY_BUFFER_BYTES);
        add_own(&p->buffers, -1);
    }
    p->spare_list = NULL;
    atomic_store_explicit(&p->spare, 0, memory_order_relaxed);
    ASSERT(get(&p->bytes) == 0);
}

bool pool_charge(struct buffer_pool *p, size_t bytes)
{
    if (p->limit_bytes && get(&p->bytes) + bytes > p->limit_bytes)
        return false;
    add_own(&p->bytes, (int64_t)bytes);
    return true;
}

void pool_discharge(struct buffer_pool *p, size_t bytes)
{
    ASSERT(get(&p->bytes) >= bytes);
    add_own(&p->bytes, -(int64_t)bytes);
}

void pool_count_response(struct buffer_pool *p, int by)
{
    DEBUG_ASSERT(by > 0 || get(&p->responses) > 0);
    add_own(&p->responses, by);
}

void *pool_take(struct buffer_pool *p)
{
    struct spare *s = p->spare_list;
    if (s) {
        p->spare_list = s->next;
        add_own(&p->spare, -1);
        return s;
    }
    if (!pool_charge(p, REPLY_BUFFER_BYTES))
        return NULL;
    void *buffer = malloc(REPLY_BUFFER_BYTES);
    if (!buffer) {
        pool_discharge(p, REPLY_BUFFER_BYTES);
        return NULL;
    }
    add_own(&p->buffers, 1);
    return buffer;
}

void pool_give(struct buffer_pool *p, void *buffer)
{
    DEBUG_ASSERT(buffer && get(&p->buffers) > get(&p->spare));
    if (get(&p->spare) < REPLY_SPARE_BUFFERS) {
        struct spare *s = buffer;
        s->next = p->spare_list;
        p->spare_list = s;
        add_own(&p->spare, 1);
        return;
    }
    free(buffer);
    add_own(&p->buffers, -1);
    pool_discharge(p, REPLY_BUFFER_BYTES);
}

/* ---- the queue ---- */

static struct reply_entry *entry_at(struct reply_queue *q, uint32_t i)
{
    DEBUG_ASSERT(i < q->capacity);
    return &q->ring[(q->head + i) & (q->capacity - 1)];
}

static size_t source_bytes(const struct reply_source *s)
{
    return (size_t)s->head_bytes + s->value_bytes + (s->crlf ? 2 : 0);
}

static size_t entry_bytes(const struct reply_entry *e)
{
    return e->kind == REPLY_SOURCE ? source_bytes(e->source) : e->bytes;
}

static bool entry_is_ready(const struct reply_entry *e)
{
    return e->kind != REPLY_SOURCE || e->source->ready;
}

/* Counts the entries of a short queue: are its sums right? */
static void assert_queue(struct reply_queue *q)
{
#ifdef EXTANT_DEBUG
    enum { SHORT = 32 };
    size_t bytes = 0;
    uint32_t waiting = 0;
    ASSERT(q->count <= q->capacity && (q->capacity & (q->capacity - 1)) == 0);
    ASSERT(!q->chunk || q->chunk->used <= CHUNK_BYTES);
    ASSERT(q->count > 0 || q->head_sent == 0);
    if (q->open) {
        ASSERT(q->count > 0 && q->open == entry_at(q, q->count - 1));
        ASSERT(q->chunk && q->open->kind == REPLY_BYTES && q->open->holder == q->chunk);
        ASSERT(q->open->data + q->open->bytes == q->chunk->data + q->chunk->used);
    }
    if (q->count > SHORT)
        return;
    for (uint32_t i = 0; i < q->count; i++) {
        const struct reply_entry *e = entry_at(q, i);
        ASSERT(e->kind != REPLY_SOURCE || !e->source->ready || !e->source->away);
        waiting += !entry_is_ready(e);
        bytes += entry_is_ready(e) ? entry_bytes(e) - (i == 0 ? q->head_sent : 0) : 0;
    }
    ASSERT(waiting == q->waiting && bytes == q->bytes);
#else
    (void)q;
#endif
}

void reply_init(struct reply_queue *q, struct buffer_pool *pool,
                void (*release)(void *ctx, void *holder), void *release_ctx)
{
    *q = (struct reply_queue){.pool = pool, .release = release, .release_ctx = release_ctx};
}

static void free_chunk_if_done(struct reply_queue *q, struct chunk *c)
{
    if (c->entries == 0 && c != q->chunk)
        pool_give(q->pool, c);
}

static void end_chunk(struct reply_queue *q)
{
    struct chunk *c = q->chunk;
    q->chunk = NULL;
    q->open = NULL;
    if (c)
        free_chunk_if_done(q, c);
}

/* Without a chunk every addition checks `failed`. */
void reply_fail(struct reply_queue *q)
{
    q->failed = true;
    end_chunk(q);
}

static struct reply_entry *add_entry(struct reply_queue *q)
{
    if (unlikely(q->failed))
        return NULL;
    if (q->count == q->capacity) {
        uint32_t bigger = q->capacity ? q->capacity * 2 : FIRST_CAPACITY;
        struct reply_entry *ring = malloc(bigger * sizeof(*ring));
        if (!ring) {
            reply_fail(q);
            return NULL;
        }
        for (uint32_t i = 0; i < q->count; i++)
            ring[i] = *entry_at(q, i);
        free(q->ring);
        q->ring = ring;
        q->capacity = bigger;
        q->head = 0;
    }
    q->open = NULL;
    return entry_at(q, q->count++);
}

static void drop_entry(struct reply_queue *q, struct reply_entry *e)
{
    switch (e->kind) {
    case REPLY_BYTES: {
        struct chunk *c = e->holder;
        if (!c) /* static text */
            break;
        DEBUG_ASSERT(c->entries > 0 && c->used <= CHUNK_BYTES);
        c->entries--;
        free_chunk_if_done(q, c);
        break;
    }
    case REPLY_VALUE:
        q->release(q->release_ctx, e->holder);
        break;
    case REPLY_SOURCE:
        if (e->source->ready || e->source->away)
            e->source->finished(e->source);
        break;
    }
}

static void free_ring(struct reply_queue *q)
{
    free(q->ring);
    q->ring = NULL;
    q->capacity = 0;
}

/* The queue is empty: gives back the buffer, and a ring that has grown. A small ring is kept for the next
 * request. */
static void rest(struct reply_queue *q)
{
    ASSERT(q->count == 0 && q->bytes == 0 && q->waiting == 0 && q->head_sent == 0);
    end_chunk(q);
    if (q->capacity > FIRST_CAPACITY)
        free_ring(q);
    q->head = 0;
    q->replies = 0;
}

bool reply_begin(struct reply_queue *q)
{
    uint64_t limit = q->pool->limit_bytes;
    if (likely(limit == 0))
        return true;
    if (q->count == 0) /* those that began earlier were silent */
        q->replies = 0;
    if ((uint64_t)(q->replies + 1) * REPLY_COST_BYTES > limit)
        return false;
    q->replies++;
    return true;
}

void reply_each_waiting(struct reply_queue *q, void (*fn)(struct reply_source *s))
{
    for (uint32_t i = 0; q->waiting > 0 && i < q->count; i++) {
        struct reply_entry *e = entry_at(q, i);
        if (e->kind == REPLY_SOURCE && !e->source->ready)
            fn(e->source);
    }
}

void reply_drop(struct reply_queue *q)
{
    q->open = NULL;
    while (q->count > 0) {
        struct reply_entry e = *entry_at(q, 0);
        q->head++;
        q->count--;
        drop_entry(q, &e);
    }
    q->bytes = 0;
    q->waiting = 0;
    q->head_sent = 0;
    q->failed = false;
    rest(q);
    free_ring(q);
}

/* An entry to grow into, so that reply_commit() can't fail, in a chunk with room for n bytes. NULL: no memory. */
static char *open_entry(struct reply_queue *q, size_t n)
{
    DEBUG_ASSERT(n <= REPLY_ROOM_MAX);
    if (q->chunk && CHUNK_BYTES - q->chunk->used < n)
        end_chunk(q);
    if (!q->chunk) {
        struct chunk *c = q->failed ? NULL : pool_take(q->pool);
        if (!c) {
            reply_fail(q);
            return NULL;
        }
        c->used = c->entries = 0;
        q->chunk = c;
    }
    if (!q->open) {
        struct reply_entry *last = add_entry(q);
        if (!last)
            return NULL;
        *last = (struct reply_entry){.data = q->chunk->data + q->chunk->used,
                                     .bytes = 0,
                                     .holder = q->chunk,
                                     .kind = REPLY_BYTES};
        q->open = last;
        q->chunk->entries++;
    }
    return q->chunk->data + q->chunk->used;
}

char *reply_room(struct reply_queue *q, size_t n)
{
    DEBUG_ASSERT(n <= REPLY_ROOM_MAX);
    if (likely(q->open && CHUNK_BYTES - q->chunk->used >= n))
        return q->chunk->data + q->chunk->used;
    return open_entry(q, n);
}

void reply_commit(struct reply_queue *q, size_t n)
{
    DEBUG_ASSERT(q->open && q->open == entry_at(q, q->count - 1));
    DEBUG_ASSERT(q->chunk->used + n <= CHUNK_BYTES);
    DEBUG_ASSERT(q->open->data + q->open->bytes == q->chunk->data + q->chunk->used);
    q->open->bytes += n;
    q->chunk->used += (uint32_t)n;
    q->bytes += n;
}

int reply_bytes(struct reply_queue *q, const void *p, size_t n)
{
    const char *from = p;
    while (n > 0) {
        size_t piece = min_u64(n, REPLY_ROOM_MAX);
        char *to = reply_room(q, piece);
        if (!to)
            return -ENOMEM;
        memcpy(to, from, piece);
        reply_commit(q, piece);
        from += piece;
        n -= piece;
    }
    return 0;
}

int reply_text(struct reply_queue *q, const char *text, size_t n)
{
    if (q->chunk || q->count == 0 || entry_at(q, q->count - 1)->kind != REPLY_SOURCE)
        return reply_bytes(q, text, n);
    struct reply_entry *e = add_entry(q);
    if (!e)
        return -ENOMEM;
    *e = (struct reply_entry){.data = text, .bytes = n, .kind = REPLY_BYTES};
    q->bytes += n;
    return 0;
}

int reply_value(struct reply_queue *q, const char *p, size_t n, void *holder)
{
    struct reply_entry *e = add_entry(q);
    if (!e)
        return -ENOMEM;
    *e = (struct reply_entry){.data = p, .bytes = n, .holder = holder, .kind = REPLY_VALUE};
    q->bytes += n;
    return 0;
}

/* A part of the first source may have been sent. */
static size_t unsent_bytes(struct reply_queue *q, const struct reply_source *s)
{
    const struct reply_entry *first = entry_at(q, 0);
    bool is_first = first->kind == REPLY_SOURCE && first->source == s;
    DEBUG_ASSERT(!is_first || q->head_sent <= source_bytes(s));
    return source_bytes(s) - (is_first ? q->head_sent : 0);
}

int reply_source(struct reply_queue *q, struct reply_source *s)
{
    struct reply_entry *e = add_entry(q);
    if (!e)
        return -ENOMEM;
    *e = (struct reply_entry){.source = s, .kind = REPLY_SOURCE};
    if (s->ready)
        q->bytes += source_bytes(s);
    else
        q->waiting++;
    return 0;
}

void reply_source_ready(struct reply_queue *q, struct reply_source *s)
{
    ASSERT(!s->ready && !s->away && q->waiting > 0);
    s->ready = true;
    q->waiting--;
    q->bytes += unsent_bytes(q, s);
    assert_queue(q);
}

void reply_source_put_away(struct reply_queue *q, struct reply_source *s)
{
    ASSERT(s->ready && s->value_bytes > 0);
    q->bytes -= unsent_bytes(q, s);
    q->waiting++;
    s->ready = false;
    s->away = true;
    s->value = NULL;
    assert_queue(q);
}

bool reply_next_is_away(struct reply_queue *q)
{
    struct reply_entry *e = q->count ? entry_at(q, 0) : NULL;
    return e && e->kind == REPLY_SOURCE && e->source->away;
}

struct reply_source *reply_source_wanted(struct reply_queue *q)
{
    if (!reply_next_is_away(q))
        return NULL;
    struct reply_source *s = entry_at(q, 0)->source;
    s->away = false;
    return s;
}

bool reply_has_begun(struct reply_queue *q, const struct reply_source *s)
{
    const struct reply_entry *first = entry_at(q, 0);
    ASSERT(first->kind == REPLY_SOURCE && first->source == s);
    return q->head_sent > 0;
}

/* ---- sending ---- */

/* The pieces gathered from entries; the first `skip` bytes were sent already. */
struct gather {
    struct iovec *iov;
    unsigned count;
    size_t skip;
};

static void gather_piece(struct gather *g, const char *p, size_t n)
{
    if (g->skip >= n) {
        g->skip -= n;
        return;
    }
    g->iov[g->count++] = (struct iovec){(void *)(uintptr_t)(p + g->skip), n - g->skip};
    g->skip = 0;
}

bool reply_is_ready(struct reply_queue *q)
{
    return q->count == 0 || entry_is_ready(entry_at(q, 0));
}

static void gather_entry(struct gather *g, const struct reply_entry *e)
{
    if (e->kind != REPLY_SOURCE) {
        gather_piece(g, e->data, e->bytes);
        return;
    }
    const struct reply_source *s = e->source;
    gather_piece(g, s->head, s->head_bytes);
    gather_piece(g, s->value, s->value_bytes);
    gather_piece(g, "\r\n", s->crlf ? 2 : 0);
}

/* n may be 0. Drops the entries that are finished. */
void reply_sent(struct reply_queue *q, size_t n)
{
    ASSERT(n <= q->bytes);
    assert_queue(q);
    q->bytes -= n;
    q->head_sent += n;
    while (q->count > 0) {
        struct reply_entry e = *entry_at(q, 0);
        if (!entry_is_ready(&e) || q->head_sent < entry_bytes(&e))
            return;
        q->head_sent -= entry_bytes(&e);
        q->head++;
        q->count--;
        drop_entry(q, &e);
    }
    rest(q);
}

void reply_take(struct reply_queue *q, char *to)
{
    ASSERT(q->waiting == 0 && q->head_sent == 0);
    assert_queue(q);
    for (uint32_t i = 0; i < q->count; i++) {
        struct iovec iov[SOURCE_PIECES_MAX];
        struct gather g = {.iov = iov};
        gather_entry(&g, entry_at(q, i));
        for (unsigned k = 0; k < g.count; k++) {
            memcpy(to, g.iov[k].iov_base, g.iov[k].iov_len);
            to += g.iov[k].iov_len;
        }
    }
    reply_drop(q);
}

static ALWAYS_INLINE unsigned gather(struct reply_queue *q, struct iovec *pieces, unsigned max)
{
    DEBUG_ASSERT(max >= SOURCE_PIECES_MAX);
    struct gather g = {.iov = pieces, .skip = q->head_sent};
    for (uint32_t i = 0; i < q->count && g.count + SOURCE_PIECES_MAX <= max; i++) {
        const struct reply_entry *e = entry_at(q, i);
        if (!entry_is_ready(e))
            break;
        gather_entry(&g, e);
    }
    return g.count;
}

unsigned reply_pieces(struct reply_queue *q, struct iovec *pieces, unsigned max)
{
    return gather(q, pieces, max);
}

enum reply_progress reply_send(struct reply_queue *q, int fd, uint64_t *sent)
{
    for (;;) {
        struct iovec iov[GATHER_MAX];
        unsigned count = gather(q, iov, GATHER_MAX);
        if (count == 0) { /* the entries may be empty */
            reply_sent(q, 0);
            return q->count == 0 ? REPLY_SENT_ALL : REPLY_NOT_READY;
        }
        struct msghdr msg = {.msg_iov = iov, .msg_iovlen = count};
        const int flags = MSG_NOSIGNAL | MSG_DONTWAIT;
        ssize_t n = count == 1 ? send(fd, iov[0].iov_base, iov[0].iov_len, flags)
                               : sendmsg(fd, &msg, flags);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            return errno == EAGAIN || errno == EWOULDBLOCK ? REPLY_BLOCKED : REPLY_BROKEN;
        }
        *sent += (uint64_t)n;
        reply_sent(q, (size_t)n);
    }
}
