/* base/progress.c: see base/progress.h. */
#include "base/progress.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/notify.h"

#define NS UINT64_C(1000000000)
#define PATIENCE_SEC 60 /* the service manager waits this long after each line */

/* clang-format off */
static _Atomic(const char *) work;      /* the last that began; NULL: none so far */
static _Atomic(uint64_t) total_units, done_units;
static _Atomic(uint64_t) start_ns, end_ns; /* end 0: it is under way */
static _Atomic(uint64_t) tell_ns;       /* when the next line is due */
/* clang-format on */

void progress_text(char *out, size_t size)
{
    ASSERT(size > 0);
    const char *what = atomic_load(&work);
    uint64_t start = atomic_load(&start_ns), end = atomic_load(&end_ns), now = clock_mono_ns();
    uint64_t total = atomic_load(&total_units), done = min_u64(atomic_load(&done_units), total);
    double passed = (double)((end != 0 ? end : now) - start) / (double)NS;
    if (what == NULL)
        snprintf(out, size, "none");
    else if (end != 0)
        snprintf(out, size, "%s: done in %.3f s", what, passed);
    else if (done == 0)
        snprintf(out, size, "%s: %.0f s so far", what, passed);
    else
        snprintf(out, size, "%s: %" PRIu64 "%%, %.0f s left", what, 100 * done / total,
                 passed * (double)(total - done) / (double)done);
}

void progress_begin(const char *what, uint64_t total)
{
    uint64_t now = clock_mono_ns();
    ASSERT(what != NULL);
    atomic_store(&done_units, 0);
    atomic_store(&total_units, total);
    atomic_store(&start_ns, now);
    atomic_store(&end_ns, 0);
    atomic_store(&tell_ns, now + PROGRESS_FIRST_SEC * NS);
    atomic_store(&work, what);
    notify_send("STATUS=%s\nEXTEND_TIMEOUT_USEC=%d000000", what, PATIENCE_SEC);
}

void progress_add(uint64_t done)
{
    char text[PROGRESS_TEXT_BYTES];
    uint64_t now = clock_mono_ns(), due = atomic_load_explicit(&tell_ns, memory_order_relaxed);
    atomic_fetch_add_explicit(&done_units, done, memory_order_relaxed);
    if (now < due || !atomic_compare_exchange_strong(&tell_ns, &due, now + PROGRESS_EACH_SEC * NS))
        return;
    progress_text(text, sizeof(text));
    log_notice("%s", text);
    notify_send("STATUS=%s\nEXTEND_TIMEOUT_USEC=%d000000", text, PATIENCE_SEC);
}

void progress_end(void)
{
    ASSERT(atomic_load(&work) != NULL);
    atomic_store(&end_ns, max_u64(clock_mono_ns(), 1));
}
