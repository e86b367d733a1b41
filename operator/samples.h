/* operator/samples.h: the most requested keys and prefixes, from a sample of gets.
 *
 * Each worker has a struct samples (with --http only) and notes some of its gets in it. It holds two
 * small tables that find the most frequent entries of a stream: a new entry takes the
 * place of the rarest and inherits its count, which becomes the new entry's error. So count - error is
 * certain, and keys that are all equally rare show almost nothing. The prefix is the part before the
 * first delimiter (-D); keys without one count under "".
 *
 * LOCK_STATS inside; the worker only tries it, and skips the sample while a reader holds it: no get
 * waits. Never sleeps.
 */
#ifndef EXTANT_SAMPLES_H
#define EXTANT_SAMPLES_H

#include "base/base.h"

enum { SAMPLES_ENTRIES = 64, SAMPLES_KEY_BYTES = 250 };

struct samples;

struct sample {
    uint64_t count, error;
    uint32_t hash;
    uint8_t bytes;
    char key[SAMPLES_KEY_BYTES];
};
struct sample_table {
    struct sample entries[SAMPLES_ENTRIES];
    unsigned count;
    uint64_t total; /* of all samples, including those whose entry is gone */
};

/* NULL: no memory. */
struct samples *samples_create(char delimiter);
void samples_destroy(struct samples *s);

/* Notes a get of the key that stands for `times` gets. Only in the worker that owns s. */
void samples_note(struct samples *s, const char *key, size_t bytes, uint64_t times);

/* Adds the entries of s to the tables, which keep the heaviest. Any thread. */
void samples_read(struct samples *s, struct sample_table *keys, struct sample_table *prefixes);
/* Halves all counts, so that old requests lose weight. Any thread. */
void samples_age(struct samples *s);
/* The certain part of an entry's count. */
static inline uint64_t sample_weight(const struct sample *e) { return e->count - e->error; }
/* Sorts the heaviest first. */
void sample_table_sort(struct sample_table *t);

#endif
