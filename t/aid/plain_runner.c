/* plain_runner.c: runs Criterion tests with nothing but fork().
 *
 * Criterion's own runner maps memory for its sandbox where ThreadSanitizer has
 * its shadow, so it can't start in a program built with TSan. This one is
 * linked into such programs instead: it defines main() and the few functions
 * of libcriterion through which a test reports, and prints the same last line.
 * It knows setup, teardown, expected signal and exit code, timeout and
 * disabled tests, of the test or of its suite; not parameterised tests.
 * Arguments are ignored, except that a lone name "suite/test" runs only that.
 */
#include <criterion/criterion.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"

/* Where the linker put Criterion's lists; weak, since there may be no suites. */
extern struct criterion_test *__start_cr_tst[], *__stop_cr_tst[];
extern struct criterion_suite *__start_cr_sts[] __attribute__((weak));
extern struct criterion_suite *__stop_cr_sts[] __attribute__((weak));

enum { EXIT_FAILED = 41, EXIT_SKIPPED = 42, DEFAULT_TIMEOUT_SEC = 300 };

static const struct criterion_test *now; /* the test that this child runs */
static _Atomic bool any_failed;          /* an expectation of it did not hold */

static const struct criterion_test_extra_data *suite_of(const struct criterion_test *test)
{
    for (struct criterion_suite **s = __start_cr_sts; s < __stop_cr_sts; s++) {
        if (*s != NULL && strcmp((*s)->name, test->category) == 0)
            return (*s)->data;
    }
    return NULL;
}

void criterion_send_assert(struct criterion_assert_stats *stats)
{
    if (!stats->passed)
        fprintf(stderr, "%s:%u: assertion failed: %s\n", stats->file, stats->line, stats->message);
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
    fprintf(stderr, "skipped: %s\n", format);
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

enum verdict { PASSED, FAILED, CRASHED, SKIPPED };

static enum verdict run_one(const struct criterion_test *test)
{
    const struct criterion_test_extra_data *suite = suite_of(test);
    if (test->data->disabled || (suite != NULL && suite->disabled))
        return SKIPPED;
    if (test->data->kind_ != CR_TEST_NORMAL) {
        fprintf(stderr, "parameterised tests can't run here\n");
        return FAILED;
    }
    int signal_wanted = test->data->signal;
    int exit_wanted = test->data->exit_code;
    double timeout = test->data->timeout;
    if (suite != NULL) {
        signal_wanted = signal_wanted ? signal_wanted : suite->signal;
        exit_wanted = exit_wanted ? exit_wanted : suite->exit_code;
        timeout = timeout > 0 ? timeout : suite->timeout;
    }
    pid_t pid = fork();
    if (pid < 0)
        return CRASHED;
    if (pid == 0) {
        now = test;
        alarm(timeout > 0 ? (unsigned)timeout + 1 : DEFAULT_TIMEOUT_SEC);
        test->test();
        exit(any_failed ? EXIT_FAILED : 0); /* not _exit: TSan reports at exit */
    }
    int status;
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            return CRASHED;
    }
    if (WIFSIGNALED(status)) {
        if (WTERMSIG(status) == signal_wanted)
            return PASSED;
        fprintf(stderr, "killed by signal %d\n", WTERMSIG(status));
        return CRASHED;
    }
    if (WEXITSTATUS(status) == EXIT_SKIPPED)
        return SKIPPED;
    return signal_wanted == 0 && WEXITSTATUS(status) == exit_wanted ? PASSED : FAILED;
}

int main(int argc, char **argv)
{
    static const char *const words[] = {"PASS", "FAIL", "CRASH", "SKIP"};
    int count[4] = {0};
    const char *only = argc == 2 ? argv[1] : NULL;
    for (struct criterion_test **t = __start_cr_tst; t < __stop_cr_tst; t++) {
        if (*t == NULL || (only != NULL && strcmp(only, (*t)->data->identifier_) != 0))
            continue;
        fprintf(stderr, "[RUN ] %s::%s\n", (*t)->category, (*t)->name);
        enum verdict v = run_one(*t);
        count[v]++;
        fprintf(stderr, "[%s] %s::%s\n", words[v], (*t)->category, (*t)->name);
    }
    fprintf(stderr, "[====] Synthesis: Tested: %d | Passing: %d | Failing: %d | Crashing: %d\n",
            count[PASSED] + count[FAILED] + count[CRASHED], count[PASSED], count[FAILED],
            count[CRASHED]);
    return count[FAILED] + count[CRASHED] > 0;
}
