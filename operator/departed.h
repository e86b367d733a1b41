/* operator/departed.h: remembers why keys left the cache, as long as its table has room.
 *
 * A table of 4 bytes an entry, found by the key's hash: 28 bits of it and the reason. A key that
 * leaves takes the place of one that left earlier. So a miss can say why a key is gone if it
 * left recently; a key that is not found was never stored, or left too long ago. One match in 2^26
 * is wrong. The table dies with the process.
 *
 * Any thread: entries are single atomic words, written and read relaxed. No locks, never sleeps.
 */
#ifndef EXTANT_DEPARTED_H
#define EXTANT_DEPARTED_H

#include "base/base.h"

/* Why a get misses: each miss counts under one of these, so they add up to get_misses. The first has
 * no entry in the table, and the last two are not departures.
 * name, what it counts */
#define MISS_TABLE(X)                                                                              \
    X(never_stored, "misses of keys that were never stored, or went too long ago to be known")     \
    X(expired, "misses of keys whose time was over")                                               \
    X(flushed, "misses of keys that flush_all made invalid")                                       \
    X(deleted, "misses of keys that a client deleted")                                             \
    X(evicted_no_flash, "misses of keys evicted from RAM with no flash configured")                \
    X(evicted_write_wait, "misses of keys evicted from RAM because flash was too slow to write")   \
    X(evicted_flash_full, "misses of keys evicted from RAM because no flash page could be freed")  \
    X(evicted_not_admitted, "misses of keys evicted from RAM and not found worth a write to flash") \
    X(evicted_write_limit, "misses of keys evicted from RAM because of the limits of writing")     \
    X(evicted_short_ttl, "misses of keys that would have expired before they were on flash")       \
    X(evicted_device, "misses of keys evicted from RAM because no device took writes")             \
    X(evicted_from_flash, "misses of keys given up with their flash page, to make room")           \
    X(flash_gone, "misses of keys on flash files or devices that were gone at the start")          \
    X(unreadable, "misses because the record on flash could not be read")                          \
    X(no_memory, "misses because there was no memory to read the record to")
enum miss_reason {
#define X(name, help) MISS_##name,
    MISS_TABLE(X)
#undef X
        MISS_REASON_COUNT
};
static_assert(MISS_REASON_COUNT <= 16, "four bits");

struct departed;

/* A table of this size at most, a power of two; NULL: no memory. Untouched memory costs nothing. */
struct departed *departed_create(uint64_t bytes_max);
void departed_destroy(struct departed *d);

/* Notes that the key of this hash left. d may be NULL. */
void departed_note(struct departed *d, uint64_t hash, enum miss_reason reason);
/* Why it left; MISS_never_stored if the table doesn't know. */
enum miss_reason departed_find(const struct departed *d, uint64_t hash);

const char *miss_reason_name(enum miss_reason reason);

#endif
