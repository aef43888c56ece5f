/*
 * Inside of a worker. Its jobs are blocking functions that run on pool threads with a struct ms_task of their own: the loop thread fills
 * the task before submit() and takes the result in done(); in between neither side looks at the other's fields.
 *
 *   main   probe, claim, ship, catch-up, check, save, plan, remove: one at a time, on the handle `main`
 *   scan   reads ahead what waits in the journal (for lag, pending bytes, and whether there is anything to ship)
 *   snap   puts of snapshot objects, several at once, each on a handle of its own
 */
#ifndef MS_CORE_WORKER_INTERNAL_H
#define MS_CORE_WORKER_INTERNAL_H

#include <stdatomic.h>

#include "core/claim.h"
#include "core/names.h"
#include "core/owed.h"
#include "core/retention.h"
#include "core/segment_upload.h"
#include "core/worker.h"
#include "replicas/retry.h"
#include "replicas/throttle.h"

#define MS_WORKER_HEAD_MAX (16u << 20)
#define MS_WORKER_MANIFEST_MAX (64u << 20)

/* What a replica holds (worker_view.c). */
struct ms_view {
	bool has_head;
	struct ms_head head; /* owned */
	bool has_tail, tail_is_snapshot, has_base;
	struct ms_dbstate tail; /* newest state in head.generation, of a segment or a snapshot */
	bool has_segments;
	struct ms_dbstate segments; /* newest state of a segment: behind it segments are missing even if a snapshot is newer */
	uint64_t snapshot_txid; /* newest snapshot of head.generation, 0 none */
	int64_t snapshot_us;
};
void ms_view_release(struct ms_view *v);
/* known_head, near: where to begin listing (a head number and a segment's first txid from the cursor); 0 = from the first. */
enum ms_code ms_view_read(struct ms_replica *r, uint32_t known_head, const struct ms_generation *near_generation, uint64_t near,
			  struct ms_view *ret, struct ms_err *err) MS_WARN_UNUSED;
/* Newest head; *ret_found false when there is none. */
enum ms_code ms_view_head(struct ms_replica *r, uint32_t known, bool *ret_found, struct ms_head *ret, struct ms_err *err) MS_WARN_UNUSED;
/* What lies at a segment's name: a segment (info) or a fence. MS_ENOTFOUND, MS_ECORRUPT. */
struct ms_at_name {
	bool is_fence;
	struct ms_segment_info info;
	struct ms_fence fence;
};
enum ms_code ms_view_at(struct ms_replica *r, const char *name, struct ms_at_name *ret, struct ms_err *err) MS_WARN_UNUSED;
/* The name that a writer of this generation takes next (for a fence): that of the next segment, or of the next part of a transaction whose last
 * part is not there. *ret_fenced: the newest object is a fence already. */
enum ms_code ms_view_next_live(struct ms_replica *r, const struct ms_generation *g, uint64_t near, struct ms_name *ret, bool *ret_fenced,
			       struct ms_err *err) MS_WARN_UNUSED;
/* A snapshot's manifest, without pages. */
enum ms_code ms_view_manifest(struct ms_replica *r, const char *name, struct ms_manifest *ret, struct ms_err *err) MS_WARN_UNUSED;

struct ms_handle {
	_Atomic(struct ms_replica *) r; /* opened by the first job that needs it */
	atomic_bool cancel;
};

enum ms_task_kind { MS_TASK_PROBE, MS_TASK_CLAIM, MS_TASK_SHIP, MS_TASK_CATCHUP, MS_TASK_CHECK, MS_TASK_SAVE, MS_TASK_PLAN, MS_TASK_REMOVE };

/* Where a multi-part transaction stands; part 0: not within one. */
struct ms_part {
	uint32_t part;
	uint64_t seq;
};

struct ms_task {
	enum ms_task_kind kind;
	struct ms_err err;
	/* in and out: the worker's cursor as of submit, moved by the task */
	struct ms_cursor cur;
	bool have_cursor;
	uint32_t epoch;
	struct ms_generation head_generation; /* that the newest head (ours) names; empty: unknown */
	struct ms_part part;
	struct ms_err save_err; /* the object is there, but the cursor file could not be written */
	bool saved;
	bool settles_at_once; /* the backend's acknowledgement is durable: what is saved is settled */
	uint32_t save_version; /* of what is saved: a snapshot may be published while the job runs */
	/* The newest heads tried, over all tasks: a lost response is recognised by its number and time. */
	struct ms_tried_head {
		uint32_t number;
		int64_t time_us;
	} tried[8];
	unsigned ntried;
	/* probe */
	struct ms_view view;
	/* claim */
	bool takeover, may_create;
	struct ms_claim_out claim;
	struct ms_local_facts local; /* borrowed from the worker, which leaves it alone */
	/* what the journal no longer keeps for the cursor; next_seq 0: nothing. folds: of the worker at submit. */
	struct ms_owed_info owed;
	uint64_t folds;
	/* ship, catch-up: the replica has been away; does it still hold what the cursor says? It does (seen), or less. */
	bool check, seen, less;
	uint64_t troubles;
	/* catch-up */
	const struct ms_catchup_part *catchup;
	uint32_t catchup_part; /* number that the next object takes */
	bool catchup_taken;    /* an earlier catch-up of ours turned out to be complete: the cursor is at its end now */
	/* ship */
	struct ms_generation snapshot_generation; /* of the newest snapshot put by this worker */
	bool shipped_segment, shipped_generation, nothing;
	const char *want_reason; /* a snapshot is needed, and why */
	uint64_t put_bytes, record_bytes;
	int64_t put_us;
	bool more;
	/* plan, remove */
	uint64_t segment_bytes;
	int64_t now_us, retention_us, spacing_us, grace_us;
	bool keep_chunks;
	struct ms_retention_names {
		char **names; /* owned */
		uint32_t n;
	} removals;
	int64_t remove_after_us;
	uint64_t removed;
};

/* Commits waiting in the journal, oldest first; neighbours are folded when there are too many. */
#define MS_WAITING_MAX 1024u
struct ms_waiting {
	uint64_t next_seq; /* behind it */
	int64_t time_us;
	uint64_t bytes;
	bool generation; /* starts one */
};

enum ms_phase { MS_PHASE_NEW, MS_PHASE_PROBING, MS_PHASE_PROBED, MS_PHASE_CLAIMING, MS_PHASE_SHIPPING, MS_PHASE_FENCED, MS_PHASE_STOPPED, MS_PHASES };

#define MS_SETTLING_MAX 64u
#define MS_SETTLE_CHECKS 8u /* looks at the replica in caps.settle_us, at most */
struct ms_settling {
	uint64_t seq, txid, checksum;
	uint64_t at_us; /* monotonic: settled when the replica is seen to hold it from then on */
};

/* One snapshot object on its way. Free: done is NULL. */
struct ms_snap_put {
	struct ms_worker *w;
	struct ms_handle handle;
	struct ms_job job;
	struct ms_timer *timer;
	struct ms_retry retry;
	uint64_t retry_at_us; /* monotonic; 0 none */
	struct ms_err err;
	bool busy;    /* in a job */
	bool leaving; /* cancelled, and not tried again */
	char name[MS_NAME_MAX];
	const uint8_t *data;
	size_t len;
	void (*done)(void *arg, const struct ms_err *err);
	void *arg;
};

struct ms_worker {
	struct ms_env *env;
	struct ms_journal *journal;
	struct ms_worker_config cfg; /* strings owned */
	struct ms_replica_spec spec;
	struct ms_worker_hooks hooks;
	enum ms_phase phase;
	bool failed; /* last error was of a class that is not retried soon */
	uint64_t failing_at_us, snap_failing_at_us; /* monotonic: the first failure in a row, of the main jobs and of snapshot objects; 0 none */
	bool claimed;
	struct ms_local_facts local;
	bool takeover;

	struct ms_throttle throttle; /* of segments, catch-ups and snapshot objects */
	struct ms_handle main;
	struct ms_replica_caps caps; /* of main, once open */
	bool warned; /* of caps.warning */

	/* main */
	struct ms_job main_job;
	bool main_busy;
	struct ms_task task;
	struct ms_retry retry;
	/* Calls that failed, all told, and when the replica was last seen to hold what the cursor says. Whatever else succeeds does not tell that. */
	uint64_t troubles, troubles_seen;
	uint64_t retry_at_us; /* monotonic; 0 none */
	struct ms_timer *timer, *probe_timer, *stop_timer;
	uint64_t last_segment_us; /* monotonic start of the last put of a segment, 0 none */
	bool save_owed, more; /* more: the last segment was full, go on at once */
	uint32_t save_version;
	uint64_t save_at_us;

	/* owed pages (worker_owed.c). The loop thread leaves `owed` alone while a fold runs; owed_info is its copy of all but the bits. */
	char *owed_path;
	struct ms_owed owed;
	struct ms_owed_info owed_info;
	bool owed_stale;	   /* a file may be there that the cursor has passed: it goes when that cursor is durable */
	char only_snapshot[512];   /* why what the journal has to give is of no use to this replica; "" none */
	struct ms_generation fold_generation; /* of st.folded_first and folded_last */
	/* The journal before this is not waited for: without a cursor, or for what is put and not settled. Never beyond a cursor. */
	uint64_t let_go_seq;
	struct ms_job fold_job;
	bool fold_busy;
	uint64_t fold_asked, fold_before; /* what was asked for; the fold goes on to here */
	uint64_t fold_cursor_seq;	  /* the cursor when the fold began */
	struct ms_dbstate fold_cursor;
	bool fold_anew; /* the bits that were there are gone */
	struct ms_err fold_err;
	_Atomic uint64_t folds; /* begun */
	/* catch-up (worker_catchup.c) */
	const struct ms_catchup_part *catchup; /* given and not done, NULL none */
	uint32_t catchup_part;
	void (*catchup_done)(void *arg, const struct ms_err *err);
	void *catchup_arg;

	/* position */
	struct ms_cursor cur;
	bool have_cursor, ever_claimed;
	uint64_t durable_seq; /* of the cursor file: what a restart begins with */
	uint32_t epoch;
	struct ms_generation head_generation;
	struct ms_part part;
	struct ms_settling settling[MS_SETTLING_MAX];
	unsigned nsettling;
	uint64_t look_us, looked_puts; /* monotonic start of the last look (or claim), and the puts until then */

	/* scan */
	struct ms_job scan_job;
	bool scan_busy, scan_again;
	uint64_t scan_at_us; /* not before this, when something is known to wait */
	uint64_t scan_seq; /* goes on here; the first entry of an unfinished transaction */
	uint64_t scan_durable; /* the journal's durable sequence that has been looked at */
	struct {
		uint64_t from, to, durable;
		struct ms_waiting *v;
		uint32_t n;
		struct ms_err err;
	} scan;
	struct ms_waiting *waiting;
	uint32_t nwaiting;
	int64_t waits_since_us; /* without a base: the oldest state that does not restore */

	/* snapshot objects */
	struct ms_snap_put snaps[MS_WORKER_SNAP_PUTS];
	struct ms_err lost; /* the driver says that acknowledged objects are gone (MS_ELOST); until the replica has been claimed again */
	bool snap_spoilt;   /* the snapshot under way began before that */
	bool snap_running;  /* a snapshot is between its first object and its manifest */
	struct ms_generation snapshot_generation;

	/* retention */
	uint64_t prune_at_us; /* monotonic; 0 = never */
	struct ms_retention_names removals;
	int64_t remove_after_us;

	/* probe */
	bool probe_reported;
	/* stop */
	bool stopping, deadline;
	void (*stopped)(void *arg);
	void *stopped_arg;

	struct ms_worker_status st; /* counters and texts */
};

uint64_t ms_worker_mono_us(const struct ms_worker *w);
void ms_worker_pump(struct ms_worker *w); /* looks at what is due */
void ms_worker_set_fenced(struct ms_worker *w, const struct ms_err *err);
void ms_worker_note_error(struct ms_worker *w, const struct ms_err *err);
void ms_worker_note_caps(struct ms_worker *w); /* says once what the backend warns of */
/* A call to the replica has failed; *since_us: one of the two failing_at_us. */
void ms_worker_note_failure(struct ms_worker *w, uint64_t *since_us, const struct ms_err *err);

/* Opens on first use. Jobs. */
enum ms_code ms_handle_open(struct ms_worker *w, struct ms_handle *h, bool create, struct ms_replica **ret, struct ms_err *err) MS_WARN_UNUSED;
void ms_handle_cancel(struct ms_handle *h);
void ms_handle_close(struct ms_handle *h);

/* Task bodies: pool threads. */
enum ms_code ms_task_probe(struct ms_worker *w, struct ms_task *t, struct ms_replica *r, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_task_claim(struct ms_worker *w, struct ms_task *t, struct ms_replica *r, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_task_ship(struct ms_worker *w, struct ms_task *t, struct ms_replica *r, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_task_plan(struct ms_worker *w, struct ms_task *t, struct ms_replica *r, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_task_remove(struct ms_worker *w, struct ms_task *t, struct ms_replica *r, struct ms_err *err) MS_WARN_UNUSED;
void ms_task_release(struct ms_task *t);
void ms_task_save(struct ms_worker *w, struct ms_task *t); /* sets saved or save_err */

/* Puts head number cur.head_number + 1 naming cur.generation, and moves cur.head_number. MS_EFENCED when the number is taken by another. */
enum ms_code ms_task_put_head(struct ms_worker *w, struct ms_task *t, struct ms_replica *r, const struct ms_retention_names *removals,
			      int64_t remove_after_us, struct ms_err *err) MS_WARN_UNUSED;
/* Makes sure that nobody goes on in g (DESIGN §6). */
enum ms_code ms_task_fence(struct ms_worker *w, struct ms_task *t, struct ms_replica *r, const struct ms_generation *g, uint64_t near,
			   struct ms_err *err) MS_WARN_UNUSED;

enum ms_code ms_task_check(struct ms_worker *w, struct ms_task *t, struct ms_replica *r, struct ms_err *err) MS_WARN_UNUSED;
enum ms_code ms_task_catchup(struct ms_worker *w, struct ms_task *t, struct ms_replica *r, struct ms_err *err) MS_WARN_UNUSED;
/* What lies at a name that was ours to take: MS_EFENCED. */
enum ms_code ms_task_lost_name(struct ms_worker *w, struct ms_task *t, const char *name, const struct ms_at_name *at, struct ms_err *err) MS_WARN_UNUSED;
/* The newest snapshot that was put for the cursor's generation is not there: an older one need not lead on to the cursor. */
bool ms_view_lacks_snapshot(const struct ms_view *v, const struct ms_cursor *c);
/* Does this object continue exactly the cursor, written under an epoch of ours? */
bool ms_task_own_successor(const struct ms_task *t, const struct ms_segment_info *i);

/* worker_owed.c */
enum ms_code ms_worker_owed_load(struct ms_worker *w, struct ms_err *err) MS_WARN_UNUSED;
/* After a catch-up or a snapshot: another snapshot is wanted where the newest one lies within the catch-up of this run. */
void ms_worker_mind_fold(struct ms_worker *w);
/* The cursor has moved, been saved or settled, or a fold has ended: drops what is no longer owed. */
void ms_worker_owed_settle(struct ms_worker *w);
/* Pages noted for what is put and not settled: a catch-up may begin at this state of the replica's, which is behind the cursor. */
bool ms_task_reserve_serves(const struct ms_task *t, const struct ms_dbstate *held);
/* worker_position.c */
void ms_worker_take_position(struct ms_worker *w, struct ms_task *t);
void ms_worker_settle(struct ms_worker *w); /* the cursor has moved */
/* A snapshot has been put: it is to be there a settle time later as well. */
void ms_worker_settle_snapshot(struct ms_worker *w);
void ms_worker_settle_checked(struct ms_worker *w); /* a look that began at look_us found everything there */
void ms_worker_looking(struct ms_worker *w); /* a look begins */
uint64_t ms_worker_look_due_us(const struct ms_worker *w); /* monotonic time of the next one, UINT64_MAX none */
/* The replica was found to hold everything up to the cursor: what is not known to be settled is, settle_us from now. */
void ms_worker_settle_claimed(struct ms_worker *w);
/* A snapshot has become the cursor: nothing that the journal holds before it would help. */
void ms_worker_settle_jumped(struct ms_worker *w);
/* worker_catchup.c */
void ms_worker_catchup_end(struct ms_worker *w, const struct ms_err *err);

/* worker_config.c */
enum ms_code ms_worker_config_copy(struct ms_worker *w, const struct ms_worker_config *cfg, struct ms_err *err) MS_WARN_UNUSED;
void ms_worker_config_release(struct ms_worker *w);
/* Where bytes a second are few, a segment is what some seconds carry, so that the cursor moves. */
uint64_t ms_worker_segment_bytes(struct ms_worker *w);
void ms_worker_plan_prune(struct ms_worker *w); /* from now */

/* worker.c */
void ms_worker_want_snapshot(struct ms_worker *w, enum ms_cursor_base base, const char *reason);

/* worker_scan.c */
void ms_worker_scan(struct ms_worker *w);
void ms_worker_scan_reset(struct ms_worker *w); /* after the cursor was set anew */
void ms_worker_waiting_passed(struct ms_worker *w); /* drops what the cursor has passed */
uint64_t ms_worker_scan_due_us(const struct ms_worker *w); /* UINT64_MAX: not */
bool ms_worker_scan_idle(const struct ms_worker *w); /* everything durable has been looked at */
uint64_t ms_worker_waiting_bytes(const struct ms_worker *w);

/* worker_snapshot.c */
enum ms_code ms_worker_snap_init(struct ms_worker *w, struct ms_err *err) MS_WARN_UNUSED;
void ms_worker_snap_release(struct ms_worker *w); /* also of a worker that was not quite made */
void ms_worker_snap_pump(struct ms_worker *w);
bool ms_worker_snap_busy(const struct ms_worker *w);   /* a job runs */
bool ms_worker_snap_wanted(const struct ms_worker *w); /* an object is under way, or waits for its turn */
void ms_worker_snap_cancel(struct ms_worker *w);       /* calls under way return soon */
/* Ends those that no job is at. */
void ms_worker_snap_fail(struct ms_worker *w, const struct ms_err *err);
void ms_retention_names_release(struct ms_retention_names *n);

#endif
