/* upkeep/repair.c: see upkeep/repair.h. */
#include "upkeep/repair.h"

#include "flash/engine.h"

/* Can this be an entry of the page table? Not all fields matter: counts and references are
 * rebuilt; exptime_max and time_max detect their own damage; with a wrong version, no record
 * verifies; wrong bytes_appended and bytes_real mislead the choice of pages to rescue at worst, and
 * retry_sec and failures the time of a test write. */
static bool page_is_sound(const struct extstore *e, const struct ext_page *p)
{
    uint32_t newest = atomic_load(&e->root->next_version);
    enum ext_page_state s = ext_page_state_of(p);
    return s <= EXT_PAGE_BAD && p->bucket < EXT_BUCKET_COUNT &&
           atomic_load(&p->slots_used) <= e->slots_per_page &&
           p->bad_chunk * EXT_IO_CHUNK_BYTES < e->page_bytes &&
           (s == EXT_PAGE_FREE || (int32_t)(newest - atomic_load(&p->version)) >= 0);
}

/* Repairs the page table of an earlier process: there are no readers, and nothing is counted yet. */
int ext_repair_pages(struct extstore *e)
{
    ASSERT(e->opt.attached && e->map == NULL && atomic_load(&e->bad_pages) == 0);
    for (uint32_t i = 0; i < e->page_count; i++) {
        struct ext_page *p = &e->pages[i];
        enum ext_page_state s = ext_page_state_of(p);
        if (!page_is_sound(e, p))
            return -ESTALE;
        /* Without a version it was becoming free: a BAD one has taken its test write then. */
        bool is_bad = s == EXT_PAGE_BAD && atomic_load(&p->version) != 0;
        if (s == EXT_PAGE_DRAINING || (s == EXT_PAGE_BAD && !is_bad))
            atomic_store(&p->state, EXT_PAGE_SEALED);
        if (is_bad)
            atomic_fetch_add(&e->bad_pages, 1);
        atomic_store(&p->retry_sec, 0);
        /* Killed between two stores of page_begin or page_free: it holds nothing either way. */
        if (s == EXT_PAGE_FREE) {
            atomic_store(&p->version, 0);
            atomic_store(&p->slots_used, 0);
        }
        atomic_store(&p->objects, 0);
        atomic_store(&p->bytes_used, 0);
        atomic_store(&p->refs, 0);
        atomic_store(&p->slots_busy, 0);
    }
    return 0;
}

/* Can this be the table entry of a record in the buffer? What an entry names lies in the buffer; if
 * the record is whole, and not one whose copying a kill cut short, then the hash is its key's. */
static bool entry_is_sound(struct extstore *e, const struct ext_wbuf_root *root, uint64_t slot,
                           const struct ext_entry *entry)
{
    const struct ext_callbacks *cb = &e->opt.callbacks;
    const char *memory = arena_base(e->arena) + root->memory;
    uint64_t offset = (uint64_t)entry->granule * EXT_GRANULE_BYTES;
    struct ext_record rec;
    ASSERT(atomic_load(&root->front_bytes) <= e->wbuf_bytes); /* checked by buffer_is_sound */
    if (offset < ext_slot_front(e, slot) || entry->record_bytes < sizeof(struct ext_record_head) ||
        entry->record_bytes % EXT_GRANULE_BYTES != 0 ||
        offset + entry->record_bytes > atomic_load(&root->front_bytes))
        return false;
    if (ext_record_verify(memory + offset, entry->record_bytes, root->version,
                          ext_slot_place(e, slot) + entry->granule, &rec) != 0)
        return true;
    if (cb->hash_of(cb->ctx, rec.key, rec.key_bytes) != entry->hash)
        return false;
    /* The youngest records are in buffers: numbers go on above theirs, whatever the root says. */
    if (atomic_load(&e->root->next_seq) < rec.seq)
        atomic_store(&e->root->next_seq, rec.seq);
    return true;
}

/* Can this be what an unflushed buffer held? */
static bool buffer_is_sound(struct extstore *e, struct ext_wbuf_root *root, uint64_t slot)
{
    uint32_t count = atomic_load(&root->count);
    char *end = arena_base(e->arena) + root->memory + e->wbuf_bytes;
    if (root->bucket >= EXT_BUCKET_COUNT || count > e->wbuf_bytes / sizeof(struct ext_entry) - 2 ||
        root->version != atomic_load(&e->pages[ext_slot_page(e, slot)].version) ||
        atomic_load(&root->front_bytes) < ext_slot_front(e, slot) ||
        atomic_load(&root->front_bytes) > ext_table_start(e->wbuf_bytes, count))
        return false;
    for (uint32_t i = 0; i < count; i++) {
        if (!entry_is_sound(e, root, slot, ext_entry_at(end, i)))
            return false;
    }
    return true;
}

/* Is what the map says about the slots of an earlier process's pages possible? Slots beyond
 * slots_used were not yet given out; a page in use without a version was just becoming free. */
bool ext_buffers_are_sound(struct extstore *e)
{
    struct ext_wbuf_root *roots = ext_wbufs_of(e, e->tables);
    ASSERT(e->opt.attached && e->tables != NULL);
    for (uint32_t page = 0; page < e->page_count; page++) {
        enum ext_page_state s = ext_page_state_of(&e->pages[page]);
        uint32_t used = atomic_load(&e->pages[page].slots_used), version = atomic_load(&e->pages[page].version);
        if (s == EXT_PAGE_OPEN && version == 0)
            return false;
        for (uint32_t i = 0; s != EXT_PAGE_FREE && i < e->slots_per_page; i++) {
            uint64_t slot = (uint64_t)page * e->slots_per_page + i;
            struct extmap_range r = extmap_get(e->map, slot);
            ASSERT(r.state != EXTMAP_DELAYED || r.buffer < e->wbuf_count); /* as extmap_attach saw */
            if (r.state != EXTMAP_FREE && (i >= used || version == 0))
                return false;
            if (r.state == EXTMAP_DELAYED && !buffer_is_sound(e, &roots[r.buffer], slot))
                return false;
        }
    }
    return true;
}

/* Ranges of FREE pages that a killed page_free had not come to. */
void ext_repair_ranges(struct extstore *e)
{
    for (uint32_t page = 0; page < e->page_count; page++) {
        if (ext_page_state_of(&e->pages[page]) != EXT_PAGE_FREE)
            continue;
        for (uint32_t i = 0; i < e->slots_per_page; i++) {
            uint64_t slot = (uint64_t)page * e->slots_per_page + i;
            if (extmap_get(e->map, slot).state == EXTMAP_FREE)
                continue;
            int rc = extmap_set_free(e->map, slot, NULL);
            ASSERT(rc == 0); /* no range is pinned yet */
        }
    }
}
