/* base/hash.h: the hash of keys. */
#include "base/hash.h"

#include <criterion/criterion.h>

#include "t/aid/flood.h"

Test(hash, same_key_and_seed_same_value)
{
    cr_assert_eq(hash_key("key", 3, 7), hash_key("key", 3, 7));
}

Test(hash, seed_changes_the_value)
{
    cr_assert_neq(hash_key("key", 3, 7), hash_key("key", 3, 8));
}

Test(hash, is_xxh3_as_published)
{
    cr_assert_eq(hash_key("", 0, 0), UINT64_C(0x2d06800538d394c2));
}

Test(hash, every_length_to_250_differs)
{
    char key[250];
    uint64_t seen[251];
    memset(key, 'a', sizeof(key));
    for (size_t len = 0; len <= sizeof(key); len++) {
        seen[len] = hash_key(key, len, 1);
        for (size_t i = 0; i < len; i++)
            cr_assert_neq(seen[i], seen[len]);
    }
}

/* ---- a million keys that collide under a seed that an attacker knows ---- */

enum { FLOOD = 1000000, BUCKETS = 1 << 16 };

static uint32_t load[BUCKETS];

/* The fullest of this many buckets, by any 16 bits of the hash. */
static uint32_t fullest(bool flood, uint64_t known_seed, uint64_t seed, unsigned shift)
{
    uint32_t max = 0;
    char key[FLOOD_KEY_BYTES];
    memset(load, 0, sizeof(load));
    memset(key, 'r', sizeof(key));
    for (uint32_t i = 0; i < FLOOD; i++) {
        if (flood)
            flood_key(key, known_seed, i);
        else
            snprintf(key, sizeof(key), "any other key, number %u", i);
        uint32_t *n = &load[hash_key(key, sizeof(key), seed) >> shift & (BUCKETS - 1)];
        if (++*n > max)
            max = *n;
    }
    return max;
}

Test(hash, a_known_seed_allows_colliding_keys)
{
    cr_assert_eq(fullest(true, 0, 0, 0), FLOOD);
    cr_assert_eq(fullest(true, 12345, 12345, 48), FLOOD);
}

Test(hash, under_another_seed_such_keys_are_as_good_as_any)
{
    static const uint64_t seeds[] = {1, UINT64_C(0x8000000000000000), UINT64_C(0x1234567890abcdef)};
    for (size_t i = 0; i < ARRAY_COUNT(seeds); i++) {
        for (unsigned shift = 0; shift < 64; shift += 16) {
            uint32_t flood = fullest(true, 0, seeds[i], shift);
            uint32_t other = fullest(false, 0, seeds[i], shift);
            cr_assert_leq(flood, other + other / 3, "shift %u: %u, others %u", shift, flood, other);
        }
    }
}
