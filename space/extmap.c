/* space/extmap.c: see space/extmap.h for the states and promises.
 *
 * A word changes only by compare-and-swap. Pins are added and removed by anyone at any time; all
 * other fields change only under the lock, which also guards the table of buffers and the counts.
 * So a transition races with pins alone, and its compare-and-swap (pins included) decides.
 *
 * Memory order: pin acquires what the thread that made the range DELAYED released, so the buffer's
 * contents are seen; unpin releases and the transition that needs 0 pins acquires, so a reader is
 * done with the buffer before it is filled again.
 */
#include "space/extmap.h"

#ifndef EXTMAP_NO_LOCK
#include "base/lock.h"
#endif

#define PINS_SHIFT 0
#define BUFFER_SHIFT 16
#define STATE_SHIFT 32
#define GENERATION_SHIFT 34
#define GENERATION_MASK (((uint64_t)1 << 30) - 1)
#define PIN_ONE ((uint64_t)1 << PINS_SHIFT)
#define PINS_MASK ((uint64_t)0xFFFF)

#define RANGE_NONE UINT64_MAX

struct buffer {
    uint64_t range;      /* under the lock: RANGE_NONE or what it holds */
    extmap_word touched; /* the clock when it was used last */
} CACHE_ALIGNED;

struct extmap {
    /* const after creation */
    extmap_word *words;
    uint64_t range_count;
    uint32_t buffer_count;
    struct buffer *buffers;

    /* under the lock */
#ifndef EXTMAP_NO_LOCK
    struct lock lock;
#endif
    struct extmap_stats stats;

    /* atomic: counts uses of buffers other than the one used last */
    extmap_word clock CACHE_ALIGNED;
};

/* ---- the operations that EXTMAP_NO_LOCK replaces ---- */

#ifdef EXTMAP_NO_LOCK
static void map_lock_init(struct extmap *map) { (void)map; }
static void map_lock_destroy(struct extmap *map) { (void)map; }
static void map_lock(struct extmap *map) { (void)map; }
static void map_unlock(struct extmap *map) { (void)map; }
static void map_assert_locked(const struct extmap *map) { (void)map; }
static inline uint64_t word_load(const extmap_word *w) { return *w; }
static inline void word_store(extmap_word *w, uint64_t v) { *w = v; }
static inline uint64_t word_add(extmap_word *w, uint64_t v) { return (*w += v) - v; }
static inline bool word_swap(extmap_word *w, uint64_t *expected, uint64_t v)
{
    (void)expected;
    *w = v;
    return true;
}
#else
static void map_lock_init(struct extmap *map) { lock_init(&map->lock, LOCK_EXTENTS); }
static void map_lock_destroy(struct extmap *map) { lock_destroy(&map->lock); }
static void map_lock(struct extmap *map) { lock_take(&map->lock); }
static void map_unlock(struct extmap *map) { lock_release(&map->lock); }
static void map_assert_locked(const struct extmap *map) { lock_assert_held(&map->lock); }
static inline uint64_t word_load(const extmap_word *w)
{
    return atomic_load_explicit(w, memory_order_acquire);
}
static inline void word_store(extmap_word *w, uint64_t v)
{
    atomic_store_explicit(w, v, memory_order_release);
}
static inline uint64_t word_add(extmap_word *w, uint64_t v)
{
    return atomic_fetch_add_explicit(w, v, memory_order_acq_rel);
}
static inline bool word_swap(extmap_word *w, uint64_t *expected, uint64_t v)
{
    return atomic_compare_exchange_weak_explicit(w, expected, v, memory_order_acq_rel,
                                                 memory_order_acquire);
}
#endif

/* ---- words ---- */

static inline uint32_t word_pins(uint64_t w) { return (uint32_t)(w & PINS_MASK); }
static inline uint32_t word_buffer(uint64_t w) { return (uint32_t)(w >> BUFFER_SHIFT & 0xFFFF); }
static inline enum extmap_state word_state(uint64_t w)
{
    return (enum extmap_state)(w >> STATE_SHIFT & 3);
}
static inline uint64_t word_generation(uint64_t w) { return w >> GENERATION_SHIFT; }

static inline bool state_has_buffer(enum extmap_state s)
{
    return s == EXTMAP_DELAYED || s == EXTMAP_CLEAN;
}

static inline uint64_t word_make(enum extmap_state state, uint32_t buffer, uint32_t pins,
                                 uint64_t generation)
{
    return (generation & GENERATION_MASK) << GENERATION_SHIFT | (uint64_t)state << STATE_SHIFT |
           (uint64_t)buffer << BUFFER_SHIFT | (uint64_t)pins << PINS_SHIFT;
}

uint64_t extmap_written_word(void)
{
    return word_make(EXTMAP_WRITTEN, 0, 0, 1);
}

uint64_t extmap_delayed_word(uint32_t buffer)
{
    ASSERT(buffer < EXTMAP_MAX_BUFFERS);
    return word_make(EXTMAP_DELAYED, buffer, 0, 1);
}

struct extmap_range extmap_of_word(uint64_t w)
{
    return (struct extmap_range){
        .state = word_state(w),
        .buffer = state_has_buffer(word_state(w)) ? word_buffer(w) : EXTMAP_NO_BUFFER,
        .pins = word_pins(w),
        .generation = (uint32_t)word_generation(w),
    };
}

static extmap_word *map_word(const struct extmap *map, uint64_t range)
{
    ASSERT(range < map->range_count);
    return &map->words[range];
}

/* Notes a use. The buffer used last by anyone isn't counted again: a hot one costs two reads. */
static inline void buffer_touch(struct extmap *map, uint32_t buffer)
{
    extmap_word *touched = &map->buffers[buffer].touched;
    if (word_load(touched) != word_load(&map->clock))
        word_store(touched, word_add(&map->clock, 1) + 1);
}

/* ---- setup ---- */

/* Whether a word from another life can be true. */
static bool word_is_sound(uint64_t w, uint32_t buffer_count)
{
    if (state_has_buffer(word_state(w)))
        return word_buffer(w) < buffer_count;
    return word_buffer(w) == 0;
}

/* Fills the table of buffers and the counts from the words. */
static int map_derive(struct extmap *map)
{
    for (uint64_t r = 0; r < map->range_count; r++) {
        uint64_t w = word_load(&map->words[r]);
        if (!word_is_sound(w, map->buffer_count))
            return -EINVAL;
        map->stats.ranges[word_state(w)]++;
        if (!state_has_buffer(word_state(w)))
            continue;
        struct buffer *b = &map->buffers[word_buffer(w)];
        if (b->range != RANGE_NONE)
            return -EINVAL;
        b->range = r;
    }
    return 0;
}

int extmap_attach(const struct extmap_options *options, struct extmap **out)
{
    const struct extmap_options *o = options;
    if (!o->words || o->range_count == 0 || o->range_count > EXTMAP_MAX_RANGES ||
        o->buffer_count == 0 || o->buffer_count > EXTMAP_MAX_BUFFERS)
        return -EINVAL;
    struct extmap *map = aligned_alloc(CACHE_LINE_BYTES, sizeof(*map));
    struct buffer *buffers =
        aligned_alloc(CACHE_LINE_BYTES, o->buffer_count * sizeof(struct buffer));
    if (!map || !buffers) {
        free(map);
        free(buffers);
        return -ENOMEM;
    }
    memset(map, 0, sizeof(*map));
    memset(buffers, 0, o->buffer_count * sizeof(struct buffer));
    map->words = o->words;
    map->range_count = o->range_count;
    map->buffer_count = o->buffer_count;
    map->buffers = buffers;
    for (uint32_t b = 0; b < o->buffer_count; b++)
        buffers[b].range = RANGE_NONE;
    word_store(&map->clock, 1); /* none is the one used last: all were used at 0 */
    if (map_derive(map) != 0) {
        free(buffers);
        free(map);
        return -EINVAL;
    }
    for (uint64_t r = 0; r < map->range_count; r++)
        word_store(&map->words[r], word_load(&map->words[r]) & ~PINS_MASK);
    map_lock_init(map);
    *out = map;
    return 0;
}

int extmap_create(const struct extmap_options *options, struct extmap **out)
{
    if (!options->words || options->range_count > EXTMAP_MAX_RANGES)
        return -EINVAL;
    for (uint64_t r = 0; r < options->range_count; r++)
        word_store(&options->words[r], 0);
    return extmap_attach(options, out);
}

void extmap_destroy(struct extmap *map)
{
    if (!map)
        return;
    map_lock_destroy(map);
    free(map->buffers);
    free(map);
}

/* ---- pins ---- */

int extmap_pin(struct extmap *map, uint64_t range, uint32_t *buffer)
{
    extmap_word *word = map_word(map, range);
    uint64_t w = word_load(word);
    do {
        if (!state_has_buffer(word_state(w)))
            return -ENOENT;
        if (word_pins(w) == EXTMAP_MAX_PINS)
            return -EAGAIN;
    } while (!word_swap(word, &w, w + PIN_ONE));
    *buffer = word_buffer(w);
    buffer_touch(map, *buffer);
    return 0;
}

void extmap_unpin(struct extmap *map, uint64_t range)
{
    uint64_t w = word_add(map_word(map, range), -PIN_ONE);
    ASSERT(word_pins(w) > 0 && state_has_buffer(word_state(w)));
}

/* ---- transitions ---- */

/* Moves the range to the state, with the lock held. From a state with a
 * buffer to one without: only if nobody has it pinned. Stores the buffer that it gives up.
 * -EBUSY: pinned. */
static int move_range(struct extmap *map, uint64_t range, enum extmap_state to, uint32_t *buffer)
{
    map_assert_locked(map);
    extmap_word *word = map_word(map, range);
    uint64_t w = word_load(word), next;
    do {
        if (state_has_buffer(to)) {
            next = word_make(to, word_buffer(w), word_pins(w), word_generation(w));
        } else if (word_pins(w) > 0) {
            return -EBUSY;
        } else {
            next = word_make(to, 0, 0, word_generation(w));
        }
    } while (!word_swap(word, &w, next));
    map->stats.ranges[word_state(w)]--;
    map->stats.ranges[to]++;
    uint32_t given_up = EXTMAP_NO_BUFFER;
    if (state_has_buffer(word_state(w)) && !state_has_buffer(to)) {
        given_up = word_buffer(w);
        ASSERT(map->buffers[given_up].range == range);
        map->buffers[given_up].range = RANGE_NONE;
    }
    if (buffer)
        *buffer = given_up;
    return 0;
}

void extmap_set_delayed(struct extmap *map, uint64_t range, uint32_t buffer)
{
    ASSERT(buffer < map->buffer_count);
    extmap_word *word = map_word(map, range);
    map_lock(map);
    uint64_t w = word_load(word);
    ASSERT(word_state(w) == EXTMAP_FREE && word_pins(w) == 0);
    ASSERT(map->buffers[buffer].range == RANGE_NONE);
    map->buffers[buffer].range = range;
    buffer_touch(map, buffer);
    /* Nobody pins a free range, so nobody else changes the word. */
    word_store(word, word_make(EXTMAP_DELAYED, buffer, 0, word_generation(w) + 1));
    map->stats.ranges[EXTMAP_FREE]--;
    map->stats.ranges[EXTMAP_DELAYED]++;
    map_unlock(map);
}

void extmap_set_clean(struct extmap *map, uint64_t range)
{
    map_lock(map);
    uint64_t w = word_load(map_word(map, range));
    ASSERT(word_state(w) == EXTMAP_DELAYED);
    buffer_touch(map, word_buffer(w));
    int rc = move_range(map, range, EXTMAP_CLEAN, NULL);
    ASSERT(rc == 0);
    map_unlock(map);
}

int extmap_set_free(struct extmap *map, uint64_t range, uint32_t *buffer)
{
    map_lock(map);
    ASSERT(word_state(word_load(map_word(map, range))) != EXTMAP_FREE);
    int rc = move_range(map, range, EXTMAP_FREE, buffer);
    map_unlock(map);
    return rc;
}

/* The clean buffer without pins that was used least recently; buffer_count if there is none. */
static uint32_t oldest_idle(const struct extmap *map)
{
    map_assert_locked(map);
    uint32_t oldest = map->buffer_count;
    uint64_t oldest_touched = UINT64_MAX;
    for (uint32_t b = 0; b < map->buffer_count; b++) {
        if (map->buffers[b].range == RANGE_NONE)
            continue;
        uint64_t w = word_load(&map->words[map->buffers[b].range]);
        uint64_t touched = word_load(&map->buffers[b].touched);
        if (word_state(w) != EXTMAP_CLEAN || word_pins(w) > 0 || touched >= oldest_touched)
            continue;
        oldest = b;
        oldest_touched = touched;
    }
    return oldest;
}

int extmap_shrink(struct extmap *map, uint32_t *buffer)
{
    uint32_t b;
    map_lock(map);
    /* A buffer that was pinned since it was chosen is pinned when it is looked at again, or was
     * used just now: either way another one is chosen. */
    while ((b = oldest_idle(map)) < map->buffer_count &&
           move_range(map, map->buffers[b].range, EXTMAP_WRITTEN, buffer) != 0)
        ;
    bool found = b < map->buffer_count;
    map->stats.shrinks += found;
    map->stats.shrink_fails += !found;
    map_unlock(map);
    return found ? 0 : -ENOENT;
}

/* ---- questions ---- */

struct extmap_range extmap_get(const struct extmap *map, uint64_t range)
{
    return extmap_of_word(word_load(map_word(map, range)));
}

int extmap_buffer_range(struct extmap *map, uint32_t buffer, uint64_t *range)
{
    ASSERT(buffer < map->buffer_count);
    map_lock(map);
    uint64_t r = map->buffers[buffer].range;
    map_unlock(map);
    if (r == RANGE_NONE)
        return -ENOENT;
    *range = r;
    return 0;
}

void extmap_stats(struct extmap *map, struct extmap_stats *stats)
{
    map_lock(map);
    *stats = map->stats;
    map_unlock(map);
}

void extmap_assert(struct extmap *map)
{
    map_lock(map);
    uint64_t ranges[EXTMAP_STATE_COUNT] = {0}, with_buffer = 0, held = 0, clock;
    for (uint64_t r = 0; r < map->range_count; r++) {
        uint64_t w = word_load(&map->words[r]);
        enum extmap_state state = word_state(w);
        ranges[state]++;
        ASSERT(word_is_sound(w, map->buffer_count));
        if (state_has_buffer(state)) {
            with_buffer++;
            ASSERT(map->buffers[word_buffer(w)].range == r);
        } else {
            ASSERT(word_pins(w) == 0);
        }
    }
    for (int s = 0; s < EXTMAP_STATE_COUNT; s++)
        ASSERT(ranges[s] == map->stats.ranges[s]);
    for (uint32_t b = 0; b < map->buffer_count; b++) {
        held += map->buffers[b].range != RANGE_NONE;
        uint64_t touched = word_load(&map->buffers[b].touched);
        clock = word_load(&map->clock); /* read second: it never goes back */
        ASSERT(touched <= clock);
    }
    ASSERT(held == with_buffer);
    map_unlock(map);
}
