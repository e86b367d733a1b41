/* base/service.h: what a service manager (systemd) and this process tell each other.
 *
 * Told to it, over the socket that $NOTIFY_SOCKET names: that the server is ready, what it is busy with,
 * that it stops. Taken from it: sockets that it listens on itself and passes on ($LISTEN_FDS), so that a
 * restart refuses no connection. Both are a few lines each, so there is no libsystemd in the process.
 *
 * service_setup() comes first, in one thread, and takes the variables out of the environment; without
 * them everything here does nothing. After it, service_tell() by any thread; it sleeps at most as long
 * as the manager's socket is full, and takes no locks. State: two static numbers, const after setup.
 */
#ifndef EXTANT_SERVICE_H
#define EXTANT_SERVICE_H

#include "base/base.h"

#define SERVICE_FD_FIRST 3 /* descriptors that are passed on are this one and the next ones */

void service_setup(void);

/* One or more lines as sd_notify(3) has them, "READY=1\nSTATUS=serving". Longer than 1 KB is cut. */
void service_tell(const char *fmt, ...) PRINTF_LIKE(1, 2);

/* How many sockets were passed on, as descriptors from SERVICE_FD_FIRST; they are close-on-exec and
 * don't block. */
unsigned service_sockets(void);

#endif
