/* Claims of command/reply.h about missing memory: after a failed addition nothing more is added,
 * so that only the beginning of the answer goes out; a dropped queue starts again. */
#include <criterion/criterion.h>

#include "command/reply.h"

static void release(void *ctx, void *holder)
{
    (void)holder;
    ++*(unsigned *)ctx;
}

/* A queue whose pool has room for one buffer. */
static void begin(struct buffer_pool *pool, struct reply_queue *q, unsigned *released)
{
    pool_init(pool, REPLY_BUFFER_BYTES);
    reply_init(q, pool, release, released);
}

static size_t take(struct reply_queue *q, char *to)
{
    size_t n = q->bytes;
    reply_take(q, to);
    return n;
}

Test(reply, what_is_sent_after_a_failure_is_the_beginning)
{
    static char big[2 * REPLY_BUFFER_BYTES], got[2 * REPLY_BUFFER_BYTES];
    struct buffer_pool pool;
    struct reply_queue q;
    unsigned released = 0;
    begin(&pool, &q, &released);
    memset(big, 'b', sizeof(big));
    cr_assert_eq(reply_bytes(&q, "first", 5), 0);
    cr_assert_eq(reply_bytes(&q, big, sizeof(big)), -ENOMEM);
    cr_assert_eq(reply_bytes(&q, "END\r\n", 5), -ENOMEM);
    size_t n = take(&q, got);
    cr_assert_geq(n, 5);
    cr_assert_arr_eq(got, "first", 5);
    cr_assert_arr_eq(got + 5, big, n - 5);
    pool_drain(&pool);
}

Test(reply, nothing_is_added_after_reply_fail)
{
    char got[16];
    struct buffer_pool pool;
    struct reply_queue q;
    unsigned released = 0;
    struct reply_source source = {.ready = true, .head = "x", .head_bytes = 1};
    begin(&pool, &q, &released);
    cr_assert_eq(reply_bytes(&q, "head", 4), 0);
    reply_fail(&q);
    cr_assert_null(reply_room(&q, 10));
    cr_assert_eq(reply_bytes(&q, "more", 4), -ENOMEM);
    cr_assert_eq(reply_value(&q, "value", 5, &q), -ENOMEM);
    cr_assert_eq(reply_source(&q, &source), -ENOMEM);
    cr_assert_eq(take(&q, got), 4);
    cr_assert_arr_eq(got, "head", 4);
    cr_assert_eq(released, 0, "the holder of a refused value is the caller's");
    pool_drain(&pool);
}

Test(reply, a_dropped_queue_takes_replies_again)
{
    char got[16];
    struct buffer_pool pool;
    struct reply_queue q;
    unsigned released = 0;
    begin(&pool, &q, &released);
    reply_fail(&q);
    reply_drop(&q);
    cr_assert_eq(reply_bytes(&q, "again", 5), 0);
    cr_assert_eq(take(&q, got), 5);
    cr_assert_arr_eq(got, "again", 5);
    pool_drain(&pool);
}
