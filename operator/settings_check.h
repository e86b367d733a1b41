/* operator/settings_check.h: checks of options whose meaning or bounds depend on other options, in any order.
 * operator/command_line.c calls it, and storage_config.c for sizes that an earlier process chose.
 *
 * Threads: settings_parse()'s. No locks. Looks at the paths of flash files, so it may sleep.
 */
#ifndef EXTANT_SETTINGS_CHECK_H
#define EXTANT_SETTINGS_CHECK_H

#include "operator/parser.h"

/* Once all options are read: derives what was left open (sizes of flash pages and buffers, ports, protocol), and refuses
 * what doesn't fit together. SETTINGS_GO_ON, or the exit code after a line to p->err. */
int settings_check(struct parser *p);
/* With flash, after settings_check(), before anything else reads the settings: content on flash was made with pages and
 * write buffers of these sizes. If the operator gave no others, and they fit the other settings, they replace the defaults,
 * with all that follows from them: true. line[]: for the log, what stays or why it can't; "" if nothing changes. */
bool settings_keep_sizes(struct settings *s, uint64_t page, uint64_t wbuf, char *line, size_t n);
/* What the modules rely on after it. */
void settings_assert(const struct settings *s);

#endif
