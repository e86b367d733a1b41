/* base/confine.h: what still works, and what ends the process. */
#include "base/confine.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <liburing.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Each of these runs under the filter, in a process of its own; false if the call fails without ending the
 * process. */
static bool open_socket(void) { return socket(AF_INET, SOCK_STREAM, 0) >= 0; }
static bool run_program(void) { return execl("/bin/true", "true", NULL) == 0; }
static bool make_process(void) { return syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL) >= 0; }
static bool kill_parent(void) { return kill(getppid(), 0) == 0; }
static bool make_ring(void)
{
    struct io_uring ring;
    return io_uring_queue_init(4, &ring, 0) == 0;
}
static bool executable_memory(void)
{
    return mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) !=
           MAP_FAILED;
}
static bool executable_later(void)
{
    void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p != MAP_FAILED && mprotect(p, 4096, PROT_READ | PROT_EXEC) == 0;
}

static bool memory_and_files(void)
{
    void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    return p != MAP_FAILED && munmap(p, 4096) == 0 && write(fd, "x", 1) == 1 && close(fd) == 0 &&
           kill(getpid(), 0) == 0;
}

/* The wait status of a process that runs it. */
static int status_of(bool (*what)(void), enum confine_mode mode)
{
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0) {
        if (confine_process(mode) != 0)
            _exit(2);
        _exit(what() ? 0 : 1);
    }
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    return status;
}

static void ends_by_signal(bool (*what)(void), enum confine_mode mode)
{
    int status = status_of(what, mode);
    cr_assert(WIFSIGNALED(status), "exited with %d", WEXITSTATUS(status));
    cr_assert_eq(WTERMSIG(status), SIGSYS);
}

Test(confine, what_serving_needs_goes_on)
{
    cr_assert_eq(status_of(memory_and_files, CONFINE_FULLY), 0);
}

Test(confine, no_new_sockets)
{
    ends_by_signal(open_socket, CONFINE_FULLY);
    ends_by_signal(open_socket, CONFINE_RELAXED);
}

Test(confine, no_programs)
{
    ends_by_signal(run_program, CONFINE_FULLY);
    ends_by_signal(run_program, CONFINE_RELAXED);
}

Test(confine, no_processes) { ends_by_signal(make_process, CONFINE_FULLY); }

Test(confine, no_signals_to_others) { ends_by_signal(kill_parent, CONFINE_FULLY); }

Test(confine, no_new_rings) { ends_by_signal(make_ring, CONFINE_FULLY); }

Test(confine, no_memory_that_executes)
{
    ends_by_signal(executable_memory, CONFINE_FULLY);
    ends_by_signal(executable_later, CONFINE_FULLY);
}

Test(confine, log_mode_lets_all_pass)
{
    cr_assert_eq(status_of(open_socket, CONFINE_LOG), 0);
    cr_assert_eq(status_of(executable_memory, CONFINE_LOG), 0);
    cr_assert_eq(status_of(memory_and_files, CONFINE_LOG), 0);
    if (!make_ring())
        cr_skip_test("no io_uring here");
    cr_assert_eq(status_of(make_ring, CONFINE_LOG), 0);
}

/* The result of a read and of a file's opening through a ring that is there to read. */
Test(confine, a_ring_does_what_it_is_for)
{
    static const uint8_t ops[] = {IORING_OP_READ};
    struct io_uring ring;
    int rc = io_uring_queue_init(4, &ring, IORING_SETUP_R_DISABLED);
    if (rc == -ENOSYS || rc == -EPERM)
        cr_skip_test("no io_uring here");
    cr_assert_eq(rc, 0);
    cr_assert_eq(confine_ring(&ring, ops, ARRAY_COUNT(ops)), 0);
    int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC), results[2];
    char buf[16];
    for (int i = 0; i < 2; i++) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
        if (i == 0)
            io_uring_prep_read(sqe, fd, buf, sizeof(buf), 0);
        else
            io_uring_prep_openat(sqe, AT_FDCWD, "/dev/zero", O_RDONLY, 0);
        struct io_uring_cqe *cqe;
        cr_assert_eq(io_uring_submit(&ring), 1);
        cr_assert_eq(io_uring_wait_cqe(&ring, &cqe), 0);
        results[i] = cqe->res;
        io_uring_cqe_seen(&ring, cqe);
    }
    cr_assert_eq(results[0], (int)sizeof(buf));
    cr_assert_eq(results[1], -EACCES);
    close(fd);
    io_uring_queue_exit(&ring);
}
