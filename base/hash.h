/* base/hash.h: the one hash of keys. XXH3, 64 bits, compiled into its callers.
 *
 * The seed is drawn at start (a client can't aim keys at one bucket) and kept
 * with all data that outlives the process and holds hashes. Stateless; any thread.
 */
#ifndef EXTANT_HASH_H
#define EXTANT_HASH_H

#include "base/base.h"

#ifndef XXH_INLINE_ALL
#define XXH_INLINE_ALL
#endif
#include <xxhash.h>

/* Hash of len bytes. Same key and seed give the same value on every machine. */
static inline uint64_t hash_key(const void *key, size_t len, uint64_t seed)
{
    return XXH3_64bits_withSeed(key, len, seed);
}

/* A random number, never 0: a seed, or a mark that no other process makes. Without entropy, times have to do. */
uint64_t hash_draw(void);

#endif
