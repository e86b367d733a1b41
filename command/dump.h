/* command/dump.h: `lru_crawler metadump` and `mgdump`: the crawler writes a line for each object straight into the
 * socket, in its own thread, which waits at most half a minute for a client that reads nothing.
 *
 * Threads: dump_start() in the session's worker. No locks are held while it sends.
 */
#ifndef EXTANT_DUMP_H
#define EXTANT_DUMP_H

#include "command/session.h"
#include "crawler.h"

/* After COMMAND_DUMP: starts the dump that was asked for into the non-blocking socket fd, which
 * nobody else may use until over(arg, alive) is called, once, in another thread: alive if all was
 * sent. REPLY_NONE, or why nothing was started. */
enum reply dump_start(struct session *s, int fd, void (*over)(void *arg, bool alive), void *arg);

/* What to answer when the crawler was asked to start: REPLY_OK, or why it didn't. */
enum reply dump_refusal(enum crawler_result r);

#endif
