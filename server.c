/* server.c: main: creates every part in the order of their dependencies, runs the loop that
 * accepts clients and receives signals, destroys everything in reverse. It holds no policy.
 *
 *   settings -> identity (limits, daemon, user) -> clock -> users, counters, watch -> http
 *   -> storage (restart/restart.h: arena, slabs, index, cache, flash) -> TLS, UDP
 *   -> crawler -> maintenance -> workers -> listeners -> system call filter
 *
 * Threads: this is the main thread; it alone receives signals. */
#include <dirent.h>
#include <event2/event.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/resource.h>
#include <unistd.h>

#include "operator/auth.h"
#include "base/clock.h"
#include "command/stats_report.h"
#include "base/confine.h"
#include "crawler.h"
#include "net/listener.h"
#include "base/log.h"
#include "base/notify.h"
#include "base/memory.h"
#include "base/own_file.h"
#include "base/passed.h"
#include "maint_thread.h"
#include "operator/command_line.h"
#include "operator/prefix.h"
#include "operator/samples.h"
#include "restart/check.h"
#include "net/http.h"
#include "net/tls_conn.h"
#include "net/udp.h"
#include "operator/watch.h"
#include "net/worker.h"
#include "storage_config.h"

enum {
    EXIT_NO_USER = SETTINGS_EXIT_NO_USER,
    EXIT_OS = SETTINGS_EXIT_OS,
    FDS_OF_A_WORKER = 8,    /* event loop, wake-ups, a ring for the network and one for flash */
    FDS_OF_OURS = 64,       /* for everything else: files, other threads */
    FDS_FOR_LATER = 16,     /* of these, for files opened later: dumps, the log, a checkpoint */
    FDS_PER_THREAD_IN_C = 5, /* what memcached's -c counts for a thread */
    SECOND_SIGNAL_MS = 5000
};

struct server {
    struct settings settings;
    struct cache_config config;
    struct ext_tunables tunables;
    struct server_counters counters;
    struct command_env env;
    struct restart storage;
    struct workers workers;
    struct listeners *listeners;
    struct http *http; /* NULL without --http */
    struct event_base *base;
    struct event *signals[4];
    bool watch_started;
    struct own_file pid_file;
    const char *why_stopped; /* the signal; NULL: it never served */
};

static int fail(int code, const char *what, const char *why)
{
    fprintf(stderr, "%s%s%s\n", what, why ? ": " : "", why ? why : "");
    return code;
}

/* ---- identity: descriptors, limits, daemon, user ---- */

/* If one of these is closed, the first socket or flash file would get its number, and log lines would be
 * written into it. */
static void open_standard_files(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF && open("/dev/null", O_RDWR) != fd)
            _exit(EXIT_OS);
    }
}

/* From now on standard error is appended to this file. 0 or -errno. */
static int log_to_file(const char *path)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
    if (fd < 0)
        return -errno;
    int rc = dup2(fd, STDERR_FILENO) < 0 ? -errno : 0;
    close(fd);
    log_target_changed();
    return rc;
}

static uint64_t count_descriptors(void)
{
    uint64_t count = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (dir && readdir(dir))
        count++;
    if (dir)
        closedir(dir);
    return count > 3 ? count - 3 : FDS_OF_OURS; /* ".", ".." and the directory itself */
}

/* Descriptors that are needed beside those of clients, so that -c of these get one. */
static uint64_t count_our_own(const struct settings *s)
{
    uint64_t addresses = 2 * max_u64(s->listen_count, 1); /* a name may stand for one of each family */
    uint64_t sockets = addresses * (s->udpport == 0 ? 1 : 2 + s->num_threads); /* each worker has its own of UDP */
    return count_descriptors() + FDS_OF_OURS + (uint64_t)s->num_threads * FDS_OF_A_WORKER + sockets +
           (s->http ? HTTP_CONNECTIONS_MAX : 0);
}

static int raise_limits(const struct settings *s)
{
    struct rlimit r;
    if (s->max_core && getrlimit(RLIMIT_CORE, &r) == 0) {
        r.rlim_cur = r.rlim_max = RLIM_INFINITY;
        if (setrlimit(RLIMIT_CORE, &r) < 0 && getrlimit(RLIMIT_CORE, &r) == 0) {
            r.rlim_cur = r.rlim_max;
            setrlimit(RLIMIT_CORE, &r);
        }
        if (getrlimit(RLIMIT_CORE, &r) < 0 || r.rlim_cur == 0)
            return fail(EXIT_OS, "failed to ensure corefile creation", NULL);
    }
    if (getrlimit(RLIMIT_NOFILE, &r) < 0)
        return fail(EXIT_OS, "failed to get the limit of open files", NULL);
    rlim_t need = s->maxconns;
    rlim_t wish = need + count_our_own(s);
    if (r.rlim_cur >= wish)
        return 0;
    rlim_t old_max = r.rlim_max;
    r.rlim_cur = wish;
    r.rlim_max = old_max < wish ? wish : old_max;
    if (setrlimit(RLIMIT_NOFILE, &r) == 0)
        return 0;
    r.rlim_cur = r.rlim_max = old_max; /* the most that is allowed */
    if (old_max >= need && setrlimit(RLIMIT_NOFILE, &r) == 0)
        return 0;
    fprintf(stderr, "failed to set rlimit for open files. Try starting as root or requesting smaller "
                    "maxconns value. (-c %" PRIu64 ", but the limit is %" PRIu64 ")\n",
            (uint64_t)need, (uint64_t)old_max);
    return EXIT_OS;
}

static int become_daemon(const struct settings *s)
{
    switch (fork()) {
    case -1:
        return fail(EXIT_OS, "failed to become a daemon: fork()", strerror(errno));
    case 0:
        break;
    default:
        _exit(0);
    }
    if (setsid() < 0)
        return fail(EXIT_OS, "setsid()", strerror(errno));
    if (!s->max_core && chdir("/") < 0)
        return fail(EXIT_OS, "chdir()", strerror(errno));
    if (s->verbosity > 0)
        return 0;
    int fd = open("/dev/null", O_RDWR);
    if (fd < 0)
        return 0;
    dup2(fd, STDIN_FILENO);
    dup2(fd, STDOUT_FILENO);
    dup2(fd, STDERR_FILENO);
    if (fd > STDERR_FILENO)
        close(fd);
    return 0;
}

static int drop_root(const struct settings *s)
{
    if (!s->username || (getuid() != 0 && geteuid() != 0))
        return 0;
    struct passwd *pw = getpwnam(s->username);
    if (!pw) {
        fprintf(stderr, "can't find the user %s to switch to\n", s->username);
        return EXIT_NO_USER;
    }
    if (setgroups(0, NULL) < 0) {
        if (errno != EPERM)
            return fail(EXIT_OS, "failed to drop supplementary groups", strerror(errno));
        /* A user namespace may forbid it; there the groups mean nothing outside. */
        log_warning("failed to drop supplementary groups: %s", strerror(errno));
    }
    if (setgid(pw->pw_gid) < 0 || setuid(pw->pw_uid) < 0) {
        fprintf(stderr, "failed to assume identity of user %s\n", s->username);
        return EXIT_OS;
    }
    return 0;
}

static int take_identity(const struct settings *s)
{
    int code = raise_limits(s);
    bool is_managed = notify_open();
    if (!code && s->daemonize && is_managed)
        log_notice("-d is not needed: a service manager waits for this process");
    else if (!code && s->daemonize)
        code = become_daemon(s);
    int rc = !code && s->log_file ? log_to_file(s->log_file) : 0;
    if (rc) {
        fprintf(stderr, "can't write the log file %s: %s\n", s->log_file, strerror(-rc));
        code = EXIT_OS;
    }
    if (!code)
        code = drop_root(s);
    if (code)
        return code;
    memory_setup();
    /* The used part, not the reserved address space. */
    if (s->lock_memory && mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0)
        log_warning("-k: memory is not locked: %s; the limit of locked memory may be too low (ulimit -l, LimitMEMLOCK=)",
                    strerror(errno));
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file that grows beyond ulimit -f is an error like others, not the end */
    return 0;
}

/* Writes a new file, which gets its name when it is complete. */
static int make_pid_file(struct server *s)
{
    const char *path = s->settings.pid_file;
    char tmp[4096];
    if (!path)
        return 0;
    snprintf(tmp, sizeof(tmp), "%s.tmp", path);
    FILE *f = fopen(tmp, "we");
    if (!f) {
        log_warning("Could not open the pid file %s for writing: %s", tmp, strerror(errno));
        return 0;
    }
    fprintf(f, "%ld\n", (long)getpid());
    if (fclose(f) != 0 || rename(tmp, path) < 0) {
        log_warning("Could not write the pid file %s: %s", path, strerror(errno));
        unlink(tmp);
        return 0;
    }
    own_file_note(&s->pid_file, path);
    return 0;
}

/* ---- calls between the parts ---- */

static void log_ext_event(void *ctx UNUSED, const char *line)
{
    watch_sysevent(line);
}

static int client_accepted(void *ctx, const struct conn_origin *origin)
{
    struct server *s = ctx;
    return workers_add(&s->workers, origin);
}

static void stop_server(void *upper UNUSED, bool graceful)
{
    kill(getpid(), graceful ? SIGUSR1 : SIGINT);
}

static void each_conn(void *upper,
                      void (*fn)(void *ctx, int fd, const char *name, const char *text), void *ctx)
{
    struct server *s = upper;
    listeners_each(s->listeners, fn, ctx);
    workers_each_conn(&s->workers, fn, ctx);
}

static void buffer_info(void *upper, struct buffer_pool *sum)
{
    struct server *s = upper;
    workers_buffer_info(&s->workers, sum);
}

#ifdef EXTANT_TLS
static int refresh_certs(void *upper, char *why, size_t why_bytes)
{
    struct server *s = upper;
    int err = tls_refresh(s->env.tls, why, why_bytes);
    if (err)
        log_warning("certificates not loaded, the old ones stay: %s", why);
    else
        log_notice("certificates loaded");
    return err;
}

static int open_tls(struct server *s)
{
    char why[TLS_WHY_BYTES] = "";
    if (!s->settings.ssl_enabled)
        return 0;
    s->env.tls = tls_create(&s->settings, &s->counters, why, sizeof(why));
    if (!s->env.tls)
        return fail(SETTINGS_EXIT_USAGE, why, NULL);
    s->env.conn_tls = &tls_conn_calls;
    s->env.refresh_certs = refresh_certs;
    s->env.tls_bytes = tls_bytes;
    return 0;
}

static void close_tls(struct server *s)
{
    tls_destroy(s->env.tls);
}
#else
static int open_tls(struct server *s)
{
    ASSERT(!s->settings.ssl_enabled); /* it is refused */
    return 0;
}

static void close_tls(struct server *s)
{
    ASSERT(!s->env.tls);
}
#endif

/* ---- signals ---- */

static const int heard_signals[] = {SIGINT, SIGTERM, SIGUSR1, SIGHUP};

/* SIGHUP: opens files again that may have been changed or moved away. */
static void hear_hangup(struct server *s)
{
    const struct settings *set = &s->settings;
    int err = set->log_file ? log_to_file(set->log_file) : 0;
    if (err)
        log_warning("log file %s can't be reopened, the old one stays: %s", set->log_file,
                    strerror(-err));
    char why[TLS_WHY_BYTES];
    if (s->env.refresh_certs)
        (void)s->env.refresh_certs(s, why, sizeof(why));
    if (!s->env.auth)
        return;
    err = auth_reload(s->env.auth);
    if (err)
        log_warning("auth file %s not reloaded, the old users stay: %s", set->auth_file,
                    err == -EINVAL    ? "a line is not user:password"
                    : err == -ENODATA ? "it has no user"
                                      : strerror(-err));
    else
        log_notice("auth file reloaded");
}

static void signal_heard(evutil_socket_t sig, short what UNUSED, void *arg)
{
    struct server *s = arg;
    if (sig == SIGHUP) {
        hear_hangup(s);
        return;
    }
    s->why_stopped = sig == SIGUSR1 ? "SIGUSR1" : sig == SIGTERM ? "SIGTERM" : "SIGINT";
    log_info("Signal handled: %s.", strsignal((int)sig));
    event_base_loopbreak(s->base);
}

static uint64_t stop_began_ms; /* before the handler is there, and const then */

/* A process that stops still waits for the device: at most for what is under way there, but for as long as that takes.
 * Then a second signal ends it like kill -9. Right after the first one it is most likely the same wish, told twice. */
static void end_at_once(int sig)
{
    static const char line[] = "extant: a second signal: ends at once, without waiting for flash; "
                               "what a clean stop would have written is not there\n";
    if (clock_mono_ms() - stop_began_ms < SECOND_SIGNAL_MS)
        return;
    (void)!write(STDERR_FILENO, line, sizeof(line) - 1); /* it ends in any case */
    _exit(128 + sig);
}

static void hear_second_signal(void)
{
    static const int signals[] = {SIGINT, SIGTERM};
    struct sigaction action = {.sa_handler = end_at_once, .sa_flags = SA_RESTART};
    stop_began_ms = clock_mono_ms();
    for (size_t i = 0; i < ARRAY_COUNT(signals); i++)
        sigaction(signals[i], &action, NULL);
}

/* Threads created from now on receive none of these signals; the main thread does once its loop runs. */
static void block_signals(int how)
{
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < ARRAY_COUNT(heard_signals); i++)
        sigaddset(&set, heard_signals[i]);
    pthread_sigmask(how, &set, NULL);
}

static int hear_signals(struct server *s)
{
    static_assert(ARRAY_COUNT(heard_signals) == ARRAY_COUNT(s->signals), "one event for each");
    for (size_t i = 0; i < ARRAY_COUNT(heard_signals); i++) {
        s->signals[i] = evsignal_new(s->base, heard_signals[i], signal_heard, s);
        if (!s->signals[i] || evsignal_add(s->signals[i], NULL) < 0)
            return -ENOMEM;
    }
    return 0;
}

/* ---- up ---- */

/* Logs a line if the kernel might kill the process for exceeding the limit of its control group. */
static void compare_with_limit(const struct settings *s)
{
    struct memory_cgroup group;
    memory_cgroup("", &group);
    uint64_t limit = group.limit_bytes, need = settings_memory_bytes(s);
    if (limit == 0 || need <= limit)
        return;
    uint64_t beside = need - s->maxbytes;
    char advice[64] = "a larger limit is needed";
    if (limit >= beside + 2 * MiB)
        snprintf(advice, sizeof(advice), "-m %" PRIu64 " would fit", (limit - beside) / MiB);
    log_warning("memory: the control group allows %" PRIu64 " MB, but -m %" PRIu64 " takes up to %" PRIu64
                " MB with its buffers, threads and connections: %s",
                limit / MiB, (uint64_t)s->maxbytes / MiB, (need + MiB - 1) / MiB, advice);
}

static int open_storage(struct server *s)
{
    char why[RESTART_LINE_BYTES];
    storage_config_init(&s->settings, &s->config, &s->tunables);
    /* Maintenance, crawler and a clean stop read too. */
    struct restart_options opt =
        storage_options(&s->settings, &s->config, &s->tunables, s->settings.num_threads + 3);
    int rc;
    do {
        (void)storage_keep_sizes(&s->settings, &opt, why, sizeof(why));
        if (why[0])
            log_notice("%s", why);
        compare_with_limit(&s->settings);
        rc = restart_open(&opt, &s->storage, why, sizeof(why));
        if (rc == -ERESTART)
            log_notice("%s", why);
    } while (rc == -ERESTART);
    if (rc != 0)
        return fail(EXIT_OS, why, NULL);
    s->settings.oldest_live_sec = cache_oldest_live_sec(s->storage.cache);
    if (s->storage.line[0])
        log_notice("%s", s->storage.line);
    struct arena *arena = s->storage.arena;
    if (s->settings.large_pages &&
        madvise(arena_base(arena), arena_reserve_bytes(arena), MADV_HUGEPAGE) != 0)
        log_warning("-L: no huge pages: %s", strerror(errno));
    if (s->storage.ext)
        ext_set_event_hook(s->storage.ext, log_ext_event, NULL);
    return 0;
}

/* Makes the counters of threads, the users, `stats detail` and the log for watchers. */
static int make_aids(struct server *s)
{
    struct command_env *env = &s->env;
    const struct settings *set = &s->settings;
    env->thread_count = set->num_threads;
    env->thread_stats = calloc(env->thread_count, sizeof(*env->thread_stats));
    for (unsigned i = 0; env->thread_stats && i < env->thread_count; i++) {
        struct thread_stats *t = aligned_alloc(CACHE_LINE_BYTES, sizeof(*t));
        if (!t)
            return fail(EXIT_OS, "failed to allocate counters", NULL);
        memset(t, 0, sizeof(*t));
        env->thread_stats[i] = t;
        if (set->http)
            t->samples = samples_create((char)set->prefix_delimiter);
    }
    env->prefixes = prefixes_create((char)set->prefix_delimiter);
    if (!env->thread_stats || !env->prefixes)
        return fail(EXIT_OS, "failed to allocate memory", NULL);
    if (set->auth_file) {
        env->auth = auth_create(set->auth_file);
        int err = env->auth ? 0 : errno;
        if (err == EINVAL)
            fprintf(stderr, "Authfile [%s] has a malformed entry. Should be 'user:password'\n", set->auth_file);
        else if (err == ENODATA)
            fprintf(stderr, "Authfile [%s] has no user: it needs lines of 'user:password'\n", set->auth_file);
        else if (err)
            fprintf(stderr, "Could not open authfile [%s] for reading, error %s\n", set->auth_file, strerror(err));
        if (err)
            return err == EINVAL || err == ENODATA ? SETTINGS_EXIT_CONFIG : EXIT_OS;
    }
    struct watch_options watch = {.watcher_bytes = set->watcher_logbuf_size,
                                  .staging_bytes =
                                      (size_t)set->worker_logbuf_size * set->num_threads};
    int err = watch_start(&watch);
    if (err)
        return fail(EXIT_OS, "failed to start the log thread", strerror(-err));
    s->watch_started = true;
    return 0;
}

/* Before the cache exists, so that a long start can be watched. */
static int open_http(struct server *s)
{
    char why[512] = "";
    if (!s->settings.http)
        return 0;
    s->http = http_start(s->settings.http, why, sizeof(why));
    return s->http ? 0 : fail(EXIT_OS, why, NULL);
}

/* Before the threads, which read the sockets. */
static int open_udp(struct server *s)
{
    char why[512] = "";
    if (s->settings.udpport == 0 || s->settings.socketpath)
        return 0;
    s->env.udp = udp_open(&s->settings, why, sizeof(why));
    return s->env.udp ? 0 : fail(EXIT_OS, why, NULL);
}

static int start_threads(struct server *s)
{
    struct command_env *env = &s->env;
    env->settings = &s->settings;
    env->config = &s->config;
    env->cache = s->storage.cache;
    env->arena = s->storage.arena;
    env->slab = s->storage.slab;
    env->index = s->storage.index;
    env->ext = s->storage.ext;
    env->persist = s->storage.persist;
    env->tunables = &s->tunables;
    env->counters = &s->counters;
    env->reserved_fds = (uint64_t)FDS_PER_THREAD_IN_C * env->thread_count;
    env->connection_bytes = sizeof(struct conn);
    env->upper = s;
    env->stop = stop_server;
    env->each_conn = each_conn;
    env->buffer_info = buffer_info;
    env->report = report_create(env->ext);
    if (!env->report)
        return fail(EXIT_OS, "failed to allocate memory", NULL);
    env->crawler = crawler_create(env->cache);
    if (!env->crawler)
        return fail(EXIT_OS, "failed to start the crawler thread", strerror(errno));
    struct maint_options maint = {
        .cache = env->cache, .crawler = env->crawler};
    env->maint = maint_create(&maint);
    if (!env->maint)
        return fail(EXIT_OS, "failed to start the maintenance thread", strerror(errno));
    int err = workers_start(&s->workers, env);
    if (err)
        return fail(EXIT_OS, "failed to start worker threads", strerror(-err));
    return 0;
}

/* -c limits all descriptors together, as in memcached; a small one counts only clients. But it is never
 * more than the process has left, so that clients beyond it get a refusal instead of waiting. */
static uint64_t client_limit(const struct server *s)
{
    uint64_t conns = s->settings.maxconns, ours = s->env.reserved_fds + 2;
    uint64_t limit = conns > 2 * ours ? conns - ours : conns;
    uint64_t used = count_descriptors() + FDS_FOR_LATER + (s->http ? HTTP_CONNECTIONS_MAX : 0);
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0 || r.rlim_cur == RLIM_INFINITY ||
        used + limit <= r.rlim_cur)
        return limit;
    uint64_t left = r.rlim_cur > used ? r.rlim_cur - used : 1;
    log_warning("the limit of open files (%" PRIu64 ") leaves room for %" PRIu64
                " clients, fewer than -c %" PRIu64 " asks for",
                (uint64_t)r.rlim_cur, left, conns);
    return left;
}

static int start_listening(struct server *s)
{
    char why[512] = "";
    struct listener_options opt = {
        .settings = &s->settings,
        .base = s->base,
        .counters = &s->counters,
        .udp = s->env.udp,
        .accepted = client_accepted,
        .ctx = s,
    };
    s->listeners = listeners_open(&opt, why, sizeof(why));
    if (!s->listeners)
        return fail(EXIT_OS, why, NULL);
    listeners_set_limit(s->listeners, client_limit(s));
    return 0;
}

/* ---- what the operator learns at the start ---- */

static void warn_of_memory_file(const struct settings *set)
{
    struct statfs fs;
    struct stat st;
    if (!set->memory_file || statfs(set->memory_file, &fs) != 0 || stat(set->memory_file, &st) != 0)
        return;
    uint64_t room = (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize + (uint64_t)st.st_blocks * 512;
    uint64_t buffers = set->ext_file_count > 0 ? (uint64_t)set->ext_buffer_mem : 0;
    char also[64] = "";
    if (buffers > 0)
        snprintf(also, sizeof(also), " and %" PRIu64 " MB of flash buffers", buffers / MiB);
    if (fs.f_blocks > 0 && room < set->maxbytes + buffers) /* 0 blocks: a tmpfs without a limit */
        log_warning("-e %s: its file system has room for %" PRIu64 " MB, less than -m %" PRIu64
                    "%s: beyond that %s",
                    set->memory_file, room / MiB, (uint64_t)set->maxbytes / MiB, also,
                    set->ext_file_count > 0 ? "items leave for flash early" : "items are evicted");
    if (fs.f_type != TMPFS_MAGIC && fs.f_type != RAMFS_MAGIC && fs.f_type != HUGETLBFS_MAGIC)
        log_warning("-e %s is not on tmpfs: the kernel writes all changes of memory to that disk; "
                    "use a file below /dev/shm",
                    set->memory_file);
}

static void warn_of_flash(struct extstore *ext)
{
    for (unsigned i = 0; ext && i < ext_device_count(ext); i++) {
        struct ext_device_info d;
        ext_device_info(ext, i, &d);
        if (!d.direct)
            log_warning("flash %s: its file system has no direct I/O, so the kernel keeps what is read from it in "
                        "memory, beside -m; use a file on ext4 or XFS, or a device",
                        d.path);
    }
}

static const char *what_survives(const struct settings *set)
{
    if (set->memory_file)
        return set->ext_persist != SETTINGS_PERSIST_OFF ? "any end of the process, and a reboot after a clean stop"
                                                        : "any end of the process, but no reboot";
    return set->ext_persist == SETTINGS_PERSIST_SCAN ? "a clean stop; after a kill, what is on flash"
           : set->ext_persist == SETTINGS_PERSIST_ON ? "a clean stop, and a reboot after it"
                                                     : "nothing: each start is empty";
}

/* One line with the essentials, and one for each choice that is probably unintended. */
static int tell_start(struct server *s)
{
    const struct settings *set = &s->settings;
    char where[400], flash[600] = "no flash";
    bool to_all = listeners_text(s->listeners, where, sizeof(where));
    size_t at = 0;
    for (uint32_t i = 0; i < set->ext_file_count && at < sizeof(flash); i++)
        at += (size_t)snprintf(flash + at, sizeof(flash) - at, "%s%s %" PRIu64 " MB", i > 0 ? " + " : "flash ",
                               set->ext_files[i].path, set->ext_files[i].bytes / MiB);
    if (s->storage.ext && at < sizeof(flash)) {
        struct ext_info info;
        ext_info(s->storage.ext, &info);
        snprintf(flash + at, sizeof(flash) - at, " (%s), -m can index %" PRIu64 " objects", info.engine,
                 index_capacity(cache_index_limit(set->maxbytes)));
    }
    log_notice("extant %s serves on %s; %" PRIu64 " MB of memory; %s; the cache survives %s", EXTANT_VERSION, where,
               (uint64_t)set->maxbytes / MiB, flash, what_survives(set));
    if (to_all && !set->auth_file)
        log_warning("everybody who reaches this machine can read and change the cache: -l ADDRESS or -Y FILE "
                    "would restrict it");
    if (geteuid() == 0)
        log_warning("running as root; -u USER is safer");
    warn_of_memory_file(set);
    warn_of_flash(s->storage.ext);
    notify_send("READY=1\nMAINPID=%ld\nSTATUS=serving on %s", (long)getpid(), where);
    return 0;
}

static int confine(struct server *s)
{
    const struct settings *set = &s->settings;
    if (!set->drop_privileges && !set->log_privileges)
        return 0;
    if (s->storage.persist)
        persist_prepare_end(s->storage.persist);
    enum confine_mode mode = set->log_privileges       ? CONFINE_LOG
                             : set->relaxed_privileges ? CONFINE_RELAXED
                                                       : CONFINE_FULLY;
    int err = confine_process(mode);
    return err ? fail(EXIT_OS, "-o drop_privileges: the system call filter (seccomp) is refused", strerror(-err)) : 0;
}

static int bring_up(struct server *s)
{
    /* Each returns 0, or the exit code of the process. */
    static int (*const steps[])(struct server *) = {
        make_aids,     open_http,       open_storage,  open_tls, open_udp,
        start_threads, start_listening, make_pid_file, confine,  tell_start,
    };
    clock_setup();
    if (clock_wall_is_odd())
        log_warning("the machine's clock is before 1970 or after 2096: expiry times given as unix time are "
                    "wrong until it is set and the server started again; times to live are kept");
    s->base = event_base_new();
    if (!s->base || hear_signals(s) != 0)
        return fail(EXIT_OS, "failed to make an event loop", NULL);
    int code = 0;
    for (size_t i = 0; i < ARRAY_COUNT(steps) && !code; i++)
        code = steps[i](s);
    return code;
}

/* ---- down: everything that bring_up has made, even if it failed half way ---- */

static void tell_stop(const struct server *s, uint64_t items, uint64_t objects, uint64_t start_ns)
{
    const struct settings *set = &s->settings;
    double sec = (double)(clock_mono_ns() - start_ns) / 1e9;
    if (set->memory_file)
        log_notice("stopped by %s in %.1f s: %" PRIu64 " items and %" PRIu64 " objects on flash stay, in %s",
                   s->why_stopped, sec, items, objects, set->memory_file);
    else if (s->storage.is_saved)
        log_notice("stopped by %s in %.1f s: %" PRIu64 " objects stay on flash, in %s", s->why_stopped, sec,
                   s->storage.saved_objects, set->ext_files[0].path);
    else
        log_notice("stopped by %s in %.1f s: nothing is kept (%" PRIu64 " items, %" PRIu64 " objects on flash)",
                   s->why_stopped, sec, items, objects);
}

static void close_storage(struct server *s)
{
    struct cache_totals totals = {0};
    uint64_t start_ns = clock_mono_ns();
    if (!s->storage.arena)
        return;
    if (s->storage.cache)
        cache_totals(s->storage.cache, &totals);
    notify_send("STOPPING=1\nSTATUS=stopping");
    restart_close(&s->storage, true);
    if (s->why_stopped)
        tell_stop(s, totals.ram_items, totals.flash_objects, start_ns);
}

static void take_down(struct server *s)
{
    struct command_env *env = &s->env;
    hear_second_signal();
    atomic_store(&env->stopping, true);
    http_stop(s->http);
    workers_stop(&s->workers);
    udp_close(env->udp);
    close_tls(s);
    listeners_close(s->listeners); /* `stats conns` reads it until here; no thread accepts any more */
    if (env->maint)
        maint_destroy(env->maint);
    if (env->crawler)
        crawler_destroy(env->crawler);
    close_storage(s);
    if (s->watch_started)
        watch_stop();
    auth_destroy(env->auth);
    if (env->prefixes)
        prefixes_destroy(env->prefixes);
    report_destroy(env->report);
    for (unsigned i = 0; env->thread_stats && i < env->thread_count; i++) {
        if (env->thread_stats[i])
            samples_destroy(env->thread_stats[i]->samples);
        free(env->thread_stats[i]);
    }
    free(env->thread_stats);
    for (size_t i = 0; i < ARRAY_COUNT(s->signals); i++)
        if (s->signals[i])
            event_free(s->signals[i]);
    if (s->base)
        event_base_free(s->base);
    libevent_global_shutdown();
    own_file_remove(&s->pid_file);
}

int main(int argc, char **argv)
{
    open_standard_files();
    passed_setup();
    struct server *s = calloc(1, sizeof(*s));
    if (!s)
        return fail(EXIT_OS, "failed to allocate memory", NULL);
    int code = settings_parse(&s->settings, argc, argv, stdout, stderr);
    if (code == SETTINGS_GO_ON && s->settings.check_file_count > 0)
        code = check_files(s->settings.check_files, s->settings.check_file_count, stdout);
    else if (code == SETTINGS_GO_ON)
        code = settings_check_root(&s->settings, geteuid() == 0 || getuid() == 0, stderr);
    if (code == SETTINGS_GO_ON) {
        log_setup(STDERR_FILENO, log_level_of_verbosity((int)s->settings.verbosity), -1);
        code = take_identity(&s->settings);
        if (code == 0) {
            block_signals(SIG_BLOCK);
            code = bring_up(s);
            if (code == 0) {
                listeners_accept(s->listeners);
                if (s->http)
                    http_publish(s->http, &s->env);
                block_signals(SIG_UNBLOCK);
                event_base_dispatch(s->base);
            }
            take_down(s);
        }
    }
    settings_free(&s->settings);
    free(s);
    return code;
}
