/* upkeep/save.c: see upkeep/save.h. */
#include "upkeep/save.h"

#include <unistd.h>

#include "flash/engine.h"
#include "flash/wbuf.h"

/* ---- stop ---- */

int ext_quiesce(struct extstore *e, int64_t timeout_ms)
{
    lock_assert_none_held();
    (void)ext_sync(e, timeout_ms);
    atomic_store(&e->stopping, true); /* stuck buffers are not tried again */
    io_pool_destroy(e->write_pool);   /* runs queued jobs */
    io_pool_destroy(e->read_pool);
    e->write_pool = e->read_pool = NULL;
    int rc = atomic_load(&e->dirty_wbufs) > 0 ? -EIO : 0;
    for (uint32_t i = 0; i < e->device_count; i++) {
        if (fdatasync(e->devices[i].fd) != 0 && errno != EINVAL && rc == 0)
            rc = -errno;
    }
    return rc;
}

uint64_t ext_objects(const struct extstore *e)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < e->page_count; i++)
        sum += atomic_load_explicit(&e->pages[i].objects, memory_order_relaxed);
    return sum;
}

uint32_t ext_version_now(const struct extstore *e) { return atomic_load(&e->root->next_version); }

/* ---- save ---- */

static struct ext_saved_page saved_of(const struct ext_page *p)
{
    enum ext_page_state s = ext_page_state_of(p);
    if (s == EXT_PAGE_DRAINING || s == EXT_PAGE_BAD)
        s = EXT_PAGE_SEALED;
    return (struct ext_saved_page){
        .version = atomic_load(&p->version),
        .slots_used = atomic_load(&p->slots_used),
        .objects = atomic_load(&p->objects),
        .exptime_max = ext_raised_get(&p->exptime_max),
        .time_max = ext_raised_get(&p->time_max),
        .state = (uint8_t)s,
        .bucket = p->bucket,
        .bytes_used = atomic_load(&p->bytes_used),
        .bytes_appended = atomic_load(&p->bytes_appended),
        .bytes_real = atomic_load(&p->bytes_real),
    };
}

static uint64_t slot_count(const struct extstore *e)
{
    return (uint64_t)e->page_count * e->slots_per_page;
}

static int put_slots(struct extstore *e, struct checkpoint_writer *w)
{
    int rc = 0;
    for (uint64_t slot = 0; rc == 0 && slot < slot_count(e); slot += 8) {
        uint8_t bits = 0;
        for (unsigned i = 0; i < 8 && slot + i < slot_count(e); i++) {
            enum extmap_state s = extmap_get(e->map, slot + i).state;
            ASSERT(s != EXTMAP_DELAYED);
            bits |= (uint8_t)((s != EXTMAP_FREE) << i);
        }
        rc = checkpoint_put(w, &bits, sizeof(bits));
    }
    return rc;
}

int ext_save(struct extstore *e, struct checkpoint_writer *w)
{
    ASSERT(e->write_pool == NULL && atomic_load(&e->dirty_wbufs) == 0);
    struct ext_saved_engine head = {
        .magic = EXT_SAVED_MAGIC,
        .page_bytes = e->page_bytes,
        .wbuf_bytes = e->wbuf_bytes,
        .next_seq = atomic_load(&e->root->next_seq),
        .stamp = e->root->stamp,
        .page_count = e->page_count,
        .next_version = atomic_load(&e->root->next_version),
        .flush_unix = atomic_load(&e->root->flush_unix),
    };
    int rc = checkpoint_put(w, &head, sizeof(head));
    for (uint32_t i = 0; rc == 0 && i < e->page_count; i++) {
        struct ext_saved_page p = saved_of(&e->pages[i]);
        rc = checkpoint_put(w, &p, sizeof(p));
    }
    return rc != 0 ? rc : put_slots(e, w);
}

/* ---- load ---- */

bool ext_saved_page_is_sound(const struct ext_saved_page *p, uint32_t slots_per_page)
{
    if (p->state != EXT_PAGE_FREE && p->state != EXT_PAGE_OPEN && p->state != EXT_PAGE_SEALED)
        return false;
    if (p->bucket >= EXT_BUCKET_COUNT || p->slots_used > slots_per_page)
        return false;
    bool empty = p->objects == 0 && p->bytes_used == 0 && p->slots_used == 0;
    return p->state == EXT_PAGE_FREE ? p->version == 0 && empty : p->version != 0;
}

static void page_from(struct ext_page *to, const struct ext_saved_page *p)
{
    to->bucket = p->bucket;
    atomic_store(&to->version, p->version);
    atomic_store(&to->state, p->state);
    atomic_store(&to->slots_used, p->slots_used);
    atomic_store(&to->objects, p->objects);
    ext_raised_set(&to->exptime_max, p->exptime_max);
    ext_raised_set(&to->time_max, p->time_max);
    atomic_store(&to->bytes_used, p->bytes_used);
    atomic_store(&to->bytes_appended, p->bytes_appended);
    atomic_store(&to->bytes_real, p->bytes_real);
}

static int get_slots(struct extstore *e, struct checkpoint_reader *r)
{
    extmap_word *words = (extmap_word *)(arena_base(e->arena) + e->root->words);
    for (uint64_t slot = 0; slot < slot_count(e); slot += 8) {
        uint8_t bits;
        int rc = checkpoint_get(r, &bits, sizeof(bits));
        if (rc != 0)
            return rc;
        for (unsigned i = 0; i < 8; i++) {
            if (!(bits >> i & 1))
                continue;
            if (slot + i >= slot_count(e) ||
                ext_page_state_of(&e->pages[ext_slot_page(e, slot + i)]) == EXT_PAGE_FREE)
                return -ESTALE;
            words[slot + i] = extmap_written_word();
        }
    }
    return 0;
}

int ext_load_tables(struct extstore *e, struct checkpoint_reader *r)
{
    struct ext_saved_engine head;
    int rc = checkpoint_get(r, &head, sizeof(head));
    if (rc != 0)
        return rc;
    if (head.magic != EXT_SAVED_MAGIC || head.page_bytes != e->page_bytes ||
        head.wbuf_bytes != e->wbuf_bytes || head.page_count != e->page_count)
        return -ESTALE;
    atomic_store(&e->root->next_seq, head.next_seq);
    e->root->stamp = head.stamp;
    atomic_store(&e->root->next_version, head.next_version);
    atomic_store(&e->root->flush_unix, head.flush_unix);
    for (uint32_t i = 0; i < e->page_count; i++) {
        struct ext_saved_page p;
        if ((rc = checkpoint_get(r, &p, sizeof(p))) != 0)
            return rc;
        if (!ext_saved_page_is_sound(&p, e->slots_per_page))
            return -ESTALE;
        page_from(&e->pages[i], &p);
    }
    return get_slots(e, r);
}
