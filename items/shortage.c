/* items/shortage.c: see items/shortage.h. It owns nothing: whether memory is short is the arena's to say. */
#include "items/shortage.h"

#include "base/log.h"
#include "base/memory.h"
#include "items/life.h"
#include "items/room.h"

#define SPARE_SHARE 32 /* of what items and index have */
#define SPARE_BYTES_MIN (512 * KiB)
#define SPARE_BYTES_MAX (16 * MiB)
#define ROOM_SHARE 16 /* it is over when the system has this much more, */
#define ROOM_BYTES_MIN (2 * MiB)
#define QUIET_SEC 5 /* and told of when it doesn't come back within these */
#define GROUP_SHARE 32 /* of its limit a control group keeps this much for what is not the arena's, */
#define GROUP_BYTES_MIN (8 * MiB)
#define ITEMS_BYTES_MIN (4 * MiB) /* items and index may have this much, whatever the group leaves */
#define ITEMS_PER_STEP 512
#define ITEMS_PER_LOOK 16

static uint64_t spare_of(uint64_t had)
{
    return min_u64(max_u64(had / SPARE_SHARE, SPARE_BYTES_MIN), SPARE_BYTES_MAX);
}

uint64_t cache_memory_spare(const struct cache *c)
{
    if (!arena_is_short(c->arena))
        return 0;
    uint64_t had = arena_had_bytes(c->arena), index = arena_used_bytes(c->arena, ARENA_USE_INDEX);
    return min_u64(spare_of(had), (had - min_u64(had, index)) / 2); /* else no set would succeed where there is little */
}

bool shortage_is_pressing(const struct cache *c)
{
    return arena_is_short(c->arena) && arena_idle_bytes(c->arena) < cache_memory_spare(c);
}

bool shortage_will_end(const struct cache *c, const struct shortage *s)
{
    return arena_is_short(c->arena) && index_lacks_memory(c->index) && !s->is_stuck;
}

static void tell(struct cache *c, struct shortage *s, uint32_t now)
{
    bool is_short = arena_is_short(c->arena);
    uint64_t limit_mb = atomic_load_explicit(&c->config->maxbytes, memory_order_relaxed) / MiB;
    if (is_short)
        s->last_sec = now;
    if (is_short && !s->is_told) {
        log_warning("memory is short: %s has no room for more than %" PRIu64 " MB of items and index (-m %" PRIu64
                    "): items %s, so that the index can grow",
                    arena_is_capped(c->arena) ? "the control group" : "the file system of -e", arena_had_bytes(c->arena) / MiB, limit_mb,
                    c->ext ? "leave for flash" : "are evicted");
        cache_count(c, CACHE_N_memory_shortages, 1);
        s->is_told = true;
    } else if (!is_short && s->is_told && now - s->last_sec >= QUIET_SEC) {
        log_notice("memory is no longer short: items and index may have the %" PRIu64 " MB of -m again", limit_mb);
        s->is_told = false;
    }
}

/* Ends it if the system has room again, or if -m became so small that there is enough. */
static bool look_for_room(struct cache *c, struct shortage *s, uint32_t now)
{
    uint64_t had = arena_had_bytes(c->arena), spare = spare_of(had);
    ASSERT(spare >= SPARE_BYTES_MIN && spare <= SPARE_BYTES_MAX);
    if (now == s->sought_sec)
        return false;
    s->sought_sec = now;
    if (!arena_seek_room(c->arena, max_u64(had / ROOM_SHARE, ROOM_BYTES_MIN)) &&
        (c->config->maxbytes + spare > had || arena_idle_bytes(c->arena) < 2 * spare))
        return false;
    arena_end_shortage(c->arena);
    index_memory_came(c->index);
    return true;
}

/* The kernel would kill the process rather than refuse memory, so memory is refused shortly before. Returns how much too much is used.
 * Once a second: until the next time, no more than what was left is taken. */
static uint64_t keep_to_group(struct cache *c, struct shortage *s, uint32_t now)
{
    struct memory_cgroup group;
    if (s->ignores_group || now == s->group_sec)
        return 0;
    s->group_sec = now;
    memory_cgroup("", &group);
    if (group.left_bytes == UINT64_MAX)
        return arena_set_ceiling(c->arena, UINT64_MAX);
    /* In a file, memory is charged when it is reserved; else when it is first written to. */
    uint64_t has = c->config->has_memory_file ? arena_touched_bytes(c->arena) : arena_resident_bytes(c->arena);
    uint64_t reserve = max_u64(group.limit_bytes / GROUP_SHARE, GROUP_BYTES_MIN), ceiling = has + group.left_bytes;
    uint64_t least = arena_used_bytes(c->arena, ARENA_USE_META) + arena_used_bytes(c->arena, ARENA_USE_BUFFER) + ITEMS_BYTES_MIN;
    ASSERT(group.limit_bytes > 0 && has <= arena_reserve_bytes(c->arena));
    return arena_set_ceiling(c->arena, max_u64(ceiling - min_u64(ceiling, reserve), least));
}

/* Items leave until there is enough to spare. */
static bool make_spare(struct cache *c, struct shortage *s, uint64_t spare)
{
    lock_assert_none_held();
    s->is_stuck = false;
    if (arena_idle_bytes(c->arena) >= spare)
        return false;
    slab_give_back(c->slab);
    for (unsigned i = 0; i < ITEMS_PER_STEP; i++) {
        if (i % ITEMS_PER_LOOK == 0 && arena_idle_bytes(c->arena) >= spare)
            break;
        unsigned cls = room_fullest_class(c);
        enum room r = cls != 0 ? room_make(c, cls, ROOM_EVICT) : ROOM_NONE;
        s->is_stuck = r == ROOM_NONE;
        if (r != ROOM_MADE) /* only hiders, which are compared meanwhile, or none; or flash has to write first */
            break;
        cache_count(c, CACHE_N_memory_items_moved, 1);
    }
    slab_give_back(c->slab);
    return !s->is_stuck;
}

bool shortage_step(struct cache *c, struct shortage *s, uint32_t now)
{
    lock_assert_none_held();
    uint64_t excess = keep_to_group(c, s, now);
    tell(c, s, now);
    if (!arena_is_short(c->arena) || look_for_room(c, s, now))
        return false;
    uint64_t spare = cache_memory_spare(c);
    ASSERT(arena_is_short(c->arena) && excess <= arena_reserve_bytes(c->arena)); /* only this thread ends the shortage */
    arena_set_spare(c->arena, spare);
    bool did = make_spare(c, s, spare + excess);
    if (index_lacks_memory(c->index) && spare > 0 && arena_idle_bytes(c->arena) >= spare / 2)
        index_memory_came(c->index);
    return did;
}
