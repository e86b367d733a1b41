/* t/aid/packets.h: packets of the binary protocol, for tests. Written from the numbers of the protocol, not
 * with proto/bin.h, so that a wrong number there shows. */
#ifndef EXTANT_T_PACKETS_H
#define EXTANT_T_PACKETS_H

#include "t/aid/harness.h"

enum packet_opcode {
    OP_GET = 0x00, OP_SET = 0x01, OP_ADD = 0x02, OP_REPLACE = 0x03, OP_DELETE = 0x04,
    OP_INCR = 0x05, OP_DECR = 0x06, OP_QUIT = 0x07, OP_FLUSH = 0x08, OP_GETQ = 0x09,
    OP_NOOP = 0x0a, OP_VERSION = 0x0b, OP_GETK = 0x0c, OP_GETKQ = 0x0d, OP_APPEND = 0x0e,
    OP_PREPEND = 0x0f, OP_STAT = 0x10, OP_SETQ = 0x11, OP_ADDQ = 0x12, OP_REPLACEQ = 0x13,
    OP_DELETEQ = 0x14, OP_INCRQ = 0x15, OP_DECRQ = 0x16, OP_QUITQ = 0x17, OP_FLUSHQ = 0x18,
    OP_APPENDQ = 0x19, OP_PREPENDQ = 0x1a, OP_VERBOSITY = 0x1b, OP_TOUCH = 0x1c, OP_GAT = 0x1d,
    OP_GATQ = 0x1e, OP_SASL_MECHS = 0x20, OP_SASL_AUTH = 0x21, OP_SASL_STEP = 0x22,
    OP_GATK = 0x23, OP_GATKQ = 0x24,
};

/* One packet; unnamed fields are 0 or empty. */
struct packet {
    unsigned magic; /* 0: 0x80 */
    unsigned opcode, status;
    uint32_t opaque;
    uint64_t cas;
    const char *extras, *key, *value;
    size_t extras_bytes, key_bytes, value_bytes;
    /* the length in the header, if it is to be wrong */
    bool lies;
    unsigned said_key, said_extras;
    uint32_t said_body;
};

/* Writes the packet's bytes to out, which is large enough; returns how many. */
size_t packet_put(char *out, const struct packet *p);
/* Sends it; reads one and fails the test unless it is this one, byte for byte (magic 0: 0x81). */
void packet_send(struct client *c, const struct packet *p);
void packet_expect(struct client *c, const struct packet *p);

#define WITH_KEY(text) .key = (text), .key_bytes = sizeof(text) - 1
#define WITH_VALUE(text) .value = (text), .value_bytes = sizeof(text) - 1
#define WITH_EXTRAS(text) .extras = (text), .extras_bytes = sizeof(text) - 1
#define ask(c, ...) packet_send(c, &(struct packet){__VA_ARGS__})
#define answer(c, ...) packet_expect(c, &(struct packet){__VA_ARGS__})

#endif
