/* base/passed.c: see base/passed.h. */
#include "base/passed.h"

#include <fcntl.h>
#include <unistd.h>

enum { PASSED_MAX = 1024 };

static unsigned socket_count; /* const after setup */

/* The variables are meant for the process whose id they name. */
static void take_sockets(const char *pid, const char *fds)
{
    if (!pid || !fds || strtol(pid, NULL, 10) != (long)getpid())
        return;
    long n = strtol(fds, NULL, 10);
    for (long i = 0; i < n && i < PASSED_MAX; i++) {
        int fd = PASSED_FD_FIRST + (int)i, flags = fcntl(fd, F_GETFL);
        if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
            return;
        socket_count++;
    }
}

void passed_setup(void)
{
    take_sockets(getenv("LISTEN_PID"), getenv("LISTEN_FDS"));
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
}

unsigned passed_sockets(void)
{
    return socket_count;
}
