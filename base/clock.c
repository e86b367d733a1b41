/* base/clock.c: see base/clock.h. */
#include "base/clock.h"

#include <time.h>

#include "base/lock.h"

#define REL_YEARS_LEFT_SEC ((int64_t)30 * 365 * 24 * 3600)
/* Wall clocks beyond these bounds count as the bound: unix times of items have 32 bits, and 0 means
 * never. That leaves this process ten years to run. */
#define WALL_MIN_SEC ((int64_t)CLOCK_START_REL_SEC + 1)
#define WALL_MAX_SEC ((int64_t)UINT32_MAX - (int64_t)10 * 365 * 24 * 3600)
#define SET_SEC 5 /* the wall clock was set, if it differs by more than this from what it would be */
#define EPOCH_MAX_SEC ((int64_t)1 << 40) /* from 1970, either way */

/* clang-format off */
static int64_t unix_epoch_sec;           /* const after setup: unix time of rel time 0 */
static int64_t wall_epoch_sec;           /* const after setup: rel time 0 by the wall clock of that moment */
static int64_t mono_epoch_sec;           /* const after setup: CLOCK_MONOTONIC at rel time 0 */
static long mono_phase_ns;               /* const after setup: where in CLOCK_MONOTONIC's seconds ours begin */
static uint32_t start_rel_sec;           /* const after setup: rel time when this process began */
static _Atomic int64_t shift_sec;        /* sum of all shifts */
static _Atomic int64_t paused_mono_sec;  /* CLOCK_MONOTONIC when paused; 0 while running */
static _Atomic uint64_t simulated_ns;    /* 0: time is the machine's */
static bool wall_is_odd;                 /* const after setup: see clock_wall_is_odd() */
static _Thread_local bool has_turns;     /* this thread calls clock_new_turn() */
static _Thread_local uint32_t turn_sec;  /* clock_now_sec() in this turn; 0: not read yet */
/* clang-format on */

#define SIMULATED_WALL_SEC 1700000000 /* of CLOCK_REALTIME when simulated time is 0 */

/* The simulated time of a clock; false: ask the machine. */
static bool simulated(clockid_t id, struct timespec *ts)
{
    uint64_t ns = atomic_load_explicit(&simulated_ns, memory_order_relaxed);
    if (likely(ns == 0))
        return false;
    ts->tv_sec = (time_t)(ns / 1000000000) + (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE ? SIMULATED_WALL_SEC : 0);
    ts->tv_nsec = (long)(ns % 1000000000);
    return true;
}

static struct timespec read_clock(clockid_t id)
{
    struct timespec ts;
    if (!simulated(id, &ts))
        clock_gettime(id, &ts);
    return ts;
}

/* Seconds that begin at mono_phase_ns. */
static int64_t coarse_mono_sec(void)
{
    struct timespec ts = read_clock(CLOCK_MONOTONIC_COARSE);
    return (int64_t)ts.tv_sec - (ts.tv_nsec < mono_phase_ns);
}

static void setup(int64_t rel_sec, int64_t epoch_sec, int64_t wall_epoch, long phase_ns)
{
    ASSERT(rel_sec >= CLOCK_START_REL_SEC && rel_sec <= UINT32_MAX);
    ASSERT(phase_ns >= 0 && phase_ns < 1000000000);
    unix_epoch_sec = epoch_sec;
    wall_epoch_sec = wall_epoch;
    mono_phase_ns = phase_ns;
    mono_epoch_sec = coarse_mono_sec() - rel_sec;
    start_rel_sec = (uint32_t)rel_sec;
    atomic_store(&shift_sec, 0);
    atomic_store(&paused_mono_sec, 0);
}

static int64_t bounded_wall(int64_t sec)
{
    return sec < WALL_MIN_SEC ? WALL_MIN_SEC : sec > WALL_MAX_SEC ? WALL_MAX_SEC : sec;
}

/* The wall clock, and where its seconds begin within those of CLOCK_MONOTONIC, or a moment later. So an
 * expiry time two seconds ahead of the wall clock does not count as passed. */
static int64_t wall_in_phase(long *phase_ns)
{
    struct timespec wall = read_clock(CLOCK_REALTIME_COARSE);
    struct timespec mono = read_clock(CLOCK_MONOTONIC_COARSE);
    *phase_ns = (mono.tv_nsec - wall.tv_nsec + 1000000000) % 1000000000;
    int64_t sec = (int64_t)wall.tv_sec;
    wall_is_odd = sec < WALL_MIN_SEC || sec > WALL_MAX_SEC;
    return bounded_wall(sec);
}

bool clock_wall_is_odd(void)
{
    return wall_is_odd;
}

void clock_setup(void)
{
    long phase_ns;
    int64_t now_sec = wall_in_phase(&phase_ns);
    int64_t epoch_sec = now_sec - CLOCK_START_REL_SEC;
    setup(CLOCK_START_REL_SEC, epoch_sec, epoch_sec, phase_ns);
}

/* Both epochs may come from a file, so they may be any numbers. wall_sec: the bounded wall clock, now. */
static int setup_checked(int64_t now_sec, int64_t now_epoch_sec, int64_t epoch_sec,
                         uint32_t last_rel_sec, int64_t wall_sec, long phase_ns)
{
    int64_t rel_sec;
    if (__builtin_sub_overflow(now_sec, now_epoch_sec, &rel_sec) ||
        rel_sec < (int64_t)CLOCK_START_REL_SEC || epoch_sec < -EPOCH_MAX_SEC ||
        epoch_sec > EPOCH_MAX_SEC)
        return -EINVAL;
    if (rel_sec < (int64_t)last_rel_sec)
        rel_sec = last_rel_sec;
    if (rel_sec > (int64_t)UINT32_MAX - REL_YEARS_LEFT_SEC)
        return -EINVAL;
    int64_t wall_epoch = wall_sec - rel_sec;
    if (llabs(wall_epoch - epoch_sec) <= SET_SEC) /* the clock wasn't set; seconds are only cut otherwise */
        wall_epoch = epoch_sec;
    setup(rel_sec, epoch_sec, wall_epoch, phase_ns);
    return 0;
}

int clock_setup_epoch(int64_t epoch_sec, uint32_t last_rel_sec, int64_t last_wall_sec)
{
    long phase_ns;
    int64_t now_sec = wall_in_phase(&phase_ns), now_epoch_sec = epoch_sec, rel_sec;
    /* If the earlier process's clock was set, its epoch is not where the wall clock of now would have it. */
    if (last_rel_sec != 0) {
        int64_t then_epoch_sec = bounded_wall(last_wall_sec) - (int64_t)last_rel_sec;
        if (!__builtin_sub_overflow(then_epoch_sec, epoch_sec, &rel_sec) && llabs(rel_sec) > SET_SEC)
            now_epoch_sec = then_epoch_sec;
    }
    return setup_checked(now_sec, now_epoch_sec, epoch_sec, last_rel_sec, now_sec, phase_ns);
}

/* The phase of the earlier process's seconds is unknown; with phase 0 ours never lag behind them. */
int clock_setup_boot_epoch(int64_t epoch_sec, int64_t mono_sec)
{
    long phase_ns;
    int64_t wall_sec = wall_in_phase(&phase_ns);
    int64_t now_sec = (int64_t)read_clock(CLOCK_MONOTONIC_COARSE).tv_sec;
    return setup_checked(now_sec, mono_sec, epoch_sec, 0, wall_sec, 0);
}

static uint32_t read_now_sec(void)
{
    int64_t mono = atomic_load_explicit(&paused_mono_sec, memory_order_relaxed);
    if (likely(mono == 0))
        mono = coarse_mono_sec();
    int64_t rel =
        mono - mono_epoch_sec + atomic_load_explicit(&shift_sec, memory_order_relaxed);
    if (unlikely(rel < (int64_t)CLOCK_START_REL_SEC))
        return CLOCK_START_REL_SEC;
    return (uint32_t)min_u64((uint64_t)rel, UINT32_MAX);
}

uint32_t clock_now_sec(void)
{
    if (likely(turn_sec != 0))
        return turn_sec;
    uint32_t now = read_now_sec();
    if (has_turns)
        turn_sec = now;
    return now;
}

void clock_new_turn(void)
{
    has_turns = true;
    turn_sec = 0;
}

uint32_t clock_uptime_sec(void)
{
    uint32_t now = clock_now_sec();
    uint32_t before = start_rel_sec - CLOCK_START_REL_SEC;
    return now > before ? now - before : 0;
}

int64_t clock_unix_epoch_sec(void)
{
    return unix_epoch_sec;
}

int64_t clock_mono_epoch_sec(void)
{
    return mono_epoch_sec;
}

int64_t clock_rel_to_unix(uint32_t rel_sec)
{
    return unix_epoch_sec + (int64_t)rel_sec;
}

int64_t clock_unix_now_sec(void)
{
    return clock_rel_to_unix(clock_now_sec());
}

int64_t clock_rel_to_wall(uint32_t rel_sec)
{
    return wall_epoch_sec + (int64_t)rel_sec;
}

int64_t clock_wall_now_sec(void)
{
    return clock_rel_to_wall(clock_now_sec());
}

uint32_t clock_exptime(int64_t raw)
{
    int64_t rel;
    if (raw == 0)
        return CLOCK_NEVER_SEC;
    if (raw < 0)
        return CLOCK_EXPIRED_SEC;
    if (raw <= CLOCK_RELATIVE_MAX_SEC)
        rel = (int64_t)clock_now_sec() + raw;
    else if (raw <= wall_epoch_sec)
        return CLOCK_EXPIRED_SEC;
    else
        rel = raw - wall_epoch_sec;
    ASSERT(rel > 0);
    return (uint32_t)min_u64((uint64_t)rel, UINT32_MAX);
}

int64_t clock_wall_us(void)
{
    struct timespec ts = read_clock(CLOCK_REALTIME);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

uint64_t clock_mono_ns(void)
{
    struct timespec ts = read_clock(CLOCK_MONOTONIC);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

uint64_t clock_mono_us(void)
{
    return clock_mono_ns() / 1000;
}

uint64_t clock_mono_ms(void)
{
    return clock_mono_ns() / 1000000;
}

void clock_sleep_ns(uint64_t ns)
{
    lock_assert_none_held();
    struct timespec ts = {.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};
    if (atomic_load_explicit(&simulated_ns, memory_order_relaxed) != 0)
        atomic_fetch_add_explicit(&simulated_ns, ns, memory_order_relaxed);
    else
        nanosleep(&ts, NULL);
}

void clock_simulate(uint64_t mono_ns)
{
    atomic_store_explicit(&simulated_ns, mono_ns, memory_order_relaxed);
}

void clock_pause(void)
{
    if (atomic_load(&paused_mono_sec) == 0)
        atomic_store(&paused_mono_sec, coarse_mono_sec());
    turn_sec = 0;
}

void clock_resume(void)
{
    atomic_store(&paused_mono_sec, 0);
    turn_sec = 0;
}

void clock_shift(int64_t delta_sec)
{
    atomic_fetch_add(&shift_sec, delta_sec);
    turn_sec = 0;
}
