/* fuzz_record.c: changed bytes of flash: records, and the table at a slot's end.
 *
 *   any bytes        verify or not, without a step outside; what verifies leads into the bytes
 *   checksum mended  as the engine itself would have written such fields: lengths alone must keep
 *                    the reader inside
 *   round trip       what was written verifies and is the same; with one bit changed, at another
 *                    place or of another version, it does not
 */
#include "base/crc.h"
#include "flash/record.h"
#include "t/aid/stepped.h"
#include "t/fuzz/fuzz.h"

enum { SLOT_BYTES = 64 * 1024 };

static void check_inside(const struct ext_record *r, const char *from, size_t bytes)
{
    ASSERT(r->key == from + sizeof(struct ext_record_head));
    ASSERT(r->key_bytes > 0 && r->key_bytes <= EXT_RECORD_KEY_MAX && r->seq <= EXT_RECORD_SEQ_MAX);
    ASSERT(r->value == r->key + r->key_bytes);
    ASSERT((uint64_t)(r->value - from) + r->value_bytes <= bytes);
}

/* Makes the checksum right for the bytes as they are, if they can have one. */
static void mend_record(char *from, size_t bytes, uint32_t version, ext_place place)
{
    struct ext_record_head head;
    if (bytes < sizeof(head))
        return;
    memcpy(&head, from, sizeof(head));
    uint64_t used = sizeof(head) + head.key_bytes + (uint64_t)head.value_bytes;
    if (used > bytes)
        return;
    uint32_t crc = crc32c(stepped_crc_of_place(version, place), from + sizeof(crc), used - sizeof(crc));
    memcpy(from, &crc, sizeof(crc));
}

static void any_record(struct fuzz_input *in, bool mend)
{
    uint32_t version = (uint32_t)fuzz_number(in, 1);
    ext_place place = fuzz_number(in, 2);
    struct ext_record rec;
    char *from = fuzz_copy(in->data, in->size);
    if (mend)
        mend_record(from, in->size, version, place);
    if (ext_record_verify(from, in->size, version, place, &rec) == 0)
        check_inside(&rec, from, in->size);
    free(from);
}

static bool same_record(const struct ext_record *r, const struct ext_record_in *in, uint64_t seq)
{
    return r->key_bytes == in->key_bytes && memcmp(r->key, in->key, in->key_bytes) == 0 &&
           r->value_bytes == in->value_bytes && memcmp(r->value, in->value, in->value_bytes) == 0 &&
           r->item_flags == in->item_flags && r->client_flags == in->client_flags &&
           r->cas == in->cas && r->seq == seq && r->exptime_unix == in->exptime_unix &&
           r->time_unix == in->time_unix;
}

static void round_trip(struct fuzz_input *in)
{
    struct ext_record_in rec = {
        .item_flags = (uint8_t)fuzz_number(in, 1),
        .client_flags = (uint32_t)fuzz_number(in, 4),
        .cas = fuzz_number(in, 8),
        .exptime_unix = (uint32_t)fuzz_number(in, 4),
        .time_unix = (uint32_t)fuzz_number(in, 4),
    };
    uint64_t seq = fuzz_number(in, 8) % (EXT_RECORD_SEQ_MAX + 1), bit = fuzz_number(in, 4);
    uint32_t version = (uint32_t)fuzz_number(in, 4);
    ext_place place = fuzz_number(in, 5);
    size_t key_bytes = fuzz_number(in, 1);
    if (in->size == 0)
        return;
    rec.key_bytes = (uint8_t)min_u64(max_u64(min_u64(key_bytes, EXT_RECORD_KEY_MAX), 1), in->size);
    rec.key = (const char *)in->data;
    rec.value = rec.key + rec.key_bytes;
    rec.value_bytes = (uint32_t)(in->size - rec.key_bytes);
    uint64_t bytes = ext_record_bytes(rec.key_bytes, rec.value_bytes);
    unsigned len_class = ext_len_class(bytes);
    ASSERT(ext_len_bytes(len_class) >= bytes);
    ASSERT(len_class == 0 || ext_len_bytes(len_class - 1) < bytes);

    char *image = malloc(bytes);
    ASSERT(image);
    struct ext_record out;
    ext_record_write(image, &rec, seq, version, place);
    ASSERT(ext_record_verify(image, bytes, version, place, &out) == 0);
    ASSERT(same_record(&out, &rec, seq));
    ASSERT(ext_record_verify(image, bytes, version + 1, place, &out) == -EBADMSG);
    ASSERT(ext_record_verify(image, bytes, version, place + 1, &out) == -EBADMSG);
    uint64_t used = sizeof(struct ext_record_head) + rec.key_bytes + (uint64_t)rec.value_bytes;
    bit %= used * 8;
    image[bit / 8] ^= (char)(1u << bit % 8);
    ASSERT(ext_record_verify(image, bytes, version, place, &out) == -EBADMSG);
    free(image);
}

/* The end of a slot: the input's last bytes, of which the reader has all, or first too few. */
static void any_trailer(struct fuzz_input *in)
{
    uint32_t version = (uint32_t)fuzz_number(in, 1), count;
    uint64_t slot = fuzz_number(in, 1);
    struct ext_trailer t;
    if (in->size < sizeof(t))
        return;
    char *image = fuzz_copy(in->data, in->size), *end = image + in->size;
    int rc = ext_trailer_verify(end, in->size, SLOT_BYTES, slot, version, &count);
    ASSERT(rc == 0 || rc == -EBADMSG || rc == -EAGAIN);
    if (rc != -EBADMSG)
        ASSERT(ext_table_start(SLOT_BYTES, count) < SLOT_BYTES);
    if (rc == 0)
        ASSERT(count * sizeof(struct ext_entry) + sizeof(t) <= in->size);
    free(image);
}

/* A slot with any entries, closed as the engine does it: it verifies, and no longer once a bit of
 * its table is another. */
static void table_round_trip(struct fuzz_input *in)
{
    uint32_t version = (uint32_t)fuzz_number(in, 4), verified;
    uint64_t slot = fuzz_number(in, 5), bit = fuzz_number(in, 4);
    uint32_t front = (uint32_t)fuzz_number(in, 2);
    uint32_t count = (uint32_t)(in->size / sizeof(struct ext_entry));
    if (front > ext_table_start(SLOT_BYTES, count))
        return;
    char *image = malloc(SLOT_BYTES), *end = image + SLOT_BYTES;
    ASSERT(image);
    memset(image, 0xa5, SLOT_BYTES);
    for (uint32_t i = 0; i < count; i++)
        fuzz_take(in, ext_entry_at(end, i), sizeof(struct ext_entry));
    ext_trailer_write(image, SLOT_BYTES, slot, version, count, front);
    uint64_t table_bytes = SLOT_BYTES - ext_table_start(SLOT_BYTES, count);
    ASSERT(ext_trailer_verify(end, SLOT_BYTES, SLOT_BYTES, slot, version, &verified) == 0);
    ASSERT(verified == count);
    int short_rc = ext_trailer_verify(end, sizeof(struct ext_trailer), SLOT_BYTES, slot, version,
                                      &verified);
    ASSERT(short_rc == (count > 0 ? -EAGAIN : 0) && verified == count);
    bit %= table_bytes * 8;
    end[-(int64_t)table_bytes + (int64_t)(bit / 8)] ^= (char)(1u << bit % 8);
    ASSERT(ext_trailer_verify(end, SLOT_BYTES, SLOT_BYTES, slot, version, &verified) != 0);
    free(image);
}

FUZZ_TARGET(record)
{
    struct fuzz_input in = {data, size};
    switch (fuzz_number(&in, 1) % 5) {
    case 0:
        any_record(&in, false);
        break;
    case 1:
        any_record(&in, true);
        break;
    case 2:
        round_trip(&in);
        break;
    case 3:
        any_trailer(&in);
        break;
    default:
        table_round_trip(&in);
    }
    return 0;
}
