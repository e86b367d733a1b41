/* proto/bin.h: parses a packet of memcached's binary protocol into a request, and writes the packets that
 * answer it. Pure: the same bytes give the same result; any thread, no locks, no allocation.
 *
 * A packet is a head of BIN_HEAD_BYTES, all numbers in network order, then extras, key and value:
 *
 *    0 magic (80 asks, 81 answers)   1 opcode   2-3 key's bytes   4 extras' bytes   5 data type (0)
 *    6-7 of an answer: status   8-11 bytes of extras, key and value   12-15 opaque   16-23 cas
 *
 * A quiet command gets no answer when it succeeds (a quiet get: when it misses), but errors are always
 * answered. A key may hold any byte. If lengths contradict each other or the opcode, the answer says so
 * and the connection ends, because nobody knows where the next packet begins.
 *
 * A connection uses it like proto/text.h; PARSE_ERROR with req->close_after closes once the
 * answer is sent. PARSE_CLOSE: not a packet at all.
 */
#ifndef EXTANT_PROTO_BIN_H
#define EXTANT_PROTO_BIN_H

#include "proto/proto.h"
#include "proto/text.h"

enum {
    BIN_MAGIC_ASK = 0x80,
    BIN_MAGIC_ANSWER = 0x81,
    BIN_HEAD_BYTES = 24,
    BIN_FLAGS_BYTES = 4,
    BIN_REPLY_MAX = BIN_HEAD_BYTES + BIN_FLAGS_BYTES + PROTO_KEY_MAX,
    BIN_STAT_NAME_MAX = 256,
    BIN_NO_INITIAL = 0xffffffff, /* expiry of an incr that creates nothing */
};

/* The parts that follow the head. */
enum bin_shape {
    BIN_KEY = 1 << 0,     /* a key, 1..PROTO_KEY_MAX bytes */
    BIN_KEY_MAY = 1 << 1, /* or none */
    BIN_VALUE = 1 << 2,   /* a value, 0 bytes and more */
    BIN_EXTRAS_MAY = 1 << 3, /* the extras, or none */
    BIN_QUIET = 1 << 4,
    BIN_ELSE_UNKNOWN = 1 << 5, /* in any other shape it is an unknown command, as in memcached */
};

/* The one list of opcodes.
 *    opcode  what it does    extras  shape */
#define BIN_TABLE(X)                                                                               \
    X(0x00, VERB_GET,         0, BIN_KEY)                                                          \
    X(0x01, VERB_SET,         8, BIN_KEY | BIN_VALUE)                                              \
    X(0x02, VERB_ADD,         8, BIN_KEY | BIN_VALUE)                                              \
    X(0x03, VERB_REPLACE,     8, BIN_KEY | BIN_VALUE)                                              \
    X(0x04, VERB_DELETE,      0, BIN_KEY)                                                          \
    X(0x05, VERB_INCR,       20, BIN_KEY)                                                          \
    X(0x06, VERB_DECR,       20, BIN_KEY)                                                          \
    X(0x07, VERB_QUIT,        0, 0)                                                                \
    X(0x08, VERB_FLUSH_ALL,   4, BIN_EXTRAS_MAY)                                                   \
    X(0x09, VERB_GET,         0, BIN_KEY | BIN_QUIET)                                              \
    X(0x0a, VERB_MN,          0, 0) /* noop */                                                     \
    X(0x0b, VERB_VERSION,     0, 0)                                                                \
    X(0x0c, VERB_GET,         0, BIN_KEY) /* getk: the answer names the key */                     \
    X(0x0d, VERB_GET,         0, BIN_KEY | BIN_QUIET)                                              \
    X(0x0e, VERB_APPEND,      0, BIN_KEY | BIN_VALUE)                                              \
    X(0x0f, VERB_PREPEND,     0, BIN_KEY | BIN_VALUE)                                              \
    X(0x10, VERB_STATS,       0, BIN_KEY | BIN_KEY_MAY)                                            \
    X(0x11, VERB_SET,         8, BIN_KEY | BIN_VALUE | BIN_QUIET)                                  \
    X(0x12, VERB_ADD,         8, BIN_KEY | BIN_VALUE | BIN_QUIET)                                  \
    X(0x13, VERB_REPLACE,     8, BIN_KEY | BIN_VALUE | BIN_QUIET)                                  \
    X(0x14, VERB_DELETE,      0, BIN_KEY | BIN_QUIET)                                              \
    X(0x15, VERB_INCR,       20, BIN_KEY | BIN_QUIET)                                              \
    X(0x16, VERB_DECR,       20, BIN_KEY | BIN_QUIET)                                              \
    X(0x17, VERB_QUIT,        0, BIN_QUIET)                                                        \
    X(0x18, VERB_FLUSH_ALL,   4, BIN_EXTRAS_MAY | BIN_QUIET)                                       \
    X(0x19, VERB_APPEND,      0, BIN_KEY | BIN_VALUE | BIN_QUIET)                                  \
    X(0x1a, VERB_PREPEND,     0, BIN_KEY | BIN_VALUE | BIN_QUIET)                                  \
    X(0x1b, VERB_VERBOSITY,   4, BIN_ELSE_UNKNOWN)                                                 \
    X(0x1c, VERB_GAT,         4, BIN_KEY) /* touch */                                              \
    X(0x1d, VERB_GAT,         4, BIN_KEY)                                                          \
    X(0x1e, VERB_GAT,         4, BIN_KEY | BIN_QUIET)                                              \
    X(0x20, VERB_SASL_MECHS,  0, 0)                                                                \
    X(0x21, VERB_SASL_AUTH,   0, BIN_KEY | BIN_VALUE)                                              \
    X(0x22, VERB_SASL_STEP,   0, BIN_KEY | BIN_VALUE)                                              \
    X(0x23, VERB_GAT,         4, BIN_KEY) /* gatk */                                               \
    X(0x24, VERB_GAT,         4, BIN_KEY | BIN_QUIET)

/* The statuses of answers. */
enum bin_status {
    BIN_OK = 0x00,
    BIN_NOT_FOUND = 0x01,
    BIN_EXISTS = 0x02,
    BIN_TOO_LARGE = 0x03,
    BIN_INVALID = 0x04,
    BIN_NOT_STORED = 0x05,
    BIN_NON_NUMERIC = 0x06,
    BIN_AUTH_ERROR = 0x20,
    BIN_AUTH_CONTINUE = 0x21,
    BIN_UNKNOWN_COMMAND = 0x81,
    BIN_NO_MEMORY = 0x82,
};

/* Parses the packet at the start of the len bytes at buf; pointers of *req lead into buf. *consumed is
 * its length without the value, 0 for PARSE_NEED_MORE; the value of VF_VALUE follows. Get and gat have
 * their one key in `keys`; the SASL commands have the mechanism's name as key and its data as
 * tokens[0], both within *consumed, which is then up to PROTO_AUTH_MAX larger. Longer data give no
 * token: throw swallow_bytes away. */
enum parse_result proto_parse_bin(const char *buf, size_t len, size_t *consumed,
                                  struct request *req);

/* Finds the key of a packet at buf, long before it is parsed, if it has one and it has arrived. Returns
 * the key's length, 0: none. *packet_bytes: head and body, or 0 if that isn't known yet. */
uint32_t proto_peek_bin(const char *buf, size_t len, const char **key, uint64_t *packet_bytes);

/* ---- answers: each function returns the length, 0 if the request is quiet about it. out holds
 * BIN_REPLY_MAX, unless stated. ---- */

/* A fixed reply. */
size_t proto_put_bin_reply(char *out, const struct request *req, enum reply reply);
/* The head of a hit with its flags, and its key if the command wants it; *with_value: the value follows. */
size_t proto_put_bin_hit(char *out, const struct request *req, const char *key, uint32_t key_len,
                         uint32_t client_flags, uint32_t value_bytes, uint64_t cas,
                         bool *with_value);
size_t proto_put_bin_miss(char *out, const struct request *req, const char *key, uint32_t key_len);
/* Success; cas is that of the item now, 0: there is none. */
size_t proto_put_bin_done(char *out, const struct request *req, uint64_t cas);
size_t proto_put_bin_number(char *out, const struct request *req, uint64_t number, uint64_t cas);
/* Head and name of a statistic; value_bytes of value follow. out holds BIN_HEAD_BYTES and the name,
 * which is cut to BIN_STAT_NAME_MAX. */
size_t proto_put_bin_stat(char *out, const struct request *req, const char *name,
                          size_t value_bytes);

#endif
