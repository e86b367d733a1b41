/* fuzz_settings.c: any command line, one argument on each line, up to an empty line. settings_parse promises
 * not to exit and to open nothing; what it accepts must be printable, and within the table's bounds. */
#include <stdarg.h>

#include "operator/command_line.h"
#include "t/fuzz/fuzz.h"

enum { ARGUMENTS_MAX = 64 };

static void check_line(void *ctx, const char *name, const char *fmt, ...) PRINTF_LIKE(3, 4);

static void check_line(void *ctx, const char *name, const char *fmt, ...)
{
    char *text;
    va_list ap;
    va_start(ap, fmt);
    int len = vasprintf(&text, fmt, ap);
    va_end(ap);
    ASSERT(len >= 0 && name[0] != '\0');
    free(text);
    ++*(unsigned *)ctx;
}

static void check_settings(const struct settings *s)
{
    unsigned lines = 0;
    settings_print_stats(s, check_line, &lines);
    ASSERT(lines > 0);
    ASSERT(s->listen_count <= SETTINGS_LISTEN_MAX && s->ext_file_count <= SETTINGS_EXT_FILES_MAX);
    ASSERT(s->slab_size_count <= SETTINGS_SLAB_SIZES_MAX);
    for (uint32_t i = 0; i < s->listen_count; i++)
        ASSERT(memchr(s->listen[i].host, '\0', SETTINGS_HOST_BYTES));
    for (uint32_t i = 0; i < s->ext_file_count; i++) {
        ASSERT(s->ext_files[i].path[0] != '\0' && s->ext_files[i].bytes > 0);
        ASSERT(settings_bucket_name(s->ext_files[i].bucket));
    }
    if (s->ext_file_count > 0)
        ASSERT(settings_ext_page_count(s) <= SETTINGS_EXT_PAGES_MAX);
}

/* The next line as a string, NULL after the last. */
static char *next_line(char **at, const char *end)
{
    if (*at >= end)
        return NULL;
    char *line = *at, *nl = memchr(line, '\n', (size_t)(end - line));
    *at = nl ? nl + 1 : (char *)end + 1;
    if (nl)
        *nl = '\0';
    return line;
}

FUZZ_TARGET(settings)
{
    static FILE *nowhere;
    if (!nowhere)
        nowhere = fopen("/dev/null", "w");
    ASSERT(nowhere);
    char *text = malloc(size + 1), *at = text, *end = text + size, *line;
    ASSERT(text);
    memcpy(text, data, size);
    *end = '\0';
    char *argv[ARGUMENTS_MAX + 2] = {strdup("extant")};
    int argc = 1;
    while (argc <= ARGUMENTS_MAX && (line = next_line(&at, end)) != NULL && *line != '\0')
        argv[argc++] = strdup(line); /* alone in its memory: one step beyond is seen */
    struct settings s;
    int rc = settings_parse(&s, argc, argv, nowhere, nowhere);
    ASSERT(rc >= SETTINGS_GO_ON && rc < 256);
    if (rc == SETTINGS_GO_ON) {
        check_settings(&s);
        (void)settings_check_root(&s, true, nowhere);
    }
    settings_free(&s);
    for (int i = 0; i < argc; i++)
        free(argv[i]);
    free(text);
    return 0;
}
