/*
 * From journal entries to segment objects (DESIGN §6): a run of transactions is read once for the totals that a segment's header
 * states, then streamed into a put without encoding anything again. Memory: two journal entries and one block, whatever the run's size.
 * Blocking; pool threads.
 */
#ifndef MS_CORE_SEGMENT_UPLOAD_H
#define MS_CORE_SEGMENT_UPLOAD_H

#include "core/journal_walk.h"
#include "core/segment.h"
#include "replicas/replica.h"

/* Where a run begins. */
struct ms_run_start {
	const char *db;
	uint64_t seq; /* first journal entry */
	struct ms_generation generation;
	struct ms_dbstate state; /* before it */
	struct ms_lineage fork;	 /* parent not empty: the run is the first of a generation forked there */
	uint32_t epoch;
	uint64_t segment_bytes; /* most record bytes of a segment; one larger transaction is one larger segment */
	uint64_t object_max;	/* a transaction with more record bytes is cut into parts of at most this (at least one entry each) */
	uint32_t part;		/* > 0: goes on with this part of the transaction after `state`, whose next entry is `seq` */
};

enum ms_run_what {
	MS_RUN_NOTHING,	   /* nothing complete is durable yet */
	MS_RUN_SEGMENT,	   /* info, range, after are filled */
	MS_RUN_GENERATION, /* a generation starts here: `start`, next_seq */
};
struct ms_run {
	enum ms_run_what what;
	struct ms_segment_info info;
	uint64_t from_seq, next_seq; /* its entries: [from_seq, next_seq) */
	uint64_t bytes;		     /* record bytes */
	struct ms_dbstate after;     /* equals the state before when info.more */
	bool full;		     /* ended by its bound: more is waiting */
	struct ms_generation_start start; /* owned */
};
void ms_run_release(struct ms_run *r);
/* MS_EGAP when the journal does not lead on from start (purged or damaged, or another history). */
enum ms_code ms_run_scan(struct ms_journal *j, const struct ms_run_start *start, struct ms_run *ret, struct ms_err *err) MS_WARN_UNUSED;

/* The run as the body of a put. Heap; a failed read of the journal fails the put. compression: of blocks (core/artefact.h). */
struct ms_segment_body;
enum ms_code ms_segment_body_new(struct ms_journal *j, const char *db, const struct ms_run *run, int compression, struct ms_segment_body **ret,
				 struct ms_err *err) MS_WARN_UNUSED;
void ms_segment_body_free(struct ms_segment_body *b);
struct ms_body *ms_segment_body(struct ms_segment_body *b);
uint64_t ms_segment_body_sent(const struct ms_segment_body *b); /* bytes read so far */

/* Does the journal, from start on, produce exactly the chain that an existing segment states? *ret_same; then *ret_after and *ret_seq are the state
 * and the next entry behind it. For a part of a transaction, records (its whole content) are compared: see ms_run_same_part. */
enum ms_code ms_run_same(struct ms_journal *j, const struct ms_run_start *start, const struct ms_segment_info *info, bool *ret_same,
			 struct ms_dbstate *ret_after, uint64_t *ret_seq, struct ms_err *err) MS_WARN_UNUSED;
/* Compares a stored part, read from the replica, with the journal record by record. *ret_seq: the entry where the next part begins. */
enum ms_code ms_run_same_part(struct ms_journal *j, const struct ms_run_start *start, struct ms_replica *r, const char *name, bool *ret_same,
			      uint64_t *ret_seq, struct ms_err *err) MS_WARN_UNUSED;

#endif
