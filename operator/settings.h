/* operator/settings.h: every setting, in one table, and the struct that holds their values.
 *
 * operator/command_line.h fills it. Its users read it through pointers that server.c hands out. Commands change some
 * numbers while the server runs (command/admin.c), hence the atomics.
 *
 * Threads: init and free by one thread; numbers by any. No locks; nothing sleeps.
 */
#ifndef EXTANT_SETTINGS_H
#define EXTANT_SETTINGS_H

#include "base/base.h"

enum {
    SETTINGS_LISTEN_MAX = 32, /* addresses of -l */
    SETTINGS_EXT_FILES_MAX = 16,
    SETTINGS_SLAB_SIZES_MAX = 62, /* classes of slab_sizes */
    SETTINGS_HOST_BYTES = 256,
};

/* The exit codes of the process, from sysexits.h: for an operator's mistake, or for a refusal by the
 * system. */
enum {
    SETTINGS_GO_ON = -1,
    SETTINGS_EXIT_USAGE = 64,   /* on the command line */
    SETTINGS_EXIT_NO_USER = 67, /* no user has the name of -u */
    SETTINGS_EXIT_OS = 71,      /* the system refuses an address, a file, memory or a limit */
    SETTINGS_EXIT_CONFIG = 78, /* in a file of --config or -Y */
};

#define SETTINGS_SLAB_PAGE_BYTES (1 * MiB)
#define SETTINGS_EXT_PAGES_MAX 65535u        /* in all files together */
#define SETTINGS_EXT_PAGES_MIN 4u            /* in files of class default */
#define SETTINGS_EXT_BUFFERS_MIN 5u          /* write buffers that ext_buffer_mem must hold */
#define SETTINGS_EXT_THREADS_MAX 64u
#define SETTINGS_EXT_PAGES_WISH 128u         /* total, unless ext_page_size was given: pages of two write buffers or more */
#define SETTINGS_EXT_PAGES_FEW 8u            /* total: to have these, a page may be as small as one write buffer */
#define SETTINGS_EXT_WBUF_SMALL_BYTES (2 * MiB) /* a write buffer, unless its size was given or -I is above half of this */
#define SETTINGS_EXT_WBUF_BYTES (4 * MiB)       /* a write buffer with a larger -I; more if -I needs it */
#define SETTINGS_EXT_BUFFER_MEM (32 * MiB)      /* unless ext_buffer_mem or ext_wbuf_size was given */
#define SETTINGS_EXT_MEMORY_MIN (3 * MiB)    /* -m: 2 MB of it are for items, and the index takes the rest */
#define SETTINGS_EXT_BYTES_MAX (16384 * GiB) /* the reach of a place of 40 bits */
#define SETTINGS_EXT_UNIT_BYTES (2 * MiB)    /* of page and wbuf sizes */
#define SETTINGS_EXT_SMALL_UNIT_BYTES (64 * KiB) /* of those below 2 MB */

enum setting_type {
    SETTING_BOOL,
    SETTING_U32,
    SETTING_I32,
    SETTING_U64,
    SETTING_REAL,
    SETTING_TEXT
};

/* How `stats settings` shows a value; HIDDEN ones it doesn't (memcached has no such line). */
enum setting_show {
    SHOW_NUMBER,
    SHOW_YES_NO,
    SHOW_ON_OFF,
    SHOW_OCTAL,
    SHOW_CHAR,      /* the character of that number */
    SHOW_REAL2,     /* two decimals */
    SHOW_REAL3,
    SHOW_TEXT_NULL, /* text, "NULL" if unset */
    SHOW_TEXT_null, /* text, "(null)" if unset */
    SHOW_PROTOCOL,
    SHOW_TLS_VERSION,
    SHOW_HIDDEN,
};

enum settings_protocol { SETTINGS_PROTOCOL_AUTO, SETTINGS_PROTOCOL_ASCII, SETTINGS_PROTOCOL_BINARY };
/* What a listener does with -Z; DEFAULT: as ssl_verify_mode says. */
enum settings_tls {
    SETTINGS_TLS_NONE,
    SETTINGS_TLS_DEFAULT,
    SETTINGS_TLS_NO_CLIENT_CERT,
    SETTINGS_TLS_CLIENT_CERT
};
enum settings_key { SETTINGS_KEY_PEM = 1, SETTINGS_KEY_DER = 2 }; /* memcached shows the number */
enum settings_persist { SETTINGS_PERSIST_OFF, SETTINGS_PERSIST_ON, SETTINGS_PERSIST_SCAN };
enum settings_admission {
    SETTINGS_ADMISSION_ALL,
    SETTINGS_ADMISSION_STRICT,
    SETTINGS_ADMISSION_LEARN
};
enum settings_engine { SETTINGS_ENGINE_AUTO, SETTINGS_ENGINE_URING, SETTINGS_ENGINE_THREADS };

/* Flash buckets, numbered and named as memcached does. */
#define SETTINGS_BUCKET_TABLE(X)                                                                   \
    X(SETTINGS_BUCKET_DEFAULT, "default")                                                          \
    X(SETTINGS_BUCKET_COMPACT, "compact")                                                          \
    X(SETTINGS_BUCKET_CHUNKED, "chunked")                                                          \
    X(SETTINGS_BUCKET_LOWTTL, "lowttl")                                                            \
    X(SETTINGS_BUCKET_COLDCOMPACT, "coldcompact")                                                  \
    X(SETTINGS_BUCKET_OLD, "old")
enum settings_bucket {
    SETTINGS_BUCKET_TABLE(ROW_NAME)
        SETTINGS_BUCKET_COUNT
};

/* The settings, in the order of `stats settings`, then the hidden ones.
 * min and max are in the unit.
 *
 * type, field, default, min, max, unit, shown as, `stats settings` name, help */
#define SETTINGS_TABLE(X)                                                                                             \
    X(U64, maxbytes, 64 * MiB, 0, 1ull << 50, "bytes", NUMBER, "maxbytes", "memory for items and index")              \
    X(U32, maxconns, 1024, 1, 1 << 24, "", NUMBER, "maxconns", "max simultaneous connections")                        \
    X(I32, port, 11211, -1, 65535, "", NUMBER, "tcpport", "TCP port to listen on; 0 off, -1 any free one")            \
    X(I32, udpport, 0, -1, 65535, "", NUMBER, "udpport", "UDP port to listen on; 0 off, -1 any free one")             \
    X(TEXT, inter, 0, 0, 0, "", TEXT_NULL, "inter",                                                                   \
      "addresses to listen on: host, host:port or [ipv6]:port; comma separated, repeatable")                          \
    X(U32, verbosity, 0, 0, UINT32_MAX, "", NUMBER, "verbosity", "verbose: client errors; -vv: commands too")         \
    X(U32, oldest_live_sec, 0, 0, UINT32_MAX, "s", NUMBER, "oldest",                                                  \
      "rel time before which everything is flushed")                                                                  \
    X(BOOL, evict_to_free, true, 0, 1, "", ON_OFF, "evictions", "evict instead of returning an error")                \
    X(TEXT, socketpath, 0, 0, 0, "", TEXT_NULL, "domain_socket",                                                      \
      "unix socket to listen on (disables the network)")                                                              \
    X(U32, access_mask, 0700, 0, 07777, "", OCTAL, "umask", "access mode of the unix socket, in octal")               \
    X(BOOL, shutdown_command, false, 0, 1, "", YES_NO, "shutdown_command", "allow the \"shutdown\" command")          \
    X(REAL, factor, 1.25, 1, 1000, "", REAL2, "growth_factor", "growth factor of slab classes")                       \
    X(U32, chunk_size, 48, 1, 1 << 19, "bytes", NUMBER, "chunk_size",                                                 \
      "space of the smallest class for key, value and flags")                                                         \
    X(U32, num_threads, 4, 1, 1024, "", NUMBER, "num_threads", "worker threads")                                      \
    X(U32, num_threads_per_udp, 4, 1, 1024, "", NUMBER, "num_threads_per_udp",                                        \
      "workers that read the UDP socket")                                                                             \
    X(U32, prefix_delimiter, ':', 1, 255, "", CHAR, "stat_key_prefix",                                                \
      "ends a key's prefix in \"stats detail\", and turns that on")                                                   \
    X(BOOL, detail_enabled, false, 0, 1, "", YES_NO, "detail_enabled", "statistics by prefix of the key")             \
    X(U32, reqs_per_event, 20, 1, INT32_MAX, "", NUMBER, "reqs_per_event",                                            \
      "requests of one connection before others have a turn")                                                         \
    X(BOOL, use_cas, true, 0, 1, "", YES_NO, "cas_enabled", "items have a cas value")                                 \
    X(U32, backlog, 1024, 1, INT32_MAX, "", NUMBER, "tcp_backlog", "listen(2) backlog")                               \
    X(U32, binding_protocol, SETTINGS_PROTOCOL_AUTO, 0, 2, "", PROTOCOL, "binding_protocol",                          \
      "protocol: ascii, binary or auto (by the first byte)")                                                          \
    X(BOOL, auth_sasl, false, 0, 1, "", YES_NO, "auth_enabled_sasl", "")                                              \
    X(BOOL, auth_ascii, false, 0, 1, "", YES_NO, "auth_enabled_ascii", "")                                            \
    X(U64, item_size_max, 1 * MiB, 1024, GiB, "bytes", NUMBER, "item_size_max",                                       \
      "largest item (1k to 1024m, at most half of -m)")                                                               \
    X(BOOL, maxconns_fast, true, 0, 1, "", YES_NO, "maxconns_fast",                                                   \
      "reject connections above the limit at once")                                                                   \
    X(U32, hashpower_init, 0, 12, 32, "", NUMBER, "hashpower_init",                                                   \
      "size of the index at start, as a power of two of objects; 0 lets it grow")                                     \
    X(BOOL, slab_reassign, true, 0, 1, "", YES_NO, "slab_reassign", "pages can move between slab classes")            \
    X(U32, slab_automove, 1, 0, 2, "", NUMBER, "slab_automove",                                                       \
      "move pages by need: 0 off, 1 slowly, 2 with every eviction")                                                   \
    X(REAL, slab_automove_ratio, 0.8, 0, 1, "", REAL2, "slab_automove_ratio",                                         \
      "age ratio of classes below which a page moves")                                                                \
    X(U32, slab_automove_window, 10, 3, 1800, "s", NUMBER, "slab_automove_window",                                    \
      "how far the page mover looks back")                                                                            \
    X(U64, slab_chunk_max, 512 * KiB, 1, MiB, "bytes", NUMBER, "slab_chunk_max",                                      \
      "largest chunk, given in KB; larger items have several")                                                                     \
    X(BOOL, lru_crawler, true, 0, 1, "", YES_NO, "lru_crawler", "look for expired items in the background")           \
    X(U32, lru_crawler_sleep, 100, 0, 1000000, "us", NUMBER, "lru_crawler_sleep",                                     \
      "pause of the crawler between items")                                                                           \
    X(U32, lru_crawler_tocrawl, 0, 0, UINT32_MAX, "", NUMBER, "lru_crawler_tocrawl",                                  \
      "items to crawl in one run and class; 0 all")                                                                   \
    X(U32, tail_repair_time, 0, 10, INT32_MAX, "s", NUMBER, "tail_repair_time",                                       \
      "accepted and shown, without effect: no references leak; 0 never")                                              \
    X(BOOL, flush_enabled, true, 0, 1, "", YES_NO, "flush_enabled", "allow flush_all")                                \
    X(BOOL, dump_enabled, true, 0, 1, "", YES_NO, "dump_enabled", "allow cachedump, metadump and mgdump")             \
    X(TEXT, hash_algorithm, 0, 0, 0, "", TEXT_null, "hash_algorithm",                                                 \
      "jenkins, murmur3 or xxh3: the name shown in stats; the index always uses xxh3 (default: murmur3)")             \
    X(BOOL, lru_maintainer, true, 0, 1, "", YES_NO, "lru_maintainer_thread",                                          \
      "keep the LRU in segments, in the background")                                                                  \
    X(BOOL, lru_segmented, true, 0, 1, "", YES_NO, "lru_segmented", "segmented LRU")                                  \
    X(U32, hot_lru_pct, 20, 1, 79, "%", NUMBER, "hot_lru_pct", "share of a class for HOT")                            \
    X(U32, warm_lru_pct, 40, 1, 79, "%", NUMBER, "warm_lru_pct", "share of a class for WARM")                         \
    X(REAL, hot_max_factor, 0.2, 0, 1e9, "", REAL2, "hot_max_factor",                                                 \
      "items idle for longer than this times the age of COLD leave HOT")                                              \
    X(REAL, warm_max_factor, 2.0, 0, 1e9, "", REAL2, "warm_max_factor",                                               \
      "items idle for longer than this times the age of COLD leave WARM")                                             \
    X(BOOL, temp_lru, false, 0, 1, "", YES_NO, "temp_lru", "short-lived items have their own LRU")                    \
    X(U32, temporary_ttl, 61, 0, UINT32_MAX, "s", NUMBER, "temporary_ttl",                                            \
      "items with at most this TTL go to TEMP and are not evicted")                                                   \
    X(U32, idle_timeout, 0, 0, INT32_MAX, "s", NUMBER, "idle_timeout",                                                \
      "close connections idle for longer; 0 never")                                                                   \
    X(U32, watcher_logbuf_size, 256 * KiB, 1024, GiB, "bytes", NUMBER, "watcher_logbuf_size",                         \
      "write buffer of a watcher, given in KB")                                                                       \
    X(U32, worker_logbuf_size, 64 * KiB, 1024, GiB, "bytes", NUMBER, "worker_logbuf_size",                            \
      "log buffer of a worker, given in KB")                                                                          \
    X(U64, read_buf_mem_limit, 0, 0, 1ull << 50, "bytes", NUMBER, "read_buf_mem_limit",                               \
      "memory for read and response buffers of connections, given in MB; 0 no limit")                                 \
    X(BOOL, track_sizes, false, 0, 1, "", YES_NO, "track_sizes", "count item sizes for \"stats sizes\"")              \
    X(BOOL, inline_ascii_response, false, 0, 0, "", YES_NO, "inline_ascii_response", "")                              \
    X(BOOL, drop_privileges, false, 0, 1, "", YES_NO, "drop_privileges",                                              \
      "allow only the system calls that serving needs; any other ends the process")                                   \
    X(U32, ext_item_size, 512, 0, GiB, "bytes", NUMBER, "ext_item_size",                                              \
      "items of at least this size are written early (ext_item_age), smaller ones\n"                                    \
      "only when memory is short")                                                                                      \
    X(U32, ext_item_age, UINT32_MAX, 0, UINT32_MAX, "s", NUMBER, "ext_item_age",                                      \
      "write items idle for longer even while memory is free; default: no age limit")                                 \
    X(U32, ext_low_ttl, 0, 0, UINT32_MAX, "s", NUMBER, "ext_low_ttl",                                                 \
      "items with less TTL go to pages of their own")                                                                 \
    X(U32, ext_recache_rate, 2000, 0, UINT32_MAX, "", NUMBER, "ext_recache_rate",                                     \
      "one in this many eligible hits brings the item back to memory; 0 never")                                       \
    X(U64, ext_wbuf_size, SETTINGS_EXT_WBUF_SMALL_BYTES, 64 * KiB, GiB, "bytes", NUMBER, "ext_wbuf_size",              \
      "write buffer, given in MB, or with k; limits -I")                                                              \
    X(U32, ext_compact_under, 0, 0, SETTINGS_EXT_PAGES_MAX, "pages", NUMBER, "ext_compact_under",                     \
      "compact below this many free pages; default: 1% of all, at least 1")                                           \
    X(U32, ext_drop_under, 0, 0, SETTINGS_EXT_PAGES_MAX, "pages", NUMBER, "ext_drop_under",                           \
      "with ext_drop_unread, drop below this many free pages; default: 1% of all, at least 1")                          \
    X(U32, ext_max_sleep, 1000000, 0, UINT32_MAX, "us", NUMBER, "ext_max_sleep",                                      \
      "longest wait of a set for memory while flash is written; then items are evicted")                                \
    X(REAL, ext_max_frag, 0.8, 0, 1, "", REAL2, "ext_max_frag", "compact pages that are less full than this")         \
    X(REAL, slab_automove_freeratio, 0.01, 0, 1, "", REAL3, "slab_automove_freeratio",                                \
      "share of memory kept free by writing to flash")                                                                \
    X(BOOL, ext_drop_unread, false, 0, 1, "", YES_NO, "ext_drop_unread", "compaction drops what was not read")        \
    X(BOOL, ssl_enabled, false, 0, 1, "", YES_NO, "ssl_enabled",                                                      \
      "TLS on every TCP port except those of -l notls:ADDRESS")                                                       \
    X(TEXT, ssl_chain_cert, 0, 0, 0, "", TEXT_NULL, "ssl_chain_cert",                                                 \
      "certificate of the server and its chain, PEM file")                                                            \
    X(TEXT, ssl_key, 0, 0, 0, "", TEXT_NULL, "ssl_key",                                                               \
      "private key, file; default: in the file of ssl_chain_cert")                                                    \
    X(U32, ssl_verify_mode, 0, 0, 7, "", NUMBER, "ssl_verify_mode",                                                   \
      "certificate of the client: 0 none, 1 checked if sent, 2 required, 3 required once")                            \
    X(U32, ssl_keyformat, SETTINGS_KEY_PEM, 1, 2, "", NUMBER, "ssl_keyformat",                                        \
      "format of the key: 1 or PEM, 2 or DER")                                                                        \
    X(TEXT, ssl_ciphers, 0, 0, 0, "", TEXT_NULL, "ssl_ciphers",                                                       \
      "ciphers for TLS up to 1.2, as OpenSSL names them")                                                             \
    X(TEXT, ssl_ca_cert, 0, 0, 0, "", TEXT_NULL, "ssl_ca_cert",                                                       \
      "CA certificates that clients' certificates are checked against, PEM file")                                                               \
    X(U32, ssl_wbuf_size, 16 * KiB, KiB, 16 * MiB, "bytes", NUMBER, "ssl_wbuf_size",                                  \
      "most bytes of replies to encrypt at once, given in KB; a record has 16")                                       \
    X(BOOL, ssl_session_cache, false, 0, 1, "", YES_NO, "ssl_session_cache",                                          \
      "clients can resume their sessions and skip most of the handshake")                                             \
    X(BOOL, ssl_kernel_tls, false, 0, 1, "", YES_NO, "ssl_kernel_tls",                                                \
      "the kernel encrypts, if it has TLS (module tls)")                                                              \
    X(U32, ssl_min_version, 2, 0, 3, "", TLS_VERSION, "ssl_min_version",                                              \
      "oldest version that clients may speak: 0 tlsv1.0, 1 tlsv1.1, 2 tlsv1.2, 3 tlsv1.3")                            \
    X(U32, num_napi_ids, 0, 1, 1024, "", NUMBER, "num_napi_ids",                                                      \
      "receive queues of the network card; connections of one stay with one worker")                                  \
    X(TEXT, memory_file, 0, 0, 0, "", TEXT_null, "memory_file",                                                       \
      "file on tmpfs for all memory; a restart takes it over")                                                        \
    X(U32, client_flags_size, 4, 4, 4, "bytes", NUMBER, "client_flags_size", "")                                      \
    /* ---- hidden ---- */                                                                                            \
    X(BOOL, daemonize, false, 0, 1, "", HIDDEN, "", "run as a daemon")                                                \
    X(TEXT, pid_file, 0, 0, 0, "", HIDDEN, "", "write the process id into this file")                                 \
    X(BOOL, log_privileges, false, 0, 1, "", HIDDEN, "",                                                              \
      "allow what drop_privileges would forbid, and let the kernel log it: for a trial")                              \
    X(BOOL, relaxed_privileges, false, 0, 1, "", HIDDEN, "",                                                          \
      "drop_privileges forbids only sockets and programs, as sanitizers require")                                     \
    X(BOOL, trust_memory_file, false, 0, 1, "", HIDDEN, "",                                                           \
      "-e may be a link, or a file that other users own or can write to")                                             \
    X(TEXT, log_file, 0, 0, 0, "", HIDDEN, "", "append log lines to this file")                                       \
    X(TEXT, username, 0, 0, 0, "", HIDDEN, "", "user to run as (needed, and only used, as root)")                     \
    X(BOOL, max_core, false, 0, 1, "", HIDDEN, "", "raise the limit of core files")                                   \
    X(BOOL, lock_memory, false, 0, 1, "", HIDDEN, "", "lock all memory (mlockall)")                                   \
    X(BOOL, large_pages, false, 0, 1, "", HIDDEN, "", "ask the kernel for huge pages (madvise)")                      \
    X(BOOL, watch_enabled, true, 0, 1, "", HIDDEN, "", "allow the watch command")                                     \
    X(TEXT, http, 0, 0, 0, "", HIDDEN, "",                                                                            \
      "metrics and a status page for operators: [ADDR:]PORT, by default on 127.0.0.1")                                \
    X(TEXT, auth_file, 0, 0, 0, "", HIDDEN, "", "file of user:pass lines; clients must log in")                       \
    X(BOOL, hash_expand, true, 0, 1, "", HIDDEN, "", "the index grows")                                               \
    X(U32, ssl_max_version, 3, 0, 3, "", HIDDEN, "",                                                                  \
      "newest version that clients may speak, numbered as for ssl_min_version")                                       \
    X(U32, sock_cookie_id, 0, 0, UINT32_MAX, "", HIDDEN, "", "SO_MARK of sockets; 0 none")                            \
    X(U64, ext_page_size, 64 * MiB, 64 * KiB, GiB, "bytes", HIDDEN, "",                                               \
      "flash page, given in MB: a multiple of 2 and of ext_wbuf_size; or with k, a multiple of 64k.\n"                 \
      "Without it: less if files have no room for 128; with content on flash, as it was made")                       \
    X(U32, ext_threads, 1, 1, SETTINGS_EXT_THREADS_MAX, "", HIDDEN, "", "threads that write to flash and reclaim it")                                                     \
    X(U32, ext_io_depth, 1, 1, 4096, "", HIDDEN, "", "reads of flash under way for each thread; at least 128 in any case")\
    X(U32, ext_persist, SETTINGS_PERSIST_OFF, 0, 2, "", HIDDEN, "",                                                   \
      "off; on: a clean stop moves everything to flash, also for a reboot; scan: after an\n"                          \
      "unclean stop, also reads what is on flash")                                                                    \
    X(U32, ext_io_engine, SETTINGS_ENGINE_AUTO, 0, 2, "", HIDDEN, "",                                                 \
      "auto, uring or threads: how flash is read and written")                                                        \
    X(U64, ext_write_limit, 0, 0, 1ull << 50, "bytes/s", HIDDEN, "",                                                  \
      "limit on bytes written to flash per second, with bursts of 10 s (k, m, g allowed); 0 none")                    \
    X(U64, ext_daily_writes, 0, 0, 1ull << 53, "bytes", HIDDEN, "",                                                   \
      "limit on bytes written to flash in any 24 hours (k, m, g, t allowed); 0 none")                                 \
    X(REAL, ext_rated_writes, 1, 0.001, 1000, "", HIDDEN, "",                                                         \
      "writes of its whole size a day that flash is rated for over five years (DWPD): stats\n"                        \
      "and status page tell how long it lasts")                                                                       \
    X(U32, ext_admission, SETTINGS_ADMISSION_LEARN, 0, 2, "", HIDDEN, "",                                             \
      "items written once flash is full: all; strict: those hit twice or known before; learn:\n"                      \
      "those worth as much as the rest")                                                                              \
    X(U32, ext_stay_pct, 33, 0, 100, "%", HIDDEN, "",                                                                 \
      "a page stays for another round if this share of it was hit twice; 0 none")                                     \
    X(U32, ext_rewrite_pct, 10, 0, 100, "%", HIDDEN, "",                                                              \
      "rewrite the hottest objects of an evicted page, up to this share of it")                                       \
    X(U32, ext_ttl_groups, 16, 0, 32, "", HIDDEN, "",                                                                 \
      "groups of values that expire together, in pages of their own, at most; 0 none")                                \
    X(BOOL, ext_verify_writes, false, 0, 1, "", HIDDEN, "",                                                           \
      "read each flash write back and compare it before its buffer is freed")                                         \
    X(U64, ext_buffer_mem, 0, 0, 1ull << 50, "bytes", HIDDEN, "",                                                     \
      "memory for flash write and read buffers, given in MB; default: 32, or 8 write buffers if their\n"                 \
      "size was given, and one for each of ext_ttl_groups up to 1/32 of -m")

/* Fields of struct settings by type. */
#define SETTING_C_BOOL _Atomic(bool)
#define SETTING_C_U32 _Atomic(uint32_t)
#define SETTING_C_I32 _Atomic(int32_t)
#define SETTING_C_U64 _Atomic(uint64_t)
#define SETTING_C_REAL _Atomic(double)
#define SETTING_C_TEXT char *

struct settings_listen {
    char host[SETTINGS_HOST_BYTES]; /* "" means every address */
    int port; /* 1 to 65535, SETTINGS_PORT_ANY, or SETTINGS_PORT_DEFAULT: that of -p (or -U) */
    enum settings_tls tls;          /* of notls:, btls: or mtls:; without -Z NONE */
};

struct settings_ext_file {
    char *path;
    uint64_t bytes; /* rounded down to whole pages by its user */
    enum settings_bucket bucket;
    bool format; /* ext_format names it: foreign data in it may be overwritten */
};

struct settings {
    /* one field per row of SETTINGS_TABLE, named as there; text is owned, NULL if unset */
#define X(type, field, ...) SETTING_C_##type field;
    SETTINGS_TABLE(X)
#undef X
    /* const once operator/command_line.h has filled them; zero beyond the counts */
    struct settings_listen listen[SETTINGS_LISTEN_MAX];
    uint32_t listen_count; /* 0: every address */
    struct settings_ext_file ext_files[SETTINGS_EXT_FILES_MAX];
    uint32_t ext_file_count; /* 0: no flash */
    const char *check_files[SETTINGS_EXT_FILES_MAX]; /* of --check: the caller's argv; then nothing else is set */
    uint32_t check_file_count;
    char *ext_formats[SETTINGS_EXT_FILES_MAX]; /* values of ext_format */
    uint32_t ext_format_count;
    struct { /* the operator gave these; the others follow from other settings */
        bool page_size, wbuf_size, buffer_mem, compact_under, drop_under;
    } ext_given;
    bool format_memory_file; /* one of them is the file of -e */
    uint32_t slab_sizes[SETTINGS_SLAB_SIZES_MAX];
    uint32_t slab_size_count; /* 0: classes by factor */
};

#define SETTINGS_PORT_ANY (-1)
#define SETTINGS_PORT_DEFAULT (-2)

#define SETTINGS_HASH_DEFAULT "murmur3"

/* Sets defaults; does not free earlier values. 0 or -ENOMEM. */
int settings_init(struct settings *s);
void settings_free(struct settings *s);

/* The most memory that a server with these settings takes, with all connections open and a value of the
 * largest size in progress in each thread. */
uint64_t settings_memory_bytes(const struct settings *s);

/* Passes the lines of `stats settings` to emit in memcached's order. */
void settings_print_stats(const struct settings *s,
                          void (*emit)(void *ctx, const char *name, const char *fmt, ...)
                              PRINTF_LIKE(3, 4),
                          void *ctx);

/* Number of flash pages in all files. */
uint64_t settings_ext_page_count(const struct settings *s);

const char *settings_bucket_name(enum settings_bucket b);

/* ---- the table as data, for what sets and shows any of them ---- */

enum setting_id {
#define X(type, field, ...) ID_##field,
    SETTINGS_TABLE(X)
#undef X
        SETTING_COUNT
};

struct setting {
    enum setting_type type;
    size_t offset;
    double dflt, min, max;
    const char *unit;
    enum setting_show show;
    const char *stat_name;
    const char *help;
};

extern const struct setting setting_table[SETTING_COUNT];

#define SETTING_FIELD(s, row, type) (*(type *)((char *)(s) + (row)->offset))
#define SETTING_CONST_FIELD(s, row, type) (*(type const *)((const char *)(s) + (row)->offset))

/* The value of a row that isn't text. */
double setting_number(const struct settings *s, const struct setting *row);
/* v is within the row's type. Numbers of settings stay below 2^53, so a double holds them. */
void setting_put_number(struct settings *s, const struct setting *row, double v);
bool setting_in_range(const struct setting *row, double v);
/* Keeps a copy. False: out of memory, nothing changed. */
bool setting_put_text(struct settings *s, const struct setting *row, const char *text);
/* The words of a setting that is one of a few, in the order of its enum, then NULL; NULL: it isn't. */
const char *const *setting_words(ptrdiff_t id);
/* False: none of its words. */
bool setting_put_word(struct settings *s, ptrdiff_t id, const char *word);

#endif
