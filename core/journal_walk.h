/*
 * Reads one database's entries in the durable journal as whole transactions and generation starts: the one place that knows
 * how transactions lie in entries. Blocking; one thread.
 */
#ifndef MS_CORE_JOURNAL_WALK_H
#define MS_CORE_JOURNAL_WALK_H

#include "core/journal.h"
#include "core/stream_entry.h"

struct ms_walk_tx {
	uint64_t txid;
	uint32_t flags; /* MS_COMMIT_* */
	struct ms_dbstate state; /* after it */
	uint64_t first_seq, next_seq; /* its entries, and where reading goes on */
	uint64_t bytes, frames;	      /* record bytes and page records */
	bool after_broken;	      /* entries of a transaction that was given up lie right before it */
};
/* Both return false to stop the walk. NULL: not interested. */
struct ms_walk_visitor {
	bool (*tx)(void *arg, const struct ms_walk_tx *tx);
	bool (*generation)(void *arg, const struct ms_generation_start *g, uint64_t seq, uint64_t next_seq);
	/* Entries are missing before `seq` (purged or damaged). NULL: the walk ends with MS_EGAP. */
	bool (*gap)(void *arg, uint64_t seq);
	void *arg;
};
/* From from_seq (0 = the oldest there is) to the durable end. *ret_end (may be NULL): where a later walk has to begin so as to miss nothing: the
 * first entry of an unfinished transaction, or the next sequence. A transaction whose first entry lies before from_seq is skipped. */
enum ms_code ms_journal_walk(struct ms_journal *j, const char *db, uint64_t from_seq, const struct ms_walk_visitor *v, uint64_t *ret_end,
			     struct ms_err *err) MS_WARN_UNUSED;

/* Counts the page records of an entry and finds its commit (has_commit). */
struct ms_walk_records {
	uint64_t frames;
	bool has_commit;
	struct ms_commit commit; /* attrs borrowed */
};
enum ms_code ms_walk_records(const uint8_t *records, size_t len, struct ms_walk_records *ret, struct ms_err *err) MS_WARN_UNUSED;

#endif
