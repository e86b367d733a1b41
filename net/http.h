/* net/http.h: --http: what operators and their monitoring see over HTTP, on a thread of its own.
 *
 *   /metrics      for Prometheus (net/metrics.h)
 *   /healthz      200 while the process lives
 *   /readyz       200 while it serves, 503 before
 *   /             the status page, and /status.json which it asks for (net/status.h)
 *
 * It listens before the cache exists, so that a long start can be watched, and it ends first at a stop.
 * Only GET and HEAD; no body, small headers, a short time-out, and at most HTTP_CONNECTIONS_MAX connections: a new
 * one replaces the oldest, since anybody may connect. There is no log-in: it shows keys, so it belongs on an address
 * that only operators reach.
 *
 * Threads: start, publish and stop by the main thread. Its own thread reads what any thread may read,
 * and takes only the locks of what it asks.
 */
#ifndef EXTANT_HTTP_H
#define EXTANT_HTTP_H

#include "command/command.h"

enum { HTTP_CONNECTIONS_MAX = 64 };

struct http;

/* Listens on "ADDR:PORT" (port 0: any free one, told in the log) and starts the thread. NULL, with one
 * line in why[]. */
struct http *http_start(const char *address, char *why, size_t why_bytes);
/* From now on the server can be asked. env must stay valid until http_stop(). */
void http_publish(struct http *h, const struct command_env *env);
/* Closes all and ends the thread; NULL is allowed. Waits for the answer under way. */
void http_stop(struct http *h);

#endif
