/* command/session.h: a session is the server's side of one client's conversation: its unanswered requests
 * and its state. command/command.h executes requests, command/admin.h those about the server, command/login.h
 * those that log in.
 *
 * Bounds: SESSION_PARKED_MAX ops in flight, which read SESSION_READ_BYTES_MAX, and
 * SESSION_REPLY_BYTES_MAX of unsent replies (and one reply more). A session beyond them executes
 * nothing until it is below again. If replies and requests of all sessions of a worker exceed its
 * share of SESSION_ALL_BYTES_MAX, each session has one request at a time, or short replies that fill half a buffer.
 *
 * Values read from flash stay in the worker's read buffers until they are sent. If others wait for a buffer, a value
 * that could not be sent for SESSION_PATIENCE_MS, because its client reads nothing or an earlier reply is
 * missing, is put away and read again when its turn comes. So clients that are many or slow, or that never read,
 * cost no memory and delay nobody.
 *
 * Threads: a session and its command_worker belong to one worker thread. No locks on entry.
 */
#ifndef EXTANT_SESSION_H
#define EXTANT_SESSION_H

#include <sys/queue.h>

#include "space/arena.h"
#include "operator/auth.h"
#include "base/base.h"
#include "cache_run.h"
#include "restart/persist.h"
#include "operator/prefix.h"
#include "proto/proto.h"
#include "command/encode.h"
#include "command/reply.h"
#include "operator/settings.h"
#include "operator/stats.h"

#define SESSION_PARKED_MAX 128
#define SESSION_REPLY_BYTES_MAX ((size_t)256 * 1024)
#define SESSION_REPLY_ENTRIES_MAX 4096
#define SESSION_READ_BYTES_MAX ((uint64_t)1024 * 1024)
#define SESSION_ALL_BYTES_MAX ((uint64_t)16 * 1024 * 1024) /* of all workers */
#define SESSION_PATIENCE_MS 10
#define SESSION_PENDING_BYTES_MAX 4096 /* a pending request takes less */
#define COMMAND_COPY_BYTES_MAX 1024 /* values up to this are copied into the reply */

struct report;
struct crawler;
struct maint;
struct pending;
struct session;

/* Counters of the whole server that several threads change. */
struct server_counters {
    _Atomic(uint64_t) curr_conns, listeners, total_conns, rejected_conns;
    _Atomic(uint64_t) listen_disabled_num, listen_disabled_us;
    _Atomic(uint64_t) binary_rejected;
    _Atomic(uint64_t) tls_new_sessions, tls_handshake_errors, tls_proto_errors;
    _Atomic(uint32_t) certs_loaded_sec; /* clock */
    _Atomic(uint64_t) unexpected_napi_ids, round_robin_fallback; /* of -N */
    _Atomic(bool) accepting;
};

/* What commands work on; one for each server. The pointers are const once threads run. */
struct command_env {
    struct settings *settings;
    struct cache *cache;
    struct arena *arena;
    struct slab_mem *slab;
    struct index *index;
    struct extstore *ext;          /* NULL without flash */
    struct cache_config *config;   /* settings as the cache sees them (storage_config.h) */
    struct ext_tunables *tunables; /* of ext */
    const struct persist *persist; /* NULL without flash */
    struct maint *maint;
    struct crawler *crawler;
    struct auth *auth; /* NULL without -Y */
    struct udp_sockets *udp; /* NULL without -U; for the workers */
    struct tls *tls;         /* NULL without -Z; for the workers */
    const struct conn_tls *conn_tls; /* the same: the calls of TLS connections */
    struct prefixes *prefixes;
    struct thread_stats **thread_stats;
    unsigned thread_count;
    struct server_counters *counters;
    struct report *report;
    uint64_t reserved_fds;
    uint64_t connection_bytes; /* of one connection, beside its buffers */
    _Atomic(bool) stopping; /* set at the end: dumps give up */
    /* upward calls, to the owner of sockets and threads; each gets `upper` */
    void *upper;
    void (*stop)(void *upper, bool graceful);
    /* `refresh_certs`: 0, or negative with a line in why[]; NULL without -Z */
    int (*refresh_certs)(void *upper, char *why, size_t why_bytes);
    /* for `stats conns`; no lock is held while fn runs */
    void (*each_conn)(void *upper,
                      void (*fn)(void *ctx, int fd, const char *name, const char *text), void *ctx);
    /* the sum of the workers' buffer pools */
    void (*buffer_info)(void *upper, struct buffer_pool *sum);
    /* what TLS has allocated, beside the buffers; NULL without -Z */
    uint64_t (*tls_bytes)(void);
};

/* What one worker thread keeps for its sessions. */
struct command_worker {
    const struct command_env *env;
    struct cache_worker *cache_worker;
    struct thread_stats *stats;
    struct buffer_pool pool;
    uint64_t reply_bytes_max; /* see session_is_full */
    TAILQ_HEAD(, pending) values; /* read from flash, ready and not yet sent; the oldest first */
    const _Atomic(uint32_t) *watch_mask;
    struct pending *spare; /* free list */
    unsigned spare_count;
};

void command_worker_init(struct command_worker *w, const struct command_env *env,
                         struct cache_worker *cache_worker, struct thread_stats *stats,
                         uint64_t buffer_limit_bytes);
/* No session is left. */
void command_worker_drain(struct command_worker *w);

/* A key in a line or packet, and where the index has it, so that it is hashed and found once; len 0: none. */
struct seen_key {
    const char *key;
    uint32_t len;
    struct index_spot spot;
};

struct session {
    /* const */
    struct command_worker *w;
    int fd; /* for log lines only */
    /* A parked op is done, so there may be something to send or to execute. Called in the worker's thread, never
     * from within a call of this module. */
    void (*resumed)(struct session *s);
    /* The client's address for the log: "tcp:1.2.3.4:5". NULL with -U, where nobody can log in. */
    void (*peer)(const struct session *s, char *out, size_t size);
    /* After session_close() said false: the last op is done. */
    void (*ended)(struct session *s);
    /* state */
    struct reply_queue out;
    const struct request *request; /* within command_execute(): what is executed, else NULL */
    struct seen_key *seen; /* the same: of its first key, or NULL */
    struct pending *store; /* its value is being received; no op is parked meanwhile */
    uint32_t parked;       /* requests whose ops wait; a change is the only one */
    uint64_t parked_bytes; /* that these read, of gets */
    uint64_t blocked_ms;   /* when the client last took something, if it is slow; 0: it takes all that is sent */
    uint32_t get_offset;   /* bytes of a get's keys that were executed */
    uint64_t swallow_bytes; /* of a refused value, to be thrown away */
    uint64_t handover;     /* COMMAND_WATCH: streams; COMMAND_DUMP: slab classes */
    uint8_t dump_job;      /* COMMAND_DUMP: enum crawler_job */
    bool is_binary;        /* what is received are packets; else lines */
    bool barrier;          /* execute nothing until parked is 0 */
    bool fetching;         /* the next reply's value was put away and is being read again; no request waits for it */
    bool authenticated;    /* or there is nothing to log in to */
    bool sasl_started;     /* it has named a mechanism that we know */
    bool gone;   /* the client has left */
    bool broken; /* there was no memory for a reply: close */
};

void session_init(struct session *s, struct command_worker *w, int fd,
                  void (*resumed)(struct session *s), void (*ended)(struct session *s));
/* The client sends nothing more, and has probably left: its values are read from flash after those of others. */
void session_put_last(struct session *s);
/* The client has left: drops its replies, and ends its gets that wait for their turn to be read. True: no op is under
 * way, the session may be freed. False: ended() will be called. */
bool session_close(struct session *s);
/* Memory of replies and of pending requests, without values. */
static inline uint64_t command_worker_bytes(const struct command_worker *w)
{
    return atomic_load_explicit(&w->pool.bytes, memory_order_relaxed) +
           atomic_load_explicit(&w->pool.responses, memory_order_relaxed) * SESSION_PENDING_BYTES_MAX;
}
static inline bool session_is_crowded(const struct session *s)
{
    return command_worker_bytes(s->w) >= s->w->reply_bytes_max;
}
static inline bool session_is_full(const struct session *s)
{
    if (likely(s->parked == 0 && s->out.count <= 1 && s->out.bytes < REPLY_BUFFER_BYTES / 2))
        return false; /* so little is allowed in any case */
    return s->parked >= SESSION_PARKED_MAX || s->parked_bytes >= SESSION_READ_BYTES_MAX ||
           s->out.bytes >= SESSION_REPLY_BYTES_MAX || s->out.count >= SESSION_REPLY_ENTRIES_MAX ||
           session_is_crowded(s);
}
/* Nothing is executed now. */
static inline bool session_must_wait(const struct session *s)
{
    return s->barrier || session_is_full(s) || reply_is_at_limit(&s->out);
}
/* To be called after each send. blocked: the socket takes no more; progress: it took something. */
void session_sent(struct session *s, bool blocked, bool progress);
/* The next reply is not ready: is that because its value was put away? */
static inline bool session_wants_fetch(struct session *s)
{
    return reply_next_is_away(&s->out);
}
/* Fetches it back; true iff it is ready now. */
bool session_fetch(struct session *s);

enum command_result {
    COMMAND_DONE,  /* it was executed; look at store and swallow_bytes next */
    COMMAND_SPOILED, /* the same, but its answer ends early with an error: no more keys of its line are answered */
    COMMAND_AGAIN, /* not now: the same line again once session_must_wait() is false */
    COMMAND_YIELD, /* a get of very many keys: the same line again, once others have had a turn */
    COMMAND_CLOSE, /* send what is there, then close */
    COMMAND_WATCH, /* hand the socket to watch_add, the streams are in handover; no reply waits */
    COMMAND_DUMP,  /* hand the socket to dump_start(); no reply waits */
};

/* ---- ops that may be parked ---- */

/* An op, a copy of what its reply needs (its line is gone by the time it is done), and the head of the
 * reply. Its life, with the function on each edge (asserted):
 *
 *   made       pending_make: the op is set up and not run
 *   -> parked  park (run_read, run_change, look_and_change): the op waits for flash or memory and counts in
 *              session.parked; nobody may free it
 *   parked ->  read_done, change_done, lookup_done: the op is done, whether the client is still there or not
 *   -> queued  run_read, queue_ready: a get has its place in the reply queue; the queue frees it when it is sent or
 *              dropped (source_finished), if it is ready by then, else read_done does
 *   -> held    pending_hold: the value is in a read buffer; may become `away` (put_values_away), comes back by
 *              session_fetch and fetch_done. Meanwhile the op is parked but not counted: its request was executed,
 *              so changes need not wait for it, and begin and end meanwhile
 *   -> then    look_and_change: a change waits for the lookup that watchers see, and begins in lookup_done
 *   -> store   change_next: a store has memory for its value, session.store is it; command_store runs it
 *   -> dropping change_next: the store was refused, and the old value goes
 *   -> freed   pending_free: not parked, in no list
 */
struct pending {
    struct cache_op op;
    struct reply_source source; /* reads */
    struct session *s;
    struct pending *next; /* free list */
    uint32_t received;    /* stores: bytes of the value that are there */
    uint64_t read_bytes;  /* gets: counted in the session's parked_bytes */
    TAILQ_ENTRY(pending) among_values; /* while `held` */
    uint64_t held_ms;     /* when that began */
    bool held;            /* its value is in a read buffer */
    uint64_t parked_ns, waited_ns; /* when the present wait began; the sum of those that are over */
    bool parked;
    bool queued;          /* stands in the reply queue */
    struct pending *then; /* of a lookup that only watchers see: the change that comes after it */
    bool dropping;        /* a refused store removes the old value */
    enum reply refusal;   /* why it was refused */
    struct request req;   /* key leads to `key`, opaque to `opaque`; tokens are not kept */
    char key[PROTO_KEY_MAX];
    char opaque[PROTO_OPAQUE_MAX];
    char head[ENCODE_MAX];
};

static_assert(sizeof(struct pending) <= SESSION_PENDING_BYTES_MAX, "a pending request");

/* A pending with its op, for this request; the index has the key at this spot. NULL: no memory. */
struct pending *pending_make(struct session *s, enum cache_verb verb, const struct request *req,
                             const char *key, uint32_t key_len, const struct index_spot *spot);
/* Also releases what the op holds. */
void pending_free(struct pending *p);
/* A get is ready and in the queue: if its value is in a read buffer, it may be put away from now on. */
void pending_hold(struct pending *p);
/* A parked op is done. First: one op less is parked. At the end: tells the session's owner. */
void session_unpark(struct session *s);
void session_tell(struct session *s);

/* ---- answers, at the end of the queue ---- */

/* A fixed reply to this request, unless it wants none. */
void session_answer(struct session *s, const struct request *req, enum reply reply);
/* One statistic (value_bytes <= ENCODE_STAT_VALUE_MAX); one that is a text of many lines. */
void session_stat(struct session *s, const char *name, const char *value, size_t value_bytes);
void session_block(struct session *s, const char *name, const char *text, size_t bytes);
/* A fixed reply to the request under execution, or a line if there is none; text of any length. */
void session_reply(struct session *s, enum reply reply);
void session_bytes(struct session *s, const void *p, size_t n);
void session_printf(struct session *s, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* There was no memory for a reply: nothing more is sent, and the connection closes. */
void session_break(struct session *s);
/* As reply_room(), to be followed by reply_commit(). NULL: there was no memory, and that has been said. */
static inline char *session_room(struct session *s, size_t n)
{
    char *to = reply_room(&s->out, n);
    if (unlikely(!to))
        session_break(s);
    return to;
}

#endif
