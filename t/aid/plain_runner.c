/* plain_runner.c: runs Criterion tests with nothing but fork().
 *
 * Linked into every test program: it defines main() and the few functions of libcriterion through which a
 * test reports; the library only words its messages. Criterion's own runner talks to its tests over sockets
 * and threads, and on a busy machine it sometimes hung with no test running; it can't
 * start at all in a program built with TSan. This one has one thread and waits for child processes.
 *
 *   X_test [--jobs N] [--filter PATTERN] [--fail-fast] [--debug] [SUITE/TEST]
 *
 *   --filter     only tests whose "suite/test" fits the shell pattern
 *   --jobs       runs N at a time (1)
 *   --fail-fast  stops at the first that fails
 *   --debug      in this process, for a debugger: no fork, no time limit
 *
 * It prints what failed or was skipped, at once and again at the end with the first assertion of each that did not
 * hold, and then how many of each.
 * It knows setup, teardown, expected signal and exit code, timeout and disabled tests, of the test or of
 * its suite; not parameterised tests. A test without a timeout gets DEFAULT_TIMEOUT_SEC. */
#include <criterion/criterion.h>
#include <fnmatch.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"

/* Where the linker put Criterion's lists; weak, since there may be no suites. */
extern struct criterion_test *__start_cr_tst[], *__stop_cr_tst[];
extern struct criterion_suite *__start_cr_sts[] __attribute__((weak));
extern struct criterion_suite *__stop_cr_sts[] __attribute__((weak));

enum { EXIT_FAILED = 41, EXIT_SKIPPED = 42, DEFAULT_TIMEOUT_SEC = 600, JOBS_MAX = 64, SAID_BYTES = 400 };

enum verdict { PASSED, FAILED, CRASHED, SKIPPED, VERDICTS };

/* A test and the child that runs it. */
struct run {
    const struct criterion_test *test;
    pid_t pid;
    double end; /* killed then */
    bool is_late;
    char *said; /* SAID_BYTES that the child writes: its first assertion that did not hold; NULL: no memory */
};

static struct run runs[JOBS_MAX];
static unsigned running;
static int count[VERDICTS];
static char *bad[10000]; /* lines to repeat at the end */
static unsigned bads;

static const struct criterion_test *now; /* the test that this child runs */
static _Atomic bool any_failed;          /* an expectation of it did not hold */
static char *said;                       /* as in struct run */

static const struct criterion_test_extra_data *suite_of(const struct criterion_test *test)
{
    for (struct criterion_suite **s = __start_cr_sts; s < __stop_cr_sts; s++) {
        if (*s != NULL && strcmp((*s)->name, test->category) == 0)
            return (*s)->data;
    }
    return NULL;
}

/* ---- what a test calls ---- */

void criterion_send_assert(struct criterion_assert_stats *stats)
{
    if (stats->passed)
        return;
    fprintf(stderr, "%s/%s: %s:%u: assertion failed: %s\n", now->category, now->name, stats->file,
            stats->line, stats->message);
    if (said != NULL && said[0] == '\0')
        snprintf(said, SAID_BYTES, "%s:%u: %s", stats->file, stats->line, stats->message);
}

void criterion_abort_test(void)
{
    _exit(EXIT_FAILED);
}

void criterion_continue_test(void)
{
    any_failed = true;
}

void criterion_skip_test(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "[SKIP] %s/%s: ", now->category, now->name);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    _exit(EXIT_SKIPPED);
}

void cri_asserts_passed_incr(void)
{
}

void criterion_internal_test_setup(void)
{
    const struct criterion_test_extra_data *suite = suite_of(now);
    if (suite != NULL && suite->init != NULL)
        suite->init();
    if (now->data->init != NULL)
        now->data->init();
}

void criterion_internal_test_main(void (*fn)(void))
{
    fn();
}

void criterion_internal_test_teardown(void)
{
    const struct criterion_test_extra_data *suite = suite_of(now);
    if (now->data->fini != NULL)
        now->data->fini();
    if (suite != NULL && suite->fini != NULL)
        suite->fini();
}

/* ---- one test ---- */

static double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double timeout_of(const struct criterion_test *test)
{
    const struct criterion_test_extra_data *suite = suite_of(test);
    if (test->data->timeout > 0)
        return test->data->timeout;
    return suite != NULL && suite->timeout > 0 ? suite->timeout : DEFAULT_TIMEOUT_SEC;
}

/* Runs it in this process, which ends with it. exit, not _exit: sanitizers report there. */
static _Noreturn void run_here(const struct criterion_test *test)
{
    now = test;
    test->test();
    exit(any_failed ? EXIT_FAILED : 0);
}

/* what: the first assertion that did not hold; NULL or "": none is known. */
static void add_result(const struct criterion_test *test, enum verdict v, const char *why, int number, const char *what)
{
    static const char *const words[] = {"PASS", "FAIL", "CRASH", "SKIP"};
    count[v]++;
    if (v != FAILED && v != CRASHED)
        return;
    char line[1024];
    bool is_known = what != NULL && what[0] != '\0';
    fprintf(stderr, "[%s] %s/%s: %s %d\n", words[v], test->category, test->name, why, number);
    snprintf(line, sizeof(line), "[%s] %s/%s: %s %d%s%s\n", words[v], test->category, test->name, why, number,
             is_known ? "; " : "", is_known ? what : "");
    if (bads < sizeof(bad) / sizeof(bad[0]))
        bad[bads++] = strdup(line);
}

/* The child of a test has ended with this status. */
static void judge(const struct run *run, int status)
{
    const struct criterion_test *test = run->test;
    const struct criterion_test_extra_data *suite = suite_of(test);
    int signal_wanted = test->data->signal;
    int exit_wanted = test->data->exit_code;
    if (suite != NULL) {
        signal_wanted = signal_wanted ? signal_wanted : suite->signal;
        exit_wanted = exit_wanted ? exit_wanted : suite->exit_code;
    }
    if (run->is_late)
        add_result(test, CRASHED, "it took too long; seconds:", (int)timeout_of(test), run->said);
    else if (WIFSIGNALED(status))
        add_result(test, WTERMSIG(status) == signal_wanted ? PASSED : CRASHED, "killed by signal",
                   WTERMSIG(status), run->said);
    else if (WEXITSTATUS(status) == EXIT_SKIPPED)
        add_result(test, SKIPPED, NULL, 0, NULL);
    else
        add_result(test, signal_wanted == 0 && WEXITSTATUS(status) == exit_wanted ? PASSED : FAILED,
                   "exit status", WEXITSTATUS(status), run->said);
    if (run->said != NULL)
        munmap(run->said, SAID_BYTES);
}

/* Starts a test in a child of its own, which has the mask of signals given. */
static void start(const struct criterion_test *test, const sigset_t *mask)
{
    const struct criterion_test_extra_data *suite = suite_of(test);
    if (test->data->disabled || (suite != NULL && suite->disabled)) {
        count[SKIPPED]++;
        return;
    }
    if (test->data->kind_ != CR_TEST_NORMAL) {
        add_result(test, FAILED, "parameterised tests can't run here, kind", (int)test->data->kind_, NULL);
        return;
    }
    void *shared = mmap(NULL, SAID_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    said = shared == MAP_FAILED ? NULL : shared;
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid < 0) {
        add_result(test, CRASHED, "fork: errno", errno, NULL);
        return;
    }
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(EXIT_FAILED);
        sigprocmask(SIG_SETMASK, mask, NULL);
        run_here(test);
    }
    runs[running++] = (struct run){.test = test, .pid = pid, .end = seconds_now() + timeout_of(test), .said = said};
}

/* Waits until one of the running tests has ended, or kills one whose time is up. SIGCHLD is blocked. */
static void wait_for_some(void)
{
    unsigned before = running;
    while (running == before) {
        double end = runs[0].end;
        for (unsigned i = 0; i < running; i++) {
            int status;
            if (waitpid(runs[i].pid, &status, WNOHANG) == runs[i].pid) {
                judge(&runs[i], status);
                runs[i--] = runs[--running];
                continue;
            }
            if (seconds_now() >= runs[i].end) {
                runs[i].is_late = true;
                kill(runs[i].pid, SIGKILL);
                runs[i].end += DEFAULT_TIMEOUT_SEC;
            }
            end = runs[i].end < end ? runs[i].end : end;
        }
        if (running < before)
            return;
        double left = end - seconds_now();
        struct timespec t = {.tv_sec = left > 0 ? (time_t)left : 0, .tv_nsec = 1000000};
        sigset_t child;
        sigemptyset(&child);
        sigaddset(&child, SIGCHLD);
        sigtimedwait(&child, NULL, &t);
    }
}

/* ---- the command line ---- */

struct wishes {
    unsigned jobs;
    const char *filter; /* NULL: all */
    bool is_exact;      /* the filter is a name */
    bool fail_fast;
    bool debug;
};

static _Noreturn void usage(const char *program)
{
    fprintf(stderr, "usage: %s [--jobs N] [--filter PATTERN] [--fail-fast] [--debug] [SUITE/TEST]\n", program);
    exit(2);
}

static struct wishes parse(int argc, char **argv)
{
    static const struct option options[] = {{"jobs", required_argument, NULL, 'j'},
                                            {"filter", required_argument, NULL, 'f'},
                                            {"fail-fast", no_argument, NULL, 'F'},
                                            {"debug", no_argument, NULL, 'd'},
                                            {NULL, 0, NULL, 0}};
    struct wishes w = {.jobs = 1};
    int c;
    while ((c = getopt_long(argc, argv, "j:", options, NULL)) != -1) {
        switch (c) {
        case 'j': w.jobs = (unsigned)atoi(optarg); break;
        case 'f': w.filter = optarg; break;
        case 'F': w.fail_fast = true; break;
        case 'd': w.debug = true; break;
        default: usage(argv[0]);
        }
    }
    if (w.jobs < 1 || w.jobs > JOBS_MAX || argc - optind > 1 || (argc > optind && w.filter != NULL))
        usage(argv[0]);
    if (argc > optind) {
        w.filter = argv[optind];
        w.is_exact = true;
    }
    return w;
}

static bool is_wanted(const struct wishes *w, const struct criterion_test *test)
{
    char name[256];
    if (test == NULL)
        return false;
    snprintf(name, sizeof(name), "%s/%s", test->category, test->name);
    if (w->filter == NULL)
        return true;
    return w->is_exact ? strcmp(w->filter, name) == 0 : fnmatch(w->filter, name, FNM_EXTMATCH) == 0;
}

int main(int argc, char **argv)
{
    struct wishes w = parse(argc, argv);
    sigset_t child, before;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, &before);
    for (struct criterion_test **t = __start_cr_tst; t < __stop_cr_tst; t++) {
        if (!is_wanted(&w, *t))
            continue;
        if (w.fail_fast && bads > 0)
            break;
        if (w.debug) {
            sigprocmask(SIG_SETMASK, &before, NULL);
            run_here(*t);
        }
        start(*t, &before);
        if (running == w.jobs)
            wait_for_some();
    }
    while (running > 0)
        wait_for_some();
    if (bads > 0)
        fprintf(stderr, "---- failed:\n");
    for (unsigned i = 0; i < bads; i++)
        fputs(bad[i], stderr);
    fprintf(stderr, "[====] Synthesis: Tested: %d | Passing: %d | Failing: %d | Crashing: %d\n",
            count[PASSED] + count[FAILED] + count[CRASHED], count[PASSED], count[FAILED], count[CRASHED]);
    return bads > 0;
}
