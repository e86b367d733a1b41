/* base/crc.h: CRC32C. */
#include "base/crc.h"

#include <criterion/criterion.h>

Test(crc, check_value_of_the_standard)
{
    cr_assert_eq(crc32c(0, "123456789", 9), 0xe3069283u);
}

Test(crc, rfc3720_examples)
{
    uint8_t b[32] = {0};
    cr_assert_eq(crc32c(0, b, 32), 0x8a9136aau);
    memset(b, 0xff, 32);
    cr_assert_eq(crc32c(0, b, 32), 0x62a8ab43u);
    for (uint8_t i = 0; i < 32; i++)
        b[i] = i;
    cr_assert_eq(crc32c(0, b, 32), 0x46dd794eu);
}

Test(crc, nothing_is_zero)
{
    cr_assert_eq(crc32c(0, "", 0), 0);
    cr_assert_eq(crc32c(5, "", 0), 5);
}

Test(crc, parts_give_the_whole)
{
    const char *text = "values overflow from memory to flash";
    size_t len = strlen(text);
    for (size_t cut = 0; cut <= len; cut++)
        cr_assert_eq(crc32c(crc32c(0, text, cut), text + cut, len - cut), crc32c(0, text, len));
}

/* Bit by bit, as the definition says. */
static uint32_t by_bits(const uint8_t *bytes, size_t len)
{
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < len; i++) {
        crc ^= bytes[i];
        for (unsigned bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    }
    return ~crc;
}

Test(crc, agrees_with_the_definition_at_every_length_and_alignment)
{
    static uint8_t bytes[1100];
    uint32_t x = 1;
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)((x = x * 1103515245 + 12345) >> 16);
    for (size_t at = 0; at < 16; at++) {
        for (size_t len = 0; len < 1050; len += 1 + len / 40)
            cr_assert_eq(crc32c(0, bytes + at, len), by_bits(bytes + at, len));
    }
}
