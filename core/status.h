/*
 * What a daemon knows about its databases, as plain data: filled on the loop thread by the stream controller and its
 * workers, copied to whoever prints it (status --json, /metrics, /healthz). Strings are fixed arrays, so copies are cheap.
 */
#ifndef MS_CORE_STATUS_H
#define MS_CORE_STATUS_H

#include "core/types.h"

enum ms_stream_state {
	MS_STREAM_STARTING,
	MS_STREAM_WAITING,   /* missing, empty, not WAL, refused: `why` says; watching */
	MS_STREAM_SEEDING,   /* following; the first snapshot of the generation has not reached every required replica */
	MS_STREAM_CATCHUP,   /* comparing page sums after a blind interval */
	MS_STREAM_FOLLOWING,
	MS_STREAM_PAUSED,    /* by `migstream pause` */
	MS_STREAM_BLOCKED,   /* cannot journal (disk full, I/O error): the database is let go, a catch-up is owed */
	MS_STREAM_FENCED,
	MS_STREAM_FAILED,
	MS_STREAM_STOPPED,
	MS_STREAM_STATES
};
const char *ms_stream_state_name(enum ms_stream_state s); /* "following", ... */

enum ms_worker_state {
	MS_WORKER_CLAIMING,   /* reading the head, taking ownership */
	MS_WORKER_SEEDING,    /* its first snapshot is under way */
	MS_WORKER_IDLE,	      /* caught up */
	MS_WORKER_UPLOADING,
	MS_WORKER_CATCHUP,    /* what the journal could not be kept for is being put as one catch-up */
	MS_WORKER_RETRYING,   /* last call failed; lastError says why */
	MS_WORKER_FENCED,
	MS_WORKER_FAILED,     /* permanent */
	MS_WORKER_STOPPED,
	MS_WORKER_STATES
};
const char *ms_worker_state_name(enum ms_worker_state s);
struct ms_worker_status;
/* Nobody should wait for this replica: it has failed for patience_us, or in a way that waiting alone does not mend (credentials, permissions,
 * a place that is not there, anything permanent). It is tried again all the same. */
bool ms_worker_hopeless(const struct ms_worker_status *w, int64_t patience_us);

#define MS_STATUS_TEXT 512

struct ms_worker_status {
	char name[128];	     /* configured name, or the type */
	char type[16];	     /* URL scheme */
	char url[512];	     /* without secrets */
	enum ms_worker_state state;
	bool required, authority;
	bool no_base; /* its first snapshot is not there: nothing restores from it yet */
	uint64_t txid;	     /* cursor: everything up to here is on the replica */
	uint64_t settled_txid;
	int64_t cursor_time_us; /* commit time of txid */
	int64_t oldest_unshipped_us; /* commit time of the oldest commit not held, 0 = none: lag = now - this */
	int64_t last_uploaded_us;
	uint64_t pending_bytes;
	uint64_t puts, put_bytes, put_failures, retries, segments, snapshots, removals;
	uint64_t put_us_total;
	uint64_t bandwidth;	   /* configured, bytes a second; 0 = no limit */
	uint64_t limited_us_total; /* that puts have waited for it */
	bool limited;		   /* a put waits for it just now */
	/* Commits that the journal gave up for this replica. Owed: not there yet, and to come as one catch-up. Folded: there as part of one. */
	uint64_t owed_commits, owed_pages;
	uint64_t owed_first, owed_last;	    /* txids; 0 nothing is owed */
	uint64_t catchups, folded_commits;  /* since start */
	uint64_t folded_first, folded_last; /* txids of the newest catch-up, of which only the last restores */
	int64_t last_snapshot_us;
	uint64_t last_snapshot_txid;
	char last_error[MS_STATUS_TEXT];
	int64_t last_error_us;
	int64_t failing_us;	   /* since the first of the failures in a row; 0 = the last call worked, or none was made */
	enum ms_code failing_code; /* of the newest of them */
	bool holds_snapshot;	   /* what fails is an object of a snapshot, which goes on, for every replica, when it is there */
};

struct ms_stream_status {
	char name[128];
	char path[4096];
	enum ms_stream_state state;
	char why[MS_STATUS_TEXT]; /* for WAITING, BLOCKED, FENCED, FAILED: what is wrong and what to do */
	struct ms_generation generation;
	struct ms_dbstate db; /* captured state: txid, time, checksum, sizes */
	uint64_t journalled_txid; /* durable in the journal */
	uint64_t wal_bytes, shadow_bytes, frames, commits, record_bytes, raw_bytes, deltas, fulls, stored;
	uint64_t catchups, lost_commits, snapshots, step_errors;
	uint64_t blind_catchups; /* of the catchups, those whose number of commits is not known: lost_commits does not count them */
	int64_t last_commit_us;
	int64_t capture_to_journal_us_max;
	int64_t clock_back_us; /* largest step back of the clock seen */
	uint32_t nworkers;
	struct ms_worker_status *workers; /* owned */
};
void ms_stream_status_release(struct ms_stream_status *s);
/* Seconds since the oldest acknowledged commit that some required replica does not hold; 0 when all hold everything. */
double ms_stream_data_loss_window(const struct ms_stream_status *s, int64_t now_us);

#endif
