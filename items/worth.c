/* items/worth.c: see items/worth.h. */
#include "items/worth.h"


#define GHOST_KEYS_MIN 2048u

static uint64_t ghost_keys(const struct cache *c, uint64_t flash_bytes)
{
    uint64_t bytes = min_u64(flash_bytes / WORTH_FLASH_BYTES_A_BYTE,
                             (uint64_t)c->config->maxbytes / WORTH_SHARE_OF_MEMORY);
    uint64_t keys = GHOST_KEYS_MIN;
    while (2 * keys * sizeof(uint16_t) <= bytes)
        keys *= 2;
    return keys;
}

/* Memory of the ghosts in the arena, NULL: none. */
static void *ghost_memory(struct cache *c, uint64_t bytes)
{
    struct cache_root *root = c->root;
    if (root->ghost_bytes == bytes &&
        arena_take(c->arena, ARENA_USE_INDEX, root->ghost_offset, bytes) == 0)
        return c->base + root->ghost_offset;
    uint64_t offset;
    bool zeroed;
    root->ghost_bytes = 0;
    if (arena_alloc(c->arena, ARENA_USE_INDEX, bytes, ARENA_UNIT_BYTES, &offset, &zeroed) != 0)
        return NULL;
    if (!zeroed)
        memset(c->base + offset, 0, bytes);
    root->ghost_offset = offset;
    root->ghost_bytes = bytes;
    return c->base + offset;
}

void worth_open(struct cache *c, uint64_t flash_bytes)
{
    uint64_t bytes = ghost_memory_bytes(ghost_keys(c, flash_bytes));
    ASSERT(c->ghost.entries == NULL && c->config->ext_admission <= ADMISSION_LEARN);
    void *memory = ghost_memory(c, bytes);
    if (memory != NULL)
        ghost_init(&c->ghost, memory, bytes, max_u64(flash_bytes, 1));
    admission_init(&c->admission, (enum admission_mode)c->config->ext_admission, flash_bytes);
}

void worth_index_full(struct cache *c)
{
    struct ext_info info;
    if (atomic_exchange_explicit(&c->index_crowded, true, memory_order_relaxed))
        return;
    ext_info(c->ext, &info);
    admission_set_period(&c->admission, info.bytes_used);
}

void worth_index_look(struct cache *c, uint64_t capacity)
{
    struct index_info info;
    struct ext_info ext;
    index_info(c->index, &info);
    if (info.ram_count + info.flash_count > capacity / 8 * 7)
        return;
    ext_info(c->ext, &ext);
    admission_set_period(&c->admission, ext.limit_maxbytes);
    atomic_store_explicit(&c->index_crowded, false, memory_order_relaxed);
}

unsigned worth_class(struct cache *c, const struct item *it, uint64_t hash)
{
    unsigned flags = item_flags(it);
    bool known = flags & ITEM_KNOWN || (c->ghost.entries != NULL && ghost_has(&c->ghost, hash));
    return admission_class(known, flags & ITEM_HIT_TWICE ? 2 : flags & ITEM_FETCHED ? 1 : 0);
}

/* Newcomers are dropped first, then all that were not hit twice. */
static bool is_within_limits(struct cache *c, unsigned class)
{
    ASSERT(class < ADMISSION_CLASSES);
    unsigned level = ext_write_level(c->ext);
    if (level >= EXT_WRITE_LOW)
        return true;
    bool twice = class % ADMISSION_RAM_HITS == ADMISSION_RAM_HITS - 1;
    return level >= EXT_WRITE_DIRE ? twice || class >= ADMISSION_RAM_HITS : level > 0 && twice;
}

static bool is_full(const struct cache *c)
{
    return ext_is_full(c->ext) || atomic_load_explicit(&c->index_crowded, memory_order_relaxed);
}

bool worth_all(const struct cache *c)
{
    return !is_full(c) && ext_write_level(c->ext) >= EXT_WRITE_LOW;
}

enum worth worth_of(struct cache *c, const struct item *it, uint64_t hash, uint32_t now, unsigned *class)
{
    lock_assert_held(index_lock(c->index, hash));
    ASSERT(c->ext != NULL && (item_flags(it) & ITEM_LINKED));
    unsigned flags = item_flags(it);
    *class = worth_class(c, it, hash);
    if (flags & ITEM_MAY_HIDE_FLASH)
        return WORTH_WRITE;
    uint64_t bytes = ext_record_bytes(it->key_bytes, it->value_bytes);
    admission_leaves(&c->admission, bytes);
    if (!is_within_limits(c, *class))
        return WORTH_TOO_MUCH;
    if (c->admission.mode == ADMISSION_ALL || !is_full(c))
        return WORTH_WRITE;
    uint32_t exptime = atomic_load_explicit(&it->exptime_sec, memory_order_relaxed);
    if (exptime != 0 && exptime <= now + ext_flush_sec(c->ext))
        return WORTH_TOO_SHORT;
    return admission_wants(&c->admission, hash, *class, bytes) ? WORTH_WRITE : WORTH_NOT;
}

void worth_left(struct cache *c, uint64_t hash, uint64_t object_bytes)
{
    if (c->ghost.entries != NULL)
        ghost_add(&c->ghost, hash, object_bytes);
}

void worth_hit(struct cache *c, const struct ext_record *r)
{
    unsigned class = (unsigned)r->item_flags >> ITEM_FLASH_CLASS_SHIFT;
    if (class < ADMISSION_CLASSES)
        admission_hit(&c->admission, class, ext_record_bytes(r->key_bytes, r->value_bytes));
}
