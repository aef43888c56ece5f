/*
 * A worker brings one database's journal to one replica (DESIGN §6): claims ownership, uploads segments in journal order, keeps
 * a durable cursor, puts the objects of snapshots, applies retention. A state machine on the loop thread; every backend call
 * is a job on MS_LANE_UPLOAD. It owns a handle for segments, heads and lists, and one for each snapshot
 * object under way, as many as the backend calls useful and at most MS_WORKER_SNAP_PUTS; those but the first are closed when the snapshot has ended.
 *
 * The cursor file (core/cursor.h, at state_path) is written after the object is durable. Removal lists live in heads: what a stopped worker
 * had not removed yet is planned anew.
 */
#ifndef MS_CORE_WORKER_H
#define MS_CORE_WORKER_H

#include "core/claim.h"
#include "core/head.h"
#include "core/journal.h"
#include "core/snapshot.h"
#include "core/status.h"
#include "replicas/replica.h"

struct ms_worker_config {
	const char *db;	  /* name in the journal */
	const char *name; /* of the replica, for logs and status */
	const struct ms_replica_spec *spec;
	const char *url; /* printable */
	const char *state_path;
	const char *owner, *host;
	bool required, authority;
	bool fencing_none;  /* backend without create-if-absent: no head, no fence */
	bool takeover;	    /* `takeover: auto`, or asked for by `migstream takeover` */
	int64_t min_interval_us;
	uint64_t bandwidth;	/* bytes a second for segments and snapshots; 0 = no limit */
	unsigned concurrency;	/* snapshot objects under way at once, up to MS_WORKER_SNAP_PUTS; 0 = as many as the backend calls useful, 1 with a bandwidth */
	uint64_t segment_bytes; /* most record bytes put into one segment; 0 = 16 MiB. One larger transaction is one larger object. */
	uint64_t object_max;	/* a transaction above this spans parts; 0 = 1 GiB */
	int64_t snapshot_retention_us, check_interval_us; /* retention; 0 = keep everything / never */
	int64_t snapshot_spacing_us; /* snapshots that lie closer are thinned (core/retention.h); 0 = none */
	int compression; /* of segments' blocks: core/artefact.h */
	int64_t removal_grace_us; /* between a removal list and its removals; 0 = 10 min */
};

/* What the replica holds, found before anything is written (result of a probe). */
struct ms_probe {
	bool reachable; /* false: err says why; the worker will go on trying */
	struct ms_err err;
	bool empty;	/* no head, no objects of ours */
	struct ms_head head; /* newest; number 0 when empty. Borrowed for the callback. */
	bool same_owner;
	/* newest state on the replica in head.generation */
	struct ms_dbstate tail;
	bool tail_is_snapshot;
};

struct ms_worker;
#define MS_WORKER_SNAP_PUTS 4u /* snapshot objects under way */

struct ms_worker_hooks { /* loop thread */
	void (*probed)(void *arg, struct ms_worker *w, const struct ms_probe *p); /* once after ms_worker_probe */
	void (*changed)(void *arg, struct ms_worker *w);			   /* cursor, state or error changed */
	/* Ownership lost or refused: err.code MS_EFENCED, the text names both positions and the command to type. */
	void (*fenced)(void *arg, struct ms_worker *w, const struct ms_err *err);
	/* The replica has no usable base for what comes next (new root generation, wiped, cursor purged from the journal): nothing
	 * restores until the stream has given it a snapshot. Segments go on where the journal leads on from the cursor. */
	void (*need_snapshot)(void *arg, struct ms_worker *w, const char *reason);
	void *arg;
};

enum ms_code ms_worker_new(struct ms_env *env, struct ms_journal *j, const struct ms_worker_config *cfg, const struct ms_worker_hooks *hooks,
			   struct ms_worker **ret, struct ms_err *err) MS_WARN_UNUSED;
/* Starts reading the replica; probed() follows (with reachable=false after timeout_us at the latest; start() tries by itself). Also after fenced(). */
void ms_worker_probe(struct ms_worker *w, int64_t timeout_us);
/* After the stream has decided its generation and journalled it: claims the replica (head n+1, epoch), checks the tail against
 * local (DESIGN §15 "who is right at start"), then ships. epoch is the epoch of this start (the worker raises it if the head's is higher). */
void ms_worker_start(struct ms_worker *w, const struct ms_local_facts *local);
/* The journal's durable prefix has grown (cheap; call it for every worker). */
void ms_worker_kick(struct ms_worker *w);
unsigned ms_worker_snapshot_puts(const struct ms_worker *w); /* that it takes at once */
bool ms_worker_snapshot_idle(const struct ms_worker *w);	     /* nothing of an earlier snapshot is under way any more */
/* Puts one object of a snapshot; retries by itself until it is there (EEXISTS with equal bytes counts as done), or the worker is fenced
 * or stopped, or its class is not retried (done then gets the error: MS_ECONFLICT when something else lies under the name).
 * done gets MS_EEXISTS, as a success, where a chunk of the same content is there in other bytes. data stays valid until done. At most
 * MS_WORKER_SNAP_PUTS at a time, which may end in any order; they wait for the claim. */
void ms_worker_put_snapshot_object(struct ms_worker *w, const char *name, const uint8_t *data, size_t len,
				   void (*done)(void *arg, const struct ms_err *err), void *arg);
/* The snapshot goes on without this worker: what it has under way is cancelled, and done gets MS_ECANCELED, now or soon. */
void ms_worker_leave_snapshot(struct ms_worker *w);
/* The manifest is on the replica: cursor moves to it if the worker was waiting for a base (journal_seq = first entry after the snapshot's state). */
void ms_worker_snapshot_published(struct ms_worker *w, const struct ms_manifest *m, uint64_t journal_seq, uint64_t bytes);
/* Lowest journal sequence that is still to be kept for this worker; UINT64_MAX none (it waits for a snapshot that becomes its cursor). */
uint64_t ms_worker_needs_seq(const struct ms_worker *w);
/* Does the journal wait for this worker? Not where the replica is not required, nor where commits are owed to it as a catch-up already. */
bool ms_worker_holds_journal(const struct ms_worker *w);
/* The journal before this sequence has to go: what this worker still needs of it is folded into its owed pages (core/owed.h), durably, in the
 * background; needs_seq() follows, and changed() is called. */
void ms_worker_let_go(struct ms_worker *w, uint64_t before);

/* ---- catch-up: the commits that are owed and no longer in the journal, as one (core/catchup_run.h) ---- */
/* Claimed, not waiting for its next try after a failure, and owed commits that no journal holds. */
bool ms_worker_wants_catchup(const struct ms_worker *w);
bool ms_worker_owes(const struct ms_worker *w);
const struct ms_dbstate *ms_worker_position(const struct ms_worker *w); /* the cursor's state */
/* What was folded came to nothing: the database stands where the replica does. */
void ms_worker_nothing_owed(struct ms_worker *w);
/* NULL while it is being written to. Borrowed, until the loop thread goes on. */
const struct ms_owed *ms_worker_owed(const struct ms_worker *w);
struct ms_catchup_part {
	struct ms_dbstate base; /* the cursor's state that the catch-up applies to */
	const uint8_t *records; /* whole records, valid until done */
	size_t len;
	uint64_t frames;
	bool last;	       /* ends with the commit record; then: */
	struct ms_dbstate end; /* the state after it */
	uint64_t seq;	       /* next journal entry behind it */
};
bool ms_worker_ready(const struct ms_worker *w); /* not waiting for its next try after a failure */
/* Tries to put one object of a catch-up. done gets MS_EFENCED; MS_ECANCELED when the worker is stopped or its cursor has moved (the catch-up is then to be
 * begun anew); or what the put failed with: it may be there all the same, and another one may be given, best once the worker is ready. With
 * the last part the cursor moves. One at a time. */
void ms_worker_put_catchup(struct ms_worker *w, const struct ms_catchup_part *part, void (*done)(void *arg, const struct ms_err *err), void *arg);
bool ms_worker_waits_for_snapshot(const struct ms_worker *w);
bool ms_worker_caught_up(const struct ms_worker *w); /* everything durable in the journal is on the replica */
/* Record bytes put since the last snapshot (for the snapshot policy), and that snapshot's time (0 none). */
uint64_t ms_worker_bytes_since_snapshot(const struct ms_worker *w);
int64_t ms_worker_last_snapshot_us(const struct ms_worker *w);
/* Takes ownership from another owner (the config's takeover, given later). A fenced worker that had been started claims again at once; one
 * that was refused because the replica is ahead needs a new generation first: probe, fork, start. */
void ms_worker_allow_takeover(struct ms_worker *w);
/* Takes over required, min_interval_us, bandwidth, concurrency (of snapshot objects) and what concerns retention; nothing else of cfg is looked at. */
void ms_worker_tune(struct ms_worker *w, const struct ms_worker_config *cfg);
void ms_worker_status(const struct ms_worker *w, struct ms_worker_status *ret);
/* Runs retention now (tests, `prune`). */
void ms_worker_prune_now(struct ms_worker *w);
/* Ships what is durable until deadline_us from now (0 = at once: cancel), then stopped(arg), never from within this call. No callbacks
 * afterwards. */
void ms_worker_stop(struct ms_worker *w, int64_t deadline_us, void (*stopped)(void *arg), void *arg);
void ms_worker_free(struct ms_worker *w); /* after stopped, when never started, or on a dead simulated machine */

#endif
