/* record_test.c: a slot's trailer belongs to one slot, in one life of its page, with its table as
 * written; anything else does not verify. (fuzz_record.c is about arbitrary bytes.) */
#include "flash/record.h"

#include <criterion/criterion.h>

enum { WBUF_BYTES = 64 * 1024, COUNT = 3, FRONT = 3 * 64 };

static char image[WBUF_BYTES];
static const uint64_t slot = 5;
static const uint32_t version = 7;

static void write_slot(void)
{
    for (uint32_t i = 0; i < COUNT; i++)
        *ext_entry_at(image + WBUF_BYTES, i) = (struct ext_entry){1000 + i, 4 * i, 64};
    ext_trailer_write(image, WBUF_BYTES, slot, version, COUNT, FRONT);
}

TestSuite(record, .init = write_slot);

static int verify(uint64_t of_slot, uint32_t of_version, uint32_t *count)
{
    return ext_trailer_verify(image + WBUF_BYTES, WBUF_BYTES, WBUF_BYTES, of_slot, of_version, count);
}

Test(record, a_trailer_verifies_as_it_was_written)
{
    uint32_t count = 0;
    cr_assert_eq(verify(slot, version, &count), 0);
    cr_assert_eq(count, COUNT);
}

Test(record, the_trailer_of_another_slot_does_not)
{
    uint32_t count;
    cr_assert_eq(verify(slot + 1, version, &count), -EBADMSG);
    cr_assert_eq(verify(slot - 1, version, &count), -EBADMSG);
    cr_assert_eq(verify(slot | UINT64_C(1) << 40, version, &count), -EBADMSG);
}

Test(record, the_trailer_of_an_earlier_life_does_not)
{
    uint32_t count;
    cr_assert_eq(verify(slot, version - 1, &count), -EBADMSG);
    cr_assert_eq(verify(slot, version + 1, &count), -EBADMSG);
}

Test(record, no_byte_of_table_and_trailer_may_change)
{
    uint32_t count;
    for (size_t at = ext_table_start(WBUF_BYTES, COUNT); at < WBUF_BYTES; at++) {
        image[at] ^= 1;
        cr_assert_neq(verify(slot, version, &count), 0, "byte %zu", at);
        image[at] ^= 1;
    }
    cr_assert_eq(verify(slot, version, &count), 0);
}

Test(record, a_table_that_is_longer_than_what_was_read_asks_for_more)
{
    uint32_t count;
    for (uint64_t have = sizeof(struct ext_trailer); have < WBUF_BYTES; have += 16) {
        bool is_enough = have >= WBUF_BYTES - ext_table_start(WBUF_BYTES, COUNT);
        cr_assert_eq(ext_trailer_verify(image + WBUF_BYTES, have, WBUF_BYTES, slot, version, &count),
                     is_enough ? 0 : -EAGAIN);
        cr_assert_eq(count, COUNT);
    }
}

/* Nor would a later record ever be younger than one of the highest number. */
Test(record, a_record_that_no_cache_writes_does_not_verify)
{
    char image[512], key[UINT8_MAX] = "key";
    struct ext_record out;
    struct ext_record_in in = {.hash = 1, .key = key, .key_bytes = EXT_RECORD_KEY_MAX, .value = "value", .value_bytes = 5};
    ext_record_write(image, &in, EXT_RECORD_SEQ_MAX, 2, 3);
    cr_assert_eq(ext_record_verify(image, sizeof(image), 2, 3, &out), 0);
    ext_record_write(image, &in, EXT_RECORD_SEQ_MAX + 1, 2, 3);
    cr_assert_eq(ext_record_verify(image, sizeof(image), 2, 3, &out), -EBADMSG);
    ext_record_write(image, &in, UINT64_MAX, 2, 3);
    cr_assert_eq(ext_record_verify(image, sizeof(image), 2, 3, &out), -EBADMSG);
    in.key_bytes = EXT_RECORD_KEY_MAX + 1;
    ext_record_write(image, &in, 1, 2, 3);
    cr_assert_eq(ext_record_verify(image, sizeof(image), 2, 3, &out), -EBADMSG);
}

/* It could not be written again, so reclaim must not meet it. */
Test(record, a_record_without_a_key_does_not_verify)
{
    char image[128];
    struct ext_record out;
    struct ext_record_in in = {.hash = 1, .key = "key", .key_bytes = 3, .value = "value", .value_bytes = 5};
    ext_record_write(image, &in, 1, 2, 3);
    cr_assert_eq(ext_record_verify(image, sizeof(image), 2, 3, &out), 0);
    in.key_bytes = 0;
    ext_record_write(image, &in, 1, 2, 3);
    cr_assert_eq(ext_record_verify(image, sizeof(image), 2, 3, &out), -EBADMSG);
}
