/* proto/text.h: parses a line of the text protocol into a request. Pure: the same bytes give
 * the same result; any thread, no locks, no allocation.
 *
 * How a connection uses it:
 *
 *   NEED_MORE  read more, call again with all the bytes
 *   OK         drop *consumed bytes; if VF_VALUE, value_bytes and \r\n follow; do it
 *   ERROR      drop *consumed and swallow_bytes more; answer req->error unless noreply
 *   CLOSE      close without an answer
 */
#ifndef EXTANT_PROTO_TEXT_H
#define EXTANT_PROTO_TEXT_H

#include "proto/proto.h"

enum parse_result { PARSE_NEED_MORE, PARSE_OK, PARSE_ERROR, PARSE_CLOSE };

/* Parses the line at the start of the len bytes at buf. *consumed is its length with its
 * line end, 0 if there is none yet. *req is set for PARSE_OK and PARSE_ERROR (then verb may
 * be VERB_UNKNOWN, and fields after the error are 0 or unset) and points into buf.
 *
 * As in memcached, a line that is complete may have any length, but after
 * PROTO_LINE_MAX bytes without a newline only a get or gets may continue. */
enum parse_result proto_parse_line(const char *buf, size_t len, size_t *consumed,
                                   struct request *req);

/* The line that opens an authentication: `set K F E BYTES`, BYTES of "user pass" and \r\n
 * following. PARSE_OK sets *value_bytes; PARSE_ERROR sets *error (the connection stays
 * unauthenticated, nothing is swallowed); also PARSE_NEED_MORE and PARSE_CLOSE. */
enum parse_result proto_parse_auth(const char *buf, size_t len, size_t *consumed,
                                   uint32_t *value_bytes, enum reply *error);

/* Guesses the key of a line at buf, long before it is parsed: the second word, if
 * the first is as short as a command. Returns its length; 0: none. *value_bytes: length of the value that
 * follows the line, 0 if none does or the line isn't complete. Pure. */
uint32_t proto_peek_key(const char *buf, size_t len, const char **key, uint32_t *value_bytes);

#endif
