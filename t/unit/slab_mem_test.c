/* slab_mem_test.c: class tables as memcached prints them (-vv), pages, real
 * memory against a model, sparse runs, attach after a kill, threads. */
#include "slab_mem.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#define ACCOUNT_OVER_REAL 25 /* what an item is accounted above its real size */

static struct arena *arena;
static struct slab_mem *sm;

static struct arena *arena_make(uint64_t reserve, const char *file, bool *attached)
{
    struct arena_options opt = {.reserve_bytes = reserve, .file = file};
    char why[256];
    struct arena *a = arena_create(&opt, attached, why, sizeof(why));
    if (a == NULL)
        fprintf(stderr, "%s\n", why);
    return a;
}

static struct slab_options default_options(void)
{
    return (struct slab_options){.limit_bytes = 64 * MiB,
                                 .factor = 1.25,
                                 .min_chunk_bytes = 96,
                                 .chunk_max_bytes = 512 * 1024,
                                 .item_max_bytes = MiB};
}

static void make_with(struct slab_options opt, uint64_t reserve)
{
    bool attached;
    arena = arena_make(reserve, NULL, &attached);
    cr_assert_not_null(arena);
    opt.arena = arena;
    sm = slab_create(&opt);
    cr_assert_not_null(sm);
}

static void make_default(void) { make_with(default_options(), 512 * MiB); }

static void drop(void)
{
    slab_destroy(sm);
    arena_destroy(arena);
}

static struct slab_class_info info(unsigned cls)
{
    struct slab_class_info i;
    slab_info(sm, cls, &i);
    return i;
}

/* Allocates one item of this many accounted bytes in its class. */
static int alloc_item(uint64_t accounted, slab_handle *h)
{
    uint64_t real = accounted - ACCOUNT_OVER_REAL;
    return slab_alloc(sm, slab_class_of(sm, accounted), accounted, real, h);
}

static void free_item(slab_handle h, uint64_t accounted)
{
    slab_free(sm, h, slab_class_of(sm, accounted), accounted, accounted - ACCOUNT_OVER_REAL);
}

/* ---- class tables ----------------------------------------------------------------------- */

/* The table as "id:chunk/perslab ...", as taken from memcached -vv. */
static void table_must_be(struct slab_options opt, const char *wanted)
{
    make_with(opt, 16 * MiB);
    char got[2048] = "";
    size_t at = 0;
    for (unsigned cls = 1; cls <= slab_class_count(sm); cls++) {
        struct slab_class_info i = info(cls);
        at += (size_t)snprintf(got + at, sizeof(got) - at, "%u:%u/%u ", cls, i.chunk_bytes,
                               i.chunks_per_page);
    }
    cr_assert_str_eq(got, wanted);
    drop();
}

#define TABLE_TO_38                                                                                \
    "1:96/10922 2:120/8738 3:152/6898 4:192/5461 5:240/4369 6:304/3449 7:384/2730 8:480/2184 "     \
    "9:600/1747 10:752/1394 11:944/1110 12:1184/885 13:1480/708 14:1856/564 15:2320/451 "          \
    "16:2904/361 17:3632/288 18:4544/230 19:5680/184 20:7104/147 21:8880/118 22:11104/94 "         \
    "23:13880/75 24:17352/60 25:21696/48 26:27120/38 27:33904/30 28:42384/24 29:52984/19 "         \
    "30:66232/15 31:82792/12 32:103496/10 33:129376/8 34:161720/6 35:202152/5 36:252696/4 "        \
    "37:315872/3 38:394840/2 "

Test(slab_classes, default_table) { table_must_be(default_options(), TABLE_TO_38 "39:524288/2 "); }

/* no_chunked_items: the chunk limit is the page. */
Test(slab_classes, no_chunked_items)
{
    struct slab_options opt = default_options();
    opt.chunk_max_bytes = 1024 * 1024;
    table_must_be(opt, TABLE_TO_38 "39:493552/2 40:616944/1 41:771184/1 42:1048576/1 ");
}

/* -f 1.08 fills all 63 ids. */
Test(slab_classes, small_factor)
{
    struct slab_options opt = default_options();
    opt.factor = 1.08;
    table_must_be(
        opt,
        "1:96/10922 2:104/10082 3:112/9362 4:120/8738 5:136/7710 6:152/6898 7:168/6241 8:184/5698 "
        "9:200/5242 10:216/4854 11:240/4369 12:264/3971 13:288/3640 14:312/3360 15:336/3120 "
        "16:368/2849 17:400/2621 18:432/2427 19:472/2221 20:512/2048 21:552/1899 22:600/1747 "
        "23:648/1618 24:704/1489 25:760/1379 26:824/1272 27:896/1170 28:968/1083 29:1048/1000 "
        "30:1136/923 31:1232/851 32:1336/784 33:1448/724 34:1568/668 35:1696/618 36:1832/572 "
        "37:1984/528 38:2144/489 39:2320/451 40:2512/417 41:2712/386 42:2928/358 43:3168/330 "
        "44:3424/306 45:3704/283 46:4000/262 47:4320/242 48:4672/224 49:5048/207 50:5456/192 "
        "51:5896/177 52:6368/164 53:6880/152 54:7432/141 55:8032/130 56:8680/120 57:9376/111 "
        "58:10128/103 59:10944/95 60:11824/88 61:12776/82 62:13800/75 63:524288/2 ");
}

/* -f 2 */
Test(slab_classes, large_factor)
{
    struct slab_options opt = default_options();
    opt.factor = 2;
    table_must_be(opt, "1:96/10922 2:192/5461 3:384/2730 4:768/1365 5:1536/682 6:3072/341 "
                       "7:6144/170 8:12288/85 9:24576/42 10:49152/21 11:98304/10 12:196608/5 "
                       "13:524288/2 ");
}

/* -n 5 */
Test(slab_classes, small_first)
{
    struct slab_options opt = default_options();
    opt.min_chunk_bytes = 53;
    table_must_be(
        opt, "1:56/18724 2:72/14563 3:96/10922 4:120/8738 5:152/6898 6:192/5461 7:240/4369 "
             "8:304/3449 9:384/2730 10:480/2184 11:600/1747 12:752/1394 13:944/1110 14:1184/885 "
             "15:1480/708 16:1856/564 17:2320/451 18:2904/361 19:3632/288 20:4544/230 21:5680/184 "
             "22:7104/147 23:8880/118 24:11104/94 25:13880/75 26:17352/60 27:21696/48 28:27120/38 "
             "29:33904/30 30:42384/24 31:52984/19 32:66232/15 33:82792/12 34:103496/10 35:129376/8 "
             "36:161720/6 37:202152/5 38:252696/4 39:315872/3 40:394840/2 41:524288/2 ");
}

/* -f 1.5 -n 100 */
Test(slab_classes, factor_and_first)
{
    struct slab_options opt = default_options();
    opt.min_chunk_bytes = 148;
    opt.factor = 1.5;
    table_must_be(opt, "1:152/6898 2:232/4519 3:352/2978 4:528/1985 5:792/1323 6:1192/879 "
                       "7:1792/585 8:2688/390 9:4032/260 10:6048/173 11:9072/115 12:13608/77 "
                       "13:20416/51 14:30624/34 15:45936/22 16:68904/15 17:103360/10 18:155040/6 "
                       "19:232560/4 20:348840/3 21:524288/2 ");
}

/* -o slab_sizes=100-200-300-1000-50000 */
Test(slab_classes, explicit_sizes)
{
    static const uint32_t sizes[] = {100, 200, 300, 1000, 50000, 0};
    struct slab_options opt = default_options();
    opt.slab_sizes = sizes;
    table_must_be(opt, "1:104/10082 2:200/5242 3:304/3449 4:1000/1048 5:50000/20 6:524288/2 ");
}

/* -I 256k -o slab_chunk_max of 256 bytes */
Test(slab_classes, tiny_chunk_max)
{
    struct slab_options opt = default_options();
    opt.chunk_max_bytes = 256;
    opt.item_max_bytes = 256 * KiB;
    table_must_be(opt, "1:96/10922 2:120/8738 3:152/6898 4:192/5461 5:256/4096 ");
}

/* A size has the smallest class that holds it; above the last, still the last; 0 above -I. */
Test(slab_classes, class_of_size, .init = make_default, .fini = drop)
{
    for (unsigned cls = 1; cls < slab_class_count(sm); cls++) {
        cr_assert_eq(slab_class_of(sm, info(cls).chunk_bytes), cls);
        cr_assert_eq(slab_class_of(sm, info(cls).chunk_bytes + 1), cls + 1);
    }
    cr_assert_eq(slab_class_of(sm, 1), 1);
    cr_assert_eq(slab_class_of(sm, MiB), 39);
    cr_assert_eq(slab_class_of(sm, MiB + 1), 0);
    cr_assert_eq(slab_class_of(sm, 0), 0);
}

/* Up to slab_chunk_max one chunk, then as many as it takes. */
Test(slab_classes, chunks_of_size, .init = make_default, .fini = drop)
{
    cr_assert_eq(slab_chunks_of(sm, 60), 1);
    cr_assert_eq(slab_chunks_of(sm, 524288), 1);
    cr_assert_eq(slab_chunks_of(sm, 524289), 2);
    cr_assert_eq(slab_chunks_of(sm, MiB), 2);
}

/* Options that make no sense are refused. */
Test(slab_classes, bad_options)
{
    bool attached;
    static const uint32_t sizes[] = {100, 600000, 0};
    arena = arena_make(MiB, NULL, &attached);
    struct slab_options good = default_options(), bad;
    good.arena = arena;
    bad = good, bad.factor = 1;
    cr_assert(slab_create(&bad) == NULL && errno == EINVAL);
    bad = good, bad.chunk_max_bytes = 2 << 20;
    cr_assert(slab_create(&bad) == NULL && errno == EINVAL);
    bad = good, bad.slab_sizes = sizes;
    cr_assert(slab_create(&bad) == NULL && errno == EINVAL);
    arena_destroy(arena);
}

/* ---- pages ------------------------------------------------------------------------------ */

/* Numbers of `stats slabs` for a class follow its items. */
Test(slab_pages, info_follows_items, .init = make_default, .fini = drop)
{
    slab_handle h[11];
    cr_assert_eq(info(32).total_pages, 0);
    for (int i = 0; i < 11; i++)
        cr_assert_eq(alloc_item(100000, &h[i]), 0);
    struct slab_class_info i = info(32);
    cr_assert_eq(i.total_pages, 2);
    cr_assert_eq(i.total_chunks, 20);
    cr_assert_eq(i.used_chunks, 11);
    cr_assert_eq(i.free_chunks, 9);
    cr_assert_eq(i.free_chunks_end, 0);
    cr_assert_eq(i.mem_requested, 1100000);
    cr_assert_eq(slab_pages_total(sm), 2);
    cr_assert_eq(slab_pages_left(sm), 62);
    for (int k = 0; k < 11; k++)
        free_item(h[k], 100000);
    i = info(32);
    cr_assert_eq(i.total_pages, 2);
    cr_assert_eq(i.used_chunks, 0);
    cr_assert_eq(i.mem_requested, 0);
}

Test(slab_pages, pool_is_filled_up_to_the_limit)
{
    struct slab_options opt = default_options();
    opt.limit_bytes = 4 * MiB + 5;
    make_with(opt, 64 * MiB);
    slab_handle h;
    cr_assert_eq(alloc_item(100000, &h), 0);
    slab_fill_pool(sm);
    cr_assert_eq(slab_pages_global(sm), 3);
    cr_assert_eq(slab_pages_left(sm), 3);
    cr_assert_eq(slab_taken_bytes(sm), 4 * MiB);
    slab_set_limit(sm, 2 * MiB);
    cr_assert_eq(slab_pages_global(sm), 1);
    drop();
}

Test(slab_pages, claimed_bytes_count_against_the_limit)
{
    struct slab_options opt = default_options();
    opt.limit_bytes = 4 * MiB;
    make_with(opt, 64 * MiB);
    slab_claim_bytes(sm, 3 * MiB - 32);
    cr_assert_eq(slab_taken_bytes(sm), 3 * MiB - 32);
    cr_assert_eq(slab_pages_left(sm), 1);
    slab_handle h;
    for (int i = 0; i < 10; i++)
        cr_assert_eq(alloc_item(100000, &h), 0);
    cr_assert_eq(alloc_item(100000, &h), -ENOSPC);
    drop();
}

Test(slab_pages, chunks_of_large_items_are_told_apart)
{
    make_with(default_options(), 64 * MiB);
    slab_handle h;
    unsigned last = slab_class_count(sm);
    cr_assert_eq(alloc_item(500000, &h), 0);
    cr_assert_eq(info(last).chained_chunks, 0);
    slab_handle large;
    cr_assert_eq(alloc_item(1000000, &large), 0);
    cr_assert_eq(info(last).used_chunks, 3);
    cr_assert_eq(info(last).chained_chunks, 2);
    free_item(large, 1000000);
    cr_assert_eq(info(last).chained_chunks, 0);
    drop();
}

/* At the limit a class that has a page is full; one that has none gets one. */
Test(slab_pages, limit_holds_but_first_page)
{
    struct slab_options opt = default_options();
    opt.limit_bytes = 4 * MiB + 5;
    make_with(opt, 64 * MiB);
    slab_handle h;
    for (int i = 0; i < 40; i++)
        cr_assert_eq(alloc_item(100000, &h), 0);
    cr_assert_eq(slab_pages_left(sm), 0);
    cr_assert_eq(alloc_item(100000, &h), -ENOSPC);
    cr_assert_eq(info(32).used_chunks, 40);
    cr_assert_eq(alloc_item(1000, &h), 0);
    cr_assert_eq(slab_pages_total(sm), 5);
    drop();
}

/* After one item is freed, exactly one fits again. */
Test(slab_pages, free_makes_room)
{
    struct slab_options opt = default_options();
    opt.limit_bytes = 1 * MiB;
    make_with(opt, 64 * MiB);
    slab_handle h[5461], more;
    for (int i = 0; i < 5461; i++)
        cr_assert_eq(alloc_item(192, &h[i]), 0);
    cr_assert_eq(alloc_item(192, &more), -ENOSPC);
    free_item(h[1234], 192);
    cr_assert_eq(alloc_item(153, &more), 0);
    cr_assert_eq(alloc_item(153, &h[1234]), -ENOSPC);
    drop();
}

/* An item above slab_chunk_max takes several chunks of the last class. */
Test(slab_pages, large_item_takes_chunks)
{
    struct slab_options opt = default_options();
    opt.item_max_bytes = 8 * MiB;
    make_with(opt, 256 * MiB);
    slab_handle h;
    cr_assert_eq(alloc_item(5 * MiB + 1, &h), 0);
    struct slab_class_info i = info(39);
    cr_assert_eq(i.used_chunks, 11);
    cr_assert_eq(i.total_pages, 6);
    cr_assert_eq(i.mem_requested, 5 * MiB + 1);
    free_item(h, 5 * MiB + 1);
    cr_assert_eq(info(39).used_chunks, 0);
    cr_assert_eq(slab_real_bytes(sm), 0);
    drop();
}

/* slabs reassign: a page's worth of free chunks changes the class. */
Test(slab_pages, page_move, .init = make_default, .fini = drop)
{
    slab_handle h[21];
    for (int i = 0; i < 21; i++)
        cr_assert_eq(alloc_item(100000, &h[i]), 0);
    cr_assert_eq(slab_page_move(sm, 32, 25), -ENOSPC);
    free_item(h[0], 100000);
    cr_assert_eq(slab_page_move(sm, 32, 25), 0);
    cr_assert_eq(info(32).total_pages, 2);
    cr_assert_eq(info(32).free_chunks, 0);
    cr_assert_eq(info(25).total_pages, 1);
    cr_assert_eq(info(25).free_chunks, 48);
    cr_assert_eq(slab_pages_total(sm), 3);
    cr_assert_eq(slab_page_move(sm, 25, 32), -ENOENT);
    cr_assert_eq(slab_page_move(sm, 32, 32), -EINVAL);
    cr_assert_eq(slab_page_move(sm, 32, 40), -EINVAL);
    cr_assert_eq(slab_page_move(sm, 0, 32), -ENOSPC);
}

/* Pages given to class 0 wait in the pool for any class. */
Test(slab_pages, global_pool, .init = make_default, .fini = drop)
{
    slab_handle h[21];
    for (int i = 0; i < 21; i++)
        cr_assert_eq(alloc_item(100000, &h[i]), 0);
    for (int i = 0; i < 21; i++)
        free_item(h[i], 100000);
    cr_assert_eq(slab_page_move(sm, 32, 0), 0);
    cr_assert_eq(slab_page_move(sm, 32, 0), 0);
    cr_assert_eq(slab_pages_global(sm), 2);
    cr_assert_eq(slab_pages_total(sm), 3);
    cr_assert_eq(slab_pages_left(sm), 63);
    cr_assert_eq(alloc_item(1000, &h[0]), 0);
    cr_assert_eq(slab_pages_global(sm), 1);
    cr_assert_eq(slab_pages_total(sm), 3);
    cr_assert_eq(slab_page_move(sm, 0, 7), 0);
    cr_assert_eq(info(7).total_pages, 1);
}

/* cache_memlimit: the pool shrinks at once, classes page by page through class 0. */
Test(slab_pages, lower_limit, .init = make_default, .fini = drop)
{
    slab_handle h[50];
    for (int i = 0; i < 50; i++)
        cr_assert_eq(alloc_item(100000, &h[i]), 0);
    for (int i = 0; i < 50; i++)
        free_item(h[i], 100000);
    cr_assert_eq(slab_page_move(sm, 32, 0), 0);
    cr_assert_eq(slab_set_limit(sm, 2 * MiB), 2);
    cr_assert_eq(slab_pages_global(sm), 0);
    cr_assert_eq(slab_pages_total(sm), 4);
    cr_assert_eq(slab_page_move(sm, 32, 0), 0);
    cr_assert_eq(slab_page_move(sm, 32, 0), 0);
    cr_assert_eq(slab_pages_total(sm), 2);
    cr_assert_eq(slab_pages_global(sm), 0);
    cr_assert_eq(slab_limit_bytes(sm), 2 * MiB);
    cr_assert_eq(slab_set_limit(sm, 8 * MiB), 0);
    cr_assert_eq(slab_pages_left(sm), 6);
}

/* ---- real memory ------------------------------------------------------------------------ */

struct model_item {
    slab_handle h;
    uint32_t real;
    uint8_t mark;
};

static void fill(struct model_item *it, uint8_t mark)
{
    it->mark = mark;
    memset(slab_ptr(sm, it->h), mark, it->real);
}

static void verify(const struct model_item *it)
{
    const uint8_t *p = slab_ptr(sm, it->h);
    cr_assert_eq(p[0], it->mark);
    cr_assert_eq(p[it->real / 2], it->mark);
    cr_assert_eq(memcmp(p, p + 1, it->real - 1), 0);
}

static uint32_t random_real(unsigned *seed)
{
    unsigned bits = 5 + rand_r(seed) % 13; /* 32 bytes .. 256 KiB, each octave as often */
    return (1u << bits) + (uint32_t)rand_r(seed) % (1u << bits);
}

/* Random sizes up to 256 KiB: no two items share a byte, all are aligned. */
Test(slab_real, random_items_never_overlap)
{
    struct slab_options opt = default_options();
    opt.limit_bytes = 256 * MiB;
    make_with(opt, GiB);
    enum { ITEMS = 2000, STEPS = 20000 };
    static struct model_item items[ITEMS];
    unsigned seed = 1;
    for (int i = 0; i < STEPS; i++) {
        struct model_item *it = &items[(unsigned)rand_r(&seed) % ITEMS];
        uint64_t accounted;
        if (it->h != 0) {
            verify(it);
            accounted = it->real + ACCOUNT_OVER_REAL;
            free_item(it->h, accounted);
            it->h = 0;
            continue;
        }
        it->real = random_real(&seed);
        accounted = it->real + ACCOUNT_OVER_REAL;
        cr_assert_eq(alloc_item(accounted, &it->h), 0);
        cr_assert_eq((uintptr_t)slab_ptr(sm, it->h) % 16, 0);
        cr_assert_eq(slab_handle_of(sm, slab_ptr(sm, it->h)), it->h);
        fill(it, (uint8_t)i);
    }
    for (int i = 0; i < ITEMS; i++) {
        if (items[i].h == 0)
            continue;
        verify(&items[i]);
        free_item(items[i].h, items[i].real + ACCOUNT_OVER_REAL);
    }
    cr_assert_leq(slab_real_bytes(sm), 64 * MiB);
    cr_assert_eq(slab_real_bytes(sm), arena_used_bytes(arena, ARENA_USE_SLAB));
    drop();
}

/* Of every class, full of its largest items: the real memory is less than the pages. */
Test(slab_real, full_class_stays_below_its_pages)
{
    struct slab_options opt = default_options();
    opt.limit_bytes = 16 * MiB;
    for (unsigned cls = 1; cls <= 39; cls++) {
        make_with(opt, 256 * MiB);
        uint64_t accounted = info(cls).chunk_bytes;
        slab_handle h;
        int rc;
        while ((rc = alloc_item(accounted, &h)) == 0)
            ;
        cr_assert_eq(rc, -ENOSPC, "class %u", cls);
        cr_assert_eq(info(cls).free_chunks, 0);
        cr_assert_leq(slab_real_bytes(sm), 16 * MiB + 16 * MiB / 32, "class %u", cls);
        drop();
    }
}

/* Full of small items, real memory is well below the account. */
Test(slab_real, small_items_cost_less)
{
    make_default();
    slab_handle h;
    while (alloc_item(100, &h) == 0) /* class 2: 120 */
        ;
    cr_assert_eq(info(2).total_pages, 64);
    cr_assert_leq(slab_real_bytes(sm), 45 * MiB);
    drop();
}

/* Above 64 GiB of address space handles name coarser places, and sizes are rounded to them. */
Test(slab_real, handles_reach_large_reserves)
{
    make_with(default_options(), 64 * GiB);
    cr_assert_eq(slab_handle_shift(sm), 4);
    drop();
    make_with(default_options(), 256 * GiB);
    cr_assert_eq(slab_handle_shift(sm), 6);
    static struct model_item items[3000];
    unsigned seed = 4;
    for (int i = 0; i < 3000; i++) {
        items[i].real = 32 + (uint32_t)rand_r(&seed) % 4000;
        cr_assert_eq(alloc_item(items[i].real + ACCOUNT_OVER_REAL, &items[i].h), 0);
        fill(&items[i], (uint8_t)i);
    }
    for (int i = 0; i < 3000; i++)
        verify(&items[i]);
    drop();
}

/* No room in the arena is -ENOMEM and takes nothing. */
Test(slab_real, arena_full_is_enomem)
{
    struct slab_options opt = default_options();
    make_with(opt, 8 * MiB);
    slab_handle h;
    int rc;
    unsigned count = 0;
    while ((rc = alloc_item(200000, &h)) == 0)
        count++;
    cr_assert_eq(rc, -ENOMEM);
    cr_assert_geq(count, 35);
    cr_assert_eq(info(35).used_chunks, count);
    while ((rc = alloc_item(1000, &h)) == 0)
        ;
    cr_assert_eq(rc, -ENOMEM);
    cr_assert_eq(slab_real_bytes(sm), arena_used_bytes(arena, ARENA_USE_SLAB));
    drop();
}

/* Sparse runs of one size don't let another push real memory over the limit. */
Test(slab_real, fragmentation_is_bounded)
{
    struct slab_options opt = default_options();
    opt.limit_bytes = 16 * MiB;
    make_with(opt, 256 * MiB);
    static slab_handle h[100000];
    unsigned count = 0;
    while (alloc_item(600, &h[count]) == 0)
        count++;
    for (unsigned i = 0; i < count; i++) {
        if (i % 4 != 0)
            free_item(h[i], 600);
    }
    while (slab_page_move(sm, 9, 0) == 0)
        ;
    int rc;
    slab_handle other;
    while ((rc = alloc_item(2000, &other)) == 0)
        cr_assert_leq(slab_real_bytes(sm), 16 * MiB + 16 * MiB / 32);
    cr_assert_eq(rc, -ENOMEM);
    drop();
}

/* 64 MiB of items written and freed: the arena's memory goes back to the kernel. */
Test(slab_real, rss_follows_items)
{
    make_with(default_options(), 512 * MiB);
    static slab_handle h[700000];
    unsigned count = 0;
    while (alloc_item(600, &h[count]) == 0) {
        memset(slab_ptr(sm, h[count]), 1, 575);
        count++;
    }
    cr_assert_geq(arena_touched_bytes(arena), 55 * MiB);
    for (unsigned i = 0; i < count; i++)
        free_item(h[i], 600);
    cr_assert_leq(slab_real_bytes(sm), MiB);
    cr_assert_leq(arena_touched_bytes(arena), 3 * MiB);
    drop();
}

/* ---- sparse runs ------------------------------------------------------------------------ */

/* After random churn, emptying sparse runs by moving items brings real memory down to what is
 * needed, and every item is still whole. */
Test(slab_sparse, emptying_makes_dense)
{
    make_with(default_options(), 512 * MiB);
    enum { ITEMS = 60000 };
    static struct model_item items[ITEMS];
    static uint32_t item_at[512 * MiB / 16]; /* by handle, + 1: what the index is for the cache */
    unsigned seed = 2;
    uint64_t live_bytes = 0;
    for (unsigned i = 0; i < ITEMS; i++) {
        items[i].real = 100 + (uint32_t)rand_r(&seed) % 900;
        cr_assert_eq(alloc_item(items[i].real + ACCOUNT_OVER_REAL, &items[i].h), 0);
        fill(&items[i], (uint8_t)i);
    }
    for (unsigned i = 0; i < ITEMS; i++) {
        if (rand_r(&seed) % 4 != 0) {
            free_item(items[i].h, items[i].real + ACCOUNT_OVER_REAL);
            items[i].h = 0;
            continue;
        }
        item_at[items[i].h] = i + 1;
        live_bytes += items[i].real;
    }
    uint64_t before = slab_real_bytes(sm), run;
    cr_assert_geq(before, 3 * live_bytes);
    while (slab_sparse_run(sm, 80, &run)) {
        uint32_t pos = 0;
        slab_handle h, to;
        while (slab_run_next(sm, run, &pos, &h)) {
            cr_assert_neq(item_at[h], 0);
            struct model_item *it = &items[item_at[h] - 1];
            cr_assert_eq(it->h, h);
            cr_assert_eq(slab_alloc_real(sm, it->real, &to), 0);
            memcpy(slab_ptr(sm, to), slab_ptr(sm, h), it->real);
            item_at[to] = item_at[h];
            item_at[h] = 0;
            it->h = to;
            slab_free(sm, h, 0, 0, it->real);
        }
        slab_run_done(sm, run);
    }
    cr_assert_leq(slab_real_bytes(sm), live_bytes + live_bytes / 4 + 2 * MiB);
    for (unsigned i = 0; i < ITEMS; i++) {
        if (items[i].h != 0)
            verify(&items[i]);
    }
    drop();
}

/* 1000 items of one size, of which those that `keep` says stay. */
static void make_gappy(slab_handle *h, unsigned count, unsigned keep_one_of)
{
    for (unsigned i = 0; i < count; i++)
        cr_assert_eq(alloc_item(1000, &h[i]), 0);
    for (unsigned i = 0; i < count; i++) {
        if (i % keep_one_of != 0) {
            free_item(h[i], 1000);
            h[i] = 0;
        }
    }
}

/* Where memory is dense there is no run worth emptying. */
Test(slab_sparse, dense_memory_is_left_alone, .init = make_default, .fini = drop)
{
    static slab_handle h[6600];
    uint64_t run;
    cr_assert(!slab_sparse_run(sm, 90, &run));
    make_gappy(h, 6600, 1);
    cr_assert(!slab_sparse_run(sm, 90, &run));
}

/* No chunk of a run that is being emptied is handed out; afterwards they are again. */
Test(slab_sparse, emptying_run_gets_no_items, .init = make_default, .fini = drop)
{
    static slab_handle h[1000];
    make_gappy(h, 1000, 3);
    uint64_t run, held = slab_real_bytes(sm);
    cr_assert(slab_sparse_run(sm, 60, &run));
    slab_handle got;
    unsigned before = 0, inside = 0;
    for (unsigned i = 0; slab_real_bytes(sm) == held; i++) {
        cr_assert_eq(alloc_item(1000, &got), 0);
        uint64_t offset = (uint64_t)got << slab_handle_shift(sm);
        cr_assert(offset < run || offset >= run + 64 * KiB);
        before++;
    }
    cr_assert_geq(before, 100);
    slab_run_done(sm, run);
    for (unsigned i = 0; i < 200; i++) {
        cr_assert_eq(alloc_item(1000, &got), 0);
        uint64_t offset = (uint64_t)got << slab_handle_shift(sm);
        inside += offset >= run && offset < run + 64 * KiB;
    }
    cr_assert_geq(inside, 20);
}

/* Nor does it get any when one of its own items is freed meanwhile. */
Test(slab_sparse, emptying_run_gets_no_items_for_those_it_loses, .init = make_default, .fini = drop)
{
    static slab_handle h[1000];
    make_gappy(h, 1000, 3);
    uint64_t run, held = slab_real_bytes(sm);
    uint32_t pos = 0;
    slab_handle got;
    cr_assert(slab_sparse_run(sm, 60, &run));
    cr_assert(slab_run_next(sm, run, &pos, &got));
    free_item(got, 1000);
    while (slab_real_bytes(sm) == held) {
        cr_assert_eq(alloc_item(1000, &got), 0);
        uint64_t offset = (uint64_t)got << slab_handle_shift(sm);
        cr_assert(offset < run || offset >= run + 64 * KiB);
    }
    slab_run_done(sm, run);
}

/* A run that is emptied while it is looked at stays until it is done, then it goes. */
Test(slab_sparse, emptied_run_goes_when_done, .init = make_default, .fini = drop)
{
    static slab_handle h[1000];
    make_gappy(h, 1000, 3);
    uint64_t run;
    cr_assert(slab_sparse_run(sm, 60, &run));
    uint64_t held = slab_real_bytes(sm);
    uint32_t pos = 0;
    slab_handle at;
    while (slab_run_next(sm, run, &pos, &at))
        free_item(at, 1000);
    cr_assert_eq(slab_real_bytes(sm), held);
    slab_run_done(sm, run);
    cr_assert_eq(slab_real_bytes(sm), held - 64 * KiB);
}

/* ---- attach ----------------------------------------------------------------------------- */

enum { KEPT_MAX = 100 }; /* the root that the test uses holds this many */

struct kept_item {
    slab_handle h;
    uint32_t real;
    uint8_t mark;
};
static char dir[64], file[96];

static void dir_make(void)
{
    const char *base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(dir, sizeof(dir), "%s/slab_mem_test.XXXXXX", base);
    cr_assert_not_null(mkdtemp(dir));
    snprintf(file, sizeof(file), "%s/memory", dir);
}

static void dir_remove(void)
{
    unlink(file);
    rmdir(dir);
}

/* In the child: 3000 items, of which every 30th is noted in the cache's root. */
static int child_work(void)
{
    bool attached;
    arena = arena_make(256 * MiB, file, &attached);
    struct slab_options opt = default_options();
    opt.arena = arena;
    if (arena == NULL || attached || (sm = slab_create(&opt)) == NULL)
        return 1;
    struct kept_item *kept = arena_root(arena, ARENA_ROOT_CACHE);
    unsigned seed = 3, kept_count = 0;
    for (unsigned i = 0; i < 3000; i++) {
        uint32_t real = 40 + (uint32_t)rand_r(&seed) % (i % 60 == 0 ? 120000 : 3000);
        slab_handle h;
        if (alloc_item(real + ACCOUNT_OVER_REAL, &h) != 0)
            return 1;
        memset(slab_ptr(sm, h), (int)i, real);
        if (i % 30 == 0)
            kept[kept_count++] = (struct kept_item){h, real, (uint8_t)i};
    }
    return 0;
}

/* Forks the child, kills it when it is through, and opens what it left, with that factor of classes. */
static void open_with_factor(double factor)
{
    dir_make();
    int fds[2];
    cr_assert_eq(pipe(fds), 0);
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0) {
        if (child_work() == 0 && write(fds[1], "x", 1) == 1)
            pause();
        _exit(1);
    }
    close(fds[1]);
    char c;
    cr_assert_eq(read(fds[0], &c, 1), 1, "the child failed");
    close(fds[0]);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    bool attached;
    arena = arena_make(256 * MiB, file, &attached);
    cr_assert(arena != NULL && attached);
    struct slab_options opt = default_options();
    opt.arena = arena;
    opt.attached = true;
    opt.factor = factor;
    sm = slab_create(&opt);
}

static void open_after_kill(void)
{
    open_with_factor(default_options().factor);
    cr_assert_not_null(sm);
}

static void close_after_kill(void)
{
    drop();
    dir_remove();
}

static int attach_one(slab_handle h, unsigned cls, uint64_t accounted_bytes, uint64_t real_bytes)
{
    struct slab_claim claim = {h, cls, accounted_bytes, real_bytes, 0};
    slab_attach_items(sm, &claim, 1);
    return claim.result;
}

static int attach_kept(const struct kept_item *k)
{
    uint64_t accounted = k->real + ACCOUNT_OVER_REAL;
    return attach_one(k->h, slab_class_of(sm, accounted), accounted, k->real);
}

static const struct kept_item *attach_all(void)
{
    const struct kept_item *kept = arena_root(arena, ARENA_ROOT_CACHE);
    for (int i = 0; i < KEPT_MAX; i++)
        cr_assert_eq(attach_kept(&kept[i]), 0);
    slab_attach_done(sm);
    arena_attach_done(arena);
    return kept;
}

/* Claimed items keep their bytes in spite of later allocations, and have their account. */
Test(slab_attach, claimed_items_stay, .init = open_after_kill, .fini = close_after_kill)
{
    const struct kept_item *kept = attach_all();
    uint64_t requested = 0, wanted = 0;
    slab_handle h;
    for (int i = 0; i < 20000; i++) {
        uint64_t accounted = 70 + (unsigned)i % 3000;
        cr_assert_eq(alloc_item(accounted, &h), 0);
        memset(slab_ptr(sm, h), 0xee, accounted - ACCOUNT_OVER_REAL);
        wanted += accounted;
    }
    for (int i = 0; i < KEPT_MAX; i++) {
        const uint8_t *p = slab_ptr(sm, kept[i].h);
        for (uint32_t at = 0; at < kept[i].real; at++)
            cr_assert_eq(p[at], kept[i].mark);
        wanted += kept[i].real + ACCOUNT_OVER_REAL;
    }
    for (unsigned cls = 1; cls <= 39; cls++)
        requested += info(cls).mem_requested;
    cr_assert_eq(requested, wanted);
}

/* Unclaimed memory is free: only the claimed items' runs hold memory. */
Test(slab_attach, the_rest_is_free, .init = open_after_kill, .fini = close_after_kill)
{
    uint64_t before = slab_real_bytes(sm);
    const struct kept_item *kept = attach_all();
    cr_assert_lt(slab_real_bytes(sm), before + 4 * MiB);
    cr_assert_eq(slab_real_bytes(sm), arena_used_bytes(arena, ARENA_USE_SLAB));
    for (int i = 0; i < KEPT_MAX; i++)
        free_item(kept[i].h, kept[i].real + ACCOUNT_OVER_REAL);
    for (unsigned cls = 1; cls <= 39; cls++)
        cr_assert_eq(info(cls).used_chunks, 0);
    cr_assert_leq(slab_real_bytes(sm), MiB);
}

/* Claims that can't be true are refused, one that comes twice as well. */
Test(slab_attach, false_claims, .init = open_after_kill, .fini = close_after_kill)
{
    const struct kept_item *kept = arena_root(arena, ARENA_ROOT_CACHE);
    struct kept_item bad = kept[1];
    cr_assert_eq(attach_kept(&kept[1]), 0);
    cr_assert_eq(attach_kept(&kept[1]), -EBUSY);
    bad.h++;
    cr_assert_eq(attach_kept(&bad), -EINVAL, "inside a chunk");
    bad.h = UINT32_MAX;
    cr_assert_eq(attach_kept(&bad), -EINVAL, "outside");
    bad.h = 0;
    cr_assert_eq(attach_kept(&bad), -EINVAL, "none");
    bad.h = 200u << 16;
    cr_assert_eq(attach_kept(&bad), -EINVAL, "never allocated");
    for (unsigned i = 2; (bad = kept[i]).real > 1000; i++)
        ;
    bad.real += 1000;
    cr_assert_eq(attach_kept(&bad), -EINVAL, "larger than the chunk");
    cr_assert_eq(attach_one(kept[3].h, 0, 100, 75), -EINVAL, "class 0");
    cr_assert_eq(attach_one(kept[3].h, 40, 100, 75), -EINVAL, "no such class");
    slab_attach_done(sm);
}

/* Other size steps than the dead process had are refused. */
Test(slab_attach, other_table_is_refused, .fini = close_after_kill)
{
    errno = 0;
    open_with_factor(1.5);
    cr_assert_null(sm);
    cr_assert_eq(errno, EINVAL);
}

/* ---- threads ---------------------------------------------------------------------------- */

static void *churn(void *arg)
{
    enum { ITEMS = 300 };
    struct model_item items[ITEMS];
    memset(items, 0, sizeof(items));
    unsigned seed = (unsigned)(uintptr_t)arg;
    for (int i = 0; i < 6000; i++) {
        struct model_item *it = &items[(unsigned)rand_r(&seed) % ITEMS];
        uint64_t accounted;
        if (it->h != 0) {
            const uint8_t *p = slab_ptr(sm, it->h);
            ASSERT(p[0] == it->mark && p[it->real - 1] == it->mark);
            free_item(it->h, it->real + ACCOUNT_OVER_REAL);
            it->h = 0;
            continue;
        }
        it->real = random_real(&seed) / 4 + 16;
        accounted = it->real + ACCOUNT_OVER_REAL;
        if (alloc_item(accounted, &it->h) != 0) {
            it->h = 0;
            continue;
        }
        fill(it, (uint8_t)rand_r(&seed));
    }
    for (int i = 0; i < ITEMS; i++) {
        if (items[i].h != 0)
            free_item(items[i].h, items[i].real + ACCOUNT_OVER_REAL);
    }
    return NULL;
}

/* The maintenance thread's part, without moving anything. */
static void *look_for_sparse_runs(void *arg)
{
    _Atomic(bool) *stop = arg;
    while (!atomic_load(stop)) {
        uint64_t run;
        if (slab_sparse_run(sm, 90, &run)) {
            uint32_t pos = 0;
            slab_handle h;
            while (slab_run_next(sm, run, &pos, &h))
                ;
            slab_run_done(sm, run);
        }
        slab_pages_left(sm);
    }
    return NULL;
}

/* Threads that allocate, fill, check and free never meet; all comes back. */
Test(slab_threads, churn_with_sparse_runs)
{
    make_with(default_options(), 512 * MiB);
    pthread_t threads[3], looker;
    _Atomic(bool) stop = false;
    cr_assert_eq(pthread_create(&looker, NULL, look_for_sparse_runs, &stop), 0);
    for (uintptr_t i = 0; i < 3; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, churn, (void *)(i + 7)), 0);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    atomic_store(&stop, true);
    pthread_join(looker, NULL);
    for (unsigned cls = 1; cls <= 39; cls++) {
        cr_assert_eq(info(cls).used_chunks, 0);
        cr_assert_eq(info(cls).mem_requested, 0);
    }
    cr_assert_eq(slab_real_bytes(sm), arena_used_bytes(arena, ARENA_USE_SLAB));
    drop();
}
