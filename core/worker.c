/*
 * The worker's state machine (loop thread). Phases and what may follow:
 *
 *   NEW -> PROBING -> PROBED -> CLAIMING -> SHIPPING          (start may come before a probe has ended)
 *   CLAIMING, SHIPPING -> FENCED                              (refused, or another writer was met)
 *   SHIPPING -> CLAIMING                                      (back from an outage, the replica holds less than it did; or its driver says so)
 *   FENCED -> PROBING, CLAIMING                               (takeover)
 *   any -> STOPPED
 *
 * ms_worker_pump() looks at what is due and submits at most one main job; each job's done() takes its result and pumps again. A failure is
 * retried by its class; what no retry mends is tried again every minute all the same, and is loud meanwhile (state failed).
 */
#include "core/worker.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/crc.h"
#include "core/worker_internal.h"

#define SECOND_US UINT64_C(1000000)
#define FAILED_RETRY_US (60 * SECOND_US)
#define SAVE_RETRY_US (5 * SECOND_US)
#define DEFAULT_GRACE_US (INT64_C(600) * 1000000)

uint64_t ms_worker_mono_us(const struct ms_worker *w) { return ms_env_mono_ns(w->env) / 1000; }

static void set_phase(struct ms_worker *w, enum ms_phase to) {
	static const unsigned allowed[MS_PHASES] = {
		[MS_PHASE_NEW] = 1u << MS_PHASE_PROBING | 1u << MS_PHASE_CLAIMING | 1u << MS_PHASE_STOPPED,
		[MS_PHASE_PROBING] = 1u << MS_PHASE_PROBED | 1u << MS_PHASE_CLAIMING | 1u << MS_PHASE_STOPPED,
		[MS_PHASE_PROBED] = 1u << MS_PHASE_PROBING | 1u << MS_PHASE_CLAIMING | 1u << MS_PHASE_STOPPED,
		[MS_PHASE_CLAIMING] = 1u << MS_PHASE_SHIPPING | 1u << MS_PHASE_FENCED | 1u << MS_PHASE_STOPPED,
		[MS_PHASE_SHIPPING] = 1u << MS_PHASE_CLAIMING | 1u << MS_PHASE_FENCED | 1u << MS_PHASE_STOPPED,
		[MS_PHASE_FENCED] = 1u << MS_PHASE_PROBING | 1u << MS_PHASE_CLAIMING | 1u << MS_PHASE_STOPPED,
	};
	if (!(allowed[w->phase] & 1u << to))
		abort(); /* a broken state machine must not write to a replica */
	w->phase = to;
}

static void changed(struct ms_worker *w) {
	if (w->phase != MS_PHASE_STOPPED && w->hooks.changed)
		w->hooks.changed(w->hooks.arg, w);
}

void ms_worker_set_fenced(struct ms_worker *w, const struct ms_err *err) {
	struct ms_err e = *err;
	set_phase(w, MS_PHASE_FENCED);
	w->failed = false;
	w->retry_at_us = 0;
	ms_worker_note_error(w, &e);
	ms_worker_snap_fail(w, &e);
	ms_worker_catchup_end(w, &e);
	if (w->phase == MS_PHASE_FENCED && w->hooks.fenced)
		w->hooks.fenced(w->hooks.arg, w, &e);
}

/* ---- main job ---- */

void ms_task_release(struct ms_task *t) {
	ms_cursor_release(&t->cur);
	ms_view_release(&t->view);
	ms_retention_names_release(&t->removals);
}

static enum ms_code run_task(struct ms_worker *w, struct ms_task *t, struct ms_err *err) {
	struct ms_replica *r;
	enum ms_code rc;
	if (t->kind == MS_TASK_SAVE) {
		ms_task_save(w, t);
		return MS_OK;
	}
	if ((rc = ms_handle_open(w, &w->main, t->may_create, &r, err)))
		return rc;
	switch (t->kind) {
	case MS_TASK_PROBE:
		return ms_task_probe(w, t, r, err);
	case MS_TASK_CLAIM:
		return ms_task_claim(w, t, r, err);
	case MS_TASK_SHIP:
		return ms_task_ship(w, t, r, err);
	case MS_TASK_CATCHUP:
		return ms_task_catchup(w, t, r, err);
	case MS_TASK_CHECK:
		return ms_task_check(w, t, r, err);
	case MS_TASK_PLAN:
		return ms_task_plan(w, t, r, err);
	case MS_TASK_REMOVE:
		return ms_task_remove(w, t, r, err);
	case MS_TASK_SAVE:
		break;
	}
	return MS_OK;
}

static void main_run(void *arg) {
	struct ms_worker *w = arg;
	struct ms_task *t = &w->task;
	t->err = MS_ERR_INIT;
	enum ms_code rc = run_task(w, t, &t->err);
	if (!rc)
		t->err = MS_ERR_INIT; /* an error on the way that was overcome */
	else if (!t->err.code)
		(void)ms_err_set(&t->err, rc, "replica %s: %s", w->cfg.url, ms_code_name(rc));
}

static void main_done(void *arg);

static void submit(struct ms_worker *w, enum ms_task_kind kind) {
	struct ms_task *t = &w->task;
	struct ms_cursor cur;
	struct ms_err err = MS_ERR_INIT;
	if (ms_cursor_copy(&cur, &w->cur, &err)) {
		ms_worker_note_error(w, &err);
		w->env->ops->timer_start(w->timer, SECOND_US);
		return;
	}
	ms_cursor_release(&t->cur);
	t->cur = cur;
	t->kind = kind;
	t->have_cursor = w->have_cursor;
	t->epoch = w->epoch;
	t->head_generation = w->head_generation;
	t->part = w->part;
	t->owed = w->owed_info;
	t->folds = atomic_load(&w->folds);
	t->catchup = w->catchup;
	t->catchup_part = w->catchup_part;
	t->catchup_taken = t->less = false;
	t->troubles = w->troubles;
	t->check = w->troubles != w->troubles_seen;
	t->seen = false;
	t->saved = false;
	t->settles_at_once = w->phase == MS_PHASE_SHIPPING && w->caps.settle_us <= 0;
	t->save_version = w->save_version;
	t->save_err = MS_ERR_INIT;
	t->takeover = w->takeover;
	t->snapshot_generation = w->snapshot_generation;
	t->may_create = !w->ever_claimed;
	t->local = w->local;
	t->shipped_segment = t->shipped_generation = t->nothing = t->more = false;
	t->want_reason = NULL;
	t->put_bytes = t->record_bytes = 0;
	t->put_us = 0;
	t->removed = 0;
	t->now_us = ms_env_now_us(w->env);
	t->segment_bytes = ms_worker_segment_bytes(w);
	t->retention_us = w->cfg.snapshot_retention_us;
	t->spacing_us = w->cfg.snapshot_spacing_us;
	t->grace_us = w->cfg.removal_grace_us ? w->cfg.removal_grace_us : DEFAULT_GRACE_US;
	t->keep_chunks = w->snap_running;
	if (kind == MS_TASK_REMOVE) {
		ms_retention_names_release(&t->removals);
		t->removals = w->removals;
		w->removals = (struct ms_retention_names){0};
	}
	w->main_busy = true;
	w->main_job = (struct ms_job){.run = main_run, .done = main_done, .arg = w};
	w->env->ops->submit(w->env, MS_LANE_UPLOAD, &w->main_job);
}

static void saved(struct ms_worker *w, const struct ms_task *t) {
	if (t->saved) {
		w->durable_seq = t->cur.seq;
		if (t->save_version == w->save_version)
			w->save_owed = false;
	} else if (t->save_err.code) {
		w->save_owed = true;
		w->save_at_us = ms_worker_mono_us(w) + SAVE_RETRY_US;
		ms_worker_note_error(w, &t->save_err);
	}
}

void ms_worker_want_snapshot(struct ms_worker *w, enum ms_cursor_base base, const char *reason) {
	w->cur.base = base;
	if (!w->waits_since_us)
		w->waits_since_us = w->cur.state.time_us > 0 && base == MS_BASE_WANTED ? w->cur.state.time_us
				    : w->local.state.time_us > 0		       ? w->local.state.time_us
										       : ms_env_now_us(w->env);
	if (w->hooks.need_snapshot)
		w->hooks.need_snapshot(w->hooks.arg, w, reason);
}

static void report_probe(struct ms_worker *w, const struct ms_err *err) {
	struct ms_probe p = {.reachable = !err, .err = err ? *err : MS_ERR_INIT};
	const struct ms_view *v = &w->task.view;
	if (w->probe_reported)
		return;
	w->probe_reported = true;
	w->env->ops->timer_stop(w->probe_timer);
	if (!err) {
		p.empty = !v->has_head;
		p.head = v->head;
		p.same_owner = v->has_head && strcmp(v->head.owner, w->cfg.owner) == 0;
		if (v->has_tail)
			p.tail = v->tail;
		p.tail_is_snapshot = v->tail_is_snapshot;
	}
	if (w->phase == MS_PHASE_PROBING)
		set_phase(w, MS_PHASE_PROBED);
	if (w->hooks.probed)
		w->hooks.probed(w->hooks.arg, w, &p);
}

static void claim_done(struct ms_worker *w, struct ms_task *t) {
	const struct ms_claim_out *o = &t->claim;
	uint64_t seq = w->cur.seq;
	set_phase(w, MS_PHASE_SHIPPING);
	w->claimed = w->ever_claimed = true;
	w->cur.base = t->cur.base;
	w->cur.snapshot_txid = t->cur.snapshot_txid;
	w->cur.snapshot_us = t->cur.snapshot_us;
	ms_worker_take_position(w, t);
	w->part = (struct ms_part){0};
	w->catchup_part = 0;
	struct ms_replica *r = atomic_load(&w->main.r);
	if (r)
		ms_replica_caps(r, &w->caps);
	ms_worker_note_caps(w);
	ms_worker_settle_claimed(w);
	if (seq != w->cur.seq)
		w->only_snapshot[0] = '\0'; /* that was about another position */
	if (w->scan_seq < w->cur.seq || seq != w->cur.seq)
		ms_worker_scan_reset(w);
	ms_worker_plan_prune(w);
	bool again = w->lost.code && w->cur.base == MS_BASE_THERE;
	if (again)
		w->cur.base = MS_BASE_WANTED;
	w->lost = MS_ERR_INIT;
	if (w->cur.base == MS_BASE_THERE)
		w->waits_since_us = 0;
	else
		ms_worker_want_snapshot(w, w->cur.base, o->reason[0] ? o->reason : again ? "the replica has lost objects" : "the replica has no snapshot yet");
	ms_worker_owed_settle(w);
	if (w->scan_seq < w->owed_info.next_seq)
		w->scan_seq = w->owed_info.next_seq;
}

static void count_put(struct ms_worker *w, const struct ms_task *t) {
	w->cur.bytes_since_snapshot += t->record_bytes;
	w->st.puts++;
	w->st.segments++;
	w->st.put_bytes += t->put_bytes;
	w->st.put_us_total += (uint64_t)t->put_us;
	w->st.last_uploaded_us = ms_env_now_us(w->env);
}

static void catchup_done(struct ms_worker *w, struct ms_task *t) {
	struct ms_err err = MS_ERR_INIT;
	uint64_t before = w->cur.state.txid;
	ms_worker_take_position(w, t);
	ms_worker_settle(w);
	w->catchup_part = t->catchup_part;
	if (t->shipped_segment)
		count_put(w, t);
	if (w->cur.state.txid > before + 1) {
		w->fold_generation = w->cur.generation;
		w->st.catchups++;
		w->st.folded_commits += w->cur.state.txid - before;
		w->st.folded_first = before + 1;
		w->st.folded_last = w->cur.state.txid;
	}
	if (w->scan_seq < w->cur.seq)
		ms_worker_scan_reset(w);
	ms_worker_waiting_passed(w);
	ms_worker_owed_settle(w);
	ms_worker_mind_fold(w);
	if (t->catchup_taken)
		(void)ms_err_set(&err, MS_ECANCELED, "replica %s held more of the catch-up than was known", w->cfg.url);
	ms_worker_catchup_end(w, &err);
}

static void ship_done(struct ms_worker *w, struct ms_task *t) {
	ms_worker_take_position(w, t);
	ms_worker_settle(w);
	if (t->shipped_segment)
		count_put(w, t);
	w->more = t->more;
	w->catchup_part = 0;
	if (t->nothing) {
		/* What the scan took for something was none (an error it met, which is gone). */
		w->nwaiting = 0;
	}
	ms_worker_waiting_passed(w);
	ms_worker_owed_settle(w);
	if (t->want_reason)
		ms_worker_want_snapshot(w, MS_BASE_WANTED, t->want_reason);
}

/* Wiped, or put back to an older copy: what is done about it is decided as at a start. */
static void claim_again(struct ms_worker *w, const struct ms_err *e) {
	struct ms_cursor copy = {0};
	ms_worker_note_error(w, e);
	ms_worker_catchup_end(w, &(struct ms_err){MS_ECANCELED, 0, "the replica holds less than it did"});
	if (ms_cursor_copy(&copy, &w->cur, NULL))
		return; /* out of memory: the next try meets the same */
	free(w->local.lineage);
	w->local.lineage = copy.lineage;
	w->local.nlineage = copy.nlineage;
	w->local.generation = copy.generation;
	w->local.state = copy.state;
	w->claimed = false;
	w->part = (struct ms_part){0};
	set_phase(w, MS_PHASE_CLAIMING);
}

/* The driver knows that something is gone, not what: a snapshot under way may rest on it, and so may the newest ones. */
static void lost(struct ms_worker *w) {
	w->st.retries++;
	if (w->snap_running)
		w->snap_spoilt = true;
	ms_worker_snap_fail(w, &w->lost);
	claim_again(w, &w->lost);
}

static void task_failed(struct ms_worker *w, struct ms_task *t) {
	struct ms_err e = t->err;
	if (t->kind == MS_TASK_REMOVE) { /* to be removed later */
		ms_retention_names_release(&w->removals);
		w->removals = t->removals;
		t->removals = (struct ms_retention_names){0};
	}
	if (e.code == MS_EFENCED && (w->phase == MS_PHASE_CLAIMING || w->phase == MS_PHASE_SHIPPING) && t->kind != MS_TASK_PROBE) {
		ms_worker_set_fenced(w, &e);
		return;
	}
	if (t->less) {
		claim_again(w, &e);
		return;
	}
	if (e.code == MS_ELOST && w->phase == MS_PHASE_SHIPPING) {
		w->lost = e;
		return;
	}
	/* The journal went on without it meanwhile: what it lacks is owed. */
	if (e.code == MS_EGAP && t->kind == MS_TASK_SHIP && t->folds != atomic_load(&w->folds)) {
		w->nwaiting = 0;
		w->scan_durable = 0;
		return;
	}
	if (e.code == MS_EGAP && t->kind == MS_TASK_SHIP) {
		/* What the replica lacks is gone from the journal: a snapshot carries on from here. */
		ms_worker_note_error(w, &e);
		w->nwaiting = 0;
		w->part = (struct ms_part){0};
		w->save_owed = true;
		w->save_version++;
		w->save_at_us = 0;
		ms_worker_want_snapshot(w, MS_BASE_JUMP, e.msg);
		return;
	}
	if (e.code == MS_ECANCELED && w->deadline)
		return;
	w->st.put_failures += t->kind == MS_TASK_SHIP || t->kind == MS_TASK_CATCHUP;
	w->st.retries++;
	ms_worker_note_failure(w, &w->failing_at_us, &e);
	if (e.code == MS_ENOMEM || e.code == MS_EBUSY || e.code == MS_ECANCELED)
		e.code = MS_ERETRY;
	int64_t wait = ms_retry_failed(&w->retry, w->env, &e);
	w->failed = wait < 0;
	w->retry_at_us = ms_worker_mono_us(w) + (w->failed ? FAILED_RETRY_US : (uint64_t)wait);
	if (t->kind == MS_TASK_PROBE && w->failed)
		report_probe(w, &e);
	/* By the time of the next try there may be newer pages to put. */
	if (t->kind == MS_TASK_CATCHUP)
		ms_worker_catchup_end(w, &t->err);
}

static void task_ok(struct ms_worker *w, struct ms_task *t) {
	if (t->kind != MS_TASK_SAVE) {
		ms_retry_ok(&w->retry);
		w->failed = false;
		w->retry_at_us = w->failing_at_us = 0;
		if (!w->snap_failing_at_us)
			w->st.last_error[0] = '\0';
	}
	saved(w, t);
	if (t->seen || t->kind == MS_TASK_CLAIM)
		w->troubles_seen = t->troubles;
	switch (t->kind) {
	case MS_TASK_PROBE:
		if (w->phase == MS_PHASE_PROBING)
			report_probe(w, NULL);
		break;
	case MS_TASK_CLAIM:
		claim_done(w, t);
		break;
	case MS_TASK_SHIP:
		ship_done(w, t);
		break;
	case MS_TASK_CATCHUP:
		catchup_done(w, t);
		break;
	case MS_TASK_CHECK:
		ms_worker_settle_checked(w);
		ms_worker_owed_settle(w);
		break;
	case MS_TASK_SAVE:
		ms_worker_owed_settle(w);
		break;
	case MS_TASK_PLAN:
		w->cur.head_number = t->cur.head_number;
		ms_retention_names_release(&w->removals);
		w->removals = t->removals;
		w->remove_after_us = t->remove_after_us;
		t->removals = (struct ms_retention_names){0};
		w->prune_at_us = w->cfg.check_interval_us > 0 ? ms_worker_mono_us(w) + (uint64_t)w->cfg.check_interval_us : 0;
		break;
	case MS_TASK_REMOVE:
		w->st.removals += t->removed;
		break;
	}
}

static void main_done(void *arg) {
	struct ms_worker *w = arg;
	struct ms_task *t = &w->task;
	w->main_busy = false;
	if (w->phase == MS_PHASE_STOPPED)
		return;
	if (t->err.code)
		task_failed(w, t);
	else
		task_ok(w, t);
	changed(w);
	ms_worker_scan(w);
	ms_worker_pump(w);
}

/* ---- what is due ---- */

static void say_stopped(void *arg) {
	struct ms_worker *w = arg;
	w->stopped(w->stopped_arg);
}

static bool may_finish(const struct ms_worker *w) {
	if (w->main_busy || ms_worker_snap_busy(w) || w->scan_busy || w->fold_busy)
		return false;
	if (w->deadline || w->failed || w->phase == MS_PHASE_FENCED || w->phase == MS_PHASE_NEW || w->phase == MS_PHASE_PROBED ||
	    w->phase == MS_PHASE_PROBING)
		return true;
	return w->phase == MS_PHASE_SHIPPING && (w->cur.base == MS_BASE_JUMP || ms_worker_owes(w) || (!w->nwaiting && ms_worker_scan_idle(w) && !w->part.part)) && !w->save_owed;
}

static void finish_stop(struct ms_worker *w) {
	ms_worker_snap_fail(w, &(struct ms_err){MS_ECANCELED, 0, "stopped"});
	ms_worker_catchup_end(w, &(struct ms_err){MS_ECANCELED, 0, "stopped"});
	set_phase(w, MS_PHASE_STOPPED);
	w->env->ops->timer_stop(w->timer);
	w->env->ops->timer_stop(w->probe_timer);
	w->env->ops->timer_stop(w->stop_timer);
	ms_handle_close(&w->main);
	ms_worker_snap_release(w);
	w->env->ops->post(w->env, say_stopped, w);
}

static bool ship_due(struct ms_worker *w, uint64_t now, uint64_t *next) {
	if (w->cur.base == MS_BASE_JUMP)
		return false;
	if (strcmp(w->cur.generation.s, w->head_generation.s) != 0)
		return true;
	if (ms_worker_owes(w)) {
		w->part = (struct ms_part){0};
		return false;
	}
	if (w->part.part)
		return true;
	if (!w->nwaiting)
		return false;
	if (w->more || w->stopping || !w->last_segment_us || w->cfg.min_interval_us <= 0 || ms_worker_waiting_bytes(w) >= ms_worker_segment_bytes(w))
		return true;
	for (uint32_t i = 0; i < w->nwaiting; i++)
		if (w->waiting[i].generation)
			return true;
	uint64_t due = w->last_segment_us + (uint64_t)w->cfg.min_interval_us;
	if (now >= due)
		return true;
	*next = due < *next ? due : *next;
	return false;
}

static void pump_shipping(struct ms_worker *w, uint64_t now, uint64_t *next) {
	int64_t wall = ms_env_now_us(w->env);
	if (w->save_owed && now >= w->save_at_us) {
		submit(w, MS_TASK_SAVE);
		return;
	}
	if (w->save_owed)
		*next = w->save_at_us;
	uint64_t look = ms_worker_look_due_us(w);
	if (now >= look) {
		ms_worker_looking(w);
		submit(w, MS_TASK_CHECK);
		return;
	}
	*next = look < *next ? look : *next;
	if (ship_due(w, now, next)) {
		w->last_segment_us = now ? now : 1;
		submit(w, MS_TASK_SHIP);
		return;
	}
	if (w->catchup && !w->stopping) {
		submit(w, MS_TASK_CATCHUP);
		return;
	}
	if (w->stopping)
		return;
	if (w->removals.n && wall >= w->remove_after_us && !ms_worker_snap_busy(w)) {
		submit(w, MS_TASK_REMOVE);
		return;
	}
	if (w->removals.n && wall < w->remove_after_us && now + (uint64_t)(w->remove_after_us - wall) < *next)
		*next = now + (uint64_t)(w->remove_after_us - wall);
	if (w->prune_at_us && !w->removals.n) {
		if (now >= w->prune_at_us) {
			submit(w, MS_TASK_PLAN);
			return;
		}
		*next = w->prune_at_us < *next ? w->prune_at_us : *next;
	}
}

void ms_worker_pump(struct ms_worker *w) {
	uint64_t next = UINT64_MAX;
	if (w->phase == MS_PHASE_STOPPED)
		return;
	ms_worker_snap_pump(w);
	if (w->stopping && may_finish(w)) {
		finish_stop(w);
		return;
	}
	if (w->main_busy || w->deadline)
		return;
	uint64_t now = ms_worker_mono_us(w);
	uint64_t scan = ms_worker_scan_due_us(w);
	if (w->retry_at_us > now)
		next = w->retry_at_us;
	else if (w->phase == MS_PHASE_PROBING)
		submit(w, MS_TASK_PROBE);
	else if (w->phase == MS_PHASE_CLAIMING && !w->fold_busy) /* which decides what there is to go on from */
		submit(w, MS_TASK_CLAIM);
	else if (w->phase == MS_PHASE_SHIPPING && w->lost.code) {
		lost(w);
		if (w->phase == MS_PHASE_CLAIMING)
			submit(w, MS_TASK_CLAIM);
		else
			next = now + SECOND_US;
	} else if (w->phase == MS_PHASE_SHIPPING)
		pump_shipping(w, now, &next);
	next = scan < next ? scan : next;
	if (!w->main_busy && next != UINT64_MAX)
		w->env->ops->timer_start(w->timer, next > now ? next - now : 1);
}

static void on_timer(void *arg) {
	ms_worker_scan(arg);
	ms_worker_pump(arg);
}

static void on_probe_timer(void *arg) {
	struct ms_worker *w = arg;
	struct ms_err e = MS_ERR_INIT;
	(void)ms_err_set(&e, MS_ETIMEDOUT, "replica %s did not answer in time%s%s", w->cfg.url, w->st.last_error[0] ? ": " : "", w->st.last_error);
	ms_worker_note_error(w, &e);
	report_probe(w, &e);
	ms_worker_pump(w);
}

static void on_deadline(void *arg) {
	struct ms_worker *w = arg;
	w->deadline = true;
	ms_handle_cancel(&w->main);
	ms_worker_snap_cancel(w);
	ms_worker_snap_fail(w, &(struct ms_err){MS_ECANCELED, 0, "stopped"});
	ms_worker_pump(w);
}

/* ---- interface ---- */

enum ms_code ms_worker_new(struct ms_env *env, struct ms_journal *j, const struct ms_worker_config *cfg, const struct ms_worker_hooks *hooks,
			   struct ms_worker **ret, struct ms_err *err) {
	struct ms_worker *w = calloc(1, sizeof *w);
	struct ms_err e = MS_ERR_INIT;
	if (!w)
		return ms_err_set(err, MS_ENOMEM, "replica worker");
	w->env = env;
	w->journal = j;
	w->hooks = *hooks;
	w->takeover = cfg->takeover;
	ms_throttle_init(&w->throttle, env, cfg->bandwidth);
	enum ms_code rc = ms_worker_config_copy(w, cfg, err);
	if (rc)
		goto fail;
	w->timer = env->ops->timer_new(env, on_timer, w);
	w->probe_timer = env->ops->timer_new(env, on_probe_timer, w);
	w->stop_timer = env->ops->timer_new(env, on_deadline, w);
	if (!w->timer || !w->probe_timer || !w->stop_timer) {
		rc = ms_err_set(err, MS_ENOMEM, "replica worker");
		goto fail;
	}
	if ((rc = ms_worker_snap_init(w, err)))
		goto fail;
	rc = ms_cursor_load(env, w->cfg.state_path, &w->cur, &e);
	/* The same name for another place: a new replica, whatever the one before it held. */
	uint64_t place = ms_crc64(0, w->cfg.url, strlen(w->cfg.url));
	if (rc == MS_OK && w->cur.place && w->cur.place != place) {
		ms_cursor_release(&w->cur);
		rc = MS_ENOTFOUND;
	}
	w->cur.place = place;
	if (rc == MS_OK) {
		w->have_cursor = true;
		w->durable_seq = w->cur.base == MS_BASE_JUMP ? UINT64_MAX : w->cur.seq;
		w->scan_seq = w->cur.seq;
		w->epoch = w->cur.epoch;
	} else if (rc != MS_ENOTFOUND && rc != MS_ECORRUPT) {
		rc = ms_err_set(err, rc, "%s", e.msg);
		goto fail;
	}
	w->ever_claimed = rc != MS_ENOTFOUND;
	if ((rc = ms_worker_owed_load(w, err)))
		goto fail;
	if (w->scan_seq < w->owed_info.next_seq)
		w->scan_seq = w->owed_info.next_seq;
	*ret = w;
	return MS_OK;
fail:
	ms_worker_free(w);
	return rc;
}

void ms_worker_free(struct ms_worker *w) {
	if (!w)
		return;
	if (w->env) {
		w->env->ops->timer_free(w->timer);
		w->env->ops->timer_free(w->probe_timer);
		w->env->ops->timer_free(w->stop_timer);
	}
	ms_throttle_release(&w->throttle);
	ms_handle_close(&w->main);
	ms_worker_snap_release(w);
	ms_task_release(&w->task);
	ms_cursor_release(&w->cur);
	ms_owed_release(&w->owed);
	free(w->owed_path);
	ms_retention_names_release(&w->removals);
	free(w->local.lineage);
	free(w->waiting);
	free(w->scan.v);
	ms_worker_config_release(w);
	free(w);
}

void ms_worker_probe(struct ms_worker *w, int64_t timeout_us) {
	set_phase(w, MS_PHASE_PROBING);
	w->probe_reported = false;
	w->failed = false;
	w->retry_at_us = 0;
	ms_retry_ok(&w->retry);
	w->env->ops->timer_start(w->probe_timer, timeout_us > 0 ? (uint64_t)timeout_us : 0);
	ms_worker_pump(w);
}

void ms_worker_start(struct ms_worker *w, const struct ms_local_facts *local) {
	struct ms_lineage *copy = calloc((size_t)local->nlineage + 1, sizeof *copy);
	if (!copy)
		abort(); /* a few dozen bytes */
	if (local->nlineage)
		memcpy(copy, local->lineage, local->nlineage * sizeof *copy);
	free(w->local.lineage);
	w->local = *local;
	w->local.lineage = copy;
	w->probe_reported = true;
	w->env->ops->timer_stop(w->probe_timer);
	set_phase(w, MS_PHASE_CLAIMING);
	if (!w->have_cursor)
		w->waits_since_us = local->state.time_us > 0 ? local->state.time_us : ms_env_now_us(w->env);
	ms_worker_scan(w);
	ms_worker_pump(w);
}

void ms_worker_kick(struct ms_worker *w) { on_timer(w); }

bool ms_worker_waits_for_snapshot(const struct ms_worker *w) {
	return w->phase == MS_PHASE_SHIPPING ? w->cur.base != MS_BASE_THERE : !w->have_cursor || w->cur.base != MS_BASE_THERE;
}

bool ms_worker_caught_up(const struct ms_worker *w) {
	return w->phase == MS_PHASE_SHIPPING && w->cur.base == MS_BASE_THERE && !ms_worker_owes(w) && !w->nwaiting && !w->part.part && ms_worker_scan_idle(w) &&
	       strcmp(w->cur.generation.s, w->head_generation.s) == 0;
}

uint64_t ms_worker_bytes_since_snapshot(const struct ms_worker *w) { return w->cur.bytes_since_snapshot; }

int64_t ms_worker_last_snapshot_us(const struct ms_worker *w) { return w->cur.snapshot_us; }

void ms_worker_allow_takeover(struct ms_worker *w) {
	w->takeover = true;
	if (w->phase == MS_PHASE_FENCED && w->local.generation.s[0] && !w->stopping) {
		set_phase(w, MS_PHASE_CLAIMING);
		ms_worker_pump(w);
	}
}

void ms_worker_prune_now(struct ms_worker *w) {
	w->prune_at_us = 1;
	ms_worker_pump(w);
}

void ms_worker_stop(struct ms_worker *w, int64_t deadline_us, void (*stopped)(void *arg), void *arg) {
	w->stopping = true;
	w->stopped = stopped;
	w->stopped_arg = arg;
	ms_worker_catchup_end(w, &(struct ms_err){MS_ECANCELED, 0, "stopped"});
	ms_worker_snap_fail(w, &(struct ms_err){MS_ECANCELED, 0, "stopped"});
	if (deadline_us <= 0) {
		on_deadline(w);
		return;
	}
	w->env->ops->timer_start(w->stop_timer, (uint64_t)deadline_us);
	ms_worker_scan(w);
	ms_worker_pump(w);
}
