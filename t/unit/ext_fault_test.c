/* ext_fault_test.c: device faults cost nothing, or only what is counted; the engine recovers by itself when the
 * device does; and the operator is told. Run under TSan too. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "flash/engine.h"
#include "flash/page.h"
#include "base/clock.h"
#include "base/log.h"
#include "t/aid/ext_aid.h"

TestSuite(ext_fault, .timeout = 600);

enum { BYTES = 50000 }; /* two in a wbuf, sixteen in a page */

static struct aid *faulty(uint32_t pages)
{
    struct aid *a = aid_new(pages, MiB, 128 * KiB);
    a->opt.engine = EXT_ENGINE_THREADS;
    aid_use_faults(a);
    return a;
}

static void store(struct aid *a, uint32_t first, uint32_t count)
{
    for (uint32_t i = first; i < first + count; i++)
        aid_set_wait(a, i, BYTES, EXT_BUCKET_DEFAULT);
}

/* How many of them are there; each read must find its object or report that there is none. */
static uint32_t there(struct aid *a, uint32_t first, uint32_t count)
{
    struct ext_ring *ring = ext_ring_create(a->ext);
    uint32_t n = 0;
    for (uint32_t i = first; i < first + count; i++) {
        int rc = aid_get(a, ring, i);
        cr_assert(rc == 0 || rc == -ENOENT, "object %u: %d", i, rc);
        n += rc == 0;
    }
    ext_ring_destroy(ring);
    return n;
}

static unsigned failures_of(struct aid *a, unsigned page)
{
    lock_take(&a->ext->page_lock);
    unsigned n = a->ext->pages[page].failures;
    lock_release(&a->ext->page_lock);
    return n;
}

static enum ext_page_state state_of(struct aid *a, unsigned page)
{
    struct ext_page_info p;
    ext_page_info(a->ext, page, &p);
    return p.state;
}

/* ---- transient write errors ---- */

static void transient(uint32_t one_in, int error)
{
    struct aid *a = faulty(24);
    a->opt.io_threads = 2;
    aid_start(a);
    atomic_store(&a->faults.write_chance, one_in);
    atomic_store(&a->faults.write_chance_errno, error);
    for (unsigned round = 0; round < 3; round++)
        store(a, 0, 100);
    aid_sync(a);
    struct ext_info info = aid_info(a);
    cr_assert_gt(info.write_retries, 0);
    cr_assert_eq(info.write_errors, 0);
    cr_assert_eq(info.pages_bad, 0);
    cr_assert(!info.degraded);
    cr_assert_str_eq(info.degraded_why, "none");
    cr_assert_eq(there(a, 0, 100), 100);
    aid_free(a);
}

Test(ext_fault, a_quarter_of_the_writes_fails_and_no_page_is_given_up)
{
    transient(4, EIO);
}

Test(ext_fault, a_quarter_of_the_writes_finds_no_room_and_no_page_is_given_up)
{
    transient(4, ENOSPC);
}

/* What means "given up" inside is an error as any other if a device says it. */
Test(ext_fault, a_quarter_of_the_writes_is_canceled_and_no_page_is_given_up)
{
    transient(4, ECANCELED);
}

Test(ext_fault, a_read_that_the_device_cancels_is_an_error_of_the_device)
{
    struct aid *a = faulty(24);
    aid_start(a);
    store(a, 0, 100);
    aid_sync(a);
    struct ext_ring *ring = ext_ring_create(a->ext);
    atomic_store(&a->faults.read_errno, ECANCELED);
    cr_assert_eq(aid_get(a, ring, 0), -EIO);
    cr_assert_eq(aid_info(a).read_errors, 1);
    atomic_store(&a->faults.read_errno, 0);
    cr_assert_eq(aid_get(a, ring, 0), 0);
    ext_ring_destroy(ring);
    aid_free(a);
}

Test(ext_fault, a_quarter_of_the_writes_is_short_and_no_page_is_given_up)
{
    transient(4, 0);
}

Test(ext_fault, one_write_in_a_hundred_fails_and_no_page_is_given_up)
{
    transient(100, EIO);
}

Test(ext_fault, writes_that_wait_for_their_turn_do_not_hold_up_others)
{
    struct aid *a = faulty(12);
    aid_add_device(a, 12, EXT_BUCKET_DEFAULT);
    aid_start(a);
    atomic_store(&a->faults.write_bad, 1); /* one I/O thread; the first slots never come */
    store(a, 0, 4);
    aid_sync(a);
    cr_assert_gt(aid_info(a).write_moved, 0);
    atomic_store(&a->faults.write_bad, 0);
    cr_assert_eq(there(a, 0, 4), 4);
    aid_free(a);
}

/* ---- devices that lie ---- */

/* Stores 60 objects with faults in the first two writes; returns how many are there once no buffer has
 * them. */
static unsigned there_after_lies(_Atomic(uint32_t) *fault, struct aid *a, uint32_t lies)
{
    a->opt.verify_writes = true;
    aid_start(a);
    atomic_store(fault, lies);
    store(a, 0, 60);
    aid_sync(a);
    store(a, 100, 200); /* takes every buffer that still held one of the first */
    aid_sync(a);
    return there(a, 0, 60);
}

Test(ext_fault, a_write_that_put_wrong_bytes_is_noticed_and_repeated)
{
    struct aid *a = faulty(40);
    cr_assert_eq(there_after_lies(&a->faults.write_flip, a, 2), 60);
    cr_assert_eq(aid_info(a).write_mismatches, 2);
    cr_assert_eq(aid_info(a).pages_bad, 0);
    aid_free(a);
}

Test(ext_fault, a_write_that_put_nothing_is_noticed_and_repeated)
{
    struct aid *a = faulty(40);
    cr_assert_eq(there_after_lies(&a->faults.write_lose, a, 2), 60);
    cr_assert_eq(aid_info(a).write_mismatches, 2);
    aid_free(a);
}

Test(ext_fault, a_page_that_never_holds_what_is_written_is_given_up)
{
    struct aid *a = faulty(40);
    a->opt.verify_writes = true;
    aid_start(a);
    atomic_store(&a->faults.write_lose, UINT32_MAX);
    store(a, 0, 4);
    AID_WAIT_FOR(aid_info(a).pages_lost > 0);
    atomic_store(&a->faults.write_lose, 0);
    aid_sync(a);
    store(a, 100, 200);
    aid_sync(a);
    cr_assert_gt(aid_info(a).write_mismatches, 2);
    cr_assert_gt(aid_info(a).write_moved, 0);
    cr_assert_eq(there(a, 0, 4), 4);
    aid_free(a);
}

/* ---- BAD pages ---- */

Test(ext_fault, a_bad_sector_costs_a_page_and_no_object)
{
    struct aid *a = faulty(12);
    aid_start(a);
    atomic_store(&a->faults.write_bad, 5 * 128 * KiB + 4096);
    store(a, 0, 60);
    aid_sync(a);
    struct ext_info info = aid_info(a);
    cr_assert_eq(info.pages_bad, 1);
    cr_assert_eq(state_of(a, 0), EXT_PAGE_BAD);
    cr_assert_eq(info.write_moved, 2);
    cr_assert_eq(there(a, 0, 60), 60);
    /* drained, and tried again without success */
    const struct ext_page *p = &a->ext->pages[0];
    AID_WAIT_FOR((aid_step(a), atomic_load(&p->objects) == 0));
    AID_WAIT_FOR((aid_step(a), failures_of(a, 0) >= 2));
    cr_assert_eq(state_of(a, 0), EXT_PAGE_BAD);
    /* the next try comes later, and succeeds */
    atomic_store(&a->faults.write_bad, 0);
    AID_WAIT_FOR((aid_step(a), state_of(a, 0) == EXT_PAGE_FREE));
    cr_assert_eq(aid_info(a).pages_back, 1);
    cr_assert(!aid_info(a).degraded);
    cr_assert_eq(there(a, 0, 60), 60);
    aid_free(a);
}

/* The sequence number tells the younger of two values of a key, so a record that is written again keeps it. */
Test(ext_fault, what_is_written_again_keeps_its_place_in_the_order)
{
    struct aid *a = faulty(12);
    aid_start(a);
    atomic_store(&a->faults.write_bad, 5 * 128 * KiB + 4096);
    store(a, 0, 60);
    aid_sync(a);
    cr_assert_eq(aid_info(a).write_moved, 2);
    cr_assert_eq(there(a, 0, 60), 60);
    for (unsigned i = 1; i < 60; i++)
        cr_assert_gt(a->objects[i].seq, a->objects[i - 1].seq);
    aid_free(a);
}

Test(ext_fault, deletes_during_a_rewrite_are_counted_nowhere)
{
    struct aid *a = faulty(12);
    aid_start(a);
    atomic_store(&a->faults.write_bad, 5 * 128 * KiB + 4096);
    atomic_store(&a->faults.goes, 1);
    store(a, 0, 60);
    aid_sync(a);
    cr_assert_eq(aid_info(a).write_moved, 1);
    cr_assert_eq(there(a, 0, 60), 59);
    aid_check_counts(a);
    aid_free(a);
}

static void fail_page(struct aid *a, uint32_t page, unsigned failures)
{
    a->ext->pages[page].failures = (uint8_t)failures;
    cr_assert(ext_page_fail(a->ext, page, 0));
}

Test(ext_fault, bad_pages_are_tried_at_once_when_no_other_is_left)
{
    struct aid *a = faulty(8);
    aid_start(a);
    uint32_t page;
    while (ext_page_open(a->ext, EXT_BUCKET_DEFAULT, true, &page) == 0)
        fail_page(a, page, 6); /* otherwise there would be a minute to wait */
    cr_assert_eq(aid_info(a).pages_bad, 8);
    cr_assert(aid_info(a).degraded);
    uint64_t start = clock_mono_ns();
    store(a, 0, 20);
    AID_WAIT_FOR((aid_step(a), !aid_info(a).degraded));
    cr_assert_lt(clock_mono_ns() - start, UINT64_C(50000000000));
    cr_assert_eq(there(a, 0, 20), 20);
    aid_free(a);
}

Test(ext_fault, bad_pages_full_of_objects_come_back_and_lose_none)
{
    struct aid *a = faulty(16);
    aid_start(a);
    store(a, 0, 192); /* twelve pages, four are left */
    aid_sync(a);
    for (uint32_t page = 0; page < 12; page++) {
        if (state_of(a, page) == EXT_PAGE_SEALED)
            fail_page(a, page, 0);
    }
    cr_assert_geq(aid_info(a).pages_bad, 11);
    AID_WAIT_FOR((aid_step(a), !aid_info(a).degraded));
    cr_assert_geq(aid_info(a).pages_back, 11);
    cr_assert_eq(a->evicted, 0);
    cr_assert_eq(there(a, 0, 192), 192);
    aid_free(a);
}

Test(ext_fault, flash_that_is_full_of_bad_pages_takes_new_objects)
{
    struct aid *a = faulty(8);
    aid_start(a);
    uint32_t page;
    store(a, 0, 90);
    aid_sync(a);
    while (ext_page_open(a->ext, EXT_BUCKET_DEFAULT, true, &page) == 0)
        ;
    for (page = 0; page < 8; page++) {
        if (state_of(a, page) != EXT_PAGE_BAD)
            fail_page(a, page, 0);
    }
    store(a, 100, 40); /* the oldest go for it */
    aid_sync(a);
    cr_assert_eq(there(a, 100, 40), 40);
    cr_assert_eq(there(a, 0, 90) + a->evicted, 90);
    AID_WAIT_FOR((aid_step(a), !aid_info(a).degraded));
    aid_free(a);
}

/* In an arena file. */
static struct aid *with_bad_page(uint32_t *page)
{
    struct aid *a = faulty(8);
    aid_arena_file(a);
    aid_start(a);
    cr_assert_eq(ext_page_open(a->ext, EXT_BUCKET_DEFAULT, true, page), 0);
    fail_page(a, *page, 6);
    return a;
}

Test(ext_fault, a_restart_tries_bad_pages_again)
{
    uint32_t page;
    struct aid *a = with_bad_page(&page);
    aid_restart(a);
    cr_assert_eq(aid_info(a).pages_bad, 1);
    AID_WAIT_FOR((aid_step(a), state_of(a, page) == EXT_PAGE_FREE));
    aid_free(a);
}

/* A kill in page_free, between its two stores. */
Test(ext_fault, a_bad_page_that_was_becoming_free_is_free_after_a_restart)
{
    uint32_t page;
    struct aid *a = with_bad_page(&page);
    atomic_store(&a->ext->pages[page].version, 0);
    aid_restart(a);
    cr_assert_eq(aid_info(a).pages_bad, 0);
    cr_assert_eq(state_of(a, page), EXT_PAGE_FREE);
    aid_free(a);
}

static struct aid *attached;
static _Atomic(unsigned) buffers_seen; /* set up, at the first write */

static ssize_t counting_pwrite(void *ctx, int fd, const void *buf, size_t bytes, off_t offset)
{
    struct extstore *e = attached->ext;
    (void)ctx;
    if (atomic_load(&buffers_seen) == 0) {
        unsigned n = *(volatile uint32_t *)&e->free_wbuf_count;
        for (uint32_t i = 0; i < e->wbuf_count; i++)
            n += atomic_load(&e->wbufs[i].state) != EXT_WBUF_FREE;
        atomic_store(&buffers_seen, n);
    }
    ssize_t n = pwrite(fd, buf, bytes, offset);
    return n < 0 ? -errno : n;
}

/* A write that fails takes another buffer. */
Test(ext_fault, nothing_is_written_at_an_attach_before_all_buffers_are_set_up)
{
    enum { BUFFERS = 8000 };
    struct aid *a = aid_new(16, MiB, 16 * KiB);
    a->opt.wbuf_count = BUFFERS;
    a->opt.buffer_bytes = (BUFFERS + 1) * a->opt.wbuf_bytes + 4 * MiB;
    a->opt.engine = EXT_ENGINE_THREADS;
    aid_use_faults(a);
    aid_arena_file(a);
    aid_start(a);
    aid_set_wait(a, 1, 5000, EXT_BUCKET_DEFAULT); /* not flushed */
    ext_destroy(a->ext, false);
    arena_destroy(a->arena);
    static struct ext_device_ops ops;
    ops = *a->opt.device_ops;
    ops.pwrite = counting_pwrite;
    a->opt.device_ops = &ops;
    attached = a;
    aid_attach(a);
    aid_sync(a);
    cr_assert_eq(atomic_load(&buffers_seen), BUFFERS);
    aid_free(a);
}

/* ---- degraded, and why ---- */

Test(ext_fault, reads_that_fail_are_noticed_and_so_is_their_end_without_any_get)
{
    struct aid *a = faulty(12);
    aid_start(a);
    store(a, 0, 40);
    aid_sync(a);
    struct ext_ring *ring = ext_ring_create(a->ext);
    atomic_store(&a->faults.read_errno, EIO);
    for (unsigned i = 0; i < EXT_DEVICE_READS_FAIL_AT; i++)
        cr_assert_eq(aid_get(a, ring, i), -EIO);
    struct ext_info info = aid_info(a);
    cr_assert(info.degraded);
    cr_assert_not_null(strstr(info.degraded_why, "reads fail (Input/output error)"), "%s",
                       info.degraded_why);
    for (unsigned i = 0; i < 20; i++)
        (void)aid_step(a);
    cr_assert(aid_info(a).degraded);
    atomic_store(&a->faults.read_errno, 0);
    AID_WAIT_FOR((aid_step(a), !aid_info(a).degraded));
    ext_ring_destroy(ring);
    aid_free(a);
}

Test(ext_fault, a_dead_device_is_told_at_once_and_nobody_waits_for_it)
{
    struct aid *a = faulty(12);
    aid_start(a);
    atomic_store(&a->faults.write_errno, ENOSPC);
    uint32_t stored = 0;
    int rc = 0;
    for (unsigned tries = 0; tries < 5000 && rc != -EIO; tries++) {
        rc = aid_set(a, stored, BYTES, EXT_BUCKET_DEFAULT);
        if (rc == 0)
            stored++;
        else
            aid_nap();
    }
    struct ext_info info = aid_info(a);
    cr_assert_eq(rc, -EIO, "%d: %s", rc, info.degraded_why);
    cr_assert(info.degraded);
    cr_assert_not_null(strstr(info.degraded_why, "writes fail (No space left on device)"), "%s",
                       info.degraded_why);
    cr_assert_eq(there(a, 0, stored), stored);
    atomic_store(&a->faults.write_errno, 0);
    AID_WAIT_FOR((aid_step(a), aid_set(a, stored, BYTES, EXT_BUCKET_DEFAULT) == 0));
    AID_WAIT_FOR((aid_step(a), !aid_info(a).degraded));
    cr_assert_eq(there(a, 0, stored + 1), stored + 1);
    aid_free(a);
}

Test(ext_fault, a_full_flash_that_no_page_comes_back_from_is_degraded)
{
    struct aid *a = faulty(8);
    aid_start(a);
    uint32_t page;
    while (ext_page_open(a->ext, EXT_BUCKET_DEFAULT, true, &page) == 0)
        ;
    cr_assert_eq(aid_set(a, 0, BYTES, EXT_BUCKET_DEFAULT), -ENOSPC);
    cr_assert(!aid_info(a).degraded, "a moment without one is not worth telling");
    AID_WAIT_FOR(aid_info(a).degraded);
    cr_assert_str_eq(aid_info(a).degraded_why, "no page can be opened");
    ext_page_seal(a->ext, 0);
    ext_page_seal(a->ext, 1);
    cr_assert_eq(aid_set(a, 0, BYTES, EXT_BUCKET_DEFAULT), 0);
    cr_assert(!aid_info(a).degraded);
    aid_free(a);
}

Test(ext_fault, wrong_bytes_in_a_row_are_told)
{
    struct aid *a = faulty(12);
    aid_start(a);
    store(a, 0, 40);
    aid_sync(a);
    struct ext_ring *ring = ext_ring_create(a->ext);
    atomic_store(&a->faults.flip_chance, 1);
    for (unsigned i = 0; i < 3; i++)
        cr_assert_eq(aid_get(a, ring, i), -EBADMSG);
    cr_assert_not_null(strstr(aid_info(a).degraded_why, "wrong bytes"));
    atomic_store(&a->faults.flip_chance, 0);
    cr_assert_eq(aid_get(a, ring, 0), 0);
    cr_assert(!aid_info(a).degraded);
    ext_ring_destroy(ring);
    aid_free(a);
}

/* ---- the log ---- */

static char *text_of(int fd)
{
    off_t n = lseek(fd, 0, SEEK_END);
    char *text = calloc(1, (size_t)n + 1);
    cr_assert_eq(pread(fd, text, (size_t)n, 0), n);
    return text;
}

/* How many lines contain both. */
static unsigned lines_with(int fd, const char *a, const char *b, const char *c)
{
    char *text = text_of(fd), *save = NULL;
    unsigned n = 0;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        n += strstr(line, a) && strstr(line, b) && strstr(line, c);
    free(text);
    return n;
}

Test(ext_fault, each_kind_of_fault_has_one_line)
{
    int fd = memfd_create("log", 0);
    log_setup(fd, LOG_LEVEL_NOTICE, 0);
    struct aid *a = faulty(12);
    const char *file = a->paths[0];
    aid_start(a);
    store(a, 0, 40);
    aid_sync(a);
    struct ext_ring *ring = ext_ring_create(a->ext);
    atomic_store(&a->faults.short_one_in, 2);
    for (unsigned i = 0; i < 10; i++)
        cr_assert_eq(aid_get(a, ring, i), 0);
    atomic_store(&a->faults.short_one_in, 0);
    atomic_store(&a->faults.flip_chance, 1);
    cr_assert_eq(aid_get(a, ring, 1), -EBADMSG);
    atomic_store(&a->faults.flip_chance, 0);
    atomic_store(&a->faults.read_errno, EIO);
    for (unsigned i = 0; i < 10; i++)
        cr_assert_eq(aid_get(a, ring, i), -EIO);
    atomic_store(&a->faults.read_errno, 0);
    cr_assert_eq(aid_get(a, ring, 0), 0);
    atomic_store(&a->faults.write_fail, 10);
    store(a, 40, 2);
    aid_sync(a);
    AID_WAIT_FOR((aid_step(a), aid_info(a).pages_back == 1));
    AID_WAIT_FOR(lines_with(fd, file, "page tried again at offset ", "used again") == 1); /* after it was counted */
    cr_assert_eq(lines_with(fd, file, "short read at offset ", "read again"), 1);
    cr_assert_eq(lines_with(fd, file, "bad checksum at offset ", "not served"), 1);
    cr_assert_eq(lines_with(fd, file, "read error at offset ", "(Input/output error): tried"), 1);
    cr_assert_eq(lines_with(fd, file, "device failed (Input/output error)", "reads fail"), 1);
    cr_assert_eq(lines_with(fd, file, "device is back", "read again"), 1);
    cr_assert_eq(lines_with(fd, file, "write error at offset ", "(Input/output error): it is"), 1);
    cr_assert_eq(lines_with(fd, file, "page given up at offset ", "another page"), 1);
    cr_assert_eq(lines_with(fd, "flash ", "", ""), 8, "%s", text_of(fd));
    ext_ring_destroy(ring);
    aid_free(a);
    close(fd);
}

Test(ext_fault, a_line_counts_what_was_left_out_since_the_last)
{
    int fd = memfd_create("log", 0);
    log_setup(fd, LOG_LEVEL_NOTICE, 0);
    struct ext_device d = {.path = "/some/file"};
    for (unsigned i = 0; i < 5; i++)
        ext_device_say(&d, EXT_FAULT_READ, 4096, -EIO, "done");
    atomic_store(&d.said[EXT_FAULT_READ].at_ns, 1); /* long ago */
    ext_device_say(&d, EXT_FAULT_READ, 8192, -ENODATA, "done");
    cr_assert_eq(lines_with(fd, "flash /some/file: read error at offset 4096 (Input/output error)",
                            ": done", ""),
                 1);
    cr_assert_eq(
        lines_with(fd, "at offset 8192 (No data available): done", " (4 more like this", ""), 1);
    cr_assert_eq(lines_with(fd, "", "", ""), 2);
    close(fd);
}

/* ---- reclaim of what was written badly, or is read badly ---- */

static void patch(struct aid *a, uint64_t offset, uint64_t bytes)
{
    char *zeroes = calloc(1, bytes);
    int fd = open(a->paths[0], O_WRONLY);
    cr_assert_eq(pwrite(fd, zeroes, bytes, (off_t)offset), (ssize_t)bytes);
    close(fd);
    free(zeroes);
}

/* Ten pages of small objects, of which every second is deleted, so that there is much to rescue. */
static struct aid *fragmented(void)
{
    struct aid *a = aid_new(20, MiB, 128 * KiB);
    a->opt.engine = EXT_ENGINE_THREADS;
    aid_use_faults(a);
    aid_start(a);
    for (uint32_t i = 0; i < 1000; i++)
        aid_set_wait(a, i, 9000, EXT_BUCKET_DEFAULT);
    aid_sync(a);
    for (uint32_t i = 0; i < 1000; i += 2)
        aid_delete(a, i);
    return a;
}

static void rescue_all(struct aid *a)
{
    uint64_t before;
    a->tun.compact_under_pages = 20;
    do {
        before = aid_info(a).compact_rescues;
        aid_maintain(a);
        aid_sync(a);
    } while (aid_info(a).compact_rescues != before);
    cr_assert_gt(aid_info(a).compact_rescues, 300);
}

Test(ext_fault, a_lost_table_costs_no_object)
{
    struct aid *a = fragmented();
    for (unsigned slot = 0; slot < 80; slot += 3)
        patch(a, (slot + 1) * 128 * KiB - 64, 64);
    rescue_all(a);
    cr_assert_gt(aid_info(a).bad_checksums, 10);
    cr_assert_eq(aid_info(a).compact_lost, 0);
    cr_assert_eq(there(a, 0, 1000), 500);
    aid_free(a);
}

Test(ext_fault, a_lost_table_and_lost_records_cost_those_records)
{
    struct aid *a = fragmented();
    uint32_t hit = 0;
    for (unsigned slot = 0; slot < 40; slot += 4) {
        uint64_t at = slot * 128 * KiB + 40960, end = at + 20480;
        patch(a, at, 20480);
        patch(a, (slot + 1) * 128 * KiB - 64, 64);
        for (uint32_t i = 1; i < 1000; i += 2) {
            uint64_t first = a->objects[i].place * EXT_GRANULE_BYTES;
            hit += first < end && first + ext_record_bytes(7, 9000) > at;
        }
    }
    rescue_all(a);
    cr_assert_eq(there(a, 0, 1000), 500 - hit);
    cr_assert_eq(aid_info(a).compact_lost, hit);
    aid_free(a);
}

Test(ext_fault, reads_that_fail_now_and_then_cost_reclaim_nothing)
{
    struct aid *a = fragmented();
    atomic_store(&a->faults.read_chance, 5);
    rescue_all(a);
    atomic_store(&a->faults.read_chance, 0);
    cr_assert_eq(aid_info(a).compact_lost, 0);
    cr_assert_eq(there(a, 0, 1000), 500);
    aid_free(a);
}

Test(ext_fault, bits_that_flip_in_reads_cost_reclaim_nothing)
{
    struct aid *a = fragmented();
    atomic_store(&a->faults.flip_chance, 20);
    rescue_all(a);
    atomic_store(&a->faults.flip_chance, 0);
    cr_assert_gt(aid_info(a).read_retries, 0);
    cr_assert_eq(aid_info(a).compact_lost, 0);
    cr_assert_eq(there(a, 0, 1000), 500);
    aid_free(a);
}

/* ---- a write buffer is written again ---- */

/* The device takes the first half of a buffer, fails, and has lost that half when it is back: what was
 * written before a failed round counts for nothing. */
Test(ext_fault, a_buffer_is_written_from_its_start_after_a_failed_round)
{
    enum { OBJECTS = 10, SIZE = 100000 };
    struct aid *a = aid_new(24, 2 * MiB, MiB);
    a->opt.engine = EXT_ENGINE_THREADS;
    aid_use_faults(a);
    aid_start(a);
    for (uint32_t i = 0; i < OBJECTS; i++)
        aid_set_wait(a, i, SIZE, EXT_BUCKET_DEFAULT);
    atomic_store(&a->faults.write_errno, EIO);
    AID_WAIT_FOR((ext_sync(a->ext, 1), aid_info(a).wbufs_stuck == 1));
    atomic_store(&a->faults.write_skip, 1); /* the first half of the next round */
    AID_WAIT_FOR(atomic_load(&a->faults.write_skip) == 0);
    uint64_t refused = atomic_load(&a->faults.refused);
    AID_WAIT_FOR(atomic_load(&a->faults.refused) > refused); /* so that round has failed */
    lock_take(&a->lock);
    uint64_t slot = ext_place_slot(a->ext, a->objects[0].place);
    lock_release(&a->lock);
    static char garbage[EXT_IO_CHUNK_BYTES];
    memset(garbage, 0xa5, sizeof(garbage));
    int fd = open(a->paths[0], O_WRONLY | O_CLOEXEC);
    cr_assert_geq(fd, 0);
    cr_assert_eq(pwrite(fd, garbage, sizeof(garbage), (off_t)ext_slot_offset(a->ext, slot)),
                 (ssize_t)sizeof(garbage));
    close(fd);
    atomic_store(&a->faults.write_errno, 0);
    AID_WAIT_FOR(ext_sync(a->ext, 1000) == 0);
    for (uint32_t i = 100; i < 200; i++) /* more than the buffers hold, so that reads go to the device */
        aid_set_wait(a, i, SIZE, EXT_BUCKET_DEFAULT);
    aid_sync(a);
    cr_assert_eq(there(a, 0, OBJECTS), OBJECTS);
    cr_assert_eq(aid_info(a).bad_checksums, 0);
    aid_free(a);
}

/* An earlier process may have died while it wrote an entry, so no entry is believed unchecked. */
Test(ext_fault, an_entry_that_points_nowhere_is_passed_over_when_a_buffer_moves)
{
    struct aid *a = faulty(12);
    aid_start(a);
    store(a, 0, 2);
    struct ext_stream *b = &a->ext->streams[EXT_BUCKET_DEFAULT];
    lock_take(&b->lock);
    cr_assert_eq(b->open->fill_count, 2);
    ext_entry_at(b->open->memory + a->ext->wbuf_bytes, 1)->granule = UINT32_MAX;
    lock_release(&b->lock);
    atomic_store(&a->faults.write_fail, 10); /* one round */
    aid_sync(a);
    cr_assert_eq(aid_info(a).write_moved, 1);
    cr_assert_eq(there(a, 0, 1), 1);
    aid_delete(a, 1);
    aid_free(a);
}
