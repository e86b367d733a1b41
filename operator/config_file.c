/* operator/config_file.c: see operator/config_file.h. */
#include "operator/config_file.h"

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

char *config_trim(char *text)
{
    while (is_blank(*text))
        text++;
    size_t len = strlen(text);
    while (len > 0 && is_blank(text[len - 1]))
        len--;
    text[len] = '\0';
    return text;
}

/* Cuts off the comment and the blanks at both ends. */
static char *cut(char *line)
{
    for (char *p = line; *p != '\0'; p++) {
        if (*p == '#' && (p == line || is_blank(p[-1]))) {
            *p = '\0';
            break;
        }
    }
    return config_trim(line);
}

/* Ends the name; its value begins after blanks, or one '=' with blanks around it. */
static char *split(char *name)
{
    DEBUG_ASSERT(*name != '\0');
    char *p = name;
    while (*p != '\0' && !is_blank(*p) && *p != '=')
        p++;
    if (*p == '\0')
        return NULL;
    DEBUG_ASSERT(p > name || *p == '=');
    bool equals = *p == '=';
    *p++ = '\0';
    while (is_blank(*p) || (*p == '=' && !equals)) {
        equals = equals || *p == '=';
        p++;
    }
    return p;
}

int config_file_read(const char *path, config_line_fn fn, void *ctx)
{
    char text[CONFIG_FILE_LINE_MAX + 2];
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return -errno;
    int rc = 0;
    errno = 0;
    for (unsigned line = 1; rc == 0 && fgets(text, sizeof(text), f) != NULL; line++) {
        if (strlen(text) > CONFIG_FILE_LINE_MAX && strchr(text, '\n') == NULL) {
            rc = fn(ctx, line, NULL, NULL);
            break;
        }
        char *name = cut(text);
        DEBUG_ASSERT(name >= text && strlen(name) <= CONFIG_FILE_LINE_MAX);
        if (*name != '\0')
            rc = fn(ctx, line, name, split(name));
    }
    if (rc == 0 && ferror(f))
        rc = errno != 0 ? -errno : -EIO;
    fclose(f);
    return rc;
}
