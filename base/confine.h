/* base/confine.h: what the kernel may still be asked for, once everything is set up.
 *
 * confine_process() is `-o drop_privileges`: a filter (seccomp) on every thread, for good. Allowed
 * is what serving, logging, the checkpoint and the stop need (the table in base/confine.c); no new
 * sockets, programs, processes or threads, no memory that can be executed, no signals to others.
 * Whoever asks for more is an intruder: the process logs the number of the call and dies by SIGSYS,
 * and what -e keeps is there for the next one. Files can still be opened, which is what -u is for.
 *
 * confine_ring() is the same for an io_uring, past whose requests no filter looks: each ring does
 * nothing but what it is there for, always.
 *
 * Any thread; no state but the process's own.
 */
#ifndef EXTANT_CONFINE_H
#define EXTANT_CONFINE_H

#include "base/base.h"

struct io_uring;

enum confine_mode {
    CONFINE_FULLY,
    CONFINE_RELAXED, /* only sockets, programs and rings are forbidden: sanitizers want threads, tracing and more */
    CONFINE_LOG,     /* all is allowed; the kernel logs what CONFINE_FULLY would forbid (audit, dmesg) */
};
/* After the last thread was started. 0 or -errno: -EINVAL if this kernel has no filters. */
int confine_process(enum confine_mode mode);

/* For a ring that was set up with IORING_SETUP_R_DISABLED, and whose files and buffers are
 * registered: starts it, for these IORING_OPs only. Nothing can be registered after this. 0 or
 * -errno. */
int confine_ring(struct io_uring *ring, const uint8_t *ops, unsigned op_count);

#endif
