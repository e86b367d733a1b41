/* operator/auth.c: see operator/auth.h. The file is kept as text; a check walks all of its lines. */
#include "operator/auth.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/lock.h"

struct auth {
    char *path;
    struct lock lock;
    /* under lock */
    char *text;
    size_t bytes;
};

/* 0 or -errno. */
static int read_file(const char *path, char **text, size_t *bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    struct stat st;
    int err = fstat(fd, &st) < 0 ? -errno : 0;
    if (!err && (size_t)st.st_size > AUTH_FILE_BYTES_MAX)
        err = -EFBIG;
    char *buf = err ? NULL : malloc((size_t)st.st_size + 1);
    if (!err && !buf)
        err = -ENOMEM;
    size_t have = 0;
    while (!err && have < (size_t)st.st_size) {
        ssize_t n = read(fd, buf + have, (size_t)st.st_size - have);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            err = -errno;
        if (n <= 0)
            break;
        have += (size_t)n;
    }
    close(fd);
    if (err) {
        free(buf);
        return err;
    }
    *text = buf;
    *bytes = have;
    return 0;
}

/* One line of the text, without its end; false when there is none left. */
static bool next_line(const char **p, const char *end, const char **line, size_t *len)
{
    if (*p >= end)
        return false;
    const char *nl = memchr(*p, '\n', (size_t)(end - *p));
    const char *stop = nl ? nl : end;
    *line = *p;
    *p = nl ? nl + 1 : end;
    if (stop > *line && stop[-1] == '\r')
        stop--;
    *len = (size_t)(stop - *line);
    return true;
}

static bool is_well_formed(const char *text, size_t bytes)
{
    const char *p = text, *line;
    size_t len;
    unsigned users = 0;
    while (next_line(&p, text + bytes, &line, &len)) {
        if (len == 0)
            continue;
        const char *colon = memchr(line, ':', len);
        if (!colon || colon == line || colon == line + len - 1)
            return false; /* nobody gets in without a name or a password */
        users++;
    }
    return users > 0;
}

static int load(const char *path, char **text, size_t *bytes)
{
    int err = read_file(path, text, bytes);
    if (err)
        return err;
    if (!is_well_formed(*text, *bytes)) {
        free(*text);
        return -EINVAL;
    }
    return 0;
}

struct auth *auth_create(const char *path)
{
    struct auth *a = calloc(1, sizeof(*a));
    int err = -ENOMEM;
    if (a && (a->path = strdup(path)) != NULL)
        err = load(path, &a->text, &a->bytes);
    if (err) {
        if (a)
            free(a->path);
        free(a);
        errno = -err;
        return NULL;
    }
    lock_init(&a->lock, LOCK_CONTROL);
    return a;
}

void auth_destroy(struct auth *a)
{
    if (!a)
        return;
    lock_destroy(&a->lock);
    free(a->text);
    free(a->path);
    free(a);
}

int auth_reload(struct auth *a)
{
    char *text;
    size_t bytes;
    int err = load(a->path, &text, &bytes);
    if (err)
        return err;
    lock_take(&a->lock);
    char *old = a->text;
    a->text = text;
    a->bytes = bytes;
    lock_release(&a->lock);
    free(old);
    return 0;
}

/* Looks at every byte of line, whatever differs. */
static bool equals_in_constant_time(const char *line, const char *text, size_t len)
{
    unsigned diff = 0;
    for (size_t i = 0; i < len; i++)
        diff |= (unsigned)((unsigned char)line[i] ^ (unsigned char)text[i]);
    return diff == 0;
}

bool auth_check(struct auth *a, const char *text, size_t bytes)
{
    const char *space = memchr(text, ' ', bytes);
    if (!space)
        return false;
    size_t user_len = (size_t)(space - text);
    bool found = false;
    lock_take(&a->lock);
    const char *p = a->text, *line;
    size_t len;
    while (next_line(&p, a->text + a->bytes, &line, &len)) {
        if (len != bytes)
            continue;
        bool user = equals_in_constant_time(line, text, user_len);
        bool colon = line[user_len] == ':';
        bool password =
            equals_in_constant_time(line + user_len + 1, space + 1, bytes - user_len - 1);
        found |= user & colon & password;
    }
    lock_release(&a->lock);
    return found;
}
