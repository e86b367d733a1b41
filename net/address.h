/* net/address.h: a socket's address in compact form, and as text. Any thread. */
#ifndef EXTANT_ADDRESS_H
#define EXTANT_ADDRESS_H

#include <netinet/in.h>

#include "base/base.h"

#define ADDRESS_TEXT_BYTES 160u /* for address_text(); a long path is cut */

struct address {
    sa_family_t family; /* AF_INET, AF_INET6, AF_UNIX (no more is known) */
    uint16_t port;      /* host order */
    uint8_t ip[16];
};

/* Every family other than IPv4 and IPv6 counts as AF_UNIX. */
void address_of(struct address *out, const struct sockaddr *sa);
/* The addresses to listen on for a host ("": every one) and port (below 0: any free one), as getaddrinfo() gives
 * them; freeaddrinfo() is the caller's. NULL, and a line in why[]: none. May wait for name servers. */
struct addrinfo *address_resolve(const char *host, int port, int socktype, char *why, size_t why_bytes);
/* "tcp:127.0.0.1:11211", "tcp6:[::1]:11211", "unix:PATH" into out. */
void address_text(const struct address *a, const char *unix_path, char *out, size_t size);

#endif
