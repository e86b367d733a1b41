/* base/service.c: see base/service.h. */
#include "base/service.h"

#include <fcntl.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int notify_fd = -1;    /* const after setup */
static unsigned socket_count; /* const after setup */

/* Opened now: later the process may be allowed no sockets. */
static void open_notify(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    size_t len = strlen(path);
    if ((path[0] != '/' && path[0] != '@') || len >= sizeof(addr.sun_path))
        return;
    memcpy(addr.sun_path, path, len);
    if (path[0] == '@') /* an abstract one */
        addr.sun_path[0] = '\0';
    notify_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
    if (notify_fd >= 0 && connect(notify_fd, (struct sockaddr *)&addr, bytes) < 0) {
        close(notify_fd);
        notify_fd = -1;
    }
}

/* The variables are meant for the process whose id they name. */
static void take_sockets(const char *pid, const char *fds)
{
    if (!pid || !fds || strtol(pid, NULL, 10) != (long)getpid())
        return;
    long n = strtol(fds, NULL, 10);
    for (long i = 0; i < n && i < 1024; i++) {
        int fd = SERVICE_FD_FIRST + (int)i, flags = fcntl(fd, F_GETFL);
        if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
            return;
        socket_count++;
    }
}

void service_setup(void)
{
    const char *path = getenv("NOTIFY_SOCKET");
    if (path)
        open_notify(path);
    take_sockets(getenv("LISTEN_PID"), getenv("LISTEN_FDS"));
    unsetenv("NOTIFY_SOCKET");
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
}

void service_tell(const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    if (notify_fd < 0)
        return;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    size_t len = (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1;
    ssize_t rc = send(notify_fd, text, len, MSG_NOSIGNAL);
    (void)rc; /* who doesn't listen has to do without */
}

unsigned service_sockets(void)
{
    return socket_count;
}
