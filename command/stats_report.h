/* command/stats_report.h: what `stats` answers: the figures of the whole server, as they have grown since the last
 * `stats reset`, and how each group of them is put into lines.
 *
 * Threads: any, but for report_answer(), which runs in the session's. Lock: LOCK_STATS, for what the last reset
 * remembers; those of what is asked are taken before it or after it, never with it.
 */
#ifndef EXTANT_STATS_REPORT_H
#define EXTANT_STATS_REPORT_H

#include "command/session.h"

/* What `stats reset` remembers. NULL: no memory. One for each server, in command_env. */
struct report *report_create(struct extstore *ext); /* ext: flash or NULL */
void report_destroy(struct report *r); /* NULL is allowed */

/* The lines of `stats` and of `stats extant`, each through emit. Also for a thread without a session. The first:
 * 0 or -ENOMEM. */
int report_general(const struct command_env *env, stats_emit_fn emit, void *ctx);
void report_extant(const struct command_env *env, stats_emit_fn emit, void *ctx);
/* What threads and a slab class have counted since `stats reset`, and gauges. */
void report_threads(const struct command_env *env, struct stats_sum *out);
void report_class(const struct command_env *env, unsigned cls, struct cache_class_stats *out);
/* The latency of a tier and command, over all workers, since the start. */
void report_latency(const struct command_env *env, enum latency_tier tier,
                    enum latency_command command, struct histogram_sum *out);

/* Executes `stats ...`: queues the answer. */
void report_answer(struct session *s, const struct request *req);

#endif
