/* proto/meta.h: the meta commands mg ms md ma mn me: their flags and their reply
 * lines. Pure; any thread, no locks. Only proto/text.c calls proto_meta_parse().
 *
 * The command layer decides what the flags do. Three facts matter there:
 *  - a flag of another meta command is accepted and has no effect;
 *  - ms with C compares the cas for modes S and R (as the cas command does), too;
 *  - ms with mode A or P takes its exptime from N (vivify), not from T.
 */
#ifndef EXTANT_PROTO_META_H
#define EXTANT_PROTO_META_H

#include "proto/proto.h"

/* `VA 4294967295`, every flag once, a key of 250 bytes as base64, ` Z X W`, \r\n. */
enum { PROTO_META_REPLY_MAX = 512 };

enum meta_arg {
    META_ARG_NONE,   /* what follows the letter is ignored */
    META_ARG_I32,    /* seconds */
    META_ARG_U32,    /* client flags */
    META_ARG_U64,    /* cas, delta, initial value */
    META_ARG_LETTER, /* mode */
    META_ARG_TEXT,   /* opaque */
};

/* The one list of flags: letter, argument, may it be echoed, its meaning (and for which
 * command). */
#define META_FLAG_TABLE(X)                                                                         \
    X('b', META_ARG_NONE, false, "the key is base64")                                              \
    X('c', META_ARG_NONE, true, "return the cas")                                                  \
    X('f', META_ARG_NONE, true, "return the client flags (mg)")                                    \
    X('h', META_ARG_NONE, true, "return whether it was hit before (mg)")                           \
    X('k', META_ARG_NONE, true, "return the key")                                                  \
    X('l', META_ARG_NONE, true, "return seconds since the last access (mg)")                       \
    X('q', META_ARG_NONE, false, "hide the expected answer")                                       \
    X('s', META_ARG_NONE, true, "return the value's bytes (mg, ms)")                               \
    X('t', META_ARG_NONE, true, "return the TTL, -1 for none (mg, ma)")                            \
    X('u', META_ARG_NONE, false, "do not bump (mg)")                                               \
    X('v', META_ARG_NONE, false, "return the value (mg, ma)")                                      \
    X('x', META_ARG_NONE, false, "empty the value, keep the item (md)")                            \
    X('C', META_ARG_U64, false, "compare with this cas")                                           \
    X('D', META_ARG_U64, false, "delta (ma)")                                                      \
    X('E', META_ARG_U64, false, "set this cas")                                                    \
    X('F', META_ARG_U32, false, "client flags (ms)")                                               \
    X('I', META_ARG_NONE, false, "mark stale (md), store though stale (ms)")                       \
    X('J', META_ARG_U64, false, "initial value (ma)")                                              \
    X('L', META_ARG_NONE, false, "reserved for proxies")                                           \
    X('M', META_ARG_LETTER, false, "mode (ms, ma)")                                                \
    X('N', META_ARG_I32, false, "create on a miss with this TTL (mg, ms, ma)")                     \
    X('O', META_ARG_TEXT, true, "opaque, returned as it is")                                       \
    X('P', META_ARG_NONE, false, "reserved for proxies")                                           \
    X('R', META_ARG_I32, false, "win the right to recache if the TTL is below (mg)")               \
    X('T', META_ARG_I32, false, "set the TTL")

/* Parses the tokens of a meta command, [line, end) being the line without its end. Sets
 * tokens, key and every field of req that meta commands have; the caller has cleared the rest of
 * *req. Returns REPLY_NONE, or the error to answer with req->swallow_bytes set. */
enum reply proto_meta_parse(struct request *req, const char *line, const char *end);

enum meta_status { META_HD, META_VA, META_EN, META_NF, META_NS, META_EX, META_STATUS_COUNT };

/* The facts that a reply may report; only those that the request asks for are read. */
struct meta_reply {
    enum meta_status status;
    bool hit_before;     /* h */
    bool key_is_binary;  /* k: the item (mg hit, ms) or the request (other commands) has a base64 key */
    bool token_sent;     /* mg: append Z */
    bool stale;          /* mg: append X */
    bool won;            /* mg: append W */
    uint32_t value_bytes;  /* VA's number, s */
    uint32_t client_flags; /* f */
    uint32_t idle_sec;     /* l */
    int64_t ttl_sec;       /* t; below 0: no expiry */
    uint64_t cas;          /* c */
    const char *key;       /* k; may be NULL if k was not asked for */
    uint32_t key_len;
};

/* The reply line with \r\n at out, which holds PROTO_META_REPLY_MAX; returns its length.
 * Flags by command: mg hit: s t c f l h O k, then Z X W; ms: O k c s, for every
 * status; successful ma: c t O k; all others: O k. */
size_t proto_put_meta_reply(char *out, const struct request *req, const struct meta_reply *reply);

/* True iff the request's q suppresses this answer: EN of mg, HD of ms, md and ma, VA of ma. Errors
 * are never suppressed. */
bool proto_meta_is_hidden(const struct request *req, enum meta_status status);

/* What `me` reports about an item. */
struct meta_debug {
    const char *key;
    uint32_t key_len;
    bool key_is_binary; /* the item's */
    bool fetched;
    int64_t ttl_sec; /* below 0: no expiry */
    uint64_t idle_sec;
    uint64_t cas;
    uint32_t slab_class;
    uint64_t item_bytes;
};

/* The ME line with \r\n at out, which holds PROTO_META_REPLY_MAX; returns its length. */
size_t proto_put_me(char *out, const struct meta_debug *item);

#endif
