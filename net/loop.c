/* net/loop.c: see net/loop.h. */
#include "net/loop.h"

#include <unistd.h>

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

void worker_link(struct worker *w, struct loop_conn *c)
{
    worker_assert_mine(w);
    lock_take(&w->lock);
    DEBUG_ASSERT(!w->conns || !w->conns->prev);
    c->prev = NULL;
    c->next = w->conns;
    if (w->conns)
        w->conns->prev = c;
    w->conns = c;
    lock_release(&w->lock);
}

void worker_unlink(struct worker *w, struct loop_conn *c)
{
    worker_assert_mine(w);
    lock_take(&w->lock);
    DEBUG_ASSERT(c->prev ? c->prev->next == c : w->conns == c);
    if (c->prev)
        c->prev->next = c->next;
    else
        w->conns = c->next;
    if (c->next)
        c->next->prev = c->prev;
    lock_release(&w->lock);
}

void worker_put(struct worker *w, struct loop_conn *c, enum conn_list list)
{
    worker_assert_mine(w);
    DEBUG_ASSERT(list < CONN_LISTS);
    if (c->list[list].is_in)
        return;
    DEBUG_ASSERT((w->list[list].head == NULL) == (w->list[list].count == 0));
    DEBUG_ASSERT(!w->list[list].tail || !w->list[list].tail->list[list].next);
    c->list[list].is_in = true;
    c->list[list].next = NULL;
    if (w->list[list].tail)
        w->list[list].tail->list[list].next = c;
    else
        w->list[list].head = c;
    w->list[list].tail = c;
    w->list[list].count++;
}

struct loop_conn *worker_take(struct worker *w, enum conn_list list)
{
    struct loop_conn *c = w->list[list].head;
    worker_assert_mine(w);
    if (!c)
        return NULL;
    DEBUG_ASSERT(c->list[list].is_in && w->list[list].count > 0);
    w->list[list].head = c->list[list].next;
    if (!w->list[list].head)
        w->list[list].tail = NULL;
    w->list[list].count--;
    c->list[list].is_in = false;
    return c;
}

void worker_forget(struct worker *w, struct loop_conn *c)
{
    for (unsigned list = 0; list < CONN_LISTS; list++) {
        if (!c->list[list].is_in)
            continue;
        struct loop_conn *before = NULL, *at = w->list[list].head;
        for (; at != c; at = at->list[list].next) {
            ASSERT(at);
            before = at;
        }
        if (before)
            before->list[list].next = c->list[list].next;
        else
            w->list[list].head = c->list[list].next;
        if (w->list[list].tail == c)
            w->list[list].tail = before;
        w->list[list].count--;
        c->list[list].is_in = false;
    }
}

/* ---- mail ---- */

void worker_wake(struct worker *w)
{
    uint64_t one = 1;
    ssize_t rc = write(w->mail_fd, &one, sizeof(one));
    (void)rc; /* a full counter wakes as well */
}

void worker_post(struct worker *w, struct loop_conn *c)
{
    c->next_mail = NULL;
    lock_take(&w->lock);
    DEBUG_ASSERT((w->mail_head == NULL) == (w->mail_tail == NULL) && w->mail_tail != c);
    if (w->mail_tail)
        w->mail_tail->next_mail = c;
    else
        w->mail_head = c;
    w->mail_tail = c;
    lock_release(&w->lock);
    worker_wake(w);
}

void worker_post_dump_over(struct worker *w, struct loop_conn *c, bool alive)
{
    c->mail = alive ? MAIL_DUMP_SENT : MAIL_DUMP_BROKEN;
    worker_post(w, c);
}
