/*
 * When a stream takes snapshots, and for whom. One is shared by everybody who wants one when it begins. Two may be under way: who wants one later, and who was
 * too slow for the others (core/snapshot_run.h), gets the second. While both are taken and others wait, the slower ones make room for them.
 * A slow replica takes snapshots apart from the others until it has had one.
 */
#include "core/stream_internal.h"

#include <stdio.h>

#include "base/log.h"

#define SNAPSHOT_MIN_BYTES (16u << 20) /* record bytes before the share rule may ask for a snapshot */
#define SNAPSHOT_RETRY_US 30000000    /* after a failed snapshot */
#define GATHER_US 1000000	      /* for replicas that are being claimed, so that one reading serves all */

static int64_t mono_us(const struct ms_stream *s) { return (int64_t)(ms_env_mono_ns(s->env) / 1000); }

static void answer(struct ms_stream *s, uint64_t txid, const struct ms_err *err) {
	void (*cb)(void *, uint64_t, const struct ms_err *) = s->snapshot_cb;
	s->snapshot_cb = NULL;
	if (cb)
		cb(s->snapshot_arg, txid, err);
}

/* At once, or where a job runs, which may be writing into it, at that job's end. */
static void drop(struct stream_snapshot *n) {
	struct ms_stream *s = n->stream;
	if (!n->run)
		return;
	if (s->job_running) {
		n->drop = true;
		return;
	}
	ms_snapshot_run_drop(n->run, &s->dropped);
	n->run = NULL;
	n->drop = n->ended = false;
	if (n->asked)
		answer(s, 0, &(struct ms_err){MS_ECANCELED, 0, "the snapshot was given up"});
	n->asked = false;
}

void ms_stream_snapshots_drop(struct ms_stream *s) {
	for (int i = 0; i < SNAPSHOTS_AT_ONCE; i++)
		drop(&s->snapshots_running[i]);
}

static void ended(struct stream_snapshot *n) {
	struct ms_stream *s = n->stream;
	struct ms_snapshot_result *r = &n->result;
	char q[700];
	for (uint32_t i = 0; i < s->nworkers && r->err.code == MS_OK; i++)
		if (ms_snapshot_run_has(n->run, s->replicas[i]->worker))
			s->replicas[i]->slow = false;
	ms_snapshot_run_drop(n->run, &s->dropped);
	n->run = NULL;
	n->ended = false;
	if (r->err.code == MS_OK) {
		s->snapshots++;
		ms_log(MS_LOG_INFO, "snapshot stored", "db=%s txid=%llu bytes=%llu replicas=%u", s->name, (unsigned long long)r->txid,
		       (unsigned long long)r->bytes, r->published);
	} else if (!r->slow || r->err.code != MS_ECANCELED) {
		s->snapshot_retry_us = mono_us(s) + SNAPSHOT_RETRY_US;
		ms_log(MS_LOG_WARN, "snapshot failed", "db=%s error=%s", s->name, ms_log_q(q, sizeof q, r->err.msg));
	}
	if (n->asked)
		answer(s, r->txid, r->err.code == MS_OK ? NULL : &r->err);
	n->asked = false;
	s->hooks.changed(s->hooks.arg, s);
}

void ms_stream_snapshots_stepped(struct ms_stream *s, unsigned failed, bool damaged, bool all) {
	for (int i = 0; i < SNAPSHOTS_AT_ONCE; i++) {
		struct stream_snapshot *n = &s->snapshots_running[i];
		bool bad = failed & 1u << i;
		if (n->ended && !n->drop)
			ended(n);
		if (bad && !damaged)
			s->snapshot_retry_us = mono_us(s) + SNAPSHOT_RETRY_US;
		if (n->drop || bad || all)
			drop(n);
	}
}

/* The next chunk can be read: at once, not at the next poll of a quiet database. Or a run that was given up has gone. */
static void woke(void *arg) {
	struct ms_stream *s = ((struct stream_snapshot *)arg)->stream;
	if (s->workers_stopped)
		ms_stream_finish_stop(s);
	else
		ms_stream_poke(s);
}

static void done(void *arg, const struct ms_snapshot_result *r) {
	struct stream_snapshot *n = arg;
	struct ms_stream *s = n->stream;
	n->result = *r;
	n->ended = true;
	if (s->job_running) {
		s->again = true;
		return;
	}
	ended(n);
	ms_stream_poke(s);
}

static void slow(void *arg, struct ms_worker *w) {
	struct ms_stream *s = ((struct stream_snapshot *)arg)->stream;
	for (uint32_t i = 0; i < s->nworkers; i++) {
		struct ms_worker_status st;
		if (s->replicas[i]->worker != w)
			continue;
		ms_worker_status(w, &st);
		s->replicas[i]->slow = true;
		ms_log(MS_LOG_WARN, "replica is too slow for the others' snapshot: it gets one of its own", "db=%s replica=%s", s->name, st.name);
	}
}

static bool wants(struct ms_stream *s, uint32_t i) {
	struct ms_worker_status st;
	struct ms_worker *w = s->replicas[i]->worker;
	for (int k = 0; k < SNAPSHOTS_AT_ONCE; k++)
		if (s->snapshots_running[k].run && ms_snapshot_run_has(s->snapshots_running[k].run, w))
			return false;
	if (!ms_worker_snapshot_idle(w))
		return false;
	ms_worker_status(w, &st);
	if (st.state == MS_WORKER_FENCED || st.state == MS_WORKER_FAILED || st.state == MS_WORKER_STOPPED || st.state == MS_WORKER_RETRYING ||
	    st.state == MS_WORKER_CLAIMING)
		return false;
	/* Between the ends of a catch-up that is owed there must be no other point: it could not be gone on from. */
	if (ms_worker_owes(w))
		return false;
	if (ms_worker_waits_for_snapshot(w) || s->snapshot_wanted)
		return true;
	const struct ms_dbstate *db = &s->pub.state;
	if (st.last_snapshot_txid >= db->txid)
		return false; /* an idle database needs none */
	uint64_t bytes = ms_worker_bytes_since_snapshot(w), size = (uint64_t)db->db_pages * db->page_size;
	if (s->snapshot_share > 0 && bytes > SNAPSHOT_MIN_BYTES && (double)bytes > s->snapshot_share * (double)size)
		return true;
	return s->snapshot_interval_us > 0 && ms_env_now_us(s->env) - ms_worker_last_snapshot_us(w) >= s->snapshot_interval_us;
}

/* Is somebody about to want one? Not for long: a replica that does not answer is not waited for. */
static bool gathers(struct ms_stream *s) {
	bool claiming = false;
	for (uint32_t i = 0; i < s->nworkers; i++) {
		struct ms_worker_status st;
		ms_worker_status(s->replicas[i]->worker, &st);
		claiming = claiming || st.state == MS_WORKER_CLAIMING;
	}
	return claiming && mono_us(s) - s->snapshot_due_us < GATHER_US;
}

static struct stream_snapshot *begin(struct ms_stream *s, bool slow_ones, bool *ret_waits) {
	struct stream_snapshot *n = NULL;
	struct ms_worker *want[64];
	uint32_t count = 0;
	*ret_waits = false;
	for (uint32_t i = 0; i < s->nworkers && count < 64; i++)
		if (s->replicas[i]->slow == slow_ones && wants(s, i))
			want[count++] = s->replicas[i]->worker;
	if (!slow_ones)
		s->snapshot_due_us = !count ? 0 : s->snapshot_due_us ? s->snapshot_due_us : mono_us(s);
	if (!count || (!slow_ones && gathers(s)))
		return NULL;
	for (int i = 0; i < SNAPSHOTS_AT_ONCE && !n; i++)
		n = s->snapshots_running[i].run ? NULL : &s->snapshots_running[i];
	*ret_waits = !n;
	if (!n)
		return NULL;
	struct ms_err err = MS_ERR_INIT;
	struct ms_snapshot_hooks hooks = {done, woke, slow, n};
	if (ms_snapshot_run_new(s->env, s->journal, s->cap, want, count, s->compression, s->epoch, &hooks, &n->run, &err) != MS_OK) {
		char q[700];
		ms_log(MS_LOG_WARN, "snapshot failed", "db=%s error=%s", s->name, ms_log_q(q, sizeof q, err.msg));
		s->snapshot_retry_us = mono_us(s) + SNAPSHOT_RETRY_US;
		return NULL;
	}
	return n;
}

void ms_stream_snapshots_begin(struct ms_stream *s) {
	if (s->job_running || !s->cap || s->mode != MODE_FOLLOW || s->stopping || s->ended || s->paused || mono_us(s) < s->snapshot_retry_us)
		return;
	bool waits = false, ignored;
	struct stream_snapshot *fast = begin(s, false, &waits), *apart = begin(s, true, &ignored), *first = fast ? fast : apart;
	for (int i = 0; i < SNAPSHOTS_AT_ONCE; i++)
		if (s->snapshots_running[i].run)
			ms_snapshot_run_waited_for(s->snapshots_running[i].run, waits);
	if (!first)
		return;
	first->asked = first->asked || s->snapshot_wanted;
	s->snapshot_wanted = false;
	ms_stream_poke(s);
}

void ms_stream_snapshots_at_once(struct ms_stream *s) { s->snapshot_retry_us = 0; }

void ms_stream_snapshots_advance(struct ms_stream *s) {
	for (int i = 0; i < SNAPSHOTS_AT_ONCE; i++)
		if (s->snapshots_running[i].run)
			ms_snapshot_run_advance(s->snapshots_running[i].run);
}

void ms_stream_snapshots_durable(struct ms_stream *s, uint64_t seq) {
	for (int i = 0; i < SNAPSHOTS_AT_ONCE; i++)
		if (s->snapshots_running[i].run && !s->snapshots_running[i].ended)
			ms_snapshot_run_durable(s->snapshots_running[i].run, seq);
}

void ms_stream_snapshots_leave(struct ms_stream *s, struct ms_worker *w) {
	for (int i = 0; i < SNAPSHOTS_AT_ONCE; i++)
		if (s->snapshots_running[i].run && !s->snapshots_running[i].ended)
			ms_snapshot_run_leave(s->snapshots_running[i].run, w);
}

bool ms_stream_snapshots_under_way(const struct ms_stream *s) {
	bool any = false;
	for (int i = 0; i < SNAPSHOTS_AT_ONCE; i++)
		any = any || s->snapshots_running[i].run;
	return any;
}

bool ms_stream_snapshots_want_fill(const struct ms_stream *s) {
	bool want = false;
	for (int i = 0; i < SNAPSHOTS_AT_ONCE; i++)
		want = want || (s->snapshots_running[i].run && ms_snapshot_run_wants_fill(s->snapshots_running[i].run));
	return want;
}

uint64_t ms_stream_snapshots_need_seq(const struct ms_stream *s) {
	uint64_t need = UINT64_MAX;
	for (int i = 0; i < SNAPSHOTS_AT_ONCE; i++) {
		uint64_t n = s->snapshots_running[i].run ? ms_snapshot_run_needs_seq(s->snapshots_running[i].run) : UINT64_MAX;
		need = n < need ? n : need;
	}
	return need;
}

void ms_stream_snapshots_let_go(struct ms_stream *s, uint64_t before) {
	for (int i = 0; i < SNAPSHOTS_AT_ONCE; i++) {
		struct stream_snapshot *n = &s->snapshots_running[i];
		if (!n->run || ms_snapshot_run_needs_seq(n->run) >= before)
			continue;
		ms_log(MS_LOG_WARN, "snapshot given up: the journal behind it cannot be kept", "db=%s", s->name);
		drop(n);
	}
}

void ms_stream_snapshots_abandon(struct ms_stream *s) {
	for (int i = 0; i < SNAPSHOTS_AT_ONCE; i++)
		if (s->snapshots_running[i].run)
			ms_snapshot_run_abandon(s->snapshots_running[i].run);
	while (s->dropped)
		ms_snapshot_run_abandon(s->dropped);
}

/* ---- source job ---- */

void ms_stream_snapshots_touch(struct ms_stream *s, uint32_t pgno) {
	for (int i = 0; i < SNAPSHOTS_AT_ONCE; i++)
		if (s->snapshots_running[i].run)
			ms_snapshot_run_touch(s->snapshots_running[i].run, pgno);
}

enum ms_code ms_stream_snapshots_fill(struct ms_stream *s, uint64_t budget_us, unsigned *ret_failed, struct ms_err *err) {
	enum ms_code worst = MS_OK;
	*ret_failed = 0;
	for (int i = 0; i < SNAPSHOTS_AT_ONCE && !(worst == MS_ECORRUPT || worst == MS_EGAP); i++) {
		struct ms_snapshot_run *run = s->snapshots_running[i].run;
		enum ms_code rc = run && ms_snapshot_run_wants_fill(run) ? ms_snapshot_run_fill(run, s->source, budget_us, err) : MS_OK;
		if (!rc || rc == MS_EBUSY)
			continue;
		*ret_failed |= 1u << i;
		worst = rc;
	}
	return worst;
}
