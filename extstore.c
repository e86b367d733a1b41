/* extstore.c: the flash engine put together: create, attach, destroy, figures, checks. flash/engine.h
 * lists its parts, extstore.h its promises.
 *
 * It owns the struct extstore and the order in which its parts are made; each part owns its own fields of it.
 *
 * Threads: create, attach and destroy by one, while no other uses the engine; figures and ext_reconcile() by any. No lock
 * is held on entry. */
#include "extstore.h"

#include "base/why.h"
#include "flash/engine.h"
#include "flash/expiry.h"
#include "flash/groups.h"
#include "flash/numbers.h"
#include "flash/uring.h"
#include "upkeep/expire.h"
#include "upkeep/probe.h"
#include "upkeep/repair.h"
#include "upkeep/stamps.h"
#include "upkeep/tables.h"

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

static int check_options(const struct ext_options *o, char *why, size_t n)
{
    if (o->device_count == 0 || o->device_count > EXT_DEVICES_MAX)
        return why_say(why, n, -EINVAL, "flash: 1 to %d files can be used", EXT_DEVICES_MAX);
    if (o->wbuf_bytes < 4 * EXT_SLOT_BLOCK_BYTES || o->wbuf_bytes % EXT_SLOT_BLOCK_BYTES != 0 ||
        o->wbuf_bytes > GiB)
        return why_say(why, n, -EINVAL,
                      "flash: write buffer size %" PRIu64 " is not a multiple of %u from "
                      "%u bytes to 1 GB",
                      o->wbuf_bytes, EXT_SLOT_BLOCK_BYTES, 4 * EXT_SLOT_BLOCK_BYTES);
    if (o->page_bytes < o->wbuf_bytes || o->page_bytes % o->wbuf_bytes != 0 ||
        o->page_bytes > EXT_PAGE_BYTES_MAX)
        return why_say(why, n, -EINVAL,
                      "flash: page size %" PRIu64 " is not a multiple of the write "
                      "buffer size %" PRIu64 " up to 4 GB",
                      o->page_bytes, o->wbuf_bytes);
    if (o->io_threads == 0 || o->io_threads > IO_THREADS_MAX)
        return why_say(why, n, -EINVAL, "flash: 1 to %u I/O threads can be used", IO_THREADS_MAX);
    const struct ext_callbacks *cb = &o->callbacks;
    ASSERT(cb->is_live && cb->moved && cb->dropped && cb->count_checks && cb->cool && cb->is_fresh && cb->sweep &&
           cb->hash_of);
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
        return why_say(why, n, -EINVAL,
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
            return why_say(why, n, -EINVAL, "%s: is the same file as %s", o->path, same->path);
        int rc = ext_device_open(d, o, e->page_bytes, e->opt.device_ops, why, n);
        if (rc != 0)
            return rc;
        e->device_fds[e->device_count] = d->fd;
        all_pages += d->page_count;
    }
    uint64_t pages = ext_pages_total(e, EXT_BUCKET_DEFAULT);
    if (pages < EXT_PAGES_MIN)
        return why_say(why, n, -EINVAL,
                      "flash: files of class default hold %" PRIu64 " pages of %" PRIu64
                      " bytes; at least %u are needed",
                      pages, e->page_bytes, EXT_PAGES_MIN);
    if (all_pages > EXT_UNITS_MAX || all_pages * e->page_granules > (UINT64_C(1) << 40) - 1)
        return why_say(why, n, -EINVAL, "flash: more than 16 TB or %u pages can't be addressed", EXT_UNITS_MAX);
    return 0;
}

/* 0, or -ESTALE: another process used the devices before they were locked. */
static int check_current(struct extstore *e, char *why, size_t n)
{
    uint64_t stamps[EXT_DEVICES_MAX] = {0};
    ASSERT(e->device_count == e->opt.device_count && e->device_count <= EXT_DEVICES_MAX);
    for (uint32_t i = 0; i < e->device_count; i++)
        stamps[i] = e->devices[i].stamp;
    if (e->opt.is_current == NULL || e->opt.is_current(e->opt.current_ctx, stamps))
        return 0;
    return why_say(why, n, -ESTALE, "flash: another process has used it just now");
}

static int start(struct extstore *e, char *why, size_t n)
{
    unsigned threads = (unsigned)min_u64(max_u64(e->opt.io_threads, e->device_count), IO_THREADS_MAX);
    e->flushes_at_once = threads / e->device_count;
    ASSERT(e->flushes_at_once > 0);
    e->write_pool = io_pool_create(ext_is_stepped(e) ? 0 : threads, "ext-write");
    if (e->write_pool == NULL)
        return why_say(why, n, -errno, "flash: I/O threads can't be started (%s)", strerror(errno));
    e->reclaim = ext_reclaim_create(e);
    e->expire = ext_expire_create(e);
    if (e->reclaim == NULL || e->expire == NULL)
        return why_say(why, n, -errno, "flash: no memory for reclaim");
    /* Injected faults reach only what goes through device_ops. */
    bool wanted = e->opt.engine == EXT_ENGINE_URING ||
                  (e->opt.engine == EXT_ENGINE_AUTO && e->opt.device_ops == NULL);
    e->uring = wanted && ext_uring_works(e->device_fds[0]);
    if (e->opt.engine == EXT_ENGINE_URING && !e->uring)
        return why_say(why, n, -ENOSYS, "flash: this kernel or container does not allow io_uring");
    if (ext_is_taken_over(e)) {
        atomic_store(&e->attaching, true);
        ext_repair_ranges(e);
    } else {
        for (uint32_t i = e->wbuf_count; i-- > 0;)
            e->free_wbufs[e->free_wbuf_count++] = i;
    }
    e->root->format = EXT_ROOT_FORMAT;
    return 0;
}

void ext_choose_stamps(struct extstore *e, uint64_t *stamps)
{
    for (uint32_t i = 0; i < e->device_count; i++)
        stamps[i] = ext_stamp_choose(&e->devices[i], &e->tables->devices[i]);
}

int ext_begin_life(struct extstore *e, char *why, size_t n)
{
    return ext_stamps_put(e, e->tables->devices, (UINT32_C(1) << e->device_count) - 1, why, n);
}

static void release(struct extstore *e)
{
    io_pool_destroy(e->write_pool);
    for (uint32_t i = 0; i < EXT_DEVICES_MAX; i++)
        io_pool_destroy(e->read_pools[i]);
    ext_reclaim_destroy(e->reclaim);
    ext_expire_destroy(e->expire);
    extmap_destroy(e->map);
    ext_scan_end(e);
    ext_load_end(e);
    for (uint32_t i = 0; i < e->device_count; i++)
        ext_device_close(&e->devices[i]);
    for (unsigned i = 0; i < EXT_STREAM_COUNT; i++)
        lock_destroy(&e->streams[i].lock);
    pthread_cond_destroy(&e->idle_cond);
    lock_destroy(&e->page_lock);
    lock_destroy(&e->pool_lock);
    lock_destroy(&e->rings_lock);
    ext_room_end(e);
    ext_groups_end(e);
    ext_numbers_end(e);
    ext_expiry_end(e);
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
            why_say(why, why_bytes, 0, "flash: no memory");
        return NULL;
    }
    e->opt = *opt;
    e->tun = tun;
    e->arena = opt->arena;
    e->page_bytes = opt->page_bytes;
    e->wbuf_bytes = opt->wbuf_bytes;
    e->slots_per_page = (uint32_t)(opt->page_bytes / opt->wbuf_bytes);
    pace_init(&e->pace, opt->write_limit_bytes_per_sec, opt->write_limit_bytes_per_day, opt->wbuf_bytes,
              clock_mono_ns());
    e->page_granules = opt->page_bytes / EXT_GRANULE_BYTES;
    e->slot_granules = opt->wbuf_bytes / EXT_GRANULE_BYTES;
    ext_room_init(e);
    lock_init(&e->page_lock, LOCK_EXT_PAGE);
    lock_init(&e->pool_lock, LOCK_CONTROL);
    lock_init(&e->rings_lock, LOCK_STATS);
    lock_cond_init(&e->idle_cond);
    for (unsigned i = 0; i < EXT_STREAM_COUNT; i++) {
        lock_init(&e->streams[i].lock, LOCK_EXT_BUCKET);
        for (uint32_t k = 0; k < EXT_DEVICES_MAX; k++)
            e->streams[i].files[k].page = EXT_NO_PAGE;
    }
    ext_groups_init(e);
    for (uint32_t i = 0; i < EXT_DEVICES_MAX; i++)
        STAILQ_INIT(&e->backlogs[i].waiting);
    ext_probe_init(e);

    rc = share_memory(e, why, why_bytes);
    e->wbuf_count = e->opt.wbuf_count;
    if (rc == 0)
        rc = open_devices(e, why, why_bytes);
    if (rc == 0)
        rc = check_current(e, why, why_bytes);
    if (rc == 0)
        rc = ext_tables_open(e, why, why_bytes);
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
    lock_assert_none_held();
    if (e == NULL)
        return;
    if (flush && e->write_pool != NULL) /* else a quiesce did */
        (void)ext_sync(e, EXT_DESTROY_MS);
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
    lock_assert_none_held();
    ASSERT(atomic_load(&e->attaching));
    ext_scan_end(e);
    free(e->gone);
    e->gone = NULL;
    e->gone_count = 0;
    e->is_all_gone = false;
    if (e->opt.attached)
        ext_stamps_renew(e); /* before anything is written */
    /* Not earlier: a write that fails moves objects, which must already be counted. */
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
    for (uint32_t i = 0; i < e->device_count; i++) {
        uint64_t silent_ns = ext_silent_ns(e, i);
        ext_device_why(&e->devices[i], why, EXT_WHY_BYTES);
        if (silent_ns > EXT_DEVICE_STALLS_NS)
            why_add(why, EXT_WHY_BYTES, "; ", "%s: no answer for %" PRIu64 " s", e->devices[i].path,
                    silent_ns / 1000000000);
    }
    if (out->pages_bad > 0)
        why_add(why, EXT_WHY_BYTES, "; ", "%" PRIu64 " pages are bad after write errors",
                    out->pages_bad);
    if (out->wbufs_stuck > 0)
        why_add(why, EXT_WHY_BYTES, "; ", "%" PRIu64 " write buffers can't be written now",
                    out->wbufs_stuck);
    if (since != 0 && clock_mono_ns() - since > NO_PAGE_NS && !ext_is_writable(e))
        why_add(why, EXT_WHY_BYTES, "; ", "no page can be opened");
    out->degraded = why[0] != '\0';
    if (!out->degraded)
        why_add(why, EXT_WHY_BYTES, "; ", "none");
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
        out->expired_bytes += ext_expiry_bytes(e, i);
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
    for (uint32_t i = 0; i < e->device_count; i++)
        out->io_queue += e->read_pools[i] != NULL ? io_pool_queued(e->read_pools[i]) : 0;
    lock_release(&e->pool_lock);
    uint32_t dirty = atomic_load(&e->dirty_wbufs);
    out->wbufs_busy = dirty;
    ASSERT(dirty <= e->wbuf_count);
    out->wbufs_free = e->wbuf_count - dirty;
    out->wbufs_stuck = atomic_load(&e->stuck_wbufs);
    out->buffer_bytes = arena_used_bytes(e->arena, ARENA_USE_BUFFER);
    out->page_table_bytes = ext_tables_bytes(e) + ext_expiry_table_bytes(e);
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
        .direct = d->direct,
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
