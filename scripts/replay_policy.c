/* replay_policy.c: see replay_policy.h. RAM is an LRU for each slab class; flash is pages of records, each with two
 * heat bits, as upkeep/reclaim.h describes it. */
#include "scripts/replay_policy.h"

#include <err.h>
#include <math.h>

#include "items/admission.h"
#include "items/ghost.h"

#define NONE UINT32_MAX
#define HEAT_MAX 3u
#define FREE_PAGES 2u /* as for a small server: reserved, and to be opened */
#define LISTS 64u
#define SMALLEST_BYTES 96.0 /* of slab classes */
#define SLAB_FACTOR 1.25

enum where { OUT, RAM, FLASH };

struct page {
    uint32_t *keys; /* in order of writing */
    uint64_t count, room;
    uint64_t bytes, hot_bytes;
    uint64_t order; /* the lowest is looked at first */
};

struct state {
    const struct policy *p;
    const struct trace *t;
    struct sim_sizes sizes;
    struct sim_result *out;
    struct ghost ghost;
    struct admission admission;
    /* of each key */
    uint8_t *where, *ram_hits, *known, *heat, *class;
    uint32_t *next, *prev, *page;
    uint32_t head[LISTS], tail[LISTS]; /* of each slab class */
    uint64_t ram_bytes[LISTS];
    struct page *pages;
    uint64_t page_count, pages_used, order;
    uint32_t open[2]; /* pages for what comes from RAM, and for what is written again */
};

static void *need(void *p)
{
    if (p == NULL)
        err(2, "memory");
    return p;
}

static uint64_t bytes_of(const struct state *s, uint32_t k) { return trace_object_bytes(s->t, k); }
static uint64_t hash_of(const struct state *s, uint32_t k) { return trace_mix(s->t->name[k] + 77 + (s->t->opt.seed << 40)); }

static unsigned list_of(const struct state *s, uint32_t k)
{
    if (s->p->slab_mb <= 0)
        return 0;
    double class = log((double)bytes_of(s, k) / SMALLEST_BYTES) / log(SLAB_FACTOR);
    return class < 0 ? 0 : class > LISTS - 1 ? LISTS - 1 : (unsigned)class;
}

static void ram_take(struct state *s, uint32_t k)
{
    unsigned l = list_of(s, k);
    if (s->prev[k] != NONE)
        s->next[s->prev[k]] = s->next[k];
    else
        s->head[l] = s->next[k];
    if (s->next[k] != NONE)
        s->prev[s->next[k]] = s->prev[k];
    else
        s->tail[l] = s->prev[k];
    s->ram_bytes[l] -= bytes_of(s, k);
}

static void ram_put(struct state *s, uint32_t k)
{
    unsigned l = list_of(s, k);
    s->next[k] = s->head[l];
    s->prev[k] = NONE;
    if (s->head[l] != NONE)
        s->prev[s->head[l]] = k;
    else
        s->tail[l] = k;
    s->head[l] = k;
    s->ram_bytes[l] += bytes_of(s, k);
}

/* ---- flash ---- */

static bool reclaim(struct state *s);

static void flash_put(struct state *s, uint32_t k, unsigned heat, bool again)
{
    uint64_t bytes = bytes_of(s, k);
    uint32_t *open = &s->open[again];
    if (*open == NONE || s->pages[*open].bytes + bytes > s->sizes.page_bytes) {
        uint32_t i = 0;
        while (i < s->page_count && s->pages[i].count > 0)
            i++;
        if (i == s->page_count)
            errx(2, "no page");
        *open = i;
        s->pages_used++;
        s->pages[i].order = ++s->order;
    }
    struct page *p = &s->pages[*open];
    if (p->count == p->room) {
        p->room = p->room == 0 ? 64 : 2 * p->room;
        p->keys = need(realloc(p->keys, p->room * sizeof(*p->keys)));
    }
    p->keys[p->count++] = k;
    p->bytes += bytes;
    p->hot_bytes += heat >= s->p->hot ? bytes : 0;
    s->page[k] = *open;
    s->where[k] = FLASH;
    s->heat[k] = (uint8_t)heat;
    s->out->flash_written += bytes;
}

static bool is_in(const struct state *s, uint32_t k, uint32_t page)
{
    return s->where[k] == FLASH && s->page[k] == page;
}

/* The page stays, cooler. */
static void cool(struct state *s, uint32_t page)
{
    struct page *p = &s->pages[page];
    p->hot_bytes = 0;
    for (uint64_t i = 0; i < p->count; i++) {
        uint32_t k = p->keys[i];
        if (!is_in(s, k, page))
            continue;
        s->heat[k] /= 2;
        p->hot_bytes += s->heat[k] >= s->p->hot ? bytes_of(s, k) : 0;
    }
    p->order = ++s->order;
    s->out->second_chances++;
}

static void evict_page(struct state *s, uint32_t page)
{
    struct page p = s->pages[page];
    uint64_t budget = (uint64_t)(s->p->keep * (double)s->sizes.page_bytes);
    s->pages[page] = (struct page){0};
    s->pages_used--;
    for (unsigned heat = HEAT_MAX; heat > 0; heat--) {
        for (uint64_t i = 0; i < p.count; i++) {
            uint32_t k = p.keys[i];
            if (!is_in(s, k, page) || s->heat[k] != heat || bytes_of(s, k) > budget)
                continue;
            budget -= bytes_of(s, k);
            s->out->rewritten += bytes_of(s, k);
            flash_put(s, k, heat / 2, true);
        }
    }
    for (uint64_t i = 0; i < p.count; i++) {
        uint32_t k = p.keys[i];
        if (!is_in(s, k, page))
            continue;
        s->where[k] = OUT;
        if (s->p->evicted_known)
            ghost_add(&s->ghost, hash_of(s, k), bytes_of(s, k));
    }
    free(p.keys);
}

static bool reclaim(struct state *s)
{
    uint32_t oldest = NONE;
    for (unsigned looks = 0; looks < 2 * s->page_count; looks++) {
        oldest = NONE;
        for (uint32_t i = 0; i < s->page_count; i++) {
            if (i != s->open[0] && i != s->open[1] && s->pages[i].count > 0 &&
                (oldest == NONE || s->pages[i].order < s->pages[oldest].order))
                oldest = i;
        }
        struct page *p = &s->pages[oldest];
        if ((double)p->hot_bytes < s->p->second * (double)p->bytes)
            break;
        cool(s, oldest);
    }
    evict_page(s, oldest);
    return true;
}

/* ---- RAM ---- */

static void leave_ram(struct state *s, uint32_t k)
{
    uint64_t hash = hash_of(s, k), bytes = bytes_of(s, k);
    unsigned class = admission_class(s->known[k] || ghost_has(&s->ghost, hash), s->ram_hits[k]);
    bool full = s->pages_used + FREE_PAGES >= s->page_count;
    admission_leaves(&s->admission, bytes);
    s->where[k] = OUT;
    if (full && !admission_wants(&s->admission, hash, class, bytes)) {
        ghost_add(&s->ghost, hash, bytes);
        return;
    }
    s->class[k] = (uint8_t)class;
    admission_written(&s->admission, class, bytes);
    flash_put(s, k, 0, false);
    while (s->pages_used + FREE_PAGES > s->page_count)
        reclaim(s);
}

static bool hit(struct state *s, uint32_t k)
{
    if (s->where[k] == RAM) {
        ram_take(s, k);
        ram_put(s, k);
        s->ram_hits[k] += s->ram_hits[k] < 2;
        return true;
    }
    if (s->where[k] != FLASH) {
        admission_miss(&s->admission);
        return false;
    }
    struct page *p = &s->pages[s->page[k]];
    p->hot_bytes += s->heat[k] + 1u == s->p->hot ? bytes_of(s, k) : 0;
    admission_hit(&s->admission, s->class[k], bytes_of(s, k), s->heat[k] == 0);
    s->heat[k] += s->heat[k] < HEAT_MAX;
    s->out->flash_hits++;
    return true;
}

static void forget(struct state *s, uint32_t k, bool deleted)
{
    if (s->where[k] == RAM)
        ram_take(s, k);
    if (deleted && s->where[k] == FLASH)
        ghost_add(&s->ghost, hash_of(s, k), bytes_of(s, k));
    if (s->where[k] == FLASH && s->heat[k] >= s->p->hot)
        s->pages[s->page[k]].hot_bytes -= bytes_of(s, k);
    s->where[k] = OUT;
}

static void put(struct state *s, uint32_t k, bool known)
{
    s->where[k] = RAM;
    s->ram_hits[k] = 0;
    s->known[k] = known;
    ram_put(s, k);
    unsigned l = list_of(s, k);
    uint64_t room = s->p->slab_mb > 0 ? (uint64_t)(s->p->slab_mb * 1048576) : s->sizes.ram_bytes;
    while (s->ram_bytes[l] > room) {
        uint32_t old = s->tail[l];
        ram_take(s, old);
        leave_ram(s, old);
    }
}

void policy_parse(struct policy *p, char *text)
{
    *p = (struct policy){.admit = ADMISSION_LEARN, .worth = ADMISSION_WORTH, .sample = ADMISSION_SAMPLE, .strict = ADMISSION_WORTH_STRICT,
                         .pays = ADMISSION_PAYS, .once = ADMISSION_ONCE, .keep = 0.1, .second = 0.33, .hot = 2, .ghost_keys = 0.5, .window = 1,
                         .slab_mb = 0.9, .evicted_known = true};
    for (char *part; (part = strsep(&text, ",")) != NULL;) {
        char name[32];
        double v;
        if (*part == '\0')
            continue;
        if (sscanf(part, "%31[a-z_]=%lf", name, &v) != 2)
            errx(2, "%s: NAME=NUMBER", part);
        if (strcmp(name, "admit") == 0)
            p->admit = (int)v;
        else if (strcmp(name, "worth") == 0)
            p->worth = v;
        else if (strcmp(name, "strict") == 0)
            p->strict = v;
        else if (strcmp(name, "once") == 0)
            p->once = v;
        else if (strcmp(name, "pays") == 0)
            p->pays = v;
        else if (strcmp(name, "sample") == 0)
            p->sample = (unsigned)v;
        else if (strcmp(name, "hot") == 0)
            p->hot = (unsigned)v;
        else if (strcmp(name, "keep") == 0)
            p->keep = v;
        else if (strcmp(name, "second") == 0)
            p->second = v;
        else if (strcmp(name, "ghost") == 0)
            p->ghost_keys = v;
        else if (strcmp(name, "window") == 0)
            p->window = v;
        else if (strcmp(name, "slab") == 0)
            p->slab_mb = v;
        else if (strcmp(name, "evicted_known") == 0)
            p->evicted_known = v != 0;
        else if (strcmp(name, "verbose") == 0)
            p->verbose = v != 0;
        else
            errx(2, "%s: admit, worth, strict, pays, once, sample, keep, second, hot, ghost, window, slab, evicted_known", name);
    }
}

static void play(struct state *s)
{
    const struct trace *t = s->t;
    uint64_t tell = t->requests / 20 + 1;
    for (uint64_t i = 0; i < t->requests; i++) {
        uint32_t k = t->key[i];
        enum trace_op op = trace_op_of(t, i);
        if (op != TRACE_GET) {
            bool was = s->where[k] != OUT;
            forget(s, k, op == TRACE_DELETE);
            if (op == TRACE_OVERWRITE)
                put(s, k, was);
            continue;
        }
        s->out->gets++;
        s->out->get_bytes += t->value_bytes[k];
        if (hit(s, k)) {
            s->out->hits++;
            s->out->hit_bytes += t->value_bytes[k];
        } else {
            put(s, k, false);
        }
        if (s->p->verbose && i % tell == 0) {
            struct admission *a = &s->admission;
            fprintf(stderr, "%9lu miss %.3f share %u trial %d admitted", (unsigned long)i,
                    1 - (double)s->out->hits / (double)s->out->gets, a->share, a->trial);
            for (unsigned c = 0; c < ADMISSION_CLASSES; c++)
                fprintf(stderr, " %c%.2f/%.0fM", a->admitted >> c & 1 ? '+' : '-',
                        1e5*(double)a->groups[c].hits / ((double)a->groups[c].bytes + 1), (double)a->groups[c].bytes / 1e6);
            fprintf(stderr, " pages %lu\n", (unsigned long)s->pages_used);
        }
    }
}

void policy_run(const struct policy *p, const struct trace *t, const struct sim_sizes *sizes,
                struct sim_result *out)
{
    *out = (struct sim_result){0};
    struct state s = {.p = p, .t = t, .sizes = *sizes, .out = out, .open = {NONE, NONE}};
    memset(s.head, 0xff, sizeof(s.head)); /* NONE */
    memset(s.tail, 0xff, sizeof(s.tail));
    s.page_count = sizes->flash_bytes / sizes->page_bytes;
    s.pages = need(calloc(s.page_count, sizeof(*s.pages)));
    uint8_t **bytes[] = {&s.where, &s.ram_hits, &s.known, &s.heat, &s.class};
    for (size_t i = 0; i < ARRAY_COUNT(bytes); i++)
        *bytes[i] = need(calloc(t->keys, 1));
    uint32_t **words[] = {&s.next, &s.prev, &s.page};
    for (size_t i = 0; i < ARRAY_COUNT(words); i++)
        *words[i] = need(calloc(t->keys, sizeof(**words[i])));
    double mean = (double)t->footprint_bytes / (double)t->keys;
    uint64_t ghost_bytes = ghost_memory_bytes((uint64_t)((double)sizes->flash_bytes / mean * p->ghost_keys));
    ghost_init(&s.ghost, need(calloc(1, ghost_bytes)), ghost_bytes,
               (uint64_t)((double)sizes->flash_bytes * p->window));
    admission_init(&s.admission, (enum admission_mode)p->admit, sizes->flash_bytes);
    s.admission.worth = p->worth;
    s.admission.worth_strict = p->strict;
    s.admission.pays = p->pays;
    s.admission.once = p->once;
    s.admission.sample = p->sample;
    play(&s);
    free(s.ghost.root);
    for (size_t i = 0; i < ARRAY_COUNT(bytes); i++)
        free(*bytes[i]);
    for (size_t i = 0; i < ARRAY_COUNT(words); i++)
        free(*words[i]);
    for (uint64_t i = 0; i < s.page_count; i++)
        free(s.pages[i].keys);
    free(s.pages);
}
