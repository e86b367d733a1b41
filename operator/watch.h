/* operator/watch.h: the log that clients follow with `watch`: lines in, watchers out.
 *
 * Threads format lines into a bounded staging buffer; one thread passes
 * them to the watchers, each with a bounded buffer of its own. A watcher that reads too
 * slowly loses lines and is told how many (`skipped=N`); no thread ever waits for it. A full staging
 * buffer drops lines and counts them.
 *
 * A process has one log, so logging needs no handle. Before the log is started
 * (tests of single modules), and while nobody watches a stream, logging costs one load and does
 * nothing.
 *
 * Threads: any, except for watch_start and watch_stop. Lock: LOCK_WATCH, held for
 * one memcpy; never over I/O. So everything here may be called with any earlier lock held.
 */
#ifndef EXTANT_WATCH_H
#define EXTANT_WATCH_H

#include "base/base.h"

#define WATCH_WATCHERS_MAX 20

/*      stream        word in `watch` */
#define WATCH_STREAM_TABLE(X)                                                                      \
    X(WATCH_FETCHERS, "fetchers")                                                                  \
    X(WATCH_MUTATIONS, "mutations")                                                                \
    X(WATCH_EVICTIONS, "evictions")                                                                \
    X(WATCH_DELETIONS, "deletions")                                                                \
    X(WATCH_CONNEVENTS, "connevents")                                                              \
    X(WATCH_SYSEVENTS, "sysevents")                                                                \
    X(WATCH_RAWCMDS, "rawcmds")                                                                    \
    X(WATCH_PROXYREQS, "proxyreqs")                                                                \
    X(WATCH_PROXYEVENTS, "proxyevents")                                                            \
    X(WATCH_PROXYUSER, "proxyuser")

enum watch_stream {
    WATCH_STREAM_TABLE(ROW_NAME)
        WATCH_STREAM_COUNT
};

struct watch_options {
    size_t watcher_bytes; /* buffer of each watcher */
    size_t staging_bytes; /* buffer shared by all logging threads */
};

/* Starts the thread that serves watchers. 0 or -errno. Once, before other threads log. */
int watch_start(const struct watch_options *opt);
/* Ends the thread, closes all watchers (their closed() is called). No thread logs any more. */
void watch_stop(void);

/* One bit (1 << stream) for each stream that is watched. For loops that check often. */
const _Atomic(uint32_t) *watch_mask(void);
static inline bool watch_mask_has(const _Atomic(uint32_t) *mask, enum watch_stream stream)
{
    return unlikely((atomic_load_explicit((_Atomic(uint32_t) *)mask, memory_order_relaxed) >>
                     stream) & 1u);
}
/* Is it worth calling the stream's function? */
bool watch_wants(enum watch_stream stream);

/* ---- lines, of streams that somebody watches; else nothing happens, but the caller asks watch_wants first where it is
 * called often ---- */

/*      status of item_get, in memcached's words */
#define WATCH_FETCH_TABLE(X)                                                                       \
    X(WATCH_FETCH_NOT_FOUND, "not_found")                                                          \
    X(WATCH_FETCH_FOUND, "found")                                                                  \
    X(WATCH_FETCH_FLUSHED, "flushed")                                                              \
    X(WATCH_FETCH_EXPIRED, "expired")
enum watch_fetch_status {
    WATCH_FETCH_TABLE(ROW_NAME)
};

/* An event's facts about its item; fields that its line doesn't show are ignored. */
struct watch_item {
    const char *key;
    uint8_t key_bytes;
    bool fetched;       /* eviction, extwrite */
    int64_t ttl_sec;    /* eviction, extwrite, item_store: seconds left; -1 (item_store: 0) never */
    uint32_t idle_sec;  /* eviction, extwrite: since the last access */
    unsigned slab_class;
    uint32_t value_bytes; /* without the \r\n */
};

void watch_item_get(const struct watch_item *it, enum watch_fetch_status status, int fd);
/* status, cmd: memcached's words ("stored", "set"). */
void watch_item_store(const struct watch_item *it, const char *status, const char *cmd, int fd);
void watch_deleted(const struct watch_item *it, const char *cmd);
void watch_eviction(const struct watch_item *it);
void watch_extwrite(const struct watch_item *it, unsigned bucket);
/* reason NULL: conn_new, otherwise conn_close. */
void watch_connection(const char *ip, unsigned port, const char *transport, const char *reason,
                      int fd);
/* A line of sysevents without its prefix: "type=slab_move src=1 dst=2 state=done". */
void watch_sysevent(const char *line);
/* A command line as the client sent it. */
void watch_rawcmd(const char *line, size_t len, int fd);

/* ---- watchers ---- */

/* Adds a watcher of these streams on a connected, non-blocking socket. 0: the socket now belongs to
 * this module; otherwise it doesn't (-EMFILE: too many watchers; -ENOMEM; -ESHUTDOWN: not started).
 * "OK\r\n" is sent first. closed(arg) is called once, in the watch thread, after the socket
 * is closed. */
int watch_add(int fd, uint32_t streams, void (*closed)(void *arg), void *arg);

struct watch_info {
    uint64_t worker_dropped, worker_written, watcher_skipped, watcher_sent, watchers;
};
void watch_info(struct watch_info *out);

#endif
