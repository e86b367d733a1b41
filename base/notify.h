/* base/notify.h: tells the service manager about the process by systemd's sd_notify protocol: datagrams to
 * the socket of $NOTIFY_SOCKET. Without that variable it does nothing.
 *
 * The socket is opened once, before privileges are dropped; then any thread may send, without a lock and
 * without waiting: a datagram that doesn't fit into the socket is lost. Static state: the descriptor.
 */
#ifndef EXTANT_NOTIFY_H
#define EXTANT_NOTIFY_H

#include "base/base.h"

/* Once, by one thread. False: there is no service manager. */
bool notify_open(void);

/* One datagram: lines of NAME=VALUE, as in "READY=1\nSTATUS=serving"; cut at 500 bytes. */
void notify_send(const char *fmt, ...) PRINTF_LIKE(1, 2);

#endif
