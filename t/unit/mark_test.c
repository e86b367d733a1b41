/* mark_test.c: the first block of a flash file tells whose it is; other programs' data is found and named before
 * a byte of it is changed. */
#include "base/hash.h"
#include "flash/mark.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "flash/device.h"
#include "flash/record.h"

enum { PAGE_BYTES = 2 * 1024 * 1024, PAGES = 4 };

static char dir[64], file[96], why[400];

static void make_dir(void)
{
    strcpy(dir, "/tmp/mark_test.XXXXXX");
    cr_assert_not_null(mkdtemp(dir));
    snprintf(file, sizeof(file), "%s/flash", dir);
}

static void remove_dir(void)
{
    unlink(file);
    rmdir(dir);
}

TestSuite(mark, .init = make_dir, .fini = remove_dir, .timeout = 600);

static void put(off_t at, const void *bytes, size_t count)
{
    int fd = open(file, O_RDWR | O_CREAT, 0600);
    cr_assert_geq(fd, 0);
    cr_assert_eq(pwrite(fd, bytes, count, at), (ssize_t)count);
    close(fd);
}

static struct ext_mark_found look(void)
{
    struct ext_mark_found found;
    int fd = open(file, O_RDWR);
    cr_assert_geq(fd, 0);
    cr_assert_eq(ext_mark_look(fd, &found), 0);
    close(fd);
    return found;
}

static int device_open(struct ext_device *d, bool format)
{
    struct ext_device_options opt = {
        .path = file, .bytes = (uint64_t)PAGES * PAGE_BYTES, .format = format};
    why[0] = '\0';
    return ext_device_open(d, &opt, PAGE_BYTES, NULL, why, sizeof(why));
}

static void assert_free(const char *what)
{
    struct ext_mark_found found = look();
    cr_assert(!found.ours && found.stamp == 0 && found.what[0] == '\0', "%s: %s", what, found.what);
}

Test(mark, an_empty_file_is_nobodys)
{
    put(0, "", 0);
    assert_free("no bytes");
    cr_assert_eq(truncate(file, 100 * MiB), 0);
    assert_free("a hole");
    static char zeroes[3 * MiB];
    put(0, zeroes, sizeof(zeroes));
    assert_free("zeroes");
}

Test(mark, a_mark_is_found_with_its_stamp)
{
    uint64_t stamp = hash_draw();
    cr_assert_neq(stamp, 0);
    put(0, "", 0);
    int fd = open(file, O_RDWR);
    cr_assert_eq(ext_mark_write(fd, stamp), 0);
    close(fd);
    cr_assert(look().ours);
    cr_assert_eq(look().stamp, stamp);
    cr_assert_str_eq(look().what, "");
}

Test(mark, of_a_damaged_mark_only_the_stamp_is_lost)
{
    char block[EXT_MARK_BYTES];
    for (unsigned at = 8; at < EXT_MARK_BYTES; at += 61) {
        ext_mark_fill(block, 4711);
        block[at] ^= 1;
        put(0, block, sizeof(block));
        cr_assert(look().ours, "byte %u", at);
        cr_assert_eq(look().stamp, 0, "byte %u", at);
    }
}

/* Builds before the mark left pages: their slots' trailers tell. */
Test(mark, pages_without_a_mark_are_ours)
{
    struct ext_trailer t = {.magic = EXT_TRAILER_MAGIC, .version = 7, .count = 1};
    put(0, "a record", 8);
    put(4 * MiB - (off_t)sizeof(t), &t, sizeof(t));
    struct ext_device d;
    cr_assert_eq(device_open(&d, false), 0, "%s", why);
    cr_assert_eq(d.stamp, 0);
    ext_device_close(&d);
}

Test(mark, a_foreign_file_is_refused_and_unchanged)
{
    struct ext_device d;
    struct stat st;
    char bytes[6] = "";
    put(500000, "hello", 5);
    cr_assert_eq(device_open(&d, false), -EEXIST);
    char expected[400];
    snprintf(expected, sizeof(expected),
             "%s holds data that is not Extant's; -o ext_format=%s overwrites it, and all that "
             "is on it is lost",
             file, file);
    cr_assert_str_eq(why, expected);
    cr_assert_eq(stat(file, &st), 0);
    cr_assert_eq(st.st_size, 500005, "not even its size has changed");
    int fd = open(file, O_RDONLY);
    cr_assert_eq(pread(fd, bytes, 5, 500000), 5);
    cr_assert_str_eq(bytes, "hello");
    close(fd);
}

Test(mark, a_signature_is_named)
{
    static const char luks[8] = {'L', 'U', 'K', 'S', (char)0xba, (char)0xbe, 0, 1};
    static const unsigned char boot[] = {0x55, 0xaa}, entry[] = {0x80, 1,    1, 0, 0x83, 1, 1, 0,
                                                                 63,   0,    0, 0, 0,    8, 0, 0};
    struct ext_device d;
    put(0, luks, sizeof(luks));
    cr_assert_eq(truncate(file, 16 * MiB), 0);
    cr_assert_eq(device_open(&d, false), -EEXIST);
    cr_assert_not_null(strstr(why, " holds crypto_LUKS (crypto);"), "%s", why);
    unlink(file);

    put(446, entry, sizeof(entry));
    put(510, boot, sizeof(boot));
    cr_assert_eq(truncate(file, 16 * MiB), 0);
    cr_assert_eq(device_open(&d, false), -EEXIST);
    cr_assert_not_null(strstr(why, " holds a partition table (dos);"), "%s", why);
}

/* Once is enough: then the file is ours. */
Test(mark, what_is_formatted_is_nobodys_and_then_ours)
{
    static const char luks[8] = {'L', 'U', 'K', 'S', (char)0xba, (char)0xbe, 0, 1};
    struct ext_device d;
    put(0, luks, sizeof(luks));
    put(MiB / 2, "more", 4);
    cr_assert_eq(device_open(&d, true), 0, "%s", why);
    cr_assert_eq(d.stamp, 0);
    cr_assert_eq(ext_mark_write(d.fd, 4711), 0);
    ext_device_close(&d);
    for (unsigned format = 0; format < 2; format++) {
        cr_assert_eq(device_open(&d, format), 0, "%s", why);
        cr_assert_eq(d.stamp, 4711);
        ext_device_close(&d);
    }
}

Test(mark, a_new_file_is_for_its_owner_only)
{
    struct ext_device d;
    struct stat st;
    mode_t old = umask(0);
    cr_assert_eq(device_open(&d, false), 0, "%s", why);
    umask(old);
    cr_assert_eq(stat(file, &st), 0);
    cr_assert_eq(st.st_mode & 07777, 0600);
    ext_device_close(&d);
}
