/* Ghosts: keys are remembered for a window of bytes, forgotten after it, and rarely confused. */
#include <criterion/criterion.h>

#include "items/ghost.h"

#define KEYS 4096u
#define OBJECT 100u

static struct ghost g;
static void *memory;
static uint64_t memory_bytes;

static uint64_t hash_of(uint64_t i)
{
    i = (i + 1) * UINT64_C(0x9e3779b97f4a7c15);
    i ^= i >> 29;
    i *= UINT64_C(0xbf58476d1ce4e5b9);
    return i ^ i >> 32;
}

static void open_ghost(uint64_t keys, uint64_t window)
{
    memory_bytes = ghost_memory_bytes(keys);
    memory = calloc(1, memory_bytes);
    ghost_init(&g, memory, memory_bytes, window);
}

static void close_ghost(void) { free(memory); }

static uint64_t entries_used(void)
{
    uint64_t n = 0;
    for (uint64_t i = 0; i < g.sets * GHOST_WAYS; i++)
        n += atomic_load(&g.entries[i]) != 0;
    return n;
}

TestSuite(ghost, .fini = close_ghost);

Test(ghost, memory_is_two_bytes_a_key)
{
    open_ghost(KEYS, 1);
    cr_assert_eq(memory_bytes, 64 + 2 * KEYS);
    cr_assert_eq(ghost_memory_bytes(KEYS + 1), 64 + 4 * KEYS);
    cr_assert_eq(ghost_memory_bytes(0), 64 + 4096);
}

Test(ghost, knows_what_it_was_told)
{
    open_ghost(4 * KEYS, UINT64_C(10) * KEYS * OBJECT);
    for (uint64_t i = 0; i < KEYS; i++)
        ghost_add(&g, hash_of(i), OBJECT);
    unsigned lost = 0, wrong = 0;
    for (uint64_t i = 0; i < KEYS; i++)
        lost += !ghost_has(&g, hash_of(i));
    for (uint64_t i = KEYS; i < 101 * KEYS; i++)
        wrong += ghost_has(&g, hash_of(i));
    cr_assert_lt(lost, KEYS / 100); /* five in one set of four */
    cr_assert_lt(wrong, 100 * KEYS / 2000);
}

Test(ghost, a_key_twice_is_one_entry)
{
    open_ghost(KEYS, 1000 * OBJECT);
    ghost_add(&g, hash_of(1), OBJECT);
    ghost_add(&g, hash_of(1), OBJECT);
    cr_assert_eq(entries_used(), 1);
}

/* Known within the window, forgotten after it, and not known again when the age field wraps around. */
Test(ghost, forgets_after_the_window)
{
    open_ghost(4 * KEYS, KEYS * OBJECT);
    ghost_add(&g, hash_of(0), OBJECT);
    uint64_t others = 0;
    for (; others < KEYS - KEYS / 10; others++)
        ghost_add(&g, hash_of(1000000 + others % 50), OBJECT);
    cr_assert(ghost_has(&g, hash_of(0)));
    for (; others < KEYS + KEYS / 4; others++)
        ghost_add(&g, hash_of(1000000 + others % 50), OBJECT);
    for (; others < 5 * KEYS; others++) {
        cr_assert_not(ghost_has(&g, hash_of(0)), "after %" PRIu64, others);
        ghost_add(&g, hash_of(1000000 + others % 50), OBJECT);
    }
    cr_assert_leq(entries_used(), 50);
}

Test(ghost, an_object_as_large_as_the_window_ends_it)
{
    open_ghost(KEYS, 1000);
    ghost_add(&g, hash_of(0), 10);
    ghost_add(&g, hash_of(1), 1200);
    cr_assert_not(ghost_has(&g, hash_of(0)));
    cr_assert(ghost_has(&g, hash_of(1)));
}

Test(ghost, a_full_set_forgets_its_oldest)
{
    open_ghost(0, UINT64_C(8000) * OBJECT);
    for (uint64_t i = 0; i < 100000; i++)
        ghost_add(&g, hash_of(i), OBJECT);
    unsigned young = 0, old = 0;
    for (uint64_t i = 0; i < 1000; i++) {
        young += ghost_has(&g, hash_of(99000 + i));
        old += ghost_has(&g, hash_of(i));
    }
    cr_assert_gt(young, 800);
    cr_assert_lt(old, 20);
}

Test(ghost, the_next_process_knows_too)
{
    open_ghost(KEYS, 1000 * OBJECT);
    ghost_add(&g, hash_of(7), OBJECT);
    struct ghost next;
    ghost_init(&next, memory, memory_bytes, 1000 * OBJECT);
    cr_assert(ghost_has(&next, hash_of(7)));
    cr_assert_not(ghost_has(&next, hash_of(8)));
}
