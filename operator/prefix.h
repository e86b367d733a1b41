/* operator/prefix.h: `stats detail`: what is done to keys, by the prefix of the key.
 *
 * The prefix is what stands before the first delimiter (-D); a key without one
 * is not counted. There are at most PREFIX_MAX prefixes, so that clients can't
 * fill memory with them; keys of further ones are not counted.
 *
 * Whether to count at all is the setting detail_enabled, which the caller asks
 * first. Any thread; LOCK_STATS inside; never sleeps.
 */
#ifndef EXTANT_PREFIX_H
#define EXTANT_PREFIX_H

#include "base/base.h"

#define PREFIX_MAX 65536

struct prefixes;

/* NULL when there is no memory. */
struct prefixes *prefixes_create(char delimiter);
void prefixes_destroy(struct prefixes *p);

/* One get, set or delete of the key. Without memory for a new prefix it is not counted. */
void prefixes_get(struct prefixes *p, const char *key, size_t key_len, bool is_hit);
void prefixes_set(struct prefixes *p, const char *key, size_t key_len);
void prefixes_delete(struct prefixes *p, const char *key, size_t key_len);

/* Forgets all (`stats reset`). */
void prefixes_clear(struct prefixes *p);

/* The lines "PREFIX name get N hit N set N del N\r\n" in order of appearance, without END. The
 * caller frees it. NULL when there is no memory. */
char *prefixes_dump(struct prefixes *p, size_t *len);

#endif
