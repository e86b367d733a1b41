/* extstore_test.c: the flash engine on real files: records come back as they were stored, wherever they
 * are; page life and counts; the effect of wrong bytes on a device. Run under TSan too. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "flash/engine.h"
#include "t/aid/ext_aid.h"

TestSuite(extstore, .timeout = 600);

static const uint32_t sizes[] = {0,    1,    15,   16,    17,    39,    40,    100,    500,
                                 1000, 4055, 4096, 10000, 16000, 16384, 40000, 100000, 250000};

static void roundtrip(enum ext_engine engine, bool flushed)
{
    struct aid *a = aid_new(8, MiB, 512 * KiB);
    a->opt.engine = engine;
    aid_start(a);
    struct ext_ring *ring = ext_ring_create(a->ext);
    cr_assert_not_null(ring);
    for (uint32_t i = 0; i < ARRAY_COUNT(sizes); i++)
        aid_set_wait(a, i, sizes[i], EXT_BUCKET_DEFAULT);
    if (flushed) {
        aid_sync(a);
        /* other objects take the buffers, so that reads have to go to the device */
        for (uint32_t i = 0; i < 40; i++)
            aid_set_wait(a, 1000 + i, 100000, EXT_BUCKET_DEFAULT);
        aid_sync(a);
    }
    for (uint32_t i = 0; i < ARRAY_COUNT(sizes); i++)
        cr_assert_eq(aid_get(a, ring, i), 0, "size %u", sizes[i]);
    if (flushed)
        cr_assert_gt(aid_info(a).device_reads, 0);
    else
        cr_assert_eq(aid_info(a).buffer_hits, ARRAY_COUNT(sizes));
    ext_ring_destroy(ring);
    aid_free(a);
}

Test(extstore, unflushed_records_are_read_from_the_wbuf)
{
    roundtrip(EXT_ENGINE_AUTO, false);
}

Test(extstore, every_size_comes_back_through_io_uring)
{
    roundtrip(EXT_ENGINE_URING, true);
}

Test(extstore, every_size_comes_back_through_threads)
{
    roundtrip(EXT_ENGINE_THREADS, true);
}

/* Of a wbuf that is written half empty the middle is left out: all records are before it. */
Test(extstore, records_of_a_half_empty_wbuf_are_written_whole)
{
    struct aid *a = aid_new(16, 2 * MiB, MiB);
    aid_start(a);
    struct ext_ring *ring = ext_ring_create(a->ext);
    for (uint32_t i = 0; i < 6; i++) {
        aid_set_wait(a, i, 1000 + i * 5000, EXT_BUCKET_DEFAULT);
        aid_sync(a);
    }
    for (uint32_t i = 0; i < 150; i++) /* takes the buffers, so that reads have to go to the device */
        aid_set_wait(a, 1000 + i, 100000, EXT_BUCKET_DEFAULT);
    aid_sync(a);
    for (uint32_t i = 0; i < 6; i++)
        cr_assert_eq(aid_get(a, ring, i), 0, "object %u", i);
    cr_assert_geq(aid_info(a).device_reads, 6);
    ext_ring_destroy(ring);
    aid_free(a);
}

Test(extstore, length_classes_cover_every_length_in_small_steps)
{
    for (unsigned c = 0; c < EXT_LEN_CLASSES; c++) {
        cr_assert_eq(ext_len_class(ext_len_bytes(c)), c);
        if (c > 0) {
            cr_assert_gt(ext_len_bytes(c), ext_len_bytes(c - 1));
            cr_assert_leq(ext_len_bytes(c), 2 * ext_len_bytes(c - 1));
            cr_assert_eq(ext_len_class(ext_len_bytes(c - 1) + 1), c);
        }
    }
    cr_assert_eq(ext_len_class(1), 0);
    cr_assert_eq(ext_len_bytes(EXT_LEN_CLASSES - 1), 64 * MiB);
}

Test(extstore, the_largest_record_fills_a_wbuf_and_no_larger_one_is_taken)
{
    struct aid *a = aid_new(8, MiB, 128 * KiB);
    aid_start(a);
    struct ext_ring *ring = ext_ring_create(a->ext);
    uint32_t max = (uint32_t)ext_record_max_bytes(a->ext) - 40 - 5; /* "key-1" */
    cr_assert_eq(aid_set(a, 1, max, EXT_BUCKET_DEFAULT), 0);
    cr_assert_eq(aid_set(a, 2, max + 1, EXT_BUCKET_DEFAULT), -E2BIG);
    cr_assert_eq(aid_get(a, ring, 1), 0);
    aid_sync(a);
    for (uint32_t i = 0; i < 30; i++)
        aid_set_wait(a, 1000 + i, 100000, EXT_BUCKET_DEFAULT);
    cr_assert_eq(aid_get(a, ring, 1), 0);
    ext_ring_destroy(ring);
    aid_free(a);
}

/* A read rounds the length up, but not beyond the slot, where the file may end. */
Test(extstore, the_last_record_of_a_slot_is_read_though_the_file_ends_behind_it)
{
    struct aid *a = aid_new(8, MiB, 128 * KiB);
    aid_start(a);
    struct ext_ring *ring = ext_ring_create(a->ext);
    uint32_t max = (uint32_t)ext_record_max_bytes(a->ext) - 40 - 5;
    for (uint32_t i = 0; i < 16; i++) /* two fill a slot, all fill the first page */
        aid_set_wait(a, i, i % 2 == 0 ? 50000 : max - 50200, EXT_BUCKET_DEFAULT);
    aid_sync(a);
    for (uint32_t i = 0; i < 30; i++)
        aid_set_wait(a, 1000 + i, 100000, EXT_BUCKET_DEFAULT);
    aid_sync(a);
    cr_assert_eq(truncate(a->paths[0], MiB), 0);
    for (uint32_t i = 0; i < 16; i++)
        cr_assert_eq(aid_get(a, ring, i), 0, "object %u", i);
    cr_assert_geq(aid_info(a).device_reads, 16);
    ext_ring_destroy(ring);
    aid_free(a);
}

/* ---- wrong bytes ---- */

/* Puts object 0 and enough others on flash that it has to be read from the device. */
static void one_on_flash(struct aid *a, uint32_t value_bytes)
{
    aid_set_wait(a, 0, value_bytes, EXT_BUCKET_DEFAULT);
    aid_sync(a);
    for (uint32_t i = 0; i < 40; i++)
        aid_set_wait(a, 1000 + i, 60000, EXT_BUCKET_DEFAULT);
    aid_sync(a);
}

static uint64_t file_offset(struct aid *a, uint32_t id)
{
    return a->objects[id].place * EXT_GRANULE_BYTES; /* one device: pages in their order */
}

static void patch(struct aid *a, uint64_t offset, const void *bytes, size_t count)
{
    int fd = open(a->paths[0], O_WRONLY);
    cr_assert_eq(pwrite(fd, bytes, count, (off_t)offset), (ssize_t)count);
    close(fd);
}

static void peek(struct aid *a, uint64_t offset, void *bytes, size_t count)
{
    int fd = open(a->paths[0], O_RDONLY);
    cr_assert_eq(pread(fd, bytes, count, (off_t)offset), (ssize_t)count);
    close(fd);
}

Test(extstore, each_flipped_byte_of_header_key_and_value_is_noticed)
{
    struct aid *a = aid_new(8, MiB, 128 * KiB);
    aid_start(a);
    struct ext_ring *ring = ext_ring_create(a->ext);
    one_on_flash(a, 20);
    uint64_t at = file_offset(a, 0);
    unsigned char record[40 + 5 + 20];
    peek(a, at, record, sizeof(record));
    for (unsigned i = 0; i < sizeof(record); i++) {
        for (unsigned bit = 0; bit < 8; bit += 7) {
            unsigned char bad = record[i] ^ (unsigned char)(1u << bit);
            patch(a, at + i, &bad, 1);
            cr_assert_eq(aid_get(a, ring, 0), -EBADMSG, "byte %u", i);
        }
        patch(a, at + i, &record[i], 1);
    }
    cr_assert_eq(aid_get(a, ring, 0), 0);
    cr_assert_eq(aid_info(a).bad_checksums, sizeof(record) * 2 * 5); /* each tried five times */
    ext_ring_destroy(ring);
    aid_free(a);
}

Test(extstore, bytes_of_another_page_do_not_verify)
{
    struct aid *a = aid_new(8, MiB, 128 * KiB);
    aid_start(a);
    struct ext_ring *ring = ext_ring_create(a->ext);
    one_on_flash(a, 20);
    char *page = malloc(MiB);
    peek(a, MiB, page, MiB); /* page 1 is put where page 0 should be */
    patch(a, 0, page, MiB);
    cr_assert_eq(aid_get(a, ring, 0), -EBADMSG);
    free(page);
    ext_ring_destroy(ring);
    aid_free(a);
}

Test(extstore, bytes_of_an_earlier_life_of_the_page_do_not_verify)
{
    struct aid *a = aid_new(12, MiB, 128 * KiB);
    aid_start(a);
    struct ext_ring *ring = ext_ring_create(a->ext);
    one_on_flash(a, 20);
    char *page = malloc(MiB);
    peek(a, 0, page, MiB);
    uint64_t place = a->objects[0].place;
    a->objects[0].gen = 0; /* the same bytes again, in the page's second life */
    aid_delete(a, 0);
    for (uint32_t i = 0; i < 40; i++)
        aid_delete(a, 1000 + i);
    struct ext_page_info p;
    ext_page_info(a->ext, 0, &p);
    cr_assert_eq(p.state, EXT_PAGE_FREE);
    for (uint32_t i = 0; i < 40; i++) { /* until page 0 is opened again */
        aid_set_wait(a, 2000 + i, 60000, EXT_BUCKET_DEFAULT);
        ext_page_info(a->ext, 0, &p);
        if (p.state == EXT_PAGE_OPEN)
            break;
        aid_delete(a, 2000 + i);
    }
    ext_page_info(a->ext, 0, &p);
    cr_assert_eq(p.state, EXT_PAGE_OPEN);
    uint32_t first = 0;
    for (uint32_t i = 2000; i < 2040; i++)
        if (a->objects[i].present && a->objects[i].place == place)
            first = i;
    cr_assert_neq(first, 0);
    aid_sync(a);
    for (uint32_t i = 0; i < 20; i++) { /* the buffers are needed for others */
        aid_set_wait(a, 3000 + i, 60000, EXT_BUCKET_DEFAULT);
        aid_sync(a);
    }
    cr_assert_eq(aid_get(a, ring, first), 0);
    patch(a, 0, page, MiB); /* the second life's write was lost */
    cr_assert_eq(aid_get(a, ring, first), -EBADMSG);
    free(page);
    ext_ring_destroy(ring);
    aid_free(a);
}

Test(extstore, another_keys_record_is_told_from_wrong_bytes)
{
    struct aid *a = aid_new(8, MiB, 128 * KiB);
    aid_start(a);
    struct ext_ring *ring = ext_ring_create(a->ext);
    aid_set_wait(a, 7, 100, EXT_BUCKET_DEFAULT);
    struct ext_read r = {0};
    struct ext_record rec;
    ext_pin(a->ext, a->objects[7].place);
    ext_read_start(ring, &r, a->objects[7].place, a->objects[7].len_class);
    cr_assert_eq(r.state, EXT_READ_DONE);
    cr_assert(r.from_buffer);
    cr_assert_eq(ext_read_record(&r, "key-8", 5, &rec), -ENOENT);
    cr_assert_eq(ext_read_record(&r, "key-", 4, &rec), -ENOENT);
    cr_assert_eq(ext_read_record(&r, NULL, 0, &rec), 0);
    cr_assert_eq(ext_read_record(&r, "key-7", 5, &rec), 0);
    cr_assert_eq(rec.seq, 1);
    ext_read_finish(&r);
    ext_ring_destroy(ring);
    aid_free(a);
}

/* ---- reads in number ---- */

struct crowd {
    struct ext_read r;
    uint32_t id;
    bool done, away;
};

static void crowd_done(struct ext_read *r)
{
    ((struct crowd *)r->owner)->done = true;
}

static void crowd_of_reads(enum ext_engine engine)
{
    enum { COUNT = 300 };
    struct aid *a = aid_new(32, MiB, 256 * KiB);
    a->opt.engine = engine;
    a->opt.wbuf_count = 4;
    a->opt.buffer_bytes = 5 * 256 * KiB + 200 * KiB; /* four slots, two large reads */
    aid_start(a);
    struct ext_ring *ring = ext_ring_create(a->ext);
    for (uint32_t i = 0; i < COUNT; i++)
        aid_set_wait(a, i, i % 3 == 0 ? 50000 : 1000, EXT_BUCKET_DEFAULT);
    aid_sync(a);
    struct crowd *crowd = calloc(COUNT, sizeof(*crowd));
    unsigned waiting = 0, finished = 0;
    for (uint32_t i = 0; i < COUNT; i++) {
        crowd[i] = (struct crowd){.r = {.done = crowd_done, .owner = &crowd[i]}, .id = i};
        ext_pin(a->ext, a->objects[i].place);
        ext_read_start(ring, &crowd[i].r, a->objects[i].place, a->objects[i].len_class);
        waiting += crowd[i].r.state == EXT_READ_QUEUED;
    }
    cr_assert_gt(waiting, COUNT / 2);
    cr_assert_eq(ext_ring_pending(ring), waiting);
    while (finished < COUNT) {
        for (uint32_t i = 0; i < COUNT; i++) {
            if (crowd[i].r.state != EXT_READ_DONE)
                continue;
            struct ext_record rec;
            char key[16];
            unsigned key_bytes = aid_key(key, i);
            cr_assert_eq(ext_read_record(&crowd[i].r, key, key_bytes, &rec), 0);
            cr_assert_eq(rec.value_bytes, i % 3 == 0 ? 50000u : 1000u);
            if (i % 2 == 0 && !crowd[i].away) { /* the pin stays, and brings the same bytes again */
                crowd[i].away = true;
                ext_read_put_away(&crowd[i].r);
                ext_read_start(ring, &crowd[i].r, a->objects[i].place, a->objects[i].len_class);
                continue;
            }
            ext_read_finish(&crowd[i].r);
            finished++;
        }
        ext_ring_submit(ring);
        cr_assert_leq(aid_info(a).read_copies_bytes, 300 * KiB);
        if (ext_ring_pending(ring) > 0) {
            struct pollfd p = {.fd = ext_ring_fd(ring), .events = POLLIN};
            int n = poll(&p, 1, 120000);
            cr_assert(n == 1 || (n < 0 && errno == EINTR), "nothing comes");
            ext_ring_reap(ring);
        }
    }
    cr_assert_eq(aid_info(a).read_copies_bytes, 0u);
    free(crowd);
    ext_ring_destroy(ring);
    aid_free(a);
}

/* Two reads of a large value at once share one I/O; either may end first. */
Test(extstore, a_copy_stays_until_its_last_reader_is_through)
{
    struct aid *a = aid_new(32, MiB, 256 * KiB);
    aid_start(a);
    struct ext_ring *ring = ext_ring_create(a->ext);
    for (uint32_t i = 0; i < 60; i++)
        aid_set_wait(a, i, 50000, EXT_BUCKET_DEFAULT);
    aid_sync(a);
    struct crowd crowd[2] = {0};
    const struct aid_object *o = &a->objects[0];
    for (unsigned i = 0; i < 2; i++) {
        crowd[i] = (struct crowd){.r = {.done = crowd_done, .owner = &crowd[i]}, .id = 0};
        ext_pin(a->ext, o->place);
        ext_read_start(ring, &crowd[i].r, o->place, o->len_class);
    }
    uint64_t shared = aid_info(a).read_copies_bytes;
    cr_assert(shared >= 50000 && shared < 100000);
    for (unsigned i = 0; i < 2; i++) {
        struct ext_record rec;
        aid_await(ring, &crowd[i].r);
        cr_assert_eq(ext_read_record(&crowd[i].r, "key-0", 5, &rec), 0);
        cr_assert_eq(rec.value_bytes, 50000u);
        cr_assert_eq(aid_info(a).read_copies_bytes, shared);
        ext_read_finish(&crowd[i].r);
    }
    cr_assert_eq(aid_info(a).read_copies_bytes, 0u);
    ext_ring_destroy(ring);
    aid_free(a);
}

static struct aid *few_buffers(void)
{
    struct aid *a = aid_new(32, MiB, 256 * KiB);
    a->opt.wbuf_count = 4;
    a->opt.buffer_bytes = 5 * 256 * KiB + 200 * KiB; /* four slots, two large reads */
    aid_start(a);
    for (uint32_t i = 0; i < 100; i++)
        aid_set_wait(a, i, 50000, EXT_BUCKET_DEFAULT);
    aid_sync(a);
    return a;
}

static void start_one(struct aid *a, struct ext_ring *ring, struct crowd *c, uint32_t id, bool holds_others)
{
    *c = (struct crowd){.r = {.done = crowd_done, .owner = c, .holds_others = holds_others}, .id = id};
    ext_pin(a->ext, a->objects[id].place);
    ext_read_start(ring, &c->r, a->objects[id].place, a->objects[id].len_class);
}

/* Gives the buffers of those that are done back. */
static unsigned finish_done(struct crowd *crowd, unsigned count)
{
    unsigned finished = 0;
    for (unsigned i = 0; i < count; i++) {
        if (crowd[i].r.state != EXT_READ_DONE)
            continue;
        struct ext_record rec;
        char key[16];
        unsigned key_bytes = aid_key(key, crowd[i].id);
        cr_assert_eq(ext_read_record(&crowd[i].r, key, key_bytes, &rec), 0);
        ext_read_finish(&crowd[i].r);
        finished++;
    }
    return finished;
}

static void wait_for_reads(struct ext_ring *ring)
{
    ext_ring_submit(ring);
    struct pollfd p = {.fd = ext_ring_fd(ring), .events = POLLIN};
    int n = poll(&p, 1, 120000);
    cr_assert(n == 1 || (n < 0 && errno == EINTR), "nothing comes");
    ext_ring_reap(ring);
}

/* One that was put last finds, when its turn comes, that another read of its place is under way: one that came later. */
Test(extstore, a_read_that_was_put_last_joins_one_that_overtook_it)
{
    static const uint32_t ids[] = {0, 1, 2, 4, 5, 4};
    enum { COUNT = ARRAY_COUNT(ids) };
    struct aid *a = few_buffers();
    struct ext_ring *ring = ext_ring_create(a->ext);
    struct crowd crowd[COUNT];
    for (unsigned i = 0; i < COUNT; i++) {
        start_one(a, ring, &crowd[i], ids[i], false);
        cr_assert_eq(crowd[i].r.state, EXT_READ_QUEUED);
        if (i == 3 || i == 4)
            ext_read_put_last(&crowd[i].r);
    }
    uint64_t shared = aid_info(a).reads_shared;
    for (unsigned finished = 0; finished < COUNT; finished += finish_done(crowd, COUNT))
        wait_for_reads(ring);
    cr_assert_eq(ext_ring_pending(ring), 0);
    cr_assert_eq(aid_info(a).reads_shared, shared + 1);
    cr_assert_eq(aid_info(a).read_copies_bytes, 0u);
    ext_ring_destroy(ring);
    aid_free(a);
}

/* Others never leave it a moment, as on a device that has more to do than it can. */
Test(extstore, a_read_that_was_put_last_has_its_turn_though_others_never_end)
{
    enum { COUNT = 8, LAST = COUNT - 1 };
    struct aid *a = few_buffers();
    struct ext_ring *ring = ext_ring_create(a->ext);
    struct crowd crowd[COUNT];
    for (unsigned i = 0; i < COUNT; i++)
        start_one(a, ring, &crowd[i], i, false);
    ext_read_put_last(&crowd[LAST].r);
    unsigned others = 0;
    while (crowd[LAST].r.state != EXT_READ_DONE) {
        wait_for_reads(ring);
        for (unsigned i = 0; i < LAST; i++) {
            others += finish_done(&crowd[i], 1);
            if (crowd[i].r.state == EXT_READ_IDLE)
                start_one(a, ring, &crowd[i], 10 + others % 50, false);
        }
        cr_assert_lt(others, 500u, "it never comes");
    }
    cr_assert_gt(others, 50u);
    for (unsigned finished = finish_done(crowd, COUNT); finished < COUNT; finished += finish_done(crowd, COUNT))
        wait_for_reads(ring);
    ext_ring_destroy(ring);
    aid_free(a);
}

static struct aid *ring_aid;
static unsigned others_done;

static void start_another(struct ext_read *r)
{
    struct crowd *c = r->owner;
    struct ext_ring *ring = r->ring;
    struct aid *a = ring_aid;
    ext_read_finish(r);
    others_done++;
    start_one(a, ring, c, c->id, false);
    c->r.done = start_another;
}

/* Others take each buffer in the moment in which it is given back, so none of them ever waits before it. */
Test(extstore, a_read_that_was_put_last_has_its_turn_though_others_never_wait)
{
    enum { COUNT = 7, LAST = COUNT - 1 };
    struct aid *a = ring_aid = few_buffers();
    for (uint32_t i = 100; i < 110; i++)
        aid_set_wait(a, i, 1000, EXT_BUCKET_DEFAULT);
    for (uint32_t i = 110; i < 150; i++)
        aid_set_wait(a, i, 50000, EXT_BUCKET_DEFAULT);
    aid_sync(a);
    struct ext_ring *ring = ext_ring_create(a->ext);
    struct crowd crowd[COUNT];
    others_done = 0;
    for (unsigned i = 0; i < COUNT; i++) {
        start_one(a, ring, &crowd[i], 100 + i, false);
        crowd[i].r.done = i < LAST ? start_another : crowd_done;
        cr_assert_eq(crowd[i].r.state, EXT_READ_QUEUED);
    }
    cr_assert_eq(aid_info(a).reads_waiting, 1u);
    ext_read_put_last(&crowd[LAST].r);
    while (crowd[LAST].r.state != EXT_READ_DONE) {
        wait_for_reads(ring);
        cr_assert_lt(others_done, 500u, "it never comes");
    }
    cr_assert_gt(others_done, 50u);
    for (unsigned i = 0; i < COUNT; i++)
        crowd[i].r.done = crowd_done;
    for (unsigned finished = finish_done(crowd, COUNT); finished < COUNT; finished += finish_done(crowd, COUNT))
        wait_for_reads(ring);
    ext_ring_destroy(ring);
    aid_free(a);
}

/* As many small reads as there are places in flight never end: some of the places are left to large ones, and the other
 * way round. */
static void crowd_and_one(bool crowd_is_large)
{
    enum { COUNT = 300 };
    struct aid *a = aid_new(64, MiB, 256 * KiB);
    a->opt.wbuf_count = 4;
    a->opt.buffer_bytes = 5 * 256 * KiB + 16 * MiB; /* 256 slots, more than the places in flight */
    aid_start(a);
    for (uint32_t i = 0; i <= COUNT; i++)
        aid_set_wait(a, i, (i < COUNT) == crowd_is_large ? 20000 : 1000, EXT_BUCKET_DEFAULT);
    for (uint32_t i = COUNT + 1; i < COUNT + 100; i++)
        aid_set_wait(a, i, 50000, EXT_BUCKET_DEFAULT);
    aid_sync(a);
    struct ext_ring *ring = ext_ring_create(a->ext);
    struct crowd *crowd = calloc(COUNT + 1, sizeof(*crowd));
    for (uint32_t i = 0; i <= COUNT; i++) {
        start_one(a, ring, &crowd[i], i, false);
        cr_assert_eq(crowd[i].r.state, EXT_READ_QUEUED);
    }
    unsigned others = 0;
    while (crowd[COUNT].r.state != EXT_READ_DONE) {
        wait_for_reads(ring);
        for (unsigned i = 0; i < COUNT; i++) {
            others += finish_done(&crowd[i], 1);
            if (crowd[i].r.state == EXT_READ_IDLE)
                start_one(a, ring, &crowd[i], i, false);
        }
        cr_assert_lt(others, 20 * COUNT, "it never comes");
    }
    for (unsigned finished = finish_done(crowd, COUNT + 1); finished <= COUNT; finished += finish_done(crowd, COUNT + 1))
        wait_for_reads(ring);
    free(crowd);
    ext_ring_destroy(ring);
    aid_free(a);
}

Test(extstore, a_large_read_has_its_turn_though_small_ones_never_end) { crowd_and_one(false); }
Test(extstore, a_small_read_has_its_turn_though_large_ones_never_end) { crowd_and_one(true); }

/* When its turn has come, it still waits behind reads of ops that hold others: those may hold what it needs. */
Test(extstore, a_read_that_was_put_last_does_not_stop_ops_that_hold_others)
{
    enum { COUNT = 90, LAST = 4 };
    struct aid *a = few_buffers();
    struct ext_ring *ring = ext_ring_create(a->ext);
    struct crowd crowd[COUNT];
    for (unsigned i = 0; i < COUNT; i++) {
        start_one(a, ring, &crowd[i], i, i != LAST);
        if (i == LAST)
            ext_read_put_last(&crowd[i].r);
    }
    for (unsigned i = 0; i < COUNT; i++) {
        if (i != LAST)
            aid_await(ring, &crowd[i].r);
    }
    cr_assert_geq(finish_done(crowd, COUNT), COUNT - 1u);
    while (crowd[LAST].r.state == EXT_READ_QUEUED)
        wait_for_reads(ring);
    (void)finish_done(&crowd[LAST], 1);
    ext_ring_destroy(ring);
    aid_free(a);
}

/* One of two devices takes a read and doesn't answer. All buffers are held by ops that wait for a second record, of the
 * other device. */
Test(extstore, reads_of_ops_that_hold_all_buffers_come_though_another_device_stalls)
{
    enum { COUNT = 60 };
    struct aid *a = aid_new(32, MiB, 256 * KiB);
    aid_add_device(a, 32, EXT_BUCKET_DEFAULT);
    a->opt.engine = EXT_ENGINE_THREADS;
    a->opt.wbuf_count = 6;
    a->opt.buffer_bytes = 7 * 256 * KiB + 200 * KiB; /* four slots, two large reads */
    aid_use_faults(a);
    aid_start(a);
    for (uint32_t i = 0; i < 120 * COUNT; i++)
        aid_set_wait(a, i, 1000, EXT_BUCKET_DEFAULT);
    aid_sync(a);
    struct ext_ring *ring = ext_ring_create(a->ext);
    struct crowd stalled, crowd[COUNT];
    uint32_t slow = 0;
    while (ext_page_device(a->ext, ext_place_page(a->ext, a->objects[slow].place)) != &a->ext->devices[0])
        slow++;
    atomic_store(&a->faults.read_stall_fd, a->ext->devices[0].fd);
    start_one(a, ring, &stalled, slow, false);
    ext_ring_submit(ring);
    AID_WAIT_FOR(atomic_load(&a->faults.stalled) == 1);
    unsigned count = 0;
    for (uint32_t i = 0; count < COUNT; i++) {
        cr_assert_lt(i, 120u * COUNT, "too few of the second device");
        if (ext_page_device(a->ext, ext_place_page(a->ext, a->objects[i].place)) != &a->ext->devices[1])
            continue;
        start_one(a, ring, &crowd[count++], i, true);
    }
    for (unsigned i = 0; i < COUNT; i++) {
        aid_await(ring, &crowd[i].r);
        cr_assert_eq(crowd[i].r.result, 0);
    }
    cr_assert_eq(stalled.r.state, EXT_READ_QUEUED);
    cr_assert_eq(finish_done(crowd, COUNT), COUNT);
    atomic_store(&a->faults.read_stall_fd, 0);
    aid_await(ring, &stalled.r);
    cr_assert_eq(finish_done(&stalled, 1), 1);
    ext_ring_destroy(ring);
    aid_free(a);
}

/* ---- reads of two devices ---- */

enum { PAIR_LARGE = 240, PAIR_SMALL = 4000, PAIR_EACH = 200, PAIR_SLOTS = 12, PAIR_SHARE = PAIR_SLOTS / 2, TWENTY = 20000, NINETY = 90000 };

/* Two devices, with twelve slots and 208 KB for large reads. Objects of 20000, 90000 and then of 1000 bytes, all of which
 * have to be read from one of the devices. */
static struct aid *two_devices(void)
{
    struct aid *a = aid_new(32, MiB, 256 * KiB);
    aid_add_device(a, 32, EXT_BUCKET_DEFAULT);
    a->opt.engine = EXT_ENGINE_THREADS;
    a->opt.wbuf_count = 6;
    a->opt.buffer_bytes = 7 * 256 * KiB + 400 * KiB;
    aid_use_faults(a);
    aid_start(a);
    for (uint32_t i = 0; i < PAIR_LARGE; i++)
        aid_set_wait(a, i, i % 2 == 0 ? TWENTY : NINETY, EXT_BUCKET_DEFAULT);
    for (uint32_t i = 0, on[2] = {0, 0}; on[0] < PAIR_EACH || on[1] < PAIR_EACH; i++) { /* a device may be busy for some pages */
        cr_assert_lt(i, (uint32_t)PAIR_SMALL, "%u and %u", on[0], on[1]);
        aid_set_wait(a, PAIR_LARGE + i, 1000, EXT_BUCKET_DEFAULT);
        on[ext_page_device(a->ext, ext_place_page(a->ext, a->objects[PAIR_LARGE + i].place)) - a->ext->devices]++;
    }
    for (uint32_t i = 0; i < 40; i++) /* takes the write buffers */
        aid_set_wait(a, PAIR_LARGE + PAIR_SMALL + i, 100000, EXT_BUCKET_DEFAULT);
    aid_sync(a);
    return a;
}

/* Starts a read of the next object of this size that is on this device. */
static void start_next(struct aid *a, struct ext_ring *ring, struct crowd *c, unsigned device, uint32_t bytes, uint32_t *next)
{
    while (a->objects[*next].value_bytes != bytes ||
           ext_page_device(a->ext, ext_place_page(a->ext, a->objects[*next].place)) != &a->ext->devices[device])
        cr_assert_lt(++*next, (uint32_t)(PAIR_LARGE + PAIR_SMALL), "too few of device %u", device);
    start_one(a, ring, c, (*next)++, false);
    cr_assert_eq(c->r.state, EXT_READ_QUEUED);
}

static unsigned count_done(const struct crowd *crowd, unsigned count)
{
    unsigned n = 0;
    for (unsigned i = 0; i < count; i++)
        n += crowd[i].r.state == EXT_READ_DONE;
    return n;
}

static bool is_under_way(const struct crowd *c)
{
    return c->r.state == EXT_READ_QUEUED && !c->r.waits;
}

static void stall(struct aid *a, unsigned device)
{
    atomic_store(&a->faults.read_stall_fd, a->ext->devices[device].fd);
}

static void end_stall(struct aid *a)
{
    atomic_store(&a->faults.read_stall_fd, 0);
}

static void finish_all(struct ext_ring *ring, struct crowd *crowd, unsigned count)
{
    unsigned idle = 0;
    for (unsigned i = 0; i < count; i++)
        idle += crowd[i].r.state == EXT_READ_IDLE;
    for (; idle < count; idle += finish_done(crowd, count))
        if (count_done(crowd, count) == 0)
            wait_for_reads(ring);
}

/* A client's values are sent in order. Were the buffers taken by later ones of the second device, those could not be given
 * back before the earlier ones of the first have been read, into the same buffers. */
Test(extstore, a_device_takes_no_buffers_that_older_reads_of_another_wait_for)
{
    enum { COUNT = 60 };
    struct aid *a = two_devices();
    struct ext_ring *ring = ext_ring_create(a->ext);
    struct crowd crowd[2 * COUNT];
    for (unsigned device = 0, i = 0; device < 2; device++)
        for (uint32_t n = 0, next = PAIR_LARGE; n < COUNT; n++, i++)
            start_next(a, ring, &crowd[i], device, 1000, &next);
    for (unsigned sent = 0; sent < 2 * COUNT;) {
        if (crowd[sent].r.state != EXT_READ_DONE) {
            wait_for_reads(ring);
            if (crowd[COUNT - 1].r.waits)
                cr_assert_leq(count_done(crowd + COUNT, COUNT), (unsigned)PAIR_SHARE, "%u are sent", sent);
            continue;
        }
        cr_assert_eq(finish_done(&crowd[sent++], 1), 1);
        ext_ring_submit(ring);
    }
    ext_ring_destroy(ring);
    aid_free(a);
}

/* The first device has taken a small part of its share of memory for large reads. Its next read doesn't fit into the share
 * together with that, but has it when the first is through. */
Test(extstore, large_reads_leave_a_device_the_rest_of_its_share)
{
    enum { COUNT = 12 };
    struct aid *a = two_devices();
    struct ext_ring *ring = ext_ring_create(a->ext);
    struct crowd crowd[COUNT];
    uint32_t next = 0, other_next = 0;
    stall(a, 0);
    start_next(a, ring, &crowd[0], 0, TWENTY, &next);
    start_next(a, ring, &crowd[1], 0, NINETY, &next);
    for (unsigned i = 2; i < COUNT; i++)
        start_next(a, ring, &crowd[i], 1, TWENTY, &other_next);
    ext_ring_submit(ring);
    for (unsigned i = 2; i < COUNT; i++)
        while (is_under_way(&crowd[i]))
            wait_for_reads(ring);
    cr_assert(is_under_way(&crowd[0]) && crowd[1].r.waits);
    cr_assert_gt(count_done(crowd, COUNT), 0u);
    end_stall(a);
    aid_await(ring, &crowd[0].r);
    cr_assert_eq(finish_done(crowd, 1), 1);
    ext_ring_submit(ring);
    cr_assert_not(crowd[1].r.waits, "%u of the other device hold its memory", count_done(crowd + 2, COUNT - 2));
    finish_all(ring, crowd, COUNT);
    ext_ring_destroy(ring);
    aid_free(a);
}

/* A device that has its share under way and doesn't answer delays none of another; and if it fails then, all that waited
 * for it ends. */
Test(extstore, reads_of_a_device_that_stalls_are_passed_over_and_end_when_it_fails)
{
    enum { COUNT = 40 };
    struct aid *a = two_devices();
    struct ext_ring *ring = ext_ring_create(a->ext);
    struct crowd slow[COUNT], quick[COUNT];
    uint32_t next = PAIR_LARGE, other_next = PAIR_LARGE;
    stall(a, 0);
    for (unsigned i = 0; i < COUNT; i++)
        start_next(a, ring, &slow[i], 0, 1000, &next);
    for (unsigned i = 0; i < COUNT; i++)
        start_next(a, ring, &quick[i], 1, 1000, &other_next);
    for (unsigned finished = 0; finished < COUNT; finished += finish_done(quick, COUNT))
        wait_for_reads(ring);
    unsigned under_way = 0;
    for (unsigned i = 0; i < COUNT; i++)
        under_way += is_under_way(&slow[i]);
    cr_assert_eq(under_way, (unsigned)PAIR_SHARE);
    atomic_store(&a->faults.read_errno, EIO);
    end_stall(a);
    for (unsigned i = 0; i < COUNT; i++) {
        aid_await(ring, &slow[i].r);
        cr_assert_eq(slow[i].r.result, -EIO);
        ext_read_finish(&slow[i].r);
    }
    atomic_store(&a->faults.read_errno, 0);
    cr_assert_eq(ext_ring_pending(ring), 0);
    ext_ring_destroy(ring);
    aid_free(a);
}

/* Memory for large reads is held, but for some that is too little for `first`, of one device, and enough for `second`, of
 * the other, which waits behind it. */
struct scarce {
    struct aid *a;
    struct ext_ring *ring;
    struct crowd held[3], first, second;
};

static void scarce_open(struct scarce *s)
{
    uint32_t next[2] = {0, 0};
    struct aid *a = s->a = two_devices();
    struct ext_ring *ring = s->ring = ext_ring_create(a->ext);
    for (unsigned i = 0; i < 3; i++) {
        start_next(a, ring, &s->held[i], 1, i == 0 ? NINETY : TWENTY, &next[1]);
        aid_await(ring, &s->held[i].r);
    }
    start_next(a, ring, &s->first, 0, NINETY, &next[0]);
    start_next(a, ring, &s->second, 1, TWENTY, &next[1]);
    ext_ring_submit(ring);
    cr_assert(s->first.r.waits && s->second.r.waits);
}

static void scarce_close(struct scarce *s)
{
    cr_assert_eq(ext_ring_pending(s->ring), 0);
    cr_assert_eq(aid_info(s->a).read_copies_bytes, 0u);
    ext_ring_destroy(s->ring);
    aid_free(s->a);
}

/* It has come though nothing was given back. */
static void second_comes(struct scarce *s)
{
    while (s->second.r.state != EXT_READ_DONE)
        wait_for_reads(s->ring);
    cr_assert_eq(count_done(s->held, 3), 3u);
    cr_assert_eq(finish_done(&s->second, 1), 1);
}

Test(extstore, a_read_waits_no_longer_for_one_of_another_device_that_is_cancelled)
{
    struct scarce s;
    scarce_open(&s);
    ext_read_cancel(&s.first.r);
    second_comes(&s);
    aid_await(s.ring, &s.first.r);
    cr_assert_eq(s.first.r.result, -ECANCELED);
    ext_read_finish(&s.first.r);
    finish_all(s.ring, s.held, 3);
    scarce_close(&s);
}

Test(extstore, a_read_waits_no_longer_for_one_of_another_device_that_is_put_last)
{
    struct scarce s;
    scarce_open(&s);
    ext_read_put_last(&s.first.r);
    second_comes(&s);
    cr_assert(s.first.r.waits);
    finish_all(s.ring, s.held, 3);
    finish_all(s.ring, &s.first, 1);
    scarce_close(&s);
}

Test(extstore, a_read_waits_no_longer_for_one_of_another_device_that_gets_its_buffer)
{
    struct scarce s;
    scarce_open(&s);
    cr_assert_eq(finish_done(&s.held[0], 1), 1);
    ext_ring_submit(s.ring);
    cr_assert_not(s.first.r.waits, "it was first");
    finish_all(s.ring, &s.first, 1);
    finish_all(s.ring, &s.second, 1);
    finish_all(s.ring, s.held, 3);
    scarce_close(&s);
}

/* Another read of the same place, which came in time, brings its bytes. */
Test(extstore, a_read_waits_no_longer_for_one_of_another_device_that_shares_a_copy)
{
    struct scarce s;
    struct crowd same;
    scarce_open(&s);
    start_one(s.a, s.ring, &same, s.first.id, true); /* before all, and beyond the bound since none is under way */
    aid_await(s.ring, &same.r);
    cr_assert_eq(s.first.r.state, EXT_READ_DONE);
    finish_all(s.ring, &same, 1);
    finish_all(s.ring, &s.first, 1);
    second_comes(&s);
    finish_all(s.ring, s.held, 3);
    scarce_close(&s);
}

Test(extstore, reads_that_wait_for_each_other_end_when_the_ring_is_given_up)
{
    struct scarce s;
    scarce_open(&s);
    ext_ring_give_up(s.ring);
    struct crowd *both[] = {&s.first, &s.second};
    for (unsigned i = 0; i < 2; i++) {
        aid_await(s.ring, &both[i]->r);
        cr_assert_eq(both[i]->r.result, -ECANCELED);
        ext_read_finish(&both[i]->r);
    }
    finish_all(s.ring, s.held, 3);
    scarce_close(&s);
}

static void put_away_and_start(struct aid *a, struct ext_ring *ring, struct crowd *c)
{
    cr_assert_gt(ext_read_put_away(&c->r), 0u);
    ext_read_start(ring, &c->r, a->objects[c->id].place, a->objects[c->id].len_class);
    ext_ring_submit(ring);
}

/* A client waits for the value that was put away, and holds others that come after it. But if the client takes it slowly,
 * so that it is put away again, it is behind those that wait. */
Test(extstore, a_value_that_was_put_away_comes_back_before_younger_ones_once)
{
    enum { COUNT = PAIR_SLOTS + 4 };
    struct aid *a = two_devices();
    struct ext_ring *ring = ext_ring_create(a->ext);
    struct crowd crowd[COUNT];
    uint32_t next = PAIR_LARGE;
    for (unsigned i = 0; i < COUNT; i++)
        start_next(a, ring, &crowd[i], 0, 1000, &next);
    while (count_done(crowd, COUNT) < PAIR_SLOTS)
        wait_for_reads(ring);
    struct crowd *c = &crowd[0];
    put_away_and_start(a, ring, c);
    cr_assert(is_under_way(c) && crowd[PAIR_SLOTS].r.waits);
    aid_await(ring, &c->r);
    put_away_and_start(a, ring, c);
    cr_assert(c->r.waits && is_under_way(&crowd[PAIR_SLOTS]));
    finish_all(ring, crowd, COUNT);
    ext_ring_destroy(ring);
    aid_free(a);
}

Test(extstore, more_reads_than_buffers_wait_for_their_turn_on_io_uring)
{
    crowd_of_reads(EXT_ENGINE_URING);
}

Test(extstore, more_reads_than_buffers_wait_for_their_turn_on_threads)
{
    crowd_of_reads(EXT_ENGINE_THREADS);
}

/* An op keeps what it has read while it waits for its second record: that must come, though every
 * buffer is held by reads that are done (a hang of requests, found by the torture run). */
static void all_held(uint32_t value_bytes)
{
    enum { COUNT = 40 };
    struct aid *a = aid_new(32, MiB, 256 * KiB);
    a->opt.wbuf_count = 4;
    a->opt.buffer_bytes = 5 * 256 * KiB + 200 * KiB; /* four slots, two large reads */
    aid_start(a);
    struct ext_ring *ring = ext_ring_create(a->ext);
    struct crowd *crowd = calloc(COUNT, sizeof(*crowd));
    for (uint32_t i = 0; i < COUNT; i++)
        aid_set_wait(a, i, value_bytes, EXT_BUCKET_DEFAULT);
    aid_sync(a);
    for (uint32_t i = 0; i < COUNT; i++) {
        crowd[i] = (struct crowd){.r = {.done = crowd_done, .owner = &crowd[i]}, .id = i};
        crowd[i].r.holds_others = true;
        ext_pin(a->ext, a->objects[i].place);
        ext_read_start(ring, &crowd[i].r, a->objects[i].place, a->objects[i].len_class);
    }
    for (uint32_t i = 0; i < COUNT; i++) {
        ext_ring_submit(ring);
        aid_await(ring, &crowd[i].r);
        cr_assert_eq(crowd[i].r.result, 0);
    }
    for (uint32_t i = 0; i < COUNT; i++)
        ext_read_finish(&crowd[i].r);
    free(crowd);
    ext_ring_destroy(ring);
    aid_free(a);
}

Test(extstore, small_reads_come_though_all_buffers_are_held)
{
    all_held(1000);
}

Test(extstore, large_reads_come_though_all_buffers_are_held)
{
    all_held(50000);
}

static void destroy_with_reads(enum ext_engine engine)
{
    struct aid *a = aid_new(8, MiB, 128 * KiB);
    a->opt.engine = engine;
    aid_start(a);
    struct ext_ring *ring = ext_ring_create(a->ext);
    one_on_flash(a, 20);
    struct crowd c = {.r = {.done = crowd_done}};
    c.r.owner = &c;
    ext_pin(a->ext, a->objects[0].place);
    ext_read_start(ring, &c.r, a->objects[0].place, a->objects[0].len_class);
    cr_assert_eq(c.r.state, EXT_READ_QUEUED);
    /* done() runs inside; the buffer is the ring's, so only the pin is left to give back */
    ext_ring_destroy(ring);
    cr_assert(c.done);
    ext_unpin(a->ext, a->objects[0].place);
    aid_free(a);
}

Test(extstore, a_ring_waits_for_its_reads_on_io_uring)
{
    destroy_with_reads(EXT_ENGINE_URING);
}

Test(extstore, a_ring_waits_for_its_reads_on_threads)
{
    destroy_with_reads(EXT_ENGINE_THREADS);
}

/* ---- devices that fail ---- */

/* A small engine over the faulty device. */
static struct aid *faulty(uint32_t pages)
{
    struct aid *a = aid_new(pages, MiB, 128 * KiB);
    a->opt.engine = EXT_ENGINE_THREADS;
    aid_use_faults(a);
    return a;
}

static void all_there(struct aid *a, uint32_t first, uint32_t count)
{
    struct ext_ring *ring = ext_ring_create(a->ext);
    for (uint32_t i = first; i < first + count; i++)
        cr_assert_eq(aid_get(a, ring, i), 0, "object %u", i);
    ext_ring_destroy(ring);
}

Test(extstore, short_and_interrupted_transfers_are_completed)
{
    struct aid *a = faulty(8);
    atomic_store(&a->faults.short_one_in, 2);
    atomic_store(&a->faults.eintr_one_in, 3);
    aid_start(a);
    for (uint32_t i = 0; i < 60; i++)
        aid_set_wait(a, i, 50000, EXT_BUCKET_DEFAULT);
    aid_sync(a);
    all_there(a, 0, 60);
    struct ext_info info = aid_info(a);
    cr_assert_eq(info.write_errors, 0);
    cr_assert_eq(info.read_errors, 0);
    cr_assert_gt(info.read_short, 0);
    aid_free(a);
}

Test(extstore, a_write_that_fails_for_a_moment_is_tried_again)
{
    struct aid *a = faulty(8);
    aid_start(a);
    atomic_store(&a->faults.write_fail, 2);
    for (uint32_t i = 0; i < 5; i++)
        aid_set_wait(a, i, 50000, EXT_BUCKET_DEFAULT);
    aid_sync(a);
    struct ext_info info = aid_info(a);
    cr_assert_eq(info.write_retries, 2);
    cr_assert_eq(info.write_errors, 0);
    cr_assert_eq(info.pages_bad, 0);
    aid_free(a);
}

/* A write fails for good: its records go to another page, the page is BAD and stays readable. */
static void failed_write_moves(int error)
{
    struct aid *a = faulty(12);
    aid_start(a);
    for (uint32_t i = 0; i < 10; i++)
        aid_set_wait(a, i, 50000, EXT_BUCKET_DEFAULT);
    aid_sync(a);
    if (error == EIO) {
        atomic_store(&a->faults.write_fail, 10);
    } else {
        atomic_store(&a->faults.write_errno, error);
    }
    for (uint32_t i = 10; i < 12; i++)
        aid_set_wait(a, i, 50000, EXT_BUCKET_DEFAULT);
    if (error != EIO) {
        AID_WAIT_FOR((ext_sync(a->ext, 1), aid_info(a).write_errors > 0));
        atomic_store(&a->faults.write_errno, 0);
    }
    AID_WAIT_FOR(ext_sync(a->ext, 1000) == 0);
    struct ext_info info = aid_info(a);
    cr_assert_gt(info.write_errors, 0);
    cr_assert_gt(info.pages_bad, 0);
    if (error == EIO) {
        cr_assert_eq(info.write_moved, 2);
        cr_assert_eq(info.pages_bad, 1);
        cr_assert_eq(a->moved, 2);
    }
    cr_assert(info.degraded);
    cr_assert_not_null(strstr(info.degraded_why, "pages are bad"), "%s", info.degraded_why);
    /* more than all buffers hold, so that reads go to the device */
    for (uint32_t i = 100; i < 130; i++)
        aid_set_wait(a, i, 50000, EXT_BUCKET_DEFAULT);
    aid_sync(a);
    all_there(a, 0, 12);
    all_there(a, 100, 30);
    struct ext_page_info p;
    ext_page_info(a->ext, 0, &p);
    cr_assert_eq(p.state, EXT_PAGE_BAD);
    for (uint32_t i = 0; i < 12; i++)
        aid_delete(a, i);
    AID_WAIT_FOR((aid_step(a), !aid_info(a).degraded));
    ext_page_info(a->ext, 0, &p);
    cr_assert_eq(p.state, EXT_PAGE_FREE);
    aid_free(a);
}

Test(extstore, a_failed_write_goes_to_another_page)
{
    failed_write_moves(EIO);
}

Test(extstore, a_full_file_system_loses_nothing)
{
    failed_write_moves(ENOSPC);
}

Test(extstore, a_bad_page_drains_by_reclaim)
{
    struct aid *a = faulty(12);
    aid_start(a);
    for (uint32_t i = 0; i < 10; i++)
        aid_set_wait(a, i, 50000, EXT_BUCKET_DEFAULT);
    aid_sync(a);
    atomic_store(&a->faults.write_fail, 10);
    aid_set_wait(a, 10, 50000, EXT_BUCKET_DEFAULT);
    aid_sync(a);
    struct ext_page_info p;
    ext_page_info(a->ext, 0, &p);
    cr_assert_eq(p.state, EXT_PAGE_BAD);
    cr_assert_eq(p.objects, 10);
    AID_WAIT_FOR((aid_step(a), ext_page_info(a->ext, 0, &p), p.objects == 0));
    cr_assert_eq(aid_info(a).compact_rescues, 10);
    all_there(a, 0, 11);
    aid_free(a);
}

Test(extstore, a_device_that_is_gone_and_comes_back_loses_nothing)
{
    struct aid *a = faulty(16);
    aid_start(a);
    for (uint32_t i = 0; i < 10; i++)
        aid_set_wait(a, i, 50000, EXT_BUCKET_DEFAULT);
    atomic_store(&a->faults.write_errno, EIO);
    uint32_t stored = 10;
    int rc = 0;
    for (unsigned tries = 0; tries < 3000 && !(rc == -EIO && aid_info(a).wbufs_stuck > 0);
         tries++) {
        rc = aid_set(a, stored, 50000, EXT_BUCKET_DEFAULT);
        if (rc == 0)
            stored++;
        else
            aid_nap();
        cr_assert(rc == 0 || rc == -EAGAIN || rc == -EIO, "%d", rc);
        if (rc == -EAGAIN && aid_info(a).degraded && aid_info(a).wbufs_stuck > 0)
            break;
    }
    cr_assert(aid_info(a).degraded);
    all_there(a, 0, stored); /* from memory */
    cr_assert_leq(aid_info(a).pages_bad, EXT_DEVICE_FAILED_AFTER, "the device is at fault, not its pages");
    atomic_store(&a->faults.write_errno, 0);
    AID_WAIT_FOR((aid_step(a), !aid_info(a).degraded));
    AID_WAIT_FOR(ext_sync(a->ext, 1000) == 0);
    for (uint32_t i = 0; i < 20; i++)
        aid_set_wait(a, 1000 + i, 50000, EXT_BUCKET_DEFAULT);
    aid_sync(a);
    all_there(a, 0, stored);
    all_there(a, 1000, 20);
    aid_free(a);
}

Test(extstore, an_outage_makes_reclaim_give_nothing_up)
{
    struct aid *a = faulty(16);
    aid_start(a);
    for (uint32_t i = 0; i < 120; i++)
        aid_set_wait(a, i, 50000, EXT_BUCKET_DEFAULT);
    aid_sync(a);
    atomic_store(&a->faults.write_errno, EIO);
    for (uint32_t i = 200; i < 210; i++)
        (void)aid_set(a, i, 50000, EXT_BUCKET_DEFAULT);
    (void)ext_sync(a->ext, 100);
    AID_WAIT_FOR(aid_info(a).degraded);
    a->tun.compact_under_pages = 16;
    aid_maintain(a);
    cr_assert_eq(a->evicted, 0);
    cr_assert_eq(a->dropped, 0);
    atomic_store(&a->faults.write_errno, 0);
    AID_WAIT_FOR(ext_sync(a->ext, 1000) == 0);
    all_there(a, 0, 120);
    aid_free(a);
}

static int fd_of(const char *path)
{
    char link[64], name[256];
    for (int fd = 3; fd < 64; fd++) {
        snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        ssize_t n = readlink(link, name, sizeof(name) - 1);
        if (n > 0 && (name[n] = '\0', strcmp(name, path) == 0))
            return fd;
    }
    cr_assert_fail("%s is not open", path);
    return -1;
}

static void one_of_two_dies(void)
{
    struct aid *a = faulty(16);
    aid_add_device(a, 16, EXT_BUCKET_DEFAULT);
    aid_start(a);
    for (uint32_t i = 0; i < 10; i++)
        aid_set_wait(a, i, 50000, EXT_BUCKET_DEFAULT);
    aid_sync(a);
    atomic_store(&a->faults.write_errno_fd, fd_of(a->paths[1]));
    for (uint32_t i = 10; i < 120; i++)
        aid_set_wait(a, i, 50000, EXT_BUCKET_DEFAULT);
    AID_WAIT_FOR((aid_step(a), ext_sync(a->ext, 100) == 0)); /* steps move stuck buffers */
    cr_assert(aid_info(a).degraded);
    cr_assert_gt(aid_info(a).write_moved, 0);
    all_there(a, 0, 120);
    aid_free(a);
}

Test(extstore, one_of_two_devices_dies_and_the_other_takes_everything)
{
    /* Which writes fail when, and so the buffers left to rewrite them, differ from run to run. */
    for (unsigned life = 0; life < 8; life++)
        one_of_two_dies();
}

/* Ten pages go to one device while the other takes nothing, and both are used again when it does. */
Test(extstore, a_device_that_stalls_gets_its_share_of_the_buffers_and_no_more)
{
    struct aid *a = faulty(24);
    aid_add_device(a, 24, EXT_BUCKET_DEFAULT);
    aid_start(a);
    atomic_store(&a->faults.stall_fd, fd_of(a->paths[1]));
    for (uint32_t i = 0; i < 160; i++)
        aid_set_wait(a, i, 50000, EXT_BUCKET_DEFAULT);
    cr_assert_eq(atomic_load(&a->faults.stalled), 1, "one thread waits, the other writes");
    cr_assert_leq(atomic_load(&a->ext->backlogs[1].wbufs), 3, "of eight buffers, two of them reserved");
    uint64_t pages[2] = {0, 0};
    struct ext_page_info p;
    for (uint32_t page = 0; page < 48; page++) {
        ext_page_info(a->ext, page, &p);
        pages[page % 2] += p.state != EXT_PAGE_FREE;
    }
    cr_assert_eq(pages[1], 1, "nothing is opened on the one that stalls but what it began with");
    cr_assert_geq(pages[0], 9);
    atomic_store(&a->faults.stall_fd, 0);
    aid_sync(a);
    for (uint32_t i = 160; i < 240; i++) {
        aid_set_wait(a, i, 50000, EXT_BUCKET_DEFAULT);
        if (i % 2 == 1)
            aid_sync(a);
    }
    ext_page_info(a->ext, 1, &p);
    cr_assert_eq(p.state, EXT_PAGE_SEALED, "its half-written page is gone on with");
    all_there(a, 0, 240);
    aid_free(a);
}

/* All that is appended goes to one of two devices, since the other is of a tier. While the first has much to write, a page
 * that it has begun is gone on with: a second one would leave the rest of it unused. */
Test(extstore, a_page_is_filled_although_its_device_has_much_to_write)
{
    struct aid *a = faulty(16);
    aid_add_device(a, 16, EXT_BUCKET_COLDCOMPACT);
    aid_start(a);
    uint32_t slots = a->ext->slots_per_page, records = 0;
    struct ext_page_info p;
    while (records < 2 * 6 * slots) { /* a buffer holds two */
        atomic_store(&a->faults.stall_writes, true);
        for (unsigned k = 0; k < 2 * 4; k++)
            aid_set_wait(a, records++, 50000, EXT_BUCKET_DEFAULT);
        atomic_store(&a->faults.stall_writes, false);
        aid_sync(a);
    }
    uint64_t used = 0;
    for (uint32_t page = 0; page < 32; page++) {
        ext_page_info(a->ext, page, &p);
        used += p.state != EXT_PAGE_FREE;
    }
    cr_assert_leq(used, (records / 2 + slots - 1) / slots + 1, "%" PRIu64 " pages for %u records", used, records);
    all_there(a, 0, records);
    aid_free(a);
}

Test(extstore, a_stalled_device_delays_neither_appends_nor_reads_of_buffers)
{
    struct aid *a = faulty(8);
    aid_start(a);
    atomic_store(&a->faults.stall_writes, true);
    uint32_t stored = 0;
    int rc;
    while ((rc = aid_set(a, stored, 50000, EXT_BUCKET_DEFAULT)) == 0) {
        stored++;
        cr_assert_lt(stored, 100u);
    }
    cr_assert_eq(rc, -EAGAIN);
    cr_assert_eq(stored, 6 * 2); /* eight buffers of two records, two of them reserved */
    all_there(a, 0, stored);
    cr_assert_eq(ext_sync(a->ext, 1), -ETIMEDOUT);
    atomic_store(&a->faults.stall_writes, false);
    aid_sync(a);
    cr_assert_eq(aid_set(a, stored, 50000, EXT_BUCKET_DEFAULT), 0);
    all_there(a, 0, stored + 1);
    aid_free(a);
}

static void count_call(void *arg)
{
    atomic_fetch_add((_Atomic(unsigned) *)arg, 1);
}

Test(extstore, a_waiter_for_room_is_notified_once)
{
    struct aid *a = faulty(8);
    aid_start(a);
    static _Atomic(unsigned) calls;
    ext_notify_writable(a->ext, count_call, &calls);
    cr_assert_eq(calls, 1, "there is room: at once");
    atomic_store(&a->faults.stall_writes, true);
    for (uint32_t i = 0; aid_set(a, i, 50000, EXT_BUCKET_DEFAULT) == 0; i++)
        ;
    ext_notify_writable(a->ext, count_call, &calls);
    cr_assert_eq(calls, 1);
    atomic_store(&a->faults.stall_writes, false);
    AID_WAIT_FOR(calls == 2);
    aid_sync(a);
    cr_assert_eq(calls, 2);
    ext_cancel_notify(a->ext, count_call, &calls);
    cr_assert_eq(calls, 2);
    aid_free(a);
}

Test(extstore, a_cancelled_waiter_is_called_by_the_canceller)
{
    struct aid *a = faulty(8);
    aid_start(a);
    static _Atomic(unsigned) calls;
    atomic_store(&a->faults.stall_writes, true);
    for (uint32_t i = 0; aid_set(a, i, 50000, EXT_BUCKET_DEFAULT) == 0; i++)
        ;
    ext_notify_writable(a->ext, count_call, &calls);
    ext_cancel_notify(a->ext, count_call, &calls);
    cr_assert_eq(calls, 1);
    atomic_store(&a->faults.stall_writes, false);
    aid_sync(a);
    cr_assert_eq(calls, 1);
    aid_free(a);
}

Test(extstore, a_read_that_fails_is_tried_again_twice)
{
    struct aid *a = faulty(8);
    aid_start(a);
    struct ext_ring *ring = ext_ring_create(a->ext);
    one_on_flash(a, 20);
    atomic_store(&a->faults.read_fail, 2);
    cr_assert_eq(aid_get(a, ring, 0), 0);
    cr_assert_eq(aid_info(a).read_retries, 2);
    atomic_store(&a->faults.read_fail, 3);
    cr_assert_eq(aid_get(a, ring, 0), -EIO);
    cr_assert_eq(aid_info(a).read_errors, 1);
    cr_assert(!aid_info(a).degraded);
    atomic_store(&a->faults.read_errno, EIO);
    for (unsigned i = 0; i < 10; i++)
        cr_assert_eq(aid_get(a, ring, 0), -EIO);
    cr_assert(aid_info(a).degraded);
    atomic_store(&a->faults.read_errno, 0);
    cr_assert_eq(aid_get(a, ring, 0), 0);
    cr_assert(!aid_info(a).degraded);
    ext_ring_destroy(ring);
    aid_free(a);
}

static void truncated(enum ext_engine engine)
{
    struct aid *a = aid_new(8, MiB, 128 * KiB);
    a->opt.engine = engine;
    aid_start(a);
    struct ext_ring *ring = ext_ring_create(a->ext);
    one_on_flash(a, 9000);
    cr_assert_eq(truncate(a->paths[0], 4096), 0);
    cr_assert_eq(aid_get(a, ring, 0), -ENODATA);
    cr_assert_gt(aid_info(a).read_short, 0);
    ext_ring_destroy(ring);
    aid_free(a);
}

Test(extstore, a_file_truncated_under_us_is_an_error_not_a_value_on_io_uring)
{
    truncated(EXT_ENGINE_URING);
}

Test(extstore, a_file_truncated_under_us_is_an_error_not_a_value_on_threads)
{
    truncated(EXT_ENGINE_THREADS);
}

/* ---- buckets and devices ---- */

Test(extstore, more_buckets_than_buffers_still_make_progress)
{
    struct aid *a = aid_new(24, MiB, 128 * KiB);
    a->opt.wbuf_count = 4;
    aid_start(a);
    for (uint32_t i = 0; i < 60; i++)
        aid_set_wait(a, i, 5000, (enum ext_bucket)(i % EXT_BUCKET_COUNT));
    all_there(a, 0, 60);
    aid_free(a);
}

Test(extstore, pages_go_round_the_devices)
{
    struct aid *a = aid_new(4, MiB, 128 * KiB);
    aid_add_device(a, 8, EXT_BUCKET_DEFAULT);
    aid_start(a);
    cr_assert_eq(ext_page_count(a->ext), 12);
    for (uint32_t i = 0; i < 30; i++) /* two pages */
        aid_set_wait(a, i, 60000, EXT_BUCKET_DEFAULT);
    struct ext_page_info p;
    ext_page_info(a->ext, 0, &p);
    cr_assert_neq(p.state, EXT_PAGE_FREE);
    ext_page_info(a->ext, 1, &p);
    cr_assert_neq(p.state, EXT_PAGE_FREE);
    aid_sync(a);
    all_there(a, 0, 30);
    aid_free(a);
}

/* ---- what is refused ---- */

static void refused(struct aid *a, int error, const char *part)
{
    char why[256] = "";
    struct arena_options ao = {.reserve_bytes = 64 * MiB, .geometry = "aid", .geometry_bytes = 4};
    bool attached;
    a->opt.arena = arena_create(&ao, &attached, why, sizeof(why));
    cr_assert_null(ext_create(&a->opt, &a->tun, why, sizeof(why)));
    cr_assert_eq(errno, error, "errno %d: %s", errno, why);
    cr_assert_not_null(strstr(why, part), "%s", why);
    arena_destroy(a->opt.arena);
}

static void refused_once(struct aid *a, int error, const char *part)
{
    refused(a, error, part);
    aid_forget(a);
}

Test(extstore, a_file_too_small_for_its_pages_is_refused)
{
    refused_once(aid_new(0, MiB, 128 * KiB), EINVAL, "hold no page");
    refused_once(aid_new(3, MiB, 128 * KiB), EINVAL, "at least 4");
}

Test(extstore, odd_sizes_are_refused)
{
    refused_once(aid_new(8, MiB, 100000), EINVAL, "write buffer size");
    refused_once(aid_new(8, MiB, 0), EINVAL, "write buffer size");
    refused_once(aid_new(8, 100 * KiB, 128 * KiB), EINVAL, "page size");
    refused_once(aid_new(8, 0, 128 * KiB), EINVAL, "page size");
    struct aid *a = aid_new(8, MiB, 128 * KiB);
    a->opt.io_threads = 0;
    refused(a, EINVAL, "I/O threads");
    a->opt.io_threads = 1;
    a->opt.buffer_bytes = 300 * KiB;
    refused_once(a, EINVAL, "buffer memory");
}

Test(extstore, the_same_file_twice_is_refused)
{
    struct aid *a = aid_new(8, MiB, 128 * KiB);
    aid_add_device(a, 8, EXT_BUCKET_DEFAULT);
    int fd = open(a->paths[0], O_CREAT | O_RDWR, 0600);
    close(fd);
    cr_assert_eq(link(a->paths[0], a->paths[1]), 0); /* by another name */
    refused_once(a, EINVAL, "is the same file as");
}

Test(extstore, a_file_in_use_is_refused_and_unharmed)
{
    struct aid *a = aid_new(8, MiB, 128 * KiB);
    aid_start(a);
    one_on_flash(a, 20);
    struct aid *b = aid_new(8, MiB, 128 * KiB);
    const char *own = b->opt.devices[0].path;
    b->opt.devices[0].path = a->paths[0];
    pid_t child = fork();
    if (child == 0) {
        char why[256] = "";
        struct arena_options ao = {
            .reserve_bytes = 64 * MiB, .geometry = "aid", .geometry_bytes = 4};
        bool attached;
        b->opt.arena = arena_create(&ao, &attached, why, sizeof(why));
        struct extstore *e = ext_create(&b->opt, &b->tun, why, sizeof(why));
        _exit(e == NULL && errno == EBUSY && strstr(why, "in use by another process") ? 7 : 8);
    }
    int status;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 7);
    b->opt.devices[0].path = own;
    aid_forget(b);
    all_there(a, 0, 1);
    aid_free(a);
}

Test(extstore, a_path_that_can_not_be_written_is_refused)
{
    struct aid *a = aid_new(8, MiB, 128 * KiB);
    a->opt.devices[0].path = "/tmp";
    refused(a, EISDIR, "/tmp");
    a->opt.devices[0].path = "/nonexistent/file";
    refused_once(a, ENOENT, "/nonexistent/file");
}

Test(extstore, a_file_that_does_not_fit_is_refused)
{
    struct aid *a = aid_new(8, MiB, 128 * KiB);
    a->opt.devices[0].bytes = UINT64_C(15) << 40;
    a->opt.page_bytes = GiB;
    char why[256];
    struct arena_options ao = {.reserve_bytes = 64 * MiB, .geometry = "aid", .geometry_bytes = 4};
    bool attached;
    a->opt.arena = arena_create(&ao, &attached, why, sizeof(why));
    cr_assert_null(ext_create(&a->opt, &a->tun, why, sizeof(why)));
    cr_assert(errno == ENOSPC || errno == EFBIG);
    cr_assert_not_null(strstr(why, "no room"), "%s", why);
    arena_destroy(a->opt.arena);
    aid_forget(a);
}

Test(extstore, an_existing_file_is_not_truncated)
{
    struct aid *a = aid_new(8, MiB, 128 * KiB);
    int fd = open(a->paths[0], O_CREAT | O_RDWR, 0600);
    cr_assert_eq(pwrite(fd, "keep", 4, 20 * MiB), 4);
    close(fd);
    aid_start(a);
    char got[4];
    peek(a, 20 * MiB, got, 4);
    cr_assert_eq(memcmp(got, "keep", 4), 0);
    aid_free(a);
}

/* ---- restart ---- */

Test(extstore, what_was_not_yet_written_survives_a_kill)
{
    struct aid *a = aid_new(8, MiB, 128 * KiB);
    aid_use_faults(a);
    aid_arena_file(a);
    aid_start(a);
    for (uint32_t i = 0; i < 20; i++)
        aid_set_wait(a, i, 50000, EXT_BUCKET_DEFAULT);
    aid_sync(a);
    atomic_store(&a->faults.write_errno, EIO); /* nothing more reaches the file */
    for (uint32_t i = 20; i < 24; i++)
        aid_set_wait(a, i, 50000, EXT_BUCKET_DEFAULT);
    aid_delete(a, 0);
    struct aid_faults *f = &a->faults;
    aid_restart(a);
    atomic_store(&f->write_errno, 0);
    aid_check_counts(a);
    all_there(a, 1, 23);
    AID_WAIT_FOR(ext_sync(a->ext, 1000) == 0);
    for (uint32_t i = 100; i < 120; i++) /* other objects take the buffers */
        aid_set_wait(a, i, 50000, EXT_BUCKET_DEFAULT);
    aid_sync(a);
    all_there(a, 1, 23);
    all_there(a, 100, 20);
    aid_free(a);
}

/* An engine whose memory another one can find. */
static struct aid *new_with_memory_file(void)
{
    struct aid *a = aid_new(8, MiB, 128 * KiB);
    aid_arena_file(a);
    aid_start(a);
    return a;
}

Test(extstore, an_open_page_is_gone_on_with_after_a_restart)
{
    struct aid *a = new_with_memory_file();
    aid_set_wait(a, 0, 50000, EXT_BUCKET_DEFAULT);
    aid_sync(a);
    aid_restart(a);
    aid_set_wait(a, 1, 50000, EXT_BUCKET_DEFAULT);
    cr_assert_eq(aid_info(a).pages_used, 1);
    all_there(a, 0, 2);
    struct ext_page_info p;
    ext_page_info(a->ext, 0, &p);
    cr_assert_eq(p.version, 1);
    aid_free(a);
}

Test(extstore, pages_without_objects_are_free_after_a_restart)
{
    struct aid *a = new_with_memory_file();
    for (uint32_t i = 0; i < 40; i++)
        aid_set_wait(a, i, 50000, EXT_BUCKET_DEFAULT);
    aid_sync(a);
    for (uint32_t i = 0; i < 40; i++) /* as if killed before the drops were counted */
        a->objects[i].present = false;
    aid_restart(a);
    cr_assert_eq(aid_info(a).objects_used, 0);
    cr_assert_leq(aid_info(a).pages_used, 1);
    cr_assert(!ext_page_count(a->ext) || aid_info(a).bytes_used == 0);
    aid_free(a);
}

/* Killed with buffers that were not written, and started with more flash and other buffers. */
Test(extstore, more_flash_and_other_buffers_keep_all_objects)
{
    struct aid *a = new_with_memory_file();
    static const unsigned wbufs[] = {24, 6, 16, 7};
    uint32_t count = 0, gen = 1;
    for (unsigned i = 0; i < ARRAY_COUNT(wbufs); i++) {
        for (unsigned k = 0; k < 10; k++, count++)
            aid_set_wait(a, count, 50000, EXT_BUCKET_DEFAULT);
        a->opt.devices[0].bytes += (1 + i) * MiB;
        if (i % 2 == 0)
            aid_add_device(a, 3 + i, EXT_BUCKET_DEFAULT);
        a->opt.wbuf_count = wbufs[i];
        a->opt.buffer_bytes = (wbufs[i] + 1) * a->opt.wbuf_bytes + 16 * MiB;
        aid_restart(a);
        all_there(a, 0, count);
        cr_assert_eq(ext_reconcile(a->ext), 0);
        cr_assert_eq(aid_info(a).objects_used, count);
        aid_set_wait(a, gen++, 50000, EXT_BUCKET_DEFAULT);
    }
    aid_sync(a);
    all_there(a, 0, count);
    cr_assert_eq(aid_info(a).limit_maxbytes, (8 + 1 + 2 + 3 + 4 + 3 + 5) * MiB);
    aid_free(a);
}

/* New pages take the numbers of a device that is gone, so numbers don't follow the order of pages any more. */
Test(extstore, numbers_of_a_device_that_is_gone_are_given_again)
{
    struct aid *a = aid_new(8, MiB, 128 * KiB);
    aid_add_device(a, 8, EXT_BUCKET_DEFAULT);
    aid_arena_file(a);
    aid_start(a);
    cr_assert_eq(ext_page_count(a->ext), 16);
    a->opt.device_count = 1;
    aid_restart(a);
    cr_assert_eq(ext_page_count(a->ext), 15); /* its last page is number 14 */
    cr_assert_eq(aid_info(a).pages_free, 8);
    a->opt.devices[0].bytes = 12 * MiB;
    aid_restart(a);
    cr_assert_eq(ext_page_count(a->ext), 15);
    cr_assert_eq(aid_info(a).pages_free, 12);
    cr_assert_eq(ext_reconcile(a->ext), 0);
    for (uint32_t i = 0; i < 100; i++)
        aid_set_wait(a, i, 50000, EXT_BUCKET_DEFAULT);
    aid_restart(a);
    all_there(a, 0, 100);
    aid_free(a);
}

/* Pages that no word can name are not used, and it says so. */
Test(extstore, flash_that_no_place_reaches_is_left_alone)
{
    struct aid *a = new_with_memory_file();
    aid_set_wait(a, 0, 50000, EXT_BUCKET_DEFAULT);
    a->opt.place_limit = 10 * MiB / EXT_GRANULE_BYTES + 1;
    a->opt.devices[0].bytes = 16 * MiB;
    aid_restart(a);
    all_there(a, 0, 1);
    cr_assert_eq(aid_info(a).limit_maxbytes, 10 * MiB);
    cr_assert_not_null(strstr(ext_attach_note(a->ext), "6 of 16 pages of "), "%s", ext_attach_note(a->ext));
    aid_free(a);
}

/* ---- threads ---- */

struct worker {
    struct aid *a;
    uint32_t first, count;
};

static void *append_and_read(void *arg)
{
    struct worker *w = arg;
    struct ext_ring *ring = ext_ring_create(w->a->ext);
    for (unsigned round = 0; round < 5; round++) {
        for (uint32_t i = w->first; i < w->first + w->count; i++) {
            while (aid_set(w->a, i, 3000 + i % 5000, EXT_BUCKET_DEFAULT) != 0)
                aid_nap();
        }
        for (uint32_t i = w->first; i < w->first + w->count; i++)
            cr_assert_eq(aid_get(w->a, ring, i), 0);
    }
    ext_ring_destroy(ring);
    return NULL;
}

Test(extstore, threads_append_and_read_side_by_side)
{
    struct aid *a = aid_new(24, MiB, 128 * KiB);
    a->opt.ring_count = 4;
    aid_start(a);
    pthread_t threads[4];
    struct worker workers[4];
    for (uint32_t i = 0; i < 4; i++) {
        workers[i] = (struct worker){a, i * 1000, 100};
        pthread_create(&threads[i], NULL, append_and_read, &workers[i]);
    }
    for (unsigned i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    cr_assert_eq(aid_info(a).objects_written, 4 * 5 * 100);
    aid_free(a);
}
