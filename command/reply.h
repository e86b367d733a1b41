/* command/reply.h: the unsent replies of a connection, in order, and their buffers.
 *
 * A reply queue is a FIFO of entries. Each is
 *   BYTES   text in a buffer of the pool; neighbours grow together into one entry;
 *   VALUE   bytes with another owner (a pinned item), to whom they go back once they are sent;
 *   SOURCE  a reply that may not be known yet; nothing behind it is sent before it is ready. Its value
 *           may be put away again, even if a part of it was sent, until it is asked back.
 * reply_send() gathers many entries into one sendmsg(); reply_pieces() and reply_sent() are for callers
 * that send them by other means. If there is no memory to add something, nothing more is added until
 * reply_drop(): what a client gets is always the beginning of the answer.
 *
 * The pool has buffers of one size, for reading and for replies, and keeps a few spare ones.
 * Its limit is what read_buf_mem_limit allows each worker; 0 is none.
 *
 * Threads: pool and queues belong to one worker thread; any thread may read the figures of the pool.
 * No locks. Nothing waits; sockets are non-blocking.
 */
#ifndef EXTANT_REPLY_H
#define EXTANT_REPLY_H

#include <sys/uio.h>

#include "base/base.h"

#define REPLY_BUFFER_BYTES ((size_t)16 * 1024)
#define REPLY_SPARE_BUFFERS 64
#define REPLY_COST_BYTES 1152
#define REPLY_ROOM_MAX 2048 /* the most that reply_room() is asked for */

struct buffer_pool {
    /* const */
    uint64_t limit_bytes;
    /* owned by the thread; atomic, because others read the figures */
    _Atomic(uint64_t) buffers, bytes, spare;
    _Atomic(uint64_t) responses; /* pending ones, not counted in the buffers */
    void *spare_list;
};

void pool_init(struct buffer_pool *p, uint64_t limit_bytes);
void pool_drain(struct buffer_pool *p); /* all buffers were given back */
/* A buffer of REPLY_BUFFER_BYTES, or NULL (limit, no memory). */
void *pool_take(struct buffer_pool *p);
void pool_give(struct buffer_pool *p, void *buffer);
/* For buffers of other sizes that count toward the limit: false if it would be exceeded. */
bool pool_charge(struct buffer_pool *p, size_t bytes);
void pool_discharge(struct buffer_pool *p, size_t bytes);
/* Counts one pending response more (1) or less (-1). */
void pool_count_response(struct buffer_pool *p, int by);

/* A reply that will be known later. Belongs to its maker until the queue calls finished(). */
struct reply_source {
    bool ready;
    bool away; /* not ready any more: reply_source_put_away() */
    /* valid once ready: head, value, "\r\n" if crlf; all may be empty */
    const char *head, *value;
    uint32_t head_bytes, value_bytes;
    bool crlf;
    void (*finished)(struct reply_source *s); /* ready and sent, or dropped after it became ready */
};

struct reply_entry {
    const char *data;
    union {
        size_t bytes;                /* BYTES, VALUE */
        struct reply_source *source; /* SOURCE */
    };
    void *holder; /* BYTES: its struct chunk; VALUE: what release() gets */
    enum { REPLY_BYTES, REPLY_VALUE, REPLY_SOURCE } kind;
};

struct chunk;

struct reply_queue {
    /* const after init */
    struct buffer_pool *pool;
    void (*release)(void *ctx, void *holder); /* gives a VALUE's holder back */
    void *release_ctx;
    /* the FIFO: a ring of a power of two of entries; an empty queue keeps one of 256 bytes */
    struct reply_entry *ring;
    uint32_t capacity, head, count;
    uint32_t waiting; /* sources not ready */
    uint32_t replies; /* begun since the queue was empty, if the pool has a limit */
    bool failed;      /* something could not be added: nothing more is */
    struct chunk *chunk; /* where text is being added, or NULL */
    struct reply_entry *open; /* the last entry, if it is text at the end of the chunk and may grow; else NULL */
    size_t head_sent;    /* bytes of the first entry that are gone */
    size_t bytes;        /* to be sent, as far as known */
};

void reply_init(struct reply_queue *q, struct buffer_pool *pool,
                void (*release)(void *ctx, void *holder), void *release_ctx);
/* Calls fn for each source that isn't ready. */
void reply_each_waiting(struct reply_queue *q, void (*fn)(struct reply_source *s));
/* Gives everything back. Sources that are not ready are forgotten: their maker must finish them. */
void reply_drop(struct reply_queue *q);

static inline bool reply_is_empty(const struct reply_queue *q)
{
    return q->count == 0;
}

/* One more reply begins (of a multiget: one more key). False: it doesn't, because there are too many for the pool's
 * limit. As in memcached, each counts for REPLY_COST_BYTES until all are sent. */
bool reply_begin(struct reply_queue *q);
/* Must replies be sent before one more can begin? */
static inline bool reply_is_at_limit(const struct reply_queue *q)
{
    uint64_t limit = q->pool->limit_bytes;
    return unlikely(limit > 0) && q->count > 0 && (uint64_t)(q->replies + 1) * REPLY_COST_BYTES > limit;
}

/* n <= REPLY_ROOM_MAX contiguous bytes at the end of the queue, to be followed by reply_commit() of
 * at most n; NULL: no memory. */
char *reply_room(struct reply_queue *q, size_t n);
void reply_commit(struct reply_queue *q, size_t n);
/* Adds a copy of any length. 0 or -ENOMEM (then a part of it may have been added). */
int reply_bytes(struct reply_queue *q, const void *p, size_t n);
/* Adds static text. Behind a source it isn't copied: for one line that would take a buffer of the pool.
 * 0 or -ENOMEM. */
int reply_text(struct reply_queue *q, const char *text, size_t n);
/* Adds bytes in place. 0 or -ENOMEM (holder stays the caller's). */
int reply_value(struct reply_queue *q, const char *p, size_t n, void *holder);
/* Adds a source; ready or not. 0 or -ENOMEM. */
int reply_source(struct reply_queue *q, struct reply_source *s);
/* The next reply can't be added, so nothing is added any more: the client gets the beginning of the answer. */
void reply_fail(struct reply_queue *q);
/* A source of this queue has become ready. */
void reply_source_ready(struct reply_queue *q, struct reply_source *s);
/* Takes the value of a ready source away for now. Nothing happens to it until reply_source_wanted() returns it; if
 * the queue is dropped before, finished() is called. */
void reply_source_put_away(struct reply_queue *q, struct reply_source *s);
/* Is there a next one to send that was put away, and isn't being fetched back? */
bool reply_next_is_away(struct reply_queue *q);
/* The next one to send, if it was put away; its maker fetches it back from now on, and says when it is ready
 * again. NULL: something else is next. */
struct reply_source *reply_source_wanted(struct reply_queue *q);
/* Was a part of this source, which is the next one to send, sent before it was put away? */
bool reply_has_begun(struct reply_queue *q, const struct reply_source *s);
/* Is the next entry, if there is one, ready to be sent? */
bool reply_is_ready(struct reply_queue *q);

enum reply_progress {
    REPLY_SENT_ALL,  /* nothing left */
    REPLY_NOT_READY, /* the next source isn't ready; all before it is sent */
    REPLY_BLOCKED,   /* the socket is full */
    REPLY_BROKEN,    /* the connection is gone */
};
/* Sends what can be sent; *sent grows by the bytes. */
enum reply_progress reply_send(struct reply_queue *q, int fd, uint64_t *sent);

/* The next bytes to send, in order: up to `max` (>= 3) pieces; returns how many. They belong to the queue
 * and are valid until it changes. 0: nothing is left, or the next source isn't ready. */
unsigned reply_pieces(struct reply_queue *q, struct iovec *pieces, unsigned max);
/* The first n bytes of them were sent. */
void reply_sent(struct reply_queue *q, size_t n);

/* Copies all of it (q->bytes) to `to` instead of sending it, and empties the queue. All sources are ready, and
 * nothing was sent yet. */
void reply_take(struct reply_queue *q, char *to);

#endif
