/* command/command.h: executes parsed requests and answers them in order.
 *
 * The connection parses lines or packets and passes them on one by one. A command either answers at once,
 * or leaves a place in the reply queue that is filled in when its op comes back from flash. Rules:
 *  - gets overlap with each other and with later gets;
 *  - a command that changes something waits until earlier gets of this session are done, and while it is
 *    parked itself, nothing more is executed (`barrier`).
 * So a client sees its own commands take effect in the order in which it sent them.
 *
 * Threads: those of command/session.h.
 */
#ifndef EXTANT_COMMAND_H
#define EXTANT_COMMAND_H

#include "command/session.h"

/* For lines that were received but whose turn is yet to come: prefetches the memory that their keys will need. The
 * first call for a line finds its key and where the index has it; the second takes that some time later, and so does
 * command_execute() when it is this line's turn. *value_bytes: of the value between the line and the next one. */
void command_look_ahead(struct command_worker *w, const char *line, size_t bytes, uint32_t *value_bytes,
                        struct seen_key *seen);
void command_look_at_key(struct command_worker *w, const char *key, uint32_t key_len, struct seen_key *seen);
void command_look_closer(struct command_worker *w, const struct seen_key *seen);

/* Executes a request that was parsed without an error. seen: of its first key; NULL or len 0: it wasn't looked at. */
enum command_result command_execute(struct session *s, struct request *req, struct seen_key *seen);
/* Answers a line that could not be parsed. */
void command_refuse(struct session *s, const struct request *req);

/* While s->store: where the rest of the value goes; 0 once all of it is there. */
size_t command_value_room(struct session *s, char **to);
/* n bytes were put there. */
void command_value_got(struct session *s, size_t n);
/* How many bytes end the value: 2 that should be "\r\n", or 0. */
unsigned command_value_end_bytes(const struct session *s);
/* The whole value and its end were received; good: the end is right. */
void command_store(struct session *s, bool good);

#endif
