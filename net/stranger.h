/* net/stranger.h: clients that speak a protocol other than their port's. The first bytes show which one;
 * one line in the log names the peer, the likely protocol, and the option that helps.
 *
 * Any thread; no locks. Lines of each kind are rate limited (base/log.h).
 */
#ifndef EXTANT_STRANGER_H
#define EXTANT_STRANGER_H

#include "base/base.h"

/* What the first bytes look like. */
enum stranger {
    STRANGER_TEXT, /* memcached's text protocol, or an unknown one */
    STRANGER_BINARY,
    STRANGER_TLS,
    STRANGER_HTTP,
    STRANGER_PROXY, /* a proxy's header, sent before the client's bytes */
    STRANGERS,
};

/* What the port speaks. */
enum stranger_port {
    STRANGER_PORT_CLEAR, /* memcached's protocols, as -B allows */
    STRANGER_PORT_TLS,
};

enum stranger stranger_of(const char *first, size_t bytes);
/* Logs a line about the client at `peer`. For STRANGER_TEXT and STRANGER_BINARY on a port in the clear it says
 * that -B refuses the protocol. */
void stranger_tell(enum stranger who, enum stranger_port port, const char *peer);

#endif
