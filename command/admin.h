/* command/admin.h: the commands that ask about the server or tune it: stats, flush_all, slabs, lru,
 * lru_crawler, extstore, watch, shutdown and the like. Called by command/command.c only, with no op of the
 * session in flight.
 *
 * Threads: the worker thread of the session. Locks: those of what is asked.
 */
#ifndef EXTANT_COMMAND_ADMIN_H
#define EXTANT_COMMAND_ADMIN_H

#include "command/session.h"
#include "crawler.h"

/* What `stats reset` remembers. NULL: no memory. One for each server, in command_env. */
struct admin *admin_create(void);
void admin_destroy(struct admin *a);

/* The lines of `stats` and of `stats extant`, each through emit. Any thread, also one without a
 * session; locks as below. The first: 0 or -ENOMEM. */
int admin_emit_general(const struct command_env *env, stats_emit_fn emit, void *ctx);
void admin_emit_extant(const struct command_env *env, stats_emit_fn emit, void *ctx);
/* What threads and a slab class have counted since `stats reset`, and gauges. Any thread. */
void admin_threads(const struct command_env *env, struct stats_sum *out);
void admin_class(const struct command_env *env, unsigned cls, struct cache_class_stats *out);
/* The latency of a tier and command, over all workers, since the start. Any thread. */
void admin_latency(const struct command_env *env, enum latency_tier tier,
                   enum latency_command command, struct histogram_sum *out);

/* Executes an administrative request. */
enum command_result command_admin(struct session *s, struct request *req);

/* After COMMAND_DUMP: starts the dump that was asked for into the non-blocking socket fd, which
 * nobody else may use until over(arg, alive) is called, once, in another thread: alive if all was
 * sent. REPLY_NONE, or why nothing was started. */
enum reply command_dump(struct session *s, int fd, void (*over)(void *arg, bool alive), void *arg);

#endif
