/* stepped.h: a process in which nothing but an input decides what happens, for fuzzers: the jobs of I/O threads run in the
 * caller's thread, in an order drawn from the input, and time is simulated. One thread. */
#ifndef EXTANT_T_STEPPED_H
#define EXTANT_T_STEPPED_H

#include "flash/record.h"
#include "t/aid/cache_fixture.h"

/* From now on the draws follow from these bytes; the clock starts again. */
void stepped_begin(const uint8_t *data, size_t size);
uint64_t stepped_draw(void);
/* What I/O threads do meanwhile: one job of each kind, and a millisecond. Serves as a fixture's `idle`. */
void stepped_idle(struct fixture *f);
/* Devices whose pools wait for stepped_idle(). */
extern const struct ext_device_ops stepped_ops;

/* The start of the checksum of a record or table that is said to stand there, for forged ones. */
uint32_t stepped_crc_of_place(uint32_t version, uint64_t place);

#endif
