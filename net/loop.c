/* net/loop.c: see net/loop.h. */
#include "net/loop.h"

#include <sys/eventfd.h>

/* ---- ownership ---- */

#ifdef EXTANT_DEBUG
static _Thread_local const struct worker *entered;

void worker_enter(const struct worker *w)
{
    ASSERT(!entered);
    entered = w;
}

void worker_assert_mine(const struct worker *w)
{
    ASSERT(entered == w);
}
#endif

/* ---- lists ---- */

void worker_init_lists(struct worker *w)
{
    for (unsigned list = 0; list < CONN_LISTS; list++)
        STAILQ_INIT(&w->list[list]);
    STAILQ_INIT(&w->mailbox);
    LIST_INIT(&w->conns);
}

void worker_link(struct worker *w, struct loop_conn *c)
{
    worker_assert_mine(w);
    DEBUG_ASSERT(!c->is_in);
    lock_take(&w->lock);
    LIST_INSERT_HEAD(&w->conns, c, among_all);
    lock_release(&w->lock);
}

void worker_unlink(struct worker *w, struct loop_conn *c)
{
    worker_assert_mine(w);
    DEBUG_ASSERT(!c->is_in); /* worker_forget() comes first */
    lock_take(&w->lock);
    LIST_REMOVE(c, among_all);
    lock_release(&w->lock);
}

void worker_put(struct worker *w, struct loop_conn *c, enum conn_list list)
{
    worker_assert_mine(w);
    DEBUG_ASSERT(list < CONN_LISTS);
    if (worker_has_put(c, list))
        return;
    DEBUG_ASSERT(STAILQ_EMPTY(&w->list[list]) == (w->count[list] == 0));
    c->is_in |= (uint8_t)(1u << list);
    STAILQ_INSERT_TAIL(&w->list[list], c, on[list]);
    w->count[list]++;
}

struct loop_conn *worker_take(struct worker *w, enum conn_list list)
{
    struct loop_conn *c = STAILQ_FIRST(&w->list[list]);
    worker_assert_mine(w);
    if (!c)
        return NULL;
    DEBUG_ASSERT(worker_has_put(c, list) && w->count[list] > 0);
    STAILQ_REMOVE_HEAD(&w->list[list], on[list]);
    w->count[list]--;
    c->is_in &= (uint8_t)~(1u << list);
    return c;
}

void worker_forget(struct worker *w, struct loop_conn *c)
{
    worker_assert_mine(w);
    for (enum conn_list list = 0; list < CONN_LISTS; list++) {
        if (!worker_has_put(c, list))
            continue;
        STAILQ_REMOVE(&w->list[list], c, loop_conn, on[list]);
        w->count[list]--;
    }
    c->is_in = 0;
}

/* ---- events ---- */

bool worker_await(struct worker *w, struct event *ev, short *interest, int fd, short want, event_callback_fn fn, void *arg)
{
    worker_assert_mine(w);
    if (*interest == want)
        return true;
    if (*interest)
        event_del(ev);
    *interest = 0;
    if (!want)
        return true;
    event_assign(ev, w->base, fd, (short)(want | EV_PERSIST), fn, arg);
    if (event_add(ev, NULL) != 0)
        return false;
    *interest = want;
    return true;
}

/* ---- mail ---- */

void worker_wake(struct worker *w)
{
    (void)eventfd_write(w->mail_fd, 1); /* a full counter wakes as well */
}

void worker_post(struct worker *w, struct loop_conn *c)
{
    lock_take(&w->lock);
    STAILQ_INSERT_TAIL(&w->mailbox, c, in_mailbox);
    worker_wake(w); /* before the lock is free: a worker that stops may end as soon as it has this mail */
    lock_release(&w->lock);
}

void worker_post_dump_over(struct worker *w, struct loop_conn *c, bool alive)
{
    c->mail = alive ? MAIL_DUMP_SENT : MAIL_DUMP_BROKEN;
    worker_post(w, c);
}
