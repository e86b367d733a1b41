/* replay_sim.c: see replay_sim.h. Each cache is three functions over an array of keys: hit (is it
 * there; if so, use it), add, and forget. */
#include "scripts/replay_sim.h"

#include <err.h>
#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX
#define SMALL_SHARE 10u /* S3-FIFO: newcomers get a tenth */
#define FREQ_MAX 3u

enum where { OUT, RAM, FLASH, GHOST };

struct list { /* newest first */
    uint32_t head, tail;
    uint64_t bytes, count;
};

struct sim {
    const struct trace *t;
    struct sim_sizes sizes;
    struct sim_result *out;
    uint64_t now; /* number of the request */
    /* of each key */
    uint8_t *where, *freq;
    uint32_t *next, *prev;
    uint64_t *place;    /* fifo: in the log; min: when it is needed next */
    struct list ram, small, ghost;
    /* fifo: the log of what was written, in bytes and by key */
    uint32_t *log;
    uint64_t *log_at;
    uint64_t log_count, log_room, log_first, log_bytes;
    /* min */
    uint64_t *needed_next; /* of each request */
    uint32_t *heap;        /* keys that are in, latest need first; stale entries are passed over */
    uint64_t *heap_at;
    uint64_t heap_count, heap_room;
};

static void *need(void *p)
{
    if (p == NULL)
        err(2, "memory");
    return p;
}

static uint64_t bytes_of(const struct sim *s, uint32_t k) { return trace_object_bytes(s->t, k); }

static void list_add(struct sim *s, struct list *l, uint32_t k)
{
    s->next[k] = l->head;
    s->prev[k] = NONE;
    if (l->head != NONE)
        s->prev[l->head] = k;
    else
        l->tail = k;
    l->head = k;
    l->bytes += bytes_of(s, k);
    l->count++;
}

static void list_take(struct sim *s, struct list *l, uint32_t k)
{
    if (s->prev[k] != NONE)
        s->next[s->prev[k]] = s->next[k];
    else
        l->head = s->next[k];
    if (s->next[k] != NONE)
        s->prev[s->next[k]] = s->prev[k];
    else
        l->tail = s->prev[k];
    l->bytes -= bytes_of(s, k);
    l->count--;
}

/* ---- lru, and the RAM of fifo ---- */

static uint64_t all_bytes(const struct sim *s) { return s->sizes.ram_bytes + s->sizes.flash_bytes; }

static bool ram_hit(struct sim *s, uint32_t k)
{
    if (s->where[k] != RAM)
        return false;
    list_take(s, &s->ram, k);
    list_add(s, &s->ram, k);
    return true;
}

static void lru_add(struct sim *s, uint32_t k)
{
    list_add(s, &s->ram, k);
    s->where[k] = RAM;
    while (s->ram.bytes > all_bytes(s)) {
        uint32_t old = s->ram.tail;
        list_take(s, &s->ram, old);
        s->where[old] = OUT;
    }
}

static void ram_forget(struct sim *s, uint32_t k)
{
    if (s->where[k] == RAM)
        list_take(s, &s->ram, k);
    s->where[k] = OUT;
}

/* ---- fifo ---- */

static bool fifo_hit(struct sim *s, uint32_t k)
{
    s->out->flash_hits += s->where[k] == FLASH;
    return s->where[k] == FLASH || ram_hit(s, k);
}

static void drop_oldest_page(struct sim *s)
{
    uint64_t page = s->log_at[s->log_first] / s->sizes.page_bytes;
    for (; s->log_first < s->log_count && s->log_at[s->log_first] / s->sizes.page_bytes == page;
         s->log_first++) {
        uint32_t k = s->log[s->log_first];
        if (s->where[k] == FLASH && s->place[k] == s->log_first)
            s->where[k] = OUT;
    }
}

static void log_add(struct sim *s, uint32_t k)
{
    uint64_t bytes = bytes_of(s, k), page = s->sizes.page_bytes;
    if (s->log_bytes / page != (s->log_bytes + bytes - 1) / page)
        s->log_bytes = (s->log_bytes / page + 1) * page; /* no record spans pages */
    if (s->log_count == s->log_room) {
        s->log_room = s->log_room == 0 ? 65536 : 2 * s->log_room;
        s->log = need(realloc(s->log, s->log_room * sizeof(*s->log)));
        s->log_at = need(realloc(s->log_at, s->log_room * sizeof(*s->log_at)));
    }
    s->log[s->log_count] = k;
    s->log_at[s->log_count] = s->log_bytes;
    s->place[k] = s->log_count++;
    s->where[k] = FLASH;
    s->log_bytes += bytes;
    s->out->flash_written += bytes;
    while (s->log_bytes / page - s->log_at[s->log_first] / page >= s->sizes.flash_bytes / page)
        drop_oldest_page(s);
}

static void fifo_add(struct sim *s, uint32_t k)
{
    list_add(s, &s->ram, k);
    s->where[k] = RAM;
    while (s->ram.bytes > s->sizes.ram_bytes) {
        uint32_t old = s->ram.tail;
        list_take(s, &s->ram, old);
        log_add(s, old);
    }
}

/* ---- s3fifo: `small` is the newcomers' list, `ram` the main one ---- */

static bool s3_hit(struct sim *s, uint32_t k)
{
    if (s->where[k] != RAM && s->where[k] != FLASH)
        return false;
    if (s->freq[k] < FREQ_MAX)
        s->freq[k]++;
    return true;
}

static void s3_to_ghost(struct sim *s, uint32_t k)
{
    list_add(s, &s->ghost, k);
    s->where[k] = GHOST;
    while (s->ghost.count > s->ram.count + 1) {
        uint32_t old = s->ghost.tail;
        list_take(s, &s->ghost, old);
        s->where[old] = OUT;
    }
}

/* RAM means main here, FLASH small. */
static void s3_evict(struct sim *s)
{
    uint32_t k;
    if (s->small.count > 0 && s->small.bytes >= all_bytes(s) / SMALL_SHARE) {
        list_take(s, &s->small, k = s->small.tail);
        if (s->freq[k] > 1) {
            list_add(s, &s->ram, k);
            s->where[k] = RAM;
            s->freq[k] = 0;
        } else {
            s3_to_ghost(s, k);
        }
        return;
    }
    if (s->ram.count == 0) {
        list_take(s, &s->small, k = s->small.tail);
        s3_to_ghost(s, k);
        return;
    }
    list_take(s, &s->ram, k = s->ram.tail);
    if (s->freq[k] > 0) {
        s->freq[k]--;
        list_add(s, &s->ram, k);
    } else {
        s->where[k] = OUT;
    }
}

static void s3_add(struct sim *s, uint32_t k)
{
    bool known = s->where[k] == GHOST;
    if (known)
        list_take(s, &s->ghost, k);
    s->freq[k] = 0;
    s->where[k] = known ? RAM : FLASH;
    list_add(s, known ? &s->ram : &s->small, k);
    while (s->ram.bytes + s->small.bytes > all_bytes(s))
        s3_evict(s);
}

static void s3_forget(struct sim *s, uint32_t k)
{
    if (s->where[k] != OUT)
        list_take(s, s->where[k] == RAM ? &s->ram : s->where[k] == FLASH ? &s->small : &s->ghost, k);
    s->where[k] = OUT;
}

/* ---- min ---- */

static void heap_push(struct sim *s, uint32_t k, uint64_t at)
{
    if (s->heap_count == s->heap_room) {
        s->heap_room = s->heap_room == 0 ? 65536 : 2 * s->heap_room;
        s->heap = need(realloc(s->heap, s->heap_room * sizeof(*s->heap)));
        s->heap_at = need(realloc(s->heap_at, s->heap_room * sizeof(*s->heap_at)));
    }
    uint64_t i = s->heap_count++;
    for (; i > 0 && s->heap_at[(i - 1) / 2] < at; i = (i - 1) / 2) {
        s->heap[i] = s->heap[(i - 1) / 2];
        s->heap_at[i] = s->heap_at[(i - 1) / 2];
    }
    s->heap[i] = k;
    s->heap_at[i] = at;
}

static uint32_t heap_pop(struct sim *s, uint64_t *at)
{
    uint32_t top = s->heap[0];
    *at = s->heap_at[0];
    uint32_t k = s->heap[--s->heap_count];
    uint64_t k_at = s->heap_at[s->heap_count], i = 0;
    for (;;) {
        uint64_t c = 2 * i + 1;
        if (c + 1 < s->heap_count && s->heap_at[c + 1] > s->heap_at[c])
            c++;
        if (c >= s->heap_count || s->heap_at[c] <= k_at)
            break;
        s->heap[i] = s->heap[c];
        s->heap_at[i] = s->heap_at[c];
        i = c;
    }
    s->heap[i] = k;
    s->heap_at[i] = k_at;
    return top;
}

static void min_prepare(struct sim *s)
{
    const struct trace *t = s->t;
    uint64_t *last = need(malloc(t->keys * sizeof(*last)));
    s->needed_next = need(malloc(t->requests * sizeof(*s->needed_next)));
    for (uint64_t k = 0; k < t->keys; k++)
        last[k] = UINT64_MAX;
    for (uint64_t i = t->requests; i-- > 0;) {
        /* An object that is changed before it is read is not needed. */
        s->needed_next[i] = last[t->key[i]];
        last[t->key[i]] = trace_op_of(t, i) == TRACE_GET ? i : UINT64_MAX;
    }
    free(last);
}

static bool min_hit(struct sim *s, uint32_t k)
{
    if (s->where[k] != RAM)
        return false;
    s->place[k] = s->needed_next[s->now];
    heap_push(s, k, s->place[k]);
    return true;
}

static void min_add(struct sim *s, uint32_t k)
{
    s->where[k] = RAM;
    s->place[k] = s->needed_next[s->now];
    s->ram.bytes += bytes_of(s, k);
    heap_push(s, k, s->place[k]);
    while (s->ram.bytes > all_bytes(s)) {
        uint64_t at;
        uint32_t old = heap_pop(s, &at);
        if (s->where[old] != RAM || s->place[old] != at)
            continue;
        s->where[old] = OUT;
        s->ram.bytes -= bytes_of(s, old);
    }
}

static void min_forget(struct sim *s, uint32_t k)
{
    if (s->where[k] == RAM)
        s->ram.bytes -= bytes_of(s, k);
    s->where[k] = OUT;
}

/* ---- all of them ---- */

static const struct kind {
    const char *name;
    bool (*hit)(struct sim *s, uint32_t k);
    void (*add)(struct sim *s, uint32_t k);
    void (*forget)(struct sim *s, uint32_t k);
    void (*prepare)(struct sim *s);
} kinds[] = {
    {"lru", ram_hit, lru_add, ram_forget, NULL},
    {"fifo", fifo_hit, fifo_add, ram_forget, NULL},
    {"s3fifo", s3_hit, s3_add, s3_forget, NULL},
    {"min", min_hit, min_add, min_forget, min_prepare},
};

static void play(struct sim *s, const struct kind *kind)
{
    const struct trace *t = s->t;
    for (s->now = 0; s->now < t->requests; s->now++) {
        uint32_t k = t->key[s->now];
        enum trace_op op = trace_op_of(t, s->now);
        if (op != TRACE_GET)
            kind->forget(s, k);
        if (op == TRACE_OVERWRITE)
            kind->add(s, k);
        if (op != TRACE_GET)
            continue;
        s->out->gets++;
        s->out->get_bytes += t->value_bytes[k];
        if (kind->hit(s, k)) {
            s->out->hits++;
            s->out->hit_bytes += t->value_bytes[k];
        } else {
            kind->add(s, k);
        }
    }
}

bool sim_run(const char *name, const struct trace *t, const struct sim_sizes *sizes,
             struct sim_result *out)
{
    const struct kind *kind = kinds, *end = kinds + sizeof(kinds) / sizeof(*kinds);
    while (kind < end && strcmp(kind->name, name) != 0)
        kind++;
    if (kind == end)
        return false;
    *out = (struct sim_result){0};
    struct list empty = {.head = NONE, .tail = NONE};
    struct sim s = {.t = t, .sizes = *sizes, .out = out, .ram = empty, .small = empty, .ghost = empty};
    s.where = need(calloc(t->keys, 1));
    s.freq = need(calloc(t->keys, 1));
    s.next = need(calloc(t->keys, sizeof(*s.next)));
    s.prev = need(calloc(t->keys, sizeof(*s.prev)));
    s.place = need(calloc(t->keys, sizeof(*s.place)));
    if (kind->prepare != NULL)
        kind->prepare(&s);
    play(&s, kind);
    free(s.where);
    free(s.freq);
    free(s.next);
    free(s.prev);
    free(s.place);
    free(s.log);
    free(s.log_at);
    free(s.needed_next);
    free(s.heap);
    free(s.heap_at);
    return true;
}
