/* flash/numbers.c: see flash/numbers.h. Devices are found first, then pages are numbered, then tables are copied. */
#include "flash/numbers.h"

#include <stdarg.h>

void ext_note(struct extstore *e, const char *fmt, ...)
{
    va_list ap;
    size_t used = strlen(e->note);
    va_start(ap, fmt);
    if (used > 0 && used + 3 < sizeof(e->note)) {
        memcpy(e->note + used, ", ", 3);
        used += 2;
    }
    vsnprintf(e->note + used, sizeof(e->note) - used, fmt, ap);
    va_end(ap);
}

/* ---- devices ---- */

static bool is_taken(const uint32_t *device_of, uint32_t known_count, uint32_t device)
{
    for (uint32_t i = 0; i < known_count; i++) {
        if (device_of[i] == device)
            return true;
    }
    return false;
}

static bool is_file_of(const struct ext_device *d, const struct ext_known *k)
{
    return d->dev == k->dev && d->ino == k->ino;
}

/* Has no other entry this one's stamp? Formats before the present one gave all devices the same. */
static bool is_stamp_its_own(const struct ext_known *known, uint32_t count, uint32_t at)
{
    for (uint32_t i = 0; i < count; i++) {
        if (i != at && known[i].stamp == known[at].stamp)
            return false;
    }
    return known[at].stamp != 0;
}

int ext_numbers_match(const struct extstore *e, const struct ext_known *known, uint32_t known_count, bool by_file,
                      uint32_t device_of[EXT_DEVICES_MAX], char *why, size_t n)
{
    for (uint32_t i = 0; i < EXT_DEVICES_MAX; i++)
        device_of[i] = EXT_NO_DEVICE;
    for (uint32_t i = 0; by_file && i < known_count; i++) {
        for (uint32_t k = 0; k < e->device_count; k++) {
            const struct ext_device *d = &e->devices[k];
            if (!is_file_of(d, &known[i]))
                continue;
            if (known[i].stamp == 0 || d->stamp != known[i].stamp) {
                snprintf(why, n, "flash: %s was written to by another process since", d->path);
                return -ESTALE;
            }
            device_of[i] = k;
        }
    }
    for (uint32_t i = 0; i < known_count; i++) {
        for (uint32_t k = 0; k < e->device_count && device_of[i] == EXT_NO_DEVICE; k++) {
            if (e->devices[k].stamp == known[i].stamp && is_stamp_its_own(known, known_count, i) &&
                !is_taken(device_of, known_count, k))
                device_of[i] = k;
        }
    }
    return 0;
}

/* ---- numbers ---- */

static int allocate(struct extstore *e, uint64_t most_pages)
{
    uint64_t units = 0;
    for (uint32_t d = 0; d < e->device_count; d++)
        units += e->devices[d].page_count;
    e->where = calloc(most_pages, sizeof(*e->where));
    uint32_t *numbers = calloc(units, sizeof(*numbers));
    e->numbers[0] = numbers;
    if (e->where == NULL || numbers == NULL)
        return -ENOMEM;
    memset(numbers, 0xff, units * sizeof(*numbers));
    for (uint32_t d = 0; d < e->device_count; d++) {
        e->numbers[d] = numbers;
        numbers += e->devices[d].page_count;
    }
    for (uint64_t page = 0; page < most_pages; page++)
        e->where[page].device = EXT_NO_DEVICE;
    return 0;
}

/* Gives the pages that are still there their old numbers. */
static int keep_numbers(struct extstore *e, const uint32_t *was, uint32_t was_count,
                        const uint32_t device_of[EXT_DEVICES_MAX])
{
    e->gone = calloc(was_count + 1, sizeof(*e->gone));
    if (e->gone == NULL)
        return -ENOMEM;
    e->gone_count = was_count;
    for (uint32_t page = 0; page < was_count; page++) {
        struct ext_page_where at = ext_where_unpack(was[page]);
        uint32_t device = at.device < EXT_DEVICES_MAX ? device_of[at.device] : EXT_NO_DEVICE;
        e->gone[page] = device == EXT_NO_DEVICE || at.unit >= e->devices[device].page_count;
        if (e->gone[page])
            continue;
        if (e->numbers[device][at.unit] != EXT_NO_PAGE)
            return -EUCLEAN;
        e->numbers[device][at.unit] = page;
        e->where[page] = (struct ext_page_where){device, at.unit};
    }
    return 0;
}

/* The other pages, round the devices: numbers that are free, from *next on. True while there may be more. */
static bool number_round(struct extstore *e, uint32_t unit, uint64_t limit, uint64_t *next)
{
    bool more = false;
    for (uint32_t d = 0; d < e->device_count; d++) {
        if (unit >= e->devices[d].page_count)
            continue;
        more = true;
        if (e->numbers[d][unit] != EXT_NO_PAGE)
            continue;
        while (*next < limit && ext_page_is_there(e, (uint32_t)*next))
            ++*next;
        if (*next >= limit)
            continue;
        e->numbers[d][unit] = (uint32_t)*next;
        e->where[*next] = (struct ext_page_where){d, unit};
    }
    return more;
}

/* The device ends before its first page without a number. 0 or -ENOMEM. */
static int cut_device(struct extstore *e, uint32_t device)
{
    struct ext_device *d = &e->devices[device];
    uint32_t count = 0;
    while (count < d->page_count && e->numbers[device][count] != EXT_NO_PAGE)
        count++;
    if (count == d->page_count)
        return 0;
    ext_note(e, "%u of %u pages of %s are not used: the index can't name them until the cache starts empty",
             d->page_count - count, d->page_count, d->path);
    d->page_count = count;
    d->bytes = count * e->page_bytes;
    extents_destroy(d->free);
    d->free = NULL;
    struct extents_options eo = {.unit_count = count > 0 ? count : 1, .all_used = true};
    return extents_create(&eo, &d->free);
}

int ext_numbers_assign(struct extstore *e, const uint32_t *was, uint32_t was_count,
                       const uint32_t device_of[EXT_DEVICES_MAX])
{
    uint64_t most = was_count, next = 0;
    for (uint32_t d = 0; d < e->device_count; d++)
        most += e->devices[d].page_count;
    int rc = allocate(e, most);
    if (rc == 0 && was_count > 0)
        rc = keep_numbers(e, was, was_count, device_of);
    if (rc != 0)
        return rc;
    uint64_t limit = e->opt.place_limit / e->page_granules;
    limit = e->opt.place_limit == 0 ? most : max_u64(min_u64(limit, most), was_count);
    for (uint32_t unit = 0; number_round(e, unit, limit, &next); unit++)
        ;
    for (uint32_t d = 0; rc == 0 && d < e->device_count; d++)
        rc = cut_device(e, d);
    e->page_count = (uint32_t)most;
    while (e->page_count > 0 && !ext_page_is_there(e, e->page_count - 1))
        e->page_count--;
    return rc;
}

void ext_numbers_end(struct extstore *e)
{
    free(e->where);
    free(e->numbers[0]);
    free(e->gone);
}

/* ---- tables ---- */

/* Is flash gone that an earlier process used? */
static bool is_part_gone(const struct extstore *e, const struct ext_known *known, uint32_t known_count,
                         const uint32_t device_of[EXT_DEVICES_MAX])
{
    for (uint32_t was = 0; was < known_count; was++) {
        uint32_t device = device_of[was];
        if (device == EXT_NO_DEVICE || e->devices[device].bytes < known[was].bytes)
            return true;
    }
    return false;
}

int ext_numbers_describe(struct extstore *e, struct ext_tables *t, const struct ext_known *known,
                         uint32_t known_count, const uint32_t device_of[EXT_DEVICES_MAX], char *why, size_t n)
{
    t->page_bytes = e->page_bytes;
    t->wbuf_bytes = e->wbuf_bytes;
    t->page_count = e->page_count;
    t->wbuf_count = e->wbuf_count;
    t->device_count = e->device_count;
    bool part_gone = is_part_gone(e, known, known_count, device_of);
    for (uint32_t i = 0; i < e->device_count; i++) {
        struct ext_device *d = &e->devices[i];
        struct ext_known *k = &t->devices[i];
        *k = (struct ext_known){.since = e->opt.scan ? e->opt.since[i] : atomic_load(&e->root->next_version)};
        for (uint32_t was = 0; was < known_count; was++) {
            if (device_of[was] == i)
                *k = known[was];
        }
        if (part_gone)
            k->since = atomic_load(&e->root->next_version);
        if (k->stamp == 0) {
            k->stamp = d->stamp = ext_mark_new_stamp();
            int rc = ext_mark_write(d->fd, d->stamp);
            if (rc != 0) {
                snprintf(why, n, "%s: can't be written (%s)", d->path, strerror(-rc));
                return rc;
            }
        }
        k->dev = d->dev;
        k->ino = d->ino;
        k->bytes = d->bytes;
    }
    return 0;
}

struct rebuild {
    struct extstore *e;
    char *base;
    const struct ext_tables *was;
    struct ext_tables *now;
    uint32_t delayed;      /* unflushed buffers, which get the first numbers */
    uint32_t *buffer_from; /* new number -> old number; EXT_NO_PAGE: a new one */
};

static bool stays(const struct extstore *e, uint32_t page)
{
    return page < e->gone_count && !e->gone[page] && page < e->page_count;
}

/* Copies the words of pages that stay; gives unflushed buffers new numbers. */
static int copy_words(struct rebuild *b)
{
    struct extstore *e = b->e;
    const extmap_word *from = (const extmap_word *)(b->base + b->was->words);
    extmap_word *to = (extmap_word *)(b->base + b->now->words);
    uint64_t per_page = e->slots_per_page;
    memset((void *)to, 0, e->page_count * per_page * sizeof(*to));
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

static void copy_pages(struct rebuild *b)
{
    struct extstore *e = b->e;
    const struct ext_page *from = (const struct ext_page *)(b->base + b->was->pages);
    struct ext_page *to = (struct ext_page *)(b->base + b->now->pages);
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
static int give_memory(struct rebuild *b, bool *is_used)
{
    struct extstore *e = b->e;
    const struct ext_wbuf_root *from = (const struct ext_wbuf_root *)(b->base + b->was->wbufs);
    struct ext_wbuf_root *to = (struct ext_wbuf_root *)(b->base + b->now->wbufs);
    uint32_t spare = 0;
    memset((void *)to, 0, e->wbuf_count * sizeof(*to));
    for (uint32_t i = 0; i < b->delayed; i++) {
        if (is_used[b->buffer_from[i]])
            return -ESTALE;
        is_used[b->buffer_from[i]] = true;
        memcpy((void *)&to[i], (const void *)&from[b->buffer_from[i]], sizeof(to[i]));
    }
    for (uint32_t i = b->delayed; i < e->wbuf_count; i++) {
        while (spare < b->was->wbuf_count && is_used[spare])
            spare++;
        if (spare < b->was->wbuf_count) {
            is_used[spare] = true;
            to[i].memory = from[spare].memory;
            continue;
        }
        int rc = arena_alloc(e->arena, ARENA_USE_BUFFER, e->wbuf_bytes, ARENA_UNIT_BYTES, &to[i].memory, NULL);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static uint64_t words_bytes(const struct extstore *e, uint32_t page_count)
{
    return (uint64_t)page_count * e->slots_per_page * sizeof(extmap_word);
}

/* The old tables, and the memory of buffers that are too many now. */
static void free_old(struct rebuild *b, const bool *is_used)
{
    struct extstore *e = b->e;
    const struct ext_wbuf_root *from = (const struct ext_wbuf_root *)(b->base + b->was->wbufs);
    for (uint32_t i = 0; i < b->was->wbuf_count; i++) {
        if (!is_used[i])
            arena_free(e->arena, ARENA_USE_BUFFER, from[i].memory, e->wbuf_bytes);
    }
    arena_free(e->arena, ARENA_USE_META, b->was->pages, b->was->page_count * sizeof(struct ext_page));
    arena_free(e->arena, ARENA_USE_META, b->was->words, words_bytes(e, b->was->page_count));
    arena_free(e->arena, ARENA_USE_META, b->was->wbufs, b->was->wbuf_count * sizeof(struct ext_wbuf_root));
}

static int take_memory(struct rebuild *b)
{
    struct extstore *e = b->e;
    int rc = arena_alloc(e->arena, ARENA_USE_META, e->page_count * sizeof(struct ext_page), ARENA_UNIT_BYTES,
                         &b->now->pages, NULL);
    if (rc == 0)
        rc = arena_alloc(e->arena, ARENA_USE_META, words_bytes(e, e->page_count), ARENA_UNIT_BYTES, &b->now->words,
                         NULL);
    return rc;
}

int ext_numbers_rebuild(struct extstore *e, const struct ext_tables *was, struct ext_tables *now)
{
    struct rebuild b = {.e = e, .base = arena_base(e->arena), .was = was, .now = now};
    b.buffer_from = calloc(was->wbuf_count + 1, sizeof(*b.buffer_from));
    bool *is_used = calloc(was->wbuf_count + 1, sizeof(*is_used));
    int rc = b.buffer_from == NULL || is_used == NULL ? -ENOMEM : take_memory(&b);
    if (rc == 0)
        rc = copy_words(&b);
    if (rc == 0) {
        e->wbuf_count = (uint32_t)max_u64(e->wbuf_count, b.delayed);
        now->wbuf_count = e->wbuf_count;
        now->reclaim = was->reclaim;
        copy_pages(&b);
        rc = arena_alloc(e->arena, ARENA_USE_META, e->wbuf_count * sizeof(struct ext_wbuf_root), ARENA_UNIT_BYTES,
                         &now->wbufs, NULL);
    }
    if (rc == 0)
        rc = give_memory(&b, is_used);
    if (rc == 0) {
        atomic_store(&e->root->current, (uint32_t)(now - e->root->tables));
        e->tables = now;
        free_old(&b, is_used);
    }
    free(b.buffer_from);
    free(is_used);
    return rc;
}
