/* clean_test.c: an item that was brought back from flash and whose record stays there (items/clean.h): it leaves RAM
 * without a write, and whatever changes, drops, moves or hides one of the two leaves the right value, once. */
#include <criterion/criterion.h>

#include "crawler.h"
#include "flash/engine.h"
#include "items/clean.h"
#include "items/store.h"
#include "stale_check.h"
#include "t/aid/cache_fixture.h"
#include "t/aid/sim_tags.h"

static struct fixture f;
static char value[4096];

static void open_flash(void)
{
    fixture_open(&f, 64, 160);
    atomic_store(&f.config.ext_recache_rate, 1);
}
static void open_tags(void)
{
    fixture_open_tags(&f, 64, 160);
    atomic_store(&f.config.ext_recache_rate, 1);
}
static void close_it(void) { fixture_close(&f); }

TestSuite(clean, .init = open_flash, .fini = close_it);
TestSuite(clean_tags, .init = open_tags, .fini = close_it);

#define STATUS(call, want) cr_assert_eq((call), (want), #call)
#define GONE(key) STATUS(fixture_get(&f, key, value, sizeof(value), NULL), CACHE_NOT_FOUND)
#define IS(key, want)                                                                              \
    do {                                                                                           \
        STATUS(fixture_get(&f, key, value, sizeof(value), NULL), CACHE_OK);                        \
        cr_assert_str_eq(value, want);                                                             \
    } while (0)

/* Objects in RAM, on flash, and in both; all counts agree. */
static void counts_are(uint64_t ram, uint64_t flash, uint64_t clean)
{
    struct cache_totals t;
    struct ext_info e;
    cache_totals(f.cache, &t);
    ext_info(f.ext, &e);
    cr_assert_eq(t.ram_items, ram, "%" PRIu64 " in RAM", t.ram_items);
    cr_assert_eq(t.flash_objects, flash, "%" PRIu64 " on flash", t.flash_objects);
    cr_assert_eq(t.clean_items, clean, "%" PRIu64 " clean", t.clean_items);
    cr_assert_eq(t.curr_items, ram + flash - clean);
    cr_assert_eq(e.objects_used, flash);
    cr_assert_eq(ext_reconcile(f.ext), 0);
}

static uint64_t written(void) { return fixture_counter(&f, CACHE_N_flushed_items); }
static uint64_t left_clean(void) { return fixture_counter(&f, CACHE_N_clean_evictions); }
static uint64_t hash_of(const char *key) { return cache_hash(f.cache, key, strlen(key)); }

static void bring_back(const char *key, const char *want)
{
    for (int i = 0; i < 3; i++)
        IS(key, want);
}

/* "k" is in RAM, clean, and this is its value. */
static void begin_as(const char *text, uint32_t exptime_sec)
{
    STATUS(fixture_store(&f, CACHE_SET, "k", text, strlen(text), 7, exptime_sec, 0), CACHE_OK);
    fixture_flush(&f);
    bring_back("k", text);
    counts_are(1, 1, 1);
    cr_assert_eq(fixture_counter(&f, CACHE_N_recaches), 1);
    cr_assert_eq(written(), 1);
}

/* What a get shows of the key once its item, which isn't clean, is on flash. */
static struct cache_view written_view(void)
{
    struct cache_view view;
    counts_are(1, 0, 0);
    fixture_flush(&f);
    STATUS(fixture_get(&f, "k", value, sizeof(value), &view), CACHE_OK);
    cr_assert(view.on_flash);
    return view;
}

/* It is an item as any other: it is written when it leaves. */
static void must_be_written(const char *want)
{
    uint64_t before = written();
    counts_are(1, 0, 0);
    fixture_flush(&f);
    counts_are(0, 1, 0);
    cr_assert_eq(written() - before, 1);
    cr_assert_eq(left_clean(), 0);
    IS("k", want);
    STATUS(fixture_delete(&f, "k"), CACHE_OK);
    fixture_settle(&f);
    GONE("k");
    counts_are(0, 0, 0);
}

Test(clean, leaves_again_and_again_without_a_write)
{
    struct cache_view before, view;
    begin_as("v", 0);
    STATUS(fixture_get(&f, "k", value, sizeof(value), &before), CACHE_OK);
    cr_assert(!before.on_flash);
    for (unsigned i = 1; i <= 5; i++) {
        fixture_flush(&f);
        counts_are(0, 1, 0);
        cr_assert_eq(left_clean(), i);
        STATUS(fixture_get(&f, "k", value, sizeof(value), &view), CACHE_OK);
        cr_assert(view.on_flash && view.fetched_before);
        cr_assert_eq(view.cas, before.cas);
        cr_assert_eq(view.client_flags, 7u);
        bring_back("k", "v");
        counts_are(1, 1, 1);
    }
    cr_assert_eq(written(), 1);
    STATUS(fixture_delete(&f, "k"), CACHE_OK);
    counts_are(0, 0, 0);
}

Test(clean, hits_in_ram_make_the_record_hot)
{
    begin_as("v", 0);
    struct ext_callbacks cb = cache_ext_callbacks(f.cache);
    index_slot *slots[INDEX_MATCH_MAX];
    struct lock *lock = index_lock(f.index, hash_of("k"));
    lock_take(lock);
    unsigned n = index_match(f.index, hash_of("k"), slots);
    ext_place place = 0;
    for (unsigned i = 0; i < n; i++)
        if (index_kind(f.index, index_load(slots[i])) == INDEX_FLASH)
            place = index_place(f.index, index_load(slots[i]));
    lock_release(lock);
    unsigned heat = 9;
    cb.cool(cb.ctx, hash_of("k"), place);
    cb.cool(cb.ctx, hash_of("k"), place);
    cr_assert(cb.is_live(cb.ctx, hash_of("k"), place, &heat), "a clean item's record is live");
    cr_assert_eq(heat, 0u);
    IS("k", "v");
    IS("k", "v");
    fixture_flush(&f);
    cr_assert(cb.is_live(cb.ctx, hash_of("k"), place, &heat));
    cr_assert_eq(heat, 3u);
    cr_assert_eq(left_clean(), 1);
}

Test(clean, overwritten)
{
    begin_as("old", 0);
    STATUS(fixture_set(&f, "k", "new"), CACHE_OK);
    must_be_written("new");
}

Test(clean, deleted)
{
    begin_as("old", 0);
    STATUS(fixture_delete(&f, "k"), CACHE_OK);
    counts_are(0, 0, 0);
    GONE("k");
    STATUS(fixture_delete(&f, "k"), CACHE_NOT_FOUND);
}

Test(clean, touched)
{
    struct cache_view view;
    uint32_t later = clock_exptime(5000);
    begin_as("v", clock_exptime(100));
    STATUS(fixture_touch(&f, "k", later), CACHE_OK);
    view = written_view();
    cr_assert_eq(view.exptime_sec, later);
    clock_shift(101);
    IS("k", "v");
}

/* gat, mg with T, and mg with the right to recache change the item. */
static void get_with(uint32_t options, uint32_t exptime_sec)
{
    struct cache_op op;
    cache_op_init(&op, CACHE_GET, "k", 1, hash_of("k"));
    op.options = options;
    op.exptime_sec = exptime_sec;
    op.recache_ttl_sec = 1000;
    fixture_run(&f, &op);
    STATUS(op.status, CACHE_OK);
    cache_release(f.worker, &op);
}

Test(clean, touched_by_a_get)
{
    begin_as("v", clock_exptime(100));
    get_with(CACHE_F_TOUCH | CACHE_F_GAT, clock_exptime(5000));
    clock_shift(101);
    must_be_written("v");
}

Test(clean, given_a_token)
{
    struct cache_view view;
    begin_as("v", clock_exptime(100));
    get_with(CACHE_F_META | CACHE_F_RECACHE, 0);
    view = written_view();
    cr_assert(view.token_sent);
}

Test(clean, only_read_by_meta_gets)
{
    begin_as("v", 0);
    get_with(CACHE_F_META, 0);
    get_with(CACHE_F_META | CACHE_F_NOBUMP, 0);
    get_with(CACHE_F_META | CACHE_F_RECACHE, 0);
    counts_are(1, 1, 1);
}

Test(clean, counted_up)
{
    uint64_t n;
    begin_as("12", 0);
    STATUS(fixture_arith(&f, "k", false, 30, &n), CACHE_OK);
    cr_assert_eq(n, 42u);
    must_be_written("42");
}

Test(clean, appended_to)
{
    begin_as("a", 0);
    STATUS(fixture_store(&f, CACHE_APPEND, "k", "b", 1, 0, 0, 0), CACHE_OK);
    must_be_written("ab");
}

Test(clean, swapped_by_cas)
{
    struct cache_view view;
    begin_as("a", 0);
    STATUS(fixture_get(&f, "k", value, sizeof(value), &view), CACHE_OK);
    STATUS(fixture_store(&f, CACHE_CAS, "k", "b", 1, 0, 0, view.cas), CACHE_OK);
    must_be_written("b");
}

static void delete_with(uint32_t options)
{
    struct cache_op op;
    cache_op_init(&op, CACHE_DELETE, "k", 1, hash_of("k"));
    op.options = options | CACHE_F_META;
    fixture_run(&f, &op);
    STATUS(op.status, CACHE_OK);
    cache_release(f.worker, &op);
}

Test(clean, marked_stale)
{
    struct cache_view view;
    begin_as("v", 0);
    delete_with(CACHE_F_INVALIDATE);
    view = written_view();
    cr_assert(view.stale);
}

Test(clean, emptied)
{
    begin_as("v", 0);
    delete_with(CACHE_F_EMPTY);
    must_be_written("");
}

Test(clean, expired)
{
    begin_as("v", clock_exptime(100));
    clock_shift(101);
    GONE("k");
    counts_are(0, 0, 0);
}

Test(clean, expired_at_the_tail)
{
    begin_as("v", clock_exptime(100));
    clock_shift(101);
    fixture_flush(&f);
    counts_are(0, 0, 0);
    cr_assert_eq(written(), 1);
}

Test(clean, flushed_by_flush_all)
{
    begin_as("v", 0);
    cache_flush_all(f.cache, 0);
    fixture_flush(&f);
    GONE("k");
    counts_are(0, 0, 0);
}

/* ---- the record goes, moves, or gets company ---- */

Test(clean, its_page_is_reclaimed)
{
    struct ext_info info;
    begin_as("v", 0);
    cr_assert_eq(ext_sync(f.ext, 120000), 0);
    ext_evict_oldest(f.ext);
    do {
        fixture_turn(&f);
        ext_info(f.ext, &info);
    } while (info.objects_used > 0);
    cr_assert_eq(info.objects_evicted, 0, "the object is still there");
    must_be_written("v");
}

static ext_place place_of(const char *key)
{
    index_slot *slots[INDEX_MATCH_MAX];
    ext_place place = 0;
    struct lock *lock = index_lock(f.index, hash_of(key));
    lock_take(lock);
    unsigned n = index_match(f.index, hash_of(key), slots);
    for (unsigned i = 0; i < n; i++)
        if (index_kind(f.index, index_load(slots[i])) == INDEX_FLASH)
            place = index_place(f.index, index_load(slots[i]));
    lock_release(lock);
    return place;
}

Test(clean, its_record_is_moved)
{
    begin_as("v", 0);
    struct ext_callbacks cb = cache_ext_callbacks(f.cache);
    struct ext_record_in in = {.hash = hash_of("k"), .key = "k", .key_bytes = 1, .value = "v", .value_bytes = 1,
                               .client_flags = 7, .time_unix = (uint32_t)clock_unix_now_sec()};
    ext_place moved;
    unsigned len_class;
    cr_assert_eq(ext_append(f.ext, EXT_BUCKET_COMPACT, &in, &moved, &len_class), 0);
    cr_assert(cb.moved(cb.ctx, in.hash, place_of("k"), moved, len_class));
    counts_are(1, 1, 1);
    fixture_flush(&f);
    counts_are(0, 1, 0);
    cr_assert_eq(place_of("k"), moved);
    cr_assert_eq(left_clean(), 1);
    IS("k", "v");
}

Test(clean, its_record_is_dropped_as_lost)
{
    begin_as("v", 0);
    struct ext_callbacks cb = cache_ext_callbacks(f.cache);
    cr_assert_eq(cb.dropped(cb.ctx, hash_of("k"), place_of("k"), EXT_DROP_LOST, 64), EXT_DROPPED_GONE);
    must_be_written("v");
}

Test(clean, its_page_is_swept)
{
    begin_as("v", 0);
    struct ext_callbacks cb = cache_ext_callbacks(f.cache);
    struct ext_sweep what = {.first = place_of("k"), .end = place_of("k") + 1};
    uint64_t cursor = 0;
    while (cb.sweep(cb.ctx, &what, &cursor, EXT_DROP_LOST))
        ;
    must_be_written("v");
}

/* A walk that looks for what nobody has compared leaves it alone. */
Test(clean, a_walk_leaves_it_alone)
{
    begin_as("v", 0);
    atomic_store(&f.cache->stale.walk_wanted, true);
    for (uint64_t at = 0; stale_walk_step(f.worker, &at);)
        ;
    fixture_settle(&f);
    counts_are(1, 1, 1);
}

/* A check of another reason may compare it with its record, which then goes. */
Test(clean, a_check_makes_it_an_item_as_any_other)
{
    begin_as("v", 0);
    stale_put(&f.cache->stale, &(struct stale_check){.kind = STALE_TAG, .hash = hash_of("k")});
    fixture_settle(&f);
    must_be_written("v");
}

/* One key is clean; then another of the same tag is written: which record is whose is no longer known. */
Test(clean_tags, another_key_of_the_tag_is_written)
{
    const char *one = sim_tags_key(0), *other = sim_tags_key(1);
    STATUS(fixture_set(&f, one, "v"), CACHE_OK);
    fixture_flush(&f);
    bring_back(one, "v");
    counts_are(1, 1, 1);
    STATUS(fixture_set(&f, other, "w"), CACHE_OK);
    counts_are(2, 1, 1);
    struct lock *lock = index_lock(f.index, hash_of(other));
    lock_take(lock);
    index_slot *slots[INDEX_MATCH_MAX];
    unsigned n = index_match(f.index, hash_of(other), slots);
    for (unsigned i = 0; i < n; i++) {
        index_word w = index_load(slots[i]);
        struct item *it = index_kind(f.index, w) == INDEX_RAM ? item_at(f.cache, index_handle(f.index, w)) : NULL;
        if (it && item_value(it)[0] == 'w')
            cr_assert_eq(item_flush(f.cache, it, hash_of(other)), 0);
    }
    cr_assert_eq(written(), 2);
    lock_release(lock);
    counts_are(1, 2, 0);
    fixture_settle(&f);
    counts_are(1, 1, 0);
    fixture_flush(&f);
    counts_are(0, 2, 0);
    cr_assert_eq(left_clean(), 0);
    IS(one, "v");
    IS(other, "w");
    STATUS(fixture_delete(&f, one), CACHE_OK);
    GONE(one);
    IS(other, "w");
}

/* With two records of the tag on flash, none is brought back as clean. */
Test(clean_tags, none_begins_beside_another_record)
{
    const char *one = sim_tags_key(0), *other = sim_tags_key(1);
    STATUS(fixture_set(&f, one, "v"), CACHE_OK);
    STATUS(fixture_set(&f, other, "w"), CACHE_OK);
    fixture_flush(&f);
    counts_are(0, 2, 0);
    bring_back(one, "v");
    counts_are(1, 1, 0);
    bring_back(other, "w");
    counts_are(2, 1, 1);
    STATUS(fixture_delete(&f, one), CACHE_OK);
    counts_are(1, 1, 1);
    fixture_flush(&f);
    counts_are(0, 1, 0);
    IS(other, "w");
    GONE(one);
}

/* ---- a dump ---- */

#define DUMPED 60u /* in some buckets the item comes first, in others its record */

struct dump {
    unsigned count, seen[DUMPED];
    _Atomic(bool) done;
};

static int dump_item(void *ctx, const struct cache_meta *m)
{
    struct dump *d = ctx;
    unsigned i = m->key_bytes == 3 ? (unsigned)(m->key[1] - '0') * 10 + (unsigned)(m->key[2] - '0') : DUMPED;
    cr_assert_lt(i, DUMPED);
    d->count++;
    d->seen[i]++;
    return 0;
}

static void dump_done(void *ctx, bool complete)
{
    struct dump *d = ctx;
    cr_assert(complete);
    atomic_store(&d->done, true);
}

Test(clean, a_dump_shows_it_once)
{
    struct dump d = {0};
    struct crawler_sink sink = {.ctx = &d, .item = dump_item, .done = dump_done};
    char key[8];
    for (unsigned i = 0; i < DUMPED; i++) {
        snprintf(key, sizeof(key), "d%02u", i);
        STATUS(fixture_set(&f, key, "v"), CACHE_OK);
    }
    fixture_flush(&f);
    for (unsigned i = 0; i < DUMPED; i++) {
        snprintf(key, sizeof(key), "d%02u", i);
        bring_back(key, "v");
    }
    counts_are(DUMPED, DUMPED, DUMPED);
    struct crawler *cr = crawler_create(f.cache);
    cr_assert_not_null(cr);
    cr_assert_eq(crawler_start(cr, UINT64_MAX, CRAWLER_METADUMP, &sink), CRAWLER_OK);
    while (!atomic_load(&d.done))
        fixture_turn(&f);
    crawler_destroy(cr);
    cr_assert_eq(d.count, DUMPED);
    for (unsigned i = 0; i < DUMPED; i++)
        cr_assert_eq(d.seen[i], 1u);
    counts_are(DUMPED, 0, 0);
}

/* While one runs, what comes back leaves flash, in one store. */
Test(clean, none_begins_during_a_dump)
{
    STATUS(fixture_set(&f, "k", "v"), CACHE_OK);
    fixture_flush(&f);
    index_hold_growth(f.index, true);
    bring_back("k", "v");
    counts_are(1, 0, 0);
    index_hold_growth(f.index, false);
    must_be_written("v");
}

/* Where the index fills up, no object takes two places. */
Test(clean, none_begins_in_a_crowded_index)
{
    STATUS(fixture_set(&f, "k", "v"), CACHE_OK);
    fixture_flush(&f);
    atomic_store(&f.cache->index_crowded, true);
    bring_back("k", "v");
    counts_are(1, 0, 0);
    atomic_store(&f.cache->index_crowded, false);
    must_be_written("v");
}
