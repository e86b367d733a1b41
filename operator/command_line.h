/* operator/command_line.h: the command line, and files of options (operator/config_file.h), become settings.
 *
 * settings_parse() opens no files except those of --config, changes no process state except getopt's (which it
 * resets), does not exit, and may be called again.
 *
 * If memcached refuses an option, the refusal has its text and exit code; values that
 * memcached silently misreads are refused in one line that says what is wrong.
 * Unsupported options are refused too, never ignored.
 *
 * Threads: one. No locks. It reads files, so it may sleep.
 */
#ifndef EXTANT_COMMAND_LINE_H
#define EXTANT_COMMAND_LINE_H

#include "operator/settings.h"

/* Fills s (initialised here) from a command line, and before that from the files that --config names in it
 * (operator/config_file.h), so the command line decides options that count once. Returns SETTINGS_GO_ON, or
 * the exit code of the process: 0 after -h, -i, -V, --check-config and --print-config (printed to out),
 * otherwise that of a refusal (printed to err). The caller frees s in each case. */
int settings_parse(struct settings *s, int argc, char **argv, FILE *out, FILE *err);

/* As root, memcached starts only with -u: SETTINGS_GO_ON, or the exit code
 * after a line to err. */
int settings_check_root(const struct settings *s, bool is_root, FILE *err);

#endif
