/* flash/wbuf.c: see flash/wbuf.h. In the order of a wbuf's life: open, append, close, flush, rewrite. */
#include "flash/wbuf.h"

#include "flash/engine.h"
#include "flash/groups.h"
#include "flash/page.h"
#include "flash/room.h"

#define WRITE_TRIES 10u                       /* of a chunk */
#define WRITE_PAUSE_NS UINT64_C(1000000)      /* before the second; doubled each time, up to */
#define WRITE_PAUSE_MAX_NS UINT64_C(50000000) /* this: 0.2 s in all */
#define STUCK_DELAY_NS UINT64_C(50000000)     /* before the second round; doubled each time */
#define STUCK_DOUBLINGS_MAX 4u                /* 0.8 s */
#define COMPARE_BYTES (128 * KiB) /* read back at once */
#define DEAD_DELAY_NS UINT64_C(5000000) /* a page has expired: its words are swept soon, */
#define DEAD_WAITS 200u                 /* in a second at most, or else it is written */
#define BUSY_DELAY_NS UINT64_C(1000000)   /* a reader copies from a buffer that is to be freed */

static void flush_run(struct io_job *job);

static enum ext_wbuf_state state_of(const struct ext_wbuf *w)
{
    return (enum ext_wbuf_state)atomic_load_explicit(&w->state, memory_order_relaxed);
}

/* What the drawing in flash/engine.h promises of a wbuf that holds records. By the thread that the wbuf
 * belongs to: an appender of its stream, then the flusher. */
static void assert_wbuf(const struct ext_wbuf *w)
{
    const struct extstore *e = w->e;
    enum ext_wbuf_state s = state_of(w);
    bool closed = atomic_load(&w->writers) & EXT_WBUF_CLOSED;
    ASSERT(s == EXT_WBUF_OPEN || s == EXT_WBUF_FLUSHING || s == EXT_WBUF_STUCK);
    ASSERT(closed == (s != EXT_WBUF_OPEN));
    ASSERT(w->page < e->page_count && ext_slot_page(e, w->slot) == w->page);
    ASSERT(w->fill_bytes >= ext_slot_front(e, w->slot));
    ASSERT(w->fill_bytes <= ext_table_start(e->wbuf_bytes, w->fill_count));
    ASSERT(w->stream < EXT_STREAM_COUNT && w->root->bucket < EXT_BUCKET_COUNT && w->written <= e->wbuf_bytes);
}

void ext_wbuf_init(struct extstore *e, uint32_t id, struct ext_wbuf_root *root)
{
    ASSERT(id < e->wbuf_count && root->memory % EXT_IO_ALIGN_BYTES == 0);
    struct ext_wbuf *w = &e->wbufs[id];
    w->e = e;
    w->id = id;
    w->root = root;
    w->memory = arena_base(e->arena) + root->memory;
    w->job.run = flush_run;
}

/* ---- open ---- */

static bool any_device_takes_writes(const struct extstore *e)
{
    for (uint32_t i = 0; i < e->device_count; i++) {
        if (!ext_device_failed(&e->devices[i]))
            return true;
    }
    return false;
}

/* The purpose of opening a wbuf, and how many of the last ones it must leave to others. Appends may all
 * wait for reclaim, reclaim for the rewrite of a failed buffer, and a rewrite for nothing. */
enum wbuf_use { FOR_REWRITE, FOR_RECLAIM, FOR_APPEND };
static_assert(FOR_APPEND == EXT_RESERVED_WBUFS, "what appends leave");

/* Takes a buffer without a range, or the least recently used clean one. */
static struct ext_wbuf *take_buffer(struct extstore *e, enum wbuf_use use)
{
    ASSERT(use <= FOR_APPEND && e->wbuf_count > EXT_RESERVED_WBUFS);
    uint32_t limit = e->wbuf_count - use;
    struct ext_wbuf *w = NULL;
    uint32_t id;
    lock_take(&e->page_lock);
    if (atomic_load(&e->dirty_wbufs) < limit) {
        if (e->free_wbuf_count > 0)
            w = &e->wbufs[e->free_wbufs[--e->free_wbuf_count]];
        else if (extmap_shrink(e->map, &id) == 0)
            w = &e->wbufs[id];
        if (w != NULL) {
            ASSERT(state_of(w) == EXT_WBUF_FREE || state_of(w) == EXT_WBUF_CLEAN);
            atomic_store_explicit(&w->state, EXT_WBUF_TAKEN, memory_order_relaxed);
            atomic_fetch_add(&e->dirty_wbufs, 1);
        }
    }
    lock_release(&e->page_lock);
    return w;
}

/* The wbuf is not dirty any more and its buffer holds no range. page_lock held. */
static void give_buffer_back(struct ext_wbuf *w)
{
    struct extstore *e = w->e;
    lock_assert_held(&e->page_lock);
    ASSERT(state_of(w) == EXT_WBUF_TAKEN || state_of(w) == EXT_WBUF_FLUSHING);
    atomic_store_explicit(&w->state, EXT_WBUF_FREE, memory_order_relaxed);
    ASSERT(e->free_wbuf_count < e->wbuf_count);
    e->free_wbufs[e->free_wbuf_count++] = w->id;
    uint32_t dirty = atomic_fetch_sub(&e->dirty_wbufs, 1);
    ASSERT(dirty > 0);
}

/* Has the stream's page on this device a slot left, that can be written? */
static bool has_slot(struct extstore *e, const struct ext_stream_file *f)
{
    uint32_t page = atomic_load_explicit(&f->page, memory_order_relaxed);
    return page != EXT_NO_PAGE && f->next_slot < e->slots_per_page &&
           ext_page_state_of(&e->pages[page]) == EXT_PAGE_OPEN &&
           !ext_device_failed(ext_page_device(e, page));
}

/* A page that the stream has open on a device that is not busy, this one first; false: there is none. */
static bool find_idle_page(struct extstore *e, const struct ext_stream *b, uint32_t *device)
{
    lock_assert_held(&b->lock);
    for (uint32_t i = 0; i < e->device_count; i++) {
        uint32_t at = (b->device + i) % e->device_count;
        bool closes = b->open != NULL && e->where[b->open->page].device == at; /* as soon as there is the next */
        if (has_slot(e, &b->files[at]) && !ext_device_is_busy(e, at, closes)) {
            *device = at;
            return true;
        }
    }
    return false;
}

static void begin_page(struct extstore *e, struct ext_stream *b, uint32_t page)
{
    lock_assert_held(&b->lock);
    ASSERT(page < e->page_count && e->pages[page].bucket == ext_stream_bucket(e, (unsigned)(b - e->streams)));
    struct ext_stream_file *f = &b->files[b->device = e->where[page].device];
    uint32_t before = atomic_load_explicit(&f->page, memory_order_relaxed);
    /* An unfinished page is left behind only when its device failed. */
    if (before != EXT_NO_PAGE && f->next_slot < e->slots_per_page)
        ext_page_seal(e, before);
    atomic_store_explicit(&f->page, page, memory_order_relaxed);
    f->next_slot = 0;
}

/* Makes sure that the stream has a page with a slot left, on b->device. While that device has more to
 * write than its share, the stream goes on with a page on another, if one is free. */
static int need_slot(struct extstore *e, unsigned stream, bool reserve)
{
    enum ext_bucket bucket = ext_stream_bucket(e, stream);
    struct ext_stream *b = &e->streams[stream];
    lock_assert_held(&b->lock);
    if (find_idle_page(e, b, &b->device))
        return 0;
    uint32_t page, begun = 0; /* devices on which a page of the stream has slots left: they stay the stream's */
    for (uint32_t i = 0; i < e->device_count; i++)
        begun |= (uint32_t)has_slot(e, &b->files[i]) << i;
    for (uint32_t i = 0; i < e->device_count; i++) {
        uint32_t at = (b->device + i) % e->device_count;
        if ((begun >> at & 1) == 0)
            continue;
        /* All of them are on busy devices. */
        if (ext_page_open_elsewhere(e, bucket, e->devices[at].free_bucket, begun, &page) == 0)
            begin_page(e, b, page);
        else
            b->device = at;
        return 0;
    }
    int rc = ext_page_open(e, bucket, reserve, &page);
    if (rc == 0)
        begin_page(e, b, page);
    return rc;
}

/* Opens a wbuf on the stream's page. The caller makes it the stream's open one and closes the one before, or
 * keeps it for itself. */
static int open_wbuf(struct extstore *e, unsigned stream, enum wbuf_use use,
                     struct ext_wbuf **out)
{
    struct ext_stream *b = &e->streams[stream];
    lock_assert_held(&b->lock);
    struct ext_wbuf *w = take_buffer(e, use);
    if (w == NULL) /* don't wait for a device that may never recover */
        return any_device_takes_writes(e) ? -EAGAIN : -EIO;
    int rc = need_slot(e, stream, use != FOR_APPEND);
    if (rc != 0) {
        lock_take(&e->page_lock);
        give_buffer_back(w);
        lock_release(&e->page_lock);
        return rc;
    }
    struct ext_stream_file *f = &b->files[b->device];
    uint32_t page = atomic_load_explicit(&f->page, memory_order_relaxed);
    struct ext_page *p = &e->pages[page];
    ASSERT(page != EXT_NO_PAGE && f->next_slot < e->slots_per_page);
    ASSERT((atomic_load(&w->writers) & ~EXT_WBUF_CLOSED) == 0); /* of its life before */
    w->slot = (uint64_t)page * e->slots_per_page + f->next_slot;
    w->page = page;
    w->fill_bytes = ext_slot_front(e, w->slot);
    w->fill_count = 0;
    w->moved = false;
    w->rounds = w->chunk_tries = w->compare_tries = w->waits = 0;
    w->written = 0;
    w->opened_ns = clock_mono_ns();
    w->root->version = atomic_load_explicit(&p->version, memory_order_relaxed);
    w->root->bucket = ext_stream_bucket(e, stream);
    w->stream = stream;
    atomic_store_explicit(&w->root->front_bytes, w->fill_bytes, memory_order_relaxed);
    atomic_store_explicit(&w->root->count, 0, memory_order_release);
    atomic_store(&w->writers, 0);
    atomic_store_explicit(&w->state, EXT_WBUF_OPEN, memory_order_relaxed);
    ext_page_pin(e, page);
    atomic_fetch_add(&p->slots_busy, 1);
    f->next_slot++;
    atomic_store_explicit(&p->slots_used, f->next_slot, memory_order_relaxed);
    extmap_set_delayed(e->map, w->slot, w->id);
    assert_wbuf(w);
    *out = w;
    return 0;
}

/* ---- append ---- */

/* All slots have the same room, as if each bore a mark: so what one holds fits into any other. */
static bool fits(const struct extstore *e, const struct ext_wbuf *w, uint64_t record_bytes)
{
    uint64_t bytes = w->fill_bytes - ext_slot_front(e, w->slot) + EXT_MARK_BYTES;
    return bytes + record_bytes <= ext_table_start(e->wbuf_bytes, w->fill_count + 1);
}

/* No more appends begin. The stream's lock is held; the wbuf is not its open one any more. */
static void close_wbuf(struct ext_wbuf *w)
{
    struct extstore *e = w->e;
    assert_wbuf(w);
    lock_assert_held(&e->streams[w->stream].lock);
    ASSERT(state_of(w) == EXT_WBUF_OPEN && e->streams[w->stream].open != w);
    uint32_t page = w->page;
    bool last = w->slot % e->slots_per_page == e->slots_per_page - 1;
    atomic_store_explicit(&w->state, EXT_WBUF_FLUSHING, memory_order_relaxed);
    atomic_fetch_add(&e->flushing_wbufs, 1);
    atomic_fetch_add(&e->backlogs[e->where[page].device].wbufs, 1);
    if (last) {
        struct ext_stream_file *f = &e->streams[w->stream].files[e->where[page].device];
        if (atomic_load_explicit(&f->page, memory_order_relaxed) == page)
            atomic_store_explicit(&f->page, EXT_NO_PAGE, memory_order_relaxed);
        ext_page_seal(e, page); /* our own reference keeps it from being freed */
    }
    if (atomic_fetch_or(&w->writers, EXT_WBUF_CLOSED) == 0)
        io_pool_submit(e->write_pool, &w->job);
}

/* The stream has no open wbuf from now on. Its lock is held. */
static void close_open(struct ext_stream *b)
{
    struct ext_wbuf *w = b->open;
    lock_assert_held(&b->lock);
    b->open = NULL;
    if (w != NULL)
        close_wbuf(w);
}

void ext_wbuf_close_open(struct extstore *e, unsigned stream)
{
    ASSERT(stream < EXT_STREAM_COUNT);
    lock_take(&e->streams[stream].lock);
    close_open(&e->streams[stream]);
    lock_release(&e->streams[stream].lock);
}

uint32_t ext_stream_page(const struct extstore *e, unsigned stream, uint32_t device)
{
    ASSERT(stream < EXT_STREAM_COUNT && device < e->device_count);
    const struct ext_stream_file *f = &e->streams[stream].files[device];
    uint32_t page = atomic_load_explicit(&f->page, memory_order_relaxed);
    bool is_open = page != EXT_NO_PAGE && ext_page_state_of(&e->pages[page]) == EXT_PAGE_OPEN;
    return is_open ? page : EXT_NO_PAGE;
}

/* Ends the stream's page on this device, full or not. Its lock is held. */
static void end_page(struct extstore *e, struct ext_stream *b, uint32_t device)
{
    lock_assert_held(&b->lock);
    uint32_t page = ext_stream_page(e, (unsigned)(b - e->streams), device);
    if (page != EXT_NO_PAGE) { /* first: a flush does not write to a page that has ended and expired */
        atomic_store_explicit(&b->files[device].page, EXT_NO_PAGE, memory_order_relaxed);
        ext_page_seal(e, page);
    }
    if (b->open != NULL && (page == EXT_NO_PAGE || b->open->page == page))
        close_open(b);
}

static void end_pages(struct extstore *e, struct ext_stream *b)
{
    for (uint32_t device = 0; device < e->device_count; device++)
        end_page(e, b, device);
}

void ext_wbuf_end_stream(struct extstore *e, unsigned stream)
{
    ASSERT(stream < EXT_STREAM_COUNT);
    lock_take(&e->streams[stream].lock);
    end_pages(e, &e->streams[stream]);
    lock_release(&e->streams[stream].lock);
}

bool ext_wbuf_end_oldest_page(struct extstore *e)
{
    uint32_t newest = atomic_load(&e->root->next_version), best_age = 0, device = 0;
    struct ext_stream *b = NULL;
    for (unsigned i = 0; i < EXT_STREAM_COUNT * e->device_count; i++) {
        uint32_t page = ext_stream_page(e, i % EXT_STREAM_COUNT, i / EXT_STREAM_COUNT);
        if (page == EXT_NO_PAGE || atomic_load(&e->pages[page].objects) == 0)
            continue;
        uint32_t age = newest - atomic_load(&e->pages[page].version);
        if (b == NULL || age > best_age) {
            b = &e->streams[i % EXT_STREAM_COUNT];
            device = i / EXT_STREAM_COUNT;
            best_age = age;
        }
    }
    if (b == NULL)
        return false;
    lock_take(&b->lock);
    end_page(e, b, device);
    lock_release(&b->lock);
    return true;
}

/* If all buffers are open in some stream, or stuck, and none is being written, none would ever come
 * back: writes out the one that was opened first. The lock of stream `held` is held. */
static void flush_oldest_open(struct extstore *e, unsigned held)
{
    lock_assert_held(&e->streams[held].lock);
    if (ext_is_writing(e))
        return;
    struct ext_stream *victim = NULL;
    for (unsigned i = 0; i < EXT_STREAM_COUNT; i++) {
        struct ext_stream *b = &e->streams[i];
        if (i != held && !lock_try(&b->lock)) /* out of order, and so only tried */
            continue;
        if (b->open != NULL && b->open->fill_count > 0 &&
            (victim == NULL || b->open->opened_ns < victim->open->opened_ns)) {
            if (victim != NULL && victim != &e->streams[held])
                lock_release(&victim->lock);
            victim = b;
        } else if (i != held) {
            lock_release(&b->lock);
        }
    }
    if (victim == NULL)
        return;
    ASSERT(victim->open != NULL && victim->open->fill_count > 0);
    close_open(victim);
    if (victim != &e->streams[held])
        lock_release(&victim->lock);
}

/* Reserves room for the record in a wbuf that it fits in, and counts the object. The caller keeps
 * other appends out. */
static void reserve_in(struct ext_wbuf *w, const struct ext_record_in *in, uint64_t record_bytes,
                       struct ext_append *out)
{
    struct extstore *e = w->e;
    uint32_t offset = w->fill_bytes;
    DEBUG_ASSERT(state_of(w) == EXT_WBUF_OPEN && fits(e, w, record_bytes));
    ASSERT(record_bytes % EXT_GRANULE_BYTES == 0 && offset % EXT_GRANULE_BYTES == 0);
    *ext_entry_at(w->memory + e->wbuf_bytes, w->fill_count) =
        (struct ext_entry){in->hash, offset / EXT_GRANULE_BYTES, (uint32_t)record_bytes};
    w->fill_bytes += (uint32_t)record_bytes;
    w->fill_count++;
    atomic_store_explicit(&w->root->front_bytes, w->fill_bytes, memory_order_relaxed);
    atomic_store_explicit(&w->root->count, w->fill_count, memory_order_release);
    atomic_fetch_add(&w->writers, 1);
    out->wbuf = w;
    out->place = ext_slot_place(e, w->slot) + offset / EXT_GRANULE_BYTES;
    out->len_class = ext_len_class(record_bytes);
    ext_page_add_object(e, w->page, record_bytes, out->len_class, in->exptime_unix, in->time_unix);
}

/* The same in the stream's open wbuf, or the next; ends: in a page that begins. */
static int reserve_room(struct extstore *e, unsigned stream, bool ends, const struct ext_record_in *in,
                        uint64_t record_bytes, bool reserve, struct ext_append *out)
{
    struct ext_stream *b = &e->streams[stream];
    lock_take(&b->lock);
    if (ends)
        end_pages(e, b);
    struct ext_wbuf *w = b->open;
    if (w == NULL || !fits(e, w, record_bytes)) {
        struct ext_wbuf *fresh;
        int rc = open_wbuf(e, stream, reserve ? FOR_RECLAIM : FOR_APPEND, &fresh);
        if (rc != 0) {
            if (rc == -EAGAIN)
                flush_oldest_open(e, stream);
            else if (rc == -ENOSPC && !reserve)
                ext_wake_maint(e);
            lock_release(&b->lock);
            return rc;
        }
        b->open = fresh;
        if (w != NULL)
            close_wbuf(w);
        w = fresh;
    }
    reserve_in(w, in, record_bytes, out);
    lock_release(&b->lock);
    return 0;
}

/* Puts the record where room was reserved for it. */
static void write_record(const struct ext_append *a, const struct ext_record_in *in, uint64_t seq,
                         uint64_t record_bytes)
{
    struct ext_wbuf *w = a->wbuf;
    struct extstore *e = w->e;
    uint64_t offset = (a->place - ext_slot_place(e, w->slot)) * EXT_GRANULE_BYTES;
    ASSERT(offset + record_bytes <= e->wbuf_bytes - sizeof(struct ext_trailer));
    ext_record_write(w->memory + offset, in, seq, w->root->version, a->place);
    ext_count(e, EXT_N_objects_written, 1);
    ext_count(e, EXT_N_bytes_written, record_bytes);
}

int ext_append_begin(struct extstore *e, enum ext_bucket bucket, const struct ext_record_in *in,
                     uint64_t seq, bool reserve, struct ext_append *out)
{
    ASSERT(bucket < EXT_BUCKET_COUNT && in->key_bytes > 0);
    uint64_t record_bytes = ext_record_bytes(in->key_bytes, in->value_bytes);
    if (record_bytes > ext_record_max_bytes(e))
        return -E2BIG;
    bool ends;
    unsigned stream = ext_group_stream(e, bucket, in->exptime_unix, &ends);
    int rc = reserve_room(e, stream, ends, in, record_bytes, reserve, out);
    if (rc != 0 && stream != bucket) /* a group needs a buffer and a page of its own; the bucket may have both */
        rc = reserve_room(e, bucket, false, in, record_bytes, reserve, out);
    if (rc != 0)
        return rc;
    if (seq == 0)
        seq = atomic_fetch_add_explicit(&e->root->next_seq, 1, memory_order_relaxed) + 1;
    write_record(out, in, seq, record_bytes);
    return 0;
}

void ext_append_end(struct ext_append *a)
{
    struct ext_wbuf *w = a->wbuf;
    struct extstore *e = w->e;
    uint32_t before = atomic_fetch_sub(&w->writers, 1);
    ASSERT((before & ~EXT_WBUF_CLOSED) != 0);
    if (before - 1 == EXT_WBUF_CLOSED)
        io_pool_submit(e->write_pool, &w->job);
}

int ext_append(struct extstore *e, enum ext_bucket bucket, const struct ext_record_in *in,
               ext_place *place, unsigned *len_class)
{
    struct ext_append a;
    int rc = ext_append_begin(e, bucket, in, 0, false, &a);
    if (rc != 0)
        return rc;
    *place = a.place;
    *len_class = a.len_class;
    ext_append_end(&a);
    return 0;
}

uint64_t ext_record_max_bytes(const struct extstore *e)
{
    return min_u64(round_down(ext_table_start(e->wbuf_bytes, 1) - EXT_MARK_BYTES, EXT_GRANULE_BYTES),
                   EXT_RECORD_MAX_BYTES);
}

/* ---- sync ---- */

int ext_sync(struct extstore *e, int64_t timeout_ms)
{
    lock_assert_none_held();
    for (unsigned i = 0; i < EXT_STREAM_COUNT; i++)
        ext_wbuf_close_open(e, i);
    uint64_t end = clock_mono_ns() + (uint64_t)max_u64(0, (uint64_t)timeout_ms) * 1000000;
    int rc = 0;
    lock_take(&e->notify_lock);
    uint32_t flushing; /* one look for both questions, since it sinks without the lock */
    while (rc == 0 && (flushing = atomic_load(&e->flushing_wbufs)) > 0) {
        uint64_t now = clock_mono_ns();
        if (atomic_load(&e->stuck_wbufs) == flushing)
            rc = -EIO;
        else if (timeout_ms >= 0 && now >= end)
            rc = -ETIMEDOUT;
        else
            lock_wait(&e->notify_lock, &e->idle_cond,
                      timeout_ms < 0 ? -1 : (int64_t)((end - now) / 1000000) + 1);
    }
    lock_release(&e->notify_lock);
    return rc;
}

bool ext_is_writing(const struct extstore *e)
{
    return atomic_load(&e->flushing_wbufs) > atomic_load(&e->stuck_wbufs);
}

/* ---- flush: from here on in I/O threads ---- */

/* The parts of a slot to write: all before front, and from table on; not the blocks between, which hold
 * neither records nor table. */
struct span {
    uint64_t front, table;
};

static struct span written_span(const struct ext_wbuf *w)
{
    uint64_t bytes = w->e->wbuf_bytes;
    struct span s = {round_up(w->fill_bytes, EXT_IO_ALIGN_BYTES),
                     round_down(ext_table_start(bytes, w->fill_count), EXT_IO_ALIGN_BYTES)};
    if (s.front + EXT_IO_CHUNK_BYTES >= s.table) /* a small gap is cheaper written than skipped */
        s.front = s.table = bytes;
    ASSERT(s.front <= s.table && s.table <= bytes);
    return s;
}

/* Moves *at beyond the gap, if it is there; the end of the part it is in then. */
static uint64_t span_end(const struct span *s, uint64_t bytes, uint64_t *at)
{
    if (*at >= s->front && *at < s->table)
        *at = s->table;
    return *at < s->front ? s->front : bytes;
}

/* Continues writing the slot; after an error `written` tells how far it got. -ECANCELED: the process ends. */
static int write_rest(struct ext_wbuf *w)
{
    struct extstore *e = w->e;
    struct ext_device *d = ext_page_device(e, w->page);
    uint64_t at = ext_slot_offset(e, w->slot);
    struct span s = written_span(w);
    assert_wbuf(w);
    while (w->written < e->wbuf_bytes) {
        if (atomic_load(&e->stopping))
            return -ECANCELED;
        uint64_t end = span_end(&s, e->wbuf_bytes, &w->written);
        end = min_u64(end, w->written + EXT_IO_CHUNK_BYTES);
        struct ext_io_counts c = {0};
        int rc = ext_device_write(d, w->memory + w->written, end - w->written, at + w->written, &c);
        w->written += c.bytes;
        ASSERT(w->written <= end);
        if (c.bytes > 0)
            w->chunk_tries = 0;
        ext_written(e, c.bytes);
        ext_count(e, EXT_N_write_retries, c.short_transfers);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* Is the slot on flash as it is in memory? 0; -EIO if not; else why it can't be read. Needs only stack
 * memory: a page must not be given up because memory is short. */
static int compare_slot(struct ext_wbuf *w)
{
    struct extstore *e = w->e;
    struct ext_device *d = ext_page_device(e, w->page);
    struct span s = written_span(w);
    char seen[COMPARE_BYTES] __attribute__((aligned(EXT_IO_ALIGN_BYTES)));
    int rc = 0;
    for (uint64_t at = 0; rc == 0 && at < e->wbuf_bytes;) {
        if (atomic_load(&e->stopping))
            return -ECANCELED;
        uint64_t end = span_end(&s, e->wbuf_bytes, &at);
        uint64_t bytes = min_u64(end - at, sizeof(seen)), offset = ext_slot_offset(e, w->slot) + at;
        struct ext_io_counts c = {0};
        rc = bytes > 0 ? ext_device_read(d, seen, bytes, offset, &c) : 0;
        ext_count(e, EXT_N_read_short, c.short_transfers);
        if (rc == 0 && memcmp(seen, w->memory + at, bytes) != 0) {
            ext_count(e, EXT_N_write_mismatches, 1);
            ext_device_say(d, EXT_FAULT_MISMATCH, offset, 0, "they are written again");
            rc = -EIO;
        }
        at += bytes;
    }
    return rc;
}

/* Writes the rest of the slot and, with verify_writes, checks that it is on flash; if not, all of it has to be
 * written again. */
static int write_slot(struct ext_wbuf *w)
{
    int rc = write_rest(w);
    if (rc == 0 && w->e->opt.verify_writes && (rc = compare_slot(w)) != 0) {
        w->written = 0;
        w->compare_tries++;
    }
    return rc;
}

/* Has the chunk that failed written again a little later, other jobs first. False: often enough. */
static bool write_again(struct ext_wbuf *w, int rc)
{
    struct extstore *e = w->e;
    struct ext_device *d = ext_page_device(e, w->page);
    /* A device that is known to be failed gets one try: that is how its return is noticed. */
    if (++w->chunk_tries >= WRITE_TRIES || w->compare_tries >= WRITE_TRIES || ext_device_failed(d))
        return false;
    ext_device_say(d, EXT_FAULT_WRITE, ext_slot_offset(e, w->slot) + w->written, rc,
                   "it is tried again");
    ext_count(e, EXT_N_write_retries, 1);
    uint64_t pause_ns = WRITE_PAUSE_NS << (w->chunk_tries - 1);
    io_pool_submit_after(e->write_pool, &w->job, min_u64(pause_ns, WRITE_PAUSE_MAX_NS));
    return true;
}

static void device_ok(struct extstore *e, uint32_t page)
{
    struct ext_device *d = ext_page_device(e, page);
    if (!ext_device_write_ok(d))
        return;
    ext_page_retry_all(e, e->where[page].device);
    ext_wake_writers(e);
    ext_wake_maint(e);
}

static void wake_sync(struct extstore *e)
{
    lock_take(&e->notify_lock);
    pthread_cond_broadcast(&e->idle_cond);
    lock_release(&e->notify_lock);
}

/* What is common to both ends of a flush; the wbuf may be in use again already. */
static void flush_over(struct extstore *e, uint32_t page)
{
    uint32_t waiting = atomic_fetch_sub(&e->backlogs[e->where[page].device].wbufs, 1);
    uint32_t busy = atomic_fetch_sub(&e->pages[page].slots_busy, 1);
    ASSERT(waiting > 0 && busy > 0);
    ext_page_unpin(e, page);
    /* Last: a thread that waits in ext_sync finds everything done. */
    uint32_t flushing = atomic_fetch_sub(&e->flushing_wbufs, 1);
    ASSERT(flushing > 0);
    wake_sync(e);
    ext_wake_writers(e);
}

static void unstick(struct ext_wbuf *w)
{
    if (atomic_exchange(&w->state, EXT_WBUF_FLUSHING) != EXT_WBUF_STUCK)
        return;
    uint32_t stuck = atomic_fetch_sub(&w->e->stuck_wbufs, 1);
    ASSERT(stuck > 0);
}

/* The slot is on flash: the buffer stays as a copy to read from, until it is needed. */
static void flushed(struct ext_wbuf *w)
{
    struct extstore *e = w->e;
    uint32_t page = w->page;
    ASSERT(w->written == e->wbuf_bytes && !w->moved);
    device_ok(e, page);
    unstick(w);
    atomic_store_explicit(&e->fill_sec, (uint32_t)((clock_mono_ns() - w->opened_ns) / 1000000000),
                          memory_order_relaxed);
    atomic_store_explicit(&w->state, EXT_WBUF_CLEAN, memory_order_relaxed);
    lock_take(&e->page_lock);
    extmap_set_clean(e->map, w->slot);
    uint32_t dirty = atomic_fetch_sub(&e->dirty_wbufs, 1);
    ASSERT(dirty > 0);
    lock_release(&e->page_lock);
    flush_over(e, page);
}

/* ---- when a write fails ---- */

/* Ends appends to the page: its open wbuf goes to the device. If the
 * whole device is failed, its pages are not at fault. */
static void retire_page(struct ext_wbuf *w, int rc)
{
    struct extstore *e = w->e;
    uint32_t page = w->page;
    struct ext_device *d = ext_page_device(e, page);
    if (ext_device_failed(d))
        return;
    uint64_t offset = ext_slot_offset(e, w->slot) + w->written;
    bool first = ext_page_fail(e, page, offset - e->where[page].unit * e->page_bytes);
    if (first)
        ext_device_say(d, EXT_FAULT_PAGE_BAD, offset, rc,
                       "what was to be written goes to another page, and this one is read only "
                       "until it is empty and takes a test write");
    /* Several wbufs of one page are one failure; but when all are stuck no other page is tried. */
    if (first || w->rounds > 0)
        ext_device_page_failed(d, rc);
    ext_wake_maint(e);
    struct ext_stream *b = &e->streams[w->stream];
    struct ext_stream_file *f = &b->files[e->where[page].device];
    lock_take(&b->lock);
    if (atomic_load_explicit(&f->page, memory_order_relaxed) == page) {
        atomic_store_explicit(&f->page, EXT_NO_PAGE, memory_order_relaxed);
        if (b->open != NULL && b->open->page == page)
            close_open(b);
    }
    lock_release(&b->lock);
}

/* Appends one record again, in a wbuf that has room for all that its own holds. */
static void move_record(struct ext_wbuf *w, const struct ext_entry *entry, struct ext_wbuf *to)
{
    struct extstore *e = w->e;
    const struct ext_callbacks *cb = &e->opt.callbacks;
    uint64_t offset = (uint64_t)entry->granule * EXT_GRANULE_BYTES;
    ext_place place = ext_slot_place(e, w->slot) + entry->granule;
    struct ext_record rec;
    /* A record that doesn't verify was being copied when an earlier process was killed. */
    if (offset + entry->record_bytes > w->fill_bytes ||
        ext_record_verify(w->memory + offset, entry->record_bytes, w->root->version, place, &rec))
        return;
    unsigned heat;
    if (!cb->is_live(cb->ctx, entry->hash, place, &heat))
        return;
    struct ext_record_in in;
    struct ext_append a;
    ext_record_again(&rec, entry->hash, &in);
    uint64_t record_bytes = ext_record_bytes(in.key_bytes, in.value_bytes);
    ASSERT(fits(e, to, record_bytes));
    reserve_in(to, &in, record_bytes, &a);
    write_record(&a, &in, rec.seq, record_bytes);
    if (cb->moved(cb->ctx, entry->hash, place, a.place, a.len_class))
        ext_count(e, EXT_N_write_moved, 1);
    else
        ext_drop(e, a.place, a.len_class);
    ext_append_end(&a);
}

/* Moves the live records to a wbuf of their own, which has room for all of them, and writes that. So a
 * rewrite gives a buffer back for the one that it takes, and the last one is enough, however many writes
 * have failed and wherever the next one fails. False: not now. */
static bool move_records(struct ext_wbuf *w)
{
    struct extstore *e = w->e;
    struct ext_stream *b = &e->streams[w->stream];
    struct ext_wbuf *to;
    ASSERT(!w->moved && atomic_load(&w->writers) == EXT_WBUF_CLOSED);
    lock_take(&b->lock);
    int rc = open_wbuf(e, w->stream, FOR_REWRITE, &to);
    lock_release(&b->lock);
    if (rc != 0)
        return false;
    for (uint32_t i = 0; i < w->fill_count; i++)
        move_record(w, ext_entry_at(w->memory + e->wbuf_bytes, i), to);
    w->moved = true;
    lock_take(&b->lock);
    close_wbuf(to);
    lock_release(&b->lock);
    return true;
}

/* No word refers to the range: gives the buffer back unwritten. 0, or -EBUSY: a late reader copies from it. */
static int forget(struct ext_wbuf *w)
{
    struct extstore *e = w->e;
    uint32_t page = w->page;
    lock_take(&e->page_lock);
    int rc = extmap_set_free(e->map, w->slot, NULL);
    if (rc == 0) {
        unstick(w);
        give_buffer_back(w);
    }
    lock_release(&e->page_lock);
    if (rc == 0)
        flush_over(e, page);
    return rc;
}

static void abandon(struct ext_wbuf *w)
{
    ASSERT(w->moved);
    if (forget(w) != 0)
        io_pool_submit_after(w->e->write_pool, &w->job, BUSY_DELAY_NS);
}

/* It stays as it is. While the process ends, for good: the next one writes buffers that an arena file keeps. */
static void leave_unwritten(struct ext_wbuf *w)
{
    w->written = 0;
    if (atomic_exchange(&w->state, EXT_WBUF_STUCK) != EXT_WBUF_STUCK)
        atomic_fetch_add(&w->e->stuck_wbufs, 1);
    wake_sync(w->e);
}

bool ext_is_unwritten(struct extstore *e, ext_place place)
{
    return extmap_get(e->map, ext_place_slot(e, place)).state == EXTMAP_DELAYED;
}

int ext_forget_stuck(struct extstore *e)
{
    ASSERT(e->write_pool == NULL && atomic_load(&e->stopping));
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < e->wbuf_count; i++)
        if (state_of(&e->wbufs[i]) == EXT_WBUF_STUCK)
            rc = forget(&e->wbufs[i]);
    return rc;
}

static void stick(struct ext_wbuf *w)
{
    ASSERT(w->rounds > 0 && w->written == 0);
    struct extstore *e = w->e;
    leave_unwritten(w);
    if (atomic_load(&e->stopping))
        return;
    unsigned doublings = w->rounds - 1 < STUCK_DOUBLINGS_MAX ? w->rounds - 1 : STUCK_DOUBLINGS_MAX;
    io_pool_submit_after(e->write_pool, &w->job, STUCK_DELAY_NS << doublings);
}

/* The next of the device's backlog may run. */
static void end_turn(struct extstore *e, uint32_t device)
{
    struct ext_backlog *log = &e->backlogs[device];
    lock_take(&e->notify_lock);
    struct ext_wbuf *next = STAILQ_FIRST(&log->waiting);
    ASSERT(log->running > 0);
    log->running--;
    if (next != NULL)
        STAILQ_REMOVE_HEAD(&log->waiting, in_backlog);
    lock_release(&e->notify_lock);
    if (next != NULL)
        io_pool_submit(e->write_pool, &next->job);
}

/* True: the wbuf may be written now, and end_turn follows. Else it waits, and runs again in its turn. */
static bool begin_turn(struct ext_wbuf *w, uint32_t device)
{
    struct extstore *e = w->e;
    struct ext_backlog *log = &e->backlogs[device];
    lock_take(&e->notify_lock);
    bool may = log->running < e->flushes_at_once;
    ASSERT(log->running <= e->flushes_at_once && (may || log->running > 0));
    if (may)
        log->running++;
    else
        STAILQ_INSERT_TAIL(&log->waiting, w, in_backlog);
    lock_release(&e->notify_lock);
    return may;
}

/* Does nothing refer to the page any more, and will nothing? Then there is no use in writing to it. A page that is not
 * OPEN gets no object; then only wbufs have references. */
static bool is_dead(const struct ext_wbuf *w)
{
    const struct ext_page *p = &w->e->pages[w->page];
    return ext_page_state_of(p) != EXT_PAGE_OPEN && atomic_load(&p->objects) == 0 &&
           atomic_load(&p->refs) == atomic_load(&p->slots_busy);
}

/* Will that be so soon, since all of the page has expired? */
static bool dies_soon(struct ext_wbuf *w)
{
    struct extstore *e = w->e;
    const struct ext_page *p = &e->pages[w->page];
    return ext_page_state_of(p) != EXT_PAGE_OPEN && w->written == 0 && !atomic_load(&e->stopping) &&
           ext_raised_get(&p->exptime_max) <= atomic_load_explicit(&e->now_unix, memory_order_relaxed) &&
           w->waits++ < DEAD_WAITS;
}

/* The wbuf may be in use again when this returns. */
static void flush(struct ext_wbuf *w)
{
    assert_wbuf(w);
    ASSERT(atomic_load(&w->writers) == EXT_WBUF_CLOSED); /* each append has ended */
    if (is_dead(w)) {
        w->moved = true;
        abandon(w);
        return;
    }
    if (atomic_load(&w->e->stopping)) {
        leave_unwritten(w);
        return;
    }
    if (dies_soon(w)) {
        io_pool_submit_after(w->e->write_pool, &w->job, DEAD_DELAY_NS);
        return;
    }
    if (w->written == 0 && ext_slot_front(w->e, w->slot) > 0)
        ext_mark_fill(w->memory, ext_page_device(w->e, w->page)->stamp);
    if (w->written == 0)
        ext_trailer_write(w->memory, w->e->wbuf_bytes, w->slot, w->root->version, w->fill_count,
                          w->fill_bytes);
    int rc = write_slot(w);
    if (rc == 0) {
        flushed(w);
        return;
    }
    if (rc == -ECANCELED && atomic_load(&w->e->stopping)) { /* else it is the device's error */
        leave_unwritten(w);
        return;
    }
    if (write_again(w, rc))
        return;
    ext_count(w->e, EXT_N_write_errors, 1);
    retire_page(w, rc);
    w->rounds++;
    w->chunk_tries = w->compare_tries = 0;
    w->written = 0; /* the state of the rest is unknown */
    if (any_device_takes_writes(w->e) && move_records(w))
        abandon(w);
    else
        stick(w);
}

static void flush_run(struct io_job *job)
{
    struct ext_wbuf *w = CONTAINER_OF(job, struct ext_wbuf, job);
    struct extstore *e = w->e;
    uint32_t device = e->where[w->page].device;
    lock_assert_none_held();
    if (w->moved) {
        abandon(w);
    } else if (begin_turn(w, device)) {
        flush(w);
        end_turn(e, device);
    }
}

/* ---- after an attach ---- */

/* Would a later scan find what is appended to this page? Not if its device joined the cache after it was opened. */
static bool is_of_now(const struct extstore *e, uint32_t page)
{
    uint32_t since = e->tables->devices[e->where[page].device].since;
    return since == 0 || (int32_t)(atomic_load(&e->pages[page].version) - since) > 0;
}

/* Each bucket goes on with a page that it had open. */
static void attach_pages(struct extstore *e)
{
    for (uint32_t page = 0; page < e->page_count; page++) {
        struct ext_page *p = &e->pages[page];
        if (ext_page_state_of(p) != EXT_PAGE_OPEN)
            continue;
        ASSERT(p->bucket < EXT_BUCKET_COUNT);
        struct ext_stream *b = &e->streams[p->bucket];
        struct ext_stream_file *f = &b->files[e->where[page].device];
        uint32_t used = atomic_load(&p->slots_used);
        bool is_group = p->bucket == EXT_BUCKET_LOWTTL && ext_groups_are_on(e); /* these begin again */
        if (!is_group && atomic_load(&f->page) == EXT_NO_PAGE && used < e->slots_per_page && is_of_now(e, page)) {
            f->page = page;
            f->next_slot = used;
        } else {
            ext_page_seal(e, page);
        }
    }
}

void ext_wbuf_attach(struct extstore *e)
{
    STAILQ_HEAD(, ext_wbuf) unflushed = STAILQ_HEAD_INITIALIZER(unflushed);
    attach_pages(e);
    for (uint32_t i = 0; i < e->wbuf_count; i++) {
        struct ext_wbuf *w = &e->wbufs[i];
        if (extmap_buffer_range(e->map, i, &w->slot) != 0) {
            e->free_wbufs[e->free_wbuf_count++] = i;
            continue;
        }
        w->page = ext_slot_page(e, w->slot);
        w->stream = w->root->bucket;
        w->state = EXT_WBUF_CLEAN;
        if (extmap_get(e->map, w->slot).state != EXTMAP_DELAYED)
            continue;
        w->fill_count = atomic_load(&w->root->count);
        w->fill_bytes = atomic_load(&w->root->front_bytes);
        w->writers = EXT_WBUF_CLOSED;
        w->state = EXT_WBUF_FLUSHING;
        atomic_fetch_add(&e->dirty_wbufs, 1);
        atomic_fetch_add(&e->flushing_wbufs, 1);
        atomic_fetch_add(&e->backlogs[e->where[w->page].device].wbufs, 1);
        atomic_fetch_add(&e->pages[w->page].slots_busy, 1);
        ext_page_pin(e, w->page);
        assert_wbuf(w);
        STAILQ_INSERT_HEAD(&unflushed, w, in_backlog);
    }
    /* Not before all are set up: a flush that fails takes another buffer. */
    for (struct ext_wbuf *w; (w = STAILQ_FIRST(&unflushed)) != NULL;) {
        STAILQ_REMOVE_HEAD(&unflushed, in_backlog);
        io_pool_submit(e->write_pool, &w->job);
    }
}
