/* extstore.c: the flash engine put together: create, attach, destroy, figures, checks. flash/engine.h
 * lists its parts, extstore.h its promises. */
#include "extstore.h"

#include <stdarg.h>

#include "flash/engine.h"
#include "flash/numbers.h"
#include "flash/uring.h"
#include "upkeep/probe.h"

#define DEFAULT_WBUF_COUNT 16u
#define WBUF_COUNT_MAX 64u /* of the default; more may be asked for */
#define DEFAULT_RING_COUNT 4u
#define DEFAULT_RING_BYTES ((uint64_t)8 * MiB)
#define NO_PAGE_NS UINT64_C(1000000000) /* shorter waits are not worth a line */

/* ---- places ---- */

unsigned ext_page_of(const struct extstore *e, ext_place place, uint64_t *offset)
{
    ASSERT(ext_place_page(e, place) < e->page_count);
    *offset = place % e->page_granules * EXT_GRANULE_BYTES;
    return ext_place_page(e, place);
}

uint32_t ext_version_of(const struct extstore *e, ext_place place)
{
    return atomic_load(&e->pages[ext_place_page(e, place)].version);
}

uint64_t ext_seq_now(const struct extstore *e)
{
    return atomic_load_explicit(&e->root->next_seq, memory_order_relaxed) + 1;
}

/* ---- create ---- */

static int refuse(char *why, size_t n, int rc, const char *fmt, ...) PRINTF_LIKE(4, 5);

static int refuse(char *why, size_t n, int rc, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, n, fmt, ap);
    va_end(ap);
    return rc;
}

static int check_options(const struct ext_options *o, char *why, size_t n)
{
    if (o->device_count == 0 || o->device_count > EXT_DEVICES_MAX)
        return refuse(why, n, -EINVAL, "flash: 1 to %d files can be used", EXT_DEVICES_MAX);
    if (o->wbuf_bytes < 4 * EXT_SLOT_BLOCK_BYTES || o->wbuf_bytes % EXT_SLOT_BLOCK_BYTES != 0 ||
        o->wbuf_bytes > GiB)
        return refuse(why, n, -EINVAL,
                      "flash: write buffer size %" PRIu64 " is not a multiple of %u from "
                      "%u bytes to 1 GB",
                      o->wbuf_bytes, EXT_SLOT_BLOCK_BYTES, 4 * EXT_SLOT_BLOCK_BYTES);
    if (o->page_bytes < o->wbuf_bytes || o->page_bytes % o->wbuf_bytes != 0 ||
        o->page_bytes > 4 * GiB)
        return refuse(why, n, -EINVAL,
                      "flash: page size %" PRIu64 " is not a multiple of the write "
                      "buffer size %" PRIu64 " up to 4 GB",
                      o->page_bytes, o->wbuf_bytes);
    if (o->io_threads == 0 || o->io_threads > IO_THREADS_MAX)
        return refuse(why, n, -EINVAL, "flash: 1 to %u I/O threads can be used", IO_THREADS_MAX);
    if (o->callbacks.is_live == NULL || o->callbacks.moved == NULL ||
        o->callbacks.dropped == NULL || o->callbacks.is_fresh == NULL || o->callbacks.sweep == NULL)
        return refuse(why, n, -EINVAL, "flash: a callback is missing");
    return 0;
}

/* How buffer memory is shared: wbufs, one more for reclaim, the rest for the rings. */
static int share_memory(struct extstore *e, char *why, size_t n)
{
    struct ext_options *o = &e->opt;
    unsigned rings = o->ring_count != 0 ? o->ring_count : DEFAULT_RING_COUNT;
    if (o->buffer_bytes == 0) {
        unsigned wbufs = o->wbuf_count != 0 ? o->wbuf_count : DEFAULT_WBUF_COUNT;
        o->buffer_bytes = (wbufs + 1) * o->wbuf_bytes + rings * DEFAULT_RING_BYTES;
    }
    uint64_t fit = o->buffer_bytes / o->wbuf_bytes;
    if (o->wbuf_count == 0) /* a quarter is left for reads */
        o->wbuf_count = (unsigned)min_u64(o->buffer_bytes * 3 / 4 / o->wbuf_bytes, WBUF_COUNT_MAX);
    if (o->wbuf_count < EXT_WBUF_MIN_COUNT)
        o->wbuf_count = EXT_WBUF_MIN_COUNT;
    if (o->wbuf_count + 1 > fit || o->wbuf_count >= EXTMAP_MAX_BUFFERS)
        return refuse(why, n, -EINVAL,
                      "flash: buffer memory of %" PRIu64 " bytes can't hold %u write "
                      "buffers of %" PRIu64 " bytes; %u are needed at least",
                      o->buffer_bytes, o->wbuf_count + 1, o->wbuf_bytes, EXT_BUFFERS_MIN);
    ASSERT((o->wbuf_count + 1) * o->wbuf_bytes <= o->buffer_bytes);
    e->ring_bytes = (o->buffer_bytes - (o->wbuf_count + 1) * o->wbuf_bytes) / rings;
    return 0;
}

/* Is the file already open, under any name? The lock would not show it: it is our own. */
static const struct ext_device *same_file(const struct extstore *e, const char *path)
{
    uint64_t dev, ino;
    if (!ext_device_identity(path, &dev, &ino))
        return NULL;
    for (uint32_t i = 0; i < e->device_count; i++) {
        if (e->devices[i].dev == dev && e->devices[i].ino == ino)
            return &e->devices[i];
    }
    return NULL;
}

static int open_devices(struct extstore *e, char *why, size_t n)
{
    uint64_t all_pages = 0;
    for (; e->device_count < e->opt.device_count; e->device_count++) {
        struct ext_device *d = &e->devices[e->device_count];
        const struct ext_device_options *o = &e->opt.devices[e->device_count];
        const struct ext_device *same = same_file(e, o->path);
        if (same != NULL)
            return refuse(why, n, -EINVAL, "%s: is the same file as %s", o->path, same->path);
        int rc = ext_device_open(d, o, e->page_bytes, e->opt.device_ops, why, n);
        if (rc != 0)
            return rc;
        e->device_fds[e->device_count] = d->fd;
        all_pages += d->page_count;
    }
    uint64_t pages = ext_pages_total(e, EXT_BUCKET_DEFAULT);
    if (pages < EXT_PAGES_MIN)
        return refuse(why, n, -EINVAL,
                      "flash: files of class default hold %" PRIu64 " pages of %" PRIu64
                      " bytes; at least %u are needed",
                      pages, e->page_bytes, EXT_PAGES_MIN);
    if (all_pages > EXT_UNITS_MAX || all_pages * e->page_granules > (UINT64_C(1) << 40) - 1)
        return refuse(why, n, -EINVAL, "flash: more than 16 TB or %u pages can't be addressed", EXT_UNITS_MAX);
    return 0;
}

/* ---- tables ---- */

static uint64_t pages_table_bytes(const struct extstore *e)
{
    return e->page_count * sizeof(struct ext_page);
}
static uint64_t words_table_bytes(const struct extstore *e)
{
    return (uint64_t)e->page_count * e->slots_per_page * sizeof(extmap_word);
}
static uint64_t wbufs_table_bytes(const struct extstore *e)
{
    return e->wbuf_count * sizeof(struct ext_wbuf_root);
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
    return refuse(why, n, rc, "flash: no memory for the page table and %u write buffers (%s)", e->wbuf_count,
                  strerror(-rc));
}

/* Numbers that no earlier process gave; or with saved or scan, those that are found. */
static int number_new(struct extstore *e, char *why, size_t n)
{
    if (e->opt.saved == NULL && !e->opt.scan) {
        int rc = ext_numbers_assign(e, NULL, 0, NULL);
        return rc == 0 ? 0 : no_memory(e, rc, why, n);
    }
    int rc = e->opt.saved != NULL ? ext_load_numbers(e, e->opt.saved, why, n) : ext_scan_numbers(e);
    if (rc == 0 || rc == -ENOMEM)
        return rc == 0 ? 0 : no_memory(e, rc, why, n);
    return e->opt.saved == NULL ? no_memory(e, rc, why, n) : rc;
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
    struct ext_tables *t = &root->tables[place];
    memset(t, 0, sizeof(*t));
    int rc = arena_alloc(e->arena, ARENA_USE_META, pages_table_bytes(e), ARENA_UNIT_BYTES, &t->pages, NULL);
    if (rc == 0)
        rc = arena_alloc(e->arena, ARENA_USE_META, wbufs_table_bytes(e), ARENA_UNIT_BYTES, &t->wbufs, NULL);
    if (rc == 0)
        rc = arena_alloc(e->arena, ARENA_USE_META, words_table_bytes(e), ARENA_UNIT_BYTES, &t->words, NULL);
    if (rc == 0)
        rc = arena_alloc(e->arena, ARENA_USE_BUFFER, e->wbuf_bytes, ARENA_UNIT_BYTES, &t->reclaim, NULL);
    if (rc != 0)
        return no_memory(e, rc, why, n);
    char *base = arena_base(e->arena);
    memset(base + t->pages, 0, pages_table_bytes(e));
    memset(base + t->wbufs, 0, wbufs_table_bytes(e));
    memset(base + t->words, 0, words_table_bytes(e));
    struct ext_page *pages = (struct ext_page *)(base + t->pages);
    for (uint32_t i = 0; i < e->page_count; i++)
        pages[i].where = ext_where_pack(e->where[i]);
    struct ext_wbuf_root *wbufs = (struct ext_wbuf_root *)(base + t->wbufs);
    for (uint32_t i = 0; i < e->wbuf_count; i++) {
        rc = arena_alloc(e->arena, ARENA_USE_BUFFER, e->wbuf_bytes, ARENA_UNIT_BYTES, &wbufs[i].memory, NULL);
        if (rc != 0)
            return no_memory(e, rc, why, n);
    }
    rc = ext_numbers_describe(e, t, e->known, e->known_count, e->device_of, why, n);
    if (rc != 0)
        return rc;
    atomic_store(&root->current, place);
    e->tables = t;
    return 0;
}

static int take_tables(struct extstore *e, const struct ext_tables *t)
{
    uint64_t page_count = t->page_count;
    int rc = arena_take(e->arena, ARENA_USE_META, t->pages, page_count * sizeof(struct ext_page));
    if (rc == 0)
        rc = arena_take(e->arena, ARENA_USE_META, t->wbufs, t->wbuf_count * sizeof(struct ext_wbuf_root));
    if (rc == 0)
        rc = arena_take(e->arena, ARENA_USE_META, t->words, page_count * e->slots_per_page * sizeof(extmap_word));
    if (rc == 0)
        rc = arena_take(e->arena, ARENA_USE_BUFFER, t->reclaim, e->wbuf_bytes);
    const struct ext_wbuf_root *wbufs =
        rc == 0 ? (const struct ext_wbuf_root *)(arena_base(e->arena) + t->wbufs) : NULL;
    for (uint32_t i = 0; rc == 0 && i < t->wbuf_count; i++)
        rc = arena_take(e->arena, ARENA_USE_BUFFER, wbufs[i].memory, e->wbuf_bytes);
    return rc;
}

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

/* What has become of devices, for the log. */
static void note_devices(struct extstore *e)
{
    for (uint32_t i = 0; i < e->device_count; i++) {
        const struct ext_device *d = &e->devices[i];
        const struct ext_known *k = NULL;
        for (uint32_t was = 0; was < e->known_count; was++)
            k = e->device_of[was] == i ? &e->known[was] : k;
        if (k == NULL)
            ext_note(e, "%s is new", d->path);
        else if (k->bytes != d->bytes)
            ext_note(e, "%s has %" PRIu64 " MB, not %" PRIu64, d->path, d->bytes / MiB, k->bytes / MiB);
    }
    unsigned gone = 0;
    for (uint32_t was = 0; was < e->known_count; was++)
        gone += e->device_of[was] == EXT_NO_DEVICE;
    if (gone > 0)
        ext_note(e, "%u %s gone", gone, gone == 1 ? "file is" : "files are");
}

/* The tables of an earlier process stay, or are copied for the devices and buffers of this one. */
static int keep_tables(struct extstore *e, const struct ext_tables *was, char *why, size_t n)
{
    int rc = take_tables(e, was);
    if (rc != 0)
        return refuse(why, n, -ESTALE, "flash: the tables kept in memory overlap");
    const struct ext_page *pages = (const struct ext_page *)(arena_base(e->arena) + was->pages);
    uint32_t *where = calloc(was->page_count, sizeof(*where));
    for (uint32_t i = 0; where != NULL && i < was->page_count; i++)
        where[i] = pages[i].where;
    rc = where == NULL ? -ENOMEM : ext_numbers_assign(e, where, was->page_count, e->device_of);
    free(where);
    if (rc == -EUCLEAN)
        return refuse(why, n, -ESTALE, "flash: the page numbers kept in memory are damaged");
    if (rc != 0)
        return no_memory(e, rc, why, n);
    if (is_as_before(e, was)) {
        e->tables = (struct ext_tables *)was;
        return 0;
    }
    struct ext_tables *now = &e->root->tables[1 - atomic_load(&e->root->current)];
    memset(now, 0, sizeof(*now));
    note_devices(e);
    rc = ext_numbers_describe(e, now, e->known, e->known_count, e->device_of, why, n);
    if (rc != 0)
        return rc;
    rc = ext_numbers_rebuild(e, was, now);
    if (rc == -ESTALE)
        return refuse(why, n, rc, "flash: the map of ranges kept in memory is damaged");
    return rc == 0 ? 0 : no_memory(e, rc, why, n);
}

/* Goes on with what an earlier process knew of flash, as far as it can. If nothing of it can be kept, e->tables
 * stays NULL, and pages have new numbers. */
static int claim_tables(struct extstore *e, char *why, size_t n)
{
    const struct ext_root *root = e->root;
    uint32_t current = atomic_load(&root->current);
    if (root->format == 0) {
        e->is_all_gone = true;
        ext_note(e, "there was no flash before");
        return number_new(e, why, n);
    }
    const struct ext_tables *was = &root->tables[current & 1];
    if (root->format != EXT_ROOT_FORMAT || current > 1 || was->device_count == 0 ||
        was->device_count > EXT_DEVICES_MAX || was->page_count == 0 || was->page_count > EXT_UNITS_MAX ||
        was->wbuf_count > EXTMAP_MAX_BUFFERS)
        return refuse(why, n, -ESTALE, "flash: what was kept in memory makes no sense");
    e->known_count = was->device_count;
    memcpy(e->known, was->devices, sizeof(e->known));
    int rc = ext_numbers_match(e, e->known, e->known_count, true, e->device_of, why, n);
    if (rc != 0)
        return rc;
    if (was->page_bytes == e->page_bytes && was->wbuf_bytes == e->wbuf_bytes)
        return keep_tables(e, was, why, n);
    e->is_all_gone = true;
    ext_note(e, "nothing on flash can be kept with another %s",
             was->page_bytes != e->page_bytes ? "ext_page_size" : "ext_wbuf_size");
    return number_new(e, why, n);
}

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
    uint32_t counts[EXT_DEVICES_MAX] = {0};
    uint64_t sum = 0, end = old->pages + (uint64_t)old->page_count * sizeof(struct ext_page);
    for (uint32_t i = 0; old->page_bytes > 0 && i < old->device_count && i < EXT_DEVICES_MAX; i++)
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

/* Can this be an entry of the page table? Not all fields matter: counts and references are
 * rebuilt; exptime_max and time_max detect their own damage; with a wrong version, no record
 * verifies; wrong bytes_appended and bytes_real mislead the choice of pages to rescue at worst, and
 * retry_sec and failures the time of a test write. */
static bool page_is_sound(const struct extstore *e, const struct ext_page *p)
{
    uint32_t newest = atomic_load(&e->root->next_version);
    return ext_page_state_of(p) <= EXT_PAGE_BAD && p->bucket < EXT_BUCKET_COUNT &&
           atomic_load(&p->slots_used) <= e->slots_per_page &&
           p->bad_chunk * EXT_IO_CHUNK_BYTES < e->page_bytes &&
           (ext_page_state_of(p) == EXT_PAGE_FREE ||
            (int32_t)(newest - atomic_load(&p->version)) >= 0);
}

/* Repairs the page table of an earlier process: there are no readers, and nothing is counted yet. */
static int reset_pages(struct extstore *e, char *why, size_t n)
{
    for (uint32_t i = 0; i < e->page_count; i++) {
        struct ext_page *p = &e->pages[i];
        enum ext_page_state s = ext_page_state_of(p);
        if (!page_is_sound(e, p))
            return refuse(why, n, -ESTALE, "flash: the page table kept in memory is damaged");
        if (s == EXT_PAGE_DRAINING)
            atomic_store(&p->state, EXT_PAGE_SEALED);
        if (s == EXT_PAGE_BAD)
            atomic_fetch_add(&e->bad_pages, 1);
        atomic_store(&p->retry_sec, 0);
        /* Killed between the two stores of page_open or page_free: it holds nothing either way. */
        if (s == EXT_PAGE_FREE) {
            atomic_store(&p->version, 0);
            atomic_store(&p->slots_used, 0);
        }
        atomic_store(&p->objects, 0);
        atomic_store(&p->bytes_used, 0);
        atomic_store(&p->refs, 0);
        atomic_store(&p->slots_busy, 0);
    }
    return 0;
}

/* Can this be the table entry of a record in the buffer? What an entry names lies in the buffer; if
 * the record is whole, and not one whose copying a kill cut short, then the hash is its key's. */
static bool entry_is_sound(struct extstore *e, const struct ext_wbuf_root *root, uint64_t slot,
                           const struct ext_entry *entry)
{
    const struct ext_callbacks *cb = &e->opt.callbacks;
    const char *memory = arena_base(e->arena) + root->memory;
    uint64_t offset = (uint64_t)entry->granule * EXT_GRANULE_BYTES;
    struct ext_record rec;
    if (offset < ext_slot_front(e, slot) || entry->record_bytes < sizeof(struct ext_record_head) ||
        entry->record_bytes % EXT_GRANULE_BYTES != 0 ||
        offset + entry->record_bytes > atomic_load(&root->front_bytes))
        return false;
    if (ext_record_verify(memory + offset, entry->record_bytes, root->version,
                          ext_slot_place(e, slot) + entry->granule, &rec) != 0)
        return true;
    if (cb->hash_of != NULL && cb->hash_of(cb->ctx, rec.key, rec.key_bytes) != entry->hash)
        return false;
    /* The youngest records are in buffers: numbers go on above theirs, whatever the root says. */
    if (atomic_load(&e->root->next_seq) < rec.seq)
        atomic_store(&e->root->next_seq, rec.seq);
    return true;
}

/* Can this be what an unflushed buffer held? */
static bool buffer_is_sound(struct extstore *e, struct ext_wbuf_root *root, uint64_t slot)
{
    uint32_t count = atomic_load(&root->count);
    char *end = arena_base(e->arena) + root->memory + e->wbuf_bytes;
    if (root->bucket >= EXT_BUCKET_COUNT || count > e->wbuf_bytes / sizeof(struct ext_entry) - 2 ||
        root->version != atomic_load(&e->pages[ext_slot_page(e, slot)].version) ||
        atomic_load(&root->front_bytes) < ext_slot_front(e, slot) ||
        atomic_load(&root->front_bytes) > ext_table_start(e->wbuf_bytes, count))
        return false;
    for (uint32_t i = 0; i < count; i++) {
        if (!entry_is_sound(e, root, slot, ext_entry_at(end, i)))
            return false;
    }
    return true;
}

/* Is what the map says about the slots of an earlier process's pages possible? Slots beyond
 * slots_used were not yet given out; a page in use without a version was just becoming free. */
static bool slots_are_sound(struct extstore *e, struct ext_wbuf_root *roots)
{
    for (uint32_t page = 0; page < e->page_count; page++) {
        bool is_free = ext_page_state_of(&e->pages[page]) == EXT_PAGE_FREE;
        uint32_t used = atomic_load(&e->pages[page].slots_used);
        for (uint32_t i = 0; !is_free && i < e->slots_per_page; i++) {
            uint64_t slot = (uint64_t)page * e->slots_per_page + i;
            struct extmap_range r = extmap_get(e->map, slot);
            if (r.state != EXTMAP_FREE && (i >= used || atomic_load(&e->pages[page].version) == 0))
                return false;
            if (r.state == EXTMAP_DELAYED && !buffer_is_sound(e, &roots[r.buffer], slot))
                return false;
        }
    }
    return true;
}

static void free_unused_pages(struct extstore *e)
{
    for (uint32_t i = 0; i < e->page_count; i++) {
        if (!ext_page_is_there(e, i))
            continue;
        if (ext_page_state_of(&e->pages[i]) == EXT_PAGE_FREE)
            extents_free(ext_page_device(e, i)->free, e->where[i].unit, 1); /* sets are made all used */
    }
}

/* Ranges of FREE pages that a killed page_free had not come to. */
static void free_left_ranges(struct extstore *e)
{
    for (uint32_t page = 0; page < e->page_count; page++) {
        if (ext_page_state_of(&e->pages[page]) != EXT_PAGE_FREE)
            continue;
        for (uint32_t i = 0; i < e->slots_per_page; i++) {
            uint64_t slot = (uint64_t)page * e->slots_per_page + i;
            if (extmap_get(e->map, slot).state != EXTMAP_FREE)
                (void)extmap_set_free(e->map, slot, NULL);
        }
    }
}

/* There may be objects; ext_attach_done is to come. */
static bool is_taken_over(const struct extstore *e)
{
    return e->opt.attached || e->opt.saved != NULL || e->opt.scan;
}

static int open_tables(struct extstore *e, char *why, size_t n)
{
    e->root = root_in(e->arena);
    if (e->opt.attached)
        convert_root(e);
    int rc = e->opt.attached ? claim_tables(e, why, n) : number_new(e, why, n);
    if (rc == 0 && e->tables == NULL)
        rc = make_tables(e, why, n);
    if (rc != 0)
        return rc;
    char *base = arena_base(e->arena);
    e->pages = (struct ext_page *)(base + e->tables->pages);
    struct ext_wbuf_root *roots = (struct ext_wbuf_root *)(base + e->tables->wbufs);
    struct extmap_options mo = {.words = (extmap_word *)(base + e->tables->words),
                                .range_count = (uint64_t)e->page_count * e->slots_per_page,
                                .buffer_count = e->wbuf_count};
    if (e->opt.attached && (rc = reset_pages(e, why, n)) != 0)
        return rc;
    if (e->opt.saved != NULL && (rc = ext_load_tables(e, e->opt.saved)) != 0)
        return refuse(why, n, rc == -ENOMEM ? rc : -ESTALE, "its page table can't be used (%s)",
                      rc == -EBADMSG ? "damaged" : strerror(-rc));
    if (e->opt.scan && (rc = ext_scan_tables(e)) != 0)
        return refuse(why, n, rc, "flash: no memory to look for what is on it");
    rc = is_taken_over(e) ? extmap_attach(&mo, &e->map) : extmap_create(&mo, &e->map);
    if (rc != 0)
        return refuse(why, n, rc == -EINVAL ? -ESTALE : rc,
                      "flash: the map of ranges can't be used (%s)", strerror(-rc));
    if (e->opt.attached && !slots_are_sound(e, roots))
        return refuse(why, n, -ESTALE, "flash: the write buffers kept in memory are damaged");
    e->wbufs = calloc(e->wbuf_count, sizeof(*e->wbufs));
    e->free_wbufs = calloc(e->wbuf_count, sizeof(*e->free_wbufs));
    if (e->wbufs == NULL || e->free_wbufs == NULL)
        return refuse(why, n, -ENOMEM, "flash: no memory");
    for (uint32_t i = 0; i < e->wbuf_count; i++)
        ext_wbuf_init(e, i, &roots[i]);
    free_unused_pages(e);
    return 0;
}

static int start(struct extstore *e, char *why, size_t n)
{
    unsigned threads = (unsigned)min_u64(max_u64(e->opt.io_threads, e->device_count), IO_THREADS_MAX);
    e->flushes_at_once = threads / e->device_count;
    ASSERT(e->flushes_at_once > 0);
    e->write_pool = io_pool_create(ext_is_stepped(e) ? 0 : threads, "ext-write");
    if (e->write_pool == NULL)
        return refuse(why, n, -errno, "flash: I/O threads can't be started (%s)", strerror(errno));
    e->reclaim = ext_reclaim_create(e);
    if (e->reclaim == NULL)
        return refuse(why, n, -errno, "flash: no memory for reclaim");
    /* Injected faults reach only what goes through device_ops. */
    bool wanted = e->opt.engine == EXT_ENGINE_URING ||
                  (e->opt.engine == EXT_ENGINE_AUTO && e->opt.device_ops == NULL);
    e->uring = wanted && ext_uring_works(e->device_fds[0]);
    if (e->opt.engine == EXT_ENGINE_URING && !e->uring)
        return refuse(why, n, -ENOSYS, "flash: this kernel or container does not allow io_uring");
    if (is_taken_over(e)) {
        atomic_store(&e->attaching, true);
        free_left_ranges(e);
    } else {
        for (uint32_t i = e->wbuf_count; i-- > 0;)
            e->free_wbufs[e->free_wbuf_count++] = i;
    }
    e->root->format = EXT_ROOT_FORMAT;
    return 0;
}

int ext_begin_life(struct extstore *e, char *why, size_t n)
{
    for (uint32_t i = 0; i < e->device_count; i++) {
        struct ext_device *d = &e->devices[i];
        uint64_t stamp = ext_mark_new_stamp();
        int rc = ext_mark_write(d->fd, stamp);
        if (rc != 0)
            return refuse(why, n, rc, "%s: can't be written (%s)", d->path, strerror(-rc));
        d->stamp = e->tables->devices[i].stamp = stamp;
    }
    return 0;
}

static void release(struct extstore *e)
{
    io_pool_destroy(e->write_pool);
    io_pool_destroy(e->read_pool);
    ext_reclaim_destroy(e->reclaim);
    extmap_destroy(e->map);
    ext_scan_end(e);
    ext_load_end(e);
    for (uint32_t i = 0; i < e->device_count; i++)
        ext_device_close(&e->devices[i]);
    for (unsigned i = 0; i < EXT_BUCKET_COUNT; i++)
        lock_destroy(&e->buckets[i].lock);
    pthread_cond_destroy(&e->idle_cond);
    lock_destroy(&e->page_lock);
    lock_destroy(&e->pool_lock);
    lock_destroy(&e->rings_lock);
    ext_room_end(e);
    ext_numbers_end(e);
    free(e->wbufs);
    free(e->free_wbufs);
    free(e);
}

struct extstore *ext_create(const struct ext_options *opt, struct ext_tunables *tun, char *why,
                            size_t why_bytes)
{
    ASSERT(why_bytes > 0);
    int rc = check_options(opt, why, why_bytes);
    struct extstore *e = rc == 0 ? calloc(1, sizeof(*e)) : NULL;
    if (e == NULL) {
        errno = rc == 0 ? ENOMEM : -rc;
        if (rc == 0)
            refuse(why, why_bytes, 0, "flash: no memory");
        return NULL;
    }
    e->opt = *opt;
    e->tun = tun;
    e->arena = opt->arena;
    e->page_bytes = opt->page_bytes;
    e->wbuf_bytes = opt->wbuf_bytes;
    e->slots_per_page = (uint32_t)(opt->page_bytes / opt->wbuf_bytes);
    pace_init(&e->pace, opt->write_limit_bytes_per_sec, opt->write_limit_bytes_per_day, opt->wbuf_bytes,
              io_now_ns());
    e->page_granules = opt->page_bytes / EXT_GRANULE_BYTES;
    e->slot_granules = opt->wbuf_bytes / EXT_GRANULE_BYTES;
    ext_room_init(e);
    lock_init(&e->page_lock, LOCK_EXT_PAGE);
    lock_init(&e->pool_lock, LOCK_CONTROL);
    lock_init(&e->rings_lock, LOCK_STATS);
    lock_cond_init(&e->idle_cond);
    for (unsigned i = 0; i < EXT_BUCKET_COUNT; i++) {
        lock_init(&e->buckets[i].lock, LOCK_EXT_BUCKET);
        for (uint32_t k = 0; k < EXT_DEVICES_MAX; k++)
            e->buckets[i].files[k].page = EXT_NO_PAGE;
    }
    ext_probe_init(e);

    rc = share_memory(e, why, why_bytes);
    e->wbuf_count = e->opt.wbuf_count;
    if (rc == 0)
        rc = open_devices(e, why, why_bytes);
    if (rc == 0)
        rc = open_tables(e, why, why_bytes);
    if (rc == 0)
        rc = start(e, why, why_bytes);
    if (rc != 0) {
        release(e);
        errno = -rc;
        return NULL;
    }
    return e;
}

void ext_destroy(struct extstore *e, bool flush)
{
    if (e == NULL)
        return;
    if (flush && e->write_pool != NULL) /* else a quiesce did */
        (void)ext_sync(e, -1);
    atomic_store(&e->stopping, true);
    release(e);
}

/* ---- restart ---- */

bool ext_attach_may_hold(struct extstore *e, ext_place place, unsigned len_class)
{
    ASSERT(atomic_load(&e->attaching));
    if (place >= e->page_count * e->page_granules || len_class >= EXT_LEN_CLASSES)
        return false;
    uint64_t room = e->wbuf_bytes - place % e->slot_granules * EXT_GRANULE_BYTES;
    if (room < sizeof(struct ext_record_head) ||
        (len_class > 0 && ext_len_bytes(len_class - 1) >= room))
        return false;
    return ext_page_state_of(&e->pages[ext_place_page(e, place)]) != EXT_PAGE_FREE &&
           extmap_get(e->map, ext_place_slot(e, place)).state != EXTMAP_FREE;
}

bool ext_attach_object(struct extstore *e, ext_place place, unsigned len_class)
{
    if (!ext_attach_may_hold(e, place, len_class))
        return false;
    struct ext_page *p = &e->pages[ext_place_page(e, place)];
    ASSERT(atomic_load(&p->version) != 0);
    atomic_fetch_add(&p->bytes_used, ext_len_bytes(len_class));
    atomic_fetch_add(&p->objects, 1);
    return true;
}

bool ext_attach_is_gone(const struct extstore *e, ext_place place)
{
    ASSERT(atomic_load(&e->attaching));
    uint64_t page = place / e->page_granules;
    return e->is_all_gone || (page < e->gone_count && e->gone[page]);
}

const char *ext_attach_note(const struct extstore *e)
{
    return e->note;
}

void ext_attach_done(struct extstore *e)
{
    ASSERT(atomic_load(&e->attaching));
    ext_scan_end(e);
    free(e->gone);
    e->gone = NULL;
    e->gone_count = 0;
    e->is_all_gone = false;
    /* Not before: a write that fails moves objects, which must be counted then. */
    ext_wbuf_attach(e);
    atomic_store(&e->attaching, false);
    for (uint32_t page = 0; page < e->page_count; page++)
        ext_page_try_free(e, page);
}

/* ---- figures ---- */

/* Is it worth a look, and why? */
static void explain(struct extstore *e, struct ext_info *out)
{
    char *why = out->degraded_why;
    uint64_t since = atomic_load_explicit(&e->no_page_ns, memory_order_relaxed);
    for (uint32_t i = 0; i < e->device_count; i++)
        (void)ext_device_why(&e->devices[i], why, EXT_WHY_BYTES);
    if (out->pages_bad > 0)
        ext_why_add(why, EXT_WHY_BYTES, "%" PRIu64 " pages are bad after write errors",
                    out->pages_bad);
    if (out->wbufs_stuck > 0)
        ext_why_add(why, EXT_WHY_BYTES, "%" PRIu64 " write buffers can't be written now",
                    out->wbufs_stuck);
    if (since != 0 && io_now_ns() - since > NO_PAGE_NS && !ext_is_writable(e))
        ext_why_add(why, EXT_WHY_BYTES, "no page can be opened");
    out->degraded = why[0] != '\0';
    if (!out->degraded)
        ext_why_add(why, EXT_WHY_BYTES, "none");
}

static void count_pages(struct extstore *e, struct ext_info *out)
{
    for (uint32_t i = 0; i < e->page_count; i++) {
        struct ext_page *p = &e->pages[i];
        enum ext_page_state s = ext_page_state_of(p);
        if (!ext_page_is_there(e, i))
            continue;
        out->limit_maxbytes += e->page_bytes;
        if (s == EXT_PAGE_FREE) {
            out->pages_free++;
            continue;
        }
        uint64_t bytes = ext_page_live_bytes(p);
        out->pages_used++;
        out->pages_bad += s == EXT_PAGE_BAD;
        out->objects_used += atomic_load(&p->objects);
        out->bytes_used += bytes;
        out->bytes_fragmented += e->page_bytes - min_u64(bytes, e->page_bytes);
    }
}

void ext_info(struct extstore *e, struct ext_info *out)
{
    memset(out, 0, sizeof(*out));
    count_pages(e, out);
#define X(name, help) out->name = ext_counted(e, EXT_N_##name);
    EXT_COUNTER_TABLE(X) EXT_SHARED_COUNTER_TABLE(X)
#undef X
    ext_ring_counters(e, out);
    out->objects_read += out->objects_read_reclaim;
    out->bytes_read += out->bytes_read_reclaim;
    out->io_queue = io_pool_queued(e->write_pool);
    lock_take(&e->pool_lock);
    if (e->read_pool != NULL)
        out->io_queue += io_pool_queued(e->read_pool);
    lock_release(&e->pool_lock);
    uint32_t dirty = atomic_load(&e->dirty_wbufs);
    out->wbufs_busy = dirty;
    ASSERT(dirty <= e->wbuf_count);
    out->wbufs_free = e->wbuf_count - dirty;
    out->wbufs_stuck = atomic_load(&e->stuck_wbufs);
    out->buffer_bytes = arena_used_bytes(e->arena, ARENA_USE_BUFFER);
    out->page_table_bytes = pages_table_bytes(e) + words_table_bytes(e);
    out->engine = e->uring ? "io_uring" : "threads";
    out->direct = true;
    for (uint32_t i = 0; i < e->device_count; i++)
        out->direct &= e->devices[i].direct;
    explain(e, out);
}

unsigned ext_device_count(const struct extstore *e)
{
    return e->device_count;
}

void ext_device_info(struct extstore *e, unsigned device, struct ext_device_info *out)
{
    ASSERT(device < e->device_count);
    struct ext_device *d = &e->devices[device];
    *out = (struct ext_device_info){
        .path = d->path,
        .bytes = d->bytes,
        .failed = ext_device_failed(d),
        .bytes_read = atomic_load_explicit(&d->reads.bytes, memory_order_relaxed),
        .bytes_written = atomic_load_explicit(&d->writes.bytes, memory_order_relaxed),
    };
    histogram_sum_add(&out->reads, &d->reads.latency);
    histogram_sum_add(&out->writes, &d->writes.latency);
    ext_ring_loads(e, device, &out->reads, &out->bytes_read);
}

struct extents *ext_device_extents(struct extstore *e, unsigned device)
{
    ASSERT(device < e->device_count);
    return e->devices[device].free;
}

unsigned ext_page_count(const struct extstore *e)
{
    return e->page_count;
}

void ext_page_info(struct extstore *e, unsigned page, struct ext_page_info *out)
{
    ASSERT(page < e->page_count);
    struct ext_page *p = &e->pages[page];
    if (!ext_page_is_there(e, page)) {
        *out = (struct ext_page_info){.device = EXT_NO_DEVICE};
        return;
    }
    *out = (struct ext_page_info){
        .state = ext_page_state_of(p),
        .version = atomic_load(&p->version),
        .bytes_used = ext_page_live_bytes(p),
        .objects = atomic_load(&p->objects),
        .bucket = (enum ext_bucket)p->bucket,
        .device = e->where[page].device,
        .free_bucket = ext_page_device(e, page)->free_bucket,
    };
}

/* ---- checks ---- */

/* Pages of one device that are neither free nor used, or both. page_lock held. */
static uint64_t reconcile_device(struct extstore *e, uint32_t device, struct extents_range *used)
{
    lock_assert_held(&e->page_lock);
    size_t n = 0;
    uint32_t probed = atomic_load(&e->probes[device].unit);
    for (uint32_t unit = 0; unit < e->devices[device].page_count; unit++) { /* in the order of units */
        uint32_t page = e->numbers[device][unit];
        ext_page_assert(e, page);
        if (ext_page_state_of(&e->pages[page]) != EXT_PAGE_FREE || unit == probed)
            used[n++] = (struct extents_range){unit, 1};
    }
    struct extents_reconciled result;
    int rc = extents_reconcile(e->devices[device].free, used, n, NULL, NULL, &result);
    ASSERT(rc == 0);
    uint64_t wrong = 0;
    for (unsigned i = 0; i < EXTENTS_FAULT_COUNT; i++)
        wrong += result.units[i];
    return wrong;
}

/* Each buffer is in the free stack, or extmap names the range in it, or it is just being opened.
 * page_lock held. */
static uint64_t reconcile_wbufs(struct extstore *e)
{
    lock_assert_held(&e->page_lock);
    uint64_t wrong = 0;
    for (uint32_t i = 0; i < e->wbuf_count; i++) {
        unsigned places = 0;
        for (uint32_t k = 0; k < e->free_wbuf_count; k++)
            places += e->free_wbufs[k] == i;
        uint64_t range;
        if (extmap_buffer_range(e->map, i, &range) == 0)
            places++;
        bool taken = atomic_load(&e->wbufs[i].state) == EXT_WBUF_TAKEN;
        wrong += places != 1 && !(taken && places == 0);
    }
    return wrong;
}

uint64_t ext_reconcile(struct extstore *e)
{
    struct extents_range *used = calloc(e->page_count, sizeof(*used));
    if (used == NULL)
        return 0;
    uint64_t wrong = 0;
    lock_take(&e->page_lock);
    for (uint32_t i = 0; i < e->device_count; i++)
        wrong += reconcile_device(e, i, used);
    wrong += reconcile_wbufs(e);
    lock_release(&e->page_lock);
    free(used);
    return wrong;
}

void ext_set_event_hook(struct extstore *e, void (*fn)(void *ctx, const char *line), void *ctx)
{
    ASSERT(fn != NULL);
    e->event_fn = fn;
    e->event_ctx = ctx;
}

void ext_set_maint_hook(struct extstore *e, void (*fn)(void *ctx), void *ctx)
{
    e->maint_ctx = ctx;
    e->maint_fn = fn;
}
