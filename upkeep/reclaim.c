/* upkeep/reclaim.c: see upkeep/reclaim.h. It holds what is to be done with which page (upkeep/choice.h finds
 * it), then reading, then records, then the step that drives all of them. */
#include "upkeep/reclaim.h"

#include <stdarg.h>

#include "flash/engine.h"
#include "flash/groups.h"
#include "flash/page.h"
#include "flash/room.h"
#include "flash/wbuf.h"
#include "upkeep/choice.h"
#include "upkeep/expire.h"
#include "upkeep/probe.h"

#define STEP_RECORDS 64u
#define STEP_BYTES ((uint64_t)256 * KiB) /* copied by one step, but at least one record */
#define TABLE_FIRST_BYTES ((uint64_t)64 * KiB) /* of a slot's end; more if its table is longer */
#define STAYS_MAX 16u         /* this many pages in a row may stay; then one goes even if it is hot */
#define HEATS 4u              /* 0: never hit since it was written or looked at */
#define HOT_HEAT 2u           /* hit twice: a single hit may have been the last */
#define URGENT_FRAG_MAX 0.5   /* below the low-water mark fuller pages gain too little, unless flash has much room */
#define VAIN_PCT 85u          /* a rescue for room that copies more of its page was in vain: what had expired is an estimate */
#define VAIN_MAX 2u           /* after this many in a row, */
#define VAIN_PAUSE 16u        /* flash counts as full for this many pages, unless one is less than half live */
#define READ_TRIES 8u                         /* of a chunk */
#define READ_PAUSE_NS UINT64_C(5000000)       /* before the second; doubled each time, up to */
#define READ_PAUSE_MAX_NS UINT64_C(100000000) /* this: 0.36 s in all */
#define TABLE_TRIES 3u
#define RECORD_TRIES 3u
#define WALK_STEP_BYTES ((uint64_t)1 * MiB) /* looked at by one step of a walk */
#define WALK_FACTOR 32u /* a walk that reads this many times a slot's bytes follows garbage */
#define ABORTS_MAX 4u                 /* then the oldest page goes, readable or not */
#define FINISH_NS UINT64_C(50000000)  /* for drops that other threads have begun */
#define FRAGINFO_NS UINT64_C(100000000)

enum mode { RESCUE, LOOK, STAY, EVICT };
enum verdict { NEXT, WAIT, NEED_SLOT, NEED_RECORD, GIVE_UP }; /* of one record */
enum phase { IDLE, READING, RECORDS, WALKING, SWEEPING, FINISHING };

struct ext_reclaim {
    struct extstore *e;
    char *buffer;    /* image of a slot, valid from `from` to its end */

    /* owned by the maintenance thread; by the I/O thread while reading is true */
    enum phase phase;
    enum mode mode;
    bool for_index;   /* EVICT since the index is full: nothing is written again */
    bool drop_unread; /* RESCUE that leaves behind what was never hit */
    bool to_old;      /* RESCUE to bucket old, since the page went only for its age */
    bool for_room;    /* RESCUE below the low-water mark */
    uint32_t page, version;
    uint32_t slot_index; /* in the page */
    uint64_t from;       /* first byte of the slot that is in the buffer, or wanted there */
    uint32_t entry, entry_count;
    uint64_t keep_bytes; /* bytes that EVICT may still write again */
    uint64_t heat_bytes[HEATS]; /* of live records, as LOOK found them */
    unsigned keep_heat;         /* EVICT: these and hotter ones are kept; one less hot as far as */
    uint64_t keep_rest;         /* these bytes go */
    uint32_t stays;             /* pages in a row that stayed */
    uint64_t page_evicted, page_copied; /* objects; bytes */
    uint64_t evict_mark, finish_mark, crowd_mark; /* see checks_have_ended */
    uint64_t rescues, reread, lost, skipped; /* of this slot, for the event; reread: of the rescues
                                              * those from a page that someone was reading */
    uint64_t sweep_cursor;
    bool sweep_page; /* the whole page, else the slot */
    uint64_t walk_at, walk_looked;  /* bytes of the slot; bytes looked at in all */
    uint64_t read_at, read_end;     /* what is still to be read of the slot */
    bool for_record;                /* the read is one of a record once more; otherwise it is for the table */
    uint32_t read_tries;            /* failed, of the chunk at read_at */
    uint32_t table_tries, record_tries;
    uint64_t not_before_ns;
    bool read_again; /* when that time has come */
    int read_result;
    struct io_job job;
    struct ext_choice choice;
    uint32_t aborts;          /* rescues in a row that ended since their page could not be read */
    uint32_t vain;            /* rescues for room in a row that gained too little */
    uint32_t vain_pause;      /* pages until the next is tried */
    uint64_t fraginfo_ns;
    /* atomic */
    _Atomic(bool) reading;
};

static void read_run(struct io_job *job);

struct ext_reclaim *ext_reclaim_create(struct extstore *e)
{
    struct ext_reclaim *r = calloc(1, sizeof(*r));
    if (r == NULL)
        return NULL;
    if (ext_choice_init(&r->choice, e) != 0) {
        free(r);
        return NULL;
    }
    r->e = e;
    r->buffer = arena_base(e->arena) + e->tables->reclaim;
    r->job.run = read_run;
    return r;
}

void ext_reclaim_destroy(struct ext_reclaim *r)
{
    if (r == NULL)
        return;
    ASSERT(!atomic_load(&r->reading));
    if (r->phase != IDLE) /* the page is still DRAINING or BAD; a later process goes on with it */
        atomic_fetch_sub(&r->e->pages[r->page].refs, 1);
    ext_choice_end(&r->choice);
    free(r);
}

/* What each phase of a job promises, at the end of a step. By the maintenance thread. */
static void assert_job(const struct ext_reclaim *r)
{
    const struct extstore *e = r->e;
    ASSERT(r->phase <= FINISHING && r->mode <= EVICT);
    if (r->phase == IDLE) {
        ASSERT(!atomic_load(&r->reading));
        return;
    }
    ASSERT(r->page < e->page_count && r->slot_index <= e->slots_per_page);
    ASSERT(atomic_load(&e->pages[r->page].refs) > 0); /* the job's */
    ASSERT(atomic_load(&e->pages[r->page].version) == r->version);
    ASSERT(!atomic_load(&r->reading) || r->phase == READING);
    ASSERT(r->entry <= r->entry_count && r->keep_heat <= HEATS && r->from < e->wbuf_bytes);
    ASSERT(r->phase != WALKING || r->walk_at % EXT_GRANULE_BYTES == 0);
    ASSERT(r->phase != SWEEPING || r->sweep_page || r->slot_index < e->slots_per_page);
}

static void event(struct ext_reclaim *r, const char *fmt, ...) PRINTF_LIKE(2, 3);

static void event(struct ext_reclaim *r, const char *fmt, ...)
{
    if (r->e->event_fn == NULL)
        return;
    char line[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    r->e->event_fn(r->e->event_ctx, line);
}

/* ---- which page ---- */

/* Is bucket default, into whose pages all others may fall back, short of them? */
static bool is_short(const struct extstore *e)
{
    uint64_t free_pages = ext_pages_free(e, EXT_BUCKET_DEFAULT);
    bool is_wanted = atomic_load_explicit(&e->no_page_ns, memory_order_relaxed) != 0;
    return free_pages < ext_low_water(e, EXT_BUCKET_DEFAULT) ||
           (is_wanted && free_pages <= EXT_RESERVED_PAGES);
}

/* Writers can't go on without a page. */
static bool is_starved(const struct ext_reclaim *r)
{
    return ext_pages_free(r->e, EXT_BUCKET_DEFAULT) <= EXT_RESERVED_PAGES;
}

/* Have all checks and drops ended that were queued when *mark was set? Sets it if it is 0. */
static bool checks_have_ended(struct ext_reclaim *r, uint64_t *mark)
{
    const struct ext_callbacks *cb = &r->e->opt.callbacks;
    uint64_t asked, ended;
    cb->count_checks(cb->ctx, &asked, &ended);
    if (*mark == 0)
        *mark = asked;
    return ended >= *mark;
}

static void begin_slot(struct ext_reclaim *r);
static void end_job(struct ext_reclaim *r);

static bool start_job(struct ext_reclaim *r, enum mode mode, uint32_t page)
{
    ASSERT(r->phase == IDLE && mode != STAY);
    struct extstore *e = r->e;
    if (page == EXT_NO_PAGE || !ext_page_drain(e, page))
        return false;
    r->mode = mode;
    r->page = page;
    r->version = atomic_load(&e->pages[page].version);
    r->slot_index = 0;
    r->keep_bytes = 0;
    r->keep_heat = HEATS;
    memset(r->heat_bytes, 0, sizeof(r->heat_bytes));
    r->page_evicted = r->page_copied = 0;
    r->evict_mark = 0;
    event(r, "type=compact_start id=%" PRIu32 " version=%" PRIu32, page, r->version);
    begin_slot(r);
    return true;
}

static uint32_t stay_pct(const struct ext_reclaim *r)
{
    return r->stays < STAYS_MAX ? atomic_load_explicit(&r->e->tun->stay_pct, memory_order_relaxed) : 0;
}

static uint64_t rewrite_bytes(const struct ext_reclaim *r)
{
    const struct extstore *e = r->e;
    bool rewrites = atomic_load_explicit(&e->tun->max_frag, memory_order_relaxed) > 0;
    return rewrites ? e->page_bytes / 100 * atomic_load_explicit(&e->tun->rewrite_pct, memory_order_relaxed)
                    : 0;
}

/* Evicts the page, unless enough of it is hot that it stays: its tables are read first. */
static bool start_eviction(struct ext_reclaim *r, uint32_t page)
{
    bool look = stay_pct(r) > 0 || rewrite_bytes(r) > 0;
    return start_job(r, look && !r->for_index ? LOOK : EVICT, page);
}

/* All tables were read: decides what to do with the page. */
static void judge_page(struct ext_reclaim *r)
{
    const struct ext_page *p = &r->e->pages[r->page];
    ASSERT(r->mode == LOOK && !r->for_index);
    uint64_t hot = 0, sum = 0;
    for (unsigned heat = HOT_HEAT; heat < HEATS; heat++)
        hot += r->heat_bytes[heat];
    uint32_t pct = stay_pct(r);
    uint64_t appended = atomic_load_explicit(&p->bytes_appended, memory_order_relaxed);
    if (pct > 0 && hot >= appended / 100 * pct && ext_page_state_of(p) == EXT_PAGE_DRAINING) {
        r->mode = STAY;
        r->stays++;
        ext_count(r->e, EXT_N_pages_kept, 1);
        return;
    }
    r->mode = EVICT;
    r->stays = 0;
    r->keep_bytes = rewrite_bytes(r);
    while (r->keep_heat > 1 && sum + r->heat_bytes[r->keep_heat - 1] <= r->keep_bytes)
        sum += r->heat_bytes[--r->keep_heat];
    ASSERT(r->keep_heat >= 1 && sum <= r->keep_bytes);
    r->keep_rest = r->keep_heat > 1 ? r->keep_bytes - sum : 0;
}

/* Devices of buckets coldcompact and old hold the least valuable records, so make room there first; then
 * the oldest page of default moves to them. */
static bool start_tiers(struct ext_reclaim *r)
{
    static const enum ext_bucket tiers[] = {EXT_BUCKET_COLDCOMPACT, EXT_BUCKET_OLD};
    struct extstore *e = r->e;
    uint32_t page = ext_choose_oldest(&r->choice, EXT_BUCKET_DEFAULT, EXT_OF_CLASS_TO_COMPACT);
    bool any = false;
    for (size_t i = 0; i < ARRAY_COUNT(tiers) && page != EXT_NO_PAGE; i++) {
        if (ext_pages_total(e, tiers[i]) == 0)
            continue;
        if (ext_pages_free(e, tiers[i]) == 0) {
            if (start_eviction(r, ext_choose_oldest(&r->choice, tiers[i], EXT_OF_CLASS)))
                return true;
            continue; /* its only page is in use */
        }
        any = true;
    }
    if (!any)
        return false;
    r->to_old = ext_pages_free(e, EXT_BUCKET_OLD) > 0;
    if (start_job(r, RESCUE, page))
        return true;
    r->to_old = false;
    return false;
}

/* Which page is rescued below the low-water mark: one less full than urgent_max; while flash as a whole has much room, any
 * that gains something, since the alternative is to give up objects. */
static uint32_t choose_urgent(const struct ext_reclaim *r, enum ext_bucket device_class)
{
    double max_frag = atomic_load_explicit(&r->e->tun->max_frag, memory_order_relaxed);
    double urgent_max = max_frag < URGENT_FRAG_MAX ? max_frag : URGENT_FRAG_MAX;
    if (r->aborts >= ABORTS_MAX)
        return EXT_NO_PAGE;
    uint32_t page = ext_choose_fragmented(&r->choice, device_class, urgent_max, true);
    if (page != EXT_NO_PAGE || r->vain_pause > 0)
        return page;
    return ext_choose_roomy(&r->choice, device_class, max_frag);
}

/* Free pages become few: must objects go for the next one, or can a page be rescued? Not said while checks of overwritten
 * values may still empty one. */
static void judge_room(struct ext_reclaim *r)
{
    struct extstore *e = r->e;
    if (ext_pages_free(e, EXT_BUCKET_DEFAULT) > ext_low_water(e, EXT_BUCKET_DEFAULT) + 1)
        return;
    bool can_rescue = choose_urgent(r, EXT_BUCKET_DEFAULT) != EXT_NO_PAGE;
    if (!can_rescue && !checks_have_ended(r, &r->crowd_mark))
        return;
    atomic_store_explicit(&e->is_crowded, !can_rescue, memory_order_relaxed);
    r->crowd_mark = 0;
}

/* Free pages of the class are below the low-water mark. */
static bool start_urgent(struct ext_reclaim *r, enum ext_bucket device_class)
{
    struct extstore *e = r->e;
    bool may_rescue = r->aborts < ABORTS_MAX;
    /* Wait for the checks of overwritten values first: a page may be empty after them. */
    if (!checks_have_ended(r, &r->evict_mark) && !is_starved(r))
        return false;
    r->for_room = start_job(r, RESCUE, choose_urgent(r, device_class));
    if (r->for_room)
        return true;
    /* Nothing has to go while there is room elsewhere: a BAD page may have recovered, other
     * classes fall back to default's pages, and default's can move to devices that are for rescued
     * records. */
    if (ext_probe_tries_page(e) || !checks_have_ended(r, &r->evict_mark))
        return false;
    if (device_class != EXT_BUCKET_DEFAULT)
        return is_short(e) && start_eviction(r, ext_choose_oldest(&r->choice, device_class, EXT_OF_CLASS));
    if (may_rescue && ext_pages_free(e, EXT_BUCKET_COMPACT) > 1 &&
        start_job(r, RESCUE, ext_choose_oldest(&r->choice, device_class, EXT_OF_CLASS_TO_COMPACT)))
        return true;
    return start_tiers(r) || start_eviction(r, ext_choose_oldest(&r->choice, device_class, EXT_OF_CLASS));
}

/* Chooses by the free pages of one device class. */
static bool start_for_class(struct ext_reclaim *r, enum ext_bucket device_class)
{
    struct extstore *e = r->e;
    if (ext_pages_total(e, device_class) == 0)
        return false;
    uint64_t free_pages = ext_pages_free(e, device_class), usable = free_pages;
    if (device_class == EXT_BUCKET_DEFAULT) /* the pages that compact_under and drop_under count */
        usable -= min_u64(usable, EXT_RESERVED_PAGES);
    if (free_pages < ext_low_water(e, device_class) ||
        (device_class == EXT_BUCKET_DEFAULT && is_short(e)))
        return start_urgent(r, device_class);
    if (usable < atomic_load_explicit(&e->tun->compact_under_pages, memory_order_relaxed) &&
        start_job(r, RESCUE,
                  ext_choose_fragmented(&r->choice, device_class,
                                  atomic_load_explicit(&e->tun->max_frag, memory_order_relaxed),
                                  false)))
        return true;
    if (usable >= atomic_load_explicit(&e->tun->drop_under_pages, memory_order_relaxed))
        return false;
    if (device_class == EXT_BUCKET_DEFAULT && start_tiers(r))
        return true;
    r->drop_unread = atomic_load_explicit(&e->tun->drop_unread, memory_order_relaxed) &&
                     ext_pages_total(e, EXT_BUCKET_COLDCOMPACT) == 0;
    if (r->drop_unread && start_job(r, RESCUE, ext_choose_oldest(&r->choice, device_class, EXT_OF_CLASS)))
        return true;
    r->drop_unread = false; /* other jobs keep all live records */
    return false;
}

/* True iff a job was begun. */
static bool choose(struct ext_reclaim *r)
{
    struct extstore *e = r->e;
    ASSERT(r->phase == IDLE);
    r->for_index = r->drop_unread = r->to_old = r->for_room = false;
    if (ext_expire_is_running(e->expire))
        return false;
    judge_room(r);
    uint32_t requests = atomic_load(&e->evict_requests);
    if (requests > 0) {
        r->for_index = true;
        if (start_job(r, EVICT, ext_choose_oldest(&r->choice, EXT_BUCKET_DEFAULT, EXT_OF_ANY_CLASS)))
            return true;
        /* Buffers being written are left to the next step, and so is the page just finished. */
        if (!ext_choice_may_come(&r->choice) && !ext_wbuf_end_oldest_page(e))
            atomic_fetch_sub(&e->evict_requests, requests);
        r->for_index = false;
    }
    for (unsigned c = 0; c < EXT_BUCKET_COUNT; c++) {
        if (start_for_class(r, (enum ext_bucket)c))
            return true;
    }
    return ext_pages_free(e, EXT_BUCKET_DEFAULT) >= ext_low_water(e, EXT_BUCKET_DEFAULT) &&
           start_job(r, RESCUE, ext_choose_bad(&r->choice));
}

/* ---- reading ---- */

static uint64_t job_slot(const struct ext_reclaim *r)
{
    return (uint64_t)r->page * r->e->slots_per_page + r->slot_index;
}

static void read_run(struct io_job *job)
{
    struct ext_reclaim *r = CONTAINER_OF(job, struct ext_reclaim, job);
    struct extstore *e = r->e;
    struct ext_device *d = ext_page_device(e, r->page);
    struct ext_io_counts c = {0};
    ASSERT(atomic_load(&r->reading) && r->read_at < r->read_end);
    int rc = ext_device_read(d, r->buffer + r->read_at, r->read_end - r->read_at,
                             ext_slot_offset(e, job_slot(r)) + r->read_at, &c);
    ext_device_read_result(d, rc);
    ext_count(e, EXT_N_bytes_read_reclaim, c.bytes);
    ext_count(e, EXT_N_read_short, c.short_transfers);
    r->read_at += c.bytes;
    if (c.bytes > 0)
        r->read_tries = 0;
    r->read_result = rc;
    atomic_store(&r->reading, false);
    ext_wake_maint(e);
}

static void go_on_reading(struct ext_reclaim *r)
{
    ASSERT(!atomic_load(&r->reading) && r->read_at < r->read_end && r->read_end <= r->e->wbuf_bytes);
    r->phase = READING;
    r->read_again = false;
    atomic_store(&r->reading, true);
    io_pool_submit(r->e->write_pool, &r->job);
}

/* Reads a part of the slot. */
static void start_read(struct ext_reclaim *r, uint64_t from, uint64_t to, bool for_record)
{
    ASSERT(from < to);
    r->read_at = round_down(from, EXT_IO_ALIGN_BYTES);
    r->read_end = round_up(to, EXT_IO_ALIGN_BYTES);
    r->read_tries = 0;
    r->for_record = for_record;
    go_on_reading(r);
}

/* Reads the slot from `from` to its end, which is the table. */
static void start_table(struct ext_reclaim *r, uint64_t from)
{
    r->from = round_down(from, EXT_IO_ALIGN_BYTES);
    start_read(r, r->from, r->e->wbuf_bytes, false);
}

static void start_sweep(struct ext_reclaim *r, bool whole_page)
{
    ASSERT(!atomic_load(&r->reading) && (whole_page || r->slot_index < r->e->slots_per_page));
    r->phase = SWEEPING;
    r->sweep_page = whole_page;
    r->sweep_cursor = 0;
}

/* Is it places in the index that are short? Then what was hit stays where it is, cooler, and the rest goes. */
static bool leaves_hot(const struct ext_reclaim *r)
{
    return r->mode == EVICT && r->for_index && stay_pct(r) > 0 &&
           ext_page_state_of(&r->e->pages[r->page]) == EXT_PAGE_DRAINING;
}

/* Goes to the next slot with records, or to the end of the page. */
static void begin_slot(struct ext_reclaim *r)
{
    struct extstore *e = r->e;
    uint32_t used = atomic_load(&e->pages[r->page].slots_used);
    ASSERT(used <= e->slots_per_page && !atomic_load(&r->reading));
    while (r->slot_index < used && extmap_get(e->map, job_slot(r)).state == EXTMAP_FREE)
        r->slot_index++; /* was emptied after a failed write */
    bool is_empty = atomic_load(&e->pages[r->page].objects) == 0;
    if (r->slot_index >= used && r->mode == LOOK && !is_empty) {
        judge_page(r);
        r->slot_index = 0;
        begin_slot(r);
        return;
    }
    if (r->slot_index >= used && !is_empty && (r->mode == STAY || leaves_hot(r))) {
        if (r->for_index && r->page_evicted > 0)
            atomic_store(&e->evict_requests, 0);
        ext_page_stay(e, r->page);
        event(r, "type=compact_end id=%" PRIu32, r->page);
        end_job(r);
        return;
    }
    if (r->slot_index >= used || is_empty) {
        r->phase = FINISHING;
        r->not_before_ns = clock_mono_ns() + FINISH_NS;
        r->finish_mark = 0;
        return;
    }
    r->entry = r->entry_count = 0;
    r->rescues = r->reread = r->lost = r->skipped = 0;
    r->table_tries = r->record_tries = 0;
    r->not_before_ns = 0;
    event(r, "type=compact_read_start id=%" PRIu32 " offset=%" PRIu64, r->page,
          r->slot_index * e->wbuf_bytes);
    /* Only a rescue needs the records; for the rest the table does, as a rule. */
    uint64_t table = e->wbuf_bytes - min_u64(e->wbuf_bytes, TABLE_FIRST_BYTES);
    start_table(r, r->mode == RESCUE ? 0 : table);
}

static void end_slot(struct ext_reclaim *r)
{
    ASSERT(r->slot_index < r->e->slots_per_page);
    event(r,
          "type=compact_read_end id=%" PRIu32 " offset=%" PRIu64 " rescues=%" PRIu64
          " rescues_realloc=%" PRIu64 " lost=%" PRIu64 " lost_oom=0 skipped=%" PRIu64,
          r->page, r->slot_index * r->e->wbuf_bytes, r->rescues, r->reread, r->lost, r->skipped);
    r->slot_index++;
    begin_slot(r);
}

/* A page's job ends: did a rescue gain room? Else its like would only be copied from page to page. */
static void judge_gain(struct ext_reclaim *r)
{
    r->vain_pause -= r->vain_pause > 0;
    if (!r->for_room || r->mode != RESCUE)
        return;
    uint64_t real = atomic_load_explicit(&r->e->pages[r->page].bytes_real, memory_order_relaxed);
    r->vain = r->page_copied > real / 100 * VAIN_PCT ? r->vain + 1 : 0;
    if (r->vain < VAIN_MAX)
        return;
    r->vain = 0;
    r->vain_pause = VAIN_PAUSE;
}

static void end_job(struct ext_reclaim *r)
{
    ASSERT(!atomic_load(&r->reading));
    judge_gain(r);
    r->phase = IDLE;
    r->aborts = 0;
    if (r->page_evicted > 0)
        ext_count(r->e, EXT_N_page_evictions, 1);
    ext_page_unpin(r->e, r->page);
}

static void say(struct ext_reclaim *r, enum ext_fault kind, uint64_t in_slot, int rc,
                const char *done)
{
    struct extstore *e = r->e;
    ext_device_say(ext_page_device(e, r->page), kind, ext_slot_offset(e, job_slot(r)) + in_slot, rc,
                   done);
}

/* The slot can't be read now, and perhaps never again. */
static void read_failed(struct ext_reclaim *r)
{
    struct extstore *e = r->e;
    ASSERT(r->read_result < 0 && r->phase == READING);
    if (++r->read_tries < READ_TRIES) {
        ext_count(e, EXT_N_read_retries, 1);
        uint64_t pause_ns = READ_PAUSE_NS << (r->read_tries - 1);
        r->not_before_ns = clock_mono_ns() + min_u64(pause_ns, READ_PAUSE_MAX_NS);
        r->read_again = true;
        return;
    }
    ext_count(e, EXT_N_read_errors, 1);
    if (r->mode != RESCUE) {
        r->mode = EVICT;
        say(r, EXT_FAULT_READ, r->read_at, r->read_result, "its content had to go anyway");
        start_sweep(r, false);
        return;
    }
    /* A device that doesn't answer may yet come back: leave the page for later. */
    say(r, EXT_FAULT_READ, r->read_at, r->read_result, "the page is left alone for five seconds");
    event(r, "type=compact_abort id=%" PRIu32, r->page);
    ext_choice_avoid(&r->choice, r->page);
    uint32_t aborts = r->aborts + 1;
    end_job(r);
    r->aborts = aborts;
}

static void table_failed(struct ext_reclaim *r)
{
    struct extstore *e = r->e;
    if (++r->table_tries < TABLE_TRIES) {
        ext_count(e, EXT_N_read_retries, 1);
        start_table(r, r->from);
        return;
    }
    ext_count(e, EXT_N_bad_checksums, 1);
    ext_device_bytes_result(ext_page_device(e, r->page), false);
    if (r->mode == RESCUE && r->from == 0) {
        say(r, EXT_FAULT_CHECKSUM, e->wbuf_bytes - EXT_IO_ALIGN_BYTES, 0,
            "a table can't be trusted: the records are looked for one by one");
        r->walk_at = r->walk_looked = 0;
        r->phase = WALKING;
        return;
    }
    say(r, EXT_FAULT_CHECKSUM, e->wbuf_bytes - EXT_IO_ALIGN_BYTES, 0,
        "a table can't be trusted: what it named is dropped");
    r->mode = r->mode == LOOK || r->mode == STAY ? EVICT : r->mode;
    start_sweep(r, false);
}

/* Handles a finished read. True: the step may continue. */
static bool after_read(struct ext_reclaim *r)
{
    struct extstore *e = r->e;
    ASSERT(r->phase == READING);
    if (atomic_load(&r->reading) || clock_mono_ns() < r->not_before_ns)
        return false;
    if (r->read_again) {
        go_on_reading(r);
        return false;
    }
    if (r->read_result != 0) {
        read_failed(r);
        return true;
    }
    if (r->for_record) {
        r->phase = RECORDS;
        return true;
    }
    uint32_t count = 0;
    int rc = ext_trailer_verify(r->buffer + e->wbuf_bytes, e->wbuf_bytes - r->from, e->wbuf_bytes,
                                job_slot(r), r->version, &count);
    if (rc == -EAGAIN) { /* a longer table than was read */
        start_table(r, ext_table_start(e->wbuf_bytes, count));
        return false;
    }
    if (rc != 0) {
        table_failed(r);
        return true;
    }
    ASSERT(ext_table_start(e->wbuf_bytes, count) >= r->from);
    r->entry_count = count;
    r->phase = RECORDS;
    return true;
}

/* ---- records ---- */

void ext_count_dropped(struct extstore *e, enum ext_drop_why why, uint64_t record_bytes)
{
    static const enum ext_counter counters[] = {
        [EXT_DROP_EVICTED] = EXT_N_objects_evicted,
        [EXT_DROP_INDEX_FULL] = EXT_N_evicted_index_full,
        [EXT_DROP_UNREAD] = EXT_N_objects_unread_dropped,
        [EXT_DROP_EXPIRED] = EXT_N_objects_expired,
        [EXT_DROP_LOST] = EXT_N_compact_lost,
    };
    ASSERT(why < ARRAY_COUNT(counters));
    ext_count(e, counters[why], 1);
    if (!ext_drop_is_evicted(why))
        return;
    if (why != EXT_DROP_EVICTED)
        ext_count(e, EXT_N_objects_evicted, 1);
    ext_count(e, EXT_N_bytes_evicted, record_bytes);
}

/* NEXT, or WAIT: not now. */
static enum verdict drop(struct ext_reclaim *r, const struct ext_entry *entry, ext_place place,
                         enum ext_drop_why why)
{
    struct extstore *e = r->e;
    const struct ext_callbacks *cb = &e->opt.callbacks;
    lock_assert_none_held(); /* as for every upcall */
    switch (cb->dropped(cb->ctx, entry->hash, place, why, entry->record_bytes)) {
    case EXT_DROPPED_BUSY:
        return WAIT;
    case EXT_DROPPED_GONE:
        return NEXT;
    case EXT_DROPPED:
        ext_count_dropped(e, why, entry->record_bytes);
        break;
    case EXT_DROPPED_LATER:
        break;
    }
    r->page_evicted += ext_drop_is_evicted(why);
    return NEXT;
}

static enum verdict drop_evicted(struct ext_reclaim *r, const struct ext_entry *entry, ext_place place)
{
    return drop(r, entry, place, r->for_index ? EXT_DROP_INDEX_FULL : EXT_DROP_EVICTED);
}

/* The bucket for a rescued record. */
static enum ext_bucket rescue_bucket(const struct ext_reclaim *r, unsigned heat)
{
    const struct extstore *e = r->e;
    switch (e->pages[r->page].bucket) {
    case EXT_BUCKET_LOWTTL:
        return ext_groups_are_on(e) ? EXT_BUCKET_DEFAULT : EXT_BUCKET_LOWTTL;
    case EXT_BUCKET_OLD:
        return EXT_BUCKET_OLD;
    case EXT_BUCKET_COLDCOMPACT:
        return heat == 0 ? EXT_BUCKET_COLDCOMPACT : EXT_BUCKET_COMPACT;
    default:
        if (heat == 0 && ext_pages_total(e, EXT_BUCKET_COLDCOMPACT) > 0)
            return EXT_BUCKET_COLDCOMPACT;
        return r->to_old ? EXT_BUCKET_OLD : EXT_BUCKET_COMPACT;
    }
}

/* Appends a live record again. Sets *bytes when something was copied. */
static enum verdict rescue(struct ext_reclaim *r, const struct ext_entry *entry, ext_place place,
                           unsigned heat, uint64_t *bytes)
{
    struct extstore *e = r->e;
    const struct ext_callbacks *cb = &e->opt.callbacks;
    uint64_t offset = (uint64_t)entry->granule * EXT_GRANULE_BYTES;
    struct ext_record rec;
    ASSERT((r->mode == RESCUE || r->mode == EVICT) && (r->from == 0 || r->phase == WALKING));
    ext_count(e, EXT_N_objects_read_reclaim, 1);
    bool fits = entry->record_bytes > 0 && offset + entry->record_bytes <= e->wbuf_bytes;
    if (!fits || ext_record_verify(r->buffer + offset, entry->record_bytes, r->version, place,
                                   &rec) != 0) {
        if (fits && ++r->record_tries < RECORD_TRIES)
            return NEED_RECORD;
        if (drop(r, entry, place, EXT_DROP_LOST) == WAIT)
            return WAIT;
        ext_count(e, EXT_N_bad_checksums, 1);
        ext_device_bytes_result(ext_page_device(e, r->page), false);
        say(r, EXT_FAULT_CHECKSUM, offset, 0, "wrong bytes are not served; the record is dropped");
        r->lost++;
        return NEXT;
    }
    if (!cb->is_fresh(cb->ctx, rec.exptime_unix, rec.time_unix))
        return drop(r, entry, place, EXT_DROP_EXPIRED);
    if (ext_write_level(e) == 0) {
        if (!is_starved(r))
            return WAIT;
        return GIVE_UP; /* endurance is worth more than this record */
    }
    struct ext_record_in in;
    ext_record_again(&rec, entry->hash, &in);
    enum ext_bucket bucket = rescue_bucket(r, heat);
    struct ext_append a;
    int rc = ext_append_begin(e, bucket, &in, rec.seq, true, &a);
    if (rc == -ENOSPC) {
        r->mode = EVICT; /* there is no page: the rest of this one has to go */
        r->keep_bytes = 0;
        return GIVE_UP;
    }
    if (rc != 0)
        return WAIT;
    *bytes = entry->record_bytes;
    bool is_read = atomic_load(&e->pages[r->page].refs) > 1; /* one is ours */
    if (cb->moved(cb->ctx, entry->hash, place, a.place, a.len_class)) {
        r->rescues++;
        r->reread += is_read;
        ext_count(e, EXT_N_compact_rescues, 1);
        ext_count(e, EXT_N_bytes_rewritten, entry->record_bytes);
        if (bucket == EXT_BUCKET_COLDCOMPACT)
            ext_count(e, EXT_N_compact_resc_cold, 1);
        if (bucket == EXT_BUCKET_OLD)
            ext_count(e, EXT_N_compact_resc_old, 1);
    } else {
        ext_drop(e, a.place, a.len_class);
    }
    ext_append_end(&a);
    return NEXT;
}

/* Is a record of an evicted page hot enough to be written again, within the limits? */
static bool is_kept(const struct ext_reclaim *r, unsigned heat, uint64_t record_bytes)
{
    ASSERT(r->mode == EVICT && heat < HEATS);
    if (heat == 0 || r->keep_bytes < record_bytes)
        return false;
    return heat >= r->keep_heat || (heat + 1 == r->keep_heat && r->keep_rest >= record_bytes);
}

/* Decides about one record. */
static enum verdict one_record(struct ext_reclaim *r, const struct ext_entry *entry,
                               uint64_t *bytes)
{
    struct extstore *e = r->e;
    const struct ext_callbacks *cb = &e->opt.callbacks;
    ext_place place = ext_slot_place(e, job_slot(r)) + entry->granule;
    unsigned heat = 0;
    ASSERT(r->phase == RECORDS || r->phase == WALKING);
    if (r->mode == STAY) {
        cb->cool(cb->ctx, entry->hash, place);
        return NEXT;
    }
    if (!cb->is_live(cb->ctx, entry->hash, place, &heat))
        return NEXT;
    ASSERT(heat < HEATS);
    if (r->mode == LOOK) {
        r->heat_bytes[heat] += entry->record_bytes;
        return NEXT;
    }
    if (heat > 0 && leaves_hot(r)) {
        cb->cool(cb->ctx, entry->hash, place);
        return NEXT;
    }
    if (r->mode == EVICT) {
        if (!is_kept(r, heat, entry->record_bytes))
            return drop_evicted(r, entry, place);
        if (r->from > 0)
            return NEED_SLOT;
    } else if (r->drop_unread && heat == 0) {
        if (drop(r, entry, place, EXT_DROP_UNREAD) == WAIT)
            return WAIT;
        r->skipped++;
        ext_count(e, EXT_N_compact_skipped, 1);
        return NEXT;
    }
    enum verdict v = rescue(r, entry, place, heat, bytes);
    r->page_copied += *bytes;
    r->keep_bytes -= min_u64(r->keep_bytes, *bytes);
    if (r->mode == EVICT && heat < r->keep_heat)
        r->keep_rest -= min_u64(r->keep_rest, *bytes);
    return v == GIVE_UP ? drop_evicted(r, entry, place) : v;
}

/* Some records of the table in the buffer. True: there is more to do at once. */
static bool some_records(struct ext_reclaim *r)
{
    struct extstore *e = r->e;
    uint64_t copied = 0;
    for (unsigned n = 0; n < STEP_RECORDS && r->entry < r->entry_count; n++) {
        if (copied >= STEP_BYTES)
            return true;
        uint64_t bytes = 0;
        const struct ext_entry *entry = ext_entry_at(r->buffer + e->wbuf_bytes, r->entry);
        uint64_t offset = (uint64_t)entry->granule * EXT_GRANULE_BYTES;
        switch (one_record(r, entry, &bytes)) {
        case NEXT:
            copied += bytes;
            r->entry++;
            r->record_tries = 0;
            break;
        case WAIT:
            return false;
        case NEED_SLOT: /* the records too; goes on at the same entry */
            start_table(r, 0);
            return false;
        case NEED_RECORD:
            ext_count(e, EXT_N_read_retries, 1);
            start_read(r, offset, offset + entry->record_bytes, true);
            return false;
        case GIVE_UP:
            ASSERT(!"one_record drops it");
        }
    }
    if (r->entry == r->entry_count)
        end_slot(r);
    return true;
}

/* ---- what no table names ---- */

/* Is a sound record in the buffer at walk_at? Adds the bytes read to *looked. */
static bool find_record(struct ext_reclaim *r, struct ext_entry *entry, uint64_t *looked)
{
    struct extstore *e = r->e;
    const struct ext_callbacks *cb = &e->opt.callbacks;
    const char *at = r->buffer + r->walk_at;
    ASSERT(r->from == 0 && r->walk_at < e->wbuf_bytes);
    uint64_t left = e->wbuf_bytes - r->walk_at;
    ext_place place = ext_slot_place(e, job_slot(r)) + r->walk_at / EXT_GRANULE_BYTES;
    struct ext_record_head head;
    struct ext_record rec;
    *looked += EXT_GRANULE_BYTES;
    if (left < sizeof(head))
        return false;
    memcpy(&head, at, sizeof(head));
    uint64_t bytes = ext_record_bytes(head.key_bytes, head.value_bytes);
    if (!ext_record_head_is_sound(&head) || bytes > left)
        return false;
    *looked += bytes;
    if (ext_record_verify(at, left, r->version, place, &rec) != 0)
        return false;
    *entry = (struct ext_entry){
        .hash = cb->hash_of(cb->ctx, rec.key, rec.key_bytes),
        .granule = (uint32_t)(r->walk_at / EXT_GRANULE_BYTES),
        .record_bytes = (uint32_t)bytes,
    };
    return true;
}

/* Some records of a slot without a table. True: there is more to do at once. */
static bool walk(struct ext_reclaim *r)
{
    struct extstore *e = r->e;
    uint64_t looked = 0, copied = 0;
    ASSERT(r->phase == WALKING && (r->mode == RESCUE || r->mode == EVICT));
    while (r->walk_at < e->wbuf_bytes && r->walk_looked < WALK_FACTOR * e->wbuf_bytes) {
        struct ext_entry entry;
        uint64_t before = looked, bytes = 0;
        if (looked >= WALK_STEP_BYTES || copied >= STEP_BYTES)
            return true;
        bool found = find_record(r, &entry, &looked);
        if (found && one_record(r, &entry, &bytes) == WAIT)
            return false;
        r->walk_looked += looked - before;
        r->walk_at += found ? entry.record_bytes : EXT_GRANULE_BYTES;
        copied += bytes;
    }
    if (atomic_load(&e->pages[r->page].objects) > 0)
        start_sweep(r, false);
    else
        end_slot(r);
    return true;
}

static bool sweep(struct ext_reclaim *r)
{
    ASSERT(r->phase == SWEEPING);
    lock_assert_none_held();
    struct extstore *e = r->e;
    const struct ext_callbacks *cb = &e->opt.callbacks;
    enum ext_drop_why why = r->mode != EVICT ? EXT_DROP_LOST
                            : r->for_index   ? EXT_DROP_INDEX_FULL
                                             : EXT_DROP_EVICTED;
    ext_place first = r->sweep_page ? r->page * e->page_granules : ext_slot_place(e, job_slot(r));
    struct ext_sweep what = {.first = first, .end = first + (r->sweep_page ? e->page_granules : e->slot_granules)};
    uint32_t before = atomic_load(&e->pages[r->page].objects);
    bool more = cb->sweep(cb->ctx, &what, &r->sweep_cursor, why);
    uint32_t left = atomic_load(&e->pages[r->page].objects);
    uint64_t gone = before > left ? before - left : 0;
    for (uint64_t i = 0; i < gone; i++)
        ext_count_dropped(e, why, 0); /* no table tells how long they were */
    if (why == EXT_DROP_LOST)
        r->lost += gone;
    else
        r->page_evicted += gone;
    if (more)
        return true;
    if (!r->sweep_page) {
        end_slot(r);
        return true;
    }
    if (left > 0) /* another thread drops slowly: don't begin with this page again at once */
        ext_choice_avoid(&r->choice, r->page);
    end_job(r);
    return true;
}

/* All slots are done. Objects that are still there are usually being dropped by another thread. */
static bool finish_page(struct ext_reclaim *r)
{
    ASSERT(r->phase == FINISHING);
    bool empty = atomic_load(&r->e->pages[r->page].objects) == 0;
    if (!empty && (clock_mono_ns() < r->not_before_ns || !checks_have_ended(r, &r->finish_mark)))
        return false;
    if (r->for_index && r->page_evicted > 0)
        atomic_store(&r->e->evict_requests, 0);
    event(r, "type=compact_end id=%" PRIu32, r->page);
    if (empty)
        end_job(r);
    else
        start_sweep(r, true);
    return true;
}

static void fraginfo(struct ext_reclaim *r)
{
    struct extstore *e = r->e;
    uint64_t now = clock_mono_ns();
    if (e->event_fn == NULL || now - r->fraginfo_ns < FRAGINFO_NS ||
        ext_counted(e, EXT_N_page_allocs) == ext_counted(e, EXT_N_page_reclaims))
        return;
    r->fraginfo_ns = now;
    double max_frag = atomic_load_explicit(&e->tun->max_frag, memory_order_relaxed);
    event(r, "type=compact_fraginfo ratio=%.2f bytes=%" PRIu64, max_frag,
          bounded_u64((double)e->page_bytes * max_frag, UINT64_MAX));
}

static bool step_of_phase(struct ext_reclaim *r)
{
    switch (r->phase) {
    case IDLE:
        if (choose(r))
            return !atomic_load(&r->reading);
        fraginfo(r);
        return false;
    case READING:
        return after_read(r);
    case RECORDS:
        return some_records(r);
    case WALKING:
        return walk(r);
    case SWEEPING:
        return sweep(r);
    case FINISHING:
        return finish_page(r);
    }
    return false;
}

bool ext_maint_step(struct extstore *e, uint32_t now_unix)
{
    struct ext_reclaim *r = e->reclaim;
    lock_assert_none_held();
    ext_probe_step(e);
    ext_groups_step(e, now_unix);
    bool more = ext_expire_step(e->expire, now_unix, r->phase == IDLE ? EXT_NO_PAGE : r->page);
    more |= step_of_phase(r);
    assert_job(r);
    return more;
}

void ext_flush_all(struct extstore *e, uint32_t time_unix)
{
    atomic_store_explicit(&e->root->flush_unix, time_unix, memory_order_relaxed);
    ext_wake_maint(e);
}

void ext_evict_oldest(struct extstore *e)
{
    atomic_fetch_add(&e->evict_requests, 1);
    ext_wake_maint(e);
}
