/* net/udp.h: the protocols over UDP, as memcached frames them.
 *
 * A datagram has an 8-byte head, four 16-bit numbers in network order: request id, sequence, total,
 * reserved. A request is one datagram (total 1) with any number of complete commands; an incomplete one is
 * dropped. Each command is answered in datagrams of at most UDP_DATAGRAM_BYTES with the request's id, numbered
 * from 0, each with the total. Nothing is sent twice and nothing waits: what the network doesn't take is lost, as
 * always with UDP.
 *
 * A source address can be forged, and an answer can be a thousand times as long as its request. So only
 * loopback peers are served like TCP clients. Others get no admin commands but `version`, and in answer to one request
 * no more bytes than UDP_DATAGRAM_BYTES, heads included; a longer answer is replaced by UDP_TOO_LONG_LINE. For the
 * same reason UDP is off unless -U asks for it. With -Y, -S or flash it is refused (operator/settings_check.c), so no
 * op is ever parked here.
 *
 * Threads: the sockets belong to the main thread; each worker reads all of them through descriptors of
 * its own, in its event loop. No locks.
 */
#ifndef EXTANT_UDP_H
#define EXTANT_UDP_H

#include "command/command.h"

enum {
    UDP_HEAD_BYTES = 8,
    UDP_DATAGRAM_BYTES = 1400, /* of an answer, head included */
    UDP_REQUEST_BYTES_MAX = 65536,
    UDP_REPLY_BYTES_MAX = 32 * 1024 * 1024, /* of one command */
};
#define UDP_TOO_LONG_LINE "SERVER_ERROR answer too long for UDP\r\n"

struct udp_sockets;
struct udp_worker;
struct event_base;

/* A socket for each address to listen on, or for every address. NULL with errno; a line about it in
 * why. */
struct udp_sockets *udp_open(const struct settings *s, char *why, size_t why_bytes);
/* After the last worker has stopped. NULL is fine. */
void udp_close(struct udp_sockets *u);
unsigned udp_count(const struct udp_sockets *u);
/* A line "UDP INET: PORT" for each socket. */
void udp_print_ports(const struct udp_sockets *u, FILE *out);

/* Serves all sockets in this worker's loop; request is scratch that the worker shares with its
 * connections. NULL with errno. In the worker's thread, as udp_stop. */
struct udp_worker *udp_start(struct udp_sockets *u, struct event_base *base,
                             struct command_worker *command, struct request *request);
/* NULL is fine. */
void udp_stop(struct udp_worker *w);

/* The lines of `stats conns`. Any thread, between udp_start and udp_stop. */
void udp_each(struct udp_worker *w,
              void (*fn)(void *ctx, int fd, const char *name, const char *text), void *ctx);

#endif
