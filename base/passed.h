/* base/passed.h: listening sockets that a service manager (systemd) opens and passes in ($LISTEN_FDS), so
 * that a restart refuses no connection. These few lines spare the process libsystemd.
 *
 * passed_setup() comes first, in one thread and before a fork, and removes the variables from the
 * environment; without them there are no sockets. Any thread after that. State: a number, const after setup.
 */
#ifndef EXTANT_PASSED_H
#define EXTANT_PASSED_H

#include "base/base.h"

#define PASSED_FD_FIRST 3 /* the first passed descriptor; the others follow */

void passed_setup(void);

/* How many there are, from PASSED_FD_FIRST on; they are close-on-exec and don't block. */
unsigned passed_sockets(void);

#endif
