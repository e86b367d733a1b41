/* base/log.c: see base/log.h. */
#include "base/log.h"

#include <stdarg.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

/* clang-format off */
static _Atomic int fd_out = 2;                        /* where lines go */
static _Atomic int level_max = LOG_LEVEL_NOTICE;      /* the least important that is printed */
static _Atomic bool is_journal;                       /* lines start with <N> */
/* clang-format on */

static const char *const level_words[] = {
    LOG_LEVEL_TABLE(ROW_TEXT)
};

static_assert(ARRAY_COUNT(level_words) == LOG_LEVEL_COUNT, "a word for each level");

static const int level_priorities[] = {
#define X(name, word, priority) priority,
    LOG_LEVEL_TABLE(X)
#undef X
};

static bool is_journal_stream(int fd)
{
    const char *stream = getenv("JOURNAL_STREAM");
    unsigned long long device, inode;
    struct stat st;
    return stream != NULL && sscanf(stream, "%llu:%llu", &device, &inode) == 2 &&
           fstat(fd, &st) == 0 && st.st_dev == device && st.st_ino == inode;
}

void log_setup(int fd, enum log_level level, int journal)
{
    fd_out = fd;
    is_journal = journal < 0 ? is_journal_stream(fd) : journal > 0;
    log_set_level(level);
}

void log_target_changed(void)
{
    is_journal = is_journal_stream(fd_out);
}

void log_set_level(enum log_level level)
{
    ASSERT(level < LOG_LEVEL_COUNT);
    level_max = (int)level;
}

bool log_is_on(enum log_level level)
{
    return (int)level <= atomic_load_explicit(&level_max, memory_order_relaxed);
}

enum log_level log_level_of_verbosity(int verbosity)
{
    if (verbosity <= 0)
        return LOG_LEVEL_NOTICE;
    return verbosity == 1 ? LOG_LEVEL_INFO : LOG_LEVEL_DEBUG;
}

static bool is_plain(unsigned char ch)
{
    return ch > 32 && ch < 127 && ch != '\\';
}

const char *log_key(char *out, size_t size, const void *key, size_t len)
{
    const unsigned char *p = key;
    size_t n = 0, whole = 0;
    ASSERT(size >= 8);
    for (size_t i = 0; i < len; i++)
        whole += is_plain(p[i]) ? 1 : 4;
    size_t room = whole < size ? whole : size - sizeof("...");
    for (size_t i = 0; i < len && n + (is_plain(p[i]) ? 1 : 4) <= room; i++) {
        if (is_plain(p[i]))
            out[n++] = (char)p[i];
        else
            n += (size_t)snprintf(out + n, size - n, "\\x%02x", p[i]);
    }
    strcpy(out + n, whole < size ? "" : "...");
    return out;
}

/* True iff this place may print now; *skipped is then the number of lines that it left out. Two
 * threads at the start of a window may let one more line through; that does no harm. */
static bool site_may_print(struct log_site *site, uint32_t *skipped)
{
    uint32_t window_sec = site->is_rare ? LOG_RARE_SEC : LOG_WINDOW_SEC, burst = site->is_rare ? 1 : LOG_BURST;
    uint64_t now = clock_mono_ms() + 1; /* never 0, which means that nothing was printed */
    uint64_t start = atomic_load(&site->window_start_ms);
    if (start == 0 || now - start >= window_sec * UINT64_C(1000)) {
        if (atomic_compare_exchange_strong(&site->window_start_ms, &start, now))
            atomic_store(&site->printed_count, 0);
    }
    if (atomic_fetch_add(&site->printed_count, 1) >= burst) {
        atomic_fetch_add(&site->skipped_count, 1);
        return false;
    }
    *skipped = atomic_exchange(&site->skipped_count, 0);
    return true;
}

/* Time and level, or the journal's priority. Returns the length. */
static size_t put_prefix(char *line, size_t size, enum log_level level)
{
    if (is_journal)
        return (size_t)snprintf(line, size, "<%d>", level_priorities[level]);
    time_t now = (time_t)(clock_wall_us() / 1000000);
    struct tm tm;
    gmtime_r(&now, &tm);
    size_t n = strftime(line, size, "%Y-%m-%dT%H:%M:%SZ ", &tm);
    if (level != LOG_LEVEL_NOTICE)
        n += (size_t)snprintf(line + n, size - n, "%s: ", level_words[level]);
    return n;
}

/* Appends the text with control characters made visible; the new length. */
static size_t put_text(char *line, size_t size, size_t n, const char *text)
{
    ASSERT(n < size);
    for (; *text != '\0' && n + 4 < size; text++) {
        unsigned char ch = (unsigned char)*text;
        if (ch >= 32 && ch != 127)
            line[n++] = (char)ch;
        else
            n += (size_t)snprintf(line + n, size - n, "\\x%02x", ch);
    }
    return n;
}

void log_line(struct log_site *site, enum log_level level, const char *fmt, ...)
{
    ASSERT(level < LOG_LEVEL_COUNT);
    uint32_t skipped;
    if (!site_may_print(site, &skipped))
        return;
    int saved_errno = errno;
    char text[LOG_LINE_BYTES], line[LOG_LINE_BYTES + 8];
    va_list ap;
    va_start(ap, fmt);
    int len = vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (len < 0)
        text[0] = '\0';
    size_t body_max = LOG_LINE_BYTES - 80; /* room for the count of skipped lines */
    size_t n = put_prefix(line, sizeof(line), level);
    n = put_text(line, body_max, n, text);
    if (n + 4 >= body_max)
        n += (size_t)snprintf(line + n, sizeof(line) - n, "...");
    if (skipped > 0)
        n += (size_t)snprintf(line + n, sizeof(line) - n, " (%" PRIu32 " more like this left out)",
                              skipped);
    ASSERT(n < sizeof(line));
    line[n++] = '\n';
    ssize_t rc;
    do
        rc = write(fd_out, line, n);
    while (rc < 0 && errno == EINTR);
    errno = saved_errno; /* if the log can't be written, there is nowhere to report it */
}
