/*
 * Segment: a run of consecutive transactions of one generation in one object (docs/formats.md "Segment").
 * Header map (a key that equals its default is left out):
 *   1 generation, 2 first txid, 3 last txid (default: first), 4 parent txid (default: first - 1), 5 page size, 6 first time us,
 *   7 last time us (default: first), 8 checksum before, 9 checksum after, 10 kind (0 commit, 1 catch-up, 2 squash; default 0),
 *   11 part (default 0), 12 more parts follow (bool; default false), 13 db pages after, 15 frames, 16 parent generation and 17 fork
 *   txid (only in the first segment of a forked generation; of a seeded one, the parent txid is fork txid + 1), 18 epoch of the writer (default: the generation's). 14 is reserved.
 * Blocks: kind 1 = concatenated whole records; a record never straddles a block, a transaction may.
 * Index (only with two blocks or more, and up to MS_SEGMENT_INDEX_MAX different pages): see core/segment_index.h.
 *
 * A transaction that exceeds one object is cut into parts, each an object of its own that holds nothing else: part 0, 1, .. with
 * `more` set and without a commit record, and a last one with `more` clear that ends with the commit record. first_txid = last_txid in
 * all of them; parts without commit have checksum_after = checksum_before.
 *
 * A catch-up of one replica (kind 1, made where its journal had to go) stands for all of first_txid .. last_txid, first_txid being its
 * parent's successor, and holds one commit, last_txid. It is named like the segment that was due, so that it meets the fence of
 * whoever took over. Its parts without commit name last_txid = first_txid: where it ends is known with its last part only.
 * Since the header comes first and states totals, the writer is given them by the caller, who has read the run once.
 */
#ifndef MS_CORE_SEGMENT_H
#define MS_CORE_SEGMENT_H

#include "core/artefact.h"
#include "core/codec.h"

enum ms_segment_kind { MS_SEG_COMMIT = 0, MS_SEG_CATCHUP = 1, MS_SEG_SQUASH = 2 };

#define MS_SEGMENT_INDEX_MAX 262144u

struct ms_segment_info {
	struct ms_generation generation;
	uint64_t first_txid, last_txid, parent_txid;
	uint32_t page_size, db_pages;
	int64_t first_us, last_us; /* of the first and last commit */
	uint64_t checksum_before, checksum_after; /* checksum_after is the last commit's; equals before when part without commit */
	enum ms_segment_kind kind;
	uint32_t part;
	bool more;
	uint64_t frames; /* page records */
	struct ms_generation parent_generation; /* empty unless forked here */
	uint64_t fork_txid;
	uint32_t epoch;
};

/* Memory: one block, and up to 12 MiB of index for a segment of more than one block. */
struct ms_segment_writer;
/* info is copied. NULL when out of memory. */
struct ms_segment_writer *ms_segment_writer_new(const struct ms_segment_info *info, struct ms_buf *out);
void ms_segment_writer_free(struct ms_segment_writer *w);
/* Before the first write: how blocks are compressed (core/artefact.h); zstd level 1 otherwise. */
void ms_segment_writer_set_compression(struct ms_segment_writer *w, int compression);
/* Appends record bytes (any number of whole records). Output appears in `out` block by block; drain it between calls. MS_EINVAL, with
 * what is wrong, when the records are not whole or do not fit info. A failure is final. */
enum ms_code ms_segment_write(struct ms_segment_writer *w, const uint8_t *records, size_t len, struct ms_err *err) MS_WARN_UNUSED;
/* Flushes the last block, index, trailer; checks that what was written agrees with info (MS_EINVAL otherwise). */
enum ms_code ms_segment_end(struct ms_segment_writer *w, struct ms_err *err) MS_WARN_UNUSED;

enum ms_code ms_segment_info_encode(const struct ms_segment_info *info, struct ms_buf *out, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_segment_info_parse(const uint8_t *cbor, size_t len, struct ms_segment_info *ret, struct ms_err *err) MS_WARN_UNUSED;

struct ms_segment_callbacks {
	enum ms_code (*info)(void *arg, const struct ms_segment_info *info, struct ms_err *err);
	enum ms_code (*record)(void *arg, const struct ms_record *rec, struct ms_err *err); /* borrowed for the call */
};
struct ms_segment_reader;
/* Checks container, record syntax, txid and time order, page size, checksum_after, and totals against the header. */
struct ms_segment_reader *ms_segment_reader_new(const struct ms_segment_callbacks *cb, void *arg);
void ms_segment_reader_free(struct ms_segment_reader *r);
enum ms_code ms_segment_push(struct ms_segment_reader *r, const void *data, size_t len, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_segment_finish(struct ms_segment_reader *r, struct ms_err *err) MS_WARN_UNUSED;
/* Reads the info from the first bytes of an object. MS_ETOOBIG with *ret_need = bytes needed when p[0..n) is too short. */
enum ms_code ms_segment_peek(const uint8_t *p, size_t n, struct ms_segment_info *ret, size_t *ret_need, struct ms_err *err) MS_WARN_UNUSED;

#endif
