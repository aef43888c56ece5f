/*
 * The stream controller: one database from source to replicas (DESIGN §4-§7, §15). A state machine on the loop thread; capture steps
 * are jobs on MS_LANE_SOURCE, one at a time for a stream.
 *
 *   STARTING   recover local state, probe the replicas, settle the epoch
 *   WAITING    no usable database yet (missing, empty, not WAL, refused)
 *   CATCHUP    reading the whole database: to seed page sums (new generation) or to find what changed in a blind interval
 *   SEEDING / FOLLOWING   commits go to the journal; SEEDING until every required replica has a first snapshot
 *   PAUSED, BLOCKED (journal cannot be written), FENCED, FAILED, STOPPED
 */
#ifndef MS_CORE_STREAM_H
#define MS_CORE_STREAM_H

#include "core/capture.h"
#include "core/status.h"
#include "core/worker.h"
#include "sources/source.h"

struct ms_stream_config {
	const char *name; /* in the journal and in status */
	const char *path; /* of the database, canonical */
	const char *dir;  /* own directory in the shadow directory; exists */
	const char *owner, *host;
	int level;
	bool codec_none;
	int window; /* zstd window log of blocks, 0 = the block; page records need theirs whole */
	bool takeover; /* auto */
	int64_t snapshot_interval_us; /* 0 = none by time */
	double snapshot_share;	      /* of the database's size in record bytes; 0 = none by volume */
	int64_t probe_timeout_us;     /* 0 = 5 s */
	int64_t data_loss_threshold_us; /* 0 = no warning */
	const struct ms_worker_config *workers; /* db, owner, host, state_path, takeover, compression and authority are filled in by the stream */
	uint32_t nworkers;
	int32_t authority; /* index of the fencing authority; -1 = the first with fencing, none if there is none */
};

struct ms_stream;
struct ms_stream_hooks { /* loop thread */
	void (*changed)(void *arg, struct ms_stream *s); /* status or position changed */
	/* Fenced by the authority, or failed for good: it does nothing more; the daemon stops it when it likes. */
	void (*ended)(void *arg, struct ms_stream *s, const struct ms_err *err);
	void *arg;
};

/* Takes the source (freed with the stream). Strings of cfg are copied. */
enum ms_code ms_stream_new(struct ms_env *env, struct ms_journal *j, struct ms_source *source, const struct ms_stream_config *cfg,
			   const struct ms_stream_hooks *hooks, struct ms_stream **ret, struct ms_err *err) MS_WARN_UNUSED;
void ms_stream_start(struct ms_stream *s);
/* The journal's hook: its durable prefix moved, or a sync failed. */
void ms_stream_durable(struct ms_stream *s, uint64_t durable_seq, const struct ms_err *err);
void ms_stream_pause(struct ms_stream *s);
void ms_stream_resume(struct ms_stream *s);
/* Looks at the database now instead of at the next poll. */
void ms_stream_poke(struct ms_stream *s);
/* Captures what is visible at the time of the call, then cb(arg, txid that holds all of it, NULL) or an error; also under a writer that never
 * rests. */
void ms_stream_barrier(struct ms_stream *s, void (*cb)(void *arg, uint64_t txid, const struct ms_err *err), void *arg);
/* Takes a snapshot as soon as possible; cb may be NULL. */
void ms_stream_snapshot(struct ms_stream *s, void (*cb)(void *arg, uint64_t txid, const struct ms_err *err), void *arg);
void ms_stream_takeover(struct ms_stream *s);

/* ---- changes of replicas, while the source stays attached and the others go on ---- */
/* Only then: the workers have been started, and it has not ended nor been asked to stop. */
bool ms_stream_replicas_changeable(const struct ms_stream *s);
bool ms_stream_has_replica(const struct ms_stream *s, const char *name);
/* Ships for at most deadline_us more; then nothing is kept for it, and done(arg) is called (loop thread, not from within). Not for the fencing
 * authority, nor the last one. Its cursor stays in the shadow directory. */
void ms_stream_remove_replica(struct ms_stream *s, const char *name, int64_t deadline_us, void (*done)(void *arg), void *arg);
/* As at a start: it goes on from its cursor, is served from the journal, or gets a snapshot of its own. No other replica may have its name or
 * place, nor be leaving with it. MS_EEXISTS. */
enum ms_code ms_stream_add_replica(struct ms_stream *s, const struct ms_worker_config *cfg, struct ms_err *err) MS_WARN_UNUSED;
/* What can be changed without a new claim: see ms_worker_tune(). */
void ms_stream_tune_replica(struct ms_stream *s, const struct ms_worker_config *cfg);
/* When snapshots are taken, and the data-loss threshold; nothing else of cfg is looked at. */
void ms_stream_tune(struct ms_stream *s, const struct ms_stream_config *cfg);
/* Everything visible at the last look is captured, durable, and on every replica, and no seed is owed. */
bool ms_stream_caught_up(const struct ms_stream *s);
/* It is not caught up, and waiting would not change that: some replica is hopeless (ms_worker_hopeless), and the others have everything or
 * are held up by it. *ret_why, where not NULL, gets that replica's name and error. */
bool ms_stream_hopeless(const struct ms_stream *s, int64_t patience_us, struct ms_err *ret_why);
/* What is committed from now on will be seen: it is followed. Also true where there is nothing to follow yet, or no hope of it. */
bool ms_stream_attached(const struct ms_stream *s);
enum ms_stream_state ms_stream_state(const struct ms_stream *s);
const char *ms_stream_name(const struct ms_stream *s);
/* Lowest journal sequence that is to be kept for this database (not for replicas that are not required, or owed a catch-up); UINT64_MAX none. */
uint64_t ms_stream_needs_seq(const struct ms_stream *s);
/* The journal before this sequence has to go: everything of this database that still needs it is told to do without, in the background.
 * Returns the lowest sequence that must stay for now. */
uint64_t ms_stream_let_go(struct ms_stream *s, uint64_t before);
/* Fills ret (workers allocated: ms_stream_status_release). */
enum ms_code ms_stream_get_status(const struct ms_stream *s, struct ms_stream_status *ret, struct ms_err *err) MS_WARN_UNUSED;
/* A last look at the database, page sums written, source released; workers ship for at most deadline_us; then stopped(arg). */
void ms_stream_stop(struct ms_stream *s, int64_t deadline_us, void (*stopped)(void *arg), void *arg);
void ms_stream_free(struct ms_stream *s); /* after stopped, or never started */

#endif
