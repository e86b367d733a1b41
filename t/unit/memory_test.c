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

Test(memory, limit_of_a_v2_group_is_the_lowest_up_to_the_top)
{
    make_root("0::/a/b\n");
    cr_assert_eq(memory_cgroup_limit(root), 0);
    set("a/b/memory.max", "max\n");
    cr_assert_eq(memory_cgroup_limit(root), 0);
    set("a/memory.max", "1287651328\n");
    cr_assert_eq(memory_cgroup_limit(root), 1287651328);
    set("a/b/memory.max", "4294967296\n");
    cr_assert_eq(memory_cgroup_limit(root), 1287651328);
    set("a/b/memory.max", "104857600\n");
    cr_assert_eq(memory_cgroup_limit(root), 104857600);
    remove_root();
}

/* Above memory.high nothing is killed, but everything that allocates is slowed down until it is of no use. */
Test(memory, limit_of_a_v2_group_is_where_it_is_slowed_down)
{
    make_root("0::/a/b\n");
    set("a/b/memory.high", "max\n");
    set("a/b/memory.max", "4294967296\n");
    cr_assert_eq(memory_cgroup_limit(root), 4294967296);
    set("a/b/memory.high", "3221225472\n");
    cr_assert_eq(memory_cgroup_limit(root), 3221225472);
    set("a/memory.high", "1073741824\n");
    cr_assert_eq(memory_cgroup_limit(root), 1073741824);
    set("memory.max", "536870912\n");
    cr_assert_eq(memory_cgroup_limit(root), 536870912);
    remove_root();
}

/* A container sees its own group at the top, though the host knows it by another name. */
Test(memory, limit_of_a_group_whose_name_is_not_seen)
{
    make_root("0::/kubepods/pod7/c1\n");
    set("memory.max", "268435456\n");
    cr_assert_eq(memory_cgroup_limit(root), 268435456);
    remove_root();
}

Test(memory, limit_of_a_v1_group)
{
    make_root("5:cpu,cpuacct:/x\n4:blkio,memory:/a/b\n1:name=systemd:/\n0::/\n");
    set("memory/memory.limit_in_bytes", "9223372036854771712\n");
    set("memory/a/b/memory.limit_in_bytes", "9223372036854771712\n");
    cr_assert_eq(memory_cgroup_limit(root), 0);
    set("memory/a/b/memory.limit_in_bytes", "321912832\n");
    cr_assert_eq(memory_cgroup_limit(root), 321912832);
    remove_root();
}

Test(memory, no_groups_no_limit)
{
    cr_assert_eq(memory_cgroup_limit("/nowhere"), 0);
    make_root("nonsense\n0::/a\n");
    set("a/memory.max", "many\n");
    cr_assert_eq(memory_cgroup_limit(root), 0);
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
