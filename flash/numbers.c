/* flash/numbers.c: see flash/numbers.h. Devices are found first, then pages are numbered. */
#include "flash/numbers.h"

#include "base/why.h"

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

/* Does the device bear the entry's stamp, or the next one, if a process was killed while it wrote that? */
static bool has_stamp_of(const struct ext_device *d, const struct ext_known *k)
{
    if (k->stamp == 0 && k->step == 0)
        return false; /* with a step, it never had a mark, but may have got its first one just now */
    return d->stamp == k->stamp || (k->step != 0 && d->stamp == ext_mark_next_stamp(k->stamp, k->step));
}

/* It never got a mark, and before that nothing else is written to it. (Format 3 has no step.) */
static bool holds_nothing(const struct ext_known *k) { return k->stamp == 0 && k->step != 0; }

int ext_numbers_match(struct extstore *e, bool by_file, char *why, size_t n)
{
    const struct ext_known *known = e->known;
    uint32_t known_count = e->known_count, *device_of = e->device_of;
    ASSERT(known_count <= EXT_DEVICES_MAX);
    for (uint32_t i = 0; i < EXT_DEVICES_MAX; i++)
        device_of[i] = EXT_NO_DEVICE;
    for (uint32_t i = 0; by_file && i < known_count; i++) {
        for (uint32_t k = 0; k < e->device_count; k++) {
            const struct ext_device *d = &e->devices[k];
            if (!is_file_of(d, &known[i]))
                continue;
            if (!has_stamp_of(d, &known[i]) && holds_nothing(&known[i]))
                continue; /* a new device, whatever others did with it */
            if (!has_stamp_of(d, &known[i]))
                return why_say(why, n, -ESTALE, "flash: %s was written to by another process since", d->path);
            device_of[i] = k;
        }
    }
    for (uint32_t i = 0; i < known_count; i++) {
        for (uint32_t k = 0; k < e->device_count && device_of[i] == EXT_NO_DEVICE; k++) {
            if (has_stamp_of(&e->devices[k], &known[i]) && is_stamp_its_own(known, known_count, i) &&
                !is_taken(device_of, known_count, k))
                device_of[i] = k;
        }
    }
    return 0;
}

/* ---- numbers ---- */

static int allocate(struct extstore *e, uint64_t most_pages, uint64_t units)
{
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
static int keep_numbers(struct extstore *e, const uint32_t *was, uint32_t was_count)
{
    e->gone = calloc(was_count + 1, sizeof(*e->gone));
    if (e->gone == NULL)
        return -ENOMEM;
    e->gone_count = was_count;
    for (uint32_t page = 0; page < was_count; page++) {
        struct ext_page_where at = ext_where_unpack(was[page]);
        uint32_t device = at.device < EXT_DEVICES_MAX ? e->device_of[at.device] : EXT_NO_DEVICE;
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
    why_add(e->note, sizeof(e->note), ", ",
            "%u of %u pages of %s are not used: the index can't name them until the cache starts empty",
             d->page_count - count, d->page_count, d->path);
    d->page_count = count;
    d->bytes = count * e->page_bytes;
    extents_destroy(d->free);
    d->free = NULL;
    struct extents_options eo = {.unit_count = count > 0 ? count : 1, .all_used = true};
    return extents_create(&eo, &d->free);
}

int ext_numbers_assign(struct extstore *e, const uint32_t *was, uint32_t was_count)
{
    ASSERT(e->where == NULL && e->page_granules > 0);
    uint64_t units = 0, next = 0;
    for (uint32_t d = 0; d < e->device_count; d++)
        units += e->devices[d].page_count;
    uint64_t most = was_count + units;
    int rc = allocate(e, most, units);
    if (rc == 0 && was_count > 0)
        rc = keep_numbers(e, was, was_count);
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
