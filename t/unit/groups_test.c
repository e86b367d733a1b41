/* groups_test.c: pages by time to live: how much of flash expired objects take, in simulated time; and that nothing
 * else gets worse for it. The model is that of t/aid/ext_aid.h. */
#include <criterion/criterion.h>
#include <sched.h>

#include "flash/engine.h"
#include "flash/room.h"
#include "t/aid/ext_aid.h"

TestSuite(groups, .timeout = 600);

enum { WBUF = 64 * 1024, IDS = 60000 };

/* Flash and buffers. */
static struct shape {
    uint32_t pages, page_bytes, wbufs, value_bytes;
} shape = {.pages = 128, .page_bytes = 4 * WBUF, .wbufs = 24, .value_bytes = 2000};

static uint64_t seed;

static double unit(void)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double)(seed >> 11) / 9007199254740992.0;
}

/* How long a page lives in a queue without groups, at an object a second. */
static uint32_t turnover_sec(void) { return (uint32_t)((uint64_t)shape.pages * shape.page_bytes / (shape.value_bytes + 96)); }

/* Times to live as operators use them: 40% have none; 30% one of four, from a minute to a day, and 30% anything
 * between. `day` is how long a day is here. Some of it passes in RAM. */
static uint32_t draw_ttl(double day)
{
    static const double classes[] = {60, 300, 3600, 86400};
    double u = unit(), ttl;
    if (u < 0.4)
        return 0;
    if (u < 0.7) {
        ttl = classes[(unsigned)(unit() * 4)];
    } else {
        double octaves = unit() * 10.5; /* 60 s * 2^10.5: a day */
        ttl = 60 * (double)(UINT64_C(1) << (unsigned)octaves) * (1 + (octaves - (unsigned)octaves));
    }
    ttl *= day / 86400;
    double ram = turnover_sec() * 0.05;
    ttl -= unit() * (ttl < ram ? ttl : ram);
    return ttl < 3 ? 1 : (uint32_t)ttl; /* 1: not written */
}

static struct aid *open_aid(unsigned groups)
{
    struct aid *a = aid_new(shape.pages, shape.page_bytes, WBUF);
    a->opt.wbuf_count = shape.wbufs;
    a->opt.buffer_bytes = (shape.wbufs + 1) * WBUF + 4 * MiB;
    a->opt.ttl_groups = groups;
    a->tun.rewrite_pct = 10;
    a->tun.stay_pct = 33;
    aid_start(a);
    seed = 7;
    return a;
}

struct result {
    double expired, told; /* mean shares of flash in percent: by the model, by ext_info */
    double expired_max;
    double amplification;
    uint64_t evicted, stored;
};

static uint64_t expired_bytes(const struct aid *a)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < a->object_count; i++) {
        const struct aid_object *o = &a->objects[i];
        if (o->present && o->exptime_unix != 0 && o->exptime_unix <= a->now_unix)
            bytes += ext_record_bytes(9, o->value_bytes);
    }
    return bytes;
}

/* Maintenance has a second for what it would do in one. */
static void keep_up(struct aid *a)
{
    while (aid_step(a) || atomic_load(&a->ext->flushing_wbufs) > 0)
        sched_yield();
    while (ext_pages_free(a->ext, EXT_BUCKET_DEFAULT) < ext_low_water(a->ext, EXT_BUCKET_DEFAULT)) {
        if (!aid_step(a))
            sched_yield();
    }
}

/* Stores an object a second, until flash was filled `turns` times over; measures over the second half. */
static struct result play(struct aid *a, double day, unsigned turns)
{
    struct result r = {0};
    uint32_t seconds = turnover_sec() * turns, looks = 0;
    double flash = (double)shape.pages * shape.page_bytes;
    for (uint32_t i = 0; i < seconds; i++) {
        uint32_t id = i % IDS, ttl = draw_ttl(day);
        atomic_fetch_add(&a->now_unix, 1);
        if (ttl != 1) {
            aid_delete(a, id);
            a->objects[id].exptime_unix = ttl == 0 ? 0 : a->now_unix + ttl;
            a->objects[id].time_unix = a->now_unix;
            aid_set_wait(a, id, shape.value_bytes, EXT_BUCKET_DEFAULT);
            r.stored++;
        }
        keep_up(a);
        if (i > seconds / 2 && i % 200 == 0) {
            double share = 100 * (double)expired_bytes(a) / flash;
            r.expired += share;
            r.expired_max = share > r.expired_max ? share : r.expired_max;
            r.told += 100 * (double)aid_info(a).expired_bytes / flash;
            looks++;
        }
    }
    struct ext_info info = aid_info(a);
    r.expired /= looks;
    r.told /= looks;
    r.evicted = info.objects_evicted;
    r.amplification = (double)info.device_bytes_written / (double)(info.bytes_written - info.bytes_rewritten);
    fprintf(stderr, "day %.0f s, turnover %u s, %u groups: expired %.2f%% (at most %.2f%%), told %.2f%%; %" PRIu64
            " of %" PRIu64 " evicted, write amplification %.3f\n", day, turnover_sec(), a->ext->groups.count, r.expired,
            r.expired_max, r.told, r.evicted, r.stored, r.amplification);
    return r;
}

/* With a day of this length in turnovers of flash: at most so much is expired, in percent. */
static void compare(double day_turns, double expired_max)
{
    double day = day_turns * turnover_sec();
    struct aid *a = open_aid(16);
    struct result with = play(a, day, 4);
    aid_free(a);
    a = open_aid(0);
    struct result without = play(a, day, 4);
    aid_free(a);
    cr_assert_leq(with.expired, expired_max, "%.2f%%", with.expired);
    cr_assert_geq(without.expired, 15.0, "%.2f%%", without.expired);
    double off = with.told - with.expired;
    cr_assert(off < 0.35 * expired_max && -off < 0.35 * expired_max, "told %.2f%%, is %.2f%%", with.told, with.expired);
    cr_assert_lt(with.evicted, without.evicted);
    cr_assert_leq(with.amplification, 1.30);
}

Test(groups, of_mixed_times_to_live_at_most_2_percent_of_flash_is_expired) { compare(1, 2); }
Test(groups, also_when_pages_outlive_every_time_to_live) { compare(0.3, 2); }
Test(groups, also_when_many_outlive_their_page) { compare(4, 2); }

/* What the default has where flash has room for 64 pages (256 MB) and -m is small: 12 write buffers, of which six are for
 * groups. */
Test(groups, also_in_a_small_cache_most_of_them)
{
    shape = (struct shape){.pages = 64, .page_bytes = 2 * WBUF, .wbufs = 12, .value_bytes = 500};
    compare(1, 6);
}
