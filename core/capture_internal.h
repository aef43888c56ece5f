/* Shared by capture.c and capture_recover.c. */
#ifndef MS_CORE_CAPTURE_INTERNAL_H
#define MS_CORE_CAPTURE_INTERNAL_H

#include <stdatomic.h>
#include "core/capture.h"

/* A page version we have seen: only a hint, used as a delta base when its hash is the expected one. */
struct ms_cached_page {
	uint32_t pgno;
	uint64_t hash;
};

struct ms_capture {
	struct ms_env *env;
	struct ms_journal *journal;
	char *db;
	char *sums_path;
	struct ms_pagesums *sums;
	struct ms_page_encoder *enc;
	struct ms_buf payload; /* records of the entry being built */

	struct ms_generation_start gen; /* generation.s empty: no state */
	bool gen_pending;		/* gen's entry is not known to be in the journal */
	struct ms_dbstate state;
	struct ms_cookie cookie;
	uint64_t last_seq;
	_Atomic uint64_t needs_seq;
	uint64_t bytes_since_mark;

	/* Transaction under way. */
	bool in_tx, entry_written; /* entry_written: an earlier entry of this transaction is in the journal */
	uint64_t tx_checksum;
	uint32_t tx_pages, tx_grown; /* grown: pages past state.db_pages that got a record */
	uint32_t tx_high;	     /* highest page whose hash the transaction has set: a scan may see pages that are gone at its end */
	uint64_t tx_raw, tx_bytes;

	ms_capture_prev prev;
	void *prev_arg;
	void (*touch)(void *arg, uint32_t pgno);
	void *touch_arg;

	uint32_t cache_slots; /* for cache_page_size; 0 = not allocated */
	uint32_t cache_page_size;
	struct ms_cached_page *cache;
	uint8_t *cache_data;
	uint8_t *scratch; /* one page, for prev */

	struct ms_capture_stats stats;
};

size_t ms_capture_blob_encode(const struct ms_capture *c, uint8_t blob[MS_SUMS_BLOB_MAX], struct ms_err *err);
/* Fills gen, state, cookie from the mark's blob. */
enum ms_code ms_capture_blob_decode(struct ms_capture *c, const uint8_t *p, size_t n, struct ms_err *err);
/* Appends the generation entry for c->gen and makes it durable. */
enum ms_code ms_capture_journal_generation(struct ms_capture *c, struct ms_err *err) MS_WARN_UNUSED;
/* Replays the journal after mark_seq. */
enum ms_code ms_capture_replay(struct ms_capture *c, uint64_t mark_seq, struct ms_err *err);

#endif
