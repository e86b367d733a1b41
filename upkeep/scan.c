/* upkeep/scan.c: see upkeep/scan.h.
 *
 * First it reads all trailers (ext_scan_tables, in ext_create): the slots of a page with its highest
 * version belong to its last life, the others to earlier ones. Versions come from one counter that
 * grows over all starts, so the highest is the latest. The page is then SEALED up to the last
 * such slot. A damaged trailer must not take a whole page away, or give its number to another. If versions differ, the
 * highest counts only if the table or a record of its slot verifies with it (last_life); likewise a number (trailer_number).
 * Nor may it bring an earlier life back: a version with one wrong byte is mended by the table's checksum (mended_version),
 * and with another wrong byte the trailer counts if a record verifies with its version.
 *
 * Then page by page (ext_scan_page) each slot's table, and the records' headers, by reads of up to
 * WINDOW_BYTES where they stand close, of one block where values are long. A record that fits
 * into the window is verified completely; the header of a longer one is compared with the table, and
 * the caller compares the key's hash; clients' reads verify the rest. Of a record that can't be read, the
 * table still tells the hash: the caller hears of it, and numbers go on far above those that were read. Where a table
 * can't be read, the slot is searched for records (search_slot): each verifies by itself. A slot without a trailer of
 * the page's life, before one with it, was given out too, so it is searched; behind the last it counts as never written.
 *
 * Memory: two windows and one table (at most a slot's length), and a slot that is searched. One thread; no locks. */
#include "upkeep/scan.h"

#include "flash/engine.h"
#include "flash/numbers.h"

#define WINDOW_BYTES ((uint64_t)256 * KiB)
#define SMALL_WINDOW_BYTES ((uint64_t)64 * KiB)
#define NEAR_BYTES ((uint64_t)16 * KiB) /* shorter records are read with their neighbours */
#define HEAD_BYTES_MAX (sizeof(struct ext_record_head) + UINT8_MAX)
#define VERSIONS_AHEAD (UINT32_C(1) << 28) /* no process opened more pages than this */
#define SEQ_GAP (UINT64_C(1) << 40) /* no more records than this follow the last one whose seq is known */

struct window { /* holds [start, start + length) of a device */
    char *memory;
    uint64_t room, start, length;
    uint32_t device;
};

struct ext_scan {
    struct window run;    /* goes along a slot */
    struct window single; /* for single records: so that these don't cost the run its window */
    char *table;
    uint64_t table_bytes; /* room */
    bool has_unread;      /* a record was not read, so its seq is not known */
};

static struct ext_scan *scan_of(struct extstore *e)
{
    if (e->scan != NULL)
        return e->scan;
    struct ext_scan *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return NULL;
    s->run.memory = aligned_alloc(EXT_IO_ALIGN_BYTES, WINDOW_BYTES);
    s->run.room = WINDOW_BYTES;
    s->single.memory = aligned_alloc(EXT_IO_ALIGN_BYTES, SMALL_WINDOW_BYTES);
    s->single.room = SMALL_WINDOW_BYTES;
    s->table_bytes = min_u64(e->wbuf_bytes, WINDOW_BYTES);
    s->table = aligned_alloc(EXT_IO_ALIGN_BYTES, s->table_bytes);
    e->scan = s;
    if (s->run.memory == NULL || s->single.memory == NULL || s->table == NULL) {
        ext_scan_end(e);
        return NULL;
    }
    return s;
}

void ext_scan_end(struct extstore *e)
{
    if (e->scan == NULL)
        return;
    if (e->scan->has_unread)
        atomic_fetch_add(&e->root->next_seq, SEQ_GAP);
    free(e->scan->run.memory);
    free(e->scan->single.memory);
    free(e->scan->table);
    free(e->scan);
    e->scan = NULL;
}

static int read_device(struct extstore *e, uint32_t device, void *buf, uint64_t bytes,
                       uint64_t offset)
{
    struct ext_io_counts c = {0};
    ASSERT(device < e->device_count && bytes % EXT_IO_ALIGN_BYTES == 0 && offset % EXT_IO_ALIGN_BYTES == 0);
    int rc = ext_device_read(&e->devices[device], buf, bytes, offset, &c);
    ext_count(e, EXT_N_bytes_read_reclaim, c.bytes);
    ext_count(e, EXT_N_read_errors, rc != 0);
    return rc;
}

/* ---- trailers ---- */

static bool is_later(uint32_t a, uint32_t b) { return b == 0 || (int32_t)(a - b) > 0; }

/* Reads what stands where the trailer of the slot that ends at `end` of a device should be. False: it can't be read. */
static bool read_trailer_bytes(struct extstore *e, uint32_t device, uint64_t end, struct ext_trailer *t)
{
    char *block = e->scan->table;
    ASSERT(device < e->device_count && end >= e->wbuf_bytes && end <= e->devices[device].bytes);
    struct ext_io_counts c = {0};
    int rc = ext_device_read(&e->devices[device], block, EXT_IO_ALIGN_BYTES, end - EXT_IO_ALIGN_BYTES, &c);
    e->scan->has_unread |= rc != 0;
    if (rc != 0)
        return false;
    memcpy(t, block + EXT_IO_ALIGN_BYTES - sizeof(*t), sizeof(*t));
    return true;
}

/* May a page of the device have been opened with this version since it joined the cache? */
static bool is_possible(const struct extstore *e, uint32_t device, uint32_t version)
{
    uint32_t since = e->opt.since[device], floor = e->opt.version_floor;
    return version != 0 && (since == 0 || is_later(version, since)) &&
           (floor == 0 || !is_later(version, floor + VERSIONS_AHEAD));
}

static bool is_count_possible(const struct extstore *e, uint32_t count)
{
    return count <= (e->wbuf_bytes - sizeof(struct ext_trailer)) / sizeof(struct ext_entry);
}

/* False: there is no trailer of the device's time in the cache. Its checksum comes with its table. */
static bool read_trailer(struct extstore *e, uint32_t device, uint64_t end, struct ext_trailer *t)
{
    return read_trailer_bytes(e, device, end, t) && t->magic == EXT_TRAILER_MAGIC &&
           is_possible(e, device, t->version) && is_count_possible(e, t->count);
}

/* Reads the table of the slot that ends at slot_end into s->table. 0 with its end and number of entries; else it can't be
 * used. */
static int read_table(struct extstore *e, uint32_t device, uint64_t slot_end, uint64_t slot, uint32_t version, char **end,
                      uint32_t *count)
{
    struct ext_scan *s = e->scan;
    uint64_t have = EXT_IO_ALIGN_BYTES;
    ASSERT(device < e->device_count && slot_end >= e->wbuf_bytes && slot_end <= e->devices[device].bytes);
    for (;;) {
        if (have > s->table_bytes) {
            char *more = aligned_alloc(EXT_IO_ALIGN_BYTES, have);
            if (more == NULL)
                return -ENOMEM;
            free(s->table);
            s->table = more;
            s->table_bytes = have;
        }
        int rc = read_device(e, device, s->table, have, slot_end - have);
        *end = s->table + have;
        if (rc == 0)
            rc = ext_trailer_verify(*end, have, e->wbuf_bytes, slot, version, count);
        if (rc != -EAGAIN)
            return rc;
        ASSERT(have < e->wbuf_bytes);
        have = round_up(sizeof(struct ext_trailer) + (uint64_t)*count * sizeof(struct ext_entry),
                        EXT_IO_ALIGN_BYTES);
    }
}

/* The page number in the latest trailer whose table verifies (*is_sure); if no table does, in the latest trailer. EXT_NO_PAGE:
 * there is no trailer. */
static uint32_t trailer_number(struct extstore *e, struct ext_page_where at, uint32_t *version, bool *is_sure)
{
    uint32_t number = EXT_NO_PAGE, count;
    ASSERT(at.unit < e->devices[at.device].page_count);
    *version = 0;
    *is_sure = false;
    for (uint32_t i = 0; i < e->slots_per_page; i++) {
        struct ext_trailer t;
        char *table;
        uint64_t end = at.unit * e->page_bytes + (i + 1) * e->wbuf_bytes;
        if (!read_trailer(e, at.device, end, &t) || t.slot % e->slots_per_page != i ||
            (*is_sure && !is_later(t.version, *version)))
            continue;
        bool verifies = read_table(e, at.device, end, t.slot, t.version, &table, &count) == 0;
        if (!verifies && (*is_sure || !is_later(t.version, *version)))
            continue;
        *is_sure = verifies;
        *version = t.version;
        number = (uint32_t)min_u64(t.slot / e->slots_per_page, EXT_NO_PAGE);
    }
    return number;
}

struct claim { /* to a number */
    uint32_t where, version;
    bool is_sure;
};

/* If two pages claim one number, a sure claim wins over an unsure one, and otherwise the later version. */
static void claim_numbers(struct extstore *e, struct claim *claims, uint64_t count, uint32_t *used)
{
    for (uint32_t d = 0; d < e->device_count; d++) {
        for (uint32_t unit = 0; unit < e->devices[d].page_count; unit++) {
            struct ext_page_where at = {d, unit};
            bool is_sure;
            uint32_t version, number = trailer_number(e, at, &version, &is_sure);
            if (number >= count || (is_sure == claims[number].is_sure ? !is_later(version, claims[number].version) : !is_sure))
                continue;
            claims[number] = (struct claim){ext_where_pack(at), version, is_sure};
            *used = (uint32_t)max_u64(*used, number + 1);
        }
    }
}

int ext_scan_numbers(struct extstore *e)
{
    ASSERT(e->opt.scan && e->where == NULL && e->known_count == 0);
    uint64_t units = 0, count;
    uint32_t used = 0;
    for (uint32_t d = 0; d < e->device_count; d++)
        units += e->devices[d].page_count;
    /* Numbers go beyond the pages that there are where devices were taken away; far beyond, they are foreign. */
    count = min_u64(EXT_DEVICES_MAX * units + 1024, EXT_UNITS_MAX);
    if (e->opt.place_limit != 0)
        count = min_u64(count, e->opt.place_limit / e->page_granules);
    struct claim *claims = calloc(count, sizeof(*claims));
    uint32_t *where = calloc(count, sizeof(*where));
    int rc = claims == NULL || where == NULL || scan_of(e) == NULL ? -ENOMEM : 0;
    if (rc == 0) {
        claim_numbers(e, claims, count, &used);
        for (uint32_t page = 0; page < used; page++)
            where[page] = claims[page].version != 0 ? claims[page].where : EXT_NOWHERE;
        for (uint32_t d = 0; d < EXT_DEVICES_MAX; d++)
            e->device_of[d] = d; /* a claim says on which it stands now */
        rc = ext_numbers_assign(e, where, used);
    }
    free(claims);
    free(where);
    return rc;
}

/* Reads a whole slot; what can't be read is zeroes. False: not all could be read. */
static bool read_slot(struct extstore *e, uint64_t slot, char *image)
{
    uint32_t device = e->where[ext_slot_page(e, slot)].device;
    uint64_t start = ext_slot_offset(e, slot), bytes;
    bool is_whole = true;
    for (uint64_t at = 0; at < e->wbuf_bytes; at += bytes) {
        bytes = min_u64(e->wbuf_bytes - at, SMALL_WINDOW_BYTES);
        if (read_device(e, device, image + at, bytes, start + at) == 0)
            continue;
        for (uint64_t block = at; block < at + bytes; block += EXT_IO_ALIGN_BYTES) {
            if (read_device(e, device, image + block, EXT_IO_ALIGN_BYTES, start + block) == 0)
                continue;
            memset(image + block, 0, EXT_IO_ALIGN_BYTES);
            is_whole = false;
        }
    }
    return is_whole;
}

/* The bytes of the record that stands `at` bytes into the slot's image, written in this life of its page; 0: none does. */
static uint64_t record_at(struct extstore *e, uint64_t slot, uint32_t version, const char *image, uint64_t at,
                          struct ext_record *rec)
{
    struct ext_record_head head;
    ASSERT(at % EXT_GRANULE_BYTES == 0 && at + sizeof(head) <= e->wbuf_bytes);
    memcpy(&head, image + at, sizeof(head));
    uint64_t bytes = ext_record_bytes(head.key_bytes, head.value_bytes);
    ext_place place = ext_slot_place(e, slot) + at / EXT_GRANULE_BYTES;
    bool verifies = ext_record_head_is_sound(&head) && bytes <= EXT_RECORD_MAX_BYTES &&
                    ext_record_verify(image + at, e->wbuf_bytes - at, version, place, rec) == 0;
    return verifies ? bytes : 0;
}

/* The version that a trailer with the wrong version `found` was written with, if its table tells; or 0. */
static uint32_t mended_version(struct extstore *e, uint64_t slot, uint32_t found)
{
    uint32_t count, device = e->where[ext_slot_page(e, slot)].device;
    char *end;
    if (read_table(e, device, ext_slot_offset(e, slot) + e->wbuf_bytes, slot, found, &end, &count) != -EBADMSG)
        return 0;
    uint32_t version = ext_trailer_mend_version(end, (uint64_t)(end - e->scan->table), e->wbuf_bytes);
    return is_possible(e, device, version) ? version : 0;
}

/* Does a record in the slot verify with this version? True as well if that can't be known, since values of older lives must
 * not come back. */
static bool has_record(struct extstore *e, uint64_t slot, uint32_t version)
{
    struct ext_record rec;
    char *image = aligned_alloc(EXT_IO_ALIGN_BYTES, e->wbuf_bytes);
    if (image == NULL)
        return true;
    ASSERT(version != 0);
    bool found = !read_slot(e, slot, image);
    uint64_t end = ext_table_start(e->wbuf_bytes, 0) - sizeof(struct ext_record_head);
    for (uint64_t at = ext_slot_front(e, slot); !found && at <= end; at += EXT_GRANULE_BYTES)
        found = record_at(e, slot, version, image, at, &rec) != 0;
    free(image);
    return found;
}

/* The version in the slot's trailer, or 0. Of its magic number, slot and count one may be wrong, if a record has the version; with
 * a version that can't be, see mended_version. */
static uint32_t trailer_version(struct extstore *e, uint64_t slot)
{
    struct ext_trailer t;
    uint32_t device = e->where[ext_slot_page(e, slot)].device;
    if (!read_trailer_bytes(e, device, ext_slot_offset(e, slot) + e->wbuf_bytes, &t))
        return 0;
    int right = (t.magic == EXT_TRAILER_MAGIC) + (t.slot == slot) + is_count_possible(e, t.count);
    if (right == 3)
        return is_possible(e, device, t.version) ? t.version : mended_version(e, slot, t.version);
    return right == 2 && is_possible(e, device, t.version) && has_record(e, slot, t.version) ? t.version : 0;
}

/* Does the slot's table, or at least one record in it, verify with this version? As has_record. */
static bool is_borne_out(struct extstore *e, uint64_t slot, uint32_t version)
{
    uint32_t count, device = e->where[ext_slot_page(e, slot)].device;
    char *table;
    int rc = read_table(e, device, ext_slot_offset(e, slot) + e->wbuf_bytes, slot, version, &table, &count);
    return rc != -EBADMSG || has_record(e, slot, version);
}

/* Versions that nothing bears out get the one that was meant, if that can be told: a later life must not be taken for an
 * earlier one. */
static void mend_versions(struct extstore *e, uint64_t first_slot, uint32_t *versions)
{
    for (uint32_t i = 0; i < e->slots_per_page; i++) {
        if (versions[i] == 0 || is_borne_out(e, first_slot + i, versions[i]))
            continue;
        uint32_t meant = mended_version(e, first_slot + i, versions[i]);
        versions[i] = meant != 0 ? meant : versions[i];
    }
}

/* Is there more than one version, or only one slot that has one? Other pages need no closer look: all slots agree. */
static bool is_mixed_or_alone(const struct extstore *e, const uint32_t *versions)
{
    uint32_t first = 0, count = 0;
    bool differ = false;
    for (uint32_t i = 0; i < e->slots_per_page; i++) {
        count += versions[i] != 0;
        first = first == 0 ? versions[i] : first;
        differ |= versions[i] != 0 && versions[i] != first;
    }
    return differ || count == 1;
}

/* The version of the page's last life; 0: none. Versions with which nothing verifies become 0. */
static uint32_t last_life(struct extstore *e, uint64_t first_slot, uint32_t *versions)
{
    ASSERT(first_slot % e->slots_per_page == 0);
    if (is_mixed_or_alone(e, versions))
        mend_versions(e, first_slot, versions);
    for (;;) {
        uint32_t latest = 0;
        bool differ = false, found = false;
        for (uint32_t i = 0; i < e->slots_per_page; i++) {
            differ |= latest != 0 && versions[i] != 0 && versions[i] != latest;
            if (versions[i] != 0 && is_later(versions[i], latest))
                latest = versions[i];
        }
        for (uint32_t i = 0; differ && !found && i < e->slots_per_page; i++)
            found = versions[i] == latest && is_borne_out(e, first_slot + i, latest);
        if (!differ || found)
            return latest;
        for (uint32_t i = 0; i < e->slots_per_page; i++)
            versions[i] = versions[i] == latest ? 0 : versions[i];
    }
}

static void scan_page_table(struct extstore *e, uint32_t page, uint32_t *versions)
{
    extmap_word *words = ext_words_of(e, e->tables);
    struct ext_page *p = &e->pages[page];
    uint64_t first = (uint64_t)page * e->slots_per_page;
    ASSERT(ext_page_state_of(p) == EXT_PAGE_FREE && atomic_load(&p->objects) == 0);
    uint32_t used = 0;
    for (uint32_t i = 0; i < e->slots_per_page; i++)
        versions[i] = trailer_version(e, first + i);
    uint32_t latest = last_life(e, first, versions);
    if (latest == 0)
        return;
    for (uint32_t i = 0; i < e->slots_per_page; i++)
        used = versions[i] == latest ? i + 1 : used;
    for (uint32_t i = 0; i < used; i++)
        words[first + i] = extmap_written_word();
    p->bucket = EXT_BUCKET_DEFAULT;
    ext_raised_set(&p->exptime_max, 0);
    ext_raised_set(&p->time_max, 0);
    atomic_store(&p->version, latest);
    atomic_store(&p->state, EXT_PAGE_SEALED);
    atomic_store(&p->slots_used, used);
    if (is_later(latest, atomic_load(&e->root->next_version)))
        atomic_store(&e->root->next_version, latest);
}

int ext_scan_tables(struct extstore *e)
{
    uint32_t *versions = calloc(e->slots_per_page, sizeof(*versions));
    if (scan_of(e) == NULL || versions == NULL) {
        free(versions);
        return -ENOMEM;
    }
    for (uint32_t page = 0; page < e->page_count; page++) {
        if (ext_page_is_there(e, page))
            scan_page_table(e, page, versions);
    }
    free(versions);
    return 0;
}

/* ---- records ---- */

/* Makes the window hold [offset, offset + need) of the device, and up to `wish` bytes if they end before
 * `end`. */
static const char *look_at(struct extstore *e, struct window *w, uint32_t device, uint64_t offset,
                           uint64_t need, uint64_t wish, uint64_t end)
{
    ASSERT(offset + need <= end && need <= w->room - EXT_IO_ALIGN_BYTES);
    ASSERT(device < e->device_count && end <= e->devices[device].bytes);
    if (w->length == 0 || w->device != device || offset < w->start ||
        offset + need > w->start + w->length) {
        uint64_t start = round_down(offset, EXT_IO_ALIGN_BYTES);
        uint64_t length = round_up(offset + max_u64(need, wish) - start, EXT_IO_ALIGN_BYTES);
        length = min_u64(min_u64(length, w->room), round_up(end, EXT_IO_ALIGN_BYTES) - start);
        w->length = 0;
        if (read_device(e, device, w->memory, length, start) != 0)
            return NULL;
        w->device = device;
        w->start = start;
        w->length = length;
    }
    ASSERT(offset >= w->start && offset + need <= w->start + w->length && w->length <= w->room);
    return w->memory + (offset - w->start);
}

/* Takes apart the record at `at` in a window; record_bytes 0: not known. -EBADMSG: it is none. */
static int take_apart(struct extstore *e, const struct window *w, const char *at, ext_place place,
                      uint64_t record_bytes, struct ext_scanned *out)
{
    struct ext_record_head head;
    uint32_t version = atomic_load(&e->pages[ext_place_page(e, place)].version);
    ASSERT(at >= w->memory && at + sizeof(head) <= w->memory + w->length);
    memcpy(&head, at, sizeof(head));
    uint64_t bytes = ext_record_bytes(head.key_bytes, head.value_bytes);
    if (!ext_record_head_is_sound(&head) ||
        (record_bytes != 0 && bytes != record_bytes) ||
        (uint64_t)(at - w->memory) + sizeof(head) + head.key_bytes > w->length)
        return -EBADMSG;
    struct ext_record rec;
    if (bytes <= w->length - (uint64_t)(at - w->memory) &&
        ext_record_verify(at, bytes, version, place, &rec) != 0)
        return -EBADMSG;
    out->place = place;
    out->key = at + sizeof(head);
    out->key_bytes = head.key_bytes;
    out->cas = head.cas;
    out->seq = head.seq;
    out->exptime_unix = head.exptime_unix;
    out->time_unix = head.time_unix;
    return 0;
}

/* Reads the record that the entry names; otherwise says why not. */
static void read_record(struct extstore *e, uint64_t slot, const struct ext_entry *entry, uint64_t front,
                        struct ext_scanned *out)
{
    uint32_t device = e->where[ext_slot_page(e, slot)].device;
    uint64_t offset = ext_slot_offset(e, slot) + (uint64_t)entry->granule * EXT_GRANULE_BYTES;
    uint64_t need = min_u64(entry->record_bytes, HEAD_BYTES_MAX);
    bool is_near = entry->record_bytes <= NEAR_BYTES;
    ASSERT(entry->record_bytes >= sizeof(struct ext_record_head)); /* checked by scan_slot */
    struct window *w = &e->scan->run;
    const char *at = look_at(e, w, device, offset, is_near ? entry->record_bytes : need,
                             is_near ? WINDOW_BYTES : need, front);
    *out = (struct ext_scanned){.hash = entry->hash,
                                .place = ext_slot_place(e, slot) + entry->granule,
                                .len_class = ext_len_class(entry->record_bytes)};
    out->unread = at == NULL ? -EIO : take_apart(e, w, at, out->place, entry->record_bytes, out);
    ext_count(e, EXT_N_bad_checksums, out->unread == -EBADMSG);
    ext_count(e, EXT_N_objects_read_reclaim, out->unread == 0);
    e->scan->has_unread |= out->unread != 0;
}

/* Notes what ext_page_add_object would, except the object itself. */
static void note_record(struct extstore *e, uint32_t page, uint64_t record_bytes,
                        const struct ext_scanned *rec)
{
    struct ext_page *p = &e->pages[page];
    ASSERT(rec->len_class < EXT_LEN_CLASSES && record_bytes <= ext_len_bytes(rec->len_class));
    atomic_fetch_add(&p->bytes_appended, ext_len_bytes(rec->len_class));
    atomic_fetch_add(&p->bytes_real, record_bytes);
    ext_raise(&p->exptime_max, rec->exptime_unix == 0 ? UINT32_MAX : rec->exptime_unix);
    ext_raise(&p->time_max, rec->unread != 0 ? UINT32_MAX : rec->time_unix);
    if (atomic_load(&e->root->next_seq) < rec->seq)
        atomic_store(&e->root->next_seq, rec->seq);
}

/* The record at `at` of a slot's image, if one of its page's life stands there. Its bytes; 0: none does. */
static uint64_t find_record(struct extstore *e, uint64_t slot, const char *image, uint64_t at, struct ext_scanned *out)
{
    const struct ext_callbacks *cb = &e->opt.callbacks;
    struct ext_record rec;
    ext_place place = ext_slot_place(e, slot) + at / EXT_GRANULE_BYTES;
    uint64_t bytes = record_at(e, slot, atomic_load(&e->pages[ext_slot_page(e, slot)].version), image, at, &rec);
    if (bytes == 0)
        return 0;
    *out = (struct ext_scanned){.hash = cb->hash_of(cb->ctx, rec.key, rec.key_bytes),
                                .place = place,
                                .len_class = ext_len_class(bytes),
                                .key = rec.key,
                                .key_bytes = rec.key_bytes,
                                .cas = rec.cas,
                                .seq = rec.seq,
                                .exptime_unix = rec.exptime_unix,
                                .time_unix = rec.time_unix};
    return bytes;
}

/* Visits the records of a slot whose table is of no use. Of others in it nothing is known. 0 or -ENOMEM. */
static int search_slot(struct extstore *e, uint64_t slot, ext_scan_visit *visit, void *ctx)
{
    e->scan->has_unread = true;
    char *image = aligned_alloc(EXT_IO_ALIGN_BYTES, e->wbuf_bytes);
    if (image == NULL)
        return -ENOMEM;
    (void)read_slot(e, slot, image);
    uint64_t end = ext_table_start(e->wbuf_bytes, 0) - sizeof(struct ext_record_head);
    for (uint64_t at = ext_slot_front(e, slot), bytes; at <= end; at += max_u64(bytes, EXT_GRANULE_BYTES)) {
        struct ext_scanned rec;
        bytes = find_record(e, slot, image, at, &rec);
        if (bytes == 0)
            continue;
        ext_count(e, EXT_N_objects_read_reclaim, 1);
        note_record(e, ext_slot_page(e, slot), bytes, &rec);
        visit(ctx, &rec);
    }
    free(image);
    return 0;
}

static int scan_slot(struct extstore *e, uint64_t slot, ext_scan_visit *visit, void *ctx)
{
    char *end;
    uint32_t count, page = ext_slot_page(e, slot);
    ASSERT(page < e->page_count && ext_page_state_of(&e->pages[page]) != EXT_PAGE_FREE);
    uint64_t slot_end = ext_slot_offset(e, slot) + e->wbuf_bytes;
    int rc = read_table(e, e->where[page].device, slot_end, slot, atomic_load(&e->pages[page].version), &end, &count);
    if (rc != 0) {
        ext_count(e, EXT_N_bad_checksums, rc == -EBADMSG);
        return rc == -ENOMEM ? rc : search_slot(e, slot, visit, ctx);
    }
    uint64_t start = ext_slot_offset(e, slot),
             front = start + ext_table_start(e->wbuf_bytes, count);
    for (uint32_t i = 0; i < count; i++) {
        struct ext_entry entry = *ext_entry_at(end, i);
        uint64_t offset = start + (uint64_t)entry.granule * EXT_GRANULE_BYTES;
        if (entry.record_bytes < sizeof(struct ext_record_head) || entry.record_bytes > EXT_RECORD_MAX_BYTES ||
            offset + entry.record_bytes > front)
            continue;
        struct ext_scanned rec;
        read_record(e, slot, &entry, front, &rec);
        note_record(e, page, entry.record_bytes, &rec);
        visit(ctx, &rec);
    }
    return 0;
}

int ext_scan_page(struct extstore *e, unsigned page, ext_scan_visit *visit, void *ctx)
{
    ASSERT(atomic_load(&e->attaching) && page < e->page_count);
    uint64_t first = (uint64_t)page * e->slots_per_page;
    int rc = scan_of(e) == NULL ? -ENOMEM : 0;
    for (uint32_t i = 0; rc == 0 && i < e->slots_per_page; i++) {
        if (extmap_get(e->map, first + i).state == EXTMAP_WRITTEN)
            rc = scan_slot(e, first + i, visit, ctx);
    }
    return rc;
}

int ext_scan_record(struct extstore *e, ext_place place, struct ext_scanned *out)
{
    struct ext_scan *s = scan_of(e);
    if (s == NULL)
        return -ENOMEM;
    struct window *w = &s->single;
    ASSERT(atomic_load(&e->attaching) && ext_place_page(e, place) < e->page_count);
    uint64_t slot = ext_place_slot(e, place);
    uint64_t offset =
        ext_slot_offset(e, slot) + (place - ext_slot_place(e, slot)) * EXT_GRANULE_BYTES;
    uint64_t slot_end = ext_slot_offset(e, slot) + e->wbuf_bytes;
    memset(out, 0, sizeof(*out));
    const char *at = look_at(e, w, e->where[ext_slot_page(e, slot)].device, offset,
                             min_u64(HEAD_BYTES_MAX, slot_end - offset), 0, slot_end);
    return at == NULL ? -EIO : take_apart(e, w, at, place, 0, out);
}
