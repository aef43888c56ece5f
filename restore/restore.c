/*
 * The restore's phases, each a set of jobs; the next one begins on the loop thread when all of them are done:
 *
 *   list -> [probe all headers] -> plan -> create -> chunks (workers) -> base -> segments (pipeline) -> [journal] -> flush ->
 *   verify pages (workers) beside fsync -> [sqlite] -> publish -> over
 *
 * An object that vanishes (retention) starts again with a new listing, at most REPLANS times; a gap that only the headers show starts again
 * with all headers read; damage starts again without the damaged object when another replica may have it. Any other failure goes
 * through cleanup to the end.
 */
#include "restore/restore.h"

#include <stdio.h>
#include <stdlib.h>

#include "restore/chunks.h"
#include "restore/jobs.h"
#include "restore/journal_source.h"
#include "restore/pipeline.h"
#include "restore/target.h"
#include "restore/verify.h"

#define DEFAULT_PARALLEL 4u
#define DEFAULT_BYTES (32u << 20)
#define REPLANS 4u
#define BAD_MAX 16u
#define TICK_US 100000u
#define VERIFY_JOBS 2u

struct bad_object {
	unsigned replica;
	char name[MS_NAME_MAX];
};

struct ms_restore {
	struct ms_env *env;
	struct ms_restore_options o;
	void (*done)(void *arg, const struct ms_restore_result *res, const struct ms_err *err);
	struct ms_restore_result res;
	struct ms_err err;
	uint64_t started_ns;
	struct ms_timer *timer;
	atomic_bool stop; /* the caller's cancel flag, seen */
	/* phase under way */
	struct ms_jobs jobs;
	void (*next)(struct ms_restore *r);
	const char *phase;
	uint64_t phase_total, phase_base;
	/* attempt under way */
	struct ms_fetch *fetch;
	struct ms_inventory inv;
	struct ms_load load;
	atomic_size_t probe_next;
	bool exact; /* every live segment's header has been read */
	struct ms_plan plan;
	bool planned;
	struct ms_journal_source *journal;
	struct ms_manifest manifest;
	struct ms_restore_target target;
	struct ms_pagehash *hashes;
	struct ms_chunks chunks;
	struct ms_apply *apply;
	struct ms_pipeline *pipeline;
	size_t step; /* of the plan: everything before it has been applied */
	struct ms_dbstate state;
	struct ms_verify_pages verify;
	/* The disk begins to work while chunks are still coming: an fdatasync at each tick, one at a time. */
	struct ms_job sync_job;
	bool syncing, writing; /* writing: chunks are on their way into the file */
	struct ms_err sync_err; /* a later fsync would not tell it again */
	void (*after_sync)(struct ms_restore *r);
	struct bad_object bad[BAD_MAX];
	unsigned nbad;
	bool target_missing; /* MS_ENOTFOUND is about the target's place, not about an object */
};

static void fail(struct ms_restore *r, const struct ms_err *err);
static void phase_list(struct ms_restore *r);

/* ---- phases as sets of jobs ---- */

static void phase_over(void *arg, const struct ms_err *err) {
	struct ms_restore *r = arg;
	if (err)
		fail(r, err);
	else
		r->next(r);
}

static void begin_phase(struct ms_restore *r, const char *name, uint64_t total, void (*next)(struct ms_restore *)) {
	r->phase = name;
	r->phase_total = total;
	r->phase_base = r->fetch ? ms_fetch_bytes(r->fetch) : 0;
	r->next = next;
}

static void one_task(struct ms_restore *r, enum ms_lane lane, ms_jobs_fn fn) {
	ms_jobs_add(&r->jobs, lane, fn, 0);
	ms_jobs_run(&r->jobs, phase_over);
}

/* ---- progress and cancel ---- */

static bool is_canceled(void *arg) {
	const struct ms_restore *r = arg;
	return atomic_load(&r->stop) || (r->o.cancel && atomic_load(r->o.cancel));
}

static void sync_run(void *arg) {
	struct ms_restore *r = arg;
	(void)r->env->ops->fdatasync(r->target.file, &r->sync_err);
}

static void sync_done(void *arg) {
	struct ms_restore *r = arg;
	void (*then)(struct ms_restore *) = r->after_sync;
	r->syncing = false;
	r->after_sync = NULL;
	if (then)
		then(r);
}

/* Goes on once no early fdatasync holds the file. */
static void when_synced(struct ms_restore *r, void (*then)(struct ms_restore *)) {
	if (r->syncing)
		r->after_sync = then;
	else
		then(r);
}

static uint64_t phase_bytes(const struct ms_restore *r) {
	if (r->phase && strcmp(r->phase, "verifying") == 0)
		return atomic_load(&r->verify.bytes);
	return r->fetch ? ms_fetch_bytes(r->fetch) - r->phase_base : 0;
}

static void tick(void *arg) {
	struct ms_restore *r = arg;
	if (r->o.cancel && atomic_load(r->o.cancel) && !atomic_exchange(&r->stop, true) && r->fetch)
		ms_fetch_cancel(r->fetch);
	if (r->o.progress) {
		struct ms_restore_progress p = {.phase = r->phase, .done_bytes = phase_bytes(r), .total_bytes = r->phase_total,
			.elapsed_us = (ms_env_mono_ns(r->env) - r->started_ns) / 1000};
		r->o.progress(r->o.arg, &p);
	}
	if (r->writing && !r->syncing) {
		r->syncing = true;
		r->sync_job = (struct ms_job){.run = sync_run, .done = sync_done, .arg = r};
		r->env->ops->submit(r->env, MS_LANE_SYNC, &r->sync_job);
	}
	r->env->ops->timer_start(r->timer, TICK_US);
}

/* ---- the end ---- */

/* Everything that belongs to one attempt. No job is under way. */
static void drop_attempt(struct ms_restore *r) {
	ms_pipeline_free(r->pipeline);
	r->pipeline = NULL;
	ms_apply_free(r->apply);
	r->apply = NULL;
	ms_pagehash_free(r->hashes);
	r->hashes = NULL;
	ms_restore_target_cleanup(&r->target);
	ms_manifest_release(&r->manifest);
	r->manifest = (struct ms_manifest){0};
	ms_plan_release(&r->plan);
	r->planned = false;
	ms_inventory_release(&r->inv);
}

static enum ms_code cleanup_fn(void *arg, unsigned worker, struct ms_err *err) {
	struct ms_restore *r = arg;
	(void)worker;
	(void)err;
	if (r->fetch)
		r->res.fetched_bytes = ms_fetch_bytes(r->fetch);
	drop_attempt(r);
	return MS_OK;
}

static void over(struct ms_restore *r) {
	r->env->ops->timer_stop(r->timer);
	r->res.elapsed_us = (ms_env_mono_ns(r->env) - r->started_ns) / 1000;
	if (r->load.warning[0] && !r->res.warning[0])
		memcpy(r->res.warning, r->load.warning, sizeof r->res.warning);
	r->done(r->o.arg, &r->res, r->err.code ? &r->err : NULL);
}

static void clean_up(struct ms_restore *r) { one_task(r, MS_LANE_CPU, cleanup_fn); }

static void finish(struct ms_restore *r) {
	begin_phase(r, "finishing", 0, over);
	when_synced(r, clean_up);
}

/* ---- trying again ---- */

static void again(struct ms_restore *r) { phase_list(r); }

static void replan(struct ms_restore *r) {
	r->res.replans++;
	begin_phase(r, "listing", 0, again);
	when_synced(r, clean_up);
}

static bool remember_bad(struct ms_restore *r, unsigned replica, const char *name) {
	if (r->nbad == BAD_MAX)
		return false;
	r->bad[r->nbad].replica = replica;
	snprintf(r->bad[r->nbad++].name, MS_NAME_MAX, "%s", name);
	return true;
}

static void fail(struct ms_restore *r, const struct ms_err *err) {
	unsigned replica = 0;
	char name[MS_NAME_MAX];
	bool canceled = is_canceled(r), culprit = r->pipeline && ms_pipeline_culprit(r->pipeline, &replica, name);
	r->err = *err;
	r->writing = false;
	if (canceled) {
		ms_err_set(&r->err, MS_ECANCELED, "interrupted; nothing was changed");
		finish(r);
		return;
	}
	if (r->res.replans < REPLANS + BAD_MAX) {
		bool retry = false;
		if (err->code == MS_EGAP && r->planned && !r->exact && !r->o.dry_run)
			retry = r->exact = true;
		else if (err->code == MS_ENOTFOUND && !r->target_missing && r->res.replans < REPLANS)
			retry = true;
		/* Another replica may hold it whole. The manifest's own damage is met before there is a pipeline. */
		if (!retry && r->o.nreplicas > 1 && r->planned && err->code != MS_ENOMEM && err->code != MS_ENOSPC && err->code != MS_EINVAL &&
		    err->code != MS_EGAP && err->code != MS_ENOTRESTORABLE) {
			if (!culprit && !r->apply && !r->target_missing) {
				replica = r->plan.snap_replica;
				ms_inv_snapshot_name(&r->plan.snap_gen->id, r->plan.snap, name);
				culprit = true;
			}
			retry = culprit && remember_bad(r, replica, name);
			if (retry && !r->res.warning[0])
				snprintf(r->res.warning, sizeof r->res.warning, "%s", err->msg);
		}
		if (retry) {
			r->err = MS_ERR_INIT;
			replan(r);
			return;
		}
	}
	/* An object that stays away is a hole in the replica, not a local failure; one of a newer format, or whose version is damaged, cannot be
	 * restored by this program. */
	if ((r->err.code == MS_ENOTFOUND || r->err.code == MS_EUNSUPPORTED) && !r->target_missing)
		r->err.code = MS_ENOTRESTORABLE;
	finish(r);
}

/* ---- listing and planning ---- */

static enum ms_code list_fn(void *arg, unsigned worker, struct ms_err *err) {
	struct ms_restore *r = arg;
	bool leftover = false;
	enum ms_code rc;
	if (r->o.path && !r->o.dry_run) {
		rc = ms_restore_target_check(&r->target, &leftover, err);
		if (rc == MS_EEXISTS && r->o.if_not_exists && !leftover) {
			struct ms_stat st;
			if (r->env->ops->stat(r->env, r->o.path, &st, NULL) == MS_OK && st.is_file) {
				r->res.existed = true;
				*err = MS_ERR_INIT;
				return MS_OK;
			}
		}
		if (rc)
			return rc;
	}
	r->load = (struct ms_load){.fetch = r->fetch, .worker = worker};
	/* The journal has a shelf of its own, after the replicas'. */
	ms_inventory_init(&r->inv, r->o.nreplicas + (r->journal != NULL));
	bool all = r->o.target.kind == MS_TARGET_TIME || r->o.target.generation;
	rc = ms_load_inventory(&r->load, all, &r->inv, err);
	if (!rc && !all && ms_plan_wants_all(&r->inv)) {
		ms_inventory_release(&r->inv);
		rc = ms_load_inventory(&r->load, true, &r->inv, err);
	}
	for (unsigned i = 0; !rc && i < r->nbad; i++)
		(void)ms_inventory_mark_bad(&r->inv, r->bad[i].replica, r->bad[i].name);
	if (!rc && r->journal)
		rc = ms_journal_source_scan(r->journal, &r->inv, r->o.nreplicas, err);
	return rc;
}

static enum ms_code probe_fn(void *arg, unsigned worker, struct ms_err *err) {
	struct ms_restore *r = arg;
	struct ms_load l = {.fetch = r->fetch, .worker = worker};
	return ms_load_probe_all(&l, &r->inv, &r->probe_next, err);
}

static void describe_plan(struct ms_restore *r) {
	const struct ms_plan *p = &r->plan;
	if (p->warning[0]) /* what is restored matters more than where it came from */
		snprintf(r->res.warning, sizeof r->res.warning, "%s", p->warning);
	const struct ms_manifest *m = &r->manifest;
	r->res.position = p->target;
	r->res.gap_txid = p->gap_txid;
	r->res.snapshot_txid = p->snap->txid;
	r->res.snapshot_us = p->snap->time_us;
	r->res.snapshot_bytes = p->snap->bytes;
	r->res.snapshot_objects = 1 + (uint64_t)m->nchunks;
	r->res.snapshot_replica = p->snap_replica;
	ms_inv_snapshot_name(&p->snap_gen->id, p->snap, r->res.snapshot_name);
	for (uint32_t i = 0; i < m->nchunks; i++)
		r->res.snapshot_bytes += m->chunks[i].bytes;
	r->res.journal_txids = 0;
	for (size_t i = 0; i < p->nsteps; i++) {
		if (p->steps[i].seg->flags & MS_SEG_JOURNAL)
			r->res.journal_txids += p->steps[i].upto - (i ? p->steps[i - 1].upto : p->snap->txid);
	}
	r->res.segment_bytes = p->segment_bytes;
	r->res.segment_objects = p->segment_objects;
	r->res.segments_from = p->nsteps ? p->snap->txid + 1 : 0;
	r->res.segments_to = p->nsteps ? p->steps[p->nsteps - 1].upto : 0;
	r->res.time_us = p->nsteps == 0 ? p->snap->time_us : 0;
	if (p->nsteps && p->steps[p->nsteps - 1].seg->last == p->target.txid)
		r->res.time_us = p->steps[p->nsteps - 1].seg->last_us;
	r->res.page_size = m->state.page_size;
	r->res.db_pages = m->state.db_pages;
	r->res.checksum = p->nsteps == 0 ? m->state.checksum : 0;
	r->res.mode = m->mode & 0777 & ~r->o.umask;
}

static enum ms_code plan_fn(void *arg, unsigned worker, struct ms_err *err) {
	struct ms_restore *r = arg;
	struct ms_plan_probe probe;
	enum ms_code rc;
	r->load.worker = worker;
	probe = ms_load_probe(&r->load);
	if (r->journal)
		probe = ms_journal_source_probe(r->journal, &probe);
	if ((rc = ms_plan_make(&r->inv, &r->o.target, &probe, &r->plan, err)))
		return rc;
	r->planned = true;
	rc = ms_load_manifest(&r->load, r->plan.snap_replica, &r->plan.snap_gen->id, r->plan.snap, NULL, &r->manifest, err);
	if (!rc)
		describe_plan(r);
	return rc;
}

/* ---- building ---- */

static enum ms_code create_fn(void *arg, unsigned worker, struct ms_err *err) {
	struct ms_restore *r = arg;
	const struct ms_dbstate *st = &r->manifest.state;
	enum ms_code rc;
	(void)worker;
	r->target_missing = true;
	if ((rc = ms_restore_target_create(&r->target, err)) ||
	    (rc = r->env->ops->truncate(r->target.file, (int64_t)st->db_pages * st->page_size, err)) ||
	    (rc = ms_pagehash_new(r->env, r->target.scratch, r->o.hash_bytes, &r->hashes, err)) ||
	    (rc = ms_pagehash_reserve(r->hashes, st->db_pages, err)))
		return rc;
	r->target_missing = false;
	r->chunks.fetch = r->fetch;
	r->chunks.manifest = &r->manifest;
	r->chunks.replica = r->plan.snap_replica;
	r->chunks.file = r->target.file;
	r->chunks.hashes = r->hashes;
	atomic_store(&r->chunks.next, 0);
	atomic_store(&r->chunks.failed, false);
	return MS_OK;
}

static enum ms_code chunks_fn(void *arg, unsigned worker, struct ms_err *err) {
	struct ms_restore *r = arg;
	return ms_chunks_work(&r->chunks, worker, err);
}

static enum ms_code base_fn(void *arg, unsigned worker, struct ms_err *err) {
	struct ms_restore *r = arg;
	enum ms_code rc = ms_chunks_finish(&r->chunks, worker, &r->plan.snap_gen->id, r->plan.snap, err);
	if (!rc)
		rc = ms_apply_new(r->env, r->target.file, r->hashes, r->o.cache_bytes, &r->manifest.state, r->plan.target.txid, &r->apply, err);
	return rc;
}

static enum ms_code journal_fn(void *arg, unsigned worker, struct ms_err *err) {
	struct ms_restore *r = arg;
	(void)worker;
	return ms_journal_source_apply(r->journal, r->apply, &r->plan.steps[r->step].gen->id, r->plan.steps[r->step].upto, is_canceled, r, err);
}

static enum ms_code flush_fn(void *arg, unsigned worker, struct ms_err *err) {
	struct ms_restore *r = arg;
	(void)worker;
	r->state = *ms_apply_state(r->apply);
	r->res.commits = ms_apply_commits(r->apply);
	r->res.pages = ms_apply_pages(r->apply);
	if (!ms_apply_done(r->apply) || r->state.txid != r->plan.target.txid)
		return ms_err_set(err, MS_EGAP, "txid %llu is missing from generation %s", (unsigned long long)r->state.txid + 1, r->plan.target.generation.s);
	enum ms_code rc = ms_apply_flush(r->apply, err);
	if (!rc)
		rc = r->env->ops->truncate(r->target.file, (int64_t)r->state.db_pages * r->state.page_size, err);
	ms_apply_free(r->apply);
	r->apply = NULL;
	r->verify.env = r->env;
	r->verify.file = r->target.file;
	r->verify.hashes = r->hashes;
	r->verify.state = &r->state;
	r->verify.cancel = r->o.cancel;
	atomic_store(&r->verify.next, 0);
	atomic_store(&r->verify.sum, 0);
	atomic_store(&r->verify.bytes, 0);
	atomic_store(&r->verify.failed, false);
	return rc;
}

static enum ms_code fsync_fn(void *arg, unsigned worker, struct ms_err *err) {
	struct ms_restore *r = arg;
	(void)worker;
	if (r->sync_err.code) {
		*err = r->sync_err;
		return r->sync_err.code;
	}
	return r->env->ops->fsync(r->target.file, err);
}

static enum ms_code verify_fn(void *arg, unsigned worker, struct ms_err *err) {
	struct ms_restore *r = arg;
	(void)worker;
	return ms_verify_pages_work(&r->verify, err);
}

static enum ms_code proof_fn(void *arg, unsigned worker, struct ms_err *err) {
	struct ms_restore *r = arg;
	(void)worker;
	enum ms_code rc = MS_OK;
	if (r->o.verify >= MS_VERIFY_CHECKSUM)
		rc = ms_verify_pages_finish(&r->verify, err);
	if (!rc && r->o.verify >= MS_VERIFY_QUICK)
		rc = ms_verify_sqlite(r->target.work, r->o.verify == MS_VERIFY_FULL, r->o.cancel, err);
	return rc;
}

static enum ms_code publish_fn(void *arg, unsigned worker, struct ms_err *err) {
	struct ms_restore *r = arg;
	(void)worker;
	/* A spilled file of hashes goes first, so that the directory's fsync makes its going durable too. */
	ms_pagehash_free(r->hashes);
	r->hashes = NULL;
	r->target_missing = true;
	enum ms_code rc = ms_restore_target_publish(&r->target, r->res.mode, is_canceled, r, err);
	if (rc)
		return rc;
	r->res.time_us = r->state.time_us;
	r->res.checksum = r->state.checksum;
	r->res.page_size = r->state.page_size;
	r->res.db_pages = r->state.db_pages;
	return MS_OK;
}

/* ---- what follows what ---- */

static void after_proof(struct ms_restore *r) {
	begin_phase(r, "finishing", 0, finish);
	one_task(r, MS_LANE_SYNC, publish_fn);
}

static void after_verify(struct ms_restore *r) {
	begin_phase(r, "checking", 0, after_proof);
	one_task(r, MS_LANE_CPU, proof_fn);
}

static void verify_and_sync(struct ms_restore *r) {
	/* The fsync begins while pages are read back: both take the disk's and the memory's time, not each other's. */
	begin_phase(r, "verifying", (uint64_t)r->state.db_pages * r->state.page_size, after_verify);
	ms_jobs_add(&r->jobs, MS_LANE_SYNC, fsync_fn, 0);
	for (unsigned i = 0; r->o.verify >= MS_VERIFY_CHECKSUM && i < VERIFY_JOBS; i++)
		ms_jobs_add(&r->jobs, MS_LANE_CPU, verify_fn, i);
	ms_jobs_run(&r->jobs, phase_over);
}

static void after_flush(struct ms_restore *r) { when_synced(r, verify_and_sync); }

static bool is_journal(const struct ms_plan_step *s) { return (s->seg->flags & MS_SEG_JOURNAL) != 0; }

static void next_steps(struct ms_restore *r);

static void after_journal(struct ms_restore *r) {
	r->step++;
	next_steps(r);
}

static void pipeline_over(void *arg, const struct ms_err *err) {
	struct ms_restore *r = arg;
	if (err) {
		fail(r, err);
		return;
	}
	ms_pipeline_free(r->pipeline);
	r->pipeline = NULL;
	next_steps(r);
}

/* Runs of objects go through the pipeline, stretches of a journal through a job of their own. */
static void next_steps(struct ms_restore *r) {
	struct ms_err e = MS_ERR_INIT;
	size_t end = r->step;
	if (r->step >= r->plan.nsteps) {
		begin_phase(r, "segments", 0, after_flush);
		one_task(r, MS_LANE_CPU, flush_fn);
	} else if (is_journal(&r->plan.steps[r->step])) {
		begin_phase(r, "journal", 0, after_journal);
		one_task(r, MS_LANE_CPU, journal_fn);
	} else {
		size_t first = r->step;
		while (end < r->plan.nsteps && !is_journal(&r->plan.steps[end]))
			end++;
		r->step = end;
		begin_phase(r, "segments", r->plan.segment_bytes, NULL);
		if (ms_pipeline_start(r->env, r->fetch, &r->plan, first, end, r->apply, pipeline_over, r, &r->pipeline, &e))
			fail(r, &e);
	}
}

static void after_base(struct ms_restore *r) {
	r->step = 0;
	next_steps(r);
}

static void after_chunks(struct ms_restore *r) {
	r->writing = false;
	begin_phase(r, "snapshot", 0, after_base);
	one_task(r, MS_LANE_UPLOAD, base_fn);
}

static void after_create(struct ms_restore *r) {
	unsigned n = ms_fetch_workers(r->fetch);
	begin_phase(r, "snapshot", r->res.snapshot_bytes, after_chunks);
	if (n > r->manifest.nchunks)
		n = r->manifest.nchunks ? r->manifest.nchunks : 1;
	for (unsigned i = 0; i < n; i++)
		ms_jobs_add(&r->jobs, MS_LANE_UPLOAD, chunks_fn, i);
	r->writing = true;
	ms_jobs_run(&r->jobs, phase_over);
}

static void after_plan(struct ms_restore *r) {
	if (r->o.dry_run) {
		finish(r);
		return;
	}
	begin_phase(r, "snapshot", 0, after_create);
	one_task(r, MS_LANE_CPU, create_fn);
}

static void after_probe(struct ms_restore *r) {
	begin_phase(r, "listing", 0, after_plan);
	one_task(r, MS_LANE_UPLOAD, plan_fn);
}

static void after_list(struct ms_restore *r) {
	if (r->res.existed) {
		finish(r);
		return;
	}
	if (!r->exact) {
		after_probe(r);
		return;
	}
	atomic_store(&r->probe_next, 0);
	begin_phase(r, "listing", 0, after_probe);
	for (unsigned i = 0; i < ms_fetch_workers(r->fetch); i++)
		ms_jobs_add(&r->jobs, MS_LANE_UPLOAD, probe_fn, i);
	ms_jobs_run(&r->jobs, phase_over);
}

static void phase_list(struct ms_restore *r) {
	struct ms_err e = MS_ERR_INIT;
	r->target_missing = false;
	r->sync_err = MS_ERR_INIT;
	if (r->o.path && ms_restore_target_init(&r->target, r->env, r->o.path, r->o.temp_dir, r->o.force, &e)) {
		fail(r, &e);
		return;
	}
	begin_phase(r, "listing", 0, after_list);
	one_task(r, MS_LANE_UPLOAD, list_fn);
}

static void kick(void *arg) {
	struct ms_restore *r = arg;
	r->env->ops->timer_start(r->timer, TICK_US);
	phase_list(r);
}

enum ms_code ms_restore_start(struct ms_env *env, const struct ms_restore_options *o,
			      void (*done)(void *arg, const struct ms_restore_result *res, const struct ms_err *err), struct ms_restore **ret,
			      struct ms_err *err) {
	enum ms_code rc = MS_OK;
	if (!o->path && !o->dry_run)
		return ms_err_set(err, MS_EINVAL, "no target for a restore");
	if (o->nreplicas == 0)
		return ms_err_set(err, MS_EINVAL, "no replica to restore from");
	struct ms_restore *r = calloc(1, sizeof *r);
	if (!r)
		return ms_err_set(err, MS_ENOMEM, "out of memory for a restore");
	r->env = env;
	r->o = *o;
	r->done = done;
	r->err = MS_ERR_INIT;
	r->phase = "listing";
	if (!r->o.parallel)
		r->o.parallel = DEFAULT_PARALLEL;
	if (r->o.parallel > MS_FETCH_WORKERS_MAX)
		r->o.parallel = MS_FETCH_WORKERS_MAX;
	if (!r->o.cache_bytes)
		r->o.cache_bytes = DEFAULT_BYTES;
	if (!r->o.hash_bytes)
		r->o.hash_bytes = DEFAULT_BYTES;
	/* Where holes matter to the plan itself, every header is read before it. */
	r->exact = o->dry_run || o->target.stop_at_gap;
	r->started_ns = ms_env_mono_ns(env);
	ms_jobs_init(&r->jobs, env, r);
	r->timer = env->ops->timer_new(env, tick, r);
	if (!r->timer)
		rc = ms_err_set(err, MS_ENOMEM, "out of memory for a restore");
	if (!rc)
		rc = ms_fetch_new(env, o->replicas, o->nreplicas, r->o.parallel, o->cancel, &r->fetch, err);
	if (!rc && o->journal_dir)
		rc = ms_journal_source_new(env, o->journal_dir, o->journal_db, &r->journal, err);
	if (rc) {
		ms_restore_free(r);
		return rc;
	}
	*ret = r;
	env->ops->post(env, kick, r);
	return MS_OK;
}

void ms_restore_free(struct ms_restore *r) {
	if (!r)
		return;
	drop_attempt(r);
	ms_fetch_free(r->fetch);
	ms_journal_source_free(r->journal);
	r->env->ops->timer_free(r->timer);
	free(r);
}

struct waiter {
	struct ms_env *env;
	const struct ms_restore_options *o;
	struct ms_restore_result *res;
	struct ms_err err;
};

static void waiter_done(void *arg, const struct ms_restore_result *res, const struct ms_err *err) {
	struct waiter *w = arg;
	*w->res = *res;
	if (err)
		w->err = *err;
	w->env->ops->stop(w->env);
}

static void waiter_progress(void *arg, const struct ms_restore_progress *p) {
	struct waiter *w = arg;
	w->o->progress(w->o->arg, p);
}

enum ms_code ms_restore_run(struct ms_env *env, const struct ms_restore_options *o, struct ms_restore_result *ret, struct ms_err *err) {
	struct waiter w = {.env = env, .o = o, .res = ret, .err = MS_ERR_INIT};
	struct ms_restore_options mine = *o;
	struct ms_restore *r = NULL;
	memset(ret, 0, sizeof *ret);
	mine.arg = &w;
	mine.progress = o->progress ? waiter_progress : NULL;
	enum ms_code rc = ms_restore_start(env, &mine, waiter_done, &r, err);
	if (rc)
		return rc;
	env->ops->run(env);
	ms_restore_free(r);
	if (w.err.code && err)
		*err = w.err;
	return w.err.code;
}
