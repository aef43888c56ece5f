/* What a stream knows of itself, for its owner: loop thread, nothing is changed. */
#include "core/stream_internal.h"

#include <stdio.h>
#include <stdlib.h>

bool ms_stream_seeded(const struct ms_stream *s) {
	for (uint32_t i = 0; i < s->nworkers; i++)
		if (s->replicas[i]->required && ms_worker_waits_for_snapshot(s->replicas[i]->worker))
			return false;
	return true;
}

const char *ms_stream_why_seeding(const struct ms_stream *s, char ret[MS_STATUS_TEXT]) {
	const struct ms_generation_start *g = ms_capture_generation(s->cap);
	ret[0] = '\0';
	if (!ms_stream_seeded(s) && g->nlineage && g->lineage[0].seeded)
		snprintf(ret, MS_STATUS_TEXT, "nothing of generation %s restores before its first snapshot has ended; what was before it does, up to txid %llu of %s",
			 g->generation.s, (unsigned long long)g->lineage[0].fork_txid, g->lineage[0].parent.s);
	return ret;
}

bool ms_stream_caught_up(const struct ms_stream *s) {
	if (!s->settled || s->job_running || ms_stream_snapshots_under_way(s) || s->snapshot_wanted || s->mode != MODE_FOLLOW || s->journalled.txid != s->pub.state.txid || !ms_stream_seeded(s))
		return false;
	for (uint32_t i = 0; i < s->nworkers; i++)
		if (!ms_worker_caught_up(s->replicas[i]->worker))
			return false;
	return true;
}

bool ms_stream_hopeless(const struct ms_stream *s, int64_t patience_us, struct ms_err *ret_why) {
	bool hopeless = false, busy = false, served = false, held_up = false;
	for (uint32_t i = 0; i < s->nworkers; i++) {
		struct ms_worker_status st;
		if (ms_worker_caught_up(s->replicas[i]->worker)) {
			served = true;
			continue;
		}
		ms_worker_status(s->replicas[i]->worker, &st);
		if (!ms_worker_hopeless(&st, patience_us)) {
			busy = true;
			continue;
		}
		held_up = held_up || st.holds_snapshot;
		if (!hopeless) {
			hopeless = true;
			if (ret_why)
				(void)ms_err_set(ret_why, st.failing_code, "replica %s: %s", st.name, st.last_error);
		}
	}
	/* A snapshot is read once for all its replicas, so one that does not take it holds the others up. */
	return hopeless && (held_up || !(busy || (served && !s->settled)));
}

bool ms_stream_attached(const struct ms_stream *s) {
	switch (s->state) {
	case MS_STREAM_STARTING:
	case MS_STREAM_CATCHUP:
		return false;
	case MS_STREAM_SEEDING: /* also while a new generation's first state is still being read */
		return s->settled;
	default:
		return true;
	}
}

void ms_stream_journalled(struct ms_stream *s, uint64_t durable_seq) {
	pthread_mutex_lock(&s->handed_mu);
	/* A step that goes on may have handed over more than was published when the one before it ended. */
	const struct handed *h = s->handed.seq > s->pub.last_seq && durable_seq >= s->handed.seq ? &s->handed : NULL;
	if (h)
		s->journalled = h->state;
	else if (durable_seq >= s->pub.last_seq)
		s->journalled = s->pub.state;
	pthread_mutex_unlock(&s->handed_mu);
}

enum ms_stream_state ms_stream_state(const struct ms_stream *s) { return s->state; }
const char *ms_stream_name(const struct ms_stream *s) { return s->name; }

enum ms_code ms_stream_get_status(const struct ms_stream *s, struct ms_stream_status *ret, struct ms_err *err) {
	memset(ret, 0, sizeof *ret);
	if (!(ret->workers = calloc(s->nworkers + 1, sizeof *ret->workers)))
		return ms_err_set(err, MS_ENOMEM, "status");
	snprintf(ret->name, sizeof ret->name, "%s", s->name);
	snprintf(ret->path, sizeof ret->path, "%s", s->path);
	ret->state = s->state;
	snprintf(ret->why, sizeof ret->why, "%s", s->why);
	ret->generation = s->pub.generation;
	ret->db = s->journalled.txid > s->pub.state.txid && s->job_running ? s->journalled : s->pub.state;
	ret->journalled_txid = s->journalled.txid;
	ret->wal_bytes = s->pub.src.wal_bytes;
	ret->frames = s->pub.stats.frames;
	ret->commits = s->pub.stats.commits;
	ret->record_bytes = s->pub.stats.record_bytes;
	ret->raw_bytes = s->pub.stats.raw_bytes;
	ret->deltas = s->pub.stats.deltas;
	ret->fulls = s->pub.stats.fulls;
	ret->stored = s->pub.stats.stored;
	ret->catchups = s->pub.stats.catchups;
	ret->lost_commits = s->pub.stats.lost_commits;
	ret->blind_catchups = s->pub.stats.blind_catchups;
	ret->clock_back_us = s->pub.stats.clock_back_us;
	ret->snapshots = s->snapshots;
	ret->step_errors = s->step_errors;
	ret->last_commit_us = ret->db.time_us;
	ret->nworkers = s->nworkers;
	for (uint32_t i = 0; i < s->nworkers; i++) {
		ms_worker_status(s->replicas[i]->worker, &ret->workers[i]);
		ret->workers[i].no_base = ms_worker_waits_for_snapshot(s->replicas[i]->worker);
	}
	return MS_OK;
}
