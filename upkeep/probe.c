/* upkeep/probe.c: see upkeep/probe.h. */
#include "upkeep/probe.h"

#include "flash/engine.h"
#include "flash/page.h"
#include "flash/ring.h"
#include "flash/room.h"
#include "upkeep/stamps.h"

#define WRITE_DELAY_NS UINT64_C(50000000)
#define WRITE_DOUBLINGS_MAX 4u
#define READ_DELAY_NS UINT64_C(1000000000)
#define STALL_LOOK_NS UINT64_C(1000000000)
#define WANT_DELAY_NS UINT64_C(100000000)
#define TEST_BYTES (2 * EXT_IO_CHUNK_BYTES) /* the failed part may reach into the next chunk */

static void probe_run(struct io_job *job);

/* Nothing but the mark may be written to it now. */
static bool is_mark_due(const struct ext_device *d)
{
    return ext_device_failed(d) && atomic_load(&d->next_stamp) != 0;
}

void ext_probe_init(struct extstore *e)
{
    for (uint32_t i = 0; i < EXT_DEVICES_MAX; i++) {
        struct ext_probe *p = &e->probes[i];
        p->e = e;
        p->device = i;
        p->page = EXT_NO_PAGE;
        p->unit = EXT_NO_PAGE;
        p->job.run = probe_run;
    }
}

/* ---- in an I/O thread ---- */

/* Writes zeroes, or reads. 0 or -errno. */
static int transfer(struct ext_probe *p, bool reads, uint64_t offset, uint64_t bytes)
{
    struct extstore *e = p->e;
    struct ext_device *d = &e->devices[p->device];
    struct ext_io_counts c = {0};
    ASSERT(bytes > 0 && bytes % EXT_IO_ALIGN_BYTES == 0 && atomic_load(&p->running));
    char *zeroes = aligned_alloc(EXT_IO_ALIGN_BYTES, bytes);
    if (zeroes == NULL)
        return -ENOMEM;
    memset(zeroes, 0, bytes);
    if (offset == 0 && !reads)
        ext_mark_fill(zeroes, d->stamp);
    int rc = reads ? ext_device_read(d, zeroes, bytes, offset, &c)
                   : ext_device_write(d, zeroes, bytes, offset, &c);
    if (!reads)
        ext_written(e, c.bytes);
    free(zeroes);
    return rc;
}

static void put_off(struct ext_probe *p, uint64_t ns)
{
    ASSERT(p->kind <= EXT_PROBE_PAGE && atomic_load(&p->running));
    p->next_ns[p->kind] = clock_mono_ns() + ns;
}

static void count_try(struct ext_probe *p, bool ok)
{
    unsigned doublings = p->tries < WRITE_DOUBLINGS_MAX ? p->tries : WRITE_DOUBLINGS_MAX;
    p->tries = ok ? 0 : p->tries + 1;
    put_off(p, WRITE_DELAY_NS << doublings);
}

static void device_is_back(struct extstore *e, uint32_t device)
{
    if (!ext_device_write_ok(&e->devices[device]))
        return;
    ext_page_retry_all(e, device);
    ext_wake_writers(e);
}

/* The mark of a device that took none at the start. */
static void probe_mark(struct ext_probe *p)
{
    struct extstore *e = p->e;
    bool ok = ext_stamp_put(&e->devices[p->device], &e->tables->devices[p->device]) == 0;
    if (ok)
        device_is_back(e, p->device);
    count_try(p, ok);
}

static void probe_write(struct ext_probe *p)
{
    struct extstore *e = p->e;
    struct ext_device *d = &e->devices[p->device];
    uint32_t unit = atomic_load(&p->unit);
    bool is_free = unit != EXT_NO_PAGE;
    ASSERT(is_free != (p->page != EXT_NO_PAGE)); /* one of them is tried */
    ASSERT(!is_free || unit < d->page_count);
    if (!is_free)
        unit = e->where[p->page].unit;
    bool ok = transfer(p, false, unit * e->page_bytes, EXT_IO_ALIGN_BYTES) == 0;
    if (is_free) {
        lock_take(&e->page_lock);
        atomic_store(&p->unit, EXT_NO_PAGE);
        extents_free(d->free, unit, 1);
        lock_release(&e->page_lock);
    } else {
        ext_page_unpin(e, p->page); /* stays BAD: its own chunk was not written */
    }
    if (ok)
        device_is_back(e, p->device);
    count_try(p, ok);
}

static void probe_read(struct ext_probe *p)
{
    struct extstore *e = p->e;
    struct ext_device *d = &e->devices[p->device];
    ASSERT(d->page_count > 0);
    uint64_t unit = p->turn++ % d->page_count;
    if (transfer(p, true, unit * e->page_bytes, EXT_IO_ALIGN_BYTES) == 0)
        ext_device_read_result(d, 0);
    put_off(p, READ_DELAY_NS);
}

static void probe_page(struct ext_probe *p)
{
    struct extstore *e = p->e;
    ASSERT(p->page < e->page_count && ext_page_state_of(&e->pages[p->page]) == EXT_PAGE_BAD);
    struct ext_device *d = &e->devices[p->device];
    uint64_t in_page = e->pages[p->page].bad_chunk * EXT_IO_CHUNK_BYTES;
    uint64_t offset = e->where[p->page].unit * e->page_bytes + in_page;
    ASSERT(in_page < e->page_bytes);
    int rc = transfer(p, false, offset, min_u64(TEST_BYTES, e->page_bytes - in_page));
    uint32_t wait_sec = ext_page_retry_end(e, p->page, rc == 0);
    char done[64] = "it is used again";
    if (rc != 0)
        snprintf(done, sizeof(done), "still no use; next time in %" PRIu32 " s", wait_sec);
    ext_device_say(d, EXT_FAULT_PAGE_TRIED, offset, rc, done);
    put_off(p, rc == 0 ? 0 : WANT_DELAY_NS);
}

static void probe_run(struct io_job *job)
{
    struct ext_probe *p = CONTAINER_OF(job, struct ext_probe, job);
    struct extstore *e = p->e;
    lock_assert_none_held();
    switch (p->kind) {
    case EXT_PROBE_WRITE:
        if (is_mark_due(&e->devices[p->device]))
            probe_mark(p);
        else
            probe_write(p);
        break;
    case EXT_PROBE_READ:
        probe_read(p);
        break;
    case EXT_PROBE_PAGE:
        probe_page(p);
        break;
    }
    p->page = EXT_NO_PAGE;
    atomic_store(&p->running, false);
    ext_wake_maint(e); /* the next may be due */
}

/* ---- in the maintenance thread ---- */

/* Finds a page to write to without harm; false: there is none. */
static bool find_write(struct ext_probe *p)
{
    ASSERT(p->kind == EXT_PROBE_WRITE && !atomic_load(&p->running));
    struct extstore *e = p->e;
    struct ext_device *d = &e->devices[p->device];
    uint64_t unit;
    lock_take(&e->page_lock);
    bool taken = extents_alloc(d->free, 1, 1, &unit) == 0;
    if (taken)
        atomic_store(&p->unit, (uint32_t)unit);
    lock_release(&e->page_lock);
    if (!taken)
        p->page = ext_page_retry_begin(e, p->device, true);
    return taken || p->page != EXT_NO_PAGE;
}

static bool find_page(struct ext_probe *p, uint64_t now)
{
    ASSERT(p->kind == EXT_PROBE_PAGE && !atomic_load(&p->running));
    struct extstore *e = p->e;
    p->page = ext_page_retry_begin(e, p->device, false);
    if (p->page == EXT_NO_PAGE && now >= p->next_ns[EXT_PROBE_PAGE] &&
        ext_pages_free(e, EXT_BUCKET_DEFAULT) < ext_low_water(e, EXT_BUCKET_DEFAULT))
        p->page = ext_page_retry_begin(e, p->device, true);
    return p->page != EXT_NO_PAGE;
}

/* Chooses the due test; false: none is. */
static bool find(struct ext_probe *p)
{
    struct extstore *e = p->e;
    const struct ext_device *d = &e->devices[p->device];
    uint64_t now = clock_mono_ns();
    ASSERT(p->page == EXT_NO_PAGE && atomic_load(&p->unit) == EXT_NO_PAGE); /* the last one has ended */
    if (ext_device_failed(d)) {
        p->kind = EXT_PROBE_WRITE;
        if (now >= p->next_ns[EXT_PROBE_WRITE] && (is_mark_due(d) || find_write(p)))
            return true;
    } else if (atomic_load(&e->bad_pages) > 0) {
        p->kind = EXT_PROBE_PAGE;
        if (find_page(p, now))
            return true;
    }
    p->kind = EXT_PROBE_READ;
    return ext_device_reads_fail(d) && now >= p->next_ns[EXT_PROBE_READ];
}

bool ext_probe_tries_page(const struct extstore *e)
{
    for (uint32_t i = 0; i < e->device_count; i++) {
        if (atomic_load(&e->probes[i].running) && e->probes[i].kind == EXT_PROBE_PAGE)
            return true;
    }
    return false;
}

/* Once a second: does a device stall, or no longer? The log says so. */
static void look_for_stalls(struct extstore *e)
{
    uint64_t now = clock_mono_ns();
    if (now < e->next_look_ns)
        return;
    e->next_look_ns = now + STALL_LOOK_NS;
    for (uint32_t i = 0; i < e->device_count; i++) {
        struct ext_device *d = &e->devices[i];
        bool stalls = ext_silent_ns(e, i) > EXT_DEVICE_STALLS_NS;
        if (stalls && !d->said_stalls)
            ext_device_say(d, EXT_FAULT_STALLS, 0, 0, "it has not answered for 5 s; what needs it waits");
        else if (!stalls && d->said_stalls)
            ext_device_say(d, EXT_FAULT_BACK, 0, 0, "it answers again");
        d->said_stalls = stalls;
    }
}

void ext_probe_step(struct extstore *e)
{
    look_for_stalls(e);
    lock_assert_none_held();
    for (uint32_t i = 0; i < e->device_count; i++) {
        struct ext_probe *p = &e->probes[i];
        const struct ext_device *d = &e->devices[i];
        if (likely(!ext_device_failed(d) && !ext_device_reads_fail(d)) &&
            likely(atomic_load(&e->bad_pages) == 0))
            continue;
        if (atomic_load(&p->running) || atomic_load(&e->stopping) || !find(p))
            continue;
        atomic_store(&p->running, true);
        io_pool_submit(e->write_pool, &p->job);
    }
}
