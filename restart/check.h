/* restart/check.h: `extant --check FILE...`: is everything on flash as a stopped cache wrote it?
 *
 * Reads the flash files, in the order of ext_path, and the checkpoint beside the first, and changes nothing.
 * With a complete checkpoint it knows page table and index, and compares the three:
 *
 *   page table   each entry is possible; the free pages of a file and those in use are all there are
 *   records      the table and each record of every written slot verify: checksum, place, page version
 *   index        each word names a record of its page; each page has as many words as objects
 *
 * If the process was killed, or the checkpoint is damaged, it reads only the records: in each page, the slots
 * with its latest version.
 *
 * It prints one screen: the first faults, the free runs of each file as "FIRST .. LAST", and what it counted.
 */
#ifndef EXTANT_RESTART_CHECK_H
#define EXTANT_RESTART_CHECK_H

#include "base/base.h"

enum { CHECK_CLEAN = 0, CHECK_FAULTS = 1, CHECK_UNREADABLE = 2 }; /* exit codes */

/* Needs memory for the index, and for one write buffer. One thread; waits for the files. */
int check_files(const char *const *paths, unsigned count, FILE *out);

#endif
