/* space/arena.c: owns the mapping, its header, the two bitmaps and the free set.
 *
 * Two bits a unit, both inside the mapping, both safe against a kill at any
 * instant because of the order in which they change:
 *  - used: set after the free set gave the unit away, cleared before it goes
 *    back. A kill in between leaves a unit marked that no module names, which
 *    arena_attach_done() frees.
 *  - touched: set before anybody may write to the unit, cleared after the
 *    kernel took the memory back. So a unit whose bit is clear reads as zeroes
 *    and costs nothing, and the number of set bits bounds RSS from above.
 *
 * Giving back. arena_free() gives back the chunks (64 KiB) of what it frees when idle memory (touched, not used) is above the
 * slack; not during a shortage: others could take it. No thread may allocate a unit while the kernel drops it, so the range is
 * taken from the free set first; if another thread was faster, its part of
 * the range is skipped. An allocation that comes meanwhile sees the range as
 * used: it gets a higher one.
 *
 * Shortage. When the system refuses memory for units that are not touched, as many idle ones are given back elsewhere
 * and it is asked again; only if that is no help, the allocation fails and the shortage begins (is_short). From then
 * on items get memory only while idle memory is above the spare, which is left to the index. arena_seek_room() ends it.
 *
 * Locks: none of its own; the free set has one inside, the bitmaps are atomic.
 */
#include "space/arena.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/file.h"
#include "base/why.h"
#include "space/extents.h"

#define ARENA_MAGIC "extArena"
#define ARENA_FORMAT 2u /* of the header and the maps */
#define BOOT_ID_FILE "/proc/sys/kernel/random/boot_id"
#define HUGE_BYTES (2 * MiB)
#define RESERVE_BYTES_MAX (UINT64_C(1) << 46)
#define CHUNK_BYTES (64 * KiB) /* the least that is given back */
#define SLACK_BYTES_MIN (1 * MiB)
#define SLACK_BYTES_MAX (16 * MiB)
#define SLACK_SHARE 32 /* of what is used */

enum header_state {
    STATE_NONE = 0, /* being made: zeroes until everything else is there */
    STATE_LIVE = 1,
    STATE_DISCARDED = 2,
};

struct arena_header {
    char magic[8];
    uint32_t format; /* of what the modules keep */
    _Atomic(uint32_t) state; /* enum header_state; written last */
    uint64_t layout_id;
    uint64_t reserve_bytes;
    uint64_t reserved;
    char boot_id[48]; /* of the kernel, with NULs up to its end */
    uint32_t reserved_too;
    uint32_t geometry_bytes;
    uint8_t geometry[ARENA_GEOMETRY_BYTES_MAX];
};
static_assert(offsetof(struct arena_header, state) == 12, "header layout");
static_assert(offsetof(struct arena_header, reserve_bytes) == 24, "header layout");
static_assert(offsetof(struct arena_header, boot_id) == 40, "header layout");
static_assert(offsetof(struct arena_header, geometry) == 96, "header layout");
static_assert(sizeof(struct arena_header) == 352, "header layout");

#define HEADER_BYTES ((uint64_t)4096)
static_assert(HEADER_BYTES + ARENA_ROOT_COUNT * ARENA_ROOT_MODULE_BYTES <= ARENA_ROOT_BYTES,
              "roots fit into the root block");

typedef _Atomic(uint64_t) map_word;

struct arena {
    /* const after creation */
    char *base;
    uint64_t reserve_bytes;
    uint64_t meta_bytes;  /* header, roots and bitmaps */
    int fd;               /* -1: anonymous */
    bool locked;
    bool found_content; /* of an earlier process, in the file */
    struct arena_header *header;
    struct extents *set;
    map_word *used_map, *touched_map; /* in the mapping */
    map_word *unclaimed_map;          /* private copy of used_map after an attach, else NULL */
    uint64_t unclaimed_map_bytes;
    /* atomic */
    _Atomic(bool) attaching;
    _Atomic(bool) can_reserve, can_give_back; /* false once the file system said it can't */
    _Atomic(uint64_t) use_bytes[ARENA_USE_COUNT];
    _Atomic(uint64_t) used_bytes, touched_bytes, unclaimed_bytes;
    _Atomic(uint64_t) ceiling_bytes; /* touched memory never exceeds this */
    /* of a shortage */
    _Atomic(bool) is_short, is_capped; /* capped: it was the ceiling that refused */
    _Atomic(uint64_t) had_bytes;  /* touched when memory was last refused */
    _Atomic(uint64_t) spare_bytes; /* idle memory that items leave to others */
    _Atomic(uint64_t) refusals;
};

/* ---- bitmaps ------------------------------------------------------------------------ */

/* The bits first .. end - 1 that are in first's word: their mask, and in *count how many. */
static uint64_t word_mask(uint64_t first, uint64_t end, uint64_t *count)
{
    DEBUG_ASSERT(first < end);
    unsigned low = (unsigned)(first % 64);
    *count = min_u64(64 - low, end - first);
    return (~UINT64_C(0) >> (64 - *count)) << low;
}

/* Sets bits; returns how many were clear. */
static uint64_t map_set(map_word *map, uint64_t first, uint64_t end)
{
    uint64_t changed = 0, count;
    for (uint64_t i = first; i < end; i += count) {
        uint64_t mask = word_mask(i, end, &count);
        uint64_t old = atomic_fetch_or(&map[i / 64], mask);
        changed += (uint64_t)__builtin_popcountll(mask & ~old);
    }
    return changed;
}

/* Clears bits; returns how many were set. */
static uint64_t map_clear(map_word *map, uint64_t first, uint64_t end)
{
    uint64_t changed = 0, count;
    for (uint64_t i = first; i < end; i += count) {
        uint64_t mask = word_mask(i, end, &count);
        uint64_t old = atomic_fetch_and(&map[i / 64], ~mask);
        changed += (uint64_t)__builtin_popcountll(mask & old);
    }
    return changed;
}

static bool map_any(map_word *map, uint64_t first, uint64_t end)
{
    uint64_t count;
    for (uint64_t i = first; i < end; i += count) {
        uint64_t mask = word_mask(i, end, &count);
        if (atomic_load(&map[i / 64]) & mask)
            return true;
    }
    return false;
}

static bool map_all(map_word *map, uint64_t first, uint64_t end)
{
    uint64_t count;
    for (uint64_t i = first; i < end; i += count) {
        uint64_t mask = word_mask(i, end, &count);
        if (~atomic_load(&map[i / 64]) & mask)
            return false;
    }
    return true;
}

/* The next run of set bits at or after *first and before end; false if there is none. */
static bool map_next_run(map_word *map, uint64_t end, uint64_t *first, uint64_t *run_end)
{
    uint64_t i = *first;
    while (i < end) {
        uint64_t word = atomic_load(&map[i / 64]) >> (i % 64);
        if (word != 0) {
            i += (uint64_t)__builtin_ctzll(word);
            break;
        }
        i = round_down(i, 64) + 64;
    }
    if (i >= end)
        return false;
    *first = i++; /* it was seen set: others may clear it by now, where the map is in use */
    while (i < end) {
        uint64_t word = ~atomic_load(&map[i / 64]) >> (i % 64);
        if (word != 0) {
            i += (uint64_t)__builtin_ctzll(word);
            break;
        }
        i = round_down(i, 64) + 64;
    }
    *run_end = min_u64(i, end);
    ASSERT(*first < *run_end);
    return true;
}

static uint64_t map_bytes_of(uint64_t reserve_bytes)
{
    return round_up(reserve_bytes / ARENA_UNIT_BYTES / 8 + 1, ARENA_UNIT_BYTES);
}

static uint64_t meta_bytes_of(uint64_t reserve_bytes)
{
    return ARENA_ROOT_BYTES + 2 * map_bytes_of(reserve_bytes);
}

/* ---- the header --------------------------------------------------------------------- */

static uint64_t fnv1a(uint64_t hash, const void *data, size_t bytes)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ p[i]) * UINT64_C(1099511628211);
    return hash;
}

/* How the file is laid out for all modules; the version of the program plays no part. */
static uint64_t layout_id(void)
{
    const uint64_t sizes[] = {ARENA_FORMAT,     sizeof(struct arena_header), ARENA_UNIT_BYTES,
                              ARENA_ROOT_BYTES, ARENA_ROOT_MODULE_BYTES,     ARENA_ROOT_COUNT};
    return fnv1a(UINT64_C(14695981039346656037), sizes, sizeof(sizes));
}

/* Fills id (zeroed, of boot_id's size); "" if it can't be read: a service manager or a container may hide
 * /proc/sys (systemd's ProcSubset=pid does). */
static void read_boot_id(char *id, size_t id_bytes)
{
    memset(id, 0, id_bytes);
    int fd = open(BOOT_ID_FILE, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    ssize_t n = read(fd, id, id_bytes - 1);
    if (n < 0)
        memset(id, 0, id_bytes);
    close(fd);
    id[strcspn(id, "\n")] = '\0';
}

static void header_fill(struct arena_header *h, const struct arena_options *opt, uint64_t reserve)
{
    memset(h, 0, sizeof(*h));
    ASSERT(opt->geometry_bytes <= ARENA_GEOMETRY_BYTES_MAX && reserve % ARENA_UNIT_BYTES == 0);
    memcpy(h->magic, ARENA_MAGIC, sizeof(h->magic));
    h->format = opt->format;
    h->layout_id = layout_id();
    h->reserve_bytes = reserve;
    read_boot_id(h->boot_id, sizeof(h->boot_id));
    h->geometry_bytes = opt->geometry_bytes;
    if (opt->geometry_bytes > 0)
        memcpy(h->geometry, opt->geometry, opt->geometry_bytes);
}

static bool is_large_enough(const struct arena_header *found, const struct arena_header *wanted,
                            const struct arena_options *opt)
{
    if (found->reserve_bytes == wanted->reserve_bytes)
        return true;
    return opt->reserve_bytes_min > 0 && found->reserve_bytes >= opt->reserve_bytes_min &&
           found->reserve_bytes <= RESERVE_BYTES_MAX && found->reserve_bytes % CHUNK_BYTES == 0;
}

/* Do files of this file system end with the kernel? */
static bool ends_with_boot(int fd)
{
    struct statfs fs;
    return fstatfs(fd, &fs) == 0 &&
           (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC || fs.f_type == HUGETLBFS_MAGIC);
}

/* Why content of the file fd may be of an earlier boot; NULL if it can't. Where one of both ids is not known,
 * only a file that ends with the kernel is of this boot for certain. */
static const char *boot_misfit(int fd, const struct arena_header *found, const struct arena_header *wanted)
{
    bool is_known = wanted->boot_id[0] != '\0' && found->boot_id[0] != '\0';
    if (is_known)
        return memcmp(found->boot_id, wanted->boot_id, sizeof(found->boot_id)) == 0 ? NULL : "the machine was rebooted since";
    if (ends_with_boot(fd))
        return NULL;
    return "the machine may have been rebooted since (" BOOT_ID_FILE " can't be read, or could not when it was made)";
}

/* Why content with header `found` of the file fd can't be used where `wanted` is needed; NULL if it can. */
static const char *header_misfit(int fd, const struct arena_header *found, struct arena_header *wanted,
                                 const struct arena_options *opt)
{
    if (memcmp(found->magic, wanted->magic, sizeof(found->magic)) != 0)
        return "it is not a memory file";
    bool is_older = opt->format_oldest != 0 && found->format >= opt->format_oldest && found->format < wanted->format;
    if ((found->format != wanted->format && !is_older) || found->layout_id != wanted->layout_id)
        return "its format is not this build's";
    if (found->state == STATE_DISCARDED)
        return "it was given up on purpose";
    if (found->state != STATE_LIVE)
        return "its creation was interrupted";
    const char *other_boot = boot_misfit(fd, found, wanted);
    if (other_boot != NULL)
        return other_boot;
    if (!is_large_enough(found, wanted, opt))
        return "it was made for another -m";
    bool same = memcmp(found->geometry, wanted->geometry, sizeof(found->geometry)) == 0;
    if (found->geometry_bytes != wanted->geometry_bytes ||
        !(same || (opt->geometry_fits != NULL && opt->geometry_fits(found->geometry, wanted->geometry))))
        return "it was made with other settings";
    return NULL;
}

/* Writes zeroes, where a file system can't reserve: it says then that it is full. 0 or -errno. */
static int write_zeroes(int fd, uint64_t offset, uint64_t bytes)
{
    ASSERT(fd >= 0 && bytes > 0);
    static const char zeroes[16 * ARENA_UNIT_BYTES];
    while (bytes > 0) {
        ssize_t n = pwrite(fd, zeroes, min_u64(bytes, sizeof(zeroes)), (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -ENOSPC;
        offset += (uint64_t)n;
        bytes -= (uint64_t)n;
    }
    return 0;
}

/* ---- giving back -------------------------------------------------------------------- */

/* Asks the kernel to drop a range whose units nobody may use; true iff it is zeroes now. */
static bool drop_pages(struct arena *a, uint64_t offset, uint64_t bytes)
{
    ASSERT(bytes > 0 && offset >= a->meta_bytes && offset + bytes <= a->reserve_bytes);
    if (a->fd >= 0)
        return fallocate(a->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                         (off_t)bytes) == 0;
    return madvise(a->base + offset, bytes, a->locked ? MADV_DONTNEED_LOCKED : MADV_DONTNEED) == 0;
}

/* Gives units first .. end - 1 (whole chunks) back unless somebody has allocated there. */
static void give_back_chunks(struct arena *a, uint64_t first, uint64_t end)
{
    uint64_t chunk_units = CHUNK_BYTES / ARENA_UNIT_BYTES;
    ASSERT(first < end && first % chunk_units == 0 && end % chunk_units == 0);
    if (extents_take(a->set, first, end - first) != 0) {
        uint64_t chunks = (end - first) / chunk_units;
        if (chunks > 1) {
            uint64_t middle = first + chunks / 2 * chunk_units;
            give_back_chunks(a, first, middle);
            give_back_chunks(a, middle, end);
        }
        return;
    }
    if (drop_pages(a, first * ARENA_UNIT_BYTES, (end - first) * ARENA_UNIT_BYTES)) {
        uint64_t cleared = map_clear(a->touched_map, first, end) * ARENA_UNIT_BYTES;
        uint64_t before = atomic_fetch_sub(&a->touched_bytes, cleared);
        ASSERT(before >= cleared);
    } else {
        atomic_store(&a->can_give_back, false);
    }
    extents_free(a->set, first, end - first);
}

/* Gives back the free, touched chunks of a range of units. */
static void give_back(struct arena *a, uint64_t first, uint64_t end)
{
    uint64_t chunk_units = CHUNK_BYTES / ARENA_UNIT_BYTES;
    uint64_t from = round_down(first, chunk_units), to = round_up(end, chunk_units);
    uint64_t run = from;
    for (uint64_t c = from; c < to; c += chunk_units) {
        bool idle = !map_any(a->used_map, c, c + chunk_units) &&
                    map_any(a->touched_map, c, c + chunk_units);
        if (idle)
            continue;
        if (run < c)
            give_back_chunks(a, run, c);
        run = c + chunk_units;
    }
    if (run < to)
        give_back_chunks(a, run, to);
}

static bool idle_above_slack(const struct arena *a)
{
    if (atomic_load_explicit(&a->is_short, memory_order_relaxed))
        return false;
    uint64_t used = atomic_load_explicit(&a->used_bytes, memory_order_relaxed);
    uint64_t touched = atomic_load_explicit(&a->touched_bytes, memory_order_relaxed);
    uint64_t slack = min_u64(max_u64(used / SLACK_SHARE, SLACK_BYTES_MIN), SLACK_BYTES_MAX);
    return touched > used + slack;
}

/* ---- allocation --------------------------------------------------------------------- */

/* Of units first .. end - 1, which were not in use just now, those that are free are given back. Returns their bytes. */
static uint64_t give_back_units(struct arena *a, uint64_t first, uint64_t end)
{
    ASSERT(first < end);
    if (extents_take(a->set, first, end - first) != 0) {
        uint64_t middle = first + (end - first) / 2;
        if (end - first == 1)
            return 0;
        return give_back_units(a, first, middle) + give_back_units(a, middle, end);
    }
    uint64_t cleared = 0;
    if (drop_pages(a, first * ARENA_UNIT_BYTES, (end - first) * ARENA_UNIT_BYTES)) {
        cleared = map_clear(a->touched_map, first, end) * ARENA_UNIT_BYTES;
        uint64_t before = atomic_fetch_sub(&a->touched_bytes, cleared);
        ASSERT(before >= cleared);
    }
    extents_free(a->set, first, end - first);
    return cleared;
}

/* Gives back idle units until they are this many bytes. False: they are not. */
static bool give_back_idle(struct arena *a, uint64_t bytes)
{
    uint64_t units = a->reserve_bytes / ARENA_UNIT_BYTES, first = a->meta_bytes / ARENA_UNIT_BYTES, end;
    uint64_t touched = arena_touched_bytes(a), met = a->meta_bytes, given = 0;
    ASSERT(bytes > 0 && first < units);
    /* Not beyond the last touched unit: reading a hole of the bitmap would fill it. */
    while (given < bytes && met < touched && map_next_run(a->touched_map, units, &first, &end)) {
        met += (end - first) * ARENA_UNIT_BYTES;
        while (first < end && given < bytes) {
            uint64_t used = first, used_end = end;
            if (!map_next_run(a->used_map, end, &used, &used_end))
                used = used_end = end;
            if (first < used)
                given += give_back_units(a, first, min_u64(used, first + (bytes - given) / ARENA_UNIT_BYTES + 1));
            first = used_end;
        }
        first = end;
    }
    return given >= bytes;
}

/* Asks the file system for units first .. end - 1, which are the caller's. False: it has no room. */
static bool reserve_in_file(struct arena *a, uint64_t first, uint64_t end)
{
    uint64_t offset = first * ARENA_UNIT_BYTES, bytes = (end - first) * ARENA_UNIT_BYTES;
    if (!atomic_load_explicit(&a->can_reserve, memory_order_relaxed))
        return write_zeroes(a->fd, offset, bytes) == 0;
    int rc;
    do {
        rc = fallocate(a->fd, 0, (off_t)offset, (off_t)bytes);
    } while (rc != 0 && errno == EINTR);
    if (rc == 0)
        return true;
    if (errno != EOPNOTSUPP && errno != ENOSYS)
        return false;
    atomic_store(&a->can_reserve, false);
    return write_zeroes(a->fd, offset, bytes) == 0;
}

/* Would it be so with this much more touched memory? */
static bool is_over_ceiling(const struct arena *a, uint64_t bytes)
{
    return arena_touched_bytes(a) + bytes > atomic_load_explicit(&a->ceiling_bytes, memory_order_relaxed);
}

/* Buffers and tables have bounds of their own, and without them nothing works. */
static bool is_bound_by_ceiling(enum arena_use use) { return use == ARENA_USE_SLAB || use == ARENA_USE_INDEX; }

/* Can there be memory for units first .. end - 1? In a file it is there then. */
static bool get_memory(struct arena *a, enum arena_use use, uint64_t first, uint64_t end)
{
    ASSERT(first < end);
    if (is_bound_by_ceiling(use) && is_over_ceiling(a, (end - first) * ARENA_UNIT_BYTES))
        return false;
    return a->fd < 0 || reserve_in_file(a, first, end);
}

static void refused(struct arena *a, uint64_t bytes)
{
    atomic_store(&a->is_capped, is_over_ceiling(a, bytes));
    atomic_store(&a->had_bytes, arena_touched_bytes(a));
    atomic_store(&a->is_short, true);
    atomic_fetch_add_explicit(&a->refusals, 1, memory_order_relaxed);
}

#define MEMORY_TRIES 3 /* others may take what was given back for this */

/* Makes units first .. end - 1, which are the caller's, usable. 0 or -ENOSPC. */
static int touch(struct arena *a, enum arena_use use, uint64_t first, uint64_t end, bool *zeroed)
{
    bool was_touched = map_any(a->touched_map, first, end);
    ASSERT(first < end && end <= a->reserve_bytes / ARENA_UNIT_BYTES);
    if (zeroed != NULL)
        *zeroed = !was_touched;
    /* Don't trust an existing file's claims if a wrong one would crash us: that
     * memory is zero, or that the file system has room for it. */
    if (a->found_content && zeroed != NULL)
        *zeroed = false;
    if (was_touched && !a->found_content && map_all(a->touched_map, first, end))
        return 0;
    bool got = get_memory(a, use, first, end);
    for (unsigned i = 0; !got && i < MEMORY_TRIES && give_back_idle(a, (end - first) * ARENA_UNIT_BYTES); i++)
        got = get_memory(a, use, first, end);
    if (!got) {
        refused(a, (end - first) * ARENA_UNIT_BYTES);
        return -ENOSPC;
    }
    uint64_t fresh = map_set(a->touched_map, first, end);
    atomic_fetch_add(&a->touched_bytes, fresh * ARENA_UNIT_BYTES);
    return 0;
}

/* Must items leave this much to others now? */
static bool is_kept_for_others(const struct arena *a, enum arena_use use, uint64_t bytes)
{
    uint64_t spare = atomic_load_explicit(&a->spare_bytes, memory_order_relaxed);
    return use == ARENA_USE_SLAB && arena_is_short(a) && spare > 0 && arena_idle_bytes(a) < bytes + spare;
}

int arena_alloc(struct arena *a, enum arena_use use, uint64_t bytes, uint64_t align,
                uint64_t *offset, bool *zeroed)
{
    ASSERT(use < ARENA_USE_COUNT && bytes > 0);
    ASSERT(align >= ARENA_UNIT_BYTES && (align & (align - 1)) == 0);
    if (bytes > a->reserve_bytes || is_kept_for_others(a, use, bytes))
        return -ENOSPC;
    uint64_t units = (bytes + ARENA_UNIT_BYTES - 1) / ARENA_UNIT_BYTES, first;
    int rc = extents_alloc(a->set, units, align / ARENA_UNIT_BYTES, &first);
    if (rc != 0)
        return -ENOSPC;
    ASSERT(first * ARENA_UNIT_BYTES >= a->meta_bytes && first * ARENA_UNIT_BYTES % align == 0);
    rc = touch(a, use, first, first + units, zeroed);
    if (rc != 0) {
        extents_free(a->set, first, units);
        return rc;
    }
    uint64_t marked = map_set(a->used_map, first, first + units);
    ASSERT(marked == units);
    atomic_fetch_add(&a->use_bytes[use], units * ARENA_UNIT_BYTES);
    atomic_fetch_add(&a->used_bytes, units * ARENA_UNIT_BYTES);
    *offset = first * ARENA_UNIT_BYTES;
    return 0;
}

void arena_free(struct arena *a, enum arena_use use, uint64_t offset, uint64_t bytes)
{
    ASSERT(use < ARENA_USE_COUNT && bytes > 0);
    ASSERT(offset % ARENA_UNIT_BYTES == 0 && offset >= a->meta_bytes);
    ASSERT(offset < a->reserve_bytes && bytes <= a->reserve_bytes - offset);
    uint64_t first = offset / ARENA_UNIT_BYTES;
    uint64_t end = first + (bytes + ARENA_UNIT_BYTES - 1) / ARENA_UNIT_BYTES;
    uint64_t freed = (end - first) * ARENA_UNIT_BYTES;
    uint64_t cleared = map_clear(a->used_map, first, end);
    ASSERT(cleared == end - first);
    extents_free(a->set, first, end - first);
    uint64_t before = atomic_fetch_sub(&a->use_bytes[use], freed);
    ASSERT(before >= freed);
    before = atomic_fetch_sub(&a->used_bytes, freed);
    ASSERT(before >= freed + a->meta_bytes);
    if (idle_above_slack(a) && atomic_load_explicit(&a->can_give_back, memory_order_relaxed))
        give_back(a, first, end);
}

/* ---- attach ------------------------------------------------------------------------- */

/* Moves units from unclaimed to claimed: all of them or none, and no unit twice. */
static int claim(struct arena *a, uint64_t first, uint64_t end)
{
    ASSERT(a->unclaimed_map != NULL);
    if (!map_all(a->used_map, first, end))
        return -EINVAL;
    uint64_t count;
    for (uint64_t i = first; i < end; i += count) {
        uint64_t mask = word_mask(i, end, &count);
        uint64_t old = atomic_fetch_and(&a->unclaimed_map[i / 64], ~mask);
        if ((old & mask) == mask)
            continue;
        atomic_fetch_or(&a->unclaimed_map[i / 64], old & mask);
        if (i > first)
            map_set(a->unclaimed_map, first, i);
        return -EBUSY;
    }
    return 0;
}

int arena_take(struct arena *a, enum arena_use use, uint64_t offset, uint64_t bytes)
{
    ASSERT(use < ARENA_USE_COUNT && atomic_load(&a->attaching));
    if (bytes == 0 || offset % ARENA_UNIT_BYTES != 0 || offset < a->meta_bytes ||
        offset >= a->reserve_bytes || bytes > a->reserve_bytes - offset)
        return -EINVAL;
    uint64_t first = offset / ARENA_UNIT_BYTES;
    uint64_t end = first + (bytes + ARENA_UNIT_BYTES - 1) / ARENA_UNIT_BYTES;
    uint64_t taken = (end - first) * ARENA_UNIT_BYTES;
    int rc = claim(a, first, end);
    if (rc != 0)
        return rc;
    uint64_t before = atomic_fetch_sub(&a->unclaimed_bytes, taken);
    ASSERT(before >= taken);
    atomic_fetch_add(&a->use_bytes[use], taken);
    return 0;
}

uint64_t arena_attach_done(struct arena *a)
{
    if (!atomic_exchange(&a->attaching, false))
        return 0;
    uint64_t freed_units = 0, first = 0, end;
    uint64_t units = a->reserve_bytes / ARENA_UNIT_BYTES;
    while (map_next_run(a->unclaimed_map, units, &first, &end)) {
        map_clear(a->used_map, first, end);
        extents_free(a->set, first, end - first);
        atomic_fetch_sub(&a->used_bytes, (end - first) * ARENA_UNIT_BYTES);
        atomic_fetch_sub(&a->unclaimed_bytes, (end - first) * ARENA_UNIT_BYTES);
        if (idle_above_slack(a) && atomic_load(&a->can_give_back))
            give_back(a, first, end);
        freed_units += end - first;
        first = end;
    }
    ASSERT(atomic_load(&a->unclaimed_bytes) == 0);
    return freed_units * ARENA_UNIT_BYTES;
}

/* Reads a bitmap of the file; not through the mapping, where reading a hole would fill it. */
static int read_map(const struct arena *a, const map_word *map, void *into, uint64_t bytes)
{
    ASSERT(a->fd >= 0 && (const char *)map >= a->base && (const char *)map + bytes <= a->base + a->meta_bytes);
    return file_read_all(a->fd, into, bytes, (uint64_t)((const char *)map - a->base));
}

/* Takes the units that the dead process used from the free set and counts them. 0 or -errno. */
static int adopt_used(struct arena *a)
{
    ASSERT(a->found_content && a->unclaimed_map == NULL && !atomic_load(&a->attaching));
    uint64_t bytes = map_bytes_of(a->reserve_bytes), units = a->reserve_bytes / ARENA_UNIT_BYTES;
    map_word *copy = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (copy == MAP_FAILED)
        return -ENOMEM;
    a->unclaimed_map = copy;
    a->unclaimed_map_bytes = bytes;

    int rc = read_map(a, a->touched_map, copy, bytes);
    if (rc != 0)
        return rc;
    uint64_t touched = 0, first = 0, end;
    while (map_next_run(copy, units, &first, &end)) {
        touched += end - first;
        first = end;
    }
    atomic_store(&a->touched_bytes, touched * ARENA_UNIT_BYTES);

    rc = read_map(a, a->used_map, copy, bytes);
    if (rc != 0)
        return rc;
    uint64_t meta_units = a->meta_bytes / ARENA_UNIT_BYTES, used = 0;
    map_clear(copy, 0, meta_units);
    first = meta_units;
    while (map_next_run(copy, units, &first, &end)) {
        rc = extents_take(a->set, first, end - first);
        if (rc != 0)
            return rc;
        used += end - first;
        first = end;
    }
    atomic_store(&a->unclaimed_bytes, used * ARENA_UNIT_BYTES);
    atomic_fetch_add(&a->used_bytes, used * ARENA_UNIT_BYTES);
    atomic_store(&a->attaching, true);
    return 0;
}

/* ---- creation ----------------------------------------------------------------------- */

#define OPEN_TRIES 8 /* others may make and remove the file meanwhile */
#define TRUST_WORDS "-o trust_memory_file accepts it"

/* Opens the file, or makes it; a link is not followed, unless it is trusted. The descriptor,
 * or -errno. */
static int open_or_make(const struct arena_options *opt, bool *made)
{
    int flags = O_RDWR | O_CLOEXEC | (opt->trust_file ? 0 : O_NOFOLLOW), fd = -1;
    for (unsigned i = 0; fd < 0 && i < OPEN_TRIES; i++) {
        *made = false;
        fd = open(opt->file, flags);
        if (fd >= 0 || errno != ENOENT)
            break;
        *made = true;
        /* Without O_EXCL it may be made where a link points. */
        fd = open(opt->file, flags | O_CREAT | (opt->trust_file ? 0 : O_EXCL), 0600);
        if (fd < 0 && errno != EEXIST)
            break;
    }
    return fd < 0 ? -errno : fd;
}

/* Why others could have written the file's content; false: only this user could. */
static bool is_open_to_others(const struct stat *st, char *what, size_t n)
{
    if (st->st_uid != geteuid())
        snprintf(what, n, "it belongs to user %u", (unsigned)st->st_uid);
    else if ((st->st_mode & (S_IWGRP | S_IWOTH)) != 0)
        snprintf(what, n, "others may write to it (mode %04o)", (unsigned)(st->st_mode & 07777));
    else if (st->st_nlink > 1)
        snprintf(what, n, "it has another name (a hard link)");
    else
        return false;
    return true;
}

/* Opens and locks the file; the descriptor, or -errno with why. *made: it was not there. */
static int open_file(const struct arena_options *opt, bool *made, char *why, size_t why_bytes)
{
    const char *file = opt->file;
    char what[80];
    int fd = open_or_make(opt, made);
    if (fd < 0) {
        if (fd == -ELOOP && !opt->trust_file)
            return why_say(why, why_bytes, fd, "memory file %s: it is a symbolic link; " TRUST_WORDS, file);
        return why_say(why, why_bytes, fd, "memory file %s: %s", file, strerror(-fd));
    }
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    struct stat st;
    int rc = 0;
    if (fcntl(fd, F_OFD_SETLK, &lock) != 0) {
        rc = errno == EAGAIN || errno == EACCES ? -EBUSY : -errno;
        why_say(why, why_bytes, 0, "memory file %s: %s", file, rc == -EBUSY ? "another process uses it" : strerror(-rc));
    } else if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        rc = why_say(why, why_bytes, -EINVAL, "memory file %s: not a regular file", file);
    else if (!opt->trust_file && is_open_to_others(&st, what, sizeof(what)))
        rc = why_say(why, why_bytes, -EPERM, "memory file %s: %s; " TRUST_WORDS, file, what);
    if (rc == 0)
        return fd;
    close(fd);
    return rc;
}

/* Data that was never a memory file. Zeroes are what a creation leaves that was interrupted. */
static bool holds_foreign_data(int fd)
{
    static const struct arena_header zeroes;
    struct arena_header found = zeroes;
    ssize_t n = pread(fd, &found, sizeof(found), 0);
    return n != 0 && memcmp(found.magic, ARENA_MAGIC, sizeof(found.magic)) != 0 &&
           memcmp(&found, &zeroes, sizeof(found)) != 0;
}

/* Compares the open file with what is wanted. True iff it fits: *wanted then has the size of what is
 * there; else why[] is set. */
static bool file_fits(int fd, const struct arena_options *opt, struct arena_header *wanted, char *why,
                      size_t why_bytes)
{
    struct arena_header found;
    struct stat st;
    const char *misfit = NULL;
    if (fstat(fd, &st) != 0 || st.st_size == 0)
        misfit = "it has no bytes";
    else if (pread(fd, &found, sizeof(found), 0) != (ssize_t)sizeof(found))
        misfit = "it is not a memory file";
    else
        misfit = header_misfit(fd, &found, wanted, opt);
    if (misfit == NULL && (uint64_t)st.st_size != found.reserve_bytes)
        misfit = "it was cut off";
    if (misfit != NULL)
        return why_say(why, why_bytes, false, "memory file %s starts empty: %s", opt->file, misfit);
    wanted->reserve_bytes = found.reserve_bytes;
    return true;
}

bool arena_peek(const struct arena_options *opt, void *geometry)
{
    ASSERT(opt->file != NULL && opt->geometry_bytes <= ARENA_GEOMETRY_BYTES_MAX);
    struct arena_header wanted, found;
    char why[200];
    int fd = open(opt->file, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* it may be a pipe */
    if (fd < 0)
        return false;
    header_fill(&wanted, opt, round_up(opt->reserve_bytes, CHUNK_BYTES));
    bool fits = file_fits(fd, opt, &wanted, why, sizeof(why)) &&
                pread(fd, &found, sizeof(found), 0) == (ssize_t)sizeof(found);
    close(fd);
    if (fits)
        memcpy(geometry, found.geometry, opt->geometry_bytes);
    return fits;
}

/* Maps reserve_bytes at a multiple of 2 MiB. NULL with errno. */
static char *map_aligned(uint64_t reserve_bytes, int fd)
{
    uint64_t span = reserve_bytes + HUGE_BYTES;
    char *span_base = mmap(NULL, span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                           -1, 0);
    if (span_base == MAP_FAILED)
        return NULL;
    char *base = (char *)round_up((uint64_t)(uintptr_t)span_base, HUGE_BYTES);
    int flags = MAP_FIXED | MAP_NORESERVE | (fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS);
    if (mmap(base, reserve_bytes, PROT_READ | PROT_WRITE, flags, fd, 0) == MAP_FAILED) {
        int err = errno;
        munmap(span_base, span);
        errno = err;
        return NULL;
    }
    if (base > span_base)
        munmap(span_base, (size_t)(base - span_base));
    ASSERT((uintptr_t)base % HUGE_BYTES == 0 && base >= span_base);
    uint64_t tail = span - (uint64_t)(base - span_base) - reserve_bytes;
    if (tail > 0)
        munmap(base + reserve_bytes, tail);
    return base;
}

/* Makes the file empty and of the right length, with room for header and bitmaps. 0 or -errno. */
static int make_file(int fd, uint64_t reserve_bytes, uint64_t meta_bytes)
{
    if (ftruncate(fd, 0) != 0 || ftruncate(fd, (off_t)reserve_bytes) != 0)
        return -errno;
    if (fallocate(fd, 0, 0, (off_t)meta_bytes) == 0)
        return 0;
    return errno == EOPNOTSUPP || errno == ENOSYS ? write_zeroes(fd, 0, meta_bytes) : -errno;
}

/* A file that was just made, and is not going to be used, would be in the way: as one that holds nothing, or takes room. */
static void remove_made(const struct arena_options *opt, bool made)
{
    if (made && !opt->trust_file) /* else the name may be a link to it */
        unlink(opt->file);
}

static int create_in(struct arena *a, const struct arena_options *opt, bool *attached, char *why,
                     size_t why_bytes)
{
    struct arena_header wanted;
    header_fill(&wanted, opt, a->reserve_bytes);
    bool made = false;
    if (opt->file != NULL) {
        a->fd = open_file(opt, &made, why, why_bytes);
        if (a->fd < 0)
            return a->fd;
        if (!made && !opt->overwrite && holds_foreign_data(a->fd))
            return why_say(why, why_bytes, -EEXIST,
                           "memory file %s holds data that is not Extant's; -o ext_format=%s overwrites it, "
                           "and all that is in it is lost",
                           opt->file, opt->file);
        *attached = !made && file_fits(a->fd, opt, &wanted, why, why_bytes);
        a->reserve_bytes = wanted.reserve_bytes;
        a->meta_bytes = meta_bytes_of(a->reserve_bytes);
        int rc = *attached ? 0 : make_file(a->fd, a->reserve_bytes, a->meta_bytes);
        if (rc != 0) {
            remove_made(opt, made);
            return why_say(why, why_bytes, rc, "memory file %s: %s", opt->file, strerror(-rc));
        }
    }
    a->base = map_aligned(a->reserve_bytes, a->fd);
    if (a->base == NULL) {
        int rc = -errno;
        remove_made(opt, made);
        return rc;
    }
    madvise(a->base, a->reserve_bytes, MADV_NOHUGEPAGE);
    if (opt->lock_memory && mlock2(a->base, a->reserve_bytes, MLOCK_ONFAULT) != 0)
        snprintf(why, why_bytes, "memory is not locked: %s", strerror(errno));
    else
        a->locked = opt->lock_memory;

    uint64_t map_bytes = map_bytes_of(a->reserve_bytes);
    a->header = (struct arena_header *)a->base;
    a->used_map = (map_word *)(a->base + ARENA_ROOT_BYTES);
    a->touched_map = (map_word *)(a->base + ARENA_ROOT_BYTES + map_bytes);
    ASSERT(ARENA_ROOT_BYTES + 2 * map_bytes == a->meta_bytes && a->meta_bytes < a->reserve_bytes);
    struct extents_options eo = {.start_unit = 0,
                                 .unit_count = a->reserve_bytes / ARENA_UNIT_BYTES};
    int rc = extents_create(&eo, &a->set);
    if (rc != 0)
        return rc;
    uint64_t meta_units = a->meta_bytes / ARENA_UNIT_BYTES;
    rc = extents_take(a->set, 0, meta_units);
    if (rc != 0)
        return rc;
    atomic_store(&a->use_bytes[ARENA_USE_META], a->meta_bytes);
    atomic_store(&a->used_bytes, a->meta_bytes);
    a->found_content = *attached;
    if (*attached) {
        memcpy(a->header->geometry, wanted.geometry, sizeof(wanted.geometry));
        a->header->format = wanted.format; /* an older build must not take it back */
        return adopt_used(a);
    }
    map_set(a->used_map, 0, meta_units);
    map_set(a->touched_map, 0, meta_units);
    atomic_store(&a->touched_bytes, a->meta_bytes);
    memcpy(a->header, &wanted, sizeof(wanted));
    atomic_store(&a->header->state, STATE_LIVE);
    return 0;
}

struct arena *arena_create(const struct arena_options *opt, bool *attached, char *why,
                           size_t why_bytes)
{
    ASSERT(why_bytes > 0);
    *attached = false;
    why[0] = '\0';
    if (opt->reserve_bytes < ARENA_RESERVE_BYTES_MIN || opt->reserve_bytes > RESERVE_BYTES_MAX ||
        opt->geometry_bytes > ARENA_GEOMETRY_BYTES_MAX) {
        snprintf(why, why_bytes, "memory: bad size");
        errno = EINVAL;
        return NULL;
    }
    struct arena *a = calloc(1, sizeof(*a));
    if (a == NULL) {
        snprintf(why, why_bytes, "memory: %s", strerror(errno));
        return NULL;
    }
    a->fd = -1;
    a->reserve_bytes = round_up(opt->reserve_bytes, CHUNK_BYTES);
    a->meta_bytes = meta_bytes_of(a->reserve_bytes);
    atomic_store(&a->can_reserve, true);
    atomic_store(&a->can_give_back, true);
    atomic_store(&a->ceiling_bytes, UINT64_MAX);
    int rc = create_in(a, opt, attached, why, why_bytes);
    if (rc != 0) {
        if (why[0] == '\0')
            snprintf(why, why_bytes, "memory: %s (for %" PRIu64 " MB of address space)", strerror(-rc),
                     a->reserve_bytes / MiB);
        arena_destroy(a);
        *attached = false;
        errno = -rc;
        return NULL;
    }
    return a;
}

void arena_destroy(struct arena *a)
{
    if (a == NULL)
        return;
    extents_destroy(a->set);
    if (a->unclaimed_map != NULL)
        munmap(a->unclaimed_map, a->unclaimed_map_bytes);
    if (a->base != NULL)
        munmap(a->base, a->reserve_bytes);
    if (a->fd >= 0)
        close(a->fd);
    free(a);
}

void arena_discard(struct arena *a) { atomic_store(&a->header->state, STATE_DISCARDED); }

/* ---- questions ---------------------------------------------------------------------- */

char *arena_base(const struct arena *a) { return a->base; }

const void *arena_geometry(const struct arena *a)
{
    return a->header->geometry;
}

void *arena_root(const struct arena *a, enum arena_root_id id)
{
    ASSERT(id < ARENA_ROOT_COUNT);
    return a->base + HEADER_BYTES + (uint64_t)id * ARENA_ROOT_MODULE_BYTES;
}

uint64_t arena_used_bytes(const struct arena *a, enum arena_use use)
{
    ASSERT(use < ARENA_USE_COUNT);
    return atomic_load_explicit(&a->use_bytes[use], memory_order_relaxed);
}

uint64_t arena_touched_bytes(const struct arena *a)
{
    return atomic_load_explicit(&a->touched_bytes, memory_order_relaxed);
}

uint64_t arena_idle_bytes(const struct arena *a)
{
    uint64_t used = atomic_load_explicit(&a->used_bytes, memory_order_relaxed), touched = arena_touched_bytes(a);
    return touched - min_u64(touched, used);
}

/* ---- shortage ----------------------------------------------------------------------- */

bool arena_is_short(const struct arena *a) { return atomic_load_explicit(&a->is_short, memory_order_relaxed); }

uint64_t arena_had_bytes(const struct arena *a)
{
    uint64_t beside = arena_used_bytes(a, ARENA_USE_META) + arena_used_bytes(a, ARENA_USE_BUFFER);
    uint64_t had = atomic_load_explicit(&a->had_bytes, memory_order_relaxed);
    return had - min_u64(had, beside);
}

uint64_t arena_refusals(const struct arena *a) { return atomic_load_explicit(&a->refusals, memory_order_relaxed); }

void arena_set_spare(struct arena *a, uint64_t bytes)
{
    atomic_store_explicit(&a->spare_bytes, bytes, memory_order_relaxed);
}

bool arena_is_capped(const struct arena *a) { return atomic_load_explicit(&a->is_capped, memory_order_relaxed); }

uint64_t arena_set_ceiling(struct arena *a, uint64_t bytes)
{
    uint64_t touched = arena_touched_bytes(a);
    atomic_store_explicit(&a->ceiling_bytes, bytes, memory_order_relaxed);
    if (touched <= bytes)
        return 0;
    if (!arena_is_short(a))
        refused(a, 0);
    ASSERT(touched >= a->meta_bytes);
    if (arena_idle_bytes(a) > 0)
        give_back_idle(a, min_u64(arena_idle_bytes(a), touched - bytes));
    touched = arena_touched_bytes(a);
    if (touched < atomic_load(&a->had_bytes))
        atomic_store(&a->had_bytes, max_u64(touched, bytes));
    return touched - min_u64(touched, bytes);
}

bool arena_seek_room(struct arena *a, uint64_t bytes)
{
    uint64_t units = (bytes + ARENA_UNIT_BYTES - 1) / ARENA_UNIT_BYTES, first;
    struct statfs fs;
    ASSERT(bytes > 0);
    if (a->fd >= 0 && fstatfs(a->fd, &fs) == 0 && fs.f_blocks > 0 && (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize < bytes)
        return false;
    if (extents_alloc(a->set, units, 1, &first) != 0)
        return false;
    bool got = get_memory(a, ARENA_USE_SLAB, first, first + units); /* there may be a quota too */
    if (got && a->fd >= 0)
        got = drop_pages(a, first * ARENA_UNIT_BYTES, units * ARENA_UNIT_BYTES);
    uint64_t cleared = got && a->fd >= 0 ? map_clear(a->touched_map, first, first + units) * ARENA_UNIT_BYTES : 0;
    atomic_fetch_sub(&a->touched_bytes, cleared);
    extents_free(a->set, first, units);
    return got;
}

void arena_end_shortage(struct arena *a)
{
    arena_set_spare(a, 0);
    atomic_store(&a->is_short, false);
}

/* Bytes of some neighbouring units that are present; at most PROBE_UNITS. UINT64_MAX: not said. */
enum { PROBE_UNITS = 256, PROBES_MAX = 256 };
static uint64_t probe(const struct arena *a, int pagemap, uint64_t first, uint64_t end)
{
    uint64_t words[PROBE_UNITS], present = 0;
    ASSERT(first < end && end - first <= PROBE_UNITS);
    uint64_t at = ((uint64_t)(uintptr_t)a->base / ARENA_UNIT_BYTES + first) * sizeof(words[0]);
    size_t bytes = (size_t)(end - first) * sizeof(words[0]);
    if (pread(pagemap, words, bytes, (off_t)at) != (ssize_t)bytes)
        return UINT64_MAX;
    for (uint64_t i = 0; i < end - first; i++)
        present += words[i] >> 63; /* the kernel's "page present" */
    return present * ARENA_UNIT_BYTES;
}

uint64_t arena_resident_bytes(const struct arena *a)
{
    uint64_t touched = arena_touched_bytes(a), units = a->reserve_bytes / ARENA_UNIT_BYTES;
    uint64_t every = touched / ARENA_UNIT_BYTES / PROBE_UNITS / PROBES_MAX + 1;
    uint64_t runs = 0, met = 0, probed = 0, present = 0, first = 0, end;
    if (sysconf(_SC_PAGESIZE) != (long)ARENA_UNIT_BYTES)
        return touched;
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (pagemap < 0)
        return touched;
    /* Not beyond the last touched unit: reading a hole of the bitmap would fill it. */
    while (met < touched && map_next_run(a->touched_map, units, &first, &end)) {
        end = min_u64(end, first + PROBE_UNITS);
        met += (end - first) * ARENA_UNIT_BYTES;
        if (runs++ % every == 0) {
            uint64_t found = probe(a, pagemap, first, end);
            if (found == UINT64_MAX)
                break;
            present += found;
            probed += (end - first) * ARENA_UNIT_BYTES;
        }
        first = end;
    }
    close(pagemap);
    if (probed == 0)
        return touched;
    return (uint64_t)((double)present / (double)probed * (double)touched);
}

uint64_t arena_reserve_bytes(const struct arena *a) { return a->reserve_bytes; }

struct extents *arena_extents(struct arena *a) { return a->set; }
