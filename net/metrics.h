/* net/metrics.h: /metrics, in Prometheus' text format 0.0.4.
 *
 * memcached_* are the names of memcached_exporter with the same values, so its dashboards and alerts
 * work on Extant. extant_* are ours: the figures of `stats extant`, latency by tier and command, why
 * gets miss, devices, pages. Counters start again at `stats reset`; Prometheus' rate function allows for that.
 *
 * Called by the thread of net/http.c. Keeps nothing; takes the locks of what it asks; never sleeps.
 */
#ifndef EXTANT_METRICS_H
#define EXTANT_METRICS_H

#include "command/command.h"

struct evbuffer;

void metrics_write(const struct command_env *env, struct evbuffer *out);

/* Bytes given to devices for each byte of objects that came from RAM, assuming that records written again by
 * reclaim are of average size. 0: nothing was written yet. Pure. */
double metrics_write_amplification(const struct ext_info *v);

#endif
