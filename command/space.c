/* command/space.c: see command/space.h. */
#include "command/space.h"

#include "space/extents.h"

struct lines { /* of one set */
    const char *prefix;
    stats_emit_fn emit;
    void *ctx;
};

static void put(const struct lines *l, const char *name, uint64_t value)
{
    DEBUG_ASSERT(strlen(l->prefix) + strlen(name) < 64);
    char full[64];
    snprintf(full, sizeof(full), "%s%s", l->prefix, name);
    l->emit(l->ctx, full, "%" PRIu64, value);
}

static void put_text(const struct lines *l, const char *name, const char *value)
{
    char full[64];
    snprintf(full, sizeof(full), "%s%s", l->prefix, name);
    l->emit(l->ctx, full, "%s", value);
}

static void put_runs(const struct lines *l, struct extents *set)
{
    struct extents_range run = {0, 0};
    char name[32], text[48];
    for (unsigned i = 0; i < SPACE_RUNS_MAX && extents_find(set, run.start + run.len, &run) == 0; i++) {
        DEBUG_ASSERT(run.len > 0);
        snprintf(name, sizeof(name), "run:%u", i);
        snprintf(text, sizeof(text), "%" PRIu64 " .. %" PRIu64, run.start, run.start + run.len - 1);
        put_text(l, name, text);
    }
}

static void put_set(const struct lines *l, struct extents *set, uint64_t unit_bytes)
{
    struct extents_stats v;
    char text[SPACE_REGIONS_MAX + 1];
    extents_stats(set, &v);
    uint64_t largest = extents_largest(set);
    put(l, "unit_bytes", unit_bytes);
    put(l, "total_units", v.total_units);
    put(l, "free_units", v.free_units);
    put(l, "free_runs", v.free_runs);
    put(l, "largest_run", largest);
    double share = v.free_units > 0 ? (double)min_u64(largest, v.free_units) / (double)v.free_units : 1;
    snprintf(text, sizeof(text), "%.3f", 1 - share);
    put_text(l, "fragmentation", text);
    put(l, "regions_list", v.regions_list);
    put(l, "regions_bitmap", v.regions_bitmap);
    extents_region_map(set, text, sizeof(text));
    put_text(l, "region_map", text);
    put(l, "to_bitmap", v.to_bitmap_count);
    put(l, "to_list", v.to_list_count);
    put(l, "memory_bytes", v.bytes_used);
    put_runs(l, set);
}

void space_emit(const struct command_env *env, stats_emit_fn emit, void *ctx)
{
    char prefix[32];
    struct lines l = {prefix, emit, ctx};
    for (unsigned i = 0; env->ext && i < ext_device_count(env->ext); i++) {
        struct ext_device_info device;
        ext_device_info(env->ext, i, &device);
        snprintf(prefix, sizeof(prefix), "device:%u:", i);
        put_text(&l, "path", device.path);
        put_set(&l, ext_device_extents(env->ext, i), env->settings->ext_page_size);
    }
    snprintf(prefix, sizeof(prefix), "arena:");
    put_set(&l, arena_extents(env->arena), ARENA_UNIT_BYTES);
}
