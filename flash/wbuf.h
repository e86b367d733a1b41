/* flash/wbuf.h: write buffers: collect records before they are written.
 *
 * A wbuf covers one slot, known when the wbuf is opened, so a record's place is final when it is
 * appended. Room is reserved under LOCK_EXT_BUCKET (a few additions), bytes are copied and
 * checksummed outside of it, and the append ends by taking itself off the wbuf's writers. The last
 * writer of a closed wbuf hands it to the I/O threads. Until the bytes are on flash the range is
 * DELAYED in extmap; then it is CLEAN, and the buffer serves reads until it is needed again.
 *
 * A write that fails: the chunk is tried again several times with growing pauses, in which the
 * thread does other jobs; then the page is BAD, and the records are appended again elsewhere
 * (ext_callbacks.moved). When that can't be done now (no device takes writes, no buffer), the wbuf
 * is STUCK: it stays readable, and its own write is tried again with growing pauses, which also
 * detects that the device has recovered. A page is not BAD for a write that failed when the device was
 * known to be failed.
 *
 * Threads: append by any; the rest as stated. Locks: LOCK_EXT_BUCKET and later.
 */
#ifndef EXTANT_EXT_WBUF_H
#define EXTANT_EXT_WBUF_H

#include "flash/types.h"

struct ext_wbuf;
struct ext_wbuf_root;

/* Bytes of the longest record that a slot has room for. */
uint64_t ext_record_max_bytes(const struct extstore *e);

/* Appends a record to a bucket: reserves room in an open wbuf, copies and checksums outside any
 * lock of the engine, commits. At return the place is readable. Counts the object as live. Never
 * waits. Hold the LOCK_COLUMN of the hash from before the call until the place is in the index (or
 * dropped): the engine may move a record as soon as it is written, and then asks callbacks.moved
 * for it. 0; -EAGAIN: every wbuf is being written (try when ext_notify_writable says so); -ENOSPC:
 * no free page (reclaim must run first); -E2BIG; -EIO: no device takes writes. */
int ext_append(struct extstore *e, enum ext_bucket bucket, const struct ext_record_in *in,
               ext_place *place, unsigned *len_class);

/* An append that is not finished: the wbuf is not written before ext_append_end(), so a failed
 * write can't move the record before its place is linked. */
struct ext_append {
    struct ext_wbuf *wbuf;
    ext_place place;
    unsigned len_class;
};

/* ext_append in two steps; seq 0 draws a new one; reserve: may use the buffers and
 * pages reserved for reclaim and rewrites. Errors as ext_append; then there is nothing to end. */
int ext_append_begin(struct extstore *e, enum ext_bucket bucket, const struct ext_record_in *in,
                     uint64_t seq, bool reserve, struct ext_append *out);
void ext_append_end(struct ext_append *a);

/* Closes the open wbuf of a stream (a bucket, or a group: flash/groups.h), if there is one, and so has it written. */
void ext_wbuf_close_open(struct extstore *e, unsigned stream);

/* The page that the stream appends to on this device, or EXT_NO_PAGE. */
uint32_t ext_stream_page(const struct extstore *e, unsigned stream, uint32_t device);
/* Ends the stream's pages, full or not, and has its open wbuf written. */
void ext_wbuf_end_stream(struct extstore *e, unsigned stream);

/* Of the pages that are appended to, ends the one that was opened first, full or not, and has its open
 * wbuf written. False: none holds an object. */
bool ext_wbuf_end_oldest_page(struct extstore *e);

/* Writes out open wbufs, waits up to timeout_ms. 0, -ETIMEDOUT, -EIO. */
int ext_sync(struct extstore *e, int64_t timeout_ms);
/* Is the range of this place in memory only? */
bool ext_is_unwritten(struct extstore *e, ext_place place);
/* After the I/O threads have ended: gives up the ranges that are STUCK, to which no word refers. 0; -EBUSY: one is being
 * read. */
int ext_forget_stuck(struct extstore *e);
/* Is a buffer on its way to a device, other than STUCK ones? */
bool ext_is_writing(const struct extstore *e);

/* After an attach: writes the DELAYED ranges of extmap, continues with OPEN pages. Before any
 * append; no locks. */
void ext_wbuf_attach(struct extstore *e);

void ext_wbuf_init(struct extstore *e, uint32_t id, struct ext_wbuf_root *root);

#endif
