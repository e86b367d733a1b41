/* replay_trace.h: a trace of requests in memory, read from a file or generated, for scripts/replay.c.
 *
 * A request names a key by a dense number (0 .. keys - 1) in order of first use; a key has one size.
 * Which requests delete or overwrite, and which keys have a time to live, follows from hashes, so
 * that two runs over one trace are the same run.
 */
#ifndef REPLAY_TRACE_H
#define REPLAY_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct trace_options {
    const char *source;    /* a file of `id [size]` lines (.xz is unpacked), or NAME:A:B (made up) */
    const char *sizes_csv; /* value_bytes,weight: sizes for lines that have none */
    double scale;          /* of sizes */
    uint64_t skip, limit;  /* requests to skip; requests to take after these, 0: all */
    uint64_t seed;         /* of made-up traces, deletes and overwrites */
    unsigned sample;       /* one key in this many, by hash */
    uint32_t max_value_bytes;
    double deletes, overwrites; /* shares of the requests */
    double ttl_share;           /* of the keys */
    uint32_t ttl_sec;           /* a key's is between 1 and this */
};

enum trace_op { TRACE_GET, TRACE_DELETE, TRACE_OVERWRITE };

struct trace {
    uint32_t *key;       /* of each request */
    uint32_t *value_bytes; /* of each key */
    uint32_t *ttl_sec;   /* of each key, 0: none */
    uint64_t *name;      /* of each key: what it is called in requests */
    uint64_t requests, keys;
    uint64_t footprint_bytes; /* of all keys, with what a record adds */
    struct trace_options opt;
};

#define TRACE_KEY_BYTES 16
#define TRACE_RECORD_EXTRA_BYTES (TRACE_KEY_BYTES + 40) /* beside the value */

static inline uint64_t trace_mix(uint64_t x)
{
    x ^= x >> 30;
    x *= UINT64_C(0xbf58476d1ce4e5b9);
    x ^= x >> 27;
    x *= UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* 0 .. 1 from a hash. */
static inline double trace_unit(uint64_t hash) { return (double)(hash >> 11) / 9007199254740992.0; }

/* The action of request number i. Pure. */
static inline enum trace_op trace_op_of(const struct trace *t, uint64_t i)
{
    double u = trace_unit(trace_mix(i + 0x5eed + (t->opt.seed << 32)));
    if (u < t->opt.deletes)
        return TRACE_DELETE;
    return u < t->opt.deletes + t->opt.overwrites ? TRACE_OVERWRITE : TRACE_GET;
}

static inline uint32_t trace_object_bytes(const struct trace *t, uint32_t key)
{
    return t->value_bytes[key] + TRACE_RECORD_EXTRA_BYTES;
}

/* Ends the program with one line if the source can't be read. */
void trace_load(struct trace *t, const struct trace_options *opt);

#endif
