/* operator/command_line.c: see operator/command_line.h. Two tables: flags, and suboptions of -o. */
#include "operator/command_line.h"

#include <getopt.h>
#include <limits.h>
#include <stdarg.h>

#include "operator/config_file.h"
#include "operator/settings_check.h"

/* Why this build refuses an option of memcached's; NULL: it doesn't. */
static const char *why_no_flag(int flag UNUSED)
{
#ifndef EXTANT_TLS
    if (flag == 'Z')
        return "This server is not built with TLS support.";
#endif
    return NULL;
}

static const char *why_no_suboption(const char *name UNUSED)
{
#ifndef EXTANT_DEBUG
    if (strcmp(name, "relaxed_privileges") == 0)
        return "only debug builds relax drop_privileges";
#endif
    return NULL;
}

/* ---- suboptions of -o ---- */

/* Parsers of suboptions that are neither a number nor a switch; value is NULL if none was given, and the row in
 * suboptions[] doesn't refuse that. */
static int sub_hash_algorithm(struct parser *p, const char *value)
{
    static const char *const known[] = {"jenkins", "murmur3", "xxh3"};
    for (size_t i = 0; i < ARRAY_COUNT(known); i++) {
        if (strcmp(value, known[i]) == 0)
            return take_text(p, ID_hash_algorithm, value);
    }
    return refuse(p, "Unknown hash_algorithm option (jenkins, murmur3, xxh3)");
}

static int sub_slab_sizes(struct parser *p, const char *value)
{
    free(p->slab_sizes);
    p->slab_sizes = strdup(value);
    return p->slab_sizes != NULL ? SETTINGS_GO_ON : no_memory(p);
}

#ifdef EXTANT_TLS
/* 0 to 3, shown as the library's bits. */
static int sub_ssl_verify_mode(struct parser *p, const char *value)
{
    static const uint32_t bits[] = {0, 1, 3, 7};
    double v;
    if (!parse_whole(value, false, &v))
        return refuse(p, "could not parse argument to ssl_verify_mode");
    if (v >= ARRAY_COUNT(bits))
        return refuse(p, "Invalid ssl_verify_mode. Use help to see valid options.");
    p->s->ssl_verify_mode = bits[(size_t)v];
    return SETTINGS_GO_ON;
}

static int sub_ssl_keyformat(struct parser *p, const char *value)
{
    static const char *const names[][2] = {{"1", "PEM"}, {"2", "DER"}};
    for (uint32_t i = 0; i < ARRAY_COUNT(names); i++) {
        if (strcmp(value, names[i][0]) == 0 || strcmp(value, names[i][1]) == 0) {
            p->s->ssl_keyformat = i + SETTINGS_KEY_PEM;
            return SETTINGS_GO_ON;
        }
    }
    return refuse(p, "could not parse argument to ssl_keyformat (1 or PEM, 2 or DER)");
}
#endif

/* As memcached 1.4 did. */
static int sub_no_modern(struct parser *p, const char *value UNUSED)
{
    p->s->slab_chunk_max = SETTINGS_SLAB_PAGE_BYTES;
    p->s->slab_reassign = false;
    p->s->slab_automove = 0;
    p->s->maxconns_fast = false;
    p->s->lru_segmented = false;
    p->s->lru_crawler = false;
    p->s->lru_maintainer = false;
    return take_text(p, ID_hash_algorithm, "jenkins");
}

static int sub_no_chunked_items(struct parser *p, const char *value UNUSED)
{
    p->s->slab_chunk_max = SETTINGS_SLAB_PAGE_BYTES;
    return SETTINGS_GO_ON;
}

static int sub_lru_maintainer(struct parser *p, const char *value UNUSED)
{
    p->s->lru_maintainer = true;
    p->s->lru_segmented = true;
    return SETTINGS_GO_ON;
}

static int sub_no_lru_maintainer(struct parser *p, const char *value UNUSED)
{
    p->s->lru_maintainer = false;
    p->s->lru_segmented = false;
    return SETTINGS_GO_ON;
}

static int sub_ext_path(struct parser *p, const char *value);
static int sub_ext_format(struct parser *p, const char *value);
static int sub_http(struct parser *p, const char *value);

enum sub_kind {
    SUB_ON,       /* sets a switch */
    SUB_OFF,      /* clears it */
    SUB_NUMBER,   /* whole number, times scale */
    SUB_BYTES,    /* the same; or with a suffix (k, m, g), then in that unit */
    SUB_OPTIONAL, /* the same; 1 if there is no value */
    SUB_REAL,
    SUB_WORD,     /* one of setting_words() */
    SUB_TEXT,     /* kept as it is */
    SUB_OWN,      /* its own function; with or without a value */
    SUB_DEAD      /* accepted with any value, changes nothing */
};

struct suboption {
    const char *name;
    enum sub_kind kind;
    int id; /* of the setting; -1 if it has none */
    uint64_t scale;
    int (*own)(struct parser *, const char *);
    const char *missing, *bad, *range; /* memcached's words; NULL: the usual ones */
    const char *help;                  /* NULL: the setting's; "": not in the help */
};

#define ON(field) {#field, .kind = SUB_ON, .id = ID_##field}
#define OFF(name, field, text) {#name, .kind = SUB_OFF, .id = ID_##field, .help = text}
#define NUMBER(field, unit, ...) {#field, .kind = SUB_NUMBER, .id = ID_##field, .scale = unit, __VA_ARGS__}
#define BYTES(field, unit, ...) {#field, .kind = SUB_BYTES, .id = ID_##field, .scale = unit, __VA_ARGS__}
#define REAL(field, ...) {#field, .kind = SUB_REAL, .id = ID_##field, .scale = 1, __VA_ARGS__}
#define WORD(field, refusal) {#field, .kind = SUB_WORD, .id = ID_##field, .bad = refusal}
#define TEXT(field) {#field, .kind = SUB_TEXT, .id = ID_##field}
#define OWN(name, setting, text, ...) {#name, .kind = SUB_OWN, .id = setting, .own = sub_##name, .help = text, __VA_ARGS__}
#define DEAD(name, text) {#name, .kind = SUB_DEAD, .id = -1, .help = text}

/* clang-format off */
static const struct suboption suboptions[] = {
    ON(maxconns_fast),
    OFF(no_maxconns_fast, maxconns_fast, "above the limit, stop accepting instead"),
    {"hashpower", .kind = SUB_NUMBER, .id = ID_hashpower_init, .scale = 1,
     .missing = "Missing numeric argument for hashpower",
     .bad = "Initial hashtable multiplier of 0 is too low"},
    OFF(no_hashexpand, hash_expand, "accepted; the index grows in small steps"),
    ON(slab_reassign),
    OFF(no_slab_reassign, slab_reassign, "pages stay in their slab class"),
    {"slab_automove", .kind = SUB_OPTIONAL, .id = ID_slab_automove, .scale = 1,
     .range = "slab_automove must be between 0 and 2"},
    OFF(no_slab_automove, slab_automove, "never move pages by need"),
    REAL(slab_automove_ratio, .range = "slab_automove_ratio must be > 0 and < 1"),
    NUMBER(slab_automove_window, 1, .range = "slab_automove_window must be > 2 and < 1800"),
    REAL(slab_automove_freeratio),
    NUMBER(tail_repair_time, 1, .missing = "Missing numeric argument for tail_repair_time",
           .range = "Cannot set tail_repair_time to less than 10 seconds"),
    OWN(hash_algorithm, ID_hash_algorithm, NULL, .missing = "Missing hash_algorithm argument"),
    ON(lru_crawler),
    OFF(no_lru_crawler, lru_crawler, "don't look for expired items in the background"),
    NUMBER(lru_crawler_sleep, 1, .missing = "Missing lru_crawler_sleep value",
           .range = "LRU crawler sleep must be between 0 and 1 second"),
    NUMBER(lru_crawler_tocrawl, 1, .missing = "Missing lru_crawler_tocrawl value",
           .bad = "lru_crawler_tocrawl takes a numeric 32bit value",
           .range = "lru_crawler_tocrawl takes a numeric 32bit value"),
    OWN(lru_maintainer, -1, "keep the LRU in segments, in the background (default)"),
    OWN(no_lru_maintainer, -1, "one flat LRU for each class, no background thread"),
    NUMBER(hot_lru_pct, 1, .bad = "hot_lru_pct must be > 1 and < 80",
           .range = "hot_lru_pct must be > 1 and < 80"),
    NUMBER(warm_lru_pct, 1, .bad = "warm_lru_pct must be > 1 and < 80",
           .range = "warm_lru_pct must be > 1 and < 80"),
    REAL(hot_max_factor, .range = "hot_max_factor must be > 0"),
    REAL(warm_max_factor, .range = "warm_max_factor must be > 0"),
    NUMBER(temporary_ttl, 1),
    NUMBER(idle_timeout, 1, .missing = "Missing numeric argument for idle_timeout"),
    NUMBER(watcher_logbuf_size, KiB),
    NUMBER(worker_logbuf_size, KiB),
    OWN(slab_sizes, -1, "sizes of the slab classes, such as 100-200-400", .missing = "Missing slab_sizes argument"),
    NUMBER(slab_chunk_max, KiB),
    OWN(no_chunked_items, -1, "large items are not cut into chunks"),
    ON(track_sizes),
    NUMBER(read_buf_mem_limit, MiB),
    DEAD(resp_obj_mem_limit, ""),
    DEAD(inline_ascii_resp, ""),
    DEAD(no_inline_ascii_resp, ""),
    DEAD(modern, "the defaults"),
    OWN(no_modern, -1, "flat LRU, no crawler, no page mover, no chunked items (as memcached 1.4)"),
    ON(drop_privileges),
    OFF(no_drop_privileges, drop_privileges, "allow any system call (default)"),
    ON(log_privileges),
    ON(relaxed_privileges),
    ON(trust_memory_file),
    NUMBER(sock_cookie_id, 1),
    OWN(http, ID_http, NULL),
    OWN(ext_path, -1, "file of flash and its size, repeatable: FILE:SIZE[:BUCKET], size in\n"
                  "m, g, t or p; bucket: default compact lowttl chunked coldcompact old"),
    OWN(ext_format, -1, "FILE of an ext_path or of -e, repeatable: overwrite foreign data in it"),
    BYTES(ext_page_size, MiB),
    BYTES(ext_wbuf_size, MiB),
    NUMBER(ext_threads, 1),
    NUMBER(ext_io_depth, 1),
    NUMBER(ext_item_size, 1),
    NUMBER(ext_item_age, 1),
    NUMBER(ext_low_ttl, 1),
    NUMBER(ext_recache_rate, 1),
    NUMBER(ext_compact_under, 1),
    NUMBER(ext_drop_under, 1),
    REAL(ext_max_frag),
    NUMBER(ext_max_sleep, 1),
    ON(ext_drop_unread),
#ifdef EXTANT_TLS
    TEXT(ssl_chain_cert),
    TEXT(ssl_key),
    OWN(ssl_keyformat, ID_ssl_keyformat, NULL, .missing = "Missing ssl_keyformat argument"),
    OWN(ssl_verify_mode, ID_ssl_verify_mode, NULL, .missing = "Missing ssl_verify_mode argument"),
    TEXT(ssl_ciphers),
    TEXT(ssl_ca_cert),
    NUMBER(ssl_wbuf_size, KiB),
    ON(ssl_session_cache),
    ON(ssl_kernel_tls),
    NUMBER(ssl_min_version, 1, .range = "Invalid ssl_min_version. Use help to see valid options."),
    NUMBER(ssl_max_version, 1, .range = "Invalid ssl_max_version. Use help to see valid options."),
#endif
    WORD(ext_persist, "ext_persist must be off, on or scan"),
    WORD(ext_io_engine, "ext_io_engine must be auto, uring or threads"),
    BYTES(ext_write_limit, 1, .range = "ext_write_limit is too large"),
    BYTES(ext_daily_writes, 1, .range = "ext_daily_writes is too large"),
    REAL(ext_rated_writes, .range = "ext_rated_writes must be between 0.001 and 1000"),
    WORD(ext_admission, "ext_admission must be all, strict or learn"),
    NUMBER(ext_stay_pct, 1),
    NUMBER(ext_rewrite_pct, 1),
    NUMBER(ext_ttl_groups, 1),
    ON(ext_verify_writes),
    NUMBER(ext_buffer_mem, MiB),
};
/* clang-format on */

/* One file: PATH:SIZE[:BUCKET]. The last colons count, so the path may contain some. */
static int sub_ext_path(struct parser *p, const char *value)
{
    struct settings *s = p->s;
    if (value == NULL)
        return refuse(p, "missing argument to ext_path, ie: ext_path=/d/file:5G");
    char *copy = strdup(value);
    if (copy == NULL)
        return no_memory(p);
    char *size = strrchr(copy, ':');
    enum settings_bucket bucket = SETTINGS_BUCKET_DEFAULT;
    int code = SETTINGS_GO_ON;
    double bytes;

    /* The last part is a bucket unless it starts like a size. */
    if (size != NULL && strspn(size + 1, "0123456789.") == 0) {
        const char *name = size + 1;
        *size = '\0';
        size = strrchr(copy, ':');
        if (size != NULL) {
            while (bucket < SETTINGS_BUCKET_COUNT && strcmp(settings_bucket_name(bucket), name) != 0)
                bucket++;
        }
        if (bucket == SETTINGS_BUCKET_COUNT) {
            struct guess g = {.word = name};
            char hint[2 * WORD_MAX];
            for (size_t i = 0; i < SETTINGS_BUCKET_COUNT; i++)
                guess_from(&g, settings_bucket_name((enum settings_bucket)i));
            code = refuse(p, "Unknown extstore bucket: %s%s\nfailed to parse ext_path argument",
                          name, guess_text(&g, hint, sizeof(hint)));
            goto out;
        }
    }
    size_t size_len = size != NULL ? strlen(size + 1) : 0;
    bool has_unit = size_len > 1 && suffix_bytes(size[size_len]) >= MiB;
    if (!has_unit) {
        code = refuse(p, "must supply size to ext_path, ie: ext_path=/f/e:64m (m|g|t|p supported)\n"
                      "failed to parse ext_path argument");
    } else if (!parse_bytes(size + 1, 1, &bytes)) {
        code = refuse(p, "ext_path size \"%s\" is not a whole number followed by m, g, t or p",
                      size + 1);
    } else if (bytes == 0) {
        code = refuse(p, "supplied ext_path has zero size, cannot use");
    } else if (size == copy) {
        code = refuse(p, "ext_path has no file name: %s", value);
    } else if (s->ext_file_count == SETTINGS_EXT_FILES_MAX) {
        code = refuse(p, "more than %d files in ext_path", SETTINGS_EXT_FILES_MAX);
    } else {
        *size = '\0';
        s->ext_files[s->ext_file_count++] = (struct settings_ext_file){
            .path = copy, .bytes = (uint64_t)bytes, .bucket = bucket};
        copy = NULL;
    }
out:
    free(copy);
    return code;
}

static int sub_ext_format(struct parser *p, const char *value)
{
    struct settings *s = p->s;
    DEBUG_ASSERT(s->ext_format_count <= SETTINGS_EXT_FILES_MAX);
    if (value == NULL || *value == '\0')
        return refuse(p, "missing argument to ext_format, ie: ext_format=/dev/sdb");
    if (s->ext_format_count == SETTINGS_EXT_FILES_MAX)
        return refuse(p, "more than %d files in ext_format", SETTINGS_EXT_FILES_MAX);
    char *copy = strdup(value);
    if (copy == NULL)
        return no_memory(p);
    DEBUG_ASSERT(s->ext_format_count < SETTINGS_EXT_FILES_MAX);
    s->ext_formats[s->ext_format_count++] = copy;
    return SETTINGS_GO_ON;
}

/* "PORT", "ADDR:PORT" or "[ADDR]:PORT"; kept with the address. */
static int sub_http(struct parser *p, const char *value)
{
    char text[SETTINGS_HOST_BYTES];
    const char *colon = value != NULL ? strrchr(value, ':') : NULL;
    const char *port = colon != NULL ? colon + 1 : value;
    double v;
    if (value == NULL || *value == '\0')
        return refuse(p, "http needs an address, ie: http=127.0.0.1:9150");
    if (!parse_whole(port, false, &v) || v > 65535 || colon == value ||
        strlen(value) + sizeof("127.0.0.1:") > sizeof(text))
        return refuse(p, "http=%s is not PORT or ADDR:PORT", value);
    snprintf(text, sizeof(text), "%s%s", colon != NULL ? "" : "127.0.0.1:", value);
    return take_text(p, ID_http, text);
}

/* Refuses a number that is out of range, in memcached's words if it has any. */
static int refuse_range(struct parser *p, const struct suboption *o, double v)
{
    DEBUG_ASSERT(o->id >= 0 && !(v > setting_table[o->id].min && v < setting_table[o->id].max));
    const struct setting *row = &setting_table[o->id];
    if (o->range != NULL)
        return refuse(p, "%s", o->range);
    if (o->id == ID_hashpower_init && v < row->min)
        return refuse(p, "Initial hashtable multiplier of %.0f is too low", v);
    if (o->id == ID_hashpower_init)
        return refuse(p, "Initial hashtable multiplier of %.0f is too high\n"
                      "Choose a value based on \"STAT hash_power_level\" from a running instance",
                      v);
    double scale = o->scale > 0 ? (double)o->scale : 1;
    if (o->id == ID_slab_chunk_max)
        return refuse(p, v < row->min ? "slab_chunk_max must be >= 0"
                                         : "slab_chunk_max must be specified in kilobytes.");
    if (o->kind == SUB_BYTES)
        return refuse(p, "%s must be between %.12gk and %.12gm", o->name, row->min / KiB, row->max / MiB);
    if (v < row->min && row->min <= scale)
        return refuse(p, "%s must be greater than 0", o->name);
    return refuse(p, "%s must be between %.12g and %.12g", o->name, row->min / scale,
                  row->max / scale);
}

static int take_number(struct parser *p, const struct suboption *o, const char *value)
{
    ASSERT(o->id >= 0 && setting_table[o->id].type != SETTING_TEXT);
    const struct setting *row = &setting_table[o->id];
    double v;
    if (value == NULL && o->kind == SUB_OPTIONAL)
        value = "1";
    if (value == NULL && o->missing != NULL)
        return refuse(p, "%s", o->missing);
    if (value == NULL)
        return refuse(p, "Missing %s argument", o->name);
    bool ok = o->kind == SUB_REAL    ? parse_real(value, &v)
              : o->kind == SUB_BYTES ? parse_bytes(value, o->scale, &v)
                                     : parse_whole(value, false, &v);
    if (!ok && o->bad != NULL)
        return refuse(p, "%s", o->bad);
    if (!ok)
        return refuse(p, "could not parse argument to %s: \"%s\" is not %s", o->name, value,
                      o->kind == SUB_REAL    ? "a number"
                      : o->kind == SUB_BYTES ? "a size, such as 512k or 64m"
                                             : "a whole number");
    if (o->kind != SUB_BYTES)
        v *= (double)o->scale;
    /* Factors and the ratio must be above their lower bound, not at it. */
    bool open = o->id == ID_hot_max_factor || o->id == ID_warm_max_factor ||
                o->id == ID_slab_automove_ratio;
    if (!setting_in_range(row, v) || (open && v <= row->min))
        return refuse_range(p, o, v);
    setting_put_number(p->s, row, v);
    p->s->temp_lru = p->s->temp_lru || o->id == ID_temporary_ttl;
    p->is_set[o->id] = true;
    return SETTINGS_GO_ON;
}

/* Refuses a NAME or NAME=VALUE that is not in the table, in memcached's words, with a suggestion. */
static int refuse_suboption(struct parser *p, const char *name, const char *value)
{
    struct guess g = {.word = name};
    char hint[2 * WORD_MAX];
    for (size_t i = 0; i < ARRAY_COUNT(suboptions); i++)
        guess_from(&g, suboptions[i].name);
    if (*name == '\0')
        return refuse(p, "Illegal suboption \"(null)%s%s\" (the list has an entry without a name)",
                      value != NULL ? "=" : "", value != NULL ? value : "");
    return refuse(p, "Illegal suboption \"%s%s%s\"%s", name, value != NULL ? "=" : "",
                  value != NULL ? value : "", guess_text(&g, hint, sizeof(hint)));
}

/* One part of -o: NAME or NAME=VALUE; blanks around either don't matter. */
static int take_suboption(struct parser *p, char *name)
{
    char *value = strchr(name, '=');
    const struct suboption *o = suboptions, *end = suboptions + ARRAY_COUNT(suboptions);
    if (value != NULL) {
        *value = '\0';
        value = config_trim(value + 1);
    }
    name = config_trim(name);
    const char *reason = why_no_suboption(name);
    if (reason != NULL)
        return refuse(p, "-o %s: %s", name, reason);
    while (o < end && strcmp(o->name, name) != 0)
        o++;
    if (o == end)
        return refuse_suboption(p, name, value);
    if (strncmp(o->name, "ext_", 4) == 0)
        p->ext_word = o->name;
    note_given(p, "-o ", name, "=", value);
    switch (o->kind) {
    case SUB_ON:
    case SUB_OFF:
        if (value != NULL)
            return refuse(p, "%s takes no value", o->name);
        DEBUG_ASSERT(setting_table[o->id].type != SETTING_TEXT);
        setting_put_number(p->s, &setting_table[o->id], o->kind == SUB_ON);
        return SETTINGS_GO_ON;
    case SUB_NUMBER:
    case SUB_BYTES:
    case SUB_OPTIONAL:
    case SUB_REAL:
        return take_number(p, o, value);
    case SUB_WORD:
        if (value == NULL && o->id == ID_ext_persist)
            value = "on";
        return value != NULL && setting_put_word(p->s, o->id, value) ? SETTINGS_GO_ON : refuse(p, "%s", o->bad);
    case SUB_TEXT:
        if (value == NULL)
            return refuse(p, "Missing %s argument", o->name);
        return take_text(p, (size_t)o->id, value);
    case SUB_OWN:
        return value == NULL && o->missing != NULL ? refuse(p, "%s", o->missing) : o->own(p, value);
    case SUB_DEAD:
        return SETTINGS_GO_ON;
    }
    ASSERT(false);
    return 1;
}

/* ---- flags ---- */

struct flag {
    int letter;
    const char *name, *arg; /* arg: as shown in the help, "" none */
    int id;                 /* of the setting; -1 if it has none */
    int (*take)(struct parser *p, const struct flag *f, const char *arg); /* NULL: parse_flags() does it */
    const char *below; /* flag_number: the refusal below the minimum; NULL: the usual one */
    const char *help;  /* NULL: the setting's */
};

/* A switch: its setting becomes the opposite of the default. */
static int flag_switch(struct parser *p, const struct flag *f, const char *arg UNUSED)
{
    DEBUG_ASSERT(setting_table[f->id].type == SETTING_BOOL);
    setting_put_number(p->s, &setting_table[f->id], setting_table[f->id].dflt == 0);
    return SETTINGS_GO_ON;
}

static int flag_text(struct parser *p, const struct flag *f, const char *arg)
{
    DEBUG_ASSERT(f->id >= 0);
    if (*arg == '\0')
        return refuse(p, "-%c needs a value", f->letter);
    return take_text(p, (size_t)f->id, arg);
}

/* A whole number; refuses numbers that memcached would not accept or would misread. */
static int flag_number(struct parser *p, const struct flag *f, const char *arg)
{
    DEBUG_ASSERT(f->id >= 0);
    const struct setting *row = &setting_table[f->id];
    double v;
    DEBUG_ASSERT(row->type != SETTING_TEXT && row->type != SETTING_BOOL);
    bool is_number = parse_whole(arg, true, &v);
    if (f->below != NULL && (!is_number || v < row->min))
        return refuse(p, "%s", f->below);
    if (!is_number || !setting_in_range(row, v))
        return refuse(p, "-%c %s is not a number from %.0f to %.0f", f->letter, arg, row->min,
                      row->max);
    setting_put_number(p->s, row, v);
    return SETTINGS_GO_ON;
}

static int flag_port(struct parser *p, const struct flag *f, const char *arg)
{
    DEBUG_ASSERT(f->id == ID_port || f->id == ID_udpport);
    double v;
    if (!parse_whole(arg, true, &v) || !setting_in_range(&setting_table[f->id], v))
        return refuse(p, "ERROR: Invalid port number %s.", arg);
    setting_put_number(p->s, &setting_table[f->id], v);
    p->is_set[f->id] = true;
    return SETTINGS_GO_ON;
}

static int flag_mode(struct parser *p, const struct flag *f UNUSED, const char *arg)
{
    char *end;
    unsigned long mode = strtoul(arg, &end, 8);
    if (*arg < '0' || *arg > '7' || *end != '\0' || mode > 07777)
        return refuse(p, "-a %s is not an octal access mode, such as 0770", arg);
    p->s->access_mask = (uint32_t)mode;
    return SETTINGS_GO_ON;
}

static int flag_memory(struct parser *p, const struct flag *f, const char *arg)
{
    DEBUG_ASSERT(f->id == ID_maxbytes);
    double v;
    if (!parse_bytes(arg, MiB, &v) || !setting_in_range(&setting_table[f->id], v))
        return refuse(p, "-m %s is not a whole number of megabytes (or, with a suffix, such as 512k or 2g)", arg);
    p->s->maxbytes = (uint64_t)v;
    return SETTINGS_GO_ON;
}

/* Its bounds depend on other options: check_sizes(). */
static int flag_item_size(struct parser *p, const struct flag *f UNUSED, const char *arg)
{
    double v;
    if (!parse_bytes(arg, 1, &v))
        return refuse(p, "-I %s is not a size, such as 512k or 2m", arg);
    p->s->item_size_max = (uint64_t)v;
    return SETTINGS_GO_ON;
}

static int flag_factor(struct parser *p, const struct flag *f, const char *arg)
{
    DEBUG_ASSERT(f->id == ID_factor);
    double v;
    if (!parse_real(arg, &v) || v <= 1.0)
        return refuse(p, "Factor must be greater than 1");
    if (!setting_in_range(&setting_table[f->id], v))
        return refuse(p, "Factor must be no more than %.0f", setting_table[f->id].max);
    p->s->factor = v;
    return SETTINGS_GO_ON;
}

static int flag_delimiter(struct parser *p, const struct flag *f UNUSED, const char *arg)
{
    if (*arg == '\0')
        return refuse(p, "No delimiter specified");
    p->s->prefix_delimiter = (unsigned char)*arg;
    p->s->detail_enabled = true;
    return SETTINGS_GO_ON;
}

static int flag_verbose(struct parser *p, const struct flag *f UNUSED, const char *arg UNUSED)
{
    p->s->verbosity++;
    return SETTINGS_GO_ON;
}

static int flag_users(struct parser *p, const struct flag *f, const char *arg)
{
    DEBUG_ASSERT(f->id == ID_auth_file);
    p->s->auth_ascii = true;
    return flag_text(p, f, arg);
}

static int flag_protocol(struct parser *p, const struct flag *f, const char *arg)
{
    DEBUG_ASSERT(f->id == ID_binding_protocol);
    p->is_set[f->id] = true;
    if (setting_put_word(p->s, f->id, arg))
        return SETTINGS_GO_ON;
    return refuse(p, "Invalid value for binding protocol: %s\n"
                  " -- should be one of auto, binary, or ascii",
                  arg);
}

/* -l may come several times; `stats settings` shows all of them. */
static int flag_listen(struct parser *p, const struct flag *f, const char *arg)
{
    DEBUG_ASSERT(f->id == ID_inter);
    if (p->s->inter == NULL)
        return take_text(p, (size_t)f->id, arg);
    char *joined;
    if (asprintf(&joined, "%s,%s", p->s->inter, arg) < 0)
        return no_memory(p);
    free(p->s->inter);
    p->s->inter = joined;
    return SETTINGS_GO_ON;
}

/* The list may be empty, and may end in a comma; charts do both. */
static int flag_suboptions(struct parser *p, const struct flag *f UNUSED, const char *arg)
{
    char *copy = strdup(arg), *rest = copy, *part;
    if (copy == NULL)
        return no_memory(p);
    int code = SETTINGS_GO_ON;
    while (code == SETTINGS_GO_ON && (part = strsep(&rest, ",")) != NULL) {
        if (rest != NULL || *config_trim(part) != '\0')
            code = take_suboption(p, part);
        note_given(p, "", "", "", NULL);
    }
    free(copy);
    return code;
}

/* clang-format off */
static const struct flag flags[] = {
    {'p', "port", "<num>", ID_port, flag_port, NULL, NULL},
    {'U', "udp-port", "<num>", ID_udpport, flag_port, NULL, NULL},
    {'s', "unix-socket", "<file>", ID_socketpath, flag_text, NULL, NULL},
    {'a', "unix-mask", "<mask>", ID_access_mask, flag_mode, NULL, NULL},
    {'A', "enable-shutdown", "", ID_shutdown_command, flag_switch, NULL, NULL},
    {'l', "listen", "<addr>", ID_inter, flag_listen, NULL, NULL},
    {'d', "daemon", "", ID_daemonize, flag_switch, NULL, NULL},
    {'r', "enable-coredumps", "", ID_max_core, flag_switch, NULL, NULL},
    {'u', "user", "<user>", ID_username, flag_text, NULL, NULL},
    {'m', "memory-limit", "<num>", ID_maxbytes, flag_memory, NULL, "memory for items and index, in megabytes"},
    {'M', "disable-evictions", "", ID_evict_to_free, flag_switch, NULL,
     "return an error when memory is full instead of evicting"},
    {'c', "conn-limit", "<num>", ID_maxconns, flag_number, "Maximum connections must be greater than 0", NULL},
    {'k', "lock-memory", "", ID_lock_memory, flag_switch, NULL, NULL},
    {'v', "verbose", "", ID_verbosity, flag_verbose, NULL, NULL},
    {'h', "help", "", -1, NULL, NULL, "print this help and exit"},
    {'i', "license", "", -1, NULL, NULL, "print the licence and exit"},
    {'V', "version", "", -1, NULL, NULL, "print the version and exit"},
    {'P', "pidfile", "<file>", ID_pid_file, flag_text, NULL, NULL},
    {'f', "slab-growth-factor", "<num>", ID_factor, flag_factor, NULL, NULL},
    {'n', "slab-min-size", "<bytes>", ID_chunk_size, flag_number, "Chunk size must be greater than 0", NULL},
    {'L', "enable-largepages", "", ID_large_pages, flag_switch, NULL, NULL},
    {'D', NULL, "<char>", ID_prefix_delimiter, flag_delimiter, NULL, NULL},
    {'t', "threads", "<num>", ID_num_threads, flag_number, "Number of threads must be greater than 0", NULL},
    {'R', "max-reqs-per-event", "<num>", ID_reqs_per_event, flag_number, "Number of requests per event must be greater than 0",
     NULL},
    {'C', "disable-cas", "", ID_use_cas, flag_switch, NULL, "items have no cas value"},
    {'b', "listen-backlog", "<num>", ID_backlog, flag_number, NULL, NULL},
    {'B', "protocol", "<name>", ID_binding_protocol, flag_protocol, NULL, NULL},
    {'I', "max-item-size", "<num>", ID_item_size_max, flag_item_size, NULL, NULL},
    {'S', "enable-sasl", "", ID_auth_sasl, flag_switch, NULL,
     "log in by SASL PLAIN, with the users of -Y; binary protocol only"},
    {'F', "disable-flush-all", "", ID_flush_enabled, flag_switch, NULL, "disable flush_all"},
    {'X', "disable-dumping", "", ID_dump_enabled, flag_switch, NULL,
     "disable stats cachedump, lru_crawler metadump and mgdump"},
    {'W', "disable-watch", "", ID_watch_enabled, flag_switch, NULL, "disable watch"},
    {'Y', "auth-file", "<file>", ID_auth_file, flag_users, NULL, NULL},
    {'e', "memory-file", "<file>", ID_memory_file, flag_text, NULL, NULL},
    {'N', "napi_ids", "<num>", ID_num_napi_ids, flag_number, "Maximum number of NAPI IDs must be greater than 0",
     NULL},
    {'Z', "enable-ssl", "", ID_ssl_enabled, flag_switch, NULL, NULL},
    {'o', "extended", "<list>", -1, flag_suboptions, NULL, "comma separated list of the options below"},
};
/* clang-format on */

/* Our own options. They have only long names, which can't be abbreviated, so abbreviations of memcached's
 * stay valid. */
enum own_option { OWN_CONFIG, OWN_LOGFILE, OWN_HTTP, OWN_CHECK_CONFIG, OWN_PRINT_CONFIG, OWN_CHECK, OWN_COUNT };
static const struct {
    const char *name, *arg, *help;
} own_options[OWN_COUNT] = {
    [OWN_CONFIG] = {"config", "<file>", "read options from a file first, one on each line, like memcached.conf; repeatable"},
    [OWN_LOGFILE] = {"logfile", "<file>", "append log lines to this file; SIGHUP reopens it"},
    [OWN_HTTP] = {"http", "<[addr:]port>", "metrics, health and a status page for operators, by default on 127.0.0.1"},
    [OWN_CHECK_CONFIG] = {"check-config", "", "say whether all options are valid, and exit"},
    [OWN_PRINT_CONFIG] = {"print-config", "", "print all settings as a file for --config, and exit"},
    [OWN_CHECK] = {"check", "<flash file>...",
                   "check what a stopped cache left on flash, changing nothing; exit 0 sound, 1 faults, 2 can't be read"},
};

static void print_default(FILE *out, const struct setting *row, uint64_t scale)
{
    if (row->type == SETTING_TEXT || row->type == SETTING_BOOL || *row->help == '\0' ||
        strstr(row->help, "default") != NULL)
        return;
    if (row->show == SHOW_OCTAL)
        fprintf(out, " (default: %o)", (unsigned)row->dflt);
    else if (row->show == SHOW_CHAR)
        fprintf(out, " (default: %c)", (int)row->dflt);
    else if (setting_words(row - setting_table) != NULL)
        fprintf(out, " (default: %s)", setting_words(row - setting_table)[(unsigned)row->dflt]);
    else if (row->show == SHOW_TLS_VERSION || row - setting_table == ID_ssl_max_version)
        fprintf(out, " (default: %.0f)", row->dflt);
    else
        fprintf(out, " (default: %.12g%s%s)", row->dflt / (double)(scale > 1 ? scale : 1),
                scale > 1 || *row->unit == '\0' ? "" : " ", scale > 1 ? "" : row->unit);
}

/* Groups of the help. A flag is listed in the first group that has its letter; a suboption in the first
 * that has a prefix of its name. Each table ends in a group for the rest. */
static const struct {
    const char *title, *letters;
} flag_groups[] = {
    {"Where clients connect", "lpsaUBZ"},
    {"Memory and items", "mMIefnCDkL"},
    {"Threads and connections", "tcbRN"},
    {"Who may do what", "YSAFXW"},
    {"The process", ""},
};
static const struct {
    const char *title, *beginnings[8];
} suboption_groups[] = {
    {"Flash", {"ext_", "slab_automove_freeratio"}},
    {"Memory and slabs", {"slab_", "no_slab", "no_chunked", "hash", "no_hash", "track_sizes"}},
    {"LRU and expiry",
     {"lru_", "no_lru", "hot_", "warm_", "temporary_ttl", "tail_repair"}},
    {"Connections, logs and privileges", {NULL}},
};

static size_t flag_group_of(int letter)
{
    DEBUG_ASSERT(letter > 0);
    size_t g = 0;
    while (g < ARRAY_COUNT(flag_groups) - 1 && strchr(flag_groups[g].letters, letter) == NULL)
        g++;
    return g;
}

static size_t suboption_group_of(const char *name)
{
    for (size_t g = 0; g < ARRAY_COUNT(suboption_groups) - 1; g++) {
        const char *const *b = suboption_groups[g].beginnings;
        for (; *b != NULL; b++) {
            if (strncmp(name, *b, strlen(*b)) == 0)
                return g;
        }
    }
    return ARRAY_COUNT(suboption_groups) - 1;
}

static void print_flag(FILE *out, const struct flag *f)
{
    DEBUG_ASSERT(f->help != NULL || f->id >= 0);
    char text[64];
    if (why_no_flag(f->letter) != NULL)
        return;
    if (f->name != NULL)
        snprintf(text, sizeof(text), "-%c, --%s%s%s", f->letter, f->name, *f->arg ? "=" : "",
                 f->arg);
    else
        snprintf(text, sizeof(text), "-%c %s", f->letter, f->arg);
    fprintf(out, "%-27s %s", text, f->help != NULL ? f->help : setting_table[f->id].help);
    if (f->id >= 0)
        print_default(out, &setting_table[f->id], f->id == ID_maxbytes ? MiB : 1);
    fputc('\n', out);
}

static void print_suboption(FILE *out, const struct suboption *o)
{
    DEBUG_ASSERT(o->help != NULL || o->id >= 0);
    char text[64];
    if (why_no_suboption(o->name) != NULL || (o->help != NULL && *o->help == '\0'))
        return;
    snprintf(text, sizeof(text), "%s:", o->name);
    const char *help = o->help != NULL ? o->help : setting_table[o->id].help;
    const char *more = strchr(help, '\n');
    fprintf(out, "   - %-24s %.*s", text, more ? (int)(more - help) : INT_MAX, help);
    if (more != NULL)
        fprintf(out, "\n%30s%s", "", more + 1);
    if (o->help == NULL && setting_table[o->id].type == SETTING_BOOL && setting_table[o->id].dflt != 0)
        fputs(" (default)", out);
    else if (o->help == NULL)
        print_default(out, &setting_table[o->id], o->scale);
    fputc('\n', out);
}

static void print_help(FILE *out)
{
    char text[64];
    fprintf(out,
            "extant %s (memcached %s protocol)\n"
            "A cache for memcached's clients, with its values in memory and on flash.\n\n"
            "Examples\n"
            "  extant -l 127.0.0.1 -m 1024 -o ext_path=/ssd/extant:100g\n"
            "      1 GB of memory, 100 GB of flash\n"
            "  extant -m 1024 -o ext_path=/ssd/extant:100g,ext_persist\n"
            "      the same, and a clean stop and start keep the cache\n"
            "  extant -m 1024 -e /dev/shm/extant.memory -o ext_path=/ssd/a:1t -o ext_path=/ssd/b:1t\n"
            "      two devices, and the cache survives even a killed process\n"
            "  extant --config /etc/memcached.conf --check-config\n",
            EXTANT_VERSION, MEMCACHED_LEVEL);
    for (size_t g = 0; g < ARRAY_COUNT(flag_groups); g++) {
        fprintf(out, "\n%s\n", flag_groups[g].title);
        for (size_t i = 0; i < ARRAY_COUNT(flags); i++) {
            if (flag_group_of(flags[i].letter) == g)
                print_flag(out, &flags[i]);
        }
    }
    for (size_t i = 0; i < OWN_COUNT; i++) {
        snprintf(text, sizeof(text), "--%s%s%s", own_options[i].name, *own_options[i].arg ? "=" : "",
                 own_options[i].arg);
        fprintf(out, "%-27s %s\n", text, own_options[i].help);
    }
    for (size_t g = 0; g < ARRAY_COUNT(suboption_groups); g++) {
        fprintf(out, "\n-o: %s\n", suboption_groups[g].title);
        for (size_t i = 0; i < ARRAY_COUNT(suboptions); i++) {
            if (suboption_group_of(suboptions[i].name) == g)
                print_suboption(out, &suboptions[i]);
        }
    }
    fputs("\nExit codes: 0 done, 64 the command line is wrong, 67 no such user, 71 the system refuses an\n"
          "address, a file, memory or a limit, 78 a configuration file is wrong.\n",
          out);
}

static void print_license(FILE *out)
{
    fprintf(out,
            "extant %s\n\n"
            "Redistribution and use in source and binary forms, with or without modification,\n"
            "are permitted under the terms of the BSD 3-Clause licence; see the file LICENSE.\n\n"
            "It uses libevent (3-clause BSD), liburing (MIT), jemalloc (2-clause BSD),\n"
            "xxHash (2-clause BSD) and ISA-L (3-clause BSD).\n",
            EXTANT_VERSION);
}

/* File names are taken as they are; blanks around other values don't matter: "-m 512" may be one
 * argument, as charts write it. */
static int take_flag(struct parser *p, const struct flag *f, const char *arg)
{
    DEBUG_ASSERT(f->letter != 'h' && f->letter != 'i' && f->letter != 'V');
    const char *reason = why_no_flag(f->letter);
    ASSERT(f->take != NULL && (arg != NULL) == (*f->arg != '\0'));
    if (reason != NULL)
        return refuse(p, "%s", reason);
    if (arg == NULL || strchr("sPYe", f->letter) != NULL)
        return f->take(p, f, arg);
    char *copy = strdup(arg);
    if (copy == NULL)
        return no_memory(p);
    const char *value = config_trim(copy);
    if (f->letter == 'D' && *value == '\0')
        value = arg; /* a blank can be the delimiter */
    const char letter[] = {(char)f->letter, '\0'};
    bool has_letter = f->letter > 0 && f->letter <= 0x7f;
    if (f->take != flag_suboptions)
        note_given(p, has_letter ? "-" : "--", has_letter ? letter : f->name, " ", value);
    int code = f->take(p, f, value);
    note_given(p, "", "", "", NULL);
    free(copy);
    return code;
}

static void guess_from_flags(struct guess *g)
{
    for (size_t i = 0; i < ARRAY_COUNT(flags); i++) {
        if (flags[i].name != NULL)
            guess_from(g, flags[i].name);
    }
}

/* Refuses argv[i], which getopt did not know, in memcached's words, with a suggestion. */
static int refuse_option(struct parser *p, const char *arg)
{
    char word[WORD_MAX + 1], hint[2 * WORD_MAX];
    if (optopt != 0)
        return refuse(p, "%s: invalid option -- '%c' (-h lists all)", p->program, optopt);
    const char *name = arg + strspn(arg, "-");
    snprintf(word, sizeof(word), "%.*s", (int)strcspn(name, "="), name);
    struct guess g = {.word = word};
    guess_from_flags(&g);
    for (size_t i = 0; i < OWN_COUNT; i++)
        guess_from(&g, own_options[i].name);
    return refuse(p, "%s: unrecognized option '%s'%s", p->program, arg,
                  guess_text(&g, hint, sizeof(hint)));
}

/* By its letter or, with a name, by either. */
static const struct flag *find_flag(int letter, const char *name)
{
    for (size_t i = 0; i < ARRAY_COUNT(flags); i++) {
        if (flags[i].letter == letter ||
            (name != NULL && flags[i].name != NULL && strcmp(flags[i].name, name) == 0))
            return &flags[i];
    }
    return NULL;
}

static int parse_flags(struct parser *p, int argc, char **argv)
{
    char letters[2 * ARRAY_COUNT(flags) + 2] = ":"; /* a missing argument is told apart */
    struct option longs[ARRAY_COUNT(flags) + 1] = {0};
    size_t n = 1, long_count = 0;
    for (size_t i = 0; i < ARRAY_COUNT(flags); i++) {
        letters[n++] = (char)flags[i].letter;
        if (*flags[i].arg != '\0')
            letters[n++] = ':';
        if (flags[i].name != NULL)
            longs[long_count++] =
                (struct option){flags[i].name, *flags[i].arg != '\0', NULL, flags[i].letter};
    }
    ASSERT(long_count < ARRAY_COUNT(longs));
    ASSERT(n < sizeof(letters));
    letters[n] = '\0';
    optind = 0; /* makes getopt_long start again */
    opterr = 0;
    int letter;
    while ((letter = getopt_long(argc, argv, letters, longs, NULL)) != -1) {
        switch (letter) {
        case ':':
            return refuse(p, "%s: option requires an argument -- '%c' (-h lists all)",
                          p->program, optopt);
        case '?':
            return refuse_option(p, argv[optind - 1]);
        case 'h':
            print_help(p->out);
            return 0;
        case 'i':
            print_license(p->out);
            return 0;
        case 'V':
            fprintf(p->out, "extant %s (memcached %s protocol)\n", EXTANT_VERSION, MEMCACHED_LEVEL);
            return 0;
        default: {
            int code = take_flag(p, find_flag(letter, NULL), optarg);
            if (code != SETTINGS_GO_ON)
                return code;
        }
        }
    }
    for (int i = optind; i < argc; i++) {
        if (argv[i][strspn(argv[i], " \t\n")] != '\0')
            return refuse(p, "Illegal argument \"%s\": options begin with -", argv[i]);
    }
    return SETTINGS_GO_ON;
}

/* ---- files of options ---- */

/* One flag of a file's line, with its value or NULL. */
static int take_line_flag(struct parser *p, const char *name, const struct flag *f, const char *value)
{
    bool takes_value = f != NULL && *f->arg != '\0';
    if (f == NULL || strchr("hiV", f->letter) != NULL)
        return refuse(p, "there is no option \"%s\" in a file", name);
    if (takes_value && value == NULL)
        return refuse(p, "%s needs a value", name);
    if (!takes_value && value != NULL)
        return refuse(p, "%s takes no value", name);
    return take_flag(p, f, value);
}

static int take_line_word(struct parser *p, const char *word, const char *value)
{
    DEBUG_ASSERT(p->file != NULL);
    const char *name = word + (strncmp(word, "--", 2) == 0 ? 2 : 0);
    const struct flag *f = find_flag(0, name);
    if (strcmp(name, own_options[OWN_LOGFILE].name) == 0) {
        if (value == NULL || *value == '\0')
            return refuse(p, "%s needs a value", word);
        return take_text(p, ID_log_file, value);
    }
    if (strcmp(name, own_options[OWN_HTTP].name) == 0)
        return sub_http(p, value);
    if (f != NULL)
        return take_line_flag(p, word, f, value);
    struct guess g = {.word = name};
    char hint[2 * WORD_MAX];
    guess_from_flags(&g);
    guess_from(&g, own_options[OWN_LOGFILE].name);
    guess_from(&g, own_options[OWN_HTTP].name);
    return refuse(p, "unknown option \"%s\"%s", word, guess_text(&g, hint, sizeof(hint)));
}

static int take_line(void *ctx, unsigned line, char *name, char *value)
{
    struct parser *p = ctx;
    int code = SETTINGS_GO_ON;
    DEBUG_ASSERT(line > 0 && p->file != NULL);
    p->line = line;
    if (name == NULL)
        return refuse(p, "the line is longer than %d bytes", CONFIG_FILE_LINE_MAX);
    if (name[0] != '-' || name[1] == '-') {
        code = take_line_word(p, name, value);
    } else {
        char *letter = name + 1;
        const struct flag *f = find_flag((unsigned char)*letter, NULL);
        if (f != NULL && *f->arg != '\0' && letter[1] != '\0') { /* -m64 */
            code = value != NULL ? refuse(p, "%s takes one value", name)
                                 : take_flag(p, f, letter + 1);
        } else {
            for (; letter[1] != '\0' && code == SETTINGS_GO_ON; letter++) /* -vv */
                code = take_line_flag(p, name, find_flag((unsigned char)*letter, NULL), NULL);
            if (code == SETTINGS_GO_ON)
                code = take_line_flag(p, name, find_flag((unsigned char)*letter, NULL), value);
        }
    }
    return code == SETTINGS_GO_ON ? 0 : code;
}

static int read_config(struct parser *p, const char *path)
{
    DEBUG_ASSERT(p->file == NULL); /* files name no other files */
    p->file = path;
    int rc = config_file_read(path, take_line, p);
    int code = rc == 0 ? SETTINGS_GO_ON : rc;
    if (rc < 0) {
        fprintf(p->err, "--config %s: %s\n", path, strerror(-rc));
        code = SETTINGS_EXIT_OS;
    }
    p->file = NULL;
    return code;
}

/* --check, at `at` of the command line: it has the rest of it. Nothing else goes with it. */
static int take_check(struct parser *p, int *argc, char **argv, int at, int left, const char *value)
{
    DEBUG_ASSERT(p->s->check_file_count == 0);
    int first = value != NULL ? 0 : at + 1;
    if (at != 1 || left != 1)
        return refuse(p, "--check stands alone, before its files");
    if (value != NULL ? *value == '\0' || at + 1 < *argc : first >= *argc)
        return refuse(p, "--check needs a flash file, or several after a blank");
    if (*argc - at > SETTINGS_EXT_FILES_MAX + 1)
        return refuse(p, "--check: a cache has at most %d flash files", SETTINGS_EXT_FILES_MAX);
    if (value != NULL)
        p->s->check_files[p->s->check_file_count++] = value;
    for (int i = first; value == NULL && i < *argc; i++)
        p->s->check_files[p->s->check_file_count++] = argv[i];
    *argc = left;
    argv[left] = NULL;
    return SETTINGS_GO_ON;
}

/* Takes our own options out of the command line (argc and argv become the
 * rest), and reads the files that they name. */
static int take_own_options(struct parser *p, int *argc, char **argv)
{
    DEBUG_ASSERT(*argc >= 0 && argv[*argc] == NULL);
    int left = 0, code = SETTINGS_GO_ON;
    bool over = false; /* after "--" */
    for (int i = 0; i < *argc && code == SETTINGS_GO_ON; i++) {
        const char *arg = argv[i];
        unsigned id = 0;
        size_t len = 0;
        for (; id < OWN_COUNT; id++) {
            len = strlen(own_options[id].name);
            if (i > 0 && !over && strncmp(arg, "--", 2) == 0 &&
                strncmp(arg + 2, own_options[id].name, len) == 0 &&
                (arg[2 + len] == '\0' || arg[2 + len] == '='))
                break;
        }
        over = over || (i > 0 && strcmp(arg, "--") == 0);
        if (id == OWN_COUNT) {
            argv[left++] = argv[i];
            continue;
        }
        const char *value = arg[2 + len] == '=' ? arg + 2 + len + 1 : NULL;
        if (id == OWN_CHECK) /* all that follows are files */
            return take_check(p, argc, argv, i, left, value);
        if (*own_options[id].arg == '\0') {
            if (value != NULL)
                return refuse(p, "--%s takes no value", own_options[id].name);
            p->checks = p->checks || id == OWN_CHECK_CONFIG;
            p->prints = p->prints || id == OWN_PRINT_CONFIG;
            continue;
        }
        if (value == NULL && i + 1 < *argc)
            value = argv[++i];
        if (value == NULL || *value == '\0')
            return refuse(p, "--%s needs %s", own_options[id].name,
                          id == OWN_HTTP ? "an address" : "a file");
        code = id == OWN_CONFIG ? read_config(p, value)
               : id == OWN_HTTP ? sub_http(p, value)
                                : take_text(p, ID_log_file, value);
    }
    ASSERT(left <= *argc);
    *argc = left;
    argv[left] = NULL;
    return code;
}

/* ---- the settings as such a file ---- */

static void print_line(FILE *out, bool is_default, const char *fmt, ...) PRINTF_LIKE(3, 4);
static void print_line(FILE *out, bool is_default, const char *fmt, ...)
{
    va_list ap;
    fputs(is_default ? "# " : "", out);
    va_start(ap, fmt);
    vfprintf(out, fmt, ap);
    va_end(ap);
    fputc('\n', out);
}

static void print_flag_line(FILE *out, const struct settings *s, const struct flag *f)
{
    DEBUG_ASSERT(f->id >= 0);
    const struct setting *row = &setting_table[f->id];
    if (row->type == SETTING_TEXT) {
        const char *text = SETTING_CONST_FIELD(s, row, char *);
        if (text != NULL)
            print_line(out, false, "-%c %s", f->letter, text);
        return;
    }
    double v = setting_number(s, row);
    bool is_default = v == row->dflt;
    if (row->type == SETTING_BOOL)
        print_line(out, is_default, "-%c", f->letter);
    else if (f->letter == 'm' && (uint64_t)v % MiB != 0)
        print_line(out, is_default, "-m %.0fk", v / KiB);
    else if (f->letter == 'v')
        print_line(out, is_default, "-v%.*s", (int)max_u64((uint64_t)v, 1) - 1, "vvvvvvv");
    else if (f->letter == 'D')
        print_line(out, !s->detail_enabled, "-D %c", (int)v);
    else if (f->letter == 'B')
        print_line(out, is_default, "-B %s", setting_words(f->id)[(unsigned)v]);
    else if (row->show == SHOW_OCTAL)
        print_line(out, is_default, "-%c %o", f->letter, (unsigned)v);
    else
        print_line(out, is_default, "-%c %.12g", f->letter, f->letter == 'm' ? v / MiB : v);
}

static void print_suboption_line(FILE *out, const struct settings *s, const struct suboption *o)
{
    const struct setting *row = o->id >= 0 ? &setting_table[o->id] : NULL;
    double v = row != NULL && row->type != SETTING_TEXT ? setting_number(s, row) : 0;
    double scale = o->scale > 0 ? (double)o->scale : 1;
    switch (o->kind) {
    case SUB_ON:
    case SUB_OFF:
        if (row->type == SETTING_BOOL && (row->dflt != 0) == (o->kind == SUB_OFF))
            print_line(out, v == row->dflt, "-o %s", o->name);
        return;
    case SUB_NUMBER:
    case SUB_OPTIONAL:
    case SUB_REAL:
        print_line(out, o->id == ID_temporary_ttl ? !s->temp_lru : v == row->dflt, "-o %s=%.12g",
                   o->name, v / scale);
        return;
    case SUB_BYTES:
        if (o->scale == 1)
            print_line(out, v == row->dflt, "-o %s=%.0f", o->name, v);
        else
            print_line(out, v == row->dflt, "-o %s=%.0fk", o->name, v / KiB);
        return;
    case SUB_WORD:
        print_line(out, v == row->dflt, "-o %s=%s", o->name, setting_words(o->id)[(unsigned)v]);
        return;
    case SUB_TEXT:
        if (SETTING_CONST_FIELD(s, row, char *) != NULL)
            print_line(out, false, "-o %s=%s", o->name, SETTING_CONST_FIELD(s, row, char *));
        return;
    case SUB_OWN:
        if (o->id == ID_hash_algorithm)
            print_line(out, strcmp(s->hash_algorithm, SETTINGS_HASH_DEFAULT) == 0, "-o %s=%s", o->name,
                       s->hash_algorithm);
        else if (row != NULL && row->type == SETTING_TEXT && SETTING_CONST_FIELD(s, row, char *) != NULL)
            print_line(out, false, "-o %s=%s", o->name, SETTING_CONST_FIELD(s, row, char *));
        else if (o->id == ID_ssl_keyformat)
            print_line(out, v == row->dflt, "-o %s=%.0f", o->name, v);
        else if (o->id == ID_ssl_verify_mode) /* 0, 1, 3, 7 for 0 to 3 */
            print_line(out, v == row->dflt, "-o %s=%d", o->name, __builtin_popcount((unsigned)v));
        else if (o->own == sub_no_lru_maintainer)
            print_line(out, s->lru_maintainer || s->lru_segmented, "-o %s", o->name);
        return;
    case SUB_DEAD:
        return;
    }
}

static void print_config(FILE *out, const struct settings *s)
{
    fprintf(out, "# extant %s: the settings in effect; what has its default is a comment\n",
            EXTANT_VERSION);
    for (size_t i = 0; i < ARRAY_COUNT(flags); i++) {
        if (flags[i].id >= 0 && why_no_flag(flags[i].letter) == NULL)
            print_flag_line(out, s, &flags[i]);
    }
    if (s->log_file != NULL)
        print_line(out, false, "logfile %s", s->log_file);
    for (uint32_t i = 0; i < s->ext_file_count; i++)
        print_line(out, false, "-o ext_path=%s:%" PRIu64 "m:%s", s->ext_files[i].path,
                   s->ext_files[i].bytes / MiB, settings_bucket_name(s->ext_files[i].bucket));
    for (uint32_t i = 0; i < s->ext_format_count; i++)
        print_line(out, false, "-o ext_format=%s", s->ext_formats[i]);
    if (s->slab_size_count > 0) {
        fputs("-o slab_sizes=", out);
        for (uint32_t i = 0; i < s->slab_size_count; i++)
            fprintf(out, "%s%u", i > 0 ? "-" : "", s->slab_sizes[i]);
        fputc('\n', out);
    }
    for (size_t i = 0; i < ARRAY_COUNT(suboptions); i++) {
        if (why_no_suboption(suboptions[i].name) == NULL)
            print_suboption_line(out, s, &suboptions[i]);
    }
}

/* All is right: what --check-config or --print-config say of it. */
static int finish(struct parser *p)
{
    settings_assert(p->s);
    if (p->prints)
        print_config(p->out, p->s);
    else if (p->checks)
        fprintf(p->out, "the configuration is valid\n");
    return p->checks || p->prints ? 0 : SETTINGS_GO_ON;
}

int settings_parse(struct settings *s, int argc, char **argv, FILE *out, FILE *err)
{
    struct parser p = {
        .s = s, .out = out, .err = err, .program = argc > 0 ? argv[0] : "extant"};
    int rc = settings_init(s);
    char **copy = calloc((size_t)argc + 1, sizeof(*copy)); /* getopt changes its order */
    int code = copy != NULL && rc == 0 ? SETTINGS_GO_ON : no_memory(&p);
    if (code == SETTINGS_GO_ON) {
        memcpy(copy, argv, (size_t)argc * sizeof(*copy));
        code = take_own_options(&p, &argc, copy);
    }
    if (code == SETTINGS_GO_ON)
        code = parse_flags(&p, argc, copy);
    if (code == SETTINGS_GO_ON)
        code = settings_check(&p);
    if (code == SETTINGS_GO_ON)
        code = finish(&p);
    free(p.slab_sizes);
    free(copy);
    return code;
}

int settings_check_root(const struct settings *s, bool is_root, FILE *err)
{
    if (!is_root || s->username != NULL)
        return SETTINGS_GO_ON;
    fprintf(err, "must add '-u root' to start as root, or -u USER to run as that user\n");
    return SETTINGS_EXIT_USAGE;
}
