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
    struct line *to = &l->list[l->count];
    DEBUG_ASSERT(l->count < l->room);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(to->value, sizeof(to->value), fmt, ap);
    va_end(ap);
    snprintf(to->name, sizeof(to->name), "%s", name);
    to->order = (uint32_t)l->count++;
}

static int by_name(const void *a, const void *b)
{
    const struct line *x = a, *y = b;
    int rc = strcmp(x->name, y->name);
    return rc != 0 ? rc : (x->order > y->order) - (x->order < y->order);
}

void lines_sort(struct lines *l)
{
    if (l->count > 0)
        qsort(l->list, l->count, sizeof(*l->list), by_name);
}

const char *lines_get(const struct lines *l, const char *name)
{
    DEBUG_ASSERT(l->count <= l->room);
    size_t first = 0, end = l->count;
    while (first < end) { /* the first that is not below */
        size_t middle = first + (end - first) / 2;
        if (strcmp(l->list[middle].name, name) < 0)
            first = middle + 1;
        else
            end = middle;
    }
    return first < l->count && strcmp(l->list[first].name, name) == 0 ? l->list[first].value : "";
}

void lines_free(struct lines *l)
{
    free(l->list);
    *l = (struct lines){0};
}
