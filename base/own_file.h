/* base/own_file.h: names in a directory that this process made and wants to remove at its end (a
 * unix socket, a pid file), but only as long as they still name what it made: a successor may have
 * put its own in their place.
 *
 * Threads: a struct by one at a time. No locks; both calls may wait for the file system.
 */
#ifndef EXTANT_OWN_FILE_H
#define EXTANT_OWN_FILE_H

#include <sys/types.h>

#include "base/base.h"

struct own_file {
    const char *path; /* the caller's, which outlives this; NULL: none */
    dev_t dev;
    ino_t ino;
    struct timespec born; /* an inode's number is used again, but not with the same time */
};

/* The path now names what this process made. Nothing is noted if it names nothing. */
void own_file_note(struct own_file *f, const char *path);

/* Removes the name if it is the one that was noted; forgets it in any case. While a socket is open
 * its inode can't be used again, so call this before it is closed. */
void own_file_remove(struct own_file *f);

#endif
