/* base/crc.h: CRC32C (Castagnoli), the checksum of everything on flash.
 *
 * The common definition (iSCSI, RFC 3720): reflected polynomial 0x82f63b78,
 * start and final inversion; crc32c(0, "123456789", 9) is 0xe3069283.
 * Stateless; any thread.
 */
#ifndef EXTANT_CRC_H
#define EXTANT_CRC_H

#include "base/base.h"

/* Extends crc, the checksum of earlier bytes (0: of none), by len bytes:
 * crc32c(crc32c(0, a), b) is the checksum of a and b together. */
uint32_t crc32c(uint32_t crc, const void *bytes, size_t len);

#endif
