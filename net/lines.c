/* net/lines.c: see net/lines.h. */
#include "net/lines.h"

#include <stdarg.h>

void lines_emit(void *ctx, const char *name, const char *fmt, ...)
{
    struct lines *l = ctx;
    if (l->count == l->room) {
        size_t room = l->room ? 2 * l->room : 512;
        struct line *list = realloc(l->list, room * sizeof(*list));
        if (!list)
            return;
        l->list = list;
        l->room = room;
    }
    DEBUG_ASSERT(l->count < l->room);
    struct line *to = &l->list[l->count++];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(to->value, sizeof(to->value), fmt, ap);
    va_end(ap);
    snprintf(to->name, sizeof(to->name), "%s", name);
}

const char *lines_get(const struct lines *l, const char *name)
{
    DEBUG_ASSERT(l->count <= l->room);
    for (size_t i = 0; i < l->count; i++) {
        if (strcmp(l->list[i].name, name) == 0)
            return l->list[i].value;
    }
    return "";
}

void lines_free(struct lines *l)
{
    free(l->list);
    *l = (struct lines){0};
}
