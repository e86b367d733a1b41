/* restart/check.h: `extant --check FILE...`: is what a stopped cache left on flash as it was written?
 *
 * Reads the flash files, in the order of ext_path, and the checkpoint beside the first, and changes nothing.
 * With a complete checkpoint it knows page table and index, and compares the three:
 *
 *   page table   each entry is possible; the free pages of a file and those in use are all there are
 *   records      the table and each record of every written slot verify: checksum, place, page version
 *   index        each word names a record of its page; each page has as many words as objects
 *
 * With one of a process that was killed, or that is damaged, only the records are left to read: of each page
 * those slots that bear its latest version.
 *
 * It prints a screen: the free runs of each file, as "FIRST .. LAST", what it counted, the first faults.
 */
#ifndef EXTANT_RESTART_CHECK_H
#define EXTANT_RESTART_CHECK_H

#include "base/base.h"

enum { CHECK_CLEAN = 0, CHECK_FAULTS = 1, CHECK_UNREADABLE = 2 }; /* exit codes */

/* Needs memory for the index, and for one write buffer. One thread; waits for the files. */
int check_files(const char *const *paths, unsigned count, FILE *out);

#endif
