/*
 * A whole restore as one library call (DESIGN §9): list, plan, fetch and apply into a temporary file, prove, put in place.
 * Needs replicas (or a shadow directory) only: no daemon, no config, no local state.
 *
 * ms_restore_start() needs the caller's loop (ms_env_run) running; ms_restore_run() runs it itself. Everything blocking is a job; callbacks come
 * on the loop thread. Memory: page cache (32 MiB) + page hashes (8 bytes a page, up to 32 MiB, then a temporary file) +
 * 16 MiB of prefetched pieces + about 3 MiB for each of `parallel`, whatever the database's size; plus 72 bytes for each listed segment.
 *
 * Errors: MS_EEXISTS, MS_EBUSY (target), MS_ENOTRESTORABLE, MS_EGAP, MS_ECORRUPT (nothing there, no such point, damage), MS_ECANCELED, and
 * classes of files and backends. On any error the target is as it was and no temporary file is left.
 */
#ifndef MS_RESTORE_RESTORE_H
#define MS_RESTORE_RESTORE_H

#include <stdatomic.h>
#include "restore/fetch.h"
#include "restore/plan.h"

enum ms_restore_verify {
	MS_VERIFY_NONE,	    /* chain and checksums while applying (always), no second look at the file */
	MS_VERIFY_CHECKSUM, /* every page read back, hashed, and summed to the database checksum */
	MS_VERIFY_QUICK,    /* and PRAGMA quick_check */
	MS_VERIFY_FULL,	    /* and PRAGMA integrity_check */
};

struct ms_restore_progress {
	const char *phase; /* "listing", "snapshot", "segments", "journal", "verifying", "finishing" */
	uint64_t done_bytes, total_bytes; /* of this phase; total 0 = unknown */
	uint64_t elapsed_us;		  /* since the restore began */
};

struct ms_restore_options {
	const struct ms_restore_replica *replicas; /* the same database's replicas; borrowed until done */
	unsigned nreplicas;
	const char *journal_dir, *journal_db; /* unshipped journal of a live host: directory and name of the database in it; NULL none */
	struct ms_plan_request target;
	const char *path;     /* of the database to make; may be NULL with dry_run */
	const char *temp_dir; /* NULL: beside the target */
	enum ms_restore_verify verify;
	unsigned parallel; /* fetches at once, 1..32; 0 = 4 */
	unsigned umask;	   /* bits that the restored file never gets */
	bool force, if_not_exists, dry_run;
	size_t cache_bytes, hash_bytes; /* 0 = 32 MiB each */
	const atomic_bool *cancel;	/* may be NULL */
	void (*progress)(void *arg, const struct ms_restore_progress *); /* about ten times a second; may be NULL */
	void *arg;
};

struct ms_restore_result {
	struct ms_position position; /* generation whose history holds the txid, and the txid */
	int64_t time_us;	     /* of the commit; 0 in a dry run when only its header would tell */
	uint64_t checksum;
	uint32_t page_size, db_pages, mode;
	bool existed;	    /* if_not_exists, and the target is there: nothing was done */
	uint64_t gap_txid;  /* stop_at_gap: first missing txid, 0 none */
	/* the plan */
	uint64_t snapshot_txid, snapshot_bytes, snapshot_objects; /* manifest and chunks */
	int64_t snapshot_us;
	char snapshot_name[MS_NAME_MAX];
	unsigned snapshot_replica;
	uint64_t segment_bytes, segment_objects, journal_txids;
	uint64_t segments_from, segments_to; /* txids, 0 none */
	/* what happened */
	uint64_t fetched_bytes, commits, pages, elapsed_us;
	unsigned replans;
	char warning[512]; /* "" none */
};

struct ms_restore;
enum ms_code ms_restore_start(struct ms_env *env, const struct ms_restore_options *o,
			      void (*done)(void *arg, const struct ms_restore_result *res, const struct ms_err *err), struct ms_restore **ret,
			      struct ms_err *err) MS_WARN_UNUSED;
void ms_restore_free(struct ms_restore *r); /* after done; accepts NULL */

/* Runs the environment's loop until the restore is over. *ret is filled as far as things went, also on failure. */
enum ms_code ms_restore_run(struct ms_env *env, const struct ms_restore_options *o, struct ms_restore_result *ret, struct ms_err *err) MS_WARN_UNUSED;

#endif
