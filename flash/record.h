/* flash/record.h: the layout of flash, byte by byte. Pure functions, no state.
 *
 * A page is page_bytes / wbuf_bytes slots; a slot is written from one wbuf:
 *
 *   0                                                            wbuf_bytes
 *   | record | record | ...   zeroes   ... | entry 1 | entry 0 | trailer |
 *
 *   record   struct ext_record_head, key, value, zeroes up to a granule
 *   entry    hash, granule and length of one record, in order of appending, growing down
 *   trailer  struct ext_trailer: how many entries, and a checksum over them
 *
 * The first slot of a device begins with the mark (flash/mark.h), and its records after that. Every
 * slot leaves that much room at its end, so that the records of one fit into any other.
 *
 * Everything is little-endian and fixed in width. The checksum of a record
 * starts from the page's version and the record's place, so the same bytes at
 * another place, or of another life of the page, don't verify. The trailer's
 * starts from version and slot.
 */
#ifndef EXTANT_EXT_RECORD_H
#define EXTANT_EXT_RECORD_H

#include "flash/types.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the format on flash is little-endian");

#define EXT_RECORD_MAX_BYTES ((uint64_t)64 * MiB) /* upper end of the last length class */
#define EXT_RECORD_FORMAT 1u
#define EXT_RECORD_KEY_MAX 250u
#define EXT_RECORD_SEQ_MAX (UINT64_C(1) << 62) /* no cache has stored more records: a higher one would outrank all later ones */
#define EXT_SLOT_BLOCK_BYTES 4096u    /* slots are written in multiples of this */
#define EXT_TRAILER_MAGIC 0x31424557u /* "WEB1" */

/* Length classes: record bytes <-> 5 bits. ext_len_bytes is the upper end of the class. */
unsigned ext_len_class(uint64_t record_bytes);
uint64_t ext_len_bytes(unsigned len_class);
/* Bytes of a record on flash, rounded to granules. */
uint64_t ext_record_bytes(unsigned key_bytes, uint64_t value_bytes);

struct ext_record_head {
    uint32_t crc; /* over all that follows, without the padding */
    uint32_t value_bytes;
    uint32_t exptime_unix;
    uint32_t time_unix;
    uint64_t cas;
    uint64_t seq;
    uint32_t client_flags;
    uint8_t key_bytes;
    uint8_t item_flags;
    uint16_t format; /* EXT_RECORD_FORMAT */
};
static_assert(sizeof(struct ext_record_head) == 40, "record header");
static_assert(offsetof(struct ext_record_head, value_bytes) == 4, "record header");
static_assert(offsetof(struct ext_record_head, cas) == 16, "record header");
static_assert(offsetof(struct ext_record_head, seq) == 24, "record header");
static_assert(offsetof(struct ext_record_head, key_bytes) == 36, "record header");
static_assert(offsetof(struct ext_record_head, format) == 38, "record header");

/* Could a cache have written a record with this header? Its checksum may be right and its fields wrong: another program's, or a
 * device's that computed it over garbage. */
static inline bool ext_record_head_is_sound(const struct ext_record_head *head)
{
    return head->format == EXT_RECORD_FORMAT && head->key_bytes > 0 && head->key_bytes <= EXT_RECORD_KEY_MAX &&
           head->seq <= EXT_RECORD_SEQ_MAX;
}

struct ext_entry {
    uint64_t hash;
    uint32_t granule;      /* from the slot's start */
    uint32_t record_bytes; /* rounded up to granules */
};
static_assert(sizeof(struct ext_entry) == 16, "table entry");
static_assert(offsetof(struct ext_entry, granule) == 8, "table entry");

struct ext_trailer {
    uint32_t crc;   /* over the entries, then the rest of the trailer */
    uint32_t magic; /* EXT_TRAILER_MAGIC */
    uint32_t version;
    uint32_t count;
    uint64_t slot;        /* global number of the slot */
    uint32_t front_bytes; /* up to where records reach */
    uint32_t reserved;
};
static_assert(sizeof(struct ext_trailer) == 32, "slot trailer");
static_assert(offsetof(struct ext_trailer, version) == 8, "slot trailer");
static_assert(offsetof(struct ext_trailer, slot) == 16, "slot trailer");

/* Where the table of `count` entries begins in a slot. */
static inline uint64_t ext_table_start(uint64_t wbuf_bytes, uint32_t count)
{
    return wbuf_bytes - sizeof(struct ext_trailer) - (uint64_t)count * sizeof(struct ext_entry);
}
/* Entry i of the slot image whose end (wbuf_bytes) is at `end`. */
static inline struct ext_entry *ext_entry_at(char *end, uint32_t i)
{
    return (struct ext_entry *)(end - sizeof(struct ext_trailer) -
                                ((uint64_t)i + 1) * sizeof(struct ext_entry));
}

/* Writes header, key, value and padding to `to`, which has room for ext_record_bytes(). */
void ext_record_write(char *to, const struct ext_record_in *in, uint64_t seq, uint32_t version,
                      ext_place place);

/* Verifies the record at `from`, of which `bytes` are readable (any alignment of length, `from` at
 * a granule). 0 and *out pointing into it, or -EBADMSG. */
int ext_record_verify(const char *from, uint64_t bytes, uint32_t version, ext_place place,
                      struct ext_record *out);

/* The input to append a verified record again, with the same seq. */
static inline void ext_record_again(const struct ext_record *rec, uint64_t hash,
                                    struct ext_record_in *in)
{
    *in = (struct ext_record_in){
        .hash = hash,
        .key = rec->key,
        .value = rec->value,
        .value_bytes = rec->value_bytes,
        .key_bytes = rec->key_bytes,
        .item_flags = rec->item_flags,
        .client_flags = rec->client_flags,
        .cas = rec->cas,
        .exptime_unix = rec->exptime_unix,
        .time_unix = rec->time_unix,
    };
}

/* Completes a slot image that has its entries: writes the trailer, and zeroes the rest of the
 * blocks in which records end and the table begins. Blocks between those need not be written. */
void ext_trailer_write(char *slot_image, uint64_t wbuf_bytes, uint64_t slot, uint32_t version,
                       uint32_t count, uint32_t front_bytes);

/* Verifies the end of a slot image: the last `have` bytes of it end at `end`. 0 and *count;
 * -EBADMSG; -EAGAIN: the table is longer than `have`, *count says how long. */
int ext_trailer_verify(char *end, uint64_t have, uint64_t wbuf_bytes, uint64_t slot,
                       uint32_t version, uint32_t *count);
/* If ext_trailer_verify of the whole table failed: the version with which it would verify, if no more than one byte of the
 * trailer's version is wrong. 0: there is none. */
uint32_t ext_trailer_mend_version(const char *end, uint64_t have, uint64_t wbuf_bytes);

#endif
