/* sim_tags.c: see sim_tags.h. */
#include "t/aid/sim_tags.h"

#include "base/hash.h"

#define TRIED 400000u
#define X_BITS 20 /* group and tag of an index of 512 KiB with tags of 16 bits */

struct tried {
    uint64_t same; /* what look-alikes have in common */
    uint32_t number;
};

static char names[SIM_TAGS_COUNT][16];
static bool made;

static void name_of(uint32_t number, char *name, size_t size)
{
    snprintf(name, size, "tag-%u", number);
}

static int by_same(const void *a, const void *b)
{
    const struct tried *x = a, *y = b;
    if (x->same != y->same)
        return x->same < y->same ? -1 : 1;
    return x->number < y->number ? -1 : 1;
}

static void make_names(void)
{
    struct tried *tried = malloc(TRIED * sizeof(*tried));
    ASSERT(tried != NULL);
    for (uint32_t i = 0; i < TRIED; i++) {
        char name[16];
        name_of(i, name, sizeof(name));
        uint64_t hash = hash_key(name, strlen(name), SIM_TAGS_HASH_SEED);
        tried[i] = (struct tried){hash >> 58 << X_BITS | (hash & ((UINT64_C(1) << X_BITS) - 1)), i};
    }
    qsort(tried, TRIED, sizeof(*tried), by_same);
    unsigned count = 0;
    for (uint32_t i = 0; i + 1 < TRIED && count < SIM_TAGS_COUNT; i++) {
        if (tried[i].same != tried[i + 1].same)
            continue;
        name_of(tried[i].number, names[count++], sizeof(names[0]));
        name_of(tried[++i].number, names[count++], sizeof(names[0]));
    }
    ASSERT(count == SIM_TAGS_COUNT);
    free(tried);
    made = true;
}

const char *sim_tags_key(unsigned i)
{
    ASSERT(i < SIM_TAGS_COUNT);
    if (!made)
        make_names();
    return names[i];
}
