/* base/file.c: see base/file.h. */
#include "base/file.h"

#include <unistd.h>

#include "base/lock.h"

ssize_t file_read(int fd, void *to, size_t count, uint64_t at)
{
    size_t done = 0;
    lock_assert_none_held();
    while (done < count) {
        ssize_t n = pread(fd, (char *)to + done, count - done, (off_t)(at + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    ASSERT(done <= count);
    return (ssize_t)done;
}

int file_read_all(int fd, void *to, size_t count, uint64_t at)
{
    ssize_t n = file_read(fd, to, count, at);
    return n < 0 ? (int)n : (size_t)n < count ? -ENODATA : 0;
}

int file_write(int fd, const void *from, size_t count, uint64_t at)
{
    size_t done = 0;
    lock_assert_none_held();
    while (done < count) {
        ssize_t n = pwrite(fd, (const char *)from + done, count - done, (off_t)(at + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        done += (size_t)n;
    }
    ASSERT(done == count);
    return 0;
}

int file_sync(int fd)
{
    lock_assert_none_held();
    return fdatasync(fd) != 0 && errno != EINVAL ? -errno : 0;
}
