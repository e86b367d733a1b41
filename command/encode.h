/* command/encode.h: writes a request's outcome for its client. There is one table of functions
 * for each protocol (enum proto_dialect); the request says which, so commands don't depend on the protocol.
 * Pure: they read the outcome and write bytes. Any thread, no locks, nothing sleeps.
 *
 * Each returns the length of what it has put at out, 0 if the request suppresses it.
 */
#ifndef EXTANT_ENCODE_H
#define EXTANT_ENCODE_H

#include "cache.h"
#include "proto/meta.h"
#include "proto/proto.h"

/* Room at out, except for `stat`. */
enum { ENCODE_MAX = PROTO_META_REPLY_MAX + PROTO_U64_TEXT_MAX + 2 };

struct encoder {
    /* A get that found something. *with_value: the value follows, and \r\n if value_ends. */
    size_t (*hit)(char *out, const struct request *req, const char *key, uint32_t key_len,
                  const struct cache_view *v, bool *with_value);
    size_t (*miss)(char *out, const struct request *req, const char *key, uint32_t key_len);
    /* A change that has ended, with any status; req->key is set. */
    size_t (*done)(char *out, const struct request *req, const struct cache_op *op);
    /* A fixed reply. */
    size_t (*fixed)(char *out, const struct request *req, enum reply reply);
    /* One statistic; out holds ENCODE_STAT_MAX. value_bytes <= ENCODE_STAT_VALUE_MAX. */
    size_t (*stat)(char *out, const struct request *req, const char *name, const char *value,
                   size_t value_bytes);
    /* The head of a statistic whose value is a text of many lines, which then ends with END; NULL: such a
     * text needs no head. */
    size_t (*block)(char *out, const struct request *req, const char *name, size_t value_bytes);
    bool value_ends; /* with \r\n */
};

enum { ENCODE_STAT_VALUE_MAX = 1400, ENCODE_STAT_MAX = ENCODE_STAT_VALUE_MAX + 400 };

const struct encoder *encoder_of(const struct request *req);

/* The exptime that t of mg and ma shows, which depends on its place among the flags. */
uint32_t encode_shown_exptime(const struct cache_op *op, const struct request *req);
/* Seconds left; -1: it never expires. */
int64_t encode_ttl(uint32_t exptime_sec);
/* N as the exptime of a new item; a T behind it wins. */
uint32_t encode_vivify_exptime(const struct request *req);
/* The error reply of a status, if it is the same for every command; otherwise REPLY_NONE. */
enum reply encode_error_of(enum verb verb, enum cache_status status);

#endif
