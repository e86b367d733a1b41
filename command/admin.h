/* command/admin.h: the commands that ask about the server or tune it: stats (command/stats_report.h), flush_all, slabs,
 * lru, lru_crawler (dumps: command/dump.h), extstore, watch, shutdown and the like. Called by command/command.c only,
 * with no op of the session in flight.
 *
 * Threads: the worker thread of the session. Locks: those of what is asked.
 */
#ifndef EXTANT_COMMAND_ADMIN_H
#define EXTANT_COMMAND_ADMIN_H

#include "command/session.h"

/* Executes an administrative request. */
enum command_result command_admin(struct session *s, struct request *req);

#endif
