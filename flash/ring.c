/* flash/ring.c: see flash/ring.h. */
#include "flash/ring.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include "flash/engine.h"
#include "flash/page.h"
#include "flash/pread.h"
#include "flash/uring.h"

/* Values of ext_read.slot that are not the number of a slot. */
enum { SLOT_NONE = 0xffff, SLOT_LARGE = 0xfffe };

TAILQ_HEAD(read_list, ext_read);

/* What was read of one place, for all reads of it that are not finished. Those have the page pinned, so
 * the place is the same record for all. */
struct ext_copy {
    LIST_ENTRY(ext_copy) in_row; /* only while `listed`, when others may join */
    ext_place place;
    uint32_t version;
    uint32_t bytes, skip, users;
    bool listed, reading, from_buffer;
    struct read_list followers; /* get what the one that reads gets */
    char *memory;
};

enum { COPY_ROWS = 64, READ_THREADS_MIN = 4 };

struct read_queue {
    struct read_list list;
    unsigned count;
};

/* Reads that wait, by what they wait for, in the order in which they are started. */
enum wait_kind { WAIT_SMALL, WAIT_LARGE, WAIT_KINDS };
enum { WAIT_LATER = WAIT_KINDS }; /* added: of clients that have probably left */
enum { OTHER_KIND_SHARE = 8 };    /* of the places in flight, a kind leaves this part to the other */
enum { OVERTAKEN_MAX = 64 };      /* then one of those begins: their clients may be there after all */

/* The reads of one device. With several devices each has a share of what there is, so that one that is slow or stalls
 * delays the reads of no other. */
struct lane {
    struct read_queue waiting[2 * WAIT_KINDS]; /* QUEUED, not started */
    bool passed;        /* in start_kind: its next read can't begin now */
    unsigned overtaken; /* reads that began before a WAIT_LATER one, since the last of those had its turn */
    unsigned in_flight;
    unsigned slots; /* that these hold */
    uint64_t bytes; /* of copies that these fill */
    _Atomic(uint64_t) answer_ns; /* when the last one ended, or the first began; 0: none is in flight */
};

struct ext_ring {
    struct extstore *e;
    int event_fd;
    unsigned depth;
    struct ext_uring *uring; /* one of these two */
    struct ext_pread *pread;
    uint64_t region; /* arena offset of the slots */
    uint64_t region_bytes; /* 0: not there */
    char *slots;
    uint16_t *free_slots;
    unsigned slot_count, free_count;
    _Atomic(uint64_t) large_bytes; /* of copies */
    uint64_t large_max_bytes;
    LIST_HEAD(copy_row, ext_copy) copies[COPY_ROWS];
    unsigned in_flight, follower_count;
    struct lane *lanes;      /* for each device */
    unsigned lane_count;
    struct lane lane_max;    /* the share of each */
    unsigned kind_max;       /* of a lane's places in flight, for small reads and for large ones: the other kind has the rest */
    uint64_t kept_bytes;     /* in start_kind: what those that are passed over may still take of their shares */
    uint64_t last_order;     /* of reads */
    _Atomic(unsigned) waiting_count; /* in all lanes */
    bool given_up; /* no read begins any more */
    struct read_queue completed; /* done() must be called */
    bool (*free_buffers)(void *ctx, bool large);
    void *free_buffers_ctx;
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

static uint64_t large_bytes(const struct ext_ring *ring)
{
    return atomic_load_explicit(&ring->large_bytes, memory_order_relaxed);
}

/* ---- queues ---- */

static void queue_init(struct read_queue *q)
{
    TAILQ_INIT(&q->list);
    q->count = 0;
}

static void push(struct read_queue *q, struct ext_read *r)
{
    TAILQ_INSERT_TAIL(&q->list, r, in_queue);
    q->count++;
}

/* Others may wait for what its op holds, or for its own buffer. */
static bool is_urgent(const struct ext_read *r)
{
    return r->holds_others || r->buffer != NULL;
}

/* Of two that wait: the urgent ones come first, then those that were started first. One that is put away keeps its place
 * once: its client may wait for it and hold all buffers; but one that takes its values slowly may not always come first. */
static bool is_before(const struct ext_read *r, const struct ext_read *other)
{
    return is_urgent(r) != is_urgent(other) ? is_urgent(r) : r->order < other->order;
}

/* Most come last, and what was put away before those that came since. */
static void push_in_order(struct read_queue *q, struct ext_read *r)
{
    struct ext_read *at = TAILQ_LAST(&q->list, read_list);
    DEBUG_ASSERT(r->order > 0);
    if (at == NULL || is_before(at, r)) {
        push(q, r);
        return;
    }
    at = TAILQ_FIRST(&q->list);
    while (is_before(at, r))
        at = TAILQ_NEXT(at, in_queue);
    TAILQ_INSERT_BEFORE(at, r, in_queue);
    q->count++;
}

/* Before all but the urgent ones. */
static void push_early(struct read_queue *q, struct ext_read *r)
{
    struct ext_read *at = TAILQ_FIRST(&q->list);
    while (at != NULL && is_urgent(at))
        at = TAILQ_NEXT(at, in_queue);
    if (at != NULL)
        TAILQ_INSERT_BEFORE(at, r, in_queue);
    else
        TAILQ_INSERT_TAIL(&q->list, r, in_queue);
    q->count++;
}

static void take(struct read_queue *q, struct ext_read *r)
{
    ASSERT(r != NULL && q->count > 0);
    TAILQ_REMOVE(&q->list, r, in_queue);
    q->count--;
    ASSERT(TAILQ_EMPTY(&q->list) == (q->count == 0));
}

static void push_first(struct read_queue *q, struct ext_read *r)
{
    TAILQ_INSERT_HEAD(&q->list, r, in_queue);
    q->count++;
}

static struct ext_read *pop(struct read_queue *q)
{
    struct ext_read *r = TAILQ_FIRST(&q->list);
    take(q, r);
    return r;
}

static unsigned waiting_count(const struct ext_ring *ring)
{
    return atomic_load_explicit(&ring->waiting_count, memory_order_relaxed);
}

static void add_waiting(struct ext_ring *ring, int by)
{
    atomic_store_explicit(&ring->waiting_count, waiting_count(ring) + (unsigned)by, memory_order_relaxed);
}

static struct lane *lane_of(const struct ext_ring *ring, const struct ext_read *r)
{
    return &ring->lanes[ring->e->where[r->page].device];
}

/* It has left its queue: it begins, or has ended. */
static void end_wait(struct ext_ring *ring, struct ext_read *r)
{
    ASSERT(r->waits);
    r->waits = false;
    add_waiting(ring, -1);
}

static void unwait(struct ext_ring *ring, struct read_queue *q, struct ext_read *r)
{
    take(q, r);
    end_wait(ring, r);
}

/* ---- create, destroy ---- */

/* The pools of the thread engine, one for each device, made when the first ring needs them. A stepped engine has one for
 * all. */
static int make_read_pools(struct extstore *e)
{
    unsigned threads = (unsigned)min_u64(max_u64(e->opt.io_threads / e->device_count, READ_THREADS_MIN), IO_THREADS_MAX);
    int rc = 0;
    lock_take(&e->pool_lock);
    for (uint32_t i = 0; rc == 0 && i < (ext_is_stepped(e) ? 1 : e->device_count); i++) {
        if (e->read_pools[i] == NULL)
            e->read_pools[i] = io_pool_create(ext_is_stepped(e) ? 0 : threads, "ext-read");
        rc = e->read_pools[i] != NULL ? 0 : -ENOMEM;
    }
    lock_release(&e->pool_lock);
    return rc;
}

static int start_engine(struct ext_ring *ring)
{
    struct extstore *e = ring->e;
    if (e->uring && ext_uring_create(&ring->uring, ring->depth, e->device_fds, e->device_count,
                                     ring->slots, ring->region_bytes, ring->event_fd) == 0)
        return 0;
    int rc = make_read_pools(e);
    if (rc != 0)
        return rc;
    return ext_pread_create(&ring->pread, ring->depth, e, ring->event_fd);
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
    ASSERT(ring->slot_count <= EXT_RING_SLOTS_MAX && ring->slot_count < SLOT_LARGE);
    for (unsigned i = ring->slot_count; i-- > 0;)
        ring->free_slots[ring->free_count++] = (uint16_t)i;
    return 0;
}

static void free_ring(struct ext_ring *ring)
{
    for (unsigned i = 0; i < COPY_ROWS; i++) {
        struct ext_copy *c;
        while ((c = LIST_FIRST(&ring->copies[i])) != NULL) {
            LIST_REMOVE(c, in_row);
            free(c->memory);
            free(c);
        }
    }
    ext_uring_destroy(ring->uring);
    ext_pread_destroy(ring->pread);
    if (ring->region_bytes != 0)
        arena_free(ring->e->arena, ARENA_USE_BUFFER, ring->region, ring->region_bytes);
    if (ring->event_fd >= 0)
        close(ring->event_fd);
    free(ring->free_slots);
    free(ring->loads);
    free(ring->lanes);
    free(ring);
}

/* Each device's share of places in flight, slots and memory. */
static int make_lanes(struct ext_ring *ring)
{
    unsigned n = ring->lane_count = ring->e->device_count;
    ring->lanes = calloc(n, sizeof(*ring->lanes));
    if (ring->lanes == NULL)
        return -ENOMEM;
    for (unsigned i = 0; i < n; i++)
        for (unsigned k = 0; k < ARRAY_COUNT(ring->lanes[i].waiting); k++)
            queue_init(&ring->lanes[i].waiting[k]);
    ring->lane_max.in_flight = ring->depth / n;
    ring->lane_max.slots = (unsigned)max_u64(ring->slot_count / n, 1);
    ring->lane_max.bytes = ring->large_max_bytes / n;
    ring->kind_max = ring->lane_max.in_flight - (unsigned)max_u64(ring->lane_max.in_flight / OTHER_KIND_SHARE, 1);
    ASSERT(ring->kind_max > 0);
    return 0;
}

struct ext_ring *ext_ring_create(struct extstore *e)
{
    struct ext_ring *ring = calloc(1, sizeof(*ring));
    if (ring == NULL)
        return NULL;
    ring->e = e;
    queue_init(&ring->completed);
    ring->depth = e->opt.io_depth < EXT_RING_DEPTH_MIN ? EXT_RING_DEPTH_MIN : e->opt.io_depth;
    if (ring->depth > EXT_RING_DEPTH_MAX)
        ring->depth = EXT_RING_DEPTH_MAX;
    ring->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    int rc = ring->event_fd < 0 ? -errno : take_slots(ring);
    if (rc == 0)
        rc = make_lanes(ring);
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
#define X(name, help) count(&to->name, from->name);
    EXT_READ_COUNTER_TABLE(X) EXT_SHARED_COUNTER_TABLE(X)
#undef X
}

void ext_ring_counters(struct extstore *e, struct ext_info *info)
{
    struct ext_read_counters sum = {0};
    lock_take(&e->rings_lock);
    add_counters(&sum, &e->retired);
    info->reads_waiting = info->read_copies_bytes = 0;
    for (struct ext_ring *r = e->rings; r != NULL; r = r->next) {
        add_counters(&sum, &r->n);
        info->reads_waiting += atomic_load_explicit(&r->waiting_count, memory_order_relaxed);
        info->read_copies_bytes += large_bytes(r);
    }
    lock_release(&e->rings_lock);
#define X(name, help) info->name += sum.name;
    EXT_READ_COUNTER_TABLE(X) EXT_SHARED_COUNTER_TABLE(X)
#undef X
}

/* How long there has been something to answer and no answer. */
static uint64_t since(uint64_t answer_ns, uint64_t now_ns)
{
    return answer_ns != 0 && now_ns > answer_ns ? now_ns - answer_ns : 0;
}

uint64_t ext_silent_ns(struct extstore *e, unsigned device)
{
    const struct ext_device *d = &e->devices[device];
    uint64_t now_ns = clock_mono_ns();
    uint64_t longest = atomic_load(&d->transfers) > 0 ? since(atomic_load(&d->answer_ns), now_ns) : 0;
    lock_take(&e->rings_lock);
    for (struct ext_ring *r = e->rings; r != NULL; r = r->next)
        longest = max_u64(longest, since(atomic_load_explicit(&r->lanes[device].answer_ns, memory_order_relaxed), now_ns));
    lock_release(&e->rings_lock);
    return longest;
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
    return ring->in_flight + ring->follower_count + waiting_count(ring) + ring->completed.count;
}

void ext_ring_set_free_buffers(struct ext_ring *ring, bool (*fn)(void *ctx, bool large), void *ctx)
{
    ring->free_buffers = fn;
    ring->free_buffers_ctx = ctx;
}

static void kick(struct ext_ring *ring)
{
    if (!ring->kicked)
        (void)eventfd_write(ring->event_fd, 1); /* fails only when readable anyway */
    ring->kicked = true;
}

void ext_ring_nudge(struct ext_ring *ring)
{
    if (waiting_count(ring) > 0)
        kick(ring);
}

/* ---- copies ---- */

static struct copy_row *copy_row(struct ext_ring *ring, ext_place place)
{
    return &ring->copies[(place ^ place >> 6 ^ place >> 12) % COPY_ROWS];
}

static struct ext_copy *copy_find(struct ext_ring *ring, const struct ext_read *r)
{
    struct ext_copy *c;
    LIST_FOREACH(c, copy_row(ring, r->place), in_row)
        if (c->place == r->place && c->version == r->version)
            break;
    return c;
}

/* No read joins it from now on. */
static void copy_unlist(struct ext_copy *c)
{
    if (c->listed)
        LIST_REMOVE(c, in_row);
    c->listed = false;
}

static void copy_use(struct ext_copy *c, struct ext_read *r)
{
    c->users++;
    r->copy = c;
    r->slot = SLOT_LARGE;
    r->buffer = c->memory;
    r->buffer_bytes = c->bytes;
    r->skip = c->skip;
    r->from_buffer = c->from_buffer;
}

/* Returns the bytes that this frees. */
static uint64_t copy_leave(struct ext_ring *ring, struct ext_read *r)
{
    struct ext_copy *c = r->copy;
    r->copy = NULL;
    ASSERT(c->users > 0);
    if (--c->users > 0)
        return 0;
    ASSERT(TAILQ_EMPTY(&c->followers) && !c->reading);
    copy_unlist(c);
    uint64_t bytes = c->bytes;
    ASSERT(large_bytes(ring) >= bytes);
    count(&ring->large_bytes, -bytes);
    free(c->memory);
    free(c);
    return bytes;
}

/* NULL: no memory. The caller has checked the bound. */
static struct ext_copy *copy_new(struct ext_ring *ring, const struct ext_read *r, uint64_t bytes)
{
    struct ext_copy *c = calloc(1, sizeof(*c));
    char *memory = c ? aligned_alloc(EXT_IO_ALIGN_BYTES, round_up(bytes, EXT_IO_ALIGN_BYTES)) : NULL;
    if (memory == NULL) {
        free(c);
        return NULL;
    }
    *c = (struct ext_copy){.place = r->place,
                           .version = r->version,
                           .bytes = (uint32_t)bytes,
                           .listed = true,
                           .memory = memory};
    TAILQ_INIT(&c->followers);
    LIST_INSERT_HEAD(copy_row(ring, c->place), c, in_row);
    count(&ring->large_bytes, bytes);
    return c;
}

/* ---- buffers ---- */

/* Where on flash the read begins and ends: from the block in which the record begins to the one in which
 * its class ends, in the slot. Both in bytes of the slot. */
static void extent_of(const struct ext_read *r, uint64_t *first, uint64_t *last)
{
    struct extstore *e = r->ring->e;
    uint64_t align = ext_page_device(e, r->page)->read_align;
    uint64_t in_slot = (r->place - ext_slot_place(e, ext_place_slot(e, r->place))) * EXT_GRANULE_BYTES;
    *first = round_down(in_slot, align);
    *last = min_u64(round_up(in_slot + ext_len_bytes(r->len_class), align), e->wbuf_bytes);
    ASSERT(*first <= in_slot && in_slot < *last);
}

static bool is_large(const struct ext_read *r)
{
    uint64_t first, last;
    extent_of(r, &first, &last);
    return last - first > EXT_RING_SLOT_BYTES;
}

/* True iff the read got a buffer of at least `bytes` bytes, of which the record begins at `skip`. must: exceeds
 * the memory set aside for reads if necessary (see start_waiting). */
static bool take_buffer(struct ext_ring *ring, struct ext_read *r, uint64_t bytes, uint64_t skip,
                        bool must)
{
    bool large = is_large(r);
    ASSERT(r->buffer == NULL && r->copy == NULL && skip < bytes);
    if (!large && ring->free_count == 0 && !must)
        return false;
    if (!large && ring->free_count > 0) {
        r->slot = ring->free_slots[--ring->free_count];
        r->buffer = ring->slots + (uint64_t)r->slot * EXT_RING_SLOT_BYTES;
        r->buffer_bytes = (uint32_t)bytes;
        r->skip = (uint32_t)skip;
        return true;
    }
    uint64_t held = large_bytes(ring);
    if (!must && held != 0 && held + bytes + ring->kept_bytes > ring->large_max_bytes)
        return false;
    struct ext_copy *c = copy_new(ring, r, bytes);
    if (c == NULL)
        return false;
    c->skip = (uint32_t)skip;
    copy_use(c, r);
    return true;
}

/* Returns the bytes that this frees. */
static uint64_t give_buffer_back(struct ext_ring *ring, struct ext_read *r)
{
    uint64_t bytes = 0;
    if (r->copy != NULL) {
        bytes = copy_leave(ring, r);
    } else if (r->slot < SLOT_LARGE) {
        ASSERT(r->slot < ring->slot_count && ring->free_count < ring->slot_count);
        ring->free_slots[ring->free_count++] = r->slot;
        bytes = EXT_RING_SLOT_BYTES;
    }
    r->slot = SLOT_NONE;
    r->buffer = NULL;
    if (bytes > 0)
        ext_ring_nudge(ring);
    return bytes;
}

/* ---- a read's way ---- */

static void complete_one(struct ext_ring *ring, struct ext_read *r, int result)
{
    ASSERT(r->state == EXT_READ_QUEUED && result <= 0);
    r->result = result;
    push(&ring->completed, r);
}

/* Completes the read, and those that share its copy with the same result. */
static void complete(struct ext_ring *ring, struct ext_read *r, int result)
{
    struct ext_copy *c = r->copy;
    complete_one(ring, r, result);
    if (c == NULL || !c->reading)
        return;
    c->reading = false;
    if (result != 0)
        copy_unlist(c);
    for (struct ext_read *f; (f = TAILQ_FIRST(&c->followers)) != NULL;) {
        TAILQ_REMOVE(&c->followers, f, in_queue);
        ring->follower_count--;
        complete_one(ring, f, result);
    }
}

/* Joins a copy that is there or on its way. False: there is none. */
static bool join(struct ext_ring *ring, struct ext_read *r)
{
    struct ext_copy *c = copy_find(ring, r);
    if (c == NULL)
        return false;
    copy_use(c, r);
    count(&ring->n.reads_shared, 1);
    if (!c->reading)
        return true;
    TAILQ_INSERT_TAIL(&c->followers, r, in_queue);
    ring->follower_count++;
    return true;
}

/* Where on the device the part of the read begins that is still missing. */
static uint64_t missing_offset(const struct ext_read *r)
{
    const struct extstore *e = r->ring->e;
    uint64_t slot = ext_place_slot(e, r->place);
    uint64_t in_slot = (r->place - ext_slot_place(e, slot)) * EXT_GRANULE_BYTES;
    return ext_slot_offset(e, slot) + in_slot - r->skip + r->io_done;
}

/* Counts it among those that are under way, by 1, or no longer, by -1. */
static void count_in_flight(struct ext_ring *ring, const struct ext_read *r, int by, uint64_t now_ns)
{
    struct lane *lane = lane_of(ring, r);
    ASSERT(by > 0 || (ring->in_flight > 0 && lane->in_flight > 0));
    ring->in_flight += (unsigned)by;
    lane->in_flight += (unsigned)by;
    if (r->copy != NULL)
        lane->bytes += (uint64_t)(int64_t)by * r->buffer_bytes;
    else
        lane->slots += (unsigned)by;
    if (by < 0 || lane->in_flight == 1)
        atomic_store_explicit(&lane->answer_ns, lane->in_flight > 0 ? now_ns : 0, memory_order_relaxed);
    DEBUG_ASSERT(lane->slots <= lane->in_flight && (lane->in_flight > 0 || lane->bytes == 0));
}

/* Has the read's device its share of what there is, or its kind the most places of that? Then another one of its reads has
 * to end first. */
static bool lane_is_full(const struct ext_ring *ring, const struct ext_read *r)
{
    const struct lane *lane = lane_of(ring, r), *max = &ring->lane_max;
    if (lane->in_flight < (ring->lane_count == 1 ? ring->kind_max : 1))
        return false;
    uint64_t first, last;
    extent_of(r, &first, &last);
    bool large = last - first > EXT_RING_SLOT_BYTES;
    unsigned of_kind = large ? lane->in_flight - lane->slots : lane->slots;
    if (lane->in_flight >= max->in_flight || of_kind >= ring->kind_max)
        return true;
    if (ring->lane_count == 1)
        return false;
    return large ? lane->bytes > 0 && lane->bytes + last - first > max->bytes : lane->slots >= max->slots;
}

/* Hands the part of the read that is still missing to the engine. */
static void issue(struct ext_ring *ring, struct ext_read *r)
{
    struct extstore *e = ring->e;
    if (r->copy != NULL)
        r->copy->reading = true;
    uint64_t offset = missing_offset(r);
    uint32_t bytes = r->buffer_bytes - r->io_done;
    ASSERT(r->buffer != NULL && r->io_done < r->buffer_bytes && ring->in_flight < ring->depth);
    r->start_ns = clock_mono_ns();
    count_in_flight(ring, r, 1, r->start_ns);
    count(&ring->n.device_reads, 1);
    if (ring->uring != NULL)
        ext_uring_read(ring->uring, e->where[r->page].device, r->buffer + r->io_done, bytes, offset, r);
    else
        ext_pread_read(ring->pread, e->where[r->page].device, r->buffer + r->io_done, bytes, offset, r);
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
    if (!take_buffer(ring, r, bytes, 0, must))
        return false;
    memcpy(r->buffer, from, bytes);
    r->from_buffer = true;
    if (r->copy != NULL)
        r->copy->from_buffer = true;
    return true;
}

enum begun { BEGUN_COPIED, BEGUN_SHARED, BEGUN_IN_FLIGHT, BEGUN_NOT, BEGUN_NO_MEMORY };

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
    if (join(ring, r))
        return r->copy->reading ? BEGUN_IN_FLIGHT : BEGUN_SHARED;
    int pinned = extmap_pin(e->map, slot, &buffer);
    if (pinned == 0) {
        bool copied = copy_from_wbuf(ring, r, slot, buffer, must);
        extmap_unpin(e->map, slot);
        return copied ? BEGUN_COPIED : without_buffer;
    }
    /* -EAGAIN: in memory, but with more readers than can be counted. */
    if (pinned != -ENOENT || ring->in_flight >= ring->depth || (!must && lane_is_full(ring, r)))
        return BEGUN_NOT;
    uint64_t in_slot = (r->place - ext_slot_place(e, slot)) * EXT_GRANULE_BYTES, first, last;
    extent_of(r, &first, &last);
    if (!take_buffer(ring, r, last - first, in_slot - first, must))
        return without_buffer;
    issue(ring, r);
    return BEGUN_IN_FLIGHT;
}

static struct read_queue *queue_of(struct ext_ring *ring, const struct ext_read *r)
{
    return &lane_of(ring, r)->waiting[(is_large(r) ? WAIT_LARGE : WAIT_SMALL) + (r->later ? WAIT_LATER : 0)];
}

static void wait_for_turn(struct ext_ring *ring, struct ext_read *r)
{
    push_in_order(queue_of(ring, r), r);
    r->waits = true;
    add_waiting(ring, 1);
}

/* Would a read that comes now overtake others, which wait for the same kind of buffer? */
static bool others_wait(const struct ext_ring *ring, const struct ext_read *r)
{
    unsigned kind = is_large(r) ? WAIT_LARGE : WAIT_SMALL;
    for (unsigned i = 0; i < ring->lane_count; i++)
        if (ring->lanes[i].waiting[kind].count > 0)
            return true;
    return false;
}

static void count_at_once(struct ext_ring *ring, const struct ext_read *r, enum begun begun)
{
    if (begun != BEGUN_COPIED)
        return;
    count(&ring->n.buffer_hits, 1);
    count(&ring->n.bytes_read, r->buffer_bytes);
}

/* A read of this kind has begun. If it was one of many before one that was put last, that is one of the next. */
static void count_overtaken(struct lane *lane, unsigned kind)
{
    struct read_queue *later = &lane->waiting[kind % WAIT_KINDS + WAIT_LATER];
    if (kind >= WAIT_LATER || later->count == 0 || ++lane->overtaken < OVERTAKEN_MAX)
        return;
    struct ext_read *r = pop(later);
    lane->overtaken = 0;
    r->later = false;
    push_early(&lane->waiting[kind], r); /* behind those that hold others: they may hold the buffers */
}

void ext_read_start(struct ext_ring *ring, struct ext_read *r, ext_place place, unsigned len_class)
{
    struct extstore *e = ring->e;
    r->place = place;
    r->len_class = len_class;
    r->page = ext_place_page(e, place);
    ASSERT(r->page < e->page_count && len_class < EXT_LEN_CLASSES && r->state != EXT_READ_QUEUED);
    ASSERT(atomic_load_explicit(&e->pages[r->page].refs, memory_order_relaxed) > 0); /* the caller's pin */
    r->version = atomic_load(&e->pages[r->page].version);
    r->ring = ring;
    r->buffer = NULL;
    r->copy = NULL;
    r->skip = r->buffer_bytes = r->io_done = r->tries = r->again = 0;
    r->slot = SLOT_NONE;
    r->result = 0;
    r->from_buffer = r->waits = r->later = false;
    r->state = EXT_READ_QUEUED;
    if (r->order == 0)
        r->order = ++ring->last_order;
    count(&ring->n.objects_read, 1);
    if (unlikely(ring->given_up)) {
        complete(ring, r, -ECANCELED);
        return;
    }
    bool may_begin = likely(waiting_count(ring) == 0) || !others_wait(ring, r) || copy_find(ring, r) != NULL;
    enum begun begun = may_begin ? begin(ring, r, false) : BEGUN_NOT;
    if (begun != BEGUN_NOT && unlikely(waiting_count(ring) > 0))
        count_overtaken(lane_of(ring, r), is_large(r) ? WAIT_LARGE : WAIT_SMALL);
    if (begun == BEGUN_COPIED || begun == BEGUN_SHARED) {
        count_at_once(ring, r, begun);
        r->state = EXT_READ_DONE;
    } else if (begun == BEGUN_NOT) {
        wait_for_turn(ring, r);
    }
}

/* Other reads of this place in the queue join it. */
static void let_join(struct ext_ring *ring, struct read_queue *q, const struct ext_copy *c)
{
    for (struct ext_read *r = TAILQ_FIRST(&q->list), *next; r != NULL; r = next) {
        next = TAILQ_NEXT(r, in_queue);
        if (r->buffer != NULL || r->place != c->place || r->version != c->version)
            continue;
        unwait(ring, q, r);
        if (join(ring, r) && !c->reading)
            complete_one(ring, r, 0);
    }
}

/* Whatever buffers there are, one of the reads that are under way has to end before this one can begin. */
static bool waits_for_device(const struct ext_ring *ring, const struct ext_read *r)
{
    return r->buffer != NULL || ring->in_flight >= ring->depth || lane_is_full(ring, r);
}

/* The next of the lane's reads of a kind; NULL: none waits. */
static struct read_queue *next_queue(struct lane *lane, unsigned kind)
{
    struct read_queue *q = &lane->waiting[kind];
    if (q->count == 0)
        q = &lane->waiting[kind + WAIT_LATER];
    return q->count > 0 ? q : NULL;
}

/* The lane whose next read of this kind has its turn (is_before). NULL: none waits, except in lanes that are passed over. */
static struct lane *next_lane(struct ext_ring *ring, unsigned kind)
{
    struct lane *best = NULL;
    const struct ext_read *first = NULL;
    for (unsigned i = 0; i < ring->lane_count; i++) {
        struct lane *lane = &ring->lanes[i];
        const struct read_queue *q = lane->passed ? NULL : next_queue(lane, kind);
        const struct ext_read *r = q != NULL ? TAILQ_FIRST(&q->list) : NULL;
        if (r == NULL || (first != NULL && is_before(first, r)))
            continue;
        DEBUG_ASSERT(r->waits && lane == lane_of(ring, r));
        best = lane;
        first = r;
    }
    return best;
}

/* No other read that is under way, of its device, would give a buffer back. */
static bool must_begin(const struct ext_ring *ring, const struct lane *lane, const struct ext_read *r)
{
    if (lane->in_flight > 0 || ring->completed.count > 0)
        return false;
    return r->holds_others || (large_bytes(ring) == 0 && ring->in_flight == 0 && is_large(r));
}

static void has_begun(struct ext_ring *ring, struct lane *lane, struct read_queue *q, struct ext_read *r, enum begun begun)
{
    DEBUG_ASSERT((r->buffer != NULL) == (begun != BEGUN_NO_MEMORY));
    end_wait(ring, r);
    if (r->copy != NULL && r->copy->listed)
        let_join(ring, q, r->copy);
    count_overtaken(lane, (unsigned)(q - lane->waiting));
    if (begun == BEGUN_COPIED || begun == BEGUN_SHARED) {
        count_at_once(ring, r, begun);
        complete(ring, r, 0);
    } else if (begun == BEGUN_NO_MEMORY) {
        complete(ring, r, -ENOMEM);
    }
}

/* Starts waiting reads of a kind in their order, as far as buffers and the engine allow. A lane whose next read has to wait
 * for its device, since that has its share under way, is passed over: the others take what is left of the buffers, but for
 * the rest of its share of memory. If there is no buffer for a read, those after it don't take any either. If finished reads
 * hold all, their owner is asked to give some back. A read whose op holds others gets a buffer beyond the limit while no read
 * of its device that is under way would give one back: at most one in each turn. If there is no memory it ends with -ENOMEM,
 * because nothing would start it later.
 *
 * No read waits for nothing. It waits for an answer of its device (waits_for_device), so one is under way; or for a buffer,
 * so reads hold all, which are under way, or completed, or their owners have them; or for a read before it, which waits for
 * one of these. An answer, a completed read and a buffer that is given back (give_buffer_back) make the ring's fd readable,
 * so its owner's next turn comes, and in each turn ext_ring_submit() gets here. What takes a read from its queue otherwise
 * (ext_read_cancel, ext_read_put_last, let_join) happens in a turn, before that. Each call looks at all lanes and keeps
 * nothing for the next one, so it doesn't matter why a read that others waited for has left. */
static void start_kind(struct ext_ring *ring, unsigned kind)
{
    bool no_buffer = false;
    for (struct lane *lane; (lane = next_lane(ring, kind)) != NULL;) {
        struct read_queue *q = next_queue(lane, kind);
        struct ext_read *r = TAILQ_FIRST(&q->list);
        bool must = must_begin(ring, lane, r);
        enum begun begun = BEGUN_NOT;
        if (!no_buffer || must || r->buffer != NULL) {
            take(q, r); /* before it joins another's followers */
            begun = begin(ring, r, must);
            if (begun != BEGUN_NOT) {
                has_begun(ring, lane, q, r, begun);
                continue;
            }
            push_first(q, r);
        }
        if (!no_buffer && !waits_for_device(ring, r)) {
            if (ring->free_buffers != NULL && ring->free_buffers(ring->free_buffers_ctx, kind == WAIT_LARGE))
                continue;
            no_buffer = true;
        }
        if (must) /* no completion would start it, so try again in the next turn */
            kick(ring);
        lane->passed = true;
        ring->kept_bytes += ring->lane_max.bytes - min_u64(lane->bytes, ring->lane_max.bytes);
    }
    DEBUG_ASSERT(ring->kept_bytes <= ring->large_max_bytes);
    for (unsigned i = 0; i < ring->lane_count; i++)
        ring->lanes[i].passed = false;
    ring->kept_bytes = 0;
}

static void start_waiting(struct ext_ring *ring)
{
    if (likely(waiting_count(ring) == 0))
        return;
    for (unsigned kind = 0; kind < WAIT_KINDS; kind++)
        start_kind(ring, kind);
    DEBUG_ASSERT(waiting_count(ring) == 0 || ring->in_flight > 0 || ring->completed.count > 0 || ring->kicked ||
                 ring->free_count < ring->slot_count || large_bytes(ring) > 0);
}

/* ---- reads that nobody wants any more ---- */

void ext_read_cancel(struct ext_read *r)
{
    struct ext_ring *ring = r->ring;
    if (r->state != EXT_READ_QUEUED || !r->waits)
        return;
    unwait(ring, queue_of(ring, r), r);
    complete(ring, r, -ECANCELED);
}

void ext_read_put_last(struct ext_read *r)
{
    struct ext_ring *ring = r->ring;
    if (r->state != EXT_READ_QUEUED || !r->waits || r->later || r->holds_others)
        return;
    take(queue_of(ring, r), r);
    r->later = true;
    r->order = ++ring->last_order;
    push(queue_of(ring, r), r);
}

static void cancel_all(struct ext_ring *ring)
{
    for (unsigned i = 0; i < ring->lane_count; i++)
        for (unsigned kind = 0; kind < ARRAY_COUNT(ring->lanes[i].waiting); kind++)
            for (struct read_queue *q = &ring->lanes[i].waiting[kind]; q->count > 0;)
                ext_read_cancel(TAILQ_FIRST(&q->list));
}

void ext_ring_give_up(struct ext_ring *ring)
{
    ring->given_up = true;
    if (ring->pread != NULL)
        ext_pread_give_up(ring->pread);
    cancel_all(ring);
    ext_ring_submit(ring);
}

/* The engine's answer to one issue(). */
static void on_result(void *ctx, void *user, int result)
{
    struct ext_ring *ring = ctx;
    struct ext_read *r = user;
    struct ext_device *d = ext_page_device(ring->e, r->page);
    ASSERT(r->state == EXT_READ_QUEUED);
    uint64_t now_ns = clock_mono_ns();
    count_in_flight(ring, r, -1, now_ns);
    if (result == -ECANCELED && !ring->given_up)
        result = -EIO; /* the device's own; to owners of reads it means that they were given up */
    uint32_t missing = r->buffer_bytes - r->io_done;
    if (result >= 0 && (uint32_t)result < missing && !ring->given_up) {
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
    if (result >= 0 && (uint32_t)result >= missing) {
        count(&ring->n.bytes_read, r->buffer_bytes);
        struct ext_device_load *load = &ring->loads[ring->e->where[r->page].device];
        histogram_add(&load->latency, now_ns - r->start_ns, 1);
        count(&load->bytes, r->buffer_bytes);
        ext_device_read_result(d, 0);
        complete(ring, r, 0);
        return;
    }
    if (unlikely(ring->given_up)) {
        complete(ring, r, -ECANCELED);
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

/* Takes what the engine has completed; waits: until there is something. */
static void take_results(struct ext_ring *ring, bool waits)
{
    if (ring->uring != NULL)
        ext_uring_reap(ring->uring, waits, on_result, ring);
    else
        ext_pread_reap(ring->pread, waits, on_result, ring);
}

void ext_ring_submit(struct ext_ring *ring)
{
    start_waiting(ring);
    if (ring->uring != NULL && ext_uring_submit(ring->uring) != 0)
        kick(ring); /* out of some resource: again in the next turn */
    if (ring->completed.count > 0 && !ring->owner_knows)
        kick(ring);
}

unsigned ext_ring_reap_some(struct ext_ring *ring, unsigned max, bool *more)
{
    eventfd_t events;
    lock_assert_none_held();
    if (ring->uring != NULL)
        ext_uring_arrive(ring->uring);
    if (!ring->owner_knows)
        (void)eventfd_read(ring->event_fd, &events);
    ring->kicked = ring->owner_knows = false;
    take_results(ring, false);
    unsigned done = 0;
    while (ring->completed.count > 0 && done < max) {
        struct ext_read *r = pop(&ring->completed);
        r->state = EXT_READ_DONE;
        done++;
        r->done(r); /* may finish it, may start others */
    }
    *more = ring->owner_knows = ring->completed.count > 0;
    ext_ring_submit(ring); /* buffers freed by done() let others begin */
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
        if (ring->completed.count == 0 && ring->in_flight > 0)
            take_results(ring, true);
        if (ext_ring_reap(ring) == 0 && ring->in_flight == 0 && waiting_count(ring) > 0) {
            /* All buffers are held by DONE reads, for which this function can't wait. */
            cancel_all(ring);
        }
    }
    lock_take(&e->rings_lock);
    struct ext_ring **at = &e->rings;
    ASSERT(ring->in_flight == 0 && ring->follower_count == 0);
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
    struct ext_ring *ring = r->ring;
    ASSERT(r->state == EXT_READ_DONE);
    if (r->from_buffer || r->result != 0 || r->again >= EXT_READ_AGAIN_MAX || ring->given_up)
        return false;
    r->again++;
    r->io_done = r->tries = 0;
    r->state = EXT_READ_QUEUED;
    count(&ring->n.read_retries, 1);
    if (r->copy != NULL) {
        copy_unlist(r->copy);
        if (r->copy->users > 1) /* the others judge those bytes themselves */
            give_buffer_back(ring, r);
    }
    if (r->buffer != NULL && ring->in_flight < ring->depth)
        issue(ring, r);
    else
        wait_for_turn(ring, r);
    return true;
}

void ext_read_finish(struct ext_read *r)
{
    ASSERT(r->state == EXT_READ_DONE);
    struct extstore *e = r->ring->e;
    give_buffer_back(r->ring, r);
    r->state = EXT_READ_IDLE;
    r->order = 0;
    r->was_away = false;
    ext_page_unpin(e, r->page);
}

uint64_t ext_read_put_away(struct ext_read *r)
{
    ASSERT(r->state == EXT_READ_DONE);
    uint64_t bytes = give_buffer_back(r->ring, r);
    r->state = EXT_READ_IDLE;
    if (r->was_away)
        r->order = 0;
    r->was_away = true;
    count(&r->ring->n.reads_put_away, 1);
    return bytes;
}

bool ext_read_is_large(const struct ext_read *r)
{
    return r->copy != NULL;
}
