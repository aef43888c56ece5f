/*
 * Page sums (DESIGN §4): for each page of one database its current hash (8 bytes) and the length of its delta chain (1 byte), in
 * one file read and written with pread/pwrite through a bounded cache. Layout in docs/formats.md "Page sums": blocks of 4,096
 * bytes with their own CRC-64, 448 pages each; two alternating mark slots in front.
 *
 * Durability: a change belongs to a journal sequence. A dirty block is written only when that sequence is durable; the mark
 * ("everything up to sequence S is in this file", with the stream's own state blob) is written after the blocks and an
 * fdatasync. At start the stream replays the journal from the mark: replay is idempotent.
 * One owner thread at a time. Memory: cache_bytes plus an overlay of one transaction (spilled to a temporary file above 4 MiB).
 */
#ifndef MS_CORE_PAGESUMS_H
#define MS_CORE_PAGESUMS_H

#include "base/env.h"
#include "core/types.h"

#define MS_SUMS_BLOB_MAX 1024u

struct ms_pagesums;
/* sync(arg, seq): makes the journal durable up to seq; called when the cache is full of blocks that wait for it. durable(arg):
 * journal's durable sequence. */
struct ms_pagesums_hooks {
	enum ms_code (*sync)(void *arg, uint64_t seq, struct ms_err *err);
	uint64_t (*durable)(void *arg);
	void *arg;
};
/* Opens or creates. *ret_mark_seq = 0 and *ret_blob_len = 0 when new. MS_ECORRUPT when neither mark slot is valid on a non-empty
 * file: the caller resets. A block with a bad CRC is found when read: MS_ECORRUPT. */
enum ms_code ms_pagesums_open(struct ms_env *env, const char *path, size_t cache_bytes, const struct ms_pagesums_hooks *hooks,
			      struct ms_pagesums **ret, uint64_t *ret_mark_seq, uint8_t blob[MS_SUMS_BLOB_MAX],
			      size_t *ret_blob_len, struct ms_err *err) MS_WARN_UNUSED;
void ms_pagesums_close(struct ms_pagesums *p); /* writes nothing; accepts NULL */
/* The newest mark of a file, whoever has it open; changes nothing. MS_ENOTFOUND when the file is missing or empty; MS_ECORRUPT,
 * MS_EUNSUPPORTED as open. */
enum ms_code ms_pagesums_peek(struct ms_env *env, const char *path, uint64_t *ret_mark_seq, uint8_t blob[MS_SUMS_BLOB_MAX], size_t *ret_blob_len,
			      struct ms_err *err) MS_WARN_UNUSED;
/* Forgets everything, as a new empty file (durable). */
enum ms_code ms_pagesums_reset(struct ms_pagesums *p, struct ms_err *err) MS_WARN_UNUSED;

/* Hash and chain of a page as of the last commit plus the transaction under way. A page never set: hash 0, chain 0. */
enum ms_code ms_pagesums_get(struct ms_pagesums *p, uint32_t pgno, uint64_t *ret_hash, uint8_t *ret_chain,
			     struct ms_err *err) MS_WARN_UNUSED;
/* Transaction: begin, set*, then commit(seq of its last journal entry) or abort. truncate drops pages above db_pages (set to 0).
 */
void ms_pagesums_begin(struct ms_pagesums *p);
enum ms_code ms_pagesums_set(struct ms_pagesums *p, uint32_t pgno, uint64_t hash, uint8_t chain,
			     struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_pagesums_truncate(struct ms_pagesums *p, uint32_t from_pages, uint32_t to_pages, uint64_t *ret_sum_dropped,
				  struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_pagesums_commit(struct ms_pagesums *p, uint64_t seq, struct ms_err *err) MS_WARN_UNUSED;
void ms_pagesums_abort(struct ms_pagesums *p);
/* Sum of all hashes of pages 1..db_pages modulo 2^64 (reads the whole file; also proves every block's CRC). */
enum ms_code ms_pagesums_sum(struct ms_pagesums *p, uint32_t db_pages, uint64_t *ret, struct ms_err *err) MS_WARN_UNUSED;
/* Writes every dirty block (all must be durable: calls sync), fdatasync, then the mark (seq, blob), fdatasync. */
enum ms_code ms_pagesums_checkpoint(struct ms_pagesums *p, uint64_t seq, const uint8_t *blob, size_t blob_len,
				    struct ms_err *err) MS_WARN_UNUSED;
uint64_t ms_pagesums_dirty_bytes(const struct ms_pagesums *p);
uint64_t ms_pagesums_mark_seq(const struct ms_pagesums *p);

#endif
