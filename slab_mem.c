/* slab_mem.c: owns the class table and its pages (numbers only), and the runs
 * (memory of the arena, cut into equal chunks) that items really live in.
 *
 * Size steps. A step is a chunk size. Steps divide every slab class evenly,
 * each part no more than 1/8 of an octave, and the last step of a class stays
 * below the class's chunk size, so an item's real chunk is always smaller than
 * its accounted one. This relies on one fact about items: the real size is at
 * least 17 bytes below the accounted one (see items/item.h); if it weren't, only
 * density would suffer.
 *
 * Runs. A run is 64 KiB to 1 MiB of the arena, aligned to 64 KiB, all of one
 * step, without a header: chunks fill it. Two records describe runs:
 *  - the run map, persistent, one 16-bit entry for each 64 KiB of the arena:
 *    0, or step + 1 where a run starts, or MAP_INSIDE | distance to the start;
 *  - struct run, private: which chunks are live. Rebuilt on attach.
 * Each step keeps its runs that have a free chunk in buckets by how full they
 * are. Chunks come from the fullest bucket, so that other runs can drain:
 *
 *     bucket 0: empty   1 .. 8: by eighths   BUCKET_NONE: full, or being emptied
 *
 * An empty run goes back to the arena, but a step of more than
 * SPARE_MIN_RUNS runs keeps one.
 *
 * Kill at any instant: a run's map entries are written last to first after the
 * arena gave the memory and cleared first to last before it goes back, so the
 * memory of a start entry always belongs to a run. Which chunks are live
 * is not persistent: the index knows.
 *
 * Locks: LOCK_SLAB around everything below "under LOCK_SLAB"; functions named
 * _locked require it. The arena is not called under it, except in an attach, which no other thread waits for.
 */
#include "slab_mem.h"

#include <math.h>
#include <sys/mman.h>
#include <sys/queue.h>

#include "base/lock.h"

#define ROOT_MAGIC UINT64_C(0x316d656d62616c73) /* "slabmem1" */
#define GRAIN_BYTES (64 * KiB)                  /* alignment of a run; one map entry */
#define GRAIN_SHIFT 16
#define RUN_BYTES_MIN GRAIN_BYTES
#define RUN_BYTES_MAX (1 * MiB)
#define RUN_CHUNKS_WISH 8 /* the minimum, if the run may be longer */
#define RUN_WASTE_SHARE 64
#define STEP_BYTES_MIN 32
#define STEP_MAX 256
#define STEP_ALIGN_MIN 16
#define CLASS_CHUNK_ALIGN 8
#define CLASS_TABLE_BYTES 4096 /* the class of an item up to this size is looked up; of others, searched */
#define MAP_INSIDE 0x8000u
#define BUCKET_COUNT 9
#define BUCKET_NONE BUCKET_COUNT
#define SPARE_MIN_RUNS 4
#define REAL_OVER_SHARE 32 /* real memory may exceed the limit by 1/32 of it */
#define SPARSE_MIN_SHARE 32
#define SPARSE_LOOK_RUNS 8

struct slab_root {
    uint64_t magic;
    uint64_t map_offset, map_bytes;
    uint64_t steps_hash;
};
static_assert(sizeof(struct slab_root) <= ARENA_ROOT_MODULE_BYTES, "root fits");

typedef _Atomic(uint16_t) map_entry;

struct run {
    LIST_ENTRY(run) in_bucket;
    struct run *next_released; /* in a list of empty runs to release */
    uint64_t offset;
    uint32_t live_count;
    uint32_t first_word; /* no free chunk below this word of live[] */
    uint16_t step;
    uint8_t bucket;
    bool emptying; /* between slab_sparse_run and slab_run_done */
    uint64_t live[]; /* bit i: chunk i is handed out */
};

struct step {
    /* const after creation */
    uint32_t chunk_bytes, chunk_count, run_bytes;
    /* under LOCK_SLAB */
    uint32_t bucket_mask; /* bit b: bucket[b] is not empty */
    uint64_t run_count, empty_count;
    uint64_t free_chunks; /* of runs in a bucket */
    LIST_HEAD(, run) bucket[BUCKET_COUNT];
};

struct class {
    uint32_t chunk_bytes, chunks_per_page; /* const after creation */
    uint64_t page_count, used_chunks, requested_bytes; /* under LOCK_SLAB */
    uint64_t chained_chunks; /* of used_chunks, those of items that take several; the same */
};

struct slab_mem {
    /* const after creation */
    struct arena *arena;
    char *base;
    unsigned shift;
    unsigned class_count, step_count;
    uint32_t step_align;
    uint64_t item_max_bytes;
    uint64_t grain_count;
    map_entry *map;                /* in the arena, grain_count entries */
    uint16_t *step_by_size;        /* [real bytes / step_align, rounded up] */
    uint8_t class_by_size[CLASS_TABLE_BYTES / CLASS_CHUNK_ALIGN + 1]; /* [accounted bytes, rounded up likewise] */
    struct lock lock;
    /* under LOCK_SLAB */
    bool attaching;
    uint64_t limit_bytes;
    uint64_t page_count, pool_count; /* pages of classes and pool; of the pool */
    uint64_t claimed_bytes;          /* see slab_claim_bytes() */
    uint64_t real_bytes;             /* runs and large items */
    uint64_t run_bytes, live_bytes;  /* runs; chunks handed out from them */
    uint64_t grain_end;              /* no run at or above this grain */
    struct run **run_at;             /* [grain]: the run it belongs to, or NULL */
    struct class class[SLAB_CLASS_MAX];
    struct step step[STEP_MAX];
};

/* ---- tables --------------------------------------------------------------------------- */

/* The first class whose chunks hold this many bytes; the last one if there is none. */
static unsigned search_class(const struct slab_mem *sm, uint64_t accounted_bytes)
{
    unsigned low = 1, high = sm->class_count;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (accounted_bytes <= sm->class[middle].chunk_bytes)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* With the arithmetic of memcached, doubles and truncation included, so that the tables are the same. */
static void make_classes(struct slab_mem *sm, const struct slab_options *opt)
{
    unsigned cls = 1;
    uint32_t size = opt->min_chunk_bytes;
    for (; cls < SLAB_CLASS_MAX - 1; cls++) {
        if (opt->slab_sizes != NULL) {
            if (opt->slab_sizes[cls - 1] == 0)
                break;
            size = opt->slab_sizes[cls - 1];
        } else if (size >= opt->chunk_max_bytes / opt->factor) {
            break;
        }
        size = (uint32_t)round_up(size, CLASS_CHUNK_ALIGN);
        sm->class[cls].chunk_bytes = size;
        sm->class[cls].chunks_per_page = (uint32_t)(SLAB_PAGE_BYTES / size);
        if (opt->slab_sizes == NULL)
            size = (uint32_t)(size * opt->factor);
    }
    sm->class[cls].chunk_bytes = opt->chunk_max_bytes;
    sm->class[cls].chunks_per_page = (uint32_t)(SLAB_PAGE_BYTES / opt->chunk_max_bytes);
    sm->class_count = cls;
    for (unsigned i = 0; i < ARRAY_COUNT(sm->class_by_size); i++)
        sm->class_by_size[i] = (uint8_t)search_class(sm, i * CLASS_CHUNK_ALIGN);
}

/* The shortest run that wastes little at its end, otherwise the one that wastes least. */
static uint32_t run_bytes_for(uint32_t chunk_bytes)
{
    uint64_t best = 0;
    for (uint64_t bytes = RUN_BYTES_MIN; bytes <= RUN_BYTES_MAX; bytes *= 2) {
        uint64_t count = bytes / chunk_bytes, waste = bytes % chunk_bytes;
        if (count < RUN_CHUNKS_WISH)
            continue;
        if (waste * RUN_WASTE_SHARE <= bytes)
            return (uint32_t)bytes;
        if (best == 0 || waste * best < best % chunk_bytes * bytes)
            best = bytes;
    }
    return (uint32_t)best;
}

static void add_step(struct slab_mem *sm, uint32_t chunk_bytes)
{
    ASSERT(sm->step_count < STEP_MAX);
    struct step *st = &sm->step[sm->step_count++];
    st->chunk_bytes = chunk_bytes;
    st->run_bytes = run_bytes_for(chunk_bytes);
    st->chunk_count = st->run_bytes / chunk_bytes;
}

/* Adds steps from the last one up to `to`, in equal parts of at most 1/8 octave. */
static void add_steps_to(struct slab_mem *sm, uint64_t to)
{
    uint64_t at = sm->step[sm->step_count - 1].chunk_bytes;
    while (at < to) {
        uint64_t octave = (uint64_t)1 << (63 - __builtin_clzll(at));
        uint64_t part = max_u64(round_down(octave / 8, sm->step_align), sm->step_align);
        uint64_t parts = (to - at + part - 1) / part;
        /* Far from the end the parts grow with the octaves; near it they are made equal. */
        if (parts <= 8)
            part = round_up((to - at + parts - 1) / parts, sm->step_align);
        at = min_u64(at + part, to);
        add_step(sm, (uint32_t)at);
    }
}

static int make_steps(struct slab_mem *sm)
{
    sm->step_align = (uint32_t)max_u64((uint64_t)1 << sm->shift, STEP_ALIGN_MIN);
    add_step(sm, (uint32_t)max_u64(STEP_BYTES_MIN, sm->step_align));
    for (unsigned cls = 1; cls <= sm->class_count; cls++) {
        uint64_t end = round_down(sm->class[cls].chunk_bytes, sm->step_align);
        if (end > sm->step_align && end - sm->step_align <= SLAB_RUN_CHUNK_MAX)
            add_steps_to(sm, end - sm->step_align);
    }
    add_steps_to(sm, SLAB_RUN_CHUNK_MAX);

    uint64_t sizes = SLAB_RUN_CHUNK_MAX / sm->step_align + 1;
    sm->step_by_size = calloc(sizes, sizeof(sm->step_by_size[0]));
    if (sm->step_by_size == NULL)
        return -ENOMEM;
    for (uint64_t i = 0, step = 0; i < sizes; i++) {
        while (sm->step[step].chunk_bytes < i * sm->step_align)
            step++;
        sm->step_by_size[i] = (uint16_t)step;
    }
    return 0;
}

static uint64_t steps_hash(const struct slab_mem *sm)
{
    uint64_t hash = UINT64_C(14695981039346656037) ^ sm->shift;
    for (unsigned i = 0; i < sm->step_count; i++) {
        hash = (hash ^ sm->step[i].chunk_bytes) * UINT64_C(1099511628211);
        hash = (hash ^ sm->step[i].run_bytes) * UINT64_C(1099511628211);
    }
    return hash;
}

static unsigned step_of(const struct slab_mem *sm, uint64_t real_bytes)
{
    DEBUG_ASSERT(real_bytes > 0 && real_bytes <= SLAB_RUN_CHUNK_MAX);
    return sm->step_by_size[(real_bytes + sm->step_align - 1) / sm->step_align];
}

/* ---- runs, under LOCK_SLAB -------------------------------------------------------------- */

static unsigned bucket_of(const struct step *st, const struct run *run)
{
    if (run->emptying || run->live_count == st->chunk_count)
        return BUCKET_NONE;
    if (run->live_count == 0)
        return 0;
    return 1 + run->live_count * (BUCKET_COUNT - 1) / st->chunk_count;
}

static void bucket_remove(struct step *st, struct run *run)
{
    if (run->bucket == BUCKET_NONE)
        return;
    LIST_REMOVE(run, in_bucket);
    if (LIST_EMPTY(&st->bucket[run->bucket]))
        st->bucket_mask &= ~(1u << run->bucket);
    if (run->bucket == 0)
        st->empty_count--;
    run->bucket = BUCKET_NONE;
}

static void bucket_add(struct step *st, struct run *run, unsigned bucket)
{
    DEBUG_ASSERT(bucket <= BUCKET_NONE && run->bucket == BUCKET_NONE);
    run->bucket = (uint8_t)bucket;
    if (bucket == BUCKET_NONE)
        return;
    LIST_INSERT_HEAD(&st->bucket[bucket], run, in_bucket);
    st->bucket_mask |= 1u << bucket;
    if (bucket == 0)
        st->empty_count++;
}

static void rebucket(struct step *st, struct run *run)
{
    unsigned bucket = bucket_of(st, run);
    if (bucket == run->bucket)
        return;
    bucket_remove(st, run);
    bucket_add(st, run, bucket);
}

static struct run *run_make(const struct slab_mem *sm, unsigned step, uint64_t offset)
{
    size_t words = (sm->step[step].chunk_count + 63) / 64;
    struct run *run = calloc(1, sizeof(*run) + words * sizeof(run->live[0]));
    if (run == NULL)
        return NULL;
    run->offset = offset;
    run->step = (uint16_t)step;
    run->bucket = BUCKET_NONE;
    return run;
}

/* Enters the run in the table that finds it by its chunks; it gets no bucket. */
static void run_link_locked(struct slab_mem *sm, struct run *run)
{
    struct step *st = &sm->step[run->step];
    uint64_t grain = run->offset >> GRAIN_SHIFT, grains = st->run_bytes >> GRAIN_SHIFT;
    lock_assert_held(&sm->lock);
    ASSERT(run->step < sm->step_count && grain + grains <= sm->grain_count);
    for (uint64_t i = 0; i < grains; i++) {
        ASSERT(sm->run_at[grain + i] == NULL);
        sm->run_at[grain + i] = run;
    }
    sm->grain_end = max_u64(sm->grain_end, grain + grains);
    sm->run_bytes += st->run_bytes;
    st->run_count++;
}

static void map_write_locked(struct slab_mem *sm, const struct run *run)
{
    lock_assert_held(&sm->lock);
    uint64_t grain = run->offset >> GRAIN_SHIFT;
    for (uint64_t i = sm->step[run->step].run_bytes >> GRAIN_SHIFT; i-- > 0;) {
        uint16_t entry = (uint16_t)(i == 0 ? run->step + 1u : (MAP_INSIDE | i));
        atomic_store_explicit(&sm->map[grain + i], entry, memory_order_release);
    }
}

/* Forgets an empty run that is in no bucket. The caller gives its memory back (run_release). */
static void run_unlink_locked(struct slab_mem *sm, struct run *run)
{
    struct step *st = &sm->step[run->step];
    lock_assert_held(&sm->lock);
    ASSERT(run->live_count == 0 && run->bucket == BUCKET_NONE && st->run_count > 0);
    ASSERT(sm->run_bytes >= st->run_bytes && sm->real_bytes >= st->run_bytes);
    uint64_t grain = run->offset >> GRAIN_SHIFT, grains = st->run_bytes >> GRAIN_SHIFT;
    for (uint64_t i = 0; i < grains; i++) {
        atomic_store_explicit(&sm->map[grain + i], 0, memory_order_release);
        sm->run_at[grain + i] = NULL;
    }
    st->run_count--;
    sm->run_bytes -= st->run_bytes;
    sm->real_bytes -= st->run_bytes;
}

/* Called without the lock. */
static void run_release(struct slab_mem *sm, struct run *run)
{
    while (run != NULL) {
        struct run *next = run->next_released;
        arena_free(sm->arena, ARENA_USE_SLAB, run->offset, sm->step[run->step].run_bytes);
        free(run);
        run = next;
    }
}

/* Takes an empty run from its step, whichever that is; NULL if there is none. */
static struct run *pop_empty_run_locked(struct slab_mem *sm)
{
    lock_assert_held(&sm->lock);
    for (unsigned i = 0; i < sm->step_count; i++) {
        struct run *run = LIST_FIRST(&sm->step[i].bucket[0]);
        if (run == NULL)
            continue;
        bucket_remove(&sm->step[i], run);
        sm->step[i].free_chunks -= sm->step[i].chunk_count;
        run_unlink_locked(sm, run);
        return run;
    }
    return NULL;
}

static slab_handle chunk_handle(const struct slab_mem *sm, const struct run *run, uint32_t chunk)
{
    uint64_t offset = run->offset + (uint64_t)chunk * sm->step[run->step].chunk_bytes;
    return (slab_handle)(offset >> sm->shift);
}

/* The chunk at offset; false if it isn't the start of one of the run's chunks. */
static bool chunk_at(const struct slab_mem *sm, const struct run *run, uint64_t offset,
                     uint32_t *chunk)
{
    const struct step *st = &sm->step[run->step];
    uint32_t within = (uint32_t)(offset - run->offset);
    *chunk = within / st->chunk_bytes;
    return *chunk * st->chunk_bytes == within && *chunk < st->chunk_count;
}

static void chunk_mark_locked(struct slab_mem *sm, struct run *run, uint32_t chunk)
{
    lock_assert_held(&sm->lock);
    ASSERT(!(run->live[chunk / 64] >> (chunk % 64) & 1));
    run->live[chunk / 64] |= UINT64_C(1) << (chunk % 64);
    run->live_count++;
    sm->live_bytes += sm->step[run->step].chunk_bytes;
}

/* Takes the lowest free chunk of the fullest run of a step. False: there is none. */
static bool chunk_take_locked(struct slab_mem *sm, unsigned step, slab_handle *h)
{
    lock_assert_held(&sm->lock);
    struct step *st = &sm->step[step];
    if (st->bucket_mask == 0)
        return false;
    struct run *run = LIST_FIRST(&st->bucket[31 - __builtin_clz(st->bucket_mask)]);
    uint32_t word = run->first_word;
    while (run->live[word] == ~UINT64_C(0))
        word++;
    run->first_word = word;
    uint32_t chunk = word * 64 + (uint32_t)__builtin_ctzll(~run->live[word]);
    ASSERT(chunk < st->chunk_count && st->free_chunks > 0 && !run->emptying);
    chunk_mark_locked(sm, run, chunk);
    st->free_chunks--;
    rebucket(st, run);
    *h = chunk_handle(sm, run, chunk);
    return true;
}

/* Gives a chunk back. Returns the run, unlinked, if it is now empty and no longer wanted: release it
 * without the lock. */
static struct run *chunk_give_locked(struct slab_mem *sm, struct run *run, uint64_t offset,
                                     uint64_t real_bytes)
{
    struct step *st = &sm->step[run->step];
    uint32_t chunk;
    lock_assert_held(&sm->lock);
    ASSERT(real_bytes <= st->chunk_bytes && sm->live_bytes >= st->chunk_bytes);
    bool is_start = chunk_at(sm, run, offset, &chunk);
    ASSERT(is_start);
    uint64_t bit = UINT64_C(1) << (chunk % 64);
    ASSERT(run->live[chunk / 64] & bit);
    run->live[chunk / 64] &= ~bit;
    run->live_count--;
    if (chunk / 64 < run->first_word)
        run->first_word = chunk / 64;
    sm->live_bytes -= st->chunk_bytes;
    if (run->emptying)
        return NULL;
    st->free_chunks++;
    if (run->live_count > 0 || (st->empty_count == 0 && st->run_count > SPARE_MIN_RUNS)) {
        rebucket(st, run);
        return NULL;
    }
    bucket_remove(st, run);
    st->free_chunks -= st->chunk_count;
    run_unlink_locked(sm, run);
    return run;
}

/* ---- pages, under LOCK_SLAB ------------------------------------------------------------- */

static uint64_t free_chunks_of(const struct class *c)
{
    ASSERT(c->used_chunks <= c->page_count * c->chunks_per_page);
    return c->page_count * c->chunks_per_page - c->used_chunks;
}

/* The bytes that count against the limit. */
static uint64_t taken_bytes(const struct slab_mem *sm)
{
    return sm->page_count * SLAB_PAGE_BYTES + sm->claimed_bytes;
}

/* memcached's rule: from the pool, otherwise a new one within the limit; the first one always. */
static bool page_take_locked(struct slab_mem *sm, struct class *c, bool within_limit)
{
    lock_assert_held(&sm->lock);
    ASSERT(sm->pool_count <= sm->page_count);
    if (sm->pool_count > 0)
        sm->pool_count--;
    else if (within_limit && c->page_count > 0 &&
             taken_bytes(sm) + SLAB_PAGE_BYTES > sm->limit_bytes)
        return false;
    else
        sm->page_count++;
    c->page_count++;
    return true;
}

static void pool_trim_locked(struct slab_mem *sm)
{
    lock_assert_held(&sm->lock);
    while (sm->pool_count > 0 && taken_bytes(sm) > sm->limit_bytes) {
        sm->pool_count--;
        sm->page_count--;
    }
}

/* 0 or -ENOSPC. New pages stay with the class in either case. */
static int account_take_locked(struct slab_mem *sm, unsigned cls, uint64_t accounted_bytes,
                               bool within_limit)
{
    struct class *c = &sm->class[cls];
    uint32_t chunks = slab_chunks_of(sm, accounted_bytes);
    lock_assert_held(&sm->lock);
    ASSERT(cls >= 1 && cls <= sm->class_count && chunks > 0);
    while (free_chunks_of(c) < chunks) {
        if (!page_take_locked(sm, c, within_limit))
            return -ENOSPC;
    }
    c->used_chunks += chunks;
    c->chained_chunks += chunks > 1 ? chunks : 0;
    c->requested_bytes += accounted_bytes;
    return 0;
}

static void account_give_locked(struct slab_mem *sm, unsigned cls, uint64_t accounted_bytes)
{
    struct class *c = &sm->class[cls];
    uint32_t chunks = slab_chunks_of(sm, accounted_bytes);
    lock_assert_held(&sm->lock);
    ASSERT(c->used_chunks >= chunks && c->requested_bytes >= accounted_bytes);
    ASSERT(chunks <= 1 || c->chained_chunks >= chunks);
    c->used_chunks -= chunks;
    c->chained_chunks -= chunks > 1 ? chunks : 0;
    c->requested_bytes -= accounted_bytes;
}

/* ---- allocation ------------------------------------------------------------------------- */

/* Reserves real memory before the arena allocates it. False: it would exceed the bound. Empty runs are
 * taken from their steps until it doesn't, and are in *released in either case. */
static bool real_reserve_locked(struct slab_mem *sm, uint64_t bytes, bool always,
                                struct run **released)
{
    uint64_t bound = max_u64(sm->limit_bytes, sm->page_count * SLAB_PAGE_BYTES);
    lock_assert_held(&sm->lock);
    bound += bound / REAL_OVER_SHARE;
    while (!always && sm->real_bytes + bytes > bound) {
        struct run *empty = pop_empty_run_locked(sm);
        if (empty == NULL)
            return false;
        empty->next_released = *released;
        *released = empty;
    }
    sm->real_bytes += bytes;
    return true;
}

static void real_unreserve(struct slab_mem *sm, uint64_t bytes)
{
    lock_take(&sm->lock);
    ASSERT(sm->real_bytes >= bytes);
    sm->real_bytes -= bytes;
    lock_release(&sm->lock);
}

static int alloc_large(struct slab_mem *sm, uint64_t real_bytes, slab_handle *h)
{
    ASSERT(real_bytes > SLAB_RUN_CHUNK_MAX);
    uint64_t bytes = round_up(real_bytes, ARENA_UNIT_BYTES), offset;
    struct run *released = NULL;
    lock_take(&sm->lock);
    bool fits = real_reserve_locked(sm, bytes, false, &released);
    lock_release(&sm->lock);
    run_release(sm, released);
    if (!fits)
        return -ENOMEM;
    uint64_t align = max_u64(ARENA_UNIT_BYTES, (uint64_t)1 << sm->shift);
    if (arena_alloc(sm->arena, ARENA_USE_SLAB, bytes, align, &offset, NULL) != 0) {
        real_unreserve(sm, bytes);
        return -ENOMEM;
    }
    ASSERT(offset % ((uint64_t)1 << sm->shift) == 0 && offset >> sm->shift <= UINT32_MAX);
    *h = (slab_handle)(offset >> sm->shift);
    return 0;
}

/* Allocates a chunk for which no run had room a moment ago. */
static int alloc_in_new_run(struct slab_mem *sm, unsigned step, slab_handle *h)
{
    struct step *st = &sm->step[step];
    struct run *released = NULL;
    lock_take(&sm->lock);
    bool got = chunk_take_locked(sm, step, h);
    bool fits = got || real_reserve_locked(sm, st->run_bytes, st->run_count == 0, &released);
    lock_release(&sm->lock);
    run_release(sm, released);
    if (got)
        return 0;
    if (!fits)
        return -ENOMEM;

    uint64_t offset;
    if (arena_alloc(sm->arena, ARENA_USE_SLAB, st->run_bytes, GRAIN_BYTES, &offset, NULL) != 0) {
        real_unreserve(sm, st->run_bytes);
        return -ENOMEM;
    }
    struct run *run = run_make(sm, step, offset);
    if (run == NULL) {
        arena_free(sm->arena, ARENA_USE_SLAB, offset, st->run_bytes);
        real_unreserve(sm, st->run_bytes);
        return -ENOMEM;
    }
    lock_take(&sm->lock);
    run_link_locked(sm, run);
    map_write_locked(sm, run);
    st->free_chunks += st->chunk_count;
    bucket_add(st, run, 0);
    got = chunk_take_locked(sm, step, h);
    ASSERT(got);
    lock_release(&sm->lock);
    return 0;
}

static int alloc_slowly(struct slab_mem *sm, uint64_t real_bytes, slab_handle *h)
{
    if (real_bytes > SLAB_RUN_CHUNK_MAX)
        return alloc_large(sm, real_bytes, h);
    return alloc_in_new_run(sm, step_of(sm, real_bytes), h);
}

int slab_alloc(struct slab_mem *sm, unsigned cls, uint64_t accounted_bytes, uint64_t real_bytes,
               slab_handle *h)
{
    ASSERT(cls >= 1 && cls <= sm->class_count && real_bytes > 0);
    bool got = false;
    lock_take(&sm->lock);
    ASSERT(!sm->attaching);
    int rc = account_take_locked(sm, cls, accounted_bytes, true);
    if (rc == 0 && real_bytes <= SLAB_RUN_CHUNK_MAX)
        got = chunk_take_locked(sm, step_of(sm, real_bytes), h);
    lock_release(&sm->lock);
    if (rc != 0 || got)
        return rc;
    rc = alloc_slowly(sm, real_bytes, h);
    if (rc != 0) {
        lock_take(&sm->lock);
        account_give_locked(sm, cls, accounted_bytes);
        lock_release(&sm->lock);
    }
    return rc;
}

int slab_alloc_real(struct slab_mem *sm, uint64_t real_bytes, slab_handle *h)
{
    ASSERT(real_bytes > 0);
    bool got = false;
    lock_take(&sm->lock);
    ASSERT(!sm->attaching);
    if (real_bytes <= SLAB_RUN_CHUNK_MAX)
        got = chunk_take_locked(sm, step_of(sm, real_bytes), h);
    lock_release(&sm->lock);
    return got ? 0 : alloc_slowly(sm, real_bytes, h);
}

void slab_free(struct slab_mem *sm, slab_handle h, unsigned cls, uint64_t accounted_bytes,
               uint64_t real_bytes)
{
    ASSERT(h != 0 && real_bytes > 0 && cls <= sm->class_count);
    uint64_t offset = (uint64_t)h << sm->shift;
    uint64_t large_bytes = round_up(real_bytes, ARENA_UNIT_BYTES);
    struct run *emptied = NULL;
    lock_take(&sm->lock);
    ASSERT(!sm->attaching && offset >> GRAIN_SHIFT < sm->grain_count);
    struct run *run = sm->run_at[offset >> GRAIN_SHIFT];
    if (run != NULL) {
        emptied = chunk_give_locked(sm, run, offset, real_bytes);
    } else {
        ASSERT(real_bytes > SLAB_RUN_CHUNK_MAX && sm->real_bytes >= large_bytes);
        sm->real_bytes -= large_bytes;
    }
    if (cls != 0)
        account_give_locked(sm, cls, accounted_bytes);
    lock_release(&sm->lock);
    if (run == NULL)
        arena_free(sm->arena, ARENA_USE_SLAB, offset, large_bytes);
    else
        run_release(sm, emptied);
}

/* ---- creation and attach ---------------------------------------------------------------- */

/* The persistent map of a new arena. 0 or -errno. */
static int map_create(struct slab_mem *sm, struct slab_root *root)
{
    uint64_t bytes = sm->grain_count * sizeof(sm->map[0]), offset;
    bool zeroed;
    int rc = arena_alloc(sm->arena, ARENA_USE_META, bytes, ARENA_UNIT_BYTES, &offset, &zeroed);
    if (rc != 0)
        return rc;
    sm->map = (map_entry *)(sm->base + offset);
    if (!zeroed)
        memset(sm->base + offset, 0, bytes);
    root->map_offset = offset;
    root->map_bytes = bytes;
    root->steps_hash = steps_hash(sm);
    atomic_thread_fence(memory_order_release);
    root->magic = ROOT_MAGIC;
    return 0;
}

/* Claims the run that starts at grain according to the map. 0 if it is a run now, or if it was none
 * (then its entry is cleared); -ENOMEM. */
static int run_adopt(struct slab_mem *sm, uint64_t grain)
{
    unsigned entry = atomic_load_explicit(&sm->map[grain], memory_order_relaxed);
    ASSERT(entry != 0);
    unsigned step = entry - 1;
    bool good = !(entry & MAP_INSIDE) && step < sm->step_count;
    uint64_t bytes = good ? sm->step[step].run_bytes : 0;
    if (!good ||
        arena_take(sm->arena, ARENA_USE_SLAB, grain << GRAIN_SHIFT, bytes) != 0) {
        atomic_store_explicit(&sm->map[grain], 0, memory_order_relaxed);
        return 0;
    }
    struct run *run = run_make(sm, step, grain << GRAIN_SHIFT);
    if (run == NULL)
        return -ENOMEM;
    lock_take(&sm->lock);
    run_link_locked(sm, run);
    map_write_locked(sm, run);
    sm->real_bytes += bytes;
    lock_release(&sm->lock);
    return 0;
}

static int map_attach(struct slab_mem *sm, const struct slab_root *root)
{
    uint64_t bytes = sm->grain_count * sizeof(sm->map[0]);
    if (root->magic != ROOT_MAGIC || root->map_bytes != bytes ||
        root->steps_hash != steps_hash(sm) ||
        arena_take(sm->arena, ARENA_USE_META, root->map_offset, bytes) != 0)
        return -EINVAL;
    sm->map = (map_entry *)(sm->base + root->map_offset);
    for (uint64_t grain = 0; grain < sm->grain_count;) {
        if (atomic_load_explicit(&sm->map[grain], memory_order_relaxed) == 0) {
            grain++;
            continue;
        }
        int rc = run_adopt(sm, grain);
        if (rc != 0)
            return rc;
        const struct run *run = sm->run_at[grain];
        grain += run != NULL ? sm->step[run->step].run_bytes >> GRAIN_SHIFT : 1;
    }
    sm->attaching = true;
    return 0;
}

/* h's memory becomes live; 0, -EINVAL or -EBUSY. */
static int attach_memory_locked(struct slab_mem *sm, slab_handle h, uint64_t real_bytes)
{
    lock_assert_held(&sm->lock);
    uint64_t offset = (uint64_t)h << sm->shift;
    if (h == 0 || real_bytes == 0 || offset >> GRAIN_SHIFT >= sm->grain_count)
        return -EINVAL;
    struct run *run = sm->run_at[offset >> GRAIN_SHIFT];
    if (run != NULL) {
        uint32_t chunk;
        if (!chunk_at(sm, run, offset, &chunk) ||
            real_bytes > sm->step[run->step].chunk_bytes)
            return -EINVAL;
        if (run->live[chunk / 64] & UINT64_C(1) << (chunk % 64))
            return -EBUSY;
        chunk_mark_locked(sm, run, chunk);
        return 0;
    }
    if (real_bytes <= SLAB_RUN_CHUNK_MAX || real_bytes > sm->item_max_bytes)
        return -EINVAL;
    uint64_t large_bytes = round_up(real_bytes, ARENA_UNIT_BYTES);
    int rc = arena_take(sm->arena, ARENA_USE_SLAB, offset, large_bytes);
    if (rc == 0)
        sm->real_bytes += large_bytes;
    return rc;
}

void slab_attach_items(struct slab_mem *sm, struct slab_claim *claims, unsigned count)
{
    lock_take(&sm->lock);
    ASSERT(sm->attaching);
    for (unsigned i = 0; i < count; i++) {
        struct slab_claim *c = &claims[i];
        c->result = -EINVAL;
        if (c->cls < 1 || c->cls > sm->class_count || c->accounted_bytes > sm->item_max_bytes)
            continue;
        c->result = attach_memory_locked(sm, c->handle, c->real_bytes);
        if (c->result == 0)
            account_take_locked(sm, c->cls, c->accounted_bytes, false);
    }
    lock_release(&sm->lock);
}

void slab_attach_done(struct slab_mem *sm)
{
    struct run *released = NULL;
    lock_take(&sm->lock);
    for (uint64_t grain = 0; sm->attaching && grain < sm->grain_end; grain++) {
        struct run *run = sm->run_at[grain];
        if (run == NULL || run->offset != grain << GRAIN_SHIFT)
            continue;
        struct step *st = &sm->step[run->step];
        if (run->live_count == 0) {
            run_unlink_locked(sm, run);
            run->next_released = released;
            released = run;
            continue;
        }
        st->free_chunks += st->chunk_count - run->live_count;
        bucket_add(st, run, bucket_of(st, run));
    }
    sm->attaching = false;
    lock_release(&sm->lock);
    run_release(sm, released);
}

static bool options_good(const struct slab_options *opt)
{
    for (unsigned i = 0; opt->slab_sizes != NULL && opt->slab_sizes[i] != 0; i++) {
        if (opt->slab_sizes[i] > opt->chunk_max_bytes)
            return false;
    }
    return opt->arena != NULL && opt->min_chunk_bytes > 0 && opt->chunk_max_bytes > 0 &&
           opt->chunk_max_bytes <= SLAB_PAGE_BYTES && opt->item_max_bytes > 0 &&
           (opt->slab_sizes != NULL || (isfinite(opt->factor) && opt->factor > 1));
}

static int create_in(struct slab_mem *sm, const struct slab_options *opt)
{
    uint64_t reserve = arena_reserve_bytes(opt->arena);
    sm->arena = opt->arena;
    sm->base = arena_base(opt->arena);
    sm->item_max_bytes = opt->item_max_bytes;
    sm->limit_bytes = opt->limit_bytes;
    sm->shift = 4;
    while (reserve >> sm->shift > (uint64_t)1 << 32)
        sm->shift++;
    sm->grain_count = reserve >> GRAIN_SHIFT;
    make_classes(sm, opt);
    int rc = make_steps(sm);
    if (rc != 0)
        return rc;
    sm->run_at = mmap(NULL, sm->grain_count * sizeof(sm->run_at[0]), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (sm->run_at == MAP_FAILED) {
        sm->run_at = NULL;
        return -ENOMEM;
    }
    struct slab_root *root = arena_root(opt->arena, ARENA_ROOT_SLAB);
    return opt->attached ? map_attach(sm, root) : map_create(sm, root);
}

struct slab_mem *slab_create(const struct slab_options *opt)
{
    if (!options_good(opt)) {
        errno = EINVAL;
        return NULL;
    }
    struct slab_mem *sm = calloc(1, sizeof(*sm));
    if (sm == NULL)
        return NULL;
    lock_init(&sm->lock, LOCK_SLAB);
    int rc = create_in(sm, opt);
    if (rc != 0) {
        slab_destroy(sm);
        errno = -rc;
        return NULL;
    }
    return sm;
}

void slab_destroy(struct slab_mem *sm)
{
    if (sm == NULL)
        return;
    for (uint64_t grain = 0; grain < sm->grain_end; grain++) {
        struct run *run = sm->run_at[grain];
        if (run == NULL)
            continue;
        grain += (sm->step[run->step].run_bytes >> GRAIN_SHIFT) - 1;
        free(run);
    }
    if (sm->run_at != NULL)
        munmap(sm->run_at, sm->grain_count * sizeof(sm->run_at[0]));
    free(sm->step_by_size);
    lock_destroy(&sm->lock);
    free(sm);
}

/* ---- sparse runs ------------------------------------------------------------------------ */

/* The emptiest of the first few runs in the step's emptiest bucket, if its items fit into other
 * runs that are in use. */
static struct run *sparse_in_step_locked(struct step *st, unsigned max_used_pct)
{
    uint32_t used_buckets = st->bucket_mask & ~1u;
    if (used_buckets == 0)
        return NULL;
    struct run *best = NULL, *run = LIST_FIRST(&st->bucket[__builtin_ctz(used_buckets)]);
    for (int i = 0; i < SPARSE_LOOK_RUNS && run != NULL; i++, run = LIST_NEXT(run, in_bucket)) {
        if (best == NULL || run->live_count < best->live_count)
            best = run;
    }
    ASSERT(best->live_count > 0 && best->live_count <= st->chunk_count);
    if (best->live_count * 100 >= max_used_pct * st->chunk_count)
        return NULL;
    uint64_t room = st->free_chunks - st->empty_count * st->chunk_count -
                    (st->chunk_count - best->live_count);
    return best->live_count <= room ? best : NULL;
}

bool slab_sparse_run(struct slab_mem *sm, unsigned max_used_pct, uint64_t *run)
{
    ASSERT(max_used_pct <= 100);
    struct run *best = NULL;
    uint64_t best_waste = 0;
    lock_take(&sm->lock);
    bool worth = max_used_pct == 100 || sm->run_bytes - sm->live_bytes > sm->run_bytes / SPARSE_MIN_SHARE;
    for (unsigned i = 0; worth && i < sm->step_count; i++) {
        struct step *st = &sm->step[i];
        uint64_t waste = st->free_chunks * st->chunk_bytes;
        if (waste <= best_waste)
            continue;
        struct run *candidate = sparse_in_step_locked(st, max_used_pct);
        if (candidate != NULL) {
            best = candidate;
            best_waste = waste;
        }
    }
    if (best != NULL) {
        struct step *st = &sm->step[best->step];
        bucket_remove(st, best);
        best->emptying = true;
        st->free_chunks -= st->chunk_count - best->live_count;
        *run = best->offset;
    }
    lock_release(&sm->lock);
    return best != NULL;
}

static struct run *emptying_run_locked(const struct slab_mem *sm, uint64_t offset)
{
    lock_assert_held(&sm->lock);
    ASSERT(offset >> GRAIN_SHIFT < sm->grain_count);
    struct run *run = sm->run_at[offset >> GRAIN_SHIFT];
    ASSERT(run != NULL && run->offset == offset && run->emptying);
    return run;
}

bool slab_run_next(struct slab_mem *sm, uint64_t run, uint32_t *pos, slab_handle *h)
{
    bool found = false;
    lock_take(&sm->lock);
    const struct run *r = emptying_run_locked(sm, run);
    uint32_t count = sm->step[r->step].chunk_count, chunk = *pos;
    while (chunk < count && !found) {
        uint64_t word = r->live[chunk / 64] >> (chunk % 64);
        if (word == 0) {
            chunk = (chunk / 64 + 1) * 64;
            continue;
        }
        chunk += (uint32_t)__builtin_ctzll(word);
        *h = chunk_handle(sm, r, chunk);
        found = true;
        chunk++;
    }
    *pos = chunk;
    lock_release(&sm->lock);
    return found;
}

void slab_run_done(struct slab_mem *sm, uint64_t run)
{
    struct run *emptied = NULL;
    lock_take(&sm->lock);
    struct run *r = emptying_run_locked(sm, run);
    struct step *st = &sm->step[r->step];
    r->emptying = false;
    if (r->live_count == 0) {
        run_unlink_locked(sm, r);
        emptied = r;
    } else {
        st->free_chunks += st->chunk_count - r->live_count;
        bucket_add(st, r, bucket_of(st, r));
    }
    lock_release(&sm->lock);
    run_release(sm, emptied);
}

uint64_t slab_give_back(struct slab_mem *sm)
{
    struct run *released = NULL, *empty;
    lock_take(&sm->lock);
    uint64_t before = sm->run_bytes;
    while ((empty = pop_empty_run_locked(sm)) != NULL) {
        empty->next_released = released;
        released = empty;
    }
    uint64_t bytes = before - sm->run_bytes;
    lock_release(&sm->lock);
    run_release(sm, released);
    return bytes;
}

/* ---- pages and questions ---------------------------------------------------------------- */

unsigned slab_class_count(const struct slab_mem *sm) { return sm->class_count; }

unsigned slab_class_of(const struct slab_mem *sm, uint64_t accounted_bytes)
{
    if (accounted_bytes == 0 || accounted_bytes > sm->item_max_bytes)
        return 0;
    if (accounted_bytes <= CLASS_TABLE_BYTES)
        return sm->class_by_size[(accounted_bytes + CLASS_CHUNK_ALIGN - 1) / CLASS_CHUNK_ALIGN];
    return search_class(sm, accounted_bytes);
}

uint32_t slab_chunks_of(const struct slab_mem *sm, uint64_t accounted_bytes)
{
    uint64_t chunk = sm->class[sm->class_count].chunk_bytes;
    return accounted_bytes <= chunk ? 1 : (uint32_t)((accounted_bytes + chunk - 1) / chunk);
}

unsigned slab_handle_shift(const struct slab_mem *sm) { return sm->shift; }

void *slab_ptr(const struct slab_mem *sm, slab_handle h)
{
    return sm->base + ((uint64_t)h << sm->shift);
}

slab_handle slab_handle_of(const struct slab_mem *sm, const void *ptr)
{
    DEBUG_ASSERT((const char *)ptr > sm->base);
    return (slab_handle)((uint64_t)((const char *)ptr - sm->base) >> sm->shift);
}

void slab_info(struct slab_mem *sm, unsigned cls, struct slab_class_info *out)
{
    ASSERT(cls >= 1 && cls <= sm->class_count);
    lock_take(&sm->lock);
    const struct class *c = &sm->class[cls];
    *out = (struct slab_class_info){
        .chunk_bytes = c->chunk_bytes,
        .chunks_per_page = c->chunks_per_page,
        .total_pages = c->page_count,
        .total_chunks = c->page_count * c->chunks_per_page,
        .used_chunks = c->used_chunks,
        .free_chunks = free_chunks_of(c),
        .chained_chunks = c->chained_chunks,
        .mem_requested = c->requested_bytes,
    };
    lock_release(&sm->lock);
}

/* One number, read under the lock. */
static uint64_t read_locked(struct slab_mem *sm, const uint64_t *value)
{
    lock_take(&sm->lock);
    uint64_t copy = *value;
    lock_release(&sm->lock);
    return copy;
}

uint64_t slab_limit_bytes(struct slab_mem *sm) { return read_locked(sm, &sm->limit_bytes); }
uint64_t slab_pages_total(struct slab_mem *sm) { return read_locked(sm, &sm->page_count); }

uint64_t slab_taken_bytes(struct slab_mem *sm)
{
    lock_take(&sm->lock);
    uint64_t bytes = taken_bytes(sm);
    lock_release(&sm->lock);
    return bytes;
}
uint64_t slab_pages_global(struct slab_mem *sm) { return read_locked(sm, &sm->pool_count); }
uint64_t slab_real_bytes(struct slab_mem *sm) { return read_locked(sm, &sm->real_bytes); }

uint64_t slab_pages_left(struct slab_mem *sm)
{
    lock_take(&sm->lock);
    uint64_t taken = taken_bytes(sm), left = sm->pool_count;
    if (taken < sm->limit_bytes)
        left += (sm->limit_bytes - taken) / SLAB_PAGE_BYTES;
    lock_release(&sm->lock);
    return left;
}

void slab_fill_pool(struct slab_mem *sm)
{
    lock_take(&sm->lock);
    while (taken_bytes(sm) + SLAB_PAGE_BYTES <= sm->limit_bytes) {
        sm->page_count++;
        sm->pool_count++;
    }
    lock_release(&sm->lock);
}

void slab_claim_bytes(struct slab_mem *sm, uint64_t bytes)
{
    lock_take(&sm->lock);
    sm->claimed_bytes = bytes;
    lock_release(&sm->lock);
}

uint64_t slab_set_limit(struct slab_mem *sm, uint64_t limit_bytes)
{
    lock_take(&sm->lock);
    sm->limit_bytes = limit_bytes;
    pool_trim_locked(sm);
    uint64_t allowed = limit_bytes / SLAB_PAGE_BYTES;
    uint64_t excess = sm->page_count > allowed ? sm->page_count - allowed : 0;
    lock_release(&sm->lock);
    return excess;
}

int slab_page_move(struct slab_mem *sm, unsigned src, unsigned dst)
{
    if (src == dst || src > sm->class_count || dst > sm->class_count)
        return -EINVAL;
    int rc = 0;
    lock_take(&sm->lock);
    struct class *from = &sm->class[src];
    ASSERT(sm->pool_count <= sm->page_count);
    if (src == 0) {
        rc = sm->pool_count == 0 ? -ENOSPC : 0;
    } else if (from->page_count < 2) {
        rc = -ENOENT;
    } else if (free_chunks_of(from) < from->chunks_per_page) {
        rc = -ENOSPC;
    }
    if (rc == 0) {
        if (src == 0)
            sm->pool_count--;
        else
            from->page_count--;
        if (dst == 0)
            sm->pool_count++;
        else
            sm->class[dst].page_count++;
        pool_trim_locked(sm);
    }
    lock_release(&sm->lock);
    return rc;
}
