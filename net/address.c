/* net/address.c: see net/address.h. */
#include "net/address.h"

#include <arpa/inet.h>

void address_of(struct address *out, const struct sockaddr *sa)
{
    *out = (struct address){.family = sa->sa_family};
    if (sa->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)sa;
        out->port = ntohs(in->sin_port);
        memcpy(out->ip, &in->sin_addr, sizeof(in->sin_addr));
    } else if (sa->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)sa;
        out->port = ntohs(in6->sin6_port);
        memcpy(out->ip, &in6->sin6_addr, sizeof(in6->sin6_addr));
    } else {
        out->family = AF_UNIX;
    }
}

void address_text(const struct address *a, const char *unix_path, char *out, size_t size)
{
    char ip[INET6_ADDRSTRLEN] = "";
    switch (a->family) {
    case AF_INET:
        inet_ntop(AF_INET, a->ip, ip, sizeof(ip));
        snprintf(out, size, "tcp:%s:%u", ip, a->port);
        break;
    case AF_INET6:
        inet_ntop(AF_INET6, a->ip, ip, sizeof(ip));
        snprintf(out, size, "tcp6:[%s]:%u", ip, a->port);
        break;
    default:
        snprintf(out, size, "unix:%s", unix_path ? unix_path : "");
    }
}
