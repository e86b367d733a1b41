/* operator/config_file.h: a file in the syntax of memcached.conf, cut into names and values.
 *
 * One option on each line, as on the command line without quotes: `-m 512`, `-vv`, `--threads=4`; or its long
 * name alone: `threads 4`, `threads = 4`, and memcached.conf's `logfile /var/log/memcached.log`. Empty
 * lines are skipped, and so is the rest of a line after a # at its start or after a blank.
 *
 * No state; any thread. Reads a file, so it may sleep.
 */
#ifndef EXTANT_CONFIG_FILE_H
#define EXTANT_CONFIG_FILE_H

#include "base/base.h"

enum { CONFIG_FILE_LINE_MAX = 4096 };

/* One line with an option: name is "-m", "--threads" or "threads", value NULL if there is none. The callback
 * may change both until it returns; line counts from 1. A result other than 0 ends the
 * reading. A line longer than CONFIG_FILE_LINE_MAX has a NULL name, and is the last in any case. */
typedef int (*config_line_fn)(void *ctx, unsigned line, char *name, char *value);

/* Cuts blanks off both ends, in place. */
char *config_trim(char *text);

/* 0, the result of fn, or -errno if the file can't be read. */
int config_file_read(const char *path, config_line_fn fn, void *ctx);

#endif
