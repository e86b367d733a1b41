/* operator/stats.h: counters of threads, sums, resets, and the lines of `stats`. */
#include "operator/stats.h"

#include "command/stats_report.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdarg.h>

static struct thread_stats t1, t2;
static struct stats_sum sum;
static struct settings settings;
static struct server_counters counters;
static struct report_figures figures = {.settings = &settings, .counters = &counters, .busy_status = ""};

static char lines[16384];
static size_t lines_len;
static int line_count;

static void emit(void *ctx, const char *name, const char *fmt, ...) PRINTF_LIKE(3, 4);
static void emit(void *ctx, const char *name, const char *fmt, ...)
{
    va_list ap;
    (void)ctx;
    lines_len += (size_t)snprintf(lines + lines_len, sizeof(lines) - lines_len, "%s ", name);
    va_start(ap, fmt);
    lines_len += (size_t)vsnprintf(lines + lines_len, sizeof(lines) - lines_len, fmt, ap);
    va_end(ap);
    lines_len += (size_t)snprintf(lines + lines_len, sizeof(lines) - lines_len, "\n");
    line_count++;
}

/* The names alone, one blank between them. */
static const char *names(void)
{
    static char out[8192];
    size_t n = 0;
    for (char *p = lines; *p != '\0'; p = strchr(p, '\n') + 1)
        n += (size_t)snprintf(out + n, sizeof(out) - n, "%s%.*s", n > 0 ? " " : "",
                              (int)strcspn(p, " "), p);
    return out;
}

Test(stats, counts)
{
    stat_inc(&t1, STAT_get_cmds);
    stat_add(&t1, STAT_bytes_read, 100);
    cr_assert_eq(t1.counters[STAT_get_cmds], 1);
    cr_assert_eq(t1.counters[STAT_bytes_read], 100);
}

Test(stats, threads_do_not_share_lines)
{
    cr_assert_eq(sizeof(struct thread_stats) % CACHE_LINE_BYTES, 0);
    cr_assert_eq((uintptr_t)&t1 % CACHE_LINE_BYTES, 0);
}

Test(stats, sums_over_threads)
{
    stat_inc(&t1, STAT_get_misses);
    stat_inc(&t2, STAT_get_misses);
    stat_class_inc(&t1, 3, CSTAT_set_cmds);
    stat_class_inc(&t2, 5, CSTAT_set_cmds);
    stat_lru_hit(&t2, 5);
    stats_sum_add(&sum, &t1);
    stats_sum_add(&sum, &t2);
    cr_assert_eq(sum.counters[STAT_get_misses], 2);
    cr_assert_eq(stats_sum_class_total(&sum, CSTAT_set_cmds), 2);
    cr_assert_eq(sum.classes[5][CSTAT_set_cmds], 1);
    cr_assert_eq(stats_sum_get_hits(&sum), 1);
}

Test(stats, get_hits_of_a_class_are_those_of_its_segments)
{
    for (unsigned segment = 0; segment < STATS_SEGMENT_COUNT; segment++)
        stat_lru_hit(&t1, (uint8_t)(7 | segment << 6));
    stat_lru_hit(&t1, 8);
    stats_sum_add(&sum, &t1);
    cr_assert_eq(stats_sum_class_get_hits(&sum, 7), 4);
    cr_assert_eq(stats_sum_get_hits(&sum), 5);
}

Test(stats, reset_by_subtraction)
{
    struct stats_sum base = {0};
    stat_inc(&t1, STAT_touch_cmds);
    stat_class_inc(&t1, 1, CSTAT_cas_hits);
    stat_lru_hit(&t1, 1);
    stats_sum_add(&base, &t1);
    stat_inc(&t1, STAT_touch_cmds);
    stats_sum_add(&sum, &t1);
    stats_sum_subtract(&sum, &base);
    cr_assert_eq(sum.counters[STAT_touch_cmds], 1);
    cr_assert_eq(sum.classes[1][CSTAT_cas_hits], 0);
    cr_assert_eq(stats_sum_get_hits(&sum), 0);
}

static void *count_many(void *arg)
{
    for (int i = 0; i < 20000; i++) {
        stat_inc(arg, STAT_get_cmds);
        stat_class_inc(arg, 2, CSTAT_incr_hits);
        stat_lru_hit(arg, 2);
    }
    return NULL;
}

Test(stats, reading_while_threads_count)
{
    pthread_t a, b;
    uint64_t last = 0;
    cr_assert_eq(pthread_create(&a, NULL, count_many, &t1), 0);
    cr_assert_eq(pthread_create(&b, NULL, count_many, &t2), 0);
    for (int i = 0; i < 50; i++) {
        memset(&sum, 0, sizeof(sum));
        stats_sum_add(&sum, &t1);
        stats_sum_add(&sum, &t2);
        cr_assert_geq(sum.counters[STAT_get_cmds], last);
        last = sum.counters[STAT_get_cmds];
    }
    pthread_join(a, NULL);
    pthread_join(b, NULL);
    memset(&sum, 0, sizeof(sum));
    stats_sum_add(&sum, &t1);
    stats_sum_add(&sum, &t2);
    cr_assert_eq(sum.counters[STAT_get_cmds], 40000);
    cr_assert_eq(stats_sum_get_hits(&sum), 40000);
}

static void show_with(bool idle, bool flash, bool reassign, bool crawler, bool maintainer, bool tls)
{
    settings.idle_timeout = idle;
    figures.has_flash = flash;
    settings.slab_reassign = reassign;
    settings.lru_crawler = crawler;
    settings.lru_maintainer = maintainer;
    settings.lru_segmented = maintainer;
    settings.ssl_enabled = settings.ssl_session_cache = tls;
    report_emit_general(&figures, emit, NULL);
}

static void show(bool idle, bool flash, bool reassign, bool crawler, bool maintainer)
{
    show_with(idle, flash, reassign, crawler, maintainer, false);
}

Test(stats, general_has_93_lines_by_default)
{
    show(false, false, true, true, true);
    cr_assert_eq(line_count, 93);
}

Test(stats, general_has_84_lines_without_crawler_and_maintainer)
{
    show(false, false, true, false, false);
    cr_assert_eq(line_count, 84);
}

Test(stats, general_has_121_lines_with_flash)
{
    show(false, true, true, true, true);
    cr_assert_eq(line_count, 121);
}

Test(stats, idle_timeout_adds_a_line)
{
    show(true, false, true, true, true);
    cr_assert_eq(line_count, 94);
    cr_assert_not_null(strstr(lines, "\nauth_errors 0\nidle_kicks 0\nbytes_read 0\n"));
}

Test(stats, general_order_with_everything)
{
    show_with(true, true, true, true, true, true);
    cr_assert_str_eq(
        names(),
        "pid uptime time version libevent pointer_size rusage_user rusage_system max_connections "
        "curr_connections total_connections rejected_connections connection_structures "
        "response_obj_oom response_obj_count response_obj_bytes read_buf_count read_buf_bytes "
        "read_buf_bytes_free read_buf_oom reserved_fds cmd_get cmd_set cmd_flush cmd_touch "
        "cmd_meta get_hits get_misses get_expired get_flushed get_extstore get_aborted_extstore "
        "get_oom_extstore recache_from_extstore miss_from_extstore badcrc_from_extstore "
        "delete_misses delete_hits incr_misses incr_hits decr_misses decr_hits cas_misses cas_hits "
        "cas_badval touch_hits touch_misses store_too_large store_no_memory auth_cmds auth_errors "
        "idle_kicks bytes_read bytes_written limit_maxbytes accepting_conns listen_disabled_num "
        "time_in_listen_disabled_us threads conn_yields hash_power_level hash_bytes "
        "hash_is_expanding slab_reassign_rescues slab_reassign_chunk_rescues "
        "slab_reassign_inline_reclaim slab_reassign_busy_items slab_reassign_busy_deletes "
        "slab_reassign_busy_nomem slab_reassign_last_busy_status slab_reassign_running slabs_moved "
        "lru_crawler_running lru_crawler_starts lru_maintainer_juggles malloc_fails "
        "log_worker_dropped log_worker_written log_watcher_skipped log_watcher_sent log_watchers "
        "extstore_memory_pressure extstore_compact_lost extstore_compact_rescues "
        "extstore_compact_resc_cold extstore_compact_resc_old extstore_compact_skipped "
        "extstore_page_allocs extstore_page_evictions extstore_page_reclaims extstore_pages_free "
        "extstore_pages_used extstore_objects_evicted extstore_objects_read "
        "extstore_objects_written extstore_objects_used extstore_bytes_evicted "
        "extstore_bytes_written extstore_bytes_read extstore_bytes_used extstore_bytes_fragmented "
        "extstore_limit_maxbytes extstore_io_queue ssl_new_sessions ssl_handshake_errors "
        "ssl_proto_errors time_since_server_cert_refresh unexpected_napi_ids round_robin_fallback bytes "
        "curr_items total_items slab_global_page_pool expired_unfetched evicted_unfetched "
        "evicted_active evictions reclaimed crawler_reclaimed crawler_items_checked "
        "lrutail_reflocked moves_to_cold moves_to_warm moves_within_lru direct_reclaims "
        "lru_bumps_dropped");
}

Test(stats, values_come_from_where_they_should)
{
    figures.pid = 42;
    figures.usage.ru_utime = (struct timeval){1, 7};
    figures.sum.counters[STAT_get_cmds] = 5;
    figures.sum.classes[1][CSTAT_set_cmds] = 2;
    figures.sum.classes[9][CSTAT_set_cmds] = 3;
    figures.sum.lru_hits[200] = 4;
    figures.totals.curr_items = UINT64_MAX;
    show(false, false, true, true, true);
    cr_assert_eq(strncmp(lines, "pid 42\n", 7), 0);
    cr_assert_not_null(strstr(lines, "\nversion 1.6.45\n"));
    cr_assert_not_null(strstr(lines, "\nrusage_user 1.000007\n"));
    cr_assert_not_null(strstr(lines, "\ncmd_get 5\ncmd_set 5\n"));
    cr_assert_not_null(strstr(lines, "\nget_hits 4\n"));
    cr_assert_not_null(strstr(lines, "\ncurr_items 18446744073709551615\n"));
}

Test(stats, a_class_as_stats_slabs_shows_it)
{
    sum.classes[3][CSTAT_set_cmds] = 2;
    sum.lru_hits[3] = 1;
    stats_emit_class(&sum, 3, emit, NULL);
    cr_assert_str_eq(lines, "3:get_hits 1\n3:cmd_set 2\n3:delete_hits 0\n3:incr_hits 0\n"
                            "3:decr_hits 0\n3:cas_hits 0\n3:cas_badval 0\n3:touch_hits 0\n");
}

Test(stats, life_of_flash)
{
    double per_day;
    cr_assert_eq(stats_flash_lasts_days(100 * GiB, 86400, 100 * GiB, 1, &per_day), 1825);
    cr_assert_float_eq(per_day, 1, 1e-9);
    cr_assert_eq(stats_flash_lasts_days(100 * GiB, 86400, 100 * GiB, 0.3, &per_day), 547);
    cr_assert_eq(stats_flash_lasts_days(GiB, 3600, 12 * GiB, 3, &per_day), 2737);
    cr_assert_float_eq(per_day, 2, 1e-9);
    cr_assert_eq(stats_flash_lasts_days(0, 0, GiB, 1, &per_day), STATS_FLASH_LASTS_MAX_DAYS);
    cr_assert_eq(per_day, 0);
    cr_assert_eq(stats_flash_lasts_days(1, 86400, GiB, 1, &per_day), STATS_FLASH_LASTS_MAX_DAYS);
}

Test(stats, extant_section)
{
    figures.bytes_per_flash_object = 9.126;
    figures.totals.flash_objects = 7;
    figures.ext.engine = "none";
    report_emit_extant(&figures, emit, NULL);
    cr_assert_eq(strncmp(lines, "extant_version 0.1.0\n", 21), 0);
    cr_assert_not_null(strstr(lines, "\nflash_objects 7\nram_bytes_per_flash_object 9.13\n"));
}
