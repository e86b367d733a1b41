/* operator/prefix.h: `stats detail`. */
#include "operator/prefix.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <time.h>

#include "t/aid/flood.h"

static struct prefixes *p;

static void setup(void)
{
    p = prefixes_create(':');
    cr_assert_not_null(p);
}

static void teardown(void)
{
    prefixes_destroy(p);
}

TestSuite(prefix, .init = setup, .fini = teardown);

#define dumps(want)                                                                                \
    do {                                                                                           \
        size_t len_;                                                                               \
        char *text_ = prefixes_dump(p, &len_);                                                     \
        cr_assert_not_null(text_);                                                                 \
        cr_assert_str_eq(text_, want);                                                             \
        cr_assert_eq(len_, strlen(want));                                                          \
        free(text_);                                                                               \
    } while (0)

Test(prefix, nothing_at_first)
{
    dumps("");
}

Test(prefix, counts_each_kind)
{
    prefixes_get(p, "user:1", 6, true);
    prefixes_get(p, "user:2", 6, false);
    prefixes_set(p, "user:1", 6);
    prefixes_delete(p, "user:1", 6);
    dumps("PREFIX user get 2 hit 1 set 1 del 1\r\n");
}

Test(prefix, order_of_appearance)
{
    prefixes_set(p, "b:1", 3);
    prefixes_set(p, "a:1", 3);
    prefixes_set(p, "b:2", 3);
    dumps("PREFIX b get 0 hit 0 set 2 del 0\r\nPREFIX a get 0 hit 0 set 1 del 0\r\n");
}

Test(prefix, ends_at_the_first_delimiter)
{
    prefixes_set(p, "a:b:c", 5);
    dumps("PREFIX a get 0 hit 0 set 1 del 0\r\n");
}

Test(prefix, key_without_delimiter_is_not_counted)
{
    prefixes_set(p, "abc", 3);
    dumps("");
}

Test(prefix, delimiter_beyond_the_key_does_not_count)
{
    prefixes_set(p, "abc:d", 3);
    dumps("");
}

Test(prefix, empty_prefix_is_one)
{
    prefixes_set(p, ":x", 2);
    dumps("PREFIX  get 0 hit 0 set 1 del 0\r\n");
}

Test(prefix, one_that_begins_like_another)
{
    prefixes_set(p, "ab:", 3);
    prefixes_set(p, "a:", 2);
    dumps("PREFIX ab get 0 hit 0 set 1 del 0\r\nPREFIX a get 0 hit 0 set 1 del 0\r\n");
}

Test(prefix, clear_forgets)
{
    prefixes_set(p, "a:", 2);
    prefixes_clear(p);
    dumps("");
    prefixes_set(p, "b:", 2);
    dumps("PREFIX b get 0 hit 0 set 1 del 0\r\n");
}

Test(prefix, another_delimiter)
{
    prefixes_destroy(p);
    p = prefixes_create('/');
    prefixes_set(p, "a:b/c", 5);
    dumps("PREFIX a:b get 0 hit 0 set 1 del 0\r\n");
}

Test(prefix, longest_keys_fit_the_dump)
{
    char key[250];
    memset(key, 'k', sizeof(key));
    key[249] = ':';
    prefixes_get(p, key, sizeof(key), true);
    size_t len;
    char *text = prefixes_dump(p, &len);
    cr_assert_eq(len, 249 + strlen("PREFIX  get 1 hit 1 set 0 del 0\r\n"));
    free(text);
}

Test(prefix, there_are_no_more_than_the_bound)
{
    char key[32];
    for (int i = 0; i < PREFIX_MAX + 10; i++)
        prefixes_set(p, key, (size_t)snprintf(key, sizeof(key), "%d:x", i));
    prefixes_set(p, "0:y", 3);
    size_t len, n = 0;
    char *text = prefixes_dump(p, &len);
    for (const char *at = text; (at = strchr(at, '\n')) != NULL; at++)
        n++;
    cr_assert_eq(n, PREFIX_MAX);
    cr_assert_eq(strncmp(text, "PREFIX 0 get 0 hit 0 set 2 del 0\r\n", 34), 0);
    free(text);
}

static void *set_many(void *arg)
{
    (void)arg;
    for (int i = 0; i < 5000; i++) {
        char key[16];
        prefixes_set(p, key, (size_t)snprintf(key, sizeof(key), "%d:x", i % 10));
    }
    return NULL;
}

Test(prefix, threads_at_once)
{
    pthread_t t[2];
    for (int i = 0; i < 2; i++)
        cr_assert_eq(pthread_create(&t[i], NULL, set_many, NULL), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
    size_t len;
    char *text = prefixes_dump(p, &len);
    for (const char *at = text; *at != '\0'; at = strchr(at, '\n') + 1)
        cr_assert_not_null(strstr(at, "set 1000 del 0\r\n"));
    free(text);
}

/* CPU time of counting as many prefixes as there may be, each of which is new. */
static double seconds_of(void (*make)(char *key, uint32_t i))
{
    struct timespec from, to;
    char key[FLOOD_KEY_BYTES + 2];
    prefixes_clear(p);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
    for (uint32_t i = 0; i < PREFIX_MAX; i++) {
        make(key, i);
        memcpy(key + FLOOD_KEY_BYTES, ":x", 2);
        prefixes_get(p, key, sizeof(key), true);
    }
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
    return (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) / 1e9;
}

static void make_flood(char *key, uint32_t i) { flood_key(key, 0, i * 0x10001); }

static void make_plain(char *key, uint32_t i)
{
    snprintf(key, FLOOD_KEY_BYTES + 1, "any other prefix with number %03x", i & 0xfff);
    memcpy(key, &i, 2); /* a delimiter among them is in both kinds */
}

Test(prefix, a_known_seed_does_not_help_to_fill_one_chain)
{
    double plain = seconds_of(make_plain), flood = seconds_of(make_flood);
    cr_assert_lt(flood, 10 * plain + 0.1, "%.3f s, others %.3f s", flood, plain);
}
