/* base/checkpoint.h: the file that carries a cache over a clean stop: PATH beside the first flash file.
 *
 *   0        head: struct checkpoint_head, CHECKPOINT_HEAD_BYTES
 *   4 KiB    blocks of up to CHECKPOINT_BLOCK_BYTES: { crc, bytes, number } and that many bytes
 *
 * A file is written beside the old one, synced, renamed over it, and the directory is synced; so at
 * any instant the name leads to a complete file. Each has a random token of its own; the checksum
 * of a block starts from it and from the block's number, so blocks of another file, or in another
 * order, never verify. The head says how many bytes there are, and its checksum covers the whole head.
 *
 * The state says how the file may be used:
 *
 *   CLEAN    everything stopped in order; the blocks are the cache.
 *   RUNNING  a process took the cache over and writes to the flash files. No blocks. If that process
 *            is killed, the state remains: only the head's seed and numbers are still valid.
 *
 * The modules that put bytes in define what they mean, and take them out in the same
 * order. Numbers are little-endian, like everything on flash.
 *
 * Threads: one for a file; a reader runs one of its own until checkpoint_close. Locks: none
 * on entry. All calls may sleep (disk).
 */
#ifndef EXTANT_CHECKPOINT_H
#define EXTANT_CHECKPOINT_H

#include "base/base.h"

#define CHECKPOINT_FORMAT 2u
#define CHECKPOINT_FORMAT_OLDEST 1u /* that is read as well */
#define CHECKPOINT_HEAD_BYTES 4096u
#define CHECKPOINT_BLOCK_BYTES ((size_t)1 * MiB)
#define CHECKPOINT_DEVICES_MAX 16
#define CHECKPOINT_WHY_BYTES 200

enum checkpoint_state { CHECKPOINT_RUNNING = 1, CHECKPOINT_CLEAN = 2 };

/* A flash file as it was when the checkpoint was made. Its device number is not kept, because it
 * may change with a boot. Its time of change is: a later write to the file invalidates the checkpoint. */
struct checkpoint_device {
    uint64_t ino, bytes;
    int64_t mtime_sec;
    uint32_t mtime_nsec;
    uint32_t bucket;
};

struct checkpoint_head {
    uint32_t crc; /* over all that follows */
    uint32_t format;
    uint64_t magic;
    uint64_t layout;     /* of the blocks' contents: another build may store other structs */
    uint64_t generation; /* of files under this name, counted */
    uint64_t token;
    uint32_t state; /* enum checkpoint_state */
    uint32_t device_count;
    uint64_t body_bytes; /* of all blocks, without their heads */
    uint64_t objects;
    /* the clock */
    int64_t unix_epoch_sec; /* of rel time; see base/clock.h */
    int64_t wall_sec;       /* when the file was made */
    /* the cache */
    uint64_t hash_seed, cas_counter, flush_cas;
    uint32_t flush_unix, use_cas;
    /* geometry */
    uint64_t page_bytes, wbuf_bytes;
    uint32_t index_group_bits, index_tag_bits, index_place_bits;
    uint32_t version_now; /* the highest page version so far; with RUNNING: when that process began */
    char version[16];     /* version of the program that wrote it, for the log */
    struct checkpoint_device devices[CHECKPOINT_DEVICES_MAX];
    uint32_t rel_sec; /* when the file was made; 0: not known */
    uint32_t planned_unix; /* of the cache */
    /* since format 2; before 0 */
    uint64_t stamps[CHECKPOINT_DEVICES_MAX]; /* of the devices' marks, when the head was made */
    uint32_t since[CHECKPOINT_DEVICES_MAX];  /* what stands on the device from page versions up to this isn't the cache's */
    /* RUNNING: those that the process may have written instead, if it was killed while it began; or 0 */
    uint64_t next_stamps[CHECKPOINT_DEVICES_MAX];
    uint8_t unused[CHECKPOINT_HEAD_BYTES - 680 - 192 - 128];
};
static_assert(sizeof(struct checkpoint_head) == CHECKPOINT_HEAD_BYTES, "head layout");
static_assert(offsetof(struct checkpoint_head, devices) == 160, "head layout");
static_assert(sizeof(struct checkpoint_device) == 32, "head layout");

struct checkpoint_writer;
struct checkpoint_reader;

/* Begins a new file that will take the name `path`. 0 or -errno. */
int checkpoint_create(const char *path, struct checkpoint_writer **out);
/* Adds bytes. After an error every later call returns the same error. */
int checkpoint_put(struct checkpoint_writer *w, const void *bytes, size_t count);
/* Completes the file: fills in the head's format, token, body_bytes, wall_sec, version and checksum
 * (the rest is the caller's), syncs, renames, syncs the directory. 0, or -errno: the old file, if
 * there was one, is still there (or, if only the last sync failed, maybe the new). Frees the
 * writer. */
int checkpoint_commit(struct checkpoint_writer *w, struct checkpoint_head *head);
/* Abandons the new file: the old one stays as it is. NULL is fine. */
void checkpoint_abort(struct checkpoint_writer *w);

/* Reads and verifies the head. 0; -ENOENT no such file; -EBADMSG not a whole head of this format,
 * *why says what is wrong; other -errno from the system. */
int checkpoint_read_head(const char *path, struct checkpoint_head *head,
                         char why[CHECKPOINT_WHY_BYTES]);

/* Opens the blocks of the file whose head was read. 0; -ESTALE if the file was replaced; -errno. */
int checkpoint_open(const char *path, const struct checkpoint_head *head,
                    struct checkpoint_reader **out);
/* Takes the next `count` bytes. 0; -EBADMSG a block does not verify, or there are fewer; -errno. An
 * error is kept. */
int checkpoint_get(struct checkpoint_reader *r, void *bytes, size_t count);
/* 0 iff all bytes were taken and the file ends there. Frees the reader; NULL is fine (0). */
int checkpoint_close(struct checkpoint_reader *r);

/* Removes the file, if it is one of ours, and syncs the directory, so that no start reads it again. 0
 * (also if there is none, or a foreign file) or -errno. */
int checkpoint_remove(const char *path);

#endif
