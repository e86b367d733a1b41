/* base/file.h: whole transfers between memory and a file: short ones are continued, interrupted ones repeated.
 * They wait for the device, so callers hold no lock. Any thread.
 */
#ifndef EXTANT_FILE_H
#define EXTANT_FILE_H

#include <sys/types.h>

#include "base/base.h"

/* Bytes read from offset `at` on: fewer than count only where the file ends; or -errno. */
ssize_t file_read(int fd, void *to, size_t count, uint64_t at);
/* The same, of which fewer are an error: 0, -errno, or -ENODATA. */
int file_read_all(int fd, void *to, size_t count, uint64_t at);
/* 0 or -errno. */
int file_write(int fd, const void *from, size_t count, uint64_t at);
/* Waits until what was written is durable. 0 or -errno; a file that has no need of it (a device that can't) is fine. */
int file_sync(int fd);

#endif
