/* command/stats_report.h: what `stats` answers: the figures of the whole server, as they have grown since the last
 * `stats reset`, and how each group of them is put into lines.
 *
 * Threads: any, but for report_answer(), which runs in the session's. Lock: LOCK_STATS, for what the last reset
 * remembers; locks of other modules are taken before or after it, never while it is held.
 */
#ifndef EXTANT_STATS_REPORT_H
#define EXTANT_STATS_REPORT_H

#include <sys/resource.h>

#include "base/memory.h"
#include "command/session.h"
#include "items/figures.h"
#include "operator/watch.h"

/* What the lines of `stats` and `stats extant` are made of. Zero it (with counters, env and settings), fill it, emit it. */
struct report_figures {
    const struct settings *settings;
    const struct server_counters *counters;
    bool has_flash;
    struct stats_sum sum; /* of the threads */
    struct cache_totals totals;
    struct index_info index;
    struct ext_info ext;
    struct watch_info watch;
    struct buffer_pool pool;
    struct memory_heap heap;
    struct rusage usage;
    struct {
        uint64_t rss, arena, heap, program, other;
    } resident;
    const char *busy_status;
    bool is_reassigning, is_crawling;
    unsigned thread_count;
    uint64_t pid, uptime_sec, unix_sec, open_conns, reserved_fds, conns_bytes, items_bytes, pages_global;
    uint64_t hash_power_level, buffer_used_bytes, index_capacity_max, lasts_days, memory_available_bytes, memory_refusals;
    bool memory_is_short;
    double memory_pressure, bytes_per_flash_object, writes_per_day;
};

/* `stats extant`: our own lines, in order; tables of modules follow them. GAUGE is a number, TEXT, REAL has two decimals.
 * kind, name, value (f: a struct report_figures), help */
#define REPORT_EXTANT_TABLE(X)                                                                      \
    X(TEXT, extant_version, EXTANT_VERSION, "version of this server")                              \
    X(TEXT, protocol_level, MEMCACHED_LEVEL, "memcached whose answers it gives")                   \
    X(TEXT, io_engine, f->ext.engine, "how flash is read and written: io_uring, threads or none")  \
    X(GAUGE, rss_bytes, f->resident.rss, "memory of the process")                                  \
    X(GAUGE, resident_arena_bytes, f->resident.arena, "of it: items, index, flash buffers and tables")\
    X(GAUGE, resident_heap_bytes, f->resident.heap, "of it: what the allocator holds")             \
    X(GAUGE, resident_program_bytes, f->resident.program, "of it: program and libraries")          \
    X(GAUGE, resident_other_bytes, f->resident.other, "the rest: stacks, rings of the kernel")     \
    X(TEXT, allocator, f->heap.allocator, "behind malloc")                                         \
    X(GAUGE, heap_allocated_bytes, f->heap.allocated_bytes, "in use, of what the allocator holds") \
    X(GAUGE, heap_values_bytes, f->ext.read_copies_bytes, "of it: large values read from flash and not yet sent")\
    X(GAUGE, heap_connections_bytes, f->conns_bytes, "of it: connections, their read and reply buffers, all that OpenSSL has")\
    X(GAUGE, memory_is_short, f->memory_is_short, "1 while the system has no more memory: items leave RAM, so that the index can grow")\
    X(GAUGE, memory_available_bytes, f->memory_available_bytes, "what items and index may have together: -m, or less while memory is short")\
    X(GAUGE, memory_refusals, f->memory_refusals, "allocations that the system refused since the start")\
    X(GAUGE, memory_limit_bytes, f->settings->maxbytes, "bound for items and index (-m)")          \
    X(GAUGE, memory_items_bytes, f->items_bytes, "of it, held by slab pages")                      \
    X(GAUGE, memory_index_bytes, f->index.bytes, "of it, held by the index")                       \
    X(GAUGE, memory_free_bytes, f->settings->maxbytes - min_u64(f->settings->maxbytes, f->items_bytes + f->index.bytes), "of it, free")\
    X(GAUGE, buffer_limit_bytes, f->ext.buffer_bytes, "bound for write and read buffers of flash") \
    X(GAUGE, buffer_used_bytes, f->buffer_used_bytes, "of it, used")                               \
    X(GAUGE, index_slots, f->index.slots, "objects that the index has room for")                   \
    X(GAUGE, index_used, f->index.ram_count + f->index.flash_count, "objects in it")               \
    X(GAUGE, index_capacity_max, f->index_capacity_max, "objects that -m can index")               \
    X(GAUGE, ram_items, f->totals.ram_items, "objects in memory")                                  \
    X(GAUGE, clean_items, f->totals.clean_items, "objects in memory that are on flash as well: they can leave without a write") \
    X(GAUGE, flash_objects, f->totals.flash_objects, "objects on flash")                           \
    X(REAL, ram_bytes_per_flash_object, f->bytes_per_flash_object, "memory that an object on flash costs")\
    X(REAL, flash_writes_per_day, f->writes_per_day, "how often flash is written through in a day, at the rate since the start")\
    X(GAUGE, flash_lasts_days, f->lasts_days, "how long it lasts at that rate, as rated by ext_rated_writes; at most 36500; 0 without flash")\
    X(GAUGE, binary_rejected, f->counters->binary_rejected, "connections closed because they spoke the binary protocol under -B ascii")

/* `stats extant` with flash: of a struct ext_info, each line after "ext_". kind, name, help */
#define REPORT_FLASH_TABLE(X)                                                                      \
    X(gauge, pages_bad, "flash pages given up after write errors")                                 \
    X(counter, pages_lost, "flash pages retired after write errors")                               \
    X(counter, pages_back, "of these, used again after a test write")                              \
    X(counter, read_errors, "flash reads that failed for good")                                    \
    X(counter, read_retries, "flash reads tried again")                                            \
    X(counter, read_short, "short flash reads that were continued")                                \
    X(counter, write_errors, "flash writes that failed after their retries")                       \
    X(counter, write_retries, "flash writes tried again")                                          \
    X(counter, write_moved, "records moved away from a failed write")                              \
    X(counter, device_bytes_written, "bytes given to flash devices")                               \
    X(counter, bytes_rewritten, "bytes of records moved by reclaim")                               \
    X(counter, pages_kept, "flash pages that stayed for another round, since they were hit")       \
    X(counter, write_mismatches, "writes that were not on flash as they were given")               \
    X(counter, device_reads, "reads handed to flash devices")                                      \
    X(counter, buffer_hits, "flash reads served from a write buffer")                              \
    X(counter, bad_checksums, "records or tables that did not verify")                             \
    X(counter, evicted_index_full, "flash objects dropped because the index was full")             \
    X(counter, reads_shared, "gets that waited for the read of another instead of one of their own")\
    X(counter, reads_put_away, "values read from flash that were put away unsent, to be read again")\
    X(gauge, reads_waiting, "reads that wait for a buffer")                                        \
    X(counter, objects_expired, "flash objects dropped as expired or flushed")                     \
    X(counter, objects_unread_dropped, "flash objects dropped unread, by ext_drop_unread")         \
    X(gauge, wbufs_free, "free write buffers")                                                     \
    X(gauge, wbufs_busy, "write buffers that are being filled or written")                         \
    X(gauge, wbufs_stuck, "write buffers that no device takes")                                    \
    X(gauge, page_table_bytes, "memory for the page table")                                        \
    X(gauge, expired_bytes, "flash bytes of values that have expired, about")

/* The lines of `stats`, those of REPORT_EXTANT_TABLE. */
void report_emit_general(const struct report_figures *f, stats_emit_fn emit, void *ctx);
void report_emit_extant(const struct report_figures *f, stats_emit_fn emit, void *ctx);

/* What `stats reset` remembers. NULL: no memory. One for each server, in command_env. */
struct report *report_create(struct extstore *ext); /* ext: flash or NULL */
void report_destroy(struct report *r); /* NULL is allowed */

/* The lines of `stats` and of `stats extant`, each through emit. Also for a thread without a session. */
void report_general(const struct command_env *env, stats_emit_fn emit, void *ctx);
void report_extant(const struct command_env *env, stats_emit_fn emit, void *ctx);
/* What threads and a slab class have counted since `stats reset`, and gauges. */
void report_threads(const struct command_env *env, struct stats_sum *out);
void report_class(const struct command_env *env, unsigned cls, struct cache_class_stats *out);
/* The latency of a tier and command, over all workers, since the start. */
void report_latency(const struct command_env *env, enum latency_tier tier,
                    enum latency_command command, struct histogram_sum *out);

/* Executes `stats ...`: queues the answer. */
void report_answer(struct session *s, const struct request *req);

#endif
