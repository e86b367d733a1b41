/* command/login.h: how a session logs in: by a line (-Y), or by SASL (-S), with the mechanism PLAIN.
 *
 * Until then only commands with VF_NO_LOGIN are executed. Others are refused, and in the binary protocol the
 * connection ends. Each attempt first logs the session out, so after a failure nobody is logged in. Attempts and
 * failures are counted as auth_cmds and auth_errors; operator/auth.h bounds how many may fail.
 *
 * Threads: the session's. Nothing sleeps.
 */
#ifndef EXTANT_LOGIN_H
#define EXTANT_LOGIN_H

#include "command/session.h"

/* -Y: the value of an authenticating `set` was received, with its last two bytes; good_end: these were
 * "\r\n". */
void command_authenticate(struct session *s, const char *value, size_t bytes, bool good_end);

/* -S: one of the commands of CLASS_LOGIN. */
void command_sasl(struct session *s, const struct request *req);

/* True iff this request, parsed or refused, needs a log-in first. Its answer is REPLY_AUTH_NEEDED, and the
 * last one. */
static inline bool command_needs_login(const struct session *s, const struct request *req)
{
    if (likely(s->authenticated))
        return false;
    return req->verb == VERB_UNKNOWN || !(verb_info(req->verb)->flags & VF_NO_LOGIN);
}

#endif
