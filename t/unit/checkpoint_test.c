/* checkpoint_test.c: a checkpoint gives back what was put in, and notices torn, flipped,
 * swapped or foreign blocks. run under TSan for the thread that reads ahead. */
#include "base/checkpoint.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "t/aid/files.h"

static char dir[64], check_file[112];

static void dir_make(void)
{
    const char *base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(dir, sizeof(dir), "%s/checkpoint_test.XXXXXX", base);
    cr_assert_not_null(mkdtemp(dir));
    snprintf(check_file, sizeof(check_file), "%s/checkpoint", dir);
}

static void dir_remove(void)
{
    unlink(check_file);
    rmdir(dir);
}

/* ---- the file by itself ---- */

TestSuite(checkpoint, .init = dir_make, .fini = dir_remove, .timeout = 600);

static char content_at(size_t i) { return (char)(i * 31 + (i >> 11)); }

static struct checkpoint_head some_head(enum checkpoint_state state)
{
    return (struct checkpoint_head){
        .state = state, .device_count = 1, .generation = 7, .hash_seed = 42};
}

static void write_file(size_t bytes, enum checkpoint_state state)
{
    struct checkpoint_writer *w;
    struct checkpoint_head head = some_head(state);
    char *content = malloc(bytes + 1);
    for (size_t i = 0; i < bytes; i++)
        content[i] = content_at(i);
    cr_assert_eq(checkpoint_create(check_file, &w), 0);
    for (size_t at = 0, piece = 1; at < bytes; at += piece, piece = piece * 3 % 70001 + 1) {
        if (piece > bytes - at)
            piece = bytes - at;
        cr_assert_eq(checkpoint_put(w, content + at, piece), 0);
    }
    cr_assert_eq(checkpoint_commit(w, &head), 0);
    free(content);
}

/* 0 if the file holds exactly this many bytes of content. */
static int read_file(size_t bytes)
{
    struct checkpoint_head head;
    struct checkpoint_reader *r = NULL;
    char fault[CHECKPOINT_WHY_BYTES], piece[4096];
    int rc = checkpoint_read_head(check_file, &head, fault);
    if (rc != 0)
        return rc;
    cr_assert_eq(checkpoint_open(check_file, &head, &r), 0);
    for (size_t at = 0; rc == 0 && at < bytes; at += sizeof(piece)) {
        size_t want = min_u64(sizeof(piece), bytes - at);
        rc = checkpoint_get(r, piece, want);
        for (size_t i = 0; rc == 0 && i < want; i++)
            cr_assert_eq(piece[i], content_at(at + i), "byte %zu", at + i);
    }
    int end = checkpoint_close(r);
    return rc != 0 ? rc : end;
}

Test(checkpoint, what_was_put_comes_out)
{
    const size_t sizes[] = {0,
                            1,
                            CHECKPOINT_BLOCK_BYTES - 1,
                            CHECKPOINT_BLOCK_BYTES,
                            CHECKPOINT_BLOCK_BYTES + 1,
                            3 * CHECKPOINT_BLOCK_BYTES + 12345};
    for (size_t i = 0; i < ARRAY_COUNT(sizes); i++) {
        write_file(sizes[i], CHECKPOINT_CLEAN);
        cr_assert_eq(read_file(sizes[i]), 0, "%zu bytes", sizes[i]);
    }
}

Test(checkpoint, the_head_comes_back_as_it_was)
{
    write_file(100, CHECKPOINT_CLEAN);
    struct checkpoint_head head;
    char fault[CHECKPOINT_WHY_BYTES];
    cr_assert_eq(checkpoint_read_head(check_file, &head, fault), 0);
    cr_assert_eq(head.generation, 7);
    cr_assert_eq(head.hash_seed, 42);
    cr_assert_eq(head.body_bytes, 100);
    cr_assert_str_eq(head.version, EXTANT_VERSION);
}

Test(checkpoint, taking_less_than_all_is_an_error)
{
    write_file(5000, CHECKPOINT_CLEAN);
    cr_assert_eq(read_file(4999), -EBADMSG);
}

Test(checkpoint, taking_more_than_all_is_an_error)
{
    write_file(5000, CHECKPOINT_CLEAN);
    cr_assert_eq(read_file(5001), -EBADMSG);
}

Test(checkpoint, any_flipped_byte_is_noticed)
{
    size_t bytes = 1500;
    write_file(bytes, CHECKPOINT_CLEAN);
    for (off_t at = 0; at < file_size(check_file); at++) {
        flip(check_file, at);
        cr_assert_neq(read_file(bytes), 0, "byte %ld", (long)at);
        flip(check_file, at);
    }
    cr_assert_eq(read_file(bytes), 0);
}

Test(checkpoint, any_other_length_is_noticed)
{
    size_t bytes = 6000, all_bytes;
    write_file(bytes, CHECKPOINT_CLEAN);
    char *all = slurp(check_file, &all_bytes);
    for (size_t cut = 0; cut < all_bytes; cut += 7) {
        spill(check_file, all, cut);
        cr_assert_neq(read_file(bytes), 0, "%zu bytes", cut);
    }
    spill(check_file, all, all_bytes + 1);
    cr_assert_neq(read_file(bytes), 0);
    free(all);
}

Test(checkpoint, blocks_of_another_file_do_not_verify)
{
    size_t bytes = CHECKPOINT_BLOCK_BYTES + 100, a_bytes, b_bytes;
    write_file(bytes, CHECKPOINT_CLEAN);
    char *a = slurp(check_file, &a_bytes);
    write_file(bytes, CHECKPOINT_CLEAN);
    char *b = slurp(check_file, &b_bytes);
    memcpy(b + CHECKPOINT_HEAD_BYTES, a + CHECKPOINT_HEAD_BYTES, a_bytes - CHECKPOINT_HEAD_BYTES);
    spill(check_file, b, b_bytes);
    cr_assert_eq(read_file(bytes), -EBADMSG);
    free(a);
    free(b);
}

Test(checkpoint, blocks_in_another_order_do_not_verify)
{
    size_t bytes = 2 * CHECKPOINT_BLOCK_BYTES, all_bytes, block = CHECKPOINT_BLOCK_BYTES + 16;
    write_file(bytes, CHECKPOINT_CLEAN);
    char *all = slurp(check_file, &all_bytes), *other = malloc(all_bytes);
    memcpy(other, all, CHECKPOINT_HEAD_BYTES);
    memcpy(other + CHECKPOINT_HEAD_BYTES, all + CHECKPOINT_HEAD_BYTES + block, block);
    memcpy(other + CHECKPOINT_HEAD_BYTES + block, all + CHECKPOINT_HEAD_BYTES, block);
    spill(check_file, other, all_bytes);
    cr_assert_eq(read_file(bytes), -EBADMSG);
    free(all);
    free(other);
}

Test(checkpoint, an_aborted_write_leaves_the_old_file)
{
    struct checkpoint_writer *w;
    char path[160];
    write_file(1000, CHECKPOINT_CLEAN);
    cr_assert_eq(checkpoint_create(check_file, &w), 0);
    cr_assert_eq(checkpoint_put(w, "new", 3), 0);
    checkpoint_abort(w);
    cr_assert_eq(read_file(1000), 0);
    snprintf(path, sizeof(path), "%s.new", check_file);
    cr_assert_eq(file_size(path), -1);
}

Test(checkpoint, a_full_disk_leaves_the_old_file)
{
    struct checkpoint_writer *w;
    struct checkpoint_head head = some_head(CHECKPOINT_CLEAN);
    static char much[CHECKPOINT_BLOCK_BYTES];
    write_file(1000, CHECKPOINT_CLEAN);
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit = {.rlim_cur = 100000, .rlim_max = RLIM_INFINITY};
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    cr_assert_eq(checkpoint_create(check_file, &w), 0);
    cr_assert_neq(checkpoint_put(w, much, sizeof(much)), 0);
    cr_assert_neq(checkpoint_commit(w, &head), 0);
    limit.rlim_cur = RLIM_INFINITY;
    setrlimit(RLIMIT_FSIZE, &limit);
    cr_assert_eq(read_file(1000), 0);
}

Test(checkpoint, a_file_that_was_replaced_meanwhile_is_not_read)
{
    struct checkpoint_head head;
    struct checkpoint_reader *r;
    char fault[CHECKPOINT_WHY_BYTES];
    write_file(1000, CHECKPOINT_CLEAN);
    cr_assert_eq(checkpoint_read_head(check_file, &head, fault), 0);
    write_file(1000, CHECKPOINT_CLEAN);
    cr_assert_eq(checkpoint_open(check_file, &head, &r), -ESTALE);
}

Test(checkpoint, only_ours_is_removed)
{
    write_file(10, CHECKPOINT_RUNNING);
    cr_assert_eq(checkpoint_remove(check_file), 0);
    cr_assert_eq(file_size(check_file), -1);
    static char foreign[8192] = "a file of somebody else";
    spill(check_file, foreign, sizeof(foreign));
    cr_assert_eq(checkpoint_remove(check_file), 0);
    cr_assert_eq(file_size(check_file), sizeof(foreign));
}

/* An existing file of the new file's name is replaced, never written to or followed. */
Test(checkpoint, a_link_at_the_new_files_name_is_not_followed)
{
    static const char text[] = "precious";
    char new_path[160], victim[160], found[sizeof(text)] = "";
    snprintf(new_path, sizeof(new_path), "%s.new", check_file);
    snprintf(victim, sizeof(victim), "%s.victim", check_file);
    spill(victim, text, sizeof(text));
    cr_assert_eq(symlink(victim, new_path), 0);
    write_file(1000, CHECKPOINT_CLEAN);
    cr_assert_eq(read_file(1000), 0);
    cr_assert_eq(file_size(new_path), -1);

    cr_assert_eq(link(victim, new_path), 0);
    write_file(2000, CHECKPOINT_CLEAN);
    cr_assert_eq(read_file(2000), 0);
    int fd = open(victim, O_RDONLY);
    cr_assert_eq(read(fd, found, sizeof(found)), (ssize_t)sizeof(text));
    close(fd);
    cr_assert_str_eq(found, text);
    unlink(victim);
}

Test(checkpoint, a_link_of_its_name_is_no_file)
{
    struct checkpoint_head head;
    char fault[CHECKPOINT_WHY_BYTES], elsewhere[160];
    write_file(1000, CHECKPOINT_CLEAN);
    snprintf(elsewhere, sizeof(elsewhere), "%s.elsewhere", check_file);
    cr_assert_eq(rename(check_file, elsewhere), 0);
    cr_assert_eq(symlink(elsewhere, check_file), 0);
    cr_assert_eq(checkpoint_read_head(check_file, &head, fault), -ELOOP);
    cr_assert_eq(checkpoint_remove(check_file), 0);
    cr_assert_gt(file_size(elsewhere), 0, "it is not ours to remove");
    unlink(elsewhere);
}

Test(checkpoint, a_pipe_of_its_name_is_no_file)
{
    struct checkpoint_head head;
    char fault[CHECKPOINT_WHY_BYTES];
    cr_assert_eq(mkfifo(check_file, 0600), 0);
    cr_assert_eq(checkpoint_read_head(check_file, &head, fault), -EINVAL);
}
