/* flash/pace.c: see flash/pace.h. */
#include "flash/pace.h"

#define DAY_SEC UINT64_C(86400)
#define DAY_PARTS 24u /* one is the burst */
#define FILL_NS UINT64_C(1000000) /* a bucket is filled this often at most */
#define NS_PER_SEC UINT64_C(1000000000)
#define FILL_SEC_MAX (2 * DAY_SEC)

static void bucket_init(struct pace_bucket *b, uint64_t rate, uint64_t burst, uint64_t now_ns)
{
    b->rate = rate;
    b->burst = min_u64(burst, INT64_MAX / 4);
    atomic_store(&b->left, (int64_t)b->burst);
    atomic_store(&b->filled_ns, now_ns);
}

void pace_init(struct pace *p, uint64_t bytes_per_sec, uint64_t bytes_per_day, uint64_t wbuf_bytes,
               uint64_t now_ns)
{
    ASSERT(wbuf_bytes > 0);
    uint64_t floor = 4 * wbuf_bytes, hour = bytes_per_day / DAY_PARTS;
    bucket_init(&p->second, bytes_per_sec,
                bytes_per_sec == 0 ? 0 : max_u64(bytes_per_sec * PACE_BURST_SEC, floor), now_ns);
    bucket_init(&p->day, bytes_per_day == 0 ? 0 : max_u64((bytes_per_day - hour) / DAY_SEC, 1), hour, now_ns);
}

static void spend(struct pace_bucket *b, uint64_t bytes)
{
    if (b->rate == 0)
        return;
    int64_t was = atomic_load_explicit(&b->left, memory_order_relaxed), left;
    do {
        left = was - (int64_t)min_u64(bytes, b->burst);
        left = left < -(int64_t)b->burst ? -(int64_t)b->burst : left;
    } while (!atomic_compare_exchange_weak_explicit(&b->left, &was, left, memory_order_relaxed,
                                                    memory_order_relaxed));
}

void pace_spend(struct pace *p, uint64_t bytes)
{
    spend(&p->second, bytes);
    spend(&p->day, bytes);
}

static void fill(struct pace_bucket *b, uint64_t now_ns)
{
    uint64_t then = atomic_load_explicit(&b->filled_ns, memory_order_relaxed);
    if (now_ns < then + FILL_NS ||
        !atomic_compare_exchange_strong_explicit(&b->filled_ns, &then, now_ns, memory_order_relaxed,
                                                 memory_order_relaxed))
        return;
    uint64_t passed = now_ns - then, sec = min_u64(passed / NS_PER_SEC, FILL_SEC_MAX);
    double bytes = (double)b->rate * ((double)sec + (double)(passed % NS_PER_SEC) / (double)NS_PER_SEC);
    int64_t more = bytes < (double)(2 * b->burst) ? (int64_t)bytes : (int64_t)(2 * b->burst);
    if (more == 0) { /* too little yet: the time goes on to count */
        atomic_store_explicit(&b->filled_ns, then, memory_order_relaxed);
        return;
    }
    int64_t was = atomic_load_explicit(&b->left, memory_order_relaxed), left;
    do {
        left = was + more < (int64_t)b->burst ? was + more : (int64_t)b->burst;
    } while (!atomic_compare_exchange_weak_explicit(&b->left, &was, left, memory_order_relaxed,
                                                    memory_order_relaxed));
}

static unsigned level(struct pace_bucket *b, uint64_t now_ns)
{
    if (b->rate == 0)
        return PACE_FULL;
    fill(b, now_ns);
    int64_t left = atomic_load_explicit(&b->left, memory_order_relaxed);
    return left <= 0 || b->burst == 0 ? 0 : (unsigned)((double)left / (double)b->burst * PACE_FULL);
}

unsigned pace_level(struct pace *p, uint64_t now_ns)
{
    unsigned second = level(&p->second, now_ns), day = level(&p->day, now_ns);
    return second < day ? second : day;
}
