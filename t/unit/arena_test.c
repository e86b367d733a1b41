/* arena_test.c: the arena: allocation, memory known to be zero, memory given back, attach after a kill,
 * refusals; run under TSan for the threads. */
#include "space/arena.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "space/extents.h"

#define LAYOUT_ID UINT64_C(0x3bd571937cee6a40) /* of ARENA_FORMAT 2 */

static char dir[64], file[96], why[256];

/* A directory on tmpfs where there is one. */
static void dir_make(void)
{
    const char *base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(dir, sizeof(dir), "%s/arena_test.XXXXXX", base);
    cr_assert_not_null(mkdtemp(dir));
    snprintf(file, sizeof(file), "%s/memory", dir);
}

static void dir_remove(void)
{
    unlink(file);
    rmdir(dir);
}

static struct arena *arena_open(uint64_t reserve, const char *path, const char *geometry,
                                bool *attached)
{
    struct arena_options opt = {.reserve_bytes = reserve,
                                .file = path,
                                .geometry = geometry,
                                .geometry_bytes = (uint32_t)strlen(geometry)};
    return arena_create(&opt, attached, why, sizeof(why));
}

static struct arena *arena_anonymous(uint64_t reserve)
{
    bool attached;
    struct arena *a = arena_open(reserve, NULL, "", &attached);
    cr_assert_not_null(a, "%s", why);
    cr_assert(!attached);
    return a;
}

static uint64_t must_alloc(struct arena *a, uint64_t bytes, uint64_t align, bool *zeroed)
{
    uint64_t offset = 0;
    cr_assert_eq(arena_alloc(a, ARENA_USE_SLAB, bytes, align, &offset, zeroed), 0);
    return offset;
}

/* RSS of the mapping that starts at base, from smaps. */
static uint64_t mapping_rss(const struct arena *a)
{
    FILE *f = fopen("/proc/self/smaps", "r");
    cr_assert_not_null(f);
    uint64_t rss_kib = 0, start, end, kib;
    uint64_t from = (uint64_t)(uintptr_t)arena_base(a), to = from + arena_reserve_bytes(a);
    bool inside = false;
    char line[512];
    while (fgets(line, sizeof(line), f) != NULL) {
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &start, &end) == 2)
            inside = start < to && end > from;
        else if (inside && sscanf(line, "Rss: %" SCNu64, &kib) == 1)
            rss_kib += kib;
    }
    fclose(f);
    return rss_kib * KiB;
}

static bool all_zero(const char *p, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes; i++) {
        if (p[i] != 0)
            return false;
    }
    return true;
}

/* Runs work in a child, which is killed when work returns. */
static void in_killed_child(void (*work)(void))
{
    int fds[2];
    cr_assert_eq(pipe(fds), 0);
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0) {
        work();
        if (write(fds[1], "x", 1) == 1)
            pause();
        _exit(1);
    }
    close(fds[1]);
    char c;
    cr_assert_eq(read(fds[0], &c, 1), 1, "the child failed");
    close(fds[0]);
    kill(pid, SIGKILL);
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFSIGNALED(status));
}

/* ---- allocation ------------------------------------------------------------------------- */

/* The base is good for huge pages, roots are zeroes and 4 KiB aligned. */
Test(arena, fresh_roots_are_zero)
{
    struct arena *a = arena_anonymous(16 * MiB);
    cr_assert_eq((uintptr_t)arena_base(a) % (2 * MiB), 0);
    for (int id = 0; id < ARENA_ROOT_COUNT; id++) {
        cr_assert_eq((uintptr_t)arena_root(a, id) % 4096, 0);
        cr_assert(all_zero(arena_root(a, id), ARENA_ROOT_MODULE_BYTES));
    }
    arena_destroy(a);
}

/* Each allocation is the lowest aligned free range. */
Test(arena, allocates_lowest_aligned)
{
    struct arena *a = arena_anonymous(16 * MiB);
    uint64_t x = must_alloc(a, 4096, 4096, NULL);
    uint64_t y = must_alloc(a, 64 * KiB, 64 * KiB, NULL);
    uint64_t z = must_alloc(a, 5000, 4096, NULL);
    cr_assert_eq(y, round_up(x + 4096, 64 * KiB));
    cr_assert_eq(z, x + 4096);
    arena_destroy(a);
}

/* Bytes are counted by use, in whole units, and come back. */
Test(arena, counts_bytes_by_use)
{
    struct arena *a = arena_anonymous(16 * MiB);
    uint64_t offset, meta = arena_used_bytes(a, ARENA_USE_META);
    cr_assert_eq(arena_alloc(a, ARENA_USE_INDEX, 5000, 4096, &offset, NULL), 0);
    cr_assert_eq(arena_used_bytes(a, ARENA_USE_INDEX), 8192);
    cr_assert_eq(arena_used_bytes(a, ARENA_USE_SLAB), 0);
    arena_free(a, ARENA_USE_INDEX, offset, 5000);
    cr_assert_eq(arena_used_bytes(a, ARENA_USE_INDEX), 0);
    cr_assert_eq(arena_used_bytes(a, ARENA_USE_META), meta);
    arena_destroy(a);
}

/* All of the reserve can be allocated, and not a unit more. */
Test(arena, full_is_enospc)
{
    struct arena *a = arena_anonymous(4 * MiB);
    uint64_t offset, got = 0;
    while (arena_alloc(a, ARENA_USE_BUFFER, 4096, 4096, &offset, NULL) == 0)
        got += 4096;
    cr_assert_eq(got + arena_used_bytes(a, ARENA_USE_META), 4 * MiB);
    cr_assert_eq(arena_alloc(a, ARENA_USE_BUFFER, 8 * MiB, 4096, &offset, NULL), -ENOSPC);
    cr_assert_eq(extents_free_count(arena_extents(a)), 0);
    arena_destroy(a);
}

/* Fresh memory is known to be zeroes; what was used a moment ago is not. */
Test(arena, zeroed_is_known)
{
    struct arena *a = arena_anonymous(16 * MiB);
    bool zeroed;
    uint64_t x = must_alloc(a, 64 * KiB, 64 * KiB, &zeroed);
    cr_assert(zeroed);
    memset(arena_base(a) + x, 1, 64 * KiB);
    arena_free(a, ARENA_USE_SLAB, x, 64 * KiB);
    cr_assert_eq(must_alloc(a, 128 * KiB, 64 * KiB, &zeroed), x);
    cr_assert(!zeroed);
    arena_destroy(a);
}

/* ---- giving back ------------------------------------------------------------------------ */

/* After 64 MiB were written and freed, the kernel has them back but for the slack. */
Test(arena, rss_follows_use)
{
    struct arena *a = arena_anonymous(256 * MiB);
    uint64_t offset[64];
    for (int i = 0; i < 64; i++) {
        offset[i] = must_alloc(a, MiB, 64 * KiB, NULL);
        memset(arena_base(a) + offset[i], 1, MiB);
    }
    uint64_t full = mapping_rss(a);
    cr_assert_geq(full, 64 * MiB);
    cr_assert_leq(full, arena_touched_bytes(a));
    for (int i = 0; i < 64; i++)
        arena_free(a, ARENA_USE_SLAB, offset[i], MiB);
    cr_assert_leq(mapping_rss(a), 4 * MiB);
    cr_assert_leq(mapping_rss(a), arena_touched_bytes(a));
    arena_destroy(a);
}

/* Memory that the kernel took back reads as zeroes, and is known to. */
Test(arena, given_back_is_zeroed)
{
    struct arena *a = arena_anonymous(256 * MiB);
    uint64_t x = must_alloc(a, 64 * MiB, 64 * KiB, NULL);
    memset(arena_base(a) + x, 1, 64 * MiB);
    arena_free(a, ARENA_USE_SLAB, x, 64 * MiB);
    bool zeroed;
    cr_assert_eq(must_alloc(a, 64 * MiB, 64 * KiB, &zeroed), x);
    cr_assert(zeroed);
    cr_assert(all_zero(arena_base(a) + x, 64 * MiB));
    arena_destroy(a);
}

/* A chunk is given back only once nobody uses any of its units. */
Test(arena, neighbours_are_kept)
{
    struct arena *a = arena_anonymous(256 * MiB);
    uint64_t big = must_alloc(a, 32 * MiB, 64 * KiB, NULL);
    uint64_t x = must_alloc(a, 4096, 64 * KiB, NULL), y = must_alloc(a, 4096, 4096, NULL);
    while (y != x + 4096)
        y = must_alloc(a, 4096, 4096, NULL);
    memset(arena_base(a) + big, 1, 32 * MiB);
    memset(arena_base(a) + x, 1, 4096);
    memset(arena_base(a) + y, 2, 4096);
    arena_free(a, ARENA_USE_SLAB, big, 32 * MiB);
    arena_free(a, ARENA_USE_SLAB, x, 4096);
    cr_assert_eq(arena_base(a)[y], 2);
    cr_assert_eq(arena_base(a)[y + 4095], 2);
    arena_destroy(a);
}

/* 256 GiB of address space cost next to nothing until they are used. */
Test(arena, large_reserve_is_cheap)
{
    struct arena *a = arena_anonymous(256 * GiB);
    uint64_t offset = must_alloc(a, 200 * MiB, 64 * KiB, NULL);
    arena_base(a)[offset] = 1;
    cr_assert_leq(mapping_rss(a), 2 * MiB);
    arena_destroy(a);
}

/* -k: memory that is locked is given back all the same. */
Test(arena, locked_memory_is_given_back)
{
    struct arena_options opt = {.reserve_bytes = 64 * MiB, .lock_memory = true};
    bool attached;
    struct arena *a = arena_create(&opt, &attached, why, sizeof(why));
    cr_assert_not_null(a);
    if (why[0] != '\0')
        cr_skip_test("no right to lock memory");
    uint64_t x = must_alloc(a, 32 * MiB, 64 * KiB, NULL);
    memset(arena_base(a) + x, 1, 32 * MiB);
    arena_free(a, ARENA_USE_SLAB, x, 32 * MiB);
    cr_assert_leq(mapping_rss(a), 2 * MiB);
    arena_destroy(a);
}

/* ---- files ------------------------------------------------------------------------------ */

/* Freed memory leaves the file. */
Test(arena_file, blocks_follow_use, .init = dir_make, .fini = dir_remove)
{
    bool attached;
    struct stat st;
    struct arena *a = arena_open(256 * MiB, file, "", &attached);
    cr_assert_not_null(a, "%s", why);
    uint64_t x = must_alloc(a, 32 * MiB, 64 * KiB, NULL);
    memset(arena_base(a) + x, 1, 32 * MiB);
    cr_assert_eq(stat(file, &st), 0);
    cr_assert_geq((uint64_t)st.st_blocks * 512, 32 * MiB);
    arena_free(a, ARENA_USE_SLAB, x, 32 * MiB);
    cr_assert_eq(stat(file, &st), 0);
    cr_assert_leq((uint64_t)st.st_blocks * 512, 2 * MiB);
    arena_destroy(a);
}

/* An arena of 64 MB where there is room for 8. */
static struct arena *arena_on_small_tmpfs(void)
{
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("tmpfs", dir, "tmpfs", 0, "size=8m") != 0)
        cr_skip_test("no right to mount a small tmpfs");
    bool attached;
    struct arena *a = arena_open(64 * MiB, file, "", &attached);
    cr_assert_not_null(a, "%s", why);
    return a;
}

/* A full tmpfs is an error of arena_alloc, not a SIGBUS; nothing leaks. */
Test(arena_file, full_file_system_is_enospc, .init = dir_make, .fini = dir_remove)
{
    struct arena *a = arena_on_small_tmpfs();
    uint64_t offset, free_before = extents_free_count(arena_extents(a));
    cr_assert_eq(arena_alloc(a, ARENA_USE_SLAB, 16 * MiB, 4096, &offset, NULL), -ENOSPC);
    cr_assert_eq(extents_free_count(arena_extents(a)), free_before);
    offset = must_alloc(a, 4 * MiB, 4096, NULL);
    memset(arena_base(a) + offset, 1, 4 * MiB);
    arena_destroy(a);
    unlink(file);
    umount(dir);
}

static bool can_not_reserve;

/* The library's, unless a test has a file system that can't reserve. */
#define OVERRIDE(type, name, arguments) type name arguments
OVERRIDE(int, fallocate, (int fd, int mode, off_t offset, off_t bytes))
{
    if (can_not_reserve && mode == 0) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return (int)syscall(SYS_fallocate, fd, mode, offset, bytes);
}

Test(arena_file, header_and_bitmaps_have_room_where_none_can_be_reserved, .init = dir_make, .fini = dir_remove)
{
    struct stat st;
    bool attached;
    can_not_reserve = true;
    struct arena *a = arena_open(64 * MiB, file, "", &attached);
    cr_assert_not_null(a, "%s", why);
    cr_assert_eq(stat(file, &st), 0);
    cr_assert_geq((uint64_t)st.st_blocks * 512, arena_used_bytes(a, ARENA_USE_META));
    arena_destroy(a);
}

/* Idle memory is exchanged for other memory on a full file system; the rest is left to the index; room that comes back
 * ends it. */
Test(arena_file, shortage_of_a_full_file_system, .init = dir_make, .fini = dir_remove)
{
    struct arena *a = arena_on_small_tmpfs();
    uint64_t piece[8], offset;
    unsigned n = 0;
    while (n < ARRAY_COUNT(piece) && arena_alloc(a, ARENA_USE_SLAB, MiB, MiB, &piece[n], NULL) == 0)
        n++;
    cr_assert(n >= 6 && n < 8 && arena_is_short(a) && !arena_is_capped(a));
    cr_assert_eq(arena_refusals(a), 1);
    uint64_t had = arena_had_bytes(a);
    cr_assert_eq(had, n * MiB);
    cr_assert(!arena_seek_room(a, 2 * MiB));

    /* Two pieces that are free, and not neighbours: memory of both for one range elsewhere. */
    arena_free(a, ARENA_USE_SLAB, piece[0], MiB);
    arena_free(a, ARENA_USE_SLAB, piece[2], MiB);
    cr_assert_eq(arena_idle_bytes(a), 2 * MiB);
    arena_set_spare(a, MiB);
    cr_assert_eq(arena_alloc(a, ARENA_USE_SLAB, 2 * MiB, MiB, &offset, NULL), -ENOSPC);
    cr_assert_eq(arena_refusals(a), 1); /* the system wasn't asked */
    cr_assert_eq(arena_alloc(a, ARENA_USE_INDEX, 2 * MiB, MiB, &offset, NULL), 0);
    memset(arena_base(a) + offset, 1, 2 * MiB);
    cr_assert_eq(arena_touched_bytes(a), had + arena_used_bytes(a, ARENA_USE_META));
    cr_assert_eq(arena_alloc(a, ARENA_USE_INDEX, 2 * MiB, MiB, &offset, NULL), -ENOSPC);
    cr_assert_eq(arena_refusals(a), 2);

    cr_assert_eq(mount("tmpfs", dir, "tmpfs", MS_REMOUNT, "size=16m"), 0);
    cr_assert(arena_seek_room(a, 2 * MiB));
    arena_end_shortage(a);
    cr_assert_eq(arena_alloc(a, ARENA_USE_SLAB, 2 * MiB, MiB, &offset, NULL), 0);
    memset(arena_base(a) + offset, 1, 2 * MiB);
    arena_destroy(a);
    unlink(file);
    umount(dir);
}

/* A ceiling refuses as the system would; one below what is touched takes idle memory back. */
Test(arena, ceiling)
{
    struct arena *a = arena_anonymous(64 * MiB);
    uint64_t first = must_alloc(a, 4 * MiB, 4096, NULL), second = must_alloc(a, 4 * MiB, 4096, NULL), offset;
    memset(arena_base(a) + first, 1, 8 * MiB);
    uint64_t touched = arena_touched_bytes(a);
    cr_assert_eq(arena_set_ceiling(a, touched + MiB), 0);
    cr_assert(!arena_is_short(a));
    cr_assert_eq(arena_alloc(a, ARENA_USE_SLAB, 2 * MiB, 4096, &offset, NULL), -ENOSPC);
    cr_assert(arena_is_short(a) && arena_is_capped(a));
    arena_free(a, ARENA_USE_SLAB, first, 4 * MiB);
    cr_assert_eq(arena_set_ceiling(a, touched - 6 * MiB), 2 * MiB);
    cr_assert_eq(arena_touched_bytes(a), touched - 4 * MiB);
    cr_assert(mapping_rss(a) < 5 * MiB);
    arena_free(a, ARENA_USE_SLAB, second, 4 * MiB);
    cr_assert_eq(arena_set_ceiling(a, touched - 6 * MiB), 0);
    cr_assert(!arena_seek_room(a, 8 * MiB));
    cr_assert_eq(arena_alloc(a, ARENA_USE_BUFFER, 8 * MiB, 4096, &offset, NULL), 0); /* has a bound of its own */
    cr_assert_eq(arena_set_ceiling(a, UINT64_MAX), 0);
    cr_assert(arena_seek_room(a, 8 * MiB));
    arena_destroy(a);
}

/* While one has the file, another gets EBUSY. */
Test(arena_file, second_user_is_refused, .init = dir_make, .fini = dir_remove)
{
    bool attached;
    struct arena *a = arena_open(MiB, file, "", &attached);
    cr_assert_not_null(a, "%s", why);
    cr_assert_null(arena_open(MiB, file, "", &attached));
    cr_assert_eq(errno, EBUSY);
    cr_assert(strstr(why, "another process uses it") != NULL, "%s", why);
    arena_destroy(a);
    a = arena_open(MiB, file, "", &attached);
    cr_assert(a != NULL && attached);
    arena_destroy(a);
}

/* A directory is refused, not opened. */
Test(arena_file, odd_files_are_refused, .init = dir_make, .fini = dir_remove)
{
    bool attached;
    cr_assert_null(arena_open(MiB, dir, "", &attached));
    cr_assert_null(arena_open(MiB, "/dev/null", "", &attached));
    cr_assert_eq(errno, EINVAL);
}

/* A file that others could have written, or that a link leads to, is not believed. */
Test(arena_file, what_others_could_write_is_refused, .init = dir_make, .fini = dir_remove)
{
    bool attached;
    struct stat st;
    char other[128];
    snprintf(other, sizeof(other), "%s.other", file);
    arena_destroy(arena_open(MiB, file, "", &attached));
    cr_assert_eq(stat(file, &st), 0);
    cr_assert_eq(st.st_mode & 07777, 0600);

    cr_assert_eq(chmod(file, 0620), 0);
    cr_assert_null(arena_open(MiB, file, "", &attached));
    cr_assert_eq(errno, EPERM);
    cr_assert_not_null(strstr(why, "others may write to it (mode 0620); -o trust_memory_file"),
                       "%s", why);
    cr_assert_eq(chmod(file, 0602), 0);
    cr_assert_null(arena_open(MiB, file, "", &attached));
    cr_assert_eq(chmod(file, 0644), 0);
    struct arena *a = arena_open(MiB, file, "", &attached);
    cr_assert(a != NULL && attached, "to read it does no harm");
    arena_destroy(a);

    cr_assert_eq(link(file, other), 0);
    cr_assert_null(arena_open(MiB, file, "", &attached));
    cr_assert_not_null(strstr(why, "another name"), "%s", why);
    cr_assert_eq(unlink(other), 0);

    cr_assert_eq(rename(file, other), 0);
    cr_assert_eq(symlink(other, file), 0);
    cr_assert_null(arena_open(MiB, file, "", &attached));
    cr_assert_eq(errno, ELOOP);
    cr_assert_not_null(strstr(why, "symbolic link; -o trust_memory_file"), "%s", why);
    cr_assert_eq(unlink(other), 0);
    cr_assert_null(arena_open(MiB, file, "", &attached), "not made where a link points either");
    cr_assert_eq(access(other, F_OK), -1);

    struct arena_options opt = {.reserve_bytes = MiB, .file = file, .trust_file = true};
    a = arena_create(&opt, &attached, why, sizeof(why));
    cr_assert_not_null(a, "%s", why);
    arena_destroy(a);
    cr_assert_eq(chmod(other, 0666), 0);
    a = arena_create(&opt, &attached, why, sizeof(why));
    cr_assert(a != NULL && attached, "%s", why);
    arena_destroy(a);
    unlink(other);
}

Test(arena_file, files_of_another_user_are_refused, .init = dir_make, .fini = dir_remove)
{
    bool attached;
    if (geteuid() != 0)
        cr_skip_test("only root can give files away");
    arena_destroy(arena_open(MiB, file, "", &attached));
    cr_assert_eq(chown(file, 4711, (gid_t)-1), 0);
    cr_assert_null(arena_open(MiB, file, "", &attached));
    cr_assert_eq(errno, EPERM);
    cr_assert_not_null(strstr(why, "it belongs to user 4711; -o trust_memory_file"), "%s", why);
}

Test(arena_file, a_file_without_bytes_starts_empty_and_says_so, .init = dir_make,
     .fini = dir_remove)
{
    bool attached;
    int fd = open(file, O_RDWR | O_CREAT | O_EXCL, 0600);
    cr_assert_geq(fd, 0);
    close(fd);
    struct arena *a = arena_open(MiB, file, "", &attached);
    cr_assert(a != NULL && !attached);
    cr_assert_not_null(strstr(why, "starts empty: it has no bytes"), "%s", why);
    arena_destroy(a);
}

struct note {
    uint64_t kept, lost, meta;
};

static void work_note(void)
{
    bool attached;
    struct arena *a = arena_open(64 * MiB, file, "geometry", &attached);
    if (a == NULL || attached)
        _exit(2);
    struct note *note = arena_root(a, ARENA_ROOT_CACHE);
    if (arena_alloc(a, ARENA_USE_SLAB, MiB, 64 * KiB, &note->lost, NULL) != 0 ||
        arena_alloc(a, ARENA_USE_INDEX, MiB, 64 * KiB, &note->kept, NULL) != 0)
        _exit(3);
    note->meta = arena_used_bytes(a, ARENA_USE_META);
    memset(arena_base(a) + note->lost, 1, MiB);
    memset(arena_base(a) + note->kept, 2, MiB);
}

static struct arena *attach_after_kill(void)
{
    in_killed_child(work_note);
    bool attached;
    struct arena *a = arena_open(64 * MiB, file, "geometry", &attached);
    cr_assert_not_null(a, "%s", why);
    cr_assert(attached, "%s", why);
    cr_assert_str_eq(why, "");
    return a;
}

/* A killed process leaves everything as it was. */
Test(arena_attach, content_survives_kill, .init = dir_make, .fini = dir_remove)
{
    struct arena *a = attach_after_kill();
    const struct note *note = arena_root(a, ARENA_ROOT_CACHE);
    for (uint64_t i = 0; i < MiB; i++)
        cr_assert_eq(arena_base(a)[note->kept + i], 2);
    cr_assert_eq(arena_used_bytes(a, ARENA_USE_META), note->meta);
    arena_destroy(a);
}

/* A range is claimed once; what was never in use can't be claimed. */
Test(arena_attach, claims_once, .init = dir_make, .fini = dir_remove)
{
    struct arena *a = attach_after_kill();
    const struct note *note = arena_root(a, ARENA_ROOT_CACHE);
    cr_assert_eq(arena_take(a, ARENA_USE_INDEX, note->kept + 4096, 4096), 0);
    cr_assert_eq(arena_take(a, ARENA_USE_INDEX, note->kept, MiB), -EBUSY);
    cr_assert_eq(arena_take(a, ARENA_USE_INDEX, note->kept, 4096), 0);
    cr_assert_eq(arena_take(a, ARENA_USE_INDEX, note->kept + 8192, MiB - 8192), 0);
    cr_assert_eq(arena_used_bytes(a, ARENA_USE_INDEX), MiB);
    cr_assert_eq(arena_take(a, ARENA_USE_INDEX, 32 * MiB, 4096), -EINVAL);
    cr_assert_eq(arena_take(a, ARENA_USE_INDEX, 0, 4096), -EINVAL);
    cr_assert_eq(arena_take(a, ARENA_USE_INDEX, 64 * MiB - 4096, 8192), -EINVAL);
    arena_destroy(a);
}

/* Before the attach is done, allocation avoids unclaimed memory. */
Test(arena_attach, allocation_keeps_clear_of_unclaimed, .init = dir_make, .fini = dir_remove)
{
    struct arena *a = attach_after_kill();
    const struct note *note = arena_root(a, ARENA_ROOT_CACHE);
    for (int i = 0; i < 40; i++) {
        uint64_t offset = must_alloc(a, MiB, 4096, NULL);
        memset(arena_base(a) + offset, 3, MiB);
    }
    cr_assert_eq(arena_base(a)[note->kept], 2);
    cr_assert_eq(arena_base(a)[note->lost + MiB - 1], 1);
    arena_destroy(a);
}

/* What nobody claimed is free after arena_attach_done, and only that. */
Test(arena_attach, unclaimed_is_freed, .init = dir_make, .fini = dir_remove)
{
    struct arena *a = attach_after_kill();
    const struct note *note = arena_root(a, ARENA_ROOT_CACHE);
    cr_assert_eq(arena_take(a, ARENA_USE_INDEX, note->kept, MiB), 0);
    cr_assert_eq(arena_attach_done(a), MiB);
    cr_assert_eq(arena_attach_done(a), 0);
    cr_assert_eq(must_alloc(a, MiB, 64 * KiB, NULL), note->lost);
    cr_assert_eq(must_alloc(a, 8 * MiB, 64 * KiB, NULL), note->kept + MiB);
    cr_assert_eq(arena_base(a)[note->kept], 2);
    extents_assert(arena_extents(a));
    arena_destroy(a);
}

/* What the dead process touched is not taken for zeroes by the next. */
Test(arena_attach, touched_is_remembered, .init = dir_make, .fini = dir_remove)
{
    struct arena *a = attach_after_kill();
    const struct note *note = arena_root(a, ARENA_ROOT_CACHE);
    uint64_t touched = arena_touched_bytes(a);
    cr_assert_eq(touched, note->meta + 2 * MiB);
    arena_attach_done(a);
    bool zeroed;
    cr_assert_eq(must_alloc(a, 4096, 64 * KiB, &zeroed), note->lost);
    cr_assert(!zeroed || arena_base(a)[note->lost] == 0);
    must_alloc(a, 8 * MiB, 4096, &zeroed);
    arena_destroy(a);
}

/* The file says that memory is zero that isn't. */
Test(arena_attach, zeroes_are_not_believed, .init = dir_make, .fini = dir_remove)
{
    in_killed_child(work_note);
    int fd = open(file, O_RDWR);
    static const char zeroes[64 * KiB];
    /* 64 MiB: 2 KiB of bits each. */
    cr_assert_eq(pwrite(fd, zeroes, 2 * KiB, (off_t)(ARENA_ROOT_BYTES + 4096)), 2 * (ssize_t)KiB);
    close(fd);
    bool attached, zeroed = true;
    struct arena *a = arena_open(64 * MiB, file, "geometry", &attached);
    cr_assert(a != NULL && attached, "%s", why);
    struct note *note = arena_root(a, ARENA_ROOT_CACHE);
    cr_assert_eq(arena_take(a, ARENA_USE_INDEX, note->kept, MiB), 0);
    arena_attach_done(a);
    uint64_t offset = must_alloc(a, MiB, 64 * KiB, &zeroed);
    cr_assert_eq(offset, note->lost);
    cr_assert(!zeroed);
    arena_destroy(a);
}

/* Opens with other settings after a kill; the reason must be in the line, the arena empty. */
static void must_start_empty(uint64_t reserve, const char *geometry, const char *reason)
{
    bool attached;
    struct arena *a = arena_open(reserve, file, geometry, &attached);
    cr_assert_not_null(a, "%s", why);
    cr_assert(!attached);
    cr_assert(strstr(why, reason) != NULL, "%s", why);
    cr_assert_eq(strchr(why, '\n'), NULL);
    cr_assert(all_zero(arena_root(a, ARENA_ROOT_CACHE), ARENA_ROOT_MODULE_BYTES));
    bool zeroed;
    uint64_t x = must_alloc(a, 4 * MiB, 4096, &zeroed);
    cr_assert(zeroed);
    cr_assert(all_zero(arena_base(a) + x, 4 * MiB));
    arena_destroy(a);
}

Test(arena_attach, other_geometry_starts_empty, .init = dir_make, .fini = dir_remove)
{
    in_killed_child(work_note);
    must_start_empty(64 * MiB, "geometrY", "it was made with other settings");
}

/* The format has a number of its own; the program's version is nowhere in the file. */
Test(arena_attach, another_format_starts_empty, .init = dir_make, .fini = dir_remove)
{
    in_killed_child(work_note);
    uint32_t format = 77;
    int fd = open(file, O_RDWR);
    cr_assert_eq(pwrite(fd, &format, sizeof(format), 8), (ssize_t)sizeof(format));
    close(fd);
    must_start_empty(64 * MiB, "geometry", "its format is not this build's");
}

Test(arena_attach, of_the_same_format_another_version_is_attached, .init = dir_make,
     .fini = dir_remove)
{
    char head[4096];
    in_killed_child(work_note);
    int fd = open(file, O_RDONLY);
    cr_assert_eq(pread(fd, head, sizeof(head), 0), (ssize_t)sizeof(head));
    close(fd);
    /* They depend on the format alone, so a later build finds the same. */
    uint64_t layout_id;
    memcpy(&layout_id, head + 16, sizeof(layout_id));
    cr_assert_eq(layout_id, LAYOUT_ID, "0x%" PRIx64, layout_id);
    cr_assert_null(memmem(head, sizeof(head), EXTANT_VERSION, strlen(EXTANT_VERSION)));
}

Test(arena_attach, other_size_starts_empty, .init = dir_make, .fini = dir_remove)
{
    in_killed_child(work_note);
    must_start_empty(32 * MiB, "geometry", "it was made for another -m");
}

Test(arena_attach, cut_file_starts_empty, .init = dir_make, .fini = dir_remove)
{
    in_killed_child(work_note);
    cr_assert_eq(truncate(file, 32 * MiB), 0);
    must_start_empty(64 * MiB, "geometry", "it was cut off");
}

static void write_file(const char *text, uint64_t bytes)
{
    FILE *f = fopen(file, "w");
    fputs(text, f);
    cr_assert_eq(fclose(f), 0);
    cr_assert_eq(truncate(file, (off_t)bytes), 0);
}

/* Its bytes stay, whatever they are, unless the operator allows overwriting them. */
Test(arena_attach, foreign_file_is_refused, .init = dir_make, .fini = dir_remove)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } files[] = {{"root:x:0:0:root:/root:/bin/bash\n", 32}, {"x", 1}, {"extArenb", 1 << 20}};
    struct arena_options opt = {
        .reserve_bytes = 64 * MiB, .file = file, .geometry = "geometry", .geometry_bytes = 8};
    for (size_t i = 0; i < ARRAY_COUNT(files); i++) {
        bool attached;
        char before[64] = "", after[64] = "", wanted[512];
        struct stat st;
        write_file(files[i].text, files[i].bytes);
        int fd = open(file, O_RDONLY);
        cr_assert_gt(pread(fd, before, sizeof(before), 0), 0);
        opt.overwrite = false;
        cr_assert_null(arena_create(&opt, &attached, why, sizeof(why)));
        cr_assert_eq(errno, EEXIST);
        snprintf(wanted, sizeof(wanted),
                 "memory file %s holds data that is not Extant's; -o ext_format=%s overwrites it, and "
                 "all that is in it is lost",
                 file, file);
        cr_assert_str_eq(why, wanted);
        cr_assert_gt(pread(fd, after, sizeof(after), 0), 0);
        cr_assert_eq(memcmp(before, after, sizeof(before)), 0);
        cr_assert(fstat(fd, &st) == 0 && (uint64_t)st.st_size == files[i].bytes);
        close(fd);
        opt.overwrite = true;
        struct arena *a = arena_create(&opt, &attached, why, sizeof(why));
        cr_assert(a != NULL && !attached && strstr(why, "it is not a memory file"), "%s", why);
        arena_destroy(a);
    }
}

Test(arena_attach, a_file_of_zeroes_starts_empty, .init = dir_make, .fini = dir_remove)
{
    write_file("", 1 << 20);
    must_start_empty(64 * MiB, "geometry", "it is not a memory file");
}

/* Flips a bit of the file at the first place where `what` stands. */
static void spoil(const char *what)
{
    char head[4096];
    int fd = open(file, O_RDWR);
    cr_assert_eq(pread(fd, head, sizeof(head), 0), (ssize_t)sizeof(head));
    char *at = memmem(head, sizeof(head), what, strlen(what));
    cr_assert_not_null(at);
    *at ^= 1;
    cr_assert_eq(pwrite(fd, head, sizeof(head), 0), (ssize_t)sizeof(head));
    close(fd);
}

Test(arena_attach, other_boot_starts_empty, .init = dir_make, .fini = dir_remove)
{
    char boot[64] = "";
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "r");
    cr_assert_not_null(f);
    cr_assert_not_null(fgets(boot, sizeof(boot), f));
    fclose(f);
    boot[strcspn(boot, "\n")] = '\0';
    in_killed_child(work_note);
    spoil(boot);
    must_start_empty(64 * MiB, "geometry", "rebooted");
}

/* As a service manager does that hides /proc/sys (ProcSubset=pid). */
static void hide_boot_id(void)
{
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("tmpfs", "/proc/sys", "tmpfs", 0, NULL) != 0) {
        dir_remove();
        cr_skip_test("no right to hide /proc/sys");
    }
    cr_assert(access("/proc/sys/kernel/random/boot_id", F_OK) != 0);
}

static void must_attach(void)
{
    bool attached;
    struct arena *a = arena_open(64 * MiB, file, "geometry", &attached);
    cr_assert(a != NULL && attached, "%s", why);
    arena_destroy(a);
}

/* A file on tmpfs can't be older than the boot. The three starts are: with the id, without, with it. */
Test(arena_attach, a_hidden_boot_id_keeps_what_is_on_tmpfs, .init = dir_make, .fini = dir_remove)
{
    if (access("/dev/shm", W_OK) != 0)
        cr_skip_test("no tmpfs");
    in_killed_child(work_note);
    hide_boot_id();
    must_attach();
    unlink(file);
    in_killed_child(work_note);
    must_attach();
    cr_assert_eq(umount("/proc/sys"), 0);
    must_attach();
}

Test(arena_attach, a_hidden_boot_id_empties_a_file_on_disk, .init = dir_make, .fini = dir_remove)
{
    snprintf(file, sizeof(file), "arena_test.%d", getpid());
    struct statfs fs;
    if (statfs(".", &fs) != 0 || fs.f_type == TMPFS_MAGIC) {
        snprintf(file, sizeof(file), "%s/memory", dir);
        cr_skip_test("not on a disk here");
    }
    in_killed_child(work_note);
    hide_boot_id();
    must_start_empty(64 * MiB, "geometry", "the machine may have been rebooted since");
    cr_assert_eq(umount("/proc/sys"), 0);
    must_start_empty(64 * MiB, "geometry", "the machine may have been rebooted since");
    unlink(file);
}

Test(arena_attach, discarded_starts_empty, .init = dir_make, .fini = dir_remove)
{
    struct arena *a = attach_after_kill();
    arena_discard(a);
    arena_destroy(a);
    must_start_empty(64 * MiB, "geometry", "given up on purpose");
}

/* ---- threads ---------------------------------------------------------------------------- */

static void *churn(void *arg)
{
    struct arena *a = arg;
    enum { SLOTS = 24 };
    uint64_t offset[SLOTS] = {0}, bytes[SLOTS] = {0};
    unsigned seed = (unsigned)(uintptr_t)&offset;
    for (int i = 0; i < 1500; i++) {
        int slot = (int)(rand_r(&seed) % SLOTS);
        char *p = arena_base(a) + offset[slot];
        if (bytes[slot] > 0) {
            char mark = (char)(offset[slot] >> 12 | 1);
            ASSERT(p[0] == mark && p[bytes[slot] / 2] == mark && p[bytes[slot] - 1] == mark);
            arena_free(a, ARENA_USE_BUFFER, offset[slot], bytes[slot]);
            bytes[slot] = 0;
            continue;
        }
        uint64_t want = (rand_r(&seed) % 8 == 0 ? 512 : 16) * KiB;
        want = (rand_r(&seed) % want + 4096) & ~(uint64_t)4095;
        uint64_t align = rand_r(&seed) % 2 ? 4096 : 64 * KiB;
        bool zeroed;
        if (arena_alloc(a, ARENA_USE_BUFFER, want, align, &offset[slot], &zeroed) != 0)
            continue;
        bytes[slot] = want;
        p = arena_base(a) + offset[slot];
        ASSERT(!zeroed || (p[0] == 0 && p[want / 2] == 0 && p[want - 1] == 0));
        char mark = (char)(offset[slot] >> 12 | 1);
        p[0] = p[want / 2] = p[want - 1] = mark;
    }
    for (int slot = 0; slot < SLOTS; slot++) {
        if (bytes[slot] > 0)
            arena_free(a, ARENA_USE_BUFFER, offset[slot], bytes[slot]);
    }
    return NULL;
}

/* Blocks of different threads never overlap, and a block said to be zeroed is zero. */
Test(arena, threads_never_overlap)
{
    struct arena *a = arena_anonymous(128 * MiB);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, churn, a), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    cr_assert_eq(arena_used_bytes(a, ARENA_USE_BUFFER), 0);
    cr_assert_leq(arena_touched_bytes(a), 8 * MiB);
    extents_assert(arena_extents(a));
    arena_destroy(a);
}
