/* ext_aid.c: see ext_aid.h. */
#include "t/aid/ext_aid.h"

#include "flash/engine.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { OBJECTS_MAX = 65536 };

void aid_nap(void)
{
    struct timespec ts = {0, 1000000};
    nanosleep(&ts, NULL);
}

/* ---- the device ---- */

static bool every(struct aid_faults *f, _Atomic(uint32_t) *one_in)
{
    uint32_t n = atomic_load(one_in);
    return n != 0 && atomic_fetch_add(&f->turn, 1) % n == n - 1;
}

static bool take_one(_Atomic(uint32_t) *left)
{
    uint32_t n = atomic_load(left);
    while (n > 0) {
        if (atomic_compare_exchange_weak(left, &n, n - 1))
            return true;
    }
    return false;
}

/* The same random numbers in each run. */
static bool by_chance(struct aid_faults *f, _Atomic(uint32_t) *one_in)
{
    uint32_t n = atomic_load(one_in);
    if (n == 0)
        return false;
    uint64_t x = atomic_fetch_add(&f->turn, 1) + UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return (x ^ x >> 31) % n == 0;
}

static ssize_t fault_pread(void *ctx, int fd, void *buf, size_t bytes, off_t offset)
{
    struct aid_faults *f = ctx;
    atomic_fetch_add(&f->reads, 1);
    if (atomic_load(&f->read_stall_fd) == fd) {
        atomic_fetch_add(&f->stalled, 1);
        while (atomic_load(&f->read_stall_fd) == fd)
            aid_nap();
        atomic_fetch_sub(&f->stalled, 1);
    }
    if (atomic_load(&f->read_errno) != 0)
        return -atomic_load(&f->read_errno);
    if (take_one(&f->read_fail) || by_chance(f, &f->read_chance) ||
        (uint64_t)offset < atomic_load(&f->read_bad_end))
        return -EIO;
    if (every(f, &f->eintr_one_in))
        return -EINTR;
    if (bytes > 512 && every(f, &f->short_one_in))
        bytes /= 2;
    bytes -= bytes % 512;
    ssize_t n = pread(fd, buf, bytes, offset);
    if (n > 0 && by_chance(f, &f->flip_chance))
        ((char *)buf)[n / 3] ^= 4;
    return n < 0 ? -errno : n;
}

static ssize_t fault_pwrite(void *ctx, int fd, const void *buf, size_t bytes, off_t offset)
{
    struct aid_faults *f = ctx;
    atomic_fetch_add(&f->writes, 1);
    if (atomic_load(&f->stall_writes) || atomic_load(&f->stall_fd) == fd) {
        atomic_fetch_add(&f->stalled, 1);
        while (atomic_load(&f->stall_writes) || atomic_load(&f->stall_fd) == fd)
            aid_nap();
        atomic_fetch_sub(&f->stalled, 1);
    }
    if (!take_one(&f->write_skip)) {
        int refusal = atomic_load(&f->write_errno);
        if (refusal != 0) {
            atomic_fetch_add(&f->refused, 1);
            return -refusal;
        }
        if (take_one(&f->write_fail))
            return -EIO;
    }
    if (atomic_load(&f->write_errno_fd) == fd && fd != 0)
        return -EIO;
    uint64_t bad = atomic_load(&f->write_bad), first = (uint64_t)offset;
    if (every(f, &f->write_one_in) || (bad != 0 && bad >= first && bad < first + bytes))
        return -EIO;
    if (by_chance(f, &f->write_chance)) {
        if (atomic_load(&f->write_chance_errno) != 0)
            return -atomic_load(&f->write_chance_errno);
        bytes = bytes / 2 - bytes / 2 % 512;
    }
    if (every(f, &f->eintr_one_in))
        return -EINTR;
    if (bytes > 4096 && every(f, &f->short_one_in))
        bytes = bytes / 2 - bytes / 2 % 4096;
    if (take_one(&f->write_lose))
        return (ssize_t)bytes;
    ssize_t n = pwrite(fd, buf, bytes, offset);
    if (n > 0 && take_one(&f->write_flip)) {
        char wrong[512] CACHE_ALIGNED __attribute__((aligned(512)));
        memcpy(wrong, (const char *)buf, sizeof(wrong));
        wrong[100] ^= 4;
        cr_assert_eq(pwrite(fd, wrong, sizeof(wrong), offset), (ssize_t)sizeof(wrong));
    }
    return n < 0 ? -errno : n;
}

/* ---- the model's callbacks ---- */

/* Marks an object while it is not whole; compilers must not move stores across. */
static void changing(struct aid_object *o, bool on)
{
    atomic_signal_fence(memory_order_seq_cst);
    *(volatile bool *)&o->changing = on;
    atomic_signal_fence(memory_order_seq_cst);
}

static void model_cool(void *ctx, uint64_t hash, ext_place place)
{
    struct aid *a = ctx;
    lock_take(&a->lock);
    struct aid_object *o = &a->objects[hash];
    if (o->present && o->place == place)
        o->heat /= 2;
    lock_release(&a->lock);
}

static bool model_is_live(void *ctx, uint64_t hash, ext_place place, unsigned *heat)
{
    struct aid *a = ctx;
    cr_assert_lt(hash, a->object_count);
    lock_take(&a->lock);
    const struct aid_object *o = &a->objects[hash];
    bool live = o->present && o->place == place;
    *heat = o->heat;
    lock_release(&a->lock);
    return live;
}

static bool model_moved(void *ctx, uint64_t hash, ext_place old, ext_place new_place, unsigned len_class)
{
    struct aid *a = ctx;
    lock_take(&a->lock);
    struct aid_object *o = &a->objects[hash];
    bool there = o->present && o->place == old;
    if (there && take_one(&a->faults.goes)) {
        o->present = there = false;
        ext_drop(a->ext, old, o->len_class);
    }
    if (there) {
        changing(o, true);
        o->place = new_place;
        o->heat = 0;
        changing(o, false);
        ext_drop(a->ext, old, o->len_class);
        cr_assert_eq(o->len_class, len_class);
        atomic_fetch_add(&a->moved, 1);
    }
    lock_release(&a->lock);
    return there;
}

static enum ext_dropped model_dropped(void *ctx, uint64_t hash, ext_place place, enum ext_drop_why why,
                                      uint64_t record_bytes)
{
    struct aid *a = ctx;
    lock_take(&a->lock);
    struct aid_object *o = &a->objects[hash];
    bool there = o->present && o->place == place;
    if (there) {
        o->present = false;
        ext_drop(a->ext, place, o->len_class);
        atomic_fetch_add(ext_drop_is_evicted(why) ? &a->evicted : &a->dropped, 1);
    }
    lock_release(&a->lock);
    (void)record_bytes;
    return there ? EXT_DROPPED : EXT_DROPPED_GONE;
}

static bool model_is_fresh(void *ctx, uint32_t exptime_unix, uint32_t time_unix)
{
    struct aid *a = ctx;
    (void)time_unix;
    return exptime_unix == 0 || exptime_unix > atomic_load(&a->now_unix);
}

/* Object n has hash n and key "key-n". */
static uint64_t model_hash_of(void *ctx, const char *key, unsigned key_bytes)
{
    uint64_t id = 0;
    (void)ctx;
    for (unsigned i = 4; i < key_bytes; i++)
        id = id * 10 + (uint64_t)(key[i] - '0');
    return id;
}

static void model_count_checks(void *ctx, uint64_t *asked, uint64_t *ended)
{
    (void)ctx;
    *asked = *ended = 0;
}

static bool model_sweep(void *ctx, const struct ext_sweep *what, uint64_t *cursor, enum ext_drop_why why)
{
    struct aid *a = ctx;
    uint32_t end = (uint32_t)min_u64(a->object_count, *cursor + 1000);
    atomic_fetch_add(&a->sweeps, 1);
    for (uint32_t i = (uint32_t)*cursor; i < end; i++) {
        lock_take(&a->lock);
        struct aid_object *o = &a->objects[i];
        if (o->present && ext_sweep_has(what, o->place)) {
            o->present = false;
            ext_drop(a->ext, o->place, o->len_class);
            atomic_fetch_add(ext_drop_is_evicted(why) ? &a->evicted : &a->dropped, 1);
        }
        lock_release(&a->lock);
    }
    *cursor = end;
    return end < a->object_count;
}

/* ---- setting up ---- */

struct aid *aid_new(uint32_t pages, uint64_t page_bytes, uint64_t wbuf_bytes)
{
    struct aid *a = calloc(1, sizeof(*a));
    cr_assert_not_null(a);
    snprintf(a->dir, sizeof(a->dir), "/tmp/extant-ext-XXXXXX");
    cr_assert_not_null(mkdtemp(a->dir));
    lock_init(&a->lock, LOCK_COLUMN);
    a->object_count = OBJECTS_MAX;
    a->objects = mmap(NULL, OBJECTS_MAX * sizeof(*a->objects), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(a->objects, MAP_FAILED);
    a->now_unix = 1000000;
    a->tun.max_frag = 0.8;
    a->tun.rewrite_pct = 25;
    a->tun.compact_under_pages = 0;
    a->opt = (struct ext_options){
        .page_bytes = page_bytes,
        .wbuf_bytes = wbuf_bytes,
        .wbuf_count = 8,
        .buffer_bytes = 9 * wbuf_bytes + 4 * MiB,
        .io_threads = 1,
        .io_depth = 64,
        .ring_count = 1,
        .callbacks = {.ctx = a,
                      .is_live = model_is_live,
                      .moved = model_moved,
                      .cool = model_cool,
                      .dropped = model_dropped,
                      .count_checks = model_count_checks,
                      .is_fresh = model_is_fresh,
                      .sweep = model_sweep,
                      .hash_of = model_hash_of},
    };
    aid_add_device(a, pages, EXT_BUCKET_DEFAULT);
    return a;
}

void aid_add_device(struct aid *a, uint32_t pages, enum ext_bucket free_bucket)
{
    unsigned n = a->opt.device_count++;
    cr_assert_null(a->paths[n]);
    cr_assert_gt(asprintf(&a->paths[n], "%s/flash%u", a->dir, n), 0);
    a->opt.devices[n] =
        (struct ext_device_options){.path = a->paths[n],
                                    .bytes = pages * a->opt.page_bytes,
                                    .free_bucket = free_bucket};
}

void aid_use_faults(struct aid *a)
{
    a->ops = (struct ext_device_ops){.ctx = &a->faults, .pread = fault_pread, .pwrite = fault_pwrite};
    a->opt.device_ops = &a->ops;
}

static char arena_path[96]; /* one aid a process has one: tests are processes */

void aid_arena_file(struct aid *a)
{
    snprintf(arena_path, sizeof(arena_path), "%s/arena", a->dir);
}

static void open_arena(struct aid *a, bool *attached)
{
    char why[256] = "";
    struct arena_options ao = {.reserve_bytes = 256 * MiB,
                               .file = arena_path[0] != '\0' ? arena_path : NULL,
                               .geometry = "aid",
                               .geometry_bytes = 4};
    a->arena = arena_create(&ao, attached, why, sizeof(why));
    cr_assert_not_null(a->arena, "%s", why);
}

void aid_start(struct aid *a)
{
    char why[256] = "";
    bool attached;
    open_arena(a, &attached);
    cr_assert(!attached);
    a->opt.arena = a->arena;
    a->ext = ext_create(&a->opt, &a->tun, why, sizeof(why));
    if (a->ext == NULL && a->opt.engine == EXT_ENGINE_URING && strstr(why, "does not allow io_uring") != NULL)
        cr_skip_test("no io_uring here");
    cr_assert_not_null(a->ext, "%s", why);
}

void aid_attach(struct aid *a)
{
    char why[256] = "";
    bool attached;
    open_arena(a, &attached);
    cr_assert(attached);
    a->opt.arena = a->arena;
    a->opt.attached = true;
    a->ext = ext_create(&a->opt, &a->tun, why, sizeof(why));
    cr_assert_not_null(a->ext, "%s", why);
    for (uint32_t i = 0; i < a->object_count; i++) {
        struct aid_object *o = &a->objects[i];
        if (o->changing)
            *o = (struct aid_object){.gen = o->gen + 1};
        if (o->present)
            cr_assert(ext_attach_object(a->ext, o->place, o->len_class));
    }
    ext_attach_done(a->ext);
}

void aid_restart(struct aid *a)
{
    ext_destroy(a->ext, false);
    arena_destroy(a->arena);
    aid_attach(a);
}

void aid_free(struct aid *a)
{
    aid_check_counts(a);
    cr_assert_eq(ext_reconcile(a->ext), 0);
    ext_destroy(a->ext, false);
    arena_destroy(a->arena);
    aid_forget(a);
}

void aid_forget(struct aid *a)
{
    for (unsigned i = 0; i < EXT_DEVICES_MAX && a->paths[i] != NULL; i++) { /* a test may have taken some away */
        unlink(a->paths[i]);
        free(a->paths[i]);
    }
    if (arena_path[0] != '\0')
        unlink(arena_path);
    rmdir(a->dir);
    lock_destroy(&a->lock);
    munmap(a->objects, OBJECTS_MAX * sizeof(*a->objects));
    free(a);
}

/* ---- values ---- */

void aid_value(char *buf, uint32_t id, uint32_t gen, uint32_t value_bytes)
{
    uint32_t x = id * 2654435761u ^ gen * 40503u;
    for (uint32_t i = 0; i < value_bytes; i++)
        buf[i] = (char)(x >> (i % 4 * 8)) ^ (char)(i >> 2);
}

unsigned aid_key(char *buf, uint32_t id)
{
    return (unsigned)sprintf(buf, "key-%u", id);
}

int aid_set(struct aid *a, uint32_t id, uint32_t value_bytes, enum ext_bucket bucket)
{
    char key[32];
    char *value = malloc(value_bytes + 1);
    cr_assert_not_null(value);
    lock_take(&a->lock);
    struct aid_object *o = &a->objects[id];
    aid_value(value, id, o->gen + 1, value_bytes);
    struct ext_record_in in = {
        .hash = id,
        .key = key,
        .key_bytes = (uint8_t)aid_key(key, id),
        .value = value,
        .value_bytes = value_bytes,
        .cas = o->gen + 1,
        .client_flags = id ^ 0x5a5a,
        .item_flags = (uint8_t)id,
        .exptime_unix = o->exptime_unix,
        .time_unix = o->time_unix,
    };
    ext_place place = 0;
    unsigned len_class = 0;
    int rc = ext_append(a->ext, bucket, &in, &place, &len_class);
    if (rc == 0) {
        struct aid_object old = *o;
        changing(o, true);
        o->present = true;
        o->gen++;
        o->heat = 0;
        o->place = place;
        o->len_class = (uint8_t)len_class;
        o->value_bytes = value_bytes;
        changing(o, false);
        if (old.present)
            ext_drop(a->ext, old.place, old.len_class);
    }
    lock_release(&a->lock);
    free(value);
    return rc;
}

void aid_set_wait(struct aid *a, uint32_t id, uint32_t value_bytes, enum ext_bucket bucket)
{
    int rc;
    unsigned tries = 0;
    while ((rc = aid_set(a, id, value_bytes, bucket)) != 0) {
        cr_assert(rc == -EAGAIN || rc == -ENOSPC, "append: %d", rc);
        cr_assert_lt(++tries, 20000u, "append is stuck at %d", rc);
        if (!ext_maint_step(a->ext, atomic_load(&a->now_unix)))
            aid_nap();
    }
}

void aid_delete(struct aid *a, uint32_t id)
{
    lock_take(&a->lock);
    struct aid_object *o = &a->objects[id];
    bool there = o->present;
    o->present = false;
    if (there)
        ext_drop(a->ext, o->place, o->len_class);
    lock_release(&a->lock);
}

static void set_done(struct ext_read *r)
{
    *(bool *)r->owner = true;
}

void aid_await(struct ext_ring *ring, struct ext_read *r)
{
    unsigned tries = 0;
    while (r->state != EXT_READ_DONE) {
        ext_ring_submit(ring);
        struct pollfd p = {.fd = ext_ring_fd(ring), .events = POLLIN};
        int n = poll(&p, 1, 1000);
        cr_assert(n >= 0 || errno == EINTR);
        if (n > 0)
            ext_ring_reap(ring);
        cr_assert_lt(++tries, 30u, "a read never ends");
    }
}

static void check_record(struct aid *a, uint32_t id, uint32_t gen, uint32_t bytes,
                         const struct ext_record *rec)
{
    (void)a;
    char *value = malloc(bytes + 1);
    aid_value(value, id, gen, bytes);
    cr_assert_eq(rec->value_bytes, bytes, "object %u: %u bytes, not %u", id, rec->value_bytes,
                 bytes);
    cr_assert_eq(memcmp(rec->value, value, bytes), 0, "object %u generation %u: wrong bytes", id,
                 gen);
    cr_assert_eq(rec->cas, gen);
    cr_assert_eq(rec->client_flags, id ^ 0x5a5a);
    cr_assert_eq(rec->item_flags, (uint8_t)id);
    free(value);
}

int aid_get(struct aid *a, struct ext_ring *ring, uint32_t id)
{
    char key[32];
    unsigned key_bytes = aid_key(key, id);
    int rc = -EBADMSG;
    for (unsigned tries = 0; tries < 5 && rc == -EBADMSG; tries++) {
        bool done = false;
        struct ext_read r = {.done = set_done, .owner = &done};
        lock_take(&a->lock);
        struct aid_object o = a->objects[id];
        if (o.present) {
            if (a->objects[id].heat < 3)
                a->objects[id].heat++;
            ext_pin(a->ext, o.place);
        }
        lock_release(&a->lock);
        if (!o.present)
            return -ENOENT;
        ext_read_start(ring, &r, o.place, o.len_class);
        bool at_once = r.state == EXT_READ_DONE;
        aid_await(ring, &r);
        cr_assert_neq(done, at_once);
        struct ext_record rec;
        rc = ext_read_record(&r, key, key_bytes, &rec);
        if (rc == 0)
            check_record(a, id, o.gen, o.value_bytes, &rec);
        lock_take(&a->lock);
        if (rc == 0)
            a->objects[id].seq = rec.seq;
        lock_release(&a->lock);
        cr_assert_neq(rc, -ENOENT);
        ext_read_finish(&r);
    }
    return rc;
}

void aid_sync(struct aid *a)
{
    AID_WAIT_FOR(ext_sync(a->ext, 10000) == 0); /* -EIO while a failed write waits for its turn */
}

bool aid_step(struct aid *a)
{
    return ext_maint_step(a->ext, atomic_load(&a->now_unix));
}

void aid_maintain(struct aid *a)
{
    unsigned idle = 0;
    for (unsigned steps = 0; idle < 100; steps++) {
        cr_assert_lt(steps, 1000000u, "maintenance never ends");
        if (ext_maint_step(a->ext, atomic_load(&a->now_unix))) {
            idle = 0;
        } else {
            idle++;
            aid_nap();
        }
    }
}

struct ext_info aid_info(struct aid *a)
{
    struct ext_info info;
    ext_info(a->ext, &info);
    return info;
}

void aid_check_counts(struct aid *a)
{
    uint64_t objects = 0, bytes = 0, page_bytes = 0;
    lock_take(&a->lock);
    for (uint32_t i = 0; i < a->object_count; i++) {
        if (a->objects[i].present) {
            objects++;
            bytes += ext_len_bytes(a->objects[i].len_class);
        }
    }
    lock_release(&a->lock);
    struct ext_info info = aid_info(a);
    cr_assert_eq(info.objects_used, objects, "engine has %" PRIu64 " objects, model %" PRIu64,
                 info.objects_used, objects);
    for (uint32_t i = 0; i < a->ext->page_count; i++)
        page_bytes += atomic_load(&a->ext->pages[i].bytes_used);
    cr_assert_eq(page_bytes, bytes);
    cr_assert_leq(info.bytes_used, bytes, "exact bytes are no more than those of the length classes");
    cr_assert_leq(info.bytes_used, info.limit_maxbytes);
    cr_assert_eq(info.pages_free + info.pages_used, info.limit_maxbytes / a->opt.page_bytes);
}
