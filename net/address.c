/* net/address.c: see net/address.h. */
#include "net/address.h"

#include <arpa/inet.h>
#include <netdb.h>

static_assert(sizeof(struct in6_addr) == sizeof(((struct address *)0)->ip), "room for an address");

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

struct addrinfo *address_resolve(const char *host, int port, int socktype, char *why, size_t why_bytes)
{
    struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = socktype}, *list;
    char text[16];
    snprintf(text, sizeof(text), "%d", port < 0 ? 0 : port);
    int rc = getaddrinfo(*host ? host : NULL, text, &hints, &list);
    if (rc == 0)
        return list;
    snprintf(why, why_bytes, "getaddrinfo(): %s: %s", *host ? host : "*",
             rc == EAI_SYSTEM ? strerror(errno) : gai_strerror(rc));
    return NULL;
}

void address_text(const struct address *a, const char *unix_path, char *out, size_t size)
{
    DEBUG_ASSERT(size > 0);
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
