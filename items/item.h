/* items/item.h: the layout of an item in RAM, and nothing else.
 *
 * An item is a fixed header of 26 bytes, then, packed: cas (8 bytes, absent
 * with -C), client flags (4 bytes, absent when 0), key, value. There is no
 * terminating NUL and no "\r\n" after the value. Slab classes and `stats`
 * account memcached's size of the same item (48-byte header, NUL, "\r\n"):
 * item_accounted_bytes().
 *
 * Items live in the arena; LRU links are slab handles. Fields other than
 * refcount are protected as grouped below.
 */
#ifndef EXTANT_ITEM_H
#define EXTANT_ITEM_H

#include "base/base.h"

#define CACHE_KEY_BYTES_MAX 250

/*      name       bit     meaning */
#define ITEM_FLAG_TABLE(X)                                                                         \
    X(LINKED, 1, "an index word names it")                                                         \
    X(CAS, 2, "has the cas field")                                                                 \
    X(CFLAGS, 4, "has the client flags field")                                                     \
    X(FETCHED, 8, "was read since it was stored")                                                  \
    X(ACTIVE, 16, "was read twice or more: bumped when it reaches a tail")                         \
    X(TOKEN_SENT, 32, "a meta get has handed out the right to recache")                            \
    X(STALE, 64, "invalidated by md I / ms I")                                                     \
    X(MAY_HIDE_FLASH, 128, "same-tag flash words were unread when it was linked: they may be its older values") \
    X(BINARY_KEY, 512, "the key was given in base64 by a meta command")                            \
    X(HIT_TWICE, 1024, "was read twice or more since it came to RAM")                              \
    X(KNOWN, 2048, "the key was there before: overwritten, or brought back from flash")
enum item_flag {
#define X(name, bit, what) ITEM_##name = bit,
    ITEM_FLAG_TABLE(X)
#undef X
};
/* The flags that survive on flash, in the record's 8-bit item_flags. */
#define ITEM_FLASH_FETCHED 1
#define ITEM_FLASH_TOKEN_SENT 2
#define ITEM_FLASH_STALE 4
#define ITEM_FLASH_BINARY_KEY 8
#define ITEM_FLASH_CLASS_SHIFT 4 /* above: the class it was admitted in (items/admission.h) */

struct item {
    /* under the lock of its LRU */
    uint32_t next, prev; /* slab handles; 0 ends the list */
    /* under LOCK_COLUMN of its key; time is also read without */
    _Atomic(uint32_t) time_sec;    /* last access, clock seconds */
    _Atomic(uint32_t) exptime_sec; /* 0 never; clock seconds */
    /* const once linked (value bytes change in place by incr only) */
    uint32_t value_bytes;
    _Atomic(uint16_t) refcount; /* atomic: 1 for being linked, 1 for each holder; 0 frees it */
    _Atomic(uint16_t) flags;    /* enum item_flag; under LOCK_COLUMN, read without for hints */
    uint8_t lru_id;             /* slab class | LRU segment (items/lru.h); under LOCK_COLUMN and LRU lock */
    uint8_t key_bytes;
    char data[]; /* cas, client flags, key, value */
};
#define ITEM_HEADER_BYTES offsetof(struct item, data)
static_assert(offsetof(struct item, data) == 26, "item header");
static_assert(offsetof(struct item, time_sec) == 8, "links come first: maint_thread.c copies the rest");
static_assert(offsetof(struct item, refcount) == 20 && offsetof(struct item, flags) == 22, "item header");
static_assert(offsetof(struct item, lru_id) == 24 && offsetof(struct item, key_bytes) == 25, "item header");
static_assert(CACHE_KEY_BYTES_MAX <= UINT8_MAX, "a key's length fits a byte");

/* memcached's sizes, for accounting */
#define ITEM_ACCOUNTED_HEADER_BYTES 48

static inline unsigned item_flags(const struct item *it)
{
    return atomic_load_explicit(&it->flags, memory_order_relaxed);
}
static inline unsigned item_extra_bytes(unsigned flags)
{
    return ((flags & ITEM_CAS) ? 8u : 0u) + ((flags & ITEM_CFLAGS) ? 4u : 0u);
}
static inline const char *item_key(const struct item *it)
{
    return it->data + item_extra_bytes(item_flags(it));
}
static inline bool item_has_key(const struct item *it, const char *key, size_t key_bytes)
{
    return it->key_bytes == key_bytes && memcmp(item_key(it), key, key_bytes) == 0;
}
static inline char *item_value(struct item *it)
{
    return it->data + item_extra_bytes(item_flags(it)) + it->key_bytes;
}
static inline uint64_t item_real_bytes_of(unsigned key_bytes, uint64_t value_bytes, unsigned flags)
{
    return ITEM_HEADER_BYTES + item_extra_bytes(flags) + key_bytes + value_bytes;
}
static inline uint64_t item_real_bytes(const struct item *it)
{
    return item_real_bytes_of(it->key_bytes, it->value_bytes, item_flags(it));
}
static inline uint64_t item_accounted_bytes_of(unsigned key_bytes, uint64_t value_bytes, unsigned flags)
{
    return ITEM_ACCOUNTED_HEADER_BYTES + item_extra_bytes(flags) + key_bytes + 1 + value_bytes + 2;
}
static inline uint64_t item_accounted_bytes(const struct item *it)
{
    return item_accounted_bytes_of(it->key_bytes, it->value_bytes, item_flags(it));
}
static inline uint64_t item_cas(const struct item *it)
{
    uint64_t cas = 0;
    if (item_flags(it) & ITEM_CAS)
        memcpy(&cas, it->data, sizeof(cas));
    return cas;
}
static inline void item_set_cas(struct item *it, uint64_t cas)
{
    if (item_flags(it) & ITEM_CAS)
        memcpy(it->data, &cas, sizeof(cas));
}
static inline uint32_t item_client_flags(const struct item *it)
{
    uint32_t v = 0;
    unsigned flags = item_flags(it);
    if (flags & ITEM_CFLAGS)
        memcpy(&v, it->data + ((flags & ITEM_CAS) ? 8 : 0), sizeof(v));
    return v;
}

struct cache;
/* The hash of a key. Pure, no lock. */
uint64_t cache_hash(const struct cache *c, const char *key, size_t key_bytes);

#endif
