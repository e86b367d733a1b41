/* bench_extents.c: the cost of a set of extents at every fragmentation, hybrid against pure list
 * against pure bitmap: nanoseconds for one alloc and free, and bytes.
 *
 * A row is a set in which free runs and used gaps alternate, both of the average length named
 * (each length is drawn evenly from 1 .. 2 * average - 1; 1 is strictly alternate units; "whole"
 * is one free run). Three measurements for each representation:
 *
 *  random  frees a random piece of the used units and takes the same units back; 1 to 4 units long,
 *          limited by the gap. The set stays as fragmented as it was.
 *  lowest  allocates one unit (lowest fit) and frees the one allocated a while before.
 *  fit     allocates `average` units (1024 where it is whole), frees one of a while before.
 *
 * Usage: bench_extents [-u UNITS] [-m MS_PER_CELL]; defaults fit into 20 s. */
#include <time.h>
#include <unistd.h>

#include "space/extents.h"

#define RECENT 1024 /* allocations that are kept before one of them is freed, at most */
#define CLOCK_EVERY 64

struct bench {
    uint64_t units, cell_ms, seed;
};

/* Used pieces that `random` works on, drawn when the set is built. */
#define PIECES 65536
struct layout {
    struct extents *set;
    uint64_t piece_count;
    struct extents_range pieces[PIECES];
};

static uint64_t rng_next(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s * UINT64_C(0x2545F4914F6CDD1D) >> 16;
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Builds the set of one row; average 0: whole. Every stretch of the set gives its share of
 * pieces. */
static void build(struct layout *l, const struct bench *b, enum extents_mode mode, uint64_t average)
{
    struct extents_options o = {.unit_count = b->units, .all_used = average > 0, .mode = mode};
    int rc = extents_create(&o, &l->set);
    ASSERT(rc == 0);
    l->piece_count = 0;
    if (average == 0) {
        uint64_t rng = b->seed;
        for (int i = 0; i < PIECES; i++)
            l->pieces[l->piece_count++] =
                (struct extents_range){rng_next(&rng) % (b->units - 4), 1 + rng_next(&rng) % 4};
        return;
    }
    uint64_t rng = b->seed + average, seen = 0;
    for (uint64_t at = 0; at < b->units;) {
        uint64_t run = 1 + rng_next(&rng) % (2 * average - 1);
        uint64_t gap = 1 + rng_next(&rng) % (2 * average - 1);
        extents_free(l->set, at, min_u64(run, b->units - at));
        at += run;
        if (at + gap >= b->units)
            break;
        struct extents_range piece = {at, min_u64(gap, 1 + rng_next(&rng) % 4)};
        uint64_t slot = l->piece_count < PIECES ? l->piece_count++ : rng_next(&rng) % (seen + 1);
        if (slot < PIECES)
            l->pieces[slot] = piece;
        seen++;
        at += gap;
    }
    for (uint64_t i = l->piece_count; i > 1; i--) {
        uint64_t j = rng_next(&rng) % i;
        struct extents_range t = l->pieces[i - 1];
        l->pieces[i - 1] = l->pieces[j];
        l->pieces[j] = t;
    }
}

static double measure_random(struct layout *l, const struct bench *b, bool whole)
{
    uint64_t begin = now_ns(), end = begin + b->cell_ms * 1000000, now = begin, count = 0;
    while (now < end) {
        for (int i = 0; i < CLOCK_EVERY; i++) {
            struct extents_range p = l->pieces[count++ % l->piece_count];
            if (!whole)
                extents_free(l->set, p.start, p.len);
            int rc = extents_take(l->set, p.start, p.len);
            ASSERT(rc == 0);
            if (whole)
                extents_free(l->set, p.start, p.len);
        }
        now = now_ns();
    }
    return (double)(now - begin) / (double)count;
}

static double measure_alloc(struct layout *l, const struct bench *b, uint64_t len)
{
    static uint64_t recent[RECENT];
    uint64_t keep = min_u64(RECENT, b->units / 16 / len), kept = 0, count = 0, rng = b->seed;
    uint64_t begin = now_ns(), end = begin + b->cell_ms * 1000000, now = begin;
    while (now < end) {
        for (int i = 0; i < CLOCK_EVERY; i++, count++) {
            uint64_t start;
            uint64_t slot = count < keep ? kept++ : rng_next(&rng) % keep;
            if (count >= keep)
                extents_free(l->set, recent[slot], len);
            int rc = extents_alloc(l->set, len, 1, &start);
            ASSERT(rc == 0);
            recent[slot] = start;
        }
        now = now_ns();
    }
    for (uint64_t i = 0; i < kept; i++)
        extents_free(l->set, recent[i], len);
    return (double)(now - begin) / (double)count;
}

int main(int argc, char **argv)
{
    static const char *const names[] = {"hybrid", "list", "bitmap"};
    static struct layout l;
    struct bench b = {.units = 4 << 20, .cell_ms = 60, .seed = 0x9E3779B97F4A7C15};
    for (int c; (c = getopt(argc, argv, "u:m:")) != -1;) {
        uint64_t v = optarg ? strtoull(optarg, NULL, 10) : 0;
        if ((c != 'u' || v < 1 << 20) && (c != 'm' || v == 0)) {
            fprintf(stderr, "usage: bench_extents [-u UNITS, 1048576 or more] [-m MS]\n");
            return 1;
        }
        *(c == 'u' ? &b.units : &b.cell_ms) = v;
    }

    printf("extents: %" PRIu64 " units, regions of %u; ns for one alloc and free, bytes per unit\n",
           b.units, EXTENTS_REGION_UNITS);
    printf("%7s |%26s |%26s |%26s |%26s\n", "average", "random free + take", "alloc 1 + free",
           "alloc average + free", "bytes per unit");
    printf("%7s |", "run");
    for (int i = 0; i < 4; i++)
        printf("%8s %8s %8s %s", names[0], names[1], names[2], i < 3 ? "|" : "\n");
    for (uint64_t average = 1; average <= 2048; average *= 2) {
        double cell[4][3];
        uint64_t run = average <= 1024 ? average : 0; /* behind the last: whole */
        for (int mode = 0; mode < 3; mode++) {
            struct extents_stats s;
            build(&l, &b, (enum extents_mode)mode, run);
            extents_stats(l.set, &s);
            cell[3][mode] = (double)s.bytes_used / (double)b.units;
            cell[0][mode] = measure_random(&l, &b, run == 0);
            cell[1][mode] = measure_alloc(&l, &b, 1);
            cell[2][mode] = measure_alloc(&l, &b, run == 0 ? 1024 : run);
            extents_destroy(l.set);
        }
        if (run)
            printf("%7" PRIu64 " |", run);
        else
            printf("%7s |", "whole");
        for (int i = 0; i < 4; i++)
            printf(i < 3 ? "%8.0f %8.0f %8.0f |" : "%8.4f %8.4f %8.4f\n", cell[i][0], cell[i][1],
                   cell[i][2]);
        fflush(stdout);
    }
    return 0;
}
