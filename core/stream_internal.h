/* Shared by stream.c (loop thread) and stream_step.c (source job). */
#ifndef MS_CORE_STREAM_INTERNAL_H
#define MS_CORE_STREAM_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include "core/catchup_run.h"
#include "core/scan.h"
#include "core/snapshot_run.h"
#include "core/stream.h"

enum step_mode {
	MODE_DETACHED, /* not attached: the next step attaches */
	MODE_SEED,     /* scanning to fill page sums; commits are folded into the base state */
	MODE_CATCHUP,  /* scanning for what changed; commits are folded into one transaction */
	MODE_FOLLOW,
};
enum step_task { TASK_OPEN, TASK_STEP, TASK_RELEASE };

struct handed {
	uint64_t seq; /* in the journal, 0 none */
	struct ms_dbstate state;
};

/* Written by the job, read on the loop thread after it: never at the same time. */
struct step_result {
	struct ms_err err;
	struct ms_step_result src;
	bool attached_now, generation_now, blocked, fenced, catchup_failed, damaged;
	unsigned snapshots_failed; /* bit by number */
	char note[512]; /* something worth a log line at warn */
	struct ms_dbstate state;
	struct ms_generation generation;
	uint64_t last_seq, needs_seq;
	struct ms_capture_stats stats;
	uint64_t done_pages, all_pages; /* of a scan */
};

struct barrier {
	struct barrier *next;
	uint64_t epoch; /* satisfied by a step that began at or after this count */
	void (*cb)(void *arg, uint64_t txid, const struct ms_err *err);
	void *arg;
};

/* One replica. The list is changed, and members are freed, only while no job runs; the loop thread's but for `catchup`. */
struct stream_replica {
	struct ms_stream *stream;
	struct ms_worker *worker;
	char *name;
	bool required;
	bool bad;  /* a failure has been logged */
	bool slow; /* too slow for the others' snapshot */
	/* What is owed to it (stream_catchup.c). */
	struct ms_catchup_run *catchup; /* also read by the job; set and freed only while none runs */
	int64_t catchup_retry_us;	/* not before this mono us */
	bool owing;			/* has been logged */
	/* On its way out: what is told when its worker has stopped (NULL: it stays), and how long that may ship. */
	void (*left)(void *arg);
	void *left_arg;
	int64_t leave_us;
	struct stream_replica *next; /* among those that join, leave or are buried */
};

/* A snapshot under way (stream_snapshot.c). */
#define SNAPSHOTS_AT_ONCE 2
struct stream_snapshot {
	struct ms_stream *stream;
	struct ms_snapshot_run *run; /* also read by the job; set and freed only while none runs */
	bool ended, drop;	     /* to be looked at when no job runs */
	bool asked;		     /* answers ms_stream_snapshot() */
	struct ms_snapshot_result result;
};

struct ms_stream {
	struct ms_env *env;
	struct ms_journal *journal;
	struct ms_source *source;
	struct ms_stream_hooks hooks;
	char *name, *path, *dir, *owner, *host;
	int level, compression; /* of page records; of blocks (core/artefact.h) */
	bool codec_none, takeover;
	int64_t snapshot_interval_us, probe_timeout_us, data_loss_threshold_us;
	double snapshot_share;

	/* loop thread */
	enum ms_stream_state state;
	char why[MS_STATUS_TEXT];
	struct stream_replica **replicas; /* nworkers */
	struct stream_replica *joining, *leaving, *buried; /* not in the list yet; whose workers stop; whose workers have */
	uint32_t nworkers, probes_left, workers_left;
	struct stream_replica *authority; /* NULL none */
	struct ms_probe auth_probe;
	struct ms_head auth_head; /* owned copy */
	bool workers_started;
	struct ms_timer *timer, *tick;
	struct ms_poll *poll;
	struct ms_job job;
	bool job_running, again, started, paused, stopping, ended, snapshot_wanted, loss_alarm, settled, workers_stopped;
	int64_t stop_deadline_us, stop_at_us; /* length; mono us */
	bool draining; /* asked to stop, but a first snapshot is still owed */
	void (*stopped)(void *arg);
	void *stopped_arg;
	struct stream_snapshot snapshots_running[SNAPSHOTS_AT_ONCE];
	int64_t snapshot_retry_us, snapshot_due_us; /* not before this mono us; somebody wants one since then, 0 nobody */
	struct ms_snapshot_run *dropped; /* given up, but with a job or puts under way */
	bool catchups_drop;
	struct ms_catchup_run *catchups_dropped; /* given up, but with a job or a put under way */
	_Atomic bool checkpoint_wanted; /* page sums hold the journal up */
	void (*snapshot_cb)(void *arg, uint64_t txid, const struct ms_err *err);
	void *snapshot_arg;
	struct barrier *barriers;
	uint64_t steps; /* jobs submitted */
	uint64_t stop_step; /* the first one to begin after it was asked to stop */
	struct ms_dbstate journalled; /* durable in the journal */
	pthread_mutex_t handed_mu;
	struct handed handed; /* by the source job, at its last kick; under handed_mu */
	uint64_t snapshots, step_errors;
	struct step_result pub;
	_Atomic bool kick_posted;
	uint64_t kicked_ns; /* of the source job */

	/* source job; read on the loop thread only while no job runs */
	enum step_task task;
	struct ms_capture *cap;
	struct ms_sink sink;
	enum step_mode mode;
	bool replaced;
	int64_t lost_commits;
	struct ms_source_info info;
	struct ms_scan scan;
	bool tx_open;
	uint8_t *slice;
	uint32_t epoch;
	bool adopt; /* no local state, but the authority holds one of ours: continue it if the database equals its tail */
	bool adopt_only, adopt_same_owner;
	bool start_fork, start_root; /* a takeover begins a generation: from our own state, or from the database as it is */
	/* With adopt or start_root: what the authority holds. The state's txid is 0 where nothing of head.generation is there. */
	struct ms_dbstate adopt_state;
	struct ms_head adopt_head; /* borrowed from auth_head */
	struct step_result out;
};

#define MS_SLICE_BYTES (1u << 20)
/* stream.c */
void ms_stream_end(struct ms_stream *s, enum ms_stream_state state, const struct ms_err *err);
void ms_stream_worker_probed(void *stream, struct ms_worker *w, const struct ms_probe *p);
/* stream_replicas.c; loop thread */
enum ms_code ms_stream_replica_new(struct ms_stream *s, const struct ms_worker_config *cfg, bool authority, struct stream_replica **ret,
				   struct ms_err *err) MS_WARN_UNUSED;
void ms_stream_replica_free(struct stream_replica *r); /* accepts NULL; its worker has stopped, or never started */
void ms_stream_start_workers(struct ms_stream *s);
void ms_stream_replicas_settle(struct ms_stream *s); /* no job runs: who leaves or joins does */
/* stream_snapshot.c; loop thread */
void ms_stream_snapshots_begin(struct ms_stream *s); /* those that are due */
void ms_stream_snapshots_at_once(struct ms_stream *s); /* does not wait for the next try after a failure */
void ms_stream_snapshots_drop(struct ms_stream *s); /* gives them up */
/* A job has ended. failed: bits of what could not be read; all: everything is given up. */
void ms_stream_snapshots_stepped(struct ms_stream *s, unsigned failed, bool damaged, bool all);
void ms_stream_snapshots_advance(struct ms_stream *s);
void ms_stream_snapshots_durable(struct ms_stream *s, uint64_t seq);
void ms_stream_snapshots_leave(struct ms_stream *s, struct ms_worker *w);
bool ms_stream_snapshots_under_way(const struct ms_stream *s);
bool ms_stream_snapshots_want_fill(const struct ms_stream *s);
uint64_t ms_stream_snapshots_need_seq(const struct ms_stream *s);
void ms_stream_snapshots_let_go(struct ms_stream *s, uint64_t before);
void ms_stream_snapshots_abandon(struct ms_stream *s); /* on a dead machine */
/* source job */
void ms_stream_snapshots_touch(struct ms_stream *s, uint32_t pgno);
enum ms_code ms_stream_snapshots_fill(struct ms_stream *s, uint64_t budget_us, unsigned *ret_failed, struct ms_err *err) MS_WARN_UNUSED;
/* stream.c */
void ms_stream_finish_stop(struct ms_stream *s); /* once nothing is under way any more */
/* stream_status.c: what is durable now. */
void ms_stream_journalled(struct ms_stream *s, uint64_t durable_seq);
/* stream_epoch.c: s->epoch becomes higher than `seen` and than any that this shadow directory has used; *ret_known: the highest of the latter, 0
 * none. */
enum ms_code ms_stream_settle_epoch(struct ms_stream *s, uint32_t seen, uint32_t *ret_known, struct ms_err *err) MS_WARN_UNUSED;
/* stream_catchup.c */
void ms_stream_catchups_pump(struct ms_stream *s);
void ms_stream_catchups_drop(struct ms_stream *s);
void ms_stream_catchups_abandon(struct ms_stream *s); /* on a dead machine */
bool ms_stream_catchups_want_fill(const struct ms_stream *s);
void ms_stream_catchups_durable(struct ms_stream *s, uint64_t seq);
void ms_stream_catchups_touch(struct ms_stream *s, uint32_t pgno);
enum ms_code ms_stream_catchups_fill(struct ms_stream *s, struct ms_err *err) MS_WARN_UNUSED;
void ms_stream_step_run(void *stream); /* the job */
void ms_stream_sink_init(struct ms_stream *s);
/* Every required replica has a first snapshot. */
bool ms_stream_seeded(const struct ms_stream *s);
/* What does not restore yet, and what does, while the first snapshot of a seeded generation is owed; else "". No job runs. */
const char *ms_stream_why_seeding(const struct ms_stream *s, char ret[MS_STATUS_TEXT]);

#endif
