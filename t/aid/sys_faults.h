/* sys_faults.h: makes one call to the system fail, the nth of the calling thread from now on. For
 * tests of error branches: try n = 1, 2, 3 .. until nothing fails; then every step of the tested code has failed
 * once.
 *
 * What can fail: memory (malloc, calloc, realloc, aligned_alloc, posix_memalign, strdup, mmap),
 * threads, eventfd, socket, fallocate, ftruncate, fsync, fstat, fstatvfs, fcntl, pread, pwrite, pwritev2, read, write.
 * A test program that includes this gets its own versions of these, which call the system's.
 * Such a program can't run under TSan, whose start allocates before it can be called.
 * Calls of other threads, and those made inside the C library, are never made to fail.
 */
#ifndef EXTANT_T_SYS_FAULTS_H
#define EXTANT_T_SYS_FAULTS_H

#include "base/base.h"

enum sys_kind {
    SYS_MEMORY = 1, /* allocations, mmap */
    SYS_FILES = 2,  /* files and descriptors */
    SYS_THREADS = 4,
    SYS_ALL = 7
};

/* Arms: the nth (from 1) call of these kinds by this thread fails, and `more` after it. */
void sys_fail_nth(unsigned kinds, unsigned n, unsigned more);
/* Of calls of this name only. */
void sys_fail_named(const char *name, unsigned n, unsigned more);
/* Disarms. True iff a call failed since it was armed. */
bool sys_failed(void);
/* Sets the armed faults aside while a test prepares something, and arms them again. */
struct sys_armed {
    unsigned kinds, calls_left, failures_left;
};
struct sys_armed sys_set_aside(void);
void sys_arm_again(struct sys_armed armed);
/* The call that failed first, for messages. */
const char *sys_failed_name(void);

#endif
