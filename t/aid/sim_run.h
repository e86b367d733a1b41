/* sim_run.h: one life of a simulated cache: everything above the device and below the network, in
 * one thread, on simulated time. One seed is one run: same seed, same lives, step by step.
 *
 * Instead of threads, the simulation makes calls in random order: client ops
 * (many under way at once), jobs of the I/O threads, turns of maintenance. Where an I/O thread
 * would wait for the device, and where the engine calls the cache without a lock, others get their turn: nested,
 * so that a change can come between any two steps of a flush or of reclaim.
 *
 * A life runs in a process of its own. It stops in order, or is killed: between two steps, in a callback, or in
 * the middle of a write, of which some sectors are then on the device. The next life attaches
 * to the memory file and the device. State that outlives a life is in struct
 * sim.
 */
#ifndef EXTANT_T_SIM_RUN_H
#define EXTANT_T_SIM_RUN_H

#include "t/aid/sim_device.h"
#include "t/aid/sim_model.h"

/*    profile  its subject */
#define SIM_PROFILE_TABLE(X)                                                                       \
    X(KILLS, "nothing but kills, stalls and interrupted calls: nothing may be lost")               \
    X(WRITES, "writes fail, and come back: nothing may be lost")                                   \
    X(READS, "reads fail")                                                                         \
    X(ROT, "writes are flipped, lost or misdirected, reads flipped")                               \
    X(FULL, "flash and memory are too small")                                                      \
    X(TAGS, "keys that the index can't tell apart")                                                \
    X(ALL, "all of it")
enum sim_profile {
#define X(name, text) SIM_##name,
    SIM_PROFILE_TABLE(X)
#undef X
        SIM_PROFILE_COUNT
};

enum sim_kill {
    SIM_KILL_NEVER,
    SIM_KILL_AT_STEP,
    SIM_KILL_IN_WRITE,
    SIM_KILL_IN_UPCALL,
    SIM_KILL_COUNT
};

/* Counts over all lives; all shared memory. */
struct sim {
    uint64_t seed;
    enum sim_profile profile;
    bool strict; /* no loss is allowed */
    bool trace;  /* tell each step */
    unsigned life, lives;
    unsigned steps; /* of each life; 0: drawn */
    /* when this life is killed */
    enum sim_kill kill;
    uint64_t kill_at;
    /* the machine */
    uint64_t now_ns, random;
    struct sim_device device;
    uint64_t page_bytes, wbuf_bytes;
    uint32_t pages[SIM_DEVICES_MAX];
    uint32_t read_align, value_max, item_age_sec;
    /* the clients */
    unsigned key_count;
    struct sim_key keys[SIM_KEYS_MAX];
    uint64_t step, ops, hits, refused, losses, reasons_before, collisions, written, rescued, moved,
        evicted, left_clean;
    uint64_t digest; /* digest of all events: two runs of one seed have the same */
};

enum sim_exit { SIM_ENDED = 0, SIM_KILLED = 3 }; /* status of a life's process; else it failed */

/* Draws the machine and the keys of a seed. sim is zeroed but for device.image (sim_image_bytes()).
 */
void sim_make(struct sim *sim, uint64_t seed);
uint64_t sim_image_bytes(void);
/* Draws when the next life is killed. */
void sim_plan(struct sim *sim);
/* One life, in the process that calls it, which it ends. dir holds the files. */
_Noreturn void sim_live(struct sim *sim, const char *dir);

const char *sim_profile_name(enum sim_profile p);

#endif
