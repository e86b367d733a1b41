/* operator/settings_check.h: checks of options whose meaning or bounds depend on other options, in any order. Only operator/command_line.c calls it.
 *
 * Threads: settings_parse()'s. No locks. Looks at the paths of flash files, so it may sleep.
 */
#ifndef EXTANT_SETTINGS_CHECK_H
#define EXTANT_SETTINGS_CHECK_H

#include "operator/parser.h"

/* Once all options are read: derives what was left open (sizes of flash pages and buffers, ports, protocol), and refuses
 * what doesn't fit together. SETTINGS_GO_ON, or the exit code after a line to p->err. */
int settings_check(struct parser *p);
/* What the modules rely on after it. */
void settings_assert(const struct settings *s);

#endif
