/* auth_test.c: who may log in. The file's lines are user:password; a client gives "user password". */
#include <criterion/criterion.h>

#include <unistd.h>

#include "operator/auth.h"

static struct auth *a;

static void with_file(const char *text)
{
    char path[] = "/tmp/extant-auth-test-XXXXXX";
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    a = auth_create(path);
    unlink(path);
}

/* "user password", from a peer that has not tried before. */
static bool gets_in(const char *text)
{
    static unsigned number;
    char peer[32];
    const char *space = strchr(text, ' ');
    if (!space)
        return false;
    snprintf(peer, sizeof(peer), "peer %u:1", number++);
    return auth_log_in(a, peer, text, (size_t)(space - text), space + 1, strlen(space + 1));
}

Test(auth, only_users_of_the_file_get_in)
{
    with_file("foo:bar\nother:secret words\n");
    cr_assert(gets_in("foo bar"));
    cr_assert(gets_in("other secret words"));
    cr_assert_not(gets_in("foo ba"));
    cr_assert_not(gets_in("foo barx"));
    cr_assert_not(gets_in("fox bar"));
    cr_assert_not(gets_in("foo baz"));
    cr_assert_not(gets_in("foo:bar"));
    auth_destroy(a);
}

/* The line is split where its first colon is, not where the client's blank happens to be. */
Test(auth, the_colon_is_compared)
{
    with_file("ab:cd\nuser:x:y\n");
    cr_assert(gets_in("ab cd"));
    cr_assert_not(gets_in("a :cd"), "user \"a\", password \":cd\"");
    cr_assert_not(gets_in("ab: d"));
    cr_assert_not(gets_in("us r:x:y"));
    cr_assert(gets_in("user x:y"));
    auth_destroy(a);
}

Test(auth, malformed_files_are_refused)
{
    static const char *const bad[] = {"foo", ":bar", "foo:", "foo:bar\nbaz\n"};
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        errno = 0;
        with_file(bad[i]);
        cr_assert_null(a, "\"%s\"", bad[i]);
        cr_assert_eq(errno, EINVAL, "\"%s\": %d", bad[i], errno);
    }
}

Test(auth, a_file_without_users_is_refused)
{
    static const char *const bad[] = {"", "\n", "\r\n\n"};
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        errno = 0;
        with_file(bad[i]);
        cr_assert_null(a, "\"%s\"", bad[i]);
        cr_assert_eq(errno, ENODATA, "\"%s\": %d", bad[i], errno);
    }
}
