/* base/why.c: see base/why.h. */
#include "base/why.h"

#include <stdarg.h>

int why_say(char *why, size_t room, int rc, const char *fmt, ...)
{
    va_list ap;
    ASSERT(room > 0);
    va_start(ap, fmt);
    vsnprintf(why, room, fmt, ap);
    va_end(ap);
    return rc;
}

void why_add(char *why, size_t room, const char *between, const char *fmt, ...)
{
    size_t used = strlen(why);
    va_list ap;
    ASSERT(used < room);
    if (used > 0 && used + strlen(between) + 1 < room) {
        memcpy(why + used, between, strlen(between) + 1);
        used += strlen(between);
    }
    va_start(ap, fmt);
    vsnprintf(why + used, room - used, fmt, ap);
    va_end(ap);
}
