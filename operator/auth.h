/* operator/auth.h: the users of -Y: a file with lines `user:password`.
 *
 * The file is read at start and again on SIGHUP (auth_reload); if that fails the old users stay.
 * A comparison takes the same time wherever the difference is, and however long the right answer is.
 *
 * A peer that fails AUTH_FAILURES_MAX times within AUTH_WINDOW_SEC is refused, whatever it says, until
 * the window is over: passwords can't be tried out at the speed of a cache. Peers are told apart by a
 * hash of few bits, so one may have to wait for another. A new file forgets all failures.
 *
 * Threads: all but auth_reload from any; auth_reload from one at a time. Lock: LOCK_CONTROL inside.
 */
#ifndef EXTANT_AUTH_H
#define EXTANT_AUTH_H

#include "base/base.h"

#define AUTH_FILE_BYTES_MAX ((size_t)16 * 1024 * 1024)
enum { AUTH_FAILURES_MAX = 20, AUTH_WINDOW_SEC = 10 };

struct auth;

/* NULL with errno: ENOENT, EACCES .. as open; EINVAL: no user, or a line that is not
 * name, colon, password (empty lines are passed over); EFBIG. */
struct auth *auth_create(const char *path);
void auth_destroy(struct auth *a);
/* 0 or -errno as above; then nothing has changed. */
int auth_reload(struct auth *a);
/* Is "user password" (one space between) in the file? */
bool auth_check(struct auth *a, const char *text, size_t bytes);
bool auth_check_user(struct auth *a, const char *user, size_t user_bytes, const char *password,
                     size_t password_bytes);

/* The same as auth_check_user() for a peer, named as "tcp:1.2.3.4:5": false, too, while the peer has failed
 * too often. A failure is counted, and a line in the log says who failed. */
bool auth_log_in(struct auth *a, const char *peer, const char *user, size_t user_bytes,
                 const char *password, size_t password_bytes);

#endif
