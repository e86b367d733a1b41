/* operator/latency.c: see operator/latency.h. */
#include "operator/latency.h"

#include "base/clock.h"

void latency_turn_received(struct latency *l)
{
    DEBUG_ASSERT(l->measuring && l->began_ns == 0);
    l->began_ns = clock_mono_ns();
}

/* Chooses the next turn to measure after a turn with this many commands: the next one while turns are rare,
 * otherwise at random, less often if turns do little, so that measuring always costs the same share. */
static uint32_t draw_gap(struct latency *l, uint64_t now_ns, uint32_t commands)
{
    uint64_t turn_ns = (now_ns - l->before_ns) / max_u64(l->stands_for, 1);
    l->before_ns = now_ns;
    if (turn_ns > 1000000000 / LATENCY_QUIET)
        return 1;
    uint32_t mean = LATENCY_GAP / (uint32_t)max_u64(commands / 2, 1);
    mean = mean > 2 ? mean : 2;
    l->random = l->random * 1664525 + 1013904223; /* Knuth's constants: enough to dodge patterns */
    return 1 + (l->random >> 16) % (2 * mean - 1);
}

void latency_turn_measured(struct latency *l)
{
    DEBUG_ASSERT(l->measuring && l->skip == 0);
    l->measuring = false;
    if (l->began_ns == 0) {
        l->skip = l->stands_for > 0 ? l->stands_for - 1 : 0;
        return;
    }
    uint64_t now_ns = clock_mono_ns(), took_ns = now_ns - l->began_ns;
    uint64_t times = max_u64(l->stands_for, 1);
    uint32_t commands = 0;
    for (unsigned tier = 0; tier < LATENCY_TIERS; tier++) {
        for (unsigned command = 0; command < LATENCY_COMMANDS; command++) {
            uint32_t *count = &l->counts[tier][command];
            if (*count > 0)
                histogram_add(&l->cells[tier][command], took_ns, *count * times);
            commands += *count;
            *count = 0;
        }
    }
    DEBUG_ASSERT(now_ns >= l->began_ns);
    l->began_ns = 0;
    l->stands_for = draw_gap(l, now_ns, commands);
    DEBUG_ASSERT(l->stands_for > 0);
    l->skip = l->stands_for - 1;
}

const char *latency_tier_name(enum latency_tier tier)
{
    static const char *const names[] = {
        LATENCY_TIER_TABLE(ROW_TEXT)
    };
    ASSERT(tier < LATENCY_TIERS);
    return names[tier];
}

const char *latency_command_name(enum latency_command command)
{
    static const char *const names[] = {
        LATENCY_COMMAND_TABLE(ROW_TEXT)
    };
    ASSERT(command < LATENCY_COMMANDS);
    return names[command];
}
