/* base/log.h: the operator's log, one line for each event, on stderr.
 *
 * Each line is one write(2), so lines of several threads never mix. Under
 * systemd (stderr is the journal) it starts with "<N>", which gives the journal
 * its priority; otherwise with the time (UTC) and, if it is not a plain notice,
 * the level. Control characters are shown as \xNN, so no client byte can forge
 * a line.
 *
 * Each place in the source may print LOG_BURST lines in LOG_WINDOW_SEC. More are
 * only counted, and the next line of that place tells the count. A place that repeats for as long as something lasts may print
 * one line in LOG_RARE_SEC.
 *
 * Any thread; no locks; sleeps if stderr does. Process-wide static state: level
 * and descriptor. Before log_setup() it prints notices and worse to stderr.
 */
#ifndef EXTANT_LOG_H
#define EXTANT_LOG_H

#include "base/base.h"

enum {
    LOG_LINE_BYTES = 1024, /* longer lines are cut, and end in "..." */
    LOG_BURST = 10,
    LOG_WINDOW_SEC = 10,
    LOG_RARE_SEC = 60,
};

/*        level             word       systemd's priority */
#define LOG_LEVEL_TABLE(X)                                                                         \
    X(LOG_LEVEL_ERROR, "error", 3)     /* something is lost or can't go on */                      \
    X(LOG_LEVEL_WARNING, "warning", 4) /* works, but not as configured or hoped */                 \
    X(LOG_LEVEL_NOTICE, "notice", 5)   /* start, stop, changes by the operator */                  \
    X(LOG_LEVEL_INFO, "info", 6)       /* -v: what clients do wrong */                             \
    X(LOG_LEVEL_DEBUG, "debug", 7)     /* -vv: every command */

enum log_level {
    LOG_LEVEL_TABLE(ROW_NAME)
        LOG_LEVEL_COUNT
};

/* State of one place in the source; made by the macros below, all zero at first, but for is_rare. */
struct log_site {
    _Atomic uint64_t window_start_ms;
    _Atomic uint32_t printed_count; /* in this window */
    _Atomic uint32_t skipped_count; /* since the last line printed */
    bool is_rare;                   /* const */
};

/* Where lines go and down to which level. With journal < 0 it finds out whether fd is
 * systemd's journal ($JOURNAL_STREAM names its device and inode). */
void log_setup(int fd, enum log_level level, int journal);
/* The descriptor leads elsewhere now (dup2): finds out again whether that is the journal. */
void log_target_changed(void);

void log_set_level(enum log_level level); /* `verbosity` */
bool log_is_on(enum log_level level);
enum log_level log_level_of_verbosity(int verbosity); /* 0 notice, 1 info, 2 and more debug */

/* Use the macros. */
void log_line(struct log_site *site, enum log_level level, const char *fmt, ...)
    PRINTF_LIKE(3, 4);

#define log_at(level, ...)                                                                         \
    do {                                                                                           \
        static struct log_site log_site_;                                                          \
        if (log_is_on(level))                                                                      \
            log_line(&log_site_, level, __VA_ARGS__);                                              \
    } while (0)
#define log_warning_rarely(...)                                                                    \
    do {                                                                                           \
        static struct log_site log_site_ = {.is_rare = true};                                      \
        if (log_is_on(LOG_LEVEL_WARNING))                                                          \
            log_line(&log_site_, LOG_LEVEL_WARNING, __VA_ARGS__);                                  \
    } while (0)
#define log_error(...) log_at(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_at(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_notice(...) log_at(LOG_LEVEL_NOTICE, __VA_ARGS__)
#define log_info(...) log_at(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_at(LOG_LEVEL_DEBUG, __VA_ARGS__)

/* A key as readable text: printable ASCII stays, all other bytes and backslash become \xNN.
 * Returns out, always ended; cut with "..." if it doesn't fit (size >= 8; 4 * len + 1
 * always fits). */
const char *log_key(char *out, size_t size, const void *key, size_t len);

#endif
