/* fuzz_corpus_test.c: runs each fuzz target over t/fuzz/corpus/: inputs that lead far into the
 * code, and each that once found a bug (named after it). Needs neither clang nor libFuzzer. */
#include <criterion/criterion.h>
#include <dirent.h>

#include "t/fuzz/fuzz.h"

enum { INPUT_MAX = 64 * 1024 };

static void run_file(const char *path, int (*target)(const uint8_t *data, size_t size))
{
    static uint8_t buf[INPUT_MAX];
    FILE *f = fopen(path, "rb");
    cr_assert_not_null(f, "%s: %s", path, strerror(errno));
    size_t size = fread(buf, 1, sizeof(buf), f);
    fclose(f);
    uint8_t *data = (uint8_t *)fuzz_copy(buf, size);
    target(data, size);
    free(data);
}

/* The directory's files; the current directory is the repository's top. */
static void run_kept(const char *name, int (*target)(const uint8_t *data, size_t size))
{
    char dir[128], path[512];
    unsigned count = 0;
    snprintf(dir, sizeof(dir), "t/fuzz/corpus/%s", name);
    DIR *d = opendir(dir);
    cr_assert_not_null(d, "%s: %s", dir, strerror(errno));
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
        fprintf(stderr, "%s\n", path); /* after a crash, the last one shown is the cause */
        run_file(path, target);
        count++;
    }
    closedir(d);
    cr_assert_gt(count, 0u);
    target((const uint8_t *)"", 0);
}

TestSuite(corpus, .timeout = 600);

Test(corpus, request_lines) { run_kept("proto", fuzz_proto); }
Test(corpus, packets) { run_kept("bin", fuzz_bin); }
Test(corpus, meta_flags) { run_kept("meta", fuzz_meta); }
Test(corpus, records_and_tables) { run_kept("record", fuzz_record); }
Test(corpus, memory_and_flash_files) { run_kept("attach", fuzz_attach); }
Test(corpus, tables_and_records_on_flash) { run_kept("flash", fuzz_flash); }
Test(corpus, command_lines) { run_kept("settings", fuzz_settings); }
Test(corpus, files_of_users) { run_kept("auth", fuzz_auth); }
