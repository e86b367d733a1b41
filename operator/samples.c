/* operator/samples.c: see operator/samples.h. */
#include "operator/samples.h"

#include "base/hash.h"
#include "base/lock.h"

enum { SAMPLE_GAP = 8 }; /* one in this many gets of a busy turn is noted, on average */

struct samples {
    struct lock lock;
    char delimiter;
    /* the worker's */
    uint32_t skip, random;
    /* under lock */
    struct sample_table keys, prefixes;
};

struct samples *samples_create(char delimiter)
{
    struct samples *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    lock_init(&s->lock, LOCK_STATS);
    s->delimiter = delimiter;
    return s;
}

void samples_destroy(struct samples *s)
{
    if (!s)
        return;
    lock_destroy(&s->lock);
    free(s);
}

static struct sample *rarest(struct sample_table *t)
{
    struct sample *found = &t->entries[0];
    DEBUG_ASSERT(t->count > 0);
    for (unsigned i = 1; i < t->count; i++)
        if (t->entries[i].count < found->count)
            found = &t->entries[i];
    return found;
}

static void table_add(struct sample_table *t, const char *key, size_t bytes, uint64_t count,
                      uint64_t error)
{
    uint32_t hash = (uint32_t)hash_key(key, bytes, 0);
    DEBUG_ASSERT(t->count <= SAMPLES_ENTRIES && error <= count);
    struct sample *e = NULL;
    t->total += count;
    for (unsigned i = 0; i < t->count && !e; i++) {
        struct sample *at = &t->entries[i];
        if (at->hash == hash && at->bytes == bytes && memcmp(at->key, key, bytes) == 0)
            e = at;
    }
    if (e) {
        e->count += count;
        e->error += error;
        return;
    }
    if (t->count < SAMPLES_ENTRIES) {
        e = &t->entries[t->count++];
        e->count = e->error = 0;
    } else {
        e = rarest(t);
    }
    e->error = e->count + error;
    e->count += count;
    e->hash = hash;
    DEBUG_ASSERT(bytes <= SAMPLES_KEY_BYTES && e->error <= e->count);
    e->bytes = (uint8_t)bytes;
    memcpy(e->key, key, bytes);
}

void samples_note(struct samples *s, const char *key, size_t bytes, uint64_t times)
{
    ASSERT(bytes <= SAMPLES_KEY_BYTES);
    if (s->skip > 0) {
        s->skip--;
        return;
    }
    if (times > 1) {
        s->random = s->random * 1664525 + 1013904223;
        s->skip = (s->random >> 16) % (2 * SAMPLE_GAP - 1);
        times *= SAMPLE_GAP;
    }
    if (!lock_try(&s->lock))
        return;
    const char *end = memchr(key, s->delimiter, bytes);
    table_add(&s->keys, key, bytes, times, 0);
    table_add(&s->prefixes, key, end ? (size_t)(end - key) : 0, times, 0);
    lock_release(&s->lock);
}

static void table_merge(struct sample_table *to, const struct sample_table *from)
{
    DEBUG_ASSERT(from->count <= SAMPLES_ENTRIES);
    uint64_t total = to->total + from->total;
    for (unsigned i = 0; i < from->count; i++) {
        const struct sample *e = &from->entries[i];
        table_add(to, e->key, e->bytes, e->count, e->error);
    }
    to->total = total;
}

void samples_read(struct samples *s, struct sample_table *keys, struct sample_table *prefixes)
{
    lock_assert_none_held();
    lock_take(&s->lock);
    table_merge(keys, &s->keys);
    table_merge(prefixes, &s->prefixes);
    lock_release(&s->lock);
}

static void table_age(struct sample_table *t)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < t->count; i++) {
        struct sample *e = &t->entries[i];
        e->count /= 2;
        e->error /= 2;
        DEBUG_ASSERT(e->error <= e->count);
        if (e->count > 0)
            t->entries[kept++] = *e;
    }
    t->count = kept;
    t->total /= 2;
}

void samples_age(struct samples *s)
{
    lock_take(&s->lock);
    table_age(&s->keys);
    table_age(&s->prefixes);
    lock_release(&s->lock);
}

static int heavier_first(const void *a, const void *b)
{
    uint64_t wa = sample_weight(a), wb = sample_weight(b);
    return wa < wb ? 1 : wa > wb ? -1 : 0;
}

void sample_table_sort(struct sample_table *t)
{
    qsort(t->entries, t->count, sizeof(t->entries[0]), heavier_first);
}
