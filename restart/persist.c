/* restart/persist.c: see restart/persist.h. First the decision, then the start, then the stop. */
#include "restart/persist.h"

#include <sys/stat.h>

#include "cache_run.h"
#include "base/checkpoint.h"
#include "base/clock.h"
#include "flash/mark.h"
#include "flash/record.h"
#include "io_thread.h"
#include "base/log.h"
#include "base/why.h"
#include "upkeep/stamps.h"

#define VERSION_GAP (UINT32_C(1) << 20) /* page versions that a killed process may have used */
#define CAS_GAP (UINT64_C(1) << 32)     /* cas numbers of items that were in RAM only */
#define CLOCK_SLACK_SEC 5               /* clocks are set a little when machines boot */
#define NO_DEVICE UINT32_MAX
#define LOOKS_MAX 100u /* after this many overtaken decisions the start is empty */
#define NO_FILE UINT64_MAX /* as inode */
#define BEGIN_TRIES 5u /* to write the head at a start */
#define BEGIN_PAUSE_NS UINT64_C(100000000)
#define NOTE_MS 1000 /* a flush_all waits this long until it is noted */
#define FLUSH_LEAST_NS (UINT64_C(10) * 1000000000) /* for buffers, if items took all the time */

static void note_flushes(struct io_job *job);

enum plan { PLAN_EMPTY, PLAN_SCAN, PLAN_LOAD };

struct persist {
    /* const after create */
    enum persist_mode mode;
    const char *memory_file;
    struct ext_device_options devices[EXT_DEVICES_MAX];
    uint32_t device_count;
    uint64_t page_bytes, wbuf_bytes;
    char *path; /* NULL: off, and there is nothing to remove */
    enum plan plan;
    uint32_t looks;    /* decisions that were overtaken */
    bool is_overtaken; /* since the decision another process used the cache */
    bool has_head;
    struct checkpoint_head found; /* if has_head */
    struct checkpoint_device files[EXT_DEVICES_MAX]; /* the flash files, as the start finds them */
    uint64_t stamps[EXT_DEVICES_MAX]; /* of the devices' marks, as the start finds them; 0: none */
    struct checkpoint_reader *reader;
    uint64_t start_ns;
    struct persist_report report;
    struct cache_scan_report scan;
    uint64_t gone; /* objects of the checkpoint on flash that is gone */
    char why_not[PERSIST_LINE_BYTES / 2]; /* ... LOAD, or SCAN */
    char line[PERSIST_LINE_BYTES];
    /* the head that says RUNNING, for the flush_all hook */
    struct checkpoint_head running;
    struct cache *cache;
    struct cache_worker *worker; /* of the thread that stops, with its counters; NULL: not created yet */
    struct thread_stats *worker_stats;
    /* flush_alls are noted by a thread of their own, since the disk may stall */
    struct io_pool *notes; /* NULL: they need not be noted */
    struct io_job note;
    struct lock lock;
    pthread_cond_t noted;
    /* under lock */
    uint64_t flushes, flushes_noted;
    bool noting;
};

static bool is_on(const struct persist *p)
{
    return p->mode != PERSIST_OFF;
}

/* ---- what the head is compared with ---- */

uint64_t persist_layout(uint32_t format)
{
    const uint64_t parts[] = {format,            EXT_RECORD_FORMAT, EXT_GRANULE_BYTES,
                              EXT_LEN_CLASSES,   INDEX_SHARD_COUNT, INDEX_BUCKET_WORDS,
                              EXT_BUCKET_COUNT,  EXT_MARK_FORMAT};
    uint64_t hash = UINT64_C(14695981039346656037);
    for (size_t i = 0; i < ARRAY_COUNT(parts); i++)
        hash = (hash ^ parts[i]) * UINT64_C(1099511628211);
    return hash;
}

/* The flash files as they are now. 0 or -errno. */
static int describe_devices(const struct persist *p, struct checkpoint_device files[EXT_DEVICES_MAX])
{
    ASSERT(p->device_count > 0 && p->device_count <= EXT_DEVICES_MAX);
    static_assert(EXT_DEVICES_MAX == CHECKPOINT_DEVICES_MAX, "each file has its place");
    for (uint32_t i = 0; i < p->device_count; i++) {
        struct checkpoint_device *d = &files[i];
        struct stat st;
        *d = (struct checkpoint_device){.bytes = p->devices[i].bytes, .bucket = p->devices[i].free_bucket};
        if (stat(p->devices[i].path, &st) != 0) {
            if (errno != ENOENT)
                return -errno;
            d->ino = NO_FILE; /* it is going to be made */
            continue;
        }
        if (!S_ISREG(st.st_mode))
            continue;
        d->ino = st.st_ino;
        d->mtime_sec = st.st_mtim.tv_sec;
        d->mtime_nsec = (uint32_t)st.st_mtim.tv_nsec;
    }
    return 0;
}

/* Is this the stamp of the head's device? */
static bool is_stamp_of(const struct checkpoint_head *h, uint32_t device, uint64_t stamp)
{
    return stamp != 0 && (stamp == h->stamps[device] || stamp == h->next_stamps[device]);
}

/* The head's device that this file is; NO_DEVICE: none, or a block device, which only its stamp tells. Files of several
 * file systems may have one inode number: then the stamp tells, and where it tells nothing, the place among the others. */
static uint32_t known_device(const struct persist *p, uint32_t device)
{
    ASSERT(p->has_head && device < p->device_count && p->found.device_count <= CHECKPOINT_DEVICES_MAX);
    uint32_t known = NO_DEVICE;
    for (uint32_t i = 0; i < p->found.device_count; i++) {
        if (p->files[device].ino == 0 || p->found.devices[i].ino != p->files[device].ino)
            continue;
        if (is_stamp_of(&p->found, i, p->stamps[device]))
            return i;
        if (known == NO_DEVICE || i == device)
            known = i;
    }
    return known;
}

/* Why this start can't use the head's content, in any state; false: it can. */
static bool is_misfit(struct persist *p, char *why, size_t n)
{
    ASSERT(p->has_head);
    const struct checkpoint_head *h = &p->found;
    if (h->layout != persist_layout(h->format))
        return why_say(why, n, true, "it was made by another build (%.*s)", (int)sizeof(h->version), h->version);
    int rc = describe_devices(p, p->files);
    if (rc != 0)
        return why_say(why, n, true, "the flash files can't be examined (%s)", strerror(-rc));
    if (h->page_bytes != p->page_bytes || h->wbuf_bytes != p->wbuf_bytes)
        return why_say(why, n, true, "it was made with another %s",
                       h->page_bytes != p->page_bytes ? "ext_page_size" : "ext_wbuf_size");
    bool any = false;
    for (uint32_t i = 0; i < p->device_count; i++)
        any |= known_device(p, i) != NO_DEVICE || p->files[i].ino == 0;
    if (!any)
        return why_say(why, n, true, "%s is another file now", p->devices[0].path);
    if (clock_wall_us() / 1000000 + CLOCK_SLACK_SEC < h->wall_sec)
        return why_say(why, n, true, "the machine's clock is before the time when it was made");
    return false;
}

/* Has another process used a device of the head since? Then one that the head has isn't found by its stamp, and one is
 * there whose stamp the head doesn't know. It may have used the others too, or other flash instead of them, and have
 * left no trace there: of what it deleted or overwrote, for instance. NULL, or the path. */
static const char *used_by_another(const struct persist *p)
{
    const struct checkpoint_head *h = &p->found;
    const char *stranger = NULL;
    uint32_t found = 0;
    for (uint32_t i = 0; i < p->device_count; i++) {
        bool is_known = false;
        for (uint32_t k = 0; k < h->device_count; k++)
            is_known |= is_stamp_of(h, k, p->stamps[i]);
        found += is_known;
        if (!is_known && p->stamps[i] != 0)
            stranger = p->devices[i].path;
    }
    return h->format >= CHECKPOINT_FORMAT && found < h->device_count ? stranger : NULL;
}

/* Were the flash files written to since? */
static bool is_outdated(const struct persist *p, char *why, size_t n)
{
    ASSERT(p->has_head && p->found.state == CHECKPOINT_CLEAN);
    for (uint32_t i = 0; i < p->device_count; i++) {
        uint32_t known = known_device(p, i);
        if (known == NO_DEVICE)
            continue;
        const struct checkpoint_device *was = &p->found.devices[known], *is = &p->files[i];
        if (was->mtime_sec != is->mtime_sec || was->mtime_nsec != is->mtime_nsec)
            return why_say(why, n, true, "%s was written to since", p->devices[i].path);
    }
    const char *used = used_by_another(p);
    if (used != NULL)
        why_say(why, n, 0, "%s was written to by another process since", used);
    return used != NULL;
}

/* Is the head's block device there, with its mark and as large as it was? A head of format 1 doesn't know marks. */
static bool has_block_device(const struct persist *p, uint32_t device)
{
    ASSERT(device < p->found.device_count);
    for (uint32_t k = 0; p->found.format >= CHECKPOINT_FORMAT && k < p->device_count; k++) {
        if (p->files[k].ino == 0 && p->files[k].bytes >= p->found.devices[device].bytes &&
            is_stamp_of(&p->found, device, p->stamps[k]))
            return true;
    }
    return p->found.format < CHECKPOINT_FORMAT;
}

/* Is some of the head's flash not there? A scan of the rest would find older values of keys whose latest was there. */
static bool is_less(const struct persist *p)
{
    ASSERT(p->has_head);
    uint64_t blocks_were = 0, blocks = 0;
    for (uint32_t i = 0; i < p->device_count; i++)
        blocks += p->files[i].ino == 0 ? p->files[i].bytes : 0;
    for (uint32_t i = 0; i < p->found.device_count; i++) {
        const struct checkpoint_device *was = &p->found.devices[i];
        bool is_there = was->ino == 0 && has_block_device(p, i);
        for (uint32_t k = 0; was->ino != 0 && k < p->device_count; k++)
            is_there |= known_device(p, k) == i && p->files[k].bytes >= was->bytes;
        if (!is_there)
            return true;
        blocks_were += was->ino == 0 ? was->bytes : 0;
    }
    return blocks < blocks_were;
}

static enum plan without_load(struct persist *p)
{
    if (!p->has_head || p->mode != PERSIST_SCAN)
        return PLAN_EMPTY;
    bool is_used = used_by_another(p) != NULL;
    if (!is_used && !is_less(p))
        return PLAN_SCAN;
    why_add(p->why_not, sizeof(p->why_not), "; ", "no scan, since %s",
            is_used ? "another process used the flash" : "a part of the flash is gone");
    return PLAN_EMPTY;
}

static void decide(struct persist *p)
{
    char *why = p->why_not;
    size_t n = sizeof(p->why_not);
    char fault[CHECKPOINT_WHY_BYTES];
    why[0] = '\0';
    p->plan = PLAN_EMPTY;
    p->is_overtaken = false;
    ASSERT(is_on(p) && p->reader == NULL);
    int rc = checkpoint_read_head(p->path, &p->found, fault);
    p->has_head = rc == 0;
    for (uint32_t i = 0; p->has_head && i < p->device_count; i++)
        p->stamps[i] = ext_device_stamp(p->devices[i].path);
    if (rc == -ENOENT)
        why_say(why, n, 0, "there is none yet, a clean stop writes it");
    else if (rc != 0)
        why_say(why, n, 0, "%.*s", (int)n - 1, fault);
    else if (is_misfit(p, why, n))
        ;
    else if (p->found.state != CHECKPOINT_CLEAN) {
        why_say(why, n, 0, "the last process did not stop in order (killed, or a power cut)");
        p->plan = without_load(p);
    } else
        p->plan = is_outdated(p, why, n) ? without_load(p) : PLAN_LOAD;
}

/* The decision was made before the flash files were locked. A process that was about to stop may have written its
 * checkpoint since, for instance. Runs in ext_create. */
static bool is_current(void *ctx, const uint64_t *stamps)
{
    struct persist *p = ctx;
    struct checkpoint_head now;
    char fault[CHECKPOINT_WHY_BYTES];
    bool has_head = checkpoint_read_head(p->path, &now, fault) == 0;
    bool differs = has_head != p->has_head || (has_head && now.token != p->found.token);
    for (uint32_t i = 0; p->has_head && i < p->device_count; i++)
        differs |= stamps[i] != p->stamps[i];
    p->is_overtaken = differs && p->looks < LOOKS_MAX;
    return !p->is_overtaken;
}

/* ---- start ---- */

struct persist *persist_create(const struct persist_options *opt)
{
    const struct ext_options *flash = opt->flash;
    ASSERT(flash->device_count > 0 && flash->device_count <= EXT_DEVICES_MAX);
    ASSERT(opt->mode <= PERSIST_SCAN);
    struct persist *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return NULL;
    p->mode = opt->mode;
    p->memory_file = opt->memory_file;
    p->device_count = flash->device_count;
    memcpy(p->devices, flash->devices, sizeof(p->devices));
    p->page_bytes = flash->page_bytes;
    p->wbuf_bytes = flash->wbuf_bytes;
    p->start_ns = clock_mono_ns();
    p->report.start = is_on(p) ? "empty" : "off";
    lock_init(&p->lock, LOCK_CONTROL);
    lock_cond_init(&p->noted);
    p->note.run = note_flushes;
    if (asprintf(&p->path, "%s.checkpoint", p->devices[0].path) < 0) {
        p->path = NULL;
        persist_destroy(p);
        return NULL;
    }
    if (is_on(p))
        decide(p);
    return p;
}

bool persist_found_sizes(const struct persist_options *opt, uint64_t *page_bytes, uint64_t *wbuf_bytes)
{
    struct persist *p = opt->mode != PERSIST_OFF ? persist_create(opt) : NULL;
    bool found = p != NULL && p->has_head;
    if (found) {
        *page_bytes = p->page_bytes = p->found.page_bytes;
        *wbuf_bytes = p->wbuf_bytes = p->found.wbuf_bytes;
        decide(p);
        found = p->plan != PLAN_EMPTY;
    }
    persist_destroy(p);
    return found;
}

/* What is noted is on disk when it returns. No flush_all may come any more. */
static void end_notes(struct persist *p)
{
    io_pool_destroy(p->notes);
    p->notes = NULL;
}

void persist_destroy(struct persist *p)
{
    if (p == NULL)
        return;
    end_notes(p);
    (void)checkpoint_close(p->reader);
    pthread_cond_destroy(&p->noted);
    lock_destroy(&p->lock);
    free(p->path);
    free(p);
}

bool persist_give_up(struct persist *p, const char *reason)
{
    ASSERT(reason != NULL);
    (void)checkpoint_close(p->reader);
    p->reader = NULL;
    if (p->plan == PLAN_EMPTY)
        return false;
    why_say(p->why_not, sizeof(p->why_not), 0, "%s", reason);
    p->plan = p->plan == PLAN_LOAD ? without_load(p) : PLAN_EMPTY;
    return true;
}

bool persist_is_overtaken(const struct persist *p) { return p->is_overtaken; }

void persist_look_again(struct persist *p)
{
    if (!p->is_overtaken)
        return;
    (void)checkpoint_close(p->reader);
    p->reader = NULL;
    decide(p);
    if (++p->looks == LOOKS_MAX) { /* what it finds now may be outdated as well, so none of it is taken */
        p->plan = PLAN_EMPTY;
        why_say(p->why_not, sizeof(p->why_not), 0, "other processes went on using the flash while it was read");
    }
}

void persist_set_clock(struct persist *p)
{
    const struct checkpoint_head *h = &p->found;
    if (p->plan != PLAN_EMPTY && clock_setup_epoch(h->unix_epoch_sec, h->rel_sec, h->wall_sec) != 0)
        (void)persist_give_up(p, "the machine's clock is far from the time when it was made");
}

bool persist_index_geometry(const struct persist *p, struct index_geometry *out)
{
    *out = (struct index_geometry){p->found.index_group_bits, p->found.index_tag_bits, p->found.index_place_bits};
    return is_on(p) && p->plan == PLAN_LOAD;
}

/* What of each device a scan may take: of one that the head doesn't know, nothing that is there. */
static void set_since(const struct persist *p, struct ext_options *opt)
{
    ASSERT(p->plan == PLAN_SCAN && p->has_head);
    for (uint32_t i = 0; i < p->device_count; i++) {
        uint32_t known = known_device(p, i);
        for (uint32_t k = 0; p->files[i].ino == 0 && known == NO_DEVICE && k < p->found.device_count; k++) {
            if (p->found.devices[k].ino == 0 && (p->found.format < CHECKPOINT_FORMAT
                                                     ? k == i
                                                     : is_stamp_of(&p->found, k, p->stamps[i])))
                known = k;
        }
        opt->since[i] = known != NO_DEVICE ? p->found.since[known] : opt->version_floor;
    }
}

/* What the devices of a head of format 1 are now; a block device is known by its place and size. */
static void set_saved(const struct persist *p, struct ext_options *opt)
{
    ASSERT(p->plan == PLAN_LOAD && p->has_head);
    opt->saved_count = p->found.device_count;
    for (uint32_t i = 0; i < p->found.device_count; i++) {
        const struct checkpoint_device *was = &p->found.devices[i];
        opt->saved_bytes[i] = was->bytes;
        opt->saved_device[i] = EXT_NO_DEVICE;
        for (uint32_t k = 0; k < p->device_count; k++) {
            if (was->ino == 0 ? k == i && p->files[k].ino == 0 && p->files[k].bytes == was->bytes
                              : known_device(p, k) == i)
                opt->saved_device[i] = k;
        }
    }
}

int persist_fill_options(struct persist *p, struct ext_options *opt)
{
    if (!is_on(p))
        return 0;
    /* Versions only grow from start to start, so that they tell the later of two lives of a page. */
    opt->version_floor =
        p->has_head ? p->found.version_now + VERSION_GAP : (uint32_t)(clock_wall_us() / 1000000);
    opt->is_current = is_current;
    opt->current_ctx = p;
    opt->scan = p->plan == PLAN_SCAN;
    if (opt->scan)
        set_since(p, opt);
    if (opt->scan)
        log_notice("checkpoint %s: scanning flash: %s", p->path, p->why_not);
    if (p->plan != PLAN_LOAD)
        return 0;
    ASSERT(p->has_head && p->found.state == CHECKPOINT_CLEAN && p->reader == NULL);
    int rc = checkpoint_open(p->path, &p->found, &p->reader);
    if (rc != 0) {
        (void)persist_give_up(p, rc == -ESTALE ? "it changed while it was read" : strerror(-rc));
        return -EAGAIN;
    }
    opt->saved = p->reader;
    set_saved(p, opt);
    return 0;
}

/* The counters of the head, raised if a process went on counting after it. */
static void take_numbers(const struct persist *p, struct cache *c, uint64_t cas_gap)
{
    ASSERT(p->has_head);
    struct cache_numbers n = {.hash_seed = p->found.hash_seed,
                              .cas_counter = p->found.cas_counter + cas_gap,
                              .flush_cas = p->found.flush_cas,
                              .flush_unix = p->found.flush_unix,
                              .planned_unix = p->found.planned_unix};
    cache_set_numbers(c, &n);
}

static int load(struct persist *p, struct index *ix, struct cache *c, struct extstore *e)
{
    struct index_geometry g;
    struct index_info info;
    ASSERT(p->reader != NULL);
    index_geometry(ix, &g);
    if (g.group_bits != p->found.index_group_bits || g.tag_bits != p->found.index_tag_bits ||
        g.place_bits != p->found.index_place_bits) {
        (void)persist_give_up(p, "its index makes no sense");
        return -EAGAIN;
    }
    take_numbers(p, c, 0);
    int rc = index_load_rows(ix, p->reader);
    if (rc == 0) {
        rc = checkpoint_close(p->reader);
        p->reader = NULL;
    }
    index_info(ix, &info);
    if (rc == 0 && info.flash_count != p->found.objects)
        rc = -EUCLEAN;
    if (rc == 0)
        rc = cache_count_loaded(c, &p->gone);
    index_info(ix, &info);
    if (rc == 0 && info.flash_count != ext_objects(e))
        rc = -EUCLEAN;
    if (rc != 0) {
        (void)persist_give_up(p, rc == -ENOSPC    ? "its index is larger than -m allows"
                                 : rc == -ENOMEM  ? "there is no memory for it"
                                 : rc == -EUCLEAN ? "its index makes no sense"
                                 : rc == -EBADMSG ? "it is damaged"
                                                  : strerror(-rc));
        return -EAGAIN;
    }
    ext_attach_done(e);
    p->report.objects = info.flash_count;
    p->report.bytes = p->found.body_bytes;
    p->report.start = "checkpoint";
    return 0;
}

static int scan(struct persist *p, struct cache *c, struct extstore *e, char *why, size_t n)
{
    ASSERT(p->plan == PLAN_SCAN && p->reader == NULL);
    take_numbers(p, c, CAS_GAP);
    int rc = cache_scan(c, &p->scan);
    if (rc != 0)
        return why_say(why, n, rc, "scan of flash: %s", strerror(-rc));
    if (p->found.flush_unix <= clock_unix_now_sec())
        ext_flush_all(e, p->found.flush_unix);
    ext_attach_done(e);
    p->report.objects = p->scan.kept;
    p->report.start = "scan";
    return 0;
}

int persist_take_over(struct persist *p, struct index *ix, struct cache *c, struct extstore *e,
                      char *why, size_t why_bytes)
{
    lock_assert_none_held();
    ASSERT(p->plan != PLAN_LOAD || p->reader != NULL);
    int rc = p->plan == PLAN_LOAD   ? load(p, ix, c, e)
             : p->plan == PLAN_SCAN ? scan(p, c, e, why, why_bytes)
                                    : 0;
    p->report.micros = (clock_mono_ns() - p->start_ns) / 1000;
    return rc;
}

static void fill_head(const struct persist *p, struct cache *c, struct extstore *e,
                      struct checkpoint_head *h)
{
    ASSERT(ext_device_count(e) == p->device_count);
    struct cache_numbers n;
    cache_numbers(c, &n);
    h->layout = persist_layout(CHECKPOINT_FORMAT);
    h->device_count = p->device_count;
    h->unix_epoch_sec = clock_unix_epoch_sec();
    h->rel_sec = clock_now_sec();
    h->hash_seed = n.hash_seed;
    h->cas_counter = n.cas_counter;
    h->flush_cas = n.flush_cas;
    h->flush_unix = n.flush_unix;
    h->planned_unix = n.planned_unix;
    h->page_bytes = p->page_bytes;
    h->wbuf_bytes = p->wbuf_bytes;
    h->version_now = ext_version_now(e);
    for (uint32_t i = 0; i < p->device_count; i++) {
        h->since[i] = ext_device_since(e, i);
        h->next_stamps[i] = ext_device_next_stamp_of(e, i);
        h->stamps[i] = ext_device_stamp_of(e, i);
    }
}

/* Replaces the file by a RUNNING head. */
static int put_running(struct persist *p)
{
    struct checkpoint_writer *w;
    ASSERT(p->running.state == CHECKPOINT_RUNNING && p->running.generation > 0);
    int rc = checkpoint_create(p->path, &w);
    return rc != 0 ? rc : checkpoint_commit(w, &p->running);
}

/* At a start a failure would end the process. */
static int put_running_patiently(struct persist *p)
{
    int rc = put_running(p);
    for (unsigned tries = 1; rc != 0 && tries < BEGIN_TRIES; tries++) {
        clock_sleep_ns(BEGIN_PAUSE_NS);
        rc = put_running(p);
    }
    return rc;
}

/* Writes what the flush_alls up to now have changed, for all at once, until there are no more. */
static void note_flushes(struct io_job *job)
{
    lock_assert_none_held(); /* it writes a file */
    struct persist *p = CONTAINER_OF(job, struct persist, note);
    bool more = true;
    while (more) {
        struct cache_numbers n;
        lock_take(&p->lock);
        uint64_t upto = p->flushes;
        lock_release(&p->lock);
        cache_numbers(p->cache, &n);
        p->running.flush_unix = n.flush_unix;
        p->running.flush_cas = n.flush_cas;
        p->running.planned_unix = n.planned_unix;
        int rc = put_running(p);
        if (rc != 0)
            log_error(
                "checkpoint %s: flush_all can't be noted (%s); a scan would bring values back",
                p->path, strerror(-rc));
        lock_take(&p->lock);
        p->flushes_noted = upto;
        more = p->noting = p->flushes > upto;
        pthread_cond_broadcast(&p->noted);
        lock_release(&p->lock);
    }
}

/* Runs in the thread of a flush_all, which others need: it waits until that is noted, but not for a disk that stalls. */
static void flush_all_happened(void *ctx)
{
    lock_assert_none_held();
    struct persist *p = ctx;
    uint64_t end = clock_mono_ms() + NOTE_MS, now;
    lock_take(&p->lock);
    uint64_t mine = ++p->flushes;
    if (!p->noting)
        io_pool_submit(p->notes, &p->note);
    p->noting = true;
    while (p->flushes_noted < mine && (now = clock_mono_ms()) < end)
        lock_wait(&p->lock, &p->noted, (int64_t)(end - now));
    bool is_noted = p->flushes_noted >= mine;
    lock_release(&p->lock);
    if (!is_noted)
        log_warning("checkpoint %s: its disk is slow: a flush_all is not noted yet; until it is, a scan after a kill would "
                    "bring values back",
                    p->path);
}

/* The line for the log. */
static void tell(struct persist *p, bool attached)
{
    const struct persist_report *r = &p->report;
    const struct cache_scan_report *s = &p->scan;
    if (attached) {
        if (p->plan == PLAN_LOAD)
            why_say(p->line, sizeof(p->line), 0, "checkpoint %s: not needed: the memory file was taken over", p->path);
    } else if (p->plan == PLAN_LOAD) {
        why_say(p->line, sizeof(p->line), 0,
            "checkpoint %s: took over %" PRIu64 " objects on flash in %" PRIu64
            " ms (generation %" PRIu64 ")",
            p->path, r->objects, r->micros / 1000, p->found.generation);
        if (p->gone > 0)
            why_add(p->line, sizeof(p->line), "; ", "%" PRIu64 " were on flash that is gone", p->gone);
    } else if (p->plan == PLAN_SCAN)
        why_say(p->line, sizeof(p->line), 0,
            "checkpoint %s: scan took over %" PRIu64 " objects in %" PRIu64 " ms; of %" PRIu64
            " records %" PRIu64 " were older, %" PRIu64 " dead, %" PRIu64
            " of another cache, %" PRIu64 " had no room; %" PRIu64 " could not be read",
            p->path, r->objects, r->micros / 1000, s->records, s->older, s->dead, s->foreign,
            s->no_room, s->unread);
    else
        why_say(p->line, sizeof(p->line), 0, "checkpoint %s: starting empty: %s", p->path, p->why_not);
}

static int not_writable(struct persist *p, int rc, char *why, size_t n)
{
    return why_say(why, n, rc, "ext_persist: %s can't be written (%s)", p->path, strerror(-rc));
}

int persist_begin(struct persist *p, struct cache *c, struct extstore *e, bool attached, char *why,
                  size_t why_bytes)
{
    lock_assert_none_held();
    ASSERT(p->reader == NULL);
    if (!is_on(p)) {
        int rc = checkpoint_remove(p->path);
        if (rc != 0)
            log_warning("checkpoint %s: can't be removed (%s); it is outdated from now on", p->path,
                        strerror(-rc));
        return 0;
    }
    struct stat st;
    if (stat(p->devices[0].path, &st) != 0)
        return not_writable(p, -errno, why, why_bytes);
    if (!S_ISREG(st.st_mode))
        return why_say(why, why_bytes, -EINVAL,
                       "ext_persist: the first ext_path must be a regular file, because the checkpoint is "
                       "kept beside it; %s is none",
                       p->devices[0].path);
    p->running = (struct checkpoint_head){
        .state = CHECKPOINT_RUNNING, .generation = max_u64((p->has_head ? p->found.generation : 0) + 1, 1)};
    fill_head(p, c, e, &p->running);
    bool begins = !attached && p->plan != PLAN_EMPTY;
    if (begins)
        ext_choose_stamps(e, p->running.next_stamps);
    int rc = describe_devices(p, p->running.devices);
    if (rc == 0)
        rc = put_running_patiently(p);
    if (rc != 0)
        return not_writable(p, rc, why, why_bytes);
    if (begins) {
        if ((rc = ext_begin_life(e, why, why_bytes)) != 0)
            return rc;
        fill_head(p, c, e, &p->running);
        if ((rc = put_running_patiently(p)) != 0)
            return not_writable(p, rc, why, why_bytes);
    }
    p->cache = c;
    if (p->mode == PERSIST_SCAN) {
        p->notes = io_pool_create(1, "ext-note");
        if (p->notes == NULL)
            return why_say(why, why_bytes, -errno, "ext_persist: a thread can't be started (%s)", strerror(errno));
        cache_set_flush_hook(c, flush_all_happened, p);
    }
    p->report.generation = p->running.generation;
    if (attached)
        p->report.start = "memory";
    tell(p, attached);
    return 0;
}

const char *persist_line(const struct persist *p) { return p->line; }

void persist_report(const struct persist *p, struct persist_report *out) { *out = p->report; }

/* ---- stop ---- */

void persist_prepare_end(struct persist *p)
{
    if (!is_on(p) || p->worker)
        return;
    if (!p->worker_stats)
        p->worker_stats = calloc(1, sizeof(*p->worker_stats));
    if (p->worker_stats)
        p->worker = cache_worker_create(p->cache, p->worker_stats);
}

void persist_release(struct persist *p)
{
    end_notes(p);
    if (p->worker)
        cache_worker_destroy(p->worker);
    free(p->worker_stats);
    p->worker = NULL;
    p->worker_stats = NULL;
}

/* Moves items to flash. If time or room run out, the remaining ones are dropped, unless -e keeps them.
 * True: the checkpoint may be written. */
static bool move_items(struct persist *p, struct cache *c, uint64_t deadline_ns, uint64_t *dropped)
{
    ASSERT(is_on(p));
    struct cache_moved m;
    persist_prepare_end(p);
    int rc = cache_move_to_flash(c, p->worker, deadline_ns, &m);
    *dropped = 0;
    if (rc == 0)
        return true;
    const char *what = rc == -ETIMEDOUT ? "no time was left"
                       : rc == -ENOSPC  ? "flash has no room"
                                        : strerror(-rc);
    if (p->memory_file != NULL) {
        log_warning("checkpoint %s: not written: %" PRIu64 " items are still in %s (%s)", p->path,
                    m.left, p->memory_file, what);
        return false;
    }
    *dropped = cache_drop_items(c, p->worker);
    log_warning("checkpoint %s: %" PRIu64 " items in memory are dropped (%s)", p->path, *dropped,
                what);
    return true;
}

static int save(struct persist *p, struct index *ix, struct cache *c, struct extstore *e,
                uint64_t objects)
{
    struct checkpoint_head head = {
        .state = CHECKPOINT_CLEAN, .generation = p->running.generation + 1, .objects = objects};
    struct index_geometry g;
    struct checkpoint_writer *w;
    ASSERT(p->running.state == CHECKPOINT_RUNNING);
    index_geometry(ix, &g);
    head.index_group_bits = g.group_bits;
    head.index_tag_bits = g.tag_bits;
    head.index_place_bits = g.place_bits;
    fill_head(p, c, e, &head);
    int rc = describe_devices(p, head.devices);
    if (rc == 0)
        rc = checkpoint_create(p->path, &w);
    if (rc != 0)
        return rc;
    rc = ext_save(e, w);
    if (rc == 0)
        rc = index_save_rows(ix, w);
    head.rel_sec = clock_now_sec(); /* the wall clock's value is added now, too */
    if (rc == 0)
        return checkpoint_commit(w, &head);
    checkpoint_abort(w);
    return rc;
}

bool persist_end(struct persist *p, struct index *ix, struct cache *c, struct extstore *e, uint64_t *objects)
{
    lock_assert_none_held();
    if (!is_on(p))
        return false;
    end_notes(p); /* a note and the checkpoint are the same file */
    struct index_info info;
    uint64_t start_ns = clock_mono_ns(), dropped;
    uint64_t deadline_ns = start_ns + PERSIST_STOP_SEC * UINT64_C(1000000000);
    if (!move_items(p, c, deadline_ns, &dropped))
        return false;
    uint64_t now_ns = clock_mono_ns();
    uint64_t left_ns = max_u64(deadline_ns > now_ns ? deadline_ns - now_ns : 0, FLUSH_LEAST_NS);
    int rc = ext_quiesce(e, (int64_t)(left_ns / 1000000));
    if (rc != 0 && ext_has_unwritten(e) && p->memory_file == NULL) { /* else that file keeps them */
        uint64_t unwritten = cache_drop_unwritten(c);
        rc = ext_quiesce_without(e);
        log_warning("checkpoint %s: %" PRIu64 " objects are dropped, since flash did not take the buffers that they were in",
                    p->path, unwritten);
        dropped += unwritten;
    }
    if (rc != 0) {
        log_error("checkpoint %s: not written: flash does not take what is in its buffers (%s)",
                  p->path, strerror(-rc));
        return false;
    }
    index_info(ix, &info);
    if (info.flash_count != ext_objects(e)) {
        log_error("checkpoint %s: not written: %" PRIu64 " words for %" PRIu64 " objects", p->path,
                  info.flash_count, ext_objects(e));
        return false;
    }
    rc = save(p, ix, c, e, info.flash_count);
    if (rc != 0) {
        log_error("checkpoint %s: not written (%s): the next start is empty", p->path,
                  strerror(-rc));
        return false;
    }
    log_notice("checkpoint %s: %" PRIu64 " objects on flash in %" PRIu64 " ms (generation %" PRIu64
               "); %" PRIu64 " items dropped",
               p->path, info.flash_count, (clock_mono_ns() - start_ns) / 1000000,
               p->running.generation + 1, dropped);
    *objects = info.flash_count;
    return true;
}
