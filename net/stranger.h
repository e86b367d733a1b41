/* net/stranger.h: clients that speak another protocol than their port. The first bytes
 * show which; one line in the log names the peer, the likely protocol, and the switch that helps.
 *
 * Any thread; no locks. Lines are rate limited, each sort by itself (base/log.h).
 */
#ifndef EXTANT_STRANGER_H
#define EXTANT_STRANGER_H

#include "base/base.h"

/* What first bytes seem to be. */
enum stranger {
    STRANGER_TEXT, /* memcached's text protocol, or nothing known */
    STRANGER_BINARY,
    STRANGER_TLS,
    STRANGER_HTTP,
    STRANGER_PROXY, /* the header of a proxy, before what the client says */
    STRANGERS,
};

/* What the port speaks, that a stranger comes to. */
enum stranger_port {
    STRANGER_PORT_CLEAR, /* both protocols, or the one that was not the trouble */
    STRANGER_PORT_TLS,
};

enum stranger stranger_of(const char *first, size_t bytes);
/* Tells the log of one, which is called `peer` there; for STRANGER_TEXT and STRANGER_BINARY on a port in
 * the clear: that -B refuses it. */
void stranger_tell(enum stranger who, enum stranger_port port, const char *peer);

#endif
