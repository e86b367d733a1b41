/* hash.h: the hash of keys. */
#include "../hash.h"

#include <criterion/criterion.h>

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
