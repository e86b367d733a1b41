/* net/metrics.c: see net/metrics.h. A table renames the lines of `stats`; figures with labels come from their
 * modules. */
#include "net/metrics.h"

#include <event2/buffer.h>
#include <stdarg.h>

#include "command/stats_report.h"
#include "items/lru.h"
#include "net/lines.h"

/* ---- memcached_exporter's names ---- */

/* Rows of one metric stand together. kind, line of stats or of stats settings, metric, labels, help */
#define EXPORTED_TABLE(X)                                                                          \
    X(gauge, uptime, "uptime_seconds", "", "Seconds since the server started.")                    \
    X(gauge, time, "time_seconds", "", "Time by the server's clock.")                              \
    X(counter, rusage_user, "process_user_cpu_seconds_total", "", "CPU time in user mode.")        \
    X(counter, rusage_system, "process_system_cpu_seconds_total", "", "CPU time in the kernel.")   \
    X(counter, bytes_read, "read_bytes_total", "", "Bytes received from clients.")                 \
    X(counter, bytes_written, "written_bytes_total", "", "Bytes sent to clients.")                 \
    X(gauge, curr_connections, "current_connections", "", "Open connections.")                     \
    X(gauge, max_connections, "max_connections", "", "Limit of connections.")                      \
    X(counter, total_connections, "connections_total", "", "Connections opened.")                  \
    X(counter, rejected_connections, "connections_rejected_total", "",                             \
      "Connections refused because of the limit.")                                                 \
    X(counter, conn_yields, "connections_yielded_total", "",                                       \
      "Times a connection had used up its turn.")                                                  \
    X(counter, listen_disabled_num, "connections_listener_disabled_total", "",                     \
      "Times that nobody was accepted because of the limit.")                                      \
    X(gauge, accepting_conns, "accepting_connections", "", "1 while connections are accepted.")    \
    X(gauge, bytes, "current_bytes", "", "Bytes of items, in RAM and on flash.")                   \
    X(gauge, limit_maxbytes, "limit_bytes", "", "Limit of RAM for items and index.")               \
    X(counter, get_hits, "commands_total", "command=\"get\",status=\"hit\"",                       \
      "Commands by name and outcome.")                                                             \
    X(counter, get_misses, "commands_total", "command=\"get\",status=\"miss\"", "")                \
    X(counter, delete_hits, "commands_total", "command=\"delete\",status=\"hit\"", "")             \
    X(counter, delete_misses, "commands_total", "command=\"delete\",status=\"miss\"", "")          \
    X(counter, incr_hits, "commands_total", "command=\"incr\",status=\"hit\"", "")                 \
    X(counter, incr_misses, "commands_total", "command=\"incr\",status=\"miss\"", "")              \
    X(counter, decr_hits, "commands_total", "command=\"decr\",status=\"hit\"", "")                 \
    X(counter, decr_misses, "commands_total", "command=\"decr\",status=\"miss\"", "")              \
    X(counter, cas_hits, "commands_total", "command=\"cas\",status=\"hit\"", "")                   \
    X(counter, cas_misses, "commands_total", "command=\"cas\",status=\"miss\"", "")                \
    X(counter, cas_badval, "commands_total", "command=\"cas\",status=\"badval\"", "")              \
    X(counter, touch_hits, "commands_total", "command=\"touch\",status=\"hit\"", "")               \
    X(counter, touch_misses, "commands_total", "command=\"touch\",status=\"miss\"", "")            \
    X(counter, cmd_flush, "commands_total", "command=\"flush\",status=\"hit\"", "")                \
    X(counter, set_hits, "commands_total", "command=\"set\",status=\"hit\"", "")                   \
    X(gauge, curr_items, "current_items", "", "Items, in RAM and on flash.")                       \
    X(counter, total_items, "items_total", "", "Items stored.")                                    \
    X(counter, evictions, "items_evicted_total", "", "Items evicted from RAM and not to flash.")   \
    X(counter, reclaimed, "items_reclaimed_total", "", "Times an expired item gave its memory.")   \
    X(counter, direct_reclaims, "direct_reclaims_total", "",                                       \
      "Times that a worker had to make room itself.")                                              \
    X(counter, store_too_large, "item_too_large_total", "", "Values larger than the limit.")       \
    X(counter, store_no_memory, "item_no_memory_total", "", "Values that found no memory.")        \
    X(gauge, total_malloced, "malloced_bytes", "", "Memory in slab pages.")                        \
    X(gauge, lru_crawler, "lru_crawler_enabled", "", "1 while the crawler is on.")                 \
    X(gauge, lru_crawler_sleep, "lru_crawler_sleep", "", "Microseconds between items.")            \
    X(gauge, lru_crawler_tocrawl, "lru_crawler_to_crawl", "", "Items of a run and class.")         \
    X(gauge, lru_maintainer_thread, "lru_crawler_maintainer_thread", "",                           \
      "1 while the LRU is kept in segments.")                                                      \
    X(gauge, hot_lru_pct, "lru_crawler_hot_percent", "", "Share of a class for HOT.")              \
    X(gauge, warm_lru_pct, "lru_crawler_warm_percent", "", "Share of a class for WARM.")           \
    X(gauge, hot_max_factor, "lru_crawler_hot_max_factor", "", "Idle time that leaves HOT.")       \
    X(gauge, warm_max_factor, "lru_crawler_warm_max_factor", "", "Idle time that leaves WARM.")    \
    X(counter, lru_crawler_starts, "lru_crawler_starts_total", "", "Crawls started.")              \
    X(counter, crawler_reclaimed, "lru_crawler_reclaimed_total", "", "Items that it freed.")       \
    X(counter, crawler_items_checked, "lru_crawler_items_checked_total", "", "Items looked at.")   \
    X(counter, moves_to_cold, "lru_crawler_moves_to_cold_total", "", "Items moved to COLD.")       \
    X(counter, moves_to_warm, "lru_crawler_moves_to_warm_total", "", "Items moved to WARM.")       \
    X(counter, moves_within_lru, "lru_crawler_moves_within_lru_total", "",                         \
      "Items moved within HOT or WARM.")                                                           \
    X(counter, extstore_compact_lost, "extstore_compact_lost_total", "",                           \
      "Live objects that reclaim could not read.")                                                 \
    X(counter, extstore_compact_rescues, "extstore_compact_rescued_total", "",                     \
      "Objects that reclaim wrote again.")                                                         \
    X(counter, extstore_compact_skipped, "extstore_compact_skipped_total", "",                     \
      "Unread objects that reclaim dropped.")                                                      \
    X(counter, extstore_page_allocs, "extstore_pages_allocated_total", "", "Pages opened.")        \
    X(counter, extstore_page_evictions, "extstore_pages_evicted_total", "",                        \
      "Pages given up with live objects.")                                                         \
    X(counter, extstore_page_reclaims, "extstore_pages_reclaimed_total", "", "Pages freed.")       \
    X(gauge, extstore_pages_free, "extstore_pages_free", "", "Pages without objects.")             \
    X(gauge, extstore_pages_used, "extstore_pages_used", "", "Pages with objects.")                \
    X(counter, extstore_objects_evicted, "extstore_objects_evicted_total", "",                     \
      "Objects given up to make room on flash.")                                                   \
    X(counter, extstore_objects_read, "extstore_objects_read_total", "", "Objects read.")          \
    X(counter, extstore_objects_written, "extstore_objects_written_total", "", "Objects written.") \
    X(gauge, extstore_objects_used, "extstore_objects_used", "", "Objects on flash.")              \
    X(counter, extstore_bytes_evicted, "extstore_bytes_evicted_total", "",                         \
      "Bytes of objects given up to make room on flash.")                                          \
    X(counter, extstore_bytes_written, "extstore_bytes_written_total", "", "Bytes of objects written.") \
    X(counter, extstore_bytes_read, "extstore_bytes_read_total", "", "Bytes of objects read.")     \
    X(gauge, extstore_bytes_used, "extstore_bytes_used", "", "Bytes of objects on flash.")         \
    X(gauge, extstore_bytes_fragmented, "extstore_bytes_fragmented", "",                           \
      "Bytes of pages in use that hold no object.")                                                \
    X(gauge, extstore_limit_maxbytes, "extstore_bytes_limit", "", "Bytes of flash.")               \
    X(gauge, extstore_io_queue, "extstore_io_queue_depth", "", "Requests that wait for I/O threads.")

static void describe(struct evbuffer *out, const char *name, const char *kind, const char *help)
{
    DEBUG_ASSERT(*name && *kind);
    evbuffer_add_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind);
}

static const char *as_number(const char *value)
{
    if (strcmp(value, "yes") == 0 || strcmp(value, "on") == 0)
        return "1";
    return strcmp(value, "no") == 0 || strcmp(value, "off") == 0 ? "0" : value;
}

/* memcached counts cas in cmd_set, the exporter does not. */
static void add_derived(struct lines *l)
{
    static const char *const cas[] = {"cas_hits", "cas_misses", "cas_badval"};
    uint64_t sets = strtoull(lines_get(l, "cmd_set"), NULL, 10);
    for (size_t i = 0; i < ARRAY_COUNT(cas); i++)
        sets -= min_u64(sets, strtoull(lines_get(l, cas[i]), NULL, 10));
    lines_emit(l, "set_hits", "%" PRIu64, sets);
}

static void write_exported(const struct lines *l, struct evbuffer *out)
{
    static const struct {
        const char *kind, *line, *metric, *labels, *help;
    } rows[] = {
#define X(kind, line, metric, labels, help) {#kind, #line, "memcached_" metric, labels, help},
        EXPORTED_TABLE(X)
#undef X
    };
    const char *last = "";
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        const char *value = lines_get(l, rows[i].line);
        if (*value == '\0')
            continue;
        if (strcmp(rows[i].metric, last) != 0)
            describe(out, rows[i].metric, rows[i].kind, rows[i].help);
        last = rows[i].metric;
        bool bare = rows[i].labels[0] == '\0';
        evbuffer_add_printf(out, "%s%s%s%s %s\n", rows[i].metric, bare ? "" : "{", rows[i].labels,
                            bare ? "" : "}", as_number(value));
    }
}

/* ---- slab classes, as memcached_exporter shows them ---- */

struct class_figures {
    unsigned cls;
    struct cache_class_stats items;
    struct slab_class_info slab;
};

static_assert(SLAB_CLASS_MAX <= STATS_CLASS_COUNT, "threads count for every class");

/* kind, metric, value of `k`, help. Moves are counters, but memcached_exporter leaves out the _total of such. */
#define CLASS_TABLE(X)                                                                             \
    X(gauge, current_items, k->items.number, "Items in RAM of this class.")                        \
    X(gauge, items_age_seconds, k->items.age, "Age of the oldest item.")                           \
    X(counter, items_crawler_reclaimed_total, k->items.crawler_reclaimed, "Freed by the crawler.") \
    X(counter, items_evicted_total, k->items.evicted, "Evicted.")                                  \
    X(counter, items_evicted_nonzero_total, k->items.evicted_nonzero, "Evicted that had a TTL.")   \
    X(gauge, items_evicted_time_seconds, k->items.evicted_time, "Idle time of the last evicted.")  \
    X(counter, items_evicted_unfetched_total, k->items.evicted_unfetched, "Evicted unread.")       \
    X(counter, items_expired_unfetched_total, k->items.expired_unfetched, "Expired unread.")       \
    X(counter, items_outofmemory_total, k->items.outofmemory, "Stores that found no memory.")      \
    X(counter, items_reclaimed_total, k->items.reclaimed, "Expired items that gave their memory.") \
    X(counter, items_tailrepairs_total, k->items.tailrepairs, "Items freed that had leaked.")      \
    X(gauge, items_moves_to_cold, k->items.moves_to_cold, "Moved from HOT or WARM to COLD.")     \
    X(gauge, items_moves_to_warm, k->items.moves_to_warm, "Moved from COLD to WARM.")            \
    X(gauge, items_moves_within_lru, k->items.moves_within_lru, "Moved within HOT or WARM.")     \
    X(gauge, hot_items, k->items.number_hot, "Items in HOT.")                                      \
    X(gauge, warm_items, k->items.number_warm, "Items in WARM.")                                   \
    X(gauge, cold_items, k->items.number_cold, "Items in COLD.")                                   \
    X(gauge, temporary_items, k->items.number_temp, "Items in TEMP.")                              \
    X(gauge, hot_age_seconds, k->items.age_hot, "Age of the oldest item in HOT.")                  \
    X(gauge, warm_age_seconds, k->items.age_warm, "Age of the oldest item in WARM.")               \
    X(gauge, mem_requested_bytes, k->items.mem_requested, "Bytes of the items of this class.")     \
    X(gauge, chunk_size_bytes, k->slab.chunk_bytes, "Bytes of a chunk.")                           \
    X(gauge, chunks_per_page, k->slab.chunks_per_page, "Chunks of a page.")                        \
    X(gauge, current_pages, k->slab.total_pages, "Pages of this class.")                           \
    X(gauge, current_chunks, k->slab.total_chunks, "Chunks of this class.")                        \
    X(gauge, chunks_used, k->slab.used_chunks, "Chunks that hold an item.")                        \
    X(gauge, chunks_free, k->slab.free_chunks, "Chunks that hold none.")                           \
    X(gauge, chunks_free_end, k->slab.free_chunks_end, "Chunks of a page never used yet.")

static unsigned read_classes(const struct command_env *env, struct class_figures *out)
{
    unsigned n = 0;
    for (unsigned cls = 1; cls <= slab_class_count(env->slab) && n < SLAB_CLASS_MAX; cls++) {
        slab_info(env->slab, cls, &out[n].slab);
        if (out[n].slab.total_pages == 0)
            continue;
        report_class(env, cls, &out[n].items);
        out[n++].cls = cls;
    }
    return n;
}

/* command, status, how `stats slabs` counts it */
#define CLASS_COMMAND_TABLE(X)                                                                     \
    X(delete, hit, counts[CSTAT_delete_hits])                                                      \
    X(incr, hit, counts[CSTAT_incr_hits])                                                          \
    X(decr, hit, counts[CSTAT_decr_hits])                                                          \
    X(cas, hit, counts[CSTAT_cas_hits])                                                            \
    X(cas, badval, counts[CSTAT_cas_badval])                                                       \
    X(touch, hit, counts[CSTAT_touch_hits])                                                        \
    X(set, hit, counts[CSTAT_set_cmds] - min_u64(counts[CSTAT_set_cmds], counts[CSTAT_cas_hits] + counts[CSTAT_cas_badval]))

/* Commands and hits of each class. */
static void write_class_commands(const struct command_env *env, const struct class_figures *classes, unsigned n,
                                 struct evbuffer *out)
{
    static const char commands[] = "memcached_slab_commands_total", hits[] = "memcached_slab_lru_hits_total";
    static const char *const names[] = {
        [LRU_HOT] = "hot", [LRU_WARM] = "warm", [LRU_COLD] = "cold", [LRU_TEMP] = "temporary"};
    static_assert(ARRAY_COUNT(names) == STATS_SEGMENT_COUNT, "a name for each segment");
    struct stats_sum sum;
    if (n == 0)
        return;
    report_threads(env, &sum);
    describe(out, commands, "counter", "Commands on items of this class.");
    for (const struct class_figures *k = classes; k < classes + n; k++) {
        const uint64_t *counts = sum.classes[k->cls];
        DEBUG_ASSERT(k->cls > 0 && k->cls < SLAB_CLASS_MAX);
        evbuffer_add_printf(out, "%s{slab=\"%u\",command=\"get\",status=\"hit\"} %" PRIu64 "\n", commands, k->cls,
                            stats_sum_class_get_hits(&sum, k->cls));
#define X(command, status, value)                                                                   \
    evbuffer_add_printf(out, "%s{slab=\"%u\",command=\"" #command "\",status=\"" #status "\"} %" PRIu64 "\n", \
                        commands, k->cls, (uint64_t)(value));
        CLASS_COMMAND_TABLE(X)
#undef X
    }
    describe(out, hits, "counter", "Gets that found an item in this segment of the LRU.");
    for (const struct class_figures *k = classes; k < classes + n; k++)
        for (unsigned seg = 0; seg < ARRAY_COUNT(names); seg++)
            evbuffer_add_printf(out, "%s{slab=\"%u\",lru=\"%s\"} %" PRIu64 "\n", hits, k->cls, names[seg],
                                sum.lru_hits[lru_id_of(k->cls, seg)]);
}

static void write_classes(const struct command_env *env, struct evbuffer *out)
{
    struct class_figures *classes = calloc(SLAB_CLASS_MAX, sizeof(*classes));
    unsigned n = classes ? read_classes(env, classes) : 0;
#define X(kind, name, value, help)                                                                 \
    if (n > 0)                                                                                     \
        describe(out, "memcached_slab_" #name, #kind, help);                                       \
    for (const struct class_figures *k = classes; k < classes + n; k++)                            \
        evbuffer_add_printf(out, "memcached_slab_" #name "{slab=\"%u\"} %" PRIu64 "\n", k->cls,    \
                            (uint64_t)(value));
    CLASS_TABLE(X)
#undef X
    write_class_commands(env, classes, n, out);
    free(classes);
}

/* ---- ours ---- */

/* One line of `stats extant`; times in microseconds or days are shown in seconds. */
static void write_ours(const struct lines *l, struct evbuffer *out, const char *line,
                       const char *kind, const char *help)
{
    DEBUG_ASSERT(strcmp(kind, "gauge") == 0 || strcmp(kind, "counter") == 0);
    const char *value = lines_get(l, line);
    size_t len = strlen(line);
    char name[96], *end;
    double number = strtod(as_number(value), &end);
    if (*value == '\0' || *end != '\0')
        return; /* text */
    bool micros = len > 3 && strcmp(line + len - 3, "_us") == 0;
    bool days = len > 5 && strcmp(line + len - 5, "_days") == 0;
    DEBUG_ASSERT(len + sizeof("extant__seconds_total") <= sizeof(name));
    snprintf(name, sizeof(name), "extant_%.*s%s%s", (int)(len - (micros ? 3 : days ? 5 : 0)), line,
             micros || days ? "_seconds" : "", strcmp(kind, "counter") == 0 ? "_total" : "");
    describe(out, name, kind, help);
    if (micros)
        evbuffer_add_printf(out, "%s %.6f\n", name, number / 1e6);
    else if (days)
        evbuffer_add_printf(out, "%s %.0f\n", name, number * 86400);
    else
        evbuffer_add_printf(out, "%s %s\n", name, as_number(value));
}

static void write_extant(const struct lines *l, struct evbuffer *out)
{
    describe(out, "extant_build_info", "gauge", "Version of the server; always 1.");
    evbuffer_add_printf(out, "extant_build_info{version=\"%s\",protocol=\"%s\",io_engine=\"%s\"} 1\n",
                        lines_get(l, "extant_version"), lines_get(l, "protocol_level"),
                        lines_get(l, "io_engine"));
#define X(kind, name, value, help) write_ours(l, out, #name, "gauge", help);
    REPORT_EXTANT_TABLE(X)
#undef X
#define X(name, help) write_ours(l, out, #name, "counter", help);
    CACHE_COUNTER_TABLE(X)
#undef X
#define X(kind, name, help) write_ours(l, out, "ext_" #name, #kind, help);
    REPORT_FLASH_TABLE(X)
#undef X
    write_ours(l, out, "checkpoint_generation", "gauge", "number of the last checkpoint");
    write_ours(l, out, "checkpoint_objects", "gauge", "objects in it");
    write_ours(l, out, "checkpoint_bytes", "gauge", "its size");
    write_ours(l, out, "ext_degraded", "gauge", "1 while something is wrong with flash");
}

static void write_misses(const struct command_env *env, struct evbuffer *out)
{
    struct stats_sum sum;
    report_threads(env, &sum);
    describe(out, "extant_misses_total", "counter",
             "Gets that found nothing, by reason; they add up to the misses of get.");
    for (unsigned why = 0; why < MISS_REASON_COUNT; why++)
        evbuffer_add_printf(out, "extant_misses_total{reason=\"%s\"} %" PRIu64 "\n",
                            miss_reason_name(why), sum.misses[why]);
    describe(out, "extant_hits_total", "counter", "Gets that found something, by tier.");
    uint64_t flash = sum.counters[STAT_get_extstore], hits = stats_sum_get_hits(&sum);
    evbuffer_add_printf(out,
                        "extant_hits_total{tier=\"ram\"} %" PRIu64 "\n"
                        "extant_hits_total{tier=\"flash\"} %" PRIu64 "\n",
                        hits - min_u64(hits, flash), flash);
}

static void write_histogram(struct evbuffer *out, const char *name, const char *labels,
                            const struct histogram_sum *sum)
{
    uint64_t below = 0;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        below += sum->buckets[i];
        if (i % 4 == 3 && i + 1 < HISTOGRAM_BUCKETS)
            evbuffer_add_printf(out, "%s_bucket{%s,le=\"%.9g\"} %" PRIu64 "\n", name, labels,
                                (double)histogram_bound_ns(i) / 1e9, below);
    }
    DEBUG_ASSERT(below == sum->count);
    evbuffer_add_printf(out, "%s_bucket{%s,le=\"+Inf\"} %" PRIu64 "\n", name, labels, sum->count);
    evbuffer_add_printf(out, "%s_sum{%s} %.9g\n%s_count{%s} %" PRIu64 "\n", name, labels,
                        (double)sum->sum_ns / 1e9, name, labels, sum->count);
}

static void write_latency(const struct command_env *env, struct evbuffer *out)
{
    static const char name[] = "extant_request_duration_seconds";
    describe(out, name, "histogram",
             "Time from receiving a request to handing its reply to the kernel; under load estimated "
             "from a sample, with tier flash measured each time.");
    for (unsigned tier = 0; tier < LATENCY_TIERS; tier++) {
        for (unsigned command = 0; command < LATENCY_COMMANDS; command++) {
            struct histogram_sum sum;
            char labels[64];
            report_latency(env, tier, command, &sum);
            if (sum.count == 0 && !(tier == LATENCY_RAM && command == LATENCY_GET))
                continue;
            snprintf(labels, sizeof(labels), "tier=\"%s\",command=\"%s\"", latency_tier_name(tier),
                     latency_command_name(command));
            write_histogram(out, name, labels, &sum);
        }
    }
}

/* ---- flash ---- */

/* A label's value: backslashes, quotes and line ends escaped. */
static const char *escaped(const char *text, char *out, size_t bytes)
{
    DEBUG_ASSERT(bytes > 3);
    size_t n = 0;
    for (; *text && n + 3 < bytes; text++) {
        if (*text == '\\' || *text == '"' || *text == '\n')
            out[n++] = '\\';
        out[n++] = *text == '\n' ? 'n' : *text;
    }
    DEBUG_ASSERT(n < bytes);
    out[n] = '\0';
    return out;
}

static void write_devices(struct extstore *ext, struct evbuffer *out)
{
    DEBUG_ASSERT(ext_device_count(ext) > 0);
    unsigned count = ext_device_count(ext);
    struct ext_device_info *info = calloc(count, sizeof(*info));
    const char *name;
    char path[512], labels[600];
    for (unsigned i = 0; info && i < count; i++)
        ext_device_info(ext, i, &info[i]);
#define EACH(kind, metric, help, put)                                                              \
    name = "extant_device_" metric;                                                                \
    describe(out, name, #kind, help);                                                              \
    for (unsigned i = 0; info && i < count; i++) {                                                 \
        const struct ext_device_info *d = &info[i];                                                \
        snprintf(labels, sizeof(labels), "device=\"%s\"", escaped(d->path, path, sizeof(path)));   \
        put;                                                                                       \
    }
#define NUMBER(v) evbuffer_add_printf(out, "%s{%s} %" PRIu64 "\n", name, labels, (uint64_t)(v))
#define HISTOGRAM(v) write_histogram(out, name, labels, &(v))
    EACH(gauge, "size_bytes", "Bytes of the device that are used.", NUMBER(d->bytes))
    EACH(gauge, "failed", "1 while the device takes no writes.", NUMBER(d->failed))
    EACH(counter, "read_bytes_total", "Bytes read from the device.", NUMBER(d->bytes_read))
    EACH(counter, "written_bytes_total", "Bytes written to the device.", NUMBER(d->bytes_written))
    EACH(histogram, "read_duration_seconds", "Time of a read, as the device took it.", HISTOGRAM(d->reads))
    EACH(histogram, "write_duration_seconds", "Time of a write of up to 512 KiB, as the device took it.", HISTOGRAM(d->writes))
#undef HISTOGRAM
#undef NUMBER
#undef EACH
    free(info);
}

static void write_pages(struct extstore *ext, struct evbuffer *out)
{
    static const char *const names[] = {
        [EXT_PAGE_FREE] = "free",         [EXT_PAGE_OPEN] = "open", [EXT_PAGE_SEALED] = "sealed",
        [EXT_PAGE_DRAINING] = "draining", [EXT_PAGE_BAD] = "bad",
    };
    uint64_t counts[ARRAY_COUNT(names)] = {0};
    for (unsigned page = 0; page < ext_page_count(ext); page++) {
        struct ext_page_info v;
        ext_page_info(ext, page, &v);
        DEBUG_ASSERT(v.state < ARRAY_COUNT(names));
        counts[v.state] += v.device != EXT_NO_DEVICE;
    }
    describe(out, "extant_flash_pages", "gauge", "Flash pages by state.");
    for (size_t i = 0; i < ARRAY_COUNT(names); i++)
        evbuffer_add_printf(out, "extant_flash_pages{state=\"%s\"} %" PRIu64 "\n", names[i], counts[i]);
}

double metrics_write_amplification(const struct ext_info *v)
{
    double own = v->objects_written ? (double)(v->objects_written - min_u64(v->objects_written, v->compact_rescues)) /
                                          (double)v->objects_written
                                    : 0;
    double bytes = (double)v->bytes_written * own;
    DEBUG_ASSERT(own >= 0 && own <= 1);
    return bytes > 0 ? (double)v->device_bytes_written / bytes : 0;
}

static void write_flash(struct extstore *ext, struct evbuffer *out)
{
    struct ext_info v;
    ext_info(ext, &v);
    describe(out, "extant_write_amplification_ratio", "gauge",
             "Bytes given to devices for each byte of objects that came from RAM, since the start.");
    evbuffer_add_printf(out, "extant_write_amplification_ratio %.4f\n", metrics_write_amplification(&v));
    describe(out, "extant_flash_object_size_bytes", "gauge", "Mean bytes of an object on flash.");
    evbuffer_add_printf(out, "extant_flash_object_size_bytes %.1f\n",
                        v.objects_used ? (double)v.bytes_used / (double)v.objects_used : 0);
    write_devices(ext, out);
    write_pages(ext, out);
}

void metrics_write(const struct command_env *env, struct evbuffer *out)
{
    lock_assert_none_held();
    DEBUG_ASSERT(env->thread_count > 0);
    struct lines l = {0};
    report_general(env, lines_emit, &l);
    settings_print_stats(env->settings, lines_emit, &l);
    report_extant(env, lines_emit, &l);
    lines_emit(&l, "total_malloced", "%" PRIu64, slab_taken_bytes(env->slab));
    add_derived(&l);
    describe(out, "memcached_up", "gauge", "1: the server answers.");
    evbuffer_add_printf(out, "memcached_up 1\n");
    describe(out, "memcached_version", "gauge", "The memcached whose answers it gives; always 1.");
    evbuffer_add_printf(out, "memcached_version{version=\"%s\"} 1\n", lines_get(&l, "version"));
    write_exported(&l, out);
    write_classes(env, out);
    write_extant(&l, out);
    write_misses(env, out);
    write_latency(env, out);
    if (env->ext)
        write_flash(env->ext, out);
    lines_free(&l);
}
