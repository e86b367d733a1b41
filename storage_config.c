/* storage_config.c: see storage_config.h. */
#include "storage_config.h"

#include "io_thread.h"
#include "items/admission.h"
#include "operator/settings_check.h"

static_assert((int)SETTINGS_ADMISSION_STRICT == (int)ADMISSION_STRICT &&
                  (int)SETTINGS_ADMISSION_LEARN == (int)ADMISSION_LEARN,
              "the same modes");
static_assert((int)SETTINGS_BUCKET_COUNT == (int)EXT_BUCKET_COUNT, "the same buckets");
static_assert((int)SETTINGS_ENGINE_URING == (int)EXT_ENGINE_URING &&
                  (int)SETTINGS_ENGINE_THREADS == (int)EXT_ENGINE_THREADS,
              "the same engines");
static_assert((int)SETTINGS_PERSIST_ON == (int)PERSIST_ON && (int)SETTINGS_PERSIST_SCAN == (int)PERSIST_SCAN,
              "the same modes");
static_assert(SETTINGS_EXT_FILES_MAX <= EXT_DEVICES_MAX, "each file is a device");
static_assert(SETTINGS_EXT_MEMORY_MIN > 2 * SLAB_PAGE_BYTES, "cache_index_limit() leaves something");
static_assert(SETTINGS_EXT_PAGES_MIN == EXT_PAGES_MIN && SETTINGS_EXT_BUFFERS_MIN == EXT_BUFFERS_MIN &&
                  SETTINGS_EXT_THREADS_MAX <= IO_THREADS_MAX,
              "the engine takes what settings accept");

/* Two threads may copy at once: each goes on until its copy is what the setting is. Compares bytes, because a
 * number may be NaN. */
#define COPY(type, from, to)                                                                       \
    for (type was, now = atomic_load(from);; now = atomic_load(from)) {                            \
        was = now;                                                                                 \
        atomic_store(to, was);                                                                     \
        now = atomic_load(from);                                                                   \
        if (memcmp(&was, &now, sizeof(was)) == 0)                                                  \
            break;                                                                                 \
    }

void storage_config_apply(const struct settings *s, struct cache_config *config, struct ext_tunables *tunables)
{
#define X(type, name) COPY(type, &s->name, &config->name)
    CACHE_CONFIG_LIVE(X)
#undef X
    COPY(uint32_t, &s->ext_compact_under, &tunables->compact_under_pages)
    COPY(uint32_t, &s->ext_drop_under, &tunables->drop_under_pages)
    COPY(double, &s->ext_max_frag, &tunables->max_frag)
    COPY(uint32_t, &s->ext_rewrite_pct, &tunables->rewrite_pct)
    COPY(uint32_t, &s->ext_stay_pct, &tunables->stay_pct)
    COPY(bool, &s->ext_drop_unread, &tunables->drop_unread)
}

void storage_config_init(const struct settings *s, struct cache_config *config, struct ext_tunables *tunables)
{
    config->has_memory_file = s->memory_file != NULL;
#define X(type, name) config->name = (type)s->name;
    CACHE_CONFIG_CONST(X)
#undef X
    storage_config_apply(s, config, tunables);
}

struct restart_options storage_options(const struct settings *s, struct cache_config *config,
                                       struct ext_tunables *tunables, unsigned ring_count)
{
    struct restart_options o = {
        .config = config,
        .tunables = tunables,
        .memory_file = s->memory_file,
        .trust_memory_file = s->trust_memory_file,
        .overwrite_memory_file = s->format_memory_file,
        .lock_memory = s->lock_memory,
        .hashpower = s->hashpower_init,
        .persist = (enum persist_mode)s->ext_persist,
        .slab = {.limit_bytes = s->maxbytes,
                 .factor = s->factor,
                 .min_chunk_bytes = s->chunk_size + ITEM_ACCOUNTED_HEADER_BYTES,
                 .chunk_max_bytes = (uint32_t)s->slab_chunk_max,
                 .item_max_bytes = s->item_size_max,
                 .slab_sizes = s->slab_size_count > 0 ? s->slab_sizes : NULL},
    };
    if (s->ext_file_count == 0)
        return o;
    o.flash = (struct ext_options){
        .device_count = s->ext_file_count,
        .page_bytes = s->ext_page_size,
        .wbuf_bytes = s->ext_wbuf_size,
        .buffer_bytes = s->ext_buffer_mem,
        .io_threads = s->ext_threads,
        .io_depth = s->ext_io_depth,
        .ring_count = ring_count,
        .engine = (enum ext_engine)s->ext_io_engine,
        .write_limit_bytes_per_sec = s->ext_write_limit,
        .write_limit_bytes_per_day = s->ext_daily_writes,
        .verify_writes = s->ext_verify_writes,
        .ttl_groups = s->ext_ttl_groups,
    };
    for (uint32_t i = 0; i < s->ext_file_count; i++)
        o.flash.devices[i] = (struct ext_device_options){.path = s->ext_files[i].path,
                                                         .bytes = s->ext_files[i].bytes,
                                                         .format = s->ext_files[i].format,
                                                         .free_bucket = (enum ext_bucket)s->ext_files[i].bucket};
    return o;
}

bool storage_keep_sizes(struct settings *s, struct restart_options *o, char *line, size_t n)
{
    struct restart_sizes found;
    line[0] = '\0';
    o->asks_for_sizes = true;
    if (o->flash.device_count == 0 || !restart_found_sizes(o, &found) ||
        !settings_keep_sizes(s, found.page_bytes, found.wbuf_bytes, line, n))
        return false;
    o->flash.page_bytes = s->ext_page_size;
    o->flash.wbuf_bytes = s->ext_wbuf_size;
    o->flash.buffer_bytes = s->ext_buffer_mem;
    storage_config_apply(s, o->config, o->tunables);
    return true;
}
