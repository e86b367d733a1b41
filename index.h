/* index.h: one 64-bit word for each object, in RAM or on flash.
 *
 * Layout. The index is INDEX_SHARD_COUNT shards; a shard is an independent
 * table with its own lock (LOCK_COLUMN), its own memory and its own growth.
 * A bucket is one cache line of eight words. A word is 0 (empty) or
 *
 *   63    62..      ..              ..       0
 *   kind  tag (T)   rank 2  heat 2  len 5  place (P)      1 + T + 2 + 2 + 5 + P = 64
 *
 * kind 1 is flash, 0 is RAM. P is chosen at start to reach all of the flash
 * (in 16-byte granules) and all of the arena (in handles); the remaining bits
 * are the tag, 13 (at 16 TiB of flash) to 32. A RAM word has no rank and
 * len; those with heat are counted (clean_count: items/clean.h). A handle is never 0.
 *
 * Rank orders the flash words of one tag by the time when their values were stored: of two words
 * of one key, the older value never has the higher rank. Equal ranks say nothing. index_rank_above()
 * gives a new word the highest rank; moving a word or changing its heat keeps its rank. So ranks tell
 * without a read which of two words may be the older, however their places are ordered.
 *
 * A key's hash gives the shard and x = (group, tag). A shard has `groups`
 * groups (a constant power of two) and n rows; the bucket of x is (group, row)
 * with row = tag * n >> T. So x can always be rebuilt from position and tag,
 * no key is needed to move a word, and a shard grows by an eighth (n to n + n/8
 * rows) bucket by bucket, each step bounded. The second candidate is
 * x ^ F(low bits of tag), which flips group bits and high tag bits only, so it
 * can be computed from either one; a full bucket gets room by moving words to
 * their other bucket (bounded search), so the load reaches 0.95.
 *
 * More rows make the tag less selective: a look-up meets a foreign word with probability
 * 16 * load * n / 2^T, where n is 8 * bytes / initial bytes. So with large flash, start with at least
 * an eighth of the limit; at 1 TiB (T = 17) and n = 64 the probability is 0.7 %. Without -e FILE,
 * untouched rows cost no RSS.
 *
 * Every change of a word is one aligned 8-byte atomic store, so a killed
 * process leaves a valid table (a move writes the new copy first: after a
 * kill a word may be there twice, and attach removes the second).
 *
 * A tombstone (flash kind, place all ones) marks an object whose page was evicted. One get finds it
 * (for miss_from_extstore); inserts may overwrite it, and growth drops it.
 *
 * Locks: the caller holds index_lock(hash) around everything that takes a hash or a slot, unless it says otherwise;
 * slots are valid until it is released or index_insert is called. No I/O, no waiting.
 */
#ifndef EXTANT_INDEX_H
#define EXTANT_INDEX_H

#include "space/arena.h"
#include "base/base.h"
#include "base/checkpoint.h"
#include "base/lock.h"

#define INDEX_SHARD_COUNT 64
#define INDEX_BUCKET_WORDS 8
#define INDEX_MATCH_MAX 16 /* both buckets full of the same tag */
#define INDEX_RANK_MAX 3

typedef uint64_t index_word;
typedef _Atomic(uint64_t) index_slot;

enum index_kind { INDEX_NONE, INDEX_RAM, INDEX_FLASH, INDEX_TOMBSTONE };

struct index;
struct index_geometry;

struct index_options {
    struct arena *arena;
    uint64_t flash_bytes;     /* what places are to reach: all devices together, 0 without flash */
    const struct index_geometry *like; /* unless NULL, words are laid out so, whatever flash_bytes say */
    uint64_t initial_bytes;   /* a hint; rounded down to 512 KiB * 2^k, at least 512 KiB */
    uint64_t limit_bytes;     /* growth beyond this is refused; may be changed later */
    unsigned handle_bits;     /* how many bits a RAM handle needs */
    bool attached;            /* the arena holds an index: use it as it is */
};

struct index_info {
    /* exact while all shard locks are held, otherwise approximate */
    uint64_t ram_count, flash_count, tombstone_count;
    uint64_t clean_count;   /* RAM words with heat */
    uint64_t slots, bytes;  /* all rows' memory, directories included */
    uint64_t steps;         /* buckets that growth has moved */
    uint64_t displacements; /* words moved to their other bucket to make room */
    uint64_t full_failures; /* searches for room that found none */
    unsigned tag_bits, place_bits;
};

/* Makes the first rows in the arena; or, attached, claims all rows (arena_take), counts the words and
 * repairs what a kill left half done, in about 5 ns a word. Words then stay as they are laid out; initial_bytes and
 * flash_bytes are ignored. NULL with errno: EINVAL more flash or handles than a word can
 * name; EUCLEAN the arena holds no valid index; ENOSPC, ENOMEM. Call it before
 * other threads run. */
struct index *index_create(const struct index_options *opt);
/* Frees the process's private memory; rows stay in the arena for an attach. */
void index_destroy(struct index *ix);
/* A limit below current use only stops growth. Any thread, no lock. */
void index_set_limit(struct index *ix, uint64_t limit_bytes);

/* Was the last refusal of growth for want of memory in the arena, and not for the limit? Any thread, no lock. */
bool index_lacks_memory(const struct index *ix);
/* There is memory in the arena again: shards ask for it with their next insert, without a pause. Any thread, no lock. */
void index_memory_came(struct index *ix);

/* The lock of a hash, of a shard; the caller takes and releases it. */
struct lock *index_lock(struct index *ix, uint64_t hash);
unsigned index_shard_of(const struct index *ix, uint64_t hash);
struct lock *index_shard_lock(struct index *ix, unsigned shard);
/* Where the words of a hash are, found once and used by several calls, at any later time: if the shard has grown since,
 * index_match_at() finds the place again. */
struct index_spot {
    uint64_t hash;
    uint64_t state; /* of the shard when it was found; 0: find it again */
    index_slot *bucket[2];
    uint64_t tag[2]; /* as it stands in a word */
};
/* Finds it, and prefetches both buckets. Needs no lock. */
void index_find(const struct index *ix, uint64_t hash, struct index_spot *spot);
void index_prefetch(const struct index *ix, uint64_t hash); /* the same, for its prefetching alone */
/* The handle of a RAM word with the hash's tag, 0: none. A hint for prefetching only: it needs no
 * lock, so the item may be gone. */
uint32_t index_peek_ram(const struct index *ix, const struct index_spot *spot);

/* Words: taking apart and putting together (tag bits are the index's business). */
enum index_kind index_kind(const struct index *ix, index_word w);
uint32_t index_handle(const struct index *ix, index_word w);  /* RAM */
uint64_t index_place(const struct index *ix, index_word w);   /* flash, in granules */
unsigned index_len(const struct index *ix, index_word w);     /* 5 bits */
unsigned index_heat(const struct index *ix, index_word w);    /* 2 bits */
unsigned index_rank(const struct index *ix, index_word w);    /* flash; 0 .. INDEX_RANK_MAX */
index_word index_make_ram(const struct index *ix, uint32_t handle, unsigned heat);
index_word index_make_flash(const struct index *ix, uint64_t place, unsigned len5, unsigned heat,
                            unsigned rank);
index_word index_make_tombstone(const struct index *ix);
/* The intent to drop several words, a flash word with a place where no record can be: while it stands, the flash
 * words of its tag up to this rank are being dropped. Only an attach after a kill can find one (restart/attach.c). */
index_word index_make_drop_intent(const struct index *ix, unsigned rank);

/* Fills slots[] with every non-empty slot (tombstones too) whose tag is the hash's; returns how
 * many. */
unsigned index_match(struct index *ix, uint64_t hash, index_slot *slots[INDEX_MATCH_MAX]);
/* The same for a spot, which it finds again if the shard has grown. */
unsigned index_match_at(struct index *ix, struct index_spot *spot, index_slot *slots[INDEX_MATCH_MAX]);
/* Of the hash's slots those of flash words up to this rank, except the one in the slot `but` (or NULL). */
unsigned index_match_flash(struct index *ix, uint64_t hash, const index_slot *but, unsigned rank_max,
                           index_slot *slots[INDEX_MATCH_MAX]);
/* The slot of the flash object at exactly this place, of the item with this handle; or NULL. */
index_slot *index_find_place(struct index *ix, uint64_t hash, uint64_t place);
index_slot *index_find_handle(struct index *ix, uint64_t hash, uint32_t handle);
static inline index_word index_load(const index_slot *s)
{
    return atomic_load_explicit((index_slot *)s, memory_order_acquire);
}
/* The rank for a new word that is younger than all flash words of its tag: one above
 * theirs. If one of them has the highest rank, their ranks are lowered first, lowest first, by one store
 * each, so that their order holds at every instant. With more than INDEX_RANK_MAX flash words of one tag
 * the result is INDEX_RANK_MAX, which some of them have too. *item is the slot of the item with this handle, for
 * which the word is meant; NULL: there is none. */
unsigned index_rank_above(struct index *ix, uint64_t hash, uint32_t handle, index_slot **item);
/* Stores another kind/place/len/heat in a slot; the slot's tag stays, the tag of `fresh` is ignored.
 * Updates the counts. */
void index_replace(struct index *ix, uint64_t hash, index_slot *s, index_word fresh);
/* Changes the heat alone. */
void index_set_heat(struct index *ix, uint64_t hash, index_slot *s, unsigned heat);
/* Empties a slot. */
void index_clear(struct index *ix, uint64_t hash, index_slot *s);
/* Adds a word (its tag is ignored). 0; -ENOSPC: no room, and the limit or the arena forbids growth.
 * May do a bounded growth step. Invalidates slots found before, of the whole shard. */
int index_insert(struct index *ix, uint64_t hash, index_word w);

typedef void index_visit(void *ctx, uint64_t hash_like, index_slot *slot, index_word w);
/* Walks a shard under its lock: calls visit for each non-empty word from *pos on, at most
 * max_buckets buckets; returns false at the end of the shard. *pos starts as 0. A word that moves
 * between calls may be seen twice; one that an insert or growth displaced to its other bucket may
 * be missed. visit may clear or replace its slot, but not insert; it gets a hash that
 * stands for the word in calls of this module (shard and x are right). */
bool index_walk(struct index *ix, unsigned shard, uint64_t *pos, unsigned max_buckets, index_visit *visit, void *ctx);

/* Has the hash's shard RAM words with heat? LOCK_COLUMN held. */
bool index_has_clean(const struct index *ix, uint64_t hash);

/* One step of a walk over all shards, of at most max_buckets of one, whose lock it takes and releases. *cursor is 0 at
 * first; false at the end of the last shard. It is below 2^62. */
bool index_walk_step(struct index *ix, uint64_t *cursor, unsigned max_buckets, index_visit *visit, void *ctx);
/* All of it. */
void index_walk_all(struct index *ix, index_visit *visit, void *ctx);

/* A number that the hash of a key and the hash_like of its word have in common, for as long as the index lives; few
 * other keys have it. Pure, needs no lock. */
uint64_t index_common_hash(const struct index *ix, uint64_t hash);

/* Could the word that index_walk() passed with this hash_like belong to a key with this hash, so that
 * index_match() would find it? Pure, needs no lock. */
bool index_is_word_of(const struct index *ix, uint64_t hash_like, uint64_t hash);

/* One bounded step of growth in one shard (takes and releases its lock itself); true iff there is
 * more to do. For the maintenance thread, so that inserts rarely have to. */
bool index_grow_step(struct index *ix, unsigned shard);
/* While growth is held, index_grow_step() does nothing: without inserts no word moves, so walks that begin after
 * this call see each word once. Inserts still grow what they need. Any thread, no lock. */
void index_hold_growth(struct index *ix, bool hold);
bool index_growth_is_held(const struct index *ix);

/* The layout of a word and its position: rows saved under one geometry are meaningless under
 * another. */
struct index_geometry {
    unsigned group_bits, tag_bits, place_bits;
};
void index_geometry(const struct index *ix, struct index_geometry *out);
/* Places of objects are below this one. */
uint64_t index_place_limit(const struct index *ix);
/* Writes the rows as they are. The index holds no RAM word, and no other thread uses it. 0 or
 * checkpoint_put's error. */
int index_save_rows(const struct index *ix, struct checkpoint_writer *w);
/* Reads rows that index_save_rows wrote under the same geometry into a new index. 0;
 * -ENOSPC: the limit or the arena has no room for them; -EUCLEAN: they make no sense; checkpoint_get's
 * error. After a failure only index_destroy() may be called. */
int index_load_rows(struct index *ix, struct checkpoint_reader *r);

void index_info(struct index *ix, struct index_info *out);
/* How many objects limit_bytes can hold at the load that the index reaches; a few per cent less if
 * a shard then has only about ten rows. Pure. */
uint64_t index_capacity(uint64_t limit_bytes);

#endif
