/* flash/record.c: see flash/record.h; also the length classes.
 *
 * Length classes: steps of 3/2 and 4/3 by turns from 128 bytes to 512 KiB (classes 0 to 24), then
 * doubling up to 64 MiB (class 31). Steps are small where records are many, because accounts use the
 * class; large where one read is long anyway.
 */
#include "flash/record.h"

#include "base/crc.h"

#define LEN_CLASS_MIN_BYTES 128u
#define LEN_CLASS_FINE_LAST 24u
static_assert((uint64_t)LEN_CLASS_MIN_BYTES << (LEN_CLASS_FINE_LAST / 2 + EXT_LEN_CLASSES - 1 - LEN_CLASS_FINE_LAST) ==
                  EXT_RECORD_MAX_BYTES,
              "the last class ends at the largest record");

uint64_t ext_len_bytes(unsigned len_class)
{
    ASSERT(len_class < EXT_LEN_CLASSES);
    if (len_class > LEN_CLASS_FINE_LAST)
        return (uint64_t)LEN_CLASS_MIN_BYTES
               << (LEN_CLASS_FINE_LAST / 2 + len_class - LEN_CLASS_FINE_LAST);
    uint64_t base = (uint64_t)LEN_CLASS_MIN_BYTES << (len_class / 2);
    return len_class % 2 == 0 ? base : base + base / 2;
}

unsigned ext_len_class(uint64_t record_bytes)
{
    ASSERT(record_bytes <= EXT_RECORD_MAX_BYTES);
    unsigned low = 0, high = EXT_LEN_CLASSES - 1;
    while (low < high) {
        unsigned mid = (low + high) / 2;
        if (ext_len_bytes(mid) >= record_bytes)
            high = mid;
        else
            low = mid + 1;
    }
    DEBUG_ASSERT(ext_len_bytes(low) >= record_bytes && (low == 0 || ext_len_bytes(low - 1) < record_bytes));
    return low;
}

uint64_t ext_record_bytes(unsigned key_bytes, uint64_t value_bytes)
{
    return round_up(sizeof(struct ext_record_head) + key_bytes + value_bytes, EXT_GRANULE_BYTES);
}

/* The start of a checksum: the identity that the bytes should have. */
static uint32_t crc_of_place(uint32_t version, uint64_t place)
{
    struct {
        uint64_t place;
        uint32_t version, format;
    } id = {place, version, EXT_RECORD_FORMAT};
    return crc32c(0, &id, sizeof(id));
}

void ext_record_write(char *to, const struct ext_record_in *in, uint64_t seq, uint32_t version,
                      ext_place place)
{
    struct ext_record_head head = {
        .value_bytes = in->value_bytes,
        .exptime_unix = in->exptime_unix,
        .time_unix = in->time_unix,
        .cas = in->cas,
        .seq = seq,
        .client_flags = in->client_flags,
        .key_bytes = in->key_bytes,
        .item_flags = in->item_flags,
        .format = EXT_RECORD_FORMAT,
    };
    uint64_t used = sizeof(head) + in->key_bytes + (uint64_t)in->value_bytes;
    ASSERT(used <= EXT_RECORD_MAX_BYTES);
    memcpy(to, &head, sizeof(head));
    memcpy(to + sizeof(head), in->key, in->key_bytes);
    if (in->value_bytes != 0)
        memcpy(to + sizeof(head) + in->key_bytes, in->value, in->value_bytes);
    memset(to + used, 0, round_up(used, EXT_GRANULE_BYTES) - used);
    uint32_t crc =
        crc32c(crc_of_place(version, place), to + sizeof(uint32_t), used - sizeof(uint32_t));
    memcpy(to, &crc, sizeof(crc));
}

int ext_record_verify(const char *from, uint64_t bytes, uint32_t version, ext_place place,
                      struct ext_record *out)
{
    struct ext_record_head head;
    if (bytes < sizeof(head))
        return -EBADMSG;
    memcpy(&head, from, sizeof(head));
    uint64_t used = sizeof(head) + head.key_bytes + (uint64_t)head.value_bytes;
    if (!ext_record_head_is_sound(&head) || used > bytes)
        return -EBADMSG;
    uint32_t crc =
        crc32c(crc_of_place(version, place), from + sizeof(uint32_t), used - sizeof(uint32_t));
    if (crc != head.crc)
        return -EBADMSG;
    *out = (struct ext_record){
        .key = from + sizeof(head),
        .value = from + sizeof(head) + head.key_bytes,
        .value_bytes = head.value_bytes,
        .key_bytes = head.key_bytes,
        .item_flags = head.item_flags,
        .client_flags = head.client_flags,
        .cas = head.cas,
        .seq = head.seq,
        .exptime_unix = head.exptime_unix,
        .time_unix = head.time_unix,
    };
    return 0;
}

static uint32_t trailer_crc(const struct ext_trailer *t, const char *end)
{
    uint64_t table_bytes = (uint64_t)t->count * sizeof(struct ext_entry);
    uint32_t crc =
        crc32c(crc_of_place(t->version, t->slot), end - sizeof(*t) - table_bytes, table_bytes);
    return crc32c(crc, (const char *)t + sizeof(t->crc), sizeof(*t) - sizeof(t->crc));
}

void ext_trailer_write(char *slot_image, uint64_t wbuf_bytes, uint64_t slot, uint32_t version,
                       uint32_t count, uint32_t front_bytes)
{
    uint64_t table = ext_table_start(wbuf_bytes, count);
    ASSERT(front_bytes <= table);
    uint64_t front_end = min_u64(round_up(front_bytes, EXT_SLOT_BLOCK_BYTES), table);
    memset(slot_image + front_bytes, 0, front_end - front_bytes);
    uint64_t table_block = max_u64(round_down(table, EXT_SLOT_BLOCK_BYTES), front_end);
    memset(slot_image + table_block, 0, table - table_block);
    struct ext_trailer t = {.magic = EXT_TRAILER_MAGIC,
                            .version = version,
                            .count = count,
                            .slot = slot,
                            .front_bytes = front_bytes};
    t.crc = trailer_crc(&t, slot_image + wbuf_bytes);
    memcpy(slot_image + wbuf_bytes - sizeof(t), &t, sizeof(t));
}

int ext_trailer_verify(char *end, uint64_t have, uint64_t wbuf_bytes, uint64_t slot,
                       uint32_t version, uint32_t *count)
{
    struct ext_trailer t;
    ASSERT(have >= sizeof(t));
    memcpy(&t, end - sizeof(t), sizeof(t));
    if (t.magic != EXT_TRAILER_MAGIC || t.version != version || t.slot != slot)
        return -EBADMSG;
    if (t.count > (wbuf_bytes - sizeof(t)) / sizeof(struct ext_entry))
        return -EBADMSG;
    *count = t.count;
    if (sizeof(t) + (uint64_t)t.count * sizeof(struct ext_entry) > have)
        return -EAGAIN;
    return trailer_crc(&t, end) == t.crc ? 0 : -EBADMSG;
}

uint32_t ext_trailer_mend_version(const char *end, uint64_t have, uint64_t wbuf_bytes)
{
    struct ext_trailer t;
    ASSERT(have >= sizeof(t));
    memcpy(&t, end - sizeof(t), sizeof(t));
    if (t.count > (wbuf_bytes - sizeof(t)) / sizeof(struct ext_entry) ||
        sizeof(t) + (uint64_t)t.count * sizeof(struct ext_entry) > have)
        return 0;
    const uint32_t found = t.version;
    for (unsigned shift = 0; shift < 32; shift += 8) {
        for (uint32_t wrong = 1; wrong <= UINT8_MAX; wrong++) {
            t.version = found ^ wrong << shift;
            if (trailer_crc(&t, end) == t.crc)
                return t.version;
        }
    }
    return 0;
}
