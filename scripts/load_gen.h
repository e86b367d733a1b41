/* load_gen.h: the load generator's data: random numbers, key choice, value
 * sizes and value bytes. Pure functions over small structs, no I/O except reading
 * the weights file, one thread.
 *
 * A value describes itself: its bytes are a function of key id and stamp, and
 * its first 8 bytes are the stamp. So a reader can check every byte
 * and knows which write it came from. Values under 8 bytes have no room for a
 * stamp: their bytes depend on the key alone.
 */
#ifndef LOAD_GEN_H
#define LOAD_GEN_H

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STAMP_BYTES 8

/* ---- random numbers ---- */

/* A bijective mixer: any change of the input changes about half of the output bits. */
static inline uint64_t mix64(uint64_t x)
{
    x ^= x >> 32;
    x *= 0xe9846af9b1a615dull;
    x ^= x >> 32;
    x *= 0xe9846af9b1a615dull;
    x ^= x >> 28;
    return x;
}

struct rng {
    uint64_t counter;
};

static inline void rng_seed(struct rng *r, uint64_t seed)
{
    r->counter = mix64(seed + 0x9e3779b97f4a7c15ull);
}

static inline uint64_t rng_next(struct rng *r)
{
    r->counter += 0x9e3779b97f4a7c15ull;
    return mix64(r->counter);
}

/* Uniform in [0, bound); bound > 0. The bias of 2^-64 * bound doesn't matter here. */
static inline uint64_t rng_below(struct rng *r, uint64_t bound)
{
    return (uint64_t)(((unsigned __int128)rng_next(r) * bound) >> 64);
}

/* Uniform in [0, 1). */
static inline double rng_unit(struct rng *r)
{
    return (double)(rng_next(r) >> 11) * 0x1p-53;
}

/* ---- Zipf ---- */

/* Ranks 1..n with probability proportional to rank^-s, drawn by inverting the
 * integral of the density and rejecting what lies outside the histogram: constant
 * time, no table, any s > 0. */
struct zipf {
    double n;
    double s;
    double area_low;
    double area_high;
    double accept_within;
};

static inline double zipf_integral(const struct zipf *z, double x)
{
    double lx = log(x);
    double e = (1.0 - z->s) * lx;
    return fabs(e) < 1e-8 ? lx * (1.0 + e / 2) : expm1(e) / (1.0 - z->s);
}

static inline double zipf_integral_inverse(const struct zipf *z, double y)
{
    double t = y * (1.0 - z->s);
    if (t < -1.0)
        t = -1.0;
    return fabs(t) < 1e-8 ? exp(y * (1.0 - t / 2)) : exp(log1p(t) / (1.0 - z->s));
}

static inline void zipf_setup(struct zipf *z, uint64_t n, double s)
{
    z->n = (double)n;
    z->s = s;
    z->area_low = zipf_integral(z, 1.5) - 1.0;
    z->area_high = zipf_integral(z, z->n + 0.5);
    z->accept_within =
        2.0 - zipf_integral_inverse(z, zipf_integral(z, 2.5) - exp(-s * log(2.0)));
}

/* A rank from 0 (most popular) to n - 1. */
static inline uint64_t zipf_draw(const struct zipf *z, struct rng *r)
{
    for (;;) {
        double u = z->area_high + rng_unit(r) * (z->area_low - z->area_high);
        double x = zipf_integral_inverse(z, u);
        double k = floor(x + 0.5);
        if (k < 1.0)
            k = 1.0;
        if (k > z->n)
            k = z->n;
        if (k - x <= z->accept_within ||
            u >= zipf_integral(z, k + 0.5) - exp(-z->s * log(k)))
            return (uint64_t)k - 1;
    }
}

/* ---- a permutation of 0..n-1, so that hot keys and load order aren't neighbours ---- */

struct shuffle {
    uint64_t n;
    uint64_t factor;
};

static inline void shuffle_setup(struct shuffle *p, uint64_t n)
{
    uint64_t f = (uint64_t)((double)n * 0.6180339887498949) | 1;

    for (;; f += 2) {
        uint64_t a = n, b = f;
        while (b) {
            uint64_t rest = a % b;
            a = b;
            b = rest;
        }
        if (a == 1)
            break;
    }
    p->n = n;
    p->factor = f;
}

static inline uint64_t shuffle_at(const struct shuffle *p, uint64_t i)
{
    return (uint64_t)((unsigned __int128)i * p->factor % p->n);
}

/* ---- value sizes ---- */

/* Fixed or range when rows == 0 (min..max), else drawn by weight from a table
 * through the alias method. The size of a key never changes: it is drawn by a
 * hash of the key id. */
struct sizes {
    uint32_t min_bytes;
    uint32_t max_bytes;
    uint32_t rows;
    uint32_t *bytes;
    uint32_t *alias;
    double *keep; /* share of row i that keeps row i, the rest goes to alias[i] */
};

static inline int sizes_build_alias(struct sizes *s, double *weights, double total)
{
    uint32_t *stack = malloc(s->rows * sizeof(*stack));
    uint32_t small = 0, large = s->rows;

    if (!stack)
        return -ENOMEM;
    for (uint32_t i = 0; i < s->rows; i++) {
        s->keep[i] = weights[i] * s->rows / total;
        s->alias[i] = i;
        stack[s->keep[i] < 1.0 ? small++ : --large] = i;
    }
    while (small > 0 && large < s->rows) {
        uint32_t lo = stack[--small], hi = stack[large];
        s->alias[lo] = hi;
        s->keep[hi] -= 1.0 - s->keep[lo];
        if (s->keep[hi] < 1.0) {
            large++;
            stack[small++] = hi;
        }
    }
    while (small > 0)
        s->keep[stack[--small]] = 1.0;
    while (large < s->rows)
        s->keep[stack[large++]] = 1.0;
    free(stack);
    return 0;
}

/* Reads lines "bytes,weight" (others, as a heading, are skipped). 0 or -errno;
 * -EINVAL when no line has a positive weight. The tables live until exit. */
static inline int sizes_read_csv(struct sizes *s, const char *path)
{
    FILE *f = fopen(path, "r");
    double *weights = NULL, total = 0;
    uint32_t room = 0;
    char line[128];
    int err = 0;

    if (!f)
        return -errno;
    memset(s, 0, sizeof(*s));
    s->min_bytes = UINT32_MAX;
    while (!err && fgets(line, sizeof(line), f)) {
        unsigned long long bytes;
        double weight;
        if (sscanf(line, "%llu,%lf", &bytes, &weight) != 2 || !(weight > 0) ||
            bytes > UINT32_MAX)
            continue;
        if (s->rows == room) {
            room = room ? room * 2 : 1024;
            uint32_t *b = realloc(s->bytes, room * sizeof(*b));
            s->bytes = b ? b : s->bytes;
            double *w = realloc(weights, room * sizeof(*w));
            weights = w ? w : weights;
            if (!b || !w) {
                err = -ENOMEM;
                break;
            }
        }
        s->bytes[s->rows] = (uint32_t)bytes;
        weights[s->rows++] = weight;
        total += weight;
        s->min_bytes = bytes < s->min_bytes ? (uint32_t)bytes : s->min_bytes;
        s->max_bytes = bytes > s->max_bytes ? (uint32_t)bytes : s->max_bytes;
    }
    fclose(f);
    if (!err && s->rows == 0)
        err = -EINVAL;
    if (!err) {
        s->alias = malloc(s->rows * sizeof(*s->alias));
        s->keep = malloc(s->rows * sizeof(*s->keep));
        err = s->alias && s->keep ? sizes_build_alias(s, weights, total) : -ENOMEM;
    }
    free(weights);
    return err;
}

static inline uint32_t sizes_of_key(const struct sizes *s, uint64_t key_id)
{
    uint64_t h = mix64(key_id ^ 0x51ed270b7f2c1a93ull);

    if (s->rows) {
        uint32_t i = (uint32_t)(((h >> 32) * s->rows) >> 32);
        return (double)(uint32_t)h * 0x1p-32 < s->keep[i] ? s->bytes[i] : s->bytes[s->alias[i]];
    }
    uint64_t span = (uint64_t)s->max_bytes - s->min_bytes + 1;
    return s->min_bytes + (uint32_t)(((h >> 32) * span) >> 32);
}

/* ---- value bytes ---- */

static inline uint64_t value_seed(uint64_t key_id, uint64_t stamp, uint32_t bytes)
{
    return mix64(mix64(key_id + 1) ^ (bytes < STAMP_BYTES ? 0 : stamp));
}

/* Word i of the body. The step is odd and large, so a body shifted by any number
 * of bytes, cut, or mixed with another one doesn't match. */
static inline uint64_t value_word(uint64_t seed, uint64_t i)
{
    uint64_t w = seed + i * 0xd1342543de82ef95ull;
    return w ^ (w >> 29);
}

/* Writes the value of key_id with stamp: bytes long. */
static inline void value_write(char *to, uint32_t bytes, uint64_t key_id, uint64_t stamp)
{
    uint64_t seed = value_seed(key_id, stamp, bytes);
    uint32_t at = 0;

    if (bytes >= STAMP_BYTES) {
        memcpy(to, &stamp, STAMP_BYTES);
        at = STAMP_BYTES;
    }
    uint64_t words = (bytes - at) / 8;
    for (uint64_t i = 0; i < words; i++) {
        uint64_t w = value_word(seed, i);
        memcpy(to + at + i * 8, &w, 8);
    }
    uint64_t last = value_word(seed, words);
    memcpy(to + at + words * 8, &last, (bytes - at) % 8);
}

/* True iff the bytes are those of key_id under the stamp that they carry; the
 * stamp goes to *stamp (0 for values too short to have one). */
static inline bool value_check(const char *from, uint32_t bytes, uint64_t key_id, uint64_t *stamp)
{
    uint32_t at = 0;
    uint64_t diff = 0;

    *stamp = 0;
    if (bytes >= STAMP_BYTES) {
        memcpy(stamp, from, STAMP_BYTES);
        at = STAMP_BYTES;
    }
    uint64_t seed = value_seed(key_id, *stamp, bytes);
    uint64_t words = (bytes - at) / 8;
    for (uint64_t i = 0; i < words; i++) {
        uint64_t w;
        memcpy(&w, from + at + i * 8, 8);
        diff |= w ^ value_word(seed, i);
    }
    uint64_t last = value_word(seed, words);
    return diff == 0 && memcmp(from + at + words * 8, &last, (bytes - at) % 8) == 0;
}

#endif
