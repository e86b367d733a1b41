/* operator/settings_check.c: see operator/settings_check.h. */
#include "operator/settings_check.h"

#include "operator/config_file.h"

/* How a listener's prefix changes TLS; the length of the prefix, 0: there is none. */
static size_t listen_tls(const char *text, enum settings_tls *tls)
{
    static const struct {
        const char *prefix;
        enum settings_tls tls;
    } words[] = {{"notls:", SETTINGS_TLS_NONE},
                 {"btls:", SETTINGS_TLS_NO_CLIENT_CERT},
                 {"mtls:", SETTINGS_TLS_CLIENT_CERT}};
    for (size_t i = 0; i < ARRAY_COUNT(words); i++) {
        if (strncmp(text, words[i].prefix, strlen(words[i].prefix)) == 0) {
            *tls = words[i].tls;
            return strlen(words[i].prefix);
        }
    }
    return 0;
}

/* Cuts prefixes off the front, and stores what they say of TLS. memcached's "proto[x]:" and "tag[y]:" are for its proxy. */
static char *take_listen_prefixes(char *text, struct settings_listen *to, bool *tls_given)
{
    for (;;) {
        char *end;
        size_t len = listen_tls(text, &to->tls);
        if (len > 0) {
            *tls_given = true;
            text += len;
        } else if ((strncmp(text, "tag[", 4) == 0 || strncmp(text, "proto[", 6) == 0) &&
                   (end = strstr(text, "]:")) != NULL) {
            text = end + 2;
        } else {
            return text;
        }
    }
}

/* One address: host, host:port, [ipv6], [ipv6]:port or a bare ipv6. */
static int take_address(struct parser *p, char *text)
{
    struct settings *s = p->s;
    if (s->listen_count == SETTINGS_LISTEN_MAX)
        return refuse(p, "more than %d addresses in -l", SETTINGS_LISTEN_MAX);
    DEBUG_ASSERT(s->listen_count < SETTINGS_LISTEN_MAX);
    struct settings_listen *to = &s->listen[s->listen_count];
    to->port = SETTINGS_PORT_DEFAULT;
    to->tls = s->ssl_enabled ? SETTINGS_TLS_DEFAULT : SETTINGS_TLS_NONE;
    bool tls_given = false;
    char *host = take_listen_prefixes(text, to, &tls_given), *colon;
    if (tls_given && !s->ssl_enabled)
        return refuse(p, "'%.*s' option is valid only when SSL is enabled (-Z)",
                      (int)strcspn(text, ":"), text);
    if (*host == '[') {
        char *end = strchr(host, ']');
        if (end == NULL || (end[1] != '\0' && end[1] != ':'))
            return refuse(p, "Invalid IPV6 address: \"%s\"", host);
        colon = end[1] == ':' ? end + 1 : NULL;
        *end = '\0';
        host++;
    } else {
        colon = strchr(host, ':');
        if (colon != NULL && strchr(colon + 1, ':') != NULL)
            colon = NULL; /* an ipv6 address without a port */
    }
    if (colon != NULL) {
        double v;
        *colon = '\0';
        if (!parse_whole(colon + 1, false, &v) || v > 65535)
            return refuse(p, "Invalid port number: \"%s\"", colon + 1);
        to->port = v == 0 ? SETTINGS_PORT_ANY : (int)v;
    } else if (*host == '\0') {
        return refuse(p, "-l \"%s\" has an empty address", s->inter);
    }
    if (strlen(host) >= sizeof(to->host))
        return refuse(p, "address too long: \"%s\"", host);
    strcpy(to->host, strcmp(host, "*") == 0 ? "" : host);
    s->listen_count++;
    return SETTINGS_GO_ON;
}

static int check_listen(struct parser *p)
{
    DEBUG_ASSERT(p->s->listen_count == 0);
    if (p->s->inter == NULL)
        return SETTINGS_GO_ON;
    char *copy = strdup(p->s->inter), *rest = copy, *part;
    if (copy == NULL)
        return no_memory(p);
    int code = SETTINGS_GO_ON;
    while (code == SETTINGS_GO_ON && (part = strsep(&rest, ",;")) != NULL) {
        part = config_trim(part);
        if (*part != '\0')
            code = take_address(p, part);
    }
    free(copy);
    if (code == SETTINGS_GO_ON && p->s->listen_count == 0)
        return refuse(p, "-l \"%s\" names no address", p->s->inter);
    return code;
}

static int check_sizes(struct parser *p)
{
    struct settings *s = p->s;
    if (s->item_size_max < setting_table[ID_item_size_max].min)
        return refuse(p, "Item max size cannot be less than 1024 bytes.");
    if (s->item_size_max > s->maxbytes / 2)
        return refuse(p,
                      "Cannot set item size limit higher than 1/2 of memory max. (-I %" PRIu64
                      " KB, -m %" PRIu64 " MB)",
                      (uint64_t)s->item_size_max / KiB, (uint64_t)s->maxbytes / MiB);
    if (s->item_size_max > GiB)
        return refuse(p, "Cannot set item size limit higher than a gigabyte.");
    if (s->item_size_max < s->slab_chunk_max)
        return refuse(p, "slab_chunk_max (bytes: %" PRIu64
                      ") cannot be larger than -I (item_size_max %" PRIu64 ")",
                      s->slab_chunk_max, s->item_size_max);
    if (s->item_size_max % s->slab_chunk_max != 0)
        return refuse(p, "-I (item_size_max: %" PRIu64
                      ") must be evenly divisible by slab_chunk_max (bytes: %" PRIu64 ")",
                      s->item_size_max, s->slab_chunk_max);
    if (SETTINGS_SLAB_PAGE_BYTES % s->slab_chunk_max != 0)
        return refuse(p, "slab_chunk_max (bytes: %" PRIu64 ") must divide evenly into %" PRIu64
                      " (slab_page_size)",
                      s->slab_chunk_max, SETTINGS_SLAB_PAGE_BYTES);
    if (s->hot_lru_pct + s->warm_lru_pct > 80)
        return refuse(p, "hot_lru_pct + warm_lru_pct cannot be more than 80%% combined");
    return SETTINGS_GO_ON;
}

static int check_slab_sizes(struct parser *p)
{
    DEBUG_ASSERT(p->s->slab_size_count == 0);
    struct settings *s = p->s;
    char *rest = p->slab_sizes, *part;
    double last = 0, size;
    while (rest != NULL && (part = strsep(&rest, "-")) != NULL) {
        if (!parse_whole(part, false, &size))
            return refuse(p, "slab size %s is out of valid range", part);
        if (size < s->chunk_size || size > (double)s->slab_chunk_max)
            return refuse(p, "slab size %.0f is out of valid range", size);
        if (size <= last)
            return refuse(p, "slab size %.0f cannot be lower than or equal to a previous class size",
                          size);
        if (last > 0 && size <= last + 8)
            return refuse(p, "slab size %.0f must be at least 8 bytes larger than previous class",
                          size);
        if (s->slab_size_count == SETTINGS_SLAB_SIZES_MAX)
            return refuse(p, "too many slab classes specified");
        s->slab_sizes[s->slab_size_count++] = (uint32_t)size;
        last = size;
    }
    return SETTINGS_GO_ON;
}

/* Do two paths lead to one file? If both exist, links are followed. */
static bool is_same_file(const char *a, const char *b)
{
    char *real_a = realpath(a, NULL), *real_b = realpath(b, NULL);
    bool same = strcmp(a, b) == 0 ||
                (real_a != NULL && real_b != NULL && strcmp(real_a, real_b) == 0);
    free(real_a);
    free(real_b);
    return same;
}

struct size_text {
    char text[32];
};

/* In the largest unit that is exact. */
static struct size_text size_text(uint64_t bytes)
{
    struct size_text t;
    bool whole = bytes % MiB == 0;
    snprintf(t.text, sizeof(t.text), "%" PRIu64 " %s", bytes / (whole ? MiB : KiB), whole ? "MB" : "KB");
    return t;
}

/* memcached's sizes, and smaller ones for small files. */
static bool is_unit_size(uint64_t bytes)
{
    return bytes % (bytes < SETTINGS_EXT_UNIT_BYTES ? SETTINGS_EXT_SMALL_UNIT_BYTES
                                                    : SETTINGS_EXT_UNIT_BYTES) == 0;
}

/* Pages of files of class default, which the engine needs a few of. */
static uint64_t default_page_count(const struct settings *s, uint64_t page_size)
{
    DEBUG_ASSERT(page_size > 0);
    uint64_t count = 0;
    for (uint32_t i = 0; i < s->ext_file_count; i++)
        if (s->ext_files[i].bucket == SETTINGS_BUCKET_DEFAULT)
            count += s->ext_files[i].bytes / page_size;
    return count;
}

/* Files that are not large would have few pages of the default size. So pages get smaller, unless their size was given,
 * until there are SETTINGS_EXT_PAGES_WISH, or two write buffers in each. Small files would still have very few; memcached
 * accepts them, so pages get smaller yet, and if they are too few then, write buffers too. */
static void shrink_pages(struct parser *p)
{
    struct settings *s = p->s;
    DEBUG_ASSERT(s->ext_wbuf_size > 0 && s->ext_file_count > 0);
    while (!p->is_set[ID_ext_page_size]) {
        bool too_few = default_page_count(s, s->ext_page_size) < SETTINGS_EXT_PAGES_MIN;
        uint64_t half = s->ext_page_size / 2;
        uint64_t wish = half >= 2 * s->ext_wbuf_size ? SETTINGS_EXT_PAGES_WISH : SETTINGS_EXT_PAGES_FEW;
        if (!too_few && settings_ext_page_count(s) >= wish)
            break;
        if (too_few && !p->is_set[ID_ext_wbuf_size] && half < s->ext_wbuf_size && half > s->item_size_max && is_unit_size(half))
            s->ext_wbuf_size = half;
        if (half % s->ext_wbuf_size != 0 || !is_unit_size(half))
            break;
        s->ext_page_size = half;
    }
}

/* A write buffer has to hold the largest item. Unless its size was given, it is small, so that there are many, if two
 * such items have room in it; else it becomes as large as -I requires: the next power of two, and the page with it; or,
 * if the page size was given, the next size that divides it. */
static void grow_wbuf(struct parser *p)
{
    struct settings *s = p->s;
    if (p->is_set[ID_ext_wbuf_size] || s->item_size_max <= SETTINGS_EXT_WBUF_SMALL_BYTES / 2)
        return;
    uint64_t bytes = SETTINGS_EXT_WBUF_BYTES, step = 0;
    s->ext_wbuf_size = bytes;
    if (s->item_size_max <= bytes)
        return;
    if (p->is_set[ID_ext_page_size])
        step = s->ext_page_size < SETTINGS_EXT_UNIT_BYTES ? SETTINGS_EXT_SMALL_UNIT_BYTES
                                                          : SETTINGS_EXT_UNIT_BYTES;
    while (bytes < s->item_size_max ||
           (step != 0 && bytes < s->ext_page_size && s->ext_page_size % bytes != 0))
        bytes = step != 0 ? bytes + step : 2 * bytes;
    DEBUG_ASSERT(bytes >= s->item_size_max);
    s->ext_wbuf_size = bytes;
    if (!p->is_set[ID_ext_page_size])
        s->ext_page_size = max_u64(s->ext_page_size, bytes);
}

/* More write buffers, for groups of values that expire together: one for each, but no more than 1/32 of -m. */
static uint64_t spare_buffers(const struct settings *s)
{
    uint64_t groups = min_u64(s->ext_ttl_groups, 16);
    return min_u64(groups, s->maxbytes / 32 / s->ext_wbuf_size);
}

/* Eight write buffers. Where their size was left open, which makes them small so that they are many, 32 MB; but not much
 * more than half of a small flash. */
static uint64_t default_buffer_mem(const struct settings *s)
{
    uint64_t flash = settings_ext_page_count(s) * s->ext_page_size, buffers = 8;
    if (!s->ext_given.wbuf_size)
        buffers = max_u64(buffers, min_u64(SETTINGS_EXT_BUFFER_MEM, flash / 2) / s->ext_wbuf_size);
    return (buffers + spare_buffers(s)) * s->ext_wbuf_size;
}

/* What follows from the sizes of pages and write buffers, unless it was given. */
static void derive_from_sizes(struct settings *s)
{
    uint64_t pages = settings_ext_page_count(s), under = max_u64(pages / 100, 1);
    if (!s->ext_given.compact_under)
        s->ext_compact_under = (uint32_t)under;
    if (!s->ext_given.drop_under)
        s->ext_drop_under = (uint32_t)under;
    if (!s->ext_given.buffer_mem)
        s->ext_buffer_mem = default_buffer_mem(s);
}

/* Why these sizes can't be used with the other settings, or NULL. */
static const char *sizes_misfit(const struct settings *s, uint64_t page, uint64_t wbuf)
{
    if (!setting_in_range(&setting_table[ID_ext_page_size], (double)page) ||
        !setting_in_range(&setting_table[ID_ext_wbuf_size], (double)wbuf) || page % wbuf != 0 || !is_unit_size(page) ||
        !is_unit_size(wbuf))
        return "they make no sense";
    if (s->item_size_max > wbuf)
        return "items of -I need larger write buffers";
    if (s->ext_given.buffer_mem && s->ext_buffer_mem < SETTINGS_EXT_BUFFERS_MIN * wbuf)
        return "ext_buffer_mem has no room for such write buffers";
    uint64_t pages = 0;
    bool fits = default_page_count(s, page) >= SETTINGS_EXT_PAGES_MIN;
    for (uint32_t i = 0; i < s->ext_file_count; i++) {
        pages += s->ext_files[i].bytes / page;
        fits &= s->ext_files[i].bytes >= page;
    }
    return !fits ? "there would be too few pages" : pages > SETTINGS_EXT_PAGES_MAX ? "there would be too many pages" : NULL;
}

bool settings_keep_sizes(struct settings *s, uint64_t page, uint64_t wbuf, char *line, size_t n)
{
    DEBUG_ASSERT(n > 0 && s->ext_file_count > 0);
    line[0] = '\0';
    if ((page == s->ext_page_size && wbuf == s->ext_wbuf_size) ||
        (s->ext_given.page_size && page != s->ext_page_size) || (s->ext_given.wbuf_size && wbuf != s->ext_wbuf_size))
        return false;
    struct size_text pages = size_text(page), wbufs = size_text(wbuf);
    const char *why = sizes_misfit(s, page, wbuf);
    if (why != NULL) {
        snprintf(line, n, "flash: pages of %s and write buffers of %s, which its content was made with, can't stay: %s",
                 pages.text, wbufs.text, why);
        return false;
    }
    struct size_text page_now = size_text(s->ext_page_size), wbuf_now = size_text(s->ext_wbuf_size);
    snprintf(line, n, "flash: pages of %s and write buffers of %s stay as its content was made with them; the defaults are %s "
             "and %s now (ext_page_size and ext_wbuf_size would change them, and empty flash)",
             pages.text, wbufs.text, page_now.text, wbuf_now.text);
    s->ext_page_size = page;
    s->ext_wbuf_size = wbuf;
    derive_from_sizes(s);
    settings_assert(s);
    return true;
}

/* Each ext_format names the file of an ext_path or of -e, spelt as there. */
static int check_formats(struct parser *p)
{
    DEBUG_ASSERT(p->s->ext_format_count <= SETTINGS_EXT_FILES_MAX);
    struct settings *s = p->s;
    for (uint32_t i = 0; i < s->ext_format_count; i++) {
        bool found = s->memory_file != NULL && strcmp(s->ext_formats[i], s->memory_file) == 0;
        s->format_memory_file |= found;
        for (uint32_t k = 0; k < s->ext_file_count; k++) {
            bool same = strcmp(s->ext_formats[i], s->ext_files[k].path) == 0;
            s->ext_files[k].format |= same;
            found |= same;
        }
        if (!found)
            return refuse(p, "ext_format names %s, which no ext_path and no -e does", s->ext_formats[i]);
    }
    return SETTINGS_GO_ON;
}

static int check_flash(struct parser *p)
{
    struct settings *s = p->s;
    static const char failed[] = "Failed to initialize external storage:";
    if (s->ext_file_count == 0 && s->ext_persist != SETTINGS_PERSIST_OFF)
        return refuse(p, "ext_persist needs flash (-o ext_path=FILE:SIZE)");
    int code = check_formats(p);
    if (code != SETTINGS_GO_ON)
        return code;
    if (s->ext_file_count == 0 && p->ext_word != NULL)
        fprintf(p->err, "WARNING: %s has no effect without flash (-o ext_path=FILE:SIZE)\n", p->ext_word);
    if (s->ext_file_count == 0)
        return SETTINGS_GO_ON;
    if (s->udpport != 0)
        return refuse(p, "Cannot use UDP with extstore enabled (-U 0 to disable)");
    if (s->maxbytes < SETTINGS_EXT_MEMORY_MIN)
        return refuse(p, "-m must be at least %" PRIu64 " with flash: less leaves no memory for its index",
                      SETTINGS_EXT_MEMORY_MIN / MiB);
    grow_wbuf(p);
    if (s->item_size_max > s->ext_wbuf_size)
        return refuse(p, "-I (item_size_max: %" PRIu64
                      ") cannot be larger than ext_wbuf_size: %" PRIu64,
                      s->item_size_max, s->ext_wbuf_size);
    shrink_pages(p);
    struct size_text page = size_text(s->ext_page_size), wbuf = size_text(s->ext_wbuf_size);
    if (s->ext_page_size % s->ext_wbuf_size != 0)
        return refuse(p, "%s page_size must be divisible by wbuf_size (ext_page_size is %s, ext_wbuf_size %s)", failed,
                      page.text, wbuf.text);
    if (!is_unit_size(s->ext_page_size) || !is_unit_size(s->ext_wbuf_size))
        return refuse(p, "%s page_size and wbuf_size must be divisible by 1024*1024*2%s (ext_page_size is %s, "
                      "ext_wbuf_size %s)", failed,
                      min_u64(s->ext_page_size, s->ext_wbuf_size) < SETTINGS_EXT_UNIT_BYTES
                          ? ", or below that by 1024*64"
                          : "", page.text, wbuf.text);
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < s->ext_file_count; i++) {
        for (uint32_t k = 0; k < i; k++) {
            if (is_same_file(s->ext_files[i].path, s->ext_files[k].path))
                return refuse(p, "ext_path names the file %s twice", s->ext_files[i].path);
        }
        if (s->ext_files[i].bytes < s->ext_page_size)
            return refuse(p, "ext_path %s is smaller than one page (ext_page_size, %s)", s->ext_files[i].path,
                          page.text);
        bytes += s->ext_files[i].bytes;
    }
    uint64_t pages = settings_ext_page_count(s);
    if (default_page_count(s, s->ext_page_size) < SETTINGS_EXT_PAGES_MIN)
        return refuse(p, "ext_path needs room for at least %u pages of bucket default; a page has %s here "
                         "(ext_page_size): enlarge the files or make pages smaller",
                      SETTINGS_EXT_PAGES_MIN, page.text);
    if (pages > SETTINGS_EXT_PAGES_MAX)
        return refuse(p, "%s page_count must total to < 65536. Increase page_size or lower path sizes "
                      "(ext_path adds up to %" PRIu64 " pages of %s)", failed, pages, page.text);
    if (bytes > SETTINGS_EXT_BYTES_MAX)
        return refuse(p, "ext_path sizes add up to more than 16 TB");
    s->ext_given.page_size = p->is_set[ID_ext_page_size];
    s->ext_given.wbuf_size = p->is_set[ID_ext_wbuf_size];
    s->ext_given.buffer_mem = s->ext_buffer_mem != 0;
    s->ext_given.compact_under = p->is_set[ID_ext_compact_under];
    s->ext_given.drop_under = p->is_set[ID_ext_drop_under];
    derive_from_sizes(s);
    if (s->ext_buffer_mem < SETTINGS_EXT_BUFFERS_MIN * s->ext_wbuf_size)
        return refuse(p, "ext_buffer_mem must be at least %" PRIu64 ": %u write buffers of %s (ext_wbuf_size)",
                      (SETTINGS_EXT_BUFFERS_MIN * s->ext_wbuf_size + MiB - 1) / MiB, SETTINGS_EXT_BUFFERS_MIN,
                      wbuf.text);
    return SETTINGS_GO_ON;
}

static int check_tls(struct parser *p)
{
    struct settings *s = p->s;
    DEBUG_ASSERT(s->ssl_min_version <= 3 && s->ssl_max_version <= 3);
    if (s->ssl_enabled && s->ssl_chain_cert == NULL)
        return refuse(p, "-Z needs a certificate: -o ssl_chain_cert=FILE");
    if (s->ssl_min_version > s->ssl_max_version)
        return refuse(p, "ssl_min_version cannot be larger than ssl_max_version");
    if (!s->ssl_enabled && (s->ssl_chain_cert != NULL || s->ssl_key != NULL))
        fprintf(p->err, "WARNING: a certificate without -Z: connections are not encrypted\n");
    return SETTINGS_GO_ON;
}

/* -S without -Y: memcached's builds that have a password file of their own read its name from the environment. */
static int take_sasl_users(struct parser *p)
{
    DEBUG_ASSERT(p->s->auth_sasl && p->s->auth_file == NULL);
    const char *file = getenv("MEMCACHED_SASL_PWDB");
    if (file == NULL || *file == '\0')
        return refuse(p, "-S needs a file of user:password lines: -Y <file>, or its name in MEMCACHED_SASL_PWDB");
    return take_text(p, ID_auth_file, file);
}

/* Log-in fixes the protocol: binary with -S, text with -Y alone. */
static int check_log_in(struct parser *p)
{
    struct settings *s = p->s;
    if (s->auth_sasl) {
        int rc = s->auth_file == NULL ? take_sasl_users(p) : SETTINGS_GO_ON;
        if (rc != SETTINGS_GO_ON)
            return rc;
        if (s->udpport != 0)
            return refuse(p, "Cannot enable UDP while using binary SASL authentication.");
        if (p->is_set[ID_binding_protocol] && s->binding_protocol != SETTINGS_PROTOCOL_BINARY)
            return refuse(p, "You cannot allow the ASCII protocol while using SASL.");
        s->binding_protocol = SETTINGS_PROTOCOL_BINARY;
        s->auth_ascii = false;
    } else if (s->auth_file != NULL) {
        if (s->udpport != 0)
            return refuse(p, "Cannot use UDP with ascii authentication enabled (-U 0 to disable)");
        if (p->is_set[ID_binding_protocol] && s->binding_protocol != SETTINGS_PROTOCOL_ASCII)
            return refuse(p, "You cannot allow the BINARY protocol while using ascii authentication tokens.");
        s->binding_protocol = SETTINGS_PROTOCOL_ASCII;
    }
    return SETTINGS_GO_ON;
}

static int check_threads(struct parser *p)
{
    struct settings *s = p->s;
    if (s->num_napi_ids <= s->num_threads)
        return SETTINGS_GO_ON;
    return refuse(p, "Number of napi_ids(%u) cannot be greater than number of threads(%u)",
                  (unsigned)s->num_napi_ids, (unsigned)s->num_threads);
}

int settings_check(struct parser *p)
{
    static int (*const checks[])(struct parser *) = {
        check_log_in, check_threads, check_sizes, check_slab_sizes, check_flash, check_tls, check_listen,
    };
    struct settings *s = p->s;
    if (p->is_set[ID_udpport] && s->udpport != 0 && !p->is_set[ID_port])
        s->port = (int32_t)s->udpport;
    s->num_threads_per_udp = (uint32_t)s->num_threads;
    int code = SETTINGS_GO_ON;
    for (size_t i = 0; i < ARRAY_COUNT(checks) && code == SETTINGS_GO_ON; i++)
        code = checks[i](p);
    if (code == SETTINGS_GO_ON && s->num_threads > 64)
        fprintf(p->err, "WARNING: Setting a high number of worker threads is not recommended.\n"
                        " Set this value to the number of cores in your machine or less.\n");
    return code;
}

void settings_assert(const struct settings *s)
{
    ASSERT(s->maxbytes / 2 >= s->item_size_max && s->item_size_max % s->slab_chunk_max == 0);
    ASSERT(SETTINGS_SLAB_PAGE_BYTES % s->slab_chunk_max == 0);
    ASSERT(s->hot_lru_pct + s->warm_lru_pct <= 80);
    ASSERT(s->slab_size_count <= SETTINGS_SLAB_SIZES_MAX && s->listen_count <= SETTINGS_LISTEN_MAX);
    ASSERT(s->num_napi_ids <= s->num_threads);
    ASSERT(!s->auth_sasl || (s->auth_file && s->binding_protocol == SETTINGS_PROTOCOL_BINARY));
    ASSERT(!s->auth_ascii || (s->auth_file && s->binding_protocol == SETTINGS_PROTOCOL_ASCII));
    ASSERT(!s->ssl_enabled || s->ssl_chain_cert);
    ASSERT(s->ssl_min_version <= s->ssl_max_version);
    for (uint32_t i = 0; i < s->listen_count; i++)
        ASSERT(s->ssl_enabled || s->listen[i].tls == SETTINGS_TLS_NONE);
    if (s->ext_file_count == 0)
        return;
    ASSERT(s->ext_file_count <= SETTINGS_EXT_FILES_MAX && s->udpport == 0 && s->maxbytes >= SETTINGS_EXT_MEMORY_MIN);
    ASSERT(s->ext_page_size % s->ext_wbuf_size == 0 && s->item_size_max <= s->ext_wbuf_size);
    ASSERT(s->ext_buffer_mem >= 4 * s->ext_wbuf_size);
    ASSERT(settings_ext_page_count(s) <= SETTINGS_EXT_PAGES_MAX);
}
