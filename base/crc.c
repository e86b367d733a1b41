/* base/crc.c: CRC32C by ISA-L, which picks the CPU's instructions at load; by table if the
 * library is missing. See base/crc.h. */
#include "base/crc.h"

#if __has_include(<isa-l/crc.h>)
#include <isa-l/crc.h>
#define HAVE_ISAL 1
#endif

#define POLYNOMIAL 0x82f63b78u
#define ISAL_LEN_MAX ((size_t)1 << 30) /* its length is an int */

/* One row of the table, made by the compiler: a byte's remainder, bit by bit. */
#define STEP1(c) (((c) >> 1) ^ (((c) & 1) ? POLYNOMIAL : 0))
#define STEP2(c) STEP1(STEP1(c))

/* Remainders of the 16 values of four bits; small enough to stay in one cache line. */
static const uint32_t nibble_table[16] = {
#define ROW(n) STEP2(STEP2((uint32_t)(n)))
    ROW(0), ROW(1), ROW(2),  ROW(3),  ROW(4),  ROW(5),  ROW(6),  ROW(7),
    ROW(8), ROW(9), ROW(10), ROW(11), ROW(12), ROW(13), ROW(14), ROW(15),
#undef ROW
};

uint32_t crc32c_portable(uint32_t crc, const void *bytes, size_t len)
{
    const uint8_t *p = bytes;
    crc = ~crc;
    for (size_t i = 0; i < len; i++) {
        crc ^= p[i];
        crc = (crc >> 4) ^ nibble_table[crc & 15];
        crc = (crc >> 4) ^ nibble_table[crc & 15];
    }
    return ~crc;
}

uint32_t crc32c(uint32_t crc, const void *bytes, size_t len)
{
#ifdef HAVE_ISAL
    const uint8_t *p = bytes;
    crc = ~crc;
    while (len > 0) {
        size_t n = len < ISAL_LEN_MAX ? len : ISAL_LEN_MAX;
        crc = crc32_iscsi((unsigned char *)(uintptr_t)p, (int)n, crc);
        p += n;
        len -= n;
    }
    return ~crc;
#else
    return crc32c_portable(crc, bytes, len);
#endif
}
