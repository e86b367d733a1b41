/* flash/mark.h: the first block of a device, which says whose bytes the rest are.
 *
 * A device is all pages; of its very first slot the first EXT_MARK_BYTES hold no records but the
 * mark. In it stands a stamp, a random number: each process that does not go on with what is there
 * puts a new one there before it writes anything else. So whoever kept knowledge of the device's
 * content elsewhere (the memory of -e, a checkpoint) together with the stamp knows, whatever became
 * of the others and however they ended, whether somebody else has written since.
 *
 * And it tells that the bytes are Extant's, so that nobody else's are overwritten.
 *
 * Threads: any; no locks. Those that take a descriptor wait for the device.
 */
#ifndef EXTANT_EXT_MARK_H
#define EXTANT_EXT_MARK_H

#include "base/base.h"

#define EXT_MARK_BYTES 4096u
#define EXT_MARK_FORMAT 1u

/* What stands on a device. */
struct ext_mark_found {
    bool ours;      /* a mark */
    uint64_t stamp; /* 0: there is none, or it is damaged */
    char what[96];  /* somebody else's: what it is, for a line; else "" */
};

/* Looks at an open device or file (not O_DIRECT). 0 or -errno. */
int ext_mark_look(int fd, struct ext_mark_found *out);

/* Takes away what others would know the content by: file systems, partition tables and so on, and
 * the first block. 0 or -errno. */
int ext_mark_wipe(int fd);

/* The block that bears the stamp. */
void ext_mark_fill(char block[EXT_MARK_BYTES], uint64_t stamp);
/* Puts it on the device, and waits until it is durable there. 0 or -errno. */
int ext_mark_write(int fd, uint64_t stamp);
uint64_t ext_mark_new_stamp(void); /* never 0 */

#endif
