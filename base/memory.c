/* base/memory.c: see base/memory.h. Calls jemalloc through a weak reference, so builds without it link. */
#include "base/memory.h"

#include <malloc.h>

/* Read by jemalloc before main. Freed memory leaves the process after a second; huge pages would take
 * more than was asked for. One background thread runs from memory_setup() on, so that none has to be
 * created later, when system calls may be restricted. */
extern const char *malloc_conf;
__attribute__((used)) const char *malloc_conf =
    "dirty_decay_ms:1000,muzzy_decay_ms:0,thp:never,max_background_threads:1";

__attribute__((weak)) int mallctl(const char *name, void *old, size_t *old_bytes, void *value,
                                  size_t value_bytes);

#define TRIM_WORTH_BYTES (256 * KiB)

void memory_setup(void)
{
    bool on = true;
    if (mallctl) /* if refused, later calls of malloc and free return memory */
        (void)mallctl("background_thread", NULL, NULL, &on, sizeof(on));
}

static uint64_t ask(const char *name)
{
    size_t value = 0, bytes = sizeof(value);
    return mallctl(name, &value, &bytes, NULL, 0) == 0 ? value : 0;
}

void memory_heap(struct memory_heap *out)
{
    if (!mallctl) {
        struct mallinfo2 m = mallinfo2();
        *out = (struct memory_heap){.allocator = "libc",
                                    .allocated_bytes = m.uordblks + m.hblkhd,
                                    .resident_bytes = m.arena + m.hblkhd};
        return;
    }
    uint64_t epoch = 1;
    const char *version = NULL;
    size_t bytes = sizeof(version);
    (void)mallctl("epoch", NULL, NULL, &epoch, sizeof(epoch)); /* the figures are those of the last epoch */
    if (mallctl("version", &version, &bytes, NULL, 0) != 0 || version == NULL)
        version = "?";
    *out = (struct memory_heap){.allocated_bytes = ask("stats.allocated"),
                                .resident_bytes = ask("stats.resident")};
    snprintf(out->allocator, sizeof(out->allocator), "jemalloc %.*s", (int)strcspn(version, "-"),
             version);
}

void memory_trim(void)
{
    if (!mallctl && mallinfo2().fordblks >= TRIM_WORTH_BYTES)
        malloc_trim(0);
}

void memory_resident(struct memory_resident *out)
{
    char line[256];
    FILE *f = fopen("/proc/self/status", "re");
    *out = (struct memory_resident){0};
    if (f == NULL)
        return;
    while (fgets(line, sizeof(line), f) != NULL) {
        uint64_t kb;
        if (sscanf(line, "RssAnon: %" SCNu64, &kb) == 1)
            out->anonymous_bytes = kb * KiB;
        else if (sscanf(line, "RssFile: %" SCNu64, &kb) == 1)
            out->file_bytes = kb * KiB;
        else if (sscanf(line, "RssShmem: %" SCNu64, &kb) == 1)
            out->shared_bytes = kb * KiB;
    }
    fclose(f);
}

/* ---- control groups ---- */

enum { PATH_BYTES = 4096 };

/* The number in a file of a control group; UINT64_MAX: there is no file, or it says "max". */
static uint64_t read_number(const char *dir, const char *file)
{
    char path[3 * PATH_BYTES + 64];
    uint64_t number = UINT64_MAX;
    snprintf(path, sizeof(path), "%s/%s", dir, file);
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return UINT64_MAX;
    if (fscanf(f, "%" SCNu64, &number) != 1)
        number = UINT64_MAX;
    fclose(f);
    return number >= (uint64_t)INT64_MAX / 2 ? UINT64_MAX : number; /* v1 says "none" with a huge number */
}

/* Of a group and those below it, what the kernel takes back before it kills: files' pages, and names of files. */
static uint64_t read_reclaimable(const char *dir, bool v2)
{
    char path[3 * PATH_BYTES + 64], line[256];
    uint64_t sum = 0, bytes;
    snprintf(path, sizeof(path), "%s/memory.stat", dir);
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return 0;
    while (fgets(line, sizeof(line), f) != NULL) {
        const char *name = line;
        if (!v2 && strncmp(line, "total_", 6) == 0)
            name += 6;
        else if (!v2)
            continue;
        if (sscanf(name, "inactive_file %" SCNu64, &bytes) == 1 || sscanf(name, "active_file %" SCNu64, &bytes) == 1 ||
            sscanf(name, "slab_reclaimable %" SCNu64, &bytes) == 1)
            sum += bytes;
    }
    fclose(f);
    return sum;
}

/* Makes *out this group's, if it leaves less. */
static void tighten(struct memory_cgroup *out, const char *dir, bool v2)
{
    uint64_t limit = read_number(dir, v2 ? "memory.max" : "memory.limit_in_bytes");
    if (v2)
        limit = min_u64(limit, read_number(dir, "memory.high"));
    if (limit == UINT64_MAX)
        return;
    limit = max_u64(limit, 1); /* some set memory.high to 0, and 0 would mean that there is no limit */
    out->limit_bytes = out->limit_bytes == 0 ? limit : min_u64(out->limit_bytes, limit);
    uint64_t used = read_number(dir, v2 ? "memory.current" : "memory.usage_in_bytes");
    if (used == UINT64_MAX)
        return;
    used -= min_u64(used, read_reclaimable(dir, v2));
    out->left_bytes = min_u64(out->left_bytes, limit - min_u64(limit, used));
}

/* From the group up to the mount's top. A container sees its own group at the top,
 * whatever /proc/self/cgroup says, so missing levels are skipped. */
static void tighten_by_levels(struct memory_cgroup *out, const char *mount, const char *group, bool v2)
{
    char dir[3 * PATH_BYTES];
    for (size_t len = strlen(group);; len--) {
        if (len > 0 && group[len] != '/' && group[len] != '\0')
            continue;
        snprintf(dir, sizeof(dir), "%s%.*s", mount, (int)len, group);
        tighten(out, dir, v2);
        if (len == 0)
            return;
    }
}

static bool names_memory(const char *controllers)
{
    for (const char *at = controllers;; at++) {
        size_t len = strcspn(at, ",");
        if (len == strlen("memory") && memcmp(at, "memory", len) == 0)
            return true;
        at += len;
        if (*at == '\0')
            return false;
    }
}

void memory_cgroup(const char *root, struct memory_cgroup *out)
{
    char mount[PATH_BYTES], line[PATH_BYTES];
    *out = (struct memory_cgroup){.left_bytes = UINT64_MAX};
    snprintf(line, sizeof(line), "%s/proc/self/cgroup", root);
    FILE *f = fopen(line, "re");
    if (f == NULL)
        return;
    while (fgets(line, sizeof(line), f) != NULL) { /* hierarchy:controllers:group */
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (group == NULL)
            continue;
        *group++ = '\0';
        controllers++;
        bool v2 = controllers[0] == '\0';
        if (!v2 && !names_memory(controllers))
            continue;
        snprintf(mount, sizeof(mount), "%.512s/sys/fs/cgroup%s", root, v2 ? "" : "/memory");
        tighten_by_levels(out, mount, group, v2);
    }
    fclose(f);
}
