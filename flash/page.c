/* flash/page.c: see flash/page.h. */
#include "flash/page.h"

#include "flash/engine.h"
#include "flash/expiry.h"
#include "flash/room.h"

#define PAGES_KEPT 2u /* free pages of a class that are not opened only to pass a busy device */
#define RETRY_DOUBLINGS_MAX 6u /* a BAD page is tried again after 1, 2, 4 .. 64 s */

void ext_number_pages(struct ext_page_where *where, const uint32_t *device_pages, uint32_t device_count)
{
    ASSERT(device_count > 0 && device_count <= EXT_DEVICES_MAX);
    uint32_t page = 0;
    bool more = true;
    for (uint32_t unit = 0; more; unit++) {
        more = false;
        for (uint32_t d = 0; d < device_count; d++) {
            if (unit >= device_pages[d])
                continue;
            where[page++] = (struct ext_page_where){d, unit};
            more = true;
        }
    }
}

bool ext_device_is_busy(const struct extstore *e, uint32_t device, uint32_t more)
{
    uint32_t share = (e->wbuf_count - EXT_RESERVED_WBUFS) / e->device_count;
    uint32_t wbufs = atomic_load_explicit(&e->backlogs[device].wbufs, memory_order_relaxed);
    return e->device_count > 1 && wbufs + more >= max_u64(share, 1);
}

static_assert(EXT_DEVICES_MAX <= 32, "a bit for each");

/* Takes a FREE page of the class, in turn, on none of the devices of `not_on`; with idle, of a device that is not
 * busy. 0, -ENOSPC, or -EIO when its devices are failed. */
static int take_page(struct extstore *e, enum ext_bucket device_class, bool idle, uint32_t not_on, uint32_t *page)
{
    lock_assert_held(&e->page_lock);
    ASSERT(device_class < EXT_BUCKET_COUNT);
    int rc = -ENOSPC;
    unsigned healthy = 0, devices = 0;
    for (uint32_t i = 0; i < e->device_count; i++) {
        uint32_t at = (e->device_turn[device_class] + i) % e->device_count;
        struct ext_device *d = &e->devices[at];
        if (d->free_bucket != device_class)
            continue;
        devices++;
        if (ext_device_failed(d))
            continue;
        healthy++;
        uint64_t unit;
        if ((not_on >> at & 1) != 0 || (idle && ext_device_is_busy(e, at, 0)))
            continue;
        if (extents_alloc(d->free, 1, 1, &unit) == 0) {
            e->device_turn[device_class] = at + 1;
            *page = e->numbers[at][unit];
            return 0;
        }
    }
    if (devices > 0 && healthy == 0)
        rc = -EIO;
    return rc;
}

/* The same, of a device that is not busy if there is one. */
static int take_page_of(struct extstore *e, enum ext_bucket device_class, uint32_t *page)
{
    int rc = e->device_count > 1 ? take_page(e, device_class, true, 0, page) : -ENOSPC;
    return rc == 0 ? 0 : take_page(e, device_class, false, 0, page);
}

/* Called at the end of each edge of the drawing, page_lock held: debug builds check the state that it led
 * to. */
static void page_changed(struct extstore *e, uint32_t page)
{
    lock_assert_held(&e->page_lock);
#ifdef EXTANT_DEBUG
    ext_page_assert(e, page);
#else
    (void)page;
#endif
}

/* FREE -> OPEN; page_lock held. */
static void page_begin(struct extstore *e, enum ext_bucket bucket, uint32_t page)
{
    lock_assert_held(&e->page_lock);
    struct ext_page *p = &e->pages[page];
    ASSERT(ext_page_state_of(p) == EXT_PAGE_FREE);
    ASSERT(atomic_load(&p->objects) == 0 && atomic_load(&p->refs) == 0);
    uint32_t version;
    do {
        version = atomic_fetch_add(&e->root->next_version, 1) + 1;
    } while (version == 0);
    p->bucket = (uint8_t)bucket;
    atomic_store_explicit(&p->slots_used, 0, memory_order_relaxed);
    ext_raised_set(&p->exptime_max, 0);
    ext_raised_set(&p->time_max, 0);
    atomic_store_explicit(&p->bytes_used, 0, memory_order_relaxed);
    atomic_store_explicit(&p->bytes_appended, 0, memory_order_relaxed);
    atomic_store_explicit(&p->bytes_real, 0, memory_order_relaxed);
    atomic_store_explicit(&p->order, version, memory_order_relaxed);
    ext_expiry_begin(e, page);
    atomic_store(&p->version, version);
    atomic_store(&p->state, EXT_PAGE_OPEN);
    ext_count(e, EXT_N_page_allocs, 1);
    atomic_store_explicit(&e->no_page_ns, 0, memory_order_relaxed);
    page_changed(e, page);
}

int ext_page_open(struct extstore *e, enum ext_bucket bucket, bool reserve, uint32_t *page)
{
    ASSERT(bucket < EXT_BUCKET_COUNT);
    lock_take(&e->page_lock);
    int rc = -ENOSPC;
    if (bucket != EXT_BUCKET_DEFAULT)
        rc = take_page_of(e, bucket, page);
    if (rc != 0) {
        uint64_t left = ext_pages_free(e, EXT_BUCKET_DEFAULT);
        if (reserve || left == 0 || left > EXT_RESERVED_PAGES) /* with 0 the caller learns why */
            rc = take_page_of(e, EXT_BUCKET_DEFAULT, page);
        else
            rc = -ENOSPC;
    }
    if (rc == 0)
        page_begin(e, bucket, *page);
    else if (atomic_load_explicit(&e->no_page_ns, memory_order_relaxed) == 0)
        atomic_store_explicit(&e->no_page_ns, clock_mono_ns(), memory_order_relaxed);
    lock_release(&e->page_lock);
    return rc;
}

int ext_page_open_elsewhere(struct extstore *e, enum ext_bucket bucket, enum ext_bucket device_class, uint32_t not_on,
                            uint32_t *page)
{
    ASSERT(bucket < EXT_BUCKET_COUNT && device_class < EXT_BUCKET_COUNT);
    lock_take(&e->page_lock);
    int rc = -EBUSY;
    /* A page more than is needed: not one of the last. */
    if (ext_pages_free(e, device_class) > PAGES_KEPT && take_page(e, device_class, true, not_on, page) == 0) {
        page_begin(e, bucket, *page);
        rc = 0;
    }
    lock_release(&e->page_lock);
    return rc;
}

/* Gives the page's ranges and clean buffers back. */
static void forget_slots(struct extstore *e, uint32_t page)
{
    lock_assert_held(&e->page_lock);
    uint32_t used = atomic_load_explicit(&e->pages[page].slots_used, memory_order_relaxed);
    for (uint32_t i = 0; i < used; i++) {
        uint64_t slot = (uint64_t)page * e->slots_per_page + i;
        struct extmap_range r = extmap_get(e->map, slot);
        if (r.state == EXTMAP_FREE)
            continue;
        ASSERT(r.state != EXTMAP_DELAYED); /* its wbuf would hold a reference */
        uint32_t buffer;
        int rc = extmap_set_free(e->map, slot, &buffer);
        ASSERT(rc == 0); /* only readers pin, and they have a reference of the page */
        if (buffer != EXTMAP_NO_BUFFER) {
            atomic_store_explicit(&e->wbufs[buffer].state, EXT_WBUF_FREE, memory_order_relaxed);
            ASSERT(e->free_wbuf_count < e->wbuf_count);
            e->free_wbufs[e->free_wbuf_count++] = buffer;
        }
    }
}

/* SEALED, DRAINING or BAD -> FREE; page_lock held. */
static void page_free(struct extstore *e, uint32_t page)
{
    lock_assert_held(&e->page_lock);
    struct ext_page *p = &e->pages[page];
    ASSERT(atomic_load(&p->bytes_used) == 0 && atomic_load(&p->objects) == 0);
    ASSERT(atomic_load(&p->refs) == 0 && ext_page_state_of(p) >= EXT_PAGE_SEALED);
    if (ext_page_state_of(p) == EXT_PAGE_BAD)
        atomic_fetch_sub(&e->bad_pages, 1);
    else
        p->failures = 0; /* a whole life without one */
    forget_slots(e, page);
    atomic_store(&p->version, 0);
    atomic_store(&p->state, EXT_PAGE_FREE);
    atomic_store_explicit(&p->slots_used, 0, memory_order_relaxed);
    extents_free(ext_page_device(e, page)->free, e->where[page].unit, 1);
    page_changed(e, page);
    ext_count(e, EXT_N_page_reclaims, 1);
}

static bool may_be_free(const struct ext_page *p)
{
    enum ext_page_state s = ext_page_state_of(p);
    return (s == EXT_PAGE_SEALED || s == EXT_PAGE_DRAINING) && atomic_load(&p->objects) == 0 &&
           atomic_load(&p->refs) == 0;
}

void ext_page_try_free(struct extstore *e, uint32_t page)
{
    ASSERT(page < e->page_count);
    struct ext_page *p = &e->pages[page];
    if (atomic_load(&e->attaching) || !may_be_free(p))
        return;
    lock_take(&e->page_lock);
    bool freed = may_be_free(p);
    if (freed)
        page_free(e, page);
    lock_release(&e->page_lock);
    if (freed)
        ext_wake_writers(e);
}

void ext_page_seal(struct extstore *e, uint32_t page)
{
    ASSERT(page < e->page_count);
    struct ext_page *p = &e->pages[page];
    lock_take(&e->page_lock);
    if (ext_page_state_of(p) == EXT_PAGE_OPEN) {
        /* A page that took long to fill is as old as its records, in the mean. */
        uint32_t version = atomic_load(&p->version), newest = atomic_load(&e->root->next_version);
        atomic_store_explicit(&p->order, version + (newest - version) / 2, memory_order_relaxed);
        atomic_store(&p->state, EXT_PAGE_SEALED);
    }
    page_changed(e, page);
    lock_release(&e->page_lock);
    ext_page_try_free(e, page);
}

bool ext_page_drain(struct extstore *e, uint32_t page)
{
    ASSERT(page < e->page_count);
    struct ext_page *p = &e->pages[page];
    lock_take(&e->page_lock);
    enum ext_page_state s = ext_page_state_of(p);
    bool ok = s == EXT_PAGE_SEALED || s == EXT_PAGE_DRAINING || s == EXT_PAGE_BAD;
    if (ok) {
        atomic_fetch_add(&p->refs, 1);
        if (s == EXT_PAGE_SEALED)
            atomic_store(&p->state, EXT_PAGE_DRAINING);
        page_changed(e, page);
    }
    lock_release(&e->page_lock);
    return ok;
}

void ext_page_stay(struct extstore *e, uint32_t page)
{
    ASSERT(page < e->page_count);
    struct ext_page *p = &e->pages[page];
    lock_take(&e->page_lock);
    ASSERT(atomic_load(&p->refs) > 0); /* the caller's */
    ext_expiry_stay(e, page);
    atomic_store_explicit(&p->order, atomic_fetch_add(&e->root->next_version, 1) + 1, memory_order_relaxed);
    if (ext_page_state_of(p) == EXT_PAGE_DRAINING)
        atomic_store(&p->state, EXT_PAGE_SEALED);
    page_changed(e, page);
    lock_release(&e->page_lock);
}

/* ---- BAD pages ---- */

static uint32_t mono_sec(void)
{
    return (uint32_t)(clock_mono_ns() / 1000000000);
}

/* One more failure. Returns the seconds until the next try. page_lock held. */
static uint32_t put_off(struct extstore *e, struct ext_page *p)
{
    lock_assert_held(&e->page_lock);
    if (p->failures < UINT8_MAX)
        p->failures++;
    unsigned doublings = p->failures - 1u;
    uint32_t sec = 1u << (doublings < RETRY_DOUBLINGS_MAX ? doublings : RETRY_DOUBLINGS_MAX);
    atomic_store_explicit(&p->retry_sec, mono_sec() + sec, memory_order_relaxed);
    return sec;
}

bool ext_page_fail(struct extstore *e, uint32_t page, uint64_t offset)
{
    ASSERT(page < e->page_count && offset < e->page_bytes);
    struct ext_page *p = &e->pages[page];
    lock_take(&e->page_lock);
    ASSERT(ext_page_state_of(p) != EXT_PAGE_FREE);
    bool first = ext_page_state_of(p) != EXT_PAGE_BAD;
    if (first) {
        p->bad_chunk = (uint16_t)(offset / EXT_IO_CHUNK_BYTES);
        (void)put_off(e, p);
        atomic_store(&p->state, EXT_PAGE_BAD);
        atomic_fetch_add(&e->bad_pages, 1);
        page_changed(e, page);
    }
    lock_release(&e->page_lock);
    if (first)
        ext_count(e, EXT_N_pages_lost, 1);
    return first;
}

uint32_t ext_page_retry_begin(struct extstore *e, uint32_t device, bool any)
{
    ASSERT(device < e->device_count);
    uint32_t best = EXT_NO_PAGE, best_sec = 0, now = mono_sec();
    if (atomic_load(&e->bad_pages) == 0 || atomic_load(&e->attaching))
        return EXT_NO_PAGE;
    lock_take(&e->page_lock);
    for (uint32_t i = 0; i < e->page_count; i++) {
        const struct ext_page *p = &e->pages[i];
        if (e->where[i].device != device || ext_page_state_of(p) != EXT_PAGE_BAD ||
            atomic_load(&p->objects) > 0 || atomic_load(&p->refs) > 0)
            continue;
        uint32_t due = atomic_load_explicit(&p->retry_sec, memory_order_relaxed);
        if ((any || due <= now) && (best == EXT_NO_PAGE || due < best_sec)) {
            best = i;
            best_sec = due;
        }
    }
    if (best != EXT_NO_PAGE)
        atomic_fetch_add(&e->pages[best].refs, 1);
    lock_release(&e->page_lock);
    return best;
}

void ext_page_retry_all(struct extstore *e, uint32_t device)
{
    ASSERT(device < e->device_count);
    for (uint32_t i = 0; atomic_load(&e->bad_pages) > 0 && i < e->page_count; i++) {
        if (e->where[i].device == device)
            atomic_store_explicit(&e->pages[i].retry_sec, 0, memory_order_relaxed);
    }
}

uint32_t ext_page_retry_end(struct extstore *e, uint32_t page, bool ok)
{
    ASSERT(page < e->page_count);
    struct ext_page *p = &e->pages[page];
    uint32_t wait_sec = 0;
    lock_take(&e->page_lock);
    ASSERT(ext_page_state_of(p) == EXT_PAGE_BAD);
    uint32_t before = atomic_fetch_sub(&p->refs, 1);
    ASSERT(before == 1 && atomic_load(&p->objects) == 0); /* no thread can reach an empty page */
    if (ok)
        page_free(e, page);
    else
        wait_sec = put_off(e, p);
    lock_release(&e->page_lock);
    if (ok) {
        ext_count(e, EXT_N_pages_back, 1);
        ext_page_retry_all(e, e->where[page].device);
        ext_wake_writers(e);
    }
    return wait_sec;
}

void ext_page_add_object(struct extstore *e, uint32_t page, uint64_t record_bytes,
                         unsigned len_class, uint32_t exptime_unix, uint32_t time_unix)
{
    struct ext_page *p = &e->pages[page];
    uint64_t bytes = ext_len_bytes(len_class);
    ASSERT(page < e->page_count && record_bytes <= bytes);
    ASSERT(atomic_load_explicit(&p->slots_busy, memory_order_relaxed) > 0);
    atomic_fetch_add(&p->objects, 1);
    atomic_fetch_add_explicit(&p->bytes_used, bytes, memory_order_relaxed);
    atomic_fetch_add_explicit(&p->bytes_appended, bytes, memory_order_relaxed);
    atomic_fetch_add_explicit(&p->bytes_real, record_bytes, memory_order_relaxed);
    ext_raise(&p->exptime_max, exptime_unix == 0 ? UINT32_MAX : exptime_unix);
    ext_raise(&p->time_max, time_unix);
    ext_expiry_add(e, page, exptime_unix, record_bytes);
}

uint64_t ext_page_live_bytes(const struct ext_page *p)
{
    uint64_t used = atomic_load_explicit(&p->bytes_used, memory_order_relaxed);
    uint64_t appended = atomic_load_explicit(&p->bytes_appended, memory_order_relaxed);
    uint64_t real = atomic_load_explicit(&p->bytes_real, memory_order_relaxed);
    if (appended == 0 || used >= appended)
        return used == 0 ? 0 : real;
    return (uint64_t)((double)real * (double)used / (double)appended);
}

void ext_page_pin(struct extstore *e, uint32_t page)
{
    ASSERT(page < e->page_count);
    uint32_t before = atomic_fetch_add(&e->pages[page].refs, 1);
    ASSERT(before != UINT32_MAX);
}

void ext_page_unpin(struct extstore *e, uint32_t page)
{
    ASSERT(page < e->page_count);
    struct ext_page *p = &e->pages[page];
    uint32_t before = atomic_fetch_sub(&p->refs, 1);
    ASSERT(before > 0);
    if (before == 1)
        ext_page_try_free(e, page);
}

void ext_pin(struct extstore *e, ext_place place)
{
    ext_page_pin(e, ext_place_page(e, place));
}

void ext_unpin(struct extstore *e, ext_place place)
{
    ext_page_unpin(e, ext_place_page(e, place));
}

void ext_drop(struct extstore *e, ext_place place, unsigned len_class)
{
    uint32_t page = ext_place_page(e, place);
    ASSERT(page < e->page_count);
    struct ext_page *p = &e->pages[page];
    uint64_t bytes = ext_len_bytes(len_class);
    /* Bytes first: a reader that sees no objects left then sees no bytes left. */
    uint64_t bytes_before = atomic_fetch_sub(&p->bytes_used, bytes);
    ASSERT(bytes_before >= bytes);
    uint32_t before = atomic_fetch_sub(&p->objects, 1);
    ASSERT(before > 0);
    if (before == 1)
        ext_page_try_free(e, page);
}

/* What the page is like to begin a life. */
static void assert_free(const struct ext_page *p)
{
    ASSERT(atomic_load(&p->version) == 0 && atomic_load(&p->slots_used) == 0);
    ASSERT(atomic_load(&p->objects) == 0 && atomic_load(&p->bytes_used) == 0);
    ASSERT(atomic_load(&p->refs) == 0 && atomic_load(&p->slots_busy) == 0);
}

void ext_page_assert(struct extstore *e, uint32_t page)
{
    lock_assert_held(&e->page_lock);
    ASSERT(page < e->page_count);
    const struct ext_page *p = &e->pages[page];
    enum ext_page_state s = ext_page_state_of(p);
    bool is_free = extents_is_free(ext_page_device(e, page)->free, e->where[page].unit);
    ASSERT(atomic_load(&p->slots_used) <= e->slots_per_page);
    switch (s) {
    case EXT_PAGE_FREE:
        assert_free(p);
        /* Not even a probe writes to two at once. */
        ASSERT(is_free || atomic_load(&e->probes[e->where[page].device].unit) == e->where[page].unit);
        return;
    case EXT_PAGE_OPEN:
    case EXT_PAGE_SEALED:
    case EXT_PAGE_DRAINING:
        break;
    case EXT_PAGE_BAD:
        ASSERT(atomic_load(&e->bad_pages) > 0);
        ASSERT(p->bad_chunk * EXT_IO_CHUNK_BYTES < e->page_bytes);
        break;
    default:
        ASSERT(!"a page has one of five states");
    }
    ASSERT(!is_free && p->bucket < EXT_BUCKET_COUNT);
    ASSERT(atomic_load(&p->version) != 0);
    ASSERT((int32_t)(atomic_load(&e->root->next_version) - atomic_load(&p->version)) >= 0);
}
