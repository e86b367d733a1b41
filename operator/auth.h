/* operator/auth.h: the users of -Y: a file with lines `user:password`.
 *
 * The file is read at start and again on SIGHUP (auth_reload); if that fails the old users stay.
 * A comparison takes the same time wherever the difference is and however long the right password is.
 *
 * A peer that fails AUTH_FAILURES_MAX times within AUTH_WINDOW_SEC is refused, even with the right
 * password, until the window ends: nobody can try out passwords at the speed of a cache. A short hash
 * distinguishes peers, so one may have to wait for another's failures. A new file clears all failures.
 *
 * Threads: any; auth_reload from one at a time. Lock: LOCK_CONTROL inside.
 */
#ifndef EXTANT_AUTH_H
#define EXTANT_AUTH_H

#include "base/base.h"

#define AUTH_FILE_BYTES_MAX ((size_t)16 * 1024 * 1024)
enum { AUTH_FAILURES_MAX = 20, AUTH_WINDOW_SEC = 10 };

struct auth;

/* NULL with errno: ENOENT, EACCES .. as open; ENODATA: no user; EINVAL: a line that is not
 * name, colon, password (empty lines are skipped); EFBIG. */
struct auth *auth_create(const char *path);
void auth_destroy(struct auth *a);
/* 0 or -errno as above; then nothing has changed. */
int auth_reload(struct auth *a);
/* Is this a user's name and password, given by a peer such as "tcp:1.2.3.4:5"? Also false while the peer has
 * failed too often. Counts a failure and logs a line with the peer. */
bool auth_log_in(struct auth *a, const char *peer, const char *user, size_t user_bytes,
                 const char *password, size_t password_bytes);

#endif
