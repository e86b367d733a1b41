/* proto/base64.c: see proto/base64.h. The decoder is as tolerant as memcached's, no more and no less:
 * a key that memcached accepts leads to the same item here. */
#include "proto/base64.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* Value of a letter, 0 for '=', or -1 outside of the alphabet. */
static inline int letter_value(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    switch (c) {
    case '+':
        return 62;
    case '/':
        return 63;
    case '=':
        return 0;
    default:
        return -1;
    }
}

size_t base64_encode(char *out, const void *src, size_t len)
{
    const unsigned char *in = src;
    char *p = out;
    for (; len >= 3; len -= 3, in += 3) {
        *p++ = alphabet[in[0] >> 2];
        *p++ = alphabet[(in[0] & 3) << 4 | in[1] >> 4];
        *p++ = alphabet[(in[1] & 15) << 2 | in[2] >> 6];
        *p++ = alphabet[in[2] & 63];
    }
    if (len > 0) {
        unsigned second = len == 2 ? in[1] : 0;
        *p++ = alphabet[in[0] >> 2];
        *p++ = alphabet[(in[0] & 3) << 4 | second >> 4];
        *p++ = len == 2 ? alphabet[(second & 15) << 2] : '=';
        *p++ = '=';
    }
    DEBUG_ASSERT((size_t)(p - out) == BASE64_TEXT_BYTES((size_t)(in - (const unsigned char *)src) + len));
    return (size_t)(p - out);
}

size_t base64_decode(char *out, size_t out_max, const char *src, size_t len)
{
    size_t letters = 0;
    for (size_t i = 0; i < len; i++)
        letters += letter_value(src[i]) >= 0;
    if (letters == 0 || letters % 4 != 0 || letters / 4 * 3 > out_max)
        return 0;

    char *p = out;
    uint32_t group = 0;
    unsigned in_group = 0, padding = 0;
    for (size_t i = 0; i < len; i++) {
        int value = letter_value(src[i]);
        if (value < 0)
            continue;
        padding += src[i] == '=';
        group = group << 6 | (uint32_t)value;
        if (++in_group < 4)
            continue;
        p[0] = (char)(group >> 16);
        p[1] = (char)(group >> 8);
        p[2] = (char)group;
        if (padding > 2)
            return 0;
        p += 3 - padding;
        if (padding > 0)
            break;
        group = 0;
        in_group = 0;
    }
    DEBUG_ASSERT((size_t)(p - out) <= out_max);
    return (size_t)(p - out);
}
