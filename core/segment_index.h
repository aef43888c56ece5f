/*
 * Index of a segment: for each page where its newest record lies (docs/formats.md "Segment index").
 *   varint blocks | for each block: varint stored length | varint pages | for each page, ascending: varint page number less the one
 *   before (0 before the first) | varint block | varint offset in the raw block | varint txid - first txid | varint distance back to
 *   the txid of the previous record of the page in this segment, 0 = none or in the same transaction
 * So the n-th block begins at the first block's offset plus 20 bytes and the stored length of each block before it.
 */
#ifndef MS_CORE_SEGMENT_INDEX_H
#define MS_CORE_SEGMENT_INDEX_H

#include "base/buf.h"

struct ms_index_entry {
	uint32_t pgno;
	uint32_t block;	 /* from 0 */
	uint32_t offset; /* of the record in the raw block */
	uint32_t stored; /* the block's stored length */
	uint64_t block_offset; /* in the object, when first_block was given */
	uint64_t txid;
	uint64_t prev_txid; /* 0 none in this segment */
};

/* Collects records; heap; forgets everything once more than max_pages pages have come. */
struct ms_index_builder;
struct ms_index_builder *ms_index_builder_new(uint64_t first_txid, uint32_t max_pages);
void ms_index_builder_free(struct ms_index_builder *b);
/* A page record at `offset` of the block under way. Its txid is known with its commit. */
enum ms_code ms_index_add(struct ms_index_builder *b, uint32_t pgno, uint32_t offset, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_index_commit(struct ms_index_builder *b, uint64_t txid, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_index_block_done(struct ms_index_builder *b, uint32_t stored, struct ms_err *err) MS_WARN_UNUSED;
/* Appends the index; appends nothing when it was forgotten. Pages without a commit (a part) are given txid `open_txid`. */
enum ms_code ms_index_encode(struct ms_index_builder *b, uint64_t open_txid, struct ms_buf *out, struct ms_err *err) MS_WARN_UNUSED;

/* Finds a page in index[0..n). MS_ENOTFOUND when the segment does not change it. first_block: offset of the first block. */
enum ms_code ms_index_find(const uint8_t *index, size_t n, uint64_t first_txid, uint32_t first_block, uint32_t pgno,
			   struct ms_index_entry *ret, struct ms_err *err) MS_WARN_UNUSED;

#endif
