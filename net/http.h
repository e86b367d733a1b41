/* net/http.h: --http: what an operator and his monitoring see over HTTP, on a thread of its own.
 *
 *   /metrics      for Prometheus (net/metrics.h)
 *   /healthz      200 while the process lives
 *   /readyz       200 while it serves, 503 with the reason before and after
 *   /             the status page, and /status.json which it asks for (net/status.h)
 *
 * It listens before the cache is there, so that a long start can be watched, and ends first at a stop.
 * Only GET and HEAD; no body, small headers, a short patience and 64 connections, of which the oldest goes when
 * another comes, since anybody may connect. There is
 * no log-in: it shows keys, so it belongs on an address that only operators reach.
 *
 * Threads: start, publish and stop by the main thread. Its own thread reads what any thread may read,
 * and takes only the locks of what it asks.
 */
#ifndef EXTANT_HTTP_H
#define EXTANT_HTTP_H

#include "command/command.h"

struct http;

/* Listens on "ADDR:PORT" (port 0: any free one, told in the log) and starts the thread. NULL, with one
 * line in why[]. */
struct http *http_start(const char *address, char *why, size_t why_bytes);
/* From now on there is something to tell. env must stay until http_stop(). */
void http_publish(struct http *h, const struct command_env *env);
/* Closes all and ends the thread; NULL is allowed. Waits for the answer that is being made. */
void http_stop(struct http *h);

#endif
