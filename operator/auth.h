/* operator/auth.h: the users of -Y: a file with lines `user:password`.
 *
 * The file is read at start and again on SIGHUP (auth_reload); if that fails the old users stay.
 * A comparison takes the same time wherever the difference is.
 *
 * Threads: auth_check from any; auth_reload from one at a time. Lock: LOCK_CONTROL inside.
 */
#ifndef EXTANT_AUTH_H
#define EXTANT_AUTH_H

#include "base/base.h"

#define AUTH_FILE_BYTES_MAX ((size_t)16 * 1024 * 1024)

struct auth;

/* NULL with errno: ENOENT, EACCES .. as open; EINVAL: no user, or a line that is not
 * name, colon, password (empty lines are passed over); EFBIG. */
struct auth *auth_create(const char *path);
void auth_destroy(struct auth *a);
/* 0 or -errno as above; then nothing has changed. */
int auth_reload(struct auth *a);
/* Is "user password" (one space between) in the file? */
bool auth_check(struct auth *a, const char *text, size_t bytes);

#endif
