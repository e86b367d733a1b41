/* restart/restart.c: see restart/restart.h. The sizes come first, then the parts in their order, then the
 * two ways to start. */
#include "restart/restart.h"

#include <limits.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/lock.h"
#include "base/why.h"
#include "items/upcalls.h"

#define ROOT_MAGIC UINT64_C(0x3174726174736572) /* "restart1" */
#define GEOMETRY_VERSION 1u
#define RESERVE_BYTES_FILE (8 * GiB)       /* least of a memory file, so that -m may grow; its maps take 1/16384 of it */
#define RESERVE_BYTES_ANONYMOUS (32 * GiB) /* costs nothing, and cache_memlimit may grow into it */
#define RESERVE_BYTES_SHIFT4 (64 * GiB)    /* up to here handles count 16 bytes */
#define RESERVE_BYTES_MAX (UINT64_C(1) << 45)
#define RUNS_BYTES (256 * MiB)  /* one run of each size */
#define REACH_BYTES_LEAST ((UINT64_C(1) << 40) - 1) /* of flash */
#define REACH_BYTES_MAX (UINT64_C(1) << 44) /* 16 TB */
#define INDEX_START_SHARE 4     /* of -m that hashpower may take at once */

/* What the content of a file depends on; geometry_fits() says how. */
struct geometry {
    uint32_t version;
    uint32_t item_header_bytes;
    uint64_t limit_bytes, item_max_bytes;
    double factor;
    uint32_t min_chunk_bytes, chunk_max_bytes;
    uint64_t slab_sizes_hash;
    uint32_t use_cas;
    uint32_t flash_files;
    uint64_t flash_bytes, flash_files_hash;
    uint64_t page_bytes, wbuf_bytes, buffer_bytes;
};
static_assert(sizeof(struct geometry) == 96, "no padding: bytes are compared");
static_assert(offsetof(struct geometry, factor) == 24 && offsetof(struct geometry, slab_sizes_hash) == 40,
              "RESTART_MEMORY_FORMAT");
static_assert(offsetof(struct geometry, flash_bytes) == 56 && offsetof(struct geometry, buffer_bytes) == 88,
              "RESTART_MEMORY_FORMAT");
static_assert(sizeof(struct geometry) <= ARENA_GEOMETRY_BYTES_MAX, "fits the header");

/* In the arena. */
struct restart_root {
    uint64_t magic; /* written last: all parts were complete */
    int64_t unix_epoch_sec, mono_epoch_sec;
    uint64_t check; /* of both: the times of all objects depend on them */
};
static_assert(sizeof(struct restart_root) <= ARENA_ROOT_MODULE_BYTES, "root fits");
static_assert(offsetof(struct restart_root, check) == 24, "RESTART_MEMORY_FORMAT");

enum outcome { OPENED, UNFIT, AGAIN, FAILED };

/* ---- sizes ---------------------------------------------------------------------------- */

static uint64_t flash_bytes(const struct ext_options *flash)
{
    ASSERT(flash->device_count <= EXT_DEVICES_MAX);
    uint64_t sum = 0;
    for (unsigned i = 0; i < flash->device_count; i++)
        sum += flash->devices[i].bytes;
    return sum;
}

/* Less address space than this can't hold what -m allows. */
static uint64_t reserve_bytes_needed(const struct restart_options *o)
{
    uint64_t limit = o->slab.limit_bytes;
    return limit + limit / 2 + 2 * o->flash.buffer_bytes + 2 * RUNS_BYTES;
}

/* What an earlier process left is taken over, if -m leaves a quarter for holes. With less, its memory may be so full that
 * this start finds no room for buffers. */
static uint64_t reserve_bytes_kept(const struct restart_options *o)
{
    uint64_t limit = o->slab.limit_bytes;
    return limit + limit / 4 + 2 * o->flash.buffer_bytes + RUNS_BYTES;
}

/* Room for cache_memlimit to grow, and for holes; a smaller handle shift if that leaves enough
 * room. */
static uint64_t reserve_bytes_wanted(const struct restart_options *o)
{
    uint64_t need = reserve_bytes_needed(o);
    uint64_t want = 4 * o->slab.limit_bytes + 2 * o->flash.buffer_bytes + 2 * RUNS_BYTES;
    want = max_u64(want, o->memory_file ? RESERVE_BYTES_FILE : RESERVE_BYTES_ANONYMOUS);
    if (want > RESERVE_BYTES_SHIFT4 && need <= RESERVE_BYTES_SHIFT4)
        want = RESERVE_BYTES_SHIFT4;
    ASSERT(want >= RESERVE_BYTES_FILE);
    return min_u64(want, RESERVE_BYTES_MAX);
}

static uint64_t hash_numbers(uint64_t hash, const uint64_t *v, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        hash = (hash ^ v[i]) * UINT64_C(0x9e3779b97f4a7c15);
        hash ^= hash >> 32;
    }
    return hash;
}

static struct geometry geometry_of(const struct restart_options *o)
{
    const struct ext_options *flash = &o->flash;
    struct geometry g = {
        .version = GEOMETRY_VERSION,
        .item_header_bytes = ITEM_HEADER_BYTES,
        .limit_bytes = o->slab.limit_bytes,
        .item_max_bytes = o->slab.item_max_bytes,
        .factor = o->slab.factor,
        .min_chunk_bytes = o->slab.min_chunk_bytes,
        .chunk_max_bytes = o->slab.chunk_max_bytes,
        .use_cas = o->config->use_cas,
        .flash_files = flash->device_count,
        .flash_bytes = flash_bytes(flash),
        .page_bytes = flash->page_bytes,
        .wbuf_bytes = flash->wbuf_bytes,
        .buffer_bytes = flash->buffer_bytes,
    };
    for (const uint32_t *size = o->slab.slab_sizes; size && *size != 0; size++)
        g.slab_sizes_hash = hash_numbers(g.slab_sizes_hash, (uint64_t[]){*size}, 1);
    /* The engine checks whether these are the same files. */
    for (unsigned i = 0; i < flash->device_count; i++)
        g.flash_files_hash = hash_numbers(
            g.flash_files_hash, (uint64_t[]){flash->devices[i].bytes, flash->devices[i].free_bucket}, 2);
    return g;
}

/* Items lie in memory by slab classes, so a file keeps the classes that it was made with. All others only bound what
 * is there (too_large() sees whether it is too much), or are for the engine to judge. */
static bool geometry_fits(const void *found, void *wanted)
{
    struct geometry was, is;
    memcpy(&was, found, sizeof(was));
    memcpy(&is, wanted, sizeof(is));
    if (was.version != is.version || was.item_header_bytes != is.item_header_bytes ||
        (was.slab_sizes_hash != 0 && was.slab_sizes_hash != is.slab_sizes_hash))
        return false;
    is.factor = was.factor;
    is.min_chunk_bytes = was.min_chunk_bytes;
    is.chunk_max_bytes = was.chunk_max_bytes;
    is.slab_sizes_hash = was.slab_sizes_hash;
    memcpy(wanted, &is, sizeof(is));
    return true;
}

/* ---- the parts ------------------------------------------------------------------------ */

/* FILE.meta is memcached's, so the items in FILE are memcached's too and of no use here. It is removed, so
 * that memcached doesn't take FILE for its own later. A file that can't be memcached's is refused as
 * memcached refuses it. 0 or -errno with why; *found: it was there. */
static int drop_memcached_meta(const struct restart_options *o, bool *found, char *why, size_t n)
{
    char path[PATH_MAX];
    *found = false;
    if (!o->memory_file || snprintf(path, sizeof(path), "%s.meta", o->memory_file) >= (int)sizeof(path))
        return 0;
    FILE *f = fopen(path, "r");
    if (!f)
        return 0;
    int first = fgetc(f);
    fclose(f);
    if (first != 'T')
        return why_say(why, n, -EINVAL, "[restart] Failed to read a tag from metadata file");
    unlink(path);
    *found = true;
    return 0;
}

/* *g becomes the geometry of these options, and has to outlive what is returned. */
static struct arena_options arena_options_of(const struct restart_options *o, struct geometry *g)
{
    *g = geometry_of(o);
    return (struct arena_options){
        .reserve_bytes = reserve_bytes_wanted(o),
        .reserve_bytes_min = reserve_bytes_kept(o),
        .file = o->memory_file,
        .trust_file = o->trust_memory_file,
        .overwrite = o->overwrite_memory_file,
        .format = RESTART_MEMORY_FORMAT,
        .format_oldest = RESTART_MEMORY_FORMAT_OLDEST,
        .geometry = g,
        .geometry_bytes = sizeof(*g),
        .geometry_fits = geometry_fits,
        .lock_memory = o->lock_memory,
    };
}

bool restart_found_sizes(const struct restart_options *o, struct restart_sizes *out)
{
    ASSERT(o->flash.device_count > 0);
    struct geometry wanted, found;
    struct arena_options opt = arena_options_of(o, &wanted);
    if (o->memory_file && arena_peek(&opt, &found)) {
        *out = (struct restart_sizes){found.page_bytes, found.wbuf_bytes};
        return found.page_bytes != 0; /* it had flash */
    }
    const struct persist_options po = {.mode = o->persist, .memory_file = o->memory_file, .flash = &o->flash};
    return persist_found_sizes(&po, &out->page_bytes, &out->wbuf_bytes);
}

/* 0 or -errno with why. *note: a remark for the operator although it worked, or "". */
static int open_arena(const struct restart_options *o, bool was_memcached, struct restart *r, char *note,
                      char *why, size_t n)
{
    ASSERT(r->arena == NULL);
    struct geometry g;
    struct arena_options opt = arena_options_of(o, &g);
    opt.overwrite |= was_memcached;
    for (;;) {
        r->arena = arena_create(&opt, &r->attached, note, RESTART_LINE_BYTES);
        if (r->arena)
            return 0;
        int rc = -errno;
        if ((rc != -ENOMEM && rc != -EFBIG) || opt.reserve_bytes / 2 < reserve_bytes_needed(o))
            return why_say(why, n, rc, "%s", note);
        opt.reserve_bytes /= 2; /* address space (ulimit -v, strict overcommit) or files' sizes (ulimit -f) are limited */
    }
}

static int make_slab(const struct restart_options *o, struct restart *r)
{
    struct slab_options opt = o->slab;
    ASSERT(r->arena != NULL && r->slab == NULL);
    opt.arena = r->arena;
    opt.attached = r->attached;
    if (r->attached) {
        struct geometry g;
        memcpy(&g, arena_geometry(r->arena), sizeof(g));
        r->keeps_classes = opt.factor != g.factor || opt.min_chunk_bytes != g.min_chunk_bytes ||
                           opt.chunk_max_bytes != g.chunk_max_bytes || (opt.slab_sizes && g.slab_sizes_hash == 0);
        opt.factor = g.factor;
        opt.min_chunk_bytes = g.min_chunk_bytes;
        opt.chunk_max_bytes = g.chunk_max_bytes;
        opt.slab_sizes = g.slab_sizes_hash != 0 ? opt.slab_sizes : NULL;
    }
    r->slab = slab_create(&opt);
    if (!r->slab)
        return -errno;
#ifdef EXTANT_DEBUG
    const char *claim = getenv("T_MEMD_INITIAL_MALLOC");
    if (claim)
        slab_claim_bytes(r->slab, strtoull(claim, NULL, 10));
#endif
    return 0;
}

/* What places are to reach. An index that outlives its process has room for twice the flash, and for 1 TB at least:
 * devices may be added. That costs a bit of the tags, and some where there is little flash. */
static uint64_t reach_bytes(const struct restart_options *o)
{
    uint64_t bytes = flash_bytes(&o->flash);
    if (o->index_reach_bytes != 0)
        return max_u64(bytes, o->index_reach_bytes);
    if (o->memory_file != NULL || (bytes > 0 && o->persist != PERSIST_OFF))
        bytes = max_u64(min_u64(2 * bytes, max_u64(bytes, REACH_BYTES_MAX)), REACH_BYTES_LEAST);
    return bytes;
}

static int make_index(const struct restart_options *o, struct restart *r, const struct persist *p)
{
    ASSERT(r->slab != NULL && r->index == NULL);
    struct index_geometry saved;
    uint64_t limit = o->slab.limit_bytes, reserve = arena_reserve_bytes(r->arena);
    unsigned shift = slab_handle_shift(r->slab);
    ASSERT((reserve - 1) >> shift <= UINT32_MAX); /* the last handle */
    struct index_options opt = {
        .arena = r->arena,
        .flash_bytes = reach_bytes(o),
        .limit_bytes = reserve / 2, /* without flash there can't be more items than -m holds */
        .handle_bits = 64 - (unsigned)__builtin_clzll((reserve - 1) >> shift),
        .attached = r->attached,
    };
    if (o->hashpower > 0)
        opt.initial_bytes = min_u64(sizeof(index_word) << o->hashpower, limit / INDEX_START_SHARE);
    if (o->flash.device_count > 0)
        opt.limit_bytes = cache_index_limit(limit);
    if (!r->attached && p && persist_index_geometry(p, &saved))
        opt.like = &saved;
    r->index = index_create(&opt);
    if (!r->index && opt.like && errno == EINVAL)
        return -EAGAIN;
    return r->index ? 0 : -errno;
}

static int make_cache(const struct restart_options *o, struct restart *r)
{
    ASSERT(r->index != NULL && r->cache == NULL);
    struct cache_options opt = {
        .config = o->config,
        .arena = r->arena,
        .slab = r->slab,
        .index = r->index,
        .attached = r->attached,
    };
    r->cache = cache_create(&opt);
    return r->cache ? 0 : -errno;
}

/* -EAGAIN: the content that restart/persist.h found can't be used; try again without. */
static int make_extstore(const struct restart_options *o, struct restart *r, struct persist *p,
                         char *why, size_t n)
{
    ASSERT(r->cache != NULL && r->ext == NULL && o->flash.device_count > 0);
    struct ext_options opt = o->flash;
    opt.arena = r->arena;
    opt.attached = r->attached;
    opt.callbacks = cache_ext_callbacks(r->cache);
    opt.place_limit = index_place_limit(r->index);
    int rc = r->attached ? 0 : persist_fill_options(p, &opt);
    if (rc != 0)
        return rc;
    r->ext = ext_create(&opt, o->tunables, why, n);
    if (!r->ext) {
        int err = errno;
        if (!r->attached && persist_is_overtaken(p))
            return -EAGAIN;
        if (opt.saved && err == ESTALE && persist_give_up(p, why))
            return -EAGAIN;
        return err == EAGAIN ? -ENOMEM : -err; /* no thread to be had: another try is no help */
    }
    cache_set_extstore(r->cache, r->ext);
    return 0;
}

static uint64_t epochs_check(const struct restart_root *root)
{
    const uint64_t epochs[2] = {(uint64_t)root->unix_epoch_sec, (uint64_t)root->mono_epoch_sec};
    return hash_numbers(ROOT_MAGIC, epochs, ARRAY_COUNT(epochs));
}

/* The clock goes on where the content's first process began it. 0 or -errno. */
static int continue_clock(struct restart *r)
{
    ASSERT(r->attached);
    const struct restart_root *root = arena_root(r->arena, ARENA_ROOT_RESTART);
    if (root->magic != ROOT_MAGIC)
        return -EUCLEAN;
    if (root->check != epochs_check(root))
        return -EBADMSG;
    return clock_setup_boot_epoch(root->unix_epoch_sec, root->mono_epoch_sec);
}

static void keep_clock(struct restart *r)
{
    ASSERT(!r->attached);
    struct restart_root *root = arena_root(r->arena, ARENA_ROOT_RESTART);
    root->unix_epoch_sec = clock_unix_epoch_sec();
    root->mono_epoch_sec = clock_mono_epoch_sec();
    root->check = epochs_check(root);
    atomic_thread_fence(memory_order_release);
    *(volatile uint64_t *)&root->magic = ROOT_MAGIC;
}

/* ---- the two ways --------------------------------------------------------------------- */

static enum outcome unfit(char *why, size_t n, const struct restart_options *o, const char *what)
{
    ASSERT(o->memory_file != NULL);
    return (enum outcome)why_say(why, n, UNFIT, "memory file %s starts empty: %s", o->memory_file, what);
}

/* If memory is short now, it would be short for an empty start too; all other errors are the
 * content's fault. */
static enum outcome part_failed(const struct restart_options *o, const struct restart *r, int rc,
                                const char *part, char *why, size_t n)
{
    ASSERT(rc < 0);
    char what[160];
    if (!r->attached || rc == -ENOMEM)
        return (enum outcome)why_say(why, n, FAILED, "%s: %s", part, strerror(-rc));
    why_say(what, sizeof(what), 0, "its %s can't be used (%s)", part, strerror(-rc));
    return unfit(why, n, o, what);
}

/* Does what was attached fit into this -m? Items move to flash, page by page, but the index doesn't shrink,
 * and without flash nothing does. NULL, or why not. */
static const char *too_large(const struct restart_options *o, const struct restart *r)
{
    ASSERT(r->attached);
    uint64_t limit = o->slab.limit_bytes;
    if (r->ext == NULL)
        return slab_taken_bytes(r->slab) > limit ? "its items are more than -m allows" : NULL;
    return arena_used_bytes(r->arena, ARENA_USE_INDEX) > cache_index_limit(limit)
               ? "its index is larger than -m allows"
               : NULL;
}

/* After the engine is created: takes over objects of an earlier process that -e does not hold. */
static int take_over(struct restart *r, struct persist *p, char *why, size_t n)
{
    ASSERT(p != NULL && r->ext != NULL);
    int rc = r->attached ? 0 : persist_take_over(p, r->index, r->cache, r->ext, why, n);
    return rc != 0 ? rc : persist_begin(p, r->cache, r->ext, r->attached, why, n);
}

/* Creates all parts over an existing arena. */
static enum outcome make_parts(const struct restart_options *o, struct restart *r,
                               struct persist *p, int *error, char *why, size_t n)
{
    ASSERT(r->arena != NULL);
    int rc;
    if (r->attached && (rc = continue_clock(r)) != 0)
        return unfit(why, n, o,
                     rc == -EUCLEAN ? "its making was interrupted" : "its clock can't go on");
    if (!r->attached && p)
        persist_set_clock(p);
    if ((rc = *error = make_slab(o, r)) != 0)
        return part_failed(o, r, rc, "item memory", why, n);
    if ((rc = *error = make_index(o, r, p)) == -EAGAIN &&
        persist_give_up(p, "its index has no room for the numbers of this much memory (-m)"))
        return AGAIN;
    if (rc != 0)
        return part_failed(o, r, rc, "index", why, n);
    if ((rc = *error = make_cache(o, r)) != 0)
        return part_failed(o, r, rc, "cache", why, n);
    if (p && (rc = *error = make_extstore(o, r, p, why, n)) != 0) {
        char what[RESTART_LINE_BYTES / 2];
        if (rc == -EAGAIN)
            return AGAIN;
        if (!r->attached || rc != -ESTALE)
            return FAILED;
        why_say(what, sizeof(what), 0, "%.*s", (int)sizeof(what) - 1, why);
        return unfit(why, n, o, what);
    }
    if (r->attached && (rc = *error = cache_attach(r->cache, &r->report)) != 0)
        return part_failed(o, r, rc, "items", why, n);
    if (r->attached && !p)
        ext_forget(r->arena);
    const char *excess = r->attached ? too_large(o, r) : NULL;
    if (excess != NULL)
        return unfit(why, n, o, excess);
    if (p && (rc = *error = take_over(r, p, why, n)) != 0)
        return rc == -EAGAIN ? AGAIN : FAILED;
    if (r->ext) /* as memcached does: all pages are in the pool from the start */
        slab_fill_pool(r->slab);
    if (r->attached)
        arena_attach_done(r->arena);
    else
        keep_clock(r);
    return OPENED;
}

static void tell(const struct restart_options *o, struct restart *r, const char *note)
{
    const struct attach_report *a = &r->report;
    char *line = r->line;
    size_t room = sizeof(r->line);
    if (r->attached)
        why_say(line, room, 0,
                "memory file %s: took over %" PRIu64 " items in memory and %" PRIu64
                " on flash in %" PRIu64 " ms; %" PRIu64 " had expired, %" PRIu64 " were damaged",
                o->memory_file, a->ram_items, a->flash_objects, a->micros / 1000, a->expired_items,
                a->dropped_items + a->dropped_objects);
    if (r->attached && a->gone_objects > 0)
        why_add(line, room, "; ", "%" PRIu64 " were on flash that is gone", a->gone_objects);
    if (r->attached && r->keeps_classes)
        why_add(line, room, "; ", "slab classes (-f, -n, slab_sizes, slab_chunk_max) stay as they were in it");
    if (r->ext && ext_attach_note(r->ext)[0])
        why_add(line, room, "; ", "flash: %s", ext_attach_note(r->ext));
    if (note[0])
        why_add(line, room, "; ", "%s", note);
    if (r->persist && persist_line(r->persist)[0])
        why_add(line, room, "; ", "%s", persist_line(r->persist));
}

/* Is there a checkpoint that could be taken over now, if these options had the sizes that it was made with? */
static bool has_other_sizes(const struct restart_options *o, const struct persist_options *po)
{
    uint64_t page_bytes, wbuf_bytes;
    return persist_found_sizes(po, &page_bytes, &wbuf_bytes) &&
           (page_bytes != o->flash.page_bytes || wbuf_bytes != o->flash.wbuf_bytes);
}

int restart_open(const struct restart_options *o, struct restart *r, char *why, size_t why_bytes)
{
    lock_assert_none_held();
    ASSERT(why_bytes > 0 && o->config != NULL);
    char note[RESTART_LINE_BYTES] = "", misfit[RESTART_LINE_BYTES] = "";
    struct persist *p = NULL;
    bool was_memcached;
    int rc = drop_memcached_meta(o, &was_memcached, why, why_bytes);
    if (rc != 0)
        return rc;
    const struct persist_options po = {.mode = o->persist, .memory_file = o->memory_file, .flash = &o->flash};
    if (o->flash.device_count > 0 && (p = persist_create(&po)) == NULL)
        return why_say(why, why_bytes, -ENOMEM, "checkpoint: %s", strerror(ENOMEM));
    for (;;) {
        int error = 0;
        memset(r, 0, sizeof(*r));
        r->in_file = o->memory_file != NULL;
        if ((rc = open_arena(o, was_memcached, r, note, why, why_bytes)) != 0) {
            persist_destroy(p);
            return rc;
        }
        switch (make_parts(o, r, p, &error, why, why_bytes)) {
        case OPENED:
            r->persist = p;
            tell(o, r, misfit[0] ? misfit : note);
            return 0;
        case UNFIT: /* once: the next arena is not attached */
            ASSERT(r->attached);
            why_say(misfit, sizeof(misfit), 0, "%s", why);
            __attribute__((fallthrough));
        case AGAIN: /* at most once for each plan that restart/persist.h has, and for each process that was here just now */
            arena_discard(r->arena);
            restart_close(r, false);
            if (p)
                persist_look_again(p);
            clock_setup();
            if (o->asks_for_sizes && p && has_other_sizes(o, &po)) {
                persist_destroy(p);
                return why_say(why, why_bytes, -ERESTART, "%s",
                               misfit[0] ? misfit : "flash: another process has used it just now");
            }
            continue;
        case FAILED:
            restart_close(r, false);
            persist_destroy(p);
            ASSERT(error < 0);
            return error;
        }
    }
}

void restart_close(struct restart *r, bool flush)
{
    lock_assert_none_held();
    uint64_t objects = 0;
    bool saved = flush && r->persist && persist_end(r->persist, r->index, r->cache, r->ext, &objects);
    if (r->persist)
        persist_release(r->persist);
    ext_destroy(r->ext, flush && r->in_file);
    if (r->cache)
        cache_destroy(r->cache);
    persist_destroy(r->persist);
    index_destroy(r->index);
    slab_destroy(r->slab);
    arena_destroy(r->arena);
    memset(r, 0, sizeof(*r));
    r->is_saved = saved;
    r->saved_objects = objects;
}
