/* net/listener.h: the sockets that clients connect to, and accepting them.
 *
 * Clients are accepted in the event loop given at start (the main thread's); accepted sockets go to
 * `accepted`. Above the limit of connections a client gets an error line and is closed (maxconns_fast), or
 * no client is accepted until there is room. The latter also happens when the process has no descriptors left.
 *
 * Threads: all calls in the thread of the event loop, except listeners_each(). No locks.
 */
#ifndef EXTANT_LISTENER_H
#define EXTANT_LISTENER_H

#include <event2/event.h>

#include "command/command.h"
#include "net/conn.h"
#include "operator/settings.h"

struct listeners;

struct listener_options {
    const struct settings *settings;
    struct event_base *base;
    struct server_counters *counters; /* listeners and connections are counted here */
    const struct udp_sockets *udp; /* counted and named in the port file too; NULL: none */
    /* Owns the socket from now on; 0, or -errno and it stays with the listener, which closes it. */
    int (*accepted)(void *ctx, const struct conn_origin *origin);
    void *ctx;
};

/* Opens the sockets that the settings name, or takes those of base/passed.h; nothing is accepted before
 * listeners_accept(). NULL: failed, with one line in why[]. Writes the port file of MEMCACHED_PORT_FILENAME. */
struct listeners *listeners_open(const struct listener_options *opt, char *why, size_t why_bytes);
/* The most clients; call it before listeners_accept(). */
void listeners_set_limit(struct listeners *l, uint64_t max_clients);
void listeners_accept(struct listeners *l);
/* Closes the sockets, removes the unix socket's file. */
void listeners_close(struct listeners *l);

/* The addresses, as `stats conns` writes them, with commas; "nowhere" if nothing is open. True iff one of
 * them is a wildcard, which clients reach from anywhere. */
bool listeners_text(const struct listeners *l, char *out, size_t size);

/* For `stats conns`: the lines of the listening sockets. Any thread while they are open. */
void listeners_each(struct listeners *l,
                    void (*fn)(void *ctx, int fd, const char *name, const char *text), void *ctx);

#endif
