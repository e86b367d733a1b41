/* base/memory.h: the process's memory as the system sees it: the allocator behind malloc and what it holds,
 * what is resident, and the limit that a control group sets.
 *
 * Servers are linked with jemalloc, which gives freed memory back within seconds, in a thread of its own.
 * Builds without it (sanitizers) have the C library's, which has to be told (memory_trim).
 *
 * Threads: memory_setup() once, after the last fork and before any thread; the others by any thread.
 */
#ifndef EXTANT_MEMORY_H
#define EXTANT_MEMORY_H

#include "base/base.h"

struct memory_heap {
    char allocator[32];       /* "jemalloc 5.3.0" or "libc" */
    uint64_t allocated_bytes; /* asked for and not freed */
    uint64_t resident_bytes;  /* memory of the process that the allocator holds for it */
};

/* What /proc/self/status says; zeroes where it can't be read. */
struct memory_resident {
    uint64_t anonymous_bytes;
    uint64_t file_bytes;   /* of files: program, libraries */
    uint64_t shared_bytes; /* of tmpfs and shared memory */
};

void memory_setup(void);
/* Takes some 100 us with jemalloc. */
void memory_heap(struct memory_heap *out);
void memory_resident(struct memory_resident *out);
/* Gives back what is free, where nothing does it by itself. May take milliseconds. */
void memory_trim(void);

/* The lowest memory limit of the control groups that the process is in (v2's memory.max, v1's
 * memory.limit_in_bytes); 0: none, or it can't be read. root: "" or, for tests, the directory that stands
 * for / . */
uint64_t memory_cgroup_limit(const char *root);

#endif
