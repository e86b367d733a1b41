/* net/lines.h: the lines of `stats` by name, for modules that show them in other forms.
 *
 * Zero a struct lines, fill it through lines_emit (a stats_emit_fn), then look up. Of two lines with one
 * name the first counts. Lines for which there is no memory are left out. One thread, no locks.
 */
#ifndef EXTANT_LINES_H
#define EXTANT_LINES_H

#include "base/base.h"

struct line {
    char name[56], value[200]; /* longer ones are cut */
};
struct lines {
    struct line *list;
    size_t count, room;
};

void lines_emit(void *lines, const char *name, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* The value; "" if there is none. Valid until lines_free(). */
const char *lines_get(const struct lines *l, const char *name);
void lines_free(struct lines *l);

#endif
