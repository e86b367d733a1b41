/* replay_trace.c: see replay_trace.h. First the ids, then sizes and times to live. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include "scripts/replay_trace.h"

#include <err.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ZIPF_TABLE_MAX (1u << 22)

struct sizes {
    uint32_t *bytes;
    double *below; /* cumulative weights, the last is their sum */
    size_t count;
};

static void *need(void *p)
{
    if (p == NULL)
        err(2, "memory");
    return p;
}

static void load_sizes(struct sizes *s, const char *path)
{
    FILE *f = fopen(path, "r");
    char line[128];
    double sum = 0;
    if (f == NULL)
        err(2, "%s", path);
    while (fgets(line, sizeof(line), f) != NULL) {
        unsigned bytes;
        double weight;
        if (sscanf(line, "%u,%lf", &bytes, &weight) != 2)
            continue; /* the heading */
        if (s->count % 1024 == 0) {
            s->bytes = need(realloc(s->bytes, (s->count + 1024) * sizeof(*s->bytes)));
            s->below = need(realloc(s->below, (s->count + 1024) * sizeof(*s->below)));
        }
        s->bytes[s->count] = bytes;
        s->below[s->count++] = sum += weight;
    }
    fclose(f);
    if (s->count == 0)
        errx(2, "%s: no sizes", path);
}

static uint32_t draw_size(const struct sizes *s, uint64_t hash)
{
    if (s->count == 0)
        return 335;
    double at = trace_unit(hash) * s->below[s->count - 1];
    size_t low = 0, high = s->count - 1;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (s->below[mid] > at)
            high = mid;
        else
            low = mid + 1;
    }
    return s->bytes[low];
}

/* ---- ids to dense numbers ---- */

struct table {
    uint64_t *id;
    uint32_t *key; /* number + 1 */
    uint64_t mask;
};

struct maker {
    struct trace *t;
    struct table seen;
    struct sizes sizes;
    uint64_t requests_room, keys_room, passed;
};

static void grow_table(struct table *h)
{
    struct table bigger = {.mask = h->mask == 0 ? 65535 : h->mask * 2 + 1};
    bigger.id = need(calloc(bigger.mask + 1, sizeof(*bigger.id)));
    bigger.key = need(calloc(bigger.mask + 1, sizeof(*bigger.key)));
    for (uint64_t i = 0; h->key != NULL && i <= h->mask; i++) {
        uint64_t at = trace_mix(h->id[i]) & bigger.mask;
        if (h->key[i] == 0)
            continue;
        while (bigger.key[at] != 0)
            at = (at + 1) & bigger.mask;
        bigger.id[at] = h->id[i];
        bigger.key[at] = h->key[i];
    }
    free(h->id);
    free(h->key);
    *h = bigger;
}

static uint32_t new_key(struct maker *m, uint64_t id, uint64_t given_bytes)
{
    struct trace *t = m->t;
    if (t->keys == m->keys_room) {
        m->keys_room = m->keys_room == 0 ? 65536 : m->keys_room * 2;
        t->value_bytes = need(realloc(t->value_bytes, m->keys_room * sizeof(*t->value_bytes)));
        t->ttl_sec = need(realloc(t->ttl_sec, m->keys_room * sizeof(*t->ttl_sec)));
        t->name = need(realloc(t->name, m->keys_room * sizeof(*t->name)));
    }
    uint64_t hash = trace_mix(id);
    uint64_t bytes = given_bytes > 0 ? given_bytes : draw_size(&m->sizes, hash);
    double scaled = (double)bytes * t->opt.scale;
    uint32_t k = (uint32_t)t->keys++;
    t->name[k] = id;
    t->value_bytes[k] = scaled < 1                          ? 1
                        : scaled > t->opt.max_value_bytes ? t->opt.max_value_bytes
                                                            : (uint32_t)scaled;
    t->ttl_sec[k] = trace_unit(trace_mix(hash + 1)) < t->opt.ttl_share
                        ? 1 + (uint32_t)(trace_mix(hash + 2) % t->opt.ttl_sec)
                        : 0;
    t->footprint_bytes += trace_object_bytes(t, k);
    return k;
}

/* False: enough requests. */
static bool add_request(struct maker *m, uint64_t id, uint64_t bytes)
{
    struct trace *t = m->t;
    if (t->opt.sample > 1 && trace_mix(id + 0xabcd) % t->opt.sample != 0)
        return true;
    if (m->passed++ < t->opt.skip)
        return true;
    if (2 * (t->keys + 1) > m->seen.mask)
        grow_table(&m->seen);
    uint64_t at = trace_mix(id) & m->seen.mask;
    while (m->seen.key[at] != 0 && m->seen.id[at] != id)
        at = (at + 1) & m->seen.mask;
    if (m->seen.key[at] == 0) {
        m->seen.id[at] = id;
        m->seen.key[at] = new_key(m, id, bytes) + 1;
    }
    if (t->requests == m->requests_room) {
        m->requests_room = m->requests_room == 0 ? 65536 : m->requests_room * 2;
        t->key = need(realloc(t->key, m->requests_room * sizeof(*t->key)));
    }
    t->key[t->requests++] = m->seen.key[at] - 1;
    return t->opt.limit == 0 || t->requests < t->opt.limit;
}

static void read_file(struct maker *m, const char *path)
{
    size_t len = strlen(path);
    bool packed = len > 3 && strcmp(path + len - 3, ".xz") == 0;
    char command[4096];
    snprintf(command, sizeof(command), "xz -dc -- '%s'", path);
    FILE *f = packed ? popen(command, "r") : fopen(path, "r");
    char line[128];
    if (f == NULL)
        err(2, "%s", path);
    while (fgets(line, sizeof(line), f) != NULL) {
        char *end;
        uint64_t id = strtoull(line, &end, 16);
        if (end == line)
            errx(2, "%s: not `id [size]`: %s", path, line);
        if (!add_request(m, id, strtoull(end, NULL, 10)))
            break;
    }
    if (packed)
        pclose(f);
    else
        fclose(f);
}

/* ---- made up ---- */

struct zipf {
    double *below;
    uint64_t keys;
};

static void zipf_make(struct zipf *z, uint64_t keys, double s)
{
    if (keys == 0 || keys > ZIPF_TABLE_MAX)
        errx(2, "1 to %u keys", ZIPF_TABLE_MAX);
    double sum = 0;
    z->keys = keys;
    z->below = need(malloc(keys * sizeof(*z->below)));
    for (uint64_t i = 0; i < keys; i++)
        z->below[i] = sum += pow((double)(i + 1), -s);
}

static uint64_t zipf_draw(const struct zipf *z, uint64_t hash)
{
    double at = trace_unit(hash) * z->below[z->keys - 1];
    uint64_t low = 0, high = z->keys - 1;
    while (low < high) {
        uint64_t mid = (low + high) / 2;
        if (z->below[mid] > at)
            high = mid;
        else
            low = mid + 1;
    }
    return low;
}

/* Request number i of a made-up trace: keys and n are its two numbers. */
static uint64_t made_id(const char *name, const struct zipf *z, uint64_t keys, uint64_t n, uint64_t i, uint64_t seed)
{
    uint64_t h = trace_mix(i * 2 + 1 + (seed << 40)), hot = zipf_draw(z, trace_mix(h));
    if (strcmp(name, "loop") == 0) /* the same keys in the same order, again and again */
        return i % keys;
    if (strcmp(name, "twice") == 0) /* each key exactly twice, with some `keys` others between */
        return i < keys ? i : (i - keys) % 2 == 0 ? keys + (i - keys) / 2 : (i - keys) / 2;
    if (strcmp(name, "onehit") == 0) /* half of the requests are for keys that never come again */
        return h % 2 == 0 ? hot : (UINT64_C(1) << 40) + i;
    if (strcmp(name, "scan") == 0) /* beside a hot set, a tenth of the time all is read once */
        return i % (n / 4) >= n / 4 * 9 / 10 ? (UINT64_C(1) << 40) + i : hot;
    if (strcmp(name, "shift") == 0) /* half-way through all keys are others */
        return hot + (i >= n / 2 ? UINT64_C(1) << 40 : 0);
    if (strcmp(name, "zipf") == 0)
        return hot;
    errx(2, "%s: no such trace: loop, twice, onehit, scan, shift, zipf", name);
}

static void make_up(struct maker *m, const char *source)
{
    char name[16];
    unsigned long long keys, n;
    if (sscanf(source, "%15[a-z]:%llu:%llu", name, &keys, &n) != 3 || keys < 2 || n < 40)
        errx(2, "%s: NAME:KEYS:REQUESTS", source);
    struct zipf z;
    zipf_make(&z, keys, 0.9);
    for (uint64_t i = 0; i < n && add_request(m, made_id(name, &z, keys, n, i, m->t->opt.seed), 0); i++)
        ;
    free(z.below);
}

void trace_load(struct trace *t, const struct trace_options *opt)
{
    *t = (struct trace){.opt = *opt};
    struct maker m = {.t = t};
    if (opt->sizes_csv != NULL)
        load_sizes(&m.sizes, opt->sizes_csv);
    if (strchr(opt->source, ':') != NULL && strchr(opt->source, '/') == NULL)
        make_up(&m, opt->source);
    else
        read_file(&m, opt->source);
    free(m.seen.id);
    free(m.seen.key);
    free(m.sizes.bytes);
    free(m.sizes.below);
    if (t->requests == 0)
        errx(2, "%s: no requests", opt->source);
}
