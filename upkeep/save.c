/* upkeep/save.c: see upkeep/save.h. */
#include "upkeep/save.h"

#include <fcntl.h>
#include <unistd.h>

#include "base/file.h"
#include "base/why.h"
#include "flash/engine.h"
#include "flash/numbers.h"
#include "flash/wbuf.h"
#include "upkeep/stamps.h"

/* ---- stop ---- */

static int sync_devices(struct extstore *e)
{
    int rc = 0;
    for (uint32_t i = 0; i < e->device_count; i++) {
        int synced = file_sync(e->devices[i].fd);
        rc = rc == 0 ? synced : rc;
    }
    return rc;
}

int ext_quiesce(struct extstore *e, int64_t timeout_ms)
{
    lock_assert_none_held();
    (void)ext_sync(e, timeout_ms);
    atomic_store(&e->stopping, true); /* stuck buffers are not tried again */
    io_pool_destroy(e->write_pool);   /* runs queued jobs */
    e->write_pool = NULL;
    for (uint32_t i = 0; i < EXT_DEVICES_MAX; i++) {
        io_pool_destroy(e->read_pools[i]);
        e->read_pools[i] = NULL;
    }
    DEBUG_ASSERT(atomic_load(&e->dirty_wbufs) == atomic_load(&e->stuck_wbufs)); /* no other is left */
    int rc = atomic_load(&e->dirty_wbufs) > 0 ? -EIO : 0;
    return rc == 0 ? sync_devices(e) : rc;
}

bool ext_has_unwritten(const struct extstore *e)
{
    ASSERT(e->write_pool == NULL);
    return atomic_load(&e->dirty_wbufs) > 0;
}

int ext_quiesce_without(struct extstore *e)
{
    lock_assert_none_held();
    int rc = ext_forget_stuck(e);
    ASSERT(rc != 0 || atomic_load(&e->dirty_wbufs) == 0);
    return rc == 0 ? sync_devices(e) : rc;
}

uint64_t ext_objects(const struct extstore *e)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < e->page_count; i++)
        sum += atomic_load_explicit(&e->pages[i].objects, memory_order_relaxed);
    return sum;
}

uint32_t ext_device_since(const struct extstore *e, unsigned device)
{
    ASSERT(device < e->device_count);
    return e->tables->devices[device].since;
}

uint64_t ext_device_stamp(const char *path)
{
    struct ext_mark_found found = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || ext_mark_look(fd, &found) != 0)
        found.stamp = 0;
    if (fd >= 0)
        close(fd);
    return found.stamp;
}

uint32_t ext_version_now(const struct extstore *e) { return atomic_load(&e->root->next_version); }

/* ---- save ---- */

static struct ext_saved_page saved_of(const struct ext_page *p)
{
    enum ext_page_state s = ext_page_state_of(p);
    if (s == EXT_PAGE_DRAINING || s == EXT_PAGE_BAD)
        s = EXT_PAGE_SEALED;
    struct ext_saved_page saved = {
        .version = atomic_load(&p->version),
        .slots_used = atomic_load(&p->slots_used),
        .objects = atomic_load(&p->objects),
        .exptime_max = ext_raised_get(&p->exptime_max),
        .time_max = ext_raised_get(&p->time_max),
        .state = (uint8_t)s,
        .bucket = p->bucket,
        .bytes_used = atomic_load(&p->bytes_used),
        .bytes_appended = atomic_load(&p->bytes_appended),
        .bytes_real = atomic_load(&p->bytes_real),
        .where = p->where,
    };
    return saved;
}

static uint64_t slot_count(const struct extstore *e)
{
    return (uint64_t)e->page_count * e->slots_per_page;
}

static int put_slots(struct extstore *e, struct checkpoint_writer *w)
{
    int rc = 0;
    for (uint64_t slot = 0; rc == 0 && slot < slot_count(e); slot += 8) {
        uint8_t bits = 0;
        for (unsigned i = 0; i < 8 && slot + i < slot_count(e); i++) {
            enum extmap_state s = extmap_get(e->map, slot + i).state;
            ASSERT(s != EXTMAP_DELAYED);
            bits |= (uint8_t)((s != EXTMAP_FREE) << i);
        }
        rc = checkpoint_put(w, &bits, sizeof(bits));
    }
    return rc;
}

int ext_save(struct extstore *e, struct checkpoint_writer *w)
{
    ASSERT(e->write_pool == NULL && atomic_load(&e->dirty_wbufs) == 0);
    struct ext_saved_engine head = {
        .magic = EXT_SAVED_MAGIC,
        .page_bytes = e->page_bytes,
        .wbuf_bytes = e->wbuf_bytes,
        .next_seq = atomic_load(&e->root->next_seq),
        .page_count = e->page_count,
        .next_version = atomic_load(&e->root->next_version),
        .flush_unix = atomic_load(&e->root->flush_unix),
        .device_count = e->device_count,
    };
    int rc = checkpoint_put(w, &head, sizeof(head));
    for (uint32_t i = 0; rc == 0 && i < e->device_count; i++) {
        const struct ext_known *k = &e->tables->devices[i];
        struct ext_saved_device d = {.bytes = k->bytes, .stamp = ext_device_stamp_of(e, i), .since = k->since};
        rc = checkpoint_put(w, &d, sizeof(d));
    }
    for (uint32_t i = 0; rc == 0 && i < e->page_count; i++) {
        struct ext_saved_page p = saved_of(&e->pages[i]);
        DEBUG_ASSERT(ext_saved_page_is_sound(&p, e->slots_per_page)); /* as it is checked when it comes back */
        rc = checkpoint_put(w, &p, sizeof(p));
    }
    return rc != 0 ? rc : put_slots(e, w);
}

/* ---- load ---- */

bool ext_saved_page_is_sound(const struct ext_saved_page *p, uint32_t slots_per_page)
{
    if (p->state != EXT_PAGE_FREE && p->state != EXT_PAGE_OPEN && p->state != EXT_PAGE_SEALED)
        return false;
    if (p->bucket >= EXT_BUCKET_COUNT || p->slots_used > slots_per_page)
        return false;
    bool empty = p->objects == 0 && p->bytes_used == 0 && p->slots_used == 0;
    return p->state == EXT_PAGE_FREE ? p->version == 0 && empty : p->version != 0;
}

/* What it holds now is counted when the index is there. */
static void page_from(struct ext_page *to, const struct ext_saved_page *p)
{
    ASSERT(ext_page_state_of(to) == EXT_PAGE_FREE && atomic_load(&to->refs) == 0);
    ASSERT(p->state == EXT_PAGE_FREE || p->state == EXT_PAGE_OPEN || p->state == EXT_PAGE_SEALED);
    to->bucket = p->bucket;
    atomic_store(&to->version, p->version);
    atomic_store(&to->state, p->state);
    atomic_store(&to->slots_used, p->slots_used);
    ext_raised_set(&to->exptime_max, p->exptime_max);
    ext_raised_set(&to->time_max, p->time_max);
    atomic_store(&to->bytes_appended, p->bytes_appended);
    atomic_store(&to->bytes_real, p->bytes_real);
}

/* Of slots whose page is gone nothing is kept. */
static int get_slots(struct extstore *e, struct checkpoint_reader *r, const struct ext_saved *saved)
{
    extmap_word *words = ext_words_of(e, e->tables);
    uint64_t count = (uint64_t)saved->engine.page_count * e->slots_per_page;
    ASSERT(e->gone_count == saved->engine.page_count);
    for (uint64_t slot = 0; slot < count; slot += 8) {
        uint8_t bits;
        int rc = checkpoint_get(r, &bits, sizeof(bits));
        if (rc != 0)
            return rc;
        for (unsigned i = 0; i < 8; i++) {
            if (!(bits >> i & 1))
                continue;
            uint32_t page = ext_slot_page(e, slot + i);
            if (slot + i >= count || (slot + i) % e->slots_per_page >= saved->pages[page].slots_used)
                return -ESTALE;
            if (!e->gone[page])
                words[slot + i] = extmap_written_word();
        }
    }
    return 0;
}

void ext_saved_free(struct ext_saved *saved)
{
    free(saved->pages);
    saved->pages = NULL;
}

int ext_saved_get(struct checkpoint_reader *r, struct ext_saved *out)
{
    struct ext_saved_engine *head = &out->engine;
    memset(out, 0, sizeof(*out));
    int rc = checkpoint_get(r, head, sizeof(*head));
    if (rc != 0)
        return rc;
    bool is_old = head->magic == EXT_SAVED_MAGIC_2;
    if ((head->magic != EXT_SAVED_MAGIC && !is_old) || head->device_count > EXT_DEVICES_MAX ||
        head->page_count == 0 || head->page_count > EXT_UNITS_MAX || head->page_bytes == 0)
        return -EUCLEAN;
    for (uint32_t i = 0; rc == 0 && !is_old && i < head->device_count; i++)
        rc = checkpoint_get(r, &out->devices[i], sizeof(out->devices[i]));
    if (rc != 0)
        return rc;
    for (uint32_t i = 0; is_old && i < EXT_DEVICES_MAX; i++)
        out->devices[i].stamp = head->stamp_2;
    out->pages = calloc(head->page_count, sizeof(*out->pages));
    if (out->pages == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; rc == 0 && i < head->page_count; i++)
        rc = checkpoint_get(r, &out->pages[i], is_old ? EXT_SAVED_PAGE_2_BYTES : sizeof(out->pages[i]));
    return rc;
}

void ext_load_end(struct extstore *e)
{
    if (e->saved != NULL)
        ext_saved_free(e->saved);
    free(e->saved);
    e->saved = NULL;
}

/* Before Table3 numbers followed from the sizes of devices. */
static int number_table_2(struct extstore *e, struct ext_saved *saved)
{
    uint32_t counts[EXT_DEVICES_MAX];
    uint64_t pages = 0;
    e->known_count = e->opt.saved_count;
    ASSERT(e->known_count <= EXT_DEVICES_MAX && saved->engine.page_bytes == e->page_bytes);
    for (uint32_t i = 0; i < e->known_count; i++) {
        uint32_t device = e->opt.saved_device[i];
        pages += counts[i] = (uint32_t)(e->opt.saved_bytes[i] / saved->engine.page_bytes);
        e->known[i] = (struct ext_known){.bytes = counts[i] * saved->engine.page_bytes, .stamp = saved->engine.stamp_2};
        e->device_of[i] = device;
        if (device != EXT_NO_DEVICE && e->devices[device].stamp != saved->engine.stamp_2)
            return -EXDEV;
    }
    if (pages != saved->engine.page_count)
        return -ESTALE;
    struct ext_page_where *where = calloc(pages, sizeof(*where));
    if (where == NULL)
        return -ENOMEM;
    ext_number_pages(where, counts, e->known_count);
    for (uint32_t i = 0; i < pages; i++)
        saved->pages[i].where = ext_where_pack(where[i]);
    free(where);
    return 0;
}

static int find_devices(struct extstore *e, struct ext_saved *saved, char *why, size_t n)
{
    if (saved->engine.magic == EXT_SAVED_MAGIC_2)
        return number_table_2(e, saved);
    e->known_count = saved->engine.device_count;
    unsigned found = 0;
    for (uint32_t i = 0; i < e->known_count; i++)
        e->known[i] = (struct ext_known){.bytes = saved->devices[i].bytes, .stamp = saved->devices[i].stamp,
                                         .since = saved->devices[i].since};
    int rc = ext_numbers_match(e, false, why, n);
    for (uint32_t i = 0; rc == 0 && i < e->known_count; i++)
        found += e->device_of[i] != EXT_NO_DEVICE;
    return rc == 0 && found == 0 ? -EXDEV : rc;
}

int ext_load_numbers(struct extstore *e, struct checkpoint_reader *r, char *why, size_t n)
{
    ASSERT(e->saved == NULL && e->where == NULL);
    e->saved = calloc(1, sizeof(*e->saved));
    if (e->saved == NULL)
        return -ENOMEM;
    int rc = ext_saved_get(r, e->saved);
    const struct ext_saved_engine *head = &e->saved->engine;
    if (rc == 0 && (head->page_bytes != e->page_bytes || head->wbuf_bytes != e->wbuf_bytes))
        rc = -ESTALE;
    if (rc == 0)
        rc = find_devices(e, e->saved, why, n);
    uint32_t *where = rc == 0 ? calloc(head->page_count, sizeof(*where)) : NULL;
    if (rc == 0 && where == NULL)
        rc = -ENOMEM;
    for (uint32_t i = 0; rc == 0 && i < head->page_count; i++)
        where[i] = e->saved->pages[i].where;
    if (rc == 0)
        rc = ext_numbers_assign(e, where, head->page_count);
    free(where);
    if (rc == 0 || rc == -ENOMEM)
        return rc;
    if (rc == -EXDEV)
        return why_say(why, n, -ESTALE, "flash: the files were written to by another process since");
    return why_say(why, n, -ESTALE, "its page table can't be used (%s)", rc == -EBADMSG ? "damaged" : strerror(-rc));
}

int ext_load_tables(struct extstore *e, struct checkpoint_reader *r)
{
    const struct ext_saved_engine *head = &e->saved->engine;
    ASSERT(head->page_bytes == e->page_bytes && head->page_count == e->gone_count);
    atomic_store(&e->root->next_seq, head->next_seq);
    atomic_store(&e->root->next_version, head->next_version);
    atomic_store(&e->root->flush_unix, head->flush_unix);
    if (head->next_seq > EXT_RECORD_SEQ_MAX)
        return -ESTALE;
    for (uint32_t i = 0; i < head->page_count; i++) {
        const struct ext_saved_page *p = &e->saved->pages[i];
        bool is_of_later = p->state != EXT_PAGE_FREE && (int32_t)(head->next_version - p->version) < 0;
        if (!ext_saved_page_is_sound(p, e->slots_per_page) || is_of_later)
            return -ESTALE;
        if (!e->gone[i])
            page_from(&e->pages[i], p);
    }
    int rc = get_slots(e, r, e->saved);
    ext_load_end(e);
    return rc;
}
