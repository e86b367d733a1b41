/* fuzz_auth.c: any file of users, and any text of a client. The first line of the input is what the
 * client sends, the rest is the file. Compared with a reader that is slow and plain: the file is good
 * iff it has a line and each line that is not empty has a colon; a client is let in iff "user:password"
 * is a line. */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"
#include "operator/auth.h"
#include "t/fuzz/fuzz.h"

/* Calls for each line, without its end and a \r before that. */
static bool next_line(const char **at, const char *end, const char **line, size_t *len)
{
    if (*at == end)
        return false;
    *line = *at;
    while (*at < end && **at != '\n')
        ++*at;
    *len = (size_t)(*at - *line);
    *at += *at < end;
    *len -= *len > 0 && (*line)[*len - 1] == '\r';
    return true;
}

static bool is_good(const char *text, size_t bytes)
{
    const char *at = text, *line;
    size_t len, users = 0;
    while (next_line(&at, text + bytes, &line, &len)) {
        if (len == 0)
            continue;
        const char *colon = memchr(line, ':', len);
        if (!colon || colon == line || colon == line + len - 1)
            return false; /* no name, or no password */
        users++;
    }
    return users > 0;
}

static bool is_user(const char *text, size_t bytes, const char *client, size_t client_bytes)
{
    const char *at = text, *line, *space = memchr(client, ' ', client_bytes);
    size_t len;
    if (!space)
        return false;
    char *wanted = fuzz_copy(client, client_bytes);
    wanted[space - client] = ':';
    bool found = false;
    while (next_line(&at, text + bytes, &line, &len))
        found |= len == client_bytes && memcmp(line, wanted, len) == 0;
    free(wanted);
    return found;
}

static void put_file(int fd, const char *text, size_t bytes)
{
    ASSERT(ftruncate(fd, 0) == 0);
    ASSERT(pwrite(fd, text, bytes, 0) == (ssize_t)bytes);
}

/* "user password". A reload forgets failures, so no input fails too often. */
static bool gets_in(struct auth *a, const char *text, size_t bytes)
{
    const char *space = memchr(text, ' ', bytes);
    if (!space)
        return false;
    size_t user_bytes = (size_t)(space - text);
    return auth_log_in(a, "", text, user_bytes, space + 1, bytes - user_bytes - 1);
}

FUZZ_TARGET(auth)
{
    const uint8_t *nl = size > 0 ? memchr(data, '\n', size) : NULL;
    size_t client_bytes = nl ? (size_t)(nl - data) : size;
    size_t file_bytes = nl ? size - client_bytes - 1 : 0;
    const char *file = nl ? (const char *)nl + 1 : "";
    char *client = fuzz_copy(data, client_bytes), path[64];
    int fd = memfd_create("users", MFD_CLOEXEC);
    ASSERT(fd >= 0);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    put_file(fd, file, file_bytes);
    struct auth *a = auth_create(path);
    ASSERT((a != NULL) == is_good(file, file_bytes));
    ASSERT(a || errno == EINVAL || errno == ENODATA); /* ENODATA: no line has a user */
    log_set_level(LOG_LEVEL_ERROR);
    if (a) {
        bool let_in = is_user(file, file_bytes, client, client_bytes);
        ASSERT(gets_in(a, client, client_bytes) == let_in);
        put_file(fd, "no colon", 8);
        ASSERT(auth_reload(a) == -EINVAL);
        ASSERT(gets_in(a, client, client_bytes) == let_in);
        put_file(fd, "u:p\n", 4);
        ASSERT(auth_reload(a) == 0);
        ASSERT(gets_in(a, "u p", 3));
        ASSERT(gets_in(a, client, client_bytes) == is_user("u:p", 3, client, client_bytes));
    }
    auth_destroy(a);
    free(client);
    close(fd);
    return 0;
}
