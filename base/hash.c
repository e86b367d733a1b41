/* base/hash.c: see base/hash.h. */
#include "base/hash.h"

#include <sys/random.h>
#include <unistd.h>

#include "base/clock.h"

uint64_t hash_draw(void)
{
    uint64_t drawn;
    if (getrandom(&drawn, sizeof(drawn), 0) != (ssize_t)sizeof(drawn))
        drawn = clock_mono_ns() ^ (uint64_t)clock_wall_us() << 20 ^ (uint64_t)getpid();
    return drawn != 0 ? drawn : 1;
}
