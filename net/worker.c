/* net/worker.c: see net/worker.h. */
#include "net/worker.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/udp.h"

/* ---- turns of connections ---- */

/* Serves those that wait now; a connection that yields again continues in the next turn. */
static void run_yielded(struct worker *w)
{
    worker_assert_mine(w);
    struct loop_conn *l;
    for (unsigned left = w->count[CONN_YIELDING]; left > 0 && (l = worker_take(w, CONN_YIELDING)); left--)
        conn_continue(conn_of(l));
}

static void run_resumed(struct worker *w)
{
    worker_assert_mine(w);
    for (struct conn *c; (c = conn_of(worker_take(w, CONN_RESUMED)));)
        conn_continue(c);
}

/* ---- mail ---- */

static void read_mail(struct worker *w)
{
    worker_assert_mine(w);
    eventfd_t n;
    struct loop_queue mail = STAILQ_HEAD_INITIALIZER(mail);
    (void)eventfd_read(w->mail_fd, &n);
    lock_take(&w->lock);
    STAILQ_CONCAT(&mail, &w->mailbox);
    lock_release(&w->lock);
    for (struct loop_conn *l; (l = STAILQ_FIRST(&mail));) {
        STAILQ_REMOVE_HEAD(&mail, in_mailbox);
        DEBUG_ASSERT(conn_of(l)->worker == w);
        if (l->mail == MAIL_NEW)
            conn_start(conn_of(l));
        else
            conn_dump_over(conn_of(l), l->mail == MAIL_DUMP_SENT);
    }
}

static void mail_ready(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
    read_mail(arg);
}

/* ---- the loop ---- */

static void wake_ready(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
    struct worker *w = arg;
    cache_worker_poll(w->cache_worker);
}

static void ring_ready(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
    struct worker *w = arg;
    w->more_reads = cache_worker_reap(w->cache_worker);
    w->reaped = true;
}

static void cache_timer_due(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
    struct worker *w = arg;
    DEBUG_ASSERT(w->cache_timer_on);
    w->cache_timer_on = false;
    cache_worker_poll(w->cache_worker);
}

/* Closes the connections of which this is true. Only this thread changes the list, so it may walk it without the lock. */
static void close_those(struct worker *w, bool (*is_one)(const struct conn *c), enum conn_reason reason)
{
    worker_assert_mine(w);
    for (struct loop_conn *l = LIST_FIRST(&w->conns), *next; l; l = next) {
        next = LIST_NEXT(l, among_all);
        if (!is_one(conn_of(l)))
            continue;
        if (reason == CONN_IDLE)
            stat_inc(w->stats, STAT_idle_kicks); /* before its client sees the end */
        conn_close(conn_of(l), reason);
    }
}

static bool is_idle(const struct conn *c)
{
    uint32_t limit = c->worker->env->settings->idle_timeout, now = clock_now_sec();
    bool waits = c->state == CONN_READ || c->state == CONN_NREAD || c->state == CONN_SWALLOW || c->blocked;
    return waits && !(c->apart & CONN_DUMPING) && now > c->last_cmd_sec && now - c->last_cmd_sec > limit;
}

static void idle_timer_due(evutil_socket_t fd UNUSED, short what UNUSED, void *arg)
{
    close_those(arg, is_idle, CONN_IDLE);
}

/* While values are read from flash, nothing is heard of clients that leave. What they wait for is given up. */
static void watch_due(evutil_socket_t fd, short what UNUSED, void *arg)
{
    struct worker *w = arg;
    uint64_t times;
    if (read(fd, &times, sizeof(times)) < 0)
        return;
    w->is_watching = false;
    close_those(w, conn_is_deserted, CONN_NORMAL);
}

/* With a timer of libevent each turn would cost 300 instructions more. */
static void set_watch_timer(struct worker *w)
{
    static const struct itimerspec in_a_second = {.it_value = {1, 0}};
    if (!w->is_watching && unlikely(cache_worker_parked(w->cache_worker) > 0))
        w->is_watching = timerfd_settime(w->watch_fd, 0, &in_a_second, NULL) == 0;
}

static void set_cache_timer(struct worker *w)
{
    int64_t us = cache_worker_timeout_us(w->cache_worker);
    if (us < 0) {
        if (w->cache_timer_on)
            evtimer_del(&w->cache_timer);
        w->cache_timer_on = false;
        return;
    }
    struct timeval tv = {us / 1000000, us % 1000000};
    evtimer_add(&w->cache_timer, &tv);
    w->cache_timer_on = true;
}

static void turn(struct worker *w, int flags)
{
    worker_assert_mine(w);
    DEBUG_ASSERT(w->count[CONN_RECEIVED] + w->count[CONN_RESUMED] + w->count[CONN_UNSENT] == 0);
    set_cache_timer(w);
    set_watch_timer(w);
    lock_assert_none_held();
    w->reaped = false;
    clock_new_turn();
    latency_turn(&w->stats->latency);
    event_base_loop(w->base, EVLOOP_ONCE | (w->more_reads ? EVLOOP_NONBLOCK : flags));
    if (w->more_reads && !w->reaped)
        ring_ready(-1, 0, w);
    conns_execute(w, CONN_RECEIVED);
    run_yielded(w);
    cache_worker_submit(w->cache_worker);
    run_resumed(w);
    cache_worker_submit(w->cache_worker); /* the reads of these */
    conns_send(w);
    cache_worker_submit(w->cache_worker); /* values that were put away and are being read again */
    latency_sent(&w->stats->latency);
    conns_assert(w);
}

static bool dumps_not(const struct conn *c)
{
    return !(c->apart & CONN_DUMPING);
}

/* Ends when no connection is left: some wait for the crawler to end a dump, or for reads that the device has. */
static void close_all(struct worker *w)
{
    worker_assert_mine(w);
    cache_worker_give_up(w->cache_worker);
    for (;;) {
        read_mail(w);
        close_those(w, dumps_not, CONN_SHUTDOWN);
        if (LIST_EMPTY(&w->conns) && w->zombies == 0)
            return;
        cache_worker_submit(w->cache_worker); /* reads that now have buffers */
        turn(w, 0);
    }
}

static bool add_reader(struct worker *w, struct event *ev, int fd, event_callback_fn fn)
{
    if (fd < 0)
        return true;
    event_assign(ev, w->base, fd, EV_READ | EV_PERSIST, fn, w);
    return event_add(ev, NULL) == 0;
}

/* 0 or -errno; loop_close() destroys what was made. */
static int loop_open(struct worker *w)
{
    w->watch_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (w->watch_fd < 0)
        return -errno;
    struct event_config *config = event_config_new();
    if (!config)
        return -ENOMEM;
    event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK);
    w->base = event_base_new_with_config(config);
    event_config_free(config);
    if (!w->base)
        return -ENOMEM;
    w->cache_worker = cache_worker_create(w->env->cache, w->stats);
    if (!w->cache_worker)
        return errno ? -errno : -ENOMEM;
    uint64_t limit = w->env->settings->read_buf_mem_limit / w->env->thread_count;
    command_worker_init(&w->command, w->env, w->cache_worker, w->stats, limit);
    w->netring = netring_create();
    evtimer_assign(&w->cache_timer, w->base, cache_timer_due, w);
    struct timeval soon = {0, 0}; /* so that the loop always has memory for it */
    if (!add_reader(w, &w->mail_event, w->mail_fd, mail_ready) ||
        !add_reader(w, &w->ring_event, cache_worker_ring_fd(w->cache_worker), ring_ready) ||
        !add_reader(w, &w->watch_event, w->watch_fd, watch_due) ||
        !add_reader(w, &w->wake_event, cache_worker_wake_fd(w->cache_worker), wake_ready) ||
        evtimer_add(&w->cache_timer, &soon) != 0)
        return -ENOMEM;
    w->cache_timer_on = true;
    if (w->env->udp) {
        w->udp = udp_start(w->env->udp, w->base, &w->command, &w->request);
        if (!w->udp)
            return -errno;
    }
    if (w->env->tls) {
        w->tls = w->conn_tls->worker_create(w, w->env->tls);
        if (!w->tls)
            return -ENOMEM;
    }
    if (w->env->settings->idle_timeout) {
        struct timeval second = {1, 0};
        event_assign(&w->idle_timer, w->base, -1, EV_PERSIST, idle_timer_due, w);
        if (event_add(&w->idle_timer, &second) != 0)
            return -ENOMEM;
    }
    return 0;
}

static void loop_close(struct worker *w)
{
    DEBUG_ASSERT(LIST_EMPTY(&w->conns) && w->zombies == 0);
    udp_stop(w->udp);
    if (w->cache_worker) {
        command_worker_drain(&w->command);
        cache_worker_destroy(w->cache_worker);
        w->cache_worker = NULL;
    }
    netring_destroy(w->netring);
    w->netring = NULL;
    if (w->tls)
        w->conn_tls->worker_destroy(w->tls);
    w->tls = NULL;
    if (w->base)
        event_base_free(w->base);
    w->base = NULL;
    if (w->watch_fd >= 0)
        close(w->watch_fd);
    w->watch_fd = -1;
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    char name[16];
    snprintf(name, sizeof(name), "extant-work-%u", w->number % 1000);
    pthread_setname_np(pthread_self(), name);
    worker_enter(w);
    int err = loop_open(w);
    atomic_store_explicit(&w->started, err ? err : 1, memory_order_release);
    if (!err) {
        while (!atomic_load_explicit(&w->stop, memory_order_acquire))
            turn(w, w->count[CONN_YIELDING] > 0 ? EVLOOP_NONBLOCK : 0);
        close_all(w);
    }
    return NULL;
}

/* ---- the set ---- */

/* Its thread has ended, and no other worker's runs that could ask for its figures. */
static void worker_destroy(struct worker *w)
{
    loop_close(w);
    DEBUG_ASSERT(STAILQ_EMPTY(&w->mailbox));
    lock_destroy(&w->lock);
    close(w->mail_fd);
}

static int worker_begin(struct worker *w)
{
    DEBUG_ASSERT(atomic_load(&w->started) == 0);
    w->watch_fd = -1;
    w->mail_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (w->mail_fd < 0)
        return -errno;
    lock_init(&w->lock, LOCK_CONN);
    int err = -pthread_create(&w->thread, NULL, worker_main, w);
    if (err == 0 && (err = lock_await_start(&w->started)) != 0)
        pthread_join(w->thread, NULL);
    if (err)
        worker_destroy(w);
    return err;
}

int workers_start(struct workers *set, struct command_env *env)
{
    *set = (struct workers){.env = env};
    ASSERT(env->thread_count > 0);
    set->list = calloc(env->thread_count, sizeof(*set->list));
    if (!set->list)
        return -ENOMEM;
    for (; set->count < env->thread_count; set->count++) {
        struct worker *w = &set->list[set->count];
        worker_init_lists(w);
        w->env = env;
        w->number = set->count;
        w->conn_tls = env->conn_tls;
        w->stats = env->thread_stats[set->count];
        int err = worker_begin(w);
        if (err) {
            workers_stop(set);
            return err;
        }
    }
    return 0;
}

void workers_stop(struct workers *set)
{
    for (unsigned i = 0; i < set->count; i++) {
        atomic_store_explicit(&set->list[i].stop, true, memory_order_release);
        worker_wake(&set->list[i]);
    }
    for (unsigned i = 0; i < set->count; i++)
        pthread_join(set->list[i].thread, NULL);
    for (unsigned i = 0; i < set->count; i++)
        worker_destroy(&set->list[i]);
    free(set->list);
    set->list = NULL;
    set->count = 0;
}

/* -N: the worker of the network card's receive queue that this connection came through; NULL: the queue isn't
 * known, or there are more queues than -N says. */
static struct worker *worker_of_queue(struct workers *set, int fd)
{
    struct server_counters *n = set->env->counters;
    unsigned id = 0, limit = set->env->settings->num_napi_ids;
    DEBUG_ASSERT(limit <= set->count && set->napi_count <= limit);
    socklen_t len = sizeof(id);
    if (getsockopt(fd, SOL_SOCKET, SO_INCOMING_NAPI_ID, &id, &len) < 0 || id == 0) {
        atomic_fetch_add_explicit(&n->round_robin_fallback, 1, memory_order_relaxed);
        return NULL;
    }
    for (unsigned i = 0; i < set->napi_count; i++) {
        if (set->list[i].napi_id == id)
            return &set->list[i];
    }
    if (set->napi_count == limit) {
        atomic_fetch_add_explicit(&n->unexpected_napi_ids, 1, memory_order_relaxed);
        return NULL;
    }
    ASSERT(set->napi_count < set->count);
    struct worker *w = &set->list[set->napi_count++];
    w->napi_id = id;
    return w;
}

int workers_add(struct workers *set, const struct conn_origin *origin)
{
    ASSERT(set->count > 0 && set->count == set->env->thread_count);
    struct worker *w = NULL;
    if (set->env->settings->num_napi_ids > 0 && origin->local.family != AF_UNIX)
        w = worker_of_queue(set, origin->fd);
    if (!w)
        w = &set->list[set->next++ % set->count];
    struct conn *c = conn_create(w, origin);
    if (!c)
        return -ENOMEM;
    c->in_loop.mail = MAIL_NEW;
    worker_post(w, &c->in_loop);
    return 0;
}

/* ---- for stats ---- */

struct conn_facts {
    struct conn_origin origin;
    uint8_t state;
    uint32_t idle_sec;
};

/* Connections as they were a moment ago. */
struct snapshot {
    struct conn_facts *facts;
    unsigned count, room;
};

/* Adds the connections of a worker. False: no memory; the snapshot is as it was. */
static bool snapshot_add(struct snapshot *s, struct worker *w)
{
    uint32_t now = clock_now_sec();
    for (;;) { /* allocates without the lock, until there is enough room */
        unsigned n = s->count;
        lock_take(&w->lock);
        struct loop_conn *l;
        LIST_FOREACH(l, &w->conns, among_all) {
            if (n++ >= s->room)
                continue;
            struct conn *c = conn_of(l);
            uint32_t last = atomic_load_explicit(&c->last_cmd_sec, memory_order_relaxed);
            s->facts[n - 1] = (struct conn_facts){
                .origin = c->origin,
                .state = atomic_load_explicit(&c->state, memory_order_relaxed),
                .idle_sec = now > last ? now - last : 0};
        }
        lock_release(&w->lock);
        if (n <= s->room) {
            DEBUG_ASSERT(n >= s->count);
            s->count = n;
            return true;
        }
        struct conn_facts *larger = realloc(s->facts, (n + 16) * sizeof(*larger));
        if (!larger)
            return false;
        s->facts = larger;
        s->room = n + 16;
    }
}

static int by_fd(const void *a, const void *b)
{
    const struct conn_facts *x = a, *y = b;
    return (x->origin.fd > y->origin.fd) - (x->origin.fd < y->origin.fd);
}

void workers_each_conn(struct workers *set,
                       void (*fn)(void *ctx, int fd, const char *name, const char *text), void *ctx)
{
    char text[160];
    const char *path = set->env->settings->socketpath;
    struct snapshot all = {NULL, 0, 0};
    for (unsigned i = 0; i < set->count; i++) {
        if (set->list[i].udp)
            udp_each(set->list[i].udp, fn, ctx);
    }
    for (unsigned i = 0; i < set->count; i++) {
        if (!snapshot_add(&all, &set->list[i]))
            break;
    }
    if (all.count > 1)
        qsort(all.facts, all.count, sizeof(*all.facts), by_fd);
    for (unsigned k = 0; k < all.count; k++) {
        const struct conn_facts *f = &all.facts[k];
        address_text(&f->origin.peer, path, text, sizeof(text));
        fn(ctx, f->origin.fd, "addr", text);
        address_text(&f->origin.local, path, text, sizeof(text));
        fn(ctx, f->origin.fd, "listen_addr", text);
        fn(ctx, f->origin.fd, "state", conn_state_name(f->state));
        snprintf(text, sizeof(text), "%u", f->idle_sec);
        fn(ctx, f->origin.fd, "secs_since_last_cmd", text);
    }
    free(all.facts);
}

void workers_buffer_info(struct workers *set, struct buffer_pool *sum)
{
    memset(sum, 0, sizeof(*sum));
    for (unsigned i = 0; i < set->count; i++) {
        struct buffer_pool *p = &set->list[i].command.pool;
        sum->buffers += p->buffers;
        sum->bytes += p->bytes;
        sum->spare += p->spare;
        sum->responses += p->responses;
    }
}
