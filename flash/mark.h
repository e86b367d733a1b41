/* flash/mark.h: the first block of a device, which says who owns the rest.
 *
 * A device is all pages; the first EXT_MARK_BYTES of its first slot hold the mark instead of
 * records. The mark contains a stamp, a random number: every process writes a new one to each of its
 * devices before it writes anything else. So a start that has knowledge of the
 * content from elsewhere (the memory of -e, a checkpoint), together with the stamp, can tell
 * whether another process has used the device since, however that one ended.
 *
 * It also shows that the data is Extant's, so that foreign data isn't overwritten.
 *
 * Threads: any; no locks. Those that take a descriptor wait for the device.
 */
#ifndef EXTANT_EXT_MARK_H
#define EXTANT_EXT_MARK_H

#include "base/base.h"

#define EXT_MARK_BYTES 4096u
#define EXT_MARK_FORMAT 1u

/* The content of a device. */
struct ext_mark_found {
    bool ours;      /* a mark */
    uint64_t stamp; /* 0: there is none, or it is damaged */
    char what[96];  /* foreign data: its kind, for a line; otherwise "" */
};

/* Looks at an open device or file (not O_DIRECT). 0 or -errno. */
int ext_mark_look(int fd, struct ext_mark_found *out);

/* Erases the signatures of foreign data: file systems, partition tables and so on, and
 * the first block. 0 or -errno. */
int ext_mark_wipe(int fd);

/* Makes the block with the stamp. */
void ext_mark_fill(char block[EXT_MARK_BYTES], uint64_t stamp);
/* Writes it, with a stamp that hash_draw() gave, to the device and waits until it is durable. 0 or -errno. */
int ext_mark_write(int fd, uint64_t stamp);
/* The stamp that follows another one by this number. Pure; never 0. */
uint64_t ext_mark_next_stamp(uint64_t stamp, uint32_t step);

#endif
