/* base/base.h: what every file of Extant may use, and nothing that has state.
 *
 * Conventions kept in the whole tree:
 *  - results are 0 or a count; failures are -errno (or a module's own enum);
 *  - ASSERT is for our own bugs and stays in release builds; failures of
 *    the world (device, network, client, memory) are never asserted on;
 *  - DEBUG_ASSERT is for checks that cost too much for a release build;
 *  - names carry their unit: _bytes, _ns, _sec, _pct, _count.
 */
#ifndef EXTANT_BASE_H
#define EXTANT_BASE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXTANT_VERSION "0.1.0"
#define MEMCACHED_LEVEL "1.6.45" /* the protocol level that `version` answers */

#define KiB ((uint64_t)1 << 10)
#define MiB ((uint64_t)1 << 20)
#define GiB ((uint64_t)1 << 30)

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define ALWAYS_INLINE inline __attribute__((always_inline))
#define FLATTEN __attribute__((flatten)) /* all that it calls is inlined, however often that stands elsewhere: for the hottest functions */

#define ARRAY_COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define CACHE_LINE_BYTES 64
#define CACHE_ALIGNED __attribute__((aligned(CACHE_LINE_BYTES)))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#define UNUSED __attribute__((unused))

/* The struct of this type whose member p points to. */
#define CONTAINER_OF(p, type, member) ((type *)((char *)(p) - offsetof(type, member)))

/* What a table X(name, text, ...) is most often made into: an enum of its names, an array of its texts. */
#define ROW_NAME(name, ...) name,
#define ROW_TEXT(name, text, ...) text,

/* Prints the assertion that failed and aborts; never returns. Safe from any thread. */
static inline _Noreturn void assert_failed(const char *expr, const char *file, int line,
                                           const char *func)
{
    fprintf(stderr, "extant: bug: %s:%d: %s: %s\n", file, line, func, expr);
    abort();
}

#define ASSERT(e) ((void)(likely(e) || (assert_failed(#e, __FILE__, __LINE__, __func__), 0)))
#ifdef EXTANT_DEBUG
#define DEBUG_ASSERT(e) ASSERT(e)
#else
#define DEBUG_ASSERT(e) ((void)sizeof(!!(e)))
#endif

static inline uint64_t min_u64(uint64_t a, uint64_t b) { return a < b ? a : b; }
/* Of a number that an operator may have made negative, huge or no number at all: at least 0, at most `most`. */
static inline uint64_t bounded_u64(double v, uint64_t most) { return v > 0 ? v < (double)most ? (uint64_t)v : most : 0; }
static inline uint64_t max_u64(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* Adds to a number that only this thread writes and others read: no locked instruction. */
static inline void add_own(_Atomic(uint64_t) *n, int64_t by)
{
    uint64_t v = atomic_load_explicit(n, memory_order_relaxed);
    atomic_store_explicit(n, v + (uint64_t)by, memory_order_relaxed);
}

/* Rounds v up to a multiple of unit; unit is a power of two. */
static inline uint64_t round_up(uint64_t v, uint64_t unit)
{
    DEBUG_ASSERT(unit != 0 && (unit & (unit - 1)) == 0);
    return (v + unit - 1) & ~(unit - 1);
}
static inline uint64_t round_down(uint64_t v, uint64_t unit)
{
    DEBUG_ASSERT(unit != 0 && (unit & (unit - 1)) == 0);
    return v & ~(unit - 1);
}

/* A call on a descriptor that doesn't wait has failed: is it worth another try later? */
static inline bool may_come_later(void)
{
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
}

/* Prefetches this many bytes; p may point anywhere, also to nothing. */
static inline void prefetch_lines(const void *p, uint64_t bytes)
{
    for (uint64_t at = 0; at < bytes; at += CACHE_LINE_BYTES)
        __builtin_prefetch((const void *)((uintptr_t)p + at));
}

#endif
