/* operator/prefix.h: `stats detail`: counts operations by the prefix of their key.
 *
 * The prefix is the part before the first delimiter (-D); a key without one
 * is not counted. There are at most PREFIX_MAX prefixes, so that clients can't
 * fill memory with them; keys with other prefixes are not counted.
 *
 * The setting detail_enabled says whether to count; the caller checks
 * it first. Any thread; LOCK_STATS inside; never sleeps.
 */
#ifndef EXTANT_PREFIX_H
#define EXTANT_PREFIX_H

#include "base/base.h"

#define PREFIX_MAX 65536

struct prefixes;

/* NULL if there is no memory. */
struct prefixes *prefixes_create(char delimiter);
void prefixes_destroy(struct prefixes *p);

/* Counts a get, set or delete of the key. Without memory for a new prefix it is not counted. */
void prefixes_get(struct prefixes *p, const char *key, size_t key_len, bool is_hit);
void prefixes_set(struct prefixes *p, const char *key, size_t key_len);
void prefixes_delete(struct prefixes *p, const char *key, size_t key_len);

/* Forgets all (`stats reset`). */
void prefixes_clear(struct prefixes *p);

/* The lines "PREFIX name get N hit N set N del N\r\n" in order of appearance, without END. The
 * caller frees it. NULL if there is no memory. */
char *prefixes_dump(struct prefixes *p, size_t *len);

#endif
