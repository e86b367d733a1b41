/* base/confine.h: restricts system calls to those that serving needs, once everything is set up.
 *
 * confine_process() is `-o drop_privileges`: a filter (seccomp) on every thread, for good. It allows
 * the calls that serving, logging, the checkpoint and the stop need (the table in base/confine.c): no new
 * sockets, programs, processes or threads, no executable memory, no signals to others.
 * Any other call means an intruder: the process logs its number and dies by SIGSYS,
 * and the next process finds the memory of -e. Files can still be opened; -u restricts that.
 *
 * confine_ring() does the same for an io_uring, because filters don't see its requests: each ring always
 * accepts only the operations that it needs.
 *
 * Any thread; the only state is the process's own.
 */
#ifndef EXTANT_CONFINE_H
#define EXTANT_CONFINE_H

#include "base/base.h"

struct io_uring;

enum confine_mode {
    CONFINE_FULLY,
    CONFINE_RELAXED, /* forbids only sockets, programs and rings: sanitizers need threads, tracing and more */
    CONFINE_LOG,     /* allows everything; the kernel logs what CONFINE_FULLY would forbid (audit, dmesg) */
};
/* After the last thread was started. 0 or -errno: -EINVAL if this kernel has no filters. */
int confine_process(enum confine_mode mode);

/* For a ring that was set up with IORING_SETUP_R_DISABLED, and whose files and buffers are
 * registered: starts it, for these IORING_OPs only. Nothing can be registered after this. 0 or
 * -errno. */
int confine_ring(struct io_uring *ring, const uint8_t *ops, unsigned op_count);

#endif
