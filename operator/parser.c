/* operator/parser.c: see operator/parser.h. */
#include "operator/parser.h"

#include <math.h>
#include <stdarg.h>

/* ---- numbers ---- */

bool parse_whole(const char *text, bool negative_too, double *v)
{
    const char *p = text + (negative_too && *text == '-');
    size_t digits = strspn(p, "0123456789");
    if (digits == 0 || digits > 15 || p[digits] != '\0')
        return false;
    *v = (double)strtoll(text, NULL, 10);
    return true;
}

bool parse_real(const char *text, double *v)
{
    char *end;
    if (*text == '\0' || strspn(text, "0123456789.+-eE") != strlen(text))
        return false;
    *v = strtod(text, &end);
    return *end == '\0' && isfinite(*v);
}

uint64_t suffix_bytes(char c)
{
    static const char letters[] = "kmgtp";
    const char *at = c != '\0' ? strchr(letters, c | 0x20) : NULL;
    return at != NULL ? (uint64_t)1 << (10 * (at - letters + 1)) : 0;
}

bool parse_bytes(const char *text, uint64_t scale, double *v)
{
    char digits[32];
    size_t len = strlen(text);
    if (len == 0 || len >= sizeof(digits))
        return false;
    uint64_t unit = suffix_bytes(text[len - 1]);
    DEBUG_ASSERT(scale > 0);
    memcpy(digits, text, len + 1);
    if (unit != 0)
        digits[len - 1] = '\0';
    if (!parse_whole(digits, false, v))
        return false;
    *v *= (double)(unit != 0 ? unit : scale);
    return *v <= (double)(1ull << 53);
}

/* ---- the parser's state and refusals ---- */

int refuse(struct parser *p, const char *fmt, ...)
{
    va_list ap;
    char text[1024];
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    int first = (int)strcspn(text, "\n");
    DEBUG_ASSERT(first > 0 && (p->file == NULL || p->line > 0));
    bool names_it = *p->given_value == '\0' ||
                    (strstr(text, p->given_value) != NULL &&
                     (strlen(p->given_value) > 2 || strstr(text, p->given_name) != NULL));
    if (p->file != NULL)
        fprintf(p->err, "%s:%u: ", p->file, p->line);
    if (names_it)
        fprintf(p->err, "%s\n", text);
    else
        fprintf(p->err, "%.*s (%s)%s\n", first, text, p->given, text + first);
    return p->file != NULL ? SETTINGS_EXIT_CONFIG : SETTINGS_EXIT_USAGE;
}

void note_given(struct parser *p, const char *before, const char *name, const char *between, const char *value)
{
    DEBUG_ASSERT(before && name && between);
    snprintf(p->given_value, sizeof(p->given_value), "%s", value ? value : "");
    snprintf(p->given_name, sizeof(p->given_name), "%s%s", strcmp(before, "-o ") != 0 ? before : "", name);
    snprintf(p->given, sizeof(p->given), "%s%s%s%s", before, name, between, p->given_value);
}

int no_memory(struct parser *p)
{
    fputs("out of memory\n", p->err);
    return SETTINGS_EXIT_OS;
}

/* ---- words that were meant ---- */

/* The number of letters that differ, are missing, extra or swapped. */
static unsigned distance(const char *a, const char *b)
{
    unsigned rows[3][WORD_MAX + 1];
    size_t la = strlen(a), lb = strlen(b);
    if (la > WORD_MAX || lb > WORD_MAX)
        return UINT32_MAX;
    for (size_t j = 0; j <= lb; j++)
        rows[0][j] = (unsigned)j;
    for (size_t i = 1; i <= la; i++) {
        unsigned *row = rows[i % 3], *up = rows[(i - 1) % 3], *up2 = rows[(i + 1) % 3];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= lb; j++) {
            unsigned best = up[j - 1] + (a[i - 1] != b[j - 1]);
            best = (unsigned)min_u64(best, min_u64(up[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                best = (unsigned)min_u64(best, up2[j - 2] + 1);
            row[j] = best;
        }
    }
    DEBUG_ASSERT(rows[la % 3][lb] <= max_u64(la, lb));
    return rows[la % 3][lb];
}

void guess_from(struct guess *g, const char *candidate)
{
    DEBUG_ASSERT(g->word && candidate);
    unsigned d = distance(g->word, candidate);
    if (d <= 1 + strlen(g->word) / 5 && (g->best == NULL || d < g->distance)) {
        g->best = candidate;
        g->distance = d;
    }
}

const char *guess_text(const struct guess *g, char *out, size_t size)
{
    DEBUG_ASSERT(g->word && size > 0);
    if (g->best != NULL)
        snprintf(out, size, " (did you mean \"%s\"?)", g->best);
    else
        snprintf(out, size, " (-h lists all)");
    return out;
}

int take_text(struct parser *p, size_t id, const char *text)
{
    DEBUG_ASSERT(id < SETTING_COUNT);
    return setting_put_text(p->s, &setting_table[id], text) ? SETTINGS_GO_ON : no_memory(p);
}
