/* index.c: the table of words. See index.h for the layout of a word and the rules of use.
 *
 * Owns: the index root in the arena (geometry, state of each shard, directory segments), the rows,
 * and a process-private struct per shard (lock, exact counts).
 *
 * Position. x = (group, tag) belongs in bucket (group, row), row = tag * n >> T, of r0 groups.
 * Buckets, ordered by row, then group, lie in the arena in blocks as large as a row, but within 4 to
 * 64 KiB; a directory has 4 bytes for each block. It grows by doubling segments, each for all shards
 * (their sizes differ by about one per cent), and never moves.
 *
 * Growth is from n rows to m = n + max(1, n/8), or to n + 1 near the limit. As row(tag) is monotone
 * in tag, words of old row r go to at most three new rows of the same group, none below r. So rows
 * are expanded in place from the last one down, and within a row from group 0 up. `done` counts the
 * old buckets that were moved:
 *
 *     order(x) = (n - 1 - old row) * r0 + group;    x uses m rows if order(x) < done, else n
 *
 * n, done and the flag "growing" share one 64-bit word, so each step commits with one store. New
 * blocks are allocated when the first bucket needs them: no pause, and near the limit growth simply
 * stops half way, in a valid state.
 *
 * Kill at any instant. A move stores the new copy, then overwrites the old one. Two kinds:
 *  - to the other candidate: `moved_to` gets the position of the copy first; attach looks for a
 *    second copy of the word there. A stale note does no harm: no two live words have the same
 *    body, because a place or handle belongs to one object.
 *  - to a new row, while expanding bucket `done`: until done advances, such a copy lies in a
 *    row that doesn't follow from its tag. Attach drops it if the old bucket still has the word, otherwise
 *    it puts it back there; its old slot is still free, because no insert uses a bucket
 *    that is being expanded.
 * So a bucket is expanded completely or, if a word finds no room, restored completely.
 *
 * Threads: any; but index_create and index_load_rows run alone. After these, words, directory entries and state of a shard
 * change under its lock only; index_find, index_peek_ram, index_info read state, entries and counts without it, hence the
 * relaxed atomics.
 */
#include "index.h"

#include "base/progress.h"

#if defined(__SSE4_1__) && !defined(__SANITIZE_THREAD__) /* which doesn't know these loads as atomic */
#define HAVE_SSE 1
#include <smmintrin.h>
#endif

#define INITIAL_ROWS 8
#define GROUP_BITS_MIN 4
#define GROUP_BITS_MAX 24
#define TAG_BITS_MIN 13 /* 16 TiB of flash */
#define TAG_BITS_MAX 32
#define FIXED_BITS 10 /* kind, rank, heat and len */
#define SHARD_BITS 6
#define HIGH_BITS 3 /* bits of a tag that the other candidate flips; the other bits say how */
#define GRANULE_SHIFT 4
#define HANDLE_BITS_MAX 32

#define GROW_AT_PCT 93  /* above this, inserts move many words to make room */
#define LOAD_MAX_PCT 95 /* the load reached when there can be no more rows */
#define INSERT_STEP_BUCKETS 8   /* one nearly suffices, except for growth by one row */
#define RESCUE_STEP_BUCKETS 64  /* an insert that found no room grows this much, a few times */
#define RESCUE_ROUNDS 8
#define MAINTENANCE_STEP_BUCKETS 64
#define WALK_BUCKETS 1024       /* that index_walk_all looks at under one lock */
#define CURSOR_SHARD_SHIFT 48   /* of a walk's cursor: below it stands the bucket's number in the shard */
#define SEARCH_NODES 256        /* buckets looked at to make room */
#define ARENA_PAUSE_INSERTS 256 /* this many inserts wait before they ask a full arena again */

#define KIND_FLASH ((uint64_t)1 << 63)

#define ROOT_MAGIC 0x3278646e49747845u /* "ExtIndx2" */
#define SEGMENT_COUNT 16               /* directory: 32, 32, 64, 128 .. blocks of each shard */
#define SEGMENT_FIRST_BLOCKS 32u
#define BLOCKS_MAX (SEGMENT_FIRST_BLOCKS << (SEGMENT_COUNT - 1))
#define BLOCK_BYTES_MAX (64 * KiB)

/* state: | done 42 | by one 1 | growing 1 | rows 20 | */
#define STATE_ROW_BITS 20
static_assert(STATE_ROW_BITS + GROUP_BITS_MAX <= CURSOR_SHARD_SHIFT, "a bucket's number fits");
#define STATE_GROWING ((uint64_t)1 << STATE_ROW_BITS)
#define STATE_BY_ONE ((uint64_t)2 << STATE_ROW_BITS) /* to n + 1, because there was no room for more */
#define STATE_DONE_SHIFT (STATE_ROW_BITS + 2)
#define BY_ONE_ROWS_MAX 63 /* with more rows, the two that may stay unused at the limit are a small part */
#define ROWS_MAX (((uint32_t)1 << STATE_ROW_BITS) - 1)
#define NO_ORDER UINT64_MAX

struct shard_root {
    _Atomic(uint64_t) state;
    _Atomic(uint64_t) moved_to; /* 1 + (bucket number << 3 | slot); 0 never */
    uint64_t spare[6];
};
static_assert(sizeof(struct shard_root) == CACHE_LINE_BYTES, "one line a shard");

struct index_root {
    uint64_t magic; /* written last */
    uint32_t group_bits;
    uint32_t tag_bits;
    uint64_t spare[6];
    _Atomic(uint64_t) segment[SEGMENT_COUNT]; /* arena offset of all shards' entries, 0 not there */
    struct shard_root shard[INDEX_SHARD_COUNT];
};
static_assert(offsetof(struct index_root, shard) % CACHE_LINE_BYTES == 0, "aligned");
static_assert(sizeof(struct index_root) <= ARENA_ROOT_MODULE_BYTES, "fits the root");

typedef _Atomic(uint32_t) dir_entry; /* arena offset of a block in units, 0 not there */

struct shard {
    struct lock lock;
    /* changed under lock, read by anyone */
    _Atomic(uint64_t) counts[INDEX_TOMBSTONE + 1];
    _Atomic(uint64_t) clean_count; /* of the RAM words, those with heat */
    _Atomic(uint64_t) blocks;
    _Atomic(uint64_t) steps, displacements, full_failures;
    /* under lock */
    uint64_t grow_at;     /* more live words than this: grow */
    uint64_t ensured;     /* done >> ensure_shift: blocks for these old buckets are there */
    uint32_t arena_pause; /* inserts to go before the arena is asked again, .. */
    uint32_t pause_round; /* .. unless index.memory_round has changed */
} CACHE_ALIGNED;

struct index {
    /* const after init */
    struct arena *arena;
    char *base;
    struct index_root *root;
    unsigned group_bits, tag_bits, place_bits, low_bits;
    unsigned tag_shift;
    unsigned block_shift;   /* buckets in a block, log2 */
    unsigned ensure_shift; /* old buckets that need the same new blocks, log2 */
    uint64_t block_bytes;
    uint64_t x_mask;      /* of group and tag in a hash */
    uint64_t tag_mask;    /* of a tag by itself */
    uint64_t low_mask;    /* of a tag's low_bits */
    uint64_t tag_field;   /* of the tag in a word */
    uint64_t place_mask;
    /* atomic */
    _Atomic(uint64_t) limit_bytes;
    _Atomic(uint64_t) overhead_bytes; /* everything except the rows */
    _Atomic(bool) growth_held, lacks_memory;
    _Atomic(uint32_t) memory_round;
    struct shard shard[INDEX_SHARD_COUNT];
};

/* One candidate position of a word. */
struct candidate {
    index_slot *bucket;
    uint32_t group;
    uint32_t row;
    uint64_t tag;
};

/* ---- numbers ------------------------------------------------------------------------- */

static void bump(_Atomic(uint64_t) *counter, int64_t by)
{
    uint64_t v = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, v + (uint64_t)by, memory_order_relaxed);
}

static uint64_t peek(const _Atomic(uint64_t) *counter)
{
    return atomic_load_explicit((_Atomic(uint64_t) *)counter, memory_order_relaxed);
}

static unsigned bit_length(uint64_t v)
{
    return v ? 64 - (unsigned)__builtin_clzll(v) : 0;
}

static inline uint32_t state_rows(uint64_t state)
{
    return (uint32_t)state & ROWS_MAX;
}

static inline bool state_is_growing(uint64_t state)
{
    return (state & STATE_GROWING) != 0;
}

static inline uint64_t state_done(uint64_t state)
{
    return state >> STATE_DONE_SHIFT;
}

static inline uint32_t rows_after_growth(uint32_t n)
{
    return n + (n < 16 ? 1 : n / 8);
}

/* Rows at the end of the growth that runs. */
static inline uint32_t state_rows_grown(uint64_t state)
{
    uint32_t n = state_rows(state);
    return state & STATE_BY_ONE ? n + 1 : rows_after_growth(n);
}

/* Rows that may hold words. */
static uint32_t state_rows_all(uint64_t state)
{
    return state_is_growing(state) ? state_rows_grown(state) : state_rows(state);
}

static inline uint64_t shard_state(const struct index *ix, unsigned s)
{
    return peek(&ix->root->shard[s].state);
}

static inline uint64_t word_tag(const struct index *ix, index_word w)
{
    return (w & ix->tag_field) >> ix->tag_shift;
}

static inline bool is_tombstone(const struct index *ix, index_word w)
{
    uint64_t all = KIND_FLASH | ix->place_mask;
    return (w & all) == all;
}

/* The part of a word that stays when it moves. */
static inline uint64_t word_body(const struct index *ix, index_word w)
{
    return w & ~ix->tag_field;
}

static inline index_word word_with_tag(const struct index *ix, index_word w, uint64_t tag)
{
    return word_body(ix, w) | tag << ix->tag_shift;
}

static inline uint64_t hash_x(const struct index *ix, uint64_t hash)
{
    return hash & ix->x_mask;
}

/* The x of a word in this group. */
static inline uint64_t word_x(const struct index *ix, uint64_t group, index_word w)
{
    return group << ix->tag_bits | word_tag(ix, w);
}

/* The x of the other candidate; its own inverse, because the low bits that it uses stay. The group
 * always changes, so the two are never the same bucket. */
static inline uint64_t other_x(const struct index *ix, uint64_t x)
{
    uint64_t m = ((x & ix->low_mask) + 1) * 0x9e3779b97f4a7c15u;
    m = (m ^ m >> 32) * 0xd6e8feb86659fd93u;
    uint64_t groups_less_one = ((uint64_t)1 << ix->group_bits) - 1;
    uint64_t group_flip = 1 + ((m >> 32) * groups_less_one >> 32);
    uint64_t tag_flip = ((m & UINT32_MAX) >> 4 & ((1u << HIGH_BITS) - 1)) << ix->low_bits;
    return x ^ (group_flip << ix->tag_bits | tag_flip);
}

static inline uint32_t tag_row(const struct index *ix, uint64_t tag, uint32_t rows)
{
    return (uint32_t)(tag * rows >> ix->tag_bits);
}

/* Position of x in the order in which growth goes through the n old rows. */
static inline uint64_t growth_order(const struct index *ix, uint32_t n, uint64_t x)
{
    uint32_t row = tag_row(ix, x & ix->tag_mask, n);
    return ((uint64_t)(n - 1 - row) << ix->group_bits) + (x >> ix->tag_bits);
}

static inline uint32_t x_row(const struct index *ix, uint64_t state, uint64_t x)
{
    uint32_t n = state_rows(state);
    if (unlikely(state_done(state) > 0) && growth_order(ix, n, x) < state_done(state))
        n = state_rows_grown(state);
    return tag_row(ix, x & ix->tag_mask, n);
}

/* Buckets before this one in the shard. */
static inline uint64_t bucket_number(const struct index *ix, uint32_t row, uint32_t group)
{
    return (uint64_t)row << ix->group_bits | group;
}

static inline uint32_t group_of(const struct index *ix, uint64_t number)
{
    return (uint32_t)number & ((1u << ix->group_bits) - 1);
}

/* ---- directory ----------------------------------------------------------------------- */

static inline unsigned segment_of(uint32_t block)
{
    return 27u - (unsigned)__builtin_clz(block | SEGMENT_FIRST_BLOCKS / 2);
}

static inline uint32_t segment_blocks(unsigned k)
{
    return k ? SEGMENT_FIRST_BLOCKS << (k - 1) : SEGMENT_FIRST_BLOCKS;
}

static uint64_t segment_bytes(unsigned k)
{
    return round_up((uint64_t)INDEX_SHARD_COUNT * segment_blocks(k) * sizeof(dir_entry),
                    ARENA_UNIT_BYTES);
}

/* The entry of a block, NULL if its segment isn't there. */
static inline dir_entry *directory_entry(const struct index *ix, unsigned s, uint32_t block)
{
    unsigned k = segment_of(block);
    uint64_t offset = atomic_load_explicit(&ix->root->segment[k], memory_order_acquire);
    if (unlikely(offset == 0))
        return NULL;
    uint32_t first = k ? segment_blocks(k) : 0;
    return (dir_entry *)(ix->base + offset) + (uint64_t)s * segment_blocks(k) + (block - first);
}

/* Where the block is, in units of the arena; 0: it isn't there. */
static inline uint64_t block_unit(const struct index *ix, unsigned s, uint64_t block)
{
    const dir_entry *e = directory_entry(ix, s, (uint32_t)block);
    return e ? atomic_load_explicit(e, memory_order_acquire) : 0;
}

/* The bucket of this number, NULL if its block isn't there. */
static inline index_slot *find_bucket(const struct index *ix, unsigned s, uint64_t number)
{
    uint64_t unit = block_unit(ix, s, number >> ix->block_shift);
    if (unlikely(unit == 0))
        return NULL;
    uint64_t in_block = number & (((uint64_t)1 << ix->block_shift) - 1);
    return (index_slot *)(ix->base + unit * ARENA_UNIT_BYTES + in_block * CACHE_LINE_BYTES);
}

static inline struct candidate candidate_of(const struct index *ix, unsigned s, uint64_t state,
                                            uint64_t x)
{
    struct candidate c;
    c.group = (uint32_t)(x >> ix->tag_bits);
    c.tag = x & ix->tag_mask;
    c.row = x_row(ix, state, x);
    c.bucket = find_bucket(ix, s, bucket_number(ix, c.row, c.group));
    return c;
}

/* Finds both candidates and prefetches both lines together. */
static inline void both_candidates(const struct index *ix, unsigned s, uint64_t x,
                                   struct candidate c[2])
{
    uint64_t state = shard_state(ix, s);
    c[0] = candidate_of(ix, s, state, x);
    __builtin_prefetch(c[0].bucket);
    c[1] = candidate_of(ix, s, state, other_x(ix, x));
    __builtin_prefetch(c[1].bucket);
}

static int add_segment(struct index *ix, unsigned k)
{
    ASSERT(k < SEGMENT_COUNT);
    uint64_t offset, none = 0;
    bool zeroed;
    int rc = arena_alloc(ix->arena, ARENA_USE_INDEX, segment_bytes(k), ARENA_UNIT_BYTES, &offset,
                         &zeroed);
    if (rc != 0)
        return rc;
    if (!zeroed)
        memset(ix->base + offset, 0, segment_bytes(k));
    /* Shards race here, each under its own lock. */
    if (atomic_compare_exchange_strong(&ix->root->segment[k], &none, offset))
        atomic_fetch_add(&ix->overhead_bytes, segment_bytes(k));
    else
        arena_free(ix->arena, ARENA_USE_INDEX, offset, segment_bytes(k));
    return 0;
}

/* How many blocks a shard may have if the directory grows by this much. Each shard has its share, so
 * that shards which grow first don't starve the others. */
static uint64_t shard_block_limit(const struct index *ix, unsigned s, uint64_t more_overhead)
{
    uint64_t limit = peek(&ix->limit_bytes), overhead = peek(&ix->overhead_bytes) + more_overhead;
    uint64_t blocks = limit > overhead ? (limit - overhead) / ix->block_bytes : 0;
    return blocks / INDEX_SHARD_COUNT + (s < blocks % INDEX_SHARD_COUNT);
}

/* Adds the block unless it is there. 0; -ENOSPC (limit, or the arena is full). */
static int add_block(struct index *ix, unsigned s, uint32_t block)
{
    struct shard *sh = &ix->shard[s];
    ASSERT(block < BLOCKS_MAX);
    unsigned k = segment_of(block);
    dir_entry *e = directory_entry(ix, s, block);
    if (e && atomic_load_explicit(e, memory_order_relaxed) != 0)
        return 0;
    if (peek(&sh->blocks) >= shard_block_limit(ix, s, e ? 0 : segment_bytes(k))) {
        atomic_store_explicit(&ix->lacks_memory, false, memory_order_relaxed);
        return -ENOSPC;
    }
    int rc = e ? 0 : add_segment(ix, k);
    uint64_t offset = 0;
    bool zeroed = false;
    if (rc == 0)
        rc = arena_alloc(ix->arena, ARENA_USE_INDEX, ix->block_bytes, ARENA_UNIT_BYTES, &offset,
                         &zeroed);
    if (rc != 0) {
        sh->arena_pause = ARENA_PAUSE_INSERTS;
        sh->pause_round = atomic_load_explicit(&ix->memory_round, memory_order_relaxed);
        atomic_store_explicit(&ix->lacks_memory, true, memory_order_relaxed);
        return rc;
    }
    ASSERT(offset != 0 && offset % ARENA_UNIT_BYTES == 0 && offset / ARENA_UNIT_BYTES <= UINT32_MAX);
    if (!zeroed)
        memset(ix->base + offset, 0, ix->block_bytes);
    atomic_store_explicit(directory_entry(ix, s, block), (uint32_t)(offset / ARENA_UNIT_BYTES),
                          memory_order_release);
    bump(&sh->blocks, 1);
    return 0;
}

/* How many blocks this many rows take. */
static uint32_t blocks_of_rows(const struct index *ix, uint32_t rows)
{
    return (uint32_t)((bucket_number(ix, rows, 0) - 1) >> ix->block_shift) + 1;
}

static void set_grow_at(struct index *ix, unsigned s)
{
    uint64_t buckets = bucket_number(ix, state_rows(shard_state(ix, s)), 0);
    ix->shard[s].grow_at = buckets * INDEX_BUCKET_WORDS * GROW_AT_PCT / 100;
}

/* ---- buckets ------------------------------------------------------------------------- */

/* Bit i is set iff word i, under mask, is `want`. */
static inline unsigned bucket_match(const index_slot *bucket, uint64_t mask, uint64_t want)
{
#ifdef HAVE_SSE
    const __m128i *v = (const __m128i *)bucket;
    __m128i m = _mm_set1_epi64x((long long)mask), t = _mm_set1_epi64x((long long)want);
    __m128i a = _mm_cmpeq_epi64(_mm_and_si128(_mm_load_si128(v), m), t);
    __m128i b = _mm_cmpeq_epi64(_mm_and_si128(_mm_load_si128(v + 1), m), t);
    __m128i c = _mm_cmpeq_epi64(_mm_and_si128(_mm_load_si128(v + 2), m), t);
    __m128i d = _mm_cmpeq_epi64(_mm_and_si128(_mm_load_si128(v + 3), m), t);
    __m128i all = _mm_packs_epi16(_mm_packs_epi32(a, b), _mm_packs_epi32(c, d));
    /* Each word is now two equal bytes; keep one bit of each. */
    all = _mm_packs_epi16(all, _mm_setzero_si128());
    return (unsigned)_mm_movemask_epi8(all);
#else
    unsigned bits = 0;
    for (unsigned i = 0; i < INDEX_BUCKET_WORDS; i++) {
        uint64_t w = atomic_load_explicit((index_slot *)&bucket[i], memory_order_relaxed);
        bits |= (unsigned)((w & mask) == want) << i;
    }
    return bits;
#endif
}

static inline unsigned bucket_empties(const index_slot *bucket)
{
    return bucket_match(bucket, UINT64_MAX, 0);
}

static inline unsigned bucket_tombstones(const struct index *ix, const index_slot *bucket)
{
    uint64_t all = KIND_FLASH | ix->place_mask;
    return bucket_match(bucket, all, all);
}

static inline void put_word(index_slot *slot, index_word w)
{
    atomic_store_explicit(slot, w, memory_order_release);
}

static void note_move(struct index *ix, unsigned s, uint32_t row, uint32_t group, unsigned slot)
{
    ASSERT(slot < INDEX_BUCKET_WORDS && group == group_of(ix, group));
    uint64_t at = (bucket_number(ix, row, group) << 3 | slot) + 1;
    atomic_store_explicit(&ix->root->shard[s].moved_to, at, memory_order_release);
}

/* ---- making room --------------------------------------------------------------------- */

struct node {
    struct candidate at;
    int16_t parent;       /* whose word would move here, -1 for the two roots */
    uint8_t parent_slot;
};

static bool is_ancestor(const struct node *nodes, int i, const index_slot *bucket)
{
    for (; i >= 0; i = nodes[i].parent)
        if (nodes[i].at.bucket == bucket)
            return true;
    return false;
}

/* Moves words along the path that leads to free slot `slot` of node i; returns the slot of a root
 * that may now be overwritten (it holds a copy of a word that has moved on). */
static index_slot *shift_path(struct index *ix, unsigned s, const struct node *nodes, int i,
                              unsigned slot, unsigned *root)
{
    while (nodes[i].parent >= 0) {
        const struct node *to = &nodes[i], *from = &nodes[to->parent];
        index_word w = index_load(&from->at.bucket[to->parent_slot]);
        note_move(ix, s, to->at.row, to->at.group, slot);
        put_word(&to->at.bucket[slot], word_with_tag(ix, w, to->at.tag));
        bump(&ix->shard[s].displacements, 1);
        slot = to->parent_slot;
        i = to->parent;
    }
    *root = (unsigned)i;
    return &nodes[i].at.bucket[slot];
}

/* Breadth-first search for a path of moves that frees a slot in one of two full buckets. Words and
 * buckets whose order in the running growth is `pinned` are left alone. NULL: none found. */
static index_slot *make_room(struct index *ix, unsigned s, const struct candidate roots[2],
                             uint64_t pinned, unsigned *root)
{
    struct node nodes[SEARCH_NODES];
    lock_assert_held(&ix->shard[s].lock);
    uint64_t state = shard_state(ix, s);
    uint32_t n = state_rows(state);
    int count = 2;
    nodes[0] = (struct node){roots[0], -1, 0};
    nodes[1] = (struct node){roots[1], -1, 0};
    for (int i = 0; i < count; i++) {
        const struct candidate at = nodes[i].at;
        int first = count;
        for (unsigned slot = 0; slot < INDEX_BUCKET_WORDS && count < SEARCH_NODES; slot++) {
            uint64_t x = word_x(ix, at.group, index_load(&at.bucket[slot])), y = other_x(ix, x);
            if (pinned != NO_ORDER &&
                (growth_order(ix, n, x) == pinned || growth_order(ix, n, y) == pinned))
                continue;
            struct candidate to = candidate_of(ix, s, state, y);
            if (is_ancestor(nodes, i, to.bucket))
                continue;
            __builtin_prefetch(to.bucket);
            nodes[count++] = (struct node){to, (int16_t)i, (uint8_t)slot};
        }
        for (int k = first; k < count; k++) {
            unsigned free_slots = bucket_empties(nodes[k].at.bucket);
            if (free_slots == 0) {
                free_slots = bucket_tombstones(ix, nodes[k].at.bucket);
                if (free_slots)
                    bump(&ix->shard[s].counts[INDEX_TOMBSTONE], -1);
            }
            if (free_slots)
                return shift_path(ix, s, nodes, k, (unsigned)__builtin_ctz(free_slots), root);
        }
    }
    return NULL;
}

/* A slot that may be overwritten, in the emptier of two buckets, or after moving words away.
 * *which is the bucket it is in. NULL: no room. */
static index_slot *find_room(struct index *ix, unsigned s, const struct candidate c[2],
                             uint64_t pinned, unsigned *which)
{
    unsigned e0 = bucket_empties(c[0].bucket), e1 = bucket_empties(c[1].bucket);
    if (e0 | e1) {
        *which = __builtin_popcount(e1) > __builtin_popcount(e0);
        return &c[*which].bucket[__builtin_ctz(*which ? e1 : e0)];
    }
    unsigned t0 = bucket_tombstones(ix, c[0].bucket), t1 = bucket_tombstones(ix, c[1].bucket);
    if (t0 | t1) {
        bump(&ix->shard[s].counts[INDEX_TOMBSTONE], -1);
        *which = t0 == 0;
        return &c[*which].bucket[__builtin_ctz(t0 ? t0 : t1)];
    }
    index_slot *slot = make_room(ix, s, c, pinned, which);
    if (!slot)
        bump(&ix->shard[s].full_failures, 1);
    return slot;
}

/* A word came (by 1) or went (by -1). */
static void tally(struct index *ix, struct shard *sh, index_word w, int64_t by)
{
    enum index_kind kind = index_kind(ix, w);
    bump(&sh->counts[kind], by);
    if (unlikely(kind == INDEX_RAM && index_heat(ix, w) != 0))
        bump(&sh->clean_count, by);
}

/* Puts a word whose x is given into one of its two buckets. False: no room. */
static bool place_word(struct index *ix, unsigned s, uint64_t x, index_word w)
{
    struct candidate c[2];
    unsigned which;
    DEBUG_ASSERT(word_body(ix, w) != 0);
    both_candidates(ix, s, x, c);
    DEBUG_ASSERT(c[0].bucket != c[1].bucket); /* other_x always changes the group */
    index_slot *slot = find_room(ix, s, c, NO_ORDER, &which);
    if (!slot)
        return false;
    put_word(slot, word_with_tag(ix, w, c[which].tag));
    tally(ix, &ix->shard[s], w, 1);
    return true;
}

/* ---- growth -------------------------------------------------------------------------- */

static bool is_overloaded(const struct shard *sh)
{
    return peek(&sh->counts[INDEX_RAM]) + peek(&sh->counts[INDEX_FLASH]) > sh->grow_at;
}

/* The old bucket that comes next in the growth from n to m rows. */
struct old_bucket {
    uint32_t n, m, row, group;
};

static struct old_bucket next_old(const struct index *ix, uint64_t state)
{
    uint32_t n = state_rows(state);
    return (struct old_bucket){n, state_rows_grown(state), n - 1 - (uint32_t)(state_done(state) >> ix->group_bits),
                               group_of(ix, state_done(state))};
}

/* New rows of the words of an old row. */
static void new_rows(const struct index *ix, uint32_t n, uint32_t m, uint32_t row, uint32_t *low,
                     uint32_t *high)
{
    uint64_t first_tag = (((uint64_t)row << ix->tag_bits) + n - 1) / n;
    uint64_t last_tag = ((((uint64_t)row + 1) << ix->tag_bits) + n - 1) / n - 1;
    *low = tag_row(ix, first_tag, m);
    *high = tag_row(ix, last_tag, m);
}

/* Makes the blocks that the words of the next old bucket (and its neighbours) may go to. 0 or
 * -ENOSPC. */
static int ensure_blocks(struct index *ix, unsigned s, uint64_t state)
{
    uint64_t wanted = state_done(state) >> ix->ensure_shift;
    if (ix->shard[s].ensured == wanted)
        return 0;
    struct old_bucket old = next_old(ix, state);
    uint32_t low, high;
    new_rows(ix, old.n, old.m, old.row, &low, &high);
    for (uint32_t r = low; r <= high; r++) {
        int rc = add_block(ix, s, (uint32_t)(bucket_number(ix, r, old.group) >> ix->block_shift));
        if (rc != 0)
            return rc;
    }
    ix->shard[s].ensured = wanted;
    return 0;
}

/* Moves the words of the next old bucket to their places among m rows, and counts it as done; if
 * one finds no room, restores the bucket and returns false. */
static bool expand_bucket(struct index *ix, unsigned s)
{
    struct shard *sh = &ix->shard[s];
    uint64_t state = shard_state(ix, s), done = state_done(state);
    const struct old_bucket at = next_old(ix, state);
    lock_assert_held(&sh->lock);
    ASSERT(state_is_growing(state) && done < bucket_number(ix, at.n, 0) && at.m > at.n);
    index_slot *old = find_bucket(ix, s, bucket_number(ix, at.row, at.group));
    ASSERT(old != NULL);
    index_slot *moved[INDEX_BUCKET_WORDS];
    unsigned moved_count = 0;

    for (unsigned i = 0; i < INDEX_BUCKET_WORDS; i++) {
        index_word w = index_load(&old[i]);
        if (w == 0)
            continue;
        if (is_tombstone(ix, w)) {
            put_word(&old[i], 0);
            bump(&sh->counts[INDEX_TOMBSTONE], -1);
            continue;
        }
        uint64_t tag = word_tag(ix, w);
        uint32_t new_row = tag_row(ix, tag, at.m);
        if (new_row == at.row)
            continue;
        ASSERT(new_row > at.row && new_row < at.m); /* none goes below its old row */
        struct candidate c[2] = {{find_bucket(ix, s, bucket_number(ix, new_row, at.group)), at.group, new_row, tag}};
        unsigned empties = bucket_empties(c[0].bucket), which = 0;
        index_slot *slot;
        if (likely(empties != 0)) {
            slot = &c[0].bucket[__builtin_ctz(empties)];
        } else {
            c[1] = candidate_of(ix, s, state, other_x(ix, word_x(ix, at.group, w)));
            slot = find_room(ix, s, c, done, &which);
        }
        if (unlikely(!slot))
            goto undo;
        if (which == 1)
            note_move(ix, s, c[1].row, c[1].group, (unsigned)(slot - c[1].bucket));
        else
            moved[moved_count++] = slot;
        put_word(slot, word_with_tag(ix, w, c[which].tag));
        put_word(&old[i], 0);
    }
    done++;
    bool last = done == bucket_number(ix, at.n, 0);
    uint64_t flags = state & (STATE_GROWING | STATE_BY_ONE);
    state = last ? at.m : at.n | flags | done << STATE_DONE_SHIFT;
    atomic_store_explicit(&ix->root->shard[s].state, state, memory_order_release);
    if (last) {
        set_grow_at(ix, s);
        sh->ensured = UINT64_MAX;
    }
    bump(&sh->steps, 1);
    return true;

undo:
    while (moved_count > 0) {
        index_slot *from = moved[--moved_count];
        unsigned empties = bucket_empties(old);
        ASSERT(empties != 0);
        put_word(&old[__builtin_ctz(empties)], index_load(from));
        put_word(from, 0);
    }
    return false;
}

/* Prefetches the next old bucket and the targets of its words for the next insert into this shard. */
static void prefetch_expansion(const struct index *ix, unsigned s, uint64_t state)
{
    struct old_bucket old = next_old(ix, state);
    uint32_t new_row = (uint32_t)((uint64_t)old.row * old.m / old.n);
    uint64_t bytes = 2 * CACHE_LINE_BYTES;
    prefetch_lines(find_bucket(ix, s, bucket_number(ix, old.row, old.group)), bytes);
    for (uint32_t r = new_row; r < old.m && r <= new_row + 1; r++)
        prefetch_lines(find_bucket(ix, s, bucket_number(ix, r, old.group)), bytes);
}

/* Grows by at most this many old buckets, and begins a growth if the load or the caller requires it.
 * True iff all were moved and the growth isn't at its end. */
static bool grow(struct index *ix, unsigned s, unsigned buckets, bool want_more)
{
    lock_assert_held(&ix->shard[s].lock);
    uint64_t state = shard_state(ix, s);
    if (!state_is_growing(state)) {
        uint32_t n = state_rows(state), m = rows_after_growth(n);
        if (!want_more && !is_overloaded(&ix->shard[s]))
            return false;
        if (n <= BY_ONE_ROWS_MAX && shard_block_limit(ix, s, 0) < blocks_of_rows(ix, m))
            state |= STATE_BY_ONE;
        state |= STATE_GROWING;
        if (m > ROWS_MAX || blocks_of_rows(ix, m) > BLOCKS_MAX || ensure_blocks(ix, s, state) != 0)
            return false;
        atomic_store_explicit(&ix->root->shard[s].state, state, memory_order_release);
    }
    for (; buckets > 0 && state_is_growing(state); buckets--) {
        if (ensure_blocks(ix, s, state) != 0 || !expand_bucket(ix, s))
            return false;
        state = shard_state(ix, s);
    }
    if (!state_is_growing(state))
        return false;
    prefetch_expansion(ix, s, state);
    return true;
}

/* ---- attach -------------------------------------------------------------------------- */

/* Are the blocks of buckets first .. end - 1 there? */
static bool has_blocks(const struct index *ix, unsigned s, uint64_t first, uint64_t end)
{
    for (uint64_t block = first >> ix->block_shift; block <= (end - 1) >> ix->block_shift; block++) {
        if (block_unit(ix, s, block) == 0)
            return false;
    }
    return true;
}

/* Are the blocks there that growth needs to have come this far? */
static bool has_grown_blocks(const struct index *ix, unsigned s, uint64_t state)
{
    uint32_t n = state_rows(state), m = state_rows_grown(state), low, high;
    uint32_t whole = (uint32_t)(state_done(state) >> ix->group_bits); /* old rows */
    uint32_t groups = group_of(ix, state_done(state)); /* of the next one */
    if (whole > 0) {
        new_rows(ix, n, m, n - whole, &low, &high);
        if (!has_blocks(ix, s, bucket_number(ix, low, 0), bucket_number(ix, m, 0)))
            return false;
    }
    if (groups == 0)
        return true;
    new_rows(ix, n, m, n - 1 - whole, &low, &high);
    for (uint32_t row = low; row <= high; row++) {
        uint64_t first = bucket_number(ix, row, 0);
        if (!has_blocks(ix, s, first, first + groups))
            return false;
    }
    return true;
}

/* Can an earlier process have left a shard in this state? */
static bool state_is_sound(const struct index *ix, uint64_t state)
{
    uint32_t n = state_rows(state), m = rows_after_growth(n);
    return n >= INITIAL_ROWS && m <= ROWS_MAX && blocks_of_rows(ix, m) <= BLOCKS_MAX &&
           (state_is_growing(state) ? state_done(state) < bucket_number(ix, n, 0)
                                    : state_done(state) == 0);
}

/* Claims a shard's blocks. */
static int attach_blocks(struct index *ix, unsigned s)
{
    uint64_t state = shard_state(ix, s);
    uint32_t n = state_rows(state), m = rows_after_growth(n);
    if (!state_is_sound(ix, state))
        return -EUCLEAN;
    /* Up to m in any case: growth takes its first blocks before it stores that it began. Neighbouring
     * blocks are claimed in one piece. */
    uint64_t run_start = 0, run_bytes = 0;
    uint32_t blocks = blocks_of_rows(ix, m);
    for (uint32_t block = 0; block <= blocks; block++) {
        uint64_t unit = block < blocks ? block_unit(ix, s, block) : 0;
        uint64_t offset = unit * ARENA_UNIT_BYTES;
        if (unit == 0 && block < blocks_of_rows(ix, n))
            return -EUCLEAN;
        if (offset + ix->block_bytes > arena_reserve_bytes(ix->arena))
            return -EUCLEAN;
        bump(&ix->shard[s].blocks, unit != 0);
        if (unit != 0 && offset == run_start + run_bytes) {
            run_bytes += ix->block_bytes;
            continue;
        }
        if (run_bytes && arena_take(ix->arena, ARENA_USE_INDEX, run_start, run_bytes) != 0)
            return -EUCLEAN;
        run_start = offset;
        run_bytes = unit != 0 ? ix->block_bytes : 0;
    }
    return state_is_growing(state) && !has_grown_blocks(ix, s, state) ? -EUCLEAN : 0;
}

/* The word's second copy in the bucket of x, NULL if there is none. */
static index_slot *find_copy(const struct index *ix, unsigned s, uint64_t x, index_word w,
                             const index_slot *self)
{
    struct candidate c = candidate_of(ix, s, shard_state(ix, s), x);
    if (!c.bucket)
        return NULL;
    unsigned bits = bucket_match(c.bucket, UINT64_MAX, word_with_tag(ix, w, c.tag));
    for (; bits; bits &= bits - 1) {
        index_slot *slot = &c.bucket[__builtin_ctz(bits)];
        if (slot != self)
            return slot;
    }
    return NULL;
}

/* Undoes a move to the other candidate that a kill interrupted. */
static void attach_moved(struct index *ix, unsigned s)
{
    uint64_t at = peek(&ix->root->shard[s].moved_to);
    if (at == 0)
        return;
    uint64_t number = (at - 1) >> 3;
    if (number >= bucket_number(ix, state_rows_all(shard_state(ix, s)), 0))
        return;
    index_slot *b = find_bucket(ix, s, number);
    index_word w = b ? index_load(&b[(at - 1) & 7]) : 0;
    if (w == 0 || is_tombstone(ix, w))
        return;
    if (find_copy(ix, s, other_x(ix, word_x(ix, group_of(ix, number), w)), w, NULL))
        put_word(&b[(at - 1) & 7], 0);
}

/* Drops or puts back a word in a row that doesn't follow from its tag. */
static int attach_misplaced(struct index *ix, unsigned s, uint32_t group, index_slot *slot)
{
    lock_assert_held(&ix->shard[s].lock);
    index_word w = index_load(slot);
    uint64_t x = word_x(ix, group, w);
    if (!is_tombstone(ix, w) && !find_copy(ix, s, x, w, slot) &&
        !find_copy(ix, s, other_x(ix, x), w, slot)) {
        struct candidate c = candidate_of(ix, s, shard_state(ix, s), x);
        unsigned empties = bucket_empties(c.bucket);
        if (empties) {
            put_word(&c.bucket[__builtin_ctz(empties)], w);
            tally(ix, &ix->shard[s], w, 1);
        } else if (!place_word(ix, s, x, w)) {
            return -EUCLEAN;
        }
    }
    put_word(slot, 0);
    return 0;
}

/* Counts a shard's words and repairs what a kill left half done. 0 or -EUCLEAN. */
static int attach_words_locked(struct index *ix, unsigned s)
{
    struct { index_slot *slot; uint32_t group; } misplaced[2 * INDEX_BUCKET_WORDS];
    unsigned misplaced_count = 0;
    uint64_t state = shard_state(ix, s);
    uint64_t buckets = bucket_number(ix, state_rows_all(state), 0);
    lock_assert_held(&ix->shard[s].lock);

    attach_moved(ix, s);
    for (uint64_t number = 0; number < buckets; number++) {
        uint32_t group = group_of(ix, number);
        index_slot *b = find_bucket(ix, s, number);
        for (unsigned i = 0; b && i < INDEX_BUCKET_WORDS; i++) {
            index_word w = index_load(&b[i]);
            if (w == 0)
                continue;
            if (likely(x_row(ix, state, word_x(ix, group, w)) == number >> ix->group_bits)) {
                tally(ix, &ix->shard[s], w, 1);
                continue;
            }
            if (misplaced_count == ARRAY_COUNT(misplaced))
                return -EUCLEAN;
            misplaced[misplaced_count].slot = &b[i];
            misplaced[misplaced_count++].group = group;
        }
    }
    for (unsigned i = 0; i < misplaced_count; i++) {
        int rc = attach_misplaced(ix, s, misplaced[i].group, misplaced[i].slot);
        if (rc != 0)
            return rc;
    }
    set_grow_at(ix, s);
    return 0;
}

static int attach_words(struct index *ix, unsigned s)
{
    lock_take(&ix->shard[s].lock);
    int rc = attach_words_locked(ix, s);
    lock_release(&ix->shard[s].lock);
    return rc;
}

static int attach(struct index *ix)
{
    for (unsigned k = 0; k < SEGMENT_COUNT; k++) {
        uint64_t offset = peek(&ix->root->segment[k]);
        if (offset == 0)
            continue;
        if (offset + segment_bytes(k) > arena_reserve_bytes(ix->arena) ||
            arena_take(ix->arena, ARENA_USE_INDEX, offset, segment_bytes(k)) != 0)
            return -EUCLEAN;
        bump(&ix->overhead_bytes, (int64_t)segment_bytes(k));
    }
    for (unsigned s = 0; s < INDEX_SHARD_COUNT; s++) {
        int rc = attach_blocks(ix, s);
        if (rc == 0)
            rc = attach_words(ix, s);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* ---- checkpoint ---------------------------------------------------------------------- */

/* For each shard: this, a byte for each block that may exist, then the blocks that do. */
struct saved_shard {
    uint64_t state;
    uint64_t flash_count, tombstone_count;
    uint32_t blocks; /* number of bytes that follow */
    uint32_t reserved;
};
static_assert(sizeof(struct saved_shard) == 32, "saved shard");

/* Blocks up to the end of the next growth may exist. */
static uint32_t blocks_to_save(const struct index *ix, uint64_t state)
{
    return blocks_of_rows(ix, rows_after_growth(state_rows(state)));
}

static char *block_memory(const struct index *ix, unsigned s, uint32_t block)
{
    uint64_t unit = block_unit(ix, s, block);
    return unit ? ix->base + unit * ARENA_UNIT_BYTES : NULL;
}

static int save_shard(const struct index *ix, unsigned s, struct checkpoint_writer *w)
{
    const struct shard *sh = &ix->shard[s];
    struct saved_shard saved = {.state = shard_state(ix, s),
                                .flash_count = peek(&sh->counts[INDEX_FLASH]),
                                .tombstone_count = peek(&sh->counts[INDEX_TOMBSTONE])};
    ASSERT(peek(&sh->counts[INDEX_RAM]) == 0);
    saved.blocks = blocks_to_save(ix, saved.state);
    int rc = checkpoint_put(w, &saved, sizeof(saved));
    for (uint32_t block = 0; rc == 0 && block < saved.blocks; block++) {
        uint8_t there = block_memory(ix, s, block) != NULL;
        rc = checkpoint_put(w, &there, sizeof(there));
    }
    for (uint32_t block = 0; rc == 0 && block < saved.blocks; block++) {
        const char *memory = block_memory(ix, s, block);
        if (memory)
            rc = checkpoint_put(w, memory, ix->block_bytes);
    }
    return rc;
}

/* Makes blocks of an empty shard and fills them. */
static int load_blocks(struct index *ix, unsigned s, const struct saved_shard *saved,
                      const uint8_t *there, struct checkpoint_reader *r)
{
    for (uint32_t block = 0; block < saved->blocks; block++) {
        if (there[block] > 1 || (!there[block] && block < blocks_of_rows(ix, state_rows(saved->state))))
            return -EUCLEAN;
        if (!there[block])
            continue;
        int rc = add_block(ix, s, block);
        if (rc == 0)
            rc = checkpoint_get(r, block_memory(ix, s, block), ix->block_bytes);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int load_shard(struct index *ix, unsigned s, struct checkpoint_reader *r)
{
    struct saved_shard saved;
    int rc = checkpoint_get(r, &saved, sizeof(saved));
    if (rc != 0)
        return rc;
    if (!state_is_sound(ix, saved.state) || saved.blocks != blocks_to_save(ix, saved.state))
        return -EUCLEAN;
    uint8_t *there = malloc(saved.blocks);
    if (!there)
        return -ENOMEM;
    rc = checkpoint_get(r, there, saved.blocks);
    if (rc == 0)
        rc = load_blocks(ix, s, &saved, there, r);
    if (rc == 0 && state_is_growing(saved.state) && !has_grown_blocks(ix, s, saved.state))
        rc = -EUCLEAN;
    free(there);
    if (rc != 0)
        return rc;
    struct shard *sh = &ix->shard[s];
    atomic_store_explicit(&ix->root->shard[s].state, saved.state, memory_order_release);
    sh->ensured = UINT64_MAX;
    rc = attach_words(ix, s);
    if (rc == 0 && (peek(&sh->counts[INDEX_RAM]) != 0 || peek(&sh->counts[INDEX_FLASH]) != saved.flash_count ||
                    peek(&sh->counts[INDEX_TOMBSTONE]) != saved.tombstone_count))
        rc = -EUCLEAN;
    return rc;
}

void index_geometry(const struct index *ix, struct index_geometry *out)
{
    *out = (struct index_geometry){ix->group_bits, ix->tag_bits, ix->place_bits};
}

uint64_t index_place_limit(const struct index *ix)
{
    return ix->place_mask - 1; /* a tombstone's, and that of an intent to drop */
}

int index_save_rows(const struct index *ix, struct checkpoint_writer *w)
{
    int rc = 0;
    progress_begin("writing the checkpoint", INDEX_SHARD_COUNT);
    for (unsigned s = 0; rc == 0 && s < INDEX_SHARD_COUNT; s++) {
        rc = save_shard(ix, s, w);
        progress_add(1);
    }
    progress_end();
    return rc;
}

int index_load_rows(struct index *ix, struct checkpoint_reader *r)
{
    int rc = 0;
    progress_begin("reading the checkpoint", INDEX_SHARD_COUNT);
    for (unsigned s = 0; rc == 0 && s < INDEX_SHARD_COUNT; s++) {
        ASSERT(shard_state(ix, s) == INITIAL_ROWS);
        rc = load_shard(ix, s, r);
        progress_add(1);
    }
    progress_end();
    return rc;
}

/* ---- setup --------------------------------------------------------------------------- */

/* The first rows of all shards, in one piece so that they get large pages. */
static int create_rows(struct index *ix)
{
    uint32_t blocks = blocks_of_rows(ix, INITIAL_ROWS);
    uint64_t bytes = INDEX_SHARD_COUNT * blocks * ix->block_bytes, offset;
    bool zeroed;
    int rc = 0;
    for (unsigned k = 0; k <= segment_of(blocks - 1) && rc == 0; k++)
        rc = add_segment(ix, k);
    if (rc == 0)
        rc = arena_alloc(ix->arena, ARENA_USE_INDEX, bytes,
                         bytes < 2 * MiB ? ARENA_UNIT_BYTES : 2 * MiB, &offset, &zeroed);
    if (rc != 0)
        return rc;
    if (!zeroed)
        memset(ix->base + offset, 0, bytes);
    for (unsigned s = 0; s < INDEX_SHARD_COUNT; s++) {
        for (uint32_t block = 0; block < blocks; block++, offset += ix->block_bytes)
            atomic_store_explicit(directory_entry(ix, s, block),
                                  (uint32_t)(offset / ARENA_UNIT_BYTES), memory_order_relaxed);
        bump(&ix->shard[s].blocks, blocks);
        atomic_store_explicit(&ix->root->shard[s].state, INITIAL_ROWS, memory_order_relaxed);
        set_grow_at(ix, s);
    }
    ix->root->group_bits = ix->group_bits;
    ix->root->tag_bits = ix->tag_bits;
    atomic_thread_fence(memory_order_release);
    *(volatile uint64_t *)&ix->root->magic = ROOT_MAGIC;
    return 0;
}

/* Fills in everything that follows from the number of groups, and of tag bits (0: as many as the places leave). 0 or
 * -EINVAL. */
static int set_geometry(struct index *ix, const struct index_options *opt, unsigned group_bits,
                        unsigned tag_bits_given)
{
    /* Places are below the number of granules; all ones is the tombstone. */
    unsigned place_bits = tag_bits_given != 0 ? 64 - FIXED_BITS - tag_bits_given
                                              : bit_length(opt->flash_bytes >> GRANULE_SHIFT);
    if (tag_bits_given != 0 && place_bits < opt->handle_bits)
        return -EINVAL;
    if (place_bits < opt->handle_bits)
        place_bits = opt->handle_bits;
    if (opt->handle_bits > HANDLE_BITS_MAX || place_bits > 64 - FIXED_BITS - TAG_BITS_MIN)
        return -EINVAL;
    unsigned tag_bits = 64 - FIXED_BITS - place_bits;
    if (tag_bits > TAG_BITS_MAX)
        tag_bits = TAG_BITS_MAX;
    if (tag_bits > 64 - SHARD_BITS - group_bits)
        tag_bits = 64 - SHARD_BITS - group_bits;
    ix->group_bits = group_bits;
    ix->tag_bits = tag_bits;
    ix->place_bits = 64 - FIXED_BITS - tag_bits;
    ix->low_bits = tag_bits - HIGH_BITS;
    ix->tag_shift = ix->place_bits + 9;
    ix->x_mask = ((uint64_t)1 << (group_bits + tag_bits)) - 1;
    ix->tag_mask = ((uint64_t)1 << tag_bits) - 1;
    ix->low_mask = ((uint64_t)1 << ix->low_bits) - 1;
    ix->tag_field = ix->tag_mask << ix->tag_shift;
    ix->place_mask = ((uint64_t)1 << ix->place_bits) - 1;
    uint64_t row_bytes = (uint64_t)CACHE_LINE_BYTES << group_bits;
    ix->block_bytes = min_u64(max_u64(row_bytes, ARENA_UNIT_BYTES), BLOCK_BYTES_MAX);
    ix->block_shift = bit_length(ix->block_bytes / CACHE_LINE_BYTES) - 1;
    ASSERT(ix->tag_bits >= TAG_BITS_MIN && ix->tag_bits + ix->place_bits == 64 - FIXED_BITS);
    ASSERT(ix->tag_bits + group_bits <= 64 - SHARD_BITS && ix->block_bytes % ARENA_UNIT_BYTES == 0);
    ix->ensure_shift = ix->block_shift < group_bits ? ix->block_shift : group_bits;
    return 0;
}

struct index *index_create(const struct index_options *opt)
{
    struct index_root *root = arena_root(opt->arena, ARENA_ROOT_INDEX);
    uint64_t row_wish = opt->initial_bytes / (INDEX_SHARD_COUNT * INITIAL_ROWS);
    unsigned group_bits = bit_length(row_wish / CACHE_LINE_BYTES);
    group_bits = group_bits > GROUP_BITS_MIN ? group_bits - 1 : GROUP_BITS_MIN;
    if (group_bits > GROUP_BITS_MAX)
        group_bits = GROUP_BITS_MAX;
    unsigned tag_bits = 0;
    bool is_given = opt->attached || opt->like != NULL;
    if (is_given) {
        group_bits = opt->attached ? root->group_bits : opt->like->group_bits;
        tag_bits = opt->attached ? root->tag_bits : opt->like->tag_bits;
    }
    if ((opt->attached && root->magic != ROOT_MAGIC) ||
        (is_given && (group_bits < GROUP_BITS_MIN || group_bits > GROUP_BITS_MAX || tag_bits < TAG_BITS_MIN ||
                      tag_bits > TAG_BITS_MAX))) {
        errno = opt->attached ? EUCLEAN : EINVAL;
        return NULL;
    }

    struct index *ix;
    if (posix_memalign((void **)&ix, CACHE_LINE_BYTES, sizeof(*ix)) != 0) {
        errno = ENOMEM;
        return NULL;
    }
    memset(ix, 0, sizeof(*ix));
    ix->arena = opt->arena;
    ix->base = arena_base(opt->arena);
    ix->root = root;
    ix->limit_bytes = opt->limit_bytes;
    ix->overhead_bytes = sizeof(*ix);
    for (unsigned s = 0; s < INDEX_SHARD_COUNT; s++) {
        lock_init(&ix->shard[s].lock, LOCK_COLUMN);
        ix->shard[s].ensured = UINT64_MAX;
    }
    int rc = set_geometry(ix, opt, group_bits, tag_bits);
    if (rc == 0 && tag_bits != 0 && ix->tag_bits != tag_bits)
        rc = -EINVAL;
    if (rc == 0)
        rc = opt->attached ? attach(ix) : create_rows(ix);
    if (rc != 0) {
        index_destroy(ix);
        errno = -rc;
        return NULL;
    }
    return ix;
}

void index_destroy(struct index *ix)
{
    if (!ix)
        return;
    for (unsigned s = 0; s < INDEX_SHARD_COUNT; s++)
        lock_destroy(&ix->shard[s].lock);
    free(ix);
}

void index_set_limit(struct index *ix, uint64_t limit_bytes)
{
    atomic_store_explicit(&ix->limit_bytes, limit_bytes, memory_order_relaxed);
}

bool index_lacks_memory(const struct index *ix)
{
    return atomic_load_explicit(&ix->lacks_memory, memory_order_relaxed);
}

void index_memory_came(struct index *ix)
{
    atomic_fetch_add_explicit(&ix->memory_round, 1, memory_order_relaxed);
}

struct lock *index_lock(struct index *ix, uint64_t hash)
{
    return &ix->shard[index_shard_of(ix, hash)].lock;
}

unsigned index_shard_of(const struct index *ix, uint64_t hash)
{
    (void)ix;
    return (unsigned)(hash >> (64 - SHARD_BITS));
}

struct lock *index_shard_lock(struct index *ix, unsigned shard)
{
    ASSERT(shard < INDEX_SHARD_COUNT);
    return &ix->shard[shard].lock;
}

static inline void find_spot(const struct index *ix, uint64_t hash, struct index_spot *spot)
{
    unsigned s = index_shard_of(ix, hash);
    uint64_t state = shard_state(ix, s), x = hash_x(ix, hash);
    struct candidate a = candidate_of(ix, s, state, x);
    __builtin_prefetch(a.bucket);
    struct candidate b = candidate_of(ix, s, state, other_x(ix, x));
    __builtin_prefetch(b.bucket);
    /* Directory entries never change, so one state of the shard means one place. */
    *spot = (struct index_spot){.hash = hash,
                                .state = likely(a.bucket && b.bucket) ? state : 0,
                                .bucket = {a.bucket, b.bucket},
                                .tag = {a.tag << ix->tag_shift, b.tag << ix->tag_shift}};
}

void index_find(const struct index *ix, uint64_t hash, struct index_spot *spot)
{
    find_spot(ix, hash, spot);
}

void index_prefetch(const struct index *ix, uint64_t hash)
{
    struct index_spot spot;
    find_spot(ix, hash, &spot);
}

uint32_t index_peek_ram(const struct index *ix, const struct index_spot *spot)
{
    uint64_t mask = KIND_FLASH | ix->tag_field;
    for (unsigned k = 0; k < 2 && spot->state != 0; k++) {
        unsigned bits = bucket_match(spot->bucket[k], mask, spot->tag[k]);
        for (; bits; bits &= bits - 1) {
            index_word w = atomic_load_explicit(&spot->bucket[k][__builtin_ctz(bits)], memory_order_relaxed);
            if (w != 0) /* tag 0 matches empty slots too */
                return (uint32_t)(w & ix->place_mask);
        }
    }
    return 0;
}

/* ---- words --------------------------------------------------------------------------- */

enum index_kind index_kind(const struct index *ix, index_word w)
{
    if (w == 0)
        return INDEX_NONE;
    if (!(w & KIND_FLASH))
        return INDEX_RAM;
    return is_tombstone(ix, w) ? INDEX_TOMBSTONE : INDEX_FLASH;
}

uint32_t index_handle(const struct index *ix, index_word w)
{
    DEBUG_ASSERT(index_kind(ix, w) == INDEX_RAM);
    return (uint32_t)(w & ix->place_mask);
}

uint64_t index_place(const struct index *ix, index_word w)
{
    DEBUG_ASSERT(index_kind(ix, w) == INDEX_FLASH);
    return w & ix->place_mask;
}

unsigned index_len(const struct index *ix, index_word w)
{
    return (unsigned)(w >> ix->place_bits) & 31;
}

unsigned index_heat(const struct index *ix, index_word w)
{
    return (unsigned)(w >> (ix->place_bits + 5)) & 3;
}

unsigned index_rank(const struct index *ix, index_word w)
{
    return (unsigned)(w >> (ix->place_bits + 7)) & INDEX_RANK_MAX;
}

static index_word make_word(const struct index *ix, uint64_t kind, uint64_t place, unsigned len5,
                            unsigned heat, unsigned rank)
{
    ASSERT(place <= ix->place_mask && len5 < 32 && heat < 4 && rank <= INDEX_RANK_MAX);
    return kind | (uint64_t)rank << (ix->place_bits + 7) | (uint64_t)heat << (ix->place_bits + 5) |
           (uint64_t)len5 << ix->place_bits | place;
}

index_word index_make_ram(const struct index *ix, uint32_t handle, unsigned heat)
{
    ASSERT(handle != 0);
    return make_word(ix, 0, handle, 0, heat, 0);
}

index_word index_make_flash(const struct index *ix, uint64_t place, unsigned len5, unsigned heat,
                            unsigned rank)
{
    ASSERT(place != ix->place_mask);
    return make_word(ix, KIND_FLASH, place, len5, heat, rank);
}

index_word index_make_tombstone(const struct index *ix)
{
    return make_word(ix, KIND_FLASH, ix->place_mask, 0, 0, 0);
}

index_word index_make_drop_intent(const struct index *ix, unsigned rank)
{
    /* At best the last granule of flash: too short for a record. */
    return make_word(ix, KIND_FLASH, ix->place_mask - 1, 0, 0, rank);
}

/* ---- verbs --------------------------------------------------------------------------- */

static inline unsigned match_spot(const struct index *ix, const struct index_spot *spot,
                                  index_slot *slots[INDEX_MATCH_MAX])
{
    unsigned count = 0;
    for (unsigned k = 0; k < 2; k++) {
        unsigned bits = bucket_match(spot->bucket[k], ix->tag_field, spot->tag[k]);
        for (; bits; bits &= bits - 1) {
            index_slot *slot = &spot->bucket[k][__builtin_ctz(bits)];
            if (index_load(slot) != 0) /* tag 0 matches empty slots too */
                slots[count++] = slot;
        }
    }
    return count;
}

unsigned index_match(struct index *ix, uint64_t hash, index_slot *slots[INDEX_MATCH_MAX])
{
    struct index_spot spot;
    lock_assert_held(&ix->shard[index_shard_of(ix, hash)].lock);
    find_spot(ix, hash, &spot);
    DEBUG_ASSERT(spot.state != 0);
    return match_spot(ix, &spot, slots);
}

unsigned index_match_at(struct index *ix, struct index_spot *spot, index_slot *slots[INDEX_MATCH_MAX])
{
    unsigned s = index_shard_of(ix, spot->hash);
    lock_assert_held(&ix->shard[s].lock);
    if (unlikely(spot->state != shard_state(ix, s)))
        find_spot(ix, spot->hash, spot);
#ifdef EXTANT_DEBUG
    struct index_spot again;
    find_spot(ix, spot->hash, &again);
    ASSERT(memcmp(&again, spot, sizeof(again)) == 0 && spot->state != 0);
#endif
    return match_spot(ix, spot, slots);
}

unsigned index_match_flash(struct index *ix, uint64_t hash, const index_slot *but, unsigned rank_max,
                           index_slot *slots[INDEX_MATCH_MAX])
{
    unsigned n = index_match(ix, hash, slots), count = 0;
    ASSERT(rank_max <= INDEX_RANK_MAX && n <= INDEX_MATCH_MAX);
    for (unsigned i = 0; i < n; i++) {
        index_word w = index_load(slots[i]);
        if (slots[i] != but && index_kind(ix, w) == INDEX_FLASH && index_rank(ix, w) <= rank_max)
            slots[count++] = slots[i];
    }
    return count;
}

/* Gives the flash words of rank `from` the lower rank `to`. */
static void lower_rank(struct index *ix, index_slot *const *slots, unsigned count, unsigned from,
                       unsigned to)
{
    uint64_t field = (uint64_t)INDEX_RANK_MAX << (ix->place_bits + 7);
    for (unsigned i = 0; i < count; i++) {
        index_word w = index_load(slots[i]);
        if (index_rank(ix, w) != from)
            continue;
        w = (w & ~field) | (uint64_t)to << (ix->place_bits + 7);
        atomic_store_explicit(slots[i], w, memory_order_release);
    }
}

unsigned index_rank_above(struct index *ix, uint64_t hash, uint32_t handle, index_slot **item)
{
    index_slot *slots[INDEX_MATCH_MAX];
    unsigned found = index_match(ix, hash, slots), n = 0, used = 0; /* bit r: a word has rank r */
    *item = NULL;
    for (unsigned i = 0; i < found; i++) {
        index_word w = index_load(slots[i]);
        enum index_kind kind = index_kind(ix, w);
        if (kind == INDEX_RAM && index_handle(ix, w) == handle)
            *item = slots[i];
        if (kind != INDEX_FLASH)
            continue;
        used |= 1u << index_rank(ix, w);
        slots[n++] = slots[i];
    }
    if (used >> INDEX_RANK_MAX == 0)
        return bit_length(used);
    unsigned next = 0;
    for (unsigned rank = 0; rank <= INDEX_RANK_MAX; rank++) {
        if (!(used & 1u << rank))
            continue;
        if (next < rank)
            lower_rank(ix, slots, n, rank, next);
        next++;
    }
    return next <= INDEX_RANK_MAX ? next : INDEX_RANK_MAX;
}

/* The slot of the hash's tag with exactly this kind (KIND_FLASH or 0) and place or handle; NULL: there is none. */
static index_slot *find_exact(struct index *ix, uint64_t hash, uint64_t kind, uint64_t place)
{
    unsigned s = index_shard_of(ix, hash);
    lock_assert_held(&ix->shard[s].lock);
    struct candidate c[2];
    both_candidates(ix, s, hash_x(ix, hash), c);
    uint64_t mask = KIND_FLASH | ix->tag_field | ix->place_mask;
    for (unsigned k = 0; k < 2; k++) {
        unsigned bits = bucket_match(c[k].bucket, mask, kind | c[k].tag << ix->tag_shift | place);
        if (bits)
            return &c[k].bucket[__builtin_ctz(bits)];
    }
    return NULL;
}

index_slot *index_find_place(struct index *ix, uint64_t hash, uint64_t place)
{
    ASSERT(place < ix->place_mask);
    return find_exact(ix, hash, KIND_FLASH, place);
}

index_slot *index_find_handle(struct index *ix, uint64_t hash, uint32_t handle)
{
    ASSERT(handle != 0 && handle <= ix->place_mask);
    return find_exact(ix, hash, 0, handle);
}

void index_replace(struct index *ix, uint64_t hash, index_slot *slot, index_word fresh)
{
    struct shard *sh = &ix->shard[index_shard_of(ix, hash)];
    lock_assert_held(&sh->lock);
    index_word old = index_load(slot);
    enum index_kind old_kind = index_kind(ix, old), kind = index_kind(ix, word_body(ix, fresh));
    ASSERT(old_kind != INDEX_NONE && kind != INDEX_NONE);
    put_word(slot, word_with_tag(ix, fresh, word_tag(ix, old)));
    if (old_kind != kind || (kind == INDEX_RAM && unlikely(index_heat(ix, old ^ fresh) != 0))) {
        tally(ix, sh, old, -1);
        tally(ix, sh, word_body(ix, fresh), 1);
    }
}

void index_set_heat(struct index *ix, uint64_t hash, index_slot *slot, unsigned heat)
{
    uint64_t one = (uint64_t)1 << (ix->place_bits + 5);
    ASSERT(heat < 4);
    index_replace(ix, hash, slot, (index_load(slot) & ~(3 * one)) | heat * one);
}

void index_clear(struct index *ix, uint64_t hash, index_slot *slot)
{
    struct shard *sh = &ix->shard[index_shard_of(ix, hash)];
    lock_assert_held(&sh->lock);
    index_word old = index_load(slot);
    ASSERT(index_kind(ix, old) != INDEX_NONE);
    put_word(slot, 0);
    tally(ix, sh, old, -1);
}

/* The rare half of index_insert: neither bucket has room, and moving words made none. */
static int insert_into_full(struct index *ix, unsigned s, uint64_t x, index_word w)
{
    for (unsigned round = 0; round < RESCUE_ROUNDS; round++) {
        uint64_t before = shard_state(ix, s);
        grow(ix, s, RESCUE_STEP_BUCKETS, true);
        if (shard_state(ix, s) == before)
            break;
        if (place_word(ix, s, x, w))
            return 0;
    }
    return -ENOSPC;
}

int index_insert(struct index *ix, uint64_t hash, index_word w)
{
    unsigned s = index_shard_of(ix, hash);
    struct shard *sh = &ix->shard[s];
    lock_assert_held(&sh->lock);
    ASSERT(word_body(ix, w) != 0);
    if (sh->arena_pause > 0)
        sh->arena_pause = sh->pause_round == atomic_load_explicit(&ix->memory_round, memory_order_relaxed) ? sh->arena_pause - 1 : 0;
    else if (state_is_growing(shard_state(ix, s)) || unlikely(is_overloaded(sh)))
        grow(ix, s, INSERT_STEP_BUCKETS, false);
    uint64_t x = hash_x(ix, hash);
    if (likely(place_word(ix, s, x, word_body(ix, w))))
        return 0;
    return sh->arena_pause > 0 ? -ENOSPC : insert_into_full(ix, s, x, word_body(ix, w));
}

bool index_walk(struct index *ix, unsigned shard, uint64_t *pos, unsigned max_buckets, index_visit *visit, void *ctx)
{
    ASSERT(shard < INDEX_SHARD_COUNT);
    lock_assert_held(&ix->shard[shard].lock);
    uint64_t buckets = bucket_number(ix, state_rows_all(shard_state(ix, shard)), 0);
    uint64_t block_buckets = (uint64_t)1 << ix->block_shift;
    while (*pos < buckets && max_buckets > 0) {
        index_slot *b = find_bucket(ix, shard, *pos);
        if (!b) { /* growth hasn't reached this block yet */
            *pos = round_down(*pos, block_buckets) + block_buckets;
            continue;
        }
        for (unsigned i = 0; i < INDEX_BUCKET_WORDS; i++) {
            index_word w = index_load(&b[i]);
            if (w != 0)
                visit(ctx, (uint64_t)shard << (64 - SHARD_BITS) | word_x(ix, group_of(ix, *pos), w), &b[i], w);
        }
        ++*pos;
        max_buckets--;
    }
    return *pos < buckets;
}

bool index_walk_step(struct index *ix, uint64_t *cursor, unsigned max_buckets, index_visit *visit, void *ctx)
{
    unsigned shard = (unsigned)(*cursor >> CURSOR_SHARD_SHIFT);
    uint64_t pos = *cursor & ((UINT64_C(1) << CURSOR_SHARD_SHIFT) - 1);
    lock_assert_none_held();
    ASSERT(shard < INDEX_SHARD_COUNT);
    lock_take(&ix->shard[shard].lock);
    bool more = index_walk(ix, shard, &pos, max_buckets, visit, ctx);
    lock_release(&ix->shard[shard].lock);
    *cursor = more ? (uint64_t)shard << CURSOR_SHARD_SHIFT | pos : (uint64_t)(shard + 1) << CURSOR_SHARD_SHIFT;
    return more || shard + 1 < INDEX_SHARD_COUNT;
}

void index_walk_all(struct index *ix, index_visit *visit, void *ctx)
{
    uint64_t cursor = 0;
    while (index_walk_step(ix, &cursor, WALK_BUCKETS, visit, ctx))
        ;
}

uint64_t index_common_hash(const struct index *ix, uint64_t hash)
{
    uint64_t x = hash_x(ix, hash), y = other_x(ix, x);
    return (uint64_t)index_shard_of(ix, hash) << (64 - SHARD_BITS) | min_u64(x, y);
}

bool index_is_word_of(const struct index *ix, uint64_t hash_like, uint64_t hash)
{
    uint64_t x = hash_x(ix, hash_like), y = hash_x(ix, hash);
    return index_shard_of(ix, hash_like) == index_shard_of(ix, hash) && (x == y || x == other_x(ix, y));
}

bool index_grow_step(struct index *ix, unsigned shard)
{
    ASSERT(shard < INDEX_SHARD_COUNT);
    struct lock *l = &ix->shard[shard].lock;
    lock_take(l);
    bool more = !atomic_load_explicit(&ix->growth_held, memory_order_relaxed) &&
                grow(ix, shard, MAINTENANCE_STEP_BUCKETS, false);
    lock_release(l);
    return more;
}

void index_hold_growth(struct index *ix, bool hold)
{
    atomic_store_explicit(&ix->growth_held, hold, memory_order_relaxed);
}

bool index_growth_is_held(const struct index *ix)
{
    return atomic_load_explicit(&ix->growth_held, memory_order_relaxed);
}

bool index_has_clean(const struct index *ix, uint64_t hash)
{
    const struct shard *sh = &ix->shard[index_shard_of(ix, hash)];
    lock_assert_held(&sh->lock);
    return peek(&sh->clean_count) != 0;
}

void index_info(struct index *ix, struct index_info *out)
{
    *out = (struct index_info){.bytes = peek(&ix->overhead_bytes),
                               .tag_bits = ix->tag_bits,
                               .place_bits = ix->place_bits};
    for (unsigned s = 0; s < INDEX_SHARD_COUNT; s++) {
        const struct shard *sh = &ix->shard[s];
        out->ram_count += peek(&sh->counts[INDEX_RAM]);
        out->flash_count += peek(&sh->counts[INDEX_FLASH]);
        out->clean_count += peek(&sh->clean_count);
        out->tombstone_count += peek(&sh->counts[INDEX_TOMBSTONE]);
        uint64_t buckets = bucket_number(ix, state_rows_all(shard_state(ix, s)), 0);
        buckets = min_u64(buckets, peek(&sh->blocks) << ix->block_shift);
        out->slots += buckets * INDEX_BUCKET_WORDS;
        out->bytes += peek(&sh->blocks) * ix->block_bytes;
        out->steps += peek(&sh->steps);
        out->displacements += peek(&sh->displacements);
        out->full_failures += peek(&sh->full_failures);
    }
}

uint64_t index_capacity(uint64_t limit_bytes)
{
    /* One part in 128 for directories and for rows that don't divide evenly among the shards. */
    return (limit_bytes - limit_bytes / 128) / sizeof(index_word) * LOAD_MAX_PCT / 100;
}
