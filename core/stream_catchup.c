/*
 * What a stream does for replicas that the journal cannot be kept for: which stretch of the journal may go, and the catch-ups that bring them
 * to the present afterwards (core/catchup_run.h), one for each such replica, beside snapshots and the other replicas' segments.
 */
#include "core/stream_internal.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"

#define RETRY_US 2000000

static int64_t mono_us(const struct ms_stream *s) { return (int64_t)(ms_env_mono_ns(s->env) / 1000); }

/* ---- purging ---- */

uint64_t ms_stream_needs_seq(const struct ms_stream *s) {
	/* Until the local state is known, everything may be needed. */
	if (!s->pub.needs_seq)
		return 0;
	uint64_t need = s->pub.needs_seq;
	for (uint32_t i = 0; i < s->nworkers; i++) {
		uint64_t kept = ms_worker_needs_seq(s->replicas[i]->worker);
		if (ms_worker_holds_journal(s->replicas[i]->worker))
			need = kept < need ? kept : need;
	}
	uint64_t n = ms_stream_snapshots_need_seq(s);
	return n < need ? n : need;
}

uint64_t ms_stream_let_go(struct ms_stream *s, uint64_t before) {
	if (!s->pub.needs_seq)
		return 0;
	if (s->pub.needs_seq < before && !atomic_exchange(&s->checkpoint_wanted, true))
		ms_stream_poke(s);
	ms_stream_snapshots_let_go(s, before);
	for (uint32_t i = 0; i < s->nworkers; i++)
		ms_worker_let_go(s->replicas[i]->worker, before);
	uint64_t need = s->pub.needs_seq;
	for (uint32_t i = 0; i < s->nworkers; i++) {
		uint64_t kept = ms_worker_needs_seq(s->replicas[i]->worker);
		need = kept < need ? kept : need;
	}
	uint64_t n = ms_stream_snapshots_need_seq(s);
	return n < need ? n : need;
}

/* ---- catch-ups ---- */

static void log_owed(struct ms_stream *s, uint32_t i) {
	struct ms_worker_status st;
	ms_worker_status(s->replicas[i]->worker, &st);
	if (st.owed_commits && !s->replicas[i]->owing)
		ms_log(MS_LOG_WARN, "replica is too far behind for the journal: its commits will be one catch-up", "db=%s replica=%s from_txid=%llu", s->name,
		       st.name, (unsigned long long)st.owed_first);
	s->replicas[i]->owing = st.owed_commits != 0;
}

static void run_done(void *arg, struct ms_catchup_run *r, const struct ms_catchup_result *result) {
	struct stream_replica *c = arg;
	struct ms_stream *s = c->stream;
	struct ms_worker_status st;
	char q[700];
	(void)r;
	ms_worker_status(c->worker, &st);
	if (!result->err.code) {
		ms_log(MS_LOG_WARN, "replica caught up: only the last of these commits restores from it", "db=%s replica=%s from_txid=%llu to_txid=%llu pages=%llu bytes=%llu",
		       s->name, st.name, (unsigned long long)result->from_txid, (unsigned long long)result->to_txid, (unsigned long long)result->pages,
		       (unsigned long long)result->bytes);
	} else {
		c->catchup_retry_us = mono_us(s) + (result->err.code == MS_ECANCELED ? 0 : RETRY_US);
		ms_log(result->err.code == MS_ECANCELED ? MS_LOG_INFO : MS_LOG_WARN, "catch-up begins anew", "db=%s replica=%s reason=%s", s->name, st.name,
		       ms_log_q(q, sizeof q, result->err.msg));
	}
	ms_stream_poke(s);
}

static void run_wake(void *arg) {
	struct ms_stream *s = ((struct stream_replica *)arg)->stream;
	if (s->workers_stopped)
		ms_stream_finish_stop(s);
	else
		ms_stream_poke(s);
}

void ms_stream_catchups_abandon(struct ms_stream *s) {
	for (uint32_t i = 0; i < s->nworkers; i++)
		if (s->replicas[i]->catchup)
			ms_catchup_run_abandon(s->replicas[i]->catchup);
	while (s->catchups_dropped)
		ms_catchup_run_abandon(s->catchups_dropped);
}

void ms_stream_catchups_drop(struct ms_stream *s) {
	for (uint32_t i = 0; i < s->nworkers; i++) {
		if (s->job_running) {
			s->catchups_drop |= s->replicas[i]->catchup != NULL;
			continue;
		}
		ms_catchup_run_drop(s->replicas[i]->catchup, &s->catchups_dropped);
		s->replicas[i]->catchup = NULL;
	}
	if (!s->job_running)
		s->catchups_drop = false;
}

/* Loop thread, no job running: ends, starts and advances them. */
void ms_stream_catchups_pump(struct ms_stream *s) {
	for (uint32_t i = 0; i < s->nworkers; i++) {
		struct stream_replica *c = s->replicas[i];
		log_owed(s, i);
		if (c->catchup && ms_catchup_run_ended(c->catchup)) {
			ms_catchup_run_drop(c->catchup, &s->catchups_dropped);
			c->catchup = NULL;
		}
		if (!c->catchup && s->cap && s->mode == MODE_FOLLOW && !s->stopping && !s->ended && !s->paused && ms_worker_wants_catchup(s->replicas[i]->worker) &&
		    mono_us(s) >= c->catchup_retry_us) {
			struct ms_err err = MS_ERR_INIT;
			c->stream = s;
			if (ms_catchup_run_new(s->env, s->journal, s->cap, s->replicas[i]->worker, s->level, s->codec_none, run_done, run_wake, c, &c->catchup, &err) != MS_OK)
				c->catchup_retry_us = mono_us(s) + RETRY_US;
		}
		if (c->catchup)
			ms_catchup_run_advance(c->catchup);
	}
}

bool ms_stream_catchups_want_fill(const struct ms_stream *s) {
	for (uint32_t i = 0; i < s->nworkers; i++)
		if (s->replicas[i]->catchup && ms_catchup_run_wants_fill(s->replicas[i]->catchup))
			return true;
	return false;
}

void ms_stream_catchups_durable(struct ms_stream *s, uint64_t seq) {
	for (uint32_t i = 0; i < s->nworkers; i++)
		if (s->replicas[i]->catchup)
			ms_catchup_run_durable(s->replicas[i]->catchup, seq);
}

/* ---- source job ---- */

void ms_stream_catchups_touch(struct ms_stream *s, uint32_t pgno) {
	for (uint32_t i = 0; i < s->nworkers; i++)
		if (s->replicas[i]->catchup)
			ms_catchup_run_touch(s->replicas[i]->catchup, pgno);
}

enum ms_code ms_stream_catchups_fill(struct ms_stream *s, struct ms_err *err) {
	for (uint32_t i = 0; i < s->nworkers; i++) {
		enum ms_code rc = s->replicas[i]->catchup ? ms_catchup_run_fill(s->replicas[i]->catchup, s->source, err) : MS_OK;
		if (rc && rc != MS_EBUSY)
			return rc;
	}
	return MS_OK;
}
