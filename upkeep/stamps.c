/* upkeep/stamps.c: see upkeep/stamps.h. */
#include "upkeep/stamps.h"

#include "base/hash.h"
#include "base/why.h"
#include "flash/engine.h"
#include "flash/mark.h"

#define PUT_TRIES 5u
#define PUT_PAUSE_NS UINT64_C(100000000)

uint64_t ext_stamp_choose(struct ext_device *d, struct ext_known *k)
{
    if (atomic_load(&d->next_stamp) == 0) {
        uint32_t step = (uint32_t)hash_draw() | 1;
        *(volatile uint32_t *)&k->step = step;
        atomic_store(&d->next_stamp, ext_mark_next_stamp(k->stamp, step));
    }
    return atomic_load(&d->next_stamp);
}

int ext_stamp_put(struct ext_device *d, struct ext_known *k)
{
    uint64_t stamp = atomic_load(&d->next_stamp);
    ASSERT(stamp != 0 && k->step != 0);
    int rc = ext_mark_write(d->fd, stamp);
    if (rc != 0)
        return rc;
    *(volatile uint64_t *)&k->stamp = stamp;
    *(volatile uint32_t *)&k->step = 0;
    atomic_store(&d->stamp, stamp);
    atomic_store(&d->next_stamp, 0); /* last: a head that saw it still fits */
    return 0;
}

static int put_patiently(struct ext_device *d, struct ext_known *k)
{
    int rc = ext_stamp_put(d, k);
    for (unsigned tries = 1; rc != 0 && tries < PUT_TRIES; tries++) {
        clock_sleep_ns(PUT_PAUSE_NS);
        rc = ext_stamp_put(d, k);
    }
    return rc;
}

int ext_stamps_put(struct extstore *e, struct ext_known *known, uint32_t set, char *why, size_t n)
{
    lock_assert_none_held();
    ASSERT(e->device_count > 0 && e->device_count <= EXT_DEVICES_MAX);
    int failed[EXT_DEVICES_MAX] = {0}, worst = 0;
    bool any_good = false;
    for (uint32_t i = 0; i < e->device_count; i++) {
        if ((set >> i & 1) != 0) {
            (void)ext_stamp_choose(&e->devices[i], &known[i]);
            failed[i] = put_patiently(&e->devices[i], &known[i]);
        }
        any_good |= failed[i] == 0;
        if (failed[i] != 0 && worst == 0)
            worst = why_say(why, n, failed[i], "%s: can't be written (%s)", e->devices[i].path, strerror(-failed[i]));
    }
    for (uint32_t i = 0; any_good && i < e->device_count; i++) {
        if (failed[i] != 0)
            ext_device_put_off(&e->devices[i], failed[i]);
    }
    return any_good ? 0 : worst;
}

void ext_stamps_renew(struct extstore *e)
{
    ASSERT(e->opt.attached && e->tables != NULL);
    for (uint32_t i = 0; i < e->device_count; i++) {
        struct ext_device *d = &e->devices[i];
        struct ext_known *k = &e->tables->devices[i];
        if (ext_device_failed(d)) /* its mark is due */
            continue;
        (void)ext_stamp_choose(d, k);
        int rc = ext_stamp_put(d, k);
        if (rc != 0 && k->stamp == 0) { /* it never got one, so nothing is on it */
            ext_device_put_off(d, rc);
        } else if (rc != 0) {
            log_warning("flash %s: its mark can't be written (%s)", d->path, strerror(-rc));
            atomic_store(&d->next_stamp, 0);
        }
    }
}

uint64_t ext_device_stamp_of(const struct extstore *e, unsigned device)
{
    ASSERT(device < e->device_count);
    return atomic_load(&e->devices[device].stamp);
}

uint64_t ext_device_next_stamp_of(const struct extstore *e, unsigned device)
{
    ASSERT(device < e->device_count);
    return atomic_load(&e->devices[device].next_stamp);
}
