/* cache_run.c: how an op gets what its verb asked for: records through the
 * worker's ring, memory by waiting; and the worker handle itself.
 *
 *   any --run_steps--> READING, WAITING, FINISHED   in the first two it is parked, and counted in worker->parked
 *   any --give_up--> FINISHED                       it waited long enough, or a record can't be read
 *   FINISHED --cache_bring_back--> READING          the value that was put away
 *   READING, FINISHED --end_return--> FINISHED      that value is there, or can't be read any more
 *   NEW, FINISHED --cache_release--> NEW
 *
 * A parked op holds no lock: its reads are under way, or it is in worker->waiting. If a run was parked, however often,
 * done() is called once, at its end.
 *
 * Threads: the worker's own, except for wake_waiting(), which an I/O thread may call: it only writes to the wake
 * descriptor and counts that it is over.
 */
#include "cache_run.h"

#include <sched.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "cache_lookup.h"

#define OP_ATTEMPTS_MAX 64 /* a word that moves during each of this many reads counts as a miss */

enum op_state { OP_NEW, OP_READING, OP_WAITING, OP_FINISHED };

#define READS_KEPT_MAX 1024 /* of each worker, for the next requests */

/* Completed reads that a worker deals with before their answers go out. Answering a
 * whole burst at once makes clients send the next burst together while the device idles. */
#define REAP_MAX 4

/* Ops that wait for something whose coming nothing tells are tried again after this. */
#define RETRY_US 1000

static void run_parked(struct cache_op *op);

struct cache_read *cache_read_new(struct cache_worker *w)
{
    struct cache_read *r = w->reads_free;
    if (!r)
        return calloc(1, sizeof(*r));
    ASSERT(w->reads_free_count > 0);
    w->reads_free = r->next;
    w->reads_free_count--;
    memset(r, 0, sizeof(*r));
    return r;
}

static void read_free(struct cache_worker *w, struct cache_read *r)
{
    if (w->reads_free_count >= READS_KEPT_MAX) {
        free(r);
        return;
    }
    r->next = w->reads_free;
    w->reads_free = r;
    w->reads_free_count++;
}

/* True: the record is judged. False: it is being read once more. */
static bool judge_read(struct cache_worker *w, struct cache_read *r)
{
    struct cache_op *op = r->op;
    ASSERT(r->verdict == READ_RUNNING && op->worker == w);
    int rc = ext_read_record(&r->rd, op->key, op->key_bytes, &r->rec);
    if (rc == 0) {
        r->verdict = READ_MATCH;
    } else if (rc == -ENOENT) {
        r->verdict = READ_OTHER;
        cache_count(w->cache, CACHE_N_tag_collisions, 1);
    } else if (rc == -EBADMSG) {
        if (ext_read_again(&r->rd))
            return false;
        r->verdict = READ_BAD;
        stat_inc(w->stats, STAT_badcrc_from_extstore);
    } else {
        op->starved |= rc == -ENOMEM || rc == -ECANCELED;
        r->verdict = READ_FAILED;
        if (rc != -ECANCELED)
            stat_inc(w->stats, STAT_get_aborted_extstore);
    }
    return true;
}

static void op_read_done(struct ext_read *rd)
{
    struct cache_read *r = CONTAINER_OF(rd, struct cache_read, rd);
    struct cache_op *op = r->op;
    if (!judge_read(op->worker, r))
        return;
    ASSERT(op->read_pending > 0);
    if (--op->read_pending == 0)
        run_parked(op);
}

/* Starts the reads that queue_reads noted. True iff all are there at once. */
static bool start_reads(struct cache_worker *w, struct cache_op *op)
{
    lock_assert_none_held();
    ASSERT(op->read_pending == 0 && op->read_count > 0);
    op->read_pending++; /* so that no completion runs the op while reads are being started */
    for (struct cache_read *r = op->reads; r; r = r->next) {
        if (r->verdict != READ_WANTED)
            continue;
        r->verdict = READ_RUNNING;
        r->rd.done = op_read_done;
        r->rd.owner = r;
        r->rd.holds_others = op->read_count > 1;
        ext_read_start(w->ring, &r->rd, r->place, r->len_class);
        if (r->rd.state != EXT_READ_DONE || !judge_read(w, r))
            op->read_pending++;
    }
    return --op->read_pending == 0;
}

static void wake_waiting(void *arg)
{
    struct cache_worker *w = arg;
    (void)eventfd_write(w->wake_fd, 1); /* a full counter wakes as well */
    int refs = atomic_fetch_sub(&w->wake_refs, 1);
    ASSERT(refs > 0);
}

static void wait_push(struct cache_worker *w, struct cache_op *op)
{
    bool was_woken = op->wait_start_us != 0;
    ASSERT(op->state == OP_WAITING);
    STAILQ_INSERT_TAIL(&w->waiting, op, in_waiting);
    /* It lacks something else than a write buffer: items may be pinned, or memory short. The engine would wake us at once,
     * and again and again. */
    if (was_woken && ext_is_writable(w->cache->ext)) {
        w->retry_due_us = clock_mono_us() + RETRY_US;
        return;
    }
    if (!was_woken) {
        op->wait_start_us = clock_mono_us();
        cache_count(w->cache, CACHE_N_write_waits, 1);
    }
    if (!w->notify_armed) {
        w->notify_armed = true;
        atomic_fetch_add(&w->wake_refs, 1);
        ext_notify_writable(w->cache->ext, wake_waiting, w);
    }
}

static struct cache_read *read_of_view(const struct cache_op *op)
{
    if (!op->view_from_read || op->view.value == NULL)
        return NULL;
    for (struct cache_read *r = op->reads; r; r = r->next)
        if (r->verdict == READ_MATCH && r->rec.value == op->view.value)
            return r;
    return NULL;
}

/* The op ends with this status instead of its verb's answer; nothing is changed or forgotten. True: it is finished. */
static bool give_up(struct cache_worker *w, struct cache_op *op, enum cache_status status)
{
    op->status = status;
    op_item_free(w->cache, op);
    op->state = OP_FINISHED;
    return true;
}

/* Has it waited long enough for room in the index or memory? */
static bool has_waited(const struct cache_worker *w, const struct cache_op *op)
{
    uint64_t max_us = 2 * (uint64_t)atomic_load(&w->cache->config->ext_max_sleep) + 100000;
    return !w->cache->ext || (op->wait_start_us != 0 && clock_mono_us() - op->wait_start_us > max_us);
}

/* Drops the op's reads, and their pins, except for one of them; NULL: drops all. */
static void reads_release_but(struct cache_worker *w, struct cache_op *op, struct cache_read *kept)
{
    while (op->reads) {
        struct cache_read *r = op->reads;
        op->reads = r->next;
        if (r == kept)
            continue;
        if (r->verdict == READ_WANTED || r->verdict == READ_AWAY) /* holds a pin and nothing else */
            ext_unpin(w->cache->ext, r->place);
        else
            ext_read_finish(&r->rd);
        read_free(w, r);
    }
    op->reads = kept;
    op->read_count = kept != NULL;
    if (kept)
        kept->next = NULL;
    else
        op->read_bytes = 0;
    ASSERT(op->read_pending == 0);
}

static void reads_release(struct cache_worker *w, struct cache_op *op)
{
    reads_release_but(w, op, NULL);
}

/* A get has its answer. What it read besides the value goes: nobody could put that away while the value waits for its
 * client, and if all buffers were held so, the reads that the client waits for could never begin. */
static void keep_view_alone(struct cache_worker *w, struct cache_op *op)
{
    if (op->reads != NULL && op->verb == CACHE_GET && (op->read_count > 1 || !op->view_from_read))
        reads_release_but(w, op, read_of_view(op));
}

/* An op that may not leave the key's old value would be refused. True: once, flash words that may be it were given up; so
 * there is room in their place, and nothing to read: the op is to be run again. */
static bool gives_up_old_value(struct cache_worker *w, struct cache_op *op)
{
    if (!op_ends_old_value(op) || op->dropped_tag)
        return false;
    op->dropped_tag = true;
    reads_release(w, op);
    op->starved = false;
    op->attempts = 0;
    return cache_drop_tag(w, op) > 0;
}

/* True: finished. False: parked. */
static bool run_steps(struct cache_worker *w, struct cache_op *op)
{
    for (;;) {
        if (unlikely(op->unwanted))
            return give_up(w, op, CACHE_NO_MEMORY);
        if (unlikely(op->starved || op->attempts >= OP_ATTEMPTS_MAX)) {
            bool gets = op->verb == CACHE_GET;
            if (gives_up_old_value(w, op))
                continue;
            if (gets)
                count_get(w, op, false, 0, 0);
            if (gets && op->starved)
                stat_inc(w->stats, STAT_get_oom_extstore);
            return give_up(w, op, gets && !op->starved ? CACHE_NOT_FOUND : CACHE_NO_MEMORY);
        }
        switch (cache_step(w, op)) {
        case STEP_DONE:
            keep_view_alone(w, op);
            op->state = OP_FINISHED;
            return true;
        case STEP_ALLOC:
            ASSERT(!"cache_step has got the memory");
            return true;
        case STEP_AGAIN:
            op->attempts++;
            continue;
        case STEP_READ:
            op->attempts++;
            if (start_reads(w, op))
                continue;
            op->state = OP_READING;
            w->parked++;
            return false;
        case STEP_WAIT:
            if (has_waited(w, op)) {
                if (gives_up_old_value(w, op))
                    continue;
                stat_inc(w->stats, STAT_store_no_memory);
                return give_up(w, op, CACHE_NO_MEMORY);
            }
            op->state = OP_WAITING;
            w->parked++;
            wait_push(w, op);
            return false;
        }
    }
}

static void run_parked(struct cache_op *op)
{
    struct cache_worker *w = op->worker;
    ASSERT(w->parked > 0 && (op->state == OP_READING || op->state == OP_WAITING));
    lock_assert_none_held();
    w->parked--;
    if (!run_steps(w, op))
        return;
    if (op->wait_start_us != 0) {
        cache_count(w->cache, CACHE_N_write_wait_us, clock_mono_us() - op->wait_start_us);
        op->wait_start_us = 0;
    }
    op->done(op);
}

bool cache_run(struct cache_worker *w, struct cache_op *op)
{
    ASSERT(op->state == OP_NEW || op->state == OP_FINISHED);
    ASSERT(op->key_bytes > 0 && op->key_bytes <= CACHE_KEY_BYTES_MAX);
    lock_assert_none_held();
    op->worker = w;
    op->attempts = 0;
    op->starved = op->read_hidden = op->unwanted = op->dropped_tag = false;
    op->wait_start_us = 0;
    op->view_from_read = false;
    return run_steps(w, op);
}

void cache_abandon(struct cache_op *op)
{
    if (op->state != OP_READING || op->verb != CACHE_GET || (op->options & (CACHE_F_TOUCH | CACHE_F_VIVIFY)))
        return;
    op->unwanted = true;
    for (struct cache_read *r = op->reads; r; r = r->next)
        if (r->verdict == READ_RUNNING)
            ext_read_cancel(&r->rd);
}

void cache_put_last(struct cache_op *op)
{
    for (struct cache_read *r = op->state == OP_READING ? op->reads : NULL; r; r = r->next)
        if (r->verdict == READ_RUNNING)
            ext_read_put_last(&r->rd);
}

void cache_op_init(struct cache_op *op, enum cache_verb verb, const char *key, uint8_t key_bytes,
                   uint64_t hash)
{
    memset(op, 0, sizeof(*op));
    op->verb = verb;
    op->key = key;
    op->key_bytes = key_bytes;
    op->spot.hash = hash;
}

void cache_release(struct cache_worker *w, struct cache_op *op)
{
    ASSERT(op->state != OP_READING && op->state != OP_WAITING);
    op_item_free(w->cache, op);
    if (op->joined) {
        item_unref(w->cache, op->joined);
        op->joined = NULL;
    }
    reads_release(w, op);
    op->state = OP_NEW;
}

/* ---- values put away ---- */

bool cache_view_is_read(const struct cache_op *op, bool *large)
{
    const struct cache_read *r = read_of_view(op);
    if (!r)
        return false;
    *large = ext_read_is_large(&r->rd);
    return true;
}

uint64_t cache_put_away(struct cache_op *op)
{
    struct cache_read *r = read_of_view(op);
    ASSERT(op->state == OP_FINISHED && r != NULL && r == op->reads && r->next == NULL); /* keep_view_alone */
    r->verdict = READ_AWAY;
    op->view.value = NULL;
    return ext_read_put_away(&r->rd);
}

static void end_return(struct cache_op *op, struct cache_read *r)
{
    op->state = OP_FINISHED;
    if (r->verdict == READ_MATCH)
        op->view.value = r->rec.value;
}

static void returned(struct ext_read *rd)
{
    struct cache_read *r = rd->owner;
    struct cache_op *op = r->op;
    if (!judge_read(op->worker, r))
        return;
    ASSERT(op->worker->parked > 0);
    op->worker->parked--;
    end_return(op, r);
    op->done(op);
}

bool cache_bring_back(struct cache_worker *w, struct cache_op *op)
{
    struct cache_read *r = op->reads;
    ASSERT(op->state == OP_FINISHED && r != NULL && r->verdict == READ_AWAY && op->view.value == NULL);
    r->verdict = READ_RUNNING;
    r->rd.done = returned;
    r->rd.holds_others = false;
    op->state = OP_READING;
    ext_read_start(w->ring, &r->rd, r->place, r->len_class);
    if (r->rd.state == EXT_READ_DONE && judge_read(w, r)) {
        end_return(op, r);
        return true;
    }
    w->parked++;
    return false;
}

/* An op that waits for memory starts again when there is some, so its reads can be repeated. */
static bool drop_waiting_reads(struct cache_worker *w, bool large)
{
    struct cache_op *op;
    STAILQ_FOREACH(op, &w->waiting, in_waiting) {
        bool gives = false;
        for (struct cache_read *r = op->reads; r; r = r->next)
            gives |= r->verdict != READ_WANTED && ext_read_is_large(&r->rd) == large;
        if (!gives)
            continue;
        reads_release(w, op);
        return true;
    }
    return false;
}

static bool free_read_buffers(void *ctx, bool large)
{
    struct cache_worker *w = ctx;
    if (drop_waiting_reads(w, large))
        return true;
    uint64_t us = w->put_value_away ? w->put_value_away(w->put_away_ctx, large) : UINT64_MAX;
    if (us == 0)
        return true;
    if (us != UINT64_MAX) {
        uint64_t due = clock_mono_us() + us;
        if (w->put_away_due_us == 0 || due < w->put_away_due_us)
            w->put_away_due_us = due;
    }
    return false;
}

void cache_worker_set_put_away(struct cache_worker *w, cache_put_away_fn fn, void *ctx)
{
    w->put_value_away = fn;
    w->put_away_ctx = ctx;
}

void cache_nudge(struct cache_worker *w)
{
    if (w->ring)
        ext_ring_nudge(w->ring);
}

/* ---- workers ---- */

struct cache_worker *cache_worker_create(struct cache *c, struct thread_stats *stats)
{
    struct cache_worker *w = calloc(1, sizeof(*w));
    if (!w)
        return NULL;
    w->cache = c;
    w->stats = stats;
    STAILQ_INIT(&w->waiting);
    w->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (w->wake_fd < 0)
        goto fail;
    if (c->ext) {
        w->ring = ext_ring_create(c->ext);
        if (!w->ring)
            goto fail;
        ext_ring_set_free_buffers(w->ring, free_read_buffers, w);
    }
    return w;
fail:
    if (w->wake_fd >= 0)
        close(w->wake_fd);
    free(w);
    return NULL;
}

void cache_worker_destroy(struct cache_worker *w)
{
    ASSERT(w->parked == 0 && STAILQ_EMPTY(&w->waiting));
    lock_assert_none_held();
    if (w->ring)
        ext_ring_destroy(w->ring);
    if (w->cache->ext)
        ext_cancel_notify(w->cache->ext, wake_waiting, w);
    while (atomic_load(&w->wake_refs) > 0) /* just being called by an I/O thread: it only writes to wake_fd */
        sched_yield();
    while (w->reads_free) {
        struct cache_read *r = w->reads_free;
        w->reads_free = r->next;
        free(r);
    }
    close(w->wake_fd);
    free(w);
}

void cache_worker_give_up(struct cache_worker *w)
{
    if (w->ring)
        ext_ring_give_up(w->ring);
}

int cache_worker_ring_fd(const struct cache_worker *w) { return w->ring ? ext_ring_fd(w->ring) : -1; }
int cache_worker_wake_fd(const struct cache_worker *w) { return w->wake_fd; }
unsigned cache_worker_parked(const struct cache_worker *w) { return w->parked; }

void cache_worker_submit(struct cache_worker *w)
{
    if (w->ring)
        ext_ring_submit(w->ring);
}

void cache_worker_poll(struct cache_worker *w)
{
    eventfd_t drained;
    lock_assert_none_held();
    if (eventfd_read(w->wake_fd, &drained) == 0)
        w->notify_armed = false;
    w->put_away_due_us = w->retry_due_us = 0;
    if (w->ring)
        ext_ring_reap(w->ring);
    /* The ops that wait now; ops that park again meanwhile go to a new list. */
    struct op_queue ops = STAILQ_HEAD_INITIALIZER(ops);
    struct cache_op *op;
    STAILQ_CONCAT(&ops, &w->waiting);
    while ((op = STAILQ_FIRST(&ops)) != NULL) {
        STAILQ_REMOVE_HEAD(&ops, in_waiting);
        op->attempts = 0;
        run_parked(op);
    }
}

bool cache_worker_reap(struct cache_worker *w)
{
    bool more = false;
    if (!STAILQ_EMPTY(&w->waiting)) /* a completion may give back what they wait for */
        cache_worker_poll(w);
    else
        ext_ring_reap_some(w->ring, REAP_MAX, &more);
    return more;
}

static int64_t wait_timeout_us(const struct cache_worker *w, uint64_t now_us)
{
    if (STAILQ_EMPTY(&w->waiting))
        return -1;
    uint64_t max_us = atomic_load(&w->cache->config->ext_max_sleep);
    uint64_t waited = now_us - STAILQ_FIRST(&w->waiting)->wait_start_us;
    uint64_t us = waited < max_us ? min_u64(max_us - waited + 1, 100000) : RETRY_US; /* its last chance */
    if (w->retry_due_us != 0)
        us = min_u64(us, w->retry_due_us - min_u64(w->retry_due_us, now_us));
    return (int64_t)us;
}

int64_t cache_worker_timeout_us(const struct cache_worker *w)
{
    if (STAILQ_EMPTY(&w->waiting) && w->put_away_due_us == 0)
        return -1;
    uint64_t now = clock_mono_us();
    int64_t wait = wait_timeout_us(w, now);
    if (w->put_away_due_us == 0)
        return wait;
    int64_t put_away = w->put_away_due_us > now ? (int64_t)(w->put_away_due_us - now) : 0;
    return wait < 0 || put_away < wait ? put_away : wait;
}
