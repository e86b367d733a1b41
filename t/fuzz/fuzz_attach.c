/* fuzz_attach.c: a memory file of -e and a flash file whose bytes were changed. The next start must
 * either refuse the content (and start empty with a line that says why), or work: every verb runs,
 * reclaim runs, the books balance, and a further start takes over what this one left. A crash, an
 * ASSERT or a hang is a bug, for any bytes.
 *
 * The input is a list of changes of 12 bytes, applied to what a small cache left behind: items of
 * several sizes in memory and on flash, an unflushed write buffer, a sealed page. Changes aim at
 * words that aren't zero there, or stand near one; or at the tables that everything else hangs from.
 *
 * Both files are memfds; a life ends as after a kill between two operations. Nothing but the input
 * decides what happens, so that finds can be repeated: the jobs of I/O threads run in this
 * one, in an order drawn from the input, time is simulated, and seed and stamp are not random.
 */
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "flash/engine.h"
#include "flash/wbuf.h"
#include "items/store.h"
#include "restart/restart.h"
#include "t/aid/life.h"
#include "t/aid/stepped.h"
#include "t/fuzz/fuzz.h"

enum {
    BLOCK_BYTES = 4096,
    BLOCKS_MAX = 4096,
    WORDS_MAX = 1 << 16,
    CHANGES_MAX = 64,
    CHANGE_BYTES = 12,
    KEYS = 48,
    LARGE_KEYS = 5, /* with the others more than a page */
    MAINT_STEPS = 200,
    LARGE_BYTES = 700 * 1024, /* values are zeroes: so they cost no block, and no word to change */
};

struct image { /* a file's content: the blocks that aren't zeroes */
    int fd;
    off_t bytes;
    unsigned block_count;
    off_t at[BLOCKS_MAX];
    uint64_t *blocks;
    unsigned word_count;
    uint32_t words[WORDS_MAX]; /* number of each word that isn't zero */
};

static struct image memory, flash;
/* The small tables that lead to all other data: bytes of the memory file. */
static struct table {
    uint64_t at, bytes;
} tables[4];
static char why[RESTART_LINE_BYTES];
static FILE *nowhere;

/* ---- lives ---- */

static int life_open(struct life *l)
{
    char memory_path[64], flash_option[224], user[] = "extant", e[] = "-e", m[] = "-m", mb[] = "16",
        o[] = "-o";
    snprintf(memory_path, sizeof(memory_path), "/proc/self/fd/%d", memory.fd);
    snprintf(flash_option, sizeof(flash_option),
             "ext_path=/proc/self/fd/%d:16m,ext_page_size=4,ext_wbuf_size=2,ext_buffer_mem=16,"
             "ext_threads=1,ext_io_engine=threads,track_sizes,trust_memory_file,ext_format=%s",
             flash.fd, memory_path);
    char *argv[] = {user, e, memory_path, m, mb, o, flash_option, NULL};
    clock_setup();
    life_parse(l, ARRAY_COUNT(argv) - 1, argv, nowhere);
    atomic_store(&l->f.tunables.compact_under_pages, 3);
    int rc = life_begin(l, 1, &stepped_ops, why, sizeof(why));
    if (rc != 0)
        return rc;
    l->f.idle = stepped_idle;
    if (!l->r.attached) {
        cache_root_set_seed(l->r.cache->root, stepped_draw());
        struct ext_device *d = &l->r.ext->devices[0];
        d->stamp = l->r.ext->tables->devices[0].stamp = stepped_draw();
        ASSERT(ext_mark_write(d->fd, d->stamp) == 0);
    }
    life_add_worker(l);
    return 0;
}

static void life_end(struct life *l)
{
    cache_worker_destroy(l->f.worker);
    restart_close(&l->r, false);
    settings_free(&l->f.settings);
}

static void put_key(char *key, unsigned n)
{
    snprintf(key, 64, "key%u%s", n, n % 3 == 0 ? "-with-a-somewhat-longer-name" : "");
}

static void store(struct life *l, unsigned n, size_t bytes)
{
    static const char zeroes[LARGE_BYTES];
    char key[64];
    put_key(key, n);
    uint32_t exptime = n % 5 == 0 ? clock_now_sec() + 100000 : 0;
    enum cache_status s =
        fixture_store(&l->f, CACHE_SET, key, zeroes, bytes, n % 2 ? n : 0, exptime, 0);
    ASSERT(s == CACHE_OK || s == CACHE_NO_MEMORY);
}

/* Moves one item to flash. */
static void to_flash(struct life *l, unsigned n)
{
    struct cache *c = l->f.cache;
    char key[64];
    put_key(key, n);
    uint64_t hash = cache_hash(c, key, strlen(key));
    index_slot *slots[INDEX_MATCH_MAX];
    struct lock *lock = index_lock(c->index, hash);
    lock_take(lock);
    unsigned count = index_match(c->index, hash, slots);
    for (unsigned i = 0; i < count; i++) {
        index_word w = index_load(slots[i]);
        if (index_kind(c->index, w) != INDEX_RAM)
            continue;
        item_flush(c, item_at(c, index_handle(c->index, w)), hash);
        break;
    }
    lock_release(lock);
}

/* ---- images ---- */

static void image_take(struct image *im)
{
    struct stat st;
    ASSERT(fstat(im->fd, &st) == 0);
    im->bytes = st.st_size;
    im->blocks = malloc((size_t)BLOCKS_MAX * BLOCK_BYTES);
    ASSERT(im->blocks);
    for (off_t at = lseek(im->fd, 0, SEEK_DATA); at >= 0 && at < im->bytes; at += BLOCK_BYTES) {
        uint64_t *block = im->blocks + (size_t)im->block_count * (BLOCK_BYTES / 8);
        ASSERT(pread(im->fd, block, BLOCK_BYTES, at) == BLOCK_BYTES);
        bool zero = true;
        for (unsigned i = 0; i < BLOCK_BYTES / 8; i++) {
            if (block[i] == 0)
                continue;
            zero = false;
            if (im->word_count < WORDS_MAX)
                im->words[im->word_count++] = (uint32_t)(at / 8 + i);
        }
        if (!zero) {
            ASSERT(im->block_count + 1 < BLOCKS_MAX);
            im->at[im->block_count++] = at;
        }
        at = lseek(im->fd, at + BLOCK_BYTES, SEEK_DATA) - BLOCK_BYTES;
        if (at < 0)
            break;
    }
    ASSERT(im->word_count > 0);
}

static void image_put(const struct image *im)
{
    ASSERT(ftruncate(im->fd, 0) == 0 && ftruncate(im->fd, im->bytes) == 0);
    for (unsigned i = 0; i < im->block_count; i++)
        ASSERT(pwrite(im->fd, im->blocks + (size_t)i * (BLOCK_BYTES / 8), BLOCK_BYTES, im->at[i]) ==
               BLOCK_BYTES);
}

/* What a cache leaves that was killed in the midst of work. */
static void prepare(void)
{
    struct life l;
    stepped_begin(NULL, 0);
    nowhere = fopen("/dev/null", "w");
    memory.fd = memfd_create("memory", MFD_CLOEXEC);
    flash.fd = memfd_create("flash", MFD_CLOEXEC);
    ASSERT(nowhere && memory.fd >= 0 && flash.fd >= 0);
    int rc = life_open(&l);
    if (rc != 0)
        fprintf(stderr, "%s\n", why);
    ASSERT(rc == 0);
    for (unsigned n = 0; n < KEYS; n++)
        store(&l, n, n % 8 == 0 ? 20000 : n * 5);
    for (unsigned n = KEYS; n < KEYS + LARGE_KEYS; n++)
        store(&l, n, LARGE_BYTES);
    for (unsigned n = 0; n < KEYS; n += 4)
        to_flash(&l, n);
    for (unsigned n = KEYS; n < KEYS + LARGE_KEYS; n++)
        to_flash(&l, n);
    for (unsigned i = 0; i < EXT_BUCKET_COUNT; i++)
        ext_wbuf_close_open(l.f.ext, i);
    while (atomic_load(&l.f.ext->flushing_wbufs) > 0)
        stepped_idle(&l.f);
    for (unsigned n = 1; n < KEYS; n += 4) /* stays in the open write buffer */
        to_flash(&l, n);
    for (unsigned n = 0; n < 4; n++) /* older values stay on flash */
        store(&l, n, 30);
    char key[64];
    for (unsigned n = 2; n < KEYS; n += 3) {
        put_key(key, n);
        fixture_get(&l.f, key, NULL, 0, NULL);
        fixture_get(&l.f, key, NULL, 0, NULL);
    }
    for (unsigned n = 6; n < KEYS; n += 9) {
        put_key(key, n);
        fixture_delete(&l.f, key);
    }
    const struct ext_tables *root = l.f.ext->tables;
    tables[0] = (struct table){0, ARENA_ROOT_BYTES};
    tables[1] = (struct table){root->pages, l.f.ext->page_count * sizeof(struct ext_page)};
    tables[2] = (struct table){root->wbufs, l.f.ext->wbuf_count * sizeof(struct ext_wbuf_root)};
    tables[3] = (struct table){root->words, l.f.ext->page_count * l.f.ext->slots_per_page * 8};
    life_end(&l);
    image_take(&memory);
    image_take(&flash);
}

/* ---- changes ---- */

static void change(struct fuzz_input *in)
{
    unsigned where = (unsigned)fuzz_number(in, 2), how = (unsigned)fuzz_number(in, 1);
    int64_t step = (int8_t)fuzz_number(in, 1);
    uint64_t value = fuzz_number(in, 8), word = 0;
    const struct image *im = how & 0x80 ? &flash : &memory;
    int64_t number = im->words[where % im->word_count];
    if (how & 0x40) {
        number += step;
    } else if (how & 0x20) {
        const struct table *t = &tables[where % ARRAY_COUNT(tables)];
        number = (int64_t)(t->at + where / ARRAY_COUNT(tables) * 8 % t->bytes) / 8;
        im = &memory;
    }
    off_t at = (off_t)number * 8;
    if (at < 0 || at + 8 > im->bytes || pread(im->fd, &word, 8, at) != 8)
        return;
    unsigned shift = (unsigned)(step & 7) * 8;
    switch (how & 7) {
    case 0:
        word = value;
        break;
    case 1:
        word = (word & ~(UINT64_C(0xffffffff) << (shift & 32))) | (uint64_t)(uint32_t)value
                                                                      << (shift & 32);
        break;
    case 2:
        word = (word & ~(UINT64_C(0xff) << shift)) | (uint64_t)(uint8_t)value << shift;
        break;
    case 3:
        word ^= value;
        break;
    case 4:
        word += value;
        break;
    case 5: /* what stands elsewhere */
        if (pread(im->fd, &word, 8, (off_t)im->words[value % im->word_count] * 8) != 8)
            return;
        break;
    case 6:
        word = 0;
        break;
    default: /* cut */
        if (value % 16 == 0)
            ASSERT(ftruncate(im->fd, at + 8) == 0);
        return;
    }
    ASSERT(pwrite(im->fd, &word, 8, at) == 8);
}

/* ---- what has to work ---- */

static void use_keys(struct life *l)
{
    static char value[LARGE_BYTES + 1];
    struct cache_view view;
    char key[64];
    for (unsigned n = 0; n < KEYS + LARGE_KEYS; n++) {
        put_key(key, n);
        fixture_get(&l->f, key, value, sizeof(value), &view);
        if (n % 7 == 0)
            fixture_touch(&l->f, key, clock_now_sec() + 50);
        if (n % 7 == 1)
            fixture_delete(&l->f, key);
        if (n % 7 == 2)
            fixture_store(&l->f, CACHE_APPEND, key, "more", 4, 0, 0, 0);
        if (n % 7 == 3)
            store(l, n, n * 9);
        if (n % 7 == 4)
            to_flash(l, n);
    }
    uint64_t number;
    fixture_set(&l->f, "number", "41");
    ASSERT(fixture_arith(&l->f, "number", false, 1, &number) == CACHE_OK && number == 42);
    ASSERT(fixture_get(&l->f, "number", value, sizeof(value), NULL) == CACHE_OK);
    ASSERT(strcmp(value, "42") == 0);
}

static void use(struct life *l)
{
    struct cache_totals totals;
    struct cache_class_stats stats;
    struct ext_info info;
    use_keys(l);
    for (unsigned i = 0; i < MAINT_STEPS; i++) {
        ext_maint_step(l->f.ext, (uint32_t)clock_unix_now_sec());
        stepped_idle(&l->f);
    }
    for (unsigned n = 100; n < 103; n++) { /* room on flash is needed */
        store(l, n, LARGE_BYTES);
        to_flash(l, n);
    }
    cache_totals(l->f.cache, &totals);
    cache_class_stats(l->f.cache, 1, &stats);
    ext_info(l->f.ext, &info);
    ASSERT(ext_reconcile(l->f.ext) == 0);
}

FUZZ_TARGET(attach)
{
    struct fuzz_input in = {data, size};
    struct life l;
    if (!nowhere)
        prepare();
    stepped_begin(data, size);
    image_put(&memory);
    image_put(&flash);
    for (unsigned i = 0; in.size >= CHANGE_BYTES && i < CHANGES_MAX; i++)
        change(&in);
    int rc = life_open(&l);
    if (rc != 0)
        fprintf(stderr, "refused: %s\n", why);
    ASSERT(rc == 0); /* an empty start is always possible */
    if (size < CHANGE_BYTES)
        ASSERT(l.r.attached);
    ASSERT(l.r.attached || l.r.line[0] != '\0');
    use(&l);
    life_end(&l);
    ASSERT(life_open(&l) == 0);
    ASSERT(l.r.attached);
    char value[8];
    ASSERT(fixture_get(&l.f, "number", value, sizeof(value), NULL) == CACHE_OK);
    life_end(&l);
    return 0;
}
