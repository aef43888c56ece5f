/*
 * Capture: the path of a page flush into the journal (DESIGN §4). Owns one database's page sums, delta bases and state (generation,
 * txid, checksum); encodes pages into records, appends transactions to the journal. Recovered at open by replaying the
 * journal from the page sums' mark.
 *
 * One thread at a time (the stream's source job, or the embedding application's flush hook). Memory: the page cache
 * (MS_CAPTURE_CACHE), the page sums' cache, one payload of at most MS_CAPTURE_PAYLOAD.
 */
#ifndef MS_CORE_CAPTURE_H
#define MS_CORE_CAPTURE_H

#include "core/journal.h"
#include "core/pagesums.h"
#include "core/stream_entry.h"

#define MS_CAPTURE_CACHE (4u << 20)
#define MS_CAPTURE_PAYLOAD (1u << 20)
#define MS_CAPTURE_LINEAGE 12 /* newest forks kept in the local state; older ones stay in the replicas' heads */

struct ms_capture_config {
	const char *db;	  /* name in the journal */
	const char *dir;  /* the database's own directory in the shadow directory; must exist */
	int level;	  /* zstd */
	bool codec_none;
};

struct ms_capture_stats {
	uint64_t commits, frames, raw_bytes, record_bytes, deltas, fulls, stored, unchanged, catchups, lost_commits;
	uint64_t blind_catchups; /* of the catchups, those that fold an unknown number of commits */
	int64_t clock_back_us;
};

struct ms_capture;
/* Recovers. A state that cannot be trusted (torn sums, a gap in the journal) is dropped: ms_capture_generation() is then empty and
 * *ret_note says why (static buffer of cap bytes; empty when all is well). */
enum ms_code ms_capture_open(struct ms_env *env, struct ms_journal *j, const struct ms_capture_config *cfg, struct ms_capture **ret,
			     char *ret_note, size_t cap, struct ms_err *err) MS_WARN_UNUSED;
void ms_capture_free(struct ms_capture *c); /* writes nothing; accepts NULL */

/* What a database's page sums were marked with, read without opening them for writing: the state as of journal sequence `seq`.
 * What the journal holds behind it comes on top. dir as in the config. MS_ENOTFOUND: nothing has been captured yet. */
struct ms_capture_mark {
	uint64_t seq;
	struct ms_dbstate state;
	struct ms_generation_start gen; /* owned: ms_generation_start_release */
};
enum ms_code ms_capture_peek(struct ms_env *env, const char *dir, struct ms_capture_mark *ret, struct ms_err *err) MS_WARN_UNUSED;

/* Borrowed; generation.s is empty when there is no state. */
const struct ms_generation_start *ms_capture_generation(const struct ms_capture *c);
const struct ms_dbstate *ms_capture_state(const struct ms_capture *c);
const struct ms_cookie *ms_capture_cookie(const struct ms_capture *c);
uint64_t ms_capture_last_seq(const struct ms_capture *c); /* journal sequence of the newest entry of ours, 0 none */
uint64_t ms_capture_needs_seq(const struct ms_capture *c); /* the journal is needed from here for recovery; any thread */
void ms_capture_stats(const struct ms_capture *c, struct ms_capture_stats *ret);
struct ms_pagesums *ms_capture_sums(struct ms_capture *c);

/* Best-effort look-up of a page's version before the transaction under way (source's prev_page). */
typedef bool (*ms_capture_prev)(void *arg, uint32_t pgno, uint8_t *out);
void ms_capture_set_prev(struct ms_capture *c, ms_capture_prev prev, void *arg);
/* Called for each page given to ms_capture_page. NULL to clear. */
void ms_capture_set_touch(struct ms_capture *c, void (*touch)(void *arg, uint32_t pgno), void *arg);

/* Until turned off: cheap records (ms_page_encoder_hurry), for a source that falls behind its writer. */
void ms_capture_hurry(struct ms_capture *c, bool on);
/* One transaction. Needs a state. no_delta: the record is full or stored (catch-up). */
enum ms_code ms_capture_begin(struct ms_capture *c, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_capture_page(struct ms_capture *c, uint32_t pgno, const uint8_t *page, bool no_delta, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_capture_commit(struct ms_capture *c, const struct ms_flush_meta *m, uint32_t commit_flags, int64_t lost_commits,
			       struct ms_err *err) MS_WARN_UNUSED;
void ms_capture_abort(struct ms_capture *c);
uint32_t ms_capture_tx_pages(const struct ms_capture *c); /* page records of the transaction under way */
uint64_t ms_capture_tx_checksum(const struct ms_capture *c); /* of all pages up to ms_capture_tx_extent() */
uint32_t ms_capture_tx_extent(const struct ms_capture *c);   /* last page that has a hash: the old size, or beyond it */

/* A new root generation whose base state's page hashes the caller has just put into the (reset) page sums: journals it durably. */
enum ms_code ms_capture_start_generation(struct ms_capture *c, const struct ms_generation_start *g, const struct ms_cookie *cookie,
					 struct ms_err *err) MS_WARN_UNUSED;
/* The transaction under way turned out to lead to a state the history already holds (parent, fork txid in g): its page hashes are
 * kept, its records are dropped, and the new generation starts there. */
enum ms_code ms_capture_fork(struct ms_capture *c, const struct ms_generation_start *g, const struct ms_cookie *cookie,
			     struct ms_err *err) MS_WARN_UNUSED;
/* Newest transaction in the journal with this checksum and size, other than the newest one. MS_ENOTFOUND when none. */
enum ms_code ms_capture_find_state(struct ms_capture *c, uint64_t checksum, uint32_t db_pages, struct ms_dbstate *ret, struct ms_err *err) MS_WARN_UNUSED;

/* The source's position moved without a change of the database (the next commit's continuity starts there). */
void ms_capture_set_cookie(struct ms_capture *c, const struct ms_cookie *cookie);
/* Writes page sums and their mark, so that the journal behind it may go and a restart replays little. */
enum ms_code ms_capture_checkpoint(struct ms_capture *c, struct ms_err *err) MS_WARN_UNUSED;
/* True when a checkpoint is worthwhile (journal bytes since the mark, dirty blocks). */
bool ms_capture_wants_checkpoint(const struct ms_capture *c);

#endif
