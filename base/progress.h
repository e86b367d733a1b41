/* base/progress.h: reports long work while it lasts, with percent and seconds left: to the log, to
 * the service manager (which also gets its time-out extended) and in `stats extant`.
 *
 * One piece of work at a time, begun and ended by one thread; any thread may add to it and read it. The
 * first line comes after PROGRESS_FIRST_SEC, then one each PROGRESS_EACH_SEC; short work is silent. No
 * locks; progress_add may write to the log, so it is called with none held. Static state.
 */
#ifndef EXTANT_PROGRESS_H
#define EXTANT_PROGRESS_H

#include "base/base.h"

enum { PROGRESS_FIRST_SEC = 1, PROGRESS_EACH_SEC = 5, PROGRESS_TEXT_BYTES = 160 };

/* what: a constant text like "reading the checkpoint"; total: the amount of work in any unit, 0 if
 * unknown. */
void progress_begin(const char *what, uint64_t total);
void progress_add(uint64_t done);
void progress_end(void);

/* "WHAT: 42%, 3 s left", or after the end "WHAT: done in 1.234 s"; "none" before the first work. */
void progress_text(char *out, size_t size);

#endif
