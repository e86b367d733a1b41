/* extstore_test.c: the flash engine on real files: records back as they went in, from wherever they
 * are; page life and counts; what wrong bytes on a device lead to. Run under TSan too. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include "ext_aid.h"

TestSuite(extstore, .timeout = 60);

static const uint32_t sizes[] = {0, 1, 15, 16, 17, 39, 40, 100, 500, 1000, 4055, 4096, 10000, 16000,
                                 16384, 40000, 100000, 250000};

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
