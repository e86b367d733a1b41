/* ext_reclaim_test.c: where free pages come from, checked against a model of the index: nothing is lost unless it
 * was dropped and counted, and no value is wrong or old. Run under TSan too. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "flash/engine.h"
#include "flash/page.h"
#include "t/aid/ext_aid.h"

TestSuite(ext_reclaim, .timeout = 600);

enum { PAGE = 2 * 1024 * 1024, WBUF = 128 * 1024, VALUE = 4000 };

/* Stores objects first .. first + count - 1. */
static void fill(struct aid *a, uint32_t first, uint32_t count)
{
    for (uint32_t i = first; i < first + count; i++)
        aid_set_wait(a, i, VALUE, EXT_BUCKET_DEFAULT);
}

/* Starts the engine and stores this many objects. */
static struct ext_ring *start_filled(struct aid *a, uint32_t count)
{
    aid_start(a);
    struct ext_ring *ring = ext_ring_create(a->ext);
    fill(a, 0, count);
    return ring;
}

/* How many objects of VALUE bytes fill a page. */
static uint32_t per_page(void)
{
    uint64_t record = ext_record_bytes(8, VALUE);
    return (uint32_t)((WBUF - 64 - EXT_MARK_BYTES) / (record + 16) * (PAGE / WBUF));
}

static uint32_t read_all(struct aid *a, struct ext_ring *ring, uint32_t first, uint32_t count)
{
    uint32_t there = 0;
    for (uint32_t i = first; i < first + count; i++) {
        int rc = aid_get(a, ring, i);
        cr_assert(rc == 0 || rc == -ENOENT, "object %u: %d", i, rc);
        there += rc == 0;
    }
    return there;
}

Test(ext_reclaim, a_page_is_free_at_once_when_its_last_object_goes)
{
    struct aid *a = aid_new(8, PAGE, WBUF);
    aid_start(a);
    uint32_t n = per_page();
    fill(a, 0, n + 50); /* the first page is sealed */
    aid_sync(a);
    cr_assert_eq(aid_info(a).pages_used, 2);
    for (uint32_t i = 0; i < n - 1; i++)
        aid_delete(a, i);
    struct ext_page_info p;
    ext_page_info(a->ext, 0, &p);
    cr_assert_eq(p.state, EXT_PAGE_SEALED);
    cr_assert_eq(p.objects, 1);
    aid_delete(a, n - 1);
    ext_page_info(a->ext, 0, &p);
    cr_assert_eq(p.state, EXT_PAGE_FREE);
    cr_assert_eq(p.version, 0);
    cr_assert_eq(aid_info(a).page_reclaims, 1);
    aid_free(a);
}

Test(ext_reclaim, a_reader_keeps_its_page_until_it_has_finished)
{
    struct aid *a = aid_new(8, PAGE, WBUF);
    aid_start(a);
    uint32_t n = per_page();
    fill(a, 0, n + 50);
    aid_sync(a);
    ext_pin(a->ext, a->objects[0].place);
    ext_place pinned = a->objects[0].place;
    for (uint32_t i = 0; i < n; i++)
        aid_delete(a, i);
    struct ext_page_info p;
    ext_page_info(a->ext, 0, &p);
    cr_assert_eq(p.state, EXT_PAGE_SEALED);
    ext_unpin(a->ext, pinned);
    ext_page_info(a->ext, 0, &p);
    cr_assert_eq(p.state, EXT_PAGE_FREE);
    aid_free(a);
}

Test(ext_reclaim, the_most_fragmented_page_is_rescued_and_nothing_is_lost)
{
    struct aid *a = aid_new(8, PAGE, WBUF);
    uint32_t n = per_page();
    struct ext_ring *ring = start_filled(a, 3 * n);
    aid_sync(a);
    for (uint32_t i = 0; i < 3 * n; i++) { /* page 0: 9/10 left, page 1: 1/4, page 2: all */
        if ((i < n && i % 10 == 0) || (i >= n && i < 2 * n && i % 4 != 0))
            aid_delete(a, i);
    }
    uint32_t left = read_all(a, ring, 0, 3 * n);
    atomic_store(&a->tun.compact_under_pages, 6); /* 5 are free */
    aid_maintain(a);
    struct ext_info info = aid_info(a);
    cr_assert_eq(info.compact_lost, 0);
    cr_assert_eq(info.objects_evicted, 0);
    cr_assert_eq(info.compact_rescues, a->moved);
    cr_assert(info.compact_rescues >= n / 4 - 1 && info.compact_rescues <= n / 4 + 1, "%" PRIu64,
              info.compact_rescues);
    struct ext_page_info p;
    ext_page_info(a->ext, 1, &p);
    cr_assert_neq(p.state, EXT_PAGE_SEALED);
    cr_assert_eq(read_all(a, ring, 0, 3 * n), left);
    ext_ring_destroy(ring);
    aid_free(a);
}

/* A page of which every other object was deleted is rescued, while `goes` of the others are deleted too. */
static struct aid *rescued(uint32_t goes)
{
    struct aid *a = aid_new(8, PAGE, WBUF);
    aid_start(a);
    uint32_t n = per_page();
    fill(a, 0, 2 * n);
    aid_sync(a);
    for (uint32_t i = 1; i < n; i += 2)
        aid_delete(a, i);
    atomic_store(&a->faults.goes, goes);
    atomic_store(&a->tun.compact_under_pages, 7);
    aid_maintain(a);
    cr_assert_gt(aid_info(a).compact_rescues, goes);
    cr_assert_eq(atomic_load(&a->faults.goes), 0u);
    aid_check_counts(a);
    return a;
}

Test(ext_reclaim, deletes_during_a_rescue_are_counted_nowhere) { aid_free(rescued(3)); }

/* The sequence number tells the younger of two values of a key. */
Test(ext_reclaim, what_is_rescued_keeps_its_place_in_the_order)
{
    struct aid *a = rescued(0);
    struct ext_ring *ring = ext_ring_create(a->ext);
    uint64_t last = 0;
    for (uint32_t i = 0; i < 2 * per_page(); i++) {
        if (!a->objects[i].present)
            continue;
        cr_assert_eq(aid_get(a, ring, i), 0);
        cr_assert_gt(a->objects[i].seq, last, "object %u", i);
        last = a->objects[i].seq;
    }
    ext_ring_destroy(ring);
    aid_free(a);
}

Test(ext_reclaim, pages_that_are_hardly_fragmented_are_left_alone)
{
    struct aid *a = aid_new(8, PAGE, WBUF);
    aid_start(a);
    uint32_t n = per_page();
    fill(a, 0, 3 * n);
    aid_sync(a);
    for (uint32_t i = 0; i < 3 * n; i += 10)
        aid_delete(a, i);
    atomic_store(&a->tun.compact_under_pages, 8);
    aid_maintain(a);
    cr_assert_eq(aid_info(a).compact_rescues, 0);
    aid_free(a);
}

Test(ext_reclaim, low_ttl_pages_are_not_compacted)
{
    struct aid *a = aid_new(8, PAGE, WBUF);
    aid_start(a);
    uint32_t n = per_page();
    for (uint32_t i = 0; i < 2 * n; i++)
        aid_set_wait(a, i, VALUE, EXT_BUCKET_LOWTTL);
    aid_sync(a);
    for (uint32_t i = 0; i < 2 * n; i++) {
        if (i % 4 != 0)
            aid_delete(a, i);
    }
    atomic_store(&a->tun.compact_under_pages, 8);
    aid_maintain(a);
    cr_assert_eq(aid_info(a).compact_rescues, 0);
    aid_free(a);
}

Test(ext_reclaim, low_ttl_pages_are_compacted_before_anything_is_evicted)
{
    struct aid *a = aid_new(8, PAGE, WBUF);
    aid_start(a);
    struct ext_ring *ring = ext_ring_create(a->ext);
    uint32_t n = per_page(), there = 0;
    for (uint32_t i = 0; i < 6 * n; i++)
        aid_set_wait(a, i, VALUE, EXT_BUCKET_LOWTTL);
    aid_sync(a);
    for (uint32_t i = 0; i < 6 * n; i++) {
        if (i % 4 == 0)
            there++;
        else
            aid_delete(a, i);
    }
    fill(a, 6 * n, 2 * n);
    aid_maintain(a);
    cr_assert_eq(aid_info(a).objects_evicted, 0);
    cr_assert_eq(read_all(a, ring, 0, 8 * n), there + 2 * n);
    ext_ring_destroy(ring);
    aid_free(a);
}

/* No page is less than half live, but flash is. */
Test(ext_reclaim, nothing_is_evicted_while_a_third_of_flash_is_dead)
{
    struct aid *a = aid_new(32, PAGE, WBUF);
    uint32_t n = per_page(), there = 0;
    struct ext_ring *ring = start_filled(a, 29 * n);
    aid_sync(a);
    for (uint32_t i = 0; i < 29 * n; i++) {
        if (i % 20 < 11)
            there++;
        else
            aid_delete(a, i);
    }
    fill(a, 29 * n, 4 * n);
    aid_maintain(a);
    struct ext_info info = aid_info(a);
    cr_assert_eq(info.objects_evicted, 0);
    cr_assert_gt(info.compact_rescues, 0);
    cr_assert_not(atomic_load(&a->ext->is_crowded));
    cr_assert_eq(read_all(a, ring, 0, 33 * n), there + 4 * n);
    ext_ring_destroy(ring);
    aid_free(a);
}

/* Each page has values that have expired and others that never do. */
Test(ext_reclaim, nothing_is_evicted_for_what_has_expired_among_others)
{
    struct aid *a = aid_new(32, PAGE, WBUF);
    uint32_t n = per_page();
    aid_start(a);
    aid_maintain(a); /* tells the engine the time */
    struct ext_ring *ring = ext_ring_create(a->ext);
    for (uint32_t i = 0; i < 28 * n; i += 2)
        a->objects[i].exptime_unix = atomic_load(&a->now_unix) + 1000;
    fill(a, 0, 28 * n);
    aid_sync(a);
    atomic_fetch_add(&a->now_unix, 1001 + EXT_EXPIRE_GRACE_SEC);
    aid_maintain(a);
    fill(a, 28 * n, 6 * n);
    aid_maintain(a);
    cr_assert_eq(aid_info(a).objects_evicted, 0);
    for (uint32_t i = 1; i < 28 * n; i += 2)
        cr_assert_eq(aid_get(a, ring, i), 0, "object %u", i);
    cr_assert_eq(read_all(a, ring, 28 * n, 6 * n), 6 * n);
    ext_ring_destroy(ring);
    aid_free(a);
}

/* Most values of a page expire at its end, and a few soon: as an estimate half of it has expired when a tenth has. */
Test(ext_reclaim, pages_that_turn_out_to_be_alive_are_not_rewritten_one_after_the_other)
{
    struct aid *a = aid_new(32, PAGE, WBUF);
    uint32_t n = per_page();
    aid_start(a);
    aid_maintain(a); /* tells the engine the time */
    for (uint32_t i = 0; i < 29 * n; i++)
        a->objects[i].exptime_unix = atomic_load(&a->now_unix) + (i % 10 == 0 ? 10 : 4000);
    fill(a, 0, 29 * n);
    aid_sync(a);
    atomic_fetch_add(&a->now_unix, 3000);
    aid_maintain(a);
    fill(a, 29 * n, 8 * n);
    aid_maintain(a);
    struct ext_info info = aid_info(a);
    cr_assert_gt(info.objects_evicted, 0);
    cr_assert_lt(info.compact_rescues, 4 * n, "%" PRIu64 " of %u", info.compact_rescues, n);
    aid_free(a);
}

Test(ext_reclaim, when_flash_is_full_the_oldest_go_and_are_counted)
{
    struct aid *a = aid_new(8, PAGE, WBUF);
    aid_start(a);
    struct ext_ring *ring = ext_ring_create(a->ext);
    uint32_t n = per_page();
    fill(a, 0, 3 * 8 * n); /* three times the flash */
    aid_maintain(a);
    struct ext_info info = aid_info(a);
    uint32_t there = read_all(a, ring, 0, 24 * n);
    cr_assert_gt(info.page_evictions, 0);
    cr_assert_eq(info.objects_evicted, a->evicted);
    cr_assert_eq(there + a->evicted, 24 * n);
    cr_assert_eq(info.compact_lost, 0);
    cr_assert_eq(aid_get(a, ring, 24 * n - 1), 0);
    cr_assert_eq(aid_get(a, ring, 0), -ENOENT);
    cr_assert_geq(there, 4 * n, "more was given up than needed");
    ext_ring_destroy(ring);
    aid_free(a);
}

Test(ext_reclaim, what_was_hit_survives_the_eviction_of_its_page)
{
    struct aid *a = aid_new(8, PAGE, WBUF);
    uint32_t n = per_page();
    struct ext_ring *ring = start_filled(a, n);
    for (uint32_t i = 0; i < 20; i++) /* a few of the oldest page are read */
        cr_assert_eq(aid_get(a, ring, i * 7), 0);
    fill(a, n, 7 * n);
    aid_maintain(a);
    cr_assert_gt(aid_info(a).page_evictions, 0);
    for (uint32_t i = 0; i < 20; i++)
        cr_assert_eq(aid_get(a, ring, i * 7), 0, "hot object %u", i * 7);
    cr_assert_eq(aid_get(a, ring, 1), -ENOENT);
    ext_ring_destroy(ring);
    aid_free(a);
}

/* Reads each of the first page's objects but every `but`th so often. */
static void heat_first_page(struct aid *a, struct ext_ring *ring, uint32_t but, unsigned times)
{
    for (uint32_t i = 0; i < per_page(); i++) {
        for (unsigned k = 0; k < times && i % but != 0; k++)
            cr_assert_eq(aid_get(a, ring, i), 0);
    }
}

Test(ext_reclaim, a_page_stays_while_it_is_hit_and_nothing_is_rewritten)
{
    struct aid *a = aid_new(8, PAGE, WBUF);
    a->tun.stay_pct = 50;
    a->tun.rewrite_pct = 0;
    aid_start(a);
    struct ext_ring *ring = ext_ring_create(a->ext);
    uint32_t n = per_page(), turn = 7 * n;
    fill(a, 0, n);
    heat_first_page(a, ring, 3, 3);
    for (unsigned round = 0; round < 2; round++) {
        heat_first_page(a, ring, 3, round); /* heat 3, then 1 and hit once more */
        fill(a, n + round * turn, turn);
        aid_maintain(a);
        for (uint32_t i = 0; i < n; i++)
            cr_assert(a->objects[i].present, "object %u, round %u", i, round);
    }
    struct ext_info info = aid_info(a);
    cr_assert_eq(info.pages_kept, 2);
    cr_assert_eq(info.compact_rescues, 0);
    for (uint32_t i = 0; i < n; i++)
        cr_assert_eq(a->objects[i].heat, i % 3 != 0, "halved");
    fill(a, n + 2 * turn, 2 * turn);
    aid_maintain(a);
    cr_assert_eq(read_all(a, ring, 0, n), 0, "cold, it goes like any");
    cr_assert_eq(ext_reconcile(a->ext), 0);
    ext_ring_destroy(ring);
    aid_free(a);
}

Test(ext_reclaim, a_page_less_than_half_hot_goes)
{
    struct aid *a = aid_new(8, PAGE, WBUF);
    a->tun.stay_pct = 50;
    a->tun.rewrite_pct = 0;
    uint32_t n = per_page();
    struct ext_ring *ring = start_filled(a, n);
    for (uint32_t i = 0; i < n; i++) { /* all once, less than half of them twice */
        for (unsigned k = 0; k < 1 + (i < n / 2 - 20); k++)
            cr_assert_eq(aid_get(a, ring, i), 0);
    }
    fill(a, n, 7 * n);
    aid_maintain(a);
    cr_assert_eq(read_all(a, ring, 0, n), 0);
    cr_assert_eq(aid_info(a).pages_kept, 0);
    ext_ring_destroy(ring);
    aid_free(a);
}

Test(ext_reclaim, with_all_hot_writers_still_get_pages)
{
    struct aid *a = aid_new(8, PAGE, WBUF);
    a->tun.stay_pct = 50;
    aid_start(a);
    uint32_t n = per_page();
    for (uint32_t i = 0; i < 40 * n; i++) {
        aid_set_wait(a, i, VALUE, EXT_BUCKET_DEFAULT);
        a->objects[i].heat = 3;
        if (i >= n)
            a->objects[i - n / 2].heat = 3;
    }
    aid_maintain(a);
    struct ext_info info = aid_info(a);
    cr_assert_gt(info.pages_kept, 10);
    cr_assert_gt(info.page_evictions, 20);
    cr_assert_eq(info.objects_evicted, a->evicted);
    aid_free(a);
}

Test(ext_reclaim, of_a_page_that_goes_the_hottest_are_kept_first)
{
    struct aid *a = aid_new(8, PAGE, WBUF);
    a->tun.rewrite_pct = 10;
    aid_start(a);
    struct ext_ring *ring = ext_ring_create(a->ext);
    uint32_t n = per_page(), hot = n / 12;
    fill(a, 0, n);
    for (uint32_t i = 0; i < n; i++)
        a->objects[i].heat = i % 2 == 0 ? 1 : 0;
    for (uint32_t i = n - hot; i < n; i++) /* the last in order */
        a->objects[i].heat = 3;
    fill(a, n, 7 * n);
    aid_maintain(a);
    cr_assert_eq(read_all(a, ring, n - hot, hot), hot, "the hottest");
    uint32_t others = read_all(a, ring, 0, n - hot);
    cr_assert_leq(others, PAGE / 10 / ext_record_bytes(8, VALUE) - hot, "then of the others what the budget allows: %u", others);
    struct ext_info info = aid_info(a);
    cr_assert_leq(info.bytes_rewritten, PAGE / 10);
    cr_assert_gt(info.bytes_rewritten, PAGE / 10 - 2 * 4096 - PAGE / 50);
    ext_ring_destroy(ring);
    aid_free(a);
}

Test(ext_reclaim, switched_off_a_page_goes_whole)
{
    struct aid *a = aid_new(8, PAGE, WBUF);
    a->tun.rewrite_pct = 0;
    a->tun.stay_pct = 0;
    uint32_t n = per_page();
    struct ext_ring *ring = start_filled(a, n);
    heat_first_page(a, ring, 5, 2);
    fill(a, n, 7 * n);
    aid_maintain(a);
    cr_assert_eq(read_all(a, ring, 0, n), 0);
    struct ext_info info = aid_info(a);
    cr_assert_eq(info.bytes_rewritten, 0);
    cr_assert_eq(info.pages_kept, 0);
    ext_ring_destroy(ring);
    aid_free(a);
}

Test(ext_reclaim, a_page_of_expired_objects_goes_without_a_read)
{
    struct aid *a = aid_new(8, PAGE, WBUF);
    aid_use_faults(a);
    aid_start(a);
    uint32_t n = per_page();
    for (uint32_t i = 0; i < n; i++)
        a->objects[i].exptime_unix = 1000100;
    fill(a, 0, n + 20);
    aid_sync(a);
    aid_maintain(a);
    cr_assert_eq(aid_info(a).objects_expired, 0);
    atomic_store(&a->now_unix, 1000103);
    aid_maintain(a);
    cr_assert_eq(aid_info(a).objects_expired, n);
    cr_assert_eq(a->dropped, n);
    cr_assert_eq(aid_info(a).page_reclaims, 1);
    cr_assert_eq(a->faults.reads, 0);
    cr_assert_eq(aid_info(a).bytes_read_reclaim, 0);
    cr_assert_eq(aid_info(a).objects_evicted, 0);
    aid_free(a);
}

static bool (*model_sweep)(void *, const struct ext_sweep *, uint64_t *, enum ext_drop_why);
static unsigned walks;

/* Before the second part of the walk the page gets a record that lives, as one that is BAD may. */
static bool sweep_with_an_append(void *ctx, const struct ext_sweep *what, uint64_t *cursor, enum ext_drop_why why)
{
    struct aid *a = ctx;
    if (++walks == 2)
        ext_raise(&a->ext->pages[0].exptime_max, UINT32_MAX);
    return model_sweep(ctx, what, cursor, why);
}

Test(ext_reclaim, a_record_that_joins_an_expired_page_is_not_swept_with_it)
{
    struct aid *a = aid_new(8, PAGE, WBUF);
    enum { APART = 30000 }; /* objects that different parts of the walk meet */
    model_sweep = a->opt.callbacks.sweep;
    a->opt.callbacks.sweep = sweep_with_an_append;
    aid_start(a);
    uint32_t n = per_page();
    for (uint32_t i = 0; i < n; i++) {
        uint32_t id = i % 2 == 0 ? i : APART + i;
        a->objects[id].exptime_unix = 1000100;
        aid_set_wait(a, id, VALUE, EXT_BUCKET_DEFAULT);
    }
    fill(a, 2 * n, 20); /* seals the page */
    aid_sync(a);
    atomic_store(&a->now_unix, 1000103);
    aid_maintain(a);
    cr_assert_gt(walks, 2);
    cr_assert_eq(a->dropped, (n + 1) / 2);
    cr_assert_eq(aid_info(a).objects_expired, (n + 1) / 2);
    for (uint32_t i = 1; i < n; i += 2)
        cr_assert(a->objects[APART + i].present);
    aid_free(a);
}

Test(ext_reclaim, flush_all_frees_pages_that_are_wholly_before_it)
{
    struct aid *a = aid_new(8, PAGE, WBUF);
    aid_start(a);
    uint32_t n = per_page();
    for (uint32_t i = 0; i < 2 * n + 20; i++)
        a->objects[i].time_unix = i < n ? 500 : 600;
    fill(a, 0, 2 * n + 20);
    aid_sync(a);
    ext_flush_all(a->ext, 600); /* for its own second the index decides */
    aid_maintain(a);
    cr_assert_eq(a->dropped, n);
    cr_assert_eq(aid_info(a).objects_expired, n);
    aid_free(a);
}

Test(ext_reclaim, expired_records_are_not_rescued)
{
    struct aid *a = aid_new(8, PAGE, WBUF);
    aid_start(a);
    uint32_t n = per_page();
    for (uint32_t i = 0; i < n; i += 2)
        a->objects[i].exptime_unix = 1000100;
    fill(a, 0, 2 * n);
    aid_sync(a);
    for (uint32_t i = 0; i < n; i++) {
        if (i % 4 >= 2)
            aid_delete(a, i);
    }
    atomic_store(&a->now_unix, 1000200);
    atomic_store(&a->tun.compact_under_pages, 8);
    aid_maintain(a);
    struct ext_info info = aid_info(a);
    cr_assert_gt(info.objects_expired, n / 4 - 4);
    cr_assert_eq(info.objects_expired, a->dropped);
    cr_assert_eq(info.compact_rescues, a->moved);
    cr_assert_eq(info.compact_lost, 0);
    aid_free(a);
}

Test(ext_reclaim, a_full_index_makes_the_oldest_page_go)
{
    struct aid *a = aid_new(8, PAGE, WBUF);
    aid_start(a);
    uint32_t n = per_page();
    fill(a, 0, 3 * n);
    aid_sync(a);
    ext_evict_oldest(a->ext);
    aid_maintain(a);
    struct ext_info info = aid_info(a);
    cr_assert_eq(info.evicted_index_full, a->evicted);
    cr_assert_eq(info.objects_evicted, a->evicted);
    cr_assert(a->evicted >= n - 1 && a->evicted <= n, "%" PRIu64, a->evicted);
    cr_assert(!a->objects[0].present);
    cr_assert(a->objects[n].present);
    aid_free(a);
}

Test(ext_reclaim, for_a_full_index_what_was_hit_stays_where_it_is)
{
    struct aid *a = aid_new(8, PAGE, WBUF);
    a->tun.stay_pct = 33;
    uint32_t n = per_page();
    struct ext_ring *ring = start_filled(a, 3 * n);
    aid_sync(a);
    for (uint32_t i = 0; i < n; i += 4)
        a->objects[i].heat = 2;
    uint64_t written = aid_info(a).device_bytes_written;
    ext_evict_oldest(a->ext);
    aid_maintain(a);
    for (uint32_t i = 0; i < n - 1; i++) {
        cr_assert_eq(a->objects[i].present, i % 4 == 0, "object %u", i);
        cr_assert(i % 4 != 0 || a->objects[i].heat == 1, "object %u", i);
    }
    cr_assert(a->objects[n].present);
    cr_assert_eq(aid_info(a).evicted_index_full, a->evicted);
    cr_assert_eq(aid_info(a).device_bytes_written, written);
    cr_assert_eq(read_all(a, ring, 0, n), (n + 3) / 4);
    /* All is hot: pages cool down in turn, until something goes. */
    for (uint32_t i = 0; i < 3 * n; i++)
        a->objects[i].heat = a->objects[i].present ? 3 : 0;
    uint64_t before = a->evicted;
    ext_evict_oldest(a->ext);
    AID_WAIT_FOR((aid_step(a), a->evicted > before));
    cr_assert_eq(ext_reconcile(a->ext), 0);
    ext_ring_destroy(ring);
    aid_free(a);
}

Test(ext_reclaim, a_full_index_makes_even_the_page_go_that_is_being_filled)
{
    struct aid *a = aid_new(8, PAGE, WBUF);
    aid_start(a);
    fill(a, 0, 50);
    ext_evict_oldest(a->ext);
    AID_WAIT_FOR((aid_step(a), aid_info(a).evicted_index_full == 50));
    AID_WAIT_FOR((aid_step(a), aid_info(a).pages_used == 0));
    fill(a, 50, 50);
    cr_assert_eq(aid_info(a).objects_used, 50);
    aid_free(a);
}

Test(ext_reclaim, drop_unread_leaves_behind_what_was_never_hit)
{
    struct aid *a = aid_new(8, PAGE, WBUF);
    uint32_t n = per_page();
    struct ext_ring *ring = start_filled(a, 3 * n);
    aid_sync(a);
    for (uint32_t i = 0; i < n; i += 10)
        cr_assert_eq(aid_get(a, ring, i), 0);
    atomic_store(&a->tun.drop_under_pages, 6);
    atomic_store(&a->tun.drop_unread, true);
    while (aid_info(a).page_reclaims == 0) {
        if (!ext_maint_step(a->ext, 1000000))
            aid_nap();
    }
    cr_assert_gt(aid_info(a).objects_unread_dropped, n / 2);
    for (uint32_t i = 0; i < n - 10; i += 10)
        cr_assert_eq(aid_get(a, ring, i), 0);
    ext_ring_destroy(ring);
    aid_free(a);
}

Test(ext_reclaim, rescued_records_go_to_the_device_of_their_class)
{
    struct aid *a = aid_new(8, PAGE, WBUF);
    aid_add_device(a, 4, EXT_BUCKET_COMPACT);
    uint32_t n = per_page();
    struct ext_ring *ring = start_filled(a, 3 * n);
    aid_sync(a);
    for (uint32_t i = 0; i < 3 * n; i++) {
        if (i % 2 == 0)
            aid_delete(a, i);
    }
    atomic_store(&a->tun.compact_under_pages, 9);
    aid_maintain(a);
    cr_assert_eq(aid_info(a).compact_lost, 0);
    unsigned on_compact = 0;
    for (unsigned i = 0; i < ext_page_count(a->ext); i++) {
        struct ext_page_info p;
        ext_page_info(a->ext, i, &p);
        if (p.bucket == EXT_BUCKET_COMPACT && p.state != EXT_PAGE_FREE) {
            cr_assert_eq(p.free_bucket, EXT_BUCKET_COMPACT);
            on_compact++;
        }
    }
    cr_assert_gt(on_compact, 0);
    read_all(a, ring, 0, 3 * n);
    ext_ring_destroy(ring);
    aid_free(a);
}

Test(ext_reclaim, nothing_is_evicted_while_the_device_for_rescued_records_has_room)
{
    struct aid *a = aid_new(6, PAGE, WBUF);
    aid_add_device(a, 6, EXT_BUCKET_COMPACT);
    uint32_t n = per_page();
    struct ext_ring *ring = start_filled(a, 8 * n);
    aid_maintain(a);
    cr_assert_eq(aid_info(a).objects_evicted, 0);
    cr_assert_gt(aid_info(a).compact_rescues, n);
    cr_assert_eq(read_all(a, ring, 0, 8 * n), 8 * n);
    ext_ring_destroy(ring);
    aid_free(a);
}

/* Overwrites `bytes` bytes of page 0 of the first file. */
static void spoil(struct aid *a, uint64_t offset, uint64_t bytes)
{
    int fd = open(a->paths[0], O_WRONLY);
    cr_assert_geq(fd, 0);
    char *junk = malloc(bytes);
    memset(junk, 0x5a, bytes);
    cr_assert_eq(pwrite(fd, junk, bytes, (off_t)offset), (ssize_t)bytes);
    close(fd);
    free(junk);
}

Test(ext_reclaim, a_sweep_counts_what_it_drops_at_once)
{
    struct aid *a = aid_new(8, PAGE, WBUF);
    aid_start(a);
    uint32_t n = per_page();
    fill(a, 0, 2 * n);
    aid_sync(a);
    spoil(a, 0, PAGE);
    for (uint32_t i = 1; i < n; i++) /* its remaining objects are dropped first, long before the sweep ends */
        aid_delete(a, i);
    atomic_store(&a->tun.compact_under_pages, 7);
    while (atomic_load(&a->dropped) == 0) {
        ext_maint_step(a->ext, atomic_load(&a->now_unix));
        aid_nap();
    }
    cr_assert_eq(aid_info(a).compact_lost, atomic_load(&a->dropped));
    aid_maintain(a);
    cr_assert_eq(aid_info(a).compact_lost, atomic_load(&a->dropped));
    aid_free(a);
}

Test(ext_reclaim, a_slot_whose_table_is_destroyed_is_swept_and_counted)
{
    struct aid *a = aid_new(8, PAGE, WBUF);
    uint32_t n = per_page();
    struct ext_ring *ring = start_filled(a, 2 * n);
    aid_sync(a);
    uint32_t per_slot = n / (PAGE / WBUF);
    spoil(a, 3 * WBUF - 3 * 4096, 3 * 4096); /* slot 2 of page 0, with its last record */
    for (uint32_t i = 0; i < n; i++) {
        if (i % 2 == 0)
            aid_delete(a, i);
    }
    atomic_store(&a->tun.compact_under_pages, 7);
    aid_maintain(a);
    struct ext_info info = aid_info(a);
    cr_assert_gt(a->sweeps, 0);
    cr_assert_eq(info.compact_lost, a->dropped);
    cr_assert_leq(a->dropped, per_slot);
    cr_assert_gt(a->dropped, 0);
    cr_assert_gt(info.bad_checksums, 0);
    read_all(a, ring, 0, 2 * n);
    ext_ring_destroy(ring);
    aid_free(a);
}

Test(ext_reclaim, a_record_that_is_destroyed_is_not_rescued)
{
    struct aid *a = aid_new(8, PAGE, WBUF);
    aid_start(a);
    uint32_t n = per_page();
    fill(a, 0, 2 * n);
    aid_sync(a);
    a->tun.max_frag = 0.99;
    for (uint32_t i = 1; i < 20; i++)
        aid_delete(a, i);
    spoil(a, EXT_MARK_BYTES, 100); /* object 0 */
    atomic_store(&a->tun.compact_under_pages, 7);
    aid_maintain(a);
    cr_assert_eq(aid_info(a).compact_lost, 1);
    cr_assert_eq(a->dropped, 1);
    cr_assert(!a->objects[0].present);
    aid_free(a);
}

Test(ext_reclaim, a_busy_write_buffer_loses_nothing)
{
    struct aid *a = aid_new(8, PAGE, WBUF);
    a->opt.wbuf_count = 4;
    aid_use_faults(a);
    uint32_t n = per_page();
    struct ext_ring *ring = start_filled(a, 3 * n);
    aid_sync(a);
    for (uint32_t i = 0; i < 3 * n; i++) {
        if (i % 2 == 0)
            aid_delete(a, i);
    }
    uint32_t left = read_all(a, ring, 0, 3 * n);
    atomic_store(&a->faults.stall_writes, true);
    uint32_t extra = 10000;
    while (aid_set(a, extra, VALUE, EXT_BUCKET_DEFAULT) == 0) /* until every buffer is dirty */
        extra++;
    atomic_store(&a->tun.compact_under_pages, 8);
    for (unsigned i = 0; i < 200; i++) /* the I/O thread is stalled: no step may wait for it */
        ext_maint_step(a->ext, 1000000);
    atomic_store(&a->faults.stall_writes, false);
    aid_maintain(a);
    struct ext_info info = aid_info(a);
    cr_assert_gt(info.compact_rescues, 0);
    cr_assert_eq(info.compact_lost, 0);
    cr_assert_eq(info.objects_evicted, 0);
    cr_assert_eq(read_all(a, ring, 0, 3 * n), left);
    cr_assert_eq(read_all(a, ring, 10000, extra - 10000), extra - 10000);
    ext_ring_destroy(ring);
    aid_free(a);
}

Test(ext_reclaim, pages_that_can_not_be_read_do_not_keep_others_from_being_reclaimed)
{
    struct aid *a = aid_new(8, PAGE, WBUF);
    aid_use_faults(a);
    aid_start(a);
    uint32_t n = per_page();
    fill(a, 0, 4 * n);
    aid_sync(a);
    for (uint32_t i = 0; i < 3 * n; i++) { /* these look best to rescue from */
        if (i % 4 != 0)
            aid_delete(a, i);
    }
    atomic_store(&a->faults.read_bad_end, 3 * PAGE);
    fill(a, 4 * n, 8 * n);
    cr_assert_gt(aid_info(a).page_evictions, 0);
    aid_free(a);
}

enum { RACES = 20000 };
static struct {
    struct aid *aid;
    uint32_t page;
    _Atomic(uint32_t) adds;
    _Atomic(bool) over;
} race;

static void race_add(uint32_t exptime)
{
    ext_page_add_object(race.aid->ext, race.page, 64, 0, exptime, 1);
    ext_drop(race.aid->ext, (ext_place)race.page * (PAGE / EXT_GRANULE_BYTES), 0);
}

static void *race_of_a_rewrite(void *arg UNUSED)
{
    for (uint32_t exptime = 1; !atomic_load(&race.over); exptime++) {
        race_add(exptime);
        atomic_fetch_add(&race.adds, 1);
    }
    return NULL;
}

/* A rewrite appends to a page beside its bucket's appends. */
Test(ext_reclaim, the_last_expiry_of_a_page_survives_appends_of_two_threads)
{
    pthread_t rewrite;
    race.aid = aid_new(8, PAGE, WBUF);
    aid_start(race.aid);
    aid_set_wait(race.aid, 0, VALUE, EXT_BUCKET_DEFAULT);
    race.page = ext_place_page(race.aid->ext, race.aid->objects[0].place);
    struct ext_page *p = &race.aid->ext->pages[race.page];
    cr_assert_eq(pthread_create(&rewrite, NULL, race_of_a_rewrite, NULL), 0);
    bool lost = false;
    for (uint32_t n = 1; n <= RACES && !lost; n++) {
        ext_raised_set(&p->exptime_max, 0);
        race_add(0);
        for (uint32_t seen = atomic_load(&race.adds); atomic_load(&race.adds) - seen < 2;)
            sched_yield();
        lost = ext_raised_get(&p->exptime_max) != UINT32_MAX;
    }
    atomic_store(&race.over, true);
    pthread_join(rewrite, NULL);
    cr_assert_not(lost);
    aid_free(race.aid);
}

Test(ext_reclaim, a_write_limit_slows_rescue_down)
{
    struct aid *a = aid_new(8, PAGE, WBUF);
    a->opt.write_limit_bytes_per_sec = 1000;
    aid_start(a);
    uint32_t n = per_page();
    fill(a, 0, 3 * n);
    aid_sync(a);
    for (uint32_t i = 0; i < 3 * n; i++) {
        if (i % 2 == 0)
            aid_delete(a, i);
    }
    atomic_store(&a->tun.compact_under_pages, 8);
    for (unsigned i = 0; i < 100; i++) {
        ext_maint_step(a->ext, 1000000);
        aid_nap();
    }
    cr_assert_leq(aid_info(a).compact_rescues, 2);
    aid_free(a);
}

Test(ext_reclaim, the_unread_slot_of_a_stalled_device_is_tried_again)
{
    struct aid *a = aid_new(8, PAGE, WBUF);
    a->opt.engine = EXT_ENGINE_THREADS;
    aid_use_faults(a);
    uint32_t n = per_page();
    struct ext_ring *ring = start_filled(a, 3 * n);
    aid_sync(a);
    for (uint32_t i = 0; i < 3 * n; i++) {
        if (i % 2 == 0)
            aid_delete(a, i);
    }
    uint32_t left = read_all(a, ring, 0, 3 * n);
    atomic_store(&a->faults.read_fail, 3);
    atomic_store(&a->tun.compact_under_pages, 6);
    AID_WAIT_FOR((ext_maint_step(a->ext, 1000000), aid_info(a).page_reclaims > 0));
    aid_maintain(a);
    cr_assert_eq(aid_info(a).compact_lost, 0);
    cr_assert_eq(read_all(a, ring, 0, 3 * n), left);
    ext_ring_destroy(ring);
    aid_free(a);
}

struct event_log {
    unsigned start, read_start, read_end, end, fraginfo;
    char first_end[200];
};

static void on_event(void *ctx, const char *line)
{
    struct event_log *log = ctx;
    log->start += strncmp(line, "type=compact_start id=0 version=1", 33) == 0;
    log->read_start += strncmp(line, "type=compact_read_start id=0 offset=", 36) == 0;
    if (strncmp(line, "type=compact_read_end", 21) == 0 && log->read_end++ == 0)
        snprintf(log->first_end, sizeof(log->first_end), "%s", line);
    log->end += strcmp(line, "type=compact_end id=0") == 0;
    log->fraginfo += strncmp(line, "type=compact_fraginfo ratio=0.80 bytes=", 39) == 0;
}

Test(ext_reclaim, events_tell_what_is_going_on)
{
    struct aid *a = aid_new(8, PAGE, WBUF);
    aid_start(a);
    struct event_log log = {0};
    ext_set_event_hook(a->ext, on_event, &log);
    uint32_t n = per_page();
    fill(a, 0, n + 10);
    aid_sync(a);
    for (uint32_t i = 1; i < n; i++)
        aid_delete(a, i);
    atomic_store(&a->tun.compact_under_pages, 7);
    aid_maintain(a);
    cr_assert_eq(log.start, 1);
    cr_assert_eq(log.end, 1);
    cr_assert_eq(log.read_start, log.read_end);
    cr_assert_str_eq(log.first_end,
                     "type=compact_read_end id=0 offset=0 rescues=1 rescues_realloc=0 "
                     "lost=0 lost_oom=0 skipped=0");
    cr_assert_gt(log.fraginfo, 0);
    aid_free(a);
}

/* ---- random load ---- */

struct load {
    struct aid *a;
    unsigned seed;
    uint32_t objects;
    unsigned operations;
    uint32_t value_max;
    _Atomic(bool) *stop;
};

static unsigned draw(unsigned *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

static void random_operation(struct load *l, struct ext_ring *ring, bool maintain)
{
    uint32_t id = draw(&l->seed) % l->objects;
    unsigned what = draw(&l->seed) % 16;
    if (what < 7) {
        uint32_t bytes = draw(&l->seed) % l->value_max;
        enum ext_bucket bucket = what == 0 ? EXT_BUCKET_LOWTTL : EXT_BUCKET_DEFAULT;
        if (maintain)
            aid_set_wait(l->a, id, bytes, bucket);
        else if (aid_set(l->a, id, bytes, bucket) != 0)
            aid_nap();
    } else if (what < 14) {
        int rc = aid_get(l->a, ring, id);
        cr_assert(rc == 0 || rc == -ENOENT, "object %u: %d", id, rc);
    } else {
        aid_delete(l->a, id);
    }
}

static void torture_one(enum ext_engine engine, bool faults)
{
    struct aid *a = aid_new(6, PAGE, WBUF);
    a->opt.engine = engine;
    a->opt.wbuf_count = 5;
    if (faults) {
        aid_use_faults(a);
        atomic_store(&a->faults.short_one_in, 7);
        atomic_store(&a->faults.eintr_one_in, 11);
    }
    a->tun.compact_under_pages = 4;
    aid_start(a);
    struct ext_ring *ring = ext_ring_create(a->ext);
    struct load l = {.a = a, .seed = 42, .objects = 2000, .operations = 15000, .value_max = 9000};
    for (unsigned i = 0; i < l.operations; i++) {
        random_operation(&l, ring, true);
        if (i % 3 == 0)
            ext_maint_step(a->ext, 1000000);
        if (i % 1000 == 0) {
            cr_assert_eq(ext_reconcile(a->ext), 0);
            aid_check_counts(a);
        }
    }
    aid_maintain(a);
    struct ext_info info = aid_info(a);
    cr_assert_eq(info.compact_lost, 0);
    cr_assert_eq(info.objects_evicted, a->evicted);
    cr_assert_eq(a->dropped, 0);
    cr_assert_eq(info.bad_checksums, 0);
    cr_assert_gt(info.compact_rescues, 0);
    ext_ring_destroy(ring);
    aid_free(a);
}

Test(ext_reclaim, random_load_agrees_with_the_model_on_io_uring)
{
    torture_one(EXT_ENGINE_URING, false);
}

Test(ext_reclaim, random_load_agrees_with_the_model_on_threads_with_short_and_interrupted_transfers)
{
    torture_one(EXT_ENGINE_THREADS, true);
}

static void *load_thread(void *arg)
{
    struct load *l = arg;
    struct ext_ring *ring = ext_ring_create(l->a->ext);
    cr_assert_not_null(ring);
    for (unsigned i = 0; i < l->operations; i++)
        random_operation(l, ring, false);
    ext_ring_destroy(ring);
    return NULL;
}

static void *maint_thread(void *arg)
{
    struct load *l = arg;
    while (!atomic_load(l->stop)) {
        if (!ext_maint_step(l->a->ext, 1000000))
            aid_nap();
    }
    return NULL;
}

static void torture_many(enum ext_engine engine, uint32_t write_one_in)
{
    enum { THREADS = 3 };
    struct aid *a = aid_new(24, PAGE / 4, WBUF / 2);
    a->opt.engine = engine;
    a->opt.wbuf_count = 6;
    a->opt.io_threads = 2;
    if (write_one_in != 0) {
        aid_use_faults(a);
        atomic_store(&a->faults.write_one_in, write_one_in);
    }
    a->tun.compact_under_pages = 12;
    aid_start(a);
    _Atomic(bool) stop = false;
    pthread_t threads[THREADS], maint;
    struct load loads[THREADS + 1];
    for (unsigned i = 0; i <= THREADS; i++)
        loads[i] = (struct load){a, i + 1, 1500, 6000, 9000, &stop};
    pthread_create(&maint, NULL, maint_thread, &loads[THREADS]);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, load_thread, &loads[i]);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    atomic_store(&a->faults.write_one_in, 0);
    atomic_store(&stop, true);
    pthread_join(maint, NULL);
    aid_sync(a);
    aid_maintain(a);
    struct ext_ring *ring = ext_ring_create(a->ext);
    read_all(a, ring, 0, 1500);
    ext_ring_destroy(ring);
    struct ext_info info = aid_info(a);
    cr_assert_eq(info.compact_lost, 0);
    cr_assert_eq(a->dropped, 0);
    cr_assert_eq(info.objects_evicted, a->evicted);
    if (write_one_in != 0)
        cr_assert_gt(info.write_moved + info.write_retries, 0);
    aid_free(a);
}

Test(ext_reclaim, threads_agree_with_the_model_on_io_uring)
{
    torture_many(EXT_ENGINE_URING, 0);
}

Test(ext_reclaim, threads_agree_with_the_model_on_threads)
{
    torture_many(EXT_ENGINE_THREADS, 0);
}

Test(ext_reclaim, failing_writes_under_load_lose_nothing)
{
    torture_many(EXT_ENGINE_THREADS, 2);
}

/* Starts or attaches, then loads until it is killed. Counts its operations, for the process that kills it. */
static void load_until_killed(struct aid *a, bool first, unsigned seed, _Atomic(unsigned) *operations)
{
    static _Atomic(bool) stop;
    if (first)
        aid_start(a);
    else
        aid_attach(a);
    struct load maint = {.a = a, .stop = &stop};
    struct load l = {.a = a, .seed = seed, .objects = 1500, .value_max = 9000};
    pthread_t thread;
    pthread_create(&thread, NULL, maint_thread, &maint);
    struct ext_ring *ring = ext_ring_create(a->ext);
    for (;; atomic_fetch_add(operations, 1))
        random_operation(&l, ring, false);
}

/* A number of operations, and then a moment that differs from round to round. */
static void wait_for_load(_Atomic(unsigned) *operations, pid_t child, unsigned round)
{
    while (atomic_load(operations) < 100 * (round + 1)) {
        cr_assert_eq(waitpid(child, NULL, WNOHANG), 0, "it ended by itself");
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    nanosleep(&(struct timespec){.tv_nsec = 10000000 + (long)round * 7654321}, NULL);
}

Test(ext_reclaim, a_kill_at_any_instant_loses_nothing_and_brings_nothing_stale_back)
{
    struct aid *a = aid_new(12, PAGE / 4, WBUF / 2);
    a->tun.compact_under_pages = 8;
    aid_arena_file(a);
    _Atomic(unsigned) *operations =
        mmap(NULL, sizeof(*operations), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(operations, MAP_FAILED);
    for (unsigned round = 0; round < 8; round++) {
        atomic_store(operations, 0);
        pid_t child = fork();
        cr_assert_geq(child, 0);
        if (child == 0)
            load_until_killed(a, round == 0, round + 1, operations);
        wait_for_load(operations, child, round);
        kill(child, SIGKILL);
        int status;
        cr_assert_eq(waitpid(child, &status, 0), child);
        cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "status %x",
                  (unsigned)status);
    }
    aid_attach(a);
    aid_check_counts(a);
    cr_assert_eq(ext_reconcile(a->ext), 0);
    struct ext_ring *ring = ext_ring_create(a->ext);
    cr_assert_gt(read_all(a, ring, 0, 1500), 0);
    aid_sync(a);
    aid_maintain(a);
    read_all(a, ring, 0, 1500);
    cr_assert_eq(aid_info(a).compact_lost, 0);
    cr_assert_eq(aid_info(a).bad_checksums, 0);
    ext_ring_destroy(ring);
    munmap(operations, sizeof(*operations));
    aid_free(a);
}
