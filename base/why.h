/* base/why.h: a line for people, put together in the caller's buffer: what is wrong, and what would be right.
 * What does not fit is cut. Any thread; no locks.
 */
#ifndef EXTANT_WHY_H
#define EXTANT_WHY_H

#include "base/base.h"

/* Writes the line. Returns rc, so that the caller can refuse and say why in one statement. */
int why_say(char *why, size_t room, int rc, const char *fmt, ...) PRINTF_LIKE(4, 5);

/* Appends to the text, with `between` before it unless the text is empty. */
void why_add(char *why, size_t room, const char *between, const char *fmt, ...) PRINTF_LIKE(4, 5);

#endif
