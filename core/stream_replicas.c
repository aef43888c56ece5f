/*
 * The replicas of a stream: their workers, what these report, and changes while everything else goes on. The list is read by the source
 * job (catch-ups), so it changes between jobs: whoever leaves or joins meanwhile waits for the end of the job (ms_stream_replicas_settle).
 * One that leaves has its worker stopped, and is freed when nothing of it is under way any more.
 */
#include "core/stream_internal.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/fs.h"
#include "base/log.h"

static struct stream_replica *find(const struct ms_stream *s, const char *name) {
	for (uint32_t i = 0; i < s->nworkers; i++)
		if (strcmp(s->replicas[i]->name, name) == 0)
			return s->replicas[i];
	return NULL;
}

static struct stream_replica *of(const struct ms_stream *s, const struct ms_worker *w) {
	for (uint32_t i = 0; i < s->nworkers; i++)
		if (s->replicas[i]->worker == w)
			return s->replicas[i];
	return NULL;
}

/* ---- what workers report ---- */

/* Failure is loud, and so is its end: once each, not once a try. */
static void worker_changed(void *arg, struct ms_worker *w) {
	struct ms_stream *s = arg;
	struct stream_replica *r = of(s, w);
	if (r) {
		struct ms_worker_status st;
		char q[700];
		ms_worker_status(w, &st);
		bool bad = st.state == MS_WORKER_RETRYING || st.state == MS_WORKER_FAILED, good = st.state == MS_WORKER_IDLE;
		if (bad && !r->bad)
			ms_log(MS_LOG_WARN, "replica fails: commits stay in the local journal until it is back", "db=%s replica=%s error=%s", s->name,
			       st.name, ms_log_q(q, sizeof q, st.last_error));
		else if (good && r->bad)
			ms_log(MS_LOG_INFO, "replica is back", "db=%s replica=%s txid=%llu", s->name, st.name, (unsigned long long)st.txid);
		r->bad = bad || (r->bad && !good);
	}
	if (!s->job_running && s->workers_started)
		ms_stream_catchups_pump(s);
	s->hooks.changed(s->hooks.arg, s);
}

static void worker_fenced(void *arg, struct ms_worker *w, const struct ms_err *err) {
	struct ms_stream *s = arg;
	struct stream_replica *r = of(s, w);
	uint32_t left = 0;
	if (!r)
		return; /* it is leaving */
	for (uint32_t i = 0; i < s->nworkers; i++) {
		struct ms_worker_status st;
		ms_worker_status(s->replicas[i]->worker, &st);
		left += s->replicas[i] != r && st.state != MS_WORKER_FENCED;
	}
	if (r == s->authority || !left)
		ms_stream_end(s, MS_STREAM_FENCED, err);
	else
		s->hooks.changed(s->hooks.arg, s);
}

static void worker_needs_snapshot(void *arg, struct ms_worker *w, const char *reason) {
	struct ms_stream *s = arg;
	(void)w;
	char q[300];
	ms_log(MS_LOG_INFO, "replica needs a snapshot", "db=%s reason=%s", s->name, ms_log_q(q, sizeof q, reason));
	ms_stream_snapshots_at_once(s);
	if (s->started)
		s->env->ops->timer_start(s->tick, 0);
}

/* ---- one replica ---- */

enum ms_code ms_stream_replica_new(struct ms_stream *s, const struct ms_worker_config *cfg, bool authority, struct stream_replica **ret,
				   struct ms_err *err) {
	struct ms_worker_hooks hooks = {ms_stream_worker_probed, worker_changed, worker_fenced, worker_needs_snapshot, s};
	struct ms_worker_config w = *cfg;
	char path[MS_PATH_MAX];
	if (snprintf(path, sizeof path, "%s/cursor-%s", s->dir, w.name) >= (int)sizeof path)
		return ms_err_set(err, MS_ETOOBIG, "path of the cursor of %s", w.name);
	struct stream_replica *r = calloc(1, sizeof *r);
	if (!r || !(r->name = strdup(w.name))) {
		free(r);
		return ms_err_set(err, MS_ENOMEM, "replica %s", w.name);
	}
	w.db = s->name;
	w.state_path = path;
	w.owner = s->owner;
	w.host = s->host;
	w.compression = s->compression;
	w.authority = authority;
	w.takeover = w.takeover || s->takeover;
	r->stream = s;
	r->required = w.required;
	enum ms_code rc = ms_worker_new(s->env, s->journal, &w, &hooks, &r->worker, err);
	if (rc)
		ms_stream_replica_free(r);
	else
		*ret = r;
	return rc;
}

void ms_stream_replica_free(struct stream_replica *r) {
	if (!r)
		return;
	ms_worker_free(r->worker);
	free(r->name);
	free(r);
}

static void start(struct ms_stream *s, struct stream_replica *r) {
	const struct ms_generation_start *g = ms_capture_generation(s->cap);
	struct ms_local_facts local = {.generation = g->generation, .state = *ms_capture_state(s->cap), .lineage = g->lineage,
				       .nlineage = g->nlineage, .epoch = s->epoch};
	ms_worker_start(r->worker, &local);
}

void ms_stream_start_workers(struct ms_stream *s) {
	if (s->workers_started)
		return;
	s->workers_started = true;
	for (uint32_t i = 0; i < s->nworkers; i++)
		start(s, s->replicas[i]);
}

/* ---- changes ---- */

bool ms_stream_replicas_changeable(const struct ms_stream *s) { return s->workers_started && !s->ended && !s->stopping && !s->draining; }

static void bury(struct ms_stream *s) {
	while (s->buried && !s->catchups_dropped) {
		struct stream_replica *r = s->buried;
		s->buried = r->next;
		ms_stream_replica_free(r);
	}
}

static void left(void *arg) {
	struct stream_replica *r = arg;
	struct ms_stream *s = r->stream;
	void (*cb)(void *) = r->left;
	void *cb_arg = r->left_arg;
	for (struct stream_replica **at = &s->leaving; *at; at = &(*at)->next)
		if (*at == r) {
			*at = r->next;
			break;
		}
	/* A catch-up of its that was given up may still have a job under way, which comes back to it. */
	ms_worker_free(r->worker);
	r->worker = NULL;
	r->next = s->buried;
	s->buried = r;
	bury(s);
	cb(cb_arg);
	if (s->workers_stopped)
		ms_stream_finish_stop(s);
}

void ms_stream_replicas_settle(struct ms_stream *s) {
	if (s->job_running)
		return;
	bury(s);
	for (uint32_t i = 0; i < s->nworkers;) {
		struct stream_replica *r = s->replicas[i];
		if (!r->left) {
			i++;
			continue;
		}
		memmove(s->replicas + i, s->replicas + i + 1, (s->nworkers - i - 1) * sizeof *s->replicas);
		s->nworkers--;
		r->next = s->leaving;
		s->leaving = r;
		ms_stream_snapshots_leave(s, r->worker);
		ms_catchup_run_drop(r->catchup, &s->catchups_dropped);
		r->catchup = NULL;
		ms_worker_stop(r->worker, r->leave_us, left, r);
	}
	while (s->joining) {
		struct stream_replica *r = s->joining, **grown = reallocarray(s->replicas, s->nworkers + 2, sizeof *grown);
		if (!grown || !s->cap)
			break; /* between two jobs that recover the capture, or out of memory: after the next */
		s->replicas = grown;
		s->joining = r->next;
		s->replicas[s->nworkers++] = r;
		start(s, r);
	}
}

bool ms_stream_has_replica(const struct ms_stream *s, const char *name) {
	const struct stream_replica *r = find(s, name);
	for (const struct stream_replica *j = s->joining; j && !r; j = j->next)
		r = strcmp(j->name, name) == 0 ? j : NULL;
	return r != NULL;
}

void ms_stream_remove_replica(struct ms_stream *s, const char *name, int64_t deadline_us, void (*done)(void *arg), void *arg) {
	struct stream_replica *r = find(s, name);
	if (!r || r->left) {
		s->env->ops->post(s->env, done, arg);
		return;
	}
	r->left = done;
	r->left_arg = arg;
	r->leave_us = deadline_us;
	ms_stream_replicas_settle(s);
}

enum ms_code ms_stream_add_replica(struct ms_stream *s, const struct ms_worker_config *cfg, struct ms_err *err) {
	struct stream_replica *r = NULL, **end = &s->joining;
	if (ms_stream_has_replica(s, cfg->name))
		return ms_err_set(err, MS_EEXISTS, "%s: replica %s is there already", s->name, cfg->name);
	enum ms_code rc = ms_stream_replica_new(s, cfg, false, &r, err);
	if (rc)
		return rc;
	while (*end)
		end = &(*end)->next;
	*end = r;
	ms_stream_replicas_settle(s);
	return MS_OK;
}

void ms_stream_tune_replica(struct ms_stream *s, const struct ms_worker_config *cfg) {
	struct stream_replica *r = find(s, cfg->name);
	if (!r || r->left)
		return;
	r->required = cfg->required;
	ms_worker_tune(r->worker, cfg);
}

void ms_stream_tune(struct ms_stream *s, const struct ms_stream_config *cfg) {
	s->snapshot_interval_us = cfg->snapshot_interval_us;
	s->snapshot_share = cfg->snapshot_share;
	s->data_loss_threshold_us = cfg->data_loss_threshold_us;
}
