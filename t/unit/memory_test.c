/* base/memory.h: what the allocator and the system say, and the limit of a control group. */
#include <criterion/criterion.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"

static char root[64];

/* Makes a directory in the role of the system's root, with the process in these groups. */
static void make_root(const char *groups)
{
    snprintf(root, sizeof(root), "/tmp/extant-memory-XXXXXX");
    cr_assert_not_null(mkdtemp(root));
    char command[512];
    snprintf(command, sizeof(command),
             "cd %s && mkdir -p proc/self sys/fs/cgroup/memory/a/b sys/fs/cgroup/a/b && "
             "printf '%s' >proc/self/cgroup",
             root, groups);
    cr_assert_eq(system(command), 0);
}

static void set(const char *file, const char *text)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/sys/fs/cgroup/%s", root, file);
    FILE *f = fopen(path, "w");
    cr_assert_not_null(f);
    fputs(text, f);
    cr_assert_eq(fclose(f), 0);
}

static void remove_root(void)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -r %s", root);
    cr_assert_eq(system(command), 0);
}

static uint64_t memory_cgroup_limit(const char *at)
{
    struct memory_cgroup group;
    memory_cgroup(at, &group);
    return group.limit_bytes;
}

static uint64_t left(void)
{
    struct memory_cgroup group;
    memory_cgroup(root, &group);
    return group.left_bytes;
}

/* Writes this file of a group, and looks what the limit is then. */
static void limit_with(const char *name, const char *text, uint64_t wanted)
{
    set(name, text);
    cr_assert_eq(memory_cgroup_limit(root), wanted, "%s: %s", name, text);
}

Test(memory, limit_of_a_v2_group_is_the_lowest_up_to_the_top)
{
    make_root("0::/a/b\n");
    cr_assert_eq(memory_cgroup_limit(root), 0);
    limit_with("a/b/memory.max", "max\n", 0);
    limit_with("a/memory.max", "1287651328\n", 1287651328);
    limit_with("a/b/memory.max", "4294967296\n", 1287651328);
    limit_with("a/b/memory.max", "104857600\n", 104857600);
    remove_root();
}

/* The group that leaves least need not be the one with the lowest limit. */
Test(memory, what_v2_groups_leave)
{
    make_root("0::/a/b\n");
    cr_assert_eq(left(), UINT64_MAX);
    set("a/b/memory.max", "1000000\n");
    set("a/b/memory.current", "700000\n");
    cr_assert_eq(left(), 300000);
    set("a/b/memory.stat", "anon 5\ninactive_file 100000\nactive_file 30000\nslab_reclaimable 4000\nslab 9\n");
    cr_assert_eq(left(), 434000);
    set("a/memory.high", "2000000\n");
    set("a/memory.current", "1900000\n");
    cr_assert_eq(left(), 100000);
    set("a/memory.current", "2100000\n");
    cr_assert_eq(left(), 0);
    remove_root();
}

/* A limit of 0 is one, though limit_bytes is 0 where there is none. */
Test(memory, a_v2_group_that_allows_nothing)
{
    make_root("0::/a/b\n");
    set("a/b/memory.high", "0\n");
    set("a/b/memory.current", "700000\n");
    cr_assert_eq(memory_cgroup_limit(root), 1);
    cr_assert_eq(left(), 0);
    set("a/memory.max", "1000000\n");
    cr_assert_eq(memory_cgroup_limit(root), 1);
    remove_root();
}

Test(memory, what_a_v1_group_leaves)
{
    make_root("4:memory:/a/b\n");
    set("memory/a/b/memory.limit_in_bytes", "1000000\n");
    set("memory/a/b/memory.usage_in_bytes", "900000\n");
    set("memory/a/b/memory.stat", "inactive_file 7\ntotal_inactive_file 50000\ntotal_active_file 1000\n");
    cr_assert_eq(left(), 151000);
    remove_root();
}

/* Above memory.high nothing is killed, but everything that allocates is slowed down until it is of no use. */
Test(memory, limit_of_a_v2_group_is_where_it_is_slowed_down)
{
    make_root("0::/a/b\n");
    set("a/b/memory.high", "max\n");
    limit_with("a/b/memory.max", "4294967296\n", 4294967296);
    limit_with("a/b/memory.high", "3221225472\n", 3221225472);
    limit_with("a/memory.high", "1073741824\n", 1073741824);
    limit_with("memory.max", "536870912\n", 536870912);
    remove_root();
}

/* A container sees its own group at the top, though the host knows it by another name. */
Test(memory, limit_of_a_group_whose_name_is_not_seen)
{
    make_root("0::/kubepods/pod7/c1\n");
    limit_with("memory.max", "268435456\n", 268435456);
    remove_root();
}

Test(memory, limit_of_a_v1_group)
{
    make_root("5:cpu,cpuacct:/x\n4:blkio,memory:/a/b\n1:name=systemd:/\n0::/\n");
    set("memory/memory.limit_in_bytes", "9223372036854771712\n");
    limit_with("memory/a/b/memory.limit_in_bytes", "9223372036854771712\n", 0);
    limit_with("memory/a/b/memory.limit_in_bytes", "321912832\n", 321912832);
    remove_root();
}

Test(memory, no_groups_no_limit)
{
    cr_assert_eq(memory_cgroup_limit("/nowhere"), 0);
    make_root("nonsense\n0::/a\n");
    limit_with("a/memory.max", "many\n", 0);
    remove_root();
}

Test(memory, figures)
{
    struct memory_heap heap;
    struct memory_resident r;
    memory_setup();
    memory_heap(&heap);
    cr_assert(heap.allocator[0] != '\0');
    memory_resident(&r);
    cr_assert_gt(r.anonymous_bytes, 0);
    cr_assert_gt(r.file_bytes, 0);
    memory_trim();
}
