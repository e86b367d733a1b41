/* scripts/movedclock.c: LD_PRELOAD for a server whose wall clock is wrong, or is set while it runs.
 *
 *   cc -shared -fPIC -o movedclock.so movedclock.c
 *   LD_PRELOAD=movedclock.so MOVED_CLOCK=FILE server ..
 *
 * FILE holds 8 bytes: by how many seconds CLOCK_REALTIME is off. Whatever changes them sets the clock of the
 * running server at once. CLOCK_MONOTONIC stays as it is, as on a machine.
 *
 * Threads: any; the number is read atomically.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const _Atomic int64_t *moved; /* const after start */

__attribute__((constructor)) static void map_file(void)
{
    const char *path = getenv("MOVED_CLOCK");
    int fd = path != NULL ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *at = fd >= 0 ? mmap(NULL, sizeof(*moved), PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (at == MAP_FAILED)
        abort(); /* a test that believes in a clock which isn't set would pass */
    close(fd);
    moved = at;
}

int clock_gettime(clockid_t id, struct timespec *ts)
{
    int rc = (int)syscall(SYS_clock_gettime, id, ts);
    if (rc == 0 && moved != NULL && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        ts->tv_sec += *moved;
    return rc;
}
