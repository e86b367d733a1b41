/* fuzz_flash.c: flash files with right checksums and wrong fields, as no build wrote them: trailers, tables and
 * headers of records, forged records and copied slots.
 *
 *   check     `--check` ends with one of its exit codes
 *   scan      a start with ext_persist=scan serves; a get brings its own key's value or none; what is stored
 *             afterwards survives the next scan, so no number on flash outranks it
 *   serving   the same changes under a process that has its index already
 *
 * The input is a list of changes of 12 bytes. Before each start, checkpoint and files are as a small cache left them
 * when it was killed: two files, overwritten values, large ones, an older life of a page. As in fuzz_attach.c, nothing but the
 * input decides what happens.
 */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc.h"
#include "base/file.h"
#include "flash/engine.h"
#include "flash/mark.h"
#include "flash/wbuf.h"
#include "restart/check.h"
#include "restart/restart.h"
#include "t/aid/life.h"
#include "t/aid/stepped.h"
#include "t/fuzz/fuzz.h"

enum {
    FILES = 2,
    FILE_BYTES = 8 * 1024 * 1024,
    PAGE_BYTES = 1024 * 1024,
    SLOT_BYTES = 512 * 1024,
    SLOTS_PER_PAGE = PAGE_BYTES / SLOT_BYTES,
    FILE_SLOTS = FILE_BYTES / SLOT_BYTES,
    SLOTS = FILES * FILE_SLOTS,
    ENTRIES_MAX = 256, /* of a slot that are mended */
    KEYS = 40,
    LARGE_KEYS = 12,
    LARGE_BYTES = 200 * 1024,
    CHANGES_MAX = 24,
    CHANGE_BYTES = 12,
    MAINT_STEPS = 120,
    CHECKPOINT_MAX = 64 * 1024,
};

static char dir[64], path[FILES][96], checkpoint_path[128], why[RESTART_LINE_BYTES];
static int fd[FILES];
static char *left[FILES];                 /* the files as the killed process left them */
static char *now[FILES];                  /* with the changes */
static bool is_changed[SLOTS];
static char checkpoint[CHECKPOINT_MAX];
static size_t checkpoint_bytes;
static FILE *nowhere;

/* ---- lives ---- */

static void life_open(struct life *l)
{
    char words[600];
    snprintf(words, sizeof(words),
             "-m 16 -I 512k -o ext_path=%s:8m,ext_path=%s:8m,ext_page_size=1,ext_wbuf_size=512k,ext_buffer_mem=8,"
             "ext_threads=1,ext_io_engine=threads,ext_ttl_groups=0,ext_persist=scan",
             path[0], path[1]);
    clock_setup();
    life_parse_words(l, words);
    int rc = life_begin(l, 1, &stepped_ops, why, sizeof(why));
    if (rc != 0)
        fprintf(stderr, "no start: %s\n", why);
    ASSERT(rc == 0);
    l->f.idle = stepped_idle;
    life_add_worker(l);
}

static void life_end(struct life *l)
{
    cache_worker_destroy(l->f.worker);
    restart_close(&l->r, false);
    settings_free(&l->f.settings);
}

/* All keys have one length and end alike, so a key that is cut or longer is none of them. */
static void put_key(char *key, unsigned n) { snprintf(key, 64, "key-%03u-of-the-fuzzer", n); }

static size_t put_value(char *value, unsigned n, unsigned turn)
{
    size_t bytes = n >= KEYS ? LARGE_BYTES : 40 + n * 11;
    memset(value, 0, bytes);
    put_key(value, n);
    snprintf(value + strlen(value), 16, "=%u", turn);
    return bytes;
}

static void store(struct life *l, unsigned n, unsigned turn)
{
    static char value[LARGE_BYTES];
    char key[64];
    put_key(key, n);
    uint32_t exptime = n % 5 == 0 ? clock_now_sec() + 100000 : 0;
    enum cache_status s =
        fixture_store(&l->f, CACHE_SET, key, value, put_value(value, n, turn), n % 2 ? n : 0, exptime, 0);
    ASSERT(s == CACHE_OK || s == CACHE_NO_MEMORY);
}

/* All of RAM goes to flash, and is written there. */
static void all_to_disk(struct life *l)
{
    fixture_flush(&l->f);
    for (unsigned i = 0; i < EXT_STREAM_COUNT; i++)
        ext_wbuf_close_open(l->f.ext, i);
    while (atomic_load(&l->f.ext->flushing_wbufs) > 0)
        stepped_idle(&l->f);
}

/* ---- files ---- */

static void put_files(char *const *from)
{
    for (unsigned i = 0; i < FILES; i++)
        ASSERT(pwrite(fd[i], from[i], FILE_BYTES, 0) == FILE_BYTES);
    int c = open(checkpoint_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ASSERT(c >= 0 && write(c, checkpoint, checkpoint_bytes) == (ssize_t)checkpoint_bytes);
    close(c);
}

static void take_files(void)
{
    int c = open(checkpoint_path, O_RDONLY | O_CLOEXEC);
    ssize_t n = read(c, checkpoint, sizeof(checkpoint));
    ASSERT(c >= 0 && n > 0 && n < (ssize_t)sizeof(checkpoint));
    close(c);
    checkpoint_bytes = (size_t)n;
    for (unsigned i = 0; i < FILES; i++) {
        left[i] = malloc(FILE_BYTES);
        now[i] = malloc(FILE_BYTES);
        ASSERT(left[i] && now[i] && pread(fd[i], left[i], FILE_BYTES, 0) == FILE_BYTES);
    }
}

static void remove_files(void)
{
    for (unsigned i = 0; i < FILES; i++)
        unlink(path[i]);
    unlink(checkpoint_path);
    rmdir(dir);
}

static void prepare(void)
{
    struct life l;
    stepped_begin(NULL, 0);
    nowhere = fopen("/dev/null", "w");
    snprintf(dir, sizeof(dir), "%s/fuzz_flash.XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    ASSERT(nowhere && mkdtemp(dir));
    atexit(remove_files);
    for (unsigned i = 0; i < FILES; i++)
        snprintf(path[i], sizeof(path[i]), "%s/flash%u", dir, i);
    snprintf(checkpoint_path, sizeof(checkpoint_path), "%s.checkpoint", path[0]);
    life_open(&l);
    for (unsigned turn = 0; turn < 3; turn++) {
        for (unsigned n = turn; n < KEYS + LARGE_KEYS; n += turn + 1)
            store(&l, n, turn);
        all_to_disk(&l);
    }
    life_end(&l);
    for (unsigned i = 0; i < FILES; i++)
        ASSERT((fd[i] = open(path[i], O_RDWR | O_CLOEXEC)) >= 0);
    take_files();
}

/* ---- changes ---- */

static char *slot_of(char *const *files, unsigned slot)
{
    return files[slot / FILE_SLOTS] + (size_t)(slot % FILE_SLOTS) * SLOT_BYTES;
}

static bool is_written(unsigned slot)
{
    struct ext_trailer t;
    memcpy(&t, slot_of(left, slot) + SLOT_BYTES - sizeof(t), sizeof(t));
    return t.magic == EXT_TRAILER_MAGIC && t.count > 0;
}

static unsigned written_slot(unsigned n)
{
    unsigned slot = n % SLOTS;
    for (unsigned i = 0; i < SLOTS && !is_written(slot); i++)
        slot = (slot + 1) % SLOTS;
    ASSERT(is_written(slot));
    return slot;
}

/* A value for a field that is `was` now. */
static uint64_t value_from(unsigned how, uint64_t was, uint64_t value)
{
    switch (how % 8) {
    case 0:
        return value;
    case 1:
        return was + value;
    case 2:
        return was - value;
    case 3:
        return UINT64_MAX - value % 4;
    case 4:
        return value % 4;
    case 5:
        return was ^ UINT64_C(1) << value % 64;
    case 6:
        return (uint32_t)INT32_MAX + value % 4;
    default:
        return was << (value % 32);
    }
}

static void set_field(char *at, size_t bytes, unsigned how, uint64_t value)
{
    uint64_t was = 0;
    memcpy(&was, at, bytes);
    was = value_from(how, was, value);
    memcpy(at, &was, bytes);
}

struct field {
    uint8_t at, bytes;
};

static void change(struct fuzz_input *in)
{
    static const struct field trailer_fields[] = {{4, 4}, {8, 4}, {12, 4}, {16, 8}, {24, 4}, {28, 4}};
    static const struct field entry_fields[] = {{0, 8}, {8, 4}, {12, 4}, {8, 8}};
    static const struct field head_fields[] = {{4, 4},  {8, 4},  {12, 4}, {16, 8}, {24, 8},
                                               {32, 4}, {36, 1}, {37, 1}, {38, 2}};
    unsigned what = (unsigned)fuzz_number(in, 1), slot = written_slot((unsigned)fuzz_number(in, 1));
    unsigned which = (unsigned)fuzz_number(in, 1), field = (unsigned)fuzz_number(in, 1), how = (unsigned)fuzz_number(in, 1);
    uint64_t value = fuzz_number(in, 7);
    char *image = slot_of(now, slot), *end = image + SLOT_BYTES;
    struct ext_trailer was;
    memcpy(&was, slot_of(left, slot) + SLOT_BYTES - sizeof(was), sizeof(was));
    struct ext_entry *entry = ext_entry_at(end, which % was.count);
    struct ext_entry old = *ext_entry_at(slot_of(left, slot) + SLOT_BYTES, which % was.count);
    const struct field *f;
    is_changed[slot] = true;
    switch (what % 8) {
    case 0:
    case 1:
        f = &trailer_fields[field % ARRAY_COUNT(trailer_fields)];
        set_field(end - sizeof(was) + f->at, f->bytes, how, value);
        return;
    case 2:
    case 3:
        f = &entry_fields[field % ARRAY_COUNT(entry_fields)];
        set_field((char *)entry + f->at, f->bytes, how, value);
        return;
    case 4: /* a copy of another entry */
        *entry = *ext_entry_at(end, field % was.count);
        return;
    case 5: /* another slot's bytes */
        memcpy(image, slot_of(now, written_slot(which)), SLOT_BYTES);
        return;
    case 6: /* a record where none stood, with its entry */
        old.granule = (uint32_t)(value % (SLOT_BYTES / EXT_GRANULE_BYTES - sizeof(struct ext_record_head) / EXT_GRANULE_BYTES - 1));
        memset(image + (size_t)old.granule * EXT_GRANULE_BYTES, (int)field, sizeof(struct ext_record_head));
        set_field(image + (size_t)old.granule * EXT_GRANULE_BYTES + 38, 2, 0, EXT_RECORD_FORMAT);
        set_field(image + (size_t)old.granule * EXT_GRANULE_BYTES + 4, 4, 0, how * 257);
        entry->granule = old.granule;
        entry->record_bytes = (uint32_t)ext_record_bytes((uint8_t)field, how * 257);
        return;
    default:
        f = &head_fields[field % ARRAY_COUNT(head_fields)];
        set_field(image + (size_t)old.granule * EXT_GRANULE_BYTES + f->at, f->bytes, how, value);
        if (which & 0x80) { /* the table agrees */
            struct ext_record_head head;
            memcpy(&head, image + (size_t)old.granule * EXT_GRANULE_BYTES, sizeof(head));
            entry->record_bytes = (uint32_t)ext_record_bytes(head.key_bytes, head.value_bytes);
        }
        return;
    }
}

static void mend_record(char *image, uint64_t offset, uint32_t version, uint64_t place)
{
    struct ext_record_head head;
    if (offset + sizeof(head) > SLOT_BYTES)
        return;
    memcpy(&head, image + offset, sizeof(head));
    uint64_t used = sizeof(head) + head.key_bytes + (uint64_t)head.value_bytes;
    if (offset + used > SLOT_BYTES)
        return;
    uint32_t crc = crc32c(stepped_crc_of_place(version, place), image + offset + sizeof(crc), used - sizeof(crc));
    memcpy(image + offset, &crc, sizeof(crc));
}

/* Makes the checksums right for the slot that its trailer says it is. */
static void mend_slot(unsigned slot)
{
    char *image = slot_of(now, slot), *end = image + SLOT_BYTES;
    struct ext_trailer t;
    memcpy(&t, end - sizeof(t), sizeof(t));
    uint64_t places = SLOT_BYTES / EXT_GRANULE_BYTES, table = (uint64_t)t.count * sizeof(struct ext_entry);
    for (uint32_t i = 0; i < t.count && i < ENTRIES_MAX; i++) {
        struct ext_entry entry = *ext_entry_at(end, i);
        mend_record(image, (uint64_t)entry.granule * EXT_GRANULE_BYTES, t.version, t.slot * places + entry.granule);
    }
    if (table + sizeof(t) > SLOT_BYTES)
        return;
    uint32_t crc = crc32c(stepped_crc_of_place(t.version, t.slot), end - sizeof(t) - table, table);
    t.crc = crc32c(crc, (char *)&t + sizeof(t.crc), sizeof(t) - sizeof(t.crc));
    memcpy(end - sizeof(t), &t, sizeof(t));
}

static void change_all(struct fuzz_input *in)
{
    memset(is_changed, 0, sizeof(is_changed));
    for (unsigned i = 0; i < FILES; i++)
        memcpy(now[i], left[i], FILE_BYTES);
    for (unsigned i = 0; in->size >= CHANGE_BYTES && i < CHANGES_MAX; i++)
        change(in);
    for (unsigned slot = 0; slot < SLOTS; slot++) {
        if (is_changed[slot])
            mend_slot(slot);
    }
    for (unsigned i = 0; i < FILES; i++) /* whose files they are is not the question here */
        memcpy(now[i], left[i], EXT_MARK_BYTES);
}

/* ---- what has to work ---- */

/* Does the value begin as another key's values do? (A forged record may stand in the middle of a value, and change it.) */
static bool is_of_other_key(const char *value, uint64_t bytes, const char *key)
{
    const size_t number = strlen("key-"), rest = strlen("key-000");
    return bytes >= strlen(key) && memcmp(value, key, number) == 0 && memcmp(value + rest, key + rest, strlen(key) - rest) == 0 &&
           memcmp(value, key, rest) != 0;
}

/* How many keys have a value; none is another key's. */
static unsigned read_keys(struct life *l)
{
    static char value[FILE_BYTES];
    struct cache_view view;
    char key[64];
    unsigned hits = 0;
    for (unsigned n = 0; n < KEYS + LARGE_KEYS; n++) {
        put_key(key, n);
        if (fixture_get(&l->f, key, value, sizeof(value), &view) != CACHE_OK)
            continue;
        hits++;
        ASSERT(!is_of_other_key(value, view.value_bytes, key));
    }
    return hits;
}

static void use(struct life *l)
{
    struct ext_info info;
    char key[64];
    read_keys(l);
    for (unsigned n = 0; n < KEYS + LARGE_KEYS; n++) {
        put_key(key, n);
        if (n % 7 == 0)
            fixture_touch(&l->f, key, clock_now_sec() + 50000);
        if (n % 7 == 1)
            fixture_delete(&l->f, key);
        if (n % 7 == 2)
            fixture_store(&l->f, CACHE_APPEND, key, "more", 4, 0, 0, 0);
        if (n % 7 == 3)
            store(l, n, 9);
    }
    for (unsigned i = 0; i < MAINT_STEPS; i++) {
        ext_maint_step(l->f.ext, (uint32_t)clock_unix_now_sec());
        fixture_turn(&l->f);
    }
    for (unsigned n = 100; n < 150; n++) { /* more than flash has room for: pages are read and given up */
        store(l, n, 0);
        if (n % 2 == 0)
            all_to_disk(l);
    }
    fixture_settle(&l->f);
    ext_info(l->f.ext, &info);
    ASSERT(ext_reconcile(l->f.ext) == 0);
    read_keys(l);
}

/* Values stored after the start win over all that stood on flash, also for a scan. */
static void overwrite(struct life *l)
{
    for (unsigned turn = 7; turn < 9; turn++) {
        for (unsigned n = 0; n < KEYS; n += 3)
            store(l, n, turn);
        all_to_disk(l);
    }
}

static void read_overwritten(struct life *l)
{
    static char value[LARGE_BYTES], expected[LARGE_BYTES];
    char key[64];
    for (unsigned n = 0; n < KEYS; n += 3) {
        put_key(key, n);
        put_value(expected, n, 8);
        if (fixture_get(&l->f, key, value, sizeof(value), NULL) == CACHE_OK)
            ASSERT(strcmp(value, expected) == 0);
    }
}

static void check_it(void)
{
    const char *const paths[] = {path[0], path[1]};
    int code = check_files(paths, FILES, nowhere);
    ASSERT(code >= CHECK_CLEAN && code <= CHECK_UNREADABLE);
}

FUZZ_TARGET(flash)
{
    struct fuzz_input in = {data, size};
    struct life l;
    if (!nowhere)
        prepare();
    stepped_begin(data, size);
    bool is_serving = fuzz_number(&in, 1) & 1;
    change_all(&in);
    put_files(is_serving ? left : now);
    if (!is_serving)
        check_it();
    life_open(&l);
    if (is_serving || size < 1 + CHANGE_BYTES)
        ASSERT(read_keys(&l) == KEYS + LARGE_KEYS);
    for (unsigned i = 0; is_serving && i < SLOTS; i++) {
        if (is_changed[i])
            ASSERT(pwrite(fd[i / FILE_SLOTS], slot_of(now, i), SLOT_BYTES, (off_t)(i % FILE_SLOTS) * SLOT_BYTES) == SLOT_BYTES);
    }
    overwrite(&l);
    read_overwritten(&l);
    if (stepped_draw() & 1)
        use(&l);
    else {
        life_end(&l);
        life_open(&l);
        read_overwritten(&l);
        use(&l);
    }
    life_end(&l);
    return 0;
}
