/* base/memory.h: the process's memory as the system sees it: the allocator behind malloc and the memory it
 * holds, resident memory, and the limit of a control group.
 *
 * Servers are linked with jemalloc, which gives freed memory back within seconds, in a thread of its own.
 * Builds without it (sanitizers) use the C library's, which needs memory_trim().
 *
 * Threads: memory_setup() once, after the last fork and before any thread; the others by any thread.
 */
#ifndef EXTANT_MEMORY_H
#define EXTANT_MEMORY_H

#include "base/base.h"

struct memory_heap {
    char allocator[32];       /* "jemalloc 5.3.0" or "libc" */
    uint64_t allocated_bytes; /* allocated and not freed */
    uint64_t resident_bytes;  /* memory of the process that the allocator holds for it */
};

/* From /proc/self/status; zeroes if it can't be read. */
struct memory_resident {
    uint64_t anonymous_bytes;
    uint64_t file_bytes;   /* of files: program, libraries */
    uint64_t shared_bytes; /* of tmpfs and shared memory */
};

void memory_setup(void);
/* Takes about 100 us with jemalloc. */
void memory_heap(struct memory_heap *out);
void memory_resident(struct memory_resident *out);
/* Returns free memory to the system, with allocators that don't do it by themselves. May take milliseconds. */
void memory_trim(void);

/* The control groups that the process is in. root: "" or, for tests, a directory in the place of / . About 100 us. */
struct memory_cgroup {
    uint64_t limit_bytes; /* the lowest limit (v2's memory.max and memory.high, v1's memory.limit_in_bytes); 0: none known */
    uint64_t left_bytes;  /* what all of them leave; what the kernel would take back first, as files' pages, counts as free. UINT64_MAX: nothing is known */
};
void memory_cgroup(const char *root, struct memory_cgroup *out);

#endif
