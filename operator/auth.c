/* operator/auth.c: see operator/auth.h. The file is kept as text; a check walks all of its lines. */
#include "operator/auth.h"

#include "base/clock.h"
#include "base/hash.h"
#include "base/lock.h"
#include "base/log.h"

enum { FAILURE_SLOTS = 1024 };

/* Failed log-ins of the peers that share the slot. */
struct failures {
    uint32_t since_sec, count;
};

struct auth {
    char *path;
    uint64_t seed; /* of the peers' hash */
    struct lock lock;
    /* under lock */
    char *text;
    size_t bytes;
    struct failures failures[FAILURE_SLOTS];
};

/* 0 or -errno. */
static int read_file(const char *path, char **text, size_t *bytes)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return -errno;
    char *buf = malloc(AUTH_FILE_BYTES_MAX + 1);
    size_t have = buf ? fread(buf, 1, AUTH_FILE_BYTES_MAX + 1, f) : 0;
    int err = !buf || ferror(f) ? -errno : have > AUTH_FILE_BYTES_MAX ? -EFBIG : 0;
    fclose(f);
    if (err) {
        free(buf);
        return err;
    }
    char *fitting = realloc(buf, have + 1);
    *text = fitting ? fitting : buf;
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
    DEBUG_ASSERT(*p > *line && *p <= end);
    if (stop > *line && stop[-1] == '\r')
        stop--;
    *len = (size_t)(stop - *line);
    return true;
}

/* 0, -EINVAL or -ENODATA: there is no user. */
static int check_lines(const char *text, size_t bytes)
{
    const char *p = text, *line;
    size_t len;
    unsigned users = 0;
    while (next_line(&p, text + bytes, &line, &len)) {
        if (len == 0)
            continue;
        const char *colon = memchr(line, ':', len);
        if (!colon || colon == line || colon == line + len - 1)
            return -EINVAL; /* nobody gets in without a name or a password */
        users++;
    }
    return users > 0 ? 0 : -ENODATA;
}

static int load(const char *path, char **text, size_t *bytes)
{
    lock_assert_none_held(); /* it reads a file */
    int err = read_file(path, text, bytes);
    if (err)
        return err;
    err = check_lines(*text, *bytes);
    if (err)
        free(*text);
    return err;
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
    a->seed = clock_mono_ns();
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
    memset(a->failures, 0, sizeof(a->failures));
    lock_release(&a->lock);
    free(old);
    return 0;
}

/* 0 iff the line is user, colon, password. Its time depends only on their lengths, not on the line. */
static unsigned differs(const char *line, size_t len, const char *user, size_t user_bytes,
                        const char *password, size_t password_bytes)
{
    size_t bytes = user_bytes + 1 + password_bytes, at = 0;
    DEBUG_ASSERT(len > 0);
    unsigned diff = len != bytes;
    for (size_t i = 0; i < bytes; i++) {
        char c = i < user_bytes ? user[i] : i == user_bytes ? ':' : password[i - user_bytes - 1];
        diff |= (unsigned)((unsigned char)line[at] ^ (unsigned char)c);
        at = at + 1 < len ? at + 1 : 0;
    }
    return diff;
}

static bool is_user(struct auth *a, const char *user, size_t user_bytes, const char *password,
                    size_t password_bytes)
{
    bool found = false;
    lock_take(&a->lock);
    const char *p = a->text, *line;
    size_t len;
    while (next_line(&p, a->text + a->bytes, &line, &len)) {
        if (len > 0)
            found |= differs(line, len, user, user_bytes, password, password_bytes) == 0;
    }
    lock_release(&a->lock);
    return found;
}

/* ---- failures ---- */

/* The peer's slot; begins a new window if the last one is over. Ports don't count. The lock is held. */
static struct failures *failures_of(struct auth *a, const char *peer)
{
    uint32_t now = clock_now_sec();
    const char *port = strrchr(peer, ':');
    size_t bytes = port ? (size_t)(port - peer) : strlen(peer);
    struct failures *f = &a->failures[hash_key(peer, bytes, a->seed) % FAILURE_SLOTS];
    lock_assert_held(&a->lock);
    if (f->count == 0 || now - f->since_sec >= AUTH_WINDOW_SEC)
        *f = (struct failures){.since_sec = now};
    return f;
}

bool auth_log_in(struct auth *a, const char *peer, const char *user, size_t user_bytes,
                 const char *password, size_t password_bytes)
{
    lock_assert_none_held();
    lock_take(&a->lock);
    bool may_try = failures_of(a, peer)->count < AUTH_FAILURES_MAX;
    lock_release(&a->lock);
    if (may_try && is_user(a, user, user_bytes, password, password_bytes))
        return true;
    lock_take(&a->lock);
    if (may_try)
        failures_of(a, peer)->count++;
    lock_release(&a->lock);
    if (may_try)
        log_warning("log-in of %s failed", peer);
    else
        log_warning("log-in of %s refused: %d failed within %d s", peer, AUTH_FAILURES_MAX,
                    AUTH_WINDOW_SEC);
    return false;
}
