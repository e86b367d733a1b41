/* restart/check.c: see restart/check.h. It opens the files, loads checkpoint, page table and index, reads the
 * slots, compares, and prints. */
#include "restart/check.h"

#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/checkpoint.h"
#include "base/file.h"
#include "base/hash.h"
#include "flash/mark.h"
#include "flash/page.h"
#include "flash/record.h"
#include "index.h"
#include "restart/persist.h"
#include "space/extents.h"
#include "upkeep/save.h"

#define NO_NUMBER UINT32_MAX
#define FAULTS_SHOWN 12u
#define RUNS_SHOWN 12u
#define ROWS_AT_FIRST_BYTES ((uint64_t)32 * KiB) /* of the index with 2^0 groups */
#define GROUP_BITS_MAX 24u

struct file {
    const char *path;
    int fd;
    uint32_t pages;
    uint64_t stamp;
    struct extents *free;
};

struct page {
    struct ext_saved_page saved; /* without a page table: only version and state are valid */
    uint64_t words;              /* of the index that name a place in it */
};

struct slot {
    bool is_written;
    uint32_t words; /* of the index that name a place in it */
    uint32_t named; /* its records that one of these words names */
};

struct check {
    FILE *out;
    struct file files[EXT_DEVICES_MAX];
    unsigned file_count;
    char *checkpoint; /* its path */
    struct checkpoint_head head;
    bool has_tables; /* the page table and the index are there */
    uint32_t page_count, slots_per_page;
    uint64_t slot_granules;
    struct ext_page_where *where;
    struct page *pages;
    struct slot *slots;
    struct arena *arena;
    struct index *index;
    char *image; /* of one slot */
    uint64_t written, records, live, spoiled_records, spoiled_tables, earlier, strangers;
    unsigned faults;
};

static void fault(struct check *c, const char *fmt, ...) PRINTF_LIKE(2, 3);

static void fault(struct check *c, const char *fmt, ...)
{
    if (c->faults++ >= FAULTS_SHOWN)
        return;
    va_list ap;
    va_start(ap, fmt);
    fputs("fault: ", c->out);
    vfprintf(c->out, fmt, ap);
    fputc('\n', c->out);
    va_end(ap);
}

static int unreadable(struct check *c, const char *fmt, ...) PRINTF_LIKE(2, 3);

static int unreadable(struct check *c, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fputs("can't check: ", c->out);
    vfprintf(c->out, fmt, ap);
    fputc('\n', c->out);
    va_end(ap);
    return CHECK_UNREADABLE;
}

/* ---- files ---- */

static int open_file(struct check *c, struct file *f)
{
    struct stat st;
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    struct ext_mark_found mark;
    f->fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (f->fd < 0 || fstat(f->fd, &st) != 0)
        return unreadable(c, "%s: %s", f->path, strerror(errno));
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return unreadable(c, "%s is neither a file nor a block device", f->path);
    if (fcntl(f->fd, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK)
        return unreadable(c, "%s is in use by process %ld", f->path, (long)lock.l_pid);
    int rc = ext_mark_look(f->fd, &mark);
    if (rc != 0)
        return unreadable(c, "%s: %s", f->path, strerror(-rc));
    if (!mark.ours)
        return unreadable(c, "%s does not belong to an Extant cache%s%s", f->path, mark.what[0] ? ": " : "", mark.what);
    f->stamp = mark.stamp;
    if (f->stamp == 0)
        fault(c, "%s: its mark is damaged", f->path);
    return CHECK_CLEAN;
}

/* Reads the head of the checkpoint, and compares the files with it. */
static int read_head(struct check *c)
{
    ASSERT(c->file_count > 0 && c->file_count <= EXT_DEVICES_MAX && c->image == NULL);
    const struct checkpoint_head *h = &c->head;
    char why[CHECKPOINT_WHY_BYTES] = "";
    int rc = checkpoint_read_head(c->checkpoint, &c->head, why);
    if (rc == -ENOENT)
        return unreadable(c, "%s: there is no such file, which ext_persist makes; without it, sizes are not known",
                          c->checkpoint);
    if (rc != 0)
        return unreadable(c, "%s: %s", c->checkpoint, rc == -EBADMSG ? why : strerror(-rc));
    if (h->layout != persist_layout(h->format))
        return unreadable(c, "%s was made by another build (%.*s)", c->checkpoint, (int)sizeof(h->version),
                          h->version);
    if (h->device_count != c->file_count)
        return unreadable(c, "the cache has %u flash files, not %u: name all, in the order of ext_path", h->device_count, c->file_count);
    if (h->wbuf_bytes < EXT_SLOT_BLOCK_BYTES || h->wbuf_bytes % EXT_SLOT_BLOCK_BYTES != 0 ||
        h->page_bytes < h->wbuf_bytes || h->page_bytes % h->wbuf_bytes != 0 || h->page_bytes > EXT_PAGE_BYTES_MAX)
        return unreadable(c, "%s: sizes of pages and buffers make no sense", c->checkpoint);
    for (unsigned i = 0; i < c->file_count; i++) {
        struct file *f = &c->files[i];
        uint64_t pages = h->devices[i].bytes / h->page_bytes;
        if (pages == 0 || pages > EXT_UNITS_MAX)
            return unreadable(c, "%s: the size of %s makes no sense", c->checkpoint, f->path);
        f->pages = (uint32_t)pages;
        off_t end = lseek(f->fd, 0, SEEK_END);
        if (end >= 0 && (uint64_t)end < f->pages * h->page_bytes)
            fault(c, "%s has %" PRIu64 " bytes, not %" PRIu64 ": it was cut", f->path, (uint64_t)end,
                  f->pages * h->page_bytes);
    }
    c->slots_per_page = (uint32_t)(h->page_bytes / h->wbuf_bytes);
    c->slot_granules = h->wbuf_bytes / EXT_GRANULE_BYTES;
    c->image = aligned_alloc(EXT_SLOT_BLOCK_BYTES, h->wbuf_bytes);
    return c->image ? CHECK_CLEAN : unreadable(c, "no memory for a write buffer");
}

/* Tables for this many pages, which are nowhere yet. 0 or -ENOMEM. */
static int make_tables(struct check *c, uint32_t page_count)
{
    ASSERT(c->slots_per_page > 0);
    free(c->where);
    free(c->pages);
    free(c->slots);
    c->page_count = page_count;
    c->where = calloc(page_count + 1, sizeof(*c->where));
    c->pages = calloc(page_count + 1, sizeof(*c->pages));
    c->slots = calloc((uint64_t)page_count * c->slots_per_page + 1, sizeof(*c->slots));
    for (uint32_t page = 0; c->where && page < page_count; page++)
        c->where[page].device = EXT_NO_DEVICE;
    return c->where && c->pages && c->slots ? 0 : -ENOMEM;
}

/* Sizes went with the order of the files before format 2 of the checkpoint, and so did numbers. */
static void number_as_format_1(struct check *c)
{
    uint32_t counts[EXT_DEVICES_MAX];
    uint64_t sum = 0;
    for (unsigned i = 0; i < c->file_count; i++)
        sum += counts[i] = c->files[i].pages;
    if (sum == c->page_count)
        ext_number_pages(c->where, counts, c->file_count);
}

/* ---- page table and index ---- */

static uint64_t slot_count(const struct check *c) { return (uint64_t)c->page_count * c->slots_per_page; }

static int load_slots(struct check *c, struct checkpoint_reader *r)
{
    ASSERT(c->slots != NULL && c->pages != NULL);
    for (uint64_t slot = 0; slot < slot_count(c); slot += 8) {
        uint8_t bits;
        int rc = checkpoint_get(r, &bits, sizeof(bits));
        if (rc != 0)
            return rc;
        for (unsigned i = 0; i < 8 && slot + i < slot_count(c); i++) {
            c->slots[slot + i].is_written = bits >> i & 1;
            if (c->slots[slot + i].is_written &&
                c->pages[(slot + i) / c->slots_per_page].saved.state == EXT_PAGE_FREE)
                fault(c, "slot %" PRIu64 " is written, but its page is free", slot + i);
        }
    }
    return 0;
}

static int load_pages(struct check *c, struct checkpoint_reader *r)
{
    struct ext_saved saved;
    int rc = ext_saved_get(r, &saved);
    if (rc == 0)
        rc = make_tables(c, saved.engine.page_count);
    for (unsigned i = 0; rc == 0 && i < c->file_count; i++) {
        if (c->files[i].stamp != 0 && c->files[i].stamp != saved.devices[i].stamp)
            fault(c, "%s was written to by another process since", c->files[i].path);
    }
    for (uint32_t page = 0; rc == 0 && page < c->page_count; page++) {
        c->pages[page].saved = saved.pages[page];
        c->where[page] = ext_where_unpack(saved.pages[page].where);
        if (!ext_saved_page_is_sound(&saved.pages[page], c->slots_per_page))
            fault(c, "page %u: its entry in the page table makes no sense", page);
    }
    if (rc == 0 && saved.engine.magic == EXT_SAVED_MAGIC_2)
        number_as_format_1(c);
    for (uint32_t page = 0; rc == 0 && page < c->page_count; page++) {
        struct ext_page_where *at = &c->where[page];
        if (at->device != EXT_NO_DEVICE && (at->device >= c->file_count || at->unit >= c->files[at->device].pages))
            rc = -EUCLEAN;
    }
    ext_saved_free(&saved);
    return rc == 0 ? load_slots(c, r) : rc;
}

/* Makes an empty index of the checkpoint's geometry. 0 or -errno. */
static int make_index(struct check *c)
{
    const struct checkpoint_head *h = &c->head;
    char why[256];
    bool attached;
    const struct index_geometry saved = {h->index_group_bits, h->index_tag_bits, h->index_place_bits};
    if (h->index_group_bits > GROUP_BITS_MAX)
        return -EUCLEAN;
    uint64_t initial = ROWS_AT_FIRST_BYTES << h->index_group_bits;
    struct arena_options a = {.reserve_bytes = 2 * (h->body_bytes + initial) + 64 * MiB};
    c->arena = arena_create(&a, &attached, why, sizeof(why));
    if (!c->arena)
        return -ENOMEM;
    struct index_options o = {.arena = c->arena, .like = &saved, .limit_bytes = a.reserve_bytes, .handle_bits = 1};
    struct index_geometry made;
    c->index = index_create(&o);
    if (!c->index)
        return errno == EINVAL ? -EUCLEAN : -errno;
    index_geometry(c->index, &made);
    return made.place_bits == saved.place_bits ? 0 : -EUCLEAN;
}

static void count_word(void *ctx, uint64_t hash_like, index_slot *at, index_word w)
{
    struct check *c = ctx;
    (void)hash_like;
    ASSERT(index_load(at) == w);
    if (index_kind(c->index, w) != INDEX_FLASH)
        return;
    uint64_t slot = index_place(c->index, w) / c->slot_granules;
    if (slot >= slot_count(c)) {
        c->strangers++;
        return;
    }
    c->slots[slot].words++;
    c->pages[slot / c->slots_per_page].words++;
}

/* Loads what a clean stop left. If the checkpoint does not hold it, that is a fault, and only records are
 * checked. */
static void load_tables(struct check *c)
{
    struct checkpoint_reader *r = NULL;
    ASSERT(c->head.state == CHECKPOINT_CLEAN && !c->has_tables);
    int rc = checkpoint_open(c->checkpoint, &c->head, &r);
    if (rc == 0)
        rc = load_pages(c, r);
    if (rc == 0)
        rc = make_index(c);
    if (rc == 0)
        rc = index_load_rows(c->index, r);
    int closed = checkpoint_close(r);
    rc = rc != 0 ? rc : closed;
    c->has_tables = rc == 0;
    if (c->has_tables)
        index_walk_all(c->index, count_word, c);
    else
        fault(c, "%s: page table and index can't be used (%s)", c->checkpoint,
              rc == -EBADMSG ? "damaged" : strerror(-rc));
}

/* ---- slots ---- */

/* Reads the last `bytes` of a slot of a page into the end of the image. 0 or -errno. */
static int read_end(struct check *c, const struct ext_page_where *at, uint32_t index, uint64_t bytes)
{
    uint64_t wbuf = c->head.wbuf_bytes;
    ASSERT(bytes > 0 && bytes <= wbuf && index < c->slots_per_page);
    if (at->device == EXT_NO_DEVICE)
        return -ENODATA;
    uint64_t end = at->unit * c->head.page_bytes + (index + 1) * wbuf;
    return file_read_all(c->files[at->device].fd, c->image + wbuf - bytes, bytes, end - bytes);
}

/* The trailers in a page; one that makes no sense has version 0. Returns the slot of the latest, NO_NUMBER: there is none. */
static uint32_t read_trailers(struct check *c, const struct ext_page_where *at, struct ext_trailer *trailers)
{
    uint32_t latest = NO_NUMBER;
    for (uint32_t i = 0; i < c->slots_per_page; i++) {
        struct ext_trailer *t = &trailers[i];
        memset(t, 0, sizeof(*t));
        if (read_end(c, at, i, EXT_SLOT_BLOCK_BYTES) == 0)
            memcpy(t, c->image + c->head.wbuf_bytes - sizeof(*t), sizeof(*t));
        if (t->magic != EXT_TRAILER_MAGIC || t->slot % c->slots_per_page != i)
            t->version = 0;
        if (t->version != 0 && (latest == NO_NUMBER || (int32_t)(t->version - trailers[latest].version) > 0))
            latest = i;
    }
    return latest;
}

/* Notes that the page of this number is here, and which of its slots this version wrote; unless a later one is known. */
static void put_page(struct check *c, uint32_t number, const struct ext_page_where *at, uint32_t version,
                     const struct ext_trailer *trailers)
{
    struct ext_saved_page *p = &c->pages[number].saved;
    if (c->where[number].device != EXT_NO_DEVICE && (int32_t)(version - p->version) <= 0)
        return;
    c->where[number] = *at;
    *p = (struct ext_saved_page){.version = version, .state = EXT_PAGE_SEALED};
    for (uint32_t i = 0; i < c->slots_per_page; i++) {
        uint64_t slot = (uint64_t)number * c->slots_per_page + i;
        c->slots[slot].is_written = trailers[i].slot == slot && trailers[i].version == version;
    }
}

/* Without a page table: the trailers tell the numbers of pages and their versions. Pages without one are free, and get
 * the numbers that are left. 0 or -ENOMEM. */
static int number_by_trailers(struct check *c)
{
    ASSERT(!c->has_tables);
    uint64_t units = 0, bare_count = 0;
    for (unsigned i = 0; i < c->file_count; i++)
        units += c->files[i].pages;
    /* Files may have been taken away. */
    uint32_t next = 0, most = (uint32_t)min_u64((EXT_DEVICES_MAX + 1) * units + 1024, EXT_UNITS_MAX);
    struct ext_trailer *trailers = calloc(c->slots_per_page, sizeof(*trailers));
    struct ext_page_where *bare = calloc(units, sizeof(*bare));
    int rc = trailers && bare ? make_tables(c, most) : -ENOMEM;
    for (unsigned i = 0; rc == 0 && i < c->file_count; i++) {
        for (uint32_t unit = 0; unit < c->files[i].pages; unit++) {
            struct ext_page_where at = {i, unit};
            uint32_t latest = read_trailers(c, &at, trailers);
            uint64_t number = latest != NO_NUMBER ? trailers[latest].slot / c->slots_per_page : most;
            if (latest == NO_NUMBER)
                bare[bare_count++] = at;
            else if (number < most)
                put_page(c, (uint32_t)number, &at, trailers[latest].version, trailers);
        }
    }
    for (uint64_t i = 0; rc == 0 && i < bare_count; i++) {
        while (next < most && c->where[next].device != EXT_NO_DEVICE)
            next++;
        if (next < most)
            c->where[next] = bare[i];
    }
    free(trailers);
    free(bare);
    return rc;
}

/* Does the index have a word for the record at this place? */
static bool is_named(struct check *c, uint64_t hash, ext_place place)
{
    if (!c->has_tables)
        return false;
    struct lock *lock = index_lock(c->index, hash);
    lock_take(lock);
    bool found = index_find_place(c->index, hash, place) != NULL;
    lock_release(lock);
    return found;
}

static void check_record(struct check *c, uint64_t slot, const struct ext_entry *entry, uint64_t front,
                         uint64_t table)
{
    uint32_t page = (uint32_t)(slot / c->slots_per_page);
    uint64_t offset = (uint64_t)entry->granule * EXT_GRANULE_BYTES;
    ext_place place = slot * c->slot_granules + entry->granule;
    struct ext_record rec;
    bool named = is_named(c, entry->hash, place);
    c->records++;
    c->slots[slot].named += named;
    bool ours = false, whole = offset >= front && offset + entry->record_bytes <= table &&
                               ext_record_verify(c->image + offset, entry->record_bytes,
                                                 c->pages[page].saved.version, place, &rec) == 0;
    if (whole)
        ours = hash_key(rec.key, rec.key_bytes, c->head.hash_seed) == entry->hash;
    c->live += named && ours;
    c->earlier += whole && !ours;
    if (ours || (whole && !named)) /* what an earlier cache left is no fault */
        return;
    c->spoiled_records++;
    fault(c, "page %u, slot %u: the record at %" PRIu64 " is spoiled (%s)", page,
          (unsigned)(slot % c->slots_per_page), offset,
          named ? "an object is lost" : c->has_tables ? "no object needs it" : "it is not known whether an object needs it");
}

static void check_slot(struct check *c, uint64_t slot)
{
    ASSERT(slot < slot_count(c) && c->slots[slot].is_written);
    uint32_t page = (uint32_t)(slot / c->slots_per_page), index = (uint32_t)(slot % c->slots_per_page);
    uint64_t wbuf = c->head.wbuf_bytes;
    uint32_t count = 0;
    c->written++;
    int rc = read_end(c, &c->where[page], index, wbuf);
    if (rc == 0)
        rc = ext_trailer_verify(c->image + wbuf, wbuf, wbuf, slot, c->pages[page].saved.version, &count);
    if (rc != 0) {
        c->spoiled_tables++;
        c->slots[slot].named = c->slots[slot].words; /* unknown: reports none as missing */
        fault(c, "page %u, slot %u: its table %s, for %u objects", page, index,
              rc == -EBADMSG ? "is spoiled" : "can't be read", c->slots[slot].words);
        return;
    }
    uint64_t front = index == 0 && c->where[page].unit == 0 ? EXT_MARK_BYTES : 0;
    for (uint32_t i = 0; i < count; i++)
        check_record(c, slot, ext_entry_at(c->image + wbuf, i), front, ext_table_start(wbuf, count));
}

/* ---- comparing ---- */

static void compare_index(struct check *c)
{
    ASSERT(c->has_tables);
    uint64_t words = c->strangers;
    for (uint32_t page = 0; page < c->page_count; page++) {
        const struct page *p = &c->pages[page];
        words += p->words;
        if (p->words != p->saved.objects)
            fault(c, "page %u: %u objects in the page table, %" PRIu64 " in the index", page, p->saved.objects,
                  p->words);
    }
    for (uint64_t slot = 0; slot < slot_count(c); slot++) {
        const struct slot *s = &c->slots[slot];
        if (s->words > s->named)
            fault(c, "page %" PRIu64 ", slot %" PRIu64 ": %u words of the index name no record",
                  slot / c->slots_per_page, slot % c->slots_per_page, s->words - s->named);
    }
    if (c->strangers > 0)
        fault(c, "%" PRIu64 " words of the index name places outside of the files", c->strangers);
    if (words != c->head.objects)
        fault(c, "%" PRIu64 " objects in the checkpoint's head, %" PRIu64 " in the index", c->head.objects, words);
}

struct space_fault {
    struct check *c;
    const char *path;
};

static void space_is_wrong(void *ctx, enum extents_fault kind, struct extents_range range)
{
    const struct space_fault *f = ctx;
    fault(f->c, "%s: pages %" PRIu64 " .. %" PRIu64 " are %s", f->path, range.start, range.start + range.len - 1,
          kind == EXTENTS_BOTH ? "free, but the index has objects there" : "neither free nor in use");
}

/* Compares the file's free pages with those that page table and index say are in use. 0 or -ENOMEM. */
static int reconcile_file(struct check *c, unsigned device)
{
    struct file *f = &c->files[device];
    ASSERT(device < c->file_count && f->free == NULL);
    struct extents_options o = {.unit_count = f->pages, .all_used = true};
    struct extents_range *used = calloc(f->pages, sizeof(*used));
    struct extents_reconciled result;
    uint32_t *number = calloc(f->pages, sizeof(*number)); /* plus 1; 0: it has none */
    size_t n = 0;
    int rc = used && number ? extents_create(&o, &f->free) : -ENOMEM;
    for (uint32_t page = 0; rc == 0 && page < c->page_count; page++) {
        ASSERT(c->where[page].device != device || c->where[page].unit < f->pages);
        if (c->where[page].device == device)
            number[c->where[page].unit] = page + 1;
    }
    for (uint32_t unit = 0; rc == 0 && unit < f->pages; unit++) { /* ranges are to be in order */
        const struct page *p = number[unit] != 0 ? &c->pages[number[unit] - 1] : NULL;
        if (p == NULL || p->saved.state == EXT_PAGE_FREE) /* without a number it was never used */
            extents_free(f->free, unit, 1);
        if (p != NULL && (p->saved.state != EXT_PAGE_FREE || p->words > 0))
            used[n++] = (struct extents_range){unit, 1};
    }
    free(number);
    struct space_fault ctx = {c, f->path};
    if (rc == 0)
        rc = extents_reconcile(f->free, used, n, space_is_wrong, &ctx, &result);
    if (rc == 0)
        extents_assert(f->free);
    free(used);
    return rc;
}

/* ---- the screen ---- */

static void print_runs(struct check *c, const struct file *f)
{
    struct extents_stats v;
    char *text = NULL;
    size_t bytes = 0;
    extents_stats(f->free, &v);
    fprintf(c->out, "%s: %u pages of %" PRIu64 " KB, %" PRIu64 " free, the longest run has %" PRIu64 "\n", f->path,
            f->pages, c->head.page_bytes / KiB, v.free_units, extents_largest(f->free));
    FILE *runs = open_memstream(&text, &bytes);
    if (!runs)
        return;
    int rc = extents_save(f->free, runs);
    fclose(runs);
    unsigned lines = 0;
    for (char *line = text; rc == 0 && line < text + bytes; lines++) {
        char *end = strchr(line, '\n') + 1;
        if (lines < RUNS_SHOWN)
            fprintf(c->out, "  %.*s", (int)(end - line), line);
        line = end;
    }
    if (lines > RUNS_SHOWN)
        fprintf(c->out, "  and %u more runs\n", lines - RUNS_SHOWN);
    free(text);
}

static void print_head(struct check *c)
{
    const struct checkpoint_head *h = &c->head;
    char when[32] = "";
    time_t at = (time_t)h->wall_sec;
    struct tm tm;
    if (gmtime_r(&at, &tm))
        strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &tm);
    fprintf(c->out, "%s: %s, generation %" PRIu64 ", made by %.*s at %s\n", c->checkpoint,
            h->state == CHECKPOINT_CLEAN ? "of a clean stop" : "of a process that was killed", h->generation,
            (int)sizeof(h->version), h->version, when);
}

static int conclude(struct check *c)
{
    ASSERT(c->live <= c->records);
    if (c->faults > FAULTS_SHOWN)
        fprintf(c->out, "and %u more faults\n", c->faults - FAULTS_SHOWN);
    for (unsigned i = 0; i < c->file_count; i++)
        print_runs(c, &c->files[i]);
    fprintf(c->out, "tables: %" PRIu64 " read, %" PRIu64 " spoiled\n", c->written, c->spoiled_tables);
    fprintf(c->out, "records: %" PRIu64 " read, %" PRIu64 " spoiled, %" PRIu64 " of an earlier cache\n", c->records,
            c->spoiled_records, c->earlier);
    if (c->has_tables)
        fprintf(c->out, "index: %" PRIu64 " objects, %" PRIu64 " of them as they were written\n", c->head.objects,
                c->live);
    if (c->faults == 0)
        fputs("no faults\n", c->out);
    else
        fprintf(c->out, "%u fault%s\n", c->faults, c->faults == 1 ? "" : "s");
    return c->faults == 0 ? CHECK_CLEAN : CHECK_FAULTS;
}

static int check_all(struct check *c)
{
    int code = CHECK_CLEAN;
    for (unsigned i = 0; code == CHECK_CLEAN && i < c->file_count; i++)
        code = open_file(c, &c->files[i]);
    if (code == CHECK_CLEAN)
        code = read_head(c);
    if (code != CHECK_CLEAN)
        return code;
    print_head(c);
    if (c->head.state == CHECKPOINT_CLEAN)
        load_tables(c);
    if (!c->has_tables && number_by_trailers(c) != 0)
        return unreadable(c, "no memory for the page numbers");
    for (uint64_t slot = 0; slot < slot_count(c); slot++) {
        if (c->slots[slot].is_written)
            check_slot(c, slot);
    }
    if (c->has_tables)
        compare_index(c);
    for (unsigned i = 0; i < c->file_count; i++) {
        if (reconcile_file(c, i) != 0)
            return unreadable(c, "no memory for %u pages", c->page_count);
    }
    return conclude(c);
}

int check_files(const char *const *paths, unsigned count, FILE *out)
{
    struct check *c = calloc(1, sizeof(*c));
    int code = CHECK_UNREADABLE;
    if (!c)
        return code;
    c->out = out;
    c->file_count = count;
    for (unsigned i = 0; i < count && i < EXT_DEVICES_MAX; i++)
        c->files[i] = (struct file){.path = paths[i], .fd = -1};
    if (count == 0 || count > EXT_DEVICES_MAX)
        code = unreadable(c, "a cache has 1 to %d files", EXT_DEVICES_MAX);
    else if (asprintf(&c->checkpoint, "%s.checkpoint", paths[0]) < 0)
        c->checkpoint = NULL;
    else
        code = check_all(c);
    for (unsigned i = 0; i < count && i < EXT_DEVICES_MAX; i++) {
        if (c->files[i].fd >= 0)
            close(c->files[i].fd);
        extents_destroy(c->files[i].free);
    }
    index_destroy(c->index);
    if (c->arena)
        arena_destroy(c->arena);
    free(c->where);
    free(c->pages);
    free(c->slots);
    free(c->image);
    free(c->checkpoint);
    free(c);
    return code;
}
