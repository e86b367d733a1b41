/* upkeep/tables.c: see upkeep/tables.h. First memory for tables, then each way to come by them: new, kept, copied for
 * other devices, converted from format 3. Whether kept ones make sense is for upkeep/repair.h to say. */
#include "upkeep/tables.h"

#include "base/why.h"
#include "flash/engine.h"
#include "flash/expiry.h"
#include "flash/groups.h"
#include "flash/numbers.h"
#include "flash/wbuf.h"
#include "upkeep/repair.h"
#include "upkeep/save.h"
#include "upkeep/scan.h"
#include "upkeep/stamps.h"

/* ---- memory ---- */

static uint64_t pages_bytes(uint32_t page_count) { return page_count * sizeof(struct ext_page); }
static uint64_t wbufs_bytes(uint32_t wbuf_count) { return wbuf_count * sizeof(struct ext_wbuf_root); }
static uint64_t words_bytes(const struct extstore *e, uint32_t page_count)
{
    return (uint64_t)page_count * e->slots_per_page * sizeof(extmap_word);
}

uint64_t ext_tables_bytes(const struct extstore *e)
{
    return pages_bytes(e->page_count) + words_bytes(e, e->page_count);
}

static struct ext_root *root_in(struct arena *a)
{
    static_assert(EXT_ROOT_OFFSET + sizeof(struct ext_root) <= ARENA_ROOT_MODULE_BYTES, "root fits");
    return (struct ext_root *)((char *)arena_root(a, ARENA_ROOT_EXTSTORE) + EXT_ROOT_OFFSET);
}

void ext_forget(struct arena *arena)
{
    root_in(arena)->format = 0;
    *(uint64_t *)arena_root(arena, ARENA_ROOT_EXTSTORE) = 0; /* of format 3 */
}

static int no_memory(const struct extstore *e, int rc, char *why, size_t n)
{
    /* Nothing is freed before they are there: a start that fails changes nothing. */
    bool beside = e->opt.attached && rc == -ENOSPC;
    return why_say(why, n, rc, "flash: no memory for the page table and %u write buffers%s (%s)", e->wbuf_count,
                   beside ? " beside what the last process left: a start with other sizes or files of flash needs more room where -e is"
                          : "",
                   strerror(-rc));
}

static int alloc_table(struct extstore *e, uint64_t bytes, uint64_t *at)
{
    return arena_alloc(e->arena, ARENA_USE_META, bytes, ARENA_UNIT_BYTES, at, NULL);
}

static int alloc_buffer(struct extstore *e, uint64_t *at)
{
    return arena_alloc(e->arena, ARENA_USE_BUFFER, e->wbuf_bytes, ARENA_UNIT_BYTES, at, NULL);
}

/* Of an arena that an earlier process left. */
static int take_tables(struct extstore *e, const struct ext_tables *t)
{
    ASSERT(t->page_count > 0 && t->wbuf_count <= EXTMAP_MAX_BUFFERS); /* checked by claim_tables */
    int rc = arena_take(e->arena, ARENA_USE_META, t->pages, pages_bytes(t->page_count));
    if (rc == 0)
        rc = arena_take(e->arena, ARENA_USE_META, t->wbufs, wbufs_bytes(t->wbuf_count));
    if (rc == 0)
        rc = arena_take(e->arena, ARENA_USE_META, t->words, words_bytes(e, t->page_count));
    if (rc == 0)
        rc = arena_take(e->arena, ARENA_USE_BUFFER, t->reclaim, e->wbuf_bytes);
    for (uint32_t i = 0; rc == 0 && i < t->wbuf_count; i++)
        rc = arena_take(e->arena, ARENA_USE_BUFFER, ext_wbufs_of(e, t)[i].memory, e->wbuf_bytes);
    return rc;
}

/* ---- new tables ---- */

/* What has become of devices, for the log. */
static void note_devices(struct extstore *e)
{
    ASSERT(e->known_count <= EXT_DEVICES_MAX);
    for (uint32_t i = 0; i < e->device_count; i++) {
        const struct ext_device *d = &e->devices[i];
        const struct ext_known *k = NULL;
        for (uint32_t was = 0; was < e->known_count; was++)
            k = e->device_of[was] == i ? &e->known[was] : k;
        if (k == NULL)
            why_add(e->note, sizeof(e->note), ", ", "%s is new", d->path);
        else if (k->bytes != d->bytes)
            why_add(e->note, sizeof(e->note), ", ", "%s has %" PRIu64 " MB, not %" PRIu64, d->path, d->bytes / MiB,
                    k->bytes / MiB);
    }
    unsigned gone = 0;
    for (uint32_t was = 0; was < e->known_count; was++)
        gone += e->device_of[was] == EXT_NO_DEVICE && e->known[was].stamp != 0;
    if (gone > 0)
        why_add(e->note, sizeof(e->note), ", ", "%u %s gone", gone, gone == 1 ? "file is" : "files are");
}

/* Numbers that no earlier process gave; or with saved or scan, those that are found. */
static int number_new(struct extstore *e, char *why, size_t n)
{
    int rc = e->opt.saved != NULL ? ext_load_numbers(e, e->opt.saved, why, n)
             : e->opt.scan        ? ext_scan_numbers(e)
                                  : ext_numbers_assign(e, NULL, 0);
    bool is_said = e->opt.saved != NULL && rc != -ENOMEM;
    if (rc == 0 && e->opt.saved != NULL)
        note_devices(e);
    return rc == 0 || is_said ? rc : no_memory(e, rc, why, n);
}

/* Is flash gone that an earlier process used? */
static bool is_part_gone(const struct extstore *e)
{
    for (uint32_t was = 0; was < e->known_count; was++) {
        uint32_t device = e->device_of[was];
        if (e->known[was].stamp == 0) /* it never got a mark, so it holds nothing */
            continue;
        if (device == EXT_NO_DEVICE || e->devices[device].bytes < e->known[was].bytes)
            return true;
    }
    return false;
}

/* Describes e's devices in tables that are not yet in use. Those that no entry of e->known stands for get a stamp of
 * their own, which is written to them first, unless ext_begin_life is to come. If a part of the known flash is gone, all
 * join the cache only now: a scan must not find older records of keys whose newest one was there. 0, or -errno with
 * why[]. */
static int describe(struct extstore *e, struct ext_tables *t, char *why, size_t n)
{
    ASSERT(t != e->tables && e->device_count > 0 && e->device_count <= EXT_DEVICES_MAX);
    t->page_bytes = e->page_bytes;
    t->wbuf_bytes = e->wbuf_bytes;
    t->page_count = e->page_count;
    t->wbuf_count = e->wbuf_count;
    t->device_count = e->device_count;
    bool part_gone = is_part_gone(e);
    uint32_t without = 0;
    for (uint32_t i = 0; i < e->device_count; i++) {
        const struct ext_device *d = &e->devices[i];
        struct ext_known *k = &t->devices[i];
        bool is_known = false;
        *k = (struct ext_known){.since = e->opt.scan ? e->opt.since[i] : atomic_load(&e->root->next_version)};
        for (uint32_t was = 0; was < e->known_count; was++) {
            if (e->device_of[was] != i)
                continue;
            *k = e->known[was];
            is_known = k->stamp != 0;
        }
        if (part_gone)
            k->since = atomic_load(&e->root->next_version);
        if (!is_known) {
            k->stamp = d->stamp;
            without |= UINT32_C(1) << i;
        }
        k->dev = d->dev;
        k->ino = d->ino;
        k->bytes = d->bytes;
    }
    bool begins_later = e->opt.saved != NULL || e->opt.scan;
    return begins_later || without == 0 ? 0 : ext_stamps_put(e, t->devices, without, why, n);
}

/* Takes tables from the arena, empty, and switches to them. */
static int make_tables(struct extstore *e, char *why, size_t n)
{
    struct ext_root *root = e->root;
    bool goes_on = e->opt.attached && root->format == EXT_ROOT_FORMAT;
    if (!goes_on)
        memset(root, 0, sizeof(*root));
    if (!e->opt.attached)
        atomic_store(&root->next_version, e->saved != NULL ? e->saved->engine.next_version : e->opt.version_floor);
    uint32_t place = goes_on ? 1 - atomic_load(&root->current) : 0;
    ASSERT(place < ARRAY_COUNT(root->tables) && e->tables == NULL);
    struct ext_tables *t = &root->tables[place];
    memset(t, 0, sizeof(*t));
    int rc = alloc_table(e, pages_bytes(e->page_count), &t->pages);
    if (rc == 0)
        rc = alloc_table(e, wbufs_bytes(e->wbuf_count), &t->wbufs);
    if (rc == 0)
        rc = alloc_table(e, words_bytes(e, e->page_count), &t->words);
    if (rc == 0)
        rc = alloc_buffer(e, &t->reclaim);
    if (rc != 0)
        return no_memory(e, rc, why, n);
    memset((void *)ext_pages_of(e, t), 0, pages_bytes(e->page_count));
    memset((void *)ext_wbufs_of(e, t), 0, wbufs_bytes(e->wbuf_count));
    memset((void *)ext_words_of(e, t), 0, words_bytes(e, e->page_count));
    for (uint32_t i = 0; i < e->page_count; i++)
        ext_pages_of(e, t)[i].where = ext_where_pack(e->where[i]);
    for (uint32_t i = 0; rc == 0 && i < e->wbuf_count; i++)
        rc = alloc_buffer(e, &ext_wbufs_of(e, t)[i].memory);
    if (rc != 0)
        return no_memory(e, rc, why, n);
    if ((rc = describe(e, t, why, n)) != 0)
        return rc;
    atomic_store(&root->current, place);
    e->tables = t;
    return 0;
}

/* ---- those of an earlier process, for other devices or buffers ---- */

struct copying {
    struct extstore *e;
    const struct ext_tables *was;
    struct ext_tables *now;
    uint32_t delayed;      /* unflushed buffers, which get the first numbers */
    uint32_t *buffer_from; /* new number -> old number */
    bool *is_used;         /* the old buffer's memory has a new owner */
};

static bool stays(const struct extstore *e, uint32_t page)
{
    return page < e->gone_count && !e->gone[page] && page < e->page_count;
}

/* Copies the words of pages that stay; gives unflushed buffers new numbers. */
static int copy_words(struct copying *b)
{
    struct extstore *e = b->e;
    const extmap_word *from = ext_words_of(e, b->was);
    extmap_word *to = ext_words_of(e, b->now);
    uint64_t per_page = e->slots_per_page;
    memset((void *)to, 0, words_bytes(e, e->page_count));
    for (uint64_t slot = 0; slot < e->page_count * per_page; slot++) {
        if (!stays(e, (uint32_t)(slot / per_page)))
            continue;
        struct extmap_range r = extmap_of_word(from[slot]);
        if (r.state == EXTMAP_DELAYED) {
            if (r.buffer >= b->was->wbuf_count || b->delayed >= b->was->wbuf_count)
                return -ESTALE;
            b->buffer_from[b->delayed] = r.buffer;
            to[slot] = extmap_delayed_word(b->delayed++);
        } else if (r.state != EXTMAP_FREE) {
            to[slot] = extmap_written_word();
        }
    }
    return 0;
}

static void copy_pages(struct copying *b)
{
    struct extstore *e = b->e;
    const struct ext_page *from = ext_pages_of(e, b->was);
    struct ext_page *to = ext_pages_of(e, b->now);
    ASSERT(from != to);
    for (uint32_t page = 0; page < e->page_count; page++) {
        if (stays(e, page))
            memcpy((void *)&to[page], (const void *)&from[page], sizeof(to[page]));
        else
            memset((void *)&to[page], 0, sizeof(to[page]));
        to[page].where = ext_where_pack(e->where[page]);
    }
}

/* Buffers that hold nothing unflushed take their memory from old ones that aren't needed either, then from the
 * arena. 0 or -errno. */
static int copy_wbufs(struct copying *b)
{
    struct extstore *e = b->e;
    const struct ext_wbuf_root *from = ext_wbufs_of(e, b->was);
    struct ext_wbuf_root *to = ext_wbufs_of(e, b->now);
    uint32_t spare = 0;
    ASSERT(b->delayed <= e->wbuf_count);
    memset((void *)to, 0, wbufs_bytes(e->wbuf_count));
    for (uint32_t i = 0; i < b->delayed; i++) {
        if (b->is_used[b->buffer_from[i]])
            return -ESTALE;
        b->is_used[b->buffer_from[i]] = true;
        memcpy((void *)&to[i], (const void *)&from[b->buffer_from[i]], sizeof(to[i]));
    }
    for (uint32_t i = b->delayed; i < e->wbuf_count; i++) {
        while (spare < b->was->wbuf_count && b->is_used[spare])
            spare++;
        if (spare < b->was->wbuf_count) {
            b->is_used[spare] = true;
            to[i].memory = from[spare].memory;
            continue;
        }
        int rc = alloc_buffer(e, &to[i].memory);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* The old tables, and the memory of buffers that are too many now. */
static void free_old(struct copying *b)
{
    struct extstore *e = b->e;
    ASSERT(e->tables == b->now); /* a kill from here on finds the new ones */
    for (uint32_t i = 0; i < b->was->wbuf_count; i++) {
        if (!b->is_used[i])
            arena_free(e->arena, ARENA_USE_BUFFER, ext_wbufs_of(e, b->was)[i].memory, e->wbuf_bytes);
    }
    arena_free(e->arena, ARENA_USE_META, b->was->pages, pages_bytes(b->was->page_count));
    arena_free(e->arena, ARENA_USE_META, b->was->words, words_bytes(e, b->was->page_count));
    arena_free(e->arena, ARENA_USE_META, b->was->wbufs, wbufs_bytes(b->was->wbuf_count));
}

/* Copies page table, words and unflushed buffers from the claimed tables `was` into new ones, for the numbering that
 * ext_numbers_assign made; switches to them, and frees the others. e->wbuf_count may grow to the number of unflushed
 * buffers. 0; -ESTALE: they make no sense; -ENOSPC, -ENOMEM: there is no room, and nothing has changed. */
static int copy_tables(struct extstore *e, const struct ext_tables *was, struct ext_tables *now)
{
    struct copying b = {.e = e, .was = was, .now = now};
    ASSERT(was != now && e->tables == NULL && was->page_bytes == e->page_bytes && was->wbuf_bytes == e->wbuf_bytes);
    b.buffer_from = calloc(was->wbuf_count + 1, sizeof(*b.buffer_from));
    b.is_used = calloc(was->wbuf_count + 1, sizeof(*b.is_used));
    int rc = b.buffer_from == NULL || b.is_used == NULL ? -ENOMEM : 0;
    if (rc == 0)
        rc = alloc_table(e, pages_bytes(e->page_count), &now->pages);
    if (rc == 0)
        rc = alloc_table(e, words_bytes(e, e->page_count), &now->words);
    if (rc == 0)
        rc = copy_words(&b);
    if (rc == 0) {
        e->wbuf_count = (uint32_t)max_u64(e->wbuf_count, b.delayed);
        now->wbuf_count = e->wbuf_count;
        now->reclaim = was->reclaim;
        copy_pages(&b);
        rc = alloc_table(e, wbufs_bytes(e->wbuf_count), &now->wbufs);
    }
    if (rc == 0)
        rc = copy_wbufs(&b);
    if (rc == 0) {
        atomic_store(&e->root->current, (uint32_t)(now - e->root->tables));
        e->tables = now;
        free_old(&b);
    }
    free(b.buffer_from);
    free(b.is_used);
    return rc;
}

/* ---- those of an earlier process ---- */

/* Are tables for these numbers and devices the ones that there are? */
static bool is_as_before(const struct extstore *e, const struct ext_tables *t)
{
    bool same = t->page_count == e->page_count && t->wbuf_count == e->wbuf_count && t->device_count == e->device_count;
    for (uint32_t i = 0; same && i < e->device_count; i++) {
        const struct ext_device *d = &e->devices[i];
        const struct ext_known *k = &t->devices[i];
        same = k->dev == d->dev && k->ino == d->ino && k->bytes == d->bytes && k->stamp == d->stamp;
    }
    return same;
}

/* The tables of an earlier process stay, or are copied for the devices and buffers of this one. */
static int keep_tables(struct extstore *e, const struct ext_tables *was, char *why, size_t n)
{
    ASSERT(was == &e->root->tables[atomic_load(&e->root->current)]);
    if (take_tables(e, was) != 0)
        return why_say(why, n, -ESTALE, "flash: the tables kept in memory overlap");
    uint32_t *where = calloc(was->page_count, sizeof(*where));
    for (uint32_t i = 0; where != NULL && i < was->page_count; i++)
        where[i] = ext_pages_of(e, was)[i].where;
    int rc = where == NULL ? -ENOMEM : ext_numbers_assign(e, where, was->page_count);
    free(where);
    if (rc == -EUCLEAN)
        return why_say(why, n, -ESTALE, "flash: the page numbers kept in memory are damaged");
    if (rc != 0)
        return no_memory(e, rc, why, n);
    if (is_as_before(e, was)) {
        e->tables = (struct ext_tables *)was;
        return 0;
    }
    struct ext_tables *now = &e->root->tables[1 - atomic_load(&e->root->current)];
    memset(now, 0, sizeof(*now));
    note_devices(e);
    rc = describe(e, now, why, n);
    if (rc != 0)
        return rc;
    rc = copy_tables(e, was, now);
    if (rc == -ESTALE)
        return why_say(why, n, rc, "flash: the map of ranges kept in memory is damaged");
    return rc == 0 ? 0 : no_memory(e, rc, why, n);
}

/* A process may have been killed after it wrote a device's next stamp, and before it noted that. */
static void note_stamps(struct extstore *e, struct ext_tables *was)
{
    for (uint32_t i = 0; i < e->known_count; i++) {
        if (e->device_of[i] != EXT_NO_DEVICE)
            e->known[i].stamp = was->devices[i].stamp = e->devices[e->device_of[i]].stamp;
    }
}

/* Goes on with what an earlier process knew of flash, as far as it can. If nothing of it can be kept, e->tables
 * stays NULL, and pages have new numbers. */
static int claim_tables(struct extstore *e, char *why, size_t n)
{
    struct ext_root *root = e->root;
    uint32_t current = atomic_load(&root->current);
    if (root->format == 0) {
        e->is_all_gone = true;
        why_add(e->note, sizeof(e->note), ", ", "there was no flash before");
        return number_new(e, why, n);
    }
    struct ext_tables *was = &root->tables[current & 1];
    if (root->format != EXT_ROOT_FORMAT || current > 1 || was->device_count == 0 ||
        was->device_count > EXT_DEVICES_MAX || was->page_count == 0 || was->page_count > EXT_UNITS_MAX ||
        was->wbuf_count > EXTMAP_MAX_BUFFERS)
        return why_say(why, n, -ESTALE, "flash: what was kept in memory makes no sense");
    e->known_count = was->device_count;
    memcpy(e->known, was->devices, sizeof(e->known));
    int rc = ext_numbers_match(e, true, why, n);
    if (rc != 0)
        return rc;
    note_stamps(e, was);
    if (was->page_bytes == e->page_bytes && was->wbuf_bytes == e->wbuf_bytes)
        return keep_tables(e, was, why, n);
    e->is_all_gone = true;
    why_add(e->note, sizeof(e->note), ", ", "nothing on flash can be kept with another %s",
            was->page_bytes != e->page_bytes ? "ext_page_size" : "ext_wbuf_size");
    return number_new(e, why, n);
}

/* ---- format 3 ---- */

/* The root of format 3 of the memory file. All devices had one stamp, and their pages' numbers went round them. */
struct ext_root_3 {
    uint64_t format; /* EXT_ROOT_FORMAT_3; set to 0 once it is converted */
    uint64_t page_bytes, wbuf_bytes;
    uint32_t page_count, wbuf_count, device_count, reserved;
    struct {
        uint64_t dev, ino, bytes;
    } devices[EXT_DEVICES_MAX];
    uint64_t pages, wbufs, words, stamp, reclaim;
    _Atomic(uint64_t) next_seq;
    _Atomic(uint32_t) next_version, flush_unix;
    _Atomic(uint64_t) counters[EXT_COUNTER_ROOM];
};
#define EXT_ROOT_FORMAT_3 UINT64_C(0x0631746f6f527845)
static_assert(sizeof(struct ext_root_3) == 992, "format 3");
static_assert(sizeof(struct ext_root_3) <= EXT_ROOT_OFFSET, "both have room");

/* Writes down in the page table where each page is. False: it isn't in the arena. */
static bool convert_pages(struct extstore *e, const struct ext_root_3 *old)
{
    ASSERT(old->device_count <= EXT_DEVICES_MAX);
    uint32_t counts[EXT_DEVICES_MAX] = {0};
    uint64_t sum = 0, end = old->pages + (uint64_t)old->page_count * sizeof(struct ext_page);
    for (uint32_t i = 0; old->page_bytes > 0 && i < old->device_count; i++)
        sum += counts[i] = (uint32_t)(old->devices[i].bytes / old->page_bytes);
    if (sum != old->page_count || sum == 0 || old->pages % ARENA_UNIT_BYTES != 0 ||
        old->pages < ARENA_ROOT_BYTES || end < old->pages || end > arena_reserve_bytes(e->arena))
        return false;
    struct ext_page_where *where = calloc(sum, sizeof(*where));
    if (where == NULL)
        return false;
    ext_number_pages(where, counts, old->device_count);
    struct ext_page *pages = (struct ext_page *)(arena_base(e->arena) + old->pages);
    for (uint32_t i = 0; i < sum; i++)
        pages[i].where = ext_where_pack(where[i]);
    free(where);
    return true;
}

/* A root of format 3 becomes one of this format beside it; a kill finds the one or the other. */
static void convert_root(struct extstore *e)
{
    struct ext_root_3 *old = arena_root(e->arena, ARENA_ROOT_EXTSTORE);
    struct ext_root *root = e->root;
    ASSERT(e->opt.attached && e->tables == NULL);
    if (old->format != EXT_ROOT_FORMAT_3 || old->device_count > EXT_DEVICES_MAX || !convert_pages(e, old))
        return;
    memset(root, 0, sizeof(*root));
    struct ext_tables *t = &root->tables[0];
    *t = (struct ext_tables){.page_bytes = old->page_bytes, .wbuf_bytes = old->wbuf_bytes,
                             .page_count = old->page_count, .wbuf_count = old->wbuf_count,
                             .device_count = old->device_count, .pages = old->pages, .wbufs = old->wbufs,
                             .words = old->words, .reclaim = old->reclaim};
    for (uint32_t i = 0; i < old->device_count; i++)
        t->devices[i] = (struct ext_known){.dev = old->devices[i].dev, .ino = old->devices[i].ino,
                                           .bytes = old->devices[i].bytes, .stamp = old->stamp};
    atomic_store(&root->next_seq, atomic_load(&old->next_seq));
    atomic_store(&root->next_version, atomic_load(&old->next_version));
    atomic_store(&root->flush_unix, atomic_load(&old->flush_unix));
    for (unsigned i = 0; i < EXT_COUNTER_ROOM; i++)
        atomic_store(&root->counters[i], atomic_load(&old->counters[i]));
    atomic_thread_fence(memory_order_release);
    *(volatile uint64_t *)&root->format = EXT_ROOT_FORMAT;
    *(volatile uint64_t *)&old->format = 0;
}

/* ---- all of it ---- */

static void free_unused_pages(struct extstore *e)
{
    for (uint32_t i = 0; i < e->page_count; i++) {
        if (!ext_page_is_there(e, i))
            continue;
        ASSERT(e->where[i].unit < ext_page_device(e, i)->page_count);
        if (ext_page_state_of(&e->pages[i]) == EXT_PAGE_FREE)
            extents_free(ext_page_device(e, i)->free, e->where[i].unit, 1); /* sets are made all used */
    }
}

bool ext_is_taken_over(const struct extstore *e)
{
    return e->opt.attached || e->opt.saved != NULL || e->opt.scan;
}

int ext_tables_open(struct extstore *e, char *why, size_t n)
{
    ASSERT(e->device_count > 0 && e->wbuf_count > 0 && e->slots_per_page > 0);
    ASSERT(e->opt.attached + (e->opt.saved != NULL) + e->opt.scan <= 1); /* one source at most */
    e->root = root_in(e->arena);
    if (e->opt.attached)
        convert_root(e);
    int rc = e->opt.attached ? claim_tables(e, why, n) : number_new(e, why, n);
    if (rc == 0 && e->tables == NULL)
        rc = make_tables(e, why, n);
    if (rc != 0)
        return rc;
    ASSERT(e->tables->page_count == e->page_count && e->tables->wbuf_count == e->wbuf_count);
    e->pages = ext_pages_of(e, e->tables);
    struct extmap_options mo = {.words = ext_words_of(e, e->tables),
                                .range_count = (uint64_t)e->page_count * e->slots_per_page,
                                .buffer_count = e->wbuf_count};
    if (e->opt.attached && (rc = ext_repair_pages(e)) != 0)
        return why_say(why, n, rc, "flash: the page table kept in memory is damaged");
    if (e->opt.saved != NULL && (rc = ext_load_tables(e, e->opt.saved)) != 0)
        return why_say(why, n, rc == -ENOMEM ? rc : -ESTALE, "its page table can't be used (%s)",
                      rc == -EBADMSG ? "damaged" : strerror(-rc));
    if (e->opt.scan && (rc = ext_scan_tables(e)) != 0)
        return why_say(why, n, rc, "flash: no memory to look for what is on it");
    rc = ext_is_taken_over(e) ? extmap_attach(&mo, &e->map) : extmap_create(&mo, &e->map);
    if (rc != 0)
        return why_say(why, n, rc == -EINVAL ? -ESTALE : rc,
                      "flash: the map of ranges can't be used (%s)", strerror(-rc));
    if (e->opt.attached && !ext_buffers_are_sound(e))
        return why_say(why, n, -ESTALE, "flash: the write buffers kept in memory are damaged");
    e->wbufs = calloc(e->wbuf_count, sizeof(*e->wbufs));
    e->free_wbufs = calloc(e->wbuf_count, sizeof(*e->free_wbufs));
    if (e->wbufs == NULL || e->free_wbufs == NULL || ext_expiry_init(e) != 0)
        return why_say(why, n, -ENOMEM, "flash: no memory");
    for (uint32_t i = 0; i < e->wbuf_count; i++)
        ext_wbuf_init(e, i, &ext_wbufs_of(e, e->tables)[i]);
    ext_groups_size(e);
    free_unused_pages(e);
    return 0;
}
