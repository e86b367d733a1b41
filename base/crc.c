/* base/crc.c: see base/crc.h. By ISA-L, which picks the CPU's instructions at load. */
#include "base/crc.h"

#include <isa-l/crc.h>

#define ISAL_LEN_MAX ((size_t)1 << 30) /* its length is an int */

uint32_t crc32c(uint32_t crc, const void *bytes, size_t len)
{
    const uint8_t *p = bytes;
    crc = ~crc;
    while (len > 0) {
        size_t n = len < ISAL_LEN_MAX ? len : ISAL_LEN_MAX;
        crc = crc32_iscsi((unsigned char *)(uintptr_t)p, (int)n, crc);
        p += n;
        len -= n;
    }
    return ~crc;
}
