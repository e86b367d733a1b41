/* files.h: small files of tests, read, written and damaged. */
#ifndef EXTANT_T_FILES_H
#define EXTANT_T_FILES_H

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"

/* -1: there is none. */
static inline off_t file_size(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? st.st_size : -1;
}

/* Turns over one bit of the byte at this place. */
static inline void flip(const char *path, off_t at)
{
    int fd = open(path, O_RDWR);
    uint8_t byte;
    ASSERT(fd >= 0 && pread(fd, &byte, 1, at) == 1);
    byte ^= 0x10;
    ASSERT(pwrite(fd, &byte, 1, at) == 1);
    close(fd);
}

/* All of the file; to be freed. */
static inline char *slurp(const char *path, size_t *bytes)
{
    *bytes = (size_t)file_size(path);
    char *all = malloc(*bytes + 1);
    int fd = open(path, O_RDONLY);
    ASSERT(all && fd >= 0 && read(fd, all, *bytes) == (ssize_t)*bytes);
    close(fd);
    return all;
}

/* The file becomes these bytes. */
static inline void spill(const char *path, const char *all, size_t bytes)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ASSERT(fd >= 0 && write(fd, all, bytes) == (ssize_t)bytes);
    close(fd);
}

#endif
