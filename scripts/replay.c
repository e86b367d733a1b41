/* replay.c: plays a trace of requests as a look-aside cache's clients would, against a server or
 * against simulated caches (replay_sim.h), and prints the results as `name value` lines.
 *
 * A get, and on a miss a set. Up to --depth gets go out at once, as long as their keys differ; missed keys
 * are set before the next gets, so every server gets the same requests in the same order. Every value read
 * is checked for its length and its key. memcached under memory pressure now and then never answers a get: after
 * STALL_SEC the connection is given up for a new one, and what was not answered counts as missed (`stalled`).
 *
 * scripts/replay.py starts the servers, calls this and makes the table.
 *
 * Exit: 0 all right; 1 a wrong value; 2 usage, or the trace can't be read; 3 the server broke off.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include <err.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "scripts/replay_policy.h"

#define DEPTH_MAX 64
#define IN_BYTES (1u << 18)
#define STALL_SEC 3

struct player {
    const struct trace *t;
    unsigned depth;
    double bytes_per_sec; /* of values set, 0: as fast as it goes */
    const char *path;
    int fd;
    bool stalled; /* the connection gives no more answers */
    char in[IN_BYTES];
    size_t in_len, in_at;
    char *out;
    size_t out_len, out_room;
    char *value; /* longest value's bytes */
    uint32_t window[DEPTH_MAX]; /* keys asked for */
    bool hit[DEPTH_MAX];
    unsigned window_count;
    uint64_t replies_due; /* of sets and deletes in the window */
    uint64_t gets, hits, get_bytes, hit_bytes, set_bytes, sets, refused, stalls, wrong, deletes;
    struct timespec start;
};

static void open_connection(struct player *p)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    struct timeval patience = {.tv_sec = STALL_SEC};
    if (strlen(p->path) >= sizeof(at.sun_path))
        errx(2, "%s: too long", p->path);
    strcpy(at.sun_path, p->path);
    p->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (p->fd < 0 || connect(p->fd, (struct sockaddr *)&at, sizeof(at)) != 0 ||
        setsockopt(p->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) != 0)
        err(3, "%s", p->path);
    p->in_len = p->in_at = 0;
    p->replies_due = 0;
    p->stalled = false;
}

static void out_bytes(struct player *p, const void *bytes, size_t n)
{
    if (p->out_len + n > p->out_room) {
        p->out_room = 2 * (p->out_len + n);
        p->out = realloc(p->out, p->out_room);
        if (p->out == NULL)
            err(2, "memory");
    }
    memcpy(p->out + p->out_len, bytes, n);
    p->out_len += n;
}

static void out_flush(struct player *p)
{
    for (size_t sent = 0; sent < p->out_len;) {
        ssize_t n = write(p->fd, p->out + sent, p->out_len - sent);
        if (n <= 0)
            err(3, "write");
        sent += (size_t)n;
    }
    p->out_len = 0;
}

/* False: no more comes. */
static bool in_more(struct player *p)
{
    if (p->stalled)
        return false;
    if (p->in_at > 0) {
        memmove(p->in, p->in + p->in_at, p->in_len - p->in_at);
        p->in_len -= p->in_at;
        p->in_at = 0;
    }
    ssize_t n = read(p->fd, p->in + p->in_len, sizeof(p->in) - p->in_len);
    if (n < 0 && errno == EAGAIN) {
        p->stalled = true;
        p->stalls++;
        return false;
    }
    if (n <= 0)
        errx(3, "the server closed the connection");
    p->in_len += (size_t)n;
    return true;
}

/* A line without its end; valid until the next call. NULL: no more comes. */
static char *in_line(struct player *p)
{
    for (;;) {
        char *end = memmem(p->in + p->in_at, p->in_len - p->in_at, "\r\n", 2);
        if (end != NULL) {
            char *line = p->in + p->in_at;
            *end = '\0';
            p->in_at = (size_t)(end - p->in) + 2;
            return line;
        }
        if (p->in_len - p->in_at == sizeof(p->in))
            errx(3, "a line without end");
        if (!in_more(p))
            return NULL;
    }
}

/* The value of a key and its "\r\n": passed over but for the key in its front. */
static bool in_value(struct player *p, uint32_t key, uint64_t bytes)
{
    char name[TRACE_KEY_BYTES + 1];
    snprintf(name, sizeof(name), "%016" PRIx64, p->t->name[key]);
    size_t front = bytes < TRACE_KEY_BYTES ? (size_t)bytes : TRACE_KEY_BYTES;
    while (p->in_len - p->in_at < front && in_more(p))
        ;
    if (p->stalled)
        return true;
    bool right = bytes == p->t->value_bytes[key] && memcmp(p->in + p->in_at, name, front) == 0;
    for (uint64_t left = bytes + 2; left > 0;) {
        size_t have = p->in_len - p->in_at;
        size_t step = have < left ? have : (size_t)left;
        p->in_at += step;
        left -= step;
        if (left > 0 && !in_more(p))
            break;
    }
    return right;
}

static void ask(struct player *p, uint32_t key)
{
    char line[64];
    out_bytes(p, line, (size_t)snprintf(line, sizeof(line), "get %016" PRIx64 "\r\n", p->t->name[key]));
    p->window[p->window_count++] = key;
}

static void put(struct player *p, uint32_t key)
{
    char line[96];
    uint32_t bytes = p->t->value_bytes[key];
    int n = snprintf(line, sizeof(line), "set %016" PRIx64 " 0 %u %u\r\n", p->t->name[key],
                     p->t->ttl_sec[key], bytes);
    out_bytes(p, line, (size_t)n);
    n = snprintf(line, sizeof(line), "%016" PRIx64, p->t->name[key]);
    uint32_t front = bytes < TRACE_KEY_BYTES ? bytes : TRACE_KEY_BYTES;
    out_bytes(p, line, front);
    out_bytes(p, p->value, bytes - front);
    out_bytes(p, "\r\n", 2);
    p->set_bytes += bytes;
    p->sets++;
    p->replies_due++;
}

/* Waits until the sets so far are due. */
static void pace(const struct player *p)
{
    struct timespec now;
    if (p->bytes_per_sec <= 0)
        return;
    clock_gettime(CLOCK_MONOTONIC, &now);
    double passed = (double)(now.tv_sec - p->start.tv_sec) + (double)(now.tv_nsec - p->start.tv_nsec) / 1e9;
    double ahead = (double)p->set_bytes / p->bytes_per_sec - passed;
    if (ahead > 0.001)
        usleep((useconds_t)(ahead * 1e6));
}

static void take_replies(struct player *p)
{
    out_flush(p);
    for (; p->replies_due > 0 && !p->stalled; p->replies_due--) {
        const char *line = in_line(p);
        if (line == NULL)
            break;
        p->refused += strcmp(line, "STORED") != 0 && strcmp(line, "DELETED") != 0 &&
                      strcmp(line, "NOT_FOUND") != 0;
    }
    if (p->stalled) {
        close(p->fd);
        open_connection(p);
    }
    pace(p);
}

/* The answer to one get of the window. */
static void take_answer(struct player *p, unsigned i)
{
    uint32_t key = p->window[i];
    uint64_t bytes = 0;
    const char *line = in_line(p);
    p->hit[i] = line != NULL && sscanf(line, "VALUE %*s %*u %" SCNu64, &bytes) == 1;
    bool no_memory = line != NULL && strncmp(line, "SERVER_ERROR", 12) == 0; /* in the place of all of the answer */
    p->refused += no_memory;
    p->gets++;
    p->get_bytes += p->t->value_bytes[key];
    if (p->hit[i]) {
        bool right = in_value(p, key, bytes);
        line = in_line(p);
        p->hit[i] = line != NULL;
        p->hits += p->hit[i];
        p->hit_bytes += p->hit[i] ? bytes : 0;
        p->wrong += p->hit[i] && !right;
    }
    if (line != NULL && !no_memory && strcmp(line, "END") != 0)
        errx(3, "answer to a get: %s", line);
}

/* Takes the answers to the gets, then sets the keys that missed. */
static void end_window(struct player *p)
{
    out_flush(p);
    for (unsigned i = 0; i < p->window_count; i++)
        take_answer(p, i);
    if (p->stalled) {
        close(p->fd);
        open_connection(p);
    }
    for (unsigned i = 0; i < p->window_count; i++) {
        if (!p->hit[i])
            put(p, p->window[i]);
    }
    take_replies(p);
    p->window_count = 0;
}

static void change(struct player *p, uint32_t key, bool overwrite)
{
    char line[64];
    end_window(p);
    if (overwrite) {
        put(p, key);
    } else {
        out_bytes(p, line,
                  (size_t)snprintf(line, sizeof(line), "delete %016" PRIx64 "\r\n", p->t->name[key]));
        p->deletes++;
        p->replies_due++;
    }
    take_replies(p);
}

static void play(struct player *p)
{
    const struct trace *t = p->t;
    clock_gettime(CLOCK_MONOTONIC, &p->start);
    for (uint64_t i = 0; i < t->requests; i++) {
        enum trace_op op = trace_op_of(t, i);
        uint32_t key = t->key[i];
        if (op != TRACE_GET) {
            change(p, key, op == TRACE_OVERWRITE);
            continue;
        }
        for (unsigned k = 0; k < p->window_count; k++) {
            if (p->window[k] == key) {
                end_window(p);
                break;
            }
        }
        ask(p, key);
        if (p->window_count == p->depth)
            end_window(p);
    }
    end_window(p);
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    printf("seconds %.2f\n", (double)(now.tv_sec - p->start.tv_sec) +
                                 (double)(now.tv_nsec - p->start.tv_nsec) / 1e9);
}

static int play_server(const struct trace *t, const char *path, unsigned depth, double bytes_per_sec)
{
    struct player *p = calloc(1, sizeof(*p));
    if (p == NULL || (p->value = malloc(t->opt.max_value_bytes)) == NULL)
        err(2, "memory");
    memset(p->value, 'v', t->opt.max_value_bytes);
    p->t = t;
    p->depth = depth;
    p->bytes_per_sec = bytes_per_sec;
    p->path = path;
    open_connection(p);
    play(p);
    printf("gets %" PRIu64 "\nhits %" PRIu64 "\nget_bytes %" PRIu64 "\nhit_bytes %" PRIu64
           "\nsets %" PRIu64 "\nset_bytes %" PRIu64 "\ndeletes %" PRIu64 "\nrefused %" PRIu64
           "\nstalled %" PRIu64 "\nwrong %" PRIu64 "\n",
           p->gets, p->hits, p->get_bytes, p->hit_bytes, p->sets, p->set_bytes, p->deletes, p->refused,
           p->stalls, p->wrong);
    int rc = p->wrong > 0;
    close(p->fd);
    free(p->out);
    free(p->value);
    free(p);
    return rc;
}

static void play_simulated(const struct trace *t, char *names, const struct sim_sizes *sizes,
                           const struct policy *policy)
{
    for (char *name; (name = strsep(&names, ",")) != NULL;) {
        struct sim_result r;
        if (strcmp(name, "extant") == 0)
            policy_run(policy, t, sizes, &r);
        else if (!sim_run(name, t, sizes, &r))
            errx(2, "%s: no such cache: lru, fifo, s3fifo, min, extant", name);
        if (r.rewritten > 0)
            printf("%s_rewritten %" PRIu64 "\n", name, r.rewritten);
        printf("%s_gets %" PRIu64 "\n%s_hits %" PRIu64 "\n%s_get_bytes %" PRIu64 "\n%s_hit_bytes %" PRIu64
               "\n%s_flash_hits %" PRIu64 "\n%s_flash_written %" PRIu64 "\n",
               name, r.gets, name, r.hits, name, r.get_bytes, name, r.hit_bytes, name, r.flash_hits, name,
               r.flash_written);
    }
}

static const char usage[] =
    "replay [options] TRACE\n"
    "TRACE: a file of `id [size]` lines, id in hex (.xz too), or made up, NAME:KEYS:REQUESTS with\n"
    "       loop, twice, onehit, scan, shift or zipf\n"
    "  --server PATH        play it to the server on this Unix socket\n"
    "  --simulate LIST      of lru, fifo, s3fifo, min, extant, with --ram, --flash and --page in bytes\n"
    "  --policy LIST        for extant: admit=0|1|2 (all, strict, learn) keep=SHARE second=SHARE ...\n"
    "  --sizes FILE         value_bytes,weight lines: sizes where the trace has none\n"
    "  --scale F  --skip REQUESTS  --limit REQUESTS  --seed NUMBER  --sample ONE_KEY_IN  --max-value BYTES\n"
    "  --deletes SHARE  --overwrites SHARE  --ttl-share SHARE  --ttl SECONDS\n"
    "  --depth GETS (16)  --rate BYTES_SET_PER_SECOND\n"
    "prints requests, keys and footprint_bytes first; without --server and --simulate only these\n";

enum { SERVER = 1000, SIMULATE, RAM_BYTES, FLASH_BYTES, PAGE_BYTES, SIZES, SCALE, LIMIT, SAMPLE, MAX_VALUE,
       DELETES, OVERWRITES, TTL_SHARE, TTL, DEPTH, RATE, POLICY, SKIP, SEED };

struct arguments {
    struct trace_options trace;
    struct sim_sizes sizes;
    const char *server;
    char *simulate;
    unsigned depth;
    double rate;
    struct policy policy;
};

static void take_option(struct arguments *a, int option, char *text)
{
    double v = strtod(text, NULL);
    switch (option) {
    case SERVER: a->server = text; break;
    case SIMULATE: a->simulate = text; break;
    case RAM_BYTES: a->sizes.ram_bytes = (uint64_t)v; break;
    case FLASH_BYTES: a->sizes.flash_bytes = (uint64_t)v; break;
    case PAGE_BYTES: a->sizes.page_bytes = (uint64_t)v; break;
    case SIZES: a->trace.sizes_csv = text; break;
    case SCALE: a->trace.scale = v; break;
    case SKIP: a->trace.skip = (uint64_t)v; break;
    case SEED: a->trace.seed = (uint64_t)v; break;
    case LIMIT: a->trace.limit = (uint64_t)v; break;
    case SAMPLE: a->trace.sample = (unsigned)v; break;
    case MAX_VALUE: a->trace.max_value_bytes = (uint32_t)v; break;
    case DELETES: a->trace.deletes = v; break;
    case OVERWRITES: a->trace.overwrites = v; break;
    case TTL_SHARE: a->trace.ttl_share = v; break;
    case TTL: a->trace.ttl_sec = (uint32_t)v; break;
    case DEPTH: a->depth = (unsigned)v; break;
    case POLICY: policy_parse(&a->policy, text); break;
    case RATE: a->rate = v; break;
    default: errx(2, "%s", usage);
    }
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"server", 1, NULL, SERVER}, {"simulate", 1, NULL, SIMULATE}, {"ram", 1, NULL, RAM_BYTES},
        {"flash", 1, NULL, FLASH_BYTES}, {"page", 1, NULL, PAGE_BYTES}, {"sizes", 1, NULL, SIZES},
        {"scale", 1, NULL, SCALE}, {"limit", 1, NULL, LIMIT}, {"sample", 1, NULL, SAMPLE},
        {"max-value", 1, NULL, MAX_VALUE}, {"deletes", 1, NULL, DELETES},
        {"overwrites", 1, NULL, OVERWRITES}, {"ttl-share", 1, NULL, TTL_SHARE}, {"ttl", 1, NULL, TTL},
        {"depth", 1, NULL, DEPTH}, {"rate", 1, NULL, RATE}, {"policy", 1, NULL, POLICY},
        {"skip", 1, NULL, SKIP}, {"seed", 1, NULL, SEED}, {NULL, 0, NULL, 0}};
    struct arguments a = {.trace = {.scale = 1, .sample = 1, .max_value_bytes = 400000, .ttl_sec = 60},
                          .sizes = {.ram_bytes = 4 << 20, .flash_bytes = 64 << 20, .page_bytes = 2 << 20},
                          .depth = 16};
    char none[] = "";
    policy_parse(&a.policy, none);
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;)
        take_option(&a, option, optarg != NULL ? optarg : "");
    if (optind != argc - 1 || a.depth < 1 || a.depth > DEPTH_MAX || a.trace.ttl_sec < 1 ||
        a.sizes.page_bytes < 1 || a.sizes.flash_bytes < 2 * a.sizes.page_bytes)
        errx(2, "%s", usage);
    a.trace.source = argv[optind];
    struct trace t;
    trace_load(&t, &a.trace);
    printf("requests %" PRIu64 "\nkeys %" PRIu64 "\nfootprint_bytes %" PRIu64 "\n", t.requests, t.keys,
           t.footprint_bytes);
    if (a.simulate != NULL)
        play_simulated(&t, a.simulate, &a.sizes, &a.policy);
    return a.server != NULL ? play_server(&t, a.server, a.depth, a.rate) : 0;
}
