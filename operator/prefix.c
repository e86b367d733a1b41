/* operator/prefix.c: see operator/prefix.h. A hash table with chains, and the list in order of appearance. */
#include "operator/prefix.h"

#include <sys/random.h>

#include "base/hash.h"
#include "base/lock.h"
#include "proto/proto.h"

enum { CHAIN_COUNT = 1024, NUMBERS_BYTES = 4 * 20 + 40 };

struct prefix {
    struct prefix *chain_next;
    struct prefix *list_next;
    uint64_t gets, hits, sets, deletes;
    size_t len;
    char name[];
};

struct prefixes {
    /* const */
    char delimiter;
    uint64_t seed; /* random, so that no client can aim prefixes at one chain */
    struct lock lock; /* LOCK_STATS */
    /* under lock */
    struct prefix *chains[CHAIN_COUNT];
    struct prefix *first, **last;
    size_t count;
    size_t names_bytes;
};

struct prefixes *prefixes_create(char delimiter)
{
    struct prefixes *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return NULL;
    if (getrandom(&p->seed, sizeof(p->seed), 0) != (ssize_t)sizeof(p->seed)) {
        free(p);
        return NULL;
    }
    p->delimiter = delimiter;
    p->last = &p->first;
    lock_init(&p->lock, LOCK_STATS);
    return p;
}

void prefixes_destroy(struct prefixes *p)
{
    prefixes_clear(p);
    lock_destroy(&p->lock);
    free(p);
}

void prefixes_clear(struct prefixes *p)
{
    lock_assert_none_held();
    lock_take(&p->lock);
    struct prefix *at = p->first;
    memset(p->chains, 0, sizeof(p->chains));
    p->first = NULL;
    p->last = &p->first;
    p->count = 0;
    p->names_bytes = 0;
    lock_release(&p->lock);
    while (at != NULL) {
        struct prefix *next = at->list_next;
        free(at);
        at = next;
    }
}

/* The entry of the key's prefix, created if necessary; NULL if it has none or there is no room. */
static struct prefix *find_or_add(struct prefixes *p, const char *key, size_t key_len)
{
    lock_assert_held(&p->lock);
    const char *end = memchr(key, p->delimiter, key_len);
    if (end == NULL)
        return NULL;
    size_t len = (size_t)(end - key);
    DEBUG_ASSERT(len < PROTO_KEY_MAX && p->count <= PREFIX_MAX);
    struct prefix **chain = &p->chains[hash_key(key, len, p->seed) % CHAIN_COUNT];
    for (struct prefix *at = *chain; at != NULL; at = at->chain_next) {
        if (at->len == len && memcmp(at->name, key, len) == 0)
            return at;
    }
    if (p->count == PREFIX_MAX)
        return NULL;
    struct prefix *fresh = calloc(1, sizeof(*fresh) + len);
    if (fresh == NULL)
        return NULL;
    char shown[PROTO_URI_KEY_MAX];
    memcpy(fresh->name, key, len);
    fresh->len = len;
    fresh->chain_next = *chain;
    *chain = fresh;
    *p->last = fresh;
    p->last = &fresh->list_next;
    p->count++;
    p->names_bytes += proto_put_key(shown, key, len);
    return fresh;
}

static void count(struct prefixes *p, const char *key, size_t key_len, unsigned gets, unsigned hits, unsigned sets,
                  unsigned deletes)
{
    DEBUG_ASSERT(gets + sets + deletes == 1 && hits <= gets);
    lock_take(&p->lock);
    struct prefix *at = find_or_add(p, key, key_len);
    if (at != NULL) {
        at->gets += gets;
        at->hits += hits;
        at->sets += sets;
        at->deletes += deletes;
    }
    lock_release(&p->lock);
}

void prefixes_get(struct prefixes *p, const char *key, size_t key_len, bool is_hit)
{
    count(p, key, key_len, 1, is_hit, 0, 0);
}

void prefixes_set(struct prefixes *p, const char *key, size_t key_len)
{
    count(p, key, key_len, 0, 0, 1, 0);
}

void prefixes_delete(struct prefixes *p, const char *key, size_t key_len)
{
    count(p, key, key_len, 0, 0, 0, 1);
}

char *prefixes_dump(struct prefixes *p, size_t *len)
{
    lock_assert_none_held();
    lock_take(&p->lock);
    size_t size = p->names_bytes + p->count * NUMBERS_BYTES + 1, n = 0;
    char *text = malloc(size);
    if (text != NULL) {
        text[0] = '\0';
        for (const struct prefix *at = p->first; at != NULL; at = at->list_next) {
            char shown[PROTO_URI_KEY_MAX];
            DEBUG_ASSERT(at->hits <= at->gets);
            int len_shown = (int)proto_put_key(shown, at->name, at->len);
            n += (size_t)snprintf(text + n, size - n,
                                  "PREFIX %.*s get %" PRIu64 " hit %" PRIu64 " set %" PRIu64
                                  " del %" PRIu64 "\r\n",
                                  len_shown, shown, at->gets, at->hits, at->sets, at->deletes);
        }
        ASSERT(n < size);
    }
    lock_release(&p->lock);
    *len = n;
    return text;
}
