/* base/confine.c: see base/confine.h. */
#include "base/confine.h"

#include <limits.h>
#include <liburing.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"

#ifdef __x86_64__
#define THIS_ARCH AUDIT_ARCH_X86_64
#else
#define THIS_ARCH AUDIT_ARCH_AARCH64
#endif

/* A call that is allowed if (argument & mask) == value. */
struct rule {
    unsigned number;
    unsigned argument;
    uint32_t mask, value;
};

#define ANY(name) {__NR_##name, 0, 0, 0},
#define WITHOUT(name, arg, bits) {__NR_##name, arg, bits, 0},
#define ONLY(name, arg, what) {__NR_##name, arg, UINT32_MAX, what},
#ifdef __x86_64__
#define ANY_OLD(name) ANY(name) /* calls that newer architectures lack */
#else
#define ANY_OLD(name)
#endif

/* clang-format off */
#define RULES                                                                                      \
    /* memory */                                                                                   \
    ANY(brk) ANY(munmap) ANY(mremap) ANY(madvise) ANY(msync)                                       \
    WITHOUT(mmap, 2, PROT_EXEC) WITHOUT(mprotect, 2, PROT_EXEC)                                    \
    /* threads, and what a thread does first; signals; time */                                     \
    ANY(futex) ANY(sched_yield) ANY(sched_getaffinity) ANY(getcpu) ANY(getpid) ANY(gettid) ANY(geteuid) \
    ANY(exit) ANY(exit_group) ANY(restart_syscall)                                                 \
    ANY(rseq) ANY(set_robust_list) ONLY(prctl, 0, PR_SET_NAME)                                     \
    ANY(rt_sigaction) ANY(rt_sigprocmask) ANY(rt_sigreturn) ANY(sigaltstack)                       \
    ONLY(kill, 0, ourselves) ONLY(tgkill, 0, ourselves)                                            \
    ANY(clock_gettime) ANY(clock_getres) ANY(clock_nanosleep) ANY(nanosleep) ANY(gettimeofday)     \
    ANY(timerfd_settime) ANY(getrandom) ANY(getrusage) ANY(sysinfo)                                \
    /* files and devices */                                                                        \
    ANY(openat) ANY(close) ANY(read) ANY(write) ANY(readv) ANY(writev) ANY(lseek)                  \
    ANY(pread64) ANY(pwrite64) ANY(preadv) ANY(pwritev) ANY(fsync) ANY(fdatasync)                  \
    ONLY(ioctl, 1, FIONREAD) ANY(ftruncate) ANY(fallocate) ANY(fstat) ANY(newfstatat) ANY(statx) ANY(fstatfs) ANY(statfs) ANY(fcntl)    \
    ANY(unlinkat) ANY(renameat2) ANY_OLD(open) ANY_OLD(stat) ANY_OLD(unlink) ANY_OLD(rename)       \
    ANY(renameat)                                                                                  \
    /* clients and event loops */                                                                  \
    ANY(accept4) ANY(accept) ANY(listen) ANY(shutdown) ANY(recvfrom) ANY(recvmsg) ANY(recvmmsg)    \
    ANY(sendto) ANY(sendmsg) ANY(sendmmsg) ANY(getsockopt) ANY(setsockopt) ANY(getsockname)        \
    ANY(getpeername) ANY(epoll_ctl) ANY(epoll_pwait) ANY(ppoll) ANY_OLD(epoll_wait) ANY_OLD(poll)  \
    ANY(io_uring_enter)                                                                            \
    /* a pair stays inside this process: dumps and watchers of TLS clients */            \
    ONLY(socketpair, 0, AF_UNIX)

/* Everything that a relaxed process may not do. */
#define FORBIDDEN                                                                                  \
    ANY(socket) ANY(connect) ANY(bind) ANY(execve) ANY(execveat)                   \
    ANY(io_uring_setup) ANY(io_uring_register)
/* clang-format on */

enum { STEPS_OF_A_RULE = 6, STEPS_BESIDE = 5 };

static void add(struct sock_fprog *p, unsigned code, uint32_t k, uint8_t yes, uint8_t no)
{
    ASSERT(p->len < USHRT_MAX);
    p->filter[p->len++] = (struct sock_filter){(uint16_t)code, yes, no, k};
}

static void load(struct sock_fprog *p, size_t offset)
{
    add(p, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

static void answer(struct sock_fprog *p, uint32_t action)
{
    add(p, BPF_RET | BPF_K, action, 0, 0);
}

/* Each call has one rule, and the rule of a call decides: the filter's result if its condition is met. */
static void add_rule(struct sock_fprog *p, const struct rule *r, uint32_t action, uint32_t otherwise)
{
    ASSERT(r->argument < 6 && (r->value & ~r->mask) == 0);
    add(p, BPF_JMP | BPF_JEQ | BPF_K, r->number, 0, r->mask != 0 ? 5 : 1);
    if (r->mask != 0) {
        /* the lower half, first with little-endian: all of an int, and of PROT_ bits */
        load(p, offsetof(struct seccomp_data, args) + 8 * r->argument);
        add(p, BPF_ALU | BPF_AND | BPF_K, r->mask, 0, 0);
        add(p, BPF_JMP | BPF_JEQ | BPF_K, r->value, 1, 0);
        answer(p, otherwise);
    }
    answer(p, action);
}

static void refused(int sig, siginfo_t *info, void *context UNUSED)
{
    log_error("system call %d is forbidden with drop_privileges: ending", info->si_syscall);
    signal(sig, SIG_DFL);
    raise(sig); /* comes when this returns */
}

int confine_process(enum confine_mode mode)
{
    const bool relaxed = mode == CONFINE_RELAXED;
    const uint32_t refuse = mode == CONFINE_LOG ? SECCOMP_RET_LOG : SECCOMP_RET_TRAP;
    const uint32_t ourselves = (uint32_t)getpid();
    const struct rule rules[] = {RULES}, forbidden[] = {FORBIDDEN};
    static_assert(ARRAY_COUNT(forbidden) < ARRAY_COUNT(rules), "room for either");
    struct sock_filter steps[ARRAY_COUNT(rules) * STEPS_OF_A_RULE + STEPS_BESIDE];
    struct sock_fprog p = {.len = 0, .filter = steps};

    load(&p, offsetof(struct seccomp_data, arch));
    add(&p, BPF_JMP | BPF_JEQ | BPF_K, THIS_ARCH, 1, 0);
    answer(&p, SECCOMP_RET_KILL_PROCESS);
    load(&p, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; !relaxed && i < ARRAY_COUNT(rules); i++)
        add_rule(&p, &rules[i], SECCOMP_RET_ALLOW, refuse);
    for (size_t i = 0; relaxed && i < ARRAY_COUNT(forbidden); i++)
        add_rule(&p, &forbidden[i], refuse, refuse);
    answer(&p, relaxed ? SECCOMP_RET_ALLOW : refuse);
    ASSERT(p.len <= ARRAY_COUNT(steps));

    struct sigaction on_refusal = {.sa_sigaction = refused, .sa_flags = SA_SIGINFO};
    if (sigaction(SIGSYS, &on_refusal, NULL) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -errno;
    long rc = syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &p);
    if (rc > 0)
        return -EBUSY; /* a thread that has filters of its own */
    return rc < 0 ? -errno : 0;
}

/* Not all versions of liburing export a function for this. */
static int ring_register(struct io_uring *ring, unsigned what, void *arg, unsigned count)
{
    return syscall(__NR_io_uring_register, ring->ring_fd, what, arg, count) < 0 ? -errno : 0;
}

int confine_ring(struct io_uring *ring, const uint8_t *ops, unsigned op_count)
{
    struct io_uring_restriction allowed[8] = {{0}};
    ASSERT(op_count > 0 && op_count < ARRAY_COUNT(allowed));
    for (unsigned i = 0; i < op_count; i++) {
        allowed[i].opcode = IORING_RESTRICTION_SQE_OP;
        allowed[i].sqe_op = ops[i];
    }
    allowed[op_count].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
    allowed[op_count].sqe_flags = IOSQE_FIXED_FILE;
    int rc = ring_register(ring, IORING_REGISTER_RESTRICTIONS, allowed, op_count + 1);
    return rc != 0 ? rc : ring_register(ring, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}
