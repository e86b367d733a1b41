/* sim_device.h: simulated flash below the engine: files in memory, with the faults of real
 * devices, drawn from one stream of random numbers.
 *
 * Writes reach the image at once, as with O_DIRECT. A write can be cut short, torn between any two sectors,
 * refused, corrupted, lost or misplaced; a read can fail, be cut short or corrupted; both may take
 * seconds. A process that is killed in a write leaves some of its sectors.
 *
 * The image is shared memory, so it outlives the process that wrote it. One thread.
 */
#ifndef EXTANT_T_SIM_DEVICE_H
#define EXTANT_T_SIM_DEVICE_H

#include "flash/device.h"

#define SIM_SECTOR_BYTES 512u
#define SIM_DEVICES_MAX 2u

/* One in this many transfers has the fault; 0: none has. */
struct sim_faults {
    uint32_t write_error, write_torn_error, write_no_space, write_short;
    uint32_t write_flip, write_lost, write_misdirected;
    uint32_t read_error, read_short, read_flip;
    uint32_t interrupt, stall;
    uint32_t write_outage, read_outage; /* begins here, and ends by the clock */
};

struct sim_device {
    char *image; /* of all devices, one after the other */
    uint64_t bytes[SIM_DEVICES_MAX];
    unsigned count;
    struct sim_faults faults;
    uint64_t random;
    uint64_t write_outage_until_ns, read_outage_until_ns;
    uint64_t writes, reads, injected; /* injected: faults that cost something, stalls not counted */
    /* this process's */
    int fds[SIM_DEVICES_MAX];
    /* Called in each transfer, before and after the bytes move: other threads could run then. */
    void (*meanwhile)(void *ctx);
    /* Must the process be killed in this write (the nth)? Then it does not return. */
    void (*kill_in_write)(void *ctx, uint64_t nth, void (*leave)(struct sim_device *d));
    void *ctx;
    /* of the write that is under way */
    const char *out;
    char *to;
    size_t out_bytes;
};

/* xorshift64*; *state is not 0. */
uint64_t sim_random(uint64_t *state);
static inline uint32_t sim_below(uint64_t *state, uint32_t bound)
{
    return (uint32_t)((sim_random(state) >> 16) % bound);
}
/* True once in one_in times; never for 0. */
static inline bool sim_chance(uint64_t *state, uint32_t one_in)
{
    return one_in != 0 && sim_below(state, one_in) == 0;
}

/* For struct ext_device_ops, with ctx = the device. */
ssize_t sim_pread(void *ctx, int fd, void *buf, size_t bytes, off_t offset);
ssize_t sim_pwrite(void *ctx, int fd, const void *buf, size_t bytes, off_t offset);

/* Some sectors of the write under way reach the image: none, the first few, or any. */
void sim_leave_torn(struct sim_device *d);
/* No more faults; ends those that had begun. */
void sim_heal(struct sim_device *d);

#endif
