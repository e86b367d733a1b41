/* stepped.c: see stepped.h. */
#include "t/aid/stepped.h"

#include <errno.h>
#include <unistd.h>

#include "base/crc.h"
#include "flash/engine.h"

enum { START_SEC = 1000 }; /* of the simulated clock */

static uint64_t random_state;

void stepped_begin(const uint8_t *data, size_t size)
{
    random_state = UINT64_C(14695981039346656037);
    for (size_t i = 0; i < size; i++)
        random_state = (random_state ^ data[i]) * UINT64_C(1099511628211);
    random_state |= 1;
    clock_simulate(START_SEC * UINT64_C(1000000000));
}

uint64_t stepped_draw(void)
{
    ASSERT(random_state != 0);
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static void step_pool(struct io_pool *pool)
{
    unsigned ready = pool ? io_pool_ready(pool) : 0;
    if (ready > 0)
        io_pool_step(pool, (unsigned)(stepped_draw() % ready));
}

void stepped_idle(struct fixture *f)
{
    step_pool(f->ext->write_pool);
    step_pool(f->ext->read_pools[0]);
    clock_sleep_ns(1000000);
}

static ssize_t plain_pread(void *ctx, int fd, void *buf, size_t bytes, off_t offset)
{
    ssize_t n = pread(fd, buf, bytes, offset);
    (void)ctx;
    return n < 0 ? -errno : n;
}

static ssize_t plain_pwrite(void *ctx, int fd, const void *buf, size_t bytes, off_t offset)
{
    ssize_t n = pwrite(fd, buf, bytes, offset);
    (void)ctx;
    return n < 0 ? -errno : n;
}

const struct ext_device_ops stepped_ops = {.pread = plain_pread, .pwrite = plain_pwrite, .stepped = true};

uint32_t stepped_crc_of_place(uint32_t version, uint64_t place)
{
    struct {
        uint64_t place;
        uint32_t version, format;
    } id = {place, version, EXT_RECORD_FORMAT};
    return crc32c(0, &id, sizeof(id));
}
