/* flash/ring.c: see flash/ring.h. */
#include "flash/ring.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include "flash/page.h"
#include "flash/pread.h"
#include "flash/uring.h"

/* Values of ext_read.slot that are not the number of a slot. */
enum { SLOT_NONE = 0xffff, SLOT_LARGE = 0xfffe, SLOT_DETACHED = 0xfffd };

struct ext_ring {
    struct extstore *e;
    int event_fd;
    unsigned depth;
    struct ext_uring *uring; /* one of these two */
    struct ext_twin *twin;
    uint64_t region; /* arena offset of the slots */
    uint64_t region_bytes; /* 0: not there */
    char *slots;
    uint16_t *free_slots;
    unsigned slot_count, free_count;
    uint64_t large_bytes, large_max_bytes;
    unsigned in_flight, waiting_count, completed_count;
    struct ext_read *waiting, *waiting_tail;     /* QUEUED, not started */
    struct ext_read *completed, *completed_tail; /* done() is to be called */
    bool kicked;                                 /* event_fd was written for the completed list */
    bool owner_knows;                            /* of it: the last reap said that there is more */
    struct ext_read_counters n;
    struct ext_device_load *loads; /* for each device */
    struct ext_ring *next; /* under rings_lock */
};

static void count(_Atomic(uint64_t) *n, uint64_t by)
{
    atomic_store_explicit(n, atomic_load_explicit(n, memory_order_relaxed) + by,
                          memory_order_relaxed);
}

/* ---- create, destroy ---- */

/* The pool of the thread engine, made when the first ring needs it. */
static struct io_pool *read_pool(struct extstore *e)
{
    lock_take(&e->pool_lock);
    if (e->read_pool == NULL) {
        unsigned threads = e->opt.io_threads < 4 ? 4 : e->opt.io_threads;
        if (threads > IO_THREADS_MAX)
            threads = IO_THREADS_MAX;
        e->read_pool = io_pool_create(ext_is_stepped(e) ? 0 : threads, "ext-read");
    }
    struct io_pool *pool = e->read_pool;
    lock_release(&e->pool_lock);
    return pool;
}

static int start_engine(struct ext_ring *ring)
{
    struct extstore *e = ring->e;
    if (e->uring && ext_uring_create(&ring->uring, ring->depth, e->device_fds, e->device_count,
                                     ring->slots, ring->region_bytes, ring->event_fd) == 0)
        return 0;
    struct io_pool *pool = read_pool(e);
    if (pool == NULL)
        return -ENOMEM;
    return ext_twin_create(&ring->twin, ring->depth, e->devices, pool, ring->event_fd);
}

static int take_slots(struct ext_ring *ring)
{
    struct extstore *e = ring->e;
    uint64_t count = min_u64(e->ring_bytes / 2 / EXT_RING_SLOT_BYTES, EXT_RING_SLOTS_MAX);
    ring->slot_count = (unsigned)max_u64(count, EXT_RING_SLOTS_MIN);
    uint64_t bytes = ring->slot_count * EXT_RING_SLOT_BYTES;
    ring->large_max_bytes = e->ring_bytes - min_u64(e->ring_bytes, bytes);
    ring->free_slots = calloc(ring->slot_count, sizeof(*ring->free_slots));
    if (ring->free_slots == NULL)
        return -ENOMEM;
    int rc = arena_alloc(e->arena, ARENA_USE_BUFFER, bytes, ARENA_UNIT_BYTES, &ring->region, NULL);
    if (rc != 0)
        return rc;
    ring->region_bytes = bytes;
    ring->slots = arena_base(e->arena) + ring->region;
    for (unsigned i = ring->slot_count; i-- > 0;)
        ring->free_slots[ring->free_count++] = (uint16_t)i;
    return 0;
}

static void free_ring(struct ext_ring *ring)
{
    ext_uring_destroy(ring->uring);
    ext_twin_destroy(ring->twin);
    if (ring->region_bytes != 0)
        arena_free(ring->e->arena, ARENA_USE_BUFFER, ring->region, ring->region_bytes);
    if (ring->event_fd >= 0)
        close(ring->event_fd);
    free(ring->free_slots);
    free(ring->loads);
    free(ring);
}

struct ext_ring *ext_ring_create(struct extstore *e)
{
    struct ext_ring *ring = calloc(1, sizeof(*ring));
    if (ring == NULL)
        return NULL;
    ring->e = e;
    ring->depth = e->opt.io_depth < EXT_RING_DEPTH_MIN ? EXT_RING_DEPTH_MIN : e->opt.io_depth;
    if (ring->depth > EXT_RING_DEPTH_MAX)
        ring->depth = EXT_RING_DEPTH_MAX;
    ring->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    int rc = ring->event_fd < 0 ? -errno : take_slots(ring);
    ring->loads = calloc(e->device_count, sizeof(*ring->loads));
    if (rc == 0 && ring->loads == NULL)
        rc = -ENOMEM;
    if (rc == 0)
        rc = start_engine(ring);
    if (rc != 0) {
        free_ring(ring);
        errno = -rc;
        return NULL;
    }
    lock_take(&e->rings_lock);
    ring->next = e->rings;
    e->rings = ring;
    lock_release(&e->rings_lock);
    return ring;
}

static void add_counters(struct ext_read_counters *to, const struct ext_read_counters *from)
{
    count(&to->objects_read, from->objects_read);
    count(&to->bytes_read, from->bytes_read);
    count(&to->device_reads, from->device_reads);
    count(&to->buffer_hits, from->buffer_hits);
    count(&to->read_errors, from->read_errors);
    count(&to->read_retries, from->read_retries);
    count(&to->read_short, from->read_short);
    count(&to->bad_checksums, from->bad_checksums);
}

void ext_ring_counters(struct extstore *e, struct ext_info *info)
{
    struct ext_read_counters sum = {0};
    lock_take(&e->rings_lock);
    add_counters(&sum, &e->retired);
    for (struct ext_ring *r = e->rings; r != NULL; r = r->next)
        add_counters(&sum, &r->n);
    lock_release(&e->rings_lock);
    info->objects_read = sum.objects_read;
    info->bytes_read = sum.bytes_read;
    info->device_reads = sum.device_reads;
    info->buffer_hits = sum.buffer_hits;
    info->read_errors = sum.read_errors;
    info->read_retries = sum.read_retries;
    info->read_short = sum.read_short;
    info->bad_checksums = sum.bad_checksums;
}

void ext_ring_loads(struct extstore *e, unsigned device, struct histogram_sum *latency, uint64_t *bytes)
{
    lock_take(&e->rings_lock);
    for (struct ext_ring *r = e->rings; r != NULL; r = r->next) {
        histogram_sum_add(latency, &r->loads[device].latency);
        *bytes += atomic_load_explicit(&r->loads[device].bytes, memory_order_relaxed);
    }
    lock_release(&e->rings_lock);
}

static void retire_loads(struct ext_ring *ring)
{
    for (uint32_t i = 0; i < ring->e->device_count; i++) {
        struct ext_device_load *from = &ring->loads[i], *to = &ring->e->devices[i].reads;
        for (unsigned b = 0; b < HISTOGRAM_BUCKETS; b++)
            atomic_fetch_add(&to->latency.buckets[b], atomic_load(&from->latency.buckets[b]));
        atomic_fetch_add(&to->latency.sum_ns, atomic_load(&from->latency.sum_ns));
        atomic_fetch_add(&to->bytes, atomic_load(&from->bytes));
    }
}

int ext_ring_fd(const struct ext_ring *ring)
{
    return ring->event_fd;
}

unsigned ext_ring_pending(const struct ext_ring *ring)
{
    return ring->in_flight + ring->waiting_count + ring->completed_count;
}

/* ---- buffers ---- */

/* True iff the read got a buffer of at least `bytes` bytes. must: beyond what is set aside for
 * reads if need be (see start_waiting). */
static bool take_buffer(struct ext_ring *ring, struct ext_read *r, uint64_t bytes, bool must)
{
    if (bytes <= EXT_RING_SLOT_BYTES && (ring->free_count > 0 || !must)) {
        if (ring->free_count == 0)
            return false;
        r->slot = ring->free_slots[--ring->free_count];
        r->buffer = ring->slots + (uint64_t)r->slot * EXT_RING_SLOT_BYTES;
    } else {
        if (!must && ring->large_bytes != 0 && ring->large_bytes + bytes > ring->large_max_bytes)
            return false;
        void *p = aligned_alloc(EXT_IO_ALIGN_BYTES, round_up(bytes, EXT_IO_ALIGN_BYTES));
        if (p == NULL)
            return false;
        ring->large_bytes += bytes;
        r->slot = SLOT_LARGE;
        r->buffer = p;
    }
    r->buffer_bytes = (uint32_t)bytes;
    return true;
}

static void give_buffer_back(struct ext_ring *ring, struct ext_read *r)
{
    if (r->slot < SLOT_DETACHED) {
        ring->free_slots[ring->free_count++] = r->slot;
    } else if (r->slot != SLOT_NONE) {
        if (r->slot == SLOT_LARGE)
            ring->large_bytes -= r->buffer_bytes;
        free(r->buffer);
    }
    r->slot = SLOT_NONE;
    r->buffer = NULL;
}

/* ---- a read's way ---- */

static void complete(struct ext_ring *ring, struct ext_read *r, int result)
{
    r->result = result;
    r->next = NULL;
    if (ring->completed_tail != NULL)
        ring->completed_tail->next = r;
    else
        ring->completed = r;
    ring->completed_tail = r;
    ring->completed_count++;
}

/* Where on the device the part of the read begins that is still missing. */
static uint64_t missing_offset(const struct ext_read *r)
{
    const struct extstore *e = r->ring->e;
    uint64_t slot = ext_place_slot(e, r->place);
    uint64_t in_slot = (r->place - ext_slot_place(e, slot)) * EXT_GRANULE_BYTES;
    return ext_slot_offset(e, slot) + in_slot - r->skip + r->io_done;
}

/* Hands the part of the read that is still missing to the engine. */
static void issue(struct ext_ring *ring, struct ext_read *r)
{
    struct extstore *e = ring->e;
    uint64_t offset = missing_offset(r);
    uint32_t bytes = r->buffer_bytes - r->io_done;
    ring->in_flight++;
    r->start_ns = io_now_ns();
    count(&ring->n.device_reads, 1);
    if (ring->uring != NULL)
        ext_uring_read(ring->uring, e->where[r->page].device, r->buffer + r->io_done, bytes, offset,
                       r);
    else
        ext_twin_read(ring->twin, e->where[r->page].device, r->buffer + r->io_done, bytes, offset,
                      r);
}

/* Copies the record out of the wbuf that holds it. True: done; false: no buffer for it now. */
static bool copy_from_wbuf(struct ext_ring *ring, struct ext_read *r, uint64_t slot,
                           uint32_t buffer, bool must)
{
    struct extstore *e = ring->e;
    uint64_t in_slot = (r->place - ext_slot_place(e, slot)) * EXT_GRANULE_BYTES;
    const char *from = e->wbufs[buffer].memory + in_slot;
    struct ext_record_head head;
    memcpy(&head, from, sizeof(head));
    uint64_t bytes = sizeof(head) + head.key_bytes + (uint64_t)head.value_bytes;
    bytes = min_u64(bytes, min_u64(ext_len_bytes(r->len_class), e->wbuf_bytes - in_slot));
    if (!take_buffer(ring, r, bytes, must))
        return false;
    memcpy(r->buffer, from, bytes);
    r->skip = 0;
    r->from_buffer = true;
    return true;
}

enum begun { BEGUN_COPIED, BEGUN_IN_FLIGHT, BEGUN_NOT, BEGUN_NO_MEMORY };

/* Starts the read one way or the other, if buffers and the engine allow. BEGUN_NO_MEMORY only if it
 * must. */
static enum begun begin(struct ext_ring *ring, struct ext_read *r, bool must)
{
    struct extstore *e = ring->e;
    uint64_t slot = ext_place_slot(e, r->place);
    enum begun without_buffer = must ? BEGUN_NO_MEMORY : BEGUN_NOT;
    uint32_t buffer;
    if (r->buffer != NULL) { /* once more */
        if (ring->in_flight >= ring->depth)
            return BEGUN_NOT;
        issue(ring, r);
        return BEGUN_IN_FLIGHT;
    }
    int pinned = extmap_pin(e->map, slot, &buffer);
    if (pinned == 0) {
        bool copied = copy_from_wbuf(ring, r, slot, buffer, must);
        extmap_unpin(e->map, slot);
        return copied ? BEGUN_COPIED : without_buffer;
    }
    /* -EAGAIN: in memory, but with more readers than can be counted. */
    if (pinned != -ENOENT || ring->in_flight >= ring->depth)
        return BEGUN_NOT;
    /* From the block in which the record begins to the one in which its class ends, in the slot. */
    uint64_t align = ext_page_device(e, r->page)->read_align;
    uint64_t in_slot = (r->place - ext_slot_place(e, slot)) * EXT_GRANULE_BYTES;
    uint64_t first = round_down(in_slot, align);
    uint64_t last = min_u64(round_up(in_slot + ext_len_bytes(r->len_class), align), e->wbuf_bytes);
    if (!take_buffer(ring, r, last - first, must))
        return without_buffer;
    r->skip = (uint32_t)(in_slot - first);
    issue(ring, r);
    return BEGUN_IN_FLIGHT;
}

static void wait_for_turn(struct ext_ring *ring, struct ext_read *r)
{
    r->next = NULL;
    if (ring->waiting_tail != NULL)
        ring->waiting_tail->next = r;
    else
        ring->waiting = r;
    ring->waiting_tail = r;
    ring->waiting_count++;
}

void ext_read_start(struct ext_ring *ring, struct ext_read *r, ext_place place, unsigned len_class)
{
    struct extstore *e = ring->e;
    r->place = place;
    r->len_class = len_class;
    r->page = ext_place_page(e, place);
    ASSERT(r->page < e->page_count);
    r->version = atomic_load(&e->pages[r->page].version);
    r->ring = ring;
    r->next = NULL;
    r->buffer = NULL;
    r->skip = r->buffer_bytes = r->io_done = r->tries = r->again = 0;
    r->slot = SLOT_NONE;
    r->result = 0;
    r->from_buffer = false;
    r->state = EXT_READ_QUEUED;
    count(&ring->n.objects_read, 1);
    enum begun begun = ring->waiting == NULL ? begin(ring, r, false) : BEGUN_NOT;
    if (begun == BEGUN_COPIED) {
        count(&ring->n.buffer_hits, 1);
        count(&ring->n.bytes_read, r->buffer_bytes);
        r->state = EXT_READ_DONE;
    } else if (begun == BEGUN_NOT) {
        wait_for_turn(ring, r);
    }
}

static void kick(struct ext_ring *ring)
{
    uint64_t one = 1;
    if (!ring->kicked) {
        ssize_t n = write(ring->event_fd, &one, sizeof(one)); /* fails only when readable anyway */
        (void)n;
    }
    ring->kicked = true;
}

/* Starts those that wait, in order, as far as buffers and the engine allow. A read that is done
 * keeps its buffer, and who holds it may be waiting for a second one. So while nothing is on its
 * way that would give a buffer back, the first in line gets one whatever was set aside: one a turn
 * at most. If there is none it ends with -ENOMEM, since nobody would come back to it. */
static void start_waiting(struct ext_ring *ring)
{
    while (ring->waiting != NULL) {
        struct ext_read *r = ring->waiting;
        bool must = ring->in_flight == 0 && ring->completed_count == 0;
        enum begun begun = begin(ring, r, must);
        if (begun == BEGUN_NOT) {
            if (must) /* nothing that comes back would start it: again in the next turn */
                kick(ring);
            return;
        }
        ring->waiting = r->next;
        if (ring->waiting == NULL)
            ring->waiting_tail = NULL;
        ring->waiting_count--;
        r->next = NULL;
        if (begun == BEGUN_COPIED) {
            count(&ring->n.buffer_hits, 1);
            count(&ring->n.bytes_read, r->buffer_bytes);
            complete(ring, r, 0);
        } else if (begun == BEGUN_NO_MEMORY) {
            complete(ring, r, -ENOMEM);
        }
    }
}

/* The engine's answer to one issue(). */
static void on_result(void *ctx, void *user, int result)
{
    struct ext_ring *ring = ctx;
    struct ext_read *r = user;
    struct ext_device *d = ext_page_device(ring->e, r->page);
    ring->in_flight--;
    uint32_t missing = r->buffer_bytes - r->io_done;
    if (result >= 0 && (uint32_t)result < missing) {
        uint32_t whole = (uint32_t)round_down((uint64_t)result, d->read_align);
        count(&ring->n.read_short, 1);
        ext_device_say(d, EXT_FAULT_SHORT_READ, missing_offset(r), 0, "the rest is read again");
        if (whole > 0) { /* progress: go on where it stopped */
            r->io_done += whole;
            issue(ring, r);
            return;
        }
        result = -ENODATA; /* nothing: the file ends here, or a fault that may pass */
    }
    if (result >= 0) {
        count(&ring->n.bytes_read, r->buffer_bytes);
        struct ext_device_load *load = &ring->loads[ring->e->where[r->page].device];
        histogram_add(&load->latency, io_now_ns() - r->start_ns, 1);
        count(&load->bytes, r->buffer_bytes);
        ext_device_read_result(d, 0);
        complete(ring, r, 0);
        return;
    }
    if (++r->tries < (result == -EINTR ? EXT_READ_INTERRUPTS_MAX : EXT_READ_TRIES)) {
        count(&ring->n.read_retries, 1);
        issue(ring, r);
        return;
    }
    count(&ring->n.read_errors, 1);
    ext_device_say(d, EXT_FAULT_READ, missing_offset(r), result,
                   "tried three times, so it is a miss for now");
    ext_device_read_result(d, result);
    complete(ring, r, result);
}

void ext_ring_submit(struct ext_ring *ring)
{
    start_waiting(ring);
    if (ring->uring != NULL && ext_uring_submit(ring->uring) != 0)
        kick(ring); /* out of some resource: again in the next turn */
    if (ring->completed != NULL && !ring->owner_knows)
        kick(ring);
}

unsigned ext_ring_reap_some(struct ext_ring *ring, unsigned max, bool *more)
{
    uint64_t events;
    if (ring->uring != NULL)
        ext_uring_arrive(ring->uring);
    if (!ring->owner_knows) {
        ssize_t got = read(ring->event_fd, &events, sizeof(events));
        (void)got;
    }
    ring->kicked = ring->owner_knows = false;
    if (ring->uring != NULL)
        ext_uring_reap(ring->uring, false, on_result, ring);
    else
        ext_twin_reap(ring->twin, false, on_result, ring);
    unsigned done = 0;
    while (ring->completed != NULL && done < max) {
        struct ext_read *r = ring->completed;
        ring->completed = r->next;
        if (ring->completed == NULL)
            ring->completed_tail = NULL;
        ring->completed_count--;
        r->next = NULL;
        r->state = EXT_READ_DONE;
        done++;
        r->done(r); /* may finish it, may start others */
    }
    *more = ring->owner_knows = ring->completed != NULL;
    ext_ring_submit(ring); /* what done() freed lets others begin */
    return done;
}

unsigned ext_ring_reap(struct ext_ring *ring)
{
    bool more;
    return ext_ring_reap_some(ring, UINT32_MAX, &more);
}

void ext_ring_destroy(struct ext_ring *ring)
{
    struct extstore *e = ring->e;
    while (ext_ring_pending(ring) > 0) {
        ext_ring_submit(ring);
        if (ring->completed == NULL && ring->in_flight > 0) {
            if (ring->uring != NULL)
                ext_uring_reap(ring->uring, true, on_result, ring);
            else
                ext_twin_reap(ring->twin, true, on_result, ring);
        }
        if (ext_ring_reap(ring) == 0 && ring->in_flight == 0 && ring->waiting != NULL) {
            /* All buffers are held by reads that are DONE: it can't be waited for them here. */
            struct ext_read *r = ring->waiting;
            ring->waiting = r->next;
            if (ring->waiting == NULL)
                ring->waiting_tail = NULL;
            ring->waiting_count--;
            complete(ring, r, -ECANCELED);
        }
    }
    lock_take(&e->rings_lock);
    struct ext_ring **at = &e->rings;
    while (*at != ring)
        at = &(*at)->next;
    *at = ring->next;
    add_counters(&e->retired, &ring->n);
    retire_loads(ring);
    lock_release(&e->rings_lock);
    free_ring(ring);
}

/* ---- results ---- */

int ext_read_record(const struct ext_read *r, const char *key, unsigned key_bytes,
                    struct ext_record *out)
{
    ASSERT(r->state == EXT_READ_DONE);
    if (r->result != 0)
        return r->result;
    int rc = ext_record_verify(r->buffer + r->skip, r->buffer_bytes - r->skip, r->version, r->place,
                               out);
    struct ext_device *d = ext_page_device(r->ring->e, r->page);
    if (!r->from_buffer)
        ext_device_bytes_result(d, rc == 0);
    if (rc != 0) {
        count(&r->ring->n.bad_checksums, 1);
        ext_device_say(d, EXT_FAULT_CHECKSUM, missing_offset(r) - r->io_done + r->skip, 0,
                       "wrong bytes are not served; the record is read again, then a miss");
        return rc;
    }
    if (key != NULL && (out->key_bytes != key_bytes || memcmp(out->key, key, key_bytes) != 0))
        return -ENOENT;
    return 0;
}

bool ext_read_again(struct ext_read *r)
{
    ASSERT(r->state == EXT_READ_DONE);
    if (r->from_buffer || r->result != 0 || r->slot == SLOT_DETACHED ||
        r->again >= EXT_READ_AGAIN_MAX)
        return false;
    r->again++;
    r->io_done = r->tries = 0;
    r->state = EXT_READ_QUEUED;
    count(&r->ring->n.read_retries, 1);
    if (r->ring->in_flight < r->ring->depth)
        issue(r->ring, r);
    else
        wait_for_turn(r->ring, r);
    return true;
}

void ext_read_finish(struct ext_read *r)
{
    ASSERT(r->state == EXT_READ_DONE);
    struct extstore *e = r->ring->e;
    give_buffer_back(r->ring, r);
    r->state = EXT_READ_IDLE;
    ext_page_unpin(e, r->page);
}

int ext_read_detach(struct ext_read *r)
{
    ASSERT(r->state == EXT_READ_DONE);
    struct ext_ring *ring = r->ring;
    if (r->buffer == NULL || r->slot == SLOT_DETACHED)
        return 0;
    if (r->slot == SLOT_LARGE) {
        ring->large_bytes -= r->buffer_bytes;
        r->slot = SLOT_DETACHED;
        return 0;
    }
    uint32_t bytes = r->buffer_bytes - r->skip;
    char *own = malloc(bytes);
    if (own == NULL)
        return -ENOMEM;
    memcpy(own, r->buffer + r->skip, bytes);
    give_buffer_back(ring, r);
    r->buffer = own;
    r->buffer_bytes = bytes;
    r->skip = 0;
    r->slot = SLOT_DETACHED;
    return 0;
}
