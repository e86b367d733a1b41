/* base/own_file.h: names in a directory that this process made and wants to remove at its end (a
 * unix socket, a pid file), but only while they still lead to its own file: a successor may have
 * put another in its place.
 *
 * Threads: one at a time for each struct. No locks; both calls may wait for the file system.
 */
#ifndef EXTANT_OWN_FILE_H
#define EXTANT_OWN_FILE_H

#include <sys/types.h>

#include "base/base.h"

struct own_file {
    const char *path; /* the caller's, which outlives this; NULL: none */
    dev_t dev;
    ino_t ino;
    struct timespec born; /* an inode number may be used again, but not with the same time */
};

/* Notes that the path now leads to a file of this process. If it leads nowhere, notes nothing. */
void own_file_note(struct own_file *f, const char *path);

/* Removes the name if it still leads to the noted file; forgets it in any case. While a socket is open
 * its inode can't be used again, so call this before it is closed. */
void own_file_remove(struct own_file *f);

#endif
