/* items/worth.c: see items/worth.h. */
#include "items/worth.h"

/* Keys to remember, with this many objects on flash: at most a byte an object, at least half of one. */
static uint64_t ghost_keys(const struct cache *c, uint64_t objects)
{
    uint64_t limit = min_u64(objects, (uint64_t)c->config->maxbytes / WORTH_SHARE_OF_MEMORY);
    uint64_t keys = GHOST_BYTES_MIN / sizeof(uint16_t);
    while (2 * keys * sizeof(uint16_t) <= limit)
        keys *= 2;
    return keys;
}

/* Claims what an earlier process had, if it makes sense. */
static void claim_ghosts(struct cache *c)
{
    struct cache_root *root = c->root;
    uint64_t bytes = root->ghost_bytes - min_u64(root->ghost_bytes, sizeof(struct ghost_root));
    bool is_sane = bytes >= GHOST_BYTES_MIN && (bytes & (bytes - 1)) == 0 && bytes < c->config->maxbytes;
    if (!is_sane || arena_take(c->arena, ARENA_USE_INDEX, root->ghost_offset, root->ghost_bytes) != 0)
        root->ghost_bytes = 0;
}

void worth_open(struct cache *c, uint64_t flash_bytes)
{
    ASSERT(!atomic_load(&c->ghost_is_there) && c->config->ext_admission <= ADMISSION_LEARN);
    claim_ghosts(c);
    admission_init(&c->admission, (enum admission_mode)c->config->ext_admission, flash_bytes);
}

/* Memory for this many keys, that of an earlier process if it is no larger. NULL: none. */
static void *ghost_memory(struct cache *c, uint64_t keys)
{
    struct cache_root *root = c->root;
    uint64_t offset, bytes = ghost_memory_bytes(keys);
    bool zeroed;
    if (root->ghost_bytes != 0 && root->ghost_bytes <= bytes)
        return c->base + root->ghost_offset;
    uint64_t old_bytes = root->ghost_bytes;
    root->ghost_bytes = 0; /* before the memory goes: a kill may come between */
    if (old_bytes != 0)
        arena_free(c->arena, ARENA_USE_INDEX, root->ghost_offset, old_bytes);
    if (arena_alloc(c->arena, ARENA_USE_INDEX, bytes, ARENA_UNIT_BYTES, &offset, &zeroed) != 0)
        return NULL;
    if (!zeroed)
        memset(c->base + offset, 0, bytes);
    root->ghost_offset = offset;
    root->ghost_bytes = bytes;
    return c->base + offset;
}

/* Is half of flash in use, or must objects be worth a write for another reason? */
static bool must_know_keys(struct cache *c)
{
    uint64_t free = 0, total = 0;
    for (unsigned b = 0; b < EXT_BUCKET_COUNT; b++) {
        free += ext_pages_free(c->ext, (enum ext_bucket)b);
        total += ext_pages_total(c->ext, (enum ext_bucket)b);
    }
    return 2 * free <= total || ext_write_level(c->ext) < EXT_WRITE_LOW ||
           atomic_load_explicit(&c->index_crowded, memory_order_relaxed);
}

bool worth_begin_ghosts(struct cache *c)
{
    struct ext_info info;
    lock_assert_none_held();
    if (!c->ext || atomic_load_explicit(&c->ghost_is_there, memory_order_relaxed) || !must_know_keys(c))
        return false;
    ext_info(c->ext, &info);
    void *memory = ghost_memory(c, ghost_keys(c, info.objects_used));
    if (memory == NULL)
        return false;
    ghost_init(&c->ghost, memory, c->root->ghost_bytes, max_u64(info.limit_maxbytes, 1));
    atomic_store_explicit(&c->ghost_is_there, true, memory_order_release);
    return true;
}

static bool has_ghosts(const struct cache *c)
{
    return atomic_load_explicit(&c->ghost_is_there, memory_order_acquire);
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
    bool known = flags & ITEM_KNOWN || (has_ghosts(c) && ghost_has(&c->ghost, hash));
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
    if (has_ghosts(c))
        ghost_add(&c->ghost, hash, object_bytes);
}

void worth_hit(struct cache *c, const struct ext_record *r, bool first)
{
    unsigned class = (unsigned)r->item_flags >> ITEM_FLASH_CLASS_SHIFT;
    if (class < ADMISSION_CLASSES)
        admission_hit(&c->admission, class, ext_record_bytes(r->key_bytes, r->value_bytes), first);
}
