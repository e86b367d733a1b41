/* net/status.h: the status page and the figures that it shows.
 *
 * The page is one file without anything from elsewhere (net/status.html, compiled in); it asks for
 * /status.json every few seconds: the lines of `stats` and `stats extant`, latency by tier and command
 * with its buckets, the pages of each device (at most STATUS_CELLS cells, each standing for one page or
 * some neighbours), top keys and prefixes of sampled gets, connections, and how fast flash is written
 * to, over the last day at most.
 *
 * Called by the thread of net/http.c, which keeps the history. Takes the locks of what it asks; never
 * sleeps.
 */
#ifndef EXTANT_STATUS_H
#define EXTANT_STATUS_H

#include "command/command.h"

struct evbuffer;

enum { STATUS_MINUTES = 24 * 60, STATUS_CELLS = 1024, STATUS_TOP = 10, STATUS_CONNS = 50 };

/* Bytes written to all devices, minute by minute. Zero it first. */
struct status_history {
    struct {
        uint64_t at_ms, bytes;
    } minutes[STATUS_MINUTES];
    unsigned count; /* minutes so far; the last STATUS_MINUTES of them are kept */
    uint64_t next_ms;
};

/* Every few seconds: notes the bytes written, lets old samples of keys fade, each once a minute. */
void status_tick(struct status_history *h, const struct command_env *env);
void status_write(const struct command_env *env, const struct status_history *h, struct evbuffer *out);
void status_page(struct evbuffer *out);

#endif
