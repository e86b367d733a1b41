/* operator/settings.c: see operator/settings.h. */
#include "operator/settings.h"

/* ---- the table as data ---- */

const struct setting setting_table[SETTING_COUNT] = {
#define X(type, field, dflt, min, max, unit, show, stat, help)                                     \
    {SETTING_##type, offsetof(struct settings, field), (double)(dflt), (double)(min),              \
     (double)(max),  unit, SHOW_##show, stat, help},
    SETTINGS_TABLE(X)
#undef X
};

static_assert(SETTINGS_EXT_UNIT_BYTES % SETTINGS_EXT_SMALL_UNIT_BYTES == 0, "a unit is made of small ones");
static_assert(SETTINGS_EXT_PAGES_MIN <= SETTINGS_EXT_PAGES_WISH, "no wish for fewer pages than there must be");
static_assert(SETTINGS_EXT_FILES_MAX < SETTINGS_EXT_PAGES_MAX, "each file has a page");

double setting_number(const struct settings *s, const struct setting *row)
{
    DEBUG_ASSERT(row >= setting_table && row < setting_table + SETTING_COUNT);
    switch (row->type) {
    case SETTING_BOOL:
        return SETTING_CONST_FIELD(s, row, SETTING_C_BOOL);
    case SETTING_U32:
        return SETTING_CONST_FIELD(s, row, SETTING_C_U32);
    case SETTING_I32:
        return SETTING_CONST_FIELD(s, row, SETTING_C_I32);
    case SETTING_U64:
        return (double)SETTING_CONST_FIELD(s, row, SETTING_C_U64);
    case SETTING_REAL:
        return SETTING_CONST_FIELD(s, row, SETTING_C_REAL);
    case SETTING_TEXT:
        break;
    }
    ASSERT(false);
    return 0;
}

void setting_put_number(struct settings *s, const struct setting *row, double v)
{
    DEBUG_ASSERT(row >= setting_table && row < setting_table + SETTING_COUNT);
    DEBUG_ASSERT(v >= INT32_MIN && v <= (double)(1ull << 53));
    switch (row->type) {
    case SETTING_BOOL:
        SETTING_FIELD(s, row, SETTING_C_BOOL) = v != 0;
        return;
    case SETTING_U32:
        SETTING_FIELD(s, row, SETTING_C_U32) = (uint32_t)v;
        return;
    case SETTING_I32:
        SETTING_FIELD(s, row, SETTING_C_I32) = (int32_t)v;
        return;
    case SETTING_U64:
        SETTING_FIELD(s, row, SETTING_C_U64) = (uint64_t)v;
        return;
    case SETTING_REAL:
        SETTING_FIELD(s, row, SETTING_C_REAL) = v;
        return;
    case SETTING_TEXT:
        break;
    }
    ASSERT(false);
}

bool setting_put_text(struct settings *s, const struct setting *row, const char *text)
{
    ASSERT(row->type == SETTING_TEXT);
    char *copy = strdup(text);
    if (copy == NULL)
        return false;
    free(SETTING_FIELD(s, row, char *));
    SETTING_FIELD(s, row, char *) = copy;
    return true;
}

const char *const *setting_words(ptrdiff_t id)
{
    DEBUG_ASSERT(id >= 0 && id < SETTING_COUNT);
    static const struct {
        ptrdiff_t id;
        const char *words[4];
    } lists[] = {
        {ID_binding_protocol, {"auto", "ascii", "binary"}},
        {ID_ext_persist, {"off", "on", "scan"}},
        {ID_ext_io_engine, {"auto", "uring", "threads"}},
        {ID_ext_admission, {"all", "strict", "learn"}},
    };
    for (size_t i = 0; i < ARRAY_COUNT(lists); i++) {
        if (lists[i].id == id)
            return lists[i].words;
    }
    return NULL;
}

bool setting_put_word(struct settings *s, ptrdiff_t id, const char *word)
{
    const char *const *words = setting_words(id);
    ASSERT(words != NULL);
    for (unsigned i = 0; words[i] != NULL; i++) {
        if (strcmp(words[i], word) == 0) {
            setting_put_number(s, &setting_table[id], i);
            return true;
        }
    }
    return false;
}

bool setting_in_range(const struct setting *row, double v)
{
    DEBUG_ASSERT(row->min <= row->max);
    return v >= row->min && v <= row->max;
}

/* ---- the whole ---- */

int settings_init(struct settings *s)
{
    memset(s, 0, sizeof(*s));
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        if (setting_table[i].type != SETTING_TEXT)
            setting_put_number(s, &setting_table[i], setting_table[i].dflt);
    }
    return setting_put_text(s, &setting_table[ID_hash_algorithm], SETTINGS_HASH_DEFAULT) ? 0 : -ENOMEM;
}

void settings_free(struct settings *s)
{
    ASSERT(s->ext_file_count <= SETTINGS_EXT_FILES_MAX && s->ext_format_count <= SETTINGS_EXT_FILES_MAX);
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        if (setting_table[i].type == SETTING_TEXT) {
            free(SETTING_FIELD(s, &setting_table[i], char *));
            SETTING_FIELD(s, &setting_table[i], char *) = NULL;
        }
    }
    for (uint32_t i = 0; i < s->ext_file_count; i++)
        free(s->ext_files[i].path);
    for (uint32_t i = 0; i < s->ext_format_count; i++)
        free(s->ext_formats[i]);
    s->ext_format_count = 0;
    s->ext_file_count = 0;
}

static const char *const bucket_names[SETTINGS_BUCKET_COUNT] = {
    SETTINGS_BUCKET_TABLE(ROW_TEXT)
};

const char *settings_bucket_name(enum settings_bucket b)
{
    ASSERT(b < SETTINGS_BUCKET_COUNT);
    return bucket_names[b];
}

uint64_t settings_ext_page_count(const struct settings *s)
{
    uint64_t count = 0;
    for (uint32_t i = 0; i < s->ext_file_count; i++)
        count += s->ext_files[i].bytes / s->ext_page_size;
    return count;
}

uint64_t settings_memory_bytes(const struct settings *s)
{
    DEBUG_ASSERT(s->num_threads > 0);
    const uint64_t program = 8 * MiB, connection = 2 * KiB;
    uint64_t flash = s->ext_file_count == 0
                         ? 0
                         : s->ext_buffer_mem + (uint64_t)s->num_threads * s->item_size_max;
    return s->maxbytes + flash + (uint64_t)s->maxconns * connection + program;
}

/* ---- stats settings ---- */

#ifdef EXTANT_TLS
static const bool settings_has_tls = true;
#else
static const bool settings_has_tls = false;
#endif

void settings_print_stats(const struct settings *s,
                          void (*emit)(void *ctx, const char *name, const char *fmt, ...),
                          void *ctx)
{
    static const char *const formats[] = {
        [SHOW_NUMBER] = "%.0f", [SHOW_REAL2] = "%.2f", [SHOW_REAL3] = "%.3f",
        [SHOW_OCTAL] = "%o",    [SHOW_CHAR] = "%c",    [SHOW_TLS_VERSION] = "tlsv1.%.0f",
    };
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        const struct setting *row = &setting_table[i];
        if (!settings_has_tls && i >= ID_ssl_enabled && i <= ID_ssl_min_version)
            continue; /* as memcached without TLS */
        const char *text = row->type == SETTING_TEXT ? SETTING_CONST_FIELD(s, row, char *) : NULL;
        double v = row->type == SETTING_TEXT ? 0 : setting_number(s, row);
        const char *word = NULL;
        switch (row->show) {
        case SHOW_HIDDEN:
            continue;
        case SHOW_OCTAL:
        case SHOW_CHAR:
            emit(ctx, row->stat_name, formats[row->show], (unsigned)v);
            continue;
        case SHOW_YES_NO:
            word = v != 0 ? "yes" : "no";
            break;
        case SHOW_ON_OFF:
            word = v != 0 ? "on" : "off";
            break;
        case SHOW_TEXT_NULL:
            word = text != NULL ? text : "NULL";
            break;
        case SHOW_TEXT_null:
            word = text != NULL ? text : "(null)";
            break;
        case SHOW_PROTOCOL:
            word = v == SETTINGS_PROTOCOL_AUTO ? "auto-negotiate" : setting_words(row - setting_table)[(unsigned)v];
            break;
        default:
            DEBUG_ASSERT(formats[row->show] != NULL);
            emit(ctx, row->stat_name, formats[row->show], v);
            continue;
        }
        emit(ctx, row->stat_name, "%s", word);
    }
}
