/* base/passed.h: sockets that a service manager (systemd) listens on itself and passes on ($LISTEN_FDS), so
 * that a restart refuses no connection. It is a few lines, so there is no libsystemd in the process.
 *
 * passed_setup() comes first, in one thread and before a fork, and takes the variables out of the
 * environment; without them there are none. Any thread after it. State: a number, const after setup.
 */
#ifndef EXTANT_PASSED_H
#define EXTANT_PASSED_H

#include "base/base.h"

#define PASSED_FD_FIRST 3 /* descriptors that are passed on are this one and the next ones */

void passed_setup(void);

/* How many there are, as descriptors from PASSED_FD_FIRST; they are close-on-exec and don't block. */
unsigned passed_sockets(void);

#endif
