/* net/status.c: see net/status.h. */
#include "net/status.h"

#include <event2/buffer.h>
#include <stdarg.h>

#include "base/clock.h"
#include "base/log.h"
#include "command/stats_report.h"
#include "net/metrics.h"
#include "operator/samples.h"

enum { MINUTE_MS = 60 * 1000 };

/* The page, from its file. */
__asm__(".section .rodata\n"
        ".global extant_status_page\n"
        ".global extant_status_page_end\n"
        "extant_status_page:\n"
        ".incbin \"net/status.html\"\n"
        "extant_status_page_end:\n"
        ".previous\n");
extern const char extant_status_page[], extant_status_page_end[];

void status_page(struct evbuffer *out)
{
    ASSERT(&extant_status_page_end[0] > &extant_status_page[0]);
    evbuffer_add_reference(out, extant_status_page,
                           (size_t)(extant_status_page_end - extant_status_page), NULL, NULL);
}

/* ---- what is kept ---- */

static uint64_t written_bytes(const struct command_env *env)
{
    struct ext_info v;
    if (!env->ext)
        return 0;
    ext_info(env->ext, &v);
    return v.device_bytes_written;
}

void status_tick(struct status_history *h, const struct command_env *env)
{
    lock_assert_none_held();
    uint64_t now = clock_mono_ms();
    if (now < h->next_ms)
        return;
    h->next_ms = now + MINUTE_MS;
    unsigned at = h->count++ % STATUS_MINUTES;
    h->minutes[at].at_ms = now;
    h->minutes[at].bytes = written_bytes(env);
    for (unsigned i = 0; i < env->thread_count; i++)
        if (env->thread_stats[i]->samples)
            samples_age(env->thread_stats[i]->samples);
}

/* Bytes a second, and over how many seconds that is known. */
static double write_rate(const struct status_history *h, uint64_t now_bytes, double *seconds)
{
    *seconds = 0;
    if (h->count == 0)
        return 0;
    unsigned oldest = h->count > STATUS_MINUTES ? h->count % STATUS_MINUTES : 0;
    DEBUG_ASSERT(clock_mono_ms() >= h->minutes[oldest].at_ms);
    *seconds = (double)(clock_mono_ms() - h->minutes[oldest].at_ms) / 1e3;
    uint64_t since = now_bytes - min_u64(now_bytes, h->minutes[oldest].bytes);
    return *seconds >= 1 ? (double)since / *seconds : 0;
}

/* ---- JSON ---- */

/* Printable ASCII is copied; all else was turned into \xNN before. */
static void put_text(struct evbuffer *out, const char *text)
{
    evbuffer_add(out, "\"", 1);
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            evbuffer_add_printf(out, "\\%c", c);
        else if (c < 0x20 || c >= 0x7f || c == '<')
            evbuffer_add_printf(out, "\\u%04x", c);
        else
            evbuffer_add(out, text, 1);
    }
    evbuffer_add(out, "\"", 1);
}

struct object {
    struct evbuffer *out;
    bool begun;
};

static void put_line(void *ctx, const char *name, const char *fmt, ...) PRINTF_LIKE(3, 4);

static void put_line(void *ctx, const char *name, const char *fmt, ...)
{
    struct object *o = ctx;
    char value[1400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(value, sizeof(value), fmt, ap);
    va_end(ap);
    evbuffer_add_printf(o->out, "%s\"%s\":", o->begun ? "," : "", name);
    put_text(o->out, value);
    o->begun = true;
}

static void put_latency(const struct command_env *env, struct evbuffer *out)
{
    const char *comma = "";
    evbuffer_add_printf(out, "\"bounds_us\":[");
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
        evbuffer_add_printf(out, "%s%.2f", i ? "," : "", (double)histogram_bound_ns(i) / 1e3);
    evbuffer_add_printf(out, "],\"latency\":[");
    for (unsigned tier = 0; tier < LATENCY_TIERS; tier++) {
        for (unsigned command = 0; command < LATENCY_COMMANDS; command++) {
            struct histogram_sum sum;
            report_latency(env, tier, command, &sum);
            if (sum.count == 0)
                continue;
            evbuffer_add_printf(out, "%s{\"tier\":\"%s\",\"command\":\"%s\",\"buckets\":[", comma,
                                latency_tier_name(tier), latency_command_name(command));
            for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
                evbuffer_add_printf(out, "%s%" PRIu64, i ? "," : "", sum.buckets[i]);
            evbuffer_add_printf(out, "]}");
            comma = ",";
        }
    }
    evbuffer_add_printf(out, "]");
}

/* Cells of one device: state, bucket, live percent, and version, which tells the age. */
static void put_cells(struct extstore *ext, unsigned device, uint64_t page_bytes, struct evbuffer *out)
{
    unsigned pages = ext_page_count(ext), total = 0, seen = 0, group_live = 0;
    struct ext_page_info v;
    for (unsigned page = 0; page < pages; page++) {
        ext_page_info(ext, page, &v);
        total += v.device == device;
    }
    unsigned group = (total + STATUS_CELLS - 1) / STATUS_CELLS;
    evbuffer_add_printf(out, "\"pages\":%u,\"pages_in_cell\":%u,\"cells\":[", total, group);
    for (unsigned page = 0; page < pages; page++) {
        ext_page_info(ext, page, &v);
        if (v.device != device)
            continue;
        group_live += (unsigned)(100 * v.bytes_used / page_bytes);
        seen++;
        if (seen % group != 0 && seen != total)
            continue;
        unsigned of = seen % group ? seen % group : group;
        DEBUG_ASSERT(of > 0 && of <= group && seen <= total);
        evbuffer_add_printf(out, "%s[%d,%d,%u,%u]", seen > group ? "," : "", v.state, v.bucket,
                            group_live / of, v.state == EXT_PAGE_FREE ? 0 : v.version);
        group_live = 0;
    }
    evbuffer_add_printf(out, "]");
}

static void put_devices(const struct command_env *env, struct evbuffer *out)
{
    DEBUG_ASSERT(env->settings->ext_page_size > 0);
    unsigned count = env->ext ? ext_device_count(env->ext) : 0;
    struct ext_device_info *d = malloc(sizeof(*d));
    char path[1024];
    evbuffer_add_printf(out, "\"devices\":[");
    for (unsigned i = 0; d && i < count; i++) {
        ext_device_info(env->ext, i, d);
        evbuffer_add_printf(out, "%s{\"path\":", i ? "," : "");
        put_text(out, log_key(path, sizeof(path), d->path, strlen(d->path)));
        evbuffer_add_printf(out,
                            ",\"bytes\":%" PRIu64 ",\"bytes_read\":%" PRIu64 ",\"bytes_written\":%" PRIu64
                            ",\"failed\":%s,\"read_p50_us\":%.1f,\"read_p99_us\":%.1f,\"write_p50_us\":%.1f,"
                            "\"write_p99_us\":%.1f,",
                            d->bytes, d->bytes_read, d->bytes_written, d->failed ? "true" : "false",
                            (double)histogram_quantile_ns(&d->reads, 0.5) / 1e3,
                            (double)histogram_quantile_ns(&d->reads, 0.99) / 1e3,
                            (double)histogram_quantile_ns(&d->writes, 0.5) / 1e3,
                            (double)histogram_quantile_ns(&d->writes, 0.99) / 1e3);
        put_cells(env->ext, i, env->settings->ext_page_size, out);
        evbuffer_add_printf(out, "}");
    }
    evbuffer_add_printf(out, "]");
    free(d);
}

static void put_table(const char *name, struct sample_table *t, struct evbuffer *out)
{
    char key[4 * SAMPLES_KEY_BYTES + 8];
    sample_table_sort(t);
    evbuffer_add_printf(out, "\"%s\":[", name);
    for (unsigned i = 0; i < t->count && i < STATUS_TOP && sample_weight(&t->entries[i]) > 0; i++) {
        const struct sample *e = &t->entries[i];
        DEBUG_ASSERT(e->bytes <= SAMPLES_KEY_BYTES && e->error <= e->count);
        evbuffer_add_printf(out, "%s{\"name\":", i ? "," : "");
        put_text(out, log_key(key, sizeof(key), e->key, e->bytes));
        evbuffer_add_printf(out, ",\"share\":%.5f}",
                            (double)sample_weight(e) / (double)max_u64(t->total, 1));
    }
    evbuffer_add_printf(out, "]");
}

static void put_samples(const struct command_env *env, struct evbuffer *out)
{
    struct sample_table *tables = calloc(2, sizeof(*tables));
    if (!tables)
        return;
    for (unsigned i = 0; i < env->thread_count; i++)
        if (env->thread_stats[i]->samples)
            samples_read(env->thread_stats[i]->samples, &tables[0], &tables[1]);
    evbuffer_add_printf(out, ",");
    put_table("keys", &tables[0], out);
    evbuffer_add_printf(out, ",");
    put_table("prefixes", &tables[1], out);
    free(tables);
}

struct conn_list_writer {
    struct evbuffer *out;
    int fd; /* of the open object; -1: none */
    unsigned count;
};

/* The lines of `stats conns`, four or fewer for each descriptor, become an object each. */
static void put_conn(void *ctx, int fd, const char *name, const char *text)
{
    DEBUG_ASSERT(fd >= 0);
    struct conn_list_writer *w = ctx;
    if (fd != w->fd) {
        if (w->count >= STATUS_CONNS) {
            w->count++;
            w->fd = fd;
            return;
        }
        evbuffer_add_printf(w->out, "%s{\"fd\":%d", w->fd < 0 ? "" : "},", fd);
        w->fd = fd;
        w->count++;
    }
    if (w->count > STATUS_CONNS)
        return;
    evbuffer_add_printf(w->out, ",\"%s\":", name);
    put_text(w->out, text);
}

static void put_conns(const struct command_env *env, struct evbuffer *out)
{
    struct conn_list_writer w = {.out = out, .fd = -1};
    evbuffer_add_printf(out, ",\"conns\":[");
    env->each_conn(env->upper, put_conn, &w);
    evbuffer_add_printf(out, "%s]", w.fd < 0 ? "" : "}");
}

void status_write(const struct command_env *env, const struct status_history *h, struct evbuffer *out)
{
    lock_assert_none_held();
    struct object general = {.out = out}, extant = {.out = out};
    double seconds, rate = write_rate(h, written_bytes(env), &seconds), amplification = 0;
    if (env->ext) {
        struct ext_info v;
        ext_info(env->ext, &v);
        amplification = metrics_write_amplification(&v);
    }
    evbuffer_add_printf(out, "{\"stats\":{");
    report_general(env, put_line, &general);
    evbuffer_add_printf(out, "},\"extant\":{");
    report_extant(env, put_line, &extant);
    evbuffer_add_printf(out,
                        "},\"write_bytes_per_sec\":%.1f,\"write_known_sec\":%.0f,"
                        "\"write_amplification\":%.3f,\"rated_writes\":%.3f,",
                        rate, seconds, amplification, env->settings->ext_rated_writes);
    put_latency(env, out);
    evbuffer_add_printf(out, ",");
    put_devices(env, out);
    put_samples(env, out);
    put_conns(env, out);
    evbuffer_add_printf(out, "}\n");
}
