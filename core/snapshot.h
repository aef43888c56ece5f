/*
 * Snapshot: every page of a database at one txid (DESIGN §7), as a manifest object written last and chunk objects (docs/formats.md
 * "Snapshot chunk", "Snapshot manifest").
 *
 * Chunk ("CHNK"): pages first .. first+count-1, raw page images in blocks of kind 2 with at most MS_BLOCK_MAX raw bytes each,
 * compressed. Header map: 1 first page, 2 pages, 3 page size, 4 content hash (sum of page hashes, the lock page left out).
 * A patch chunk holds any pages, ascending, as patches are (blocks of kind 3): 1 is the lowest of them, 4 the complement of the sum, and 5 true.
 * Manifest ("SNAP") header map (a key that equals its default is left out): 1 generation, 2 txid, 3 time us, 4 page size, 5 db pages,
 * 6 checksum, 7 permission bits, 8 chunk table (bytes; default none), 9 pages per chunk (default 0), 10 patch pages (default 0),
 * 11 parent generation, 12 fork txid, 13 epoch (default: the generation's), 14 inline (bool, default false: all pages are in the
 * manifest's own blocks, kind 2, in order), 15 array of the other generations whose chunks are named, 16 the generation is a seeded one
 * (bool, default false; struct ms_lineage), 17 patch table (bytes; default none).
 * Chunk table: for each chunk varint pages | u64le content hash | varint object bytes | varint generation (0 = the manifest's, k = the
 * k-th of key 15). Chunks follow each other from page 1; they may end before db pages, then patches hold every page after them.
 * Patch table: for each patch chunk varint lowest page | the rest as in the chunk table. They override chunks and earlier patch chunks;
 * pages of theirs beyond db pages are passed over.
 * Blocks of kind 3, after those of kind 2, hold patches that override chunks: concatenated (u32le pgno, page bytes), pgno ascending.
 * Applied in order: chunks or inline pages, patch chunks, then patches; then the database checksum must match.
 * A database of at most MS_SNAPSHOT_INLINE bytes is inline. The lock page's bytes are whatever the caller gives (zeros from SQLite
 * sources); no hash or checksum counts them, only block checksums.
 */
#ifndef MS_CORE_SNAPSHOT_H
#define MS_CORE_SNAPSHOT_H

#include "core/artefact.h"
#include "core/types.h"

#define MS_SNAPSHOT_CHUNK_BYTES (4u << 20) /* raw bytes of pages per chunk; the manifest states it, readers accept up to 64 MiB */
#define MS_CHUNK_BYTES_MAX (64u << 20)
#define MS_SNAPSHOT_INLINE (4u << 20)
#define MS_SNAPSHOT_PATCH_MAX (8u << 20) /* raw bytes of patches in one manifest */

struct ms_chunk_ref {
	uint32_t first_page, pages;
	uint64_t hash;
	uint64_t bytes; /* object size */
	struct ms_generation generation; /* where the object lies; never empty */
	bool patch; /* any pages, the lowest being first_page */
};

struct ms_manifest {
	struct ms_generation generation;
	struct ms_dbstate state;
	uint32_t mode; /* permission bits of the source file */
	uint32_t pages_per_chunk;
	struct ms_chunk_ref *chunks; /* owned; patch chunks last, in the order in which they apply */
	uint32_t nchunks;
	uint32_t npatches;
	struct ms_generation parent_generation;
	uint64_t fork_txid;
	bool seeded; /* as in struct ms_lineage */
	uint32_t epoch;
	bool inline_pages;
};
void ms_manifest_release(struct ms_manifest *m);

/* Encodes a whole chunk object into out. pages = count * page_size bytes, at most MS_CHUNK_BYTES_MAX. *ret_hash = its content hash.
 * Any pool thread. */
enum ms_code ms_chunk_encode(uint32_t first_page, uint32_t count, uint32_t page_size, const uint8_t *pages, int level,
			     struct ms_buf *out, uint64_t *ret_hash, struct ms_err *err) MS_WARN_UNUSED;
/* The same for a patch chunk: pgno ascending. */
enum ms_code ms_chunk_encode_patch(const uint32_t *pgno, uint32_t count, uint32_t page_size, const uint8_t *pages, int level, struct ms_buf *out,
				   uint64_t *ret_hash, struct ms_err *err) MS_WARN_UNUSED;
/* Encodes a manifest; MS_EINVAL when m contradicts itself (chunks not contiguous from page 1, pages that nothing covers, ...). inline_pages: db_pages * page_size bytes or NULL. patches: npatches images in ascending pgno order. */
enum ms_code ms_manifest_encode(const struct ms_manifest *m, const uint8_t *inline_pages, const uint32_t *patch_pgno,
				const uint8_t *patch_pages, int level, struct ms_buf *out, struct ms_err *err) MS_WARN_UNUSED;

/* Page sink of the decoders: a run of consecutive raw pages, verified by block checksums. */
struct ms_page_sink {
	enum ms_code (*pages)(void *arg, uint32_t first_page, uint32_t count, uint32_t page_size, const uint8_t *data, struct ms_err *err);
	void *arg;
};
struct ms_chunk_reader;
/* expect (copied): the manifest's reference; any disagreement is MS_ECORRUPT (bytes = 0: size not known). sink is copied. Pages are
 * delivered block by block (those of a patch chunk one by one), before the content hash has been compared in ms_chunk_finish. */
struct ms_chunk_reader *ms_chunk_reader_new(const struct ms_chunk_ref *expect, uint32_t page_size, const struct ms_page_sink *sink);
void ms_chunk_reader_free(struct ms_chunk_reader *r);
enum ms_code ms_chunk_push(struct ms_chunk_reader *r, const void *data, size_t len, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_chunk_finish(struct ms_chunk_reader *r, struct ms_err *err) MS_WARN_UNUSED;

/* Two passes are possible: with sink == NULL only the manifest is filled (header). With a sink (copied), inline pages and patches are
 * delivered as they are read (patches one page at a time). *ret is cleared here and filled as soon as the header is there, before the
 * sink's first call; it is proven whole only by ms_manifest_finish, which also compares the database checksum of an inline manifest
 * without patches. The caller releases *ret in every case. */
struct ms_manifest_reader;
struct ms_manifest_reader *ms_manifest_reader_new(struct ms_manifest *ret, const struct ms_page_sink *sink);
void ms_manifest_reader_free(struct ms_manifest_reader *r);
enum ms_code ms_manifest_push(struct ms_manifest_reader *r, const void *data, size_t len, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_manifest_finish(struct ms_manifest_reader *r, struct ms_err *err) MS_WARN_UNUSED;

#endif
