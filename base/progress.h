/* base/progress.h: work that may take long, told while it lasts: percent and seconds left, to the log, to
 * the service manager (which also gets told not to lose patience) and to who asks (`stats extant`).
 *
 * One piece of work at a time, begun and ended by one thread; any thread may add to it and ask. A line
 * comes after PROGRESS_FIRST_SEC, then each PROGRESS_EACH_SEC; short work is silent. No locks;
 * progress_add may write to the log, so it is called with none held. Static state.
 */
#ifndef EXTANT_PROGRESS_H
#define EXTANT_PROGRESS_H

#include "base/base.h"

enum { PROGRESS_FIRST_SEC = 1, PROGRESS_EACH_SEC = 5, PROGRESS_TEXT_BYTES = 160 };

/* what: a constant text, as "reading the checkpoint"; total: how much there is to do, in any unit, 0 if
 * it isn't known. */
void progress_begin(const char *what, uint64_t total);
void progress_add(uint64_t done);
void progress_end(void);

/* "WHAT: 42%, 3 s left", or of the last that ended "WHAT: done in 1.234 s"; "none" before the first. */
void progress_text(char *out, size_t size);

#endif
