/* proto/base64.h: base64 as memcached reads and writes binary keys. Pure; any thread. */
#ifndef EXTANT_BASE64_H
#define EXTANT_BASE64_H

#include "base/base.h"

/* Length of the text that encodes len bytes. */
#define BASE64_TEXT_BYTES(len) (((len) + 2) / 3 * 4)

/* Writes BASE64_TEXT_BYTES(len) at out, padded with '='; returns that length. */
size_t base64_encode(char *out, const void *src, size_t len);

/* Decodes len bytes of text at src; out holds out_max. Bytes outside the alphabet are
 * skipped; a '=' is a zero that shortens the result, and ends it with its group of four.
 * Returns the number of bytes written; 0 if there is nothing to decode, the text is not
 * whole groups of four, has more than two '=' in its last group, or out_max is less than
 * three bytes for each group. */
size_t base64_decode(char *out, size_t out_max, const char *src, size_t len);

#endif
