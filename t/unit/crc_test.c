/* base/crc.h: CRC32C, fast and portable. */
#include "base/crc.h"

#include <criterion/criterion.h>

Test(crc, check_value_of_the_standard)
{
    cr_assert_eq(crc32c(0, "123456789", 9), 0xe3069283u);
}

Test(crc, portable_check_value)
{
    cr_assert_eq(crc32c_portable(0, "123456789", 9), 0xe3069283u);
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

Test(crc, fast_and_portable_agree_at_every_length_and_alignment)
{
    static uint8_t bytes[1100];
    uint32_t x = 1;
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)((x = x * 1103515245 + 12345) >> 16);
    for (size_t at = 0; at < 16; at++) {
        for (size_t len = 0; len < 1050; len += 1 + len / 40)
            cr_assert_eq(crc32c(0, bytes + at, len), crc32c_portable(0, bytes + at, len));
    }
}
