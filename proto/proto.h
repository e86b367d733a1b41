/* proto/proto.h: the words of memcached's protocols: commands, replies, the parsed
 * request, numbers, tokens and reply lines. Pure functions: bytes in, struct or
 * bytes out; no state, no allocation, no settings, no sockets. Any thread, no locks,
 * nothing sleeps.
 *
 * Parsers: proto/text.h (a whole line) calls proto/meta.h (the m? commands); proto/bin.h
 * reads packets. All fill a struct request. command/command.c decides what a command
 * does.
 *
 * The protocol level is MEMCACHED_LEVEL. Limits: a key has 1..PROTO_KEY_MAX bytes; only the
 * first PROTO_TOKENS_MAX tokens of a line count, except that get, gets,
 * gat and gats take any number of keys, read by proto_next_key().
 */
#ifndef EXTANT_PROTO_H
#define EXTANT_PROTO_H

#include "base/base.h"

enum {
    PROTO_KEY_MAX = 250,          /* bytes of a key, as sent */
    PROTO_TOKENS_MAX = 23,        /* tokens of a line that are read */
    PROTO_META_TOKENS_MAX = 20,   /* tokens of a meta command, its name and key included */
    PROTO_OPAQUE_MAX = 32,        /* bytes of an opaque flag, its letter O included */
    PROTO_LINE_MAX = 2048,        /* bytes without a newline, except in a get */
    PROTO_LEADING_SPACES_MAX = 100, /* spaces before such a get */
    PROTO_VALUE_MAX = INT32_MAX - 2, /* bytes of a value, without its \r\n */
    PROTO_AUTH_MAX = 16384,       /* bytes of "user pass" */

    PROTO_U64_TEXT_MAX = 20,
    PROTO_VALUE_HEADER_MAX = 304, /* VALUE line: 6 + 250 + 11 + 11 + 21 + 2, rounded up */
    PROTO_URI_KEY_MAX = 3 * PROTO_KEY_MAX,
};

/* ---- commands ---- */

enum verb_class {
    CLASS_CLASSIC, /* data commands of the original protocol */
    CLASS_META,    /* m? commands */
    CLASS_ADMIN,   /* arguments are in tokens[] */
    CLASS_LOGIN,   /* SASL */
};

enum verb_flag {
    VF_NONE = 0,
    VF_KEYS = 1 << 0,       /* keys are read with proto_next_key() */
    VF_VALUE = 1 << 1,      /* a value of value_bytes and \r\n follows the line */
    VF_NOREPLY = 1 << 2,    /* "noreply" as the last token silences it */
    VF_RETURN_CAS = 1 << 3, /* VALUE lines carry the cas */
    VF_TOUCH = 1 << 4,      /* sets a new exptime while it reads */
    VF_LATE = 1 << 5,       /* accepted also after leading spaces, as in memcached */
    VF_DEBUG = 1 << 6,      /* known to debug builds only */
    VF_DROP_OLD = 1 << 7,   /* if refused for size or memory, the old value goes too */
    VF_NO_LOGIN = 1 << 8,   /* allowed before log-in with -S */
};

/* The one list of commands; the frequent ones first. "min" is the number of tokens that are
 * required, including the name. */
#define VERB_STORE (VF_VALUE | VF_NOREPLY)
#define VERB_LATE (VF_LATE | VF_NOREPLY)
/*    name                 word              min class         flags */
#define VERB_TABLE(X)                                                                              \
    X(VERB_GET,            "get",            2, CLASS_CLASSIC, VF_KEYS)                            \
    X(VERB_MG,             "mg",             2, CLASS_META,    VF_NONE)                            \
    X(VERB_SET,            "set",            5, CLASS_CLASSIC, VERB_STORE | VF_DROP_OLD)           \
    X(VERB_MS,             "ms",             3, CLASS_META,    VF_VALUE | VF_DROP_OLD)             \
    X(VERB_GETS,           "gets",           2, CLASS_CLASSIC, VF_KEYS | VF_RETURN_CAS)            \
    X(VERB_MN,             "mn",             1, CLASS_META,    VF_NONE)                            \
    X(VERB_DELETE,         "delete",         2, CLASS_CLASSIC, VF_NOREPLY)                         \
    X(VERB_MD,             "md",             2, CLASS_META,    VF_NONE)                            \
    X(VERB_INCR,           "incr",           3, CLASS_CLASSIC, VF_NOREPLY)                         \
    X(VERB_DECR,           "decr",           3, CLASS_CLASSIC, VF_NOREPLY)                         \
    X(VERB_MA,             "ma",             2, CLASS_META,    VF_NONE)                            \
    X(VERB_ADD,            "add",            5, CLASS_CLASSIC, VERB_STORE)                         \
    X(VERB_TOUCH,          "touch",          3, CLASS_CLASSIC, VF_NOREPLY | VF_TOUCH)              \
    X(VERB_CAS,            "cas",            5, CLASS_CLASSIC, VERB_STORE)                         \
    X(VERB_GAT,            "gat",            3, CLASS_CLASSIC, VF_KEYS | VF_TOUCH)                 \
    X(VERB_GATS,           "gats",           3, CLASS_CLASSIC, VF_KEYS | VF_TOUCH | VF_RETURN_CAS) \
    X(VERB_REPLACE,        "replace",        5, CLASS_CLASSIC, VERB_STORE)                         \
    X(VERB_APPEND,         "append",         5, CLASS_CLASSIC, VERB_STORE)                         \
    X(VERB_PREPEND,        "prepend",        5, CLASS_CLASSIC, VERB_STORE)                         \
    X(VERB_ME,             "me",             2, CLASS_META,    VF_NONE)                            \
    X(VERB_STATS,          "stats",          1, CLASS_ADMIN,   VF_NONE)                            \
    X(VERB_VERSION,        "version",        1, CLASS_ADMIN,   VF_NO_LOGIN)                        \
    X(VERB_QUIT,           "quit",           1, CLASS_ADMIN,   VF_NONE)                            \
    X(VERB_WATCH,          "watch",          1, CLASS_ADMIN,   VF_NONE)                            \
    X(VERB_FLUSH_ALL,      "flush_all",      1, CLASS_ADMIN,   VERB_LATE)                          \
    X(VERB_VERBOSITY,      "verbosity",      1, CLASS_ADMIN,   VERB_LATE)                          \
    X(VERB_SHUTDOWN,       "shutdown",       1, CLASS_ADMIN,   VERB_LATE)                          \
    X(VERB_SLABS,          "slabs",          1, CLASS_ADMIN,   VERB_LATE)                          \
    X(VERB_LRU,            "lru",            1, CLASS_ADMIN,   VERB_LATE)                          \
    X(VERB_LRU_CRAWLER,    "lru_crawler",    1, CLASS_ADMIN,   VERB_LATE)                          \
    X(VERB_CACHE_MEMLIMIT, "cache_memlimit", 1, CLASS_ADMIN,   VERB_LATE)                          \
    X(VERB_EXTSTORE,       "extstore",       1, CLASS_ADMIN,   VERB_LATE)                          \
    X(VERB_REFRESH_CERTS,  "refresh_certs",  1, CLASS_ADMIN,   VERB_LATE)                          \
    X(VERB_DEBUGTIME,      "debugtime",      1, CLASS_ADMIN,   VERB_LATE | VF_DEBUG)               \
    X(VERB_DEBUGITEM,      "debugitem",      1, CLASS_ADMIN,   VERB_LATE | VF_DEBUG)               \
    X(VERB_MISBEHAVE,      "misbehave",      1, CLASS_ADMIN,   VERB_LATE | VF_DEBUG)               \
    /* without a word: only in the binary protocol */                                       \
    X(VERB_SASL_MECHS,     "",               0, CLASS_LOGIN,   VF_NO_LOGIN)                        \
    X(VERB_SASL_AUTH,      "",               0, CLASS_LOGIN,   VF_NO_LOGIN)                        \
    X(VERB_SASL_STEP,      "",               0, CLASS_LOGIN,   VF_NO_LOGIN)                        \

enum verb {
    VERB_TABLE(ROW_NAME)
        VERB_COUNT,
    VERB_UNKNOWN = VERB_COUNT
};

struct verb_info {
    const char *word;
    uint8_t word_len;
    uint8_t min_tokens;
    uint8_t verb_class; /* enum verb_class */
    uint16_t flags;     /* enum verb_flag */
};

/* The table's row; verb < VERB_COUNT. */
const struct verb_info *verb_info(enum verb verb);

/* The command named by these bytes, or VERB_UNKNOWN. Release builds don't know debug
 * commands. */
enum verb verb_find(const char *word, size_t len);

/* ---- fixed replies ---- */

/* Every reply line whose text is constant, without its \r\n. */
#define REPLY_TABLE(X)                                                                             \
    X(REPLY_NONE, "")                                                                              \
    X(REPLY_STORED, "STORED")                                                                      \
    X(REPLY_NOT_STORED, "NOT_STORED")                                                              \
    X(REPLY_EXISTS, "EXISTS")                                                                      \
    X(REPLY_NOT_FOUND, "NOT_FOUND")                                                                \
    X(REPLY_DELETED, "DELETED")                                                                    \
    X(REPLY_TOUCHED, "TOUCHED")                                                                    \
    X(REPLY_OK, "OK")                                                                              \
    X(REPLY_END, "END")                                                                            \
    X(REPLY_RESET, "RESET")                                                                        \
    X(REPLY_MN, "MN")                                                                              \
    X(REPLY_EN, "EN")                                                                              \
    X(REPLY_MISS, "MISS")                                                                          \
    X(REPLY_VERSION, "VERSION " MEMCACHED_LEVEL)                                                   \
    X(REPLY_ERROR, "ERROR")                                                                        \
    X(REPLY_TOO_MANY_CONNS, "ERROR Too many open connections")                                     \
    X(REPLY_BAD_FORMAT, "CLIENT_ERROR bad command line format")                                    \
    /* the key of a get is too long: memcached ends this line twice */                                  \
    X(REPLY_GET_BAD_FORMAT, "CLIENT_ERROR bad command line format\r\n")                            \
    X(REPLY_BAD_LINE, "CLIENT_ERROR bad command line")                                             \
    X(REPLY_BAD_CHUNK, "CLIENT_ERROR bad data chunk")                                              \
    X(REPLY_BAD_EXPTIME, "CLIENT_ERROR invalid exptime argument")                                  \
    X(REPLY_BAD_DELTA, "CLIENT_ERROR invalid numeric delta argument")                              \
    X(REPLY_NON_NUMERIC, "CLIENT_ERROR cannot increment or decrement non-numeric value")           \
    X(REPLY_TOO_LARGE, "SERVER_ERROR object too large for cache")                                  \
    X(REPLY_OOM_STORING, "SERVER_ERROR out of memory storing object")                              \
    X(REPLY_OOM, "SERVER_ERROR out of memory")                                                     \
    X(REPLY_OOM_NEW_ITEM, "SERVER_ERROR Out of memory allocating new item")                        \
    X(REPLY_OOM_GET, "SERVER_ERROR out of memory writing get response")                            \
    X(REPLY_OOM_STATS, "SERVER_ERROR out of memory writing stats")                                 \
    X(REPLY_META_INVALID_FLAG, "CLIENT_ERROR invalid flag")                                        \
    X(REPLY_META_DUPLICATE_FLAG, "CLIENT_ERROR duplicate flag")                                    \
    X(REPLY_META_TOO_MANY_FLAGS, "CLIENT_ERROR options flags are too long")                        \
    X(REPLY_META_BAD_TOKEN, "CLIENT_ERROR bad token in command line format")                       \
    /* of mg, ms and md; ma says REPLY_MA_BAD_FLAG */                                              \
    X(REPLY_META_BAD_INITIAL, "CLIENT_ERROR invalid numeric initial value")                        \
    X(REPLY_META_BAD_DELTA, "CLIENT_ERROR invalid numeric delta value")                            \
    X(REPLY_META_BAD_KEY, "CLIENT_ERROR error decoding key")                                       \
    X(REPLY_META_BAD_OPAQUE, "CLIENT_ERROR opaque token too long")                                 \
    X(REPLY_MS_BAD_MODE, "CLIENT_ERROR invalid mode for ms M token")                               \
    X(REPLY_MA_BAD_MODE, "CLIENT_ERROR invalid mode for ma M token")                               \
    X(REPLY_MA_BAD_FLAG, "CLIENT_ERROR invalid or duplicate flag")                                 \
    X(REPLY_STATS_DETAIL_USAGE, "CLIENT_ERROR usage: stats detail on|off|dump")                    \
    X(REPLY_STATS_DETAIL_DENIED, "CLIENT_ERROR stats detail not allowed")                          \
    X(REPLY_CACHEDUMP_DENIED, "CLIENT_ERROR stats cachedump not allowed")                          \
    X(REPLY_CACHEDUMP_BAD_CLASS, "CLIENT_ERROR Illegal slab id")                                   \
    X(REPLY_FLUSH_DENIED, "CLIENT_ERROR flush_all not allowed")                                    \
    X(REPLY_MEMLIMIT_SMALL, "MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m")              \
    X(REPLY_MEMLIMIT_UNITS, "MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes")           \
    X(REPLY_MEMLIMIT_BOUNDS, "MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust")           \
    X(REPLY_SHUTDOWN_DENIED, "SERVER_ERROR: shutdown not enabled")                                 \
    X(REPLY_SHUTDOWN_BAD_MODE, "CLIENT_ERROR invalid shutdown mode")                               \
    X(REPLY_REASSIGN_BUSY, "BUSY currently processing reassign request")                           \
    X(REPLY_REASSIGN_BAD_CLASS, "BADCLASS invalid src or dst class id")                            \
    X(REPLY_REASSIGN_NO_SPARE, "NOSPARE source class has no spare pages")                          \
    X(REPLY_REASSIGN_SAME, "SAME src and dst class are identical")                                 \
    X(REPLY_REASSIGN_DISABLED, "CLIENT_ERROR slab reassignment disabled")                          \
    X(REPLY_AUTOMOVE_BAD_WINDOW, "CLIENT_ERROR automove window too low or too high")               \
    X(REPLY_LRU_BAD_PCT, "ERROR hot and warm pcts must not exceed 80")                             \
    X(REPLY_LRU_BAD_FACTOR, "ERROR hot/warm age factors must be greater than 0")                   \
    X(REPLY_CRAWLER_BUSY, "BUSY currently processing crawler request")                             \
    X(REPLY_CRAWLER_BAD_CLASS, "BADCLASS invalid class id")                                        \
    X(REPLY_CRAWLER_DISABLED, "CLIENT_ERROR lru crawler disabled")                                 \
    X(REPLY_CRAWLER_BAD_SLEEP, "CLIENT_ERROR sleep must be one second or less")                    \
    X(REPLY_CRAWLER_START_FAILED, "ERROR failed to start lru crawler thread")                      \
    X(REPLY_CRAWLER_ERROR, "ERROR an unknown error happened")                                      \
    X(REPLY_METADUMP_DENIED, "ERROR metadump not allowed")                                         \
    X(REPLY_MGDUMP_DENIED, "ERROR key dump not allowed")                                           \
    X(REPLY_METADUMP_PIPELINED, "ERROR cannot pipeline other commands before metadump")            \
    X(REPLY_MGDUMP_PIPELINED, "ERROR cannot pipeline other commands before mgdump")                \
    X(REPLY_WATCH_PIPELINED, "ERROR cannot pipeline other commands before watch")                  \
    X(REPLY_WATCH_DENIED, "CLIENT_ERROR watch commands not allowed")                               \
    X(REPLY_WATCH_TOO_MANY, "WATCHER_TOO_MANY log watcher limit reached")                          \
    X(REPLY_WATCH_FAILED, "WATCHER_FAILED failed to add log watcher")                              \
    X(REPLY_AUTH_NEEDED, "CLIENT_ERROR unauthenticated")                                           \
    X(REPLY_AUTH_FAILED, "CLIENT_ERROR authentication failure")                                    \
    X(REPLY_AUTH_TOO_LONG, "CLIENT_ERROR auth token too long")                                     \
    X(REPLY_AUTH_BAD_FORMAT, "CLIENT_ERROR bad authentication token format")                       \
    X(REPLY_AUTH_BAD_END, "CLIENT_ERROR bad command line termination")                             \
    /* of the binary protocol */                                                                   \
    X(REPLY_UNKNOWN_COMMAND, "ERROR")                                                              \
    X(REPLY_BAD_ARGUMENTS, "CLIENT_ERROR bad arguments")                                           \
    X(REPLY_SASL_MECHS, "PLAIN")                                                                   \
    X(REPLY_SASL_CONTINUE, "CONTINUE")                                                             \
    X(REPLY_SASL_DONE, "Authenticated")

enum reply {
    REPLY_TABLE(ROW_NAME)
        REPLY_COUNT
};

/* The reply with its \r\n, ready to send, and its length; REPLY_NONE is 0 bytes.
 * Static storage. reply < REPLY_COUNT. */
const char *reply_line(enum reply reply, size_t *len);

/* ---- the request ---- */

/* Bytes of the input line; valid as long as the line is. */
struct proto_token {
    const char *ptr;
    uint32_t len;
};

/* Where to look for the next key of a get. */
struct key_cursor {
    const char *next, *end;
    bool whole; /* all of it is one key, with any bytes */
};

/* The protocol of the request, and so of its answer. */
enum proto_dialect { DIALECT_CLASSIC, DIALECT_META, DIALECT_BINARY, DIALECT_COUNT };

/* The parts of its request that a binary answer repeats. */
struct bin_args {
    uint32_t opaque; /* as received */
    uint8_t opcode;
};

/* Flag c of a meta command as a bit; c is 'A'..'z'. */
#define META_FLAG(c) ((uint64_t)1 << ((c) - 'A'))

/* Fields of meta commands only. Without PARSE_OK only `flags` is set (to 0). */
struct meta_args {
    uint64_t flags;      /* META_FLAG of each given flag, in any command */
    uint64_t cas_new;    /* E: the cas to give the item */
    uint64_t initial;    /* J */
    int32_t vivify_ttl;  /* N, as given */
    int32_t recache_ttl; /* R, as given */
    /* memcached applies flags in their order, so it matters whether a TTL is shown or
     * compared before or after it is set. */
    uint64_t flags_before_t;      /* those given before t */
    bool touch_before_recache;    /* T came before R */
    bool touch_after_vivify;      /* T came after N */
    /* M: ms 'S' (default), 'E' add, 'A', 'P' or 'R'; ma 'I' (default) or 'D'; else 0 */
    char mode;
    uint8_t echo_count;
    char echo[PROTO_META_TOKENS_MAX]; /* flags that may be answered, in request order */
    struct proto_token opaque;        /* O: with its letter */
};

/* One parsed line or packet. Pointers lead into it, except a base64 key: that is in key_buf,
 * so a copy of the struct must be given its own key pointer (proto_request_copy).
 * Fields that a command doesn't have are 0, except tokens[] beyond token_count, meta beyond
 * meta.flags and key_buf, which are not written. */
struct request {
    enum verb verb;
    enum reply error;          /* PARSE_ERROR: the answer, unless noreply */
    enum reply deferred_error; /* PARSE_OK: the answer, if the command is allowed at all */
    bool noreply;              /* "noreply" was given, or the command is a quiet one of the binary
                                  protocol; a meta command's q is META_FLAG('q') */
    uint8_t dialect;           /* enum proto_dialect */
    uint8_t value_end_bytes;   /* VF_VALUE: what follows the value, 2 for \r\n, or 0 */
    bool close_after;          /* PARSE_ERROR: the answer is the last one */
    bool without_value;        /* a get or gat that only touches */
    bool with_cas;             /* a store with any verb that compares cas */
    bool makes_number;         /* incr, decr: a missing number becomes `initial`, expiring at exptime */
    bool key_is_binary;        /* the key came as base64; a reply that names it says so too */
    uint8_t token_count;
    uint32_t key_len;
    const char *key;            /* NULL if there is none, or VF_KEYS */
    struct key_cursor keys;     /* VF_KEYS */
    bool more_keys;             /* VF_KEYS: set by the caller if more keys of the line follow as another request, so that
                                   this one's answer has no end */
    uint64_t swallow_bytes;     /* PARSE_ERROR: bytes after the line to throw away */
    uint32_t value_bytes;       /* VF_VALUE: without the \r\n */
    uint32_t client_flags;      /* or F */
    int32_t exptime;            /* as given: touch, gat, stores, flush_all's delay, or T */
    uint32_t number;            /* verbosity: the level; cache_memlimit: MB */
    uint64_t cas;               /* cas, or C */
    uint64_t delta;             /* incr, decr, or D (1 if not given) */
    uint64_t initial;           /* makes_number */
    struct bin_args bin;        /* DIALECT_BINARY */
    struct meta_args meta;      /* CLASS_META */
    struct proto_token tokens[PROTO_TOKENS_MAX]; /* [0] is the command; not set if VF_KEYS */
    char key_buf[PROTO_KEY_MAX];
};

/* Before a parser fills it: as the comment above says, of no command, to be answered in lines. */
void proto_request_clear(struct request *req);
/* What is true of a request that was parsed from the `consumed` bytes at buf. In debug builds only. */
#ifdef EXTANT_DEBUG
void proto_request_assert(const struct request *req, const char *buf, size_t consumed);
#else
static inline void proto_request_assert(const struct request *req UNUSED, const char *buf UNUSED,
                                        size_t consumed UNUSED)
{
}
#endif

/* A copy whose key does not lead into src. It still leads into the same line. */
void proto_request_copy(struct request *dst, const struct request *src);

static inline bool meta_has(const struct request *req, char flag)
{
    return (req->meta.flags & META_FLAG(flag)) != 0;
}

/* ---- tokens ---- */

/* Next key of a get line: 1 and the key, 0 at the end, or -1 if the key is too long: then
 * the whole reply is REPLY_GET_BAD_FORMAT, even if earlier keys were found. */
int proto_next_key(struct key_cursor *cursor, const char **key, uint32_t *len);

/* Splits [p, end) at spaces; returns their number, at most max; it ignores
 * the rest of the line. */
unsigned proto_tokenize(const char *p, const char *end, struct proto_token *tokens, unsigned max);

/* True iff token i is there and is exactly this word. */
bool proto_token_is(const struct request *req, unsigned i, const char *word);

/* True iff token i is there and the word begins with it: memcached takes `stats s` for
 * `stats settings`. Call it in memcached's order; the first match wins. */
bool proto_token_abbreviates(const struct request *req, unsigned i, const char *word);

/* Token i as a number; false if it isn't there or proto_u32() etc. reject it. */
bool proto_token_u32(const struct request *req, unsigned i, uint32_t *out);
bool proto_token_i32(const struct request *req, unsigned i, int32_t *out);
bool proto_token_i64(const struct request *req, unsigned i, int64_t *out);
bool proto_token_double(const struct request *req, unsigned i, double *out);

/* ---- numbers ---- */

/* Strict: digits only (and one '-' in front for the signed), all len bytes of them; at
 * most 11 bytes for 32 bits, 22 for 64; no bytes, and a lone '-', are 0. False otherwise. */
bool proto_u32(const char *p, size_t len, uint32_t *out);
bool proto_i32(const char *p, size_t len, int32_t *out);
bool proto_u64(const char *p, size_t len, uint64_t *out);
bool proto_i64(const char *p, size_t len, int64_t *out);

/* Lenient, as the C library's strtol family reads: white space and one sign may come first;
 * the number ends where len does, at white space or at a zero byte, anything else is false.
 * Out of 64 bits is false; wider than the result is cut to its low 32 bits. A negative
 * number is false for the unsigned, unless it wraps to less than 2^63. */
bool proto_lenient_u64(const char *p, size_t len, uint64_t *out);
bool proto_lenient_u32(const char *p, size_t len, uint32_t *out);
bool proto_lenient_i32(const char *p, size_t len, int32_t *out);

/* ---- writing ---- */

/* Decimal text of v at out, which holds PROTO_U64_TEXT_MAX; returns its length. */
size_t proto_put_u64(char *out, uint64_t v);

/* `VALUE key flags bytes[ cas]\r\n` at out, which holds PROTO_VALUE_HEADER_MAX; with_cas
 * for gets and gats. key_len <= PROTO_KEY_MAX. Returns the length. */
size_t proto_put_value_header(char *out, const char *key, size_t key_len, uint32_t client_flags,
                              uint32_t value_bytes, bool with_cas, uint64_t cas);

/* The key as logs and dumps write it: %XX for all bytes except letters, digits and -._~ ; out holds
 * 3 * key_len. Returns the length. */
size_t proto_put_uri(char *out, const char *key, size_t key_len);

/* True iff a line could name this key: it holds no space and no line end. */
bool proto_key_is_word(const char *key, size_t key_len);
/* The key as text lists show it: unchanged if it has no space and no control
 * character, otherwise as proto_put_uri() writes it. out holds 3 * key_len. Returns the length. */
size_t proto_put_key(char *out, const char *key, size_t key_len);

#endif
