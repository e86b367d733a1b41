/* sim_device.c: see sim_device.h. */
#include "t/aid/sim_device.h"

#include "base/clock.h"

#define STALL_MS_MAX 5000u
#define OUTAGE_MS_MAX 8000u

uint64_t sim_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(0x2545f4914f6cdd1d);
}

static char *image_at(struct sim_device *d, int fd, size_t bytes, off_t offset)
{
    uint64_t base = 0;
    for (unsigned i = 0; i < d->count; i++) {
        if (d->fds[i] == fd) {
            ASSERT((uint64_t)offset + bytes <= d->bytes[i]);
            return d->image + base + offset;
        }
        base += d->bytes[i];
    }
    ASSERT(!"a transfer to a file that is no device");
    return NULL;
}

static uint64_t all_bytes(const struct sim_device *d)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < d->count; i++)
        sum += d->bytes[i];
    return sum;
}

static bool hit(struct sim_device *d, uint32_t one_in)
{
    bool yes = sim_chance(&d->random, one_in);
    d->injected += yes;
    return yes;
}

/* Is there an outage, or does one begin now? */
static bool is_out(struct sim_device *d, uint32_t one_in, uint64_t *until_ns)
{
    if (hit(d, one_in))
        *until_ns =
            clock_mono_ns() + (1 + sim_below(&d->random, OUTAGE_MS_MAX)) * UINT64_C(1000000);
    return clock_mono_ns() < *until_ns;
}

static void take_time(struct sim_device *d)
{
    uint64_t us = 20 + sim_below(&d->random, 200);
    if (sim_chance(&d->random, d->faults.stall))
        us += (1 + sim_below(&d->random, STALL_MS_MAX)) * UINT64_C(1000);
    clock_sleep_ns(us * 1000);
}

static void flip(struct sim_device *d, char *at, size_t bytes)
{
    at[sim_below(&d->random, (uint32_t)bytes)] ^= (char)(1 << sim_below(&d->random, 8));
}

ssize_t sim_pread(void *ctx, int fd, void *buf, size_t bytes, off_t offset)
{
    struct sim_device *d = ctx;
    const struct sim_faults *f = &d->faults;
    const char *from = image_at(d, fd, bytes, offset);
    d->reads++;
    take_time(d);
    if (sim_chance(&d->random, f->interrupt))
        return -EINTR;
    d->meanwhile(d->ctx);
    if (is_out(d, f->read_outage, &d->read_outage_until_ns) || hit(d, f->read_error))
        return -EIO;
    if (bytes > SIM_SECTOR_BYTES && sim_chance(&d->random, f->read_short))
        bytes = sim_below(&d->random, (uint32_t)(bytes / SIM_SECTOR_BYTES)) * SIM_SECTOR_BYTES;
    memcpy(buf, from, bytes);
    if (bytes > 0 && hit(d, f->read_flip))
        flip(d, buf, bytes);
    d->meanwhile(d->ctx);
    return (ssize_t)bytes;
}

void sim_leave_torn(struct sim_device *d)
{
    size_t sectors = d->out_bytes / SIM_SECTOR_BYTES;
    bool any = sim_below(&d->random, 2);
    size_t first = sim_below(&d->random, (uint32_t)sectors + 1);
    for (size_t i = 0; i < sectors; i++) {
        size_t at = i * SIM_SECTOR_BYTES;
        if (any ? sim_below(&d->random, 2) : i < first)
            memcpy(d->to + at, d->out + at, SIM_SECTOR_BYTES);
    }
}

/* Where a write actually goes. */
static char *aim(struct sim_device *d, char *to, size_t bytes)
{
    if (!hit(d, d->faults.write_misdirected))
        return to;
    uint64_t blocks = (all_bytes(d) - bytes) / EXT_IO_ALIGN_BYTES;
    return d->image + sim_below(&d->random, (uint32_t)blocks + 1) * EXT_IO_ALIGN_BYTES;
}

ssize_t sim_pwrite(void *ctx, int fd, const void *buf, size_t bytes, off_t offset)
{
    struct sim_device *d = ctx;
    const struct sim_faults *f = &d->faults;
    char *to = image_at(d, fd, bytes, offset);
    take_time(d);
    d->meanwhile(d->ctx);
    d->out = buf; /* after it: another write may have been made meanwhile */
    d->to = to;
    d->out_bytes = bytes;
    d->kill_in_write(d->ctx, d->writes++, sim_leave_torn);
    if (sim_chance(&d->random, f->interrupt))
        return -EINTR;
    if (is_out(d, f->write_outage, &d->write_outage_until_ns) || hit(d, f->write_error))
        return -EIO;
    if (hit(d, f->write_no_space))
        return -ENOSPC;
    if (hit(d, f->write_torn_error)) {
        sim_leave_torn(d);
        return -EIO;
    }
    if (sim_chance(&d->random, f->write_short))
        bytes = sim_below(&d->random, (uint32_t)(bytes / SIM_SECTOR_BYTES)) * SIM_SECTOR_BYTES;
    if (bytes > 0 && !hit(d, f->write_lost)) {
        to = aim(d, to, bytes);
        memcpy(to, buf, bytes);
        if (hit(d, f->write_flip))
            flip(d, to, bytes);
    }
    d->meanwhile(d->ctx);
    return (ssize_t)bytes;
}

void sim_heal(struct sim_device *d)
{
    d->faults = (struct sim_faults){0};
    d->write_outage_until_ns = d->read_outage_until_ns = 0;
}
