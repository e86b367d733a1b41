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

/* The number in a file of a control group; 0: there is no file, or it says "max". */
static uint64_t read_limit(const char *path)
{
    uint64_t limit = 0;
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return 0;
    if (fscanf(f, "%" SCNu64, &limit) != 1)
        limit = 0;
    fclose(f);
    return limit >= (uint64_t)INT64_MAX / 2 ? 0 : limit; /* v1 says "none" with a huge number */
}

static uint64_t lower_limit(uint64_t a, uint64_t b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

/* The lowest limit from the group up to the mount's top. A container sees its own group at the top,
 * whatever /proc/self/cgroup says, so missing levels are skipped. */
static uint64_t lowest_limit(const char *mount, const char *group, const char *file)
{
    char path[3 * PATH_BYTES];
    uint64_t lowest = 0;
    for (size_t len = strlen(group);; len--) {
        if (len > 0 && group[len] != '/' && group[len] != '\0')
            continue;
        snprintf(path, sizeof(path), "%s%.*s/%s", mount, (int)len, group, file);
        lowest = lower_limit(lowest, read_limit(path));
        if (len == 0)
            return lowest;
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

uint64_t memory_cgroup_limit(const char *root)
{
    char mount[PATH_BYTES], line[PATH_BYTES];
    uint64_t lowest = 0;
    snprintf(line, sizeof(line), "%s/proc/self/cgroup", root);
    FILE *f = fopen(line, "re");
    if (f == NULL)
        return 0;
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
        lowest = lower_limit(lowest, lowest_limit(mount, group, v2 ? "memory.max" : "memory.limit_in_bytes"));
        if (v2)
            lowest = lower_limit(lowest, lowest_limit(mount, group, "memory.high"));
    }
    fclose(f);
    return lowest;
}
