/* flood.h: keys that all have the same hash under a known seed: an attack to test against.
 *
 * Of keys of 17 to 32 bytes XXH3 multiplies the first word, less a word made of the seed, with the
 * second. If the first factor is 0, the second is free.
 */
#ifndef EXTANT_T_FLOOD_H
#define EXTANT_T_FLOOD_H

#include "base/hash.h"

#define FLOOD_KEY_BYTES 32

/* The ith of them. */
static inline void flood_key(char key[FLOOD_KEY_BYTES], uint64_t seed, uint32_t i)
{
    uint64_t first, second = i;
    memcpy(&first, XXH3_kSecret, sizeof(first));
    first += seed;
    memset(key, 'k', FLOOD_KEY_BYTES);
    memcpy(key, &first, sizeof(first));
    memcpy(key + 8, &second, sizeof(second));
}

#endif
