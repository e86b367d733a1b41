/* base/notify.h: what the service manager is told, in systemd's sd_notify protocol: datagrams to the socket
 * that $NOTIFY_SOCKET names. Without one, nothing is done.
 *
 * The socket is opened once, before privileges are dropped; then any thread may tell, with no lock, and
 * nothing is waited for: what doesn't fit into the socket is lost. Static state: the descriptor.
 */
#ifndef EXTANT_NOTIFY_H
#define EXTANT_NOTIFY_H

#include "base/base.h"

/* Once, by one thread. False: nobody listens. */
bool notify_open(void);

/* One datagram: lines of NAME=VALUE, as in "READY=1\nSTATUS=serving"; cut at 500 bytes. */
void notify_send(const char *fmt, ...) PRINTF_LIKE(1, 2);

#endif
