/* space/extents.c: see space/extents.h for its contract.
 *
 * Three floors, each calling only downwards:
 *
 *  set      allocation, search across regions, text, reconcile. Knows units relative to the
 *           set's start ("rel").
 *  region   32768 units: counts, free prefix and suffix, the bound on its longest run, cursors;
 *           decides the representation. Knows offsets in the region ("off").
 *  list,    the two representations. They answer the same five questions: next free offset,
 *  bitmap   end of the free run here, lowest run of a length, use a range, free a range.
 *
 * The summaries of the regions are the leaves of a tree; a node says of the units below it: free
 * prefix, free suffix and a bound on the longest run. Prefix and suffix are exact. The bound is
 * never too low; if a search finds less, the bound is lowered to that,
 * so that no region is searched twice for the same answer.
 *
 * A list is a chain of nodes of one cache line with up to 13 extents each, in order of address.
 * Two neighbours hold together at least MERGE_ABOVE extents, which bounds the nodes a list can
 * need. All links are indexes, all nodes come from one array.
 *
 * Everything below struct extents.lock is under that lock; static functions that take a set
 * expect it held, except where the set isn't shared yet.
 */
#include "space/extents.h"

#include <sys/mman.h>

#include "base/lock.h"

#define NODE_EXTENTS 13
#define MERGE_ABOVE 9 /* neighbours with this many extents or fewer between them become one */
#define NODE_NONE UINT32_MAX
#define CURSOR_COUNT 8
#define FEW_RUNS (NODE_EXTENTS / 2) /* a bitmap with this few runs becomes a list */
#define SAVE_BATCH 128              /* runs copied out at a time */

struct extent {
    uint16_t first, last; /* offsets, both free */
};

struct node {
    uint32_t prev, next;
    uint16_t count; /* 1 .. NODE_EXTENTS while in a list */
    uint16_t unused;
    struct extent e[NODE_EXTENTS];
};
static_assert(sizeof(struct node) == CACHE_LINE_BYTES, "a node is a cache line");

/* No run of `len` units or more starts below `off`. */
struct cursor {
    uint32_t len, off;
};

struct region {
    uint32_t units; /* const: shorter only in the last region */
    uint32_t free, runs;
    uint32_t prefix, suffix; /* free units at either end */
    /* One run whose length is known (top_len 0: none is) and a bound on all others. */
    uint32_t top_off, top_len, rest;
    uint32_t first, hint; /* list: first node, node used last; NODE_NONE if empty */
    bool is_bitmap;
    struct cursor cursor[CURSOR_COUNT]; /* by log2 of the length wanted */
};

struct summary {
    uint64_t prefix, suffix, best;
};

/* A run inside one region, end excluded. */
struct run {
    uint32_t start, end;
};

struct extents {
    /* const after creation */
    struct extents_options options;
    uint32_t region_shift;
    uint64_t region_count;
    uint64_t leaves; /* of the tree: region_count rounded up to a power of two */
    size_t map_bytes, bitmap_words;
    struct region *regions;
    struct summary *tree; /* heap order: root at 1, leaf of region r at leaves + r */
    struct node *nodes;
    uint64_t *bitmaps; /* bitmap_words for each region, bit set: free */

    /* written under the lock, read by anyone */
    _Atomic(uint64_t) free_count;

    /* under the lock */
    struct lock lock;
    uint32_t node_free, node_fresh, nodes_used; /* free chain, first never used, in lists */
    uint64_t bitmap_count, to_bitmap_count, to_list_count;
};

static inline uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }
static inline uint32_t max_u32(uint32_t a, uint32_t b) { return a > b ? a : b; }
static inline uint32_t log2_u64(uint64_t v) { return 63 - (uint32_t)__builtin_clzll(v); }

/* ---- nodes ---- */

static bool node_available(const struct extents *set, uint32_t count)
{
    return set->options.max_nodes - set->nodes_used >= count;
}

static uint32_t node_take(struct extents *set)
{
    ASSERT(node_available(set, 1));
    uint32_t n = set->node_free;
    if (n != NODE_NONE) {
        set->node_free = set->nodes[n].next;
    } else {
        ASSERT(set->node_fresh < set->options.max_nodes);
        n = set->node_fresh++;
    }
    set->nodes_used++;
    set->nodes[n].count = 0;
    return n;
}

static void node_give(struct extents *set, uint32_t n)
{
    ASSERT(n < set->node_fresh && set->nodes_used > 0);
    set->nodes[n].next = set->node_free;
    set->node_free = n;
    set->nodes_used--;
}

/* ---- list ---- */

/* Puts node n, not in a list yet, behind `prev` (NODE_NONE: in front). */
static void list_link(struct extents *set, struct region *reg, uint32_t prev, uint32_t n)
{
    struct node *node = &set->nodes[n];
    ASSERT(n != prev && n < set->node_fresh);
    node->prev = prev;
    node->next = prev == NODE_NONE ? reg->first : set->nodes[prev].next;
    if (prev == NODE_NONE)
        reg->first = n;
    else
        set->nodes[prev].next = n;
    if (node->next != NODE_NONE)
        set->nodes[node->next].prev = n;
}

static void list_unlink(struct extents *set, struct region *reg, uint32_t n)
{
    struct node *node = &set->nodes[n];
    ASSERT(n < set->node_fresh && (node->prev != NODE_NONE || reg->first == n));
    if (node->prev == NODE_NONE)
        reg->first = node->next;
    else
        set->nodes[node->prev].next = node->next;
    if (node->next != NODE_NONE)
        set->nodes[node->next].prev = node->prev;
    if (reg->hint == n)
        reg->hint = node->prev != NODE_NONE ? node->prev : reg->first;
    node_give(set, n);
}

/* The last extent that starts at or below off: its node and *idx. NODE_NONE if none does.
 * Walks from the node used last towards the address. */
static uint32_t list_locate(const struct extents *set, struct region *reg, uint32_t off, int *idx)
{
    const struct node *nodes = set->nodes;
    uint32_t n = reg->hint;
    if (n == NODE_NONE)
        return NODE_NONE;
    while (nodes[n].e[0].first > off) {
        if (nodes[n].prev == NODE_NONE) {
            reg->hint = n;
            return NODE_NONE;
        }
        n = nodes[n].prev;
    }
    while (nodes[n].next != NODE_NONE && nodes[nodes[n].next].e[0].first <= off)
        n = nodes[n].next;
    int i = nodes[n].count - 1;
    while (nodes[n].e[i].first > off)
        i--;
    reg->hint = n;
    *idx = i;
    return n;
}

/* Makes one node of n and the one behind it if they hold few extents. */
static void list_merge(struct extents *set, struct region *reg, uint32_t n)
{
    if (n == NODE_NONE || set->nodes[n].next == NODE_NONE)
        return;
    struct node *node = &set->nodes[n], *behind = &set->nodes[node->next];
    if (node->count + behind->count > MERGE_ABOVE)
        return;
    ASSERT(node->count > 0 && node->e[node->count - 1].last < behind->e[0].first);
    memcpy(&node->e[node->count], behind->e, behind->count * sizeof(node->e[0]));
    node->count = (uint16_t)(node->count + behind->count);
    list_unlink(set, reg, node->next);
}

/* Makes e the extent after (n, i); n NODE_NONE: the first one. Needs at most one node. */
static void list_insert(struct extents *set, struct region *reg, uint32_t n, int i,
                        struct extent e)
{
    if (n == NODE_NONE) {
        n = reg->first;
        i = -1;
        if (n == NODE_NONE) {
            n = node_take(set);
            list_link(set, reg, NODE_NONE, n);
        }
    }
    struct node *node = &set->nodes[n];
    uint32_t split = NODE_NONE;
    i++;
    if (node->count == NODE_EXTENTS) {
        /* An append leaves the full node full: lists are often built in order. */
        int keep = i == NODE_EXTENTS ? NODE_EXTENTS : NODE_EXTENTS / 2 + 1;
        split = n;
        uint32_t m = node_take(set);
        struct node *upper = &set->nodes[m];
        upper->count = (uint16_t)(NODE_EXTENTS - keep);
        memcpy(upper->e, &node->e[keep], upper->count * sizeof(upper->e[0]));
        node->count = (uint16_t)keep;
        list_link(set, reg, n, m);
        if (i >= keep) {
            n = m;
            node = upper;
            i -= keep;
        }
    }
    ASSERT(i >= 0 && i <= node->count && node->count < NODE_EXTENTS);
    memmove(&node->e[i + 1], &node->e[i], (size_t)(node->count - i) * sizeof(node->e[0]));
    node->e[i] = e;
    node->count++;
    reg->hint = n;
    if (split != NODE_NONE) {
        /* Either half may be small enough now to join its outer neighbour. */
        list_merge(set, reg, set->nodes[split].next);
        list_merge(set, reg, set->nodes[split].prev);
    }
}

static void list_remove(struct extents *set, struct region *reg, uint32_t n, int i)
{
    struct node *node = &set->nodes[n];
    uint32_t prev = node->prev;
    ASSERT(i >= 0 && i < node->count);
    node->count--;
    memmove(&node->e[i], &node->e[i + 1], (size_t)(node->count - i) * sizeof(node->e[0]));
    if (node->count == 0)
        list_unlink(set, reg, n);
    else
        list_merge(set, reg, n);
    list_merge(set, reg, prev);
}

static uint32_t list_next_free(const struct extents *set, struct region *reg, uint32_t off)
{
    int i = -1;
    uint32_t n = list_locate(set, reg, off, &i);
    if (n == NODE_NONE)
        return reg->first == NODE_NONE ? reg->units : set->nodes[reg->first].e[0].first;
    const struct node *node = &set->nodes[n];
    if (off <= node->e[i].last)
        return off;
    if (i + 1 < node->count)
        return node->e[i + 1].first;
    return node->next == NODE_NONE ? reg->units : set->nodes[node->next].e[0].first;
}

static uint32_t list_free_end(const struct extents *set, struct region *reg, uint32_t off)
{
    int i = -1;
    uint32_t n = list_locate(set, reg, off, &i);
    if (n == NODE_NONE || off > set->nodes[n].e[i].last)
        return off;
    return set->nodes[n].e[i].last + 1u;
}

static uint32_t list_find_run(const struct extents *set, struct region *reg, uint32_t off,
                              uint32_t len)
{
    int i = 0;
    uint32_t n = list_locate(set, reg, off, &i);
    if (n == NODE_NONE) {
        n = reg->first;
        i = 0;
    }
    for (; n != NODE_NONE; n = set->nodes[n].next, i = 0) {
        const struct node *node = &set->nodes[n];
        for (; i < node->count; i++) {
            uint32_t start = max_u32(node->e[i].first, off);
            if (node->e[i].last + 1u >= start + len) {
                reg->hint = n;
                return start;
            }
        }
    }
    return reg->units;
}

/* All of a .. b - 1 is free before. Returns by how much the number of runs changed. */
static int list_use(struct extents *set, struct region *reg, uint32_t a, uint32_t b)
{
    int i = -1;
    uint32_t n = list_locate(set, reg, a, &i);
    ASSERT(n != NODE_NONE);
    struct extent *e = &set->nodes[n].e[i];
    uint32_t end = e->last + 1u;
    ASSERT(b <= end);
    if (e->first == a && end == b) {
        list_remove(set, reg, n, i);
        return -1;
    }
    if (e->first == a) {
        e->first = (uint16_t)b;
        return 0;
    }
    e->last = (uint16_t)(a - 1);
    if (end == b)
        return 0;
    list_insert(set, reg, n, i,
                (struct extent){.first = (uint16_t)b, .last = (uint16_t)(end - 1)});
    return 1;
}

/* All of a .. b - 1 is used before. Returns the run that it is part of now. */
static struct run list_free(struct extents *set, struct region *reg, uint32_t a, uint32_t b)
{
    int i = -1;
    uint32_t n = list_locate(set, reg, a, &i);
    struct extent *left = n == NODE_NONE ? NULL : &set->nodes[n].e[i];
    /* the extent behind it, at (m, j) */
    uint32_t m = n == NODE_NONE ? reg->first : n;
    int j = n == NODE_NONE ? 0 : i + 1;
    if (m != NODE_NONE && j == set->nodes[m].count) {
        m = set->nodes[m].next;
        j = 0;
    }
    struct extent *right = m == NODE_NONE ? NULL : &set->nodes[m].e[j];
    ASSERT(!left || left->last < a);
    ASSERT(!right || right->first >= b);
    bool joins_left = left && left->last + 1u == a;
    bool joins_right = right && right->first == b;
    struct run run = {joins_left ? left->first : a, joins_right ? right->last + 1u : b};
    if (joins_left) {
        left->last = (uint16_t)(run.end - 1);
        if (joins_right)
            list_remove(set, reg, m, j);
    } else if (joins_right) {
        right->first = (uint16_t)a;
    } else {
        list_insert(set, reg, n, i,
                    (struct extent){.first = (uint16_t)a, .last = (uint16_t)(b - 1)});
    }
    return run;
}

/* ---- bitmap ---- */

static uint64_t *region_bitmap(const struct extents *set, const struct region *reg)
{
    ASSERT((uint64_t)(reg - set->regions) < set->region_count);
    return set->bitmaps + (size_t)(reg - set->regions) * set->bitmap_words;
}

static uint32_t region_words(const struct region *reg) { return (reg->units + 63) / 64; }

static uint32_t bitmap_next_free(const uint64_t *bits, const struct region *reg, uint32_t off)
{
    if (off >= reg->units)
        return reg->units;
    uint32_t w = off / 64, words = region_words(reg);
    uint64_t x = bits[w] & (~UINT64_C(0) << (off % 64));
    while (x == 0) {
        if (++w == words)
            return reg->units;
        x = bits[w];
    }
    return w * 64 + (uint32_t)__builtin_ctzll(x);
}

/* The first used offset from off on, or limit if that comes first. */
static uint32_t bitmap_free_end(const uint64_t *bits, uint32_t off, uint32_t limit)
{
    if (off >= limit)
        return limit;
    uint32_t w = off / 64, words = (limit + 63) / 64;
    uint64_t x = ~bits[w] & (~UINT64_C(0) << (off % 64));
    while (x == 0) {
        if (++w == words)
            return limit;
        x = ~bits[w];
    }
    return min_u32(limit, w * 64 + (uint32_t)__builtin_ctzll(x));
}

/* The start of the free run that ends before off (off itself if off - 1 is used or off is 0). */
static uint32_t bitmap_run_start(const uint64_t *bits, uint32_t off)
{
    while (off > 0) {
        uint32_t w = (off - 1) / 64, bit = (off - 1) % 64;
        uint64_t used = ~bits[w] & (~UINT64_C(0) >> (63 - bit));
        if (used)
            return w * 64 + log2_u64(used) + 1;
        off = w * 64;
    }
    return 0;
}

/* Bits of x at which `len` (1 .. 63) set bits in a row start, upwards. */
static uint64_t bits_starting_run(uint64_t x, uint32_t len)
{
    for (uint32_t have = 1, step; have < len; have += step) {
        step = min_u32(have, len - have);
        x &= x >> step;
    }
    return x;
}

static uint32_t bitmap_find_run(const uint64_t *bits, const struct region *reg, uint32_t off,
                                uint32_t len)
{
    if (len == 1)
        return bitmap_next_free(bits, reg, off);
    if (off >= reg->units)
        return reg->units;
    uint32_t words = region_words(reg), below = 0; /* free units directly below the word */
    uint64_t mask = ~UINT64_C(0) << (off % 64);
    for (uint32_t w = off / 64; w < words; w++, mask = ~UINT64_C(0)) {
        uint64_t x = bits[w] & mask, starts;
        if (x == ~UINT64_C(0)) {
            if (below + 64 >= len)
                return w * 64 - below;
            below += 64;
            continue;
        }
        if (below + (uint32_t)__builtin_ctzll(~x) >= len)
            return w * 64 - below;
        if (len < 64 && (starts = bits_starting_run(x, len)) != 0)
            return w * 64 + (uint32_t)__builtin_ctzll(starts);
        below = (uint32_t)__builtin_clzll(~x);
    }
    return reg->units;
}

static void bitmap_write(uint64_t *bits, uint32_t a, uint32_t b, bool free)
{
    for (uint32_t w = a / 64; w <= (b - 1) / 64; w++) {
        uint64_t mask = ~UINT64_C(0);
        if (w == a / 64)
            mask &= ~UINT64_C(0) << (a % 64);
        if (w == (b - 1) / 64)
            mask &= ~UINT64_C(0) >> (63 - (b - 1) % 64);
        bits[w] = free ? bits[w] | mask : bits[w] & ~mask;
    }
}

static bool bitmap_is_free(const uint64_t *bits, uint32_t off)
{
    return bits[off / 64] >> (off % 64) & 1;
}

static int bitmap_use(uint64_t *bits, const struct region *reg, uint32_t a, uint32_t b)
{
    bitmap_write(bits, a, b, false);
    bool left = a > 0 && bitmap_is_free(bits, a - 1);
    bool right = b < reg->units && bitmap_is_free(bits, b);
    return (int)left + (int)right - 1;
}

static struct run bitmap_free(uint64_t *bits, const struct region *reg, uint32_t a, uint32_t b)
{
    bitmap_write(bits, a, b, true);
    return (struct run){bitmap_run_start(bits, a), bitmap_free_end(bits, b, reg->units)};
}

/* ---- region ---- */

static uint32_t region_next_free(const struct extents *set, struct region *reg, uint32_t off)
{
    if (off >= reg->units)
        return reg->units;
    return reg->is_bitmap ? bitmap_next_free(region_bitmap(set, reg), reg, off)
                          : list_next_free(set, reg, off);
}

/* The end of the free run at off, at most limit; off itself if off is used. */
static uint32_t region_free_end(const struct extents *set, struct region *reg, uint32_t off,
                                uint32_t limit)
{
    if (off >= limit)
        return limit;
    return reg->is_bitmap ? bitmap_free_end(region_bitmap(set, reg), off, limit)
                          : min_u32(limit, list_free_end(set, reg, off));
}

static uint32_t region_best(const struct region *reg) { return max_u32(reg->top_len, reg->rest); }

static bool region_best_is_exact(const struct region *reg) { return reg->top_len >= reg->rest; }

static void region_to_bitmap(struct extents *set, struct region *reg)
{
    uint64_t *bits = region_bitmap(set, reg);
    memset(bits, 0, set->bitmap_words * sizeof(*bits));
    while (reg->first != NODE_NONE) {
        const struct node *node = &set->nodes[reg->first];
        for (int i = 0; i < node->count; i++)
            bitmap_write(bits, node->e[i].first, node->e[i].last + 1u, true);
        list_unlink(set, reg, reg->first);
    }
    reg->is_bitmap = true;
    set->bitmap_count++;
    set->to_bitmap_count++;
}

static void region_to_list(struct extents *set, struct region *reg)
{
    const uint64_t *bits = region_bitmap(set, reg);
    ASSERT(reg->first == NODE_NONE && reg->hint == NODE_NONE);
    reg->is_bitmap = false;
    uint32_t end;
    for (uint32_t off = bitmap_next_free(bits, reg, 0); off < reg->units;
         off = bitmap_next_free(bits, reg, end)) {
        end = bitmap_free_end(bits, off, reg->units);
        uint32_t n = reg->hint;
        list_insert(set, reg, n, n == NODE_NONE ? -1 : set->nodes[n].count - 1,
                    (struct extent){.first = (uint16_t)off, .last = (uint16_t)(end - 1)});
    }
    set->bitmap_count--;
    set->to_list_count++;
}

/* Puts the region's summary into the tree; stops where nothing changes. Defined with the tree. */
static void region_publish(struct extents *set, const struct region *reg);

/* Chooses the representation after a change, by the rule in space/extents.h. */
static void choose_form(struct extents *set, struct region *reg)
{
    ASSERT(reg->free <= reg->units && reg->runs <= reg->free && (reg->runs == 0) == (reg->free == 0));
    if (set->options.mode != EXTENTS_HYBRID)
        return;
    if (!reg->is_bitmap) {
        if (reg->runs > NODE_EXTENTS && reg->free < (uint64_t)EXTENTS_TO_BITMAP_BELOW * reg->runs)
            region_to_bitmap(set, reg);
    } else if (reg->runs <= FEW_RUNS ||
               reg->free > (uint64_t)EXTENTS_TO_LIST_ABOVE * reg->runs) {
        if (node_available(set, reg->runs / NODE_EXTENTS + 1))
            region_to_list(set, reg);
    }
}

/* A list may need one node to take a change in; without it the region goes on as a bitmap. */
static void region_ensure_room(struct extents *set, struct region *reg)
{
    if (!reg->is_bitmap && !node_available(set, 1))
        region_to_bitmap(set, reg);
}

static void region_use(struct extents *set, struct region *reg, uint32_t a, uint32_t b)
{
    lock_assert_held(&set->lock);
    ASSERT(a < b && b <= reg->units && reg->free >= b - a);
    region_ensure_room(set, reg);
    int delta = reg->is_bitmap ? bitmap_use(region_bitmap(set, reg), reg, a, b)
                               : list_use(set, reg, a, b);
    reg->runs = (uint32_t)((int)reg->runs + delta);
    reg->free -= b - a;
    reg->prefix = min_u32(reg->prefix, a);
    reg->suffix = min_u32(reg->suffix, reg->units - b);
    uint32_t top_end = reg->top_off + reg->top_len;
    if (a >= reg->top_off && a < top_end) {
        /* The run was cut: its longer part is still a known run. */
        uint32_t below = a - reg->top_off, above = top_end - b;
        reg->rest = max_u32(reg->rest, min_u32(below, above));
        if (above > below)
            reg->top_off = b;
        reg->top_len = max_u32(below, above);
    }
    reg->rest = min_u32(reg->rest, reg->free - reg->top_len);
    choose_form(set, reg);
    region_publish(set, reg);
}

static void region_free(struct extents *set, struct region *reg, uint32_t a, uint32_t b)
{
    lock_assert_held(&set->lock);
    ASSERT(a < b && b <= reg->units && reg->free + (b - a) <= reg->units);
    region_ensure_room(set, reg);
    struct run run = reg->is_bitmap ? bitmap_free(region_bitmap(set, reg), reg, a, b)
                                    : list_free(set, reg, a, b);
    uint32_t len = run.end - run.start;
    ASSERT(run.start <= a && run.end >= b && run.end <= reg->units);
    reg->runs += 1 - (uint32_t)(run.start < a) - (uint32_t)(run.end > b);
    reg->free += b - a;
    if (run.start == 0)
        reg->prefix = run.end;
    if (run.end == reg->units)
        reg->suffix = len;
    bool holds_top = reg->top_len > 0 && run.start <= reg->top_off && reg->top_off < run.end;
    if (holds_top || len > reg->top_len) {
        if (!holds_top)
            reg->rest = max_u32(reg->rest, reg->top_len);
        reg->top_off = run.start;
        reg->top_len = len;
    } else {
        reg->rest = max_u32(reg->rest, len);
    }
    reg->rest = min_u32(reg->rest, reg->free - reg->top_len);
    for (int i = 0; i < CURSOR_COUNT; i++)
        if (len >= reg->cursor[i].len)
            reg->cursor[i].off = min_u32(reg->cursor[i].off, run.start);
    choose_form(set, reg);
    region_publish(set, reg);
}

/* The lowest rel of the region at or after offset off where len units are free; false if there is none. What the search
 * learns is kept: in the cursor of the length, and, if it found nothing, in the bound. */
static bool region_find(struct extents *set, struct region *reg, uint32_t off, uint64_t want,
                        uint64_t *found)
{
    if (want > region_best(reg))
        return false;
    uint32_t len = (uint32_t)want; /* the bound is at most a region */
    struct cursor *cursor = &reg->cursor[min_u32(log2_u64(len), CURSOR_COUNT - 1)];
    uint32_t from = cursor->len <= len ? cursor->off : 0;
    bool whole = off <= from;
    from = max_u32(from, off);
    uint32_t at = reg->is_bitmap ? bitmap_find_run(region_bitmap(set, reg), reg, from, len)
                                 : list_find_run(set, reg, from, len);
    if (whole && cursor->len >= len)
        *cursor = (struct cursor){.len = len, .off = at};
    if (at < reg->units) {
        *found = ((uint64_t)(reg - set->regions) << set->region_shift) + at;
        return true;
    }
    if (whole) {
        ASSERT(reg->top_len < len);
        reg->rest = min_u32(reg->rest, len - 1);
        region_publish(set, reg);
    }
    return false;
}

/* Looks through the region for its longest run, after which the bound is exact. */
static void region_tighten(struct extents *set, struct region *reg)
{
    reg->top_len = 0;
    reg->rest = 0;
    uint32_t end;
    for (uint32_t off = region_next_free(set, reg, 0); off < reg->units;
         off = region_next_free(set, reg, end)) {
        end = region_free_end(set, reg, off, reg->units);
        reg->rest = max_u32(reg->rest, min_u32(reg->top_len, end - off));
        if (end - off > reg->top_len) {
            reg->top_off = off;
            reg->top_len = end - off;
        }
    }
    region_publish(set, reg);
}

/* Makes the region all free or all used; its list, if it had one, is gone already. */
static void region_reset(struct extents *set, struct region *reg, bool all_free)
{
    bool is_bitmap = set->options.mode == EXTENTS_BITMAP_ONLY;
    reg->free = all_free ? reg->units : 0;
    reg->runs = all_free;
    reg->prefix = reg->suffix = reg->free;
    reg->top_off = reg->rest = 0;
    reg->top_len = reg->free;
    reg->first = reg->hint = NODE_NONE;
    reg->is_bitmap = is_bitmap;
    for (int i = 0; i < CURSOR_COUNT; i++)
        reg->cursor[i] = (struct cursor){.len = UINT32_MAX, .off = 0};
    if (is_bitmap) {
        memset(region_bitmap(set, reg), 0, set->bitmap_words * sizeof(uint64_t));
        if (all_free)
            bitmap_write(region_bitmap(set, reg), 0, reg->units, true);
    } else if (all_free && node_available(set, 1)) {
        list_insert(set, reg, NODE_NONE, -1,
                    (struct extent){.first = 0, .last = (uint16_t)(reg->units - 1)});
    } else if (all_free) {
        region_to_bitmap(set, reg);
        bitmap_write(region_bitmap(set, reg), 0, reg->units, true);
    }
}

/* ---- tree ---- */

/* The first unit below node i, and how many there are. */
static uint64_t tree_start(const struct extents *set, uint64_t i)
{
    uint32_t depth = log2_u64(i);
    uint64_t span = set->leaves >> depth;
    return ((i - ((uint64_t)1 << depth)) * span) << set->region_shift;
}

static uint64_t tree_units(const struct extents *set, uint64_t i)
{
    uint64_t start = tree_start(set, i), count = set->options.unit_count;
    uint64_t span = (set->leaves >> log2_u64(i)) << set->region_shift;
    return start >= count ? 0 : min_u64(span, count - start);
}

static struct summary tree_combine(const struct extents *set, uint64_t i)
{
    const struct summary *l = &set->tree[2 * i], *r = &set->tree[2 * i + 1];
    struct summary s = {l->prefix, r->suffix, max_u64(l->best, r->best)};
    if (l->prefix == tree_units(set, 2 * i))
        s.prefix += r->prefix;
    if (r->suffix == tree_units(set, 2 * i + 1))
        s.suffix += l->suffix;
    s.best = max_u64(s.best, l->suffix + r->prefix);
    return s;
}

static bool summary_equal(const struct summary *a, const struct summary *b)
{
    return a->prefix == b->prefix && a->suffix == b->suffix && a->best == b->best;
}

static struct summary region_summary(const struct region *reg)
{
    return (struct summary){reg->prefix, reg->suffix, region_best(reg)};
}

static void region_publish(struct extents *set, const struct region *reg)
{
    uint64_t i = set->leaves + (uint64_t)(reg - set->regions);
    struct summary s = region_summary(reg);
    while (!summary_equal(&set->tree[i], &s)) {
        set->tree[i] = s;
        if (i == 1)
            return;
        i /= 2;
        s = tree_combine(set, i);
    }
}

/* ---- set ---- */

/* The part of rel .. end - 1 that lies in the region of rel. */
struct part {
    struct region *reg;
    uint32_t a, b;
};

static struct part part_at(const struct extents *set, uint64_t rel, uint64_t end)
{
    struct part p = {.reg = &set->regions[rel >> set->region_shift]};
    p.a = (uint32_t)(rel & (set->options.region_units - 1));
    p.b = (uint32_t)min_u64(p.reg->units, p.a + (end - rel));
    return p;
}

/* The lowest rel at or after `from` where len units are free; false if there is none. First the
 * region of `from` itself, then up the tree until something to the right promises a run, and down
 * to it. A region's bound that promised too much is lowered, and the search climbs on from there. */
static bool set_seek(struct extents *set, uint64_t from, uint64_t len, uint64_t *found)
{
    if (from >= set->options.unit_count || len > set->tree[1].best)
        return false;
    uint64_t r = from >> set->region_shift, i = set->leaves + r;
    struct region *reg = &set->regions[r];
    uint32_t off = (uint32_t)(from & (set->options.region_units - 1));
    if (region_find(set, reg, off, len, found))
        return true;
    /* free units directly below what node i's right neighbour covers */
    uint64_t carry = min_u32(reg->suffix, reg->units - off);
    while (i > 1) {
        if (i & 1) {
            i /= 2;
            continue;
        }
        const struct summary *right = &set->tree[++i];
        if (carry + right->prefix >= len) {
            *found = tree_start(set, i) - carry;
            return true;
        }
        if (right->best < len) {
            carry = right->prefix == tree_units(set, i) ? carry + right->prefix : right->suffix;
            continue;
        }
        while (i < set->leaves) {
            const struct summary *l = &set->tree[2 * i];
            if (l->best >= len) {
                i = 2 * i;
            } else if (l->suffix + set->tree[2 * i + 1].prefix >= len) {
                *found = tree_start(set, 2 * i + 1) - l->suffix;
                return true;
            } else {
                i = 2 * i + 1;
            }
        }
        reg = &set->regions[i - set->leaves];
        if (region_find(set, reg, 0, len, found))
            return true;
        carry = reg->suffix;
    }
    return false;
}

/* The end of the free run at rel, at most limit; rel itself if it is used. */
static uint64_t set_free_end(const struct extents *set, uint64_t rel, uint64_t limit)
{
    while (rel < limit) {
        struct part p = part_at(set, rel, limit);
        uint32_t end = region_free_end(set, p.reg, p.a, p.b);
        rel += end - p.a;
        if (end < p.b)
            break;
    }
    return rel;
}

static bool set_all_used(const struct extents *set, uint64_t rel, uint64_t end)
{
    while (rel < end) {
        struct part p = part_at(set, rel, end);
        if (region_next_free(set, p.reg, p.a) < p.b)
            return false;
        rel += p.b - p.a;
    }
    return true;
}

/* Makes used units free, or free units used. */
static void set_change(struct extents *set, uint64_t rel, uint64_t len, bool frees)
{
    lock_assert_held(&set->lock);
    for (uint64_t at = rel; at < rel + len;) {
        struct part p = part_at(set, at, rel + len);
        if (frees)
            region_free(set, p.reg, p.a, p.b);
        else
            region_use(set, p.reg, p.a, p.b);
        at += p.b - p.a;
    }
    atomic_fetch_add_explicit(&set->free_count, frees ? len : -len, memory_order_relaxed);
}

/* Whether start .. start + len - 1 is a range of this set; its rel if so. */
static bool set_has(const struct extents *set, uint64_t start, uint64_t len, uint64_t *rel)
{
    const struct extents_options *o = &set->options;
    if (start < o->start_unit || start - o->start_unit >= o->unit_count || len == 0 ||
        len > o->unit_count - (start - o->start_unit))
        return false;
    *rel = start - o->start_unit;
    return true;
}

/* The lowest rel >= from whose unit is a multiple of align. */
static uint64_t set_align(const struct extents *set, uint64_t rel, uint64_t align)
{
    return round_up(set->options.start_unit + rel, align) - set->options.start_unit;
}

static int set_alloc(struct extents *set, uint64_t len, uint64_t align, uint64_t *start)
{
    lock_assert_held(&set->lock);
    uint64_t at, from = 0;
    while (set_seek(set, from, len, &at)) {
        uint64_t aligned = set_align(set, at, align);
        if (aligned > at) {
            if (aligned + len > set->options.unit_count)
                return -ENOSPC;
            from = set_free_end(set, at + len, aligned + len);
            if (from < aligned + len)
                continue;
        }
        set_change(set, aligned, len, false);
        *start = set->options.start_unit + aligned;
        return 0;
    }
    return -ENOSPC;
}

/* The lowest run at or after rel, whole. */
static bool set_find(struct extents *set, uint64_t rel, struct extents_range *run)
{
    lock_assert_held(&set->lock);
    if (!set_seek(set, rel, 1, &run->start))
        return false;
    run->len = set_free_end(set, run->start, set->options.unit_count) - run->start;
    return true;
}

/* All free or all used. Nobody else uses the set, or the lock is held. */
static void set_reset(struct extents *set, bool all_free)
{
    set->node_free = NODE_NONE;
    set->node_fresh = set->nodes_used = 0;
    set->bitmap_count = set->options.mode == EXTENTS_BITMAP_ONLY ? set->region_count : 0;
    for (uint64_t r = 0; r < set->region_count; r++) {
        region_reset(set, &set->regions[r], all_free);
        set->tree[set->leaves + r] = region_summary(&set->regions[r]);
    }
    for (uint64_t i = set->leaves - 1; i > 0; i--)
        set->tree[i] = tree_combine(set, i);
    atomic_store_explicit(&set->free_count, all_free ? set->options.unit_count : 0,
                          memory_order_relaxed);
}

/* Nodes that all lists together can ever need: two neighbours hold MERGE_ABOVE + 1 extents at
 * least, and a change may need one node and one extent more for a moment. */
static uint64_t derive_max_nodes(const struct extents_options *o, uint64_t region_count)
{
    uint64_t extents = o->region_units / EXTENTS_TO_BITMAP_BELOW;
    if (o->mode == EXTENTS_LIST_ONLY)
        extents = o->region_units / 2;
    extents = max_u64(extents, NODE_EXTENTS) + 1;
    return min_u64((extents * 2 / (MERGE_ABOVE + 1) + 2) * region_count, NODE_NONE - 1);
}

int extents_create(const struct extents_options *options, struct extents **out)
{
    struct extents_options o = *options;
    if (o.region_units == 0)
        o.region_units = EXTENTS_REGION_UNITS;
    if (o.unit_count == 0 || o.unit_count > EXTENTS_MAX_UNITS ||
        o.start_unit > UINT64_MAX / 4 || (o.region_units & (o.region_units - 1)) != 0 ||
        o.region_units < EXTENTS_REGION_MIN_UNITS || o.region_units > EXTENTS_REGION_MAX_UNITS ||
        o.mode > EXTENTS_BITMAP_ONLY || o.max_nodes == NODE_NONE)
        return -EINVAL;
    uint32_t shift = log2_u64(o.region_units);
    uint64_t region_count = (o.unit_count + o.region_units - 1) >> shift;
    uint64_t leaves = region_count == 1 ? 1 : (uint64_t)2 << log2_u64(region_count - 1);
    if (o.max_nodes == 0)
        o.max_nodes = (uint32_t)derive_max_nodes(&o, region_count);

    size_t words = o.region_units / 64;
    size_t regions_at = round_up(sizeof(struct extents), CACHE_LINE_BYTES);
    size_t tree_at = round_up(regions_at + region_count * sizeof(struct region), CACHE_LINE_BYTES);
    size_t nodes_at = round_up(tree_at + 2 * leaves * sizeof(struct summary), CACHE_LINE_BYTES);
    size_t bitmaps_at = round_up(nodes_at + (size_t)o.max_nodes * sizeof(struct node), 4 * KiB);
    size_t bytes = bitmaps_at + region_count * words * sizeof(uint64_t);
    char *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED)
        return -ENOMEM;

    struct extents *set = (struct extents *)(void *)map;
    set->options = o;
    set->region_shift = shift;
    set->region_count = region_count;
    set->leaves = leaves;
    set->map_bytes = bytes;
    set->bitmap_words = words;
    set->regions = (struct region *)(void *)(map + regions_at);
    set->tree = (struct summary *)(void *)(map + tree_at);
    set->nodes = (struct node *)(void *)(map + nodes_at);
    set->bitmaps = (uint64_t *)(void *)(map + bitmaps_at);
    for (uint64_t r = 0; r < region_count; r++)
        set->regions[r].units = (uint32_t)min_u64(o.region_units, o.unit_count - (r << shift));
    lock_init(&set->lock, LOCK_EXTENTS);
    set_reset(set, !o.all_used);
    *out = set;
    return 0;
}

void extents_destroy(struct extents *set)
{
    if (!set)
        return;
    lock_destroy(&set->lock);
    int rc = munmap(set, set->map_bytes);
    ASSERT(rc == 0);
}

/* ---- allocation ---- */

int extents_alloc(struct extents *set, uint64_t len, uint64_t align, uint64_t *start)
{
    ASSERT(len > 0 && align > 0 && (align & (align - 1)) == 0);
    lock_take(&set->lock);
    int rc = set_alloc(set, len, align, start);
    lock_release(&set->lock);
    return rc;
}

int extents_try_free(struct extents *set, uint64_t start, uint64_t len)
{
    uint64_t rel;
    if (!set_has(set, start, len, &rel))
        return -EINVAL;
    lock_take(&set->lock);
    int rc = set_all_used(set, rel, rel + len) ? 0 : -EINVAL;
    if (rc == 0)
        set_change(set, rel, len, true);
    lock_release(&set->lock);
    return rc;
}

void extents_free(struct extents *set, uint64_t start, uint64_t len)
{
    int rc = extents_try_free(set, start, len);
    ASSERT(rc == 0);
}

int extents_take(struct extents *set, uint64_t start, uint64_t len)
{
    uint64_t rel;
    if (!set_has(set, start, len, &rel))
        return -EINVAL;
    lock_take(&set->lock);
    int rc = set_free_end(set, rel, rel + len) == rel + len ? 0 : -EBUSY;
    if (rc == 0)
        set_change(set, rel, len, false);
    lock_release(&set->lock);
    return rc;
}

/* ---- questions ---- */

bool extents_is_free(struct extents *set, uint64_t unit)
{
    uint64_t rel;
    if (!set_has(set, unit, 1, &rel))
        return false;
    lock_take(&set->lock);
    bool is_free = set_free_end(set, rel, rel + 1) > rel;
    lock_release(&set->lock);
    return is_free;
}

int extents_find(struct extents *set, uint64_t unit, struct extents_range *run)
{
    uint64_t first = set->options.start_unit;
    lock_take(&set->lock);
    bool found = set_find(set, unit > first ? unit - first : 0, run);
    lock_release(&set->lock);
    if (!found)
        return -ENOENT;
    run->start += first;
    return 0;
}

uint64_t extents_free_count(const struct extents *set)
{
    return atomic_load_explicit(&set->free_count, memory_order_relaxed);
}

uint64_t extents_largest(struct extents *set)
{
    lock_take(&set->lock);
    uint64_t known = 0; /* no longer run is missed if bounds up to this are left as they are */
    for (uint64_t r = 0; r < set->region_count; r++) {
        struct region *reg = &set->regions[r];
        if (region_best(reg) > known && !region_best_is_exact(reg))
            region_tighten(set, reg);
        known = max_u64(known, reg->top_len);
    }
    uint64_t largest = set->tree[1].best;
    lock_release(&set->lock);
    return largest;
}

void extents_stats(struct extents *set, struct extents_stats *stats)
{
    lock_take(&set->lock);
    *stats = (struct extents_stats){
        .total_units = set->options.unit_count,
        .free_units = extents_free_count(set),
        .regions_list = set->region_count - set->bitmap_count,
        .regions_bitmap = set->bitmap_count,
        .nodes_used = set->nodes_used,
        .nodes_max = set->options.max_nodes,
        .bytes_reserved = set->map_bytes,
        .to_bitmap_count = set->to_bitmap_count,
        .to_list_count = set->to_list_count,
    };
    for (uint64_t r = 0; r < set->region_count; r++)
        stats->free_runs += set->regions[r].runs;
    lock_release(&set->lock);
    stats->bytes_used = sizeof(struct extents) + set->region_count * sizeof(struct region) +
                        2 * set->leaves * sizeof(struct summary) +
                        stats->nodes_used * sizeof(struct node) +
                        stats->regions_bitmap * set->bitmap_words * sizeof(uint64_t);
}

uint64_t extents_region_map(struct extents *set, char *text, size_t room)
{
    ASSERT(room > 0);
    uint64_t shown = min_u64(set->region_count, room - 1);
    lock_take(&set->lock);
    for (uint64_t r = 0; r < shown; r++)
        text[r] = set->regions[r].is_bitmap ? 'B' : 'L';
    lock_release(&set->lock);
    text[shown] = '\0';
    return set->region_count;
}

/* ---- text ---- */

int extents_save(struct extents *set, FILE *out)
{
    struct extents_range batch[SAVE_BATCH];
    uint64_t rel = 0;
    for (int count = SAVE_BATCH; count == SAVE_BATCH;) {
        lock_take(&set->lock);
        for (count = 0; count < SAVE_BATCH && set_find(set, rel, &batch[count]); count++)
            rel = batch[count].start + batch[count].len;
        lock_release(&set->lock);
        for (int i = 0; i < count; i++) {
            uint64_t start = set->options.start_unit + batch[i].start;
            if (fprintf(out, "%" PRIu64 " .. %" PRIu64 "\n", start, start + batch[i].len - 1) < 0)
                return -EIO;
        }
    }
    return fflush(out) == 0 ? 0 : -EIO;
}

/* ---- reconcile ---- */

struct reconcile {
    struct extents *set;
    extents_fault_fn *report;
    void *ctx;
    struct extents_reconciled *result;
};

/* Units start .. end - 1 (as their users name them) are wrong. */
static void fault(const struct reconcile *rec, enum extents_fault kind, uint64_t start,
                  uint64_t end)
{
    if (start >= end)
        return;
    rec->result->ranges[kind]++;
    rec->result->units[kind] += end - start;
    if (rec->report)
        rec->report(rec->ctx, kind, (struct extents_range){.start = start, .len = end - start});
}

/* Units a .. b - 1 (rel) are all used, or all unused, by their users: reports those that the set
 * says are free, or aren't. */
static void check_part(const struct reconcile *rec, uint64_t a, uint64_t b, bool used)
{
    uint64_t first = rec->set->options.start_unit;
    struct extents_range run;
    while (a < b) {
        if (!set_find(rec->set, a, &run) || run.start >= b)
            run = (struct extents_range){.start = b, .len = 0};
        uint64_t end = min_u64(b, run.start + run.len);
        if (used)
            fault(rec, EXTENTS_BOTH, first + run.start, first + end);
        else
            fault(rec, EXTENTS_LOST, first + a, first + run.start);
        a = end;
    }
}

int extents_reconcile(struct extents *set, const struct extents_range *used, size_t used_count,
                      extents_fault_fn *report, void *ctx, struct extents_reconciled *result)
{
    const struct reconcile rec = {set, report, ctx, result};
    *result = (struct extents_reconciled){{0}, {0}};
    for (size_t i = 0; i < used_count; i++)
        if (used[i].len == 0 || used[i].len > UINT64_MAX - used[i].start ||
            (i > 0 && used[i].start < used[i - 1].start))
            return -EINVAL;

    uint64_t first = set->options.start_unit, end = first + set->options.unit_count;
    uint64_t at = first; /* everything below is accounted for */
    lock_take(&set->lock);
    for (size_t i = 0; i < used_count; i++) {
        uint64_t a = used[i].start, b = a + used[i].len;
        fault(&rec, EXTENTS_OUTSIDE, a, min_u64(b, first));
        fault(&rec, EXTENTS_OUTSIDE, max_u64(a, end), b);
        a = max_u64(a, first);
        b = min_u64(b, end);
        if (a >= b)
            continue;
        fault(&rec, EXTENTS_TWICE, a, min_u64(b, at));
        a = max_u64(a, at);
        if (a >= b)
            continue;
        check_part(&rec, at - first, a - first, false);
        check_part(&rec, a - first, b - first, true);
        at = b;
    }
    check_part(&rec, at - first, end - first, false);
    lock_release(&set->lock);
    return 0;
}

/* ---- invariants ---- */

/* The list of a region: links, order, gaps between extents, how full nodes are. */
static uint32_t list_assert(const struct extents *set, const struct region *reg)
{
    uint32_t nodes = 0, prev = NODE_NONE, before = 0;
    int64_t last = -2; /* last free offset so far */
    bool hint_seen = false;
    for (uint32_t n = reg->first; n != NODE_NONE; prev = n, n = set->nodes[n].next, nodes++) {
        const struct node *node = &set->nodes[n];
        ASSERT(node->prev == prev);
        ASSERT(node->count >= 1 && node->count <= NODE_EXTENTS);
        ASSERT(nodes == 0 || before + node->count > MERGE_ABOVE);
        before = node->count;
        hint_seen |= n == reg->hint;
        for (int i = 0; i < node->count; i++) {
            ASSERT(node->e[i].first > last + 1 || last == -2);
            ASSERT(node->e[i].last >= node->e[i].first && node->e[i].last < reg->units);
            last = node->e[i].last;
        }
    }
    ASSERT(hint_seen == (reg->first != NODE_NONE));
    return nodes;
}

static void region_assert(const struct extents *set, struct region *reg)
{
    uint32_t free = 0, runs = 0, prefix = 0, suffix = 0, largest = 0, end = 0;
    bool top_seen = reg->top_len == 0;
    for (uint32_t off = region_next_free(set, reg, 0); off < reg->units;
         off = region_next_free(set, reg, end)) {
        end = region_free_end(set, reg, off, reg->units);
        uint32_t len = end - off;
        free += len;
        runs++;
        prefix = off == 0 ? len : prefix;
        suffix = end == reg->units ? len : 0;
        bool is_top = reg->top_len > 0 && off == reg->top_off;
        ASSERT(is_top ? len == reg->top_len : len <= reg->rest);
        top_seen |= is_top;
        largest = max_u32(largest, len);
        for (int i = 0; i < CURSOR_COUNT; i++)
            ASSERT(len < reg->cursor[i].len || off >= reg->cursor[i].off);
    }
    ASSERT(top_seen && largest <= region_best(reg));
    ASSERT(free == reg->free && runs == reg->runs);
    ASSERT(prefix == reg->prefix && suffix == reg->suffix);
    if (reg->is_bitmap) {
        const uint64_t *bits = region_bitmap(set, reg);
        if (reg->units % 64)
            ASSERT(bits[reg->units / 64] >> (reg->units % 64) == 0);
        ASSERT(reg->first == NODE_NONE && reg->hint == NODE_NONE);
    }
}

void extents_assert(struct extents *set)
{
    lock_take(&set->lock);
    uint64_t free = 0, bitmaps = 0, nodes = 0;
    for (uint64_t r = 0; r < set->region_count; r++) {
        struct region *reg = &set->regions[r];
        struct summary s = region_summary(reg);
        ASSERT(summary_equal(&set->tree[set->leaves + r], &s));
        nodes += list_assert(set, reg);
        region_assert(set, reg);
        free += reg->free;
        bitmaps += reg->is_bitmap;
    }
    for (uint64_t i = set->leaves - 1; i > 0; i--) {
        struct summary s = tree_combine(set, i);
        ASSERT(summary_equal(&set->tree[i], &s));
    }
    ASSERT(free == extents_free_count(set));
    ASSERT(bitmaps == set->bitmap_count && nodes == set->nodes_used);
    ASSERT(nodes <= set->options.max_nodes);
    lock_release(&set->lock);
}
